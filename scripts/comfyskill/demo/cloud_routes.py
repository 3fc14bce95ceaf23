"""Comfy Cloud's v1 interface on the same engine: keys, plans, renamed routes, jobs, signed files."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aiohttp import web

from comfyskill.base.cli import Document
from comfyskill.demo.cloud_answers import refusal, typed
from comfyskill.demo.cloud_file_routes import MAX_BYTES, CloudFileRoutes
from comfyskill.demo.cloud_job_routes import CloudJobRoutes
from comfyskill.demo.cloud_jobs import ENDED, Jobs
from comfyskill.demo.cloud_storage import Storage
from comfyskill.demo.routes import Handler, Route, empty, read_json
from comfyskill.demo.routes_files import FileRoutes
from comfyskill.demo.routes_info import DEMO_MARK, InfoRoutes
from comfyskill.demo.routes_run import RunRoutes
from comfyskill.demo.routes_user import UserRoutes
from comfyskill.demo.validation import Unhandled

if TYPE_CHECKING:
    from comfyskill.demo.parts import Parts

OPEN = (
    "/api/system_stats",
    "/api/workflow_templates",
    "/api/global_subgraphs",
    "/api/experiment/models",
    "/api/features",
)
PAID = ("/api/object_info", "/api/queue", "/api/userdata", "/api/upload", "/api/view", "/view")
TEXTS = {
    "QUEUE_LIMIT": "The queue is full. Wait until queued jobs have finished.",
    "FREE_TIER_NOT_ALLOWED": "This needs a paid plan.",
}
DEFAULT_KEY = "comfyui-demo-key"
CONCURRENCY = {"free": 1, "standard": 1, "creator": 3, "pro": 5}
CAP_SECONDS = {"free": 1800, "standard": 1800, "creator": 1800, "pro": 3600}


class CloudRoutes:
    """Handlers of the simulated cloud."""

    jobs_class = Jobs
    storage_class = Storage
    job_routes_class = CloudJobRoutes
    file_routes_class = CloudFileRoutes

    queue_limit = 100
    max_workflow_bytes = 10_240 * 1024

    def __init__(self, demo: Parts) -> None:
        self.demo = demo
        self.info = InfoRoutes(demo)
        self.run = RunRoutes(demo)
        self.user_routes = UserRoutes(demo)
        self.engine = demo.engine
        self.jobs = self.jobs_class(demo.engine)
        self.storage = self.storage_class(demo.options.host)
        self.job_routes = self.job_routes_class(demo.engine, self.jobs)
        self.file_routes = self.file_routes_class(demo, FileRoutes(demo), self.jobs, self.storage)
        self.count = 0
        self.concurrency = CONCURRENCY[demo.options.tier]
        self.cap_seconds: float = CAP_SECONDS[demo.options.tier]

    def routes(self) -> list[Route]:
        info, user = self.info, self.user_routes
        found: list[Route] = [
            ("GET", "/prompt", self.run.get_prompt),
            ("POST", "/prompt", self.submit),
            ("POST", "/free", self.nothing_done),
            ("POST", "/history", self.post_history),
            ("GET", "/object_info", info.object_info),
            ("GET", "/experiment/models", info.experiment_models),
            ("GET", "/experiment/models/{folder}", self.models_of),
            ("GET", "/embeddings", info.embeddings),
            ("GET", "/features", self.features),
            ("GET", "/system_stats", self.system_stats),
            ("GET", "/workflow_templates", info.nothing),
            ("GET", "/global_subgraphs", info.nothing),
            ("GET", "/user", self.user),
            ("GET", "/billing/status", self.billing),
            ("GET", "/billing/balance", self.balance),
            ("GET", "/settings", user.get_settings),
            ("GET", "/userdata", self.userdata),
            ("GET", "/userdata/{file}", user.get_file),
            ("POST", "/userdata/{file}", user.post_file),
            ("DELETE", "/userdata/{file}", user.delete_file),
        ]
        found += self.job_routes.routes() + self.file_routes.routes()
        named = [(method, f"/api{path}", handler) for method, path, handler in found]
        return [*named, ("GET", "/view", self.file_routes.view)]

    # access

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check key and plan; bare 404 for everything that the cloud does not have."""
        path = request.path
        try:
            if request.match_info.http_exception is not None:
                return web.Response(status=404, text="404 page not found")
            if not self._open(path) and not self._has_key(request):
                return refusal(401, "UNAUTHORIZED", "Authentication required: invalid or missing API key")
            if self.needs_plan(path):
                return refusal(403, "FORBIDDEN", "API access is not part of the free plan")
            return await handler(request)
        except Unhandled as error:
            return refusal(500, "INTERNAL", str(error))

    def needs_plan(self, path: str) -> bool:
        """Whether the account's plan does not include this route."""
        return self.demo.options.tier == "free" and path.startswith(PAID)

    def _open(self, path: str) -> bool:
        return path.startswith(OPEN)

    def _has_key(self, request: web.Request) -> bool:
        wanted = self.demo.options.api_key or DEFAULT_KEY
        if request.path == "/ws":
            return request.rel_url.query.get("token") == wanted
        if "X-API-Key" in request.headers:
            return request.headers["X-API-Key"] == wanted
        return request.headers.get("Authorization", "") == f"Bearer {wanted}"

    # submit

    async def submit(self, request: web.Request) -> web.Response:
        if (request.content_length or 0) > self.max_workflow_bytes:
            return typed(413, "WORKFLOW_TOO_LARGE", "The workflow is too large.")
        body = await read_json(request)
        if not isinstance(body, dict):
            return typed(400, "no_prompt", "No prompt provided")
        refused = self.refusal(body)
        if refused is not None:
            return refused
        body = {key: value for key, value in body.items() if key not in ("prompt_id", "number", "front")}
        answer, status, item = self.run.accept({**body, "prompt_id": str(uuid.uuid4())})
        if item is None or not self.runs(answer):
            return web.json_response(answer, status=status)
        self.count += 1
        self.jobs.add(item)
        self.engine.put(item)
        asyncio.get_running_loop().call_later(self.cap_seconds, self._over_cap, item.prompt_id)
        return web.json_response({**answer, "number": self.count})

    def runs(self, answer: Mapping[str, object]) -> bool:
        """Whether a graph runs that was accepted with this answer; of a partly invalid graph the rest runs."""
        return True

    def refusal(self, body: Mapping[str, object]) -> web.Response | None:
        """The refusal of a submit by the account's plan, or None."""
        if self.demo.options.tier == "free":
            return self.refuse("FREE_TIER_NOT_ALLOWED")
        if len(self.engine.pending) >= self.queue_limit:
            return self.refuse("QUEUE_LIMIT")
        return None

    def refuse(self, kind: str) -> web.Response:
        """The answer to a submit that is refused with this error type."""
        return typed(429 if kind == "QUEUE_LIMIT" else 402, kind, TEXTS[kind])

    def _over_cap(self, job_id: str) -> None:
        """Stop a job that has run longer than the plan allows; until then, check again later."""
        job = self.jobs.jobs.get(job_id)
        if job is None or job.state in ENDED:
            return
        left = self.cap_seconds - (time.time() - job.started if job.started is not None else 0)
        if left > 0.01:
            asyncio.get_running_loop().call_later(left, self._over_cap, job_id)
            return
        job.capped = job.item.stop = True

    async def post_history(self, request: web.Request) -> web.StreamResponse:
        answer = await self.run.post_history(request)
        for job in [job for job in self.jobs.jobs.values() if job.ended is not None]:
            if job.entry and job.id not in self.engine.history:
                del self.jobs.jobs[job.id]
        return answer

    async def nothing_done(self, _request: web.Request) -> web.Response:
        return empty()

    # about

    async def models_of(self, request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        names = self.info.files_of(folder)
        if not names:
            return refusal(404, "folder_not_found", f"Folder not found: {folder}")
        return web.json_response([{"name": name, "pathIndex": 0} for name in names])

    async def features(self, request: web.Request) -> web.Response:
        found: Document = {"supports_preview_metadata": True, "max_upload_size": MAX_BYTES}
        found["extension"] = dict(DEMO_MARK)
        if self._has_key(request):
            found["max_concurrent_jobs"] = self.concurrency
            if self.demo.options.tier == "free":
                found["free_tier_balance"] = {"allowance": 5, "used": 5, "remaining": 0}
        return web.json_response(found)

    async def system_stats(self, _request: web.Request) -> web.Response:
        stats = self.info.stats()
        stats["system"] |= {
            "cloud_version": "demo",
            "deploy_environment": "demo",
            "comfyui_frontend_version": "demo",
        }
        return web.json_response(stats)

    async def user(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "active", "id": "demo-user"})

    async def billing(self, _request: web.Request) -> web.Response:
        tier = self.demo.options.tier
        answer = {
            "is_active": tier != "free",
            "has_funds": tier != "free",
            "subscription_tier": tier.upper(),
            "subscription_status": "active",
            "subscription_duration": "MONTHLY",
            "billing_status": "paid",
        }
        return web.json_response(answer)

    async def balance(self, _request: web.Request) -> web.Response:
        return web.json_response({"amount_micros": 1234, "currency": "usd", "effective_balance_micros": 1234})

    async def userdata(self, request: web.Request) -> web.Response:
        folder = self.demo.folders.user / request.rel_url.query.get("dir", "").strip("/")
        if not folder.is_dir():
            return web.Response(status=404, text="Directory not found")
        found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        rows = [
            {
                "path": path.relative_to(folder).as_posix(),
                "size": path.stat().st_size,
                "modified": path.stat().st_mtime,
            }
            for path in found
        ]
        return web.json_response(rows)
