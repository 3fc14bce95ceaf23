"""`--host demo`: the built-in demo server as a child process for one call.

Level 1. The child ends when its standard input closes, so it cannot outlive us, however we end.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from comfyskill.base import programs
from comfyskill.base.cli import Exit, SkillError

SCRIPT = Path(__file__).resolve().parents[2] / "demo_server.py"


def start(options: list[str] | None = None) -> str:
    """The address of a fresh demo server on a free loopback port. Raises SkillError when it does not start."""
    _need_packages()
    command = [sys.executable, str(SCRIPT), "--port", "0", "--exit-with-parent", *(options or [])]
    # A pipe that nobody reads would stop a talkative child; a file takes it all.
    said = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the child)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=programs.environment(),
            **_apart(),
        )
    except OSError as error:
        raise SkillError(
            "the demo server could not be started", code="demo_failed", exit=Exit.FAILED
        ) from error
    atexit.register(_stop, child)
    assert child.stdout is not None
    line = child.stdout.readline()
    try:
        return str(json.loads(line)["url"])
    except (ValueError, KeyError, TypeError) as error:
        _stop(child)
        said.seek(0)
        words = said.read().decode("utf-8", "replace").strip().splitlines()
        raise SkillError(
            "the demo server did not start",
            code="demo_failed",
            exit=Exit.FAILED,
            hint="scripts/demo_server.py --port 0 shows why",
            server_said=words[-1] if words else line.decode("utf-8", "replace").strip(),
        ) from error


def _need_packages() -> None:
    """Raises ModuleNotFoundError when the child would; `_cli.run` has the words for it."""
    for name in ("aiohttp", "PIL"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _apart() -> dict[str, Any]:
    """Ctrl-C is for us: who cancels a job still needs the server that runs it."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
    return {"start_new_session": True}


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask by closing its input; insist when it does not go."""
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(timeout=2)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
