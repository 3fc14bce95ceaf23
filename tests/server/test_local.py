"""What a ComfyUI of 0.33 offers and an older one lacks: the jobs API, replaced classes, assets, users."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import _common
from bundle import Runner
from comfyskill.base.cli import SkillError
from comfyskill.server import local
from comfyskill.server.facts import Inventory
from comfyskill.server.local import Local
from comfyskill.server.protocol import Submission, is_uuid
from web_server import Web

Start = Callable[..., Web]
ONE, TWO = "3ccb4817-4ea8-4a0c-a33d-908cad55a20f", "9b94edc6-7cfb-446e-876a-be7921ceaf6c"
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 32}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Mine"}},
}
TABLE = {
    "T2IAdapterLoader": [
        {
            "new_node_id": "ControlNetLoader", "old_node_id": "T2IAdapterLoader", "old_widget_ids": None,
            "input_mapping": [{"new_id": "control_net_name", "old_id": "t2i_adapter_name"}], "output_mapping": None,
        }
    ]
}  # fmt: skip
LOADER = {"input": {"required": {"control_net_name": [["a.safetensors"], {}]}}, "output": ["CONTROL_NET"]}


def failed(call: Callable[[], object]) -> SkillError:
    with pytest.raises(SkillError) as raised:
        call()
    return raised.value


def submission(graph: Any) -> Submission:
    return Submission(graph, str(uuid.uuid4()), "client")


def takes_jobs(server: Web) -> Web:
    server.json("/prompt", {"prompt_id": ONE, "number": 1, "node_errors": {}})
    return server


# --- cancel
@pytest.mark.parametrize("there", [True, False])
def test_one_request_cancels_a_job_where_the_jobs_api_can(web: Start, there: bool) -> None:
    server = web()
    server.json(f"/api/jobs/{ONE}/cancel", {"cancelled": there})

    assert Local(server.url).cancel(ONE) is there
    assert server.asked() == [f"/api/jobs/{ONE}/cancel"]


@pytest.mark.parametrize("status", [404, 405])
def test_an_older_server_is_asked_once_for_the_route(web: Start, status: int) -> None:
    server = web()
    server.answers[f"/api/jobs/{ONE}/cancel"] = (status, {}, b"")
    server.json("/queue", {"queue_running": [], "queue_pending": [[1, ONE, {}, {}, []]]})
    client = Local(server.url)

    assert client.cancel(ONE) is True
    assert server.posted("/queue") == {"delete": [ONE]}
    assert client.cancel(TWO) is False
    assert f"/api/jobs/{TWO}/cancel" not in server.asked()


def test_a_cancel_that_is_refused_is_not_tried_another_way(web: Start) -> None:
    server = web()
    server.json(f"/api/jobs/{ONE}/cancel", {"error": "no"}, 403)

    assert failed(lambda: Local(server.url).cancel(ONE)).code == "refused"
    assert server.asked("POST") == [f"/api/jobs/{ONE}/cancel"]


def test_many_jobs_are_cancelled_by_one_request(web: Start) -> None:
    server = web()
    server.json("/api/jobs/cancel", {"cancelled": True})

    assert Local(server.url).cancel_all([ONE, TWO]) == {}
    assert server.posted("/api/jobs/cancel") == {"job_ids": [ONE, TWO]}
    assert server.asked() == ["/api/jobs/cancel"]


def test_an_id_that_is_not_a_uuid_does_not_spoil_the_request_for_many(web: Start) -> None:
    server = web()
    server.json("/api/jobs/cancel", {"cancelled": True})
    server.json("/api/jobs/mine-1/cancel", {"cancelled": True})

    Local(server.url).cancel_all([ONE, "mine-1", TWO])

    assert server.posted("/api/jobs/cancel") == {"job_ids": [ONE, TWO]}
    assert "/api/jobs/mine-1/cancel" in server.asked("POST")


def test_many_jobs_are_cancelled_one_by_one_on_an_older_server(web: Start) -> None:
    server = web()
    waiting = [[number, prompt_id, {}, {}, []] for number, prompt_id in enumerate((ONE, TWO))]
    server.json("/queue", {"queue_running": [], "queue_pending": waiting})

    Local(server.url).cancel_all([TWO, ONE])

    deleted = [json.loads(body)["delete"] for path, body in server.bodies if path == "/queue"]
    assert deleted == [[TWO], [ONE]]


def test_a_job_that_the_jobs_api_denies_is_unknown_without_further_questions(web: Start) -> None:
    server = web()
    server.json(f"/history/{ONE}", {})
    server.json(f"/api/jobs/{ONE}", {"error": "Job not found"}, 404)

    assert Local(server.url).state(ONE).phase == "unknown"
    assert server.asked() == [f"/history/{ONE}", f"/api/jobs/{ONE}"]


@pytest.mark.parametrize(
    ("text", "right"),
    [(ONE, True), (ONE.upper(), False), (ONE.replace("-", ""), False), ("mine-1", False), (f"{{{ONE}}}", False)],
)  # fmt: skip
def test_a_uuid_is_written_as_the_server_wants_it(text: str, right: bool) -> None:
    assert is_uuid(text) is right


# --- submit
def test_every_node_is_sent_with_meta_and_the_source_is_named(web: Start) -> None:
    server = takes_jobs(web())

    Local(server.url).submit(submission(GRAPH))

    sent = server.posted("/prompt")["prompt"]
    assert sent == {"1": {**GRAPH["1"], "_meta": {}}, "2": GRAPH["2"]}
    assert "_meta" not in GRAPH["1"]
    assert server.headers("/prompt")["comfy-usage-source"] == "comfyui-agent-skill"


def test_a_class_that_the_server_has_replaced_is_renamed_before_the_submit(web: Start) -> None:
    server = takes_jobs(web())
    server.json("/object_info/T2IAdapterLoader", {})
    server.json("/object_info/ControlNetLoader", {"ControlNetLoader": LOADER})
    server.json("/node_replacements", TABLE)
    client = Local(server.url)
    graph = {"1": {"class_type": "T2IAdapterLoader", "inputs": {"t2i_adapter_name": "a.safetensors"}}}
    assert client.definitions(["T2IAdapterLoader"]) == {}

    accepted = client.submit(submission(graph))

    (sent,) = server.posted("/prompt")["prompt"].values()
    assert (sent["class_type"], sent["inputs"]) == ("ControlNetLoader", {"control_net_name": "a.safetensors"})
    assert [(node.old, node.new) for node in accepted.renamed] == [("T2IAdapterLoader", "ControlNetLoader")]


def test_a_graph_of_classes_that_the_server_has_costs_no_further_question(web: Start) -> None:
    server = takes_jobs(web())

    Local(server.url).submit(submission(GRAPH))

    assert server.asked() == ["/prompt"]


def test_the_table_of_replaced_classes_is_asked_for_once(web: Start) -> None:
    server = web()
    server.json("/node_replacements", TABLE)
    client = Local(server.url)

    assert client.replacements() == client.replacements() == TABLE
    assert server.asked() == ["/node_replacements"]
    assert Local(web().url).replacements() == {}
    assert Inventory({"replacements": TABLE}, "x").replacements() == TABLE


# --- assets
@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(b"some bytes")
    return path


def with_assets(server: Web, digest: str, **asset: Any) -> Web:
    server.json("/features", {"assets": True})
    server.answers[f"/api/assets/hash/{digest}"] = (200, {}, b"")
    server.json("/api/assets", {"assets": [{"id": "x", "hash": digest, **asset}]})
    return server


def test_an_input_file_that_the_assets_know_is_found(web: Start, picture: Path) -> None:
    pytest.importorskip("blake3")
    server = with_assets(web(), local.content_digest(picture), loader_path="sub/other.png")

    found = Local(server.url).known_input(picture)

    assert found is not None
    assert (found.subfolder, found.filename, found.type) == ("sub", "other.png", "input")


def test_a_digest_in_a_graph_is_sent_as_the_file_that_has_it(web: Start) -> None:
    digest = f"blake3:{'0' * 64}"
    server = takes_jobs(with_assets(web(), digest, loader_path="other.png"))
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": digest}, "_meta": {}}}

    Local(server.url).submit(submission(graph))

    assert server.posted("/prompt")["prompt"]["1"]["inputs"] == {"image": "other.png"}
    assert graph["1"]["inputs"] == {"image": digest}


def test_a_digest_that_the_server_does_not_know_is_left_to_it(web: Start) -> None:
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": f"blake3:{'0' * 64}"}, "_meta": {}}}
    server = takes_jobs(web())

    Local(server.url).submit(submission(graph))

    assert server.posted("/prompt")["prompt"] == graph


def test_bytes_without_a_file_are_no_input_file(web: Start, picture: Path) -> None:
    pytest.importorskip("blake3")
    server = with_assets(web(), local.content_digest(picture), loader_path=None)

    assert Local(server.url).known_input(picture) is None


def test_a_server_without_assets_is_not_asked_for_hashes(web: Start, picture: Path) -> None:
    server = web()
    server.json("/features", {"assets": False})
    client = Local(server.url)

    assert client.known_input(picture) is client.known_input(picture) is None
    assert set(server.asked()) <= {"/features"}
    assert len(server.asked()) <= 1


def test_assets_that_are_off_are_not_a_busy_server(web: Start) -> None:
    server = web()
    server.json("/api/assets", {"error": {"code": "SERVICE_DISABLED", "message": "off", "details": {}}}, 503)

    error = failed(lambda: Local(server.url).get_json("api/assets", attempts=1))

    assert (error.code, error.retryable) == ("not_offered", False)


# --- users
@pytest.mark.parametrize(
    ("path", "status"), [("/userdata", 500), ("/v2/userdata", 403), ("/api/assets", 401)]
)
@pytest.mark.parametrize("named", [None, "nobody"])
def test_a_multi_user_server_that_needs_a_user_says_so(
    web: Start, path: str, status: int, named: str | None
) -> None:
    server = web()
    server.answers[path] = (status, {}, b"500 Internal Server Error")
    server.json("/users", {"storage": "server", "users": {"anna_1": "anna"}})
    access = _common.Access({"comfy-user": named}) if named else None

    error = failed(lambda: Local(server.url, access).get_json(path.strip("/")))

    assert (error.code, int(error.exit), error.details["reason"]) == ("refused", 4, "comfy_user")
    assert error.details["users"]["items"] == [{"id": "anna_1", "name": "anna"}]
    assert "--header 'comfy-user: ID'" in (error.hint or "")


def test_a_failure_for_a_known_user_is_the_servers_own(web: Start) -> None:
    server = web()
    server.answers["/userdata"] = (500, {}, b"")
    server.json("/users", {"storage": "server", "users": {"anna_1": "anna"}})
    client = Local(server.url, _common.Access({"comfy-user": "anna_1"}))

    assert failed(lambda: client.get_json("userdata")).code == "server_error"


def test_a_failure_of_a_server_for_one_user_is_its_own(web: Start) -> None:
    server = web()
    server.answers["/userdata"] = (500, {}, b"")
    server.json("/users", {"storage": "server", "migrated": True})

    assert failed(lambda: Local(server.url).get_json("userdata")).code == "server_error"


def test_a_user_is_repeated_in_commands_and_a_key_is_not() -> None:
    headers = _common.parse_headers(["comfy-user: anna_1", "Authorization: Bearer canary-12345678"])
    flags = Local("http://127.0.0.1:9", _common.Access(headers)).flags

    assert flags == ["--host", "http://127.0.0.1:9", "--header", "comfy-user: anna_1"]


# --- templates and protocols
@pytest.mark.parametrize(("installed", "code"), [("0.11.44", "templates_broken"), (None, "not_found")])
def test_a_broken_templates_package_is_not_an_old_version(
    web: Start, installed: str | None, code: str
) -> None:
    server = web()
    server.json("/system_stats", {"system": {"installed_templates_version": installed}})

    assert failed(Local(server.url).template_index).code == code


def test_a_plain_server_that_also_speaks_v2_is_used_as_itself_and_says_so(run: Runner, web: Start) -> None:
    server = web()
    server.json("/features", {"supports_preview_metadata": True})
    server.json("/api/v2/jobs/none", {"error": {"code": "not_found", "message": "", "details": None}}, 404)

    told = run("server_info.py", "features", "--host", server.url)

    assert (told.code, told.json["api"], told.json["api_v2"]) == (0, "local", True)
    assert "--api v2" in told.json["chosen_because"]


def test_a_server_that_speaks_only_v2_is_recognised(run: Runner, web: Start) -> None:
    server = web()
    server.json("/api/v2/jobs/none", {"error": {"code": "not_found", "message": "", "details": None}}, 404)

    told = run("server_info.py", "features", "--host", server.url)

    assert (told.json["api"], told.json["api_v2"]) == ("v2", True)


def test_a_question_that_failed_is_not_answered_with_no(run: Runner, web: Start) -> None:
    server = web()
    server.json("/features", {"supports_preview_metadata": True})
    server.answers["/api/assets"] = (500, {}, b"")

    told = run("server_info.py", "features", "--host", server.url)

    assert (told.json["assets"], told.json["subgraphs"]) == ("unknown", False)
