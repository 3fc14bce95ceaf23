"""A file that one process holds alone. The system lets it go when the process ends, however it ends.

Level 0. `flock` on POSIX, a locked byte on Windows.
"""

from __future__ import annotations

import errno
import os
from typing import IO, Any

# Windows locks bytes, and nobody else can read them: one far behind any text. Its C library counts to 2**31.
_FAR = 2**31 - 2


def take(file: IO[Any]) -> bool | None:
    """Lock an open file without waiting: True; False when another has it; None where the disk knows no locks."""
    try:
        import fcntl
    except ImportError:
        return _take_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _take_on_windows(file: IO[Any]) -> bool | None:
    import msvcrt

    handle = file.fileno()
    here = os.lseek(handle, 0, os.SEEK_CUR)
    os.lseek(handle, _FAR, os.SEEK_SET)
    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EDEADLK) else None
    finally:
        os.lseek(handle, here, os.SEEK_SET)
    return True
