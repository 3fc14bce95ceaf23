"""Filling: values of the right type in the right places, and nothing else changed."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path

import pytest

from comfyskill.base.cli import SkillError
from comfyskill.graph import check, rewrite
from comfyskill.graph import fill as graph_fill
from comfyskill.graph import values as graph_settings

DEFINITIONS = json.loads(
    (Path(__file__).parent.parent / "data/graph/definitions.json").read_text(encoding="utf-8")
)
GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "model": ["1", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0], "seed": 5,
            "steps": ["10", 0], "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        },
        "_meta": {"title": "KSampler (hires)"},
    },
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": 768, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["1", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad", "clip": ["1", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "out"}},
    "10": {"class_type": "PrimitiveInt", "inputs": {"value": 20}},
    "11": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "12": {"class_type": "PrimitiveBoolean", "inputs": {"value": False}},
}  # fmt: skip


def fill(settings, definitions=DEFINITIONS, graph=GRAPH, **options):
    return graph_fill.fill(graph, settings, definitions, **options)


def refusal(settings, definitions=DEFINITIONS, graph=GRAPH, **options):
    with pytest.raises(SkillError) as caught:
        fill(settings, definitions, graph, **options)
    assert caught.value.exit == 2
    return caught.value


def test_only_what_was_asked_for_is_changed():
    before = copy.deepcopy(GRAPH)
    filled = fill({"prompt": "at night", "KSampler (hires).denoise": "0.4"})

    assert before == GRAPH
    expected = copy.deepcopy(GRAPH)
    expected["6"]["inputs"]["text"] = "at night"
    expected["3"]["inputs"]["denoise"] = 0.4
    assert filled.graph == expected
    assert filled.changes[0] == {
        "name": "prompt",
        "node_id": "6",
        "input": "text",
        "old": "a fox",
        "new": "at night",
    }


CONVERSIONS = [
    ("5.width", "512", 512),
    ("5.width", " 512 ", 512),
    ("5.width", 512.0, 512),
    ("3.seed", "18446744073709551615", 18446744073709551615),
    ("3.cfg", "6", 6.0),
    ("3.cfg", 6, 6.0),
    ("3.cfg", "1e0", 1.0),
    ("6.text", "30", "30"),
    ("6.text", 30, "30"),
    ("6.text", "true", "true"),
    ("6.text", "", ""),
    ("12.value", "false", False),
    ("12.value", "True", True),
    ("12.value", 1, True),
    ("12.value", "off", False),
    ("3.sampler_name", "dpmpp_2m", "dpmpp_2m"),
    ("1.ckpt_name", "xl\\dreamshaper.safetensors", "xl/dreamshaper.safetensors"),
    ("11.image", "sub/new.png", "sub/new.png"),
    ("11.image", "made_00001_.png [output]", "made_00001_.png [output]"),
]


@pytest.mark.parametrize(("name", "given", "stored"), CONVERSIONS)
def test_values_get_the_type_of_their_input(name, given, stored):
    node_id, _, key = name.partition(".")
    value = fill({name: given}).graph[node_id]["inputs"][key]

    assert value == stored
    assert type(value) is type(stored)


REFUSALS = [
    ("5.width", "64.5", "wrong_type"),
    ("5.width", "1_000", "wrong_type"),
    ("5.width", True, "wrong_type"),
    ("5.width", None, "wrong_type"),
    ("5.width", [512], "wrong_type"),
    ("5.width", "wide", "wrong_type"),
    ("5.width", "0", "out_of_range"),
    ("5.width", 99999999, "out_of_range"),
    ("3.cfg", "nan", "wrong_type"),
    ("3.cfg", "inf", "wrong_type"),
    ("3.cfg", "100.5", "out_of_range"),
    ("6.text", ["a", "b"], "wrong_type"),
    ("6.text", True, "wrong_type"),
    ("12.value", "maybe", "wrong_type"),
    ("12.value", 2, "wrong_type"),
    ("3.sampler_name", "eulr", "not_in_list"),
    ("3.sampler_name", 3, "not_in_list"),
    ("11.image", "missing.png", "not_in_list"),
    ("3.model", "x", "is_linked"),
    ("3.steps", "30", "is_linked"),
    ("widht", "3", "unknown_parameter"),
    ("99.seed", "3", "unknown_parameter"),
]


@pytest.mark.parametrize(("name", "given", "code"), REFUSALS)
def test_what_does_not_fit_is_refused(name, given, code):
    assert refusal({name: given}).code == code


def test_a_value_outside_the_list_gets_the_nearest_first_and_few():
    error = refusal({"sampler_name": "dpmpp2m"})

    assert error.hint.startswith("the nearest: 'dpmpp_2m")
    assert error.details["allowed"]["items"][0] == "dpmpp_2m"
    assert len(error.details["allowed"]["items"]) <= 12
    assert error.details["allowed"]["count"] > 12


def test_a_value_that_is_like_none_gets_the_whole_short_list():
    allowed = refusal({"sampler_name": "foo"}).details["allowed"]

    assert len(allowed["items"]) == allowed["count"] > 12


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("1.ckpt_name", "dreamshaper", "xl/dreamshaper.safetensors"),
        ("1.ckpt_name", "DreamShaper.SafeTensors", "xl/dreamshaper.safetensors"),
        ("1.ckpt_name", "other/dreamshaper.ckpt", "xl/dreamshaper.safetensors"),
        ("3.sampler_name", "Euler", "euler"),
    ],
)
def test_what_was_nearly_right_is_named_first(name, given, wanted):
    error = refusal({name: given})

    assert error.hint == f"did you mean '{wanted}'?"
    assert error.details["nearest"] == error.details["allowed"]["items"][0] == wanted


def test_a_missing_model_is_to_be_fetched():
    error = refusal({"1.ckpt_name": "nosuch.safetensors"})

    assert "check_deps.py" in error.hint and "nearest" not in error.details


def test_every_wrong_value_is_told_at_once():
    error = refusal({"3.cfg": "lots", "5.width": "0", "widht": "3", "7.text": "fine"})

    told = [error.message, *(item["message"] for item in error.details["also_wrong"])]
    assert len(told) == 3
    assert all(any(word in message for message in told) for word in ("cfg", "width", "widht"))
    assert "2 more" in error.message


def test_one_wrong_value_is_told_alone():
    assert "also_wrong" not in refusal({"3.cfg": "lots", "7.text": "fine"}).details


def test_no_validate_sends_it_anyway():
    filled = fill(
        {"3.sampler_name": "own", "5.width": "100000000", "3.cfg": "lots", "6.text": ["a", "b"]},
        validate=False,
    )

    assert filled.graph["3"]["inputs"]["sampler_name"] == "own"
    assert filled.graph["5"]["inputs"]["width"] == 100000000
    assert filled.graph["3"]["inputs"]["cfg"] == "lots"
    assert filled.graph["6"]["inputs"]["text"] == {"__value__": ["a", "b"]}


def test_a_link_gives_way_only_when_told_to():
    assert fill({"3.steps": "30"}, force_links={"3.steps"}).graph["3"]["inputs"]["steps"] == 30
    error = refusal({"3.steps": "30"}, force_links={"3.cfg"})
    assert "--force-link 3.steps" in error.hint
    assert "steps" in error.hint.split(",")[0]


def test_the_source_of_a_linked_value_is_set_by_its_use():
    assert fill({"steps": "30"}).graph["10"]["inputs"]["value"] == 30


@pytest.mark.parametrize("given", ["640x480", "640 x 480", "640,480", [640, 480], "[640, 480]", "640X480"])
def test_a_size_sets_width_and_height(given):
    inputs = fill({"size": given}).graph["5"]["inputs"]
    assert (inputs["width"], inputs["height"]) == (640, 480)


@pytest.mark.parametrize("given", ["640", "x", [1, 2, 3], {"w": 1}, None])
def test_a_size_that_is_none_is_refused(given):
    assert refusal({"size": given}).code == "wrong_type"


def test_lists_and_objects_travel_as_values():
    graph = {
        "1": {
            "class_type": "Pack",
            "inputs": {"points": {"__value__": [1, 2]}, "row": {"on": True, "lora": "x"}},
        }
    }

    assert fill({"1.points": "[3, 4, 5]"}, None, graph).graph["1"]["inputs"]["points"] == {
        "__value__": [3, 4, 5]
    }
    assert fill({"1.points": [3, 4]}, None, graph).graph["1"]["inputs"]["points"] == {"__value__": [3, 4]}
    assert fill({"1.row": '{"on": false, "lora": "y"}'}, None, graph).graph["1"]["inputs"]["row"] == {
        "on": False,
        "lora": "y",
    }
    assert refusal({"1.row": "yes"}, None, graph).code == "wrong_type"


def test_setting_one_place_twice_is_refused():
    assert refusal({"prompt": "a", "6.text": "b"}).code == "set_twice"


SEEDS = {
    "1": {"class_type": "KSampler", "inputs": {"seed": 7}},
    "2": {"class_type": "SamplerCustom", "inputs": {"noise_seed": 7}},
    "3": {"class_type": "SomePackSampler", "inputs": {"seed": 8}},
}


@pytest.mark.parametrize("given", ["-1", -1, "random", " Random "])
@pytest.mark.parametrize("definitions", [DEFINITIONS, None], ids=["definitions", "catalog"])
def test_a_random_seed_is_fresh_everywhere_and_reported(given, definitions):
    filled = fill({"seed": given}, definitions, SEEDS, rng=lambda: random.Random(1))

    values = [filled.graph[n]["inputs"][k] for n, k in (("1", "seed"), ("2", "noise_seed"), ("3", "seed"))]
    assert filled.seeds == {"1.seed": values[0], "2.noise_seed": values[1], "3.seed": values[2]}
    assert values[0] == values[1] != values[2]
    assert all(0 <= value < 2**53 and value not in (7, 8) for value in values)


def test_randomize_leaves_the_seed_that_was_set():
    filled = fill({"1.seed": "99"}, DEFINITIONS, SEEDS, randomize_seed=True)

    assert filled.seeds["1.seed"] == 99
    assert 7 not in filled.seeds.values() and 8 not in filled.seeds.values()


def test_fresh_seeds_stay_in_the_range_of_the_node():
    small = {"Pack": {"input": {"required": {"seed": ["INT", {"min": 3, "max": 5}]}}}}
    graph = {"1": {"class_type": "Pack", "inputs": {"seed": 4}}}
    seen = {fill({"seed": -1}, small, graph, rng=lambda: random.Random(n)).seeds["1.seed"] for n in range(60)}

    assert seen == {3, 4, 5}


def test_a_graph_without_seeds_says_so():
    graph = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8}}}
    assert any("no seed" in note for note in fill({}, DEFINITIONS, graph, randomize_seed=True).notes)


def test_sizes_that_were_equal_and_stay_behind_are_named():
    graph = {**GRAPH, "20": {"class_type": "ImageScale", "inputs": {"width": 1024, "height": 9}}}
    filled = fill({"width": "512"}, graph=graph)

    assert filled.graph["20"]["inputs"]["width"] == 1024
    assert any("20.width" in note for note in filled.notes)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("prompt=a fox", ("prompt", "a fox")),
        ("3.text=a=b=c", ("3.text", "a=b=c")),
        ("KSampler (hires).denoise=0.4", ("KSampler (hires).denoise", "0.4")),
        ("prompt=", ("prompt", "")),
        (" seed =-1", ("seed", "-1")),
    ],
)
def test_set_is_split_at_the_first_equals_sign(text, parts):
    assert graph_settings.parse_set(text) == parts


@pytest.mark.parametrize("text", ["prompt", "", "=x", " =x"])
def test_a_set_without_name_or_value_is_refused(text):
    with pytest.raises(SkillError) as caught:
        graph_settings.parse_set(text)
    assert caught.value.exit == 2


def test_args_are_read_as_json():
    assert graph_settings.parse_args_json('{"prompt": "x", "steps": 30, "on": true}') == {
        "prompt": "x",
        "steps": 30,
        "on": True,
    }


@pytest.mark.parametrize("text", ["", "[1]", "5", "{", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000])
def test_args_that_are_no_object_are_refused(text):
    with pytest.raises(SkillError) as caught:
        graph_settings.parse_args_json(text)
    assert caught.value.exit == 2


RESIZE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
    "2": {"class_type": "ResizeImageMaskNode", "inputs": {
        "input": ["1", 0], "resize_type": "scale dimensions", "resize_type.width": 8, "resize_type.height": 9,
        "resize_type.crop": "center", "scale_method": "area"}},
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
}  # fmt: skip


def test_a_new_choice_brings_its_inputs_and_takes_the_old_ones_away():
    settings = {"2.resize_type.longer_size": "640", "2.resize_type": "scale longer dimension"}
    filled = fill(settings, graph=RESIZE)

    assert filled.graph["2"]["inputs"] == {
        "input": ["1", 0], "resize_type": "scale longer dimension", "resize_type.longer_size": 640, "scale_method": "area",
    }  # fmt: skip
    assert not [f for f in check.findings(filled.graph, DEFINITIONS) if f.severity == "error"]
    assert fill({"resize_type": "scale width"}, graph=RESIZE).graph["2"]["inputs"]["resize_type.width"] == 8
    assert refusal({"resize_type": "scale sideways"}, graph=RESIZE).code == "not_in_list"


def test_setting_texts_that_differed_is_said():
    assert any(
        "different values" in note for note in fill({"prompt": "x"}, graph={**GRAPH, **SECOND_PROMPT}).notes
    )


SECOND_PROMPT = {
    "20": {"class_type": "CLIPTextEncode", "inputs": {"text": "a castle", "clip": ["1", 1]}},
    "21": {
        "class_type": "CFGGuider",
        "inputs": {"model": ["1", 0], "positive": ["20", 0], "negative": ["7", 0], "cfg": 1.0},
    },
}


# ---- uploads -----------------------------------------------------------------------------------------


def test_targets_of_uploads_are_named_with_their_kind():
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "2": {"class_type": "LoadImageMask", "inputs": {"image": "example.png", "channel": "red"}},
        "3": {"class_type": "LoadVideo", "inputs": {"file": "clip.mp4"}},
        "4": {"class_type": "LoadAudio", "inputs": {"audio": "song.mp3"}},
    }
    settings = {"image": "a.png", "mask": "b.png", "3.file": "c.mp4", "audio": "d.mp3"}
    for definitions in (DEFINITIONS, None):
        targets = graph_fill.upload_targets(graph, settings, definitions)
        assert [(t.name, t.node_id, t.kind, t.original) for t in targets] == [
            ("image", "1", "image", None), ("mask", "2", "mask", None), ("3.file", "3", "video", None), ("audio", "4", "audio", None),
        ]  # fmt: skip


PAINTED = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "2": {
        "class_type": "VAEEncodeForInpaint",
        "inputs": {"pixels": ["1", 0], "mask": ["1", 1], "vae": ["9", 0], "grow_mask_by": 6},
    },
}


def test_a_mask_for_a_loaded_picture_names_its_original():
    (target,) = graph_fill.upload_targets(PAINTED, {"mask": "m.png"}, DEFINITIONS)

    assert (target.node_id, target.input, target.kind, target.original) == (
        "1",
        "image",
        "mask",
        "example.png",
    )


def test_a_picture_whose_mask_nobody_uses_takes_no_mask():
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    }
    with pytest.raises(SkillError) as caught:
        graph_fill.upload_targets(graph, {"mask": "m.png"}, DEFINITIONS)
    assert caught.value.code == "unknown_parameter"


def test_the_mask_wins_over_the_picture_that_it_is_painted_into():
    for settings in ({"image": "p.png", "mask": "pm.png"}, {"mask": "pm.png", "image": "p.png"}):
        filled = graph_fill.fill(PAINTED, settings, DEFINITIONS, uploaded={"image", "mask"})
        assert filled.graph["1"]["inputs"]["image"] == "pm.png"


def test_an_uploaded_name_is_not_refused_by_the_old_list():
    filled = fill({"image": "fresh-1234.png"}, uploaded={"image"})

    assert filled.graph["11"]["inputs"]["image"] == "fresh-1234.png"
    assert filled.uploads == ["11.image"]


def test_settings_that_take_no_file_are_no_targets():
    assert graph_fill.upload_targets(GRAPH, {"prompt": "photo.png", "seed": "3"}, DEFINITIONS) == []


# ---- LoRAs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("detail.safetensors", ("detail.safetensors", 1.0, None)),
        ("detail:0.8", ("detail", 0.8, None)),
        ("a:b:0.8:0.5", ("a:b", 0.8, 0.5)),
        ("x:-0.5", ("x", -0.5, None)),
    ],
)
def test_a_lora_is_read_from_the_right(text, spec):
    found = rewrite.parse_lora(text)
    assert (found.name, found.strength, found.clip) == spec


@pytest.mark.parametrize("text", ["", ":0.5", "x:nan", "x:", "x:1:inf"])
def test_a_lora_without_name_or_with_a_strange_strength_is_refused(text):
    with pytest.raises(SkillError):
        rewrite.parse_lora(text)


def test_a_lora_goes_between_the_checkpoint_and_all_that_use_it():
    graph, notes = rewrite.add_loras(GRAPH, ["detail:0.8"], DEFINITIONS)

    assert graph["13"]["class_type"] == "LoraLoader"
    assert graph["13"]["inputs"] == {
        "model": ["1", 0], "clip": ["1", 1], "lora_name": "detail.safetensors", "strength_model": 0.8, "strength_clip": 0.8,
    }  # fmt: skip
    assert graph["3"]["inputs"]["model"] == ["13", 0]
    assert graph["6"]["inputs"]["clip"] == graph["7"]["inputs"]["clip"] == ["13", 1]
    assert graph["8"]["inputs"]["vae"] == ["1", 2]
    assert GRAPH["3"]["inputs"]["model"] == ["1", 0]
    assert "node 13 (LoraLoader)" in notes[0]


@pytest.mark.parametrize("text", ["detail:abc", "detail.safetensors:0.8:hard", "style/ink:strong:0.5"])
def test_a_lora_strength_that_is_no_number_is_named_as_such(text):
    with pytest.raises(SkillError) as caught:
        rewrite.add_loras(GRAPH, [text], DEFINITIONS)

    assert caught.value.code == "bad_lora"
    assert "is not a number" in caught.value.message and "the server has no" not in caught.value.message


def test_several_loras_form_a_chain():
    graph, _ = rewrite.add_loras(GRAPH, ["detail:0.8", "ink:0.5:0.1"], DEFINITIONS)

    assert graph["14"]["inputs"]["model"] == ["13", 0]
    assert graph["14"]["inputs"]["lora_name"] == "style/ink.safetensors"
    assert (graph["14"]["inputs"]["strength_model"], graph["14"]["inputs"]["strength_clip"]) == (0.5, 0.1)
    assert graph["3"]["inputs"]["model"] == ["14", 0]
    assert graph["6"]["inputs"]["clip"] == ["14", 1]


SPLIT = {
    "1": {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "flux1-dev.safetensors", "weight_dtype": "default"},
    },
    "2": {"class_type": "DualCLIPLoader", "inputs": {"clip_name1": "a", "clip_name2": "b", "type": "flux"}},
    "4": {"class_type": "ModelSamplingFlux", "inputs": {"model": ["1", 0], "max_shift": 1.15}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "x", "clip": ["2", 0]}},
    "7": {"class_type": "BasicGuider", "inputs": {"model": ["4", 0], "conditioning": ["6", 0]}},
    "8": {
        "class_type": "BasicScheduler",
        "inputs": {"model": ["1", 0], "scheduler": "simple", "steps": 4, "denoise": 1.0},
    },
}


@pytest.mark.parametrize("definitions", [DEFINITIONS, None], ids=["definitions", "catalog"])
def test_a_split_model_gets_a_lora_on_the_model_alone(definitions):
    graph, _ = rewrite.add_loras(SPLIT, ["detail.safetensors"], definitions)

    assert graph["9"]["class_type"] == "LoraLoaderModelOnly"
    assert graph["4"]["inputs"]["model"] == graph["8"]["inputs"]["model"] == ["9", 0]
    assert graph["6"]["inputs"]["clip"] == ["2", 0]


def test_a_clip_strength_patches_the_text_encoder_too():
    graph, _ = rewrite.add_loras(SPLIT, ["detail:1:0.5"], DEFINITIONS)

    assert graph["9"]["class_type"] == "LoraLoader"
    assert graph["9"]["inputs"]["clip"] == ["2", 0]
    assert graph["6"]["inputs"]["clip"] == ["9", 1]


HALVES = {
    "1": {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "wan2.2_high_noise.safetensors", "weight_dtype": "default"},
    },
    "2": {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "wan2.2_low_noise.safetensors", "weight_dtype": "default"},
    },
    "3": {"class_type": "KSamplerAdvanced", "inputs": {"model": ["1", 0]}},
    "4": {"class_type": "KSamplerAdvanced", "inputs": {"model": ["2", 0]}},
}


def test_of_two_halves_the_loras_name_chooses_else_it_is_refused():
    graph, _ = rewrite.add_loras(HALVES, ["speed_high_noise"], DEFINITIONS)
    assert graph["3"]["inputs"]["model"] == ["5", 0]
    assert graph["4"]["inputs"]["model"] == ["2", 0]

    with pytest.raises(SkillError) as caught:
        rewrite.add_loras(HALVES, ["detail"], DEFINITIONS)
    assert caught.value.code == "lora_unclear"


def test_a_lora_that_the_server_lacks_is_refused_with_the_nearest():
    with pytest.raises(SkillError) as caught:
        rewrite.add_loras(GRAPH, ["detial"], DEFINITIONS)

    assert caught.value.code == "not_in_list"
    assert "detail.safetensors" in caught.value.hint


def test_a_graph_without_a_model_takes_no_lora():
    with pytest.raises(SkillError) as caught:
        rewrite.add_loras(
            {"1": {"class_type": "OpenAIGPTImage1", "inputs": {"prompt": "x"}}}, ["detail"], DEFINITIONS
        )
    assert caught.value.code == "lora_unclear"


RECENT = json.loads(
    (Path(__file__).parent.parent / "data/graph/definitions_033.json").read_text(encoding="utf-8")
)
TYPED = {
    "1": {"class_type": "ComfyMathExpression", "inputs": {"expression": "a", "values.a": 1}},
    "2": {"class_type": "ComfyNumberConvert", "inputs": {"value": 1}},
    "3": {"class_type": "ImageCropV2", "inputs": {"image": ["9", 0]}},
    "4": {"class_type": "LTXVEmptyLatentAudio", "inputs": {"frame_rate": 25}},
    "5": {"class_type": "CurveEditor", "inputs": {}},
    "6": {"class_type": "CreateBoundingBoxes", "inputs": {}},
    "7": {"class_type": "ColorToRGBInt", "inputs": {}},
    "8": {"class_type": "BuildJsonPromptIdeogram", "inputs": {}},
    "10": {"class_type": "ImageCompositor", "inputs": {}},
    "11": {"class_type": "Preview3D", "inputs": {}},
    "12": {"class_type": "ConvertArrayToString", "inputs": {}},
}
BOX = {"x": 1, "y": 2, "width": 8, "height": 9}


@pytest.mark.parametrize(
    ("address", "value", "expected"),
    [
        ("1.values.a", "5", 5),
        ("1.values.a", "1.5", 1.5),
        ("1.values.a", "true", True),
        ("1.values.a", 5, 5),
        ("1.values.a", False, False),
        ("1.values.b", "7", 7),
        ("2.value", "5", 5),
        ("2.value", "false", False),
        ("2.value", "no", "no"),
        ("2.value", "a word", "a word"),
        ("4.frame_rate", "24", 24),
        ("4.frame_rate", "23.976", 23.976),
        ("3.crop_region", json.dumps(BOX), BOX),
        ("3.crop_region", BOX, BOX),
        ("5.curve", '{"points": [[0, 0], [1, 1]]}', {"points": [[0, 0], [1, 1]]}),
        ("6.editor_state", json.dumps([BOX]), {"__value__": [BOX]}),
        ("6.editor_state", {"__value__": [BOX]}, {"__value__": [BOX]}),
        ("7.color", "#ff0000", "#ff0000"),
        ("8.color_palette", '["#ffffff"]', {"__value__": ["#ffffff"]}),
        ("10.compositor", "{}", {}),
        ("11.model_file", "mesh.glb", "mesh.glb"),
        ("12.array", "[1, 2]", {"__value__": [1, 2]}),
    ],
)
def test_inputs_of_several_types_and_of_plain_json_take_values(address, value, expected):
    filled = fill({address: value}, RECENT, TYPED)
    node_id, _, name = address.partition(".")
    found = filled.graph[node_id]["inputs"][name]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("address", "value", "code"),
    [
        ("1.values.a", "a word", "wrong_type"),
        ("1.values.a", "{}", "wrong_type"),
        ("4.frame_rate", "true", "wrong_type"),
        ("4.frame_rate", "0", "out_of_range"),
        ("3.crop_region", "5", "wrong_type"),
        ("3.crop_region", '{"x": 1}', "wrong_type"),
        ("5.curve", "[1]", "wrong_type"),
        ("6.editor_state", "{}", "wrong_type"),
        ("8.element", "{}", "wrong_type"),
    ],
)
def test_values_that_do_not_fit_are_refused(address, value, code):
    assert refusal({address: value}, RECENT, TYPED).code == code
