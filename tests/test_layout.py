"""The shape of the bundle: packages and the order of imports, nothing hidden, quick help, honest dependency blocks."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bundle import ROOT, SCRIPTS

# Imports go to a row further up, never down or sideways to another package of the same row. No file is exempt.
ORDER = (
    "base",
    "_common",
    "graph",
    "editor",
    "server",
    "source",
    "run deps",
    "batch jobs info trust",
    "pages machine",
)
ROW_OF = {package: row for row, packages in enumerate(ORDER) for package in packages.split()}
COMMAND = len(ORDER)
# The demo server is a house of its own: it uses these, and only its command uses it.
DEMO_USES = {"base", "graph"}

NETWORK = {"requests", "websocket", "socket", "urllib3", "http", "urllib.request", "aiohttp"}
PURE = {"graph", "editor", "trust"}
PACKAGES = {
    "requests": "requests",
    "websocket": "websocket-client",
    "tqdm": "tqdm",
    "PIL": "pillow",
    "aiohttp": "aiohttp",
}
# Brought along by requests; the names are its own.
CARRIED = {"urllib3": "requests", "certifi": "requests"}


def name_of(path: Path) -> str:
    """A file's full module name."""
    parts = path.relative_to(SCRIPTS).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(SCRIPTS.rglob("*.py"))}
COMMANDS = sorted(path for path in SCRIPTS.glob("*.py") if not path.name.startswith("_"))


def imports_of(path: Path, *, types: bool = True) -> set[str]:
    """Full names of all that a file imports, in functions too; `types`: also what it imports under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if not types and isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path.name}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & FILES.keys()) | ({node.module} if inner - FILES.keys() else set())
    return found


def ours(name: str, *, types: bool = True) -> set[str]:
    """The modules of the bundle that a module imports."""
    return (imports_of(FILES[name], types=types) & FILES.keys()) - {name}


def package_of(name: str) -> str:
    """The package that a module is in; "command" for a command, "" for the outer package itself."""
    if name == "_common":
        return name
    if not name.startswith("comfyskill"):
        return "command"
    return (name.split(".") + [""])[1]


def reached(name: str, seen: set[str] | None = None) -> set[str]:
    """A module and all of ours that it comes to import."""
    seen = set() if seen is None else seen
    if name not in seen:
        seen.add(name)
        for other in ours(name, types=False):
            reached(other, seen)
        if name.startswith("comfyskill.demo."):
            # Its nodes are imported by name.
            seen |= {part for part in FILES if part.startswith("comfyskill.demo.")}
    return seen


def test_scripts_shows_commands_and_one_package() -> None:
    listed = {path.name for path in SCRIPTS.iterdir() if path.name != "__pycache__"}
    extra = {name for name in listed if not re.fullmatch(r"[a-z]\w*\.(py|sh|ps1)", name)}
    assert extra == {"_common.py", "comfyskill"}
    packages = {path.name for path in (SCRIPTS / "comfyskill").iterdir() if path.is_dir()} - {"__pycache__"}
    assert packages == ROW_OF.keys() - {"_common"} | {"demo"}


@pytest.mark.parametrize("name", FILES)
def test_imports_point_one_way(name: str) -> None:
    package = package_of(name)
    others = {other for other in ours(name) if package_of(other) not in ("", package)}
    if package == "demo":
        assert {package_of(other) for other in others} <= DEMO_USES
        return
    row = ROW_OF.get(package, COMMAND if package == "command" else -1)
    allowed = {"demo"} if name == "demo_server" else set()
    wrong = {other for other in others if ROW_OF.get(package_of(other), COMMAND) >= row}
    assert not {other for other in wrong if package_of(other) not in allowed}


def test_no_command_is_imported() -> None:
    commands = {path.stem for path in COMMANDS}
    assert not {(name, other) for name in FILES for other in ours(name) if other in commands}


def test_no_circle_of_imports() -> None:
    """Not one, hidden in a function or under TYPE_CHECKING neither."""
    graph = {name: sorted(ours(name)) for name in FILES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", [name for name in FILES if package_of(name) in PURE])
def test_pure_packages_know_no_network(name: str) -> None:
    assert not imports_of(FILES[name]) & NETWORK


@pytest.mark.parametrize("name", [name for name in FILES if package_of(name) != "command"])
def test_every_file_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse(FILES[name].read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
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
    parts = reached(path.stem)
    imported = {name.split(".")[0] for part in parts for name in imports_of(FILES[part], types=False)}
    needed = {PACKAGES[name] for name in imported if name in PACKAGES}
    needed |= {CARRIED[name] for name in imported if name in CARRIED}
    if "comfyskill.server.connect" in parts:
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
        "requirements.txt", "requirements-dev.txt", "pyproject.toml", ".ci", ".gitignore", ".gitattributes", "install.py", "CONTRIBUTING.md",
        "CHANGELOG.md", "AGENTS.md", "CLAUDE.md", "GEMINI.md", ".claude-plugin", ".github", ".editorconfig",
        ".pre-commit-config.yaml", ".pre-commit-hooks.yaml", "action.yml",
    }  # fmt: skip
