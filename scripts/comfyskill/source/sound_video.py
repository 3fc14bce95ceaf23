"""Texts inside FLAC, Ogg (Opus, Vorbis) and MP3 files, as ComfyUI's audio savers write them. Level 1, pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from comfyskill.source.media_bytes import MAX_TEXT, Texts, Truncated, counted, decode, size_of, take

_VORBIS_COMMENT = 4
_ENCODINGS = {0: "latin-1", 1: "utf-16", 2: "utf-16-be", 3: "utf-8"}


def flac_texts(stream: BinaryIO, texts: Texts) -> None:
    """Fill `texts` from the comment block of a FLAC file."""
    stream.seek(4)
    for _ in counted(texts):
        (header,) = struct.unpack(">I", take(stream, 4))
        last, kind, length = header >> 31, header >> 24 & 0x7F, header & 0xFFFFFF
        if kind == _VORBIS_COMMENT:
            _vorbis_comments(take(stream, length), texts)
        else:
            stream.seek(length, 1)
        if last:
            return


def ogg_texts(stream: BinaryIO, texts: Texts) -> None:
    """Fill `texts` from the second packet (the comment header) of the first stream of an Ogg file."""
    stream.seek(0)
    packet = b"".join(_second_packet(stream, texts))
    for magic in (b"OpusTags", b"\x03vorbis"):
        if packet.startswith(magic):
            _vorbis_comments(packet[len(magic) :], texts)


def _second_packet(stream: BinaryIO, texts: Texts) -> Iterator[bytes]:
    serial, done, total = None, 0, 0
    for _ in counted(texts):
        magic, _flags, page_serial, segments = struct.unpack("<4sxB8xI8xB", take(stream, 27))
        if magic != b"OggS":
            raise Truncated("an Ogg page is damaged")
        laces = take(stream, segments)
        serial = page_serial if serial is None else serial
        for lace in laces:
            data = take(stream, lace)
            if page_serial != serial:
                continue
            if done == 1:
                total += lace
                if total > MAX_TEXT:
                    raise Truncated("the comment header is too large")
                yield data
            done += lace < 255
            if done == 2:
                return


def _vorbis_comments(data: bytes, texts: Texts) -> None:
    """`KEY=value` pairs with little-endian lengths; keys are case-insensitive."""
    if len(data) < 8:
        raise Truncated("the comment block is cut off")
    position = 4 + struct.unpack_from("<I", data)[0]
    if position + 4 > len(data):
        raise Truncated("the comment block is cut off")
    (count,) = struct.unpack_from("<I", data, position)
    position += 4
    for _ in range(min(count, 10_000)):
        if position + 4 > len(data):
            raise Truncated("the comment block is cut off")
        (length,) = struct.unpack_from("<I", data, position)
        field = data[position + 4 : position + 4 + length]
        if len(field) < length:
            raise Truncated("a comment is cut off")
        key, _, value = field.partition(b"=")
        texts.add(decode(key), decode(value))
        position += 4 + length


def mp3_texts(stream: BinaryIO, texts: Texts) -> None:
    """Fill `texts` from the ID3v2.3 or 2.4 tag at the start of a file; a file without a tag has none."""
    stream.seek(0)
    if stream.read(3) != b"ID3":
        return
    stream.seek(0)
    _magic, major, _minor, flags, raw_size = struct.unpack(">3sBBBI", take(stream, 10))
    size = _synchsafe(raw_size)
    if size > min(MAX_TEXT, size_of(stream)) or major not in (3, 4):
        raise Truncated("the ID3 tag is cut off or of an unknown version")
    tag = take(stream, size)
    if flags & 0x80 and major == 3:
        tag = tag.replace(b"\xff\x00", b"\xff")
    position = 0
    if flags & 0x40 and len(tag) >= 4:
        length = struct.unpack_from(">I", tag)[0]
        position = _synchsafe(length) if major == 4 else length + 4
    while position + 10 <= len(tag) and tag[position]:
        name, raw_length, _frame_flags = struct.unpack_from(">4sIH", tag, position)
        length = _synchsafe(raw_length) if major == 4 else raw_length
        body = tag[position + 10 : position + 10 + length]
        if len(body) < length:
            raise Truncated("an ID3 frame is cut off")
        _id3_frame(name, body, texts)
        position += 10 + length


def _synchsafe(value: int) -> int:
    return (value & 0x7F) | (value >> 1 & 0x3F80) | (value >> 2 & 0x1FC000) | (value >> 3 & 0xFE00000)


def _id3_frame(name: bytes, body: bytes, texts: Texts) -> None:
    if name not in (b"TXXX", b"COMM") or len(body) < 2:
        return
    # A comment has a three-letter language before its description.
    text = body[4 if name == b"COMM" else 1 :].decode(_ENCODINGS.get(body[0], "latin-1"), "replace")
    key, _, value = text.partition("\0")
    texts.add("comment" if name == b"COMM" else key.strip("\ufeff"), value.lstrip("\ufeff"))
