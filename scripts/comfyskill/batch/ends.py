"""How the runs of one server end: success, failure, another try; written down, then handed to the fetchers.

Level 3.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from comfyskill.base import cli, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.batch.fetch import Fetchers, Haul, refs_of
from comfyskill.batch.flights import MOST_LOST, Flight, Todo
from comfyskill.batch.times import Samples
from comfyskill.run import collect, reports
from comfyskill.server import refusals
from comfyskill.server.protocol import Dialect, JobState

if TYPE_CHECKING:
    from comfyskill.batch.scheduler import Batch

# Failures that may pass; what is not listed would only fail again.
TRANSIENT = frozenset(
    {"out_of_memory", "server_network", "cloud_fault", "model_download", "input_download", "device_error",
     "submit_failed", "busy", "missed_images", "timed_out", "lost"}
)  # fmt: skip


class Ends:
    """What becomes of the runs of one server. `count`: how many have ended here; `seconds_each`: how long one takes."""

    def __init__(
        self, batch: Batch, server: Dialect, fetchers: Fetchers, samples: Samples, *, sockets: bool
    ) -> None:
        """`samples`: takes the times of runs that ended well. `sockets`: the graph sends pictures through the socket."""
        self.batch = batch
        self.server = server
        self.url = server.url
        self.fetchers = fetchers
        self.samples = samples
        self.count = 0
        self.seconds_each: float | None = None
        self._sockets = sockets

    def unfit(self, todo: Todo, error: SkillError) -> None:
        """Values that this server does not take: another one may have the model."""
        barred = todo.barred | {self.url}
        if any(lane.url not in barred and lane.hopeful for lane in self.batch.lanes):
            self.batch.put_back(todo._replace(barred=barred))
            return
        self.fail(todo, "error", {"code": error.code, "message": error.message, "hint": error.hint})

    def reject(self, todo: Todo, error: SkillError) -> None:
        """The server refused the graph: another one may take it."""
        barred = todo.barred | {self.url}
        if any(lane.url not in barred and lane.hopeful for lane in self.batch.lanes):
            self.batch.journal.write("released", run=todo.run, attempt=todo.attempt)
            self.batch.put_back(todo._replace(prompt_id=None, attempt=todo.attempt + 1, barred=barred))
            return
        self.fail(todo, "rejected", facts_of(error))

    def ended(self, flight: Flight, state: JobState) -> None:
        """A run is over as far as the server is concerned: note how, and what comes next for it."""
        todo = flight.todo
        if state.phase == "unknown":
            self._lost(todo, state.prompt_id)
            return
        seconds = self._count_time(flight, state)
        facts: dict[str, Any] = {"prompt_id": state.prompt_id, "host": self.url}
        if seconds is not None:
            facts["seconds"] = round(seconds, 3)
        if state.outcome == "error":
            told = reports.failure(state, flight.graph)
            said = told["error"]["server_said"]
            facts |= {
                "code": told["code"],
                "message": told["message"],
                "server_said": said,
                "hint": told["hint"],
            }
            self.failed(flight, told["code"], "error", facts, state)
        elif state.outcome == "cancelled":
            facts |= {"code": "cancelled", "message": "cancelled, and not by this batch"}
            self._hand_over(flight, "cancelled", facts, state)
        elif flight.node_errors:
            problems = refusals.node_problems(flight.node_errors, flight.graph)
            said = problems[0]["message"] if problems else "see the server's log"
            facts |= {"code": "dropped_nodes", "message": f"part of the graph failed validation: {said}"}
            self._hand_over(flight, "partial", facts, state)
        elif self._sockets and self._missed_pictures(flight, state):
            facts |= {
                "code": "missed_images",
                "message": "its pictures went through a socket while nobody listened",
            }
            self.failed(flight, "missed_images", "error", facts, state)
        else:
            self._hand_over(flight, "success", facts, state)

    def _missed_pictures(self, flight: Flight, state: JobState) -> bool:
        """A graph that sends pictures through the socket ended well, and none has come."""
        return not flight.pictures and not collect.files_of(state.outputs, previews=True)

    def _count_time(self, flight: Flight, state: JobState) -> float | None:
        self.count += 1
        now = time.monotonic()
        seconds = state.execution_seconds
        if seconds is not None and flight.ours and seconds > now - flight.submitted + reports.CLOCK_GRAIN:
            seconds = None  # the server's clock was set meanwhile
        if seconds is None and flight.started is not None:
            seconds = now - flight.started
        if seconds is not None and state.outcome == "success":
            self.seconds_each = (
                seconds if self.seconds_each is None else 0.8 * self.seconds_each + 0.2 * seconds
            )
            self.batch.seconds.append(seconds)
            self.samples.note(flight.todo.run, flight.graph, seconds)
        return seconds

    def leave(self, todo: Todo, prompt_id: str, why: str) -> None:
        """A run whose fate is not known and that may be paid for: it is not submitted again."""
        said = f"{why}; what became of it is not known"
        look = "--retry-failed asks for it again first; look at the server's own job page: it may be paid for"
        self.fail(todo, "lost", {"code": "lost", "message": said, "hint": look, "prompt_id": prompt_id})

    def _lost(self, todo: Todo, prompt_id: str) -> None:
        """The server was restarted or its queue cleared: the run is submitted again, but not for ever.

        A service that keeps its records and shows none may have run it, and will be paid for it: it is left at that.
        """
        if self.server.keeps_records or self.batch.options.partner:
            self.leave(todo, prompt_id, "the server took this run and shows no record of it")
            return
        if todo.lost + 1 >= MOST_LOST:
            self.fail(
                todo, "lost", {"code": "lost", "message": f"the server lost this run {MOST_LOST} times"}
            )
            return
        self.batch.journal.write("lost", run=todo.run, attempt=todo.attempt)
        self.batch.tally.resubmitted.add(todo.run)
        again = todo._replace(attempt=todo.attempt + 1, prompt_id=None, host=None, lost=todo.lost + 1)
        self.batch.put_back(again)

    def failed(
        self, flight: Flight, code: str, status: str, facts: dict[str, Any], state: JobState | None
    ) -> None:
        """A failed run: once more when that may help and --retries allows it, else its end."""
        todo = flight.todo
        # Partner nodes may have been paid for before the run failed; a submit that was turned away surely was not.
        free = code == "busy" or not self.batch.options.partner
        if code in TRANSIENT and free and todo.tried < self.batch.options.retries and not self.batch.stopping:
            if code == "out_of_memory":
                if todo.freed:
                    return self._give_up(flight, status, facts, state)
                self._free_memory()
            cli.note(f"run {todo.run} failed ({code}); trying it again")
            self.batch.tally.retried += 1
            self.batch.journal.write(
                "again", run=todo.run, attempt=todo.attempt, code=code, message=facts.get("message")
            )
            freed = todo.freed or code == "out_of_memory"
            again = todo._replace(
                attempt=todo.attempt + 1, prompt_id=None, host=None, tried=todo.tried + 1, freed=freed
            )
            self.batch.put_back(again)
            return None
        return self._give_up(flight, status, facts, state)

    def _give_up(self, flight: Flight, status: str, facts: dict[str, Any], state: JobState | None) -> None:
        if state is not None and (state.outputs or flight.pictures):
            self._hand_over(flight, status, facts, state)
        else:
            self.fail(flight.todo, status, facts)

    def _free_memory(self) -> None:
        with contextlib.suppress(SkillError):
            self.server.post_json("free", {"unload_models": True, "free_memory": True})

    def fail(self, todo: Todo, status: str, facts: dict[str, Any]) -> None:
        kept = {key: value for key, value in facts.items() if value is not None}
        kept.setdefault("host", self.url)
        self.batch.journal.write("failed", run=todo.run, status=status, **kept)
        self.batch.settle(todo.run, status, kept, self.url, [])

    def _hand_over(self, flight: Flight, status: str, facts: dict[str, Any], state: JobState) -> None:
        """On disk how it ended and what it put out; then a fetcher brings the files."""
        run = flight.todo.run
        end = facts | {"end": status, "seeds": flight.seeds}
        self.batch.journal.write("finished", run=run, **end, outputs=refs_of(state.outputs))
        self.fetchers.add(Haul(run, self.server, status, facts, state.outputs, flight.seeds, flight.pictures))

    def hand_over_recorded(self, todo: Todo, end: dict[str, Any]) -> None:
        """A run that ended in an earlier session, its files still on the server."""
        kept = ("prompt_id", "host", "seconds", "code", "message", "hint", "server_said")
        status = str(end.get("end") or "success")
        facts = {
            key: end[key]
            for key in kept
            if key in end and not (status == "success" and key in ("code", "message"))
        }
        facts.setdefault("prompt_id", todo.prompt_id)
        outputs = end.get("outputs")
        seeds = end.get("seeds") or {}
        self.fetchers.add(
            Haul(todo.run, self.server, status, facts, outputs if isinstance(outputs, dict) else {}, seeds)
        )


def facts_of(error: SkillError) -> dict[str, Any]:
    facts = {"code": error.code, "message": error.message, "hint": error.hint}
    said = error.details.get("server_said")
    return facts | ({"server_said": safe_text.clean(said, 300)} if said else {})


__all__ = ["TRANSIENT", "Ends", "facts_of"]
