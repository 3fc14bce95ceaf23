"""A batch on several servers: work is shared, nothing is lost when one dies, crawls, hangs or lacks something."""

from __future__ import annotations

import csv
import json
import signal
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import graphs
from batches import journal
from bundle import Demo, Runner
from comfyskill.batch.fill import Filler
from comfyskill.batch.flights import BatchOptions, Flight, Todo
from comfyskill.batch.journal import NAME, Journal, Recorded
from comfyskill.batch.lane import Lane
from comfyskill.batch.plan import Axis, Plan
from comfyskill.batch.recipe import Recipe
from comfyskill.batch.scheduler import Batch
from comfyskill.run.job import Options
from comfyskill.run.prepare import Wishes
from comfyskill.server.local import Local
from comfyskill.source import read
from queues import wait_for

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are tested on POSIX")


def hosts_in(folder: Path) -> Counter[str]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return Counter(row["host"] for row in csv.DictReader(file))


def finished(*servers: Demo) -> Counter[int]:
    """How often each seed ended well, over all servers."""
    good = [
        entry
        for server in servers
        for entry in server.get("/history").values()
        if entry["status"]["status_str"] == "success"
    ]
    return Counter(entry["prompt"][2]["1"]["inputs"]["seed"] for entry in good)


def downloaded(run: Runner, count: int) -> Any:
    path = run.folder / "out" / "batch.jsonl"
    return lambda: path.exists() and path.read_text().count('"event":"downloaded"') >= count


def test_two_servers_share_the_work(run: Runner, new_demo: Any, graph_file: Any) -> None:
    one, two = new_demo(), new_demo()
    hosts = run.folder / "hosts.txt"
    hosts.write_text(f"# my machines\n{one.url}\n\n{two.url}\n")
    ran = run(
        "run_batch.py", graph_file(graphs.sleeper(0.4, 2, seed=100)), "--host", f"@{hosts}", "--output-dir", "out",
        "--count", 16,
    )  # fmt: skip
    assert ran.code == 0, ran.out
    shares = hosts_in(run.folder / "out")
    assert set(shares) == {one.url, two.url} and min(shares.values()) >= 4
    assert finished(one, two) == Counter(range(100, 116))
    assert {row["host"]: row["runs"] for row in ran.json["hosts"]} == dict(shares)


def test_a_server_that_dies_has_its_runs_moved(run: Runner, new_demo: Any, graph_file: Any) -> None:
    one, two = new_demo(), new_demo()
    process = run.start(
        "run_batch.py", graph_file(graphs.sleeper(0.4, 2, seed=100)), "--host", one.url, "--host", two.url,
        "--output-dir", "out", "--count", 20, "--reconnect-time", 1.5,
    )  # fmt: skip
    wait_for(downloaded(run, 4))
    one.stop()
    out, err = process.communicate(timeout=60)
    document = json.loads(out)
    assert process.returncode == 0, out
    assert document["succeeded"] == 20 and document["moved"] >= 1
    assert "Traceback" not in err
    assert "problem" in next(row for row in document["hosts"] if row["host"] == one.url)


def test_a_server_that_lacks_a_node_takes_no_part(run: Runner, new_demo: Any, graph_file: Any) -> None:
    only = run.folder / "only.json"
    only.write_text(
        json.dumps(
            {
                "OnlyHere": {
                    "input": {"required": {"image": ["IMAGE"]}},
                    "output": ["IMAGE"],
                    "output_name": ["IMAGE"],
                }
            }
        )
    )
    one, two = new_demo(), new_demo("--definitions", str(only))
    graph = graphs.picture()
    graph["5"] = {"class_type": "OnlyHere", "inputs": {"image": ["1", 0]}}
    graph["2"]["inputs"]["images"] = ["5", 0]
    ran = run(
        "run_batch.py", graph_file(graph), "--host", one.url, "--host", two.url, "--output-dir", "out", "--sweep",
        "1.color=1:6:1",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    assert set(hosts_in(run.folder / "out")) == {two.url}
    assert any(one.url in words and "OnlyHere" in words for words in ran.json["warnings"])
    alone = run("run_batch.py", graph_file(graph), "--host", one.url, "--count", 2)
    assert (alone.code, alone.json["missing_nodes"]) == (6, ["OnlyHere"])


def loader(model: str) -> Any:
    graph = graphs.picture()
    graph["7"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": model}}
    graph["8"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    graph["9"] = {"class_type": "VAEDecode", "inputs": {"samples": ["8", 0], "vae": ["7", 2]}}
    graph["2"]["inputs"]["images"] = ["9", 0]
    return graph


def test_each_model_runs_where_it_is(run: Runner, new_demo: Any, graph_file: Any) -> None:
    one, two = (
        new_demo("--models", "checkpoints=a.safetensors"),
        new_demo("--models", "checkpoints=b.safetensors"),
    )
    ran = run(
        "run_batch.py", graph_file(loader("a.safetensors")), "--host", one.url, "--host", two.url, "--output-dir",
        "out", "--sweep", "ckpt_name=a.safetensors,b.safetensors", "--sweep", "width=64,128",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    with (run.folder / "out" / "results.csv").open(encoding="utf-8", newline="") as file:
        places = {(row["ckpt_name"][0], row["host"]) for row in csv.DictReader(file)}
    assert places == {("a", one.url), ("b", two.url)}
    nowhere = run(
        "run_batch.py", graph_file(loader("a.safetensors")), "--host", one.url, "--host", two.url, "--output-dir",
        "no", "--sweep", "ckpt_name=a.safetensors,c.safetensors",
    )  # fmt: skip
    assert nowhere.code == 2 and "c.safetensors" in nowhere.out


def test_a_server_without_the_model_takes_no_part(run: Runner, new_demo: Any, graph_file: Any) -> None:
    one, two = (
        new_demo("--models", "checkpoints=a.safetensors"),
        new_demo("--models", "checkpoints=b.safetensors"),
    )
    ran = run(
        "run_batch.py", graph_file(loader("b.safetensors")), "--host", one.url, "--host", two.url, "--output-dir",
        "out", "--sweep", "width=64,128,192",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    assert set(hosts_in(run.folder / "out")) == {two.url}


def test_a_crawling_server_loses_its_waiting_runs(run: Runner, new_demo: Any, graph_file: Any) -> None:
    slow, quick = new_demo(), new_demo()
    slow.fault("slow-start:ms=4000")
    ran = run(
        "run_batch.py", graph_file(graphs.sleeper(0.1, 2, seed=100)), "--host", slow.url, "--host", quick.url,
        "--output-dir", "out", "--count", 14, "--no-report",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    assert len(finished(slow)) <= 3, "its share would have been seven"
    assert finished(slow, quick) == Counter(range(100, 114))


def test_a_server_that_answers_no_more_is_given_up(run: Runner, new_demo: Any, graph_file: Any) -> None:
    one, two = new_demo(), new_demo()
    process = run.start(
        "run_batch.py", graph_file(graphs.sleeper(0.2, 2, seed=100)), "--host", one.url, "--host", two.url,
        "--output-dir", "out", "--count", 12, "--reconnect-time", 2, "--no-report",
    )  # fmt: skip
    wait_for(downloaded(run, 2))
    one.process.send_signal(signal.SIGSTOP)
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        one.process.send_signal(signal.SIGCONT)
    document = json.loads(out)
    assert process.returncode == 0, out
    assert document["succeeded"] == 12 and document["moved"] >= 1


def test_a_server_that_comes_back_runs_nothing_a_second_time(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    one, two = new_demo(), new_demo()
    process = run.start(
        "run_batch.py", graph_file(graphs.sleeper(0.4, 2, seed=100)), "--host", one.url, "--host", two.url,
        "--output-dir", "out", "--count", 24, "--reconnect-time", 1, "--no-report",
    )  # fmt: skip
    wait_for(downloaded(run, 1))
    one.process.send_signal(signal.SIGSTOP)  # it keeps its queue, and says nothing
    path = run.folder / "out" / "batch.jsonl"
    try:
        wait_for(lambda: '"event":"moved"' in path.read_text())
    finally:
        one.process.send_signal(signal.SIGCONT)
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0, out
    assert json.loads(out)["succeeded"] == 24
    queue = one.get("/queue")
    assert queue["queue_running"] == [] and queue["queue_pending"] == []
    ended = finished(one, two)
    assert '"event":"moved"' in path.read_text() and set(ended) == set(range(100, 124))
    assert sum(ended.values()) <= 25, "only the one that was running may have ended here as well"


def moved_away(folder: Path, server: Demo) -> set[str]:
    """The prompt ids that the journal says may still be on a server that fell silent."""
    lines = (folder / "batch.jsonl").read_bytes().split(b"\n")[:-1]
    events = [json.loads(line) for line in lines]
    left = {event["prompt_id"] for event in events if event["event"] == "moved" and event.get("left")}
    return left - {event["prompt_id"] for event in events if event["event"] == "cleared"} if server else left


def queued(server: Demo) -> set[str]:
    queue = server.get("/queue")
    return {item[1] for key in ("queue_running", "queue_pending") for item in queue[key]}


def test_a_later_session_cancels_what_was_moved_off_a_silent_server(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    """The first session ends while one server says nothing; that one wakes up with our runs in its queue."""
    one, two = new_demo(), new_demo()
    workflow = graph_file(graphs.sleeper(1.0, 2, seed=100))
    process = run.start(
        "run_batch.py", workflow, "--host", one.url, "--host", two.url, "--output-dir", "out", "--count", 7,
        "--reconnect-time", 1, "--no-report",
    )  # fmt: skip
    wait_for(lambda: len(queued(one)) >= 3)
    one.process.send_signal(signal.SIGSTOP)
    try:
        out, _ = process.communicate(timeout=90)
    finally:
        one.process.send_signal(signal.SIGCONT)
    document = json.loads(out)
    assert process.returncode == 0, out
    assert document["left_behind"][one.url]["count"] >= 2
    (warning,) = document["warnings"]
    assert one.url in warning and "--resume" in warning
    left = moved_away(run.folder / "out", one)
    assert left & queued(one), "the server that woke up has our runs"
    command = warning.partition("cancels what is left there: ")[2].split()
    resumed = run("run_batch.py", *command[2:], "--no-report")
    assert resumed.code == 0 and resumed.json["done_before"] == 7, resumed.out
    assert "left_behind" not in resumed.json
    assert moved_away(run.folder / "out", one) == set()
    wait_for(lambda: not queued(one))
    done = {key for key, entry in one.get("/history").items() if entry["status"]["status_str"] == "success"}
    assert len(left & done) <= 1, "only the one that was executing may have ended"
    journal = (run.folder / "out" / "batch.jsonl").read_bytes()
    again = run("run_batch.py", *command[2:], "--no-report")
    assert again.code == 0
    assert journal.count(b'"cleared"') == (run.folder / "out" / "batch.jsonl").read_bytes().count(
        b'"cleared"'
    )


def test_a_server_that_falls_silent_within_a_submit_does_not_keep_that_run(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    one, two = new_demo("--fault", "delay:route=/prompt,method=POST,ms=600000"), new_demo()
    process = run.start(
        "run_batch.py", graph_file(graphs.sleeper(0.1, 2, seed=100)), "--host", one.url, "--host", two.url,
        "--output-dir", "out", "--count", 4, "--reconnect-time", 1, "--no-report",
    )  # fmt: skip
    wait_for(lambda: any((row["method"], row["path"]) == ("POST", "/prompt") for row in one.log()))
    one.process.send_signal(signal.SIGSTOP)
    try:
        out, _ = process.communicate(timeout=50)  # the submit itself would be waited for longer
    finally:
        one.process.send_signal(signal.SIGCONT)
    document = json.loads(out)
    assert (process.returncode, document["succeeded"]) == (0, 4), out
    assert [row["runs"] for row in document["hosts"] if row["host"] == two.url] == [4]
    assert document["left_behind"][one.url]["count"] == 1


def test_a_killed_batch_follows_moved_runs_where_they_still_are(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    """Runs that were moved but not yet submitted elsewhere are taken up again on the server that has them."""
    one, two = new_demo(), new_demo()
    process = run.start(
        "run_batch.py", graph_file(graphs.sleeper(0.6, 2, seed=100)), "--host", one.url, "--host", two.url,
        "--output-dir", "out", "--count", 14, "--reconnect-time", 1, "--no-report",
    )  # fmt: skip
    wait_for(lambda: len(queued(one)) >= 4)
    one.process.send_signal(signal.SIGSTOP)
    try:
        wait_for(lambda: moved_away(run.folder / "out", one))
        process.kill()
        process.communicate()
    finally:
        one.process.send_signal(signal.SIGCONT)
    resumed = run("run_batch.py", "--resume", "out", "--no-report")
    assert resumed.code == 0, resumed.out
    ended = finished(one, two)
    assert set(ended) == set(range(100, 114))
    assert sum(ended.values()) <= 15, "only the one that was executing may have run twice"
    assert queued(one) == queued(two) == set()


def test_a_run_that_ends_on_a_server_while_it_is_out_of_reach_is_taken_from_there(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    """The executing run is the last one that others take over; a run that both executed is counted."""
    one, two = new_demo(), new_demo()
    process = run.start(
        "run_batch.py", graph_file(graphs.sleeper(1.0, 2, seed=100)), "--host", one.url, "--host", two.url,
        "--output-dir", "out", "--count", 10, "--reconnect-time", 0.5, "--no-report",
    )  # fmt: skip
    wait_for(lambda: len(queued(one)) >= 4)
    (executing,) = one.get("/queue")["queue_running"]
    one.fault("drop-socket:frames=1", "down:ms=2000")
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, out
    ended = finished(one, two)
    assert set(ended) == set(range(100, 110))
    assert json.loads(out)["moved"] >= 1 and ended[executing[2]["1"]["inputs"]["seed"]] == 1
    twice = sum(ended.values()) - len(ended)
    assert json.loads(out).get("ran_twice", 0) == twice == err.count("ran twice")
    assert moved_away(run.folder / "out", one) == queued(one) == queued(two) == set()


def test_what_a_server_finished_before_its_cancel_came_is_counted(tmp_path: Path, new_demo: Any) -> None:
    from comfyskill.server.protocol import Submission

    batch, [lane] = batch_on(tmp_path, new_demo())
    late, never_there = (batch.prompt_id(run, 1) for run in range(2))
    lane.server.submit(Submission(graphs.picture(), late, "client"))
    wait_for(lambda: lane.server.state(late).done)
    batch.note_move(Todo(0), late, lane.url, left=True)
    batch.note_move(Todo(1), never_there, lane.url, left=True)

    lane.clear()
    assert batch.tally.events["ran_twice"] == 1
    assert batch.left_on(lane.url) == [never_there], "a run that was just sent may not be listed yet"
    wait_for(lambda: lane.clear() or not batch.left_on(lane.url))
    assert batch.tally.events["ran_twice"] == 1
    cleared = [row["prompt_id"] for row in journal(tmp_path) if row["event"] == "cleared"]
    assert cleared == [late, never_there]


def test_one_of_two_that_never_answers_is_left_out(run: Runner, new_demo: Any, graph_file: Any) -> None:
    one = new_demo()
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", "http://127.0.0.1:9", "--host", one.url,
        "--output-dir", "out", "--sweep", "1.color=1:4:1", "--no-report",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    assert "127.0.0.1:9" in ran.err


def test_files_of_a_silent_server_do_not_stand_before_those_of_the_others(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    """One server hands out no file; the other one's runs come home all the same, and --resume fetches the rest."""
    one, two = new_demo(), new_demo()
    one.fault("hang:route=/view")
    process = run.start(
        "run_batch.py", graph_file(graphs.picture()), "--host", one.url, "--host", two.url, "--output-dir", "out",
        "--sweep", "1.color=1:200:1", "--no-report",
    )  # fmt: skip
    path = run.folder / "out" / "batch.jsonl"
    wait_for(lambda: path.exists() and path.read_bytes().count(b'"finished"') == 200)
    on_two = len(two.get("/history?max_items=999"))
    assert 0 < on_two < 200
    wait_for(lambda: path.read_bytes().count(b'"downloaded"') == on_two)
    process.kill()
    process.communicate()
    one.fault()
    resumed = run("run_batch.py", "--resume", "out", "--no-report")
    assert resumed.code == 0 and resumed.json["done_before"] == on_two, resumed.out
    assert len(list((run.folder / "out").glob("run_*/*.png"))) == 200


def test_files_of_a_server_that_stays_away_are_given_up_together(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    """The first ones wait out --reconnect-time; forty times that would keep a finished batch waiting."""
    one = new_demo()
    one.fault("slow-body:route=/view,rate=200")
    process = run.start(
        "run_batch.py", graph_file(graphs.picture()), "--host", one.url, "--output-dir", "out", "--sweep",
        "1.color=1:40:1", "--no-report", "--reconnect-time", 2,
    )  # fmt: skip
    path = run.folder / "out" / "batch.jsonl"
    wait_for(lambda: path.exists() and path.read_bytes().count(b'"finished"') == 40)
    one.stop()
    began = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 40, "one after the other would be 80 s"
    document = json.loads(out)
    assert document["failures"]["count"] >= 30
    assert {row["status"] for row in document["failures"]["items"]} == {"download_failed"}


def test_a_lost_submit_says_by_a_word_of_its_own_whether_the_server_was_away() -> None:
    from comfyskill.base.cli import SkillError
    from comfyskill.batch import lane
    from comfyskill.server import local, transport, v2
    from comfyskill.server.protocol import Submission

    submission = Submission({}, "id", "client")
    with pytest.raises(SkillError) as away:
        local.Local("http://127.0.0.1:9")._search(submission, 0.0, transport.AnswerLost("reset"))
    assert away.value.code == "submit_unknown" and lane.out_of_reach(away.value)
    silent = v2.V2("http://127.0.0.1:9")._unknown(submission, "")
    assert silent.code == "submit_unknown" and not lane.out_of_reach(silent)


def test_ctrl_c_does_not_wait_for_files_of_a_silent_server(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    one = new_demo()
    one.fault("hang:route=/view")
    process = run.start(
        "run_batch.py", graph_file(graphs.picture()), "--host", one.url, "--output-dir", "out", "--sweep",
        "1.color=1:8:1", "--no-report",
    )  # fmt: skip
    path = run.folder / "out" / "batch.jsonl"
    wait_for(lambda: path.exists() and path.read_bytes().count(b'"finished"') == 8)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    for line in process.stderr:
        if "Ctrl-C again" in line:
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and json.loads(out)["not_run"] == 8
    one.fault()
    resumed = run("run_batch.py", "--resume", "out", "--no-report")
    assert resumed.code == 0 and len(one.get("/history?max_items=99")) == 8, resumed.out


def batch_on(folder: Path, *demos: Any) -> tuple[Batch, list[Lane]]:
    """A batch of a hundred runs in a folder, with a lane (not started) for each server."""
    source = read.Source(graphs.picture(), None, "test", False, [], [], [])
    plan = Plan((Axis("sweep", ("1.color",), list(range(100))),), str(uuid.uuid4()))
    recipe = Recipe(source, Wishes(), plan)
    options = BatchOptions(folder, Options(folder))
    lines = Journal(folder / NAME, fresh=True)
    lines.write("plan")
    batch = Batch(recipe, options, lines, Recorded({}, 0))
    servers = [Local(demo.url) for demo in demos]
    lanes = [Lane(batch, server, Filler(recipe, server)) for server in servers]
    batch.servers = [lane.here for lane in lanes]
    return batch, lanes


@pytest.mark.parametrize("by_event", [True, False], ids=["by-an-event", "by-polling"])
def test_a_running_job_stays_on_its_server_and_a_waiting_one_moves(
    tmp_path: Path, by_event: bool, new_demo: Any
) -> None:
    """Both were asked for while they waited; one has started since. A batch that polls hears of no start."""
    from comfyskill.server.protocol import Submission

    batch, [lane, other] = batch_on(tmp_path, new_demo(), new_demo())
    server, here = lane.server, lane.here
    ids = running_id, waiting_id = batch.prompt_id(0, 1), batch.prompt_id(1, 1)
    for number, prompt_id in enumerate(ids):
        graph = graphs.sleeper(60.0, 600, seed=number)
        server.submit(Submission(graph, prompt_id, "client"))
        here.add(prompt_id, Flight(Todo(number, prompt_id=prompt_id), graph, {}, 0.0))
        here.ask_for(prompt_id)
    wait_for(lambda: server.state(running_id).phase == "running")
    running = here.get(running_id)
    assert running is not None
    if by_event:
        running.started = time.monotonic()
    lane.release_asked_for()

    assert server.state(running_id).phase == "running" and server.state(waiting_id).phase == "unknown"
    assert here.ids == [running_id] and not here.asked_for
    assert here.waiting() == [], "it is not asked for again"
    moved = batch.take(other.url)
    assert moved is not None and (moved.run, moved.attempt) == (1, 2)
    server.cancel(running_id)


def test_an_idle_server_asks_for_no_run_that_executes(tmp_path: Path, new_demo: Any) -> None:
    batch, [slow, idle] = batch_on(tmp_path, new_demo(), new_demo())
    for number, prompt_id in enumerate(["running", "waiting"]):
        slow.here.add(prompt_id, Flight(Todo(number), {}, {}, 0.0))
    running = slow.here.get("running")
    assert running is not None
    running.started = time.monotonic() - 3600
    slow.here.seconds_each, idle.here.seconds_each = 3600.0, 0.1

    batch.ask_for_work(idle.here)
    assert slow.here.asked_for == ["waiting"]
    slow.here.remove("waiting")
    batch.ask_for_work(idle.here)
    assert slow.here.asked_for == []
    assert slow.here.ids == ["running"]


def test_runs_of_a_silent_server_are_taken_once_and_remembered(tmp_path: Path, new_demo: Any) -> None:
    batch, [silent, idle] = batch_on(tmp_path, new_demo(), new_demo())
    batch.options = batch.options._replace(run=batch.options.run._replace(patience=0.0))
    for number, prompt_id in enumerate(["first", "last"]):
        silent.here.add(prompt_id, Flight(Todo(number, prompt_id=prompt_id), {}, {}, 0.0))

    batch.ask_for_work(idle.here)
    assert not len(silent.here) and silent.here.remove("first") is None
    assert batch.left == {silent.url: ["last", "first"]} and batch.was_silent(silent.url)
    taken = [batch.take(idle.url) for _ in range(2)]
    assert [todo and (todo.run, todo.left and todo.left.prompt_id) for todo in taken] == [
        (1, "last"),
        (0, "first"),
    ]
