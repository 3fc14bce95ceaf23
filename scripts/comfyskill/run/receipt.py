"""The receipt of a run: everything needed to run it again and to compare the outputs."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import _common
from comfyskill import __version__
from comfyskill.base import file_names, foreign, safe_files, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.graph import facts
from comfyskill.run.job import Run
from comfyskill.run.result import Result
from comfyskill.server.protocol import Dialect, Graph

HASH_KEYS = ("modelspec.hash_sha256", "sshs_model_hash", "sha256")
MOST_MODELS = 40


def write(result: Result, document: Document) -> Path:
    """`<prompt_id>.json` beside the outputs: all that is needed to run it again and to compare. `document`: the report."""
    run, options = result.run, result.run.options
    path = _place_for(options.output_dir, run.prompt_id)
    receipt = {
        "receipt": 1,
        "prompt_id": run.prompt_id,
        "status": document["status"],
        "host": run.server.url,
        "api": run.server.api,
        "server": server_facts(run.server),
        **_given(run, document, path),
        "include_previews": options.include_previews,
        "models": sorted({use.name for use in facts.models_in(dict(run.graph))}),
        "model_files": model_facts(run.server, run.graph),
        "files": [
            {**item.json(), "file": item.path.relative_to(options.output_dir).as_posix()}
            for item in result.saved
        ],
        "texts": result.texts,
        "seconds": document["seconds"],
        "execution_seconds": document.get("execution_seconds"),
        "started": result.state.started,
        "client": {"skill": __version__, "python": platform.python_version(), "system": platform.system()},
    }
    text = safe_text.redact(json.dumps(receipt, indent=2, ensure_ascii=True))
    file_names.write_whole(path, text.encode())
    return path


def _place_for(folder: Path, prompt_id: str) -> Path:
    """A free name for the receipt, or that of an earlier receipt of this job. A server may choose any id (`notes`)."""
    first = folder / file_names.file_name(f"{prompt_id}.json")
    path, number = first, 0
    while os.path.lexists(path) and not _is_of(path, prompt_id):
        number += 1
        path = first.with_name(f"{first.stem} ({number}).json")
    return path


def _is_of(path: Path, prompt_id: str) -> bool:
    """Whether a file is a receipt of this job."""
    try:
        with safe_files.open_file(path, "r", encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError, RecursionError, SkillError):
        return False
    return isinstance(document, dict) and "receipt" in document and document.get("prompt_id") == prompt_id


def _given(run: Run, document: Document, path: Path) -> Document:
    """What the run was asked to do. A --resume knows only the graph as the server has it; an earlier receipt has all."""
    if run.prepared is not None:
        return {
            "graph": run.graph,
            "workflow": run.prepared.source.origin,
            "seeds": run.prepared.seeds,
            "parameters": document.get("set", []),
            "uploads": document.get("uploads", []),
            "only": run.options.targets,
        }
    known: Document = {
        "graph": run.graph,
        "workflow": None,
        "seeds": facts.seeds_of(run.graph),
        "parameters": [],
        "uploads": [],
        "only": None,
    }
    try:
        earlier = foreign.mapping(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return known
    same = (earlier.get("receipt"), earlier.get("prompt_id")) == (1, run.prompt_id)
    return {key: earlier.get(key, value) for key, value in known.items()} if same else known


def server_facts(server: Dialect) -> Document:
    """Version and device, if the server reports them; never raises."""
    try:
        stats = server.stats()
    except SkillError:
        return {}
    system = foreign.mapping(stats.get("system"))
    names = [str(item.get("name")) for item in foreign.mappings(stats.get("devices"))]
    keys = ("comfyui_version", "pytorch_version", "python_version", "os")
    known: Document = {key: safe_text.clean(system[key], 120) for key in keys if key in system}
    return known | {"devices": [safe_text.clean(name, 120) for name in names]}


def model_facts(server: Dialect, graph: Graph) -> list[Document]:
    """The model files that a graph names: [{name, folder, bytes, hash}], the last two if the server reports them.

    `missing`: True for a file that is not in the server's list of that folder.
    """
    uses = {(use.name, use.folder): None for use in facts.models_in(graph)}
    listed: dict[str, dict[str, Document]] = {}
    rows = []
    for name, folder in list(uses)[:MOST_MODELS]:
        row: Document = {"name": safe_text.clean(name, 300), "folder": folder}
        if folder and server.api == "local":
            if folder not in listed:
                listed[folder] = _sizes(server, folder)
            known = listed[folder]
            row |= known.get(name.replace("\\", "/"), {"missing": True} if known else {})
            row |= _hash(server, folder, name)
        rows.append(row)
    return rows


def _sizes(server: Dialect, folder: str) -> dict[str, Document]:
    try:
        answer = server.get_json(f"experiment/models/{_common.quoted(folder)}", attempts=1)
    except SkillError:
        return {}
    found: dict[str, Document] = {}
    for item in foreign.mappings(answer):
        if name := foreign.text(item.get("name")):
            size = foreign.whole(item.get("size"))
            found[name.replace("\\", "/")] = {} if size is None else {"bytes": size}
    return found


def _hash(server: Dialect, folder: str, name: str) -> dict[str, str]:
    if not name.endswith(".safetensors"):
        return {}
    try:
        answer = server.get_json(
            f"view_metadata/{_common.quoted(folder)}", {"filename": name}, attempts=1, timeout=15
        )
    except SkillError:
        return {}
    for key in HASH_KEYS:
        if value := foreign.text(foreign.mapping(answer).get(key)):
            return {"hash": safe_text.clean(value, 100)}
    return {}
