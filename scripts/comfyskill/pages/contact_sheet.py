"""Labelled thumbnails of a batch on as few pictures as possible, so that one look shows forty results.

Level 3. Pillow only.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyskill.base import file_names
from comfyskill.batch.results import Results, Row
from comfyskill.pages import contact_layout
from comfyskill.pages.contact_cells import FONT, INK, LINE, PAPER, QUIET, Pen, draw_run, wrapped
from comfyskill.pages.contact_layout import MARGIN, SIDE, Sheet
from comfyskill.pages.thumbnails import Thumbnails

if TYPE_CHECKING:
    from PIL import Image

MOST_TITLE_LINES = 2
OURS = re.compile(r"contact_sheet(_\d+)?\.png")
LEAST_WIDTH = 400
# Pillow's own font ends here, a few signs aside.
LAST_LATIN = 0x24F
KNOWN_BEYOND = "\u2026\u2019\u2018\u201c\u201d\u2013\u2014\u2022"
SYSTEM_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc",
    "Hiragino Sans GB.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf",
)  # fmt: skip


def write(results: Results) -> list[Path]:
    """The sheets' paths, `contact_sheet.png` first; old ones of more pages are removed. Empty when nothing has run."""
    rows = [row for row in results.rows if row.status != "not_run"]
    for old in results.folder.glob("contact_sheet*.png"):
        if OURS.fullmatch(old.name):
            old.unlink(missing_ok=True)
    if not rows:
        return []
    thumbs = Thumbnails(results.folder)
    pages = contact_layout.sheets(results, rows, thumbs)
    made = []
    for number, page in enumerate(pages):
        path = results.folder / ("contact_sheet.png" if number == 0 else f"contact_sheet_{number + 1}.png")
        title = _title(results, rows, pages, number)
        _save(_drawn(page, title, thumbs), path)
        made.append(path)
    return made


def _save(sheet: Image.Image, path: Path) -> None:
    part = file_names.part_beside(path)
    try:
        with file_names.held(part):
            sheet.save(part, "PNG")
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _title(results: Results, rows: Sequence[Row], pages: Sequence[Sheet], number: int) -> str:
    page = pages[number]
    runs = [cell.row.run for cell in page.cells]
    words = [page.words] if page.words else []
    words.append(f"{len(runs)} of {results.plan.count} runs" if page.lines else
                 f"runs {min(runs)} to {max(runs)} of {results.plan.count}")  # fmt: skip
    if failed := sum(row.status != "success" for row in rows):
        words.append(f"{failed} not successful")
    if len(pages) > 1:
        words.append(f"page {number + 1} of {len(pages)}")
    if sum(len(each.cells) for each in pages) < len(rows):
        words.append("the rest is in index.html")
    if results.demo:
        words.append("made by the demo server, not generated")
    return " · ".join(words)


def _drawn(page: Sheet, title: str, thumbs: Thumbnails) -> Image.Image:
    """The page as a picture, no larger than what is on it."""
    from PIL import Image, ImageDraw

    wide, high = page.box[0] + MARGIN, page.box[1] + page.label_lines * LINE + MARGIN
    left = MARGIN + (SIDE if page.lines else 0)
    whole = max(left + page.across * wide, LEAST_WIDTH)
    titles = wrapped(title, whole - 2 * MARGIN, MOST_TITLE_LINES)
    heads = [wrapped(words, page.box[0], contact_layout.MOST_HEAD_LINES) for words in page.columns]
    top = MARGIN + len(titles) * LINE + MARGIN + max(map(len, heads), default=0) * LINE
    sheet = Image.new("RGB", (whole, top + page.down * high + MARGIN), PAPER)
    pen = Pen(sheet, ImageDraw.Draw(sheet), _font(page))
    pen.lines(MARGIN, MARGIN, titles)
    for column, head in enumerate(heads):
        pen.lines(left + column * wide, top - len(head) * LINE - 2, head)
    for line, words in enumerate(page.lines):
        pen.lines(MARGIN, top + line * high, wrapped(words, SIDE - 2 * MARGIN, max(page.box[1] // LINE, 1)))
    for cell in page.cells:
        place = left + cell.column * wide, top + cell.line * high
        draw_run(pen, thumbs, cell.row, place, page.box)
        pen.lines(place[0], place[1] + page.box[1] + 1, cell.label, INK if page.columns == () else QUIET)
    return sheet


def _font(page: Sheet) -> Any:
    """Pillow's own font, or one of the system's for scripts that it lacks."""
    from PIL import ImageFont

    words = "".join(
        [*page.columns, *page.lines, page.words, *(line for cell in page.cells for line in cell.label)]
    )
    if any(ord(letter) > LAST_LATIN and letter not in KNOWN_BEYOND for letter in words):
        for name in SYSTEM_FONTS:
            with contextlib.suppress(OSError):
                return ImageFont.truetype(name, FONT)
    return ImageFont.load_default(FONT)
