"""convert_workflow as a person runs it: from another folder, judged by exit code, stdout, stderr and files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from editor_files import DEFINITIONS, File

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "convert_workflow.py"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "object_info.json").write_text(json.dumps(DEFINITIONS), "utf-8")
    (tmp_path / "plain.json").write_text(json.dumps(File().document()), "utf-8")
    return tmp_path


def run(folder, *words, stdin=None):
    """The finished process; the user's cache and environment stay out of it."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COMFY")}
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        cwd=folder,
        input=stdin,
        capture_output=True,
        timeout=60,
        env=environment,
    )


def test_the_graph_itself_is_on_stdout(folder):
    done = run(folder, "plain.json", "--object-info", "object_info.json")
    assert (done.returncode, done.stderr) == (0, b"")
    graph = json.loads(done.stdout)
    assert graph["5"]["inputs"]["positive"] == ["2", 0]
    assert graph["5"]["_meta"] == {"title": "KSampler"}


def test_stdout_is_ascii_whatever_the_text(folder):
    file = File()
    file[2]["widgets_values"] = ["猫 \N{CAT FACE} é"]
    done = run(folder, "-", "--offline", stdin=json.dumps(file.document(), ensure_ascii=False).encode())
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["2"]["inputs"]["text"] == "猫 \N{CAT FACE} é"


def test_with_output_the_graph_goes_to_the_file_and_a_report_is_printed(folder):
    file = File()
    file[1]["properties"]["models"] = [
        {"name": "sd15.safetensors", "url": "https://example.org/x", "directory": "checkpoints"}
    ]
    file.node(8, "NoSuchNode", values=[1], cnr_id="some-pack", ver="1.0")
    (folder / "models.json").write_text(json.dumps(file.document()), "utf-8")
    done = run(folder, "models.json", "--object-info", "object_info.json", "--output", "api.json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["status"], report["converted"]) == (0, "success", True)
    assert Path(report["file"]).is_absolute() and Path(report["file"]).name == "api.json"
    assert report["nodes"] == 8
    assert report["missing_types"]["items"][0]["cnr_id"] == "some-pack"
    assert report["models"]["items"][0]["url"] == "https://example.org/x"
    assert json.loads((folder / "api.json").read_text("ascii"))["1"]["class_type"] == "CheckpointLoaderSimple"
    assert sorted(path.name for path in folder.iterdir() if path.name != "cache") == [
        "api.json",
        "models.json",
        "object_info.json",
        "plain.json",
    ]


def test_missing_types_are_named_on_stderr_when_the_graph_is_printed(folder):
    file = File()
    file.node(8, "NoSuchNode", values=[1], cnr_id="some-pack", ver="1.0")
    done = run(folder, "-", "--object-info", "object_info.json", stdin=json.dumps(file.document()).encode())
    assert done.returncode == 0
    assert b"missing node type: 'NoSuchNode' (pack 'some-pack' 1.0)" in done.stderr
    assert "8" in json.loads(done.stdout)


def test_without_definitions_a_foreign_node_is_refused_by_name(folder):
    file = File()
    file.node(8, "NoSuchNode", values=[1, 2], title="My upscaler")
    (folder / "foreign.json").write_text(json.dumps(file.document()), "utf-8")
    done = run(folder, "foreign.json", "--offline", "--output", "api.json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["code"]) == (1, "cannot_convert")
    assert "My upscaler" in report["message"]
    assert "--host" in report["hint"]
    assert not (folder / "api.json").exists()


def test_seeded_wildcards_choose_the_same_each_time_and_say_what(folder):
    file = File()
    file[2]["widgets_values"] = ["a {red|green|blue|black|white} {cat|dog|bird|fish}"]
    (folder / "wild.json").write_text(json.dumps(file.document()), "utf-8")
    first = run(folder, "wild.json", "--offline", "--seed-wildcards", "5")
    second = run(folder, "wild.json", "--offline", "--seed-wildcards", "5")
    assert first.stdout == second.stdout
    assert b"chosen for node 2" in first.stderr


def test_explain_says_what_became_of_nodes_and_links(folder):
    file = File()
    file[4]["mode"] = 2
    file.node(8, "Reroute", inputs=":*", outputs="MODEL")
    file.link(1, 0, 8, "")
    file.link(8, 0, 5, "model")
    (folder / "why.json").write_text(json.dumps(file.document()), "utf-8")
    report = json.loads(run(folder, "why.json", "--offline", "--explain", "--output", "o.json").stdout)
    texts = [entry["text"] for entry in report["explanation"]]
    assert any("id 4" in text and "muted" in text for text in texts)
    assert "5.model comes from output 0 of node 1" in texts
    assert any(text.startswith("5.latent_image is linked to") and "left out" in text for text in texts)


def test_to_editor_and_back_is_the_same_graph(folder):
    run(folder, "plain.json", "--offline", "--output", "api.json")
    done = run(folder, "--to-editor", "api.json", "--offline", "--output", "editor.json")
    assert json.loads(done.stdout)["format"] == "editor"
    editor = json.loads((folder / "editor.json").read_text())
    assert len(editor["nodes"]) == 7
    assert {group["title"] for group in editor["groups"]} == {"Load", "Process", "Output"}
    back = run(folder, "editor.json", "--offline")
    assert json.loads(back.stdout) == json.loads((folder / "api.json").read_text())


def test_diff_names_what_changed_across_formats(folder):
    run(folder, "plain.json", "--offline", "--output", "api.json")
    assert json.loads(run(folder, "--diff", "plain.json", "api.json", "--offline").stdout)["same"] is True
    file = File()
    file[5]["widgets_values"][2] = 30
    file.node(8, "PreviewImage", inputs="images:IMAGE")
    file.link(6, 0, 8, "images")
    file.link(3, 0, 5, "positive")
    (folder / "other.json").write_text(json.dumps(file.document()), "utf-8")
    done = run(folder, "--diff", "api.json", "other.json", "--offline")
    report = json.loads(done.stdout)
    texts = [entry["text"] for entry in report["differences"]["items"]]
    assert done.returncode == 0
    assert report["same"] is False
    assert "node 5 (KSampler): steps 7 → 30" in texts
    assert any(
        text.startswith(
            "node 5 (KSampler): positive came from output 0 of node 2, now from output 0 of node 3"
        )
        for text in texts
    )
    assert any(
        (entry["kind"], entry["class_type"]) == ("node_added", "PreviewImage")
        for entry in report["differences"]["items"]
    )


def png_with(**texts):
    """A picture of one pixel that holds these texts, as ComfyUI saves them."""

    def chunk(kind, body):
        return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")

    head = chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0")
    words = b"".join(chunk(b"tEXt", key.encode() + b"\0" + value.encode()) for key, value in texts.items())
    return b"\x89PNG\r\n\x1a\n" + head + words + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def test_a_picture_that_holds_only_an_editor_workflow_is_converted(folder):
    (folder / "picture.png").write_bytes(png_with(workflow=json.dumps(File().document())))
    done = run(folder, "picture.png", "--offline")
    assert json.loads(done.stdout)["7"]["inputs"]["images"] == ["6", 0]


def test_an_api_graph_is_passed_on_with_a_word(folder):
    graph = {"1": {"class_type": "VAELoader", "inputs": {"vae_name": "x"}}}
    (folder / "api.json").write_text(json.dumps(graph), "utf-8")
    done = run(folder, "api.json", "--offline")
    assert json.loads(done.stdout) == graph
    assert b"already" in done.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((), "give one FILE"),
        (("plain.json", "--diff", "a", "b"), "--diff takes two files"),
        (("--diff", "plain.json", "plain.json", "--output", "x"), "excludes --output"),
        (("nothing.json", "--offline"), "no file nothing.json"),
        (("plain.json", "--to-editor", "--offline"), "editor file already"),
        (("plain.json", "--offline", "--output", "no/such/folder/x.json"), "cannot write"),
        (("plain.json", "--offline", "--output", "."), "is a folder"),
        (("plain.json", "--offline", "--output", "./plain.json"), "the original would be lost"),
        (("plain.json", "--object-info", "plain.json"), "no node definitions"),
    ],
)
def test_misuse_is_one_document_and_exit_2(folder, words, part):
    done = run(folder, *words)
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert document["status"] == "error"
    assert part in document["message"]
    assert b"Traceback" not in done.stderr


def test_a_circle_is_refused_with_exit_1(folder):
    file = File()
    file.node(8, "Reroute", inputs=":*", outputs="MODEL")
    file.link(8, 0, 8, "")
    file.link(8, 0, 5, "model")
    done = run(folder, "-", "--offline", stdin=json.dumps(file.document()).encode())
    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == "cannot_convert"


def test_an_existing_output_is_replaced_whole_and_kept_when_the_conversion_fails(folder):
    (folder / "out.json").write_text("old", "utf-8")
    file = File()
    file.node(8, "NoSuchNode", values=[1, 2])
    (folder / "foreign.json").write_text(json.dumps(file.document()), "utf-8")
    assert run(folder, "foreign.json", "--offline", "--output", "out.json").returncode == 1
    assert (folder / "out.json").read_text() == "old"
    assert run(folder, "plain.json", "--offline", "--output", "out.json").returncode == 0
    assert len(json.loads((folder / "out.json").read_text())) == 7


def test_help_is_the_docstring(folder):
    done = run(folder, "--help")
    assert done.returncode == 0
    assert b"--seed-wildcards" in done.stdout
    assert b"Exit codes" in done.stdout


def foreign(folder, values):
    """A file with one node of a pack that nothing is known of, and definitions with its class."""
    required = {"a": ["BOOLEAN", {}], "b": ["BOOLEAN", {}], "c": ["BOOLEAN", {}]}
    known = {
        "Foreign": {"input": {"required": required}, "output": [], "python_module": "custom_nodes.foreign"}
    }
    (folder / "known.json").write_text(json.dumps(DEFINITIONS | known), "utf-8")
    file = File()
    file.node(20, "Foreign", values=values, title="Magic")
    (folder / "foreign.json").write_text(json.dumps(file.document()), "utf-8")
    return "foreign.json", "--object-info", "known.json"


def test_values_that_fit_no_layout_are_refused_unless_it_is_allowed(folder):
    words = foreign(folder, [True, 5])
    done = run(folder, *words)
    document = json.loads(done.stdout)
    assert (done.returncode, document["code"]) == (1, "cannot_convert")
    assert document["node"]["title"] == "Magic"
    assert "--allow-unsure" in document["hint"]
    done = run(folder, *words, "--allow-unsure")
    assert done.returncode == 0
    assert json.loads(done.stdout)["20"]["inputs"] == {"a": True, "b": 5, "c": False}
    assert "Magic" in done.stderr.decode()


def test_the_report_says_of_each_node_how_sure_its_values_are(folder):
    words = foreign(folder, [True, 5])
    report = json.loads(run(folder, *words, "--allow-unsure", "--output", "out.json").stdout)
    assert report["verdicts"]["counts"] == {"exact": 7, "unsure": 1}
    (entry,) = report["verdicts"]["items"]
    assert (entry["node_id"], entry["class_type"], entry["verdict"]) == ("20", "Foreign", "unsure")
    assert entry["reason"]
    assert any("Magic" in warning for warning in report["warnings"]["items"])
    report = json.loads(run(folder, *words, "--allow-unsure", "--output", "out.json", "--explain").stdout)
    assert [entry["verdict"] for entry in report["verdicts"]["items"]] == [*["exact"] * 7, "unsure"]


def test_the_classes_that_need_a_rule_are_listed(folder):
    body = {"output": ["IMAGE"], "python_module": "custom_nodes.foreign"}
    known = {
        "Painter": {"input": {"required": {"paint": ["FOREIGN_COLOUR", {}], "image": ["IMAGE"]}}, **body},
        "Giver": {"input": {"required": {}}, **body, "output": ["FOREIGN_LINK"]},
        "Taker": {"input": {"required": {"thing": ["FOREIGN_LINK", {}], "own": ["COLORCODE", {}]}}, **body},
    }
    (folder / "known.json").write_text(json.dumps(DEFINITIONS | known), "utf-8")
    done = run(folder, "--check-pack", "known.json")
    report = json.loads(done.stdout)
    assert done.returncode == 0
    (entry,) = report["unsettled"]["items"]
    assert (entry["class_type"], entry["input"], entry["type"]) == ("Painter", "paint", "FOREIGN_COLOUR")
    assert entry["pack"] == "foreign"
    assert report["settled"] == report["classes"] - 1
    assert run(folder, "--check-pack", "plain.json").returncode == 2
    assert run(folder, "plain.json", "--check-pack", "known.json").returncode == 2
