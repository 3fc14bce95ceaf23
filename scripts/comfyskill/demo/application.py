"""The demo server as one aiohttp application: its routes, middlewares, start and end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiohttp import web

from comfyskill.demo.cloud_routes import CloudRoutes
from comfyskill.demo.definitions import Definitions
from comfyskill.demo.engine import Engine
from comfyskill.demo.folders import Folders
from comfyskill.demo.options import Options
from comfyskill.demo.parts import Parts
from comfyskill.demo.routes import Handler, Route, with_api
from comfyskill.demo.routes_files import FileRoutes
from comfyskill.demo.routes_info import InfoRoutes
from comfyskill.demo.routes_jobs import JobRoutes
from comfyskill.demo.routes_run import RunRoutes
from comfyskill.demo.routes_user import UserRoutes
from comfyskill.demo.sockets import Hub
from comfyskill.demo.validation import Unhandled

if TYPE_CHECKING:
    from aiohttp.typedefs import Middleware

WEB = Path(__file__).parent / "data" / "web"
TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"


class Demo(Parts):
    """One server: its options, its state, its handlers. A subclass may replace its parts (the `make_` methods)."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folders = Folders.make(options.output_dir, options.input_dir)
        self.definitions = self.make_definitions()
        self.info = InfoRoutes(self)
        self.hub = self.make_hub()
        self.engine = self.make_engine()
        self.cloud = self.make_cloud() if options.cloud else None
        self.hub.broadcast_all = options.cloud
        self.tasks: list[asyncio.Task[None]] = []

    def make_definitions(self) -> Definitions:
        options = self.options
        return Definitions(options.newest, options.models, self.folders, options.definitions)

    def make_hub(self) -> Hub:
        return Hub(self.info.features)

    def make_engine(self) -> Engine:
        return Engine(self.options, self.folders, self.definitions, self.hub)

    def make_cloud(self) -> CloudRoutes:
        return CloudRoutes(self)

    def routes(self) -> list[Route]:
        """All routes of this server."""
        if self.cloud is not None:
            return [*self.cloud.routes(), ("GET", "/ws", self.hub.serve)]
        topics = (RunRoutes(self), JobRoutes(self), FileRoutes(self), UserRoutes(self), self.info)
        found = [route for topic in topics for route in topic.routes()]
        return [*found, *with_api([("GET", "/ws", self.hub.serve)])]

    def middlewares(self) -> list[Middleware]:
        """What each request passes through, outermost first."""
        if self.cloud is not None:
            return [self.cloud.guard]
        site = [guard_site] if self.options.newest else []
        return [answer_crashes, cache_hints, *site, guard_origin]

    def application(self) -> web.Application:
        app = web.Application(client_max_size=self.options.max_upload, middlewares=self.middlewares())
        for method, path, handler in self.routes():
            if method == "GET":
                app.router.add_get(path, handler)
            else:
                app.router.add_route(method, path, handler)
        if self.cloud is None:
            app.router.add_static("/", WEB)
        app.on_startup.append(self.start)
        app.on_cleanup.append(self.stop)
        return app

    async def start(self, _app: web.Application) -> None:
        self.begin(self.hub.deliver())
        if self.cloud is None:
            self.begin(self.engine.work())
            return
        await self.cloud.storage.start()
        for _ in range(self.cloud.concurrency):
            self.begin(self.engine.work())

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a background task; if it dies, report it at once (a server without its worker looks alive)."""
        task = asyncio.create_task(work)
        task.add_done_callback(_say_why)
        self.tasks.append(task)

    async def stop(self, _app: web.Application) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.cloud is not None:
            await self.cloud.storage.stop()


def _say_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        traceback.print_exception(task.exception())


@web.middleware
async def guard_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse browsers from another origin, as the real server does; OPTIONS is answered for any path."""
    if not _same_origin(request.headers.get("Host", ""), request.headers.get("Origin", "")):
        return web.Response(status=403)
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)


@web.middleware
async def guard_site(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what a browser sends from another site, as 0.33 does."""
    if request.headers.get("Sec-Fetch-Site") == "cross-site":
        return web.Response(status=403)
    return await handler(request)


def _same_origin(host: str, origin: str) -> bool:
    if not host or not origin:
        return True
    try:
        here, there = urlsplit(f"//{host.lower()}"), urlsplit(origin.lower())
        here_port, there_port = here.port, there.port
    except ValueError as error:
        raise Unhandled("an unusable port") from error
    if not _loopback(here.hostname or "") or not there.netloc:
        return True
    if there_port is None or here_port is None:
        return here.hostname == there.hostname
    return here.netloc == there.netloc


def _loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


@web.middleware
async def cache_hints(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Cache-Control by the path's ending, as the real server sets it."""
    answer = await handler(request)
    path = request.path.lower()
    if path.endswith((".js", ".css")) or (
        path.endswith(".json") and path.rpartition("/")[2].startswith("index")
    ):
        answer.headers.setdefault("Cache-Control", "no-cache")
    elif path.endswith((".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")):
        answer.headers.setdefault(
            "Cache-Control", f"public, max-age={3600 if answer.status == 404 else 86400}"
        )
    return answer


@web.middleware
async def answer_crashes(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Unhandled:
        response = web.Response(status=500, text=TROUBLE)
        response.force_close()
        response.headers["Connection"] = "close"
        return response


async def serve(make_demo: Callable[[Options], Demo], options: Options) -> None:
    """Serve until SIGTERM, SIGINT or (when asked) the end of standard input. Raises OSError when the port is taken."""
    demo = make_demo(options)
    runner = web.AppRunner(
        demo.application(), access_log=None, shutdown_timeout=0.2, handler_cancellation=False
    )
    try:
        await runner.setup()
        site = web.TCPSite(runner, options.host, options.port, backlog=512)
        await site.start()
        stop = _stop_event(options)
        _announce(runner, options)
        await stop.wait()
        demo.hub.drop_all()
    finally:
        await runner.cleanup()
        demo.folders.close()


def _announce(runner: web.AppRunner, options: Options) -> None:
    port = runner.addresses[0][1]
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(json.dumps({"status": "listening", "url": f"http://{host}:{port}", "pid": os.getpid()}), flush=True)


def _stop_event(options: Options) -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            # On Windows the loop has no signal handlers; KeyboardInterrupt ends the server there.
            loop.add_signal_handler(number, stop.set)
    if hasattr(signal, "SIGBREAK"):
        signal.signal(signal.SIGBREAK, signal.default_int_handler)
    if options.exit_with_parent:
        threading.Thread(target=_wait_for_end, args=(loop, stop), daemon=True).start()
    return stop


def _wait_for_end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin is not None and os.read(sys.stdin.fileno(), 65536):
            pass
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(stop.set)
