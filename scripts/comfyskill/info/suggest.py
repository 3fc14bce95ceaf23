"""Which of the bundled workflows suit a server: its memory, its models, its nodes.

The facts of each workflow are those of `workflows/index.json`; what is present comes from the same check as
check_deps.py's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document, Exit, SkillError
from comfyskill.base.programs import command
from comfyskill.deps import check
from comfyskill.deps.check import MISSING, RENAMED, UNKNOWN, Item
from comfyskill.deps.need import classes_of
from comfyskill.deps.stock import Stock
from comfyskill.run.reports import head
from comfyskill.server.facts import Facts
from comfyskill.server.protocol import Dialect

INDEX = Path(__file__).resolve().parents[3] / "workflows" / "index.json"
GB = 1024**3
# A card sold as 12 GB reports slightly less.
TOLERANCE_GB = 0.6
ON_THE_CPU = "this server runs on the CPU: memory_gb is the machine's RAM; a small picture takes minutes, a video hours"

# One workflow of the index, or one row of the report.
Entry = Mapping[str, Any]


class _Stock(Stock):
    """What a server has, except input pictures, which the user provides."""

    def has_input(self, value: str) -> tuple[bool | None, str]:  # noqa: ARG002
        return None, "not checked"


def suggest(server: Facts, *, kind: str | None = None) -> Document:
    """The bundled workflows, best first: ready, then fitting the memory, then without input files, then small.

    Each row says `ready` (true, false, or null where that could not be asked), `fits` (true, false, or null where the
    memory is unknown, or is that of a CPU), and what is missing or replaced.
    """
    index = json.loads(INDEX.read_text(encoding="utf-8"))
    entries = [entry for entry in index["workflows"] if kind in (None, entry["kind"])]
    graphs = [json.loads((INDEX.parent / entry["file"]).read_text(encoding="utf-8")) for entry in entries]
    memory, device = _memory(server)
    stock = _Stock(server)
    stock.definitions(name for graph in graphs for name in classes_of(graph))
    rows, unknown = [], set()
    for entry, graph in zip(entries, graphs, strict=True):
        items = [item for item in check.check(graph, stock).items if item.kind != "file"]
        rows.append(_row(entry, items, memory, device))
        unknown |= {item.folder or f"{item.kind}s" for item in items if item.status == UNKNOWN}
    for problem in stock.problems:
        if problem.exit == Exit.UNREACHABLE:
            raise problem
    rows.sort(key=_rank)
    document: Document = {"status": "ok", **head(server), "memory_gb": memory, "device": device}
    if device == "cpu" and not server.demo:
        document["note"] = ON_THE_CPU
    document["workflows"] = rows
    if unknown:
        document["unknown"] = f"the server did not list: {', '.join(sorted(unknown))}"
    if server.live is not None:
        document |= _next(server.live, rows)
    return document


def _rank(row: Entry) -> tuple[int, bool, bool, float]:
    ready = {True: 0, None: 1, False: 2}[row["ready"]]
    return ready, row["fits"] is False, bool(row["input_files"]), row["vram_gb"] or 0


def _next(server: Dialect, rows: Sequence[Entry]) -> Document:
    """The command that runs the first ready workflow, else the one that shows what the best candidate lacks."""
    flags = server.flags
    alone = [row for row in rows if not row["input_files"]]
    ready = [row for row in alone if row["ready"]]
    if ready:
        values = [part for setting in ready[0].get("set", ()) for part in ("--set", setting)]
        return {"next": [command("run_workflow.py", INDEX.parent / ready[0]["file"], *values, *flags)]}
    lacking = [row for row in alone if row["ready"] is False]
    if lacking:
        return {"next": [command("check_deps.py", INDEX.parent / lacking[0]["file"], *flags)]}
    return {}


def _row(entry: Entry, items: Sequence[Item], memory: float | None, device: str | None) -> Document:
    missing = [item for item in items if item.status == MISSING]
    replaced = [item for item in missing if _replaceable(item)]
    renamed = [(item, item.match) for item in replaced if item.match is not None]
    row = {
        "file": entry["file"],
        "purpose": entry["purpose"],
        "kind": entry["kind"],
        "ready": _ready(items, replaced),
        "vram_gb": entry.get("vram_gb"),
        "fits": _fits(entry, memory, device),
        "input_files": [place["name"] for place in entry["inputs"]],
        "missing_models": [item.name for item in missing if item.kind == "model" and not item.fixed_by_name],
        "missing_nodes": [item.name for item in missing if item.kind == "node"],
    }
    if row["missing_nodes"] and entry["node_packs"]:
        row["node_packs"] = [pack["name"] for pack in entry["node_packs"]]
    if values := [item.name for item in missing if item.kind == "value" and item not in replaced]:
        row["missing_values"] = values
    if renamed:
        row["use_instead"] = [
            {
                "name": item.name,
                "use_instead": safe_text.clean(match.name, 200),
                "how": match.how,
                "sure": match.sure,
            }
            for item, match in renamed
        ]
        row["set"] = [f"{use.address}={match.name}" for item, match in renamed for use in item.uses]
    return row


def _replaceable(item: Item) -> bool:
    """Whether the server has a likely substitute, and --set can name it at every place."""
    return item.kind in RENAMED and item.match is not None and all(use.plain for use in item.uses)


def _ready(items: Sequence[Item], replaced: Sequence[Item]) -> bool | None:
    """Whether nothing is missing, with replacements counted; None when it could not be checked."""
    if any(item.status == MISSING and item not in replaced for item in items):
        return False
    return None if any(item.status == UNKNOWN for item in items) else True


def _fits(entry: Entry, memory: float | None, device: str | None) -> bool | None:
    needed = entry.get("vram_gb")
    if not entry["models"]:
        return True
    if memory is None or needed is None:
        return None
    if needed > memory + TOLERANCE_GB:
        return False
    return None if device == "cpu" else True


def _memory(server: Facts) -> tuple[float | None, str | None]:
    """The largest device's memory in GiB and its type; None on the cloud, whose machines are not the user's to choose."""
    if server.api != "local":
        return None, None
    try:
        stats = server.stats()
    except SkillError as error:
        if error.code != "not_had":
            raise
        return None, None
    known = [
        (size, device.get("type"))
        for device in foreign.mappings(stats.get("devices"))
        if (size := foreign.number(device.get("vram_total"))) and size > 0
    ]
    if not known:
        return None, None
    size, device = max(known, key=lambda pair: (pair[1] != "cpu", pair[0]))
    return round(size / GB, 1), safe_text.clean(device, 40) if device else None
