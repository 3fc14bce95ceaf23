"""What must hold for every file: the way there and back, refusals instead of crashes, and an end."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyskill.base.cli import SkillError
from comfyskill.editor import browser_text, convert, diff, read, to_editor, widgets
from comfyskill.graph import specs
from editor_files import CORE, DEFINITIONS, File, sampling_definition, with_subgraph

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TEXT = st.text(max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)

# Classes whose widgets cover every kind: numbers, choices, texts, dynamic prompts, seeds, uploads, dynamic inputs.
CLASSES = [
    "CheckpointLoaderSimple", "CLIPTextEncode", "EmptyLatentImage", "KSampler", "VAEDecode", "LoraLoader", "LoadImage",
    "ImageScaleBy", "ControlNetApplyAdvanced", "ResizeImageMaskNode", "BatchImagesNode", "PrimitiveString",
    "PrimitiveFloat", "PrimitiveInt", "RandomNoise", "KSamplerAdvanced", "ImageCompositeMasked", "CLIPTextEncodeSDXL",
]  # fmt: skip
# The browser cannot keep a text that ends in a lone backslash where prompts are dynamic, nor file name tokens.
PLAIN = st.text(st.characters(blacklist_categories=["Cs"]), max_size=40).filter(
    lambda text: (len(text) - len(text.rstrip("\\"))) % 2 == 0 and "%" not in text
)


def value_of(spec):
    kind = spec.widget_type
    if kind == "INT":
        return st.integers(-(2**53), 2**53)
    if kind == "FLOAT":
        return st.floats(-1e6, 1e6, width=32)
    if kind == "BOOLEAN":
        return st.booleans()
    if kind == "COMBO":
        return (
            st.sampled_from(spec.choices)
            if spec.choices
            else TEXT.filter(lambda text: not text.startswith("sample_"))
        )
    return PLAIN


@st.composite
def graphs(draw):
    """API graphs with a value or a link for every widget, links to earlier nodes."""
    made = {}
    names = draw(
        st.lists(
            st.integers(1, 9999).map(str) | st.from_regex(r"[a-z]{1,6}", fullmatch=True),
            min_size=1,
            max_size=7,
            unique=True,
        )
    )
    outputs = []
    for name in names:
        class_type = draw(st.sampled_from(CLASSES))
        node_class = widgets.read_class(class_type, DEFINITIONS[class_type])
        inputs = {}
        for spec in node_class.specs:
            if spec.is_widget:
                put_widget(draw, inputs, spec, outputs)
            elif spec.type == "COMFY_AUTOGROW_V3":
                for number in range(draw(st.integers(0, 3)) if outputs else 0):
                    inputs[f"{spec.name}.{spec.options['template']['prefix']}{number}"] = list(
                        draw(st.sampled_from(outputs))
                    )
            elif outputs and draw(st.booleans()):
                inputs[spec.name] = list(draw(st.sampled_from(outputs)))
        made[name] = {
            "class_type": class_type,
            "inputs": inputs,
            "_meta": {"title": draw(PLAIN.filter(bool))},
        }
        outputs += [(name, slot) for slot in range(len(node_class.outputs))]
    return made


def put_widget(draw, inputs, spec, outputs):
    if spec.widget_type == specs.DYNAMIC_COMBO:
        option = draw(st.sampled_from(spec.options["options"]))
        inputs[spec.name] = option["key"]
        widget = widgets.Widget(spec.name, spec.widget_type, option["key"], spec)
        for inner in widgets.option_specs(widget):
            if inner.is_widget:
                inputs[inner.name] = draw(value_of(inner))
    elif outputs and draw(st.integers(0, 4)) == 0:
        inputs[spec.name] = list(draw(st.sampled_from(outputs)))
    else:
        inputs[spec.name] = draw(value_of(spec))


def same(first, second):
    return {k: (v["class_type"], v["inputs"], v["_meta"]["title"]) for k, v in first.items()} == {
        k: (v["class_type"], v["inputs"], v["_meta"]["title"]) for k, v in second.items()
    }


@QUICK
@given(graphs())
def test_there_and_back_is_the_same_graph(graph):
    editor = json.loads(json.dumps(to_editor.to_editor(graph, DEFINITIONS)))
    assert read.is_editor(editor)
    back = convert.convert(editor, DEFINITIONS)
    assert same(graph, back.graph)
    assert back.warnings == []


@QUICK
@given(graphs())
def test_there_and_back_without_any_definitions_keeps_what_is_in_the_graph(graph):
    editor = json.loads(json.dumps(to_editor.to_editor(graph, None)))
    back = convert.convert(editor, None).graph
    assert same(graph, back)


@QUICK
@given(graphs())
def test_a_laid_out_file_is_whole(graph):
    editor = to_editor.to_editor(graph, DEFINITIONS)
    nodes = {node["id"]: node for node in editor["nodes"]}
    assert len(nodes) == len(graph)
    for number, origin, slot, target, place, _kind in editor["links"]:
        assert number in nodes[origin]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][place]["link"] == number
    boxes = [(*node["pos"], *node["size"]) for node in editor["nodes"]]
    for index, (x, y, width, height) in enumerate(boxes):
        for left, top, wide, high in boxes[index + 1 :]:
            assert x + width <= left or left + wide <= x or y + height <= top or top + high <= y


@QUICK
@given(
    PLAIN
    | st.text("/*{}|\\ab", max_size=12).filter(lambda text: (len(text) - len(text.rstrip("\\"))) % 2 == 0)
)
def test_a_guarded_text_resolves_to_itself(text):
    assert browser_text.resolve_choices(to_editor.guarded(text), lambda options: options[0]) == text


@QUICK
@given(graphs())
def test_a_graph_does_not_differ_from_itself_and_every_change_is_found(graph):
    assert diff.diff(graph, copy.deepcopy(graph)) == []
    changed = copy.deepcopy(graph)
    gone = sorted(changed)[0]
    del changed[gone]
    assert any(entry["kind"] == "node_removed" and entry["node_id"] for entry in diff.diff(graph, changed))


BASES = [
    File().document(),
    with_subgraph(["text", 1, 2], (("-1", "text"), ("5", "seed"), ("-1", "steps"))).document(),
]


def places(value, path=()):
    """Every place in a JSON value, as the keys that lead there."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from places(value[index], (*path, index))


KNOWN = {"server": DEFINITIONS, "bundled": CORE, "none": None}
ALL_PLACES = [list(places(base)) for base in BASES]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_damaged_file_is_converted_or_refused(data):
    which = data.draw(st.integers(0, 1))
    document = copy.deepcopy(BASES[which])
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(ALL_PLACES[which]))
        holder = document
        for key in path[:-1]:
            try:
                holder = holder[key]
            except (KeyError, IndexError, TypeError):
                break
        else:
            if (
                path
                and isinstance(holder, (dict, list))
                and (isinstance(holder, dict) or (isinstance(path[-1], int) and path[-1] < len(holder)))
            ):
                if data.draw(st.booleans()):
                    holder[path[-1]] = data.draw(JSON)
                elif isinstance(holder, list):
                    holder.append(copy.deepcopy(holder[path[-1]]))
                else:
                    holder.pop(path[-1], None)
    try:
        made = convert.convert(
            document,
            KNOWN[data.draw(st.sampled_from(sorted(KNOWN)))],
            explain=True,
        )
    except SkillError as error:
        assert error.message
    else:
        json.dumps(made.graph, allow_nan=False)
        for entry in made.graph.values():
            for value in entry["inputs"].values():
                if isinstance(value, list):
                    assert value[0] in made.graph


@QUICK
@given(JSON)
def test_any_json_is_converted_or_refused(value):
    try:
        convert.convert(value, DEFINITIONS)
    except SkillError as error:
        assert error.code == "not_editor_format"


@QUICK
@given(st.dictionaries(TEXT, JSON, max_size=4), st.booleans())
def test_any_mapping_can_be_laid_out_and_compared(graph, known):
    json.dumps(to_editor.to_editor(graph, DEFINITIONS if known else None))
    diff.diff(graph, {})
    diff.diff({}, graph)


@QUICK
@given(st.dictionaries(st.sampled_from(["KSampler", "CLIPTextEncode", "SaveImage"]), JSON, max_size=3))
def test_hostile_definitions_are_survived(definitions):
    try:
        convert.convert(BASES[0], DEFINITIONS | definitions)
    except SkillError as error:
        assert error.message


@pytest.mark.parametrize("depth", [10, 300])
def test_nesting_is_followed_to_a_bound(depth):
    file = File()
    names = [f"level-{number}" for number in range(depth)]
    for number, name in enumerate(names):
        inner = sampling_definition(name)
        kind = names[number + 1] if number + 1 < depth else "VAEDecode"
        inner["nodes"].append({"id": 50, "type": kind, "mode": 0, "inputs": [], "outputs": []})
        file.definitions.append(inner)
    file.node(10, names[0])
    if depth > 64:
        with pytest.raises(SkillError, match="nested deeper"):
            convert.convert(file.document(), DEFINITIONS)
    else:
        assert (
            sum(name.endswith(":5") for name in convert.convert(file.document(), DEFINITIONS).graph) == depth
        )


def test_subgraphs_that_double_at_each_level_are_refused_in_time():
    file = File()
    for number in range(40):
        twice = [
            {"id": n, "type": f"level-{number + 1}", "mode": 0, "inputs": [], "outputs": []} for n in (1, 2)
        ]
        file.definitions.append(
            {"id": f"level-{number}", "nodes": twice, "links": [], "inputs": [], "outputs": []}
        )
    file.definitions.append({"id": "level-40", "nodes": [], "links": [], "inputs": [], "outputs": []})
    file.node(10, "level-0")
    with pytest.raises(SkillError) as caught:
        convert.convert(file.document(), DEFINITIONS)
    assert caught.value.code == "cannot_convert"


def test_a_chain_of_ten_thousand_reroutes_is_followed():
    file = File(empty=True)
    file.node(0, "CheckpointLoaderSimple", values=["a"], outputs="MODEL CLIP VAE")
    count = 10_000
    nodes = [
        {
            "id": n,
            "type": "Reroute",
            "mode": 0,
            "inputs": [{"name": "", "type": "*", "link": n}],
            "outputs": [{"name": "", "type": "*"}],
        }
        for n in range(1, count)
    ]
    nodes.append({"id": count, "type": "CLIPTextEncode", "mode": 0, "inputs": [{"name": "clip", "type": "CLIP", "link": count}],
                  "outputs": [], "widgets_values": ["x"]})  # fmt: skip
    document = file.document()
    document["nodes"] += nodes
    document["links"] = [[n, n - 1, 1 if n == 1 else 0, n, 0, "CLIP"] for n in range(1, count + 1)]
    assert convert.convert(document, DEFINITIONS).graph[str(count)]["inputs"]["clip"] == ["0", 1]
