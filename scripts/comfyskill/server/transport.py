"""The transport to one server: requests with its credentials, retries for reads, clear failures, one time limit.

Knows no protocol. `requests` is imported on first use, so that --help stays instant.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from _common import SAID_LIMIT, Access, is_cloud_host, normal_base, resolve_url
from comfyskill.base import cli, safe_text
from comfyskill.base.cli import Misuse, SkillError

if TYPE_CHECKING:
    import requests

    from comfyskill.server.multipart import Form
    from comfyskill.server.session import SecureSession, Watch

Params = Mapping[str, object] | None
Headers = Mapping[str, str] | None
KEY_HEADER = "X-API-Key"
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 60.0
UPLOAD_TIMEOUT = 600.0
ATTEMPTS = 4
LONGEST_PAUSE = 30.0
RETRIED_STATUSES = frozenset({408, 425, 429, 502, 503, 504})
STATUS_HINTS = {
    "busy": "the server, or a proxy before it, is busy or starting: wait and try again",
    "server_error": "see server_said, and the server's own log (fetch_logs.py --server)",
    "bad_request": "see server_said; is the address ComfyUI itself, not a proxy that lacks this route?",
}


class AnswerLost(Exception):
    """A request may have been carried out, but its answer did not arrive (time-out, reset, gateway fault)."""

    def __init__(
        self,
        why: str,
        status: int | None = None,
        retry_after: str | None = None,
        failure: SkillError | None = None,
    ) -> None:
        super().__init__(why)
        self.status = status
        self.retry_after = retry_after
        self.failure = failure  # what to say when it turns out that nothing was carried out


class Request(NamedTuple):
    """One request as it will be sent. `bare`: without credentials. `endless`: the body of its answer may pause."""

    method: str
    url: str
    params: Params = None
    headers: Headers = None
    json: object = None
    form: Form | None = None
    stream: bool = False
    follow: bool = True
    bare: bool = False
    endless: bool = False


class Server:
    """The transport to one server: requests with its credentials on its origin, retries for reads, clear failures."""

    api = "local"

    def __init__(self, url: str, access: Access | None = None, *, demo: bool = False) -> None:
        self.url = normal_base(url)
        self.access = access or Access()
        self.demo = demo
        self.fleeting = False  # started for this one call, stopped after it
        self._session: SecureSession | None = None
        self._bare_session: SecureSession | None = None
        self._date: tuple[str, float] | None = None  # its last `Date`, and when that came (monotonic)

    # Dialects override these three.
    def route(self, path: str) -> str:
        """The address of a route (a local path without prefix) on this server."""
        return resolve_url(self.url, path, is_cloud=False)

    def credentials(self) -> dict[str, str]:
        """The headers that carry the user's credentials to this origin."""
        headers = dict(self.access.headers)
        if self.access.key and not any(name.lower() == "authorization" for name in headers):
            headers["Authorization"] = f"Bearer {self.access.key}"
        return headers

    def socket_url(self, client_id: str) -> str:
        """The WebSocket's address; may hold a token, so it is never printed."""
        return re.sub("^http", "ws", self.route("ws")) + "?" + urlencode({"clientId": client_id})

    @property
    def session(self) -> SecureSession:
        """The one requests session of this server, made on first use."""
        if self._session is None:
            self._session = self._new_session()
        return self._session

    @property
    def bare_session(self) -> SecureSession:
        """A session without credentials, for signed addresses."""
        if self._bare_session is None:
            self._bare_session = self.session.bare()
        return self._bare_session

    def _new_session(self) -> SecureSession:
        from comfyskill.server.session import SecureSession

        session = SecureSession(self.url, self.credentials())
        session.verify = False if self.access.insecure else (self.access.ca_bundle or True)
        if self.access.insecure:
            import urllib3

            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        return session

    def close(self) -> None:
        """Close the connections."""
        for session in (self._session, self._bare_session):
            if session is not None:
                session.close()
        self._session = self._bare_session = None

    def renew_connections(self) -> None:
        """Use new connections from now on. Requests under way in other threads keep theirs."""
        if self._session is None:
            return
        renewed = self._new_session()
        # What is known of the server's address must outlive its connections: a name may be pointed elsewhere.
        renewed.home = self._session.home
        self._session = renewed
        if self._bare_session is not None:
            self._bare_session = renewed.bare()

    # Every method returns an answer below 400 or raises SkillError; reads are tried again with back-off. `timeout`:
    # seconds for the whole answer (a long one earns more), or for the head of a stream, whose body must keep moving.
    def get(
        self, route: str, params: Params = None, *, attempts: int = ATTEMPTS, timeout: float = READ_TIMEOUT
    ) -> requests.Response:
        """The answer of a route to a GET, read whole."""
        return self._ask(Request("GET", self.route(route), params), attempts, timeout)

    def get_json(
        self, route: str, params: Params = None, *, attempts: int = ATTEMPTS, timeout: float = READ_TIMEOUT
    ) -> Any:
        """The JSON answer of a route to a GET. Raises SkillError (`bad_answer`) when it is not JSON."""
        return self.json_of(self.get(route, params, attempts=attempts, timeout=timeout))

    def head(self, route: str, params: Params = None) -> requests.Response:
        """The answer of a route to one HEAD."""
        return self._ask(Request("HEAD", self.route(route), params, follow=False))

    def open_stream(
        self,
        route: str,
        params: Params = None,
        *,
        headers: Headers = None,
        attempts: int = 1,
        timeout: float = READ_TIMEOUT,
        endless: bool = False,
    ) -> requests.Response:
        """The answer of a route with its body unread; the caller closes it. `endless`: the body may pause."""
        url = self.route(route)
        asked = Request("GET", url, params, headers=headers, stream=True, endless=endless)
        return self._ask(asked, attempts, timeout)

    def open_own(self, url: str, headers: Headers) -> requests.Response:
        """The answer at a whole address, unread, with the credentials if it is this server's; no redirect is followed."""
        return self._ask(Request("GET", url, headers=headers, stream=True, follow=False))

    def open_bare(self, url: str, headers: Headers) -> requests.Response:
        """The answer at a whole address (a signed download), unread; no credentials are sent, wherever it goes."""
        return self._ask(Request("GET", url, headers=headers, stream=True, bare=True))

    def post(self, route: str, body: object, *, timeout: float = READ_TIMEOUT) -> requests.Response:
        """The answer of a route to JSON, posted once. `post_once` is for callers that can look up what became of it."""
        return self._ask(Request("POST", self.route(route), json=body, follow=False), timeout=timeout)

    def post_json(self, route: str, body: object, *, timeout: float = READ_TIMEOUT) -> Any:
        """Post JSON once; the JSON of the answer, or None for the empty answers of /queue, /interrupt, /free."""
        response = self.post(route, body, timeout=timeout)
        return self.json_of(response) if response.content.strip() else None

    def post_form(self, route: str, form: Form) -> Any:
        """Post a form with a file once; the JSON of the answer."""
        headers = {"Content-Type": form.content_type}
        asked = Request("POST", self.route(route), form=form, headers=headers, follow=False)
        return self.json_of(self._ask(asked, timeout=UPLOAD_TIMEOUT))

    def _ask(self, asked: Request, attempts: int = 1, timeout: float = READ_TIMEOUT) -> requests.Response:
        """One answer below 400, asked for up to `attempts` times."""
        enough = time.monotonic() + timeout
        for attempt in range(1, attempts + 1):
            try:
                response = self._send(asked, time_left(timeout))
            except SkillError as error:
                # Do not retry a refused connection, nor a request that used up its timeout.
                if (
                    attempt == attempts
                    or not error.retryable
                    or error.details.get("reason") == "connection_refused"
                    or time.monotonic() >= min(enough, _deadline.get())
                ):
                    if error.code == "unreachable":
                        # Behind a network that has changed (VPN, Wi-Fi, NAT), kept-alive connections are dead without
                        # a sign.
                        self.renew_connections()
                    raise
                _pause(attempt, None)
                continue
            if response.status_code < 400:
                return response
            if attempt == attempts or response.status_code not in RETRIED_STATUSES:
                raise self.failure(response)
            wait = response.headers.get("Retry-After")
            response.close()
            _pause(attempt, wait)
        raise AssertionError("unreachable")

    def _send(self, asked: Request, timeout: float) -> requests.Response:
        """One answer of any status. Raises SkillError where there is none, or a redirect that is not followed."""
        import requests

        session = self.bare_session if asked.bare else self.session
        try:
            response = session.request(
                asked.method,
                asked.url,
                params=asked.params,
                json=asked.json,
                data=asked.form,
                headers=asked.headers,
                allow_redirects=asked.follow,
                stream=asked.stream,
                timeout=(min(CONNECT_TIMEOUT, timeout), timeout),
                watch=_watch(timeout, asked.stream, asked.endless),
            )
        except requests.RequestException as error:
            raise self._network_failure(error) from error
        if not asked.bare:
            self._note_date(response)
        if asked.method != "GET" and 300 <= response.status_code < 400:
            raise self._moved(response)
        return response

    def _note_date(self, response: requests.Response) -> None:
        if date := response.headers.get("Date"):
            self._date = (date, time.monotonic())

    def now(self) -> float:
        """The server's own time in seconds since the epoch, so that two clocks are never compared; ours if it reports none."""
        if self._date is not None:
            from email.utils import parsedate_to_datetime

            try:
                return parsedate_to_datetime(self._date[0]).timestamp() + time.monotonic() - self._date[1]
            except (ValueError, TypeError, OverflowError):
                pass
        return time.time()

    def _network_failure(self, error: Exception) -> SkillError:
        """The sentence for a request that got no answer."""
        import requests

        from comfyskill.server.session import RefusedRedirect, TooLarge, UnaskedCoding

        where = self.url
        if isinstance(error, TooLarge | UnaskedCoding):
            return SkillError(
                f"{where}: {error}",
                code="bad_answer",
                hint="is the address ComfyUI itself?",
            )
        if isinstance(error, RefusedRedirect):
            return SkillError(
                f"refused to follow {where}: {error}",
                code="unsafe_redirect",
                hint="nothing was sent there; if you know that address, pass it to --host, else ask the server's operator",
            )
        if isinstance(error, requests.TooManyRedirects):
            return SkillError(
                f"{where} redirects in a loop",
                code="redirect_loop",
                hint="is a proxy or login page in front of the server? give the final address, or its login with --header",
            )
        if isinstance(error, requests.exceptions.SSLError):
            return SkillError(
                f"the certificate or TLS of {where} was not accepted",
                code="unreachable",
                hint="use --ca-bundle FILE for a private authority, or --insecure if you accept the risk",
                server_said=safe_text.clean(error, SAID_LIMIT),
            )
        if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidHeader):
            return Misuse(f"the request for {where} is not valid: {safe_text.clean(error, 200)}")
        if isinstance(error, requests.Timeout):
            return SkillError(
                f"{where} did not answer in time",
                code="unreachable",
                retryable=True,
                hint="it may be busy; try again",
            )
        failure = unreachable(where)
        if never_connected(error):
            failure.details["reason"] = "connection_refused"
        return failure

    def _moved(self, response: requests.Response) -> SkillError:
        target = safe_text.clean(response.headers.get("Location", ""), 200).split("?")[0]
        return SkillError(
            f"{self.url} answered {response.status_code} and redirects elsewhere; nothing was sent there",
            code="moved",
            hint="use the final address as --host (or sign in with --header if this is a login page)",
            server_said=target,
        )

    def check_redirect(self, source: str, target: str) -> None:
        """Raises SkillError `unsafe_redirect` for an address that a download must not be sent to."""
        from comfyskill.server.session import RefusedRedirect

        try:
            self.session.check_redirect(source, target)
        except RefusedRedirect as error:
            raise self._network_failure(error) from error

    def failure(self, response: requests.Response) -> SkillError:
        """The SkillError for an answer of 400 or more; a dialect may know better sentences."""
        status, said = response.status_code, error_text(response)
        route = "/".join(map(safe_text.name, urlsplit(response.url).path.split("/")))
        if status in (401, 402, 403, 407):
            what = {
                401: "requires an API key, or the key is wrong",
                402: "requires payment",
                407: "(a proxy) requires a login",
            }
            return SkillError(
                f"{self.url} {what.get(status, 'forbids this')} (HTTP {status} on {route})",
                code="refused",
                hint="check --api-key-file or --header; a key is only sent to the server it was given for",
                server_said=said,
                http_status=status,
            )
        if status == 404:
            return SkillError(
                f"{self.url} has no {route} (HTTP 404)", code="not_found", server_said=said,
                hint="is the address right (host, port, base path), and is it ComfyUI?",
                http_status=status,
            )  # fmt: skip
        code = "busy" if status in RETRIED_STATUSES else "server_error" if status >= 500 else "bad_request"
        return SkillError(
            f"{self.url} answered HTTP {status} on {route}",
            code=code,
            exit=cli.Exit.FAILED,
            retryable=status in RETRIED_STATUSES,
            hint=STATUS_HINTS[code],
            server_said=said,
            http_status=status,
        )

    def json_of(self, response: requests.Response) -> Any:
        """The JSON in an answer; a web page where JSON belongs means that this is not ComfyUI."""
        try:
            return json.loads(response.content)
        except (ValueError, RecursionError) as error:
            kind = safe_text.clean(response.headers.get("Content-Type", "no type"), 60)
            raise SkillError(
                f"{self.url} did not answer with JSON ({kind}); is it ComfyUI?",
                code="bad_answer",
                hint="check --host: scheme, port and base path",
                server_said=safe_text.clean(text_of(response), 200),
            ) from error

    def post_once(
        self, path: str, body: Any, *, timeout: float = READ_TIMEOUT, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """Post JSON exactly once and return whatever came back, 400s included.

        Raises AnswerLost when the server may have carried it out (reset, time-out after sending, 5xx of a gateway,
        a 2xx that is not JSON), SkillError `unreachable` when it surely got nothing.
        """
        import requests

        from comfyskill.server.session import RefusedRedirect

        timeout = time_left(timeout)
        try:
            response = self.session.request(
                "POST", self.route(path), json=body, headers=headers, allow_redirects=False,
                timeout=(min(CONNECT_TIMEOUT, timeout), timeout), watch=_watch(timeout),
            )  # fmt: skip
        except (requests.exceptions.ConnectTimeout, requests.exceptions.SSLError) as error:
            raise self._network_failure(error) from error
        except (requests.exceptions.InvalidURL, RefusedRedirect) as error:
            # A redirect means that it was not carried out here, and it is followed nowhere.
            raise self._network_failure(error) from error
        except (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        ) as error:
            if never_connected(error):
                raise unreachable(self.url) from error
            raise AnswerLost("the connection broke before the answer arrived") from error
        self._note_date(response)
        if 300 <= response.status_code < 400:
            raise self._moved(response)
        if response.status_code >= 500 or response.status_code == 408:
            raise AnswerLost(f"HTTP {response.status_code}: {error_text(response)}", response.status_code)
        if response.status_code < 300:
            try:
                self.json_of(response)
            except SkillError as error:
                # A truncated body, or a login page: only the job list can show which.
                raise AnswerLost(error.message, response.status_code, failure=error) from error
        return response


def unreachable(url: str) -> SkillError:
    """Nothing answers at this address."""
    hint = "start ComfyUI (comfy launch), give its address with --host, or try --host demo"
    if is_cloud_host(url):
        hint = "check the internet connection and proxy settings of this machine"
    return SkillError(f"no server answers at {url}", code="unreachable", retryable=True, hint=hint)


def never_connected(error: BaseException) -> bool:
    """Whether a connection failure happened before anything was sent."""
    import urllib3

    seen: set[int] = set()
    pending: list[Any] = [error]
    while pending:
        cause = pending.pop()
        if not isinstance(cause, BaseException) or id(cause) in seen:
            continue
        seen.add(id(cause))
        if isinstance(cause, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)):
            return True
        pending += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
    return False


def error_text(response: requests.Response) -> str:
    """The server's own words in an error answer, cleaned and capped: any of its three JSON shapes, text, or a page's text."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        text = re.sub(r"<(script|style)\b.*?</\1>|<[^>]*>", " ", text_of(response, 20_000), flags=re.S | re.I)
        return safe_text.clean(" ".join(text.split()), SAID_LIMIT)
    return safe_text.clean(_words_of(body), SAID_LIMIT)


def text_of(response: requests.Response, most: int | None = None) -> str:
    """An answer's text, of its first `most` bytes: in the encoding that it names, else UTF-8. A guess could split words."""
    named = re.search(r"charset=[\"']?([\w.:-]+)", response.headers.get("Content-Type", ""), re.I)
    try:
        return response.content[:most].decode(named[1] if named else "utf-8", "replace")
    except LookupError:
        return response.content[:most].decode("utf-8", "replace")


def _words_of(body: Any) -> str:
    if not isinstance(body, Mapping):
        return str(body)
    inner = body.get("error")
    if isinstance(inner, Mapping):
        parts = [inner.get("type") or inner.get("code"), inner.get("message"), inner.get("details")]
    else:
        parts = [body.get("code"), body.get("message") or inner or body.get("detail")]
    said = [part if isinstance(part, str) else json.dumps(part) for part in parts if part]
    return ": ".join(said) or json.dumps(body)


def _pause(attempt: int, retry_after: str | None) -> None:
    time.sleep(time_left(pause_before(attempt, retry_after)))


# Per thread: the main thread's deadline must not bind download threads.
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
LEAST_TIME = 0.2


@contextmanager
def no_later_than(moment: float | None) -> Iterator[None]:
    """In this block requests of this thread give up at that time.monotonic() (None: no limit), whatever their own limits."""
    token = _deadline.set(_deadline.get() if moment is None else min(_deadline.get(), moment))
    try:
        yield
    finally:
        _deadline.reset(token)


def time_left(wish: float) -> float:
    """The seconds that a wait may take: those requested, or what `no_later_than` leaves of them."""
    return min(wish, max(_deadline.get() - time.monotonic(), LEAST_TIME))


def _watch(timeout: float, streamed: bool = False, endless: bool = False) -> Watch:
    """The time that an answer may take: `timeout`, more for a long one, and no more than `no_later_than` leaves."""
    from comfyskill.server.session import DOWNLOAD_PACE, MOST_EXTRA, PACE, Watch

    end = max(_deadline.get(), time.monotonic() + LEAST_TIME)
    pace, extra = (DOWNLOAD_PACE, math.inf) if streamed else (PACE, MOST_EXTRA)
    return Watch(timeout, end=end, pace=pace, extra=extra, endless=endless)


def time_is_up() -> bool:
    """Whether the time limit of `no_later_than` has passed."""
    return time.monotonic() >= _deadline.get()


def pause_before(attempt: int, retry_after: str | None = None) -> float:
    """Seconds to wait before the next attempt: what the server asked for, else exponential with jitter."""
    wait = retry_seconds(retry_after)
    if wait is not None:
        return min(wait, LONGEST_PAUSE)
    import random

    return min(0.2 * 2 ** (attempt - 1), 5.0) * random.uniform(0.5, 1.0)


def retry_seconds(retry_after: str | None) -> float | None:
    """The seconds in a Retry-After header, which may also hold a date; None when it cannot be read."""
    if not retry_after:
        return None
    try:
        wait = float(retry_after)
    except ValueError:
        from email.utils import parsedate_to_datetime

        try:
            wait = parsedate_to_datetime(retry_after).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(wait, 0.0) if wait == wait else None


def stream(response: requests.Response, size: int = 1 << 20) -> Iterator[bytes]:
    """The body in pieces, so that memory does not grow with the file.

    Raises SkillError `download_failed` when it comes too slowly, what the library raises when it is cut.
    """
    import urllib3

    while True:
        try:
            piece = response.raw.read(size, decode_content=True)
        except urllib3.exceptions.ReadTimeoutError as error:
            if response.watch.left() > 0:  # type: ignore[attr-defined]
                raise
            raise SkillError(
                "the download stalled or is too slow",
                code="download_failed",
                retryable=True,
                hint="check the connection to the server and any proxy in between",
            ) from error
        if not piece:
            return
        yield piece
