"""Labelled thumbnails of a batch on as few pictures as possible, about forty results on each.

Pillow only.
"""

from __future__ import annotations

import contextlib
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from comfyskill.base import file_names
from comfyskill.batch.results import Results, Row
from comfyskill.pages.layout import Edge, Layout, layout, one_line, picture_of, status_of
from comfyskill.pages.thumbnails import Size, Thumbnails

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

MOST_TITLE_LINES = 2
OURS = re.compile(r"contact_sheet(_\d+)?\.png")
LEAST_WIDTH = 400
# The last character of Pillow's own font, except for a few signs.
LAST_LATIN = 0x24F
KNOWN_BEYOND = "\u2026\u2019\u2018\u201c\u201d\u2013\u2014\u2022"
SYSTEM_FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc",
    "Hiragino Sans GB.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf",
)  # fmt: skip
INK, PAPER, QUIET, BAD, BOX = "#1c1e21", "#ffffff", "#5b6168", "#a3201d", "#eceef1"
LINE = 17
FONT = 14
LETTER = 7.6  # how wide a letter is on average
WIDTH = 1600
HEIGHT = 1600
MARGIN = 8
MOST_PAGES = 12
LEAST_BOX, MOST_BOX = 120, 512
MOST_COLUMNS = 12
FEW_COLUMNS = 8
MOST_LABEL_LINES = 4
MOST_HEAD_LINES = 3
SIDE = 150  # the column of the row labels
MEASURED = 200


class Cell(NamedTuple):
    """A run in its place (in columns and rows of the sheet), with the lines under it."""

    row: Row
    column: int
    line: int
    label: list[str]


class Sheet(NamedTuple):
    """One page. columns, lines: the captions over the columns and before the lines of a grid; empty in a list."""

    box: Size
    cells: list[Cell]
    across: int
    down: int
    label_lines: int
    columns: Sequence[str] = ()
    lines: Sequence[str] = ()
    caption: str = ""  # what all runs of the page share


def write(results: Results) -> list[Path]:
    """The sheets' paths, `contact_sheet.png` first; old ones of more pages are removed. Empty when nothing has run."""
    rows = [row for row in results.rows if row.status != "not_run"]
    for old in results.folder.glob("contact_sheet*.png"):
        if OURS.fullmatch(old.name):
            old.unlink(missing_ok=True)
    if not rows:
        return []
    thumbs = Thumbnails(results.folder)
    pages = sheets(layout(results, rows), thumbs)
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
    span = f"runs {min(runs)} to {max(runs)}" if not page.lines else f"{len(runs)} runs"
    parts = [page.caption] if page.caption else []
    parts.append(f"{span} of {results.plan.count}")
    if failed := sum(row.status != "success" for row in rows):
        parts.append(f"{failed} not successful")
    if len(pages) > 1:
        parts.append(f"page {number + 1} of {len(pages)}")
    if sum(len(each.cells) for each in pages) < len(rows):
        parts.append("see index.html for the rest")
    if results.demo:
        parts.append("made by the demo server, not generated")
    return " · ".join(parts)


def _drawn(page: Sheet, title: str, thumbs: Thumbnails) -> Image.Image:
    """The page as a picture, no larger than what is on it."""
    from PIL import Image, ImageDraw

    wide, high = page.box[0] + MARGIN, page.box[1] + page.label_lines * LINE + MARGIN
    left = MARGIN + (SIDE if page.lines else 0)
    whole = max(left + page.across * wide, LEAST_WIDTH)
    titles = wrapped(title, whole - 2 * MARGIN, MOST_TITLE_LINES)
    heads = [wrapped(text, page.box[0], MOST_HEAD_LINES) for text in page.columns]
    top = MARGIN + len(titles) * LINE + MARGIN + max(map(len, heads), default=0) * LINE
    sheet = Image.new("RGB", (whole, top + page.down * high + MARGIN), PAPER)
    pen = Pen(sheet, ImageDraw.Draw(sheet), _font(page))
    pen.lines(MARGIN, MARGIN, titles)
    for column, head in enumerate(heads):
        pen.lines(left + column * wide, top - len(head) * LINE - 2, head)
    for line, text in enumerate(page.lines):
        pen.lines(MARGIN, top + line * high, wrapped(text, SIDE - 2 * MARGIN, max(page.box[1] // LINE, 1)))
    for cell in page.cells:
        place = left + cell.column * wide, top + cell.line * high
        draw_run(pen, thumbs, cell.row, place, page.box)
        pen.lines(place[0], place[1] + page.box[1] + 1, cell.label, INK if page.columns == () else QUIET)
    return sheet


def _font(page: Sheet) -> Font:
    """Pillow's own font, or one of the system's for scripts that it lacks."""
    from PIL import ImageFont

    letters = "".join(
        [*page.columns, *page.lines, page.caption, *(line for cell in page.cells for line in cell.label)]
    )
    if any(ord(letter) > LAST_LATIN and letter not in KNOWN_BEYOND for letter in letters):
        for name in SYSTEM_FONTS:
            with contextlib.suppress(OSError):
                return ImageFont.truetype(name, FONT)
    return ImageFont.load_default(FONT)


class Pen(NamedTuple):
    """The pen and fonts to draw with."""

    sheet: Image.Image
    draw: ImageDraw.ImageDraw
    font: Font

    def text(self, left: int, top: int, text: str, ink: str = INK) -> None:
        """One line of text."""
        self.draw.text((left, top), text, ink, font=self.font)

    def lines(self, left: int, top: int, lines: Sequence[str], ink: str = INK) -> None:
        """Lines of text, one under the other."""
        for at, line in enumerate(lines):
            self.text(left, top + at * LINE, line, ink)


def wrapped(text: str, wide: int, most: int) -> list[str]:
    """Text broken into lines of a width in pixels; what does not fit into `most` lines ends in an ellipsis."""
    letters = max(int(wide / LETTER), 4)
    lines = [""]
    for word in text.split():
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
    item = picture_of(row)
    picture = thumbs.of(row, box) if item is not None and row.status == "success" else None
    if picture is None:
        frame = BAD if row.status != "success" else QUIET
        pen.draw.rectangle((left, top, left + box[0] - 1, top + box[1] - 1), BOX, frame)
        text, ink = instead(row)
        room = max((box[1] - 10) // LINE, 1)
        pen.lines(left + 6, top + 5, wrapped(text, box[0] - 12, room), ink)
        return
    pen.sheet.paste(picture, (left + (box[0] - picture.width) // 2, top + (box[1] - picture.height) // 2))
    if item is not None and item.get("type") == "video":
        _badge(pen, left + 4, top + 4, "video")
    elif (count := sum(file.get("type") == "image" for file in row.files)) > 1:
        _badge(pen, left + 4, top + 4, f"1 of {count}")


def instead(row: Row) -> tuple[str, str]:
    """The text shown instead of a picture, and its colour: the failure, the text output, or the kind of file."""
    if row.status != "success":
        return one_line(status_of(row), 600), BAD
    if row.files:
        item = picture_of(row) or row.files[0]
        size = item.get("bytes")
        extent = f", {_size(size)}" if isinstance(size, int) else ""
        return one_line(f"{str(item.get('type')).upper()} {item.get('filename')}{extent}", 300), INK
    return (one_line(row.texts[0].get("text") or "", 600), INK) if row.texts else ("no files", QUIET)


def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"


def _badge(pen: Pen, left: int, top: int, text: str) -> None:
    wide = int(pen.draw.textlength(text, font=pen.font))
    pen.draw.rectangle((left, top, left + wide + 8, top + LINE + 2), INK)
    pen.text(left + 4, top + 1, text, PAPER)


def sheets(shown: Layout, thumbs: Thumbnails) -> list[Sheet]:
    """The pages for these runs, at most MOST_PAGES of them."""
    natural = _natural(shown.rows, thumbs)
    return (_grid(shown, natural) if shown.is_grid else []) or _list(shown, natural)


def _natural(rows: Sequence[Row], thumbs: Thumbnails) -> Size:
    """The box that the largest pictures would fill."""
    sizes: list[Size] = []
    videos = 0
    for row in rows[:MEASURED]:
        if row.status != "success" or videos >= 3:
            continue
        size = thumbs.size(row)
        videos += size is not None and any(item.get("type") == "video" for item in row.files)
        if size is not None:
            sizes.append(size)
    if not sizes:
        return 256, 160
    return max(wide for wide, _ in sizes), max(high for _, high in sizes)


def _box(natural: Size, room: Size) -> Size:
    """A box of the pictures' own shape that fits into the space, not much larger than they are."""
    wide, high = natural
    enlarged = max(1.0, LEAST_BOX / max(wide, high))
    scale = min(room[0] / wide, min(room[1], MOST_BOX) / high, enlarged)
    return max(int(wide * scale), min(LEAST_BOX, room[0])), max(int(high * scale), 2 * LINE)


def _grid(shown: Layout, natural: Size) -> list[Sheet]:
    """Lines over the first axis, columns over the second (or the other way round), a third one beside it in the
    columns while there are few, else on pages. Empty when that does not fit."""
    first, second, *rest = shown.edges
    for down, across in ((first, second), (second, first)):
        if len(across.steps) > MOST_COLUMNS:
            continue
        beside, paged = [across, *rest], []
        if math.prod(len(edge.steps) for edge in beside) > FEW_COLUMNS:
            beside, paged = [across], rest
        made = list(_grid_sheets(shown, down, beside, paged, natural))
        if len(made) <= MOST_PAGES:
            return made
    return []


def _grid_sheets(
    shown: Layout, down: Edge, beside: Sequence[Edge], paged: Sequence[Edge], natural: Size
) -> Iterator[Sheet]:
    columns = _combined(beside)
    heads = [_caption(beside, steps) for steps in columns]
    wide = (WIDTH - SIDE - MARGIN) // len(columns) - MARGIN
    head = max(len(wrapped(text, wide, MOST_HEAD_LINES)) for text in heads) + 2
    room = HEIGHT - head * LINE - 3 * MARGIN
    # All lines on one page, if the pictures stay large enough.
    least = min(MOST_BOX // 3, max(natural[1], LEAST_BOX) * 3 // 4)
    box = _box(natural, (wide, max(room // len(down.steps) - LINE - MARGIN, least)))
    a_page = max(room // (box[1] + LINE + MARGIN), 1)
    places = {tuple(row.steps[edge.axis] for edge in shown.edges): row for row in shown.rows}
    all_steps = list(down.steps)
    for fixed in _combined(paged):
        for first in range(0, len(all_steps), a_page):
            part = all_steps[first : first + a_page]
            cells = []
            for (line, step), (column, steps) in product(enumerate(part), enumerate(columns)):
                place = {**fixed, **steps, down.axis: step}
                row = places.get(tuple(place[edge.axis] for edge in shown.edges))
                if row is not None:
                    label = wrapped(" ".join(shown.caption(row, with_edges=False)), box[0], 1)
                    cells.append(Cell(row, column, line, label))
            if cells:
                lines = [down.caption(step) for step in part]
                yield Sheet(box, cells, len(columns), len(part), 1, heads, lines, _caption(paged, fixed))


def _combined(edges: Sequence[Edge]) -> list[dict[int, int]]:
    """Every combination of steps, as axis number -> step; one empty one for no edges."""
    numbers = [edge.axis for edge in edges]
    return [dict(zip(numbers, steps, strict=True)) for steps in product(*(edge.steps for edge in edges))]


def _caption(edges: Sequence[Edge], steps: Mapping[int, int]) -> str:
    return ", ".join(edge.caption(steps[edge.axis]) for edge in edges)


def _list(shown: Layout, natural: Size) -> list[Sheet]:
    """The runs in their order, in as many columns as let them fit on one page."""
    rows = shown.rows
    for across in _columns(shown.edges, len(rows)):
        box = _box(natural, ((WIDTH - MARGIN) // across - MARGIN, MOST_BOX))
        high = max(len(_label(shown, row, box[0])) for row in rows[:MEASURED])
        down = max((HEIGHT - 3 * LINE - MARGIN) // (box[1] + high * LINE + MARGIN), 1)
        lines = math.ceil(len(rows) / across)
        if lines <= down and lines * (box[1] + high * LINE) <= 1.3 * across * box[0]:
            break
    pages = []
    for first in range(0, len(rows), across * down)[:MOST_PAGES]:
        part = rows[first : first + across * down]
        cells = [
            Cell(row, at % across, at // across, _label(shown, row, box[0])[:high])
            for at, row in enumerate(part)
        ]
        pages.append(Sheet(box, cells, min(across, len(part)), math.ceil(len(part) / across), high))
    return pages


def _columns(edges: Sequence[Edge], count: int) -> list[int]:
    """Numbers of columns to try until all fits on one page; multiples of the last axis's steps first."""
    if count <= 3:
        return [count]
    plain = list(range(3 if count <= 9 else 4, MOST_COLUMNS + 1))
    steps = len(edges[-1].steps) if len(edges) > 1 else 0
    return [*range(steps, MOST_COLUMNS + 1, steps), *plain] if 3 <= steps <= MOST_COLUMNS else plain


def _label(shown: Layout, row: Row, wide: int) -> list[str]:
    """`#7 · cfg 5 · seed 3`, wrapped to the cell."""
    return wrapped(" · ".join(shown.caption(row, with_edges=True)), wide, MOST_LABEL_LINES)
