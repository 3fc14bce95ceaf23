"""Labelled thumbnails of a batch on as few pictures as possible, so that one look shows forty results.

Level 3. Pillow only.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _cli
import _safe_names
from _batch_results import Results, Row, seed_of, short

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

WIDTH = 1600
HEIGHT = 1600
MARGIN = 8
HEAD = 30
MOST_PAGES = 12
MOST_COLUMNS = 10
SMALLEST = 3
INK, PAPER, QUIET, BAD, BOX = "#1c1e21", "#ffffff", "#5b6168", "#a3201d", "#eceef1"
LINE = 17
FONT = 14
MOST_LABEL_LINES = 4


def write(results: Results) -> list[Path]:
    """The sheets' paths, `contact_sheet.png` first; old ones of more pages are removed. Empty when nothing has run."""
    rows = [row for row in results.rows if row.status != "not_run"]
    for old in results.folder.glob("contact_sheet*.png"):
        old.unlink(missing_ok=True)
    if not rows:
        return []
    layout = _Layout(results, rows)
    made = []
    for number in range(layout.pages):
        path = results.folder / ("contact_sheet.png" if number == 0 else f"contact_sheet_{number + 1}.png")
        _save(layout.sheet(number), path)
        made.append(path)
    return made


def _save(sheet: Image.Image, path: Path) -> None:
    part = _safe_names.part_beside(path)
    try:
        with _safe_names.held(part):
            sheet.save(part, "PNG")
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


class _Layout:
    """How many columns, how large the cells, what is on which page."""

    def __init__(self, results: Results, rows: Sequence[Row]) -> None:
        from PIL import ImageFont

        self.results = results
        self.rows = rows
        self.font = ImageFont.load_default(FONT)
        self.varying = _varying(rows)
        for columns in _columns(results, len(rows)):
            self._divide(columns)
            if self.a_page >= len(rows):
                break
        self.pages = min(math.ceil(len(rows) / self.a_page), MOST_PAGES)

    def _divide(self, columns: int) -> None:
        self.columns = columns
        self.cell = (WIDTH - MARGIN) // columns
        self.box = self.cell - MARGIN
        self.lines = min(max(len(self._label(row)) for row in self.rows[:200]), MOST_LABEL_LINES)
        self.cell_height = self.box + self.lines * LINE + MARGIN
        self.a_page = columns * max((HEIGHT - HEAD - MARGIN) // self.cell_height, 1)

    def _label(self, row: Row) -> list[str]:
        """`run 7  cfg 5  seed 3`, wrapped to the cell."""
        parts = [
            f"{name} {_cut(short(row.values[name], 500), 60)}" for name in self.varying if name in row.values
        ]
        if seed_of(row) is not None and not any("seed" in name for name in row.values):
            parts.append(f"seed {seed_of(row)}")
        parts.sort(key=len)
        wide = max(self.box // 8, 12)
        lines = textwrap.wrap(" · ".join([f"#{row.run}", *parts]), wide, break_long_words=True)
        if len(lines) > MOST_LABEL_LINES:
            lines = [*lines[: MOST_LABEL_LINES - 1], lines[MOST_LABEL_LINES - 1][: wide - 1] + "…"]
        return lines

    def sheet(self, page: int) -> Image.Image:
        from PIL import Image, ImageDraw

        rows = self.rows[page * self.a_page : (page + 1) * self.a_page]
        high = HEAD + MARGIN + math.ceil(len(rows) / self.columns) * self.cell_height
        wide = MARGIN + min(self.columns, max(len(rows), SMALLEST)) * self.cell
        sheet = Image.new("RGB", (wide, high), PAPER)
        draw = ImageDraw.Draw(sheet)
        draw.text((MARGIN, MARGIN), self._title(page, rows)[: wide // 8], INK, font=self.font)
        for at, row in enumerate(rows):
            left = MARGIN + at % self.columns * self.cell
            top = HEAD + MARGIN + at // self.columns * self.cell_height
            self._draw(sheet, draw, row, left, top)
        return sheet

    def _title(self, page: int, rows: Sequence[Row]) -> str:
        results = self.results
        failed = sum(row.status != "success" for row in self.rows)
        words = [f"runs {rows[0].run} to {rows[-1].run} of {results.plan.count}"]
        if failed:
            words.append(f"{failed} not successful")
        if self.pages > 1:
            words.append(f"page {page + 1} of {self.pages}")
        if self.pages == MOST_PAGES and len(self.rows) > self.pages * self.a_page:
            words.append("the rest is in index.html")
        if results.demo:
            words.append("made by the demo server, not generated")
        return " · ".join(words)

    def _draw(self, sheet: Image.Image, draw: ImageDraw.ImageDraw, row: Row, left: int, top: int) -> None:
        thumbs = [
            thumb for item in _pictures(row) if (thumb := _thumbnail(self.results.folder, item, self.box))
        ]
        if thumbs and row.status == "success":
            thumb = thumbs[0]
            sheet.paste(thumb, (left + (self.box - thumb.width) // 2, top + (self.box - thumb.height) // 2))
            if len(_pictures(row)) > 1:
                _badge(draw, self.font, left + 4, top + 4, f"1 of {len(_pictures(row))}")
        else:
            draw.rectangle(
                (left, top, left + self.box, top + self.box), BOX, BAD if row.status != "success" else QUIET
            )
            self._words(draw, row, left + 8, top + 8)
        for at, line in enumerate(self._label(row)[: self.lines]):
            draw.text((left, top + self.box + 2 + at * LINE), line, INK, font=self.font)

    def _words(self, draw: ImageDraw.ImageDraw, row: Row, left: int, top: int) -> None:
        """What stands where a picture would: the failure, the text, or what kind of file there is."""
        ink = INK
        if row.status != "success":
            words, ink = f"{row.status}: {row.message or row.code or ''}", BAD
        elif row.texts:
            words = str(row.texts[0].get("text") or "")
        elif row.files:
            words = f"{row.files[0].get('type')}: {row.files[0].get('filename')}"
        else:
            words = "no files"
        lines = textwrap.wrap(short(words, 600), max((self.box - 16) // 8, 10), break_long_words=True)
        for at, line in enumerate(lines[: max((self.box - 16) // LINE, 1)]):
            draw.text((left, top + at * LINE), line, ink, font=self.font)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _badge(draw: ImageDraw.ImageDraw, font: Any, left: int, top: int, words: str) -> None:
    wide = int(draw.textlength(words, font=font))
    draw.rectangle((left, top, left + wide + 8, top + LINE + 2), INK)
    draw.text((left + 4, top + 1), words, PAPER, font=font)


def _columns(results: Results, count: int) -> list[int]:
    """Numbers of columns to try until all fits on one page; the last axis's steps first, so that columns mean something."""
    if count <= SMALLEST:
        return [SMALLEST]
    plain = list(range(4, MOST_COLUMNS + 1))
    axes = [axis for axis in results.plan.axes if len(axis) > 1]
    if len(axes) < 2 or results.plan.shuffled or not SMALLEST <= len(axes[-1]) <= MOST_COLUMNS:
        return plain
    steps = len(axes[-1])
    return [*range(steps, MOST_COLUMNS + 1, steps), *plain, steps]


def _varying(rows: Sequence[Row]) -> list[str]:
    """The names whose values differ; the others would only fill the labels."""
    first = rows[0].values
    names = dict.fromkeys(name for row in rows[:2000] for name in row.values)
    return [name for name in names if any(row.values.get(name) != first.get(name) for row in rows[:2000])]


def _pictures(row: Row) -> list[Any]:
    return [item for item in row.files if item.get("type") == "image"]


def _thumbnail(folder: Path, item: Any, box: int) -> Image.Image | None:
    """The picture, at most box x box; None when it cannot be read (any more)."""
    from PIL import Image

    path = folder / str(item.get("file"))
    if not path.resolve().is_relative_to(folder.resolve()):
        return None
    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (box, box))
            picture.thumbnail((box, box))
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                flat = Image.new("RGB", picture.size, BOX)
                clear = picture.convert("RGBA")
                flat.paste(clear, mask=clear.getchannel("A"))
                return flat
            return picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        _cli.note(f"no thumbnail of {path.name}: {type(error).__name__}")
        return None
