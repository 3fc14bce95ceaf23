"""The batch on disk: `batch.jsonl`, one JSON object per line, appended and flushed as things happen.

The first line (`plan`) holds the whole plan; the others say how each run went:

    submit       about to be posted under this prompt id; accepted: the id that the server gave it instead
    finished     the server has ended it, and these are its outputs; downloaded: its files are here, it is done
    failed       it is done, and has no files
    released     it is on no server; lost: the server has no record of it; again: it is to be repeated
    moved        it is to run on another server (`left`: it may still be on the old one); cleared: no longer there
    end          the session ended in order

A torn last line (power loss, kill -9 in the middle of a write) is dropped and written over. A lock keeps a second
process out.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import IO

from comfyskill.base import foreign, safe_files, safe_text
from comfyskill.base.cli import Document, Misuse, SkillError

NAME = "batch.jsonl"
LOCK_NAME = ".batch.lock"
# Files and folders that a batch writes into; its pages are replaced as a whole instead.
WRITTEN = re.compile(r"(?i)\.batch\.lock|batch\.jsonl|run_\d+|.*\.part(\.json)?")
# The text of a lock file. In another user's folder it may be anything.
_OWNER = re.compile(r"process \d{1,10} on [\w.-]{1,64}(?=\s*$)")
# How often a thread syncs the journal to the disk (s): writers must not wait for it.
SYNC_PAUSE = 1.0
# On a disk that gives a file a new number each time, the loop must end.
MOST_TRIES = 100
MOST_LINE = 256 * 1024 * 1024


class Lock:
    """A lock on the folder that this process works on. The system releases it however the process ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._file: IO[str] = self._opened(folder)
        self._numbers_stable = False  # whether this disk's file numbers are stable
        for _ in range(MOST_TRIES):
            self._numbers_stable = self._is_still_there()
            if self._numbers_stable:
                break
            # Its last owner removed the file before we locked it: that lock would exclude no other process.
            self._file.close()
            self._file = self._opened(folder)
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._file.flush()

    def _opened(self, folder: Path) -> IO[str]:
        """The lock file, open and locked. Raises SkillError `locked`."""
        self._file = safe_files.open_file(self._path, "a+", encoding="utf-8")
        if self._take():
            return self._file
        self._file.seek(0)
        owner = _OWNER.match(self._file.read(200))
        self._file.close()
        raise Misuse(
            f"{folder} is in use by {owner[0] if owner else 'another process'}",
            code="locked",
            hint="wait for it to end, or use another --output-dir",
        )

    def _is_still_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except FileNotFoundError:
            return False

    def _take(self) -> bool:
        taken = safe_files.take(self._file)
        # A file system without locks (some network disks): use the owner written inside.
        return not self._owner_lives() if taken is None else taken

    def _owner_lives(self) -> bool:
        """Whether the process that the file names still runs; True when that cannot be found out."""
        self._file.seek(0)
        owner = self._file.read(200).split()  # process NUMBER on HOST
        if len(owner) < 4:
            return False
        # On Windows os.kill(pid, 0) would end the process.
        if owner[3] != socket.gethostname() or not owner[1].isdigit() or not hasattr(os, "fork"):
            return True
        try:
            os.kill(int(owner[1]), 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True

    def release(self) -> None:
        """Release the lock and remove its file."""
        if self._numbers_stable and not self._is_still_there():
            # The folder was removed; a lock file that is there now belongs to a newer batch.
            self._file.close()
            return
        try:
            self._path.unlink()
        except PermissionError:
            # Windows does not remove an open file; after closing, this fails only if the next owner has opened it.
            self._file.close()
            with contextlib.suppress(OSError):
                self._path.unlink()
        except OSError:
            pass
        self._file.close()


_one_line = json.JSONEncoder(separators=(",", ":")).encode


class Journal:
    """Appends to a journal from any thread. Every line is flushed at once and soon forced to the disk."""

    def __init__(self, path: Path, *, keep: int | None = None, fresh: bool = False) -> None:
        """`keep`: bytes of the existing file that are whole lines; the rest is cut off. `fresh`: start an empty file."""
        self.path = path
        self._lock = threading.Lock()
        if keep is not None:
            with safe_files.open_file(path, "r+b") as file:
                file.truncate(keep)
        self._file = safe_files.open_file(path, "wb" if fresh else "ab")
        self._numbers_stable = self._is_there()
        self._dirty = threading.Event()
        self._ended = threading.Event()
        self._closed = False
        self._syncer = threading.Thread(target=self._sync, name="journal", daemon=True)
        self._syncer.start()

    def _is_there(self) -> bool:
        return os.path.samestat(os.fstat(self._file.fileno()), self.path.lstat())

    def removed(self) -> bool:
        """Whether the file was removed or replaced since it was opened, so that writes are lost."""
        try:
            return not self._is_there() and self._numbers_stable
        except (FileNotFoundError, NotADirectoryError):
            return True
        except (OSError, ValueError):
            return False  # closed, or a disk without file numbers

    def write(self, event: str, **facts: object) -> None:
        """One line: {"event": event, ...}. Raises OSError; FileNotFoundError when the journal was removed."""
        line = _one_line({"event": event, **facts}).encode() + b"\n"
        with self._lock:
            if self._closed:
                return
            if self.removed():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
            self._file.write(line)
            self._file.flush()
        self._dirty.set()

    def _sync(self) -> None:
        while not self._ended.is_set():
            self._dirty.wait()
            self._ended.wait(SYNC_PAUSE)
            self._dirty.clear()
            with self._lock:
                if self._closed:
                    return
                number = self._file.fileno()
            with contextlib.suppress(OSError):
                os.fsync(number)

    def close(self) -> None:
        """Force everything to the disk and stop."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(OSError):
                os.fsync(self._file.fileno())
            with contextlib.suppress(OSError):  # a full disk, which the batch has reported
                self._file.close()
        self._ended.set()
        self._dirty.set()


class RunRecord:
    """What the journal says about the latest attempt of one run."""

    def __init__(self, run: int) -> None:
        self.run = run
        self.status = "planned"  # planned, submitted, finished (files still to come) or how it ended
        self.attempt = 0
        self.prompt_id: str | None = None
        self.host: str | None = None
        # The silent server that the run was moved from, if it was not submitted elsewhere since.
        self.left_on: str | None = None
        self.facts: Document = {}
        self.files: list[Document] = []

    def apply(self, line: Document) -> None:
        """Take in the next line about this run. Raises TypeError or ValueError for values that no batch writes."""
        event = line.get("event")
        if event == "submit":
            self.status, self.left_on, self.files = "submitted", None, []
            self.attempt = int(line.get("attempt") or 1)
            self.prompt_id, self.host = line.get("prompt_id"), line.get("host")
            self.facts = {"seeds": line.get("seeds") or {}}
        elif event == "accepted":
            self.prompt_id = line.get("prompt_id") or self.prompt_id
            self.facts["accepted"] = True
        elif event == "finished":
            self.status = "finished"
            self.prompt_id = line.get("prompt_id") or self.prompt_id
            self._note(line, but="prompt_id")
        elif event == "downloaded":
            self.status = str(line.get("status") or "success")
            self.files = [item for item in line.get("files") or [] if isinstance(item, dict)]
            self._note(line, but="files")
        elif event == "failed":
            self.status = str(line.get("status") or "error")
            self._note(line)
        elif event in ("released", "lost", "again", "moved"):
            # As if it had never been submitted.
            self.status, self.attempt = "planned", int(line.get("attempt") or self.attempt)
            if event == "moved" and line.get("left"):
                self.left_on, self.prompt_id = str(line.get("from")), str(line.get("prompt_id"))

    def _note(self, line: Document, *, but: str = "") -> None:
        self.facts |= {key: value for key, value in line.items() if key not in ("event", "run", but)}


class Recorded:
    """A whole journal: the plan line, the runs that are in it, and how much of the file is whole."""

    def __init__(self, plan: Document, whole: int) -> None:
        self.plan = plan
        self.runs: dict[int, RunRecord] = {}
        # Server -> prompt ids that were moved away from it while it was silent, to be cancelled when it answers.
        self.left: dict[str, set[str]] = {}
        self.whole = whole
        self.clean = False  # the last session wrote its end, so no line is missing
        self.seconds = 0.0


def begun(folder: Path) -> bool:
    """Whether a folder holds a batch. One whose plan line is not whole has sent nothing and does not count."""
    try:
        with safe_files.open_file(folder / NAME, "rb") as file:
            return bytes(file.readline(MOST_LINE)[-1:]) == b"\n"
    except FileNotFoundError:
        return False
    except OSError:
        return True


def refuse_links(folder: Path) -> None:
    """Raises SkillError `unsafe_folder` when something that a batch writes into is a link; the folder may be new."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if WRITTEN.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise Misuse(f"cannot read {folder}: {error.strerror}") from error
    for name in sorted(names):
        safe_files.refuse_link(folder / name)


def read(folder: Path) -> Recorded:
    """What the journal of a folder holds. Raises SkillError (exit 2) when it has none, or another file."""
    path = folder / NAME
    recorded: Recorded | None = None
    try:
        for line, end in _lines(path):
            if recorded is None:
                recorded = Recorded(_plan_of(line, path), end)
            elif line is not None:
                try:
                    _apply(recorded, line)
                except (TypeError, ValueError) as error:
                    raise _damaged(path, line) from error
                recorded.whole = end
    except FileNotFoundError as error:
        raise Misuse(
            f"{folder} holds no batch ({NAME} is missing)", code="no_batch", hint="give the --output-dir of an earlier batch",
        ) from error  # fmt: skip
    except OSError as error:
        raise Misuse(f"cannot read {path}: {error.strerror}") from error
    if recorded is None:
        raise _not_ours(path)
    return recorded


def _lines(path: Path) -> Iterator[tuple[Document | None, int]]:
    """(object, offset after it) of each line; None for what is torn or unreadable."""
    end = 0
    with safe_files.open_file(path, "rb") as file:
        while line := file.readline(MOST_LINE):
            end += len(line)
            value = None
            if line.endswith(b"\n"):
                with contextlib.suppress(ValueError, RecursionError):
                    value = json.loads(line)
            yield value if isinstance(value, dict) else None, end


def _plan_of(line: Document | None, path: Path) -> Document:
    if line is None or line.get("event") != "plan" or line.get("version") != 1:
        raise _not_ours(path)
    if not isinstance(line.get("made", 0), (int, float)):
        raise _damaged(path, line)
    return line


def _not_ours(path: Path) -> SkillError:
    hint = "its first line must hold the plan"
    return Misuse(f"{path} is not the journal of a batch", code="no_batch", hint=hint)


def _damaged(path: Path, line: Document) -> SkillError:
    event = safe_text.clean(line.get("event"), 20)
    return Misuse(
        f"{path} was changed by hand: a line of the event {event!r} holds invalid values",
        code="no_batch", hint="restore the old line, or remove it: its run is then looked up again",
    )  # fmt: skip


def _apply(recorded: Recorded, line: Document) -> None:
    """Take in the next line. Raises TypeError or ValueError for values that no batch writes."""
    event, number = line.get("event"), foreign.whole(line.get("run"))
    if not all(isinstance(line.get(key, ""), (str, NoneType)) for key in ("prompt_id", "host", "from")):
        raise TypeError("an id or an address is not a text")
    recorded.clean = event == "end"
    if event == "end":
        recorded.seconds += float(line.get("seconds") or 0.0)
    if event == "cleared":
        recorded.left.get(str(line.get("from")), set()).discard(str(line.get("prompt_id")))
    if number is None:
        return
    recorded.runs.setdefault(number, RunRecord(number)).apply(line)
    if event == "moved" and line.get("left"):
        recorded.left.setdefault(str(line.get("from")), set()).add(str(line.get("prompt_id")))
