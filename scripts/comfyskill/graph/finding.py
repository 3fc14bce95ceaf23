"""One finding of a check of a graph. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from comfyskill.base import safe_text
from comfyskill.base.cli import Document
from comfyskill.graph.nodes import Node, class_of, title_of

ERROR, WARNING, INFO = "error", "warning", "info"
_RANK = {ERROR: 0, WARNING: 1, INFO: 2}


class Finding(NamedTuple):
    """severity: "error" (the server rejects the graph or drops an output), "warning" (it runs, but fails later or
    gives something else than meant) or "info". code: stable. fix: what to do. nearest: whole names of what the
    server has instead.
    """

    severity: str
    code: str
    message: str
    fix: str
    node_id: str | None = None
    class_type: str | None = None
    title: str | None = None
    input: str | None = None
    nearest: Sequence[str] | None = None

    def to_json(self) -> Document:
        """The finding as JSON, without the keys that it does not fill."""
        return {key: value for key, value in self._asdict().items() if value is not None}

    @property
    def rank(self) -> int:
        return _RANK.get(self.severity, 3)


def about(
    severity: str,
    code: str,
    node_id: str,
    node: Node,
    message: str,
    fix: str,
    name: str | None = None,
    nearest: Sequence[str] = (),
) -> Finding:
    """A finding about one node; the message starts with the node's id and title."""
    text = f"{called(node_id, node)}: {message}"
    return Finding(
        severity,
        code,
        text,
        fix,
        node_id,
        class_of(node) or None,
        title_of(node) or None,
        name,
        nearest or None,
    )


def called(node_id: str, node: Node) -> str:
    """A node in a message: its id and its title, or its class."""
    return f"node {safe_text.name(node_id)} ({safe_text.name(title_of(node)) or '?'})"
