"""Graphs for the runs of a batch on one server: parameters are found once, then each run's values are put in.

Each different file content is uploaded to the server once.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from comfyskill.base import paths, safe_text
from comfyskill.base.cli import Misuse, SkillError
from comfyskill.batch.plan import OUTPUT_COLUMN, CommaList, Plan
from comfyskill.graph import fill as graph_fill
from comfyskill.graph import nodes, parameters
from comfyskill.run import prepare
from comfyskill.server import node_definitions
from comfyskill.server.protocol import Dialect
from comfyskill.source import read

if TYPE_CHECKING:
    from comfyskill.run.inputs import Uploader

# Values of an axis that are checked before the first run; the others are checked when they run.
MOST_CHECKED = 2000


class Recipe(NamedTuple):
    """What all runs of a batch share: the workflow, the constant wishes, and the plan."""

    source: read.Source
    wishes: prepare.Wishes
    plan: Plan

    def constant(self) -> prepare.Wishes:
        """The wishes that do not vary; fresh seeds are drawn for each run instead."""
        return self.wishes._replace(randomize_seed=False)


def _is_local_file(value: Any) -> bool:
    return isinstance(value, str) and not value.startswith("output:") and prepare.may_be_file(value)


class Filler:
    """Fills the graph for one server. Raises SkillError (exit 2) at once when a constant does not fit."""

    def __init__(self, recipe: Recipe, server: Dialect | None, *, dry_run: bool = False) -> None:
        self.recipe = recipe
        self.server = server
        self.dry_run = dry_run
        self.prepared = prepare.prepare(recipe.source, recipe.constant(), server, dry_run=dry_run)
        self.definitions = self._definitions()
        self.parameters = parameters.find(self.prepared.graph, self.definitions)
        self._fixed = {(item["node_id"], item["input"]) for item in self.prepared.changes}
        self._file_names = self._names_that_take_files()
        self._refuse_lost_files()

    @cached_property
    def _uploader(self) -> Uploader:
        from comfyskill.run import inputs

        wishes = self.recipe.wishes
        return inputs.Uploader(
            self.server, dry_run=self.dry_run, invert_mask=wishes.invert_mask, known=wishes.known_files
        )

    def _definitions(self) -> Mapping[str, Any] | None:
        if self.server is None:
            return None
        classes = node_definitions.classes_of(self.prepared.graph)
        found = node_definitions.of_classes(self.server, classes)
        if found is None:
            return None
        return {name: found[name] for name in classes if name in found}

    def _names_that_take_files(self) -> frozenset[str]:
        names = [name for name in self.recipe.plan.names if name != OUTPUT_COLUMN]
        return frozenset(name for name in names if self._takes_files(name))

    def _takes_files(self, name: str) -> bool:
        """Whether this name sets an input that takes files."""
        if name == "mask":
            return True
        if name == "size":
            return False
        return any(parameter.upload for parameter in self.parameters.resolve(name))

    def takes_files(self, names: Iterable[str]) -> bool:
        """Whether one of these names of the plan sets an input that takes files."""
        return not self._file_names.isdisjoint(names)

    def rooted(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values, local files by their absolute path."""
        return {
            name: str(paths.absolute(value)) if _is_local_file(value) and self._takes_files(name) else value
            for name, value in values.items()
        }

    def input_files(self) -> list[Path]:
        """The local files that the runs of this plan name, each once."""
        wishes, plan = self.recipe.wishes, self.recipe.plan
        values: list[Any] = [str(paths.expanded(path)) for _, path, _ in wishes.files]
        values += [
            value
            for name, value in wishes.settings.items()
            if _is_local_file(value) and self._takes_files(name)
        ]
        for axis in plan.axes:
            taking = [name for name in axis.names if name in self._file_names]
            values += [axis.at(step).get(name) for step in range(len(axis)) for name in taking]
        return list(dict.fromkeys(paths.absolute(value) for value in values if _is_local_file(value)))

    def missing_classes(self) -> list[str]:
        """Node classes of the graph that this server lacks; empty when it cannot be asked."""
        if self.definitions is None:
            return []
        graph = nodes.with_missing_types(self.prepared.graph)
        classes = {nodes.class_of(node) for _, node in nodes.each(graph)}
        return sorted(classes - self.definitions.keys())

    def fill(self, run: int) -> graph_fill.Filled:
        """The graph of one run. Raises SkillError for values that this server does not take."""
        return self.fill_values(self.recipe.plan.values(run), run)

    def fill_values(self, values: Mapping[str, Any], run: int) -> graph_fill.Filled:
        """The graph with these values; `run` decides its fresh seeds, the same on every resume."""
        settings = {name: value for name, value in values.items() if name != OUTPUT_COLUMN}
        uploaded: set[str] = set()
        sent: list[dict[str, Any]] = []
        if self._file_names & settings.keys():
            wishes = self.recipe.constant()._replace(settings=settings, files=())
            settings, sent, uploaded = prepare.upload_inputs(
                self.prepared.graph, wishes, self.definitions, self._uploader
            )
        filled = graph_fill.fill_found(
            self.parameters,
            settings,
            validate=self.recipe.wishes.validate,
            force_links=self.recipe.wishes.force_links,
            randomize_seed=self.recipe.wishes.randomize_seed,
            uploaded=uploaded,
            rng=lambda: random.Random(self.recipe.plan.number("seeds", run)),
        )
        self._refuse_overlap(filled, sent)
        return filled

    def _refuse_overlap(self, filled: graph_fill.Filled, sent: Iterable[Mapping[str, Any]]) -> None:
        # An uploaded file is set by its address; a mask is painted into the picture that stays the same.
        varied = {*self.recipe.plan.names} | {
            row["input"] for row in sent if graph_fill.painted_mask(self.parameters, row["name"]) is None
        }
        for change in filled.changes:
            if (change["node_id"], change["input"]) in self._fixed and change["name"] in varied:
                raise Misuse(
                    f"{change['name']!r} varies an input that --set or --args sets too", code="set_twice",
                    hint="omit one of them",
                )  # fmt: skip

    def lacks(self) -> str | None:
        """Why this server cannot run the graph: a missing node class or listed file; None when it can."""
        missing = self.missing_classes()
        if missing:
            return f"it lacks node classes: {safe_text.quoted_list(missing)}"
        if self.definitions is None:
            return None
        from comfyskill.graph import check as graph_check

        varied = {
            (parameter.node_id, parameter.input)
            for name in self.recipe.plan.names
            if name not in (OUTPUT_COLUMN, "size")
            for parameter in self.parameters.resolve(name)
        }
        for finding in graph_check.findings(self.prepared.graph, self.definitions, complete=False):
            place = (finding.node_id, finding.input)
            if finding.severity == "error" and finding.code == "not_in_list" and place not in varied:
                return finding.message
        return None

    def check(self) -> list[str]:
        """Notes about the plan and the first run."""
        first = self.trial().fill_values(self.recipe.plan.values(0), 0)
        return [*self._torn_texts(), *self._repeats(first.graph), *first.notes]

    def _repeats(self, graph: Mapping[str, Any]) -> list[str]:
        """A note when no seed varies among the runs of --count, so that all give the same result."""
        plan = self.recipe.plan
        times = max((len(axis) for axis in plan.axes if axis.kind == "count"), default=1)
        if times < 2 or plan.count < 2 or self.trial().fill_values(plan.values(0), 1).graph != graph:
            return []
        return [f"--count {times}: no seed varies, so these runs are identical and give the same pictures"]

    def _torn_texts(self) -> list[str]:
        """Texts that were split at their commas although they read like sentences."""
        return [
            f"--sweep {name}= was split at its commas into {len(axis)} texts, such as {safe_text.quoted(axis.rows[0])} and "
            f"{safe_text.quoted(axis.rows[1])}; for texts with commas use --prompts FILE (one per line) or "
            f'--sweep \'{name}=["a, b", "c"]\''
            for axis in self.recipe.plan.axes
            for name in axis.names
            if isinstance(axis.rows, CommaList) and axis.rows.torn and self._kind(name) == "STRING"
        ]

    def _kind(self, name: str) -> str | None:
        """The type of the input that a name sets; None for names that set none of their own."""
        if name in (OUTPUT_COLUMN, "size"):
            return None
        return self.parameters.resolve(name)[0].type

    def typed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of one run for showing: numbers as numbers where their input takes numbers."""
        shown = dict(values)
        for name, value in values.items():
            if isinstance(value, str) and self._kind(name) in ("INT", "FLOAT", "NUMBER"):
                with contextlib.suppress(ValueError):
                    shown[name] = int(value) if value.strip().lstrip("+-").isdigit() else float(value)
        return shown

    def bad_values(self) -> dict[tuple[int, int], SkillError]:
        """The values (axis, step) that this server does not take, among the first thousands of each axis."""
        plan = self.recipe.plan
        trial, first = self.trial(), plan.values(0)
        bad = {}
        for number, axis in enumerate(plan.axes):
            for step in self.steps_to_check(number) if axis.names else []:
                try:
                    trial.fill_values(first | axis.at(step), 0)
                except SkillError as error:
                    place = (
                        f"{axis.kind} value {step + 1}" if axis.kind != "table" else f"table row {step + 1}"
                    )
                    error.details.setdefault("at", place)
                    bad[number, step] = error
        return bad

    def steps_to_check(self, number: int) -> list[int]:
        """The first steps of an axis that this plan reaches, and the last one."""
        plan = self.recipe.plan
        axis = plan.axes[number]
        below = math.prod(len(other) for other in plan.axes[number + 1 :])
        reached = len(axis) if plan.shuffled else min(len(axis), (plan.count - 1) // below + 1)
        return [*range(min(reached, MOST_CHECKED)), *([reached - 1] if reached > MOST_CHECKED else [])]

    def trial(self) -> Filler:
        """A copy that uploads nothing, to try values."""
        trial = Filler.__new__(Filler)
        trial.__dict__ = self.__dict__ | {"server": None, "dry_run": True}
        trial.__dict__.pop("_uploader", None)
        return trial

    def _refuse_lost_files(self) -> None:
        """A folder of files must go into an input that takes files."""
        for axis in self.recipe.plan.axes:
            if axis.kind == "files" and axis.names[0] not in self._file_names:
                raise Misuse(
                    f"{axis.names[0]!r} does not take an uploaded file",
                    code="not_an_upload",
                    hint="--into names the input; scripts/extract_schema.py shows which inputs take files",
                )
