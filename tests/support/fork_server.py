"""The process that forks, as a program: FD [MODULE ...]. It loads the modules once, then each job on the socket FD becomes a child.

A job is one byte with four open files: a socket of the job's own and the child's standard streams. The child reads what
it is to be from that socket; the parent writes there the child's process id and, when it has ended, how.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any


def become(files: list[int]) -> None:
    """In the child: be that command, as if a shell had started it. It ends as the interpreter ends."""
    with socket.socket(fileno=files[0]) as ours, ours.makefile("rb") as asked:
        job = json.loads(asked.read())
    for number in range(3):
        os.dup2(files[number + 1], number)
        os.close(files[number + 1])
    if job["session"]:
        os.setsid()
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    _limit(job["limits"])
    sys.argv = job["argv"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    script = types.ModuleType("__main__")
    script.__file__ = sys.argv[0]
    sys.modules["__main__"] = script
    exec(job["before"], {})
    exec(compile(Path(sys.argv[0]).read_bytes(), sys.argv[0], "exec"), script.__dict__)


def _limit(limits: dict[str, int]) -> None:
    import resource

    if "fsize" in limits:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["fsize"],) * 2)
    if "as" in limits:
        resource.setrlimit(resource.RLIMIT_AS, (limits["as"],) * 2)


def serve(control: socket.socket) -> list[int]:
    """Fork for every job. Returns in a child only, with its files; the parent leaves with the socket's end."""
    woken, wake = socket.socketpair()
    woken.setblocking(False)
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    while True:
        ready = select.select([control, woken], [], [])[0]
        if control in ready:
            byte, files, *_ = socket.recv_fds(control, 1, 4)
            if not byte:
                os._exit(0)
            child = os.fork()
            if not child:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for other in (control, woken, wake, *running.values()):
                    other.close()
                return files
            running[child] = socket.socket(fileno=files[0])
            for file in files[1:]:
                os.close(file)
            _tell(running[child], child)
        if woken in ready:
            woken.recv(4096)
            _reap(running)


def _reap(running: dict[int, socket.socket]) -> None:
    while running:
        child, status, usage = os.wait4(-1, os.WNOHANG)
        if not child:
            return
        end = {
            "code": os.waitstatus_to_exitcode(status),
            "peak_mb": usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10),
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }
        with running.pop(child) as place:
            _tell(place, end)


def _tell(place: socket.socket, value: Any) -> None:
    try:
        place.sendall(json.dumps(value).encode() + b"\n")
    except OSError:  # who asked no longer listens
        pass


if __name__ == "__main__":
    sys.path.insert(1, str(Path(__file__).parents[2] / "scripts"))
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
