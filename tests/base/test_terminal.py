"""What a person sees on a terminal: bars and blocks that are redrawn in place, on a real pseudo-terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

import graphs
from bundle import Demo, Runner
from queues import in_queue

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals of POSIX")


def on_terminal(run: Runner, *words: object) -> tuple[dict[str, Any], str]:
    """A command whose stderr is a terminal of 100 columns: its document, and all that the terminal was sent."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        run.command(*words), cwd=run.folder, env={**run.environment, "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # Linux's word for the end
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert process.stdout is not None
    out = process.stdout.read()
    assert process.wait(timeout=60) == 0, (out, shown)
    return json.loads(out), shown.decode()


def test_a_batch_draws_one_bar(run: Runner, demo: Demo, graph_file: Any) -> None:
    document, shown = on_terminal(
        run, "run_batch.py", graph_file(graphs.sleeper(0.4, seed=1)), "--host", demo.url, "--count", 5, "--output-dir", "out",
        "--randomize-seed", "--no-report",
    )  # fmt: skip
    assert document["succeeded"] == 5
    assert shown.count("\r") > 4
    assert "/5" in shown and "left" in shown
    assert "run 1" in shown


def test_a_run_shows_its_steps_in_place(run: Runner, demo: Demo, graph_file: Any) -> None:
    document, shown = on_terminal(
        run, "run_workflow.py", graph_file(graphs.sleeper(1.0)), "--host", demo.url, "--output-dir", "out"
    )
    assert document["status"] == "success"
    assert "\r" in shown
    assert "A long nap" in shown


def test_the_monitor_redraws_a_block_and_leaves_the_end(run: Runner, demo: Demo) -> None:
    prompt_id = graphs.job_id(f"ours-{time.time_ns()}")
    demo.post("/prompt", {"prompt": graphs.sleeper(6), "prompt_id": prompt_id, "client_id": "other"})
    in_queue(demo, prompt_id)
    document, shown = on_terminal(run, "ws_monitor.py", prompt_id, "--host", demo.url)
    assert document["status"] == "success"
    assert "\x1b[2A\x1b[J" in shown
    assert "queue:" in shown
    ends = [part for part in shown.split("\x1b[J") if part.startswith(prompt_id[:8])]
    assert any("success" in part for part in ends), shown
