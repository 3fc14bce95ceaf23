"""Nodes of widespread packs that live in the browser, and values that only their packs' scripts understand."""

from __future__ import annotations

import pytest

from comfyskill.base.cli import SkillError
from comfyskill.editor import convert
from editor_files import DEFINITIONS, File, with_subgraph


def custom(name, required, output, **more):
    """A definition of a pack's node, as a server gives it."""
    return {
        name: {
            "input": {"required": required},
            "output": output,
            "python_module": "custom_nodes.pack",
            **more,
        }
    }


def inputs(file, node_id, definitions=None):
    return convert.convert(file.document(), DEFINITIONS | (definitions or {})).graph[str(node_id)]["inputs"]


@pytest.mark.parametrize(("setter", "getter"), [("SetNode", "GetNode"), ("easy setNode", "easy getNode")])
def test_a_get_node_hands_out_what_the_set_node_of_its_name_keeps(setter, getter):
    file = File()
    file.node(20, setter, values=["the model"], inputs="MODEL:MODEL", outputs="*")
    file.node(21, setter, values=["the clip"], inputs="CLIP:CLIP", outputs="*")
    file.node(22, getter, values=["the model"], outputs="MODEL")
    file.link(1, 0, 20, "MODEL")
    file.link(1, 1, 21, "CLIP")
    file.link(22, 0, 5, "model")
    made = convert.convert(file.document(), DEFINITIONS)
    assert made.graph["5"]["inputs"]["model"] == ["1", 0]
    assert not {"20", "21", "22"} & set(made.graph)
    assert made.missing_types == []


def test_a_set_nodes_own_output_passes_its_input():
    file = File()
    file.node(20, "SetNode", values=["m"], inputs="MODEL:MODEL", outputs="MODEL")
    file.link(1, 0, 20, "MODEL")
    file.link(20, 0, 5, "model")
    assert inputs(file, 5)["model"] == ["1", 0]


def test_a_get_node_inside_a_subgraph_finds_the_set_node_outside():
    file = with_subgraph(["t", 1, 2], ())
    file.node(20, "SetNode", values=["m"], inputs="MODEL:MODEL", outputs="*")
    file.link(1, 0, 20, "MODEL")
    inner = file.definitions[0]
    inner["nodes"].append(
        {
            "id": 60,
            "type": "GetNode",
            "mode": 0,
            "inputs": [],
            "outputs": [{"name": "MODEL", "type": "MODEL", "links": [60]}],
            "widgets_values": ["m"],
        }
    )
    inner["links"] = [row for row in inner["links"] if row["id"] != 3]
    inner["links"].append(
        {"id": 60, "origin_id": 60, "origin_slot": 0, "target_id": 5, "target_slot": 0, "type": "MODEL"}
    )
    next(node for node in inner["nodes"] if node["id"] == 5)["inputs"][0]["link"] = 60
    assert inputs(file, "10:5")["model"] == ["1", 0]


def test_a_get_node_without_a_set_node_is_said():
    file = File()
    file.node(22, "GetNode", values=["nobody"], outputs="MODEL")
    file.link(22, 0, 5, "model")
    made = convert.convert(file.document(), DEFINITIONS)
    assert "model" not in made.graph["5"]["inputs"]
    assert any("nobody" in warning for warning in made.warnings)


def test_rgthrees_reroute_is_followed_and_its_panels_are_dropped():
    file = File()
    file.node(20, "Reroute (rgthree)", inputs=":*", outputs="*")
    file.node(21, "Fast Groups Bypasser (rgthree)", outputs="*")
    file.node(22, "Fast Muter (rgthree)", outputs="*", inputs="a:*")
    file.link(1, 0, 20, "")
    file.link(20, 0, 5, "model")
    file.link(4, 0, 22, "a")
    made = convert.convert(file.document(), DEFINITIONS)
    assert made.graph["5"]["inputs"]["model"] == ["1", 0]
    assert len(made.graph) == 7
    assert made.missing_types == []


def test_power_lora_loader_rows_become_numbered_inputs():
    file = File()
    rows = [{}, {"type": "PowerLoraLoaderHeaderWidget"}, {"on": True, "lora": "a.safetensors", "strength": 0.8, "strengthTwo": None},
            {"on": False, "lora": "b.safetensors", "strength": 1, "strengthTwo": None}, {}, ""]  # fmt: skip
    file.node(
        20, "Power Lora Loader (rgthree)", values=rows, inputs="model:MODEL clip:CLIP", outputs="MODEL CLIP"
    )
    file.link(1, 0, 20, "model")
    sent = [{key: value for key, value in row.items() if key != "strengthTwo"} for row in rows[2:4]]
    known = custom("Power Lora Loader (rgthree)", {}, ["MODEL", "CLIP"])
    known["Power Lora Loader (rgthree)"]["input"] = {
        "required": {},
        "optional": {"model": ["MODEL"], "clip": ["CLIP"]},
    }
    assert inputs(file, 20, known) == {"lora_1": sent[0], "lora_2": sent[1], "model": ["1", 0]}
    without = convert.convert(file.document(), DEFINITIONS, without_server=True)
    assert without.graph["20"]["inputs"]["lora_2"] == sent[1]


def test_rgthrees_random_seed_is_drawn_and_reported():
    file = File()
    file.node(20, "Seed (rgthree)", values=[-1, "", "", ""], outputs="INT")
    file.link(20, 0, 5, "seed", "INT", widget=True)
    known = custom("Seed (rgthree)", {"seed": ["INT", {"default": 0, "min": -1, "max": 2**50}]}, ["INT"])
    definitions = DEFINITIONS | known
    first = convert.convert(file.document(), definitions, wildcard_seed=3)
    again = convert.convert(file.document(), definitions, wildcard_seed=3)
    seed = first.graph["20"]["inputs"]["seed"]
    assert seed > 0
    assert seed == again.graph["20"]["inputs"]["seed"]
    assert first.choices == [{"node_id": "20", "input": "seed", "chosen": seed}]
    assert any("seed" in warning for warning in first.warnings)
    file[20]["widgets_values"] = [77, "", "", ""]
    assert convert.convert(file.document(), definitions).graph["20"]["inputs"]["seed"] == 77


def test_vhs_values_are_read_by_name_with_what_the_format_brings():
    file = File()
    values = {"frame_rate": 24, "loop_count": 0, "filename_prefix": "clip", "format": "video/h264-mp4", "crf": 19,
              "pix_fmt": "yuv420p", "save_output": True, "videopreview": {"hidden": False}}  # fmt: skip
    file.node(20, "VHS_VideoCombine", values=values, inputs="images:IMAGE")
    file.link(6, 0, 20, "images")
    required = {
        "images": ["IMAGE"],
        "frame_rate": ["FLOAT", {"default": 8}],
        "loop_count": ["INT", {"default": 0}],
        "filename_prefix": ["STRING", {"default": "x"}],
        "format": [["image/gif", "video/h264-mp4"]],
        "save_output": ["BOOLEAN", {"default": True}],
    }
    expected = {key: value for key, value in values.items() if key != "videopreview"} | {"images": ["6", 0]}
    assert inputs(file, 20, custom("VHS_VideoCombine", required, ["VHS_FILENAMES"])) == expected
    assert (
        convert.convert(file.document(), DEFINITIONS, without_server=True).graph["20"]["inputs"] == expected
    )


def test_without_definitions_named_slots_tell_the_values():
    file = File(empty=True)
    file.node(
        1,
        "Foreign",
        values=[5, "randomize", 0.5, "x"],
        inputs="image:IMAGE seed:INT! amount:FLOAT! mode:COMBO!",
    )
    assert convert.convert(file.document(), None).graph["1"]["inputs"] == {
        "seed": 5,
        "amount": 0.5,
        "mode": "x",
    }


def test_without_definitions_values_that_no_slot_names_are_refused():
    file = File(empty=True)
    file.node(1, "Foreign", values=[5, "randomize", 0.5, "x"], inputs="image:IMAGE seed:INT!", title="Magic")
    with pytest.raises(SkillError) as caught:
        convert.convert(file.document(), None)
    assert "Magic" in caught.value.message
    assert "--object-info" in caught.value.hint
    file[1]["mode"] = 4
    assert convert.convert(file.document(), None).graph == {}


def broadcasting(**extra):
    file = File()
    file[5]["inputs"][0]["link"] = None
    file.links = [row for row in file.links if not (row[3] == 5 and row[4] == 0)]
    file.node(20, "Anything Everywhere", inputs="anything:*", title="Model for all")
    file.link(1, 0, 20, "anything")
    file.extra = extra
    return file


def test_use_everywhere_links_that_the_file_lists_become_links():
    row = {
        "downstream": 5,
        "downstream_slot": 0,
        "upstream": "1",
        "upstream_slot": 0,
        "controller": 20,
        "type": "MODEL",
    }
    made = convert.convert(broadcasting(ue_links=[row]).document(), DEFINITIONS)
    assert made.graph["5"]["inputs"]["model"] == ["1", 0]
    assert "20" not in made.graph
    assert made.missing_types == []
    shifted = convert.convert(broadcasting(ue_links=[row | {"downstream_slot": 3}]).document(), DEFINITIONS)
    assert shifted.graph["5"]["inputs"]["model"] == ["1", 0]


def test_use_everywhere_without_a_list_of_links_is_refused_by_name():
    with pytest.raises(SkillError) as caught:
        convert.convert(broadcasting().document(), DEFINITIONS)
    assert caught.value.code == "cannot_convert"
    assert "Model for all" in caught.value.message
    assert "Use Everywhere" in caught.value.hint


def test_separate_strengths_are_sent_only_when_the_node_shows_them():
    file = File()
    row = {"on": True, "lora": "a.safetensors", "strength": 0.8, "strengthTwo": None}
    file.node(20, "Power Lora Loader (rgthree)", values=[row], **{"Show Strengths": "Separate Model & Clip"})
    made = convert.convert(file.document(), DEFINITIONS, without_server=True).graph
    assert made["20"]["inputs"]["lora_1"] == row | {"strengthTwo": 1}
