"""What the tests share: the demo server on a free port, scripts run as commands, a real server when one is named."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundle import ROOT, SCRIPTS, Demo, Runner

# A shell ignores Ctrl-C in what it starts in the background, and so would every command that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
    """One demo server for the whole session: fast steps, previews, no faults of its own. It is started as a shell does."""
    server = Demo("--step-time", "0.005", "--preview-method", "latent2rgb")
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
    """The process that starts scripts quickly (POSIX). Importing the package changes nothing, so forks may share it, too."""
    from zygote import Zygote

    package = sorted((SCRIPTS / "comfyskill").rglob("*.py"))
    names = [
        ".".join(path.relative_to(SCRIPTS).with_suffix("").parts)
        for path in package
        if path.parent.name != "demo"
    ]
    made = Zygote(ENVIRONMENT, "requests", "urllib3", "websocket", "_common", *names)
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
