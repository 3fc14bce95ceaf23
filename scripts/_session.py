"""An HTTP session whose credentials belong to one origin. Imported late: `requests` is slow to load.

Level 1. What leaves this process with a key on it leaves through here, so the rule stands in one place:
scheme, host and port must be those that the user named.
"""

from __future__ import annotations

import ipaddress
import socket
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

MOST_REDIRECTS = 5
MOST_TEMPLATES = 32
# One answer that is not a download is never larger; node definitions of big installations are about 50 MB.
MOST_BYTES = 512 * 1024 * 1024
DEFAULT_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int]


class RefusedRedirect(requests.RequestException):
    """The server pointed somewhere a download must not go (another scheme, a more private network)."""


class TooLarge(requests.RequestException):
    """An answer that would fill the memory."""


def origin_of(url: str) -> Origin:
    """Scheme, host and port of an address, with the scheme's own port filled in."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or DEFAULT_PORTS.get(scheme, 0)


def is_loopback(host: str) -> bool:
    """Whether a host name or address literal means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def privacy_of(host: str) -> int:
    """0 public, 1 private network, 2 this machine, 3 link-local (where cloud metadata services live)."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return 0
    return max((_address_privacy(str(address)) for address in addresses), default=0)


def _address_privacy(text: str) -> int:
    address = ipaddress.ip_address(text.split("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_link_local or address.is_unspecified or address.is_multicast:
        return 3
    if address.is_loopback:
        return 2
    # Not the same as is_private: 100.64.0.0/10 is neither (carriers and private overlay networks use it).
    return 0 if address.is_global else 1


class SecureSession(requests.Session):
    """A session that sends its credentials to `home` alone and keeps no cookies.

    `credentials` are headers (the key, the user's own --header pairs). They are put on a request whose address
    has the same scheme, host and port as `home`, and taken off again when a redirect leaves it.
    """

    def __init__(self, home: str, credentials: dict[str, str] | None = None) -> None:
        super().__init__()
        self.home = origin_of(home)
        self.credentials = dict(credentials or {})
        self._templates: dict[tuple[Any, ...], requests.PreparedRequest] = {}
        self.max_redirects = MOST_REDIRECTS
        # A cookie jar knows hosts but not ports, so a neighbour on another port would get them.
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # A callable keeps requests from taking a login for this host out of ~/.netrc.
        self.auth = _as_it_is
        # Proxy settings are for other machines; for this one they only break things and cost time.
        self.trust_env = not is_loopback(self.home[1])
        adapter = HTTPAdapter(pool_connections=4, pool_maxsize=16)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """As requests does; what is the same each time is prepared once, which was a tenth of a batch of short runs."""
        key = (request.method, request.url, *(request.headers or {}).items())
        template = self._templates.get(key)
        if template is None:
            plain = requests.Request(request.method, request.url, request.headers)
            if len(self._templates) >= MOST_TEMPLATES:
                self._templates.clear()
            template = self._templates[key] = super().prepare_request(plain)
        prepared = template.copy()
        if request.params:
            prepared.prepare_url(request.url, request.params)
        if request.data or request.files or request.json is not None:
            prepared.prepare_body(request.data, request.files, request.json)
        if origin_of(prepared.url or "") == self.home:
            prepared.headers.update(self.credentials)
        return prepared

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Called by requests for each redirect: refuse bad targets, keep credentials at home."""
        target = prepared_request.url or ""
        self.check_redirect(response.request.url or "", target)
        super().rebuild_auth(prepared_request, response)
        for name in self.credentials:
            prepared_request.headers.pop(name, None)
        if origin_of(target) == self.home:
            prepared_request.headers.update(self.credentials)

    def check_redirect(self, source: str, target: str) -> None:
        """Raises RefusedRedirect for a target that a download must not go to."""
        scheme, host, _ = origin_of(target)
        if scheme not in DEFAULT_PORTS:
            raise RefusedRedirect(f"the server redirected to a {scheme or 'nameless'}: address")
        if origin_of(source)[0] == "https" and scheme == "http":
            raise RefusedRedirect("the server redirected from https to plain http")
        if origin_of(target) != self.home and privacy_of(host) > privacy_of(self.home[1]):
            raise RefusedRedirect("the server redirected to a more private network than its own")

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        # requests raises InvalidSchema for `Location: file:///…` before rebuild_auth is asked; both mean the same.
        whole = not kwargs.get("stream")
        try:
            response = super().send(request, **{**kwargs, "stream": True})
            return _read_whole(response) if whole else response
        except requests.exceptions.InvalidSchema as error:
            raise RefusedRedirect("the server redirected to an address that is not http") from error
        except ValueError as error:
            # urlsplit's plain ValueError for `Location: http://[::1`; what requests itself raises is left as it is.
            if isinstance(error, requests.RequestException):
                raise
            raise RefusedRedirect("the server redirected to something that is no address") from error


def _read_whole(response: requests.Response) -> requests.Response:
    """Read a body that is not streamed, as far as `MOST_BYTES`: also one that unpacks to far more than was sent."""
    pieces, size = [], 0
    for piece in response.iter_content(1 << 16):
        size += len(piece)
        if size > MOST_BYTES:
            response.close()
            raise TooLarge(f"the answer is larger than {MOST_BYTES >> 20} MB")
        pieces.append(piece)
    response._content = b"".join(pieces)
    return response


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
