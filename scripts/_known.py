"""Node definitions from the best place at hand: the server, this user's cache of that server, the bundled core.

Level 2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _cache
import _cli
import _common
from _cli import SkillError
from _dialect import Dialect

BUNDLED = Path(__file__).resolve().parent / "_core_definitions.json"


def definitions(server: Dialect | None, host: str | None = None) -> Mapping[str, Any] | None:
    """All node definitions of a server; when it cannot be asked, the cached ones of that address, else None."""
    if server is not None:
        try:
            return server.all_definitions()
        except SkillError as error:
            if error.code in ("refused", "unreachable"):
                raise
            return cached(server.url)
    address = host or os.environ.get("COMFY_HOST") or _cli.DEFAULT_HOST
    return cached(_common.normal_base(address)) if address != "demo" else None


def cached(url: str) -> Mapping[str, Any] | None:
    """What was last seen of a server's definitions."""
    kept = _cache.recall(f"definitions/{_cache.slug(url)}")
    return kept if isinstance(kept, dict) else None


def from_file(path: str) -> dict[str, Any]:
    """Node definitions saved with --object-info. Raises SkillError (exit 2) when the file holds none."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SkillError(
            f"cannot read node definitions from {path}", hint="save the server's /object_info there"
        ) from error
    if not isinstance(value, dict) or not any(
        isinstance(item, dict) and "input" in item for item in value.values()
    ):
        raise SkillError(f"{path} holds no node definitions", hint="save the server's /object_info there")
    return value
