"""Which jobs on a server are ours: the prompt ids that this user's commands have submitted.

An append-only file per server in the cache folder; the newest few thousand ids are kept.
"""

from __future__ import annotations

import os

from comfyskill.base import cache

MOST_BYTES = 200_000
_open: dict[str, int | None] = {}


def remember(url: str, prompt_id: str) -> None:
    """Record a submitted job; never raises."""
    if "\n" in prompt_id or len(prompt_id) > 200:
        return
    try:
        if url not in _open:
            _open[url] = _opened(url)
        handle = _open[url]
        if handle is not None:
            # One short O_APPEND write is whole even when several commands run at once.
            os.write(handle, f"{prompt_id}\n".encode())
    except OSError:
        return


def _opened(url: str) -> int | None:
    """The file to append to, shortened when it has grown (a batch opens it once); None without a cache."""
    place = cache.group("ours", make=True)
    if place is None:
        return None
    path = place / f"{cache.slug(url)}.txt"
    if path.exists() and path.stat().st_size > MOST_BYTES:
        kept = path.read_text(encoding="utf-8").splitlines()[-1000:]
        path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def known(url: str) -> set[str]:
    """The prompt ids that were submitted from here."""
    place = cache.group("ours")
    if place is None:
        return set()
    try:
        return set((place / f"{cache.slug(url)}.txt").read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return set()
