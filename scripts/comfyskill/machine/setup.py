"""From nothing to a running server, step by step. Idempotent: what exists stays as it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comfyskill.base import cli, foreign, programs, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.machine import setup_plan, setup_run
from comfyskill.machine.setup_plan import (
    MODELS,
    SCRIPTS,
    Comfy,
    Found,
    Wish,
    begun,
    health_words,
    install_words,
    installation,
    launch_words,
    look,
    model_words,
    needs_comfy,
    objections,
    remember,
    remembered,
    was_begun,
)
from comfyskill.machine.setup_run import Log

STOP_LIMIT_S = 20.0


def set_up(wish: Wish) -> dict[str, Any]:
    """Do all steps; the report says what was done and what existed already.

    Raises:
        SkillError: something prevents it, or a step failed (`log_tail` has the last lines of its output).
    """
    with setup_run.termination_as_interrupt(), setup_run.one_at_a_time(setup_run.state_folder()):
        found = look(wish)
        for reason in objections(wish, found):
            raise reason
        log = Log(wish.log)
        done: dict[str, Any] = {"comfy_cli": None, "installed": False, "launched": False, "model": None}
        version = found.port.version
        comfy = found.comfy
        if comfy is None and needs_comfy(found):
            comfy, done["attempts"] = setup_plan.install(log)
        if comfy is not None:
            done["comfy_cli"] = {
                "version": comfy.version,
                "how": comfy.how,
                "program": safe_text.shell_words(comfy.words),
            }
        if comfy is not None and needs_comfy(found):
            _no_analytics(comfy, log)
        if comfy is not None and version is None and found.installed != "whole":
            install(wish, found, comfy, log)
            done["installed"] = True
        if comfy is not None and found.model is not None:
            done["model"] = fetch_model(wish, found.model, comfy, log)
        if comfy is not None and version is None:
            version = launch(wish, found, comfy, log)
            done["launched"] = True
        return _report(wish, found, done, version, log)


def _no_analytics(comfy: Comfy, log: Log) -> None:
    setup_run.run([*comfy.words, "--skip-prompt", "tracking", "disable"], log, setup_plan.environment(comfy))


def install(wish: Wish, found: Found, comfy: Comfy, log: Log) -> None:
    """Run `comfy install`; an interrupted one leaves a note, so that the next run continues it.

    Raises:
        SkillError: it failed, or succeeded without leaving a ComfyUI.
    """
    clear_half_clone(wish.workspace)
    if wish.workspace.is_dir() and not any(wish.workspace.iterdir()):
        # comfy-cli treats any existing folder as an installation.
        wish.workspace.rmdir()
    wish.workspace.parent.mkdir(parents=True, exist_ok=True)
    remember(installing=sorted({*begun(), str(wish.workspace)}))
    cli.note(f"installing ComfyUI at {wish.workspace} (several GB, many minutes); log: {log.path}")
    try:
        done = setup_run.run(
            [*comfy.words, *install_words(wish, found)], log, setup_plan.environment(comfy), "installing"
        )
    except KeyboardInterrupt:
        clear_half_clone(wish.workspace)
        raise
    if not done.fine or not (wish.workspace / "main.py").is_file():
        clear_half_clone(wish.workspace)
        raise SkillError(
            f"comfy install failed (exit code {done.code})",
            code="install_failed",
            hint=setup_run.advice(done.output)
            or "run the same command again: it continues where this one stopped",
            retryable=True,
            log=str(log.path),
            log_tail=done.tail,
        )
    remember(installing=[item for item in begun() if item != str(wish.workspace)])


def clear_half_clone(workspace: Path) -> None:
    """Move away a clone that setup began and that did not become ComfyUI; other files are never removed."""
    if not was_begun(workspace) or (workspace / "main.py").exists() or not workspace.is_dir():
        return
    if {item.name for item in workspace.iterdir()} <= {".git"}:
        shutil.rmtree(workspace, ignore_errors=True)
        return
    aside = workspace.with_name(f"{workspace.name}.incomplete-{int(time.time())}")
    workspace.rename(aside)
    cli.warn(f"an interrupted installation was moved to {aside}; it can be deleted")


def fetch_model(wish: Wish, target: Path, comfy: Comfy, log: Log) -> dict[str, Any]:
    """Download the requested model unless it exists.

    Raises:
        SkillError: the download failed.
    """
    if target.is_file():
        return {"file": str(target), "downloaded": False}
    cli.note(f"downloading {target.name} ({MODELS[wish.model or ''][1]:g} GB)")
    done = setup_run.run(
        [*comfy.words, *model_words(wish)], log, setup_plan.environment(comfy) | _model_token(), "downloading"
    )
    if not done.fine or not target.is_file():
        raise SkillError(
            f"the download of {target.name} failed",
            code="download_failed",
            hint="run the same command again; a gated model needs HF_API_TOKEN in the environment",
            retryable=True,
            log=str(log.path),
            log_tail=done.tail,
        )
    return {"file": str(target), "downloaded": True}


def _model_token() -> dict[str, str]:
    """The token of the host that the first models come from, for the download alone."""
    names = ("HF_API_TOKEN", "HF_TOKEN")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def launch(wish: Wish, found: Found, comfy: Comfy, log: Log) -> str:
    """Start the server in the background and wait until it answers; its version.

    Raises:
        SkillError: it died (with the tail of its log), or does not answer in time (exit 5, still starting).
    """
    cli.note(f"starting ComfyUI on {wish.url}")
    offset = log.size()
    remember(launched={"port": wish.port, "workspace": str(wish.workspace), "comfy": list(comfy.words)})
    process = setup_run.start([*comfy.words, *launch_words(wish, found)], log, setup_plan.environment(comfy))
    begun = time.monotonic()
    code = setup_run.finish(
        process,
        "starting",
        limit_s=wish.wait_s,
        check=lambda: setup_run.look_at(wish.port).state == "comfyui",
    )
    while True:
        port = setup_run.look_at(wish.port)
        if port.version is not None:
            return port.version
        if code not in (None, 0):
            remember(launched=None)
            tail = launch_tail(wish, log.since(offset))
            raise SkillError(
                f"ComfyUI did not start (comfy launch ended with {code})",
                code="launch_failed",
                hint=setup_run.advice("\n".join(tail))
                or "read log_tail; references/troubleshooting.md lists the usual causes",
                log=str(log.path),
                log_tail=tail,
            )
        if time.monotonic() - begun > wish.wait_s:
            raise SkillError(
                f"ComfyUI does not answer on {wish.url} after {wish.wait_s:g} s; it may still be starting",
                code="still_running",
                status="timeout",
                retryable=True,
                hint="check again with the status sub-command",
                next=[programs.command("comfyui_setup.py", "status")],
                log=str(log.path),
                log_tail=launch_tail(wish, log.since(offset)),
            )
        time.sleep(0.5)


def launch_tail(wish: Wish, printed: str) -> list[str]:
    """The last lines about a launch: the server's own log, if this launch wrote one, then what comfy printed."""
    own = wish.workspace / "user" / f"comfyui_{wish.port}.log"
    try:
        fresh = time.time() - own.stat().st_mtime < wish.wait_s + 60
        text = own.read_bytes()[-20000:].decode("utf-8", "replace") if fresh else ""
    except OSError:
        text = ""
    return setup_run.last_lines(text) + setup_run.last_lines(printed, 5 if text else setup_run.TAIL_LINES)


def _report(
    wish: Wish, found: Found, done: Mapping[str, Any], version: str | None, log: Log
) -> dict[str, Any]:
    health = run_health(wish)
    log.line(f"ready: ComfyUI {version} on {wish.url}")
    return {
        "status": "ok",
        "url": wish.url,
        "comfyui_version": version,
        "already_running": not done["launched"],
        "workspace": str(wish.workspace),
        "verdict": found.hardware["verdict"],
        **done,
        "health": health,
        "log": str(log.path),
        "next": next_commands(wish),
    }


def next_commands(wish: Wish) -> list[str]:
    """The commands to run next on the new server."""
    host = [] if wish.port == 8188 else ["--host", wish.url]
    if wish.model in ("sd15", "sdxl"):
        flow = SCRIPTS.parent / "workflows" / f"{wish.model}_txt2img.json"
        return [programs.command("run_workflow.py", flow, "--set", "prompt=a red fox in the snow", *host)]
    return [
        programs.command("health_check.py", "--smoke-test", *host),
        programs.command("server_info.py", "models", "checkpoints", *host),
    ]


def run_health(wish: Wish) -> dict[str, Any]:
    """The result of the health check, run as a command; says when it could not run."""
    try:
        done = subprocess.run(
            health_words(wish),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            env=programs.environment(),
            check=False,
        )
        answer = json.loads(done.stdout)
        checks = answer["checks"]
    except (OSError, ValueError, LookupError, TypeError, subprocess.TimeoutExpired):
        return {
            "ran": False,
            "why": "it did not finish; it needs the packages of requirements.txt",
            "next": safe_text.shell_words(health_words(wish)),
        }
    short = [
        {key: check[key] for key in ("name", "result", "message") if key in check}
        for check in (foreign.items(checks))
        if isinstance(check, dict) and check.get("result") in ("warn", "fail")
    ]
    return {
        "ran": True,
        "status": answer.get("status") if isinstance(answer, dict) else None,
        "to_look_at": short,
    }


def status(wish: Wish) -> dict[str, Any]:
    """What is installed and what runs; changes nothing."""
    port, comfy = setup_run.look_at(wish.port), setup_plan.find()
    report: dict[str, Any] = {
        "url": wish.url,
        "port": port.state,
        "comfyui_version": port.version,
        "workspace": str(wish.workspace),
        "installation": installation(wish.workspace),
        "comfy_cli": {"version": comfy.version, "program": safe_text.shell_words(comfy.words)}
        if comfy
        else None,
        "log": str(wish.log) if wish.log.is_file() else None,
    }
    if port.state == "comfyui":
        return {"status": "ok", **report}
    message = (
        f"nothing listens on port {wish.port}"
        if port.state == "free"
        else f"something else listens on port {wish.port}: {port.what}"
    )
    return {
        "status": "not_running",
        "code": "not_running",
        "message": message,
        "hint": "start it with comfyui_setup.py",
        "retryable": True,
        **report,
    }


def _launcher(launched: object) -> Comfy | None:
    """The comfy-cli to stop with: an installed one, else the command that launched the server (uvx)."""
    if (found := setup_plan.find()) is not None:
        return found
    words = launched.get("comfy") if isinstance(launched, dict) else None
    if (
        isinstance(words, list)
        and words
        and all(isinstance(word, str) for word in words)
        and programs.find(words[0])
    ):
        return Comfy(tuple(words), "unknown", "as it was launched")
    return None


def stop(wish: Wish, *, dry_run: bool = False) -> dict[str, Any]:
    """Stop the server that setup launched on this port; any other server keeps running.

    Raises:
        SkillError: setup did not start the server, or it does not stop.
    """
    port = setup_run.look_at(wish.port)
    if port.state != "comfyui":
        return {
            "status": "ok",
            "stopped": False,
            "message": f"no ComfyUI answers on {wish.url}",
            "port": port.state,
        }
    launched = remembered().get("launched")
    comfy = _launcher(launched)
    if not isinstance(launched, dict) or launched.get("port") != wish.port:
        raise SkillError(
            f"the server on port {wish.port} was not started by this setup",
            code="not_ours",
            hint="stop it where it was started, or, if it is yours, with the command in next",
            next=[
                safe_text.shell_words(
                    [*(comfy.words if comfy else ["comfy"]), "stop", "--port", str(wish.port)]
                )
            ],
        )
    if comfy is None:
        raise SkillError(
            "comfy-cli, which started the server, is no longer installed",
            code="cannot_start",
            hint="run setup again",
        )
    by_hand = safe_text.shell_words([*comfy.words, "stop", "--port", str(wish.port)])
    words = [*comfy.words, "--skip-prompt", "stop"]
    if dry_run:
        return {"status": "dry_run", "plan": [safe_text.shell_words(words)], "url": wish.url}
    log = Log(wish.log)
    done = setup_run.run(words, log, setup_plan.environment(comfy))
    end = time.monotonic() + STOP_LIMIT_S
    while setup_run.look_at(wish.port).state == "comfyui":
        if time.monotonic() > end:
            raise SkillError(
                f"the server on port {wish.port} still answers",
                code="stop_failed",
                hint="read the log, then try the command in next",
                next=[by_hand],
                log=str(log.path),
                log_tail=done.tail,
            )
        time.sleep(0.3)
    remember(launched=None)
    return {"status": "ok", "stopped": True, "url": wish.url, "log": str(log.path)}
