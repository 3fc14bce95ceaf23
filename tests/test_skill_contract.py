"""The answers hold the keys that SKILL.md tells an agent to read, on each kind of end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bundle import ROOT, Demo, Runner

SKILL = (ROOT / "SKILL.md").read_text(encoding="utf-8")
SD15 = ROOT / "workflows" / "sd15_txt2img.json"


def told(*names: str) -> None:
    """These keys must be ones that the page speaks of."""
    for name in names:
        assert f"`{name}`" in SKILL, f"SKILL.md no longer tells of {name}"


def test_a_success_has_files_and_seeds(run: Runner, demo: Demo, tmp_path: Path) -> None:
    told("status", "outputs", "file", "type", "node_id", "seeds")
    done = run("run_workflow.py", SD15, "--host", demo.url, "--set", "seed=-1", "--output-dir", "out")
    assert done.code == 0 and done.json["status"] == "success"
    (saved,) = done.json["outputs"]
    assert Path(saved["file"]).is_file() and saved["type"] == "image" and saved["node_id"]
    assert list(done.json["seeds"]) == ["5.seed"]
    assert done.json["prompt_id"] in done.err


def test_a_wrong_name_is_answered_with_the_nearest(run: Runner, demo: Demo) -> None:
    told("nearest", "allowed")
    done = run("run_workflow.py", SD15, "--host", demo.url, "--set", "promt=x")
    assert done.code == 2 and "prompt" in done.json["nearest"]
    done = run("run_workflow.py", SD15, "--host", demo.url, "--set", "sampler_name=eulr")
    assert done.code == 2 and "euler" in json.dumps(done.json["allowed"])
    assert not [entry for entry in demo.log() if entry["path"] == "/prompt" and entry["method"] == "POST"]


def test_a_rejection_says_how_to_mend_it(run: Runner, demo: Demo) -> None:
    told("node_errors", "fix")
    words = ("--set", "ckpt_name=none.safetensors", "--no-validate")
    done = run("run_workflow.py", SD15, "--host", demo.url, *words)
    assert done.code == 6
    assert done.json["node_errors"] and all(row["fix"] for row in done.json["node_errors"])


def test_a_failed_job_is_explained_by_both_commands(run: Runner, demo: Demo) -> None:
    told("code", "message", "hint", "next", "proposals")
    demo.fault("oom:node=KSampler,times=1")
    done = run("run_workflow.py", SD15, "--host", demo.url)
    assert done.code == 1
    assert all(done.json[key] for key in ("code", "message", "hint", "next"))
    explained = run("fetch_logs.py", "--last", "--host", demo.url)
    assert explained.code == 1 and explained.json["code"] == done.json["code"] == "out_of_memory"
    assert explained.json["proposals"]


def test_what_still_runs_is_collected_by_id(run: Runner, demo: Demo) -> None:
    told("prompt_id")
    demo.fault("paused")
    done = run("run_workflow.py", SD15, "--host", demo.url, "--timeout", "0.5")
    assert done.code == 5 and done.json["next"]
    waiting = run("manage_queue.py", "wait", done.json["prompt_id"], "--timeout", "0.5", "--host", demo.url)
    assert waiting.code == 5
    demo.fault()
    resumed = run(
        "run_workflow.py", "--resume", done.json["prompt_id"], "--output-dir", "out", "--host", demo.url
    )
    assert resumed.code == 0 and Path(resumed.json["outputs"][0]["file"]).is_file()
    assert (
        len([entry for entry in demo.log() if entry["path"] == "/prompt" and entry["method"] == "POST"]) == 1
    )


def test_consent_is_asked_for_by_its_flag(run: Runner, demo: Demo, graph_file: Any) -> None:
    inputs = {"prompt": "x", "prompt_upsampling": False, "seed": 0, "aspect_ratio": "16:9", "raw": False}
    graph = {
        "1": {"class_type": "FluxProUltraImageNode", "inputs": inputs},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    done = run("run_workflow.py", graph_file(graph), "--host", demo.url)
    assert done.code == 7 and done.json["flag"] == "--yes-spend"
    assert "`--yes-spend`" in SKILL


def test_a_sweep_leaves_one_picture_and_one_page_to_look_at(run: Runner, demo: Demo) -> None:
    told("contact_sheet", "contact_sheets", "index_html")
    done = run("run_batch.py", SD15, "--sweep", "seed=1,2", "--host", demo.url, "--output-dir", "out")
    assert done.code == 0
    assert Path(done.json["contact_sheet"]).is_file() and Path(done.json["index_html"]).is_file()


def test_a_strangers_words_are_kept_apart(run: Runner) -> None:
    told("workflow_says", "server_said", "use_instead")
    done = run("inspect_workflow.py", ROOT / "evals" / "files" / "injected.json")
    assert done.code == 1
    (finding,) = done.json["findings"]["items"]
    assert "ignore all previous" in finding["workflow_says"] and "ignore all" not in finding["message"]
