"""The shape of the bundle: rooms and levels, nothing hidden, quick help, honest dependency blocks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SCRIPTS

# Imports go to a lower level, or sideways where no circle arises. A room that is not listed belongs to its family.
LEVELS = {
    0: "_cli _file_lock _flags _json_text _places _programs _safe_text _signals _text_file",
    1: "_addresses _catalog _credentials _events _session _common _cache _multipart _safe_names _safe_files _room _demo_host _diagnose",
    2: "_dialect _refusals _wire _local _cloud _v2 _connect _known",
    3: "_watch _collect _inputs _prepare _progress _failures _receipt _reports _jobs",
}
LEVEL_OF = {room: level for level, rooms in LEVELS.items() for room in rooms.split()}
PURE_FAMILIES = (
    "_graph",
    "_nodes",
    "_params",
    "_fill",
    "_check",
    "_trace",
    "_specs",
    "_unwrap",
    "_editor",
    "_events",
)
NETWORK = {"requests", "websocket", "socket", "urllib3", "http", "urllib.request", "aiohttp"}
PACKAGES = {
    "requests": "requests",
    "websocket": "websocket-client",
    "tqdm": "tqdm",
    "PIL": "pillow",
    "aiohttp": "aiohttp",
}
# Brought along by requests; the names are its own.
CARRIED = {"urllib3": "requests", "certifi": "requests"}

ROOMS = sorted(path for path in SCRIPTS.glob("_*.py"))
COMMANDS = sorted(path for path in SCRIPTS.glob("*.py") if not path.name.startswith("_"))


def imports_of(path: Path, *, top_only: bool = False) -> set[str]:
    """Top-level names of the modules a file imports; those for type checking only do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    nodes = tree.body if top_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def ours(path: Path) -> set[str]:
    return {name for name in imports_of(path) if (SCRIPTS / f"{name}.py").exists() or name == "_demo"}


def reached(path: Path, seen: set[Path] | None = None) -> set[Path]:
    """The file and all of our files that it comes to import."""
    seen = set() if seen is None else seen
    if path in seen:
        return seen
    seen.add(path)
    for name in ours(path):
        if name == "_demo":
            for part in (SCRIPTS / "_demo").rglob("*.py"):
                seen.add(part)
        else:
            reached(SCRIPTS / f"{name}.py", seen)
    return seen


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.name)
def test_rooms_import_no_higher_level(path: Path) -> None:
    level = LEVEL_OF.get(path.stem)
    if level is None:
        pytest.skip("not a room of the ground floor")
    higher = {name for name in ours(path) if LEVEL_OF.get(name, level) > level}
    assert not higher


@pytest.mark.parametrize("path", [*ROOMS, *COMMANDS], ids=lambda path: path.name)
def test_nobody_imports_a_script(path: Path) -> None:
    assert not {name for name in ours(path) if not name.startswith("_")}


def test_no_circle_of_imports_at_load_time() -> None:
    graph = {path.stem: imports_of(path, top_only=True) for path in ROOMS}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail, name])
        for other in graph.get(name, ()):
            if other in graph:
                visit(other, (*trail, name))

    for name in graph:
        visit(name, ())


def test_the_demo_server_is_a_house_of_its_own() -> None:
    users = {path.name for path in [*ROOMS, *COMMANDS] if "_demo" in imports_of(path)}
    assert users <= {"demo_server.py"}


@pytest.mark.parametrize(
    "path", [path for path in ROOMS if path.stem.startswith(PURE_FAMILIES)], ids=lambda path: path.name
)
def test_pure_rooms_know_no_network(path: Path) -> None:
    assert not imports_of(path) & NETWORK


@pytest.mark.parametrize("path", [*ROOMS, *COMMANDS], ids=lambda path: path.name)
def test_no_file_hides_a_module(path: Path) -> None:
    taken = set(sys.stdlib_module_names) | set(PACKAGES) | set(CARRIED)
    assert path.stem not in taken


def declared(path: Path) -> set[str]:
    block = re.search(r"(?m)^# /// script$\n((?:^#.*$\n)+?)^# ///$", path.read_text(encoding="utf-8"))
    assert block, f"{path.name} has no PEP 723 block"
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and later read TOML")
    meta = tomllib.loads(
        "".join(line[2:] if line.startswith("# ") else line[1:] for line in block[1].splitlines(True))
    )
    assert meta["requires-python"] == ">=3.10"
    return {re.split(r"[<>=!~ ]", item)[0] for item in meta["dependencies"]}


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_the_dependency_block_names_what_is_imported(path: Path) -> None:
    imported = {name for part in reached(path) for name in imports_of(part)}
    needed = {PACKAGES[name] for name in imported if name in PACKAGES}
    needed |= {CARRIED[name] for name in imported if name in CARRIED}
    if (SCRIPTS / "_demo_host.py") in reached(path):
        # --host demo starts the demo server with the same interpreter.
        needed |= {"aiohttp", "pillow"}
    assert declared(path) == needed


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_help_is_instant_and_works_from_anywhere(path: Path, tmp_path: Path) -> None:
    heavy = "requests|urllib3|websocket|PIL|tqdm|aiohttp|numpy"
    command = [sys.executable, "-X", "importtime", str(path), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-400:]
    assert "Example" in done.stdout and "xit code" in done.stdout
    loaded = set(re.findall(rf"\|\s+({heavy})$", done.stderr, re.M))
    allowed = {"demo_server.py": {"aiohttp"}}.get(path.name, set())
    assert loaded <= allowed


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_bad_flags_are_one_document_and_exit_2(path: Path, tmp_path: Path) -> None:
    import json

    done = subprocess.run(
        [sys.executable, str(path), "--no-such-flag"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert document["status"] == "error" and document["code"] == "misuse" and document["hint"]


def test_the_top_level_holds_what_is_agreed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in listed.stdout.splitlines()}
    assert top <= {
        "SKILL.md", "README.md", "SECURITY.md", "LICENSE", "scripts", "references", "workflows", "tests", "evals",
        "requirements.txt", "requirements-dev.txt", "pyproject.toml", ".ci", ".gitignore", "install.py",
    }  # fmt: skip
