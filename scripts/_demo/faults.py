"""Faults on purpose. A fault is written `name[:key=value,...]`; see FAULTS for names and keys."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .sockets import Frame, Socket


@dataclass
class Fault:
    """One switch. `times` counts down (None: for ever), `after` lets the first few pass."""

    name: str
    values: dict[str, str] = field(default_factory=dict)
    times: int | None = None
    after: int = 0


class Faults:
    """The active switches, and the questions that the other rooms ask about them."""

    def __init__(self) -> None:
        self.active: list[Fault] = []
        self.socket_faults = False
        self.lock = threading.Lock()

    async def before_run(self, prompt_id: str) -> None:
        return None

    async def before_node(self, node_id: str, class_name: str) -> None:
        return None

    async def before_history(self, prompt_id: str) -> bool:
        return True

    async def after_run(self, prompt_id: str) -> None:
        return None

    def outgoing(self, socket: Socket, frame: Frame) -> list[Frame] | None:
        return [frame]
