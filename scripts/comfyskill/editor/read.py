"""The editor's saved JSON as values: graphs, nodes, slots and links, whatever version wrote them.

Pure. Damaged parts are left out, not guessed; anything that is not an editor file is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from comfyskill.base import foreign
from comfyskill.base.cli import SkillError

MUTED = 2
BYPASSED = 4
# Core node types that exist only in the editor.
NOTES = frozenset({"Note", "MarkdownNote"})
EDITOR_ONLY = NOTES | {"Reroute", "PrimitiveNode"}
# The boundary nodes inside a subgraph definition.
INPUT_NODE = "-10"
OUTPUT_NODE = "-20"
MAX_NODES = 50_000


@dataclass
class Slot:
    """One saved input slot: `link` is the id of its link, `widget` the name of the widget that it belongs to."""

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
    # Values by widget name that replace the saved ones (from a group node).
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


def is_editor(document: object) -> bool:
    """Whether a JSON value is a workflow as the editor saves it (a list of nodes that have types)."""
    if not isinstance(document, Mapping) or not isinstance(document.get("nodes"), list):
        return False
    if "links" in document or "last_node_id" in document or "definitions" in document or "state" in document:
        return True
    return any("type" in node for node in foreign.mappings(document["nodes"]))


def read(document: object) -> Saved:
    """The file as values.

    Raises:
        SkillError: the document is not an editor workflow.
    """
    if not isinstance(document, Mapping) or not is_editor(document):
        raise SkillError(
            "this is not a workflow as the ComfyUI editor saves it",
            code="not_editor_format",
            hint="an editor file has a list of nodes and a list of links; an API-format graph needs no conversion",
        )
    definitions: dict[str, SavedGraph] = {}
    for subgraph in subgraphs_of(document):
        graph = _graph(subgraph)
        if graph.id:
            definitions.setdefault(graph.id, graph)
    extra = foreign.mapping(document.get("extra"))
    group_nodes = {
        str(name): body
        for name, body in foreign.mapping(extra.get("groupNodes")).items()
        if isinstance(body, Mapping)
    }
    root = _graph(document)
    for holder in (document, extra):
        _keep_values_sent_before(root, holder.get("prompt"))
    return Saved(root, definitions, group_nodes)


def _keep_values_sent_before(root: SavedGraph, graph: object) -> None:
    """Give each node the values that an API-format graph in the same file has for it."""
    for number, entry in foreign.mapping(graph).items():
        node = root.nodes.get(str(number))
        inputs = entry.get("inputs") if isinstance(entry, Mapping) else None
        if node is not None and isinstance(inputs, Mapping) and entry.get("class_type") == node.type:
            node.sent_before = {name: value for name, value in inputs.items() if not isinstance(value, list)}


def subgraphs_of(document: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Every subgraph definition, also those nested in definitions (older files)."""
    waiting = [document]
    seen = 0
    while waiting and seen < MAX_NODES:
        holder = waiting.pop()
        seen += 1
        for subgraph in foreign.mappings(foreign.mapping(holder.get("definitions")).get("subgraphs")):
            yield subgraph
            waiting.append(subgraph)


def _graph(saved: Mapping[str, object]) -> SavedGraph:
    graph = SavedGraph(id=_text(saved.get("id")), name=_text(saved.get("name")))
    for raw in foreign.items(saved.get("nodes")):
        node = node_of(raw)
        if node is not None:
            graph.nodes.setdefault(node.id, node)
    if len(graph.nodes) > MAX_NODES:
        raise SkillError(f"a graph with more than {MAX_NODES} nodes", code="too_large")
    rows = saved.get("links")
    for raw in rows.values() if isinstance(rows, Mapping) else foreign.items(rows):
        link = link_of(raw)
        if link is not None:
            graph.links.setdefault(link.id, link)
    graph.inputs = [_boundary(raw) for raw in foreign.mappings(saved.get("inputs"))]
    graph.outputs = [_boundary(raw) for raw in foreign.mappings(saved.get("outputs"))]
    broadcast = foreign.mapping(saved.get("extra")).get("ue_links")
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


def node_of(raw: object) -> SavedNode | None:
    """A saved node; None when it has no id."""
    if not isinstance(raw, Mapping) or raw.get("id") is None:
        return None
    named = raw.get("widgets_values_named")
    return SavedNode(
        id=_text(raw["id"]),
        type=_text(raw.get("type")),
        mode=raw["mode"] if isinstance(raw.get("mode"), int) else 0,
        title=_text(raw.get("title")),
        properties=dict(foreign.mapping(raw.get("properties"))),
        inputs=[_slot(slot) for slot in foreign.mappings(raw.get("inputs"))],
        output_types=[_type(slot.get("type")) for slot in foreign.mappings(raw.get("outputs"))],
        values=raw.get("widgets_values"),
        named_values=dict(named) if isinstance(named, Mapping) else None,
    )


def _slot(raw: Mapping[str, object]) -> Slot:
    widget = raw.get("widget")
    return Slot(
        name=_text(raw.get("name")),
        type=_type(raw.get("type")),
        link=None if raw.get("link") is None else _text(raw["link"]),
        widget=_text(widget.get("name")) if isinstance(widget, Mapping) else None,
    )


def link_of(raw: object) -> Link | None:
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


def _boundary(raw: Mapping[str, object]) -> Boundary:
    links = [_text(link) for link in foreign.items(raw.get("linkIds"))]
    return Boundary(_text(raw.get("name")), _type(raw.get("type")), links)


def _text(value: object) -> str:
    """An id, name or type as text: 5 and 5.0 and "5" are one id."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _type(value: object) -> str:
    """A slot's type; lists are the combo types of old files, which also write -1 or 0 for "any"."""
    if isinstance(value, list):
        return "COMBO"
    return value if isinstance(value, str) else "*"


def _count(value: object) -> int:
    """A slot number; 0 where the file has none."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    return int(value) if isinstance(value, int) or value.is_integer() else 0
