"""Where on this machine a model belongs: the models folder, and a safe path inside it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import _common
from comfyskill.base import foreign, paths, safe_text
from comfyskill.base.cli import Misuse, SkillError
from comfyskill.base.file_names import MODEL_SUFFIXES, file_name, safe_name
from comfyskill.base.safe_text import clean
from comfyskill.deps import comfy_cli, names
from comfyskill.server.facts import Facts

SERVER = "server"
# Besides the files that keep any name: what loaders of node packs take for models, vocabularies and settings.
MODEL_FILES = MODEL_SUFFIXES | {
    ".joblib", ".pt2", ".engine", ".trt", ".tflite", ".h5", ".pb", ".msgpack", ".model", ".tiktoken", ".vocab",
    ".mlmodel", ".caffemodel", ".prototxt", ".param", ".yaml",
}  # fmt: skip
MOST_HEADER = 100_000_000
_STARTS: dict[str, tuple[bytes, ...]] = {
    ".gguf": (b"GGUF",),
    # A zip (torch since 1.6), a pickle of protocol 2 to 5, or a tar (torch's first format).
    ".ckpt": (b"PK\x03\x04", b"\x80"),
    ".pt": (b"PK\x03\x04", b"\x80"),
    ".pth": (b"PK\x03\x04", b"\x80"),
    ".bin": (b"PK\x03\x04", b"\x80"),
}
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b'{"error', b'{"message')
_POINTER = b"version https://git-lfs.github.com/spec/"


class Place(NamedTuple):
    """The models folder and who named it: `flag`, `comfy-cli` or `server`."""

    folder: Path
    by: str


def models_folder(server: Facts, given: str | None, workspace: str | None) -> Place | None:
    """The models folder: the flag's, the workspace's, that of a server on this machine, comfy-cli's; None when unknown.

    A local address may be a tunnel or a container, so a folder that only the server names is marked as such.
    Raises SkillError (exit 2) when a flag names a folder that is not there.
    """
    if given:
        path = paths.expanded(given)
        if not path.is_dir():
            raise Misuse(f"there is no folder {path}", hint="--models-dir takes ComfyUI's models folder")
        return Place(path.resolve(), "flag")
    if workspace:
        path = paths.expanded(workspace) / "models"
        if not path.is_dir():
            raise Misuse(f"there is no folder {path}", hint="--workspace takes the ComfyUI folder")
        return Place(path.resolve(), "flag")
    if not is_here(server):
        return None
    named, known = _of_server(server), _of_comfy()
    if named is not None and named.is_dir():
        confirmed = known is not None and known.resolve() == named.resolve()
        return Place(named.resolve(), "comfy-cli" if confirmed else SERVER)
    return Place(known.resolve(), "comfy-cli") if known is not None and known.is_dir() else None


def is_here(server: Facts) -> bool:
    """Whether the server runs on this machine, judged by its address."""
    here = _common.is_this_machine(urlsplit(str(server.url)).hostname or "")
    return here and server.api == "local"


def comfy_acts_here(server: Facts, workspace: str | None) -> bool:
    """Whether comfy-cli is installed and its workspace may be this server's installation."""
    if comfy_cli.program() is None or server.api != "local":
        return False
    if workspace:
        return True
    if not is_here(server):
        return False
    folder, models = comfy_cli.workspace(), _of_server(server)
    return folder is not None and (models is None or models.resolve() == (folder / "models").resolve())


def _of_server(server: Facts) -> Path | None:
    """From the command line that a server of this machine reports: --base-directory, else the folder of main.py."""
    try:
        argv = server.stats()["system"].get("argv")
    except SkillError:
        return None
    words = [word for word in foreign.items(argv) if isinstance(word, str)]
    for index, word in enumerate(words):
        if word == "--base-directory" and index + 1 < len(words):
            return _models_below(words[index + 1])
        if word.startswith("--base-directory="):
            return _models_below(word.partition("=")[2])
    main = Path(words[0]) if words else Path()
    return _models_below(str(main.parent)) if main.name == "main.py" else None


def _models_below(base: str) -> Path | None:
    """The models folder of a base folder; None for one that is relative or cannot be shown as it is."""
    shown = clean(base) == base and Path(base).is_absolute()
    return Path(base) / "models" if shown else None


def _of_comfy() -> Path | None:
    workspace = comfy_cli.workspace()
    return workspace / "models" if workspace is not None else None


def segments(path: str) -> list[str]:
    """The parts of a relative path. Raises SkillError for an absolute path, `..`, or a name that is not plain on every system."""
    parts = re.split(r"[/\\]", path)
    for part in parts:
        if not part or part in (".", "..") or safe_name(part) != part or part.startswith("-"):
            raise Misuse(
                f"{safe_text.quoted(path)} is not a safe path inside the models folder",
                hint="rename the model in the workflow",
            )
    return parts


def target(folder: str, filename: str) -> str:
    """The path below the models folder, with forward slashes.

    Raises SkillError for a path that could lead elsewhere, and for a name without a model file's suffix (`x.py`).
    """
    suffix = f".{filename.rpartition('.')[2].lower()}"
    if suffix not in MODEL_FILES and file_name(filename) != filename:
        raise Misuse(f"{filename!r} is not the name of a model file", hint="rename the model in the workflow")
    return "/".join([*segments(folder), *segments(filename)])


def free_bytes(folder: Path) -> int | None:
    """Free space where the folder is, or None."""
    import shutil

    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def manager_entry(
    models: Iterable[Mapping[str, object]], folder: str, filename: str
) -> Mapping[str, object] | None:
    """The entry of the Manager's list for a file, which it accepts as an order; None without one."""
    for entry in models:
        save_path = str(entry.get("save_path") or "").replace("\\", "/")
        near = save_path == "default" or save_path.split("/")[0] == folder
        if names.is_generic(filename):
            near = save_path.strip("/") == folder
        if entry.get("filename") == filename and near:
            return entry
    return None


def wrong_start(name: str, start: bytes) -> str | None:
    """Why these first bytes cannot be the start of such a file, or None. Fewer than 9 bytes say nothing."""
    if len(start) < 9:
        return None
    head = start.lstrip()[:40].lower()
    if head.startswith(_PAGES):
        return "it is a web page or an error message, not a model"
    if start.startswith(_POINTER):
        return "it is a Git LFS pointer, not the file itself"
    suffix = Path(name).suffix.lower()
    if suffix in (".safetensors", ".sft"):
        length = int.from_bytes(start[:8], "little")
        if not 2 <= length <= MOST_HEADER or start[8:9] != b"{":
            return "it does not begin like a safetensors file"
    known = _STARTS.get(suffix)
    if known and not start.startswith(known):
        return f"it does not begin like a {suffix} file"
    return None


def problem(path: Path, name: str | None = None) -> str | None:
    """What is wrong with a whole file, or None. `name`: its final name when it still has another."""
    name = name or path.name
    size = path.stat().st_size
    if size == 0:
        return "it is empty"
    with path.open("rb") as file:
        start = file.read(64)
        wrong = wrong_start(name, start)
        if wrong or Path(name).suffix.lower() not in (".safetensors", ".sft"):
            return wrong
        if size < 10:
            return "it is too short for a safetensors file"
        length = int.from_bytes(start[:8], "little")
        if 8 + length > size:
            return "it ends inside its header"
        file.seek(8)
        return _header_problem(file.read(length), size - 8 - length)


def _header_problem(raw: bytes, data_size: int) -> str | None:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        return "its header is not JSON"
    if not isinstance(header, dict):
        return "its header is not a JSON object"
    end = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        stop = _end_of(tensor)
        if stop is None or stop > data_size:
            return "a tensor in its header is outside the file"
        end = max(end, stop)
    if end < data_size:
        return "it has more bytes than its header describes"
    return None


def _end_of(tensor: object) -> int | None:
    offsets = [foreign.whole(offset) for offset in foreign.items(foreign.mapping(tensor).get("data_offsets"))]
    start, stop = offsets if len(offsets) == 2 else (None, None)
    return stop if start is not None and stop is not None and 0 <= start <= stop else None
