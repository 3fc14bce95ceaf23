"""`/api/jobs`: the newer view on queue and history (0.8.0 only)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from comfyskill.demo.engine import Item
from comfyskill.demo.routes import Route
from comfyskill.demo.validation import Unhandled

if TYPE_CHECKING:
    from comfyskill.demo.application import Demo

STATUSES = ("pending", "in_progress", "completed", "failed")
PREVIEWABLE = ("images", "video", "audio", "3d", "gifs", "videos")
MEDIA_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".mp4",
    ".webm",
    ".wav",
    ".mp3",
    ".flac",
    ".opus",
    ".glb",
)


class JobRoutes:
    """Handlers that only read."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.engine = demo.engine

    def routes(self) -> list[Route]:
        found: list[Route] = []
        # The real server names them with the prefix already, so the doubled prefix works too.
        for prefix in ("/api", "/api/api"):
            found.append(("GET", f"{prefix}/jobs", self.get_jobs))
            found.append(("GET", f"{prefix}/jobs/{{job_id}}", self.get_job))
        return found

    def all_jobs(self) -> list[dict[str, Any]]:
        waiting = [waiting_job(item, "in_progress") for item in self.engine.running.values()]
        waiting += [waiting_job(item, "pending") for item in self.engine.pending]
        return waiting + [finished_job(prompt_id, entry) for prompt_id, entry in self.engine.history.items()]

    async def get_jobs(self, request: web.Request) -> web.Response:
        query = request.rel_url.query
        try:
            statuses = _statuses(query.get("status", ""))
            sort_by = _one_of(
                query.get("sort_by", "created_at"), "sort_by", ("created_at", "execution_duration")
            )
            order = _one_of(query.get("sort_order", "desc"), "sort_order", ("asc", "desc"))
            limit = _integer(query.get("limit"), "limit")
            offset = max(0, _integer(query.get("offset"), "offset") or 0)
            if limit is not None and limit <= 0:
                raise ValueError("limit must be a positive integer")
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        jobs = [job for job in self.all_jobs() if job["status"] in statuses]
        if query.get("workflow_id"):
            jobs = [job for job in jobs if job.get("workflow_id") == query["workflow_id"]]
        jobs.sort(key=_duration if sort_by == "execution_duration" else _created, reverse=order == "desc")
        page = jobs[offset : None if limit is None else offset + limit]
        pagination = {
            "offset": offset,
            "limit": limit,
            "total": len(jobs),
            "has_more": offset + len(page) < len(jobs),
        }
        return web.json_response({"jobs": page, "pagination": pagination})

    async def get_job(self, request: web.Request) -> web.Response:
        job = self.job(request.match_info["job_id"])
        if job is None:
            return web.json_response({"error": "Job not found"}, status=404)
        return web.json_response(job)

    def job(self, job_id: str) -> dict[str, Any] | None:
        """One job in full, or None."""
        for item in self.engine.running.values():
            if item.prompt_id == job_id:
                return waiting_job(item, "in_progress")
        for item in self.engine.pending:
            if item.prompt_id == job_id:
                return waiting_job(item, "pending")
        entry = self.engine.history.get(job_id)
        if entry is None:
            return None
        job = finished_job(job_id, entry)
        job["outputs"] = entry["outputs"]
        job["execution_status"] = entry["status"]
        job["workflow"] = {"prompt": entry["prompt"][2], "extra_data": entry["prompt"][3]}
        return job


def _statuses(text: str) -> list[str]:
    wanted = [word.strip().lower() for word in text.split(",") if word.strip()]
    wrong = [word for word in wanted if word not in STATUSES]
    if wrong:
        raise ValueError(f"Invalid status value(s): {', '.join(wrong)}. Valid values: {', '.join(STATUSES)}")
    return wanted or list(STATUSES)


def _one_of(value: str, name: str, allowed: tuple[str, ...]) -> str:
    if value.lower() not in allowed:
        raise ValueError(f"{name} must be {' or '.join(repr(word) for word in allowed)}")
    return value.lower()


def _integer(value: str | None, name: str) -> int | None:
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"{name} must be an integer") from None


def _created(job: dict[str, Any]) -> int:
    return int(job.get("create_time") or 0)


def _duration(job: dict[str, Any]) -> int:
    return int(job.get("execution_end_time") or 0) - int(job.get("execution_start_time") or 0)


def workflow_id(extra_data: dict[str, Any]) -> Any:
    """The id of the workflow that a run carries. Raises Unhandled for `workflow: null`, as the real server crashes."""
    info = extra_data.get("extra_pnginfo")
    if not isinstance(info, dict) or "workflow" not in info:
        return None
    if not isinstance(info["workflow"], dict):
        raise Unhandled("workflow is null")
    return info["workflow"].get("id")


def waiting_job(item: Item, status: str) -> dict[str, Any]:
    job = {
        "id": item.prompt_id,
        "status": status,
        "priority": item.number,
        "create_time": item.extra_data.get("create_time"),
        "outputs_count": 0,
        "workflow_id": workflow_id(item.extra_data),
    }
    return {key: value for key, value in job.items() if value is not None}


def finished_job(prompt_id: str, entry: dict[str, Any]) -> dict[str, Any]:
    number, _, _, extra_data, _ = entry["prompt"]
    times = {name: data.get("timestamp") for name, data in entry["status"]["messages"]}
    ends = ("execution_success", "execution_error", "execution_interrupted")
    error = next((data for name, data in entry["status"]["messages"] if name == "execution_error"), None)
    count, preview = summary(entry["outputs"])
    job = {
        "id": prompt_id,
        "status": "completed" if entry["status"]["status_str"] == "success" else "failed",
        "priority": number,
        "create_time": extra_data.get("create_time"),
        "execution_start_time": times.get("execution_start"),
        "execution_end_time": next((times[name] for name in ends if name in times), None),
        "execution_error": error,
        "outputs_count": count,
        "preview_output": preview,
        "workflow_id": workflow_id(extra_data),
    }
    return {key: value for key, value in job.items() if value is not None}


def summary(outputs: dict[str, Any]) -> tuple[int, dict[str, Any] | None]:
    """(number of outputs, the one to show): a stored file before a temporary one."""
    count = 0
    best: dict[str, Any] | None = None
    for node_id, output in outputs.items():
        for media, items in output.items():
            if media == "animated" or not isinstance(items, list):
                continue
            for item in items:
                count += 1
                if not isinstance(item, dict) or not _previewable(media, item):
                    continue
                if best is None or (best.get("type") != "output" and item.get("type") == "output"):
                    best = {**item, "nodeId": node_id, "mediaType": media}
    return count, best


def _previewable(media: str, item: dict[str, Any]) -> bool:
    return media in PREVIEWABLE or str(item.get("filename", "")).lower().endswith(MEDIA_SUFFIXES)
