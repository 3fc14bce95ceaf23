"""Predict a server's answer to the graph of a dry run: the errors that the graph check finds."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from comfyskill.base import safe_text
from comfyskill.base.programs import command
from comfyskill.graph import check
from comfyskill.graph.finding import ERROR
from comfyskill.graph.nodes import upstream_of
from comfyskill.server import node_definitions
from comfyskill.server.facts import Facts

MOST = 50
WANTS_FILES = frozenset({"unknown_class", "not_in_list", "file_missing"})


def rejection(
    server: Facts,
    graph: Mapping[str, Any],
    *,
    workflow: str | None = None,
    sent: Collection[str] = (),
    only: Collection[str] | None = None,
) -> dict[str, Any]:
    """The keys by which a dry run says that the server would refuse the graph; none when it would take it.

    workflow: as the user named it, for the commands. sent: addresses of files that a run sends or has found itself.
    only: the output nodes that a run is limited to. Empty when the server's own definitions cannot be fetched.
    """
    known = node_definitions.fetch(server)
    if known.origin not in ("server", "inventory") or known.classes is None:
        return {}
    looked_at = upstream_of(graph, only) if only else None
    wrong = [
        item
        for item in check.findings(graph, known.classes)
        if item.severity == ERROR
        and not (item.code == "file_missing" and f"{item.node_id}.{item.input}" in sent)
        # For nodes that --only leaves out, the server checks only the class.
        and (
            looked_at is None or item.node_id in looked_at or item.code in ("unknown_class", "no_class_type")
        )
    ]
    if not wrong:
        return {}
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    document: dict[str, Any] = {
        "code": "would_be_rejected",
        "message": f"nothing was sent; the server would reject this graph or drop part of it: {wrong[0].message}{more}",
        "hint": wrong[0].fix,
        "retryable": False,
        "would_be_rejected": safe_text.cap([item.to_json() for item in wrong], MOST),
    }
    if workflow and workflow != "-":
        script = (
            "check_deps.py" if any(item.code in WANTS_FILES for item in wrong) else "validate_workflow.py"
        )
        document["next"] = [command(script, workflow, *server.flags)]
    return document
