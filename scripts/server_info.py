#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "pillow>=10.1,<13", "aiohttp>=3.9,<4"]
# ///
"""Ask a server what it is, what it has and what it can do; save its workflows, send and fetch files.

Lists are short by default, with full counts; --full lists everything. Works with a local server, Comfy Cloud and API v2
servers; what a server does not offer gets the code `not_offered`.

Examples:
    python3 scripts/server_info.py stats
    python3 scripts/server_info.py features --host https://cloud.comfy.org
    python3 scripts/server_info.py nodes --search upscale --output IMAGE
    python3 scripts/server_info.py node KSampler
    python3 scripts/server_info.py models checkpoints --search xl
    python3 scripts/server_info.py node KSampler --inventory server.json
    python3 scripts/server_info.py template flux_schnell --save flux.json
    python3 scripts/server_info.py subgraphs --search upscale
    python3 scripts/server_info.py upload photo.png
    python3 scripts/server_info.py upload mask.png --mask --original 'photo.png [input]'
    python3 scripts/server_info.py download ComfyUI_00001_.png --output-dir out

Exit codes: 0 answered, 1 not on the server, 2 misuse, 3 unreachable, 4 refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from comfyskill.base import cli, flags
from comfyskill.base.cli import Document

if TYPE_CHECKING:
    from comfyskill.server.facts import Facts
    from comfyskill.server.protocol import Dialect

SEARCHED = {
    "models": "model folders, or the names in one",
    "embeddings": "textual inversions",
    "extensions": "node packs with scripts for the editor",
    "templates": "workflow templates",
    "subgraphs": "subgraph blueprints: ready-made parts of workflows",
    "workflows": "workflows saved on the server",
}
# What an inventory can answer.
FROM_INVENTORY = ("stats", "nodes", "node", "models", "embeddings", "suggest")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = flags.parser(__doc__)
    questions = parser.add_subparsers(dest="question", required=True, metavar="QUESTION")

    def question(name: str, what: str, *, full: bool = True) -> argparse.ArgumentParser:
        added = questions.add_parser(
            name,
            help=what,
            description=what,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if full:
            added.add_argument("--full", action="store_true", help="list everything")
        return added

    question("stats", "version, device, memory, queue")
    question("features", "what this server can do, and which routes the scripts use", full=False)
    nodes = question("nodes", "find node classes")
    nodes.add_argument(
        "--search",
        metavar="TEXT",
        help="only classes with these words in name, title, category or description",
    )
    nodes.add_argument("--category", metavar="C", help="only classes in this category, or part of its path")
    nodes.add_argument("--output", metavar="TYPE", help="only classes that output this type, such as IMAGE")
    nodes.add_argument("--input", metavar="TYPE", help="only classes that accept this type, such as LATENT")
    question("node", "inputs, ranges and allowed values of one class").add_argument("name", metavar="CLASS")
    for name, what in SEARCHED.items():
        listed = question(name, what)
        if name == "models":
            listed.add_argument("folder", nargs="?", metavar="FOLDER", help="such as checkpoints or loras")
        listed.add_argument("--search", metavar="TEXT", help="only names that contain these words")
    for name in ("template", "workflow", "subgraph"):
        one = question(name, f"show one {name}, or save it", full=False)
        one.add_argument("name", metavar="NAME")
        one.add_argument("--save", type=Path, metavar="FILE", help="write it here")
        one.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    suited = question(
        "suggest",
        "bundled workflows; those that can run on this server and fit its memory come first",
        full=False,
    )
    suited.add_argument(
        "--kind", choices=["image", "video", "audio", "3d"], help="only workflows that make this"
    )
    for name in FROM_INVENTORY:
        questions.choices[name].add_argument(
            "--inventory", metavar="FILE", help="ask a file of check_deps.py --save-inventory"
        )
    _add_file_questions(question)
    flags.add_server_flags(parser)
    flags.add_quiet_flag(parser)
    for added in questions.choices.values():
        _repeat_flags(added)
    args = parser.parse_args(argv)
    if getattr(args, "inventory", None) and args.host:
        parser.error("--inventory and --host exclude each other")
    return args


def _repeat_flags(question: argparse.ArgumentParser) -> None:
    """The server flags after the question, too; one that is not given there must not undo one given before."""
    own = set(question._actions)
    flags.add_server_flags(question)
    flags.add_quiet_flag(question)
    for action in question._actions:
        if action not in own:
            action.default = argparse.SUPPRESS


def _add_file_questions(question: Callable[..., argparse.ArgumentParser]) -> None:
    upload = question("upload", "send files to the server's input folder", full=False)
    upload.add_argument("files", nargs="+", type=Path, metavar="FILE")
    upload.add_argument("--mask", action="store_true", help="the file's alpha is a mask for --original")
    upload.add_argument("--original", metavar="REF", help="the mask's picture: 'folder/name.png [input]'")
    upload.add_argument("--subfolder", default="", metavar="PATH", help="folder on the server")
    upload.add_argument("--overwrite", action="store_true", help="replace a file of that name")
    download = question("download", "fetch one file by name", full=False)
    download.add_argument("name", metavar="FILENAME")
    download.add_argument(
        "--type", choices=["output", "input", "temp"], default="output", help="(default: output)"
    )
    download.add_argument("--subfolder", default="", metavar="PATH", help="its folder on the server")
    download.add_argument(
        "--output-dir", type=Path, default=Path(), metavar="DIR", help="where to save (default: here)"
    )
    download.add_argument("--overwrite", action="store_true", help="replace a file of that name")
    flags.add_file_size_flag(download)


def answer(args: argparse.Namespace) -> Document:
    """The report this script prints."""
    from comfyskill.info import files
    from comfyskill.info import questions as ask

    if args.question in FROM_INVENTORY:
        return _known(args, _facts(args))
    from comfyskill.server import connect

    server = connect.connect_from(args)
    if args.question == "features":
        return ask.features(server)
    if args.question == "workflows":
        return ask.saved_workflows(server, text=args.search, full=args.full)
    if args.question in ("template", "workflow", "subgraph"):
        return files.workflow(server, args.question, args.name, args.save, overwrite=args.overwrite)
    if args.question == "upload":
        return _upload(args, server)
    if args.question == "download":
        return _download(args, server)
    lists = {"extensions": ask.extensions, "templates": ask.templates, "subgraphs": ask.subgraphs}
    return lists[args.question](server, text=args.search, full=args.full)


def _facts(args: argparse.Namespace) -> Facts:
    """The inventory that is named, else the server."""
    if args.inventory:
        from comfyskill.server import facts

        return facts.load(args.inventory)
    from comfyskill.server import connect

    return connect.connect_from(args)


def _known(args: argparse.Namespace, server: Facts) -> Document:
    """The answer to a question that an inventory can answer, too."""
    from comfyskill.info import questions as ask

    if args.question == "suggest":
        from comfyskill.info import suggest

        return suggest.suggest(server, kind=args.kind)
    if args.question == "nodes":
        return ask.nodes(
            server,
            text=args.search,
            category=args.category,
            output=args.output,
            takes=args.input,
            full=args.full,
        )
    if args.question == "node":
        return ask.node(server, args.name, full=args.full)
    if args.question == "models":
        return ask.models(server, args.folder, text=args.search, full=args.full)
    if args.question == "embeddings":
        return ask.embeddings(server, text=args.search, full=args.full)
    return ask.stats(server, full=args.full)


def _upload(args: argparse.Namespace, server: Dialect) -> Document:
    from comfyskill.info import files
    from comfyskill.run import prepare

    return files.upload(
        server,
        args.files,
        mask=args.mask,
        original=prepare.annotated(args.original) if args.original else None,
        subfolder=args.subfolder,
        overwrite=args.overwrite,
    )


def _download(args: argparse.Namespace, server: Dialect) -> Document:
    from comfyskill.base import file_limits
    from comfyskill.info import files
    from comfyskill.server.protocol import FileRef

    file_limits.allow(args.max_file_size)
    ref = FileRef(args.name, args.subfolder, args.type)
    return files.download(server, ref, args.output_dir, overwrite=args.overwrite)


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, answer, argv)


if __name__ == "__main__":
    sys.exit(main())
