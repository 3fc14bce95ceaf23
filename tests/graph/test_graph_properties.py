"""Properties of reading, tracing, checking and filling that hold for any JSON, however odd."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from comfyskill.base.cli import SkillError
from comfyskill.graph import check, facts, fill, rewrite
from comfyskill.graph import nodes as graph_nodes
from comfyskill.graph import parameters as graph_parameters
from comfyskill.graph import specs as graph_specs
from comfyskill.graph import values as graph_settings

DEFINITIONS = json.loads(
    (Path(__file__).parent.parent / "data/graph/definitions.json").read_text(encoding="utf-8")
)
QUICK = settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))

scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12)
any_json = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

IDS = ["1", "2", "3", "12:3", "7.0", "a b", "", "é"]
links = st.tuples(
    st.sampled_from([*IDS, "99", 1, 3.5, None]), st.sampled_from([0, 1, 2, -1, 99, "0", True])
).map(list)
NAMES = ["text", "model", "clip", "positive", "negative", "conditioning", "seed", "noise_seed", "steps", "width", "height",
         "image", "images.image0", "resize_type", "resize_type.width", "value", "string", "string_a", "replace", "lora_name",
         "ckpt_name", "mask", "latent_image", "samples", "switch", "on_true", "prompt", "", "a.b", "é"]  # fmt: skip
inputs = st.dictionaries(st.sampled_from(NAMES), links | any_json, max_size=6)
classes = st.sampled_from(
    [*sorted(DEFINITIONS), "Unheard", "Reroute", "easy positive", "", "Any Switch (rgthree)"]
)
nodes = st.fixed_dictionaries(
    {"class_type": classes, "inputs": inputs},
    optional={"_meta": st.fixed_dictionaries({"title": st.text(max_size=8)}) | any_json},
)
odd_nodes = (
    nodes
    | st.fixed_dictionaries({}, optional={"class_type": any_json, "inputs": any_json, "_meta": any_json})
    | any_json
)
graphs = st.dictionaries(st.sampled_from(IDS), nodes, min_size=1, max_size=8)
odd_graphs = st.dictionaries(st.sampled_from(IDS), odd_nodes, max_size=8)

specs = (
    st.tuples(st.sampled_from(["INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "IMAGE", "*", "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3"]),
              any_json | st.dictionaries(st.sampled_from(["min", "max", "step", "default", "options", "template", "image_upload"]), any_json))
    .map(list) | any_json
)  # fmt: skip
definition = st.fixed_dictionaries(
    {"input": st.dictionaries(st.sampled_from(["required", "optional", "hidden"]), st.dictionaries(st.sampled_from(NAMES), specs)) | any_json},
    optional={"output": any_json, "output_node": any_json, "output_name": any_json, "api_node": any_json, "deprecated": any_json},
)  # fmt: skip
odd_definitions = (
    st.none() | st.dictionaries(classes, definition | any_json, max_size=6) | st.just(DEFINITIONS)
)


def same(left, right):
    """Equality that takes a NaN for itself."""
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left) and math.isnan(right):
        return True
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


@QUICK
@given(
    any_json
    | odd_graphs
    | st.dictionaries(st.sampled_from(["prompt", "workflow", "extra_data", "output"]), odd_graphs | any_json)
)
def test_unwrapping_gives_a_graph_or_a_refusal(document):
    before = copy.deepcopy(document)
    try:
        found = graph_nodes.unwrap(document)
    except SkillError as error:
        assert error.exit == 2
        return
    assert same(document, before)
    assert found.kind in ("api", "editor")
    if found.graph is not None:
        assert all(
            isinstance(node_id, str) and isinstance(node, dict) for node_id, node in found.graph.items()
        )
        again = graph_nodes.unwrap({"prompt": found.graph})
        assert same(again.graph, found.graph)


@QUICK
@given(odd_graphs, odd_definitions)
def test_reading_and_checking_never_fail(graph, definitions):
    before = copy.deepcopy(graph)
    parameters = graph_parameters.find(graph, definitions)
    names = [parameter.name for parameter in parameters]
    assert len(set(names)) == len(names)
    json.dumps(parameters.to_json())
    for finding in check.findings(graph, definitions):
        assert finding.severity in ("error", "warning", "info")
        assert finding.message and finding.fix
    facts.outputs_of(graph, definitions)
    facts.partner_nodes(graph, definitions)
    facts.models_in(graph)
    facts.embeddings_in(graph)
    facts.is_video(graph, definitions)
    assert facts.sampling_steps(graph, definitions) >= 0
    assert same(graph, before)


@QUICK
@given(graphs, odd_definitions)
def test_every_parameter_is_found_by_its_name_and_its_address(graph, definitions):
    parameters = graph_parameters.find(graph, definitions)
    for parameter in parameters:
        assert parameter in parameters.resolve(parameter.name)
    for plain, group in parameters.groups.items():
        if group.sets_all:
            assert [found.address for found in parameters.resolve(plain)] == [
                member.address for member in group.members
            ]


@QUICK
@given(odd_graphs, st.dictionaries(st.sampled_from([*NAMES, "1.text", "3.seed", "size", "Unheard.text"]) | st.text(max_size=6),
       any_json | st.sampled_from(["-1", "5", "true", "640x480"]), max_size=3), odd_definitions, st.booleans(), st.booleans())  # fmt: skip
def test_filling_changes_what_it_says_and_nothing_else(graph, wanted, definitions, validate, randomize):
    before = copy.deepcopy(graph)
    try:
        filled = fill.fill(graph, wanted, definitions, validate=validate, randomize_seed=randomize)
    except SkillError as error:
        assert error.exit == 2
        return
    finally:
        assert same(graph, before)
    places = {(change["node_id"], change["input"]) for change in filled.changes}
    assert filled.graph.keys() == graph.keys()
    for node_id, node in graph.items():
        made = filled.graph[node_id]
        if not any(place[0] == node_id for place in places):
            assert same(made, node)
            continue
        kept = {key: value for key, value in node.items() if key != "inputs"}
        assert same({key: value for key, value in made.items() if key != "inputs"}, kept)
        for name in {*node["inputs"], *made["inputs"]}:
            if (node_id, name) not in places:
                assert same(made["inputs"][name], node["inputs"][name])
            else:
                assert not isinstance(made["inputs"][name], list), "a bare list would be a link"


@QUICK
@given(odd_graphs, st.lists(st.text(max_size=10), max_size=2), odd_definitions)
def test_adding_loras_gives_a_graph_or_a_refusal(graph, names, definitions):
    before = copy.deepcopy(graph)
    try:
        made, notes = rewrite.add_loras(graph, names, definitions)
    except SkillError as error:
        assert error.exit == 2
    else:
        assert len(made) == len(graph) + len(names) == len(graph) + len(notes)
    assert same(graph, before)


@QUICK
@given(st.sampled_from(sorted(DEFINITIONS)), st.sampled_from(NAMES), any_json)
def test_a_filled_value_passes_the_check(class_type, name, value):
    """What `fill` lets through, the check (and so the server) takes."""
    graph = {"1": {"class_type": class_type, "inputs": {name: None}}}
    assume(name in graph_specs.Book(DEFINITIONS).specs(graph["1"]))
    try:
        filled = fill.fill(graph, {f"1.{name}": value}, DEFINITIONS)
    except SkillError:
        return
    filled.graph["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    codes = {
        f.code for f in check.findings(filled.graph, DEFINITIONS) if f.input == name and f.node_id == "1"
    }
    assert not codes & {"wrong_type", "too_small", "too_big", "not_in_list", "bad_link"}


@QUICK
@given(st.text(max_size=30))
def test_command_line_words_are_read_or_refused(text):
    for read in (graph_settings.parse_set, graph_settings.parse_args_json, rewrite.parse_lora):
        try:
            read(text)
        except SkillError as error:
            assert error.exit == 2
