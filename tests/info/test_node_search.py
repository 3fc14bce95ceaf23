"""Node classes are found by their other names, and described with all that a graph can set: pure, on definitions of 0.33."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comfyskill.info import node_search

DATA = Path(__file__).parent.parent / "data"
DEFINITIONS = json.loads((DATA / "graph" / "definitions_033.json").read_text(encoding="utf-8"))


def made(**more):
    return {"input": {"required": {}}, "output": ["IMAGE"], "display_name": "", "category": "c"} | more


def inputs_of(name, section="required"):
    return node_search.describe(DEFINITIONS, name)["inputs"][section]


def test_a_group_that_grows_shows_the_keys_of_a_graph():
    group = inputs_of("BatchImagesNode")["images"]["autogrow"]
    assert group["names"][0] == "images.image0"
    assert (group["min"], group["max"], group["element"]["type"]) == (1, 50, "IMAGE")


def test_the_inputs_of_a_choice_are_shown_three_deep():
    codec = inputs_of("SaveVideo")["format"]["inputs_by_choice"]["mp4"]["format.codec"]
    encoding = codec["inputs_by_choice"]["h264"]["format.codec.encoding"]
    crf = encoding["inputs_by_choice"]["re-encode"]["format.codec.encoding.crf"]
    assert (crf["type"], crf["min"]) == ("FLOAT", 0.0)


def test_a_match_type_shows_the_types_it_allows():
    assert inputs_of("ResizeImageMaskNode")["input"]["allowed_types"] == "IMAGE,MASK"


def test_an_input_without_a_socket_says_so():
    assert inputs_of("ImageCompare")["compare_view"]["socketless"] is True


def test_a_fixed_price_is_a_value():
    badge = {"expr": '{"type":"usd","usd":0.06}', "depends_on": {"widgets": [], "inputs": []}}
    assert node_search.describe({"N": made(price_badge=badge)}, "N")["price_badge"] == {"usd": 0.06}


def test_a_price_that_depends_on_inputs_names_them():
    depends = {"widgets": [{"name": "model", "type": "COMBO"}], "inputs": ["images"]}
    badge = {"expr": "(\n $m :=  widgets.model )", "depends_on": depends}
    price = node_search.describe({"N": made(price_badge=badge)}, "N")["price_badge"]
    assert price == {"depends_on": ["model", "images"], "rule": "( $m := widgets.model )"}


@pytest.mark.parametrize("badge", [None, {}, {"expr": 5}, "x"])
def test_a_node_without_a_price_has_no_badge(badge):
    assert "price_badge" not in node_search.describe({"N": made(price_badge=badge)}, "N")


def test_the_name_comes_before_other_names_and_those_before_descriptions():
    definitions = {
        "Described": made(description="blurs a picture"),
        "Partly": made(search_aliases=["blur a lot", 5]),
        "Alias": made(search_aliases=["Blur"]),
        "Blur": made(),
        "Other": made(search_aliases=None),
    }
    found = [row["class"] for row in node_search.search(definitions, text="blur")]
    assert found == ["Blur", "Alias", "Partly", "Described"]


def test_other_names_and_flags_are_shown():
    definition = made(search_aliases=["soften", "smooth"], has_intermediate_output=True)
    described = node_search.describe({"N": definition}, "N")
    assert described["also_called"] == "soften, smooth"
    assert described["has_intermediate_output"] is True
