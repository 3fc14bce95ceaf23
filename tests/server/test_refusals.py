"""Rejections of ComfyUI 0.33, as recorded, in plain words."""

from __future__ import annotations

from typing import Any

import pytest

from comfyskill.server import refusals

FAILED = {
    "type": "prompt_outputs_failed_validation",
    "message": "Prompt outputs failed validation",
    "details": "",
}
PATH = "1 (ImageInvert) -> 2 (ImageInvert) -> 1 (ImageInvert)"


def cycle(node_id: str) -> dict[str, Any]:
    error = {
        "type": "dependency_cycle", "message": "Dependency cycle detected", "details": PATH,
        "extra_info": {"node_id": node_id, "cycle_nodes": ["1", "2"]},
    }  # fmt: skip
    return {"errors": [error], "dependent_outputs": ["3"], "class_type": "ImageInvert"}


def inverts() -> dict[str, Any]:
    return {
        "1": {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    }


def test_a_cycle_is_one_problem_with_its_nodes() -> None:
    error = refusals.rejection(
        {"error": FAILED, "node_errors": {"1": cycle("1"), "2": cycle("2")}}, inverts()
    )

    first = error.details["node_errors"][0]
    assert (first["type"], first["input"], first["cycle"]["items"]) == ("dependency_cycle", "", ["1", "2"])
    assert first["server_said"] == PATH
    assert "more)" not in error.message


def test_the_servers_words_for_a_node_stand_in_for_missing_details() -> None:
    error = refusals.rejection({"error": FAILED, "node_errors": {"1": cycle("1")}}, inverts())

    assert PATH in error.details["server_said"]


@pytest.mark.parametrize(
    ("kind", "class_type"), [("missing_node_type", "NoSuch"), ("invalid_prompt", None), ("missing_node_type", None)]
)  # fmt: skip
def test_a_missing_class_is_named_with_its_node(kind: str, class_type: str | None) -> None:
    error = {"type": kind, "message": "Node 'Mine' not found.", "details": "Node ID '#1'"}
    if class_type:
        error |= {"extra_info": {"node_id": "1", "class_type": class_type, "node_title": "Mine"}}
    told = refusals.rejection(
        {"error": error, "node_errors": {}}, {"1": {"class_type": "NoSuch", "inputs": {}}}
    )

    assert told.details["rejection"] == kind
    assert "'NoSuch' (node 1)" in told.message
    assert "check_deps.py" in (told.hint or "")


def test_a_node_without_a_class_is_not_a_missing_pack() -> None:
    error = {
        "type": "missing_node_type", "message": "Node 'ID #1' has no class_type.", "details": "Node ID '#1'",
        "extra_info": {"node_id": "1", "class_type": None, "node_title": None},
    }  # fmt: skip
    told = refusals.rejection({"error": error, "node_errors": {}}, {"1": {"inputs": {}}})

    assert "class_type" in told.message
    assert "check_deps.py" not in (told.hint or "")


def test_a_wrong_prompt_id_is_not_a_wrong_graph() -> None:
    error = {
        "type": "invalid_prompt_id",
        "message": "prompt_id must be a valid UUID",
        "details": "",
        "extra_info": {},
    }
    told = refusals.rejection({"error": error, "node_errors": {}}, {})

    assert "--prompt-id" in (told.hint or "")


def test_the_class_that_the_server_judged_is_named_beside_the_graphs_own() -> None:
    wrong = {
        "type": "value_not_in_list", "message": "Value not in list", "details": "",
        "extra_info": {"input_name": "control_net_name", "input_config": [["a.safetensors"], {}], "received_value": "b"},
    }  # fmt: skip
    graph = {"1": {"class_type": "T2IAdapterLoader", "inputs": {"t2i_adapter_name": "b"}}}
    (problem,) = refusals.node_problems({"1": {"errors": [wrong], "class_type": "ControlNetLoader"}}, graph)

    assert (problem["class_type"], problem["input"]) == ("ControlNetLoader", "control_net_name")
    assert problem["allowed"]["items"] == ["a.safetensors"]
