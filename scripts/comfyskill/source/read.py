"""Where a workflow comes from: a file, standard input, a ComfyUI picture, video or sound, or a server.

`read` gives a graph that can be run, converting editor files on the way; `load` stops before converting.
"""

from __future__ import annotations

import io
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from comfyskill.base import foreign, text_files
from comfyskill.base.cli import Document, Misuse, SkillError
from comfyskill.base.json_in import not_json, parse, text_of
from comfyskill.editor import outline
from comfyskill.graph import nodes as graph_nodes
from comfyskill.graph.nearest import nearest
from comfyskill.server import node_definitions
from comfyskill.server.facts import Facts
from comfyskill.server.node_definitions import Definitions
from comfyskill.server.protocol import Dialect

# A graph of 100,000 nodes has about 50 MB; anything larger is not a workflow, or is meant to exhaust memory.
MAX_JSON = 256 * 1024 * 1024
# The prefixes of workflows on a server; `on_server.KINDS` has what each means.
ON_SERVER = ("template", "server", "subgraph")
BUNDLED = Path(__file__).resolve().parents[3] / "workflows"


class Loaded(NamedTuple):
    """A workflow as it was found.

    graph: API format, None when only an editor workflow was there. editor: the editor workflow, when there is one.
    extra_data: what was saved beside the graph. origin: where it comes from, in words. kind: "json" or the media kind.
    """

    origin: str
    kind: str
    graph: dict[str, Any] | None
    editor: dict[str, Any] | None
    extra_data: dict[str, Any]
    warnings: list[str]


class Source(NamedTuple):
    """A workflow that can be run, and what is known of its source.

    converted: the graph was made from `editor` just now. models: what the editor file says of its models
    (name, directory, url, hash …). missing_types: node classes that the definitions lack, with their pack.
    choices: what dynamic prompts chose.
    """

    graph: dict[str, Any]
    editor: dict[str, Any] | None
    origin: str
    converted: bool
    warnings: list[str]
    models: list[dict[str, Any]]
    missing_types: list[Any]
    extra_data: Mapping[str, Any] = {}
    choices: Sequence[Any] = ()
    kind: str = "json"


def read(
    spec: str,
    *,
    stdin: BinaryIO | None = None,
    server: Dialect | None = None,
    definitions: Callable[[], Definitions] = lambda: Definitions("none"),
    wildcard_seed: int | None = None,
    allow_unsure: bool = False,
) -> Source:
    """The workflow that `spec` names, ready to run.

    `spec`: a file, `-` (standard input), or `template:NAME`, `server:NAME`, `subgraph:NAME` (these need `server`). A
    picture gives the graph that made it; its editor workflow is kept beside. `definitions` is only called when a
    conversion needs it. `allow_unsure` as in `convert.convert`.

    Raises:
        SkillError: (exit 2) nothing there, not readable, no workflow in it, or it cannot be converted.
    """
    loaded = load(spec, stdin=stdin, server=server)
    models = list(declared_models(loaded.editor)) if loaded.editor else []
    if loaded.graph is not None:
        return Source(
            loaded.graph, loaded.editor, loaded.origin, False, loaded.warnings, models, [],
            extra_data=loaded.extra_data, kind=loaded.kind,
        )  # fmt: skip
    from comfyskill.editor import convert

    assert loaded.editor is not None
    found = definitions()
    try:
        made = convert.convert(
            loaded.editor,
            found.classes,
            wildcard_seed=wildcard_seed,
            without_server=not found.complete,
            allow_unsure=allow_unsure,
        )
    except SkillError as error:
        raise error.but(origin=loaded.origin) from error
    return Source(
        made.graph, loaded.editor, loaded.origin, True, loaded.warnings + list(made.warnings), models,
        list(made.missing_types), extra_data=loaded.extra_data, choices=list(made.choices), kind=loaded.kind,
    )  # fmt: skip


def read_for(spec: str, server: Facts, *, allow_unsure: bool = False) -> Source:
    """The workflow that `spec` names, ready to run on a server. Raises as `read`."""
    return read(
        spec,
        server=server.live,
        definitions=lambda: node_definitions.fetch(server),
        allow_unsure=allow_unsure,
    )


def load(spec: str, *, stdin: BinaryIO | None = None, server: Dialect | None = None) -> Loaded:
    """The workflow that `spec` names, in the format in which it was found (see `read`)."""
    if asks_server(spec):
        kind, _, name = spec.partition(":")
        return _from_server(kind, name, server)
    if spec == "-":
        return _from_stdin(stdin)
    return _from_file(spec)


def asks_server(spec: str) -> bool:
    """Whether `spec` names a workflow on a server."""
    kind, colon, _ = spec.partition(":")
    return bool(colon) and kind in ON_SERVER


def declared_models(editor: Mapping[str, object]) -> Iterator[Document]:
    """The models that an editor workflow names with their sources (`properties.models` of its nodes), each once."""
    seen = set()
    for graph in outline.graphs_of(editor):
        holders = [graph, *(node.get("properties") for node in foreign.mappings(graph.get("nodes")))]
        for entry in (
            entry for holder in holders for entry in foreign.mappings(foreign.mapping(holder).get("models"))
        ):
            key = (str(entry.get("directory")), str(entry.get("name")))
            if entry.get("name") and key not in seen:
                seen.add(key)
                yield dict(entry)


def _from_server(kind: str, name: str, server: Dialect | None) -> Loaded:
    if server is None:
        raise Misuse(f"{kind}:{name} needs a server", hint="add --host, or pass a file instead")
    from comfyskill.source import on_server

    document, notes = on_server.fetch(server, kind, name)
    if kind == "subgraph":
        document, added = _runnable(document)
        notes += added
    return _unwrapped(document, f"{on_server.KINDS[kind].what} {name} of {server.url}", "json", notes)


def _runnable(document: object) -> tuple[object, list[str]]:
    """A blueprint with loaders and savers at its open ends, and notes that name them."""
    from comfyskill.editor import blueprint

    made = blueprint.complete(foreign.mapping(document))
    notes = [f"nodes were added for its inputs and outputs: {', '.join(made.added)}"] if made.added else []
    if made.unlinked:
        notes.append(f"these inputs need a link from another node: {', '.join(made.unlinked)}")
    return made.document, notes


def _from_stdin(stdin: BinaryIO | None, origin: str = "standard input") -> Loaded:
    stream = stdin if stdin is not None else sys.stdin.buffer
    data = stream.read(MAX_JSON + 1)
    if not data:
        raise Misuse(
            f"{origin} is empty",
            code="empty",
            hint="pipe a workflow in, or pass a file",
        )
    if len(data) > MAX_JSON:
        raise _too_large(origin)
    return _from_stream(io.BytesIO(data), len(data), origin, f"from {origin}")


def _from_file(spec: str) -> Loaded:
    path = Path(spec)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise _is_folder(path)
        file = text_files.open_file(path)
    except text_files.NoWriter as error:
        raise Misuse(
            f"{path} is a pipe with no writer",
            code="not_readable",
            hint="pass a file, or pipe the workflow in and pass -",
        ) from error
    except FileNotFoundError as error:
        raise _no_such_file(spec) from error
    except PermissionError as error:
        raise Misuse(f"file {spec} is not readable: permission denied", code="not_readable") from error
    except (OSError, ValueError) as error:
        # ValueError: a name with a null character.
        raise _no_such_file(spec, str(error)) from error
    with file:
        if stat.S_ISREG(status.st_mode):
            return _from_stream(file, status.st_size, f"file {spec}", path.name)
        # A pipe such as <(command): it cannot be rewound, so it is read like standard input.
        return _from_stdin(file, f"file {spec}")


def _from_stream(stream: BinaryIO, size: int, origin: str, name: str) -> Loaded:
    if size == 0:
        raise Misuse(f"{origin} is empty", code="empty", hint="save or download the workflow again")
    kind = None if _starts_as_json(stream) else _media_kind(stream)
    if kind is not None:
        return _from_media(stream, kind, f"{kind} {name}")
    if size > MAX_JSON:
        raise _too_large(origin)
    stream.seek(0)
    data = stream.read(MAX_JSON + 1)
    if b"\0" in data[:1000] and not _wide(data):
        raise not_json(origin, "it is a binary file of an unknown kind")
    value, notes = parse(text_of(data, origin), origin)
    return _unwrapped(value, origin, "json", notes)


def _starts_as_json(stream: BinaryIO) -> bool:
    """Whether the stream begins as JSON does; spares the usual case the readers of media files."""
    start = stream.read(16).removeprefix(b"\xef\xbb\xbf").lstrip()
    stream.seek(0)
    return start[:1] in (b"{", b"[")


def _media_kind(stream: BinaryIO) -> str | None:
    from comfyskill.source import media

    return media.kind_of(stream)


def _wide(data: bytes) -> bool:
    """Whether a text is UTF-16 or UTF-32: it has a byte order mark, or nulls around the first character of JSON."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        return True
    start = data[:4].replace(b"\0", b"")
    return len(start) < 4 and start[:1] in (b"{", b"[", b" ", b"\n", b"\r", b"\t")


def _from_media(stream: BinaryIO, kind: str, origin: str) -> Loaded:
    from comfyskill.source import media

    if not media.can_carry_workflow(kind):
        raise _no_workflow_inside(kind, origin, [])
    found = media.embedded(stream, kind)
    document: dict[str, Any] = {}
    warnings = list(found.notes)
    for key in ("prompt", "workflow"):
        if key not in found.values:
            continue
        try:
            document[key], notes = parse(found.values[key], f"the {key} in {origin}")
        except SkillError as error:
            warnings.append(error.message)
            continue
        warnings += notes
    if not document:
        raise _no_workflow_inside(kind, origin, warnings, from_elsewhere="parameters" in found.values)
    return _unwrapped(document, origin, kind, warnings)


def _unwrapped(value: object, origin: str, kind: str, notes: list[str]) -> Loaded:
    try:
        inner = graph_nodes.unwrap(value)
    except SkillError as error:
        raise error.but(origin=origin) from error
    return Loaded(origin, kind, inner.graph, inner.editor, inner.extra_data, notes + list(inner.notes))


def _too_large(origin: str) -> SkillError:
    return Misuse(
        f"{origin} is larger than {MAX_JSON >> 20} MB, too large for a workflow",
        code="too_large",
    )


def _is_folder(path: Path) -> SkillError:
    found = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in (".json", ".png"))[:5]
    hint = f"pass one of its files, such as {', '.join(found)}" if found else "pass a workflow file"
    return Misuse(f"{path} is a folder, not a workflow", code="is_folder", hint=hint)


def _no_such_file(spec: str, why: str = "") -> SkillError:
    if spec.startswith(("http://", "https://")):
        return Misuse(
            "workflows are not downloaded from a URL",
            hint="download it first, then pass the file",
        )
    if spec.lstrip().startswith("{"):
        return Misuse(
            "a workflow must be a file, not text", hint="write it to a file, or pipe it in and pass -"
        )  # fmt: skip
    return Misuse(
        f"there is no file {spec}" + (f" ({why})" if why else ""),
        code="no_such_file",
        hint=_near_files(spec) or "check the path; bundled workflows are listed in workflows/README.md",
    )


def _near_files(spec: str) -> str:
    """A hint that lists files with a similar name, in the same folder or in the bundle."""
    path = Path(spec)
    stem = path.name.removesuffix(".json")
    bundled = {entry.stem: entry for entry in BUNDLED.glob("*.json") if entry.stem != "index"}
    if stem in bundled:
        return f"the bundled workflow of that name is {bundled[stem]}"
    try:
        beside = {entry.name: entry for entry in path.parent.iterdir() if not entry.name.startswith(".")}
    except (OSError, ValueError):
        return f"there is no folder {path.parent} either"
    near = [beside[name] for name in nearest(path.name, beside, 3)]
    near = near or [bundled[name] for name in nearest(stem, bundled, 3)]
    return f"did you mean {', '.join(map(str, near))}?" if near else ""


def _no_workflow_inside(
    kind: str, origin: str, problems: list[str], *, from_elsewhere: bool = False
) -> SkillError:
    from comfyskill.source import media

    if problems:
        hint = f"{problems[0]}; save or download it again"
    elif from_elsewhere:
        hint = "its text comes from another program (a prompt and settings, no graph)"
    elif kind == "GIF picture":
        hint = "a GIF cannot hold one; Video Helper Suite saves a PNG with the same name that does"
    elif media.can_carry_workflow(kind):
        hint = "the tool or site it passed through may have removed it; use the file as ComfyUI saved it"
    else:
        hint = (
            "pass a JSON workflow, or a PNG, WebP, MP4, WebM, FLAC, Opus, MP3 or GLB file as ComfyUI saved it"
        )
    return Misuse(f"{origin} contains no workflow", code="no_workflow_inside", hint=hint)
