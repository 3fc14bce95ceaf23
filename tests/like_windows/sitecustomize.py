"""Makes a Python process on Linux behave as on Windows where programs stumble; put this folder on PYTHONPATH.

No file locks of POSIX but those of msvcrt, no signals that Windows lacks, asking for a process ends it, no file that is
open here can be renamed, replaced or removed, no hard links (as on a memory stick), a clock of 64 ticks a second, pipes
that cannot be selected on. What asks for os.name or sys.platform still sees Linux: paths could not work otherwise.
"""

from __future__ import annotations

import asyncio.unix_events  # both of these ask for modules of POSIX when they are loaded
import builtins
import collections
import errno
import os
import pathlib
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
import types

_open_files = pathlib.Path("/proc/self/fd")


def _is_open(path: object) -> bool:
    wanted = os.path.realpath(os.fspath(path))  # type: ignore[call-overload]
    for entry in os.listdir(_open_files):
        try:
            if os.readlink(_open_files / entry) == wanted:
                return True
        except OSError:
            continue
    return False


def _refuse_open(function):  # type: ignore[no-untyped-def]
    def step(*paths, **words):  # type: ignore[no-untyped-def]
        for path in paths:
            if isinstance(path, (str, os.PathLike)) and _is_open(path):
                error = PermissionError(errno.EACCES, "another process has the file open", str(path))
                error.winerror = 32
                raise error
        return function(*paths, **words)

    return step


def _no_link(*_paths, **_words):  # type: ignore[no-untyped-def]
    raise OSError(errno.EINVAL, "this disk knows no hard links")


def _kill(process, number):  # type: ignore[no-untyped-def]
    if number == 0:
        os.write(2, b"os.kill(process, 0) would end the process on Windows\n")
        os._exit(99)
    _real_kill(process, signal.SIGTERM)


def _coarse(clock):  # type: ignore[no-untyped-def]
    return lambda: int(clock() * 64) / 64


def _sockets_only(readers, writers, errors, timeout=None):  # type: ignore[no-untyped-def]
    for one in (*readers, *writers):
        number = one if isinstance(one, int) else one.fileno()
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            raise OSError(10038, "select works on sockets alone")
    return _real_select(readers, writers, errors, timeout)


def _msvcrt() -> types.ModuleType:
    """Locks on bytes, by those that POSIX has: between processes they keep out just as well."""
    import fcntl

    module = types.ModuleType("msvcrt")
    module.LK_NBLCK = 2

    def locking(handle: int, mode: int, count: int) -> None:
        assert mode == module.LK_NBLCK
        if os.lseek(handle, 0, os.SEEK_CUR) >= 2**31:
            raise OSError(errno.EINVAL, "the C library counts to 2**31")
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, count, os.lseek(handle, 0, os.SEEK_CUR))
        except OSError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    module.locking = locking
    return module


def _no_handlers(*_words):  # type: ignore[no-untyped-def]
    raise NotImplementedError


assert subprocess
asyncio.unix_events._UnixSelectorEventLoop.add_signal_handler = _no_handlers  # type: ignore[method-assign]
_real_kill, _real_select = os.kill, select.select
sys.modules["msvcrt"] = _msvcrt()
# None makes `import fcntl` fail as where there is none.
sys.modules["fcntl"] = None  # type: ignore[assignment]
for _name in ("rename", "replace", "unlink", "remove"):
    setattr(os, _name, _refuse_open(getattr(os, _name)))
# In Python 3.10 a path keeps the functions that os had when pathlib was loaded.
_accessor = getattr(pathlib, "_NormalAccessor", None)
if _accessor is not None:
    for _name in ("rename", "replace", "unlink"):
        setattr(_accessor, _name, staticmethod(getattr(os, _name)))
os.link = _no_link
_real_statvfs, _Usage = os.statvfs, collections.namedtuple("_Usage", "total used free")


def _disk_usage(path: str) -> _Usage:
    """Windows has another way to ask than statvfs."""
    found = _real_statvfs(path)
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return _Usage(total, total - free, free)


shutil.disk_usage = _disk_usage
os.kill = _kill
select.select = _sockets_only
for _name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGQUIT"):
    delattr(signal, _name)
for _name in (
    "O_NONBLOCK",
    "O_NOFOLLOW",
    "fork",
    "killpg",
    "getuid",
    "geteuid",
    "getpgid",
    "setsid",
    "statvfs",
    "uname",
    "mkfifo",
):
    if hasattr(os, _name):
        delattr(os, _name)
for _name in ("monotonic", "perf_counter", "time"):
    setattr(time, _name, _coarse(getattr(time, _name)))
builtins.like_windows = True
