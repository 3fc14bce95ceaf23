"""Which of the listed names a wrong one is meant to be: class names, parameter names, choices, files. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from comfyskill.base import file_names, safe_text

MOST_SHOWN = 12
# A list is shown whole when nothing in it is like the value, and it is short enough to be read.
MOST_WHOLE, MOST_LETTERS = 100, 2000
GET_THE_FILE = "get the file (scripts/check_deps.py WORKFLOW lists sources), or choose one of `allowed`"


def nearest(word: str, among: Iterable[str], count: int = 6) -> list[str]:
    """The members of `among` that are most like `word`, likeliest first."""
    import difflib

    lowered = word.casefold()
    # Comparing thousands of names takes seconds, so only names that contain the first letters are compared.
    pool = list(dict.fromkeys(among))
    if len(pool) > 2000:
        pool = [name for name in pool if lowered[:3] in name.casefold()][:2000]
    scored = []
    for name in pool:
        other = name.casefold()
        ratio = difflib.SequenceMatcher(None, lowered, other).ratio()
        if lowered in other or other in lowered:
            ratio = max(ratio, 0.75)
        if ratio >= 0.5:
            scored.append((-ratio, name))
    return [name for _, name in sorted(scored)[:count]]


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
