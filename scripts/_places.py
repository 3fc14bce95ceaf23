"""Where this user's cache is, and paths as answers name them.

Level 0. `COMFYUI_SKILL_CACHE` moves it; the value `off` turns it off.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "COMFYUI_SKILL_CACHE"


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path as answers name it: from the root, `~` filled in, without `..` (links before it are followed)."""
    whole = expanded(path).absolute()
    return whole.resolve() if ".." in whole.parts else whole


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with `~` filled in; as it stands when that names nobody, or a user without a home (some containers)."""
    given = Path(path)
    try:
        return given.expanduser()
    except RuntimeError:
        return given


def home() -> Path:
    """The user's home folder, or the system's folder for temporary files when there is none."""
    try:
        return Path.home()
    except RuntimeError:
        import tempfile

        return Path(tempfile.gettempdir())


def cache_folder() -> Path | None:
    """The cache folder of this user (not made yet), or None when there is none."""
    setting = os.environ.get(VARIABLE)
    if setting:
        return None if setting == "off" else Path(setting)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = _below_home("Library", "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or _below_home(".cache")
    return Path(base) / "comfyui-skill" if base else None


def _below_home(*parts: str) -> str | None:
    try:
        return str(Path.home().joinpath(*parts))
    except RuntimeError:
        return None
