"""Batches that are stopped, killed, cut off: nothing runs twice because of us, nothing is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import graphs
from bundle import Demo, Runner
from queues import wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are tested on POSIX")


def submitted(demo: Demo) -> list[dict[str, Any]]:
    found = [entry for entry in demo.log() if entry["method"] == "POST" and entry["path"] == "/prompt"]
    return [entry["json"] for entry in found]


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / "batch.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [item for item in map(json.loads, lines) if item["event"] == name]


def begin(
    run: Runner, demo: Demo, graph_file: Any, count: int, *words: object, nap: float = 0.1
) -> subprocess.Popen[str]:
    workflow = graph_file(graphs.sleeper(nap, 2, seed=100))
    return run.start(
        "run_batch.py",
        workflow,
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--count",
        count,
        "--no-report",
        *words,
    )


def done(run: Runner, count: int) -> Any:
    return lambda: len(events(run.folder / "out", "downloaded")) >= count


def all_there(run: Runner, count: int) -> None:
    """Every run has its one file, whole."""
    for number in range(count):
        files = list((run.folder / "out" / f"run_{number:04d}").iterdir())
        assert len(files) == 1 and files[0].read_bytes().endswith(b"IEND\xaeB`\x82"), number


def seeds_run(demo: Demo) -> Counter[int]:
    """How often each seed really finished on the server."""
    entries = demo.get("/history").values()
    good = [entry for entry in entries if entry["status"]["status_str"] == "success"]
    return Counter(entry["prompt"][2]["1"]["inputs"]["seed"] for entry in good)


@pytest.mark.parametrize("after", [0, 3])
def test_kill_9_and_resume_runs_nothing_twice_and_misses_nothing(
    run: Runner, demo: Demo, graph_file: Any, after: int
) -> None:
    process = begin(run, demo, graph_file, 12)
    wait_for(done(run, after) if after else lambda: submitted(demo))
    process.kill()
    process.communicate()
    known = len(events(run.folder / "out", "downloaded"))
    resumed = run("run_batch.py", "--resume", "out")
    assert resumed.code == 0, resumed.out
    assert resumed.json["done_before"] == known if known else "done_before" not in resumed.json
    assert Counter(item["prompt"]["1"]["inputs"]["seed"] for item in submitted(demo)) == Counter(
        range(100, 112)
    )
    assert seeds_run(demo) == Counter(range(100, 112))
    all_there(run, 12)


def test_runs_that_finished_while_nobody_watched_are_downloaded(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    process = begin(run, demo, graph_file, 4)
    wait_for(lambda: len(submitted(demo)) == 4)
    process.kill()
    process.communicate()
    wait_for(lambda: len(demo.get("/history")) == 4)
    assert run("run_batch.py", "--resume", "out").code == 0
    assert len(submitted(demo)) == 4
    all_there(run, 4)


def test_a_server_under_another_name_of_this_machine_is_the_same_server(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    process = begin(run, demo, graph_file, 4)
    wait_for(lambda: len(submitted(demo)) == 4)
    process.kill()
    process.communicate()
    other = demo.url.replace("127.0.0.1", "localhost")
    resumed = run("run_batch.py", "--resume", "out", "--host", other, "--host", demo.url)
    assert resumed.code == 0, resumed.out
    assert [row["host"] for row in resumed.json["hosts"]] == [other]
    assert "left_behind" not in resumed.json and "moved" not in resumed.json
    assert len(submitted(demo)) == 4
    all_there(run, 4)


def test_a_server_that_takes_no_run_is_told_at_once_and_given_up_in_the_end(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    demo = new_demo("--fault", "429:times=1000,retry_after=0")
    ran = run(
        "run_batch.py", graph_file(graphs.sleeper(0.05, 2)), "--host", demo.url, "--output-dir", "out", "--count", 3,
        "--reconnect-time", "0.2", "--no-report",
    )  # fmt: skip
    assert (ran.code, ran.json["status"], ran.json["code"]) == (1, "partial", "busy"), ran.out
    assert ran.json["retryable"] and "--resume" in ran.json["next"][0] and ran.json["not_run"] == 3
    assert "accepts no run now" in ran.err
    demo.fault()
    assert run("run_batch.py", "--resume", "out", "--no-report").json["succeeded"] == 3


def test_a_torn_last_line_is_survived(run: Runner, demo: Demo, graph_file: Any) -> None:
    process = begin(run, demo, graph_file, 6)
    wait_for(done(run, 2))
    process.kill()
    process.communicate()
    with (run.folder / "out" / "batch.jsonl").open("ab") as file:
        file.write(b'{"event":"finished","run":5,"prom')
    resumed = run("run_batch.py", "--resume", "out")
    assert resumed.code == 0, resumed.out
    for line in (run.folder / "out" / "batch.jsonl").read_text().splitlines():
        json.loads(line)
    assert seeds_run(demo) == Counter(range(100, 106))
    all_there(run, 6)


@pytest.mark.parametrize(
    ("event", "key", "value"),
    [
        ("plan", "made", "zz"),
        ("plan", "count", 3),
        ("submit", "attempt", "zz"),
        ("submit", "host", 5),
        ("submit", "prompt_id", ["x"]),
        ("downloaded", "files", 5),
        ("end", "seconds", "zz"),
    ],
)
def test_a_journal_that_was_changed_by_hand_is_refused(
    run: Runner, demo: Demo, graph_file: Any, event: str, key: str, value: Any
) -> None:
    assert begin(run, demo, graph_file, 2).wait() == 0
    path = run.folder / "out" / "batch.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    next(line for line in lines if line["event"] == event)[key] = value
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for flag in ("--resume", "--report"):
        ran = run("run_batch.py", flag, "out")
        assert (ran.code, ran.json["code"]) == (2, "no_batch"), ran.out
    assert len(submitted(demo)) == 2


@pytest.mark.parametrize("left", ["", '{"event":"plan","version":1,"ma'])
def test_a_batch_that_died_before_its_plan_was_written_is_no_obstacle(
    run: Runner, demo: Demo, graph_file: Any, left: str
) -> None:
    (run.folder / "out").mkdir()
    (run.folder / "out" / "batch.jsonl").write_text(left)
    words = ["--host", demo.url, "--output-dir", "out", "--count", 1, "--no-report"]
    ran = run("run_batch.py", graph_file(graphs.picture()), *words)
    assert ran.code == 0, ran.out
    assert run("run_batch.py", "--resume", "out", "--no-report").json["done_before"] == 1
    assert run("run_batch.py", graph_file(graphs.picture()), *words).json["code"] == "folder_in_use"


def test_lines_lost_to_a_power_cut_do_not_run_anything_twice(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    process = begin(run, demo, graph_file, 8, nap=0.2)
    wait_for(lambda: len(submitted(demo)) >= 4)
    process.kill()
    process.communicate()
    path = run.folder / "out" / "batch.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))  # the plan and the first submit reached the disk, the rest did not
    assert run("run_batch.py", "--resume", "out").code == 0
    assert Counter(item["prompt"]["1"]["inputs"]["seed"] for item in submitted(demo)) == Counter(
        range(100, 108)
    )
    all_there(run, 8)


def test_a_second_process_is_refused_and_a_dead_ones_lock_is_no_obstacle(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    process = begin(run, demo, graph_file, 400)
    wait_for(done(run, 1))
    second = run("run_batch.py", "--resume", "out")
    assert (second.code, second.json["code"]) == (2, "locked")
    assert str(process.pid) in second.json["message"]
    process.kill()
    process.communicate()
    assert (run.folder / "out" / ".batch.lock").exists()
    known = len(events(run.folder / "out", "downloaded"))
    stopped = run.start("run_batch.py", "--resume", "out", "--no-report")
    wait_for(done(run, known + 1))
    stopped.send_signal(signal.SIGINT)
    assert json.loads(stopped.communicate(timeout=60)[0])["code"] == "interrupted"


def test_ctrl_c_cancels_ours_alone_and_says_how_to_go_on(run: Runner, demo: Demo, graph_file: Any) -> None:
    process = begin(run, demo, graph_file, 30)
    wait_for(done(run, 2))
    foreign = demo.post("/prompt", {"prompt": graphs.sleeper(0.2, 2), "client_id": "other"})["prompt_id"]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    document = json.loads(out)
    assert process.returncode == 130 and "Traceback" not in err
    assert (document["status"], document["code"]) == ("cancelled", "interrupted")
    assert document["succeeded"] >= 2 and document["succeeded"] + document["not_run"] == 30
    assert str(document["succeeded"]) in document["message"]
    assert "--resume" in document["hint"]
    assert "--resume" in document["next"][0]
    waiting = [item[1] for key in ("queue_running", "queue_pending") for item in demo.get("/queue")[key]]
    assert set(waiting) <= {foreign}
    wait_for(lambda: foreign in demo.get("/history"))
    resumed = run("run_batch.py", "--resume", "out", "--no-report")
    assert resumed.code == 0, resumed.out
    mine = seeds_run(demo)
    assert all(mine[seed] == 1 for seed in range(100, 130))
    all_there(run, 30)


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_the_pages_are_made_leaves_the_report_of_the_runs(
    run: Runner, demo: Demo, graph_file: Any, tmp_path: Path, signal_: signal.Signals
) -> None:
    """A slow ffmpeg stands for pages that take their time."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ffmpeg").write_text("#!/bin/sh\ntouch started\nexec sleep 9\n")
    (tools / "ffmpeg").chmod(0o755)
    first = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out", "--count", 1
    )
    path = run.folder / "out" / "batch.jsonl"
    path.write_text(path.read_text().replace('"type":"image"', '"type":"video"'))
    process = run.start(
        "run_batch.py", "--resume", "out", env={"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    )
    wait_for(lambda: (run.folder / "started").exists())
    process.send_signal(signal_)
    out, _ = process.communicate(timeout=20)
    document = json.loads(out)
    assert (first.code, document["status"], document["done_before"]) == (0, "success", 1), out
    assert "--report" in document["report_problem"]


def test_sigterm_answers_at_once_and_leaves_the_jobs(run: Runner, demo: Demo, graph_file: Any) -> None:
    process = begin(run, demo, graph_file, 6, nap=0.8)
    wait_for(done(run, 1))
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    document = json.loads(out)
    assert len(document["prompt_ids"]["items"]) >= 1 and demo.get("/queue")["queue_running"]
    assert time.monotonic() - asked < 4, "the five runs that were left take longer"
    assert process.returncode == 5 and document["code"] == "still_running" and "Traceback" not in err
    assert document["prompt_ids"]["count"] >= 1
    assert run("run_batch.py", "--resume", "out").code == 0
    assert seeds_run(demo) == Counter(range(100, 106))


def paid_graph() -> dict[str, Any]:
    """The partner node is paid for; then something that takes a while, and may fail."""
    return {
        "1": {"class_type": "DemoPartner", "inputs": {"prompt": "a fox", "seed": 1}},
        "2": {"class_type": "DemoSleep", "inputs": {"seconds": 0.3, "steps": 3, "seed": 1}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "paid"}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "slept"}},
    }


@pytest.mark.parametrize(
    "fault",
    ["fail:node=DemoSleep,kind=ConnectionError,message=timed out,times=1", "restart:at=start,down=300"],
)
def test_no_run_with_a_partner_node_is_submitted_twice(
    run: Runner, demo: Demo, graph_file: Any, fault: str
) -> None:
    demo.fault(fault)
    words = ("run_batch.py", graph_file(paid_graph()), "--host", demo.url, "--output-dir", "out", "--yes-spend",
             "--partner-key", "comfyui-partner")  # fmt: skip
    ran = run(*words, "--count", 3, "--randomize-seed", "--retries", 2, "--parallel", 1, timeout=60)
    sent = [entry for entry in demo.log() if (entry["method"], entry["path"]) == ("POST", "/prompt")]
    assert (ran.code, ran.json["succeeded"], ran.json["failed"]) == (1, 2, 1)
    assert len(sent) == 3
    again = run("run_batch.py", "--resume", "out", "--retry-failed", "--yes-spend", "--partner-key", "comfyui-partner",
                "--host", demo.url, timeout=60)  # fmt: skip
    assert (again.code, again.json["run_states"]) == (0, {"success": 3}), again.out


def test_a_restarted_server_gets_its_lost_runs_again(run: Runner, demo: Demo, graph_file: Any) -> None:
    process = begin(run, demo, graph_file, 10)
    wait_for(done(run, 3))
    demo.fault("restart:at=start,down=300")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    all_there(run, 10)
    lost = {item["run"] for item in events(run.folder / "out", "lost")}
    assert lost and json.loads(out)["resubmitted"] == len(lost)


def test_runs_that_a_server_lost_between_two_sessions_are_counted(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    process = begin(run, demo, graph_file, 8)
    wait_for(done(run, 2))
    process.kill()
    process.communicate()
    demo.post("/demo/reset")  # its queue and its history are gone
    demo.post("/demo/log/clear")
    before = len(events(run.folder / "out", "submit")) - len(events(run.folder / "out", "finished"))
    ran = run("run_batch.py", "--resume", "out")
    assert (ran.code, ran.json["resubmitted"]) == (0, before), ran.out
    again = run("run_batch.py", "--resume", "out")
    assert again.code == 0 and "resubmitted" not in again.json


def test_a_server_that_goes_away_ends_with_what_is_there_and_resumes_elsewhere(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    first = new_demo("--step-time", "0.005")
    process = begin(run, first, graph_file, 20, "--reconnect-time", 2)
    wait_for(done(run, 3))
    first.stop()
    out, err = process.communicate(timeout=60)
    document = json.loads(out)
    assert process.returncode == 1 and document["code"] == "server_gone", out
    assert document["succeeded"] >= 3 and "Traceback" not in err
    second = new_demo("--step-time", "0.005")
    resumed = run("run_batch.py", "--resume", "out", "--host", second.url)
    assert resumed.code == 0, resumed.out
    all_there(run, 20)


def test_files_left_on_a_server_that_is_gone_are_made_again_not_taken_from_another(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    """The other server has files of the same names, which belong to other runs."""
    from PIL import Image

    first, second = new_demo(), new_demo()
    first.fault("status:route=/view,code=500,times=2")
    words = ["--output-dir", "out", "--sweep", "1.color=255:257:1", "--no-report"]
    ran = run("run_batch.py", graph_file(graphs.picture()), "--host", first.url, *words)
    assert (ran.code, ran.json["failed"]) == (1, 2), ran.out
    other = graphs.picture()
    for number in range(3):
        other["1"]["inputs"]["color"] = 0xFF00F0 + number
        second.post("/prompt", {"prompt": other})
        wait_for(lambda number=number: len(second.get("/history")) == number + 1)
    first.stop()
    ran = run("run_batch.py", "--resume", "out", "--host", second.url)
    assert ran.code == 0, ran.out
    assert [item["prompt"]["1"]["inputs"]["color"] for item in submitted(second)][3:] == [255, 256]
    for number in range(3):
        (path,) = (run.folder / "out" / f"run_{number:04d}").iterdir()
        with Image.open(path) as picture:
            red = picture.convert("RGB").getpixel((0, 0))[0]
        assert red < 255, "another run's file"


@pytest.mark.parametrize("way", ["table", "sweep", "set", "input-image"])
def test_a_resume_from_another_folder_finds_the_input_files(
    run: Runner, demo: Demo, graph_file: Any, way: str
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8), (9, 9, 9)).save(run.folder / "own.png")
    (run.folder / "t.csv").write_text("image\nown.png\n")
    words = {
        "table": ["--table", "t.csv"], "sweep": ["--sweep", "image=own.png"],
        "set": ["--set", "image=own.png", "--count", "1"], "input-image": ["--input-image", "image=own.png", "--count", "1"],
    }[way]  # fmt: skip
    ran = run("run_batch.py", graph_file(graphs.photo()), "--host", demo.url, "--output-dir", "out", *words)
    assert ran.code == 0, ran.out
    path = run.folder / "out" / "batch.jsonl"
    line = json.loads(path.read_bytes().splitlines()[0])
    line["plan"]["key"] = str(uuid.uuid4())  # so that the server's first run is not found again
    path.write_text(json.dumps(line) + "\n")
    (run.folder / "elsewhere").mkdir()
    resumed = Runner(run.folder / "elsewhere", run.zygote)(
        "run_batch.py", "--resume", run.folder / "out", "--no-report"
    )
    assert (resumed.code, resumed.json["files"]) == (0, 1), resumed.out


def test_a_changed_workflow_is_refused(run: Runner, demo: Demo, graph_file: Any) -> None:
    process = begin(run, demo, graph_file, 20)
    wait_for(done(run, 1))
    process.kill()
    process.communicate()
    graph_file(graphs.sleeper(0.05, 2, seed=7))
    before = len(submitted(demo))
    ran = run("run_batch.py", "--resume", "out")
    assert (ran.code, ran.json["code"]) == (2, "workflow_changed")
    assert len(submitted(demo)) == before
    (run.folder / "graph.json").unlink()
    assert run("run_batch.py", "--resume", "out").code == 0


def test_resuming_a_complete_batch_does_nothing(run: Runner, demo: Demo, graph_file: Any) -> None:
    process = begin(run, demo, graph_file, 3)
    process.communicate(timeout=60)
    before = len(submitted(demo))
    ran = run("run_batch.py", "--resume", "out")
    assert ran.code == 0 and ran.json["done_before"] == 3
    assert (ran.json["runs"], ran.json["succeeded"]) == (3, 3)
    assert len(submitted(demo)) == before


def test_a_lost_answer_to_a_submit_is_not_a_second_run(run: Runner, demo: Demo, graph_file: Any) -> None:
    demo.fault("answer-lost:times=3")
    process = begin(run, demo, graph_file, 6)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert seeds_run(demo) == Counter(range(100, 106))


def test_a_dropped_socket_loses_nothing(run: Runner, demo: Demo, graph_file: Any) -> None:
    demo.fault("drop-socket:frames=9,times=3")
    process = begin(run, demo, graph_file, 10)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert seeds_run(demo) == Counter(range(100, 110))
    all_there(run, 10)


def test_files_that_could_not_be_fetched_are_fetched_by_resume(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    demo.fault("status:route=/view,code=500,times=1")
    process = begin(run, demo, graph_file, 3)
    out, _ = process.communicate(timeout=60)
    demo.fault()
    assert process.returncode == 1, out
    assert json.loads(out)["failures"]["items"][0]["status"] == "download_failed"
    ran = run("run_batch.py", "--resume", "out")
    assert ran.code == 0, ran.out
    assert len(submitted(demo)) == 3
    all_there(run, 3)


def test_the_journal_holds_no_key(run: Runner, new_demo: Any, graph_file: Any) -> None:
    key = "comfyui-canary-key-424242"
    cloud = new_demo("--cloud", "--api-key", key)
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", cloud.url, "--output-dir", "out", "--count", 2,
        "--api-key", key,
    )  # fmt: skip
    assert ran.code == 0, ran.out
    for path in (run.folder / "out").rglob("*"):
        assert path.is_dir() or key.encode() not in path.read_bytes()
    assert key not in ran.out + ran.err


def test_a_killed_cloud_batch_finds_its_paid_jobs_again(run: Runner, new_demo: Any, graph_file: Any) -> None:
    cloud = new_demo("--cloud", "--api-key", "comfyui-test-key", "--step-time", "0.005")
    workflow = graph_file(graphs.sleeper(0.3, 2, seed=100))
    words = ["--host", cloud.url, "--api-key", "comfyui-test-key"]
    process = run.start("run_batch.py", workflow, "--output-dir", "out", "--count", 4, "--no-report", *words)
    wait_for(lambda: events(run.folder / "out", "submit"))
    time.sleep(0.15)
    process.kill()
    process.communicate()
    ran = run("run_batch.py", "--resume", "out", *words)
    assert ran.code == 0, ran.out
    sent = [entry for entry in cloud.log() if entry["method"] == "POST" and entry["path"] == "/api/prompt"]
    assert len(sent) == 4


def test_memory_and_the_lock_file_are_given_back(run: Runner, demo: Demo, graph_file: Any) -> None:
    workflow = graph_file(graphs.picture(size=8))
    command = run.command(
        "run_batch.py", workflow, "--host", demo.url, "--output-dir", "out", "--sweep", "1.color=1:9000000:1", "--limit",
        150, "--no-report", "--quiet",
    )  # fmt: skip
    # A forked child begins with its parent's peak, so a small process has to start it and measure.
    measure = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode;"
        "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", measure, *command],
        cwd=run.folder,
        env=run.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and json.loads(done.stdout)["succeeded"] == 150
    peak = int(done.stderr.rpartition("peak ")[2])
    megabytes = peak / (2**20 if sys.platform == "darwin" else 2**10)
    assert megabytes < 90
    assert not (run.folder / "out" / ".batch.lock").exists()


def test_a_key_goes_to_no_server_that_only_the_folder_names(
    run: Runner, demo: Demo, new_demo: Any, graph_file: Any
) -> None:
    """A batch folder can come from anyone, and with it the addresses in its journal."""
    first = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out", "--count", 1
    )
    assert first.code == 0
    demo.post("/demo/log/clear")
    ran = run("run_batch.py", "--resume", "out", "--retry-failed", "--api-key", "sk-verysecret")
    assert ran.code == 2 and demo.url in ran.json["hint"]
    assert demo.log() == []
    assert run("run_batch.py", "--resume", "out", "--api-key", "sk-verysecret", "--host", demo.url).code == 0


def test_a_lock_that_was_taken_away_while_we_waited_keeps_nobody_out(tmp_path: Path) -> None:
    from comfyskill.base import cli
    from comfyskill.batch import journal

    class Late(journal.Lock):
        """Its first look at the lock comes when the last owner has just removed the file."""

        raced = False

        def _take(self) -> bool:
            if not self.raced:
                self.raced = True
                self._path.unlink()
            return super()._take()

    late = Late(tmp_path)
    with pytest.raises(cli.SkillError):
        journal.Lock(tmp_path)
    late.release()
    assert not list(tmp_path.iterdir())
