"""What other repositories use to check their workflows, and what hosted checks run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import graphs
from bundle import ROOT

CHECK = ROOT / ".ci" / "validate_workflows.py"


def check(*words: object, folder: Path) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-S", str(CHECK), *map(str, words)], cwd=folder, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


def test_the_bundled_workflows_pass_without_any_package(tmp_path: Path) -> None:
    flows = [path for path in (ROOT / "workflows").glob("*.json") if path.name != "index.json"]
    code, lines = check(*flows, folder=tmp_path)
    assert (code, len(lines)) == (0, 1)


def test_each_error_is_a_line_that_begins_with_the_file(tmp_path: Path) -> None:
    wrong = graphs.picture()
    wrong["98"] = {"class_type": "SaveImage", "inputs": {}}
    (tmp_path / "wrong.json").write_text(json.dumps(wrong), encoding="utf-8")
    (tmp_path / "cut.json").write_text('{"1": ', encoding="utf-8")
    (tmp_path / "info.json").write_text("{}", encoding="utf-8")
    code, lines = check("wrong.json", "cut.json", folder=tmp_path)
    assert code == 1 and len(lines) > 2
    assert {line.partition(":")[0] for line in lines} == {"wrong.json", "cut.json"}
    assert check("--object-info", "missing.json", "wrong.json", folder=tmp_path)[0] == 1
    assert check(folder=tmp_path)[0] == 0


@pytest.mark.parametrize("manifest", [".pre-commit-hooks.yaml", "action.yml"])
def test_what_other_repositories_use_names_the_program(manifest: str) -> None:
    text = (ROOT / manifest).read_text(encoding="utf-8")
    assert str(CHECK.relative_to(ROOT).as_posix()) in text
    assert os.name == "nt" or os.access(CHECK, os.X_OK)


def test_hosted_checks_cover_the_systems_and_pythons_that_are_promised() -> None:
    text = (ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")
    assert re.findall(r"(ubuntu|macos|windows)-latest", text.partition("python:")[0]) == [
        "ubuntu",
        "macos",
        "windows",
    ]
    assert re.search(r"python: \[(.*)\]", text)[1].replace('"', "").split(", ") == [  # type: ignore[index]
        "3.10", "3.11", "3.12", "3.13", "3.14",
    ]  # fmt: skip
    assert ".ci/run" in text


def test_default_output_folders_are_not_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/outputs/", "/batches/", "/out/", "/sweep/"} <= set(ignored)
