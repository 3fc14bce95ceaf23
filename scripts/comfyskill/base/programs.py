"""Programs of this machine: where they are, what they see of the environment, and which words Windows hands to them.

Level 0. On Windows both `shutil.which` and the system look into the current folder first, and so does every system
where PATH has an empty or relative entry. That folder may be anyone's: a download folder, a cloned repository.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from comfyskill.base import cli

BATCH_SUFFIXES = (".bat", ".cmd")
# Names of variables that hold keys; which ones a user has set cannot be known, so they are recognised by their words.
_SECRET = re.compile(
    r"key(?!board|map|timeout)|token|secret|passw|passphrase|credential|authorization|cookie|_(pwd|pat|auth)$",
    re.IGNORECASE,
)
_FOR_CMD = frozenset('&|<>^"%!()\r\n')


def find(name: str, places: Iterable[str | Path] = ()) -> str | None:
    """The path of a program on PATH, else in one of `places`; None when it is nowhere."""
    for folder in [*os.environ.get("PATH", "").split(os.pathsep), *places]:
        found = within(folder, name)
        if found is not None:
            return found
    return None


def within(folder: str | Path, name: str) -> str | None:
    """The path of a program that lies in this folder, or None; always None for a folder that is not absolute."""
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

    Folders that are not absolute are passed over: they are the current one, or lie in it.
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
            f"{program} is a batch file, which cannot be given these words safely",
            code="cannot_start",
            exit=cli.Exit.FAILED,
            hint=hint,
        )
