"""Texts inside PNG, JPEG and WebP pictures, as ComfyUI and common savers write them. Pure.

Where ComfyUI puts them (its `nodes.py`, `comfy_extras/nodes_images.py`, read at 0.3.64 and 0.8.0): PNG text
chunks `prompt` and `workflow`; animated PNG private chunks `comf`; WebP EXIF tag 0x0110 `prompt:{...}` and
0x010F downwards `workflow:{...}`. Other savers use the same tags in JPEG, or the EXIF user comment.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from comfyskill.source.media_bytes import MAX_TEXT, Texts, Truncated, counted, decode, inflate, size_of, take

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"comf", b"eXIf")
_EXIF_POINTER = 0x8769
_USER_COMMENT = 0x9286
_MAX_TAGS = 512


def png_texts(stream: BinaryIO, texts: Texts) -> None:
    """Fill `texts` from the chunks of a PNG (still or animated)."""
    end = size_of(stream)
    stream.seek(len(PNG_MAGIC))
    for _ in counted(texts):
        length, kind = struct.unpack(">I4s", take(stream, 8))
        if stream.tell() + length + 4 > end:
            raise Truncated(f"a {kind.decode('latin-1').strip()} chunk is cut off")
        if kind == b"IEND":
            return
        if kind not in _PNG_TEXT or length > MAX_TEXT:
            stream.seek(length + 4, 1)
            continue
        data = take(stream, length)
        if struct.unpack(">I", take(stream, 4))[0] != zlib.crc32(kind + data):
            texts.note(f"the checksum of a {kind.decode('latin-1')} chunk is wrong")
        _png_chunk(kind, data, texts)


def _png_chunk(kind: bytes, data: bytes, texts: Texts) -> None:
    if kind == b"eXIf":
        exif_texts(data, texts)
        return
    raw_key, _, rest = data.partition(b"\0")
    key = decode(raw_key[:200])
    if kind == b"zTXt":
        rest = inflate(rest[1:], texts, key)
    elif kind == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:]
        rest = rest.partition(b"\0")[2].partition(b"\0")[2]
        rest = inflate(rest, texts, key) if packed else rest
    texts.add(key, decode(rest))


def webp_texts(stream: BinaryIO, texts: Texts) -> None:
    """Fill `texts` from the EXIF chunk of a WebP (still or animated)."""
    end = size_of(stream)
    stream.seek(12)
    for _ in counted(texts):
        if stream.tell() + 8 > end:
            return
        kind, length = struct.unpack("<4sI", take(stream, 8))
        if stream.tell() + length > end:
            raise Truncated(f"a {kind.decode('latin-1').strip()} chunk is cut off")
        if kind == b"EXIF" and length <= MAX_TEXT:
            exif_texts(take(stream, length), texts)
        else:
            stream.seek(length, 1)
        stream.seek(length & 1, 1)


def jpeg_texts(stream: BinaryIO, texts: Texts) -> None:
    """Fill `texts` from the EXIF and comment segments of a JPEG, up to where the picture data starts."""
    stream.seek(2)
    for _ in counted(texts):
        lead, marker = take(stream, 2)
        while marker == 0xFF:
            (marker,) = take(stream, 1)
        if lead != 0xFF or marker in (0xD9, 0xDA):
            return
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        length = struct.unpack(">H", take(stream, 2))[0] - 2
        if length < 0:
            raise Truncated("a segment has an impossible length")
        data = take(stream, length)
        if marker == 0xE1 and data[:6] == b"Exif\0\0":
            exif_texts(data, texts)
        elif marker == 0xFE:
            texts.add("comment", decode(data))


def exif_texts(data: bytes, texts: Texts) -> None:
    """Fill `texts` from an EXIF block: every text of the first directory, and the user comment."""
    data = data[6:] if data[:6] == b"Exif\0\0" else data
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        texts.note("the EXIF block is damaged")
        return
    first = struct.unpack_from(order + "I", data, 4)[0]
    pointer = _directory(data, order, first, texts)
    if pointer and pointer != first:
        _directory(data, order, pointer, texts)


def _directory(data: bytes, order: str, offset: int, texts: Texts) -> int:
    """Read one tag directory; returns the offset of the EXIF sub-directory, 0 without one."""
    if offset + 2 > len(data):
        texts.note("the EXIF block is cut off")
        return 0
    pointer = 0
    count = min(struct.unpack_from(order + "H", data, offset)[0], _MAX_TAGS)
    for index in range(count):
        entry = offset + 2 + 12 * index
        if entry + 12 > len(data):
            texts.note("the EXIF block is cut off")
            break
        tag, kind, length = struct.unpack_from(order + "HHI", data, entry)
        where = struct.unpack_from(order + "I", data, entry + 8)[0]
        if tag == _EXIF_POINTER:
            pointer = where
        elif kind in (1, 2, 7) and length > 4:
            value = data[where : where + length]
            texts.add(*_tag_text(tag, value, order))
    return pointer


def _tag_text(tag: int, value: bytes, order: str) -> tuple[str, str]:
    if tag != _USER_COMMENT:
        return f"exif 0x{tag:04x}", decode(value)
    charset, body = value[:8], value[8:]
    if charset != b"UNICODE\0":
        return "usercomment", decode(body if charset in (b"ASCII\0\0\0", bytes(8)) else value)
    # The standard says the block's byte order, several writers use big-endian always: the one that reads as text.
    little, big = body.decode("utf-16-le", "replace"), body.decode("utf-16-be", "replace")
    plain = sorted((little, big), key=lambda text: sum(char > "\xff" for char in text))
    return "usercomment", plain[0] if little != big else (little if order == "<" else big)
