"""Ask the machine's own tools, all at once, each with a time limit, and never wait for one that hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, NamedTuple

from comfyskill.base import programs

# Some drivers answer the first call after boot in 3 to 4 s; system_profiler takes 2 to 3 s on a cold Mac.
TOOL_LIMIT_S = 6.0
# A tool that prints more than this has lost its way; the head is enough for every parser here.
OUTPUT_LIMIT_BYTES = 1_000_000
# A process stuck in a driver call cannot be killed: do not wait for it either.
AFTER_KILL_S = 0.3


class Answer(NamedTuple):
    """What one tool said. `problem` says why there is nothing to parse, None when there may be."""

    found: bool
    text: str = ""
    seconds: float = 0.0
    problem: str | None = None


def ask(
    commands: Mapping[str, Sequence[str]],
    *,
    limits: Mapping[str, float] | None = None,
    places: Sequence[str] = (),
) -> dict[str, Answer]:
    """Run all commands at the same time; their answers by name, within the longest time limit and a moment.

    `limits` are seconds by name where they differ from `TOOL_LIMIT_S`; `places` are folders searched after PATH
    (a driver's folder that is not on it).
    """
    limits = limits or {}
    answers: dict[str, Answer] = {}
    threads = []
    start = time.monotonic()
    for name, words in commands.items():
        program = programs.find(words[0], places)
        if program is None:
            answers[name] = Answer(found=False, problem="not installed")
            continue
        thread = threading.Thread(
            target=_ask_one,
            args=(name, [program, *words[1:]], limits.get(name, TOOL_LIMIT_S), answers),
            daemon=True,
        )
        thread.start()
        threads.append((name, thread))
    for name, thread in threads:
        limit = limits.get(name, TOOL_LIMIT_S)
        thread.join(max(0.0, start + limit + 2 * AFTER_KILL_S - time.monotonic()))
        if name not in answers:
            answers[name] = Answer(found=True, seconds=limit, problem="hangs and cannot be stopped")
    return dict(answers)


def _ask_one(name: str, words: list[str], limit_s: float, answers: dict[str, Answer]) -> None:
    start = time.monotonic()
    # A file, not a pipe: a grandchild that keeps the pipe open would block the reader for ever.
    with tempfile.TemporaryFile() as output:
        try:
            process = _start(words, output)
        except OSError as error:
            answers[name] = Answer(found=True, problem=f"cannot be started: {error.strerror or error}")
            return
        problem = None
        try:
            code = process.wait(limit_s)
            if code != 0:
                problem = f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            kill_tree(process)
            problem = f"gave no answer within {limit_s:g} s and was stopped"
        output.seek(0)
        text = _decode(output.read(OUTPUT_LIMIT_BYTES))
    if problem is None and not text.strip():
        problem = "printed nothing"
    answers[name] = Answer(True, text, round(time.monotonic() - start, 2), problem)


def _start(words: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
    # English output where the tool can be asked for it.
    environment = programs.environment() | {"LC_ALL": "C", "LANG": "C"}
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=os.name != "nt",
    )


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started in its own session, with all its children."""
    if os.name == "nt":
        subprocess.run(
            [programs.of_windows("taskkill"), "/F", "/T", "/PID", str(process.pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=programs.environment(),
            check=False,
        )
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    try:
        process.wait(AFTER_KILL_S)
    except subprocess.TimeoutExpired:
        pass


def _decode(raw: bytes) -> str:
    """Text of a tool: UTF-8, or the UTF-16 that wmic writes when its output is redirected."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", "replace")
    if raw.count(b"\0") > len(raw) // 4:
        return raw.decode("utf-16-le", "replace")
    return raw.decode("utf-8-sig", "replace")
