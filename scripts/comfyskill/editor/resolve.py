"""Where a link's value comes from: followed through reroutes, bypassed nodes, subgraphs and Set/Get pairs.

Pure. A loop with state, not recursion: a chain may be as long as the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from comfyskill.base import foreign, safe_text
from comfyskill.editor import pack_rules
from comfyskill.editor.live import Conversion, Graph, Node, Place, cannot_convert
from comfyskill.editor.read import BYPASSED, INPUT_NODE, MUTED, OUTPUT_NODE, Link, SavedNode

# A Set node keeps its input under a name; the Get nodes of its pack return it.
_SETTER_OF = {rule.partner: name for name, rule in pack_rules.of_kind(pack_rules.SETTER)}


class LinkTo(NamedTuple):
    """An output of a node that is in the prompt."""

    node_id: str
    slot: int


class Constant(NamedTuple):
    """A promoted widget's value."""

    value: Any


def connects(first: str, second: str) -> bool:
    """Whether the editor connects these two slot types."""
    if first in ("", "*") or second in ("", "*") or first == second:
        return True
    wanted = second.lower().split(",")
    return any(
        part in ("", "*") or part in wanted or "*" in wanted or "" in wanted
        for part in first.lower().split(",")
    )


def source_of(conversion: Conversion, place: Place, node: Node, slot: int) -> LinkTo | Constant | None:
    """The node or value that feeds an input; None when the link leads to nothing.

    Raises:
        SkillError: the links form a cycle.
    """
    kind: str | None = None
    seen: set[tuple[int, str, int, bool]] = set()
    outward = True
    while True:
        conversion.spend()
        key = (id(place.host), place.prefix + node.id, slot, outward)
        if key in seen:
            raise cannot_convert(
                f"the links that lead to node {node.label} form a cycle",
                "open the workflow in the editor and remove one link of the cycle",
                node,
            )
        seen.add(key)
        if outward:
            if not 0 <= slot < len(node.inputs):
                return None
            entry = node.inputs[slot]
            if entry.link is None:
                return None
            host = place.host
            if entry.link.origin == INPUT_NODE and host is not None and place.parent is not None:
                step = _out_of_subgraph(place, entry.link.origin_slot)
                if not isinstance(step, Place):
                    return step
                place, node, slot, kind = step, host, entry.link.origin_slot, None
                continue
            origin = place.graph.nodes.get(entry.link.origin)
            if origin is None:
                return None
            node, slot, kind, outward = origin, entry.link.origin_slot, kind or entry.type, False
            continue
        if node.mode == MUTED:
            return None
        if node.mode == BYPASSED:
            chosen = _bypass(node, slot, kind or "*")
            if chosen is None:
                return None
            slot, kind, outward = chosen, None, True
        elif node.role == "instance":
            inside = _into_subgraph(conversion, place, node, slot)
            if inside is None:
                return None
            place, node, slot = inside
        elif node.role in ("reroute", "virtual"):
            step_to = _through_virtual(conversion, place, node, slot)
            if step_to is None:
                return None
            place, node, slot, outward = step_to
        elif node.role in ("primitive", "note"):
            return None
        else:
            return LinkTo(place.id_of(node), slot)


def _out_of_subgraph(place: Place, index: int) -> Place | Constant | None:
    """From a subgraph's input node to the instance: its parent place when linked there, else the promoted value."""
    assert place.host is not None and place.parent is not None
    if not 0 <= index < len(place.host.inputs):
        return None
    if place.host.inputs[index].link is not None:
        return place.parent
    promoted = place.host.promoted.get(index)
    return Constant(promoted.value) if promoted is not None else None


def _into_subgraph(
    conversion: Conversion, place: Place, instance: Node, slot: int
) -> tuple[Place, Node, int] | None:
    graph = conversion.graphs[instance.type]
    if not 0 <= slot < len(graph.saved.outputs):
        return None
    link = _output_link(graph, slot)
    if link is None:
        return None
    inside = place.inside(instance, graph)
    if link.origin == INPUT_NODE:
        # An output wired straight to an input of the same subgraph: go out again on the other side.
        if 0 <= link.origin_slot < len(instance.inputs):
            return _straight_through(place, instance, link.origin_slot)
        return None
    origin = graph.nodes.get(link.origin)
    return None if origin is None else (inside, origin, link.origin_slot)


def _output_link(graph: Graph, slot: int) -> Link | None:
    """The inner link of a definition output: the first row of the link table that leads there."""
    rows = (row for row in graph.links.values() if row.target == OUTPUT_NODE and row.target_slot == slot)
    return next(rows, None)


def _straight_through(place: Place, instance: Node, slot: int) -> tuple[Place, Node, int] | None:
    link = instance.inputs[slot].link
    origin = place.graph.nodes.get(link.origin) if link is not None else None
    return None if origin is None or link is None else (place, origin, link.origin_slot)


def _bypass(node: Node, slot: int, kind: str) -> int | None:
    """The input that a bypassed node's output passes on, by type."""
    inputs = node.inputs
    output = node.outputs[slot] if 0 <= slot < len(node.outputs) else "*"
    if kind in ("*", ""):
        return slot if slot < len(inputs) else 0
    if slot < len(inputs) and connects(inputs[slot].type, output) and connects(inputs[slot].type, kind):
        return slot
    for number, entry in enumerate(inputs):
        if entry.type == kind:
            return number
    for number, entry in enumerate(inputs):
        if connects(entry.type, output) and connects(entry.type, kind):
            return number
    return None


def _through_virtual(
    conversion: Conversion, place: Place, node: Node, slot: int
) -> tuple[Place, Node, int, bool] | None:
    """The input to follow behind a reroute or a Get node; the last value says whether it is an input."""
    if node.type in _SETTER_OF:
        setter = _setter(place, node)
        if setter is None:
            name = safe_text.quoted(_variable_name(node.saved))
            conversion.warn(f"node {node.label} gets {name}, which no Set node sets")
            return None
        return (*setter, 0, True)
    does = pack_rules.virtual_kind(node.type)
    if does == pack_rules.SETTER:
        return place, node, 0, True
    if node.role == "reroute" or does == pack_rules.REROUTE:
        return place, node, min(slot, max(len(node.inputs) - 1, 0)), True
    return None


def _setter(place: Place, getter: Node) -> tuple[Place, Node] | None:
    """The Set node of a Get node's name, in the same graph or in one that holds it."""
    wanted = _variable_name(getter.saved)
    for here in _outwards(place):
        for node in here.graph.nodes.values():
            if node.type == _SETTER_OF[getter.type] and _variable_name(node.saved) == wanted:
                return here, node
    return None


def _variable_name(saved: SavedNode) -> str:
    """The name under which a Set node keeps its value and a Get node finds it."""
    values = saved.values
    if isinstance(values, Mapping):
        return next((value for value in values.values() if isinstance(value, str)), "")
    return foreign.text(values[0]) if isinstance(values, list) and values else ""


def _outwards(place: Place) -> Iterator[Place]:
    here: Place | None = place
    while here is not None:
        yield here
        here = here.parent
