"""What a batch would run, and how long that would take: the answer to --dry-run.

Level 3. Nothing is submitted; the server's history is read when nothing is remembered here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfyskill.base import safe_text
from comfyskill.base.cli import SkillError
from comfyskill.batch import times
from comfyskill.batch.fill import Filler, Recipe
from comfyskill.batch.plan import Plan
from comfyskill.batch.times import Times, spoken
from comfyskill.server.protocol import Dialect

SHOWN = 10
LOOKED_AT = 8
# So many runs of a plan, spread over it, stand for all.
LOOKED_INTO = 200


def preview(
    recipe: Recipe, ready: Sequence[Filler], notes: Sequence[str], workflow: str | None = None
) -> dict[str, Any]:
    """The plan with its count, its first runs, what speaks against the first and, when such a graph has run, an estimate."""
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
    """That the first server which takes the first run's values would refuse its graph; nothing when it would not."""
    from comfyskill.run import dry_run

    for filler in ready if recipe.wishes.validate else ():
        try:
            first = filler.trial().fill_values(recipe.plan.values(0), 0)
        except SkillError:
            continue  # a value that only another server takes
        if filler.server is not None:
            sent = {*first.uploads, *(row["input"] for row in filler.prepared.uploads)}
            return dry_run.rejection(filler.server, first.graph, workflow=workflow, sent=sent)
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

    From runs with the same decisive values on these servers: `seconds_each` and `seconds`. From others a range,
    `seconds_least` to `seconds_most`, which `basis` calls a guide.
    """
    rows = times.recall(ready[0].prepared.graph)
    each = _from_same(ready, rows)
    if each is None:
        servers = [(filler, filler.server) for filler in ready if filler.server is not None]
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
    """Seconds a run on average, when runs like each of the plan's are known on one of the servers at least."""
    known: dict[str, list[float]] = {}
    hosts = {times.host_of(filler) for filler in ready}
    for row in rows:
        if row.host in hosts:
            known.setdefault(row.weight, []).append(_median(row.seconds))
    weights = _weights(ready[0]) if known else {}
    if not weights or not weights.keys() <= known.keys():
        return None
    total = sum(count * sum(known[key]) / len(known[key]) for key, count in weights.items())
    return total / sum(weights.values())


def _weights(filler: Filler) -> dict[str, int]:
    """How many of a plan's runs (some, spread over it) have which decisive values."""
    plan, axes = filler.recipe.plan, times.decisive_axes(filler)
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
            return {}  # a value that only another server takes
        weight = times.weight(filler, graph)
        weights[weight] = weights.get(weight, 0) + counts[key]
    return weights


def _in_history(filler: Filler, server: Dialect) -> list[Times]:
    """Runs of such a graph in the server's own history."""
    wanted = times.shape(filler.prepared.graph)
    found: dict[str, list[float]] = {}
    try:
        for job in server.list_jobs(LOOKED_AT):
            if job.phase != "done" or job.outcome != "success":
                continue
            state = server.state(job.prompt_id)
            if state.graph and state.started and state.ended and times.shape(state.graph) == wanted:
                weight = times.weight(filler, state.graph)
                found.setdefault(weight, []).append(max(state.ended - state.started, 0.0))
    except SkillError:
        pass  # a server that tells no history; what is known from elsewhere must do
    host = times.host_of(filler)
    return [Times(host, weight, seconds) for weight, seconds in found.items()]


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


__all__ = ["estimate", "preview"]
