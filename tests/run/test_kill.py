"""kill -9 at any moment: a batch is killed again and again, resumed, and the server's log proves what ran."""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import graphs
from bundle import Demo, Runner

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")


def killed_often(
    run: Runner, demo: Demo, graph_file: Any, runs: int, kills: int, seed: int, nap: float = 0.25
) -> int:
    """A batch of `runs`, killed up to `kills` times at random instants, then let go to its end: how often it was killed."""
    chance = random.Random(seed)
    workflow = graph_file(graphs.sleeper(nap, 2, seed=500))
    common = ["--host", demo.url, "--no-report", "--quiet"]
    first = ["run_batch.py", workflow, "--output-dir", "out", "--count", runs, *common]
    again = ["run_batch.py", "--resume", "out", *common]
    struck = 0
    for number in range(kills):
        started = (run.folder / "out" / "batch.jsonl").exists()
        process = run.start(*(again if number and started else first))
        time.sleep(chance.uniform(0.15, 1.1))
        if process.poll() is not None:
            process.communicate()
            break
        process.kill()
        process.communicate()
        struck += 1
    done = run(*(again if (run.folder / "out" / "batch.jsonl").exists() else first), timeout=120)
    assert done.code == 0, done.out + done.err
    return struck


def executions(demo: Demo) -> Counter[int]:
    """How often the server has started each seed."""
    posted = [
        entry["json"] for entry in demo.log() if entry["method"] == "POST" and entry["path"] == "/prompt"
    ]
    seeds = {body["prompt_id"]: body["prompt"]["1"]["inputs"]["seed"] for body in posted}
    started = [item["prompt_id"] for item in demo.get("/demo/executions")["executions"] if item["event"] == "start"]  # fmt: skip
    return Counter(seeds[prompt_id] for prompt_id in started)


def proven(run: Runner, demo: Demo, runs: int) -> None:
    """Every run was started exactly once on the server, and has its one whole file; nothing else lies about."""
    assert executions(demo) == Counter(range(500, 500 + runs))
    files = [path for path in (run.folder / "out").rglob("*") if path.is_file() and path.suffix == ".png"]
    assert len(files) == runs
    assert all(path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in files)
    assert not list((run.folder / "out").rglob("*.part"))
    ends = Counter(item["run"] for item in journal(run.folder / "out") if item["event"] == "downloaded")
    assert set(ends) == set(range(runs))


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "batch.jsonl").read_bytes().split(b"\n")[:-1]]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_batch_killed_three_times_runs_everything_once(
    run: Runner, demo: Demo, graph_file: Any, seed: int
) -> None:
    assert killed_often(run, demo, graph_file, 10, 3, seed) >= 1
    proven(run, demo, 10)


def test_what_a_killed_batch_left_on_a_server_that_lost_it_runs_again_and_the_rest_does_not(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    workflow = graph_file(graphs.sleeper(0.2, 2, seed=500))
    words = ["run_batch.py", workflow, "--output-dir", "out", "--count", 8]
    process = run.start(*words, "--host", demo.url, "--no-report", "--quiet")
    end = time.monotonic() + 60
    path = run.folder / "out" / "batch.jsonl"
    while not (path.exists() and path.read_bytes().count(b'"downloaded"') >= 2):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    at_home = {item["run"] for item in journal(run.folder / "out") if item["event"] == "downloaded"}
    before = executions(demo)
    demo.post("/demo/restart")
    # A real restart ends the run under way at once; here it ends at its next step, and its id must not be met again before.
    while demo.get("/demo/state")["running"]:
        assert time.monotonic() < end
        time.sleep(0.01)
    done = run("run_batch.py", "--resume", "out", "--host", demo.url, "--no-report", "--quiet")
    assert done.code == 0, done.out
    again = executions(demo) - before
    assert set(again) == set(range(500, 508)) - {500 + number for number in at_home}
    assert set(again.values()) == {1}
    assert len(list((run.folder / "out").rglob("*.png"))) == 8


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_batch_of_30_killed_up_to_30_times(run: Runner, demo: Demo, graph_file: Any, seed: int) -> None:
    """Naps of a second, so that there is something left to kill each time."""
    assert killed_often(run, demo, graph_file, 30, 30, 100 + seed, nap=1.0) >= 20
    proven(run, demo, 30)


def test_a_run_killed_while_downloading_leaves_no_file_under_its_name_and_resumes(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    """What is left of it is a hidden .part; the final name appears whole or not at all."""
    inputs = {"size_mb": 6, "filename": "big.bin", "subfolder": "", "sparse": True, "seed": 1}
    workflow = graph_file({"1": {"class_type": "DemoBigFile", "inputs": inputs}})
    demo.fault("slow-body:route=/view,rate=4000000")
    process = run.start(
        "run_workflow.py",
        workflow,
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--prompt-id",
        graphs.job_id("big"),
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and not list((run.folder / "out").glob(".*.part")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not list((run.folder / "out").glob("big*"))
    demo.fault()
    again = run(
        "run_workflow.py", "--resume", graphs.job_id("big"), "--host", demo.url, "--output-dir", "out"
    )
    assert again.code == 0
    assert (run.folder / "out" / "big.bin").stat().st_size == 6 << 20
    assert not list((run.folder / "out").rglob("*.part"))


def test_half_files_of_the_dead_are_removed_and_those_of_the_living_are_not(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    """One process downloads into a folder, another was killed there, a third one comes and goes."""
    out = run.folder / "out"
    inputs = {"size_mb": 6, "filename": "big.bin", "subfolder": "", "sparse": True, "seed": 1}
    workflow = graph_file({"1": {"class_type": "DemoBigFile", "inputs": inputs}})
    demo.fault("slow-body:route=/view,rate=500000")
    words = ["--host", demo.url, "--output-dir", "out"]

    def started(count: int) -> Any:
        process = run.start("run_workflow.py", workflow, *words)
        end = time.monotonic() + 60
        while time.monotonic() < end and len(list(out.glob(".*.part"))) < count:
            time.sleep(0.01)
        return process

    killed, alive = started(1), started(2)
    killed.kill()
    killed.communicate()
    assert len(list(out.glob(".*.part"))) == 2
    (out / "mine.part").write_bytes(b"the user's")
    (out / ".notes.part").write_bytes(b"the user's")
    demo.fault()
    done = run("run_workflow.py", graph_file(graphs.picture(), "other.json"), *words)
    assert done.code == 0, done.out
    left = {path.name for path in out.rglob("*.part")}
    assert {"mine.part", ".notes.part"} < left and len(left) == 3
    said, errors = alive.communicate(timeout=60)
    assert alive.returncode == 0, errors
    assert Path(json.loads(said)["outputs"][0]["file"]).stat().st_size == 6 << 20
    assert {path.name for path in out.rglob("*.part")} == {"mine.part", ".notes.part"}


def test_a_resumed_batch_removes_the_half_files_of_its_killed_self_and_no_others(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    words = [
        "run_batch.py",
        graph_file(graphs.sleeper(0.3, 2, seed=500)),
        "--output-dir",
        "out",
        "--count",
        4,
    ]
    process = run.start(*words, "--host", demo.url, "--no-report", "--quiet")
    out = run.folder / "out"
    end = time.monotonic() + 60
    while time.monotonic() < end and not (out / "run_0000").is_dir():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (out / "run_0000" / ".0123456789abcdef.part").write_bytes(b"half")
    (out / ".fedcba9876543210.part").write_bytes(b"half")
    (out / "run_0000" / "mine.part").write_bytes(b"the user's")
    done = run("run_batch.py", "--resume", "out", "--host", demo.url, "--no-report", "--quiet")
    assert done.code == 0, done.out
    assert [path.name for path in out.rglob("*.part")] == ["mine.part"]
