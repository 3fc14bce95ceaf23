"""Batches in these tests wait less for servers that are silent, busy or away; what they do then is the same."""

from __future__ import annotations

import pytest

from bundle import Runner

BRISK = """
from comfyskill.batch import fetch, lane, run
lane.PROBE_PAUSE = fetch.PROBE_PAUSE = lane.BUSY_PAUSE = lane.SECOND_LOOK = 0.3
run.CLEAR_PATIENCE = 3.0
"""


@pytest.fixture
def run(run: Runner) -> Runner:
    run.before = BRISK
    return run
