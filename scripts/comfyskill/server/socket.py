"""The WebSocket connection itself: open, read one frame or time out, ping, close.

`websocket-client` is imported on first use. The address may hold a token, so no error shows it.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import _common
from comfyskill.base import safe_text
from comfyskill.base.cli import SkillError
from comfyskill.server import events, transport

if TYPE_CHECKING:
    import requests

    from comfyskill.server.protocol import Dialect

CONNECT_TIMEOUT = 10.0
READ_SIZE = 1 << 16
# A picture of SaveImageWebsocket is the largest honest message; 8192 x 8192 points of noise are about 200 MB.
MOST_MESSAGE = 256 * 1024 * 1024
MOST_FRAGMENTS = 10_000
CAUSES = {
    "WebSocketConnectionClosedException": "the connection was closed",
    "WebSocketTimeoutException": "no answer in time",
    "ConnectionResetError": "the connection was closed",
    "ConnectionRefusedError": "nothing listens there",
    "BrokenPipeError": "the connection was closed",
    "TimeoutError": "no answer in time",
}
CLIENT_FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
# A preview is a picture in base64; anything larger is not an event of a job.
MOST_FRAME = 24 * 1024 * 1024
MOST_WAITING = 1000
# The ends of a job, after which the stream is still read to its own end.
LAST_STATUSES = frozenset({"succeeded", "failed", "canceled", "cancelled", "expired"})


class Disconnected(Exception):
    """The socket could not be opened or has ended. `status`: HTTP status of a refused handshake, if any.

    `mute`: the server lets us in and says nothing of use; trying again would only cost the same again.
    """

    def __init__(self, why: str, status: int | None = None, *, mute: bool = False) -> None:
        super().__init__(why)
        self.status = status
        self.mute = mute


class TooMuch(Exception):
    """A frame or message that would fill the memory."""


class _Buffered:
    """A connected socket that is read in large pieces, until a given time; everything but `recv` is the socket's own.

    websocket-client asks for two bytes, then for a length, then for the text: three system calls a frame. It has a
    limit for each read and none for a frame, a message or a handshake. `heard`: when bytes last came.
    """

    def __init__(self, plain: Any) -> None:
        self._plain = plain
        self._held = b""
        self._at = 0
        self.heard = time.monotonic()
        self.until = self.heard + (plain.gettimeout() or CONNECT_TIMEOUT)  # for the handshake

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    @property
    def holds_more(self) -> bool:
        """Whether bytes are buffered that were not returned yet."""
        return self._at < len(self._held)

    def recv(self, most: int) -> bytes:
        """As socket.recv; TimeoutError when nothing is held and `until` has come."""
        if not self.holds_more:
            left = self.until - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            self._plain.settimeout(left)
            self._held, self._at = self._plain.recv(READ_SIZE), 0
            self.heard = time.monotonic()
        piece = self._held[self._at : self._at + most]
        self._at += len(piece)
        return piece


@functools.cache
def _bounded() -> Any:
    """The library's socket class with limits: for the time of a handshake, the length of a frame and of a message."""
    import websocket

    class Frames(websocket.frame_buffer):
        def recv_length(self) -> None:
            super().recv_length()
            if (self.length or 0) > MOST_MESSAGE:
                raise TooMuch

    class Message(websocket.continuous_frame):
        """The fragments of one message, joined once at its end."""

        pieces: list[bytes] = []
        size = count = 0

        def add(self, frame: Any) -> None:
            if self.cont_data is None:
                self.pieces, self.size, self.count = [], 0, 0
                self.cont_data = [frame.opcode, b""]
                self.recving_frames = frame.opcode
            self.pieces.append(frame.data)
            self.size += len(frame.data)
            self.count += 1
            if self.size > MOST_MESSAGE or self.count > MOST_FRAGMENTS:
                raise TooMuch
            if frame.fin:
                self.recving_frames = None

        def extract(self, frame: Any) -> tuple[Any, Any]:
            assert self.cont_data is not None
            self.cont_data[1] = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
            self.pieces = []
            return super().extract(frame)

    class Bounded(websocket.WebSocket):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.frame_buffer = Frames(self._recv, skip_utf8_validation=True)
            self.cont_frame = Message(fire_cont_frame=False, skip_utf8_validation=True)

        def __setattr__(self, name: str, value: Any) -> None:
            # The library reads the handshake from whatever it has connected.
            wrapped = name == "sock" and value is not None and not isinstance(value, _Buffered)
            super().__setattr__(name, _Buffered(value) if wrapped else value)

    return Bounded


class Wire:
    """One open WebSocket. `heard` is when the last bytes arrived, in time.monotonic() seconds."""

    def __init__(self, server: Dialect, client_id: str) -> None:
        import websocket

        self._library = websocket
        url = server.socket_url(client_id)
        # websocket-client may trace frames and addresses through logging; a root logger must not see them.
        try:
            self._socket = websocket.create_connection(
                url,
                timeout=transport.time_left(CONNECT_TIMEOUT),
                header=[f"{name}: {value}" for name, value in server.credentials().items()],
                sslopt=_tls(server),
                suppress_origin=True,
                redirect_limit=0,
                skip_utf8_validation=True,
                class_=_bounded(),
                **_proxies(server),
            )
        except websocket.WebSocketBadStatusException as error:
            raise Disconnected(
                f"the server refused the socket (HTTP {error.status_code})", error.status_code
            ) from None
        except (websocket.WebSocketException, OSError, ValueError) as error:
            mute = isinstance(error, (websocket.WebSocketTimeoutException, TimeoutError))
            raise Disconnected(_in_words(error), mute=mute) from None
        self._buffer: Any = self._socket.sock
        self._pinged = 0.0
        try:
            self._socket.send(json.dumps(CLIENT_FLAGS))
        except (websocket.WebSocketException, OSError) as error:
            self._socket.shutdown()
            raise Disconnected(_in_words(error)) from None

    def receive(self, timeout: float) -> events.Frame | None:
        """The next frame as a value, or None when none came whole in time. Raises Disconnected at the end."""
        library = self._library
        self._buffer.until = time.monotonic() + max(timeout, 0.001)
        try:
            opcode, data = self._socket.recv_data(control_frame=True)
        except library.WebSocketTimeoutException:
            return None
        except TooMuch:
            raise Disconnected("the server sent a message that is too large", mute=True) from None
        except (library.WebSocketException, OSError, ValueError) as error:
            raise Disconnected(_in_words(error)) from None
        if opcode == library.ABNF.OPCODE_TEXT:
            return events.parse_text(data)
        if opcode == library.ABNF.OPCODE_BINARY:
            return events.parse_binary(data)
        if opcode == library.ABNF.OPCODE_CLOSE:
            raise Disconnected("the server closed the socket")
        return None

    @property
    def heard(self) -> float:
        """When bytes last came, in time.monotonic() seconds."""
        return float(self._buffer.heard)

    @property
    def has_more(self) -> bool:
        """Whether the start of a further frame has come already."""
        return self._buffer.holds_more

    def keep_alive(self, quiet: float, patience: float) -> None:
        """Ping after `quiet` seconds without a frame; Disconnected when the ping goes unanswered for `patience`."""
        now = time.monotonic()
        if now - self.heard < quiet:
            return
        if self._pinged > self.heard:
            if now - self._pinged > patience:
                raise Disconnected("the socket went silent")
            return
        try:
            self._socket.ping()
        except (self._library.WebSocketException, OSError) as error:
            raise Disconnected(_in_words(error)) from None
        self._pinged = now

    def close(self) -> None:
        """Close without waiting for the other side."""
        # Not the library's own close: it swallows whatever is raised meanwhile, a Ctrl-C as well.
        try:
            self._socket.send_close()
        except (self._library.WebSocketException, OSError, ValueError):
            pass
        self._socket.shutdown()


def _in_words(error: Exception) -> str:
    """The cause without the address, which may hold a token."""
    name = type(error).__name__
    return CAUSES.get(name, safe_text.clean(name))


def _proxies(server: Dialect) -> dict[str, Any]:
    """As for HTTP: the environment's proxies are for other machines. The library checks exceptions only for names."""
    if not _common.is_this_machine(urlsplit(server.url).hostname or ""):
        return {}
    return {"http_proxy_host": "none", "http_proxy_port": 1, "http_no_proxy": ["*"]}


def _tls(server: Dialect) -> dict[str, Any] | None:
    if not server.socket_url("x").startswith("wss"):
        return None
    import ssl

    if server.access.insecure:
        return {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
    if server.access.ca_bundle:
        return {"ca_certs": server.access.ca_bundle}
    import certifi

    return {"ca_certs": certifi.where()}


def parse(chunks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """(event name, data) of each whole frame in a byte stream; comments and unknown fields are skipped.

    Lines may end in LF, CRLF or CR. A frame that the stream breaks off, or one over MOST_FRAME, is dropped.
    """
    name, size = "message", 0
    data: list[str] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data, size = "message", [], 0
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            size += len(value) + 1
            if size <= MOST_FRAME:
                data.append(value)
            else:
                data.clear()


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    pending = bytearray()
    after_return = False
    for chunk in chunks:
        for byte_line, ended in _pieces(chunk):
            if after_return and not byte_line and ended == b"\n":
                after_return = False  # the LF of a CRLF that two chunks share
                continue
            after_return = ended == b"\r"
            pending += byte_line
            if ended:
                yield pending.decode("utf-8", "replace")
                pending.clear()
        if len(pending) > MOST_FRAME:
            return


def _pieces(chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The lines of a chunk with their line end: LF, CR, or nothing for a rest."""
    for line in chunk.replace(b"\r\n", b"\n").splitlines(keepends=True):
        end = line[-1:]
        yield (line[:-1], end) if end in (b"\n", b"\r") else (line, b"")


def frame_of(prompt_id: str, name: str, data: str) -> events.Frame | None:
    """An event of one job as a frame; None for what a watcher has no use for (`log`, unknown names, bad JSON)."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    if name == "progress":
        node = body.get("current_node")
        return events.Event("job_progress", prompt_id, str(node) if node is not None else None, body)
    if name == "status":
        return events.Event("job_status", prompt_id, data=body)
    if name == "output":
        return events.Event("job_output", prompt_id, data=body)
    if name == "preview":
        return _preview(prompt_id, body)
    return None


def _preview(prompt_id: str, body: Mapping[str, Any]) -> events.Preview | None:
    try:
        image = base64.b64decode(str(body.get("data_base64") or ""), validate=True)
    except (binascii.Error, ValueError):
        return None
    if not image:
        return None
    suffix = events.sniffed_suffix(image) or events.MEDIA_SUFFIXES.get(str(body.get("content_type")), ".bin")
    node = body.get("node_id")
    return events.Preview(image, suffix, prompt_id, str(node) if node is not None else None)


class StreamEnded(Exception):
    """The stream is over. `again`: seconds after which it may be opened anew, None for never."""

    def __init__(self, again: float | None) -> None:
        super().__init__("the event stream ended")
        self.again = again


class EventStream:
    """One job's events: a thread reads them into a queue, so `receive` never waits longer than its limit.

    `open_response` makes the streamed answer; it runs in the thread, so no caller waits for it.
    """

    def __init__(self, prompt_id: str, open_response: Callable[[], requests.Response | None]) -> None:
        self.prompt_id = prompt_id
        self._open = open_response
        self._frames: queue.Queue[events.Frame | StreamEnded] = queue.Queue(MOST_WAITING)
        self._closed = threading.Event()
        self._response: requests.Response | None = None
        threading.Thread(target=self._read, name="job-events", daemon=True).start()

    def receive(self, timeout: float) -> events.Frame | None:
        """The next frame, or None when none came in time. Raises StreamEnded after the last one."""
        try:
            item = self._frames.get(timeout=timeout) if timeout > 0 else self._frames.get_nowait()
        except queue.Empty:
            return None
        if isinstance(item, StreamEnded):
            raise item
        return item

    def close(self) -> None:
        """Stop reading; the thread ends with the next byte or the read time-out, whichever comes first."""
        self._closed.set()
        shutdown = getattr(getattr(self._response, "raw", None), "shutdown", None)
        if shutdown is not None:
            try:
                shutdown()
            except (OSError, ValueError, RuntimeError):
                return

    def _read(self) -> None:
        import requests
        import urllib3

        again: float | None = 0.1
        try:
            again = self._read_all()
        except SkillError as error:
            # 501: no streaming here. 429: too many streams. A missing job: no events. Polling covers all three.
            again = _pause_after(error)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
            # AttributeError: urllib3 reading on a connection that close() has just taken away.
            again = 1.0
        self._put(StreamEnded(again))

    def _read_all(self) -> float | None:
        """Read to the end of the stream, also past the terminal status; when it may be opened again."""
        response = self._response = self._open()
        if response is None:
            return None
        over = False
        with response:
            # Not whole chunks: the server chooses their size.
            for name, data in parse(response.iter_content(READ_SIZE)):
                if self._closed.is_set():
                    return None
                frame = frame_of(self.prompt_id, name, data)
                if frame is None:
                    continue
                if isinstance(frame, events.Event) and frame.type == "job_status":
                    over = frame.data.get("status") in LAST_STATUSES
                self._put(frame)
        return 2.0 if over else 0.1

    def _put(self, item: events.Frame | StreamEnded) -> None:
        """Into the queue; without a reader, frames are dropped instead of kept for ever."""
        give_up = time.monotonic() + 1.0
        while not self._closed.is_set():
            try:
                self._frames.put(item, timeout=0.2)
                return
            except queue.Full:
                if not isinstance(item, StreamEnded) and time.monotonic() > give_up:
                    return


def _pause_after(error: SkillError) -> float | None:
    status = error.details.get("http_status")
    if status in (401, 403, 404, 405, 501) or error.code in ("not_found", "refused", "not_offered"):
        return None
    wait = error.details.get("retry_after")
    return float(wait) if isinstance(wait, (int, float)) else 5.0
