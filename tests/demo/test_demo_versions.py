"""What the demo server does as 0.33, and otherwise as 0.8; the answers were recorded on real servers."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import websocket
from PIL import Image

from bundle import Demo, Runner
from graphs import job_id

STILL = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 71735}}
CROP = {"x": 8, "y": 0, "width": 32, "height": 16}
SAMPLED = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["1", 1]}},
    "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
    "4": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0], "seed": 1,
            "steps": 3, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 1,
        },
    },
    "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
    "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def both() -> Iterator[dict[str, Demo]]:
    servers = {version: Demo("--version", version, "--step-time", "0.005") for version in ("0.33", "0.8")}
    yield servers
    for server in servers.values():
        server.stop()


@pytest.fixture
def server_of(both: dict[str, Demo]) -> Callable[[str], Demo]:
    """The demo server of a version, reset."""
    for server in both.values():
        server.post("/demo/reset")
    return both.__getitem__


@pytest.fixture
def newest(server_of: Callable[[str], Demo]) -> Demo:
    return server_of("0.33")


def sleeper(seed: int) -> dict[str, Any]:
    return {
        "1": {"class_type": "DemoSleep", "inputs": {"seconds": 60.0, "steps": 600, "seed": seed}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def saved(node: dict[str, Any], prefix: str = "v") -> dict[str, Any]:
    """A picture, a node that changes it, and the node that saves it."""
    save = {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": prefix}}
    return {"1": STILL, "2": node, "5": save}


def submit(demo: Demo, prompt: dict[str, Any], **more: Any) -> str:
    return demo.post("/prompt", {"prompt": prompt, **more})["prompt_id"]


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)
    return found


def finished(demo: Demo, prompt_id: str) -> dict[str, Any]:
    return until(lambda: demo.get(f"/history/{prompt_id}"))[prompt_id]


def running(demo: Demo, prompt_id: str) -> None:
    until(lambda: prompt_id in demo.get("/demo/state")["running"])


def cancel(demo: Demo, prompt_id: str) -> bool:
    return demo.post(f"/api/jobs/{prompt_id}/cancel")["cancelled"]


# jobs


def test_a_running_job_is_cancelled_and_says_so(newest: Demo) -> None:
    job = submit(newest, sleeper(1), client_id="a")
    running(newest, job)
    assert newest.get("/api/jobs?status=in_progress")["jobs"][0]["previewable_outputs_count"] == 0
    assert cancel(newest, job) is True
    entry = finished(newest, job)
    assert entry["status"]["messages"][-1][0] == "execution_interrupted"
    shown = newest.get(f"/api/jobs/{job}")
    assert (shown["status"], "execution_error" in shown, shown["outputs"]) == ("cancelled", False, {})
    assert [row["id"] for row in newest.get("/api/jobs?status=cancelled")["jobs"]] == [job]
    assert newest.get("/api/jobs?status=failed")["jobs"] == []
    assert cancel(newest, job) is False


def test_a_waiting_job_is_cancelled_without_a_trace(newest: Demo) -> None:
    first = submit(newest, sleeper(1))
    running(newest, first)
    second, third = submit(newest, sleeper(2)), submit(newest, sleeper(3))
    assert (cancel(newest, second), cancel(newest, second)) == (True, False)
    assert newest.get(f"/history/{second}") == {}
    assert requests.get(f"{newest.url}/api/jobs/{second}", timeout=60).status_code == 404
    both = {"job_ids": [third, first, job_id("unknown")]}
    assert newest.post("/api/jobs/cancel", both) == {"cancelled": True}
    finished(newest, first)
    assert newest.get("/prompt")["exec_info"]["queue_remaining"] == 0
    assert newest.get(f"/history/{third}") == {}


def test_0_8_has_no_cancel_route_and_calls_an_interrupted_job_failed(server_of: Any) -> None:
    older = server_of("0.8")
    job = submit(older, sleeper(1), prompt_id="any-text")
    running(older, job)
    assert requests.post(f"{older.url}/api/jobs/x/cancel", timeout=60).status_code == 405
    older.post("/interrupt", {"prompt_id": job})
    finished(older, job)
    (shown,) = older.get("/api/jobs")["jobs"]
    assert (shown["status"], "previewable_outputs_count" in shown) == ("failed", False)


def test_a_text_is_shown_where_there_is_no_picture(newest: Demo) -> None:
    text = {"class_type": "PreviewAny", "inputs": {"source": "abc"}}
    job = submit(newest, {"1": text})
    finished(newest, job)
    shown = newest.get(f"/api/jobs/{job}")
    assert shown["preview_output"] == {"content": "abc", "nodeId": "1", "mediaType": "text"}
    assert (shown["outputs_count"], shown["previewable_outputs_count"]) == (0, 0)
    picture = {"2": STILL, "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}}
    job = submit(newest, {"1": text, **picture})
    finished(newest, job)
    shown = newest.get(f"/api/jobs/{job}")
    assert (shown["preview_output"]["nodeId"], shown["previewable_outputs_count"]) == ("3", 1)


@pytest.mark.parametrize(("version", "outputs"), [("0.33", {"5"}), ("0.8", set())])
def test_a_cached_run_without_a_client_lists_its_outputs_or_none(
    server_of: Any, version: str, outputs: set[str]
) -> None:
    demo = server_of(version)
    graph = saved({"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}})
    assert set(finished(demo, submit(demo, graph))["outputs"]) == {"5"}
    again = finished(demo, submit(demo, graph))
    assert sorted(again["status"]["messages"][1][1]["nodes"]) == ["1", "2", "5"]
    assert set(again["outputs"]) == outputs


# graphs


def test_a_replaced_class_runs_and_the_history_has_the_new_one(newest: Demo) -> None:
    # ConditioningAverage with a blank at its end loses its inputs; the loader keeps them.
    (name,) = newest.get("/models/controlnet")[:1]
    loader = {"class_type": "T2IAdapterLoader", "_meta": {"title": "T"}, "inputs": {"t2i_adapter_name": name}}
    graph = {"1": loader, "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}
    entry = finished(newest, submit(newest, graph))
    assert entry["status"]["status_str"] == "success"
    assert entry["prompt"][2]["1"] == {
        "class_type": "ControlNetLoader", "inputs": {"control_net_name": name}, "_meta": {"title": "T"},
    }  # fmt: skip


def test_a_cropped_picture_is_shown_though_the_node_is_no_output(newest: Demo) -> None:
    crop = {"class_type": "ImageCropV2", "inputs": {"image": ["1", 0], "crop_region": CROP}}
    entry = finished(newest, submit(newest, saved(crop)))
    assert set(entry["outputs"]) == {"2", "5"}
    assert entry["outputs"]["2"]["animated"] == [False]
    (shown,) = entry["outputs"]["2"]["images"]
    assert shown["type"] == "temp"
    data = requests.get(f"{newest.url}/view", params=shown, timeout=60).content
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (32, 16)


def test_growing_inputs_fill_a_text_and_two_pictures_are_compared(newest: Demo) -> None:
    text = {"class_type": "StringFormat", "inputs": {"f_string": "{a}-{b}", "values.a": "x", "values.b": 5}}
    show = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    assert finished(newest, submit(newest, {"1": text, "2": show}))["outputs"]["2"] == {"text": ["x-5"]}
    view = {"__value__": ["", ""]}
    compare = {
        "class_type": "ImageCompare",
        "inputs": {"image_a": ["1", 0], "image_b": ["1", 0], "compare_view": view},
    }
    job = submit(newest, {"1": STILL, "2": compare})
    outputs = finished(newest, job)["outputs"]["2"]
    assert {key: len(value) for key, value in outputs.items()} == {"a_images": 1, "b_images": 1}
    shown = newest.get(f"/api/jobs/{job}")
    assert (shown["outputs_count"], shown["previewable_outputs_count"]) == (2, 0)


@pytest.mark.parametrize(
    ("version", "choice"),
    [
        ("0.33", {"codec": "h264"}),
        ("0.33", {"format.codec": "h264", "format.codec.encoding": "auto"}),
        ("0.8", {"codec": "h264"}),
    ],
)
def test_a_video_is_saved_with_either_form_of_the_codec(
    server_of: Any, version: str, choice: dict[str, str]
) -> None:
    demo = server_of(version)
    video = {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}}
    save = {
        "class_type": "SaveVideo",
        "inputs": {"video": ["2", 0], "filename_prefix": "v", "format": "mp4", **choice},
    }
    entry = finished(demo, submit(demo, {"1": STILL, "2": video, "3": save}))
    assert entry["status"]["status_str"] == "success"
    assert entry["outputs"]["3"]["images"][0]["filename"].endswith(".mp4")


def test_definitions_have_the_keys_of_their_version(server_of: Any) -> None:
    newest, older = (server_of(version).get("/object_info") for version in ("0.33", "0.8"))
    assert "crop" in newest["ImageCropV2"]["search_aliases"]
    assert newest["ImageCropV2"]["has_intermediate_output"] is True
    assert "sampler" in newest["KSampler"]["search_aliases"]
    assert newest["SaveVideo"]["input"]["required"]["format"][0] == "COMFY_DYNAMICCOMBO_V3"
    assert older["SaveVideo"]["input"]["required"].keys() >= {"format", "codec"}
    assert "search_aliases" not in older["KSampler"] and "ImageCropV2" not in older


def test_a_blueprint_can_be_run(newest: Demo, run: Runner) -> None:
    listed = newest.get("/global_subgraphs")
    (name,) = (key for key, entry in listed.items() if entry["name"] == "Plain Color")
    assert listed[name].keys() == {"source", "name", "info"}
    assert newest.get("/global_subgraphs/nope") is None
    data = newest.get(f"/global_subgraphs/{name}")["data"]
    (run.folder / "blueprint.json").write_text(data, encoding="utf-8")
    ran = run("run_workflow.py", "blueprint.json", "--host", newest.url, "--output-dir", "out")
    assert ran.code == 0, ran.out
    with Image.open(ran.json["outputs"][0]["file"]) as picture:
        assert (picture.size, picture.convert("RGB").getpixel((1, 1))) == ((256, 256), (255, 0, 0))


# previews


@pytest.mark.parametrize(
    ("flags", "asked", "pictures"),
    [
        ((), None, 0),
        ((), "latent2rgb", 3),
        ((), "none", 0),
        (("--preview-method", "auto"), None, 3),
        (("--preview-method", "auto"), "default", 3),
        (("--preview-method", "auto"), "none", 0),
    ],
)
def test_a_sampler_sends_previews_when_somebody_asks_for_them(
    new_demo: Any, flags: tuple[str, ...], asked: str | None, pictures: int
) -> None:
    demo = new_demo("--step-time", "0.005", *flags)
    socket = websocket.create_connection(f"ws{demo.url[4:]}/ws?clientId=a", timeout=60)
    submit(demo, SAMPLED, client_id="a", extra_data={"preview_method": asked} if asked else {})
    binary = 0
    while True:
        frame = socket.recv()
        if isinstance(frame, bytes):
            binary += 1
        elif json.loads(frame)["data"].get("node", "") is None:
            break
    socket.close()
    assert binary == pictures


# files


@pytest.mark.parametrize(
    ("name", "headers", "kind", "disposition", "cached"),
    [
        ("a.png", {}, "image/png", 'filename="a.png"', None),
        ("a.html", {}, "application/octet-stream", 'attachment; filename="a.html"', "no-store"),
        ("a.js", {}, "application/octet-stream", 'attachment; filename="a.js"', "no-store"),
        ("a.svg", {}, "application/octet-stream", 'attachment; filename="a.svg"', "no-store"),
        ("a.svg", {"Sec-Fetch-Dest": "image"}, "image/svg+xml", 'filename="a.svg"', "no-store"),
    ],
)
def test_active_files_are_downloads(
    newest: Demo, name: str, headers: dict[str, str], kind: str, disposition: str, cached: str | None
) -> None:
    requests.post(f"{newest.url}/upload/image", files={"image": (name, b"x")}, timeout=60)
    answer = requests.get(
        f"{newest.url}/view", params={"filename": name, "type": "input"}, headers=headers, timeout=60
    )
    assert answer.headers["Content-Type"] == kind
    assert answer.headers["Content-Disposition"] == disposition
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers.get("Cache-Control") == cached


def test_user_files_are_downloads_and_their_times_whole(server_of: Any) -> None:
    for version, kind, header in (("0.33", int, "attachment"), ("0.8", float, None)):
        demo = server_of(version)
        url = f"{demo.url}/userdata/a.json"
        info = requests.post(f"{url}?full_info=true", data=b"{}", timeout=60).json()
        assert isinstance(info["modified"], kind)
        assert requests.get(url, timeout=60).headers.get("Content-Disposition") == header
        listed = demo.get("/v2/userdata")
        assert isinstance(listed[0]["modified"], float)


def test_names_of_internal_files_and_lines_of_the_log(server_of: Any) -> None:
    for version, mark, colour in (("0.33", " [output]", "\x1b[32m[INFO]\x1b[0m "), ("0.8", "", "")):
        demo = server_of(version)
        finished(demo, submit(demo, saved({"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}, "n")))
        assert demo.get("/internal/files/output") == [f"n_00001_.png{mark}"]
        assert f"{colour}got prompt\n" in [entry["m"] for entry in demo.get("/internal/logs/raw")["entries"]]
