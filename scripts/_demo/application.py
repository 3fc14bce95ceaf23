"""Puts the rooms together: one aiohttp application, its middlewares, its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from .definitions import Definitions
from .engine import Engine
from .faults import Faults
from .folders import Folders
from .options import Options
from .routes import Handler, Route
from .routes_files import FileRoutes
from .routes_info import InfoRoutes
from .routes_jobs import JobRoutes
from .routes_run import RunRoutes
from .routes_user import UserRoutes
from .sockets import Hub
from .validation import Unhandled

WEB = Path(__file__).parent / "data" / "web"
TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"


class Demo:
    """One server: its options, its state, its handlers."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folders = Folders.make(options.output_dir, options.input_dir)
        self.definitions = Definitions(options.version, options.models, self.folders, options.definitions)
        self.faults = Faults()
        self.info = InfoRoutes(self)
        self.hub = Hub(self.faults, self.info.features)
        self.engine = Engine(options, self.folders, self.definitions, self.hub, self.faults)
        self.run_routes = RunRoutes(self)
        self.tasks: list[asyncio.Task[None]] = []

    def routes(self) -> list[Route]:
        found = [*self.run_routes.routes(), *self.info.routes(), *FileRoutes(self).routes(), *UserRoutes(self).routes()]
        if self.options.modern:
            found += JobRoutes(self).routes()
        return [*found, ("GET", "/ws", self.hub.serve), ("GET", "/api/ws", self.hub.serve)]

    def application(self) -> web.Application:
        app = web.Application(client_max_size=self.options.max_upload, middlewares=[guard_origin, answer_crashes])
        for method, path, handler in self.routes():
            if method == "GET":
                app.router.add_get(path, handler)
            else:
                app.router.add_route(method, path, handler)
        app.router.add_static("/", WEB)
        app.on_startup.append(self.start)
        app.on_cleanup.append(self.stop)
        return app

    async def start(self, _app: web.Application) -> None:
        self.tasks = [asyncio.create_task(self.hub.deliver()), asyncio.create_task(self.engine.work())]

    async def stop(self, _app: web.Application) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@web.middleware
async def guard_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The real server's refusal of browsers that come from elsewhere; OPTIONS is answered for any path."""
    if not _same_origin(request.headers.get("Host", ""), request.headers.get("Origin", "")):
        return web.Response(status=403)
    if request.method == "OPTIONS":
        return web.Response()
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
async def answer_crashes(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Unhandled:
        response = web.Response(status=500, text=TROUBLE)
        response.force_close()
        response.headers["Connection"] = "close"
        return response


async def serve(options: Options) -> None:
    """Serve until SIGTERM, SIGINT or (when asked) the end of standard input. Raises OSError when the port is taken."""
    demo = Demo(options)
    runner = web.AppRunner(demo.application(), access_log=None, shutdown_timeout=0.2, handler_cancellation=False)
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
            # Windows has no handlers in the loop; KeyboardInterrupt does the work there.
            loop.add_signal_handler(number, stop.set)
    if options.exit_with_parent:
        threading.Thread(target=_wait_for_end, args=(loop, stop), daemon=True).start()
    return stop


def _wait_for_end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.buffer.read1(65536):
            pass
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(stop.set)
