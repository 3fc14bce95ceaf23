"""The editor's saved JSON as values: graphs, nodes, slots and links, whatever version wrote them.

Pure. Damaged parts are left out rather than guessed; anything that is not an editor file is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from comfyskill.base import foreign
from comfyskill.base.cli import SkillError

MUTED = 2
BYPASSED = 4
# The boundary nodes inside a subgraph definition.
INPUT_NODE = "-10"
OUTPUT_NODE = "-20"
MAX_NODES = 50_000


@dataclass
class Slot:
    """One saved input slot: `link` is the id it names, `widget` the widget it stands for."""

    name: str
    type: str
    link: str | None = None
    widget: str | None = None


class Link(NamedTuple):
    """One row of a link table; node ids are strings, slots count from 0."""

    id: str
    origin: str
    origin_slot: int
    target: str
    target_slot: int
    type: str = "*"


@dataclass
class SavedNode:
    """A node as the file has it."""

    id: str
    type: str
    mode: int
    title: str
    properties: dict[str, Any]
    inputs: list[Slot]
    output_types: list[str]
    values: Any
    named_values: dict[str, Any] | None
    order: int = 0
    # Values by widget name that go before the saved ones (from a group node).
    overrides: dict[str, Any] = field(default_factory=dict)
    # For a group node of an old file: the inner classes without a definition.
    inner_missing: list[str] = field(default_factory=list)
    # The node's inputs in the API graph that the same file holds, by name.
    sent_before: dict[str, Any] | None = None


@dataclass
class Boundary:
    """One input or output of a subgraph definition, with the ids of its inner links in order."""

    name: str
    type: str
    links: list[str]


@dataclass
class SavedGraph:
    """The root graph or one subgraph definition."""

    id: str
    name: str
    nodes: dict[str, SavedNode] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    inputs: list[Boundary] = field(default_factory=list)
    outputs: list[Boundary] = field(default_factory=list)
    # Links that Use Everywhere drew in its own way, as it saves them; None when the file has no such list.
    broadcast_links: list[Any] | None = None


@dataclass
class Saved:
    """A whole file: the root graph, its subgraph definitions by id, and old group nodes by name."""

    root: SavedGraph
    definitions: dict[str, SavedGraph]
    group_nodes: dict[str, Mapping[str, Any]]


def is_editor(document: Any) -> bool:
    """Whether a JSON value is a workflow as the editor saves it (a list of nodes that have types)."""
    if not isinstance(document, Mapping) or not isinstance(document.get("nodes"), list):
        return False
    nodes = document["nodes"]
    if "links" in document or "last_node_id" in document or "definitions" in document or "state" in document:
        return True
    return bool(nodes) and any(isinstance(node, Mapping) and "type" in node for node in nodes)


def read(document: Any) -> Saved:
    """The file as values.

    Raises:
        SkillError: the document is not an editor workflow.
    """
    if not is_editor(document):
        raise SkillError(
            "this is not a workflow as the ComfyUI editor saves it",
            code="not_editor_format",
            hint="an editor file has a list of nodes and a list of links; an API-format graph needs no conversion",
        )
    definitions: dict[str, SavedGraph] = {}
    for saved in _definitions(document):
        graph = _graph(saved)
        if graph.id:
            definitions.setdefault(graph.id, graph)
    extra = document.get("extra")
    groups = extra.get("groupNodes") if isinstance(extra, Mapping) else None
    group_nodes = (
        {str(name): body for name, body in (groups or {}).items() if isinstance(body, Mapping)}
        if isinstance(groups, Mapping)
        else {}
    )
    root = _graph(document)
    for holder in (document, extra):
        _note_earlier(root, holder.get("prompt") if isinstance(holder, Mapping) else None)
    return Saved(root, definitions, group_nodes)


def _note_earlier(root: SavedGraph, graph: Any) -> None:
    """Keep what an API-format graph in the same file says of the nodes that it shares with it."""
    for number, entry in graph.items() if isinstance(graph, Mapping) else ():
        node = root.nodes.get(str(number))
        inputs = entry.get("inputs") if isinstance(entry, Mapping) else None
        if node is not None and isinstance(inputs, Mapping) and entry.get("class_type") == node.type:
            node.sent_before = {name: value for name, value in inputs.items() if not isinstance(value, list)}


def _definitions(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every subgraph definition, also those nested in definitions (older files)."""
    waiting = [document]
    seen = 0
    while waiting and seen < MAX_NODES:
        holder = waiting.pop()
        seen += 1
        outer = holder.get("definitions")
        subgraphs = outer.get("subgraphs") if isinstance(outer, Mapping) else None
        if not isinstance(subgraphs, list):
            continue
        for subgraph in subgraphs:
            if isinstance(subgraph, Mapping):
                yield subgraph
                waiting.append(subgraph)


def _graph(saved: Mapping[str, Any]) -> SavedGraph:
    graph = SavedGraph(id=_text(saved.get("id")), name=_text(saved.get("name")))
    for raw in _list(saved.get("nodes")):
        node = node_of(raw)
        if node is not None:
            graph.nodes.setdefault(node.id, node)
    if len(graph.nodes) > MAX_NODES:
        raise SkillError(f"a graph with more than {MAX_NODES} nodes", code="too_large")
    rows = saved.get("links")
    for raw in rows.values() if isinstance(rows, Mapping) else _list(rows):
        link = _link(raw)
        if link is not None:
            graph.links.setdefault(link.id, link)
    graph.inputs = [_boundary(raw) for raw in _list(saved.get("inputs")) if isinstance(raw, Mapping)]
    graph.outputs = [_boundary(raw) for raw in _list(saved.get("outputs")) if isinstance(raw, Mapping)]
    extra = saved.get("extra")
    broadcast = extra.get("ue_links") if isinstance(extra, Mapping) else None
    graph.broadcast_links = broadcast if isinstance(broadcast, list) else None
    _settle_competing_links(graph)
    return graph


def _settle_competing_links(graph: SavedGraph) -> None:
    """Keep one link per input: the first row, unless only a later one is named by a slot."""
    named = {slot.link for node in graph.nodes.values() for slot in node.inputs if slot.link is not None}
    taken: dict[tuple[str, int], str] = {}
    dropped: dict[str, str] = {}
    for link in list(graph.links.values()):
        if link.target == OUTPUT_NODE:
            continue
        place = (link.target, link.target_slot)
        first = taken.setdefault(place, link.id)
        if first == link.id:
            continue
        keeper, loser = first, link.id
        same_source = (graph.links[first].origin, graph.links[first].origin_slot) == (
            link.origin,
            link.origin_slot,
        )
        both_named = first in named and link.id in named
        if both_named and not same_source:
            # Two slots name two links with one saved target: the slots are more reliable.
            continue
        if not same_source and link.id in named and first not in named:
            keeper, loser = link.id, first
            taken[place] = link.id
        dropped[loser] = keeper
    for loser in dropped:
        graph.links.pop(loser, None)
    for node in graph.nodes.values() if dropped else ():
        for slot in node.inputs:
            if slot.link is not None:
                slot.link = dropped.get(slot.link, slot.link)


def node_of(raw: Any) -> SavedNode | None:
    if not isinstance(raw, Mapping) or raw.get("id") is None:
        return None
    inputs = [_slot(slot) for slot in _list(raw.get("inputs")) if isinstance(slot, Mapping)]
    outputs = [slot for slot in _list(raw.get("outputs")) if isinstance(slot, Mapping)]
    properties = raw.get("properties")
    named = raw.get("widgets_values_named")
    kind = _text(raw.get("type"))
    return SavedNode(
        id=_text(raw["id"]),
        type=kind,
        mode=raw["mode"] if isinstance(raw.get("mode"), int) else 0,
        title=_text(raw.get("title")),
        properties=dict(properties) if isinstance(properties, Mapping) else {},
        inputs=inputs,
        output_types=[_type(slot.get("type")) for slot in outputs],
        values=raw.get("widgets_values"),
        named_values=dict(named) if isinstance(named, Mapping) else None,
        order=raw["order"] if isinstance(raw.get("order"), int) else 0,
    )


def _slot(raw: Mapping[str, Any]) -> Slot:
    widget = raw.get("widget")
    return Slot(
        name=_text(raw.get("name")),
        type=_type(raw.get("type")),
        link=None if raw.get("link") is None else _text(raw["link"]),
        widget=_text(widget.get("name")) if isinstance(widget, Mapping) else None,
    )


def _link(raw: Any) -> Link | None:
    """A link from its array (0.4) or object (1.0) form; None for a damaged row."""
    if isinstance(raw, list) and len(raw) >= 5:
        number, origin, origin_slot, target, target_slot = raw[:5]
        kind = raw[5] if len(raw) > 5 else "*"
    elif isinstance(raw, Mapping):
        number, origin, origin_slot = raw.get("id"), raw.get("origin_id"), raw.get("origin_slot")
        target, target_slot, kind = raw.get("target_id"), raw.get("target_slot"), raw.get("type", "*")
    else:
        return None
    if number is None or origin is None or target is None:
        return None
    return Link(
        _text(number), _text(origin), _count(origin_slot), _text(target), _count(target_slot), _type(kind)
    )


def _boundary(raw: Mapping[str, Any]) -> Boundary:
    return Boundary(
        _text(raw.get("name")), _type(raw.get("type")), [_text(link) for link in _list(raw.get("linkIds"))]
    )


def _list(value: Any) -> list[Any]:
    return foreign.items(value)


def _text(value: Any) -> str:
    """An id, name or type as text: 5 and 5.0 and "5" are one id."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, (int, float)) else ""


def _type(value: Any) -> str:
    # Old files write -1 (LiteGraph's "event") or 0 for "any"; lists are old combo types.
    if isinstance(value, list):
        return "COMBO"
    return _text(value) if isinstance(value, str) else "*"


def _count(value: Any) -> int:
    if isinstance(value, bool):
        return 0
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return (
        int(value)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10
        else 0
    )
