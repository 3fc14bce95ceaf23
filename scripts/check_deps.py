#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "pillow>=10.1,<13", "aiohttp>=3.9,<4"]
# ///
"""Report what workflows need and whether a server has it: nodes, models, embeddings, input files, listed values.

Each item is present, missing or unknown (the server could not be asked). Missing items come with
a substitute name if the server has the file under another name, and with the node pack or a download source.
A WORKFLOW is a file (API format, editor format, or a picture that ComfyUI made), - , template:NAME, server:NAME or
subgraph:NAME.

Examples:
    python3 scripts/check_deps.py workflows/sdxl_txt2img.json
    python3 scripts/check_deps.py flow.json --repair fixed.json
    python3 scripts/check_deps.py --save-inventory server.json
    python3 scripts/check_deps.py workflows/sdxl_*.json --inventory server.json

Exit codes: 0 all present, 1 something is missing, 2 unusable input, 3 something is unknown (no answer),
4 something is unknown (refused, or this kind of server does not report it).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from comfyskill.base import cli, flags
from comfyskill.base.cli import Document, SkillError
from comfyskill.deps import survey
from comfyskill.server import facts
from comfyskill.server.facts import Facts


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "workflows", nargs="*", metavar="WORKFLOW", help="what to check; none with --save-inventory"
    )
    flags.add_server_flags(parser)
    parser.add_argument("--inventory", metavar="FILE", help="ask this inventory instead of a server")
    parser.add_argument("--save-inventory", metavar="FILE", help="write what the server has to FILE")
    parser.add_argument(
        "--repair", metavar="OUT.json", help="write a copy with the sure names replaced (one workflow)"
    )
    parser.add_argument(
        "--no-sources", action="store_true", help="do not look up node packs and download sources"
    )
    flags.add_quiet_flag(parser)
    args = parser.parse_args(argv)
    if not args.workflows and not args.save_inventory:
        parser.error("give a WORKFLOW, or --save-inventory FILE")
    if args.repair and len(args.workflows) != 1:
        parser.error("--repair takes exactly one WORKFLOW")
    if args.inventory and args.save_inventory:
        parser.error("--inventory and --save-inventory exclude each other")
    if args.inventory and args.host:
        parser.error("--inventory and --host exclude each other")
    return args


def server_of(args: argparse.Namespace) -> Facts:
    """The inventory or server that the flags name. A server out of reach answers each question with that failure."""
    if args.inventory:
        return facts.load(args.inventory)
    from comfyskill.server import connect

    try:
        return connect.connect_from(args)
    except SkillError as error:
        if args.save_inventory or error.code not in ("unreachable", "refused"):
            raise
        return facts.Unreachable(error, args.host or "the default address")


def check_deps(args: argparse.Namespace) -> Document:
    """The report this script prints."""
    with contextlib.closing(server_of(args)) as server:
        document: Document = {"status": "ok"}
        if args.save_inventory:
            document |= survey.save_inventory(server, Path(args.save_inventory))
        if args.workflows:
            document |= survey.survey(
                survey.Asked(server), args.workflows, repair=args.repair, sources=not args.no_sources
            )
        return document


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, check_deps, argv)


if __name__ == "__main__":
    sys.exit(main())
