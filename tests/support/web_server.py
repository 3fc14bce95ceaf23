"""A small HTTP server that answers what a test says and keeps what it received."""

from __future__ import annotations

import http.server
import json
import ssl
import threading
from typing import Any


class Web:
    """A small HTTP server that keeps what it received and answers as it is told: path -> (status, headers, body)."""

    def __init__(self, host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[tuple[str, bytes]] = []  # of what was posted: path and body
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.split("?")[0]
                if self.command == "POST":
                    web.bodies.append((path, body))
                web.seen.append(
                    (self.command, path, {key.lower(): value for key, value in self.headers.items()})
                )
                status, headers, answer = web.answers.get(path, (404, {}, b""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_POST = do_HEAD = _answer

            def log_message(self, *_args: Any) -> None:
                return

        self.server = http.server.ThreadingHTTPServer((host, 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = "https" if context else "http"
        self.url = f"{scheme}://{host}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def json(self, path: str, value: Any, status: int = 200) -> None:
        self.answers[path] = (status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def redirect(self, path: str, target: str, status: int = 302) -> None:
        self.answers[path] = (status, {"Location": target, "Set-Cookie": "session=canary-cookie-42"}, b"")

    def asked(self, method: str | None = None) -> list[str]:
        """The paths of the requests, in order."""
        return [path for verb, path, _ in self.seen if method in (None, verb)]

    def posted(self, path: str) -> Any:
        """The JSON that was posted to a path last."""
        return json.loads(next(body for seen, body in reversed(self.bodies) if seen == path))

    def headers(self, path: str) -> dict[str, str]:
        return next(headers for _, seen, headers in self.seen if seen == path)
