"""How every command ends: the exit code, the one JSON document, and the messages on stderr.

Knows nothing about servers or workflows; imports only the standard library.
"""

from __future__ import annotations

import enum
import errno
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from comfyskill.base import packages
from comfyskill.base.safe_text import clean, redact, shell_words

if TYPE_CHECKING:
    from sys import UnraisableHookArgs
    from types import TracebackType

# A JSON document, or a part of one, that this tool writes.
Document = dict[str, Any]
# What a command's `parse_args` returns.
Args = TypeVar("Args")

LINE = 110
INDENT = 2
A_MOMENT = 0.01


def compact(value: object) -> str:
    """All on one line. Raises ValueError for numbers that JSON cannot carry."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


def laid_out(value: object, depth: int = 0) -> str:
    """The value on lines of about `LINE` characters; the outermost members always have a line each."""
    if not isinstance(value, dict | list) or not value:
        return compact(value)
    margin = " " * (INDENT * (depth + 1))
    if isinstance(value, dict):
        left, right = "{", "}"
        parts = [f"{compact(key)}: {laid_out(item, depth + 1)}" for key, item in value.items()]
    else:
        left, right = "[", "]"
        parts = [laid_out(item, depth + 1) for item in value]
    broken = any("\n" in part for part in parts)
    if depth and not broken and sum(map(len, parts)) + 2 * len(parts) + len(margin) <= LINE:
        return f"{left}{', '.join(parts)}{right}"
    if depth:
        parts = _filled(parts, LINE - len(margin) - 1)
    inner = f",\n{margin}".join(parts)
    return f"{left}\n{margin}{inner}\n{margin[INDENT:]}{right}"


def _filled(parts: list[str], width: int) -> list[str]:
    """The members, as many on a line as fit; those that hold lists or objects keep lines of their own."""
    lines: list[str] = []
    whole = False
    for part in parts:
        simple = part[-1] not in "}]"
        if simple and whole and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
        whole = simple
    return lines


class Terminated(BaseException):
    """SIGTERM (or a closed terminal) arrived; not an Exception, so that no ordinary handler swallows it."""


def listen() -> None:
    """Raise Terminated in the main thread on SIGTERM, SIGHUP and (Windows) Ctrl-Break from now on."""
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        # A signal ignored by nohup stays ignored.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _terminate)


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated(number)


def say_again(dropped: UnraisableHookArgs) -> None:
    """For sys.unraisablehook: a signal is not lost where Python cannot raise.

    A finalizer or the callback of a weak reference (urllib3 closes its connections in one) drops what is raised in it,
    so a signal that arrived there is sent again a moment later.
    """
    if isinstance(dropped.exc_value, KeyboardInterrupt):
        number = int(signal.SIGINT)
    elif isinstance(dropped.exc_value, Terminated):
        number = dropped.exc_value.args[0]
    else:
        sys.__unraisablehook__(dropped)
        return
    import _thread

    _thread.start_new_thread(_send_later, (number, _thread.get_ident()))


def _send_later(number: int, main: int) -> None:
    import time

    time.sleep(A_MOMENT)
    if hasattr(signal, "pthread_kill"):
        # A real signal, because it also wakes a main thread that waits for the network.
        signal.pthread_kill(main, number)
    else:
        import _thread

        _thread.interrupt_main(signal.Signals(number))


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
    "would_be_rejected": Exit.REJECTED,
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
    """A failure with a known cause: one sentence, what to try, and the exit code.

    `details` become further keys of the JSON document; another's words belong under `server_said`.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
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

    def but(
        self,
        *,
        message: str | None = None,
        exit: Exit | None = None,
        hint: str | None = None,
        next: Sequence[str] = (),
        **details: object,
    ) -> SkillError:
        """A new error for the same failure with these parts replaced; raise it `from` this one."""
        return SkillError(
            message or self.message,
            code=self.code,
            exit=self.exit if exit is None else exit,
            hint=hint or self.hint,
            retryable=self.retryable,
            next=next or self.next,
            status=self.status,
            **self.details | details,
        )

    def document(self) -> Document:
        """The JSON document of this failure."""
        document: Document = {
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


class Misuse(SkillError):
    """A wrong call or an unusable input: exit 2, and nothing was sent."""

    def __init__(self, message: str, *, code: str = "misuse", **rest: Any) -> None:
        super().__init__(message, code=code, exit=Exit.MISUSE, **rest)


INTERRUPTED = {
    "status": "cancelled",
    "code": "interrupted",
    "message": "interrupted by the user",
    "retryable": True,
}


class Verbatim:
    """A value that is printed as it is (secrets still hidden): a graph that must stay exact."""

    def __init__(self, value: object) -> None:
        self.value = value


def _open_streams() -> None:
    """Python sets a closed standard stream to None; open devnull in its place instead of failing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123


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
        # stderr is closed; losing progress must not fail the job.
        pass


def _printable(value: object, verbatim: bool = False) -> object:
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


def emit(document: Mapping[str, object]) -> bool:
    """Print the one JSON document: ASCII, cleaned, redacted. False when it could not be written (a full disk)."""
    return write_out(_written(document, spread=True))


def emit_line(document: Mapping[str, object]) -> bool:
    """One JSON object on one line, for the commands that print JSON Lines."""
    return write_out(_written(document))


def _written(document: Mapping[str, object], *, spread: bool = False) -> str:
    """The document as JSON; a server's answer can be nested more deeply than anything can print."""
    try:
        printable = _printable(document)
        value = laid_out(printable) if spread else compact(printable)
    except RecursionError:
        short = SkillError("the answer is nested too deeply to be shown", code="bad_answer").document()
        value = compact(short | {"code": document.get("code") or "bad_answer"})
    return value + "\n"


def write_out(text: str) -> bool:
    """Write to stdout and flush; when the reader has closed the pipe, stop quietly. On a full disk warn and return False."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not _reader_has_gone(error):
            warn(f"the result could not be written to standard output: {error.strerror}")
            return False
    return True


def _reader_has_gone(error: OSError) -> bool:
    """A pipe that is closed at its other end; Windows calls that an invalid argument."""
    return isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL)


def exit_code(document: Mapping[str, object]) -> Exit:
    """The exit code of a report's `code`, else of its `status`."""
    by_code = EXIT_BY_CODE.get(str(document.get("code")))
    if by_code is not None:
        return by_code
    return EXIT_BY_STATUS.get(str(document.get("status")), Exit.FAILED)


def main(
    parse_args: Callable[[list[str] | None], Args],
    report: Callable[[Args], Mapping[str, object]],
    argv: list[str] | None = None,
    *,
    show: Callable[[Args, Mapping[str, object]], bool] | None = None,
) -> int:
    """Parse, call the report function, print its document (or its failure's) and return the exit code.

    The one place that changes the process: standard streams and hooks. `show` prints another way than `emit` does; it
    returns False when nothing could be written.
    """
    _open_streams()
    sys.excepthook = _uncaught
    sys.unraisablehook = say_again
    printed = emit

    def answer() -> Mapping[str, object]:
        nonlocal printed
        args = parse_args(argv)
        be_quiet(getattr(args, "quiet", False))
        if show is not None:
            printed = functools.partial(show, args)
        return report(args)

    document, code = outcome(answer)
    return int(code) if printed(document) else int(code or Exit.FAILED)


def outcome(report: Callable[[], Mapping[str, object]]) -> tuple[Mapping[str, object], Exit]:
    """A report function's document (or its failure's) and the exit code; whatever happens, it is one document."""
    try:
        document = report()
        code = exit_code(document)
    except SkillError as error:
        document, code = error.document(), error.exit
    except KeyboardInterrupt:
        document, code = INTERRUPTED, Exit.INTERRUPTED
    except Terminated:
        document = {
            "status": "cancelled",
            "code": "terminated",
            "message": "terminated by a signal before the end",
            "retryable": True,
        }
        code = Exit.FAILED
    except OSError as error:
        document, code = _os_failure(error).document(), Exit.FAILED
    except ModuleNotFoundError as error:
        document, code = missing_package(error), Exit.FAILED
    except RecursionError:
        document = Misuse(
            "the input is nested too deeply", hint="check the file: real workflows are flat"
        ).document()
        code = Exit.MISUSE
    except Exception as error:  # noqa: BLE001  (the last resort: stdout holds one JSON document whatever happens)
        document, code = fault(error).document(), Exit.FAILED
    return document, code


def missing_package(error: ModuleNotFoundError) -> Document:
    """A package that this command needs is not installed for this Python."""
    package = packages.PACKAGES.get((error.name or "").partition(".")[0])
    if package is None:
        return fault(error).document()
    return SkillError(
        f"this needs the Python package {package}, which is not installed for {sys.executable or 'this Python'}",
        code="missing_package",
        hint=f"run `next`, then use {packages.interpreter()}; or run the script with `uv run`, which needs no installation",
        next=[shell_words(words) for words in packages.install_commands()],
        package=package,
    ).document()


def fault(error: Exception) -> SkillError:
    """A fault of this tool, with its place in our code; COMFYUI_SKILL_DEBUG adds the traceback."""
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
    """A file-system failure in a sentence (disk full, no permission); also for errors that no caller expected."""
    where = f" ({error.filename})" if error.filename else ""
    return SkillError(
        f"the system reported: {error.strerror or error}{where}",
        code="system_error",
        hint="check the path, its permissions and the free space",
    )


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback as Python does, with keys hidden: for what happens while the document is printed."""
    import traceback

    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))
