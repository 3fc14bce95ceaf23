"""A forked command is what a started one is: the same answer, streams, exit code, signals, limits and environment."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import graphs
from bundle import SCRIPTS, Demo, Runner
from zygote import Zygote

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="commands are forks on Linux only")

ALL = sorted(path.name for path in SCRIPTS.glob("*.py") if not path.name.startswith("_"))
ONLINE = {
    "run_workflow.py": ["g.json", "--output-dir", "out"],
    "run_batch.py": ["g.json", "--count", 2, "--output-dir", "out", "--no-report"],
    "check_deps.py": ["g.json"],
    "auto_fix_deps.py": ["g.json", "--dry-run"],
    "health_check.py": [],
    "server_info.py": ["features"],
    "manage_queue.py": ["list"],
    "extract_schema.py": ["g.json"],
    "validate_workflow.py": ["g.json"],
}


def both(run: Runner, folder: Path) -> tuple[Runner, Runner]:
    """A runner that starts and one that forks, in folders of their own."""
    places = folder / "started", folder / "forked"
    for place in places:
        place.mkdir()
        (place / "g.json").write_text(json.dumps(graphs.picture()))
    return Runner(places[0]), Runner(places[1], run.zygote)


def shape(value: Any) -> Any:
    """Keys and kinds of a document; ids, times and names of files differ between two runs."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return type(value).__name__ if isinstance(value, str | float) else value


@pytest.mark.parametrize("script", ONLINE)
def test_a_command_that_works_answers_the_same(run: Runner, demo: Demo, tmp_path: Path, script: str) -> None:
    started, forked = (runner(script, *ONLINE[script], "--host", demo.url) for runner in both(run, tmp_path))
    assert (started.code, shape(started.json).keys()) == (forked.code, shape(forked.json).keys())
    assert started.json["status"] == forked.json["status"]


@pytest.mark.parametrize("script", ALL)
@pytest.mark.parametrize("word", ["--help", "--no-such-flag"])
def test_help_and_misuse_are_the_same_to_the_letter(
    run: Runner, tmp_path: Path, script: str, word: str
) -> None:
    started, forked = (runner(script, word) for runner in both(run, tmp_path))
    assert (started.code, started.out, started.err) == (forked.code, forked.out, forked.err)


def test_what_python_itself_says_is_the_same(zygote: Zygote, tmp_path: Path) -> None:
    """Exit words, exit hooks, threads that are waited for, encodings, standard input, an end by Ctrl-C."""
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, os, signal, sys, threading, time\n"
        "atexit.register(lambda: print('hook', flush=True))\n"
        "print(__name__, __file__, sys.argv, sys.path[0], os.getcwd(), os.environ['OURS'], sys.stdin.read())\n"
        "print([(s.encoding, s.errors, s.line_buffering, s.isatty()) for s in (sys.stdin, sys.stdout, sys.stderr)])\n"
        "print(sys.flags, sys.pycache_prefix, sys.dont_write_bytecode, os.getsid(0) == os.getpid())\n"
        "print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)])\n"
        "print(sorted(os.listdir('/proc/self/fd')))\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\n"
        "if sys.argv[1] == 'signal': os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n"
        "sys.exit(sys.argv[1] if sys.argv[1] != '7' else 7)\n"
    )
    options: dict[str, Any] = {
        "cwd": tmp_path, "env": {**zygote.environment, "OURS": "a\udcffb"}, "text": True, "errors": "surrogateescape",
        "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
    }  # fmt: skip
    assert zygote.can_start(options)
    for word, code in (("words", 1), ("7", 7), ("signal", -signal.SIGINT)):
        for session in (False, True):
            ends = []
            for start in (subprocess.Popen, zygote.start):
                with start(
                    [sys.executable, str(script), word], **options, start_new_session=session
                ) as process:
                    out, err = process.communicate("given", timeout=60)
                    ends.append((process.returncode, out, err.splitlines()[-1:]))
            assert ends[0] == ends[1]
            assert ends[0][0] == code and "thread\nhook\n" in ends[0][1]


@pytest.mark.parametrize("key", ["PYTHONIOENCODING", "LC_ALL", "LD_PRELOAD", "TZ", "SSL_CERT_FILE"])
def test_what_is_read_at_the_start_is_never_forked(zygote: Zygote, key: str) -> None:
    assert zygote.can_start({"env": {**zygote.environment, "HOME": "/", "PYTEST_CURRENT_TEST": "x"}})
    assert not zygote.can_start({"env": {**zygote.environment, key: "other"}})
    assert not zygote.can_start({"env": zygote.environment, "preexec_fn": print})
