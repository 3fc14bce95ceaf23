"""Find comfy-cli, or install it: pipx, then uv, then pip --user, then a virtual environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from comfyskill.base import cli, paths, programs, safe_text
from comfyskill.machine import setup_run
from comfyskill.machine.setup_run import Done, Log

PACKAGE = "comfy-cli"
# comfy-cli's own switches against analytics (it honours both), besides `comfy tracking disable`.
QUIET = {"DO_NOT_TRACK": "1", "COMFY_NO_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
# comfy-cli installs into an active environment; the agent's own must stay out of it.
FOREIGN_ENVIRONMENTS = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME")


class Comfy(NamedTuple):
    """comfy-cli as it is called: the words before a sub-command, its version, how it was found."""

    words: tuple[str, ...]
    version: str
    how: str


def own_venv() -> Path:
    """The virtual environment that comfy-cli gets when nothing else works."""
    return setup_run.state_folder() / "comfy-cli-venv"


def _bin(venv: Path) -> Path:
    return venv / ("Scripts" if os.name == "nt" else "bin")


def environment(comfy: Comfy | None = None) -> dict[str, str]:
    """The environment for comfy-cli: no keys, analytics off, no foreign virtual environment, its own folder on PATH."""
    values = programs.environment()
    values = {name: value for name, value in values.items() if name not in FOREIGN_ENVIRONMENTS} | QUIET
    if comfy is not None:
        # `comfy launch --background` starts a second `comfy` by its bare name.
        values["PATH"] = os.pathsep.join([str(Path(comfy.words[0]).parent), values.get("PATH", "")])
    return values


def places() -> list[Path]:
    """Folders where an installed `comfy` may lie that are not on PATH."""
    found = [paths.home() / ".local" / "bin"]
    if paths.is_private(setup_run.state_folder()):
        found.append(_bin(own_venv()))
    for variable in ("PIPX_BIN_DIR", "UV_TOOL_BIN_DIR", "XDG_BIN_HOME"):
        if os.environ.get(variable):
            found.insert(0, Path(os.environ[variable]))
    if os.name == "nt":
        import sysconfig

        found.append(Path(sysconfig.get_path("scripts", "nt_user")))
    elif sys.platform == "darwin":
        import sysconfig

        found.append(Path(sysconfig.get_path("scripts", "osx_framework_user")))
    return found


def find() -> Comfy | None:
    """comfy-cli on PATH or in one of the usual folders, if its `--version` works; else None."""
    candidates = [(programs.find("comfy"), "on PATH")]
    candidates += [(programs.within(folder, "comfy"), f"in {folder}") for folder in places()]
    for program, how in candidates:
        if program and (version := _version([program])):
            return Comfy((program,), version, how)
    return None


def _version(words: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            [*words, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"\d+\.\d+[\w.]*", done.stdout.decode("utf-8", "replace"))
    return match[0] if done.returncode == 0 and match else None


def methods() -> list[tuple[str, list[list[str]]]]:
    """The ways to install comfy-cli here, best first: a name and the commands of each."""
    ways: list[tuple[str, list[list[str]]]] = []
    if pipx := programs.find("pipx"):
        ways.append(("pipx", [[pipx, "install", PACKAGE]]))
    if uv := programs.find("uv"):
        ways.append(("uv tool", [[uv, "tool", "install", PACKAGE]]))
    elif uvx := programs.find("uvx"):
        ways.append(("uvx", [[uvx, "--from", PACKAGE, "comfy", "--version"]]))
    if sys.prefix == sys.base_prefix:
        # Inside a virtual environment pip refuses --user, and the environment is somebody else's.
        ways.append(("pip --user", [[sys.executable, "-m", "pip", "install", "--user", PACKAGE]]))
    venv = own_venv()
    python = str(_bin(venv) / ("python.exe" if os.name == "nt" else "python"))
    ways.append(
        (
            "virtual environment",
            [
                [sys.executable, "-m", "venv", "--clear", str(venv)],
                [python, "-m", "pip", "install", PACKAGE],
            ],
        )
    )
    return ways


def install(log: Log) -> tuple[Comfy, list[dict[str, object]]]:
    """Install comfy-cli by the first way that works; also what was tried and why it failed.

    Raises:
        SkillError: no way worked.
    """
    attempts: list[dict[str, object]] = []
    for name, commands in methods():
        cli.note(f"installing comfy-cli with {name}")
        failed = _first_failure(commands, log)
        comfy = None if failed else _installed(name, commands)
        if comfy is not None:
            return comfy, [*attempts, {"with": name, "worked": True}]
        attempts.append({"with": name, "worked": False, "why": _why(failed)})
    raise cli.SkillError(
        "comfy-cli could not be installed in any way",
        code="no_installer",
        hint=_advice(attempts),
        attempts=attempts,
        log=str(log.path),
    )


def _first_failure(commands: Sequence[Sequence[str]], log: Log) -> Done | None:
    for words in commands:
        done = setup_run.run(words, log, environment())
        if not done.fine:
            return done
    return None


def _installed(name: str, commands: Sequence[Sequence[str]]) -> Comfy | None:
    if name == "uvx":
        words = tuple(commands[0][:-1])
        version = _version(words)
        return Comfy(words, version, "through uvx") if version else None
    folders = _tool_folders(name)
    for folder in folders:
        program = programs.within(folder, "comfy")
        if program and (version := _version([program])):
            return Comfy((program,), version, f"installed with {name}")
    found = find()
    return Comfy(found.words, found.version, f"installed with {name}") if found else None


def _tool_folders(name: str) -> list[Path]:
    """Where pipx and uv say that they put programs."""
    asks = {
        "pipx": ["pipx", "environment", "--value", "PIPX_BIN_DIR"],
        "uv tool": ["uv", "tool", "dir", "--bin"],
    }
    words = asks.get(name, [])
    program = programs.find(words[0]) if words else None
    if program is None:
        return []
    try:
        done = subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            env=environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return [Path(line.strip()) for line in lines if line.strip()]


def _why(failed: Done | None) -> str:
    if failed is None:
        return "it ended well, but no working `comfy` was found afterwards"
    if "externally-managed-environment" in failed.output:
        return "this Python is managed by the system (PEP 668)"
    if "No module named pip" in failed.output:
        return "this Python has no pip"
    if "ensurepip is not" in failed.output or "No module named venv" in failed.output:
        return "this Python cannot make virtual environments"
    last = failed.tail[-1] if failed.tail else f"exit code {failed.code}"
    return safe_text.clean(last, 200)


def _advice(attempts: Sequence[Mapping[str, object]]) -> str:
    why = " ".join(str(attempt["why"]) for attempt in attempts)
    if "virtual environments" in why or "no pip" in why:
        return "install pipx (Debian and Ubuntu: sudo apt install pipx; macOS: brew install pipx), then run setup again"
    return "look into the log; is the network there?"
