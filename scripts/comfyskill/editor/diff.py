"""How two API-format graphs differ, node by node and input by input, in words.

Pure. Nodes are paired by id where the class is the same, else by class and title, else by class alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document
from comfyskill.graph.nodes import Graph, link_of

_NOTHING = object()


def diff(first: Graph, second: Graph) -> list[Document]:
    """Every difference as {kind, node_id, class_type, title, input?, old?, new?, text}; empty when they are the same.

    Kinds: node_removed, node_added, class_changed, value_changed, link_changed, input_removed, input_added,
    title_changed. `node_id` is the first graph's, for added nodes the second's.
    """
    pairs = _pairs(first, second)
    partners = set(pairs.values())
    found: list[Document] = []
    for node_id, node in first.items():
        if node_id in pairs:
            found.extend(_Comparison(node_id, node, pairs, second).changes(second[pairs[node_id]]))
        else:
            found.append(_entry("node_removed", node_id, node, f"{_name(node_id, node)} was removed"))
    for node_id, node in second.items():
        if node_id not in partners:
            found.append(_entry("node_added", node_id, node, f"{_name(node_id, node)} was added"))
    return found


def _pairs(first: Graph, second: Graph) -> dict[str, str]:
    """Which node of the second graph is which of the first."""
    pairs = {name: name for name in first if name in second and _class(first[name]) == _class(second[name])}
    taken = set(pairs.values())
    for key in (_class_and_title, _class):
        waiting: dict[Hashable, list[str]] = {}
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


class _Comparison:
    """A node of the first graph, compared with its partner in the second."""

    def __init__(self, node_id: str, old: object, pairs: Mapping[str, str], second: Graph) -> None:
        self.node_id = node_id
        self.old = old
        self.pairs = pairs
        self.second = second
        self.name = _name(node_id, old)

    def changes(self, new: object) -> list[Document]:
        """Every difference between the two nodes."""
        found = []
        was, now = _class(self.old), _class(new)
        if was != now:
            found.append(
                self._entry(
                    "class_changed", f"{self.name} is now a {safe_text.quoted(now)}", old=was, new=now
                )
            )
        elif _title(self.old) != _title(new):
            was, now = _title(self.old), _title(new)
            text = f"{self.name} is now titled {safe_text.quoted(now)}"
            found.append(self._entry("title_changed", text, old=was, new=now))
        old_inputs, new_inputs = _inputs(self.old), _inputs(new)
        for key in dict.fromkeys([*old_inputs, *new_inputs]):
            before, after = old_inputs.get(key, _NOTHING), new_inputs.get(key, _NOTHING)
            if change := self._input_change(key, before, after):
                found.append(change)
        return found

    def _input_change(self, key: str, before: object, after: object) -> Document | None:
        name = f"{self.name}: {safe_text.name(key)}"
        was, now = _show(before, None), _show(after, self.second)
        if before is _NOTHING:
            return self._entry("input_added", f"{name} is now given: {now}", input=key, new=after)
        if after is _NOTHING:
            text = f"{name} is no longer given (was {was})"
            return self._entry("input_removed", text, input=key, old=before)
        if link_of(before) or link_of(after):
            if self._same_link(before, after):
                return None
            text = f"{name} came from {was}, now from {now}"
            return self._entry("link_changed", text, input=key, old=before, new=after)
        if before == after and isinstance(before, bool) == isinstance(after, bool):
            return None
        return self._entry("value_changed", f"{name} {was} → {now}", input=key, old=before, new=after)

    def _same_link(self, before: object, after: object) -> bool:
        old, new = link_of(before), link_of(after)
        if old is None or new is None:
            return False
        return self.pairs.get(old.node_id, old.node_id) == new.node_id and old.slot == new.slot

    def _entry(self, kind: str, text: str, **details: object) -> Document:
        return _entry(kind, self.node_id, self.old, text, **details)


def _entry(kind: str, node_id: str, node: object, text: str, **details: object) -> Document:
    return {
        "kind": kind,
        "node_id": node_id,
        "class_type": _class(node),
        "title": _title(node),
        **details,
        "text": text,
    }


def _show(value: object, graph: Graph | None) -> str:
    """A value or link in words; with a graph, a link also names the class of its node."""
    if link := link_of(value):
        known = graph is not None and link.node_id in graph
        called = f" ({safe_text.name(_class(graph[link.node_id]))})" if graph is not None and known else ""
        return f"output {link.slot} of node {safe_text.name(link.node_id)}{called}"
    return safe_text.quoted(value) if isinstance(value, str) else safe_text.name(repr(value))


def _name(node_id: str, node: object) -> str:
    title = _title(node)
    called = f", {safe_text.quoted(title)}" if title and title != _class(node) else ""
    return f"node {safe_text.name(node_id)} ({safe_text.name(_class(node))}{called})"


def _class(node: object) -> str:
    kind = foreign.mapping(node).get("class_type")
    return kind if isinstance(kind, str) else "?"


def _title(node: object) -> str:
    return foreign.text(foreign.mapping(foreign.mapping(node).get("_meta")).get("title"))


def _class_and_title(node: object) -> tuple[str, str]:
    return _class(node), _title(node)


def _inputs(node: object) -> Mapping[str, object]:
    return foreign.mapping(foreign.mapping(node).get("inputs"))
