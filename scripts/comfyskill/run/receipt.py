"""The receipt of a run: all that is needed to run it again and to compare what comes out.

Level 3, below `_reports`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyskill.base import file_names, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.graph import facts
from comfyskill.run import model_facts
from comfyskill.server.protocol import Dialect, JobState

if TYPE_CHECKING:
    from comfyskill.run.collect import Saved
    from comfyskill.run.job import Job, Options
    from comfyskill.run.prepare import Prepared


def write(
    job: Job,
    state: JobState,
    prepared: Prepared | None,
    saved: list[Saved],
    options: Options,
    document: Mapping[str, Any],
) -> Path:
    """`<prompt_id>.json` beside the outputs: all that is needed to run it again and to compare."""
    path = options.output_dir / file_names.file_name(f"{job.prompt_id}.json")
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
        "model_files": model_facts.model_facts(job.server, job.graph),
        "files": [
            {**item.json(), "file": item.path.relative_to(options.output_dir).as_posix()} for item in saved
        ],
        "texts": document.get("texts", []),
        "seconds": document["seconds"],
        "execution_seconds": document.get("execution_seconds"),
        "started": state.started,
        "client": {"python": platform.python_version(), "system": platform.system()},
    }
    text = safe_text.redact(json.dumps(receipt, indent=2, ensure_ascii=True))
    file_names.write_whole(path, text.encode())
    return path


def _asked_for(
    job: Job, prepared: Prepared | None, options: Options, document: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """What the run was asked to do. Who only fetches it (--resume) knows the graph; an earlier receipt knows the rest."""
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
    """Version and device, as far as the server tells; never a reason to fail."""
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
