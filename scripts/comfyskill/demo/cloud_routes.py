"""Comfy Cloud's v1 interface on the same engine: keys, plans, renamed routes, jobs, signed files."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any

from aiohttp import web

from comfyskill.demo.cloud_answers import refusal, typed
from comfyskill.demo.cloud_file_routes import MAX_BYTES, CloudFileRoutes
from comfyskill.demo.cloud_job_routes import CloudJobRoutes
from comfyskill.demo.cloud_jobs import ENDED, Jobs
from comfyskill.demo.cloud_storage import Storage
from comfyskill.demo.cloud_switches import CAP_SECONDS, CONCURRENCY
from comfyskill.demo.routes import Handler, Route, empty, read_json
from comfyskill.demo.routes_info import DEMO_MARK
from comfyskill.demo.validation import Unhandled

if TYPE_CHECKING:
    from comfyskill.demo.parts import Parts
    from comfyskill.demo.routes_files import FileRoutes
    from comfyskill.demo.routes_info import InfoRoutes
    from comfyskill.demo.routes_run import RunRoutes
    from comfyskill.demo.routes_user import UserRoutes

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
    "FREE_TIER_UNAVAILABLE": "The free tier is switched off at the moment.",
    "FREE_TIER_EXHAUSTED": "The free allowance is used up.",
    "FREE_TIER_NOT_ALLOWED": "This needs a paid plan.",
    "PAYMENT_REQUIRED": "Payment required: there are no credits left.",
    "CLOUD_SUBSCRIPTION_REQUIRED": "An active subscription is required.",
    "PARTNER_NODE_PAYMENT_REQUIRED": "Partner nodes need credits.",
    "MODEL_PAYMENT_REQUIRED": "This model needs a paid plan.",
}
DEFAULT_KEY = "comfyui-demo-key"
THROTTLING = ("QUEUE_LIMIT", "FREE_TIER_UNAVAILABLE", "bare")


class CloudRoutes:
    """Handlers of the cloud double."""

    def __init__(
        self,
        demo: Parts,
        info: InfoRoutes,
        run: RunRoutes,
        files: FileRoutes,
        user: UserRoutes,
        own: list[Route],
    ) -> None:
        """`own`: routes that the cloud has under the same path as a local server."""
        self.demo = demo
        self.info = info
        self.run = run
        self.user_routes = user
        self.own = own
        self.engine = demo.engine
        self.switches = dict(demo.options.cloud_options)
        self.jobs = Jobs(demo.engine, self.switches)
        self.storage = Storage(demo.options.host, float(self.switches["view_expires"]))
        self.job_routes = CloudJobRoutes(demo.engine, self.jobs, self.switches)
        self.file_routes = CloudFileRoutes(demo, files, self.jobs, self.storage, self.switches)
        self.refused = 0
        self.count = 0

    @property
    def concurrency(self) -> int:
        return int(self.switches["concurrency"] or CONCURRENCY[self.demo.options.tier])

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
        named += [("GET", "/view", self.file_routes.view), *self.own]
        if self.demo.options.control:
            named.append(("GET", "/demo/storage", self.storage_log))
        return named

    # access

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check key and plan; bare 404 for everything that the cloud does not have."""
        path = request.path
        if path.startswith("/demo/"):
            return await handler(request)
        try:
            if request.match_info.http_exception is not None:
                return web.Response(status=404, text="404 page not found")
            if not self._open(path) and not self._has_key(request):
                return refusal(401, "UNAUTHORIZED", "Authentication required: invalid or missing API key")
            free = self.demo.options.tier == "free" and self.switches["free_403"] == "on"
            if free and path.startswith(PAID):
                return refusal(403, "FORBIDDEN", "API access is not part of the free plan")
            return await handler(request)
        except Unhandled as error:
            return refusal(500, "INTERNAL", str(error))

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
        if (request.content_length or 0) > float(self.switches["max_workflow_kb"]) * 1024:
            return typed(413, "WORKFLOW_TOO_LARGE", "The workflow is too large.")
        body = await read_json(request)
        self.demo.faults.moment("submit")
        if not isinstance(body, dict):
            return typed(400, "no_prompt", "No prompt provided")
        refused = self._refusal(body)
        if refused is not None:
            return refused
        body = {key: value for key, value in body.items() if key not in ("prompt_id", "number", "front")}
        answer, status, item = self.run.accept({**body, "prompt_id": str(uuid.uuid4())})
        if item is None:
            return web.json_response(answer, status=status)
        if answer["node_errors"] and self.switches["node_errors"] == "reject":
            return web.json_response(answer)
        self.count += 1
        self.jobs.add(item)
        if self.demo.faults.strike("job-lost", at="accepted") is None:
            self.engine.put(item)
        self._start_clock(item.prompt_id)
        self.demo.faults.moment("accepted")
        return web.json_response({**answer, "number": self.count})

    def _refusal(self, body: dict[str, Any]) -> web.Response | None:
        kind = self.switches["refuse"]
        if kind and (not self.switches["refuse_times"] or self.refused < int(self.switches["refuse_times"])):
            self.refused += 1
            return self._refuse(kind)
        if self.demo.options.tier == "free":
            return self._refuse("FREE_TIER_NOT_ALLOWED")
        if len(self.engine.pending) >= int(self.switches["queue_limit"]):
            return self._refuse("QUEUE_LIMIT")
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

    def _refuse(self, kind: str) -> web.Response:
        old = self.switches["refusals"] == "old"
        status = 429 if kind in THROTTLING or old else 402
        status = int(self.switches["refuse_status"] or status)
        if kind == "bare":
            answer = web.json_response(
                {"message": "Rate limit exceeded. Please try again later."}, status=status
            )
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

    def _start_clock(self, job_id: str) -> None:
        cap = float(self.switches["cap_s"] or CAP_SECONDS[self.demo.options.tier])
        asyncio.get_running_loop().call_later(cap, self._over_cap, job_id, cap)

    def _over_cap(self, job_id: str, cap: float) -> None:
        job = self.jobs.jobs.get(job_id)
        if job is None or job.state in ENDED:
            return
        left = cap - (time.time() - job.started) if job.started is not None else cap
        if left > 0.01:
            asyncio.get_running_loop().call_later(left, self._over_cap, job_id, cap)
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

    async def storage_log(self, _request: web.Request) -> web.Response:
        return web.json_response({"url": self.storage.url, "requests": list(self.storage.seen)})

    # about

    async def models_of(self, request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        names = self.info.files_of(folder)
        if not names:
            return refusal(404, "folder_not_found", f"Folder not found: {folder}")
        return web.json_response([{"name": name, "pathIndex": 0} for name in names])

    async def features(self, request: web.Request) -> web.Response:
        found: dict[str, Any] = {"supports_preview_metadata": True, "max_upload_size": MAX_BYTES}
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
