"""A process that starts scripts quickly: the slow libraries are loaded once, every command is a forked process of its own.

`Forks` is a `Runner` (see conftest) for large matrices on POSIX: real processes, signals, exit codes, limits and
files, at a tenth of the start-up time. fork_server.py is the process that forks.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bundle import Ran, Runner

FORK_SERVER = Path(__file__).with_name("fork_server.py")
# What the loader, the interpreter or the loaded libraries read as they start: a fork would not see a change.
READ_AT_START = re.compile("PYTHON|LD_|LC_|LANG|TZ|SSL|OPENSSL|REQUESTS|CURL|AIOHTTP|MALLOC|GLIBC|FAKETIME")

# Options of Popen that a fork obeys, too.
UNDERSTOOD = {"cwd", "env", "text", "errors", "stdin", "stdout", "stderr", "start_new_session"}


class Finished(Ran):
    """A finished command, with what it cost: seconds on the clock, of the processor (which others cannot lengthen), memory."""

    def __init__(
        self, code: int, out: str, err: str, seconds: float, peak_mb: float, cpu_seconds: float = 0.0
    ) -> None:
        super().__init__(code, out, err)
        self.seconds, self.peak_mb, self.cpu_seconds = seconds, peak_mb, cpu_seconds


class Zygote:
    """The forking process; one for a test session. `environment` is what it was started with."""

    def __init__(self, environment: dict[str, str], *modules: str) -> None:
        self.environment = environment
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, str(FORK_SERVER), str(theirs.fileno()), *modules], env=environment,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            )  # fmt: skip

    def can_start(self, options: dict[str, Any]) -> bool:
        """Whether a fork is and sees the same as what `subprocess.Popen` starts with these options."""
        if not options.keys() <= UNDERSTOOD:
            return False
        ours, theirs = (
            {key: value for key, value in one.items() if READ_AT_START.match(key)}
            for one in (self.environment, options["env"])
        )
        return ours == theirs

    def start(self, command: list[str], **options: Any) -> Forked:
        """What `subprocess.Popen` gives for [interpreter, script, word ...], as a fork."""
        return Forked(self, command, **options)

    def stop(self) -> None:
        """End it."""
        self.control.close()
        self.process.wait(timeout=60)


class Forked(subprocess.Popen[str]):
    """A `Popen` of a script, given as [interpreter, script, word ...], that the forking process starts and waits for."""

    def __init__(
        self, zygote: Zygote, command: list[str], *, limits: dict[str, int] | None = None, before: str = "",
        **options: Any,
    ) -> None:  # fmt: skip
        self.zygote = zygote
        self.extra = {"limits": limits or {}, "before": before}
        self.end: dict[str, Any] = {}
        super().__init__(command, **options)

    def _execute_child(self, args: list[str], *rest: Any) -> None:
        cwd, env, streams, session = rest[4], rest[5], rest[9:15], rest[20]
        self.begun = time.monotonic()
        self.place, theirs = socket.socketpair()
        given = [
            file if file != -1 else number for number, file in enumerate((streams[0], streams[3], streams[5]))
        ]
        with theirs:
            socket.send_fds(self.zygote.control, [b"j"], [theirs.fileno(), *given])
        job = {
            "argv": args[1:],
            "cwd": str(cwd or Path.cwd()),
            "env": env or dict(os.environ),
            "session": session,
            **self.extra,
        }
        self.place.sendall(json.dumps(job).encode())
        self.place.shutdown(socket.SHUT_WR)
        self.answers = self.place.makefile("rb")
        self.pid = json.loads(self.answers.readline())
        self._child_created = True
        self._close_pipe_fds(*streams)

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        try:
            return self._wait(0)
        except subprocess.TimeoutExpired:
            return None

    def _wait(self, timeout: float | None) -> int:
        with self._waitpid_lock:
            if self.returncode is None:
                if not select.select([self.place], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0)
                self.end = json.loads(self.answers.readline()) | {"seconds": time.monotonic() - self.begun}
                self.answers.close()
                self.place.close()
                self.returncode = self.end["code"]
            return self.returncode


class Forks(Runner):
    """Runs scripts as forked commands from a folder of the test's own."""

    def __call__(  # type: ignore[override]
        self,
        script: str,
        *words: object,
        env: dict[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60,
        limits: dict[str, int] | None = None,
        before: str = "",
    ) -> Finished:
        """`limits`: bytes a file may grow to (`fsize`), bytes of address space (`as`). `before`: Python that the process
        runs first (shorter patience, another clock). Asserts that nothing leaked a traceback."""
        assert self.zygote is not None
        process = self.zygote.start(
            self.command(script, *words), cwd=self.folder, env={**self.environment, **(env or {})},
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="surrogateescape", limits=limits, before=before,
        )  # fmt: skip
        ran = self.finish(process, stdin, timeout)
        return Finished(ran.code, ran.out, ran.err, *(process.end[key] for key in ("seconds", "peak_mb", "cpu_seconds")))  # fmt: skip
