"""Where this user's cache is.

Level 0. `COMFYUI_SKILL_CACHE` moves it; the value `off` turns it off.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "COMFYUI_SKILL_CACHE"


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
