"""Foreign text made safe to show, and secrets kept out of everything shown."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HIDDEN = "[hidden]"
# Hiding shorter values would also hide ordinary words.
SHORTEST_SECRET = 4
# The first characters of a secret are hidden too, from this number on: a text may have been cut inside a secret.
SHORTEST_PIECE = 8
# Ordinary words also begin like this, so a piece of a secret must be longer than its label by BEYOND_LABEL.
LABELS = ("comfyui-", "github_pat_", "ghp_", "hf_", "sk-proj-", "sk-", "bearer", "basic", "token")
BEYOND_LABEL = 4

_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[@-Z\\-_])"
)
# C0 and C1 controls but tab and newline, bidirectional controls, line separators, lone surrogates, tag characters.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


class _Folds(dict[int, str]):
    """The letters that each character is compared as: no case, width or accents; nothing for space and invisible ones."""

    def __missing__(self, code: int) -> str:
        import unicodedata

        letters = unicodedata.normalize("NFKD", chr(code)).casefold()
        self[code] = "".join(
            letter
            for letter in letters
            if not letter.isspace()
            and unicodedata.category(letter) not in ("Cc", "Cf", "Mn", "Me")
            and letter not in _BLANKS
        )
        return self[code]


# Unicode calls these letters or symbols, but they show nothing.
_BLANKS = "\u115f\u1160\u3164\uffa0\u2800"
_folds = _Folds()
_short_secrets: list[str] = []  # found only in their exact spelling
_forms: dict[str, str] = {}  # a secret in one spelling, folded -> its shortest beginning that is hidden


def hide(secret: str | None, *, pieces: bool = True) -> None:
    """Register a secret: from now on no output of this process shows it, in any spelling.

    `pieces`: hide its beginnings too. Use False for a value that may be an ordinary word.
    """
    if not secret or len(secret) < SHORTEST_SECRET:
        return
    plain = secret.translate(_folds)
    if len(plain) < SHORTEST_PIECE:
        _short_secrets.extend({*_spellings(secret)[:5]} - {*_short_secrets})
        _short_secrets.sort(key=len, reverse=True)
        return
    label = next((len(label) for label in LABELS if plain.startswith(label)), 0)
    piece = secret[: max(SHORTEST_PIECE, label + BEYOND_LABEL)]
    for spelt, begun in zip(_spellings(secret), _spellings(piece), strict=True):
        form = spelt.translate(_folds)
        least = os.path.commonprefix([form, begun.translate(_folds)]) if pieces else form
        _forms[form] = min(least or form, _forms.get(form, form), key=len)


def _spellings(text: str) -> list[str]:
    """The text plain, percent-encoded, escaped, in hexadecimal, and in base64 at each of its three offsets."""
    from base64 import b64encode
    from urllib.parse import quote, quote_plus

    raw = text.encode("utf-8", "surrogatepass")
    found = [
        text,
        quote(text, safe="", errors="replace"),
        quote_plus(text, errors="replace"),
        json.dumps(text)[1:-1],
        b64encode(raw).decode(),
        raw.hex(),
        "".join(f"%{byte:02x}" for byte in raw),
        "".join(f"\\x{byte:02x}" for byte in raw),
        "".join(f"\\u{ord(letter):04x}" for letter in text),
    ]
    for offset, skipped in ((0, 0), (1, 2), (2, 3)):
        whole = (offset + len(raw)) // 3 * 4
        found.append(b64encode(bytes(offset) + raw).decode()[skipped:whole])
    return found


def redact(text: str) -> str:
    """The text with every registered secret replaced, and every beginning of one."""
    for secret in _short_secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    if not _forms:
        return text
    folded = text.translate(_folds)
    if not any(least in folded for least in _forms.values()):
        return text
    # For each folded character the place in the text that it came from.
    places = [place for place, letter in enumerate(text) for _ in _folds[ord(letter)]]
    parts, shown = [], 0
    for start, end in _found(folded):
        parts += [text[shown : places[start]], HIDDEN]
        shown = places[end - 1] + 1
    return "".join(parts) + text[shown:]


def _found(folded: str) -> list[tuple[int, int]]:
    """Start and end of each secret in a folded text, in order. Spans that touch become one."""
    spans: list[tuple[int, int]] = []
    for form, least in _forms.items():
        start = folded.find(least)
        while start >= 0:
            end = start + len(os.path.commonprefix([form, folded[start : start + len(form)]]))
            spans.append((start, end))
            start = folded.find(least, start + 1)
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def clean(text: object, limit: int | None = None) -> str:
    """Foreign text made safe to show: no control, escape or bidirectional characters, at most `limit` long.

    Secrets are hidden before the text is cut: half a secret would not be found afterwards.
    """
    plain = str(text)
    if not plain.isascii():
        plain = _readable(plain)
    plain = _UNSAFE.sub("", _ESCAPES.sub("", plain.replace("\r\n", "\n")))
    if limit is not None and len(plain) > limit:
        plain = redact(plain)
    if limit is not None and len(plain) > limit:
        return f"{plain[:limit]}… (+{len(plain) - limit} characters)"
    return plain


def last_of(text: str, limit: int) -> str:
    """The last `limit` characters of a cleaned text. Secrets are removed first: a cut one is no longer recognised."""
    plain = redact(text)
    return plain if len(plain) <= limit else f"… {plain[-limit:]}"


def _readable(text: str) -> str:
    """A path that Python read as bytes (a plain C locale) as the text it is."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return text


def clean_tree(value: object, limit: int | None = None) -> Any:
    """A JSON value with every string in it cleaned."""
    if isinstance(value, str):
        return clean(value, limit)
    if isinstance(value, Mapping):
        return {clean(key, limit): clean_tree(item, limit) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_tree(item, limit) for item in value]
    return value


def cap(items: Sequence[object], limit: int) -> dict[str, Any]:
    """A long list for the JSON document: true count, the first `limit` items and how many are left out."""
    capped: dict[str, Any] = {"count": len(items), "items": list(items[:limit])}
    if len(items) > limit:
        capped["more"] = len(items) - limit
    return capped


def counted(number: int, noun: str) -> str:
    """A number with its noun in the right form: "1 class", "2 classes"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"


def shell_words(words: Iterable[object]) -> str:
    """A command line that can be pasted into a shell of this system."""
    plain = [str(word) for word in words]
    if os.name == "nt":
        return windows_words(plain)
    import shlex

    return shlex.join(plain)


# What means nothing to cmd, PowerShell and Git Bash alike; a backslash is for quotes, outside them Bash eats it.
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_+=:./-]+")
# PowerShell takes typographic quotes for quotes; cmd fills in %NAME% inside of them, and a new line ends its command.
_BREAKS_DOUBLE = re.compile('["$`\r\n\u201c-\u201e]|%[^%]+%')
_BREAKS_SINGLE = re.compile("['&|<>^%\r\n\u2018-\u201b]")


def windows_words(words: Sequence[str]) -> str:
    """A command line that is the same in cmd, PowerShell and Git Bash, whichever a user or an agent has open.

    The program's path has slashes, which all three take. In PowerShell a program with a space in its path needs `&`
    before it. A character that no quoting makes harmless in all three ($, backtick and quotes beside what cmd acts
    upon) becomes `?`: a command that finds nothing is better than one that does something else.
    """
    program, *rest = words
    # A virtual environment of Windows has no python3.
    program = "python" if program == "python3" else program.replace("\\", "/")
    return " ".join([_windows_word(program), *(_windows_word(word) for word in rest)])


def _windows_word(word: str) -> str:
    if _PLAIN_WORD.fullmatch(word):
        return word
    if _BREAKS_DOUBLE.search(word) and not _BREAKS_SINGLE.search(word):
        return f"'{word}'"
    # The C runtime takes a backslash before the closing quote for an escape.
    ending = "\\" if word.endswith("\\") else ""
    return f'"{_BREAKS_DOUBLE.sub("?", word)}{ending}"'


MOST_NAME = 40
MOST_WORDS = 5
FEW_WORDS = 3
# What names of node classes, files, packs and devices are made of; a mark before a blank would end a sentence.
_NOT_IN_NAMES = re.compile(r"[^\w\-./\\()\[\]+&@#|~:%= ]|[.:](?= |$)")


def name(text: object) -> str:
    """A foreign name for use inside our own sentence: one line, at most 40 characters, nothing like a sentence.

    A name of one word that is too long is cut in its middle, so that a file keeps its suffix. Of more than five words
    the first three are left. Secrets are hidden before the cut, which keeps the end of a long name.
    """
    words = redact(_NOT_IN_NAMES.sub("", " ".join(clean(text).split()))).split()
    plain = " ".join(words)
    if len(words) > MOST_WORDS:
        plain = " ".join(words[:FEW_WORDS])
        return f"{plain[: MOST_NAME - 1].rstrip()}…"
    if len(plain) <= MOST_NAME:
        return plain
    tail = plain[-(MOST_NAME // 2 - 4) :] if len(words) == 1 else ""
    return f"{plain[: MOST_NAME - 1 - len(tail)].rstrip()}…{tail}"


def quoted(text: object) -> str:
    """A foreign name in quotation marks, made safe as `name` does."""
    return f"'{name(text)}'"


def quoted_list(texts: Iterable[object], most: int = 6) -> str:
    """The first of several names in quotation marks, and how many more there are."""
    every = list(texts)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(quoted(text) for text in every[:most]) + more


_JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}")


def is_job_id(text: object) -> bool:
    """Whether a text can be a server's id of a job: one short word that no command reads as a flag."""
    return isinstance(text, str) and _JOB_ID.fullmatch(text) is not None
