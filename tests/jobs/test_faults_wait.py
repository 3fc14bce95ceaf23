"""Waiting for a job and watching it, on each protocol: `run --resume`, `manage_queue wait`, `ws_monitor`; rows of `fault_rows`."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import graphs
from fault_bench import Bench
from fault_rows import (
    ALWAYS,
    BRISK,
    HASTY,
    SPARED,
    WAITING,
    WaitRow,
    answers,
    passes,
    patience,
    reconnect_time,
)
from fault_table import ROLES
from flaky import Fault
from zygote import Finished, Forks, Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the quick runner forks")


@pytest.fixture
def forks(tmp_path: Path, zygote: Zygote) -> Forks:
    return Forks(tmp_path, zygote)


def strike(bench: Bench, role: str, given: dict[str, Any]) -> None:
    """Put a fault in place without forgetting what has been submitted."""
    if role == "server":
        bench.demo.fault(given["spec"])
        return
    method, path = ROLES[role][bench.api]
    bench.relay.reset(Fault(path=path, method=method, unless=SPARED, **given))


def submitted(forks: Forks, bench: Bench, graph: Any) -> str:
    """A job that another process submitted."""
    path = forks.folder / "graph.json"
    path.write_text(json.dumps(graph))
    ran = forks("run_workflow.py", path, "--no-wait", *bench.words(forks.folder))
    assert ran.code == 0, ran.out
    prompt_id: str = ran.json["prompt_id"]
    return prompt_id


def followed(forks: Forks, bench: Bench, how: str, job: str, fault: dict[str, Any]) -> Finished:
    """Wait for it in one of three ways; without a socket every look goes to the job's record."""
    words: dict[str, list[object]] = {
        "resume": [
            "run_workflow.py",
            "--resume",
            job,
            "--output-dir",
            "out",
            "--reconnect-time",
            reconnect_time(fault),
            "--no-ws",
        ],
        "wait": ["manage_queue.py", "wait", job, "--output-dir", "out"],
        "monitor": ["ws_monitor.py", "--prompt-id", job, "--timeout", "60", "--no-ws"],
    }
    script, *rest = words[how]
    return forks(str(script), *rest, *bench.words(forks.folder), "--quiet", before=patience(fault))


def params() -> list[Any]:
    return [
        pytest.param(
            api,
            how,
            row,
            id=f"{api}-{how}-{row.what}",
            marks=[pytest.mark.slow] if row.slow or slower else [],
        )
        for row in WAITING
        for api in row.apis
        for how in row.hows
        # One way on each protocol in every run, all nine combinations with -m slow.
        for slower in [how != {"local": "monitor", "cloud": "resume", "v2": "wait"}[api]]
    ]


@pytest.mark.parametrize(("api", "how", "row"), params())
def test_the_matrix(forks: Forks, benches: dict[str, Bench], api: str, how: str, row: WaitRow) -> None:
    bench = benches[api]
    bench.ready()
    job = submitted(forks, bench, graphs.sleeper(0.0 if row.role == "file" else 0.9, 3))
    strike(bench, row.role, row.fault)
    ran = followed(forks, bench, how, job, row.fault)
    document = ran.json
    exit, status, code = row.expected(how)
    assert (ran.code, document["status"], document.get("code")) == (exit, status, code), ran.out + ran.err
    assert len(bench.executions()) == 1
    assert not list((forks.folder / "out").rglob("*.part"))
    assert ran.seconds < (45 if passes(row.fault) else 25)
    if exit == 0:
        assert how == "monitor" or len(list((forks.folder / "out").rglob("*.png"))) == 1
        return
    assert document["hint"] and document["message"]
    assert job in document["next"][0] or "jobs" in document["next"][0], ran.out
    if code == "lost":
        return
    # The command that it names brings the job home once the fault has passed.
    bench.relay.reset()
    time.sleep(0.5)
    python, script, *words = shlex.split(document["next"][0])
    assert python == sys.executable
    key = ["--api-key-file", "key"] if api == "cloud" else []
    again = forks(Path(script).name, *words, *key)
    assert (again.code, again.json["status"]) == (0, "success"), again.out
    assert len(bench.executions()) == 1


@pytest.mark.parametrize("socket", ["--ws", "--no-ws"])
def test_a_cloud_job_that_has_no_record_is_lost_from_sight_not_cancelled(
    forks: Forks, benches: dict[str, Bench], socket: str
) -> None:
    """Every look answers 404, while the job runs to its end. With a socket its end is heard all the same."""
    bench = benches["cloud"]
    bench.ready()
    strike(bench, "record", answers(404))
    path = forks.folder / "graph.json"
    path.write_text(json.dumps(graphs.picture()))
    ran = forks("run_workflow.py", path, *bench.words(forks.folder), socket, "--output-dir", "out",
                before=f"{BRISK}{HASTY}watch.HISTORY_PATIENCE = 2.0; cloud.Cloud.grace = 4.0")  # fmt: skip
    assert len(bench.executions()) == 1
    document = ran.json
    if socket == "--ws":
        assert (ran.code, document["status"], len(document["outputs"])) == (0, "success", 1), ran.out
        return
    assert (ran.code, document["status"], document["code"]) == (1, "lost", "lost"), ran.out
    assert document["retryable"] is False and "not known" in document["message"]
    [command] = document["next"]
    assert document["prompt_id"] in command
    bench.relay.reset()
    _, script, *words = shlex.split(command)
    again = forks(Path(script).name, *words, "--api-key-file", "key")
    assert again.code == 0 and len(again.json["outputs"]) == 1, again.out
    assert len(bench.executions()) == 1


@pytest.mark.parametrize(("api", "how"), [("local", "resume"), ("cloud", "monitor"), ("v2", "wait")])
def test_a_server_that_accepts_and_never_answers_is_given_up(
    forks: Forks, benches: dict[str, Bench], api: str, how: str
) -> None:
    """The time limit that was given ends the wait, whatever a single answer may take (a minute)."""
    bench = benches[api]
    bench.ready()
    job = submitted(forks, bench, graphs.sleeper(0.2))
    strike(bench, "record", {"act": "hang"})
    words: dict[str, list[object]] = {
        "resume": ["run_workflow.py", "--resume", job, "--timeout", "2"],
        "wait": ["manage_queue.py", "wait", job, "--timeout", "2"],
        "monitor": ["ws_monitor.py", "--prompt-id", job, "--timeout", "2"],
    }
    script, *rest = words[how]
    ran = forks(str(script), *rest, *bench.words(forks.folder), timeout=60)
    # The monitor has heard the server on its socket, the others have heard nothing yet.
    expected = (5, "still_running") if how == "monitor" else (3, "unreachable")
    assert (ran.code, ran.json["code"]) == expected and ran.json["hint"], ran.out
    assert how != "monitor" or ran.json["next"]
    assert ran.seconds < 40


@pytest.mark.parametrize("api", ["local", "cloud", "v2"])
def test_nothing_there_at_all(forks: Forks, benches: dict[str, Bench], api: str) -> None:
    bench = benches[api]
    bench.ready()
    job = "00000000-0000-4000-8000-000000000000"
    bench.relay.down()
    for how in ("resume", "wait", "monitor"):
        ran = followed(forks, bench, how, job, {"times": ALWAYS})
        assert (ran.code, ran.json["code"], ran.json["retryable"]) == (3, "unreachable", True), ran.out
    path = forks.folder / "graph.json"
    path.write_text(json.dumps(graphs.picture()))
    for script, words in (("run_workflow.py", []), ("run_batch.py", ["--count", "2"])):
        ran = forks(script, path, *words, "--output-dir", "out", *bench.words(forks.folder))
        assert (ran.code, ran.json["code"]) == (3, "unreachable"), ran.out
    assert not (forks.folder / "out" / "batch.jsonl").exists()
