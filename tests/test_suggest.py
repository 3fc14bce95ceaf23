"""Which bundled workflows suit a server."""

from __future__ import annotations

import json
from typing import Any

from conftest import ROOT, Demo, Runner


def test_what_is_ready_comes_first_and_what_is_missing_is_named(run: Runner, new_demo: Any) -> None:
    server: Demo = new_demo("--models", "checkpoints=v1-5-pruned-emaonly-fp16.safetensors")
    ran = run("server_info.py", "suggest", "--host", server.url)
    rows = {row["file"]: row for row in ran.json["workflows"]}
    assert ran.code == 0
    index = json.loads((ROOT / "workflows/index.json").read_text())
    assert set(rows) == {entry["file"] for entry in index["workflows"]}
    assert rows["sd15_txt2img.json"]["missing_models"] == []
    assert rows["photo_touchup.json"]["fits"] is True
    assert rows["sdxl_txt2img.json"]["missing_models"]
    ready = [not row["missing_models"] for row in ran.json["workflows"]]
    assert ready == sorted(ready, reverse=True)
    memory = ran.json["memory_gb"]
    for row in rows.values():
        if row["missing_models"] and row["vram_gb"]:
            assert row["fits"] is (row["vram_gb"] <= memory + 0.6)


def test_only_one_kind(run: Runner, demo: Demo) -> None:
    ran = run("server_info.py", "suggest", "--kind", "video", "--host", demo.url)
    assert {row["kind"] for row in ran.json["workflows"]} == {"video"}
