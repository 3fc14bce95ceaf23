"""Group nodes, the subgraphs of older editors, unfolded into the nodes inside them.

Pure. A group node's body (`extra.groupNodes` of the file) has its inner nodes and links; the group node itself has
one list of values for all inner widgets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comfyskill.base import foreign
from comfyskill.editor.pack_rules import virtual_kind
from comfyskill.editor.read import (
    BYPASSED,
    EDITOR_ONLY,
    MUTED,
    Link,
    Saved,
    SavedGraph,
    SavedNode,
    Slot,
    node_of,
)
from comfyskill.editor.widgets import NodeClass, default_widgets
from comfyskill.graph.specs import InputSpec

_PREFIXES = ("workflow>", "workflow/")
MAX_ROUNDS = 200

Body = Mapping[str, object]
ClassOf = Callable[[str], "NodeClass | None"]


@dataclass
class _Group:
    """What a group shows outside: sockets and outputs with the inner node behind each, and values per inner node."""

    sockets: list[tuple[str, int, str]] = field(default_factory=list)
    outputs: list[tuple[int, int]] = field(default_factory=list)
    overrides: dict[int, dict[str, Any]] = field(default_factory=dict)
    primitive_values: dict[int, list[Any]] = field(default_factory=dict)


def unfold(saved: Saved, class_of: ClassOf, warn: Callable[[str], None]) -> None:
    """Replace every group node whose body the file has, in all graphs, by its inner nodes.

    A group with an inner node of an unknown class stays one node, as in the editor: without that class
    its inputs and values cannot be assigned. Its `inner_missing` names those classes.
    """
    for graph in [saved.root, *saved.definitions.values()]:
        for _ in range(MAX_ROUNDS):
            node = next((node for node in graph.nodes.values() if _is_group(saved, node)), None)
            if node is None:
                break
            body = _body_of(saved, node) or {}
            node.inner_missing = _unknown_inside(body, class_of)
            if node.inner_missing:
                continue
            if node.mode in (MUTED, BYPASSED):
                inside = ", ".join(dict.fromkeys(inner.type for inner in _inner_nodes(body)))
                warn(
                    f"node {node.type} (id {node.id}) is switched off, so the nodes in it are left out: {inside}"
                )
            _unfold(graph, node, body, class_of)


def _is_group(saved: Saved, node: SavedNode) -> bool:
    return not node.inner_missing and _body_of(saved, node) is not None


def _body_of(saved: Saved, node: SavedNode) -> Body | None:
    prefix = next((prefix for prefix in _PREFIXES if node.type.startswith(prefix)), None)
    return saved.group_nodes.get(node.type[len(prefix) :]) if prefix else None


def _unknown_inside(body: Body, class_of: ClassOf) -> list[str]:
    kinds = dict.fromkeys(node.type for node in _inner_nodes(body))
    return [
        kind
        for kind in kinds
        if class_of(kind) is None and kind not in EDITOR_ONLY and not virtual_kind(kind)
    ]


def _inner_nodes(body: Body) -> list[SavedNode]:
    """The nodes of a body; their ids are their positions in it."""
    nodes = foreign.items(body.get("nodes"))
    made = [node_of({**foreign.mapping(raw), "id": number}) for number, raw in enumerate(nodes)]
    return [node for node in made if node is not None]


def _unfold(graph: SavedGraph, node: SavedNode, body: Body, class_of: ClassOf) -> None:
    inner = _inner_nodes(body)
    rows = [row for row in foreign.items(body.get("links")) if _is_link(row, len(inner))]
    group = _outside(node, inner, rows, body, class_of)
    del graph.nodes[node.id]
    ids = _new_ids(graph, node, len(inner))
    for number, saved in enumerate(inner):
        placed = replace(
            saved, id=ids[number], mode=node.mode if node.mode in (MUTED, BYPASSED) else saved.mode
        )
        for slot in placed.inputs:
            slot.link = None
        placed.overrides = group.overrides.get(number, {})
        if number in group.primitive_values:
            placed.values = group.primitive_values[number]
        graph.nodes[placed.id] = placed
    for count, (source, source_slot, target, target_slot, *_) in enumerate(rows):
        slots = graph.nodes[ids[target]].inputs
        if target_slot < len(slots):
            link = Link(f"{node.id}>{count}", ids[source], source_slot, ids[target], target_slot)
            graph.links[link.id] = link
            slots[target_slot].link = link.id
    _rewire(graph, node, group, ids)


def _is_link(row: object, count: int) -> bool:
    """Whether a row begins with two places, each a node of the body and a slot."""
    if not isinstance(row, list) or len(row) < 4:
        return False
    numbers = [foreign.whole(part) for part in row[:4]]
    if any(number is None or number < 0 for number in numbers):
        return False
    return row[0] < count and row[2] < count


def _rewire(graph: SavedGraph, node: SavedNode, group: _Group, ids: list[str]) -> None:
    """Lead the links of the group node to its inner nodes."""
    plain = [slot for slot in node.inputs if slot.widget is None]
    for number, (name, index, inner_name) in enumerate(group.sockets):
        saved = next((slot for slot in node.inputs if slot.name == name), None)
        if saved is None and number < len(plain):
            saved = plain[number]
        if saved is None or saved.link not in graph.links:
            continue
        target = graph.nodes[ids[index]]
        place = _place_of(target, inner_name)
        if place is None:
            target.inputs.append(Slot(inner_name, saved.type))
            place = len(target.inputs) - 1
        target.inputs[place].link = saved.link
        graph.links[saved.link] = graph.links[saved.link]._replace(target=target.id, target_slot=place)
    for link in list(graph.links.values()):
        if link.origin == node.id:
            if 0 <= link.origin_slot < len(group.outputs):
                index, slot = group.outputs[link.origin_slot]
                graph.links[link.id] = link._replace(origin=ids[index], origin_slot=slot)
            else:
                del graph.links[link.id]


def _place_of(node: SavedNode, name: str) -> int | None:
    """The number of a node's saved slot of that name."""
    return next((number for number, slot in enumerate(node.inputs) if slot.name == name), None)


def _new_ids(graph: SavedGraph, node: SavedNode, count: int) -> list[str]:
    """Ids that no node has, in the form that the editor gives unfolded nodes."""
    used = [
        int(part)
        for name in [*graph.nodes, node.id]
        for part in name.split(":")
        if part.isascii() and part.isdigit() and len(part) < 16
    ]
    last = max(used, default=0)
    return [f"{last + count + 1}:{last + 1 + number}" for number in range(count)]


def _outside(
    node: SavedNode, inner: list[SavedNode], rows: list[list[int]], body: Body, class_of: ClassOf
) -> _Group:
    """Which inner inputs, widgets and outputs the group shows, in the order in which it showed them."""
    group = _Group()
    linked = {(row[2], row[3]) for row in rows}
    hidden_outputs = {(row[0], row[1]) for row in rows} - {
        (entry[0], entry[1])
        for entry in foreign.items(body.get("external"))
        if isinstance(entry, list)
        and len(entry) > 1
        and all(isinstance(part, (int, str)) for part in entry[:2])
    }
    values = list(foreign.items(node.values))
    seen: dict[str, int] = {}
    later: list[tuple[int, str]] = []
    for number, saved in enumerate(inner):
        settings = _settings(body, number)
        if saved.type == "PrimitiveNode":
            taken, values = values[:2], values[2:]
            group.primitive_values[number] = taken or foreign.items(saved.values)
            continue
        node_class = class_of(saved.type)
        if node_class is None:
            continue
        for spec, width in _widget_specs(node_class):
            if any(slot.name == spec.name and slot.widget for slot in saved.inputs):
                later.append((number, spec.name))
                continue
            _outer_name(saved, spec.name, settings, seen)
            if values:
                group.overrides.setdefault(number, {})[spec.name] = values[0]
                values = values[width:]
        for spec in node_class.specs:
            if not spec.is_widget and (number, _place_of(saved, spec.name)) not in linked:
                group.sockets.append((_outer_name(saved, spec.name, settings, seen), number, spec.name))
        for slot in range(len(node_class.outputs)):
            if (number, slot) not in hidden_outputs:
                group.outputs.append((number, slot))
    for number, name in later:
        if (number, _place_of(inner[number], name)) not in linked:
            outer = _outer_name(inner[number], name, _settings(body, number), seen)
            group.sockets.append((outer, number, name))
    return group


def _widget_specs(node_class: NodeClass) -> list[tuple[InputSpec, int]]:
    """Each widget input with the number of places it takes in the group's values."""
    found: list[tuple[InputSpec, int]] = []
    for widget in default_widgets(node_class):
        if widget.spec is not None:
            found.append((widget.spec, 1))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + 1)
    return found


def _outer_name(node: SavedNode, name: str, settings: Mapping[str, object], seen: dict[str, int]) -> str:
    """The name under which a group shows an inner input: its own, or with the node's name before it when taken."""
    label = foreign.mapping(settings.get(name)).get("name")
    outer = label if isinstance(label, str) else name
    key = outer
    if outer in seen:
        prefix = f"{node.title or node.type} "
        key = outer = f"{prefix}{name}"
        if outer in seen:
            outer = f"{prefix}{seen[key]} {name}"
    seen[key] = seen.get(key, 1) + 1
    return outer


def _settings(body: Body, number: int) -> Mapping[str, object]:
    """The group's settings for the inputs of one inner node."""
    entry = foreign.mapping(foreign.mapping(body.get("config")).get(str(number)))
    return foreign.mapping(entry.get("input"))
