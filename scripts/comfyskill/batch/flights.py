"""The runs of a batch that are on one server now: waiting there, or executing.

Level 3. The server's own lane changes them; others only look, or take them all from a lane that is stuck.
"""

from __future__ import annotations

import time
from typing import Any

from comfyskill.batch.scheduler import Todo
from comfyskill.server import events
from comfyskill.server.watch import Watcher


class Flight:
    """A run on the server."""

    def __init__(self, todo: Todo, graph: dict[str, Any], seeds: dict[str, int], submitted: float) -> None:
        self.todo = todo
        self.graph = graph
        self.seeds = seeds
        self.submitted = submitted
        self.node_errors: dict[str, Any] = {}
        self.started: float | None = None
        self.pictures: list[tuple[str, events.Preview]] = []
        self.ours = True


class Flights(dict[str, Flight]):
    """Flights by prompt id, in the order of their submits."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self._watcher = watcher
        self.wanted: set[str] = set()  # prompt ids that an idle lane would take over

    def drop(self, prompt_id: str) -> None:
        """It is no longer this server's concern."""
        self.pop(prompt_id, None)
        self.wanted.discard(prompt_id)
        self._watcher.forget(prompt_id)

    def waiting(self) -> list[str]:
        """The prompt ids of the runs that have not started, as far as is known."""
        return [prompt_id for prompt_id, flight in list(self.items()) if flight.started is None]

    def running_longer_than(self, seconds: float) -> list[str]:
        """The prompt ids of runs that execute for longer than this."""
        started_before = time.monotonic() - seconds
        return [
            prompt_id
            for prompt_id, flight in list(self.items())
            if flight.started is not None and flight.started < started_before
        ]


__all__ = ["Flight", "Flights"]
