"""A file host for download tests, on a real socket: ranges, redirects, gates, cut and corrupt bodies."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def safetensors(size: int = 4096, seed: int = 1) -> bytes:
    """A whole safetensors file with one tensor of `size` bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    data = hashlib.shake_128(bytes([seed % 256])).digest(size)
    return len(header).to_bytes(8, "little") + header + data


class ModelHost:
    """Files by path. `cut`: path -> body lengths after which the connection breaks, one per answer."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, tuple[str, dict[str, str]]] = {}
        self.status: dict[str, int] = {}
        self.kinds: dict[str, str] = {}
        self.etags: dict[str, str | None] = {}
        self.cut: dict[str, list[int]] = {}
        self.stall: dict[str, int] = {}
        self.ranges = True
        self.heeds_if_range = True
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        host = self

        class Handler(_Handler):
            server_of = host

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def asked(self, path: str) -> list[dict[str, str]]:
        """The headers of the GETs for a path."""
        return [headers for method, seen, headers in self.seen if seen == path and method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    server_of: ModelHost
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        host, path = self.server_of, self.path.split("?")[0]
        host.seen.append((self.command, path, {key.lower(): value for key, value in self.headers.items()}))
        if path in host.redirects:
            target, headers = host.redirects[path]
            self._head(302, {"Location": target, "Content-Length": "0", **headers})
            return
        status = host.status.get(path, 200 if path in host.files else 404)
        if status != 200:
            self._head(status, {"Content-Length": "0"})
            return
        self._file(path)

    def _file(self, path: str) -> None:
        host, body = self.server_of, self.server_of.files[path]
        etag = host.etags.get(path, f'"{hashlib.md5(body).hexdigest()}"')
        headers = {"Content-Type": host.kinds.get(path, "application/octet-stream")}
        if etag:
            headers["ETag"] = etag
        start, status = 0, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") == etag or not host.heeds_if_range
        if wanted and host.ranges and same:
            start, status = int(wanted.group(1)), 206
            if start >= len(body):
                self._head(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(body)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        part = body[start:]
        self._head(status, {**headers, "Content-Length": str(len(part))})
        if self.command == "HEAD":
            return
        cuts = host.cut.get(path) or []
        if cuts:
            self.wfile.write(part[: cuts.pop(0)])
            self.close_connection = True
            return
        if path in host.stall:
            self.wfile.write(part[: host.stall[path]])
            self.wfile.flush()
            self.close_connection = True
            for _ in range(200):
                if path not in host.stall:
                    return
                time.sleep(0.1)
            return
        self.wfile.write(part)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
