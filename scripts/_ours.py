"""Which jobs on a server are ours: the prompt ids that this user's commands have submitted.

Level 2. An append-only file per server in the cache folder; the newest few thousand ids are kept.
"""

from __future__ import annotations

import os
from pathlib import Path

import _cache

MOST_BYTES = 200_000
_open: dict[Path, int] = {}


def remember(url: str, prompt_id: str) -> None:
    """Note a submitted job; never a reason to fail."""
    root = _cache.folder()
    if root is None or "\n" in prompt_id or len(prompt_id) > 200:
        return
    path = root / "ours" / f"{_cache.slug(url)}.txt"
    try:
        if path not in _open:
            _open[path] = _opened(path)
        # One short O_APPEND write is whole even when several commands run at once.
        os.write(_open[path], f"{prompt_id}\n".encode())
    except OSError:
        return


def _opened(path: Path) -> int:
    """The file to append to, shortened when it has grown; a batch opens it once."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and path.stat().st_size > MOST_BYTES:
        kept = path.read_text(encoding="utf-8").splitlines()[-1000:]
        path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def known(url: str) -> set[str]:
    """The prompt ids that were submitted from here."""
    root = _cache.folder()
    if root is None:
        return set()
    try:
        return set((root / "ours" / f"{_cache.slug(url)}.txt").read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return set()
