"""Files and folders inside a folder that someone else may have prepared: opened and made without following a link.

A folder from an archive or a repository can hold links with the names that are about to be written. What a
link points at belongs to the user, so nothing is opened, emptied or created through one.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import stat
from pathlib import Path
from typing import IO, Any

from comfyskill.base import safe_text
from comfyskill.base.cli import Exit, SkillError

# Windows has neither flag: there the entry is compared before and after.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
# Opening a pipe without a reader would block for ever. Regular files ignore the flag.
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
# The Windows reparse points that redirect to another place (links, junctions); files kept in a cloud do not.
_SURROGATE = 0x20000000
HINT = "remove it, or use a new folder; a folder from someone else can hold links to your own files"
# Windows locks bytes against other readers: lock one far behind any text. Its C library counts to 2**31.
_FAR = 2**31 - 2


def is_link(path: Path) -> bool:
    """Whether the entry itself is a symbolic link or a Windows junction. False when there is none."""
    try:
        return _leads_away(path.lstat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _leads_away(entry: os.stat_result) -> bool:
    return stat.S_ISLNK(entry.st_mode) or bool(getattr(entry, "st_reparse_tag", 0) & _SURROGATE)


def refuse_link(path: Path) -> None:
    """Raises SkillError `unsafe_folder` (exit 7) when the entry itself is a link; other entries, or none, may stay."""
    if is_link(path):
        raise _unsafe(f"{safe_text.clean(path, 300)} is a link{_target(path)}")


def _target(path: Path) -> str:
    try:
        return f" to {safe_text.clean(path.readlink(), 300)}"
    except (OSError, ValueError):
        return ""


def digest(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal. A file that has not changed since is read once."""
    found = path.stat()
    return _digest(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@functools.lru_cache(maxsize=10_000)
def _digest(path: Path, _version: tuple[int, ...]) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def refuse_outside(root: Path, path: Path) -> None:
    """Raises SkillError `unsafe_folder` when a path, with every link on the way followed, is not inside `root`."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise _unsafe(f"{safe_text.clean(path, 300)} leads out of {safe_text.clean(root, 300)}")


def open_file(path: Path, mode: str, **text: Any) -> IO[Any]:
    """A regular file, opened as `open(path, mode)` does it, but never through a link.

    A file that is written must have no second name (hard link). It is emptied ("w") only after these checks.
    Raises SkillError `unsafe_folder` (exit 7), or the OSError of the disk.
    """
    refuse_link(path)
    with contextlib.suppress(FileNotFoundError):
        _refuse_irregular(path, path.lstat())
    try:
        file = open(path, mode, opener=_open, **text)  # noqa: SIM115  (Path.open has no opener)
    except OSError as error:
        if error.errno == errno.ELOOP:
            refuse_link(path)
        raise
    try:
        _refuse_opened(path, os.fstat(file.fileno()), writes=mode.strip("bt") != "r")
        if "w" in mode:
            file.truncate(0)
    except BaseException:
        file.close()
        raise
    return file


def _open(name: str, flags: int) -> int:
    return os.open(name, (flags & ~os.O_TRUNC) | _NO_FOLLOW | _NO_WAIT, 0o666)


def _refuse_irregular(path: Path, entry: os.stat_result) -> None:
    if not stat.S_ISREG(entry.st_mode):
        raise _unsafe(f"{safe_text.clean(path, 300)} is not a regular file")


def _refuse_opened(path: Path, opened: os.stat_result, *, writes: bool) -> None:
    _refuse_irregular(path, opened)
    if writes and opened.st_nlink > 1:
        raise _unsafe(
            f"{safe_text.clean(path, 300)} is a hard link: the same file has {opened.st_nlink} names, "
            "and all of them would change"
        )
    if not _NO_FOLLOW:
        refuse_link(path)
        # It may have been removed meanwhile (a lock file); another file in its place is not the one opened.
        with contextlib.suppress(FileNotFoundError):
            if not os.path.samestat(opened, path.lstat()):
                raise _unsafe(f"{safe_text.clean(path, 300)} was replaced while it was being opened")


def part_name() -> str:
    """A random name for an unfinished file, which `file_names.remove_parts` recognises."""
    return f".{os.urandom(8).hex()}.part"


def create_part(folder: Path) -> tuple[Path, IO[bytes]]:
    """A new, empty file with a random name in a folder, opened for writing. Nothing that exists is opened."""
    path = folder / part_name()
    return path, open_file(path, "x+b")


def make_folder(root: Path, *names: str) -> Path:
    """The folder `root/names…`, made when needed. `root` must exist; it may be a link, since the user named it.

    Raises SkillError `unsafe_folder` when a step below `root` is a link or no folder, or leads out of `root`.
    """
    folder = root
    for name in names:
        folder = folder / name
        refuse_link(folder)
        refuse_outside(root, folder)
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        refuse_link(folder)
        if not folder.is_dir():
            raise _unsafe(f"{safe_text.clean(folder, 300)} is not a folder")
    return folder


def _unsafe(message: str) -> SkillError:
    return SkillError(message, code="unsafe_folder", exit=Exit.UNSAFE, hint=HINT)


def take(file: IO[Any]) -> bool | None:
    """Lock an open file without waiting: True; False when another has it; None where the disk knows no locks."""
    try:
        import fcntl
    except ImportError:
        return _take_on_windows(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _take_on_windows(file: IO[Any]) -> bool | None:
    import msvcrt

    handle = file.fileno()
    here = os.lseek(handle, 0, os.SEEK_CUR)
    os.lseek(handle, _FAR, os.SEEK_SET)
    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EDEADLK) else None
    finally:
        os.lseek(handle, here, os.SEEK_SET)
    return True
