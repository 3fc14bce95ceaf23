"""Which settings name files, and the graph values that stand for them once they are uploaded.

Level 3. A picture's mask is applied to the picture that the same call gives, else to the one in the graph.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from comfyskill.base.cli import Exit, SkillError
from comfyskill.server.protocol import FileRef

if TYPE_CHECKING:
    from comfyskill.graph.fill import UploadTarget
    from comfyskill.run.inputs import Uploader


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
    values = {
        name: value for name, value in settings.items() if isinstance(value, str) and may_be_file(value)
    }
    found = _targets(graph, values | dict(pictures), definitions, dict(pictures))
    sent = {target.name for target in found}
    painted = [target for target in found if target.original is not None]
    loaded = [target for target in found if target.original is None]
    for name, path in masks:
        for target in _targets(graph, {name: path}, definitions, {name: path}):
            paints = target.original is not None or target.kind == "image"
            (painted if paints else loaded).append(target._replace(kind="mask"))
    _refuse_same_input(loaded, painted)
    rest = {name: value for name, value in settings.items() if name not in sent}
    placed = Placed(_by_address(graph, rest, [*loaded, *painted], definitions), [], set())
    for target in loaded:
        if _address(target) in placed.settings:
            raise _set_twice(target.name, _address(target), "a file and a value")
    for target in loaded:
        _place_one(target, None, uploader, placed)
    # A mask is painted into the picture that the same call gives, so pictures come first.
    for target in painted:
        _place_one(target, _picture_at(target, graph, placed), uploader, placed)
    return placed


def _targets(
    graph: Mapping[str, Any],
    files: Mapping[str, str],
    definitions: Mapping[str, Any] | None,
    given: Mapping[str, str],
) -> list[UploadTarget]:
    """The inputs that these files go into. `given`: the files that a flag names, which must find an input."""
    from comfyskill.graph import fill

    with _telling_of_file_inputs(graph, definitions, given):
        targets = fill.upload_targets(graph, files, definitions)
    found = {target.name for target in targets}
    for name, path in given.items():
        _require(name in found, name, path)
    return targets


def _refuse_twice(
    settings: Mapping[str, Any], pictures: list[tuple[str, str]], masks: list[tuple[str, str]]
) -> None:
    for group in (pictures, masks):
        names = [name for name, _ in group]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SkillError(f"{twice[0]!r} is given two files", hint="leave one of them out")
    if both := sorted({name for name, _ in pictures} & settings.keys()):
        raise SkillError(f"{both[0]!r} is given both as a value and as a file", hint="leave one of them out")


def _refuse_same_input(loaded: Sequence[UploadTarget], painted: Sequence[UploadTarget]) -> None:
    """Two names of one input (`image` and `1.image`): one file would replace the other."""
    for group in (loaded, painted):
        named: dict[str, str] = {}
        for target in group:
            other = named.setdefault(_address(target), target.name)
            if other != target.name:
                raise _set_twice(f"{other}, {target.name}", _address(target), "two files")


def _by_address(
    graph: Mapping[str, Any],
    settings: Mapping[str, Any],
    targets: Sequence[UploadTarget],
    definitions: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The settings, with those of inputs that get a file, whatever their name, under the address of their input."""
    from comfyskill.graph import fill

    wanted = {_address(target) for target in targets}
    found: dict[str, Any] = {}
    for name, value in settings.items():
        try:
            places = fill.upload_targets(graph, {name: value}, definitions) if wanted else []
        except SkillError:
            places = []  # filling refuses the name, and lists all wrong ones together
        if not any(_address(place) in wanted for place in places):
            found[name] = value
            continue
        for place in places:
            if place.kind == "mask" and _address(place) in wanted:
                raise _set_twice(name, _address(place), "a file and a value")
            found[_address(place)] = value
    return found


def _set_twice(names: str, address: str, what: str) -> SkillError:
    return SkillError(
        f"{address} is given {what} (by {names})",
        code="set_twice",
        exit=Exit.MISUSE,
        hint="leave one of them out",
    )


def _address(target: UploadTarget) -> str:
    return f"{target.node_id}.{target.input}"


@contextlib.contextmanager
def _telling_of_file_inputs(
    graph: Mapping[str, Any], definitions: Mapping[str, Any] | None, given: Mapping[str, str]
) -> Iterator[None]:
    """A name that a file was given for and that is none: the inputs that take files are the ones that were meant."""
    try:
        yield
    except SkillError as error:
        if error.code == "unknown_parameter" and error.details.get("parameter") in given:
            from comfyskill.graph import parameters

            names = [parameter.name for parameter in parameters.find(graph, definitions) if parameter.upload]
            if names:
                error.hint = f"inputs that take files here: {', '.join(names)}"
                error.details["nearest"] = names
        raise


def _place_one(target: UploadTarget, picture: FileRef | None, uploader: Uploader, placed: Placed) -> None:
    value, row = uploader.value_for(str(target.value), target.kind, target, picture)
    address = _address(target)
    placed.settings[address] = value
    placed.fresh.add(address)
    placed.rows.append(row | {"input": address})


def _picture_at(target: UploadTarget, graph: Mapping[str, Any], placed: Placed) -> FileRef | None:
    """The picture that a mask belongs to: the one just uploaded for this input, else what the graph names."""
    current = placed.settings.get(_address(target))
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
