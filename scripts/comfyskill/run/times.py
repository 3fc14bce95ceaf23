"""The memory of run times: how long graphs took, and what that says about the next run.

One table per form of graph (its nodes and links) in the user's cache folder, bounded and deletable: seconds by
server and by the values that decide how long a run takes. Without the cache only the estimates are missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from comfyskill.base import cache, foreign
from comfyskill.base.cli import Document
from comfyskill.graph import nodes
from comfyskill.server.protocol import Graph

# Bounds: times of one set of values on one server, and such sets of one form.
MOST_TIMES = 20
MOST_SETS = 40
# Texts that decide how long a node works, beside those named `..._name`; prompts and file names do not.
CHOICES = frozenset({"scheduler", "weight_dtype", "upscale_method", "quality", "resolution", "size"})


class Times(NamedTuple):
    """Seconds that runs with the same deciding values took on one server, the latest last.

    `partly`: parts of these runs came from the server's cache, so they were shorter than a whole run.
    """

    host: str
    weight: str
    seconds: list[float]
    partly: bool = False


class Estimate(NamedTuple):
    """The estimated seconds of a run: the median of earlier runs, and their spread."""

    seconds: float
    low: float
    high: float
    runs: int

    def as_text(self) -> str:
        """`about 6 min (5 to 7)`."""
        unit, size = (60.0, "min") if self.seconds >= 90 else (1.0, "s")
        low, middle, high = (
            round(value / unit, 0 if value / unit >= 3 else 1)
            for value in (self.low, self.seconds, self.high)
        )
        spread = f" ({low:g} to {high:g})" if low != high else ""
        return f"about {middle:g} {size}{spread}"

    def to_json(self) -> Document:
        """As reports show it."""
        return {
            "seconds": round(self.seconds, 2),
            "low": round(self.low, 2),
            "high": round(self.high, 2),
            "runs": self.runs,
        }


def form(graph: Graph) -> str:
    """A digest of a graph's nodes and links, which graphs share when they differ only in their values."""
    return _digest(
        [
            [node_id, nodes.class_of(node), {name: value for name, value in _inputs(node) if _is_link(value)}]
            for node_id, node in sorted(nodes.each(graph))
        ]
    )


def weight(graph: Graph) -> str:
    """A digest of the values that decide how long a run takes."""
    return _digest(
        [
            [node_id, name, float(value) if isinstance(value, (int, float)) else str(value)]
            for node_id, node in sorted(nodes.each(graph))
            for name, value in _inputs(node)
            if decides(name, value)
        ]
    )


def decides(name: str, value: object) -> bool:
    """Whether an input affects how long a run takes: a size, a number of steps, a model; not a seed or a prompt."""
    if isinstance(value, (int, float)):
        return "seed" not in name
    return isinstance(value, str) and (name.endswith("_name") or name in CHOICES)


def _inputs(node: nodes.Node) -> list[tuple[str, object]]:
    return sorted(nodes.inputs_of(node).items())


def _is_link(value: object) -> bool:
    return nodes.link_of(value) is not None


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _table(graph: Graph) -> str:
    return f"times/{form(graph)}"


def recall(graph: Graph) -> list[Times]:
    """The remembered times of graphs of this form, with any values and on any server."""
    rows = []
    for row in foreign.mappings(cache.recall(_table(graph))):
        seconds = [float(value) for value in map(foreign.number, foreign.items(row.get("seconds"))) if value]
        if seconds:
            rows.append(
                Times(str(row.get("host")), str(row.get("weight")), seconds, row.get("partly") is True)
            )
    return rows


def remember(graph: Graph, fresh: Iterable[Times]) -> None:
    """Add times of graphs of this form to the memory."""
    rows = {(row.host, row.weight, row.partly): row.seconds for row in recall(graph)}
    for host, heaviness, seconds, partly in fresh:
        earlier = rows.pop((host, heaviness, partly), [])
        rows[host, heaviness, partly] = [*earlier, *(round(value, 3) for value in seconds)][-MOST_TIMES:]
    kept = [Times(*key[:2], seconds, key[2])._asdict() for key, seconds in rows.items()]
    cache.keep(_table(graph), kept[-MOST_SETS:])


def record(host: str, graph: Graph, seconds: float, *, partly: bool) -> None:
    """Remember one finished run."""
    remember(graph, [Times(host, weight(graph), [seconds], partly)])


def estimate(host: str, graph: Graph) -> Estimate | None:
    """The expected time of a whole run, from earlier ones with the same deciding values on this server, or None."""
    heaviness = weight(graph)
    rows = [row for row in recall(graph) if (row.host, row.weight) == (host, heaviness)]
    # Runs that were partly cached count only when there is nothing better.
    for partly in (False, True):
        if seconds := sorted(value for row in rows if row.partly == partly for value in row.seconds):
            return _estimate(seconds)
    return None


def _estimate(seconds: Sequence[float]) -> Estimate:
    # Nearest ranks: importing `statistics` also loads fractions and decimals, which costs 3 ms.
    last = len(seconds) - 1
    quarter = last / 4 if last >= 3 else 0
    return Estimate(seconds[last // 2], seconds[round(quarter)], seconds[round(last - quarter)], len(seconds))


def spoken(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def record_nodes(host: str, prompt_id: str, seconds: Mapping[str, float]) -> None:
    """Remember the seconds per node of one finished run."""
    rounded = {node: round(value, 3) for node, value in seconds.items()}
    cache.keep(_run_entry(host, prompt_id), {"nodes": rounded})


def nodes_of(host: str, prompt_id: str) -> dict[str, float]:
    """Seconds per node of one finished run that this user's own commands have watched, else empty."""
    kept = foreign.mapping(foreign.mapping(cache.recall(_run_entry(host, prompt_id))).get("nodes"))
    return {str(node): float(value) for node, value in kept.items() if foreign.number(value) is not None}


def _run_entry(host: str, prompt_id: str) -> str:
    return f"runs/{cache.slug(f'{host} {prompt_id}')}"
