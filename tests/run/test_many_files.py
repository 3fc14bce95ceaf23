"""50,000 finished jobs in a history, thousands of files in one job: only what is needed is read, memory stays flat."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import graphs
from v2_servers import Double, Seen, running, send
from zygote import Finished, Forks, Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the quick runner forks")
ENTRIES, FILES = 50_000, 40
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 200 + b"IEND\xaeB`\x82"


@pytest.fixture
def forks(tmp_path: Path, zygote: Zygote) -> Forks:
    return Forks(tmp_path, zygote)


def entry(number: int) -> dict[str, Any]:
    """A history entry as a ComfyUI writes it: an image batch of 40 files, about 7 kB."""
    prompt_id = f"00000000-0000-4000-8000-{number:012d}"
    images = [
        {"filename": f"many_{number:05d}_{at:05d}_.png", "subfolder": "", "type": "output"}
        for at in range(FILES)
    ]
    messages = [
        [name, {"prompt_id": prompt_id, "timestamp": 1_795_000_000_000 + number * 1000 + at}]
        for at, name in enumerate(("execution_start", "execution_cached", "execution_success"))
    ]
    return {
        "prompt": [number, prompt_id, graphs.picture(color=number), {"client_id": "others"}, ["2"]],
        "outputs": {"2": {"images": images}},
        "status": {"status_str": "success", "completed": True, "messages": messages},
        "meta": {},
    }


class LongHistory(Double):
    """A ComfyUI with a history of 50,000 jobs. `given`: how many entries it has sent; polling only, no WebSocket."""

    def __init__(self) -> None:
        self.given = 0
        super().__init__()

    def answer(self, handler: BaseHTTPRequestHandler, request: Seen) -> None:
        if request.path == "/history":
            count = int(request.query.get("max_items", [str(ENTRIES)])[0])
            count = ENTRIES if count < 0 else min(count, ENTRIES)
            self.given += count
            found = range(ENTRIES - count, ENTRIES)
            return send(handler, 200, {entry(number)["prompt"][1]: entry(number) for number in found})
        if request.path.startswith("/history/"):
            number = int(request.path[-12:])
            self.given += 1
            return send(handler, 200, {request.path[9:]: entry(number)})
        if request.path == "/queue":
            return send(handler, 200, {"queue_running": [], "queue_pending": []})
        if request.path == "/system_stats":
            return send(handler, 200, {"system": {"comfyui_version": "0.8.0", "os": "posix"}, "devices": []})
        if request.path == "/view":
            return send(handler, 200, PNG, {"Content-Type": "image/png"})
        return send(handler, 404, b"404: Not Found", {"Content-Type": "text/plain"})


LAST = f"00000000-0000-4000-8000-{ENTRIES - 1:012d}"
# Command -> how many entries of the history it may read.
READERS: dict[str, tuple[list[str], int]] = {
    "list": (["manage_queue.py", "list"], 0),
    "history": (["manage_queue.py", "history"], 100),
    "jobs": (["manage_queue.py", "jobs"], 100),
    "jobs that failed": (["manage_queue.py", "jobs", "--status", "error"], 1000),
    "latest jobs": (["fetch_logs.py", "--list"], 20),
    "last job": (["fetch_logs.py", "--last"], 60),
    "one job": (["fetch_logs.py", LAST], 2),
    "monitor": (["ws_monitor.py", "--all"], 0),
    "monitor one": (["ws_monitor.py", "--prompt-id", LAST], 3),
    "resume": (["run_workflow.py", "--resume", LAST, "--output-dir", "out"], 3),
    "wait": (["manage_queue.py", "wait", LAST, "--output-dir", "out"], 3),
    "stats": (["server_info.py", "stats"], 0),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_history_of_50_000_jobs_is_read_only_as_far_as_needed(forks: Forks, reader: str) -> None:
    words, most = READERS[reader]
    with running(LongHistory()) as server:
        ran = forks(*words, "--host", server.url, "--api", "local")
        assert ran.code == 0, ran.out
        assert server.given <= most
    assert len(ran.out) < 60_000
    assert ran.cpu_seconds < 6 and ran.peak_mb < 90
    if reader in ("resume", "wait"):
        assert len(list((forks.folder / "out").glob("*.png"))) == FILES


def many_files(images: int) -> dict[str, Any]:
    """A job that puts out so many files: batches of at most 4,000 pictures."""
    graph: dict[str, Any] = {}
    for at, start in enumerate(range(0, images, 4000)):
        inputs = {"width": 8, "height": 8, "batch_size": min(4000, images - start), "color": at}
        graph[f"1{at}"] = {"class_type": "EmptyImage", "inputs": inputs}
        save = {"images": [f"1{at}", 0], "filename_prefix": f"many{at}"}
        graph[f"2{at}"] = {"class_type": "SaveImage", "inputs": save}
    return graph


def by_run(forks: Forks, url: str, prompt_id: str) -> Finished:
    return forks("run_workflow.py", "graph.json", "--host", url, "--output-dir", "out", "--prompt-id", prompt_id,
                 "--receipt", timeout=900)  # fmt: skip


@pytest.mark.parametrize(
    ("images", "seconds"), [(700, 15), pytest.param(50_000, 900, marks=pytest.mark.slow)]
)
def test_a_job_of_very_many_files(forks: Forks, new_demo: Any, images: int, seconds: float) -> None:
    demo = new_demo("--step-time", "0.001")
    (forks.folder / "graph.json").write_text(json.dumps(many_files(images)))
    many = graphs.job_id("many")
    ran = by_run(forks, demo.url, many)
    document = ran.json
    assert (ran.code, document["status"]) == (0, "success"), ran.out[:2000]
    assert sum(1 for _ in (forks.folder / "out").glob("*.png")) == images
    assert len(document["outputs"]) == 500
    assert (
        document["outputs_not_listed"]["count"] == images - 500
        and document["outputs_not_listed"]["of"] == images
    )
    assert len(json.loads(Path(document["receipt"]).read_text())["files"]) == images
    told = {
        words[0] + words[1]: forks(*words, "--host", demo.url, timeout=60)
        for words in (["fetch_logs.py", many], ["fetch_logs.py", "--list"], ["manage_queue.py", "history"],
                      ["ws_monitor.py", "--prompt-id", many])
    }  # fmt: skip
    print(f"{images} files in {ran.seconds:.0f} s with {ran.peak_mb:.0f} MB; "
          + ", ".join(f"{name} {item.seconds:.1f} s {item.peak_mb:.0f} MB" for name, item in told.items()))  # fmt: skip
    assert ran.cpu_seconds < seconds and ran.peak_mb < 80 + 0.004 * images
    for name, item in told.items():
        assert item.code == 0 and len(item.out) < 30_000, name
        assert item.cpu_seconds < 8 and item.peak_mb < 80 + 0.003 * images, name
