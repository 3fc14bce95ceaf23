"""Frames as values: fuzzed, and the recorded transcripts of a real server replayed through a real socket."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from hypothesis import given
from hypothesis import strategies as st

from comfyskill.server import events

TRANSCRIPTS: dict[str, dict[str, list[Any]]] = json.loads(
    (Path(__file__).parent.parent / "data/ws/transcripts.json").read_text(encoding="utf-8")
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_malformed(data: bytes) -> None:
    assert isinstance(events.parse_binary(data), events.Preview | events.Text | events.Malformed)
    assert isinstance(events.parse_text(data), events.Event | events.Malformed)


@given(st.sampled_from([1, 3, 4]), st.integers(0, 2**32 - 1), st.binary(max_size=120))
def test_any_length_field_is_survived(kind: int, length: int, rest: bytes) -> None:
    frame = events.parse_binary(struct.pack(">II", kind, length) + rest)
    assert isinstance(frame, events.Preview | events.Text | events.Malformed)


@given(
    st.sampled_from(
        ["progress", "progress_state", "executing", "executed", "status", "execution_cached", "new"]
    ),
    JSON,
)
def test_any_data_of_any_type_is_read(kind: str, data: Any) -> None:
    event = events.parse_text(json.dumps({"type": kind, "data": data}))
    assert isinstance(event, events.Event) and event.type == kind
    events.progress_nodes(event)
    events.cached_nodes(event)
    events.output_of(event)
    assert events.number(event.data.get("value")) == events.number(event.data.get("value"))


@given(JSON)
def test_the_progress_view_survives_any_data(data: Any) -> None:
    from comfyskill.run.progress import Progress

    progress = Progress({"1": {"class_type": "KSampler", "inputs": {}}}, quiet=True)
    for kind in (
        "execution_start",
        "execution_cached",
        "executing",
        "progress",
        "progress_state",
        "job_pending",
        "job_progress",
    ):
        frame = events.parse_text(json.dumps({"type": kind, "data": data}))
        assert isinstance(frame, events.Event)
        progress.on(frame)
        assert 0.0 <= progress.share < 1.0


def as_sent(frame: Any) -> str | bytes:
    """A recorded frame as it was on the wire; pictures are cut to their first bytes."""
    binary = frame.get("binary") if isinstance(frame, dict) else None
    if binary is None:
        return json.dumps(frame)
    head = bytes.fromhex(binary["payload_head_hex"] or "")
    if binary["type"] == 4:
        meta = json.dumps(binary["metadata"]).encode()
        return struct.pack(">II", 4, len(meta)) + meta + head
    if binary["type"] == 3:
        node = str(binary["node_id"]).encode()
        return struct.pack(">II", 3, len(node)) + node + str(binary["text"]).encode()
    return struct.pack(">II", 1, binary["image_type"]) + head


ALL_FRAMES = [
    (name, conn, frame)
    for name, conns in TRANSCRIPTS.items()
    for conn, frames in conns.items()
    for frame in frames
]


def test_every_recorded_frame_is_understood() -> None:
    assert len(ALL_FRAMES) > 800
    for name, _, frame in ALL_FRAMES:
        sent = as_sent(frame)
        parsed = events.parse_binary(sent) if isinstance(sent, bytes) else events.parse_text(sent)
        assert not isinstance(parsed, events.Malformed), (name, frame)


def test_recorded_previews_have_the_suffix_of_their_bytes() -> None:
    seen = set()
    for _, _, frame in ALL_FRAMES:
        sent = as_sent(frame)
        parsed = events.parse_binary(sent) if isinstance(sent, bytes) else None
        if isinstance(parsed, events.Preview):
            seen.add((parsed.suffix, parsed.node is not None))
            assert parsed.suffix == {b"\x89": ".png", b"\xff": ".jpg"}[parsed.image[:1]]
    assert seen == {(".png", True), (".jpg", True), (".png", False), (".jpg", False)}


def ends(frames: list[Any]) -> dict[str, str]:
    """Prompt id -> outcome, as the recorded frames tell it (the last end of an id counts)."""
    found = {}
    for frame in frames:
        if frame.get("type") in events.END_TYPES:
            found[frame["data"]["prompt_id"]] = events.END_TYPES[frame["type"]]
    return found


CASES = sorted(
    (name, conn) for name, conns in TRANSCRIPTS.items() for conn, frames in conns.items() if ends(frames)
)


class Replay:
    """A server that plays one recorded connection to whoever opens its socket, and keeps the history it ends in."""

    def __init__(self) -> None:
        self.frames: list[str | bytes] = []
        self.history: dict[str, Any] = {}
        ready = threading.Event()

        def serve() -> None:
            self.loop = asyncio.new_event_loop()
            self.loop.run_until_complete(self._start())
            ready.set()
            self.loop.run_forever()

        threading.Thread(target=serve, daemon=True).start()
        ready.wait(60)

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/ws", self._socket)
        app.router.add_get("/history/{id}", self._history)
        app.router.add_get("/queue", self._queue)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for frame in self.frames:
            await (socket.send_bytes(frame) if isinstance(frame, bytes) else socket.send_str(frame))
        async for message in socket:
            if message.type != WSMsgType.TEXT:
                break
        return socket

    async def _history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["id"]
        entry = self.history.get(prompt_id)
        return web.json_response({prompt_id: entry} if entry else {})

    async def _queue(self, _request: web.Request) -> web.Response:
        return web.json_response({"queue_running": [], "queue_pending": []})


@pytest.fixture(scope="module")
def replay() -> Iterator[Replay]:
    server = Replay()
    yield server
    server.loop.call_soon_threadsafe(server.loop.stop)


@pytest.mark.parametrize(("name", "conn"), CASES, ids=lambda value: str(value))
def test_a_recorded_run_is_followed_to_its_end(replay: Replay, name: str, conn: str) -> None:
    import _common
    from comfyskill.server.local import Local
    from comfyskill.server.watch import Ended, Update, Watcher

    frames = TRANSCRIPTS[name][conn]
    expected = ends(frames)
    words = {"success": "execution_success", "error": "execution_error", "cancelled": "execution_interrupted"}
    replay.frames = [as_sent(frame) for frame in frames]
    replay.history = {
        prompt_id: {
            "prompt": [0, prompt_id, {}, {}, []],
            "outputs": {},
            "status": {
                "status_str": "x",
                "completed": False,
                "messages": [[words[outcome], {"prompt_id": prompt_id}]],
            },
        }
        for prompt_id, outcome in expected.items()
    }
    watcher = Watcher(Local(replay.url, _common.Access()), "client-a")
    watcher.open()
    for prompt_id in expected:
        watcher.watch(prompt_id)
    outcomes: dict[str, str | None] = {}
    executed: dict[str, set[str]] = {}
    while watcher.watching:
        for item in watcher.updates(5):
            if isinstance(item, Ended):
                outcomes[item.state.prompt_id] = item.state.outcome
                executed[item.state.prompt_id] = set(item.state.outputs)
            else:
                assert isinstance(item, Update) and item.prompt_id in expected
    watcher.close()
    assert outcomes == expected
    for prompt_id in expected:
        told = {
            str(frame["data"]["node"])
            for frame in frames
            if frame.get("type") == "executed"
            and frame["data"]["prompt_id"] == prompt_id
            and frame["data"]["output"]
        }
        assert told <= executed[prompt_id] or name in ("same_prompt_id_twice",)
