"""Downloads one model file: from allowed hosts, resumed, checked, and renamed only when complete.

What arrives lies under `NAME.part` with a note of where it came from, and gets its name when its size, its hash (the
declared one, and the one that huggingface.co states for large files) and its form are right.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import _common
from _common import Origin, origin_of
from comfyskill.base import cli, file_limits, file_names, safe_files, safe_text
from comfyskill.base.cli import Exit, Misuse, SkillError
from comfyskill.deps import catalog, place, report
from comfyskill.deps import origin as deps_origin
from comfyskill.server import transport

if TYPE_CHECKING:
    import requests

    from comfyskill.server.session import SecureSession

PIECE = 1 << 20
ATTEMPTS = 5
TIMEOUT = (15.0, 60.0)
MOST_NOTE = 1 << 16


class Facts(NamedTuple):
    """What is known about a file without downloading it. gate: why access is refused, None when it is not."""

    bytes: int | None = None
    sha256: str | None = None
    gate: str | None = None
    problem: str | None = None


class Fetched(NamedTuple):
    """A complete file in its place. checked: what was compared (`sha256`, `size`, `form`)."""

    path: Path
    bytes: int
    sha256: str
    checked: tuple[str, ...]
    resumed_at: int = 0


def look(url: str, allowed: AllowedHosts, timeout: float = 10.0) -> Facts:
    """Size, hash and gate of a file, as its host reports them; host failures go into `problem`."""
    import requests

    reason = allowed.refusal(url)
    if reason is not None:
        return Facts(problem=reason)
    with session_for(url, allowed) as session:
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
    """Download one file, resuming an earlier try.

    Raises:
        SkillError: `consent_needed` (7) for a host or file type that requires a flag, `refused` (4) for a gate,
            `already_there`, `disk_full`, `corrupt`, `unreachable` (3), `not_found`.
    """
    require(allowed, wanted.url)
    if report.may_run_code(wanted.target.name) and not wanted.allow_pickle:
        raise SkillError(
            f"{wanted.target.name} is of a type that can run code when it is loaded", code="consent_needed",
            exit=Exit.UNSAFE, hint="look for a .safetensors file; if you trust the source, add --allow-pickle",
        )  # fmt: skip
    refuse_existing(wanted.target)
    wanted.target.parent.mkdir(parents=True, exist_ok=True)
    part = Part(wanted)
    with session_for(wanted.url, allowed) as session:
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
    """Complete the part; a broken connection resumes from the last byte as long as bytes arrive."""
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
                f"{shown(wanted.url)}: {why}", code="unreachable", retryable=True,
                hint="run it again: it resumes where it stopped",
            )  # fmt: skip
        time.sleep(transport.pause_before(failures + 1))


class _Again(Exception):
    """This answer was useless, but another try may work."""


def _one_answer(session: SecureSession, wanted: Wanted, part: Part) -> bool:
    """Request the rest and append it. True when the file is complete."""
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
        raise SkillError("the host sent more bytes than it announced", code="corrupt", retryable=True)
    return part.size == part.total


def _accept(response: requests.Response, wanted: Wanted, part: Part) -> None:
    """Judge an answer's head: where its bytes belong, or why there are none."""
    status = response.status_code
    if status == 416:
        part.restart()
        raise _Again("the server did not send the rest")
    if status in (401, 403):
        raise _gate(wanted.url, status)
    if status in transport.RETRIED_STATUSES:
        raise _Again(f"its host answers HTTP {status}")
    if status >= 400:
        raise SkillError(
            f"{shown(wanted.url)} answers HTTP {status}",
            code="not_found" if status in (404, 410) else "download_failed", exit=Exit.FAILED,
            hint="the file may have moved: check its page",
        )  # fmt: skip
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise SkillError(
            f"{shown(wanted.url)} answers with a web page instead of the file", code="not_a_file",
            hint="it may require a login, or the URL is that of a page about the file",
        )  # fmt: skip
    file_limits.refuse_packed(response.headers)
    if status == 206:
        start, total = _range_of(response)
        if start != part.size:
            part.restart()
            raise _Again("the server sent a different part than requested")
        etag = response.headers.get("ETag", "").removeprefix("W/")
        if part.size and ((etag and etag != part.etag) or (total and part.total not in (None, total))):
            # It should have sent the whole new file (If-Range); two halves of two files make none.
            part.restart()
            raise _Again("the file has changed in the meantime")
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
            wrong = place.wrong_start(wanted.target.name, piece)
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
    wrong = place.problem(part.path, wanted.target.name)
    if wrong:
        part.drop()
        raise _corrupt(wanted, wrong)
    return (*checked, "form")


def _corrupt(wanted: Wanted, why: str) -> SkillError:
    return SkillError(
        f"the file from {shown(wanted.url)} is not usable: {why}; it was deleted",
        code="corrupt", hint="try again; if it fails again, check the file's page",
    )  # fmt: skip


def _failure(error: requests.RequestException, url: str) -> Exception:
    import requests

    from comfyskill.server.session import RefusedRedirect, UnaskedCoding

    if isinstance(error, RefusedRedirect):
        return SkillError(
            f"refused to follow {shown(url)}: {error}", code="unsafe_redirect", exit=Exit.UNSAFE,
            hint="if you trust that host, add --allow-host with its name",
        )  # fmt: skip
    if isinstance(error, UnaskedCoding):
        return SkillError(
            f"{shown(url)} sends the file compressed, although that was not asked for",
            code="download_failed",
            hint="a proxy may be the cause; otherwise download it by hand from its page",
        )
    if isinstance(error, requests.TooManyRedirects):
        return SkillError(f"{shown(url)} redirects in circles", code="redirect_loop")
    if isinstance(error, requests.exceptions.SSLError):
        return SkillError(
            f"the certificate of {shown(url)} was not accepted", code="unreachable",
            hint="a proxy may be the cause: set REQUESTS_CA_BUNDLE to its CA file",
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
    """The failure for a 401 or 403: a licence to accept, a token to set, or a token without access."""
    from urllib.parse import urlsplit

    host = urlsplit(url).hostname or ""
    variables = token_variables(host)
    given = token_for(url) is not None
    page = deps_origin.hugging_face_page(url)
    message = (
        f"{shown(url)} refuses access {'with this token' if given else 'without a login'} (HTTP {status})"
    )
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


class Wanted(NamedTuple):
    """What to fetch and where to put it."""

    url: str
    target: Path
    sha256: str | None = None
    allow_pickle: bool = False


class Part:
    """The unfinished file and the note beside it that says what it is a part of."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.path = wanted.target.with_name(wanted.target.name + ".part")
        self.note = wanted.target.with_name(wanted.target.name + ".part.json")
        self.total: int | None = None
        self.stated_sha256: str | None = None
        self.etag: str | None = None
        self.size = 0
        self.digest = hashlib.sha256()
        self.useless = self.named = False
        self._file: IO[bytes] | None = None

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Open for appending, alone; an unfinished file of another address or without a validator starts anew.

        Afterwards what holds nothing, or nothing of use, is removed.
        """
        try:
            # The names can be known before, and then be links to files of the user.
            with safe_files.open_file(self.path, "ab+") as file:
                _lock(file, self.wanted.target)
                # Whoever held the lock before may have given this very file its final name.
                refuse_existing(self.wanted.target)
                self._file = file
                kept = self._kept_note()
                if kept is None:
                    self.restart()
                else:
                    self.etag = kept
                    self._hash_what_is_there()
                yield
        finally:
            if self._file is not None and not self.named and (self.useless or self.size == 0):
                self.path.unlink(missing_ok=True)
                self.note.unlink(missing_ok=True)

    def _kept_note(self) -> str | None:
        try:
            with safe_files.open_file(self.note, "r", encoding="utf-8") as file:
                kept = json.loads(file.read(MOST_NOTE))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(kept, Mapping) or kept.get("url") != self.wanted.url:
            return None
        return kept["etag"] if isinstance(kept.get("etag"), str) else None

    def _hash_what_is_there(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        while piece := self._file.read(PIECE):
            self.digest.update(piece)
            self.size += len(piece)

    def restart(self) -> None:
        """Begin with the first byte."""
        assert self._file is not None
        self._file.truncate(0)
        self.size, self.digest, self.etag = 0, hashlib.sha256(), None

    def remember(self, response: requests.Response) -> None:
        """Note the validator with which the rest may be asked for; weak ones do not serve."""
        etag = response.headers.get("ETag")
        self.etag = etag if etag and not etag.startswith("W/") else None
        self.stated_sha256 = stated_hash(response) or self.stated_sha256
        if self.etag:
            with safe_files.open_file(self.note, "w", encoding="utf-8") as file:
                json.dump({"url": self.wanted.url, "etag": self.etag}, file)

    def add(self, piece: bytes) -> None:
        assert self._file is not None
        self._file.write(piece)
        self.digest.update(piece)
        self.size += len(piece)

    def flush(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())

    def drop(self) -> None:
        """What is there can be of no use: it is removed, and the next try begins anew."""
        self.useless = True

    def take_name(self) -> None:
        """Give the file its final name."""
        refuse_existing(self.wanted.target)
        file_names.insist(lambda: self.path.replace(self.wanted.target))
        self.named = True
        self.note.unlink(missing_ok=True)


def refuse_existing(target: Path) -> None:
    """Raises SkillError when the file exists: no file is ever replaced."""
    if os.path.lexists(target):
        raise SkillError(
            f"{target} already exists; nothing was replaced", code="already_there", hint="move it away to download it again",
        )  # fmt: skip


def _lock(file: IO[bytes], target: Path) -> None:
    if safe_files.take(file) is False:
        raise SkillError(
            f"another process is downloading {target.name}", code="busy", retryable=True,
            hint="wait until it has finished",
        )  # fmt: skip


def stated_hash(response: requests.Response) -> str | None:
    """The SHA-256 that huggingface.co states for a large file on the answer that redirects to its storage."""
    for answer in [*response.history, response]:
        linked = answer.headers.get("X-Linked-Etag", "").strip().strip('"').lower()
        if re.fullmatch(r"[0-9a-f]{64}", linked):
            return linked
    return None


class AllowedHosts:
    """The hosts of this call: the known ones and those that the user added with --allow-host."""

    def __init__(self, added: Sequence[str] = ()) -> None:
        self.names: set[str] = set()
        self.origins: set[Origin] = set()
        for text in added:
            self._add(text)

    def _add(self, text: str) -> None:
        written_out = "://" in text
        try:
            parts = urlsplit(text if written_out else f"https://{text}")
            port = parts.port
        except ValueError as error:
            raise _bad_host(text) from error
        if not parts.hostname or parts.path.strip("/") or parts.query or parts.username is not None:
            raise _bad_host(text)
        if parts.scheme not in ("https", "http"):
            raise _bad_host(text)
        if written_out:
            self.origins.add(origin_of(text))
        elif port is None:
            self.names.add(parts.hostname.lower())
        else:
            self.names.add(f"{parts.hostname.lower()}:{port}")

    def refusal(self, url: str) -> str | None:
        """Why a download may not start at this address, or None when it may."""
        parts = _common.plain_parts(url)
        if parts is None:
            return "the URL is ambiguous: programs parse it differently"
        origin = origin_of(url)
        if origin in self.origins:
            return None
        if parts.username is not None or parts.password is not None:
            return "it carries a login"
        if origin[0] != "https":
            return "it is not https"
        if not self._named(origin):
            return f"{origin[1]} is not on the download allowlist"
        if (
            origin[1] == "github.com"
            and "/releases/download/" not in parts.path
            and "github.com" not in self.names
        ):
            return "only release files are downloaded from github.com"
        return _private(origin[1])

    def _named(self, origin: Origin) -> bool:
        _, host, port = origin
        if port == 443 and (host in catalog.DOWNLOAD_HOSTS or host in self.names):
            return True
        return f"{host}:{port}" in self.names

    def redirect_refusal(self, home: str, target: str) -> str | None:
        """Why a download that began at `home` may not go on at `target`, or None when it may."""
        try:
            origin, start = origin_of(target), origin_of(home)
        except ValueError:
            return "it is not a URL"
        if origin == start or origin in self.origins:
            return None
        if origin[0] != "https":
            return "it is not https"
        if not (self._named(origin) or (origin[2] == 443 and _hands_over_to(start[1], origin[1]))):
            return f"{origin[1] or 'it'} is not known as the storage of {start[1]}"
        return _private(origin[1])


def _hands_over_to(home: str, host: str) -> bool:
    for known in catalog.DOWNLOAD_HOSTS.get(home, ()):
        if host == known or (known.startswith(".") and host.endswith(known)):
            return True
    return home == "civitai.com" and re.fullmatch(catalog.CIVITAI_BUCKET, host) is not None


def _private(host: str) -> str | None:
    from comfyskill.server.session import privacy_of

    return f"{host} leads into a private network" if privacy_of(host) else None


def _bad_host(text: str) -> SkillError:
    return Misuse(
        f"--allow-host {safe_text.clean(text, 80)!r} is not a host",
        hint="give a name (models.example.com) or a whole origin (http://127.0.0.1:9000)",
    )


def require(allowed: AllowedHosts, url: str) -> None:
    """Raises SkillError (exit 7) when a download may not start at this address; the message names the flag that consents."""
    reason = allowed.refusal(url)
    if reason is None:
        return
    raise SkillError(
        f"will not download from {shown(url)}: {reason}",
        code="consent_needed",
        exit=Exit.UNSAFE,
        hint=f"check the URL; if you trust it, add {flag_for(url)}",
    )


def flag_for(url: str) -> str:
    """The flag that consents to an address: its host where that is enough; plain http, a port or a private network
    requires the whole origin.
    """
    parts = _common.plain_parts(url)
    if parts is None:
        return "--allow-host HOST"
    host = safe_text.clean(parts.hostname, 100)
    if ":" not in host and AllowedHosts([host]).refusal(url) is None:
        return f"--allow-host {host}"
    port = f":{parts.port}" if parts.port else ""
    return f"--allow-host {parts.scheme}://{f'[{host}]' if ':' in host else host}{port}"


def token_for(url: str) -> str | None:
    """The user's token for this address's own host, over https only; from now on no output shows it."""
    scheme, host, port = origin_of(url)
    for variable in token_variables(host):
        token = (os.environ.get(variable) or "").strip()
        safe_text.hide(token)
        if token and scheme == "https" and port == 443:
            return token
    return None


def token_variables(host: str) -> tuple[str, ...]:
    """The environment variables that may hold a token for a host."""
    return tuple(dict.fromkeys(catalog.TOKENS.get(host, ())))


def session_for(url: str, allowed: AllowedHosts) -> SecureSession:
    """A session for one download: its token stays at its host, its redirects on the hosts that belong to it."""
    from comfyskill.server.session import NotAdmitted, RefusedRedirect, SecureSession

    class DownloadSession(SecureSession):
        def check_redirect(self, source: str, target: str) -> None:  # noqa: ARG002
            reason = allowed.redirect_refusal(url, target)
            if reason is not None:
                raise RefusedRedirect(f"it leads to {shown(target)}, and {reason}")

        def admit(self, url: str, privacy: int) -> None:
            if privacy and origin_of(url) not in allowed.origins:
                raise NotAdmitted(f"{shown(url)} leads into a private network")

    token = token_for(url)
    session = DownloadSession(url, {"Authorization": f"Bearer {token}"} if token else {})
    session.headers["Accept-Encoding"] = "identity"
    return session


def shown(url: str) -> str:
    """An address without login and query, which may hold signatures."""
    parts = _common.plain_parts(url)
    if parts is None:
        return safe_text.clean(url.partition("?")[0].rpartition("@")[2], 300)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return safe_text.clean(f"{parts.scheme}://{host}{port}{parts.path}", 300)
