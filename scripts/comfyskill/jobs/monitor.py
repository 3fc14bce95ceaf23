"""A live view of jobs: it never affects the jobs or their submitters.

The monitor has a client id of its own. Frames of a run go to the client that submitted it, so what others'
runs do is known only from the frames that the server broadcasts, the queue and the history.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from comfyskill.base import cli, file_names, safe_text
from comfyskill.base.cli import Document, Exit, SkillError, Terminated
from comfyskill.base.programs import command
from comfyskill.run import collect, reports, times
from comfyskill.run import verdict as run_verdict
from comfyskill.run.progress import WAITING, Progress
from comfyskill.run.verdict import Verdict
from comfyskill.server import events, transport
from comfyskill.server.protocol import Dialect, Graph, JobState, JobSummary
from comfyskill.server.watch import Ended, Update, Watcher

# Looking at the whole queue costs a request; changes come as `status` frames anyway.
REFRESH_PAUSE = 0.5
SLOW_REFRESH = 5.0
# Jobs further back show only their place.
MOST_WAITING = 3
UNSEEN = "running; the server sends its steps only to the client that submitted it"
REDRAW_PAUSE = 0.1
MOST_TEXT = 4_000
BAR_WIDTH = 24
MOST_NAMES = 20
MOST_LISTED = 1000
MOST_JOBS = 100
UNCHANGED = "nothing was changed"
NO_PREVIEWS = "no preview arrived: ComfyUI sends them to the client that submitted the job (run_workflow.py --save-previews)"


@dataclass
class Shown:
    """One job in the view."""

    prompt_id: str
    state: str
    progress: Progress
    position: int | None = None
    estimate: times.Estimate | None = None
    since: float = field(default_factory=time.monotonic)
    previews: int = 0
    known: bool = False  # its graph is known
    ask_at: float = 0.0  # when to ask for its graph again
    ask_pause: float = REFRESH_PAUSE

    def learn(self, graph: Graph, url: str) -> None:
        """Take titles, shares and the usual run time from the graph."""
        self.known = True
        self.progress.learn(graph)
        self.estimate = times.estimate(url, graph)

    def runs(self) -> None:
        """It runs now: its time counts from here, without what it waited."""
        if self.state != "running":
            self.state, self.since = "running", time.monotonic()

    @property
    def unseen(self) -> bool:
        """Whether it runs and nothing of it comes here: its frames go to the client that submitted it."""
        return self.state == "running" and self.progress.doing == WAITING

    @property
    def doing(self) -> str:
        """What it does now, if that is known here."""
        return UNSEEN if self.unseen else self.progress.doing

    def row(self) -> Document:
        """The job as one JSON object."""
        row: Document = {
            "prompt_id": self.prompt_id,
            "state": self.state,
            "share": None if self.unseen else round(self.progress.share, 3),
            "doing": self.doing,
            "elapsed_seconds": round(time.monotonic() - self.since, 1),
        }
        if self.position:
            row["position"] = self.position
        if self.progress.cached:
            row["cached_nodes"] = len(self.progress.cached)
        if self.estimate is not None:
            row["estimate"] = self.estimate.as_text()
        return row


class View(Protocol):
    """Where the monitor shows what it learns."""

    def frame(self, frame: events.Frame) -> None:
        """Any frame of the socket that concerns what is watched."""

    def preview(self, job: Shown, path: Path, size: int) -> None:
        """A preview picture was saved."""

    def change(self, jobs: Mapping[str, Shown], queue_remaining: int | None) -> None:
        """Something about the shown jobs has changed."""

    def ended(self, job: Shown, outcome: Document) -> None:
        """A job has ended."""

    def close(self) -> None:
        """Leave the terminal clean."""


class Monitor:
    """Follows given jobs, or everything that runs. `run` returns the closing report."""

    def __init__(
        self,
        server: Dialect,
        view: View,
        ids: Sequence[str],
        *,
        previews: Path | None = None,
        use_socket: bool = True,
    ) -> None:
        self.server = server
        self.view = view
        self.ids = list(dict.fromkeys(ids))
        self.previews = previews
        self.jobs: dict[str, Shown] = {}
        self.outcomes: dict[str, Document] = {}
        self.watcher = Watcher(server, uuid.uuid4().hex, use_socket=use_socket, answered=False)
        self.watcher.tap = self._tap
        self._answered = False
        self._unlisted_since: float | None = None  # the queue could not be read since then
        self._refresh_at = 0.0
        self._queue_changed = False
        self._saved_previews = False

    def run(self, *, follow: bool, timeout: float | None) -> Document:
        """Until the given jobs (or all that are in the queue) have ended, the time is up, or for ever with `follow`."""
        give_up = None if timeout is None else time.monotonic() + timeout
        try:
            with transport.no_later_than(give_up):
                return self._document(self._watch(follow, give_up))
        except SkillError as error:
            if not self.ids or error.next or error.exit == Exit.MISUSE:
                raise
            raise error.but(next=self._again) from error
        except KeyboardInterrupt:
            message = "interrupted by the user; the jobs are still running"
            return self._document(
                Verdict("cancelled", "interrupted", message, UNCHANGED, retryable=True, next=self._again)
            )
        except Terminated:
            message = "terminated by a signal; the jobs are still running"
            return self._document(Verdict("timeout", "still_running", message, UNCHANGED, next=self._again))
        finally:
            self.view.close()
            self.watcher.close()

    def _watch(self, follow: bool, give_up: float | None) -> Verdict:
        """How the watched jobs ended."""
        self.watcher.open()
        for prompt_id in self.ids:
            self._show(JobSummary(prompt_id, "pending"))
        while True:
            fresh = self._refresh()
            if not (follow or fresh or self.jobs or self.ids):
                # Only a fresh answer can show that the queue is empty.
                fresh = self._refresh(at_once=True)
            if not follow and not self.jobs and (fresh or self.ids):
                return self._verdict()
            wait = 0.5 if give_up is None else min(0.5, give_up - time.monotonic())
            if wait <= 0:
                return self._verdict(timed_out=bool(self.jobs))
            for item in self.watcher.updates(wait):
                self._take(item)

    @property
    def _again(self) -> list[str]:
        """The command that waits for what is still going and fetches its files; none when no job was named."""
        if not self.ids:
            return []
        left = [prompt_id for prompt_id in self.ids if prompt_id not in self.outcomes] or self.ids
        return [command("manage_queue.py", "wait", *left, *self.server.flags)]

    def _tap(self, frame: events.Frame) -> None:
        if isinstance(frame, events.Event) and frame.type == "status":
            self._queue_changed = True
        owner = getattr(frame, "prompt_id", None)
        if owner is None or not self.ids or owner in self.ids:
            self.view.frame(frame)

    def _refresh(self, *, at_once: bool = False) -> bool:
        """Show new jobs and current places when it is time to. False: the queue was not read."""
        now = time.monotonic()
        due = self._refresh_at - (SLOW_REFRESH - REFRESH_PAUSE if self._queue_changed else 0.0)
        if now < due and not at_once:
            return False
        self._queue_changed, self._refresh_at = False, now + SLOW_REFRESH
        try:
            listed = self.server.list_jobs(MOST_LISTED, finished=False)
        except SkillError as error:
            self._unlisted(error, now)
            return False
        self._answered, self._unlisted_since = True, None
        waiting = 0
        for job in listed:
            waiting += job.phase == "pending"
            if job.prompt_id in self.ids if self.ids else job.phase == "running" or waiting <= MOST_WAITING:
                self._show(job)
        self._learn_graphs()
        self.view.change(self.jobs, self.watcher.queue_remaining)
        return True

    def _unlisted(self, error: SkillError, now: float) -> None:
        """The queue could not be read: raise the error when waiting longer cannot help."""
        if self._unlisted_since is None:
            self._unlisted_since = now
        if self.ids:
            # Named jobs have records of their own, which the watcher reads.
            final = not self._answered and error.exit == Exit.UNREACHABLE
        else:
            final = not self._answered or time.monotonic() - self._unlisted_since > self.watcher.patience
        if final or error.exit == Exit.REFUSED:
            raise error
        if error.exit != Exit.UNREACHABLE:
            self._learn_graphs()

    def _learn_graphs(self) -> None:
        """Take the graphs that the list does not show from the jobs' own records (the cloud and API v2)."""
        for shown in self.jobs.values():
            if shown.known:
                continue
            try:
                graph = self.server.state(shown.prompt_id).graph
            except SkillError as error:
                # The watcher asks too, and handles the error.
                if error.exit == Exit.UNREACHABLE:
                    return
                continue
            if graph is not None:
                shown.learn(graph, self.server.url)

    def _show(self, job: JobSummary) -> None:
        if job.prompt_id in self.outcomes:
            return
        shown = self.jobs.get(job.prompt_id)
        if shown is None:
            shown = Shown(job.prompt_id, job.phase, Progress(job.graph or {}, quiet=True))
            self.jobs[job.prompt_id] = shown
            self.watcher.watch(job.prompt_id, ours=False)
        if job.graph is not None and not shown.known:
            shown.learn(job.graph, self.server.url)
        if job.phase == "running":
            shown.runs()
        shown.state, shown.position = job.phase, job.position

    def _take(self, item: Update | Ended) -> None:
        if isinstance(item, Ended):
            self._end(item.state)
            return
        shown = self.jobs.get(item.prompt_id)
        if shown is None:
            return
        if isinstance(item.frame, events.Preview):
            self._save(shown, item.frame)
            return
        if isinstance(item.frame, events.Event):
            if item.frame.type == "job_pending":
                shown.position = item.frame.data.get("position") or shown.position
            else:
                if not shown.known and time.monotonic() >= shown.ask_at:
                    # The cloud's record of a new job comes later than its first events, or has no graph at all.
                    shown.ask_at = time.monotonic() + shown.ask_pause
                    shown.ask_pause *= 2
                    self._learn_graphs()
                shown.runs()
                shown.progress.on(item.frame)
        self.view.change(self.jobs, self.watcher.queue_remaining)

    def _save(self, shown: Shown, frame: events.Preview) -> None:
        """Save a preview under a name made of prompt, node and step."""
        if self.previews is None:
            return
        step = int(shown.progress.step[0])
        name = (
            f"{shown.prompt_id[:8]}_node{frame.node or 'x'}_step{step:04d}_{shown.previews:04d}{frame.suffix}"
        )
        shown.previews += 1
        path = self.previews / file_names.safe_name(name)
        # By rename, since a link of that name could be there.
        file_names.write_whole(path, frame.image)
        self._saved_previews = True
        self.view.preview(shown, path, len(frame.image))

    def _end(self, state: JobState) -> None:
        shown = self.jobs.pop(state.prompt_id, None)
        if shown is None:
            return
        status = "lost" if state.phase == "unknown" else str(state.outcome)
        outcome: Document = {"prompt_id": state.prompt_id, "status": status}
        if state.execution_seconds is not None:
            outcome["execution_seconds"] = round(state.execution_seconds, 3)
        files = collect.files_of(state.outputs, previews=True)
        names = [item.ref.display_name or item.ref.filename for item in files[:MOST_NAMES]]
        outcome["outputs"] = [safe_text.clean(name, 200) for name in names]
        if status == "error":
            failure = run_verdict.failure(state, state.graph or {})
            outcome |= {"code": failure.code, "message": failure.message, "hint": failure.hint}
        self.outcomes[state.prompt_id] = outcome
        self.view.ended(shown, outcome)

    def _document(self, verdict: Verdict) -> Document:
        """The closing document."""
        jobs = [*self.outcomes.values(), *(shown.row() for shown in self.jobs.values())]
        document = verdict.document() | reports.head(self.server) | {"jobs": safe_text.cap(jobs, MOST_JOBS)}
        if self.previews is not None and not self._saved_previews:
            document["previews_note"] = NO_PREVIEWS
        return document

    def _verdict(self, *, timed_out: bool = False) -> Verdict:
        """The outcome of the named jobs; without names, watching itself is all that can fail."""
        if not self.ids:
            return Verdict("ok")
        bad = next((item for item in self.outcomes.values() if item["status"] != "success"), None)
        if bad is not None:
            return Verdict(
                bad["status"],
                str(bad.get("code", bad["status"])),
                bad.get("message") or f"{safe_text.name(bad['prompt_id'])}: {bad['status']}",
                bad.get("hint") or "run fetch_logs.py PROMPT_ID for details",
                next=[self.server.explain_command(bad["prompt_id"])],
            )
        if timed_out:
            message = "not finished in time; the jobs are still running"
            hint = f"watch them again; {UNCHANGED}"
            return Verdict("timeout", "still_running", message, hint, next=self._again)
        return run_verdict.SUCCESS


def obeys_escapes() -> bool:
    """Whether the terminal on stderr obeys cursor commands; on Windows they must be turned on first."""
    if os.name != "nt":
        return os.environ.get("TERM") != "dumb"
    import ctypes
    import msvcrt

    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - the attribute exists on Windows only
    handle = ctypes.c_void_p(getattr(msvcrt, "get_osfhandle")(sys.stderr.fileno()))  # noqa: B009
    mode = ctypes.c_ulong()
    virtual_terminal = 4
    return bool(
        kernel.GetConsoleMode(handle, ctypes.byref(mode))
        and kernel.SetConsoleMode(handle, mode.value | virtual_terminal)
    )


class JsonLines:
    """Every frame, cleaned, as one JSON object per line; `job` and `ended` lines explain it."""

    def __init__(self) -> None:
        self._last: dict[str, Document] = {}

    def frame(self, frame: events.Frame) -> None:
        """One line for a frame; pictures appear as `preview` once they are saved."""
        if isinstance(frame, events.Event):
            line = {
                "type": frame.type,
                "prompt_id": frame.prompt_id,
                "data": safe_text.clean_tree(frame.data, MOST_TEXT),
            }
        elif isinstance(frame, events.Text):
            line = {"type": "text", "node": frame.node, "text": safe_text.clean(frame.text, MOST_TEXT)}
        elif isinstance(frame, events.Malformed):
            line = {"type": "malformed", "why": frame.why}
        else:
            line = {
                "type": "preview", "prompt_id": frame.prompt_id, "node": frame.node, "suffix": frame.suffix,
                "bytes": len(frame.image),
            }  # fmt: skip
            if frame.meta:
                line["meta"] = safe_text.clean_tree(frame.meta, MOST_TEXT)
        cli.emit_line({"time": round(time.time(), 3), **line})

    def preview(self, job: Shown, path: Path, size: int) -> None:
        """Where a preview was saved."""
        cli.emit_line({"type": "preview_saved", "prompt_id": job.prompt_id, "file": str(path), "bytes": size})

    def change(self, jobs: Mapping[str, Shown], queue_remaining: int | None) -> None:
        """A `job` line when a job's state, node or place has changed."""
        for job in jobs.values():
            row = job.row()
            seen = {key: row[key] for key in ("state", "doing") if key in row} | {
                "position": row.get("position")
            }
            if self._last.get(job.prompt_id) != seen:
                self._last[job.prompt_id] = seen
                cli.emit_line({"type": "job", "queue_remaining": queue_remaining, **row})

    def ended(self, job: Shown, outcome: Document) -> None:
        """The `ended` line of a job."""
        self._last.pop(job.prompt_id, None)
        cli.emit_line({"type": "ended", **outcome})

    def close(self) -> None:
        """Nothing to tidy."""


class Lines:
    """One line per change, for logs and pipes."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def frame(self, frame: events.Frame) -> None:
        """Notices are passed on; the rest shows in `change`."""
        if isinstance(frame, events.Event) and frame.type == "notification":
            cli.note(f"server: {safe_text.clean(frame.data.get('value', ''), 300)}")

    def preview(self, job: Shown, path: Path, size: int) -> None:
        """Not shown."""

    def change(self, jobs: Mapping[str, Shown], queue_remaining: int | None) -> None:  # noqa: ARG002
        """A line when a job does something new."""
        for job in jobs.values():
            line = _line_of(job)
            if self._last.get(job.prompt_id) != job.doing + job.state:
                self._last[job.prompt_id] = job.doing + job.state
                cli.note(line)

    def ended(self, job: Shown, outcome: Document) -> None:  # noqa: ARG002
        """How it ended."""
        cli.note(_end_line_of(outcome))

    def close(self) -> None:
        """Nothing to tidy."""


class Block(Lines):
    """A block at the bottom of the terminal that is redrawn in place."""

    def __init__(self) -> None:
        super().__init__()
        self._height = 0
        self._drawn = 0.0

    def change(self, jobs: Mapping[str, Shown], queue_remaining: int | None) -> None:
        """Redraw, but not more often than a person can read."""
        now = time.monotonic()
        if now - self._drawn < REDRAW_PAUSE:
            return
        self._drawn = now
        width = shutil.get_terminal_size().columns - 1
        lines = [_line_of(job) for job in jobs.values()] or ["nothing runs"]
        lines.append(f"queue: {queue_remaining if queue_remaining is not None else '?'}")
        self._erase()
        sys.stderr.write("".join(f"{safe_text.redact(safe_text.clean(line))[:width]}\n" for line in lines))
        sys.stderr.flush()
        self._height = len(lines)

    def _erase(self) -> None:
        if self._height:
            sys.stderr.write(f"\x1b[{self._height}A\x1b[J")
            self._height = 0

    def ended(self, job: Shown, outcome: Document) -> None:
        """The end stays above the block."""
        self._erase()
        super().ended(job, outcome)

    def close(self) -> None:
        """Take the block away."""
        self._erase()
        sys.stderr.flush()


def _line_of(job: Shown) -> str:
    if job.state == "pending":
        place = f"place {job.position}" if job.position else "waiting"
        return f"{job.prompt_id[:8]}  {place}{_estimate(job)}"
    full = round(job.progress.share * BAR_WIDTH)
    share = "  ? " if job.unseen else f"{job.progress.share:4.0%}"
    elapsed = time.monotonic() - job.since
    cached = f", {len(job.progress.cached)} cached" if job.progress.cached else ""
    bar = "#" * full + "." * (BAR_WIDTH - full)
    return f"{job.prompt_id[:8]}  {bar} {share} {elapsed:6.1f} s  {job.doing}{cached}{_estimate(job)}"


def _estimate(job: Shown) -> str:
    return f"  ({job.estimate.as_text()})" if job.estimate is not None else ""


def _end_line_of(outcome: Document) -> str:
    seconds = f" in {outcome['execution_seconds']:.1f} s" if "execution_seconds" in outcome else ""
    what = outcome.get("message") or ", ".join(outcome["outputs"][:4]) or "no files"
    return f"{outcome['prompt_id'][:8]}  {outcome['status']}{seconds}: {what}"
