"""Waiting for jobs that any process submitted, and fetching each as it ends.

Level 3, above `_jobs`. Whatever stops the wait, what has arrived by then is reported.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comfyskill.base import cli, file_limits, safe_text
from comfyskill.base.cli import SkillError, Terminated
from comfyskill.run import job as run_job
from comfyskill.run import reports
from comfyskill.run.progress import Progress
from comfyskill.server import commands, transport
from comfyskill.server.protocol import Accepted, Dialect, JobState
from comfyskill.server.watch import Ended, Watcher

MOST_NEXT = 5
GO_ON = "wait for them by id; do not submit them again"


def wait(
    server: Dialect, ids: Sequence[str], output_dir: Path, *, timeout: float | None, quiet: bool
) -> dict[str, Any]:
    """Wait for the jobs and download each as it ends; the report tells every outcome apart.

    Raises SkillError for what stops the wait before any job has ended.
    """
    wanted = list(dict.fromkeys(ids))
    results: dict[str, dict[str, Any]] = {}
    options = run_job.Options(output_dir, timeout=timeout, quiet=quiet)
    try:
        _follow(server, wanted, options, results)
    except SkillError as error:
        left = _left(server, wanted, results, output_dir)
        if not results:
            error.details |= {key: value for key, value in left.items() if key != "next"}
            if error.exit != cli.Exit.MISUSE:
                error.next = error.next or left.get("next", [])
            raise
        return _head(server, wanted, results) | error.document() | left
    except KeyboardInterrupt:
        said = {"status": "cancelled", "code": "interrupted", "message": "interrupted; the jobs go on"}
        return _stopped(server, wanted, results, output_dir, said)
    except Terminated:
        said = {"status": "timeout", "code": "still_running", "message": "told to stop; the jobs go on"}
        return _stopped(server, wanted, results, output_dir, said)
    return _verdict(server, wanted, results, output_dir)


def _follow(
    server: Dialect, wanted: Sequence[str], options: run_job.Options, results: dict[str, dict[str, Any]]
) -> None:
    give_up = None if options.timeout is None else time.monotonic() + options.timeout
    watcher = Watcher(server, uuid.uuid4().hex, answered=False)
    try:
        watcher.open()
        for prompt_id in wanted:
            watcher.watch(prompt_id, ours=False)
        while watcher.watching and (give_up is None or time.monotonic() < give_up):
            with transport.no_later_than(give_up):
                news = watcher.updates(
                    1.0 if give_up is None else min(1.0, max(give_up - time.monotonic(), 0.0))
                )
            for item in news:
                if isinstance(item, Ended):
                    results[item.state.prompt_id] = _fetched(server, item.state, options)
                    cli.note(
                        f"{safe_text.name(item.state.prompt_id)}: {results[item.state.prompt_id]['status']}"
                    )
    finally:
        watcher.close()


def _fetched(server: Dialect, state: JobState, options: run_job.Options) -> dict[str, Any]:
    graph = state.graph or {}
    job = run_job.Job(server, state.prompt_id, graph, Accepted(state.prompt_id), time.monotonic(), ours=False)
    return reports.finished(job, state, None, options, Progress(graph, quiet=True), missed_frames=False)


def _head(server: Dialect, wanted: Sequence[str], results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    jobs = [results[key] for key in wanted if key in results]
    return {"status": "success", **reports.head(server), "jobs": jobs}


def _left(
    server: Dialect, wanted: Sequence[str], results: Mapping[str, Any], output_dir: Path
) -> dict[str, Any]:
    """The jobs that were not fetched, and the command that goes on with them."""
    left = [prompt_id for prompt_id in wanted if prompt_id not in results]
    if not left:
        return {}
    words = [
        "wait",
        *left,
        "--output-dir",
        output_dir,
        *file_limits.flag_words(),
        *commands.server_words(server),
    ]
    return {"waiting": left, "next": [commands.command("manage_queue.py", *words)]}


def _stopped(
    server: Dialect,
    wanted: Sequence[str],
    results: Mapping[str, dict[str, Any]],
    output_dir: Path,
    said: Mapping[str, Any],
) -> dict[str, Any]:
    left = _left(server, wanted, results, output_dir)
    return {**_head(server, wanted, results), **said, "retryable": False, "hint": GO_ON, **left}


def _verdict(
    server: Dialect, wanted: Sequence[str], results: Mapping[str, dict[str, Any]], output_dir: Path
) -> dict[str, Any]:
    left = len(wanted) - len(results)
    if left:
        said = {"status": "timeout", "code": "still_running", "message": f"{left} job(s) have not ended yet"}
        return _stopped(server, wanted, results, output_dir, said)
    document = _head(server, wanted, results)
    bad = [item for item in document["jobs"] if item["status"] != "success"]
    if not bad:
        return document
    return document | {
        "status": "partial",
        "code": str(bad[0].get("code") or bad[0]["status"]),
        "retryable": False,
        "message": f"{len(bad)} of {len(wanted)} job(s) did not succeed",
        "hint": "see each job's status",
        "next": list(dict.fromkeys(words for item in bad for words in item.get("next", ())))[:MOST_NEXT],
    }
