"""The runs of a batch that are on one server now: waiting there, or executing.

The server's own lane changes them. Other lanes only read them, or take them all from a lane that is stuck.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from comfyskill.server import events
from comfyskill.server.watch import Watcher

if TYPE_CHECKING:
    from comfyskill.run.job import Options

MOST_LOST = 3
MOST_FAILURES_KEPT = 200
MOST_REPEATED = 3


class Flight:
    """A run on the server."""

    def __init__(self, todo: Todo, graph: dict[str, Any], seeds: dict[str, int], submitted: float) -> None:
        self.todo = todo
        self.graph = graph
        self.seeds = seeds
        self.submitted = submitted
        self.node_errors: dict[str, Any] = {}
        self.started: float | None = None  # when an event said so; a batch that polls gets no events
        self.seen_running = False  # the server's record said so
        self.pictures: list[tuple[str, events.Preview]] = []
        self.ours = True


class Flights(dict[str, Flight]):
    """Flights by prompt id, in the order of their submits."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self._watcher = watcher
        self.wanted: set[str] = set()  # prompt ids of waiting runs that an idle lane asks for

    def drop(self, prompt_id: str) -> None:
        """Forget a run that has left this server."""
        self.pop(prompt_id, None)
        self.wanted.discard(prompt_id)
        self._watcher.forget(prompt_id)

    def waiting(self) -> list[str]:
        """The prompt ids of the runs that have not started, as far as is known."""
        return [
            prompt_id
            for prompt_id, flight in list(self.items())
            if flight.started is None and not flight.seen_running
        ]

    def running_longer_than(self, seconds: float) -> list[str]:
        """The prompt ids of runs that execute for longer than this."""
        started_before = time.monotonic() - seconds
        return [
            prompt_id
            for prompt_id, flight in list(self.items())
            if flight.started is not None and flight.started < started_before
        ]


class BatchOptions(NamedTuple):
    """How to run a batch. `parallel`: concurrent runs per server; None: what suits the server. `hosts`: the --host
    values that the commands to continue it repeat."""

    folder: Path
    run: Options
    retries: int = 0
    stop_on_error: bool = False
    run_timeout: float | None = None
    parallel: int | None = None
    name: str | None = None
    retry_failed: bool = False
    hosts: tuple[str, ...] = ()
    trust: tuple[
        str, ...
    ] = ()  # the command line's --ca-bundle and --insecure, which these commands repeat too
    partner: bool = False  # its runs call partner nodes, which are paid each time: none is submitted twice


class Left(NamedTuple):
    """Where a run may still be: the server that was out of reach when the run was moved."""

    host: str
    prompt_id: str
    attempt: int


class Todo(NamedTuple):
    """A run that waits for a server. With `prompt_id`: it was submitted before and is looked up first, on `host`."""

    run: int
    attempt: int = 1
    prompt_id: str | None = None
    accepted: bool = False
    host: str | None = None
    lost: int = 0
    tried: int = 0  # failed attempts that were repeated
    freed: bool = False
    look: bool = False
    end: dict[str, Any] | None = None  # how it ended, when only its files are missing
    barred: frozenset[str] = frozenset()
    left: Left | None = None


class Tally:
    """Counts, and the failures that the report names."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.earlier = 0
        self.earlier_failed = 0
        self.files = 0
        self.size = 0
        self.moved = 0
        self.retried = 0
        self.resubmitted: set[int] = set()  # runs sent again: the server no longer had a record of them
        self.twice = 0  # moved runs that their first server finished too
        self.failed = 0  # how many failures there were, earlier sessions' included
        self.failures: list[dict[str, Any]] = []  # the first ones
        self.said: Counter[str] = Counter()

    @property
    def succeeded(self) -> int:
        """Runs that succeeded, earlier sessions' included."""
        return self.ends["success"] + self.earlier - self.earlier_failed

    @property
    def settled(self) -> int:
        """How many runs have come to an end in this session."""
        return sum(self.ends.values())
