"""The nodes and links of an API-format graph, read without trusting their shape. Pure.

An API-format graph is `{node_id: {"class_type": str, "inputs": {...}, "_meta": {"title": str}?}}`.
A link is a list of exactly two, `[node id, output slot]`; the server takes every other list for an error, so
a list that is meant as a value travels as `{"__value__": [...]}` (execution.py, validate_inputs).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

Graph = Mapping[str, Any]
Definitions = Mapping[str, Any]


class Link(NamedTuple):
    """Where a linked input gets its value."""

    node_id: str
    slot: int


def link_of(value: Any) -> Link | None:
    """The link that an input value is, or None for a literal (or for a list that cannot be a link)."""
    # Asked of every input of every node: the common case, a plain value, must be quick.
    if type(value) is not list and not isinstance(value, tuple):
        return None
    if len(value) != 2:
        return None
    node_id, slot = value
    if isinstance(node_id, bool) or not isinstance(node_id, str | int):
        return None
    if isinstance(slot, bool) or not isinstance(slot, int):
        return None
    return Link(str(node_id), slot)


def is_literal(value: Any) -> bool:
    """Whether an input value is something other than a link or a broken link."""
    return not isinstance(value, list | tuple)


def literal(value: Any) -> Any:
    """A literal without its `__value__` wrapping."""
    if isinstance(value, dict) and "__value__" in value:
        return value["__value__"]
    return value


def with_missing_types(graph: Graph) -> Graph:
    """The graph with its class at each node that a conversion left without one (`_meta.missing_type`)."""
    named = {
        node_id: {**node, "class_type": meta["missing_type"]}
        for node_id, node in graph.items()
        if isinstance(node, Mapping)
        and not class_of(node)
        and isinstance(meta := node.get("_meta"), Mapping)
        and isinstance(meta.get("missing_type"), str)
    }
    return {**graph, **named} if named else graph


def each(graph: Graph) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The nodes that have a class, as (node id, node); anything else in the mapping is passed over."""
    for node_id, node in graph.items():
        if isinstance(node, Mapping) and isinstance(node.get("class_type"), str):
            yield str(node_id), node


def node_of(graph: Graph, node_id: str) -> Mapping[str, Any] | None:
    """The node with this id, or None when there is none with a class."""
    node = graph.get(node_id)
    if isinstance(node, Mapping) and isinstance(node.get("class_type"), str):
        return node
    return None


def inputs_of(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The node's inputs; empty when they are missing or no mapping."""
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, Mapping) else {}


def class_of(node: Mapping[str, Any]) -> str:
    """The node's class type."""
    class_type = node.get("class_type")
    return class_type if isinstance(class_type, str) else ""


def given_title(node: Mapping[str, Any]) -> str | None:
    """The title saved with the node, or None."""
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return title.strip() if isinstance(title, str) and title.strip() else None


def title_of(node: Mapping[str, Any]) -> str:
    """The title a person sees: the saved one, else the class type."""
    return given_title(node) or class_of(node)


def links_of(node: Mapping[str, Any]) -> Iterator[tuple[str, Link]]:
    """The node's linked inputs, as (input name, link)."""
    for name, value in inputs_of(node).items():
        link = link_of(value)
        if link is not None:
            yield name, link


class Consumer(NamedTuple):
    """One use of a node's output."""

    node_id: str
    input: str
    slot: int


def consumers_of(graph: Graph) -> dict[str, list[Consumer]]:
    """Who uses each node's outputs: {node id: [Consumer]}; also for ids that are not in the graph."""
    consumers: dict[str, list[Consumer]] = {}
    for node_id, node in each(graph):
        for name, link in links_of(node):
            consumers.setdefault(link.node_id, []).append(Consumer(node_id, name, link.slot))
    return consumers


def upstream_of(graph: Graph, starts: Iterable[str]) -> set[str]:
    """The ids of these nodes and of all that they draw from; cycles are survived."""
    seen: set[str] = set()
    waiting = [node_id for node_id in starts if node_id in graph]
    while waiting:
        node_id = waiting.pop()
        if node_id in seen:
            continue
        seen.add(node_id)
        node = node_of(graph, node_id)
        if node is not None:
            waiting.extend(link.node_id for _, link in links_of(node) if link.node_id in graph)
    return seen


def natural_key(node_id: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that puts "9" before "12" and "12:3" after "12"."""
    parts = node_id.replace(".", ":").split(":")
    return tuple((0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p) for p in parts)
