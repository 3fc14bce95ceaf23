"""install.py: what it copies, updates, lists and leaves alone; the version that everything agrees on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundle import ROOT, SCRIPTS
from comfyskill import __version__
from comfyskill.base import packages


def install(*words: object, home: Path | None = None, root: Path = ROOT) -> tuple[int, dict[str, Any]]:
    environment = {**os.environ, **({"HOME": str(home), "USERPROFILE": str(home)} if home else {})}
    for variable in ("CODEX_HOME", "CLAUDE_CONFIG_DIR", "HERMES_HOME", "VIBE_HOME"):
        environment.pop(variable, None)
    done = subprocess.run(
        [sys.executable, str(root / "install.py"), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
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
    (kept,) = answer["kept"]
    (names,) = answer["changed"].values()
    assert (
        names["items"]
        if change == "no list"
        else names["items"] == ["SKILL.md" if change == "changed" else "mine"]
    )
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


def test_status_names_the_copies_their_versions_and_what_was_changed(tmp_path: Path) -> None:
    for agent in ("claude", "hermes", "openclaw", "codex"):
        assert install("--agent", agent, home=tmp_path)[0] == 0
    mine = tmp_path / ".hermes" / "skills" / "comfyui" / "references" / "mine.md"
    mine.write_text("", encoding="utf-8")
    (tmp_path / ".openclaw" / "skills" / "comfyui" / "scripts" / "comfyskill" / "__init__.py").write_text("")
    (tmp_path / ".gemini" / "skills" / "comfyui").mkdir(parents=True)
    (tmp_path / ".gemini" / "skills" / "comfyui" / "notes.txt").write_text("not this skill")
    code, answer = install("--status", home=tmp_path)
    assert code == 0 and answer["version"] == __version__
    copies = {copy["agents"][0]: copy for copy in answer["copies"]}
    assert copies.keys() == {"claude", "hermes", "openclaw", "codex"}
    assert "changed" not in copies["claude"] and copies["claude"]["version"] == __version__
    assert copies["hermes"]["changed"]["items"] == ["references/mine.md"]
    assert copies["openclaw"]["version"] is None


def test_update_replaces_the_copies_that_are_there_and_installs_no_new_one(tmp_path: Path) -> None:
    assert install("--agent", "claude", "--agent", "agents", home=tmp_path)[0] == 0
    old = tmp_path / ".claude" / "skills" / "comfyui"
    (old / "scripts" / "_flat_room.py").write_text("", encoding="utf-8")
    (old / ".venv" / "bin").mkdir(parents=True)
    (old / ".venv" / "bin" / "python").write_text("")
    code, answer = install("--update", home=tmp_path)
    assert code == 0 and len(answer["installed"]) == 2
    assert answer["changed"] == {str(old): {"count": 1, "items": ["scripts/_flat_room.py"]}}
    assert not (old / "scripts" / "_flat_room.py").exists()
    assert (old / ".venv" / "bin" / "python").is_file(), "the packages stay installed"
    assert Path(answer["kept"][0], "scripts", "_flat_room.py").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".agents", ".claude"]
    assert install("--update", home=tmp_path / "elsewhere")[1]["installed"] == []


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own there")
def test_update_leaves_links_to_other_copies_alone(tmp_path: Path) -> None:
    assert install("--agent", "agents", home=tmp_path)[0] == 0
    link = tmp_path / ".claude" / "skills" / "comfyui"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / ".agents" / "skills" / "comfyui")
    code, answer = install("--update", home=tmp_path)
    assert (code, len(answer["installed"]), answer["skipped"]) == (0, 1, [str(link)])
    assert link.is_symlink()


@pytest.mark.parametrize("there", [True, False])
def test_what_a_killed_installer_left_is_cleaned_up(tmp_path: Path, there: bool) -> None:
    assert install("--to", tmp_path)[0] == 0
    (tmp_path / ".comfyui-new-abcdefgh").mkdir()
    if not there:
        (tmp_path / "comfyui").rename(tmp_path / ".comfyui-new-abcdefgh-old")
    assert install("--to", tmp_path)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["comfyui"]


def test_an_agent_with_a_folder_of_its_own_choice_is_obeyed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "install.py"), "--agent", "codex", "--dry-run"],
        env={**os.environ, "CODEX_HOME": str(tmp_path / "mine")},
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout)["would_install"] == [str(tmp_path / "mine" / "skills" / "comfyui")]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--project", "not there"], "project_missing"),
        (["--agent", "cloude"], "misuse"),
        (["--status", "--update"], "misuse"),
        (["--to", "x", "--agent", "claude"], "misuse"),
    ],
)
def test_every_misuse_is_one_document(tmp_path: Path, words: list[str], code: str) -> None:
    words = [str(tmp_path / word) if word == "not there" else word for word in words]
    exit_code, answer = install(*words, home=tmp_path)
    assert (exit_code, answer["code"]) == (2, code)
    assert list(tmp_path.iterdir()) == []


def test_a_managed_python_is_never_told_to_install_into_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(packages.sys, "prefix", packages.sys.base_prefix)
    monkeypatch.setattr(packages.shutil, "which", lambda _: None)
    assert packages.install_commands(tmp_path)[0][0] == packages.interpreter(tmp_path) == sys.executable
    (tmp_path / "EXTERNALLY-MANAGED").write_text("")
    make, fill = packages.install_commands(tmp_path)
    assert make[1:3] == ["-m", "venv"] and fill[0] == packages.interpreter(tmp_path)
    assert Path(fill[0]).is_relative_to(tmp_path / ".venv")


def manifest(name: str) -> dict[str, Any]:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def test_manifests_skill_page_and_changelog_agree_on_the_version() -> None:
    skill = (ROOT / "SKILL.md").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.M)
    versions = {
        "package": __version__,
        "SKILL.md": re.search(r'^metadata:\n  version: "(.*)"$', skill, re.M)[1],  # type: ignore[index]
        "plugin": manifest(".claude-plugin/plugin.json")["version"],
        "market": manifest(".claude-plugin/marketplace.json")["plugins"][0]["version"],
        "CHANGELOG.md": released[0][0],
    }
    assert set(versions.values()) == {__version__}, versions
    assert released == sorted(
        released, key=lambda row: [int(part) for part in row[0].split(".")], reverse=True
    )


def test_the_manifests_are_as_their_published_schemas_want_them() -> None:
    """Kinds and required keys of json.schemastore.org's claude-code-plugin-manifest and claude-code-marketplace."""
    texts = {"name", "version", "description", "homepage", "repository", "license"}
    plugin, market = manifest(".claude-plugin/plugin.json"), manifest(".claude-plugin/marketplace.json")
    entry = market["plugins"][0]
    for where, allowed in (
        (plugin, texts | {"author", "keywords", "skills"}),
        (entry, texts | {"source", "skills", "author", "keywords", "category", "tags"}),
    ):
        assert where.keys() <= allowed
        assert all(isinstance(where[key], str) and where[key] for key in where.keys() & texts)
        assert re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", where["name"])
        for place in where["skills"]:
            assert place.startswith("./") and (ROOT / place / "SKILL.md").is_file()
    assert market.keys() <= {"name", "owner", "description", "version", "plugins"}
    assert market["owner"]["name"] and plugin["author"]["name"]
    assert entry["source"] == "./" and entry["name"] == plugin["name"] == "comfyui"


@pytest.mark.parametrize(
    "script",
    sorted(path.name for path in SCRIPTS.glob("*.py") if path.name not in ("_common.py", "demo_server.py")),
)
def test_every_script_prints_its_version(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split()) == (0, ["comfyui-skill", __version__])


@pytest.mark.slow
def test_the_skills_program_finds_and_installs_the_skill(tmp_path: Path) -> None:
    """Needs npm and a package index; `npx skills` is what the pages of skills.sh tell users to run."""
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("npx is not installed")
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    (tmp_path / "project").mkdir()
    words = [npx, "--yes", "skills", "add", "../clone", "--agent", "claude-code", "codex", "-y", "--copy"]
    environment = {**os.environ, "HOME": str(tmp_path), "DISABLE_TELEMETRY": "1"}
    done = subprocess.run(words, cwd=tmp_path / "project", env=environment, capture_output=True, text=True)
    if done.returncode and "npm error" in done.stderr:
        pytest.skip("the package index is out of reach")
    for folder in (".claude", ".agents"):
        assert (
            tmp_path / "project" / folder / "skills" / "comfyui" / "scripts" / "run_workflow.py"
        ).is_file()
