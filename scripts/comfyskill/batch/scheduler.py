"""Schedules a batch: which run goes to which server next, how each run ended, when the batch is over.

One lane (thread) for each server takes runs from here and reports back; a few threads fetch files; the main
thread waits, shows progress and receives signals. Memory holds only runs under way; the journal holds the rest.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence

from comfyskill.base import cli, foreign
from comfyskill.base.cli import Document
from comfyskill.batch.fill import Recipe
from comfyskill.batch.flights import BatchOptions, Left, ServerRuns, Tally, Todo
from comfyskill.batch.journal import Journal, Recorded, RunRecord
from comfyskill.batch.plan import OUTPUT_COLUMN
from comfyskill.server.protocol import Dialect

# If the first runs are all rejected, this many are enough to blame the graph itself.
HOPELESS = 5
MOST_FAILURES_KEPT = 200
# Warnings with the same message.
MOST_REPEATED = 3


class Batch:
    """The shared state of a batch. Lanes and fetchers call it from their own threads."""

    def __init__(
        self,
        recipe: Recipe,
        options: BatchOptions,
        journal: Journal,
        recorded: Recorded,
        *,
        lost_lines: int = 0,
    ) -> None:
        """recorded: what earlier sessions left. lost_lines: how many runs after the last recorded one may be on a
        server although the journal lacks them (a power cut)."""
        self.recipe = recipe
        self.options = options
        self.journal = journal
        self.listed = foreign.items(recorded.plan.get("hosts"))  # by the journal
        self.servers: list[ServerRuns] = []
        self.tally = Tally()
        self.started = time.monotonic()
        # interrupted, failed (--stop-on-error), refused, hopeless, disk, server, fault, abandoned
        self.stopping: str | None = None
        self.failure: cli.SkillError | None = None
        self.lost: cli.SkillError | None = None  # set when the output folder was removed
        self.all_taken = False  # the lanes have every run by now
        self._seconds: deque[float] = deque(maxlen=50)
        self._changed = threading.Condition()
        self._waiting: deque[Todo] = deque()
        self._settled: set[int] = set()
        self._known: set[int] = set(recorded.runs)
        self._silent: set[str] = set()  # servers whose runs were moved because they did not answer
        self._left = {host: dict.fromkeys(ids) for host, ids in recorded.left.items()}
        self._sort(recorded.runs)
        self._perhaps_sent = max(recorded.runs, default=-1) + lost_lines if lost_lines else -1
        self._fresh = self._unrecorded()
        self._out = 0  # runs taken and not yet ended or put back
        self.to_do = recipe.plan.count - self.tally.earlier

    def _sort(self, recorded: Mapping[int, RunRecord]) -> None:
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
                    self._count_failure(run, record.status, record.facts, record.host)

    def _unrecorded(self) -> Iterator[Todo]:
        for run in range(self.recipe.plan.count):
            if run not in self._known:
                yield Todo(run, perhaps_sent=run <= self._perhaps_sent)

    def prompt_id(self, run: int, attempt: int) -> str:
        """The id of a run's attempt: the same in every session, so that a lost line does not lose the job."""
        return str(uuid.uuid5(uuid.UUID(self.recipe.plan.key), f"{run}:{attempt}"))

    def values(self, run: int) -> Document:
        """What a run sets, without the name of its files."""
        return {name: value for name, value in self.recipe.plan.values(run).items() if name != OUTPUT_COLUMN}

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
            self.all_taken = fresh is None and not self._waiting
            return fresh

    def _fits(self, todo: Todo, url: str) -> bool:
        if todo.host is not None and todo.prompt_id is not None and todo.host != url:
            # It may be on that server; another one takes it only when that one does not answer or is not used.
            return not any(
                here.url == todo.host and here.takes_runs and not here.away for here in self.servers
            )
        return url not in todo.barred or not self.accepted_elsewhere(todo.barred)

    def accepted_elsewhere(self, barred: Collection[str]) -> bool:
        """Whether a server that is not among the barred ones takes runs."""
        return any(here.url not in barred and here.takes_runs for here in self.servers)

    def others_work(self, url: str) -> bool:
        """Whether another server than this one takes runs now."""
        return any(here.url != url and here.takes_runs and not here.away for here in self.servers)

    def put_back(self, todo: Todo) -> None:
        """Queue a run for the next free lane."""
        with self._changed:
            self._waiting.append(todo)
            self._out -= 1
            self._changed.notify_all()

    def move(self, todo: Todo, prompt_id: str, host: str, *, left: bool) -> None:
        """Take a run off a server and queue it for another one. `left`: see `note_move`."""
        self.note_move(todo, prompt_id, host, left=left)
        place = Left(host, prompt_id, todo.attempt) if left else None
        self.put_back(todo.again()._replace(barred=todo.barred | {host}, left=place))

    def note_move(self, todo: Todo, prompt_id: str, host: str, *, left: bool) -> None:
        """Record that a run leaves a server. `left`: it may still be there, to be cancelled when that server answers."""
        facts: Document = {"from": host} | ({"left": True} if left else {})
        self.journal.write("moved", run=todo.run, attempt=todo.attempt, prompt_id=prompt_id, **facts)
        with self._changed:
            self.tally.events["moved"] += 1
            if left:
                self._left.setdefault(host, {})[prompt_id] = None

    def ask_for_work(self, idle: ServerRuns) -> None:
        """Move work to an idle server: all runs of a silent one, or the last waiting run of the busiest one.

        A run that a server executes stays there, however slow that server is: the work done so far would be lost.
        """
        with self._changed:
            if self._waiting or self.stopping or self.options.partner:
                return
            others = [here for here in self.servers if here is not idle and len(here)]
            usual = self.usual_seconds
        patience = self.options.run.patience
        silent = next((here for here in others if here.silent_for() > patience), None)
        if silent is not None:
            self.became_silent(silent.url)
            for prompt_id, flight in silent.remove_all():
                self.move(flight.todo, prompt_id, silent.url, left=True)
            return
        mine = idle.seconds_each or usual
        busiest = max(others, key=lambda here: here.backlog(usual), default=None)
        if busiest is None or mine is None or busiest.asked_for:
            return
        waiting = busiest.waiting()
        if waiting and busiest.backlog(usual) > 1.5 * mine:
            busiest.ask_for(waiting[-1])

    def became_silent(self, host: str) -> None:
        """A server does not answer, and its runs are moved: see `reclaim`."""
        with self._changed:
            self._silent.add(host)

    def was_silent(self, host: str) -> bool:
        """Whether runs were moved away from a silent server, and nothing was heard of it since."""
        return host in self._silent and bool(self.left_on(host))

    def reclaim(self, host: str) -> None:
        """A silent server answers again: moved runs that still wait are looked for there first."""
        found = []
        with self._changed:
            self._silent.discard(host)
            for at, todo in enumerate(self._waiting):
                if todo.left is not None and todo.left.host == host:
                    found.append(todo.left.prompt_id)
                    self._waiting[at] = todo._replace(
                        attempt=todo.left.attempt, prompt_id=todo.left.prompt_id, accepted=True, host=host, left=None,
                        barred=todo.barred - {host},
                    )  # fmt: skip
        for prompt_id in found:
            self.cleared(host, prompt_id)

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

    @property
    def left(self) -> dict[str, list[str]]:
        """Server -> prompt ids that may still be there although their runs are now to be done elsewhere."""
        with self._changed:
            return {host: list(ids) for host, ids in self._left.items() if ids}

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

    def count(self, event: str) -> None:
        """Count something that happened to a run: `retried` or `ran_twice`."""
        with self._changed:
            self.tally.events[event] += 1

    def count_resubmitted(self, run: int) -> None:
        """A run is sent again, because the server no longer has a record of it."""
        with self._changed:
            self.tally.resubmitted.add(run)

    def took(self, seconds: float) -> None:
        """A run succeeded within this time."""
        self._seconds.append(seconds)

    @property
    def usual_seconds(self) -> float | None:
        """Median execution time of a run, None while unknown."""
        known = sorted(self._seconds)
        return known[len(known) // 2] if known else None

    def settle(
        self, run: int, status: str, facts: Document, host: str | None, files: Sequence[Document]
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
                message = self._count_failure(run, status, facts, host)
                self._warn(run, status, message)
                self._weigh_failure(status)
            # Waking every thread after each short run would cost more than the runs.
            if self.stopping or self.complete:
                self._changed.notify_all()

    def _count_failure(self, run: int, status: str, facts: Mapping[str, object], host: str | None) -> str:
        """The message of a failure, which is now in the tally."""
        tally = self.tally
        tally.failed += 1
        message = str(facts.get("message") or facts.get("code") or "see the journal")
        if message in tally.messages or len(tally.messages) < MOST_FAILURES_KEPT:
            tally.messages[message] += 1
        if len(tally.failures) < MOST_FAILURES_KEPT:
            # Repeating the same hint would bury the other failures.
            hint = ("hint",) if tally.messages[message] == 1 else ()
            shown = ("code", "message", "server_said", "prompt_id", *hint)
            row: Document = {"run": run, "status": status, "values": self.values(run)}
            row |= {key: facts[key] for key in shown if facts.get(key)}
            tally.failures.append(row | ({"host": host} if host else {}))
        return message

    def _warn(self, run: int, status: str, message: str) -> None:
        times = self.tally.messages.get(message)
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

    def stop(self, why: str, failure: cli.SkillError | None = None) -> None:
        """Take nothing new; lanes cancel this batch's runs (except when `abandoned`: then they leave them)."""
        with self._changed:
            self.stopping = self.stopping or why
            self.failure = self.failure or failure
            self._changed.notify_all()

    def disk_failed(self, error: OSError) -> None:
        """Stop: the journal or the files cannot be written, so going on would lose results."""
        if not self.folder_lost():
            reason = error.strerror or type(error).__name__
            self.stop(
                "disk", cli.SkillError(f"cannot write into the output folder: {reason}", code="system_error")
            )

    def folder_lost(self) -> bool:
        """Whether the output folder was removed or replaced; then the batch stops and writes nothing more."""
        if self.lost is None and self.journal.removed():
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
            if self.complete:
                return True
            return all(here.ended for here in self.servers) and (self.stopping is not None or not self._out)

    @property
    def complete(self) -> bool:
        """Whether every run has ended."""
        return self.tally.settled >= self.to_do


def _again(record: RunRecord) -> Todo:
    if record.left_on is not None:
        return Todo(record.run, record.attempt, record.prompt_id, True, record.left_on)
    if record.status == "planned":
        return Todo(record.run, record.attempt + 1)
    end = record.facts if record.status in ("finished", "download_failed") else None
    accepted = bool(record.facts.get("accepted"))
    return Todo(record.run, max(record.attempt, 1), record.prompt_id, accepted, record.host, end=end)
