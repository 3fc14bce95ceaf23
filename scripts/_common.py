"""One server: its address, its credentials, secure requests with retries, its WebSocket address.

Knows nothing of workflows. `requests` is imported on first use, so that --help stays instant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from comfyskill.base import paths, safe_text
from comfyskill.base.cli import Misuse, SkillError

if TYPE_CHECKING:
    pass

SAID_LIMIT = 600
CLOUD_HOST = "cloud.comfy.org"
CLOUD_URL = f"https://{CLOUD_HOST}"
# Hosts that take the cloud's own key: the service, its workspace address, and deployments.
CLOUD_HOSTS = (CLOUD_HOST, "platformapi.comfy.org")
DEPLOYMENT_SUFFIX = ".run.comfy.app"
# Cloud v1 renames these local routes (its documentation, "Local ComfyUI vs cloud"); everything else keeps its name.
CLOUD_ROUTES = {"history": "history_v2", "models": "experiment/models"}
DEFAULT_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]  # scheme, host, port
_named: set[Origin] = set()
# Names a user of a multi-user ComfyUI; it is not a credential, so commands repeat it.
USER_HEADER = "comfy-user"
SECRET_HEADERS = ("authorization", "cookie", "key", "token", "secret")


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

    `https://a.example\\@b.example/` names different hosts for different programs, and so does one with a line break.
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
    """Whether a host name or address literal means this machine, without a name lookup; a prefix is not enough."""
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

    `host` may lack a scheme (`127.0.0.1:8188`, `cloud.comfy.org`). Raises SkillError (exit 2) when it is not an address.
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
        raise Misuse(
            f"{safe_text.quoted(host)} is not a server address",
            hint="for example http://127.0.0.1:8188",
        )
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        text = f"{_likely_scheme(text)}://{text}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise Misuse(
            f"{safe_text.quoted(host)} is not a server address",
            hint="for example http://127.0.0.1:8188",
        ) from error
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme.lower(), parts.scheme.lower())
    if scheme not in ("http", "https") or not parts.hostname:
        raise Misuse(
            f"{safe_text.quoted(host)} is not an http or https address",
            hint="for example http://127.0.0.1:8188",
        )
    if parts.query or parts.fragment:
        raise Misuse(
            "a server address has no '?' or '#'", hint="give scheme, host, port and perhaps a base path"
        )
    if len(parts.hostname) > 253 or any(len(label) > 63 for label in parts.hostname.split(".")):
        raise Misuse(
            "the server address is longer than a name can be", hint="for example http://127.0.0.1:8188"
        )
    try:
        name = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    except UnicodeError as error:
        raise Misuse(
            f"{safe_text.quoted(host)} is not a host name", hint="for example http://127.0.0.1:8188"
        ) from error
    if is_ambiguous_number(name):
        raise Misuse(
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
    """An address without `user:password@`, and the Basic header that replaces it."""
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


class Access:
    """What the user gave for one server: headers that may go to its origin, and how to trust its certificate."""

    def __init__(
        self,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        ca_bundle: str | None = None,
        insecure: bool = False,
    ) -> None:
        self.headers = headers or {}
        self.key = key
        self.ca_bundle = ca_bundle
        self.insecure = insecure

    @property
    def secret(self) -> bool:
        """Whether anything here must not be readable on the network."""
        return bool(self.key) or any(is_secret_header(name) for name in self.headers)

    @property
    def user(self) -> str | None:
        """The user of a multi-user ComfyUI that the headers name."""
        return next((value for name, value in self.headers.items() if name.lower() == USER_HEADER), None)

    @property
    def trust_flags(self) -> list[str]:
        """The flags that say which certificates to trust."""
        named = ["--ca-bundle", str(paths.absolute(self.ca_bundle))] if self.ca_bundle else []
        return named + (["--insecure"] if self.insecure else [])

    def __repr__(self) -> str:
        return "Access(...)"


def is_secret_header(name: str) -> bool:
    """Whether a header of this name usually carries a secret."""
    return any(word in name.lower() for word in SECRET_HEADERS)


def refuse_plain_http(url: str, access: Access) -> None:
    """Raises SkillError `consent_needed`: a key is not sent unencrypted to another machine without --insecure."""
    parts = urlsplit(url)
    if parts.scheme == "https" or access.insecure or is_this_machine(parts.hostname or ""):
        return
    raise SkillError(
        f"will not send a key over plain http to {url}",
        code="consent_needed",
        hint="use https, or --insecure if everyone on that network may read the key",
    )


def not_named(hosts: Sequence[str]) -> SkillError:
    """The refusal to send a key to servers that no flag of this command names."""
    flags = " ".join(f"--host {safe_text.clean(host, 200)}" for host in hosts[:3])
    return Misuse(
        "a key is sent only to a server that the same command names",
        hint=f"if the key may go there, add {flags or '--host'}",
    )


def parse_headers(lines: list[str]) -> dict[str, str]:
    """`Name: value` lines from the command line. Raises SkillError on a bad one; values are hidden from all output."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if (
            not colon
            or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name.strip())
            or re.search(r"[\r\n\0]", value)
        ):
            raise Misuse(
                "a --header must read 'Name: value'",
                hint="for example --header 'Authorization: Bearer TOKEN'",
            )
        value = value.strip()
        if value.startswith("@"):
            value = _first_line(value[1:], f"--header {name.strip()}")
        if any(ord(char) > 255 for char in value):
            raise Misuse(
                f"the value of --header {name.strip()} contains characters that a header cannot carry",
                hint="copy it again without the quotation marks, dashes or dots that a text editor inserted",
            )
        headers[name.strip()] = value
        if name.strip().lower() == USER_HEADER:
            continue
        secret = is_secret_header(name)
        safe_text.hide(value, pieces=secret)
        # A server may echo the token without its scheme, or the cookie without its name.
        for word in {*value.split(), *re.split(r"[\s;,=\"]+", value)}:
            if len(word) >= 8:
                safe_text.hide(word, pieces=secret)
    return headers


def _first_line(path: str, flag: str) -> str:
    """The first line of a file that holds a secret. Raises Misuse when it cannot be read or is empty."""
    from comfyskill.base import text_files

    try:
        line = (text_files.read(paths.expanded(path)).splitlines() or [""])[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(
            f"{flag}: cannot read {path}: {text_files.reason(error)}", hint="one line of text: the value"
        ) from error
    if not line or "\0" in line:
        raise Misuse(f"{flag}: {path} holds no value in its first line", hint="one line of text: the value")
    return line


def read_key(api_key: str | None, api_key_file: str | None, url: str, *, named: bool = True) -> str | None:
    """The key for this server: the flag, the file, or, for the cloud's own host over https only, the environment.

    `named`: whether the user has named this server. One that only a file names gets no key of the environment.
    """
    key = api_key
    if key is None and api_key_file:
        from comfyskill.base import text_files

        try:
            key = (text_files.read(paths.expanded(api_key_file)).splitlines() or [""])[0]
        except (OSError, UnicodeDecodeError) as error:
            raise Misuse(
                f"cannot read the key file {api_key_file}: {text_files.reason(error)}",
                hint="one line of text: the key",
            ) from error
    environment = os.environ.get("COMFY_CLOUD_API_KEY")
    safe_text.hide(environment)
    if key is None and environment and named and is_cloud_host(url) and url.startswith("https://"):
        key = environment
    if key is None:
        return None
    key = key.strip()
    safe_text.hide(key)
    if not key or not key.isascii() or not key.isprintable():
        raise Misuse("the key is empty or contains characters that no key has", hint="copy it again")
    return key


def parse_model_list(payload: Any) -> list[str]:
    """Model names from any server's list: flat strings, or objects with `name` (the cloud's).

    Raises SkillError: code `folder_not_found` for the cloud's answer of that name, `refused` for a refusal's body,
    `bad_answer` for anything that is not a list. An empty list is an empty folder, which is none of these.
    """
    if isinstance(payload, Mapping):
        code = str(payload.get("code") or "")
        if code == "folder_not_found":
            raise SkillError("the server has no such model folder", code="folder_not_found")
        said = safe_text.clean(payload.get("message") or payload.get("error") or payload, SAID_LIMIT)
        if any(
            word in f"{code} {said}".lower()
            for word in ("forbidden", "unauthorized", "denied", "not allowed")
        ):
            raise SkillError("the server does not let this key list models", code="refused", server_said=said)
        raise SkillError("the server did not answer with a model list", code="bad_answer", server_said=said)
    if not isinstance(payload, list):
        raise SkillError("the server did not answer with a model list", code="bad_answer")
    names = [item.get("name") if isinstance(item, Mapping) else item for item in payload]
    return [name for name in names if isinstance(name, str)]
