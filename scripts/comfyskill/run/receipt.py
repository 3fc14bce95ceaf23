"""The receipt of a run: everything needed to run it again and to compare the outputs.

Below `reports`.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _common
from comfyskill import __version__
from comfyskill.base import file_names, foreign, safe_files, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.graph import facts
from comfyskill.server.protocol import Dialect, JobState

if TYPE_CHECKING:
    from comfyskill.run.collect import Saved
    from comfyskill.run.job import Job, Options
    from comfyskill.run.prepare import Prepared

HASH_KEYS = ("modelspec.hash_sha256", "sshs_model_hash", "sha256")
MOST_MODELS = 40


def write(
    job: Job,
    state: JobState,
    prepared: Prepared | None,
    saved: list[Saved],
    options: Options,
    document: Mapping[str, Any],
) -> Path:
    """`<prompt_id>.json` beside the outputs: all that is needed to run it again and to compare."""
    path = _place_for(options.output_dir, job.prompt_id)
    receipt = {
        "receipt": 1,
        "prompt_id": job.prompt_id,
        "status": document["status"],
        "host": job.server.url,
        "api": job.server.api,
        "server": server_facts(job.server),
        "graph": job.graph,
        **_asked_for(job, prepared, options, document, path),
        "include_previews": options.include_previews,
        "models": sorted({use.name for use in facts.models_in(dict(job.graph))}),
        "model_files": model_facts(job.server, job.graph),
        "files": [
            {**item.json(), "file": item.path.relative_to(options.output_dir).as_posix()} for item in saved
        ],
        "texts": document.get("texts", []),
        "seconds": document["seconds"],
        "execution_seconds": document.get("execution_seconds"),
        "started": state.started,
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


def _asked_for(
    job: Job, prepared: Prepared | None, options: Options, document: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """What the run was asked to do. A --resume knows only the graph; an earlier receipt has the rest."""
    if prepared is not None:
        return {
            "workflow": prepared.source.origin,
            "seeds": prepared.seeds,
            "parameters": document.get("set", []),
            "uploads": document.get("uploads", []),
            "only": options.targets,
        }
    known: dict[str, Any] = {
        "workflow": None,
        "seeds": facts.seeds_of(job.graph),
        "parameters": [],
        "uploads": [],
        "only": None,
    }
    try:
        earlier = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return known
    same = isinstance(earlier, dict) and (earlier.get("receipt"), earlier.get("prompt_id")) == (
        1,
        job.prompt_id,
    )
    return {key: earlier.get(key, value) for key, value in known.items()} if same else known


def server_facts(server: Dialect) -> dict[str, Any]:
    """Version and device, if the server reports them; never raises."""
    try:
        stats = server.stats()
    except SkillError:
        return {}
    system = stats.get("system", {})
    devices = stats.get("devices")
    names = (
        [str(item.get("name")) for item in devices if isinstance(item, Mapping)]
        if isinstance(devices, list)
        else []
    )
    keys = ("comfyui_version", "pytorch_version", "python_version", "os")
    return {key: safe_text.clean(system[key], 120) for key in keys if key in system} | {
        "devices": [safe_text.clean(name, 120) for name in names]
    }


def model_facts(server: Dialect, graph: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The model files that a graph names: [{name, folder, bytes, hash}], the last two if the server reports them.

    `missing`: True for a file that is not in the server's list of that folder.
    """
    uses = {(use.name, use.folder): None for use in facts.models_in(graph)}
    listed: dict[str, dict[str, Any]] = {}
    rows = []
    for name, folder in list(uses)[:MOST_MODELS]:
        row: dict[str, Any] = {"name": safe_text.clean(name, 300), "folder": folder}
        if folder and server.api == "local":
            if folder not in listed:
                listed[folder] = _sizes(server, folder)
            known = listed[folder]
            row |= known.get(name.replace("\\", "/"), {"missing": True} if known else {})
            row |= _hash(server, folder, name)
        rows.append(row)
    return rows


def _sizes(server: Dialect, folder: str) -> dict[str, Any]:
    try:
        answer = server.get_json(f"experiment/models/{_common.quoted(folder)}", attempts=1)
    except SkillError:
        return {}
    found = {}
    for item in foreign.items(answer):
        if isinstance(item, Mapping) and isinstance(item.get("name"), str):
            size = item.get("size")
            found[item["name"].replace("\\", "/")] = {"bytes": size} if isinstance(size, int) else {}
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
        value = answer.get(key) if isinstance(answer, Mapping) else None
        if isinstance(value, str) and value:
            return {"hash": safe_text.clean(value, 100)}
    return {}
