"""Comfy API v2 against the public comfy-api-proxy, in front of the demo server and of a real one where it is named."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import _common
import graphs
from bundle import Demo, Runner
from comfyskill.base.cli import SkillError
from comfyskill.server import connect
from comfyskill.server.protocol import Submission
from v2_servers import Proxy

pytest.importorskip("comfy_api_proxy", reason="comfy-api-proxy is a development dependency")


@pytest.fixture(scope="module")
def shared_proxy(shared_demo: Demo) -> Iterator[Proxy]:
    proxy = Proxy(shared_demo.url)
    yield proxy
    proxy.stop()


@pytest.fixture
def proxy(shared_proxy: Proxy, demo: Demo) -> Proxy:
    """The proxy in front of the session's demo server, which has been reset."""
    assert demo.url
    return shared_proxy


@pytest.fixture
def new_proxy() -> Iterator[Any]:
    """Starts proxies of the test's own."""
    started: list[Proxy] = []

    def start(upstream: str, *options: str) -> Proxy:
        started.append(Proxy(upstream, *options))
        return started[-1]

    yield start
    for item in started:
        item.stop()


@pytest.fixture(params=["demo", pytest.param("real", marks=pytest.mark.real)])
def any_proxy(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a proxy in front of the demo server, and of the real server in COMFYUI_TEST_URL."""
    if request.param == "demo":
        yield request.getfixturevalue("proxy").url
        return
    upstream = os.environ.get("COMFYUI_TEST_URL")
    if not upstream:
        pytest.skip("COMFYUI_TEST_URL names no real server")
    own = Proxy(upstream)
    yield own.url
    own.stop()


def started(process: subprocess.Popen[str]) -> str:
    """The prompt id that a run announces on stderr."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("prompt id "):
            return line.split()[2]
    raise AssertionError("no prompt id")


def running(demo: Demo, prompt_id: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if any(item[1] == prompt_id for item in demo.get("/queue")["queue_running"]):
            return
        time.sleep(0.02)
    raise AssertionError("the job does not run")


def test_a_run_brings_its_file(run: Runner, any_proxy: str, graph_file: Any) -> None:
    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", any_proxy, "--output-dir", "out")

    assert (ran.code, ran.json["api"]) == (0, "v2"), ran.out
    assert Path(ran.json["outputs"][0]["file"]).read_bytes().startswith(b"\x89PNG")


def test_the_same_graph_again_gives_the_same_bytes_again(
    run: Runner, any_proxy: str, graph_file: Any
) -> None:
    path = graph_file(graphs.picture())

    first, second = (
        run("run_workflow.py", path, "--host", any_proxy, "--output-dir", name) for name in ("one", "two")
    )

    assert second.code == 0
    files = [Path(ran.json["outputs"][0]["file"]).read_bytes() for ran in (first, second)]
    assert files[0] == files[1]


def test_pictures_and_masks_travel_as_assets(run: Runner, any_proxy: str, graph_file: Any) -> None:
    from PIL import Image

    Image.new("RGB", (40, 30), (200, 10, 10)).save(run.folder / "in put.png")
    Image.new("L", (40, 30), 255).save(run.folder / "mask.png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "colors"}},
        "3": {"class_type": "MaskToImage", "inputs": {"mask": ["1", 1]}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "mask"}},
    }

    server = connect.connect(any_proxy)
    try:
        original = server.upload(run.folder / "in put.png")
        Image.new("RGBA", (40, 30), (0, 0, 0, 100)).save(run.folder / "alpha.png")
        joined = server.upload(run.folder / "alpha.png", kind="mask", original=original)
        graph["1"]["inputs"]["image"] = server.input_value(joined)
    finally:
        server.close()
    ran = run("run_workflow.py", graph_file(graph), "--host", any_proxy, "--output-dir", "out")

    assert ran.code == 0, ran.out
    colors, mask = (
        Path(item["file"]) for item in sorted(ran.json["outputs"], key=lambda item: item["node_id"])
    )
    with Image.open(colors) as image:
        assert image.convert("RGB").getpixel((5, 5)) == (200, 10, 10)
    with Image.open(mask) as image:
        assert image.convert("L").getpixel((5, 5)) == 155


def test_input_files_of_the_command_line_are_uploaded(run: Runner, any_proxy: str, graph_file: Any) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16), (10, 20, 30)).save(run.folder / "mine.png")

    ran = run("run_workflow.py", graph_file(graphs.photo()), "--input-image", "image=mine.png", "--host", any_proxy,
              "--output-dir", "out")  # fmt: skip

    assert ran.code == 0, ran.out
    with Image.open(ran.json["outputs"][0]["file"]) as image:
        assert image.convert("RGB").getpixel((3, 3)) == (245, 235, 225)


def test_an_output_of_an_earlier_job_becomes_an_input(run: Runner, any_proxy: str, graph_file: Any) -> None:
    first = run(
        "run_workflow.py",
        graph_file(graphs.picture(color=0x102030)),
        "--host",
        any_proxy,
        "--output-dir",
        "a",
    )

    ran = run("run_workflow.py", graph_file(graphs.photo()), "--input-image", f"image=output:{first.json['prompt_id']}",
              "--host", any_proxy, "--output-dir", "b")  # fmt: skip

    assert ran.code == 0, ran.out
    from PIL import Image

    with Image.open(ran.json["outputs"][0]["file"]) as image:
        assert image.convert("RGB").getpixel((3, 3)) == (0xEF, 0xDF, 0xCF)


def test_a_rejection_names_the_node(run: Runner, any_proxy: str, graph_file: Any) -> None:
    graph = graphs.picture()
    graph["1"]["inputs"]["width"] = 0

    ran = run("run_workflow.py", graph_file(graph), "--host", any_proxy)

    assert (ran.code, ran.json["code"]) == (6, "rejected")
    assert ran.json["node_errors"][0]["node_id"] == "1"
    assert "width" in ran.json["message"]


def test_an_unknown_class_is_a_rejection(run: Runner, any_proxy: str, graph_file: Any) -> None:
    graph = graphs.picture() | {"9": {"class_type": "NoSuchNode", "inputs": {}}}

    ran = run("run_workflow.py", graph_file(graph), "--host", any_proxy)

    assert (ran.code, ran.json["rejection"]) == (6, "invalid_prompt")


def test_a_failure_brings_what_was_finished(run: Runner, proxy: Proxy, graph_file: Any) -> None:
    ran = run("run_workflow.py", graph_file(graphs.failing()), "--host", proxy.url, "--output-dir", "out")

    assert (ran.code, ran.json["status"]) == (1, "error")
    assert ran.json["error"]["class_type"] == "DemoFail"
    assert ran.json["error"]["server_said"] == "boom"
    assert [item["node_id"] for item in ran.json["outputs"]] == ["2"]


def test_progress_is_shown_while_it_runs(run: Runner, proxy: Proxy, graph_file: Any) -> None:
    ran = run("run_workflow.py", graph_file(graphs.sleeper(1.0)), "--host", proxy.url, "--output-dir", "out")

    assert ran.code == 0, ran.out
    assert "A long nap" in ran.err


def test_interrupt_stops_the_job_although_the_proxy_cannot(
    run: Runner, proxy: Proxy, demo: Demo, graph_file: Any
) -> None:
    process = run.start(
        "run_workflow.py", graph_file(graphs.sleeper(30)), "--host", proxy.url, "--output-dir", "out"
    )
    prompt_id = started(process)
    running(demo, prompt_id)

    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 130, out
    assert demo.get("/queue")["queue_running"] == []


def test_a_waiting_job_is_taken_out_and_no_other(proxy: Proxy, demo: Demo) -> None:
    server = connect.connect(proxy.url)
    first, second = (
        server.submit(Submission(graphs.sleeper(20), str(uuid.uuid4()), "c")).prompt_id for _ in range(2)
    )
    running(demo, first)

    assert server.cancel(second) is True

    queue = demo.get("/queue")
    assert ([item[1] for item in queue["queue_running"]], queue["queue_pending"]) == ([first], [])
    assert server.cancel(first) is True
    server.close()


def test_a_proxy_elsewhere_is_not_helped_out_and_says_so(
    new_demo: Any, new_proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = new_demo("--version", "0.8")
    server = connect.connect(new_proxy(demo.url).url)
    prompt_id = server.submit(Submission(graphs.sleeper(20), str(uuid.uuid4()), "c")).prompt_id
    running(demo, prompt_id)
    monkeypatch.setattr(server, "upstream", "http://10.0.0.1:8188")

    with pytest.raises(SkillError) as caught:
        server.cancel(prompt_id)

    assert caught.value.code == "cancel_not_confirmed"
    assert "0.8.0" in (caught.value.hint or "")
    server.close()


def test_a_job_removed_behind_the_proxy_ends_as_cancelled(
    run: Runner, proxy: Proxy, demo: Demo, graph_file: Any
) -> None:
    demo.post("/prompt", {"prompt": graphs.sleeper(90), "client_id": "other"})
    process = run.start(
        "run_workflow.py", graph_file(graphs.picture()), "--host", proxy.url, "--output-dir", "out"
    )
    prompt_id = started(process)
    time.sleep(0.5)

    demo.post("/queue", {"delete": [prompt_id]})
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert '"status": "cancelled"' in out


def test_the_monitor_knows_titles_and_shares_behind_the_proxy(run: Runner, proxy: Proxy) -> None:
    server = connect.dialect(proxy.url, _common.Access(), "v2")
    server.submit(Submission(graphs.sleeper(1.5), str(uuid.uuid4()), "c"))

    ran = run("ws_monitor.py", "--host", proxy.url, timeout=30)

    assert ran.code == 0
    assert "'A long nap' (DemoSleep), step" in ran.err
    shares = [int(share) for share in re.findall(r"(\d+)% ", ran.err)]
    assert max(shares) <= 50


def test_a_run_is_picked_up_by_its_id(run: Runner, proxy: Proxy, graph_file: Any) -> None:
    sent = run("run_workflow.py", graph_file(graphs.sleeper(0.5)), "--host", proxy.url, "--no-wait")

    ran = run(
        "run_workflow.py", "--resume", sent.json["prompt_id"], "--host", proxy.url, "--output-dir", "out"
    )

    assert (ran.code, len(ran.json["outputs"])) == (0, 1), ran.out


def test_an_id_that_nobody_knows_is_lost_not_waited_for(run: Runner, proxy: Proxy) -> None:
    ran = run("run_workflow.py", "--resume", str(uuid.uuid4()), "--host", proxy.url, "--output-dir", "out")

    assert (ran.code, ran.json["status"]) == (1, "lost")


def test_the_same_submission_twice_is_one_job(proxy: Proxy, demo: Demo) -> None:
    server = connect.connect(proxy.url)
    sent = Submission(graphs.picture(), str(uuid.uuid4()), "c")

    first, second = server.submit(sent), server.submit(sent)

    assert (second.prompt_id, second.found_again) == (first.prompt_id, True)
    assert (
        len([entry for entry in demo.log() if entry["path"] == "/prompt" and entry["method"] == "POST"]) == 1
    )
    server.close()


def test_jobs_are_listed_with_our_mark(proxy: Proxy) -> None:
    server = connect.connect(proxy.url)
    sent = Submission(graphs.picture(), str(uuid.uuid4()), "c")
    prompt_id = server.submit(sent).prompt_id

    rows = [row for row in server.list_jobs(20) if row.prompt_id == prompt_id]

    assert [row.mark for row in rows] == [sent.prompt_id]
    server.close()


def test_comfyui_away_is_said_before_anything_is_sent(
    run: Runner, new_demo: Any, new_proxy: Any, graph_file: Any
) -> None:
    upstream = new_demo()
    proxy = new_proxy(upstream.url)
    upstream.stop()

    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", proxy.url)

    assert (ran.code, ran.json["code"]) == (3, "unreachable")
    assert "behind it" in ran.json["message"]


def test_a_lost_answer_behind_the_proxy_is_never_sent_twice(new_demo: Any, new_proxy: Any) -> None:
    upstream = new_demo("--step-time", "0.005")
    server = connect.connect(new_proxy(upstream.url).url)
    upstream.fault({"name": "answer-lost", "route": "/prompt"})

    with pytest.raises(SkillError) as caught:
        server.submit(Submission(graphs.picture(), str(uuid.uuid4()), "c"), search_time=1)

    assert (caught.value.code, int(caught.value.exit)) == ("submit_unknown", 5)
    assert (
        len([entry for entry in upstream.log() if entry["path"] == "/prompt" and entry["method"] == "POST"])
        == 1
    )
    server.close()


def test_a_proxy_with_a_token_wants_it_as_bearer(
    run: Runner, demo: Demo, new_proxy: Any, graph_file: Any
) -> None:
    proxy = new_proxy(demo.url, "--token", "secret-token-0123")
    path = graph_file(graphs.picture())
    (run.folder / "key").write_text("secret-token-0123\n")

    refused = run("run_workflow.py", path, "--host", proxy.url)
    ran = run("run_workflow.py", path, "--host", proxy.url, "--api-key-file", "key", "--output-dir", "out")

    assert (refused.code, refused.json["code"]) == (4, "refused")
    assert ran.code == 0, ran.out


def test_an_upload_beyond_the_proxys_limit_is_said_in_words(
    demo: Demo, new_proxy: Any, tmp_path: Path
) -> None:
    server = connect.connect(new_proxy(demo.url, "--max-upload-mb", "1").url)
    (tmp_path / "big.bin").write_bytes(os.urandom(1_500_000))

    with pytest.raises(SkillError) as caught:
        server.upload(tmp_path / "big.bin")

    assert caught.value.code == "too_large"
    server.close()


def test_the_server_dying_in_mid_run_names_the_job(
    run: Runner, new_demo: Any, new_proxy: Any, graph_file: Any
) -> None:
    upstream = new_demo()
    proxy = new_proxy(upstream.url)
    process = run.start(
        "run_workflow.py", graph_file(graphs.sleeper(30)), "--host", proxy.url, "--reconnect-time", "1"
    )
    prompt_id = started(process)
    running(upstream, prompt_id)

    upstream.stop()
    out, _ = process.communicate(timeout=60)

    assert process.returncode == 1
    assert prompt_id in out
    assert '"server_gone"' in out


def test_many_jobs_are_followed_by_one_watcher_without_streams(proxy: Proxy, demo: Demo) -> None:
    from comfyskill.server.watch import Ended, Watcher

    server = connect.connect(proxy.url)
    watcher = Watcher(server, "c")
    ids = [server.submit(Submission(graphs.picture(), str(uuid.uuid4()), "c")).prompt_id for _ in range(20)]
    for prompt_id in ids:
        watcher.watch(prompt_id)
    ended: dict[str, str | None] = {}
    give_up = time.monotonic() + 60
    while watcher.watching and time.monotonic() < give_up:
        ended |= {
            item.state.prompt_id: item.state.outcome for item in watcher.updates(1) if isinstance(item, Ended)
        }

    assert ended == dict.fromkeys(ids, "success")
    server.close()


def test_the_probe_says_why_it_is_v2(proxy: Proxy) -> None:
    found = connect.probe(proxy.url, _common.Access())

    assert found == connect.Found("v2", "/api/v2/health answers", demo=False)


if sys.platform == "win32":
    pytestmark = pytest.mark.skip(reason="signals are tested on POSIX")
