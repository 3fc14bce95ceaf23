"""What every command shares: exit codes, the one JSON document, cleaned and redacted text, common flags.

Level 0: knows nothing of servers or workflows, imports the standard library alone.
"""

from __future__ import annotations

import argparse
import enum
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import _bytecode
import _json_text
import _places
from _signals import Terminated

_bytecode.keep_in(_places.cache_folder())

DEFAULT_HOST = "http://127.0.0.1:8188"
HIDDEN = "[hidden]"
# What `import NAME` of a missing package means to pip; the last three come with requests.
PACKAGES = {
    "requests": "requests", "websocket": "websocket-client", "tqdm": "tqdm", "PIL": "pillow", "aiohttp": "aiohttp",
    "urllib3": "requests", "certifi": "requests", "idna": "requests",
}  # fmt: skip
# Shorter values would blot out ordinary words wherever they happen to stand.
SHORTEST_SECRET = 4


class Exit(enum.IntEnum):
    """Exit codes, the same in every script."""

    DONE = 0
    FAILED = 1
    MISUSE = 2
    UNREACHABLE = 3
    REFUSED = 4
    RUNNING = 5
    REJECTED = 6
    UNSAFE = 7
    INTERRUPTED = 130


# A report's `code` decides first, then its `status`; anything else is a failure (1).
EXIT_BY_CODE = {
    "interrupted": Exit.INTERRUPTED,
    "misuse": Exit.MISUSE,
    "unreachable": Exit.UNREACHABLE,
    "refused": Exit.REFUSED,
    "still_running": Exit.RUNNING,
    "rejected": Exit.REJECTED,
    "consent_needed": Exit.UNSAFE,
}
EXIT_BY_STATUS = {
    "success": Exit.DONE,
    "ok": Exit.DONE,
    "submitted": Exit.DONE,
    "dry_run": Exit.DONE,
    "timeout": Exit.RUNNING,
    "running": Exit.RUNNING,
    "rejected": Exit.REJECTED,
    "unreachable": Exit.UNREACHABLE,
    "refused": Exit.REFUSED,
}


class SkillError(Exception):
    """A failure with a cause that is known: one sentence, what to try, and the exit code.

    `details` become further keys of the JSON document; another's words belong under `server_said`.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "misuse",
        exit: Exit | None = None,
        hint: str | None = None,
        retryable: bool = False,
        next: Sequence[str] = (),
        status: str = "error",
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.exit = exit if exit is not None else EXIT_BY_CODE.get(code, Exit.FAILED)
        self.hint = hint
        self.retryable = retryable
        self.next = list(next)
        self.status = status
        self.details = details

    def document(self) -> dict[str, Any]:
        """The JSON document of this failure."""
        document: dict[str, Any] = {
            "status": self.status,
            "code": self.code,
            "message": self.message,
            "retryable": self.retryable,
        }
        if self.hint:
            document["hint"] = self.hint
        if self.next:
            document["next"] = self.next
        return document | self.details


class Verbatim:
    """A value that is printed as it is (secrets still hidden): a graph that must stay exact."""

    def __init__(self, value: Any) -> None:
        self.value = value


_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[@-Z\\-_])"
)
# C0 and C1 controls but tab and newline, bidirectional controls, line separators, lone surrogates, tag characters.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)

_secrets: list[str] = []


def _open_streams() -> None:
    """A closed stream is None in Python; then nobody listens, which is no reason to fail."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123


_open_streams()


def hide(secret: str | None) -> None:
    """Register a secret: from now on no output of this process shows it, plain, quoted or in base64."""
    if not secret or len(secret) < SHORTEST_SECRET:
        return
    from base64 import b64encode
    from urllib.parse import quote, quote_plus

    raw = secret.encode("utf-8", "surrogatepass")
    forms = {
        secret,
        quote(secret, safe="", errors="replace"),
        quote_plus(secret, errors="replace"),
        b64encode(raw).decode(),
    }
    forms.add(json.dumps(secret)[1:-1])
    for form in forms:
        if form not in _secrets:
            _secrets.append(form)
    _secrets.sort(key=len, reverse=True)


def redact(text: str) -> str:
    """The text with every registered secret replaced."""
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def clean(text: object, limit: int | None = None) -> str:
    """Another's text made safe to show: no control, escape or bidirectional characters, at most `limit` long."""
    plain = str(text)
    if not plain.isascii():
        plain = _readable(plain)
    plain = _UNSAFE.sub("", _ESCAPES.sub("", plain.replace("\r\n", "\n")))
    if limit is not None and len(plain) > limit:
        return f"{plain[:limit]}… (+{len(plain) - limit} characters)"
    return plain


def _readable(text: str) -> str:
    """A path that Python read as bytes (a plain C locale) as the text it is."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return text


def clean_tree(value: Any, limit: int | None = None) -> Any:
    """A JSON value with every string in it cleaned."""
    if isinstance(value, str):
        return clean(value, limit)
    if isinstance(value, Mapping):
        return {clean(key, limit): clean_tree(item, limit) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_tree(item, limit) for item in value]
    return value


def cap(items: Sequence[Any], limit: int) -> dict[str, Any]:
    """A long list for the JSON document: true count, the first `limit` items and how many are left out."""
    capped: dict[str, Any] = {"count": len(items), "items": list(items[:limit])}
    if len(items) > limit:
        capped["more"] = len(items) - limit
    return capped


def shell_words(words: Iterable[object]) -> str:
    """A command line that can be copied into a shell of this system as it stands."""
    plain = [str(word) for word in words]
    if os.name == "nt":
        import subprocess

        return subprocess.list2cmdline(plain)
    import shlex

    return shlex.join(plain)


_quiet = False


def be_quiet(quiet: bool = True) -> None:
    """Silence `note`; warnings still come through."""
    global _quiet
    _quiet = quiet


def note(text: str) -> None:
    """One line of progress on stderr; nothing with --quiet."""
    if not _quiet:
        _stderr(text)


def warn(text: str) -> None:
    """One line on stderr that is shown even with --quiet."""
    _stderr(text)


def _stderr(text: str) -> None:
    # A server's text of several lines would look like several of ours.
    line = " ".join(redact(clean(text)).split("\n"))
    encoding = getattr(sys.stderr, "encoding", None) or "ascii"
    try:
        sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        # Nobody reads progress any more: the job matters more than the words about it.
        pass


def _printable(value: Any, verbatim: bool = False) -> Any:
    if isinstance(value, Verbatim):
        return _printable(value.value, verbatim=True)
    if isinstance(value, str):
        return redact(value if verbatim else clean(value))
    if isinstance(value, Mapping):
        return {redact(clean(key)): _printable(item, verbatim) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_printable(item, verbatim) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return redact(clean(value))


def emit(document: Mapping[str, Any]) -> bool:
    """Print the one JSON document: ASCII, cleaned, redacted. False when it could not be written (a full disk)."""
    return write_out(_written(document, spread=True))


def emit_line(document: Mapping[str, Any]) -> bool:
    """One JSON object on one line, for the commands that print JSON Lines."""
    return write_out(_written(document))


def _written(document: Mapping[str, Any], *, spread: bool = False) -> str:
    """The document as JSON; a server's answer can be nested more deeply than anything can print."""
    try:
        printable = _printable(document)
        value = _json_text.laid_out(printable) if spread else _json_text.compact(printable)
    except RecursionError:
        short = SkillError("the answer is nested too deeply to be shown", code="bad_answer").document()
        value = _json_text.compact(short | {"code": document.get("code") or "bad_answer"})
    return value + "\n"


def write_out(text: str) -> bool:
    """Write to stdout and flush; when the reader has gone, stop writing quietly. A full disk is False, and said."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            warn(f"the result could not be written to standard output: {error.strerror}")
            return False
    return True


def exit_code(document: Mapping[str, Any]) -> Exit:
    """The exit code that a report's `code`, else its `status`, stands for."""
    by_code = EXIT_BY_CODE.get(str(document.get("code")))
    if by_code is not None:
        return by_code
    return EXIT_BY_STATUS.get(str(document.get("status")), Exit.FAILED)


def run(report: Callable[..., Mapping[str, Any]], *args: Any, as_line: bool = False, **kwargs: Any) -> int:
    """Call a report function, print its document (or its failure's) and return the exit code.

    `as_line`: the document is the last of several JSON Lines.
    """
    document, code = outcome(report, *args, **kwargs)
    written = emit_line({"type": "result", **document}) if as_line else emit(document)
    return int(code) if written else int(code or Exit.FAILED)


def outcome(
    report: Callable[..., Mapping[str, Any]], *args: Any, **kwargs: Any
) -> tuple[Mapping[str, Any], Exit]:
    """A report function's document (or its failure's) and the exit code; whatever happens, it is one document."""
    try:
        document = report(*args, **kwargs)
        code = exit_code(document)
    except SkillError as error:
        document, code = error.document(), error.exit
    except KeyboardInterrupt:
        document = {
            "status": "cancelled",
            "code": "interrupted",
            "message": "interrupted by the user",
            "retryable": True,
        }
        code = Exit.INTERRUPTED
    except Terminated:
        document = {
            "status": "cancelled",
            "code": "terminated",
            "message": "told to stop before the end",
            "retryable": True,
        }
        code = Exit.FAILED
    except OSError as error:
        document, code = _os_failure(error).document(), Exit.FAILED
    except ModuleNotFoundError as error:
        document, code = missing_package(error), Exit.FAILED
    except RecursionError:
        document = SkillError(
            "the input is nested too deeply", hint="check the file: real workflows are flat"
        ).document()
        code = Exit.MISUSE
    except Exception as error:  # noqa: BLE001  (the last resort: stdout holds one JSON document whatever happens)
        document, code = fault(error).document(), Exit.FAILED
    return document, code


def missing_package(error: ModuleNotFoundError) -> dict[str, Any]:
    """A package that this command needs is not installed for this Python."""
    package = PACKAGES.get((error.name or "").partition(".")[0])
    if package is None:
        return fault(error).document()
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    listed = os.path.join(os.path.dirname(here), "requirements.txt")  # noqa: PTH118, PTH120
    wanted = ["-r", listed] if os.path.exists(listed) else [package]  # noqa: PTH110
    return SkillError(
        f"this needs the Python package {package}, which is not installed for {sys.executable or 'this Python'}",
        code="missing_package",
        hint="python3 -m pip install -r requirements.txt (or run the script with `uv run`, which brings them along)",
        next=[shell_words([sys.executable or "python3", "-m", "pip", "install", *wanted])],
        package=package,
    ).document()


def fault(error: Exception) -> SkillError:
    """A fault of this tool, with the place in our own code; the traceback itself only for those who ask for it."""
    import traceback

    if os.environ.get("COMFYUI_SKILL_DEBUG"):
        sys.stderr.write(redact("".join(traceback.format_exception(error))))
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "unknown place"  # noqa: PTH119
    return SkillError(
        f"a fault in this tool ({type(error).__name__} at {where})",
        code="internal_error",
        hint="please report it; COMFYUI_SKILL_DEBUG=1 shows the traceback",
    )


def _os_failure(error: OSError) -> SkillError:
    """A file-system failure in a sentence (disk full, no permission); anything we missed is still no traceback."""
    where = f" ({error.filename})" if error.filename else ""
    return SkillError(
        f"the system said: {error.strerror or error}{where}",
        code="system_error",
        hint="check the path, its permissions and the free space",
    )


# What people try as flags; in ComfyUI they are inputs of nodes.
COMMON_INPUTS = frozenset(
    "prompt negative-prompt negative_prompt seed steps cfg width height size denoise sampler scheduler image model "
    "checkpoint batch-size batch_size length fps".split()
)
_SECRET_FLAG = re.compile(
    r"(?<!\S)(-[\w-]*(?:key|token|secret|passw|header|auth|cookie)[\w-]*)[= ]+(?!-).+", re.I
)


class _Parser(argparse.ArgumentParser):
    """Misuse is answered like every other failure: one JSON document, exit 2."""

    def error(self, message: str) -> NoReturn:
        # `--apikey VALUE`: the slip must not print the key.
        message = _SECRET_FLAG.sub(rf"\1 {HIDDEN}", message)
        emit(SkillError(message, hint=self._way_out(message)).document())
        self.exit(Exit.MISUSE)

    def _way_out(self, message: str) -> str:
        """What was probably meant; the usage line of a big command helps nobody."""
        import difflib

        flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
        given = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        if given and "--set" in flags and given[1][2:] in COMMON_INPUTS:
            return f"workflow inputs are set with --set {given[1][2:].replace('-', '_')}=VALUE"
        near = difflib.get_close_matches(given[1], flags, 3, 0.6) if given else []
        if near:
            return f"did you mean {' or '.join(near)}? (see --help)"
        usage = " ".join(self.format_usage().split())
        return f"{usage}  (see --help)" if len(usage) < 160 else f"{self.prog} --help tells all flags"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring and whose errors are JSON."""
    return _Parser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)


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


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not least <= value < 10**12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return value


def add_server_flags(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """The flags that say which server and with which credentials."""
    group = parser.add_argument_group("server")
    host_help = "address, 'cloud' for Comfy Cloud, or 'demo' for the built-in demo server"
    host_help += f" (default: $COMFY_HOST, else {DEFAULT_HOST})"
    if several:
        group.add_argument("--host", action="append", help=host_help + "; repeat for several servers")
    else:
        group.add_argument("--host", help=host_help)
    group.add_argument(
        "--api",
        choices=["auto", "local", "cloud", "v2"],
        default="auto",
        help="protocol (default: found out)",
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
        help="send this header to this server only (repeatable)",
    )
    group.add_argument("--ca-bundle", metavar="FILE", help="certificate authorities to trust, as PEM")
    group.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")


def add_quiet_flag(parser: argparse.ArgumentParser) -> None:
    """--quiet: no progress on stderr."""
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr (warnings stay)")
