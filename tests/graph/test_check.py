"""Checks: what the server rejects is rejected, what it accepts is no error, and what runs but is wrong is said."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from comfyskill.graph import check

DATA = Path(__file__).parent.parent / "data/graph"
DEFINITIONS = json.loads((DATA / "definitions.json").read_text(encoding="utf-8"))
RECORDED = json.loads((DATA / "recorded_validation.json").read_text(encoding="utf-8"))

# What a real server (0.8.0) calls it -> what we call it.
SAME = {
    "required_input_missing": {"required_input_missing"},
    "value_not_in_list": {"not_in_list"},
    "value_smaller_than_min": {"too_small"},
    "value_bigger_than_max": {"too_big"},
    "invalid_input_type": {"wrong_type"},
    "bad_linked_input": {"bad_link"},
    "return_type_mismatch": {"type_mismatch"},
    "custom_validation_failed": {"file_missing"},
    "exception_during_validation": {"link_to_nowhere", "bad_slot", "bad_link", "no_inputs"},
    "exception_during_inner_validation": {"link_to_nowhere", "bad_slot", "bad_link", "no_inputs"},
}


@pytest.mark.parametrize("case", RECORDED["cases"], ids=lambda case: case["name"])
def test_the_verdict_is_the_recorded_servers(case):
    found = check.findings(case["prompt"], RECORDED["definitions"])
    errors = [finding for finding in found if finding.severity == "error"]

    assert bool(errors) == (case["status"] != 200 or bool(case["node_errors"])), [f.message for f in found]
    for kinds in case["node_errors"].values():
        for kind in kinds:
            assert {finding.code for finding in errors} & SAME[kind], (kind, errors)
    assert all(finding.message and finding.fix for finding in found)


def test_the_recording_holds_both_verdicts():
    statuses = {case["status"] for case in RECORDED["cases"]}
    assert statuses == {200, 400, 500}
    assert len(RECORDED["cases"]) > 50


def image(**changes):
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
        "3": {"class_type": "KSampler", "inputs": {
            "model": ["1", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0], "seed": 5, "steps": 20,
            "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["1", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad", "clip": ["1", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "out"}},
    }  # fmt: skip
    for key, value in changes.items():
        node_id, _, name = key.partition("__")
        graph[node_id.lstrip("n")]["inputs"][name] = value
    return graph


def codes(graph, definitions=DEFINITIONS, **options):
    return {(f.severity, f.code, f.node_id) for f in check.findings(graph, definitions, **options)}


def test_a_sound_graph_has_no_findings():
    assert check.findings(image(), DEFINITIONS) == []


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (image(n5__width=1020), ("warning", "size_not_on_grid", "5")),
        (image(n3__negative=["6", 0]), ("warning", "same_prompts", "3")),
        (image(n5__width=512, n5__height=512), ("warning", "size_for_family", "5")),
        (image(n3__steps=20.5), ("warning", "value_changed", "3")),
        (image(n6__text=None), ("warning", "value_changed", "6")),
        (image(n8__vae="sdxl"), ("warning", "value_for_link", "8")),
    ],
    ids=["grid", "one encoder", "family", "cut number", "made text", "value for link"],
)
def test_what_runs_but_is_wrong_is_a_warning(graph, expected):
    found = codes(graph)
    assert expected in found
    assert not [one for one in found if one[0] == "error"]


def test_one_encoder_for_both_sides_is_fine_without_guidance():
    assert codes(image(n3__negative=["6", 0], n3__cfg=1.0)) == {("info", "dead_branch", None)}


@pytest.mark.parametrize(
    ("value", "severity"),
    [
        ("gone.png", "error"),
        (7, "error"),
        (True, "error"),
        ("sub/x.png", "warning"),
        ("x.png [output]", "warning"),
        (f"blake3:{'0' * 64}", "warning"),
        ("", "warning"),
    ],
)
def test_a_file_that_cannot_be_looked_up_is_no_error(value, severity):
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": value}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    assert codes(graph) == {(severity, "file_missing", "1")}


def test_a_false_as_text_is_told():
    graph = {
        "1": {"class_type": "PrimitiveBoolean", "inputs": {"value": "false"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }
    (found,) = [f for f in check.findings(graph, DEFINITIONS) if f.code == "value_changed"]
    assert "'false' to true" in found.message


def test_a_lora_that_nothing_uses_is_told_from_other_dead_ends():
    graph = image()
    graph["20"] = {
        "class_type": "LoraLoader",
        "inputs": {
            "model": ["1", 0],
            "clip": ["1", 1],
            "lora_name": "detail.safetensors",
            "strength_model": 1.0,
            "strength_clip": 1.0,
        },
    }
    graph["21"] = {"class_type": "EmptyImage", "inputs": {"width": -5}}
    found = codes(graph)

    assert ("warning", "lora_unused", "20") in found
    assert ("info", "dead_branch", None) in found
    assert not [one for one in found if one[0] == "error"]


def test_a_lora_without_strength_is_told():
    graph = image(n3__model=["20", 0])
    graph["20"] = {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {"model": ["1", 0], "lora_name": "detail.safetensors", "strength_model": 0},
    }
    assert ("warning", "lora_without_strength", "20") in codes(graph)


def test_a_picture_mask_turned_over_before_inpainting_is_told():
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
        "2": {"class_type": "InvertMask", "inputs": {"mask": ["1", 1]}},
        "3": {
            "class_type": "VAEEncodeForInpaint",
            "inputs": {"pixels": ["1", 0], "vae": ["4", 0], "mask": ["2", 0], "grow_mask_by": 6},
        },
        "4": {"class_type": "VAELoader", "inputs": {"vae_name": "ae.safetensors"}},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 0]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}},
    }
    assert ("warning", "mask_inverted", "3") in codes(graph)
    graph["3"]["inputs"]["mask"] = ["1", 1]
    assert ("warning", "mask_inverted", "3") not in codes(graph)


def test_frames_off_the_grid_are_told_with_the_nearest():
    graph = {"1": {"class_type": "EmptyHunyuanLatentVideo", "inputs": {"width": 640, "height": 480, "length": 80, "batch_size": 1}},
             "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}  # fmt: skip
    (found,) = [f for f in check.findings(graph, DEFINITIONS) if f.code == "size_not_on_grid"]

    assert found.fix == "use 77 or 81"


def test_deprecated_classes_are_told_with_their_successor():
    old = {**DEFINITIONS, "ImageInvert": {**DEFINITIONS["ImageInvert"], "deprecated": True}}
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }
    assert ("warning", "deprecated", "2") in codes(graph, old)
    (found,) = check.findings(
        graph, DEFINITIONS, replacements={"ImageInvert": [{"new_node_id": "InvertNew"}]}
    )
    assert "InvertNew" in found.fix


def test_a_class_that_only_our_part_of_the_definitions_lacks_is_no_error():
    graph = image()
    graph["30"] = {"class_type": "PackNode", "inputs": {}}

    assert ("error", "unknown_class", "30") in codes(graph)
    assert ("info", "not_checked", None) in codes(graph, complete=False)
    assert not [one for one in codes(graph, complete=False) if one[0] == "error"]


def test_without_definitions_the_wiring_is_still_checked():
    broken = image(n9__images=["88", 0])
    circle = image(n8__samples=["8", 0])

    assert ("warning", "link_to_nowhere", "9") in codes(broken, None)
    assert ("error", "cycle", "8") in codes(circle, None)
    assert not [one for one in codes(image(), None) if one[0] == "error"]


def test_a_class_that_the_conversion_could_not_make_is_unknown_and_a_path():
    graph = image(n9__images=["30", 0], n3__model=["20", 0])
    graph["20"] = {
        "class_type": "LoraLoaderModelOnly",
        "inputs": {"model": ["1", 0], "lora_name": "gone.safetensors", "strength_model": 1.0},
    }
    graph["30"] = {"inputs": {"image": ["8", 0]}, "_meta": {"title": "Quux", "missing_type": "SharpenQuux"}}

    found = check.findings(graph, DEFINITIONS)

    told = {(f.code, f.node_id, f.class_type) for f in found}
    assert told == {
        ("unknown_class", "30", "SharpenQuux"),
        ("not_in_list", "20", "LoraLoaderModelOnly"),
    }


def test_what_an_unknown_class_draws_from_is_checked_also_when_it_is_the_end():
    graph = image()
    graph["9"]["class_type"] = "QuuxWriter"
    graph["1"]["inputs"]["ckpt_name"] = "gone.safetensors"

    assert codes(graph) == {("error", "unknown_class", "9"), ("error", "not_in_list", "1")}


def test_a_value_that_is_like_none_of_the_list_is_answered_with_the_list():
    (found,) = check.findings(image(n3__sampler_name="foo"), DEFINITIONS)

    assert found.fix.startswith("set one of: 'euler', ")
    assert found.fix.count(", ") > 12


def test_a_missing_model_is_first_to_be_fetched():
    (found,) = check.findings(image(n1__ckpt_name="nosuch.safetensors"), DEFINITIONS)

    assert found.fix.startswith("get the file (check_deps.py lists sources), or ")


def test_an_unknown_class_names_its_likely_meaning():
    graph = image()
    graph["8"]["class_type"] = "VAEDecoed"
    (found,) = [f for f in check.findings(graph, DEFINITIONS) if f.code == "unknown_class"]

    assert "VAEDecode" in found.fix


def test_a_mismatch_names_the_slot_that_fits():
    (found,) = [f for f in check.findings(image(n8__vae=["1", 1]), DEFINITIONS) if f.severity == "error"]

    assert (found.code, found.fix) == ("type_mismatch", "link it to 1 slot 2")


def test_a_deep_chain_is_told_before_the_server_gives_up():
    graph = {
        "0": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
    }
    for index in range(1, 5000):
        graph[str(index)] = {"class_type": "ImageInvert", "inputs": {"image": [str(index - 1), 0]}}
    graph["end"] = {"class_type": "SaveImage", "inputs": {"images": ["4999", 0], "filename_prefix": "x"}}
    started = time.process_time()
    found = codes(graph)

    assert time.process_time() - started < 1
    assert found == {("warning", "too_deep", None)}


def test_many_cycles_are_found_in_linear_time():
    graph = {
        str(i): {
            "class_type": "ImageBatch",
            "inputs": {"image1": [str((i + 1) % 3000), 0], "image2": ["0", 0]},
        }
        for i in range(3000)
    }
    graph["end"] = {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "x"}}
    started = time.process_time()
    found = codes(graph)

    assert time.process_time() - started < 1.5
    assert any(code == "cycle" for _, code, _ in found)


RECENT = json.loads(
    (Path(__file__).parent.parent / "data/graph/definitions_033.json").read_text(encoding="utf-8")
)


def recent(*, earlier: bool = False, **nodes):
    """What is found in a graph of these nodes, by (severity, code, input), with definitions of 0.33 or as 0.8.0 sent them."""
    graph = {
        "picture": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        **{name.lstrip("n"): {"class_type": class_type, "inputs": inputs} for name, (class_type, inputs) in nodes.items()},
    }  # fmt: skip
    definitions = {
        name: {key: value for key, value in definition.items() if key != "is_input_list" or not earlier}
        for name, definition in RECENT.items()
    }
    found = check.findings(graph, definitions)
    return {(f.severity, f.code, f.input) for f in found if f.code not in ("dead_branch", "only_previews")}


SHOW = ("PreviewAny", {"source": ["1", 0]})
IMAGE = ["picture", 0]


def test_the_first_inputs_of_a_group_are_required_where_the_server_requires_them():
    batch = ("BatchImagesNode", {"images.image1": IMAGE})
    missing = ("error", "required_input_missing", "images.image0")
    assert missing in recent(n1=batch, n2=SHOW)
    assert recent(n1=batch, n2=SHOW, earlier=True) == set()
    assert recent(n1=("BatchImagesNode", {"images.image0": IMAGE}), n2=SHOW) == set()


def test_a_group_given_as_one_input_is_named():
    found = recent(n1=("BatchImagesNode", {"images.image0": IMAGE, "images": "x"}), n2=SHOW)
    assert ("warning", "ignored_input", "images") in found
    found = recent(n1=("BatchImagesNode", {"images.image0": IMAGE, "images.image99": IMAGE}), n2=SHOW)
    assert ("warning", "undeclared_link", "images.image99") in found


@pytest.mark.parametrize(
    "node",
    [
        ("ImageCropV2", {"image": IMAGE, "crop_region": {"x": 0, "y": 0, "width": 8, "height": 8}}),
        ("ComfyMathExpression", {"expression": "a", "values.a": 3}),
        ("ComfyNumberConvert", {"value": "3"}),
        (
            "LTXVEmptyLatentAudio",
            {"frames_number": 97, "frame_rate": 25, "batch_size": 1, "audio_vae": ["9", 0]},
        ),
        ("ColorToRGBInt", {"color": "#ffffff"}),
        ("CurveEditor", {"curve": {"points": [[0, 0], [1, 1]]}}),
        ("ConvertArrayToString", {"array": {"__value__": [1]}}),
    ],
)
def test_values_of_several_types_and_of_plain_json_are_no_missing_links(node):
    assert not {code for _, code, _ in recent(n1=node, n2=SHOW)} & {"value_for_link", "wrong_type"}


def test_a_text_cannot_be_compared_with_a_minimum():
    node = ("LTXVEmptyLatentAudio", {"frames_number": 97, "frame_rate": "25", "batch_size": 1})
    assert ("error", "wrong_type", "frame_rate") in recent(n1=node, n2=SHOW)


def test_a_list_for_a_choice_is_not_looked_at_by_the_server():
    for value in (["picture", 0], ["nowhere", 0], []):
        node = ("ResizeImageMaskNode", {"input": IMAGE, "resize_type": value, "scale_method": "area"})
        found = recent(n1=node, n2=SHOW)
        assert ("warning", "bad_link", "resize_type") in found
        assert not [one for one in found if one[0] == "error"]


def test_choices_nested_three_deep_are_checked():
    video = {"video": ["7", 0], "filename_prefix": "x", "format": "mp4", "format.codec": "h264",
             "format.codec.encoding": "re-encode", "format.codec.encoding.crf": 99.0,
             "format.codec.encoding.color_space": "auto"}  # fmt: skip
    found = recent(n1=("SaveVideo", video))
    assert ("error", "too_big", "format.codec.encoding.crf") in found
    old = {"video": ["7", 0], "filename_prefix": "x", "format": "mp4", "codec": "h264"}
    assert {code for _, code, _ in recent(n1=("SaveVideo", old))} <= {"link_to_nowhere"}


def test_inputs_that_the_server_ignores_are_named():
    resize = {
        "input": IMAGE,
        "resize_type": "scale by multiplier",
        "resize_type.multiplier": 2.0,
        "scale_method": "area",
    }
    assert recent(n1=("ResizeImageMaskNode", resize), n2=SHOW) == set()
    for extra, severity in (
        ("multiplier", "info"),
        ("width", "warning"),
        ("resize_type.width", "warning"),
        ("nothing", "info"),
    ):
        found = recent(n1=("ResizeImageMaskNode", {**resize, extra: 5}), n2=SHOW)
        assert found == {(severity, "ignored_input", extra)}
    assert recent(n1=("ResizeImageMaskNode", {**resize, "control_after_generate": "fixed"}), n2=SHOW) == set()


def test_what_only_an_undeclared_link_leads_to_is_not_checked_by_the_server():
    extra = {"input": IMAGE, "resize_type": "scale by multiplier", "resize_type.multiplier": 2.0,
             "scale_method": "area", "more": ["3", 0]}  # fmt: skip
    found = recent(n1=("ResizeImageMaskNode", extra), n2=SHOW, n3=("ImageInvert", {}))
    assert found == {("warning", "undeclared_link", "more"), ("warning", "required_input_missing", "image")}
    found = recent(n1=("ImageInvert", {"image": ["3", 0]}), n2=SHOW, n3=("ImageInvert", {}))
    assert ("error", "required_input_missing", "image") in found


def test_the_own_check_of_a_class_stands_in_for_its_list():
    assert ("error", "not_in_list", "device") not in recent(
        n1=("SelectModelDevice", {"device": "gpu:7"}), n2=SHOW
    )


def test_a_replaced_class_is_a_warning_and_its_new_inputs_are_checked():
    table = {"OldLoader": [{"new_node_id": "ControlNetLoader", "old_node_id": "OldLoader",
                            "input_mapping": [{"new_id": "control_net_name", "old_id": "name"}]}]}  # fmt: skip
    graph = {"1": {"class_type": "OldLoader", "inputs": {"name": "a.safetensors"}},
             "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}}  # fmt: skip
    (found,) = [f for f in check.findings(graph, RECENT, replacements=table) if f.code != "only_previews"]
    assert (found.severity, found.code, found.nearest) == ("warning", "replaced_class", ["ControlNetLoader"])
    graph["1"]["inputs"]["name"] = "b.safetensors"
    codes = {(f.severity, f.code, f.input) for f in check.findings(graph, RECENT, replacements=table)}
    assert ("error", "not_in_list", "control_net_name") in codes
    assert {f.code for f in check.findings(graph, RECENT)} >= {"unknown_class"}
