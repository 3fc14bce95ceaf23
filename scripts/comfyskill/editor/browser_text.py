"""What the browser does to text and numbers on their way into a graph.

Pure: time and randomness come in as values.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from datetime import datetime

_COMMENTS = re.compile(r"/\*[\s\S]*?\*/|//[^\n\r\u2028\u2029]*")
_TOKEN = re.compile(r"%([^%]+)%")
_NOT_IN_NAMES = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
_DATE_PARTS = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")
LARGEST_EXACT = 2**53
MAX_NESTED_CHOICES = 60
DEEPEST_LIST = 200


def js_number(value: float) -> float | None:
    """A number as the browser prints it: a double, whole ones without a fraction; None for one that JSON cannot hold."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) <= LARGEST_EXACT:
            return value
        try:
            return js_number(float(value))
        except OverflowError:
            return None
    if not math.isfinite(value):
        return None
    if value.is_integer() and abs(value) < 1e21:
        # Shortest digits that name the double, padded with zeros: 2**64 prints as 18446744073709552000.
        digits, _, exponent = repr(abs(value)).partition("e")
        whole, _, fraction = digits.partition(".")
        shift = int(exponent or 0)
        text = (whole + fraction.rstrip("0")).ljust(len(whole) + shift, "0") if shift else whole
        return -int(text) if value < 0 else int(text)
    return value


def js_value(value: object) -> object:
    """A JSON value with `js_number` applied to every number in it."""
    if isinstance(value, list):
        return [js_value(item) for item in value]
    if isinstance(value, dict):
        return {key: js_value(item) for key, item in value.items()}
    return js_number(value) if isinstance(value, (int, float)) else value


def keeps_its_numbers(value: object) -> bool:
    """Whether every number in a value survives `js_value`."""
    if isinstance(value, list | dict):
        return all(keeps_its_numbers(item) for item in (value.values() if isinstance(value, dict) else value))
    return not isinstance(value, (int, float)) or js_number(value) is not None


def js_string(value: object, depth: int = 0) -> str:
    """A value as a text field shows it: null is empty, lists are joined by commas."""
    if value is None or depth > DEEPEST_LIST:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        number = js_number(value)
        return "" if number is None else str(number)
    if isinstance(value, list):
        return ",".join(js_string(item, depth + 1) for item in value)
    return "[object Object]"


def js_json(value: object) -> str:
    """A value as JSON.stringify prints it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def js_round(value: float) -> int:
    """Round half up, as Math.round does."""
    return math.floor(value + 0.5)


def to_fixed(value: float, digits: int) -> float:
    """A number with `digits` decimals, as toFixed prints it: exact halves go away from zero."""
    from decimal import ROUND_HALF_UP, Context, Decimal

    step = Decimal(1).scaleb(-min(max(digits, 0), 100))
    return float(Decimal(value).quantize(step, ROUND_HALF_UP, Context(prec=500)))


def text_field(value: object) -> str:
    """A value as a multi-line text field holds it: strings stay as they are."""
    if isinstance(value, str):
        return value
    return js_string(value).replace("\r\n", "\n").replace("\r", "\n")


def resolve_choices(text: str, choose: Callable[[list[str]], str]) -> str:
    """A dynamic prompt without comments, with each {a|b} replaced by the one that `choose` picks."""
    return _resolve(text, choose, 0)


def _resolve(text: str, choose: Callable[[list[str]], str], depth: int) -> str:
    text = _COMMENTS.sub("", text)
    if "{" not in text and "\\" not in text:
        return text
    if depth > MAX_NESTED_CHOICES:
        return text
    result: list[str] = []
    place = 0
    while place < len(text):
        char = text[place]
        place += 1
        if char == "\\":
            # A lone backslash at the very end becomes the word the browser prints for a missing character.
            result.append("\\" + (text[place] if place < len(text) else "undefined"))
            place += 1
        elif char == "{":
            options, place = _options(text, place)
            result.append(_resolve(choose(options), choose, depth + 1))
        else:
            result.append(char)
    return re.sub(r"\\([{}|])", r"\1", "".join(result))


def _options(text: str, place: int) -> tuple[list[str], int]:
    """The alternatives of a choice whose brace was just read, and where it ends."""
    options: list[str] = []
    current: list[str] = []
    depth = 0
    while place < len(text):
        char = text[place]
        place += 1
        if char == "\\":
            current.append("\\" + (text[place] if place < len(text) else "undefined"))
            place += 1
            continue
        if char == "{":
            depth += 1
        elif char == "}":
            if not depth:
                break
            depth -= 1
        elif char == "|" and not depth:
            options.append("".join(current))
            current = []
            continue
        current.append(char)
    options.append("".join(current))
    return options, place


def seeded_chooser(seed: int | None) -> Callable[[list[str]], str]:
    """A function that picks one of several alternatives; the same seed always picks the same ones."""
    return random.Random(seed).choice


def replace_tokens(text: str, value_of: Callable[[str, str], str | None], now: datetime) -> str:
    """The text with %Node.widget% and %date:format% replaced; unknown ones stay.

    `value_of(node name, widget name)` gives the value as text, or None.
    """

    def replacement(match: re.Match[str]) -> str:
        parts = match[1].split(".")
        if len(parts) != 2:
            return format_date(parts[0][5:], now) if parts[0].startswith("date:") else match[0]
        found = value_of(parts[0], parts[1])
        return match[0] if found is None else _NOT_IN_NAMES.sub("_", found)

    return _TOKEN.sub(replacement, text)


def format_date(pattern: str, now: datetime) -> str:
    """A time in the editor's own format letters: d, M, h, m, s once or twice, yy and yyyy."""
    values = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        letters = match[0]
        if letters == "yy":
            return str(now.year)[2:]
        if letters == "yyyy":
            return str(now.year)
        return str(values[letters[0]]).zfill(len(letters)) if letters[0] in values else letters

    return _DATE_PARTS.sub(part, pattern)
