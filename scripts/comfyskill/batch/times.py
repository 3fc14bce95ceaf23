"""How long runs took, by the values that affect it, kept for the estimate of the next batch.

A seed or a prompt does not change how long a run takes; steps, sizes and models do.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from comfyskill.base import cache, foreign, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.batch.fill import Filler, Recipe
from comfyskill.batch.plan import OUTPUT_COLUMN, Plan
from comfyskill.graph import nodes
from comfyskill.server.protocol import Dialect

MOST_TIMES = 20  # of one set of values
MOST_SETS = 40
SHOWN = 10
LOOKED_AT = 8
# Runs of a plan, evenly spread, that the estimate is made from.
LOOKED_INTO = 200


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
        """Record the time of a run that succeeded."""
        steps = self._plan.steps(run) if self._axes else ()
        key = tuple(steps[axis] for axis in self._axes)
        known = self._kept.get(key)
        if known is None:
            if len(self._kept) >= MOST_SETS:
                return
            known = self._kept[key] = (graph, deque(maxlen=MOST_TIMES))
        known[1].append(seconds)

    def times(self) -> list[Times]:
        """The times to remember."""
        host = host_of(self._filler)
        return [
            Times(host, weight(self._filler, graph), [round(value, 3) for value in seconds])
            for graph, seconds in self._kept.values()
        ]


def host_of(filler: Filler) -> str:
    """The server's name in the cache; the demo servers of single calls share one."""
    return "demo" if filler.server is None or filler.server.fleeting else filler.server.url


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
    """A digest that graphs share when they differ only in their values."""
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
    """The remembered times of graphs of this shape, with any values and on any server."""
    kept = cache.recall(f"times/{shape(graph)}")
    rows = []
    for row in foreign.items(kept):
        seconds = row.get("seconds") if isinstance(row, dict) else None
        if isinstance(seconds, list) and (
            times := [float(it) for it in seconds if isinstance(it, (int, float))]
        ):
            rows.append(Times(str(row.get("host")), str(row.get("weight")), times))
    return rows


def spoken(seconds: float) -> str:
    """A duration for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def preview(
    recipe: Recipe, ready: Sequence[Filler], notes: Sequence[str], workflow: str | None = None
) -> dict[str, Any]:
    """The plan with its count, its first runs, problems of the first one and, when such a graph has run, an estimate."""
    plan = recipe.plan
    document: dict[str, Any] = {
        "status": "dry_run",
        "runs": plan.count,
        "combinations": plan.total,
        "axes": [{"kind": axis.kind, "names": list(axis.names), "steps": len(axis)} for axis in plan.axes],
        "first_runs": [_shown(ready[0], plan, run) for run in range(min(SHOWN, plan.count))],
        "workflow": recipe.source.origin,
        "hosts": [filler.server.url for filler in ready if filler.server is not None],
    }
    if notes:
        document["warnings"] = list(notes)
    partner = sorted({node for filler in ready for node in filler.prepared.partner})
    if partner:
        document["partner_nodes"] = partner
    document |= _rejection(recipe, ready, workflow)
    guess = estimate(recipe, ready)
    return document | ({"estimate": guess} if guess else {})


def _rejection(recipe: Recipe, ready: Sequence[Filler], workflow: str | None) -> dict[str, Any]:
    """The rejection of the first run by the first server that accepts its values; empty when it is accepted."""
    from comfyskill.run import submit

    for filler in ready if recipe.wishes.validate else ():
        try:
            first = filler.trial().fill_values(recipe.plan.values(0), 0)
        except SkillError:
            continue  # a value that only another server accepts
        if filler.server is not None:
            sent = {*first.uploads, *(row["input"] for row in filler.prepared.uploads)}
            return submit.rejection(filler.server, first.graph, workflow=workflow, sent=sent)
    return {}


def _shown(filler: Filler, plan: Plan, run: int) -> dict[str, Any]:
    """One run of a plan, for people."""
    values = {
        name: safe_text.clean(value, 200) if isinstance(value, str) else value
        for name, value in filler.typed(plan.values(run)).items()
    }
    return {"run": run, **values}


def estimate(recipe: Recipe, ready: Sequence[Filler]) -> dict[str, Any] | None:
    """How long all runs would take together; None when no run of such a graph is known.

    From runs with the same decisive values on these servers: `seconds_each` and `seconds`. From other runs: a
    range, `seconds_least` to `seconds_most`, which `basis` calls a guide.
    """
    rows = recall(ready[0].prepared.graph)
    each = _from_same(ready, rows)
    if each is None:
        servers = [(filler, filler.server) for filler in ready if filler.server and filler.server.live]
        rows += [row for filler, server in servers for row in _in_history(filler, server)]
        each = _from_same(ready, rows)
    if not rows:
        return None
    share = recipe.plan.count / len(ready)
    if each is not None:
        return {
            "seconds_each": round(each, 2), "seconds": round(each * share, 1), "words": spoken(each * share),
            "basis": "earlier runs with the same values",
        }  # fmt: skip
    usual = [_median(row.seconds) for row in rows]
    least, most = min(usual) * share, max(usual) * share
    return {
        "seconds_least": round(least, 1),
        "seconds_most": round(most, 1),
        "words": spoken(least) if spoken(least) == spoken(most) else f"{spoken(least)} to {spoken(most)}",
        "basis": "earlier runs of this graph with other values or on another server: only a guide",
    }


def _from_same(ready: Sequence[Filler], rows: Sequence[Times]) -> float | None:
    """Average seconds per run, when a run like each of the plan's is known on at least one server."""
    known: dict[str, list[float]] = {}
    hosts = {host_of(filler) for filler in ready}
    for row in rows:
        if row.host in hosts:
            known.setdefault(row.weight, []).append(_median(row.seconds))
    weights = _weights(ready[0]) if known else {}
    if not weights or not weights.keys() <= known.keys():
        return None
    total = sum(count * sum(known[key]) / len(known[key]) for key, count in weights.items())
    return total / sum(weights.values())


def _weights(filler: Filler) -> dict[str, int]:
    """How many of a sample of the plan's runs have which decisive values."""
    plan, axes = filler.recipe.plan, decisive_axes(filler)
    pace = max(plan.count // LOOKED_INTO, 1)
    counts: dict[tuple[int, ...], int] = {}
    example: dict[tuple[int, ...], int] = {}
    for run in range(0, plan.count, pace):
        steps = plan.steps(run)
        key = tuple(steps[axis] for axis in axes)
        counts[key] = counts.get(key, 0) + 1
        example.setdefault(key, run)
    weights: dict[str, int] = {}
    for key, run in example.items():
        try:
            graph = filler.trial().fill_values(plan.values(run), run).graph
        except SkillError:
            return {}  # a value that only another server accepts
        heaviness = weight(filler, graph)
        weights[heaviness] = weights.get(heaviness, 0) + counts[key]
    return weights


def _in_history(filler: Filler, server: Dialect) -> list[Times]:
    """Runs of such a graph in the server's own history."""
    wanted = shape(filler.prepared.graph)
    found: dict[str, list[float]] = {}
    try:
        for job in server.list_jobs(LOOKED_AT):
            if job.phase != "done" or job.outcome != "success":
                continue
            state = server.state(job.prompt_id)
            if state.graph and state.started and state.ended and shape(state.graph) == wanted:
                heaviness = weight(filler, state.graph)
                found.setdefault(heaviness, []).append(max(state.ended - state.started, 0.0))
    except SkillError:
        pass  # this server gives no history; use what other sources know
    host = host_of(filler)
    return [Times(host, weight, seconds) for weight, seconds in found.items()]


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
