"""index.html of a batch: one file, no network, made for people; every text in it is data, never markup.

Level 3. The page's own script builds the DOM with textContent alone, and its policy allows no other script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from comfyskill.base import safe_text
from comfyskill.batch.plan import OUTPUT_COLUMN
from comfyskill.batch.results import Results, Row, seed_of, short
from comfyskill.pages.gallery_page import SCRIPT, STYLE

MOST_VALUE = 2000
# A grid with more cells than this helps nobody; the list stays.
MOST_CELLS = 4000
MOST_STEPS = 200
# Files that a browser shows or saves. Others (SVG, HTML, XML) may hold a script, which would run with the page's rights.
LINKED = (
    ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".exr", ".hdr", ".mp4", ".webm", ".mov",
    ".mkv", ".avi", ".mp3", ".flac", ".wav", ".ogg", ".opus", ".m4a", ".aac", ".glb", ".gltf", ".obj", ".stl", ".ply",
    ".fbx", ".usdz", ".splat", ".spz", ".ksplat", ".txt", ".json", ".csv", ".latent", ".safetensors", ".zip",
)  # fmt: skip


def page(results: Results) -> bytes:
    """The whole page."""
    data = json.dumps(_data(results), ensure_ascii=True, separators=(",", ":"))
    # Inside <script> only `<` could end the element.
    data = safe_text.redact(data).replace("<", "\\u003c")
    title = f"{short(_bare(results.origin), 80)}: {results.plan.count} runs"
    policy = (
        f"default-src 'none'; script-src {_digest(SCRIPT)}; style-src {_digest(STYLE)};"
        " img-src 'self' file: data:; media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style></head><body>",
        f"<header><h1>{html.escape(title)}</h1><p id=summary>{html.escape(_summary(results))}</p>",
        _demo_note(results),
        "</header><nav id=controls></nav><main id=runs></main>",
        "<noscript><p>This page needs JavaScript; the same data is in <a href=results.csv>results.csv</a>.</p></noscript>",
        f'<script type="application/json" id=data>{data}</script>',
        f"<script>{SCRIPT}</script></body></html>\n",
    ]
    return "\n".join(parts).encode("utf-8", "replace")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _bare(origin: str) -> str:
    return origin.removeprefix("file ").replace("\\", "/").rpartition("/")[2] or origin


def _demo_note(results: Results) -> str:
    if not results.demo:
        return ""
    return "<p class=demo>Made by the demo server: these are not generated results.</p>"


def _summary(results: Results) -> str:
    counts: dict[str, int] = {}
    for row in results.rows:
        counts[row.status] = counts.get(row.status, 0) + 1
    words = [
        f"{count} {status.replace('_', ' ')}"
        for status, count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    if results.made:
        words.append(time.strftime("begun %Y-%m-%d %H:%M", time.localtime(results.made)))
    return " · ".join(words)


def _data(results: Results) -> dict[str, Any]:
    names = list(dict.fromkeys(name for name in results.plan.names if name != OUTPUT_COLUMN))
    seeded = "seed" not in names and any(seed_of(row) is not None for row in results.rows)
    return {
        "names": [_text(name) for name in names] + (["seed"] if seeded else []),
        "axes": _axes(results),
        "runs": [_run(row, names, seeded) for row in results.rows],
    }


def _axes(results: Results) -> list[dict[str, Any]]:
    """The axes that really vary, with the words for each step that occurs; empty when a grid would not help."""
    used: list[dict[int, str]] = [{} for _ in results.plan.axes]
    for row in results.rows:
        for at, step in enumerate(row.steps):
            used[at].setdefault(step, "")
    found: list[dict[str, Any]] = []
    sizes: list[int] = []
    for at, axis in enumerate(results.plan.axes):
        if len(used[at]) < 2:
            continue
        labels = {}
        for step in sorted(used[at]):
            values = {name: value for name, value in axis.at(step).items() if name != OUTPUT_COLUMN}
            labels[step] = _text(", ".join(_label(value) for value in values.values()) or f"#{step}")
        name = _text(", ".join(name for name in axis.names if name != OUTPUT_COLUMN)) or "run"
        found.append({"at": at, "name": name, "steps": [[step, label] for step, label in labels.items()]})
        sizes.append(len(labels))
    return found if len(found) >= 2 and math.prod(sizes) <= MOST_CELLS and max(sizes) <= MOST_STEPS else []


def _label(value: Any) -> str:
    text = short(value, 500)
    return text if len(text) <= 90 else f"{text[:89]}…"


def _run(row: Row, names: list[str], seeded: bool) -> dict[str, Any]:
    values = [_shown(row.values.get(name)) for name in names]
    if seeded:
        values.append(seed_of(row))
    document: dict[str, Any] = {"r": row.run, "p": list(row.steps), "s": row.status, "v": values}
    if row.seconds is not None:
        document["t"] = round(row.seconds, 2)
    if row.files:
        document["f"] = [_file(item) for item in row.files]
    if row.texts:
        document["x"] = [_text(item.get("text"), MOST_VALUE) for item in row.texts]
    if row.message or row.code:
        document["m"] = _text(row.message or row.code, MOST_VALUE)
    return document


def _file(item: Mapping[str, Any]) -> list[Any]:
    """What the page needs of a file: address, kind, name, and whether it is linked."""
    path = str(item.get("file") or "")
    linked = int(path.lower().endswith(LINKED))
    return [quote(path, safe="/"), _text(item.get("type")), _text(item.get("filename")), linked]


def _shown(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value if value is None else str(value).lower()
    return value if isinstance(value, (int, float)) else _text(value, MOST_VALUE)


def _text(value: Any, limit: int = 300) -> str:
    return safe_text.clean("" if value is None else value, limit)
