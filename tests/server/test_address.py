"""Addresses that a command refuses before it sends anything."""

from __future__ import annotations

import json

import pytest

from bundle import Runner
from comfyskill.base import flags
from comfyskill.base.cli import Misuse
from comfyskill.machine import health
from comfyskill.server import connect, node_definitions
from graphs import picture

# What each command takes beside the address.
COMMANDS = {
    "run_workflow.py": ["flow.json"],
    "run_batch.py": ["flow.json", "--sweep", "seed=1,2"],
    "check_deps.py": ["flow.json"],
    "validate_workflow.py": ["flow.json"],
    "extract_schema.py": ["flow.json"],
    "convert_workflow.py": ["flow.json"],
    "inspect_workflow.py": ["flow.json"],
    "server_info.py": ["stats"],
    "manage_queue.py": ["list"],
    "fetch_logs.py": ["an-id"],
    "ws_monitor.py": ["--prompt-id", "an-id"],
    "health_check.py": [],
}


@pytest.mark.parametrize("script", COMMANDS)
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_address_is_misuse(run: Runner, script: str, empty: str) -> None:
    (run.folder / "flow.json").write_text(json.dumps(picture()))
    done = run(script, *COMMANDS[script], "--host", empty, env={"COMFY_HOST": "http://127.0.0.1:9"})
    assert (done.code, done.json["code"]) == (2, "misuse")


def test_an_empty_variable_is_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, so that the default address is one where nothing listens."""
    monkeypatch.setattr(flags, "DEFAULT_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("COMFY_HOST", "")
    for ask in (connect.connect, node_definitions.without_server, lambda: health.choose(None)):
        with pytest.raises(Misuse):
            ask()


@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_the_demo_server_refuses_what_is_not_a_port(run: Runner, port: str) -> None:
    done = run("demo_server.py", f"--port={port}")
    assert (done.code, done.json["code"]) == (2, "misuse")
