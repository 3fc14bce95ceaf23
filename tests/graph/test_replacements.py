"""Replaced node classes: renamed by the server's table, and nothing lost that fits."""

from __future__ import annotations

import copy

from comfyskill.graph.replacements import new_class, replaced

DEFINITIONS = {
    "ControlNetLoader": {"input": {"required": {"control_net_name": [["a.safetensors"]]}}, "output": ["CONTROL_NET"]},
    "Load3D": {"input": {"required": {"model_file": ["STRING"], "width": ["INT"]}}, "output": ["IMAGE", "MASK"]},
    "Kept": {"input": {"required": {"image": ["IMAGE"]}}, "output": ["IMAGE"]},
    "Batch": {
        "input": {
            "required": {
                "images": [
                    "COMFY_AUTOGROW_V3",
                    {"template": {"input": {"required": {"image": ["IMAGE", {}]}}, "prefix": "image", "min": 2, "max": 5}},
                ]
            }
        },
        "output": ["IMAGE"],
    },
}  # fmt: skip


def row(old, new, inputs=None, outputs=None):
    return {
        old: [{"old_node_id": old, "new_node_id": new, "input_mapping": inputs, "output_mapping": outputs}]
    }


TABLE = (
    row(
        "T2IAdapterLoader", "ControlNetLoader", [{"new_id": "control_net_name", "old_id": "t2i_adapter_name"}]
    )
    | row("Load3DAnimation", "Load3D", None, [{"old_idx": 0, "new_idx": 1}])
    | row("Kept", "ControlNetLoader")
    | row("OldOfNothing", "NewThatIsMissing")
    | row(
        "OldBatch",
        "Batch",
        [
            {"new_id": "images.image0", "old_id": "first"},
            {"new_id": "images.image1", "old_id": "second"},
            {"new_id": "method", "set_value": "join"},
        ],
    )
)


def test_an_input_is_renamed_as_the_table_says():
    graph = {"1": {"class_type": "T2IAdapterLoader", "inputs": {"t2i_adapter_name": "a.safetensors"}, "_meta": {"title": "x"}}}  # fmt: skip
    before = copy.deepcopy(graph)
    answer = replaced(graph, TABLE, DEFINITIONS)
    assert answer.graph["1"]["class_type"] == "ControlNetLoader"
    assert answer.graph["1"]["inputs"] == {"control_net_name": "a.safetensors"}
    assert answer.graph["1"]["_meta"] == {"title": "x"}
    assert [(one.node_id, one.old, one.new, one.lost) for one in answer.renamed] == [
        ("1", "T2IAdapterLoader", "ControlNetLoader", ())
    ]
    assert graph == before


def test_a_table_without_input_mapping_loses_no_input_that_the_new_class_declares():
    graph = {
        "1": {"class_type": "Load3DAnimation", "inputs": {"model_file": "m.glb", "width": 4, "camera": 1}}
    }
    answer = replaced(graph, TABLE, DEFINITIONS)
    assert answer.graph["1"]["inputs"] == {"model_file": "m.glb", "width": 4}
    assert answer.renamed[0].lost == ("camera",)


def test_links_to_a_moved_output_follow_it():
    graph = {
        "1": {"class_type": "Load3DAnimation", "inputs": {}},
        "2": {"class_type": "Kept", "inputs": {"image": ["1", 0], "other": ["1", 5]}},
    }
    assert replaced(graph, TABLE, DEFINITIONS).graph["2"]["inputs"] == {"image": ["1", 1], "other": ["1", 5]}


def test_dynamic_inputs_set_values_and_absent_inputs():
    graph = {"1": {"class_type": "OldBatch", "inputs": {"first": ["9", 0]}}}
    answer = replaced(graph, TABLE, DEFINITIONS)
    assert answer.graph["1"]["inputs"] == {"images.image0": ["9", 0], "method": "join"}


def test_classes_that_the_server_has_and_replacements_that_it_lacks_stay():
    graph = {"1": {"class_type": "Kept", "inputs": {}}, "2": {"class_type": "OldOfNothing", "inputs": {}}}
    answer = replaced(graph, TABLE, DEFINITIONS)
    assert answer.graph is graph
    assert answer.renamed == []


def test_without_definitions_nothing_is_renamed():
    graph = {"1": {"class_type": "T2IAdapterLoader", "inputs": {}}}
    assert replaced(graph, TABLE, None).renamed == []


def test_a_table_of_another_shape_is_no_reason_to_fail():
    graph = {"1": {"class_type": "Old", "inputs": {}}}
    for entry in (
        None,
        5,
        "Kept",
        {},
        [None],
        [{"new_node_id": 7}],
        [{"new_node_id": "Kept", "input_mapping": 3}],
    ):
        answer = replaced(graph, {"Old": entry}, DEFINITIONS)
        assert {one.new for one in answer.renamed} <= {"Kept"}
    assert new_class("T2IAdapterLoader", TABLE) == "ControlNetLoader"
    assert new_class("Unlisted", TABLE) is None
