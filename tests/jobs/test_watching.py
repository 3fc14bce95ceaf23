"""Watching, explaining and controlling jobs: ws_monitor, fetch_logs, manage_queue, retries and estimates."""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any

import pytest

import graphs
from bundle import Demo, Ran, Runner
from queues import in_queue, occupy, wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are tested on POSIX")


def submit(server: Demo, graph: Any, client: str | None = "somebody") -> str:
    body = {"prompt": graph} | ({"client_id": client} if client else {})
    prompt_id: str = server.post("/prompt", body)["prompt_id"]
    return prompt_id


def finished(server: Demo, graph: Any) -> str:
    prompt_id = submit(server, graph)
    wait_for(lambda: server.get(f"/history/{prompt_id}"))
    return prompt_id


def released(run: Runner, demo: Demo, blocker: str, *words: object) -> Ran:
    """The monitor with these words; once it listens, the job that holds up the others is stopped."""
    process = run.start("ws_monitor.py", *words, "--host", demo.url)
    wait_for(lambda: demo.asked("/ws") and demo.asked("/queue"))
    demo.post("/interrupt", {"prompt_id": blocker})
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    return Ran(process.returncode, out, err)


def lines(ran: Ran) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ran.out.splitlines()]


def test_the_monitor_tells_the_outcome_of_anothers_job(run: Runner, demo: Demo) -> None:
    good = submit(demo, graphs.sleeper(0.4))
    ran = run("ws_monitor.py", "--prompt-id", good, "--host", demo.url, timeout=60)
    assert (ran.code, ran.json["status"]) == (0, "success")
    bad = submit(demo, graphs.failing())
    ran = run("ws_monitor.py", "--prompt-id", bad, "--host", demo.url, timeout=60)
    assert (ran.code, ran.json["status"]) == (1, "error")
    assert "The weak one" in ran.json["message"]


def test_a_job_that_has_ended_or_never_was_does_not_keep_the_monitor(run: Runner, demo: Demo) -> None:
    ended = finished(demo, graphs.picture())
    assert run("ws_monitor.py", "--prompt-id", ended, "--host", demo.url, timeout=60).code == 0
    ran = run("ws_monitor.py", "--prompt-id", "no-such-job", "--host", demo.url, timeout=60)
    assert (ran.code, ran.json["status"]) == (1, "lost")


def test_all_that_runs_is_seen_though_others_submitted_it(run: Runner, demo: Demo) -> None:
    blocker = occupy(demo, 90)
    ids = {submit(demo, graphs.sleeper(0.5), client) for client in ("a", "b", None)}
    ran = released(run, demo, blocker, "--all")
    assert ran.code == 0
    ends = {job["prompt_id"]: job["status"] for job in ran.json["jobs"]["items"]}
    assert ends == {blocker: "cancelled"} | dict.fromkeys(ids, "success")


def test_json_lines_carry_every_message_cleaned(run: Runner, demo: Demo) -> None:
    # Frames of a run without a client id go to every socket.
    blocker = occupy(demo, 90)
    graph = graphs.sleeper(0.6, steps=4)
    prompt_id = submit(demo, graph, client=None)
    ran = released(run, demo, blocker, "--prompt-id", prompt_id, "--json")
    rows = lines(ran)
    kinds = {row["type"] for row in rows}
    assert {"status", "progress", "progress_state", "job", "ended", "result"} <= kinds
    assert rows[-1]["type"] == "result" and rows[-1]["status"] == "success"
    assert ran.out.isascii()
    steps = [row["data"]["value"] for row in rows if row["type"] == "progress"]
    assert steps == sorted(steps) and steps[-1] == 4


def test_other_peoples_prompts_are_left_out(run: Runner, demo: Demo) -> None:
    mine = submit(demo, graphs.sleeper(0.5), client=None)
    other = submit(demo, graphs.sleeper(0.2), client=None)
    ran = run("ws_monitor.py", "--prompt-id", mine, "--json", "--host", demo.url, timeout=60)
    assert other not in ran.out


def test_previews_are_saved_with_node_step_and_right_suffix(run: Runner, demo: Demo) -> None:
    graph = {
        "5": {
            "class_type": "DemoPreview",
            "inputs": {"format": "PNG", "steps": 30, "max_size": 64, "seed": time.time_ns()},
        },
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "p"}},
    }
    blocker = occupy(demo, 90)
    prompt_id = submit(demo, graph, client=None)
    ran = released(run, demo, blocker, "--prompt-id", prompt_id, "--json", "--previews", "seen")
    saved = [row for row in lines(ran) if row["type"] == "preview_saved"]
    assert saved
    for row in saved:
        assert "_node5_step" in row["file"] and row["file"].endswith(".png")
        assert (run.folder / row["file"]).read_bytes().startswith(b"\x89PNG")


def test_the_time_is_up_and_the_job_goes_on(run: Runner, demo: Demo) -> None:
    prompt_id = submit(demo, graphs.sleeper(90))
    started = time.monotonic()
    ran = run("ws_monitor.py", "--prompt-id", prompt_id, "--timeout", "1", "--host", demo.url)
    assert time.monotonic() - started < 20
    assert (ran.code, ran.json["code"]) == (5, "still_running")
    in_queue(demo, prompt_id)


def test_ctrl_c_leaves_the_job_alone(run: Runner, demo: Demo) -> None:
    prompt_id = submit(demo, graphs.sleeper(90))
    process = run.start("ws_monitor.py", "--prompt-id", prompt_id, "--host", demo.url)
    wait_for(lambda: any(entry["path"] == "/ws" for entry in demo.log()))
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    told = json.loads(out)
    assert (told["status"], told["code"]) == ("cancelled", "interrupted")
    assert [job["prompt_id"] for job in told["jobs"]["items"]] == [prompt_id]
    in_queue(demo, prompt_id)


@pytest.mark.parametrize("lines_wanted", [False, True])
def test_a_monitor_that_is_told_to_stop_says_what_it_saw(run: Runner, demo: Demo, lines_wanted: bool) -> None:
    prompt_id = submit(demo, graphs.sleeper(30))
    words = ["--json"] if lines_wanted else []
    process = run.start("ws_monitor.py", "--prompt-id", prompt_id, *words, "--host", demo.url)
    wait_for(lambda: any(entry["path"] == "/queue" for entry in demo.log()))
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)
    told = json.loads(out.splitlines()[-1] if lines_wanted else out)
    assert (process.returncode, told["code"]) == (5, "still_running")
    assert told["jobs"]["items"][0]["prompt_id"] == prompt_id
    assert f"manage_queue.py wait {prompt_id}" in told["next"][0]
    in_queue(demo, prompt_id)


def test_a_queue_that_cannot_be_read_is_no_empty_queue(run: Runner, demo: Demo) -> None:
    submit(demo, graphs.sleeper(30))
    demo.fault({"name": "502-before", "route": "/queue", "method": "GET", "code": "500", "times": 9})
    ran = run("ws_monitor.py", "--host", demo.url, timeout=15)
    assert (ran.code, ran.json["code"]) == (1, "server_error")


def test_the_monitor_goes_on_while_the_queue_has_jobs(run: Runner, demo: Demo) -> None:
    # More short jobs than it shows at once: when those have ended, others have come up.
    occupy(demo, 1)
    for _ in range(40):
        submit(demo, graphs.sleeper(0.05))
    ran = run("ws_monitor.py", "--host", demo.url, timeout=30)
    assert (ran.code, demo.get("/prompt")["exec_info"]["queue_remaining"]) == (0, 0)
    assert ran.json["jobs"]["count"] > 8


def test_how_far_anothers_job_is_is_unknown_not_zero(run: Runner, demo: Demo) -> None:
    prompt_id = submit(demo, graphs.sleeper(30), client="somebody")
    ran = run("ws_monitor.py", "--prompt-id", prompt_id, "--timeout", "2", "--host", demo.url)
    (job,) = ran.json["jobs"]["items"]
    assert (job["state"], job["share"]) == ("running", None)
    assert "only to the client that submitted it" in job["doing"] and "0%" not in ran.err


def test_the_time_of_a_job_counts_from_its_start(run: Runner, demo: Demo) -> None:
    """It waits five of the eight seconds of the watch: it has run for three, not for eight."""
    blocker = occupy(demo, 90)
    prompt_id = submit(demo, graphs.sleeper(90), client=None)  # its frames come to everybody
    process = run.start("ws_monitor.py", "--prompt-id", prompt_id, "--timeout", "8", "--host", demo.url)
    wait_for(lambda: demo.asked("/ws") and demo.asked("/queue"))
    time.sleep(5)
    demo.post("/interrupt", {"prompt_id": blocker})
    out, _ = process.communicate(timeout=60)
    (job,) = json.loads(out)["jobs"]["items"]
    assert job["state"] == "running" and job["elapsed_seconds"] < 5.5


def test_the_monitor_does_not_disturb_the_submitter(run: Runner, demo: Demo, graph_file: Any) -> None:
    process = run.start(
        "run_workflow.py",
        graph_file(graphs.sleeper(4)),
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--prompt-id",
        graphs.job_id("watched"),
    )
    in_queue(demo, graphs.job_id("watched"))
    monitor = run("ws_monitor.py", "--prompt-id", graphs.job_id("watched"), "--host", demo.url, timeout=60)
    out, err = process.communicate(timeout=60)
    assert (monitor.code, process.returncode) == (0, 0), err
    assert "connection lost" not in err
    assert len(json.loads(out)["outputs"]) == 1


def test_without_a_server_the_monitor_says_so(run: Runner) -> None:
    ran = run("ws_monitor.py", "--host", "127.0.0.1:9")
    assert (ran.code, ran.json["code"]) == (3, "unreachable")


def test_a_failure_is_explained_with_node_inputs_and_next_steps(run: Runner, demo: Demo) -> None:
    prompt_id = finished(demo, graphs.failing("OOM", "no room"))
    ran = run("fetch_logs.py", prompt_id, "--host", demo.url)
    assert (ran.code, ran.json["code"]) == (1, "out_of_memory")
    assert ran.json["node"]["title"] == "The weak one"
    assert ran.json["node"]["inputs"]["message"] == "no room"
    image = ran.json["node"]["inputs"]["image"]
    assert (image["from_node"], image["output"]) == ("1", 0)
    assert ran.json["error"]["traceback"]


def test_secrets_and_huge_values_are_left_out(run: Runner, demo: Demo) -> None:
    graph = graphs.failing()
    graph["7"]["inputs"] |= {
        "api_key": "canary-key-123",
        "auth_token": "canary-token-456",
        "note": "x" * 5000,
    }
    prompt_id = finished(demo, graph)
    ran = run("fetch_logs.py", prompt_id, "--host", demo.url)
    assert "canary" not in ran.out
    assert "x" * 400 not in ran.out


def test_last_and_list(run: Runner, demo: Demo) -> None:
    first, second = finished(demo, graphs.picture()), finished(demo, graphs.failing())
    assert run("fetch_logs.py", "--last", "--host", demo.url).json["prompt_id"] == second
    rows = run("fetch_logs.py", "--list", "5", "--host", demo.url).json["jobs"]["items"]
    assert [row["prompt_id"] for row in rows] == [second, first]
    assert [row["state"] for row in rows] == ["error", "success"]


def test_a_waiting_job_is_told_its_place(run: Runner, demo: Demo) -> None:
    occupy(demo, 25)
    submit(demo, graphs.picture())
    second = submit(demo, graphs.picture())
    ran = run("fetch_logs.py", second, "--host", demo.url)
    assert (ran.code, ran.json["message"]) == (
        5,
        "the job has not ended: it is waiting in the queue, place 2",
    )


def test_a_running_and_an_unknown_job(run: Runner, demo: Demo) -> None:
    running = occupy(demo, 90)
    ran = run("fetch_logs.py", running, "--host", demo.url)
    assert (ran.code, ran.json["code"]) == (5, "still_running")
    ran = run("fetch_logs.py", "no-such-job", "--host", demo.url)
    assert (ran.code, ran.json["status"]) == (1, "lost")


def test_the_servers_own_log_lines(run: Runner, any_server: str, graph_file: Any) -> None:
    # A server that has just begun has logged nothing.
    assert run("run_workflow.py", graph_file(graphs.picture()), "--host", any_server).code == 0
    ran = run("fetch_logs.py", "--server", "--lines", "5", "--host", any_server)
    assert ran.code == 0
    assert 0 < len(ran.json["server_said"]) <= 5


@pytest.mark.parametrize("words", [[], ["a", "--last"], ["--lines", "0", "--server"], ["--list", "-1"]])
def test_fetch_logs_misuse(run: Runner, demo: Demo, words: list[str]) -> None:
    assert run("fetch_logs.py", *words, "--host", demo.url).code == 2


def test_node_times_are_told_where_we_watched(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = run("run_workflow.py", graph_file(graphs.sleeper(0.4)), "--host", demo.url)
    nodes = run("fetch_logs.py", ran.json["prompt_id"], "--host", demo.url).json["nodes"]["items"]
    assert nodes[0]["class_type"] == "DemoSleep"
    assert 0.3 < nodes[0]["seconds"] < 30


def test_the_list_is_in_true_order_and_marks_ours(run: Runner, demo: Demo, graph_file: Any) -> None:
    running = occupy(demo, 90)
    others = [submit(demo, graphs.picture()) for _ in range(4)]
    ours = run(
        "run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--no-wait", "--front"
    ).json["prompt_id"]
    listed = run("manage_queue.py", "list", "--host", demo.url).json
    rows = listed["jobs"]["items"]
    assert [row["prompt_id"] for row in rows] == [running, ours, *others]
    assert [row["prompt_id"] for row in rows if row.get("ours")] == [ours]
    assert (listed["running"], listed["pending"], listed["ours"]) == (1, 5, 1)


def test_cancel_hits_what_was_named_and_asks_for_others(run: Runner, demo: Demo, graph_file: Any) -> None:
    running, waiting = occupy(demo, 90), submit(demo, graphs.picture())
    ours = run("run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--no-wait").json[
        "prompt_id"
    ]
    mine = run("manage_queue.py", "cancel", ours, "--host", demo.url)
    assert (mine.code, mine.json["jobs"][0]["result"]) == (0, "removed")
    refused = run("manage_queue.py", "cancel", running, "--host", demo.url)
    assert (refused.code, refused.json["flag"]) == (7, "--yes")
    done = run("manage_queue.py", "cancel", running, "--yes", "--host", demo.url)
    assert (done.code, done.json["jobs"][0]["result"]) == (0, "cancelled")
    assert wait_for(lambda: demo.get(f"/history/{waiting}"))[waiting]["status"]["status_str"] == "success"


def test_cancel_takes_waiting_jobs_first_and_each_once(run: Runner, demo: Demo) -> None:
    running, waiting = occupy(demo, 25), submit(demo, graphs.picture())
    ran = run("manage_queue.py", "cancel", running, waiting, waiting, "--yes", "--host", demo.url)
    assert ran.code == 0, ran.out
    assert [(job["prompt_id"], job["result"]) for job in ran.json["jobs"]] == [
        (running, "cancelled"),
        (waiting, "removed"),
    ]


def test_cancelling_what_is_not_there_is_no_success(run: Runner, demo: Demo) -> None:
    ran = run("manage_queue.py", "cancel", "nobody", "--host", demo.url)
    assert (ran.code, ran.json["code"]) == (1, "not_found")


def test_clear_takes_ours_and_asks_before_it_takes_all(run: Runner, demo: Demo, graph_file: Any) -> None:
    occupy(demo, 90)
    foreign = submit(demo, graphs.picture())
    run("run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--no-wait")
    ran = run("manage_queue.py", "clear", "--host", demo.url)
    assert (ran.code, ran.json["removed"], ran.json["kept_foreign"]) == (0, 1, 1)
    assert demo.get("/queue")["queue_pending"][0][1] == foreign
    assert run("manage_queue.py", "clear", "--all-users", "--host", demo.url).code == 7
    assert run("manage_queue.py", "clear", "--all-users", "--yes", "--host", demo.url).json["removed"] == 1
    assert demo.get("/queue")["queue_pending"] == []


def test_a_waiting_job_moves_to_the_front_and_runs_once(run: Runner, demo: Demo) -> None:
    running = occupy(demo, 90)
    first, second = submit(demo, graphs.picture()), submit(demo, graphs.picture())
    ran = run("manage_queue.py", "move-front", second, "--host", demo.url)
    assert (ran.code, ran.json["position"]) == (0, 1)
    demo.post("/interrupt", {"prompt_id": running})
    wait_for(lambda: demo.get(f"/history/{first}"))
    order = [entry for entry in demo.get("/history") if entry in (running, first, second)]
    assert order == [running, second, first]
    assert run("manage_queue.py", "move-front", second, "--host", demo.url).code == 1


def test_history_rows_and_their_deletion(run: Runner, demo: Demo, graph_file: Any) -> None:
    ours = run("run_workflow.py", graph_file(graphs.picture()), "--host", demo.url).json["prompt_id"]
    foreign = finished(demo, graphs.picture())
    rows = run("manage_queue.py", "history", "--max", "5", "--host", demo.url).json["jobs"]["items"]
    assert [(row["prompt_id"], row.get("ours", False)) for row in rows] == [(foreign, False), (ours, True)]
    assert run("manage_queue.py", "history-delete", ours, "--host", demo.url).code == 0
    assert run("manage_queue.py", "history-delete", foreign, "--host", demo.url).code == 7
    assert run("manage_queue.py", "history-clear", "--host", demo.url).code == 7
    assert run("manage_queue.py", "history-clear", "--yes", "--host", demo.url).json["left"] == 0
    assert demo.get("/history") == {}


def test_free_asks_the_server_for_what_was_said(run: Runner, demo: Demo) -> None:
    assert run("manage_queue.py", "free", "--models", "--host", demo.url).code == 0
    (entry,) = [entry for entry in demo.log() if entry["path"] == "/free"]
    assert entry["json"] == {"unload_models": True, "free_memory": False}


def test_jobs_are_filtered(run: Runner, demo: Demo) -> None:
    finished(demo, graphs.picture())
    failed = finished(demo, graphs.failing())
    ran = run("manage_queue.py", "jobs", "--status", "error", "--host", demo.url)
    assert [row["prompt_id"] for row in ran.json["jobs"]["items"]] == [failed]


def test_wait_for_several_jobs_tells_each_outcome(run: Runner, demo: Demo) -> None:
    good, bad = submit(demo, graphs.sleeper(0.5)), submit(demo, graphs.failing())
    ran = run(
        "manage_queue.py",
        "wait",
        good,
        bad,
        "no-such-job",
        "--output-dir",
        "out",
        "--host",
        demo.url,
        timeout=60,
    )
    assert (ran.code, ran.json["status"]) == (1, "partial")
    outcome = {job["prompt_id"]: job["status"] for job in ran.json["jobs"]}
    assert outcome == {good: "success", bad: "error", "no-such-job": "lost"}
    assert len(list((run.folder / "out").iterdir())) == 2


def test_wait_that_runs_out_of_time(run: Runner, demo: Demo) -> None:
    prompt_id = occupy(demo, 90)
    ran = run("manage_queue.py", "wait", prompt_id, "--timeout", "0.5", "--host", demo.url)
    assert (ran.code, ran.json["waiting"]) == (5, [prompt_id])


def test_out_of_memory_is_tried_once_more_after_freeing(run: Runner, demo: Demo, graph_file: Any) -> None:
    graph = graphs.failing("OOM")
    ran = run("run_workflow.py", graph_file(graph), "--host", demo.url, "--retry-oom")
    assert (ran.code, ran.json["code"]) == (1, "out_of_memory")
    assert ran.json["retried"]["first_prompt_id"] != ran.json["prompt_id"]
    paths = [entry["path"] for entry in demo.log() if entry["method"] == "POST"]
    assert paths.count("/prompt") == 2 and paths.count("/free") == 1
    assert paths.index("/free") > paths.index("/prompt")


def test_a_failure_for_memory_is_told_though_the_memory_cannot_be_freed(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    demo.fault("502-before:route=/free,method=POST")
    ran = run("run_workflow.py", graph_file(graphs.failing("OOM")), "--retry-oom", "--host", demo.url)
    assert (ran.code, ran.json["code"]) == (1, "out_of_memory")
    assert ran.json["prompt_id"] and "proposals" in ran.json and "retried" not in ran.json
    assert "could not be freed" in ran.err


def test_without_the_flag_nothing_is_repeated(run: Runner, demo: Demo, graph_file: Any) -> None:
    run("run_workflow.py", graph_file(graphs.failing("OOM")), "--host", demo.url)
    assert [entry["path"] for entry in demo.log() if entry["method"] == "POST"].count("/prompt") == 1


def test_proposals_are_made_for_this_graph() -> None:
    from comfyskill.run import memory

    graph = {
        "1": {
            "class_type": "UNETLoader",
            "inputs": {"unet_name": "flux1-dev.safetensors", "weight_dtype": "default"},
        },
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": 768, "batch_size": 4}},
        "3": {"class_type": "VAEDecode", "inputs": {"samples": ["2", 0], "vae": ["1", 0]}},
        "4": {
            "class_type": "EmptyHunyuanLatentVideo",
            "inputs": {"width": 256, "height": 256, "length": 81, "batch_size": 1},
        },
    }
    said = [item["use"] for item in memory.proposals(graph)]
    assert said[0] == "--tiled-vae"
    assert {
        "--set 1.weight_dtype=fp8_e4m3fn", "--set 2.batch_size=1", "--set 2.width=768 --set 2.height=576",
        "--set 4.length=49",
    } <= set(said)  # fmt: skip


def test_a_graph_without_sizes_gets_proposals_too(run: Runner, demo: Demo, graph_file: Any) -> None:
    graph = graphs.failing("OOM")
    ran = run("run_workflow.py", graph_file(graph), "--host", demo.url)
    told = run("fetch_logs.py", ran.json["prompt_id"], "--host", demo.url).json["proposals"]
    assert told == ran.json["proposals"]
    assert "manage_queue.py free --models --memory" in told[0]["use"]
    assert "start the server" in told[-1]["use"]


def test_tiled_decoding_swaps_the_node(run: Runner, demo: Demo) -> None:
    from bundle import ROOT

    ran = run(
        "run_workflow.py",
        ROOT / "workflows/sd15_txt2img.json",
        "--tiled-vae",
        "--dry-run",
        "--host",
        demo.url,
    )
    classes = [node["class_type"] for node in ran.json["graph"].values()]
    assert "VAEDecodeTiled" in classes and "VAEDecode" not in classes
    assert any("tiles" in note for note in ran.json["notes"])
    assert not any("tiles" in words for words in ran.json.get("warnings", []))


def test_an_added_lora_is_a_note_and_no_warning(run: Runner, demo: Demo) -> None:
    from bundle import ROOT

    workflow = ROOT / "workflows/sdxl_txt2img.json"
    lora = "sd_xl_offset_example-lora_1.0:0.7"
    ran = run("run_workflow.py", workflow, "--lora", lora, "--dry-run", "--host", demo.url)
    assert any("strength 0.7" in note for note in ran.json["notes"])
    assert not any("strength" in words for words in ran.json.get("warnings", []))


def test_run_workflow_and_fetch_logs_tell_one_failure_alike(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = run("run_workflow.py", graph_file(graphs.failing("OOM")), "--host", demo.url)
    told = run("fetch_logs.py", ran.json["prompt_id"], "--host", demo.url)
    assert "out of memory" in ran.json["message"]
    assert ran.json["message"] == told.json["message"]
    assert ran.json["error"]["traceback"] == told.json["error"]["traceback"]
    assert ran.json["error"]["inputs"]
    assert ran.json["error"]["inputs"].items() <= told.json["node"]["inputs"].items()


def test_the_innermost_frame_of_a_traceback_comes_first() -> None:
    from comfyskill.run import verdict
    from comfyskill.server.protocol import JobState

    trace = [
        '  File "a.py", line 1, in outer\n    inner()\n',
        '  File "b.py", line 2, in inner\n    raise X\n',
    ]
    state = JobState("id", "done", outcome="error", error={"node_id": "1", "traceback": trace})
    lines = verdict.failure(state, {"1": {"class_type": "A", "inputs": {"api_key": "s3cret"}}}).error
    assert lines is not None
    assert [line.strip() for line in lines["traceback"]][:2] == ['File "b.py", line 2, in inner', "raise X"]
    assert "s3cret" not in str(lines)


def test_a_second_run_knows_how_long_the_first_took(run: Runner, demo: Demo, graph_file: Any) -> None:
    first = run("run_workflow.py", graph_file(graphs.sleeper(0.5, seed=1)), "--host", demo.url)
    assert "estimate" not in first.json
    second = run("run_workflow.py", graph_file(graphs.sleeper(0.5, seed=2)), "--host", demo.url)
    assert 0.3 < second.json["estimate"]["seconds"] < 30
    third = run("run_workflow.py", graph_file(graphs.sleeper(0.5, seed=3)), "--host", demo.url, "--no-cache")
    assert "estimate" not in third.json


def test_estimates_in_words() -> None:
    from comfyskill.run.times import Estimate

    assert Estimate(360, 300, 420, 4).as_text() == "about 6 min (5 to 7)"
    assert Estimate(12.4, 12.4, 12.4, 1).as_text() == "about 12 s"


@pytest.mark.parametrize(
    ("exception", "message", "code"),
    [
        ("torch.OutOfMemoryError", "Allocation on device 0 would exceed allowed memory.", "out_of_memory"),
        (
            "node_execution_error",
            "Allocation on device ",
            "out_of_memory",
        ),  # API v2 drops the exception's type
        (
            "RuntimeError",
            "mat1 and mat2 shapes cannot be multiplied (154x2048 and 768x320)",
            "family_mismatch",
        ),
        (
            "RuntimeError",
            "ERROR: clip input is invalid: None\n\nIf the clip is from a checkpoint",
            "wrong_loader",
        ),
        ("PIL.UnidentifiedImageError", "cannot identify image file", "bad_image"),
        (
            "safetensors_rust.SafetensorError",
            "Error while deserializing header: HeaderTooLarge",
            "broken_model",
        ),
        ("ModuleNotFoundError", "No module named 'insightface'", "import_failure"),
        ("Exception", "Unauthorized: Please login first to use this node.", "partner_login"),
        ("InsufficientFundsError", "", "no_credits"),
        ("FileNotFoundError", "Model in folder 'checkpoints' not found", "missing_file"),
        ("ZeroDivisionError", "division by zero", "execution_error"),
    ],
)
def test_known_failures_are_told_apart(exception: str, message: str, code: str) -> None:
    from comfyskill.graph import diagnose

    assert diagnose.diagnose(exception, message).code == code


def test_a_filter_looks_further_back_than_it_shows(run: Runner, demo: Demo) -> None:
    failed = [finished(demo, graphs.failing()) for _ in range(2)]
    for _ in range(3):
        finished(demo, graphs.picture())
    ran = run("manage_queue.py", "jobs", "--status", "error", "--max", "2", "--host", demo.url)
    assert [row["prompt_id"] for row in ran.json["jobs"]["items"]] == failed[::-1]


@pytest.mark.parametrize(
    ("number", "code", "status"), [(signal.SIGINT, 130, "cancelled"), (signal.SIGTERM, 5, "timeout")]
)
def test_a_wait_that_is_stopped_tells_what_has_come(
    run: Runner, demo: Demo, number: int, code: int, status: str
) -> None:
    short, long = submit(demo, graphs.sleeper(0.2)), submit(demo, graphs.sleeper(90))
    process = run.start("manage_queue.py", "wait", short, long, "--output-dir", "out", "--host", demo.url)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(short):
            break
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    told = json.loads(out)
    assert (told["status"], told["waiting"]) == (status, [long])
    assert [(job["prompt_id"], job["status"]) for job in told["jobs"]] == [(short, "success")]
    assert long in told["next"][0] and short not in told["next"][0]
    assert demo.get("/queue")["queue_running"][0][1] == long, "the job goes on"


def test_a_job_that_cannot_be_put_in_again_is_not_lost(run: Runner, demo: Demo) -> None:
    occupy(demo, 90)
    submit(demo, graphs.sleeper(1))
    graph = graphs.sleeper(2)
    last = submit(demo, graph)
    demo.fault("status:route=/prompt,method=POST,code=400")
    ran = run("manage_queue.py", "move-front", last, "--host", demo.url)
    assert ran.code in (1, 6)
    assert (ran.json["prompt_id"], "removed from the queue" in ran.json["message"]) == (last, True)
    assert ran.json["graph"] == json.loads(json.dumps(graph))


@pytest.mark.parametrize(
    "words", [("wait", "x", "--timeout", "nan"), ("jobs", "--offset", "-1"), ("list", "--max", "x")]
)
def test_numbers_that_make_no_sense_are_misuse(run: Runner, words: tuple[str, ...]) -> None:
    ran = run("manage_queue.py", *words)
    assert ran.code == 2
    assert words[-1] in ran.json["message"] and "_" not in ran.json["message"]


def test_the_last_job_is_ours_though_another_ended_later(run: Runner, demo: Demo, graph_file: Any) -> None:
    mine = run("run_workflow.py", graph_file(graphs.failing()), "--host", demo.url).json["prompt_id"]
    finished(demo, graphs.picture())
    assert run("fetch_logs.py", "--last", "--host", demo.url).json["prompt_id"] == mine


def test_a_wait_says_how_long_it_waited(run: Runner, demo: Demo) -> None:
    blocker = occupy(demo, 90)
    prompt_id = submit(demo, graphs.sleeper(0.3))
    process = run.start("manage_queue.py", "wait", prompt_id, "--output-dir", "out", "--host", demo.url)
    wait_for(lambda: demo.asked("/ws"))
    demo.post("/interrupt", {"prompt_id": blocker})
    out, _err = process.communicate(timeout=60)
    (job,) = json.loads(out)["jobs"]
    assert job["seconds"] >= job["execution_seconds"] > 0


def test_a_monitor_without_previews_says_why(run: Runner, demo: Demo) -> None:
    prompt_id = submit(demo, graphs.sleeper(0.2))
    words = ("--prompt-id", prompt_id, "--host", demo.url)
    assert "previews_note" in run("ws_monitor.py", *words, "--previews", "seen", timeout=60).json
    assert "previews_note" not in run("ws_monitor.py", *words, timeout=60).json


NODE_CALL = '  File "/c/execution.py", line 310, in process_inputs\n    result = f(**inputs)\n'
V3_NODE_CALL = '  File "/c/_io.py", line 1990, in EXECUTE_NORMALIZED\n    r = cls.execute(*args, **kwargs)\n'
DEEP_CALL = '  File "/c/comfy/sd.py", line 20, in load\n    load_state_dicts(x, disable=True)\n'


@pytest.mark.parametrize(
    ("trace", "code"),
    [
        ([], "node_version"),
        ([NODE_CALL], "node_version"),
        ([NODE_CALL, V3_NODE_CALL], "node_version"),
        ([NODE_CALL, DEEP_CALL], "execution_error"),
    ],
)
def test_a_wrong_call_is_the_nodes_only_when_it_is_the_call_of_the_node(trace: list[str], code: str) -> None:
    from comfyskill.run import verdict
    from comfyskill.server.protocol import JobState

    error = {
        "node_id": "1", "exception_type": "TypeError", "traceback": trace,
        "exception_message": "load() got an unexpected keyword argument 'disable'",
    }  # fmt: skip
    assert verdict.failure(JobState("id", "done", outcome="error", error=error), {}).code == code


@pytest.mark.parametrize(
    ("version", "flag", "other"),
    [("0.33.0", "--vram-headroom", "--lowvram"), ("0.8.0", "--lowvram", "--vram-headroom")],
)
def test_memory_advice_fits_the_version(version: str, flag: str, other: str) -> None:
    from comfyskill.run import memory
    from comfyskill.server.facts import Inventory

    server = Inventory({"system": {"system": {"comfyui_version": version}}}, "http://127.0.0.1:8188")
    uses = " ".join(item["use"] for item in memory.proposals({}, server))
    assert flag in uses and other not in uses
