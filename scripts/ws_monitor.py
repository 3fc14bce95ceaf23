#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "websocket-client>=1.7,<2", "tqdm>=4.66,<5", "aiohttp>=3.9,<4", "pillow>=10.1,<13"]
# ///
"""Watch jobs live, whoever submitted them. Start and stop at any time; the jobs are not affected.

Without --prompt-id everything that runs is shown until the queue is empty (--follow: until Ctrl-C).

Examples:
    python3 scripts/ws_monitor.py
    python3 scripts/ws_monitor.py --prompt-id PROMPT_ID --timeout 600
    python3 scripts/ws_monitor.py --all --follow --json
    python3 scripts/ws_monitor.py --prompt-id PROMPT_ID --previews seen

The view goes to stderr and one JSON document to stdout at the end; with --json, JSON Lines on stdout instead.
Exit codes: 0 the watched jobs succeeded (or the queue is empty), 1 one failed, was cancelled or is lost, 2 misuse,
3 no server, 4 refused, 5 not finished when the time was up or on SIGTERM, 130 interrupted (the jobs keep running).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from comfyskill.base import cli, flags, paths


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = flags.parser(__doc__)
    parser.add_argument("ids", nargs="*", metavar="PROMPT_ID", help="watch these jobs")
    parser.add_argument(
        "--prompt-id", action="append", default=[], metavar="ID", help="the same, as a flag (repeatable)"
    )
    parser.add_argument(
        "--all", action="store_true", help="watch all running jobs (the default without a prompt id)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print every message, cleaned, as one JSON object per line"
    )
    parser.add_argument("--previews", metavar="DIR", help="save the pictures shown while sampling")
    parser.add_argument(
        "--timeout", type=flags.seconds, metavar="SECONDS", help="stop watching after this time"
    )
    parser.add_argument(
        "--follow", action="store_true", help="keep watching when the queue is empty, until Ctrl-C"
    )
    parser.add_argument(
        "--ws",
        action=argparse.BooleanOptionalAction,
        help="use the WebSocket, else poll (default: --ws)",
    )
    flags.add_server_flags(parser)
    flags.add_quiet_flag(parser)
    # Given to the flag itself, Python 3.10 would put the default into the help a second time.
    parser.set_defaults(ws=True)
    args = parser.parse_args(argv)
    args.prompt_id += args.ids
    if args.all and args.prompt_id:
        parser.error("give --all or prompt ids")
    return args


def watch(args: argparse.Namespace) -> cli.Document:
    """The report this script ends with."""
    from comfyskill.base import file_names
    from comfyskill.jobs import monitor as jobs_monitor
    from comfyskill.server import connect

    cli.listen()
    previews = file_names.make_folder(paths.expanded(args.previews), "--previews") if args.previews else None
    server = connect.connect_from(args, need_key=True)
    if args.json:
        view: jobs_monitor.View = jobs_monitor.JsonLines()
    elif sys.stderr.isatty() and not args.quiet and jobs_monitor.obeys_escapes():
        view = jobs_monitor.Block()
    else:
        view = jobs_monitor.Lines()
    monitor = jobs_monitor.Monitor(server, view, args.prompt_id, previews=previews, use_socket=args.ws)
    return monitor.run(follow=args.follow, timeout=args.timeout)


def show(args: argparse.Namespace, document: Mapping[str, object]) -> bool:
    """Print the document; with --json as the last of the JSON Lines."""
    return cli.emit_line({"type": "result", **document}) if args.json else cli.emit(document)


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, watch, argv, show=show)


if __name__ == "__main__":
    sys.exit(main())
