"""Node definitions for scripts that work with or without a server, and the flags that choose. Level 3."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import _cli
import _graph
import _known
from _cli import SkillError

if TYPE_CHECKING:
    from _dialect import Dialect


@dataclass(frozen=True)
class Definitions:
    """Where node definitions come from.

    origin: "server", "file", "inventory", "cache" (what was last seen of that server), "bundled" (core nodes only) or "none".
    complete: they hold every class that the server has. all: fetches them. of: fetches those of some classes.
    """

    origin: str
    complete: bool
    server: Dialect | None
    all: Callable[[], Mapping[str, Any] | None]
    of: Callable[[Sequence[str]], Mapping[str, Any] | None]


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
    _cli.add_server_flags(parser)
    _cli.add_quiet_flag(parser)


def from_flags(args: argparse.Namespace) -> Definitions:
    """The definitions that the flags of `add_flags` name.

    A server that was not named (neither --host nor $COMFY_HOST) and does not answer is no failure: then it is as
    with --offline. Raises SkillError (exit 2) for contradicting flags, (3) for a named server out of reach.
    """
    _cli.be_quiet(args.quiet)
    _refuse_contradictions(args)
    if args.object_info:
        return _fixed("file", _known.from_file(args.object_info), complete=True)
    if args.inventory:
        import _inventory

        return _fixed("inventory", _inventory.load(args.inventory).all_definitions(), complete=True)
    if args.offline:
        return _offline(args.host)
    import _connect

    try:
        server = _connect.connect_from(args)
    except SkillError as error:
        if error.code != "unreachable" or args.host or os.environ.get("COMFY_HOST"):
            raise
        _cli.note("no server answers; working from what is known without one")
        return _offline(args.host)
    return Definitions(
        "server", True, server, lambda: _known.definitions(server), lambda classes: _some(server, classes)
    )


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


def _some(server: Dialect, classes: Sequence[str]) -> Mapping[str, Any] | None:
    """The definitions of these classes; None from a server that gives none."""
    try:
        return server.definitions(classes)
    except SkillError as error:
        if error.code in ("refused", "unreachable"):
            raise
        return None


def _offline(host: str | None) -> Definitions:
    cached = _known.definitions(None, host)
    if cached:
        return _fixed("cache", cached, complete=True)
    bundled = _bundled()
    return _fixed("bundled" if bundled else "none", bundled, complete=False)


def _bundled() -> Mapping[str, Any] | None:
    """The core nodes' definitions that come with this bundle, or None when it has none."""
    if not _known.BUNDLED.is_file():
        return None
    definitions = _known.from_file(str(_known.BUNDLED))
    for class_type, definition in definitions.items():
        for section in definition["input"].values():
            for name, spec in section.items():
                # Which model files there are, only a server knows.
                if _graph.model_folder(class_type, name) and len(spec) > 1:
                    section[name] = [
                        spec[0],
                        {key: value for key, value in spec[1].items() if key != "options"},
                    ]
    return definitions


def _fixed(origin: str, value: Mapping[str, Any] | None, *, complete: bool) -> Definitions:
    return Definitions(origin, complete, None, lambda: value, lambda _classes: value)
