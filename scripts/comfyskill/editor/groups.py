"""Group nodes of old files ("workflow>name", bodies in `extra.groupNodes`) → the plain nodes they stand for.

Level 1, pure. 1.35 numbered them "8:0", "8:1"; 1.58 makes a subgraph of each, with fresh ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comfyskill.editor.pack_rules import virtual_kind
from comfyskill.editor.read import BYPASSED, MUTED, Link, Saved, SavedGraph, SavedNode, Slot, node_of
from comfyskill.editor.widgets import NodeClass, Spec, default_widgets, has_widget

_PLAIN = frozenset({"PrimitiveNode", "Reroute", "Note", "MarkdownNote"})
_PREFIXES = ("workflow>", "workflow/")
MAX_ROUNDS = 200

ClassOf = Callable[[str], "NodeClass | None"]


@dataclass
class _Group:
    """What a group shows outside: socket names and widget values, each with the inner node and input behind it."""

    sockets: list[tuple[str, int, str]] = field(default_factory=list)
    outputs: list[tuple[int, int]] = field(default_factory=list)
    overrides: dict[int, dict[str, Any]] = field(default_factory=dict)
    primitive_values: dict[int, list[Any]] = field(default_factory=dict)


def unfold_groups(saved: Saved, class_of: ClassOf, warn: Callable[[str], None], *, newest: bool) -> None:
    """Replace every group node whose body the file has, in all graphs, by its inner nodes.

    A group with an inner node of an unknown class stays one node, as in the editor: which inputs and values are whose
    cannot be known without that class. Its `inner_missing` names those classes.
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
                inside = ", ".join(dict.fromkeys(raw.type for raw in _inner_nodes(body)))
                warn(
                    f"node {node.type} (id {node.id}) is switched off, so the nodes in it are left out: {inside}"
                )
            _unfold(graph, node, body, class_of, newest=newest)


def _is_group(saved: Saved, node: SavedNode) -> bool:
    return not node.inner_missing and _body_of(saved, node) is not None


def _unknown_inside(body: Mapping[str, Any], class_of: ClassOf) -> list[str]:
    kinds = dict.fromkeys(node.type for node in _inner_nodes(body))
    return [
        kind for kind in kinds if class_of(kind) is None and kind not in _PLAIN and not virtual_kind(kind)
    ]


def _inner_nodes(body: Mapping[str, Any]) -> list[SavedNode]:
    nodes = [_inner_node(raw, number) for number, raw in enumerate(_list(body.get("nodes")))]
    return [node for node in nodes if node is not None]


def _body_of(saved: Saved, node: SavedNode) -> Mapping[str, Any] | None:
    prefix = next((prefix for prefix in _PREFIXES if node.type.startswith(prefix)), None)
    return saved.group_nodes.get(node.type[len(prefix) :]) if prefix else None


def _unfold(
    graph: SavedGraph, node: SavedNode, body: Mapping[str, Any], class_of: ClassOf, *, newest: bool
) -> None:
    inner = _inner_nodes(body)
    rows = [
        row
        for row in _list(body.get("links"))
        if isinstance(row, list) and len(row) >= 4 and _are_places(row[:4], len(inner))
    ]
    group = _outside(node, inner, rows, body, class_of)
    del graph.nodes[node.id]
    ids = _new_ids(graph, node, len(inner), newest=newest)
    for number, made in enumerate(inner):
        placed = replace(
            made, id=ids[number], mode=node.mode if node.mode in (MUTED, BYPASSED) else made.mode
        )
        for slot in placed.inputs:
            slot.link = None
        placed.overrides = group.overrides.get(number, {})
        if number in group.primitive_values:
            placed.values = group.primitive_values[number]
        graph.nodes[placed.id] = placed
    for count, row in enumerate(rows):
        source, source_slot, target, target_slot = row[:4]
        slots = graph.nodes[ids[target]].inputs
        if target_slot < len(slots):
            link = Link(f"{node.id}>{count}", ids[source], source_slot, ids[target], target_slot)
            graph.links[link.id] = link
            slots[target_slot].link = link.id
    _rewire(graph, node, group, ids)


def _rewire(graph: SavedGraph, node: SavedNode, group: _Group, ids: list[str]) -> None:
    """Links to and from the group node now lead to its inner nodes."""
    plain = [slot for slot in node.inputs if slot.widget is None]
    for number, (name, index, inner_name) in enumerate(group.sockets):
        saved = next((slot for slot in node.inputs if slot.name == name), None)
        if saved is None and number < len(plain):
            saved = plain[number]
        if saved is None or saved.link not in graph.links:
            continue
        target = graph.nodes[ids[index]]
        place = next((at for at, slot in enumerate(target.inputs) if slot.name == inner_name), None)
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


def _new_ids(graph: SavedGraph, node: SavedNode, count: int, *, newest: bool) -> list[str]:
    if not newest:
        return [f"{node.id}:{number}" for number in range(count)]
    used = [
        int(part)
        for name in [*graph.nodes, node.id]
        for part in name.split(":")
        if part.isascii() and part.isdigit() and len(part) < 16
    ]
    last = max(used, default=0)
    return [f"{last + count + 1}:{last + 1 + number}" for number in range(count)]


def _outside(
    node: SavedNode, inner: list[SavedNode], rows: list[list[Any]], body: Mapping[str, Any], class_of: ClassOf
) -> _Group:
    """Which inner inputs, widgets and outputs the group shows, in the order in which it showed them."""
    group = _Group()
    linked = {(row[2], row[3]) for row in rows}
    hidden_outputs = {(row[0], row[1]) for row in rows} - {
        (entry[0], entry[1])
        for entry in _list(body.get("external"))
        if isinstance(entry, list) and len(entry) > 1 and _is_hashable_place(entry)
    }
    values = list(node.values) if isinstance(node.values, list) else []
    seen: dict[str, int] = {}
    later: list[tuple[int, str]] = []
    for number, made in enumerate(inner):
        settings = _settings(body, number)
        if made.type == "PrimitiveNode":
            taken, values = values[:2], values[2:]
            group.primitive_values[number] = taken or (made.values if isinstance(made.values, list) else [])
            continue
        node_class = class_of(made.type)
        if node_class is None:
            continue
        for spec, width in _widget_specs(node_class):
            if any(slot.name == spec.name and slot.widget for slot in made.inputs):
                later.append((number, spec.name))
                continue
            _outer_name(made, spec.name, settings, seen)
            if values:
                group.overrides.setdefault(number, {})[spec.name] = values[0]
                values = values[width:]
        for spec in node_class.specs:
            if has_widget(spec, newest=True):
                continue
            place = next((at for at, slot in enumerate(made.inputs) if slot.name == spec.name), None)
            if place is None or (number, place) not in linked:
                group.sockets.append((_outer_name(made, spec.name, settings, seen), number, spec.name))
        for slot in range(len(node_class.outputs)):
            if (number, slot) not in hidden_outputs:
                group.outputs.append((number, slot))
    for number, name in later:
        place = next(at for at, slot in enumerate(inner[number].inputs) if slot.name == name)
        if (number, place) not in linked:
            group.sockets.append(
                (_outer_name(inner[number], name, _settings(body, number), seen), number, name)
            )
    return group


def _widget_specs(node_class: NodeClass) -> list[tuple[Spec, int]]:
    """Each widget input with the number of places it takes in the group's values."""
    found: list[tuple[Spec, int]] = []
    for widget in default_widgets(node_class, newest=True):
        if widget.spec is not None:
            found.append((widget.spec, 1))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + 1)
    return found


def _outer_name(node: SavedNode, name: str, settings: Mapping[str, Any], seen: dict[str, int]) -> str:
    """The name under which a group shows an inner input: its own, or with the node's name before it when taken."""
    custom = settings.get(name)
    label = custom.get("name") if isinstance(custom, Mapping) else None
    outer = label if isinstance(label, str) else name
    key = outer
    if outer in seen:
        prefix = f"{node.title or node.type} "
        key = outer = f"{prefix}{name}"
        if outer in seen:
            outer = f"{prefix}{seen[key]} {name}"
    seen[key] = seen.get(key, 1) + 1
    return outer


def _settings(body: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    config = body.get("config")
    entry = config.get(str(number)) if isinstance(config, Mapping) else None
    inputs = entry.get("input") if isinstance(entry, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}


def _inner_node(raw: Any, number: int) -> SavedNode | None:
    return node_of({**(raw if isinstance(raw, Mapping) else {}), "id": number})


def _are_places(parts: list[Any], count: int) -> bool:
    whole = all(isinstance(part, int) and not isinstance(part, bool) and part >= 0 for part in parts)
    return whole and parts[0] < count and parts[2] < count


def _is_hashable_place(entry: list[Any]) -> bool:
    return all(isinstance(part, (int, str)) for part in entry[:2])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
