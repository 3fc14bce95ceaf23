"""What the faults of `fault_list` do to frames, runs and the process."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from comfyskill.demo.engine import Engine
from comfyskill.demo.execution import Execution
from comfyskill.demo.item import Cache, Item, Outcome
from comfyskill.demo.node_table import Interrupted, NodeFailure
from comfyskill.demo.sockets import Frame, Hub, Socket
from equipment.fault_list import ENGINE, SOCKET, Fault, read_fault
from equipment.nodes import OOM_TEXT

FOREIGN = "00000000-0000-4000-8000-00000000f0e1"


@dataclass
class Sent:
    """What has been sent on a socket: the number of frames, and those that a fault holds back."""

    frames: int = 0
    held: list[Frame] = field(default_factory=list)


class Faults:
    """The active switches, and what the other modules ask about them."""

    def __init__(self, given: Iterable[Any] = ()) -> None:
        self.active: list[Fault] = []
        self.socket_faults = False
        self.how_to_end = "abort"
        self.starts = 0
        self.down_until = 0.0
        self.restart: Callable[[float], None] = lambda _down: None
        self.before_exit: Callable[[], None] = lambda: None
        self.changed = asyncio.Event()
        self.sent: weakref.WeakKeyDictionary[Socket, Sent] = weakref.WeakKeyDictionary()
        self.replace(given)

    def replace(self, given: Iterable[Any]) -> None:
        """Replace all switches by these. Raises ValueError."""
        self.active = [read_fault(item) for item in given]
        self.socket_faults = any(fault.name in SOCKET for fault in self.active)
        self.starts = 0
        self.down_until = 0.0
        for fault in self.named("down"):
            if fault.take():
                self.down_until = time.monotonic() + fault.number("ms") / 1000
        self.changed.set()
        self.changed = asyncio.Event()

    def named(self, *names: str) -> list[Fault]:
        return [fault for fault in self.active if fault.name in names] if self.active else []

    def strike(self, name: str, **wanted: str) -> Fault | None:
        """The first switch of this name whose values match, if it is due. Counts."""
        for fault in self.named(name):
            if all(fault.values.get(key) == value for key, value in wanted.items()) and fault.take():
                return fault
        return None

    def http(self, method: str, route: str) -> Fault | None:
        """The switch that applies to this request, or None."""
        for fault in self.active:
            if fault.name in SOCKET or fault.name in ENGINE or fault.name == "down":
                continue
            if fault.name == "401-mid-run" and self.starts < fault.number("starts"):
                continue
            if fault.values.get("method", "*") not in ("*", method):
                continue
            if fnmatchcase(route, fault.values.get("route", "*")) and fault.take():
                return fault
        return None

    def is_down(self) -> bool:
        return self.down_until > time.monotonic()

    # the process and its state

    def moment(self, name: str) -> None:
        """A point at which a fault may end the process or clear its state."""
        if not self.active:
            return
        if self.strike("die", at=name) is not None:
            self.before_exit()
            os._exit(1)
        restart = self.strike("restart", at=name)
        if restart is not None:
            self.restart(restart.number("down") / 1000)

    # runs

    async def before_run(self) -> None:
        self.starts += 1
        if not self.active:
            return
        self.moment("start")
        slow = self.strike("slow-start")
        if slow is not None:
            await asyncio.sleep(slow.number("ms") / 1000)

    async def before_node(self, node_id: str, class_name: str, stopped: Callable[[], bool]) -> None:
        if not self.active:
            return
        self.moment("node")
        for fault in self.named("oom", "fail", "stuck"):
            if fault.values["node"] not in ("*", node_id, class_name) or not fault.take():
                continue
            if fault.name == "oom":
                raise NodeFailure("torch.OutOfMemoryError", OOM_TEXT)
            if fault.name == "fail":
                raise NodeFailure(fault.values["kind"], fault.values["message"])
            while fault in self.active and not stopped():
                await asyncio.sleep(0.02)
            if stopped():
                raise Interrupted

    async def before_history(self) -> bool:
        """Wait as the fault says; False when the run must leave no trace."""
        if not self.active:
            return True
        self.moment("end")
        late = self.strike("history-late")
        if late is not None:
            await asyncio.sleep(late.number("ms") / 1000)
        return self.strike("job-lost", at="end") is None

    # frames

    def outgoing(self, socket: Socket, frame: Frame) -> list[Frame] | None:
        """The frames to send instead of one frame; None ends the connection."""
        sent = self.sent.setdefault(socket, Sent())
        position = sent.frames
        sent.frames += 1
        frames: list[Frame] = [frame]
        for fault in self.named(*SOCKET):
            answer = self._change(fault, sent, position, frames)
            if answer is None:
                return None
            frames = answer
        return frames

    def _change(self, fault: Fault, sent: Sent, position: int, frames: list[Frame]) -> list[Frame] | None:
        if fault.name == "drop-socket":
            if position < fault.number("frames") or not fault.take():
                return frames
            self.how_to_end = fault.values["how"]
            return None
        if fault.name == "silent-socket":
            return [] if position >= fault.number("frames") else frames
        if fault.name == "lose-frames":
            return [frame for frame in frames if not _is_type(frame, fault.values["type"])]
        if not _due(fault, position) or not fault.take():
            if sent.held and fault.name == "reorder-frames":
                held, sent.held = sent.held, []
                return [*frames, *held]
            return frames
        if fault.name == "reorder-frames":
            sent.held += frames
            return []
        if fault.name == "duplicate-frames":
            return [copy for frame in frames for copy in (frame, frame)]
        if fault.name == "truncate-frames":
            return [frame[: len(frame) // 2] for frame in frames]
        return [*frames, *_extra(fault)]


class FaultyHub(Hub):
    """A hub whose frames the faults change."""

    def __init__(self, faults: Faults, features: Callable[[], dict[str, Any]]) -> None:
        super().__init__(features)
        self.faults = faults

    async def deliver_to(self, socket: Socket, frames: list[Frame]) -> None:
        if not self.faults.socket_faults:
            await super().deliver_to(socket, frames)
            return
        changed: list[Frame] = []
        for frame in frames:
            answer = self.faults.outgoing(socket, frame)
            if answer is None:
                await super().deliver_to(socket, changed)
                if self.faults.how_to_end == "close" and socket.request.transport is not None:
                    socket.request.transport.write(b"\x88\x02" + struct.pack(">H", 1011))
                socket.cut()
                return
            changed += answer
        await super().deliver_to(socket, changed)


class FaultyExecution(Execution):
    """A run that the faults delay, stop or break."""

    engine: FaultyEngine

    async def run(self) -> Outcome:
        await self.engine.faults.before_run()
        cached = [node_id for node_id in self.item.prompt if self._kept(node_id) is not None]
        outcome = await super().run()
        self.current = None
        if self.engine.faults.named("all-cached"):
            for node_id in cached:
                kept = self._kept(node_id)
                if kept is not None and kept.ui is not None:
                    self._record_ui(node_id, kept.ui)
        if not await self.engine.faults.before_history():
            self.engine.traceless.add(self.item)
        return outcome

    async def play(self, node_id: str, cls: Any, player: Any, values: Any) -> Any:
        await self.engine.faults.before_node(node_id, cls.name, lambda: self.item.stop)
        return await super().play(node_id, cls, player, values)


class FaultyEngine(Engine):
    """An engine that the faults pause, and that can lose its jobs. `traceless`: runs that the history must not keep."""

    execution_class = FaultyExecution

    def __init__(self, faults: Faults, *parts: Any) -> None:
        super().__init__(*parts)
        self.faults = faults
        self.traceless: weakref.WeakSet[Item] = weakref.WeakSet()

    def put(self, item: Item) -> None:
        if self.faults.strike("job-lost", at="accepted") is None:
            super().put(item)

    async def wait_for_work(self, cache: Cache) -> None:
        await super().wait_for_work(cache)
        while self.faults.named("paused"):
            await self.faults.changed.wait()
            await super().wait_for_work(cache)

    async def run_item(self, item: Item, cache: Cache) -> None:
        await super().run_item(item, cache)
        self.faults.moment("history")

    def store(self, item: Item, outcome: Outcome) -> None:
        if item not in self.traceless:
            super().store(item, outcome)

    def forget(self) -> None:
        """Lose all state, as a restart does. Runs are stopped and leave no trace."""
        for item in [*self.pending, *self.running.values()]:
            self.on_change("removed", item, "")
        for item in self.running.values():
            item.stop = True
            self.traceless.add(item)
        self.pending.clear()
        self.history.clear()
        for cache in self.caches:
            cache.kept.clear()
        self.letters.clear()
        self.number = 0


def _due(fault: Fault, position: int) -> bool:
    every = int(fault.number("every"))
    if every:
        return position % every == 0
    return position == int(fault.number("at"))


def _is_type(frame: Frame, name: str) -> bool:
    return isinstance(frame, str) and frame.startswith(f'{{"type": "{name}"')


def _extra(fault: Fault) -> list[Frame]:
    if fault.name == "big-frame":
        return [json.dumps({"type": "demo_big", "data": {"text": "x" * int(fault.number("bytes"))}})]
    if fault.name == "unknown-frames":
        return [
            json.dumps({"type": "demo_unknown", "data": {"a": [1, None]}}),
            struct.pack(">I", 99) + b"unknown",
        ]
    if fault.name == "foreign-frames":
        error = {
            "prompt_id": FOREIGN,
            "node_id": "1",
            "node_type": "X",
            "exception_message": "not yours",
            "executed": [],
        }
        done = {"node": None, "prompt_id": FOREIGN}
        return [
            json.dumps({"type": kind, "data": data})
            for kind, data in (
                ("execution_start", {"prompt_id": FOREIGN}),
                ("execution_error", error),
                ("execution_success", {"prompt_id": FOREIGN}),
                ("executing", done),
            )
        ]
    kinds: dict[str, list[Frame]] = {
        "text": ["this is not JSON {", "\x1b[31m\u202e"],
        "json": [
            "null",
            "[1]",
            "5",
            '{"type": 5}',
            '{"type": "executing"}',
            '{"type": "executing", "data": null}',
        ],
        "binary": [
            b"",
            b"\x00",
            b"\x00\x00\x00\x01",
            b"\x00\x00\x00\x04\xff\xff\xff\xff{",
            b"\x00\x00\x00\x03\x00\x00",
        ],
    }
    return kinds.get(fault.values.get("kind", "text"), kinds["text"])
