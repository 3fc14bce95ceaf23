"""The cloud's job routes: list, record, cancel, queue, history."""

from __future__ import annotations

import json
import uuid

from aiohttp import web

from comfyskill.base.cli import Document
from comfyskill.demo.cloud_answers import is_uuid, refusal
from comfyskill.demo.cloud_jobs import Job, Jobs, rfc3339
from comfyskill.demo.engine import Engine
from comfyskill.demo.routes import Route, empty, read_json

STATES = ("pending", "in_progress", "completed", "failed", "cancelled")


class CloudJobRoutes:
    """Handlers over the job records."""

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        self.engine = engine
        self.jobs = jobs

    def routes(self) -> list[Route]:
        return [
            ("GET", "/jobs", self.list_jobs),
            ("POST", "/jobs/cancel", self.cancel_many),
            ("GET", "/jobs/{id}", self.get_job),
            ("GET", "/jobs/{id}/assets", self.job_assets),
            ("POST", "/jobs/{id}/cancel", self.cancel),
            ("GET", "/job/{id}/status", self.old_status),
            ("GET", "/queue", self.get_queue),
            ("POST", "/queue", self.post_queue),
            ("POST", "/interrupt", self.interrupt),
            ("GET", "/history_v2", self.history),
            ("GET", "/history_v2/{id}", self.history_of),
        ]

    def _job(self, request: web.Request) -> Job | None:
        return self.jobs.visible(request.match_info["id"])

    async def list_jobs(self, request: web.Request) -> web.Response:
        query = request.rel_url.query
        wanted = [word for word in query.get("status", "").split(",") if word]
        if any(word not in STATES for word in wanted):
            return refusal(400, "INVALID_STATUS", f"status must be of {', '.join(STATES)}")
        try:
            limit = min(1000, max(1, int(query.get("limit", "100"))))
            offset = int(query.get("after") or query.get("offset") or 0)
        except ValueError:
            return refusal(400, "INVALID_CURSOR", "malformed cursor")
        found = [job for job in self.jobs.jobs.values() if self.jobs.visible(job.id) is not None]
        found = [job for job in found if not wanted or self.jobs.state(job) in wanted]
        if query.get("sort_order", "desc") == "desc":
            found.reverse()
        page = found[offset : offset + limit]
        more = offset + len(page) < len(found)
        pagination: Document = {"offset": offset, "limit": limit, "total": len(found), "has_more": more}
        if more:
            pagination["next_cursor"] = str(offset + len(page))
        return web.json_response({"jobs": [self.jobs.brief(job) for job in page], "pagination": pagination})

    async def get_job(self, request: web.Request) -> web.Response:
        if not is_uuid(request.match_info["id"]):
            return refusal(400, "INVALID_ID", "not a job id")
        job = self._job(request)
        return (
            refusal(404, "NOT_FOUND", "Job not found")
            if job is None
            else web.json_response(self.jobs.full(job))
        )

    async def old_status(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job is None:
            return refusal(404, "NOT_FOUND", "Job not found")
        error = self.jobs.error(job)
        raw = self.jobs.raw(job)
        failed = raw in ("error", "lost", "non_retryable_error", "retryable_error")
        message = (json.dumps(error) if error is not None else f"job ended: {raw}") if failed else None
        answer = {
            "id": job.id,
            "status": raw,
            "created_at": rfc3339(job.created),
            "updated_at": rfc3339(job.ended or job.started or job.created),
            "last_state_update": rfc3339(job.ended or job.started or job.created),
            "assigned_inference": "demo" if job.started else None,
            "error_message": message,
        }
        return web.json_response(answer)

    async def job_assets(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job is None:
            return refusal(404, "NOT_FOUND", "Job not found")
        assets = [
            {
                "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{job.id}/{node}/{key}/{index}")),
                "name": item.get("display_name") or item["filename"],
                "created_at": rfc3339(job.ended),
                "hash": item["filename"],
                "node_id": node,
                "output_key": key,
                "output_index": index,
            }
            for node, output in job.entry.get("outputs", {}).items()
            for key, items in output.items()
            for index, item in enumerate(items)
            if isinstance(item, dict) and "filename" in item
        ]
        pagination = {"offset": 0, "limit": 500, "total": len(assets), "has_more": False}
        return web.json_response({"job_id": job.id, "assets": assets, "pagination": pagination})

    async def cancel(self, request: web.Request) -> web.Response:
        if not is_uuid(request.match_info["id"]):
            return refusal(400, "INVALID_ID", "not a job id")
        job = self.jobs.jobs.get(request.match_info["id"])
        if job is None:
            return refusal(404, "NOT_FOUND", "Job not found")
        return web.json_response({"cancelled": self.jobs.cancel(job)})

    async def cancel_many(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        ids = body.get("job_ids") if isinstance(body, dict) else None
        if not isinstance(ids, list) or not ids or not all(is_uuid(job_id) for job_id in ids):
            return refusal(400, "INVALID_ID", "job_ids must be job ids")
        if any(job_id not in self.jobs.jobs for job_id in ids):
            return refusal(404, "NOT_FOUND", "Job not found")
        return web.json_response(
            {"cancelled": [job_id for job_id in ids if self.jobs.cancel(self.jobs.jobs[job_id])]}
        )

    async def get_queue(self, _request: web.Request) -> web.Response:
        running, pending = list(self.engine.running.values()), sorted(self.engine.pending)
        rows = [
            [place + 1, item.prompt_id, item.prompt, item.outputs, {"create_time": item.created}]
            for place, item in enumerate([*running, *pending])
        ]
        return web.json_response(
            {"queue_running": rows[: len(running)], "queue_pending": rows[len(running) :]}
        )

    async def post_queue(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        if not isinstance(body, dict) or body.keys() - {"delete", "clear"}:
            return refusal(400, "INVALID_REQUEST", "only delete and clear are known")
        deleted = []
        if body.get("clear"):
            for job in [job for job in self.jobs.active() if job.state == "pending"]:
                self.jobs.cancel(job)
        for job_id in body.get("delete") or []:
            known = self.jobs.jobs.get(str(job_id))
            if known is not None and self.jobs.cancel(known):
                deleted.append(known.id)
        return web.json_response({"deleted": deleted, "cleared": bool(body.get("clear"))})

    async def interrupt(self, _request: web.Request) -> web.Response:
        for job in [job for job in self.jobs.active() if job.state == "in_progress"][:1]:
            self.jobs.cancel(job)
        return empty()

    # history

    def _recorded(self) -> list[Job]:
        return [
            job
            for job in self.jobs.jobs.values()
            if job.started is not None and self.jobs.visible(job.id) is not None
        ]

    def _record(self, job: Job, brief: bool) -> Document:
        prompt = {"priority": 0, "prompt_id": job.id, "extra_data": dict(job.item.extra_data)}
        if not brief:
            prompt |= {"prompt": job.item.prompt, "outputs_to_execute": job.item.outputs}
        return {
            "prompt": prompt,
            "outputs": job.entry.get("outputs", {}),
            "status": job.entry.get("status", {}),
            "meta": job.entry.get("meta", {}),
        }

    async def history(self, request: web.Request) -> web.Response:
        query = request.rel_url.query
        try:
            most, offset = int(query.get("max_items", "100")), int(query.get("offset", "0"))
        except ValueError:
            return refusal(400, "INVALID_REQUEST", "max_items and offset are numbers")
        jobs = self._recorded()[::-1][offset : offset + most]
        rows = [
            {"prompt_id": job.id, "create_time": self.jobs.clock(job.created), **self._record(job, True)}
            for job in jobs
        ]
        return web.json_response({"history": rows})

    async def history_of(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job is None or job.started is None:
            return refusal(404, "NOT_FOUND", "Job not found")
        return web.json_response({job.id: self._record(job, False)})
