"""Text in a workflow that is not what it seems: hidden characters, words to an agent, code, addresses. Pure, level 1."""

from __future__ import annotations

import bisect
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

import _deps_catalog

MOST_READ = 100_000
_AGENT = tuple(re.compile(pattern) for pattern in _deps_catalog.AGENT_WORDS)
_PERSONA = tuple(re.compile(pattern) for pattern in _deps_catalog.PERSONA_WORDS)
_TAGS = re.compile("[\U000e0020-\U000e007e]+")
# Characters that show nothing: direction marks and overrides, zero-width ones, tags, variation selectors beyond emoji.
_HIDDEN = re.compile(
    "[\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_JOINERS = frozenset("\u200c\u200d")
_CODE = re.compile(
    r"(?m)^[ \t]*(import\s+(os|sys|subprocess|socket|shutil|requests|ctypes|base64|urllib|builtins)\b"
    r"|from\s+\w+(\.\w+)*\s+import\s)"
    r"|__import__\s*\(|\b(eval|exec|compile)\s*\(|\bos\.(system|popen|remove|environ)\b|\bsubprocess\.\w+|\bopen\s*\([^)\n]{1,80},\s*['\"][wa]"
    r"|\bglobals\s*\(\)|__(class|subclasses|globals|builtins)__|require\s*\(\s*['\"](child_process|fs)['\"]|\bshutil\.rmtree\b"
)
_URL = re.compile(
    r"(?i)\b(https?|wss?|ftp|file|s3|gs|ssh|git)://(\[[^\]\s]+\][^\s\"'<>()\[\]{}|\\^`]*|[^\s\"'<>()\[\]{}|\\^`]+)"
)
_PATH = re.compile(
    r"(?i)^(/[^/\s]|//[^/\s]+/|[a-z]:([\\/]|[\w.-]+\.\w{1,5}$)|\\\\[^\\]|~[\w.-]*[/\\]"
    r"|\$(\{|env:)?(home|userprofile|appdata|localappdata|tmpdir|temp)\b"
    r"|%(userprofile|homepath|appdata|localappdata|programdata|systemroot|windir|temp|tmp)%)"
)
MOST_LINES = 50
MOST_QUOTED = 300
_SENTENCE_END = re.compile(r"[.!?][\"'`)\]*]*\s+|[。！？]|\n\s*\n")
_LINE_END = re.compile(r"\n")


@dataclass(frozen=True)
class Hidden:
    """Characters that a reader does not see: how many, which, and the text that tag characters spell."""

    count: int
    names: tuple[str, ...]
    spells: str = ""
    turns_text: bool = False

    @property
    def severity(self) -> str:
        """High when they spell something, medium when they turn text around or are many: pasted text has a few."""
        return "high" if self.spells else "medium" if self.turns_text or self.count > 12 else "low"


def hidden_in(text: str) -> Hidden | None:
    """What is hidden in a text, or None. Joiners between letters and in emoji are how some scripts are written."""
    found = [
        match.group()
        for match in _HIDDEN.finditer(text)
        if not (match.group() in _JOINERS and _joins(text, match.start()))
    ]
    found += _CONTROLS.findall(text)
    if not found:
        return None
    kinds = sorted({f"U+{ord(char):04X} {unicodedata.name(char, 'control character')}" for char in found})
    spells = "".join(_spelled(run) for run in _TAGS.findall(text))
    turns = any(char in _TURNING or _CONTROLS.match(char) for char in found)
    return Hidden(len(found), tuple(kinds[:6]), spells[:300], turns)


def _spelled(tags: str) -> str:
    return "".join(chr(ord(char) - 0xE0000) for char in tags)


def _joins(text: str, place: int) -> bool:
    """Whether a joiner stands between two characters that take one: emoji, or letters beyond Latin."""
    if not 0 < place < len(text) - 1:
        return False
    before, after = text[place - 1], text[place + 1]
    return ord(before) > 0x2FF and ord(after) > 0x2FF and after not in _JOINERS


def plain(text: str) -> str:
    """The text as a model reads it: without hidden characters, look-alike widths folded, tags spelled out."""
    spelled = _TAGS.sub(lambda run: f" {_spelled(run.group())} ", text[:MOST_READ])
    return unicodedata.normalize("NFKC", _HIDDEN.sub("", spelled))


class AgentWords(NamedTuple):
    """A piece of text that addresses an agent. persona: it only says who the reader is ("you are an AI …")."""

    text: str
    persona: bool


def agent_words(text: str) -> AgentWords | None:
    """The piece of a text that reads like an instruction to an agent, or None."""
    read = plain(text)
    # A sentence may be broken into lines; a blank line ends it.
    read = re.sub(r"(?<!\n)[ \t]*\n[ \t]*(?!\n)", " ", read)
    for patterns, persona in ((_AGENT, False), (_PERSONA, True)):
        for pattern in patterns:
            match = pattern.search(read)
            if match:
                return AgentWords(_quoted(read, match, _SENTENCE_END), persona)
    return None


def _quoted(text: str, match: re.Match[str], ends: re.Pattern[str]) -> str:
    """The sentences (or lines) that a match stands in, with neighbours while there is room; … where it was cut."""
    edges = sorted({0, *(end.end() for end in ends.finditer(text)), len(text)})
    first = bisect.bisect_right(edges, match.start(), hi=len(edges) - 1) - 1
    last = bisect.bisect_left(edges, match.end())
    while last + 1 < len(edges) and edges[last + 1] - edges[first] <= MOST_QUOTED:
        last += 1
    while first and edges[last] - edges[first - 1] <= MOST_QUOTED:
        first -= 1
    start, end = edges[first], edges[last]
    if end - start > MOST_QUOTED:
        start = max(start, match.start() - MOST_QUOTED // 2)
        end = min(end, max(match.end(), start + MOST_QUOTED))
    before, after = text[:start].strip(), text[end:].strip()
    return f"{'… ' if before else ''}{text[start:end].strip()}{' …' if after else ''}"


def code_in(text: str) -> str | None:
    """The piece of a text that is program code which reaches outside, or None."""
    read = text[:MOST_READ]
    match = _CODE.search(read)
    return _quoted(read, match, _LINE_END) if match else None


def addresses_in(text: str) -> Iterator[str]:
    """The network addresses in a text."""
    for match in _URL.finditer(text[:MOST_READ]):
        yield match.group().rstrip(".,;:!?*_")


def is_inside_address(url: str) -> bool:
    """Whether an address means this machine, a private network, or a file of the server."""
    import ipaddress

    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower().split("%")[0].rstrip(".")
    except ValueError:
        return True
    if (
        parts.scheme.lower() == "file"
        or host == "localhost"
        or host.endswith((".localhost", ".local", ".internal"))
    ):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return bool(re.fullmatch(r"(0x[0-9a-f]+|\d+)(\.(0x[0-9a-f]+|\d+)){0,3}", host))


def outside_path(text: str) -> tuple[str, str] | None:
    """The line of a text that is a path which leads out of the server's own folders, and why; None when none does."""
    for line in text[: 2 * MOST_LINES * 400].splitlines()[:MOST_LINES]:
        path = line.strip()
        if len(path) > 400:
            continue
        if _PATH.match(path):
            return path, "an absolute path"
        parts = re.split(r"[/\\]", path)
        if ".." in parts and len(parts) > 1:
            return path, "a path that climbs out of its folder"
    return None
