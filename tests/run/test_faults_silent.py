"""A server that goes silent: it accepts everything, answers nothing, and open connections stay open."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import graphs
from bundle import SCRIPTS, Demo, Ran, Runner
from flaky import Fault, Flaky
from queues import wait_for
from zygote import Forks, Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are tested on POSIX")

# The same code with shorter times. A request that is left to its own limit takes five minutes, so the bound below tells.
BRISK = """
from comfyskill.batch import lane; from comfyskill.run import jobs; from comfyskill.server import protocol, transport, watch
for one in vars(transport.Server).values():
    if "timeout" in (getattr(one, "__kwdefaults__", None) or {}):
        one.__kwdefaults__["timeout"] = 300.0
protocol.Dialect.question_timeout = 300.0
watch.QUIET_BEFORE_PING = watch.PING_PATIENCE = 1.0
watch.QUESTION_TIME = 3.0
watch.LEAST_QUESTION_TIME = 2.0
watch.SOCKET_PATIENCE = 2.0
jobs.CANCEL_PATIENCE = 3.0
lane.SUBMIT_LIMIT = 3.0
"""
START = "import runpy, sys; sys.path.insert(0, sys.argv[1]); exec(sys.argv[2]); del sys.argv[:3]; runpy.run_path(sys.argv[0], run_name='__main__')"
# Some ten times of what it takes.
BOUND = 60.0


@pytest.fixture
def relay(demo: Demo) -> Iterator[Flaky]:
    """Stands before the demo server, and can go silent."""
    made = Flaky(demo.url)
    yield made
    made.stop()


def start(run: Runner, script: str, *words: object) -> subprocess.Popen[str]:
    """A running script with shorter times."""
    path = SCRIPTS / script
    command = [sys.executable, "-c", START, str(SCRIPTS), BRISK, str(path), *(str(word) for word in words)]
    process = subprocess.Popen(
        command, cwd=run.folder, env=run.environment, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    run.started.append(process)
    return process


def ended(process: subprocess.Popen[str], limit: float = BOUND) -> Ran:
    """How it ended, within the bound."""
    out, err = process.communicate(timeout=limit)
    assert "Traceback" not in err, err
    return Ran(process.returncode, out, err)


def executing(demo: Demo) -> list[str]:
    """The prompt ids that run now."""
    return [item[1] for item in demo.get("/queue")["queue_running"]]


def waiting(demo: Demo) -> list[str]:
    """All prompt ids in the queue."""
    queue = demo.get("/queue")
    return [item[1] for key in ("queue_running", "queue_pending") for item in queue[key]]


def words_of(how: str, graph_file: Any, relay: Flaky, seconds: float, patience: int) -> list[object]:
    """A command that follows a job of this length."""
    path = graph_file(graphs.sleeper(seconds))
    host = ["--host", relay.url, "--api", "local"]
    away = ["--reconnect-time", patience]
    return {
        "run": ["run_workflow.py", path, *host, *away, "--output-dir", "out"],
        "run-polling": ["run_workflow.py", path, *host, *away, "--output-dir", "out", "--no-ws"],
        "batch": ["run_batch.py", path, *host, *away, "--output-dir", "out", "--count", 3, "--no-report"],
    }[how]


@pytest.mark.parametrize("how", ["run", "run-polling", "batch"])
def test_silence_for_good_costs_the_patience_that_was_given(
    run: Runner, demo: Demo, relay: Flaky, graph_file: Any, how: str
) -> None:
    script, *words = words_of(how, graph_file, relay, 90, patience=2)
    process = start(run, str(script), *words)
    [job, *_] = wait_for(lambda: executing(demo))
    relay.silence()
    silent_at = time.monotonic()
    ran = ended(process)
    took = time.monotonic() - silent_at
    assert (ran.code, ran.json["code"]) == (1, "server_gone"), ran.out
    # The time that the message names is the true one: no shorter than the patience, no longer than the silence.
    assert 2 <= ran.json["away_seconds"] <= took
    assert f"for {ran.json['away_seconds']:.0f} s" in ran.json["message"]
    if how != "batch":
        assert job in ran.json["next"][0]


@pytest.mark.parametrize("how", ["run", "run-polling", "batch"])
def test_connections_that_died_are_replaced_when_the_network_is_back(
    run: Runner, demo: Demo, relay: Flaky, graph_file: Any, how: str
) -> None:
    """The old connections stay open and dead; a request on one of them would wait a minute for its answer."""
    script, *words = words_of(how, graph_file, relay, 3, patience=50)
    process = start(run, str(script), *words)
    wait_for(lambda: executing(demo))
    relay.silence()
    time.sleep(3.5)
    relay.speak()
    ran = ended(process)
    assert (ran.code, ran.json["status"]) == (0, "success"), ran.out
    started = [row for row in demo.get("/demo/executions")["executions"] if row["event"] == "start"]
    assert len(started) == (3 if how == "batch" else 1)


@pytest.mark.parametrize("how", ["monitor", "wait"])
def test_who_only_watches_hears_the_end_after_the_connections_died(
    run: Runner, demo: Demo, relay: Flaky, how: str
) -> None:
    job = demo.post("/prompt", {"prompt": graphs.sleeper(3), "client_id": "other"})["prompt_id"]
    words: list[object] = {
        "monitor": ["ws_monitor.py", "--prompt-id", job],
        "wait": ["manage_queue.py", "wait", job, "--output-dir", "out"],
    }[how]  # fmt: skip
    process = start(run, str(words[0]), *words[1:], "--host", relay.url, "--api", "local")
    wait_for(lambda: any(job in path or path == "/queue" for _, path, _, _ in relay.seen))
    time.sleep(0.5)
    relay.silence()
    time.sleep(3.5)
    relay.speak()
    ran = ended(process)
    assert (ran.code, ran.json["status"]) == (0, "success"), ran.out


@pytest.mark.parametrize("how", ["run", "run-polling"])
def test_ctrl_c_does_not_wait_for_a_silent_server(
    run: Runner, demo: Demo, relay: Flaky, graph_file: Any, how: str
) -> None:
    script, *words = words_of(how, graph_file, relay, 90, patience=300)
    process = start(run, str(script), *words)
    [job] = wait_for(lambda: executing(demo))
    relay.silence()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    ran = ended(process, 30)
    assert (ran.code, ran.json["code"], ran.json["prompt_id"]) == (130, "interrupted", job), ran.out
    assert waiting(demo) == [job]
    assert any("cancel" in command and job in command for command in ran.json["next"])


def test_ctrl_c_at_a_submit_that_is_not_answered(
    run: Runner, demo: Demo, relay: Flaky, graph_file: Any
) -> None:
    script, *words = words_of("run-polling", graph_file, relay, 90, patience=300)
    relay.reset(Fault("hang", path="/prompt", method="POST"))
    process = start(run, str(script), *words)
    wait_for(lambda: any(method == "POST" for method, *_ in relay.seen))
    relay.silence()
    process.send_signal(signal.SIGINT)
    ran = ended(process, 30)
    assert (ran.code, ran.json["code"]) == (5, "submit_unknown"), ran.out
    [body] = [body for method, _, _, body in relay.seen if method == "POST"]
    assert ran.json["prompt_id"] == json.loads(body)["prompt_id"]


def test_a_batch_names_the_runs_that_ctrl_c_could_not_cancel(
    run: Runner, demo: Demo, relay: Flaky, graph_file: Any
) -> None:
    script, *words = words_of("batch", graph_file, relay, 90, patience=300)
    process = start(run, str(script), *words)
    left = wait_for(lambda: len(waiting(demo)) == 3 and waiting(demo))
    time.sleep(0.5)
    relay.silence()
    process.send_signal(signal.SIGINT)
    ran = ended(process, 30)
    document = ran.json
    assert (ran.code, document["code"], document["not_run"]) == (130, "interrupted", 3), ran.out
    assert sorted(document["not_cancelled"][relay.url]["items"]) == sorted(left) == sorted(waiting(demo))
    assert any(relay.url in warning for warning in document["warnings"])
    # The command that it names finds and cancels them once the server answers.
    relay.speak()
    [command] = [command for command in document["next"] if "cancel" in command]
    _, path, *rest = shlex.split(command)
    again = run(Path(path).name, *rest)
    assert again.code == 0 and waiting(demo) == [], again.out


def test_a_batch_names_the_run_whose_submit_was_not_answered(
    run: Runner, demo: Demo, relay: Flaky, graph_file: Any
) -> None:
    """It was carried out, and its answer never came: it runs, although nothing said so."""
    script, *words = words_of("batch", graph_file, relay, 90, patience=300)
    relay.reset(Fault("lost", path="/prompt", method="POST", skip=1), Fault("hang", path="/history/*"))
    process = start(run, str(script), *words)
    left = wait_for(lambda: len(waiting(demo)) == 2 and waiting(demo))
    relay.silence()
    process.send_signal(signal.SIGINT)
    ran = ended(process, 30)
    assert ran.code == 130
    assert set(left) <= set(ran.json["not_cancelled"][relay.url]["items"]), ran.out


def test_ctrl_c_of_a_batch_cancels_all_of_a_server_that_answers(
    run: Runner, demo: Demo, relay: Flaky, graph_file: Any
) -> None:
    script, *words = words_of("batch", graph_file, relay, 90, patience=300)
    process = start(run, str(script), *words)
    wait_for(lambda: len(waiting(demo)) == 3)
    process.send_signal(signal.SIGINT)
    ran = ended(process)
    assert ran.code == 130 and "not_cancelled" not in ran.json and "warnings" not in ran.json, ran.out
    assert waiting(demo) == []


def test_a_handshake_that_hangs_is_tried_once_a_command(
    demo: Demo, relay: Flaky, tmp_path: Path, zygote: Zygote
) -> None:
    """A run for want of memory is tried twice; a proxy that swallows the upgrade costs its time once."""
    forks = Forks(tmp_path, zygote)
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graphs.failing("OOM")))
    relay.reset(Fault("hang", path="/ws"))
    ran = forks("run_workflow.py", path, "--host", relay.url, "--api", "local", "--output-dir", "out", "--retry-oom",
                before="from comfyskill.server import socket, watch; socket.CONNECT_TIMEOUT = 300.0; watch.SOCKET_PATIENCE = 1.0")  # fmt: skip
    assert ran.json["code"] == "out_of_memory" and ran.json["retried"], ran.out
    asked = [path.partition("?")[0] for _, path, _, _ in relay.seen]
    assert asked.count("/ws") == 1 and asked.count("/prompt") == 2
