"""The flags of a batch, and the values that the rest of this package takes instead of parsed flags.

In a module because Python compiles the script itself again at every start.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from comfyskill.base import flags
from comfyskill.base.cli import Misuse
from comfyskill.run import flags as run_flags

if TYPE_CHECKING:
    from pathlib import Path

    from comfyskill.batch.flights import BatchOptions
    from comfyskill.batch.plan import Axis
    from comfyskill.run.prepare import Wishes

MOST_RUNS = 10_000
# The journal's plan line holds these, so a resumed batch refuses them.
PLAN_FLAGS = (
    "--count", "--seed-start", "--sweep", "--zip", "--table", "--prompts", "--prompts-into", "--input-dir", "--into",
    "--recursive", "--limit", "--shuffle", "--set", "--args", "--input-image", "--input-mask", "--input-file", "--lora",
    "--tiled-vae", "--invert-mask", "--randomize-seed", "--force-link", "--no-validate", "--dry-run",
    "--allow-unsure",
)  # fmt: skip
NEED = {
    "--seed-start": "--count", "--prompts-into": "--prompts", "--into": "--input-dir", "--recursive": "--input-dir",
}  # fmt: skip


class ServerFlags(NamedTuple):
    """The servers, as the flags give them. The keys and headers belong to one origin."""

    hosts: Sequence[str] = ()
    api: str = "auto"
    api_key: str | None = None
    api_key_file: str | None = None
    headers: Sequence[str] = ()
    ca_bundle: str | None = None
    insecure: bool = False


class Request(NamedTuple):
    """What the command line asks for: a new batch of a workflow, or the rest of one (`resume`).

    axes: what varies, without the seeds of --count. options: without the hosts that answer and the partner nodes, which
    are not known yet. pages: write them at the end.
    """

    workflow: str | None
    resume: bool
    axes: Sequence[Axis]
    wishes: Wishes
    servers: ServerFlags
    options: BatchOptions
    runs: int | None = None  # --count
    seed_start: int | None = None
    limit: int | None = None
    shuffled: bool = False
    inventory: str | None = None
    dry_run: bool = False
    allow_unsure: bool = False
    yes_spend: bool = False
    max_runs: int = MOST_RUNS
    pages: bool = True


def request(args: argparse.Namespace) -> Request:
    """The values of a parsed command line. Raises SkillError (exit 2) for values that cannot be used."""
    wishes = run_flags.wishes(run_flags.ValueFlags.of(vars(args)))
    servers = ServerFlags(
        args.host or (), args.api, args.api_key, args.api_key_file, args.header, args.ca_bundle, args.insecure
    )
    return Request(
        args.workflow,
        bool(args.resume),
        [] if args.resume else _axes(args, wishes),
        wishes,
        servers,
        _options(args),
        runs=args.count,
        seed_start=args.seed_start,
        limit=args.limit,
        shuffled=args.shuffle,
        inventory=args.inventory,
        dry_run=args.dry_run,
        allow_unsure=args.allow_unsure,
        yes_spend=args.yes_spend,
        max_runs=args.max_runs,
        pages=not args.no_report,
    )


def _axes(args: argparse.Namespace, wishes: Wishes) -> list[Axis]:
    from comfyskill.batch import plan

    axes = [plan.table(args.table)] if args.table else []
    if args.input_dir:
        axes.append(plan.files(args.input_dir, args.into, recursive=args.recursive))
    if args.prompts:
        axes.append(plan.prompts(args.prompts, args.prompts_into))
    axes += [*plan.zipped(args.zip), *plan.sweeps(args.sweep)]
    plan.check_names(axes, [*wishes.settings, *(name for name, _, _ in wishes.files)])
    if not axes and not args.count:
        raise Misuse(
            "nothing to vary",
            hint="give --count N, --sweep, --zip, --table, --prompts or --input-dir; see --help",
        )
    return axes


def _options(args: argparse.Namespace) -> BatchOptions:
    import _common
    from comfyskill.batch.flights import BatchOptions
    from comfyskill.run.job import Options

    folder = _folder(args)
    run = Options(
        folder,
        use_socket=args.ws,
        include_previews=args.include_previews,
        quiet=args.quiet,
        partner_key=args.partner_key,
        patience=args.reconnect_time,
    )
    access = _common.Access(ca_bundle=args.ca_bundle, insecure=args.insecure)
    return BatchOptions(
        folder,
        run,
        retries=args.retries,
        stop_on_error=args.stop_on_error,
        run_timeout=args.run_timeout,
        parallel=args.parallel,
        name=args.name,
        retry_failed=args.retry_failed,
        # A hosts file holds its servers' own flags for TLS.
        trust=tuple(access.trust_flags),
    )


def _folder(args: argparse.Namespace) -> Path:
    """The folder to continue, the one for a new batch, or one named after the time."""
    import time

    from comfyskill.base import paths

    named = args.resume or args.output_dir
    return paths.absolute(named or f"batches/{time.strftime('%Y%m%d-%H%M%S')}")


def parse(doc: str | None, argv: list[str] | None) -> argparse.Namespace:
    """The parsed command line; `doc` is the help text. Misuse ends the process with exit 2."""
    parser = flags.parser(doc)
    parser.add_argument("workflow", nargs="?", metavar="WORKFLOW", help="the workflow to run")
    parser.add_argument("--resume", metavar="DIR", help="continue the batch in this folder")
    parser.add_argument("--report", metavar="DIR", help="only make the pages of a batch from its journal")
    parser.add_argument(
        "--output-dir", metavar="DIR", help="where files and the journal go (default: batches/DATE-TIME)"
    )
    _add_plan_flags(parser)
    run_flags.add(parser)
    flags.add_unsure_flag(parser)
    _add_run_flags(parser)
    _add_output_flags(parser)
    flags.add_server_flags(parser, several=True)
    flags.add_quiet_flag(parser)
    # Given to the flag itself, Python 3.10 would put the default into the help a second time.
    parser.set_defaults(ws=True)
    args = parser.parse_args(argv)
    if sum(map(bool, (args.workflow, args.resume, args.report))) == 0:
        parser.error("give a workflow, --resume DIR or --report DIR")
    if args.report and (args.workflow or args.resume):
        parser.error("--report takes neither a workflow nor --resume")
    if args.resume and args.output_dir:
        parser.error("--resume names the folder; omit --output-dir")
    flags.refuse_inventory_alone(parser, args)
    given = [flag for flag in PLAN_FLAGS if _value(args, flag) != _default(parser, flag)]
    if args.resume and given:
        # Ignored silently, "20 more runs" would be reported as a success that ran nothing.
        parser.error(
            f"--resume takes the plan from the folder; omit {given[0]}, or start a new batch in another --output-dir"
        )
    for flag, needed in NEED.items():
        if flag in given and not _value(args, needed):
            parser.error(f"{flag} has an effect only with {needed}")
    return args


def _value(args: argparse.Namespace, flag: str) -> object:
    return getattr(args, flag.lstrip("-").replace("-", "_"))


def _default(parser: argparse.ArgumentParser, flag: str) -> object:
    return parser.get_default(flag.lstrip("-").replace("-", "_"))


def _add_plan_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to run")
    group.add_argument(
        "--count", type=flags.count, metavar="N", help="N runs; seeds count up unless --randomize-seed"
    )
    group.add_argument(
        "--seed-start", type=int, metavar="SEED", help="first seed of --count (default: the workflow's)"
    )
    group.add_argument(
        "--sweep", action="append", default=[], metavar="NAME=A,B,C",
        help="all combinations: NAME=a,b,c, NAME=START:STOP:STEP, a JSON object of lists, or @FILE",
    )  # fmt: skip
    group.add_argument(
        "--zip",
        action="append",
        default=[],
        metavar="NAME=A,B,C",
        help="lists whose values are used together (same forms as --sweep)",
    )
    group.add_argument(
        "--table", metavar="FILE", help=".csv or .jsonl: one run per row; column `output` names the files"
    )
    group.add_argument("--prompts", metavar="FILE", help="text file: one prompt per line")
    group.add_argument(
        "--prompts-into",
        metavar="NAME",
        default="prompt",
        help="the parameter that --prompts sets (default: %(default)s)",
    )
    group.add_argument("--input-dir", metavar="DIR", help="one run per picture, video or sound in a folder")
    group.add_argument(
        "--into",
        metavar="NAME",
        default="image",
        help="the input that --input-dir sets (default: %(default)s)",
    )
    group.add_argument("--recursive", action="store_true", help="--input-dir with its sub-folders")
    group.add_argument("--limit", type=flags.count, metavar="N", help="only the first N runs of the plan")
    group.add_argument("--shuffle", action="store_true", help="in random order (with --limit: a random part)")


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument(
        "--dry-run", action="store_true", help="print the plan, its count and an estimate; run nothing"
    )
    flags.add_inventory_flag(group)
    group.add_argument(
        "--parallel", type=flags.count, metavar="N",
        help="concurrent runs per server (default: a local queue is kept filled; cloud: the plan's limit, else 3)",
    )  # fmt: skip
    group.add_argument(
        "--retries", type=_few, default=0, metavar="N", help="retry transient failures up to N times"
    )
    group.add_argument("--retry-failed", action="store_true", help="with --resume: run the failed ones again")
    group.add_argument("--stop-on-error", action="store_true", help="stop at the first failure")
    group.add_argument(
        "--run-timeout", type=flags.seconds, metavar="SECONDS", help="cancel a run that executes longer"
    )
    group.add_argument(
        "--max-runs",
        type=flags.count,
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
        "--reconnect-time", type=flags.seconds, default=60.0, metavar="SECONDS",
        help="give up on a server that is unreachable for this long, or accepts no run for ten times as long "
        "(default: %(default)g)",
    )  # fmt: skip
    group.add_argument(
        "--ws", action=argparse.BooleanOptionalAction,
        help="follow runs by WebSocket, else by polling (default: --ws)",
    )  # fmt: skip


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--name",
        metavar="TEMPLATE",
        help="flat file names such as '{index:04d}_{seed}_{cfg}' (default: run_0000/…)",
    )
    group.add_argument("--include-previews", action="store_true", help="download temporary outputs too")
    flags.add_file_size_flag(group)
    group.add_argument(
        "--no-report", action="store_true", help="do not write index.html, contact sheet and results.csv"
    )


def _few(text: str) -> int:
    value = flags.natural(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100")
    return value
