"""Each fault of the equipped demo server does what its name says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from typing import Any

import pytest
import requests
import websocket

from bundle import EQUIPPED_DEMO
from equipment import cloud, fault_list
from graphs import job_id

PICTURE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 7}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "f"}},
}


def connect(url: str, client_id: str = "a") -> websocket.WebSocket:
    return websocket.create_connection(f"ws{url[4:]}/ws?clientId={client_id}", timeout=60)


def post(demo: Any, name: str, prompt: dict[str, Any] = PICTURE, **more: Any) -> requests.Response:
    body = {"prompt": prompt, "prompt_id": job_id(name), "client_id": "a"}
    return requests.post(f"{demo.url}/prompt", json=body, timeout=60, **more)


def finished(demo: Any, name: str, seconds: float = 60) -> dict[str, Any]:
    prompt_id = job_id(name)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = demo.get(f"/history/{prompt_id}")
        if found:
            return found[prompt_id]
        time.sleep(0.01)
    raise AssertionError(f"{name} did not end")


def starts(demo: Any) -> list[str]:
    return [
        entry["prompt_id"]
        for entry in demo.get("/demo/executions")["executions"]
        if entry["event"] == "start"
    ]


def until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


def status(url: str) -> int:
    return requests.get(url, timeout=60).status_code


def frames(socket: websocket.WebSocket, job: str) -> list[Any]:
    """All frames to the end of a job and what follows at once; None at the end when the connection was cut."""
    found: list[Any] = []
    while True:
        try:
            found.append(socket.recv())
        except websocket.WebSocketTimeoutException:
            assert socket.gettimeout() == 0.2, f"the end of {job} never came: {found}"
            return found
        except (websocket.WebSocketConnectionClosedException, ConnectionError):
            return [*found, None]
        if '"node": null' in str(found[-1]) and f'"prompt_id": "{job_id(job)}"' in str(found[-1]):
            socket.settimeout(0.2)


@pytest.mark.parametrize(
    ("fault", "ran"),
    [("502-before", False), ("502-after", True), ("answer-lost", True), ("close:route=/prompt", False)],
)
def test_submit_faults_differ_in_whether_the_job_runs(demo: Any, fault: str, ran: bool) -> None:
    demo.fault(fault)
    try:
        assert post(demo, "x").status_code == 502
    except requests.ConnectionError:
        assert fault in ("answer-lost", "close:route=/prompt")
    assert post(demo, "y").status_code == 200
    finished(demo, "y")
    assert starts(demo) == [job_id(name) for name in ("xy" if ran else "y")]


def test_too_many_requests_says_when_to_come_back(demo: Any) -> None:
    demo.fault({"name": "429", "times": 2, "retry_after": 3})
    answers = [post(demo, name) for name in ("a", "b", "c")]
    assert [answer.status_code for answer in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "3"


@pytest.mark.parametrize(
    ("body", "kind"),
    [("json", "application/json"), ("text", "text/plain"), ("html", "text/html"), ("empty", None)],
)
def test_status_with_a_body_of_any_kind(demo: Any, body: str, kind: str | None) -> None:
    demo.fault(f"status:route=/history*,code=503,body={body},times=1,after=1")
    assert requests.get(f"{demo.url}/history", timeout=60).status_code == 200
    answer = requests.get(f"{demo.url}/api/history/x", timeout=60)
    assert answer.status_code == 503
    assert (answer.headers.get("Content-Type") or "").split(";")[0] == (kind or "")
    assert requests.get(f"{demo.url}/history", timeout=60).status_code == 200


def test_hang_never_answers(demo: Any) -> None:
    demo.fault("hang:route=/queue")
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{demo.url}/queue", timeout=0.3)
    assert requests.get(f"{demo.url}/prompt", timeout=60).status_code == 200


def test_redirect_and_delay(demo: Any) -> None:
    demo.fault("redirect:route=/view,to=http://127.0.0.1:9{path}", "delay:route=/queue,ms=200")
    answer = requests.get(f"{demo.url}/view?filename=a.png", timeout=60, allow_redirects=False)
    assert answer.headers["Location"] == "http://127.0.0.1:9/view?filename=a.png"
    began = time.monotonic()
    requests.get(f"{demo.url}/queue", timeout=60)
    assert time.monotonic() - began > 0.19


@pytest.fixture
def file_url(demo: Any) -> str:
    """The address of a finished picture."""
    post(demo, "file")
    name = finished(demo, "file")["outputs"]["2"]["images"][0]["filename"]
    return f"{demo.url}/view?filename={name}"


def test_truncated_then_whole(demo: Any, file_url: str) -> None:
    whole = requests.get(file_url, timeout=60).content
    demo.fault("truncate:share=0.5,times=1")
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        _ = requests.get(file_url, timeout=60).content
    rest = requests.get(file_url, headers={"Range": "bytes=10-"}, timeout=60)
    assert (rest.status_code, rest.content) == (206, whole[10:])


def test_wrong_length_no_length_garbage_and_slow(demo: Any, file_url: str) -> None:
    whole = requests.get(file_url, timeout=60).content
    demo.fault("wrong-length:add=-5")
    assert requests.get(file_url, timeout=60).content == whole[:-5]
    demo.fault("wrong-length:add=5")
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        _ = requests.get(file_url, timeout=60).content
    demo.fault("no-length")
    answer = requests.get(file_url, timeout=60)
    assert "Content-Length" not in answer.headers and answer.content == whole
    demo.fault("garbage:route=/view")
    assert len(requests.get(file_url, timeout=60).content) == 1000
    demo.fault(f"slow-body:rate={len(whole) * 2}")
    began = time.monotonic()
    assert requests.get(file_url, timeout=60).content == whole
    assert time.monotonic() - began > 0.3


def test_401_from_the_first_execution_on(demo: Any) -> None:
    demo.fault("401-mid-run")
    assert requests.get(f"{demo.url}/queue", timeout=60).status_code == 200
    assert post(demo, "x").status_code == 200
    until(lambda: status(f"{demo.url}/queue") == 401)
    assert starts(demo) == [job_id("x")]


def test_down_drops_connections_for_a_while(demo: Any) -> None:
    demo.fault("down:ms=300")
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{demo.url}/queue", timeout=60)

    def up() -> bool:
        try:
            return status(f"{demo.url}/queue") == 200
        except requests.ConnectionError:
            return False

    until(up)


# sockets


def test_drop_after_so_many_frames_once(demo: Any) -> None:
    demo.fault("drop-socket:frames=4")
    socket = connect(demo.url)
    post(demo, "x")
    seen = frames(socket, "x")
    assert len(seen) == 5 and seen[-1] is None
    again = connect(demo.url)
    post(demo, "y")
    assert frames(again, "y")[-1] is not None
    again.close()


def test_silent_refused_and_unanswered_sockets(demo: Any) -> None:
    demo.fault("silent-socket")
    socket = connect(demo.url)
    post(demo, "x")
    finished(demo, "x")
    socket.settimeout(0.2)
    assert frames(socket, "x") == []
    demo.fault("no-socket:code=403")
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        connect(demo.url)
    assert refused.value.status_code == 403
    demo.fault("hang-socket")
    with pytest.raises(websocket.WebSocketTimeoutException):
        websocket.create_connection(f"ws{demo.url[4:]}/ws", timeout=0.3)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("garbage-frames:at=0", lambda seen: "this is not JSON {" in seen),
        ("garbage-frames:at=0,kind=binary", lambda seen: b"\x00" in seen),
        ("garbage-frames:at=0,kind=json", lambda seen: "null" in seen),
        ("unknown-frames:at=0", lambda seen: any("demo_unknown" in str(frame) for frame in seen)),
        ("foreign-frames:at=0", lambda seen: any("f0e1" in str(frame) for frame in seen)),
        ("duplicate-frames:every=1", lambda seen: seen[0] == seen[1] and seen[2] == seen[3]),
        ("truncate-frames:at=0", lambda seen: seen[0].startswith('{"type"') and not seen[0].endswith("}")),
        (
            "lose-frames:type=execution_success",
            lambda seen: not any("execution_success" in str(frame) for frame in seen),
        ),
        ("big-frame:at=0,bytes=10000000", lambda seen: any(len(frame) > 10_000_000 for frame in seen)),
    ],
)
def test_odd_frames(demo: Any, fault: str, check: Any) -> None:
    demo.fault(fault)
    socket = connect(demo.url)
    post(demo, "x")
    assert check(frames(socket, "x"))
    socket.close()


def test_reordered_frames_swap_and_none_is_lost(demo: Any) -> None:
    demo.fault("reorder-frames:every=2")
    socket = connect(demo.url)
    post(demo, "x")
    post(demo, "y")  # a frame waits for the next one, and the last of the first job comes with the second
    seen: list[Any] = []
    while not ("execution_success" in str(seen[-1:]) and job_id("y") in str(seen[-1:])):
        seen.append(socket.recv())
    kinds = [json.loads(frame)["type"] for frame in seen if isinstance(frame, str)]
    assert kinds.index("progress_state") < kinds.index("execution_cached")
    assert (
        kinds.count("execution_success") == kinds.count("execution_start") == 2
        and kinds.count("executed") == 2
    )
    socket.close()


# runs


def test_out_of_memory_and_failure_in_a_named_node(demo: Any) -> None:
    demo.fault("oom:node=SaveImage,times=1", "fail:node=1,kind=ValueError,message=no,times=1")
    post(demo, "x")
    error = finished(demo, "x")["status"]["messages"][-1][1]
    assert (error["node_id"], error["exception_type"], error["exception_message"]) == (
        "1",
        "ValueError",
        "no\n",
    )
    post(demo, "y")
    assert finished(demo, "y")["status"]["messages"][-1][1]["exception_type"] == "torch.OutOfMemoryError"
    post(demo, "z")
    assert finished(demo, "z")["status"]["status_str"] == "success"


def test_stuck_node_can_be_interrupted(demo: Any) -> None:
    demo.fault("stuck:node=SaveImage")
    post(demo, "x")
    until(lambda: starts(demo))
    time.sleep(0.2)
    assert demo.get(f"/history/{job_id('x')}") == {}
    demo.post("/interrupt", {"prompt_id": job_id("x")})
    assert finished(demo, "x")["status"]["messages"][-1][0] == "execution_interrupted"


def test_a_reset_leaves_nothing_that_could_reach_the_next_client(demo: Any) -> None:
    demo.fault("stuck:node=SaveImage")
    old = connect(demo.url)
    post(demo, "x")
    demo.post("/demo/reset")
    state = demo.get("/demo/state")
    assert (state["running"], state["sockets"]) == ([], [])
    new = connect(demo.url)
    old.close()
    post(demo, "y")
    heard = [json.loads(frame) for frame in frames(new, "y") if isinstance(frame, str)]
    assert "execution_success" in [frame["type"] for frame in heard]
    assert job_id("x") not in [frame["data"].get("prompt_id") for frame in heard]


def test_late_history_lost_job_and_paused_queue(demo: Any) -> None:
    demo.fault("history-late:ms=2000")
    socket = connect(demo.url)
    post(demo, "late")
    while "execution_success" not in str(socket.recv()):
        pass
    assert demo.get(f"/history/{job_id('late')}") == {}
    assert finished(demo, "late")
    demo.fault("job-lost")
    assert post(demo, "lost").status_code == 200
    until(lambda: demo.get("/queue") == {"queue_running": [], "queue_pending": []})
    assert demo.get(f"/history/{job_id('lost')}") == {}
    demo.fault("paused")
    post(demo, "waits")
    time.sleep(0.2)
    assert [row[1] for row in demo.get("/queue")["queue_pending"]] == [job_id("waits")]
    demo.fault()
    assert finished(demo, "waits")
    socket.close()


def test_restart_loses_everything_and_cuts_sockets(demo: Any) -> None:
    post(demo, "before")
    finished(demo, "before")
    demo.fault("restart:at=start")
    socket = connect(demo.url)
    post(demo, "x")
    assert frames(socket, "x")[-1] is None
    assert demo.get("/history") == {} and demo.get("/queue")["queue_running"] == []
    assert post(demo, "y").json()["number"] == 0
    assert finished(demo, "y")["status"]["status_str"] == "success"


@pytest.mark.parametrize(
    "moment", ["submit", "accepted", "start", "node", "end", "history", "view", "connect"]
)
def test_dies_at_the_moment(new_demo: Any, moment: str) -> None:
    server = new_demo("--fault", f"die:at={moment}")
    try:
        if moment == "connect":
            connect(server.url)
        post(server, "x")
        finished(server, "x")
        requests.get(f"{server.url}/view?filename=x", timeout=60)
    except (OSError, AssertionError, websocket.WebSocketException):
        pass
    assert server.process.wait(timeout=60) == 1


def test_log_keeps_what_was_asked(demo: Any) -> None:
    requests.post(f"{demo.url}/prompt?x=1", json={"a": 1}, headers={"X-Canary": "c"}, timeout=60)
    entry = demo.log()[-1]
    assert (entry["method"], entry["path"], entry["query"]) == ("POST", "/prompt", {"x": "1"})
    assert entry["headers"]["X-Canary"] == "c" and entry["json"] == {"a": 1} and entry["status"] == 400


def test_wrong_fault_changes_nothing(demo: Any) -> None:
    demo.fault("paused")
    answer = requests.post(f"{demo.url}/demo/faults", json=["nonsense"], timeout=60)
    assert answer.status_code == 400 and "unknown fault 'nonsense'" in answer.json()["error"]
    assert demo.get("/demo/faults")["faults"][0]["name"] == "paused"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fault", "no-such"], "unknown fault 'no-such'"),
        (["--fault", "oom:nodes=1"], "has no key 'nodes'"),
        (["--fault", "delay:ms=soon"], "could not convert"),
        (["--cloud-option", "zzz=1"], "there are: appear_ms"),
        (["--cloud", "--manager", "v4"], "exclude each other"),
    ],
)
def test_wrong_flags_of_the_equipment_are_misuse(options: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EQUIPPED_DEMO), *options], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert words in json.loads(done.stdout)["message"]


def test_help_names_every_fault_and_switch() -> None:
    done = subprocess.run(
        [sys.executable, str(EQUIPPED_DEMO), "--help"], capture_output=True, text=True, timeout=60
    )
    for name in [*fault_list.FAULTS, *cloud.SWITCHES]:
        assert re.search(rf"^  {re.escape(name)}[:=\n]", done.stdout, re.MULTILINE), name
