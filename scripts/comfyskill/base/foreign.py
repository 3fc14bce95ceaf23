"""Parts of JSON that somebody else wrote: each function returns the value if it has the wanted type, else an empty one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def mapping(value: object) -> Mapping[str, Any]:
    """The object, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> list[Any]:
    """The list, or an empty one."""
    return value if isinstance(value, list) else []


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The objects in a list; whatever else it holds is left out."""
    return [item for item in items(value) if isinstance(item, Mapping)]


def text(value: object) -> str:
    """The text, or an empty one. Uncleaned: `safe_text.clean` it before it is shown."""
    return value if isinstance(value, str) else ""


def number(value: object) -> float | None:
    """The number if it is finite; true and false are not numbers."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def whole(value: object) -> int | None:
    """The integer; true and false are not integers, and 2.0 is not one either."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
