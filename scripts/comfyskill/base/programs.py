"""Programs of this machine: where they are, their environment, and their arguments on Windows.

On Windows both `shutil.which` and the system look into the current folder first, and so does every system
where PATH has an empty or relative entry. That folder may be under another's control: a download folder, a cloned repository.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from comfyskill.base import cli, safe_text

BATCH_SUFFIXES = (".bat", ".cmd")
# Names of variables that may hold keys, recognised by their words.
_SECRET = re.compile(
    r"key(?!board|map|timeout)|token|secret|passw|passphrase|credential|authorization|cookie|_(pwd|pat|auth)$",
    re.IGNORECASE,
)
_FOR_CMD = frozenset('&|<>^"%!()\r\n')
# Some drivers answer the first call after boot in 3 to 4 s; system_profiler takes 2 to 3 s on a cold Mac.
TOOL_LIMIT_S = 6.0
# A tool that prints more than this is faulty; the beginning is enough for every parser here.
OUTPUT_LIMIT_BYTES = 1_000_000
# A process stuck in a driver call cannot be killed: do not wait for it either.
AFTER_KILL_S = 0.3


def command(script: str, *words: object) -> str:
    """The command line that runs a script of this bundle from any folder, as reports print it."""
    return safe_text.shell_words(
        [sys.executable or "python3", Path(__file__).resolve().parents[2] / script, *words]
    )


def find(name: str, places: Iterable[str | Path] = ()) -> str | None:
    """The path of a program on PATH, else in one of `places`; None when it is not found."""
    for folder in [*os.environ.get("PATH", "").split(os.pathsep), *places]:
        found = within(folder, name)
        if found is not None:
            return found
    return None


def within(folder: str | Path, name: str) -> str | None:
    """The path of a program in this folder, or None; always None for a folder that is not absolute."""
    if os.name == "nt":
        return find_by_ending(name, [str(folder)], _endings())
    found = shutil.which(name, path=str(folder))
    return found if found is not None and Path(found).is_absolute() else None


def environment() -> dict[str, str]:
    """Our environment as every child gets it: without keys, and with the absolute entries of PATH alone."""
    values = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    if "PATH" in values:
        entries = values["PATH"].split(os.pathsep)
        values["PATH"] = os.pathsep.join(
            entry for entry in entries if Path(entry.strip().strip('"')).is_absolute()
        )
    return values


def _endings() -> list[str]:
    return os.environ.get("PATHEXT", ".COM;.EXE;.BAT;.CMD").split(";")


def find_by_ending(name: str, folders: Iterable[str], endings: Sequence[str]) -> str | None:
    """As Windows finds a program: the first folder that holds the name with one of the endings.

    Folders that are not absolute are skipped: they are the current folder or inside it.
    """
    endings = [ending.lower() for ending in endings if ending]
    names = [name] if Path(name).suffix.lower() in endings else [name + ending for ending in endings]
    for folder in (folder.strip().strip('"') for folder in folders):
        if not folder or not Path(folder).is_absolute():
            continue
        for candidate in (Path(folder, option) for option in names):
            if candidate.is_file():
                return str(candidate)
    return None


def of_windows(name: str) -> str:
    """The path of one of the system's own programs, such as taskkill."""
    return str(Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", f"{name}.exe"))


def refuse_batch_file(program: str, words: Iterable[str], hint: str) -> None:
    """Raises SkillError when `program` is a batch file and a word holds what cmd would act upon.

    A batch file is run by cmd, which reads its words anew: `&` in an address would start a second command.
    """
    if program.lower().endswith(BATCH_SUFFIXES) and any(_FOR_CMD & set(word) for word in words):
        raise cli.SkillError(
            f"{program} is a batch file, to which these arguments cannot be passed safely",
            code="cannot_start",
            hint=hint,
        )


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
        program = find(words[0], places)
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
    # English output if the tool supports it.
    plain = environment() | {"LC_ALL": "C", "LANG": "C"}
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=plain,
        start_new_session=os.name != "nt",
    )


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process that was started in its own session, with all its children."""
    if os.name == "nt":
        subprocess.run(
            [of_windows("taskkill"), "/F", "/T", "/PID", str(process.pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
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
