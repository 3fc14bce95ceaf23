"""The server's folders on disk: output, input, temp, user; names that cannot leave them; file counters."""

from __future__ import annotations

import os
import re
import shutil
import struct
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("output", "input", "temp")
PREFIX = "comfy-demo-"
COUNTER = re.compile(r"^(?P<prefix>.*)_(?P<number>\d+)_?\.[^.]*$", re.DOTALL)


class OutsideFolder(RuntimeError):
    """A name would leave the folder that it belongs to."""


@dataclass
class Folders:
    """One run's folders. `close` removes those that this process made."""

    output: Path
    input: Path
    temp: Path
    user: Path
    made: Path
    counters: dict[tuple[Path, str], int] = field(default_factory=dict)

    @classmethod
    def make(cls, output: Path | None = None, given_input: Path | None = None) -> Folders:
        _remove_orphans()
        made = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        folders = cls(
            output=(output or made / "output").resolve(),
            input=(given_input or made / "input").resolve(),
            temp=(made / "temp").resolve(),
            user=(made / "user").resolve(),
            made=made,
        )
        for folder in (folders.output, folders.input, folders.temp, folders.user):
            folder.mkdir(parents=True, exist_ok=True)
        folders.put_example()
        return folders

    def put_example(self) -> None:
        """The picture that every new installation has in its input folder (only in a folder that we made)."""
        if self.made.resolve() in self.input.parents:
            (self.input / "example.png").write_bytes(_example())

    def close(self) -> None:
        shutil.rmtree(self.made, ignore_errors=True)

    def of(self, kind: str) -> Path | None:
        """The folder of one of the three kinds of the protocol, or None."""
        return {"output": self.output, "input": self.input, "temp": self.temp}.get(kind)

    def inside(self, base: Path, *parts: str) -> Path:
        """`base` joined with parts. Raises OutsideFolder when the result is not below `base`."""
        try:
            path = base.joinpath(*parts)
            resolved = Path(_normal(path))
        except ValueError as error:
            raise OutsideFolder(str(error)) from error
        if resolved != base and base not in resolved.parents:
            raise OutsideFolder(f"{'/'.join(parts)} leaves the folder")
        return resolved

    def next_file(
        self, kind: str, prefix: str, width: int = 0, height: int = 0
    ) -> tuple[Path, str, int, str]:
        """(folder, file name prefix, first free counter, subfolder) for a new family of files.

        The counter is kept in memory once the folder has been read, so that saving does not slow down as the
        folder fills. Raises OutsideFolder.
        """
        base = self.of(kind)
        if base is None:
            raise OutsideFolder(f"no folder of the kind {kind}")
        target = self.inside(base, _dated(prefix, width, height))
        folder, name = target.parent, target.name
        subfolder = "" if folder == base else folder.relative_to(base).as_posix()
        key = (folder, name)
        if key not in self.counters:
            folder.mkdir(parents=True, exist_ok=True)
            self.counters[key] = _highest(folder, name)
        return folder, name, self.counters[key] + 1, subfolder

    def took(self, folder: Path, name: str, counter: int) -> None:
        """Record that the file with this counter exists."""
        self.counters[(folder, name)] = max(counter, self.counters.get((folder, name), 0))

    def listing(self, kind: str, suffixes: tuple[str, ...]) -> list[str]:
        """Sorted names of the files directly in a folder whose suffix is one of those given."""
        folder = self.of(kind)
        if folder is None or not folder.is_dir():
            return []
        return sorted(
            path.name for path in folder.iterdir() if path.suffix.lower() in suffixes and path.is_file()
        )


def _remove_orphans() -> None:
    """Remove the folders of demo servers that were killed and could not remove them."""
    if not hasattr(os, "fork"):
        # On Windows os.kill(pid, 0) would end the process.
        return
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        number = path.name.removeprefix(PREFIX).partition("-")[0]
        if not number.isdigit() or _lives(int(number)):
            continue
        shutil.rmtree(path, ignore_errors=True)


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _normal(path: Path) -> str:
    # The path as written, dots resolved, without asking the disk: symbolic links are the user's choice.
    text = str(path)
    if "\0" in text:
        raise ValueError("a name holds a NUL")
    return os.path.normpath(text)


def _example(size: int = 256) -> bytes:
    # Made without Pillow: importing it would be a good part of the start-up time.
    row = [
        bytes((0, *(part for x in range(size) for part in (x * 255 // size, y * 255 // size, 160))))
        for y in range(size)
    ]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    body = zlib.compress(b"".join(row), 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _highest(folder: Path, name: str) -> int:
    highest = 0
    for path in folder.iterdir():
        found = COUNTER.match(path.name)
        if found and found["prefix"] == name:
            highest = max(highest, int(found["number"]))
    return highest


def _dated(prefix: str, width: int, height: int) -> str:
    if "%" not in prefix:
        return prefix
    now = time.localtime()
    values = {
        "%width%": str(width),
        "%height%": str(height),
        "%year%": str(now.tm_year),
        "%month%": f"{now.tm_mon:02d}",
        "%day%": f"{now.tm_mday:02d}",
        "%hour%": f"{now.tm_hour:02d}",
        "%minute%": f"{now.tm_min:02d}",
        "%second%": f"{now.tm_sec:02d}",
    }
    for mark, text in values.items():
        prefix = prefix.replace(mark, text)
    return prefix
