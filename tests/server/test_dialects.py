"""One contract, three protocols: the same scenarios on a ComfyUI, on Comfy Cloud v1 and on Comfy API v2.

Nothing changes between them but `--host` (and the key that the cloud wants).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import _common
import graphs
from bundle import Demo, Ran, Runner
from comfyskill.base.cli import SkillError
from comfyskill.server import connect as server_connect
from comfyskill.server.protocol import Dialect, Submission
from comfyskill.server.watch import Ended, Watcher
from v2_servers import Hosted, Proxy, refuse, running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are tested on POSIX")

KEY = "comfyui-demo-key"


@dataclass
class Place:
    """A server to run on: `api` is the protocol that must be found, `behind` the demo server that does the work."""

    api: str
    url: str
    behind: Demo
    key: str | None = None

    def words(self, folder: Path) -> list[object]:
        """The flags that name it."""
        words: list[object] = ["--host", self.url, "--output-dir", "out"]
        if self.key:
            (folder / "key").write_text(self.key)
            words += ["--api-key-file", "key"]
        return words

    def connect(self) -> Dialect:
        """A client for it."""
        return server_connect.dialect(self.url, _common.Access(key=self.key), self.api)


@pytest.fixture(scope="module")
def places(shared_demo: Demo) -> Iterator[dict[str, Place]]:
    """The three servers, once for the module."""
    pytest.importorskip("comfy_api_proxy", reason="comfy-api-proxy is a development dependency")
    cloud = Demo("--cloud", "--tier", "creator", "--step-time", "0.005")
    proxy = Proxy(shared_demo.url)
    yield {
        "local": Place("local", shared_demo.url, shared_demo),
        "cloud": Place("cloud", cloud.url, cloud, KEY),
        "v2": Place("v2", proxy.url, shared_demo),
    }
    proxy.stop()
    cloud.stop()


@pytest.fixture(params=["local", "cloud", "v2"])
def place(request: pytest.FixtureRequest, places: dict[str, Place]) -> Place:
    found = places[request.param]
    found.behind.post("/demo/reset")
    found.behind.post("/demo/log/clear")
    return found


@pytest.fixture
def server(place: Place) -> Iterator[Dialect]:
    made = place.connect()
    yield made
    made.close()


def ran(run: Runner, place: Place, path: Path, *words: object) -> Ran:
    return run("run_workflow.py", path, *place.words(run.folder), *words)


def submission(graph: Any) -> Submission:
    return Submission(graph, str(uuid.uuid4()), uuid.uuid4().hex)


def follow(server: Dialect, prompt_ids: list[str], seconds: float = 20) -> dict[str, Any]:
    """The last state of each job."""
    watcher = Watcher(server, uuid.uuid4().hex)
    watcher.open()
    for prompt_id in prompt_ids:
        watcher.watch(prompt_id, ours=False)
    ended: dict[str, Any] = {}
    give_up = time.monotonic() + seconds
    while watcher.watching and time.monotonic() < give_up:
        ended |= {item.state.prompt_id: item.state for item in watcher.updates(1) if isinstance(item, Ended)}
    watcher.close()
    return ended


def started(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("prompt id "):
            return line.split()[2]
    raise AssertionError("no prompt id")


def until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.03)
    raise AssertionError("it did not come true in time")


def test_run(run: Runner, place: Place, graph_file: Any) -> None:
    done = ran(run, place, graph_file(graphs.picture()))

    assert (done.code, done.json["status"], done.json["api"]) == (0, "success", place.api), done.out
    (output,) = done.json["outputs"]
    assert (output["node_id"], output["type"]) == ("2", "image")
    assert Path(output["file"]).read_bytes().startswith(b"\x89PNG")


def test_two_outputs_bring_two_files(run: Runner, place: Place, graph_file: Any) -> None:
    done = ran(run, place, graph_file(graphs.two_pictures()))

    assert done.code == 0, done.out
    assert sorted(item["node_id"] for item in done.json["outputs"]) == ["2", "4"]


def test_cached(run: Runner, place: Place, graph_file: Any) -> None:
    path = graph_file(graphs.picture())

    first, second = ran(run, place, path), ran(run, place, path)

    assert second.code == 0, second.out
    assert second.json["prompt_id"] != first.json["prompt_id"]
    (before,), (after,) = first.json["outputs"], second.json["outputs"]
    assert Path(after["file"]).read_bytes() == Path(before["file"]).read_bytes()
    # The cloud's several workers cache each for itself, so it may name the equal file anew.
    assert place.api == "cloud" or after["reused"] is True


def test_error(run: Runner, place: Place, graph_file: Any) -> None:
    done = ran(run, place, graph_file(graphs.failing()))

    assert (done.code, done.json["status"]) == (1, "error")
    assert done.json["error"]["class_type"] == "DemoFail"
    assert done.json["error"]["server_said"] == "boom"
    assert [item["node_id"] for item in done.json["outputs"]] == ["2"]


def test_rejection(run: Runner, place: Place, graph_file: Any) -> None:
    graph = graphs.picture()
    graph["1"]["inputs"]["width"] = 0

    done = ran(run, place, graph_file(graph))

    assert (done.code, done.json["code"]) == (6, "rejected")
    assert (done.json["node_errors"][0]["node_id"], done.json["node_errors"][0]["input"]) == ("1", "width")


def test_cancel_by_interrupt(run: Runner, place: Place, graph_file: Any) -> None:
    server = place.connect()
    process = run.start("run_workflow.py", graph_file(graphs.sleeper(30)), *place.words(run.folder))
    prompt_id = started(process)
    until(lambda: server.state(prompt_id).phase == "running")

    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 130, out
    assert prompt_id in out
    assert server.state(prompt_id).outcome == "cancelled"
    server.close()


def test_cancel_hits_one_job_and_no_other(server: Dialect) -> None:
    jobs = [server.submit(submission(graphs.sleeper(20))).prompt_id for _ in range(5)]
    first, victim = jobs[0], jobs[3]
    until(lambda: {row.prompt_id for row in server.list_jobs(20, finished=False)} >= set(jobs))
    until(lambda: server.state(first).phase == "running")

    assert server.cancel(victim) is True

    phases = {row.prompt_id: row.phase for row in server.list_jobs(20, finished=False)}
    assert set(jobs) - set(phases) == {victim}
    assert phases[first] == "running"
    for prompt_id in phases:
        assert server.cancel(prompt_id) is True
    assert server.cancel(str(uuid.uuid4())) is False


def test_a_batch_of_twenty_with_three_in_flight(server: Dialect) -> None:
    waiting = [graphs.picture() for _ in range(20)]
    watcher = Watcher(server, uuid.uuid4().hex)
    watcher.open()
    ended: dict[str, Any] = {}
    most = 0
    give_up = time.monotonic() + 60
    while (waiting or watcher.watching) and time.monotonic() < give_up:
        while waiting and len(watcher.watching) < 3:
            watcher.watch(server.submit(submission(waiting.pop())).prompt_id)
        most = max(most, len(watcher.watching))
        ended |= {item.state.prompt_id: item.state for item in watcher.updates(1) if isinstance(item, Ended)}
    watcher.close()

    assert most == 3
    assert [state.outcome for state in ended.values()] == ["success"] * 20
    assert all(state.outputs for state in ended.values())


def test_the_batch_command_makes_twenty_pictures(run: Runner, place: Place, graph_file: Any) -> None:
    graph = graphs.sleeper(0.02, steps=2)

    done = run(
        "run_batch.py",
        graph_file(graph),
        "--count",
        20,
        "--parallel",
        3,
        "--yes-spend",
        *place.words(run.folder),
    )

    assert (done.code, done.json["succeeded"], done.json["files"]) == (0, 20, 20), done.out
    posts = [
        entry for entry in place.behind.log() if (entry["method"], entry["path"][-7:]) == ("POST", "/prompt")
    ]
    assert len(posts) == 20
    assert len(list((run.folder / "out").rglob("*.png"))) >= 20


def test_upload(run: Runner, place: Place, graph_file: Any) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16), (10, 20, 30)).save(run.folder / "mein Bild 東京.png")

    done = ran(run, place, graph_file(graphs.photo()), "--input-image", "image=mein Bild 東京.png")

    assert done.code == 0, done.out
    with Image.open(done.json["outputs"][0]["file"]) as image:
        assert image.convert("RGB").getpixel((3, 3)) == (245, 235, 225)


def test_a_mask_makes_its_white_area_the_one_to_change(run: Runner, place: Place, graph_file: Any) -> None:
    from PIL import Image

    # Fresh bytes: the proxy knows uploads by content, also those that a reset of the server behind it has deleted.
    Image.frombytes("RGB", (16, 16), os.urandom(768)).save(run.folder / "photo.png")
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    mask.save(run.folder / "mask.png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "2": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 1]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "mask"}},
    }
    done = ran(
        run, place, graph_file(graph), "--input-image", "image=photo.png", "--input-mask", "mask=mask.png"
    )

    assert done.code == 0, done.out
    with Image.open(done.json["outputs"][0]["file"]) as image:
        assert (image.convert("L").getpixel((2, 5)), image.convert("L").getpixel((13, 5))) == (255, 0)


def test_an_output_becomes_an_input(run: Runner, place: Place, graph_file: Any) -> None:
    first = ran(run, place, graph_file(graphs.picture(color=0x102030)))

    done = ran(
        run, place, graph_file(graphs.photo()), "--input-image", f"image=output:{first.json['prompt_id']}"
    )

    assert done.code == 0, done.out
    from PIL import Image

    with Image.open(done.json["outputs"][0]["file"]) as image:
        assert image.convert("RGB").getpixel((3, 3)) == (0xEF, 0xDF, 0xCF)


def test_download_by_id_later(run: Runner, place: Place, graph_file: Any) -> None:
    sent = ran(run, place, graph_file(graphs.sleeper(0.3)), "--no-wait")

    done = run("run_workflow.py", "--resume", sent.json["prompt_id"], *place.words(run.folder))

    assert (done.code, len(done.json["outputs"])) == (0, 1), done.out


def test_time_out_leaves_the_job_and_names_it(run: Runner, place: Place, graph_file: Any) -> None:
    done = ran(run, place, graph_file(graphs.sleeper(20)), "--timeout", "0.5")

    assert (done.code, done.json["code"]) == (5, "still_running")
    server = place.connect()
    assert server.state(done.json["prompt_id"]).phase == "running"
    assert server.cancel(done.json["prompt_id"]) is True
    server.close()


def test_states_on_the_way(server: Dialect) -> None:
    first, second = (server.submit(submission(graphs.sleeper(1.0))).prompt_id for _ in range(2))
    until(lambda: server.state(first).phase == "running")

    ended = follow(server, [first, second])

    assert [ended[prompt_id].outcome for prompt_id in (first, second)] == ["success", "success"]
    assert server.state(first).done


def test_the_list_has_active_jobs_first_and_finished_ones_newest_first(server: Dialect) -> None:
    done = [server.submit(submission(graphs.picture())).prompt_id for _ in range(2)]
    follow(server, done)
    active = server.submit(submission(graphs.sleeper(20))).prompt_id
    until(lambda: server.state(active).phase == "running")

    rows = [row.prompt_id for row in server.list_jobs(50) if row.prompt_id in {active, *done}]

    assert rows == [active, *reversed(done)]
    server.cancel(active)


def test_active_jobs_are_all_listed_without_asking_for_finished_ones(server: Dialect) -> None:
    finished = server.submit(submission(graphs.picture())).prompt_id
    follow(server, [finished])
    active = {server.submit(submission(graphs.sleeper(20))).prompt_id for _ in range(4)}
    until(lambda: {row.prompt_id for row in server.list_jobs(0, finished=False)} >= active)

    assert finished not in {row.prompt_id for row in server.list_jobs(0, finished=False)}
    for prompt_id in active:
        server.cancel(prompt_id)


def test_a_lost_answer_makes_no_second_job(place: Place, server: Dialect) -> None:
    before = len(server.list_jobs(50))
    place.behind.fault({"name": "answer-lost", "route": "/prompt"})

    try:
        server.submit(submission(graphs.picture()), search_time=1)
    except SkillError as error:
        assert error.code == "submit_unknown"

    posts = [
        entry for entry in place.behind.log() if (entry["method"], entry["path"][-7:]) == ("POST", "/prompt")
    ]
    assert len(posts) == 1
    assert len(server.list_jobs(50)) <= before + 1


def test_only_the_chosen_outputs_run(run: Runner, place: Place, graph_file: Any) -> None:
    done = ran(run, place, graph_file(graphs.two_pictures()), "--only", "2")

    assert done.code == 0, done.out
    assert [item["node_id"] for item in done.json["outputs"]] == ["2"]


def test_refusal_by_plan(run: Runner, new_demo: Any, graph_file: Any) -> None:
    """A plan is refused by the two services that have plans; both say it with exit 4 and send nothing twice."""
    cloud = new_demo("--cloud", "--tier", "free")
    (run.folder / "key").write_text(KEY)
    by_v1 = run("run_workflow.py", graph_file(graphs.picture()), "--host", cloud.url, "--api-key-file", "key")

    def no_credits(handler: Any) -> bool:
        refuse(handler, 402, "insufficient_credits", "no credits left")
        return True

    with running(Hosted()) as hosted:
        hosted.on_submit = [no_credits]
        by_v2 = run("run_workflow.py", graph_file(graphs.picture()), "--host", hosted.url, "--api", "v2")

    for done in (by_v1, by_v2):
        assert (done.code, done.json["code"], done.json["retryable"]) == (4, "refused", False), done.out
        assert done.json["hint"]
    assert len(hosted.calls("POST", "/api/v2/jobs")) == 1
