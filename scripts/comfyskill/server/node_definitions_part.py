"""The flags that say where node definitions come from, for scripts that work with or without a server. Level 3."""

from __future__ import annotations

import argparse
import os

from comfyskill.base import cli, flags
from comfyskill.base.cli import SkillError
from comfyskill.server import node_definitions
from comfyskill.server.node_definitions import Definitions


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--object-info and --offline, beside the shared server flags."""
    group = parser.add_argument_group("node definitions")
    group.add_argument(
        "--object-info",
        metavar="FILE",
        help="node definitions saved from a server's /object_info; no server is asked",
    )
    group.add_argument(
        "--offline",
        action="store_true",
        help="ask no server: cached definitions, else those of the core nodes",
    )
    group.add_argument(
        "--inventory",
        metavar="FILE",
        help="what check_deps.py --save-inventory wrote of a server; no server is asked",
    )
    flags.add_server_flags(parser)
    flags.add_quiet_flag(parser)


def from_flags(args: argparse.Namespace) -> Definitions:
    """The definitions that the flags of `add_flags` name.

    A server that was not named (neither --host nor $COMFY_HOST) and does not answer is no failure: then it is as
    with --offline. Raises SkillError (exit 2) for contradicting flags, (3) for a named server out of reach.
    """
    cli.be_quiet(args.quiet)
    _refuse_contradictions(args)
    if args.object_info:
        return Definitions("file", node_definitions.from_file(args.object_info))
    if args.inventory:
        from comfyskill.server import inventory

        return Definitions("inventory", inventory.load(args.inventory).all_definitions())
    if args.offline:
        return node_definitions.without_server(args.host)
    from comfyskill.server import connect

    try:
        server = connect.connect_from(args)
    except SkillError as error:
        if error.code != "unreachable" or args.host or os.environ.get("COMFY_HOST"):
            raise
        cli.note("no server answers; working from what is known without one")
        return node_definitions.without_server(args.host)
    return node_definitions.of_server(server)


def _refuse_contradictions(args: argparse.Namespace) -> None:
    given = [
        flag
        for flag, value in (("--object-info", args.object_info), ("--inventory", args.inventory))
        if value
    ]
    given += ["--offline"] if args.offline else []
    if len(given) > 1:
        raise SkillError(f"{given[0]} and {given[1]} contradict each other", hint="give one of them")
    # With --offline an address still says whose cached definitions are meant.
    if given and args.host and (given != ["--offline"] or args.host == "demo"):
        raise SkillError(f"{given[0]} asks no server", hint="leave out --host")
