"""Estimate run times from earlier runs: a small memory per server and graph shape.

Kept in the user's cache folder, bounded, deletable; without it nothing but the estimate is missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from comfyskill.base import cache, foreign

MOST_RUNS = 12
# Inputs that decide how long a node works; other values (prompts, seeds, names of files) do not shape a graph.
SIZES = frozenset(
    "width height length batch_size steps num_frames frames seconds duration upscale_by scale_by megapixels denoise "
    "sampler_name ckpt_name unet_name model_name".split()
)


class Estimate(NamedTuple):
    """The estimated seconds of a run: the median of earlier runs, and their spread."""

    seconds: float
    low: float
    high: float
    runs: int

    def words(self) -> str:
        """`about 6 min (5 to 7)`."""
        unit, size = (60.0, "min") if self.seconds >= 90 else (1.0, "s")
        low, middle, high = (
            round(value / unit, 0 if value / unit >= 3 else 1)
            for value in (self.low, self.seconds, self.high)
        )
        spread = f" ({low:g} to {high:g})" if low != high else ""
        return f"about {middle:g} {size}{spread}"

    def to_json(self) -> dict[str, Any]:
        """As reports show it."""
        return {
            "seconds": round(self.seconds, 2),
            "low": round(self.low, 2),
            "high": round(self.high, 2),
            "runs": self.runs,
        }


def shape(graph: Mapping[str, Any]) -> str:
    """A digest of what decides a graph's run time: its classes, links and sizes."""
    parts = []
    for node_id in sorted(graph, key=str):
        node = graph[node_id]
        if not isinstance(node, Mapping):
            continue
        inputs = node.get("inputs")
        inputs = foreign.mapping(inputs)
        kept = {name: value for name, value in inputs.items() if isinstance(value, list) or name in SIZES}
        parts.append([str(node_id), str(node.get("class_type")), kept])
    return cache.slug(json.dumps(parts, sort_keys=True, default=str))


def _name(url: str, graph: Mapping[str, Any]) -> str:
    return f"timings/{cache.slug(url)}-{shape(graph)[-12:]}"


def record(
    url: str,
    prompt_id: str,
    graph: Mapping[str, Any],
    seconds: float,
    nodes: Mapping[str, float],
    cached: int,
) -> None:
    """Remember a finished run. `nodes`: seconds per node id where they are known."""
    row: dict[str, Any] = {"seconds": round(seconds, 3), "cached": cached, "at": int(time.time())}
    row["nodes"] = {node: round(value, 3) for node, value in nodes.items()}
    kept = cache.recall(_name(url, graph))
    runs = kept.get("runs") if isinstance(kept, dict) else None
    cache.keep(_name(url, graph), {"runs": [*(foreign.items(runs)), row][-MOST_RUNS:]})
    cache.keep(f"runs/{cache.slug(f'{url} {prompt_id}')}", row)


def estimate(url: str, graph: Mapping[str, Any]) -> Estimate | None:
    """The expected time of a whole run of this graph, from earlier ones of the same shape on this server, or None."""
    kept = cache.recall(_name(url, graph))
    runs = kept.get("runs") if isinstance(kept, dict) else None
    rows = [row for row in runs if _is_row(row)] if isinstance(runs, list) else []
    # A partly cached run is less reliable; it counts only when there is nothing better.
    whole = [row for row in rows if row["cached"] == 0] or rows
    seconds = sorted(float(row["seconds"]) for row in whole)
    if not seconds:
        return None
    # Nearest ranks: importing `statistics` also loads fractions and decimals, which costs 3 ms.
    last = len(seconds) - 1
    quarter = last / 4 if last >= 3 else 0
    return Estimate(seconds[last // 2], seconds[round(quarter)], seconds[round(last - quarter)], len(seconds))


def nodes_of(url: str, prompt_id: str) -> dict[str, float]:
    """Seconds per node of one finished run that this user's own tools have watched, else empty."""
    kept = cache.recall(f"runs/{cache.slug(f'{url} {prompt_id}')}")
    nodes = kept.get("nodes") if isinstance(kept, dict) else None
    if not isinstance(nodes, dict):
        return {}
    return {str(node): float(value) for node, value in nodes.items() if isinstance(value, (int, float))}


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("seconds"), (int, float))
        and isinstance(row.get("cached"), int)
    )
