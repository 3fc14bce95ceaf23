"""Which settings name files, and the graph values that stand for them once they are uploaded.

Level 3. A picture's mask is applied to the picture that the same call gives, else to the one in the graph.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from _cli import Exit, SkillError
from _dialect import FileRef

if TYPE_CHECKING:
    from _inputs import Uploader
    from _uploads import UploadTarget


class Placed(NamedTuple):
    """Settings in which uploaded files stand under their address; `rows` report them, `fresh` names their settings."""

    settings: dict[str, Any]
    rows: list[dict[str, Any]]
    fresh: set[str]


def wants_upload(settings: Mapping[str, Any], files: Sequence[tuple[str, str, str]]) -> bool:
    """Whether anything given is, or may be, a file to send."""
    return bool(files) or any(isinstance(value, str) and may_be_file(value) for value in settings.values())


def place(
    graph: Mapping[str, Any],
    settings: Mapping[str, Any],
    files: Sequence[tuple[str, str, str]],
    definitions: Mapping[str, Any] | None,
    uploader: Uploader,
) -> Placed:
    """Upload what is to be uploaded. `files`: (name, path, kind) with kind image, mask or file.

    Raises SkillError (exit 2) for names that take no file, unreadable files, and inputs given twice.
    """
    pictures = [(name, path) for name, path, kind in files if kind != "mask"]
    masks = [(name, path) for name, path, kind in files if kind == "mask"]
    _refuse_twice(settings, pictures, masks)
    placed = Placed(dict(settings), [], set())
    candidates = dict(pictures) | {
        name: value for name, value in settings.items() if isinstance(value, str) and may_be_file(value)
    }
    given = dict(pictures)
    _place_pictures(graph, candidates, given, definitions, uploader, placed)
    for name, path in masks:
        _place_mask(graph, name, path, definitions, uploader, placed)
    return placed


def _refuse_twice(
    settings: Mapping[str, Any], pictures: list[tuple[str, str]], masks: list[tuple[str, str]]
) -> None:
    for group in (pictures, masks):
        names = [name for name, _ in group]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SkillError(f"{twice[0]!r} is given two files", hint="leave one of them out")
    if both := sorted({name for name, _ in pictures} & settings.keys()):
        raise SkillError(f"{both[0]!r} is given both as a value and as a file", hint="leave one of them out")


def _place_pictures(
    graph: Mapping[str, Any],
    candidates: Mapping[str, str],
    given: Mapping[str, str],
    definitions: Mapping[str, Any] | None,
    uploader: Uploader,
    placed: Placed,
) -> None:
    import _fill

    done: set[str] = set()
    with _telling_of_file_inputs(graph, definitions, given):
        targets = _fill.upload_targets(graph, candidates, definitions)
    for target in targets:
        if target.kind == "mask" and target.original is not None:
            _place_one(target, "mask", _picture_at(target, graph, placed), uploader, placed)
        else:
            _place_one(target, target.kind, None, uploader, placed)
        done.add(target.name)
        placed.settings.pop(target.name, None)
    for name in given:
        _require(name in done, name, given[name])


def _place_mask(
    graph: Mapping[str, Any],
    name: str,
    path: str,
    definitions: Mapping[str, Any] | None,
    uploader: Uploader,
    placed: Placed,
) -> None:
    """--input-mask: the mask of a picture loader becomes that picture's transparency; a mask loader takes it as it is."""
    import _fill

    with _telling_of_file_inputs(graph, definitions, {name: path}):
        targets = _fill.upload_targets(graph, {name: path}, definitions)
    _require(bool(targets), name, path)
    for target in targets:
        paints = target.original is not None or target.kind == "image"
        _place_one(target, "mask", _picture_at(target, graph, placed) if paints else None, uploader, placed)


@contextlib.contextmanager
def _telling_of_file_inputs(
    graph: Mapping[str, Any], definitions: Mapping[str, Any] | None, given: Mapping[str, str]
) -> Iterator[None]:
    """A name that a file was given for and that is none: the inputs that take files are the ones that were meant."""
    try:
        yield
    except SkillError as error:
        if error.code == "unknown_parameter" and error.details.get("parameter") in given:
            import _params

            names = [parameter.name for parameter in _params.find(graph, definitions) if parameter.upload]
            if names:
                error.hint = f"inputs that take files here: {', '.join(names)}"
                error.details["nearest"] = names
        raise


def _place_one(
    target: UploadTarget, kind: str, picture: FileRef | None, uploader: Uploader, placed: Placed
) -> None:
    value, row = uploader.value_for(str(target.value), kind, target, picture)
    address = f"{target.node_id}.{target.input}"
    placed.settings[address] = value
    placed.fresh.add(address)
    placed.rows.append(row | {"input": address})


def _picture_at(target: UploadTarget, graph: Mapping[str, Any], placed: Placed) -> FileRef | None:
    """The picture that a mask belongs to: the one just uploaded for this input, else what the graph names."""
    current = placed.settings.get(f"{target.node_id}.{target.input}")
    if current is None:
        node = graph.get(target.node_id)
        current = node["inputs"].get(target.input) if isinstance(node, Mapping) else None
    return annotated(current) if isinstance(current, (str, Mapping)) else None


def _require(found: bool, name: str, path: str) -> None:
    if not found:
        raise SkillError(
            f"{name!r} takes no uploaded file",
            code="not_an_upload",
            exit=Exit.MISUSE,
            hint=f"see scripts/extract_schema.py for the inputs that take files; {path} was not sent",
        )


def annotated(value: str | Mapping[str, Any]) -> FileRef:
    """The file that a loader's value names: `sub/name.png [output]` -> its folder and type; API v2 refers to an asset."""
    if not isinstance(value, str):
        info = value.get("info")
        info = info if isinstance(info, Mapping) else {}
        asset = str(info.get("id") or "") or None
        return FileRef(str(info.get("file_path") or asset or ""), type="input", asset_id=asset)
    match = re.fullmatch(r"(.*?)(?: \[(input|output|temp)\])?", value, re.S)
    assert match is not None
    folder, _, name = match[1].rpartition("/")
    return FileRef(name, folder, match[2] or "input")


def may_be_file(value: str) -> bool:
    """Whether a value names a file of this machine, or another job's output."""
    if value.startswith("output:"):
        return True
    try:
        return 0 < len(value) < 4096 and Path(value).is_file()
    except (OSError, ValueError):
        return False
