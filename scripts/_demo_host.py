"""`--host demo`: the built-in demo server as a child process for one call.

Level 1. The child ends when its standard input closes, so it cannot outlive us, however we end.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from pathlib import Path

from _cli import Exit, SkillError

SCRIPT = Path(__file__).resolve().parent / "demo_server.py"


def start(options: list[str] | None = None) -> str:
    """The address of a fresh demo server on a free loopback port. Raises SkillError when it does not start."""
    command = [sys.executable, str(SCRIPT), "--port", "0", "--exit-with-parent", *(options or [])]
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise SkillError(
            "the demo server could not be started", code="demo_failed", exit=Exit.FAILED
        ) from error
    assert child.stdout is not None and child.stderr is not None
    line = child.stdout.readline()
    try:
        url = json.loads(line)["url"]
    except (ValueError, KeyError, TypeError) as error:
        child.kill()
        said = child.stderr.read().decode("utf-8", "replace").strip().splitlines()
        raise SkillError(
            "the demo server did not start",
            code="demo_failed",
            exit=Exit.FAILED,
            hint="it needs aiohttp and pillow: python3 -m pip install -r requirements.txt",
            server_said=said[-1] if said else "",
        ) from error
    atexit.register(_stop, child)
    return str(url)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask by closing its input; insist when it does not go."""
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(timeout=2)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
