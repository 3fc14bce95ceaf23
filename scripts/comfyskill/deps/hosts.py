"""Where a model may be downloaded from, where that may lead, and which token goes there. Level 3. Imports requests late.

Known hosts are reached over https and may hand over to their own storage alone. A host that the user names is trusted
for itself; an origin that the user writes out with its scheme is consent for exactly that origin, private or not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import _common
from _common import Origin, origin_of
from comfyskill.base import safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.deps import catalog

if TYPE_CHECKING:
    from comfyskill.server.session import SecureSession


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
            return "it is no address that all programs read alike"
        origin = origin_of(url)
        if origin in self.origins:
            return None
        if parts.username is not None or parts.password is not None:
            return "it carries a login"
        if origin[0] != "https":
            return "it is not https"
        if not self._named(origin):
            return f"{origin[1]} is not a host that models are fetched from"
        if (
            origin[1] == "github.com"
            and "/releases/download/" not in parts.path
            and "github.com" not in self.names
        ):
            return "of github.com only release files are fetched"
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
            return "it is no address"
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
    return SkillError(
        f"--allow-host {safe_text.clean(text, 80)!r} is no host",
        hint="write a name (models.example.com) or a whole origin (http://127.0.0.1:9000)",
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
        hint=f"look at the address; if you trust it, add {flag_for(url)}",
    )


def flag_for(url: str) -> str:
    """The flag that consents to an address: its host where that is enough; plain http, a port or a private network
    wants the whole origin written out.
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
