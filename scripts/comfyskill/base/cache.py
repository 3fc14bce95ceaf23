"""Small things remembered between runs, in the user's cache folder: bounded, deletable, never needed.

A file that cannot be read or written is as good as absent, and so is a folder that others may write into.
What is read is data: no program and no byte code. `COMFYUI_SKILL_CACHE` moves the folder; the value `off` (or
--no-cache) turns it off.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from comfyskill.base import cli, paths, safe_files
from comfyskill.base.cli import SkillError

MOST_FILES = 64
MOST_CHARACTERS = 100_000_000
_off = False


def turn_off() -> None:
    """Stop reading and writing the cache (--no-cache)."""
    global _off
    _off = True


def folder() -> Path | None:
    """The cache folder of this user (not made yet), or None when the cache is off."""
    return None if _off else paths.cache_folder()


def group(name: str, *, make: bool = False) -> Path | None:
    """The folder of a group of files, or None: without a cache, when it is absent, or when others may write there."""
    root = folder()
    if root is None:
        return None
    path = root / name
    try:
        if make:
            # A folder that the user has named may be shared with others on purpose: its rights are not changed.
            paths.make_private(root, tighten=not os.environ.get(paths.VARIABLE))
            if paths.is_private(root):
                paths.make_private(path)
        if paths.is_private(root) and not safe_files.is_link(path) and paths.is_private(path):
            return path
        if root.exists() and not paths.is_private(root):
            _warn(root)
    except OSError:
        pass
    return None


@functools.cache
def _warn(root: Path) -> None:
    """Once in a process."""
    cli.warn(f"the cache folder {root} is not used: other users may write into it, or it is not yours")


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
        with safe_files.open_file(place / _file(name), "r", encoding="utf-8") as file:
            return json.loads(file.read(MOST_CHARACTERS))
    except (OSError, ValueError, RecursionError, SkillError):
        return None


def keep(name: str, value: object) -> None:
    """Keep a JSON value under a name (`group/slug`); the group's oldest files go when it grows beyond its bound."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        return
    _write(name, text)


def keep_table(name: str, value: Mapping[str, object]) -> None:
    """Keep a mapping so that `recall_table` can read single entries of it."""
    places: dict[str, tuple[int, int]] = {}
    parts: list[str] = []
    length = 0
    for key, item in value.items():
        part = json.dumps(item)
        places[str(key)] = (length, len(part))
        parts.append(part)
        length += len(part)
    _write(name, f"{json.dumps(places)}\n{''.join(parts)}")


class Table(Mapping[str, Any]):
    """A kept mapping whose entries are read on demand: a workflow needs a few dozen of thousands."""

    def __init__(self, places: Mapping[str, Sequence[int]], body: str) -> None:
        self._places = places
        self._body = body
        self._read: dict[str, Any] = {}

    def __getitem__(self, key: str) -> Any:
        if key not in self._read:
            start, length = self._places[key]
            try:
                self._read[key] = json.loads(self._body[start : start + length])
            except (ValueError, RecursionError):
                raise KeyError(key) from None
        return self._read[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def recall_table(name: str) -> Mapping[str, Any] | None:
    """The mapping kept under a name by `keep_table` (or by `keep`), or None."""
    place = group(name.partition("/")[0])
    if place is None:
        return None
    try:
        with safe_files.open_file(place / _file(name), "r", encoding="ascii") as file:
            text = file.read(MOST_CHARACTERS)
        head, line_end, body = text.partition("\n")
        value = json.loads(head)
        if line_end and isinstance(value, dict) and _are_places(value, len(body)):
            return Table(value, body)
    except (OSError, ValueError, RecursionError, SkillError):
        return None
    return value if isinstance(value, dict) and not line_end else None


def _are_places(value: Mapping[str, object], length: int) -> bool:
    """Whether an index is whole: a truncated file counts as absent."""
    total = 0
    for place in value.values():
        if not (isinstance(place, list) and len(place) == 2 and all(type(number) is int for number in place)):
            return False
        total += place[1]
    return total == length


def _write(name: str, text: str) -> None:
    place = group(name.partition("/")[0], make=True)
    if place is None:
        return
    try:
        temporary, file = safe_files.create_part(place)
        try:
            with file:
                file.write(text.encode())
            temporary.replace(place / _file(name))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _bound(place)
    except (OSError, ValueError):
        return


def _file(name: str) -> str:
    return f"{name.partition('/')[2]}.json"


def _bound(group: Path) -> None:
    files = sorted(group.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for path in files[:-MOST_FILES]:
        path.unlink(missing_ok=True)
