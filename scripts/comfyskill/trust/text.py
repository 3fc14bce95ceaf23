"""Text in a workflow that is not what it seems: hidden characters, instructions to an agent, code, addresses.

Whole texts are read, however long: every pattern here takes time in proportion to the text. So no repetition without a
bound may follow a part that can begin anywhere (`tests/trust/test_inspect_corpus.py` measures it).
"""

from __future__ import annotations

import base64
import bisect
import posixpath
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from comfyskill.deps import catalog

_AGENT = tuple(re.compile(pattern) for pattern in catalog.AGENT_WORDS)
_PERSONA = tuple(re.compile(pattern) for pattern in catalog.PERSONA_WORDS)
_TAGS = re.compile("[\U000e0020-\U000e007e]+")
# Characters that show nothing: direction marks and overrides, zero-width ones, tags.
_HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f]"
)
# A variation selector chooses how the character before it looks: an emoji, a symbol, a Han character. After a letter or
# after another selector it has nothing to choose, and a run of them can carry any text.
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]+")
_TAKE_SELECTOR = frozenset("#*0123456789\u00a9\u00ae")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_JOINERS = frozenset("\u200c\u200d")

_MODULES = (
    "os|sys|subprocess|socket|shutil|requests|ctypes|base64|urllib|builtins|importlib|pty|pickle|marshal|ftplib|smtplib"
    "|webbrowser|multiprocessing|runpy|code|pathlib|http|httpx|paramiko|winreg"
)
_CODE = re.compile(
    rf"(?m)(?:^|;)[ \t]*(?:import[ \t]+(?:[\w.]{{1,60}}[ \t]*,[ \t]*){{0,5}}(?:{_MODULES})\b"
    r"|from[ \t]+[\w.]{1,200}[ \t]+import[ \t])"
    r"|__import__[ \t]{0,20}\(|\bimport_module[ \t]{0,20}\(|\b(?:eval|exec|compile)[ \t]{0,20}\("
    r"|\bos\.(?:system|popen|remove|environ|exec[lv]\w{0,3}|spawn[lv]\w{0,3})\b|\bsubprocess\.\w"
    r"|\bopen[ \t]{0,20}\([^)\n]{1,80},[ \t]{0,20}['\"][wa]|\bglobals[ \t]{0,20}\(\)"
    r"|__(?:class|subclasses|globals|builtins|mro|bases)__"
    r"|\brequire[ \t]{0,20}\([ \t]{0,20}['\"](?:child_process|fs|net|http)['\"]|\bshutil\.rmtree\b|\bpickle\.loads?\b"
)
_URL = re.compile(
    r"(?i)(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{1,15}:(?:[\\/]{2,})"
    r"(?:\[[^\]\s]{1,60}\][^\s\"'<>()\[\]{}|^`]*|[^\s\"'<>()\[\]{}|^`]+)"
)
# An address without `//`, or without any scheme: a file, this machine, a number of a private network.
_FILE_SCHEME = re.compile(r"(?i)(?<![a-z0-9+.-])file:[^\s\"'<>]{2,400}")
_BARE_HOST = re.compile(
    r"(?i)(?<![\w.@-])(?:https?:[\\/]?)?(?P<host>localhost|(?:\d{1,3}\.){3}\d{1,3}|\[[0-9a-f:.]{2,45}\])"
    r"(?P<rest>:\d{1,5}(?:[/\\][^\s\"'<>]{0,400})?|[/\\][^\s\"'<>]{1,400})"
)
_LINK_LOCAL = re.compile(r"(?<![\w.])169\.254\.169\.254(?![\w.])|(?i:\bmetadata\.google\.internal\b)")
_PATH = re.compile(
    r"(?i)/[^/\s]{1,255}/"
    r"|/(?:bin|boot|data|dev|etc|home|lib|media|mnt|opt|proc|root|run|srv|sys|tmp|usr|users|var|volumes)\b"
    r"|[a-z]:(?:[\\/]|[\w.-]{1,200}\.\w{1,5}$)|\\\\[^\\]|\\[\w. -]{1,255}\\|~[\w.-]{0,60}[/\\]"
    r"|\$(?:\{|env:)?(?:home|userprofile|appdata|localappdata|tmpdir|temp)\b|(?-i:\$\{?[A-Z][A-Z0-9_]{2,40}\}?[/\\])"
    r"|%(?:userprofile|homepath|appdata|localappdata|programdata|systemroot|windir|temp|tmp|public)%"
)
# Addresses of ComfyUI's own routes, which some nodes save as their value: `/view?filename=...`.
_OWN_ROUTE = re.compile(r"/(?:api/)?view\?[^\s\\]*")
# Files that only somebody who is after them names, wherever in a text.
_SENSITIVE = re.compile(
    r"(?i)(?:/|\\)(?:etc[/\\](?:passwd|shadow|sudoers|cron[\w.]{0,12}|profile(?:\.d)?|ld\.so\.preload)\b|proc[/\\]self\b)"
    r"|(?<![\w])\.(?:ssh[/\\]|aws[/\\]credentials|netrc\b|git-credentials\b|bash_history\b)"
    r"|(?<![\w])(?:\.(?:bashrc|zshrc|bash_profile)|authorized_keys|id_(?:rsa|ed25519))(?![\w])"
)
_QUOTES = "\"'`\u2018\u2019\u201c\u201d\u00ab\u00bb \t,;()[]<>{}"
_SENTENCE_END = re.compile(r"[.!?][\"'`)\]*]{0,9}\s|[。！？]|\n[ \t]{0,200}\n")
_LINE_END = re.compile(r"\n")
_SPACED = re.compile(r"(?<![^\W_])(?:[^\W\d_][ .*_·-]){7,}[^\W\d_](?![^\W_])")
_SPACED_ORDER = re.compile(
    r"(ignore|disregard|forget|override)(all|any|every|the|your|these)*(previous|prior|above|earlier|former|instructions|rules)"
    r"|donottell(the)?user|(send|upload)(the|your)*(apikey|token|password)"
)
_ENCODED = re.compile(r"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/]{24,}={0,2}")
MOST_QUOTED = 300


@dataclass(frozen=True)
class Hidden:
    """Characters that a reader does not see: how many, which, and the text that tags or selectors spell."""

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
    if text.isascii():
        found = _CONTROLS.findall(text)
        selectors = ""
    else:
        found = [
            match.group()
            for match in _HIDDEN.finditer(text)
            if not (match.group() in _JOINERS and _joins(text, match.start()))
        ]
        found += _CONTROLS.findall(text)
        selectors = _idle_selectors(text)
        found += selectors
    if not found:
        return None
    kinds = sorted(
        f"U+{ord(char):04X} {unicodedata.name(char, 'control character')}" for char in dict.fromkeys(found)
    )
    tags = "".join(_spelled(run) for run in _TAGS.findall(text))
    spells = (tags + _spelled_by_selectors(selectors))[:300]
    turns = any(char in _TURNING or _CONTROLS.match(char) for char in dict.fromkeys(found))
    return Hidden(len(found), tuple(kinds[:6]), spells, turns)


def _spelled(tags: str) -> str:
    return "".join(chr(ord(char) - 0xE0000) for char in tags)


def _idle_selectors(text: str) -> str:
    """The variation selectors that choose nothing: after a letter, at the start, and all of a run of several."""
    idle = []
    for run in _SELECTORS.finditer(text):
        before = text[run.start() - 1 : run.start()]
        chooses = before in _TAKE_SELECTOR or (before and ord(before) >= 0x1000)
        if len(run.group()) > 1 or not chooses:
            idle.append(run.group())
    return "".join(idle)


def _spelled_by_selectors(selectors: str) -> str:
    """The text that selectors spell, one byte each or two half bytes, or nothing when it is no text."""
    numbers = [ord(char) - 0xFE00 if ord(char) < 0xE0100 else ord(char) - 0xE0100 + 16 for char in selectors]
    halves = [high * 16 + low for high, low in zip(numbers[::2], numbers[1::2], strict=False)]
    for values in [numbers] if any(number > 15 for number in numbers) else [halves, numbers]:
        try:
            said = bytes(values).decode("utf-8")
        except ValueError:
            continue
        if len(said) >= 4 and said.isprintable():
            return said
    return ""


def _joins(text: str, place: int) -> bool:
    """Whether a joiner is between two characters that take one: emoji, or letters beyond Latin."""
    if not 0 < place < len(text) - 1:
        return False
    before, after = text[place - 1], text[place + 1]
    return ord(before) > 0x2FF and ord(after) > 0x2FF and after not in _JOINERS


def plain(text: str) -> str:
    """The text as a model reads it: without hidden characters, look-alike widths folded, hidden text spelled out."""
    if text.isascii():
        return text
    spelled = _TAGS.sub(lambda run: f" {_spelled(run.group())} ", text)
    selectors = _idle_selectors(text)
    if selectors:
        spelled += f" {_spelled_by_selectors(selectors)} "
    return unicodedata.normalize("NFKC", _SELECTORS.sub("", _HIDDEN.sub("", spelled)))


class AgentWords(NamedTuple):
    """A piece of text that addresses an agent. persona: it only says who the reader is ("you are an AI …")."""

    text: str
    persona: bool


def agent_words(text: str) -> AgentWords | None:
    """The piece of a text that reads like an instruction to an agent, or None."""
    read = _unbroken(plain(text))
    for patterns, persona in ((_AGENT, False), (_PERSONA, True)):
        for pattern in patterns:
            match = pattern.search(read)
            if match:
                return AgentWords(_quoted(read, match, _SENTENCE_END), persona)
        if not persona and (hidden := _spelled_out(read)):
            return AgentWords(hidden, False)
    return None


def _unbroken(text: str) -> str:
    """The text with the lines of a paragraph joined: a sentence may be broken into lines; a blank line ends it."""
    if "\n" not in text:
        return text
    lines = [line.strip() for line in text.split("\n")]
    return re.sub(r"\n{2,}", "\n\n", re.sub(r"(?<=[^\n])\n(?=[^\n])", " ", "\n".join(lines)))


def _spelled_out(text: str) -> str | None:
    """An order that is written with spaces between its letters, or in base64; None when there is none."""
    for match in _SPACED.finditer(text):
        letters = "".join(char for char in match.group().lower() if char.isalpha())
        if _SPACED_ORDER.search(letters):
            return f"spelled with gaps: {letters[:MOST_QUOTED]}"
    for match in _ENCODED.finditer(text):
        said = _decoded(match.group())
        if said and any(pattern.search(said) for pattern in _AGENT):
            return f"in base64: {said[:MOST_QUOTED]}"
    return None


def _decoded(encoded: str) -> str | None:
    try:
        said = base64.b64decode(encoded + "=" * (-len(encoded) % 4)).decode("utf-8")
    except ValueError:
        return None
    return said if " " in said and all(char.isprintable() or char in "\r\n\t" for char in said) else None


def _quoted(text: str, match: re.Match[str], ends: re.Pattern[str]) -> str:
    """The sentences (or lines) that contain a match, with neighbours up to the limit; … marks a cut."""
    # The quotation is near the match, so only that part is cut into sentences.
    from_, to = max(0, match.start() - 4 * MOST_QUOTED), match.end() + 4 * MOST_QUOTED
    near = text[from_:to]
    begins, stops = match.start() - from_, match.end() - from_
    edges = sorted({0, *(end.end() for end in ends.finditer(near)), len(near)})
    first = bisect.bisect_right(edges, begins, hi=len(edges) - 1) - 1
    last = bisect.bisect_left(edges, stops)
    while last + 1 < len(edges) and edges[last + 1] - edges[first] <= MOST_QUOTED:
        last += 1
    while first and edges[last] - edges[first - 1] <= MOST_QUOTED:
        first -= 1
    start, end = edges[first], edges[last]
    if end - start > MOST_QUOTED:
        start = max(start, begins - MOST_QUOTED // 2)
        end = min(end, max(stops, start + MOST_QUOTED))
    before = from_ > 0 or near[:start].strip()
    after = to < len(text) or near[end:].strip()
    return f"{'… ' if before else ''}{near[start:end].strip()}{' …' if after else ''}"


def code_in(text: str) -> str | None:
    """The piece of a text that is program code which reaches outside, or None."""
    match = _CODE.search(text)
    return _quoted(text, match, _LINE_END) if match else None


def addresses_in(text: str) -> Iterator[str]:
    """The network addresses in a text: with a scheme, and without one those that mean this machine or network."""
    for match in _URL.finditer(text):
        yield match.group().rstrip(".,;:!?*_")
    for match in _FILE_SCHEME.finditer(text):
        if not match.group()[5:].startswith(("//", "\\\\")):
            yield match.group()
    text = _URL.sub(" ", text)
    for match in _BARE_HOST.finditer(text):
        if _is_inside_host(match["host"].strip("[]").lower()):
            yield match.group()
    for match in _LINK_LOCAL.finditer(_BARE_HOST.sub(" ", text)):
        yield match.group()


def is_inside_address(address: str) -> bool:
    """Whether an address means this machine, a private network, or a file of the server."""
    try:
        parts = urlsplit(address.replace("\\", "/"))
        host = (parts.hostname or "").lower().split("%")[0].rstrip(".")
    except ValueError:
        return True
    if parts.scheme.lower() in ("file", "gopher", "dict", "ldap", "jar", "smb"):
        return True
    return _is_inside_host(host) if host else "//" not in address.replace("\\", "/")


def _is_inside_host(host: str) -> bool:
    import ipaddress

    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return bool(re.fullmatch(r"(0x[0-9a-f]{1,16}|\d{1,12})(\.(0x[0-9a-f]{1,16}|\d{1,12})){0,3}", host))


def outside_path(text: str, *, saves: bool = False) -> tuple[str, str] | None:
    """The line of a text that is a path which leads out of the server's own folders, and why; None when none does.

    saves: files are written there, so that a single name after a slash is a path as well, and no regular expression.
    """
    for line in text.splitlines():
        path = normal_path(line)
        if _OWN_ROUTE.fullmatch(path) and ".." not in path:
            continue
        if _PATH.match(path) or (saves and path.startswith("/") and path.strip("/ ")):
            return path, "an absolute path"
        if path == ".." or path.startswith("../"):
            return path, "a path that climbs out of its folder"
    match = _SENSITIVE.search(text)
    return (match.group(), "the name of a file with secrets or start-up code") if match else None


def normal_path(line: str) -> str:
    """A line as the path that a program would open: without quotes and `file:`, with `./`, `//` and `x/..` resolved.

    A path of Windows keeps its drive or server; its backslashes become slashes only where it climbs.
    """
    path = line.strip(_QUOTES)
    if path[:5].lower() == "file:":
        path = path[5:]
        path = f"/{path.lstrip('/')}" if path.startswith("/") else path
    if "." not in path and "//" not in path:
        return path
    slashed = path.replace("\\", "/")
    if slashed.startswith("//"):
        return path if path.startswith("\\\\") else f"/{posixpath.normpath(slashed).lstrip('/')}"
    normal = posixpath.normpath(slashed)
    if normal.startswith("..") or slashed.startswith("/"):
        return normal
    # What stays inside its folder is shown as it was written.
    return path if path[1:2] == ":" or path.startswith(("~", "$", "%", "\\")) else normal
