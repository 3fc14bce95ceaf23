"""Labelled thumbnails of a batch on as few pictures as possible, about forty results on each.

Pillow only.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
import subprocess
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from comfyskill.base import cli, file_names, programs, safe_text
from comfyskill.base.picture_files import BadPicture, open_picture
from comfyskill.batch.plan import OUTPUT_COLUMN, Axis
from comfyskill.batch.results import Results, Row, seed_of, short

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

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
Size = tuple[int, int]
CLEAR = "#eceef1"  # what shows through transparent pictures
FRAME_SECONDS = 10.0
ALL_FRAMES_SECONDS = 90.0
FRAME_SIDE = 768
# Allowed video formats. A playlist under a video's name would make ffmpeg open other files.
VIDEO_FORMATS = "mov,matroska,webm,avi,mpeg,mpegts,ogg"


def write(results: Results) -> list[Path]:
    """The sheets' paths, `contact_sheet.png` first; old ones of more pages are removed. Empty when nothing has run."""
    rows = [row for row in results.rows if row.status != "not_run"]
    for old in results.folder.glob("contact_sheet*.png"):
        if OURS.fullmatch(old.name):
            old.unlink(missing_ok=True)
    if not rows:
        return []
    thumbs = Thumbnails(results.folder)
    pages = sheets(results, rows, thumbs)
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
        words.append("see index.html for the rest")
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
    heads = [wrapped(words, page.box[0], MOST_HEAD_LINES) for words in page.columns]
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


class Pen(NamedTuple):
    """The pen and fonts to draw with."""

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
    """The text shown instead of a picture, and its colour: the failure, the text output, or the kind of file."""
    if row.status != "success":
        return short(
            f"{row.status.replace('_', ' ')}: {row.message or row.code or ''}".rstrip(": "), 600
        ), BAD
    if row.files:
        item = shown(row) or row.files[0]
        size = item.get("bytes")
        extent = f", {_size(size)}" if isinstance(size, int) else ""
        return short(f"{str(item.get('type')).upper()} {item.get('filename')}{extent}", 300), INK
    return (short(row.texts[0].get("text") or "", 600), INK) if row.texts else ("no files", QUIET)


def _size(number: int) -> str:
    return f"{number / 1e6:.1f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"


def _badge(pen: Pen, left: int, top: int, words: str) -> None:
    wide = int(pen.draw.textlength(words, font=pen.font))
    pen.draw.rectangle((left, top, left + wide + 8, top + LINE + 2), INK)
    pen.text(left + 4, top + 1, words, PAPER)


class Cell(NamedTuple):
    """A run in its place (in columns and rows of the sheet), with the lines under it."""

    row: Row
    column: int
    line: int
    label: list[str]


class Sheet(NamedTuple):
    """One page. `columns`, `lines`: the words over the columns and before the lines of a grid; empty in a list."""

    box: Size
    cells: list[Cell]
    across: int
    down: int
    label_lines: int
    columns: Sequence[str] = ()
    lines: Sequence[str] = ()
    words: str = ""  # what all runs of the page share


class Used(NamedTuple):
    """An axis that varies, its number, and the steps of it that were run."""

    number: int
    axis: Axis
    steps: list[int]


def sheets(results: Results, rows: Sequence[Row], thumbs: Thumbnails) -> list[Sheet]:
    """The pages for these runs, at most MOST_PAGES of them."""
    natural = _natural(rows, thumbs)
    used = _used(results, rows)
    grid = _grid(rows, used, natural)
    return grid if grid is not None else _list(rows, used, natural)


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


def _used(results: Results, rows: Sequence[Row]) -> list[Used]:
    """The axes that vary among these runs."""
    found = []
    for number, axis in enumerate(results.plan.axes):
        steps = sorted({row.steps[number] for row in rows})
        if len(steps) > 1:
            found.append(Used(number, axis, steps))
    return found


# --- the grid
def _grid(rows: Sequence[Row], used: Sequence[Used], natural: Size) -> list[Sheet] | None:
    """Lines over the first axis, columns over the second (or the other way round), a third one beside it in the
    columns while there are few, else on pages. None when that does not fit or would be mostly empty."""
    if len(used) < 2 or len(rows) * 2 < math.prod(len(axis.steps) for axis in used):
        return None
    by_place = {row.steps: row for row in rows}
    for down, across in ((used[0], used[1]), (used[1], used[0])):
        rest = [axis for axis in used if axis not in (down, across)]
        beside = [across, *rest]
        if math.prod(len(axis.steps) for axis in beside) > FEW_COLUMNS:
            beside = [across]
        if len(across.steps) > MOST_COLUMNS:
            continue
        paged = [axis for axis in rest if axis not in beside]
        made = list(_grid_sheets(_Places(by_place, used, down), beside, paged, natural))
        if len(made) <= MOST_PAGES:
            return made
    return None


class _Places(NamedTuple):
    """The place of each run on the axes; `down` is the axis of the lines."""

    runs: Mapping[tuple[int, ...], Row]
    used: Sequence[Used]
    down: Used

    def at(self, steps: Mapping[int, int]) -> Row | None:
        """The run with these steps (axis number -> step); the other axes do not vary."""
        some = next(iter(self.runs))
        return self.runs.get(tuple(steps.get(number, step) for number, step in enumerate(some)))


def _grid_sheets(
    places: _Places, beside: Sequence[Used], paged: Sequence[Used], natural: Size
) -> Iterator[Sheet]:
    columns = _combined(beside)
    heads = [_all_words(beside, steps) for steps in columns]
    down = places.down
    wide = (WIDTH - SIDE - MARGIN) // len(columns) - MARGIN
    head = max(len(wrapped(words, wide, MOST_HEAD_LINES)) for words in heads) + 2
    room = HEIGHT - head * LINE - 3 * MARGIN
    # All lines on one page, if the pictures stay large enough.
    least = min(MOST_BOX // 3, max(natural[1], LEAST_BOX) * 3 // 4)
    box = _box(natural, (wide, max(room // len(down.steps) - LINE - MARGIN, least)))
    a_page = max(room // (box[1] + LINE + MARGIN), 1)
    for fixed in _combined(paged):
        for first in range(0, len(down.steps), a_page):
            part = down.steps[first : first + a_page]
            cells = [
                Cell(row, column, line, [_short_label(row, box[0])])
                for line, step in enumerate(part)
                for column, steps in enumerate(columns)
                if (row := places.at({**fixed, **steps, down.number: step})) is not None
            ]
            lines = [_words(down.axis, step) for step in part]
            if cells:
                yield Sheet(
                    box, cells, len(columns), len(part), 1, heads, lines, _all_words(paged, fixed)
                )  # fmt: skip


def _combined(axes: Sequence[Used]) -> list[dict[int, int]]:
    """Every combination of steps, as axis number -> step; one empty one for no axes."""
    numbers = [axis.number for axis in axes]
    return [dict(zip(numbers, steps, strict=True)) for steps in product(*(axis.steps for axis in axes))]


def _all_words(axes: Sequence[Used], steps: Mapping[int, int]) -> str:
    return ", ".join(_words(axis.axis, steps[axis.number]) for axis in axes)


def _short_label(row: Row, wide: int) -> str:
    """The label under a cell: what the grid's edges do not show."""
    seed = seed_of(row)
    shows_seed = seed is not None and not any("seed" in name for name in row.values)
    return (wrapped(f"#{row.run} seed {seed}" if shows_seed else f"#{row.run}", wide, 1) or [""])[0]


def _words(axis: Axis, step: int) -> str:
    """`cfg 5`, `width 512, height 768`: what an axis sets at a step."""
    values = {name: value for name, value in axis.at(step).items() if name != OUTPUT_COLUMN}
    return (
        ", ".join(f"{name} {_cut(short(value, 300), 60)}" for name, value in values.items()) or f"#{step + 1}"
    )


# --- the list
def _list(rows: Sequence[Row], used: Sequence[Used], natural: Size) -> list[Sheet]:
    varying = _varying(rows)
    for across in _columns(used, len(rows)):
        box = _box(natural, ((WIDTH - MARGIN) // across - MARGIN, MOST_BOX))
        labels = [_label(row, varying, box[0]) for row in rows[:MEASURED]]
        high = max(len(lines) for lines in labels)
        down = max((HEIGHT - 3 * LINE - MARGIN) // (box[1] + high * LINE + MARGIN), 1)
        lines = math.ceil(len(rows) / across)
        if lines <= down and lines * (box[1] + high * LINE) <= 1.3 * across * box[0]:
            break
    pages = []
    for first in range(0, len(rows), across * down)[:MOST_PAGES]:
        part = rows[first : first + across * down]
        cells = [
            Cell(row, at % across, at // across, _label(row, varying, box[0])[:high])
            for at, row in enumerate(part)
        ]
        pages.append(Sheet(box, cells, min(across, len(part)), math.ceil(len(part) / across), high))
    return pages


def _columns(used: Sequence[Used], count: int) -> list[int]:
    """Numbers of columns to try until all fits on one page; multiples of the last axis's steps first."""
    if count <= 3:
        return [count]
    plain = list(range(3 if count <= 9 else 4, MOST_COLUMNS + 1))
    steps = len(used[-1].steps) if len(used) > 1 else 0
    return [*range(steps, MOST_COLUMNS + 1, steps), *plain] if 3 <= steps <= MOST_COLUMNS else plain


def _label(row: Row, varying: Sequence[str], wide: int) -> list[str]:
    """`#7 · cfg 5 · seed 3`, wrapped to the cell."""
    parts = [f"{name} {_cut(short(row.values[name], 500), 60)}" for name in varying if name in row.values]
    if seed_of(row) is not None and not any("seed" in name for name in row.values):
        parts.append(f"seed {seed_of(row)}")
    parts.sort(key=len)
    return wrapped(" · ".join([f"#{row.run}", *parts]), wide, MOST_LABEL_LINES)


def _varying(rows: Sequence[Row]) -> list[str]:
    """The names whose values differ; labels omit the others."""
    first = rows[0].values
    names = dict.fromkeys(name for row in rows[:2000] for name in row.values)
    return [name for name in names if any(row.values.get(name) != first.get(name) for row in rows[:2000])]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


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
        """The run's first picture or video frame, fitted into a box (small ones are enlarged); None without one."""
        item = shown(row)
        path = self._path(item)
        if item is None or path is None:
            return None
        if item.get("type") == "video":
            frame = self._frame(path)
            return _fitted(frame, box) if frame else None
        return _opened(path, path.name, box)

    def _path(self, item: Mapping[str, Any] | None) -> Path | None:
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


def shown(row: Row) -> Mapping[str, Any] | None:
    """The file shown for a run: its first picture, else its first video."""
    for kind in ("image", "video"):
        for item in row.files:
            if item.get("type") == kind:
                return item
    return None


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
