#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "websocket-client>=1.7,<2", "tqdm>=4.66,<5", "aiohttp>=3.9,<4", "pillow>=10.1,<13"]
# ///
"""See and change the queue, the history and the server's memory.

Examples:
    python3 scripts/manage_queue.py list
    python3 scripts/manage_queue.py cancel PROMPT_ID
    python3 scripts/manage_queue.py wait PROMPT_ID PROMPT_ID --output-dir out
    python3 scripts/manage_queue.py free --models --memory

Exit codes: 0 done, 1 not found or not done, 2 misuse, 3 no server, 4 refused, 5 still running (wait), 7 needs consent
(other users' jobs would be affected; the JSON names the flag).
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from comfyskill.base import cli, flags, paths

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = flags.parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = _command(commands, "list", "running and waiting jobs in the order in which they will run")
    listing.add_argument(
        "--max", type=flags.count, default=50, metavar="N", help="rows (default: %(default)s)"
    )
    cancel = _command(commands, "cancel", "stop jobs: running ones are interrupted, waiting ones removed")
    cancel.add_argument("ids", nargs="*", metavar="PROMPT_ID")
    cancel.add_argument("--ours", action="store_true", help="all jobs that were submitted from here")
    cancel.add_argument("--yes", action="store_true", help="also jobs that were not submitted from here")
    clear = _command(commands, "clear", "remove our waiting jobs from the queue")
    clear.add_argument("--all-users", action="store_true", help="remove the waiting jobs of all users")
    clear.add_argument("--yes", action="store_true", help="consent to removing other users' jobs")
    front = _command(commands, "move-front", "let a waiting job run first (own ComfyUI servers)")
    front.add_argument("id", metavar="PROMPT_ID")
    history = _command(commands, "history", "finished jobs, newest first")
    history.add_argument(
        "--max", type=flags.count, default=20, metavar="N", help="rows (default: %(default)s)"
    )
    delete = _command(commands, "history-delete", "forget finished jobs (files stay)")
    delete.add_argument("ids", nargs="+", metavar="PROMPT_ID")
    delete.add_argument("--yes", action="store_true", help="also jobs that were not submitted from here")
    wipe = _command(commands, "history-clear", "forget all finished jobs (files stay)")
    wipe.add_argument("--yes", action="store_true", help="consent to forgetting other users' jobs too")
    free = _command(commands, "free", "unload models, empty the cache (own ComfyUI servers)")
    free.add_argument("--models", action="store_true", help="unload models (default: both)")
    free.add_argument("--memory", action="store_true", help="empty the node cache (default: both)")
    jobs = _command(commands, "jobs", "all jobs with filters")
    jobs.add_argument(
        "--status",
        action="append",
        choices=["pending", "running", "success", "error", "cancelled"],
        default=[],
    )
    jobs.add_argument("--max", type=flags.count, default=50, metavar="N", help="rows (default: %(default)s)")
    jobs.add_argument("--offset", type=flags.natural, default=0, metavar="N", help="skip the first N")
    wait = _command(commands, "wait", "wait for jobs, whoever submitted them, and download their results")
    wait.add_argument("ids", nargs="+", metavar="PROMPT_ID")
    wait.add_argument(
        "--output-dir", default="outputs", metavar="DIR", help="where files go (default: %(default)s)"
    )
    wait.add_argument(
        "--timeout",
        type=flags.seconds,
        metavar="SECONDS",
        help="stop waiting after this time (default: never)",
    )
    flags.add_file_size_flag(wait)
    args = parser.parse_args(argv)
    if args.command == "cancel" and bool(args.ids) == args.ours:
        cancel.error("give the PROMPT_IDs to cancel, or --ours")
    return args


def _command(commands: Commands, name: str, description: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
    flags.add_server_flags(parser)
    flags.add_quiet_flag(parser)
    return parser


def manage_queue(args: argparse.Namespace) -> cli.Document:
    """The report this script prints."""
    from comfyskill.jobs import queue
    from comfyskill.server import connect

    server = connect.connect_from(args, need_key=True)
    if args.command == "wait":
        from comfyskill.base import file_limits, file_names
        from comfyskill.jobs import wait

        cli.listen()
        file_limits.allow(args.max_file_size)
        folder = file_names.make_folder(paths.absolute(args.output_dir))
        return wait.wait(server, args.ids, folder, timeout=args.timeout, quiet=args.quiet)
    actions = {
        "list": lambda: queue.show(server, args.max),
        "cancel": lambda: queue.cancel(server, args.ids, yes=args.yes, all_ours=args.ours),
        "clear": lambda: queue.clear(server, all_users=args.all_users, yes=args.yes),
        "move-front": lambda: queue.move_front(server, args.id),
        "history": lambda: queue.history(server, args.max),
        "history-delete": lambda: queue.history_delete(server, args.ids, yes=args.yes),
        "history-clear": lambda: queue.history_clear(server, yes=args.yes),
        "free": lambda: queue.free(
            server, models=args.models or not args.memory, memory=args.memory or not args.models
        ),
        "jobs": lambda: queue.jobs(server, states=args.status, most=args.max, offset=args.offset),
    }
    return actions[args.command]()


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, manage_queue, argv)


if __name__ == "__main__":
    sys.exit(main())
