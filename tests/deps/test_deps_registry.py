"""What comfy-cli can say of node packs: asked last, as a program, its words taken for what they are."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from manager_server import Comfy

# Answers as comfy-cli 1.23 gives them; what it shall say stands in answers.json.
PROGRAM = """#!{python}
import json, os, pathlib, sys, time
home = pathlib.Path({home!r})
words = sys.argv[1:]
with open(home / "calls.jsonl", "a") as file:
    file.write(json.dumps({{"words": words, "track": os.environ.get("DO_NOT_TRACK"), "pid": os.getpid(),
                           "keys": [k for k in os.environ if "TOKEN" in k or "KEY" in k]}}) + "\\n")
say = json.loads((home / "answers.json").read_text())
def envelope(data):
    print(json.dumps({{"schema": "envelope/1", "ok": data is not None, "data": data}}))
if "which" in words:
    envelope({{"workspace_path": str(home / "base")}})
elif "show" in words:
    known = json.loads(pathlib.Path(next(w for w in words if w.startswith("--input="))[8:]).read_text())
    assert words[-1] in known
    envelope({{"id": words[-1], "pack": say["list"].get(words[-1], "core")}} if "list" in say else None)
elif "deps-in-workflow" in words:
    time.sleep(say.get("sleep", 0))
    values = dict(word.split("=", 1) for word in words if "=" in word)
    classes = [n["type"] for n in json.loads(pathlib.Path(values["--workflow"]).read_text())["nodes"]]
    print("Execute from:", values.get("--workspace"))
    if "map" in say:
        found = {{say["map"][name]: {{"state": "not-installed"}} for name in classes if name in say["map"]}}
        unknown = [name for name in classes if name not in say["map"]]
        pathlib.Path(values["--output"]).write_text(json.dumps({{"custom_nodes": found, "unknown_nodes": unknown}}))
elif "deps" in words:
    rows, warnings = [], []
    for word in words:
        if not word.startswith("--registry="):
            continue
        name = word[11:]
        version = say["registry"].get(name) if "registry" in say else None
        rows.append({{"pack": name, "status": "registry", "version": version, "declared": say.get("wants")}})
        if version is None:
            code = "registry_node_not_found" if "registry" in say else "registry_unavailable"
            warnings.append({{"code": code, "message": f"registry has no node '{{name}}'"}})
    envelope({{"packs": rows, "warnings": warnings}})
elif "install" in words:
    (home / "base" / "custom_nodes" / words[-1]).mkdir(parents=True)
else:
    sys.exit(2)
"""


class Desk:
    """A server without the packs, a comfy program that says what `answers` says, and the scripts."""

    def __init__(self, folder: Path, run: Any) -> None:
        self.folder, self.run = folder, run
        (folder / "base" / "models").mkdir(parents=True)
        self.comfy = Comfy(folder / "base" / "models")
        program = folder / "bin" / "comfy"
        program.parent.mkdir()
        program.write_text(PROGRAM.format(python=sys.executable, home=str(folder)))
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        self.env = {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "HF_TOKEN": "hf_very_secret"}
        self.answers: dict[str, Any] = {"list": {}, "map": {}, "registry": {}}

    def write(self, *classes: str) -> Path:
        flow = {
            str(index): {"class_type": name, "inputs": {"a": ["0", 0]}}
            for index, name in enumerate(classes, 1)
        }
        flow["0"] = {"class_type": "LoadImage", "inputs": {"image": "example.png"}}
        path = self.folder / "flow.json"
        path.write_text(json.dumps(flow))
        (self.folder / "answers.json").write_text(json.dumps(self.answers))
        return path

    def check(self, *classes: str, words: tuple[str, ...] = ()) -> dict[str, Any]:
        path = self.write(*classes)
        ran = self.run("check_deps.py", path, "--host", self.comfy.url, *words, env=self.env)
        assert ran.code == 1, ran.out + ran.err
        (report,) = ran.json["workflows"]
        assert isinstance(report, dict)
        return report

    def entry(self, name: str) -> dict[str, Any]:
        (entry,) = self.check(name)["nodes"]["missing"]
        assert isinstance(entry, dict)
        return entry

    def calls(self, word: str) -> list[dict[str, Any]]:
        file = self.folder / "calls.jsonl"
        calls = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [call for call in calls if word in call["words"]]


@pytest.fixture
def desk(tmp_path: Path, run: Any) -> Iterator[Desk]:
    built = Desk(tmp_path, run)
    yield built
    built.comfy.stop()


def test_comfy_orgs_list_gives_an_id_that_can_be_installed(desk: Desk) -> None:
    desk.answers["list"] = {"SomeNode": "ComfyUI-Some-Pack"}
    entry = desk.entry("SomeNode")
    assert entry["pack"] == "comfyui-some-pack"
    assert "Comfy Org's list" in entry["source"]
    assert entry["fix_command"] == "comfy node install comfyui-some-pack"


def test_core_in_that_list_means_that_it_does_not_know(desk: Desk) -> None:
    entry = desk.entry("SomeNode")
    assert "pack" not in entry
    assert "no source names the pack" in entry["fix"]


def test_the_managers_map_gives_a_repository_and_no_command(desk: Desk) -> None:
    desk.answers["map"] = {"SomeNode": "https://github.com/who/ComfyUI-Some"}
    entry = desk.entry("SomeNode")
    assert entry["repository"] == "https://github.com/who/ComfyUI-Some"
    assert "Manager's class map" in entry["source"]
    assert "pack" not in entry
    assert "fix_command" not in entry


def test_an_id_that_has_the_repositorys_name_is_a_suggestion_and_never_installed(
    desk: Desk, run: Any
) -> None:
    desk.answers["map"] = {"SomeNode": "https://github.com/who/ComfyUI-Some"}
    desk.answers["registry"] = {"comfyui-some": "1.0.0"}
    entry = desk.entry("SomeNode")
    assert entry["pack"] == "comfyui-some"
    assert "cannot confirm" in entry["doubt"]
    assert "fix_command" not in entry
    ran = run("auto_fix_deps.py", "flow.json", "--host", desk.comfy.url, "--yes", env=desk.env)
    assert ran.json["code"] == "blocked"
    assert desk.calls("install") == []


def test_several_classes_are_told_apart(desk: Desk) -> None:
    desk.answers["map"] = {
        "A": "https://github.com/who/a",
        "B": "https://github.com/who/b",
        "C": "https://github.com/who/a.git",
    }
    missing = desk.check("A", "B", "C", "D")["nodes"]["missing"]
    found = {entry["name"]: entry.get("repository", "").rpartition("/")[2] for entry in missing}
    assert found == {"A": "a", "B": "b", "C": "a", "D": ""}


def test_it_is_asked_only_for_what_nobody_near_knows(desk: Desk) -> None:
    desk.check("VHS_VideoCombine")
    assert desk.calls("show") == []
    assert desk.calls("deps-in-workflow") == []


def test_no_sources_asks_nobody(desk: Desk) -> None:
    desk.check("SomeNode", words=("--no-sources",))
    assert not (desk.folder / "calls.jsonl").exists()


def test_an_inventory_is_offline(desk: Desk, run: Any) -> None:
    run("check_deps.py", "--save-inventory", "i.json", "--host", desk.comfy.url, env=desk.env)
    assert run("check_deps.py", desk.write("SomeNode"), "--inventory", "i.json", env=desk.env).code == 1
    assert not (desk.folder / "calls.jsonl").exists()


def test_it_sees_no_keys_and_is_told_not_to_report(desk: Desk) -> None:
    desk.check("SomeNode")
    calls = desk.calls("--skip-prompt")
    assert calls
    assert all(call["keys"] == [] and call["track"] == "1" for call in calls)


@pytest.mark.parametrize("name", ["--help", "-x", "a\nb", "x" * 300])
def test_a_hostile_class_name_is_not_handed_over(desk: Desk, name: str) -> None:
    desk.check(name)
    assert desk.calls("show") == []


def test_shell_words_in_a_class_name_are_one_argument(desk: Desk) -> None:
    name = "X $(touch pwned); rm -rf 'y"
    desk.check(name)
    assert [call["words"][-2:] for call in desk.calls("show")] == [["--", name]]
    assert not list(desk.folder.rglob("pwned"))


@pytest.mark.parametrize(
    "said",
    ["--evil", "../x", "a b", "https://evil.example/x", "https://github.com/a/b/c", "x;y", 7, None, ["a"]],
)
def test_a_hostile_answer_is_no_pack(desk: Desk, said: Any) -> None:
    desk.answers["list"] = {"SomeNode": said}
    desk.answers["map"] = {"SomeNode": said} if isinstance(said, str) else {}
    entry = desk.entry("SomeNode")
    assert "pack" not in entry
    assert "repository" not in entry


def test_an_older_comfy_cli_is_said_and_nothing_breaks(desk: Desk) -> None:
    del desk.answers["list"], desk.answers["map"]
    report = desk.check("SomeNode")
    assert any("nodes show" in reason for reason in report["sources_not_asked"])
    assert any("class map" in reason for reason in report["sources_not_asked"])


# --- the plan


def plan(desk: Desk, run: Any, *words: str, code: int) -> dict[str, Any]:
    path = desk.write("VHS_VideoCombine")
    ran = run("auto_fix_deps.py", path, "--host", desk.comfy.url, *words, env=desk.env)
    assert ran.code == code, ran.out
    (step,) = ran.json["plan"]
    assert isinstance(step, dict)
    return step


def test_the_plan_says_which_version_the_registry_has_and_what_it_wants(desk: Desk, run: Any) -> None:
    desk.answers |= {"registry": {"comfyui-videohelpersuite": "1.7.9"}, "wants": ["numpy>=2", "x\u001b[31m"]}
    step = plan(desk, run, "--dry-run", code=0)
    assert step["registry"] == {"asked": True, "version": "1.7.9", "requires": ["numpy>=2", "x"]}


def test_an_id_that_the_registry_lacks_is_not_installed(desk: Desk, run: Any) -> None:
    step = plan(desk, run, "--yes", code=1)
    assert step["blocked"] == "the Comfy Registry has no pack with this id"
    assert desk.calls("install") == []


def test_a_registry_out_of_reach_is_said_and_no_reason_against_it(desk: Desk, run: Any) -> None:
    del desk.answers["registry"]
    step = plan(desk, run, "--dry-run", code=0)
    assert step["how"] == "comfy-cli"
    assert step["registry"]["asked"] is False
    assert "could not be reached" in step["registry"]["reason"]


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_ctrl_c_ends_comfy_cli_too(desk: Desk, run: Any) -> None:
    desk.answers["sleep"] = 60
    path = desk.write("SomeNode")
    process = run.start("check_deps.py", path, "--host", desk.comfy.url, env=desk.env)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not desk.calls("deps-in-workflow"):
        time.sleep(0.05)
    (call,) = desk.calls("deps-in-workflow")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out)["code"] == "interrupted"
    with pytest.raises(ProcessLookupError):
        os.kill(call["pid"], 0)
