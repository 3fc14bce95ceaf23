"""What a real server says of many graphs, without running them.

A long job of our own holds the server's queue, so that what it accepts waits behind it and is deleted again. For a server
that nobody else uses at the time: theirs would wait too.
"""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

# Waiting jobs are deleted after this many graphs: for each one the server looks through its whole queue.
AT_ONCE = 200
HOLDING_NODES = 400


class Verdict(NamedTuple):
    """The server's answer to one graph: what it objects to, as (class, kind of error); nothing where it takes it whole."""

    status: int
    errors: list[tuple[str, str]]
    prompt_id: str | None

    @property
    def accepted(self) -> bool:
        """Whether it takes every output of the graph."""
        return self.status == 200 and not self.errors


def _verdict(status: int, answer: dict[str, Any]) -> Verdict:
    errors = [
        (str(node.get("class_type")), str(error.get("type")))
        for node in (answer.get("node_errors") or {}).values()
        for error in node.get("errors", ())
    ]
    if status != 200 and not errors:
        top = answer.get("error")
        errors.append(("", str(top.get("type")) if isinstance(top, dict) else f"HTTP {status}"))
    return Verdict(status, errors, answer.get("prompt_id"))


def verdicts(url: str, graphs: Iterable[dict[str, Any]]) -> Iterator[Verdict]:
    """The verdicts on the graphs, in their order. None of them runs, and none stays in the queue."""
    server = _Server(urlsplit(url).netloc)
    batch: list[dict[str, Any]] = []
    try:
        for graph in graphs:
            batch.append(graph)
            if len(batch) == AT_ONCE:
                yield from server.judge(batch)
                batch = []
        yield from server.judge(batch)
    finally:
        server.release()


class _Server:
    def __init__(self, address: str) -> None:
        self.connection = http.client.HTTPConnection(address, timeout=120)
        self.holder: str | None = None

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and JSON of one request; {} for an answer that is not JSON."""
        text = None if body is None else json.dumps(body)
        self.connection.request(method, path, text, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        answer = response.read()
        try:
            return response.status, json.loads(answer)
        except ValueError:
            return response.status, {}

    def judge(self, graphs: list[dict[str, Any]]) -> list[Verdict]:
        """The verdicts on one batch; what it accepted is deleted."""
        self._hold()
        found = [_verdict(*self.ask("POST", "/prompt", {"prompt": graph})) for graph in graphs]
        assert self._is_held(), "the job that holds the queue ended before the batch did"
        self.ask("POST", "/queue", {"delete": [one.prompt_id for one in found if one.prompt_id]})
        return found

    def _is_held(self) -> bool:
        _, queue = self.ask("GET", "/queue")
        return any(item[1] == self.holder for item in queue["queue_running"])

    def _hold(self) -> None:
        """Have a job of ours running that takes minutes: one blurred picture after the other."""
        if self.holder is not None and self._is_held():
            return
        colour = uuid.uuid4().int % 2**24
        graph: dict[str, Any] = {
            "0": {"class_type": "EmptyImage", "inputs": {"width": 1024, "height": 1024, "batch_size": 1, "color": colour}},
            "end": {"class_type": "PreviewImage", "inputs": {"images": [str(HOLDING_NODES), 0]}},
        }  # fmt: skip
        for number in range(1, HOLDING_NODES + 1):
            inputs = {"image": [str(number - 1), 0], "blur_radius": 31, "sigma": 10.0}
            graph[str(number)] = {"class_type": "ImageBlur", "inputs": inputs}
        self.holder = str(uuid.uuid4())
        status, answer = self.ask("POST", "/prompt", {"prompt": graph, "prompt_id": self.holder})
        assert status == 200, answer
        while not self._is_held():
            _, queue = self.ask("GET", "/queue")
            assert any(item[1] == self.holder for side in queue.values() for item in side), (
                "it cannot be held"
            )

    def release(self) -> None:
        """Stop the job that holds the queue."""
        if self.holder is not None:
            self.ask("POST", "/interrupt", {"prompt_id": self.holder})
        self.connection.close()
