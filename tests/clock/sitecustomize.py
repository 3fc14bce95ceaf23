"""A wall clock that jumps: with this folder on PYTHONPATH a process sees `CLOCK_JUMPS` in time.time() and its like.

`CLOCK_JUMPS=0.3:7200,0.6:-18000`: 0.3 s after the start the clock is set two hours forward, at 0.6 s five hours back
(both seen from the true time). `CLOCK_FILE`: a file that holds by how many seconds it is wrong now. The monotonic clock
goes on as it does on a real machine.
"""

import os
import time

JUMPS = [tuple(map(float, item.split(":"))) for item in os.environ.get("CLOCK_JUMPS", "").split(",") if item]
FILE = os.environ.get("CLOCK_FILE")
true_time, true_localtime, true_gmtime, began = time.time, time.localtime, time.gmtime, time.monotonic()


def shift() -> float:
    """Seconds by which the clock is wrong now."""
    if FILE:
        with open(FILE) as file:
            return float(file.read() or 0)
    passed = time.monotonic() - began
    return next((wrong for at, wrong in reversed(JUMPS) if passed >= at), 0.0)


if JUMPS or FILE:
    time.time = lambda: true_time() + shift()
    time.time_ns = lambda: int(time.time() * 1e9)
    time.localtime = lambda seconds=None: true_localtime(time.time() if seconds is None else seconds)
    time.gmtime = lambda seconds=None: true_gmtime(time.time() if seconds is None else seconds)
