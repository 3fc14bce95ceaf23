#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["aiohttp>=3.9,<4", "pillow>=10.1,<13"]
# ///
"""Run a demo ComfyUI server: real protocol, no models, no GPU.

Nodes that need no model really run. Loaders, samplers and decoders are simulated: real progress, previews and timing,
and pictures stamped "demo - not generated". Use it to try the skill, to rehearse a workflow, and in tests.

Examples:
    python3 scripts/demo_server.py
    python3 scripts/demo_server.py --port 0 --step-time 0.2
    python3 scripts/demo_server.py --models checkpoints=my_model.safetensors
    python3 scripts/demo_server.py --cloud --tier creator

One JSON line on stdout says when it listens and where. It runs until SIGTERM or Ctrl-C.

Exit codes: 0 ended, 2 wrong flags, 3 the port is taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyskill.base import cli, flags, text_files
from comfyskill.demo import model_lists, options

if TYPE_CHECKING:
    from comfyskill.demo.application import Demo


def make_parser() -> argparse.ArgumentParser:
    # Its --version is the one of the server that it simulates.
    parser = flags.parser(__doc__, own_version=False)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=flags.port, default=8188, help="0 takes a free one (default: %(default)s)"
    )
    parser.add_argument(
        "--version",
        choices=tuple(options.VERSIONS),
        default="0.33",
        help="the server version to simulate (default: %(default)s)",
    )
    parser.add_argument(
        "--step-time",
        type=float,
        default=0.02,
        metavar="SECONDS",
        help="time per sampler step (default: %(default)s)",
    )
    parser.add_argument(
        "--preview-method",
        choices=options.PREVIEW_METHODS,
        default="none",
        help="previews of samplers, unless a job asks for another method (default: %(default)s)",
    )
    parser.add_argument(
        "--models",
        action="append",
        default=[],
        metavar="FILE|FOLDER=NAMES",
        help="model lists: a JSON file, or FOLDER=name,name (repeatable)",
    )
    parser.add_argument(
        "--definitions",
        type=Path,
        metavar="FILE",
        help="more node definitions, as /object_info shows them (they are simulated)",
    )
    parser.add_argument("--output-dir", type=Path, help="default: a temporary folder, removed at the end")
    parser.add_argument("--input-dir", type=Path, help="default: a temporary folder, removed at the end")
    parser.add_argument(
        "--history-size", type=int, default=10_001, help="finished runs to keep (default: %(default)s)"
    )
    parser.add_argument("--max-upload-mb", type=float, help="largest request body (default: 100)")
    parser.add_argument("--cloud", action="store_true", help="simulate Comfy Cloud (v1 interface) instead")
    parser.add_argument(
        "--tier", choices=options.TIERS, default="standard", help="the cloud plan (default: %(default)s)"
    )
    parser.add_argument(
        "--api-key", help="the key that the simulated cloud accepts (default: comfyui-demo-key)"
    )
    parser.add_argument("--exit-with-parent", action="store_true", help="exit when standard input closes")
    return parser


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    return make_parser().parse_args(argv)


def read_options(args: argparse.Namespace) -> options.Options:
    """The options of the command line. Raises ValueError with a sentence."""
    return options.Options(
        host=args.host,
        port=args.port,
        version=args.version,
        preview_method=args.preview_method,
        step_time=args.step_time,
        models=model_lists.read_models(args.models),
        definitions=read_definitions(args.definitions),
        output_dir=args.output_dir,
        input_dir=args.input_dir,
        history_size=args.history_size,
        max_upload_mb=args.max_upload_mb or 100,
        max_upload_given=args.max_upload_mb is not None,
        cloud=args.cloud,
        tier=args.tier,
        api_key=args.api_key,
        exit_with_parent=args.exit_with_parent,
    )


def read_definitions(path: Path | None) -> dict[str, Any]:
    """Class type to definition. Raises ValueError with a sentence."""
    if path is None:
        return {}
    try:
        loaded = json.loads(text_files.read(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"--definitions {path}: not a readable JSON file ({error})") from error
    entries = loaded.values() if isinstance(loaded, dict) else [None]
    if not all(isinstance(entry, dict) and {"input", "output"} <= entry.keys() for entry in entries):
        raise ValueError(
            f"--definitions {path}: the file must hold an object of definitions, each with input and output"
        )
    return dict(loaded)


def serve(args: argparse.Namespace) -> cli.Document:
    """Serve until SIGTERM or Ctrl-C."""
    from comfyskill.demo import application

    return run(args, application.Demo)


def run(args: argparse.Namespace, make_demo: Callable[[options.Options], Demo]) -> cli.Document:
    """Serve what `make_demo` makes of the options, until SIGTERM or Ctrl-C."""
    import asyncio

    from comfyskill.demo import application

    try:
        chosen = read_options(args)
    except ValueError as error:
        raise cli.Misuse(
            str(error), hint="python3 scripts/demo_server.py --help lists all of them"
        ) from error
    try:
        asyncio.run(application.serve(make_demo, chosen))
    except OSError as error:
        raise cli.SkillError(
            f"cannot listen on {chosen.host}:{chosen.port}: {error.strerror or error}",
            code="port_taken",
            exit=cli.Exit.UNREACHABLE,
        ) from error
    except KeyboardInterrupt:
        pass
    return {"status": "ok"}


def show(_args: argparse.Namespace, document: Mapping[str, Any]) -> bool:
    """Print a failure on one line, as the line that says where the server listens; print nothing at its end."""
    return document["status"] == "ok" or cli.emit_line(document)


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, serve, argv, show=show)


if __name__ == "__main__":
    sys.exit(main())
