"""A value as a person gave it → a value of the type that an input takes. Pure.

The server converts with Python's `int`, `float`, `str`, `bool` and rewrites the prompt ("false" becomes true, 64.7
becomes 64), so values are converted here, and a surprising conversion is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Exit, Misuse, SkillError
from comfyskill.graph.nearest import advice, choices_to_show, meant
from comfyskill.graph.nodes import literal, wrapped
from comfyskill.graph.parameters import Parameter
from comfyskill.graph.specs import InputSpec

_TRUE = frozenset({"true", "yes", "on", "1", "y"})
_FALSE = frozenset({"false", "no", "off", "0", "n"})
_INTEGER = re.compile(r"[+-]?\d{1,400}")
_SIZE = re.compile(r"\s*(\d{1,6})\s*[x×X*,; ]\s*(\d{1,6})\s*")


class _Misfit(Exception):
    """A value that the input cannot take; the text says what it takes."""


def convert(value: object, parameter: Parameter, *, validate: bool = True) -> Any:
    """The value in the input's own type, within its range and list; lists come back wrapped in `__value__`.

    With `validate` off, a value that cannot be converted or is out of range is passed on unchanged.

    Raises:
        SkillError: (exit 2) code "wrong_type", "out_of_range" or "not_in_list".
    """
    try:
        converted = _of_type(literal(value), parameter)
    except _Misfit as misfit:
        if not validate:
            return wrapped(value)
        raise Misuse(
            f"{parameter.called} requires {misfit}, not {_shown(value)}",
            code="wrong_type",
            parameter=parameter.name,
            address=parameter.address,
        ) from None
    if validate and parameter.spec is not None:
        converted = _within(converted, parameter, parameter.spec)
    return wrapped(converted)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return safe_text.quoted(value)
    return safe_text.name(json.dumps(value, ensure_ascii=False, default=str))


def _of_type(value: object, parameter: Parameter) -> Any:
    if parameter.type == "COMBO":
        return _choice(value, parameter)
    kinds = parameter.spec.types if parameter.spec is not None else {parameter.type}
    misfits = []
    for kind, read in _READERS.items():
        if kind in kinds:
            try:
                return read(value, parameter)
            except _Misfit as misfit:
                misfits.append(str(misfit))
    if misfits:
        raise _Misfit(" or ".join(dict.fromkeys(misfits)))
    if parameter.spec is not None and not parameter.spec.takes_value:
        raise _Misfit(f"a link from a node that gives {safe_text.name(parameter.type)}")
    return _like_now(value, parameter)


def _integer(value: object, _: Parameter) -> int:
    if isinstance(value, str):
        text = value.strip()
        if _INTEGER.fullmatch(text):
            return int(text)
        value = _float_or_none(text)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _Misfit("a whole number")


def _float_or_none(text: str) -> float | None:
    if "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def _number(value: object, _: Parameter) -> float:
    if isinstance(value, str):
        value = _float_or_none(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Misfit("a number")
    try:
        number = float(value)
    except OverflowError:
        raise _Misfit("a number") from None
    if not math.isfinite(number):
        raise _Misfit("a finite number")
    return number


def _either_number(value: object, parameter: Parameter) -> int | float:
    """A number whose kind is not known: whole ones stay whole."""
    try:
        return _integer(value, parameter)
    except _Misfit:
        return _number(value, parameter)


def _text(value: object, _: Parameter) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise _Misfit("a text")


def _truth(value: object, parameter: Parameter) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().casefold() if isinstance(value, str | int | float) else ""
    options = parameter.spec.options if parameter.spec is not None else {}
    if parameter.spec is not None and "STRING" in parameter.spec.types and word not in ("true", "false"):
        raise _Misfit("true or false")
    on, off = (str(options.get(label, "")).casefold() for label in ("label_on", "label_off"))
    if word in _TRUE or (word and word == on):
        return True
    if word in _FALSE or word == "0.0" or (word and word == off):
        return False
    raise _Misfit("true or false")


def _choice(value: object, parameter: Parameter) -> Any:
    """A member of the list, found by its text when the list holds numbers or other path separators."""
    choices = parameter.spec.choices if parameter.spec is not None else None
    if isinstance(value, str) and value.startswith("[") and _multiple(parameter):
        value = _json_or_none(value)
    if isinstance(value, list) and _multiple(parameter):
        return value
    if isinstance(value, dict | list):
        raise _Misfit("one value of its list")
    if choices is None or _member(value, choices):
        return value
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        for choice in choices:
            if not isinstance(choice, bool) and str(choice) == str(value):
                return choice
    if isinstance(value, str):
        word = value.strip().casefold()
        for choice in choices:
            if isinstance(choice, bool) and str(choice).casefold() == word:
                return choice
        for choice in choices:
            if isinstance(choice, str) and choice.replace("\\", "/") == value.replace("\\", "/"):
                return choice
    return value


def _member(value: object, choices: Sequence[Any]) -> bool:
    return any(choice is value or (type(choice) is type(value) and choice == value) for choice in choices)


def _multiple(parameter: Parameter) -> bool:
    return parameter.spec is not None and bool(parameter.spec.options.get("multiselect"))


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _list(value: object, _: Parameter) -> list[Any]:
    if isinstance(value, str):
        read = _json_or_none(value)
        if read is None and re.fullmatch(r"\s*-?[\d.]+\s*(,\s*-?[\d.]+\s*)*", value):
            read = [_float_or_none(part.strip()) for part in value.split(",")]
            read = [int(n) if n is not None and n.is_integer() else n for n in read]
        value = read
    if isinstance(value, list) and None not in value:
        return value
    raise _Misfit("a list, such as [1, 2]")


def _object(value: object, _: Parameter) -> dict[str, Any]:
    if isinstance(value, str):
        value = _json_or_none(value)
    if isinstance(value, dict):
        return value
    raise _Misfit("an object in JSON")


_BOX = ("x", "y", "width", "height")


def _box(value: object, parameter: Parameter) -> dict[str, Any]:
    try:
        box = _object(value, parameter)
    except _Misfit:
        box = {}
    if all(foreign.number(box.get(side)) is not None for side in _BOX):
        return box
    raise _Misfit('an object such as {"x": 0, "y": 0, "width": 512, "height": 512}')


def _like_now(value: object, parameter: Parameter) -> Any:
    """A value for an input of an unknown type: read as JSON when the present value is a list or an object."""
    if isinstance(parameter.value, dict):
        return _object(value, parameter)
    if isinstance(parameter.value, bool):
        return _truth(value, parameter)
    if isinstance(parameter.value, int | float) and isinstance(value, str):
        return _either_number(value, parameter)
    return value


# Tried in this order for an input of several types: "5" is a number before it is a truth value, and text comes last.
_READERS: Mapping[str, Callable[[Any, Parameter], object]] = {
    "INT": _integer,
    "FLOAT": _number,
    "NUMBER": _either_number,
    "BOOLEAN": _truth,
    "BOUNDING_BOX": _box,
    "CURVE": _object,
    "RANGE": _object,
    "COMPOSITOR": _object,
    "DICT": _object,
    "OBJECT": _object,
    "LOAD3D_CAMERA": _object,
    "LOAD3D_MODEL_INFO": _object,
    "BOUNDING_BOXES": _list,
    "COLORS": _list,
    "ARRAY": _list,
    "FLOATS": _list,
    "LIST": _list,
    "COLOR": _text,
    "STRING": _text,
}


def _within(value: object, parameter: Parameter, spec: InputSpec) -> Any:
    """The value, when the input's range and list allow it."""
    if isinstance(value, int | float) and not isinstance(value, bool) and spec.choices is None:
        low, high = spec.number("min"), spec.number("max")
        if (low is not None and value < low) or (high is not None and value > high):
            raise _out_of_range(value, parameter, low, high)
    if spec.choices is not None:
        for one in value if isinstance(value, list) else [value]:
            if not _member(one, spec.choices) and not may_be_unlisted(one, parameter):
                raise not_in_list(one, parameter, spec.choices)
    return value


def may_be_unlisted(value: object, parameter: Parameter) -> bool:
    """Whether the server may know this file although its list does not: lists hold the top folder only."""
    if parameter.upload is None or not isinstance(value, str):
        return False
    return "/" in value or "\\" in value or value.endswith(("[input]", "[output]", "[temp]"))


def _out_of_range(
    value: int | float, parameter: Parameter, low: int | float | None, high: int | float | None
) -> SkillError:
    return Misuse(
        f"{parameter.called} takes {low if low is not None else 'any'} to "
        f"{high if high is not None else 'any'}, not {value}",
        code="out_of_range",
        parameter=parameter.name,
        address=parameter.address,
        min=low,
        max=high,
    )


def not_in_list(value: object, parameter: Parameter, choices: Sequence[Any]) -> SkillError:
    """The refusal of a value that is not in an input's list, the nearest allowed values first."""
    listed = [str(choice) for choice in choices]
    twin = meant(str(value), listed)
    details: dict[str, Any] = {"nearest": twin} if twin is not None else {}
    return SkillError(
        f"{parameter.called} does not take {_shown(value)}",
        code="not_in_list",
        exit=Exit.MISUSE,
        hint=advice(str(value), listed),
        parameter=parameter.name,
        address=parameter.address,
        allowed={"count": len(listed), "items": choices_to_show(str(value), listed)},
        **details,
    )


def parse_set(text: str, flag: str = "--set") -> tuple[str, str]:
    """Key and value of `KEY=VALUE`, split at the first `=`. `flag` is the flag that had it.

    Raises:
        SkillError: (exit 2, "bad_set") without a key or a `=`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        example = 'for example --set prompt="a fox" --set 3.steps=30 --set "KSampler (hires).denoise=0.4"'
        if flag != "--set":
            name = {"--input-image": "image", "--input-mask": "mask"}.get(flag, "NODE.INPUT")
            example = f"say which input the file is for: {flag} {name}={text[:80] or 'PATH'}"
        what = "NAME=VALUE" if flag == "--set" else "NAME=PATH"
        raise Misuse(f"{flag} takes {what}, not {text[:80]!r}", code="bad_set", hint=example)
    return key.strip(), value


def parse_args_json(text: str) -> dict[str, Any]:
    """The settings in the JSON text of `--args`: an object, or a list of such objects' `name`/`value` pairs.

    Raises:
        SkillError: (exit 2, "bad_args") when it is not a JSON object, has a key twice, or has a number that JSON lacks.
    """
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise _bad_args("it is nested too deeply") from None
    except ValueError as error:
        raise _bad_args(str(error)) from None
    if not isinstance(value, dict):
        raise _bad_args(f"it is a {type(value).__name__}, not an object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"the key {key!r} appears twice")
        seen[key] = value
    return seen


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not a JSON number")


def _bad_args(why: str) -> SkillError:
    return Misuse(
        f"--args is not a JSON object: {why}",
        code="bad_args",
        hint="""for example --args '{"prompt": "a fox", "steps": 30}' or --args @settings.json""",
    )


def two_numbers(value: object) -> tuple[Any, Any]:
    """Width and height of a size such as "640x480" or [640, 480]. Raises SkillError (exit 2, "wrong_type")."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return value[0], value[1]
    text = str(value).strip().strip("[]()")
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Misuse(
            f"size takes WIDTHxHEIGHT, not {str(value)[:40]!r}",
            code="wrong_type",
            hint="for example --set size=1024x768",
        )
    return match.group(1), match.group(2)
