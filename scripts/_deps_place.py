"""Where on this machine a model belongs: the models folder, and a path in it that no name can lead out of. Level 3."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import _deps_comfy
import _deps_match
import _places
import _safe_text
from _cli import SkillError
from _safe_names import safe_name


def models_folder(server: Any, given: str | None, workspace: str | None) -> Path | None:
    """The models folder: the flag's, the workspace's, that of a server on this machine, comfy-cli's; None when unknown.

    Raises SkillError (exit 2) when a flag names a folder that is not there.
    """
    if given:
        path = _places.expanded(given)
        if not path.is_dir():
            raise SkillError(f"there is no folder {path}", hint="--models-dir wants ComfyUI's models folder")
        return path
    if workspace:
        path = _places.expanded(workspace) / "models"
        if not path.is_dir():
            raise SkillError(f"there is no folder {path}", hint="--workspace wants ComfyUI's own folder")
        return path
    if not is_here(server):
        return None
    for candidate in (_of_server(server), _of_comfy()):
        if candidate is not None and candidate.is_dir():
            return candidate
    return None


def is_here(server: Any) -> bool:
    """Whether the server runs on this machine, as far as its address tells."""
    from _session import is_loopback

    return getattr(server, "api", "") == "local" and is_loopback(urlsplit(str(server.url)).hostname or "")


def comfy_acts_here(server: Any, workspace: str | None) -> bool:
    """Whether comfy-cli is there and its workspace may be this server's installation, as far as both tell."""
    if _deps_comfy.program() is None or getattr(server, "api", "") != "local":
        return False
    if workspace:
        return True
    if not is_here(server):
        return False
    folder, models = _deps_comfy.workspace(), _of_server(server)
    return folder is not None and (models is None or models.resolve() == (folder / "models").resolve())


def _of_server(server: Any) -> Path | None:
    """From the command line that a server of this machine reports: --base-directory, else where main.py lies."""
    try:
        argv = server.stats()["system"].get("argv")
    except SkillError:
        return None
    words = [word for word in argv if isinstance(word, str)] if isinstance(argv, list) else []
    for index, word in enumerate(words):
        if word == "--base-directory" and index + 1 < len(words):
            return Path(words[index + 1]) / "models"
        if word.startswith("--base-directory="):
            return Path(word.partition("=")[2]) / "models"
    main = Path(words[0]) if words else Path()
    return main.parent / "models" if main.is_absolute() and main.name == "main.py" else None


def _of_comfy() -> Path | None:
    workspace = _deps_comfy.workspace()
    return workspace / "models" if workspace is not None else None


def segments(path: str) -> list[str]:
    """The parts of a relative path. Raises SkillError for what is absolute, climbs, or is no plain name on every system."""
    parts = re.split(r"[/\\]", path)
    for part in parts:
        if not part or part in (".", "..") or safe_name(part) != part or part.startswith("-"):
            raise SkillError(
                f"{_safe_text.quoted(path)} is no plain path inside the models folder",
                hint="rename the model in the workflow",
            )
    return parts


def target(folder: str, filename: str) -> str:
    """The path below the models folder, with forward slashes. Raises SkillError for a path that could lead elsewhere."""
    return "/".join([*segments(folder), *segments(filename)])


def free_bytes(folder: Path) -> int | None:
    """Free space where the folder is, or None."""
    import shutil

    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def manager_entry(models: list[Mapping[str, Any]], folder: str, filename: str) -> Mapping[str, Any] | None:
    """The entry of the Manager's list for a file, which is what it accepts as an order."""
    for entry in models:
        save_path = str(entry.get("save_path") or "").replace("\\", "/")
        near = save_path == "default" or save_path.split("/")[0] == folder
        if _deps_match.is_generic(filename):
            near = save_path.strip("/") == folder
        if entry.get("filename") == filename and near:
            return entry
    return None
