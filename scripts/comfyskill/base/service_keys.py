"""Keys and tokens of well-known services, found in a text by their form. Pure.

The patterns are those that the services publish for secret scanning: a fixed beginning and a length. A text of another
form is not reported, so that a warning means something. Every repetition is bounded or cannot start inside itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# What it is -> how it looks. A text without one of the beginnings is skipped.
_FORMS: tuple[tuple[str, str], ...] = (
    ("an OpenAI or Anthropic key", r"sk-(?:(?:proj|svcacct|admin|ant)-)?[A-Za-z0-9_-]{20,400}"),
    ("an AWS access key id", r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("a Hugging Face token", r"hf_[A-Za-z0-9]{20,200}"),
    ("a GitHub token", r"(?:gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{22,255})"),
    ("a GitLab token", r"glpat-[A-Za-z0-9_-]{20,100}"),
    ("a Slack token", r"xox[abeoprs]-[A-Za-z0-9-]{10,255}"),
    ("a Google API key", r"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    ("a Comfy account key", r"comfyui-[0-9a-f]{32,128}"),
    ("a Replicate token", r"r8_[A-Za-z0-9]{37,60}"),
    ("a Stripe key", r"[sr]k_live_[A-Za-z0-9]{16,255}"),
    ("a package index token", r"(?:pypi-AgE[A-Za-z0-9_-]{50,400}|npm_[A-Za-z0-9]{36})"),
    ("a Telegram bot token", r"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}(?![A-Za-z0-9_-])"),
    ("a signed web token", r"eyJ[A-Za-z0-9_-]{10,400}\.eyJ[A-Za-z0-9_-]{10,400}\.[A-Za-z0-9_-]{10,400}"),
    ("a private key", r"-----BEGIN (?:[A-Z]{2,12} ){0,3}PRIVATE KEY-----"),
    ("a webhook address", r"https://(?:discord(?:app)?\.com/api/webhooks|hooks\.slack\.com/services)/[A-Za-z0-9/_-]{20,200}"),
)  # fmt: skip
_ANY = re.compile(
    "(?<![A-Za-z0-9_])(?:" + "|".join(f"(?P<k{n}>{form})" for n, (_, form) in enumerate(_FORMS)) + ")"
)
_NAMED = re.compile(
    r"(?i)(?<![a-z])(api[_ -]?key|access[_ -]?key|secret([_ -]?key)?|auth[_ -]?token|access[_ -]?token|bot[_ -]?token"
    r"|hf[_ -]?token|bearer|password|passwd|credentials?)$"
)
_SECRET = re.compile(r"[A-Za-z0-9_./+=:~-]{16,400}")
_PLACEHOLDER = re.compile(
    r"(?i)your|api[_ -]?key|token|here|example|placeholder|enter|insert|x{5}|0{6}|<|\*{3}|\.{3}"
)


class Found(NamedTuple):
    """A key in a text. kind: what it is, in words. text: the key itself; it is never shown."""

    kind: str
    text: str


def keys_in(text: str) -> Iterator[Found]:
    """The keys and tokens in a text, by their form."""
    for match in _ANY.finditer(text):
        # A repeated letter or a placeholder is not a secret.
        if len(set(match.group())) > 8:
            yield Found(_FORMS[int((match.lastgroup or "k0")[1:])][0], match.group())


def masked(text: str) -> str:
    """The text with each key in it replaced, so that whoever cuts or quotes it shows no part of one."""
    return _ANY.sub("[hidden]", text)


def named_key(name: str, text: str) -> Found | None:
    """The value of an input whose name says that it holds a key, when it looks like one; None for placeholders."""
    value = text.strip()
    mixed = any(char.isdigit() for char in value) and any(char.isalpha() for char in value)
    if _NAMED.search(name[:100]) and mixed and _SECRET.fullmatch(value) and not _PLACEHOLDER.search(value):
        return Found("the value of an input named like a key", value)
    return None
