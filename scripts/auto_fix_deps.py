#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "pillow>=10.1,<13", "aiohttp>=3.9,<4"]
# ///
"""Install what workflows lack: node packs with comfy-cli or the server's Manager, models by a checked download.

Without --yes it changes nothing and prints the plan: what, from where, how large, by whom, and any objections.
A node pack is foreign code that runs on the server's machine: show the plan to the user before --yes.
Downloads come from huggingface.co, civitai.com and github.com releases; HF_TOKEN and CIVITAI_API_TOKEN are read from
the environment and sent only to their own host. An interrupted download continues where it stopped.

Examples:
    python3 scripts/auto_fix_deps.py flow.json --dry-run
    python3 scripts/auto_fix_deps.py flow.json --only models --models-dir ~/ComfyUI/models --yes
    python3 scripts/auto_fix_deps.py flow.json --via manager --restart --yes

Exit codes: 0 nothing is missing now, or --dry-run printed the plan; 1 something is still missing; 2 misuse;
3 the server does not answer; 4 refused (gated model, the Manager's security level); 7 --yes or another consent needed.
"""

from __future__ import annotations

import argparse
import sys

from comfyskill.base import cli, file_limits, flags
from comfyskill.base.cli import Document
from comfyskill.deps import mend
from comfyskill.deps.plan import Options
from comfyskill.server import facts
from comfyskill.server.facts import Facts


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "workflows",
        nargs="+",
        metavar="WORKFLOW",
        help="workflow whose needs are installed: file, -, template:NAME, server:NAME or subgraph:NAME",
    )
    flags.add_server_flags(parser)
    parser.add_argument(
        "--inventory", metavar="FILE", help="plan for the server of this inventory (with --dry-run)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    parser.add_argument(
        "--yes", action="store_true", help="carry the plan out: the user has seen it and agrees"
    )
    parser.add_argument("--only", choices=["nodes", "models"], help="install only this kind")
    parser.add_argument(
        "--via", choices=["auto", "comfy-cli", "manager"], default="auto",
        help="what installs packs (default: the server's Manager, else comfy-cli); models are downloaded by this script",
    )  # fmt: skip
    parser.add_argument(
        "--models-dir", metavar="DIR", help="ComfyUI's models folder (default: auto-detected)"
    )
    parser.add_argument("--workspace", metavar="DIR", help="ComfyUI's own folder, for comfy-cli")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="HOST",
        help="also download from this host, or this whole origin such as http://127.0.0.1:9000 (repeatable)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="also download .ckpt .pt .pth .bin .pkl and unknown types, which can run code",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="have the Manager restart the server after installing node packs",
    )
    flags.add_file_size_flag(parser, "100GB")
    flags.add_quiet_flag(parser)
    args = parser.parse_args(argv)
    if args.dry_run and args.yes:
        parser.error("--dry-run and --yes exclude each other")
    if args.inventory and (args.host or not args.dry_run):
        parser.error(
            "--inventory goes with --dry-run and without --host: nothing can be installed into a file"
        )
    return args


def server_of(args: argparse.Namespace) -> Facts:
    """The inventory or server that the flags name."""
    if args.inventory:
        return facts.load(args.inventory)
    from comfyskill.server import connect

    return connect.connect_from(args)


def auto_fix_deps(args: argparse.Namespace) -> Document:
    """The report this script prints."""
    file_limits.allow(args.max_file_size)
    options = Options(
        args.workflows,
        only=args.only,
        via=args.via,
        models_dir=args.models_dir,
        workspace=args.workspace,
        allow_host=args.allow_host,
        allow_pickle=args.allow_pickle,
        restart=args.restart,
        dry_run=args.dry_run,
        yes=args.yes,
    )
    return mend.mend(lambda: server_of(args), options)


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, auto_fix_deps, argv)


if __name__ == "__main__":
    sys.exit(main())
