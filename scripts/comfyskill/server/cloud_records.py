"""Job records of Comfy Cloud v1 -> the values that every protocol shares. Pure.

Level 2. Source: the cloud fact sheet; where its sources disagree, both variants are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from comfyskill.server.protocol import JobSummary, seconds

# Every status word the sources name -> (phase, outcome). An unknown word means that the job is still going.
STATUSES: dict[str, tuple[str, str | None]] = {
    **dict.fromkeys(
        ("pending", "waiting_to_dispatch", "submitted", "queued_limited", "queued_waiting", "allocated", "preparing",
         "pending_execution"), ("pending", None),
    ),
    **dict.fromkeys(("in_progress", "executing", "executed"), ("running", None)),
    **dict.fromkeys(("completed", "success"), ("done", "success")),
    **dict.fromkeys(
        ("failed", "error", "non_retryable_error", "retryable_error", "lost"), ("done", "error")
    ),
    **dict.fromkeys(("cancelled", "canceled"), ("done", "cancelled")),
    # On their way to an end, not there yet.
    **dict.fromkeys(("erroring", "cancel_requested", "cancel_pending", "cancelling_preparing"), ("running", None)),
}  # fmt: skip


def error_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The failure, whether it comes as an object, as JSON in a string, or as plain words. No inputs: they may be secret."""
    error = answer.get("execution_error")
    if not isinstance(error, Mapping):
        said = answer.get("error_message")
        try:
            error = json.loads(said) if isinstance(said, str) else None
        except (ValueError, RecursionError):
            error = None
        if not isinstance(error, Mapping):
            error = {
                "exception_message": said if isinstance(said, str) and said else "the cloud gave no reason"
            }
    return {key: value for key, value in error.items() if key not in ("current_inputs", "current_outputs")}


def row(job: Mapping[str, Any]) -> JobSummary:
    phase, outcome = STATUSES.get(str(job.get("status")).lower(), ("running", None))
    count = job.get("outputs_count")
    return JobSummary(
        str(job["id"]),
        phase,
        outcome,
        created=seconds(job.get("create_time")),
        started=seconds(job.get("execution_start_time")),
        ended=seconds(job.get("execution_end_time")),
        outputs_count=count if isinstance(count, int) else None,
    )
