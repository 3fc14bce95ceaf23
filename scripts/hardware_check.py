#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = []
# ///
"""Can this machine run ComfyUI, and which models? Asks the GPU vendors' tools; changes nothing.

The verdict is `ok`, `marginal` (works, with small models or patience) or `cloud` (use Comfy Cloud or another
machine). The report names the flag for `comfy install` and a table of model families with the memory they need.

Examples:
    python3 scripts/hardware_check.py
    python3 scripts/hardware_check.py --model flux              (does this family fit?)
    python3 scripts/hardware_check.py --vram 6 --ram 16         (what would run on such a machine?)
    python3 scripts/hardware_check.py --check-pytorch --workspace ~/comfy/ComfyUI

Exit codes: 0 usable locally (with --model: it fits, maybe tightly), 1 not usable (verdict `cloud`, or `blockers` must be
solved first), 2 misuse.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from comfyskill.base import cli, flags
from comfyskill.base.cli import Document
from comfyskill.machine import hardware, verdict


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "--json",
        action="store_true",
        help="only the JSON document, no summary on stderr (stdout is the same)",
    )
    parser.add_argument(
        "--check-pytorch",
        action="store_true",
        help="also run a small computation with PyTorch (the workspace's, else this Python's)",
    )
    parser.add_argument(
        "--workspace", type=Path, help="where ComfyUI is or will be (default: comfy-cli's default folder)"
    )
    parser.add_argument(
        "--model",
        metavar="FAMILY",
        help="answer only for this model family, such as sdxl, flux or 'wan 14b'",
    )
    parser.add_argument(
        "--vram",
        type=_gigabytes,
        metavar="GB",
        help="answer for another machine, whose graphics card has this much memory (0: no card)",
    )
    parser.add_argument(
        "--ram", type=_gigabytes, metavar="GB", help="with --vram: that machine's system memory"
    )
    args = parser.parse_args(argv)
    if args.ram is not None and args.vram is None:
        parser.error("--ram goes with --vram")
    if args.vram is not None and (args.check_pytorch or args.workspace):
        parser.error("--vram asks about another machine: --check-pytorch and --workspace are of this one")
    return args


def _gigabytes(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = -1
    if not 0 <= size <= 100_000:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a size in GB, such as 6")
    return size


def report(args: argparse.Namespace) -> Document:
    """The report this script prints, with a short summary on stderr unless --json is given."""
    families = _families(args.model) if args.model is not None else []
    if args.vram is None:
        found = hardware.check(args.workspace, pytorch=args.check_pytorch)
    else:
        found = hardware.suppose(args.vram, args.ram)
    if families:
        return _one_family(found, families)
    if not args.json:
        for line in summary_lines(found):
            cli.note(line)
    return found


def _families(model: str) -> list[str]:
    families = verdict.named(model)
    if not families:
        known = ", ".join(dict.fromkeys(family.name for family in verdict.FAMILIES))
        raise cli.Misuse(f"unknown model family {model[:60]!r}", hint=f"known: {known}")
    return families


def _one_family(found: Document, families: list[str]) -> Document:
    """Whether these families fit, without the rest of the report."""
    answer = verdict.about(found["families"], families)
    fits = answer["fits"] in ("yes", "tight") and not found["blockers"]
    document: Document = {"status": "ok" if fits else "unsuitable"}
    if not fits:
        hint = "use Comfy Cloud, another machine's server, or a smaller model"
        document |= {"code": "does_not_fit", "hint": hint, "retryable": False}
    document |= answer
    if found["blockers"]:
        document |= {key: found[key] for key in ("code", "message", "hint", "retryable") if key in found}
    kept = ("verdict", "reasons", "blockers", "best_gpu", "memory", "disk", "asked_for")
    return document | {key: found[key] for key in kept if key in found}


def summary_lines(found: Document) -> list[str]:
    """The report for people: a few lines and the table of families."""
    best = found["best_gpu"]
    lines = [
        f"verdict: {found['verdict']} - " + "; ".join(found["reasons"]),
        f"GPU:     {best['name']}, {best['usable_gb'] or '?'} GB usable" if best else "GPU:     none",
        f"memory:  {found['memory']['usable_gb'] or '?'} GB",
        *([f"install: {found['install']['command']}"] if "install" in found else []),
    ]
    lines += [f"fix:     {blocker}" for blocker in found["blockers"]]
    lines += [f"note:    {note}" for note in found["notes"]]
    lines.append(f"{'family':22}{'precision':11}{'fits':9}{'needs GB':>9}{'least':>7}")
    for row in found["families"]:
        lines.append(
            f"{row['family']:22}{row['precision']:11}{row['fits']:9}{row['vram_gb']:>9g}{row['least_vram_gb']:>7g}"
        )
    return lines


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, report, argv)


if __name__ == "__main__":
    sys.exit(main())
