"""run_workflow.py as a user meets it: a workflow file in, finished files and one JSON document out."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import pytest

import graphs
from bundle import ROOT, Demo, Ran, Runner
from queues import in_queue, occupy, wait_for
from v2_servers import free_port

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are tested on POSIX")


def flow(run: Runner, host: str, *words: object, **options: Any) -> Ran:
    """A workflow run to its end, its files in `out`."""
    return run("run_workflow.py", "--host", host, "--output-dir", "out", *words, **options)


def under_way(run: Runner, host: str, *words: object, **options: Any) -> subprocess.Popen[str]:
    """The same, under way."""
    return run.start("run_workflow.py", "--host", host, "--output-dir", "out", *words, **options)


def posts(demo: Demo, path: str) -> list[dict[str, Any]]:
    return [entry for entry in demo.log() if entry["method"] == "POST" and entry["path"] == path]


def test_a_workflow_becomes_a_file_and_one_document(run: Runner, any_server: str, graph_file: Any) -> None:
    ran = flow(run, any_server, graph_file(graphs.picture()))

    assert ran.code == 0, ran.out
    (output,) = ran.json["outputs"]
    path = Path(output["file"])
    assert ran.json["status"] == "success"
    assert path.parent == run.folder / "out"
    assert path.read_bytes().startswith(b"\x89PNG")
    output.pop("asset_id", None)  # only a server with --enable-assets gives one
    assert output == {
        "file": str(path), "node_id": "2", "type": "image", "filename": path.name, "bytes": path.stat().st_size
    }  # fmt: skip
    assert ran.out.isascii()
    assert ran.json["prompt_id"] in ran.err


def test_a_cached_run_shows_its_outputs_and_does_not_copy_them(
    run: Runner, any_server: str, graph_file: Any
) -> None:
    workflow = graph_file(graphs.two_pictures())
    first = flow(run, any_server, workflow)
    second = flow(run, any_server, workflow)

    # A server may name cached outputs in another order.
    files = sorted(item["file"] for item in first.json["outputs"])
    assert len(files) == 2
    assert second.json["status"] == "success"
    assert len(second.json["outputs"]) == 2
    if "cached_nodes" not in second.json:
        pytest.skip("somebody else's job has pushed ours out of the server's cache")
    assert sorted(item["file"] for item in second.json["outputs"]) == files
    assert all(item["reused"] for item in second.json["outputs"])
    assert len(list((run.folder / "out").iterdir())) == 2


@pytest.mark.parametrize("follow", ["--ws", "--no-ws"])
def test_short_runs_are_never_missed(run: Runner, any_server: str, graph_file: Any, follow: str) -> None:
    for number in range(4):
        workflow = graph_file(graphs.two_pictures(), f"short{number}.json")
        ran = flow(run, any_server, workflow, follow, "--timeout", "20")
        assert ran.code == 0, ran.out
        assert len(ran.json["outputs"]) == 2


def test_a_run_behind_others_reports_the_same(run: Runner, demo: Demo, graph_file: Any) -> None:
    for _ in range(10):
        demo.post("/prompt", {"prompt": graphs.sleeper(0.05, 2)})
    ran = flow(run, demo.url, graph_file(graphs.picture()))
    assert ran.code == 0
    assert len(ran.json["outputs"]) == 1


def test_text_outputs_are_in_the_document(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = run(
        "run_workflow.py", graph_file(graphs.text("the answer \x1b[31mis\u202e 42")), "--host", demo.url
    )
    assert ran.code == 0
    assert [item["text"] for item in ran.json["texts"]] == ["the answer is 42"]
    assert ran.json["outputs"] == []
    assert "only text" in ran.json["message"]


def test_pictures_sent_through_the_socket_are_saved(run: Runner, any_server: str, graph_file: Any) -> None:
    graph = graphs.picture()
    graph["2"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    for _ in range(2):  # the server keeps no copy, so a second run is not answered from its cache
        ran = flow(run, any_server, graph_file(graph))
        (output,) = ran.json["outputs"]
        assert Path(output["file"]).read_bytes().startswith(b"\x89PNG")
        assert output["node_id"] == "2"


def test_temporary_pictures_come_only_when_asked_for(run: Runner, any_server: str, graph_file: Any) -> None:
    graph = graphs.picture()
    graph["2"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    workflow = graph_file(graph)
    without = flow(run, any_server, workflow)
    assert without.json["outputs"] == []
    assert "--include-previews" in without.json["message"]
    with_them = flow(run, any_server, workflow, "--include-previews")
    assert len(with_them.json["outputs"]) == 1


def test_a_failed_run_names_its_node_and_keeps_what_was_finished(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    ran = flow(run, demo.url, graph_file(graphs.failing()))
    assert ran.code == 1
    assert ran.json["status"] == "error"
    error = ran.json["error"]
    assert (error["node_id"], error["class_type"], error["title"]) == ("7", "DemoFail", "The weak one")
    assert error["exception_type"] == "ValueError"
    assert error["server_said"] == "boom"
    assert error["traceback"]
    assert "The weak one" in ran.json["message"]
    assert [item["node_id"] for item in ran.json["outputs"]] == ["2"]


def test_a_branch_that_a_node_holds_back_is_told_and_ends_nothing(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    """The server reports it as an error of the run, and goes on: here for longer than an end is waited for."""
    graph = graphs.picture()
    graph["2"] = {"class_type": "DemoBlock", "inputs": {"image": ["1", 0], "message": "not today"}}
    graph["3"] = {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "held"}}
    held = flow(run, demo.url, graph_file(graph))
    (blocked,) = held.json["blocked"]
    assert (held.code, blocked["node_id"], held.json["outputs"]) == (0, "3", [])
    assert "not today" in blocked["server_said"] and "`blocked`" in held.json["message"]

    graph = graphs.picture() | {"2": graph["2"], "3": graph["3"]}  # another color: nothing is cached
    graph["4"] = {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    graph["5"] = {"class_type": "ImageInvert", "inputs": {"image": ["4", 0]}}
    sleep = {"seconds": 11.5, "steps": 5, "seed": 1, "image": ["5", 0]}
    graph["6"] = {"class_type": "DemoSleep", "inputs": sleep}
    graph["7"] = {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "late"}}
    ran = flow(run, demo.url, graph_file(graph))
    assert (ran.code, ran.json["status"], len(ran.json["outputs"])) == (0, "success", 1), ran.out


def test_a_run_that_ended_for_memory_says_so(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = flow(run, demo.url, graph_file(graphs.failing("OOM")))
    assert ran.json["code"] == "out_of_memory"


def test_a_rejected_graph_is_explained_with_the_allowed_values(
    run: Runner, any_server: str, graph_file: Any
) -> None:
    graph = graphs.picture()
    graph["3"] = {
        "class_type": "ImageScale",
        "inputs": {
            "image": ["1", 0],
            "upscale_method": "lanczoss",
            "width": 10,
            "height": 10,
            "crop": "disabled",
        },
        "_meta": {"title": "Make it small"},
    }
    graph["2"]["inputs"]["images"] = ["3", 0]
    ran = run("run_workflow.py", graph_file(graph), "--host", any_server)
    assert ran.code == 6
    assert ran.json["status"] == "rejected"
    (problem,) = ran.json["node_errors"]
    assert problem["allowed"]["items"][0] == "lanczos"
    assert problem["fix"] == "--set 3.upscale_method=lanczos"
    assert "Make it small" in ran.json["message"]


def test_the_allowed_values_are_shown_also_where_the_server_leaves_them_out(
    run: Runner, any_server: str, graph_file: Any
) -> None:
    """For a list of more than 20 values it says only how long it is."""
    graph = graphs.picture()
    wrong = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "eulr"}}
    graph["8"] = {"class_type": "PreviewAny", "inputs": {"source": ["9", 0]}}
    graph["9"] = wrong
    ran = flow(run, any_server, graph_file(graph))
    (dropped,) = ran.json["dropped"]
    assert (dropped["allowed"]["items"][0], dropped["fix"]) == ("euler", "--set 9.sampler_name=euler")
    del graph["2"]
    refused = flow(run, any_server, graph_file(graph))
    assert (refused.code, refused.json["node_errors"]) == (6, [dropped])
    wrong["inputs"]["sampler_name"] = "foo"
    (problem,) = flow(run, any_server, graph_file(graph)).json["node_errors"]
    assert len(problem["allowed"]["items"]) == problem["allowed"]["count"] > 20


def test_a_dropped_branch_is_partial_and_strict_stops_it(
    run: Runner, any_server: str, graph_file: Any
) -> None:
    graph = graphs.picture()
    graph["9"] = {"class_type": "SaveImage", "inputs": {"images": ["99", 0], "filename_prefix": "x"}}
    workflow = graph_file(graph)
    ran = flow(run, any_server, workflow)
    assert (ran.code, ran.json["status"]) == (1, "partial")
    assert ran.json["dropped"][0]["node_id"] == "9"
    assert len(ran.json["outputs"]) == 1
    strict = run("run_workflow.py", workflow, "--host", any_server, "--output-dir", "out2", "--strict")
    assert (strict.code, strict.json["status"]) == (6, "rejected")


def test_an_unknown_parameter_is_misuse_and_nothing_is_sent(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--set", "widht=64")
    assert ran.code == 2
    assert "width" in json.dumps(ran.json)
    assert posts(demo, "/prompt") == []


def test_values_are_set_by_name(run: Runner, any_server: str, graph_file: Any) -> None:
    ran = flow(run, any_server, graph_file(graphs.picture()), '--set', 'width=48', '--args', '{"1.height": 24}')  # fmt: skip
    data = Path(ran.json["outputs"][0]["file"]).read_bytes()
    assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (48, 24)
    assert {item["input"]: item["value"] for item in ran.json["set"]} == {"width": 48, "height": 24}


def test_a_dry_run_sends_no_job_and_prints_the_graph(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = run(
        "run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--set", "width=64", "--dry-run"
    )
    assert (ran.code, ran.json["status"]) == (0, "dry_run")
    assert ran.json["graph"]["1"]["inputs"]["width"] == 64
    assert [
        entry for entry in demo.log() if entry["method"] == "POST" and not entry["path"].startswith("/demo")
    ] == []
    assert not (run.folder / "outputs").exists()


def test_a_dry_run_finds_what_the_run_would_be_refused_for(run: Runner, demo: Demo, graph_file: Any) -> None:
    for words in (["--only", "99"], ["--only", "1"]):
        ran = run(
            "run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--dry-run", *words,
            "--save-previews", "seen",
        )  # fmt: skip
        assert (ran.code, ran.json["code"]) == (2, "no_such_output_node")
    assert not (run.folder / "seen").exists()


def test_without_a_server_nothing_runs_but_the_graph_can_be_kept(run: Runner, graph_file: Any) -> None:
    ran = run(
        "run_workflow.py", graph_file(graphs.picture()), "--host", "127.0.0.1:9", "--set", "width=40",
        "--save-workflow", "kept.json",
    )  # fmt: skip
    assert (ran.code, ran.json["code"]) == (3, "unreachable")
    assert json.loads((run.folder / "kept.json").read_text())["1"]["inputs"]["width"] == 40
    assert "browser" in ran.json["hint"] and "uploads" not in ran.json["hint"]


def test_files_that_no_server_has_yet_are_named_when_the_graph_is_kept(run: Runner, graph_file: Any) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(run.folder / "p.png")
    ran = run(
        "run_workflow.py", graph_file(graphs.photo()), "--host", "127.0.0.1:9",
        "--input-image", "image=p.png", "--save-workflow", "kept.json",
    )  # fmt: skip
    assert ran.code == 3
    assert "files under `uploads`" in ran.json["hint"]


def test_no_wait_then_resume_from_another_process(run: Runner, any_server: str, graph_file: Any) -> None:
    sent = run("run_workflow.py", graph_file(graphs.picture()), "--host", any_server, "--no-wait")
    assert (sent.code, sent.json["status"]) == (0, "submitted")
    prompt_id = sent.json["prompt_id"]
    ran = flow(run, any_server, "--resume", prompt_id, "--timeout", "20")
    assert ran.code == 0, ran.out
    assert ran.json["prompt_id"] == prompt_id
    assert Path(ran.json["outputs"][0]["file"]).exists()


def test_no_wait_stops_a_job_with_dropped_parts_when_strict(run: Runner, demo: Demo, graph_file: Any) -> None:
    occupy(demo, 6)
    graph = graphs.picture()
    graph["9"] = {"class_type": "SaveImage", "inputs": {"images": ["99", 0], "filename_prefix": "x"}}
    ran = run("run_workflow.py", graph_file(graph), "--host", demo.url, "--no-wait", "--strict")
    assert (ran.code, ran.json["status"], ran.json["dropped"][0]["node_id"]) == (6, "rejected", "9")
    assert demo.get("/queue")["queue_pending"] == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 5)])
def test_no_wait_that_is_stopped_at_the_submit_names_its_job(
    run: Runner, demo: Demo, graph_file: Any, number: int, code: int
) -> None:
    demo.fault("hang-after")
    ours = graphs.job_id(f"ours-{time.time_ns()}")
    graph = graphs.sleeper(5)
    process = under_way(run, demo.url, "--prompt-id", ours, graph_file(graph), "--no-wait")
    in_queue(demo, ours)
    process.send_signal(number)
    out, _ = process.communicate(timeout=15)
    report = json.loads(out)
    assert (process.returncode, report["prompt_id"], report["retryable"]) == (code, ours, False)
    # Ctrl-C stops it; the time limit of whoever called us does not.
    assert bool(demo.get("/queue")["queue_running"]) == (number == signal.SIGTERM)
    assert report["seeds"]


def test_resume_joins_a_running_job_of_another_client(run: Runner, demo: Demo, graph_file: Any) -> None:
    graph = graphs.sleeper(0.6, seed=77)
    prompt_id = demo.post("/prompt", {"prompt": graph, "client_id": "somebody"})["prompt_id"]
    started = time.monotonic()
    ran = flow(run, demo.url, "--resume", prompt_id)
    assert (ran.code, ran.json["seeds"]) == (0, {"1.seed": 77})
    assert time.monotonic() - started < 20


def test_a_run_that_was_cached_altogether_is_no_measure(run: Runner, demo: Demo, graph_file: Any) -> None:
    workflow = graph_file(graphs.sleeper(0.3))
    for _ in range(3):
        ran = flow(run, demo.url, workflow)
    assert ran.json["cached_nodes"] == 2
    assert (ran.json["estimate"]["runs"], ran.json["estimate"]["low"]) == (1, ran.json["estimate"]["high"])
    assert ran.json["estimate"]["seconds"] >= 0.3


def test_the_command_to_go_on_fetches_what_was_asked_for(run: Runner, demo: Demo, graph_file: Any) -> None:
    graph = graphs.sleeper(1.5)
    graph["2"]["inputs"]["filename_prefix"] = "deep/slept"
    graph["3"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    flags = ["--flat-output", "--include-previews", "--receipt", "--insecure"]
    left = flow(run, demo.url, graph_file(graph), "--timeout", "0.5", *flags)
    assert left.code == 5
    words = shlex.split(left.json["next"][0])
    ran = run("run_workflow.py", *words[2:])
    assert ran.code == 0, ran.out
    assert {item["node_id"] for item in ran.json["outputs"]} == {"2", "3"}
    assert {Path(item["file"]).parent for item in ran.json["outputs"]} == {run.folder / "out"}
    receipt = json.loads(Path(ran.json["receipt"]).read_text())
    assert receipt["seeds"] == {"1.seed": graph["1"]["inputs"]["seed"]}
    assert "--insecure" in words


def test_flags_that_mean_nothing_for_a_job_that_runs_already_are_misuse(run: Runner, demo: Demo) -> None:
    for words in (["--dry-run"], ["--no-wait"], ["--set", "seed=1"], ["--save-workflow", "kept.json"]):
        ran = flow(run, demo.url, "--resume", "some-job", *words)
        assert (ran.code, ran.json["code"]) == (2, "misuse")
        assert words[0] in ran.json["message"]


def test_an_unknown_prompt_id_is_lost_not_waited_for(run: Runner, demo: Demo) -> None:
    ran = flow(run, demo.url, "--resume", "no-such-job", timeout=60)
    assert (ran.code, ran.json["status"], ran.json["retryable"]) == (1, "lost", False)
    assert "job list" in ran.json["hint"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--input-image", "photo.jpg"], "--input-image image=photo.jpg"),
        (["--input-mask", "m.png"], "--input-mask mask=m.png"),
        (["--input-image", "photo=picture.png"], "files here: image, mask"),
        (["--input-file", "photo=picture.png"], "files here: image, mask"),
    ],
)
def test_a_file_for_no_input_is_told_which_inputs_take_files(
    run: Runner, demo: Demo, words: list[str], said: str
) -> None:
    from bundle import ROOT

    (run.folder / "picture.png").write_bytes(b"")
    workflow = ROOT / "workflows/sdxl_inpaint.json"
    ran = run("run_workflow.py", workflow, "--host", demo.url, "--dry-run", *words)
    assert ran.code == 2 and said in ran.json["hint"] and "--set takes" not in ran.json["message"]


def test_a_chosen_prompt_id_is_used(run: Runner, any_server: str, graph_file: Any) -> None:
    wanted = str(uuid.uuid4())
    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", any_server, "--prompt-id", wanted)
    assert ran.json["prompt_id"] == wanted


def test_ctrl_c_cancels_our_job_and_no_other(run: Runner, demo: Demo, graph_file: Any) -> None:
    ours = graphs.job_id(f"ours-{time.time_ns()}")
    process = under_way(run, demo.url, "--prompt-id", ours, graph_file(graphs.sleeper(30)))
    in_queue(demo, ours)
    other = demo.post("/prompt", {"prompt": graphs.sleeper(0.2), "client_id": "other"})["prompt_id"]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    report = json.loads(out)
    assert (report["status"], report["code"], report["prompt_id"]) == ("cancelled", "interrupted", ours)
    assert report["outputs"] == [] and report["hint"].startswith("nothing was finished")
    history = wait_for(lambda: demo.get(f"/history/{other}"))
    assert history[other]["status"]["status_str"] == "success"
    assert demo.get(f"/history/{ours}")[ours]["status"]["messages"][-1][0] == "execution_interrupted"


def test_a_second_ctrl_c_before_the_server_was_told_says_so(run: Runner, demo: Demo, graph_file: Any) -> None:
    ours = graphs.job_id(f"ours-{time.time_ns()}")
    process = under_way(run, demo.url, "--prompt-id", ours, graph_file(graphs.sleeper(30)))
    in_queue(demo, ours)
    demo.fault({"name": "delay", "route": "/jobs/*/cancel", "ms": 20_000})
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    while "stopping the job" not in process.stderr.readline():
        pass
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    report = json.loads(out)
    assert (process.returncode, report["status"], report["prompt_id"]) == (130, "running", ours)
    assert "still be running" in report["message"] and ours in report["next"][0]


def test_ctrl_c_takes_a_waiting_job_out_of_the_queue(run: Runner, demo: Demo, graph_file: Any) -> None:
    running = occupy(demo, 90)
    ours = graphs.job_id(f"ours-{time.time_ns()}")
    process = under_way(run, demo.url, "--prompt-id", ours, graph_file(graphs.picture()))
    in_queue(demo, ours, running=False)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 130
    assert json.loads(out)["prompt_id"] == ours
    queue = demo.get("/queue")
    assert queue["queue_pending"] == []
    assert queue["queue_running"][0][1] == running


def test_detach_on_interrupt_leaves_the_job(run: Runner, demo: Demo, graph_file: Any) -> None:
    ours = graphs.job_id(f"ours-{time.time_ns()}")
    process = under_way(
        run, demo.url, "--prompt-id", ours, graph_file(graphs.sleeper(1)), "--detach-on-interrupt"
    )
    in_queue(demo, ours)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in json.loads(out)["next"][0]
    history = wait_for(lambda: demo.get(f"/history/{ours}"))
    assert history[ours]["status"]["status_str"] == "success"


def test_sigterm_leaves_the_job_and_prints_how_to_resume(run: Runner, demo: Demo, graph_file: Any) -> None:
    ours = graphs.job_id(f"ours-{time.time_ns()}")
    process = under_way(run, demo.url, "--prompt-id", ours, graph_file(graphs.sleeper(90)))
    in_queue(demo, ours)
    started = time.monotonic()
    process.terminate()
    out, _ = process.communicate(timeout=60)

    assert time.monotonic() - started < 8
    assert process.returncode == 5
    report = json.loads(out)
    assert report["prompt_id"] == ours
    assert ours in report["next"][0]
    assert demo.get("/queue")["queue_running"][0][1] == ours
    assert posts(demo, "/interrupt") == posts(demo, "/queue") == []


def test_a_time_out_keeps_the_job_and_comes_in_time(run: Runner, demo: Demo, graph_file: Any) -> None:
    started = time.monotonic()
    ran = run("run_workflow.py", graph_file(graphs.sleeper(90)), "--host", demo.url, "--timeout", "1")
    assert time.monotonic() - started < 8
    assert (ran.code, ran.json["status"]) == (5, "timeout")
    assert demo.get("/queue")["queue_running"][0][1] == ran.json["prompt_id"]


def test_a_time_limit_covers_a_submit_that_is_not_answered(run: Runner, demo: Demo, graph_file: Any) -> None:
    workflow = graph_file(graphs.sleeper(9))
    for fault, code in (("hang-after", "still_running"), ("hang", "submit_unknown")):
        demo.fault(fault)
        started = time.monotonic()
        ran = run("run_workflow.py", workflow, "--host", demo.url, "--timeout", "5")
        assert time.monotonic() - started < 9
        assert (ran.code, ran.json["code"]) == (5, code)
        assert ran.json["prompt_id"] in ran.json["next"][0]
    assert len(posts(demo, "/prompt")) == 2


def test_a_time_limit_ends_the_wait_for_a_server_that_refuses_for_now(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    demo.fault({"name": "429", "times": 100, "retry_after": 20})
    started = time.monotonic()
    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--timeout", "5")
    assert time.monotonic() - started < 9
    assert (ran.code, ran.json["code"], ran.json["retryable"]) == (1, "busy", True)


@pytest.mark.parametrize("follow", ["--ws", "--no-ws"])
def test_a_job_removed_by_someone_else_ends_the_wait(
    run: Runner, demo: Demo, graph_file: Any, follow: str
) -> None:
    occupy(demo, 90)
    ours = graphs.job_id(f"ours-{time.time_ns()}")
    process = run.start(
        "run_workflow.py", "--prompt-id", ours, graph_file(graphs.picture()), "--host", demo.url, follow
    )
    in_queue(demo, ours, running=False)
    # The watcher has to have seen it waiting before it can tell a removal from a loss.
    asked = len(demo.asked(f"/api/jobs/{ours}"))
    wait_for(lambda: len(demo.asked(f"/api/jobs/{ours}")) > asked)
    time.sleep(0.3)  # until it has read that answer
    demo.post("/queue", {"delete": [ours]})
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert json.loads(out)["status"] == "cancelled"


def test_a_time_limit_says_when_nothing_was_seen_of_the_job(run: Runner, demo: Demo) -> None:
    demo.fault("hang:route=/history")
    ran = flow(run, demo.url, "--resume", "no-such-job", "--timeout", "1")
    assert (ran.code, ran.json["code"]) == (5, "still_running")
    assert "reported nothing" in ran.json["message"]


def test_a_job_interrupted_by_someone_else_is_cancelled_not_failed(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    ours = graphs.job_id(f"ours-{time.time_ns()}")
    process = run.start(
        "run_workflow.py", "--prompt-id", ours, graph_file(graphs.sleeper(20)), "--host", demo.url
    )
    in_queue(demo, ours)
    demo.post("/interrupt", {"prompt_id": ours})
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert json.loads(out)["status"] == "cancelled"


def test_a_restarted_server_means_lost(run: Runner, new_demo: Any, graph_file: Any) -> None:
    port = str(free_port())
    first = new_demo("--port", port)
    ours = graphs.job_id(f"ours-{time.time_ns()}")
    process = run.start(
        "run_workflow.py", "--prompt-id", ours, graph_file(graphs.sleeper(30)), "--host", first.url
    )
    in_queue(first, ours)
    first.stop()
    new_demo("--port", port)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert json.loads(out)["status"] == "lost"


def test_a_server_that_stays_away_is_given_up(run: Runner, new_demo: Any, graph_file: Any) -> None:
    server = new_demo()
    ours = graphs.job_id(f"ours-{time.time_ns()}")
    process = run.start(
        "run_workflow.py",
        "--prompt-id",
        ours,
        graph_file(graphs.sleeper(30)),
        "--host",
        server.url,
        "--reconnect-time",
        "1",
    )
    in_queue(server, ours)
    server.stop()
    out, _ = process.communicate(timeout=60)
    report = json.loads(out)
    assert process.returncode == 1
    assert (report["code"], report["prompt_id"]) == ("server_gone", ours)


def test_existing_files_are_kept_unless_overwrite(run: Runner, demo: Demo, graph_file: Any) -> None:
    out = run.folder / "out"
    out.mkdir()
    mine = out / "skilltest_00001_.png"
    mine.write_text("mine")
    ran = flow(run, demo.url, graph_file(graphs.picture()))
    output = ran.json["outputs"][0]
    assert mine.read_text() == "mine"
    assert output["filename"] == "skilltest_00001_ (1).png"
    assert output["server_said"] == "skilltest_00001_.png"
    again = flow(run, demo.url, "--resume", ran.json["prompt_id"], "--overwrite")
    assert again.json["outputs"][0]["file"] == str(mine)
    assert mine.read_bytes().startswith(b"\x89PNG")


def test_subfolders_are_kept_or_flattened(run: Runner, demo: Demo, graph_file: Any) -> None:
    workflow = graph_file(graphs.picture(prefix="a/b/deep"))
    kept = run("run_workflow.py", workflow, "--host", demo.url, "--output-dir", "kept")
    assert Path(kept.json["outputs"][0]["file"]).parent == run.folder / "kept/a/b"
    flat = run("run_workflow.py", workflow, "--host", demo.url, "--output-dir", "flat", "--flat-output")
    assert Path(flat.json["outputs"][0]["file"]).parent == run.folder / "flat"


@pytest.mark.parametrize(
    "kind", ["traversal", "absolute", "drive", "backslash", "control", "escape", "bidi", "reserved", "long"]
)
def test_hostile_names_stay_inside(run: Runner, demo: Demo, graph_file: Any, kind: str) -> None:
    graph = {
        "1": {"class_type": "DemoHostileNames", "inputs": {"kind": kind, "seed": time.time_ns() % 1_000_000}}
    }
    before = set(run.folder.parent.iterdir())
    ran = flow(run, demo.url, graph_file(graph))
    assert ran.json["status"] in ("success", "partial")
    inside = {path for path in run.folder.rglob("*") if path.is_file()} - {run.folder / "graph.json"}
    assert all(
        path.is_relative_to(run.folder / "out") or path.is_relative_to(run.folder / "cache")
        for path in inside
    )
    assert set(run.folder.parent.iterdir()) == before
    assert "\x1b" not in ran.out + ran.err
    for item in ran.json["outputs"]:
        name = Path(item["file"]).name
        assert (
            name == name.strip(" .")
            and name.isprintable()
            and not name.upper().startswith(("CON.", "NUL.", "AUX."))
        )


def test_a_symlink_on_the_way_does_not_lead_out(run: Runner, demo: Demo, graph_file: Any) -> None:
    outside = run.folder / "outside"
    outside.mkdir()
    (run.folder / "out").mkdir()
    (run.folder / "out" / "sub").symlink_to(outside)
    ran = flow(run, demo.url, graph_file(graphs.picture(prefix="sub/x")))
    assert ran.code == 0
    assert list(outside.iterdir()) == []


def test_a_receipt_holds_what_is_needed_to_repeat_it(run: Runner, any_server: str, graph_file: Any) -> None:
    ran = flow(run, any_server, graph_file(graphs.picture()), '--set', 'width=40', '--receipt')  # fmt: skip
    receipt = json.loads(Path(ran.json["receipt"]).read_text())
    (entry,) = receipt["files"]
    data = (run.folder / "out" / entry["file"]).read_bytes()
    assert entry["sha256"] == hashlib.sha256(data).hexdigest()
    assert receipt["graph"]["1"]["inputs"]["width"] == 40
    assert receipt["server"]["comfyui_version"]


def test_a_picture_is_uploaded_once_and_used(
    run: Runner, any_server: str, graph_file: Any, tmp_path: Path
) -> None:
    from PIL import Image

    photo = tmp_path / "photo.png"
    color = tuple(os.urandom(3))
    Image.new("RGB", (20, 10), color).save(photo)
    words = [
        graph_file(graphs.photo()),
        "--host",
        any_server,
        "--output-dir",
        "out",
        "--input-image",
        f"image={photo}",
    ]
    ran = run("run_workflow.py", *words)
    assert ran.code == 0, ran.out
    with Image.open(ran.json["outputs"][0]["file"]) as made:
        assert made.size == (20, 10)
        pixel = made.convert("RGB").getpixel((5, 5))
    # A real server computes in floats and truncates.
    assert all(abs(255 - part - seen) <= 1 for part, seen in zip(color, pixel, strict=True))
    again = run("run_workflow.py", *words)
    assert again.json["uploads"] == ran.json["uploads"]


def test_the_same_file_is_not_sent_twice(run: Runner, demo: Demo, graph_file: Any, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (20, 10), "red").save(tmp_path / "photo.png")
    (tmp_path / "other").mkdir()
    Image.new("RGB", (20, 10), "blue").save(tmp_path / "other" / "photo.png")
    names = []
    for source in ("photo.png", "photo.png", "other/photo.png"):
        ran = run(
            "run_workflow.py", graph_file(graphs.photo()), "--host", demo.url, "--set", f"image={source}"
        )
        assert ran.code == 0, ran.out
        names.append(ran.json["uploads"][0]["as"])
    assert names[0] == names[1] != names[2]
    assert len(posts(demo, "/upload/image")) == 2


def test_an_earlier_output_is_an_input(run: Runner, any_server: str, graph_file: Any) -> None:
    first = flow(run, any_server, graph_file(graphs.picture(size=24)))
    ran = flow(run, any_server, graph_file(graphs.photo(), 'second.json'), '--set', f"image=output:{first.json['prompt_id']}")  # fmt: skip
    assert ran.code == 0, ran.out
    data = Path(ran.json["outputs"][0]["file"]).read_bytes()
    assert int.from_bytes(data[16:20], "big") == 24


def test_a_file_that_was_found_on_the_server_is_not_doubted(
    run: Runner, any_server: str, graph_file: Any
) -> None:
    first = flow(run, any_server, graph_file(graphs.picture(size=24)))
    chosen = f"image=output:{first.json['prompt_id']}"
    ran = flow(run, any_server, graph_file(graphs.photo(), "second.json"), "--input-image", chosen)
    assert (ran.code, ran.json.get("warnings")) == (0, None), ran.out


def test_paid_nodes_need_consent_before_anything_is_sent(run: Runner, demo: Demo, graph_file: Any) -> None:
    graph = {
        "1": {"class_type": "DemoPartner", "inputs": {"prompt": "a fox", "seed": 1}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "paid"}},
    }
    ran = run("run_workflow.py", graph_file(graph), "--host", demo.url)
    assert (ran.code, ran.json["flag"]) == (7, "--yes-spend")
    assert posts(demo, "/prompt") == []
    key = "comfyui-partner-canary-123456"
    paid = run(
        "run_workflow.py",
        graph_file(graph),
        "--host",
        demo.url,
        "--yes-spend",
        env={"COMFY_PARTNER_KEY": key},
    )
    assert posts(demo, "/prompt")[0]["json"]["extra_data"]["api_key_comfy_org"] == key
    assert key not in paid.out + paid.err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["nowhere.json"], "no file"),
        (["."], ""),
        (["broken.json"], ""),
        (["graph.json", "--set", "width"], "NAME=VALUE"),
        (["graph.json", "--args", "{"], "--args"),
        (["graph.json", "--args", "@nowhere"], ""),
        (["graph.json", "--timeout", "-1"], ""),
        (["graph.json", "--host", "ftp://x"], "http"),
        (["graph.json", "--header", "nonsense"], "Name: value"),
        (["graph.json", "--output-dir", "graph.json"], "--output-dir"),
        (["graph.json", "--output-dir", "graph.json/sub"], "--output-dir"),
        (["graph.json", "--input-image", "image=nowhere.png"], ""),
        (["graph.json", "--no-such-flag"], ""),
        ([], ""),
        (["graph.json", "--resume", "x"], ""),
    ],
)
def test_misuse_is_one_sentence_and_nothing_is_sent(
    run: Runner, demo: Demo, graph_file: Any, words: list[str], hint: str
) -> None:
    graph_file(graphs.picture())
    (run.folder / "broken.json").write_text('{"1": {"class_type"')
    host = [] if "--host" in words else ["--host", demo.url]
    ran = run("run_workflow.py", *words, *host)
    assert ran.code == 2, ran.out
    assert ran.json["status"] == "error"
    assert hint in json.dumps(ran.json)
    assert posts(demo, "/prompt") == []


def test_a_workflow_from_standard_input_with_a_byte_order_mark(run: Runner, demo: Demo) -> None:
    ran = run(
        "run_workflow.py", "-", "--host", demo.url, stdin="\ufeff" + json.dumps({"prompt": graphs.picture()})
    )
    assert ran.code == 0


def test_an_address_without_a_scheme_is_understood(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", demo.url.removeprefix("http://"))
    assert ran.code == 0
    ran = run("run_workflow.py", graph_file(graphs.picture()), env={"COMFY_HOST": demo.url})
    assert ran.code == 0


def test_host_demo_needs_no_server_and_says_what_it_is(run: Runner, graph_file: Any) -> None:
    ran = flow(run, "demo", graph_file(graphs.picture()))
    assert ran.code == 0
    assert ran.json["demo"] is True


def test_a_running_demo_server_is_known_by_its_mark(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = flow(run, demo.url, graph_file(graphs.picture()), "--no-wait")
    assert ran.json["demo"] is True
    # It is still there after this call, so commands name its address.
    assert demo.url in ran.json["next"][0]


def test_a_server_without_the_mark_is_no_demo(run: Runner, demo: Demo, graph_file: Any) -> None:
    demo.fault("status:route=/features,code=404")
    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--no-wait")
    assert "demo" not in ran.json


def test_a_broken_output_pipe_is_quiet(run: Runner, demo: Demo, graph_file: Any) -> None:
    ours = graphs.job_id(f"ours-{time.time_ns()}")
    process = run.start(
        "run_workflow.py", "--prompt-id", ours, graph_file(graphs.sleeper(0.3)), "--host", demo.url
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.wait(timeout=60)
    assert "Traceback" not in err and "BrokenPipe" not in err


def test_previews_are_saved_when_asked_for(run: Runner, demo: Demo, graph_file: Any) -> None:
    graph = {
        "1": {
            "class_type": "DemoPreview",
            "inputs": {"format": "PNG", "steps": 3, "max_size": 64, "seed": time.time_ns()},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "p"}},
    }
    ran = run("run_workflow.py", graph_file(graph), "--host", demo.url, "--save-previews", "seen")
    assert ran.json["previews"]["count"] == 3
    assert all(Path(file).parent == run.folder / "seen" for file in ran.json["previews"]["items"])
    assert all(path.suffix == ".png" for path in (run.folder / "seen").iterdir())


def test_only_runs_one_output(run: Runner, any_server: str, graph_file: Any) -> None:
    ran = run("run_workflow.py", graph_file(graphs.two_pictures()), "--host", any_server, "--only", "4")
    assert [item["node_id"] for item in ran.json["outputs"]] == ["4"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 5)])
def test_a_server_that_hangs_on_its_files_does_not_keep_who_is_told_to_stop(
    run: Runner, demo: Demo, graph_file: Any, number: int, code: int
) -> None:
    demo.fault("hang:route=/view")
    process = under_way(run, demo.url, graph_file(graphs.two_pictures()))
    wait_for(lambda: sum(entry["path"] == "/view" for entry in demo.log()) == 2)
    started = time.monotonic()
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert time.monotonic() - started < 3
    assert (process.returncode, "--resume" in json.loads(out)["next"][0]) == (code, True)
    assert list((run.folder / "out").glob("**/*.part")) == []


def test_only_fetches_no_other_output_from_an_older_servers_cache(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    url = new_demo("--version", "0.8", "--fault", "all-cached").url
    workflow = graph_file(graphs.two_pictures())
    assert len(flow(run, url, workflow).json["outputs"]) == 2
    again = flow(run, url, workflow, "--only", "4")
    assert [item["node_id"] for item in again.json["outputs"]] == ["4"]


def test_being_stopped_while_downloading_does_not_lose_the_job(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    graph = {
        "1": {
            "class_type": "DemoBigFile",
            "inputs": {
                "size_mb": 3000,
                "filename": "big.bin",
                "subfolder": "",
                "sparse": True,
                "seed": time.time_ns() % 9999,
            },
        }
    }
    for stop, code in ((signal.SIGINT, 130), (signal.SIGTERM, 5)):
        ours = graphs.job_id(f"ours-{time.time_ns()}")
        process = under_way(run, demo.url, "--prompt-id", ours, graph_file(graph))
        wait_for(lambda: any(path.stat().st_size > 1_000_000 for path in run.folder.glob("out/.*.part")))
        process.send_signal(stop)
        out, _ = process.communicate(timeout=60)
        report = json.loads(out)
        assert process.returncode == code
        assert report["prompt_id"] == ours and report["retryable"] is False
        assert ours in report["next"][0]
        assert list((run.folder / "out").iterdir()) == []


def test_a_taken_prompt_id_and_outputs_that_do_not_exist_are_misuse(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    workflow = graph_file(graphs.picture())
    assert (
        run("run_workflow.py", workflow, "--host", demo.url, "--prompt-id", graphs.job_id("twice")).code == 0
    )
    again = run(
        "run_workflow.py", workflow, "--host", demo.url, "--prompt-id", graphs.job_id("twice"), "--no-ws"
    )
    assert (again.code, again.json["code"]) == (2, "prompt_id_taken")
    for node in ("99", "1"):
        ran = run("run_workflow.py", workflow, "--host", demo.url, "--only", "2", "--only", node)
        assert (ran.code, ran.json["code"]) == (2, "no_such_output_node")
    assert len(posts(demo, "/prompt")) == 1


def test_pictures_that_nobody_listened_for_are_missed_not_done(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    graph = graphs.picture()
    graph["2"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    ran = run("run_workflow.py", graph_file(graph), "--host", demo.url, "--no-ws")
    assert (ran.code, ran.json["code"]) == (1, "missed_pictures")


def test_all_missing_classes_are_named_at_once(run: Runner, any_server: str, graph_file: Any) -> None:
    graph = graphs.picture()
    graph["5"] = {"class_type": "NoSuchNodeA", "inputs": {}}
    graph["6"] = {"class_type": "NoSuchNodeB", "inputs": {}}
    ran = run("run_workflow.py", graph_file(graph), "--host", any_server)
    assert ran.code == 6
    assert {item["class_type"] for item in ran.json["node_errors"]} == {"NoSuchNodeA", "NoSuchNodeB"}


def test_a_mask_goes_to_its_picture_whichever_name_is_used(
    run: Runner, any_server: str, graph_file: Any, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (40, 20), "red").save(tmp_path / "photo.png")
    mask = Image.new("L", (40, 20), 0)
    mask.paste(255, (10, 5, 20, 15))
    mask.save(tmp_path / "mask.png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 1]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "mask"}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "photo"}},
    }
    for name in ("mask", "image"):
        ran = run(
            "run_workflow.py", graph_file(graph), "--host", any_server, "--output-dir", f"out-{name}",
            "--input-image", f"image={tmp_path / 'photo.png'}", "--input-mask", f"{name}={tmp_path / 'mask.png'}",
        )  # fmt: skip
        assert ran.code == 0, ran.out
        files = {item["node_id"]: item["file"] for item in ran.json["outputs"]}
        with Image.open(files["3"]) as seen:
            gray = seen.convert("L")
            assert (gray.getpixel((15, 10)), gray.getpixel((2, 2))) == (255, 0)
        with Image.open(files["4"]) as seen:
            assert seen.convert("RGB").getpixel((2, 2))[0] > 250


@pytest.mark.parametrize("delay", [0.15, 0.22, 0.26, 0.3, 0.34, 0.4, 0.5])
def test_ctrl_c_at_any_moment_leaves_no_job_behind(
    run: Runner, demo: Demo, graph_file: Any, delay: float
) -> None:
    ours = graphs.job_id(f"ours-{time.time_ns()}")
    process = under_way(run, demo.url, "--prompt-id", ours, graph_file(graphs.sleeper(60, steps=600)))
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    if not out:
        # Python itself was still starting: the signal's default ended it.
        assert posts(demo, "/prompt") == []
        return
    assert process.returncode == 130
    assert all(item[1] != ours for part in demo.get("/queue").values() for item in part)
    if posts(demo, "/prompt"):
        assert json.loads(out)["prompt_id"] == ours


def test_ctrl_c_right_after_the_prompt_id_line_names_the_job(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    jobs = []
    for at in range(5):
        ours = graphs.job_id(f"ours-{at}-{time.time_ns()}")
        process = under_way(run, demo.url, "--prompt-id", ours, graph_file(graphs.sleeper(60)))
        assert process.stderr is not None
        while ours not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        jobs.append((ours, process))
    for ours, process in jobs:
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, json.loads(out)["prompt_id"]) == (130, ours)
        assert all(item[1] != ours for part in demo.get("/queue").values() for item in part)


def test_what_is_probably_not_meant_is_said(run: Runner, demo: Demo) -> None:
    from bundle import ROOT

    forgot = run("run_workflow.py", ROOT / "workflows/photo_touchup.json", "--host", demo.url, "--dry-run")
    assert "example.png" in " ".join(forgot.json["warnings"])
    odd = run(
        "run_workflow.py",
        ROOT / "workflows/sd15_txt2img.json",
        "--host",
        demo.url,
        "--dry-run",
        "--set",
        "width=513",
    )
    assert "513" in " ".join(odd.json["warnings"])
    fine = run(
        "run_workflow.py",
        ROOT / "workflows/sd15_txt2img.json",
        "--host",
        demo.url,
        "--dry-run",
        "--set",
        "width=512",
    )
    assert "warnings" not in fine.json


def test_a_dry_run_says_what_the_server_would_reject(run: Runner, demo: Demo, graph_file: Any) -> None:
    graph = graphs.picture()
    graph["8"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "nobody-has.safetensors"}}
    graph["9"] = {"class_type": "SharpenQuux", "inputs": {"image": ["2", 0], "model": ["8", 0]}}
    ran = run("run_workflow.py", graph_file(graph), "--host", demo.url, "--dry-run")
    assert (ran.code, ran.json["status"], ran.json["code"]) == (6, "dry_run", "would_be_rejected"), ran.out
    told = {(row["code"], row["node_id"]) for row in ran.json["would_be_rejected"]["items"]}
    assert told == {("unknown_class", "9"), ("not_in_list", "8")}
    assert "check_deps.py" in ran.json["next"][0] and ran.json["hint"] and ran.json["graph"]
    assert posts(demo, "/prompt") == []

    del graph["9"]["inputs"]["model"], graph["8"]
    graph["9"]["class_type"] = "ImageInvert"
    ran = run("run_workflow.py", graph_file(graph), "--host", demo.url, "--dry-run")
    assert (ran.code, "code" in ran.json) == (0, False), ran.out


def test_a_dry_run_does_not_miss_the_file_that_a_run_sends(
    run: Runner, demo: Demo, graph_file: Any, tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    graph = graphs.photo()
    loader = next(node for node in graph.values() if node["class_type"] == "LoadImage")
    loader["inputs"]["image"] = "nobody-has.png"
    words = (graph_file(graph), "--host", demo.url, "--dry-run")
    assert run("run_workflow.py", *words).code == 6
    assert run("run_workflow.py", *words, "--no-validate").code == 0
    ran = run("run_workflow.py", *words, "--input-image", "image=mine.png")
    assert (ran.code, "code" in ran.json) == (0, False), ran.out


def test_a_dry_run_of_some_outputs_asks_nothing_of_the_others(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    graph = graphs.picture()
    graph["8"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": -1, "height": 8, "batch_size": 1, "color": 0},
    }
    graph["9"] = {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}}
    words = (graph_file(graph), "--host", demo.url, "--dry-run")
    assert run("run_workflow.py", *words).code == 6
    ran = run("run_workflow.py", *words, "--only", "2")
    assert ran.code == 0, ran.out


def version_at(host: str) -> tuple[int, ...]:
    with urllib.request.urlopen(f"{host}/system_stats", timeout=30) as answer:
        found = json.load(answer)["system"]["comfyui_version"].split(".")
    return tuple(int(part) for part in found)


@pytest.mark.parametrize("upper", [False, True])
def test_an_id_that_the_server_would_reject_is_misuse_before_anything_is_sent(
    run: Runner, any_server: str, graph_file: Any, upper: bool
) -> None:
    prompt_id = str(uuid.uuid4()).upper() if upper else f"run-{time.time_ns()}"
    ran = flow(run, any_server, graph_file(graphs.picture()), "--prompt-id", prompt_id)
    if version_at(any_server) < (0, 33):
        assert (ran.code, ran.json["prompt_id"]) == (0, prompt_id)
        return
    assert (ran.code, ran.json["code"]) == (2, "bad_prompt_id")
    with urllib.request.urlopen(f"{any_server}/queue", timeout=30) as answer:
        assert prompt_id not in answer.read().decode()


def test_a_graph_that_can_never_run_is_not_safe_to_repeat_after_http_500(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    demo.fault("status:route=/prompt,method=POST,code=500")
    graph = graphs.picture()
    sound = flow(run, demo.url, graph_file(graph))
    assert (sound.code, sound.json["code"], sound.json["retryable"]) == (1, "submit_failed", True)
    graph["1"]["class_type"] = "NoSuchClass"
    ran = flow(run, demo.url, graph_file(graph))
    assert (ran.code, ran.json["code"], ran.json["retryable"]) == (6, "rejected", False)
    assert [row["node_id"] for row in ran.json["node_errors"]] == ["1"]


def test_previews_are_asked_for_only_when_they_are_saved(run: Runner, demo: Demo, graph_file: Any) -> None:
    for words, method in ((("--save-previews", "seen"), "auto"), ((), None)):
        prompt_id = str(uuid.uuid4())
        ran = flow(run, demo.url, graph_file(graphs.picture()), "--prompt-id", prompt_id, *words)
        assert demo.get(f"/history/{prompt_id}")[prompt_id]["prompt"][3].get("preview_method") == method
        assert ("previews_note" in ran.json) == bool(words)


def test_a_server_without_flags_sends_previews_to_save(run: Runner, any_server: str, graph_file: Any) -> None:
    """The rig's tiny model on a real server, the demo's simulated one elsewhere."""
    with urllib.request.urlopen(f"{any_server}/models/checkpoints", timeout=30) as answer:
        models = json.load(answer)
    graph = json.loads((ROOT / "workflows" / "sd15_txt2img.json").read_text())
    wanted = [name for name in models if name.startswith("v1-5-pruned-emaonly")]
    if not wanted:
        pytest.skip("the server has no Stable Diffusion 1.5")
    words = (
        "--set",
        f"1.ckpt_name={wanted[0]}",
        "--set",
        f"seed={time.time_ns() % 2**32}",
        "--set",
        "steps=3",
    )
    size = ("--set", "width=64", "--set", "height=64")
    ran = flow(run, any_server, graph_file(graph), *words, *size, "--save-previews", "seen")
    assert ran.code == 0, ran.out
    assert ran.json["previews"]["count"] and "previews_note" not in ran.json
