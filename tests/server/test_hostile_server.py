"""Servers that send without end, too slowly, too much or packed: every answer has an end in time and in memory."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from bundle import Runner
from comfyskill.base.cli import SkillError
from comfyskill.server import events, session, socket, transport
from comfyskill.server.cloud import Cloud
from comfyskill.server.local import Local
from comfyskill.server.protocol import FileRef
from raw_server import Raw, Talk, frame

# What fits into the buffers of two sockets, and a little more: what a client leaves unread does not fill more.
UNREAD = 32 << 20
CHUNK = b"%x\r\n%b\r\n" % (1 << 16, bytes(1 << 16))


@pytest.fixture
def raw() -> Iterator[Callable[[Callable[[Talk], Any]], Raw]]:
    started: list[Raw] = []

    def start(answer: Callable[[Talk], Any]) -> Raw:
        started.append(Raw(answer))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def ended_by_us(server: Raw, most: int | None = None) -> None:
    """The endless answer ended because the client left, after no more than `most` bytes."""
    server.wait()
    assert server.seen and not server.ran_out
    assert most is None or server.sent < most, server.sent


def refusal(call: Callable[[], Any]) -> SkillError:
    with pytest.raises(SkillError) as raised:
        call()
    return raised.value


def asked(url: str, route: str, *, streamed: bool, timeout: float = transport.READ_TIMEOUT) -> Any:
    """The answer to one GET, its body unread or read whole."""
    server = Local(url)
    return (
        server.open_stream(route, timeout=timeout)
        if streamed
        else server.get(route, attempts=1, timeout=timeout)
    )


# --- redirects
def endless_redirect(talk: Talk) -> None:
    talk.head("302 Found", Location="/there", Transfer_Encoding="chunked")
    talk.forever(CHUNK)


def test_the_body_of_a_redirect_is_not_read(raw: Any) -> None:
    def answer(talk: Talk) -> None:
        if talk.path == "/thing":
            endless_redirect(talk)
        else:
            talk.head(Content_Length=1)
            talk.send(b"7")

    server = raw(answer)
    assert Local(server.url).get_json("thing") == 7
    ended_by_us(server, UNREAD)


def test_nor_is_that_of_a_redirect_that_is_not_followed(raw: Any) -> None:
    server = raw(endless_redirect)
    assert refusal(lambda: Local(server.url).post_json("queue", {})).code == "moved"
    assert refusal(lambda: Local(server.url).post_once("prompt", {})).code == "moved"
    ended_by_us(server, UNREAD)


def test_a_circle_of_endless_redirects_ends(raw: Any) -> None:
    server = raw(endless_redirect)
    assert refusal(lambda: Local(server.url).get_json("thing", attempts=1)).code == "redirect_loop"
    assert len(server.seen) == 1 + session.MOST_REDIRECTS
    ended_by_us(server, 6 * UNREAD)


def test_the_redirect_of_a_signed_address_is_not_read(raw: Any) -> None:
    def answer(talk: Talk) -> None:
        if talk.path.startswith("/api/view"):
            endless_redirect(talk)
        else:
            talk.head(Content_Length=4)
            talk.send(b"\x89PNG")

    server = raw(answer)
    with Cloud(server.url).open_file(FileRef("x.png")) as response:
        assert b"".join(transport.stream(response)) == b"\x89PNG"
    ended_by_us(server, UNREAD)


# --- size
@pytest.mark.parametrize("streamed", [False, True])
def test_a_failure_without_end_is_not_read_to_its_end(
    raw: Any, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    """A download's failure too: its words are wanted, and so it is read."""
    monkeypatch.setattr(session, "MOST_BYTES_OF_FAILURE", 1 << 20)

    def answer(talk: Talk) -> None:
        talk.head("500 X", Transfer_Encoding="chunked")
        talk.forever(CHUNK)

    server = raw(answer)
    error = refusal(lambda: asked(server.url, "view", streamed=streamed))
    assert error.code == "bad_answer"
    ended_by_us(server, UNREAD)


def packed(body: bytes, coding: str) -> Callable[[Talk], None]:
    def answer(talk: Talk) -> None:
        talk.head(Content_Encoding=coding, Content_Length=len(body))
        talk.send(body)

    return answer


def test_a_packed_answer_is_read_and_one_packed_twice_is_refused(raw: Any) -> None:
    plain = json.dumps({"a": 1}).encode()
    assert Local(raw(packed(gzip.compress(plain), "gzip")).url).get_json("x") == {"a": 1}
    assert Local(raw(packed(zlib.compress(plain), "deflate")).url).get_json("x") == {"a": 1}
    twice = raw(packed(gzip.compress(gzip.compress(plain)), "gzip, gzip"))
    assert refusal(lambda: Local(twice.url).get_json("x", attempts=1)).code == "bad_answer"


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_an_answer_is_measured_as_it_is_unpacked(
    raw: Any, monkeypatch: pytest.MonkeyPatch, coding: str
) -> None:
    monkeypatch.setattr(session, "MOST_BYTES", 1 << 20)
    body = json.dumps("x" * (1 << 20)).encode()
    server = raw(packed({"gzip": gzip.compress, "deflate": zlib.compress}[coding](body), coding))
    assert refusal(lambda: Local(server.url).get_json("x", attempts=1)).code == "bad_answer"


@pytest.mark.parametrize("coding", ["gzip", "gzip, gzip", "x-gzip", "br", "zstd"])
def test_a_file_that_is_packed_unasked_is_refused(raw: Any, coding: str) -> None:
    server = raw(packed(gzip.compress(b"picture"), coding))
    assert refusal(lambda: Local(server.url).open_file(FileRef("x.png"))).code == "bad_answer"


@pytest.mark.parametrize("coding", ["identity", "aws-chunked"])
def test_a_file_that_says_that_it_is_not_packed_is_taken(raw: Any, coding: str) -> None:
    with Local(raw(packed(b"picture", coding)).url).open_file(FileRef("x.png")) as response:
        assert b"".join(transport.stream(response)) == b"picture"


# --- time
def dripping_json(talk: Talk) -> None:
    talk.head(Content_Length=100_000)
    talk.forever(b" ", 0.05)


def dripping_head(talk: Talk) -> None:
    talk.send(b"HTTP/1.1 200 OK\r\nX: ")
    talk.forever(b"x", 0.05)


def endless_continue(talk: Talk) -> None:
    talk.forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.01)


SLOW = {"a drip": dripping_json, "a dripping head": dripping_head, "100 without end": endless_continue}


@pytest.mark.parametrize("name", SLOW)
def test_an_answer_that_never_comes_to_its_end_is_given_up(raw: Any, name: str) -> None:
    server = raw(SLOW[name])
    error = refusal(lambda: Local(server.url).get_json("thing", timeout=1))
    assert (error.code, len(server.seen)) == ("unreachable", 1)
    ended_by_us(server)


@pytest.mark.parametrize("name", SLOW)
def test_the_time_that_is_left_to_a_command_holds_for_an_answer_of_any_kind(raw: Any, name: str) -> None:
    server = raw(SLOW[name])
    with transport.no_later_than(time.monotonic() + 1):
        refusal(lambda: Local(server.url).get_json("thing"))
        with pytest.raises(transport.AnswerLost):
            Local(server.url).post_once("prompt", {})
    ended_by_us(server)


@pytest.mark.parametrize("name", ["a dripping head", "100 without end"])
def test_the_head_of_a_download_is_given_up(raw: Any, name: str) -> None:
    server = raw(SLOW[name])
    refusal(lambda: Local(server.url).open_stream("view", timeout=1))
    ended_by_us(server)


def test_a_download_that_drips_is_given_up(raw: Any) -> None:
    server = raw(dripping_json)
    response = Local(server.url).open_stream("view", timeout=1)
    with response:
        error = refusal(lambda: b"".join(transport.stream(response)))
    assert error.code == "download_failed"
    ended_by_us(server)


def endless_trailer(talk: Talk) -> None:
    talk.head(Transfer_Encoding="chunked")
    talk.send(b"1\r\nx\r\n0\r\n")
    talk.forever(b"X: y\r\n" * 1000)


def test_a_trailer_without_end_is_given_up(raw: Any) -> None:
    server = raw(endless_trailer)
    response = Local(server.url).open_stream("view", timeout=5)
    with response, pytest.raises((SkillError, urllib3.exceptions.HTTPError)):
        b"".join(transport.stream(response))
    ended_by_us(server, UNREAD)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_long_answer_may_take_longer_than_a_short_one(raw: Any, streamed: bool) -> None:
    body = json.dumps("x" * 400_000).encode()

    def answer(talk: Talk) -> None:
        talk.head(Content_Length=len(body))
        for start in range(0, len(body), 40_000):
            talk.send(body[start : start + 40_000])
            time.sleep(0.25)

    response = asked(raw(answer).url, "thing", timeout=1, streamed=streamed)
    with response:
        got = b"".join(transport.stream(response)) if streamed else response.content
    assert got == body


def test_an_event_stream_may_stand_still(raw: Any) -> None:
    from comfyskill.server.v2 import V2

    def answer(talk: Talk) -> None:
        talk.head(Content_Type="text/event-stream", Transfer_Encoding="chunked")
        for number in range(8):
            event = b"event: progress\ndata: %d\n\n" % number
            talk.send(b"%x\r\n%b\r\n" % (len(event), event))
            time.sleep(0.3)
        talk.send(b"0\r\n\r\n")

    server = V2(raw(answer).url)
    response = server.open_stream("events", timeout=1, endless=True)

    assert len(list(socket.parse(response.iter_content(socket.READ_SIZE)))) == 8


def test_a_command_with_a_time_limit_ends_although_every_answer_drips(run: Runner, raw: Any) -> None:
    def answer(talk: Talk) -> None:
        body = b'{"supports_preview_metadata": true}'
        if talk.path == "/features":
            talk.head(Content_Length=len(body))
            talk.send(body)
        elif talk.path.startswith("/ws"):
            talk.head("404 Not Found", Content_Length=0)
        else:
            dripping_json(talk)

    server = raw(answer)
    ran = run("run_workflow.py", "--resume", "job", "--host", server.url, "--timeout", "2", "--quiet")
    assert ran.code in (1, 3, 5), ran.out
    ended_by_us(server)


# --- WebSocket
def socket_of(server: Raw) -> socket.Wire:
    return socket.Wire(Local(server.url), "me")


def outcome(wire: socket.Wire, frames: int = 10_000) -> socket.Disconnected:
    with pytest.raises(socket.Disconnected) as raised:
        for _ in range(frames):
            wire.receive(0.5)
    return raised.value


def upgraded(then: Callable[[Talk], None]) -> Callable[[Talk], None]:
    def answer(talk: Talk) -> None:
        talk.upgrade()
        then(talk)

    return answer


def huge_frame(talk: Talk) -> None:
    talk.send(frame(b"", 2, announced=1 << 40))
    talk.forever(bytes(1 << 20))


def huge_ping(talk: Talk) -> None:
    talk.send(frame(b"", 9, announced=1 << 40))
    talk.forever(bytes(1 << 20))


def endless_fragments(talk: Talk) -> None:
    talk.send(frame(bytes(1 << 20), 2, last=False))
    talk.forever(frame(bytes(1 << 20), 0, last=False))


def empty_fragments(talk: Talk) -> None:
    talk.send(frame(b"", 1, last=False))
    talk.forever(frame(b"", 0, last=False) * 1000)


@pytest.mark.parametrize("hostile", [huge_frame, huge_ping, endless_fragments, empty_fragments])
def test_a_message_without_end_ends_the_socket(
    raw: Any, monkeypatch: pytest.MonkeyPatch, hostile: Callable[[Talk], None]
) -> None:
    monkeypatch.setattr(socket, "MOST_MESSAGE", 8 << 20)
    server = raw(upgraded(hostile))
    wire = socket_of(server)
    assert outcome(wire).mute
    wire.close()
    ended_by_us(server, UNREAD)


def test_a_large_picture_comes_whole_in_one_frame_or_in_many(raw: Any) -> None:
    picture = bytes(range(256)) * (20 << 12)
    body = b"\0\0\0\1\0\0\0\2" + picture

    def send(talk: Talk) -> None:
        talk.send(frame(body, 2))
        parts = [body[start : start + (1 << 20)] for start in range(0, len(body), 1 << 20)]
        for number, part in enumerate(parts):
            talk.send(frame(part, 0 if number else 2, last=number == len(parts) - 1))
            talk.send(frame(b"beat", 10))
        talk.send(frame(b"", 8))
        # Who closes with something unread takes back what the other side has not read yet.
        while talk.plain.recv(1 << 16):
            pass

    wire = socket_of(raw(upgraded(send)))
    got = []
    with pytest.raises(socket.Disconnected):
        while True:
            got.append(wire.receive(1.0))
    pictures = [item for item in got if isinstance(item, events.Preview)]
    assert [item.image for item in pictures] == [picture, picture]


def test_a_frame_that_drips_keeps_nobody_waiting_and_its_bytes_count_as_a_sign_of_life(raw: Any) -> None:
    def send(talk: Talk) -> None:
        talk.send(frame(b"", 1, announced=1000))
        talk.forever(b" ", 0.02)

    server = raw(upgraded(send))
    wire = socket_of(server)
    before = wire.heard
    assert wire.receive(0.3) is None
    assert wire.receive(0.3) is None
    assert not server.ran_out and wire.heard > before
    wire.close()
    ended_by_us(server)


def test_a_handshake_that_drips_is_given_up(raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "CONNECT_TIMEOUT", 1.0)
    server = raw(dripping_head)
    with pytest.raises(socket.Disconnected) as raised:
        socket_of(server)
    assert raised.value.mute
    ended_by_us(server)


def test_a_job_whose_socket_floods_is_followed_without_it(run: Runner, raw: Any) -> None:
    """The flood costs the live progress, not the job."""
    job = {
        "prompt": [1, "job", {}, {}, []],
        "outputs": {},
        "status": {"status_str": "success", "completed": True, "messages": []},
    }
    looks: list[float] = []

    def answer(talk: Talk) -> None:
        if talk.path.startswith("/ws"):
            talk.upgrade()
            greeting = {
                "type": "status",
                "data": {"status": {"exec_info": {"queue_remaining": 1}}, "sid": "me"},
            }
            talk.send(frame(json.dumps(greeting).encode()))
            huge_frame(talk)
            return
        looks.append(time.monotonic())
        done = len(looks) > 12
        found: dict[str, Any] = {
            "/features": {"supports_preview_metadata": True},
            "/history/job": {"job": job} if done else {},
            "/api/jobs/job": {"id": "job", "status": "in_progress"},
            "/queue": {"queue_running": [[1, "job", {}, {}, []]], "queue_pending": []},
        }
        body = json.dumps(found.get(talk.path, {})).encode()
        talk.head("200 OK" if talk.path in found else "404 X", Content_Length=len(body), Connection="close")
        talk.send(body)

    server = raw(answer)
    ran = run(
        "run_workflow.py", "--resume", "job", "--host", server.url, "--timeout", "40", "--output-dir", "out"
    )
    assert ran.json["status"] == "success", ran.out
    assert sum("/ws" in line for line in server.seen) == 1
    ended_by_us(server, UNREAD)


def test_nothing_is_left_of_what_was_refused(run: Runner, raw: Any, tmp_path: Path) -> None:
    """A picture that is packed unasked leaves no file, whole or half."""
    record = {
        "prompt": [1, "job", {}, {}, ["1"]],
        "outputs": {"1": {"images": [{"filename": "x.png", "subfolder": "", "type": "output"}]}},
        "status": {"status_str": "success", "completed": True, "messages": []},
    }

    def answer(talk: Talk) -> None:
        if talk.path.startswith("/view"):
            packed(gzip.compress(gzip.compress(bytes(1 << 24))), "gzip, gzip")(talk)
            return
        found: dict[str, Any] = {
            "/features": {"supports_preview_metadata": True},
            "/history/job": {"job": record},
        }
        body = json.dumps(found.get(talk.path, {})).encode()
        talk.head("200 OK" if talk.path in found else "404 X", Content_Length=len(body), Connection="close")
        talk.send(body)

    words = ["--host", raw(answer).url, "--output-dir", "out"]
    ran = run("run_workflow.py", "--resume", "job", *words)
    assert ran.json["failed_downloads"][0]["code"] == "bad_answer", ran.out
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
