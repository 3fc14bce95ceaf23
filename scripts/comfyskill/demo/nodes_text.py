"""Nodes that compute with text, numbers and choices as the real ones do."""

from __future__ import annotations

import json
import re
from typing import Any

from comfyskill.demo.call import Call
from comfyskill.demo.node_table import Result, node
from comfyskill.demo.values import Images


@node("PrimitiveString", "PrimitiveStringMultiline", "PrimitiveInt", "PrimitiveFloat", "PrimitiveBoolean")
def primitive(call: Call, value: Any) -> tuple[Any]:
    return (value,)


@node("CustomCombo")
def custom_combo(call: Call, choice: str = "", **_rest: object) -> tuple[str]:
    return (choice,)


@node("ComfySwitchNode", needs=lambda known: ["on_true" if known.get("switch") else "on_false"])
def switch(call: Call, switch: bool, on_false: Any = None, on_true: Any = None) -> tuple[Any]:
    return (on_true if switch else on_false,)


@node("StringConcatenate")
def concatenate(call: Call, string_a: str, string_b: str, delimiter: str) -> tuple[str]:
    return (delimiter.join((string_a, string_b)),)


@node("StringFormat")
def format_text(call: Call, f_string: str, **values: object) -> tuple[str]:
    return (f_string.format(**{name.removeprefix("values_"): value for name, value in values.items()}),)


@node("StringSubstring")
def substring(call: Call, string: str, start: int, end: int) -> tuple[str]:
    return (string[start:end],)


@node("StringLength")
def length(call: Call, string: str) -> tuple[int]:
    return (len(string),)


@node("CaseConverter")
def case(call: Call, string: str, mode: str) -> tuple[str]:
    works = {
        "UPPERCASE": str.upper,
        "lowercase": str.lower,
        "Capitalize": str.capitalize,
        "Title Case": str.title,
    }
    return (works.get(mode, str)(string),)


@node("StringTrim")
def trim(call: Call, string: str, mode: str) -> tuple[str]:
    works = {"Both": str.strip, "Left": str.lstrip, "Right": str.rstrip}
    return (works[mode](string),)


@node("StringReplace")
def replace(call: Call, string: str, find: str, replace: str) -> tuple[str]:
    return (string.replace(find, replace),)


@node("StringContains")
def contains(call: Call, string: str, substring: str, case_sensitive: bool) -> tuple[bool]:
    if not case_sensitive:
        string, substring = string.lower(), substring.lower()
    return (substring in string,)


@node("StringCompare")
def compare(call: Call, string_a: str, string_b: str, mode: str, case_sensitive: bool) -> tuple[bool]:
    if not case_sensitive:
        string_a, string_b = string_a.lower(), string_b.lower()
    answers = {
        "Starts With": string_a.startswith(string_b),
        "Ends With": string_a.endswith(string_b),
        "Equal": string_a == string_b,
    }
    return (answers[mode],)


def _flags(case_insensitive: bool = False, multiline: bool = False, dotall: bool = False) -> int:
    return (
        (re.IGNORECASE if case_insensitive else 0)
        | (re.MULTILINE if multiline else 0)
        | (re.DOTALL if dotall else 0)
    )


@node("RegexMatch")
def regex_match(
    call: Call, string: str, regex_pattern: str, case_insensitive: bool, multiline: bool, dotall: bool
) -> tuple[bool]:
    try:
        return (re.search(regex_pattern, string, _flags(case_insensitive, multiline, dotall)) is not None,)
    except re.error:
        return (False,)


@node("RegexReplace")
def regex_replace(
    call: Call,
    string: str,
    regex_pattern: str,
    replace: str,
    case_insensitive: bool = True,
    multiline: bool = False,
    dotall: bool = False,
    count: int = 0,
) -> tuple[str]:
    return (
        re.sub(
            regex_pattern, replace, string, count=count, flags=_flags(case_insensitive, multiline, dotall)
        ),
    )


@node("PreviewAny")
def preview_any(call: Call, source: object = None) -> Result:
    if isinstance(source, str):
        text = source
    elif isinstance(source, (bool, int, float)):
        text = str(source)
    elif source is None:
        text = "None"
    else:
        text = str(source) if isinstance(source, Images) else _as_json(source)
    return Result(ui={"text": [text]})


def _as_json(source: object) -> str:
    try:
        return json.dumps(source)
    except TypeError:
        return str(source)
