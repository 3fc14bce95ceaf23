"""A queued prompt of the demo server and its result.

Values only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from comfyskill.base.cli import Document
from comfyskill.demo.definitions import Definitions
from comfyskill.demo.folders import Folders
from comfyskill.demo.graph import Graph
from comfyskill.demo.options import Options
from comfyskill.demo.sockets import Hub


def now_ms() -> int:
    return int(time.time() * 1000)


@dataclass(eq=False)
class Item:
    """A prompt that waits or runs. `secrets` are separate: they must not appear anywhere."""

    number: float
    prompt_id: str
    prompt: Document
    extra_data: Document
    outputs: list[str]
    secrets: dict[str, str] = field(default_factory=dict)
    created: int = field(default_factory=now_ms)
    stop: bool = False
    started: int = 0

    def __lt__(self, other: Item) -> bool:
        return (self.number, self.prompt_id) < (other.number, other.prompt_id)

    def row(self) -> list[Any]:
        """The five elements of the protocol."""
        return [self.number, self.prompt_id, self.prompt, self.extra_data, self.outputs]


class Host(Protocol):
    """What a running prompt uses of the engine that runs it."""

    options: Options
    folders: Folders
    definitions: Definitions
    hub: Hub
    dress: Callable[[Mapping[str, list[Any]] | None], Mapping[str, list[Any]] | None]

    def changed(self, graph: Graph) -> Callable[[str], Any]: ...
    def keep_letters(self, prompt: Mapping[str, Any]) -> None: ...
    def temp_letters(self, node_id: str, class_name: str) -> str: ...
    def write_log(self, text: str) -> None: ...


class Running(Protocol):
    """What a call of a node's function uses of the run that it belongs to."""

    engine: Host
    item: Item
    graph: Graph
    client_id: str | None

    async def report_step(
        self, node_id: str, value: float, maximum: float, preview: Any, form: str, size: int
    ) -> None: ...
    def check_interrupt(self) -> None: ...


class Cache:
    """Results by node signature. As on the real server, only what the newest prompt could use is kept."""

    def __init__(self) -> None:
        self.kept: dict[Any, Kept] = {}

    def keep_only(self, signatures: Iterable[Any]) -> None:
        wanted = set(signatures)
        self.kept = {key: value for key, value in self.kept.items() if key in wanted}


@dataclass(frozen=True)
class Kept:
    """A node's result in the cache."""

    values: list[list[Any]]
    ui: Mapping[str, list[Any]] | None


@dataclass
class Outcome:
    """How a run ended, in the words of the history."""

    outputs: Document = field(default_factory=dict)
    meta: Document = field(default_factory=dict)
    messages: list[tuple[str, Document]] = field(default_factory=list)
    success: bool = True
