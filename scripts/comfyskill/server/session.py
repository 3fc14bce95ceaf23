"""An HTTP session whose credentials belong to one origin. Imported late: `requests` is slow to load.

What leaves this process with a key on it leaves through here, so each rule has one place: scheme, host and
port of a request with a key are those that the user named; a redirect is judged by the address that was connected to;
no answer takes more time or memory than it may.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import math
import re
import socket
import time
from collections.abc import Iterator
from contextvars import ContextVar
from http.client import HTTPException, HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from _common import is_named, is_this_machine, origin_of, plain_parts

MOST_REDIRECTS = 5
# Lines behind a chunked body, and the length of one.
MOST_TRAILERS = 100
MOST_TRAILER_LINE = 64 * 1024
# The largest answer that is not a download; node definitions of big installations are about 50 MB.
MOST_BYTES = 512 * 1024 * 1024
# Rejections of large graphs repeat every option of every input; nothing else that failed is long.
MOST_BYTES_OF_FAILURE = 32 * 1024 * 1024
# Bytes a second below which an answer counts as stalled, and the extra time that a slow long one may get.
PACE, DOWNLOAD_PACE = 16 * 1024, 1024
MOST_EXTRA = 600.0
# Codings in which a piece of a body cannot grow more than a thousandfold when it is unpacked.
CODINGS = "gzip, deflate"
# Names that leave the bytes unchanged: some storages mark their answers `aws-chunked`.
NO_CODING = frozenset({"", "identity", "aws-chunked"})
# The cloud that the demo server simulates keeps its files on another port, under a path that no other service has.
DEMO_FILE = re.compile(r"/demo-bucket/[\w-]+\.\w+")


class RefusedRedirect(requests.RequestException):
    """The server pointed somewhere a download must not go (another scheme, a more private network)."""


class TooLarge(requests.RequestException):
    """An answer that would fill the memory."""


class UnaskedCoding(requests.RequestException):
    """An answer in a content coding that was not requested."""


class NotAdmitted(Exception):
    """A connection that must not be used. Not an OSError, because urllib3 treats those as network faults."""


def privacy_of(host: str) -> int:
    """0 public, 1 private network, 2 this machine, 3 link-local (where cloud metadata services live)."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return 0
    return max((address_privacy(str(address)) for address in addresses), default=0)


def address_privacy(text: str) -> int:
    """As `privacy_of`, of one address literal."""
    address = ipaddress.ip_address(text.split("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_link_local or address.is_unspecified or address.is_multicast:
        return 3
    if address.is_loopback:
        return 2
    # Not the same as is_private: 100.64.0.0/10 is neither (carriers and private overlay networks use it).
    return 0 if address.is_global else 1


class Watch:
    """The time that one answer may take, redirects included.

    Its head may take `patience` seconds. Its body may take longer for each `pace` bytes that arrive, up to `extra`
    seconds. `end`: the time.monotonic() at which it is over in any case. `endless`: a body without a limit of its own.
    """

    def __init__(
        self,
        patience: float,
        *,
        end: float = math.inf,
        pace: float = PACE,
        extra: float = MOST_EXTRA,
        endless: bool = False,
    ) -> None:
        self.patience, self.end = patience, end
        self.pace, self.extra = pace, extra
        self.endless = endless
        self._began: float | None = None
        self._in_body = False
        self._received = 0

    def await_head(self) -> None:
        """A request was sent. Time counts from the first one on."""
        self._in_body = False
        if self._began is None:
            self._began = time.monotonic()

    def await_body(self) -> None:
        """The head has arrived."""
        self._in_body = True

    def limit_body(self) -> None:
        """The body is read as a whole: it earns no more time than such an answer may."""
        self.endless = False
        self.pace, self.extra = max(self.pace, PACE), min(self.extra, MOST_EXTRA)

    def count(self, received: int) -> None:
        """Bytes have arrived; those of a head earn no time."""
        if self._in_body:
            self._received += received

    def left(self) -> float:
        """The seconds that are left; 0 or less when the time is up."""
        now = time.monotonic()
        if self._in_body and self.endless:
            return self.end - now
        earned = min(self._received / self.pace, self.extra)
        return min((self._began or now) + self.patience + earned, self.end) - now


class _Exchange(NamedTuple):
    """The request that this thread is sending, for the connection that carries it."""

    session: SecureSession
    url: str
    watch: Watch


_exchange: ContextVar[_Exchange | None] = ContextVar("exchange", default=None)
_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


class _TimedReader(io.RawIOBase):
    """The bytes of a socket, read under a watch: the socket's own time-out is for one read, not for the answer."""

    def __init__(self, raw: Any, sock: socket.socket, watch: Watch) -> None:
        self._raw, self._sock, self._watch = raw, sock, watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._watch.left()
        if left <= 0:
            raise TimeoutError("the answer took too long")
        usual = self._sock.gettimeout()
        # Setting a time-out is a system call; an answer that comes at once needs none.
        if usual is not None and usual <= left * 1.1:
            count = self._raw.readinto(buffer)
        else:
            self._sock.settimeout(left)
            try:
                count = self._raw.readinto(buffer)
            finally:
                with contextlib.suppress(OSError):
                    self._sock.settimeout(usual)
        self._watch.count(count or 0)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(HTTPResponse):
    """An answer that is read under the watch of its request."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        exchange = _exchange.get()
        self._watched = exchange.watch if exchange is not None else None
        if self._watched is not None:
            self._watched.await_head()
            self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, self._watched))

    def begin(self) -> None:
        super().begin()
        if self._watched is not None:
            self._watched.await_body()

    def _read_and_discard_trailer(self) -> None:
        """As in the standard library, which reads trailer lines without limit."""
        for _ in range(MOST_TRAILERS):
            if self.fp.readline(MOST_TRAILER_LINE) in (b"\r\n", b"\n", b""):
                return
        raise HTTPException("too many trailer lines")


def _admitted(sock: socket.socket, proxied: bool) -> socket.socket:
    """The socket, if its other end may get the request. A proxy is chosen by the user and resolves names itself."""
    exchange = _exchange.get()
    if exchange is not None and not proxied:
        try:
            exchange.session.admit(exchange.url, address_privacy(str(sock.getpeername()[0])))
        except BaseException:
            sock.close()
            raise
    return sock


class _Connection(HTTPConnection):
    response_class = _TimedResponse

    def _new_conn(self) -> socket.socket:
        return _admitted(super()._new_conn(), bool(self.proxy))


class _TlsConnection(HTTPSConnection):
    response_class = _TimedResponse

    def _new_conn(self) -> socket.socket:
        return _admitted(super()._new_conn(), bool(self.proxy))


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


_POOLS = {"http": _Pool, "https": _TlsPool}


class _Adapter(HTTPAdapter):
    """Connections of our own kind, also to a proxy (a SOCKS proxy has its own kind)."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _POOLS
        return manager


class _Home:
    """The server that the user named, and how private the addresses are at which it was reached."""

    def __init__(self, url: str) -> None:
        self.origin = origin_of(url)
        self._privacy: int | None = None
        self._looked_up: int | None = None

    def meet(self, privacy: int) -> None:
        """A connection to it was made. Raises NotAdmitted when a public name has turned into this machine."""
        if self._privacy == 0 and privacy >= 2:
            raise NotAdmitted("the server's name now resolves to this machine")
        # Some names resolve to public and private addresses. The most public one decides what redirects may reach.
        self._privacy = privacy if self._privacy is None else min(self._privacy, privacy)

    @property
    def privacy(self) -> int:
        """As `privacy_of`: by the connections made, before the first one by its name."""
        if self._privacy is not None:
            return self._privacy
        if self._looked_up is None:
            self._looked_up = privacy_of(self.origin[1])
        return self._looked_up


class SecureSession(requests.Session):
    """A session that sends its credentials to `home` alone, keeps no cookies and reads no ~/.netrc.

    `credentials` are headers (the key, the user's own --header pairs). They are put on a request whose address
    has the same scheme, host and port as `home`, and on no other, redirects included.
    """

    def __init__(self, home: str, credentials: dict[str, str] | None = None) -> None:
        super().__init__()
        self.home = _Home(home)
        self.credentials = dict(credentials or {})
        self.max_redirects = MOST_REDIRECTS
        self.headers["Accept-Encoding"] = CODINGS
        # A cookie jar knows hosts but not ports, so a neighbour on another port would get them.
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # A callable keeps requests from taking a login for this host out of ~/.netrc.
        self.auth = _as_it_is
        # Proxy settings are for other machines; for this one they only cause failures and delay.
        self.trust_env = not is_this_machine(self.home.origin[1])
        adapter = _Adapter(pool_connections=4, pool_maxsize=16)
        self.mount("http://", adapter)
        self.mount("https://", adapter)

    def bare(self) -> SecureSession:
        """A session for the same server that has no credentials."""
        session = SecureSession("", {})
        session.home, session.trust_env, session.verify = self.home, self.trust_env, self.verify
        return session

    def request(  # type: ignore[override]
        self, method: str, url: str, *, watch: Watch | None = None, **options: Any
    ) -> requests.Response:
        """As requests does. `watch`: the time that the answer may take; without one, the read time-out decides."""
        if self.verify is not True:
            # Left to the session, it would lose against REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE.
            options.setdefault("verify", self.verify)
        token = _watch.set(watch)
        try:
            return super().request(method, url, **options)
        finally:
            _watch.reset(token)

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """As requests does, with the credentials when it goes home."""
        prepared = super().prepare_request(request)
        if origin_of(prepared.url or "") == self.home.origin:
            prepared.headers.update(self.credentials)
        return prepared

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """As requests does: one request, and the redirects of a GET or HEAD followed by `resolve_redirects`."""
        streamed = bool(kwargs.get("stream"))
        watch = _watch.get() or _watch_for(kwargs.get("timeout"), streamed)
        redirects, token = _watch.set(watch), _exchange.set(_Exchange(self, request.url or "", watch))
        try:
            response = super().send(request, **{**kwargs, "stream": True})
            if location := self.get_redirect_target(response):
                _web_parts(_absolute(response.url, location))
            return _finished(response, watch, streamed)
        except NotAdmitted as error:
            raise RefusedRedirect(str(error)) from error
        except requests.RequestException as error:
            if watch.left() <= 0 and not isinstance(error, requests.Timeout):
                raise requests.ReadTimeout(error, request=request) from error
            raise
        except ValueError as error:
            # urlsplit's plain ValueError for `Location: http://[::1`.
            raise RefusedRedirect("the server redirected to something that is not an address") from error
        finally:
            _exchange.reset(token)
            _watch.reset(redirects)

    def resolve_redirects(  # type: ignore[override]
        self,
        resp: requests.Response,
        req: requests.PreparedRequest,
        *,
        yield_requests: bool = False,
        **kwargs: Any,
    ) -> Iterator[requests.Response]:
        """The answers on the way. Unlike in requests, the bodies of redirects stay unread and ~/.netrc is not asked.

        Raises RefusedRedirect, TooManyRedirects.
        """
        if yield_requests or req.method not in ("GET", "HEAD"):
            return
        for _ in range(self.max_redirects):
            target = self.get_redirect_target(resp)
            if not target:
                return
            resp.close()
            req, proxies = self._redirected(req, resp.url, target, kwargs.get("proxies"))
            resp = self.send(req, **{**kwargs, "stream": True, "proxies": proxies, "allow_redirects": False})
            yield resp
        if self.get_redirect_target(resp):
            resp.close()
            raise requests.TooManyRedirects(f"more than {self.max_redirects} redirects", response=resp)

    def _redirected(
        self, request: requests.PreparedRequest, source: str, target: str, proxies: Any
    ) -> tuple[requests.PreparedRequest, Any]:
        """The request that a redirect asks for, with the credentials when it goes home, and its proxies."""
        url = _absolute(source, target)
        self.check_redirect(source, url)
        moved = request.copy()
        moved.url = url
        for name in (*self.credentials, "Authorization", "Cookie"):
            moved.headers.pop(name, None)
        if origin_of(url) == self.home.origin:
            moved.headers.update(self.credentials)
        return moved, self.rebuild_proxies(moved, proxies)

    def check_redirect(self, source: str, target: str) -> None:
        """Raises RefusedRedirect for a target that a download must not go to."""
        parts = _web_parts(target)
        if urlsplit(source).scheme == "https" and parts.scheme == "http":
            raise RefusedRedirect("the server redirected from https to plain http")
        if origin_of(target) == self.home.origin:
            return
        try:
            self.admit(target, privacy_of(parts.hostname or ""))
        except NotAdmitted as error:
            raise RefusedRedirect(str(error)) from error

    def admit(self, url: str, privacy: int) -> None:
        """Judge an address by its privacy: as looked up, and again as connected to, since a name may change between.

        Raises NotAdmitted.
        """
        origin = origin_of(url)
        if origin == self.home.origin:
            self.home.meet(privacy)
            return
        if privacy > self.home.privacy:
            raise NotAdmitted("the server redirected to a more private network than its own")
        own_port = origin[2] == self.home.origin[2] or DEMO_FILE.fullmatch(urlsplit(url).path)
        if privacy == 2 and not own_port and not is_named(url):
            raise NotAdmitted(
                f"the server redirected to port {origin[2]} of this machine, which you did not name"
            )


def _absolute(source: str, location: str) -> str:
    """The whole address that a Location header means."""
    return urljoin(source, requests.utils.requote_uri(location))


def _web_parts(target: str) -> SplitResult:
    """The parts of an address on the web. Raises RefusedRedirect for any other."""
    scheme = urlsplit(target).scheme.lower()
    if scheme not in ("http", "https"):
        raise RefusedRedirect(f"the server redirected to a {scheme or 'nameless'}: address")
    parts = plain_parts(target)
    if parts is None:
        raise RefusedRedirect("the server redirected to something that is not an address")
    return parts


def _watch_for(timeout: Any, streamed: bool) -> Watch:
    """The watch of a request that was given none: the read time-out becomes its patience."""
    patience = timeout[1] if isinstance(timeout, tuple) else timeout
    pace, extra = (DOWNLOAD_PACE, math.inf) if streamed else (PACE, MOST_EXTRA)
    return Watch(math.inf if patience is None else patience, pace=pace, extra=extra)


def _finished(response: requests.Response, watch: Watch, streamed: bool) -> requests.Response:
    """The answer as the caller gets it: unread for a download, empty for a redirect, else read whole."""
    if response.is_redirect:
        response.close()
        response._content, response._content_consumed = b"", True  # type: ignore[attr-defined]
        return response
    _refuse_unasked_coding(response)
    failed = response.status_code >= 400
    if streamed and not failed:
        # The end is for waiting. A file that arrives is not cut off.
        watch.end = math.inf
        response.watch = watch  # type: ignore[attr-defined]
        return response
    watch.limit_body()
    return _read_whole(response, MOST_BYTES_OF_FAILURE if failed else MOST_BYTES)


def _refuse_unasked_coding(response: requests.Response) -> None:
    """Raises UnaskedCoding for a body in a coding that was not asked for, or in two: it may unpack to any size."""
    asked = _codings(response.request.headers.get("Accept-Encoding", ""))
    used = _codings(response.headers.get("Content-Encoding", ""))
    if len(used) > 1 or not set(used) <= set(asked):
        response.close()
        raise UnaskedCoding("the answer is compressed in a way that was not requested")


def _codings(header: str) -> list[str]:
    names = (word.partition(";")[0].strip().lower().removeprefix("x-") for word in str(header).split(","))
    return [name for name in names if name not in NO_CODING]


def _read_whole(response: requests.Response, most: int) -> requests.Response:
    """Read a body of at most `most` bytes, counted as they are unpacked."""
    pieces, size = [], 0
    for piece in response.iter_content(1 << 16):
        size += len(piece)
        if size > most:
            response.close()
            raise TooLarge(f"the answer is larger than {most >> 20} MB")
        pieces.append(piece)
    response._content = b"".join(pieces)
    return response


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request
