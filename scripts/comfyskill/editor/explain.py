"""What became of each node and link of an editor file, in words, for those who ask why a graph is as it is.

Level 1, pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from comfyskill.editor import pack_rules
from comfyskill.editor.live import Build, Node, Place
from comfyskill.editor.read import INPUT_NODE, MUTED
from comfyskill.editor.resolve import Constant, LinkTo, source_of

_ROLES = {
    "reroute": "a reroute: links pass through it",
    "primitive": "a primitive: its value was written into the widgets it feeds",
    "note": "a note: it has no part in a run",
    "virtual": "exists only in the editor: links pass through it",
}


def explain(
    made: Build, places: Mapping[str, tuple[Place, Node]], prompt: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One entry a node, and one for each input that does not simply follow its link."""
    found = [_instance(node) for node in made.root.instances]
    for node_id, (place, node) in places.items():
        text = _fate(node_id, node, prompt)
        found.append(
            {"kind": "node", "node_id": node_id, "class_type": node.type, "text": f"{node.label}: {text}"}
        )
        if node_id in prompt:
            found.extend(_links(made, place, node, node_id, prompt))
    return found


def _instance(node: Node) -> dict[str, Any]:
    text = (
        "muted or bypassed, so nothing inside it runs"
        if node.off
        else f"a subgraph: its nodes have ids {node.id}:…"
    )
    return {"kind": "subgraph", "node_id": node.id, "class_type": node.type, "text": f"{node.label}: {text}"}


def _fate(node_id: str, node: Node, prompt: Mapping[str, Any]) -> str:
    if node.off:
        return "muted" if node.mode == MUTED else "bypassed: links pass through it by type"
    if node.role == "unknown":
        return f"sent as {node_id} without class_type: there is no definition of its type"
    if pack_rules.virtual_kind(node.type) == pack_rules.PANEL:
        return "a panel of the editor: it has no part in a run"
    if node_id in prompt:
        return f"sent as {node_id}"
    return _ROLES.get(node.role, "left out")


def _links(
    made: Build, place: Place, node: Node, node_id: str, prompt: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    for number, slot in enumerate(node.inputs):
        if slot.link is None:
            continue
        found = source_of(made, place, node, number)
        direct = place.graph.nodes.get(slot.link.origin)
        if isinstance(found, LinkTo):
            if direct is not None and found.node_id == place.id_of(direct):
                continue
            text = f"comes from output {found.slot} of node {found.node_id}"
            if found.node_id not in prompt:
                text += ", which is not in the graph, so the input is left out"
        elif isinstance(found, Constant):
            text = "takes the value that the subgraph node shows"
        else:
            via = (
                "the subgraph's input"
                if slot.link.origin == INPUT_NODE
                else direct.label
                if direct
                else "a node that is gone"
            )
            kept = slot.name in prompt[node_id]["inputs"]
            text = f"is linked to {via}, behind which there is nothing; " + (
                "its own value is used" if kept else "it is left out"
            )
        yield {
            "kind": "input",
            "node_id": node_id,
            "class_type": node.type,
            "input": slot.name,
            "text": f"{node_id}.{slot.name} {text}",
        }
