"""Supplying one server of a batch: which run comes next, finding it there again or submitting it, what a failed submit means.

Level 3.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from comfyskill.base import cli
from comfyskill.base.cli import Exit, SkillError
from comfyskill.batch.ends import Ends, facts_of
from comfyskill.batch.fill import Filler
from comfyskill.batch.flights import Flight, Flights, Todo
from comfyskill.graph import facts
from comfyskill.run import jobs, submitted
from comfyskill.server import transport
from comfyskill.server.protocol import Dialect, Submission
from comfyskill.server.watch import Watcher

if TYPE_CHECKING:
    from comfyskill.batch.scheduler import Batch

# Waiting runs kept on a server beside the running one: enough that it never idles between two.
AHEAD = 3
AHEAD_OF_SHORT = 12
SHORT = 0.4
BUSY_PAUSE = 2.0
# A server that was stopped in the middle of a submit may take the run up a moment after it answers again.
SECOND_LOOK = 1.0
# A submit without an answer is cut off this late where it can be found again: its connection may be dead.
SUBMIT_LIMIT = 20.0
# A server that refuses (a full queue, too many requests) is waited for so many times longer than one that is away.
BUSY_FACTOR = 10
OUTAGES = frozenset({"server_gone", "unreachable", "submit_unknown"})


class Supply:
    """Keeps one server supplied with the runs of a batch."""

    def __init__(
        self, batch: Batch, server: Dialect, filler: Filler, flights: Flights, ends: Ends, watcher: Watcher
    ) -> None:
        self.batch = batch
        self.server = server
        self.url = server.url
        self.filler = filler
        self.flights = flights
        self.ends = ends
        self.watcher = watcher
        self.at_once: int | None = None  # runs on the server at once; None: its queue is kept filled
        self._pause_until = 0.0
        self._unanswered: set[str] = set()  # prompt ids whose submit got no answer
        self.under_way: str | None = None  # the prompt id of a submit that has no answer yet
        self._outage_since: float | None = None
        self._turned_away_since: float | None = None
        outputs = facts.outputs_of(filler.prepared.graph, filler.definitions)
        self._output_nodes = frozenset(node.node_id for node in outputs)

    def top_up(self) -> None:
        """Submit until enough is there, or nothing is left. Raises SkillError when the server is gone or refuses."""
        while len(self.flights) < self._depth() and time.monotonic() >= self._pause_until:
            todo = self.batch.take(self.url)
            if todo is None:
                return
            self._start(todo)

    def _depth(self) -> int:
        if self.at_once is not None:
            return self.at_once
        each = self.ends.seconds_each
        return 1 + (AHEAD_OF_SHORT if each is not None and each < SHORT else AHEAD)

    def _start(self, todo: Todo) -> None:
        """Bring one run onto the server, or find it there."""
        if todo.end is not None:
            if todo.host in (None, self.url):
                self.ends.hand_over_recorded(todo, todo.end)
                return
            if todo.end.get("end", "success") != "success":
                self.ends.hand_over_recorded(todo, {**todo.end, "outputs": {}})
                return
            # Its files are on a server that takes no part, and one of the same name here is another run's: again.
        try:
            filled = self.filler.fill(todo.run)
        except SkillError as error:
            if error.exit in (Exit.REFUSED, Exit.UNREACHABLE):
                self.batch.put_back(todo)
                raise
            self.ends.unfit(todo, error)
            return
        flight = Flight(todo, filled.graph, filled.seeds, time.monotonic())
        with transport.no_later_than(self._longest_silence()):
            try:
                if self._find_again(todo, flight):
                    self._outage_since = None
                    return
            except SkillError as error:
                self._not_looked_up(todo, flight, error)
                return
            try:
                self._submit(todo, flight)
            except SkillError as error:
                self._not_submitted(todo, flight, error)

    def _longest_silence(self) -> float | None:
        """When a server that does not answer counts as gone. None where a submit that is cut off cannot be found again."""
        if not self.server.own_ids:
            return None
        now = time.monotonic()
        since = now if self._outage_since is None else self._outage_since
        return max(since + self.batch.options.run.patience, now + jobs.SUBMIT_TIME)

    def _not_looked_up(self, todo: Todo, flight: Flight, error: SkillError) -> None:
        """It may be on the server, which cannot say so now: its id stays taken, or it would run twice."""
        if error.code == "submit_unknown" and not self.server.own_ids and not out_of_reach(error):
            self.ends.fail(todo, "unknown", facts_of(error))
            return
        self.batch.put_back(todo)
        if error.exit == Exit.REFUSED:
            raise error
        self._outage(error, flight)

    def _submission(self, flight: Flight, prompt_id: str) -> Submission:
        options = self.batch.options.run._replace(prompt_id=prompt_id, client_id=self.watcher.client_id)
        return jobs.new_submission(self.server, self.filler.prepared._replace(graph=flight.graph), options)

    def _find_again(self, todo: Todo, flight: Flight) -> bool:
        """Whether the server has this run from an earlier session; then it is followed from here on."""
        prompt_id = todo.prompt_id
        if prompt_id is None:
            if not (todo.look and self.server.own_ids):
                return False
            prompt_id = self.batch.prompt_id(todo.run, todo.attempt)
        elif todo.host is not None and todo.host != self.url:
            known = todo.accepted or self.server.own_ids
            self.batch.moved(todo, prompt_id, todo.host, left=known and todo.end is None)
            return False
        if not self.server.own_ids and not todo.accepted:
            found = self.server.find_submitted(self._submission(flight, prompt_id))
            if found is None:
                return False
            self.batch.journal.write("accepted", run=todo.run, prompt_id=found)
            prompt_id = found
        state = self.server.state(prompt_id)
        if state.phase == "unknown" and prompt_id in self._unanswered:
            time.sleep(SECOND_LOOK)
            state = self.server.state(prompt_id)
        if state.phase == "unknown":
            if self.batch.options.partner and not self.batch.options.retry_failed:
                self.ends.leave(todo, prompt_id, "it was sent before, and the server shows no record of it")
                return True
            if todo.prompt_id is not None and prompt_id not in self._unanswered:
                self.batch.tally.resubmitted.add(todo.run)
            return False
        flight.ours = False
        self.flights[prompt_id] = flight
        if state.done:
            self.flights.drop(prompt_id)
            self.ends.ended(flight, state)
        else:
            self.watcher.watch(prompt_id, ours=False)
        return True

    def _submit(self, todo: Todo, flight: Flight) -> None:
        """The intent is on disk before the POST: a process that dies in between finds the job again by its id."""
        attempt = todo.attempt
        if todo.prompt_id is not None and (self.server.own_ids or todo.accepted):
            attempt += 1  # that id has been used up
        prompt_id = self.batch.prompt_id(todo.run, attempt)
        flight.todo = todo = todo._replace(
            attempt=attempt,
            prompt_id=prompt_id,
            accepted=False,
            host=self.url,
            look=False,
            end=None,
            left=None,
        )
        self.batch.journal.write(
            "submit", run=todo.run, attempt=attempt, prompt_id=prompt_id, host=self.url, seeds=flight.seeds
        )
        self.under_way = prompt_id
        with transport.no_later_than(time.monotonic() + SUBMIT_LIMIT if self.server.own_ids else None):
            accepted = self.server.submit(self._submission(flight, prompt_id), patience=5.0)
        self._outage_since = self._turned_away_since = None
        if accepted.prompt_id != prompt_id or accepted.node_errors or not self.server.own_ids:
            self.batch.journal.write("accepted", run=todo.run, prompt_id=accepted.prompt_id)
        if not self.server.fleeting:
            submitted.remember(self.url, accepted.prompt_id)
        flight.node_errors = dict(accepted.node_errors)
        flight.submitted = time.monotonic()
        self.flights[accepted.prompt_id] = flight
        self.under_way = None
        self.watcher.watch(
            accepted.prompt_id, output_nodes=frozenset() if flight.node_errors else self._output_nodes
        )

    def _not_submitted(self, todo: Todo, flight: Flight, error: SkillError) -> None:
        """What a failed submit means: for the run alone, for the server, or only for now."""
        todo, self.under_way = flight.todo, None
        if error.code in ("queue_full", "busy"):
            self.batch.journal.write("released", run=todo.run, attempt=todo.attempt)
            self.batch.put_back(todo._replace(prompt_id=None, attempt=todo.attempt + 1))
            self._turned_away(error)
        elif error.code == "submit_unknown" and not self.server.own_ids and not out_of_reach(error):
            self.ends.fail(todo, "unknown", facts_of(error))
        elif error.code in OUTAGES or error.exit == Exit.UNREACHABLE:
            if error.code == "unreachable" and todo.prompt_id and not todo.accepted and flight.ours:
                # Nothing was sent: the id is still free.
                self.batch.journal.write("released", run=todo.run, attempt=todo.attempt)
                todo = todo._replace(prompt_id=None, host=None, attempt=todo.attempt + 1)
            elif todo.prompt_id:
                self._unanswered.add(todo.prompt_id)
            self.batch.put_back(todo)
            self._outage(error, flight)
        elif error.exit == Exit.REFUSED:
            self.batch.journal.write("released", run=todo.run, attempt=todo.attempt)
            self.batch.put_back(todo._replace(prompt_id=None, attempt=todo.attempt + 1))
            raise error
        elif error.code == "rejected":
            self.ends.reject(todo, error)
        else:
            self.ends.failed(flight, error.code, "error", facts_of(error), None)

    def _turned_away(self, error: SkillError) -> None:
        """The server takes no run now. While some of ours are there that passes; else it is waited for, not for ever."""
        now = time.monotonic()
        self._pause_until = now + BUSY_PAUSE
        limit = BUSY_FACTOR * self.batch.options.run.patience
        if self.flights:
            self._turned_away_since = None
        elif self._turned_away_since is None:
            self._turned_away_since = now
            cli.note(f"{self.url} takes no run now ({error.message}); trying again for {limit:.0f} s")
        elif now - self._turned_away_since > limit:
            raise SkillError(
                f"{self.url} has taken no run for {limit:.0f} s: {error.message}", code=error.code, exit=Exit.FAILED,
                retryable=True, hint="go on with --resume when it is less busy", **error.details,
            ) from error  # fmt: skip

    def _outage(self, error: SkillError, flight: Flight) -> None:
        """No answer since this run was begun. Raises SkillError `server_gone` when that lasts too long."""
        now, patience = time.monotonic(), self.batch.options.run.patience
        first = self._outage_since is None
        since = self._outage_since = flight.submitted if self._outage_since is None else self._outage_since
        if now - since >= patience:
            self._outage_since = None
            raise SkillError(
                f"{self.url} has been out of reach for {now - since:.0f} s", code="server_gone",
                exit=Exit.FAILED, status="lost", retryable=True, away_seconds=round(now - since, 1),
                server_said=error.message,
            ) from error  # fmt: skip
        if first:
            cli.note(f"{self.url} does not answer; trying again for {patience - (now - since):.0f} s")
        self._pause_until = now + 0.5


def out_of_reach(error: SkillError) -> bool:
    """Whether a lost submit could not be looked for because the server is away; else it answers but cannot say."""
    return error.details.get("reason") == "out_of_reach"


__all__ = ["OUTAGES", "SHORT", "Supply", "out_of_reach"]
