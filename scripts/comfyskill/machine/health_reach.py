"""Which server a health check looks at, what else listens on this machine, and what is needed to ask at all."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import _common
from comfyskill.base import cli, flags, safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.machine import setup_cli, setup_run
from comfyskill.machine.health_findings import (
    Check,
    fail,
    failed_by,
    is_local,
    ok,
    setup_command,
    skipped,
    warn,
)
from comfyskill.server import connect
from comfyskill.server.protocol import Dialect

# comfy launch and ComfyUI itself, then the Desktop app.
LOCAL_PORTS = {8188: "ComfyUI's own port", 8000: "the Desktop app's port"}
# A server that computes may take seconds to answer.
ANSWER_LIMIT_S = 10.0
# The modules whose absence is felt without the demo server; tqdm only draws bars.
MODULES = ("requests", "websocket", "PIL")
INSTALL_PACKAGES = "python3 -m pip install -r requirements.txt"


def packages() -> Check:
    """The Python packages that the scripts use."""
    from importlib.util import find_spec

    missing = [cli.PACKAGES[module] for module in MODULES if find_spec(module) is None]
    if missing:
        # Without requests nothing can be asked; without the others some scripts do less.
        say = fail if "requests" in missing else warn
        message = f"this Python lacks {', '.join(missing)}"
        return say("packages", message, INSTALL_PACKAGES, missing=missing, code="missing_package")
    return ok("packages", "all there")


def comfy_cli(url: str) -> Check:
    """comfy-cli: there, and its version."""
    if not is_local(url):
        return skipped("comfy_cli", "the server is not on this machine")
    found = setup_cli.find()
    if found is None:
        return warn(
            "comfy_cli",
            "comfy-cli is not installed; only installing and starting need it",
            setup_command(),
        )
    return ok("comfy_cli", f"comfy-cli {found.version}", program=safe_text.shell_words(found.words))


def look_around() -> list[dict[str, Any]]:
    """What listens on ComfyUI's usual ports of this machine."""
    found = []
    for port, what in LOCAL_PORTS.items():
        seen = setup_run.look_at(port)
        row: dict[str, Any] = {"url": f"http://127.0.0.1:{port}", "what": what, "state": seen.state}
        if seen.version:
            row["comfyui_version"] = seen.version
        if seen.what:
            row["server_said"] = seen.what
        found.append(row)
    return found


def choose(host: str | None, api: str = "auto") -> tuple[str, list[dict[str, Any]], list[Check]]:
    """The server to look at, what was found on the way, and what is to be said about the choice.

    A given host or $COMFY_HOST is kept, whatever it is like: it is what the scripts will use. Else the first of
    the usual ports that ComfyUI answers on.
    """
    configured = os.environ.get("COMFY_HOST")
    if (host or configured or api) == "cloud":
        host = _common.CLOUD_URL
    if host:
        return host, [], []
    around = look_around()
    running = [row["url"] for row in around if row["state"] == "comfyui"]
    if configured:
        return configured, around, []
    if not running or running[0] == flags.DEFAULT_HOST:
        return flags.DEFAULT_HOST, around, []
    advice = f"add --host {running[0]} to every command, or set COMFY_HOST={running[0]}"
    return (
        running[0],
        around,
        [warn("address", f"ComfyUI answers on {running[0]}, not on the usual port", advice)],
    )


def reach(host: str, **options: Any) -> tuple[Dialect | None, Check | None]:
    """The server, or the check that says why there is none."""
    if (mute := _mute(host)) is not None:
        return None, mute
    try:
        server = connect.connect(host, need_key=True, **options)
        return server, None
    except SkillError as error:
        if error.exit == Exit.MISUSE or error.code == "consent_needed":
            raise
        return None, _unreached(host, error)


def _mute(host: str) -> Check | None:
    """The finding that something on this machine takes connections and says nothing; retries would only cost time."""
    if host == "demo":
        return None
    parts = urlsplit(_common.normal_base(_common.split_user_info(host)[0]))
    if parts.scheme != "http" or parts.hostname != "127.0.0.1":
        return None
    seen = setup_run.look_at(parts.port or 80, ANSWER_LIMIT_S)
    if not seen.mute:
        return None
    message = f"something listens on port {parts.port or 80}, but {seen.what}"
    return fail(
        "server", message, "if it is ComfyUI, it hangs: read its log and restart it", code="unreachable"
    )


def _unreached(host: str, error: SkillError) -> Check:
    found = failed_by("server", error)
    if error.code != "unreachable":
        return found
    url = _common.normal_base(_common.split_user_info(host)[0])
    fix = setup_command()
    if not is_local(url):
        fix = "is it running, and is the address right?"
    return fail("server", f"nothing answers at {url}", fix, code="unreachable")
