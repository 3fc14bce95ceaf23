"""One server of a batch: keeps it supplied with runs, follows them all through one socket, hands their ends on.

Level 3. A thread for each server; no thread and no poll for each run. Supplying stands in `_batch_supply`, taking
runs off the server in `_batch_moves`, how a run ends in `_batch_ends`.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from typing import TYPE_CHECKING

from comfyskill.base import cli
from comfyskill.base.cli import Exit, SkillError
from comfyskill.batch.ends import Ends
from comfyskill.batch.fetch import Fetchers
from comfyskill.batch.fill import Filler
from comfyskill.batch.flights import Flights
from comfyskill.batch.moves import Moves
from comfyskill.batch.supply import OUTAGES, SHORT, Supply
from comfyskill.batch.times import Samples
from comfyskill.run import reports
from comfyskill.server import events
from comfyskill.server.protocol import Dialect
from comfyskill.server.watch import Ended, Update, Watcher

if TYPE_CHECKING:
    from comfyskill.batch.scheduler import Batch

TICK = 0.25
PROBE_PAUSE = 3.0
DEFAULT_PARALLEL = 3


class Lane(threading.Thread):
    """The runs of a batch on one server."""

    def __init__(self, batch: Batch, server: Dialect, filler: Filler, fetchers: Fetchers) -> None:
        super().__init__(name=f"lane {server.url}", daemon=True)
        self.batch = batch
        self.server = server
        self.url = server.url
        self.filler = filler
        self.hopeful = True  # it may (again) take runs
        self.away = False
        self.failure: SkillError | None = None
        self.doing = ""
        self._heartbeat = time.monotonic()
        client_id = uuid.uuid5(uuid.UUID(batch.recipe.plan.key), f"client {self.url}").hex
        run = batch.options.run
        self.watcher = Watcher(server, client_id, use_socket=run.use_socket, patience=run.patience)
        self.flights = Flights(self.watcher)
        self._sockets = bool(reports.socket_nodes(filler.prepared.graph))
        self.samples = Samples(filler)
        self.ends = Ends(batch, server, fetchers, self.samples, sockets=self._sockets)
        self.supply = Supply(batch, server, filler, self.flights, self.ends, self.watcher)
        self.moves = Moves(batch, server, self.flights, self.ends)

    # --- the thread
    def run(self) -> None:
        """Work until nothing is left. A failure of ours must not leave the others waiting for this lane."""
        try:
            self.supply.at_once = self._limit()
            self.watcher.open()
            self._work()
        except SkillError as error:
            self._end_with(error)
        except OSError as error:
            self.batch.disk_failed(error)
            self.failure = self.batch.failure
        except Exception as error:  # noqa: BLE001  (it ends as a report)
            self._end_with(cli.fault(error))
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
                    if self.batch.stopping != "abandoned":
                        self.moves.wind_down()
                    break
                self._heartbeat = time.monotonic()
                self.moves.clear()
                self.supply.top_up()
                self._listen()
            except SkillError as error:
                if error.code not in OUTAGES or not self._others():
                    raise
                self.moves.give_away(error)
                self._await_return()
            except OSError:
                if not self.batch.folder_lost():
                    raise
                # Nothing can resume these runs: the next round cancels them.
        self._clear_the_last()

    def _clear_the_last(self) -> None:
        """What was moved from here is cancelled before the end too; what cannot be stays in the journal."""
        with contextlib.suppress(SkillError):
            while self.batch.stopping != "abandoned" and self.batch.left_on(self.url):
                self._heartbeat = time.monotonic()
                self.moves.clear()
                self.batch.wait(TICK)

    def _others(self) -> bool:
        return any(lane is not self and lane.hopeful and not lane.away for lane in self.batch.lanes)

    def _end_with(self, error: SkillError) -> None:
        """This lane can do no more. Its runs go to others, or stay in the journal for --resume."""
        self.failure = error
        self.hopeful = False
        if self._others():
            cli.warn(f"{self.url} is out of this batch: {error.message}")
            self.moves.give_away(error)
        elif error.exit == Exit.REFUSED:
            self.batch.stop("refused", error)
        else:
            self.batch.stop("server", error)

    def _await_return(self) -> None:
        """Wait for a server that went away, cancel there what runs elsewhere by now, and go on with it."""
        self.away = True
        while not self.batch.complete and not self.batch.stopping:
            self._heartbeat = time.monotonic()
            try:
                self.server.list_jobs(0, finished=False)
                self.moves.clear()
            except SkillError as error:
                if error.exit == Exit.REFUSED:
                    raise
                self.batch.wait(PROBE_PAUSE)
                continue
            cli.note(f"{self.url} is back")
            self.away = False
            return

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
                    self.flights.drop(item.state.prompt_id)
                    self.ends.ended(flight, item.state)
            else:
                self._update(item)
        self._heartbeat = time.monotonic()
        self._check_times()
        self.moves.release_wanted()

    def _update(self, update: Update) -> None:
        flight = self.flights.get(update.prompt_id)
        if flight is None:
            return
        frame = update.frame
        if isinstance(frame, events.Preview):
            if self._sockets and reports.sends_through_socket(flight.graph, frame.node):
                flight.pictures.append((frame.node or "", frame))
        elif isinstance(frame, events.Event):
            if flight.started is None and frame.type in ("execution_start", "executing", "progress"):
                flight.started = time.monotonic()
            if frame.type == "progress":
                value, most = events.number(frame.data.get("value")), events.number(frame.data.get("max"))
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
        for prompt_id in self.flights.running_longer_than(limit):
            self.moves.cancel(prompt_id)
            facts = {"code": "timed_out", "message": f"stopped after {limit:g} s (--run-timeout)"}
            flight = self.flights[prompt_id]
            self.flights.drop(prompt_id)
            self.ends.failed(flight, "timed_out", "timed_out", facts, None)

    # --- what other lanes ask
    @property
    def seconds_each(self) -> float | None:
        """How long a run executes here, smoothed; None while unknown."""
        return self.ends.seconds_each

    def backlog(self) -> float:
        """Seconds until this lane's last run will have started, as far as can be told."""
        waiting = len(self.flights.waiting())
        each = self.seconds_each or self.batch.usual or (SHORT if not waiting else 60.0)
        return waiting * each

    def seize(self) -> None:
        """Give the runs of this lane to others: its server does not answer."""
        self.moves.seize()

    def silent_for(self) -> float:
        """Seconds since this lane last came round: a server that does not answer holds it up."""
        return time.monotonic() - self._heartbeat


__all__ = ["Lane"]


def lanes_of(batch: Batch) -> list[Lane]:
    """The lanes of a batch, as what they are: the batch itself knows them as `ServerLane`."""
    return [lane for lane in batch.lanes if isinstance(lane, Lane)]
