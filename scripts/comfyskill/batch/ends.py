"""How the runs of one server end: success, failure, another try; written to the journal, then passed to the fetchers."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Mapping

from comfyskill.base import cli, foreign, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.batch.fetch import Fetchers, Haul
from comfyskill.batch.flights import MOST_LOST, Flight, ServerRuns, Todo
from comfyskill.batch.scheduler import Batch
from comfyskill.run import collect, reports, result, times, verdict
from comfyskill.server import refusals
from comfyskill.server.facts import Facts
from comfyskill.server.protocol import Graph, JobState

# Failures that may not happen again; any other would only be repeated.
TRANSIENT = frozenset(
    {"out_of_memory", "server_network", "cloud_fault", "model_download", "input_download", "device_error",
     "submit_failed", "busy", "missed_images", "timed_out", "lost"}
)  # fmt: skip


class Ends:
    """Decides how the runs of one server end, and keeps the times of those that succeeded."""

    def __init__(self, batch: Batch, here: ServerRuns, fetchers: Fetchers, graph: Graph) -> None:
        self.batch = batch
        self.here = here
        self.server = here.server
        self.url = here.url
        self.fetchers = fetchers
        self._graph = graph
        self._seconds: dict[str, deque[float]] = {}  # by the graph's deciding values (see `times.weight`)
        self.through_socket = bool(result.socket_nodes(graph))  # this graph sends pictures through the socket

    def unfit(self, todo: Todo, error: SkillError) -> None:
        """This server does not accept the values: another one may have the model."""
        barred = todo.barred | {self.url}
        if self.batch.accepted_elsewhere(barred):
            self.batch.put_back(todo._replace(barred=barred))
            return
        self.fail(todo, "error", {"code": error.code, "message": error.message, "hint": error.hint})

    def reject(self, todo: Todo, error: SkillError) -> None:
        """The server rejected the graph: another one may accept it."""
        barred = todo.barred | {self.url}
        if self.batch.accepted_elsewhere(barred):
            self.batch.journal.write("released", run=todo.run, attempt=todo.attempt)
            self.batch.put_back(todo._replace(prompt_id=None, attempt=todo.attempt + 1, barred=barred))
            return
        self.fail(todo, "rejected", failure_facts(error))

    def ended(self, flight: Flight, state: JobState) -> None:
        """The server has ended a run: record how, and decide what comes next."""
        if state.phase == "unknown":
            self._lost(flight.todo, state.prompt_id)
            return
        seconds = self._count_time(flight, state)
        facts: Document = {"prompt_id": state.prompt_id, "host": self.url}
        if seconds is not None:
            facts["seconds"] = round(seconds, 3)
        if state.outcome == "error":
            failure = verdict.failure(state, flight.graph)
            facts |= {
                "code": failure.code,
                "message": failure.message,
                "server_said": foreign.mapping(failure.error).get("server_said"),
                "hint": failure.hint,
            }
            self.failed(flight, failure.code, "error", facts, state)
        elif state.outcome == "cancelled":
            facts |= {"code": "cancelled", "message": "cancelled, but not by this batch"}
            self._hand_over(flight, "cancelled", facts, state)
        elif flight.node_errors:
            problems = refusals.node_problems(flight.node_errors, flight.graph)
            reason = problems[0]["message"] if problems else "see the server's log"
            facts |= {"code": "dropped_nodes", "message": f"part of the graph failed validation: {reason}"}
            self._hand_over(flight, "partial", facts, state)
        elif self.through_socket and _missed_pictures(flight, state):
            message = "its pictures were sent through a socket that was not connected"
            facts |= {"code": "missed_images", "message": message}
            self.failed(flight, "missed_images", "error", facts, state)
        else:
            self._hand_over(flight, "success", facts, state)

    def _count_time(self, flight: Flight, state: JobState) -> float | None:
        """How long the run executed, as far as is known; the times of successful runs are kept."""
        self.here.count += 1
        now = time.monotonic()
        seconds = state.execution_seconds
        if seconds is not None and flight.ours and seconds > now - flight.submitted + reports.CLOCK_GRAIN:
            seconds = None  # the server's clock was changed meanwhile
        if seconds is None and flight.started is not None:
            seconds = now - flight.started
        if seconds is not None and state.outcome == "success":
            each = self.here.seconds_each
            self.here.seconds_each = seconds if each is None else 0.8 * each + 0.2 * seconds
            self.batch.took(seconds)
            self._note_time(flight.graph, seconds)
        return seconds

    def _note_time(self, graph: Graph, seconds: float) -> None:
        weight = times.weight(graph)
        if weight in self._seconds or len(self._seconds) < times.MOST_SETS:
            self._seconds.setdefault(weight, deque(maxlen=times.MOST_TIMES)).append(seconds)

    def remember_times(self) -> None:
        """Keep the times of these runs for later estimates."""
        host = times_host(self.server)
        rows = [times.Times(host, weight, list(seconds)) for weight, seconds in self._seconds.items()]
        if rows:
            times.remember(self._graph, rows)

    def leave(self, todo: Todo, prompt_id: str, why: str) -> None:
        """End a run whose result is unknown: it may have been paid for, so it is not submitted again."""
        hint = (
            "check the server's job page: it may have been paid for; --retry-failed looks for it again first"
        )
        message = f"{why}; its result is unknown"
        self.fail(todo, "lost", {"code": "lost", "message": message, "hint": hint, "prompt_id": prompt_id})

    def _lost(self, todo: Todo, prompt_id: str) -> None:
        """The server was restarted or its queue cleared: the run is submitted again, a few times at most.

        A service that keeps its records and shows none may have run it, and charge for it: it is not submitted again.
        """
        if self.server.keeps_records or self.batch.options.partner:
            self.leave(todo, prompt_id, "the server accepted this run and has no record of it")
            return
        if todo.lost + 1 >= MOST_LOST:
            message = f"the server lost this run {MOST_LOST} times"
            self.fail(todo, "lost", {"code": "lost", "message": message})
            return
        self.batch.journal.write("lost", run=todo.run, attempt=todo.attempt)
        self.batch.count_resubmitted(todo.run)
        self.batch.put_back(todo.again()._replace(lost=todo.lost + 1))

    def failed(self, flight: Flight, code: str, status: str, facts: Document, state: JobState | None) -> None:
        """Repeat a failed run when that may help and --retries allows it, else end it."""
        todo = flight.todo
        memory = code == "out_of_memory"
        if self._worth_repeating(code, todo) and not (memory and todo.freed):
            if memory:
                self._free_memory()
            cli.note(f"run {todo.run} failed ({code}); trying again")
            self.batch.count("retried")
            self.batch.journal.write(
                "again", run=todo.run, attempt=todo.attempt, code=code, message=facts.get("message")
            )
            self.batch.put_back(todo.again()._replace(tried=todo.tried + 1, freed=todo.freed or memory))
        elif state is not None and (state.outputs or flight.pictures):
            self._hand_over(flight, status, facts, state)
        else:
            self.fail(todo, status, facts)

    def _worth_repeating(self, code: str, todo: Todo) -> bool:
        # Partner nodes may have been paid for before the run failed; a refused submit was not.
        free = code == "busy" or not self.batch.options.partner
        allowed = todo.tried < self.batch.options.retries and not self.batch.stopping
        return code in TRANSIENT and free and allowed

    def _free_memory(self) -> None:
        with contextlib.suppress(SkillError):
            self.server.post_json("free", {"unload_models": True, "free_memory": True})

    def fail(self, todo: Todo, status: str, facts: Mapping[str, object]) -> None:
        """End a run that has no files to fetch."""
        kept = {key: value for key, value in facts.items() if value is not None}
        kept.setdefault("host", self.url)
        self.batch.journal.write("failed", run=todo.run, status=status, **kept)
        self.batch.settle(todo.run, status, kept, self.url, [])

    def _hand_over(self, flight: Flight, status: str, facts: Document, state: JobState) -> None:
        """Write to the journal how the run ended and what it produced; a fetcher then fetches the files."""
        run = flight.todo.run
        end = facts | {"end": status, "seeds": flight.seeds}
        self.batch.journal.write("finished", run=run, **end, outputs=_recorded(state.outputs))
        self.fetchers.add(Haul(run, status, facts, state.outputs, flight.seeds, flight.pictures))

    def ended_before(self, todo: Todo, end: Document) -> None:
        """Fetch the files of a run that ended in an earlier session; `end` is what the journal says of it."""
        status = str(end.get("end") or "success")
        failure = () if status == "success" else ("code", "message")
        kept = ("prompt_id", "host", "seconds", *failure, "hint", "server_said")
        facts = {"prompt_id": todo.prompt_id} | {key: end[key] for key in kept if key in end}
        self.fetchers.add(
            Haul(
                todo.run,
                status,
                facts,
                foreign.mapping(end.get("outputs")),
                foreign.mapping(end.get("seeds")),
            )
        )


def _missed_pictures(flight: Flight, state: JobState) -> bool:
    """Whether a graph that sends pictures through the socket succeeded, but none arrived."""
    return not flight.pictures and not collect.files_of(state.outputs, previews=True)


def times_host(server: Facts) -> str:
    """The server's name in the memory of times; the demo servers of single calls share one."""
    return "demo" if server.fleeting else server.url


def failure_facts(error: SkillError) -> Document:
    """What the journal keeps of a failure."""
    facts = {"code": error.code, "message": error.message, "hint": error.hint}
    said = error.details.get("server_said")
    return facts | ({"server_said": safe_text.clean(said, 300)} if said else {})


def _recorded(outputs: Mapping[str, object]) -> Document:
    """The outputs as the journal keeps them: enough to fetch every file after the server's history is lost."""
    return {
        str(node): {key: value for key, value in output.items() if isinstance(value, (list, tuple, str))}
        for node, output in outputs.items()
        if isinstance(output, Mapping)
    }
