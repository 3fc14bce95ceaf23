"""A process that starts scripts quickly: the slow libraries are loaded once, every command is a forked child of its own.

`Forks` is a `Runner` (see conftest) for large matrices on POSIX: real processes, signals, exit codes, limits and
files, at a tenth of the start-up time. Run as a program, this file is the process that forks.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from conftest import SCRIPTS, Ran, Runner

Job = dict[str, Any]


class Finished(Ran):
    """A finished command, with what it cost: seconds on the clock, of the processor (which others cannot lengthen), memory."""

    def __init__(
        self, code: int, out: str, err: str, seconds: float, peak_mb: float, cpu_seconds: float = 0.0
    ) -> None:
        super().__init__(code, out, err)
        self.seconds, self.peak_mb, self.cpu_seconds = seconds, peak_mb, cpu_seconds


class Zygote:
    """The forking process; one for a test session."""

    def __init__(self) -> None:
        self.bytecode = Path(tempfile.mkdtemp(prefix="bytecode-"))
        # Else every test would compile all modules again.
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env["PYTHONPYCACHEPREFIX"] = str(self.bytecode)
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )

    def run(self, job: Job) -> dict[str, Any]:
        """Carry out one job: {"code", "seconds", "peak_mb", "cpu_seconds"}; code -9 when it took longer than `timeout` seconds."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()
        shutil.rmtree(self.bytecode, ignore_errors=True)


class Forks(Runner):
    """Runs scripts as forked commands from a folder of the test's own."""

    def __init__(self, folder: Path, zygote: Zygote) -> None:
        super().__init__(folder)
        self.zygote = zygote

    def __call__(
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
        with tempfile.TemporaryDirectory(prefix="fork-") as name:
            place = Path(name)
            if stdin is not None:
                (place / "in").write_text(stdin, encoding="utf-8", errors="surrogatepass")
            job = {
                "script": str(SCRIPTS / script), "argv": [str(word) for word in words], "cwd": str(self.folder),
                "env": {**self.environment, **(env or {})}, "place": name, "timeout": timeout, "limits": limits or {},
                "before": before,
            }  # fmt: skip
            done = self.zygote.run(job)
            out, err = ((place / stream).read_text(errors="surrogateescape") for stream in ("out", "err"))
        assert done["code"] != -9, f"not finished after {timeout} s\n{out}\n{err}"
        assert "Traceback (most recent call last)" not in err, err
        assert '"internal_error"' not in out, out
        return Finished(done["code"], out, err, done["seconds"], done["peak_mb"], done["cpu_seconds"])


def become(job: Job) -> None:
    """In the child: be that command, as if it had been started by a shell."""
    import atexit
    import resource
    import runpy
    import signal

    place = Path(job["place"])
    for number, name, flags in (
        (0, "in", os.O_RDONLY),
        (1, "out", os.O_WRONLY | os.O_CREAT),
        (2, "err", os.O_WRONLY | os.O_CREAT),
    ):
        path = place / name
        os.dup2(os.open(path if number or path.exists() else os.devnull, flags, 0o600), number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode)  # noqa: SIM115
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    if "fsize" in job["limits"]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limits"]["fsize"],) * 2)
    if "as" in job["limits"]:
        resource.setrlimit(resource.RLIMIT_AS, (job["limits"]["as"],) * 2)
    sys.argv = [job["script"], *job["argv"]]
    sys.path[0] = str(Path(job["script"]).parent)
    code: Any = 0
    try:
        exec(job["before"], {})
        runpy.run_path(job["script"], run_name="__main__")
    except SystemExit as stop:
        code = stop.code
    except BaseException:  # noqa: BLE001  (the child must end here, whatever happened)
        import traceback

        traceback.print_exc()
        code = 1
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def serve() -> None:
    """Fork for every job that comes as a line of JSON; answer each with a line."""
    import signal

    import requests
    import urllib3
    import websocket

    assert requests and urllib3 and websocket
    for line in sys.stdin:
        job = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            become(job)
        pid, status, usage = 0, 0, None
        while not pid:
            pid, status, usage = os.wait4(child, os.WNOHANG)
            if not pid:
                if time.monotonic() - started > job["timeout"]:
                    os.kill(child, signal.SIGKILL)
                time.sleep(0.004)
        answer = {
            "code": os.waitstatus_to_exitcode(status),
            "seconds": time.monotonic() - started,
            "peak_mb": (usage.ru_maxrss if usage else 0) / 1024,
            "cpu_seconds": usage.ru_utime + usage.ru_stime if usage else 0.0,
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
