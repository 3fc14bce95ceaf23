"""Thumbnails of the files of a batch: pictures, and the first frames of videos. Pillow, and ffmpeg where there is one."""

from __future__ import annotations

import io
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from comfyskill.base import cli, programs, safe_text
from comfyskill.base.picture_files import BadPicture, open_picture
from comfyskill.batch.results import Row
from comfyskill.pages.layout import picture_of

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]
CLEAR = "#eceef1"  # what shows through transparent pictures
FRAME_SECONDS = 10.0
ALL_FRAMES_SECONDS = 90.0
FRAME_SIDE = 768
# Allowed video formats. A playlist under a video's name would make ffmpeg open other files.
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
        item = picture_of(row)
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
        """The run's first picture or video frame, fitted into a box (small ones are enlarged); None without one."""
        item = picture_of(row)
        path = self._path(item)
        if item is None or path is None:
            return None
        if item.get("type") == "video":
            frame = self._frame(path)
            return _fitted(frame, box) if frame else None
        return _opened(path, path.name, box)

    def _path(self, item: Mapping[str, object] | None) -> Path | None:
        """The file's path; None when it would be outside the batch's folder."""
        if item is None:
            return None
        path = (self._folder / str(item.get("file"))).resolve()
        return path if path.is_relative_to(self._folder.resolve()) and path.is_file() else None

    def _frame(self, path: Path) -> Image.Image | None:
        """A video's first frame; None without ffmpeg or when no time is left."""
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


def find_ffmpeg() -> str | None:
    """An ffmpeg on the PATH; one in the current folder, which may be a downloaded file, is ignored."""
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
    """The picture scaled to the box; pixels of very small pictures stay squares."""
    from PIL import Image, ImageOps

    tiny = max(picture.size) * 3 <= max(box)
    return ImageOps.contain(picture, box, Image.Resampling.NEAREST if tiny else Image.Resampling.LANCZOS)
