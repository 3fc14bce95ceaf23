"""Clocks that jump, here and on the server: waiting and durations never depend on the time of day."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import graphs
from bundle import ROOT, Demo, Ran, Runner
from fault_bench import Bench
from fault_table import HERE, ROLES
from flaky import Fault
from v2_servers import Hosted, running
from zygote import Forks, Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the quick runner forks")
CLOCK = ROOT / "tests" / "clock"
HOUR = 3600
# Seconds after the start, and how wrong the clock is from then on.
FORWARD, BACK, BOTH = f"0.4:{5 * HOUR}", f"0.4:{-5 * HOUR}", f"0.3:{2 * HOUR},0.7:{-9 * HOUR}"
LIBRARY = next((path for path in Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


@pytest.fixture
def forks(tmp_path: Path, zygote: Zygote) -> Forks:
    return Forks(tmp_path, zygote)


@pytest.fixture
def wrong_demo(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Starts demo servers whose clock is wrong by as many seconds as a file says."""
    started: list[Demo] = []

    def start(wrong: Path, *options: str) -> Demo:
        with monkeypatch.context() as here:
            here.setenv("PYTHONPATH", str(CLOCK))
            here.setenv("CLOCK_FILE", str(wrong))
            started.append(Demo("--step-time", "0.005", *options))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def jumping(jumps: str) -> str:
    """What a process runs first to have such a clock."""
    return f"import os; os.environ['CLOCK_JUMPS'] = {jumps!r}; exec(open({str(CLOCK / 'sitecustomize.py')!r}).read())"


def negative_numbers(value: Any, at: str = "") -> list[str]:
    """Where a document tells a negative time."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in negative_numbers(item, f"{at}.{key}")]
    if isinstance(value, list):
        return [found for item in value for found in negative_numbers(item, at)]
    is_time = any(word in at.rpartition(".")[2] for word in ("second", "elapsed"))
    return [f"{at}: {value}"] if is_time and isinstance(value, (int, float)) and value < 0 else []


def sane(document: dict[str, Any], least: float, most: float) -> None:
    """Nothing negative; what is told of durations lies between what the job took and what we waited."""
    assert not negative_numbers(document), document
    for key in ("seconds", "execution_seconds"):
        assert document.get(key) is None or least <= document[key] <= most, document


def test_the_jumping_clock_jumps(run: Runner) -> None:
    """The tool of this file itself, as an ordinary process sees it."""
    import subprocess

    code = "import time; a = time.time(); time.sleep(0.3); print(time.time() - a)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**run.environment, "PYTHONPATH": str(CLOCK), "CLOCK_JUMPS": "0.2:7200"}).stdout  # fmt: skip
    assert 7199 < float(said) < 7300


def commands(job: str) -> dict[str, list[object]]:
    return {
        "run": ["run_workflow.py", "graph.json", "--output-dir", "out", "--timeout", "30", "--receipt"],
        "resume": ["run_workflow.py", "--resume", job, "--output-dir", "out", "--timeout", "30"],
        "wait": ["manage_queue.py", "wait", job, "--output-dir", "out", "--timeout", "30"],
        "monitor": ["ws_monitor.py", "--prompt-id", job, "--timeout", "30"],
        "batch": ["run_batch.py", "graph.json", "--count", "2", "--output-dir", "out", "--no-report", "--run-timeout", "20"],
    }  # fmt: skip


@pytest.mark.parametrize("api", ["local", pytest.param("cloud", marks=pytest.mark.slow), pytest.param("v2", marks=pytest.mark.slow)])  # fmt: skip
@pytest.mark.parametrize(
    "jumps", [BOTH, pytest.param(FORWARD, marks=pytest.mark.slow), pytest.param(BACK, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("how", ["run", "resume", "wait", "monitor", "batch"])
def test_a_clock_that_jumps_here_changes_nothing(
    forks: Forks, benches: dict[str, Bench], how: str, jumps: str, api: str
) -> None:
    bench = benches[api]
    bench.ready()
    (forks.folder / "graph.json").write_text(json.dumps(graphs.sleeper(1.0, 4)))
    job = ""
    if how in ("resume", "wait", "monitor"):
        job = forks("run_workflow.py", "graph.json", "--no-wait", *bench.words(forks.folder)).json[
            "prompt_id"
        ]
    script, *words = commands(job)[how]
    ran = forks(str(script), *words, *bench.words(forks.folder), before=jumping(jumps))
    assert (ran.code, ran.json["status"], ran.json.get("code")) == HERE["clock"][1:], ran.out
    assert len(bench.executions()) == (2 if how == "batch" else 1)
    assert ran.seconds < 60
    sane(ran.json, 0.0 if job else 0.9, ran.seconds + 3)
    if how == "run":
        receipt = json.loads(Path(ran.json["receipt"]).read_text())
        sane(receipt, 0.9, ran.seconds)


@pytest.mark.parametrize("jumps", [FORWARD, BACK])
@pytest.mark.parametrize("how", ["run", "monitor"])
def test_a_time_limit_is_kept_while_the_clock_jumps(
    forks: Forks, benches: dict[str, Bench], how: str, jumps: str
) -> None:
    """Neither at once, since hours seem to have passed, nor hours too late."""
    bench = benches["local"]
    bench.ready()
    (forks.folder / "graph.json").write_text(json.dumps(graphs.sleeper(90, 45)))
    job = "00000000-0000-4000-8000-00000000c10c"
    if how == "monitor":
        forks("run_workflow.py", "graph.json", "--no-wait", "--prompt-id", job, *bench.words(forks.folder))
    script, *words = commands(job)[how]
    words[words.index("--timeout") + 1] = "1.2"
    ran = forks(str(script), *words, *bench.words(forks.folder), before=jumping(jumps))
    assert (ran.code, ran.json["code"]) == (5, "still_running"), ran.out
    assert 1.1 < ran.seconds < 30
    bench.demo.post("/interrupt", {})


@pytest.mark.parametrize("jumps", [f"0:{-7 * HOUR}", f"0:{7 * HOUR}"])
def test_a_lost_submit_is_found_again_whatever_the_clocks_say(
    forks: Forks, benches: dict[str, Bench], jumps: str
) -> None:
    """The cloud knows only when a job was made by its own clock; a job that is not found would be paid for twice."""
    bench = benches["cloud"]
    method, path = ROLES["submit"]["cloud"]
    bench.ready(Fault("lost", path=path, method=method, times=1))
    (forks.folder / "graph.json").write_text(json.dumps(graphs.picture()))
    ran = forks(
        "run_workflow.py",
        "graph.json",
        "--output-dir",
        "out",
        *bench.words(forks.folder),
        before=jumping(jumps),
    )
    assert (ran.code, ran.json["status"]) == (0, "success"), ran.out
    assert len(bench.executions()) == 1


def test_a_job_that_keeps_for_an_hour_has_not_expired_because_our_clock_is_ahead(forks: Forks) -> None:
    from datetime import datetime, timedelta, timezone

    (forks.folder / "graph.json").write_text(json.dumps(graphs.picture()))
    with running(Hosted()) as hosted:
        hosted.script = ["queued", "expired", "running", "succeeded"]
        hosted.more = {"expires_at": (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()}
        ran = forks("run_workflow.py", "graph.json", "--host", hosted.url, "--api", "v2", "--output-dir", "out",
                    before=jumping(f"0:{3 * HOUR}"))  # fmt: skip
    assert (ran.code, ran.json["status"]) == (0, "success"), ran.out


WRONG = [(-30, 0), (30, 0), (0, 9)]


@pytest.mark.parametrize(
    ("cloud", "before", "after"),
    # The cloud double hides a job that was made in its future, so its clock is not set back.
    [(False, *hours) for hours in [*WRONG, (0, -9)]]
    + [pytest.param(True, *hours, marks=pytest.mark.slow) for hours in WRONG],
)
def test_a_servers_clock_that_is_hours_off_or_jumps_in_mid_run(
    forks: Forks, wrong_demo: Any, cloud: bool, before: int, after: int
) -> None:
    """`before`: hours by which it is wrong; `after`: from the middle of the job on."""
    own = ["--cloud", "--tier", "creator", "--api-key", "k-5d1e7"] if cloud else []
    wrong = forks.folder / "wrong"
    wrong.write_text(str(before * HOUR))
    demo = wrong_demo(wrong, *own)
    words: list[object] = (
        ["--host", demo.url, "--api", "cloud", "--api-key", "k-5d1e7"] if cloud else ["--host", demo.url]
    )
    (forks.folder / "graph.json").write_text(json.dumps(graphs.sleeper(5 if after else 1.2, 10)))
    jumper = threading.Thread(target=jump_in_mid_run, args=(demo, wrong, after * HOUR))
    if after:
        jumper.start()
    ran = forks("run_workflow.py", "graph.json", "--output-dir", "out", "--receipt", *words)
    assert (ran.code, ran.json["status"], ran.json.get("code")) == HERE["clock"][1:], ran.out
    assert ("execution_seconds" in ran.json) == (not after), ran.out
    sane(ran.json, 1.1, ran.seconds)
    sane(json.loads(Path(ran.json["receipt"]).read_text()), 1.1, ran.seconds)
    if after:
        jumper.join()
    else:
        batch = forks(
            "run_batch.py", "graph.json", "--count", "2", "--output-dir", "b", "--no-report", *words
        )
        assert batch.code == 0 and not negative_numbers(batch.json), batch.out
        assert all(row["seconds_each"] < ran.seconds + 5 for row in batch.json["hosts"])
    for script in (
        ["fetch_logs.py", ran.json["prompt_id"]],
        ["fetch_logs.py", "--list"],
        ["manage_queue.py", "jobs"],
    ):
        told = forks(*script, *words)
        assert told.code == 0 and not negative_numbers(told.json), told.out


def jump_in_mid_run(demo: Demo, wrong: Path, seconds: int) -> None:
    """Set the server's clock once a job runs."""
    end = time.monotonic() + 60
    while time.monotonic() < end and not demo.get("/demo/state")["running"]:
        time.sleep(0.02)
    time.sleep(0.3)
    (wrong.parent / "new").write_text(str(seconds))
    (wrong.parent / "new").replace(wrong)


@pytest.mark.parametrize("hours", [-30, 30])
def test_how_long_a_job_waits_is_told_by_the_servers_own_clock(
    forks: Forks, wrong_demo: Any, hours: int
) -> None:
    (forks.folder / "wrong").write_text(str(hours * HOUR))
    demo = wrong_demo(forks.folder / "wrong")
    demo.fault("paused")
    for _ in range(2):
        demo.post("/prompt", {"prompt": graphs.picture(), "client_id": "x"})
    time.sleep(1.1)
    listed = forks("manage_queue.py", "list", "--host", demo.url)
    waits = [row["waiting_seconds"] for row in listed.json["jobs"]["items"]]
    assert len(waits) == 2 and all(0 <= wait < 60 for wait in waits), listed.out
    demo.fault()


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")
def test_a_clock_that_libfaketime_sets_back_in_mid_run(run: Runner, demo: Demo, graph_file: Any) -> None:
    """The same with the system's own calls changed under Python: all that asks for the time of day is misled."""
    wrong = run.folder / "time"
    wrong.write_text("+0")
    process = run.start(
        "run_workflow.py", graph_file(graphs.sleeper(2.0, 8)), "--host", demo.url, "--output-dir", "out", "--timeout", "30",
        env={"LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(wrong), "FAKETIME_NO_CACHE": "1",
             "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
    )  # fmt: skip
    try:
        for offset in ("+6h", "-12h"):
            time.sleep(0.9)
            wrong.write_text(offset)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
    ran = Ran(process.returncode, out, err)
    assert (ran.code, ran.json["status"]) == (0, "success"), ran.out + ran.err
    sane(ran.json, 1.9, 60)
