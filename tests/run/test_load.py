"""Load: many runs, many jobs, large files, several watchers; small by default, large with -m slow."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import graphs
from bundle import Demo, Runner
from zygote import Forks, Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the quick runner forks")
slow = pytest.mark.slow


@pytest.fixture
def forks(tmp_path: Path, zygote: Zygote) -> Forks:
    return Forks(tmp_path, zygote)


def batch(forks: Forks, demo: Demo, count: int, folder: str, timeout: float) -> Any:
    path = forks.folder / f"{folder}.json"
    path.write_text(json.dumps(graphs.picture(color=1, size=8)))
    sweep = f"1.color={count % 97}:{16_000_000}:1"
    return forks("run_batch.py", path, "--host", demo.url, "--output-dir", folder, "--sweep", sweep, "--limit", str(count),
                 "--no-report", "--quiet", timeout=timeout)  # fmt: skip


@pytest.mark.parametrize(
    ("few", "many", "seconds"), [(20, 200, 100), pytest.param(200, 10_000, 1500, marks=slow)]
)
def test_memory_does_not_grow_with_the_number_of_runs(
    forks: Forks, new_demo: Any, few: int, many: int, seconds: float
) -> None:
    demo = new_demo("--history-size", "500")
    small = batch(forks, demo, few, "few", 100)
    large = batch(forks, demo, many, "many", seconds)
    assert small.code == large.code == 0, large.out
    assert large.json["succeeded"] == many
    assert sum(1 for path in (forks.folder / "many").rglob("*.png")) == many
    print(
        f"{few} runs {small.peak_mb:.0f} MB, {many} runs {large.peak_mb:.0f} MB, {many / large.seconds:.0f} runs/s"
    )
    assert large.peak_mb < small.peak_mb + 8 + 0.003 * many


@pytest.mark.parametrize("waiting", [100, pytest.param(1000, marks=slow)])
def test_a_queue_of_many_jobs_is_listed_and_ours_runs_in_turn(
    forks: Forks, new_demo: Any, waiting: int
) -> None:
    demo = new_demo()
    demo.fault("paused")
    for number in range(waiting):
        demo.post("/prompt", {"prompt": graphs.picture(color=number, size=8), "client_id": "others"})
    listed = forks("manage_queue.py", "list", "--host", demo.url)
    assert listed.code == 0 and listed.json["pending"] == waiting
    assert len(listed.out) < 60_000 and listed.cpu_seconds < 8
    demo.fault()
    path = forks.folder / "w.json"
    path.write_text(json.dumps(graphs.picture()))
    ran = forks("run_workflow.py", path, "--host", demo.url, "--output-dir", "out", timeout=120)
    assert ran.code == 0 and len(ran.json["outputs"]) == 1


@pytest.mark.parametrize("megabytes", [64, pytest.param(20_000, marks=slow)])
def test_a_large_download_needs_no_memory(forks: Forks, new_demo: Any, megabytes: int) -> None:
    if shutil.disk_usage(forks.folder).free < (megabytes * 2 + 2000) << 20:
        pytest.skip("not enough room on this disk")
    demo = new_demo()
    inputs = {"size_mb": megabytes, "filename": "big.mp4", "subfolder": "", "sparse": True, "seed": 1}
    path = forks.folder / "w.json"
    path.write_text(json.dumps({"1": {"class_type": "DemoBigFile", "inputs": inputs}}))
    ran = forks(
        "run_workflow.py",
        path,
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--max-file-size",
        "30GB",
        timeout=600,
    )
    assert ran.code == 0, ran.out
    saved = Path(ran.json["outputs"][0]["file"])
    assert saved.stat().st_size == megabytes << 20
    saved.unlink()
    print(f"{megabytes} MB in {ran.seconds:.1f} s, {ran.peak_mb:.0f} MB of memory")
    assert ran.peak_mb < 90


@pytest.mark.parametrize("classes", [2_000, pytest.param(25_000, marks=slow)])
def test_large_node_definitions(forks: Forks, new_demo: Any, classes: int) -> None:
    """25,000 classes are about 50 MB; a run asks only for what it needs."""
    options = [f"option_{number}" for number in range(100)]
    one = {"input": {"required": {"value": [options, {}], "image": ["IMAGE"]}}, "output": ["IMAGE"], "output_is_list": [False],
           "output_name": ["IMAGE"], "name": "x", "display_name": "x", "description": "", "category": "x", "output_node": False}  # fmt: skip
    made = {f"Made{number}": {**one, "name": f"Made{number}"} for number in range(classes)}
    (forks.folder / "definitions.json").write_text(json.dumps(made))
    demo = new_demo("--definitions", str(forks.folder / "definitions.json"))
    path = forks.folder / "w.json"
    path.write_text(json.dumps(graphs.picture()))
    ran = forks("run_workflow.py", path, "--host", demo.url, "--set", "1.width=16", "--output-dir", "out")
    assert ran.code == 0 and ran.peak_mb < 90 and ran.cpu_seconds < 8
    asked = [entry["path"] for entry in demo.log() if "object_info" in entry["path"]]
    assert "/object_info" not in asked
    listed = forks("server_info.py", "nodes", "--search", "Made1", "--host", demo.url)
    assert listed.code == 0 and len(listed.out) < 100_000
    print(
        f"{classes} classes: run {ran.peak_mb:.0f} MB, list {listed.peak_mb:.0f} MB in {listed.seconds:.1f} s"
    )
    assert listed.peak_mb < 60 + 0.02 * classes


@pytest.mark.parametrize("megabytes", [20, pytest.param(200, marks=slow)])
def test_a_large_picture_is_read_for_its_workflow_alone(forks: Forks, megabytes: int) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))
    text = chunk(b"tEXt", b"prompt\x00" + json.dumps(graphs.picture()).encode())
    piece = chunk(b"IDAT", bytes(1 << 20))
    with (forks.folder / "large.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + head)
        for _ in range(megabytes):
            file.write(piece)
        file.write(text + chunk(b"IEND", b""))
    ran = forks("extract_schema.py", "large.png", "--offline")
    assert ran.code == 0, ran.out
    assert ran.peak_mb < 70 and ran.cpu_seconds < 4


def test_five_monitors_and_a_run_do_not_disturb_each_other(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    demo = new_demo()
    runner = run.start("run_workflow.py", graph_file(graphs.sleeper(4)), "--host", demo.url, "--output-dir", "out", "--prompt-id", graphs.job_id("watched"))  # fmt: skip
    end = time.monotonic() + 60
    while time.monotonic() < end and not demo.get("/queue")["queue_running"]:
        time.sleep(0.05)
    monitors = [
        run.start("ws_monitor.py", "--prompt-id", graphs.job_id("watched"), "--host", demo.url)
        for _ in range(5)
    ]
    for process in [runner, *monitors]:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert json.loads(out)["status"] == "success"
        assert "connection lost" not in err
    assert len(os.listdir(run.folder / "out")) == 1
