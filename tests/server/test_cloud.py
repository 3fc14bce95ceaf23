"""Comfy Cloud v1 against the demo server's double: both variants of everything on which its sources disagree."""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import _common
import graphs
from bundle import Demo, Ran, Runner
from comfyskill.base.cli import SkillError
from comfyskill.run import collect
from comfyskill.server import cloud as server_cloud
from comfyskill.server.cloud import STATUSES, Cloud
from comfyskill.server.protocol import Submission
from comfyskill.server.watch import Ended, Watcher

KEY = "comfyui-demo-key"
Start = Callable[..., Demo]


@pytest.fixture(scope="module")
def plain_cloud() -> Iterator[Demo]:
    """One double without switches for all tests that want none."""
    server = Demo("--cloud", "--tier", "creator", "--step-time", "0.005")
    yield server
    server.stop()


@pytest.fixture
def cloud(new_demo: Any, plain_cloud: Demo) -> Start:
    """The double: the shared one, reset, or one of the test's own with some switches set."""

    def start(tier: str = "creator", **switches: object) -> Demo:
        if tier == "creator" and not switches:
            plain_cloud.post("/demo/reset")
            plain_cloud.post("/demo/log/clear")
            return plain_cloud
        words = [word for name, value in switches.items() for word in ("--cloud-option", f"{name}={value}")]
        server: Demo = new_demo("--cloud", "--tier", tier, "--step-time", "0.005", *words)
        return server

    return start


def client(demo: Demo, key: str | None = KEY) -> Cloud:
    return Cloud(demo.url, _common.Access(key=key))


def submission(graph: Any = None, **changes: Any) -> Submission:
    return Submission(graph or graphs.picture(), str(uuid.uuid4()), uuid.uuid4().hex, **changes)


def ran(run: Runner, demo: Demo, path: Path, *words: object) -> Ran:
    (run.folder / "key").write_text(KEY)
    return run("run_workflow.py", path, "--host", demo.url, "--api", "cloud", "--api-key-file", "key", "--output-dir",
               "out", *words)  # fmt: skip


def submits(demo: Demo) -> int:
    return len([entry for entry in demo.log() if (entry["method"], entry["path"]) == ("POST", "/api/prompt")])


def follow(server: Cloud, prompt_id: str, use_socket: bool = False) -> Any:
    watcher = Watcher(server, "c", use_socket=use_socket)
    watcher.open()
    watcher.watch(prompt_id)
    give_up = time.monotonic() + 60
    try:
        while time.monotonic() < give_up:
            for item in watcher.updates(0.5):
                if isinstance(item, Ended):
                    return item.state
    finally:
        watcher.close()
    raise AssertionError("it did not end in time")


# --- watching what another process submitted


def test_the_monitor_knows_titles_shares_and_names(run: Runner, cloud: Start) -> None:
    demo = cloud()
    (run.folder / "key").write_text(KEY)
    prompt_id = client(demo).submit(submission(graphs.sleeper(1.0))).prompt_id

    ran = run("ws_monitor.py", prompt_id, "--host", demo.url, "--api-key-file", "key", timeout=30)

    assert ran.code == 0
    assert "'A long nap' (DemoSleep), step" in ran.err
    shares = [int(share) for share in re.findall(r"(\d+)% ", ran.err)]
    assert shares == sorted(shares) and max(shares) == 50
    assert ran.json["jobs"]["items"][0]["outputs"][0].startswith("slept_")


def test_the_monitor_learns_the_titles_of_a_job_whose_record_comes_late(run: Runner, cloud: Start) -> None:
    demo = cloud(appear_ms=1500)
    (run.folder / "key").write_text(KEY)
    prompt_id = client(demo).submit(submission(graphs.sleeper(4.0))).prompt_id

    ran = run("ws_monitor.py", prompt_id, "--host", demo.url, "--api-key-file", "key", timeout=60)

    assert ran.code == 0
    assert "'A long nap' (DemoSleep), step" in ran.err


# --- a whole run


@pytest.mark.parametrize("names", ["hash", "plain"])
@pytest.mark.parametrize("view", ["redirect", "direct"])
def test_a_run_brings_its_file_under_a_human_name(
    run: Runner, cloud: Start, graph_file: Any, names: str, view: str
) -> None:
    demo = cloud(names=names, view=view)

    done = ran(run, demo, graph_file(graphs.picture(prefix="deep/er/fox")))

    assert done.code == 0, done.out
    path = Path(done.json["outputs"][0]["file"])
    assert path.name.startswith("fox_")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_signed_address_gets_no_credential(run: Runner, cloud: Start, graph_file: Any) -> None:
    demo = cloud()

    done = ran(run, demo, graph_file(graphs.picture()))

    asked = demo.get("/demo/storage")["requests"]
    assert done.code == 0, done.out
    assert asked
    assert [item["credentials"] for item in asked] == [[]] * len(asked)
    assert KEY not in done.out + done.err


def test_the_key_travels_as_x_api_key(run: Runner, cloud: Start, graph_file: Any) -> None:
    demo = cloud()

    ran(run, demo, graph_file(graphs.picture()))

    headers = [
        {name.lower() for name in entry["headers"]} for entry in demo.log() if entry["path"] == "/api/prompt"
    ]
    assert headers
    assert all("x-api-key" in names and "authorization" not in names for names in headers)


@pytest.mark.parametrize(
    ("access", "token"),
    [
        (_common.Access(key="k-1"), "k-1"),
        (_common.Access({"Authorization": "Bearer s-1"}), "s-1"),
        (_common.Access({"Authorization": "Basic s-1"}), None),
        (_common.Access(), None),
    ],
)
def test_the_socket_gets_key_or_session_as_its_token(access: _common.Access, token: str | None) -> None:
    query = parse_qs(urlsplit(Cloud("https://cloud.comfy.org", access).socket_url("c")).query)

    assert query.get("token") == ([token] if token else None)


def test_auto_finds_the_cloud_by_its_statistics(run: Runner, cloud: Start, graph_file: Any) -> None:
    demo = cloud()
    (run.folder / "key").write_text(KEY)

    done = run("run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--api-key-file", "key",
               "--output-dir", "out")  # fmt: skip

    assert (done.code, done.json["api"]) == (0, "cloud"), done.out


@pytest.mark.parametrize(
    "switches",
    [
        {"outputs_late": 2},
        {"appear_ms": 700},
        {"record_late_ms": 700},
        {"times": "s"},
        {"video_key": "images"},
    ],
    ids=str,
)
@pytest.mark.parametrize("words", [(), ("--no-ws",)], ids=["socket", "polling"])
def test_a_run_survives_the_clouds_timing(
    run: Runner, cloud: Start, graph_file: Any, switches: dict[str, Any], words: tuple[str, ...]
) -> None:
    demo = cloud(**switches)

    done = ran(run, demo, graph_file(graphs.picture()), *words)

    assert (done.code, len(done.json["outputs"])) == (0, 1), done.out
    assert submits(demo) == 1


def test_outputs_that_the_record_lacks_come_from_the_history_at_once(cloud: Start) -> None:
    server = client(cloud(outputs_late=1000))
    prompt_id = server.submit(submission()).prompt_id
    began = time.monotonic()

    state = follow(server, prompt_id)

    assert state.outputs
    assert time.monotonic() - began < 20


def test_outputs_that_neither_has_yet_are_waited_for(cloud: Start) -> None:
    demo = cloud(outputs_late=3)
    demo.fault({"name": "status", "route": "/history_v2/*", "code": 404, "times": 3})
    server = client(demo)

    assert follow(server, server.submit(submission()).prompt_id).outputs


def test_a_job_that_is_not_listed_yet_is_pending_not_unknown(cloud: Start) -> None:
    demo = cloud(appear_ms=2000)
    server = client(demo)
    prompt_id = server.submit(submission()).prompt_id

    assert server.state(prompt_id).phase == "pending"
    assert client(demo).state(prompt_id).phase == "unknown"


@pytest.mark.parametrize(
    "fault",
    [
        {"name": "foreign-frames", "every": 1},
        {"name": "unknown-frames", "every": 1},
        {"name": "duplicate-frames"},
        {"name": "drop-socket", "frames": 3},
        {"name": "no-socket", "code": 401},
        {"name": "lose-frames", "type": "execution_success"},
    ],
    ids=lambda fault: str(fault["name"]),
)
def test_a_run_survives_the_clouds_socket(
    run: Runner, cloud: Start, graph_file: Any, fault: dict[str, Any]
) -> None:
    demo = cloud()
    demo.fault(fault)

    done = ran(run, demo, graph_file(graphs.sleeper(0.3)))

    assert (done.code, len(done.json["outputs"])) == (0, 1), done.out


def test_a_run_of_the_same_account_elsewhere_is_not_ours(run: Runner, cloud: Start, graph_file: Any) -> None:
    demo = cloud()
    other = client(demo)
    other.submit(submission(graphs.sleeper(1.5)))

    done = ran(run, demo, graph_file(graphs.picture()))

    assert done.code == 0, done.out
    assert [item["node_id"] for item in done.json["outputs"]] == ["2"]
    assert "A long nap" not in done.err


# --- what goes wrong


def test_a_failure_names_node_class_and_title(run: Runner, cloud: Start, graph_file: Any) -> None:
    done = ran(run, cloud(), graph_file(graphs.failing()))

    assert (done.code, done.json["status"]) == (1, "error")
    assert done.json["error"]["title"] == "The weak one"
    assert [item["node_id"] for item in done.json["outputs"]] == ["2"]
    assert "current_inputs" not in done.out


@pytest.mark.parametrize("refusals", ["new", "old"])
@pytest.mark.parametrize(
    "kind",
    [
        "FREE_TIER_EXHAUSTED",
        "FREE_TIER_NOT_ALLOWED",
        "PAYMENT_REQUIRED",
        "CLOUD_SUBSCRIPTION_REQUIRED",
        "PARTNER_NODE_PAYMENT_REQUIRED",
        "MODEL_PAYMENT_REQUIRED",
        "FREE_TIER_UNAVAILABLE",
    ],
)
def test_plan_refusals_are_final_whether_402_or_429(cloud: Start, kind: str, refusals: str) -> None:
    demo = cloud(refuse=kind, refusals=refusals)

    with pytest.raises(SkillError) as caught:
        client(demo).submit(submission())

    assert (caught.value.code, int(caught.value.exit)) == ("refused", 4)
    assert caught.value.details["refusal"] == kind
    assert not caught.value.retryable
    assert submits(demo) == 1


def test_the_free_tier_is_told_what_its_plan_lacks(run: Runner, cloud: Start, graph_file: Any) -> None:
    done = ran(run, cloud(tier="free"), graph_file(graphs.picture()))

    assert (done.code, done.json["code"]) == (4, "refused")
    assert "free tier" in done.json["message"]
    assert done.json["hint"]


def test_a_refusal_that_lists_nothing_is_unknown_not_missing(cloud: Start) -> None:
    server = client(cloud(tier="free"))

    with pytest.raises(SkillError) as caught:
        server.definitions(["KSampler"])

    assert caught.value.code == "refused"


def test_a_blocked_partner_provider_names_the_classes(cloud: Start) -> None:
    demo = cloud(partner="off")
    definitions = client(demo).definitions()
    partner = next(name for name, item in definitions.items() if item.get("api_node"))
    graph = graphs.picture() | {"9": {"class_type": partner, "inputs": {}}}

    with pytest.raises(SkillError) as caught:
        client(demo).submit(submission(graph))

    assert (caught.value.code, caught.value.details["refusal"]) == ("refused", "PARTNER_NODE_DISABLED")
    assert caught.value.details["class_types"] == [partner]


def test_a_full_queue_is_retryable_and_nothing_was_queued(cloud: Start) -> None:
    demo = cloud(refuse="QUEUE_LIMIT")

    with pytest.raises(SkillError) as caught:
        client(demo).submit(submission())

    assert (caught.value.code, caught.value.retryable) == ("queue_full", True)


def test_a_bare_429_is_waited_out_and_looked_up_first(cloud: Start) -> None:
    demo = cloud(refuse="bare", refuse_times=1, retry_after=1)
    began = time.monotonic()

    client(demo).submit(submission())

    assert time.monotonic() - began >= 1
    lines = [(entry["method"], entry["path"]) for entry in demo.log()]
    first = lines.index(("POST", "/api/prompt"))
    assert ("GET", "/api/jobs") in lines[first:]
    assert submits(demo) == 2


def test_a_wrong_key_is_a_refusal_not_a_missing_server(run: Runner, cloud: Start, graph_file: Any) -> None:
    demo = cloud()
    (run.folder / "wrong").write_text("comfyui-wrong")

    done = run("run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--api", "cloud", "--api-key-file",
               "wrong")  # fmt: skip

    assert (done.code, done.json["code"]) == (4, "refused")
    assert "comfyui-wrong" not in done.out + done.err


def test_a_workflow_that_is_too_large_is_rejected_in_words(cloud: Start) -> None:
    with pytest.raises(SkillError) as caught:
        client(cloud(max_workflow_kb=1)).submit(
            submission(graphs.picture() | {"5": {"class_type": "x", "inputs": {"text": "x" * 4000}}})
        )

    assert (caught.value.code, int(caught.value.exit)) == ("too_large", 6)


def test_a_200_that_holds_node_errors_is_a_rejection(run: Runner, cloud: Start, graph_file: Any) -> None:
    graph = graphs.two_pictures() | {
        "8": {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 8, "batch_size": 1, "color": 0}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}},
    }

    done = ran(run, cloud(node_errors="reject"), graph_file(graph))

    assert (done.code, done.json["code"]) == (6, "rejected")
    assert done.json["node_errors"][0]["node_id"] == "8"


def test_a_200_with_node_errors_whose_rest_runs_is_a_partial_success(
    run: Runner, cloud: Start, graph_file: Any
) -> None:
    graph = graphs.picture() | {
        "8": {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 8, "batch_size": 1, "color": 0}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "x"}},
    }

    done = ran(run, cloud(node_errors="prune", appear_ms=500), graph_file(graph))

    assert (done.code, done.json["status"], done.json["code"]) == (1, "partial", "dropped_nodes"), done.out
    assert [item["node_id"] for item in done.json["outputs"]] == ["2"]
    assert done.json["dropped"][0]["node_id"] == "8"


def test_partner_nodes_need_consent_and_then_report_what_is_left(
    run: Runner, cloud: Start, graph_file: Any
) -> None:
    demo = cloud()
    node = {"class_type": "Flux2ProImageNode", "inputs": {"prompt": "a fox", "width": 256, "height": 256, "seed": 1,
            "prompt_upsampling": False}}  # fmt: skip
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "paid"}}
    path = graph_file({"1": node, "2": save})

    asked = ran(run, demo, path)
    done = ran(run, demo, path, "--yes-spend", "--partner-key", "comfyui-partner-0123")

    assert (asked.code, asked.json["code"], asked.json["flag"]) == (7, "consent_needed", "--yes-spend")
    assert asked.json["partner_nodes"] == ["1"]
    assert submits(demo) == 1
    assert "comfyui-partner-0123" not in done.out + done.err
    (sent,) = [entry["json"] for entry in demo.log() if entry["path"] == "/api/prompt"]
    assert sent["extra_data"]["api_key_comfy_org"] == "comfyui-partner-0123"
    assert done.code == 0, done.out
    assert done.json["account"]["credits"]["credits"] > 0


def test_a_partner_node_without_a_key_says_who_must_pay(run: Runner, cloud: Start, graph_file: Any) -> None:
    node = {"class_type": "Flux2ProImageNode", "inputs": {"prompt": "a fox", "width": 256, "height": 256, "seed": 1,
            "prompt_upsampling": False}}  # fmt: skip
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "paid"}}

    done = ran(run, cloud(), graph_file({"1": node, "2": save}), "--yes-spend")

    assert (done.code, done.json["code"]) == (1, "partner_login"), done.out
    assert "--partner-key" in done.json["hint"]


def test_an_html_503_on_the_way_is_survived_by_reads(cloud: Start) -> None:
    demo = cloud()
    server = client(demo)
    demo.fault({"name": "status", "route": "/jobs", "code": 503, "body": "html", "times": 2})

    server.list_jobs()

    assert len([entry for entry in demo.log() if entry["path"] == "/api/jobs"]) == 4


@pytest.mark.parametrize("fault", ["answer-lost", "502-after"])
def test_a_lost_answer_is_found_by_its_mark_and_never_sent_twice(cloud: Start, fault: str) -> None:
    demo = cloud(appear_ms=300)
    demo.fault({"name": fault, "route": "/prompt"})

    accepted = client(demo).submit(submission())

    assert accepted.found_again
    assert submits(demo) == 1
    assert [job["id"] for job in _jobs(demo)] == [accepted.prompt_id]


def test_a_submit_that_left_no_trace_is_not_paid_for_twice(cloud: Start) -> None:
    demo = cloud()
    demo.fault({"name": "502-before", "route": "/prompt"})

    with pytest.raises(SkillError) as caught:
        client(demo).submit(submission(), search_time=1)

    assert caught.value.code == "submit_failed"
    assert submits(demo) == 1
    assert "run twice" in (caught.value.hint or "")


def _jobs(demo: Demo) -> list[dict[str, Any]]:
    answer = client(demo).get_json("jobs")
    jobs: list[dict[str, Any]] = answer["jobs"]
    return jobs


def test_history_is_deleted_under_its_old_name(cloud: Start) -> None:
    demo = cloud()
    server = client(demo)
    prompt_id = server.submit(submission()).prompt_id
    follow(server, prompt_id)

    server.post_json("history", {"delete": [prompt_id]})

    assert [entry["path"] for entry in demo.log() if entry["method"] == "POST"][-1] == "/api/history"
    assert server.state(prompt_id).done is False
    assert prompt_id not in [job.prompt_id for job in server.list_jobs()]


def test_a_history_that_keeps_the_job_is_said(cloud: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfyskill.jobs import queue

    server = client(cloud())
    prompt_id = server.submit(submission()).prompt_id
    follow(server, prompt_id)
    monkeypatch.setattr(server, "post_json", lambda *_words, **_options: None)

    for told in (
        queue.history_delete(server, [prompt_id, prompt_id], yes=True),
        queue.history_clear(server, yes=True),
    ):
        assert (told["status"], told["code"]) == ("error", "not_deleted")
        assert "still shows 1" in told["message"]


def test_an_id_of_another_kind_is_misuse_at_once(run: Runner, cloud: Start) -> None:
    demo = cloud()
    (run.folder / "key").write_text(KEY)

    done = run(
        "run_workflow.py", "--resume", "my job", "--host", demo.url, "--api", "cloud", "--api-key-file", "key"
    )

    assert (done.code, done.json["code"]) == (2, "misuse"), done.out


@pytest.mark.parametrize(
    "words", [("ws_monitor.py",), ("manage_queue.py", "wait"), ("manage_queue.py", "cancel")]
)
def test_an_id_of_another_kind_is_not_waited_for(run: Runner, cloud: Start, words: tuple[str, ...]) -> None:
    demo = cloud()
    (run.folder / "key").write_text(KEY)

    done = run(*words, "my-job", "--host", demo.url, "--api-key-file", "key", timeout=15)

    assert (done.code, done.json["code"]) == (2, "misuse"), done.out
    assert "not a job id" in done.json["message"]
    assert "next" not in done.json


# --- cancel


def test_cancel_hits_the_one_job_and_no_other(cloud: Start) -> None:
    demo = cloud(concurrency=1, appear_ms=0)
    server = client(demo)
    first, second, third = (server.submit(submission(graphs.sleeper(20))).prompt_id for _ in range(3))

    assert server.cancel(second) is True

    phases = {row.prompt_id: (row.phase, row.outcome) for row in server.list_jobs()}
    assert phases[second] == ("done", "cancelled")
    assert phases[third] == ("pending", None)
    assert phases[first][0] in ("pending", "running")
    assert server.cancel(second) is False
    assert server.cancel(str(uuid.uuid4())) is False


def test_a_run_over_the_plans_cap_ends_as_cancelled_by_the_service(
    run: Runner, cloud: Start, graph_file: Any
) -> None:
    done = ran(run, cloud(cap_s=0.5), graph_file(graphs.sleeper(20)))

    assert (done.code, done.json["status"]) == (1, "cancelled")


# --- files


def test_uploads_go_into_the_graph_under_their_hash(run: Runner, cloud: Start, graph_file: Any) -> None:
    from PIL import Image

    Image.new("RGB", (16, 16), (10, 20, 30)).save(run.folder / "mine.png")

    done = ran(run, cloud(), graph_file(graphs.photo()), "--input-image", "image=mine.png")

    assert done.code == 0, done.out
    with Image.open(done.json["outputs"][0]["file"]) as image:
        assert image.convert("RGB").getpixel((3, 3)) == (245, 235, 225)


@pytest.mark.parametrize(("width", "height"), [(16385, 1), (9000, 9000)])
def test_pictures_over_the_limits_are_refused_before_sending(
    cloud: Start, tmp_path: Path, width: int, height: int
) -> None:
    from PIL import Image

    Image.new("1", (width, height)).save(tmp_path / "large.png")
    demo = cloud()

    with pytest.raises(SkillError) as caught:
        client(demo).upload(tmp_path / "large.png")

    assert int(caught.value.exit) == 2
    assert str(width) in caught.value.message
    assert not [entry for entry in demo.log() if "upload" in entry["path"]]


def test_a_picture_of_too_many_bytes_is_refused_before_sending(cloud: Start, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(50 * 1024 * 1024 + 1)
    demo = cloud()

    with pytest.raises(SkillError) as caught:
        client(demo).upload(path)

    assert int(caught.value.exit) == 2
    assert not [entry for entry in demo.log() if "upload" in entry["path"]]


def test_a_signed_address_that_expired_says_nothing_about_the_plan(cloud: Start, tmp_path: Path) -> None:
    demo = cloud(view_expires=0)
    server = client(demo)
    state = follow(server, server.submit(submission()).prompt_id)

    _, failed = collect.Collector(server, tmp_path).fetch_all(collect.files_of(state.outputs))

    assert failed[0].error.code == "download_failed"
    assert "plan" not in failed[0].error.message


# --- lists and limits


def test_models_of_an_unknown_or_empty_folder(cloud: Start) -> None:
    server = client(cloud())

    assert server.models("checkpoints")
    with pytest.raises(SkillError) as caught:
        server.models("no_such_folder")
    assert caught.value.code == "folder_not_found"
    assert "the folder is empty" in caught.value.message


def test_definitions_of_some_classes_come_out_of_one_answer(cloud: Start) -> None:
    demo = cloud()
    server = client(demo)

    found = server.definitions(["KSampler", "NoSuchNode"])
    server.definitions(["SaveImage"])

    assert set(found) == {"KSampler"}
    assert len([entry for entry in demo.log() if entry["path"] == "/api/object_info"]) == 1


def test_the_live_limit_and_the_account_are_read(cloud: Start) -> None:
    server = client(cloud(tier="pro"))

    assert server.most_at_once() == 5
    account = server.account()
    assert account["most_at_once"] == 5
    assert account["plan"]["subscription_tier"] == "PRO"
    assert account["credits"]["credits"] > 0


@pytest.mark.parametrize(
    ("balance", "credits"),
    [
        ({"amount_micros": 1000}, 2110),
        ({"effective_balance_micros": 500, "amount_micros": 1000}, 1055),
        ({"effective_balance_micros": 0, "prepaid_balance_micros": 100}, 211),
        ({"amount_micros": 0}, 0),
    ],
)
def test_the_balance_is_read_as_the_official_client_reads_it(balance: dict[str, int], credits: int) -> None:
    found = server_cloud.credits_in(balance)

    assert found is not None
    assert found["credits"] == credits


def test_no_balance_is_not_a_balance_of_zero() -> None:
    assert server_cloud.credits_in({}) is None
    assert server_cloud.spent({}, {"credits": {"credits": 1, "dollars": 0}}) is None


@pytest.mark.parametrize(
    ("word", "group"),
    [
        ("submitted", "pending"), ("queued_limited", "pending"), ("queued_waiting", "pending"), ("allocated", "pending"),
        ("preparing", "pending"), ("pending_execution", "pending"), ("waiting_to_dispatch", "pending"),
        ("executing", "running"), ("executed", "running"), ("cancel_requested", "running"), ("erroring", "running"),
        ("success", "success"), ("completed", "success"), ("error", "error"), ("non_retryable_error", "error"),
        ("retryable_error", "error"), ("lost", "error"), ("failed", "error"), ("cancelled", "cancelled"),
        ("canceled", "cancelled"),
    ],
)  # fmt: skip
def test_every_status_word_of_every_source(word: str, group: str) -> None:
    phase, outcome = STATUSES[word]
    assert (outcome or phase) == group


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"execution_error": {"exception_message": "a", "current_inputs": {"key": "x"}}}, {"exception_message": "a"}),
        ({"error_message": json.dumps({"exception_message": "b", "node_id": "3"})}, {"exception_message": "b", "node_id": "3"}),
        ({"error_message": "plain words"}, {"exception_message": "plain words"}),
        ({}, {"exception_message": "the cloud gave no reason"}),
    ],
)  # fmt: skip
def test_errors_in_each_of_their_shapes(answer: dict[str, Any], said: dict[str, Any]) -> None:
    state = Cloud("http://127.0.0.1:9")._state_of("x", {"status": "failed", **answer})

    assert state.error == said


def test_an_unknown_word_means_that_it_still_runs() -> None:
    state = Cloud("http://127.0.0.1:9")._state_of("x", {"status": "polishing"})

    assert (state.phase, state.outcome, state.server_status) == ("running", None, "polishing")


def test_the_environments_key_goes_to_the_clouds_own_host_alone(
    run: Runner, cloud: Start, graph_file: Any
) -> None:
    demo = cloud()

    done = run("run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--api", "cloud",
               env={"COMFY_CLOUD_API_KEY": KEY})  # fmt: skip

    assert done.code == 4
    assert all(KEY not in json.dumps(entry) for entry in demo.log())
    assert os.environ.get("COMFY_CLOUD_API_KEY") != KEY


@pytest.mark.parametrize(("side", "words"), [(9000, "9000 x 9000"), (60_000, "too many pixels")])
def test_a_picture_beyond_the_clouds_limits_is_refused_before_it_is_sent(
    cloud: Start, tmp_path: Path, side: int, words: str
) -> None:
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
    with pytest.raises(SkillError, match=words):
        client(cloud()).upload(tmp_path / "huge.png")
