"""The two ways a user or caller ends us: Ctrl-C (KeyboardInterrupt) and SIGTERM (Terminated).

Level 0. SIGTERM is the time limit of whoever called us: the job goes on, so it is told apart from Ctrl-C.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn


class Terminated(BaseException):
    """SIGTERM (or a closed terminal) arrived; not an Exception, so that no ordinary handler swallows it."""


def listen() -> None:
    """Raise Terminated in the main thread on SIGTERM, SIGHUP and (Windows) Ctrl-Break from now on."""
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        # What nohup lets us ignore stays ignored.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated
