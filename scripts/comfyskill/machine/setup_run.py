"""Running installers and launchers for set-up: a log that is kept, one set-up at a time, what listens on a port."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import platform
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from comfyskill.base import cli, foreign, paths, programs, safe_files, safe_text

TAIL_LINES = 30
# Time for an installer to clean up when asked to stop, before it is killed.
GRACE_S = 8.0
HEARTBEAT_S = 30.0
PROBE_LIMIT_S = 3.0
_STATS_LIMIT_BYTES = 1 << 20
# comfy-cli frames its tracebacks and repeats a log in a frame; the plain lines around it say what happened.
FRAME = ("\u2502", "\u256d", "\u2570", '{"schema"')
# Patterns in an installer's or a server's output, and what to do about each.
CAUSES = (
    (r"could not resolve host|name resolution|network is unreachable", "no network: check the connection or the proxy"),
    (r"no space left on device|errno 28", "the disk is full: free up space, or choose another --workspace"),
    (r"already running in background", "another ComfyUI runs in the background: comfyui_setup.py stop, or comfy stop"),
    (r"address already in use|errno 98|port is already in use", "the port is taken: use another --port"),
    (r"torch not compiled with cuda|no kernel image|driver version is insufficient|found no nvidia driver",
     "PyTorch and the GPU driver do not match: python3 scripts/hardware_check.py --check-pytorch"),
    (r"no module named|modulenotfounderror", "the installation is incomplete: comfy install --restore"),
    (r"permission denied|errno 13", "a folder is not writable: choose another --workspace"),
)  # fmt: skip


def state_folder() -> Path:
    """Where setup keeps its log, its notes and, if it had to install comfy-cli, that virtual environment."""
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA") or str(paths.home() / "AppData" / "Local")
    elif platform.system() == "Darwin":
        base = str(paths.home() / "Library" / "Application Support")
    else:
        base = os.environ.get("XDG_STATE_HOME") or str(paths.home() / ".local" / "state")
    return Path(base) / "comfyui-setup"


class Done(NamedTuple):
    """How a command ended: its exit code (None: it still runs) and what it printed."""

    code: int | None
    output: str

    @property
    def tail(self) -> list[str]:
        """Its last lines."""
        return last_lines(self.output)


class Log:
    """The log file: setup appends to it and keeps it; child processes write into it directly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.line(f"--- comfyui_setup, process {os.getpid()}")

    def line(self, text: str) -> None:
        """Write one line with the time."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with safe_files.open_file(self.path, "a", encoding="utf-8") as file:
            file.write(f"{stamp} {safe_text.redact(safe_text.clean(text))}\n")

    def run(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        doing: str,
        *,
        limit_s: float = float("inf"),
    ) -> Done:
        """Run a command, with its output going into the log; Ctrl-C ends it with all its children.

        A command that exceeds `limit_s` keeps running. Raises SkillError when it cannot be started.
        """
        offset = self.path.stat().st_size
        code = _wait(self._start(words, environment), doing, limit_s)
        with self.path.open("rb") as file:
            file.seek(offset)
            return Done(code, safe_text.clean(file.read().decode("utf-8", "replace")))

    def _start(self, words: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        self.line("$ " + safe_text.shell_words(words))
        with safe_files.open_file(self.path, "ab") as output:
            try:
                return subprocess.Popen(
                    list(words),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    start_new_session=os.name != "nt",
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
            except OSError as error:
                raise cli.SkillError(
                    f"{words[0]} cannot be started: {error.strerror or error}",
                    code="cannot_start",
                    log=str(self.path),
                ) from error


def advice(output: str) -> str | None:
    """What to do about an output whose cause is known, else None."""
    for pattern, hint in CAUSES:
        if re.search(pattern, output, re.IGNORECASE):
            return hint
    return None


def last_lines(text: str, count: int = TAIL_LINES) -> list[str]:
    """The last lines of an output that are not empty, each cut to 300 characters."""
    lines = [
        line.rstrip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith(FRAME)
    ]
    return [safe_text.clean(line, 300) for line in lines[-count:]]


def _wait(process: subprocess.Popen[bytes], doing: str, limit_s: float) -> int | None:
    """The exit code; None when the time limit was reached first."""
    began = time.monotonic()
    try:
        while (left := began + limit_s - time.monotonic()) > 0:
            try:
                return process.wait(min(left, HEARTBEAT_S))
            except subprocess.TimeoutExpired:
                cli.note(f"{doing}: still working after {int(time.monotonic() - began)} s")
        return process.poll()
    except KeyboardInterrupt:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a command and its children to stop; kill them if they do not."""
    if os.name == "nt":
        programs.kill_tree(process)
        return
    for number, patience in ((signal.SIGINT, GRACE_S), (signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock against a second setup; the system releases it however this process ends.

    Raises:
        SkillError: another setup is running.
    """
    if not paths.make_private(folder):
        # Setup runs what its notes and its virtual environment in this folder hold.
        raise cli.SkillError(
            f"{folder} is not yours, or other users may write into it", code="unsafe_folder",
            exit=cli.Exit.UNSAFE, hint="remove it, or set XDG_STATE_HOME to a folder of your own",
        )  # fmt: skip
    with safe_files.open_file(folder / "lock", "a+") as file:
        if safe_files.take(file) is False:
            raise cli.SkillError(
                "another comfyui_setup is running",
                code="already_in_progress",
                hint="wait for it to end",
                retryable=True,
            )
        yield


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """SIGTERM, SIGHUP and Ctrl-Break end the work as Ctrl-C does: with the children stopped."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    # Under nohup SIGHUP is ignored and must stay so.
    heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Port(NamedTuple):
    """What listens on a local port: `free`, `comfyui` (with its version) or `other`; `mute`: it does not speak HTTP."""

    state: str
    version: str | None = None
    what: str | None = None
    mute: bool = False


def look_at(port: int, limit_s: float = PROBE_LIMIT_S) -> Port:
    """Ask a local port what it is; only a server that answers /system_stats as ComfyUI does counts as one."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=limit_s):
            pass
    except ConnectionRefusedError:
        return Port("free")
    except OSError as error:
        return Port("other", what=f"does not accept a connection ({error.strerror or error})")
    # A proxy from the environment must not answer for this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    url = f"http://127.0.0.1:{port}/system_stats"
    try:
        with opener.open(url, timeout=limit_s) as response:
            answer = foreign.mapping(json.loads(response.read(_STATS_LIMIT_BYTES)))
    except urllib.error.HTTPError as error:
        return Port("other", what=f"a web server that answers {error.code}")
    except ValueError:
        return Port("other", what="a web server, but not ComfyUI")
    except http.client.HTTPException:
        return Port("other", what="it does not speak HTTP", mute=True)
    except OSError as error:
        return Port("other", what=f"it does not answer like a web server ({error})", mute=True)
    system = answer.get("system")
    if not isinstance(system, Mapping) or not isinstance(answer.get("devices"), list):
        return Port("other", what="a web server, but not ComfyUI")
    return Port("comfyui", version=safe_text.clean(system.get("comfyui_version") or "unknown", 40))
