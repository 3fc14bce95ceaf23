"""How long runs took, by the values that decide it, kept for the estimate of the next batch.

Level 3. A seed or a prompt does not change how long a run takes; steps, sizes and models do.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from comfyskill.base import cache
from comfyskill.base.cli import SkillError
from comfyskill.batch.fill import Filler
from comfyskill.batch.plan import OUTPUT_COLUMN
from comfyskill.graph import nodes

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
        self._kept: dict[tuple[int, ...], tuple[Mapping[str, Any], deque[float]]] = {}

    def note(self, run: int, graph: Mapping[str, Any], seconds: float) -> None:
        """A run that ended well took so long."""
        steps = self._plan.steps(run) if self._axes else ()
        key = tuple(steps[axis] for axis in self._axes)
        known = self._kept.get(key)
        if known is None:
            if len(self._kept) >= MOST_SETS:
                return
            known = self._kept[key] = (graph, deque(maxlen=MOST_TIMES))
        known[1].append(seconds)

    def times(self) -> list[Times]:
        """What is worth remembering."""
        host = host_of(self._filler)
        return [
            Times(host, weight(self._filler, graph), [round(value, 3) for value in seconds])
            for graph, seconds in self._kept.values()
        ]


def host_of(filler: Filler) -> str:
    """The server's name in what is remembered; the demo servers of single calls are one."""
    return "demo" if filler.server is None or filler.server.fleeting else filler.server.url


def decisive_axes(filler: Filler) -> tuple[int, ...]:
    """The axes of a plan that set anything which decides how long a run takes."""
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
    """The inputs that do not matter for the time: seeds, texts (prompts, file names), input files."""
    return frozenset(
        (parameter.node_id, parameter.input)
        for parameter in filler.parameters
        if parameter.role == "seed" or parameter.type == "STRING" or parameter.upload
    )


def weight(filler: Filler, graph: Mapping[str, Any]) -> str:
    """A digest of a graph's decisive values."""
    light = _light(filler)
    rows = [
        [node_id, name, float(value) if isinstance(value, (int, float)) else str(value)]
        for node_id, node in sorted(nodes.each(graph))
        for name, value in sorted(nodes.inputs_of(node).items())
        if (node_id, name) not in light and not isinstance(value, (list, dict))
    ]
    return _digest(rows)


def shape(graph: Mapping[str, Any]) -> str:
    """A digest of what graphs that differ only in their values share."""
    return _digest(sorted((node_id, nodes.class_of(node)) for node_id, node in nodes.each(graph)))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]


def remember(graph: Mapping[str, Any], fresh: list[Times]) -> None:
    """Keep the times of a batch; they replace older ones of the same values on the same server."""
    if not fresh:
        return
    new = {(row.host, row.weight) for row in fresh}
    rows = [row for row in recall(graph) if (row.host, row.weight) not in new] + fresh
    cache.keep(f"times/{shape(graph)}", [row._asdict() for row in rows[-MOST_SETS:]])


def recall(graph: Mapping[str, Any]) -> list[Times]:
    """What is remembered of graphs of this shape, whatever their values and their server."""
    kept = cache.recall(f"times/{shape(graph)}")
    rows = []
    for row in kept if isinstance(kept, list) else []:
        seconds = row.get("seconds") if isinstance(row, dict) else None
        if isinstance(seconds, list) and (
            times := [float(it) for it in seconds if isinstance(it, (int, float))]
        ):
            rows.append(Times(str(row.get("host")), str(row.get("weight")), times))
    return rows


def spoken(seconds: float) -> str:
    """A duration as people say it: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
