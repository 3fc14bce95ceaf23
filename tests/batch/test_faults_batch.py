"""The fault matrix for batches: each row of `fault_rows.BATCH` on each protocol, and what its `next` command then does."""

from __future__ import annotations

import json
import shlex
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

import graphs
from fault_bench import KEY, Bench
from fault_rows import BATCH, SOME, SPARED, BatchRow, patience, reconnect_time
from fault_table import ROLES
from flaky import Fault
from zygote import Finished, Forks, Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the quick runner forks")
RUNS = 3


@pytest.fixture
def forks(tmp_path: Path, zygote: Zygote) -> Forks:
    return Forks(tmp_path, zygote)


def param(api: str, row: BatchRow) -> Any:
    return pytest.param(api, row, id=f"{api}-{row.what}", marks=[pytest.mark.slow] if row.slow else [])


def prepared(bench: Bench, row: BatchRow) -> None:
    if row.role == "server":
        bench.ready(frames=row.fault["spec"])
        return
    method, path = ROLES[row.role][bench.api]
    bench.ready(Fault(path=path, method=method, unless=SPARED, **row.fault))


def begun(forks: Forks, bench: Bench, fault: dict[str, Any]) -> Finished:
    """A batch of three. Without a socket every end is read from a job's record."""
    path = forks.folder / "graph.json"
    path.write_text(json.dumps(graphs.sleeper(0.12, 1, seed=uuid.uuid4().int % 10**9)))
    return forks("run_batch.py", path, *bench.words(forks.folder), "--count", RUNS, "--output-dir", "out",
                 "--no-report", "--no-ws", "--quiet", "--reconnect-time", reconnect_time(fault), "--parallel", RUNS,
                 before=patience(fault))  # fmt: skip


def carried_on(forks: Forks, bench: Bench, command: str) -> Finished:
    """The command as the document gives it, with the key that it does not repeat."""
    python, script, *words = shlex.split(command)
    assert python == sys.executable
    key = ["--api-key-file", "key"] if bench.api == "cloud" else []
    return forks(Path(script).name, *words, *key, "--no-report", "--quiet")


def whole_files(folder: Path) -> list[Path]:
    """The pictures, each whole; nothing else but the journal lies in the folder."""
    files = [path for path in (folder / "out").rglob("*") if path.is_file()]
    pictures = [path for path in files if path.suffix == ".png"]
    assert {path.name for path in files} - {path.name for path in pictures} <= {"batch.jsonl", "batch.lock"}
    assert all(path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in pictures)
    return pictures


@pytest.mark.parametrize(("api", "row"), [param(api, row) for row in BATCH for api in row.apis])
def test_the_matrix(forks: Forks, benches: dict[str, Bench], api: str, row: BatchRow) -> None:
    bench = benches[api]
    prepared(bench, row)
    ran = begun(forks, bench, row.fault)
    document = ran.json
    exit, status, code, succeeded, runs = row.expected(api)
    assert (ran.code, document["status"]) == (exit, status), ran.out + ran.err
    assert document.get("code") in (code.split(" or ") if code else [None]), ran.out
    executions = bench.executions()
    assert document["succeeded"] == succeeded, ran.out
    assert len(executions) == runs or (runs == SOME and 1 <= len(executions) <= RUNS), ran.out
    assert document["succeeded"] + document["failed"] + document["not_run"] == RUNS
    assert len(executions) == len(set(executions))
    assert len(whole_files(forks.folder)) == succeeded
    assert KEY not in (forks.folder / "out" / "batch.jsonl").read_text()
    if exit == 0:
        assert "next" not in document
        return
    assert document["message"] and document["hint"] and isinstance(document["retryable"], bool)
    bench.relay.reset()
    for command in document["next"]:
        again = carried_on(forks, bench, command)
    assert (again.code, len(bench.executions())) == row.after, again.out
    assert len(whole_files(forks.folder)) == RUNS
