"""A secret is found in a text however it is spelt, and before the text is cut."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

import _common
from bundle import SCRIPTS, Runner
from comfyskill.base import safe_text
from raw_server import Raw, Talk

KEY = "comfyui-KEYabcdefghijKLM0123456789"
# Fewer characters of it than these may be seen: its label, and what is too little to be of use.
LEAST = len("comfyui-") + 4


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_text, "_forms", {})
    monkeypatch.setattr(safe_text, "_short_secrets", [])


def spread(by: str) -> Callable[[str], str]:
    return lambda text: by.join(text)


WAYS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "case": str.swapcase,
    "zero width": spread("\u200b"),
    "soft hyphens": spread("\u00ad"),
    "variation selectors": spread("\ufe0f"),
    "fillers": spread("\u3164"),
    "lines": spread("\n"),
    "blanks": spread(" \u00a0"),
    "accents": spread("\u0301"),
    "full width": lambda text: "".join(chr(ord(letter) + 0xFEE0) for letter in text),
    "percent": lambda text: "".join(f"%{ord(letter):02X}" for letter in text),
    "quoted": lambda text: quote(text, safe=""),
    "hexadecimal": lambda text: text.encode().hex(),
    "hexadecimal escapes": lambda text: "".join(f"\\x{ord(letter):02x}" for letter in text),
    "escapes": lambda text: "".join(f"\\u{ord(letter):04x}" for letter in text),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_secret_is_found_however_it_is_spelt(way: str) -> None:
    safe_text.hide(KEY)
    spelt = WAYS[way](KEY)
    assert safe_text.redact(f"bad key <{spelt}>, says it") == "bad key <[hidden]>, says it"


@pytest.mark.parametrize("way", WAYS)
def test_the_beginning_of_a_secret_is_found_too(way: str) -> None:
    safe_text.hide(KEY)
    for length in range(LEAST, len(KEY)):
        shown = safe_text.redact(f"bad key <{WAYS[way](KEY[:length])}")
        assert shown == "bad key <[hidden]", (length, shown)


@pytest.mark.parametrize("before", ["", "u:", "me:x", "a", "user:"])
def test_a_secret_in_base64_is_found_wherever_it_begins(before: str) -> None:
    safe_text.hide(KEY)
    text = base64.b64encode(f"{before}{KEY}".encode()).decode()
    shown = safe_text.redact(f"Basic {text}")
    assert "[hidden]" in shown and len(shown) < len("Basic [hidden]") + 2 * len(before) + 8


def test_ordinary_words_stay() -> None:
    safe_text.hide(KEY)
    text = "comfyui-manager, ComfyUI-KJNodes and comfyui-frontend of the pack comfyui-key"
    assert safe_text.redact(text) == text
    _common.parse_headers(["X-Mode: workflow-v2"])
    assert safe_text.redact("the workflow of workflow-v2") == "the workflow of [hidden]"


def test_two_secrets_in_one_another_are_hidden_whole() -> None:
    safe_text.hide("abcdefgh12345678")
    safe_text.hide("12345678ijklmnop")
    assert safe_text.redact("<abcdefgh12345678ijklmnop>") == "<[hidden]>"


def test_a_short_password_is_hidden_as_it_stands() -> None:
    safe_text.hide("tiny4")
    assert safe_text.redact("a tiny4, a tin y4") == "a [hidden], a tin y4"


def test_a_token_is_found_without_its_scheme_and_a_cookie_without_its_name() -> None:
    _common.parse_headers(["Authorization: Bearer canary-5f1c9e7788", "Cookie: a=canary-cookie-77ab21; b=c"])
    assert "canary" not in safe_text.redact("canary-5f1c9e7788 and canary-cookie-77ab21")


def test_a_secret_is_hidden_before_a_text_is_cut() -> None:
    safe_text.hide(KEY)
    for limit in range(560, 640):
        shown = safe_text.clean("x" * (600 - LEAST) + KEY + "y" * 200, limit)
        assert not any(KEY[:length] in shown for length in range(LEAST, len(KEY))), limit


@pytest.fixture
def echo() -> Iterator[Callable[..., Raw]]:
    """A server that answers everything with the key at a given place of a text."""
    started: list[Raw] = []

    def start(status: str, text: str) -> Raw:
        def answer(talk: Talk) -> Any:
            talk.head(status, Content_Length=len(text.encode()), Connection="close")
            talk.send(text.encode())

        started.append(Raw(answer))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.mark.parametrize("status", ["200 OK", "400 X", "401 X", "404 X", "500 X"])
@pytest.mark.parametrize("limit", [200, 600])
@pytest.mark.parametrize("whole", [False, True])
def test_a_server_cannot_have_the_key_cut_and_printed(
    run: Runner, echo: Any, status: str, limit: int, whole: bool
) -> None:
    at = limit - len(KEY) + 1
    text = "x" * at + KEY + "y" * 50
    server = echo(status, json.dumps({"error": text}) if whole else text)
    ran = run("manage_queue.py", "list", "--host", server.url, "--api", "local", "--api-key", KEY)
    assert server.seen
    assert KEY[:LEAST] not in ran.out + ran.err


@pytest.mark.parametrize(
    "way", ["zero width", "soft hyphens", "lines", "case", "full width", "percent", "escapes"]
)
def test_a_server_cannot_have_the_key_printed_in_another_spelling(run: Runner, echo: Any, way: str) -> None:
    server = echo("400 X", f"you sent {WAYS[way](KEY)} to us")
    ran = run("manage_queue.py", "list", "--host", server.url, "--api", "local", "--api-key", KEY)
    said = ran.json["server_said"]
    assert said == "you sent [hidden] to us"


def test_a_traceback_shows_no_secret() -> None:
    """Neither the one that COMFYUI_SKILL_DEBUG asks for nor that of a fault while the document is printed."""
    begin = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r}); from comfyskill.base import cli, safe_text; safe_text.hide({KEY!r})\n"
    fault = f"raise RuntimeError('with ' + {KEY[:20]!r} + {KEY[20:]!r})"
    reported = f"def report(_):\n {fault}\nsys.exit(cli.main(list, report, []))"
    shown = f"def show(*_):\n {fault}\nsys.exit(cli.main(list, lambda _: {{'status': 'ok'}}, [], show=show))"
    for program in (begin + reported, begin + shown):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env={"COMFYUI_SKILL_DEBUG": "1"},
            check=False,
        )
        assert "RuntimeError" in done.stderr and "[hidden]" in done.stderr
        assert KEY not in done.stderr + done.stdout and KEY[:20] not in done.stderr


def test_a_text_that_is_cut_at_its_beginning_or_in_its_middle_shows_no_end_of_a_secret() -> None:
    end = KEY[-12:]
    safe_text.hide(KEY)
    for name in ("x" * 30 + KEY, KEY + "x" * 10, "node_" + KEY):
        assert end[-6:] not in safe_text.redact(safe_text.name(name)), name
    for room in range(len(KEY)):
        shown = safe_text.last_of("first lines " + KEY + "." * 50, 50 + room)
        assert not any(piece in safe_text.redact(shown) for piece in (end[:6], end[-6:])), room
