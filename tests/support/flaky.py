"""A relay between a script and a server of any protocol, which fails on purpose and keeps what went through.

It runs in a thread of the test. Faults strike by method and path; a WebSocket goes through as it is.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

HOP_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length", "host"}
BODIES = {
    "json": ("application/json", b'{"error": {"type": "made_up", "message": "not now"}, "node_errors": {}}'),
    "text": ("text/plain", b"not now"),
    "html": ("text/html", b"<!doctype html><html><body><h1>not now</h1></body></html>"),
    "empty": ("", b""),
    "broken": ("application/json", b'{"error": {"type": '),
}


@dataclass
class Fault:
    """What happens to a request that matches.

    `act`: `status` (answer with `code` and a body of kind `body`), `close` (before it is carried out), `lost`
    (carried out, the answer never arrives), `hang` (never answered), `cut` (`share` of the body under the full
    length), `length` (a length wrong by `add`), `slow` (a byte of the head every `pause` seconds), `redirect` (to `to`),
    `drip` (the body in pieces with pauses), `down` (the server goes away: every connection breaks and its port refuses
    new ones, before this request is carried out or, with `after`, once it is; `back` seconds later it is there again).
    `unless`: paths that are spared.
    """

    act: str
    path: str = "*"
    method: str = "*"
    times: int = 10_000
    skip: int = 0
    code: int = 500
    body: str = "json"
    share: float = 0.5
    add: int = 10
    pause: float = 0.05
    to: str = "/"
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    back: float | None = None
    unless: tuple[str, ...] = ()

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request is hit; counts."""
        if self.method not in ("*", method) or not fnmatchcase(path, self.path) or self.times <= 0:
            return False
        if any(fnmatchcase(path, spared) for spared in self.unless):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class Flaky:
    """The relay; `url` is its address, `seen` what it was asked: (method, path, headers, body)."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                relay.open.add(self.connection)

            def finish(self) -> None:
                relay.open.discard(self.connection)
                super().finish()

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (OSError, ValueError):
                    self.close_connection = True

            def log_message(self, *words: Any) -> None:
                return

            def answer(self) -> None:
                relay.answer(self)

            do_GET = do_POST = do_HEAD = do_DELETE = do_PUT = answer

        self.handler = Handler
        self.open: set[socket.socket] = set()
        self.quiet = False
        self.dead: set[socket.socket] = set()  # connections that no byte comes through any more
        self.port = 0
        self.gone = True
        self.changing = threading.Lock()
        self.timer = threading.Timer(0, self.up)
        self.up()
        self.url = f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Listen (again) at the port."""
        with self.changing:
            if not self.gone:
                return
            self.server = self._listen()
            self.server.daemon_threads = True
            self.port = self.server.server_address[1]
            self.gone = False
            threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def _listen(self) -> ThreadingHTTPServer:
        """A server at the port, which another program's connection may have taken for a moment meanwhile."""
        end = time.monotonic() + 30
        while True:
            try:
                return ThreadingHTTPServer(("127.0.0.1", self.port), self.handler)
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def down(self, back: float | None = None) -> None:
        """Go away as a process does that dies; be back after so many seconds."""
        with self.changing:
            if self.gone:
                return
            self.gone = True
            self.server.shutdown()
            self.server.server_close()
            for connection in list(self.open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        if back is not None:
            self.timer = threading.Timer(back, self.up)
            self.timer.start()

    def silence(self) -> None:
        """Accept everything and answer nothing, as behind a network that has gone; open connections stay open."""
        self.quiet = True

    def speak(self) -> None:
        """Answer again, on new connections alone: those of the time before are dead and do not know it."""
        self.dead |= self.open
        self.quiet = False

    def swallows(self, connection: socket.socket) -> bool:
        """Whether nothing comes through this connection now."""
        return not self.gone and (self.quiet or connection in self.dead)

    def stop(self) -> None:
        """End it."""
        self.down()

    def reset(self, *faults: Fault) -> None:
        """Forget what was seen and put these faults in place of the others."""
        self.timer.cancel()
        self.quiet = False
        self.up()
        self.seen.clear()
        self.faults = list(faults)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.seen.append((handler.command, handler.path, headers, body))
        if self.swallows(handler.connection):
            while self.swallows(handler.connection):
                time.sleep(0.05)
            handler.close_connection = True
            return None
        fault = next((item for item in self.faults if item.strikes(handler.command, path)), None)
        if fault is not None and fault.act == "down":
            if fault.after:
                self._forward(handler, headers, body)
            handler.close_connection = True
            return self.down(fault.back)
        if fault is not None and fault.act in ("status", "close", "hang", "redirect"):
            return self._refuse(handler, fault)
        if headers.get("upgrade", "").lower() == "websocket":
            return self._tunnel(handler)
        status, answer_headers, content = self._forward(handler, headers, body)
        if fault is not None and fault.act == "lost":
            handler.close_connection = True
            return None
        return self._send(handler, status, answer_headers, content, fault)

    def _refuse(self, handler: BaseHTTPRequestHandler, fault: Fault) -> None:
        if fault.act == "close":
            handler.close_connection = True
            return
        if fault.act == "hang":
            time.sleep(600)
            return
        kind, content = BODIES[fault.body]
        handler.send_response(fault.code)
        if fault.act == "redirect":
            handler.send_header("Location", fault.to)
        for name, value in fault.headers.items():
            handler.send_header(name, value)
        if kind:
            handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(content)

    def _forward(
        self, handler: BaseHTTPRequestHandler, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(*self.upstream, timeout=60)
        try:
            kept = {name: value for name, value in headers.items() if name not in HOP_HEADERS}
            upstream.request(handler.command, handler.path, body or None, kept)
            response = upstream.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            upstream.close()

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        headers: list[tuple[str, str]],
        content: bytes,
        fault: Fault | None,
    ) -> None:
        act = fault.act if fault else ""
        length = max(len(content) + (fault.add if fault and act == "length" else 0), 0)
        head = [f"HTTP/1.1 {status} X"]
        head += [f"{name}: {value}" for name, value in headers if name.lower() not in HOP_HEADERS]
        declared = next((value for name, value in headers if name.lower() == "content-length"), "0")
        head.append(f"Content-Length: {declared if handler.command == 'HEAD' else length}")
        raw = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
        if fault and act == "slow":
            for index in range(len(raw)):
                handler.wfile.write(raw[index : index + 1])
                time.sleep(fault.pause if index < 12 else 0)
        else:
            handler.wfile.write(raw)
        if handler.command == "HEAD":
            return
        if fault and act == "cut":
            handler.wfile.write(content[: int(len(content) * fault.share)])
            handler.close_connection = True
        elif fault and act == "drip":
            for start in range(0, len(content), 64):
                handler.wfile.write(content[start : start + 64])
                time.sleep(fault.pause)
        else:
            handler.wfile.write(content[:length])
            handler.close_connection = handler.close_connection or length > len(content)

    def _tunnel(self, handler: BaseHTTPRequestHandler) -> None:
        """A WebSocket: bytes go both ways until one side ends."""
        handler.close_connection = True
        with socket.create_connection(self.upstream, timeout=60) as upstream:
            lines = [f"{handler.command} {handler.path} HTTP/1.1"]
            lines += [f"{name}: {value}" for name, value in handler.headers.items()]
            upstream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            pairs = {handler.connection: upstream, upstream: handler.connection}
            while True:
                while self.swallows(handler.connection):
                    time.sleep(0.05)
                if self.gone:
                    return
                for ready in select.select(list(pairs), [], [], 30)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    pairs[ready].sendall(data)
