"""The parser of every command, and the flags that they share."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING, NoReturn

from comfyskill import __version__
from comfyskill.base.cli import Exit, Misuse, emit
from comfyskill.base.safe_text import HIDDEN

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

DEFAULT_HOST = "http://127.0.0.1:8188"
# Names that people try as flags; in ComfyUI they are inputs of nodes.
COMMON_INPUTS = frozenset(
    "prompt negative-prompt negative_prompt seed steps cfg width height size denoise sampler scheduler image model "
    "checkpoint batch-size batch_size length fps".split()
)
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SECRET_FLAG = re.compile(
    r"(?<!\S)(-[\w-]*(?:key|token|secret|passw|header|auth|cookie)[\w-]*)[= ]+(?!-).+", re.I
)


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports misuse as one JSON document, exit 2."""

    def error(self, message: str) -> NoReturn:
        # `--apikey VALUE`: the slip must not print the key.
        message = _SECRET_FLAG.sub(rf"\1 {HIDDEN}", message)
        emit(Misuse(message, hint=self._way_out(message)).document())
        self.exit(Exit.MISUSE)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """Print the help even if the console's encoding lacks some of its characters (cp437, ASCII)."""
        stream = file or sys.stderr
        encoding = getattr(stream, "encoding", None) or "ascii"
        super()._print_message(message.encode(encoding, "replace").decode(encoding), stream)

    def _way_out(self, message: str) -> str:
        """What was probably meant; the usage line of a big command is too long to help."""
        import difflib

        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        given = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        if given and "--set" in flags and given[1][2:] in COMMON_INPUTS:
            return f"workflow inputs are set with --set {given[1][2:].replace('-', '_')}=VALUE"
        near = difflib.get_close_matches(given[1], flags, 3, 0.6) if given else []
        if near:
            return f"did you mean {' or '.join(near)}? (see --help)"
        usage = " ".join(self.format_usage().split())
        return f"{usage}  (see --help)" if len(usage) < 160 else f"run {self.prog} --help for all flags"


def parser(doc: str | None, *, own_version: bool = True) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring and whose errors are JSON.

    `own_version`: --version prints this skill's version.
    """
    made = _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    if own_version:
        made.add_argument("--version", action="version", version=f"comfyui-skill {__version__}")
    return made


def configured_host() -> str | None:
    """The address that $COMFY_HOST names, or None. Raises Misuse when it is set to nothing."""
    host = os.environ.get("COMFY_HOST")
    if host is not None and not host.strip():
        raise Misuse("COMFY_HOST is empty", hint="set it to an address, or unset it for the default")
    return host


def address(text: str) -> str:
    """A server's address, as an argparse type: an empty one is an unset variable, not the default server."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"the address is empty; omit --host for {DEFAULT_HOST}")
    return text


def port(text: str) -> int:
    """A port number, as an argparse type; 0 takes a free one."""
    value = natural(text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")
    return value


def seconds(text: str) -> float:
    """A positive number of seconds, as an argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def count(text: str) -> int:
    """A whole number from 1 on, as an argparse type."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """A whole number from 0 on, as an argparse type."""
    return _whole(text, 0)


def size(text: str) -> int:
    """A number of bytes, written as 500MB or 20GB, as an argparse type."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([KMGT]?B)?", text.strip().upper())
    value = int(float(match[1]) * _BYTES[match[2] or "B"]) if match else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB or 20GB")
    return value


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not least <= value < 10**12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return value


def add_inventory_flag(parser: argparse._ArgumentGroup) -> None:
    """--inventory for commands that otherwise run something; `refuse_inventory_alone` goes with it."""
    parser.add_argument(
        "--inventory",
        metavar="FILE",
        help="with --dry-run: use a file of check_deps.py --save-inventory instead of a server",
    )


def refuse_inventory_alone(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Misuse: an inventory replaces a server and cannot run anything."""
    if args.inventory and not args.dry_run:
        parser.error("an inventory cannot run anything: use --inventory with --dry-run")
    if args.inventory and args.host:
        parser.error("--inventory and --host exclude each other")


def add_server_flags(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """The flags that say which server and with which credentials."""
    group = parser.add_argument_group("server")
    host_help = "address, 'cloud' for Comfy Cloud, or 'demo' for the built-in demo server"
    host_help += f" (default: $COMFY_HOST, else {DEFAULT_HOST})"
    if several:
        group.add_argument(
            "--host",
            action="append",
            type=address,
            help=host_help + "; repeat for several servers, or @FILE with one a line",
        )
    else:
        group.add_argument("--host", type=address, help=host_help)
    group.add_argument(
        "--api",
        choices=["auto", "local", "cloud", "v2"],
        default="auto",
        help="protocol (default: auto-detected)",
    )
    group.add_argument(
        "--api-key", metavar="KEY", help="key for this server; prefer --api-key-file or the environment"
    )
    group.add_argument("--api-key-file", metavar="FILE", help="read the key from the first line of FILE")
    group.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="send this header to this server only (repeatable); 'NAME: @FILE' reads the value from FILE",
    )
    group.add_argument("--ca-bundle", metavar="FILE", help="certificate authorities to trust, as PEM")
    group.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")


def add_file_size_flag(parser: argparse._ActionsContainer, usual: str = "16GB") -> None:
    """--max-file-size: `file_limits.allow` takes its value."""
    parser.add_argument(
        "--max-file-size",
        type=size,
        metavar="SIZE",
        help=f"refuse larger files, such as 500MB or 40GB (default: {usual})",
    )


def add_unsure_flag(parser: argparse._ActionsContainer) -> None:
    """--allow-unsure, for commands that convert editor files."""
    parser.add_argument(
        "--allow-unsure",
        action="store_true",
        help="convert nodes even if the layout of their saved values is uncertain, as the editor would, with a warning",
    )


def add_quiet_flag(parser: argparse.ArgumentParser) -> None:
    """--quiet: no progress on stderr."""
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr (warnings stay)")
