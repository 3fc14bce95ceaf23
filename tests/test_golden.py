"""Every command answers with the keys, status, code and exit code that `tests/data/golden.json` holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

import golden

KEPT: dict[str, Any] = json.loads(golden.GOLDEN.read_bytes())


def test_every_case_is_kept() -> None:
    assert KEPT.keys() == golden.CASES.keys()


@pytest.mark.parametrize("name", golden.CASES)
def test_the_answer_has_its_golden_shape(name: str, run: Any, demo: Any) -> None:
    assert golden.answer(run, demo.url, golden.CASES[name]) == KEPT[name]
