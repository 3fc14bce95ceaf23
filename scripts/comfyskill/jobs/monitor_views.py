"""The monitor's two faces: JSON Lines on stdout, and lines or a redrawn block on stderr.

Level 3.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyskill.base import cli, safe_text
from comfyskill.server import events

if TYPE_CHECKING:
    from comfyskill.jobs.monitor import Shown

REDRAW_PAUSE = 0.1
MOST_TEXT = 4_000
BAR_WIDTH = 24


def obeys_escapes() -> bool:
    """Whether the terminal on stderr moves its cursor when told to; a console of Windows must be asked first."""
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
    """Every frame, cleaned, as one JSON object a line; `job` and `ended` lines tell what it means."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}

    def frame(self, frame: events.Frame) -> None:
        """One line for a frame; pictures are told as `preview` once they are saved."""
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
            told = {key: row[key] for key in ("state", "doing") if key in row} | {
                "position": row.get("position")
            }
            if self._last.get(job.prompt_id) != told:
                self._last[job.prompt_id] = told
                cli.emit_line({"type": "job", "queue_remaining": queue_remaining, **row})

    def ended(self, job: Shown, outcome: dict[str, Any]) -> None:
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
            words = _words(job)
            if self._last.get(job.prompt_id) != job.doing + job.state:
                self._last[job.prompt_id] = job.doing + job.state
                cli.note(words)

    def ended(self, job: Shown, outcome: dict[str, Any]) -> None:  # noqa: ARG002
        """How it ended."""
        cli.note(_ended_words(outcome))

    def close(self) -> None:
        """Nothing to tidy."""


class Block(Lines):
    """A block at the bottom of the terminal that is redrawn in place."""

    def __init__(self) -> None:
        super().__init__()
        self._height = 0
        self._drawn = 0.0

    def change(self, jobs: Mapping[str, Shown], queue_remaining: int | None) -> None:
        """Redraw, but not more often than eyes can follow."""
        now = time.monotonic()
        if now - self._drawn < REDRAW_PAUSE:
            return
        self._drawn = now
        width = shutil.get_terminal_size().columns - 1
        lines = [_words(job) for job in jobs.values()] or ["nothing runs"]
        lines.append(f"queue: {queue_remaining if queue_remaining is not None else '?'}")
        self._erase()
        sys.stderr.write("".join(f"{safe_text.redact(safe_text.clean(line))[:width]}\n" for line in lines))
        sys.stderr.flush()
        self._height = len(lines)

    def _erase(self) -> None:
        if self._height:
            sys.stderr.write(f"\x1b[{self._height}A\x1b[J")
            self._height = 0

    def ended(self, job: Shown, outcome: dict[str, Any]) -> None:
        """The end stays above the block."""
        self._erase()
        super().ended(job, outcome)

    def close(self) -> None:
        """Take the block away."""
        self._erase()
        sys.stderr.flush()


def _words(job: Shown) -> str:
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
    return f"  ({job.estimate.words()})" if job.estimate is not None else ""


def _ended_words(outcome: dict[str, Any]) -> str:
    seconds = f" in {outcome['execution_seconds']:.1f} s" if "execution_seconds" in outcome else ""
    what = outcome.get("message") or ", ".join(outcome["outputs"][:4]) or "no files"
    return f"{outcome['prompt_id'][:8]}  {outcome['status']}{seconds}: {what}"
