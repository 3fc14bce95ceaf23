"""Parameters and files of packs' nodes: which texts are prompts, which values are sizes, which files are looked for."""

from __future__ import annotations

import json

import pytest

from comfyskill.base import cache
from comfyskill.deps import need as deps_need
from comfyskill.graph import parameters
from editor_files import DEFINITIONS

TEXT, NUMBER = ["STRING", {"multiline": True}], ["INT", {}]
ENCODE = DEFINITIONS["CLIPTextEncode"]


def definition(required, output, **more):
    return {"input": {"required": required}, "output": output, "python_module": "custom_nodes.pack", **more}


def text(words):
    return {"class_type": "CLIPTextEncode", "inputs": {"text": words, "clip": ["1", 1]}}


def roles(graph, known):
    found = parameters.find(
        {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {}}, **graph}, DEFINITIONS | known
    )
    return {parameter.value: parameter.role for parameter in found if isinstance(parameter.value, str)}


SAMPLER_INPUTS = {
    "model": ["MODEL"], "positive": ["CONDITIONING"], "negative": ["CONDITIONING"], "latent_image": ["LATENT"],
    "steps": NUMBER, "cfg": ["FLOAT"],
}  # fmt: skip


@pytest.mark.parametrize("kind", ["KSampler (Efficient)", "KSampler Adv. (Efficient)", "Some Pack's Sampler"])
def test_a_sampler_that_hands_conditioning_on_is_a_sampler(kind):
    known = {kind: definition(SAMPLER_INPUTS, ["MODEL", "CONDITIONING", "CONDITIONING", "LATENT"])}
    graph = {
        "2": text("a cat"),
        "3": text("blurry"),
        "5": {
            "class_type": kind,
            "inputs": {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "steps": 7},
        },
    }
    assert roles(graph, known) == {"a cat": "prompt", "blurry": "negative_prompt"}


@pytest.mark.parametrize(("kind", "name"), [("WanVideoNAG", "conditioning"), ("LTX2_NAG", "nag_cond_video")])
def test_attention_guidance_takes_the_negative_prompt(kind, name):
    known = {kind: definition({"model": ["MODEL"], name: ["CONDITIONING"]}, ["MODEL"])}
    graph = {
        "2": text("a cat"),
        "3": text("blurry"),
        "4": {"class_type": kind, "inputs": {"model": ["1", 0], name: ["3", 0]}},
        "5": {"class_type": "KSampler", "inputs": {"model": ["4", 0], "positive": ["2", 0], "steps": 7}},
    }
    assert roles(graph, known) == {"a cat": "prompt", "blurry": "negative_prompt"}


def test_a_text_that_a_picture_takes_the_place_of_keeps_its_other_role():
    graph = {
        "2": text("a cat"),
        "3": text("blurry"),
        "4": {
            "class_type": "StyleModelApply",
            "inputs": {"conditioning": ["3", 0], "clip_vision_output": ["9", 0]},
        },
        "5": {"class_type": "KSampler", "inputs": {"positive": ["4", 0], "negative": ["3", 0]}},
        "6": {"class_type": "KSampler", "inputs": {"positive": ["2", 0], "negative": ["3", 0]}},
        "9": {"class_type": "CLIPVisionEncode", "inputs": {}},
    }
    assert roles(graph, {}) == {"a cat": "prompt", "blurry": "negative_prompt"}
    alone = {key: node for key, node in graph.items() if key in ("3", "4", "9")}
    alone["5"] = {"class_type": "KSampler", "inputs": {"positive": ["4", 0]}}
    assert roles(alone, {}) == {"blurry": "prompt"}


def test_texts_before_a_node_of_which_one_side_is_used_have_both_roles_told():
    graph = {
        "2": text("a cat"),
        "3": text("blurry"),
        "4": {
            "class_type": "InpaintModelConditioning",
            "inputs": {"positive": ["2", 0], "negative": ["3", 0]},
        },
        "5": {"class_type": "BasicGuider", "inputs": {"conditioning": ["4", 0]}},
    }
    assert roles(graph, {}) == {"a cat": "prompt", "blurry": "negative_prompt"}


def test_prompts_that_are_only_written_into_a_file_are_none():
    saver = {
        "images": ["IMAGE"],
        "modelname": TEXT,
        "sampler_name": TEXT,
        "scheduler_name": TEXT,
        "positive": TEXT,
    }
    known = {
        "Image Saver": definition(saver, ["STRING"], output_node=True),
        "Note": definition({"words": TEXT}, ["STRING"]),
    }
    graph = {
        "2": text("a cat"),
        "5": {"class_type": "KSampler", "inputs": {"positive": ["2", 0]}},
        "6": {"class_type": "Note", "inputs": {"words": "as before"}},
        "7": {"class_type": "Image Saver", "inputs": {"positive": ["6", 0], "images": ["8", 0]}},
    }
    assert roles(graph, known) == {"a cat": "prompt", "as before": None}
    plain = {"7": {"class_type": "Image Saver", "inputs": {"positive": "as before", "images": ["8", 0]}}}
    assert roles(plain, known) == {"as before": None}
    assert parameters.find(plain, DEFINITIONS | known).names() == ["positive"]


def test_a_word_is_no_size():
    known = {"Resize": definition({"scale_by": [["longest_side", "width"]]}, ["IMAGE"])}
    assert roles({"5": {"class_type": "Resize", "inputs": {"scale_by": "longest_side"}}}, known) == {
        "longest_side": None
    }


@pytest.mark.parametrize(("switch", "name"), [(0, "Xi"), (1, "Xf")])
def test_a_slider_is_called_after_what_it_feeds(switch, name):
    known = {"mxSlider": definition({"Xi": NUMBER, "Xf": ["FLOAT"], "isfloatX": NUMBER}, ["FLOAT"])}
    graph = {
        "4": {"class_type": "mxSlider", "inputs": {"Xi": 20, "Xf": 20.0, "isfloatX": switch}},
        "5": {"class_type": "KSampler", "inputs": {"steps": ["4", 0], "cfg": 2}},
    }
    (found,) = parameters.find(graph, DEFINITIONS | known).resolve("steps")
    assert (found.node_id, found.input) == ("4", name)


def needs(kind, inputs, required, output=("IMAGE",)):
    known = {kind: definition(required, list(output), output_node=True)}
    return deps_need.needs_of({"5": {"class_type": kind, "inputs": inputs}}, DEFINITIONS | known)


def test_an_upload_that_no_option_marks_is_looked_for():
    found = needs("VHS_LoadVideo", {"video": "a.mp4"}, {"video": [[]]})
    assert [(need.name, need.kind) for need in found.files] == [("a.mp4", "video")]


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [("input/sub/a.mp4", "sub/a.mp4", "file"), ("output/a.mp4", "a.mp4 [output]", "file"),
     ("X:\\films\\a.mp4", "X:\\films\\a.mp4", "path"), ("/films/a.mp4", "/films/a.mp4", "path")],
)  # fmt: skip
def test_a_path_on_the_server_is_looked_for_where_it_can_be(path, name, kind):
    spec = {"video": ["STRING", {"vhs_path_extensions": ["mp4"]}]}
    found = needs("VHS_LoadVideoPath", {"video": path}, spec)
    assert [(need.name, need.kind) for need in found.files] == [(name, kind)]


@pytest.mark.parametrize("path", ["", "input/", "https://example.org/a.mp4"])
def test_what_is_no_path_is_not_looked_for(path):
    spec = {"video": ["STRING", {"vhs_path_extensions": ["mp4"]}]}
    assert needs("VHS_LoadVideoPath", {"video": path}, spec).files == ()


def test_a_file_of_an_empty_folder_is_missing():
    spec = {
        "head": ["COMBO", {"options": []}],
        "patch": ["COMBO", {"options": []}],
        "mode": ["COMBO", {"options": []}],
    }
    inputs = {"head": "fooocus_inpaint_head.pth", "patch": "inpaint_v26.fooocus.patch", "mode": "any"}
    found = needs("INPAINT_LoadFooocusInpaint", inputs, spec)
    assert [(need.name, need.folder) for need in found.models] == [
        ("fooocus_inpaint_head.pth", "inpaint"), ("inpaint_v26.fooocus.patch", "inpaint")]  # fmt: skip
    assert [need.name for need in needs("Other", {"patch": "a.patch"}, {"patch": [[]]}).models] == ["a.patch"]


def test_an_embedding_word_counts_only_where_an_encoder_reads_it():
    known = {
        "Words": definition({"text": TEXT}, ["STRING"]),
        "Show": definition({"text": TEXT}, [], output_node=True),
    }
    graph = {
        "2": {"class_type": "Words", "inputs": {"text": "embedding:lovely"}},
        "3": {"class_type": "Show", "inputs": {"text": ["2", 0]}},
    }
    assert deps_need.needs_of(graph, DEFINITIONS | known).embeddings == {}
    graph["4"] = text(["2", 0])
    graph["5"] = {"class_type": "KSampler", "inputs": {"positive": ["4", 0]}}
    graph["6"] = {"class_type": "SaveLatent", "inputs": {"samples": ["5", 0]}}
    assert list(deps_need.needs_of(graph, DEFINITIONS | known).embeddings) == ["lovely"]


def test_definitions_are_kept_so_that_single_classes_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_SKILL_CACHE", str(tmp_path))
    kept = {name: DEFINITIONS[name] for name in ("KSampler", "SaveImage", "CLIPTextEncode")}
    cache.keep_table("definitions/here", kept)
    file = tmp_path / "definitions" / "here.json"
    assert dict(cache.recall_table("definitions/here")) == kept
    # What is wrong with one class does no harm to another, which is read alone.
    whole = file.read_text("ascii")
    broken = json.dumps(kept["SaveImage"])
    file.write_text(whole.replace(broken, "?" * len(broken)), "ascii")
    table = cache.recall_table("definitions/here")
    assert table["KSampler"] == kept["KSampler"]
    assert "SaveImage" not in table
    assert table.get("SaveImage") is None
    file.write_text(whole[:-5], "ascii")
    assert cache.recall_table("definitions/here") is None
    file.write_text(json.dumps(kept), "ascii")
    assert cache.recall_table("definitions/here") == kept
