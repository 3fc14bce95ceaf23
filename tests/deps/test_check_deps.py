"""check_deps: present, missing and unknown are three things, told by what the server itself lists."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import check_deps
from bundle import SCRIPTS
from comfyskill.deps import packs
from manager_server import Comfy, node
from model_host import safetensors

URL = "https://huggingface.co/org/repo/resolve/main"


@pytest.fixture
def comfy(tmp_path: Path) -> Iterator[Comfy]:
    server = Comfy(tmp_path / "base" / "models")
    for folder in server.folders:
        (server.models / folder).mkdir(parents=True)
    put(server, "checkpoints/SDXL/base.safetensors")
    put(server, "loras/fine.safetensors")
    yield server
    server.stop()


def put(comfy: Comfy, path: str) -> None:
    target = comfy.models / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(safetensors(16))


def graph(ckpt: str = "SDXL/base.safetensors", **more: Any) -> dict[str, Any]:
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": ckpt}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["1", 1]}},
        "3": {
            "class_type": "KSampler",
            "inputs": {"sampler_name": "euler", "seed": 1, "model": ["1", 0], "positive": ["2", 0]},
        },
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
    } | more


def editor(*nodes: dict[str, Any]) -> dict[str, Any]:
    """An editor file with one loader and a SaveImage that it feeds."""
    return {
        "nodes": list(nodes),
        "links": [],
        "last_node_id": 9,
        "last_link_id": 0,
        "version": 0.4,
        "extra": {},
        "groups": [],
    }


def saved(
    kind: str, ident: int, *values: Any, properties: dict[str, Any] | None = None, mode: int = 0
) -> dict[str, Any]:
    return {
        "id": ident, "type": kind, "pos": [0, 0], "size": [1, 1], "flags": {}, "order": 0, "mode": mode, "inputs": [],
        "outputs": [], "properties": properties or {}, "widgets_values": list(values),
    }  # fmt: skip


class Checker:
    """Runs the script's own main against the server and gives its document."""

    def __init__(self, capture: Any, comfy: Comfy, folder: Path) -> None:
        self.capture, self.comfy, self.folder = capture, comfy, folder

    def __call__(self, workflow: Any, *words: object, code: int | None = None) -> dict[str, Any]:
        path = self.folder / "flow.json"
        path.write_text(json.dumps(workflow), encoding="utf-8")
        exit_code = check_deps.main([str(path), "--host", self.comfy.url, *map(str, words)])
        out = self.capture.readouterr().out
        if code is not None:
            assert exit_code == code, out
        return json.loads(out)


@pytest.fixture
def check(capsys: Any, comfy: Comfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checker:
    monkeypatch.setenv("COMFYUI_SKILL_CACHE", str(tmp_path / "cache"))
    return Checker(capsys, comfy, tmp_path)


def one(document: dict[str, Any], kind: str, status: str) -> dict[str, Any]:
    (entry,) = document["workflows"][0][kind][status]
    return entry


def test_all_present(check: Checker) -> None:
    document = check(graph(), code=0)
    assert document["status"] == "ok"
    assert document["counts"] == {"present": 5, "missing": 0, "unknown": 0}


@pytest.mark.parametrize(
    ("written", "how", "sure"),
    [
        ("base.safetensors", "other folder", True),
        ("SDXL\\base.safetensors", "other slashes", True),
        ("sdxl/Base.safetensors", "other case", True),
        ("base", "without its suffix", True),
        ("base-fp16.safetensors", "another precision or variant", False),
        ("base.ckpt", "another file type", False),
    ],
)
def test_a_name_written_otherwise_is_named_with_what_to_set(
    check: Checker, written: str, how: str, sure: bool
) -> None:
    entry = one(check(graph(written), code=1), "models", "missing")
    assert (entry["use_instead"], entry["how"], entry["sure"]) == ("SDXL/base.safetensors", how, sure)
    assert entry["set"].endswith("--set 1.ckpt_name=SDXL/base.safetensors")
    assert Path(shlex.split(entry["set"])[1]) == SCRIPTS / "run_workflow.py"
    assert "fix_command" not in entry


def test_several_candidates_are_not_sure(check: Checker) -> None:
    put(check.comfy, "checkpoints/old/base.safetensors")
    assert one(check(graph("base.safetensors"), code=1), "models", "missing")["sure"] is False


def test_repair_writes_the_sure_ones_and_leaves_the_others(check: Checker, tmp_path: Path) -> None:
    lora = {
        "class_type": "LoraLoader",
        "inputs": {"lora_name": "fine-fp8.safetensors", "model": ["1", 0], "clip": ["1", 1]},
    }
    flow = graph("base.safetensors", **{"5": lora})
    flow["3"]["inputs"]["model"] = ["5", 0]
    document = check(flow, "--repair", tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["1"]["inputs"]["ckpt_name"] == "SDXL/base.safetensors"
    assert written["5"]["inputs"]["lora_name"] == "fine-fp8.safetensors"
    assert document["workflows"][0]["repaired"]["changes"] == [
        {"at": "1.ckpt_name", "old": "base.safetensors", "new": "SDXL/base.safetensors"}
    ]
    assert check(written)["workflows"][0]["models"]["present"] == ["SDXL/base.safetensors"]


def test_any_packs_loader_is_known_by_its_list_and_its_folder_by_what_is_in_it(check: Checker) -> None:
    put(check.comfy, "upscale_models/4x.pth")
    flow = graph(**{"7": {"class_type": "StrangeLoader", "inputs": {"weights": "8x.pth"}}})
    flow["3"]["inputs"]["other"] = ["7", 0]
    entry = one(check(flow, code=1), "models", "missing")
    assert entry["folder"] == "upscale_models"
    assert entry["pickle"] is True


def test_an_empty_list_says_so(check: Checker) -> None:
    (check.comfy.models / "checkpoints/SDXL/base.safetensors").unlink()
    assert "is empty" in one(check(graph(), code=1), "models", "missing")["reason"]


def test_a_value_that_is_no_file_and_listed_is_no_model(check: Checker) -> None:
    flow = graph(**{"8": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}}})
    flow["3"]["inputs"]["vae"] = ["8", 0]
    check.comfy.packs["p"] = {"VAELoader": node({"vae_name": [["ae.safetensors", "pixel_space"], {}]})}
    check.comfy.loaded.add("p")
    check(flow, code=0)


def test_a_value_outside_its_list_is_missing(check: Checker) -> None:
    flow = graph()
    flow["3"]["inputs"]["sampler_name"] = "dpmpp_2n"
    entry = one(check(flow, code=1), "values", "missing")
    assert "2 values" in entry["reason"]
    assert "dpmpp_2m" in entry["similar"]


def test_nodes_that_feed_no_output_are_not_looked_at(check: Checker) -> None:
    flow = graph(
        **{"9": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "nowhere.safetensors"}}}
    )
    document = check(flow, code=0)
    assert document["workflows"][0]["not_looked_at"]["nodes"]["items"] == ["9"]


def test_a_file_name_in_a_free_text_input_is_named_and_not_judged(check: Checker) -> None:
    check.comfy.packs["p"] = {"Writer": node({"path": ["STRING", {}]}, output=True)}
    check.comfy.loaded.add("p")
    document = check(graph(**{"7": {"class_type": "Writer", "inputs": {"path": "big.bin"}}}), code=0)
    assert document["workflows"][0]["not_checked"]["names"] == [{"name": "big.bin", "at": "7.path"}]


# --- nodes


@pytest.mark.parametrize(
    ("class_type", "pack", "command"),
    [
        ("ImageResizeKJ", "comfyui-kjnodes", True),
        ("LTXVApplySTG", "comfyui-ltxvideo", False),
        ("KSampler", "comfy-core", False),
        ("NoSuchNodeAnywhere", None, False),
    ],
)
def test_the_tables_name_a_pack_and_install_only_known_ids(
    class_type: str, pack: str | None, command: bool
) -> None:
    found = packs.in_tables(class_type)
    assert (found.id if found else None) == pack
    assert bool(found and found.installable) == command


def test_an_unknown_class_gets_advice_and_no_command(check: Checker) -> None:
    flow = graph(**{"9": {"class_type": "NoSuchNodeAnywhere", "inputs": {"images": ["3", 0]}}})
    entry = one(check(flow, code=1), "nodes", "missing")
    assert entry["fix"] and "fix_command" not in entry and "pack" not in entry


def test_a_missing_class_is_missing_with_the_tables_pack(check: Checker) -> None:
    flow = graph(**{"9": {"class_type": "VHS_VideoCombine", "inputs": {"images": ["3", 0]}}})
    entry = one(check(flow, code=1), "nodes", "missing")
    assert entry["pack"] == "comfyui-videohelpersuite"
    assert entry["fix_command"] == "comfy node install comfyui-videohelpersuite"
    assert entry["source"] == "the bundle's tables of common packs"


def test_an_editor_file_names_its_packs_itself(check: Checker) -> None:
    properties = {"cnr_id": "some-pack", "ver": "1.2.3"}
    document = check(editor(saved("SomeNode", 1, properties=properties)), code=1)
    entry = one(document, "nodes", "missing")
    assert (entry["pack"], entry["version"]) == ("some-pack", "1.2.3")
    assert "workflow's own" in entry["source"]


@pytest.mark.parametrize("claimed", ["--yes", "https://github.com/x/y", "../x", "a b", "x;rm -rf", "x/y", ""])
def test_a_claim_that_is_no_registry_id_is_never_in_a_command(check: Checker, claimed: str) -> None:
    document = check(editor(saved("SomeNode", 1, properties={"cnr_id": claimed})), code=1)
    assert "fix_command" not in one(document, "nodes", "missing")


def test_a_repository_is_shown_and_not_installed(check: Checker) -> None:
    entry = one(
        check(editor(saved("SomeNode", 1, properties={"aux_id": "who/what"})), code=1), "nodes", "missing"
    )
    assert entry["repository"] == "https://github.com/who/what"
    assert "fix_command" not in entry


def test_a_core_class_that_is_missing_means_an_old_server(check: Checker) -> None:
    entry = one(
        check(editor(saved("NewNode", 1, properties={"cnr_id": "comfy-core"})), code=1), "nodes", "missing"
    )
    assert "update" in entry["fix"]
    assert entry["fix_command"] == "comfy update comfy"


def test_a_workflow_in_which_nothing_would_run_is_not_all_present(check: Checker) -> None:
    assert check(editor(saved("KSampler", 1, mode=2)), code=2)["code"] == "empty"


# --- where to get models


def test_the_workflows_own_metadata_comes_first(check: Checker) -> None:
    models = [
        {
            "name": "new.safetensors",
            "url": f"{URL}/new.safetensors",
            "directory": "checkpoints",
            "hash": "A" * 64,
            "hash_type": "SHA256",
        }
    ]
    check.comfy.templates["t"] = editor(
        saved("X", 1, properties={"models": [{**models[0], "url": f"{URL}/template.safetensors"}]})
    )
    flow = editor(saved("CheckpointLoaderSimple", 1, "new.safetensors", properties={"models": models}))
    get = one(check(flow, code=1), "models", "missing")["get"]
    assert get["url"] == f"{URL}/new.safetensors"
    assert get["sha256"] == "a" * 64
    assert "own model metadata" in get["source"]


def test_then_the_servers_templates(check: Checker) -> None:
    entry = {"name": "new.safetensors", "url": f"{URL}/new.safetensors", "directory": "checkpoints"}
    check.comfy.templates["flux"] = editor(saved("X", 1, properties={"models": [entry]}))
    found = one(check(graph("new.safetensors"), code=1), "models", "missing")
    assert found["get"]["source"] == "template flux"
    assert found["fix_command"] == (
        f"comfy model download --url={URL}/new.safetensors --relative-path=models/checkpoints --filename=new.safetensors"
    )


def test_a_file_of_another_folder_is_not_taken(check: Checker) -> None:
    entry = {"name": "new.safetensors", "url": f"{URL}/new.safetensors", "directory": "loras"}
    check.comfy.templates["flux"] = editor(saved("X", 1, properties={"models": [entry]}))
    assert "get" not in one(check(graph("new.safetensors"), code=1), "models", "missing")


def test_the_managers_list(check: Checker) -> None:
    check.comfy.manager.shape = "v3"
    check.comfy.manager.models = [
        {
            "filename": "new.safetensors",
            "url": f"{URL}/new.safetensors",
            "save_path": "checkpoints/SD",
            "name": "N",
        }
    ]
    found = one(check(graph("new.safetensors"), code=1), "models", "missing")
    assert found["get"]["source"] == "ComfyUI-Manager's model list"


def test_a_note_is_a_suggestion_without_a_command(check: Checker) -> None:
    note = saved("MarkdownNote", 2, f"get [it]({URL}/new.safetensors).")
    found = one(
        check(editor(saved("CheckpointLoaderSimple", 1, "new.safetensors"), note), code=1),
        "models",
        "missing",
    )
    assert found["get"]["suggestion"] is True
    assert "fix_command" not in found
    assert "next" not in found


@pytest.mark.parametrize(
    "url",
    [
        "https://[::1",
        "https://huggingface.co:99999/x",
        "https://hugging\u2100.co/x",
        "https://evil.example\\@huggingface.co/x.safetensors",
        "https://huggingface.co/a\n--evil/x.safetensors",
        "https://huggingface.co/a b/x.safetensors",
    ],
)
def test_an_address_that_is_none_is_no_source_and_no_fault(check: Checker, url: str) -> None:
    loader = saved("CheckpointLoaderSimple", 1, "x.safetensors", properties={"models": [
        {"name": "x.safetensors", "url": url, "directory": "checkpoints"}]})  # fmt: skip
    document = check(editor(loader, saved("Note", 2, f"see {url}/x.safetensors")), code=1)
    entry = one(document, "models", "missing")
    assert "fix_command" not in entry
    assert "evil" not in json.dumps(entry)


def test_a_source_of_a_name_that_many_models_bear_is_the_workflows_own_or_none(check: Checker) -> None:
    check.comfy.manager.shape = "v3"
    check.comfy.manager.models = [
        {"filename": "diffusion_pytorch_model.safetensors", "save_path": "checkpoints/flux", "url": f"{URL}/flux.safetensors"},
        {"filename": "diffusion_pytorch_model.safetensors", "save_path": "checkpoints/wan", "url": f"{URL}/wan.safetensors"},
    ]  # fmt: skip
    entry = one(check(graph("diffusion_pytorch_model.safetensors"), code=1), "models", "missing")
    assert "get" not in entry
    entry = one(check(graph("wan/diffusion_pytorch_model.safetensors"), code=1), "models", "missing")
    assert entry["get"]["url"] == f"{URL}/wan.safetensors"


def test_a_name_that_is_no_file_name_is_said_to_be_the_reason(check: Checker) -> None:
    loader = saved("CheckpointLoaderSimple", 1, "-x.safetensors", properties={"models": [
        {"name": "-x.safetensors", "url": f"{URL}/x.safetensors", "directory": "checkpoints"}]})  # fmt: skip
    entry = one(check(editor(loader), code=1), "models", "missing")
    assert "fix_command" not in entry
    assert "rename it" in entry["fix"]


def test_an_address_on_another_host_is_marked_and_not_in_a_command(check: Checker) -> None:
    models = [
        {"name": "new.safetensors", "url": "https://evil.example/new.safetensors", "directory": "checkpoints"}
    ]
    found = one(
        check(
            editor(saved("CheckpointLoaderSimple", 1, "new.safetensors", properties={"models": models})),
            code=1,
        ),
        "models",
        "missing",
    )
    assert found["get"]["host_allowed"] is False
    assert "fix_command" not in found


@pytest.mark.parametrize("folder", ["", "../../", "/etc/", "a/../../"])
def test_a_command_never_leads_out_of_the_models_folder(check: Checker, folder: str) -> None:
    models = [{"name": "new.safetensors", "url": f"{URL}/new.safetensors", "directory": "checkpoints"}]
    flow = editor(
        saved("CheckpointLoaderSimple", 1, f"{folder}new.safetensors", properties={"models": models})
    )
    assert ("fix_command" in one(check(flow, code=1), "models", "missing")) is (folder == "")


def test_a_repair_never_replaces_the_workflow_itself(check: Checker, tmp_path: Path) -> None:
    assert check(graph("base.safetensors"), "--repair", tmp_path / "flow.json", code=2)["status"] == "error"
    assert json.loads((tmp_path / "flow.json").read_text()) == graph("base.safetensors")


# --- embeddings and files


@pytest.mark.parametrize(
    "text", ["embedding:easynegative,blurry", "ugly,embedding:easynegative", "embedding:easynegative:1.2"]
)
def test_an_embedding_that_would_be_overlooked_is_not_present(check: Checker, text: str) -> None:
    check.comfy.embeddings = ["easynegative"]
    flow = graph()
    flow["2"]["inputs"]["text"] = text
    entry = one(check(flow, code=1), "embeddings", "missing")
    assert (entry["use_instead"], entry["how"]) == ("embedding:easynegative", "blanks around it")
    assert "ignore it" in entry["reason"]


def test_the_suffix_of_an_embedding_says_nothing(check: Checker) -> None:
    check.comfy.embeddings = ["easynegative"]
    flow = graph()
    flow["2"]["inputs"]["text"] = "embedding:EasyNegative.pt"
    document = check(flow, code=1)
    entry = one(document, "embeddings", "missing")
    assert (entry["use_instead"], entry["sure"]) == ("easynegative", True)
    assert "not_checked" not in document["workflows"][0]


def test_several_pictures_in_one_input_are_each_looked_up(check: Checker) -> None:
    files = {"__value__": ["example.png", "other.png"]}
    flow = graph(**{"5": {"class_type": "LoadImage", "inputs": {"image": files}}})
    flow["4"]["inputs"]["images"] = ["5", 0]
    document = check(flow, code=1)["workflows"][0]["files"]
    assert (document["present"], document["missing"][0]["name"]) == (["example.png"], "other.png")


@pytest.mark.parametrize(
    ("name", "folder"), [("x.png", "input"), ("x.png [output]", "output"), ("x.png [temp]", "temp")]
)
def test_the_folder_that_was_looked_into_is_named(check: Checker, name: str, folder: str) -> None:
    flow = graph(**{"5": {"class_type": "LoadImage", "inputs": {"image": name}}})
    flow["4"]["inputs"]["images"] = ["5", 0]
    assert f"{folder} folder" in one(check(flow, code=1), "files", "missing")["reason"]


def test_a_picture_of_that_name_in_another_folder_is_another_picture(check: Checker, tmp_path: Path) -> None:
    flow = graph(**{"5": {"class_type": "LoadImage", "inputs": {"image": "pasted/example.png"}}})
    flow["4"]["inputs"]["images"] = ["5", 0]
    document = check(flow, "--repair", tmp_path / "copy.json", code=1)
    entry = one(document, "files", "missing")
    assert (entry["use_instead"], entry["sure"]) == ("example.png", False)
    assert "the same file" not in entry["reason"]
    assert document["workflows"][0]["repaired"]["changes"] == []


@pytest.mark.parametrize("value", [{"a": 1}, {"__value__": [["x"]]}, {"__value__": [{"a": 1}]}, [], 5, None])
def test_a_value_of_another_kind_than_a_name_is_no_fault(check: Checker, value: Any) -> None:
    assert check(graph(value)).get("code") != "internal_error"


def test_a_word_in_place_of_a_file_is_a_value_and_no_file_to_look_for(check: Checker) -> None:
    entry = one(check(graph("Baked VAE"), code=1), "values", "missing")
    assert "fix" not in entry


def test_embeddings_in_prompts(check: Checker) -> None:
    check.comfy.embeddings = ["easynegative"]
    flow = graph()
    flow["2"]["inputs"]["text"] = (
        "ugly, (embedding:easynegative:1.2), embedding:easynegative.pt, embedding:badhands"
    )
    embeddings = check(flow, code=1)["workflows"][0]["embeddings"]
    assert embeddings["present"] == ["easynegative", "easynegative.pt"]
    assert [entry["name"] for entry in embeddings["missing"]] == ["badhands"]


@pytest.mark.parametrize(
    ("image", "code"), [("example.png", 0), ("sub/there.png", 0), ("nope.png", 1), ("sub/nope.png", 1)]
)
def test_input_files(check: Checker, image: str, code: int) -> None:
    check.comfy.inputs.append("sub/there.png")
    flow = graph(**{"6": {"class_type": "LoadImage", "inputs": {"image": image}}})
    flow["3"]["inputs"]["image"] = ["6", 0]
    document = check(flow, code=code)
    if code:
        assert "--input-file 6.image=PATH" in one(document, "files", "missing")["fix"]


# --- unknown


def test_refused_definitions_are_unknown_and_exit_4(check: Checker) -> None:
    for path in ("object_info", "object_info/KSampler", "object_info/CheckpointLoaderSimple"):
        check.comfy.faults[path] = 403
    document = check(graph(), code=4)
    assert document["status"] == "unknown"
    assert len(document["workflows"][0]["nodes"]["unknown"]) == 4
    assert document["workflows"][0]["models"]["present"] == ["SDXL/base.safetensors"]


def test_without_definitions_three_folder_answers_are_three_sentences(check: Checker) -> None:
    check.comfy.faults["object_info/CheckpointLoaderSimple"] = 403
    (check.comfy.models / "checkpoints/SDXL/base.safetensors").unlink()
    empty = one(check(graph()), "models", "missing")["reason"]
    check.comfy.faults["models/checkpoints"] = 403
    refused = one(check(graph()), "models", "unknown")["reason"]
    del check.comfy.faults["models/checkpoints"]
    check.comfy.folders.remove("checkpoints")
    unknown_folder = one(check(graph()), "models", "missing")["reason"]
    assert "is empty" in empty
    assert "refuses" in refused
    assert "no model folder" in unknown_folder


@pytest.mark.parametrize("said", [b"[]", b'{"detail": "please log in"}'])
def test_an_answer_that_is_no_definition_does_not_mean_that_the_class_is_missing(
    check: Checker, said: bytes
) -> None:
    check.comfy.says["object_info/SaveImage"] = (said, "application/json")
    document = check(graph(), code=3)
    assert "SaveImage" in [entry["name"] for entry in document["workflows"][0]["nodes"]["unknown"]]


def test_a_login_page_is_no_picture(check: Checker) -> None:
    check.comfy.says["view"] = (b"<html>log in</html>", "text/html; charset=utf-8")
    flow = graph(**{"5": {"class_type": "LoadImage", "inputs": {"image": "sub/x.png"}}})
    flow["4"]["inputs"]["images"] = ["5", 0]
    assert "web page" in one(check(flow, code=4), "files", "unknown")["reason"]


def test_a_folder_of_a_missing_pack_leaves_its_model_unknown(check: Checker) -> None:
    flow = graph(
        **{"7": {"class_type": "IPAdapterModelLoader", "inputs": {"ipadapter_file": "x.safetensors"}}}
    )
    document = check(flow, code=1)
    assert "missing pack" in one(document, "models", "unknown")["reason"]
    assert document["workflows"][0]["models"]["missing"] == []


def test_older_folder_names_are_understood(check: Checker) -> None:
    check.comfy.faults["object_info/UNETLoader"] = 403
    check.comfy.folders = ["unet"]
    put(check.comfy, "unet/u.safetensors")
    flow = {"1": {"class_type": "UNETLoader", "inputs": {"unet_name": "u.safetensors"}}}
    assert check(flow, code=4)["workflows"][0]["models"]["present"] == ["u.safetensors"]


def test_a_server_that_does_not_answer_leaves_everything_unknown(run: Any, tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text(json.dumps(graph("sd_xl_base_1.0.safetensors")))
    ran = run("check_deps.py", "g.json", "--host", "http://127.0.0.1:9")
    assert ran.code == 3
    document = ran.json
    assert (document["status"], document["code"]) == ("unknown", "unreachable")
    assert document["counts"] == {"present": 0, "missing": 0, "unknown": 5}
    assert one(document, "models", "unknown")["get"]["url"].startswith("https://huggingface.co/")


def test_a_time_out_in_the_middle_is_unknown_too(check: Checker) -> None:
    check.comfy.faults["object_info/KSampler"] = 500
    document = check(graph(), code=3)
    assert document["status"] == "unknown"


def test_a_server_that_stops_answering_is_not_asked_again_and_again(check: Checker) -> None:
    # It dies with the first question about nodes; each further question would be another time-out.
    check.comfy.dies_at = "object_info"
    flow = graph(**{"7": {"class_type": "LoraLoader", "inputs": {"lora_name": "x.safetensors"}}})
    flow["2"]["inputs"]["text"] = "embedding:y"
    document = check(flow, code=3)
    assert document["counts"] == {"present": 0, "missing": 0, "unknown": 8}
    asked = [path for _, path, _ in check.comfy.seen]
    assert not [path for path in asked if path.startswith(("models/", "embeddings"))]


def test_something_missing_beats_something_unknown(check: Checker) -> None:
    check.comfy.faults["embeddings"] = 403
    flow = graph("nowhere.safetensors")
    flow["2"]["inputs"]["text"] = "embedding:x"
    document = check(flow, code=1)
    assert document["counts"]["unknown"] == 1


def test_an_html_page_for_every_address_is_no_manager(check: Checker) -> None:
    check.comfy.page_for_all = True
    flow = graph(**{"9": {"class_type": "Nope", "inputs": {}}})
    assert "manager" not in check(flow, code=1)["server"]


# --- several workflows, misuse


def test_one_unreadable_file_does_not_hide_the_others(run: Any, comfy: Comfy, tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text(json.dumps(graph()))
    (tmp_path / "bad.json").write_text("{]")
    ran = run("check_deps.py", "good.json", "bad.json", "--host", comfy.url)
    assert ran.code == 2
    assert [entry["status"] for entry in ran.json["workflows"]] == ["ok", "error"]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("x.json",),
        ("a.json", "b.json", "--repair", "o.json"),
        ("--save-inventory", "a", "--inventory", "b"),
    ],
)
def test_misuse(run: Any, words: tuple[str, ...]) -> None:
    assert run("check_deps.py", *words).code == 2


def test_the_demo_server_has_what_the_bundled_workflow_needs(run: Any, demo: Any) -> None:
    root = Path(__file__).resolve().parent.parent.parent
    ran = run("check_deps.py", root / "workflows" / "sd15_txt2img.json", "--host", demo.url)
    assert ran.code == 0, ran.out


def test_control_characters_of_a_workflow_do_not_reach_the_terminal(check: Checker) -> None:
    document = check(graph("\u001b]0;pwned\u0007evil\u202e.safetensors"), code=1)
    assert one(document, "models", "missing")["name"] == "evil.safetensors"


def test_a_service_is_not_told_how_to_install_anything(run: Any, new_demo: Any, tmp_path: Path) -> None:
    cloud = new_demo("--cloud")
    flow = graph(
        "sd_xl_base_9.0.safetensors", **{"9": {"class_type": "VHS_Nope", "inputs": {"images": ["3", 0]}}}
    )
    (tmp_path / "f.json").write_text(json.dumps(flow))
    words = ("--host", cloud.url, "--api", "cloud", "--api-key", "comfyui-demo-key")
    ran = run("check_deps.py", "f.json", *words)
    assert ran.code == 1
    assert "next" not in ran.json
    assert "auto_fix_deps" not in ran.json["hint"]
    assert run("auto_fix_deps.py", "f.json", *words, "--yes").json["code"] == "blocked"


def test_the_free_tier_is_refused_and_not_missing(run: Any, new_demo: Any, tmp_path: Path) -> None:
    cloud = new_demo("--cloud", "--tier", "free")
    (tmp_path / "f.json").write_text(json.dumps(graph("v1-5-pruned-emaonly-fp16.safetensors")))
    ran = run(
        "check_deps.py", "f.json", "--host", cloud.url, "--api", "cloud", "--api-key", "comfyui-demo-key"
    )
    assert ran.code == 4
    assert ran.json["counts"] == {"present": 1, "missing": 0, "unknown": 4}


def test_a_name_among_several_in_one_input_is_not_set_in_the_place_of_all(
    check: Checker, tmp_path: Path
) -> None:
    names = {"__value__": ["SDXL/base.safetensors", "base.safetensors"]}
    flow = graph(**{"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": names}}})
    document = check(flow, "--repair", tmp_path / "copy.json", code=1)
    entry = one(document, "models", "missing")
    assert entry["use_instead"] == "SDXL/base.safetensors"
    assert "set" not in entry
    assert document["workflows"][0]["repaired"]["changes"] == []


# --- classes that the server has replaced, and files that are named by their content

OLD_LOADER = [
    {
        "new_node_id": "LoraLoader",
        "old_node_id": "OldLoader",
        "input_mapping": [{"new_id": "lora_name", "old_id": "old_name"}],
        "output_mapping": None,
    }
]


def with_old_loader(name: str) -> dict[str, Any]:
    inputs = {"old_name": name, "model": ["1", 0], "clip": ["1", 1], "gone": 5}
    return graph(
        **{
            "5": {"class_type": "OldLoader", "inputs": inputs},
            "3": {
                "class_type": "KSampler",
                "inputs": {"sampler_name": "euler", "seed": 1, "model": ["5", 0], "positive": ["2", 0]},
            },
        }
    )


def test_a_replaced_class_is_checked_as_the_class_that_the_server_runs(check: Checker) -> None:
    check.comfy.says["node_replacements"] = (
        json.dumps({"OldLoader": OLD_LOADER}).encode(),
        "application/json",
    )
    put(check.comfy, "loras/style/a.safetensors")
    document = check(with_old_loader("style/a.safetensors"), code=0)
    (report,) = document["workflows"]
    assert "LoraLoader" in report["nodes"]["present"]
    assert report["replaced"] == [
        {"node_id": "5", "class_type": "OldLoader", "runs_as": "LoraLoader", "lost_inputs": ["gone"]}
    ]


def test_a_name_in_a_replaced_class_is_set_under_the_input_that_the_workflow_has(
    check: Checker, tmp_path: Path
) -> None:
    check.comfy.says["node_replacements"] = (
        json.dumps({"OldLoader": OLD_LOADER}).encode(),
        "application/json",
    )
    put(check.comfy, "loras/style/a.safetensors")
    copy = tmp_path / "copy.json"
    document = check(with_old_loader("a.safetensors"), "--repair", copy, code=1)
    entry = one(document, "models", "missing")
    assert entry["used_by"][0] == {"at": "5.old_name", "class_type": "LoraLoader", "title": "LoraLoader"}
    assert "5.old_name=style/a.safetensors" in shlex.split(entry["set"])
    assert json.loads(copy.read_text())["5"]["inputs"]["old_name"] == "style/a.safetensors"


def test_a_replacement_that_the_server_lacks_leaves_the_class_missing(check: Checker) -> None:
    table = {"OldLoader": [{**OLD_LOADER[0], "new_node_id": "NotHereEither"}]}
    check.comfy.says["node_replacements"] = (json.dumps(table).encode(), "application/json")
    entry = one(check(with_old_loader("a.safetensors"), code=1), "nodes", "missing")
    assert (entry["name"], entry["replaced_by"]) == ("OldLoader", "NotHereEither")
    assert "fix_command" not in entry


def test_present_classes_ask_for_no_replacements(check: Checker) -> None:
    check(graph(), code=0)
    assert not [path for _, path, _ in check.comfy.seen if path == "node_replacements"]


ASSET = f"blake3:{'0a' * 32}"


@pytest.mark.parametrize(
    ("says", "status"),
    [
        ({}, "unknown"),
        ({"features": b'{"assets": false}'}, "unknown"),
        ({"features": b'{"assets": true}'}, "missing"),
        ({"features": b'{"assets": true}', "view": b"picture"}, "present"),
    ],
)
def test_a_blake3_value_is_a_file_and_missing_only_where_assets_are_known(
    check: Checker, says: dict[str, bytes], status: str
) -> None:
    for path, body in says.items():
        check.comfy.says[path] = (body, "image/png" if path == "view" else "application/json")
    flow = graph(**{"7": {"class_type": "LoadImage", "inputs": {"image": ASSET}}})
    flow["4"]["inputs"]["images"] = ["7", 0]
    document = check(flow)
    files = document["workflows"][0]["files"]
    assert [key for key in ("present", "missing", "unknown") if files[key]] == [status]


def test_an_upload_is_never_missing_on_the_cloud(run: Any, new_demo: Any, tmp_path: Path) -> None:
    cloud = new_demo("--cloud")
    flow = {
        "1": {"class_type": "LoadImage", "inputs": {"image": f"{'0a' * 32}.png"}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "holiday.png"}},
        "3": {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["2", 0]}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }
    (tmp_path / "f.json").write_text(json.dumps(flow))
    ran = run(
        "check_deps.py", "f.json", "--host", cloud.url, "--api", "cloud", "--api-key", "comfyui-demo-key"
    )
    files = ran.json["workflows"][0]["files"]
    assert [entry["name"] for entry in files["unknown"]] == [f"{'0a' * 32}.png"]
    assert [entry["name"] for entry in files["missing"]] == ["holiday.png"]
