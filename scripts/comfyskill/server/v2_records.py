"""Job objects of Comfy API v2 -> the values that every protocol shares. Pure.

Level 2. Source: the API v2 fact sheet and recordings of comfy-api-proxy 0.1.6.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from comfyskill.server.protocol import MARK, JobState, JobSummary, seconds

# A word that is not here means that the job is still going: later revisions may add some.
STATUSES: dict[str, tuple[str, str | None]] = {
    "queued": ("pending", None),
    "running": ("running", None),
    "canceling": ("running", None),
    "cancelling": ("running", None),
    "succeeded": ("done", "success"),
    "failed": ("done", "error"),
    "canceled": ("done", "cancelled"),
    "cancelled": ("done", "cancelled"),
}
EXPIRED = "expired"
# Output `type` -> the key under which ComfyUI itself reports such files.
OUTPUT_KEYS = {"image": "images", "video": "videos", "audio": "audio", "text": "files", "latent": "latents"}
# PreviewImage's own prefix; v2 does not say which outputs are temporary.
TEMPORARY = "ComfyUI_temp_"


def state_of(
    prompt_id: str, job: Mapping[str, Any], content_url: Callable[[str], str], now: float | None = None
) -> JobState:
    """The state in a job object. `expired` before `expires_at` is not believed: phase `unknown`, to be asked again.

    `now`: the server's time, in seconds since the epoch; None: this machine's.
    """
    word = str(job.get("status") or "").lower()
    error = _error(job.get("error"))
    if word == EXPIRED:
        phase, outcome, error = _expired(job, time.time() if now is None else now)
    else:
        phase, outcome = STATUSES.get(word, ("running", None))
    if outcome == "error" and error is None:
        error = {"exception_message": "the server gave no reason"}
    return JobState(
        prompt_id,
        phase,
        outcome,
        outputs=outputs_of(job.get("outputs"), content_url),
        error=error if outcome == "error" else None,
        position=_count(job.get("queue_position")),
        started=when(job.get("started_at")),
        ended=when(job.get("completed_at")),
        progress=_progress(job.get("progress")) if phase == "running" else None,
        word=word,
        logs=_log_text(job.get("logs")),
    )


def _expired(job: Mapping[str, Any], now: float) -> tuple[str, str | None, Mapping[str, Any] | None]:
    """The proxy says `expired` of a job between its end and its record, and of one removed from the queue natively."""
    until = when(job.get("expires_at"))
    if until is not None and until > now:
        return "unknown", None, None
    return "done", "error", {
        "exception_type": EXPIRED,
        "exception_message": "the server keeps this job and its outputs no longer",
    }  # fmt: skip


def _error(error: Any) -> Mapping[str, Any] | None:
    """The failure under the names that ComfyUI itself uses (v2 says class_type where it says node_type)."""
    if not isinstance(error, Mapping):
        return None
    trace = error.get("traceback")
    return {
        "node_id": error.get("node_id"),
        "node_type": error.get("class_type") or error.get("node_type"),
        "exception_type": error.get("code"),
        "exception_message": str(error.get("message") or "the server gave no reason"),
        "traceback": trace if isinstance(trace, list) else [trace] if isinstance(trace, str) else [],
    }


def _log_text(logs: Any) -> str:
    """The log of a finished run on a deployment; elsewhere absent."""
    text = logs.get("text") if isinstance(logs, Mapping) else None
    return text if isinstance(text, str) else ""


def _progress(progress: Any) -> Mapping[str, Any] | None:
    """A progress snapshot; None for the constant zeros that the proxy's polls give."""
    if not isinstance(progress, Mapping) or not (progress.get("value") or progress.get("nodes_total")):
        return None
    return progress


def outputs_of(listed: Any, content_url: Callable[[str], str]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Flat outputs in ComfyUI's own shape: node id -> key -> files, each with the address of its bytes."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    seen: set[str] = set()
    for item in listed if isinstance(listed, list) else []:
        file = _file(item, content_url) if isinstance(item, Mapping) else None
        if file is None or file["url"] in seen:
            continue
        seen.add(file["url"])
        node = found.setdefault(str(item.get("node_id")), {})
        files = node.setdefault(OUTPUT_KEYS.get(str(item.get("type")), "files"), [])
        files.append(_apart(file, node))
    return found


def _file(item: Mapping[str, Any], content_url: Callable[[str], str]) -> dict[str, Any] | None:
    name, asset_id, url = item.get("name"), item.get("id"), item.get("url")
    if not isinstance(name, str) or not name:
        return None
    if isinstance(asset_id, str) and asset_id:
        url = content_url(asset_id)
    elif not isinstance(url, str) or not url:
        return None
    file = {
        "filename": name,
        "subfolder": "",
        "type": "temp" if name.startswith(TEMPORARY) else "output",
        "url": url,
    }
    kind = item.get("content_type")
    return (
        file
        | ({"content_type": kind} if isinstance(kind, str) else {})
        | ({"asset_id": asset_id} if isinstance(asset_id, str) and asset_id else {})
    )


def _apart(file: dict[str, Any], node: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """v2 drops subfolders: two files of one node that bear one name are different files all the same."""
    same = sum(other["filename"] == file["filename"] for files in node.values() for other in files)
    return file | {"subfolder": f"{same + 1}"} if same else file


def row(job: Mapping[str, Any]) -> JobSummary:
    """One row of a list: the proxy lists whole job objects, deployments stored records with other time keys."""
    word = str(job.get("status") or "").lower()
    phase, outcome = ("unknown", None) if word == EXPIRED else STATUSES.get(word, ("running", None))
    outputs = job.get("outputs")
    return JobSummary(
        str(job["id"]),
        "done" if phase == "unknown" else phase,
        outcome,
        created=when(job.get("created_at", job.get("create_time"))),
        started=when(job.get("started_at")),
        ended=when(job.get("completed_at", job.get("update_time") if phase == "done" else None)),
        position=_count(job.get("queue_position")),
        outputs_count=len(outputs) if isinstance(outputs, list) else None,
        mark=mark_of(job),
    )


def mark_of(job: Mapping[str, Any]) -> str | None:
    """Our own id in a job's label: a map on deployments, a text on the proxy."""
    label = job.get("metadata")
    if isinstance(label, Mapping):
        return str(label[MARK]) if MARK in label else None
    if isinstance(label, str) and label.startswith(f"{MARK}:"):
        return label.removeprefix(f"{MARK}:")
    return None


def when(value: Any) -> float | None:
    """Seconds since the epoch from RFC 3339 text, or from a number as v1 writes times."""
    if not isinstance(value, str):
        return seconds(value)
    try:
        # Python 3.10 reads neither `Z` nor fractions of other than 3 or 6 digits.
        text = value.strip().replace("Z", "+00:00").replace("z", "+00:00")
        head, dot, tail = text.partition(".")
        if dot:
            digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
            text = f"{head}.{digits[:6]:0<6}{tail[len(digits) :]}"
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
