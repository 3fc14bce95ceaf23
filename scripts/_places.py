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
    whole = Path(path).expanduser().absolute()
    return whole.resolve() if ".." in whole.parts else whole


def cache_folder() -> Path | None:
    """The cache folder of this user (not made yet), or None when there is none."""
    setting = os.environ.get(VARIABLE)
    if setting:
        return None if setting == "off" else Path(setting)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = str(Path("~/Library/Caches").expanduser())
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(base) / "comfyui-skill" if base else None
