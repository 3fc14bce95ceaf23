"""The bundled workflows: valid against node definitions, and described truthfully by index.json and README.md.

`data/workflows/object_info.json` holds the definitions of a server 0.8.0 for the classes in use; those of
AnimateDiff-Evolved and VideoHelperSuite follow the packs' published input tables.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from comfyskill.graph import facts, specs
from comfyskill.graph import parameters as graph_parameters

HERE = Path(__file__).parent

FOLDER = HERE.parent / "workflows"
DEFINITIONS = json.loads((HERE / "data" / "workflows" / "object_info.json").read_text(encoding="utf-8"))
INDEX = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
FILES = sorted(path for path in FOLDER.glob("*.json") if path.name != "index.json")
ENTRIES = {entry["file"]: entry for entry in INDEX["workflows"]}
# Inputs that only servers since 0.33 read; the files carry them beside those of older servers.
NEWER = {"SaveVideo": {"format.codec"}}
NEW_DEFINITIONS = json.loads((HERE / "data" / "graph" / "definitions_033.json").read_text(encoding="utf-8"))
README = (FOLDER / "README.md").read_text(encoding="utf-8")
WANTED = """sd15_txt2img sdxl_txt2img sdxl_img2img sdxl_inpaint flux_dev_txt2img upscale_4x animatediff_video
wan_video_t2v photo_touchup sd3_txt2img flux_schnell_txt2img flux_kontext_edit qwen_image_txt2img sdxl_lora
sdxl_controlnet inpaint_model wan22_i2v ltxv_t2v ace_step_audio hunyuan3d_image_to_3d""".split()

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def graph_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def specs_of(definition):
    return {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}


def chosen_inputs(definition, inputs):
    """Inputs that a combo's choice brings with it (VHS formats), as {name: spec}."""
    formats = specs_of(definition).get("format", [[], {}])
    extra = formats[1].get("formats", {}).get(inputs.get("format"), []) if len(formats) > 1 else []
    return {name: list(spec) for name, *spec in extra}


def problems(graph):
    """What a strict server would say about a graph, as sentences; [] for a good one."""
    found, used = [], set()
    for node_id, node in graph.items():
        definition = DEFINITIONS[node["class_type"]]
        specs = specs_of(definition) | chosen_inputs(definition, node["inputs"])
        missing = set(definition["input"].get("required", {})) - set(node["inputs"])
        found += [f"{node_id}: {name} is missing" for name in missing]
        for name, value in node["inputs"].items():
            if name in NEWER.get(node["class_type"], ()):
                continue
            if name not in specs:
                found.append(f"{node_id}: {name} is not an input of {node['class_type']}")
            elif isinstance(value, list):
                used.add(value[0])
                found += link_problems(graph, f"{node_id}.{name}", value, specs[name][0])
            else:
                found += value_problems(f"{node_id}.{name}", value, specs[name])
    for node_id, node in graph.items():
        if node_id not in used and not DEFINITIONS[node["class_type"]]["output_node"]:
            found.append(f"{node_id}: nothing uses it")
    return found


def link_problems(graph, where, value, wanted):
    source, slot = value
    if source not in graph:
        return [f"{where}: no node {source}"]
    outputs = DEFINITIONS[graph[source]["class_type"]]["output"]
    if slot >= len(outputs):
        return [f"{where}: node {source} has no output {slot}"]
    given = outputs[slot]
    return [] if given in wanted.split(",") else [f"{where}: wants {wanted}, gets {given}"]


def value_problems(where, value, spec):
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if isinstance(kind, list) or kind == "COMBO":
        choices = kind if isinstance(kind, list) else options.get("options", [])
        # A list without entries is a model folder of the recording server; LoadImage lists its input folder.
        open_list = not choices or choices in (["pixel_space"], ["example.png"])
        return [] if open_list or value in choices else [f"{where}: {value!r} is no choice"]
    if kind in ("INT", "FLOAT"):
        right = type(value) is int or (kind == "FLOAT" and type(value) is float)
        inside = right and options.get("min", value) <= value <= options.get("max", value)
        on_grid = (
            kind == "FLOAT" or not inside or (value - options.get("min", 0)) % options.get("step", 1) == 0
        )
        return [] if right and inside and on_grid else [f"{where}: {value!r} does not fit {options}"]
    wanted = {"STRING": str, "BOOLEAN": bool}.get(kind)
    return [] if wanted and type(value) is wanted else [f"{where}: {value!r} for {kind}"]


def test_every_wanted_workflow_is_there_and_no_other():
    assert sorted(path.stem for path in FILES) == sorted(WANTED)


@each_file
def test_it_is_valid_against_node_definitions(path):
    assert problems(graph_of(path)) == []


@each_file
def test_it_has_the_inputs_that_a_newer_server_requires(path):
    for node in graph_of(path).values():
        if node["class_type"] in NEWER:
            declared = specs.lay_out(NEW_DEFINITIONS[node["class_type"]]["input"], node["inputs"])
            assert {name for name, spec in declared.items() if spec.required} <= set(node["inputs"])
            assert set(node["inputs"]) - set(declared) <= {"codec"}


@pytest.mark.parametrize(
    ("node", "name", "value", "complaint"),
    [
        ("5", "steps", 0, "does not fit"),
        ("5", "cfg", "7", "does not fit"),
        ("4", "width", 513, "does not fit"),
        ("5", "sampler_name", "eula", "is no choice"),
        ("5", "model", ["2", 0], "wants MODEL"),
        ("5", "model", ["99", 0], "no node"),
        ("6", "vae", ["1", 3], "no output"),
        ("6", "wae", ["1", 2], "not an input"),
    ],
)
def test_the_validity_check_itself_sees_faults(node, name, value, complaint):
    graph = copy.deepcopy(graph_of(FOLDER / "sd15_txt2img.json"))
    graph[node]["inputs"][name] = value

    assert any(complaint in problem for problem in problems(graph))


@each_file
def test_titles_are_words_for_people_and_tell_nodes_apart(path):
    titles = [node["_meta"]["title"] for node in graph_of(path).values()]

    assert len(set(titles)) == len(titles)
    for title, node in zip(titles, graph_of(path).values(), strict=True):
        assert title != node["class_type"] and title[0].isupper() and "_" not in title


@each_file
def test_it_is_indexed(path):
    entry = ENTRIES[path.name]

    assert entry["kind"] in ("image", "video", "audio", "3d")
    assert entry["purpose"].endswith(".") and isinstance(entry["vram_gb"], int)


def test_the_index_names_no_other_file():
    assert sorted(ENTRIES) == [path.name for path in FILES]


@each_file
def test_the_index_names_its_models_with_folder_and_source(path):
    entry = ENTRIES[path.name]
    named = {(model["folder"], model["name"]) for model in entry["models"]}

    assert named == {(use.folder, use.name) for use in facts.models_in(graph_of(path))}
    for model in entry["models"]:
        assert model["url"].startswith("https://huggingface.co/") and "/resolve/" in model["url"]
        assert model["url"].endswith("/" + model["name"])
        assert model["name"].endswith(".safetensors"), "formats that can run code are not for defaults"
        assert model["gb"] and (model["bytes"] is None or abs(model["bytes"] / 1e9 - model["gb"]) < 0.01)


@each_file
def test_the_index_parameters_can_be_set_under_their_names(path):
    graph = graph_of(path)
    parameters = graph_parameters.find(graph, DEFINITIONS)
    for entry in ENTRIES[path.name]["parameters"]:
        found = [parameter.address for parameter in parameters.resolve(entry["name"])]

        assert found == entry["at"], entry["name"]
        node_id, name = entry["at"][0].split(".")
        assert graph[node_id]["inputs"][name] == entry["default"]


@each_file
def test_the_index_names_the_files_that_a_user_gives(path):
    graph = graph_of(path)
    loaders = {
        f"{node_id}.image"
        for node_id, node in graph.items()
        if node["class_type"] in ("LoadImage", "LoadImageMask")
    }

    assert {entry["at"] for entry in ENTRIES[path.name]["inputs"]} == loaders


@each_file
def test_the_index_names_the_node_packs(path):
    packs = {
        DEFINITIONS[node["class_type"]]["python_module"].removeprefix("custom_nodes.")
        for node in graph_of(path).values()
        if DEFINITIONS[node["class_type"]]["python_module"].startswith("custom_nodes.")
    }

    assert {pack["name"] for pack in ENTRIES[path.name]["node_packs"]} == packs


@each_file
def test_the_kind_is_what_its_last_node_saves(path):
    savers = {
        "image": {"SaveImage"},
        "video": {"SaveVideo", "VHS_VideoCombine"},
        "audio": {"SaveAudioMP3"},
        "3d": {"SaveGLB"},
    }
    outputs = {
        node["class_type"]
        for node in graph_of(path).values()
        if DEFINITIONS[node["class_type"]]["output_node"]
    }

    assert outputs <= savers[ENTRIES[path.name]["kind"]] and outputs


def test_one_workflow_needs_no_model_at_all():
    assert ENTRIES["photo_touchup.json"]["models"] == []
    assert not facts.models_in(graph_of(FOLDER / "photo_touchup.json"))


@each_file
def test_the_readme_has_a_row_with_purpose_memory_models_and_parameters(path):
    entry = ENTRIES[path.name]
    row = next(line for line in README.splitlines() if line.startswith(f"| [`{path.name}`]"))

    assert entry["purpose"] in row
    assert (f"| {entry['vram_gb']} GB |" if entry["vram_gb"] else "| none |") in row
    for thing in [*entry["models"], *entry["parameters"]]:
        assert f"`{thing['name']}`" in row


def test_the_readme_lists_every_model_with_its_source_size_and_licence():
    for model in (model for entry in ENTRIES.values() for model in entry["models"]):
        row = next(
            line for line in README.splitlines() if line.startswith(f"| [`{model['name']}`]({model['url']})")
        )
        size = f"{model['bytes']:,} bytes" if model["bytes"] else f"about {model['gb']} GB"

        assert size in row and (model["licence"] or "") in row
