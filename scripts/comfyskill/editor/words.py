"""How two API graphs differ, node by node and input by input, in words.

Pure. Nodes are paired by id where the class is the same, else by class and title, else by class alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from comfyskill.base import foreign, safe_text
from comfyskill.editor import pack_rules
from comfyskill.editor.layout import is_link
from comfyskill.editor.live import Build, Node, Place
from comfyskill.editor.read import INPUT_NODE, MUTED
from comfyskill.editor.resolve import Constant, LinkTo, source_of

_NOTHING = object()
_ROLES = {
    "reroute": "a reroute: links pass through it",
    "primitive": "a primitive: its value was written into the widgets it feeds",
    "note": "a note: it does not run",
    "virtual": "exists only in the editor: links pass through it",
}


def diff(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every difference as {kind, node_id, class_type, title, input?, old?, new?, text}; empty when they are the same.

    Kinds: node_removed, node_added, class_changed, value_changed, link_changed, input_removed, input_added,
    title_changed. `node_id` is the first graph's, for added nodes the second's.
    """
    pairs = _pairs(first, second)
    found: list[dict[str, Any]] = []
    partners = set(pairs.values())
    for node_id, node in first.items():
        if node_id not in pairs:
            found.append(_entry("node_removed", node_id, node, f"{_name(node_id, node)} was removed"))
            continue
        found.extend(_node_changes(node_id, node, second[pairs[node_id]], pairs, second))
    for node_id, node in second.items():
        if node_id not in partners:
            found.append(_entry("node_added", node_id, node, f"{_name(node_id, node)} was added"))
    return found


def _pairs(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, str]:
    """Which node of the second graph is which of the first."""
    pairs = {name: name for name in first if name in second and _class(first[name]) == _class(second[name])}
    taken = set(pairs.values())
    for key in (_class_and_title, _class):
        waiting: dict[Any, list[str]] = {}
        for name in second:
            if name not in taken:
                waiting.setdefault(key(second[name]), []).append(name)
        for name in first:
            if name not in pairs and waiting.get(key(first[name])):
                pairs[name] = waiting[key(first[name])].pop(0)
                taken.add(pairs[name])
    for name in first:
        # Same id, other class: the node was replaced.
        if name not in pairs and name in second and name not in taken:
            pairs[name] = name
            taken.add(name)
    return pairs


def _node_changes(
    node_id: str, old: Any, new: Any, pairs: Mapping[str, str], second: Mapping[str, Any]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    name = _name(node_id, old)
    if _class(old) != _class(new):
        text = f"{name} is now a {safe_text.quoted(_class(new))}"
        found.append(_entry("class_changed", node_id, old, text, old=_class(old), new=_class(new)))
    elif _title(old) != _title(new):
        text = f"{name} is now titled {safe_text.quoted(_title(new))}"
        found.append(_entry("title_changed", node_id, old, text, old=_title(old), new=_title(new)))
    was, now = _inputs(old), _inputs(new)
    for key in [*was, *(key for key in now if key not in was)]:
        before, after = was.get(key, _NOTHING), now.get(key, _NOTHING)
        if before is _NOTHING:
            found.append(
                _entry(
                    "input_added",
                    node_id,
                    old,
                    f"{name}: {safe_text.name(key)} is now given: {_show(after, second)}",
                    input=key,
                    new=after,
                )
            )
        elif after is _NOTHING:
            found.append(
                _entry(
                    "input_removed",
                    node_id,
                    old,
                    f"{name}: {safe_text.name(key)} is no longer given (was {_show(before, None)})",
                    input=key,
                    old=before,
                )
            )
        elif is_link(before) or is_link(after):
            if not _same_link(before, after, pairs):
                text = f"{name}: {safe_text.name(key)} came from {_show(before, None)}, now from {_show(after, second)}"
                found.append(_entry("link_changed", node_id, old, text, input=key, old=before, new=after))
        elif before != after or isinstance(before, bool) != isinstance(after, bool):
            text = f"{name}: {safe_text.name(key)} {_show(before, None)} → {_show(after, second)}"
            found.append(_entry("value_changed", node_id, old, text, input=key, old=before, new=after))
    return found


def _same_link(before: Any, after: Any, pairs: Mapping[str, str]) -> bool:
    if not (is_link(before) and is_link(after)):
        return False
    return pairs.get(str(before[0]), str(before[0])) == str(after[0]) and before[1] == after[1]


def _entry(kind: str, node_id: str, node: Any, text: str, **details: Any) -> dict[str, Any]:
    return {
        "kind": kind,
        "node_id": node_id,
        "class_type": _class(node),
        "title": _title(node),
        **details,
        "text": text,
    }


def _show(value: Any, graph: Mapping[str, Any] | None) -> str:
    if is_link(value):
        node = graph.get(str(value[0])) if graph is not None else None
        return f"output {value[1]} of node {safe_text.name(value[0])}" + (
            f" ({safe_text.name(_class(node))})" if node is not None else ""
        )
    return safe_text.quoted(value) if isinstance(value, str) else safe_text.name(repr(value))


def _name(node_id: str, node: Any) -> str:
    title = _title(node)
    called = f", {safe_text.quoted(title)}" if title and title != _class(node) else ""
    return f"node {safe_text.name(node_id)} ({safe_text.name(_class(node))}{called})"


def _class(node: Any) -> str:
    kind = node.get("class_type") if isinstance(node, Mapping) else None
    return kind if isinstance(kind, str) else "?"


def _title(node: Any) -> str:
    meta = node.get("_meta") if isinstance(node, Mapping) else None
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return foreign.text(title)


def _class_and_title(node: Any) -> tuple[str, str]:
    return _class(node), _title(node)


def _inputs(node: Any) -> dict[str, Any]:
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return dict(inputs) if isinstance(inputs, Mapping) else {}


def explain(
    made: Build, places: Mapping[str, tuple[Place, Node]], prompt: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One entry per node, and one for each input that does not simply follow its link."""
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
        return "a panel of the editor: it does not run"
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
                else "a node that was removed"
            )
            kept = slot.name in prompt[node_id]["inputs"]
            text = f"is linked to {via}, which leads to nothing; " + (
                "its own value is used" if kept else "it is left out"
            )
        yield {
            "kind": "input",
            "node_id": node_id,
            "class_type": node.type,
            "input": slot.name,
            "text": f"{node_id}.{slot.name} {text}",
        }
