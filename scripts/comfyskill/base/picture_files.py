"""Picture files opened as data that may be hostile: only named formats, and a pixel limit.

Pillow is imported when the first picture is opened.
"""

from __future__ import annotations

import contextlib
import importlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from comfyskill.base import safe_text
from comfyskill.base.cli import Misuse

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]

# What ComfyUI makes and takes, with the module of Pillow that reads it. Pillow has readers for forty other formats;
# that of PostScript starts a program.
READERS = {
    "PNG": "PngImagePlugin",
    "JPEG": "JpegImagePlugin",
    "WEBP": "WebPImagePlugin",
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "AVIF": "AvifImagePlugin",
}
# 8192 x 8192: decoded, such a picture takes 0.3 GB, and twice that with transparency.
MOST_PIXELS = 1 << 26

# What Pillow's readers raise for damaged files.
_DAMAGE = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError,
    ValueError, struct.error, zlib.error,
)  # fmt: skip


class BadPicture(ValueError):
    """A file that cannot be used as a picture; the text says why, in one sentence without a capital."""


class TooLarge(BadPicture):
    """A picture with more pixels than its reader allows."""


@contextlib.contextmanager
def open_picture(source: Path | str | BinaryIO, most_pixels: int = MOST_PIXELS) -> Iterator[Image]:
    """The open picture, not loaded yet. What its reader raises inside of the block becomes a BadPicture too.

    Raises:
        BadPicture: not one of the formats in READERS, more than `most_pixels` by its header, damaged, or not there.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and of odd metadata; the limit here is `most_pixels`.
            warnings.simplefilter("ignore")
            with Image.open(source, formats=_formats()) as image:
                width, height = image.size
                if width * height > most_pixels:
                    raise TooLarge(
                        f"it has more pixels ({width} x {height}) than can be handled safely ({most_pixels})"
                    )
                yield image
    except BadPicture:
        raise
    except UnidentifiedImageError as error:
        raise BadPicture(f"it is not a picture in {', '.join(READERS)}") from error
    except Image.DecompressionBombError as error:
        raise TooLarge(f"it has more pixels than can be handled safely ({most_pixels})") from error
    except FileNotFoundError as error:
        raise BadPicture("the file does not exist") from error
    except IsADirectoryError as error:
        raise BadPicture("it is a folder") from error
    except _DAMAGE as error:
        raise BadPicture(f"it is damaged or cut off: {safe_text.clean(error, 80)}") from error


def _formats() -> list[str]:
    """The formats that this Pillow can read."""
    from PIL import Image

    for module in READERS.values():
        with contextlib.suppress(ImportError):
            importlib.import_module(f"PIL.{module}")
    return [name for name in READERS if name in Image.OPEN]


def refuse_other_size(mask: str, size: Size, picture: Size, *, scaled: bool) -> None:
    """Raises SkillError (exit 2) for a mask that does not fit its picture. `scaled`: equal proportions are enough."""
    if size == picture or (scaled and _same_proportions(size, picture)):
        return
    raise Misuse(
        f"the mask {safe_text.quoted(mask)} is {size[0]} x {size[1]}, its picture {picture[0]} x {picture[1]}",
        code="mask_size",
        hint="make the mask in the size of its picture" + (", or in its proportions" if scaled else ""),
        mask_size=list(size),
        picture_size=list(picture),
    )


def _same_proportions(one: Size, other: Size) -> bool:
    """Whether one size is the other, scaled and rounded to whole pixels."""
    small, large = sorted((one, other))
    return all(
        abs(small[at] - large[at] * small[1 - at] / large[1 - at]) <= 1 for at in (0, 1) if large[1 - at]
    )
