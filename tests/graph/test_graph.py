"""Graphs taken out of their documents, and the facts read off them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comfyskill.base.cli import SkillError
from comfyskill.graph import facts, nodes

DEFINITIONS = json.loads(
    (Path(__file__).parent.parent / "data/graph/definitions.json").read_text(encoding="utf-8")
)
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}
EDITOR = {"nodes": [{"id": 1, "type": "EmptyImage"}], "links": [], "version": 0.4}


@pytest.mark.parametrize(
    "document",
    [
        GRAPH,
        {"prompt": GRAPH},
        {"prompt": GRAPH, "client_id": "c", "extra_data": {}},
        {"workflow": GRAPH},
        {"output": GRAPH, "workflow": EDITOR},
        {"prompt": json.dumps(GRAPH), "workflow": json.dumps(EDITOR)},
        [7, "id", GRAPH, {}, ["2"]],
        {"prompt": [7, "id", GRAPH, {}, ["2"]], "outputs": {}, "status": {}},
        {"0b0e-id": {"prompt": [7, "id", GRAPH, {}, ["2"]], "outputs": {}}},
        {"id": "x", "status": "completed", "workflow": {"prompt": GRAPH, "extra_data": {}}},
        {**GRAPH, "_comment": "made by hand", "version": 3},
    ],
    ids=[
        "bare",
        "prompt",
        "request",
        "workflow",
        "both",
        "chunks",
        "queue",
        "entry",
        "history",
        "job",
        "stray",
    ],
)
def test_a_graph_is_found_in_every_wrapping(document):
    found = nodes.unwrap(document)

    assert found.kind == "api"
    assert found.graph == GRAPH


def test_an_editor_file_is_told_from_a_graph():
    assert nodes.unwrap(EDITOR).kind == "editor"
    assert nodes.unwrap({"workflow": EDITOR}).editor == EDITOR
    assert (
        nodes.unwrap({"prompt": GRAPH, "extra_data": {"extra_pnginfo": {"workflow": EDITOR}}}).editor
        == EDITOR
    )


def test_credentials_saved_with_a_workflow_are_left_out():
    found = nodes.unwrap(
        {"prompt": GRAPH, "extra_data": {"api_key_comfy_org": "SECRET", "custom": 1, "client_id": "c"}}
    )

    assert found.extra_data == {"custom": 1}
    assert "SECRET" not in repr(found)
    assert any("credential" in note for note in found.notes)


def test_links_by_number_and_missing_inputs_are_mended_and_said():
    found = nodes.unwrap(
        {"1": {"class_type": "EmptyImage"}, "2": {"class_type": "SaveImage", "inputs": {"images": [1, 0]}}}
    )

    assert found.graph["1"]["inputs"] == {}
    assert found.graph["2"]["inputs"]["images"] == ["1", 0]
    assert len(found.notes) == 2


def test_the_document_is_left_as_it_was():
    document = {
        "prompt": {
            "1": {"class_type": "A", "inputs": {"x": [2, 0]}, "is_changed": [1]},
            "2": {"class_type": "B"},
        }
    }
    before = json.dumps(document)
    nodes.unwrap(document)

    assert json.dumps(document) == before


@pytest.mark.parametrize(
    "document", [{}, [], None, 5, "text", {"a": 1}, {"prompt": {}}, {"nodes": 3}, [1, 2, 3]]
)
def test_what_is_no_workflow_is_refused_in_one_sentence(document):
    with pytest.raises(SkillError) as caught:
        nodes.unwrap(document)

    assert caught.value.code == "not_a_workflow"
    assert caught.value.exit == 2
    assert "\n" not in str(caught.value)


def test_a_link_is_a_list_of_an_id_and_a_whole_number():
    assert nodes.link_of(["12:3", 0]) == ("12:3", 0)
    assert nodes.link_of([7, -1]) == ("7", -1)
    for value in (
        ["1", "0"],
        ["1"],
        ["1", 0, 0],
        [None, 0],
        [True, 0],
        ["1", True],
        "1",
        {"__value__": ["1", 0]},
    ):
        assert nodes.link_of(value) is None


def test_outputs_are_known_with_and_without_definitions():
    graph = {
        **GRAPH,
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Look"}},
    }
    for definitions in (DEFINITIONS, None):
        found = facts.outputs_of(graph, definitions)
        assert [(o.node_id, o.title, o.preview) for o in found] == [
            ("2", "SaveImage", False),
            ("3", "Look", True),
        ]


def test_partner_nodes_come_from_the_flag_else_from_the_name():
    graph = {
        "1": {"class_type": "OpenAIGPTImage1", "inputs": {}},
        "2": {"class_type": "EmptyImage", "inputs": {}},
        "3": {"class_type": "WanImageToVideo", "inputs": {}},
        "4": {"class_type": "SomethingNew", "inputs": {}},
    }
    assert facts.partner_nodes(graph, DEFINITIONS) == ["1"]
    assert facts.partner_nodes(graph, None) == ["1"]
    assert facts.partner_nodes(graph, {"SomethingNew": {"input": {}, "api_node": True}}) == ["1", "4"]


@pytest.mark.parametrize(
    ("definition", "partner"),
    [
        ({"category": "partner/image/New"}, ["1"]),
        ({"category": "api node/image/New"}, ["1"]),
        ({"category": "api node/image/New", "api_node": False}, []),  # a helper that calls nobody
        ({"category": "image"}, []),
    ],
)
def test_a_definition_without_the_flag_tells_a_partner_node_by_its_category(definition, partner):
    graph = {"1": {"class_type": "SomethingNew", "inputs": {}}}
    assert facts.partner_nodes(graph, {"SomethingNew": {"input": {}, **definition}}) == partner


def test_partner_nodes_that_are_newer_than_the_definitions_are_known_by_name():
    newer = (
        "GrokVideoNode",
        "ClaudeNode",
        "ElevenLabsTextToSpeech",
        "Wan3ImageToVideoApi",
        "Flux3ImageNode",
        "HeyGenAvatarVideoNode",
    )
    own = (
        "TripoSplatConditioning",
        "Ideogram4Scheduler",
        "FluxKVCache",
        "Flux3LayoutPrompt",
        "WanAnimate2ToVideo",
    )
    graph = {name: {"class_type": name, "inputs": {}} for name in (*newer, *own)}
    assert set(facts.partner_nodes(graph, {"EmptyImage": {"input": {}}})) == set(newer)


def test_models_are_named_with_their_folders_and_values_that_are_no_files_left_out():
    graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
        "2": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}},
        "3": {"class_type": "DualCLIPLoader", "inputs": {"clip_name1": "c1.safetensors", "clip_name2": "c2.gguf"}},
        "4": {"class_type": "Power Lora Loader (rgthree)", "inputs": {
            "lora_1": {"on": True, "lora": "x.safetensors", "strength": 1}, "lora_2": {"on": False, "lora": "y.safetensors"}}},
        "5": {"class_type": "UnheardOf", "inputs": {"weights": "net.pth", "title": "no model"}},
        "6": {"class_type": "CLIPVisionLoader", "inputs": {"clip_name": "v.safetensors"}},
    }  # fmt: skip
    assert [(use.name, use.folder) for use in facts.models_in(graph)] == [
        ("a.safetensors", "checkpoints"),
        ("c1.safetensors", "text_encoders"),
        ("c2.gguf", "text_encoders"),
        ("x.safetensors", "loras"),
        ("net.pth", None),
        ("v.safetensors", "clip_vision"),
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a cat, embedding:easynegative", ["easynegative"]),
        ("(embedding:bad-hands-5:1.2), embedding:sub/x.pt.", ["bad-hands-5", "sub/x.pt"]),
        ("no embedding here", []),
    ],
)
def test_embeddings_are_read_out_of_texts(text, names):
    graph = {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": text}}}
    assert [use.name for use in facts.embeddings_in(graph)] == names


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("embedding:x, blurry", []),
        ("ugly\nembedding:x", []),
        ("(a:1.1)embedding:x (embedding:y, z:1.2) {embedding:z|b}", []),
        ("embedding:x,blurry", ["embedding:x,blurry"]),
        ("ugly,embedding:x, blurry", [",embedding:x,"]),
        ("embedding:x:1.2", ["embedding:x:1.2"]),
        ("embedding:x.", ["embedding:x."]),
        (r"\(embedding:x\)", [r"(embedding:x\\"[:-1]]),
    ],
)
def test_an_embedding_that_comfyui_overlooks_is_told_apart(text, written):
    graph = {"1": {"class_type": "CLIPTextEncode", "inputs": {"text": text}}}
    found = facts.embeddings_in(graph)
    assert {use.name for use in found} <= {"x", "y", "z"}
    assert [use.written for use in found if use.written] == written


def test_steps_are_counted_over_stages_and_through_links():
    graph = {
        "1": {
            "class_type": "KSamplerAdvanced",
            "inputs": {"steps": 20, "start_at_step": 0, "end_at_step": 8},
        },
        "2": {
            "class_type": "KSamplerAdvanced",
            "inputs": {"steps": ["9", 0], "start_at_step": 8, "end_at_step": 10000},
        },
        "9": {"class_type": "PrimitiveInt", "inputs": {"value": 20}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "other": ["1", 0]}},
        "4": {"class_type": "KSampler", "inputs": {"steps": 999}},
    }
    assert facts.sampling_steps(graph) == 20


def test_videos_are_told_from_pictures():
    assert not facts.is_video(GRAPH, DEFINITIONS)
    assert facts.is_video({"1": {"class_type": "KlingImage2VideoNode", "inputs": {}}}, DEFINITIONS)
    assert facts.is_video({"1": {"class_type": "VHS_VideoCombine", "inputs": {}}}, None)
    assert not facts.is_video({"1": {"class_type": "LoadVideo", "inputs": {}}, **GRAPH}, DEFINITIONS)


def test_upstream_survives_cycles():
    graph = {
        "1": {"class_type": "A", "inputs": {"x": ["2", 0]}},
        "2": {"class_type": "A", "inputs": {"x": ["1", 0]}},
    }
    assert nodes.upstream_of(graph, ["1"]) == {"1", "2"}
