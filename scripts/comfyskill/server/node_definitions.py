"""Node definitions from the best place at hand: the server, this user's cache of that server, the bundled core.

Level 2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import _common
from comfyskill.base import cache, cli, flags, paths, text_files
from comfyskill.base.cli import Exit, SkillError
from comfyskill.graph import facts, nodes
from comfyskill.server.protocol import Dialect

BUNDLED = Path(__file__).resolve().parent.parent / "graph" / "core_definitions.json"


class Definitions:
    """Node definitions and where they come from.

    origin: "server", "file", "inventory", "cache" (what was last seen of that server), "bundled" (core nodes only) or
    "none". complete: they hold every class that the server has, so that others are missing there and not just unknown
    here. A server is only asked when they are wanted; one that gives none changes both to those of the next best place.
    """

    def __init__(
        self,
        origin: str,
        value: Mapping[str, Any] | None = None,
        *,
        complete: bool = True,
        server: Dialect | None = None,
    ) -> None:
        self.origin = origin
        self.complete = complete
        self.server = server
        self._value = value

    def all(self) -> Mapping[str, Any] | None:
        """All of them, or None. Raises SkillError `refused` or `unreachable`."""
        return self._asked(lambda server: server.all_definitions())

    def of(self, classes: Sequence[str]) -> Mapping[str, Any] | None:
        """At least those of some classes, or None. Raises SkillError `refused` or `unreachable`."""
        return self._asked(lambda server: server.definitions(classes))

    def _asked(self, question: Callable[[Dialect], Mapping[str, Any]]) -> Mapping[str, Any] | None:
        if self.server is None or self.origin != "server":
            return self._value
        try:
            return question(self.server)
        except SkillError as error:
            if error.code in ("refused", "unreachable"):
                raise
            instead = without_server(self.server.url)
            self.origin, self.complete, self._value = instead.origin, instead.complete, instead._value
            return self._value


def classes_of(graph: Mapping[str, Any]) -> list[str]:
    """The class types of a graph, each once."""
    return sorted({nodes.class_of(node) for _, node in nodes.each(graph)})


def of_classes(server: Dialect, classes: Sequence[str]) -> dict[str, Any] | None:
    """A server's definitions of at least these classes; None where it gives none, and the built-in tables must do.

    Raises SkillError for a server that is out of reach or refuses: that is no answer at all.
    """
    try:
        return server.definitions(classes)
    except SkillError as error:
        if error.exit in (Exit.UNREACHABLE, Exit.REFUSED):
            raise
        if error.code != "not_offered":
            cli.warn(f"node definitions could not be read, so the built-in tables are used: {error.message}")
        return None


def of_server(server: Dialect) -> Definitions:
    """The definitions of a server, fetched when they are wanted."""
    return Definitions("server", server=server)


def without_server(host: str | None = None) -> Definitions:
    """What was last seen of the server at this address (default: as for --host), else the bundled core nodes."""
    address = host or os.environ.get("COMFY_HOST") or flags.DEFAULT_HOST
    kept = cached(_common.normal_base(address)) if address != "demo" else None
    if kept:
        return Definitions("cache", kept)
    core = bundled()
    return Definitions("bundled" if core else "none", core, complete=False)


def cached(url: str) -> Mapping[str, Any] | None:
    """What was last seen of a server's definitions."""
    return cache.recall_table(f"definitions/{cache.slug(url)}")


def bundled() -> Mapping[str, Any] | None:
    """The core nodes' definitions that come with this bundle, or None when it has none."""
    if not BUNDLED.is_file():
        return None
    definitions = from_file(str(BUNDLED))
    for class_type, definition in definitions.items():
        for section in definition["input"].values():
            for name, spec in section.items():
                # Which model files there are, only a server knows.
                if facts.model_folder(class_type, name) and len(spec) > 1:
                    section[name] = [
                        spec[0],
                        {key: value for key, value in spec[1].items() if key != "options"},
                    ]
    return definitions


def from_file(path: str) -> dict[str, Any]:
    """Node definitions saved with --object-info. Raises SkillError (exit 2) when the file holds none."""
    try:
        value = json.loads(text_files.read_bytes(paths.expanded(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise SkillError(
            f"cannot read node definitions from {path}", hint="save the server's /object_info there"
        ) from error
    if not isinstance(value, dict) or not any(
        isinstance(item, dict) and "input" in item for item in value.values()
    ):
        raise SkillError(f"{path} holds no node definitions", hint="save the server's /object_info there")
    return value
