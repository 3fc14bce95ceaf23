"""A value as a person gave it → a value of the type that an input takes. Pure.

The server converts with Python's `int`, `float`, `str`, `bool` and rewrites the prompt ("false" becomes true, 64.7
becomes 64), so values are converted here, and a surprising conversion is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from comfyskill.base import file_names, safe_text
from comfyskill.base.cli import Exit, Misuse, SkillError
from comfyskill.graph.parameters import Parameter, nearest
from comfyskill.graph.specs import InputSpec

_TRUE = frozenset({"true", "yes", "on", "1", "y"})
_FALSE = frozenset({"false", "no", "off", "0", "n"})
_INTEGER = re.compile(r"[+-]?\d{1,400}")
MOST_SHOWN = 12
# A list is shown whole when nothing in it is like the value, and it is short enough to be read.
MOST_WHOLE, MOST_LETTERS = 100, 2000
GET_THE_FILE = "get the file (scripts/check_deps.py WORKFLOW lists sources), or choose one of `allowed`"
_SIZE = re.compile(r"\s*(\d{1,6})\s*[x×X*,; ]\s*(\d{1,6})\s*")


class _Misfit(Exception):
    """A value that the input cannot take; the text says what it takes."""


def convert(value: Any, parameter: Parameter, *, validate: bool = True) -> Any:
    """The value in the input's own type, within its range and list; lists come back wrapped in `__value__`.

    With `validate` off, what cannot be converted or lies outside is passed on as it is.

    Raises:
        SkillError: (exit 2) code "wrong_type", "out_of_range" or "not_in_list".
    """
    try:
        converted = _of_type(value, parameter)
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


def wrapped(value: Any) -> Any:
    """A list in the wrapping that keeps the server from taking it for a link; other values as they are."""
    return {"__value__": list(value)} if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return safe_text.quoted(value)
    return safe_text.name(json.dumps(value, ensure_ascii=False, default=str))


def _of_type(value: Any, parameter: Parameter) -> Any:
    kinds = parameter.spec.types if parameter.spec is not None else {parameter.type}
    if parameter.type == "COMBO":
        return _choice(value, parameter)
    for kind, read in _READERS.items():
        if kind in kinds:
            return read(value, parameter)
    if parameter.spec is not None and not parameter.spec.is_widget and not parameter.spec.takes_any:
        raise _Misfit(f"a link from a node that gives {safe_text.name(parameter.type)}")
    return _like_now(value, parameter)


def _integer(value: Any, _: Parameter) -> int:
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


def _number(value: Any, _: Parameter) -> float:
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


def _either_number(value: Any, parameter: Parameter) -> int | float:
    """A number whose kind is not known: whole ones stay whole."""
    try:
        return _integer(value, parameter)
    except _Misfit:
        return _number(value, parameter)


def _text(value: Any, _: Parameter) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise _Misfit("a text")


def _truth(value: Any, parameter: Parameter) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().casefold() if isinstance(value, str | int | float) else ""
    options = parameter.spec.options if parameter.spec is not None else {}
    on, off = (str(options.get(label, "")).casefold() for label in ("label_on", "label_off"))
    if word in _TRUE or (word and word == on):
        return True
    if word in _FALSE or word == "0.0" or (word and word == off):
        return False
    raise _Misfit("true or false")


def _choice(value: Any, parameter: Parameter) -> Any:
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


def _member(value: Any, choices: Sequence[Any]) -> bool:
    return any(choice is value or (type(choice) is type(value) and choice == value) for choice in choices)


def _multiple(parameter: Parameter) -> bool:
    return parameter.spec is not None and bool(parameter.spec.options.get("multiselect"))


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _list(value: Any, _: Parameter) -> list[Any]:
    if isinstance(value, str):
        read = _json_or_none(value)
        if read is None and re.fullmatch(r"\s*-?[\d.]+\s*(,\s*-?[\d.]+\s*)*", value):
            read = [_float_or_none(part.strip()) for part in value.split(",")]
            read = [int(n) if n is not None and n.is_integer() else n for n in read]
        value = read
    if isinstance(value, list) and None not in value:
        return value
    raise _Misfit("a list, such as [1, 2]")


def _object(value: Any, _: Parameter) -> dict[str, Any]:
    if isinstance(value, str):
        value = _json_or_none(value)
    if isinstance(value, dict):
        return value
    raise _Misfit("an object in JSON")


def _like_now(value: Any, parameter: Parameter) -> Any:
    """A value for an input of an unknown type: read as JSON when the present value is a list or an object."""
    if isinstance(parameter.value, dict):
        return _object(value, parameter)
    if isinstance(parameter.value, bool):
        return _truth(value, parameter)
    if isinstance(parameter.value, int | float) and isinstance(value, str):
        return _either_number(value, parameter)
    return value


_READERS = {
    "BOOLEAN": _truth,
    "INT": _integer,
    "FLOAT": _number,
    "NUMBER": _either_number,
    "STRING": _text,
    "LIST": _list,
    "OBJECT": _object,
}


# ---- limits ------------------------------------------------------------------------------------------


def _within(value: Any, parameter: Parameter, spec: InputSpec) -> Any:
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


def may_be_unlisted(value: Any, parameter: Parameter) -> bool:
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


def not_in_list(value: Any, parameter: Parameter, choices: Sequence[Any]) -> SkillError:
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


def meant(value: str, listed: Sequence[str]) -> str | None:
    """The one listed value that is `value` but for its folder, its model suffix or its case; None when unclear."""
    for strip in (_spelled, _stem):
        twins = {item for item in listed if strip(item) == strip(value)}
        if len(twins) == 1:
            return twins.pop()
    return None


def _spelled(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1].strip().casefold()


def _stem(name: str) -> str:
    """A name without folder and model suffix; other dots, as in `v1.5`, belong to the name."""
    plain = _spelled(name)
    return next(
        (plain.removesuffix(suffix) for suffix in file_names.MODEL_SUFFIXES if plain.endswith(suffix)), plain
    )


def is_model_file(name: str) -> bool:
    """Whether a value is named like a model file."""
    return name.casefold().endswith(tuple(file_names.MODEL_SUFFIXES))


def advice(value: str, listed: Sequence[str]) -> str:
    """What to do about a value that is not in the list, without the list itself."""
    if not listed:
        return "the server's list is empty: it has no such files"
    twin = meant(value, listed)
    if twin is not None:
        return f"did you mean {safe_text.quoted(twin)}?"
    if is_model_file(value):
        return GET_THE_FILE
    near = nearest(value, listed, 3)
    return (
        f"the nearest: {safe_text.quoted_list(near)} (see `allowed`)" if near else "choose one of `allowed`"
    )


def nearest_choices(word: str, listed: Sequence[str], count: int = MOST_SHOWN) -> list[str]:
    """At most `count` allowed values: the one that was meant, those most like `word`, then the list's own order."""
    stem = re.split(r"[\\/]", word)[-1].rsplit(".", 1)[0]
    twin = meant(word, listed)
    near = list(
        dict.fromkeys(
            [
                *([twin] if twin is not None else []),
                *nearest(word, listed, count),
                *(nearest(stem, listed, count) if stem else []),
            ]
        )
    )
    rest = (choice for choice in listed if choice not in near)
    while len(near) < count and (choice := next(rest, None)) is not None:
        near.append(choice)
    return near[:count]


def choices_to_show(word: str, listed: Sequence[str]) -> list[str]:
    """What a refusal shows of a list: the values nearest to `word`; the whole list when none is near and it is short."""
    near = meant(word, listed) is not None or nearest(word, listed, 1)
    whole = len(listed) <= MOST_WHOLE and sum(map(len, listed)) <= MOST_LETTERS and not near
    return nearest_choices(word, listed, len(listed) if whole else MOST_SHOWN)


def parse_set(text: str, flag: str = "--set") -> tuple[str, str]:
    """`KEY=VALUE` taken apart at the first `=`. `flag` is the one that gave it.

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


def two_numbers(value: Any) -> tuple[Any, Any]:
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
