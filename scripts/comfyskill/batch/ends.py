"""How the runs of one server end: success, failure, another try; written to the journal, then passed to the fetchers."""

from __future__ import annotations

import contextlib
import queue
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from comfyskill.base import cli, file_names, foreign, safe_files, safe_text
from comfyskill.base.cli import Misuse, SkillError
from comfyskill.batch.flights import MOST_LOST, Flight, Todo
from comfyskill.batch.plan import OUTPUT_COLUMN, is_media
from comfyskill.batch.times import Samples
from comfyskill.run import collect, reports, verdict
from comfyskill.server import events, refusals
from comfyskill.server.protocol import Dialect, JobState

if TYPE_CHECKING:
    from comfyskill.batch.scheduler import Batch

# Failures that may not happen again; any other would only be repeated.
TRANSIENT = frozenset(
    {"out_of_memory", "server_network", "cloud_fault", "model_download", "input_download", "device_error",
     "submit_failed", "busy", "missed_images", "timed_out", "lost"}
)  # fmt: skip
FETCHERS = 4
# One thread is enough for small files; more start when files take long, and for the last runs.
WAITING = 4
SLOW_FETCH = 0.05
# How often, and for how long, to probe an unreachable server (s).
PROBE_PAUSE, PROBE_PATIENCE = 3.0, 2.0
MOST_TEXT = 4000
MOST_VALUE = 60
OURS = re.compile(r"(?i)contact_sheet(_\d+)?|index|results|batch")
_FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")


class Ends:
    """How the runs of one server end. `count`: how many have ended here; `seconds_each`: how long one takes."""

    def __init__(
        self, batch: Batch, server: Dialect, fetchers: Fetchers, samples: Samples, *, sockets: bool
    ) -> None:
        """`samples`: gets the times of runs that succeeded. `sockets`: the graph sends pictures through the socket."""
        self.batch = batch
        self.server = server
        self.url = server.url
        self.fetchers = fetchers
        self.samples = samples
        self.count = 0
        self.seconds_each: float | None = None
        self._sockets = sockets

    def unfit(self, todo: Todo, error: SkillError) -> None:
        """This server does not accept the values: another one may have the model."""
        barred = todo.barred | {self.url}
        if any(lane.url not in barred and lane.takes_runs for lane in self.batch.lanes):
            self.batch.put_back(todo._replace(barred=barred))
            return
        self.fail(todo, "error", {"code": error.code, "message": error.message, "hint": error.hint})

    def reject(self, todo: Todo, error: SkillError) -> None:
        """The server rejected the graph: another one may accept it."""
        barred = todo.barred | {self.url}
        if any(lane.url not in barred and lane.takes_runs for lane in self.batch.lanes):
            self.batch.journal.write("released", run=todo.run, attempt=todo.attempt)
            self.batch.put_back(todo._replace(prompt_id=None, attempt=todo.attempt + 1, barred=barred))
            return
        self.fail(todo, "rejected", facts_of(error))

    def ended(self, flight: Flight, state: JobState) -> None:
        """The server has ended a run: record how, and decide what comes next."""
        todo = flight.todo
        if state.phase == "unknown":
            self._lost(todo, state.prompt_id)
            return
        seconds = self._count_time(flight, state)
        facts: dict[str, Any] = {"prompt_id": state.prompt_id, "host": self.url}
        if seconds is not None:
            facts["seconds"] = round(seconds, 3)
        if state.outcome == "error":
            failure = verdict.failure(state, flight.graph)
            said = foreign.mapping(failure.error).get("server_said")
            facts |= {
                "code": failure.code,
                "message": failure.message,
                "server_said": said,
                "hint": failure.hint,
            }
            self.failed(flight, failure.code, "error", facts, state)
        elif state.outcome == "cancelled":
            facts |= {"code": "cancelled", "message": "cancelled, but not by this batch"}
            self._hand_over(flight, "cancelled", facts, state)
        elif flight.node_errors:
            problems = refusals.node_problems(flight.node_errors, flight.graph)
            said = problems[0]["message"] if problems else "see the server's log"
            facts |= {"code": "dropped_nodes", "message": f"part of the graph failed validation: {said}"}
            self._hand_over(flight, "partial", facts, state)
        elif self._sockets and self._missed_pictures(flight, state):
            facts |= {
                "code": "missed_images",
                "message": "its pictures were sent through a socket that was not connected",
            }
            self.failed(flight, "missed_images", "error", facts, state)
        else:
            self._hand_over(flight, "success", facts, state)

    def _missed_pictures(self, flight: Flight, state: JobState) -> bool:
        """Whether a graph that sends pictures through the socket succeeded, but none arrived."""
        return not flight.pictures and not collect.files_of(state.outputs, previews=True)

    def _count_time(self, flight: Flight, state: JobState) -> float | None:
        self.count += 1
        now = time.monotonic()
        seconds = state.execution_seconds
        if seconds is not None and flight.ours and seconds > now - flight.submitted + reports.CLOCK_GRAIN:
            seconds = None  # the server's clock was changed meanwhile
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
        """End a run whose result is unknown: it may have been paid for, so it is not submitted again."""
        said = f"{why}; its result is unknown"
        look = (
            "check the server's job page: it may have been paid for; --retry-failed looks for it again first"
        )
        self.fail(todo, "lost", {"code": "lost", "message": said, "hint": look, "prompt_id": prompt_id})

    def _lost(self, todo: Todo, prompt_id: str) -> None:
        """The server was restarted or its queue cleared: the run is submitted again, a few times at most.

        A service that keeps its records and shows none may have run it, and will be paid for it: it is left at that.
        """
        if self.server.keeps_records or self.batch.options.partner:
            self.leave(todo, prompt_id, "the server accepted this run and has no record of it")
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
        """Repeat a failed run when that may help and --retries allows it, else end it."""
        todo = flight.todo
        # Partner nodes may have been paid for before the run failed; a refused submit was not.
        free = code == "busy" or not self.batch.options.partner
        if code in TRANSIENT and free and todo.tried < self.batch.options.retries and not self.batch.stopping:
            if code == "out_of_memory":
                if todo.freed:
                    return self._give_up(flight, status, facts, state)
                self._free_memory()
            cli.note(f"run {todo.run} failed ({code}); trying again")
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
        """Write to the journal how the run ended and what it produced; a fetcher then fetches the files."""
        run = flight.todo.run
        end = facts | {"end": status, "seeds": flight.seeds}
        self.batch.journal.write("finished", run=run, **end, outputs=refs_of(state.outputs))
        self.fetchers.add(Haul(run, self.server, status, facts, state.outputs, flight.seeds, flight.pictures))

    def hand_over_recorded(self, todo: Todo, end: dict[str, Any]) -> None:
        """Fetch the files of a run that ended in an earlier session."""
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


class Haul(NamedTuple):
    """How one run ended, and what to fetch."""

    run: int
    server: Dialect
    status: str
    facts: dict[str, Any]
    outputs: Mapping[str, Any]
    seeds: Mapping[str, int]
    pictures: Sequence[tuple[str, events.Preview]] = ()


class Names:
    """Where a run's files go: `run_0007/` with the server's names, or names made from the run's values."""

    def __init__(self, batch: Batch) -> None:
        plan = batch.recipe.plan
        self._plan = plan
        self._template = batch.options.name
        self._digits = max(4, len(str(max(plan.count - 1, 0))))

    def base(self, run: int, seeds: Mapping[str, int]) -> str | None:
        """The flat name (without suffix) of a run's files, or None when it has its own folder."""
        values = self._plan.values(run)
        if values.get(OUTPUT_COLUMN):
            return _flat(_without_suffix(str(values[OUTPUT_COLUMN])))
        if self._template is None:
            return None
        try:
            made = made_name(self._template, run, dict.fromkeys(self._plan.names) | values, seeds)
        except SkillError as error:
            # A value far down a long list may fit badly: the files matter more than their name.
            cli.warn(f"run {run} gets its own folder: {error.message}")
            return None
        return _flat(made)

    def folder(self, run: int) -> str:
        """The name of a run's folder, if it has one."""
        return f"run_{run:0{self._digits}d}"


def _flat(name: str) -> str:
    """A run's name as a file name, distinct from the names of the batch's pages."""
    safe = file_names.safe_name(name)
    return f"_{safe}" if OURS.fullmatch(safe) else safe


def made_name(template: str, run: int, values: Mapping[str, Any], seeds: Mapping[str, int]) -> str:
    """`{index:04d}_{seed}_{cfg}` filled in; only names and plain number formats, nothing is evaluated.

    A value of None (an empty cell of a table) gives no text, an input file its bare name.
    Raises SkillError (exit 2) for an unknown field or a format that does not fit.
    """
    known: dict[str, Any] = {**seeds, **values, "index": run, "number": run + 1}
    if "seed" not in known and seeds:
        known["seed"] = next(iter(seeds.values()))

    def fill(match: re.Match[str]) -> str:
        name, form = match[1], match[2] or ""
        if name not in known:
            raise Misuse(
                f"--name: unknown field {{{name}}}", hint=f"fields: {', '.join(sorted(known))[:300]}"
            )
        value = known[name]
        if value is None:
            return ""
        if form and not re.fullmatch(r"0?\d{0,3}(\.\d{1,2})?[a-zA-Z%]?", form):
            raise Misuse(
                f"--name: {form!r} is not a number format", hint="for example {index:04d} or {cfg:.1f}"
            )
        try:
            text = format(_number(value) if form else _bare(value), form)
        except (ValueError, TypeError) as error:
            raise Misuse(f"--name: {{{name}:{form}}} does not fit {safe_text.clean(value, 40)!r}") from error
        return file_names.safe_name(text)[:MOST_VALUE]

    return _FIELD.sub(fill, template)


def _bare(value: Any) -> Any:
    """A picture's or video's path without folders and suffix; anything else as it is."""
    name = PurePath(value) if isinstance(value, str) else None
    return name.stem if name is not None and is_media(name) else value


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _without_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and suffix.lower() in collect.TYPE_BY_SUFFIX else name


class Fetchers:
    """A few threads that fetch the files of one server, write a run's last line and settle it.

    Each server has its own: a server that hangs must not hold up the files of the others.
    """

    def __init__(self, batch: Batch, server: Dialect) -> None:
        self.batch = batch
        self.server = server
        self.names = Names(batch)
        self._gone_at: float | None = None  # when the server was last found unreachable
        self._queue: queue.SimpleQueue[Haul | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._each = 0.0  # seconds that fetching a run takes, smoothed
        self._grow()

    def _grow(self) -> None:
        thread = threading.Thread(target=self._work, name=f"fetch {len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def add(self, haul: Haul) -> None:
        """Fetch this when a thread is free."""
        self._queue.put(haul)
        worth_it = self._each > SLOW_FETCH or self.batch.all_given
        if self._queue.qsize() > WAITING and worth_it and len(self._threads) < FETCHERS:
            self._grow()

    def close(self, give_up: float | None = None) -> None:
        """End the threads when everything is fetched; wait at most until `give_up` (monotonic)."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            while thread.is_alive() and (give_up is None or time.monotonic() < give_up):
                thread.join(0.2)

    def _work(self) -> None:
        while (haul := self._queue.get()) is not None:
            try:
                self._take(haul)
            except OSError as error:
                self.batch.disk_failed(error)
            except Exception as error:  # noqa: BLE001  (it ends as a report; the batch must not wait for ever)
                self.batch.stop("fault", cli.fault(error))

    def _take(self, haul: Haul) -> None:
        if self.batch.folder_lost():
            return
        began = time.monotonic()
        try:
            self._bring(haul)
            self._each = 0.7 * self._each + 0.3 * (time.monotonic() - began)
        except SkillError as error:
            # One run without files, not a batch that never ends.
            self._settle(haul, "download_failed", {"code": error.code, "message": error.message}, [])

    def _bring(self, haul: Haul) -> None:
        self._refuse_while_gone()
        saved, failed = self._files(haul)
        if any(item.error.code == "unreachable" for item in failed):
            self._gone_at = time.monotonic()
        facts: dict[str, Any] = {}
        status = haul.status
        if failed and status == "success":
            status = "download_failed"
            first = failed[0]
            facts = {
                "code": first.error.code,
                "message": f"could not fetch {safe_text.quoted(first.json()['filename'])}: {first.error.message}",
            }
        rows = [self._row(item) for item in saved]
        texts = collect.texts_of(haul.outputs)
        if texts:
            facts["texts"] = [{**item, "text": item["text"][:MOST_TEXT]} for item in texts[:20]]
        self._settle(haul, status, facts, rows)

    def _refuse_while_gone(self) -> None:
        """Do not wait again for a server that one run has waited for; only probe it now and then.

        Raises SkillError `unreachable`: --resume fetches them.
        """
        if self._gone_at is None:
            return
        if time.monotonic() - self._gone_at > PROBE_PAUSE:
            try:
                self.server.get("queue", attempts=1, timeout=PROBE_PATIENCE)
            except SkillError as error:
                self._gone_at = time.monotonic() if error.code == "unreachable" else None
            else:
                self._gone_at = None
        if self._gone_at is not None:
            raise SkillError(f"{self.server.url} is unreachable", code="unreachable")

    def _settle(self, haul: Haul, status: str, more: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        """The journal's last line of a run, and the batch's count of it."""
        facts = haul.facts | more
        self.batch.journal.write("downloaded", run=haul.run, **{**facts, "status": status}, files=rows)
        self.batch.settle(haul.run, status, facts, haul.server.url, rows)

    def _row(self, item: collect.Saved) -> dict[str, Any]:
        row = item.json()
        row["file"] = item.path.relative_to(self.batch.options.folder).as_posix()
        return row

    def _files(self, haul: Haul) -> tuple[list[collect.Saved], list[collect.Failed]]:
        options = self.batch.options
        outputs = collect.files_of(haul.outputs, previews=options.run.include_previews)
        if not outputs and not haul.pictures:
            return [], []
        base = self.names.base(haul.run, haul.seeds)
        steps = [self.names.folder(haul.run)] if base is None else []
        root = safe_files.make_folder(options.folder, *steps)
        collector = collect.Collector(
            haul.server, root, flat=base is not None or options.run.flat, patience=options.run.patience
        )
        several = len(outputs) + len(haul.pictures) > 1
        saved, failed = [], []
        for number, (node, frame) in enumerate(haul.pictures, 1):
            name = _named(f"node{node}_{number:02d}{frame.suffix}", base, number, several)
            saved.append(collector.save_bytes(name, frame.image, node, "socket"))
        for number, output in enumerate(outputs, len(haul.pictures) + 1):
            wanted = _named(output.ref.display_name or output.ref.filename, base, number, several)
            renamed = (
                output if base is None else output._replace(ref=output.ref._replace(display_name=wanted))
            )
            try:
                saved.append(collector.fetch(renamed))
            except SkillError as error:
                failed.append(collect.Failed(output, collector.address(output.ref), error))
        return saved, failed


def _named(original: str, base: str | None, number: int, several: bool) -> str:
    if base is None:
        return original
    suffix = Path(file_names.safe_name(original)).suffix
    return f"{base}_{number}{suffix}" if several else f"{base}{suffix}"


def refs_of(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs as the journal keeps them: enough to fetch every file after the server's history is lost."""
    return {
        str(node): {key: value for key, value in output.items() if isinstance(value, (list, tuple, str))}
        for node, output in outputs.items()
        if isinstance(output, Mapping)
    }
