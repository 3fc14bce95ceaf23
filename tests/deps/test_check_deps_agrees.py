"""check_deps and the server agree: "all present" is accepted, "missing" is rejected, whatever is spoilt in a workflow."""

from __future__ import annotations

import copy
import json
import random
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import check_deps

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = ("sd15_txt2img", "sdxl_lora", "flux_dev_txt2img", "upscale_4x", "wan_video_t2v", "sdxl_controlnet")


def accepted(url: str, graph: dict[str, Any]) -> bool:
    """Whether the server takes every output of the graph."""
    request = urllib.request.Request(
        f"{url}/prompt", json.dumps({"prompt": graph}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return not json.loads(answer.read())["node_errors"]
    except urllib.error.HTTPError as error:
        assert error.code == 400, error.read()
        return False


def spoilt(graph: dict[str, Any], chooser: random.Random) -> dict[str, Any]:
    """A copy in which one text value or one class is written otherwise, or nothing is."""
    copied = copy.deepcopy(graph)
    places = [
        (node["inputs"], name)
        for node in copied.values()
        for name, value in node["inputs"].items()
        if isinstance(value, str) and len(value) < 60 and name not in ("text", "filename_prefix", "image")
    ]
    if chooser.random() < 0.1:
        node = copied[chooser.choice(sorted(copied))]
        node["class_type"] += "X"
    elif places and chooser.random() < 0.85:
        inputs, name = chooser.choice(places)
        value = inputs[name]
        ways = (
            f"sub/{value}",
            value.upper(),
            value.rsplit(".", 1)[0],
            value + "x",
            "",
            value.replace("fp16", "fp8"),
        )
        inputs[name] = chooser.choice(ways)
    return copied


@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_is_what_the_server_does(
    name: str, demo: Any, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYUI_SKILL_CACHE", "off")
    whole = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    chooser = random.Random(name)
    verdicts = set()
    for _ in range(12):
        graph = spoilt(whole, chooser)
        path = tmp_path / "flow.json"
        path.write_text(json.dumps(graph))
        code = check_deps.main([str(path), "--host", demo.url, "--no-sources"])
        out = capsys.readouterr().out
        assert code in (0, 1), out
        assert accepted(demo.url, graph) is (code == 0), out
        verdicts.add(code)
    assert verdicts == {0, 1}
