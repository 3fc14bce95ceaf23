"""Graphs for the runs of a batch on one server: parameters are found once, then each run's values are put in.

Each different file content is uploaded to the server once.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from comfyskill.base import paths, safe_text
from comfyskill.base.cli import Document, Misuse, SkillError
from comfyskill.batch.plan import OUTPUT_COLUMN, Axis, CommaList
from comfyskill.batch.recipe import Recipe
from comfyskill.graph import fill as graph_fill
from comfyskill.graph import nodes, parameters
from comfyskill.run import prepare
from comfyskill.server import node_definitions
from comfyskill.server.facts import Facts
from comfyskill.server.protocol import NodeDefinitions

if TYPE_CHECKING:
    from comfyskill.run.inputs import Uploader

# Values of an axis that are checked before the first run; the others are checked when they run.
MOST_CHECKED = 2000


class Filler:
    """Fills the graph for one server. Raises SkillError (exit 2) at once when a constant does not fit."""

    def __init__(self, recipe: Recipe, server: Facts, *, dry_run: bool = False) -> None:
        self.recipe = recipe
        self.server = server
        self.prepared = prepare.prepare(recipe.source, recipe.constant(), server, dry_run=dry_run)
        self.definitions = self._definitions()
        self.parameters = parameters.find(self.prepared.graph, self.definitions)
        self._fixed = {(item["node_id"], item["input"]) for item in self.prepared.changes}
        self._file_names = self._names_that_take_files()
        self._refuse_lost_files()

    @cached_property
    def _uploader(self) -> Uploader:
        return self._new_uploader(self.server)

    @cached_property
    def _trial_uploader(self) -> Uploader:
        return self._new_uploader(None)

    def _new_uploader(self, server: Facts | None) -> Uploader:
        """Uploads files to a server; with None it only checks them."""
        from comfyskill.run import inputs

        wishes = self.recipe.wishes
        return inputs.Uploader(
            server, dry_run=server is None, invert_mask=wishes.invert_mask, known=wishes.known_files
        )

    def _definitions(self) -> NodeDefinitions | None:
        classes = node_definitions.classes_of(self.prepared.graph)
        found = node_definitions.of_classes(self.server, classes)
        return None if found is None else {name: found[name] for name in classes if name in found}

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

    def rooted_recipe(self) -> Recipe:
        """The recipe with the whole paths of its input files: a batch may be resumed from another folder."""
        source, wishes, plan = self.recipe
        files = [
            (name, path if path.startswith("output:") else str(paths.absolute(path)), kind)
            for name, path, kind in wishes.files
        ]
        wishes = wishes._replace(settings=self._rooted(wishes.settings), files=files)
        return Recipe(source, wishes, replace(plan, axes=tuple(map(self._rooted_axis, plan.axes))))

    def _rooted_axis(self, axis: Axis) -> Axis:
        if self._file_names.isdisjoint(axis.names):
            return axis
        return axis.with_steps([self._rooted(axis.at(step)) for step in range(len(axis))])

    def _rooted(self, values: Mapping[str, object]) -> Document:
        """The values, local files by their absolute path."""
        return {
            name: str(paths.absolute(str(value)))
            if _is_local_file(value) and self._takes_files(name)
            else value
            for name, value in values.items()
        }

    def input_files(self) -> list[Path]:
        """The local files that the runs of this plan name, each once."""
        wishes, plan = self.recipe.wishes, self.recipe.plan
        values: list[object] = [str(paths.expanded(path)) for _, path, _ in wishes.files]
        values += [
            value
            for name, value in wishes.settings.items()
            if _is_local_file(value) and self._takes_files(name)
        ]
        for axis in plan.axes:
            taking = [name for name in axis.names if name in self._file_names]
            values += [axis.at(step).get(name) for step in range(len(axis)) for name in taking]
        return list(dict.fromkeys(paths.absolute(str(value)) for value in values if _is_local_file(value)))

    def missing_classes(self) -> list[str]:
        """Node classes of the graph that this server lacks; empty when it cannot be asked."""
        if self.definitions is None:
            return []
        graph = nodes.with_missing_types(self.prepared.graph)
        classes = {nodes.class_of(node) for _, node in nodes.each(graph)}
        return sorted(classes - self.definitions.keys())

    def fill(self, run: int) -> graph_fill.Filled:
        """The graph of one run, its files uploaded. Raises SkillError for values that this server does not take."""
        return self._filled(self.recipe.plan.values(run), run, self._uploader)

    def try_values(self, values: Mapping[str, object], run: int = 0) -> graph_fill.Filled:
        """The graph with these values; nothing is uploaded. Raises as `fill`."""
        return self._filled(values, run, self._trial_uploader)

    def _filled(self, values: Mapping[str, object], run: int, uploader: Uploader) -> graph_fill.Filled:
        """`run` decides the fresh seeds, the same on every resume."""
        settings = {name: value for name, value in values.items() if name != OUTPUT_COLUMN}
        uploaded: set[str] = set()
        sent: list[Document] = []
        if self._file_names & settings.keys():
            wishes = self.recipe.constant()._replace(settings=settings, files=())
            settings, sent, uploaded = prepare.upload_inputs(
                self.prepared.graph, wishes, self.definitions, uploader
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

    def _refuse_overlap(self, filled: graph_fill.Filled, sent: Iterable[Mapping[str, object]]) -> None:
        # An uploaded file is set by its address; a mask is painted into the picture that stays the same.
        varied = {*self.recipe.plan.names} | {
            row["input"] for row in sent if graph_fill.painted_mask(self.parameters, str(row["name"])) is None
        }
        for change in filled.changes:
            if (change["node_id"], change["input"]) in self._fixed and change["name"] in varied:
                raise Misuse(
                    f"{change['name']!r} varies an input that --set or --args sets too", code="set_twice",
                    hint="omit one of them",
                )  # fmt: skip

    def missing_choice(self) -> str | None:
        """A listed value of the graph (a model) that this server lacks, in a sentence; None when it has them all."""
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
        first = self.try_values(self.recipe.plan.values(0))
        return [*self._torn_texts(), *self._repeats(first.graph), *first.notes]

    def _repeats(self, graph: Mapping[str, object]) -> list[str]:
        """A note when no seed varies among the runs of --count, so that all give the same result."""
        plan = self.recipe.plan
        times = max((len(axis) for axis in plan.axes if axis.kind == "count"), default=1)
        if times < 2 or plan.count < 2 or self.try_values(plan.values(0), 1).graph != graph:
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

    def typed(self, values: Mapping[str, object]) -> Document:
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
        first = plan.values(0)
        bad = {}
        for number, axis in enumerate(plan.axes):
            for step in self.steps_to_check(number) if axis.names else []:
                try:
                    self.try_values(first | axis.at(step))
                except SkillError as error:
                    kind = "table row" if axis.kind == "table" else f"{axis.kind} value"
                    placed = "at" in error.details
                    bad[number, step] = error if placed else error.but(at=f"{kind} {step + 1}")
        return bad

    def steps_to_check(self, number: int) -> list[int]:
        """The first steps of an axis that this plan reaches, and the last one."""
        plan = self.recipe.plan
        axis = plan.axes[number]
        below = math.prod(len(other) for other in plan.axes[number + 1 :])
        reached = len(axis) if plan.shuffled else min(len(axis), (plan.count - 1) // below + 1)
        return [*range(min(reached, MOST_CHECKED)), *([reached - 1] if reached > MOST_CHECKED else [])]

    def _refuse_lost_files(self) -> None:
        """A folder of files must go into an input that takes files."""
        for axis in self.recipe.plan.axes:
            if axis.kind == "files" and axis.names[0] not in self._file_names:
                raise Misuse(
                    f"{axis.names[0]!r} does not take an uploaded file",
                    code="not_an_upload",
                    hint="--into names the input; scripts/extract_schema.py shows which inputs take files",
                )


def _is_local_file(value: object) -> bool:
    return isinstance(value, str) and not value.startswith("output:") and prepare.may_be_file(value)
