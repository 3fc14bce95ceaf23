"""`/api/jobs`: the newer view of queue and history; with 0.33 also the routes that cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from comfyskill.base.cli import Document
from comfyskill.demo.job_rows import finished_job, waiting_job
from comfyskill.demo.routes import Route, read_json
from comfyskill.demo.routes_run import is_prompt_id
from comfyskill.demo.validation import Unhandled

if TYPE_CHECKING:
    from comfyskill.demo.parts import Parts

STATUSES = ("pending", "in_progress", "completed", "failed")


class JobRoutes:
    """Handlers over the engine's queue and history."""

    def __init__(self, demo: Parts) -> None:
        self.engine = demo.engine
        self.newest = demo.options.newest
        self.statuses = (*STATUSES, "cancelled") if self.newest else STATUSES

    def routes(self) -> list[Route]:
        found: list[Route] = []
        # The real server names them with the prefix already, so the doubled prefix works too.
        for prefix in ("/api", "/api/api"):
            found.append(("GET", f"{prefix}/jobs", self.get_jobs))
            found.append(("GET", f"{prefix}/jobs/{{job_id}}", self.get_job))
            if self.newest:
                found.append(("POST", f"{prefix}/jobs/cancel", self.cancel_many))
                found.append(("POST", f"{prefix}/jobs/{{job_id}}/cancel", self.cancel))
        return found

    def all_jobs(self) -> list[Document]:
        """The jobs that run, wait and have ended, in this order."""
        newest = self.newest
        waiting = [waiting_job(item, "in_progress", newest) for item in self.engine.running.values()]
        waiting += [waiting_job(item, "pending", newest) for item in self.engine.pending]
        return waiting + [
            finished_job(job_id, entry, newest) for job_id, entry in self.engine.history.items()
        ]

    async def get_jobs(self, request: web.Request) -> web.Response:
        query = request.rel_url.query
        try:
            statuses = self._statuses(query.get("status", ""))
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
                return waiting_job(item, "in_progress", self.newest)
        for item in self.engine.pending:
            if item.prompt_id == job_id:
                return waiting_job(item, "pending", self.newest)
        entry = self.engine.history.get(job_id)
        if entry is None:
            return None
        job = finished_job(job_id, entry, self.newest)
        job["outputs"] = entry["outputs"]
        job["execution_status"] = entry["status"]
        job["workflow"] = {"prompt": entry["prompt"][2], "extra_data": entry["prompt"][3]}
        return job

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel one job. `cancelled` is false for an unknown id and for a job that has ended."""
        return web.json_response({"cancelled": self.engine.cancel(request.match_info["job_id"])})

    async def cancel_many(self, request: web.Request) -> web.Response:
        """Cancel jobs. `cancelled` is true if one of them was stopped; a malformed id stops none."""
        try:
            body = await read_json(request)
        except Unhandled:
            return web.json_response({"error": "Request body must be valid JSON"}, status=400)
        ids = body.get("job_ids") if isinstance(body, dict) else None
        if not isinstance(ids, list):
            return web.json_response({"error": "job_ids must be a list"}, status=400)
        invalid = [str(job_id) for job_id in ids if not is_prompt_id(job_id)]
        if invalid:
            error = "job_ids contains invalid id(s)"
            return web.json_response({"error": error, "invalid_ids": invalid}, status=400)
        stopped = [self.engine.cancel(job_id) for job_id in ids]
        return web.json_response({"cancelled": any(stopped)})

    def _statuses(self, text: str) -> tuple[str, ...]:
        wanted = tuple(word.strip().lower() for word in text.split(",") if word.strip())
        wrong = [word for word in wanted if word not in self.statuses]
        if wrong:
            known = ", ".join(self.statuses)
            raise ValueError(f"Invalid status value(s): {', '.join(wrong)}. Valid values: {known}")
        return wanted or self.statuses


def _created(job: Document) -> int:
    return int(job.get("create_time") or 0)


def _duration(job: Document) -> int:
    return int(job.get("execution_end_time") or 0) - int(job.get("execution_start_time") or 0)


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
