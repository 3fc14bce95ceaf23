"""The clients of references/python-client.md and the sequence of references/websocket.md, against a server that answers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from bundle import ROOT, Demo
from docs_reading import fences
from graphs import job_id, picture

CLIENTS = ROOT / "references" / "python-client.md"
SOCKET_PAGE = (ROOT / "references" / "websocket.md").read_text(encoding="utf-8")
SAMPLED = json.loads((ROOT / "workflows" / "sd15_txt2img.json").read_text(encoding="utf-8"))


def client(name: str, folder: Path) -> Path:
    """The file that the page says to save under this name."""
    text = CLIENTS.read_text(encoding="utf-8")
    for fence in fences(text)[0]:
        title = re.search(
            r"Save this as `([\w.]+)`", " ".join(text.splitlines()[fence.line - 5 : fence.line - 1])
        )
        if fence.language == "python" and title and title[1] == name:
            path = folder / name
            path.write_text(fence.text, encoding="utf-8")
            return path
    raise AssertionError(f"the page has no {name}")


def run_client(
    name: str, url: str, graph: Any, folder: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    (folder / "graph.json").write_text(json.dumps(graph), encoding="utf-8")
    command = [sys.executable, str(client(name, folder)), url, "graph.json", "out"]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("name", ["poll_client.py", "socket_client.py"])
def test_a_local_client_brings_the_picture(name: str, any_server: str, tmp_path: Path) -> None:
    done = run_client(name, any_server, picture(), tmp_path)
    assert done.returncode == 0, done.stderr
    saved = [tmp_path / line for line in done.stdout.splitlines()]
    assert len(saved) == 1 and saved[0].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["poll_client.py", "socket_client.py"])
def test_a_local_client_tells_of_a_failed_node(name: str, new_demo: Any, tmp_path: Path) -> None:
    server = new_demo("--fault", "oom:node=KSampler", "--step-time", "0.005")
    done = run_client(name, server.url, SAMPLED, tmp_path)
    assert done.returncode == 1
    assert "execution_error: node 5" in done.stderr and "memory" in done.stderr


@pytest.mark.parametrize("name", ["poll_client.py", "socket_client.py"])
def test_a_local_client_shows_why_a_graph_is_refused(name: str, demo: Demo, tmp_path: Path) -> None:
    graph = picture()
    graph["1"]["inputs"]["width"] = "wide"
    done = run_client(name, demo.url, graph, tmp_path)
    assert done.returncode == 1 and "invalid_input_type" in done.stderr


def test_the_socket_client_shows_steps(demo: Demo, tmp_path: Path) -> None:
    done = run_client("socket_client.py", demo.url, SAMPLED, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "node 5: 25/25" in done.stderr


def test_the_polling_client_notices_a_lost_job(new_demo: Any, tmp_path: Path) -> None:
    server = new_demo("--fault", "restart:at=start")
    done = run_client("poll_client.py", server.url, picture(), tmp_path)
    assert done.returncode == 1 and "is lost" in done.stderr


def test_the_cloud_client_brings_the_picture_and_keeps_the_key(new_demo: Any, tmp_path: Path) -> None:
    cloud = new_demo("--cloud", "--tier", "creator", "--cloud-option", "outputs_late=1")
    done = run_client(
        "cloud_client.py", cloud.url, picture(), tmp_path, COMFY_CLOUD_API_KEY="comfyui-demo-key"
    )
    assert done.returncode == 0, done.stderr
    saved = [tmp_path / line for line in done.stdout.splitlines()]
    assert len(saved) == 1 and saved[0].read_bytes().startswith(b"\x89PNG")
    storage = cloud.get("/demo/storage")
    assert storage and "comfyui-demo-key" not in json.dumps(storage)


def test_the_cloud_client_shows_a_refusal(new_demo: Any, tmp_path: Path) -> None:
    cloud = new_demo("--cloud", "--cloud-option", "refuse=PAYMENT_REQUIRED")
    done = run_client(
        "cloud_client.py", cloud.url, picture(), tmp_path, COMFY_CLOUD_API_KEY="comfyui-demo-key"
    )
    assert done.returncode == 1 and "HTTP 402" in done.stderr and "PAYMENT_REQUIRED" in done.stderr


# --- the sequence


class Listener:
    """A socket that keeps all frames of one run."""

    def __init__(self, url: str, client_id: str, flags: bool) -> None:
        import websocket

        self.socket = websocket.create_connection(
            f"ws{url.removeprefix('http')}/ws?clientId={client_id}", timeout=60
        )
        self.frames: list[Any] = [json.loads(self.socket.recv())]
        if flags:
            self.socket.send(
                json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            )
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        while True:
            frame = self.socket.recv()
            self.frames.append(json.loads(frame) if isinstance(frame, str) else frame)
            last = self.frames[-1]
            if isinstance(last, dict) and last["type"] == "executing" and last["data"]["node"] is None:
                return


def frames_of_a_run(demo: Demo, flags: bool = False) -> list[Any]:
    listener = Listener(demo.url, f"docs-{flags}", flags)
    demo.post(
        "/prompt", {"prompt": SAMPLED, "client_id": f"docs-{flags}", "prompt_id": job_id(f"docs-run-{flags}")}
    )
    listener.thread.join(timeout=60)
    assert not listener.thread.is_alive(), "the last frame of the page never came"
    listener.socket.close()
    return listener.frames


def told_by(block: str) -> list[str]:
    """The frame types a diagram names, in its order."""
    lines = re.findall(r"(?m)^(?:\s*S-->>C: |server {2})(.+)$", block)
    known = r"\b(status|execution_\w+|progress_state|progress|executing|executed)\b(?! id)"
    return [re.findall(known, line)[0] for line in lines if re.findall(known, line)]


@pytest.mark.parametrize("language", ["mermaid", "text"])
def test_a_run_sends_the_frames_of_the_diagram_in_its_order(demo: Demo, language: str) -> None:
    seen = [frame["type"] for frame in frames_of_a_run(demo) if isinstance(frame, dict)]
    block = next(fence for fence in fences(SOCKET_PAGE)[0] if fence.language == language)
    told = told_by(block.text)
    assert set(seen) == set(told)
    rest = iter(seen)
    assert all(name in rest for name in told), (told, seen)
    assert seen[-1] == told[-1] == "executing" and seen[-2] == told[-2] == "status"


@pytest.mark.parametrize(("flags", "kind"), [(False, 1), (True, 4)])
def test_the_pages_reader_understands_previews(demo: Demo, flags: bool, kind: int) -> None:
    rooms: dict[str, Any] = {}
    block = next(fence for fence in fences(SOCKET_PAGE)[0] if fence.language == "python")
    exec(compile(block.text, "websocket.md", "exec"), rooms)
    binary = [frame for frame in frames_of_a_run(demo, flags) if isinstance(frame, bytes)]
    assert binary and {frame[3] for frame in binary} == {kind}
    for frame in binary:
        read = rooms["read_binary"](frame)
        assert read["image"].startswith({".jpg": b"\xff\xd8", ".png": b"\x89PNG"}[read["suffix"]])
        assert read.get("node") == ("5" if flags else None)
    # The example of the recorded protocol, and a type that nobody knows.
    text = bytes.fromhex("0000000300000001336c6976653a20") + b"42"
    assert rooms["read_binary"](text) == {"node": "3", "text": "live: 42"}
    assert rooms["read_binary"](bytes(3) + b"\x09" + bytes(8)) == {}


def test_what_common_references_get_wrong_is_denied_and_never_used() -> None:
    for name in ("execution_complete", "subscribe_to_prompt"):
        for path in [ROOT / "SKILL.md", ROOT / "README.md", *(ROOT / "references").glob("*.md")]:
            text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
            for match in re.finditer(name, text):
                around = text[max(0, match.start() - 60) : match.end() + 40]
                assert re.search(r"\bno\b|does not exist", around), f"{path.name}: {around}"
