"""run_workflow.py --reproduce: a receipt run again, and what came of it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

import graphs
from bundle import Demo, Runner
from comfyskill import __version__


def receipt_of(run: Runner, demo: Demo, workflow: Path, *words: object) -> Path:
    ran = run("run_workflow.py", workflow, "--host", demo.url, "--output-dir", "first", "--receipt", *words)
    assert ran.code == 0, ran.out
    return Path(ran.json["receipt"])


def test_the_same_files_come_out(run: Runner, any_server: str, graph_file: Any) -> None:
    first = run(
        "run_workflow.py",
        graph_file(graphs.two_pictures()),
        "--host",
        any_server,
        "--output-dir",
        "first",
        "--receipt",
    )
    again = run(
        "run_workflow.py", "--reproduce", first.json["receipt"], "--host", any_server, "--output-dir", "again"
    )
    assert again.code == 0, again.out
    assert (again.json["status"], again.json["reproduced"]) == ("success", True)
    assert [row["same"] for row in again.json["files_compared"]] == [True, True]


def test_other_files_are_said_to_be_other_and_why(run: Runner, new_demo: Any, graph_file: Any) -> None:
    graph = graphs.picture(color=5)
    old, new = new_demo("--version", "0.8"), new_demo()
    path = receipt_of(run, old, graph_file(graph))
    receipt = json.loads(path.read_text())
    receipt["graph"]["1"]["inputs"]["color"] = 250  # as if the server made another picture of the same graph
    path.write_text(json.dumps(receipt))
    again = run("run_workflow.py", "--reproduce", path, "--host", new.url, "--output-dir", "again")
    assert (again.code, again.json["status"], again.json["code"]) == (1, "different", "not_reproduced")
    assert again.json["reproduced"] is False
    (row,) = again.json["files_compared"]
    assert (row["same"], row["why"], row["largest_difference"]) == (False, "other pixels", 245)
    assert {"what": "ComfyUI version", "was": "0.8.0", "now": "0.33.0"} in again.json["differences"]


def test_the_same_pixels_in_another_file_are_the_same(run: Runner, demo: Demo, graph_file: Any) -> None:
    path = receipt_of(run, demo, graph_file(graphs.picture()))
    receipt = json.loads(path.read_text())
    assert receipt["client"]["skill"] == __version__
    receipt["files"][0]["sha256"] = "0" * 64  # as of a file with other metadata
    path.write_text(json.dumps(receipt))
    again = run("run_workflow.py", "--reproduce", path, "--host", demo.url, "--output-dir", "again")
    assert again.code == 0, again.out
    assert again.json["files_compared"][0]["why"] == "the bytes differ, but every pixel is the same"


def test_input_files_are_sent_again(run: Runner, demo: Demo, graph_file: Any) -> None:
    from PIL import Image

    Image.new("RGB", (9, 9), "teal").save(run.folder / "p.png")
    path = receipt_of(run, demo, graph_file(graphs.photo()), "--input-image", f"image={run.folder / 'p.png'}")
    demo.post("/demo/reset")
    again = run("run_workflow.py", "--reproduce", path, "--host", demo.url, "--output-dir", "again")
    assert again.code == 0 and again.json["reproduced"] is True, again.out
    Image.new("RGB", (9, 9), "pink").save(run.folder / "p.png")
    changed = run("run_workflow.py", "--reproduce", path, "--host", demo.url, "--output-dir", "third")
    assert changed.code == 1
    assert any("p.png" in row["what"] for row in changed.json["differences"])


def test_input_files_are_found_again_from_another_folder(run: Runner, demo: Demo, graph_file: Any) -> None:
    from PIL import Image

    Image.new("RGB", (9, 9), "teal").save(run.folder / "p.png")
    path = receipt_of(run, demo, graph_file(graphs.photo()), "--input-image", "image=p.png")
    demo.post("/demo/reset")
    (run.folder / "elsewhere").mkdir()
    again = Runner(run.folder / "elsewhere")(
        "run_workflow.py", "--reproduce", path.absolute(), "--host", demo.url
    )
    assert again.code == 0 and again.json["reproduced"] is True, again.out


def test_a_missing_node_is_named_and_nothing_is_sent(run: Runner, demo: Demo, graph_file: Any) -> None:
    path = receipt_of(run, demo, graph_file(graphs.picture()))
    receipt = json.loads(path.read_text())
    receipt["graph"]["9"] = {"class_type": "GoneNode", "inputs": {}}
    path.write_text(json.dumps(receipt))
    before = len(demo.log())
    again = run("run_workflow.py", "--reproduce", path, "--host", demo.url)
    assert (again.code, again.json["missing_nodes"]) == (6, ["GoneNode"])
    assert not [
        entry for entry in demo.log()[before:] if entry["method"] == "POST" and entry["path"] == "/prompt"
    ]


def test_a_model_of_another_size_is_named(
    run: Runner, demo: Demo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from comfyskill.run import reproduce
    from comfyskill.server import local

    graph = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}}}
    path = tmp_path / "r.json"
    files = [{"name": "a.safetensors", "folder": "checkpoints", "bytes": 100, "hash": "aa"}]
    path.write_text(
        json.dumps({"receipt": 1, "graph": graph, "model_files": files, "server": {"os": "amiga"}})
    )
    server = local.Local(demo.url)
    found = {row["what"]: row for row in reproduce.differences(reproduce.load(path), server)}
    assert found["system"]["was"] == "amiga"
    assert found["model a.safetensors"] == {
        "what": "model a.safetensors",
        "was": "there",
        "now": "not on the server",
    }


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"receipt": 1}', '{"receipt": 1, "graph": 5}', "\xff"])
def test_what_is_no_receipt_is_misuse(run: Runner, text: str) -> None:
    (run.folder / "r.json").write_bytes(text.encode("latin-1"))
    ran = run("run_workflow.py", "--reproduce", "r.json", "--host", "http://127.0.0.1:9")
    assert ran.code == 2 and ran.json["status"] == "error"
    assert run("run_workflow.py", "--reproduce", "nothere.json").code == 2
    assert run("run_workflow.py", "--reproduce", "r.json", "--set", "a=1").code == 2


def test_a_receipt_does_not_make_us_send_any_file(run: Runner, demo: Demo, graph_file: Any) -> None:
    """A receipt from somebody else names a file of ours as an input: it stays here."""
    secret = run.folder / "id_ed25519"
    secret.write_text("PRIVATE KEY")
    graph = {
        "1": {"class_type": "LoadAudio", "inputs": {"audio": "old.wav"}},
        "2": {"class_type": "SaveAudio", "inputs": {"audio": ["1", 0], "filename_prefix": "a"}},
    }
    receipt = {
        "receipt": 1, "graph": graph, "files": [], "uploads": [
            {"name": "1.audio", "file": str(secret), "as": "old.wav", "kind": "image", "input": "1.audio"},
        ],
    }  # fmt: skip
    path = graph_file(receipt, "receipt.json")
    run("run_workflow.py", "--reproduce", path, "--host", demo.url, "--output-dir", "out")
    assert not [entry for entry in demo.log() if entry["path"].startswith("/upload")]


def test_a_run_of_some_outputs_is_repeated_as_such(run: Runner, demo: Demo, graph_file: Any) -> None:
    graph = graphs.picture()
    graph["8"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "other"}}
    graph["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    words = ["--only", "8", "--only", "9", "--include-previews"]
    path = receipt_of(run, demo, graph_file(graph), *words)
    ran = run("run_workflow.py", "--reproduce", path, "--host", demo.url, "--output-dir", "again")
    assert (ran.code, ran.json["reproduced"]) == (0, True), ran.out
    assert {item["node_id"] for item in ran.json["outputs"]} == {"8", "9"}


def test_fetching_a_job_again_keeps_what_its_receipt_knew(run: Runner, demo: Demo, graph_file: Any) -> None:
    path = receipt_of(run, demo, graph_file(graphs.picture()), "--set", "width=48", "--only", "2")
    before = json.loads(path.read_text())
    ran = run(
        "run_workflow.py",
        "--resume",
        before["prompt_id"],
        "--host",
        demo.url,
        "--output-dir",
        "first",
        "--receipt",
    )
    assert (ran.code, ran.json["receipt"]) == (0, str(path))
    after = json.loads(path.read_text())
    for key in ("workflow", "parameters", "seeds", "only", "graph", "files"):
        assert after[key] == before[key] or key == "files"
    assert before["only"] == ["2"] and before["parameters"]


def test_what_reproduce_cannot_heed_is_misuse(run: Runner, demo: Demo, graph_file: Any) -> None:
    path = receipt_of(run, demo, graph_file(graphs.picture()))
    for words in (["--no-wait"], ["--save-workflow", "kept.json"], ["--randomize-seed"]):
        ran = run("run_workflow.py", "--reproduce", path, "--host", demo.url, *words)
        assert (ran.code, ran.json["code"]) == (2, "misuse")


def test_an_answer_from_the_cache_proves_little_and_next_empties_it(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    first = receipt_of(run, demo, graph_file(graphs.picture()))
    words = ["--reproduce", first, "--host", demo.url]
    cached = run("run_workflow.py", *words, "--output-dir", "cached")
    assert (cached.code, cached.json["reproduced"], cached.json["computed"]) == (0, True, False)
    freed = run("manage_queue.py", *shlex.split(cached.json["next"][0])[2:])
    assert freed.code == 0, freed.out
    real = run("run_workflow.py", *words, "--output-dir", "real")
    assert real.json["reproduced"] is True and "computed" not in real.json, real.out
