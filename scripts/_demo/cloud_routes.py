"""Comfy Cloud's v1 interface over the same engine: keys, plans, renamed routes, jobs, signed files."""

from __future__ import annotations

import asyncio
import io
import json
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .cloud_jobs import ENDED, Job, Jobs, rfc3339
from .cloud_storage import Storage
from .cloud_switches import CAP_SECONDS, CONCURRENCY
from .routes import Handler, Route, empty, read_json
from .routes_files import _channel_png
from .validation import Unhandled

if TYPE_CHECKING:
    from .application import Demo

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
THROTTLING = ("QUEUE_LIMIT", "FREE_TIER_UNAVAILABLE", "bare")
MAX_BYTES, MAX_EDGE, MAX_PIXELS = 50 * 1024 * 1024, 16_384, 67_108_864
STATES = ("pending", "in_progress", "completed", "failed", "cancelled")


class CloudRoutes:
    """Handlers of the cloud double."""

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.engine = demo.engine
        self.switches = dict(demo.options.cloud_options)
        self.jobs = Jobs(demo.engine, self.switches)
        self.storage = Storage(demo.options.host, float(self.switches["view_expires"]))
        self.refused = 0
        self.count = 0

    @property
    def concurrency(self) -> int:
        return int(self.switches["concurrency"] or CONCURRENCY[self.demo.options.tier])

    def routes(self) -> list[Route]:
        info, user = self.demo.info, self.demo.user_routes
        found: list[Route] = [
            ("GET", "/prompt", self.demo.run_routes.get_prompt),
            ("POST", "/prompt", self.submit),
            ("GET", "/jobs", self.list_jobs),
            ("POST", "/jobs/cancel", self.cancel_many),
            ("GET", "/jobs/{id}", self.get_job),
            ("GET", "/jobs/{id}/assets", self.job_assets),
            ("POST", "/jobs/{id}/cancel", self.cancel),
            ("GET", "/job/{id}/status", self.old_status),
            ("GET", "/queue", self.get_queue),
            ("POST", "/queue", self.post_queue),
            ("POST", "/interrupt", self.interrupt),
            ("POST", "/free", self.nothing_done),
            ("GET", "/history_v2", self.history),
            ("GET", "/history_v2/{id}", self.history_of),
            ("POST", "/history", self.demo.run_routes.post_history),
            ("GET", "/view", self.view),
            ("POST", "/upload/image", self.upload),
            ("POST", "/upload/mask", self.upload),
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
        named = [(method, f"/api{path}", handler) for method, path, handler in found]
        named += [("GET", "/view", self.view), ("GET", "/ws", self.demo.socket)]
        if self.demo.options.control:
            named += [*self.demo.control.routes(), ("GET", "/demo/storage", self.storage_log)]
        return named

    # who may

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Key, plan, and bare 404 for everything that the cloud does not have."""
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
        answer, status, item = self.demo.run_routes.accept({**body, "prompt_id": str(uuid.uuid4())})
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

    # jobs

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
        pagination: dict[str, Any] = {"offset": offset, "limit": limit, "total": len(found), "has_more": more}
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
        running = [job for job in self.jobs.active() if job.state == "in_progress"]
        for job in running if self.switches["interrupt"] == "all" else running[:1]:
            self.jobs.cancel(job)
        return empty()

    async def nothing_done(self, _request: web.Request) -> web.Response:
        return empty()

    # history

    def _recorded(self) -> list[Job]:
        return [
            job
            for job in self.jobs.jobs.values()
            if job.started is not None and self.jobs.visible(job.id) is not None
        ]

    def _record(self, job: Job, brief: bool) -> dict[str, Any]:
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

    # files

    async def view(self, request: web.Request) -> web.StreamResponse:
        self.demo.faults.moment("view")
        query = request.rel_url.query
        name = query.get("filename", "")
        if not name:
            return refusal(400, "INVALID_REQUEST", "filename is required")
        path = self._find(name, query)
        if path is None:
            return refusal(404, "NOT_FOUND", "File not found")
        if query.get("channel") in ("rgb", "a", "alpha"):
            channel = "rgb" if query["channel"] == "rgb" else "a"
            return web.Response(
                body=await asyncio.to_thread(_channel_png, path, channel), content_type="image/png"
            )
        if "res" in query:
            return web.Response(
                body=await asyncio.to_thread(_thumbnail, path, query["res"]), content_type="image/jpeg"
            )
        if self.switches["view"] == "direct":
            return web.FileResponse(path)
        known = name if name in self.jobs.files else self.jobs.known_as(path)
        return web.Response(status=302, headers={"Location": self.storage.sign(path, known)})

    def _find(self, name: str, query: Any) -> Path | None:
        if name in self.jobs.files:
            return self.jobs.files[name]
        path, _ = self.demo.file_routes.find(query)
        return path

    async def upload(self, request: web.Request) -> web.Response:
        self.demo.faults.moment("upload")
        fields = await request.post()
        picture = fields.get("image")
        if picture is None or isinstance(picture, (str, bytes, bytearray)):
            return refusal(400, "INVALID_REQUEST", "no file")
        data = await asyncio.to_thread(picture.file.read)
        problem = await asyncio.to_thread(_too_large, data)
        if problem:
            return refusal(400, "INVALID_FILE", problem)
        kind = str(fields.get("type", "output"))
        base = self.demo.folders.of(kind) or self.demo.folders.input
        temporary = base / f".{uuid.uuid4().hex}{Path(picture.filename).suffix}"
        temporary.write_bytes(data)
        known = self.jobs.known_as(temporary)
        temporary.replace(base / known)
        self.jobs.files[known] = base / known
        answer: dict[str, Any] = {"name": known, "subfolder": str(fields.get("subfolder", "")), "type": kind}
        if request.path.endswith("mask"):
            related = {"mask": known, "paint": None, "painted": None}
            answer["metadata"] = {
                "is_mask": True,
                "original_hash": "",
                "mask_type": "painted_masked",
                "related_files": related,
            }
        return web.json_response(answer)

    async def storage_log(self, _request: web.Request) -> web.Response:
        return web.json_response({"url": self.storage.url, "requests": list(self.storage.seen)})

    # about

    async def models_of(self, request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        names = self.demo.info.files_of(folder)
        if not names:
            return refusal(404, "folder_not_found", f"Folder not found: {folder}")
        return web.json_response([{"name": name, "pathIndex": 0} for name in names])

    async def features(self, request: web.Request) -> web.Response:
        found: dict[str, Any] = {"supports_preview_metadata": True, "max_upload_size": MAX_BYTES}
        if self._has_key(request):
            found["max_concurrent_jobs"] = self.concurrency
            if self.demo.options.tier == "free":
                found["free_tier_balance"] = {"allowance": 5, "used": 5, "remaining": 0}
        return web.json_response(found)

    async def system_stats(self, _request: web.Request) -> web.Response:
        stats = self.demo.info.stats()
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


DEFAULT_KEY = "comfyui-demo-key"


def is_uuid(text: Any) -> bool:
    try:
        uuid.UUID(str(text))
    except ValueError:
        return False
    return True


def refusal(status: int, code: str, message: str) -> web.Response:
    """The error body of most endpoints."""
    return web.json_response({"code": code, "message": message}, status=status)


def typed(status: int, kind: str, message: str) -> web.Response:
    """The error body of the submit."""
    return web.json_response({"error": {"type": kind, "message": message}, "node_errors": {}}, status=status)


def _too_large(data: bytes) -> str:
    """Why a picture is refused, or nothing."""
    from PIL import Image as pil

    try:
        with pil.open(io.BytesIO(data)) as picture:
            width, height = picture.size
    except (OSError, ValueError, SyntaxError):
        return ""
    if len(data) > MAX_BYTES:
        return "The file is larger than 50 MB"
    if max(width, height) > MAX_EDGE or width * height > MAX_PIXELS:
        return f"The picture has too many pixels: {width} x {height}"
    return ""


def _thumbnail(path: Path, edge: str) -> bytes:
    from PIL import Image as pil

    with pil.open(path) as opened:
        picture = opened.convert("RGB")
    size = int(edge) if edge.isdigit() and int(edge) > 0 else 512
    picture.thumbnail((size, size))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()
