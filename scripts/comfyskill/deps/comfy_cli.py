"""comfy-cli as a child process: found on PATH, argument lists only, its output kept apart from ours.

The options are those of comfy-cli 1.23 (`comfy node install`, `comfy model download`, `comfy which`). Values are joined
to their option with `=`, so that none can be taken for another option. A pack's installer is foreign code, so it does
not see the keys in our environment. Usage reports are switched off for these calls.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from comfyskill.base import foreign, programs, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.deps import catalog

PROGRAM = "comfy"
INSTALL_LIMIT = 1800.0
DOWNLOAD_LIMIT = 6 * 3600.0
ANSWER_LIMIT = 30.0
SAID = 800


class Done(NamedTuple):
    """How a call ended: its exit code and the end of what it printed."""

    code: int
    said: str


def program() -> str | None:
    """The path of comfy-cli, or None when it is not installed."""
    return programs.find(PROGRAM)


def workspace() -> Path | None:
    """The ComfyUI folder that comfy-cli would use, when it exists; None when it names none."""
    comfy = program()
    if comfy is None:
        return None
    flags = ["--json", "--skip-prompt", "which"]
    try:
        programs.refuse_batch_file(comfy, flags, "")
        done = subprocess.run(
            [comfy, *flags], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            timeout=ANSWER_LIMIT, env=_environment(), check=False,
        )  # fmt: skip
        answer = json.loads(done.stdout.strip().rpartition(b"\n")[2])
    except (OSError, subprocess.SubprocessError, ValueError, RecursionError, SkillError):
        return None
    # Older versions print text, which is ignored here.
    path = foreign.text(foreign.mapping(foreign.mapping(answer).get("data")).get("workspace_path"))
    return Path(path) if path and Path(path).is_dir() else None


def install_command(pack: str, folder: Path | None) -> list[str]:
    """The words that install one registry pack."""
    return [PROGRAM, "--skip-prompt", *_workspace_words(folder), "node", "install", "--exit-on-fail", pack]


def download_command(url: str, relative: str, filename: str, folder: Path | None) -> list[str]:
    """The words that download one model; `relative` starts at the workspace, as in models/loras."""
    return [
        PROGRAM, "--skip-prompt", *_workspace_words(folder), "model", "download", f"--url={url}",
        f"--relative-path={relative}", f"--filename={filename}",
    ]  # fmt: skip


def _workspace_words(folder: Path | None) -> list[str]:
    return [f"--workspace={folder}"] if folder is not None else []


def run(words: Sequence[str], *, token_host: str | None = None, limit: float = INSTALL_LIMIT) -> Done:
    """Run comfy-cli to its end. `token_host`: the host whose token it may see, and no other.

    Raises SkillError when it is not installed or does not finish in time.
    """
    comfy = program()
    if comfy is None:
        raise SkillError(
            "comfy-cli is not installed", code="no_comfy_cli", hint="python3 -m pip install comfy-cli, or --via manager",
        )  # fmt: skip
    programs.refuse_batch_file(comfy, words[1:], "install comfy-cli with pipx or uv, which bring comfy.exe")
    environment = _environment() | _token(token_host)
    try:
        done = subprocess.run(
            [comfy, *words[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=limit, env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SkillError(
            f"comfy-cli did not finish within {limit:.0f} s and was stopped",
            code="time_limit",
            server_said=_end_of(error.output or b""),
        ) from error
    except OSError as error:
        raise SkillError(
            f"comfy-cli could not be started ({error.strerror or error})",
            code="no_comfy_cli",
        ) from error
    return Done(done.returncode, _end_of(done.stdout))


def _environment() -> dict[str, str]:
    return programs.environment() | {"DO_NOT_TRACK": "1", "NO_COLOR": "1"}


def _end_of(output: bytes) -> str:
    return safe_text.last_of(safe_text.clean(output.decode("utf-8", "replace")).strip(), SAID)


def _token(host: str | None) -> dict[str, str]:
    """The host's token under the name by which comfy-cli reads it."""
    names = catalog.TOKENS.get(host or "")
    if not names:
        return {}
    for name in names:
        value = (os.environ.get(name) or "").strip()
        if value:
            safe_text.hide(value)
            return {names[1]: value}
    return {}


def facts() -> Document:
    """For a report: its path, or None."""
    return {"comfy_cli": program()}
