"""From nothing to a running server, step by step. Idempotent: what exists stays as it is."""

from __future__ import annotations

import json
import os
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

from comfyskill.base import cli, foreign, packages, programs, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.machine import setup_plan, setup_run
from comfyskill.machine.setup_plan import MODELS, Comfy, Found, Wish, environment, remember
from comfyskill.machine.setup_run import Done, Log

STOP_LIMIT_S = 20.0
# A server that has just started may still be importing.
ANSWER_LIMIT_S = 10.0


def set_up(wish: Wish) -> cli.Document:
    """Do all steps; the report says what was done and what existed already.

    Raises:
        SkillError: something prevents it, or a step failed (`log_tail` has the last lines of its output).
    """
    with setup_run.termination_as_interrupt(), setup_run.one_at_a_time(setup_run.state_folder()):
        found = setup_plan.look(wish)
        for reason in setup_plan.objections(wish, found):
            raise reason
        log = Log(wish.log)
        done: cli.Document = {"comfy_cli": None, "installed": False, "launched": False, "model": None}
        version = found.port.version
        comfy = found.comfy
        if setup_plan.needs_comfy(found):
            comfy = comfy or install_comfy_cli(log)
            log.run([comfy.program, "--skip-prompt", "tracking", "disable"], environment(comfy), "tracking")
            if version is None and found.installed != "whole":
                install(wish, found, comfy, log)
                done["installed"] = True
            if found.model is not None:
                done["model"] = fetch_model(wish, found.model, comfy, log)
            if version is None:
                version = launch(wish, found, comfy, log)
                done["launched"] = True
        elif found.model is not None:
            done["model"] = {"file": str(found.model), "downloaded": False}
        if comfy is not None:
            done["comfy_cli"] = {"version": comfy.version, "how": comfy.how, "program": comfy.program}
        return _report(wish, found, done, version, log)


def install_comfy_cli(log: Log) -> Comfy:
    """comfy-cli, installed into a virtual environment of its own.

    Raises:
        SkillError: this Python cannot do that, or the package index is out of reach.
    """
    cli.note("installing comfy-cli")
    done = None
    for words in setup_plan.comfy_cli_words():
        done = log.run(words, environment(), "installing comfy-cli")
        if done.code != 0:
            break
    comfy = setup_plan.find()
    if comfy is None:
        raise SkillError(
            "comfy-cli could not be installed",
            code="no_installer",
            hint="install it yourself, then run setup again: pipx install comfy-cli, or uv tool install comfy-cli",
            log=str(log.path),
            log_tail=done.tail if done else [],
        )
    return comfy._replace(how="installed by setup")


def install(wish: Wish, found: Found, comfy: Comfy, log: Log) -> None:
    """Run `comfy install`; an unfinished one leaves a note, so that the next run repairs it.

    Raises:
        SkillError: it failed, or succeeded without leaving a ComfyUI.
    """
    if wish.workspace.is_dir() and not any(wish.workspace.iterdir()):
        # comfy-cli treats any existing folder as an installation.
        wish.workspace.rmdir()
    wish.workspace.parent.mkdir(parents=True, exist_ok=True)
    remember(installing=sorted({*setup_plan.unfinished(), str(wish.workspace)}))
    cli.note(f"installing ComfyUI at {wish.workspace} (several GB, many minutes); log: {log.path}")
    done = log.run(
        [comfy.program, *setup_plan.install_words(wish, found)], environment(comfy), "installing ComfyUI"
    )
    if done.code != 0 or not (wish.workspace / "main.py").is_file():
        raise SkillError(
            f"comfy install failed (exit code {done.code})",
            code="install_failed",
            hint=setup_run.advice(done.output) or "run the same command again: it repairs what is there",
            retryable=True,
            log=str(log.path),
            log_tail=done.tail,
        )
    remember(installing=[item for item in setup_plan.unfinished() if item != str(wish.workspace)])


def fetch_model(wish: Wish, target: Path, comfy: Comfy, log: Log) -> cli.Document:
    """Download the requested model unless it exists.

    Raises:
        SkillError: the download failed.
    """
    if target.is_file():
        return {"file": str(target), "downloaded": False}
    cli.note(f"downloading {target.name} ({MODELS[wish.model or ''][1]:g} GB)")
    done = log.run(
        [comfy.program, *setup_plan.model_words(wish)], environment(comfy) | _model_token(), "downloading"
    )
    if done.code != 0 or not target.is_file():
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
    remember(launched={"port": wish.port, "workspace": str(wish.workspace)})
    # It ends when the server answers, or has failed.
    done = log.run(
        [comfy.program, *setup_plan.launch_words(wish, found)],
        environment(comfy),
        "starting ComfyUI",
        limit_s=wish.wait_s,
    )
    port = setup_run.look_at(wish.port, ANSWER_LIMIT_S)
    if port.version is not None:
        return port.version
    tail = launch_tail(wish, done)
    if done.code is None:
        raise SkillError(
            f"ComfyUI does not answer on {wish.url} after {wish.wait_s:g} s; it may still be starting",
            code="still_running",
            status="timeout",
            retryable=True,
            hint="check again with the status sub-command",
            next=[programs.command("comfyui_setup.py", "status")],
            log=str(log.path),
            log_tail=tail,
        )
    remember(launched=None)
    raise SkillError(
        f"ComfyUI did not start (comfy launch ended with {done.code})",
        code="launch_failed",
        hint=setup_run.advice("\n".join(tail))
        or "read log_tail; references/troubleshooting.md lists the usual causes",
        log=str(log.path),
        log_tail=tail,
    )


def launch_tail(wish: Wish, done: Done) -> list[str]:
    """The last lines about a launch: the server's own log, if this launch wrote one, then what comfy printed."""
    own = wish.workspace / "user" / f"comfyui_{wish.port}.log"
    try:
        fresh = time.time() - own.stat().st_mtime < wish.wait_s + 60
        text = own.read_bytes()[-20000:].decode("utf-8", "replace") if fresh else ""
    except OSError:
        text = ""
    return setup_run.last_lines(text) + (done.tail[-5:] if text else done.tail)


def _report(wish: Wish, found: Found, done: cli.Document, version: str | None, log: Log) -> cli.Document:
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
    if find_spec("requests") is None:
        check = [packages.interpreter(), str(setup_plan.SCRIPTS / "health_check.py"), *host]
        return [safe_text.shell_words(words) for words in [*packages.install_commands(), check]]
    if wish.model in ("sd15", "sdxl"):
        flow = setup_plan.SCRIPTS.parent / "workflows" / f"{wish.model}_txt2img.json"
        return [programs.command("run_workflow.py", flow, "--set", "prompt=a red fox in the snow", *host)]
    return [
        programs.command("health_check.py", "--smoke-test", *host),
        programs.command("server_info.py", "models", "checkpoints", *host),
    ]


def run_health(wish: Wish) -> cli.Document:
    """The result of the health check, run as a command; says when it could not run."""
    try:
        done = subprocess.run(
            setup_plan.health_words(wish),
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
            "next": safe_text.shell_words(setup_plan.health_words(wish)),
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


def status(wish: Wish) -> cli.Document:
    """What is installed and what runs; changes nothing."""
    port, comfy = setup_run.look_at(wish.port), setup_plan.find()
    report: cli.Document = {
        "url": wish.url,
        "port": port.state,
        "comfyui_version": port.version,
        "workspace": str(wish.workspace),
        "installation": setup_plan.installation(wish.workspace),
        "comfy_cli": {"version": comfy.version, "program": comfy.program} if comfy else None,
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


def stop(wish: Wish, *, dry_run: bool = False) -> cli.Document:
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
    comfy = setup_plan.find()
    program = comfy.program if comfy else setup_plan.PROGRAM
    by_hand = safe_text.shell_words([program, "stop", "--port", str(wish.port)])
    if foreign.mapping(setup_plan.remembered().get("launched")).get("port") != wish.port:
        raise SkillError(
            f"the server on port {wish.port} was not started by this setup",
            code="not_ours",
            hint="stop it where it was started, or, if it is yours, with the command in next",
            next=[by_hand],
        )
    if comfy is None:
        raise SkillError(
            "comfy-cli, which started the server, is no longer installed",
            code="cannot_start",
            hint="run setup again",
        )
    words = [comfy.program, "--skip-prompt", "stop"]
    if dry_run:
        return {"status": "dry_run", "plan": [safe_text.shell_words(words)], "url": wish.url}
    log = Log(wish.log)
    done = log.run(words, environment(comfy), "stopping")
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
