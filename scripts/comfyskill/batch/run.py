"""A batch from its first run to its report: starts the lanes, waits, takes the signals."""

from __future__ import annotations

import time
from collections.abc import Sequence

from comfyskill.base import cli
from comfyskill.base.cli import Document, Terminated
from comfyskill.batch import report
from comfyskill.batch.fill import Filler, Recipe
from comfyskill.batch.flights import BatchOptions, ServerRuns
from comfyskill.batch.journal import Journal, Recorded
from comfyskill.batch.lane import Lane
from comfyskill.batch.progress import BatchProgress
from comfyskill.batch.scheduler import Batch
from comfyskill.run.jobs import CANCEL_PATIENCE

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
    lost_lines: int = 0,
) -> Document:
    """Run what is left of a plan; the report, without the pages."""
    batch = Batch(recipe, options, journal, recorded, lost_lines=lost_lines)
    lanes = [Lane(batch, live, filler) for filler in ready if (live := filler.server.live) is not None]
    batch.servers = [lane.here for lane in lanes]
    progress = BatchProgress(batch, quiet=options.run.quiet)
    try:
        for lane in lanes:
            lane.start()
        _wait(batch, progress)
        for lane in lanes:
            lane.fetchers.close()
        _wait_for_clearing(batch)
    except KeyboardInterrupt:
        try:
            progress.close()
            _stop(batch, lanes)
        except (KeyboardInterrupt, Terminated):
            batch.stop("interrupted")
            cli.warn("not waiting any longer; --resume continues with what is left")
    except Terminated:
        # The caller stopped us: jobs stay on the servers, and the journal lists them.
        batch.stop("abandoned")
        return report.terminated(batch)
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
    for lane in lanes:
        lane.ends.remember_times()
    return report.report(batch, seconds)


def _wait(batch: Batch, progress: BatchProgress) -> None:
    while not batch.over:
        batch.wait(FRAME)
        batch.folder_lost()
        progress.show()


def _wait_for_clearing(batch: Batch) -> None:
    """Let servers that answer cancel what was moved away from them; the wait for a silent one is short."""
    give_up = time.monotonic() + CLEAR_PATIENCE
    while time.monotonic() < give_up and any(
        not here.ended and not here.away and batch.left_on(here.url) for here in batch.servers
    ):
        batch.wait(FRAME)


def _stop(batch: Batch, lanes: Sequence[Lane]) -> None:
    """Ctrl-C: lanes cancel this batch's runs, files under way arrive. The wait for a silent server is short."""
    began = time.monotonic()
    batch.stop("interrupted")
    cli.warn("stopping: cancelling this batch's runs on the server (Ctrl-C again to stop waiting)")
    while any(_winding_down(here, began) for here in batch.servers):
        batch.wait(FRAME)
    for lane in lanes:
        lane.fetchers.close(began + (STOP_PATIENCE if lane.here.heard > began else CANCEL_PATIENCE))


def _winding_down(here: ServerRuns, began: float) -> bool:
    """Whether a lane still stops its runs, and its server has answered recently."""
    now = time.monotonic()
    silent = now - max(here.heard, began) > CANCEL_PATIENCE
    return not here.ended and not silent and now - began < STOP_PATIENCE
