#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "aiohttp>=3.9,<4", "pillow>=10.1,<13"]
# ///
"""Say what happened to a job: outcome, failing node with its inputs, cause, what to try.

Examples:
    python3 scripts/fetch_logs.py PROMPT_ID
    python3 scripts/fetch_logs.py --last --full
    python3 scripts/fetch_logs.py --list 20
    python3 scripts/fetch_logs.py --server --lines 50

A traceback begins with the innermost frame, where the error occurred.

Exit codes: 0 the job succeeded (or the list was read), 1 it failed, was cancelled or is lost, 2 misuse,
3 no server, 4 refused, 5 it is still running.
"""

from __future__ import annotations

import argparse
import sys

from comfyskill.base import cli, flags


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = flags.parser(__doc__)
    parser.add_argument("prompt_id", nargs="?", metavar="PROMPT_ID", help="the job")
    parser.add_argument("--last", action="store_true", help="our job that ended last (else any user's)")
    parser.add_argument(
        "--list", type=int, nargs="?", const=20, metavar="N", help="the latest N jobs (default 20)"
    )
    parser.add_argument("--server", action="store_true", help="the server's own recent log lines")
    parser.add_argument(
        "--lines", type=int, default=100, metavar="N", help="number of log lines (default: %(default)s)"
    )
    parser.add_argument("--full", action="store_true", help="the whole traceback")
    flags.add_server_flags(parser)
    args = parser.parse_args(argv)
    if sum((args.prompt_id is not None, args.last, args.list is not None, args.server)) != 1:
        parser.error("give one of PROMPT_ID, --last, --list, --server")
    if args.lines < 1 or (args.list is not None and args.list < 1):
        parser.error("a count must be at least 1")
    return args


def fetch_logs(args: argparse.Namespace) -> cli.Document:
    """The report this script prints."""
    from comfyskill.jobs import report
    from comfyskill.server import connect

    server = connect.connect_from(args, need_key=True)
    if args.server:
        return report.server_lines(server, args.lines)
    if args.list is not None:
        return report.listing(server, args.list)
    return report.explain(server, args.prompt_id or report.latest(server), full=args.full)


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, fetch_logs, argv)


if __name__ == "__main__":
    sys.exit(main())
