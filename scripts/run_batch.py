#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "websocket-client>=1.7,<2", "tqdm>=4.66,<5", "pillow>=10.1,<13", "aiohttp>=3.9,<4"]
# ///
"""Run a ComfyUI workflow many times: sweeps, seeds, tables, folders. Can be stopped, killed and continued.

WORKFLOW is what run_workflow.py takes. What varies is set by name (see extract_schema.py) or by NODE.INPUT; several
of these flags combine, every value with every other.

Examples:
    python3 scripts/run_batch.py flow.json --count 8 --output-dir out                    (8 seeds, counted up)
    python3 scripts/run_batch.py flow.json --sweep seed=1,2,3 --sweep cfg=5:8:0.5        (a grid of 21)
    python3 scripts/run_batch.py flow.json --sweep '{"prompt": ["a fox", "a cat, asleep"]}' --count 4
    python3 scripts/run_batch.py flow.json --table runs.csv --retries 1
    python3 scripts/run_batch.py flow.json --input-dir photos --into image --name '{index:03d}'
    python3 scripts/run_batch.py --resume out                        (after Ctrl-C, kill -9 or a power cut)
    python3 scripts/run_batch.py --report out                        (index.html, contact sheet and CSV again)

Prints one JSON document; progress goes to stderr. Look at contact_sheet.png; people open index.html.
Exit codes: 0 every run succeeded, 1 not all did, 2 misuse (nothing sent), 3 no server, 4 refused, 5 told to stop while
runs go on, 6 the server rejected the graph, 7 needs consent, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _cli
import _flags
import _places
import _safe_text
import _value_flags
from _cli import SkillError

if TYPE_CHECKING:
    from _batch_fill import Filler, Recipe
    from _dialect import Dialect
    from _journal import Recorded

MOST_RUNS = 10_000
SHOWN = 10
# Runs that a server may have got within the second whose journal lines a power cut can take.
LOST_LINES = 200


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = _flags.parser(__doc__)
    parser.add_argument("workflow", nargs="?", metavar="WORKFLOW", help="the workflow to run")
    parser.add_argument("--resume", metavar="DIR", help="go on with the batch in this folder")
    parser.add_argument("--report", metavar="DIR", help="only make the pages of a batch from its journal")
    parser.add_argument(
        "--output-dir", metavar="DIR", help="where files and the journal go (default: batches/DATE-TIME)"
    )
    _add_plan_flags(parser)
    _value_flags.add(parser)
    _add_run_flags(parser)
    _add_output_flags(parser)
    _flags.add_server_flags(parser, several=True)
    _flags.add_quiet_flag(parser)
    args = parser.parse_args(argv)
    if sum(map(bool, (args.workflow, args.resume, args.report))) == 0:
        parser.error("give a workflow, --resume DIR or --report DIR")
    if args.report and (args.workflow or args.resume):
        parser.error("--report stands alone")
    if args.resume and args.output_dir:
        parser.error("--resume names the folder; leave --output-dir out")
    return args


def _add_plan_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to run")
    group.add_argument(
        "--count", type=_flags.count, metavar="N", help="N runs; seeds count up unless --randomize-seed"
    )
    group.add_argument(
        "--seed-start", type=int, metavar="SEED", help="first seed of --count (default: the workflow's)"
    )
    group.add_argument(
        "--sweep", action="append", default=[], metavar="NAME=A,B,C",
        help="every value with every other: NAME=a,b,c, NAME=START:STOP:STEP, a JSON object of lists, or @FILE",
    )  # fmt: skip
    group.add_argument(
        "--zip",
        action="append",
        default=[],
        metavar="NAME=A,B,C",
        help="lists that go in parallel (same forms)",
    )
    group.add_argument(
        "--table", metavar="FILE", help=".csv or .jsonl: a row, a run; column `output` names the files"
    )
    group.add_argument("--prompts", metavar="FILE", help="text file: a line, a prompt")
    group.add_argument(
        "--prompts-into", metavar="NAME", default="prompt", help="what they set (default: %(default)s)"
    )
    group.add_argument(
        "--input-dir", metavar="DIR", help="a run for each picture, video or sound in a folder"
    )
    group.add_argument(
        "--into", metavar="NAME", default="image", help="the input they go into (default: %(default)s)"
    )
    group.add_argument("--recursive", action="store_true", help="--input-dir with its sub-folders")
    group.add_argument("--limit", type=_flags.count, metavar="N", help="only the first N runs of the plan")
    group.add_argument("--shuffle", action="store_true", help="in random order (with --limit: a random part)")


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--dry-run", action="store_true", help="print the plan, its count and an estimate; run nothing"
    )
    group.add_argument(
        "--parallel", type=_flags.count, metavar="N",
        help="runs on a server at once (default: a local queue is kept filled; cloud: the plan's limit, else 3)",
    )  # fmt: skip
    group.add_argument(
        "--retries", type=_few, default=0, metavar="N", help="try transient failures N times more"
    )
    group.add_argument("--retry-failed", action="store_true", help="with --resume: run the failed ones again")
    group.add_argument("--stop-on-error", action="store_true", help="stop at the first failure")
    group.add_argument(
        "--run-timeout", type=_flags.seconds, metavar="SECONDS", help="cancel a run that executes longer"
    )
    group.add_argument(
        "--max-runs",
        type=_flags.count,
        default=MOST_RUNS,
        metavar="N",
        help="refuse larger plans (default: %(default)s)",
    )
    group.add_argument("--yes-spend", action="store_true", help="consent to runs that cost credits")
    group.add_argument(
        "--partner-key",
        metavar="KEY",
        help="Comfy account key for partner nodes (default: $COMFY_PARTNER_KEY)",
    )
    group.add_argument(
        "--reconnect-time", type=_flags.seconds, default=60.0, metavar="SECONDS",
        help="give up on a server that is out of reach for this long (default: %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--ws", action=argparse.BooleanOptionalAction, default=True,
        help="follow by WebSocket, else by polling (default: --ws)",
    )  # fmt: skip


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--name",
        metavar="TEMPLATE",
        help="flat file names such as '{index:04d}_{seed}_{cfg}' (default: run_0000/…)",
    )
    group.add_argument("--include-previews", action="store_true", help="download temporary outputs too")
    group.add_argument(
        "--no-report", action="store_true", help="make no index.html, contact sheet and results.csv"
    )


def _few(text: str) -> int:
    value = _flags.natural(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100")
    return value


def run_batch(args: argparse.Namespace) -> dict[str, Any]:
    """The report this script prints."""
    import _signals

    _signals.listen()
    _cli.be_quiet(args.quiet)
    try:
        if args.report:
            return _report_only(_places.absolute(args.report))
        return _resume(args) if args.resume else _begin(args)
    except _signals.Terminated:
        return {"status": "cancelled", "code": "terminated", "message": "told to stop", "retryable": True}


def _begin(args: argparse.Namespace) -> dict[str, Any]:
    """A new batch: plan, servers, consent, folder, runs."""
    import _batch_fill
    import _batch_setup
    import _plan

    wishes = _value_flags.wishes(args)
    axes = _axes(args, wishes)
    servers = _connect(args, None)
    source = _read(args, servers[0])
    axes += _count_axis(args, source, axes, wishes)
    plan = _plan.Plan(tuple(axes), str(uuid.uuid4()), args.limit, args.shuffle)
    recipe = _batch_fill.Recipe(source, wishes, plan)
    ready, notes = _batch_setup.fillers(recipe, servers)
    _check_name(args.name, ready[0])
    if args.dry_run:
        return _dry_run(recipe, ready, notes)
    _batch_setup.need_consent(plan, ready, yes_spend=args.yes_spend, max_runs=args.max_runs)
    default = Path("batches") / time.strftime("%Y%m%d-%H%M%S")
    folder = _places.absolute(args.output_dir or default)
    return _in_folder(args, folder, recipe, ready, notes, None)


def _resume(args: argparse.Namespace) -> dict[str, Any]:
    """Go on with the batch in a folder; its plan comes from the journal, its servers too unless --host says otherwise."""
    import _batch_setup
    import _journal

    folder = _places.absolute(args.resume)
    recorded = _journal.read(folder)
    recipe = _batch_setup.recipe_from(recorded.plan)
    servers = _connect(args, recorded)
    _refuse_changed(args, recorded, servers[0])
    ready, notes = _batch_setup.fillers(recipe, servers)
    _batch_setup.need_consent(
        recipe.plan, ready, yes_spend=args.yes_spend, max_runs=max(args.max_runs, recipe.plan.count)
    )
    args.name = args.name or recorded.plan.get("name")
    return _in_folder(args, folder, recipe, ready, notes, recorded)


def _refuse_changed(args: argparse.Namespace, recorded: Recorded, server: Dialect) -> None:
    """The workflow that was named, or the file that the batch was made from, must still be the same."""
    import _batch_setup

    origin = str(recorded.plan["workflow"].get("spec") or "")
    if not args.workflow and not (origin and Path(origin).is_file()):
        return
    args.workflow = args.workflow or origin
    try:
        source = _read(args, server)
    except SkillError as error:
        raise SkillError(
            f"the workflow of this batch can no longer be read: {error.message}", code="workflow_changed",
            exit=_cli.Exit.MISUSE, hint=f"put it back, or remove {origin}: the journal holds the graph",
        ) from error  # fmt: skip
    _batch_setup.refuse_changed(recorded.plan, source)


def _axes(args: argparse.Namespace, wishes: Any) -> list[Any]:
    import _plan_read

    axes = [_plan_read.table(args.table)] if args.table else []
    if args.input_dir:
        axes.append(_plan_read.files(args.input_dir, args.into, recursive=args.recursive))
    if args.prompts:
        axes.append(_plan_read.prompts(args.prompts, args.prompts_into))
    axes += _plan_read.zipped(args.zip)
    axes += _plan_read.sweeps(args.sweep)
    constants = {**wishes.settings, **{name: path for name, path, _ in wishes.files}}
    _plan_read.check_names(axes, constants)
    if not axes and not args.count:
        raise SkillError(
            "nothing to vary",
            hint="give --count N, --sweep, --zip, --table, --prompts or --input-dir; see --help",
        )
    return axes


def _count_axis(args: argparse.Namespace, source: Any, axes: list[Any], wishes: Any) -> list[Any]:
    """--count: seeds that count up, unless they are random, set elsewhere, or the workflow has none."""
    import _plan_read
    import _prepare

    if not args.count:
        return []
    seeds = _prepare.seeds_of(source.graph)
    taken = any("seed" in name for axis in axes for name in axis.names)
    if args.seed_start is None and "seed" in wishes.settings:
        start = str(wishes.settings["seed"])
        if not start.isdigit():
            return [_plan_read.seeds(args.count, None)]
        wishes.settings.pop("seed")
        return [_plan_read.seeds(args.count, int(start))]
    if args.randomize_seed or taken or (not seeds and args.seed_start is None):
        return [_plan_read.seeds(args.count, None)]
    start_at = args.seed_start if args.seed_start is not None else next(iter(seeds.values()))
    return [_plan_read.seeds(args.count, start_at)]


def _connect(args: argparse.Namespace, recorded: Recorded | None) -> list[Dialect]:
    """The servers that answer. Raises the last one's error when none does, and any refusal at once."""
    import _batch_setup
    import _connect

    hosts = _batch_setup.hosts_of(args.host)
    if recorded is not None and not args.host:
        hosts = _recorded_hosts(args, recorded)
    servers: dict[str, Dialect] = {}
    error: SkillError | None = None
    for host in hosts:
        try:
            server = _connect.connect(
                host, api=args.api, api_key=args.api_key, api_key_file=args.api_key_file, headers=args.header,
                ca_bundle=args.ca_bundle, insecure=args.insecure, need_key=True,
            )  # fmt: skip
            if len(hosts) > 1:
                server.features()
        except SkillError as failure:
            if len(hosts) == 1 or failure.exit == _cli.Exit.MISUSE:
                raise
            error = failure
            _cli.warn(f"{host}: {failure.message}")
            continue
        servers.setdefault(server.url, server)
    if not servers:
        assert error is not None
        raise error
    return list(servers.values())


def _recorded_hosts(args: argparse.Namespace, recorded: Recorded) -> list[str | None]:
    """The journal's servers. A folder can come from anyone, so a key goes only to a server that the command names."""
    listed = recorded.plan.get("hosts")
    hosts = [host for host in listed if isinstance(host, str)] if isinstance(listed, list) else []
    if args.api_key or args.api_key_file or args.header:
        named = " ".join(f"--host {_safe_text.clean(host, 200)}" for host in hosts[:3])
        raise SkillError(
            "a key is sent only to a server that the same command names", hint=f"add {named or '--host'}"
        )
    return [*dict.fromkeys(hosts)] or [None]


def _read(args: argparse.Namespace, server: Dialect) -> Any:
    import _known
    import _sources

    known = _known.of_server(server)
    return _sources.read(args.workflow, server=server, definitions=known.all, complete=lambda: known.complete)


def _check_name(template: str | None, filler: Filler) -> None:
    """--name must fit the first run, before anything is sent."""
    if template is None:
        return
    import _batch_fetch

    plan = filler.recipe.plan
    _batch_fetch.made_name(template, 0, plan.values(0), filler.prepared.seeds)


def _dry_run(recipe: Recipe, ready: list[Filler], notes: list[str]) -> dict[str, Any]:
    import _batch_progress
    import _batch_setup

    plan = recipe.plan
    document: dict[str, Any] = {
        "status": "dry_run",
        "runs": plan.count,
        "combinations": plan.total,
        "axes": [{"kind": axis.kind, "names": list(axis.names), "steps": len(axis)} for axis in plan.axes],
        "first_runs": [ready[0].typed(values) for values in _batch_setup.shown_values(plan, SHOWN)],
        "workflow": recipe.source.origin,
        "hosts": [filler.server.url for filler in ready if filler.server is not None],
    }
    if notes:
        document["warnings"] = notes
    partner = sorted({node for filler in ready for node in filler.prepared.partner})
    if partner:
        document["partner_nodes"] = partner
    each = _batch_setup.usual_seconds(recipe.source.graph, ready[0].server)
    if each is not None:
        total = each * plan.count / len(ready)
        document["estimate"] = {
            "seconds_each": round(each, 2),
            "seconds": round(total, 1),
            "words": _batch_progress.spoken(total),
        }
    return document


def _in_folder(
    args: argparse.Namespace,
    folder: Path,
    recipe: Recipe,
    ready: list[Filler],
    notes: list[str],
    recorded: Recorded | None,
) -> dict[str, Any]:
    """Lock the folder, open the journal, run, report."""
    import _batch_run
    import _batch_setup
    import _journal
    import _safe_names

    _safe_names.make_folder(folder)
    lock = _journal.Lock(folder)
    journal = None
    try:
        if recorded is None:
            _refuse_used(folder)
            line = _batch_setup.plan_line(recipe, args.name)
            line["workflow"]["spec"] = _spec_of(args.workflow)
            line["hosts"] = [_host_word(filler) for filler in ready]
            line["demo"] = any(filler.server is not None and filler.server.demo for filler in ready)
            journal = _journal.Journal(folder / _journal.NAME)
            journal.write("plan", **line)
            runs, look = {}, 0
        else:
            recorded = _journal.read(folder)  # again, now that nobody else writes
            _safe_names.remove_parts(folder)
            journal = _journal.Journal(folder / _journal.NAME, keep=recorded.whole)
            runs, look = recorded.runs, 0 if recorded.clean else LOST_LINES * len(ready)
        document = _batch_run.run(recipe, ready, _options(args, folder), journal, runs, look=look)
    finally:
        if journal is not None:
            journal.close()
        lock.release()
    if notes:
        document["warnings"] = notes
    if not args.no_report and document.get("code") != "still_running":
        document |= _pages(folder)
    return document


def _refuse_used(folder: Path) -> None:
    """A second batch in one folder would mix its files with the first one's."""
    import _batch_run
    import _journal

    if (folder / _journal.NAME).exists():
        raise SkillError(
            f"{folder} holds a batch already", code="folder_in_use", exit=_cli.Exit.MISUSE,
            hint="go on with it by --resume, or give another --output-dir",
            next=[_batch_run.resume_words(folder, [])],
        )  # fmt: skip


def _spec_of(spec: str) -> str:
    """The workflow's absolute path, so that --resume can see whether it has changed; empty for other origins."""
    return str(Path(spec).absolute()) if spec != "-" and Path(spec).is_file() else ""


def _host_word(filler: Filler) -> str:
    assert filler.server is not None
    return "demo" if filler.server.fleeting else filler.server.url


def _options(args: argparse.Namespace, folder: Path) -> Any:
    import _batch
    import _jobs

    partner_key = args.partner_key or os.environ.get("COMFY_PARTNER_KEY")
    _safe_text.hide(partner_key)
    run = _jobs.Options(
        folder, use_socket=args.ws, include_previews=args.include_previews, quiet=args.quiet, partner_key=partner_key,
        patience=args.reconnect_time,
    )  # fmt: skip
    return _batch.BatchOptions(
        folder,
        run,
        args.retries,
        args.stop_on_error,
        args.run_timeout,
        args.parallel,
        args.name,
        args.retry_failed,
    )


def _pages(folder: Path) -> dict[str, Any]:
    """Make the pages; a failure there does not spoil the report of the runs."""
    import _batch_pages

    try:
        return _batch_pages.write(folder)
    except (OSError, SkillError) as error:
        _cli.warn(f"the runs are done, but their pages could not be written: {error}")
        return {"report_problem": str(error)}


def _report_only(folder: Path) -> dict[str, Any]:
    import _batch_pages

    return {"status": "ok", "output_dir": str(folder), **_batch_pages.write(folder)}


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    return _cli.run(run_batch, args)


if __name__ == "__main__":
    sys.exit(main())
