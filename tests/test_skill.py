"""SKILL.md: valid, short, complete; its dialogues lead where they say; the installer copies what the skill needs."""

from __future__ import annotations

import hashlib
import json
import os
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


def install(*words: object) -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "install.py"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout)


def test_the_installer_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "comfyui").mkdir()
    (tmp_path / "comfyui" / "diary.txt").write_text("mine", encoding="utf-8")
    code, answer = install("--to", tmp_path)
    assert code == 2 and answer["code"] == "taken"
    assert [path.name for path in (tmp_path / "comfyui").iterdir()] == ["diary.txt"]


def test_the_installer_replaces_an_older_copy_of_the_skill_whole(tmp_path: Path) -> None:
    code, _ = install("--to", tmp_path)
    assert code == 0
    older = tmp_path / "comfyui"
    (older / "scripts" / "gone_since.py").write_text("", encoding="utf-8")
    listed = json.loads((older / ".installed.json").read_text(encoding="utf-8"))
    listed["scripts/gone_since.py"] = hashlib.sha256(b"").hexdigest()
    (older / ".installed.json").write_text(json.dumps(listed), encoding="utf-8")
    (older / "scripts" / "__pycache__").mkdir()
    (older / "scripts" / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"")
    code, answer = install("--to", tmp_path)
    assert code == 0 and answer["installed"] == [str(tmp_path / "comfyui")]
    assert not (tmp_path / "comfyui" / "scripts" / "gone_since.py").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["comfyui"]


@pytest.mark.parametrize("change", ["added", "changed", "no list", "link"])
def test_the_installer_keeps_an_older_copy_that_somebody_has_changed(tmp_path: Path, change: str) -> None:
    assert install("--to", tmp_path)[0] == 0
    copy = tmp_path / "comfyui"
    if change == "link":
        (copy / "mine").symlink_to(tmp_path)
    else:
        (copy / ("SKILL.md" if change == "changed" else "mine")).write_text(
            "---\nname: comfyui\n---\nmine", "utf-8"
        )
    if change == "no list":
        (copy / ".installed.json").unlink()
    code, answer = install("--to", tmp_path)
    (kept,) = answer["kept"]  # type: ignore[misc]
    assert code == 0 and not (copy / "mine").exists() and (copy / "SKILL.md").stat().st_size > 1000
    name = "SKILL.md.kept" if change == "changed" else "mine"
    assert os.path.lexists(Path(kept) / name) and not (Path(kept) / "SKILL.md").exists()
    assert install("--to", tmp_path)[1].get("kept") is None


@pytest.mark.parametrize("linked", [".claude", ".claude/skills"])
def test_the_installer_does_not_leave_a_project_by_a_link(tmp_path: Path, linked: str) -> None:
    place, elsewhere = tmp_path / "project" / linked, tmp_path / "elsewhere"
    mine = elsewhere / "comfyui" if linked.endswith("skills") else elsewhere / "skills" / "comfyui"
    mine.mkdir(parents=True)
    place.parent.mkdir(parents=True)
    (mine / "SKILL.md").write_text("---\nname: comfyui\n---\n", encoding="utf-8")
    (mine / "my_own_file").write_text("mine", encoding="utf-8")
    place.symlink_to(elsewhere)
    for more in (["--dry-run"], []):
        code, answer = install("--agent", "claude", "--project", tmp_path / "project", *more)
        assert code == 2 and answer["code"] == "outside_project"
    assert sorted(path.name for path in mine.iterdir()) == ["SKILL.md", "my_own_file"]


@pytest.mark.skipif(os.name == "nt", reason="links want a right of their own there")
def test_the_installer_does_not_replace_the_folder_that_it_is_run_from(tmp_path: Path) -> None:
    """A user who keeps the skill's repository in a folder that ~/.claude/skills is a link to."""
    (tmp_path / "repos").mkdir()
    assert install("--to", tmp_path / "repos")[0] == 0
    copy = tmp_path / "repos" / "comfyui"
    shutil.copy(ROOT / "install.py", copy)
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / "skills").symlink_to("../repos")
    done = subprocess.run(
        [sys.executable, str(copy / "install.py"), "--agent", "claude"],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout)["code"]) == (2, "taken"), done.stdout
    assert [path.name for path in (tmp_path / "repos").iterdir()] == ["comfyui"]


def test_a_dry_run_of_the_installer_writes_nothing(tmp_path: Path) -> None:
    code, answer = install("--to", tmp_path / "new", "--dry-run")
    assert code == 0 and answer["status"] == "dry_run"
    assert not (tmp_path / "new").exists()
