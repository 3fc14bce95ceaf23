"""Texts inside MP4/MOV and WebM/Matroska files. Level 1, pure.

ComfyUI's SaveVideo and Video Helper Suite write `prompt` and `workflow` as named keys (moov/meta with `keys` and
`ilst`); older Video Helper Suite versions write one JSON object as the comment. WebM files carry the same as tags.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from comfyskill.source.media_bytes import MAX_TEXT, Texts, Truncated, counted, decode, size_of, take

_ILST_NAMES = {b"\xa9cmt": "comment", b"\xa9des": "description", b"desc": "description", b"\xa9nam": "title"}
# Matroska element ids (RFC 9559).
_SEGMENT, _CLUSTER, _TAGS, _TAG, _SIMPLE_TAG = 0x18538067, 0x1F43B675, 0x1254C367, 0x7373, 0x67C8
_TAG_NAME, _TAG_STRING = 0x45A3, 0x4487


def mp4_texts(stream: BinaryIO, texts: Texts) -> None:
    """Fill `texts` from an ISO base media or QuickTime file; picture data is skipped, not read."""
    for kind, start, end in _boxes(stream, 0, size_of(stream), texts):
        if kind == b"moov":
            _movie(stream, start, end, texts)
        elif kind == b"meta":
            _meta(stream, start, end, texts)


def _movie(stream: BinaryIO, start: int, end: int, texts: Texts) -> None:
    for kind, inner, inner_end in _boxes(stream, start, end, texts):
        if kind == b"meta":
            _meta(stream, inner, inner_end, texts)
        elif kind == b"udta":
            for sub, sub_start, sub_end in _boxes(stream, inner, inner_end, texts):
                if sub == b"meta":
                    _meta(stream, sub_start, sub_end, texts)
                elif sub in _ILST_NAMES and sub_end - sub_start > 4:
                    stream.seek(sub_start + 4)
                    texts.add(_ILST_NAMES[sub], decode(take(stream, sub_end - sub_start - 4)))


def _boxes(stream: BinaryIO, start: int, end: int, texts: Texts) -> Iterator[tuple[bytes, int, int]]:
    """(type, start of content, end) of the boxes between two offsets."""
    position = start
    for _ in counted(texts):
        if position + 8 > end:
            return
        stream.seek(position)
        size, kind = struct.unpack(">I4s", take(stream, 8))
        content = position + 8
        if size == 1:
            size = struct.unpack(">Q", take(stream, 8))[0]
            content += 8
        elif size == 0:
            size = end - position
        if position + size < content or position + size > end:
            raise Truncated(f"a {kind.decode('latin-1').strip()} box is cut off")
        yield kind, content, position + size
        position += size


def _meta(stream: BinaryIO, start: int, end: int, texts: Texts) -> None:
    if end - start < 8:
        return
    stream.seek(start + 4)
    # ISO files have version and flags here, QuickTime files start with the first box at once.
    start += 0 if take(stream, 4) == b"hdlr" else 4
    names: list[str] = []
    for kind, inner, inner_end in _boxes(stream, start, end, texts):
        if kind == b"keys":
            names = _key_names(stream, inner, inner_end)
        elif kind == b"ilst":
            for item, item_start, item_end in _boxes(stream, inner, inner_end, texts):
                _item(stream, item, item_start, item_end, names, texts)


def _key_names(stream: BinaryIO, start: int, end: int) -> list[str]:
    stream.seek(start + 4)
    (count,) = struct.unpack(">I", take(stream, 4))
    names: list[str] = []
    position = start + 8
    while len(names) < count and position + 8 <= end:
        stream.seek(position)
        size = struct.unpack(">I", take(stream, 4))[0]
        if size < 8 or position + size > end:
            raise Truncated("a key name is cut off")
        take(stream, 4)
        names.append(decode(take(stream, size - 8)))
        position += size
    return names


def _item(stream: BinaryIO, item: bytes, start: int, end: int, names: list[str], texts: Texts) -> None:
    index = int.from_bytes(item, "big")
    name = names[index - 1] if 0 < index <= len(names) else _ILST_NAMES.get(item, decode(item))
    for kind, inner, inner_end in _boxes(stream, start, end, texts):
        length = inner_end - inner
        if kind == b"name" and length > 4:
            stream.seek(inner + 4)
            name = decode(take(stream, length - 4))
        elif kind == b"data" and 8 < length <= MAX_TEXT:
            stream.seek(inner)
            encoding = struct.unpack(">I", take(stream, 4))[0] & 0xFFFFFF
            take(stream, 4)
            value = take(stream, length - 8)
            if encoding in (0, 1, 2):
                texts.add(name, value.decode("utf-16-be", "replace") if encoding == 2 else decode(value))


def matroska_texts(stream: BinaryIO, texts: Texts) -> None:
    """Fill `texts` from the tags of a WebM or Matroska file; clusters are skipped by their size."""
    end = size_of(stream)
    stream.seek(0)
    name = ""
    for _ in counted(texts):
        if stream.tell() >= end:
            return
        element, size = _vint(stream, keep_marker=True), _vint(stream, keep_marker=False)
        unknown = size is None
        if element in (_SEGMENT, _TAGS, _TAG, _SIMPLE_TAG) or (element == _CLUSTER and unknown):
            name = "" if element == _SIMPLE_TAG else name
            continue
        if size is None or stream.tell() + size > end:
            raise Truncated("an element is cut off")
        if element == _TAG_NAME and size < 1000:
            name = decode(take(stream, size))
        elif element == _TAG_STRING and name and size <= MAX_TEXT:
            texts.add(name, decode(take(stream, size)))
        else:
            stream.seek(size, 1)


def _vint(stream: BinaryIO, *, keep_marker: bool) -> int | None:
    """A variable-length integer; None for the reserved "size unknown"."""
    (first,) = take(stream, 1)
    length = 9 - first.bit_length()
    if length > 8:
        raise Truncated("not an element")
    value = int.from_bytes(bytes([first]) + take(stream, length - 1), "big")
    if keep_marker:
        return value
    mask = (1 << (7 * length)) - 1
    return None if value & mask == mask else value & mask
