"""Waiting for several jobs, whoever submitted them: each is downloaded as it ends, the report states each outcome."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from comfyskill.base import cli, file_limits, safe_text
from comfyskill.base.cli import Document, Exit, SkillError, Terminated
from comfyskill.base.programs import command
from comfyskill.run import reports
from comfyskill.run.job import Options, Run
from comfyskill.run.progress import Progress
from comfyskill.run.verdict import SUCCESS, Verdict
from comfyskill.server import transport
from comfyskill.server.protocol import Accepted, Dialect, JobState
from comfyskill.server.watch import Ended, Watcher

MOST_NEXT = 5
HINT = "wait for them by id; do not submit them again"


class Wait:
    """Jobs that are waited for, and the reports of those that have ended."""

    def __init__(self, server: Dialect, ids: Sequence[str], options: Options) -> None:
        self.server = server
        self.ids = list(dict.fromkeys(ids))
        self.options = options
        self.reports: dict[str, Document] = {}
        self.began = time.monotonic()

    @property
    def left(self) -> list[str]:
        """The jobs that have not ended yet."""
        return [prompt_id for prompt_id in self.ids if prompt_id not in self.reports]

    @property
    def next(self) -> list[str]:
        """The command that continues with the jobs that are left."""
        if not self.left:
            return []
        folder = ["--output-dir", self.options.output_dir]
        return [
            command(
                "manage_queue.py", "wait", *self.left, *folder, *file_limits.flag_words(), *self.server.flags
            )
        ]

    def document(self, verdict: Verdict) -> Document:
        """The report, with the jobs that have ended and the ids of those that have not."""
        done = [self.reports[prompt_id] for prompt_id in self.ids if prompt_id in self.reports]
        document = verdict.document() | reports.head(self.server) | {"jobs": done}
        return document | ({"waiting": self.left} if self.left else {})


def wait(
    server: Dialect, ids: Sequence[str], output_dir: Path, *, timeout: float | None, quiet: bool
) -> Document:
    """Wait for the jobs and download each as it ends.

    Raises SkillError for what stops the wait before any job has ended.
    """
    waited = Wait(server, ids, Options(output_dir, timeout=timeout, quiet=quiet))
    try:
        _follow(waited)
        verdict = _verdict(waited)
    except SkillError as error:
        if not waited.reports:
            command = [] if error.exit == Exit.MISUSE else error.next or waited.next
            raise error.but(next=command, waiting=waited.left) from error
        again = {"next": waited.next} if waited.left else {}
        return waited.document(SUCCESS) | error.document() | again
    except KeyboardInterrupt:
        verdict = _stopped(waited, "cancelled", "interrupted", "interrupted; the jobs are still running")
    except Terminated:
        verdict = _stopped(
            waited, "timeout", "still_running", "terminated by a signal; the jobs are still running"
        )
    return waited.document(verdict)


def _follow(waited: Wait) -> None:
    timeout = waited.options.timeout
    give_up = None if timeout is None else waited.began + timeout
    watcher = Watcher(waited.server, uuid.uuid4().hex, answered=False)
    try:
        watcher.open()
        for prompt_id in waited.ids:
            watcher.watch(prompt_id, ours=False)
        while watcher.watching and (give_up is None or time.monotonic() < give_up):
            with transport.no_later_than(give_up):
                pause = 1.0 if give_up is None else min(1.0, max(give_up - time.monotonic(), 0.0))
                news = watcher.updates(pause)
            for item in news:
                if isinstance(item, Ended):
                    report = _fetched(waited, item.state, watcher)
                    waited.reports[item.state.prompt_id] = report
                    cli.note(f"{safe_text.name(item.state.prompt_id)}: {report['status']}")
    finally:
        watcher.close()


def _fetched(waited: Wait, state: JobState, watcher: Watcher) -> Document:
    graph = state.graph or {}
    progress = Progress(graph, quiet=True)
    job = Run(waited.server, state.prompt_id, graph, waited.options, watcher, progress)
    job.began, job.accepted = waited.began, Accepted(state.prompt_id)
    return reports.finished(job, state)


def _stopped(waited: Wait, status: str, code: str, message: str) -> Verdict:
    return Verdict(status, code, message, HINT, next=waited.next)


def _verdict(waited: Wait) -> Verdict:
    if waited.left:
        message = f"{len(waited.left)} job(s) have not ended yet"
        return _stopped(waited, "timeout", "still_running", message)
    bad = [report for report in waited.reports.values() if report["status"] != "success"]
    if not bad:
        return SUCCESS
    return Verdict(
        "partial",
        str(bad[0].get("code") or bad[0]["status"]),
        f"{len(bad)} of {len(waited.ids)} job(s) did not succeed",
        "see each job's status",
        next=list(dict.fromkeys(line for report in bad for line in report.get("next", ())))[:MOST_NEXT],
    )
