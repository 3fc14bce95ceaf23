"""Server addresses: what a person types made whole, a route's address on a server, which hosts are the cloud's.

Level 1, pure.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from comfyskill.base import safe_text
from comfyskill.base.cli import SkillError

CLOUD_HOST = "cloud.comfy.org"
CLOUD_URL = f"https://{CLOUD_HOST}"
# Hosts that take the cloud's own key: the service, its workspace address, and deployments.
CLOUD_HOSTS = (CLOUD_HOST, "platformapi.comfy.org")
DEPLOYMENT_SUFFIX = ".run.comfy.app"
# Cloud v1 renames these local routes (its fact sheet, "Local ComfyUI vs cloud"); everything else keeps its name.
CLOUD_ROUTES = {"history": "history_v2", "models": "experiment/models"}
DEFAULT_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]  # scheme, host, port
_named: set[Origin] = set()


def is_cloud_host(host: str) -> bool:
    """Whether an address or bare host name is Comfy Cloud's own (service, workspace address or deployment)."""
    text = host if "//" in host else f"//{host}"
    try:
        name = (urlsplit(text).hostname or "").lower().rstrip(".")
    except ValueError:
        return False
    return name in CLOUD_HOSTS or name.endswith(DEPLOYMENT_SUFFIX)


def plain_parts(url: str) -> SplitResult | None:
    """The parts of an address that every program reads alike; None for any other.

    `https://a.example\\@b.example/` leads to the one host or the other, and who drops a line break reads another host.
    """
    if not url.isprintable() or " " in url or "\\" in url:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.hostname else None


def is_this_machine(host: str) -> bool:
    """Whether a host name or address literal means this machine, without asking anyone: never by how it begins."""
    if host.lower() in ("localhost", "localhost."):
        return True
    import ipaddress

    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def is_ambiguous_number(host: str) -> bool:
    """Whether a host is an IPv4 address in a spelling that programs read differently: `127.1`, `0x7f.1`, `2130706433`.

    Any name whose last label is a number is one; the four plain decimal numbers alone are read alike everywhere.
    """
    last = host.removesuffix(".").rpartition(".")[2]
    if ":" in host or not re.fullmatch(r"[0-9]+|0[xX][0-9A-Fa-f]*", last):
        return False
    import ipaddress

    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return True
    return False


def origin_of(url: str) -> Origin:
    """Scheme, host and port of an address, with the scheme's own port filled in."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or DEFAULT_PORTS.get(scheme, 0)


def note_named(url: str) -> None:
    """Note that the user named this address: a redirect may lead there from another server of this machine."""
    _named.add(origin_of(url))


def is_named(url: str) -> bool:
    """Whether the user named the origin of this address."""
    return origin_of(url) in _named


def cloud_endpoint(path: str) -> str:
    """The cloud's path for a local one: `/history/ID` -> `/api/history_v2/ID`, `/models/F` -> `/api/experiment/models/F`.

    A path that has the `/api` prefix already keeps it; the WebSocket (`/ws`) and `/templates` have none.
    """
    bare = path.lstrip("/")
    bare = bare[4:] if bare.startswith("api/") else bare
    head, slash, rest = bare.partition("/")
    if head in ("ws", "templates"):
        return f"/{bare}"
    return f"/api/{CLOUD_ROUTES.get(head, head)}{slash}{rest}"


def resolve_url(host: str, path: str = "", *, is_cloud: bool | None = None) -> str:
    """The whole address of a route on a server: scheme filled in, base path kept, cloud names and prefix applied.

    `host` may lack a scheme (`127.0.0.1:8188`, `cloud.comfy.org`). Raises SkillError (exit 2) when it is no address.
    """
    base = normal_base(host)
    if not path:
        return base
    cloud = is_cloud_host(base) if is_cloud is None else is_cloud
    return base + (cloud_endpoint(path) if cloud else "/" + path.lstrip("/"))


def normal_base(host: str) -> str:
    """A base address from what a person types: `host:port`, `https://proxy/comfy/`; no trailing slash, no user info."""
    text = host.strip()
    if not text or any(ord(char) < 33 for char in text):
        raise SkillError(
            f"{safe_text.quoted(host)} is not a server address",
            hint="for example http://127.0.0.1:8188",
        )
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        text = f"{_likely_scheme(text)}://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise SkillError(
            f"{safe_text.quoted(host)} is not a server address",
            hint="for example http://127.0.0.1:8188",
        ) from error
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme.lower(), parts.scheme.lower())
    if scheme not in ("http", "https") or not parts.hostname:
        raise SkillError(
            f"{safe_text.quoted(host)} is not an http or https address",
            hint="for example http://127.0.0.1:8188",
        )
    if parts.query or parts.fragment:
        raise SkillError(
            "a server address has no '?' or '#'", hint="give scheme, host, port and perhaps a base path"
        )
    if len(parts.hostname) > 253 or any(len(label) > 63 for label in parts.hostname.split(".")):
        raise SkillError(
            "the server address is longer than a name can be", hint="for example http://127.0.0.1:8188"
        )
    try:
        name = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    except UnicodeError as error:
        raise SkillError(
            f"{safe_text.quoted(host)} is no host name", hint="for example http://127.0.0.1:8188"
        ) from error
    if is_ambiguous_number(name):
        raise SkillError(
            f"{safe_text.quoted(host)} is a number that programs read as different addresses",
            hint="write an IPv4 address as four plain numbers, for example 127.0.0.1",
        )
    name = f"[{name}]" if ":" in name else name
    netloc = f"{name}:{port}" if port else name
    return urlunsplit((scheme, netloc, parts.path.rstrip("/"), "", ""))


def _likely_scheme(text: str) -> str:
    """http for this machine, numbers, bare names and explicit ports; https for a public name without one."""
    name, _, rest = text.partition("/")[0].rpartition("@")[2].partition(":")
    if is_cloud_host(name):
        return "https"
    numeric = re.fullmatch(r"[\d.]+|\[.*", name) is not None
    return "http" if rest or numeric or "." not in name or name.endswith(".local") else "https"


def split_user_info(host: str) -> tuple[str, dict[str, str]]:
    """An address without `user:password@`, and the Basic header that stands for it."""
    head, at, tail = host.rpartition("@")
    if not at or "/" in tail.split("/")[0]:
        return host, {}
    scheme, slashes, info = head.rpartition("//")
    if "/" in info:
        return host, {}
    from base64 import b64encode

    user, _, password = info.partition(":")
    safe_text.hide(password)
    safe_text.hide(info)
    login = b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    safe_text.hide(login)
    return f"{scheme}{slashes}{tail}", {"Authorization": f"Basic {login}"}


def quoted(name: str) -> str:
    """A name as one path segment. Half a character (a lone surrogate of a workflow's text) becomes `?`."""
    return quote(name, safe="", errors="replace")
