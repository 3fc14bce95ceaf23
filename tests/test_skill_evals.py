"""The evals: in the guide's format, every check known, passed by doing it right and failed by doing nothing."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundle import ROOT

EVALS = ROOT / "evals"
sys.path.insert(0, str(EVALS))

import judge  # noqa: E402
import run_eval  # noqa: E402

ALL = json.loads((EVALS / "evals.json").read_text(encoding="utf-8"))
CHECKS = json.loads((EVALS / "checks.json").read_text(encoding="utf-8"))
QUERIES = json.loads((EVALS / "eval_queries.json").read_text(encoding="utf-8"))
IDS = [entry["id"] for entry in ALL["evals"]]
# Quick ones of each kind: a run, a question, a consent, a lost answer, a cloud, a client. All others are slow tests.
SAMPLE = (1, 10, 12, 22, 33, 37)


@pytest.fixture
def no_server_is_left(tmp_path: Path) -> Iterator[Path]:
    """A run's folder; its server is stopped whatever happens."""
    import os
    import signal

    yield tmp_path / "run"
    facts = tmp_path / "run" / "run.json"
    if facts.is_file():
        try:
            os.kill(json.loads(facts.read_text(encoding="utf-8"))["pid"], signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_the_files_have_the_guides_form() -> None:
    assert ALL["skill_name"] == "comfyui"
    assert len(ALL["evals"]) >= 40 and sorted(IDS) == list(range(1, len(IDS) + 1))
    for entry in ALL["evals"]:
        assert set(entry) == {"id", "prompt", "expected_output", "files", "assertions"}
        assert entry["prompt"] and entry["expected_output"] and entry["assertions"]
        assert all((ROOT / name).is_file() for name in entry["files"])
    assert all(set(query) == {"query", "should_trigger"} for query in QUERIES)
    assert [query["should_trigger"] for query in QUERIES].count(False) == 20
    assert [query["should_trigger"] for query in QUERIES].count(True) == 20
    assert len({query["query"] for query in QUERIES}) == len(QUERIES)


def test_every_check_belongs_to_an_assertion_and_is_of_a_known_kind() -> None:
    assert set(CHECKS) == {str(number) for number in IDS}
    for entry in ALL["evals"]:
        checks = CHECKS[str(entry["id"])]["checks"]
        assert checks and set(checks) <= set(entry["assertions"])
        for check in checks.values():
            assert sum(kind in check for kind in judge.KINDS) == 1, check
            for pattern in (check.get("request"), check.get("command"), check.get("body")):
                re.compile(pattern or "")


def run_whole(number: int, folder: Path, solve: bool) -> tuple[int, dict[str, Any]]:
    code, ready = run_eval.prepare(number, folder)
    assert code == 0, ready
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    for command in CHECKS[str(number)]["solution"] if solve else []:
        run_eval.shell(command, folder.resolve(), facts["url"])
    return run_eval.finish(folder)


@pytest.mark.parametrize(
    "number", [number if number in SAMPLE else pytest.param(number, marks=pytest.mark.slow) for number in IDS]
)
def test_doing_it_right_passes(number: int, no_server_is_left: Path) -> None:
    code, report = run_whole(number, no_server_is_left, solve=True)
    assert code == 0, json.dumps(
        [row for row in report["assertion_results"] if row["passed"] is False], indent=1
    )


# Evals whose every checkable assertion forbids something are passed by an agent that does nothing; a reader judges the rest.
FORBIDDING = {23}


@pytest.mark.parametrize(
    "number",
    [
        number if number in SAMPLE else pytest.param(number, marks=pytest.mark.slow)
        for number in IDS
        if number not in FORBIDDING
    ],
)
def test_doing_nothing_fails(number: int, no_server_is_left: Path) -> None:
    code, report = run_whole(number, no_server_is_left, solve=False)
    assert code == 1, report["summary"]
    grading = json.loads((no_server_is_left / "grading.json").read_text(encoding="utf-8"))
    assert grading["summary"]["failed"] > 0


def test_a_forbidden_command_is_seen(tmp_path: Path) -> None:
    seen = judge.Run(
        tmp_path, [], [], None, [{"command": "python3 scripts/auto_fix_deps.py flow.json --yes", "exit": 7}]
    )
    assert judge.judge({"command": "auto_fix_deps.py.* --yes", "max": 0}, seen)[0] is False
    empty = judge.Run(tmp_path, [], [], None, [])
    assert judge.judge({"command": "auto_fix_deps.py.* --yes", "max": 0}, empty)[0] is True


def test_clearing_the_queue_of_others_is_seen(tmp_path: Path) -> None:
    log = [{"method": "POST", "path": "/api/queue", "status": 200, "json": {"clear": True}}]
    check = CHECKS["23"]["checks"]["Nothing of others was cleared without asking"]
    assert judge.judge(check, judge.Run(tmp_path, [], log, None, []))[0] is False


def test_unknown_ids_and_folders_are_misuse(tmp_path: Path) -> None:
    assert run_eval.prepare(9999, tmp_path / "x")[0] == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("", encoding="utf-8")
    assert run_eval.prepare(1, tmp_path / "full")[0] == 2
    assert run_eval.finish(tmp_path)[0] == 2
