"""Blueprints become workflows that run: loaders, savers and values at their open ends."""

from __future__ import annotations

import pytest

from blueprint_files import blueprint
from comfyskill.editor import blueprint as blueprints
from comfyskill.editor import convert
from editor_files import DEFINITIONS


@pytest.fixture
def completed():
    return blueprints.complete(blueprint())


@pytest.fixture
def graph(completed):
    return convert.convert(completed.document, DEFINITIONS).graph


def one(graph, class_type):
    found = [(key, node) for key, node in graph.items() if node["class_type"] == class_type]
    assert len(found) == 1, class_type
    return found[0]


def test_required_inputs_get_loaders_named_as_the_blueprint_names_them(completed, graph):
    assert completed.added[:2] == ["image (LoadImage)", "over (LoadImage)"]
    loaders = {key: node for key, node in graph.items() if node["class_type"] == "LoadImage"}
    assert sorted(node["_meta"]["title"] for node in loaders.values()) == ["image", "over"]
    assert {node["inputs"]["image"] for node in loaders.values()} == {"image.png", "over.png"}
    linked = {graph["5:2"]["inputs"]["image"][0], graph["5:1"]["inputs"]["source"][0]}
    assert linked == set(loaders)


def test_an_optional_input_stays_open(graph):
    assert "mask" not in graph["5:1"]["inputs"]


def test_an_input_that_nothing_loads_is_named(completed, graph):
    assert completed.unlinked == ["points (POINTS)"]
    assert "model" not in graph["5:3"]["inputs"]


def test_each_output_is_kept(completed, graph):
    assert completed.added[2:] == ["IMAGE (SaveImage)", "LATENT (PreviewAny)"]
    assert one(graph, "SaveImage")[1]["inputs"]["images"] == ["5:1", 0]
    assert one(graph, "PreviewAny")[1]["inputs"]["source"] == ["5:3", 0]


@pytest.mark.parametrize("as_objects", [False, True])
def test_an_output_that_is_saved_inside_gets_no_second_saver(as_objects):
    document = blueprint()
    graph = document["definitions"]["subgraphs"][0]
    slot = {"name": "images", "type": "IMAGE", "link": 9}
    graph["nodes"].append({"id": 4, "type": "SaveImage", "inputs": [slot], "widgets_values": ["x"]})
    graph["links"].append([9, 1, 0, 4, 0, "IMAGE"] if not as_objects else {
        "id": 9, "origin_id": 1, "origin_slot": 0, "target_id": 4, "target_slot": 0, "type": "IMAGE"})  # fmt: skip
    assert "IMAGE (SaveImage)" not in blueprints.complete(document).added


def test_a_value_that_the_file_lacks_is_the_inner_widgets(graph):
    assert graph["5:2"]["inputs"]["blur_radius"] == 9
    assert graph["5:3"]["inputs"]["seed"] == 7


def test_what_is_linked_already_stays(completed):
    again = blueprints.complete(completed.document)
    assert again.added == []
    assert again.document["nodes"] == completed.document["nodes"]


def test_the_document_that_was_passed_stays_as_it_was():
    document = blueprint()
    blueprints.complete(document)
    assert document == blueprint()


@pytest.mark.parametrize(
    "document", [{}, {"nodes": [None, {"id": 1, "type": "x"}]}, {"nodes": 1, "links": "a"}]
)
def test_a_damaged_blueprint_is_passed_on(document):
    assert blueprints.complete(document).added == []
