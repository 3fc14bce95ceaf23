"""A batch from its first run to its report: starts the lanes, waits, takes the signals, sums up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comfyskill.base import cli, safe_text
from comfyskill.base.cli import Terminated
from comfyskill.base.programs import command
from comfyskill.batch import times
from comfyskill.batch.ends import Fetchers
from comfyskill.batch.fill import Filler, Recipe
from comfyskill.batch.flights import BatchOptions
from comfyskill.batch.journal import Journal, Recorded
from comfyskill.batch.lane import Lane, lanes_of
from comfyskill.batch.progress import BatchProgress
from comfyskill.batch.scheduler import Batch
from comfyskill.run.jobs import CANCEL_PATIENCE
from comfyskill.server import protocol

MOST_SHOWN = 20
FRAME = 0.25
# After Ctrl-C: time for running nodes to notice and for files under way to arrive, from a server that answers.
STOP_PATIENCE = 30.0
CLEAR_PATIENCE = 10.0


def run(
    recipe: Recipe,
    ready: Sequence[Filler],
    options: BatchOptions,
    journal: Journal,
    recorded: Recorded,
    *,
    look: int = 0,
) -> dict[str, Any]:
    """Run what is left of a plan; the report, without the pages."""
    batch = Batch(recipe, options, journal, recorded, look=look)
    servers = [filler.server for filler in ready if filler.server is not None]
    batch.lanes = [
        Lane(batch, server, filler, Fetchers(batch, server))
        for server, filler in zip(servers, ready, strict=True)
    ]
    progress = BatchProgress(batch, quiet=options.run.quiet)
    try:
        for lane in lanes_of(batch):
            lane.start()
        _wait(batch, progress)
        for lane in lanes_of(batch):
            lane.ends.fetchers.close()
        _wait_for_clearing(batch)
    except KeyboardInterrupt:
        try:
            progress.close()
            _stop(batch)
        except (KeyboardInterrupt, Terminated):
            batch.stop("interrupted")
            cli.warn("not waiting any longer; --resume continues with what is left")
    except Terminated:
        # The caller stopped us: jobs stay on the servers, and the journal lists them.
        batch.stop("abandoned")
        return _terminated(batch)
    finally:
        progress.close()
    seconds = time.monotonic() - batch.started
    batch.folder_lost()
    try:
        journal.write(
            "end", seconds=round(seconds, 3), status=batch.stopping or "complete", ends=dict(batch.tally.ends)
        )
    except OSError as error:
        batch.disk_failed(error)
    for filler, lane in zip(ready, lanes_of(batch), strict=True):
        times.remember(filler.prepared.graph, lane.samples.times())
    return report(batch, seconds)


def _wait(batch: Batch, progress: BatchProgress) -> None:
    while not batch.over:
        batch.wait(FRAME)
        batch.folder_lost()
        progress.show()


def _wait_for_clearing(batch: Batch) -> None:
    """Let servers that answer cancel what was moved away from them; the wait for a silent one is short."""
    give_up = time.monotonic() + CLEAR_PATIENCE
    while time.monotonic() < give_up and any(
        lane.is_alive() and not lane.away and batch.left_on(lane.url) for lane in lanes_of(batch)
    ):
        batch.wait(FRAME)


def _stop(batch: Batch) -> None:
    """Ctrl-C: lanes cancel what is theirs, files under way arrive. The wait for a silent server is short."""
    began = time.monotonic()
    batch.stop("interrupted")
    cli.warn("stopping: cancelling this batch's runs on the server (Ctrl-C again to stop waiting)")
    while any(_winding_down(lane, began) for lane in lanes_of(batch)):
        batch.wait(FRAME)
    for lane in lanes_of(batch):
        lane.ends.fetchers.close(began + (STOP_PATIENCE if lane.moves.heard > began else CANCEL_PATIENCE))


def _winding_down(lane: Lane, began: float) -> bool:
    """Whether a lane still stops its runs, and its server has answered recently."""
    now = time.monotonic()
    silent = now - max(lane.moves.heard, began) > CANCEL_PATIENCE
    return lane.is_alive() and not silent and now - began < STOP_PATIENCE


def _not_stopped(batch: Batch) -> dict[Lane, list[str]]:
    """Lane -> the prompt ids that may still wait or execute on its server."""
    found = {}
    for lane in lanes_of(batch):
        ids = [*lane.flights, *batch.unsettled(lane.server)]
        if lane.supply.under_way is not None and lane.server.own_ids:
            ids.append(lane.supply.under_way)
        found[lane] = list(dict.fromkeys(ids))
    return {lane: ids for lane, ids in found.items() if ids}


def resume_command(batch: Batch) -> str:
    """The command that continues this batch, without keys."""
    api = lanes_of(batch)[0].server.api if lanes_of(batch) else None
    return resume_words(batch.options.folder, batch.options.hosts, api, batch.options.trust)


def resume_words(folder: Path, hosts: Sequence[str], api: str | None, trust: Sequence[str]) -> str:
    """The command for a folder; `hosts` as --host takes them, `api` where it is not a plain ComfyUI, `trust`: TLS flags."""
    named = [word for host in hosts for word in ("--host", host)]
    return command("run_batch.py", "--resume", folder, *named, *protocol.api_flags(api), *trust)


def _terminated(batch: Batch) -> dict[str, Any]:
    flying = [prompt_id for ids in _not_stopped(batch).values() for prompt_id in ids]
    words: dict[str, Any] = {
        "hint": "continue with --resume; finished runs are not repeated",
        "retryable": False,
        "next": [resume_command(batch)],
    }
    if batch.folder_lost():
        words = {"hint": "the output folder was removed: this batch cannot be resumed", "retryable": False}
    return {
        "status": "timeout",
        "code": "still_running",
        "message": f"stopped by a signal; {safe_text.counted(len(flying), 'submitted run')} may go on",
        **words,
        **_counts(batch),
        "prompt_ids": safe_text.cap(flying, MOST_SHOWN),
        "output_dir": str(batch.options.folder),
    }


def _counts(batch: Batch) -> dict[str, Any]:
    tally = batch.tally
    document = {
        "runs": batch.recipe.plan.count,
        "succeeded": tally.succeeded,
        "failed": tally.failed,
        "not_run": max(batch.to_do - tally.settled, 0),
    }
    if tally.earlier:
        document["done_before"] = tally.earlier
    if tally.earlier_failed:
        document["failed_before"] = tally.earlier_failed
    return document


def report(batch: Batch, seconds: float) -> dict[str, Any]:
    """The JSON document: verdict, counts, failures, servers, where everything is."""
    tally = batch.tally
    document = _verdict(batch)
    document |= _counts(batch)
    document |= {"seconds": round(seconds, 3), "files": tally.files, "bytes": tally.size}
    if tally.settled and seconds > 0:
        document["runs_per_second"] = round(tally.settled / seconds, 3)
    again = len(tally.resubmitted)
    for key, value in (
        ("moved", tally.moved),
        ("ran_twice", tally.twice),
        ("retried", tally.retried),
        ("resubmitted", again),
    ):
        if value:
            document[key] = value
    if tally.failures:
        first = sorted(tally.failures, key=lambda row: row["run"])[:MOST_SHOWN]
        document["failures"] = {"count": tally.failed, "items": first}
        if tally.failed > len(first):
            document["failures"]["more"] = tally.failed - len(first)
    document["hosts"] = [_host(lane) for lane in lanes_of(batch)]
    warnings = _report_not_stopped(batch, document) if batch.stopping in ("interrupted", "failed") else []
    left = batch.left
    if left:
        document["left_behind"] = {host: safe_text.cap(ids, MOST_SHOWN) for host, ids in left.items()}
        warnings += [
            f"{safe_text.counted(len(ids), 'moved run')} may still be on {host}; when it answers again, this command cancels "
            f"what is left there: {_left_command(batch, host)}"
            for host, ids in left.items()
        ]
    if warnings:
        document["warnings"] = warnings
    if any(lane.server.demo for lane in lanes_of(batch)):
        document["demo"] = True
        document["demo_note"] = (
            "made by the demo server: not generated results; never present them as generated"
        )
    document["output_dir"] = str(batch.options.folder)
    if batch.lost is None:
        document["journal"] = str(batch.journal.path)
    return document


def _report_not_stopped(batch: Batch, document: dict[str, Any]) -> list[str]:
    """Add the runs that could not be cancelled to the document, as they may cost; the warnings about them."""
    warnings = []
    for lane, ids in _not_stopped(batch).items():
        document.setdefault("not_cancelled", {})[lane.url] = safe_text.cap(ids, MOST_SHOWN)
        cancel = lane.server.cancel_command(ids[:MOST_SHOWN])
        document.setdefault("next", []).append(cancel)
        warnings.append(
            f"{safe_text.counted(len(ids), 'submitted run')} could not be cancelled on {lane.url} and may go on there; "
            f"when it answers, this command cancels what is left: {cancel}"
        )
    for lane in lanes_of(batch):
        if lane.supply.under_way is not None and not lane.server.own_ids:
            warnings.append(
                f"{lane.url} did not answer a submit: that run may go on there; --resume looks for it first"
            )
    for warning in warnings:
        cli.warn(warning)
    return warnings


def _left_command(batch: Batch, host: str) -> str:
    named = batch.options.hosts
    asked_anyway = host in named or (not named and host in batch.listed)
    hosts = named if asked_anyway else (*named, host)
    return resume_words(batch.options.folder, hosts, None, batch.options.trust)


def _host(lane: Lane) -> dict[str, Any]:
    row: dict[str, Any] = {"host": lane.url, "api": lane.server.api, "runs": lane.ends.count}
    if lane.seconds_each is not None:
        row["seconds_each"] = round(lane.seconds_each, 3)
    if lane.failure is not None:
        row["problem"] = lane.failure.message
    elif lane.away:
        row["problem"] = "did not answer any more"
    return row


def _verdict(batch: Batch) -> dict[str, Any]:
    """status, and for all but a full success also code, message, hint, retryable, next."""
    tally = batch.tally
    failed = tally.failed
    if batch.lost is not None:
        words = _words("partial", batch.lost.code, batch.lost.message, [])
        return words | {"hint": batch.lost.hint}
    if batch.complete and not failed:
        return {"status": "success"}
    again = [resume_command(batch)]
    if batch.stopping == "interrupted":
        done = tally.succeeded
        what = f"{safe_text.counted(done, 'run')} succeeded" if done else "no run had succeeded yet"
        return _words(
            "cancelled", "interrupted", f"interrupted by the user; {what}", again, True, failed=failed
        )
    if batch.failure is not None and not batch.complete:
        error = batch.failure
        code = error.code if error.code != "unreachable" else "server_gone"
        status = "refused" if batch.stopping == "refused" else "partial"
        words = _words(status, code, f"stopped: {error.message}", again, error.retryable)
        return words | {"hint": error.hint or "fix it, then continue with --resume"} | error.details
    if batch.stopping == "failed":
        return _words("partial", "stopped_on_error", "stopped at the first failure (--stop-on-error)", again)
    if tally.ends["rejected"] and tally.ends["rejected"] == tally.settled and not tally.earlier:
        # All rejected: after the first few the rest was not tried.
        first = tally.failures[0] if tally.failures else {}
        words = _words(
            "rejected", "rejected", str(first.get("message") or "the server rejected every run"), []
        )
        return words | {
            "hint": first.get("hint")
            or "correct the workflow; scripts/validate_workflow.py shows what is wrong"
        }
    retry = [f"{again[0]} --retry-failed"]
    if not batch.complete:
        return _words("partial", "unfinished", "not every run finished", again, True, failed=failed)
    return _words(
        "partial",
        "runs_failed",
        f"{failed} of {safe_text.counted(batch.recipe.plan.count, 'run')} did not succeed",
        retry,
    )


def _words(
    status: str,
    code: str,
    message: str,
    commands: list[str],
    retryable: bool = False,
    *,
    failed: int = 1,
) -> dict[str, Any]:
    document: dict[str, Any] = {"status": status, "code": code, "message": message, "retryable": retryable}
    if not commands:
        document["hint"] = "see failures; no run was executed"
    elif failed:
        document["hint"] = "see failures; --resume continues, --retry-failed runs the failed ones again"
    else:
        document["hint"] = "--resume continues where it stopped"
    return document | ({"next": commands} if commands else {})


__all__ = ["report", "resume_command", "resume_words", "run"]
