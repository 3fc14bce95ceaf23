"""validate_workflow.py as a command, and its verdict beside that of a server that answers."""

from __future__ import annotations

import copy
import functools
import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from comfyskill.graph import check
from editor_files import File

DEFINITIONS = Path(__file__).parent.parent / "data/graph/definitions.json"
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}, "_meta": {"title": "Turn"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}


def changed(**changes):
    graph = copy.deepcopy(GRAPH)
    for key, value in changes.items():
        node_id, name = key.lstrip("n").split("__")
        if name == "gone":
            del graph[node_id]
        elif name == "class":
            graph[node_id]["class_type"] = value
        else:
            graph[node_id]["inputs"][name] = value
    return graph


def test_a_sound_workflow_is_exit_0(run, graph_file):
    done = run("validate_workflow.py", graph_file(GRAPH), "--object-info", DEFINITIONS)

    assert done.code == 0
    assert done.json["status"] == "ok"
    assert done.json["counts"] == {"error": 0, "warning": 0, "info": 0}
    assert done.json["definitions"] == "file"


def test_a_workflow_that_would_be_rejected_is_exit_6(run, graph_file):
    done = run("validate_workflow.py", graph_file(changed(n1__width=0)), "--object-info", DEFINITIONS)

    assert done.code == 6
    assert done.json["status"] == "invalid"
    (finding,) = done.json["findings"]["items"]
    assert finding["code"] == "too_small"
    assert (finding["node_id"], finding["input"], finding["severity"]) == ("1", "width", "error")
    assert finding["fix"]


def test_a_missing_type_of_an_editor_file_is_named(run, tmp_path):
    file = File()
    file.node(8, "SharpenQuux", values=[1], inputs="image:IMAGE", outputs="IMAGE")
    file.link(6, 0, 8, "image")
    file.nodes.remove(file[7])
    file.links = [row for row in file.links if row[3] != 7]
    file.node(7, "SaveImage", values=["out"], inputs="images:IMAGE")
    file.link(8, 0, 7, "images")
    path = tmp_path / "quux.json"
    path.write_text(json.dumps(file.document()), "utf-8")

    done = run("validate_workflow.py", path, "--object-info", DEFINITIONS)

    assert done.code == 6
    found = {(f["code"], f["class_type"]) for f in done.json["findings"]["items"] if "class_type" in f}
    assert found >= {("unknown_class", "SharpenQuux"), ("not_in_list", "CheckpointLoaderSimple")}
    assert not {"dead_branch", "no_class_type"} & {f["code"] for f in done.json["findings"]["items"]}


def test_offline_says_what_it_could_not_check(run, graph_file):
    graph = changed(n2__class="NobodyHasThis")
    done = run("validate_workflow.py", graph_file(graph), "--offline")

    assert done.code == 0
    assert "NobodyHasThis" in done.out
    assert done.json["findings"]["items"][-1]["code"] == "not_checked"


@pytest.mark.parametrize("name", ["sdxl_txt2img.json", "flux_dev_txt2img.json", "wan_video_t2v.json"])
def test_the_bundled_workflows_have_no_errors_offline(run, name):
    path = Path(__file__).parent.parent.parent / "workflows" / name
    done = run("validate_workflow.py", path, "--offline")

    assert done.code == 0, done.out


CASES = {
    "sound": GRAPH,
    "number as text": changed(n1__width="64"),
    "too small": changed(n1__width=0),
    "no number": changed(n1__width="wide"),
    "nothing": changed(n1__width=None),
    "wrong type": changed(n3__images=["3", 0]),
    "to nowhere": changed(n3__images=["9", 0]),
    "no such slot": changed(n3__images=["1", 4]),
    "from the end": changed(n3__images=["1", -1]),
    "short link": changed(n3__images=["1"]),
    "cycle": changed(n2__image=["2", 0]),
    "unknown class": changed(n2__class="NoSuchClass"),
    "no output": changed(n3__gone=True),
    "extra input": changed(n1__extra=5),
    "a node that nothing uses": {**GRAPH, "9": {"class_type": "EmptyImage", "inputs": {"width": -5}}},
}


def accepts(url: str, graph: dict) -> bool:
    """Whether a server takes a graph whole: 200 and no errors about any node."""
    body = json.dumps({"prompt": graph}).encode()
    request = urllib.request.Request(f"{url}/prompt", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return not json.loads(answer.read())["node_errors"]
    except urllib.error.HTTPError as error:
        assert error.code in (400, 500)
        return False


@functools.cache
def definitions_of(url: str) -> dict:
    with urllib.request.urlopen(f"{url}/object_info", timeout=60) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize("graph", CASES.values(), ids=CASES)
def test_the_verdict_is_that_of_the_server(any_server, graph):
    found = check.findings(graph, definitions_of(any_server))

    assert check.rejected(found) != accepts(any_server, graph), [finding.message for finding in found]


def test_the_command_asks_the_server(run, demo, graph_file):
    done = run("validate_workflow.py", graph_file(CASES["to nowhere"]), "--host", demo.url)

    assert done.code == 6
    assert done.json["definitions"] == "server"
    assert done.json["findings"]["items"][0]["code"] == "link_to_nowhere"
    assert not [entry for entry in demo.log() if entry["method"] == "POST"]


def test_an_inventory_stands_in_for_its_server(run, demo, graph_file, tmp_path):
    taken = run(
        "check_deps.py", graph_file(GRAPH), "--host", demo.url, "--save-inventory", tmp_path / "stock.json"
    )
    assert taken.code == 0, taken.out
    done = run(
        "validate_workflow.py", graph_file(changed(n1__width=0)), "--inventory", tmp_path / "stock.json"
    )

    assert done.code == 6
    assert done.json["definitions"] == "inventory"


def test_a_workflow_that_cannot_be_read_is_exit_2(run, tmp_path):
    assert run("validate_workflow.py", tmp_path / "none.json", "--offline").code == 2
    assert run("validate_workflow.py", tmp_path, "--offline").code == 2
