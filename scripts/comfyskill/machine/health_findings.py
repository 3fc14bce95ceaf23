"""What a health check says: ok, warn, fail or skipped, with the reason and the way out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import _common
from comfyskill.base import flags, safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.server import commands
from comfyskill.server.protocol import Dialect


def setup_command(*words: object) -> str:
    """What comfyui_setup would do, as a command that changes nothing: running it is the user's consent to give."""
    script = Path(__file__).resolve().parents[2] / "comfyui_setup.py"
    return safe_text.shell_words([sys.executable or "python3", script, *words, "--dry-run"])


class Check(NamedTuple):
    """One finding. `fix` is a command or a deed; `details` are further keys of its JSON."""

    name: str
    result: str
    message: str
    fix: str | None = None
    details: Mapping[str, Any] = {}

    def json(self) -> dict[str, Any]:
        """As the report prints it."""
        told = {"name": self.name, "result": self.result, "message": self.message}
        if self.fix:
            told["fix"] = self.fix
        return told | dict(self.details)


def ok(name: str, message: str, **details: Any) -> Check:
    """It works."""
    return Check(name, "ok", message, details=details)


def warn(name: str, message: str, fix: str | None = None, **details: Any) -> Check:
    """It works, but not for everything."""
    return Check(name, "warn", message, fix, details)


def fail(name: str, message: str, fix: str | None = None, **details: Any) -> Check:
    """It does not work."""
    return Check(name, "fail", message, fix, details)


def skipped(name: str, why: str) -> Check:
    """It was not looked at, and why."""
    return Check(name, "skipped", why)


def failed_by(name: str, error: SkillError) -> Check:
    """The check that an error of the server or the network made fail."""
    details = {key: error.details[key] for key in ("server_said", "http_status") if error.details.get(key)}
    return fail(name, error.message, error.hint, code=error.code, **details)


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """The check's finding; a failure of the server inside it becomes its finding. Bad input of the user is raised."""
    try:
        return check()
    except SkillError as error:
        if error.exit == Exit.MISUSE:
            raise
        if error.code == "not_offered":
            return skipped(name, error.message)
        return failed_by(name, error)


def is_local(url: str) -> bool:
    """Whether the server is on this machine."""
    return _common.is_this_machine(urlsplit(url).hostname or "")


def host_words(server: Dialect) -> list[str]:
    """The flags that reach this server again, none where the default does."""
    words = commands.server_words(server)
    return [] if words == ["--host", flags.DEFAULT_HOST] else words
