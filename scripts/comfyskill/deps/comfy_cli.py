"""comfy-cli as a child process: found on PATH, argument lists only, its words kept apart from ours. Level 3.

The options are those of comfy-cli 1.23 (`comfy node install`, `comfy model download`, `comfy which`). Values are joined
to their option with `=`, so that none can be taken for another option. A pack's installer is foreign code, so it does
not see the keys in our environment. What we ask of it is nobody's usage: it is told not to report it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from comfyskill.base import programs, safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.deps import catalog

PROGRAM = "comfy"
INSTALL_LIMIT = 1800.0
DOWNLOAD_LIMIT = 6 * 3600.0
ANSWER_LIMIT = 30.0
MOST_ANSWER = 4_000_000
SAID = 800


class Done(NamedTuple):
    """How a call ended: its exit code and the end of what it printed."""

    code: int
    said: str


def program() -> str | None:
    """The path of comfy-cli, or None when it is not installed."""
    return programs.find(PROGRAM)


def workspace() -> Path | None:
    """The ComfyUI folder that comfy-cli would use, when it exists; None when it does not say."""
    data = ask(["which"])
    path = data.get("workspace_path") if data is not None else None
    return Path(path) if isinstance(path, str) and Path(path).is_dir() else None


def ask(
    words: Sequence[str], *, folder: Path | None = None, limit: float = ANSWER_LIMIT
) -> Mapping[str, Any] | None:
    """The `data` of comfy-cli's answer to a question; None for no answer, a failure, or too late an answer.

    Its --json puts one envelope on stdout; older versions and other commands print text, which is no answer here.
    """
    comfy = program()
    if comfy is None:
        return None
    asked = ["--json", "--skip-prompt", *_workspace_words(folder), *words]
    try:
        programs.refuse_batch_file(comfy, asked, "")
        raw = _output_of([comfy, *asked], limit)
        answer = json.loads(raw.strip().rpartition(b"\n")[2])
    except (OSError, subprocess.SubprocessError, ValueError, RecursionError, SkillError):
        return None
    data = answer.get("data") if isinstance(answer, Mapping) else None
    return data if isinstance(data, Mapping) else None


def _output_of(words: Sequence[str], limit: float) -> bytes:
    """What a child prints; whatever stops us stops it and its children, since a look-up leaves nothing half done."""
    import tempfile

    from comfyskill.base.programs import kill_tree

    environment = programs.environment() | {"DO_NOT_TRACK": "1", "NO_COLOR": "1"}
    # A file, not a pipe: a grandchild that keeps a pipe open would block the reader for ever.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL, env=environment,
            start_new_session=os.name != "nt",
        )  # fmt: skip
        try:
            process.wait(limit)
        except BaseException:
            kill_tree(process)
            raise
        output.seek(0)
        return output.read(MOST_ANSWER)


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

    Raises SkillError when it is not there or does not end in time.
    """
    comfy = program()
    if comfy is None:
        raise SkillError(
            "comfy-cli is not installed", code="no_comfy_cli", exit=Exit.FAILED,
            hint="python3 -m pip install comfy-cli, or --via manager",
        )  # fmt: skip
    programs.refuse_batch_file(comfy, words[1:], "install comfy-cli with pipx or uv, which bring comfy.exe")
    environment = programs.environment() | _token(token_host)
    try:
        done = subprocess.run(
            [comfy, *words[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=limit, env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SkillError(
            f"comfy-cli did not end within {limit:.0f} s and was stopped", code="time_limit", exit=Exit.FAILED,
            server_said=_end_of(error.output or b""),
        ) from error  # fmt: skip
    except OSError as error:
        raise SkillError(
            f"comfy-cli could not be started ({error.strerror or error})",
            code="no_comfy_cli",
            exit=Exit.FAILED,
        ) from error
    return Done(done.returncode, _end_of(done.stdout))


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


def facts() -> dict[str, Any]:
    """For a report: whether it is there."""
    path = program()
    return {"comfy_cli": path} if path else {"comfy_cli": None}
