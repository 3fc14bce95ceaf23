"""Which of the bundled workflows suit a server: its memory, its models.

Level 3. The facts of each workflow are those of `workflows/index.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _cli import Exit, SkillError
from _dialect import Dialect
from _reports import command, head

INDEX = Path(__file__).resolve().parent.parent / "workflows" / "index.json"
GB = 1024**3
# A card sold as 12 GB tells a little less.
TOLERANCE_GB = 0.6


def suggest(server: Dialect, *, kind: str | None = None) -> dict[str, Any]:
    """The bundled workflows, best first: those whose models are there, then those that fit the memory, small ones first.

    Each row says `fits` (true, false, or null where the memory is not told) and `missing_models`.
    """
    index = json.loads(INDEX.read_text(encoding="utf-8"))
    memory = _memory_gb(server)
    models = _Models(server)
    rows = [_row(entry, memory, models) for entry in index["workflows"] if kind in (None, entry["kind"])]
    rows.sort(key=lambda row: (bool(row["missing_models"]), row["fits"] is False, row["vram_gb"] or 0))
    document: dict[str, Any] = {"status": "ok", **head(server), "memory_gb": memory, "workflows": rows}
    if models.unknown:
        document["unknown"] = f"the server did not list: {', '.join(sorted(models.unknown))}"
    live = hasattr(server, "request")  # an inventory runs nothing
    if live and rows and not rows[0]["missing_models"]:
        document["next"] = [command("run_workflow.py", INDEX.parent / rows[0]["file"], "--host", server.url)]
    return document


def _row(entry: Mapping[str, Any], memory: float | None, models: _Models) -> dict[str, Any]:
    needed = entry.get("vram_gb")
    fits = None if memory is None or needed is None else needed <= memory + TOLERANCE_GB
    missing = [model["name"] for model in entry["models"] if models.has(model) is False]
    return {
        "file": entry["file"],
        "purpose": entry["purpose"],
        "kind": entry["kind"],
        "vram_gb": needed,
        "fits": fits if entry["models"] else True,
        "missing_models": missing,
    }


def _memory_gb(server: Dialect) -> float | None:
    """The largest device's memory in GiB; None on the cloud, whose machines are not the user's to choose."""
    if server.api != "local":
        return None
    devices = server.stats().get("devices")
    sizes = [item.get("vram_total") for item in devices or [] if isinstance(item, Mapping)]
    known = [size for size in sizes if isinstance(size, (int, float)) and size > 0]
    return round(max(known) / GB, 1) if known else None


class _Models:
    """What the server has, a folder asked for once. `unknown`: folders that it would not list."""

    def __init__(self, server: Dialect) -> None:
        self.server = server
        self.unknown: set[str] = set()
        self._folders: dict[str, set[str] | None] = {}

    def has(self, model: Mapping[str, Any]) -> bool | None:
        """Whether a model file is there, under any sub-folder; None when that could not be asked."""
        folder = str(model["folder"])
        if folder not in self._folders:
            self._folders[folder] = self._names(folder)
        names = self._folders[folder]
        return None if names is None else str(model["name"]) in names

    def _names(self, folder: str) -> set[str] | None:
        try:
            return {name.replace("\\", "/").rsplit("/", 1)[-1] for name in self.server.models(folder)}
        except SkillError as error:
            if error.code == "folder_not_found":
                return set()
            if error.exit in (Exit.UNREACHABLE,):
                raise
            self.unknown.add(folder)
            return None
