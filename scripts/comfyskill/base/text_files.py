"""Files that a user names: read within limits, and as text in whatever encoding their system wrote them.

A name can belong to a device without an end, or to a pipe without a writer. Windows PowerShell's `>`
and Out-File write UTF-16; Notepad puts a mark before UTF-8.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MOST = 256 << 20
PIPE_PATIENCE = 5.0
# The longer marks first: that of UTF-32 begins like that of UTF-16.
MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)


class NoWriter(OSError):
    """A named pipe that no other program has opened."""


def open_file(path: Path) -> BinaryIO:
    """A file, opened. Raises OSError; NoWriter when it is a pipe and no writer opens it soon."""
    # The shell puts <(command) under /dev/fd: it has a writer, however slow.
    if (
        not hasattr(os, "O_NONBLOCK")
        or not stat.S_ISFIFO(path.stat().st_mode)
        or str(path).startswith(("/dev/", "/proc/"))
    ):
        return path.open("rb")
    import select

    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not select.select([end], [], [], PIPE_PATIENCE)[0]:
        os.close(end)
        raise NoWriter(errno.EINVAL, "it is a pipe without a writer", str(path))
    os.set_blocking(end, True)
    return os.fdopen(end, "rb")


def read_bytes(path: Path, most: int = MOST) -> bytes:
    """All of a file. Raises OSError, also for one that is larger than `most` or never ends."""
    with open_file(path) as file:
        large = os.fstat(file.fileno()).st_size > most
        data = b"" if large else file.read(most + 1)
    if large or len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than {most >> 20} MB", str(path))
    return data


def reason(error: Exception) -> str:
    """Why a file could not be read as text, for a message."""
    return getattr(error, "strerror", None) or "it is not UTF-8 or UTF-16 text"


def read(path: Path) -> str:
    """The text of a file with a byte-order mark or in UTF-8, its lines ended by \\n. Raises OSError, UnicodeDecodeError."""
    data = read_bytes(path)
    encoding = "utf-8"
    for mark, name in MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], name
            break
    return data.decode(encoding).replace("\r\n", "\n")
