"""The values of a running batch: runs that wait, runs on a server, what is known of each server, and the counts."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from comfyskill.base.cli import Document, SkillError
from comfyskill.run.job import Options
from comfyskill.server import events
from comfyskill.server.protocol import Dialect, Graph

MOST_LOST = 3
# A short run takes less than this (s). Also the guess for a server on which no run has ended yet.
SHORT = 0.4


class BatchOptions(NamedTuple):
    """How to run a batch.

    parallel: concurrent runs per server; None: what suits the server. hosts: the --host values that the commands to
    continue it repeat; trust: the command line's --ca-bundle and --insecure, which they repeat too. partner: its runs
    call partner nodes, which are paid each time, so none is submitted twice.
    """

    folder: Path
    run: Options
    retries: int = 0
    stop_on_error: bool = False
    run_timeout: float | None = None
    parallel: int | None = None
    name: str | None = None
    retry_failed: bool = False
    hosts: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()
    partner: bool = False


class Left(NamedTuple):
    """Where a run may still be: the server that did not answer when the run was moved."""

    host: str
    prompt_id: str
    attempt: int


class Todo(NamedTuple):
    """A run that waits for a server.

    prompt_id: it was submitted before, and is looked up first, on `host`. perhaps_sent: it may have been submitted although the
    journal lacks it. tried: failed attempts that were repeated. end: how it ended, when only its files are missing.
    """

    run: int
    attempt: int = 1
    prompt_id: str | None = None
    accepted: bool = False
    host: str | None = None
    lost: int = 0
    tried: int = 0
    freed: bool = False
    perhaps_sent: bool = False
    end: Document | None = None
    barred: frozenset[str] = frozenset()
    left: Left | None = None

    def again(self) -> Todo:
        """The next attempt of this run, on any server."""
        return self._replace(attempt=self.attempt + 1, prompt_id=None, host=None, accepted=False)


class Flight:
    """A run on a server."""

    def __init__(self, todo: Todo, graph: Graph, seeds: dict[str, int], submitted: float) -> None:
        self.todo = todo
        self.graph = graph
        self.seeds = seeds
        self.submitted = submitted
        self.node_errors: Document = {}
        self.started: float | None = None  # when an event reported it; a batch that polls gets no events
        self.seen_running = False  # the server's record reported it
        self.pictures: list[tuple[str, events.Preview]] = []
        self.ours = True


class ServerRuns:
    """The runs of a batch that are on one server, in the order of their submits, and how that server is doing.

    Its lane changes it. The scheduler, in the threads of other lanes, reads it, asks for runs and takes them away.
    """

    def __init__(self, server: Dialect) -> None:
        self.server = server
        self.url = server.url
        self.takes_runs = True  # it may (again) take runs
        self.away = False  # it does not answer
        self.ended = False  # its lane has ended
        self.failure: SkillError | None = None  # why its lane ended early
        self.doing = ""
        self.count = 0  # runs that ended here
        self.seconds_each: float | None = None  # execution time of a run, smoothed
        self.submitting: str | None = None  # the prompt id of a submit without an answer
        self.heard = 0.0  # when the server last answered while its runs were being stopped
        self._round = time.monotonic()
        self._lock = threading.Lock()
        self._flights: dict[str, Flight] = {}
        self._asked_for: set[str] = set()

    def __len__(self) -> int:
        return len(self._flights)

    @property
    def ids(self) -> list[str]:
        """The prompt ids of the runs here."""
        with self._lock:
            return list(self._flights)

    def add(self, prompt_id: str, flight: Flight) -> None:
        """A run was submitted here, or found here."""
        with self._lock:
            self._flights[prompt_id] = flight

    def get(self, prompt_id: str) -> Flight | None:
        """A run, or None when it is not here any more."""
        return self._flights.get(prompt_id)

    def remove(self, prompt_id: str) -> Flight | None:
        """Take a run from this list: only one thread gets it, the others get None."""
        with self._lock:
            self._asked_for.discard(prompt_id)
            return self._flights.pop(prompt_id, None)

    def remove_all(self) -> list[tuple[str, Flight]]:
        """Take all runs, the last one first: the executing one is the most likely to be done when the server is back."""
        with self._lock:
            taken = list(self._flights.items())[::-1]
            self._flights.clear()
            self._asked_for.clear()
            return taken

    def executing_last(self) -> list[tuple[str, Flight]]:
        """The runs here, those that have started at the end."""
        with self._lock:
            last_first = list(self._flights.items())[::-1]
        return sorted(last_first, key=lambda item: item[1].started is not None)

    def longer_than(self, seconds: float) -> list[str]:
        """The prompt ids of runs that execute for longer than this."""
        before = time.monotonic() - seconds
        with self._lock:
            return [
                prompt_id
                for prompt_id, flight in self._flights.items()
                if flight.started is not None and flight.started < before
            ]

    def waiting(self) -> list[str]:
        """The prompt ids of the runs that have not started, as far as is known."""
        with self._lock:
            return [
                prompt_id
                for prompt_id, flight in self._flights.items()
                if flight.started is None and not flight.seen_running
            ]

    def ask_for(self, prompt_id: str) -> None:
        """Another server is idle: its lane asks for this waiting run."""
        with self._lock:
            if prompt_id in self._flights:
                self._asked_for.add(prompt_id)

    @property
    def asked_for(self) -> list[str]:
        """The waiting runs that other lanes ask for."""
        with self._lock:
            return list(self._asked_for)

    def keep(self, prompt_id: str) -> None:
        """A run that was asked for stays here."""
        with self._lock:
            self._asked_for.discard(prompt_id)

    def backlog(self, usual: float | None) -> float:
        """Estimated seconds until the last run here starts. `usual`: the time of a run on any server."""
        waiting = len(self.waiting())
        return waiting * (self.seconds_each or usual or (SHORT if not waiting else 60.0))

    def lane_works(self) -> None:
        """The lane has completed a round: its server answers."""
        self._round = time.monotonic()

    def silent_for(self) -> float:
        """Seconds since the lane completed a round: a server that does not answer blocks it."""
        return time.monotonic() - self._round


class Tally:
    """Counts, and the failures that the report names."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.earlier = 0
        self.earlier_failed = 0
        self.files = 0
        self.size = 0
        self.events: Counter[str] = Counter()  # moved, retried, ran_twice
        self.resubmitted: set[int] = set()  # runs sent again: the server no longer had a record of them
        self.failed = 0  # earlier sessions' failures included
        self.failures: list[Document] = []  # the first ones
        self.messages: Counter[str] = Counter()

    @property
    def succeeded(self) -> int:
        """Runs that succeeded, earlier sessions' included."""
        return self.ends["success"] + self.earlier - self.earlier_failed

    @property
    def settled(self) -> int:
        """Runs that ended in this session."""
        return sum(self.ends.values())
