"""Every bundled workflow runs on a server, and a picture that it saves leads back to the workflow.

Against the demo server; the model-free one also against the real server in COMFYUI_TEST_URL.
"""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from comfyskill.source import media, read

FOLDER = Path(__file__).parent.parent.parent / "workflows"
INDEX = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
KINDS = {
    "image": {"PNG picture"},
    "video": {"MP4 video", "WebM video"},
    "audio": {"MP3 sound", "FLAC sound"},
    "3d": {"GLB model"},
}


def call(url, body=None):
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def entry_of(url, prompt_id, patience=60.0):
    """The history entry of a run, once it has ended."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        history = call(f"{url}/history/{prompt_id}")
        if history:
            return history[prompt_id]
        time.sleep(0.02)
    raise AssertionError("the run did not end")


def run(url, graph):
    """The files that a graph saved, as the server names them."""
    accepted = call(f"{url}/prompt", {"prompt": graph, "client_id": "workflows", "extra_data": {}})
    assert accepted["node_errors"] == {}
    entry = entry_of(url, accepted["prompt_id"])
    assert entry["status"]["status_str"] == "success"
    return [
        item
        for output in entry["outputs"].values()
        for items in output.values()
        for item in items
        if isinstance(item, dict) and "filename" in item
    ]


def fetched(url, file, folder):
    path = folder / file["filename"]
    with urllib.request.urlopen(f"{url}/view?{urllib.parse.urlencode(file)}", timeout=60) as answer:
        path.write_bytes(answer.read())
    return path


@pytest.mark.parametrize("entry", INDEX["workflows"], ids=lambda entry: entry["file"])
def test_it_runs_and_saves_a_file_of_its_kind(demo, entry, tmp_path):
    graph = json.loads((FOLDER / entry["file"]).read_text(encoding="utf-8"))

    files = run(demo.url, graph)

    assert len(files) == 1 and files[0]["type"] == "output"
    path = fetched(demo.url, files[0], tmp_path)
    with path.open("rb") as stream:
        assert media.kind_of(stream) in KINDS[entry["kind"]]
    if entry["kind"] == "image":
        assert read.load(str(path)).graph == graph


def test_the_model_free_workflow_runs_anywhere(any_server):
    graph = json.loads((FOLDER / "photo_touchup.json").read_text(encoding="utf-8"))
    graph["2"]["inputs"]["width"] = 64 + int(time.time()) % 64  # no cached run

    assert [file["type"] for file in run(any_server, graph)] == ["output"]


@pytest.mark.parametrize(("mode", "brighter"), [("screen", 1), ("multiply", -1)])
def test_a_small_photo_keeps_its_size_and_gets_lighter_or_darker(run, demo, mode, brighter):
    from PIL import Image, ImageStat

    Image.new("RGB", (60, 40), (120, 120, 120)).save(run.folder / "grey.png")
    done = run(
        "run_workflow.py", FOLDER / "photo_touchup.json", "--host", demo.url, "--output-dir", "out",
        "--input-image", "image=grey.png", "--set", f"blend_mode={mode}",
    )  # fmt: skip
    with Image.open(done.json["outputs"][0]["file"]) as made:
        assert made.size == (60, 40)
        assert (ImageStat.Stat(made.convert("L")).mean[0] - 120) * brighter > 15
