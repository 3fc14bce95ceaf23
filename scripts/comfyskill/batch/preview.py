"""What --dry-run shows of a batch: the plan, what is wrong with its first run, and how long it may take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from comfyskill.base import safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.batch.ends import times_host
from comfyskill.batch.fill import Filler
from comfyskill.batch.plan import Plan
from comfyskill.batch.recipe import Recipe
from comfyskill.run import times

MOST_SHOWN = 10
# Finished jobs of a server's history that are read for their times.
MOST_JOBS = 8
# Runs of a plan, evenly spread, that the estimate is made from.
MOST_SAMPLED = 200


def preview(recipe: Recipe, ready: Sequence[Filler], notes: Sequence[str], workflow: str) -> Document:
    """The plan with its count, its first runs, problems of the first one and, when such a graph has run, an estimate."""
    plan = recipe.plan
    document: Document = {
        "status": "dry_run",
        "runs": plan.count,
        "combinations": plan.total,
        "axes": [{"kind": axis.kind, "names": list(axis.names), "steps": len(axis)} for axis in plan.axes],
        "first_runs": [_shown(ready[0], plan, run) for run in range(min(MOST_SHOWN, plan.count))],
        "workflow": recipe.source.origin,
        "hosts": [filler.server.url for filler in ready],
    }
    if notes:
        document["warnings"] = list(notes)
    partner = sorted({node for filler in ready for node in filler.prepared.partner})
    if partner:
        document["partner_nodes"] = partner
    document |= _rejection(recipe, ready, workflow)
    guess = estimate(recipe, ready)
    return document | ({"estimate": guess} if guess else {})


def _rejection(recipe: Recipe, ready: Sequence[Filler], workflow: str) -> Document:
    """The rejection of the first run by the first server that accepts its values; empty when it is accepted."""
    from comfyskill.run import submit

    for filler in ready if recipe.wishes.validate else ():
        try:
            first = filler.try_values(recipe.plan.values(0))
        except SkillError:
            continue  # a value that only another server accepts
        sent = {*first.uploads, *(row["input"] for row in filler.prepared.uploads)}
        return submit.rejection(filler.server, first.graph, workflow=workflow, sent=sent)
    return {}


def _shown(filler: Filler, plan: Plan, run: int) -> Document:
    """One run of a plan, for people."""
    values = {
        name: safe_text.clean(value, 200) if isinstance(value, str) else value
        for name, value in filler.typed(plan.values(run)).items()
    }
    return {"run": run, **values}


def estimate(recipe: Recipe, ready: Sequence[Filler]) -> Document | None:
    """How long all runs would take together; None when no run of such a graph is known.

    From runs with the same decisive values on these servers: `seconds_each` and `seconds`. From other runs: a
    range, `seconds_least` to `seconds_most`, which `basis` calls a guide.
    """
    rows = times.recall(ready[0].prepared.graph)
    each = _from_same(ready, rows)
    if each is None:
        rows += [row for filler in ready for row in _in_history(filler)]
        each = _from_same(ready, rows)
    if not rows:
        return None
    share = recipe.plan.count / len(ready)
    if each is not None:
        return {
            "seconds_each": round(each, 2), "seconds": round(each * share, 1), "words": times.spoken(each * share),
            "basis": "earlier runs with the same values",
        }  # fmt: skip
    usual = [_median(row.seconds) for row in rows]
    least, most = min(usual) * share, max(usual) * share
    return {
        "seconds_least": round(least, 1),
        "seconds_most": round(most, 1),
        "words": times.spoken(least)
        if times.spoken(least) == times.spoken(most)
        else f"{times.spoken(least)} to {times.spoken(most)}",
        "basis": "earlier runs of this graph with other values or on another server: only a guide",
    }


def _from_same(ready: Sequence[Filler], rows: Sequence[times.Times]) -> float | None:
    """Average seconds per run, when a run like each of the plan's is known on at least one server."""
    known: dict[str, list[float]] = {}
    hosts = {times_host(filler.server) for filler in ready}
    for row in rows:
        if row.host in hosts:
            known.setdefault(row.weight, []).append(_median(row.seconds))
    weights = _weights(ready[0]) if known else {}
    if not weights or not weights.keys() <= known.keys():
        return None
    total = sum(count * sum(known[key]) / len(known[key]) for key, count in weights.items())
    return total / sum(weights.values())


def _weights(filler: Filler) -> Counter[str]:
    """How many of a sample of the plan's runs have which deciding values (see `times.weight`)."""
    plan = filler.recipe.plan
    try:
        return Counter(
            times.weight(filler.try_values(plan.values(run), run).graph)
            for run in range(0, plan.count, max(plan.count // MOST_SAMPLED, 1))
        )
    except SkillError:
        return Counter()  # a value that only another server accepts


def _in_history(filler: Filler) -> list[times.Times]:
    """Runs of such a graph in the server's own history."""
    server = filler.server.live
    if server is None:
        return []
    wanted = times.form(filler.prepared.graph)
    found: dict[str, list[float]] = {}
    try:
        for job in server.list_jobs(MOST_JOBS):
            if job.phase != "done" or job.outcome != "success":
                continue
            state = server.state(job.prompt_id)
            if state.graph and state.started and state.ended and times.form(state.graph) == wanted:
                heaviness = times.weight(state.graph)
                found.setdefault(heaviness, []).append(max(state.ended - state.started, 0.0))
    except SkillError:
        pass  # this server gives no history; use what other sources know
    host = times_host(filler.server)
    return [times.Times(host, weight, seconds) for weight, seconds in found.items()]


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
