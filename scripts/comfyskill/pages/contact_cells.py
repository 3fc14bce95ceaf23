"""One run on a contact sheet: its picture, or words where there is none, with a label under it.

Level 3. Pillow only.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from comfyskill.batch.results import Row, short
from comfyskill.pages.thumbnails import Size, Thumbnails, shown

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

INK, PAPER, QUIET, BAD, BOX = "#1c1e21", "#ffffff", "#5b6168", "#a3201d", "#eceef1"
LINE = 17
FONT = 14
LETTER = 7.6  # how wide a letter is on average


class Pen(NamedTuple):
    """What drawing on a sheet takes."""

    sheet: Image.Image
    draw: ImageDraw.ImageDraw
    font: Any

    def text(self, left: int, top: int, words: str, ink: str = INK) -> None:
        """One line of text."""
        self.draw.text((left, top), words, ink, font=self.font)

    def lines(self, left: int, top: int, lines: Sequence[str], ink: str = INK) -> None:
        """Lines of text, one under the other."""
        for at, line in enumerate(lines):
            self.text(left, top + at * LINE, line, ink)


def wrapped(words: str, wide: int, most: int) -> list[str]:
    """Text broken into lines of a width in pixels; what does not fit into `most` lines ends in an ellipsis."""
    letters = max(int(wide / LETTER), 4)
    lines = [""]
    for word in words.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if _breadth(joined) <= letters:
            lines[-1] = joined
            continue
        lines += [""] * bool(lines[-1])
        for letter in word:
            if _breadth(lines[-1] + letter) > letters:
                lines.append("")
            lines[-1] += letter
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], lines[most - 1][: letters - 1] + "…"]


def _breadth(text: str) -> int:
    """How many letters wide: Chinese, Japanese and Korean ones count twice."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def draw_run(pen: Pen, thumbs: Thumbnails, row: Row, place: Size, box: Size) -> None:
    """The run's picture in its box, whose upper left corner is at `place`."""
    left, top = place
    item = shown(row)
    picture = thumbs.of(row, box) if item is not None and row.status == "success" else None
    if picture is None:
        frame = BAD if row.status != "success" else QUIET
        pen.draw.rectangle((left, top, left + box[0] - 1, top + box[1] - 1), BOX, frame)
        words, ink = instead(row)
        room = max((box[1] - 10) // LINE, 1)
        pen.lines(left + 6, top + 5, wrapped(words, box[0] - 12, room), ink)
        return
    pen.sheet.paste(picture, (left + (box[0] - picture.width) // 2, top + (box[1] - picture.height) // 2))
    if item is not None and item.get("type") == "video":
        _badge(pen, left + 4, top + 4, "video")
    elif (count := sum(file.get("type") == "image" for file in row.files)) > 1:
        _badge(pen, left + 4, top + 4, f"1 of {count}")


def instead(row: Row) -> tuple[str, str]:
    """What stands where a picture would, and its ink: the failure, the text, or what kind of file there is."""
    if row.status != "success":
        return short(
            f"{row.status.replace('_', ' ')}: {row.message or row.code or ''}".rstrip(": "), 600
        ), BAD
    if row.files:
        item = shown(row) or row.files[0]
        size = item.get("bytes")
        told = f", {_size(size)}" if isinstance(size, int) else ""
        return short(f"{str(item.get('type')).upper()} {item.get('filename')}{told}", 300), INK
    return (short(row.texts[0].get("text") or "", 600), INK) if row.texts else ("no files", QUIET)


def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"


def _badge(pen: Pen, left: int, top: int, words: str) -> None:
    wide = int(pen.draw.textlength(words, font=pen.font))
    pen.draw.rectangle((left, top, left + wide + 8, top + LINE + 2), INK)
    pen.text(left + 4, top + 1, words, PAPER)


__all__ = ["FONT", "INK", "LINE", "PAPER", "QUIET", "Pen", "draw_run", "instead", "wrapped"]
