"""A file that is still arriving: its bytes so far, where they are from, and how to ask for the rest. Level 3."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from comfyskill.base import file_names, safe_files
from comfyskill.base.cli import Exit, SkillError

if TYPE_CHECKING:
    import requests

PIECE = 1 << 20
MOST_NOTE = 1 << 16


class Wanted(NamedTuple):
    """What to fetch and where to put it."""

    url: str
    target: Path
    sha256: str | None = None
    allow_pickle: bool = False


class Part:
    """The unfinished file and the note beside it that says what it is a part of."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.path = wanted.target.with_name(wanted.target.name + ".part")
        self.note = wanted.target.with_name(wanted.target.name + ".part.json")
        self.total: int | None = None
        self.stated_sha256: str | None = None
        self.etag: str | None = None
        self.size = 0
        self.digest = hashlib.sha256()
        self.useless = self.named = False
        self._file: IO[bytes] | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Open for appending, alone; an unfinished file of another address or without a validator starts anew.

        Afterwards what holds nothing, or nothing of use, is removed.
        """
        try:
            # The names can be known before, and then be links to files of the user.
            with safe_files.open_file(self.path, "ab+") as file:
                _lock(file, self.wanted.target)
                # Whoever held the lock before may have given this very file its final name.
                refuse_existing(self.wanted.target)
                self._file = file
                kept = self._kept_note()
                if kept is None:
                    self.restart()
                else:
                    self.etag = kept
                    self._hash_what_is_there()
                yield
        finally:
            if self._file is not None and not self.named and (self.useless or self.size == 0):
                self.path.unlink(missing_ok=True)
                self.note.unlink(missing_ok=True)

    def _kept_note(self) -> str | None:
        try:
            with safe_files.open_file(self.note, "r", encoding="utf-8") as file:
                kept = json.loads(file.read(MOST_NOTE))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(kept, Mapping) or kept.get("url") != self.wanted.url:
            return None
        return kept["etag"] if isinstance(kept.get("etag"), str) else None

    def _hash_what_is_there(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        while piece := self._file.read(PIECE):
            self.digest.update(piece)
            self.size += len(piece)

    def restart(self) -> None:
        """Begin with the first byte."""
        assert self._file is not None
        self._file.truncate(0)
        self.size, self.digest, self.etag = 0, hashlib.sha256(), None

    def remember(self, response: requests.Response) -> None:
        """Note the validator with which the rest may be asked for; weak ones do not serve."""
        etag = response.headers.get("ETag")
        self.etag = etag if etag and not etag.startswith("W/") else None
        self.stated_sha256 = stated_hash(response) or self.stated_sha256
        if self.etag:
            with safe_files.open_file(self.note, "w", encoding="utf-8") as file:
                json.dump({"url": self.wanted.url, "etag": self.etag}, file)

    def add(self, piece: bytes) -> None:
        assert self._file is not None
        self._file.write(piece)
        self.digest.update(piece)
        self.size += len(piece)

    def flush(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())

    def drop(self) -> None:
        """What is there can be of no use: it is removed, and the next try begins anew."""
        self.useless = True

    def take_name(self) -> None:
        """Give the file its final name."""
        refuse_existing(self.wanted.target)
        file_names.insist(lambda: self.path.replace(self.wanted.target))
        self.named = True
        self.note.unlink(missing_ok=True)


def refuse_existing(target: Path) -> None:
    """Raises SkillError when the file is there: none is ever replaced."""
    if os.path.lexists(target):
        raise SkillError(
            f"{target} is there already; nothing was replaced", code="already_there", exit=Exit.FAILED,
            hint="move it away to download it again",
        )  # fmt: skip


def _lock(file: IO[bytes], target: Path) -> None:
    if safe_files.take(file) is False:
        raise SkillError(
            f"another process is downloading {target.name}", code="busy", exit=Exit.FAILED, retryable=True,
            hint="wait for it",
        )  # fmt: skip


def stated_hash(response: requests.Response) -> str | None:
    """The SHA-256 that huggingface.co states for a large file on the answer that redirects to its storage."""
    for answer in [*response.history, response]:
        linked = answer.headers.get("X-Linked-Etag", "").strip().strip('"').lower()
        if re.fullmatch(r"[0-9a-f]{64}", linked):
            return linked
    return None
