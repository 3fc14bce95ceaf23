"""Workflows that a server offers: official templates, those of node packs, and the user's saved ones. Level 2."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from comfyskill.base import safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.base.json_in import parse, text_of
from comfyskill.server.transport import Server, stream

MAX_ANSWER = 64 * 1024 * 1024


def template(server: Server, name: str) -> tuple[Any, list[str]]:
    """A template by name (`PACK/NAME` for one of a node pack): its JSON and notes on mended parts.

    Raises:
        SkillError: (exit 2) no such template, with the nearest names.
    """
    pack, _, title = _clean(name, "template").rpartition("/")
    path = (
        f"workflow_templates/{quote(pack, safe='')}/{quote(title)}.json"
        if pack
        else f"templates/{quote(title)}.json"
    )
    try:
        return _fetch(server, path, f"template {name!r}")
    except SkillError as error:
        raise _not_found(error, "template", name, lambda: template_names(server)) from error


def saved(server: Server, name: str) -> tuple[Any, list[str]]:
    """A workflow that a user saved on the server, by name with its folders: its JSON and notes on mended parts.

    Raises:
        SkillError: (exit 2) no such workflow, with the nearest names.
    """
    title = _clean(name, "server")
    path = "userdata/" + quote(f"workflows/{title}.json", safe="")
    try:
        return _fetch(server, path, f"saved workflow {name!r}")
    except SkillError as error:
        raise _not_found(error, "server", name, lambda: saved_names(server)) from error


def template_names(server: Server) -> list[str]:
    """The templates a server offers: official ones by name, those of node packs as PACK/NAME.

    Raises:
        SkillError: the server could not be asked, or has no templates at all.
    """
    names: list[str] = []
    index = server.get_json("templates/index.json")
    for group in index if isinstance(index, list) else []:
        members = group.get("templates") if isinstance(group, Mapping) else None
        for entry in members if isinstance(members, list) else []:
            if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
                names.append(entry["name"])
    packs = server.get_json("workflow_templates")
    for pack, titles in packs.items() if isinstance(packs, Mapping) else ():
        names += (
            [f"{pack}/{title}" for title in titles if isinstance(title, str)]
            if isinstance(titles, list)
            else []
        )
    return names


def saved_names(server: Server) -> list[str]:
    """The names (folders with `/`, without `.json`) of the workflows saved on a server; [] when there are none.

    Raises:
        SkillError: the server could not be asked.
    """
    try:
        files = server.get_json("userdata", params={"dir": "workflows", "recurse": "true"})
    except SkillError as error:
        # The folder comes into being with the first workflow that is saved.
        if error.code == "not_found":
            return []
        raise
    paths = [
        str(entry.get("path", "")) if isinstance(entry, Mapping) else str(entry) for entry in files or []
    ]
    return [path.replace("\\", "/").removesuffix(".json") for path in paths if path.endswith(".json")]


def _clean(name: str, kind: str) -> str:
    title = name.strip().strip("/").removesuffix(".json")
    if not title or any(part in ("", ".", "..") for part in title.split("/")) or "\\" in title:
        raise SkillError(
            f"{kind}:{name} names no workflow",
            code="misuse",
            hint=f"write {kind}:NAME, as the server lists it",
        )
    return title


def _fetch(server: Server, path: str, what: str) -> tuple[Any, list[str]]:
    response = server.request("GET", path, stream=True)
    data = bytearray()
    with response:
        for piece in stream(response):
            data += piece
            if len(data) > MAX_ANSWER:
                raise SkillError(
                    f"the {what} is larger than {MAX_ANSWER >> 20} MB", code="too_large", exit=Exit.MISUSE
                )
    origin = f"{what} of {server.url}"
    return parse(text_of(bytes(data), origin), origin)


def _not_found(error: SkillError, kind: str, name: str, names: Any) -> SkillError:
    """The same failure, but a missing workflow becomes our caller's misuse, with names that exist."""
    if error.code != "not_found":
        return error
    try:
        known = names()
    except SkillError:
        known = []
    near = difflib.get_close_matches(name, known, 5, 0.4) or [
        item for item in known if name.lower() in item.lower()
    ]
    what = "template" if kind == "template" else "saved workflow"
    if near:
        hint = f"did you mean {safe_text.quoted_list([f'{kind}:{item}' for item in near], 5)}?"
    elif known:
        hint = f"it offers {len(known)}, such as {safe_text.quoted_list(known[:5])}"
    else:
        hint = "it offers none, or does not say which"
    return SkillError(
        f"the server has no {what} {safe_text.quoted(name)}",
        code="no_such_workflow",
        exit=Exit.MISUSE,
        hint=hint,
    )
