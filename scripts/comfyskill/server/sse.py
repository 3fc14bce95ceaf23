"""Server-sent events -> the same frames that a WebSocket gives, read beside the main loop.

Level 1. Source of the shapes: the API v2 fact sheet and recordings of comfy-api-proxy 0.1.6. Events are hints: the
job's record decides how it ended, so every fault here only means that the records are looked at instead.
"""

from __future__ import annotations

import base64
import binascii
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from comfyskill.base.cli import SkillError
from comfyskill.server import events

if TYPE_CHECKING:
    import requests

# A preview is a picture in base64; anything larger is no event of a job.
MOST_FRAME = 24 * 1024 * 1024
READ_SIZE = 1 << 16
MOST_WAITING = 1000
# The ends of a job, after which the stream is still read to its own end.
LAST_STATUSES = frozenset({"succeeded", "failed", "canceled", "cancelled", "expired"})


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
    """One job's events: a thread reads them into a queue, so `receive` waits no longer than it is told to.

    `open_response` makes the streamed answer; it runs in the thread, so that nobody waits for it either.
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
            # 501: no streaming here. 429: too many streams. A missing job: nothing to hear. Polling does it all.
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
        """Into the queue; when nobody reads, frames are dropped rather than kept for ever."""
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
