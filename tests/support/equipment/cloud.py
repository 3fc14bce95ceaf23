"""Variants of the simulated cloud (`--cloud-option NAME=VALUE`): refusals, late records, other names, other limits."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from comfyskill.demo.cloud_answers import typed
from comfyskill.demo.cloud_file_routes import CloudFileRoutes
from comfyskill.demo.cloud_job_routes import CloudJobRoutes
from comfyskill.demo.cloud_jobs import ENDED, Job, Jobs
from comfyskill.demo.cloud_routes import CloudRoutes
from comfyskill.demo.cloud_storage import CREDENTIALS, Storage
from comfyskill.demo.parts import Parts
from comfyskill.demo.routes import Handler, empty

SWITCHES: Mapping[str, tuple[str, str]] = {
    "appear_ms": ("50", "how long a new job answers 404"),
    "outputs_late": ("0", "the first N `completed` answers of a job lack their outputs"),
    "record_late_ms": ("0", "delay between the end frame and the end of the job record"),
    "times": ("ms", "create_time in ms or s"),
    "names": ("hash", "output file names: hash (with display_name) or plain"),
    "video_key": ("video", "key of videos in the outputs: video or images"),
    "status_words": ("raw", "/api/job/{id}/status uses raw or schema words"),
    "raw_status": ("", "raw status of every ended job (lost, retryable_error, an unknown one ...)"),
    "refusals": ("new", "plan refusals: new (402) or old (429)"),
    "refuse": ("", "refuse submits with this error.type (bare: a 429 without type)"),
    "refuse_times": ("", "number of refused submits (empty: all)"),
    "refuse_status": ("", "the status of such refusals (default: by type)"),
    "retry_after": ("", "Retry-After of such refusals, in seconds"),
    "free_403": ("on", "the free tier gets 403 on nodes, queue, files: on or off"),
    "partner": ("on", "off: workspace policy refuses partner nodes (403)"),
    "queue_limit": ("100", "largest number of waiting jobs"),
    "concurrency": ("", "concurrent jobs (default: by tier)"),
    "cap_s": ("", "longest run in seconds (default: by tier)"),
    "cap_status": ("cancelled", "how a run over the cap ends: cancelled or failed"),
    "interrupt": ("first", "/api/interrupt stops the first active job, or all"),
    "view": ("redirect", "/api/view: redirect to the other origin, or direct"),
    "view_expires": ("3600", "signed addresses are valid for N seconds"),
    "node_errors": (
        "prune",
        "a partly invalid graph: prune (run the rest), or reject (200 with node_errors, no run)",
    ),
    "max_workflow_kb": ("10240", "larger submits get 413"),
}
TEXTS = {
    "QUEUE_LIMIT": "The queue is full. Wait until queued jobs have finished.",
    "FREE_TIER_UNAVAILABLE": "The free tier is switched off at the moment.",
    "FREE_TIER_EXHAUSTED": "The free allowance is used up.",
    "FREE_TIER_NOT_ALLOWED": "This needs a paid plan.",
    "PAYMENT_REQUIRED": "Payment required: there are no credits left.",
    "CLOUD_SUBSCRIPTION_REQUIRED": "An active subscription is required.",
    "PARTNER_NODE_PAYMENT_REQUIRED": "Partner nodes need credits.",
    "MODEL_PAYMENT_REQUIRED": "This model needs a paid plan.",
}
THROTTLING = ("QUEUE_LIMIT", "FREE_TIER_UNAVAILABLE", "bare")
SCHEMA = {"pending": "pending", "in_progress": "in_progress", "completed": "completed", "failed": "error"}


def read_switches(given: Iterable[str]) -> dict[str, str]:
    """All switches with their values. Raises ValueError with a sentence."""
    switches = {name: default for name, (default, _) in SWITCHES.items()}
    for item in given:
        name, equals, value = item.partition("=")
        if name not in SWITCHES or not equals:
            raise ValueError(f"--cloud-option {item!r}: write NAME=VALUE; there are: {', '.join(SWITCHES)}")
        switches[name] = value
    for name, value in switches.items():
        number = (
            name.endswith(("_ms", "_s", "_kb", "_late", "_times", "_limit", "_expires"))
            or name == "concurrency"
        )
        if number and value and not value.replace(".", "", 1).isdigit():
            raise ValueError(f"--cloud-option {name}: {value!r} is not a number")
    return switches


def table() -> str:
    """All switches as text for `--help`."""
    lines = ["Variants of the cloud (--cloud-option NAME=VALUE; defaults are shown):"]
    lines += [f"  {name}={default}\n      {about}" for name, (default, about) in SWITCHES.items()]
    return "\n".join(lines)


class VariedJobs(Jobs):
    """Job records as the switches want them."""

    def __init__(self, switches: Mapping[str, str], engine: Any) -> None:
        super().__init__(engine)
        self.switches = switches
        self.appears_after = float(switches["appear_ms"]) / 1000
        self.asked_when_done: dict[str, int] = {}

    def forget(self) -> None:
        """A new account."""
        self.jobs.clear()
        self.files.clear()
        self.asked_when_done.clear()

    def changed(self, event: str, item: Any, status: str) -> None:
        super().changed(event, item, status)
        job = self.jobs.get(item.prompt_id)
        if job is not None and event == "end" and job.capped and not job.cancelled:
            job.state = self.switches["cap_status"]

    def state(self, job: Job) -> str:
        late = float(self.switches["record_late_ms"]) / 1000
        if job.state in ENDED and job.ended is not None and time.time() - job.ended < late:
            return "in_progress"
        return job.state

    def clock(self, seconds: float) -> int:
        return super().clock(seconds) if self.switches["times"] == "ms" else int(seconds)

    def full(self, job: Job) -> dict[str, Any]:
        found = super().full(job)
        if "outputs" in found:
            asked = self.asked_when_done[job.id] = self.asked_when_done.get(job.id, 0) + 1
            if asked <= int(self.switches["outputs_late"]):
                del found["outputs"]
        return found

    def raw(self, job: Job) -> str:
        state = self.state(job)
        if state in ENDED and self.switches["raw_status"]:
            return self.switches["raw_status"]
        return SCHEMA.get(state, state) if self.switches["status_words"] == "schema" else super().raw(job)

    def key_of(self, key: str, name: str) -> str:
        return super().key_of(key, name) if self.switches["video_key"] == "video" else key

    def file(self, item: dict[str, Any]) -> tuple[dict[str, Any], str]:
        dressed, name = super().file(item)
        if self.switches["names"] == "plain" and dressed is not item:
            self.files[name] = self.files[dressed["filename"]]
            return item, name
        return dressed, name


class VariedJobRoutes(CloudJobRoutes):
    """/api/interrupt that stops all active jobs."""

    def __init__(self, switches: Mapping[str, str], *parts: Any) -> None:
        super().__init__(*parts)
        self.switches = switches

    async def interrupt(self, request: web.Request) -> web.Response:
        if self.switches["interrupt"] == "first":
            return await super().interrupt(request)
        for job in [job for job in self.jobs.active() if job.state == "in_progress"]:
            self.jobs.cancel(job)
        return empty()


class VariedFileRoutes(CloudFileRoutes):
    """/api/view that may send the file itself."""

    def __init__(self, switches: Mapping[str, str], *parts: Any) -> None:
        super().__init__(*parts)
        self.switches = switches

    def send(self, path: Path, known: str) -> web.StreamResponse:
        return web.FileResponse(path) if self.switches["view"] == "direct" else super().send(path, known)


class LoggedStorage(Storage):
    """A storage that keeps the requests it received, with their headers."""

    def __init__(self, switches: Mapping[str, str], host: str) -> None:
        super().__init__(host, float(switches["view_expires"]))
        self.seen: deque[dict[str, Any]] = deque(maxlen=10_000)

    async def get(self, request: web.Request) -> web.StreamResponse:
        given = [header for header in CREDENTIALS if header in request.headers]
        entry = {"path": request.path, "headers": dict(request.headers), "credentials": given}
        self.seen.append({**entry, "time": time.time()})
        return await super().get(request)


class VariedCloud(CloudRoutes):
    """The cloud with other limits and refusals."""

    def __init__(self, switches: Mapping[str, str], demo: Parts) -> None:
        self.switches = switches
        for part, varied in (("jobs", VariedJobs), ("job_routes", VariedJobRoutes), ("file_routes", VariedFileRoutes),
                             ("storage", LoggedStorage)):  # fmt: skip
            setattr(self, f"{part}_class", functools.partial(varied, switches))
        super().__init__(demo)
        self.refused = 0
        self.queue_limit = int(switches["queue_limit"])
        self.max_workflow_bytes = float(switches["max_workflow_kb"]) * 1024
        self.concurrency = int(switches["concurrency"] or self.concurrency)
        self.cap_seconds = float(switches["cap_s"] or self.cap_seconds)

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """As the cloud's, but for the control routes."""
        if request.path.startswith("/demo/"):
            return await handler(request)
        return await super().guard(request, handler)

    def needs_plan(self, path: str) -> bool:
        return self.switches["free_403"] == "on" and super().needs_plan(path)

    def runs(self, answer: Mapping[str, object]) -> bool:
        return not (answer["node_errors"] and self.switches["node_errors"] == "reject")

    def refusal(self, body: Mapping[str, object]) -> web.Response | None:
        kind = self.switches["refuse"]
        if kind and (not self.switches["refuse_times"] or self.refused < int(self.switches["refuse_times"])):
            self.refused += 1
            return self.refuse(kind)
        refused = super().refusal(body)
        if refused is not None:
            return refused
        partners = self._partners(body.get("prompt"))
        if partners and self.switches["partner"] == "off":
            error = {
                "type": "PARTNER_NODE_DISABLED",
                "message": "Partner nodes are disabled by the workspace's policy.",
                "class_types": partners,
                "providers": ["demo"],
            }
            return web.json_response({"error": error}, status=403)
        return None

    def refuse(self, kind: str) -> web.Response:
        old = self.switches["refusals"] == "old"
        status = int(self.switches["refuse_status"] or (429 if kind in THROTTLING or old else 402))
        if kind == "bare":
            message = "Rate limit exceeded. Please try again later."
            answer = web.json_response({"message": message}, status=status)
        else:
            answer = typed(status, kind, TEXTS.get(kind, kind))
        if self.switches["retry_after"]:
            answer.headers["Retry-After"] = self.switches["retry_after"]
        return answer

    def _partners(self, prompt: Any) -> list[str]:
        if not isinstance(prompt, dict):
            return []
        names = {str(node.get("class_type")) for node in prompt.values() if isinstance(node, dict)}
        known = self.demo.definitions
        return sorted(name for name in names if name in known and known.node(name).api_node)
