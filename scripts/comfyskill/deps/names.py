"""Finds the listed file that a name in a workflow means, as a person would.

A server compares names letter by letter. People rename folders, use backslashes, drop suffixes and keep the same
weights at several precisions; those are found here and named for what they are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from comfyskill.base import file_names

EXACT = "exact"
# Words in a file name that say how the same weights are stored, not which model they are.
_STORAGE = re.compile(
    r"[-_. ]?(fp(?:32|16|8|4)(?:[-_]?e[45]m[23](?:fn)?(?:uz)?)?(?:[-_]?fast|[-_]?scaled|[-_]?mixed)*|bf16|half|full|nvfp4|"
    r"e[45]m[23](?:fn)?|scaled|pruned|emaonly|ema[-_]?only|no[-_]?ema|non[-_]?ema|q[2-8](?:_[0k01])?(?:_[sml])?|"
    r"gguf|int[48]|nf4)(?=[-_. ]|$)",
    re.IGNORECASE,
)
# File names that repositories of every model use: without its folder such a name says nothing.
_GENERIC = re.compile(
    r"(diffusion-pytorch-|diffusers-|pytorch-|adapter-|open-clip-pytorch-)?(model|weights|lora-weights)|lora|vae|unet|clip|"
    r"transformer|text-encoder|image-encoder|checkpoint|controlnet|consolidated|ip-adapter|canny|depth|pose|openpose|tile"
)
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
# Words in folder names that part models of one file name: what they are made for, and which half of a pair.
_LINES = tuple(
    re.compile(rf"(?<![a-z])({words})")
    for words in ("sd ?1|sd ?v1|1\\.5", "sd ?2", "sd-?xl|xl|pony|illustrious", "sd-?3", "flux", "wan", "hunyuan", "ltx",
                  "qwen", "high", "low", "i2v", "t2v")
)  # fmt: skip


class Match(NamedTuple):
    """A listed name for a wanted one. sure: it is the same file by name; else the same weights in another form, perhaps."""

    name: str
    how: str
    sure: bool


def base_name(name: str) -> str:
    """The last part of a path with either kind of slash."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def without_suffix(name: str) -> str:
    """The name without a model suffix; other dots stay."""
    lowered = name.lower()
    for suffix in file_names.MODEL_SUFFIXES:
        if lowered.endswith(suffix):
            return name[: -len(suffix)]
    return name


def core_name(name: str) -> str:
    """What is left of a file name without folder, suffix and words for precision: what makes two variants one model."""
    stem = without_suffix(base_name(name)).lower()
    previous = None
    while previous != stem:
        previous, stem = stem, _STORAGE.sub("", stem)
    return re.sub(r"[-_. ]+", "-", stem).strip("-")


def is_generic(name: str) -> bool:
    """Whether a file is called what the files of many models are called (`diffusion_pytorch_model.safetensors`)."""
    return _GENERIC.fullmatch(_SHARD.sub("", core_name(name))) is not None


def inside(name: str) -> str:
    """The folders before a file name, with forward slashes."""
    return _slashes(name).rpartition("/")[0]


def _parted(one: str, other: str) -> bool:
    """Whether the folders of two files of one name say that they belong to different models."""
    lines = [{line for line in _LINES if line.search(inside(name).lower())} for name in (one, other)]
    return bool(lines[0] and lines[1] and lines[0] != lines[1])


def _slashes(name: str) -> str:
    return name.replace("\\", "/").strip("/")


# Each step forgives more than the one before; (how, key, whether an only candidate is surely meant).
_STEPS: tuple[tuple[str, Callable[[str], str], bool], ...] = (
    ("other slashes", _slashes, True),
    ("other case", lambda name: _slashes(name).lower(), True),
    ("other folder", base_name, True),
    ("other folder and case", lambda name: base_name(name).lower(), True),
    ("without its suffix", lambda name: without_suffix(base_name(name)).lower(), True),
    ("another precision or variant", core_name, False),
)


def best(wanted: str, listed: Sequence[str]) -> Match | None:
    """The listed name that is meant, or None. With several candidates at one step the nearest is named, not sure.

    The same stem with another suffix (`x.ckpt` for `x.safetensors`) is another file: never sure. So is the same name in
    another folder, where the name is one that many models have, or the folders are of different kinds of models.
    """
    if wanted in listed:
        return Match(wanted, EXACT, True)
    for how, key, sure in _STEPS:
        goal = key(wanted)
        if not goal:
            continue
        found = [name for name in listed if isinstance(name, str) and key(name) == goal]
        if not found:
            continue
        nearest = max(found, key=lambda name: difflib.SequenceMatcher(None, wanted, name).ratio())
        if how == "without its suffix" and without_suffix(wanted) != wanted:
            return Match(nearest, "another file type", False)
        moved = inside(wanted).lower() != inside(nearest).lower()
        doubtful = moved and (is_generic(wanted) or _parted(wanted, nearest))
        return Match(nearest, how, sure and len(found) == 1 and not doubtful)
    return None


def similar(wanted: str, listed: Sequence[str], most: int = 3) -> list[str]:
    """Listed names that look like the wanted one, most alike first; for a person to choose from."""
    stems = {core_name(name): name for name in reversed(listed[:5000])}
    near = difflib.get_close_matches(core_name(wanted), list(stems), n=most, cutoff=0.6)
    return [stems[stem] for stem in near]
