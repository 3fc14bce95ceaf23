#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = []
# ///
"""Install ComfyUI with comfy-cli, start it in the background and wait until it answers. Safe to repeat.

Checks the hardware, installs comfy-cli into a virtual environment of its own unless it is there, turns its analytics
off, runs `comfy install` for this machine's GPU and `comfy launch`, then the health check. What is already installed
or running is left unchanged. comfyui_setup.sh and comfyui_setup.ps1 call this.

Examples:
    bash scripts/comfyui_setup.sh --dry-run
    bash scripts/comfyui_setup.sh --model sd15 --yes
    bash scripts/comfyui_setup.sh status
    bash scripts/comfyui_setup.sh stop

Exit codes: 0 the server answers (status: it runs; stop: it does not), 1 a step failed (`log_tail` shows why),
2 misuse, 5 started but not answering yet, 7 needs consent (the JSON names the flag), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from comfyskill.base import cli, flags, paths
from comfyskill.machine import setup, setup_plan, setup_run, system


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = flags.parser(__doc__)
    parser.add_argument("action", nargs="?", choices=["install", "status", "stop"], default="install")
    parser.add_argument("--port", type=_port, default=8188, help="port of the server (default: %(default)s)")
    parser.add_argument(
        "--workspace",
        type=Path,
        help="folder of ComfyUI itself (default: comfy-cli's, ~/comfy/ComfyUI on Linux)",
    )
    device = parser.add_mutually_exclusive_group()
    for name in setup_plan.DEVICE_FLAGS:
        device.add_argument(
            f"--{name}",
            dest="device",
            action="store_const",
            const=name,
            help=f"install for {name} (default: auto-detected)",
        )
    parser.add_argument("--manager", action="store_true", help="also install ComfyUI-Manager")
    parser.add_argument(
        "--model", choices=sorted(setup_plan.MODELS), help="also fetch a first checkpoint (needs --yes)"
    )
    parser.add_argument("--yes", action="store_true", help="agree to the download that --model names")
    parser.add_argument(
        "--force", action="store_true", help="install even if the hardware check advises against it"
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=300.0,
        metavar="S",
        help="seconds to wait for the server (default: 300)",
    )
    parser.add_argument(
        "--log", type=Path, help="log file, appended to (default: in the user's state folder)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and change nothing")
    flags.add_quiet_flag(parser)
    return parser.parse_args(argv)


def _port(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError("a port is a number from 1 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 86400:
        raise argparse.ArgumentTypeError("give a number of seconds above 0")
    return value


def wish(args: argparse.Namespace) -> setup_plan.Wish:
    """The wish that the flags express."""
    workspace = args.workspace or system.default_workspace(system.place())
    return setup_plan.Wish(
        port=args.port,
        workspace=Path(os.path.abspath(paths.expanded(workspace))),  # noqa: PTH100 - without following links
        device=args.device,
        manager=args.manager,
        model=args.model,
        yes=args.yes,
        force=args.force,
        wait_s=args.wait,
        log=paths.expanded(args.log or setup_run.state_folder() / "setup.log").absolute(),
    )


def report(args: argparse.Namespace) -> cli.Document:
    """The report this script prints."""
    asked = wish(args)
    if args.action == "status":
        return setup.status(asked)
    if args.action == "stop":
        return setup.stop(asked, dry_run=args.dry_run)
    return setup_plan.plan(asked) if args.dry_run else setup.set_up(asked)


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, report, argv)


if __name__ == "__main__":
    sys.exit(main())
