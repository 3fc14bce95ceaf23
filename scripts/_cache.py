"""Small things remembered between runs, in the user's cache folder: bounded, deletable, never needed.

Level 1. A file that cannot be read or written is as good as absent, and so is a folder that others may write into.
What is read is data: no program and no byte code. `COMFYUI_SKILL_CACHE` moves the folder; the value `off` (or
--no-cache) turns it off.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import _cli
import _places
import _safe_files
from _cli import SkillError

MOST_FILES = 64
MOST_CHARACTERS = 100_000_000
_off = False
_warned = False


def turn_off() -> None:
    """Neither read nor write anything from now on (--no-cache)."""
    global _off
    _off = True


def folder() -> Path | None:
    """The cache folder of this user (not made yet), or None when the cache is off."""
    return None if _off else _places.cache_folder()


def group(name: str, *, make: bool = False) -> Path | None:
    """The folder of a group of files, or None: without a cache, when it is absent, or when others may write there."""
    root = folder()
    if root is None:
        return None
    path = root / name
    try:
        if make:
            # A folder that the user has named may be shared with others on purpose: its rights are not changed.
            _places.make_private(root, tighten=_places.VARIABLE not in os.environ)
            if _places.is_private(root):
                _places.make_private(path)
        if _places.is_private(root) and not _safe_files.is_link(path) and _places.is_private(path):
            return path
        if root.exists() and not _places.is_private(root):
            _warn(root)
    except OSError:
        pass
    return None


def _warn(root: Path) -> None:
    global _warned
    if not _warned:
        _warned = True
        _cli.warn(f"the cache folder {root} is not used: other users may write into it, or it is not yours")


def slug(text: str) -> str:
    """A short file name for any text: readable start, then a digest."""
    import hashlib

    start = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40]
    return f"{start}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:12]}"


def recall(name: str) -> Any:
    """The value kept under a name, or None."""
    place = group(name.partition("/")[0])
    if place is None:
        return None
    try:
        with _safe_files.open_file(place / _file(name), "r", encoding="utf-8") as file:
            return json.loads(file.read(MOST_CHARACTERS))
    except (OSError, ValueError, RecursionError, SkillError):
        return None


def keep(name: str, value: Any) -> None:
    """Keep a JSON value under a name (`group/slug`); the group's oldest files go when it grows beyond its bound."""
    place = group(name.partition("/")[0], make=True)
    if place is None:
        return
    try:
        temporary, file = _safe_files.create_part(place)
        try:
            with file:
                file.write(json.dumps(value).encode())
            temporary.replace(place / _file(name))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _bound(place)
    except (OSError, ValueError, TypeError):
        return


def _file(name: str) -> str:
    return f"{name.partition('/')[2]}.json"


def _bound(group: Path) -> None:
    files = sorted(group.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in files[:-MOST_FILES]:
        path.unlink(missing_ok=True)
