"""One server of a batch: keeps it supplied with runs, follows them through one socket, moves them when it must.

One thread per server; no thread and no poll per run.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Sequence

from comfyskill.base import cli, safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.batch.ends import Ends, failure_facts
from comfyskill.batch.fetch import Fetchers
from comfyskill.batch.fill import Filler
from comfyskill.batch.flights import SHORT, Flight, ServerRuns, Todo
from comfyskill.batch.scheduler import Batch
from comfyskill.graph import facts as graph_facts
from comfyskill.run import jobs, result, submit
from comfyskill.server import events, transport
from comfyskill.server.protocol import Dialect, JobState, Submission
from comfyskill.server.watch import Ended, Update, Watcher

TICK = 0.25
PROBE_PAUSE = 3.0
DEFAULT_PARALLEL = 3
# Waiting runs kept on a server besides the running one, so that it never idles between two.
AHEAD = 3
AHEAD_OF_SHORT = 12
BUSY_PAUSE = 2.0
# A server that was stopped during a submit may list the run a moment after it answers again.
SECOND_LOOK = 1.0
# Time limit of a submit that can be found again: its connection may be dead.
SUBMIT_LIMIT = 20.0
# How long one submit is repeated while the server is busy, before other work of this lane goes on.
SUBMIT_PATIENCE = 5.0
# How much longer to wait for a server that refuses (full queue, too many requests) than for one that is away.
BUSY_FACTOR = 10
OUTAGES = frozenset({"server_gone", "unreachable", "submit_unknown"})


class Lane(threading.Thread):
    """Runs a batch's runs on one server."""

    def __init__(self, batch: Batch, server: Dialect, filler: Filler) -> None:
        super().__init__(name=f"lane {server.url}", daemon=True)
        self.batch = batch
        self.server = server
        self.url = server.url
        self.here = ServerRuns(server)  # what this server has; the scheduler sees it
        self.fetchers = Fetchers(batch, server)
        self.ends = Ends(batch, self.here, self.fetchers, filler.prepared.graph)
        client_id = uuid.uuid5(uuid.UUID(batch.recipe.plan.key), f"client {self.url}").hex
        run = batch.options.run
        self.watcher = Watcher(server, client_id, use_socket=run.use_socket, patience=run.patience)
        self._filler = filler
        outputs = graph_facts.outputs_of(filler.prepared.graph, filler.definitions)
        self._output_nodes = frozenset(node.node_id for node in outputs)
        self._parallel: int | None = None  # runs on the server at once; None: its queue is kept filled
        self._pause_until = 0.0  # no submit before this moment
        self._unanswered: set[str] = set()  # prompt ids whose submit got no answer
        self._outage_since: float | None = None
        self._refusing_since: float | None = None
        self._check_at: dict[str, float] = {}  # moved from here while it was silent -> when to check it again

    def run(self) -> None:
        """Work until nothing is left. Any failure ends the lane, so that the others do not wait for it."""
        try:
            self._parallel = self._most_at_once()
            self.watcher.open()
            self._work()
        except SkillError as error:
            self._end_with(error)
        except OSError as error:
            self.batch.disk_failed(error)
            self.here.failure = self.batch.failure
        except Exception as error:  # noqa: BLE001  (it ends as a report)
            self._end_with(cli.fault(error))
        finally:
            self.here.takes_runs = False
            self.watcher.close()
            self.here.ended = True
            self.batch.wake()

    def _most_at_once(self) -> int | None:
        """Runs at once: the user's number, the plan's live limit, or None to keep a local server's queue filled."""
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
                    if self.batch.stopping != "abandoned":
                        self.wind_down()
                    break
                self.here.lane_works()
                self.clear()
                self._top_up()
                self._listen()
            except SkillError as error:
                if error.code not in OUTAGES or not self.batch.others_work(self.url):
                    raise
                self._give_away(error)
                self._await_return()
            except OSError:
                if not self.batch.folder_lost():
                    raise
                # These runs cannot be resumed: the next round cancels them.
        self._clear_the_last()

    def _end_with(self, error: SkillError) -> None:
        """End this lane. Its runs go to other lanes, or stay in the journal for --resume."""
        self.here.failure = error
        self.here.takes_runs = False
        if self.batch.others_work(self.url):
            cli.warn(f"{self.url} is no longer used: {error.message}")
            self._give_away(error)
        elif error.exit == Exit.REFUSED:
            self.batch.stop("refused", error)
        else:
            self.batch.stop("server", error)

    def _await_return(self) -> None:
        """Wait until the server answers again, cancel there what was moved elsewhere, and continue with it."""
        self.here.away = True
        while not self.batch.complete and not self.batch.stopping:
            self.here.lane_works()
            try:
                self.server.list_jobs(0, finished=False)
                self.clear()
            except SkillError as error:
                if error.exit == Exit.REFUSED:
                    raise
                self.batch.wait(PROBE_PAUSE)
                continue
            cli.note(f"{self.url} is back")
            self.here.away = False
            return

    def _listen(self) -> None:
        """Take what the server reports within a moment; without runs here, ask for some of another server's."""
        if not len(self.here):
            self.batch.ask_for_work(self.here)
            self.batch.wait(TICK)
            return
        for item in self.watcher.updates(TICK):
            if isinstance(item, Update):
                self._update(item)
            elif isinstance(item, Ended) and (flight := self._remove(item.state.prompt_id)) is not None:
                self.ends.ended(flight, item.state)
        self.here.lane_works()
        self._check_times()
        self.release_asked_for()

    def _update(self, update: Update) -> None:
        flight = self.here.get(update.prompt_id)
        if flight is None:
            return
        frame = update.frame
        if isinstance(frame, events.Preview):
            if self.ends.through_socket and result.sends_through_socket(flight.graph, frame.node):
                flight.pictures.append((frame.node or "", frame))
        elif isinstance(frame, events.Event):
            if flight.started is None and frame.type in ("execution_start", "executing", "progress"):
                flight.started = time.monotonic()
            if frame.type == "progress":
                value, most = events.number(frame.data.get("value")), events.number(frame.data.get("max"))
                step = f": step {value:g} of {most:g}" if most > 1 else ""
                self.here.doing = f"run {flight.todo.run}{step}"

    def _remove(self, prompt_id: str) -> Flight | None:
        """Stop following a run; None when another lane has taken it."""
        self.watcher.forget(prompt_id)
        return self.here.remove(prompt_id)

    def _check_times(self) -> None:
        """Cancel what has executed longer than --run-timeout allows."""
        limit = self.batch.options.run_timeout
        if limit is None:
            return
        for prompt_id in self.here.longer_than(limit):
            self._cancel(prompt_id)
            if (flight := self._remove(prompt_id)) is not None:
                facts = {"code": "timed_out", "message": f"stopped after {limit:g} s (--run-timeout)"}
                self.ends.failed(flight, "timed_out", "timed_out", facts, None)

    def _top_up(self) -> None:
        """Submit until enough runs are on the server, or none is left. Raises SkillError when it is gone or refuses."""
        while len(self.here) < self._depth() and time.monotonic() >= self._pause_until:
            todo = self.batch.take(self.url)
            if todo is None:
                return
            self._start(todo)

    def _depth(self) -> int:
        if self._parallel is not None:
            return self._parallel
        each = self.here.seconds_each
        return 1 + (AHEAD_OF_SHORT if each is not None and each < SHORT else AHEAD)

    def _start(self, todo: Todo) -> None:
        """Submit one run, or find it on the server."""
        if todo.end is not None:
            if todo.host in (None, self.url):
                self.ends.ended_before(todo, todo.end)
                return
            if todo.end.get("end", "success") != "success":
                self.ends.ended_before(todo, {**todo.end, "outputs": {}})
                return
            # Its files are on a server that is not used, and a file of that name here is another run's: run it again.
        try:
            filled = self._filler.fill(todo.run)
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
                self._not_found_out(todo, flight, error)
                return
            try:
                self._submit(todo, flight)
            except SkillError as error:
                self._not_submitted(flight, error)

    def _longest_silence(self) -> float | None:
        """When a silent server counts as gone; None if a submit that is cut off cannot be found again."""
        if not self.server.own_ids:
            return None
        now = time.monotonic()
        since = now if self._outage_since is None else self._outage_since
        return max(since + self.batch.options.run.patience, now + jobs.SUBMIT_TIME)

    def _not_found_out(self, todo: Todo, flight: Flight, error: SkillError) -> None:
        """The run may be on a server that cannot answer now: it keeps its id, or it would run twice."""
        if error.code == "submit_unknown" and not self.server.own_ids and not out_of_reach(error):
            self.ends.fail(todo, "unknown", failure_facts(error))
            return
        self.batch.put_back(todo)
        if error.exit == Exit.REFUSED:
            raise error
        self._outage(error, flight)

    def _submission(self, flight: Flight, prompt_id: str) -> Submission:
        options = self.batch.options.run._replace(prompt_id=prompt_id, client_id=self.watcher.client_id)
        return submit.new_submission(self.server, self._filler.prepared._replace(graph=flight.graph), options)

    def _find_again(self, todo: Todo, flight: Flight) -> bool:
        """Whether the server has this run from an earlier session; then it is followed from here on."""
        prompt_id = todo.prompt_id
        if prompt_id is None:
            if not (todo.perhaps_sent and self.server.own_ids):
                return False
            prompt_id = self.batch.prompt_id(todo.run, todo.attempt)
        elif todo.host is not None and todo.host != self.url:
            known = todo.accepted or self.server.own_ids
            self.batch.note_move(todo, prompt_id, todo.host, left=known and todo.end is None)
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
                self.ends.leave(todo, prompt_id, "it was sent before, and the server has no record of it")
                return True
            if todo.prompt_id is not None and prompt_id not in self._unanswered:
                self.batch.count_resubmitted(todo.run)
            return False
        flight.ours = False
        if state.done:
            self.ends.ended(flight, state)
        else:
            self.here.add(prompt_id, flight)
            self.watcher.watch(prompt_id, ours=False)
        return True

    def _submit(self, todo: Todo, flight: Flight) -> None:
        """Submit a run. The journal has its id before the POST, so that a resume finds the job again."""
        attempt = todo.attempt
        if todo.prompt_id is not None and (self.server.own_ids or todo.accepted):
            attempt += 1  # that id is used
        prompt_id = self.batch.prompt_id(todo.run, attempt)
        flight.todo = todo = todo._replace(
            attempt=attempt,
            prompt_id=prompt_id,
            accepted=False,
            host=self.url,
            perhaps_sent=False,
            end=None,
            left=None,
        )
        self.batch.journal.write(
            "submit", run=todo.run, attempt=attempt, prompt_id=prompt_id, host=self.url, seeds=flight.seeds
        )
        self.here.submitting = prompt_id
        with transport.no_later_than(time.monotonic() + SUBMIT_LIMIT if self.server.own_ids else None):
            accepted = self.server.submit(self._submission(flight, prompt_id), patience=SUBMIT_PATIENCE)
        self._outage_since = self._refusing_since = None
        if accepted.prompt_id != prompt_id or accepted.node_errors or not self.server.own_ids:
            self.batch.journal.write("accepted", run=todo.run, prompt_id=accepted.prompt_id)
        if not self.server.fleeting:
            submit.remember(self.url, accepted.prompt_id)
        flight.node_errors = dict(accepted.node_errors)
        flight.submitted = time.monotonic()
        self.here.add(accepted.prompt_id, flight)
        self.here.submitting = None
        self.watcher.watch(
            accepted.prompt_id, output_nodes=frozenset() if flight.node_errors else self._output_nodes
        )

    def _not_submitted(self, flight: Flight, error: SkillError) -> None:
        """What a failed submit means: for the run alone, for the server, or only for now."""
        todo, self.here.submitting = flight.todo, None
        if error.code in ("queue_full", "busy"):
            self._release(todo)
            self.batch.put_back(todo._replace(prompt_id=None, attempt=todo.attempt + 1))
            self._refused_for_now(error)
        elif error.code == "submit_unknown" and not self.server.own_ids and not out_of_reach(error):
            self.ends.fail(todo, "unknown", failure_facts(error))
        elif error.code in OUTAGES or error.exit == Exit.UNREACHABLE:
            if error.code == "unreachable" and todo.prompt_id and not todo.accepted and flight.ours:
                # Nothing was sent: the id is still free.
                self._release(todo)
                todo = todo._replace(prompt_id=None, host=None, attempt=todo.attempt + 1)
            elif todo.prompt_id:
                self._unanswered.add(todo.prompt_id)
            self.batch.put_back(todo)
            self._outage(error, flight)
        elif error.exit == Exit.REFUSED:
            self._release(todo)
            self.batch.put_back(todo._replace(prompt_id=None, attempt=todo.attempt + 1))
            raise error
        elif error.code == "rejected":
            self.ends.reject(todo, error)
        else:
            self.ends.failed(flight, error.code, "error", failure_facts(error), None)

    def _release(self, todo: Todo) -> None:
        """Record that this run is on no server: --resume submits it at once."""
        self.batch.journal.write("released", run=todo.run, attempt=todo.attempt)

    def _refused_for_now(self, error: SkillError) -> None:
        """The server accepts no run now. Our own runs there will drain its queue; without any, wait up to a limit."""
        now = time.monotonic()
        self._pause_until = now + BUSY_PAUSE
        limit = BUSY_FACTOR * self.batch.options.run.patience
        if len(self.here):
            self._refusing_since = None
        elif self._refusing_since is None:
            self._refusing_since = now
            cli.note(f"{self.url} accepts no run now ({error.message}); trying again for {limit:.0f} s")
        elif now - self._refusing_since > limit:
            raise SkillError(
                f"{self.url} has accepted no run for {limit:.0f} s: {error.message}", code=error.code, exit=Exit.FAILED,
                retryable=True, hint="continue with --resume when it is less busy", **error.details,
            ) from error  # fmt: skip

    def _outage(self, error: SkillError, flight: Flight) -> None:
        """The server did not answer for this run. Raises SkillError `server_gone` when that lasts too long."""
        now, patience = time.monotonic(), self.batch.options.run.patience
        first = self._outage_since is None
        since = self._outage_since = flight.submitted if self._outage_since is None else self._outage_since
        if now - since >= patience:
            self._outage_since = None
            raise SkillError(
                f"{self.url} has been unreachable for {now - since:.0f} s", code="server_gone",
                status="lost", retryable=True, away_seconds=round(now - since, 1),
                server_said=error.message,
            ) from error  # fmt: skip
        if first:
            cli.note(f"{self.url} does not answer; trying again for {patience - (now - since):.0f} s")
        self._pause_until = now + 0.5

    def release_asked_for(self) -> None:
        """Move waiting runs to an idle server: cancelled here first, so that none runs on both.

        A run that has started since it was asked for stays here.
        """
        for prompt_id in self.here.asked_for:
            flight = self.here.get(prompt_id)
            self.here.keep(prompt_id)
            if flight is None or flight.started is not None:
                continue
            if self.server.state(prompt_id).phase != "pending":
                flight.seen_running = True
                continue
            if not self._cancel(prompt_id):
                continue
            state = self._after_cancel(prompt_id)
            if self._remove(prompt_id) is None:
                continue
            if state.done and state.outcome != "cancelled":
                self.ends.ended(flight, state)
            else:
                self._move(prompt_id, flight, left=state.phase in ("running", "pending"))

    def _give_away(self, error: SkillError) -> None:
        """The server does not answer: its runs go to others and are cancelled here when it comes back."""
        taken = self.here.remove_all()
        if taken:
            moving = safe_text.counted(len(taken), "unfinished run")
            cli.warn(f"{self.url}: {error.message}; {moving} will move to other servers")
        self.batch.became_silent(self.url)
        for prompt_id, flight in taken:
            self.watcher.forget(prompt_id)
            self._move(prompt_id, flight, left=True)

    def _move(self, prompt_id: str, flight: Flight, *, left: bool) -> None:
        if left and self.batch.options.partner:
            self.ends.leave(flight.todo, prompt_id, f"{self.url} has this run and is out of reach")
        else:
            self.batch.move(flight.todo, prompt_id, self.url, left=left)

    def clear(self) -> None:
        """Cancel here what was moved elsewhere while this server did not answer. Raises SkillError when it still does not."""
        now = time.monotonic()
        if self.batch.was_silent(self.url):
            # Raises while it is still away: then others may continue with its runs.
            self.server.list_jobs(0, finished=False)
            self.batch.reclaim(self.url)
        for prompt_id in self.batch.left_on(self.url):
            self.watcher.forget(prompt_id)
            if now < self._check_at.get(prompt_id, 0.0):
                continue
            if self.server.cancel(prompt_id):
                # A server forgets an interrupt that comes just as the run starts: check again.
                self._check_at[prompt_id] = now + jobs.SAY_AGAIN
                continue
            state = self.server.state(prompt_id)
            if prompt_id not in self._check_at and not state.done:
                self._check_at[prompt_id] = now + SECOND_LOOK
                continue
            if state.done and state.outcome == "success":
                self.batch.count("ran_twice")
                cli.warn(f"{self.url} finished {prompt_id} before it could be cancelled: it ran twice")
            self._check_at.pop(prompt_id, None)
            self.batch.cleared(self.url, prompt_id)

    def _clear_the_last(self) -> None:
        """Cancel what was moved from here before the batch ends; what cannot be cancelled stays in the journal."""
        with contextlib.suppress(SkillError):
            while self.batch.stopping != "abandoned" and self.batch.left_on(self.url):
                self.here.lane_works()
                self.clear()
                self.batch.wait(TICK)

    def wind_down(self) -> None:
        """Stop this batch's runs here, the waiting ones first so that none of them starts; keep what has ended.

        What could not be stopped stays in `here`, and in the journal it stays submitted: --resume follows it instead of
        running it again. A server that does not answer is not asked about each run.
        """
        flights = self.here.executing_last()
        try:
            if not flights:
                # Files may be under way; only a server that answers is worth waiting for.
                self.server.list_jobs(0, finished=False)
            self._cancel_together([prompt_id for prompt_id, _ in flights])
            for prompt_id, flight in flights:
                self._stop_one(prompt_id, flight)
            self.here.heard = time.monotonic()
        except SkillError as error:
            if flights:
                cli.warn(
                    f"{safe_text.counted(len(self.here), 'submitted run')} may still be on {self.url}: {error.message}"
                )

    def _cancel_together(self, prompt_ids: Sequence[str]) -> None:
        """One request for all runs, where the server can. Raises SkillError `unreachable`; each run is looked at later."""
        try:
            self.server.cancel_all(prompt_ids)
        except SkillError as error:
            if error.exit == Exit.UNREACHABLE:
                raise

    def _stop_one(self, prompt_id: str, flight: Flight) -> None:
        """Stop a run. Raises SkillError `unreachable`; another failure is about this run alone."""
        try:
            state = self.server.state(prompt_id)
            self.here.heard = time.monotonic()
            if not (state.done or state.phase == "unknown"):
                self.server.cancel(prompt_id)
                state = self._after_cancel(prompt_id)
        except SkillError as error:
            if error.exit == Exit.UNREACHABLE:
                raise
            cli.warn(f"{prompt_id} may still be on {self.url}: {error.message}")
            return
        if state.phase in ("running", "pending"):
            cli.warn(f"{prompt_id} still executes on {self.url}: the server did not stop it")
        elif self._remove(prompt_id) is None:
            return
        elif state.done and state.outcome != "cancelled":
            self.ends.ended(flight, state)
        else:
            self._release(flight.todo)

    def _cancel(self, prompt_id: str) -> bool:
        """Stop one run here. False when there was nothing to stop or the server refused."""
        try:
            return self.server.cancel(prompt_id)
        except SkillError as error:
            cli.warn(f"could not cancel {prompt_id} on {self.url}: {error.message}")
            return False

    def _after_cancel(self, prompt_id: str) -> JobState:
        """The state of a cancelled run once it has ended, or after a while."""
        give_up = time.monotonic() + jobs.CANCEL_PATIENCE
        say_again = time.monotonic() + jobs.SAY_AGAIN
        while True:
            state = self.server.state(prompt_id)
            self.here.heard = time.monotonic()
            if state.done or state.phase in ("unknown", "pending") or time.monotonic() > give_up:
                return state
            if time.monotonic() >= say_again:
                # A server forgets an interrupt that comes just before a run's first node.
                self.server.cancel(prompt_id)
                say_again += jobs.SAY_AGAIN
            time.sleep(0.1)


def out_of_reach(error: SkillError) -> bool:
    """Whether a lost submit could not be looked for because the server is away; else it answers but cannot say."""
    return error.details.get("reason") == "out_of_reach"
