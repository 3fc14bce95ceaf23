"""How two API graphs differ, node by node and input by input, in words.

Level 1, pure. Nodes are paired by id where the class is the same, else by class and title, else by class alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyskill.base import safe_text
from comfyskill.editor.layout import is_link

_NOTHING = object()


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
            found.append(_entry("node_removed", node_id, node, f"{_name(node_id, node)} is gone"))
            continue
        found.extend(_node_changes(node_id, node, second[pairs[node_id]], pairs, second))
    for node_id, node in second.items():
        if node_id not in partners:
            found.append(_entry("node_added", node_id, node, f"{_name(node_id, node)} is new"))
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
        # Same id, other class: the node was exchanged.
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
    return title if isinstance(title, str) else ""


def _class_and_title(node: Any) -> tuple[str, str]:
    return _class(node), _title(node)


def _inputs(node: Any) -> dict[str, Any]:
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return dict(inputs) if isinstance(inputs, Mapping) else {}
