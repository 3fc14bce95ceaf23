"""Files that players accept, written without an encoder: WAV, FLAC, MP4 (Motion JPEG), WebM (VP8 key frames)."""

from __future__ import annotations

import io
import json
import math
import struct
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

RATE = 16_000
LONGEST = 60.0
FLAC_BLOCK = 4096
VENDOR = b"demo server, no model"


def tone(seconds: float, recipe: str) -> bytes:
    """A soft tone as 16 bit mono samples at RATE; its pitch follows the recipe. At most one minute."""
    pitch = 220 + int(recipe[:2] or "0", 16)
    count = int(min(max(seconds, 0.05), LONGEST) * RATE)
    period = max(1, RATE // pitch)
    wave_form = [round(6000 * math.sin(2 * math.pi * step / period)) for step in range(period)]
    one = struct.pack(f"<{period}h", *wave_form)
    return (one * (count // period + 1))[: count * 2]


def write_wav(path: Path, seconds: float, recipe: str) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(tone(seconds, recipe))


# FLAC: every block verbatim, which is valid and needs no prediction.


def comments(metadata: Mapping[str, Any] | None) -> bytes:
    """A Vorbis comment block: the maker, then NAME=JSON for each entry."""
    texts = [f"{name}={json.dumps(value)}".encode() for name, value in (metadata or {}).items()]
    parts = [VENDOR, *texts]
    lengths = [struct.pack("<I", len(part)) + part for part in parts]
    return lengths[0] + struct.pack("<I", len(texts)) + b"".join(lengths[1:])


def write_flac(path: Path, seconds: float, recipe: str, metadata: Mapping[str, Any] | None = None) -> None:
    samples = tone(seconds, recipe)
    count = len(samples) // 2
    values = struct.unpack(f"<{count}h", samples)
    stream = struct.pack(">HH", FLAC_BLOCK, FLAC_BLOCK) + bytes(6)
    bits = (RATE << 44) | (0 << 41) | (15 << 36) | count
    stream += struct.pack(">Q", bits) + bytes(16)
    with path.open("wb") as file:
        said = comments(metadata)
        file.write(b"fLaC\x00" + struct.pack(">I", len(stream))[1:] + stream)
        file.write(b"\x84" + struct.pack(">I", len(said))[1:] + said)
        for number, start in enumerate(range(0, count, FLAC_BLOCK)):
            file.write(_flac_frame(number, values[start : start + FLAC_BLOCK]))


def _flac_frame(number: int, values: Sequence[int]) -> bytes:
    # Sync, fixed block size; size in 16 bits at the end of the header; rate from the stream; mono; 16 bit.
    head = b"\xff\xf8" + bytes((0x70, 0x08)) + _utf8_number(number) + struct.pack(">H", len(values) - 1)
    head += bytes((_crc(head, 8, 0x07),))
    body = head + b"\x02" + struct.pack(f">{len(values)}h", *values)
    return body + struct.pack(">H", _crc(body, 16, 0x8005))


def _utf8_number(number: int) -> bytes:
    return chr(number).encode("utf-8", "surrogatepass") if number < 0xD800 else chr(number + 0x800).encode()


_tables: dict[int, list[int]] = {}


def _crc(data: bytes, width: int, polynomial: int) -> int:
    top, mask = 1 << (width - 1), (1 << width) - 1
    if width not in _tables:
        table = []
        for byte in range(256):
            value = byte << (width - 8)
            for _ in range(8):
                value = (value << 1 ^ polynomial) if value & top else value << 1
            table.append(value & mask)
        _tables[width] = table
    table, crc, shift = _tables[width], 0, width - 8
    for byte in data:
        crc = (crc << 8 & mask) ^ table[crc >> shift ^ byte]
    return crc


# MP3 and Opus need an encoder for sound, not for silence.


def write_mp3_silence(path: Path, seconds: float, metadata: Mapping[str, Any] | None = None) -> None:
    """MPEG-1 Layer III at 44.1 kHz, 128 kbit/s mono: frames without any data decode to silence."""
    frame = b"\xff\xfb\x90\xc4" + bytes(413)
    path.write_bytes(_id3(metadata) + frame * max(1, math.ceil(min(seconds, LONGEST) * 44_100 / 1152)))


def _id3(metadata: Mapping[str, Any] | None) -> bytes:
    """An ID3v2.4 tag with a TXXX frame (UTF-8) for each entry."""
    frames = b""
    for name, value in (metadata or {}).items():
        body = b"\x03" + name.encode() + b"\0" + json.dumps(value).encode() + b"\0"
        frames += b"TXXX" + _seven_bits(len(body)) + b"\0\0" + body
    return b"ID3\x04\0\0" + _seven_bits(len(frames)) + frames if frames else b""


def _seven_bits(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def write_opus_silence(path: Path, seconds: float, metadata: Mapping[str, Any] | None = None) -> None:
    """Ogg Opus, mono, in 20 ms packets that hold silence."""
    packets = max(1, math.ceil(min(seconds, LONGEST) * 50))
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, 48_000, 0, 0)
    tags = b"OpusTags" + comments(metadata)
    pages = [_ogg_page(2, 0, 0, [head]), *_ogg_packet(tags)]
    first = len(pages)
    for number, start in enumerate(range(0, packets, 50)):
        size = min(50, packets - start)
        last = start + size >= packets
        pages.append(
            _ogg_page(4 if last else 0, (start + size) * 960, number + first, [b"\xf8\xff\xfe"] * size)
        )
    path.write_bytes(b"".join(pages))


def _ogg_packet(packet: bytes) -> list[bytes]:
    """One packet of any length, over as many pages as it needs (255 pieces of 255 bytes each)."""
    room = 255 * 255
    pieces = [packet[start : start + room] for start in range(0, len(packet), room)] or [b""]
    if len(pieces[-1]) == room:
        pieces.append(b"")
    pages = []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        pages.append(_ogg_page(1 if number else 0, 0 if last else -1, number + 1, [piece], open_end=not last))
    return pages


def _ogg_page(
    flags: int, position: int, number: int, packets: Sequence[bytes], open_end: bool = False
) -> bytes:
    lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes((len(packet) % 255,)) for packet in packets)
    if open_end:
        # The packet continues on the next page: 255 full pieces, and no shorter one that ends it.
        lacing = lacing[:-1]
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, position, 0x64656D6F, number, 0, len(lacing)) + lacing
    page = head + b"".join(packets)
    crc = _crc(page, 32, 0x04C11DB7)
    return page[:22] + struct.pack("<I", crc) + page[26:]


# MP4 with Motion JPEG: VLC, mpv and ffmpeg play it (browsers do not).


def write_mp4(
    path: Path, frames: Sequence[Image], rate: float, metadata: Mapping[str, Any] | None = None
) -> None:
    pictures = [_jpeg(frame) for frame in frames]
    width, height = frames[0].size
    scale = 1000
    each = max(1, round(scale / max(rate, 0.01)))
    head = _box(b"ftyp", b"isom" + struct.pack(">I", 512) + b"isomiso2mp41")
    start = len(head) + 8
    offsets = []
    for picture in pictures:
        offsets.append(start)
        start += len(picture)
    body = _box(b"mdat", b"".join(pictures))
    movie = _movie(
        width, height, scale, each, [len(picture) for picture in pictures], offsets, _tags(metadata or {})
    )
    path.write_bytes(head + body + movie)


def _jpeg(frame: Image) -> bytes:
    buffer = io.BytesIO()
    frame.convert("RGB").save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _box(kind: bytes, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack(">I4s", len(data) + 8, kind) + data


def _full(kind: bytes, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", flags), *parts)


MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def _movie(
    width: int, height: int, scale: int, each: int, sizes: list[int], offsets: list[int], tags: bytes
) -> bytes:
    count, length = len(sizes), each * len(sizes)
    header = _full(
        b"mvhd",
        0,
        struct.pack(">IIIIIH10x", 0, 0, scale, length, 0x10000, 0x100),
        MATRIX,
        bytes(24),
        struct.pack(">I", 2),
    )
    track = _full(
        b"tkhd",
        3,
        struct.pack(">IIIII8xHHHH", 0, 0, 1, 0, length, 0, 0, 0, 0),
        MATRIX,
        struct.pack(">II", width << 16, height << 16),
    )
    # MPEG-4 descriptors: object type 0x6C is JPEG.
    config = b"\x04" + bytes((13,)) + b"\x6c\x11" + bytes(11)
    stream = b"\x03" + bytes((3 + len(config) + 3,)) + b"\x00\x01\x00" + config + b"\x06\x01\x02"
    entry = _box(
        b"mp4v",
        struct.pack(">6xH16xHHIIIH32xHh", 1, width, height, 0x480000, 0x480000, 0, 1, 24, -1),
        _full(b"esds", 0, stream),
    )
    table = _box(
        b"stbl",
        _full(b"stsd", 0, struct.pack(">I", 1), entry),
        _full(b"stts", 0, struct.pack(">III", 1, count, each)),
        _full(b"stsc", 0, struct.pack(">IIII", 1, 1, 1, 1)),
        _full(b"stsz", 0, struct.pack(f">II{count}I", 0, count, *sizes)),
        _full(b"stco", 0, struct.pack(f">I{count}I", count, *offsets)),
    )
    info = _box(
        b"minf",
        _full(b"vmhd", 1, bytes(8)),
        _box(b"dinf", _full(b"dref", 0, struct.pack(">I", 1), _full(b"url ", 1))),
        table,
    )
    media = _box(
        b"mdia",
        _full(b"mdhd", 0, struct.pack(">IIIIHH", 0, 0, scale, length, 0x55C4, 0)),
        _full(b"hdlr", 0, struct.pack(">I4s12x", 0, b"vide"), b"demo\0"),
        info,
    )
    return _box(b"moov", header, _box(b"trak", track, media), tags)


def _tags(metadata: Mapping[str, Any]) -> bytes:
    """Names and JSON texts in the `mdta` form, where players and ComfyUI look for prompt and workflow."""
    if not metadata:
        return b""
    handler = _full(b"hdlr", 0, struct.pack(">I4s12x", 0, b"mdta"), b"\0")
    names = [_box(b"mdta", name.encode()) for name in metadata]
    texts = [
        _box(struct.pack(">I", number), _box(b"data", struct.pack(">II", 1, 0), json.dumps(value).encode()))
        for number, value in enumerate(metadata.values(), 1)
    ]
    keys = _full(b"keys", 0, struct.pack(">I", len(names)), *names)
    return _full(b"meta", 0, handler, keys, _box(b"ilst", *texts))


# WebM with VP8: the picture inside a lossy WebP file is a VP8 key frame.


def write_webm(
    path: Path, frames: Sequence[Image], rate: float, metadata: Mapping[str, Any] | None = None
) -> None:
    width, height = frames[0].size
    each = 1000.0 / max(rate, 0.01)
    blocks = []
    for number, frame in enumerate(frames):
        time = round(number * each)
        blocks.append(_cluster(time, _vp8(frame)))
    info = _ebml(
        0x1549A966,
        _uint(0x2AD7B1, 1_000_000),
        _ebml(0x4489, struct.pack(">d", each * len(frames))),
        _text(0x4D80, "demo"),
        _text(0x5741, "demo"),
    )
    video = _ebml(0xE0, _uint(0xB0, width), _uint(0xBA, height))
    track = _ebml(0xAE, _uint(0xD7, 1), _uint(0x73C5, 1), _uint(0x83, 1), _text(0x86, "V_VP8"), video)
    kind = _ebml(
        0x1A45DFA3,
        _uint(0x4286, 1),
        _uint(0x42F7, 1),
        _uint(0x42F2, 4),
        _uint(0x42F3, 8),
        _text(0x4282, "webm"),
        _uint(0x4287, 2),
        _uint(0x4285, 2),
    )
    path.write_bytes(
        kind + _ebml(0x18538067, info, _ebml(0x1654AE6B, track), _simple_tags(metadata or {}), *blocks)
    )


def _simple_tags(metadata: Mapping[str, Any]) -> bytes:
    """Matroska tags; by convention their names are upper case."""
    if not metadata:
        return b""
    pairs = [
        _ebml(0x67C8, _text(0x45A3, name.upper()), _text(0x4487, json.dumps(value)))
        for name, value in metadata.items()
    ]
    return _ebml(0x1254C367, _ebml(0x7373, _ebml(0x63C0), *pairs))


def _cluster(time: int, data: bytes) -> bytes:
    return _ebml(0x1F43B675, _uint(0xE7, time), _ebml(0xA3, b"\x81" + struct.pack(">hB", 0, 0x80) + data))


def _ebml(name: int, *parts: bytes) -> bytes:
    data = b"".join(parts)
    tag = name.to_bytes((name.bit_length() + 7) // 8, "big")
    return tag + (len(data) | 1 << 56).to_bytes(8, "big") + data


def _uint(name: int, value: int) -> bytes:
    return _ebml(name, value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big"))


def _text(name: int, value: str) -> bytes:
    return _ebml(name, value.encode())


def _vp8(frame: Image) -> bytes:
    buffer = io.BytesIO()
    frame.convert("RGB").save(buffer, "WEBP", quality=80, method=0)
    data = buffer.getvalue()
    spot = 12
    while spot + 8 <= len(data):
        name, size = data[spot : spot + 4], int.from_bytes(data[spot + 4 : spot + 8], "little")
        if name == b"VP8 ":
            return data[spot + 8 : spot + 8 + size]
        spot += 8 + size + size % 2
    raise ValueError("Pillow wrote no VP8 picture")
