"""What a check and a plan say to run next; tags that nobody reads; servers that can never tell; the demo's Manager."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bundle import ROOT
from comfyskill.deps import need
from v2_servers import Proxy

SDXL = ROOT / "workflows" / "sdxl_txt2img.json"


def saved(folder: Path, graph: Any, name: str = "flow.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(graph))
    return path


def sdxl(**inputs: dict[str, Any]) -> dict[str, Any]:
    """The bundled workflow with inputs changed: node id -> inputs."""
    graph = json.loads(SDXL.read_text())
    for node_id, changed in inputs.items():
        graph[node_id.lstrip("_")]["inputs"].update(changed)
    return dict(graph)


def node_with(graph: dict[str, Any], class_type: str) -> str:
    return next(node_id for node_id, node in graph.items() if node["class_type"] == class_type)


def renamed() -> dict[str, Any]:
    graph = json.loads(SDXL.read_text())
    graph[node_with(graph, "CheckpointLoaderSimple")]["inputs"]["ckpt_name"] = (
        "XL\\sd_xl_base_1.0.safetensors"
    )
    return dict(graph)


def ran_as_it_stands(line: str, folder: Path, run: Any) -> dict[str, Any]:
    done = subprocess.run(
        shlex.split(line),
        cwd=folder,
        env=run.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


# --- names that are surely meant


def test_a_sure_name_comes_with_the_run_that_uses_it(run: Any, demo: Any, tmp_path: Path) -> None:
    flow = saved(tmp_path, renamed())
    document = run("check_deps.py", flow, "--host", demo.url).json
    (line,) = document["next"]
    assert "run_workflow.py" in line
    assert ran_as_it_stands(line, tmp_path, run)["status"] == "success"


def test_after_a_repair_the_copy_is_what_runs(run: Any, demo: Any, tmp_path: Path) -> None:
    words = (saved(tmp_path, renamed()), "--host", demo.url, "--repair", "copy file.json")
    (line,) = run("check_deps.py", *words).json["next"]
    assert "copy file.json" in shlex.split(line)
    assert ran_as_it_stands(line, tmp_path, run)["status"] == "success"


def test_a_hostile_file_name_is_one_word_of_next(run: Any, demo: Any, tmp_path: Path) -> None:
    flow = saved(tmp_path, renamed(), "a;touch pwned $(touch pwned).json")
    (line,) = run("check_deps.py", flow.name, "--host", demo.url).json["next"]
    done = subprocess.run(
        ["bash", "-c", line], cwd=tmp_path, env=run.environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert not (tmp_path / "pwned").exists()


def test_with_more_missing_it_is_a_repaired_copy_and_a_plan(run: Any, new_demo: Any, tmp_path: Path) -> None:
    demo = new_demo("--manager", "v4")
    graph = renamed()
    save = node_with(graph, "SaveImage")
    graph["99"] = {"class_type": "VHS_VideoCombine", "inputs": dict(graph[save]["inputs"])}
    flow = saved(tmp_path, graph)
    document = run("check_deps.py", flow, "--host", demo.url).json
    repair, plan = document["next"]
    assert "--repair flow.repaired.json" in repair
    assert plan.endswith("--dry-run")
    # The copy has the right name; what else is missing is still missing.
    done = subprocess.run(
        shlex.split(repair), cwd=tmp_path, env=run.environment, capture_output=True, check=False
    )
    assert done.returncode == 1
    copy = json.loads((tmp_path / "flow.repaired.json").read_text())
    assert (
        copy[node_with(graph, "CheckpointLoaderSimple")]["inputs"]["ckpt_name"]
        == "sd_xl_base_1.0.safetensors"
    )
    assert ran_as_it_stands(plan, tmp_path, run)["plan"][0]["name"] == "comfyui-videohelpersuite"


def test_next_never_installs(run: Any, new_demo: Any, tmp_path: Path) -> None:
    demo = new_demo("--models", "checkpoints=", "--manager", "v3")
    graph = json.loads(SDXL.read_text())
    graph["99"] = {"class_type": "VHS_VideoCombine", "inputs": {}}
    flow = saved(tmp_path, graph)
    lines = run("check_deps.py", flow, "--host", demo.url).json["next"]
    lines += run("auto_fix_deps.py", flow, "--host", demo.url, "--dry-run").json.get("next", [])
    assert lines
    assert not [line for line in lines if "--dry-run" not in line or "--yes" in line]


def test_a_plan_of_names_alone_says_so(run: Any, demo: Any, tmp_path: Path) -> None:
    document = run("auto_fix_deps.py", saved(tmp_path, renamed()), "--host", demo.url, "--dry-run").json
    assert document["message"].startswith("nothing has to be installed; 1 name wrong")
    assert ran_as_it_stands(document["next"][0], tmp_path, run)["status"] == "success"


# --- blocked plans


def test_a_plan_whose_only_step_is_blocked_says_what_it_lacks(
    run: Any, new_demo: Any, tmp_path: Path
) -> None:
    demo = new_demo("--models", "checkpoints=")
    document = run("auto_fix_deps.py", SDXL, "--host", demo.url, "--dry-run").json
    assert document["message"] == "1 step is blocked; nothing was changed"
    assert document["hint"].startswith("give --models-dir DIR")
    assert document["plan"][0]["lacks"] == "--models-dir DIR"
    (tmp_path / "models").mkdir()
    words = ("--models-dir", tmp_path / "models")
    document = run("auto_fix_deps.py", SDXL, "--host", demo.url, "--dry-run", *words).json
    assert document["message"] == "a plan of 1 step; nothing was changed"


def test_a_step_that_wants_consent_comes_with_the_plan_that_has_it(
    run: Any, new_demo: Any, tmp_path: Path
) -> None:
    demo = new_demo("--models", "checkpoints=")
    (tmp_path / "models").mkdir()
    url = "https://models.example/new.safetensors"
    loader = {
        "id": 1, "type": "CheckpointLoaderSimple", "pos": [0, 0], "size": [1, 1], "flags": {}, "order": 0, "mode": 0,
        "inputs": [], "outputs": [], "widgets_values": ["new.safetensors"],
        "properties": {"models": [{"name": "new.safetensors", "url": url, "directory": "checkpoints"}]},
    }  # fmt: skip
    flow = saved(tmp_path, {"nodes": [loader], "links": [], "version": 0.4, "extra": {}})
    words = ("--host", demo.url, "--models-dir", tmp_path / "models")
    ran = run("auto_fix_deps.py", flow, *words, "--yes")
    assert ran.code == 7
    assert "--allow-host models.example" in ran.json["hint"]
    document = ran_as_it_stands(ran.json["next"][0], tmp_path, run)
    assert document["plan"][0]["how"] == "download"


def test_what_no_install_brings_is_not_called_nothing(run: Any, demo: Any, tmp_path: Path) -> None:
    graph = renamed()
    graph["99"] = {"class_type": "LoadImage", "inputs": {"image": "gone.png"}}
    graph["98"] = {"class_type": "PreviewImage", "inputs": {"images": ["99", 0]}}
    words = (saved(tmp_path, graph), "--host", demo.url, "--dry-run")
    document = run("auto_fix_deps.py", *words).json
    assert "1 name, 1 file wrong or missing are" in document["message"]
    assert "--input-file" in document["hint"]


def test_a_pack_that_nobody_installs_is_named_with_its_reason(run: Any, demo: Any, tmp_path: Path) -> None:
    flow = saved(tmp_path, {"1": {"class_type": "Nope\u001b[31m", "inputs": {}}})
    document = run("auto_fix_deps.py", flow, "--host", demo.url, "--dry-run").json
    assert document["hint"] == "'Nope': no source names the pack of this class"


# --- what can never be known


def test_a_v2_server_can_never_tell_and_does_not_invite_to_try_again(
    run: Any, demo: Any, tmp_path: Path
) -> None:
    pytest.importorskip("comfy_api_proxy", reason="comfy-api-proxy is not installed")
    proxy = Proxy(demo.url)
    try:
        ran = run("check_deps.py", SDXL, "--host", proxy.url)
        looked_at = run("inspect_workflow.py", SDXL, "--host", proxy.url)
    finally:
        proxy.stop()
    assert looked_at.code == 0
    assert "are unknown" in looked_at.json["warnings"][0]
    assert ran.code == 4
    document = ran.json
    assert (document["status"], document["code"], document["retryable"]) == ("unknown", "not_known", False)
    assert document["counts"]["missing"] == 0
    assert "--host" in document["hint"]


# --- <lora:…> tags


def tagged(text: str, reader: str = "CLIPTextEncode") -> dict[str, Any]:
    return {
        "1": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": text}},
        "2": {"class_type": reader, "inputs": {"text": ["1", 0]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": ["2", 0]}},
    }


CORE = {
    "PrimitiveStringMultiline": {"python_module": "comfy_extras.nodes_primitive", "output": ["STRING"]},
    "CLIPTextEncode": {"python_module": "nodes", "output": ["CONDITIONING"]},
}


@pytest.mark.parametrize(
    ("reader", "definitions", "wanted"),
    [
        ("CLIPTextEncode", CORE, need.CORE_ONLY),
        ("LoraTagLoader", CORE, "LoraTagLoader"),
        ("SomethingElse", CORE, None),
        ("CLIPTextEncode", None, None),
    ],
)
def test_who_reads_a_tag(reader: str, definitions: Any, wanted: str | None) -> None:
    (tag,) = need.tags_in(tagged("a <lora:x:0.8:0.5> b", reader), definitions)
    assert (tag.name, tag.weights, tag.reader) == ("x", "0.8:0.5", wanted)


@pytest.mark.parametrize(
    "text", ["<lora:>", "<lora: >", "<lora", "lora:x", "<Lora x>", "<lora:a\nb>", "<lora:" * 5000]
)
def test_what_is_no_tag(text: str) -> None:
    assert need.tags_in(tagged(text), CORE) == []


def test_links_in_a_circle_are_survived() -> None:
    graph = tagged("<lora:x>", "SomethingElse")
    graph["1"]["inputs"]["again"] = ["2", 0]
    assert need.tags_in(graph, CORE)[0].reader is None


def test_a_tag_that_core_ignores_is_said_with_the_flag_that_does_it(
    run: Any, new_demo: Any, tmp_path: Path
) -> None:
    demo = new_demo("--models", "loras=style/fine.safetensors")
    graph = json.loads(SDXL.read_text())
    encode = node_with(graph, "CLIPTextEncode")
    graph[encode]["inputs"]["text"] = "a fox <lora:fine:0.8> <lora:gone>"
    ran = run("check_deps.py", saved(tmp_path, graph), "--host", demo.url)
    assert ran.code == 0
    fine, gone = ran.json["workflows"][0]["lora_tags"]
    assert (fine["read"], gone["read"]) == (False, False)
    assert fine["fix"].endswith("--lora style/fine.safetensors:0.8")
    assert "remove the tag" in gone["fix"]
    words = shlex.split(fine["fix"].partition("run_workflow.py ")[2])
    assert run("run_workflow.py", "flow.json", "--host", demo.url, *words).code == 0


def test_a_tag_that_a_node_reads_is_a_lora_that_is_needed(run: Any, new_demo: Any, tmp_path: Path) -> None:
    definition = {
        "input": {"required": {"text": ["STRING", {"multiline": True}]}}, "output": ["STRING"], "output_node": True,
        "name": "LoraTagLoader", "python_module": "custom_nodes.tags", "category": "x",
    }  # fmt: skip
    extra = saved(tmp_path, {"LoraTagLoader": definition}, "definitions.json")
    demo = new_demo("--models", "loras=style/fine.safetensors", "--definitions", str(extra))
    text = "<lora:fine:1> <lora:other:1>"
    flow = saved(tmp_path, {"1": {"class_type": "LoraTagLoader", "inputs": {"text": text}}})
    ran = run("check_deps.py", flow, "--host", demo.url)
    assert ran.code == 1
    models = ran.json["workflows"][0]["models"]
    assert models["present"] == ["fine"]
    assert models["missing"][0]["name"] == "other"
    assert "LoraTagLoader reads it" in models["missing"][0]["reason"]
    assert "lora_tags" not in ran.json["workflows"][0]


# --- the demo server's Manager


@pytest.mark.parametrize("shape", ["v3", "v4", "v4-legacy"])
def test_installs_can_be_rehearsed_on_the_demo_server(
    run: Any, new_demo: Any, tmp_path: Path, shape: str
) -> None:
    demo = new_demo("--manager", shape, "--models", "checkpoints=")
    graph = json.loads(SDXL.read_text())
    decode = node_with(graph, "VAEDecode")
    graph["99"] = {
        "class_type": "VHS_VideoCombine",
        "inputs": {"images": [decode, 0], "frame_rate": 8, "loop_count": 0, "filename_prefix": "x",
                   "format": "video/h264-mp4", "pingpong": False, "save_output": True},
    }  # fmt: skip
    flow = saved(tmp_path, graph)
    words = (flow, "--host", demo.url)
    missing = run("check_deps.py", *words).json
    assert missing["counts"]["missing"] == 2
    assert shape in missing["server"]["manager"]
    env = {"PATH": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9"}
    ran = run("auto_fix_deps.py", *words, "--via", "manager", "--restart", "--yes", env=env)
    assert ran.code == 0, ran.out
    assert ran.json["restarted"] is True
    assert [outcome["done"] for outcome in ran.json["outcomes"]] == [True, True]
    assert run("check_deps.py", *words).json["status"] == "ok"
    assert run("run_workflow.py", *words).code == 0


def test_a_pack_that_the_demo_does_not_know_fails(run: Any, new_demo: Any, tmp_path: Path) -> None:
    demo = new_demo("--manager", "v4")
    flow = saved(tmp_path, {"1": {"class_type": "UltimateSDUpscale", "inputs": {}}})
    ran = run("auto_fix_deps.py", flow, "--host", demo.url, "--yes", env={"PATH": str(tmp_path)})
    assert ran.code == 1
    assert ran.json["outcomes"][0]["done"] is False


@pytest.mark.parametrize(
    ("shape", "path", "kind", "wanted"),
    [
        ("v4", "/v2/manager/queue/start", "text/plain", 400),
        ("v4", "/v2/manager/reboot", "application/x-www-form-urlencoded", 400),
        ("v4", "/manager/queue/start", "application/json", 405),
        ("v3", "/manager/queue/start", "application/json", 405),
        ("v3", "/v2/manager/queue/task", "application/json", 405),
    ],
)
def test_the_demos_manager_refuses_what_the_real_one_refuses(
    new_demo: Any, shape: str, path: str, kind: str, wanted: int
) -> None:
    demo = new_demo("--manager", shape)
    request = urllib.request.Request(demo.url + path, b"{}", {"Content-Type": kind})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    assert caught.value.code == wanted


@pytest.mark.skipif(os.name == "nt", reason="no pipe of this kind")
def test_a_reader_that_goes_away_is_no_traceback(run: Any, demo: Any) -> None:
    process = run.start("check_deps.py", SDXL, "--host", demo.url)
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(timeout=60)
