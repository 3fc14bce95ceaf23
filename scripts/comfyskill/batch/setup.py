"""Before the first run of a batch: what the servers lack, consent, and the plan as the journal keeps it.

All refusals happen here, before anything is sent.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comfyskill.base import cli, paths, safe_files, safe_text
from comfyskill.base.cli import Exit, Misuse, SkillError
from comfyskill.batch.fill import Filler, Recipe
from comfyskill.batch.plan import Axis, Plan
from comfyskill.run.prepare import Wishes
from comfyskill.server.protocol import Dialect
from comfyskill.source import read

# Paid runs allowed without consent.
FEW_PAID_RUNS = 5


def fillers(
    recipe: Recipe, servers: Sequence[Dialect], *, dry_run: bool = False
) -> tuple[list[Filler], list[str]]:
    """A filler for each server that can run this graph, and notes about those that cannot.

    A value that only some servers take (a model that one of them has) is left to those. Raises SkillError when no
    server takes a value, or when no server can run the graph (`rejected`, with what is missing).
    """
    able: list[Filler] = []
    notes: list[str] = []
    first_error: SkillError | None = None
    for server in servers:
        try:
            filler = Filler(recipe, server, dry_run=dry_run)
            why = filler.lacks() if len(servers) > 1 else None
            if missing := filler.missing_classes():
                raise _lacks(server, missing)
            if why:
                raise SkillError(why, code="rejected", exit=Exit.REJECTED, status="rejected")
        except SkillError as error:
            if len(servers) == 1:
                raise
            first_error = first_error or error
            notes.append(f"{server.url} is not used: {error.message}")
            cli.warn(notes[-1])
            continue
        able.append(filler)
    if not able:
        assert first_error is not None
        raise first_error
    bad = [filler.bad_values() for filler in able]
    nowhere = set(bad[0]).intersection(*bad[1:])
    if nowhere:
        raise bad[0][min(nowhere)]
    return able, notes + _first_notes(able)


def _first_notes(able: Sequence[Filler]) -> list[str]:
    """Notes of the first run from a server that takes its values."""
    last: SkillError | None = None
    for filler in able:
        try:
            return filler.check()
        except SkillError as error:
            last = error
    assert last is not None
    raise last


def _lacks(server: Dialect, missing: list[str]) -> SkillError:
    return SkillError(
        f"{server.url} lacks node classes of this workflow: {safe_text.quoted_list(missing)}", code="rejected",
        exit=Exit.REJECTED, status="rejected", hint="run scripts/check_deps.py to see which node packs they belong to",
        missing_nodes=missing[:50],
    )  # fmt: skip


def need_consent(plan: Plan, ready: Sequence[Filler], *, yes_spend: bool, max_runs: int) -> None:
    """Raises SkillError (exit 7) for paid nodes, for many runs on a paid service, and for more runs than allowed."""
    if plan.count > max_runs:
        raise SkillError(
            f"this plan has {plan.count} runs, more than --max-runs {max_runs}", code="consent_needed",
            hint=f"take a part with --limit, or agree with --max-runs {plan.count}", flag=f"--max-runs {plan.count}",
            runs=plan.count,
        )  # fmt: skip
    if yes_spend:
        return
    paying = [filler for filler in ready if filler.prepared.partner]
    if paying:
        from comfyskill.run import spending

        nodes = {node for filler in paying for node in filler.prepared.partner}
        prepared = paying[0].prepared._replace(partner=sorted(nodes))
        servers = [filler.server for filler in paying if filler.server is not None]
        raise spending.consent_needed(
            prepared, servers, f"{plan.count} runs would each call", runs=plan.count
        )
    paid = [filler.server.url for filler in ready if filler.server is not None and is_paid(filler.server)]
    if paid and plan.count > FEW_PAID_RUNS:
        raise SkillError(
            f"{plan.count} runs on {paid[0]} cost credits", code="consent_needed",
            hint="ask the user, then add --yes-spend", flag="--yes-spend", runs=plan.count,
        )  # fmt: skip


def is_paid(server: Dialect) -> bool:
    """Whether runs on this server cost credits by themselves: the cloud and deployments, not a proxy at home."""
    if server.api == "cloud":
        return True
    return server.api == "v2" and getattr(server, "surface", "") in ("cloud", "deployment")


def plan_line(recipe: Recipe, name: str | None, files: Sequence[Path] = ()) -> dict[str, Any]:
    """The first line of the journal: all that --resume and --report need, and no key. `files`: what the runs send."""
    source, wishes = recipe.source, recipe.wishes
    return {
        "version": 1,
        "made": round(time.time(), 3),
        "plan": recipe.plan.to_json(),
        "count": recipe.plan.count,
        "workflow": {
            "origin": source.origin,
            "graph": source.graph,
            "editor": source.editor,
            "digest": digest_of(source.graph),
        },
        "wishes": {
            "settings": dict(wishes.settings),
            "files": [list(item) for item in wishes.files],
            "loras": list(wishes.loras),
            "force_links": sorted(wishes.force_links),
            "validate": wishes.validate,
            "randomize_seed": wishes.randomize_seed,
            "invert_mask": wishes.invert_mask,
            "tiled_vae": wishes.tiled_vae,
        },
        "name": name,
        "input_digests": sorted({safe_files.digest(path) for path in files}),
    }


def rooted(filler: Filler) -> Recipe:
    """The recipe with the whole paths of its input files: a batch may be resumed from another folder."""
    source, wishes, plan = filler.recipe
    axes = tuple(_rooted_axis(filler, axis) for axis in plan.axes)
    files = [
        (name, path if path.startswith("output:") else str(paths.absolute(path)), kind)
        for name, path, kind in wishes.files
    ]
    wishes = wishes._replace(settings=filler.rooted(wishes.settings), files=files)
    return Recipe(source, wishes, Plan(axes, plan.key, plan.limit, plan.shuffled))


def _rooted_axis(filler: Filler, axis: Axis) -> Axis:
    if not filler.takes_files(axis.names):
        return axis
    steps = [filler.rooted(axis.at(step)) for step in range(len(axis))]
    return Axis(axis.kind, axis.names, [[row.get(name) for name in axis.names] for row in steps])


def recipe_from(line: Mapping[str, Any]) -> Recipe:
    """The recipe that a plan line holds. Raises SkillError (exit 2) when it has been tampered with."""
    try:
        workflow, wishes = line["workflow"], line["wishes"]
        graph = workflow["graph"]
        if digest_of(graph) != workflow["digest"]:
            raise ValueError("the graph does not match its digest")
        source = read.Source(graph, workflow.get("editor"), str(workflow["origin"]), False, [], [], [])
        files = [(str(name), str(path), str(kind)) for name, path, kind in wishes["files"]]
        kept = Wishes(
            dict(wishes["settings"]), files, [str(lora) for lora in wishes["loras"]], frozenset(wishes["force_links"]),
            bool(wishes["validate"]), bool(wishes["randomize_seed"]), bool(wishes["invert_mask"]),
            bool(wishes.get("tiled_vae")), frozenset(str(digest) for digest in line.get("input_digests") or ()),
        )  # fmt: skip
        plan = Plan.from_json(line["plan"])
        uuid.UUID(plan.key)  # the prompt ids are made from it
        if plan.count != line["count"]:
            raise ValueError("the plan has another number of runs")
        return Recipe(source, kept, plan)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Misuse(
            f"the plan in the journal cannot be read ({safe_text.quoted(error)})",
            code="no_batch",
            hint="it was changed by hand or by a newer version; start a new batch",
        ) from error


def digest_of(graph: Any) -> str:
    """A digest of a graph that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(graph, sort_keys=True).encode()).hexdigest()


def refuse_changed(line: Mapping[str, Any], now: read.Source) -> None:
    """Raises SkillError (exit 2) when the workflow is no longer the one that the batch began with."""
    if digest_of(now.graph) != line["workflow"]["digest"]:
        raise Misuse(
            f"the workflow ({now.origin}) has changed since this batch began", code="workflow_changed",
            hint="start a new batch in another --output-dir, or restore the old workflow",
        )  # fmt: skip


__all__ = ["fillers", "need_consent", "plan_line", "recipe_from", "refuse_changed", "rooted"]
