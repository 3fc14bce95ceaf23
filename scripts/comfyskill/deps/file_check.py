"""Whether a file is what its suffix says, from its first bytes and its header. Level 1.

Safetensors: eight bytes with the header's length (little end first), the header as JSON, then the tensors without
gaps; the format's own library takes headers up to 100 MB. Other types are told by their first bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_HEADER = 100_000_000
_STARTS: dict[str, tuple[bytes, ...]] = {
    ".gguf": (b"GGUF",),
    # A zip (torch since 1.6), a pickle of protocol 2 to 5, or a tar (torch's first format).
    ".ckpt": (b"PK\x03\x04", b"\x80"),
    ".pt": (b"PK\x03\x04", b"\x80"),
    ".pth": (b"PK\x03\x04", b"\x80"),
    ".bin": (b"PK\x03\x04", b"\x80"),
}
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b'{"error', b'{"message')
_POINTER = b"version https://git-lfs.github.com/spec/"


def wrong_start(name: str, start: bytes) -> str | None:
    """Why these first bytes cannot be the start of such a file, or None. Fewer than 9 bytes say nothing."""
    if len(start) < 9:
        return None
    head = start.lstrip()[:40].lower()
    if head.startswith(_PAGES):
        return "it is a web page or an error message, not a model"
    if start.startswith(_POINTER):
        return "it is a Git LFS pointer, not the file itself"
    suffix = Path(name).suffix.lower()
    if suffix in (".safetensors", ".sft"):
        length = int.from_bytes(start[:8], "little")
        if not 2 <= length <= MOST_HEADER or start[8:9] != b"{":
            return "it does not begin as a safetensors file does"
    known = _STARTS.get(suffix)
    if known and not start.startswith(known):
        return f"it does not begin as a {suffix} file does"
    return None


def problem(path: Path, name: str | None = None) -> str | None:
    """What is wrong with a whole file, or None. `name`: its final name when it still has another."""
    name = name or path.name
    size = path.stat().st_size
    if size == 0:
        return "it is empty"
    with path.open("rb") as file:
        start = file.read(64)
        wrong = wrong_start(name, start)
        if wrong or Path(name).suffix.lower() not in (".safetensors", ".sft"):
            return wrong
        if size < 10:
            return "it is too short for a safetensors file"
        length = int.from_bytes(start[:8], "little")
        if 8 + length > size:
            return "it ends before its header does"
        file.seek(8)
        return _header_problem(file.read(length), size - 8 - length)


def digest(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def _header_problem(raw: bytes, data_size: int) -> str | None:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        return "its header is no JSON"
    if not isinstance(header, dict):
        return "its header is no JSON object"
    end = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        stop = _end_of(tensor)
        if stop is None or stop > data_size:
            return "a tensor in its header lies outside the file"
        end = max(end, stop)
    if end < data_size:
        return "it holds more bytes than its header accounts for"
    return None


def _end_of(tensor: Any) -> int | None:
    offsets = tensor.get("data_offsets") if isinstance(tensor, Mapping) else None
    if not isinstance(offsets, list) or len(offsets) != 2:
        return None
    start, stop = offsets
    for offset in offsets:
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            return None
    return stop if start <= stop else None
