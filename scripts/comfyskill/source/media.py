"""The workflow that is embedded in a media file, and an image's facts before it is uploaded.

Reads files, needs no server. The other modules of this package read the single formats; all read headers
only, in bounded memory, and expect hostile input.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from comfyskill.base.picture_files import BadPicture, open_picture
from comfyskill.source.media_bytes import MAX_TEXT, Texts, Truncated, size_of, take
from comfyskill.source.pictures import PNG_MAGIC, jpeg_texts, png_texts, webp_texts
from comfyskill.source.sound_video import flac_texts, matroska_texts, mp3_texts, mp4_texts, ogg_texts

if TYPE_CHECKING:
    from PIL import Image

# Decoding a larger picture only to see whether it is whole would take too long and too much memory.
MAX_CHECKED_PIXELS = 120_000_000
# The user's own file is only sent, so it may be larger than pictures that are decoded here.
MOST_INPUT_PIXELS = 178_000_000


class Embedded(NamedTuple):
    """Texts a media file carries: `values` by key (prompt, workflow, comment …), names of others, notes on damage."""

    kind: str
    values: dict[str, str]
    other_keys: list[str]
    notes: list[str]


def _glb_texts(stream: BinaryIO, texts: Texts) -> None:
    """ComfyUI's SaveGLB stores the texts as `asset.extras` in the JSON chunk."""
    stream.seek(12)
    length, kind = struct.unpack("<I4s", take(stream, 8))
    if kind == b"JSON":
        _json_header(take(stream, length), ("asset", "extras"), texts)


def _latent_texts(stream: BinaryIO, texts: Texts) -> None:
    """ComfyUI's SaveLatent stores the texts as `__metadata__` of a safetensors header."""
    stream.seek(0)
    (length,) = struct.unpack("<Q", take(stream, 8))
    _json_header(take(stream, length), ("__metadata__",), texts)


def _svg_texts(stream: BinaryIO, texts: Texts) -> None:
    """ComfyUI's SaveSVGNode stores the graphs as JSON in the CDATA of a `metadata` element."""
    stream.seek(0)
    text = stream.read(MAX_TEXT)
    start, end = text.find(b"<![CDATA["), text.find(b"</metadata>")
    if 0 <= start < end:
        _json_header(text[start + 9 : end].rstrip().removesuffix(b"]]>"), (), texts)


def _json_header(data: bytes, path: tuple[str, ...], texts: Texts) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        texts.note("the JSON header is damaged")
        return
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    for key, item in value.items() if isinstance(value, dict) else ():
        texts.add(key, item if isinstance(item, str) else json.dumps(item))


_READERS: dict[str, Callable[[BinaryIO, Texts], None]] = {
    "PNG picture": png_texts,
    "JPEG picture": jpeg_texts,
    "WebP picture": webp_texts,
    "MP4 video": mp4_texts,
    "WebM video": matroska_texts,
    "FLAC sound": flac_texts,
    "Ogg sound": ogg_texts,
    "MP3 sound": mp3_texts,
    "GLB model": _glb_texts,
    "safetensors file": _latent_texts,
    "SVG picture": _svg_texts,
}
_MAGIC = (
    (0, PNG_MAGIC, "PNG picture"),
    (0, b"\xff\xd8\xff", "JPEG picture"),
    (8, b"WEBP", "WebP picture"),
    (4, b"ftypavif", "AVIF picture"),
    (4, b"ftyphei", "HEIC picture"),
    (4, b"ftyp", "MP4 video"),
    (4, b"moov", "MP4 video"),
    (0, b"\x1a\x45\xdf\xa3", "WebM video"),
    (0, b"fLaC", "FLAC sound"),
    (0, b"OggS", "Ogg sound"),
    (0, b"ID3", "MP3 sound"),
    (0, b"glTF", "GLB model"),
    *((0, b"\xff" + bytes([second]), "MP3 sound") for second in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2)),
    (0, b"GIF8", "GIF picture"),
    (0, b"BM", "BMP picture"),
    (8, b"WAVE", "WAV sound"),
    (8, b"AVI ", "AVI video"),
    (0, b"PK\x03\x04", "ZIP archive"),
    (0, b"\x1f\x8b", "gzip archive"),
    (0, b"7z\xbc\xaf", "7z archive"),
    (0, b"%PDF", "PDF document"),
    (0, b"\x7fELF", "program"),
)


def kind_of(stream: BinaryIO) -> str | None:
    """The kind of a binary file by its first bytes ("PNG picture", "ZIP archive" …), None for anything else."""
    stream.seek(0)
    start = stream.read(1024)
    head = start[:16]
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if (
        len(head) == 16
        and head[8:9] == b"{"
        and 2 <= struct.unpack_from("<Q", head)[0] <= size_of(stream) - 8
    ):
        return "safetensors file"
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t")
    return "SVG picture" if text.startswith((b"<svg", b"<?xml", b"<!--")) and b"<svg" in text else None


def can_carry_workflow(kind: str) -> bool:
    """Whether files of this kind are read for an embedded workflow."""
    return kind in _READERS


def embedded(stream: BinaryIO, kind: str) -> Embedded:
    """The texts of a media file. A damaged or truncated file gives what was found before the damage, and a note."""
    texts = Texts()
    try:
        _READERS[kind](stream, texts)
    except (Truncated, struct.error) as error:
        texts.note(f"the file is truncated or damaged: {error}")
    _open_comment(texts)
    return Embedded(kind, texts.values, texts.other_keys, texts.notes)


def _open_comment(texts: Texts) -> None:
    """Older savers put one JSON object with both graphs into a comment field."""
    for key in ("comment", "description", "usercomment", "user_comment"):
        text = texts.values.pop(key, "")
        if not text.startswith("{") or len(text) > MAX_TEXT:
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            texts.note(f"the {key} field holds damaged JSON")
            continue
        found = [name for name in ("prompt", "workflow") if values.get(name)]
        for name in found:
            value = values[name]
            texts.values.setdefault(name, value if isinstance(value, str) else json.dumps(value))
        if not found:
            texts.values.setdefault("workflow", text)


class ImageFacts(NamedTuple):
    """An image file before upload: sizes in pixels as stored (before `orientation` turns it), EXIF orientation 1-8.

    `problem` says in one sentence why a server could not use the file, None when it can.
    """

    format: str | None
    width: int
    height: int
    orientation: int
    has_alpha: bool
    frames: int
    problem: str | None

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as a viewer, and ComfyUI's LoadImage, shows it."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def image_facts(path: str | Path) -> ImageFacts:
    """Facts of an image file; never raises for a bad file, `problem` says what is wrong with it."""
    try:
        with open_picture(path, MOST_INPUT_PIXELS) as image:
            return _facts_of(image)
    except BadPicture as error:
        return ImageFacts(None, 0, 0, 1, False, 0, str(error))


def _facts_of(image: Image.Image) -> ImageFacts:
    width, height = image.size
    alpha = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    # Reading a PNG's EXIF or counting its frames decodes it, so both wait for the check.
    if width * height <= MAX_CHECKED_PIXELS:
        image.load()
    frames = int(getattr(image, "n_frames", 1))
    orientation = image.getexif().get(0x0112, 1)
    valid = isinstance(orientation, int) and 1 <= orientation <= 8
    return ImageFacts(image.format, width, height, orientation if valid else 1, alpha, frames, None)
