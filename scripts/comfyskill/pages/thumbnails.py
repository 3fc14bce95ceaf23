"""Small pictures of what runs have made: of pictures, animations (their first frame) and, with ffmpeg, videos.

Level 3. Files come from a server and are hostile: what cannot be read has no thumbnail.
"""

from __future__ import annotations

import io
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyskill.base import cli, programs, safe_text
from comfyskill.base.picture_files import BadPicture, open_picture
from comfyskill.batch.results import Row

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
CLEAR = "#eceef1"  # what shows through transparent pictures
FRAME_SECONDS = 10.0
ALL_FRAMES_SECONDS = 90.0
FRAME_SIDE = 768
# What a video may be. A playlist that calls itself a video would make ffmpeg open other files.
VIDEO_FORMATS = "mov,matroska,webm,avi,mpeg,mpegts,ogg"


class Thumbnails:
    """Makes thumbnails of the files in one batch's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program: str | None = None
        self._searched = False
        self._seconds_left = ALL_FRAMES_SECONDS

    def size(self, row: Row) -> Size | None:
        """Width and height of what `of` would show, before scaling; None when there is nothing to show."""
        item = shown(row)
        path = self._path(item)
        if item is None or path is None:
            return None
        if item.get("type") == "video":
            frame = self._frame(path)
            return frame.size if frame else None
        try:
            with open_picture(path) as picture:
                return picture.size
        except BadPicture:
            return None

    def of(self, row: Row, box: Size) -> Image.Image | None:
        """The run's first picture or video frame, fitted into a box (small ones are enlarged); None when there is none."""
        item = shown(row)
        path = self._path(item)
        if item is None or path is None:
            return None
        if item.get("type") == "video":
            frame = self._frame(path)
            return _fitted(frame, box) if frame else None
        return _opened(path, path.name, box)

    def _path(self, item: Mapping[str, Any] | None) -> Path | None:
        """Where the file is; None when it would lie outside of the batch's folder."""
        if item is None:
            return None
        path = (self._folder / str(item.get("file"))).resolve()
        return path if path.is_relative_to(self._folder.resolve()) and path.is_file() else None

    def _frame(self, path: Path) -> Image.Image | None:
        """A video's first frame, when there is an ffmpeg to decode it and time left for it."""
        if not self._searched:
            self._program, self._searched = find_ffmpeg(), True
        if self._program is None or self._seconds_left <= 0:
            return None
        began = time.monotonic()
        limit = min(FRAME_SECONDS, self._seconds_left)
        try:
            done = subprocess.run(
                frame_command(self._program, path),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=limit,
                env=programs.environment(),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            cli.note(f"no thumbnail of {safe_text.quoted(path.name)}: {type(error).__name__}")
            return None
        finally:
            self._seconds_left -= time.monotonic() - began
        return _opened(io.BytesIO(done.stdout), path.name, (FRAME_SIDE, FRAME_SIDE), enlarge=False)


def shown(row: Row) -> Mapping[str, Any] | None:
    """The file that stands for a run: its first picture, else its first video."""
    for kind in ("image", "video"):
        for item in row.files:
            if item.get("type") == kind:
                return item
    return None


def find_ffmpeg() -> str | None:
    """An ffmpeg on the PATH; one in the current folder, where a downloaded file could lie, does not count."""
    return programs.find("ffmpeg")


def frame_command(program: str, path: Path) -> list[str]:
    """The command that writes a video's first frame to its standard output, as PNG; it opens that one file alone."""
    fit = f"scale=w={FRAME_SIDE}:h={FRAME_SIDE}:force_original_aspect_ratio=decrease"
    return [
        program, "-nostdin", "-hide_banner", "-loglevel", "error", "-protocol_whitelist", "file", "-format_whitelist",
        VIDEO_FORMATS, "-i", f"file:{path}", "-an", "-sn", "-dn", "-frames:v", "1", "-vf", fit, "-c:v", "png", "-f",
        "image2pipe", "pipe:1",
    ]  # fmt: skip


def _opened(source: Path | io.BytesIO, name: str, box: Size, *, enlarge: bool = True) -> Image.Image | None:
    try:
        with open_picture(source) as picture:
            picture.draft("RGB", box)
            picture.thumbnail(box)
            flat = _without_holes(picture)
            return _fitted(flat, box) if enlarge else flat
    except BadPicture as error:
        cli.note(f"no thumbnail of {safe_text.quoted(name)}: {error}")
        return None


def _without_holes(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if picture.mode not in ("RGBA", "LA", "PA") and "transparency" not in picture.info:
        return picture.convert("RGB")
    flat = Image.new("RGB", picture.size, CLEAR)
    clear = picture.convert("RGBA")
    flat.paste(clear, mask=clear.getchannel("A"))
    return flat


def _fitted(picture: Image.Image, box: Size) -> Image.Image:
    """As large as the box allows; pixels of very small pictures stay squares."""
    from PIL import Image, ImageOps

    tiny = max(picture.size) * 3 <= max(box)
    return ImageOps.contain(picture, box, Image.Resampling.NEAREST if tiny else Image.Resampling.LANCZOS)


__all__ = ["Thumbnails", "find_ffmpeg", "frame_command", "shown"]
