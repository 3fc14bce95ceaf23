"""Runs that leave a server of a batch: to an idle one, away from a silent one, or cancelled when all is stopped.

Level 3. What was left on a server that fell silent is cancelled there when it answers again, in this session or a later one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from comfyskill.base import cli
from comfyskill.base.cli import Exit, SkillError
from comfyskill.batch.ends import Ends
from comfyskill.batch.flights import Flight, Flights, Left
from comfyskill.batch.supply import SECOND_LOOK
from comfyskill.run import jobs
from comfyskill.server.protocol import Dialect, JobState

if TYPE_CHECKING:
    from comfyskill.batch.scheduler import Batch


class Moves:
    """Takes runs off one server."""

    def __init__(self, batch: Batch, server: Dialect, flights: Flights, ends: Ends) -> None:
        self.batch = batch
        self.server = server
        self.url = server.url
        self.flights = flights
        self.ends = ends
        self.heard = 0.0  # when the server last answered while this lane was winding down
        self._was_silent = False
        self._look_at: dict[str, float] = {}  # left behind, to be looked for (again) at this moment

    def release_wanted(self) -> None:
        """Take runs off this server for an idle one: cancelled here first, so that none ever runs on both."""
        for prompt_id in list(self.flights.wanted):
            flight = self.flights.get(prompt_id)
            self.flights.wanted.discard(prompt_id)
            if flight is None or not self.cancel(prompt_id):
                continue
            state = self._after_cancel(prompt_id)
            self.flights.drop(prompt_id)
            if state.done and state.outcome != "cancelled":
                self.ends.ended(flight, state)
            else:
                self._move(prompt_id, flight, left=state.phase in ("running", "pending"))

    def seize(self) -> None:
        """Called by another lane while this one is stuck in a request: its runs are taken from it."""
        self._was_silent = True
        for prompt_id, flight in self._last_first():
            if self.flights.pop(prompt_id, None) is not None:
                self._move(prompt_id, flight, left=True)

    def give_away(self, error: SkillError) -> None:
        """The server is out of reach: its runs go to others and are cancelled here when it comes back."""
        self._was_silent = True
        if self.flights:
            cli.warn(
                f"{self.url}: {error.message}; {len(self.flights)} unfinished runs move to other servers"
            )
        for prompt_id, flight in self._last_first():
            self.flights.drop(prompt_id)
            self._move(prompt_id, flight, left=True)

    def _last_first(self) -> list[tuple[str, Flight]]:
        """The runs here, the executing one at the end: it is the likeliest to be done when the server is back."""
        return list(self.flights.items())[::-1]

    def _move(self, prompt_id: str, flight: Flight, *, left: bool) -> None:
        todo = flight.todo
        if left and self.batch.options.partner:
            self.ends.leave(todo, prompt_id, f"{self.url} has this run and is out of reach")
            return
        self.batch.moved(todo, prompt_id, self.url, left=left)
        barred = todo.barred | {self.url}
        place = Left(self.url, prompt_id, todo.attempt) if left else None
        again = todo._replace(
            attempt=todo.attempt + 1, prompt_id=None, host=None, accepted=False, barred=barred, left=place
        )
        self.batch.put_back(again)

    def clear(self) -> None:
        """Cancel here what was moved elsewhere while this server was out of reach. Raises SkillError when it still is."""
        now = time.monotonic()
        if self._was_silent and self.batch.left_on(self.url):
            self.server.list_jobs(
                0, finished=False
            )  # raises while it is away still, and others may go on with its runs
            self.batch.reclaim(self.url)
            self._was_silent = False
        for prompt_id in self.batch.left_on(self.url):
            if now < self._look_at.get(prompt_id, 0.0):
                continue
            if self.server.cancel(prompt_id):
                # It may have begun just now, and then a server forgets the interrupt: it is looked for again.
                self._look_at[prompt_id] = now + jobs.SAY_AGAIN
                continue
            state = self.server.state(prompt_id)
            if prompt_id not in self._look_at and not state.done:
                self._look_at[prompt_id] = now + SECOND_LOOK
                continue
            if state.done and state.outcome == "success":
                self.batch.tally.twice += 1
                cli.warn(f"{self.url} had finished {prompt_id} before it could be cancelled: run twice")
            self._look_at.pop(prompt_id, None)
            self.batch.cleared(self.url, prompt_id)

    def cancel(self, prompt_id: str) -> bool:
        """Stop one run here. False when there was nothing to stop, or the server did not let us."""
        try:
            return self.server.cancel(prompt_id)
        except SkillError as error:
            cli.warn(f"could not cancel {prompt_id} on {self.url}: {error.message}")
            return False

    def wind_down(self) -> None:
        """Stop what is ours here: the waiting ones first, so that none of them starts; keep what has ended.

        What could not be stopped stays in `flights`, and in the journal it stays submitted: --resume follows it
        instead of running it again. A server that does not answer is not asked about each run.
        """
        flights = sorted(self._last_first(), key=lambda item: item[1].started is not None)
        try:
            if not flights:
                # Files may be under way; only a server that answers is worth waiting for.
                self.server.list_jobs(0, finished=False)
            for prompt_id, flight in flights:
                self._stop_one(prompt_id, flight)
            self.heard = time.monotonic()
        except SkillError as error:
            if flights:
                cli.warn(f"{len(self.flights)} submitted runs may still be on {self.url}: {error.message}")

    def _stop_one(self, prompt_id: str, flight: Flight) -> None:
        """Stop a run. Raises SkillError `unreachable`; another failure is about this run alone."""
        try:
            state = self.server.state(prompt_id)
            self.heard = time.monotonic()
            if not (state.done or state.phase == "unknown"):
                self.server.cancel(prompt_id)
                state = self._after_cancel(prompt_id)
        except SkillError as error:
            if error.exit == Exit.UNREACHABLE:
                raise
            cli.warn(f"{prompt_id} may still be on {self.url}: {error.message}")
            return
        if state.phase in ("running", "pending"):
            cli.warn(f"{prompt_id} still executes on {self.url}: it does not take the cancel")
            return
        self.flights.drop(prompt_id)
        if state.done and state.outcome != "cancelled":
            self.ends.ended(flight, state)
        else:
            self.batch.journal.write("released", run=flight.todo.run, attempt=flight.todo.attempt)

    def _after_cancel(self, prompt_id: str) -> JobState:
        give_up = time.monotonic() + jobs.CANCEL_PATIENCE
        say_again = time.monotonic() + jobs.SAY_AGAIN
        while True:
            state = self.server.state(prompt_id)
            self.heard = time.monotonic()
            if state.done or state.phase in ("unknown", "pending") or time.monotonic() > give_up:
                return state
            if time.monotonic() >= say_again:
                # An interrupt that comes just before a run's first node is forgotten by the server.
                self.server.cancel(prompt_id)
                say_again += jobs.SAY_AGAIN
            time.sleep(0.1)


__all__ = ["Moves"]
