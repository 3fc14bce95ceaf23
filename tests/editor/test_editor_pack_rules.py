"""One test or more for each row of the pack rules: nodes as the packs' own scripts save and send them.

`data/editor/pack_sheets.json` holds nodes that editor 1.58 saved with the packs' scripts loaded, their definitions, and
what it sent. The other cases are made by hand from what the scripts do.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from comfyskill.base.cli import SkillError
from comfyskill.editor import convert as editor_convert
from comfyskill.editor import pack_rules as rules
from comfyskill.editor import pack_values
from editor_files import DEFINITIONS, File

SHEETS = json.loads(
    (Path(__file__).parent.parent / "data" / "editor" / "pack_sheets.json").read_text("utf-8")
)
NOON = datetime(2026, 3, 4, 12, 0, 0)
INT, FLOAT, TEXT = (
    ["INT", {"default": 0, "min": 0, "max": 2**64 - 1}],
    ["FLOAT", {"default": 1.0}],
    ["STRING", {}],
)
LORA, WILDCARD = "Select the LoRA to add to the text", "Select the Wildcard to add to the text"
SELECTS = {"Select to add LoRA": [[LORA, "a.safetensors"]], "Select to add Wildcard": [[WILDCARD]]}
SELECTED = {"Select to add LoRA": LORA, "Select to add Wildcard": WILDCARD}


def definition(required, output=("IMAGE",), **optional):
    return {
        "input": {"required": required, "optional": optional},
        "output": list(output),
        "python_module": "custom_nodes.pack",
    }


def convert(node, known, **more):
    """One node's file converted; `node` is as saved."""
    document = {"nodes": [node], "links": [], "last_node_id": 99, "version": 0.4}
    return editor_convert.convert(document, DEFINITIONS | known, now=NOON, **more)


def one(kind, values, required, *, optional=None, properties=None, inputs=(), **more):
    """The conversion of one node of a hand-made definition."""
    node = {"id": 5, "type": kind, "mode": 0, "inputs": list(inputs), "outputs": [], "widgets_values": values,
            "properties": properties or {}}  # fmt: skip
    return convert(node, {kind: definition(required, **(optional or {}))}, **more)


def sent(made):
    return made.graph["5"]["inputs"]


def stripped(node, *, slots):
    """The node as older editors saved it: without names, and without slots for widgets where `slots` is False."""
    kept = [slot for slot in node["inputs"] if slots or "widget" not in slot]
    return {key: value for key, value in node.items() if key != "widgets_values_named"} | {"inputs": kept}


@pytest.mark.parametrize("form", ["as saved", "without names", "as older editors saved it"])
@pytest.mark.parametrize("kind", SHEETS)
def test_a_packs_node_is_sent_as_its_script_sends_it(kind, form):
    sheet = SHEETS[kind]
    node = sheet["node"]
    if form != "as saved":
        node = stripped(node, slots=form == "without names")
    made = convert(node, {kind: sheet["definition"], sheet["class_type"]: sheet["definition"]})
    entry = made.graph[str(node["id"])]
    assert entry["class_type"] == sheet["class_type"]
    assert entry["inputs"] == sheet["inputs"]
    assert [entry["verdict"] for entry in made.verdicts if entry["verdict"] == "unsure"] == []


LOAD_VIDEO = SHEETS["VHS_LoadVideo"]["definition"]["input"]["required"]


@pytest.mark.parametrize(
    ("size", "width", "height"),
    [("Disabled", 0, 0), ("256x?", 256, 0), ("?x320", 0, 320), ("512x384", 512, 384), ("Custom Width", 640, 0),
     ("Custom Height", 0, 480), ("Custom", 640, 480)],
)  # fmt: skip
def test_a_forced_size_of_an_older_file_sets_both_sides(size, width, height):
    values = {
        "video": "a.mp4",
        "force_size": size,
        "custom_width": 640,
        "custom_height": 480,
        "format": "Wan",
    }
    made = sent(one("VHS_LoadVideo", values, LOAD_VIDEO))
    assert (made["custom_width"], made["custom_height"]) == (width, height)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("VHS_LoadVideo", ["a.mp4", 8, "512x?", 16, 2, 3],
         {"video": "a.mp4", "force_rate": 8, "custom_width": 512, "custom_height": 0, "frame_load_cap": 16,
          "skip_first_frames": 2, "select_every_nth": 3}),
        ("VHS_LoadImages", ["frames", "image", 5, 1, 2],
         {"directory": "frames", "image_load_cap": 5, "skip_first_images": 1, "select_every_nth": 2}),
        ("VHS_LoadImagesPath", ["frames", 5, 1, 2],
         {"directory": "frames", "image_load_cap": 5, "skip_first_images": 1, "select_every_nth": 2}),
    ],
)  # fmt: skip
def test_a_list_of_an_older_video_helper_suite_has_its_own_order(kind, values, expected):
    images = {
        "directory": [["frames", "other"]],
        "image_load_cap": INT,
        "skip_first_images": INT,
        "select_every_nth": ["INT", {"default": 1}],
    }
    assert sent(one(kind, values, LOAD_VIDEO if kind == "VHS_LoadVideo" else images)) == expected


FORMATS = {
    "video/h264-mp4": [["pix_fmt", ["yuv420p", "yuv444p"]], ["crf", "INT", {"default": 19}]],
    "video/ProRes": [],
}
COMBINE = {
    "frame_rate": ["FLOAT", {"default": 8}],
    "loop_count": INT,
    "filename_prefix": TEXT,
    "format": [["image/gif", "video/h264-mp4", "video/ProRes"], {"formats": FORMATS}],
    "pingpong": ["BOOLEAN", {"default": False}],
    "save_output": ["BOOLEAN", {"default": True}],
}


def test_a_video_formats_own_options_are_sent_and_no_others():
    values = {"frame_rate": 24, "format": "video/h264-mp4", "crf": 23, "profile": "hq", "save_image": False}
    made = sent(one("VHS_VideoCombine", values, COMBINE))
    assert (made["pix_fmt"], made["crf"], made["save_output"]) == ("yuv420p", 23, False)
    assert not {"profile", "save_image"} & set(made)
    other = sent(one("VHS_VideoCombine", values | {"format": "video/ProRes"}, COMBINE))
    assert not {"pix_fmt", "crf"} & set(other)
    listed = sent(one("VHS_VideoCombine", [30, 0, "clip", "video/h264-mp4", True, False], COMBINE))
    assert (listed["frame_rate"], listed["pingpong"], listed["save_output"], listed["crf"]) == (
        30,
        True,
        False,
        19,
    )


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("VHS_VideoCombine", "filename_prefix"),
        ("SaveImageKJ", "filename_prefix"),
        ("easy kSampler", "save_prefix"),
    ],
)
def test_the_time_is_filled_in_in_the_file_names_of_packs(kind, name):
    required = COMBINE if kind == "VHS_VideoCombine" else {name: TEXT}
    values = {name: "%date:yyyy-MM-dd%/x"} if kind == "VHS_VideoCombine" else ["%date:yyyy-MM-dd%/x"]
    assert sent(one(kind, values, required))[name] == "2026-03-04/x"


def test_an_old_slot_name_of_video_helper_suite_is_its_new_one():
    file = File()
    file.node(20, "VHS_BatchManager", values={"frames_per_batch": 16}, outputs="VHS_BatchManager")
    file.node(21, "VHS_LoadVideo", values={"video": "a.mp4"}, inputs="batch_manager:VHS_BatchManager")
    file.link(20, 0, 21, "batch_manager")
    known = {kind: SHEETS[kind]["definition"] for kind in ("VHS_BatchManager", "VHS_LoadVideo")}
    made = editor_convert.convert(file.document(), DEFINITIONS | known).graph["21"]["inputs"]
    assert made["meta_batch"] == ["20", 0]
    assert "batch_manager" not in made


@pytest.mark.parametrize(
    ("cap", "format_name", "expected"),
    [(50, "Wan", 49), (50, "AnimateDiff", 50), (0, "Wan", 0), (50.4, "None", 50)],
)
def test_frame_counts_are_held_to_the_steps_of_the_chosen_model_family(cap, format_name, expected):
    optional = SHEETS["VHS_LoadVideo"]["definition"]["input"]["optional"]
    values = {"video": "a.mp4", "frame_load_cap": cap, "format": format_name}
    assert sent(one("VHS_LoadVideo", values, LOAD_VIDEO, optional=optional))["frame_load_cap"] == expected


def test_what_selects_the_newest_file_is_no_node_and_says_so():
    file = File()
    values = {"filename_prefix": "output/x", "filename_postfix": ".webm"}
    file.node(20, "VHS_SelectLatest", values=values, outputs="STRING")
    file.link(20, 0, 7, "filename_prefix", "STRING", widget=True)
    made = editor_convert.convert(
        file.document(), DEFINITIONS | {"VHS_SelectLatest": definition({"filename_prefix": TEXT}, ["STRING"])}
    )
    assert "20" not in made.graph
    assert made.graph["7"]["inputs"]["filename_prefix"] == "out"
    assert any("VHS_SelectLatest" in warning for warning in made.warnings)
    assert made.missing_types == []


@pytest.mark.parametrize(
    "kind",
    ["ToDetailerPipe", "ToDetailerPipeSDXL", "EditDetailerPipe", "EditDetailerPipeSDXL", "BasicPipeToDetailerPipe",
     "BasicPipeToDetailerPipeSDXL", "easy wildcards", "easy wildcardsMatrix", "WildcardEncode //Inspire"],
)  # fmt: skip
def test_a_list_that_adds_to_a_text_always_sends_its_caption(kind):
    made = one(kind, ["text", "old/a.safetensors", "__old__"], {"wildcard": TEXT, **SELECTS})
    assert sent(made) == {"wildcard": "text", **SELECTED}
    assert made.verdicts[0]["verdict"].startswith("by rule of ")


def test_inspires_prompt_builder_sends_its_placeholder():
    required = {"category": [["Artists"]], "preset": [["#PRESET"]], "text": TEXT}
    assert sent(one("PromptBuilder //Inspire", ["Artists", "x", "t"], required))["preset"] == "#PRESET"


SWITCH = ["BOOLEAN", {"default": True, "label_on": "Populate", "label_off": "Fixed"}]
WORDS = [["populate", "fixed"]]


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [(SWITCH, True, True), (SWITCH, "Populate", True), (SWITCH, "populate", False), (SWITCH, "fixed", False),
     (WORDS, True, "populate"), (WORDS, False, "fixed"), (WORDS, "fixed", "fixed")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["ImpactWildcardEncode", "ImpactWildcardProcessor"])
def test_the_wildcard_mode_is_read_as_switch_or_as_choice(kind, mode, value, expected):
    required = {"wildcard_text": TEXT, "populated_text": TEXT, "mode": mode, **SELECTS, "seed": INT}
    values = ["{a|b}", "a", value, LORA, WILDCARD, 7, "fixed"]
    made = one(kind, values, required)
    assert sent(made)["mode"] == expected
    populates = expected in (True, "populate")
    assert [choice["seed"] for choice in made.choices] == ([7] if populates else [])


def test_a_populated_text_is_a_choice_that_can_be_seeded():
    required = {"wildcard_text": TEXT, "populated_text": TEXT, "mode": WORDS, "seed": INT}
    values = ["{a|b}", "a", "populate", 7, "fixed"]
    seeds = [
        sent(one("ImpactWildcardProcessor", values, required, wildcard_seed=n))["seed"] for n in (3, 3, 4)
    ]
    assert seeds[0] == seeds[1] != seeds[2]
    assert sent(one("ImpactWildcardProcessor", values, required))["seed"] == 7


@pytest.mark.parametrize(
    "saved", ["#placeholder", "$3-4", {"filename": "x.png"}, "clipspace/clipspace-mask-9.png"]
)
@pytest.mark.parametrize("kind", ["PreviewBridge", "PreviewBridgeLatent"])
def test_a_preview_bridge_sends_its_own_place(kind, saved):
    made = one(kind, [saved], {"image": TEXT})
    assert sent(made)["image"] == "$5-0"
    assert any("clipspace" in warning for warning in made.warnings) == (
        saved == "clipspace/clipspace-mask-9.png"
    )


@pytest.mark.parametrize(
    ("kind", "name", "least"),
    [("KSampler (Efficient)", "seed", 0), ("KSampler Adv. (Efficient)", "noise_seed", 0),
     ("KSampler SDXL (Eff.)", "noise_seed", 0), ("Noise Control Script", "seed", 0), ("HighRes-Fix Script", "seed", 0),
     ("Tiled Upscaler Script", "seed", 0), ("Seed (rgthree)", "seed", 1), ("SDParameterGenerator", "seed", 1)],
)  # fmt: skip
def test_a_seed_that_stands_for_another_one_each_time_is_drawn(kind, name, least):
    required = {name: ["INT", {"default": 0, "min": 0, "max": 5000}], "steps": INT}
    made = one(kind, [-1, None, 20], required, wildcard_seed=1)
    assert least <= sent(made)[name] <= 5000
    assert sent(made)["steps"] == 20
    assert made.choices == [{"node_id": "5", "input": name, "chosen": sent(made)[name]}]
    assert sent(one(kind, [12, None, 20], required))[name] == 12


@pytest.mark.parametrize(
    ("saved", "keeps", "expected"),
    [("[IMAGE DATA]", True, ""), ("data:x", True, "data:x"), ("data:x", False, "")],
)
def test_a_picture_as_text_is_sent_only_where_the_file_holds_it(saved, keeps, expected):
    required = {"save_to_workflow": ["BOOLEAN", {}], "image_data": TEXT}
    assert sent(one("ImageReceiver", [keeps, saved], required))["image_data"] == expected
    inspire = sent(one("LoadImage //Inspire", [saved], {"image_data": TEXT}))
    assert inspire["image_data"] == ("" if saved == "[IMAGE DATA]" else saved)


@pytest.mark.parametrize("kind", ["SplineEditor", "LTXVSparseTrackEditor"])
def test_points_that_the_editor_draws_anew_are_sent_as_saved_and_said(kind):
    made = one(kind, ["[1, 2]"], {"coordinates": TEXT})
    assert sent(made) == {"coordinates": "[1, 2]"}
    assert any(kind in warning for warning in made.warnings)


@pytest.mark.parametrize(
    "kind",
    [
        "VEC2",
        "VEC3",
        "VEC4",
        "BOOL",
        "VHSPATH",
        "VHSINT",
        "VHSFLOAT",
        "LORAS",
        "CYCLER_CONFIG",
        "LORA_POOL_CONFIG",
        "RANDOMIZER_CONFIG",
        "IMAGEBASE64",
        "AUDIOBASE64",
    ],
)
def test_a_packs_own_type_has_a_widget_unless_the_file_shows_a_link(kind):
    required = {"a": INT, "own": [kind, {}], "b": FLOAT}
    value = [1, 2] if kind.startswith("VEC") else "x"
    wrapped = {"__value__": value} if isinstance(value, list) else value
    assert sent(one("Any Node", [5, value, 0.5], required)) == {"a": 5, "own": wrapped, "b": 0.5}
    slot = {"name": "own", "type": kind, "link": None}
    assert sent(one("Any Node", [5, 0.5], required, inputs=[slot])) == {"a": 5, "b": 0.5}


def test_mx_sliders_send_what_their_properties_say():
    number = ["INT", {"min": -9999}]
    required = {"Xi": number, "Xf": FLOAT, "isfloatX": number}
    made = one("mxSlider", [20, 20, 0], required, properties={"value": 2.345, "decimals": 2})
    assert sent(made) == {"Xi": 2, "Xf": 2.35, "isfloatX": 1}
    assert sent(one("mxSlider", [20, 20, 0], required)) == {"Xi": 20, "Xf": 20, "isfloatX": 0}
    both = {"Xi": number, "Xf": FLOAT, "Yi": number, "Yf": FLOAT, "isfloatX": number, "isfloatY": number}
    saved = {"valueX": 640, "decimalsX": 0, "valueY": 480, "decimalsY": 0}
    made = one("mxSlider2D", [512, 512, 512, 512, 0, 0], both, properties=saved)
    assert sent(made) == {"Xi": 640, "Xf": 640, "Yi": 480, "Yf": 480, "isfloatX": 0, "isfloatY": 0}


def test_a_power_primitive_sends_type_and_value_as_its_server_code_reads_them():
    made = one("Power Primitive (rgthree)", ["INT", 7], {})
    assert sent(made) == {"type": "INT", "value": 7}
    assert any("Power Primitive" in warning for warning in made.warnings)


@pytest.mark.parametrize("kind", [name for name, _ in rules.of_kind(rules.REROUTE)])
def test_a_packs_reroute_is_followed_through(kind):
    file = File()
    file.node(20, kind, inputs=":*", outputs="*")
    file.link(1, 0, 20, "")
    file.link(20, 0, 5, "model")
    made = editor_convert.convert(file.document(), DEFINITIONS)
    assert made.graph["5"]["inputs"]["model"] == ["1", 0]
    assert made.missing_types == []


@pytest.mark.parametrize("kind", [name for name, rule in rules.of_kind(rules.PANEL) if not rule.refused])
def test_a_packs_panel_has_no_part_in_a_run_and_is_no_missing_class(kind):
    file = File()
    file.node(20, kind, values=["words", True])
    made = editor_convert.convert(file.document(), DEFINITIONS)
    assert "20" not in made.graph
    assert made.missing_types == []
    assert editor_convert.convert(file.document(), DEFINITIONS, without_server=True).graph == made.graph


def test_a_node_whose_text_only_the_browser_has_is_refused_where_it_feeds_something():
    file = File()
    file.node(20, "PresetText|pysssss", values=["my preset"], outputs="STRING")
    assert "20" not in editor_convert.convert(file.document(), DEFINITIONS).graph
    file.link(20, 0, 2, "text", "STRING", widget=True)
    with pytest.raises(SkillError) as caught:
        editor_convert.convert(file.document(), DEFINITIONS)
    assert caught.value.code == "cannot_convert"
    assert caught.value.details["node"]["id"] == "20"
    made = editor_convert.convert(file.document(), DEFINITIONS, allow_unsure=True)
    assert made.graph["2"]["inputs"]["text"] == "a cat"


def test_a_repeater_is_refused_by_name():
    required = {"repeats": INT, "node_mode": [["reuse", "create"]]}
    with pytest.raises(SkillError) as caught:
        one("Repeater|pysssss", [2, "create"], required)
    assert caught.value.details["node"]["type"] == "Repeater|pysssss"
    made = one("Repeater|pysssss", [2, "create"], required, allow_unsure=True)
    assert made.verdicts[0]["verdict"] == "unsure"


@pytest.mark.parametrize("kind", ["ACNAUTOSIZE", "ADEAUTOSIZE", "ADEWARN"])
def test_a_sign_on_a_node_has_a_place_in_the_file_and_is_not_sent(kind):
    required = {"a": INT, "sign": [kind, {}], "b": FLOAT}
    assert sent(one("Any Node", [5, "", 0.5], required)) == {"a": 5, "b": 0.5}


def test_inspires_basic_pipe_sends_captions_and_populates_both_texts():
    modes = [["populate", "fixed"]]
    required = {
        "wildcard_mode": modes,
        "positive_populated_text": TEXT,
        "negative_populated_text": TEXT,
    } | SELECTS
    values = ["populate", "a", "b", "a.safetensors", "other"]
    made = one("MakeBasicPipe //Inspire", values, required)
    texts = {"wildcard_mode": "populate", "positive_populated_text": "a", "negative_populated_text": "b"}
    assert sent(made) == texts | SELECTED
    assert [choice["input"] for choice in made.choices] == [
        "positive_populated_text",
        "negative_populated_text",
    ]


LISTED = {"language": [["python", "javascript"]], "pycode": ["PYCODE", {}]}
EDITORS = {
    "IDENode": (LISTED, ["python", "monokai", "none", ""], {"language": "python"}),
    "KY_Eval_Python": ({"pycode": ["PYCODE", {}]}, ["string", "", ""], {}),
}


@pytest.mark.parametrize("kind", EDITORS)
def test_what_stands_before_a_packs_code_editor_is_not_taken_for_the_code(kind):
    required, before, others = EDITORS[kind]
    assert sent(one(kind, [*before, "x = 1"], required)) == others | {"pycode": "x = 1"}
    # Its older versions had nothing before the code.
    assert sent(one(kind, [*others.values(), "x = 1"], required)) == others | {"pycode": "x = 1"}


def test_a_code_editor_with_some_of_its_parts_is_refused():
    with pytest.raises(SkillError) as caught:
        one("IDENode", ["python", "monokai", "x = 1"], LISTED)
    assert caught.value.details["node"]["type"] == "IDENode"


@pytest.mark.parametrize("kind", ["AUTOCOMPLETE_TEXT_LORAS", "AUTOCOMPLETE_TEXT_PROMPT"])
def test_a_text_of_lora_manager_follows_its_notes(kind):
    required = {"text": [kind, {}], "loras": ["LORAS", {}]}
    rows = [{"name": "a", "strength": 0.5, "active": True}]
    expected = {"text": "<lora:a:0.5>", "loras": {"__value__": rows}}
    notes = {"version": 1, "textWidgetName": "text"}
    for values in ([notes, "<lora:a:0.5>", rows], ["<lora:a:0.5>", rows]):
        assert sent(one("Lora Loader (LoraManager)", values, required)) == expected


def test_trigger_words_are_sent_with_their_strengths():
    required = {"group_mode": ["BOOLEAN", {}], "default_active": ["BOOLEAN", {}]}
    words = [
        {"text": "cat", "active": True, "strength": 1.2, "items": [{"text": "c"}]},
        {"text": "dog"},
        "old",
    ]
    made = sent(one("TriggerWord Toggle (LoraManager)", [True, False, words, "cat, dog"], required))
    cat = {"text": "(cat:1.20)", "active": True, "strength": 1.2, "highlighted": False,
           "items": [{"text": "c", "highlighted": False}]}  # fmt: skip
    assert made == {
        "group_mode": True,
        "default_active": False,
        "toggle_trigger_words": {"__value__": [cat, {"text": "dog", "highlighted": False}, "old"]},
        "orinalMessage": "cat, dog",
    }


def test_lora_managers_file_names_have_the_time_filled_in():
    made = one("Save Image (LoraManager)", ["%date:yyyy%/a"], {"filename_prefix": TEXT})
    assert sent(made) == {"filename_prefix": "2026/a"}


@pytest.mark.parametrize(
    ("saved", "expected"),
    [("#ff8000", {"hex": "#ff8000", "r": 255, "g": 128, "b": 0, "a": None}),
     ("#ff8000ff", {"hex": "#ff8000ff", "r": 255, "g": 128, "b": 0, "a": 1}),
     (None, {"hex": "#000000", "r": 0, "g": 0, "b": 0, "a": None})],
)  # fmt: skip
def test_a_colour_of_mixlab_is_sent_in_parts(saved, expected):
    assert sent(one("Color", [saved], {"color": ["TCOLOR", {}]})) == {"color": expected}


@pytest.mark.parametrize("saved", ["red", "#12", "#gg0000"])
def test_a_colour_that_mixlab_cannot_read_is_sent_as_saved_and_said(saved):
    made = one("Color", [saved], {"color": ["TCOLOR", {}]})
    assert sent(made) == {"color": saved}
    assert any("Color" in warning for warning in made.warnings)


BROWSER = [
    ("SvgImage", "SVG"), ("3DImage", "THREED"), ("ScreenShare", "CHEESE"), ("SpeechRecognition", "AUDIOINPUTMIX"),
    ("LoadImagesFromPath", "WATCHER"), ("KeyInput", "KEY"), ("ShowLayer", "EDIT"), ("ZFShareScreen", "BASE64"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "own"), BROWSER)
def test_a_value_that_only_the_browser_has_is_refused_in_the_class_that_makes_it(kind, own):
    required = {"own": [own, {}], "size": INT}
    with pytest.raises(SkillError) as caught:
        one(kind, [None, 7], required)
    assert caught.value.details["node"]["type"] == kind
    made = one(kind, [None, 7], required, allow_unsure=True)
    assert (sent(made), made.verdicts[0]["verdict"]) == ({"size": 7}, "unsure")
    # The same words in other packs mean other things.
    assert sent(one(kind, [7], {"size": INT})) == {"size": 7}
    slot = {"name": "own", "type": own, "link": None}
    assert sent(one("Another Node", [7], required, inputs=[slot])) == {"size": 7}


def test_a_text_switch_has_its_condition_at_the_end():
    required = {"switch_cases": TEXT, "condition": TEXT, "default_value": TEXT, "delimiter": TEXT}
    made = one("TextSwitchCase", ["a:1", "none", ":", "a"], required)
    assert sent(made) == {"switch_cases": "a:1", "condition": "a", "default_value": "none", "delimiter": ":"}


def test_a_counter_of_the_browser_starts_at_its_start_and_says_so():
    made = one("Simple Counter", [3, 9], {"start": INT, "count": INT})
    assert sent(made) == {"start": 3, "count": 3}
    assert any("Simple Counter" in warning for warning in made.warnings)


@pytest.mark.parametrize("kind", ["MultiAreaConditioning", "MultiLatentComposite"])
def test_a_node_that_reads_the_editors_own_file_says_so(kind):
    made = one(kind, [512], {"width": INT})
    assert sent(made) == {"width": 512}
    assert any(kind in warning for warning in made.warnings)


def test_every_row_shows_its_source_and_names_what_exists():
    assert all(rule.pack and rule.source.count(": ") == 1 and "/" in rule.source for rule in rules.RULES)
    named = {name for rule in rules.RULES for name in (*rule.loaded, *rule.queued)}
    assert named == {*pack_values._LOADED, *pack_values._QUEUED}
    assert {rule.virtual for rule in rules.RULES} <= {
        "", rules.REROUTE, rules.SETTER, rules.GETTER, rules.PANEL, rules.BROADCAST}  # fmt: skip
