"""auto_fix_deps: a plan first, consent, then packs and models by the ways that are there, and a second look."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manager_server import Comfy, node
from model_host import ModelHost, safetensors

COMFY_PROGRAM = """#!{python}
import json, os, sys, pathlib
home = pathlib.Path({home!r})
words = sys.argv[1:]
seen = {{"words": words, "env": {{k: v for k, v in os.environ.items() if "TOKEN" in k or "KEY" in k}}}}
with open(home / "calls.jsonl", "a") as file:
    file.write(json.dumps(seen) + "\\n")
if "which" in words:
    print(json.dumps({{"data": {{"workspace_path": str(home / "base")}}}}))
elif "install" in words:
    if (home / "comfy_fails").exists():
        print("\\x1b[31mcould not resolve\\x1b[0m " + words[-1])
        sys.exit(1)
    (home / "base" / "custom_nodes" / words[-1]).mkdir(parents=True)
    print("installed", words[-1])
elif "download" in words:
    values = dict(word.split("=", 1) for word in words if "=" in word)
    target = home / "base" / values["--relative-path"] / values["--filename"]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes((home / "body").read_bytes())
else:
    sys.exit(2)
"""


class Stage:
    """A server, a file host, a fake comfy program and the script, all in one folder."""

    def __init__(self, folder: Path, run: Any) -> None:
        self.folder, self._run = folder, run
        self.comfy = Comfy(folder / "base" / "models")
        for name in self.comfy.folders:
            (self.comfy.models / name).mkdir(parents=True)
        (self.comfy.models / "checkpoints" / "base.safetensors").write_bytes(safetensors(16))
        self.host = ModelHost()
        self.path = os.environ["PATH"]
        self.env: dict[str, str] = {}
        self.words: tuple[object, ...] = ("--models-dir", self.comfy.models)

    def with_comfy_cli(self) -> None:
        program = self.folder / "bin" / "comfy"
        program.parent.mkdir()
        program.write_text(COMFY_PROGRAM.format(python=sys.executable, home=str(self.folder)))
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        self.path = f"{program.parent}{os.pathsep}{self.path}"

    def calls(self) -> list[dict[str, Any]]:
        file = self.folder / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def flow(self, **changes: Any) -> dict[str, Any]:
        return {
            "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "base.safetensors"}},
            "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
        } | changes

    def editor(self, name: str, url: str, directory: str = "checkpoints", **more: Any) -> dict[str, Any]:
        """An editor file whose loader names a model with its address."""
        loader = {
            "id": 1, "type": "CheckpointLoaderSimple", "pos": [0, 0], "size": [1, 1], "flags": {}, "order": 0, "mode": 0,
            "inputs": [], "outputs": [], "widgets_values": [name],
            "properties": {"models": [{"name": name, "url": url, "directory": directory, **more}]},
        }  # fmt: skip
        return {
            "nodes": [loader],
            "links": [],
            "last_node_id": 1,
            "last_link_id": 0,
            "version": 0.4,
            "extra": {},
            "groups": [],
        }

    def __call__(self, flow: Any, *words: object, code: int | None = None) -> dict[str, Any]:
        path = self.folder / "flow.json"
        path.write_text(json.dumps(flow))
        # Nothing but loopback can be reached: loopback sessions take no proxy.
        dead = "http://127.0.0.1:9"
        env = {"PATH": self.path, "HF_TOKEN": "", "CIVITAI_API_TOKEN": "", "HTTPS_PROXY": dead, **self.env}
        ran = self._run("auto_fix_deps.py", path, "--host", self.comfy.url, *self.words, *words, env=env)
        if code is not None:
            assert ran.code == code, ran.out + ran.err
        self.output = ran.out + ran.err
        return ran.json

    def stop(self) -> None:
        self.comfy.stop()
        self.host.stop()


@pytest.fixture
def stage(tmp_path: Path, run: Any) -> Iterator[Stage]:
    built = Stage(tmp_path, run)
    yield built
    built.stop()


def video_flow(stage: Stage) -> dict[str, Any]:
    stage.comfy.packs["comfyui-videohelpersuite"] = {
        "VHS_VideoCombine": node({"images": ["IMAGE"]}, output=True, module="custom_nodes.vhs")
    }
    return stage.flow(**{"9": {"class_type": "VHS_VideoCombine", "inputs": {"images": ["1", 0]}}})


# --- consent


def test_nothing_missing_is_nothing_done(stage: Stage) -> None:
    assert stage(stage.flow(), "--yes", code=0)["message"].startswith("nothing is missing")


def test_without_yes_there_is_a_plan_and_exit_7(stage: Stage) -> None:
    stage.with_comfy_cli()
    document = stage(video_flow(stage), code=7)
    assert document["code"] == "consent_needed"
    (step,) = document["plan"]
    assert (step["kind"], step["name"], step["how"]) == ("pack", "comfyui-videohelpersuite", "comfy-cli")
    assert step["page"] == "Comfy Registry, node pack comfyui-videohelpersuite"
    assert not [call for call in stage.calls() if "install" in call["words"]]


def test_a_dry_run_fixes_nothing_and_does_not_say_so(stage: Stage) -> None:
    stage.with_comfy_cli()
    document = stage(video_flow(stage), "--dry-run", code=0)
    assert document["status"] == "dry_run"
    assert "nothing was changed" in document["message"]
    assert document["counts"]["missing"] == 1
    assert not [call for call in stage.calls() if "install" in call["words"]]


def test_yes_and_dry_run_exclude_each_other(stage: Stage) -> None:
    stage(stage.flow(), "--yes", "--dry-run", code=2)


# --- packs


def test_a_pack_by_comfy_cli_with_its_exact_words_and_without_keys(stage: Stage) -> None:
    stage.with_comfy_cli()
    stage.env = {
        "HF_TOKEN": "hf_very_secret",
        "CIVITAI_API_TOKEN": "civ_very_secret",
        "COMFY_CLOUD_API_KEY": "cloud_very_secret",
    }
    document = stage(video_flow(stage), "--yes", code=1)
    assert document["code"] == "restart_needed"
    (call,) = [call for call in stage.calls() if "install" in call["words"]]
    assert call["words"] == ["--skip-prompt", "node", "install", "--exit-on-fail", "comfyui-videohelpersuite"]
    assert call["env"] == {}
    assert "secret" not in stage.output
    assert (stage.folder / "base/custom_nodes/comfyui-videohelpersuite").is_dir()
    assert document["still_missing"][0]["name"] == "VHS_VideoCombine"


def test_comfy_cli_of_another_installation_is_not_used(stage: Stage) -> None:
    stage.with_comfy_cli()
    (stage.folder / "other").mkdir()
    program = stage.folder / "bin" / "comfy"
    program.write_text(program.read_text().replace('str(home / "base")', 'str(home / "other")'))
    document = stage(video_flow(stage), "--yes", code=1)
    assert "neither" in document["plan"][0]["blocked"]
    assert not [call for call in stage.calls() if "install" in call["words"]]


def test_a_failing_comfy_cli_is_reported_with_its_words_cleaned(stage: Stage) -> None:
    stage.with_comfy_cli()
    (stage.folder / "comfy_fails").touch()
    document = stage(video_flow(stage), "--yes", code=1)
    (outcome,) = document["outcomes"]
    assert (outcome["done"], outcome["exit_code"]) == (False, 1)
    assert outcome["server_said"] == "could not resolve comfyui-videohelpersuite"


@pytest.mark.parametrize("shape", ["v3", "v4", "v4-legacy"])
def test_a_pack_by_the_manager_with_a_restart(stage: Stage, shape: str) -> None:
    stage.comfy.manager.shape = shape
    flow = video_flow(stage)
    stage.comfy.manager.mappings = {"comfyui-videohelpersuite": [["VHS_VideoCombine"], {"title_aux": "VHS"}]}
    document = stage(flow, "--yes", "--restart", code=0)
    assert document["status"] == "success"
    assert document["restarted"] is True
    assert stage.comfy.manager.installed == {"comfyui-videohelpersuite"}
    assert stage.comfy.restarts == 1
    orders = [
        body for method, path, body in stage.comfy.seen if method == "POST" and "queue/" in path and body
    ]
    order = orders[0]
    order = order["params"] if shape == "v4" else order["install"][0] if shape == "v4-legacy" else order
    assert order["id"] == "comfyui-videohelpersuite"
    assert order["selected_version"] == "latest"
    assert document["by"]["manager"].startswith("ComfyUI-Manager V")
    assert document["by"]["host"] == stage.comfy.url


@pytest.mark.parametrize("shape", ["v3", "v4", "v4-legacy"])
def test_a_manager_that_refuses_is_no_success(stage: Stage, shape: str) -> None:
    stage.comfy.manager.shape = shape
    stage.comfy.manager.refuses = True
    document = stage(video_flow(stage), "--yes", "--restart", code=1)
    (outcome,) = document["outcomes"]
    assert outcome["done"] is False
    assert stage.comfy.restarts == 0


def test_without_the_restart_flag_the_server_is_left_running(stage: Stage) -> None:
    stage.comfy.manager.shape = "v4"
    document = stage(video_flow(stage), "--yes", code=1)
    assert document["code"] == "restart_needed"
    assert stage.comfy.restarts == 0


def test_a_server_with_jobs_is_not_restarted(stage: Stage) -> None:
    stage.comfy.manager.shape = "v3"
    stage.comfy.queue_remaining = 2
    document = stage(video_flow(stage), "--yes", "--restart", code=1)
    assert "has jobs" in document["restart"]
    assert stage.comfy.restarts == 0


def test_the_pack_of_a_class_comes_from_the_managers_mapping(stage: Stage) -> None:
    stage.comfy.manager.shape = "v4"
    stage.comfy.packs["new-pack"] = {"NewNode": node({"images": ["IMAGE"]}, output=True)}
    stage.comfy.manager.mappings = {"new-pack": [["NewNode"], {}], "https://github.com/a/b": [["Other"], {}]}
    document = stage(stage.flow(**{"9": {"class_type": "NewNode", "inputs": {"images": ["1", 0]}}}), code=7)
    assert document["plan"][0]["name"] == "new-pack"
    assert "mapping" in document["plan"][0]["source"]


def test_a_pack_known_by_its_repository_alone_is_not_installed(stage: Stage) -> None:
    stage.comfy.manager.shape = "v3"
    stage.comfy.manager.mappings = {"https://github.com/who/what": [["NewNode"], {}]}
    document = stage(
        stage.flow(**{"9": {"class_type": "NewNode", "inputs": {"images": ["1", 0]}}}), "--yes", code=1
    )
    (step,) = document["plan"]
    assert "registry id is unknown" in step["blocked"]
    assert not [1 for method, _, _ in stage.comfy.seen if method == "POST"]


def test_a_manager_without_the_registry_leaves_the_tables_id(stage: Stage) -> None:
    stage.comfy.manager.shape = "v4"
    flow = video_flow(stage)
    stage.comfy.manager.mappings = {
        "https://github.com/Kosinkadink/ComfyUI-VideoHelperSuite": [["VHS_VideoCombine"], {}]
    }
    (step,) = stage(flow, code=7)["plan"]
    assert (step["name"], step["how"]) == ("comfyui-videohelpersuite", "manager")
    assert step["repository"].endswith("VideoHelperSuite")


def test_a_note_s_address_blocks_the_step_for_a_person(stage: Stage) -> None:
    url = "https://huggingface.co/a/b/resolve/main/new.safetensors"
    flow = stage.editor("new.safetensors", url)
    flow["nodes"][0]["properties"] = {}
    flow["nodes"].append({**flow["nodes"][0], "id": 2, "type": "Note", "widgets_values": [f"get {url}"]})
    (step,) = stage(flow, "--yes", code=1)["plan"]
    assert "a person must check" in step["blocked"]


def test_several_packs_for_one_class_are_in_doubt(stage: Stage) -> None:
    stage.comfy.manager.shape = "v3"
    stage.comfy.manager.mappings = {"pack-a": [["NewNode"], {}], "pack-b": [["NewNode"], {}]}
    document = stage(
        stage.flow(**{"9": {"class_type": "NewNode", "inputs": {"images": ["1", 0]}}}), "--yes", code=1
    )
    assert "several packs" in document["plan"][0]["blocked"]


def test_a_workflow_that_names_another_pack_than_all_others_is_in_doubt(stage: Stage) -> None:
    stage.comfy.manager.shape = "v3"
    stage.comfy.manager.mappings = {"honest-pack": [["NewNode"], {}]}
    flow = stage.editor("base.safetensors", "https://huggingface.co/a/b/resolve/main/base.safetensors")
    flow["nodes"].append(
        {
            **flow["nodes"][0],
            "id": 2,
            "type": "NewNode",
            "properties": {"cnr_id": "evil-pack"},
            "widgets_values": [],
        }
    )
    document = stage(flow, "--yes", code=1)
    assert "honest-pack" in document["plan"][0]["blocked"]
    assert stage.comfy.manager.installed == set()


def test_a_pack_that_is_installed_but_did_not_load_is_not_installed_again(stage: Stage) -> None:
    stage.comfy.manager.shape = "v4"
    stage.comfy.manager.installed.add("comfyui-videohelpersuite")
    document = stage(video_flow(stage), "--yes", code=1)
    assert "installed already" in document["plan"][0]["blocked"]


# --- models


def test_a_model_is_downloaded_checked_and_found_by_the_server(stage: Stage) -> None:
    body = stage.host.files["/new.safetensors"] = safetensors(100_000)
    flow = stage.editor(
        "SD/new.safetensors",
        f"{stage.host.url}/new.safetensors",
        hash=hashlib.sha256(body).hexdigest(),
        hash_type="SHA256",
    )
    flow["nodes"][0]["properties"]["models"][0]["name"] = "new.safetensors"
    document = stage(flow, "--yes", "--allow-host", stage.host.url, code=0)
    assert document["status"] == "success"
    (outcome,) = document["outcomes"]
    assert outcome["checked"] == ["size", "sha256", "form"]
    assert (stage.comfy.models / "checkpoints/SD/new.safetensors").read_bytes() == body
    assert document["plan"][0]["bytes"] == len(body)
    assert document["totals"]["models_folder"] == str(stage.comfy.models)


def test_a_strange_host_wants_its_own_consent(stage: Stage) -> None:
    stage.host.files["/new.safetensors"] = safetensors()
    document = stage(stage.editor("new.safetensors", f"{stage.host.url}/new.safetensors"), "--yes", code=7)
    assert document["plan"][0]["consent"].startswith("--allow-host")
    assert stage.host.seen == []


def test_a_pickle_wants_its_own_consent(stage: Stage) -> None:
    stage.host.files["/new.ckpt"] = b"PK\x03\x04" + b"\0" * 100
    flow = stage.editor("new.ckpt", f"{stage.host.url}/new.ckpt")
    words = ("--yes", "--allow-host", stage.host.url)
    assert stage(flow, *words, code=7)["plan"][0]["consent"] == "--allow-pickle"
    assert stage.host.asked("/new.ckpt") == []
    stage(flow, *words, "--allow-pickle", code=0)


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.safetensors",
        "/etc/evil.safetensors",
        "C:\\evil.safetensors",
        "a/../../b.safetensors",
        "-rf.safetensors",
    ],
)
def test_a_name_that_leads_out_of_the_models_folder_is_not_written(stage: Stage, name: str) -> None:
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    stage.host.files[f"/{base}"] = safetensors()
    flow = stage.editor(name, f"{stage.host.url}/{base}")
    flow["nodes"][0]["properties"]["models"][0]["name"] = base
    document = stage(flow, "--yes", "--allow-host", stage.host.url, code=1)
    assert "not a safe path" in document["plan"][0]["blocked"]
    assert not list(stage.folder.rglob("*evil*")) and not list(stage.folder.rglob("b.safetensors"))


def test_a_place_that_cannot_be_written_stops_no_other_step(stage: Stage) -> None:
    (stage.comfy.models / "vae").rmdir()
    (stage.comfy.models / "vae").write_text("a file where a folder should be")
    flow = stage.editor("new.safetensors", f"{stage.host.url}/new.safetensors")
    other = stage.editor("v.safetensors", f"{stage.host.url}/v.safetensors", "vae")["nodes"][0]
    flow["nodes"] = [{**other, "type": "VAELoader"}, {**flow["nodes"][0], "id": 2}]
    stage.comfy.packs["core"] = {
        "VAELoader": node({"vae_name": [["pixel_space"], {}]}),
    }
    stage.comfy.loaded.add("core")
    stage.host.files |= {"/new.safetensors": safetensors(), "/v.safetensors": safetensors()}
    document = stage(flow, "--yes", "--allow-host", stage.host.url, code=1)
    done = {outcome["name"]: outcome["done"] for outcome in document["outcomes"]}
    assert done == {"v.safetensors": False, "new.safetensors": True}
    assert "could not be written" in document["outcomes"][0]["message"]


def test_an_embedding_is_had_by_its_name_without_suffix_and_a_pickle_still_wants_consent(
    stage: Stage,
) -> None:
    flow = stage.editor("base.safetensors", f"{stage.host.url}/bad.pt", "embeddings")
    flow["nodes"][0]["properties"]["models"][0]["name"] = "bad.pt"
    text = {
        **flow["nodes"][0],
        "id": 2,
        "type": "CLIPTextEncode",
        "properties": {},
        "widgets_values": ["embedding:bad, dark"],
    }
    stage.comfy.packs["core"] = {
        "CLIPTextEncode": node({"text": ["STRING", {"multiline": True}]}, output=True)
    }
    stage.comfy.loaded.add("core")
    flow["nodes"].append(text)
    stage.host.files["/bad.pt"] = b"PK\x03\x04" + bytes(40)
    words = ("--allow-host", stage.host.url)
    (step,) = stage(flow, "--dry-run", *words, code=0)["plan"]
    assert (step["path"], step["consent"]) == ("models/embeddings/bad.pt", "--allow-pickle")
    (step,) = stage(flow, "--dry-run", "--allow-pickle", *words, code=0)["plan"]
    assert step["how"] == "download"


def test_the_managers_file_of_a_common_name_is_not_taken_for_another(stage: Stage) -> None:
    name = "diffusion_pytorch_model.safetensors"
    entry = {
        "filename": name,
        "url": f"{stage.host.url}/flux.safetensors",
        "save_path": "checkpoints/flux",
        "name": "N",
    }
    stage.comfy.manager.shape, stage.comfy.manager.models = "v3", [entry]
    flow = stage.editor(name, f"{stage.host.url}/{name}")
    document = stage(flow, "--dry-run", "--via", "manager", "--allow-host", stage.host.url, code=0)
    assert "list does not have" in document["plan"][0]["blocked"]


def test_a_gated_model_is_exit_4_with_the_reason(stage: Stage) -> None:
    stage.host.status["/new.safetensors"] = 401
    document = stage(
        stage.editor("new.safetensors", f"{stage.host.url}/new.safetensors"),
        "--yes",
        "--allow-host",
        stage.host.url,
        code=4,
    )
    assert document["code"] == "refused"
    assert "gate" in document["plan"][0]


def test_a_corrupt_download_is_not_a_success(stage: Stage) -> None:
    stage.host.files["/new.safetensors"] = b"<html>no</html>" * 10
    document = stage(
        stage.editor("new.safetensors", f"{stage.host.url}/new.safetensors"),
        "--yes",
        "--allow-host",
        stage.host.url,
        code=1,
    )
    assert document["outcomes"][0]["code"] == "corrupt"
    assert document["still_missing"][0]["name"] == "new.safetensors"
    assert [path.name for path in (stage.comfy.models / "checkpoints").iterdir()] == ["base.safetensors"]


def test_a_model_by_comfy_cli_is_checked_afterwards(stage: Stage) -> None:
    stage.with_comfy_cli()
    body = safetensors(5000)
    (stage.folder / "body").write_bytes(body)
    flow = stage.editor(
        "new.safetensors",
        f"{stage.host.url}/new.safetensors",
        hash=hashlib.sha256(body).hexdigest(),
        hash_type="sha256",
    )
    words = ("--yes", "--via", "comfy-cli", "--allow-host", stage.host.url)
    stage(flow, *words, code=0)
    (call,) = [call for call in stage.calls() if "download" in call["words"]]
    assert call["words"] == [
        "--skip-prompt", "model", "download", f"--url={stage.host.url}/new.safetensors",
        "--relative-path=models/checkpoints", "--filename=new.safetensors",
    ]  # fmt: skip
    (stage.comfy.models / "checkpoints/new.safetensors").unlink()
    (stage.folder / "body").write_bytes(safetensors(5000, seed=9))
    document = stage(flow, *words, code=1)
    assert "SHA-256" in document["outcomes"][0]["message"]
    assert not (stage.comfy.models / "checkpoints/new.safetensors").exists()


def test_comfy_cli_sees_the_token_of_the_models_host_alone(stage: Stage) -> None:
    stage.with_comfy_cli()
    (stage.folder / "body").write_bytes(safetensors(50))
    stage.env = {"HF_TOKEN": "hf_very_secret", "CIVITAI_API_TOKEN": "civ_very_secret"}
    flow = stage.editor("new.safetensors", "https://civitai.com/api/download/models/1")
    stage(flow, "--yes", "--via", "comfy-cli", code=0)
    (call,) = [call for call in stage.calls() if "download" in call["words"]]
    assert call["env"] == {"CIVITAI_API_TOKEN": "civ_very_secret"}
    assert not any("secret" in word for word in call["words"])
    assert "secret" not in stage.output


@pytest.mark.parametrize("shape", ["v3", "v4-legacy"])
def test_a_model_by_the_manager_is_an_entry_of_its_own_list(stage: Stage, shape: str) -> None:
    url = f"{stage.host.url}/new.safetensors"
    entry = {
        "filename": "new.safetensors",
        "url": url,
        "save_path": "checkpoints",
        "name": "N",
        "type": "checkpoint",
        "base": "SD",
    }
    stage.comfy.manager.shape, stage.comfy.manager.models = shape, [entry]
    stage.comfy.fetch = lambda models, what: (models / what["save_path"] / what["filename"]).write_bytes(
        safetensors()
    )
    document = stage(
        stage.flow(
            **{"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "new.safetensors"}}}
        ),
        "--yes",
        "--via",
        "manager",
        "--allow-host",
        stage.host.url,
        code=0,
    )
    assert document["outcomes"][0]["done"] is True
    assert document["outcomes"][0]["checked"] == []


@pytest.mark.parametrize("shape", ["v3", "v4-legacy"])
def test_a_manager_that_ends_without_the_file_is_no_success(stage: Stage, shape: str) -> None:
    url = f"{stage.host.url}/new.safetensors"
    entry = {
        "filename": "new.safetensors",
        "url": url,
        "save_path": "checkpoints",
        "name": "N",
        "type": "c",
        "base": "SD",
    }
    stage.comfy.manager.shape, stage.comfy.manager.models = shape, [entry]
    flow = stage.flow(
        **{"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "new.safetensors"}}}
    )
    document = stage(flow, "--yes", "--via", "manager", "--allow-host", stage.host.url, code=1)
    assert document["outcomes"][0]["done"] is False


def test_the_managers_address_must_be_allowed_too(stage: Stage) -> None:
    entry = {
        "filename": "new.safetensors",
        "url": "https://evil.example/new.safetensors",
        "save_path": "checkpoints",
        "base": "SD",
    }
    stage.comfy.manager.shape, stage.comfy.manager.models = "v3", [entry]
    flow = stage.editor("new.safetensors", "https://huggingface.co/a/b/resolve/main/new.safetensors")
    document = stage(flow, "--dry-run", "--via", "manager", code=0)
    assert "list does not have" in document["plan"][0]["blocked"]


def test_only_leaves_the_other_kind_alone(stage: Stage) -> None:
    stage.with_comfy_cli()
    stage.host.files["/new.safetensors"] = safetensors()
    flow = stage.editor("new.safetensors", f"{stage.host.url}/new.safetensors")
    flow["nodes"].append(
        {
            **flow["nodes"][0],
            "id": 2,
            "type": "NewNode",
            "properties": {"cnr_id": "new-pack"},
            "widgets_values": [],
        }
    )
    for only, kind in (("nodes", "pack"), ("models", "model")):
        plan = stage(flow, "--dry-run", "--only", only, "--allow-host", stage.host.url, code=0)["plan"]
        assert [step["kind"] for step in plan] == [kind]


def test_a_name_that_only_differs_is_not_downloaded(stage: Stage) -> None:
    flow = stage.flow(
        **{"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "old/base.safetensors"}}}
    )
    document = stage(flow, "--yes", code=1)
    assert document["plan"] == []
    assert document["use_instead"][0]["use_instead"] == "base.safetensors"


def test_a_step_says_which_file_of_the_server_may_do_instead(stage: Stage) -> None:
    flow = stage.editor(
        "base-fp16.safetensors", "https://elsewhere.example/base-fp16.safetensors", size=2_000
    )
    document = stage(flow, "--dry-run", code=0)
    (step,) = document["plan"]
    assert list(step)[:4] == ["kind", "name", "use_instead", "match"]
    assert (step["use_instead"], step["sure"]) == ("base.safetensors", False)
    assert "1.ckpt_name=base.safetensors" in step["set"]
    assert document["hint"].startswith("the server already has 'base.safetensors'")


def test_the_size_of_what_is_blocked_is_told(stage: Stage) -> None:
    flow = stage.flow(
        **{
            "1": {
                "class_type": "CheckpointLoaderSimple",
                "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"},
            }
        }
    )
    document = stage(flow, "--dry-run", "--via", "manager", code=0)
    (step,) = document["plan"]
    assert "blocked" in step and step["bytes"] > 1e9
    assert document["totals"] == document["totals"] | {"bytes": 0, "bytes_blocked": step["bytes"]}


def test_a_workflow_from_standard_input_is_looked_at_twice(stage: Stage, run: Any) -> None:
    stage.host.files["/new.safetensors"] = safetensors()
    flow = stage.editor("new.safetensors", f"{stage.host.url}/new.safetensors")
    words = ("-", "--host", stage.comfy.url, "--yes", "--allow-host", stage.host.url, *stage.words)
    ran = run("auto_fix_deps.py", *words, stdin=json.dumps(flow))
    assert ran.code == 0, ran.out


def test_a_models_folder_that_is_not_there_is_misuse(stage: Stage) -> None:
    flow = stage.flow(
        **{"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x.safetensors"}}}
    )
    stage(flow, "--models-dir", stage.folder / "none", code=2)


def test_an_interrupted_download_is_kept_and_goes_on(stage: Stage, run: Any, tmp_path: Path) -> None:
    body = stage.host.files["/new.safetensors"] = safetensors(3_000_000)
    # The host sends two megabytes and then nothing for a long time.
    stage.host.stall["/new.safetensors"] = 2_200_000
    (tmp_path / "flow.json").write_text(
        json.dumps(stage.editor("new.safetensors", f"{stage.host.url}/new.safetensors"))
    )
    words = ("flow.json", "--host", stage.comfy.url, "--yes", "--allow-host", stage.host.url, *stage.words)
    part = stage.comfy.models / "checkpoints/new.safetensors.part"
    process = run.start("auto_fix_deps.py", *words)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > 500_000):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    document = json.loads(out)
    assert (document["status"], document["code"], document["outcomes"]) == ("cancelled", "interrupted", [])
    assert "resume where they stopped" in document["hint"]
    assert document["next"][0].endswith("--dry-run")
    assert "Traceback" not in err
    assert part.stat().st_size > 500_000
    stage.host.stall.clear()
    ran = run("auto_fix_deps.py", *words)
    assert ran.code == 0
    assert ran.json["outcomes"][0]["resumed_at"] > 500_000
    assert (stage.comfy.models / "checkpoints/new.safetensors").read_bytes() == body


def test_a_dead_server_is_exit_3(stage: Stage, run: Any, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(json.dumps(stage.flow()))
    assert run("auto_fix_deps.py", "f.json", "--host", "http://127.0.0.1:9", "--yes").code == 3


# --- who says where models go


def test_a_folder_that_only_the_server_names_wants_consent(stage: Stage) -> None:
    stage.words = ()
    stage.host.files["/new.safetensors"] = safetensors()
    flow = stage.editor("new.safetensors", f"{stage.host.url}/new.safetensors")
    words = ("--yes", "--allow-host", stage.host.url)
    document = stage(flow, *words, code=7)
    target = stage.comfy.models.resolve() / "checkpoints/new.safetensors"
    (step,) = document["plan"]
    assert step["file"] == str(target) and not target.exists()
    assert step["consent"] == f"--models-dir {stage.comfy.models.resolve()}"
    assert document["totals"]["models_folder_by"] == "server"
    assert stage.host.asked("/new.safetensors") == []
    assert f"--models-dir {stage.comfy.models.resolve()}" in document["next"][0]
    document = stage(flow, *words, *step["consent"].split(" ", 1), code=0)
    assert document["outcomes"][0]["file"] == str(target) and target.exists()


def test_a_folder_that_comfy_cli_names_too_wants_none(stage: Stage) -> None:
    stage.words = ()
    stage.with_comfy_cli()
    stage.host.files["/new.safetensors"] = safetensors()
    flow = stage.editor("new.safetensors", f"{stage.host.url}/new.safetensors")
    document = stage(flow, "--yes", "--allow-host", stage.host.url, code=0)
    assert document["totals"]["models_folder_by"] == "comfy-cli"


def test_the_plan_shows_where_a_linked_folder_leads(stage: Stage) -> None:
    disk = stage.folder / "other disk"
    (stage.comfy.models / "checkpoints").rename(disk)
    (stage.comfy.models / "checkpoints").symlink_to(disk)
    flow = stage.editor("new.safetensors", f"{stage.host.url}/new.safetensors")
    stage.host.files["/new.safetensors"] = safetensors()
    document = stage(flow, "--dry-run", "--allow-host", stage.host.url, code=0)
    assert document["plan"][0]["file"] == str(disk.resolve() / "new.safetensors")


@pytest.mark.parametrize("ending", [".part", ".part.json"])
def test_a_link_with_the_name_of_an_unfinished_download_is_not_followed(stage: Stage, ending: str) -> None:
    url = f"{stage.host.url}/new.safetensors"
    stage.host.files["/new.safetensors"] = safetensors(3_000_000)
    precious = stage.folder / "precious"
    precious.write_text("precious data of the user")
    (stage.comfy.models / f"checkpoints/new.safetensors{ending}").symlink_to(precious)
    document = stage(stage.editor("new.safetensors", url), "--yes", "--allow-host", stage.host.url, code=1)
    assert document["outcomes"][0]["code"] == "unsafe_folder"
    assert precious.read_text() == "precious data of the user"
    assert not (stage.comfy.models / "checkpoints/new.safetensors").exists()


@pytest.mark.parametrize("name", ["conftest.py", "x.sh", "CLAUDE.md", "run.exe", "package.json", "noending"])
def test_a_model_name_that_no_loader_takes_is_not_downloaded(stage: Stage, name: str) -> None:
    stage.host.files[f"/{name}"] = b"x" * 100
    words = ("--yes", "--allow-pickle", "--allow-host", stage.host.url)
    document = stage(stage.editor(name, f"{stage.host.url}/{name}"), *words)
    assert document["status"] != "success"
    assert not list(stage.comfy.models.rglob(name)) and stage.host.asked(f"/{name}") == []
