"""The WebSocket connection itself: open, read one frame or time out, ping, close.

Level 2. `websocket-client` is imported on first use. The address may hold a token, so no error shows it.
"""

from __future__ import annotations

import functools
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import _common
from comfyskill.base import safe_text
from comfyskill.server import events, transport

if TYPE_CHECKING:
    from comfyskill.server.protocol import Dialect

CONNECT_TIMEOUT = 10.0
READ_SIZE = 1 << 16
# A picture of SaveImageWebsocket is the largest honest message; 8192 x 8192 points of noise are about 200 MB.
MOST_MESSAGE = 256 * 1024 * 1024
MOST_FRAGMENTS = 10_000
WORDS = {
    "WebSocketConnectionClosedException": "the connection was cut",
    "WebSocketTimeoutException": "no answer in time",
    "ConnectionResetError": "the connection was cut",
    "ConnectionRefusedError": "nothing listens there",
    "BrokenPipeError": "the connection was cut",
    "TimeoutError": "no answer in time",
}
CLIENT_FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}


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
        """Whether bytes were read that nobody has asked for yet."""
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
    return WORDS.get(name, safe_text.clean(name))


def _proxies(server: Dialect) -> dict[str, Any]:
    """As for HTTP: the environment's proxies are for other machines. The library looks at exceptions only beside a name."""
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
