"""A server on a real socket that answers with whatever bytes a test wants, also without end, and counts what left."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

# A client that does not go away is left after this time, and after so many bytes.
LONGEST = 45.0
MOST = 3 << 30


class Talk:
    """One connection: the request's first line, and `send`, which raises when the other side has gone."""

    def __init__(self, server: Raw, plain: socket.socket, line: str, headers: dict[str, str]) -> None:
        self.server, self.plain, self.line, self.headers = server, plain, line, headers
        self.path = line.split()[1]

    def send(self, data: bytes) -> None:
        self.plain.sendall(data)
        self.server.sent += len(data)

    def head(self, status: str = "200 OK", **headers: object) -> None:
        """Status line and headers; `_` in a name is `-`."""
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode())

    def forever(self, data: bytes, pause: float = 0.0) -> None:
        """The same bytes again and again, until the other side goes."""
        end = time.monotonic() + LONGEST
        while time.monotonic() < end and self.server.sent < MOST:
            self.send(data)
            time.sleep(pause)
        self.server.ran_out = True

    def upgrade(self) -> None:
        """Answer a WebSocket's handshake."""
        secret = self.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(secret.encode()).digest()).decode()
        self.head(
            "101 Switching Protocols", Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Accept=accept
        )


def frame(payload: bytes, opcode: int = 1, *, last: bool = True, announced: int | None = None) -> bytes:
    """A WebSocket frame of a server, with a false length if one is announced."""
    size = len(payload) if announced is None else announced
    head = bytes([(0x80 if last else 0) | opcode])
    if size < 126:
        return head + bytes([size]) + payload
    return (
        head + (struct.pack("!BH", 126, size) if size < 1 << 16 else struct.pack("!BQ", 127, size)) + payload
    )


class Raw:
    """`answer(talk)` is called for each request, in a thread of its connection, which is closed after it.

    `seen`: the first lines; `sent`: bytes that left; `ran_out`: an answer without end was given up here, not there.
    """

    def __init__(self, answer: Callable[[Talk], Any], host: str = "127.0.0.1") -> None:
        self.answer = answer
        self.seen: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.sent = 0
        self.ran_out = False
        self.threads: list[threading.Thread] = []
        self.listener = socket.create_server((host, 0))
        self.url = f"http://{host}:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self.listener.accept()
                self.threads.append(threading.Thread(target=self._talk, args=(plain,), daemon=True))
                self.threads[-1].start()

    def _talk(self, plain: socket.socket) -> None:
        plain.settimeout(LONGEST)
        with plain, contextlib.suppress(OSError), plain.makefile("rb") as file:
            line = file.readline().decode("latin-1").strip()
            if not line:
                return
            pairs = iter(lambda: file.readline().decode("latin-1").strip(), "")
            headers = {
                name.lower(): value.strip() for name, _, value in (pair.partition(":") for pair in pairs)
            }
            file.read(int(headers.get("content-length", 0)))
            self.seen.append(line)
            self.headers.append(headers)
            self.answer(Talk(self, plain, line, headers))

    def wait(self) -> None:
        """Until every connection so far has ended: what is without end ends when the client goes."""
        for thread in self.threads:
            thread.join(LONGEST + 5)

    def stop(self) -> None:
        """Take no more connections."""
        self.listener.close()
