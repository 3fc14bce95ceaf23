"""Inventories: what a server had, in one file that answers for it later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comfyskill.base.cli import SkillError
from comfyskill.server import facts as server_inventory

LOADER = {
    "input": {"required": {"ckpt_name": [["a.safetensors"], {}]}},
    "output": ["MODEL"],
    "python_module": "nodes",
}
SAVER = {
    "input": {"required": {"images": ["IMAGE"]}},
    "output": [],
    "output_node": True,
    "python_module": "nodes",
}
FLOW = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}


def document(**more: Any) -> dict[str, Any]:
    return {
        "format": server_inventory.FORMAT, "version": server_inventory.VERSION, "api": "local",
        "definitions": {"CheckpointLoaderSimple": LOADER, "SaveImage": SAVER}, "models": {"checkpoints": ["a.safetensors"]},
        "embeddings": ["e"], "system": {"system": {"comfyui_version": "0.8.0"}, "devices": []},
    } | more  # fmt: skip


def written(folder: Path, value: Any) -> Path:
    path = folder / "inventory.json"
    path.write_text(json.dumps(value))
    return path


def test_it_is_taken_from_a_server_and_answers_like_it(run: Any, demo: Any, tmp_path: Path) -> None:
    saved = run("check_deps.py", "--save-inventory", "one.json", "--host", demo.url)
    assert saved.code == 0
    assert saved.json["inventory"]["definitions"] == len(demo.get("/object_info"))
    inventory = server_inventory.load(tmp_path / "one.json")
    assert inventory.definitions(["KSampler", "Nope"]).keys() == {"KSampler"}
    assert inventory.definitions() == demo.get("/object_info")
    for folder in inventory.model_folders():
        assert inventory.models(folder) == sorted(demo.get(f"/models/{folder}"))
    assert inventory.embeddings() == sorted(demo.get("/embeddings"))
    assert (
        inventory.stats()["system"]["comfyui_version"]
        == demo.get("/system_stats")["system"]["comfyui_version"]
    )


def test_two_inventories_of_one_server_are_the_same_file(run: Any, demo: Any, tmp_path: Path) -> None:
    for name in ("one.json", "two.json"):
        assert run("check_deps.py", "--save-inventory", name, "--host", demo.url).code == 0
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    keys = list(json.loads((tmp_path / "one.json").read_text()))
    assert keys == sorted(keys)
    assert demo.url.encode() not in (tmp_path / "one.json").read_bytes()


def test_a_check_against_an_inventory_asks_nobody(run: Any, demo: Any, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent.parent
    assert run("check_deps.py", "--save-inventory", "one.json", "--host", demo.url).code == 0
    demo.post("/demo/log/clear")
    ran = run(
        "check_deps.py",
        root / "workflows" / "sd15_txt2img.json",
        "--inventory",
        "one.json",
        env={"COMFY_HOST": demo.url},
    )
    assert ran.code == 0
    assert [entry for entry in demo.log() if not entry["path"].startswith("/demo/")] == []


def test_a_check_finds_what_is_not_in_it(run: Any, tmp_path: Path) -> None:
    written(
        tmp_path,
        document(
            definitions={
                "SaveImage": SAVER,
                "CheckpointLoaderSimple": {**LOADER, "input": {"required": {"ckpt_name": [[], {}]}}},
            },
            models={"checkpoints": []},
        ),
    )
    (tmp_path / "f.json").write_text(json.dumps(FLOW))
    ran = run("check_deps.py", "f.json", "--inventory", "inventory.json")
    assert ran.code == 1
    assert "is empty" in ran.json["workflows"][0]["models"]["missing"][0]["reason"]


def test_what_was_refused_stays_refused_and_is_not_empty(run: Any, tmp_path: Path) -> None:
    flow = {**FLOW, "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "embedding:e"}}}
    flow["2"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "x": ["3", 0]}}
    definitions = {
        "CheckpointLoaderSimple": LOADER,
        "SaveImage": SAVER,
        "CLIPTextEncode": {**SAVER, "output_node": False, "input": {"required": {"text": ["STRING", {}]}}},
    }
    value = document(definitions=definitions, not_had={"embeddings": "refused"})
    del value["embeddings"]
    written(tmp_path, value)
    (tmp_path / "f.json").write_text(json.dumps(flow))
    ran = run("check_deps.py", "f.json", "--inventory", "inventory.json")
    assert ran.code == 4
    assert ran.json["counts"]["unknown"] == 1


def test_a_part_that_could_not_be_listed_is_named_when_it_is_taken(run: Any, tmp_path: Path) -> None:
    from manager_server import Comfy

    comfy = Comfy(tmp_path / "models")
    comfy.faults["models/loras"] = 403
    try:
        ran = run("check_deps.py", "--save-inventory", "one.json", "--host", comfy.url)
    finally:
        comfy.stop()
    assert ran.json["inventory"]["not_had"] == {"models/loras": "refused"}
    with pytest.raises(SkillError) as caught:
        server_inventory.load(tmp_path / "one.json").models("loras")
    assert caught.value.code == "refused"
    assert server_inventory.load(tmp_path / "one.json").models("vae") == []


def test_an_unknown_folder_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(SkillError) as caught:
        server_inventory.load(written(tmp_path, document())).models("nope")
    assert caught.value.code == "folder_not_found"


def test_saved_definitions_alone_are_taken_and_know_no_models(tmp_path: Path) -> None:
    inventory = server_inventory.load(written(tmp_path, {"CheckpointLoaderSimple": LOADER}))
    assert inventory.definitions(["CheckpointLoaderSimple"])
    with pytest.raises(SkillError):
        inventory.models("checkpoints")


@pytest.mark.parametrize("value", [[], {}, {"a": 1}, "x", {"format": "comfyui-inventory", "version": 99}])
def test_other_files_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(SkillError) as caught:
        server_inventory.load(written(tmp_path, value))
    assert caught.value.exit == 2


def test_a_missing_file_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SkillError):
        server_inventory.load(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(SkillError):
        server_inventory.load(tmp_path / "x.json")


def test_a_place_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SkillError):
        server_inventory.save(document(), tmp_path / "none" / "x.json")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_writes_no_inventory(run: Any, tmp_path: Path) -> None:
    assert run("check_deps.py", "--save-inventory", "one.json", "--host", "http://127.0.0.1:9").code == 3
    assert not (tmp_path / "one.json").exists()


@pytest.mark.parametrize(
    ("question", "key"),
    [("stats", "comfyui_version"), ("nodes --search upscale", "items"), ("node KSampler", "node"), ("models", "folders"),
     ("models checkpoints", "items"), ("embeddings", "items"), ("suggest", "workflows")],
)  # fmt: skip
def test_questions_are_answered_by_an_inventory_as_by_its_server(
    run: Any, demo: Any, tmp_path: Path, question: str, key: str
) -> None:
    assert run("check_deps.py", "--save-inventory", "one.json", "--host", demo.url).code == 0
    asked = run(
        "server_info.py",
        *question.split(),
        "--inventory",
        "one.json",
        env={"COMFY_HOST": "http://127.0.0.1:9"},
    )
    live = run("server_info.py", *question.split(), "--host", demo.url)
    assert asked.code == live.code == 0, asked.out
    assert asked.json[key] == live.json[key]
    assert "next" not in asked.json


def test_a_plan_for_an_inventory_is_only_a_plan(run: Any, demo: Any, tmp_path: Path) -> None:
    assert run("check_deps.py", "--save-inventory", "one.json", "--host", demo.url).code == 0
    (tmp_path / "f.json").write_text(json.dumps({"1": {"class_type": "FaceDetailer", "inputs": {}}}))
    ran = run("auto_fix_deps.py", "f.json", "--inventory", "one.json", "--dry-run")
    assert (ran.code, ran.json["status"]) == (0, "dry_run")
    assert ran.json["plan"][0]["name"] == "comfyui-impact-pack"
    assert run("auto_fix_deps.py", "f.json", "--inventory", "one.json", "--yes").code == 2


def test_runs_and_batches_are_rehearsed_with_an_inventory(run: Any, demo: Any, tmp_path: Path) -> None:
    from PIL import Image

    root = Path(__file__).resolve().parent.parent.parent / "workflows"
    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    assert run("check_deps.py", "--save-inventory", "one.json", "--host", demo.url).code == 0
    demo.post("/demo/log/clear")
    offline = ["--dry-run", "--inventory", "one.json"]
    photo = ["--input-image", "image=p.png", "--set", "denoise=0.3"]
    single = run(
        "run_workflow.py", root / "sdxl_img2img.json", *photo, *offline, env={"COMFY_HOST": demo.url}
    )
    assert (single.code, single.json["status"], single.json["host"]) == (0, "dry_run", "inventory one.json")
    batch = run("run_batch.py", root / "sdxl_img2img.json", *photo, "--sweep", "cfg=4,5", *offline)
    assert (batch.code, batch.json["runs"]) == (0, 2), batch.out
    assert [entry for entry in demo.log() if not entry["path"].startswith("/demo/")] == []

    flow = json.loads((root / "sd15_txt2img.json").read_text())
    flow["1"]["inputs"]["ckpt_name"] = "nobody_has_this.safetensors"
    (tmp_path / "f.json").write_text(json.dumps(flow))
    for script, *more in (["run_workflow.py"], ["run_batch.py", "--count", "2"]):
        refused = run(script, "f.json", *more, *offline)
        assert (refused.code, refused.json["code"]) == (6, "would_be_rejected"), refused.out
        assert "--inventory one.json" in refused.json["next"][0]
        assert run(script, "f.json", *more, "--inventory", "one.json").json["code"] == "misuse"
    for words in (["f.json", "--only", "99"], ["template:x"], ["f.json", "--input-image", "1.x=p.png"]):
        assert run("run_workflow.py", *words, *offline).code == 2


@pytest.mark.parametrize(
    "words",
    [
        "check_deps.py f.json", "inspect_workflow.py f.json", "server_info.py nodes", "run_workflow.py f.json --dry-run",
        "run_batch.py f.json --dry-run",
    ],
)  # fmt: skip
def test_an_inventory_and_a_server_exclude_each_other(run: Any, words: str) -> None:
    ran = run(*words.split(), "--inventory", "one.json", "--host", "demo")
    assert (ran.code, ran.json["code"]) == (2, "misuse")
