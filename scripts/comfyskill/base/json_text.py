"""JSON as the scripts print it: ASCII, on several lines, but what fits on one line stays on one.

Level 0, pure. Half of an indented document is white space, which an agent pays for and a person scrolls through.
"""

from __future__ import annotations

import json
from typing import Any

LINE = 110
INDENT = 2


def compact(value: Any) -> str:
    """All on one line. Raises ValueError for numbers that JSON cannot carry."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def laid_out(value: Any, depth: int = 0) -> str:
    """The value on lines of about `LINE` characters; the outermost members always have a line each."""
    if not isinstance(value, dict | list) or not value:
        return compact(value)
    margin = " " * (INDENT * (depth + 1))
    if isinstance(value, dict):
        left, right = "{", "}"
        parts = [f"{compact(key)}: {laid_out(item, depth + 1)}" for key, item in value.items()]
    else:
        left, right = "[", "]"
        parts = [laid_out(item, depth + 1) for item in value]
    broken = any("\n" in part for part in parts)
    if depth and not broken and sum(map(len, parts)) + 2 * len(parts) + len(margin) <= LINE:
        return f"{left}{', '.join(parts)}{right}"
    if depth:
        parts = _filled(parts, LINE - len(margin) - 1)
    inner = f",\n{margin}".join(parts)
    return f"{left}\n{margin}{inner}\n{margin[INDENT:]}{right}"


def _filled(parts: list[str], width: int) -> list[str]:
    """The members, as many on a line as fit; those that hold lists or objects keep lines of their own."""
    lines: list[str] = []
    whole = False
    for part in parts:
        simple = part[-1] not in "}]"
        if simple and whole and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
        whole = simple
    return lines
