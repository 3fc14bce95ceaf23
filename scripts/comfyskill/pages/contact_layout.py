"""How the runs of a batch are laid out on contact sheets: a grid over its axes where that fits, else a list.

Level 3. Only numbers and words: nothing is drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from comfyskill.batch.plan import OUTPUT_COLUMN, Axis
from comfyskill.batch.results import Results, Row, seed_of, short
from comfyskill.pages.contact_cells import LINE, wrapped
from comfyskill.pages.thumbnails import Size, Thumbnails

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
    """A box of the pictures' own shape that fits into the room, not much larger than they are."""
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
    columns while there are few, else on pages. None when that does not fit, or would be mostly empty."""
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
    """Which run stands where on the axes; `down` is the axis of the lines."""

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
    # All lines on one page, if the pictures are still worth a look then.
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
    """What the grid's edges do not say."""
    seed = seed_of(row)
    told = seed is not None and not any("seed" in name for name in row.values)
    return (wrapped(f"#{row.run} seed {seed}" if told else f"#{row.run}", wide, 1) or [""])[0]


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
    """The names whose values differ; the others would only fill the labels."""
    first = rows[0].values
    names = dict.fromkeys(name for row in rows[:2000] for name in row.values)
    return [name for name in names if any(row.values.get(name) != first.get(name) for row in rows[:2000])]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


__all__ = ["MARGIN", "MOST_PAGES", "SIDE", "Cell", "Sheet", "sheets"]
