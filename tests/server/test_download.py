"""The download that results and models share: what continues a file, and what does not."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from comfyskill.base.cli import SkillError
from comfyskill.server import download, transport
from comfyskill.server.session import SecureSession

BODY = os.urandom(300_000)


class Host:
    """Answers GETs by a script of (status, Content-Range, ETag, body, bytes that are sent of it)."""

    def __init__(self) -> None:
        self.script: list[tuple[int, str, str, bytes, int]] = []
        self.ranges: list[str | None] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                host.ranges.append(self.headers.get("Range"))
                status, stated, etag, body, sent = host.script.pop(0)
                self.send_response(status)
                self.send_header("ETag", etag)
                if stated:
                    self.send_header("Content-Range", stated)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:sent])

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/file"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(transport, "pause_before", lambda *_: 0.0)
    server = Host()
    yield server
    server.stop()


def fetch(host: Host, path: Path, most: int | None = None) -> bytes:
    with SecureSession(host.url, {}) as session, path.open("wb") as file:

        def ask(offset: int, validator: str | None):
            headers = {"Range": f"bytes={offset}-", "If-Range": validator or ""} if offset else {}
            return session.get(host.url, headers=headers, stream=True, timeout=30)

        arriving = download.Arriving(file, path.parent, hashed=True)
        arriving.most = most or arriving.most
        download.receive(arriving, ask)
    return path.read_bytes()


WHOLE = (200, "", '"a"', BODY, len(BODY))
CUT = (200, "", '"a"', BODY, 200_000)


def rest(start: int, etag: str = '"a"', total: int = len(BODY)) -> tuple[int, str, str, bytes, int]:
    body = BODY[start:]
    return 206, f"bytes {start}-{len(BODY) - 1}/{total}", etag, body, len(body)


@pytest.mark.parametrize(
    "wrong",
    [rest(100), rest(196_608, etag='"b"'), rest(196_608, total=len(BODY) + 1)],
    ids=["another part", "another version", "another length"],
)
def test_a_part_that_does_not_continue_the_file_is_not_appended(
    host: Host, tmp_path: Path, wrong: tuple[int, str, str, bytes, int]
) -> None:
    host.script = [CUT, wrong, WHOLE]
    assert fetch(host, tmp_path / "file") == BODY
    assert host.ranges[0] is None and host.ranges[1] and host.ranges[2] is None


def test_a_version_without_a_validator_starts_anew(host: Host, tmp_path: Path) -> None:
    host.script = [(200, "", 'W/"a"', BODY, 200_000), WHOLE]
    assert fetch(host, tmp_path / "file") == BODY
    assert host.ranges == [None, None]


def test_a_server_that_always_breaks_off_is_given_up(host: Host, tmp_path: Path) -> None:
    host.script = [(200, "", 'W/"a"', BODY, 200_000)] * 20
    with pytest.raises(download.Broken):
        fetch(host, tmp_path / "file")
    assert len(host.ranges) == download.ATTEMPTS


def test_a_file_over_the_limit_is_refused_by_its_stated_length(host: Host, tmp_path: Path) -> None:
    host.script = [WHOLE]
    with pytest.raises(SkillError) as caught:
        fetch(host, tmp_path / "file", most=1000)
    assert caught.value.code == "too_large"
    assert (tmp_path / "file").stat().st_size == 0
