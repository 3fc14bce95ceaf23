"""The largest size of an arriving file: the user's limit, and the free disk space.

A server can send without end, or announce a little and send more.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from comfyskill.base import safe_text
from comfyskill.base.cli import SkillError

UNITS = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3}
FLAG = "--max-file-size"
# Larger than any picture or video of a job; far smaller than the disks that hold models.
MOST_OUTPUT_BYTES = 16 * 10**9
MOST_MODEL_BYTES = 100 * 10**9
# Keep some space free: other programs write to the disk too.
SPARE_BYTES = 256 << 20
_limit: int | None = None


def allow(size: int | None) -> None:
    """From now on a file may have this many bytes (--max-file-size); None: the usual number."""
    global _limit
    _limit = size


def flag_words() -> list[str]:
    """The flag as the user gave it, for a command that repeats this one."""
    return [FLAG, f"{_limit}B"] if _limit is not None else []


def refuse_too_large(size: int, usual: int = MOST_OUTPUT_BYTES) -> None:
    """Raises SkillError `too_large` for a file of more bytes than are allowed."""
    most = usual if _limit is None else _limit
    if size > most:
        raise SkillError(
            f"the file is larger than {shown(most)}; {FLAG} raises this limit",
            code="too_large",
            hint=f"if the file may be that large, add {FLAG} with a larger size",
        )


def refuse_packed(headers: Mapping[str, str]) -> None:
    """Raises SkillError for a body in an encoding that was not requested: a few bytes can unpack to any number."""
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise SkillError(
            "the server sent the file compressed, which was not requested",
            code="bad_answer",
            hint="a proxy between here and the server may do this",
            server_said=safe_text.clean(encoding, 60),
        )


def number_in(text: str | None) -> int | None:
    """The number of bytes that a header states; None for any other text, even one that `int` accepts."""
    return int(text) if text is not None and re.fullmatch("[0-9]{1,100}", text.strip()) else None


def require(folder: Path, size: int, hint: str) -> None:
    """Raises SkillError `disk_full` when the folder's disk has fewer free bytes than this."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise SkillError(
            f"the disk has {shown(free)} free; {shown(size)} is needed",
            code="disk_full", hint=hint,
        )  # fmt: skip


def shown(size: int) -> str:
    """A size as people write it."""
    name, unit = next(((name, unit) for name, unit in UNITS.items() if size >= unit), ("bytes", 1))
    return f"{size / unit:.4g} {name}"
