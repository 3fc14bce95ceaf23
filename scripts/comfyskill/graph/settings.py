"""Settings as a person writes them: `--set NAME=VALUE`, `--args JSON`, sizes. Pure."""

from __future__ import annotations

import json
import re
from typing import Any

from comfyskill.base.cli import Exit, SkillError

_SIZE = re.compile(r"\s*(\d{1,6})\s*[x×X*,; ]\s*(\d{1,6})\s*")


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
        raise SkillError(
            f"{flag} wants {what}, not {text[:80]!r}", code="bad_set", exit=Exit.MISUSE, hint=example
        )
    return key.strip(), value


def parse_args_json(text: str) -> dict[str, Any]:
    """The settings in the JSON text of `--args`: an object, or a list of such objects' `name`/`value` pairs.

    Raises:
        SkillError: (exit 2, "bad_args") when it is no JSON object, holds a key twice, or a number JSON has not.
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
            raise ValueError(f"the key {key!r} stands there twice")
        seen[key] = value
    return seen


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _bad_args(why: str) -> SkillError:
    return SkillError(
        f"--args is no JSON object: {why}",
        code="bad_args",
        exit=Exit.MISUSE,
        hint="""for example --args '{"prompt": "a fox", "steps": 30}' or --args @settings.json""",
    )


def two_numbers(value: Any) -> tuple[Any, Any]:
    """Width and height of a size such as "640x480" or [640, 480]. Raises SkillError (exit 2, "wrong_type")."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return value[0], value[1]
    text = str(value).strip().strip("[]()")
    match = _SIZE.fullmatch(text)
    if match is None:
        raise SkillError(
            f"size wants WIDTHxHEIGHT, not {str(value)[:40]!r}",
            code="wrong_type",
            exit=Exit.MISUSE,
            hint="for example --set size=1024x768",
        )
    return match.group(1), match.group(2)
