"""Before and at the submit: what would give a wrong result is refused, what the server rejects is explained.

Level 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfyskill.base import cli, safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.graph import facts
from comfyskill.server import node_definitions
from comfyskill.server.protocol import Accepted, Dialect, Graph, Submission


def check_before(server: Dialect, submission: Submission, *, chosen_id: bool) -> None:
    """Refuse an id that is taken and outputs that do not exist. Raises SkillError (exit 2)."""
    if chosen_id and server.own_ids and server.state(submission.prompt_id).phase != "unknown":
        raise SkillError(
            f"the server already knows the prompt id {submission.prompt_id}",
            code="prompt_id_taken",
            exit=Exit.MISUSE,
            hint="give another --prompt-id, or fetch that job with --resume",
        )
    if submission.front and not server.chooses_front:
        cli.warn("this server orders its queue itself: --front changes nothing")
    if submission.targets is not None:
        check_targets(server, submission.graph, submission.targets)


def check_targets(server: Dialect, graph: Graph, targets: Sequence[str]) -> None:
    """The server silently ignores a target that is no output node of the graph."""
    outputs = [
        node.node_id
        for node in facts.outputs_of(
            graph, node_definitions.of_classes(server, node_definitions.classes_of(graph))
        )
    ]
    for target in targets:
        if target not in outputs:
            what = "is not in the graph" if target not in graph else "is not an output node"
            raise SkillError(
                f"--only: node {safe_text.quoted(target)} {what}",
                code="no_such_output_node",
                exit=Exit.MISUSE,
                hint=f"output nodes: {safe_text.quoted_list(outputs, 20) or 'none'}",
            )


def submit(server: Dialect, submission: Submission) -> Accepted:
    """Submit exactly once; when the server rejects the graph without saying where, our own check of it does."""
    try:
        return server.submit(submission)
    except SkillError as error:
        if error.code != "rejected" or error.details.get("node_errors"):
            raise
        raise _explained(server, submission.graph, error) from None


def _explained(server: Dialect, graph: Graph, error: SkillError) -> SkillError:
    from comfyskill.graph import check

    try:
        known = server.definitions(node_definitions.classes_of(graph))
    except SkillError:
        return error
    found: list[dict[str, Any]] = [
        item.to_json() for item in check.findings(graph, known) if item.severity == "error"
    ]
    if not found:
        return error
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    error.message = f"the server rejected the graph: {found[0]['message']}{more}"
    error.args = (error.message,)
    error.hint = found[0].get("fix") or error.hint
    error.details["node_errors"] = safe_text.clean_tree(found, 400)
    return error
