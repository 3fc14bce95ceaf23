"""WebSocket frames -> values. Pure: no sockets here.

Source of the shapes: recorded transcripts of ComfyUI 0.3.64 and 0.8.0, and the cloud's documentation.
Binary frames start with a big-endian u32 type: 1 preview, 3 text, 4 preview with metadata.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

# The end of a run, by message type.
END_TYPES = {
    "execution_success": "success",
    "execution_error": "error",
    "execution_interrupted": "cancelled",
}
SUFFIXES = {1: ".jpg", 2: ".png"}
MEDIA_SUFFIXES = {"image/jpeg": ".jpg", "image/png": ".png", "image/webp": ".webp"}
MOST_TEXT = 1_000_000


class Event(NamedTuple):
    """One text frame: its type, the run it names (None for `status` and the like) and its data."""

    type: str
    prompt_id: str | None = None
    node: str | None = None
    data: Mapping[str, Any] = {}

    @property
    def end(self) -> str | None:
        """`success`, `error` or `cancelled` when this event ends a run."""
        return None if self.blocks else END_TYPES.get(self.type)

    @property
    def blocks(self) -> bool:
        """Whether a node's input was withheld on purpose: it looks like a failure, but the run continues."""
        return self.type == "execution_error" and self.data.get("exception_type") == "ExecutionBlocked"


class Preview(NamedTuple):
    """A picture sent through the socket. `prompt_id` and `node` are known only for frames with metadata (type 4)."""

    image: bytes
    suffix: str
    prompt_id: str | None = None
    node: str | None = None
    meta: Mapping[str, Any] = {}


class Text(NamedTuple):
    """A text that a node sent through the socket (type 3)."""

    node: str
    text: str


class Malformed(NamedTuple):
    """A frame that could not be read, and why; never raised as an error."""

    why: str


Frame = Event | Preview | Text | Malformed


def parse_text(frame: str | bytes) -> Event | Malformed:
    """The event in a text frame; Malformed for what is not a JSON object with a `type`."""
    try:
        message = json.loads(frame)
    except (ValueError, RecursionError):
        return Malformed("not JSON")
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return Malformed("no message type")
    data = message.get("data")
    data = data if isinstance(data, dict) else {"value": data}
    return Event(message["type"], _word(data.get("prompt_id")), _node(data), data)


def _word(value: Any) -> str | None:
    return str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else None


def _node(data: Mapping[str, Any]) -> str | None:
    return _word(data.get("node", data.get("node_id")))


def parse_binary(frame: bytes) -> Preview | Text | Malformed:
    """The picture or text in a binary frame. The picture's own first bytes beat a wrong type in the header."""
    if len(frame) < 4:
        return Malformed("binary frame shorter than its header")
    (kind,) = struct.unpack_from(">I", frame)
    if kind == 1:
        return _plain_preview(frame)
    if kind == 3:
        return _text(frame)
    if kind == 4:
        return _preview_with_metadata(frame)
    return Malformed(f"binary frame of unknown type {kind}")


def _plain_preview(frame: bytes) -> Preview | Malformed:
    if len(frame) < 8:
        return Malformed("preview without an image type")
    (image_type,) = struct.unpack_from(">I", frame, 4)
    image = frame[8:]
    return Preview(image, sniffed_suffix(image) or SUFFIXES.get(image_type, ".bin"))


def _text(frame: bytes) -> Text | Malformed:
    if len(frame) < 8:
        return Malformed("text frame without a node id")
    (length,) = struct.unpack_from(">I", frame, 4)
    if len(frame) < 8 + length:
        return Malformed("text frame shorter than its node id")
    node = frame[8 : 8 + length].decode("utf-8", "replace")
    return Text(node, frame[8 + length :][:MOST_TEXT].decode("utf-8", "replace"))


def _preview_with_metadata(frame: bytes) -> Preview | Malformed:
    if len(frame) < 8:
        return Malformed("preview without metadata")
    (length,) = struct.unpack_from(">I", frame, 4)
    if len(frame) < 8 + length:
        return Malformed("preview shorter than its metadata")
    try:
        meta = json.loads(frame[8 : 8 + length])
    except (ValueError, RecursionError):
        return Malformed("preview with unreadable metadata")
    if not isinstance(meta, dict):
        return Malformed("preview metadata is not an object")
    image = frame[8 + length :]
    suffix = sniffed_suffix(image) or MEDIA_SUFFIXES.get(str(meta.get("image_type")), ".bin")
    return Preview(image, suffix, _word(meta.get("prompt_id")), _word(meta.get("node_id")), meta)


def sniffed_suffix(image: bytes) -> str | None:
    """The file suffix that a picture's own first bytes name, or None."""
    if image.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return ".webp"
    return None


def progress_nodes(event: Event) -> dict[str, dict[str, Any]]:
    """The nodes of a `progress_state` event: id -> its value, max and state (`running`, `finished`)."""
    nodes = event.data.get("nodes")
    if not isinstance(nodes, Mapping):
        return {}
    return {str(node): dict(state) for node, state in nodes.items() if isinstance(state, Mapping)}


def cached_nodes(event: Event) -> list[str]:
    """The node ids of an `execution_cached` event."""
    nodes = event.data.get("nodes")
    return [str(node) for node in nodes] if isinstance(nodes, (list, tuple)) else []


def output_of(event: Event) -> Mapping[str, Any] | None:
    """What an `executed` event says its node put out; None for nodes without any (cached ones send null)."""
    output = event.data.get("output")
    return output if isinstance(output, Mapping) else None


def number(value: Any, default: float = 0.0) -> float:
    """A finite number from a frame, else the default."""
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and value == value
        and abs(value) < 1e18
    ):
        return float(value)
    return default
