"""Where this user's cache is, and paths as answers name them.

`COMFYUI_SKILL_CACHE` moves it; the value `off` turns it off.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

VARIABLE = "COMFYUI_SKILL_CACHE"


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path as answers name it: from the root, `~` filled in, without `..` (links before it are followed)."""
    whole = expanded(path).absolute()
    return whole.resolve() if ".." in whole.parts else whole


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with `~` filled in; unchanged when it names no known user, or a user without a home (some containers)."""
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


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's and no other user may write into it. Windows keeps it so below the user's profile."""
    if not hasattr(os, "geteuid"):
        return folder.is_dir()
    try:
        # A link in a folder that others may write could be theirs, whatever it points at.
        entries = folder.lstat(), folder.stat()
    except OSError:
        return False
    ours = all(entry.st_uid == os.geteuid() for entry in entries)
    return ours and stat.S_ISDIR(entries[1].st_mode) and not entries[1].st_mode & 0o022


def make_private(folder: Path, *, tighten: bool = True) -> bool:
    """Make a folder for this user alone; whether it is one. `tighten`: take write access from others where it is ours.

    Raises OSError when it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if tighten and hasattr(os, "geteuid") and folder.stat().st_uid == os.geteuid() and not is_private(folder):
        folder.chmod(0o700)
    return is_private(folder)


def _below_home(*parts: str) -> str | None:
    try:
        return str(Path.home().joinpath(*parts))
    except RuntimeError:
        return None
