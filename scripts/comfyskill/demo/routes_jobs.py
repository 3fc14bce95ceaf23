"""`/api/jobs`: the newer view of queue and history (0.8.0 only)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from comfyskill.base.cli import Document
from comfyskill.demo.job_rows import _created, _duration, finished_job, waiting_job
from comfyskill.demo.routes import Route

if TYPE_CHECKING:
    from comfyskill.demo.parts import Parts

STATUSES = ("pending", "in_progress", "completed", "failed")


class JobRoutes:
    """Handlers that only read."""

    def __init__(self, demo: Parts) -> None:
        self.demo = demo
        self.engine = demo.engine

    def routes(self) -> list[Route]:
        found: list[Route] = []
        # The real server names them with the prefix already, so the doubled prefix works too.
        for prefix in ("/api", "/api/api"):
            found.append(("GET", f"{prefix}/jobs", self.get_jobs))
            found.append(("GET", f"{prefix}/jobs/{{job_id}}", self.get_job))
        return found

    def all_jobs(self) -> list[Document]:
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

    def job(self, job_id: str) -> Document | None:
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
