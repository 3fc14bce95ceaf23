"""JSON from anywhere, read with its usual faults: byte-order marks, UTF-16, NaN, repeated keys, deep nesting.

Pure.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from comfyskill.base import text_files
from comfyskill.base.cli import Misuse, SkillError

# No real document is nested deeper; later code may walk it recursively.
DEEPEST = 200


def not_json(origin: str, why: str, hint: str | None = None) -> SkillError:
    """The refusal of something that should have been JSON."""
    return Misuse(
        f"{origin} is not valid JSON: {why}",
        code="not_json",
        hint=hint or "give a workflow file saved or exported by ComfyUI, or a picture that ComfyUI made",
    )


def text_of(data: bytes, origin: str) -> str:
    """The text of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.

    Raises:
        SkillError: (exit 2) the bytes are not text.
    """
    encoding = json.detect_encoding(data)
    for mark, name in text_files.MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], name
            break
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise not_json(origin, f"byte {error.start} is not {encoding} text") from error
    return text


def parse(text: str, origin: str) -> tuple[Any, list[str]]:
    """The value of a JSON text, and notes on what had to be repaired.

    NaN and infinities become null, as ComfyUI's editor reads them; of keys that are repeated the last one counts.

    Raises:
        SkillError: (exit 2) the text is empty, no JSON, or nested too deeply.
    """
    reading = _Reading()
    try:
        value = json.loads(
            text,
            parse_constant=reading.constant,
            parse_float=reading.number,
            object_pairs_hook=reading.mapping,
        )
    except json.JSONDecodeError as error:
        raise _syntax_error(text, error, origin) from error
    except RecursionError as error:
        raise _too_deep(origin) from error
    except ValueError as error:
        raise not_json(origin, "it holds a number with thousands of digits") from error
    if _deeper_than(value, DEEPEST):
        raise _too_deep(origin)
    return value, reading.notes()


class _Reading:
    """Counts the faults of one parse."""

    def __init__(self) -> None:
        self.constants = 0
        self.repeated: list[str] = []

    def constant(self, _name: str) -> None:
        self.constants += 1

    def number(self, text: str) -> float | None:
        """A number; one beyond a double (1e400) is as infinite as the word."""
        value = float(text)
        if math.isinf(value):
            self.constants += 1
            return None
        return value

    def mapping(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        if len(value) < len(pairs) and len(self.repeated) < 5:
            counts = Counter(key for key, _ in pairs)
            self.repeated += [key for key, count in counts.items() if count > 1]
        return value

    def notes(self) -> list[str]:
        notes = []
        if self.constants:
            notes.append(f"{self.constants} NaN or infinite number(s) were read as null")
        if self.repeated:
            names = ", ".join(repr(name[:40]) for name in self.repeated[:5])
            notes.append(f"keys that occur twice in one object (the last one counts): {names}")
        return notes


def _deeper_than(value: object, limit: int) -> bool:
    """Level by level, so that the check itself cannot recurse too deeply."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        children = (
            item for parent in level for item in (parent.values() if isinstance(parent, dict) else parent)
        )
        level = [child for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _too_deep(origin: str) -> SkillError:
    return not_json(
        origin, f"it is nested deeper than {DEEPEST} levels", "a ComfyUI workflow has about ten levels"
    )


def _syntax_error(text: str, error: json.JSONDecodeError, origin: str) -> SkillError:
    where = f"line {error.lineno}, column {error.colno}: {error.msg}"
    start = text.lstrip()[:200].lower()
    if not start:
        return not_json(origin, "it is empty")
    if start.startswith(("<!doctype", "<html", "<?xml", "<svg")):
        return not_json(
            origin,
            "it is a web page or XML",
            "the download may be the page around the file: save the raw file",
        )
    if start.startswith("{'") or "'class_type'" in text[:5000]:
        return not_json(
            origin, where, "this looks like a printed Python value: write it with json.dump instead"
        )
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return not_json(
            origin, f"it ends in the middle ({where})", "the file is cut off: save or download it again"
        )
    if error.msg == "Extra data":
        return not_json(origin, f"something follows after its end ({where})", "give one workflow at a time")
    return not_json(origin, where)
