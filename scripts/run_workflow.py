#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "websocket-client>=1.7,<2", "tqdm>=4.66,<5", "pillow>=10.1,<13", "aiohttp>=3.9,<4"]
# ///
"""Run a ComfyUI workflow and download its outputs.

WORKFLOW is a file (API or editor format, or a picture or video made by ComfyUI), '-' for standard input,
template:NAME, server:NAME or subgraph:NAME. Values are set by name (see extract_schema.py) or by NODE.INPUT.

Examples:
    python3 scripts/run_workflow.py workflows/photo_touchup.json --host demo --input-image image=photo.jpg --output-dir out
    python3 scripts/run_workflow.py workflows/sdxl_txt2img.json --set prompt="a red fox" --set seed=-1 --output-dir out
    python3 scripts/run_workflow.py picture.png --args '{"steps": 30}' --output-dir out
    python3 scripts/run_workflow.py --resume PROMPT_ID --output-dir out
    python3 scripts/run_workflow.py --reproduce out/PROMPT_ID.json --output-dir again

Prints one JSON document; progress goes to stderr.
Exit codes: 0 done, 1 failed or partial, 2 misuse (nothing sent), 3 no server (nothing submitted), 4 refused,
5 still running (prompt_id in the JSON), 6 graph rejected, 7 needs consent, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from comfyskill.base import cli, paths, safe_text
from comfyskill.base import flags as base_flags
from comfyskill.base.cli import Misuse, SkillError
from comfyskill.run import flags as run_flags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from comfyskill.run.job import Options
    from comfyskill.run.prepare import Prepared, Wishes
    from comfyskill.server.facts import Facts
    from comfyskill.server.protocol import Dialect
    from comfyskill.source.read import Source

# --resume takes an existing job: its values cannot change and a dry run makes no sense.
NOT_WITH_RESUME = (
    *sorted(run_flags.CHANGING),
    "dry_run",
    "no_wait",
    "save_workflow",
    "only",
    "prompt_id",
    "allow_unsure",
)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = base_flags.parser(__doc__)
    parser.add_argument("workflow", nargs="?", metavar="WORKFLOW", help="the workflow to run")
    parser.add_argument("--workflow", dest="workflow_flag", metavar="FILE", help="the same, as a flag")
    parser.add_argument(
        "--resume", metavar="PROMPT_ID", help="wait for this job and download its results instead"
    )
    parser.add_argument(
        "--reproduce", metavar="RECEIPT", help="run a receipt (see --receipt) again and compare the results"
    )
    parser.add_argument(
        "--output-dir", metavar="DIR", default="outputs", help="where files go (default: %(default)s)"
    )
    run_flags.add(parser)
    base_flags.add_unsure_flag(parser)
    _add_run_flags(parser)
    _add_output_flags(parser)
    base_flags.add_server_flags(parser)
    base_flags.add_quiet_flag(parser)
    # Given to the flag itself, Python 3.10 would put the default into the help a second time.
    parser.set_defaults(ws=True)
    args = parser.parse_args(argv)
    if args.workflow and args.workflow_flag:
        parser.error("give the workflow once, as an argument or with --workflow")
    args.workflow = args.workflow or args.workflow_flag
    if [bool(args.workflow), bool(args.resume), bool(args.reproduce)].count(True) != 1:
        parser.error("give a workflow, --resume PROMPT_ID or --reproduce RECEIPT")
    if args.resume and (idle := [flag for flag in NOT_WITH_RESUME if getattr(args, flag)]):
        flags = ", ".join("--" + flag.replace("_", "-") for flag in idle)
        parser.error(f"--resume fetches a job as it was submitted: omit {flags}")
    base_flags.refuse_inventory_alone(parser, args)
    if args.inventory and args.reproduce:
        parser.error("a receipt needs a server: omit --inventory")
    return args


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--retry-oom",
        action="store_true",
        help="after an out-of-memory failure, free the server's memory and try once more",
    )
    group.add_argument(
        "--no-cache",
        action="store_true",
        help="do not read or write cached timings and definitions",
    )
    group.add_argument(
        "--dry-run", action="store_true", help="do everything except the submit; print the final graph"
    )
    base_flags.add_inventory_flag(group)
    group.add_argument("--no-wait", action="store_true", help="submit, print the prompt id and return")
    group.add_argument(
        "--timeout",
        type=base_flags.seconds,
        metavar="SECONDS",
        help="stop waiting after this time (default: never)",
    )
    group.add_argument(
        "--ws",
        action=argparse.BooleanOptionalAction,
        help="follow by WebSocket, else by polling (default: --ws)",
    )
    group.add_argument(
        "--only", action="append", metavar="NODE_ID", help="run only what this output node needs (repeatable)"
    )
    group.add_argument("--front", action="store_true", help="put the job before the other waiting jobs")
    group.add_argument("--client-id", metavar="ID", help="client id for the WebSocket (default: a new one)")
    group.add_argument(
        "--prompt-id",
        metavar="ID",
        help="prompt id to use, a lowercase UUID; cloud servers choose their own (default: a new one)",
    )
    group.add_argument(
        "--strict", action="store_true", help="stop the job when the server drops part of the graph"
    )
    group.add_argument(
        "--detach-on-interrupt",
        action="store_true",
        help="Ctrl-C leaves the job running instead of cancelling it",
    )
    group.add_argument(
        "--partner-key",
        metavar="KEY",
        help="Comfy account key for partner nodes (default: $COMFY_PARTNER_KEY)",
    )
    group.add_argument(
        "--yes-spend", action="store_true", help="consent to running partner nodes that cost credits"
    )
    group.add_argument(
        "--reconnect-time", type=base_flags.seconds, default=60.0, metavar="SECONDS",
        help="give up on a server that is unreachable for this long (default: %(default)g)",
    )  # fmt: skip


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--flat-output", action="store_true", help="make no subfolders in the output folder")
    group.add_argument("--overwrite", action="store_true", help="replace files of the same name")
    base_flags.add_file_size_flag(group)
    group.add_argument("--include-previews", action="store_true", help="download temporary outputs too")
    group.add_argument("--save-previews", metavar="DIR", help="save the pictures shown while sampling")
    group.add_argument(
        "--save-workflow", metavar="FILE", help="write the prepared graph, even without a server"
    )
    group.add_argument(
        "--receipt",
        action="store_true",
        help="write PROMPT_ID.json with everything needed to repeat the run",
    )


def run_workflow(args: argparse.Namespace) -> cli.Document:
    """The report this script prints."""
    from comfyskill.base import file_limits
    from comfyskill.run import jobs
    from comfyskill.server import connect

    cli.listen()
    file_limits.allow(args.max_file_size)
    if args.no_cache:
        from comfyskill.base import cache

        cache.turn_off()
    options = _options(args)
    if args.reproduce:
        return _reproduce_receipt(args, options)
    if args.resume:
        _make_folders(options)
        return jobs.resume(connect.connect_from(args, need_key=True), args.resume, options)
    return _run(args, options)


def _options(args: argparse.Namespace) -> Options:
    from comfyskill.run import job

    safe_text.hide(args.partner_key)
    safe_text.hide(os.environ.get("COMFY_PARTNER_KEY"))
    previews = None if args.save_previews is None else paths.absolute(args.save_previews)
    return job.Options(
        paths.absolute(args.output_dir),
        timeout=args.timeout,
        use_socket=args.ws,
        include_previews=args.include_previews,
        save_previews=previews,
        flat=args.flat_output,
        overwrite=args.overwrite,
        strict=args.strict,
        receipt=args.receipt,
        detach_on_interrupt=args.detach_on_interrupt,
        quiet=args.quiet,
        client_id=args.client_id,
        prompt_id=args.prompt_id,
        front=args.front,
        targets=args.only,
        partner_key=args.partner_key,
        patience=args.reconnect_time,
        retry_oom=args.retry_oom,
    )


def _make_folders(options: Options) -> None:
    from comfyskill.base import file_names

    file_names.make_folder(options.output_dir)
    if options.save_previews is not None:
        file_names.make_folder(options.save_previews, "--save-previews")


def _run(args: argparse.Namespace, options: Options) -> cli.Document:
    from comfyskill.run import jobs, prepare
    from comfyskill.server import connect

    wishes = run_flags.wishes(run_flags.ValueFlags.of(vars(args)))
    if args.inventory:
        return _rehearse(args, wishes)
    if not args.dry_run:
        _make_folders(options)
    try:
        server = connect.connect_from(args, need_key=True)
    except SkillError as error:
        if error.code == "unreachable" and args.save_workflow:
            return _offline(args, wishes, error)
        raise
    prepared = prepare.prepare(_read(args, server), wishes, server, dry_run=args.dry_run)
    if args.save_workflow:
        _save_graph(args.save_workflow, prepared)
    if args.dry_run:
        return _dry_run(args, server, prepared, options)
    _need_known_nodes(prepared, server, args.workflow)
    _need_consent(prepared, server, yes=args.yes_spend)
    submit = jobs.submit_only if args.no_wait else jobs.run
    return submit(server, prepared, options)


def _reproduce_receipt(args: argparse.Namespace, options: Options) -> cli.Document:
    """--reproduce: run the graph of a receipt again and compare the outputs with the recorded ones."""
    from comfyskill.run import jobs, reproduce
    from comfyskill.server import connect

    if any(getattr(args, flag) for flag in run_flags.CHANGING):
        raise Misuse(
            "--reproduce runs the receipt unchanged: omit the values",
            hint="to change values, run the picture itself",
        )
    if args.no_wait or args.save_workflow:
        raise Misuse(
            "--reproduce runs and compares: omit --no-wait and --save-workflow",
            hint="--dry-run prints the graph",
        )
    receipt = reproduce.load(paths.expanded(args.reproduce))
    server = connect.connect_from(args, need_key=True)
    prepared = reproduce.prepare(receipt, server, dry_run=args.dry_run)
    options = options._replace(
        receipt=True,
        targets=options.targets or receipt.targets,
        include_previews=options.include_previews or receipt.include_previews,
    )
    if args.dry_run:
        differences = reproduce.differences(receipt, server)
        return _dry_run(args, server, prepared, options) | {"differences": differences}
    _need_consent(prepared, server, yes=args.yes_spend)
    _make_folders(options)
    return reproduce.again(receipt, server, lambda: jobs.run(server, prepared, options))


def _read(args: argparse.Namespace, server: Facts | None) -> Source:
    from comfyskill.server import node_definitions
    from comfyskill.source import read

    facts = server or node_definitions.without_server(args.host)
    return read.read_for(args.workflow, facts, allow_unsure=args.allow_unsure)


def _need_known_nodes(prepared: Prepared, server: Dialect, workflow: str) -> None:
    """Nodes that the server lacks could not be converted: the result is not a complete graph."""
    missing = prepared.source.missing_types
    if not missing:
        return
    from comfyskill.base.programs import command

    classes = sorted({str(item.get("type") or item.get("class_type") or item) for item in missing})
    raise SkillError(
        f"the server lacks {len(classes)} node class(es) of this workflow: {safe_text.quoted_list(classes)}",
        code="rejected",
        status="rejected",
        hint="install their packs (check_deps.py names them), then run it again",
        next=[command("check_deps.py", workflow, "--host", server.url)],
        missing_types=[safe_text.clean_tree(item, 200) for item in missing],
    )


def _need_consent(prepared: Prepared, server: Dialect, *, yes: bool) -> None:
    if prepared.partner and not yes:
        from comfyskill.run import spending

        raise spending.consent_needed(prepared, [server])


def _save_graph(file: str, prepared: Prepared) -> None:
    import json

    from comfyskill.base import file_names

    text = json.dumps(prepared.graph, indent=2, ensure_ascii=False) + "\n"
    file_names.write_whole(Path(file), text.encode("utf-8", "replace"))


def _dry_run(args: argparse.Namespace, server: Dialect, prepared: Prepared, options: Options) -> cli.Document:
    from comfyskill.run import submit

    submit.checked_submission(server, prepared, options)
    return _rehearsed(args, server, prepared, options.targets)


def _rehearse(args: argparse.Namespace, wishes: Wishes) -> cli.Document:
    """--dry-run with --inventory: the inventory replaces the server; nothing is sent."""
    from comfyskill.run import prepare, submit
    from comfyskill.server import facts

    inventory = facts.load(paths.expanded(args.inventory))
    prepared = prepare.prepare(_read(args, inventory), wishes, inventory, dry_run=True)
    if args.only is not None:
        submit.check_targets(inventory, prepared.graph, args.only)
    if args.save_workflow:
        _save_graph(args.save_workflow, prepared)
    return _rehearsed(args, inventory, prepared, args.only)


def _rehearsed(
    args: argparse.Namespace, server: Facts, prepared: Prepared, targets: Sequence[str] | None
) -> cli.Document:
    """The report of --dry-run: what would be sent, and whether the server would reject it."""
    from comfyskill.run import reports, submit

    document = {"status": "dry_run", **reports.head(server), **reports.about(prepared)}
    if not args.no_validate:
        sent = {row["input"] for row in prepared.uploads}
        document |= submit.rejection(server, prepared.graph, workflow=args.workflow, sent=sent, only=targets)
    if args.save_workflow:
        document["saved_workflow"] = str(paths.absolute(args.save_workflow))
    return document | {"graph": cli.Verbatim(prepared.graph)}


def _offline(args: argparse.Namespace, wishes: Wishes, error: SkillError) -> cli.Document:
    """No server: the prepared graph is still written, and the report says how to load it by hand."""
    from comfyskill.run import prepare, reports

    prepared = prepare.prepare(_read(args, None), wishes, None)
    by_hand = (
        "; first choose the files under `uploads` in their nodes: no server has them yet"
        if prepared.uploads
        else ""
    )
    path = paths.absolute(args.save_workflow)
    _save_graph(args.save_workflow, prepared)
    return error.document() | {
        "saved_workflow": str(path),
        **reports.about(prepared),
        "hint": f"start ComfyUI and drag {path.name} into its browser window (or menu Workflow, Open)"
        f"{by_hand}, then press Run; or run this command again when the server is running",
    }


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, run_workflow, argv)


if __name__ == "__main__":
    sys.exit(main())
