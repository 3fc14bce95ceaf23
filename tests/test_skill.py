"""SKILL.md: valid, short, complete; its dialogues lead where they say."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bundle import ROOT, SCRIPTS, Runner
from docs_reading import fences, shell_lines

TEXT = (ROOT / "SKILL.md").read_text(encoding="utf-8")
HEAD = TEXT.split("---")[1]
BODY = TEXT.split("---", 2)[2]


def description() -> str:
    block = re.search(r"description: >-\n(.*?)\n\w+:", HEAD, re.S)
    assert block
    return " ".join(block[1].split())


def test_it_is_short_enough_to_be_read_whole() -> None:
    assert len(TEXT.splitlines()) < 500
    # Four characters a token is the usual estimate; tables and code take more, so a quarter is kept back.
    assert len(TEXT) / 4 * 1.25 < 5000


def test_the_description_says_what_when_and_what_not_in_the_users_words() -> None:
    said = description()
    assert len(said) <= 1024
    assert "Use when" in said and "Not for" in said
    for word in (
        "image",
        "video",
        "upscaling",
        "inpainting",
        "ComfyUI",
        "Stable Diffusion",
        "SDXL",
        "Flux",
        "Wan",
    ):
        assert word in said
    what, what_not = said.split("Not for")
    assert "why did my job fail" in what and "workflow JSON" in what
    for word in ("LoRA", "custom nodes", "hosted image APIs", "Automatic1111", "cropping a PNG"):
        assert word in what_not
    words = re.findall(r"[a-z]{4,}", said.lower())
    assert max(words.count(word) for word in set(words)) <= 4, "stuffed with one keyword"


def test_every_command_and_every_reference_is_named() -> None:
    for path in SCRIPTS.glob("[a-z]*.py"):
        assert path.name in BODY or path.name == "demo_server.py", path.name
    for path in (ROOT / "references").glob("*.md"):
        assert f"references/{path.name}" in BODY, path.name


def test_every_exit_code_has_an_action() -> None:
    from comfyskill.base import cli

    rows = dict(re.findall(r"(?m)^\| (\d+) \| [^|]+ \| ([^|]+) \|$", BODY))
    assert {int(code) for code in rows} == {int(code) for code in cli.Exit}
    assert all(action.strip() for action in rows.values())


def test_each_dialogue_has_a_request_and_at_most_three_commands() -> None:
    part = BODY.split("## Five dialogues")[1].split("\n## ")[0]
    requests = re.findall(r'(?m)^\*\*"', part)
    blocks = fences(part)[0]
    assert len(requests) == len(blocks) == 5
    assert all(1 <= len(shell_lines(block)) <= 3 for block in blocks)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The skill as it is shipped, in a folder that bears its name."""
    folder = tmp_path_factory.mktemp("skills") / "comfyui"
    done = subprocess.run(
        [sys.executable, str(ROOT / "install.py"), "--to", str(folder.parent)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return folder


def test_the_specifications_own_checkers_find_no_error(bundle: Path) -> None:
    programs = Path(sys.executable).parent
    for command in (
        ["agentskills", "validate", str(bundle)],
        ["skillscheck", "--check", "spec,quality", str(bundle.parent)],
    ):
        program = shutil.which(command[0], path=str(programs)) or shutil.which(command[0])
        if program is None:
            pytest.skip(f"{command[0]} is not installed")
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_installed_copy_works_and_holds_nothing_that_was_not_meant(
    bundle: Path, run: Runner, tmp_path: Path
) -> None:
    top = {path.name for path in bundle.iterdir()}
    assert {"SKILL.md", "scripts", "references", "workflows", "requirements.txt", "LICENSE"} <= top
    assert not {"tests", "evals", ".git", ".venv", ".ci"} & top
    assert not list(bundle.rglob("__pycache__"))
    done = subprocess.run(
        [
            sys.executable, str(bundle / "scripts" / "run_workflow.py"), str(bundle / "workflows" / "photo_touchup.json"),
            "--host", "demo", "--output-dir", "out", "--quiet",
        ],
        cwd=tmp_path, env=run.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert done.returncode == 0 and answer["demo"] is True
    assert Path(answer["outputs"][0]["file"]).is_file()
