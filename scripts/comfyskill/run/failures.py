"""A job that failed, in words: which node, with which inputs, why, and where its code broke.

Level 3. Everything the server tells is cleaned and capped; inputs that may hold secrets are hidden.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from comfyskill.base import safe_text
from comfyskill.graph import diagnose, nodes
from comfyskill.server.protocol import JobState

SECRET_NAME = re.compile(r"key|token|password|passwd|secret|auth|credential|cookie", re.I)
TRACE_LINES = 12
SAID = 600
MOST_VALUE = 300
MOST_INPUTS = 40


def failure(
    state: JobState, graph: Mapping[str, Any], *, said: int = SAID, full: bool = False
) -> dict[str, Any]:
    """The report keys for a job that failed: which node, class and title, its values, the cause, the exception.

    `error.traceback` begins with the innermost frame, where it broke; with `full` it is whole. `said` caps the
    server's message, in characters.
    """
    error = state.error or {}
    node_id = safe_text.clean(error.get("node_id") or "", 60)
    node = node_of(graph, node_id)
    class_type = safe_text.clean(
        error.get("node_type") or error.get("class_type") or node.get("class_type") or "", 80
    )
    meta = node.get("_meta")
    title = safe_text.clean(meta.get("title") or "", 80) if isinstance(meta, Mapping) else ""
    exception = safe_text.clean(error.get("exception_type") or "", 120)
    message = safe_text.clean(
        error.get("exception_message") or error.get("message") or "no reason given", said
    )
    found = diagnose.diagnose(exception, message)
    where = (
        f"node {safe_text.name(node_id)} ({safe_text.name(title or class_type)})" if node_id else "the server"
    )
    return {
        "status": "error",
        "code": found.code,
        "message": f"{where} failed{_why(found, exception)}",
        "hint": found.hint,
        "retryable": False,
        "error": {
            "node_id": node_id,
            "class_type": class_type,
            "title": title,
            "inputs": values_of(node),
            "exception_type": exception,
            "server_said": message.strip(),
            "traceback": _traceback(error.get("traceback"), full),
        },
    }


def _why(found: diagnose.Diagnosis, exception: str) -> str:
    """The cause in plain words where it is a known one, with the exception's own name."""
    if found is diagnose.UNKNOWN:
        return f": {safe_text.quoted(exception)}" if exception else ""
    return f": {found.cause}" + (f" ({safe_text.name(exception)})" if exception else "")


def node_of(graph: Mapping[str, Any], node_id: str) -> Mapping[str, Any]:
    """The node of an id; the nodes that a node has made ("5.0.1") are that node's."""
    node = graph.get(node_id.split(".")[0])
    return node if isinstance(node, Mapping) else {}


def values_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """The values set on a node, without its links."""
    return {
        safe_text.clean(name, 80): shown_value(name, value)
        for name, value in list(nodes.inputs_of(node).items())[:MOST_INPUTS]
        if nodes.link_of(value) is None
    }


def shown_value(name: str, value: Any) -> Any:
    """A value as reports show it: cleaned and capped, hidden when its name tells of a secret; links as such."""
    if SECRET_NAME.search(name):
        return safe_text.HIDDEN
    link = nodes.link_of(value)
    if link is not None:
        return {"from_node": safe_text.clean(link.node_id, 60), "output": link.slot}
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    return safe_text.clean(value if isinstance(value, str) else repr(value), MOST_VALUE)


def _traceback(trace: Any, full: bool) -> list[str]:
    lines = (
        [line for text in trace for line in str(text).rstrip().splitlines()]
        if isinstance(trace, list)
        else []
    )
    return [safe_text.clean(line, 400) for line in _innermost_first(lines if full else _last_frames(lines))]


def _last_frames(lines: list[str]) -> list[str]:
    """The innermost whole frames of a traceback, without the lines of carets; last frame last."""
    plain = [line for line in lines if line.strip(" ^~")]
    kept = plain[-TRACE_LINES:]
    starts = [index for index, line in enumerate(kept) if line.lstrip().startswith("File ")]
    return kept[starts[0] :] if starts and len(plain) > len(kept) else kept


def _innermost_first(lines: list[str]) -> list[str]:
    """Frames in reverse order, each frame's own lines kept in theirs."""
    frames: list[list[str]] = []
    for line in lines:
        if line.lstrip().startswith("File ") or not frames:
            frames.append([])
        frames[-1].append(line)
    return [line for frame in reversed(frames) for line in frame]
