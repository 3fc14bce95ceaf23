"""A batch from parsed flags to its report: new and resumed ones, with their folder and pages."""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import _common
from comfyskill.base import file_names, paths
from comfyskill.base.cli import Misuse, SkillError
from comfyskill.batch import hosts, setup
from comfyskill.batch import journal as batch_journal
from comfyskill.batch import plan as batch_plan
from comfyskill.batch.fill import Filler, Recipe
from comfyskill.batch.flights import BatchOptions
from comfyskill.batch.journal import Recorded
from comfyskill.run import flags, job, submit
from comfyskill.run.prepare import Wishes

if TYPE_CHECKING:
    from comfyskill.server.facts import Facts
    from comfyskill.server.protocol import Dialect

# Runs that a server may have got within the second whose journal lines a power cut can take.
LOST_LINES = 200


class _Work(NamedTuple):
    """Everything that is decided before the first run."""

    folder: Path
    recipe: Recipe
    ready: list[Filler]
    notes: list[str]
    options: BatchOptions


def report(args: argparse.Namespace) -> tuple[dict[str, Any], Path | None]:
    """What run_batch.py prints, and the folder to make pages for (None: no pages).

    Raises SkillError for what must be corrected first; then nothing was sent."""
    return _resume(args) if args.resume else _begin(args)


def _begin(args: argparse.Namespace) -> tuple[dict[str, Any], Path | None]:
    """A new batch: plan, servers, consent, folder, runs."""
    wishes = flags.wishes(flags.ValueFlags.of(vars(args)))
    axes = _axes(args, wishes)
    servers, words = hosts.connect(args) if not args.inventory else _stand_in(args.inventory)
    source = _read(args, servers[0], allow_unsure=args.allow_unsure)
    counted, wishes = _count_axis(args, source, axes, wishes)
    axes += counted
    plan = batch_plan.Plan(tuple(axes), str(uuid.uuid4()), args.limit, args.shuffle)
    recipe = Recipe(source, wishes, plan)
    ready, notes = setup.fillers(recipe, servers, dry_run=args.dry_run)
    notes = [*source.warnings, *notes]
    _check_name(args.name, ready[0])
    if args.dry_run:
        from comfyskill.batch import times

        return times.preview(recipe, ready, notes, args.workflow), None
    setup.need_consent(plan, ready, yes_spend=args.yes_spend, max_runs=args.max_runs)
    default = Path("batches") / time.strftime("%Y%m%d-%H%M%S")
    folder = paths.absolute(args.output_dir or default)
    work = _Work(folder, recipe, ready, notes, _options(args, folder, ready, words))
    return _in_folder(args, work, None)


def _stand_in(path: str) -> tuple[list[Any], list[str]]:
    """An inventory instead of a server, for a dry run; same shape as `hosts.connect`."""
    from comfyskill.server import facts

    return [facts.load(paths.expanded(path))], []


def _resume(args: argparse.Namespace) -> tuple[dict[str, Any], Path | None]:
    """Continue the batch in a folder; the journal gives its plan, and its servers unless --host does."""
    folder = paths.absolute(args.resume)
    batch_journal.refuse_links(folder)
    recorded = batch_journal.read(folder)
    recipe = setup.recipe_from(recorded.plan)
    servers, words = hosts.connect(args, recorded.plan)
    _refuse_changed(args, recorded, servers[0])
    ready, notes = setup.fillers(recipe, servers)
    _check_name(args.name, ready[0])
    args.name = args.name or recorded.plan.get("name")
    work = _Work(folder, recipe, ready, notes, _options(args, folder, ready, words))
    setup.need_consent(
        recipe.plan, ready, yes_spend=args.yes_spend, max_runs=max(args.max_runs, recipe.plan.count)
    )
    return _in_folder(args, work, recorded)


def _refuse_changed(args: argparse.Namespace, recorded: Recorded, server: Dialect) -> None:
    """The workflow that was named, or the file that the batch was made from, must still be the same."""
    origin = str(recorded.plan["workflow"].get("spec") or "")
    if not args.workflow and not (origin and Path(origin).is_file()):
        return
    args.workflow = args.workflow or origin
    try:
        # The journal holds the graph that the batch began with; the file is only compared with it.
        source = _read(args, server, allow_unsure=True)
    except SkillError as error:
        raise Misuse(
            f"the workflow of this batch can no longer be read: {error.message}", code="workflow_changed",
            hint=f"restore it, or remove {origin}: the journal holds the graph",
        ) from error  # fmt: skip
    setup.refuse_changed(recorded.plan, source)


def _axes(args: argparse.Namespace, wishes: Any) -> list[Any]:
    axes = [batch_plan.table(args.table)] if args.table else []
    if args.input_dir:
        axes.append(batch_plan.files(args.input_dir, args.into, recursive=args.recursive))
    if args.prompts:
        axes.append(batch_plan.prompts(args.prompts, args.prompts_into))
    axes += batch_plan.zipped(args.zip)
    axes += batch_plan.sweeps(args.sweep)
    constants = {**wishes.settings, **{name: path for name, path, _ in wishes.files}}
    batch_plan.check_names(axes, constants)
    if not axes and not args.count:
        raise Misuse(
            "nothing to vary",
            hint="give --count N, --sweep, --zip, --table, --prompts or --input-dir; see --help",
        )
    return axes


def _count_axis(
    args: argparse.Namespace, source: Any, axes: Sequence[Any], wishes: Wishes
) -> tuple[list[Any], Wishes]:
    """--count: seeds that count up, unless they are random, set elsewhere, or the workflow has none.

    Also the wishes, without the seed at which the counting starts.
    """
    from comfyskill.graph import facts

    if not args.count:
        return [], wishes
    seeds = facts.seeds_of(source.graph)
    taken = any("seed" in name for axis in axes for name in axis.names)
    if args.seed_start is None and "seed" in wishes.settings:
        start = str(wishes.settings["seed"])
        if not start.isdigit():
            return [batch_plan.seeds(args.count, None)], wishes
        others = {name: value for name, value in wishes.settings.items() if name != "seed"}
        return [batch_plan.seeds(args.count, int(start))], wishes._replace(settings=others)
    if args.randomize_seed or taken or (not seeds and args.seed_start is None):
        return [batch_plan.seeds(args.count, None)], wishes
    start_at = args.seed_start if args.seed_start is not None else next(iter(seeds.values()))
    return [batch_plan.seeds(args.count, start_at)], wishes


def _read(args: argparse.Namespace, server: Facts, *, allow_unsure: bool) -> Any:
    from comfyskill.server import node_definitions
    from comfyskill.source import read

    return read.read(
        args.workflow,
        server=server.live,
        definitions=lambda: node_definitions.fetch(server),
        allow_unsure=allow_unsure,
    )


def _check_name(template: str | None, filler: Filler) -> None:
    """--name must fit the values of all runs (of the first thousands of each axis), before anything is sent."""
    if template is None:
        return
    from comfyskill.batch import ends

    plan = filler.recipe.plan
    first = dict.fromkeys(plan.names) | plan.values(0)
    for number, axis in enumerate(plan.axes):
        for step in filler.steps_to_check(number):
            ends.made_name(template, 0, first | axis.at(step), filler.prepared.seeds)


def _in_folder(
    args: argparse.Namespace, work: _Work, recorded: Recorded | None
) -> tuple[dict[str, Any], Path | None]:
    """Lock the folder, open the journal, run, report."""
    from comfyskill.batch import run as batch_run

    folder = work.folder
    batch_journal.refuse_links(folder)
    file_names.make_folder(folder)
    lock = batch_journal.Lock(folder)
    journal = None
    try:
        if recorded is None:
            _refuse_used(args, folder)
            recorded, look = batch_journal.Recorded(_plan_line(args, work), 0), 0
            journal = batch_journal.Journal(folder / batch_journal.NAME, fresh=True)
            journal.write("plan", **recorded.plan)
        else:
            recorded = batch_journal.read(folder)  # again, now that no other process writes
            hosts.recognise(recorded, [filler.server for filler in work.ready if filler.server is not None])
            file_names.remove_parts(folder, "run_*")
            journal = batch_journal.Journal(folder / batch_journal.NAME, keep=recorded.whole)
            look = 0 if recorded.clean else LOST_LINES * len(work.ready)
        document = batch_run.run(work.recipe, work.ready, work.options, journal, recorded, look=look)
    finally:
        if journal is not None:
            journal.close()
        lock.release()
    if work.notes:
        document["warnings"] = [*work.notes, *document.get("warnings", ())]
    shown = not args.no_report and document.get("code") not in ("still_running", "output_gone")
    return document, folder if shown else None


def _plan_line(args: argparse.Namespace, work: _Work) -> dict[str, Any]:
    first = work.ready[0]
    line = setup.plan_line(setup.rooted(first), args.name, first.input_files())
    servers = [filler.server for filler in work.ready if filler.server is not None]
    line["workflow"]["spec"] = _spec_of(args.workflow)
    line["hosts"] = [hosts.word_of(server) for server in servers]
    line["demo"] = any(server.demo for server in servers)
    return line


def point_to_rest(document: dict[str, Any]) -> None:
    """Name the file with the failures that the document leaves out."""
    failures = document.get("failures")
    if failures and failures.get("more"):
        failures["all_in"] = document.get("results_csv") or document["journal"]


def _trust(args: argparse.Namespace) -> tuple[str, ...]:
    """The command line's flags for TLS, repeated by the commands that continue the batch. A hosts file holds its servers' own."""
    return tuple(_common.Access(ca_bundle=args.ca_bundle, insecure=args.insecure).trust_flags)


def _refuse_used(args: argparse.Namespace, folder: Path) -> None:
    """Raises SkillError `folder_in_use`: a second batch would mix its files with the first one's."""
    from comfyskill.batch import run as batch_run

    if batch_journal.begun(folder):
        raise Misuse(
            f"{folder} already holds a batch",
            code="folder_in_use",
            hint="continue it with --resume, or give another --output-dir",
            next=[batch_run.resume_words(folder, (), None, _trust(args))],
        )


def _spec_of(spec: str) -> str:
    """The workflow's absolute path, so that --resume can see whether it has changed; empty for other origins."""
    return str(Path(spec).absolute()) if spec != "-" and Path(spec).is_file() else ""


def _options(
    args: argparse.Namespace, folder: Path, ready: Sequence[Filler], words: Sequence[str]
) -> BatchOptions:
    """`words`: the --host values that the commands to continue repeat."""
    for filler in ready:
        if filler.server is not None:
            submit.partner_key(
                filler.server, filler.prepared, args.partner_key
            )  # refuse before anything is sent
    run = job.Options(
        folder, use_socket=args.ws, include_previews=args.include_previews, quiet=args.quiet,
        partner_key=args.partner_key, patience=args.reconnect_time,
    )  # fmt: skip
    return BatchOptions(
        folder, run, args.retries, args.stop_on_error, args.run_timeout, args.parallel, args.name, args.retry_failed,
        tuple(words), _trust(args), partner=any(filler.prepared.partner for filler in ready),
    )  # fmt: skip
