"""The flags that say what to change in a workflow, and the `Wishes` made from them; the same in every command that runs one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from comfyskill.base import paths
from comfyskill.base.cli import Misuse

if TYPE_CHECKING:
    from comfyskill.run.prepare import Wishes

# Flags that change the graph; the others say how.
CHANGING = frozenset("set args input_image input_mask input_file lora tiled_vae randomize_seed".split())


def add(parser: argparse.ArgumentParser) -> None:
    """The value flags (--set, --args, --input-image, --lora …)."""
    group = parser.add_argument_group("values")
    group.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="set one input (repeatable)"
    )
    group.add_argument("--args", metavar="JSON|@FILE", help="set many inputs from a JSON object")
    group.add_argument(
        "--input-image",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="upload a picture for an input",
    )
    group.add_argument(
        "--input-mask",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="upload a mask (white: the area to change)",
    )
    group.add_argument(
        "--input-file",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="upload any file: video, audio, 3D",
    )
    group.add_argument("--tiled-vae", action="store_true", help="decode in tiles: slower, far less memory")
    group.add_argument(
        "--invert-mask", action="store_true", help="read masks inverted (black: the area to change)"
    )
    group.add_argument(
        "--randomize-seed", action="store_true", help="use new random values for seeds that are not set"
    )
    group.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="NAME[:STRENGTH[:CLIP]]",
        help="add a LoRA to the graph (repeatable)",
    )
    group.add_argument(
        "--force-link",
        action="append",
        default=[],
        metavar="NODE.INPUT",
        help="let a value replace this input's link",
    )
    group.add_argument(
        "--no-validate", action="store_true", help="send values that the node definitions do not allow"
    )


@dataclass(frozen=True)
class ValueFlags:
    """What a command line gave for the flags of `add`."""

    set: Sequence[str] = ()
    args: str | None = None
    input_image: Sequence[str] = ()
    input_mask: Sequence[str] = ()
    input_file: Sequence[str] = ()
    tiled_vae: bool = False
    invert_mask: bool = False
    randomize_seed: bool = False
    lora: Sequence[str] = ()
    force_link: Sequence[str] = ()
    no_validate: bool = False

    @classmethod
    def of(cls, given: Mapping[str, object]) -> ValueFlags:
        """The values of these flags among all that were parsed (`vars(args)`)."""
        return cls(**{field.name: given[field.name] for field in fields(cls)})  # type: ignore[arg-type]


def wishes(given: ValueFlags) -> Wishes:
    """The changes that the flags ask for. Raises SkillError (exit 2)."""
    from comfyskill.run import prepare

    files = [
        (kind, text)
        for kind, texts in (
            ("image", given.input_image),
            ("mask", given.input_mask),
            ("file", given.input_file),
        )
        for text in texts
    ]
    if not (given.set or files or given.args):
        # Reading names and values loads a dozen modules that a plain run does not need.
        return prepare.Wishes(
            loras=given.lora, randomize_seed=given.randomize_seed, tiled_vae=given.tiled_vae
        )
    from comfyskill.graph import values

    settings: dict[str, object] = values.parse_args_json(_args_text(given.args)) if given.args else {}
    settings |= _once([values.parse_set(text) for text in given.set])
    return prepare.Wishes(
        settings=settings,
        files=[(*values.parse_set(text, f"--input-{kind}"), kind) for kind, text in files],
        loras=given.lora,
        force_links=frozenset(given.force_link),
        validate=not given.no_validate,
        randomize_seed=given.randomize_seed,
        invert_mask=given.invert_mask,
        tiled_vae=given.tiled_vae,
    )


def _once(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """--set pairs by name; the same name twice is an error."""
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Misuse(f"--set gives {twice[0]!r} twice", hint="omit one of them")
    return dict(pairs)


def _args_text(given: str) -> str:
    if not given.startswith("@"):
        return given
    from comfyskill.base import text_files

    try:
        return text_files.read(paths.expanded(given[1:]))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise Misuse(
            f"cannot read {given[1:]}: {text_files.reason(error)}",
            hint="--args @FILE requires a JSON file in UTF-8",
        ) from error
