"""Inputs described for a person: ranges, names of inputs that grow, inputs that a choice brings."""

from __future__ import annotations

import json
from pathlib import Path

from comfyskill.graph.describe import described
from comfyskill.graph.specs import read_spec

DEFINITIONS = json.loads(
    (Path(__file__).parent.parent / "data/graph/definitions_033.json").read_text(encoding="utf-8")
)


def of(class_type, name, section="required", **options):
    raw = DEFINITIONS[class_type]["input"][section][name]
    return described(read_spec(name, raw, section == "required"), **options)


def test_a_group_with_a_prefix_says_its_names_and_what_each_takes():
    assert of("BatchImagesNode", "images")["autogrow"] == {
        "prefix": "images.image",
        "names": ["images.image0", "images.image1"],
        "min": 1,
        "max": 50,
        "element": {"type": "IMAGE"},
    }


def test_a_group_with_names_lists_them():
    found = of("ComfyMathExpression", "values")["autogrow"]
    assert found["names"][:3] == ["values.a", "values.b", "values.c"]
    assert (found["min"], found["max"], found["element"]["type"]) == (1, 26, "FLOAT,INT,BOOLEAN")
    assert len(of("ComfyMathExpression", "values", full=True)["autogrow"]["names"]) == 26


def test_a_group_of_optional_inputs_requires_none():
    raw = ["COMFY_AUTOGROW_V3", {"template": {"input": {"required": {}, "optional": {"x": ["INT", {"max": 9}]}},
                                             "names": ["a", "b"], "min": 2}}]  # fmt: skip
    found = described(read_spec("xs", raw, True))["autogrow"]
    assert found == {"names": ["xs.a", "xs.b"], "min": 0, "max": 2, "element": {"type": "INT", "max": 9}}


def test_the_inputs_of_each_choice_are_shown_by_full_name():
    found = of("ResizeImageMaskNode", "resize_type")["inputs_by_choice"]
    assert found["scale dimensions"]["resize_type.width"] == {
        "type": "INT", "default": 512, "min": 0, "max": 16384, "step": 1,
    }  # fmt: skip
    assert "resize_type.multiplier" in found["scale by multiplier"]


def test_dynamic_combos_nested_three_deep_are_shown_to_the_end():
    codec = of("SaveVideo", "format")["inputs_by_choice"]["mp4"]["format.codec"]
    encoding = codec["inputs_by_choice"]["h264"]["format.codec.encoding"]
    assert encoding["optional"] is True
    assert encoding["inputs_by_choice"]["re-encode"]["format.codec.encoding.crf"]["max"] == 51.0


def test_types_that_any_input_may_match_are_named():
    assert of("ResizeImageMaskNode", "input")["allowed_types"] == "IMAGE,MASK"


def test_long_lists_are_cut_unless_full():
    raw = ["COMBO", {"options": [f"file {number}.safetensors" * 2 for number in range(300)]}]
    spec = read_spec("name", raw, True)
    cut, whole = described(spec), described(spec, full=True)
    assert (len(cut["choices"]), cut["choices_count"], "choices_hint" in cut) == (20, 300, True)
    assert len(whole["choices"]) == 300


def test_definitions_of_another_shape_are_no_reason_to_fail():
    for kind in ("COMFY_AUTOGROW_V3", "COMFY_DYNAMICCOMBO_V3", "COMFY_DYNAMICSLOT_V3", "COMFY_MATCHTYPE_V3"):
        for options in ({}, {"template": 3}, {"options": [5, {"key": None, "inputs": 3}]}, {"inputs": [1]}):
            assert described(read_spec("x", [kind, options], True))["type"] == kind
