"""Values that do not fit a node's inputs: by name, by the one layout that fits, or refused by name."""

from __future__ import annotations

import copy
import json

import pytest
from test_editor_pack_rules import SHEETS, stripped

from comfyskill.base.cli import SkillError
from comfyskill.editor import convert as editor_convert
from comfyskill.editor import to_editor
from editor_files import DEFINITIONS, File

BOTH_WAYS = pytest.mark.parametrize("slots", [True, False])


def definition(required, optional=None):
    return {
        "Foreign": {
            "input": {"required": required, "optional": optional or {}},
            "output": ["IMAGE"],
            "python_module": "custom_nodes.foreign",
        }
    }


NUMBER = ["INT", {"default": 3, "min": 0, "max": 100}]
FRACTION = ["FLOAT", {"default": 0.5}]
TEXT = ["STRING", {"default": ""}]
MODE = [["fast", "slow"], {}]
SWITCH = ["BOOLEAN", {"default": False}]
COLOUR = ["FOREIGN_COLOUR", {"default": "#fff"}]


def convert(values, required, *, optional=None, slots="", named=None, links=(), **more):
    file = File(empty=True)
    file.node(5, "Foreign", values=values, inputs=slots, title="Magic")
    if named is not None:
        file[5]["widgets_values_named"] = named
    for number, name in enumerate(links, 20):
        file.node(number, "PrimitiveInt", values=[1, "fixed"], outputs="INT")
        file.link(number, 0, 5, name, "INT", widget=True)
    return editor_convert.convert(file.document(), DEFINITIONS | definition(required, optional), **more)


def sent(made):
    return made.graph["5"]["inputs"]


def verdict(made):
    return next(entry for entry in made.verdicts if entry["node_id"] == "5")


def refused(*args, **more):
    with pytest.raises(SkillError) as caught:
        convert(*args, **more)
    error = caught.value
    assert error.code == "cannot_convert"
    assert error.details["node"] == {"id": "5", "title": "Magic", "type": "Foreign"}
    assert "--allow-unsure" in error.hint
    return error


def test_values_that_fit_are_exact():
    made = convert([7, 0.25, "fast", True], {"a": NUMBER, "b": FRACTION, "c": MODE, "d": SWITCH})
    assert sent(made) == {"a": 7, "b": 0.25, "c": "fast", "d": True}
    assert verdict(made) == {"node_id": "5", "class_type": "Foreign", "verdict": "exact"}
    assert made.warnings == []


def test_a_type_is_a_widget_where_the_file_shows_a_widget_for_it():
    required = {"a": NUMBER, "colour": COLOUR, "b": FRACTION}
    made = convert([7, "#123456", 0.25], required, slots="a:INT! colour:FOREIGN_COLOUR! b:FLOAT!")
    assert sent(made) == {"a": 7, "colour": "#123456", "b": 0.25}
    assert verdict(made)["verdict"] == "exact"


def test_a_type_is_a_link_where_the_file_shows_a_plain_slot_for_it():
    required = {"a": NUMBER, "colour": COLOUR, "b": FRACTION}
    made = convert([7, 0.25], required, slots="colour:FOREIGN_COLOUR")
    assert sent(made) == {"a": 7, "b": 0.25}
    assert verdict(made)["verdict"] == "exact"


def test_an_unknown_widget_in_the_middle_does_not_shift_what_follows():
    made = convert([7, "#123456", 0.25], {"a": NUMBER, "colour": COLOUR, "b": FRACTION})
    assert sent(made) == {"a": 7, "colour": "#123456", "b": 0.25}
    assert verdict(made)["verdict"] == "unsure"
    assert any("Magic" in warning and "id 5" in warning for warning in made.warnings)


def test_an_unknown_widget_at_the_end_is_not_lost():
    made = convert([7, "#123456"], {"a": NUMBER, "colour": COLOUR})
    assert sent(made) == {"a": 7, "colour": "#123456"}
    assert any("Magic" in warning for warning in made.warnings)


def test_where_two_layouts_fit_the_node_is_refused_by_name():
    required = {"a": NUMBER, "one": COLOUR, "other": ["FOREIGN_CURVE", {}], "b": FRACTION}
    refused([7, "#123456", 0.25], required)
    made = convert([7, "#123456", 0.25], required, allow_unsure=True)
    assert verdict(made)["verdict"] == "unsure"
    assert any("Magic" in warning for warning in made.warnings)


def test_names_beside_the_list_settle_which_input_has_which_value():
    required = {"a": NUMBER, "one": COLOUR, "other": ["FOREIGN_CURVE", {}], "b": FRACTION}
    made = convert([7, "#123456", 0.25], required, named={"a": 7, "other": "#123456", "b": 0.25})
    assert sent(made) == {"a": 7, "other": "#123456", "b": 0.25}


def test_names_go_before_a_position_that_the_editor_itself_gets_wrong():
    required = {"text": ["STRING", {"forceInput": True}], "separator": TEXT, "seed": ["INT", {"default": 0}]}
    named = {"separator": "; ", "seed": 4, "control_after_generate": "fixed"}
    made = convert(list(named.values()), required, named=named)
    assert sent(made) == {"separator": "; ", "seed": 4}
    assert any("Magic" in warning for warning in made.warnings)


@pytest.mark.parametrize("holder", ["document", "extra"])
def test_a_graph_in_the_same_file_tells_values_that_do_not_fit_by_position(holder):
    required = {"a": NUMBER, "one": COLOUR, "other": ["FOREIGN_CURVE", {}], "b": FRACTION}
    file = File(empty=True)
    file.node(5, "Foreign", values=[7, "#123456", 0.25])
    sent_before = {"a": 7, "other": "#123456", "b": 0.25, "image": ["4", 0]}
    prompt = {"5": {"class_type": "Foreign", "inputs": sent_before}}
    document = file.document() | (
        {"prompt": prompt} if holder == "document" else {"extra": {"prompt": prompt}}
    )
    made = editor_convert.convert(document, DEFINITIONS | definition(required))
    assert sent(made) == {"a": 7, "other": "#123456", "b": 0.25}
    prompt["5"]["class_type"] = "Another"
    with pytest.raises(SkillError):
        editor_convert.convert(document, DEFINITIONS | definition(required))


def test_names_tell_that_the_pack_has_changed_the_order_of_its_inputs():
    made = convert([1, 2], {"a": NUMBER, "b": NUMBER}, named={"b": 1, "a": 2})
    assert sent(made) == {"a": 2, "b": 1}
    assert verdict(made)["verdict"] == "unsure"
    assert any("Magic" in warning for warning in made.warnings)


def test_names_that_disagree_with_a_list_that_fits_are_older_and_not_used():
    made = convert([8, 0.5], {"a": NUMBER, "b": FRACTION}, named={"a": 1, "b": 0.1})
    assert sent(made) == {"a": 8, "b": 0.5}


def test_a_dictionary_of_values_is_read_by_name():
    made = convert({"b": 0.75, "a": 9}, {"a": NUMBER, "b": FRACTION, "c": MODE})
    assert sent(made) == {"a": 9, "b": 0.75, "c": "fast"}


def test_an_input_that_the_pack_has_gained_keeps_its_default():
    made = convert([7, "slow", "words"], {"a": NUMBER, "new": SWITCH, "c": MODE, "d": TEXT})
    assert sent(made) == {"a": 7, "new": False, "c": "slow", "d": "words"}
    assert verdict(made)["verdict"] == "unsure"


def test_a_value_of_an_input_that_the_pack_has_lost_is_left_out():
    made = convert([7, "lost words", 0.25, True], {"a": NUMBER, "b": FRACTION, "d": SWITCH})
    assert sent(made) == {"a": 7, "b": 0.25, "d": True}
    assert verdict(made)["verdict"] == "unsure"


def test_trailing_values_that_no_input_takes_are_left_out_as_the_editor_does():
    made = convert([7, 0.25, "a preview"], {"a": NUMBER, "b": FRACTION})
    assert sent(made) == {"a": 7, "b": 0.25}
    assert verdict(made)["verdict"] == "exact"


def test_a_shift_that_the_server_would_take_is_refused():
    required = {"a": SWITCH, "b": SWITCH, "c": SWITCH}
    refused([True, 5], required)
    made = convert([True, 5], required, allow_unsure=True)
    assert sent(made) == {"a": True, "b": 5, "c": False}


def test_a_shift_that_the_server_rejects_is_sent_as_the_editor_sends_it_and_named():
    made = convert([7, "slow", "words"], {"a": NUMBER, "new": FRACTION, "c": MODE, "d": TEXT})
    assert sent(made) == {"a": 7, "new": "slow", "c": "words", "d": ""}
    assert verdict(made)["verdict"] == "unsure"
    assert any("Magic" in warning and "server will reject" in warning for warning in made.warnings)


def test_a_value_that_a_link_replaces_is_no_reason_to_refuse():
    required = {"a": SWITCH, "b": SWITCH, "c": SWITCH}
    made = convert([True, 5], required, links=["b"])
    assert sent(made) == {"a": True, "b": ["20", 0], "c": False}
    assert verdict(made)["verdict"] == "exact"


def test_a_choice_that_the_pack_no_longer_has_is_sent_as_the_editor_sends_it():
    made = convert([7, "medium", 0.25], {"a": NUMBER, "c": MODE, "b": FRACTION})
    assert sent(made) == {"a": 7, "c": "medium", "b": 0.25}


def test_an_exchanged_input_is_sent_as_the_editor_sends_it_and_named():
    made = convert([7, 5, 0.25], {"a": NUMBER, "c": MODE, "b": FRACTION})
    assert sent(made) == {"a": 7, "c": 5, "b": 0.25}
    assert verdict(made)["verdict"] == "unsure"
    assert any("Magic" in warning and "c would get 5" in warning for warning in made.warnings)


def test_a_model_file_that_this_server_lacks_is_no_misfit():
    files = [["a.safetensors", "b.safetensors"]]
    made = convert(["sub/c.safetensors", "D", 7], {"m": files, "n": files, "a": NUMBER})
    assert sent(made) == {"m": "sub/c.safetensors", "n": "D", "a": 7}
    assert verdict(made)["verdict"] == "exact"


@pytest.mark.parametrize(
    ("options", "section", "is_widget"),
    [({"defaultInput": True}, "optional", False), ({"defaultInput": True}, "required", True),
     ({"forceInput": True}, "required", False), ({}, "optional", True)],
)  # fmt: skip
def test_a_default_input_has_no_widget_where_it_is_optional(options, section, is_widget):
    required = {"a": NUMBER, "text": ["STRING", options]} if section == "required" else {"a": NUMBER}
    optional = {} if section == "required" else {"text": ["STRING", options]}
    optional["b"] = FRACTION
    values = [7, "words", 0.25] if is_widget else [7, 0.25]
    expected = {"a": 7, "b": 0.25} | ({"text": "words"} if is_widget else {})
    assert sent(convert(values, required, optional=optional)) == expected


def test_a_widget_type_goes_before_the_declared_type():
    required = {"a": ["FOREIGN_COLOUR", {"widgetType": "INT", "default": 3}], "b": FRACTION}
    assert sent(convert([7, 0.25], required)) == {"a": 7, "b": 0.25}


def test_an_option_keeps_a_widget_out_of_the_graph():
    required = {"a": NUMBER, "note": ["STRING", {"serialize": False}], "b": FRACTION}
    assert sent(convert([7, "words", 0.25], required)) == {"a": 7, "b": 0.25}


def test_the_class_that_is_sent_is_the_definitions_name_where_the_server_has_it():
    known = definition({"a": NUMBER})
    known["Foreign"]["name"] = "Foreign Two"
    file = File(empty=True)
    file.node(5, "Foreign", values=[7])
    assert editor_convert.convert(file.document(), DEFINITIONS | known).graph["5"]["class_type"] == "Foreign"
    known["Foreign Two"] = known["Foreign"]
    assert (
        editor_convert.convert(file.document(), DEFINITIONS | known).graph["5"]["class_type"] == "Foreign Two"
    )


@pytest.mark.parametrize("kind", ["Load3DAdvanced", "Preview3DAdvanced", "Load3D"])
def test_only_one_3d_class_has_buttons_before_its_view(kind):
    required = {"model_file": [["none"]], "view": ["LOAD_3D", {}], "width": NUMBER}
    known = {kind: definition(required)["Foreign"] | {"python_module": "comfy_extras.nodes_load_3d"}}
    view = {"camera": 1}
    values = ["none", "", "", "", view, 64] if kind == "Load3D" else ["none", view, 64]
    file = File(empty=True)
    file.node(5, kind, values=values)
    made = editor_convert.convert(file.document(), DEFINITIONS | known)
    assert sent(made) == {"model_file": "none", "view": view, "width": 64}


# A pack that nothing is known of: the sheets' nodes with their types under other names.
TYPES = {"COLORCODE": "ZQ_PAINT", "MTB_COLOR": "ZQ_PAINT", "FLOAT_CURVE": "ZQ_LINE", "ADEWARN": "ZQ_SIGN"}
FOREIGN = ["RMBG", "AILab_ImageCompare", "AILab_ColorToMask", "Batch2d Transform (mtb)", "Batch Shape (mtb)",
           "Transform Image (mtb)", "Text To Image (mtb)", "Curve (mtb)"]  # fmt: skip


def foreign(kind):
    text = json.dumps(SHEETS[kind])
    for known, other in TYPES.items():
        text = text.replace(f'"{known}"', f'"{other}"')
    sheet = json.loads(text)
    return sheet | {"definition": copy.deepcopy(sheet["definition"])}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("form", ["as saved", "without names", "as older editors saved it"])
def test_nothing_of_an_unknown_pack_is_wrong_in_silence(kind, form):
    sheet = foreign(kind)
    node = sheet["node"] if form == "as saved" else stripped(sheet["node"], slots=form == "without names")
    document = {"nodes": [node], "links": [], "last_node_id": 99, "version": 0.4}
    try:
        made = editor_convert.convert(document, DEFINITIONS | {kind: sheet["definition"]})
    except SkillError as error:
        assert form == "as older editors saved it"
        assert error.details["node"]["id"] == str(node["id"])
        return
    right = made.graph[str(node["id"])]["inputs"] == sheet["inputs"]
    assert right
    assert form == "as older editors saved it" or made.verdicts[0]["verdict"] != "unsure"


def test_a_group_node_with_an_unknown_class_inside_is_refused_with_that_class_named():
    file = File(empty=True)
    file.node(8, "workflow>Mine", values=["x", 5], inputs="model:MODEL", outputs="LATENT")
    file.node(1, "CheckpointLoaderSimple", values=["a.safetensors"], outputs="MODEL CLIP VAE")
    file.link(1, 0, 8, "model")
    inner = [{"type": "Unheard Of", "inputs": [], "outputs": [], "widgets_values": ["x"]},
             {"type": "EmptyLatentImage", "inputs": [], "outputs": [], "widgets_values": [64, 64, 1]}]  # fmt: skip
    file.extra = {"groupNodes": {"Mine": {"nodes": inner, "links": [], "external": []}}}
    with pytest.raises(SkillError) as caught:
        editor_convert.convert(file.document(), DEFINITIONS)
    assert "Unheard Of" in caught.value.message
    assert caught.value.details["node"]["id"] == "8"
    made = editor_convert.convert(file.document(), DEFINITIONS, allow_unsure=True)
    assert made.graph["8"]["inputs"]["model"] == ["1", 0]
    assert [entry["class_type"] for entry in made.missing_types] == ["Unheard Of"]
    file[8]["mode"] = 2
    assert "8" not in editor_convert.convert(file.document(), DEFINITIONS).graph


def test_a_group_node_that_is_switched_off_says_what_is_left_out():
    file = File(empty=True)
    file.node(8, "workflow>Mine", values=[64, 64, 1], outputs="LATENT", mode=4)
    inner = [{"type": "EmptyLatentImage", "inputs": [], "outputs": [], "widgets_values": [64, 64, 1]}]
    file.extra = {"groupNodes": {"Mine": {"nodes": inner, "links": [], "external": []}}}
    made = editor_convert.convert(file.document(), DEFINITIONS)
    assert made.graph == {}
    assert any("EmptyLatentImage" in warning for warning in made.warnings)


@pytest.mark.parametrize(
    "kind", ["RMBG", "Transform Image (mtb)", "VHS_LoadVideo", "VHS_VideoCombine", "Curve (mtb)"]
)
@pytest.mark.parametrize("known_pack", [True, False])
def test_a_graph_laid_out_for_the_editor_comes_back_the_same(kind, known_pack):
    sheet = SHEETS[kind] if known_pack else foreign(kind)
    known = DEFINITIONS | {kind: sheet["definition"]}
    graph = {"5": {"class_type": kind, "inputs": sheet["inputs"], "_meta": {"title": kind}}}
    back = editor_convert.convert(to_editor.to_editor(graph, known), known).graph
    assert back["5"]["inputs"] == sheet["inputs"]


def test_a_list_in_todays_order_is_not_taken_for_an_older_one():
    sheet = SHEETS["VHS_LoadVideo"]
    file = File(empty=True)
    file.node(5, "VHS_LoadVideo", values=["a.mp4", 8, 512, 384, 16, 2, 3, "None"])
    made = editor_convert.convert(file.document(), DEFINITIONS | {"VHS_LoadVideo": sheet["definition"]})
    assert sent(made)["custom_width"] == 512
    assert sent(made)["select_every_nth"] == 3


def test_values_that_fit_in_two_ways_are_not_shifted():
    # Two inputs are new: side by side they can be two of them, apart two others.
    made = convert([90, "slow"], {"dpi": NUMBER, "quality": NUMBER, "on": SWITCH, "c": MODE})
    assert sent(made) == {"dpi": 90, "quality": "slow", "on": False, "c": "fast"}
    assert verdict(made)["verdict"] == "unsure"


def test_a_type_that_another_node_gives_is_never_guessed_to_be_a_widget():
    maker = {"input": {"required": {}}, "output": ["FOREIGN_ARGS"], "python_module": "custom_nodes.foreign"}
    file = File(empty=True)
    file.node(5, "Foreign", values=[1, "?", 0.25, "slow"], inputs="", title="Magic")
    known = definition({"a": NUMBER, "args": ["FOREIGN_ARGS", {}], "b": FRACTION, "c": MODE}) | {
        "Maker": maker
    }
    made = editor_convert.convert(file.document(), DEFINITIONS | known)
    assert sent(made) == {"a": 1, "b": 0.25, "c": "slow"}


def test_a_required_input_of_a_packs_own_type_that_nothing_sets_is_said():
    made = convert([1], {"a": NUMBER, "own": COLOUR})
    assert verdict(made)["verdict"] == "unsure"
    assert any("Magic" in warning and "input own" in warning for warning in made.warnings)
    assert verdict(convert([1], {"a": NUMBER}, optional={"own": COLOUR}))["verdict"] == "exact"


def test_what_a_script_adds_to_a_class_without_inputs_is_sent_by_name_or_said():
    made = convert([4, ""], {})
    assert (sent(made), verdict(made)["verdict"]) == ({}, "unsure")
    made = convert([4, ""], {}, named={"size": 4, "a button": ""})
    assert (sent(made), verdict(made)["verdict"]) == ({"size": 4}, "exact")


def test_two_links_that_claim_one_slot_are_both_kept_and_said():
    file = File()
    sampler = next(node for node in file.nodes if node["id"] == 5)
    links = {slot["name"]: slot["link"] for slot in sampler["inputs"]}
    row = next(link for link in file.links if link[0] == links["negative"])
    row[4] = next(link for link in file.links if link[0] == links["positive"])[4]
    made = editor_convert.convert(file.document(), DEFINITIONS)
    inputs = made.graph["5"]["inputs"]
    assert (inputs["positive"], inputs["negative"]) == (["2", 0], ["3", 0])
    assert any("'positive'" in warning and "'negative'" in warning for warning in made.warnings)


def doubtful(folder):
    """An editor file in which a switch has one value too many and no layout fits."""
    file = File(empty=True)
    file.node(1, "EmptyImage", values=[64, 64, 1, 0], outputs="IMAGE")
    file.node(2, "SaveImage", values=["out"], inputs="images:IMAGE")
    file.link(1, 0, 2, "images", "IMAGE")
    file.node(9, "PrimitiveBoolean", values=[5, 6], outputs="BOOLEAN", title="Magic")
    path = folder / "doubtful.json"
    path.write_text(json.dumps(file.document()), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "script", ["run_workflow.py", "run_batch.py", "validate_workflow.py", "extract_schema.py"]
)
def test_a_node_in_doubt_is_refused_and_sent_with_its_doubt_where_that_is_allowed(
    run, demo, tmp_path, script
):
    words = [doubtful(tmp_path), "--host", demo.url]
    if script.startswith("run_"):
        words += ["--output-dir", tmp_path / "out"]
    if script == "run_batch.py":
        words += ["--count", 2]
    done = run(script, *words)
    assert (done.code, done.json["code"]) == (1, "cannot_convert")
    assert done.json["node"]["id"] == "9"
    assert demo.asked("/prompt") == []
    done = run(script, *words, "--allow-unsure")
    assert done.code == 0, done.out
    assert "Magic" in json.dumps(done.json["warnings"])
    assert len(demo.asked("/prompt")) == {"run_workflow.py": 1, "run_batch.py": 2}.get(script, 0)
    sent_graphs = [entry["prompt"][2] for entry in demo.get("/history").values()]
    assert all(graph["9"]["inputs"] == {"value": 5} for graph in sent_graphs)


def test_a_batch_with_a_node_in_doubt_can_be_resumed(run, demo, tmp_path):
    out = tmp_path / "out"
    words = ["run_batch.py", doubtful(tmp_path), "--host", demo.url, "--output-dir", out, "--count", 2]
    assert run(*words, "--allow-unsure").code == 0
    done = run("run_batch.py", "--resume", out, "--host", demo.url)
    assert done.code == 0, done.out
