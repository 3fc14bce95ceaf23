"""Files that players open, written without an encoder: silent FLAC, MP3 and Opus, MP4 (Motion JPEG), WebM (VP8), GLB."""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    Metadata = Mapping[str, object]

RATE = 44_100
LONGEST = 60.0
VENDOR = b"demo server, no model"
# Samples of a FLAC frame, of an MP3 frame, and Opus packets of 20 ms in a page.
FLAC_BLOCK, MP3_BLOCK, OPUS_PACKETS = 4096, 1152, 50
# A comment that needs more than one Ogg page is left out.
OGG_PAGE = 255 * 254


def _crc(data: bytes, width: int, polynomial: int) -> int:
    crc, top = 0, 1 << (width - 1)
    for byte in data:
        crc ^= byte << (width - 8)
        for _ in range(8):
            crc = (crc << 1 ^ polynomial if crc & top else crc << 1) & (2 * top - 1)
    return crc


def _comments(metadata: Metadata) -> bytes:
    """A Vorbis comment block: the maker, then NAME=JSON for each entry."""
    texts = [f"{name}={json.dumps(value)}".encode() for name, value in metadata.items()]
    lengths = [struct.pack("<I", len(part)) + part for part in (VENDOR, *texts)]
    return lengths[0] + struct.pack("<I", len(texts)) + b"".join(lengths[1:])


def silent_flac(seconds: float, metadata: Metadata) -> bytes:
    """FLAC, mono, 16 bit: each frame says that all its samples are 0."""
    count = max(1, round(min(seconds, LONGEST) * RATE))
    stream = struct.pack(">HH", FLAC_BLOCK, FLAC_BLOCK) + bytes(6)
    stream += struct.pack(">Q", RATE << 44 | 15 << 36 | count) + bytes(16)
    said = _comments(metadata)
    blocks = struct.pack(">I", len(stream)) + stream + struct.pack(">I", 0x84 << 24 | len(said)) + said
    frames = [
        _flac_frame(number, min(FLAC_BLOCK, count - start))
        for number, start in enumerate(range(0, count, FLAC_BLOCK))
    ]
    return b"fLaC" + blocks + b"".join(frames)


def _flac_frame(number: int, samples: int) -> bytes:
    # Sync, fixed block size; the size in 16 bits at the end of the header; rate from the stream; mono, 16 bit.
    head = b"\xff\xf8\x70\x08" + chr(number).encode() + struct.pack(">H", samples - 1)
    frame = head + bytes((_crc(head, 8, 0x07), 0, 0, 0))
    return frame + struct.pack(">H", _crc(frame, 16, 0x8005))


def silent_mp3(seconds: float, metadata: Metadata) -> bytes:
    """MPEG-1 Layer III, 128 kbit/s mono: frames without any data. The graph is in ID3v2.4 tags."""
    texts = [f"\x03{name}\0{json.dumps(value)}\0".encode() for name, value in metadata.items()]
    tags = b"".join(b"TXXX" + _seven_bits(len(text)) + b"\0\0" + text for text in texts)
    frame = b"\xff\xfb\x90\xc4" + bytes(413)
    count = max(1, math.ceil(min(seconds, LONGEST) * RATE / MP3_BLOCK))
    return b"ID3\x04\0\0" + _seven_bits(len(tags)) + tags + frame * count


def _seven_bits(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def silent_opus(seconds: float, metadata: Metadata) -> bytes:
    """Ogg Opus, mono, in packets of 20 ms that hold silence."""
    packets = max(1, math.ceil(min(seconds, LONGEST) * 50))
    tags = b"OpusTags" + _comments(metadata)
    if len(tags) > OGG_PAGE:
        tags = b"OpusTags" + _comments({})
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, 48_000, 0, 0)
    pages = [_ogg_page(2, 0, 0, [head]), _ogg_page(0, 0, 1, [tags])]
    for start in range(0, packets, OPUS_PACKETS):
        end = min(start + OPUS_PACKETS, packets)
        last = 4 if end == packets else 0
        pages.append(_ogg_page(last, end * 960, len(pages), [b"\xf8\xff\xfe"] * (end - start)))
    return b"".join(pages)


def _ogg_page(flags: int, position: int, number: int, packets: Sequence[bytes]) -> bytes:
    lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes((len(packet) % 255,)) for packet in packets)
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, position, 0x64656D6F, number, 0, len(lacing))
    page = head + lacing + b"".join(packets)
    return page[:22] + struct.pack("<I", _crc(page, 32, 0x04C11DB7)) + page[26:]


# MP4 with Motion JPEG: VLC, mpv and ffmpeg play it (browsers do not).

MP4_SCALE = 1000
MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def write_mp4(path: Path, frames: Sequence[Image], rate: float, metadata: Metadata) -> None:
    """Write one MP4 file: the pictures, then what they are, then the graph."""
    pictures = [_jpeg(frame) for frame in frames]
    each = max(1, round(MP4_SCALE / max(rate, 0.01)))
    head = _box(b"ftyp", b"isom" + struct.pack(">I", 512) + b"isomiso2mp41")
    body = _box(b"mdat", *pictures)
    samples = _samples(each, [len(picture) for picture in pictures], len(head) + 8, frames[0].size)
    movie = _box(
        b"moov",
        _movie_header(each * len(frames)),
        _track(each * len(frames), frames[0].size, samples),
        _tags(metadata),
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


def _movie_header(length: int) -> bytes:
    times = struct.pack(">IIIIIH10x", 0, 0, MP4_SCALE, length, 0x10000, 0x100)
    return _full(b"mvhd", 0, times, MATRIX, bytes(24), struct.pack(">I", 2))


def _track(length: int, size: tuple[int, int], samples: bytes) -> bytes:
    """A video track with these samples."""
    times = struct.pack(">IIIII16x", 0, 0, 1, 0, length)
    header = _full(b"tkhd", 3, times, MATRIX, struct.pack(">II", size[0] << 16, size[1] << 16))
    place = _box(b"dinf", _full(b"dref", 0, struct.pack(">I", 1), _full(b"url ", 1)))
    media = _box(
        b"mdia",
        _full(b"mdhd", 0, struct.pack(">IIIIHH", 0, 0, MP4_SCALE, length, 0x55C4, 0)),
        _full(b"hdlr", 0, struct.pack(">I4s12x", 0, b"vide"), b"demo\0"),
        _box(b"minf", _full(b"vmhd", 1, bytes(8)), place, samples),
    )
    return _box(b"trak", header, media)


def _samples(each: int, sizes: Sequence[int], offset: int, size: tuple[int, int]) -> bytes:
    """The table of the pictures, which are one chunk from `offset` on."""
    count = len(sizes)
    # MPEG-4 descriptors: object type 0x6C is JPEG.
    config = b"\x04\x0d\x6c\x11" + bytes(11)
    stream = b"\x03" + bytes((len(config) + 6,)) + b"\x00\x01\x00" + config + b"\x06\x01\x02"
    picture = struct.pack(">6xH16xHHIIIH32xHh", 1, *size, 0x480000, 0x480000, 0, 1, 24, -1)
    return _box(
        b"stbl",
        _full(b"stsd", 0, struct.pack(">I", 1), _box(b"mp4v", picture, _full(b"esds", 0, stream))),
        _full(b"stts", 0, struct.pack(">III", 1, count, each)),
        _full(b"stsc", 0, struct.pack(">IIII", 1, 1, count, 1)),
        _full(b"stsz", 0, struct.pack(f">II{count}I", 0, count, *sizes)),
        _full(b"stco", 0, struct.pack(">II", 1, offset)),
    )


def _tags(metadata: Metadata) -> bytes:
    """Names and JSON texts in the `mdta` form, where players and ComfyUI look for prompt and workflow."""
    names = [_box(b"mdta", name.encode()) for name in metadata]
    texts = [
        _box(struct.pack(">I", number), _box(b"data", struct.pack(">II", 1, 0), json.dumps(value).encode()))
        for number, value in enumerate(metadata.values(), 1)
    ]
    handler = _full(b"hdlr", 0, struct.pack(">I4s12x", 0, b"mdta"), b"\0")
    keys = _full(b"keys", 0, struct.pack(">I", len(names)), *names)
    return _full(b"meta", 0, handler, keys, _box(b"ilst", *texts))


# WebM with VP8: the picture inside a lossy WebP file is a VP8 key frame.


def write_webm(path: Path, frames: Sequence[Image], rate: float, metadata: Metadata) -> None:
    """Write one WebM file, a cluster for each picture."""
    each = 1000.0 / max(rate, 0.01)
    kind = _ebml(0x1A45DFA3, _uint(0x4286, 1), _uint(0x42F7, 1), _uint(0x42F2, 4), _uint(0x42F3, 8),
                 _text(0x4282, "webm"), _uint(0x4287, 2), _uint(0x4285, 2))  # fmt: skip
    length = _ebml(0x4489, struct.pack(">d", each * len(frames)))
    info = _ebml(0x1549A966, _uint(0x2AD7B1, 1_000_000), length, _text(0x4D80, "demo"), _text(0x5741, "demo"))
    width, height = frames[0].size
    video = _ebml(0xE0, _uint(0xB0, width), _uint(0xBA, height))
    track = _ebml(0xAE, _uint(0xD7, 1), _uint(0x73C5, 1), _uint(0x83, 1), _text(0x86, "V_VP8"), video)
    # By convention the names of Matroska tags are upper case.
    pairs = [
        _ebml(0x67C8, _text(0x45A3, name.upper()), _text(0x4487, json.dumps(value)))
        for name, value in metadata.items()
    ]
    tags = _ebml(0x1254C367, _ebml(0x7373, _ebml(0x63C0), *pairs))
    clusters = [_cluster(round(number * each), _vp8(frame)) for number, frame in enumerate(frames)]
    path.write_bytes(kind + _ebml(0x18538067, info, _ebml(0x1654AE6B, track), tags, *clusters))


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
    # Without metadata the file is a RIFF header, then the one chunk "VP8 " with its length.
    return data[20 : 20 + int.from_bytes(data[16:20], "little")]


# GLB: the corners of a box as digits, three for each of its twelve triangles.

TRIANGLES = "013032467475045051237276026064157173"


def box_glb(recipe: str, metadata: Metadata) -> bytes:
    """A binary glTF 2.0 file with one box; its sides follow the recipe."""
    sides = [0.5 + int(recipe[index : index + 2] or "0", 16) / 255 for index in (0, 2, 4)]
    signs = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
    points = b"".join(
        struct.pack("<3f", *(sign * side for sign, side in zip(signs[int(corner)], sides, strict=True)))
        for corner in TRIANGLES
    )
    accessor = {"bufferView": 0, "componentType": 5126, "count": len(TRIANGLES), "type": "VEC3"}
    document = {
        "asset": {"version": "2.0", "generator": VENDOR.decode(), "extras": metadata},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
        "buffers": [{"byteLength": len(points)}],
        "bufferViews": [{"buffer": 0, "byteLength": len(points)}],
        "accessors": [{**accessor, "min": [-side for side in sides], "max": sides}],
    }
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = (
        struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(points), b"BIN\0") + points
    )
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks
