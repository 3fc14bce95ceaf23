"""Servers that speak Comfy API v2: the public proxy as a child process, and a double of the hosted surfaces.

The double plays what the proxy cannot: no job list, labels as a map, redirects to a storage on another origin that
records the headers it gets, refusals, lost answers, event streams as they are wanted.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROXY = "from comfy_api_proxy.cli import main; import sys; sys.exit(main())"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 400


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives away itself in the next moment."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Proxy:
    """comfy-api-proxy in front of a ComfyUI; `url` is its address."""

    def __init__(self, upstream: str, *options: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROXY, "run", "--host", "127.0.0.1", "--port", str(port), "--comfyui", upstream,
             *options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._await()

    def _await(self) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.url}/api/v2/health", timeout=5):
                    return
            except OSError:
                assert self.process.poll() is None, "the proxy did not start"
                time.sleep(0.05)
        raise AssertionError("the proxy did not answer in time")

    def stop(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait(timeout=60)


class Seen:
    """One request that a double received."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self.method, self.headers, self.body = method, headers, body
        parts = urlsplit(path)
        self.path, self.query = parts.path, parse_qs(parts.query)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Double:
    """An HTTP server whose `answer(handler, request)` a subclass writes; keeps what it received in `seen`."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_words: object) -> None:
                return

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Seen(self.command, self.path, headers, body)
                double.seen.append(request)
                double.answer(self, request)

            do_GET = do_POST = do_HEAD = do_DELETE = handle_any

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def answer(self, handler: BaseHTTPRequestHandler, request: Seen) -> None:
        raise NotImplementedError

    def calls(self, method: str, path: str) -> list[Seen]:
        """The requests of one kind; `path` may end in `*`."""
        return [
            item
            for item in self.seen
            if item.method == method
            and (item.path.startswith(path[:-1]) if path.endswith("*") else item.path == path)
        ]

    def stop(self) -> None:
        """End it."""
        self.server.shutdown()
        self.server.server_close()


def send(
    handler: BaseHTTPRequestHandler, status: int, body: Any = None, headers: dict[str, str] | None = None
) -> None:
    """A JSON answer (or raw bytes)."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(raw)))
    for name, value in (headers or {"Content-Type": "application/json"}).items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(raw)


def refuse(
    handler: BaseHTTPRequestHandler, status: int, code: str, message: str = "no", **details: Any
) -> None:
    """The error envelope."""
    wait = {"Retry-After": str(details.pop("retry_after"))} if "retry_after" in details else {}
    body = {"error": {"code": code, "message": message, "details": details or None}}
    send(handler, status, body, {"Content-Type": "application/json", **wait})


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


class Storage(Double):
    """Where signed addresses point: gives bytes to requests without credentials, with ranges; can cut bodies short."""

    def __init__(self, content: bytes = PICTURE) -> None:
        self.content = content
        self.cut: list[int] = []  # lengths at which the next bodies break off
        self.refuse = 0  # a status for every request
        super().__init__()

    def answer(self, handler: BaseHTTPRequestHandler, request: Seen) -> None:
        if self.refuse:
            return send(
                handler,
                self.refuse,
                b"<Error><Code>ExpiredToken</Code></Error>",
                {"Content-Type": "text/xml"},
            )
        start = int(request.headers.get("range", "bytes=0-")[6:].split("-")[0])
        whole = self.content[start:]
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Type", "image/png")
        handler.send_header("Content-Length", str(len(whole)))
        handler.send_header("Accept-Ranges", "bytes")
        handler.send_header("ETag", '"one"')
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.end_headers()
        if self.cut:
            handler.wfile.write(whole[: self.cut.pop(0)])
            handler.wfile.flush()
            hang_up(handler)
        else:
            handler.wfile.write(whole)
        return None


class Hosted(Double):
    """A hosted v2 surface. Attributes are switches; `script` holds the status of each poll, the last one stays."""

    def __init__(self, storage: Storage | None = None) -> None:
        self.storage = storage
        self.key: str | None = None
        self.listing = "none"  # none: 501, as on Comfy Cloud; labels: with a filter, as on deployments
        self.labels = True  # whether `metadata` is taken
        self.script = ["queued", "running", "succeeded"]
        self.on_submit: list[Callable[[BaseHTTPRequestHandler], bool]] = []
        self.lose: list[str] = []  # "before" or "after" the job is made
        self.events: list[str] | None = None  # SSE frames; None: 501
        self.jobs: dict[str, dict[str, Any]] = {}
        self.claimed: dict[str, str] = {}
        self.assets: dict[str, dict[str, Any]] = {}
        self.more: dict[str, Any] = {}  # further keys of every job object
        super().__init__()

    def answer(self, handler: BaseHTTPRequestHandler, request: Seen) -> None:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return refuse(handler, 401, "unauthorized", "Missing or malformed Authorization header.")
        parts = request.path.removeprefix("/api/v2/").split("/")
        if not request.path.startswith("/api/v2/") or parts[0] not in ("jobs", "assets"):
            return send(handler, 404, b"404: Not Found", {"Content-Type": "text/plain"})
        if parts[0] == "assets":
            return self._asset(handler, request, parts)
        if len(parts) == 1:
            return (
                self._submit(handler, request) if request.method == "POST" else self._list(handler, request)
            )
        job = self.jobs.get(parts[1])
        if job is None:
            return refuse(handler, 404, "not_found", f"No job {parts[1]}.")
        if len(parts) == 2:
            return send(handler, 200, self._look(job))
        if parts[2] == "events":
            return self._stream(handler)
        if parts[2] == "workflow":
            return send(handler, 200, {"workflow": job["workflow"], "format": "api"})
        job["script"] = ["canceling", "canceled"]
        return send(handler, 200, self._look(job))

    def _submit(self, handler: BaseHTTPRequestHandler, request: Seen) -> None:
        key = request.headers.get("idempotency-key", "")
        if self.on_submit and self.on_submit.pop(0)(handler):
            return None
        body = request.json
        if "metadata" in body and not self.labels:
            return refuse(handler, 422, "metadata_not_supported", "labels are not supported here")
        how = self.lose.pop(0) if self.lose else ""
        if how == "before":
            return hang_up(handler)
        if key in self.claimed:
            return refuse(
                handler, 422, "idempotency_key_reuse", "This Idempotency-Key has already been used."
            )
        job = {
            "id": str(uuid.uuid4()), "workflow": body["workflow"], "metadata": body.get("metadata"),
            "script": list(self.script),
        }  # fmt: skip
        self.claimed[key] = job["id"]
        self.jobs[job["id"]] = job
        if how == "after":
            return hang_up(handler)
        return send(handler, 201, self.record(job, "queued"))

    def _list(self, handler: BaseHTTPRequestHandler, request: Seen) -> None:
        if self.listing == "none":
            return refuse(handler, 501, "not_implemented", "listing is not available")
        wanted = {key[9:-1]: value[0] for key, value in request.query.items() if key.startswith("metadata[")}
        rows = [
            {
                "id": job["id"],
                "status": job["script"][0],
                "create_time": 1795317844,
                "metadata": job["metadata"],
            }
            for job in self.jobs.values()
            if all((job["metadata"] or {}).get(key) == value for key, value in wanted.items())
        ]
        return send(handler, 200, {"jobs": rows})

    def _look(self, job: dict[str, Any]) -> dict[str, Any]:
        status = job["script"].pop(0) if len(job["script"]) > 1 else job["script"][0]
        return self.record(job, status)

    def record(self, job: dict[str, Any], status: str) -> dict[str, Any]:
        """The job object as the contract has it."""
        base = f"{self.url}/api/v2"
        outputs = [
            {"node_id": "2", "name": "fox.png", "type": "image", "content_type": "image/png", "size_bytes": len(PICTURE),
             "id": "asset-1", "hash": None, "url": f"{base}/assets/asset-1/content", "url_expires_at": "2099-01-01T00:00:00Z"}
        ]  # fmt: skip
        return {
            "id": job["id"], "status": status, "created_at": "2026-11-22T03:24:03.812603+00:00", "started_at": None,
            "completed_at": None, "expires_at": "2099-01-01T00:00:00+00:00", "queue_position": None, "progress": None,
            "outputs": outputs if status == "succeeded" else [], "error": None,
            "urls": {"self": f"{base}/jobs/{job['id']}"},
        } | self.more  # fmt: skip

    def _stream(self, handler: BaseHTTPRequestHandler) -> None:
        if self.events is None:
            return refuse(handler, 501, "not_implemented", "no streaming here")
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        for frame in self.events:
            handler.wfile.write(frame.encode())
            handler.wfile.flush()
            time.sleep(0.02)
        handler.close_connection = True
        return None

    def _asset(self, handler: BaseHTTPRequestHandler, request: Seen, parts: list[str]) -> None:
        if request.method == "HEAD":
            return send(handler, 200 if parts[-1] in self.assets else 404)
        if request.method == "POST" and parts[-1] == "from-hash":
            return send(handler, 200, self.assets[request.json["hash"]])
        if request.method == "POST":
            asset = {
                "id": str(uuid.uuid4()),
                "hash": None,
                "size_bytes": 1,
                "content_type": "image/png",
                "file_path": "x",
            }
            return send(handler, 201, asset)
        if self.storage is None:
            return send(handler, 200, PICTURE, {"Content-Type": "image/png"})
        signed = f"{self.storage.url}/demo-bucket/fox.png?X-Goog-Expires=900"
        return send(handler, 302, b"", {"Location": signed, "Set-Cookie": "session=1"})


@contextmanager
def running(double: Double) -> Iterator[Any]:
    """The double, ended at the end."""
    try:
        yield double
    finally:
        double.stop()


def sse(event: str, data: Any) -> str:
    """One frame of an event stream."""
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"
