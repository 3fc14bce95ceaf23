"""Workflows that a server has: its templates, the workflows saved on it, and its subgraph blueprints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Misuse, SkillError
from comfyskill.base.json_in import parse, text_of
from comfyskill.graph.nearest import nearest
from comfyskill.server import transport
from comfyskill.server.protocol import Dialect
from comfyskill.server.transport import stream

MAX_ANSWER = 64 * 1024 * 1024

# A workflow's JSON, and notes on parts of it that were repaired.
Fetched = tuple[object, list[str]]


class Kind(NamedTuple):
    """One kind of workflow on a server: what messages call it, how one is fetched, which names there are."""

    what: str
    fetch: Callable[[Dialect, str], Fetched]
    names: Callable[[Dialect], list[str]]


class Blueprint(NamedTuple):
    """A subgraph that a server offers; `pack` is the node pack that it comes from."""

    id: str
    name: str
    pack: str


def fetch(server: Dialect, kind: str, name: str) -> Fetched:
    """The workflow of a name; `kind` is a key of `KINDS`.

    Raises:
        SkillError: (exit 2) no such workflow, with the nearest names.
    """
    try:
        return KINDS[kind].fetch(server, name)
    except SkillError as error:
        if error.code != "not_found":
            raise
        raise _missing(server, kind, name) from error


def template_names(server: Dialect) -> list[str]:
    """The templates a server offers: official ones by name, those of node packs as PACK/NAME.

    Raises:
        SkillError: the server cannot be reached, or has no templates.
    """
    names = [
        foreign.text(entry.get("name"))
        for group in foreign.mappings(server.template_index())
        for entry in foreign.mappings(group.get("templates"))
    ]
    packs = foreign.mapping(server.get_json("workflow_templates"))
    names += [
        f"{pack}/{title}"
        for pack, titles in packs.items()
        for title in foreign.items(titles)
        if isinstance(title, str)
    ]
    return [name for name in names if name]


def saved_names(server: Dialect) -> list[str]:
    """The names (folders with `/`, without `.json`) of the workflows saved on a server; [] when there are none.

    Raises:
        SkillError: the server cannot be reached.
    """
    try:
        files = server.get_json("userdata", params={"dir": "workflows", "recurse": "true"})
    except SkillError as error:
        # The server creates the folder when the first workflow is saved.
        if error.code == "not_found":
            return []
        raise
    paths = [
        str(entry.get("path", "")) if isinstance(entry, Mapping) else str(entry)
        for entry in foreign.items(files)
    ]
    return [path.replace("\\", "/").removesuffix(".json") for path in paths if path.endswith(".json")]


def blueprints(server: Dialect) -> list[Blueprint]:
    """The subgraph blueprints that a server offers, by name.

    Raises:
        SkillError: the server cannot be reached, or has no such list.
    """
    listed = foreign.mapping(server.get_json("global_subgraphs"))
    found = [
        Blueprint(
            str(identity),
            foreign.text(entry.get("name")),
            foreign.text(foreign.mapping(entry.get("info")).get("node_pack")).removeprefix("custom_nodes."),
        )
        for identity, entry in listed.items()
        if isinstance(entry, Mapping)
    ]
    return sorted(found, key=lambda blueprint: (blueprint.name.lower(), blueprint.pack))


def blueprint_names(server: Dialect) -> list[str]:
    """The names of the blueprints that a server offers."""
    return [blueprint.name for blueprint in blueprints(server)]


def _template(server: Dialect, name: str) -> Fetched:
    """A template by name, or `PACK/NAME` for one of a node pack."""
    pack, _, title = _clean(name, "template").rpartition("/")
    folder = f"workflow_templates/{quote(pack, safe='')}" if pack else "templates"
    return _read(server, f"{folder}/{quote(title)}.json", f"template {name!r}")


def _saved(server: Dialect, name: str) -> Fetched:
    """A workflow that is saved on the server, by name with its folders."""
    path = "userdata/" + quote(f"workflows/{_clean(name, 'server')}.json", safe="")
    return _read(server, path, f"saved workflow {name!r}")


def _blueprint(server: Dialect, name: str) -> Fetched:
    """A blueprint by name, `PACK/NAME` or id."""
    known = blueprints(server)
    found = [entry for entry in known if name in (entry.id, entry.name, f"{entry.pack}/{entry.name}")]
    found = found or [entry for entry in known if entry.name.lower() == name.lower()]
    if not found:
        raise _missing(server, "subgraph", name)
    if len(found) > 1:
        packs = {entry.pack for entry in found}
        names = [f"subgraph:{entry.pack}/{entry.name}" for entry in found]
        if len(packs) < len(found):
            names = [f"subgraph:{entry.id}" for entry in found]
        raise Misuse(
            f"the server has {len(found)} blueprints of the name {safe_text.quoted(name)}",
            code="ambiguous",
            hint=f"give one of {safe_text.quoted_list(names)}",
        )
    what = f"blueprint {name!r}"
    document, notes = _read(server, f"global_subgraphs/{quote(found[0].id, safe='')}", what)
    data = foreign.text(foreign.mapping(document).get("data"))
    value, more = parse(data, f"{what} of {server.url}")
    return value, notes + more


KINDS = {
    "template": Kind("template", _template, template_names),
    "server": Kind("saved workflow", _saved, saved_names),
    "subgraph": Kind("blueprint", _blueprint, blueprint_names),
}


def _clean(name: str, kind: str) -> str:
    title = name.strip().strip("/").removesuffix(".json")
    if not title or any(part in ("", ".", "..") for part in title.split("/")) or "\\" in title:
        raise Misuse(
            f"{kind}:{name} is not a workflow name",
            hint=f"write {kind}:NAME, as the server lists it",
        )
    return title


def _read(server: Dialect, path: str, what: str) -> Fetched:
    response = server.open_stream(path, attempts=transport.ATTEMPTS)
    data = bytearray()
    with response:
        for piece in stream(response):
            data += piece
            if len(data) > MAX_ANSWER:
                raise Misuse(f"the {what} is larger than {MAX_ANSWER >> 20} MB", code="too_large")
    origin = f"{what} of {server.url}"
    return parse(text_of(bytes(data), origin), origin)


def _missing(server: Dialect, kind: str, name: str) -> SkillError:
    """The failure (exit 2) for a workflow that the server does not have, with names that it has."""
    try:
        known = KINDS[kind].names(server)
    except SkillError as error:
        if error.code == "templates_broken":
            raise
        known = []
    near = nearest(name, known, 5)
    if near:
        hint = f"did you mean {safe_text.quoted_list([f'{kind}:{item}' for item in near], 5)}?"
    elif known:
        hint = f"it offers {len(known)}, such as {safe_text.quoted_list(known[:5])}"
    else:
        hint = "it offers none, or does not list them"
    return Misuse(
        f"the server has no {KINDS[kind].what} {safe_text.quoted(name)}",
        code="no_such_workflow",
        hint=hint,
        **({"nearest": near} if near else {}),
    )
