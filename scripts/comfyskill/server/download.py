"""One file over HTTP onto the disk: resumed where the connection broke, limited in size, and complete at the end.

Results of jobs and models of file hosts arrive through here. What is downloaded, from whom and under which name is the
caller's business: it passes a function that asks for the file, and an `Arriving` file.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from comfyskill.base import file_limits
from comfyskill.base.cli import SkillError
from comfyskill.server import transport

if TYPE_CHECKING:
    import requests

# A broken connection loses the piece being read; small pieces keep the repeated part of a resumed download small.
PIECE = 1 << 16
ATTEMPTS = 5

# Asks for the file from a byte on, under an If-Range validator, and returns an answer with content. Raises Broken when
# another attempt may succeed, SkillError when none can.
Ask = Callable[[int, str | None], "requests.Response"]


class Broken(Exception):
    """This attempt ended early or had no answer, and another one may succeed. error: the server's failure, if any."""

    def __init__(self, why: str, error: SkillError | None = None) -> None:
        super().__init__(why)
        self.error = error

    @property
    def out_of_reach(self) -> bool:
        """Whether nothing answered at all."""
        return self.error is not None and self.error.code == "unreachable"


class Arriving:
    """A file that is open for writing, and what has arrived of it.

    total: the whole length, when the server reports it. validator: the strong ETag or the date of the version that is
    arriving; without one the rest cannot be asked for safely. digest: the SHA-256 so far, if it was requested.
    """

    most = file_limits.MOST_OUTPUT_BYTES
    spare = 0  # bytes that stay free on the disk
    no_space = "free some space, then fetch the files of this job again"

    def __init__(self, file: IO[bytes], folder: Path, *, hashed: bool = False) -> None:
        self.file = file
        self.folder = folder
        self.digest = hashlib.sha256() if hashed else None
        self.size = 0
        self.total: int | None = None
        self.validator: str | None = None

    def restart(self) -> None:
        """Empty the file: the next bytes are its first ones."""
        self.file.seek(0)
        self.file.truncate()
        self.size, self.total, self.validator = 0, None, None
        if self.digest is not None:
            self.digest = hashlib.sha256()

    def begin(self, response: requests.Response) -> None:
        """Start with the first byte of this answer."""
        self.restart()
        self.total = file_limits.number_in(response.headers.get("Content-Length"))
        self.validator = _validator(response)

    def check(self) -> None:
        """Raises SkillError when the file is too large or the disk has no space for the rest; called for each piece."""
        file_limits.refuse_too_large(max(self.size, self.total or 0), self.most)
        left = file_limits.SPARE_BYTES if self.total is None else self.total - self.size + self.spare
        file_limits.require(self.folder, left, self.no_space)

    def add(self, piece: bytes) -> None:
        """Append what has arrived."""
        self.file.write(piece)
        self.count(piece)

    def count(self, piece: bytes) -> None:
        """Take into account the next bytes that the file holds."""
        self.size += len(piece)
        if self.digest is not None:
            self.digest.update(piece)


def receive(arriving: Arriving, ask: Ask, *, patience: float | None = None) -> None:
    """Complete the file. Attempts count from the last one that brought it further.

    patience: how many seconds a server that is out of reach is asked again; without one only attempts count.
    Raises Broken when it gives up, SkillError for what no further attempt changes.
    """
    attempts, furthest, begun = 0, arriving.size, time.monotonic()
    while True:
        try:
            return _one_answer(arriving, ask)
        except Broken as broken:
            if arriving.validator is None:
                arriving.restart()
            attempts += 1
            if arriving.size > furthest:
                attempts, furthest, begun = 0, arriving.size, time.monotonic()
            spent = attempts >= ATTEMPTS
            if broken.out_of_reach and patience is not None:
                spent = attempts >= 2 and time.monotonic() >= begun + patience
            if spent:
                raise
        time.sleep(transport.pause_before(min(max(attempts, 1), 4)))


def _one_answer(arriving: Arriving, ask: Ask) -> None:
    """Ask for what is left and append it. Raises Broken when more is left."""
    import requests
    import urllib3

    with ask(arriving.size, arriving.validator) as response:
        file_limits.refuse_packed(response.headers)
        _place(arriving, response)
        pieces = transport.stream(response, PIECE)
        while True:
            arriving.check()
            try:
                piece = next(pieces, b"")
            except (
                urllib3.exceptions.HTTPError,
                requests.RequestException,
                ConnectionError,
                TimeoutError,
            ) as error:
                raise Broken("the connection broke") from error
            if not piece:
                break
            arriving.add(piece)
    if arriving.total is not None and arriving.size != arriving.total:
        if arriving.size > arriving.total:
            arriving.restart()
        raise Broken("the length is not the one that was announced")


def _place(arriving: Arriving, response: requests.Response) -> None:
    """Decide where the bytes of an answer belong. Raises Broken where they do not continue the file."""
    if response.status_code != 206:
        arriving.begin(response)
        return
    stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    start, total = (
        (file_limits.number_in(stated[1]), file_limits.number_in(stated[2])) if stated else (None, None)
    )
    etag = response.headers.get("ETag", "").removeprefix("W/")
    known = arriving.validator or ""
    # With If-Range it should have sent the whole new file. Two parts of two versions are not a file.
    changed = (total and arriving.total not in (None, total)) or (
        etag and known.startswith('"') and etag != known
    )
    if start != arriving.size or changed:
        arriving.restart()
        raise Broken("the file has changed" if changed else "the server sent another part than requested")
    arriving.total = total if total is not None else arriving.total


def _validator(response: requests.Response) -> str | None:
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
