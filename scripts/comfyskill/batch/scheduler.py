"""Schedules a batch: which run goes to which server next, how each run ended, when the batch is over.

One lane (thread) for each server takes runs from here and reports back; a few threads fetch files; the main
thread waits, shows progress and receives signals. Memory holds only runs under way; the journal holds the rest.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from comfyskill.base import cli
from comfyskill.batch.fill import Recipe
from comfyskill.batch.flights import MOST_FAILURES_KEPT, MOST_REPEATED, BatchOptions, Tally, Todo
from comfyskill.batch.journal import Journal, Recorded, RunRecord
from comfyskill.batch.plan import OUTPUT_COLUMN

if TYPE_CHECKING:
    from comfyskill.batch.flights import Flights
    from comfyskill.server.protocol import Dialect

# If the first runs are all rejected, this many are enough to blame the graph itself.
HOPELESS = 5


class ServerLane(Protocol):
    """What a batch asks of the lane of one server."""

    url: str
    server: Dialect
    takes_runs: bool
    away: bool
    doing: str
    failure: cli.SkillError | None
    flights: Flights

    @property
    def seconds_each(self) -> float | None: ...
    def is_alive(self) -> bool: ...
    def backlog(self) -> float: ...
    def silent_for(self) -> float: ...
    def seize(self) -> None: ...


class Batch:
    """The shared state of a batch. Lanes and fetchers call it from their own threads."""

    def __init__(
        self,
        recipe: Recipe,
        options: BatchOptions,
        journal: Journal,
        recorded: Recorded,
        *,
        look: int = 0,
    ) -> None:
        """`recorded`: what earlier sessions left. `look`: how many runs after the last recorded one may be on a
        server although the journal lacks them (a power cut)."""
        self.recipe = recipe
        self.options = options
        self.journal = journal
        self.listed = (
            listed if isinstance(listed := recorded.plan.get("hosts"), list) else []
        )  # by the journal
        self.lanes: list[ServerLane] = []
        self.tally = Tally()
        self.started = time.monotonic()
        self.stopping: str | None = (
            None  # interrupted, failed (--stop-on-error), refused, hopeless, abandoned
        )
        self.failure: cli.SkillError | None = None
        self.lost: cli.SkillError | None = None  # set when the output folder was removed
        self.seconds: deque[float] = deque(maxlen=50)
        self._changed = threading.Condition()
        self._waiting: deque[Todo] = deque()
        self._settled: set[int] = set()
        self._known: set[int] = set(recorded.runs)
        self._left = {host: dict.fromkeys(ids) for host, ids in recorded.left.items()}
        self._sort(recorded.runs)
        self._look_until = max(recorded.runs, default=-1) + look if look else -1
        self._fresh = self._unrecorded()
        self.all_given = False  # whether the lanes have every run by now
        self._out = 0  # runs taken and not yet ended or put back
        self.to_do = recipe.plan.count - self.tally.earlier

    def _sort(self, recorded: dict[int, RunRecord]) -> None:
        """What an earlier session left: finished ones are done, submitted ones are looked up, others run."""
        for run, record in sorted(recorded.items()):
            if record.status in ("planned", "submitted", "finished", "download_failed"):
                self._waiting.append(_again(record))
                if record.left_on is not None:
                    # Not submitted elsewhere yet: it is followed there, should that server answer again.
                    self._left.get(record.left_on, {}).pop(record.prompt_id or "", None)
            elif record.status in ("unknown", "lost") and self.options.retry_failed:
                # It may have run: it is looked for before it is sent again.
                self._waiting.append(_again(record))
            elif record.status != "success" and self.options.retry_failed:
                self._waiting.append(Todo(run, record.attempt + 1))
            else:
                self.tally.earlier += 1
                if record.status != "success":
                    self.tally.earlier_failed += 1
                    self._remember(run, record.status, record.facts, record.host, earlier=True)

    def _unrecorded(self) -> Iterator[Todo]:
        for run in range(self.recipe.plan.count):
            if run not in self._known:
                yield Todo(run, look=run <= self._look_until)

    # --- for lanes
    def prompt_id(self, run: int, attempt: int) -> str:
        """The id of a run's attempt: the same in every session, so that a lost line does not lose the job."""
        return str(uuid.uuid5(uuid.UUID(self.recipe.plan.key), f"{run}:{attempt}"))

    def take(self, url: str) -> Todo | None:
        """The next run for this server, or None when there is nothing for it at the moment."""
        with self._changed:
            if self.stopping:
                return None
            for at, todo in enumerate(self._waiting):
                if self._fits(todo, url):
                    del self._waiting[at]
                    self._out += 1
                    return todo
            fresh = next(self._fresh, None)
            if fresh is not None:
                self._out += 1
            self.all_given = fresh is None and not self._waiting
            return fresh

    def _fits(self, todo: Todo, url: str) -> bool:
        if todo.host is not None and todo.prompt_id is not None and todo.host != url:
            # It may be on that server; another one takes it only when that one is out of reach or not used.
            return not any(
                other.url == todo.host and other.takes_runs and not other.away for other in self.lanes
            )
        return url not in todo.barred or not any(
            other.url not in todo.barred and other.takes_runs for other in self.lanes
        )

    def put_back(self, todo: Todo) -> None:
        """Queue a run for the next free lane."""
        with self._changed:
            self._waiting.append(todo)
            self._out -= 1
            self._changed.notify_all()

    def moved(self, todo: Todo, prompt_id: str, host: str, *, left: bool) -> None:
        """A run leaves a server. `left`: it may still be there, and is to be cancelled when that server answers."""
        facts = {"from": host} | ({"left": True} if left else {})
        self.journal.write("moved", run=todo.run, attempt=todo.attempt, prompt_id=prompt_id, **facts)
        with self._changed:
            self.tally.moved += 1
            if left:
                self._left.setdefault(host, {})[prompt_id] = None

    def left_on(self, host: str) -> list[str]:
        """The prompt ids of runs that were moved away from a server and may still be there."""
        if not self._left:
            return []
        with self._changed:
            return list(self._left.get(host, ()))

    def cleared(self, host: str, prompt_id: str) -> None:
        """A run that was left on a server is no longer there."""
        self.journal.write("cleared", prompt_id=prompt_id, **{"from": host})
        with self._changed:
            self._left.get(host, {}).pop(prompt_id, None)

    def reclaim(self, host: str) -> None:
        """A silent server answers again: moved runs that still wait are looked for there first."""
        found = []
        with self._changed:
            for at, todo in enumerate(self._waiting):
                if todo.left is not None and todo.left.host == host:
                    found.append(todo.left.prompt_id)
                    self._waiting[at] = todo._replace(
                        attempt=todo.left.attempt, prompt_id=todo.left.prompt_id, accepted=True, host=host, left=None,
                        barred=todo.barred - {host},
                    )  # fmt: skip
        for prompt_id in found:
            self.cleared(host, prompt_id)

    def unsettled(self, server: Dialect) -> list[str]:
        """Prompt ids that were sent to a server before and have not been looked for since: they may run there."""
        with self._changed:
            return [
                todo.prompt_id
                for todo in self._waiting
                if todo.prompt_id is not None
                and todo.host == server.url
                and todo.end is None
                and (todo.accepted or server.own_ids)
            ]

    @property
    def left(self) -> dict[str, list[str]]:
        """Server -> prompt ids that may still be there although their runs are ours to do elsewhere."""
        with self._changed:
            return {host: list(ids) for host, ids in self._left.items() if ids}

    def settle(
        self, run: int, status: str, facts: dict[str, Any], host: str | None, files: list[dict[str, Any]]
    ) -> None:
        """A run has ended and its files are fetched."""
        with self._changed:
            self._out -= 1
            if run in self._settled:
                return
            self._settled.add(run)
            self.tally.ends[status] += 1
            self.tally.files += len(files)
            self.tally.size += sum(int(item.get("bytes") or 0) for item in files)
            if status != "success":
                self._remember(run, status, facts, host)
                self._weigh_failure(status)
            # Waking every thread after each short run would cost more than the runs.
            if self.stopping or self.complete:
                self._changed.notify_all()

    def _remember(
        self, run: int, status: str, facts: dict[str, Any], host: str | None, *, earlier: bool = False
    ) -> None:
        self.tally.failed += 1
        message = str(facts.get("message") or facts.get("code") or "see the journal")
        if message in self.tally.said or len(self.tally.said) < MOST_FAILURES_KEPT:
            self.tally.said[message] += 1
        if not earlier:
            self._warn(run, status, message)
        if len(self.tally.failures) >= MOST_FAILURES_KEPT:
            return
        row = {"run": run, "status": status, "values": self.values(run)}
        # Repeating the same hint would bury the other failures.
        first = ("hint",) if self.tally.said[message] == 1 else ()
        row |= {
            key: facts[key]
            for key in ("code", "message", "server_said", "prompt_id", *first)
            if facts.get(key)
        }
        if host:
            row["host"] = host
        self.tally.failures.append(row)

    def _warn(self, run: int, status: str, message: str) -> None:
        times = self.tally.said.get(message)
        if times is None:
            if self.tally.failed == MOST_FAILURES_KEPT + 1:
                cli.warn("further failures are only counted; results.csv and the journal list them all")
        elif times <= MOST_REPEATED:
            more = " (further failures like this are only counted)" if times == MOST_REPEATED else ""
            cli.warn(f"run {run} {status}: {message}{more}")

    def _weigh_failure(self, status: str) -> None:
        if self.options.stop_on_error and self.stopping is None:
            self.stopping = "failed"
        rejected = self.tally.ends["rejected"]
        if rejected == HOPELESS and rejected == self.tally.settled and status == "rejected":
            self.stopping = self.stopping or "hopeless"

    def values(self, run: int) -> dict[str, Any]:
        """What a run sets, without the name of its files."""
        return {name: value for name, value in self.recipe.plan.values(run).items() if name != OUTPUT_COLUMN}

    def stop(self, why: str, failure: cli.SkillError | None = None) -> None:
        """Take nothing new; lanes cancel what is theirs (except when `abandoned`: then they leave it)."""
        with self._changed:
            self.stopping = self.stopping or why
            self.failure = self.failure or failure
            self._changed.notify_all()

    def disk_failed(self, error: OSError) -> None:
        """Stop: the journal or the files cannot be written, so going on would lose results."""
        if not self.folder_lost():
            said = error.strerror or type(error).__name__
            self.stop(
                "disk", cli.SkillError(f"cannot write into the output folder: {said}", code="system_error")
            )

    def folder_lost(self) -> bool:
        """Whether the output folder was removed or replaced; then the batch stops and writes nothing more."""
        if self.lost is None and self.journal.gone():
            self.journal.close()
            self.lost = cli.SkillError(
                f"the output folder {self.options.folder} was removed while the batch ran; its journal and the files in "
                "it are lost", code="output_gone", hint="it cannot be resumed: start the batch again",
            )  # fmt: skip
            self.stop("disk", self.lost)
        return self.lost is not None

    def wait(self, seconds: float) -> None:
        """Sleep until something changes, at most this long."""
        with self._changed:
            self._changed.wait(seconds)

    def wake(self) -> None:
        """Something has changed."""
        with self._changed:
            self._changed.notify_all()

    @property
    def over(self) -> bool:
        """Whether every run has ended, or no lane is left to run the rest."""
        with self._changed:
            if self.tally.settled >= self.to_do:
                return True
            return not any(lane.is_alive() for lane in self.lanes) and (
                self.stopping is not None or not self._out
            )

    @property
    def complete(self) -> bool:
        """Whether every run has ended."""
        return self.tally.settled >= self.to_do

    @property
    def usual(self) -> float | None:
        """Median execution time of a run in seconds, None while unknown."""
        known = sorted(self.seconds)
        return known[len(known) // 2] if known else None

    def ask_for_work(self, idle: ServerLane) -> None:
        """Move work to an idle lane: all runs of a silent server, or the last waiting run of the busiest lane.

        A run that a server executes stays there, however slow that server is: the work done so far would be lost.
        """
        with self._changed:
            if self._waiting or self.stopping or self.options.partner:
                return
            others = [lane for lane in self.lanes if lane is not idle and lane.flights]
            for lane in others:
                if lane.silent_for() > self.options.run.patience:
                    lane.seize()
                    return
            mine = idle.seconds_each or self.usual
            busiest = max(others, key=lambda lane: lane.backlog(), default=None)
            if busiest is None or mine is None or busiest.flights.wanted:
                return
            waiting = busiest.flights.waiting()
            if waiting and busiest.backlog() > 1.5 * mine:
                busiest.flights.wanted.add(waiting[-1])


def _again(record: RunRecord) -> Todo:
    if record.left_on is not None:
        return Todo(record.run, record.attempt, record.prompt_id, True, record.left_on)
    if record.status == "planned":
        return Todo(record.run, record.attempt + 1)
    end = record.facts if record.status in ("finished", "download_failed") else None
    accepted = bool(record.facts.get("accepted"))
    return Todo(record.run, max(record.attempt, 1), record.prompt_id, accepted, record.host, end=end)
