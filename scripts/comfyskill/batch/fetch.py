"""Fetches the files of the runs of one server and settles the runs; names the files."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from comfyskill.base import cli, file_names, safe_files, safe_text
from comfyskill.base.cli import Document, Misuse, SkillError
from comfyskill.batch.plan import OUTPUT_COLUMN, Plan, is_media
from comfyskill.batch.scheduler import Batch
from comfyskill.run import collect
from comfyskill.server import events
from comfyskill.server.protocol import Dialect

FETCHERS = 4
# One thread is enough for small files; more start when files take long, and for the last runs.
WAITING = 4
SLOW_FETCH = 0.05
# How often, and for how long, to probe an unreachable server (s).
PROBE_PAUSE, PROBE_PATIENCE = 3.0, 2.0
MOST_TEXTS = 20
MOST_TEXT = 4000
MOST_VALUE = 60
# Names of the batch's own pages.
PAGES = re.compile(r"(?i)contact_sheet(_\d+)?|index|results|batch")
_FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")
_NUMBER_FORMAT = re.compile(r"0?\d{0,3}(\.\d{1,2})?[a-zA-Z%]?")


class Haul(NamedTuple):
    """How one run ended, and what to fetch."""

    run: int
    status: str
    facts: Document
    outputs: Mapping[str, object]
    seeds: Mapping[str, int]
    pictures: Sequence[tuple[str, events.Preview]] = ()


class Fetchers:
    """A few threads that fetch the files of one server, write a run's last line and settle it.

    Each server has its own: a server that hangs must not hold up the files of the others.
    """

    def __init__(self, batch: Batch, server: Dialect) -> None:
        self.batch = batch
        self.server = server
        self._unreachable_at: float | None = None  # when the server was last found unreachable
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
        worth_it = self._each > SLOW_FETCH or self.batch.all_taken
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
            self._refuse_while_unreachable()
            saved, failed = self._fetch(haul)
            self._each = 0.7 * self._each + 0.3 * (time.monotonic() - began)
        except SkillError as error:
            # One run without files, not a batch that never ends.
            self._settle(haul, "download_failed", {"code": error.code, "message": error.message}, [])
            return
        status, facts = _judged(haul, failed)
        if any(item.error.code == "unreachable" for item in failed):
            self._unreachable_at = time.monotonic()
        if texts := collect.texts_of(haul.outputs):
            facts["texts"] = [{**item, "text": item["text"][:MOST_TEXT]} for item in texts[:MOST_TEXTS]]
        self._settle(haul, status, facts, [self._row(item) for item in saved])

    def _refuse_while_unreachable(self) -> None:
        """Do not wait again for a server that one run has waited for; only probe it now and then.

        Raises SkillError `unreachable`: --resume fetches them.
        """
        if self._unreachable_at is None:
            return
        if time.monotonic() - self._unreachable_at > PROBE_PAUSE:
            try:
                self.server.get("queue", attempts=1, timeout=PROBE_PATIENCE)
            except SkillError as error:
                self._unreachable_at = time.monotonic() if error.code == "unreachable" else None
            else:
                self._unreachable_at = None
        if self._unreachable_at is not None:
            raise SkillError(f"{self.server.url} is unreachable", code="unreachable")

    def _fetch(self, haul: Haul) -> tuple[list[collect.Saved], list[collect.Failed]]:
        options = self.batch.options
        outputs = collect.files_of(haul.outputs, previews=options.run.include_previews)
        if not outputs and not haul.pictures:
            return [], []
        base = flat_name(self.batch.recipe.plan, options.name, haul.run, haul.seeds)
        steps = [_folder_name(self.batch.recipe.plan, haul.run)] if base is None else []
        root = safe_files.make_folder(options.folder, *steps)
        collector = collect.Collector(
            self.server, root, flat=base is not None or options.run.flat, patience=options.run.patience
        )
        several = len(outputs) + len(haul.pictures) > 1
        saved, failed = [], []
        for number, (node, frame) in enumerate(haul.pictures, 1):
            name = _file_name(f"node{node}_{number:02d}{frame.suffix}", base, number, several)
            saved.append(collector.save_bytes(name, frame.image, node, "socket"))
        for number, output in enumerate(outputs, len(haul.pictures) + 1):
            name = _file_name(output.ref.display_name or output.ref.filename, base, number, several)
            renamed = output if base is None else output._replace(ref=output.ref._replace(display_name=name))
            try:
                saved.append(collector.fetch(renamed))
            except SkillError as error:
                failed.append(collect.Failed(output, collector.address(output.ref), error))
        return saved, failed

    def _row(self, item: collect.Saved) -> Document:
        """A file as the journal lists it."""
        return item.json() | {"file": item.path.relative_to(self.batch.options.folder).as_posix()}

    def _settle(self, haul: Haul, status: str, more: Document, rows: list[Document]) -> None:
        """The journal's last line of a run, and the batch's count of it."""
        facts = haul.facts | more
        self.batch.journal.write("downloaded", run=haul.run, **{**facts, "status": status}, files=rows)
        self.batch.settle(haul.run, status, facts, self.server.url, rows)


def _judged(haul: Haul, failed: Sequence[collect.Failed]) -> tuple[str, Document]:
    """The status of a run after its files were fetched, with the reason when that changed it."""
    if not failed or haul.status != "success":
        return haul.status, {}
    first = failed[0]
    name = safe_text.quoted(first.json()["filename"])
    message = f"could not fetch {name}: {first.error.message}"
    return "download_failed", {"code": first.error.code, "message": message}


def _folder_name(plan: Plan, run: int) -> str:
    """The name of a run's folder, `run_0007`."""
    digits = max(4, len(str(max(plan.count - 1, 0))))
    return f"run_{run:0{digits}d}"


def flat_name(plan: Plan, template: str | None, run: int, seeds: Mapping[str, int]) -> str | None:
    """The name (without suffix) of a run's files, made from its values; None when it has its own folder."""
    values = plan.values(run)
    if values.get(OUTPUT_COLUMN):
        return _apart_from_pages(_without_suffix(str(values[OUTPUT_COLUMN])))
    if template is None:
        return None
    try:
        return _apart_from_pages(made_name(template, run, dict.fromkeys(plan.names) | values, seeds))
    except SkillError as error:
        # A value far down a long list may not fit: the files matter more than their name.
        cli.warn(f"run {run} gets its own folder: {error.message}")
        return None


def _apart_from_pages(name: str) -> str:
    """A run's name as a file name, distinct from the names of the batch's pages."""
    safe = file_names.safe_name(name)
    return f"_{safe}" if PAGES.fullmatch(safe) else safe


def made_name(template: str, run: int, values: Mapping[str, object], seeds: Mapping[str, int]) -> str:
    """`{index:04d}_{seed}_{cfg}` filled in; only names and plain number formats, nothing is evaluated.

    A value of None (an empty cell of a table) gives no text, an input file its bare name.
    Raises SkillError (exit 2) for an unknown field or a format that does not fit.
    """
    known: dict[str, object] = {**seeds, **values, "index": run, "number": run + 1}
    if "seed" not in known and seeds:
        known["seed"] = next(iter(seeds.values()))

    def fill(match: re.Match[str]) -> str:
        name, form = match[1], match[2] or ""
        if name not in known:
            fields = ", ".join(sorted(known))[:300]
            raise Misuse(f"--name: unknown field {{{name}}}", hint=f"fields: {fields}")
        value = known[name]
        if value is None:
            return ""
        if not _NUMBER_FORMAT.fullmatch(form):
            raise Misuse(
                f"--name: {form!r} is not a number format", hint="for example {index:04d} or {cfg:.1f}"
            )
        try:
            text = format(_number(value) if form else _bare(value), form)
        except (ValueError, TypeError) as error:
            raise Misuse(f"--name: {{{name}:{form}}} does not fit {safe_text.clean(value, 40)!r}") from error
        return file_names.safe_name(text)[:MOST_VALUE]

    return _FIELD.sub(fill, template)


def _bare(value: object) -> object:
    """A picture's or video's path without folders and suffix; anything else as it is."""
    name = PurePath(value) if isinstance(value, str) else None
    return name.stem if name is not None and is_media(name) else value


def _number(value: object) -> object:
    """A text that is a number as that number; anything else as it is."""
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


def _file_name(original: str, base: str | None, number: int, several: bool) -> str:
    """The name of one of a run's files: its own, or the run's flat name with its suffix."""
    if base is None:
        return original
    suffix = Path(file_names.safe_name(original)).suffix
    return f"{base}_{number}{suffix}" if several else f"{base}{suffix}"
