"""How the runs of a batch are shown: as a grid or a list, what its edges say, and which values tell the runs apart.

The result page and the contact sheet both show this.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from comfyskill.base import safe_text
from comfyskill.base.cli import Document
from comfyskill.batch.plan import OUTPUT_COLUMN, Axis
from comfyskill.batch.results import Results, Row

# Larger grids are hard to read; their runs are listed.
MOST_CELLS = 4000
MOST_STEPS = 200
# Runs whose values are compared.
MOST_COMPARED = 2000
MOST_LABEL = 80


class Edge(NamedTuple):
    """An axis that varies among the shown runs. steps: step -> the names and values that it sets, as texts."""

    axis: int
    name: str
    steps: Mapping[int, Mapping[str, str]]

    def label(self, step: int) -> str:
        """The values at a step, `512, 768`."""
        return ", ".join(self.steps[step].values()) or f"#{step}"

    def caption(self, step: int) -> str:
        """The names and values at a step, `width 512, height 768`."""
        return ", ".join(f"{name} {text}" for name, text in self.steps[step].items()) or f"#{step}"


class Layout(NamedTuple):
    """The runs to show, and how.

    is_grid: the edges span a grid of which at least half is filled. names: of all values, in the plan's order. shared:
    the values that all runs have in common; differing: the names of the others.
    """

    rows: Sequence[Row]
    edges: Sequence[Edge]
    is_grid: bool
    names: Sequence[str]
    shared: Document
    differing: Sequence[str]

    def caption(self, row: Row, *, with_edges: bool) -> list[str]:
        """What tells a run apart, `#7`, `cfg 5`, `seed 3`; without edges, only what the grid's edges do not show."""
        on_edges = set() if with_edges else {name for edge in self.edges for name in _names(edge)}
        values = values_of(row)
        parts = [
            f"{name} {cut(one_line(values[name]))}"
            for name in self.differing
            if name in values and name not in on_edges
        ]
        return [f"#{row.run}", *sorted(parts, key=len)]


def layout(results: Results, rows: Sequence[Row]) -> Layout:
    """The layout of some or all runs of a batch."""
    edges = [
        edge
        for number, axis in enumerate(results.plan.axes)
        if len((edge := _edge(number, axis, rows)).steps) > 1
    ]
    names = list(dict.fromkeys(name for name in results.plan.names if name != OUTPUT_COLUMN))
    if not _sets_seed(names) and any(row.seed is not None for row in rows):
        names.append("seed")
    compared = [values_of(row) for row in rows[:MOST_COMPARED]]
    first = compared[0] if compared else {}
    differing = [name for name in names if any(values.get(name) != first.get(name) for values in compared)]
    shared = {name: first[name] for name in names if name in first and name not in differing}
    return Layout(rows, edges, _is_grid(edges, len(rows)), names, shared, differing)


def _is_grid(edges: Sequence[Edge], count: int) -> bool:
    sizes = [len(edge.steps) for edge in edges]
    cells = math.prod(sizes)
    return len(sizes) >= 2 and cells <= MOST_CELLS and max(sizes) <= MOST_STEPS and count * 2 >= cells


def _edge(number: int, axis: Axis, rows: Sequence[Row]) -> Edge:
    names = [name for name in axis.names if name != OUTPUT_COLUMN]
    steps = {
        step: {name: cut(one_line(value)) for name, value in axis.at(step).items() if name in names}
        for step in sorted({row.steps[number] for row in rows})
    }
    return Edge(number, ", ".join(names) or "run", steps)


def _names(edge: Edge) -> set[str]:
    return {name for values in edge.steps.values() for name in values}


def values_of(row: Row) -> Document:
    """What a run was made with: the values of the plan, and its seed if the plan sets none."""
    if row.seed is None or _sets_seed(row.values):
        return row.values
    return row.values | {"seed": row.seed}


def _sets_seed(names: Sequence[str] | Mapping[str, object]) -> bool:
    return any("seed" in name for name in names)


def picture_of(row: Row) -> Mapping[str, object] | None:
    """The file to show for a run: its first picture, else its first video."""
    for kind in ("image", "video"):
        for item in row.files:
            if item.get("type") == kind:
                return item
    return None


def status_of(row: Row) -> str:
    """A run's status in words, with the reason of a failure."""
    status = row.status.replace("_", " ")
    reason = row.message or row.code
    return f"{status}: {reason}" if reason else status


def one_line(value: object, limit: int = 500) -> str:
    """A value for people, on one line."""
    if isinstance(value, float):
        value = f"{value:g}"
    return " ".join(safe_text.clean(value, limit).split())


def cut(text: str, limit: int = MOST_LABEL) -> str:
    """The text, its end replaced by an ellipsis when it is too long."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
