"""Texts inside FLAC, Ogg (Opus, Vorbis) and MP3 files, as ComfyUI's audio savers write them. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from comfyskill.source.media_bytes import MAX_TEXT, Texts, Truncated, counted, decode, size_of, take

_VORBIS_COMMENT = 4
_ENCODINGS = {0: "latin-1", 1: "utf-16", 2: "utf-16-be", 3: "utf-8"}
_ILST_NAMES = {b"\xa9cmt": "comment", b"\xa9des": "description", b"desc": "description", b"\xa9nam": "title"}
# Matroska element ids (RFC 9559).
_SEGMENT, _CLUSTER, _TAGS, _TAG, _SIMPLE_TAG = 0x18538067, 0x1F43B675, 0x1254C367, 0x7373, 0x67C8
_TAG_NAME, _TAG_STRING = 0x45A3, 0x4487


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
