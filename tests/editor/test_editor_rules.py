"""Editor file → graph, one rule a test. The expected graphs are what the real editor makes of the same files."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from comfyskill.base.cli import SkillError
from comfyskill.editor import convert
from editor_files import DEFINITIONS, OUTER, SUBGRAPH, File, definition, sampling_definition, with_subgraph


def converted(file, **options):
    document = file.document() if isinstance(file, File) else file
    return convert.convert(document, options.pop("definitions", DEFINITIONS), **options)


def graph(file, **options):
    return converted(file, **options).graph


def inputs(file, node_id, **options):
    return graph(file, **options)[str(node_id)]["inputs"]


# Which nodes appear


def test_a_plain_file_becomes_the_graph_that_the_editor_queues():
    made = graph(File())
    assert sorted(made) == ["1", "2", "3", "4", "5", "6", "7"]
    assert made["5"]["class_type"] == "KSampler"
    assert made["5"]["inputs"] == {
        "seed": 123,
        "steps": 7,
        "cfg": 3.5,
        "sampler_name": "dpmpp_2m",
        "scheduler": "karras",
        "denoise": 0.9,
        "model": ["1", 0],
        "positive": ["2", 0],
        "negative": ["3", 0],
        "latent_image": ["4", 0],
    }


def test_modes_1_and_3_are_sent_and_2_and_4_are_not():
    file = File()
    file[4]["mode"], file[6]["mode"] = 1, 3
    assert len(graph(file)) == 7
    file[4]["mode"], file[6]["mode"] = 2, 4
    assert sorted(graph(file)) == ["1", "2", "3", "5", "7"]


def test_notes_reroutes_and_primitives_are_never_sent():
    file = File()
    file.node(8, "Note", values=["remember"])
    file.node(9, "MarkdownNote", values=["# remember"])
    file.node(10, "Reroute", inputs=":*", outputs="MODEL")
    file.node(11, "PrimitiveNode", values=[3, "fixed"], outputs="INT")
    assert len(graph(file)) == 7


def test_string_ids_stay_as_they_are():
    file = File(empty=True)
    file.node("loader", "CheckpointLoaderSimple", values=["a"], outputs="MODEL CLIP VAE")
    file.node("text", "CLIPTextEncode", values=["x"], inputs="clip:CLIP")
    file.link("loader", 1, "text", "clip")
    assert graph(file)["text"]["inputs"]["clip"] == ["loader", 1]


def test_renamed_types_take_their_new_name_and_a_warning_says_so():
    file = File()
    file.node(8, "T2IAdapterLoader", values=["a.safetensors"])
    made = converted(file)
    assert made.graph["8"]["class_type"] == "ControlNetLoader"
    assert made.graph["8"]["inputs"] == {"control_net_name": "a.safetensors"}
    assert any("T2IAdapterLoader" in warning for warning in made.warnings)


def test_a_missing_type_is_sent_without_class_type_and_named_with_its_pack():
    file = File()
    file.node(
        8, "NoSuchNode", values=["short", 3, None], inputs="image:IMAGE", cnr_id="some-pack", ver="1.2.3"
    )
    file.link(6, 0, 8, "image")
    made = converted(file)
    assert "class_type" not in made.graph["8"]
    assert made.graph["8"]["inputs"]["image"] == ["6", 0]
    assert made.missing_types == [
        {"class_type": "NoSuchNode", "node_ids": ["8"], "cnr_id": "some-pack", "ver": "1.2.3"}
    ]
    junk = {key: value for key, value in made.graph["8"]["inputs"].items() if key != "image"}
    assert junk == ({"UNKNOWN": "short", "UNKNOWN_1": 3, "UNKNOWN_2": "null"})


def test_a_missing_type_that_is_off_is_not_reported():
    file = File()
    file.node(8, "NoSuchNode", mode=2)
    assert converted(file).missing_types == []


# Widgets and values


def test_saved_values_are_taken_as_they_are_without_validation():
    file = File()
    file[5]["widgets_values"] = ["20", "fixed", -5, "x", 17, False, 99999999]
    made = inputs(file, 5)
    assert [made[key] for key in ("seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")] == [
        "20", -5, "x", 17, False, 99999999,
    ]  # fmt: skip


def test_fewer_values_leave_defaults_and_further_ones_are_ignored():
    file = File()
    file[5]["widgets_values"] = [9, "fixed", 5]
    file[4]["widgets_values"] = [1, 2, 3, 4, 5]
    made = graph(file)
    assert made["5"]["inputs"]["steps"] == 5
    assert made["5"]["inputs"]["cfg"] == 8
    assert made["5"]["inputs"]["sampler_name"] == "euler"
    assert made["5"]["inputs"]["denoise"] == 1
    assert made["4"]["inputs"] == {"width": 1, "height": 2, "batch_size": 3}


def test_a_null_choice_becomes_the_first_option():
    file = File()
    file[5]["widgets_values"] = [None] * 7
    assert inputs(file, 5)["sampler_name"] == "euler"
    assert inputs(file, 5)["steps"] is None


def test_values_older_than_the_seed_control_do_not_shift():
    file = File()
    file[5]["widgets_values"] = [123, 7, 3.5, "dpmpp_2m", "karras", 0.9]
    made = inputs(file, 5)
    assert (made["steps"], made["cfg"]) == (7, 3.5)


@pytest.mark.parametrize(
    ("name", "options", "takes_two"),
    [("seed", {}, True), ("noise_seed", {}, True), ("seed", {"control_after_generate": False}, False), ("other", {}, False),
     ("other", {"control_after_generate": True}, True)],
)  # fmt: skip
def test_a_seed_has_a_control_unless_its_definition_says_otherwise(name, options, takes_two):
    known = {
        "Noise": {"input": {"required": {name: ["INT", options], "amount": ["FLOAT", {}]}}, "output": []}
    }
    file = File(empty=True)
    file.node(1, "Noise", values=[5, "fixed", 0.5] if takes_two else [5, 0.5])
    assert inputs(file, 1, definitions=known) == {name: 5, "amount": 0.5}


def test_a_text_field_makes_a_string_of_anything():
    file = File()
    file[2]["widgets_values"] = [["a", ["b", None], True]]
    file[3]["widgets_values"] = [None]
    made = graph(file)
    assert made["2"]["inputs"]["text"] == "a,b,,true"
    assert made["3"]["inputs"]["text"] == ""


def test_line_ends_are_kept():
    file = File()
    file[2]["widgets_values"] = ["a\r\nb\rc"]
    assert inputs(file, 2)["text"] == "a\r\nb\rc"


def test_lists_are_wrapped_so_that_they_are_not_taken_for_links():
    file = File()
    file[4]["widgets_values"] = [[1, 2], 384, 1]
    assert inputs(file, 4)["width"] == {"__value__": [1, 2]}


def test_numbers_beyond_a_double_are_those_that_the_browser_would_send():
    file = File()
    file[5]["widgets_values"][0] = 18446744073709551615
    assert inputs(file, 5)["seed"] == 18446744073709552000


@pytest.mark.parametrize("spoilt", [float("inf"), [float("nan")], {"a": [float("-inf"), 2]}, 10**400])
def test_a_number_that_json_cannot_carry_is_sent_as_null_with_a_warning(spoilt):
    file = File()
    file[4]["widgets_values"][0] = spoilt
    made = converted(file)
    json.dumps(made.graph, allow_nan=False)
    assert any("width" in warning and "null" in warning for warning in made.warnings)


def test_values_saved_by_name_are_read():
    file = File()
    file[4]["widgets_values"] = {"width": 100, "height": 200, "batch_size": 3}
    assert inputs(file, 4) == {"width": 100, "height": 200, "batch_size": 3}


def test_an_old_value_of_an_input_that_became_a_socket_is_dropped():
    file = File(empty=True)
    file.node(1, "PrimitiveString", values=["[[1,2]]"], outputs="STRING")
    file.node(2, "WanMoveTracksFromCoords", values=["[old coords]"], inputs="track_coords:STRING")
    file.link(1, 0, 2, "track_coords")
    assert inputs(file, 2) == {"track_coords": ["1", 0]}


def test_an_upload_button_takes_a_place_but_is_not_sent():
    file = File()
    file.node(8, "LoadImageMask", values=["sub/a (1).png", "red", "image"], outputs="MASK")
    assert inputs(file, 8) == {"image": "sub/a (1).png", "channel": "red"}


def test_the_buttons_of_a_3d_view_take_their_places():
    file = File()
    file.node(8, "Load3D", values=["toy.glb", "upload3dmodel", "uploadExtraResources", "clear", "", 512, 256])
    made = inputs(file, 8)
    assert (made["model_file"], made["width"], made["height"]) == ("toy.glb", 512, 256)
    assert any("in the browser" in warning for warning in converted(file).warnings)


def test_old_sampler_names_lose_their_prefix():
    file = File()
    file[5]["widgets_values"][4] = "sample_euler"
    assert inputs(file, 5)["sampler_name"] == "euler"


def test_a_converted_widget_keeps_its_place_and_the_link_goes_before_its_value():
    file = File()
    file.node(8, "PrimitiveInt", values=[33, "fixed"], outputs="INT")
    file.link(8, 0, 5, "steps", "INT", widget=True)
    made = inputs(file, 5)
    assert made["steps"] == ["8", 0]
    assert made["cfg"] == 3.5


def test_a_slot_whose_widget_is_gone_is_removed():
    file = File()
    file.node(8, "PrimitiveInt", values=[33, "fixed"], outputs="INT")
    file.link(8, 0, 5, "no_such_widget", "INT", widget=True)
    assert "no_such_widget" not in inputs(file, 5)


# Texts


def test_dynamic_prompts_lose_comments_and_escapes():
    file = File()
    file[2]["widgets_values"] = ["a /* gone */ cat // gone\nsee https://x.y\n{one} \\{kept\\} {{deep}}"]
    assert inputs(file, 2)["text"] == "a  cat \nsee https:\none {kept} deep"


def test_a_choice_is_one_of_its_options_and_is_reported():
    file = File()
    file[2]["widgets_values"] = ["a {red|green|blue} {cat|{small|big} dog}"]
    made = converted(file, wildcard_seed=7)
    again = converted(file, wildcard_seed=7)
    assert made.graph == again.graph
    text = made.graph["2"]["inputs"]["text"]
    assert text.split()[1] in ("red", "green", "blue")
    assert made.choices[0]["node_id"] == "2"
    assert made.choices[0]["text"] == text
    assert len({inputs(file, 2, wildcard_seed=seed)["text"] for seed in range(30)}) > 3


def test_texts_without_dynamic_prompts_are_left_alone():
    file = File()
    file.node(8, "PrimitiveString", values=["{a|b} // c"], outputs="STRING")
    assert inputs(file, 8)["value"] == "{a|b} // c"


def test_file_name_tokens_are_filled_in_and_unknown_ones_stay():
    file = File()
    file[5]["title"] = "My Sampler"
    file[5]["properties"] = {"Node name for S&R": "sampler"}
    file[2]["widgets_values"] = ["a/b:c*"]
    file[7]["widgets_values"] = [
        "%sampler.seed%_%CLIPTextEncode.text%_%Nope.x%_%sampler.nope%_%width%_%date:yyyy-MM-dd_hhmmss%"
    ]
    made = inputs(file, 7, now=datetime(2031, 2, 3, 4, 5, 6))
    assert made["filename_prefix"] == "123_a_b_c__%Nope.x%_%sampler.nope%_%width%_2031-02-03_040506"


def test_a_node_is_also_found_by_its_title():
    file = File()
    file[5]["title"] = "My Sampler"
    file[7]["widgets_values"] = ["%My Sampler.cfg%"]
    assert inputs(file, 7)["filename_prefix"] == "3.5"


def test_tokens_of_mp3_names_are_filled_in():
    file = File()
    file.node(8, "SaveAudioMP3", values=["a%KSampler.seed%", "V0"], inputs="audio:AUDIO")
    assert inputs(file, 8)["filename_prefix"] == "a123"


# Dynamic inputs


def test_a_dynamic_combo_brings_its_options_inputs_with_dotted_names():
    file = File()
    file.node(
        8,
        "ResizeImageMaskNode",
        values=["scale dimensions", 100, 200, "center", "lanczos"],
        inputs="input:IMAGE,MASK",
    )
    file.link(6, 0, 8, "input")
    assert inputs(file, 8) == {
        "input": ["6", 0],
        "resize_type": "scale dimensions",
        "resize_type.width": 100,
        "resize_type.height": 200,
        "resize_type.crop": "center",
        "scale_method": "lanczos",
    }


def test_a_dynamic_combos_socket_and_linked_widget_follow_by_name():
    file = File()
    file.node(8, "ResizeImageMaskNode", values=["match size", "center", "lanczos"], inputs="input:IMAGE,MASK")
    file.link(6, 0, 8, "input")
    file.link(6, 0, 8, "resize_type.match", "IMAGE,MASK")
    made = inputs(file, 8)
    assert made["resize_type.match"] == ["6", 0]
    assert made["resize_type.crop"] == "center"
    assert made["scale_method"] == "lanczos"


def test_an_unknown_option_brings_no_inputs():
    file = File()
    file.node(8, "ResizeImageMaskNode", values=["no such option", "lanczos"], inputs="input:IMAGE,MASK")
    file.link(6, 0, 8, "input")
    assert inputs(file, 8) == {
        "input": ["6", 0],
        "resize_type": "no such option",
        "scale_method": "lanczos",
    }


def test_an_autogrow_group_sends_what_is_linked():
    file = File()
    words = "images.image0:IMAGE images.image1:IMAGE images.image2:IMAGE images.image3:IMAGE"
    file.node(8, "BatchImagesNode", inputs=words)
    for number in (0, 1, 2):
        file.link(6, 0, 8, f"images.image{number}")
    assert inputs(file, 8) == {f"images.image{number}": ["6", 0] for number in (0, 1, 2)}


# Links


def test_slots_are_matched_by_name_whatever_their_order():
    file = File()
    slots = file[5]["inputs"]
    slots.reverse()
    for row in file.links:
        if row[3] == 5:
            row[4] = next(place for place, slot in enumerate(slots) if slot["link"] == row[0])
    assert inputs(file, 5)["positive"] == ["2", 0]


def test_the_slots_word_counts_not_the_tables_target_slot():
    file = File()
    by_target = [row for row in file.links if row[3] == 5]
    for row, place in zip(by_target, (2, 3, 0, 1)):
        row[4] = place
    assert inputs(file, 5)["model"] == ["1", 0]
    assert inputs(file, 5)["latent_image"] == ["4", 0]


def test_a_link_that_no_slot_names_counts():
    file = File()
    file[5]["inputs"][3]["link"] = None
    assert inputs(file, 5)["latent_image"] == ["4", 0]


def test_links_may_be_objects():
    document = File().document()
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    document["links"] = [dict(zip(names, row)) for row in document["links"]]
    document["version"] = 1
    assert graph(document) == graph(File())


def test_native_reroutes_change_nothing():
    file = File()
    file.extra = {
        "reroutes": [{"id": 1, "pos": [0, 0], "linkIds": [1]}],
        "linkExtensions": [{"id": 1, "parentId": 1}],
    }
    assert graph(file) == graph(File())


def test_an_unlinked_socket_is_absent():
    file = File()
    file.node(
        8, "ImageCompositeMasked", values=[1, 2, False], inputs="destination:IMAGE source:IMAGE mask:MASK"
    )
    file.link(6, 0, 8, "destination")
    assert inputs(file, 8) == {"destination": ["6", 0], "x": 1, "y": 2, "resize_source": False}


def test_reroutes_are_followed_in_chains():
    file = File()
    file.node(8, "Reroute", inputs=":*", outputs="MODEL")
    file.node(9, "Reroute", inputs=":*", outputs="MODEL")
    file.link(1, 0, 8, "")
    file.link(8, 0, 9, "")
    file.link(9, 0, 5, "model")
    assert inputs(file, 5)["model"] == ["1", 0]


def test_behind_an_empty_reroute_the_widget_keeps_its_value():
    file = File()
    file.node(8, "Reroute", inputs=":*", outputs="FLOAT")
    file.link(8, 0, 5, "cfg", "FLOAT", widget=True)
    assert inputs(file, 5)["cfg"] == 3.5


def test_a_muted_reroute_passes_nothing_on():
    file = File()
    file.node(8, "Reroute", inputs=":*", outputs="MODEL", mode=2)
    file.link(1, 0, 8, "")
    file.link(8, 0, 5, "model")
    assert "model" not in inputs(file, 5)


def test_links_in_a_circle_are_refused_with_the_nodes_name():
    file = File()
    file.node(8, "Reroute", inputs=":*", outputs="MODEL")
    file.node(9, "Reroute", inputs=":*", outputs="MODEL")
    file.link(8, 0, 9, "")
    file.link(9, 0, 8, "")
    file.link(9, 0, 5, "model")
    with pytest.raises(SkillError) as caught:
        graph(file)
    assert caught.value.code == "cannot_convert"
    assert "cycle" in caught.value.message
    assert "Reroute" in caught.value.message


# Primitives


@pytest.mark.parametrize(
    ("name", "kind", "value", "expected"),
    [
        ("cfg", "FLOAT", 6.25, 6.3),
        ("cfg", "FLOAT", 6.24, 6.2),
        ("denoise", "FLOAT", 2.5, 1),
        ("steps", "INT", 20.4, 20),
        ("steps", "INT", -3, 1),
        ("sampler_name", "COMBO", "euler", "euler"),
    ],
)
def test_a_primitive_writes_its_value_as_the_widget_rounds_it(name, kind, value, expected):
    file = File()
    file.node(8, "PrimitiveNode", values=[value, "fixed"], outputs=kind)
    file.link(8, 0, 5, name, kind, widget=True)
    assert inputs(file, 5)[name] == expected


def test_steps_of_eight_count_from_the_least_value():
    file = File()
    file.node(8, "PrimitiveNode", values=[515, "fixed"], outputs="INT")
    file.link(8, 0, 4, "width", "INT", widget=True)
    assert inputs(file, 4)["width"] == 512


def test_a_muted_primitive_still_writes_and_one_without_value_does_not():
    file = File()
    file.node(8, "PrimitiveNode", values=[4, "fixed"], outputs="FLOAT", mode=2)
    file.link(8, 0, 5, "cfg", "FLOAT", widget=True)
    assert inputs(file, 5)["cfg"] == 4
    file[8]["widgets_values"] = None
    assert inputs(file, 5)["cfg"] == 3.5


def test_a_primitives_text_goes_through_the_dynamic_prompt():
    file = File()
    file.node(8, "PrimitiveNode", values=["from {prim} // x"], outputs="STRING")
    file.link(8, 0, 2, "text", "STRING", widget=True)
    assert inputs(file, 2)["text"] == "from prim "


def test_a_primitive_fills_tokens_when_its_property_says_so():
    file = File()
    file.node(
        8,
        "PrimitiveNode",
        values=["w=%EmptyLatentImage.width%"],
        outputs="STRING",
        **{"Run widget replace on values": True},
    )
    file.link(8, 0, 2, "text", "STRING", widget=True)
    assert inputs(file, 2)["text"] == "w=640"


# Bypass and mute


def test_a_bypassed_node_passes_each_output_by_type():
    file = File()
    file.node(
        8, "LoraLoader", values=["l", 1, 1], inputs="model:MODEL clip:CLIP", outputs="MODEL CLIP", mode=4
    )
    file.link(1, 0, 8, "model")
    file.link(1, 1, 8, "clip")
    file.link(8, 0, 5, "model")
    file.link(8, 1, 2, "clip")
    made = graph(file)
    assert made["5"]["inputs"]["model"] == ["1", 0]
    assert made["2"]["inputs"]["clip"] == ["1", 1]


def test_two_outputs_of_one_type_pass_to_the_inputs_at_their_places():
    file = File()
    file.node(
        8,
        "ControlNetApplyAdvanced",
        values=[1, 0, 1],
        inputs="positive:CONDITIONING negative:CONDITIONING control_net:CONTROL_NET image:IMAGE",
        outputs="CONDITIONING CONDITIONING",
        mode=4,
    )
    file.link(2, 0, 8, "positive")
    file.link(3, 0, 8, "negative")
    file.link(8, 0, 5, "positive")
    file.link(8, 1, 5, "negative")
    made = inputs(file, 5)
    assert (made["positive"], made["negative"]) == (["2", 0], ["3", 0])


def test_a_bypassed_node_without_a_matching_input_leaves_the_input_out():
    file = File()
    file[6]["mode"] = 4
    assert "images" not in inputs(file, 7)


def test_an_input_of_exactly_the_type_goes_before_one_that_also_takes_it():
    known = {
        "Mixed": {
            "input": {"required": {"any": ["IMAGE,MASK"], "image": ["IMAGE"]}},
            "output": ["INT", "INT", "IMAGE"],
        },
        "Show": {"input": {"required": {"image": ["IMAGE"]}}, "output": []},
    }
    file = File()
    file.node(8, "Mixed", inputs="any:IMAGE,MASK image:IMAGE", outputs="INT INT IMAGE", mode=4)
    file.node(9, "Show", inputs="image:IMAGE")
    file.node(10, "EmptyImage", values=[8, 8, 1, 0], outputs="IMAGE")
    file.link(10, 0, 8, "any")
    file.link(6, 0, 8, "image")
    file.link(8, 2, 9, "image")
    assert inputs(file, 9, definitions=DEFINITIONS | known)["image"] == ["6", 0]


def test_a_wildcard_input_takes_the_input_at_the_outputs_place():
    file = File()
    file.node(8, "PreviewAny", inputs="source:*")
    file.node(
        9, "LoraLoader", values=["l", 1, 1], inputs="model:MODEL clip:CLIP", outputs="MODEL CLIP", mode=4
    )
    file.link(1, 0, 9, "model")
    file.link(1, 1, 9, "clip")
    file.link(9, 1, 8, "source")
    assert inputs(file, 8)["source"] == ["1", 1]


def test_a_muted_source_leaves_the_widgets_value():
    file = File()
    file.node(8, "PrimitiveFloat", values=[2.5], outputs="FLOAT", mode=2)
    file.link(8, 0, 5, "cfg", "FLOAT", widget=True)
    assert inputs(file, 5)["cfg"] == 3.5


def test_behind_a_muted_node_a_socket_is_left_out():
    file = File()
    file[4]["mode"] = 2
    assert "latent_image" not in inputs(file, 5)


# Subgraphs

SHOWN = (("-1", "text"), ("-1", "seed"), ("-1", "steps"))


def test_inner_nodes_have_the_instances_id_before_their_own():
    made = graph(with_subgraph(["outer text", 77, 22], SHOWN))
    assert sorted(made) == ["1", "10:2", "10:5", "3", "4", "6", "7"]
    assert made["10:5"]["inputs"]["positive"] == ["10:2", 0]
    assert made["10:5"]["inputs"]["model"] == ["1", 0]
    assert made["6"]["inputs"]["samples"] == ["10:5", 0]
    assert made["10:2"]["inputs"] == {"text": "outer text", "clip": ["1", 1]}
    assert (made["10:5"]["inputs"]["seed"], made["10:5"]["inputs"]["steps"]) == (77, 22)


def test_promoted_values_follow_the_names_not_the_definitions_order():
    file = with_subgraph([77, "outer text", 22], (("-1", "seed"), ("-1", "text"), ("-1", "steps")))
    made = graph(file)
    assert made["10:2"]["inputs"]["text"] == "outer text"
    assert made["10:5"]["inputs"]["seed"] == 77


def test_without_names_promoted_values_go_by_position():
    made = graph(with_subgraph(["outer", 5, 6]))
    assert made["10:2"]["inputs"]["text"] == "outer"
    assert (made["10:5"]["inputs"]["seed"], made["10:5"]["inputs"]["steps"]) == (5, 6)


def test_an_instance_without_values_shows_the_inner_ones():
    made = graph(with_subgraph(None, ()))
    assert made["10:2"]["inputs"]["text"] == "inner text"
    assert made["10:5"]["inputs"]["steps"] == 11


def test_promoted_text_is_used_raw():
    made = graph(with_subgraph(["{a|b} // c", 1, 2], SHOWN))
    assert made["10:2"]["inputs"]["text"] == "{a|b} // c"


def test_entries_that_name_an_inner_widget_set_it():
    file = with_subgraph(["from instance", 1, 3.25], (("2", "text"), ("5", "seed"), ("5", "cfg")))
    assert inputs(file, "10:5")["cfg"] == 3.25
    assert inputs(file, "10:2")["text"] == "from instance"


def test_an_entry_of_an_inner_primitive_feeds_its_targets():
    file = with_subgraph(["outer text", 77, 22, 9.75], (*SHOWN, ("8", "value")))
    inner = file.definitions[0]
    sampler = next(node for node in inner["nodes"] if node["id"] == 5)
    sampler["inputs"].append({"name": "cfg", "type": "FLOAT", "link": 15, "widget": {"name": "cfg"}})
    inner["nodes"].append(
        {"id": 8, "type": "PrimitiveNode", "mode": 0, "inputs": [], "outputs": [{"name": "FLOAT", "type": "FLOAT", "links": [15]}],
         "properties": {}, "widgets_values": [6.25, "fixed"]}
    )  # fmt: skip
    inner["links"].append(
        {"id": 15, "origin_id": 8, "origin_slot": 0, "target_id": 5, "target_slot": 6, "type": "FLOAT"}
    )
    assert inputs(file, "10:5")["cfg"] == 9.75


def test_null_under_a_name_is_applied():
    file = with_subgraph([None, 5, None], SHOWN)
    assert inputs(file, "10:5")["steps"] is None


def test_a_linked_promoted_input_takes_the_outer_source():
    file = with_subgraph(["outer text", 77, 22], SHOWN)
    file.node(20, "PrimitiveInt", values=[44, "fixed"], outputs="INT")
    file.link(20, 0, 10, "steps")
    assert inputs(file, "10:5")["steps"] == ["20", 0]


def test_a_primitive_outside_does_not_reach_inside():
    file = with_subgraph(["outer text", 77, 22], SHOWN)
    file.node(20, "PrimitiveNode", values=[44, "fixed"], outputs="INT")
    file.link(20, 0, 10, "steps")
    assert inputs(file, "10:5")["steps"] == 11


def test_two_instances_of_one_definition_have_their_own_values():
    file = with_subgraph(["first", 1, 2], SHOWN)
    second = file.node(
        11,
        SUBGRAPH,
        values=["second", 3, 4],
        outputs="LATENT",
        inputs="clip:CLIP text:STRING! seed:INT! steps:INT!",
    )
    second["properties"]["proxyWidgets"] = [list(entry) for entry in SHOWN]
    file.link(1, 1, 11, "clip")
    made = graph(file)
    assert made["10:2"]["inputs"]["text"] == "first"
    assert made["11:2"]["inputs"]["text"] == "second"
    assert made["11:5"]["inputs"]["steps"] == 4


@pytest.mark.parametrize("mode", [2, 4])
def test_inside_an_instance_that_is_off_nothing_is_sent(mode):
    file = with_subgraph(["outer text", 77, 22], SHOWN, mode=mode)
    assert [name for name in graph(file) if ":" in name] == []


def test_inner_nodes_that_are_off_are_left_out():
    file = with_subgraph(["outer text", 77, 22], SHOWN)
    file.definitions[0]["nodes"][0]["mode"] = 2
    made = graph(file)
    assert "10:2" not in made
    assert "positive" not in made["10:5"]["inputs"]


def test_slots_that_the_file_leaves_out_do_not_shift_the_instances_inputs():
    file = with_subgraph(["outer text", 77, 22], SHOWN)
    instance = file[10]
    instance["inputs"] = [slot for slot in instance["inputs"] if "widget" not in slot]
    for row in file.links:
        if row[3] == 10:
            row[4] = next(place for place, slot in enumerate(instance["inputs"]) if slot["link"] == row[0])
    made = graph(file)
    assert made["10:5"]["inputs"]["latent_image"] == ["4", 0]
    assert made["10:2"]["inputs"]["text"] == "outer text"


def nested(*, outer_first=False, values=("top text", 99), proxies=(("-1", "prompt"), ("-1", "seed"))):
    """The sampling subgraph (instance 7) inside another (instance 10), which shows the text as `prompt` and the seed."""
    file = with_subgraph(list(values), proxies)
    middle = File(empty=True)
    words = (
        "clip:CLIP text:STRING! model:MODEL negative:CONDITIONING latent_image:LATENT seed:INT! steps:INT!"
    )
    middle.node(
        7,
        SUBGRAPH,
        values=["mid text", 55, 66],
        outputs="LATENT",
        inputs=words,
        proxyWidgets=[list(e) for e in SHOWN],
    )
    links = [(n + 1, -10, n, 7, n) for n in range(6)] + [(8, 7, 0, -20, 0)]
    shown = "clip:CLIP prompt:STRING model:MODEL negative:CONDITIONING latent_image:LATENT seed:INT"
    outer = definition("Outer", middle, shown, "LATENT:LATENT", links, OUTER)
    instance = file[10]
    instance["type"] = OUTER
    instance["inputs"] = [slot for slot in instance["inputs"] if slot["name"] != "steps"]
    instance["inputs"][1].update(name="prompt", widget={"name": "prompt"})
    inner = sampling_definition()
    file.definitions = [outer, inner] if outer_first else [inner, outer]
    return file


def test_nested_instances_hand_values_down_and_chain_their_ids():
    made = graph(nested())
    assert made["10:7:2"]["inputs"]["text"] == "top text"
    assert made["10:7:5"]["inputs"]["seed"] == 99
    assert made["10:7:5"]["inputs"]["steps"] == 66
    assert made["6"]["inputs"]["samples"] == ["10:7:5", 0]


def test_an_inner_instance_before_its_definition_keeps_its_values():
    assert inputs(nested(outer_first=True), "10:7:5")["steps"] == 66


def test_an_entry_may_name_a_nested_instances_widget():
    file = nested(values=("top text", 99, 42), proxies=(("-1", "prompt"), ("-1", "seed"), ("7", "steps")))
    assert inputs(file, "10:7:5")["steps"] == 42


def test_a_definition_that_contains_itself_is_refused():
    file = with_subgraph(["t", 1, 2], SHOWN)
    file.definitions[0]["nodes"].append({"id": 99, "type": SUBGRAPH, "mode": 0, "inputs": [], "outputs": []})
    with pytest.raises(SkillError, match="contains itself"):
        graph(file)


def test_a_missing_definition_is_a_missing_type():
    file = with_subgraph(["t", 1, 2], SHOWN)
    file.definitions = []
    assert [entry["class_type"] for entry in converted(file).missing_types] == [SUBGRAPH]


def test_an_output_wired_to_an_input_of_the_same_subgraph_passes_through():
    inner = File(empty=True)
    file = File()
    file.definitions = [definition("Wire", inner, "image:IMAGE", "IMAGE:IMAGE", [(1, -10, 0, -20, 0)])]
    file.node(8, SUBGRAPH, inputs="image:IMAGE", outputs="IMAGE")
    file.link(6, 0, 8, "image")
    file.link(8, 0, 7, "images")
    assert inputs(file, 7)["images"] == ["6", 0]


# Group nodes of old files


def group_file():
    file = File()
    body = {
        "nodes": [
            {"type": "EmptyLatentImage", "index": 0, "inputs": [], "outputs": [{"name": "LATENT", "type": "LATENT"}], "widgets_values": [512, 512, 1]},
            {"type": "LatentUpscaleBy", "index": 1, "inputs": [{"name": "samples", "type": "LATENT", "link": None}],
             "outputs": [{"name": "LATENT", "type": "LATENT"}], "widgets_values": ["nearest-exact", 1.5]},
        ],
        "links": [[0, 0, 1, 0, 1, "LATENT"]],
        "external": [[1, 0, "LATENT"]],
    }  # fmt: skip
    file.extra = {"groupNodes": {"mine": body}}
    file.node(8, "workflow>mine", values=[640, 448, 3, "bilinear", 2.0], outputs="LATENT")
    file.link(8, 0, 5, "latent_image")
    return file


def test_a_group_node_unfolds_into_its_nodes():
    first, second = "11:9", "11:10"
    made = graph(group_file())
    assert made[first]["inputs"] == {"width": 640, "height": 448, "batch_size": 3}
    assert made[second]["inputs"] == {"upscale_method": "bilinear", "scale_by": 2, "samples": [first, 0]}
    assert made["5"]["inputs"]["latent_image"] == [second, 0]


def test_a_group_nodes_inputs_are_found_by_their_composed_names():
    file = File()
    body = {
        "nodes": [
            {"type": "CLIPTextEncode", "index": n, "inputs": [{"name": "clip", "type": "CLIP", "link": None}],
             "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING"}], "widgets_values": ["x"]} for n in (0, 1)
        ],
        "links": [],
        "external": [[0, 0, "CONDITIONING"], [1, 0, "CONDITIONING"]],
    }  # fmt: skip
    file.extra = {"groupNodes": {"enc": body}}
    node = file.node(
        8, "workflow/enc", values=["pos", "neg"], outputs="CONDITIONING CONDITIONING", inputs="clip:CLIP"
    )
    node["inputs"].append({"name": "CLIPTextEncode clip", "type": "CLIP", "link": None})
    file.link(1, 1, 8, "clip")
    file.link(1, 1, 8, "CLIPTextEncode clip")
    file.link(8, 0, 5, "positive")
    file.link(8, 1, 5, "negative")
    made = graph(file)
    assert made["11:9"]["inputs"] == {"text": "pos", "clip": ["1", 1]}
    assert made["11:10"]["inputs"] == {"text": "neg", "clip": ["1", 1]}
    assert made["5"]["inputs"]["negative"] == ["11:10", 0]


# What a file says of models


def test_models_of_active_nodes_are_reported_once():
    file = File()
    model = {
        "name": "sd15.safetensors",
        "url": "https://example.org/sd15",
        "directory": "checkpoints",
        "hash": "ab",
        "hash_type": "SHA256",
    }
    file[1]["properties"]["models"] = [model, dict(model)]
    file.node(8, "VAELoader", values=["x"], mode=2, models=[{"name": "x", "url": "u", "directory": "vae"}])
    assert converted(file).models == [model | {"node_id": "1", "class_type": "CheckpointLoaderSimple"}]
