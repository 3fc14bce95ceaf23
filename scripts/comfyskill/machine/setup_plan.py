"""What setup finds and would do: the request, the state, the objections, the plan. Changes only its notes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from comfyskill.base import cli, foreign, paths, programs, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.machine import hardware as machine_hardware
from comfyskill.machine import setup_run

SCRIPTS = Path(__file__).resolve().parents[2]
# Our flag -> comfy install's. Intel's is not in its help, but it works (comfy-cli 1.23).
DEVICE_FLAGS = {
    "nvidia": "--nvidia",
    "amd": "--amd",
    "m-series": "--m-series",
    "intel": "--intel-arc",
    "cpu": "--cpu",
}
# First checkpoints that need no other file: address and size in GB (the addresses of ComfyUI's templates).
MODELS = {
    "sd15": (
        "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
        "v1-5-pruned-emaonly-fp16.safetensors",
        2.1,
    ),
    "sdxl": (
        "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
        6.9,
    ),
    "sdxl-turbo": (
        "https://huggingface.co/stabilityai/sdxl-turbo/resolve/main/sd_xl_turbo_1.0_fp16.safetensors",
        6.9,
    ),
    "sd35-large": (
        "https://huggingface.co/Comfy-Org/stable-diffusion-3.5-fp8/resolve/main/sd3.5_large_fp8_scaled.safetensors",
        14.9,
    ),
    "flux-schnell": (
        "https://huggingface.co/Comfy-Org/flux1-schnell/resolve/main/flux1-schnell-fp8.safetensors",
        17.2,
    ),
    "flux-dev": ("https://huggingface.co/Comfy-Org/flux1-dev/resolve/main/flux1-dev-fp8.safetensors", 17.2),
    "ace-step": (
        "https://huggingface.co/Comfy-Org/ACE-Step_ComfyUI_repackaged/resolve/main/all_in_one/"
        "ace_step_v1_3.5b.safetensors",
        7.7,
    ),
}
PACKAGE, PROGRAM = "comfy-cli", "comfy"
# The folder of programs in a virtual environment.
BIN = "Scripts" if os.name == "nt" else "bin"
NOTES = "state.json"
# comfy-cli's own switches against analytics (it honours both), besides `comfy tracking disable`.
QUIET = {"DO_NOT_TRACK": "1", "COMFY_NO_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
# comfy-cli installs into an active environment; the agent's own must stay out of it.
FOREIGN_ENVIRONMENTS = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME")


class Wish(NamedTuple):
    """What the user asked for."""

    port: int
    workspace: Path
    device: str | None
    manager: bool
    model: str | None
    yes: bool
    force: bool
    wait_s: float
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Found(NamedTuple):
    """What exists before setup does anything."""

    port: setup_run.Port
    hardware: Document
    comfy: Comfy | None
    installed: str
    model: Path | None


def remembered() -> Mapping[str, object]:
    """Setup's own notes: `installing` (unfinished workspaces) and `launched`. Empty when others may have written them."""
    folder = setup_run.state_folder()
    try:
        if not folder.is_dir() or not paths.make_private(folder):
            return {}
        return foreign.mapping(json.loads((folder / NOTES).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def remember(**changes: object) -> None:
    """Change the notes; the file is replaced as a whole."""
    notes = {**remembered(), **changes}
    target = setup_run.state_folder() / NOTES
    paths.make_private(target.parent)
    part = target.with_name(f"state.{os.getpid()}.part")
    part.write_text(json.dumps(notes, indent=1), encoding="utf-8")
    part.replace(target)


def unfinished() -> list[str]:
    """The workspaces with an unfinished installation."""
    return [item for item in foreign.items(remembered().get("installing")) if isinstance(item, str)]


def installation(workspace: Path) -> str:
    """What is at the workspace: `whole`, `begun` (setup did not finish), `none` or `foreign` (something else)."""
    if (workspace / "main.py").is_file() and (workspace / "comfy").is_dir():
        return "begun" if str(workspace) in unfinished() else "whole"
    empty = not workspace.exists() or (workspace.is_dir() and not any(workspace.iterdir()))
    return "none" if empty else "foreign"


def look(wish: Wish) -> Found:
    """Look at port, hardware, comfy-cli, workspace and model; changes nothing."""
    cli.note("checking this machine")
    return Found(
        port=setup_run.look_at(wish.port),
        hardware=machine_hardware.check(wish.workspace),
        comfy=find(),
        installed=installation(wish.workspace),
        model=model_file(wish),
    )


def model_file(wish: Wish) -> Path | None:
    """Where the requested model is or will be."""
    if wish.model is None:
        return None
    return wish.workspace / "models" / "checkpoints" / MODELS[wish.model][0].rsplit("/", 1)[1]


def needs_model(found: Found) -> bool:
    """Whether the requested model must be downloaded."""
    return found.model is not None and not found.model.is_file()


def needs_comfy(found: Found) -> bool:
    """Whether a step needs comfy-cli."""
    return found.port.state != "comfyui" or needs_model(found)


def objections(wish: Wish, found: Found) -> list[SkillError]:
    """Why setup must not start, the most serious reason first; each hint says what to do."""
    running = found.port.state == "comfyui"
    rest = () if running else (*_of_port(wish, found), *_of_installation(wish, found))
    return [*_of_model(wish, found), *rest]


def _of_model(wish: Wish, found: Found) -> Iterator[SkillError]:
    if wish.model is None or not needs_model(found):
        return
    url, size = MODELS[wish.model]
    if not wish.yes:
        yield SkillError(
            f"--model {wish.model} downloads {size:g} GB from {url.split('/')[2]}",
            code="consent_needed",
            hint="add --yes to agree; check the model's licence",
            flag="--yes",
            url=url,
        )
    if found.port.state == "comfyui" and found.installed != "whole":
        yield SkillError(
            f"a server runs on port {wish.port}, but {wish.workspace} has no ComfyUI to put the model into",
            code="workspace_missing",
            hint="give that server's folder with --workspace",
        )


def _of_port(wish: Wish, found: Found) -> Iterator[SkillError]:
    if found.port.state == "other":
        yield SkillError(
            f"port {wish.port} is taken by something else: {found.port.what}",
            code="port_taken",
            hint="use another --port",
        )


def _of_installation(wish: Wish, found: Found) -> Iterator[SkillError]:
    """The objections to installing; an installed ComfyUI is started on any hardware."""
    if found.installed == "whole":
        return
    if found.hardware["verdict"] == "cloud" and not wish.force:
        yield SkillError(
            f"this machine is not suitable for local runs: {found.hardware['reasons'][-1]}",
            code="consent_needed",
            hint="use Comfy Cloud, or install anyway with --force",
            flag="--force",
        )
    if found.hardware["blockers"] and not wish.force:
        yield SkillError(
            found.hardware["blockers"][0],
            code="fix_first",
            hint="fix it, or continue anyway with --force",
        )
    if found.installed == "foreign":
        yield SkillError(
            f"{wish.workspace} exists and is not ComfyUI",
            code="workspace_taken",
            hint="choose another --workspace; remove the folder if an interrupted installation left it",
        )
    if not programs.find("git"):
        yield SkillError(
            "git is not installed; comfy-cli needs it to fetch ComfyUI",
            code="git_missing",
            hint="Debian and Ubuntu: sudo apt install git; macOS: xcode-select --install; Windows: winget install Git.Git",
        )


def device_flags(wish: Wish, found: Found) -> list[str]:
    """The flags of `comfy install` for the device: the user's, else what the hardware check found."""
    return [DEVICE_FLAGS[wish.device]] if wish.device else list(found.hardware["install"]["flags"])


def install_words(wish: Wish, found: Found) -> list[str]:
    """`comfy install` and its flags, without the program."""
    words = ["--skip-prompt", "--workspace", str(wish.workspace), "install", *device_flags(wish, found)]
    if not wish.manager:
        words.append("--skip-manager")
    if found.installed == "begun":
        # comfy-cli refuses an existing ComfyUI otherwise.
        words.append("--restore")
    return words


def launch_words(wish: Wish, found: Found) -> list[str]:
    """`comfy launch` and its flags, without the program."""
    words = [
        "--skip-prompt",
        "--workspace",
        str(wish.workspace),
        "launch",
        "--background",
        "--",
        "--port",
        str(wish.port),
    ]
    return [*words, "--cpu"] if "--cpu" in device_flags(wish, found) else words


def model_words(wish: Wish) -> list[str]:
    """`comfy model download` for the requested model, without the program."""
    url, _ = MODELS[wish.model or ""]
    where = ["--relative-path", "models/checkpoints", "--filename", url.rsplit("/", 1)[1]]
    return ["--skip-prompt", "--workspace", str(wish.workspace), "model", "download", "--url", url, *where]


def plan(wish: Wish) -> Document:
    """What would be done, as the JSON document of --dry-run; changes nothing."""
    found = look(wish)
    steps = _steps(wish, found)
    stops = objections(wish, found)
    return {
        "status": "dry_run",
        "message": _in_words(wish, found, steps, stops),
        "url": wish.url,
        "workspace": str(wish.workspace),
        "verdict": found.hardware["verdict"],
        "port": found.port.state,
        "installed": found.installed == "whole",
        "stopped_by": [
            {"code": reason.code, "message": reason.message, "hint": reason.hint} for reason in stops
        ],
        "plan": steps,
        "log": str(wish.log),
    }


def _in_words(wish: Wish, found: Found, steps: Sequence[Document], stops: Sequence[SkillError]) -> str:
    """The plan in a sentence: what would happen, or what prevents it."""
    if stops:
        return f"setup would stop before it changes anything: {stops[0].message}"
    does = {
        "comfy-cli": "install comfy-cli",
        "install": f"install ComfyUI into {wish.workspace} (several GB)",
        "model": f"fetch the model {wish.model} ({MODELS[wish.model][1]:g} GB)" if wish.model else "",
        "launch": f"start the server at {wish.url}",
    }
    doing = ", ".join(does[step["step"]] for step in steps if step["step"] in does)
    if found.port.state == "comfyui":
        already = f"a ComfyUI already answers at {wish.url}: nothing would be installed or started"
        return f"{already}, only: {doing}" if doing else f"{already}, only its health checked"
    return f"setup would {doing}"


def _steps(wish: Wish, found: Found) -> list[Document]:
    comfy = [found.comfy.program if found.comfy else str(own_venv() / BIN / PROGRAM)]
    steps: list[Document] = []

    def add(step: str, *commands: list[str], why: str) -> None:
        steps.append(
            {"step": step, "commands": [safe_text.shell_words(words) for words in commands], "why": why}
        )

    if needs_comfy(found):
        if found.comfy is None:
            add("comfy-cli", *comfy_cli_words(), why="comfy-cli is not installed")
        add("analytics", [*comfy, "--skip-prompt", "tracking", "disable"], why="no data is sent")
    if found.port.state != "comfyui" and found.installed in ("none", "begun"):
        add("install", [*comfy, *install_words(wish, found)], why="ComfyUI and PyTorch, several GB")
    if needs_model(found):
        add("model", [*comfy, *model_words(wish)], why=f"{MODELS[wish.model or ''][1]:g} GB")
    if found.port.state != "comfyui":
        add(
            "launch",
            [*comfy, *launch_words(wish, found)],
            why=f"then wait up to {wish.wait_s:g} s for {wish.url}",
        )
    add("health", health_words(wish), why="changes nothing")
    return steps


def health_words(wish: Wish) -> list[str]:
    """The health check of the server that was set up."""
    return [sys.executable, str(SCRIPTS / "health_check.py"), "--host", wish.url, "--json"]


class Comfy(NamedTuple):
    """comfy-cli: its program, its version, how it was found."""

    program: str
    version: str
    how: str


def own_venv() -> Path:
    """The virtual environment for comfy-cli, used when it is not installed otherwise."""
    return setup_run.state_folder() / "comfy-cli-venv"


def comfy_cli_words() -> list[list[str]]:
    """The commands that install comfy-cli: apart from every other Python, so no system package manager objects."""
    python = str(own_venv() / BIN / ("python.exe" if os.name == "nt" else "python"))
    return [
        [sys.executable, "-m", "venv", "--clear", str(own_venv())],
        [python, "-m", "pip", "install", PACKAGE],
    ]


def environment(comfy: Comfy | None = None) -> dict[str, str]:
    """The environment for comfy-cli: no keys, analytics off, no other virtual environment, its own folder on PATH."""
    values = programs.environment()
    values = {name: value for name, value in values.items() if name not in FOREIGN_ENVIRONMENTS} | QUIET
    if comfy is not None:
        # `comfy launch --background` starts a second `comfy` by its bare name.
        values["PATH"] = os.pathsep.join([str(Path(comfy.program).parent), values.get("PATH", "")])
    return values


def find() -> Comfy | None:
    """comfy-cli on PATH, where pipx and uv put it, or in its own environment, if its `--version` works; else None."""
    candidates = {"on PATH": programs.find(PROGRAM)}
    for folder in (paths.home() / ".local" / "bin", own_venv() / BIN):
        candidates[f"in {folder}"] = programs.within(folder, PROGRAM)
    if not paths.is_private(setup_run.state_folder()):
        del candidates[f"in {own_venv() / BIN}"]
    for how, program in candidates.items():
        if program and (version := _version(program)):
            return Comfy(program, version, how)
    return None


def _version(program: str) -> str | None:
    try:
        done = subprocess.run(
            [program, "--version"],
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
