"""WebSockets: the connections, and which one receives which frame in which order."""

from __future__ import annotations

import asyncio
import json
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import WSMsgType, web

from comfyskill.base.cli import Document

PREVIEW, TEXT, PREVIEW_WITH_METADATA = 1, 3, 4
JPEG, PNG = 1, 2
Frame = str | bytes
HIGH_WATER = 65_536


@dataclass(eq=False)
class Socket:
    """One connection."""

    sid: str
    ws: web.WebSocketResponse
    request: web.Request
    flags: Document = field(default_factory=dict)

    def cut(self) -> None:
        """End the connection without a close frame, as a server that is killed does (the client sees 1006)."""
        if self.request.transport is not None:
            # Sends what was written before, without waiting.
            self.request.transport.close()


def framed(frame: Frame) -> bytes:
    """One unmasked WebSocket frame (RFC 6455, section 5.2): several can go out in one write."""
    data = frame.encode("utf-8", "surrogatepass") if isinstance(frame, str) else frame
    kind = 0x81 if isinstance(frame, str) else 0x82
    if len(data) < 126:
        return struct.pack(">BB", kind, len(data)) + data
    if len(data) < 65536:
        return struct.pack(">BBH", kind, 126, len(data)) + data
    return struct.pack(">BBQ", kind, 127, len(data)) + data


class Hub:
    """All sockets, and one sender for all of them: a client that does not read holds up the others, as it does
    on the real server. Frames wait in memory and are not lost."""

    def __init__(self, features: Callable[[], Document]) -> None:
        self.features = features
        self.sockets: dict[str, Socket] = {}
        self.everyone: set[Socket] = set()
        self.broadcast_all = False
        self.queue_length: Callable[[], int] = lambda: 0
        self.running_node: Callable[[str], str | None] = lambda _sid: None
        self.frames: asyncio.Queue[tuple[Frame, str | None]] = asyncio.Queue()
        self.log_clients: set[str] = set()

    # Sending never waits: it queues the frame.
    def send(self, event: str, data: Document, sid: str | None = None) -> None:
        self.frames.put_nowait((json.dumps({"type": event, "data": data}), sid))

    def send_bytes(self, kind: int, payload: bytes, sid: str | None = None) -> None:
        self.frames.put_nowait((struct.pack(">I", kind) + payload, sid))

    def send_status(self) -> None:
        self.send("status", {"status": self.status()})

    def status(self) -> Document:
        return {"exec_info": {"queue_remaining": self.queue_length()}}

    def wants_metadata(self, sid: str | None) -> bool:
        socket = self.sockets.get(sid) if sid is not None else None
        return socket is not None and socket.flags.get("supports_preview_metadata") is True

    def send_text(self, node_id: str, text: str, sid: str | None) -> None:
        name = node_id.encode()
        self.send_bytes(TEXT, struct.pack(">I", len(name)) + name + text.encode("utf-8", "replace"), sid)

    def send_preview(self, image_format: int, picture: bytes, sid: str | None) -> None:
        self.send_bytes(PREVIEW, struct.pack(">I", image_format) + picture, sid)

    def send_preview_with_metadata(self, metadata: Document, picture: bytes, sid: str | None) -> None:
        text = json.dumps(metadata).encode()
        self.send_bytes(PREVIEW_WITH_METADATA, struct.pack(">I", len(text)) + text + picture, sid)

    async def deliver(self) -> None:
        """Send queued frames until this task is cancelled; those queued together go out in one write per socket."""
        while True:
            frames = [await self.frames.get()]
            while not self.frames.empty():
                frames.append(self.frames.get_nowait())
            lines: dict[Socket, list[Frame]] = {}
            for frame, sid in frames:
                for socket in self._receivers(sid):
                    lines.setdefault(socket, []).append(frame)
            for socket, line in lines.items():
                await self.deliver_to(socket, line)

    def _receivers(self, sid: str | None) -> list[Socket]:
        if sid is None or self.broadcast_all:
            return list(self.sockets.values())
        socket = self.sockets.get(sid)
        return [socket] if socket is not None else []

    async def deliver_to(self, socket: Socket, frames: list[Frame]) -> None:
        transport = socket.request.transport
        if socket.ws.closed or transport is None or transport.is_closing():
            return
        transport.write(b"".join(framed(frame) for frame in frames))
        while transport.get_write_buffer_size() > HIGH_WATER and not transport.is_closing():
            await asyncio.sleep(0.005)

    async def serve(self, request: web.Request, sid: str | None = None) -> web.WebSocketResponse:
        """Hold one connection until the client leaves."""
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        sid = sid or request.rel_url.query.get("clientId") or uuid.uuid4().hex
        # A second socket under the same name takes over; when the first leaves, its entry goes, whoever holds it.
        self.sockets.pop(sid, None)
        socket = Socket(sid, ws, request)
        self.sockets[sid] = socket
        self.everyone.add(socket)
        try:
            await self._greet(socket)
            await self._listen(socket)
        finally:
            self.sockets.pop(sid, None)
            self.everyone.discard(socket)
        return ws

    async def _greet(self, socket: Socket) -> None:
        message = {"type": "status", "data": {"status": self.status(), "sid": socket.sid}}
        await self.deliver_to(socket, [json.dumps(message)])
        node = self.running_node(socket.sid)
        if node is not None:
            await self.deliver_to(socket, [json.dumps({"type": "executing", "data": {"node": node}})])

    async def _listen(self, socket: Socket) -> None:
        first = True
        async for message in socket.ws:
            if message.type != WSMsgType.TEXT or not first:
                continue
            try:
                said = json.loads(message.data)
            except ValueError:
                continue
            if not isinstance(said, dict):
                continue
            first = False
            if said.get("type") == "feature_flags":
                flags = said.get("data")
                socket.flags = flags if isinstance(flags, dict) else {}
                answer = {"type": "feature_flags", "data": self.features()}
                await self.deliver_to(socket, [json.dumps(answer)])

    def drop_all(self) -> None:
        """End all connections without a close frame."""
        for socket in list(self.everyone):
            socket.cut()
        self.sockets.clear()
