"""What the tests share: the demo server on a free port, scripts run as commands, a real server when one is named."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# A shell ignores Ctrl-C in what it starts in the background, and so would every command that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
sys.path.insert(0, str(SCRIPTS))


def keep_bytecode() -> None:
    """Where the environment forbids bytecode, every command and every worker would compile all that it loads anew."""
    folder = ROOT / ".pytest_cache" / "bytecode"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="bytecode-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(folder)
    sys.dont_write_bytecode = False


if sys.dont_write_bytecode:
    keep_bytecode()
ENVIRONMENT = dict(os.environ)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--run-paid: the live cloud tests may run one tiny job, which costs credits."""
    parser.addoption("--run-paid", action="store_true", help="let the live cloud test run one tiny paid job")


class Demo:
    """One demo server process; `url` is its address."""

    def __init__(self, *options: str, zygote: Any = None) -> None:
        command = [
            sys.executable,
            str(SCRIPTS / "demo_server.py"),
            "--port",
            "0",
            "--control",
            "--exit-with-parent",
            *options,
        ]
        start = zygote.start if zygote else subprocess.Popen
        self.process: subprocess.Popen[Any] = start(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the demo server did not start"
        self.hello = json.loads(line)
        self.url: str = self.hello["url"]

    def get(self, path: str) -> Any:
        """The JSON of a GET."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON of a POST; None for the empty answers."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def log(self) -> list[dict[str, Any]]:
        """The requests it received."""
        answer = self.get("/demo/log")
        return answer if isinstance(answer, list) else answer["requests"]

    def asked(self, path: str) -> list[dict[str, Any]]:
        """The requests for a path that scripts have made, not the tests."""
        ours = "Python-urllib"
        return [
            entry
            for entry in self.log()
            if entry["path"] == path and not entry["headers"].get("User-Agent", "").startswith(ours)
        ]

    def fault(self, *faults: Any) -> None:
        """Replace its active faults."""
        self.post("/demo/faults", list(faults))

    def stop(self) -> None:
        """End it: it goes by itself, with its folders, when its standard input closes."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=60)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def demo_zygote() -> Iterator[Any]:
    """The process that starts demo servers quickly; None where they are started as a shell does."""
    if sys.platform != "linux":
        yield None
        return
    from zygote import Zygote

    made = Zygote(ENVIRONMENT, "aiohttp.web", "PIL.Image", "PIL.ImageDraw", "PIL.ImageFont")
    yield made
    made.stop()


@pytest.fixture(scope="session")
def shared_demo() -> Iterator[Demo]:
    """One demo server for the whole session: fast steps, no faults of its own. It is started as a shell does."""
    server = Demo("--step-time", "0.005")
    yield server
    server.stop()


@pytest.fixture
def demo(shared_demo: Demo) -> Demo:
    """The session's demo server, reset."""
    shared_demo.post("/demo/reset")
    shared_demo.post("/demo/log/clear")
    return shared_demo


@pytest.fixture
def new_demo(demo_zygote: Any) -> Iterator[Any]:
    """Starts demo servers with options of the test's own."""
    started: list[Demo] = []

    def start(*options: str) -> Demo:
        started.append(Demo(*options, zygote=demo_zygote))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture(params=["demo", pytest.param("real", marks=pytest.mark.real)])
def any_server(request: pytest.FixtureRequest) -> str:
    """The address of the demo server, and of the real one in COMFYUI_TEST_URL when that is set."""
    if request.param == "real":
        url = os.environ.get("COMFYUI_TEST_URL")
        if not url:
            pytest.skip("COMFYUI_TEST_URL names no real server")
        return url
    server: Demo = request.getfixturevalue("demo")
    return server.url


class Ran:
    """A finished command: exit code, its JSON document and both streams."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        """The one document on stdout."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


class Runner:
    """Runs scripts as commands from a folder that is not the bundle's."""

    def __init__(self, folder: Path, zygote: Any = None) -> None:
        self.folder, self.zygote = folder, zygote
        self.started: list[subprocess.Popen[str]] = []
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("COMFY")},
            "COMFYUI_SKILL_CACHE": str(folder / "cache"),
        }

    def command(self, script: str, *words: object) -> list[str]:
        """The argument list of a script."""
        return [sys.executable, str(SCRIPTS / script), *(str(word) for word in words)]

    def start(
        self, script: str, *words: object, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """A running script, for tests that send signals."""
        options = {
            "cwd": self.folder, "env": {**self.environment, **(env or {})}, "text": True,
            "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options,
        }  # fmt: skip
        start = self.zygote.start if self.zygote and self.zygote.can_start(options) else subprocess.Popen
        process: subprocess.Popen[str] = start(self.command(script, *words), **options)
        self.started.append(process)
        return process

    def stop(self) -> None:
        """End what a failed test has left running: it would speak to the next test's server."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()

    def __call__(
        self,
        script: str,
        *words: object,
        env: dict[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60,
    ) -> Ran:
        given = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        return self.finish(self.start(script, *words, env=env, stdin=given), stdin, timeout)

    def finish(self, process: subprocess.Popen[str], stdin: str | None, timeout: float) -> Ran:
        """The command when it has ended; it is killed when that takes longer than `timeout` seconds."""
        with process:
            try:
                out, err = process.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                raise AssertionError(f"not finished after {timeout} s\n{out}\n{err}") from None
            except BaseException:
                process.kill()
                raise
        assert "Traceback (most recent call last)" not in err, err
        assert '"internal_error"' not in out, out
        return Ran(process.returncode, out, err)


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Runner]:
    """Runs scripts in the test's own folder, with a cache of its own and no keys from the environment.

    On Linux the commands are forks (see zygote.py), a tenth of the work. macOS' own libraries allow no fork without exec.
    """
    runner = Runner(tmp_path, request.getfixturevalue("zygote") if sys.platform == "linux" else None)
    yield runner
    runner.stop()


@pytest.fixture
def fresh_run(tmp_path: Path) -> Iterator[Runner]:
    """The same with a fresh interpreter for each command."""
    runner = Runner(tmp_path)
    yield runner
    runner.stop()


@pytest.fixture(scope="session")
def zygote() -> Iterator[Any]:
    """The process that starts scripts quickly (POSIX)."""
    from zygote import Zygote

    made = Zygote(ENVIRONMENT, "requests", "urllib3", "websocket")
    yield made
    made.stop()


@pytest.fixture(scope="session")
def benches() -> Iterator[Any]:
    """Servers behind a relay that fails, by protocol: local, cloud, v2."""
    import fault_bench

    yield from fault_bench.all_benches()


@pytest.fixture
def graph_file(tmp_path: Path) -> Any:
    """Writes a graph to a file of the test's folder and gives its path."""

    def write(graph: Any, name: str = "graph.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps(graph), encoding="utf-8")
        return path

    return write
