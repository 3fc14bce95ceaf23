"""Comfy API v2 as values: job objects, event streams, errors. The shapes are those that were recorded."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from comfyskill.server import events, protocol, socket, v2_records

JOB: dict[str, Any] = {
    "id": "f7be5f07-9a2a-486d-bf69-52ea9b9c9603",
    "status": "succeeded",
    "created_at": "2026-11-22T03:24:03.812603+00:00",
    "started_at": None,
    "completed_at": None,
    "expires_at": "2026-11-23T03:24:03.812603+00:00",
    "queue_position": None,
    "progress": None,
    "outputs": [],
    "error": None,
    "outputs_reused": False,
}
FUTURE = "2999-01-01T00:00:00+00:00"


def url_of(asset_id: str) -> str:
    return f"http://server/{asset_id}"


def state(**changes: Any) -> protocol.JobState:
    return v2_records.state_of("x", {**JOB, **changes}, url_of)


def output(**changes: Any) -> dict[str, Any]:
    return {
        "node_id": "2",
        "name": "a.png",
        "type": "image",
        "content_type": "image/png",
        "id": "A",
        **changes,
    }


@pytest.mark.parametrize(
    ("word", "phase", "outcome"),
    [
        ("queued", "pending", None),
        ("running", "running", None),
        ("canceling", "running", None),
        ("succeeded", "done", "success"),
        ("failed", "done", "error"),
        ("canceled", "done", "cancelled"),
        ("a_word_of_next_year", "running", None),
    ],
)
def test_each_status_has_a_phase_and_an_outcome(word: str, phase: str, outcome: str | None) -> None:
    assert (state(status=word).phase, state(status=word).outcome) == (phase, outcome)


def test_expired_before_its_time_is_not_believed() -> None:
    assert state(status="expired", expires_at=FUTURE).phase == "unknown"


def test_expired_after_its_time_is_an_end_that_says_why() -> None:
    late = state(status="expired", expires_at="2020-01-01T00:00:00Z")

    assert (late.phase, late.outcome) == ("done", "error")
    assert late.error is not None and late.error["exception_type"] == "expired"


def test_an_error_gets_the_names_that_comfyui_uses() -> None:
    failed = state(
        status="failed",
        error={
            "code": "node_execution_error",
            "message": "boom",
            "node_id": "3",
            "class_type": "LoadImage",
            "traceback": None,
        },
    )

    assert failed.error == {
        "node_id": "3",
        "node_type": "LoadImage",
        "exception_type": "node_execution_error",
        "exception_message": "boom",
        "traceback": [],
    }


def test_a_failure_without_an_error_object_still_has_a_message() -> None:
    assert state(status="failed").error == {"exception_message": "the server gave no reason"}


def test_outputs_take_comfyuis_own_shape_and_carry_their_address() -> None:
    outputs = state(
        outputs=[output(), output(name="b.mp4", type="video", content_type="video/mp4", id="B")]
    ).outputs

    assert outputs["2"]["images"] == [
        {"filename": "a.png", "subfolder": "", "type": "output", "url": "http://server/A", "content_type": "image/png",
         "asset_id": "A"}
    ]  # fmt: skip
    assert outputs["2"]["videos"][0]["filename"] == "b.mp4"


def test_the_same_output_twice_is_one_file_and_equal_names_of_a_node_stay_apart() -> None:
    files = state(outputs=[output(), output(), output(id="B")]).outputs["2"]["images"]

    assert [(file["filename"], file["subfolder"], file["asset_id"]) for file in files] == [
        ("a.png", "", "A"),
        ("a.png", "2", "B"),
    ]


def test_previews_are_known_by_their_name_since_v2_does_not_mark_them() -> None:
    files = state(outputs=[output(name="ComfyUI_temp_ssspy_00001_.png")]).outputs["2"]["images"]

    assert files[0]["type"] == "temp"


@pytest.mark.parametrize(
    "broken", [None, {}, "x", [1, None], [{"node_id": "1"}], [{"name": "x.png"}], [{"name": ""}]]
)
def test_broken_outputs_are_no_outputs(broken: Any) -> None:
    assert state(outputs=broken).outputs == {}


def test_the_proxys_constant_zeros_are_no_progress() -> None:
    zeros = {"value": 0.0, "nodes_done": 0, "nodes_total": 0}

    assert state(status="running", progress=zeros).progress is None
    assert state(status="running", progress={**zeros, "nodes_total": 3}).progress == {
        **zeros,
        "nodes_total": 3,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-11-22T03:24:03.812603+00:00", 1795317843.812603),
        ("2026-11-22T03:24:03Z", 1795317843.0),
        ("2026-11-22T03:24:03.8Z", 1795317843.8),
        ("2026-11-22T03:24:03.812603999+00:00", 1795317843.812603),
        ("2026-11-22T05:24:03+02:00", 1795317843.0),
        (1795317843, 1795317843.0),
        (1795317843812, 1795317843.812),
        ("yesterday", None),
        (None, None),
        (True, None),
    ],
)
def test_times_of_every_surface(text: Any, value: float | None) -> None:
    assert v2_records.when(text) == (pytest.approx(value) if value is not None else None)


@pytest.mark.parametrize(
    ("label", "mark"),
    [
        ("comfyui_skill_mark:abc", "abc"),
        ({"comfyui_skill_mark": "abc"}, "abc"),
        ("batch-7", None),
        ({}, None),
        (None, None),
    ],
)
def test_our_mark_is_read_from_both_kinds_of_label(label: Any, mark: str | None) -> None:
    assert v2_records.mark_of({"metadata": label}) == mark


def test_rows_of_proxy_and_deployment_lists() -> None:
    proxy = v2_records.row({**JOB, "outputs": [output()]})
    deployment = v2_records.row({"id": "d", "status": "running", "create_time": 1795317844469})

    assert (proxy.phase, proxy.outcome, proxy.outputs_count) == ("done", "success", 1)
    assert (deployment.phase, deployment.created) == ("running", 1795317844.469)


# --- event streams


def parsed(text: str, size: int = 7) -> list[tuple[str, str]]:
    raw = text.encode()
    return list(socket.parse(raw[index : index + size] for index in range(0, len(raw), size)))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_frames_are_read_whatever_the_line_ends_and_the_pieces(end: str, size: int) -> None:
    stream = f"event: status{end}data: {{}}{end}{end}: keepalive{end}{end}event:log{end}data:a{end}data: b{end}{end}"

    assert parsed(stream, size) == [("status", "{}"), ("log", "a\nb")]


def test_a_frame_that_breaks_off_is_dropped() -> None:
    assert parsed("event: status\ndata: {}\n\nevent: progress\ndata: {") == [("status", "{}")]


def test_a_frame_without_end_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "MOST_FRAME", 1000)

    def endless() -> Any:
        yield b"data: "
        for _ in range(1000):
            yield b"x" * 100

    assert list(socket.parse(endless())) == []


def test_a_frame_of_endless_lines_is_dropped_and_the_next_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "MOST_FRAME", 1000)
    stream = "event: log\n" + "data: 0123456789\n" * 500 + "\nevent: status\ndata: {}\n\n"

    assert parsed(stream) == [("status", "{}")]


def test_progress_becomes_an_event_that_names_its_node() -> None:
    snapshot = {"value": 0.5, "nodes_done": 1, "nodes_total": 2, "current_node": "5", "step": 3, "steps": 20}

    frame = socket.frame_of("job", "progress", json.dumps(snapshot))

    assert frame == events.Event("job_progress", "job", "5", snapshot)


def test_a_preview_becomes_a_picture() -> None:
    data = {
        "node_id": "5",
        "content_type": "image/jpeg",
        "data_base64": base64.b64encode(b"\xff\xd8\xff....").decode(),
    }

    frame = socket.frame_of("job", "preview", json.dumps(data))

    assert isinstance(frame, events.Preview)
    assert (frame.image, frame.suffix, frame.prompt_id, frame.node) == (
        b"\xff\xd8\xff....",
        ".jpg",
        "job",
        "5",
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [("log", "{}"), ("new_in_2027", "{}"), ("progress", "not json"), ("progress", "[1]"), ("preview", "{}"),
     ("preview", '{"data_base64": "***"}')],
)  # fmt: skip
def test_what_cannot_be_used_is_skipped(name: str, data: str) -> None:
    assert socket.frame_of("job", name, data) is None


def test_a_stream_that_cannot_be_opened_says_that_it_ended() -> None:
    def never() -> None:
        raise OSError("gone")

    stream = socket.EventStream("job", never)
    with pytest.raises(socket.StreamEnded):
        for _ in range(100):
            assert stream.receive(0.05) is None
