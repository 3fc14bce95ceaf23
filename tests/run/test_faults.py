"""The fault matrix: each fault of `fault_table.py` has the one outcome that the table (and the manual) gives it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import fault_table
import graphs
from bundle import ROOT, Demo, Runner
from fault_bench import Bench
from fault_rows import SPARED, patience, reconnect_time
from fault_table import ALWAYS, DEATHS, FRAMES, HERE, ONCE, ROLES, ROWS, Row
from flaky import Fault
from v2_servers import free_port
from zygote import Finished, Forks, Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the quick runner forks")

NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def forks(tmp_path: Path, zygote: Zygote) -> Forks:
    return Forks(tmp_path, zygote)


@pytest.fixture
def local(benches: dict[str, Bench]) -> Bench:
    benches["local"].ready()
    return benches["local"]


def fault_of(role: str, api: str, given: dict[str, Any]) -> Fault:
    method, path = ROLES[role][api]
    return Fault(path=path, method=method, unless=SPARED, **given)


def run_once(forks: Forks, bench: Bench, *words: object, graph: Any = None, **options: Any) -> Finished:
    """run_workflow.py on a fresh picture, into `out`."""
    path = forks.folder / "graph.json"
    path.write_text(json.dumps(graph or graphs.picture()))
    return forks("run_workflow.py", path, *bench.words(forks.folder), "--output-dir", "out", "--quiet",
                 "--reconnect-time", "1", *words, **options)  # fmt: skip


def whole_and_alone(folder: Path, document: dict[str, Any]) -> None:
    """Every reported file is a whole picture, and nothing else lies in the folder: no part, no orphan."""
    out = folder / "out"
    there = {path for path in out.rglob("*") if path.is_file()} if out.is_dir() else set()
    reported = {Path(item["file"]) for item in document.get("outputs", [])}
    assert there == reported
    for path in reported:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG") and data.endswith(b"IEND\xaeB`\x82"), path


def judge(ran: Finished, folder: Path, expected: tuple[int, str, str | None], executions: list[str]) -> None:
    """The outcome, and what holds for every outcome."""
    document = ran.json
    assert (ran.code, document["status"], document.get("code")) == expected, ran.out + ran.err
    assert len(executions) == len(set(executions))
    whole_and_alone(folder, document)
    if ran.code:
        assert document["message"] and isinstance(document["retryable"], bool)
        assert document.get("hint"), document
    if ran.code and executions:
        assert document.get("prompt_id") or document["code"] == "submit_unknown", document
        goes_on(document)
    if ran.code in (2, 3):
        assert not executions


def goes_on(document: dict[str, Any]) -> None:
    """Each command under `next` is one of ours, takes its words, and names the server and the job."""
    assert document["next"], document
    for command in document["next"]:
        python, script, *words = shlex.split(command)
        assert python == sys.executable and Path(script).parent == ROOT / "scripts" and Path(script).is_file()
        about_a_job = Path(script).name in ("run_workflow.py", "fetch_logs.py")
        assert not about_a_job or document["prompt_id"] in words, command
        host = words[words.index("--host") + 1]
        assert host.startswith("http://127.0.0.1:")
        assert ("--api" in words) == (document.get("api", "local") != "local") or "api" not in document, (
            command
        )


MATRIX = [pytest.param(api, row, id=f"{api}-{row.role}-{row.what}") for row in ROWS for api in row.apis]


@pytest.mark.parametrize(("api", "row"), MATRIX)
def test_the_matrix(forks: Forks, benches: dict[str, Bench], api: str, row: Row) -> None:
    bench = benches[api]
    bench.ready(fault_of(row.role, api, row.fault))
    dies = row.fault["act"] == "down"
    words = ["--reconnect-time", reconnect_time(row.fault)] if dies else []
    ran = run_once(forks, bench, *words, before=patience(row.fault) if dies else "")
    exit, status, code, runs = row.expected(api)
    executions = bench.executions()
    assert len(executions) == runs, ran.out
    judge(ran, forks.folder, (exit, status, code), executions)


STATUSES = (401, 403, 404, 408, 409, 413, 429, 500, 502, 503, 504)


@pytest.mark.slow
@pytest.mark.parametrize("body", ["json", "text", "html", "empty", "broken"])
@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("role", sorted(ROLES))
@pytest.mark.parametrize("api", ["local", "cloud", "v2"])
def test_every_status_with_every_body_at_every_place(
    forks: Forks, benches: dict[str, Bench], api: str, role: str, status: int, body: str
) -> None:
    """Whatever it is: at most one execution, one document, no half file; struck once, and struck for good."""
    if api not in ROLES[role]:
        pytest.skip("this protocol has none")
    bench = benches[api]
    for times in (ONCE, ALWAYS):
        if times == ALWAYS and status == 429 and role == "submit":
            continue  # is waited out for 90 s
        bench.ready(fault_of(role, api, fault_of_status(status, times, body)))
        ran = run_once(forks, bench, timeout=90)
        executions = bench.executions()
        assert len(executions) <= 1
        document = ran.json
        whole_and_alone(forks.folder, document)
        assert (ran.code == 0) == (document["status"] == "success")
        assert ran.code in (0, 1, 4, 5, 6)
        if ran.code and executions:
            assert document.get("prompt_id") or document.get("code") == "submit_unknown", ran.out
        if times == ONCE and status in (408, 502, 503, 504) and role != "submit":
            assert ran.code == 0, ran.out
        for path in (forks.folder / "out").rglob("*.png"):
            path.unlink()


def fault_of_status(status: int, times: int, body: str) -> dict[str, Any]:
    return {"act": "status", "code": status, "times": times, "body": body}


def frame_count(bench: Bench) -> int:
    """How many frames the socket of a clean run brings."""
    import websocket

    bench.ready()
    wire = websocket.create_connection(f"ws{bench.demo.url[4:]}/ws?clientId=counter", timeout=60)
    bench.demo.post("/prompt", {"prompt": graphs.two_pictures(), "client_id": "counter"})
    count, frame = 0, ""
    while '"executing"' not in frame or '"node": null' not in frame:
        frame = wire.recv()
        frame = frame if isinstance(frame, str) else ""
        count += 1
    wire.close()
    return count


def followed(forks: Forks, bench: Bench, who: str, job: str) -> Finished:
    """The four who follow a run to its end: `run` and `batch` submit it themselves."""
    if who == "run":
        return run_once(forks, bench, graph=graphs.two_pictures())
    if who == "batch":
        (forks.folder / "graph.json").write_text(json.dumps(graphs.two_pictures()))
        shutil.rmtree(forks.folder / "out", ignore_errors=True)
        return forks("run_batch.py", "graph.json", "--count", 1, *bench.words(forks.folder), "--output-dir", "out",
                     "--no-report", "--quiet", "--reconnect-time", "20")  # fmt: skip
    return WAITS[who](forks, bench, job)


FOLLOWERS = ["run", "wait", "batch", "monitor"]


@pytest.mark.parametrize(
    "follow",
    [pytest.param(who, marks=[pytest.mark.slow] if who in ("batch", "monitor") else []) for who in FOLLOWERS],
)
@pytest.mark.parametrize("part", range(3))
def test_the_socket_is_cut_at_each_frame(forks: Forks, local: Bench, part: int, follow: str) -> None:
    """Each index of a run of two pictures is struck once, by thirds."""
    count = frame_count(local)
    assert count > 12
    for index in range(part, count + 1, 3):
        local.ready(frames=f"drop-socket:frames={index}")
        job = submit(local, graphs.two_pictures()) if follow in ("wait", "monitor") else ""
        ran = followed(forks, local, follow, job)
        assert ran.code == 0, (index, ran.out, ran.err)
        assert len(local.executions()) == 1
        assert follow == "monitor" or len(list((forks.folder / "out").rglob("*.png"))) == 2
        for path in (forks.folder / "out").rglob("*.png"):
            path.unlink()


@pytest.mark.parametrize("spec", FRAMES, ids=list(FRAMES.values()))
def test_odd_frames_change_nothing(forks: Forks, local: Bench, spec: str) -> None:
    plain = run_once(forks, local, graph=graphs.two_pictures())
    shutil.rmtree(forks.folder / "out")
    local.ready(frames=spec)
    ran = run_once(forks, local, graph=graphs.two_pictures())
    judge(ran, forks.folder, (0, "success", None), local.executions())
    assert len(ran.json["outputs"]) == 2
    # A crowded machine makes both slow; the longest wait of ours is that for a silent socket.
    assert ran.seconds < 6 + 4 * plain.seconds
    assert ran.peak_mb < 150


@pytest.mark.slow
@pytest.mark.parametrize("spec", FRAMES, ids=list(FRAMES.values()))
@pytest.mark.parametrize("follow", [who for who in FOLLOWERS if who != "run"])
def test_odd_frames_change_nothing_for_those_who_follow(
    forks: Forks, local: Bench, follow: str, spec: str
) -> None:
    local.ready(frames=spec)
    graph = graphs.two_pictures()
    # Frames without a client id go to every socket.
    job = local.demo.post("/prompt", {"prompt": graph})["prompt_id"] if follow in ("wait", "monitor") else ""
    ran = followed(forks, local, follow, job)
    assert (ran.code, ran.json["status"]) == (0, "success"), ran.out
    assert len(local.executions()) == 1
    assert follow == "monitor" or len(list((forks.folder / "out").rglob("*.png"))) == 2
    assert ran.seconds < 45 and ran.peak_mb < 150


@pytest.mark.parametrize(
    "spec", ["foreign-frames:every=1", "garbage-frames:every=1,kind=json", "drop-socket:frames=2"]
)
@pytest.mark.parametrize("api", ["cloud"])
def test_odd_frames_of_the_cloud(forks: Forks, benches: dict[str, Bench], api: str, spec: str) -> None:
    benches[api].ready(frames=spec)
    ran = run_once(forks, benches[api], graph=graphs.two_pictures())
    judge(ran, forks.folder, (0, "success", None), benches[api].executions())


# Waiting for the jobs of others, and watching them


def submit(bench: Bench, graph: Any) -> str:
    prompt_id: str = bench.demo.post("/prompt", {"prompt": graph, "client_id": "somebody"})["prompt_id"]
    return prompt_id


def waited(forks: Forks, bench: Bench, prompt_id: str) -> Finished:
    return forks(
        "manage_queue.py", "wait", prompt_id, *bench.words(forks.folder), "--output-dir", "out", "--quiet"
    )


WAITS = {
    "resume": lambda forks, bench, job: forks(
        "run_workflow.py", "--resume", job, *bench.words(forks.folder), "--output-dir", "out", "--reconnect-time", "1"
    ),
    "wait": waited,
    "monitor": lambda forks, bench, job: forks(
        "ws_monitor.py", "--prompt-id", job, *bench.words(forks.folder), "--timeout", "60"
    ),
}  # fmt: skip
PASSING = {
    "404 once": ("record", fault_of_status(404, ONCE, "html")),
    "500 once": ("record", fault_of_status(500, ONCE, "text")),
    "503 once": ("record", fault_of_status(503, ONCE, "html")),
    "a web page once": ("record", fault_of_status(200, ONCE, "html")),
    "the connection breaks once": ("record", {"act": "close", "times": ONCE}),
    "half an answer once": ("record", {"act": "cut", "times": ONCE}),
    "no socket": ("socket", fault_of_status(503, ALWAYS, "text")),
}


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize("how", WAITS)
def test_waiting_survives_what_passes(forks: Forks, local: Bench, how: str, fault: str) -> None:
    job = submit(local, graphs.sleeper(0.3))
    role, given = PASSING[fault]
    local.relay.reset(fault_of(role, "local", given))
    ran = WAITS[how](forks, local, job)
    assert (ran.code, ran.json["status"]) == (0, "success"), ran.out
    assert local.executions() == [job]


@pytest.mark.parametrize("how", WAITS)
def test_waiting_ends_when_the_key_is_no_longer_taken(forks: Forks, local: Bench, how: str) -> None:
    job = submit(local, graphs.sleeper(90))
    local.relay.reset(fault_of("record", "local", {**fault_of_status(401, ALWAYS, "json"), "skip": 1}))
    ran = WAITS[how](forks, local, job)
    assert (ran.code, ran.json["code"]) == (4, "refused"), ran.out
    assert ran.seconds < 25
    local.demo.post("/interrupt", {"prompt_id": job})


# The server's process, and this computer


@pytest.mark.parametrize(
    ("moment", "outcome"), [(row[0], tuple(row[2:])) for row in DEATHS], ids=[row[0] for row in DEATHS]
)
def test_the_server_dies(forks: Forks, moment: str, outcome: Any) -> None:
    demo = Demo("--step-time", "0.005", "--fault", f"die:at={moment}")
    path = forks.folder / "graph.json"
    path.write_text(json.dumps(graphs.picture()))
    try:
        ran = forks(
            "run_workflow.py", path, "--host", demo.url, "--output-dir", "out", "--reconnect-time", "1"
        )
        assert demo.process.wait(timeout=60) == 1
    finally:
        demo.stop()
    judge(ran, forks.folder, outcome, ["?"])
    assert ran.seconds < 60


@pytest.mark.parametrize(("moment", "exit"), [("node", 1), ("history", 1), ("view", 1)])
def test_the_server_dies_in_mid_batch_and_the_rest_is_named(forks: Forks, moment: str, exit: int) -> None:
    demo = Demo("--step-time", "0.005", "--fault", f"die:at={moment},after=2")
    path = forks.folder / "graph.json"
    path.write_text(json.dumps(graphs.sleeper(0.05, 2)))
    try:
        ran = forks("run_batch.py", path, "--host", demo.url, "--output-dir", "out", "--count", "6", "--no-report",
                    "--reconnect-time", "1")  # fmt: skip
    finally:
        demo.stop()
    document = ran.json
    assert ran.code == exit, ran.out
    assert document["status"] == "partial"
    assert any("--resume" in command for command in document["next"])
    assert document["succeeded"] + document["failed"] + document["not_run"] == 6
    assert not list((forks.folder / "out").rglob("*.part"))


def outcome_of(name: str) -> tuple[int, str, str | None]:
    return HERE[name][1], HERE[name][2], HERE[name][3]


def test_no_server(forks: Forks) -> None:
    path = forks.folder / "graph.json"
    path.write_text(json.dumps(graphs.picture()))
    for script, words in (
        ("run_workflow.py", [path, "--output-dir", "out"]), ("run_batch.py", [path, "--count", "2", "--output-dir", "out2"]),
        ("manage_queue.py", ["list"]), ("ws_monitor.py", ["--all"]), ("server_info.py", ["stats"]),
        ("manage_queue.py", ["wait", NOBODY]), ("run_workflow.py", ["--resume", NOBODY]),
    ):  # fmt: skip
        ran = forks(script, *words, "--host", f"127.0.0.1:{free_port()}")
        assert (ran.code, ran.json["status"], ran.json["code"]) == outcome_of("no_server"), script
        assert ran.json["retryable"] is True and ran.json["hint"]
        assert ran.seconds < 20, script


def test_not_comfyui(forks: Forks) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>router</html>")

        do_POST = do_GET

        def log_message(self, *words: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = forks.folder / "graph.json"
    path.write_text(json.dumps(graphs.picture()))
    ran = forks(
        "run_workflow.py", path, "--host", f"127.0.0.1:{server.server_address[1]}", "--output-dir", "out"
    )
    server.shutdown()
    assert (ran.code, ran.json["status"], ran.json["code"]) == outcome_of("not_comfyui"), ran.out
    assert "ComfyUI" in ran.json["message"]


@pytest.mark.slow
def test_a_server_that_accepts_and_never_answers_is_given_up(forks: Forks) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        path = forks.folder / "graph.json"
        path.write_text(json.dumps(graphs.picture()))
        ran = forks("run_workflow.py", path, "--host", f"127.0.0.1:{deaf.getsockname()[1]}", timeout=180)
    assert (ran.code, ran.json["status"], ran.json["code"]) == outcome_of("deaf")
    assert ran.seconds < 90


def test_forgot_everything(forks: Forks, local: Bench) -> None:
    local.ready(frames="restart:at=start,down=300")
    ran = run_once(forks, local, "--reconnect-time", "10")
    assert (ran.code, ran.json["status"], ran.json["code"]) == outcome_of("forgot_everything"), ran.out
    assert ran.json["prompt_id"]
    whole_and_alone(forks.folder, ran.json)


def test_disk_full(forks: Forks, local: Bench) -> None:
    """A file may grow to 20 kB: the write fails in mid-body, as on a full disk."""
    ran = run_once(forks, local, graph=graphs.picture(size=32) | noisy(300), limits={"fsize": 20_000})
    judge(ran, forks.folder, outcome_of("disk_full"), local.executions())
    assert "next" in ran.json


def noisy(size: int) -> dict[str, Any]:
    """A result of `size` kB."""
    inputs = {
        "size_mb": 1,
        "filename": f"{uuid.uuid4().hex}.bin",
        "subfolder": "",
        "sparse": False,
        "seed": 1,
    }
    return {"9": {"class_type": "DemoBigFile", "inputs": inputs}} if size else {}


def test_disk_full_in_a_batch_stops_it_and_resume_completes_it(forks: Forks, local: Bench) -> None:
    path = forks.folder / "graph.json"
    path.write_text(json.dumps({"9": noisy(1)["9"]}))
    words = ["--host", local.demo.url, "--no-report", "--quiet"]
    full = forks(
        "run_batch.py", path, "--count", "2", "--output-dir", "out", *words, limits={"fsize": 200_000}
    )
    assert full.code == 1 and full.json["status"] == "partial", full.out
    assert not list((forks.folder / "out").rglob("*.part"))
    assert not list((forks.folder / "out").rglob("*.bin"))
    again = forks("run_batch.py", "--resume", "out", *words)
    assert again.code == 0, again.out
    assert len(list((forks.folder / "out").rglob("*.bin"))) == 2
    assert len(local.executions()) == 2


@pytest.mark.parametrize("case", ["folder_is_file", "below_a_file", "path_too_long", "read_only"])
def test_a_bad_output_folder_is_found_before_anything_is_sent(forks: Forks, local: Bench, case: str) -> None:
    (forks.folder / "file").write_text("mine")
    read_only = "/proc/nowhere" if os.geteuid() == 0 else "/nowhere"
    folder = {"folder_is_file": "file", "below_a_file": "file/out", "path_too_long": "x/" + "y" * 300, "read_only": read_only}[case]  # fmt: skip
    path = forks.folder / "graph.json"
    path.write_text(json.dumps(graphs.picture()))
    for script, words in (("run_workflow.py", [path]), ("run_batch.py", [path, "--count", "2"]), ("manage_queue.py", ["wait", NOBODY])):  # fmt: skip
        ran = forks(script, *words, "--host", local.relay.url, "--output-dir", folder)
        assert (ran.code, ran.json["status"], ran.json["code"]) == outcome_of(case), (script, ran.out)
    assert not local.executions()
    assert not [entry for entry in local.relay.seen if entry[0] == "POST"]
    assert (forks.folder / "file").read_text() == "mine"


def test_folder_removed(forks: Forks, local: Bench) -> None:
    def remove() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not (forks.folder / "out").is_dir():
            time.sleep(0.01)
        end = time.monotonic() + 60
        while time.monotonic() < end and not local.executions():
            time.sleep(0.01)
        shutil.rmtree(forks.folder / "out")

    remover = threading.Thread(target=remove)
    remover.start()
    ran = run_once(forks, local, graph=graphs.sleeper(4))
    remover.join()
    judge(ran, forks.folder, outcome_of("folder_removed"), local.executions())


def test_file_exists(forks: Forks, local: Bench) -> None:
    (forks.folder / "out").mkdir()
    mine = forks.folder / "out" / "skilltest_00001_.png"
    mine.write_bytes(b"mine")
    (forks.folder / "out" / "skilltest_00001_ (1).png").mkdir()
    ran = run_once(forks, local)
    assert (ran.code, ran.json["status"], ran.json.get("code")) == outcome_of("file_exists")
    assert mine.read_bytes() == b"mine"
    assert Path(ran.json["outputs"][0]["file"]).name == "skilltest_00001_ (2).png"


def test_an_upload_that_fails_submits_nothing(forks: Forks, local: Bench) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(forks.folder / "a.png")
    for given in (fault_of_status(500, ALWAYS, "html"), {"act": "close"}, {"act": "cut", "share": 0.3},
                  fault_of_status(200, ALWAYS, "html"), fault_of_status(413, ALWAYS, "html")):  # fmt: skip
        local.ready(Fault(path="/upload/*", **given))
        ran = run_once(forks, local, "--input-image", "1.image=a.png", graph=graphs.photo())
        assert ran.code in (1, 3), ran.out
        assert ran.json["message"] and not local.executions(), ran.out


def test_the_manual_shows_this_table() -> None:
    """After a change of the table: python tests/support/fault_table.py > references/failures.md"""
    assert (ROOT / "references" / "failures.md").read_text(encoding="utf-8") == fault_table.document()


def test_a_relay_without_faults_changes_nothing(forks: Forks, local: Bench, run: Runner) -> None:
    """The tools of this file themselves: the same as straight to the server, and as an ordinary command."""
    ran = run_once(forks, local)
    assert ran.code == 0 and len(ran.json["outputs"]) == 1
    path = forks.folder / "graph.json"
    assert run("run_workflow.py", path, "--host", local.demo.url, "--output-dir", "out").code == 0
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(local.relay.url + "/nothing")


@pytest.mark.parametrize(
    "fault", [fault_of_status(503, 6, "html"), fault_of_status(500, 3, "json"), {"act": "close", "times": 6}]
)
def test_a_resumed_batch_that_cannot_ask_yet_runs_nothing_twice(
    forks: Forks, local: Bench, fault: dict[str, Any]
) -> None:
    """Killed after its submits; at the resume the server does not answer the looks at first."""
    path = forks.folder / "graph.json"
    path.write_text(json.dumps(graphs.sleeper(0.2, 2)))
    words = ["--host", local.relay.url, "--api", "local", "--no-report", "--quiet", "--reconnect-time", "20"]
    process = forks.start("run_batch.py", path, "--count", "4", "--output-dir", "out", *words)
    end = time.monotonic() + 60
    while time.monotonic() < end and not local.executions():
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    local.relay.reset(fault_of("record", "local", fault))
    again = forks("run_batch.py", "--resume", "out", *words)
    assert again.code == 0, again.out + again.err
    assert len(list((forks.folder / "out").rglob("*.png"))) == 4
    assert len(local.executions()) == 4, again.err
