"""Comfy API v2 where a hosted service speaks it: refusals, lost answers, labels, signed downloads, event streams."""

from __future__ import annotations

import email.utils
import json
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

import _common
import graphs
from bundle import Runner
from comfyskill.base.cli import SkillError
from comfyskill.run import collect
from comfyskill.server import transport
from comfyskill.server.protocol import Submission
from comfyskill.server.v2 import V2
from comfyskill.server.watch import Ended, Update, Watcher
from v2_servers import PICTURE, Hosted, Seen, Storage, refuse, running, send, sse

KEY = "comfyui-0123456789abcdef"


@pytest.fixture
def storage() -> Iterator[Storage]:
    with running(Storage()) as server:
        yield server


@pytest.fixture
def hosted(storage: Storage) -> Iterator[Hosted]:
    with running(Hosted(storage)) as server:
        yield server


def client(hosted: Hosted, surface: str = "other", key: str | None = None) -> V2:
    """A client; `surface` stands in for the host name by which the hosted surfaces are known."""
    server = V2(hosted.url, _common.Access(key=key))
    server._kind = surface
    return server


def submission(**changes: Any) -> Submission:
    return Submission(graphs.picture(), str(uuid.uuid4()), "c", **changes)


def followed(server: V2, prompt_ids: list[str], seconds: float = 10) -> tuple[list[Any], list[Update]]:
    """The last states of some jobs and all that was heard on the way."""
    watcher = Watcher(server, "c")
    for prompt_id in prompt_ids:
        watcher.watch(prompt_id)
    ended, heard = [], []
    give_up = time.monotonic() + seconds
    while watcher.watching and time.monotonic() < give_up:
        for item in watcher.updates(0.5):
            (ended if isinstance(item, Ended) else heard).append(item)  # type: ignore[arg-type]
    watcher.close()
    return [item.state for item in ended], heard


# --- credentials


def test_the_key_is_a_bearer_token_for_its_own_origin_alone(
    run: Runner, hosted: Hosted, storage: Storage, graph_file: Any
) -> None:
    hosted.key = KEY
    (run.folder / "key").write_text(KEY)

    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", hosted.url, "--api", "v2",
              "--api-key-file", "key", "--output-dir", "out")  # fmt: skip

    assert ran.code == 0, ran.out
    assert Path(ran.json["outputs"][0]["file"]).read_bytes() == PICTURE
    assert {item.headers.get("authorization") for item in hosted.seen} == {f"Bearer {KEY}"}
    assert all("x-api-key" not in item.headers for item in hosted.seen)
    assert storage.seen
    for item in storage.seen:
        assert not {"authorization", "x-api-key", "cookie"} & item.headers.keys()
    assert KEY not in ran.out + ran.err


def test_a_wrong_key_is_refused_with_what_v2_wants(run: Runner, hosted: Hosted, graph_file: Any) -> None:
    hosted.key = KEY

    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", hosted.url, "--api", "v2")

    assert ran.code == 4
    assert ran.json["code"] == "refused"
    assert "Bearer" in ran.json["hint"]


def test_auto_finds_v2_by_the_shape_of_its_errors(run: Runner, hosted: Hosted, graph_file: Any) -> None:
    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", hosted.url, "--output-dir", "out")

    assert (ran.code, ran.json["api"]) == (0, "v2"), ran.out


# --- submit exactly once


def test_the_submission_id_is_the_idempotency_key(hosted: Hosted) -> None:
    sent = submission()

    client(hosted).submit(sent)

    (post,) = hosted.calls("POST", "/api/v2/jobs")
    assert post.headers["idempotency-key"] == sent.prompt_id


def test_a_request_lost_on_its_way_is_sent_again_under_the_same_key(hosted: Hosted) -> None:
    hosted.lose = ["before"]

    accepted = client(hosted, "cloud").submit(submission())

    posts = hosted.calls("POST", "/api/v2/jobs")
    assert list(hosted.jobs) == [accepted.prompt_id]
    assert len({post.headers["idempotency-key"] for post in posts}) == 1


def test_a_lost_answer_is_looked_up_by_its_label(hosted: Hosted) -> None:
    hosted.listing, hosted.lose = "labels", ["after"]

    accepted = client(hosted, "deployment").submit(submission())

    assert list(hosted.jobs) == [accepted.prompt_id]
    assert accepted.found_again
    assert len(hosted.calls("POST", "/api/v2/jobs")) == 1


def test_where_jobs_are_not_listed_the_fate_of_a_lost_answer_stays_unknown(hosted: Hosted) -> None:
    hosted.lose = ["after"]
    sent = submission()

    with pytest.raises(SkillError) as caught:
        client(hosted, "cloud").submit(sent)

    assert len(hosted.jobs) == 1
    assert (caught.value.code, int(caught.value.exit)) == ("submit_unknown", 5)
    assert "no job list" in caught.value.message
    assert caught.value.details["idempotency_key"] == sent.prompt_id


def test_a_server_that_dies_with_the_submit_leaves_its_fate_unknown_not_unsent(hosted: Hosted) -> None:
    def die(handler: Any) -> bool:
        threading.Thread(target=hosted.stop).start()
        handler.close_connection = True
        return True

    hosted.on_submit = [die]

    with pytest.raises(SkillError) as caught:
        client(hosted, "cloud").submit(submission())

    assert caught.value.code == "submit_unknown"


def test_a_full_queue_is_waited_for_as_long_as_the_server_asks(hosted: Hosted) -> None:
    def full(handler: Any) -> bool:
        refuse(handler, 429, "queue_full", retry_after=1)
        return True

    hosted.on_submit = [full]
    began = time.monotonic()

    client(hosted).submit(submission())

    assert time.monotonic() - began >= 1
    assert len(hosted.jobs) == 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("-4", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", None),
        ("nan", None),
        (None, None),
    ],
)
def test_retry_after_in_each_of_its_forms(header: str | None, seconds: float | None) -> None:
    assert transport.retry_seconds(header) == seconds


def test_retry_after_may_be_a_date() -> None:
    then = email.utils.formatdate(time.time() + 20, usegmt=True)

    assert 15 < (transport.retry_seconds(then) or 0) <= 20


def test_a_queue_that_stays_full_is_reported_as_such(hosted: Hosted) -> None:
    def full(handler: Any) -> bool:
        refuse(handler, 429, "queue_full", retry_after=1)
        return True

    hosted.on_submit = [full] * 5

    with pytest.raises(SkillError) as caught:
        client(hosted).submit(submission(), patience=0.5)

    assert (caught.value.code, caught.value.retryable) == ("queue_full", True)


@pytest.mark.parametrize(
    ("status", "code", "expected", "exit_code"),
    [
        (402, "insufficient_credits", "refused", 4),
        (403, "forbidden", "refused", 4),
        (422, "deployment_stopped", "refused", 4),
        (422, "workflow_format_ui", "rejected", 6),
        (422, "invalid_workflow", "rejected", 6),
        (422, "missing_asset", "rejected", 6),
        (400, "invalid_request", "rejected", 6),
        (413, "", "too_large", 1),
    ],
)
def test_refusals_are_final_and_typed(
    hosted: Hosted, status: int, code: str, expected: str, exit_code: int
) -> None:
    def answer(handler: Any) -> bool:
        refuse(handler, status, code, "some words")
        return True

    hosted.on_submit = [answer]

    with pytest.raises(SkillError) as caught:
        client(hosted).submit(submission())

    assert (caught.value.code, int(caught.value.exit)) == (expected, exit_code)
    assert len(hosted.calls("POST", "/api/v2/jobs")) == 1


def test_the_contracts_own_shape_of_node_errors_is_read_too(hosted: Hosted) -> None:
    def answer(handler: Any) -> bool:
        refuse(
            handler, 422, "invalid_workflow", node_errors={"1": [{"field": "width", "reason": "too small"}]}
        )
        return True

    hosted.on_submit = [answer]

    with pytest.raises(SkillError) as caught:
        client(hosted).submit(submission())

    assert caught.value.details["node_errors"][0]["input"] == "width"


def test_labels_are_dropped_where_they_are_not_taken(hosted: Hosted) -> None:
    hosted.labels = False

    client(hosted, "deployment").submit(submission())

    first, second = (post.json for post in hosted.calls("POST", "/api/v2/jobs"))
    assert "metadata" in first
    assert "metadata" not in second


def test_extra_data_holds_the_partner_key_and_nothing_else(hosted: Hosted) -> None:
    client(hosted).submit(
        submission(extra_data={"api_key_comfy_org": KEY, "extra_pnginfo": {"workflow": {}}})
    )

    (post,) = hosted.calls("POST", "/api/v2/jobs")
    assert post.json["extra_data"] == {"api_key_comfy_org": KEY}


def test_chosen_outputs_travel_as_the_part_of_the_graph_they_need(hosted: Hosted) -> None:
    graph = graphs.two_pictures()

    client(hosted).submit(Submission(graph, str(uuid.uuid4()), "c", targets=["2"]))

    (post,) = hosted.calls("POST", "/api/v2/jobs")
    assert set(post.json["workflow"]) == {"1", "2"}


# --- states and events


def test_a_false_expired_is_asked_again_until_the_record_tells(hosted: Hosted) -> None:
    hosted.script = ["running", "expired", "expired", "expired", "succeeded"]
    server = client(hosted)

    (state,), _ = followed(server, [server.submit(submission()).prompt_id])

    assert (state.phase, state.outcome) == ("done", "success")


def test_expired_that_stays_is_no_success(hosted: Hosted, monkeypatch: pytest.MonkeyPatch) -> None:
    hosted.script = ["running", "expired"]
    monkeypatch.setattr(V2, "grace", 0.5)
    server = client(hosted)

    (state,), _ = followed(server, [server.submit(submission()).prompt_id])

    assert state.phase == "unknown"


def test_progress_comes_from_the_stream_and_the_end_from_the_record(hosted: Hosted) -> None:
    hosted.events = [
        sse("status", {"status": "running"}),
        sse(
            "progress",
            {"value": 0.5, "nodes_done": 1, "nodes_total": 2, "current_node": "5", "step": 3, "steps": 20},
        ),
        ": keepalive\n\n",
        sse("invented_in_2027", {"x": 1}),
        sse("status", {"status": "failed"}),
        sse("output", {"node_id": "2"}),
    ]
    hosted.script = ["running"] * 3 + ["succeeded"]
    server = client(hosted)

    (state,), heard = followed(server, [server.submit(submission()).prompt_id])

    assert state.outcome == "success"
    steps = [
        item.frame.data.get("step") for item in heard if getattr(item.frame, "type", "") == "job_progress"
    ]
    assert steps == [3]


def test_jobs_of_a_batch_are_polled_without_streams(hosted: Hosted) -> None:
    hosted.events = [": hello\n\n"]
    hosted.script = ["queued", "running", "running", "succeeded"]
    server = client(hosted)
    ids = [server.submit(submission()).prompt_id for _ in range(3)]
    watcher = Watcher(server, "c")
    for prompt_id in ids:
        watcher.watch(prompt_id)

    watcher.updates(0.3)

    assert not [item for item in hosted.seen if item.path.endswith("/events")]
    watcher.close()


def test_without_streaming_the_record_is_enough_and_asked_for_once(hosted: Hosted) -> None:
    hosted.script = ["running"] * 6 + ["succeeded"]
    server = client(hosted)

    (state,), _ = followed(server, [server.submit(submission()).prompt_id])

    assert state.outcome == "success"
    assert len([item for item in hosted.seen if item.path.endswith("/events")]) == 1


def test_a_stream_that_ends_at_once_is_not_opened_again_and_again(hosted: Hosted) -> None:
    hosted.events, hosted.script = [], ["running"]
    server = client(hosted)
    watcher = Watcher(server, "c")
    watcher.watch(server.submit(submission()).prompt_id)

    def opened() -> int:
        return len([item for item in hosted.seen if item.path.endswith("/events")])

    began = time.monotonic()
    while time.monotonic() < began + (2 if opened() >= 2 else 60):
        watcher.updates(0.2)
    watcher.close()

    assert 2 <= opened() <= 6


def test_progress_in_the_record_is_passed_on(hosted: Hosted) -> None:
    hosted.script = ["running", "running", "succeeded"]
    hosted.more = {"progress": {"value": 0.25, "nodes_done": 1, "nodes_total": 4}}
    server = client(hosted)

    _, heard = followed(server, [server.submit(submission()).prompt_id])

    assert {"value": 0.25, "nodes_done": 1, "nodes_total": 4} in [item.frame.data for item in heard]


def test_a_failure_names_node_and_class(run: Runner, hosted: Hosted, graph_file: Any) -> None:
    hosted.script = ["failed"]
    hosted.more = {
        "error": {
            "code": "node_execution_error",
            "message": "boom",
            "node_id": "1",
            "class_type": "EmptyImage",
        }
    }

    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", hosted.url, "--api", "v2")

    assert ran.code == 1
    assert ran.json["error"]["class_type"] == "EmptyImage"
    assert ran.json["error"]["server_said"] == "boom"


def test_the_log_that_a_deployment_keeps_is_shown(run: Runner, hosted: Hosted) -> None:
    hosted.script = ["failed"]
    hosted.more = {"logs": {"text": "x" * 9000 + "\x1b[31mthe end", "truncated": False}}
    prompt_id = client(hosted).submit(submission()).prompt_id

    done = run("fetch_logs.py", prompt_id, "--host", hosted.url, "--api", "v2")

    assert done.json["server_logs"].endswith("the end")
    assert "\x1b" not in done.json["server_logs"]
    assert len(done.json["server_logs"]) < 5000


def test_cancel_waits_for_the_word(hosted: Hosted) -> None:
    hosted.script = ["running"]
    server = client(hosted)
    prompt_id = server.submit(submission()).prompt_id

    assert server.cancel(prompt_id) is True
    assert server.state(prompt_id).outcome == "cancelled"
    assert server.cancel(str(uuid.uuid4())) is False


# --- files


def test_a_body_cut_short_is_resumed_where_it_broke_off(
    hosted: Hosted, storage: Storage, tmp_path: Path
) -> None:
    storage.content = PICTURE * 40
    storage.cut = [1_500_000, 2_500_000]
    server = client(hosted)
    (state,), _ = followed(server, [server.submit(submission()).prompt_id])

    saved, failed = collect.Collector(server, tmp_path).fetch_all(collect.files_of(state.outputs))

    assert not failed
    assert saved[0].path.read_bytes() == storage.content
    offsets = [int(item.headers.get("range", "bytes=0-")[6:-1]) for item in storage.seen]
    assert offsets == sorted(set(offsets))
    assert len(offsets) == 3


def test_a_storage_that_refuses_says_nothing_about_the_key(
    hosted: Hosted, storage: Storage, tmp_path: Path
) -> None:
    storage.refuse = 403
    server = client(hosted, key=KEY)
    (state,), _ = followed(server, [server.submit(submission()).prompt_id])

    _, failed = collect.Collector(server, tmp_path).fetch_all(collect.files_of(state.outputs))

    assert failed[0].error.code == "download_failed"
    assert "key" not in f"{failed[0].error.message} {failed[0].error.hint}"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://169.254.169.254/latest/"])
def test_a_download_does_not_follow_to_places_it_must_not_go(
    hosted: Hosted, storage: Storage, tmp_path: Path, target: str
) -> None:
    server = client(hosted)
    (state,), _ = followed(server, [server.submit(submission()).prompt_id])
    storage.stop()
    storage.url = target
    hosted.storage = storage

    _, failed = collect.Collector(server, tmp_path).fetch_all(collect.files_of(state.outputs))

    assert failed[0].error.code == "unsafe_redirect"
    assert not list(tmp_path.iterdir())


def test_bytes_that_the_server_has_are_not_sent_again(hosted: Hosted, tmp_path: Path) -> None:
    blake3 = pytest.importorskip("blake3")
    path = tmp_path / "photo.png"
    path.write_bytes(b"some bytes")
    digest = f"blake3:{blake3.blake3(b'some bytes').hexdigest()}"
    hosted.assets[digest] = {"id": "known", "hash": digest, "file_path": "photo.png"}
    server = client(hosted)

    ref = server.upload(path)
    (tmp_path / "other.png").write_bytes(b"other bytes")
    server.upload(tmp_path / "other.png")

    (sent,) = hosted.calls("POST", "/api/v2/assets")
    assert blake3.blake3(b"other bytes").hexdigest().encode() in sent.body
    assert server.input_value(ref) == {
        "__type": "core/ASSET",
        "info": {"id": "known", "file_path": "photo.png"},
    }


def test_without_blake3_the_file_is_simply_sent(
    hosted: Hosted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    path = tmp_path / "photo.png"
    path.write_bytes(b"some bytes")

    ref = client(hosted).upload(path)

    (post,) = hosted.calls("POST", "/api/v2/assets")
    assert b"some bytes" in post.body
    assert ref.asset_id
    assert not hosted.calls("HEAD", "*")


# --- what v2 lacks


@pytest.mark.parametrize("ask", ["definitions", "model_folders", "embeddings", "stats"])
def test_what_v2_lacks_is_said_plainly(hosted: Hosted, ask: str) -> None:
    with pytest.raises(SkillError) as caught:
        getattr(client(hosted), ask)()

    assert caught.value.code == "not_offered"
    assert hosted.seen == []


@pytest.mark.parametrize("words", [[], ["--follow", "--timeout", "2"]])
def test_a_queue_that_is_not_listed_is_no_empty_queue(run: Runner, hosted: Hosted, words: list[str]) -> None:
    ran = run("ws_monitor.py", "--host", hosted.url, *words, timeout=15)

    assert (ran.code, ran.json["code"]) == (1, "not_offered")


def test_a_named_job_is_watched_where_none_are_listed(run: Runner, hosted: Hosted) -> None:
    hosted.script = ["running", "running", "running", "succeeded"]
    prompt_id = client(hosted).submit(submission()).prompt_id

    ran = run("ws_monitor.py", prompt_id, "--host", hosted.url, timeout=20)

    assert (ran.code, ran.json["status"]) == (0, "success")


def test_a_named_job_is_cancelled_where_none_are_listed(run: Runner, hosted: Hosted) -> None:
    hosted.script = ["running"]
    prompt_id = client(hosted).submit(submission()).prompt_id

    asked = run("manage_queue.py", "cancel", prompt_id, "--host", hosted.url)
    done = run("manage_queue.py", "cancel", prompt_id, "--yes", "--host", hosted.url)
    unknown = run("manage_queue.py", "cancel", str(uuid.uuid4()), "--host", hosted.url)

    assert (asked.code, asked.json["flag"]) == (7, "--yes")
    assert (done.code, done.json["jobs"][0]["result"]) == (0, "cancelled")
    assert (unknown.code, unknown.json["code"]) == (1, "not_found")


class Deaf(Hosted):
    """It takes the cancel of its first job, and the job goes on."""

    def answer(self, handler: BaseHTTPRequestHandler, request: Seen) -> None:
        first = next(iter(self.jobs), "none")
        if request.path == f"/api/v2/jobs/{first}/cancel":
            return send(handler, 200, self.record(self.jobs[first], "running"))
        return super().answer(handler, request)


def test_a_cancel_that_does_not_take_leaves_no_other_job_running(run: Runner, storage: Storage) -> None:
    with running(Deaf(storage)) as hosted:
        hosted.script = ["running"]
        ids = [client(hosted).submit(submission()).prompt_id for _ in range(2)]

        ran = run("manage_queue.py", "cancel", *ids, "--yes", "--host", hosted.url)

    assert (ran.code, ran.json["code"]) == (1, "cancel_not_confirmed")
    assert [job["result"] for job in ran.json["jobs"]] == ["still_running", "cancelled"]


@pytest.mark.parametrize(("key", "code", "account"), [(KEY, 0, "ok"), ("comfyui-other", 4, "fail")])
def test_health_is_told_where_no_jobs_are_listed(
    run: Runner, hosted: Hosted, key: str, code: int, account: str
) -> None:
    hosted.key = KEY
    (run.folder / "key").write_text(key)

    ran = run("health_check.py", "--host", hosted.url, "--api-key-file", "key")

    rows = {row["name"]: row["result"] for row in ran.json["checks"]}
    assert (ran.code, rows["server"], rows["account"]) == (code, account, account)


def test_the_features_tell_whether_jobs_are_listed(run: Runner, hosted: Hosted) -> None:
    told = run("server_info.py", "features", "--host", hosted.url)
    assert told.json["jobs_api"] is False
    hosted.listing = "labels"
    told = run("server_info.py", "features", "--host", hosted.url)
    assert told.json["jobs_api"] is True


def test_a_route_of_comfyui_is_not_part_of_v2(hosted: Hosted) -> None:
    with pytest.raises(SkillError) as caught:
        client(hosted).get_json("queue")

    assert caught.value.code == "not_found"
    assert "API v2" in caught.value.message


def test_a_job_list_that_is_not_offered_points_to_v1(hosted: Hosted) -> None:
    with pytest.raises(SkillError) as caught:
        client(hosted, "cloud").list_jobs()

    assert caught.value.code == "not_offered"
    assert "--api cloud" in (caught.value.hint or "")


def test_the_graph_of_a_job_of_another_process_comes_along(hosted: Hosted) -> None:
    graph = graphs.picture()
    prompt_id = client(hosted).submit(Submission(graph, str(uuid.uuid4()), "c")).prompt_id

    assert json.loads(json.dumps(client(hosted).state(prompt_id).graph)) == graph
