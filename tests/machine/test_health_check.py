"""health_check.py against the demo server (and a real one when it is named), healthy and with every kind of trouble."""

from __future__ import annotations

import http.server
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import types
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import _common
from bundle import ROOT, SCRIPTS
from comfyskill.server import connect
from comfyskill.server.protocol import Submission
from graphs import picture as picture_graph


@pytest.fixture
def check(run):
    """Runs the health check; on this machine's usual ports nothing of the developer's own must matter."""

    def call(*words, env=None, exit_code=0, **options):
        ran = run("health_check.py", *words, env={"HOME": str(run.folder), **(env or {})}, **options)
        assert ran.code == exit_code, ran.out + ran.err
        return ran.json

    return call


def by_name(report: dict) -> dict[str, dict]:
    return {row["name"]: row for row in report["checks"]}


class Web(http.server.BaseHTTPRequestHandler):
    """A web server that is anything but ComfyUI: 200 and a page for everything."""

    page = b"<html><title>Router login</title></html>"
    status = 200

    def do_GET(self):
        self.send_response(self.status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *words):
        pass


@pytest.fixture(params=[200, 404])
def other_server(request) -> Iterator[str]:
    handler = type("Handler", (Web,), {"status": request.param})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_healthy_server(check, any_server):
    report = check("--host", any_server)
    assert report["status"] == "ok"
    rows = by_name(report)
    assert rows["websocket"]["result"] == "ok"
    assert rows["definitions"]["count"] > 50
    assert rows["models"]["result"] == "ok"
    assert rows["queue"]["result"] == "ok"
    assert rows["server"]["comfyui_version"]
    assert report["summary"]["fail"] == 0
    assert "run_workflow.py" in report["next"][0]


OLD_PACKAGE = {"name": "comfyui-workflow-templates", "installed": "0.9.2", "required": "0.11.44"}


@pytest.mark.parametrize(
    ("system", "result", "untried", "outdated"),
    [
        ({"comfyui_version": "0.33.0"}, "ok", None, []),
        ({"comfyui_version": "0.34.1"}, "ok", "newer", []),
        ({"comfyui_version": "0.3.64"}, "ok", "older", []),
        ({"comfyui_version": "my branch"}, "ok", None, []),
        ({"comfyui_version": "0.33.0", "comfy_package_versions": [OLD_PACKAGE, {}, None]}, "warn", None, [OLD_PACKAGE]),
        (
            {"comfyui_version": "0.8.0", "installed_templates_version": "0.9.2", "required_templates_version": "0.11.44"},
            "warn", None, [OLD_PACKAGE],
        ),
        (
            {"comfyui_version": "0.8.0", "installed_templates_version": "0.11.44", "required_templates_version": "0.7.67"},
            "ok", None, [],
        ),
    ],
)  # fmt: skip
def test_the_version_and_the_packages_of_a_server_are_judged(check, system, result, untried, outdated):
    class Stats(Web):
        def do_GET(self):
            self.status = 200 if self.path.endswith("/system_stats") else 404
            super().do_GET()

        page = json.dumps({"system": system, "devices": []}).encode()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stats)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        rows = by_name(check("--host", f"http://127.0.0.1:{server.server_address[1]}", exit_code=1))
    finally:
        server.shutdown()
        server.server_close()
    row = rows["version"]
    assert (row["result"], row.get("untried"), row.get("outdated", [])) == (result, untried, outdated)
    assert row["tried"] == "0.8.0 to 0.33.0"


def test_the_readme_names_the_versions_that_were_tried():
    from comfyskill.machine import health

    for number in (health.OLDEST_TRIED, health.NEWEST_TRIED):
        assert ".".join(map(str, number)) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_next_command_runs_as_it_stands(check, run, new_demo):
    server = new_demo("--step-time", "0.005", "--models", "checkpoints=v1-5-pruned-emaonly.safetensors")
    command = shlex.split(check("--host", server.url)["next"][0])
    assert "1.ckpt_name=v1-5-pruned-emaonly.safetensors" in command
    done = subprocess.run(
        command, cwd=run.folder, env=run.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_server_on_which_nothing_is_ready_is_asked_what_it_lacks(check, new_demo):
    empty = new_demo("--models", "checkpoints=", "--models", "diffusion_models=")
    (command,) = check("--host", empty.url)["next"]
    assert f"server_info.py suggest --host {empty.url}" in command


def test_the_smoke_test_runs_one_job_and_stops_the_other(check, any_server):
    rows = by_name(check("--host", any_server, "--smoke-test"))
    assert rows["smoke_test"]["result"] == "ok"
    assert rows["smoke_test_model"]["result"] == "ok", rows["smoke_test_model"]


def test_the_smoke_test_burns_no_compute_and_leaves_nothing(check, new_demo):
    demo = new_demo("--step-time", "5")
    start = time.monotonic()
    rows = by_name(check("--host", demo.url, "--smoke-test"))
    assert "stopped as soon as it started" in rows["smoke_test_model"]["message"]
    assert time.monotonic() - start < 60
    assert demo.get("/history") == {}
    assert demo.get("/queue") == {"queue_running": [], "queue_pending": []}
    assert not any(
        job["method"] == "POST" and job["path"] == "/interrupt" and not job.get("json") for job in demo.log()
    )


def test_a_smoke_test_whose_job_fails_says_why(check, demo):
    demo.fault(
        {"name": "fail", "node": "PreviewImage", "kind": "OSError", "message": "No space left on device"}
    )
    rows = by_name(check("--host", demo.url, "--smoke-test", exit_code=1))
    assert rows["smoke_test"]["result"] == "fail"
    assert "No space left on device" in rows["smoke_test"]["message"]


def test_a_broken_checkpoint_is_named(check, demo):
    demo.fault({"name": "fail", "node": "CheckpointLoaderSimple", "message": "not a checkpoint"})
    row = by_name(check("--host", demo.url, "--smoke-test", exit_code=1))["smoke_test_model"]
    # It may be cancelled before the loader is reached; then the loader was never tried.
    assert row["result"] == "fail"
    assert "not a checkpoint" in row["message"]


def test_ctrl_c_in_a_smoke_test_takes_the_job_back(run, new_demo):
    demo = new_demo()
    demo.fault({"name": "stuck", "node": "EmptyImage"})
    process = run.start("health_check.py", "--host", demo.url, "--smoke-test", start_new_session=True)
    deadline = time.monotonic() + 60
    while not demo.get("/queue")["queue_running"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(out)["code"] == "interrupted"
    deadline = time.monotonic() + 60
    while demo.get("/queue")["queue_running"]:
        assert time.monotonic() < deadline, "the job was left running"
        time.sleep(0.05)


def test_nothing_there(check):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        report = check("--host", url, exit_code=3)
    assert report["code"] == "unreachable"
    assert by_name(report)["server"]["fix"].endswith("comfyui_setup.py --dry-run")
    assert by_name(report)["queue"]["result"] == "skipped"
    assert report["next"]


def test_a_listener_that_says_nothing_is_given_up_soon(check):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        start = time.monotonic()
        report = check("--host", f"http://127.0.0.1:{mute.getsockname()[1]}", exit_code=3)
    assert time.monotonic() - start < 45
    assert "something listens" in by_name(report)["server"]["message"]


def test_any_other_web_server_is_not_comfyui(check, other_server):
    report = check("--host", other_server, exit_code=1)
    row = by_name(report)["server"]
    assert row["result"] == "fail"
    assert "ComfyUI" in row["message"] or "HTTP 404" in row["message"]
    assert all(
        row["result"] != "ok" for row in report["checks"] if row["name"] not in ("comfy_cli", "packages")
    )


def test_a_refused_key_is_told_apart_from_a_missing_server(check, demo):
    demo.fault({"name": "status", "code": 401, "message": "no key"})
    report = check("--host", demo.url, exit_code=4)
    assert report["code"] == "refused"


def test_a_dead_worker_is_noticed(check, demo):
    demo.fault({"name": "paused"})
    demo.post("/prompt", {"prompt": picture_graph(1)})
    report = check("--host", demo.url, "--smoke-test", exit_code=1)
    assert (
        by_name(report)["queue"]["message"] == "1 job pending and none running: the server's worker is dead"
    )
    assert by_name(report)["smoke_test"]["result"] == "skipped"


def test_a_busy_queue_is_not_a_stuck_one(check, new_demo):
    demo = new_demo()
    demo.fault({"name": "stuck", "node": "EmptyImage"})
    for color in (1, 2):
        demo.post("/prompt", {"prompt": picture_graph(color)})
    row = by_name(check("--host", demo.url))["queue"]
    assert (row["result"], row["running"], row["pending"]) == ("ok", 1, 1)


def job_server(*, created, ended=None, api="local"):
    """A stand-in for a server at 10:00:00 with one running job, and one that ended."""
    from comfyskill.server import protocol

    running = protocol.JobSummary("abc", "running", created=36_000 - created)
    over = [protocol.JobSummary("old", "done", ended=36_000 - ended)] if ended is not None else []

    def list_jobs(limit=100, *, finished=True):
        return [running, *(over[:limit] if finished else [])]

    return types.SimpleNamespace(
        api=api, url="http://127.0.0.1:8188", flags=["--host", "http://127.0.0.1:8188"], list_jobs=list_jobs, now=lambda: 36_000.0,
        state=lambda name: protocol.JobState(name, "running"),
    )  # fmt: skip


def test_a_job_that_runs_for_long_may_have_lost_its_worker():
    from comfyskill.machine import health

    row = health.queue_moves(job_server(created=1500))
    assert (row.result, row.details["prompt_id"]) == ("warn", "abc")
    assert row.message.startswith("a job has been running for 25 minutes; its progress is not visible")
    assert "manage_queue.py cancel abc" in row.fix and "restart the server" in row.fix
    assert health.queue_moves(job_server(created=500)).result == "ok"


def test_the_time_that_a_job_waited_for_others_is_no_time_that_it_ran():
    from comfyskill.machine import health

    assert health.queue_moves(job_server(created=7200, ended=60)).result == "ok"
    assert "for 20 minutes" in health.queue_moves(job_server(created=7200, ended=1200)).message


def test_no_run_is_proposed_behind_a_job_that_may_never_end():
    import health_check
    from comfyskill.machine import health

    server = types.SimpleNamespace(
        api="local", url="http://127.0.0.1:9", flags=["--host", "http://127.0.0.1:9"]
    )
    (command,) = health_check.next_commands(server, [health.warn("queue", "long")])
    assert "manage_queue.py list" in command


def test_a_proxy_without_websockets(check, demo):
    demo.fault({"name": "no-socket", "code": 404})
    row = by_name(check("--host", demo.url, exit_code=1))["websocket"]
    assert "404" in row["message"]
    assert "proxy" in row["fix"]


def test_a_socket_that_wants_a_login_says_so(check, demo):
    demo.fault({"name": "no-socket", "code": 401})
    assert "--header" in by_name(check("--host", demo.url, exit_code=1))["websocket"]["fix"]


def test_a_silent_socket_is_a_warning(check, demo):
    demo.fault({"name": "silent-socket"})
    assert by_name(check("--host", demo.url))["websocket"]["result"] == "warn"


def test_unreadable_definitions_fail_that_check_alone(check, demo):
    demo.fault({"name": "status", "route": "/object_info", "code": 500})
    report = check("--host", demo.url, exit_code=1)
    rows = by_name(report)
    assert rows["definitions"]["result"] == "fail"
    assert rows["websocket"]["result"] == "ok"
    assert report["code"] == "unhealthy"


def test_no_models_and_unknown_models_are_two_things(check, new_demo):
    empty = new_demo("--models", "checkpoints=", "--models", "diffusion_models=")
    row = by_name(check("--host", empty.url))["models"]
    assert (row["result"], row["checkpoints"]) == ("warn", 0)
    assert "--model sd15" in row["fix"]
    empty.fault({"name": "status", "route": "/models/*", "code": 403})
    row = by_name(check("--host", empty.url))["models"]
    assert (row["result"], row["checkpoints"]) == ("warn", None)
    assert "could not be listed" in row["message"]


def test_what_a_workflow_lacks(check, demo, graph_file):
    good = graph_file(picture_graph(3), "good.json")
    assert by_name(check("--host", demo.url, "--workflow", good))["workflow"]["result"] == "ok"
    graph = picture_graph(3) | {"9": {"class_type": "NoSuchNode", "inputs": {}}}
    bad = graph_file(graph, "bad.json")
    row = by_name(check("--host", demo.url, "--workflow", bad, exit_code=1))["workflow"]
    assert "NoSuchNode" in json.dumps(row["errors"])
    assert Path(shlex.split(row["fix"])[1]) == SCRIPTS / "check_deps.py"


def test_a_workflow_that_is_no_file_is_misuse(check, demo):
    assert check("--host", demo.url, "--workflow", "nowhere.json", exit_code=2)["code"]


def test_the_environment_names_the_server(check, demo):
    report = check(env={"COMFY_HOST": demo.url})
    assert report["host"] == demo.url
    assert [row["url"] for row in report["found"]] == ["http://127.0.0.1:8188", "http://127.0.0.1:8000"]


def test_a_login_in_the_address_is_not_shown(check):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        secret = uuid.uuid4().hex
        report = check("--host", f"http://me:{secret}@127.0.0.1:{probe.getsockname()[1]}", exit_code=3)
    assert secret not in json.dumps(report)


def test_the_demo_server_says_that_it_is_one(check):
    report = check("--host", "demo", "--smoke-test")
    assert report["demo"] is True
    assert "--host demo" in report["next"][0]


def test_json_silences_the_summary(run, demo):
    assert "websocket" in run("health_check.py", "--host", demo.url).err
    assert run("health_check.py", "--host", demo.url, "--json").err == ""


@pytest.mark.skipif(os.name == "nt", reason="the fake comfy is a POSIX script")
def test_comfy_cli_is_found_with_its_version(check, run, demo):
    folder = run.folder / ".local" / "bin"
    folder.mkdir(parents=True)
    (folder / "comfy").write_text("#!/bin/sh\necho 1.23.0\n")
    (folder / "comfy").chmod(0o755)
    row = by_name(check("--host", demo.url))["comfy_cli"]
    assert (row["result"], row["message"]) == ("ok", "comfy-cli 1.23.0")


def test_missing_packages_are_told_with_the_command(run, demo):
    """A Python with the standard library alone: isolated from the site packages of the one that runs the tests."""
    words = [sys.executable, "-S", "-E", str(SCRIPTS / "health_check.py"), "--host", demo.url, "--json"]
    if (
        subprocess.run(
            [sys.executable, "-S", "-E", "-c", "import requests"], capture_output=True, check=False
        ).returncode
        == 0
    ):
        pytest.skip("requests is part of this Python")
    done = subprocess.run(words, cwd=run.folder, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 1
    assert report["next"] == [
        shlex.join([sys.executable, *"-m pip install -r".split(), str(ROOT / "requirements.txt")])
    ]
    assert by_name(report)["queue"]["result"] == "skipped"


def test_the_usual_ports_are_tried_in_order(monkeypatch, demo):
    from comfyskill.machine import health

    port = int(demo.url.rsplit(":", 1)[1])
    monkeypatch.setattr(health, "LOCAL_PORTS", {9: "nothing there", port: "the demo server"})
    monkeypatch.delenv("COMFY_HOST", raising=False)
    host, around, checks = health.choose(None)
    assert host == demo.url
    assert [row["state"] for row in around] == ["free", "comfyui"]
    assert checks[0].result == "warn"
    assert f"--host {demo.url}" in str(checks[0].fix)


def cloud_flags(server) -> list[str]:
    return ["--host", server.url, "--api-key", "comfyui-demo-key"]


def test_the_cloud_with_a_good_key(check, new_demo):
    cloud = new_demo("--cloud", "--tier", "creator")
    report = check(*cloud_flags(cloud), "--smoke-test")
    rows = by_name(report)
    assert report["api"] == "cloud"
    assert (rows["account"]["result"], rows["account"]["jobs_at_once"]) == ("ok", 3)
    assert rows["smoke_test"]["result"] == "ok"
    assert rows["smoke_test_model"]["message"].startswith("it may cost")
    assert "comfyui-demo-key" not in json.dumps(report)


@pytest.mark.parametrize("key", [None, "comfyui-wrong-key"])
def test_the_cloud_without_a_good_key(check, new_demo, key):
    cloud = new_demo("--cloud")
    words = ["--host", cloud.url, *(["--api-key", key] if key else [])]
    report = check(*words, "--smoke-test", exit_code=4)
    rows = by_name(report)
    assert (report["code"], rows["account"]["result"]) == ("refused", "fail")
    assert rows["smoke_test"]["result"] == "skipped"
    assert not [
        entry for entry in cloud.log() if entry["path"].endswith("/prompt") and entry["method"] == "POST"
    ]


def test_a_cloud_that_has_no_machine_yet_has_no_dead_worker(check, new_demo):
    cloud = new_demo("--cloud", "--tier", "creator", "--fault", "paused")
    server = connect.dialect(cloud.url, _common.Access(key="comfyui-demo-key"), "cloud")
    server.submit(Submission(picture_graph(1), str(uuid.uuid4()), "c"))
    row = by_name(check(*cloud_flags(cloud)))["queue"]
    assert (row["result"], row["running"], row["pending"]) == ("ok", 0, 1)


@pytest.mark.parametrize(
    "words", [["--host", "cloud"], ["--host", "https://cloud.comfy.org"], ["--api", "cloud"]]
)
def test_without_a_key_the_cloud_is_not_even_asked(check, words):
    report = check(*words, exit_code=4)
    assert (report["code"], report["host"]) == ("refused", "https://cloud.comfy.org")
    for told in ("COMFY_CLOUD_API_KEY", "--api-key-file", "https://platform.comfy.org"):
        assert told in report["hint"]
    assert report["summary"]["fail"] == 1


def test_the_cloud_with_a_plan_that_runs_nothing(check, new_demo):
    cloud = new_demo("--cloud", "--tier", "free")
    report = check(*cloud_flags(cloud), exit_code=4)
    assert "FREE" in by_name(report)["account"]["message"]
