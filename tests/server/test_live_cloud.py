"""The real Comfy Cloud: skipped without COMFY_CLOUD_API_KEY. Reading is free; --run-paid allows one tiny run.

These tests hold on any plan: where the plan refuses something, the refusal itself must be in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import _common
import graphs
from bundle import Ran, Runner
from comfyskill.base.cli import SkillError
from comfyskill.server import connect
from comfyskill.server.protocol import Dialect

KEY = os.environ.get("COMFY_CLOUD_API_KEY")
HOST = "https://cloud.comfy.org"

pytestmark = pytest.mark.skipif(not KEY, reason="COMFY_CLOUD_API_KEY is not set")


@pytest.fixture(params=["cloud", "v2"])
def server(request: pytest.FixtureRequest) -> Iterator[Dialect]:
    made = connect.dialect(HOST, _common.Access(key=KEY), request.param)
    yield made
    made.close()


@pytest.fixture
def v1() -> Iterator[Dialect]:
    made = connect.dialect(HOST, _common.Access(key=KEY), "cloud")
    yield made
    made.close()


def or_refused(ask: Any, *words: Any) -> Any:
    """What was asked for, or None where the plan refuses it in good order (exit 4, with a hint)."""
    try:
        return ask(*words)
    except SkillError as error:
        assert (error.code, int(error.exit)) == ("refused", 4), error
        assert error.hint
        return None


def live(run: Runner, script: str, *words: object) -> Ran:
    assert KEY is not None
    ran = run(script, *words, "--host", HOST, env={"COMFY_CLOUD_API_KEY": KEY}, timeout=300)
    assert KEY not in ran.out + ran.err
    return ran


def test_the_statistics_are_public_and_name_the_cloud(v1: Dialect) -> None:
    assert v1.stats()["system"]


def test_the_host_name_decides_without_a_probe() -> None:
    assert connect.connect(HOST, api_key=KEY).api == "cloud"


def test_node_definitions_or_a_refusal(v1: Dialect) -> None:
    definitions = or_refused(v1.definitions)

    assert definitions is None or "KSampler" in definitions


def test_model_lists_or_a_refusal(v1: Dialect) -> None:
    folders = or_refused(v1.model_folders)

    assert folders is None or "checkpoints" in folders


def test_an_unknown_model_folder(v1: Dialect) -> None:
    with pytest.raises(SkillError) as caught:
        v1.models("no_such_folder_here")

    assert caught.value.code in ("folder_not_found", "refused")


def test_jobs_of_the_account_or_a_refusal(v1: Dialect) -> None:
    rows = or_refused(v1.list_jobs, 3)

    assert rows is None or all(row.phase in ("pending", "running", "done") for row in rows)


def test_a_job_that_nobody_has(server: Dialect) -> None:
    state = or_refused(server.state, "00000000-0000-4000-8000-000000000000")

    assert state is None or state.phase == "unknown"


def test_v2_lists_no_jobs_there() -> None:
    server = connect.dialect(HOST, _common.Access(key=KEY), "v2")

    with pytest.raises(SkillError) as caught:
        server.list_jobs(1)

    assert caught.value.code in ("not_offered", "refused")
    server.close()


def test_the_account_is_read_as_far_as_it_is_told(v1: Dialect) -> None:
    account = v1.account()

    assert isinstance(account, dict)
    assert not set(account) - {"plan", "credits", "free_tier", "most_at_once"}


def test_a_wrong_key_is_refused() -> None:
    server = connect.dialect(HOST, _common.Access(key="comfyui-not-a-key"), "cloud")

    with pytest.raises(SkillError) as caught:
        server.list_jobs(1)

    assert caught.value.code == "refused"
    server.close()


def test_dependencies_are_told_apart_from_refusals(run: Runner, graph_file: Any) -> None:
    ran = live(run, "check_deps.py", graph_file(graphs.picture()))

    assert ran.json["status"] in ("ok", "unknown")


def test_a_graph_without_outputs_is_rejected_and_costs_nothing(run: Runner, graph_file: Any) -> None:
    graph = {key: node for key, node in graphs.picture().items() if key == "1"}

    ran = live(run, "run_workflow.py", graph_file(graph))

    assert ran.code in (4, 6), ran.out


def test_one_tiny_run(run: Runner, graph_file: Any, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--run-paid"):
        pytest.skip("a run costs credits: --run-paid allows it")

    ran = live(run, "run_workflow.py", graph_file(graphs.picture()), "--output-dir", "out", "--timeout", 200)

    if ran.code == 4:
        assert ran.json["hint"]
        return
    assert ran.code == 0, ran.out
    assert Path(ran.json["outputs"][0]["file"]).read_bytes().startswith(b"\x89PNG")
