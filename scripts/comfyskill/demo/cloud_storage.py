"""The storage behind the cloud: another origin that serves files by signed address and refuses requests that carry a key."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from pathlib import Path
from urllib.parse import quote

from aiohttp import web

CREDENTIALS = ("X-API-Key", "Authorization", "Cookie")


class Storage:
    """One aiohttp site on its own port; signed addresses are valid for `seconds`."""

    def __init__(self, host: str, seconds: float = 3600) -> None:
        self.host = host
        self.seconds = seconds
        self.secret = os.urandom(16)
        self.files: dict[str, Path] = {}
        self.runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/demo-bucket/{name}", self.get)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self.runner.setup()
        await web.TCPSite(self.runner, self.host, 0).start()
        self.url = f"http://{self.host}:{self.runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()

    def sign(self, path: Path, name: str) -> str:
        """The address of a file, valid for a limited time."""
        self.files[name] = path
        now = int(time.time())
        date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        query = f"X-Goog-Date={date}&X-Goog-Expires={int(self.seconds)}&t={now}"
        return (
            f"{self.url}/demo-bucket/{quote(name)}?{query}&X-Goog-Signature={self._signature(name, str(now))}"
        )

    def _signature(self, name: str, when: str) -> str:
        return hmac.new(self.secret, f"{name}\n{when}".encode(), hashlib.sha256).hexdigest()

    async def get(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        given = [header for header in CREDENTIALS if header in request.headers]
        if given:
            return _refused(
                400, "InvalidArgument", f"Only one authentication mechanism allowed; got {given[0]}"
            )
        when = request.rel_url.query.get("t", "")
        if request.rel_url.query.get("X-Goog-Signature") != self._signature(name, when):
            return _refused(403, "SignatureDoesNotMatch", "Access denied.")
        if not when.isdigit() or time.time() - int(when) > self.seconds:
            return _refused(400, "ExpiredToken", "The provided token has expired.")
        path = self.files.get(name)
        if path is None or not path.is_file():
            return _refused(404, "NoSuchKey", "The specified key does not exist.")
        return web.FileResponse(path)


def _refused(status: int, code: str, message: str) -> web.Response:
    text = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")
