"""Workflows and files to and from a server: save a template, upload, download."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from comfyskill.base import file_names, foreign, paths, picture_files, safe_text
from comfyskill.base.cli import Document, Exit, Misuse, SkillError
from comfyskill.base.programs import command
from comfyskill.editor.read import subgraphs_of
from comfyskill.info.questions import about, offered
from comfyskill.run import collect, inputs
from comfyskill.server.protocol import Dialect, FileRef
from comfyskill.source import on_server

# The prefix with which a command names a workflow of each kind.
PREFIXES = {"template": "template", "workflow": "server", "subgraph": "subgraph"}


def workflow(
    server: Dialect, kind: str, name: str, save: Path | None, *, overwrite: bool = False
) -> Document:
    """One template, saved workflow or blueprint: what is in it, and where it was saved.

    `kind`: a key of `PREFIXES`.

    Raises:
        SkillError: no such workflow; the file exists and `overwrite` is not set.
    """
    if save is not None:
        _refuse_existing(save, overwrite)
    prefix = PREFIXES[kind]
    try:
        document, notes = offered(
            server, f"{on_server.KINDS[prefix].what}s", lambda: on_server.fetch(server, prefix, name)
        )
    except SkillError as error:
        if error.code != "no_such_workflow":
            raise
        # For a run a missing source is misuse (2); here it is a plain "no" (1).
        raise error.but(exit=Exit.FAILED) from error
    answer = about(server) | {kind: name, **_contents(document)}
    if notes:
        answer["notes"] = notes
    if save is None:
        run = command("run_workflow.py", f"{prefix}:{name}", *server.flags)
        return answer | {"hint": f"add --save FILE to keep it, or run it: {run}"}
    data = (json.dumps(document, indent=2) + "\n").encode()
    file_names.write_whole(save, data)
    return answer | {"file": str(paths.absolute(save)), "bytes": len(data)}


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise Misuse(f"{target} is a folder", hint="give a file name to --save")
    if target.exists() and not overwrite:
        raise Misuse(
            f"{target} already exists",
            code="file_exists",
            hint="choose another name or add --overwrite",
        )
    if not target.absolute().parent.is_dir():
        raise Misuse(f"there is no folder {target.absolute().parent}", hint="create it first")


def _contents(document: object) -> Document:
    """Format and size of a workflow, in either format; of one subgraph also its inputs and outputs."""
    if not isinstance(document, Mapping):
        return {"format": "unknown", "nodes": 0}
    if not isinstance(document.get("nodes"), list):
        nodes = foreign.mappings(list(document.values()))
        return {"format": "api", "nodes": len(nodes), "classes": _first_classes(nodes, "class_type")}
    nodes = foreign.mappings(document["nodes"])
    inside = {foreign.text(graph.get("id")): graph for graph in subgraphs_of(document)}
    found: Document = {"format": "editor", "nodes": len(nodes)}
    if len(nodes) != 1 or nodes[0].get("type") not in inside:
        return found | {"classes": _first_classes(nodes, "type")}
    graph = inside[nodes[0]["type"]]
    inner = [node for graph in inside.values() for node in foreign.mappings(graph.get("nodes"))]
    found["classes"] = _first_classes([node for node in inner if node.get("type") not in inside], "type")
    for key in ("inputs", "outputs"):
        found[key] = [
            {"name": entry.get("label") or entry.get("name"), "type": entry.get("type")}
            for entry in foreign.mappings(graph.get(key))
        ]
    return found


def _first_classes(nodes: Sequence[Mapping[str, object]], key: str) -> list[str]:
    return sorted({str(node.get(key)) for node in nodes})[:40]


def upload(
    server: Dialect,
    files: Sequence[Path],
    *,
    mask: bool = False,
    original: FileRef | None = None,
    subfolder: str = "",
    overwrite: bool = False,
) -> Document:
    """Send files; each row has the value for a workflow. All files are checked before the first is sent.

    Raises:
        SkillError: misuse, or the first upload that failed (`uploaded` lists those before it).
    """
    for file in files:
        if not file.is_file():
            raise Misuse(
                f"{file} is {'a folder' if file.is_dir() else 'not a file'}", hint="nothing was sent"
            )
    if mask and (original is None or len(files) != 1):
        raise Misuse(
            "--mask needs one file and --original REF, the picture it belongs to",
            hint="for example --mask --original 'photo.png [input]'; nothing was sent",
        )
    if mask and original is not None:
        # Without the original the server answers 200 with a name, and writes nothing.
        _require_on_server(server, original)
        _require_size(server, files[0], original)
    rows: list[Document] = []
    for file in files:
        try:
            ref = server.upload(
                file,
                kind="mask" if mask else "image",
                subfolder=subfolder,
                overwrite=overwrite,
                original=original,
            )
        except SkillError as error:
            raise error.but(uploaded=rows) from error
        rows.append(
            {
                "file": str(file),
                "bytes": file.stat().st_size,
                "name": ref.filename,
                "subfolder": ref.subfolder,
                "type": ref.type,
                "value": server.input_value(ref),
                "renamed": ref.filename != file.name,
            }
        )
    return about(server) | {"count": len(rows), "uploaded": rows}


def _require_on_server(server: Dialect, ref: FileRef) -> None:
    try:
        server.open_file(ref).close()
    except SkillError as error:
        if error.code not in ("not_found", "bad_request"):
            raise
        raise SkillError(
            f"the server has no {ref.type} file {safe_text.quoted(ref.filename)}",
            code="no_such_file",
            hint="upload the picture first; write 'name.png [output]' for a result",
        ) from error


def _require_size(server: Dialect, mask: Path, original: FileRef) -> None:
    """Raises SkillError (exit 2) for a mask of another size than its picture, with which the server fails (HTTP 500)."""
    with tempfile.TemporaryDirectory() as folder:
        fetched = collect.Collector(server, Path(folder)).fetch(collect.OutputFile(original, "", "")).path
        with inputs.usable(mask) as alpha, inputs.usable(fetched) as picture:
            picture_files.refuse_other_size(mask.name, alpha.size, picture.size, scaled=False)


def download(
    server: Dialect, ref: FileRef, folder: Path, *, overwrite: bool = False, digest: bool = False
) -> Document:
    """Fetch one file by name into a folder.

    Raises:
        SkillError: the server has no such file, or the download is incomplete (no file is left then).
    """
    if not ref.filename:
        raise Misuse("the file name is empty")
    # The user names one file, so the server's subfolder is not created here.
    collector = collect.Collector(server, folder, flat=True, overwrite=overwrite, digests=digest)
    new = not folder.exists()
    file_names.make_folder(folder)
    try:
        saved = collector.fetch(collect.OutputFile(ref, "", "download"))
    except SkillError as error:
        if new and not any(folder.iterdir()):
            folder.rmdir()
        if error.code != "not_found":
            raise
        where = f"{ref.subfolder}/" if ref.subfolder else ""
        raise SkillError(
            f"the server has no {ref.type} file {safe_text.quoted(where + ref.filename)}",
            code="no_such_file",
            hint="check --type output|input|temp and --subfolder",
        ) from error
    row = saved.json()
    row.pop("node_id", None)
    return about(server) | row
