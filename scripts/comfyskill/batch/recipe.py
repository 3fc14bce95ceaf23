"""What all runs of a batch share, and its form in the journal: the workflow, the constant values, the plan."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from comfyskill.base import safe_files, safe_text
from comfyskill.base.cli import Document, Misuse
from comfyskill.batch.plan import Plan
from comfyskill.run import prepare
from comfyskill.server.protocol import Graph
from comfyskill.source import read


class Recipe(NamedTuple):
    """The workflow, the values that do not vary, and the plan of those that do."""

    source: read.Source
    wishes: prepare.Wishes
    plan: Plan

    @staticmethod
    def from_line(line: Mapping[str, object]) -> Recipe:
        """The recipe in a journal's plan line. Raises SkillError (exit 2) when the line was changed by hand."""
        try:
            return _read(dict(line))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Misuse(
                f"the plan in the journal cannot be read ({safe_text.quoted(error)})",
                code="no_batch",
                hint="it was changed by hand or by a newer version; start a new batch",
            ) from error

    def constant(self) -> prepare.Wishes:
        """The wishes that do not vary; fresh seeds are drawn for each run instead."""
        return self.wishes._replace(randomize_seed=False)

    def plan_line(self, name: str | None, files: Sequence[Path] = ()) -> Document:
        """The first line of the journal: all that --resume and --report need, and no key. `files`: what the runs send."""
        source, wishes = self.source, self.wishes
        return {
            "version": 1,
            "made": round(time.time(), 3),
            "plan": self.plan.to_json(),
            "count": self.plan.count,
            "workflow": {
                "origin": source.origin,
                "graph": source.graph,
                "editor": source.editor,
                "digest": _digest(source.graph),
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

    def refuse_changed(self, now: read.Source) -> None:
        """Raises SkillError (exit 2) when the workflow is no longer the one that the batch began with."""
        if _digest(now.graph) != _digest(self.source.graph):
            raise Misuse(
                f"the workflow ({now.origin}) has changed since this batch began", code="workflow_changed",
                hint="start a new batch in another --output-dir, or restore the old workflow",
            )  # fmt: skip


def _read(line: Document) -> Recipe:
    """See `Recipe.from_line`. Raises KeyError, TypeError, ValueError or AttributeError."""
    workflow, wishes = line["workflow"], line["wishes"]
    graph = workflow["graph"]
    if _digest(graph) != workflow["digest"]:
        raise ValueError("the graph does not match its digest")
    source = read.Source(graph, workflow.get("editor"), str(workflow["origin"]), False, [], [], [])
    kept = prepare.Wishes(
        settings=dict(wishes["settings"]),
        files=[(str(name), str(path), str(kind)) for name, path, kind in wishes["files"]],
        loras=[str(lora) for lora in wishes["loras"]],
        force_links=frozenset(wishes["force_links"]),
        validate=bool(wishes["validate"]),
        randomize_seed=bool(wishes["randomize_seed"]),
        invert_mask=bool(wishes["invert_mask"]),
        tiled_vae=bool(wishes.get("tiled_vae")),
        # What a journal names is sent only when its content is known.
        known_files=frozenset(str(digest) for digest in line.get("input_digests") or ()),
    )
    plan = Plan.from_json(line["plan"])
    uuid.UUID(plan.key)  # the prompt ids are made from it
    if plan.count != line["count"]:
        raise ValueError("the plan has another number of runs")
    return Recipe(source, kept, plan)


def _digest(graph: Graph) -> str:
    """A digest of a graph that does not depend on the order of keys."""
    return hashlib.sha256(json.dumps(graph, sort_keys=True).encode()).hexdigest()
