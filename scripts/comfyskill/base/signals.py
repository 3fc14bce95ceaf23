"""The two ways a user or caller ends us: Ctrl-C (KeyboardInterrupt) and SIGTERM (Terminated).

Level 0. SIGTERM is the time limit of whoever called us: the job goes on, so it is told apart from Ctrl-C.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

A_MOMENT = 0.01


class Terminated(BaseException):
    """SIGTERM (or a closed terminal) arrived; not an Exception, so that no ordinary handler swallows it."""


def listen() -> None:
    """Raise Terminated in the main thread on SIGTERM, SIGHUP and (Windows) Ctrl-Break from now on."""
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        # What nohup lets us ignore stays ignored.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def say_again(dropped: UnraisableHookArgs) -> None:
    """For sys.unraisablehook: a signal is not lost where Python can raise nothing.

    A finalizer or the callback of a weak reference (urllib3 closes its connections in one) drops what is raised in it,
    so a signal that arrived there is sent again a moment later.
    """
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        number = int(signal.SIGINT)
    elif isinstance(dropped.exc_value, Terminated):
        number = dropped.exc_value.args[0]
    else:
        sys.__unraisablehook__(dropped)
        return
    import _thread

    _thread.start_new_thread(_send_later, (number, _thread.get_ident()))


def _send_later(number: int, main: int) -> None:
    import time

    time.sleep(A_MOMENT)
    if hasattr(signal, "pthread_kill"):
        # A true signal, for it also wakes a main thread that waits for the network.
        signal.pthread_kill(main, number)
    else:
        import _thread

        _thread.interrupt_main(signal.Signals(number))
