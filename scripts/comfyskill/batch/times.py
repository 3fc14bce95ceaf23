"""How long runs took, by the values that affect it, kept for the estimate of the next batch.

A seed or a prompt does not change how long a run takes; steps, sizes and models do.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from typing import NamedTuple

from comfyskill.base import cache, foreign
from comfyskill.base.cli import SkillError
from comfyskill.batch.fill import Filler
from comfyskill.batch.plan import OUTPUT_COLUMN
from comfyskill.graph import nodes
from comfyskill.server.protocol import Graph

MOST_TIMES = 20  # of one set of values
MOST_SETS = 40


class Times(NamedTuple):
    """Seconds that runs with the same decisive values took on one server."""

    host: str
    weight: str
    seconds: list[float]


class Samples:
    """The times of a batch's runs on one server, a few for each set of decisive values; bounded."""

    def __init__(self, filler: Filler) -> None:
        self._filler = filler
        self._plan = filler.recipe.plan
        self._axes = decisive_axes(filler)
        self._kept: dict[tuple[int, ...], tuple[Graph, deque[float]]] = {}

    def note(self, run: int, graph: Graph, seconds: float) -> None:
        """Record the time of a run that succeeded."""
        steps = self._plan.steps(run) if self._axes else ()
        key = tuple(steps[axis] for axis in self._axes)
        known = self._kept.get(key)
        if known is None:
            if len(self._kept) >= MOST_SETS:
                return
            known = self._kept[key] = (graph, deque(maxlen=MOST_TIMES))
        known[1].append(seconds)

    def remember(self) -> None:
        """Keep the times for later batches; they replace older ones of the same values on the same server."""
        if not self._kept:
            return
        host, graph = host_of(self._filler), self._filler.prepared.graph
        fresh = [
            Times(host, weight(self._filler, filled), [round(value, 3) for value in seconds])
            for filled, seconds in self._kept.values()
        ]
        new = {(row.host, row.weight) for row in fresh}
        rows = [row for row in recall(graph) if (row.host, row.weight) not in new] + fresh
        cache.keep(f"times/{shape(graph)}", [row._asdict() for row in rows[-MOST_SETS:]])


def host_of(filler: Filler) -> str:
    """The server's name in the cache; the demo servers of single calls share one."""
    return "demo" if filler.server.fleeting else filler.server.url


def decisive_axes(filler: Filler) -> tuple[int, ...]:
    """The axes of a plan that set something which affects how long a run takes."""
    light = _light(filler)
    return tuple(
        number
        for number, axis in enumerate(filler.recipe.plan.axes)
        if any(_decides(filler, name, light) for name in axis.names if name != OUTPUT_COLUMN)
    )


def _decides(filler: Filler, name: str, light: frozenset[tuple[str, str]]) -> bool:
    if name == "size":
        return True
    try:
        found = filler.parameters.resolve(name)
    except SkillError:
        return True
    return any((parameter.node_id, parameter.input) not in light for parameter in found)


def _light(filler: Filler) -> frozenset[tuple[str, str]]:
    """The inputs that do not affect the time: seeds, texts (prompts, file names), input files."""
    return frozenset(
        (parameter.node_id, parameter.input)
        for parameter in filler.parameters
        if parameter.role == "seed" or parameter.type == "STRING" or parameter.upload
    )


def weight(filler: Filler, graph: Graph) -> str:
    """A digest of a graph's decisive values."""
    light = _light(filler)
    rows = [
        [node_id, name, float(value) if isinstance(value, (int, float)) else str(value)]
        for node_id, node in sorted(nodes.each(graph))
        for name, value in sorted(nodes.inputs_of(node).items())
        if (node_id, name) not in light and not isinstance(value, (list, dict))
    ]
    return _digest(rows)


def shape(graph: Graph) -> str:
    """A digest that graphs share when they differ only in their values."""
    return _digest(sorted((node_id, nodes.class_of(node)) for node_id, node in nodes.each(graph)))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]


def recall(graph: Graph) -> list[Times]:
    """The remembered times of graphs of this shape, with any values and on any server."""
    rows = []
    for row in foreign.mappings(cache.recall(f"times/{shape(graph)}")):
        numbers = map(foreign.number, foreign.items(row.get("seconds")))
        if seconds := [number for number in numbers if number is not None]:
            rows.append(Times(str(row.get("host")), str(row.get("weight")), seconds))
    return rows


def spoken(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
