"""The routes under /demo with which a test controls the server: its log, its faults, its runs, a reset, a restart."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from aiohttp import web

from comfyskill.demo.application import Demo
from comfyskill.demo.folders import Folders
from comfyskill.demo.item import Item
from comfyskill.demo.routes import Route, read_json
from comfyskill.demo.validation import Unhandled
from equipment.faults import Faults, FaultyEngine

KEPT_REQUESTS = 100_000
KEPT_BODY = 65_536
KEPT_EXECUTIONS = 200_000
LONGEST_WAIT = 5.0


class Control:
    """The handlers, and the lists of requests and of executions."""

    def __init__(self, demo: Demo, engine: FaultyEngine, faults: Faults) -> None:
        self.demo, self.engine, self.faults = demo, engine, faults
        self.requests: deque[dict[str, Any]] = deque(maxlen=KEPT_REQUESTS)
        self.executions: deque[dict[str, Any]] = deque(maxlen=KEPT_EXECUTIONS)
        self.count = 0
        # Other parts that clear their state at a reset.
        self.on_reset: list[Callable[[], None]] = []
        self._heard = engine.on_change
        engine.on_change = self.changed

    def changed(self, event: str, item: Item, status: str) -> None:
        """Pass on what happens to a job, and keep it when the job starts or ends."""
        self._heard(event, item, status)
        if event in ("start", "end"):
            entry = {"event": event, "prompt_id": item.prompt_id, "time": time.time()}
            self.executions.append({**entry, "status": status} if status else entry)

    def routes(self) -> list[Route]:
        storage = [("GET", "/demo/storage", self.storage)] if self.demo.cloud is not None else []
        return [
            *storage,
            ("GET", "/demo/log", self.log),
            ("POST", "/demo/log/clear", self.clear_log),
            ("GET", "/demo/faults", self.get_faults),
            ("POST", "/demo/faults", self.set_faults),
            ("POST", "/demo/reset", self.reset),
            ("POST", "/demo/restart", self.restart),
            ("GET", "/demo/executions", self.get_executions),
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
        return web.json_response({"faults": [fault.to_json() for fault in self.faults.active]})

    async def set_faults(self, request: web.Request) -> web.Response:
        try:
            body = await read_json(request)
        except Unhandled:
            return web.json_response({"error": "the body is not JSON"}, status=400)
        if isinstance(body, dict) and "faults" in body:
            body = body["faults"]
        given = body if isinstance(body, list) else [body]
        try:
            self.faults.replace(given)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        return await self.get_faults(request)

    async def reset(self, _request: web.Request) -> web.Response:
        """Reset the server. Answers when the last run has stopped and its sockets are closed: either could still
        reach the next client with the same client id."""
        self.faults.replace(())
        self.engine.forget()
        self.demo.hub.drop_all()
        await self._quiet()
        for cache in self.engine.caches:
            cache.kept.clear()
        for forget in self.on_reset:
            forget()
        self.executions.clear()
        empty_folders(self.demo.folders)
        self.requests.clear()
        return web.json_response({"status": "ok"})

    async def _quiet(self) -> None:
        end = time.monotonic() + LONGEST_WAIT
        while (self.engine.running or self.demo.hub.everyone) and time.monotonic() < end:
            await asyncio.sleep(0.002)

    async def restart(self, request: web.Request) -> web.Response:
        """Lose queue, history and sockets, as a restart does; `?down=ms` keeps the server away that long."""
        self.restart_now(float(request.rel_url.query.get("down", "0")) / 1000)
        return web.json_response({"status": "ok"})

    def restart_now(self, down: float = 0.0) -> None:
        """Lose queue, history and sockets; with `down` (seconds), drop all connections for that long."""
        self.engine.forget()
        empty_temp(self.demo.folders)
        self.demo.hub.drop_all()
        if down:
            self.faults.down_until = time.monotonic() + down

    async def storage(self, _request: web.Request) -> web.Response:
        assert self.demo.cloud is not None
        storage: Any = self.demo.cloud.storage
        return web.json_response({"url": storage.url, "requests": list(storage.seen)})

    async def get_executions(self, request: web.Request) -> web.Response:
        since = int(request.rel_url.query.get("since", "0"))
        found = list(self.executions)[since:]
        return web.json_response({"executions": found, "count": len(found)})

    async def state(self, _request: web.Request) -> web.Response:
        engine, cloud = self.engine, self.demo.cloud
        return web.json_response(
            {
                "running": [item.prompt_id for item in engine.running.values()],
                "pending": [item.prompt_id for item in engine.pending],
                "history": len(engine.history),
                "sockets": [socket.sid for socket in self.demo.hub.everyone],
                "storage": cloud.storage.url if cloud is not None else "",
                "folders": {kind: str(self.demo.folders.of(kind)) for kind in ("output", "input", "temp")},
            }
        )


def empty_folders(folders: Folders) -> None:
    """Empty the folders that this process made, and start counting again."""
    folders.counters.clear()
    for folder in (folders.output, folders.input, folders.temp, folders.user):
        if folders.made.resolve() in folder.parents:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
    folders.put_example()


def empty_temp(folders: Folders) -> None:
    """Empty the temp folder, as a server does when it starts."""
    temp = folders.temp
    folders.counters = {
        key: value for key, value in folders.counters.items() if temp not in (key[0], *key[0].parents)
    }
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir(parents=True, exist_ok=True)


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
