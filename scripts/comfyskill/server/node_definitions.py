"""Node definitions from the best available source: the server, this user's cache of that server, the bundled core."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import _common
from comfyskill.base import cache, cli, flags, paths, text_files
from comfyskill.base.cli import Exit, Misuse, SkillError
from comfyskill.graph import facts as graph_facts
from comfyskill.graph import nodes
from comfyskill.server import facts
from comfyskill.server.facts import Facts, Inventory
from comfyskill.server.protocol import NodeDefinitions

BUNDLED = Path(__file__).resolve().parent.parent / "graph" / "core_definitions.json"


class Definitions(NamedTuple):
    """Node definitions by class (None: there are none), and their source. `origin`, `complete`: as in `facts.Facts`."""

    origin: str
    classes: NodeDefinitions | None = None
    complete: bool = True


def fetch(server: Facts, classes: Sequence[str] | None = None) -> Definitions:
    """The definitions of at least these classes (None: all); from the cache or the bundle where a server gives none.

    Raises SkillError `refused` or `unreachable`, and for an inventory without definitions.
    """
    if server.origin == "none":
        return Definitions("none", complete=False)
    try:
        return Definitions(server.origin, server.definitions(classes), server.complete)
    except SkillError as error:
        if server.live is None or error.exit in (Exit.UNREACHABLE, Exit.REFUSED):
            raise
        return fetch(without_server(server.url), classes)


def classes_of(graph: nodes.Graph) -> list[str]:
    """The class types of a graph, each once."""
    return sorted({nodes.class_of(node) for _, node in nodes.each(graph)})


def of_classes(server: Facts, classes: Sequence[str]) -> NodeDefinitions | None:
    """A server's definitions of at least these classes; None where it gives none, and the built-in tables must do.

    Raises SkillError for a server that is unreachable or refuses.
    """
    try:
        return server.definitions(classes)
    except SkillError as error:
        if error.exit in (Exit.UNREACHABLE, Exit.REFUSED):
            raise
        if error.code != "not_offered":
            cli.warn(f"node definitions could not be read; using the built-in tables: {error.message}")
        return None


def without_server(host: str | None = None) -> Inventory:
    """What was last seen of the server at this address (default: as for --host), else the bundled core nodes."""
    address = host or flags.configured_host() or flags.DEFAULT_HOST
    kept = cached(_common.normal_base(address)) if address != "demo" else None
    if kept:
        return saved_definitions("cache", kept)
    core = bundled()
    return saved_definitions("bundled" if core else "none", core, complete=False)


def saved_definitions(
    origin: str, definitions: Mapping[str, object] | None, *, complete: bool = True
) -> Inventory:
    """Facts that consist of node definitions alone."""
    return Inventory(
        {"definitions": definitions}, f"{origin} node definitions", origin=origin, complete=complete
    )


def cached(url: str) -> Mapping[str, object] | None:
    """What was last seen of a server's definitions."""
    return cache.recall_table(f"definitions/{cache.slug(url)}")


def bundled() -> NodeDefinitions | None:
    """The core nodes' definitions that come with this bundle, or None when it has none."""
    if not BUNDLED.is_file():
        return None
    definitions = from_file(str(BUNDLED))
    for class_type, definition in definitions.items():
        for section in definition["input"].values():
            for name, spec in section.items():
                # Only a server knows which model files exist.
                if graph_facts.model_folder(class_type, name) and len(spec) > 1:
                    section[name] = [
                        spec[0],
                        {key: value for key, value in spec[1].items() if key != "options"},
                    ]
    return definitions


def from_file(path: str) -> NodeDefinitions:
    """Node definitions saved with --object-info. Raises SkillError (exit 2) when the file holds none."""
    try:
        value = json.loads(text_files.read_bytes(paths.expanded(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise Misuse(
            f"cannot read node definitions from {path}", hint="save the server's /object_info there"
        ) from error
    if not isinstance(value, dict) or not any(
        isinstance(item, dict) and "input" in item for item in value.values()
    ):
        raise Misuse(f"{path} contains no node definitions", hint="save the server's /object_info there")
    return value


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
        help="ask no server: use cached definitions, else those of the core nodes",
    )
    group.add_argument(
        "--inventory",
        metavar="FILE",
        help="a file of check_deps.py --save-inventory; no server is asked",
    )
    flags.add_server_flags(parser)
    flags.add_quiet_flag(parser)


def from_flags(args: argparse.Namespace) -> Facts:
    """The server or the saved facts that the flags of `add_flags` name.

    A server that was not named (neither --host nor $COMFY_HOST) and does not answer is not a failure: the result is
    then as with --offline. Raises SkillError (exit 2) for contradicting flags, (3) for a named server out of reach.
    """
    _refuse_contradictions(args)
    if args.object_info:
        return saved_definitions("file", from_file(args.object_info))
    if args.inventory:
        return facts.load(args.inventory)
    if args.offline:
        return without_server(args.host)
    from comfyskill.server import connect

    try:
        return connect.connect_from(args)
    except SkillError as error:
        if error.code != "unreachable" or args.host or flags.configured_host():
            raise
        cli.note("no server answers; using cached or built-in definitions")
        return without_server(args.host)


def _refuse_contradictions(args: argparse.Namespace) -> None:
    given = [
        flag
        for flag, value in (("--object-info", args.object_info), ("--inventory", args.inventory))
        if value
    ]
    given += ["--offline"] if args.offline else []
    if len(given) > 1:
        raise Misuse(f"{given[0]} and {given[1]} contradict each other", hint="give one of them")
    # With --offline an address still says whose cached definitions are meant.
    if given and args.host and (given != ["--offline"] or args.host == "demo"):
        raise Misuse(f"{given[0]} asks no server", hint="omit --host")
