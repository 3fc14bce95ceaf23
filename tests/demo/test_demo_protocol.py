"""The demo server speaks the protocol as it was recorded on a real server (tests/data/demo)."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import websocket
from PIL import Image

from bundle import Demo

DATA = Path(__file__).parent.parent / "data" / "demo"
VERSIONS = {"0.33": "_0.33", "0.8": ""}
PAIRS = [
    (version, pair)
    for version, mark in VERSIONS.items()
    for pair in json.loads((DATA / f"http_pairs{mark}.json").read_text(encoding="utf-8"))
]
FRAMES = [
    (version, name, scenario)
    for version, mark in VERSIONS.items()
    for name, scenario in json.loads((DATA / f"frames{mark}.json").read_text(encoding="utf-8")).items()
]
SERVER = Path(__file__).resolve().parent.parent.parent / "scripts" / "demo_server.py"
SMALL = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 1}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "t"}},
}


def sleeper(seconds: float = 30.0, steps: int = 300, seed: int = 1) -> dict[str, Any]:
    return {
        "1": {"class_type": "DemoSleep", "inputs": {"seconds": seconds, "steps": steps, "seed": seed}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def connect(url: str, client_id: str = "a", **more: Any) -> websocket.WebSocket:
    return websocket.create_connection(f"ws{url[4:]}/ws?clientId={client_id}", timeout=60, **more)


def submit(demo: Any, prompt: dict[str, Any], **more: Any) -> str:
    return demo.post("/prompt", {"prompt": prompt, **more})["prompt_id"]


def finished(demo: Any, prompt_id: str, seconds: float = 60) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = demo.get(f"/history/{prompt_id}")
        if found:
            return found[prompt_id]
        time.sleep(0.01)
    raise AssertionError(f"{prompt_id} did not end")


def running(demo: Any, prompt_id: str) -> None:
    """Waits until a job runs."""
    end = time.monotonic() + 60
    while prompt_id not in demo.get("/demo/state")["running"]:
        assert time.monotonic() < end
        time.sleep(0.01)


def settled(value: Any, key: str = "") -> Any:
    """A body without what differs from run to run: stack lines, the order of sets."""
    if isinstance(value, dict):
        return {
            name: settled(item, name) for name, item in value.items() if name not in ("traceback", "tooltip")
        }
    if isinstance(value, list):
        items = [settled(item, key) for item in value]
        return sorted(items, key=json.dumps) if key in ("errors", "dependent_outputs") else items
    if key == "details" and isinstance(value, str):
        return sorted(value.splitlines())
    return value


@pytest.fixture(scope="module")
def older_demo() -> Iterator[Demo]:
    """A demo server that behaves as 0.8."""
    server = Demo("--version", "0.8")
    yield server
    server.stop()


@pytest.fixture
def demo_of(demo: Demo, older_demo: Demo) -> Callable[[str], Demo]:
    """The demo server that behaves as a version, reset."""
    older_demo.post("/demo/reset")
    return {"0.33": demo, "0.8": older_demo}.__getitem__


@pytest.mark.parametrize(
    ("version", "pair"), PAIRS, ids=[f"{version} {pair['name']}" for version, pair in PAIRS]
)
def test_recorded_answer(demo_of: Any, version: str, pair: dict[str, Any]) -> None:
    demo = demo_of(version)
    address = urlsplit(demo.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    body = json.dumps(pair["json"]).encode() if "json" in pair else pair.get("text", "").encode()
    headers = {
        name: value.replace("8188", str(address.port)) for name, value in pair.get("headers", {}).items()
    }
    connection.request(pair["method"], pair["path"], body or None, headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    assert (answer.status, answer.getheader("Content-Type")) == (pair["status"], pair["type"])
    if "allow" in pair:
        assert answer.getheader("Allow") == pair["allow"]
    if "body" in pair:
        assert settled(json.loads(data)) == settled(pair["body"])


# frames


def brief(frame: str | bytes, run_node: dict[str, Any]) -> list[Any]:
    """A frame in the short form of frames.json."""
    if isinstance(frame, bytes):
        kind = int.from_bytes(frame[:4], "big")
        if kind == 4:
            size = int.from_bytes(frame[4:8], "big")
            return ["binary", 4, json.loads(frame[8 : 8 + size])]
        if kind == 3:
            size = int.from_bytes(frame[4:8], "big")
            return ["binary", 3, frame[8 + size :].decode()]
        return ["binary", kind]
    message = json.loads(frame)
    kind, data = message["type"], message["data"]
    if kind == "progress_state":
        rows = [
            [key, node["state"], node["value"], node["max"], node["display_node_id"], node["parent_node_id"]]
            for key, node in data["nodes"].items()
        ]
        return [kind, rows]
    if kind == "status":
        return [kind, data["status"]["exec_info"]["queue_remaining"], data.get("sid")]
    if kind in ("execution_start", "execution_success"):
        return [kind, data["prompt_id"]]
    if kind == "execution_error":
        keys = ("prompt_id", "node_id", "node_type", "executed", "exception_message", "exception_type")
        return [kind, {key: data[key] for key in keys}]
    if kind == "feature_flags":
        return [kind]
    data = {key: value for key, value in data.items() if key != "timestamp"}
    if kind == "executed" and data["output"] and "images" in data["output"]:
        data["output"] = {"images": len(data["output"]["images"])}
    if "nodes" in data:
        data["nodes"] = sorted(data["nodes"])
    return [kind, data]


def lines(frames: list[list[Any]]) -> tuple[list[Any], dict[str, list[Any]]]:
    """(frames of whole runs in order, frames by node in order): nodes that do not depend on each other may swap."""
    runs: list[Any] = []
    nodes: dict[str, list[Any]] = {}
    known: dict[str, list[Any]] = {}
    node = ""
    for frame in frames:
        kind = frame[0]
        if kind == "execution_start":
            known = {}
        if kind == "progress_state":
            for row in frame[1]:
                if known.get(row[0]) != row:
                    known[row[0]] = row
                    node = row[0]
                    nodes.setdefault(node, []).append(["state", *row[1:]])
        elif kind == "binary":
            nodes.setdefault(node, []).append(frame)
        elif kind in ("executing", "executed", "progress") and frame[1].get("node") is not None:
            nodes.setdefault(frame[1]["node"], []).append(frame)
        elif kind == "execution_error":
            # Which other nodes had run before depends on their order.
            runs.append([kind, {key: value for key, value in frame[1].items() if key != "executed"}])
        else:
            runs.append(frame)
    return runs, nodes


@pytest.mark.parametrize(
    ("version", "scenario"),
    [(version, scenario) for version, _, scenario in FRAMES],
    ids=[f"{version} {name}" for version, name, _ in FRAMES],
)
def test_recorded_frames(demo_of: Any, version: str, scenario: dict[str, Any]) -> None:
    demo = demo_of(version)
    sockets: dict[str, websocket.WebSocket] = {}
    seen: dict[str, list[list[Any]]] = {}
    posts = [step for step in scenario["steps"] if step[0] == "post"]
    for step in scenario["steps"]:
        if step[0] == "open":
            sockets[step[1]] = websocket.create_connection(f"ws{demo.url[4:]}{step[2]}", timeout=60)
            seen[step[1]] = [brief(sockets[step[1]].recv(), {})]
        elif step[0] == "send":
            sockets[step[1]].send(json.dumps(step[2]))
            seen[step[1]].append(brief(sockets[step[1]].recv(), {}))
        else:
            body = step[1]
            for node in body["prompt"].values():
                if "seconds" in node["inputs"]:
                    node["inputs"]["seconds"] = 0.05
            demo.post("/prompt", body)
            finished(demo, body["prompt_id"])
    assert posts
    for conn, expected in scenario["frames"].items():
        while len(seen[conn]) < len(expected):
            seen[conn].append(brief(sockets[conn].recv(), {}))
        # Frames of two answers to one client may arrive in either order with the greeting: compare by line.
        assert lines(seen[conn]) == lines(expected)
        sockets[conn].settimeout(0.05)
        with pytest.raises(websocket.WebSocketTimeoutException):
            sockets[conn].recv()
        sockets[conn].close()


def read_until(socket: websocket.WebSocket, kind: str, **wanted: Any) -> list[dict[str, Any]]:
    """Text frames up to the one of this type whose data hold these values."""
    found = []
    while True:
        frame = socket.recv()
        if isinstance(frame, bytes):
            continue
        message = json.loads(frame)
        found.append(message)
        if message["type"] == kind and all(
            message["data"].get(key) == value for key, value in wanted.items()
        ):
            return found


def test_history_shows_the_outputs_and_the_job(demo: Any) -> None:
    prompt_id = submit(
        demo, SMALL, client_id="x", extra_data={"extra_pnginfo": {"workflow": {"id": "w1", "nodes": []}}}
    )
    entry = finished(demo, prompt_id)
    assert entry["status"]["status_str"] == "success" and entry["status"]["completed"] is True
    assert entry["outputs"]["2"]["images"] == [
        {"filename": "t_00001_.png", "subfolder": "", "type": "output"}
    ]
    assert [name for name, _ in entry["status"]["messages"]] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]
    job = demo.get(f"/api/jobs/{prompt_id}")
    assert (job["status"], job["workflow_id"], job["outputs_count"]) == ("completed", "w1", 1)


def test_saved_picture_carries_prompt_and_workflow(demo: Any) -> None:
    workflow = {"nodes": [], "links": []}
    finished(demo, submit(demo, SMALL, extra_data={"extra_pnginfo": {"workflow": workflow}}))
    data = requests.get(f"{demo.url}/view", params={"filename": "t_00001_.png"}, timeout=60).content
    with Image.open(io.BytesIO(data)) as picture:
        assert json.loads(picture.text["prompt"]) == SMALL  # type: ignore[attr-defined]
        assert json.loads(picture.text["workflow"]) == workflow  # type: ignore[attr-defined]


def test_interrupt_of_one_id_stops_only_that_run(demo: Any) -> None:
    first, second = (
        submit(demo, sleeper(seed=1), client_id="a"),
        submit(demo, sleeper(0.05, 1, 2), client_id="a"),
    )
    running(demo, first)
    requests.post(f"{demo.url}/interrupt", json={"prompt_id": second}, timeout=60)
    time.sleep(0.1)
    assert demo.get(f"/history/{first}") == {}
    requests.post(f"{demo.url}/interrupt", json={"prompt_id": first}, timeout=60)
    entry = finished(demo, first)
    assert entry["status"]["messages"][-1][0] == "execution_interrupted"
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("error", False)
    assert finished(demo, second)["status"]["status_str"] == "success"


def test_queue_order_delete_and_clear(demo: Any) -> None:
    first = submit(demo, sleeper())
    running(demo, first)
    a, b, c, d = (submit(demo, sleeper(0.01, 1, 7), **more) for more in ({}, {"front": True}, {}, {}))
    demo.post("/queue", {"delete": [c, first, "unknown"]})
    queue = demo.get("/queue")
    assert [row[1] for row in queue["queue_running"]] == [first]
    assert [row[1] for row in sorted(queue["queue_pending"], key=lambda row: row[0])] == [b, a, d]
    assert len(queue["queue_pending"][0]) == 5
    demo.post("/queue", {"clear": True})
    assert demo.get("/prompt")["exec_info"]["queue_remaining"] == 1
    demo.post("/interrupt", {})
    finished(demo, first)
    assert list(demo.get("/history")) == [first]


def test_reconnect_in_mid_run_says_which_node_runs(demo: Any) -> None:
    first = connect(demo.url)
    prompt_id = submit(demo, sleeper(4.0, 40), client_id="a")
    read_until(first, "progress")
    first.close()
    second = connect(demo.url)
    assert json.loads(second.recv())["data"]["sid"] == "a"
    assert json.loads(second.recv()) == {"type": "executing", "data": {"node": "1"}}
    assert read_until(second, "executing", node=None)[-1]["data"]["prompt_id"] == prompt_id
    second.close()


def test_second_socket_of_a_name_takes_over_and_goes_silent_when_the_first_leaves(demo: Any) -> None:
    first, second = connect(demo.url), connect(demo.url)
    second.recv()
    finished(demo, submit(demo, SMALL, client_id="a"))
    read_until(second, "executing", node=None)
    first.close()
    end = time.monotonic() + 60
    while len(demo.get("/demo/state")["sockets"]) > 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    finished(demo, submit(demo, sleeper(0.01, 1), client_id="a"))
    second.settimeout(0.1)
    with pytest.raises(websocket.WebSocketTimeoutException):
        second.recv()
    second.close()


def test_secrets_show_neither_in_queue_nor_in_history(demo: Any) -> None:
    job = submit(demo, sleeper(3.0, 3), extra_data={"api_key_comfy_org": "canary-key"})
    running(demo, job)
    assert "canary-key" not in json.dumps(demo.get("/queue"))
    finished(demo, job)
    assert "canary-key" not in json.dumps(demo.get("/history")) + json.dumps(demo.get(f"/api/jobs/{job}"))


def test_ranges_and_previews(demo: Any) -> None:
    finished(demo, submit(demo, SMALL))
    url, params = f"{demo.url}/view", {"filename": "t_00001_.png"}
    whole = requests.get(url, params=params, timeout=60)
    part = requests.get(url, params=params, headers={"Range": "bytes=10-19"}, timeout=60)
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert requests.get(url, params=params, headers={"Range": "bytes=999999-"}, timeout=60).status_code == 416
    shown = requests.get(url, params={**params, "preview": "webp;80"}, timeout=60)
    assert shown.headers["Content-Type"] == "image/webp" and shown.content[8:12] == b"WEBP"


def test_uploads_find_a_free_name(demo: Any) -> None:
    def upload(data: bytes, **fields: str) -> dict[str, Any]:
        answer = requests.post(
            f"{demo.url}/upload/image", files={"image": ("a.png", data)}, data=fields, timeout=60
        )
        return answer.json()

    assert upload(b"one")["name"] == "a.png"
    assert upload(b"one")["name"] == "a.png"
    assert upload(b"two")["name"] == "a (1).png"
    assert upload(b"two")["name"] == "a (1).png"
    assert upload(b"three", overwrite="true", subfolder="s")["subfolder"] == "s"
    refused = requests.post(
        f"{demo.url}/upload/image", files={"image": ("a.png", b"x")}, data={"subfolder": "../.."}, timeout=60
    )
    assert refused.status_code == 400


def test_upload_over_the_limit_is_refused(new_demo: Any) -> None:
    server = new_demo("--max-upload-mb", "1")
    answer = requests.post(
        f"{server.url}/upload/image", files={"image": ("a.png", bytes(1_100_000))}, timeout=60
    )
    assert (answer.status_code, answer.text) == (413, "Maximum request body size 1048576 exceeded.")
    assert server.get("/features")["max_upload_size"] == 1048576.0


def test_seed_and_prompt_change_the_picture_and_nothing_else_does(demo: Any) -> None:
    def graph(seed: int, text: str) -> dict[str, Any]:
        return {
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
            "2": {"class_type": "CLIPTextEncode", "inputs": {"text": text, "clip": ["1", 1]}},
            "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
            "4": {
                "class_type": "KSampler",
                "inputs": {
                    "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0],
                    "seed": seed, "steps": 2, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 1,
                },
            },
            "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
            "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": f"s{seed}{text}"}},
        }  # fmt: skip

    def pixels(seed: int, text: str) -> bytes:
        entry = finished(demo, submit(demo, graph(seed, text), client_id="a"))
        demo.post("/free", {"free_memory": True})
        name = entry["outputs"]["6"]["images"][0]["filename"]
        data = requests.get(f"{demo.url}/view", params={"filename": name}, timeout=60).content
        with Image.open(io.BytesIO(data)) as picture:
            return picture.tobytes()

    assert pixels(1, "cat") == pixels(1, "cat")
    assert len({pixels(1, "cat"), pixels(2, "cat"), pixels(1, "dog")}) == 3


def test_partner_node_wants_the_payers_key_at_run_time(demo: Any) -> None:
    graph = {
        "1": {"class_type": "DemoPartner", "inputs": {"prompt": "p", "seed": 1}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    refused = finished(demo, submit(demo, graph))
    assert refused["status"]["messages"][-1][1]["exception_message"].startswith(
        "Unauthorized: Please login first"
    )
    paid = finished(demo, submit(demo, graph, extra_data={"api_key_comfy_org": "k"}))
    assert paid["status"]["status_str"] == "success"


def test_images_over_the_socket(demo: Any) -> None:
    socket = connect(demo.url)
    graph = {"1": SMALL["1"], "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}
    submit(demo, graph, client_id="a")
    frame: str | bytes = ""
    while not isinstance(frame, bytes):
        frame = socket.recv()
    assert frame[:8] == b"\0\0\0\1\0\0\0\2" and frame[8:16] == b"\x89PNG\r\n\x1a\n"
    socket.close()


# the process


def start(*options: str, **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(SERVER), "--port", "0", *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        **more,
    )


@pytest.mark.parametrize("how", ["stdin", "SIGTERM", "SIGINT"])
def test_ends_and_leaves_nothing_behind(how: str, tmp_path: Path) -> None:
    process = start("--exit-with-parent", env={**os.environ, "TMPDIR": str(tmp_path)})
    assert process.stdout is not None and process.stdin is not None
    hello = json.loads(process.stdout.readline())
    assert hello["status"] == "listening" and hello["pid"] == process.pid
    assert len(list(tmp_path.iterdir())) == 1
    socket = connect(hello["url"])
    if how == "stdin":
        process.stdin.close()
    else:
        process.send_signal(getattr(signal, how))
    assert process.wait(timeout=60) == 0
    assert list(tmp_path.iterdir()) == []
    socket.close()
    process.stdout.close()
    if how != "stdin":
        process.stdin.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_listens_within_a_second_or_little_more() -> None:
    times = []
    for _ in range(3):
        began = time.monotonic()
        process = start("--exit-with-parent")
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        # The processor's time: a busy machine does not change it. What is only waited for shows on the clock.
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        times.append(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"))
        assert time.monotonic() - began < 30
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()
    assert min(times) < 1.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--models", "nonsense"], "not FOLDER=names"),
        (["--definitions", "not_there.json"], "not a readable JSON file"),
    ],
)
def test_wrong_flags_are_one_json_document(options: list[str], words: str) -> None:
    done = subprocess.run([sys.executable, str(SERVER), *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr == ""
    assert words in json.loads(done.stdout)["message"]


def test_a_taken_port_is_said(demo: Any) -> None:
    port = str(urlsplit(demo.url).port)
    done = subprocess.run(
        [sys.executable, str(SERVER), "--port", port], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3 and json.loads(done.stdout)["code"] == "port_taken"
