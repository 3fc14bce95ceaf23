"""Test control: the requests, the executions, the active faults (`--control` only)."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from aiohttp import web

from comfyskill.demo.routes import Route, read_json
from comfyskill.demo.validation import Unhandled

if TYPE_CHECKING:
    from comfyskill.demo.parts import Parts

KEPT_REQUESTS = 100_000
KEPT_BODY = 65_536
LONGEST_WAIT = 5.0


class Control:
    """The routes under /demo, and the list of requests."""

    def __init__(self, demo: Parts) -> None:
        self.demo = demo
        self.requests: deque[dict[str, Any]] = deque(maxlen=KEPT_REQUESTS)
        self.count = 0

    def routes(self) -> list[Route]:
        return [
            ("GET", "/demo/log", self.log),
            ("POST", "/demo/log/clear", self.clear_log),
            ("GET", "/demo/faults", self.get_faults),
            ("POST", "/demo/faults", self.set_faults),
            ("POST", "/demo/reset", self.reset),
            ("POST", "/demo/restart", self.restart),
            ("GET", "/demo/executions", self.executions),
            ("GET", "/demo/state", self.state),
        ]

    async def note(self, request: web.Request) -> dict[str, Any]:
        """Log a request. Its body is kept when it is small and not multipart (reading that would consume it)."""
        body = b""
        size = request.content_length
        if (
            request.can_read_body
            and not request.content_type.startswith("multipart/")
            and (size or 0) <= KEPT_BODY
        ):
            body = await request.read()
            size = len(body)
        entry: dict[str, Any] = {
            "index": self.count,
            "method": request.method,
            "path": request.path,
            "query": dict(request.rel_url.query),
            "headers": dict(request.headers),
            "size": size or 0,
            "time": time.time(),
            "status": None,
            "body": body if len(body) <= KEPT_BODY else b"",
        }
        self.count += 1
        self.requests.append(entry)
        return entry

    async def log(self, request: web.Request) -> web.Response:
        query = request.rel_url.query
        since, path, method = int(query.get("since", "0")), query.get("path"), query.get("method")
        found = [
            shown(entry)
            for entry in self.requests
            if entry["index"] >= since and path in (None, entry["path"]) and method in (None, entry["method"])
        ]
        return web.json_response({"requests": found, "count": len(found), "next": self.count})

    async def clear_log(self, _request: web.Request) -> web.Response:
        self.requests.clear()
        return web.json_response({"status": "ok"})

    async def get_faults(self, _request: web.Request) -> web.Response:
        return web.json_response({"faults": [fault.to_json() for fault in self.demo.faults.active]})

    async def set_faults(self, request: web.Request) -> web.Response:
        try:
            body = await read_json(request)
        except Unhandled:
            return web.json_response({"error": "the body is not JSON"}, status=400)
        if isinstance(body, dict) and "faults" in body:
            body = body["faults"]
        given = body if isinstance(body, list) else [body]
        try:
            self.demo.faults.replace(given)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        return await self.get_faults(request)

    async def reset(self, _request: web.Request) -> web.Response:
        """Reset the server. Answers when the last run has stopped and its sockets are closed: either could still
        reach the next client with the same client id."""
        self.demo.faults.replace(())
        self.demo.engine.forget()
        self.demo.hub.drop_all()
        await self._quiet()
        self.demo.engine.cache.kept.clear()
        for forget in self.demo.on_reset:
            forget()
        self.demo.engine.executions.clear()
        self.demo.folders.forget()
        self.requests.clear()
        return web.json_response({"status": "ok"})

    async def _quiet(self) -> None:
        end = time.monotonic() + LONGEST_WAIT
        while (self.demo.engine.running or self.demo.hub.everyone) and time.monotonic() < end:
            await asyncio.sleep(0.002)

    async def restart(self, request: web.Request) -> web.Response:
        """Lose queue, history and sockets, as a restart does; `?down=ms` keeps the server away that long."""
        self.demo.restart(float(request.rel_url.query.get("down", "0")) / 1000)
        return web.json_response({"status": "ok"})

    async def executions(self, request: web.Request) -> web.Response:
        since = int(request.rel_url.query.get("since", "0"))
        found = list(self.demo.engine.executions)[since:]
        return web.json_response({"executions": found, "count": len(found)})

    async def state(self, _request: web.Request) -> web.Response:
        engine = self.demo.engine
        return web.json_response(
            {
                "running": [item.prompt_id for item in engine.running.values()],
                "pending": [item.prompt_id for item in engine.pending],
                "history": len(engine.history),
                "sockets": [socket.sid for socket in self.demo.hub.everyone],
                "storage": self.demo.storage_url,
                "folders": {kind: str(self.demo.folders.of(kind)) for kind in ("output", "input", "temp")},
            }
        )


def shown(entry: dict[str, Any]) -> dict[str, Any]:
    """A log entry as JSON; its body is parsed if it is JSON, else text."""
    body: bytes = entry["body"]
    found = {key: value for key, value in entry.items() if key != "body"}
    if not body:
        return found
    text = body.decode("utf-8", "replace")
    try:
        found["json"] = json.loads(text)
    except ValueError:
        found["text"] = text
    return found
