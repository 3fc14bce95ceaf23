"""The results of a batch, row by row, from its journal alone; and results.csv."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document
from comfyskill.batch import journal
from comfyskill.batch.plan import OUTPUT_COLUMN, Axis, Plan, is_media
from comfyskill.batch.recipe import Recipe

# A backslash or a colon would make a name a share, a drive or an address.
NEVER_IN_NAMES = "\\:\0"
FORMULA_SIGNS = frozenset("=+-@")
# What the journal calls differently than people do.
STATUS_SHOWN = {"planned": "not_run", "submitted": "not_run", "finished": "not_fetched"}


class Row(NamedTuple):
    """One run. `steps`: its step on each axis. `files` as the journal lists them, relative to the folder."""

    run: int
    steps: tuple[int, ...]
    values: Document
    status: str
    seeds: Mapping[str, int] = {}
    seconds: float | None = None
    host: str | None = None
    prompt_id: str | None = None
    attempt: int = 0
    files: Sequence[Mapping[str, object]] = ()
    texts: Sequence[Mapping[str, object]] = ()
    code: str | None = None
    message: str | None = None
    paths: Mapping[str, object] = {}  # the full paths of input files, which `values` shortens

    @property
    def seed(self) -> int | None:
        """The run's seed, when all its seeds are one number."""
        seeds = set(self.seeds.values())
        return seeds.pop() if len(seeds) == 1 else None


class Results(NamedTuple):
    """A batch that was read back. `demo`: made by the demo server. `plan`: with input files named for people."""

    folder: Path
    plan: Plan
    origin: str
    made: float
    demo: bool
    rows: list[Row]
    outside: int = 0  # files outside the folder, which are left out

    def count(self, status: str) -> int:
        """How many runs have this status."""
        return sum(row.status == status for row in self.rows)


def read(folder: Path) -> Results:
    """The results in a folder. Raises SkillError (exit 2) when it holds no batch."""
    recorded = journal.read(folder)
    recipe = Recipe.from_line(recorded.plan)
    plan = _for_people(recipe.plan)
    home = folder.resolve()
    outside = 0
    for record in recorded.runs.values():
        kept = [item for item in record.files if _is_inside(home, item.get("file"))]
        outside += len(record.files) - len(kept)
        record.files = kept
    rows = [_row(plan, run, recorded.runs.get(run)) for run in range(plan.count)]
    if plan is not recipe.plan:
        rows = [row._replace(paths=recipe.plan.values(row.run)) for row in rows]
    demo = recorded.plan.get("demo") is True or "demo" in foreign.items(recorded.plan.get("hosts"))
    return Results(
        folder, plan, recipe.source.origin, float(recorded.plan.get("made") or 0), demo, rows, outside
    )


def _is_inside(home: Path, name: object) -> bool:
    """Whether a file of the journal is inside the folder, links followed, and has a name that a batch would write."""
    if not isinstance(name, str) or not name or set(name) & set(NEVER_IN_NAMES) or name.startswith("/"):
        return False
    try:
        return (home / name).resolve().is_relative_to(home)
    except (OSError, ValueError, RuntimeError):  # too long, or a link to itself
        return False


def _for_people(plan: Plan) -> Plan:
    """The plan with input files named relative to their common folder, so that labels show what differs."""
    axes = tuple(_shorter(axis) for axis in plan.axes)
    return plan if axes == plan.axes else replace(plan, axes=axes)


def _shorter(axis: Axis) -> Axis:
    if not isinstance(axis.rows, list):
        return axis
    steps = [axis.at(step) for step in range(len(axis))]
    shared: dict[str, str] = {}
    for name in axis.names:
        folders = [str(path.parent) for row in steps if (path := _input_path(row.get(name))) is not None]
        with contextlib.suppress(ValueError):  # none, or on several drives
            shared[name] = os.path.commonpath(folders)
    if not shared:
        return axis
    return axis.with_steps(
        [{name: _below(shared, name, row.get(name)) for name in axis.names} for row in steps]
    )


def _below(shared: Mapping[str, str], name: str, value: object) -> object:
    path = _input_path(value)
    return value if path is None or name not in shared else path.relative_to(shared[name]).as_posix()


def _input_path(value: object) -> Path | None:
    path = Path(value) if isinstance(value, str) else None
    return path if path is not None and path.is_absolute() and is_media(path) else None


def _row(plan: Plan, run: int, record: journal.RunRecord | None) -> Row:
    values = {name: value for name, value in plan.values(run).items() if name != OUTPUT_COLUMN}
    if record is None:
        return Row(run, plan.steps(run), values, "not_run")
    facts = record.facts
    status = STATUS_SHOWN.get(record.status, record.status)
    failed = status not in ("success", "not_run", "not_fetched")
    return Row(
        run,
        plan.steps(run),
        values,
        status,
        seeds=foreign.mapping(facts.get("seeds")),
        seconds=foreign.number(facts.get("seconds")),
        host=record.host,
        prompt_id=record.prompt_id,
        attempt=record.attempt,
        files=record.files,
        texts=foreign.mappings(facts.get("texts")),
        code=str(facts["code"]) if failed and facts.get("code") else None,
        message=_reason(facts) if failed and facts.get("message") else None,
    )


def _reason(facts: Mapping[str, object]) -> str:
    """Why a run failed, for people: our message and the server's."""
    said = facts.get("server_said")
    return f"{facts['message']}: {said}" if said else str(facts["message"])


def table(results: Results) -> bytes:
    """results.csv: one row per run; texts that a spreadsheet would read as a formula are quoted."""
    names = list(dict.fromkeys(name for name in results.plan.names if name != OUTPUT_COLUMN))
    addresses = list(dict.fromkeys(address for row in results.rows for address in row.seeds))
    single = all(row.seed is not None for row in results.rows if row.seeds)
    seed_columns = (["seed"] if addresses and "seed" not in names else []) if single else addresses
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rest = ["status", "seconds", "files", "host", "prompt_id", "attempts", "code", "message"]
    writer.writerow([_cell(name) for name in ["run", *names, *seed_columns, *rest]])
    for row in results.rows:
        seeds = [row.seed if column == "seed" else row.seeds.get(column) for column in seed_columns]
        files = ";".join(str(item.get("file")) for item in row.files)
        cells = [
            row.run, *(row.paths.get(name, row.values.get(name)) for name in names), *seeds, row.status, row.seconds,
            files, row.host, row.prompt_id, row.attempt or None, row.code, row.message,
        ]  # fmt: skip
        writer.writerow([_cell(cell) for cell in cells])
    return safe_text.redact(out.getvalue()).encode("utf-8", "replace")


def _cell(value: object) -> object:
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = safe_text.clean(value)
    return f"'{text}" if _is_formula(text) and not _is_number(text) else text


def _is_formula(text: str) -> bool:
    """Whether a spreadsheet may compute it: full-width signs count like plain ones, leading blanks are ignored."""
    begin = unicodedata.normalize("NFKC", text.lstrip()[:1])
    return text[:1] in ("\t", "\r", "\n") or begin in FORMULA_SIGNS


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
