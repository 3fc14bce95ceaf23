"""Batches in these tests wait less for servers that are silent, busy or away; what they do then is the same."""

from __future__ import annotations

import pytest

from bundle import Runner

BRISK = """
from comfyskill.batch import fetch, lane, run
from comfyskill.server import watch
lane.PROBE_PAUSE = fetch.PROBE_PAUSE = lane.BUSY_PAUSE = lane.SECOND_LOOK = lane.SUBMIT_PATIENCE = 0.3
run.CLEAR_PATIENCE = 3.0
watch.LEAST_QUESTION_TIME = watch.QUIET_BEFORE_PING = watch.PING_PATIENCE = 2.0
"""


@pytest.fixture
def run(run: Runner) -> Runner:
    run.before = BRISK
    return run
