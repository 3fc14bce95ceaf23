"""One model file from an address to a disk: allowed hosts, resumed, checked, whole under its name or not there. Level 3.

What arrives lies under `NAME.part` with a note of where it came from, and gets its name when its size, its hash (the
declared one, and the one that huggingface.co states for large files) and its form are right.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from comfyskill.base import cli, file_limits, safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.deps import file_check, hosts, origin, report
from comfyskill.deps.fetch_part import Part, Wanted, refuse_existing, stated_hash
from comfyskill.deps.hosts import AllowedHosts
from comfyskill.server import transport

if TYPE_CHECKING:
    import requests

    from comfyskill.server.session import SecureSession

PIECE = 1 << 20
ATTEMPTS = 5
TIMEOUT = (15.0, 60.0)


class Facts(NamedTuple):
    """What can be learnt of a file without downloading it. gate: why it is not given out, None when nothing says so."""

    bytes: int | None = None
    sha256: str | None = None
    gate: str | None = None
    problem: str | None = None


class Fetched(NamedTuple):
    """A file that is whole and in place. checked: what was compared (`sha256`, `size`, `form`)."""

    path: Path
    bytes: int
    sha256: str
    checked: tuple[str, ...]
    resumed_at: int = 0


def look(url: str, allowed: AllowedHosts, timeout: float = 10.0) -> Facts:
    """Size, hash and gate of a file, as far as its host says; never raises for what the host does."""
    import requests

    reason = allowed.refusal(url)
    if reason is not None:
        return Facts(problem=reason)
    with hosts.session_for(url, allowed) as session:
        try:
            response = session.head(url, allow_redirects=True, timeout=(min(timeout, 10.0), timeout))
        except requests.RequestException as error:
            return Facts(problem=safe_text.clean(_network_words(error), 200))
        if response.status_code in (401, 403):
            return Facts(gate=_gate(url, response.status_code).message)
        if response.status_code >= 400:
            return Facts(problem=f"its host answers HTTP {response.status_code}")
        return Facts(_stated_size(response), stated_hash(response))


def fetch(wanted: Wanted, allowed: AllowedHosts) -> Fetched:
    """Download one file, going on where an earlier try ended.

    Raises:
        SkillError: `consent_needed` (7) for a host or file type that wants a flag, `refused` (4) for a gate,
            `already_there`, `disk_full`, `corrupt`, `unreachable` (3), `not_found`.
    """
    hosts.require(allowed, wanted.url)
    if report.may_run_code(wanted.target.name) and not wanted.allow_pickle:
        raise SkillError(
            f"{wanted.target.name} is of a type that can run code when it is loaded", code="consent_needed",
            exit=Exit.UNSAFE, hint="look for a .safetensors file; if you trust the source, add --allow-pickle",
        )  # fmt: skip
    refuse_existing(wanted.target)
    wanted.target.parent.mkdir(parents=True, exist_ok=True)
    part = Part(wanted)
    with hosts.session_for(wanted.url, allowed) as session:
        with part.opened():
            resumed_at = part.size
            _transfer(session, wanted, part)
            checked = _checked(wanted, part)
            # Under the lock where there is one; Windows renames no open file.
            if os.name != "nt":
                part.take_name()
        if os.name == "nt":
            part.take_name()
    return Fetched(wanted.target, part.size, part.digest.hexdigest(), checked, resumed_at)


def _transfer(session: SecureSession, wanted: Wanted, part: Part) -> None:
    """Bring the part to its full size; a broken connection goes on from the last byte, as long as bytes arrive."""
    failures, furthest = 0, part.size
    while True:
        try:
            if _one_answer(session, wanted, part):
                return
            why = "the connection broke"
        except _Again as again:
            why = str(again)
        failures = 0 if part.size > furthest else failures + 1
        furthest = max(furthest, part.size)
        if failures >= ATTEMPTS:
            part.flush()
            raise SkillError(
                f"{hosts.shown(wanted.url)}: {why}", code="unreachable", retryable=True,
                hint="run it again: it goes on where it stopped",
            )  # fmt: skip
        time.sleep(transport.pause_before(failures + 1))


class _Again(Exception):
    """This answer was of no use, but another try may be."""


def _one_answer(session: SecureSession, wanted: Wanted, part: Part) -> bool:
    """Ask for the rest and take in what comes. True when the file is whole."""
    import requests

    headers = {}
    if part.size and part.etag:
        headers = {"Range": f"bytes={part.size}-", "If-Range": part.etag}
    try:
        response = session.get(wanted.url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise _failure(error, wanted.url) from error
    with response:
        _accept(response, wanted, part)
        if part.total is not None and part.size == part.total:
            return True
        _check_space(wanted.target.parent, part)
        try:
            _take_in(response, wanted, part)
        except (requests.RequestException, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
                raise
            return False
    if part.total is None:
        return True
    if part.size > part.total:
        part.drop()
        raise SkillError(
            "more bytes arrived than were announced", code="corrupt", exit=Exit.FAILED, retryable=True
        )
    return part.size == part.total


def _accept(response: requests.Response, wanted: Wanted, part: Part) -> None:
    """Judge an answer's head: where its bytes belong, or why there are none."""
    status = response.status_code
    if status == 416:
        part.restart()
        raise _Again("the server did not give the rest")
    if status in (401, 403):
        raise _gate(wanted.url, status)
    if status in transport.RETRIED_STATUSES:
        raise _Again(f"its host answers HTTP {status}")
    if status >= 400:
        raise SkillError(
            f"{hosts.shown(wanted.url)} answers HTTP {status}",
            code="not_found" if status in (404, 410) else "download_failed", exit=Exit.FAILED,
            hint="the file may have moved: look at its page",
        )  # fmt: skip
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise SkillError(
            f"{hosts.shown(wanted.url)} answers with a web page instead of the file", code="not_a_file",
            exit=Exit.FAILED, hint="it may want a login, or the address is that of a page about the file",
        )  # fmt: skip
    file_limits.refuse_packed(response.headers)
    if status == 206:
        start, total = _range_of(response)
        if start != part.size:
            part.restart()
            raise _Again("the server sent another part than asked for")
        etag = response.headers.get("ETag", "").removeprefix("W/")
        if part.size and ((etag and etag != part.etag) or (total and part.total not in (None, total))):
            # It should have sent the whole new file (If-Range); two halves of two files make none.
            part.restart()
            raise _Again("the file has changed meanwhile")
        part.total = total if total is not None else part.total
    else:
        part.restart()
        part.total = file_limits.number_in(response.headers.get("Content-Length"))
    part.remember(response)


def _range_of(response: requests.Response) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if match is None:
        return None, None
    return file_limits.number_in(match.group(1)), file_limits.number_in(match.group(3))


def _check_space(folder: Path, part: Part) -> None:
    file_limits.refuse_too_large(max(part.size, part.total or 0), file_limits.MOST_MODEL_BYTES)
    left = part.total - part.size if part.total is not None else 0
    file_limits.require(
        folder, left + file_limits.SPARE_BYTES, "free some space, or give another --models-dir"
    )


def _take_in(response: requests.Response, wanted: Wanted, part: Part) -> None:
    said = time.monotonic()
    for count, piece in enumerate(_pieces(response)):
        if part.size == 0:
            wrong = file_check.wrong_start(wanted.target.name, piece)
            if wrong:
                part.drop()
                raise _corrupt(wanted, wrong)
        part.add(piece)
        if count % 16 == 15:
            _check_space(wanted.target.parent, part)
        if time.monotonic() - said > 2.0:
            said = time.monotonic()
            of = f" of {part.total / 1e6:.0f}" if part.total else ""
            cli.note(f"{wanted.target.name}: {part.size / 1e6:.0f}{of} MB")


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """Pieces of the body; a body that is cut short ends in requests' own exceptions."""
    return response.iter_content(PIECE)


def _checked(wanted: Wanted, part: Part) -> tuple[str, ...]:
    """What was compared of a file that has arrived. Raises SkillError `corrupt` when it is not what it should be."""
    part.flush()
    digest = part.digest.hexdigest()
    checked = ["size"] if part.total is not None else []
    for expected in (wanted.sha256, part.stated_sha256):
        if expected and expected != digest:
            part.drop()
            raise _corrupt(wanted, f"its SHA-256 is {digest} and should be {expected}")
        if expected and "sha256" not in checked:
            checked.append("sha256")
    wrong = file_check.problem(part.path, wanted.target.name)
    if wrong:
        part.drop()
        raise _corrupt(wanted, wrong)
    return (*checked, "form")


def _corrupt(wanted: Wanted, why: str) -> SkillError:
    return SkillError(
        f"what {hosts.shown(wanted.url)} gave is not usable: {why}; it was not kept",
        code="corrupt", exit=Exit.FAILED, hint="try again; if it stays so, look at the file's page",
    )  # fmt: skip


def _failure(error: requests.RequestException, url: str) -> Exception:
    import requests

    from comfyskill.server.session import RefusedRedirect, UnaskedCoding

    if isinstance(error, RefusedRedirect):
        return SkillError(
            f"refused to follow {hosts.shown(url)}: {error}", code="unsafe_redirect", exit=Exit.UNSAFE,
            hint="if you trust that host, add --allow-host with its name",
        )  # fmt: skip
    if isinstance(error, UnaskedCoding):
        return SkillError(
            f"{hosts.shown(url)} sends the file compressed, although that was not asked for",
            code="download_failed",
            exit=Exit.FAILED,
            hint="a proxy may stand between; else download it by hand from its page",
        )
    if isinstance(error, requests.TooManyRedirects):
        return SkillError(f"{hosts.shown(url)} redirects in circles", code="redirect_loop", exit=Exit.FAILED)
    if isinstance(error, requests.exceptions.SSLError):
        return SkillError(
            f"the certificate of {hosts.shown(url)} was not accepted", code="unreachable",
            hint="a proxy may stand between: set REQUESTS_CA_BUNDLE to its authority's file",
        )  # fmt: skip
    return _Again(_network_words(error))


def _network_words(error: requests.RequestException) -> str:
    import requests

    from comfyskill.server.session import RefusedRedirect

    if isinstance(error, RefusedRedirect):
        return str(error)
    if isinstance(error, requests.Timeout):
        return "its host did not answer in time"
    return "its host could not be reached"


def _gate(url: str, status: int) -> SkillError:
    """A 401 or 403 in words: licence to accept, token to set, or a token that is not good enough."""
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    variables = hosts.token_variables(host)
    given = hosts.token_for(url) is not None
    page = origin.hugging_face_page(url)
    message = f"{hosts.shown(url)} is not given out {'to this token' if given else 'without a login'} (HTTP {status})"
    if not variables:
        hint = "download it by hand from its page"
    elif given:
        hint = f"accept its terms at {page or 'its page'} with the account of the token in {variables[0]}"
    else:
        hint = f"accept its terms at {page or 'its page'}, then set {variables[0]} to a token of that account"
    details: dict[str, Any] = {"page": page} if page else {}
    return SkillError(message, code="refused", exit=Exit.REFUSED, hint=hint, http_status=status, **details)


def _stated_size(response: requests.Response) -> int | None:
    for answer in [response, *response.history]:
        for header in ("X-Linked-Size", "Content-Length"):
            size = file_limits.number_in(answer.headers.get(header))
            if size is not None and (header == "X-Linked-Size" or answer is response):
                return size
    return None
