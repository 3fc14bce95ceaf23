"""What more than one test file needs of test_run.py."""

from __future__ import annotations

import time
from typing import Any

import graphs
from bundle import Demo


def wait_for(condition: Any, seconds: float = 60) -> Any:
    """The first true value of a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come true in time")


def in_queue(demo: Demo, prompt_id: str, *, running: bool = True) -> None:
    """Waits until a job runs (or waits behind another)."""
    key = "queue_running" if running else "queue_pending"
    wait_for(lambda: any(item[1] == prompt_id for item in demo.get("/queue")[key]))


def occupy(demo: Demo, seconds: float) -> str:
    """Another client's job, running."""
    prompt_id: str = demo.post("/prompt", {"prompt": graphs.sleeper(seconds), "client_id": "other"})[
        "prompt_id"
    ]
    in_queue(demo, prompt_id)
    return prompt_id
