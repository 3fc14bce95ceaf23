"""Job objects of Comfy API v2 -> the values that every protocol shares. Pure.

Source: the API v2 documentation and recordings of comfy-api-proxy 0.1.6.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from comfyskill.base import cli, foreign, safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.graph.nodes import Graph
from comfyskill.server import cloud, refusals, transport
from comfyskill.server.protocol import MARK, JobState, JobSummary, seconds

if TYPE_CHECKING:
    import requests

# A status that is not here means that the job is still going: later revisions may add some.
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
# Codes by which a graph is rejected (exit 6).
REJECTIONS = frozenset({"invalid_workflow", "workflow_format_ui", "missing_asset"})
File = dict[str, str]
# Node id -> key -> files, as ComfyUI itself reports outputs.
Outputs = dict[str, dict[str, list[File]]]
# code -> (our code, message, hint, retryable)
SENTENCES: dict[str, tuple[str, str, str, bool]] = {
    "queue_full": ("queue_full", "the server's queue is full", "wait until some jobs have finished", True),
    "rate_limited": ("busy", "the server asks for fewer requests", "wait and try again", True),
    "too_many_streams": ("busy", "the server has too many event streams open", "polling continues", True),
    "deployment_not_ready": ("busy", "the deployment is still starting", "wait and try again", True),
    "deployment_stopped": ("refused", "the deployment is stopped", "start it on the platform's site", False),
    "not_implemented": ("not_offered", "the server does not offer this", "Comfy Cloud lists jobs on v1 (--api cloud)",
                        False),
    "upstream_unreachable": ("unreachable", "the proxy answers, but the ComfyUI behind it does not",
                             "start ComfyUI, or correct the proxy's --comfyui", True),
    "upstream_error": ("server_error", "the service behind this server failed", "try again in a moment", False),
    "payload_too_large": ("too_large", "the file is larger than the server accepts",
                          "comfy-api-proxy has --max-upload-mb (default 100)", False),
    "output_unavailable": ("not_found", "ComfyUI no longer has this file", "run the workflow again", False),
    "asset_in_use": ("in_use", "the asset is still used by a job", "wait until that job has ended", True),
    "hash_mismatch": ("upload_failed", "the file changed during the upload", "send it again", True),
    "idempotency_key_reuse": ("idempotency_key_reuse", "this submit has been sent before", "look up the job", False),
    "public_deployment_no_list": ("refused", "a public deployment does not list its jobs", "", False),
    "forbidden_origin": ("refused", "the proxy refuses requests under this host name",
                         "use the address that the proxy itself listens on", False),
}  # fmt: skip


def state_of(
    prompt_id: str, job: Mapping[str, object], content_url: Callable[[str], str], now: float | None = None
) -> JobState:
    """The state in a job object. `expired` before `expires_at` is not trusted: phase `unknown`, to be asked again.

    `now`: the server's time, in seconds since the epoch; None: this machine's.
    """
    status = str(job.get("status") or "").lower()
    error = _error(job.get("error"))
    if status == EXPIRED:
        phase, outcome, error = _expired(job, time.time() if now is None else now)
    else:
        phase, outcome = STATUSES.get(status, ("running", None))
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
        server_status=status,
        logs=foreign.text(foreign.mapping(job.get("logs")).get("text")),  # of a finished run on a deployment
    )


def _expired(job: Mapping[str, object], now: float) -> tuple[str, str | None, Mapping[str, object] | None]:
    """The proxy says `expired` of a job between its end and its record, and of one removed from the queue natively."""
    until = when(job.get("expires_at"))
    if until is not None and until > now:
        return "unknown", None, None
    return "done", "error", {
        "exception_type": EXPIRED,
        "exception_message": "the server no longer has this job or its outputs",
    }  # fmt: skip


def _error(error: object) -> Mapping[str, object] | None:
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


def _progress(progress: object) -> Mapping[str, object] | None:
    """A progress snapshot; None for the constant zeros that the proxy's polls give."""
    if not isinstance(progress, Mapping) or not (progress.get("value") or progress.get("nodes_total")):
        return None
    return progress


def outputs_of(listed: object, content_url: Callable[[str], str]) -> Outputs:
    """Flat outputs in ComfyUI's own shape: node id -> key -> files, each with the address of its bytes."""
    found: Outputs = {}
    seen: set[str] = set()
    for item in foreign.mappings(listed):
        file = _file(item, content_url)
        if file is None or file["url"] in seen:
            continue
        seen.add(file["url"])
        node = found.setdefault(str(item.get("node_id")), {})
        files = node.setdefault(OUTPUT_KEYS.get(str(item.get("type")), "files"), [])
        files.append(_apart(file, node))
    return found


def _file(item: Mapping[str, object], content_url: Callable[[str], str]) -> File | None:
    name, asset_id = foreign.text(item.get("name")), foreign.text(item.get("id"))
    url = content_url(asset_id) if asset_id else foreign.text(item.get("url"))
    if not name or not url:
        return None
    kind = "temp" if name.startswith(TEMPORARY) else "output"
    file = {"filename": name, "subfolder": "", "type": kind, "url": url}
    if content_type := foreign.text(item.get("content_type")):
        file["content_type"] = content_type
    if asset_id:
        file["asset_id"] = asset_id
    return file


def _apart(file: File, node: Mapping[str, list[File]]) -> File:
    """v2 drops subfolders: two files of one node with the same name are still different files."""
    same = sum(other["filename"] == file["filename"] for files in node.values() for other in files)
    return file | {"subfolder": f"{same + 1}"} if same else file


def row(job: Mapping[str, object]) -> JobSummary:
    """One row of a list: the proxy lists whole job objects, deployments stored records with other time keys."""
    status = str(job.get("status") or "").lower()
    phase, outcome = ("unknown", None) if status == EXPIRED else STATUSES.get(status, ("running", None))
    outputs = job.get("outputs")
    # Deployments have other names for two of the times.
    created = job.get("created_at", job.get("create_time"))
    ended = job.get("completed_at", job.get("update_time") if phase == "done" else None)
    return JobSummary(
        str(job["id"]),
        "done" if phase == "unknown" else phase,
        outcome,
        created=when(created),
        started=when(job.get("started_at")),
        ended=when(ended),
        position=_count(job.get("queue_position")),
        outputs_count=len(outputs) if isinstance(outputs, list) else None,
        mark=mark_of(job),
    )


def mark_of(job: Mapping[str, object]) -> str | None:
    """Our own id in a job's label: a map on deployments, a text on the proxy."""
    label = job.get("metadata")
    if isinstance(label, Mapping):
        return str(label[MARK]) if MARK in label else None
    if isinstance(label, str) and label.startswith(f"{MARK}:"):
        return label.removeprefix(f"{MARK}:")
    return None


def when(value: object) -> float | None:
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


def _count(value: object) -> int | None:
    count = foreign.whole(value)
    return count if count is not None and count >= 0 else None


def envelope(response: requests.Response) -> Mapping[str, object]:
    """The `error` object of an answer; empty where a proxy in front answered instead."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return foreign.mapping(foreign.mapping(body).get("error"))


def failure(url: str, response: requests.Response) -> SkillError | None:
    """The SkillError for a typed error, with `http_status` and `retry_after` among its details; None when untyped."""
    elsewhere = cloud.storage_failure(url, response)
    if elsewhere is not None:
        return elsewhere
    error = envelope(response)
    kind = str(error.get("code") or "")
    details: dict[str, Any] = {"http_status": response.status_code}
    if response.status_code == 429:
        details["retry_after"] = retry_after(response)
    said = transport.error_text(response)
    known = refusals.refusal(kind, said, **details)
    if known is not None:
        return known
    if response.status_code == 401:
        return SkillError(
            f"{url} requires an API key, or the key is wrong",
            code="refused",
            hint="API v2 accepts it as a Bearer token: --api-key-file, or COMFY_CLOUD_API_KEY for Comfy Cloud",
            server_said=said,
            **details,
        )
    if kind in SENTENCES:
        code, message, hint, again = SENTENCES[kind]
        exit_code = cli.EXIT_BY_CODE.get(code, Exit.FAILED)
        return SkillError(
            f"{message} ({url})",
            code=code,
            exit=exit_code,
            hint=hint or None,
            retryable=again,
            server_said=said,
            **details,
        )
    if response.status_code == 429:
        return SkillError(
            f"{url} asks for a pause (HTTP 429)", code="busy", retryable=True,
            hint="wait and try again", server_said=said, **details,
        )  # fmt: skip
    if response.status_code == 413:
        return SkillError(
            f"{url} does not accept a request of this size",
            code="too_large",
            hint="deployments accept up to 10,000,000 bytes per job; upload large inputs as files",
            server_said=said,
            **details,
        )
    return None


def retry_after(response: requests.Response) -> float | None:
    """The seconds in a Retry-After, at most a minute; None where it says nothing we can read."""
    wait = transport.retry_seconds(response.headers.get("Retry-After"))
    return None if wait is None else min(wait, 60.0)


def rejection(response: requests.Response, graph: Graph) -> SkillError | None:
    """A rejected graph (exit 6), node by node where the server says which; None for every other failure."""
    error = envelope(response)
    kind = str(error.get("code") or "")
    details = foreign.mapping(error.get("details"))
    if kind not in REJECTIONS and not (
        response.status_code in (400, 422) and kind in ("invalid_request", "metadata_invalid")
    ):
        return None
    if kind == "missing_asset":
        return _missing_asset(error, details)
    message = str(error.get("message") or "")
    inner = {"type": _v1_type(kind, message), "message": message}
    return refusals.rejection({"error": inner, "node_errors": details.get("node_errors")}, graph)


def _v1_type(kind: str, message: str) -> str:
    """ComfyUI's error type for what v2 reports as `invalid_workflow`, derived from the message that it passes on."""
    if "no outputs" in message:
        return "prompt_no_outputs"
    if "does not exist" in message or "not found" in message:
        return "invalid_prompt"
    return "prompt_outputs_failed_validation" if "failed validation" in message else kind


def _missing_asset(error: Mapping[str, object], details: Mapping[str, object]) -> SkillError:
    missing = details.get("missing_ids")
    return SkillError(
        "the graph names an uploaded file that the server does not have (it may have expired)",
        code="rejected",
        exit=Exit.REJECTED,
        status="rejected",
        hint="upload it again: --input-file INPUT=PATH",
        rejection="missing_asset",
        missing=safe_text.clean_tree(safe_text.cap(missing, 12), 200) if isinstance(missing, list) else None,
        server_said=safe_text.clean(error.get("message"), 300),
    )


def is_about_labels(response: requests.Response) -> bool:
    """Whether a submit was refused only for its label: servers differ in whether and how they accept one."""
    error = envelope(response)
    return str(error.get("code") or "").startswith("metadata_") or "'metadata'" in str(
        error.get("message") or ""
    )
