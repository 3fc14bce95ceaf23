"""Every path, command, flag and name in the markdown is real; the commands of shell blocks are run on the demo server."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bundle import ROOT, SCRIPTS, Demo, Runner
from docs_reading import Fence, fences, inline_code, markdown_files, shell_lines

PAGES = markdown_files()
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
COMMANDS = {
    path.name: path for path in SCRIPTS.iterdir() if re.fullmatch(r"[a-z]\w*\.(py|sh|ps1)", path.name)
}
for extra in (ROOT / "install.py", ROOT / "tests" / "bench.py", ROOT / "evals" / "run_eval.py"):
    COMMANDS[extra.name] = extra
SUBCOMMANDS = {"manage_queue.py", "server_info.py", "run_eval.py"}
# Flags that belong to other programs that the pages speak of.
OTHERS = {
    "--lowvram", "--enable-assets", "--multi-user", "--vram-headroom",
    "--user", "--version", "--restore", "--nvidia", "--cuda-version", "--enable-cors-header", "--workspace",
    "--listen", "--comfyui", "--port", "--background", "--write",
}  # fmt: skip
OTHER_PROGRAMS = (
    "comfy ",
    "comfy-api-proxy ",
    "pip ",
    "sudo ",
    "brew ",
    "nvidia-smi",
    "curl ",
    "wsl ",
    "uv ",
    "npx ",
    "ruff ",
    "pipx ",
)


def read(path: Path) -> tuple[list[Fence], str]:
    return fences(path.read_text(encoding="utf-8"))


@cache
def help_of(script: str, *sub: str) -> str:
    """What --help prints; the shell scripts hand over to comfyui_setup.py."""
    target = COMMANDS["comfyui_setup.py" if script.startswith("comfyui_setup") else script]
    done = subprocess.run(
        [sys.executable, str(target), *sub, "--help"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, f"{script} {' '.join(sub)}: {done.stdout[-300:]}"
    return done.stdout


@cache
def flags_of(script: str, *sub: str) -> frozenset[str]:
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][\w-]*", help_of(script, *sub)))


@cache
def all_flags() -> frozenset[str]:
    found: set[str] = set()
    for script in sorted(name for name in COMMANDS if name.endswith(".py")):
        found |= flags_of(script)
        if script in SUBCOMMANDS:
            for sub in subcommands(script):
                found |= flags_of(script, sub)
    return frozenset(found)


@cache
def subcommands(script: str) -> tuple[str, ...]:
    part = help_of(script).split("positional arguments:")[1].split("options:")[0]
    return tuple(re.findall(r"(?m)^    ([a-z][a-z-]*)\b", part))


def commands_of(path: Path) -> list[str]:
    """All command lines of a page that call one of our scripts, from blocks and from prose."""
    blocks, prose = read(path)
    lines = [
        line
        for fence in blocks
        if fence.language in ("bash", "sh", "powershell")
        for line in shell_lines(fence)
    ]
    lines += inline_code(prose)
    return [line for line in lines if re.search(r"(?:^|[\s/])(\w+\.(?:py|sh|ps1))\b", line)]


def calls(line: str) -> list[tuple[str, list[str]]]:
    """(script, its words) for each part of a command line that names a script file."""
    found = []
    for part in re.split(r"\s(?:&&|\|)\s", re.sub(r"\s+# .*$", "", line)):
        try:
            words = shlex.split(part)
        except ValueError:
            words = part.split()
        for index, word in enumerate(words):
            name = word.rsplit("/", 1)[-1]
            if re.fullmatch(r"[a-z]\w*\.(py|sh|ps1)", name) and (index < 3):
                found.append((word, words[index + 1 :]))
                break
    return found


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_fence_closes_and_says_its_language(path: Path) -> None:
    for fence in read(path)[0]:
        assert fence.language, f"{path.name}:{fence.line} has no language"
        if fence.language == "json":
            json.loads(fence.text)
        elif fence.language == "python":
            compile(fence.text, str(path), "exec")


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_path_and_link_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    places = set(re.findall(r"`((?:references|scripts|workflows|tests|evals|\.ci)/[\w./-]*)`", text))
    places |= set(re.findall(r"(?<![\w/.-])((?:references|scripts|workflows|tests|evals)/[\w-]+\.\w+)", text))
    missing = [place for place in places if "NAME" not in place and not (ROOT / place).exists()]
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    missing += [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_script_and_flag_is_one_that_is_there(path: Path) -> None:
    problems = []
    for line in commands_of(path):
        for script, words in calls(line):
            name = script.rsplit("/", 1)[-1]
            if name not in COMMANDS:
                known = [ROOT / folder / name for folder in ("", "evals", "scripts", ".ci")]
                if not any(
                    map(Path.exists, [*known, *SCRIPTS.rglob(name), *(ROOT / "tests").rglob(name)])
                ) and f"`{name}`" not in path.read_text(encoding="utf-8"):
                    problems.append(f"no such script: {line}")
                continue
            sub = [word for word in words if name in SUBCOMMANDS and word in subcommands(name)][:1]
            if name in SUBCOMMANDS and words and not words[0].startswith("-") and not sub:
                problems.append(f"no such command: {line}")
                continue
            known = flags_of(name) | (flags_of(name, *sub) if sub else frozenset())
            used = [word.split("=")[0] for word in words if re.match(r"--?[a-z]", word) and " " not in word]
            problems += [f"{flag}: {line}" for flag in used if flag not in known]
    assert not problems


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_every_flag_in_prose_is_somebodys(path: Path) -> None:
    problems = []
    for code in inline_code(read(path)[1]):
        if code.startswith(OTHER_PROGRAMS):
            continue
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
            if flag not in all_flags() | OTHERS:
                problems.append(f"{flag} in `{code}`")
    assert not problems


@cache
def source() -> str:
    """Everything that could mean a name: our code, workflows, test data."""
    parts = [path.read_text(encoding="utf-8") for path in SCRIPTS.rglob("*.py")]
    parts += [path.read_text(encoding="utf-8") for path in (ROOT / "workflows").glob("*.json")]
    parts += [
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)
    ]
    parts += [path.read_text(encoding="utf-8") for path in (SCRIPTS / "comfyskill" / "graph").glob("*.json")]
    return "\n".join(parts)


# Names of ComfyUI itself that no line of ours needs to hold.
COMFYS = {
    "mask_inverted", "supports_v4", "max_msg_size", "queue_remaining", "subscribe_to_prompt", "execution_complete",
    "return_type_mismatch", "display_node_id", "custom_validation_failed",
    # Put together from a role and an input's name.
    "prompt_clip_l",
}  # fmt: skip


@pytest.mark.parametrize(
    "path", [page for page in PAGES if "evals" not in page.parts], ids=lambda page: page.name
)
def test_every_name_in_prose_occurs_in_the_code(path: Path) -> None:
    words = {
        word
        for code in inline_code(read(path)[1])
        if re.fullmatch(r"[\w.]+", code) and not re.search(r"\.(json|py|md|txt)$", code)
        for word in re.findall(r"[a-z]+(?:_[a-z0-9]+)+", code)
    }
    missing = [word for word in sorted(words) if word not in source() and word not in COMFYS]
    assert not missing


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_variables_and_exit_codes_are_real(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    names = set(re.findall(r"\b(?:COMFY_[A-Z_]+|COMFYUI_[A-Z_]+|HF_TOKEN|CIVITAI_[A-Z_]+)\b", text))
    conftest = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    missing = [name for name in sorted(names) if name not in source() + conftest]
    assert not missing
    codes = {int(code) for code in re.findall(r"\bexit(?: code)? (\d+)\b", text, re.I)}
    assert codes <= {0, 1, 2, 3, 4, 5, 6, 7, 130}


# --- the commands are run

# Left to people: what installs, asks the network, or never ends. The dry runs of these are run.
NOT_RUN = re.compile(
    r"^export |pip install|pytest|comfyui_setup\.sh(?! --dry-run| status)|demo_server\.py|^comfy|^printf|^curl|8189|run_eval"
    r"|^python3 -m venv \S+$|/ruff |^python3 \.ci/"
)
# Their answer depends on the machine.
MACHINE = re.compile(r"hardware_check|comfyui_setup")
FLOW = json.loads((ROOT / "evals" / "files" / "my_flow.json").read_text(encoding="utf-8"))


def shell_commands() -> list[tuple[str, str]]:
    found = []
    for path in PAGES:
        if path.name == "rest-api.md":
            continue
        for fence in read(path)[0]:
            if fence.language == "bash":
                lines = [line for line in shell_lines(fence) if not NOT_RUN.search(line)]
                found += [(str(path.relative_to(ROOT)), line) for line in lines]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="session")
def cloud() -> Any:
    server = Demo("--cloud", "--tier", "creator", "--step-time", "0.002")
    yield server
    server.stop()


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder like the bundle's root with the files that the pages speak of."""
    from PIL import Image

    for name in ("scripts", "workflows", "references", "evals", "install.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    Image.new("RGB", (96, 64), "teal").save(tmp_path / "photo.jpg")
    for name in ("photo.png", "PHOTO.jpg", "picture.png"):
        Image.new("RGB", (96, 64), "gold").save(tmp_path / name)
    Image.new("L", (96, 64), 255).save(tmp_path / "mask.png")
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32), "navy" if name[0] == "a" else "red").save(tmp_path / "photos" / name)
    for name in (
        "flow.json",
        "downloaded.json",
        "graph_api.json",
        "my_workflow.json",
        "old.json",
        "new.json",
    ):
        (tmp_path / name).write_text(json.dumps(FLOW), encoding="utf-8")
    (tmp_path / "runs.csv").write_text("prompt,seed,output\na fox,1,fox\na cat,2,cat\n", encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("a fox\na cat\n", encoding="utf-8")
    editor = ROOT / "tests" / "data" / "editor.json"
    (tmp_path / "workflow.json").write_text(
        editor.read_text(encoding="utf-8") if editor.exists() else json.dumps(FLOW), encoding="utf-8"
    )
    return tmp_path


def what_it_needs(line: str, folder: Path, demo: Demo) -> str:
    """The line with its placeholders filled: a finished job, an inventory, where it speaks of one."""
    run = Runner(folder)
    if "PROMPT_ID" in line or "--last" in line:
        flow = ("--host", demo.url, "--input-image", "image=photo.png", "--receipt", "--output-dir", "out")
        line = line.replace(
            "PROMPT_ID", run("run_workflow.py", "workflows/photo_touchup.json", *flow).json["prompt_id"]
        )
    if "--inventory server.json" in line:
        assert run("check_deps.py", "--save-inventory", "server.json", "--host", demo.url).code == 0
    return line


@pytest.mark.parametrize(("page", "line"), shell_commands())
def test_a_command_of_the_pages_does_what_it_says(
    page: str, line: str, desk: Path, demo: Demo, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    wanted = re.search(r"#.*\bexit (\d+)", line)
    command = what_it_needs(line, desk, demo).replace("http://127.0.0.1:8188", demo.url)
    command = re.sub(r"^python3 -m venv .* && ", "", command)
    if "venv" not in line and "--api cloud" not in line:
        # The shared server is there already and faster; the first command of the README starts its own.
        command = command.replace("--host demo", f"--host {demo.url}")
    if "gpu2" in command:
        # Two servers and four runs tell as much as a hundred.
        command = command.replace("http://gpu2:8188", request.getfixturevalue("new_demo")().url).replace(
            ":100:", ":4:"
        )
    if "https://cloud.comfy.org" in command:
        there = f"--host {request.getfixturevalue('cloud').url} --api cloud --api-key-file key.txt"
        command = command.replace("--host https://cloud.comfy.org", there)
        (tmp_path / "key.txt").write_text("comfyui-demo-key\n", encoding="utf-8")
    programs = tmp_path / "programs"
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    programs.mkdir()
    for place in (programs / "python3", tmp_path / ".venv" / "bin" / "python"):
        place.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
        place.chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("COMFY")}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        env={
            **clean, "COMFY_HOST": demo.url, "COMFYUI_SKILL_CACHE": str(tmp_path / "cache"),
            "PATH": f"{programs}{os.pathsep}{clean['PATH']}",
        },
    )  # fmt: skip
    told = f"{page}: {line}\nexit {done.returncode}\n{done.stdout[:1500]}\n{done.stderr[-600:]}"
    assert "Traceback" not in done.stderr, told
    allowed = {0, 1} if MACHINE.search(line) else {int(wanted[1]) if wanted else 0}
    assert done.returncode in allowed, told
    json.loads(done.stdout)


def test_each_rule_of_the_security_page_names_a_test_that_exists() -> None:
    page = (ROOT / "references" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([HML]\d) \| .+ \| (.+) \|$", page, re.MULTILINE)
    assert {number for number, _ in rows} == {
        f"{rank}{number}" for rank, most in (("H", 7), ("M", 9), ("L", 8)) for number in range(1, most + 1)
    }
    for number, tests in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests)
        assert named, f"{number} names no test"
        for file, test in named:
            (path,) = (ROOT / "tests").rglob(file)
            source = path.read_text(encoding="utf-8")
            assert f"\ndef {test}(" in source, f"{number}: {file} has no {test}"


def change_rows() -> list[str]:
    """The "Edit" cells of the table in CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## To change X, edit Y")[1]
    rows = [line for line in text.split("\n## ")[0].splitlines() if line.startswith("| ")]
    return [row.strip("| ").split(" | ")[1] for row in rows[2:]]


@pytest.mark.parametrize("cell", change_rows())
def test_the_table_of_changes_names_files_and_what_they_define(cell: str) -> None:
    """Names in code font after a file and a colon are defined in that file."""
    for place, names in re.findall(r"`([\w./]+/[\w./]+)`(?:: ((?:`\w+`(?:, )?)+))?", cell):
        assert (ROOT / place).exists(), place
        text = (ROOT / place).read_text(encoding="utf-8") if names else ""
        for name in re.findall(r"`(\w+)`", names):
            defined = rf"(?m)^\s*(?:def|class) {name}\b|^{name}\s*[:=]"
            assert re.search(defined, text), f"{name} is not defined in {place}"


def test_the_table_of_changes_is_long() -> None:
    assert len(change_rows()) >= 20


def test_the_list_of_lines_that_do_not_run_names_files() -> None:
    text = (ROOT / "tests" / "UNCOVERED.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/[a-z_]+\.py)`", text)
    assert named
    assert not [
        name for name in named if not any((top / name).exists() for top in (SCRIPTS / "comfyskill", ROOT))
    ]
