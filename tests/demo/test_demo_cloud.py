"""The demo server's cloud double: keys, plans, job records, signed files, and the switches for their variants."""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import websocket
from PIL import Image

KEY = {"X-API-Key": "comfyui-demo-key"}
PICTURE = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 7}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "cloud"}},
}
FAILING = {
    "1": {"class_type": "DemoFail", "inputs": {"message": "boom", "kind": "ValueError"}},
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def sleeper(seconds: float, seed: int = 1) -> dict[str, Any]:
    return {
        "1": {
            "class_type": "DemoSleep",
            "inputs": {"seconds": seconds, "steps": max(1, int(seconds * 50)), "seed": seed},
        },
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def until(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


class Cloud:
    """A client that knows the key."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.url = server.url

    def get(self, path: str, **more: Any) -> requests.Response:
        return requests.get(self.url + path, headers=KEY, timeout=60, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, headers=KEY, timeout=60, **more)

    def submit(self, prompt: dict[str, Any], **more: Any) -> str:
        answer = self.post("/api/prompt", {"prompt": prompt, **more})
        assert answer.status_code == 200, answer.text
        return answer.json()["prompt_id"]

    def ended(self, job_id: str) -> dict[str, Any]:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            answer = self.get(f"/api/jobs/{job_id}")
            if answer.status_code == 200 and answer.json()["status"] in ("completed", "failed", "cancelled"):
                return answer.json()
            time.sleep(0.02)
        raise AssertionError("the job did not end")


@pytest.fixture(scope="module")
def plain_cloud() -> Iterator[Cloud]:
    from bundle import Demo

    server = Demo("--cloud", "--tier", "creator", "--step-time", "0.005")
    yield Cloud(server)
    server.stop()


@pytest.fixture
def cloud_with(new_demo: Any) -> Any:
    """Starts a cloud with these switches."""

    def start(*switches: str, tier: str = "creator", more: tuple[str, ...] = ()) -> Cloud:
        options = [word for switch in switches for word in ("--cloud-option", switch)]
        return Cloud(new_demo("--cloud", "--tier", tier, "--step-time", "0.005", *options, *more))

    return start


def test_a_key_is_wanted_and_both_headers_carry_it(plain_cloud: Cloud) -> None:
    url = f"{plain_cloud.url}/api/user"
    assert requests.get(url, timeout=60).status_code == 401
    assert requests.get(url, headers={"X-API-Key": "wrong"}, timeout=60).json()["code"] == "UNAUTHORIZED"
    assert (
        requests.get(url, headers={"Authorization": "Bearer comfyui-demo-key"}, timeout=60).status_code == 200
    )
    assert requests.get(f"{plain_cloud.url}/api/system_stats", timeout=60).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/api/history",
        "/api/models",
        "/api/models/loras",
        "/api/object_info/KSampler",
        "/api/v2/userdata",
        "/prompt",
    ],
)
def test_local_paths_are_bare_404(plain_cloud: Cloud, path: str) -> None:
    answer = plain_cloud.get(path)
    assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (404, "text/plain")


def test_a_reset_leaves_an_account_without_a_past(plain_cloud: Cloud) -> None:
    job_id = plain_cloud.submit(PICTURE)
    plain_cloud.ended(job_id)
    assert job_id in [job["id"] for job in plain_cloud.get("/api/jobs").json()["jobs"]]
    plain_cloud.server.post("/demo/reset")
    assert plain_cloud.get("/api/jobs").json()["jobs"] == []


def test_a_run_from_submit_to_signed_file(plain_cloud: Cloud) -> None:
    job_id = plain_cloud.submit(PICTURE, prompt_id="mine", number=-5)
    assert uuid.UUID(job_id)
    job = plain_cloud.ended(job_id)
    assert job["status"] == "completed" and job["create_time"] > 1e12
    item = job["outputs"]["2"]["images"][0]
    assert item["display_name"].startswith("cloud_") and len(item["filename"]) == 68
    answer = plain_cloud.get("/api/view", params={"filename": item["filename"]}, allow_redirects=False)
    place = answer.headers["Location"]
    assert answer.status_code == 302 and not place.startswith(plain_cloud.url)
    with Image.open(io.BytesIO(requests.get(place, timeout=60).content)) as picture:
        assert picture.size == (64, 64)
    assert requests.get(place, headers=KEY, timeout=60).status_code == 400
    assert requests.get(place.replace("Signature=", "Signature=0"), timeout=60).status_code == 403
    seen = plain_cloud.server.get("/demo/storage")["requests"]
    assert [entry["credentials"] for entry in seen[-3:]] == [[], ["X-API-Key"], []]


def test_a_new_job_is_unknown_for_a_moment(cloud_with: Any) -> None:
    cloud = cloud_with("appear_ms=1500")
    began = time.monotonic()
    job_id = cloud.submit(PICTURE)
    first = cloud.get(f"/api/jobs/{job_id}").status_code
    assert first == 404 or time.monotonic() - began > 1.5
    assert cloud.ended(job_id)["status"] == "completed" and time.monotonic() - began > 1.4


def test_failed_and_cancelled_jobs(plain_cloud: Cloud) -> None:
    failed = plain_cloud.ended(plain_cloud.submit(FAILING))
    assert failed["status"] == "failed" and failed["execution_error"]["exception_message"] == "boom\n"
    status = plain_cloud.get(f"/api/job/{failed['id']}/status").json()
    assert status["status"] == "error" and json.loads(status["error_message"])["node_type"] == "DemoFail"
    job_id = plain_cloud.submit(sleeper(40))
    time.sleep(0.1)
    assert plain_cloud.post(f"/api/jobs/{job_id}/cancel").json() == {"cancelled": True}
    assert plain_cloud.post(f"/api/jobs/{job_id}/cancel").json() == {"cancelled": False}
    assert plain_cloud.ended(job_id)["status"] == "cancelled"
    assert plain_cloud.post("/api/jobs/nonsense/cancel").status_code == 400
    assert plain_cloud.post(f"/api/jobs/{uuid.uuid4()}/cancel").status_code == 404


def test_invalid_graph_unknown_folder_and_secret(plain_cloud: Cloud) -> None:
    bad = plain_cloud.post("/api/prompt", {"prompt": {"1": {"class_type": "Nope", "inputs": {}}}})
    assert (bad.status_code, bad.json()["error"]["type"]) == (400, "missing_node_type")
    assert plain_cloud.get("/api/experiment/models/nope").json()["code"] == "folder_not_found"
    assert plain_cloud.get("/api/experiment/models/loras").json()[0]["pathIndex"] == 0
    job = plain_cloud.ended(plain_cloud.submit(PICTURE, extra_data={"api_key_comfy_org": "canary"}))
    assert job["workflow"]["extra_data"]["api_key_comfy_org"] == "[REDACTED]" and "canary" not in json.dumps(
        job
    )


def test_uploaded_file_has_a_hash_name_that_a_loader_takes(plain_cloud: Cloud) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (1, 2, 3)).save(buffer, "PNG")
    files = {"image": ("cat.png", buffer.getvalue())}
    answer = requests.post(
        f"{plain_cloud.url}/api/upload/image", files=files, data={"type": "input"}, headers=KEY, timeout=60
    )
    name = answer.json()["name"]
    assert len(name) == 68 and name.endswith(".png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "up"}},
    }
    assert plain_cloud.ended(plain_cloud.submit(graph))["status"] == "completed"


def test_socket_wants_the_token_and_broadcasts(plain_cloud: Cloud) -> None:
    address = f"ws{plain_cloud.url[4:]}/ws?clientId=x"
    with pytest.raises(websocket.WebSocketBadStatusException):
        websocket.create_connection(address, timeout=60)
    sockets = [
        websocket.create_connection(f"{address}&token=comfyui-demo-key&n={n}", timeout=60) for n in range(2)
    ]
    sockets[1].recv()
    job_id = plain_cloud.submit(PICTURE)
    for socket in sockets[1:]:
        while True:
            message = json.loads(socket.recv())
            if message["type"] == "execution_success" and message["data"]["prompt_id"] == job_id:
                break
    for socket in sockets:
        socket.close()


def test_as_many_at_once_as_the_plan_allows(cloud_with: Any) -> None:
    cloud = cloud_with("appear_ms=0", "queue_limit=2")
    assert cloud.get("/api/features").json()["max_concurrent_jobs"] == 3
    jobs = [cloud.submit(sleeper(40, seed)) for seed in range(5)]

    def states() -> list[str]:
        return [cloud.get(f"/api/jobs/{job}").json()["status"] for job in jobs]

    until(lambda: states().count("in_progress") >= 3)
    assert states() == ["in_progress"] * 3 + ["pending"] * 2
    full = cloud.post("/api/prompt", {"prompt": PICTURE})
    assert (full.status_code, full.json()["error"]["type"]) == (429, "QUEUE_LIMIT")
    queue = cloud.get("/api/queue").json()
    assert queue["queue_running"][0][0] == 1 and queue["queue_pending"][0][3] == ["2"]
    assert len(cloud.get("/api/jobs?status=pending&limit=1").json()["jobs"]) == 1
    assert cloud.post("/api/jobs/cancel", {"job_ids": jobs}).json()["cancelled"] == jobs
    assert {cloud.ended(job)["status"] for job in jobs} == {"cancelled"}


@pytest.mark.parametrize(
    ("switches", "status", "kind"),
    [
        (("refuse=PAYMENT_REQUIRED",), 402, "PAYMENT_REQUIRED"),
        (("refuse=PAYMENT_REQUIRED", "refusals=old"), 429, "PAYMENT_REQUIRED"),
        (("refuse=FREE_TIER_UNAVAILABLE",), 429, "FREE_TIER_UNAVAILABLE"),
        (("refuse=bare", "retry_after=2"), 429, None),
        (("max_workflow_kb=0.01",), 413, "WORKFLOW_TOO_LARGE"),
    ],
)
def test_refusals(cloud_with: Any, switches: tuple[str, ...], status: int, kind: str | None) -> None:
    cloud = cloud_with(*switches)
    answer = cloud.post("/api/prompt", {"prompt": PICTURE})
    assert answer.status_code == status
    assert answer.json().get("error", {}).get("type") == kind
    assert answer.headers.get("Retry-After") == ("2" if kind is None else None)
    assert cloud.get("/api/jobs").json()["jobs"] == []


def test_free_plan_and_partner_policy(cloud_with: Any) -> None:
    free = cloud_with(tier="free")
    assert free.get("/api/object_info").status_code == 403
    assert free.post("/api/prompt", {"prompt": PICTURE}).json()["error"]["type"] == "FREE_TIER_NOT_ALLOWED"
    closed = cloud_with("partner=off")
    graph = {
        "1": {"class_type": "DemoPartner", "inputs": {"prompt": "p", "seed": 1}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    answer = closed.post("/api/prompt", {"prompt": graph})
    assert (answer.status_code, answer.json()["error"]["class_types"]) == (403, ["DemoPartner"])


def test_late_outputs_seconds_plain_names_and_an_unknown_word(cloud_with: Any) -> None:
    cloud = cloud_with("outputs_late=1", "times=s", "names=plain", "raw_status=zzz", "appear_ms=0")
    job_id = cloud.submit(PICTURE)
    first = cloud.ended(job_id)
    assert "outputs" not in first and first["create_time"] < 1e11
    assert (
        cloud.get(f"/api/jobs/{job_id}").json()["outputs"]["2"]["images"][0]["filename"] == "cloud_00001_.png"
    )
    assert cloud.get(f"/api/history_v2/{job_id}").json()[job_id]["outputs"]["2"]
    assert cloud.get(f"/api/job/{job_id}/status").json()["status"] == "zzz"


def test_run_over_the_cap_is_cancelled_and_late_records(cloud_with: Any) -> None:
    cloud = cloud_with("cap_s=0.3", "record_late_ms=2000")
    socket = websocket.create_connection(f"ws{cloud.url[4:]}/ws?token=comfyui-demo-key", timeout=60)
    job_id = cloud.submit(sleeper(40))
    while json.loads(socket.recv())["type"] != "execution_interrupted":
        pass
    assert cloud.get(f"/api/jobs/{job_id}").json()["status"] == "in_progress"
    assert cloud.ended(job_id)["status"] == "cancelled"
    socket.close()


def test_signed_addresses_expire(cloud_with: Any) -> None:
    cloud = cloud_with("view_expires=0")
    job = cloud.ended(cloud.submit(PICTURE))
    name = job["outputs"]["2"]["images"][0]["filename"]
    place = cloud.get("/api/view", params={"filename": name}, allow_redirects=False).headers["Location"]
    time.sleep(1.1)
    answer = requests.get(place, timeout=60)
    assert answer.status_code == 400 and "ExpiredToken" in answer.text


def test_faults_work_on_the_cloud_too(cloud_with: Any) -> None:
    cloud = cloud_with(more=("--fault", "502-after", "--fault", "oom:node=SaveImage,times=1"))
    assert cloud.post("/api/prompt", {"prompt": PICTURE}).status_code == 502
    until(lambda: cloud.get("/api/jobs").json()["jobs"])
    (job,) = cloud.get("/api/jobs").json()["jobs"]
    assert cloud.ended(job["id"])["execution_error"]["exception_type"] == "torch.OutOfMemoryError"
