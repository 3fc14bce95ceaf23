"""Progress of a batch on stderr: a bar with rate and time left on a terminal, an occasional line elsewhere.

The main thread draws it.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, NoReturn

from comfyskill.base import cli, safe_text
from comfyskill.batch.scheduler import Batch
from comfyskill.run.times import spoken

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_PAUSE = 5.0
BAR = "{desc} {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class BatchProgress:
    """Shows how far a batch is."""

    def __init__(self, batch: Batch, *, quiet: bool) -> None:
        self._batch = batch
        self._quiet = quiet
        self._terminal = not quiet and sys.stderr.isatty()
        self._bar: tqdm[NoReturn] | None = None
        self._last_line = time.monotonic()
        self._shown = 0

    def show(self) -> None:
        """Draw, or print a line when a run has ended since the last one and some seconds have passed."""
        if self._quiet:
            return
        if self._terminal:
            self._draw()
            return
        now = time.monotonic()
        done = self._batch.tally.settled
        if now - self._last_line >= LINE_PAUSE and done != self._shown:
            self._last_line, self._shown = now, done
            cli.note(f"{done} of {self._batch.to_do} runs{self._failed()}, {self._left()} left")

    def _failed(self) -> str:
        failed = self._batch.tally.settled - self._batch.tally.ends["success"]
        return f" ({failed} failed)" if failed else ""

    def _left(self) -> str:
        left = remaining(self._batch)
        return "unknown time" if left is None else spoken(left)

    def _draw(self) -> None:
        bar = self._bar = self._bar or self._new_bar()
        rate = speed(self._batch)
        doing = next((here.doing for here in self._batch.servers if here.doing), "")
        pace = f", {rate:.2f}/s" if rate >= 1 else f", {1 / rate:.1f} s per run" if rate else ""
        text = safe_text.redact(safe_text.clean(f"{self._left()} left{pace}  {doing}", 80))
        bar.n = self._batch.tally.settled
        bar.set_description_str(f"batch{self._failed()}", refresh=False)
        bar.set_postfix_str(text, refresh=False)
        bar.refresh()

    def _new_bar(self) -> tqdm[NoReturn]:
        from tqdm import tqdm

        return tqdm(
            total=self._batch.to_do,
            bar_format=BAR,
            leave=False,
            file=sys.stderr,
            dynamic_ncols=True,
            desc="batch",
        )

    def close(self) -> None:
        """Leave the terminal clean."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def speed(batch: Batch) -> float:
    """Runs per second in this session so far."""
    elapsed = time.monotonic() - batch.started
    return batch.tally.settled / elapsed if elapsed > 0 else 0.0


def remaining(batch: Batch) -> float | None:
    """Seconds left at this pace, None before the first run has ended."""
    rate = speed(batch)
    return (batch.to_do - batch.tally.settled) / rate if rate else None
