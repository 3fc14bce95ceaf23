"""File names from servers and workflows, made safe for every disk, and the step from a temporary to a final name.

A name can come from anyone: it never leaves the folder it is meant for, on any system.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from comfyskill.base import safe_files, safe_text
from comfyskill.base.cli import Misuse, SkillError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# In bytes: most file systems end at 255, and a suffix for a free name and `.part` must still fit.
MOST_BYTES = 200
MOST_DEPTH = 8
# `$` and the backtick stay active inside of double quotes: whoever puts a file's path into a shell command must not
# start another one.
_FORBIDDEN = re.compile(r'[<>:"|?*$`\x00-\x1f\x7f]')
_PART = re.compile(r"\.[0-9a-f]{16}\.part")
ABANDONED_AFTER = 24 * 3600.0
# Windows opens longer paths only if both the system and the program have opted in.
MOST_PATH = 259 if os.name == "nt" else None
NUMBERED = len(" (9999)")
LEAST_NAME = 24
# Virus scanners and indexers hold a new file for a moment; Windows then refuses to rename or remove it.
_HELD_BY_ANOTHER = (5, 32, 33)
PAUSES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
MOST_TRIES = 50
# Only files of these types keep their name: nothing in them runs when a user opens them with a click or when a tool
# finds them in its folder. A browser runs what HTML and SVG hold, and readers of .pt, .pkl and .blend run code.
KEPT_SUFFIXES = frozenset(
    (
        "png jpg jpeg jxl webp gif bmp tga tif tiff avif heic heif exr hdr dds apng pbm pgm ppm pfm "
        "mp4 webm mov mkv avi m4v mpg mpeg ogv wav mp3 flac ogg oga opus m4a aac aif aiff mid "
        "glb gltf obj mtl fbx dae stl ply 3mf bvh vdb pcd usdz usd usda usdc splat ksplat spz sog "
        "txt csv tsv json jsonl srt vtt lrc latent safetensors sft gguf onnx npy npz cube zip bin dat"
    ).split()
)
HARMLESS = ".txt"
# Names of the kept types that tools read by themselves when they are in their folder.
_READ_BY_TOOLS = re.compile(
    r"(package|(npm)?package-?lock|npm-shrinkwrap|composer|bower|tsconfig|jsconfig|deno|lerna|nx|turbo|biome|angular|project"
    r"|vercel|now|netlify|firebase|wrangler|renovate|nodemon|app|manifest|pyrightconfig|babel|jest|webpack|rollup|vite"
    r"|prettier|eslint|stylelint|tslint|swcrc|api-extractor|launchsettings|appsettings|global|vcpkg|cmake(user)?presets"
    r"|cmakelists|conan|requirements|constraints|runtime|devcontainer|docker|daemon|mcp|settings|launch|tasks|keybindings"
    r"|extensions?|opencode|claude|claude_desktop_config|agents?|gemini|gemini-extension|copilot|codex|cursor|windsurf"
    r"|cline|roo|aider|skills?|hooks|plugin|marketplace|permissions|config|batch)"
    r"([._-][a-z]+)*\.(txt|json|jsonl)"
)
_RESERVED = re.compile(r"(?i)^(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?$")
# File types that can run code when they are opened.
PICKLE_SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"})
# File types that hold only numbers, no code.
DATA_SUFFIXES = frozenset({".safetensors", ".sft", ".gguf", ".onnx"})
MODEL_SUFFIXES = DATA_SUFFIXES | {".torchscript"} | PICKLE_SUFFIXES


def safe_name(name: str) -> str:
    """One path segment that is a plain, visible file name on Linux, macOS and Windows; never empty."""
    text = unicodedata.normalize("NFC", safe_text.clean(name.replace("\n", " ").replace("\t", " ")))
    text = _FORBIDDEN.sub("_", text.replace("/", "_").replace("\\", "_")).rstrip(". ").lstrip(" ")
    if text.startswith("."):
        text = "_" + text[1:]
    if text.startswith("-"):
        text = "_" + text  # `tar cf x.tar *` takes such a name for an option
    if _RESERVED.match(text):
        text = "_" + text
    return _shortened(text) or "file"


def file_name(name: str) -> str:
    """As `safe_name`, for a file that arrives: a name under which nothing runs it and no tool reads it by itself.

    A type that is not in KEPT_SUFFIXES gets `.txt` behind its name (`page.html.txt`), and a name that tools look for gets
    `_` before it (`_package.json`).
    """
    text = safe_name(name)
    suffix = text.rpartition(".")[2] if "." in text else ""
    return unread(text if suffix.lower() in KEPT_SUFFIXES else _shortened(text + HARMLESS))


def unread(name: str) -> str:
    """The name, with `_` before it when tools read a file of that name by themselves."""
    plain = "".join(unicodedata.normalize("NFKC", name).casefold().split())
    return f"_{name}" if _READ_BY_TOOLS.fullmatch(plain) else name


def _shortened(text: str) -> str:
    raw = text.encode("utf-8", "replace")
    if len(raw) <= MOST_BYTES:
        return raw.decode()
    stem, dot, suffix = text.rpartition(".")
    if not dot or len(suffix) > 10:
        stem, suffix = text, ""
    ending = f".{suffix}" if suffix else ""
    room = MOST_BYTES - len(ending.encode())
    return stem.encode("utf-8", "replace")[:room].decode("utf-8", "ignore").rstrip(". ") + ending


def fitted(folder: Path, name: str, most: int | None = MOST_PATH) -> str:
    """The name, cut so that the whole path has at most `most` characters; the suffix stays. None: no cut.

    In a folder so deep that no sensible name fits it is left to the disk to say so.
    """
    room = len(name) if most is None else most - len(str(folder)) - 1 - NUMBERED
    if len(name) <= room or room < LEAST_NAME:
        return name
    stem, dot, suffix = name.rpartition(".")
    ending = f".{suffix}" if dot and len(suffix) <= 10 else ""
    stem = stem if ending else name
    return unread(stem[: room - len(ending)].rstrip(". ") + ending)


def safe_relative(path: str) -> list[str]:
    """The segments of a server's subfolder, each made safe; `..`, drives and absolute starts are dropped."""
    segments = [part.strip() for part in re.split(r"[/\\]+", path)]
    kept = [part for part in segments if part not in ("", ".", "..") and not re.fullmatch(r"[A-Za-z]:", part)]
    return [safe_name(part) for part in kept[:MOST_DEPTH]]


def folder_inside(root: Path, segments: list[str]) -> Path:
    """The folder `root/segments…`, made when needed; `root` itself when a link on the way leads out of it."""
    if not segments:
        return root
    folder = root
    home = root.resolve()
    for segment in segments:
        step = folder / segment
        try:
            step.mkdir(exist_ok=True)
        except FileExistsError:
            return root
        if not step.resolve().is_relative_to(home):
            return root
        folder = step
    return folder


def make_folder(path: Path, flag: str = "--output-dir") -> Path:
    """The folder that `flag` names, made when needed. Raises SkillError (exit 2) when it cannot be one, before any work."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise Misuse(f"{path} is not a folder", hint=f"give another {flag}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Misuse(f"cannot make the folder {path}: {reason}", hint=f"give another {flag}") from error
    probe = path / f".{os.urandom(6).hex()}.part"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise Misuse(f"cannot write into {path}: {error.strerror}", hint=f"give another {flag}") from error
    return path


def part_beside(target: Path) -> Path:
    """A temporary name in the folder of the final one, so that the last step is a rename."""
    return target.parent / safe_files.part_name()


@contextlib.contextmanager
def held(part: Path) -> Iterator[None]:
    """In this block the temporary file is there and marked as in use: `remove_stale_parts` leaves it alone.

    The mark is a lock that ends with the process, however that ends. Without such locks it is only created.
    """
    handle = _locked(part)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _locked(part: Path) -> int | None:
    """An open handle that holds the lock on a new file; None where the system or the disk has no such locks."""
    if fcntl is None:
        return None
    for _ in range(MOST_TRIES):
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A clean-up may have removed it between the two steps.
            if part.stat().st_ino == os.fstat(handle).st_ino:
                return handle
        except (FileNotFoundError, BlockingIOError):
            pass
        except OSError:
            os.close(handle)
            return None
        os.close(handle)
    return None


def remove_stale_parts(folder: Path) -> int:
    """Remove half-fetched files of ended processes from a folder that others may be writing into; return how many.

    Only names that `part_beside` gives. Where locks do not exist a file counts as abandoned when it is old.
    """
    try:
        with os.scandir(folder) as entries:
            parts = [Path(entry.path) for entry in entries if _PART.fullmatch(entry.name)]
    except OSError:
        return 0
    return sum(_removed_if_abandoned(part) for part in parts)


def _removed_if_abandoned(part: Path) -> bool:
    try:
        if fcntl is None:
            # Windows itself refuses to remove what is open.
            if time.time() - part.lstat().st_mtime < ABANDONED_AFTER:
                return False
            part.unlink()
            return True
        handle = os.open(part, os.O_RDWR | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
        finally:
            os.close(handle)
    except OSError:
        return False
    return True


def remove_parts(folder: Path, below: str = "") -> None:
    """Remove what a killed process left half-fetched in a folder, and at any depth of its folders that match `below`.

    No link is followed. Only where no other process writes.
    """
    _remove_parts_in(folder)
    for top in folder.glob(below) if below else ():
        for place, folders, _ in os.walk(top) if not safe_files.is_link(top) else ():
            folders[:] = [name for name in folders if not safe_files.is_link(Path(place, name))]
            _remove_parts_in(Path(place))


def _remove_parts_in(folder: Path) -> None:
    for path in folder.iterdir():
        if _PART.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def settle(part: Path, target: Path, *, overwrite: bool) -> tuple[Path, bool]:
    """Give a finished temporary file its final name: (path, reused).

    An existing file is replaced only with `overwrite`; one with the same bytes is kept and the new one dropped
    (`reused`); else a free name `stem (1).suffix` is taken. Never a moment with half a file under the final name.
    """
    if overwrite:
        if target.is_dir():
            raise SkillError(f"{target} is a folder", code="system_error")
        insist(lambda: part.replace(target))
        return target, False
    for number in range(10_000):
        name = target if number == 0 else target.with_name(f"{target.stem} ({number}){target.suffix}")
        if _claimed(part, name):
            return name, False
        import filecmp

        if name.is_file() and not name.is_symlink() and filecmp.cmp(part, name, shallow=False):
            insist(part.unlink)
            return name, True
    raise SkillError(f"no free file name next to {target}", code="system_error")


def _claimed(part: Path, name: Path) -> bool:
    """Rename without replacing: a hard link fails when the name is taken, in one step."""
    try:
        os.link(part, name)
    except FileExistsError:
        return False
    except OSError:
        # No hard links here (FAT, some network disks); on Windows rename itself refuses to replace.
        if os.name != "nt" and os.path.lexists(name):
            return False
        try:
            insist(lambda: part.rename(name))
        except FileExistsError:
            return False
        return True
    insist(part.unlink)
    return True


def insist(step: Callable[[], object]) -> None:
    """Take a step on a file, again and again for a second and a half while Windows says that another has it open."""
    for pause in PAUSES:
        try:
            step()
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _HELD_BY_ANOTHER:
                raise
            time.sleep(pause)
        else:
            return
    step()


def write_asked(target: Path, data: bytes, hint: str) -> None:
    """As `write_whole`, for a file that the user has named: a place that cannot be written is misuse (exit 2)."""
    if target.is_dir():
        raise Misuse(f"{target} is a folder", hint="give the name of a file")
    try:
        write_whole(target, data)
    except SkillError as error:
        raise Misuse(error.message, hint=hint) from error


def write_whole(target: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it: the old one stays whole until the new one is."""
    part = part_beside(target)
    try:
        with held(part):
            with safe_files.open_file(part, "wb") as file:
                file.write(data)
            with contextlib.suppress(FileNotFoundError):
                part.chmod(target.stat().st_mode & 0o777)
            insist(lambda: part.replace(target))
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SkillError(f"cannot write {target}: {error.strerror}", code="system_error") from error
