"""The checks of classes that check their own inputs (the real ones' VALIDATE_INPUTS)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from comfyskill.demo.folders import Folders, OutsideFolder


@dataclass(frozen=True)
class Check:
    """`function(value, folders)` answers True, False, or a sentence. These inputs skip the usual choice check."""

    inputs: tuple[str, ...]
    function: Callable[[object, Folders], bool | str]
    takes_all: bool = False


def annotated(name: str, folders: Folders, default: str = "input") -> Path | None:
    """The file that a name such as `a.png`, `sub/a.png` or `a.png [output]` means; None when it leaves its folder."""
    kind = default
    for known in ("input", "output", "temp"):
        if name.endswith(f"[{known}]"):
            kind, name = known, name[: -len(known) - 2].rstrip()
    base = folders.of(kind)
    if base is None:
        return None
    try:
        return folders.inside(base, name)
    except OutsideFolder:
        return None


def _exists(words: str) -> Callable[[object, Folders], bool | str]:
    def check(value: object, folders: Folders) -> bool | str:
        path = annotated(str(value), folders)
        return True if path is not None and path.is_file() else f"Invalid {words} file: {value}"

    return check


def _fine(_value: object, _folders: Folders) -> bool:
    return True


CHECKS: dict[str, Check] = {
    "LoadImage": Check(("image",), _exists("image")),
    "LoadImageMask": Check(("image",), _exists("image")),
    "LoadImageOutput": Check(("image",), _exists("image")),
    "LoadLatent": Check(("latent",), _exists("latent")),
    "LoadAudio": Check(("audio",), _exists("audio")),
    "LoadVideo": Check(("file",), _exists("video")),
    "VHS_LoadVideo": Check(("video",), _exists("video")),
    "CustomCombo": Check(("choice",), _fine),
}
