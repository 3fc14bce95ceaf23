"""One server of a batch: keeps it supplied with runs, follows them all through one socket, hands their ends on.

Level 3. A thread for each server; no thread and no poll for each run.
"""

from __future__ import annotations

import threading
import time
import uuid
from typing import TYPE_CHECKING

import _cli
import _events
import _graph
import _jobs
import _ours
import _reports
from _batch import Todo
from _batch_ends import Ends, Flight, facts_of
from _batch_fetch import Fetchers
from _batch_fill import Filler
from _cli import Exit, SkillError
from _dialect import Dialect, JobState, Submission
from _watch import Ended, Update, Watcher

if TYPE_CHECKING:
    from _batch import Batch

# Waiting runs kept on a server beside the running one: enough that it never idles between two.
AHEAD = 3
AHEAD_OF_SHORT = 12
SHORT = 0.4
TICK = 0.25
BUSY_PAUSE = 2.0
PROBE_PAUSE = 3.0
DEFAULT_PARALLEL = 3
OUTAGES = frozenset({"server_gone", "unreachable", "submit_unknown"})


class Lane(threading.Thread):
    """The runs of a batch on one server."""

    def __init__(self, batch: Batch, server: Dialect, filler: Filler, fetchers: Fetchers) -> None:
        super().__init__(name=f"lane {server.url}", daemon=True)
        self.batch = batch
        self.server = server
        self.url = server.url
        self.filler = filler
        self.flights: dict[str, Flight] = {}
        self.hopeful = True  # it may (again) take runs
        self.away = False
        self.failure: SkillError | None = None
        self.wanted: set[str] = set()  # prompt ids that an idle lane would take over
        self.left_behind: set[str] = set()  # moved elsewhere while this server was out of reach: cancel there
        self.doing = ""
        self.at_once: int | None = None
        self._heartbeat = time.monotonic()
        self._pause_until = 0.0
        self._outage_since: float | None = None
        client_id = uuid.uuid5(uuid.UUID(batch.recipe.plan.key), f"client {self.url}").hex
        self.client_id = client_id
        run = batch.options.run
        self.watcher = Watcher(server, client_id, use_socket=run.use_socket, patience=run.patience)
        outputs = _graph.outputs_of(filler.prepared.graph, filler.definitions)
        self._output_nodes = frozenset(node.node_id for node in outputs)
        self._sockets = bool(_reports.socket_nodes(filler.prepared.graph))
        self.ends = Ends(batch, server, fetchers, sockets=self._sockets)

    # --- the thread
    def run(self) -> None:
        """Work until nothing is left. A failure of ours must not leave the others waiting for this lane."""
        try:
            self.at_once = self._limit()
            self.watcher.open()
            self._work()
        except SkillError as error:
            self._end_with(error)
        except OSError as error:
            self._end_with(SkillError(f"the system said: {error.strerror or error}", code="system_error"))
            self.batch.stop("disk", self.failure)
        except Exception as error:  # noqa: BLE001  (it ends as a report)
            self._end_with(_cli.fault(error))
        finally:
            self.hopeful = False
            self.watcher.close()
            self.batch.wake()

    def _limit(self) -> int | None:
        """Runs at once: the user's word, the plan's live limit, or None to keep a local server's queue filled."""
        if self.batch.options.parallel is not None:
            return self.batch.options.parallel
        if self.server.api == "local":
            return None
        try:
            return self.server.most_at_once() or DEFAULT_PARALLEL
        except SkillError as error:
            if error.exit in (Exit.REFUSED, Exit.UNREACHABLE):
                raise
            return DEFAULT_PARALLEL

    def _work(self) -> None:
        while not self.batch.complete:
            try:
                if self.batch.stopping:
                    self._wind_down()
                    return
                self._top_up()
                self._listen()
            except SkillError as error:
                if error.code not in OUTAGES or not self._others():
                    raise
                self._give_away(error)
                self._await_return()

    def _others(self) -> bool:
        return any(lane is not self and lane.hopeful and not lane.away for lane in self.batch.lanes)

    def _end_with(self, error: SkillError) -> None:
        """This lane can do no more. Its runs go to others, or stay in the journal for --resume."""
        self.failure = error
        self.hopeful = False
        if self._others():
            _cli.warn(f"{self.url} is out of this batch: {error.message}")
            self._give_away(error)
        elif error.exit == Exit.REFUSED:
            self.batch.stop("refused", error)
        else:
            self.batch.stop("server", error)

    # --- supplying
    def _top_up(self) -> None:
        self._heartbeat = time.monotonic()
        self._cancel_left_behind()
        while len(self.flights) < self._depth() and time.monotonic() >= self._pause_until:
            todo = self.batch.take(self)
            if todo is None:
                return
            self._start(todo)

    def _depth(self) -> int:
        if self.at_once is not None:
            return self.at_once
        return 1 + (AHEAD_OF_SHORT if self.seconds_each is not None and self.seconds_each < SHORT else AHEAD)

    def _start(self, todo: Todo) -> None:
        """Bring one run onto the server, or find it there."""
        if todo.end is not None:
            self.ends.hand_over_recorded(todo, todo.end)
            return
        try:
            filled = self.filler.fill(todo.run)
        except SkillError as error:
            if error.exit in (Exit.REFUSED, Exit.UNREACHABLE):
                self.batch.put_back(todo)
                raise
            self.ends.unfit(todo, error)
            return
        flight = Flight(todo, filled.graph, filled.seeds, time.monotonic())
        try:
            if self._find_again(todo, flight):
                return
        except SkillError as error:
            self._not_looked_up(todo, error)
            return
        try:
            self._submit(todo, flight)
        except SkillError as error:
            self._not_submitted(todo, flight, error)

    def _not_looked_up(self, todo: Todo, error: SkillError) -> None:
        """It may be on the server, which cannot say so now: its id stays taken, or it would run twice."""
        if error.code == "submit_unknown" and not self.server.own_ids and not self._unclear(error):
            self.ends.fail(todo, "unknown", facts_of(error))
            return
        self.batch.put_back(todo)
        if error.exit == Exit.REFUSED:
            raise error
        self._outage(error)

    def _submission(self, flight: Flight, prompt_id: str) -> Submission:
        options = self.batch.options.run._replace(prompt_id=prompt_id, client_id=self.client_id)
        return _jobs.new_submission(self.filler.prepared._replace(graph=flight.graph), options)

    def _find_again(self, todo: Todo, flight: Flight) -> bool:
        """Whether the server has this run from an earlier session; then it is followed from here on."""
        prompt_id = todo.prompt_id
        if prompt_id is None:
            if not (todo.look and self.server.own_ids):
                return False
            prompt_id = self.batch.prompt_id(todo.run, todo.attempt)
        elif todo.host is not None and todo.host != self.url:
            self.batch.journal.write("moved", run=todo.run, prompt_id=prompt_id, **{"from": todo.host})
            return False
        if not self.server.own_ids and not todo.accepted:
            found = self.server.find_submitted(self._submission(flight, prompt_id))
            if found is None:
                return False
            self.batch.journal.write("accepted", run=todo.run, prompt_id=found)
            prompt_id = found
        state = self.server.state(prompt_id)
        if state.phase == "unknown":
            return False
        flight.ours = False
        self.flights[prompt_id] = flight
        if state.done:
            self._ended(flight, state)
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
            attempt=attempt, prompt_id=prompt_id, accepted=False, host=self.url, look=False
        )
        self.batch.journal.write(
            "submit", run=todo.run, attempt=attempt, prompt_id=prompt_id, host=self.url, seeds=flight.seeds
        )
        accepted = self.server.submit(self._submission(flight, prompt_id), patience=5.0)
        self._outage_since = None
        if accepted.prompt_id != prompt_id or accepted.node_errors or not self.server.own_ids:
            self.batch.journal.write("accepted", run=todo.run, prompt_id=accepted.prompt_id)
        if not self.server.fleeting:
            _ours.remember(self.url, accepted.prompt_id)
        flight.node_errors = dict(accepted.node_errors)
        flight.submitted = time.monotonic()
        self.flights[accepted.prompt_id] = flight
        self.watcher.watch(
            accepted.prompt_id, output_nodes=frozenset() if flight.node_errors else self._output_nodes
        )

    def _not_submitted(self, todo: Todo, flight: Flight, error: SkillError) -> None:
        """What a failed submit means: for the run alone, for the server, or only for now."""
        todo = flight.todo
        if error.code in ("queue_full", "busy"):
            self._pause_until = time.monotonic() + BUSY_PAUSE
            self.batch.journal.write("released", run=todo.run, attempt=todo.attempt)
            self.batch.put_back(todo._replace(prompt_id=None, attempt=todo.attempt + 1))
        elif error.code == "submit_unknown" and not self.server.own_ids and not self._unclear(error):
            self.ends.fail(todo, "unknown", facts_of(error))
        elif error.code in OUTAGES or error.exit == Exit.UNREACHABLE:
            if error.code == "unreachable" and todo.prompt_id and not todo.accepted and flight.ours:
                # Nothing was sent: the id is still free.
                self.batch.journal.write("released", run=todo.run, attempt=todo.attempt)
                todo = todo._replace(prompt_id=None, host=None, attempt=todo.attempt + 1)
            self.batch.put_back(todo)
            self._outage(error)
        elif error.exit == Exit.REFUSED:
            self.batch.journal.write("released", run=todo.run, attempt=todo.attempt)
            self.batch.put_back(todo._replace(prompt_id=None, attempt=todo.attempt + 1))
            raise error
        elif error.code == "rejected":
            self.ends.reject(todo, error)
        else:
            self.ends.failed(flight, error.code, "error", facts_of(error), None)

    @staticmethod
    def _unclear(error: SkillError) -> bool:
        """Whether the server was out of reach; else it answers but cannot say."""
        return "cannot be asked" in error.message

    def _outage(self, error: SkillError) -> None:
        now = time.monotonic()
        if self._outage_since is None:
            self._outage_since = now
            _cli.note(f"{self.url} does not answer; trying again for {self.batch.options.run.patience:.0f} s")
        if now - self._outage_since > self.batch.options.run.patience:
            self._outage_since = None
            raise SkillError(
                f"{self.url} has been out of reach for {self.batch.options.run.patience:.0f} s", code="server_gone",
                exit=Exit.FAILED, status="lost", retryable=True, server_said=error.message,
            ) from error  # fmt: skip
        self._pause_until = now + 0.5

    # --- listening
    def _listen(self) -> None:
        if not self.flights:
            self.batch.help_out(self)
            self.batch.wait(TICK)
            return
        for item in self.watcher.updates(TICK):
            if isinstance(item, Ended):
                flight = self.flights.get(item.state.prompt_id)
                if flight is not None:
                    self._ended(flight, item.state)
            else:
                self._update(item)
        self._heartbeat = time.monotonic()
        self._check_times()
        self._release_wanted()

    def _update(self, update: Update) -> None:
        flight = self.flights.get(update.prompt_id)
        if flight is None:
            return
        frame = update.frame
        if isinstance(frame, _events.Preview):
            if self._sockets and _reports.sends_through_socket(flight.graph, frame.node):
                flight.pictures.append((frame.node or "", frame))
        elif isinstance(frame, _events.Event):
            if flight.started is None and frame.type in ("execution_start", "executing", "progress"):
                flight.started = time.monotonic()
            if frame.type == "progress":
                value, most = _events.number(frame.data.get("value")), _events.number(frame.data.get("max"))
                self.doing = (
                    f"run {flight.todo.run}: step {value:g} of {most:g}"
                    if most > 1
                    else f"run {flight.todo.run}"
                )

    def _check_times(self) -> None:
        """Cancel what has executed longer than --run-timeout allows."""
        limit = self.batch.options.run_timeout
        if limit is None:
            return
        now = time.monotonic()
        for prompt_id, flight in list(self.flights.items()):
            if flight.started is not None and now - flight.started > limit:
                self._cancel(prompt_id)
                facts = {"code": "timed_out", "message": f"stopped after {limit:g} s (--run-timeout)"}
                self._drop(prompt_id)
                self.ends.failed(flight, "timed_out", "timed_out", facts, None)

    @property
    def seconds_each(self) -> float | None:
        """How long a run executes here, smoothed; None while unknown."""
        return self.ends.seconds_each

    def _ended(self, flight: Flight, state: JobState) -> None:
        self._drop(state.prompt_id)
        self.ends.ended(flight, state)

    def _drop(self, prompt_id: str) -> None:
        self.flights.pop(prompt_id, None)
        self.wanted.discard(prompt_id)
        self.watcher.forget(prompt_id)

    # --- giving runs back
    def backlog(self) -> float:
        """Seconds until this lane's last run will have started, as far as can be told."""
        waiting = sum(flight.started is None for flight in list(self.flights.values()))
        each = self.seconds_each or self.batch.usual or (SHORT if not waiting else 60.0)
        return waiting * each

    def last_waiting(self) -> str | None:
        """The prompt id of the run that would start last, when one is waiting."""
        waiting = [key for key, flight in list(self.flights.items()) if flight.started is None]
        return waiting[-1] if waiting else None

    def running_longer_than(self, seconds: float) -> str | None:
        """The prompt id of a run that executes for longer than this."""
        now = time.monotonic()
        for prompt_id, flight in list(self.flights.items()):
            if flight.started is not None and now - flight.started > seconds:
                return prompt_id
        return None

    def silent_for(self) -> float:
        """Seconds since this lane last came round: a server that does not answer holds it up."""
        return time.monotonic() - self._heartbeat

    def _release_wanted(self) -> None:
        """Take a run off this server for an idle one: cancelled here first, so that it never runs on both."""
        for prompt_id in list(self.wanted):
            flight = self.flights.get(prompt_id)
            self.wanted.discard(prompt_id)
            if flight is None or not self._cancel(prompt_id):
                continue
            state = self.server.state(prompt_id)
            if state.done and state.outcome != "cancelled":
                self._ended(flight, state)
                continue
            self._drop(prompt_id)
            self._move(prompt_id, flight.todo)

    def _move(self, prompt_id: str, todo: Todo) -> None:
        self.batch.journal.write(
            "moved", run=todo.run, attempt=todo.attempt, prompt_id=prompt_id, **{"from": self.url}
        )
        self.batch.tally.moved += 1
        moved = todo._replace(
            attempt=todo.attempt + 1,
            prompt_id=None,
            host=None,
            accepted=False,
            barred=todo.barred | {self.url},
        )
        self.batch.put_back(moved)

    def seize(self, _by: Lane) -> None:
        """Called by another lane while this one is stuck in a request: its runs are taken from it."""
        for prompt_id, flight in list(self.flights.items()):
            if self.flights.pop(prompt_id, None) is not None:
                self.left_behind.add(prompt_id)
                self._move(prompt_id, flight.todo)

    def _give_away(self, error: SkillError) -> None:
        """The server is out of reach: its runs go to others and are cancelled here when it comes back."""
        if self.flights:
            _cli.warn(
                f"{self.url}: {error.message}; {len(self.flights)} unfinished runs move to other servers"
            )
        for prompt_id, flight in list(self.flights.items()):
            self._drop(prompt_id)
            self.left_behind.add(prompt_id)
            self._move(prompt_id, flight.todo)

    def _await_return(self) -> None:
        """Wait for a server that went away, cancel there what runs elsewhere by now, and go on with it."""
        self.away = True
        while not self.batch.complete and not self.batch.stopping:
            self._heartbeat = time.monotonic()
            try:
                self._cancel_left_behind()
                self.server.list_jobs(0, finished=False)
            except SkillError as error:
                if error.exit == Exit.REFUSED:
                    raise
                self.batch.wait(PROBE_PAUSE)
                continue
            _cli.note(f"{self.url} is back")
            self.away = False
            return

    def _cancel_left_behind(self) -> None:
        for prompt_id in list(self.left_behind):
            self.server.cancel(prompt_id)
            self.left_behind.discard(prompt_id)

    # --- stopping
    def _cancel(self, prompt_id: str) -> bool:
        try:
            return self.server.cancel(prompt_id)
        except SkillError as error:
            _cli.warn(f"could not cancel {prompt_id} on {self.url}: {error.message}")
            return False

    def _wind_down(self) -> None:
        """Stop what is ours here: the waiting ones first, so that none of them starts; keep what has ended."""
        if self.batch.stopping == "abandoned":
            return
        newest_first = reversed(self.flights.items())
        for prompt_id, flight in sorted(newest_first, key=lambda item: item[1].started is not None):
            self._stop_one(prompt_id, flight)

    def _stop_one(self, prompt_id: str, flight: Flight) -> None:
        try:
            state = self.server.state(prompt_id)
            if not (state.done or state.phase == "unknown"):
                self.server.cancel(prompt_id)
                state = self._after_cancel(prompt_id)
        except SkillError as error:
            _cli.warn(f"{prompt_id} may still be on {self.url}: {error.message}")
            return
        if state.done and state.outcome != "cancelled":
            self._ended(flight, state)
            return
        self._drop(prompt_id)
        self.batch.journal.write("released", run=flight.todo.run, attempt=flight.todo.attempt)

    def _after_cancel(self, prompt_id: str) -> JobState:
        give_up = time.monotonic() + _jobs.CANCEL_PATIENCE
        while True:
            state = self.server.state(prompt_id)
            if state.done or state.phase in ("unknown", "pending") or time.monotonic() > give_up:
                return state
            time.sleep(0.1)


__all__ = ["Flight", "Lane"]
