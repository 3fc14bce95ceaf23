"""Which bundled workflows suit a server."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

from bundle import ROOT, Demo, Runner

INDEX = json.loads((ROOT / "workflows/index.json").read_text())["workflows"]
DEFINITIONS = json.loads((Path(__file__).parent.parent / "data/graph/definitions.json").read_text())
GIB = 1024**3


def inventory(folder: Path, device: str, gib: float) -> Path:
    """An inventory of a server with this device, SDXL's checkpoint and no node packs."""
    definitions = json.loads(json.dumps(DEFINITIONS))
    definitions["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] = [
        "sd_xl_base_1.0.safetensors"
    ]
    file = folder / "server.json"
    system = {
        "system": {},
        "devices": [{"name": "it", "type": device, "vram_total": int(gib * GIB)}],
    }
    document = {
        "format": "comfyui-inventory", "version": 1, "api": "local", "definitions": definitions, "system": system,
        "models": {"checkpoints": ["sd_xl_base_1.0.safetensors"]},
    }  # fmt: skip
    file.write_text(json.dumps(document))
    return file


def rows_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["file"]: row for row in document["workflows"]}


def test_what_is_ready_comes_first_and_what_is_missing_is_named(run: Runner, new_demo: Any) -> None:
    server: Demo = new_demo("--models", "checkpoints=v1-5-pruned-emaonly-fp16.safetensors")
    ran = run("server_info.py", "suggest", "--host", server.url)
    rows = rows_of(ran.json)
    assert ran.code == 0
    assert set(rows) == {entry["file"] for entry in INDEX}
    assert rows["sd15_txt2img.json"]["missing_models"] == []
    assert (rows["sdxl_txt2img.json"]["ready"], rows["sdxl_txt2img.json"]["missing_models"]) == (
        False, ["sd_xl_base_1.0.safetensors"],
    )  # fmt: skip
    ready = [row["ready"] for row in ran.json["workflows"]]
    assert True in ready and ready == sorted(ready, reverse=True)


def test_what_needs_a_file_comes_after_what_needs_only_words(run: Runner, demo: Demo) -> None:
    told = run("server_info.py", "suggest", "--host", demo.url).json
    fitting = [row for row in told["workflows"] if row["ready"] and row["fits"] is not False]
    needs_file = [bool(row["input_files"]) for row in fitting]
    assert needs_file == sorted(needs_file) and True in needs_file
    assert rows_of(told)["sdxl_inpaint.json"]["input_files"] == ["image", "mask"]
    assert "photo_touchup" not in told["next"][0]


def test_another_precision_counts_as_ready_and_the_next_command_runs_with_it(
    run: Runner, new_demo: Any
) -> None:
    server: Demo = new_demo("--step-time", "0.005", "--models", "checkpoints=v1-5-pruned-emaonly.safetensors")
    told = run("server_info.py", "suggest", "--host", server.url).json
    row = rows_of(told)["sd15_txt2img.json"]
    assert row["ready"] is True
    assert row["use_instead"] == [
        {
            "name": "v1-5-pruned-emaonly-fp16.safetensors", "use_instead": "v1-5-pruned-emaonly.safetensors",
            "how": "another precision or variant", "sure": False,
        }
    ]  # fmt: skip
    assert row["set"] == ["1.ckpt_name=v1-5-pruned-emaonly.safetensors"]
    done = subprocess.run(
        shlex.split(told["next"][0]), cwd=run.folder, env=run.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_a_file_in_another_folder_is_there(run: Runner, new_demo: Any) -> None:
    server: Demo = new_demo("--models", "checkpoints=old/sd_xl_base_1.0.safetensors")
    row = rows_of(run("server_info.py", "suggest", "--host", server.url).json)["sdxl_txt2img.json"]
    assert (row["ready"], row["missing_models"]) == (True, [])
    assert row["use_instead"][0]["sure"] is True and row["set"] == [
        "1.ckpt_name=old/sd_xl_base_1.0.safetensors"
    ]


def test_missing_nodes_and_their_packs_are_named(run: Runner, tmp_path: Path) -> None:
    ran = run("server_info.py", "suggest", "--inventory", inventory(tmp_path, "cuda", 12))
    row = rows_of(ran.json)["animatediff_video.json"]
    assert row["ready"] is False and "ADE_AnimateDiffLoaderGen1" in row["missing_nodes"]
    assert row["node_packs"] == ["ComfyUI-AnimateDiff-Evolved", "ComfyUI-VideoHelperSuite"]


def test_what_fits_a_graphics_card_and_what_a_cpu_can_promise(run: Runner, tmp_path: Path) -> None:
    card = run("server_info.py", "suggest", "--inventory", inventory(tmp_path, "cuda", 11.5)).json
    assert (card["memory_gb"], card["device"]) == (11.5, "cuda") and "note" not in card
    for row in card["workflows"]:
        assert row["fits"] is (row["vram_gb"] <= 12.1)
    cpu = run("server_info.py", "suggest", "--inventory", inventory(tmp_path, "cpu", 11.5)).json
    assert cpu["device"] == "cpu" and "CPU" in cpu["note"]
    for row in cpu["workflows"]:
        if row["file"] == "photo_touchup.json":
            assert row["fits"] is True  # it needs no model
        else:
            assert row["fits"] is (None if row["vram_gb"] <= 12.1 else False)


def test_where_nothing_is_ready_the_next_command_tells_what_is_lacking(run: Runner, new_demo: Any) -> None:
    server: Demo = new_demo("--models", "checkpoints=", "--models", "diffusion_models=")
    told = run("server_info.py", "suggest", "--host", server.url).json
    assert "check_deps.py" in told["next"][0] and "sd15_txt2img.json" in told["next"][0]


def test_the_demo_server_of_one_call_is_named_by_its_name(run: Runner) -> None:
    assert run("server_info.py", "suggest", "--host", "demo").json["next"][0].endswith("--host demo")


def test_what_could_not_be_asked_is_neither_ready_nor_missing(run: Runner, demo: Demo) -> None:
    demo.fault(
        {"name": "status", "route": "/object_info*", "code": 403},
        {"name": "status", "route": "/models/*", "code": 403},
    )
    told = run("server_info.py", "suggest", "--host", demo.url).json
    assert rows_of(told)["sd15_txt2img.json"]["ready"] is None
    assert "checkpoints" in told["unknown"] and "next" not in told


def test_only_one_kind(run: Runner, demo: Demo) -> None:
    ran = run("server_info.py", "suggest", "--kind", "video", "--host", demo.url)
    assert {row["kind"] for row in ran.json["workflows"]} == {"video"}
