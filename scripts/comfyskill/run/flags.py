"""The flags that say what to change in a workflow, and the `Wishes` made from them; the same in every command that runs one."""

from __future__ import annotations

import argparse
from typing import Any

from comfyskill.base import paths
from comfyskill.base.cli import Misuse


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


def wishes(args: argparse.Namespace) -> Any:
    """The `prepare.Wishes` in parsed flags. Raises SkillError (exit 2)."""
    from comfyskill.run import prepare

    given = [*args.set, *args.input_image, *args.input_mask, *args.input_file]
    if not (given or args.args):
        # Reading names and values loads a dozen modules that a plain run does not need.
        return prepare.Wishes(loras=args.lora, randomize_seed=args.randomize_seed, tiled_vae=args.tiled_vae)
    from comfyskill.graph import values as graph_settings

    settings: dict[str, Any] = graph_settings.parse_args_json(_args_text(args.args)) if args.args else {}
    settings |= _once([graph_settings.parse_set(text) for text in args.set])
    files = [
        (*graph_settings.parse_set(text, f"--input-{kind}"), kind)
        for kind, texts in (("image", args.input_image), ("mask", args.input_mask), ("file", args.input_file))
        for text in texts
    ]
    return prepare.Wishes(
        settings,
        files,
        args.lora,
        frozenset(args.force_link),
        not args.no_validate,
        args.randomize_seed,
        args.invert_mask,
        args.tiled_vae,
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
