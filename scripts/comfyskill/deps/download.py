"""Downloads one model file: from allowed hosts, resumed, checked, and renamed only when complete.

The unfinished file is `NAME.part`, with a note of its address beside it. It gets its name when its size, its hash (the
declared one, and the one that huggingface.co states for large files) and its form are right.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import _common
from _common import Origin, origin_of
from comfyskill.base import cli, file_limits, file_names, foreign, safe_files, safe_text
from comfyskill.base.cli import Exit, Misuse, SkillError
from comfyskill.deps import catalog, place, report
from comfyskill.deps import origin as deps_origin
from comfyskill.server import download as server_download
from comfyskill.server import transport
from comfyskill.server.download import Broken

if TYPE_CHECKING:
    import requests

    from comfyskill.server.session import SecureSession

TIMEOUT = (15.0, 60.0)
MOST_NOTE = 1 << 16
PROGRESS_EVERY = 2.0


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
    with session_for(wanted.url, allowed) as session:
        with opened_part(wanted) as part:
            resumed_at = part.size
            _receive(session, part)
            checked = _checked(part)
            # Under the lock where there is one; Windows renames no open file.
            if os.name != "nt":
                part.take_name()
        if os.name == "nt":
            part.take_name()
    return Fetched(wanted.target, part.size, part.sha256, checked, resumed_at)


def _receive(session: SecureSession, part: Part) -> None:
    """Complete the part. Raises SkillError."""
    import requests

    url = part.wanted.url

    def ask(offset: int, validator: str | None) -> requests.Response:
        headers = {"Range": f"bytes={offset}-", "If-Range": validator} if offset and validator else {}
        try:
            response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise _failure(error, url) from error
        try:
            _judge(response, part)
        except BaseException:
            response.close()
            raise
        return response

    try:
        server_download.receive(part, ask)
    except server_download.Broken as broken:
        raise SkillError(
            f"{shown(url)}: {broken}", code="unreachable", retryable=True,
            hint="run it again: it resumes where it stopped",
        ) from broken  # fmt: skip


def _judge(response: requests.Response, part: Part) -> None:
    """Raises SkillError for an answer that is not the file, Broken where a later one may be."""
    status, url = response.status_code, part.wanted.url
    if status == 416:
        part.restart()
        raise Broken("the server did not send the rest")
    if status in (401, 403):
        raise _gate(url, status)
    if status in transport.RETRIED_STATUSES:
        raise Broken(f"its host answers HTTP {status}")
    if status >= 400:
        raise SkillError(
            f"{shown(url)} answers HTTP {status}",
            code="not_found" if status in (404, 410) else "download_failed",
            hint="the file may have moved: check its page",
        )
    kind = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise SkillError(
            f"{shown(url)} answers with a web page instead of the file", code="not_a_file",
            hint="it may require a login, or the URL is that of a page about the file",
        )  # fmt: skip
    part.stated_sha256 = stated_hash(response) or part.stated_sha256


def _checked(part: Part) -> tuple[str, ...]:
    """What was compared of a file that has arrived. Raises SkillError `corrupt` when it is not what it should be."""
    part.flush()
    checked = ["size"] if part.total is not None else []
    for expected in (part.wanted.sha256, part.stated_sha256):
        if expected and expected != part.sha256:
            raise part.corrupt(f"its SHA-256 is {part.sha256} and should be {expected}")
        if expected and "sha256" not in checked:
            checked.append("sha256")
    wrong = place.problem(part.path, part.wanted.target.name)
    if wrong:
        raise part.corrupt(wrong)
    return (*checked, "form")


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
    return Broken(_network_words(error))


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


class Part(server_download.Arriving):
    """The unfinished file, and the note beside it that says which address and version it is a part of."""

    most = file_limits.MOST_MODEL_BYTES
    spare = file_limits.SPARE_BYTES
    no_space = "free some space, or give another --models-dir"

    def __init__(self, wanted: Wanted, file: IO[bytes]) -> None:
        super().__init__(file, wanted.target.parent, hashed=True)
        self.wanted = wanted
        self.path, self.note = _unfinished(wanted.target)
        self.stated_sha256: str | None = None
        self.useless = self.named = False
        self._progress_at = time.monotonic()

    @property
    def sha256(self) -> str:
        """The SHA-256 of what has arrived."""
        assert self.digest is not None
        return self.digest.hexdigest()

    def take_up(self) -> None:
        """Continue with what an earlier try of the same address left, if the rest of that version can be asked for."""
        validator = self._noted_validator()
        if validator is None:
            self.restart()
            return
        self.file.seek(0)
        while piece := self.file.read(1 << 20):
            self.count(piece)
        self.validator = validator

    def _noted_validator(self) -> str | None:
        try:
            with safe_files.open_file(self.note, "r", encoding="utf-8") as file:
                kept = foreign.mapping(json.loads(file.read(MOST_NOTE)))
        except (OSError, ValueError, RecursionError):
            return None
        return foreign.text(kept.get("validator")) or None if kept.get("url") == self.wanted.url else None

    def begin(self, response: requests.Response) -> None:
        """Start with the first byte of this answer, and note its version."""
        super().begin(response)
        if self.validator:
            with safe_files.open_file(self.note, "w", encoding="utf-8") as file:
                json.dump({"url": self.wanted.url, "validator": self.validator}, file)

    def add(self, piece: bytes) -> None:
        """Append what has arrived. Raises SkillError when the first bytes are not those of such a file."""
        if self.size == 0 and (wrong := place.wrong_start(self.wanted.target.name, piece)):
            raise self.corrupt(wrong)
        super().add(piece)
        if time.monotonic() - self._progress_at > PROGRESS_EVERY:
            self._progress_at = time.monotonic()
            of = f" of {self.total / 1e6:.0f}" if self.total else ""
            cli.note(f"{self.wanted.target.name}: {self.size / 1e6:.0f}{of} MB")

    def flush(self) -> None:
        """Have the disk hold all of it."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def corrupt(self, why: str) -> SkillError:
        """The failure for content that is of no use; the file is removed."""
        self.useless = True
        return SkillError(
            f"the file from {shown(self.wanted.url)} is not usable: {why}; it was deleted",
            code="corrupt", hint="try again; if it fails again, check the file's page",
        )  # fmt: skip

    def take_name(self) -> None:
        """Give the file its final name."""
        refuse_existing(self.wanted.target)
        file_names.insist(lambda: self.path.replace(self.wanted.target))
        self.named = True
        self.note.unlink(missing_ok=True)


def _unfinished(target: Path) -> tuple[Path, Path]:
    """Where the unfinished file and its note are."""
    return target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")


@contextlib.contextmanager
def opened_part(wanted: Wanted) -> Iterator[Part]:
    """The unfinished file, locked, with what an earlier try left; afterwards it is removed if it is empty or useless."""
    path, note = _unfinished(wanted.target)
    part = None
    try:
        # The names can be known before, and then be links to files of the user.
        with safe_files.open_file(path, "ab+") as file:
            _lock(file, wanted.target)
            # Whoever held the lock before may have given this very file its final name.
            refuse_existing(wanted.target)
            part = Part(wanted, file)
            part.take_up()
            yield part
    finally:
        if part is not None and not part.named and (part.useless or part.size == 0):
            path.unlink(missing_ok=True)
            note.unlink(missing_ok=True)


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
