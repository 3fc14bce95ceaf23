"""Small things remembered between runs, in the user's cache folder: bounded, deletable, never needed.

Level 1. A file that cannot be read or written is as good as absent. `COMFYUI_SKILL_CACHE` moves the folder; the
value `off` (or --no-cache) turns it off.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import _places

MOST_FILES = 64
_off = False


def turn_off() -> None:
    """Neither read nor write anything from now on (--no-cache)."""
    global _off
    _off = True


def folder() -> Path | None:
    """The cache folder of this user (not made yet), or None when the cache is off."""
    return None if _off else _places.cache_folder()


def slug(text: str) -> str:
    """A short file name for any text: readable start, then a digest."""
    import hashlib

    start = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40]
    return f"{start}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:12]}"


def recall(name: str) -> Any:
    """The value kept under a name, or None."""
    root = folder()
    if root is None:
        return None
    try:
        with (root / f"{name}.json").open(encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError):
        return None


def keep(name: str, value: Any) -> None:
    """Keep a JSON value under a name (`group/slug`); the group's oldest files go when it grows beyond its bound."""
    root = folder()
    if root is None:
        return
    import tempfile

    target = root / f"{name}.json"
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(value, file)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _bound(target.parent)
    except (OSError, ValueError, TypeError):
        return


def _bound(group: Path) -> None:
    files = sorted(group.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in files[:-MOST_FILES]:
        path.unlink(missing_ok=True)
