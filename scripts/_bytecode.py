"""Compiled rooms are kept in the user's cache folder when they may not be kept beside the source.

Level 0. A skill's folder is often read-only, and agents' environments often set PYTHONDONTWRITEBYTECODE; compiling
forty rooms anew costs about 150 ms a command. Only this folder's own modules are treated so, from the
import of this room on.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import FileFinder, SourceFileLoader
from pathlib import Path
from types import CodeType

import _places

HERE = Path(__file__).resolve().parent


class _Loader(SourceFileLoader):
    """Loads a room as usual, but keeps its bytecode under `folder`."""

    folder = ""

    def get_code(self, fullname: str) -> CodeType | None:
        kept = sys.pycache_prefix, sys.dont_write_bytecode
        sys.pycache_prefix, sys.dont_write_bytecode = self.folder, False
        try:
            return super().get_code(fullname)
        finally:
            sys.pycache_prefix, sys.dont_write_bytecode = kept


def keep_in(folder: Path | None) -> None:
    """From now on rooms are compiled once per user; without a cache folder (None) nothing changes."""
    beside = HERE / "__pycache__"
    writable = os.access(beside if beside.exists() else HERE, os.W_OK) and not sys.dont_write_bytecode
    if folder is None or writable:
        return
    _Loader.folder = str(folder / "bytecode")
    sys.path_importer_cache[str(HERE)] = FileFinder(str(HERE), (_Loader, [".py"]))


keep_in(_places.cache_folder())
