"""Server addresses: what a person types made whole, a route's address on a server, which hosts are the cloud's.

Level 1, pure.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

import _safe_text
from _cli import SkillError

CLOUD_HOST = "cloud.comfy.org"
CLOUD_URL = f"https://{CLOUD_HOST}"
# Hosts that take the cloud's own key: the service, its workspace address, and deployments.
CLOUD_HOSTS = (CLOUD_HOST, "platformapi.comfy.org")
DEPLOYMENT_SUFFIX = ".run.comfy.app"
# Cloud v1 renames these local routes (its fact sheet, "Local ComfyUI vs cloud"); everything else keeps its name.
CLOUD_ROUTES = {"history": "history_v2", "models": "experiment/models"}


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
    """Whether a host name means this machine, without asking anyone."""
    return host == "localhost" or host.startswith("127.") or host == "::1"


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
            f"{_safe_text.clean(host, 80)!r} is not a server address",
            hint="for example http://127.0.0.1:8188",
        )
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        text = f"{_likely_scheme(text)}://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise SkillError(
            f"{_safe_text.clean(host, 80)!r} is not a server address: {_safe_text.clean(error, 200)}",
            hint="for example http://127.0.0.1:8188",
        ) from error
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme.lower(), parts.scheme.lower())
    if scheme not in ("http", "https") or not parts.hostname:
        raise SkillError(
            f"{_safe_text.clean(host, 80)!r} is not an http or https address",
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
            f"{_safe_text.clean(host, 80)!r} is no host name", hint="for example http://127.0.0.1:8188"
        ) from error
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
    _safe_text.hide(password)
    _safe_text.hide(info)
    login = b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    _safe_text.hide(login)
    return f"{scheme}{slashes}{tail}", {"Authorization": f"Basic {login}"}


def quoted(name: str) -> str:
    """A name as one path segment. Half a character (a lone surrogate of a workflow's text) becomes `?`."""
    return quote(name, safe="", errors="replace")
