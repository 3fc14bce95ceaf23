"""extract_schema.py as a command: with a server, with saved definitions, and with neither."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import extract_schema
from comfyskill.base import flags
from comfyskill.server import node_definitions

DEFINITIONS = Path(__file__).parent.parent / "data/graph/definitions.json"
GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "photo.png"}, "_meta": {"title": "Your photo"}},
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["1", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0], "seed": 5, "steps": 20,
            "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.6,
        },
    },
    "5": {"class_type": "VAEEncode", "inputs": {"pixels": ["2", 0], "vae": ["1", 2]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox, embedding:easynegative", "clip": ["1", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad", "clip": ["1", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "out"}},
}  # fmt: skip


def test_saved_definitions_give_types_ranges_and_choices(run, graph_file):
    done = run("extract_schema.py", graph_file(GRAPH), "--object-info", DEFINITIONS)

    assert done.code == 0
    assert done.json["definitions"] == "file"
    found = {parameter["name"]: parameter for parameter in done.json["parameters"]}
    assert (
        found["steps"] | {"min": 1, "max": 10000, "default": 20, "type": "INT", "set": "3.steps"}
        == found["steps"]
    )
    assert found["sampler_name"]["choices"]["count"] == 44
    assert (
        len(found["sampler_name"]["choices"]["items"]) == 44
        and "uni_pc" in found["sampler_name"]["choices"]["items"]
    )
    assert found["prompt"]["multiline"] is True
    assert found["image"]["takes_upload"] == "image"
    assert done.json["input_files"] == [
        {"name": "image", "set": "2.image", "kind": "image", "value": "photo.png"}
    ]
    assert done.json["embeddings"] == ["easynegative"]
    assert done.json["sampling_steps"] == 20
    assert done.json["partner_nodes"] == []
    assert [model["name"] for model in done.json["models"]] == ["sd_xl_base_1.0.safetensors"]
    assert [output["node_id"] for output in done.json["outputs"]] == ["9"]


def test_a_server_is_asked_for_its_definitions(run, demo, graph_file):
    done = run("extract_schema.py", graph_file(GRAPH), "--host", demo.url)

    assert done.code == 0
    assert done.json["definitions"] == "server"
    found = {parameter["name"]: parameter for parameter in done.json["parameters"]}
    assert found["steps"]["type"] == "INT" and "typed_by" not in found["steps"]
    assert any("object_info" in entry["path"] for entry in demo.log())


def test_offline_needs_no_server_and_says_what_it_used(run, graph_file):
    done = run("extract_schema.py", graph_file(GRAPH), "--offline")

    assert done.code == 0
    assert done.json["definitions"] in ("bundled", "none")
    assert {"prompt", "negative_prompt", "seed", "image"} <= {p["name"] for p in done.json["parameters"]}


def test_what_repeats_is_said_once(run, graph_file):
    graph = {
        str(number): {
            "class_type": "KSampler",
            "inputs": {"sampler_name": "euler", "seed": 1},
            "_meta": {"title": title},
        }
        for number, title in ((1, "KSampler"), (2, "Second"))
    }
    done = run("extract_schema.py", graph_file(graph), "--object-info", DEFINITIONS)

    found = {parameter["set"]: parameter for parameter in done.json["parameters"]}
    first, second = found["1.sampler_name"], found["2.sampler_name"]
    assert first["choices"]["count"] == second["choices"]["count"] == 44
    assert second["choices"] == {"count": 44, "same_as": first["name"]}
    assert ("title" in first, second["title"]) == (False, "Second")
    spread = json.dumps(done.json, indent=2)
    assert len(done.out) < 0.8 * len(spread)


def test_the_summary_holds_names_and_values(run, graph_file):
    done = run("extract_schema.py", graph_file(GRAPH), "--offline", "--summary-only")

    assert done.json["values"]["prompt"] == "a fox, embedding:easynegative"
    assert done.json["values"]["denoise"] == 0.6
    assert "parameters" not in done.json


def test_no_server_and_no_flags_is_no_failure(monkeypatch):
    """In this process, so that the default address is one where nothing listens."""
    monkeypatch.setattr(flags, "DEFAULT_HOST", "http://127.0.0.1:9")
    monkeypatch.delenv("COMFY_HOST", raising=False)
    parser = flags.parser(None)
    node_definitions.add_flags(parser)

    assert node_definitions.from_flags(parser.parse_args([])).origin in ("cache", "bundled")


def test_a_named_server_that_is_not_there_is_exit_3(run, graph_file):
    done = run("extract_schema.py", graph_file(GRAPH), "--host", "http://127.0.0.1:9")

    assert done.code == 3


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("{}", ["--offline"]),
        ("not json", ["--offline"]),
        (json.dumps(GRAPH), ["--offline", "--object-info", str(DEFINITIONS)]),
        (json.dumps(GRAPH), ["--object-info", "nowhere.json"]),
    ],
    ids=["empty", "no json", "both", "no file"],
)
def test_misuse_is_exit_2(run, tmp_path, text, flags):
    path = tmp_path / "workflow.json"
    path.write_text(text, encoding="utf-8")
    done = run("extract_schema.py", path, *flags)

    assert done.code == 2
    assert done.json["status"] == "error"


def test_a_workflow_on_standard_input_is_read(run):
    done = run("extract_schema.py", "-", "--offline", "--summary-only", stdin=json.dumps({"prompt": GRAPH}))

    assert done.json["values"]["seed"] == 5


def test_long_lists_are_capped_and_all_shows_the_rest():
    graph = {
        str(i): {"class_type": "EmptyLatentImage", "inputs": {"width": 8, "height": 8, "batch_size": 1}}
        for i in range(300)
    }

    capped = extract_schema.schema(graph, None)
    assert (len(capped["parameters"]), capped["parameters_total"]) == (extract_schema.MOST_PARAMETERS, 900)
    assert len(extract_schema.schema(graph, None, every=True)["parameters"]) == 900


def test_a_list_of_hundreds_of_choices_is_cut_and_names_the_flag_for_the_rest():
    choices = [f"model_{n}.safetensors" for n in range(120)]
    definitions = {
        "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [choices]}}, "output": ["MODEL"]}
    }

    def shown(**flags):
        return extract_schema.schema({"1": GRAPH["1"]}, definitions, **flags)["parameters"][0]["choices"]

    assert len(shown()["items"]) == 40
    assert (shown()["count"], shown()["more"], shown()["hint"]) == (120, 80, "--all shows the rest")
    assert shown(every=True) == {"count": 120, "items": choices}


def test_hostile_titles_and_values_are_cleaned(run, graph_file):
    graph = {
        "1": {
            "class_type": "CLIPTextEncode",
            "inputs": {"text": "a\u001b[31mred\u202e"},
            "_meta": {"title": "x\u001b]0;own\u0007"},
        }
    }
    done = run("extract_schema.py", graph_file(graph), "--offline")

    assert "\\u001b" not in done.out and "\\u202e" not in done.out and "\x1b" not in done.out


def test_optional_inputs_that_are_not_set_are_named(run, graph_file):
    graph = {"1": {"class_type": "CLIPLoader", "inputs": {"clip_name": "clip_l.safetensors", "type": "sd3"}}}
    done = run("extract_schema.py", graph_file(graph), "--object-info", DEFINITIONS)

    assert done.json["also_settable"]["items"] == ["1.device"]


def test_groups_that_grow_and_inputs_of_choices_are_shown(run, graph_file):
    definitions = Path(__file__).parent.parent / "data/graph/definitions_033.json"
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "BatchImagesNode", "inputs": {"images.image0": ["1", 0]}},
        "3": {
            "class_type": "ResizeImageMaskNode",
            "inputs": {"input": ["2", 0], "resize_type": "scale width"},
        },
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
    }
    done = run("extract_schema.py", graph_file(graph), "--object-info", definitions)
    assert done.code == 0, done.stderr
    (group,) = done.json["autogrow"]["items"]
    assert group["set"] == "2.images.image1"
    assert (group["prefix"], group["min"], group["max"]) == ("images.image", 1, 50)
    assert group["element"]["type"] == "IMAGE"
    (choice,) = [one for one in done.json["parameters"] if one["set"] == "3.resize_type"]
    assert choice["inputs_by_choice"]["scale by multiplier"]["resize_type.multiplier"]["type"] == "FLOAT"
    assert "3.resize_type.width" in done.json["also_settable"]["items"]
