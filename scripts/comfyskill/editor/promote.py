"""Subgraph instances: which inner widgets they show as their own, and with which saved values.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from comfyskill.base import foreign
from comfyskill.editor.build import inner_first
from comfyskill.editor.live import Conversion, Graph, Input, Node, Promoted
from comfyskill.editor.read import INPUT_NODE, Link
from comfyskill.editor.widgets import UNSET, Widget, chosen, set_value

_PREFIX = re.compile(r"^\s*(\d+)\s*:\s*(.+)$")
_PREVIEWS = "$$"

# One entry of `properties.proxyWidgets`: inner node id, widget name, inner-inner node id.
Entry = tuple[str, str, "str | None"]


def promote_all(conversion: Conversion) -> None:
    """Give every instance its promoted widgets, inner graphs first, then apply the file's values."""
    for name in inner_first(conversion.saved):
        _promote_graph(conversion, conversion.graphs[name])
    _promote_graph(conversion, conversion.root)


def _promote_graph(conversion: Conversion, graph: Graph) -> None:
    for instance in graph.instances:
        definition = conversion.graphs[instance.type]
        for index in range(len(instance.inputs), len(definition.inputs)):
            instance.inputs.append(Input(*definition.inputs[index]))
        for index in range(len(definition.inputs)):
            _bind(definition, instance, index)
        _restore(instance)
    for instance in graph.instances:
        if entries := _proxy_entries(instance):
            _apply_entries(conversion, instance, entries)


def _target_of(graph: Graph, link: Link) -> tuple[Node, int] | None:
    """The node and the number of the input that a link feeds."""
    node = graph.nodes.get(link.target)
    if node is None:
        return None
    return next(((node, number) for number, slot in enumerate(node.inputs) if slot.link is link), None)


def _bind(definition: Graph, instance: Node, index: int) -> None:
    """Promote the first inner widget that a definition input reaches."""
    for number in definition.input_links[index] if index < len(definition.input_links) else ():
        found = _target_of(definition, definition.links[number])
        if found is None:
            continue
        node, slot = found
        source: Widget | Promoted | None
        if node.role == "instance":
            source = node.promoted.get(slot)
            inner_name = node.inputs[slot].name
        else:
            name = node.inputs[slot].widget
            source = node.widget(name) if name else None
            inner_name = name or ""
        if source is not None:
            instance.promoted[index] = Promoted(
                definition.inputs[index][0], source.value, source, node.id, inner_name
            )
            return


def _restore(instance: Node) -> None:
    """Assign the saved values to the promoted widgets by position, in the definition's order."""
    values = instance.saved.values
    if not isinstance(values, list):
        return
    kept = _quarantined(instance)
    for (index, promoted), value in zip(sorted(instance.promoted.items()), values, strict=False):
        _assign(instance, index, kept.get(promoted.name, value))
    for promoted in list(instance.promoted.values())[len(values) :]:
        if promoted.name in kept:
            promoted.value = kept[promoted.name]


def _assign(instance: Node, index: int | None, value: object) -> None:
    """Give a promoted widget its saved value, if there is one."""
    promoted = instance.promoted.get(index) if index is not None else None
    if promoted is not None and value is not UNSET:
        promoted.value = value


def _quarantined(instance: Node) -> Mapping[str, object]:
    """Values that a newer editor set aside because it could not place them."""
    kept: dict[str, object] = {}
    for entry in reversed(foreign.mappings(instance.saved.properties.get("proxyWidgetErrorQuarantine"))):
        original = foreign.items(entry.get("originalEntry"))
        if len(original) >= 2 and original[0] == "-1" and "hostValue" in entry:
            kept[str(original[1])] = entry["hostValue"]
    return kept


def _proxy_entries(instance: Node) -> list[Entry]:
    """The entries of `properties.proxyWidgets`; none when it is not well formed."""
    raw = foreign.items(instance.saved.properties.get("proxyWidgets"))
    sound = all(
        isinstance(item, list) and len(item) in (2, 3) and all(isinstance(part, str) for part in item)
        for item in raw
    )
    return [(item[0], item[1], item[2] if len(item) == 3 else None) for item in raw] if sound else []


def _apply_entries(conversion: Conversion, instance: Node, entries: list[Entry]) -> None:
    """Turn each entry into a promoted widget of the definition, with the saved value at its place."""
    values = foreign.items(instance.saved.values)
    definition = conversion.graphs[instance.type]
    aside: list[tuple[str, object]] = []
    primitives: dict[str, list[tuple[str, object]]] = {}
    plans = []
    # All entries are judged before any is carried out.
    for position, (owner, name, inner) in enumerate(entries):
        value = values[position] if position < len(values) else UNSET
        name, inner = _plain_name(definition, owner, name, inner)
        plans.append((owner, name, inner, value, _linked_input(instance, owner, name)))
    for owner, name, inner, value, linked in plans:
        node = definition.nodes.get(owner)
        if linked is not None:
            _assign(instance, linked, value)
        elif node is None:
            aside.append((name, value))
        elif node.role == "primitive":
            primitives.setdefault(owner, []).append((name, value))
        elif not name.startswith(_PREVIEWS):
            _promote_new(conversion, instance, node, name, inner, value)
    for owner, wanted in primitives.items():
        _promote_primitive(conversion, instance, definition.nodes[owner], wanted)
    for name, value in aside:
        index = next((number for number, slot in enumerate(instance.inputs) if slot.name == name), None)
        _assign(instance, index, value)


def _plain_name(definition: Graph, owner: str, name: str, inner: str | None) -> tuple[str, str | None]:
    """A widget name without the "5: " prefixes of older files, which name an inner-inner node."""
    node = definition.nodes.get(owner)
    if node is not None and (node.widget(name) or any(slot.name == name for slot in node.inputs)):
        return name, inner
    while match := _PREFIX.match(name):
        inner, name = match[1], match[2]
    return name, inner


def _linked_input(instance: Node, owner: str, name: str) -> int | None:
    """The instance input that already shows this inner widget."""
    for index, promoted in sorted(instance.promoted.items()):
        if promoted.inner_id == owner and promoted.inner_name == name:
            return index
    return None


def _promote_new(
    conversion: Conversion, instance: Node, node: Node, name: str, inner: str | None, value: object
) -> None:
    """Add an input to the definition for an inner widget that has none yet."""
    linked = _linked_input(instance, node.id, name)
    if linked is not None:
        _assign(instance, linked, value)
        return
    slot = _widget_slot(node, name, inner)
    if slot is None:
        return
    index = _new_input(conversion, conversion.graphs[instance.type], name, node.inputs[slot].type)
    _connect(conversion, conversion.graphs[instance.type], index, [(node, slot)])
    _assign(instance, index, value)


def _widget_slot(node: Node, name: str, inner: str | None) -> int | None:
    """The number of the input of an inner widget; for an inner instance, of its promoted one."""
    if node.role == "instance":
        for number, promoted in sorted(node.promoted.items()):
            if inner is not None:
                if promoted.inner_name == name and promoted.inner_id == inner:
                    return number
            elif node.inputs[number].name == name or promoted.inner_name == name:
                return number
        return None
    return next(
        (number for number, slot in enumerate(node.inputs) if slot.widget == name and node.widget(name)), None
    )


def _promote_primitive(
    conversion: Conversion, instance: Node, primitive: Node, wanted: list[tuple[str, object]]
) -> None:
    """Replace an inner PrimitiveNode by a new definition input that feeds its targets."""
    definition = conversion.graphs[instance.type]
    done = primitive.saved.properties.get("proxyBypassedToSubgraphInput")
    if isinstance(done, str):
        index = next((number for number, (name, _) in enumerate(definition.inputs) if name == done), None)
        _assign(instance, index, wanted[0][1])
        return
    targets = []
    for node in definition.nodes.values():
        for number, slot in enumerate(node.inputs):
            if slot.link is not None and slot.link.origin == primitive.id:
                targets.append((node, number))
    if not targets or len({name for name, _ in wanted}) > 1:
        return
    kind = primitive.outputs[0] if primitive.outputs else "*"
    if any(node.inputs[number].type not in (kind, "*") and kind != "*" for node, number in targets):
        return
    title = primitive.title if primitive.title and primitive.title != "PrimitiveNode" else wanted[0][0]
    index = _new_input(conversion, definition, title, kind)
    _connect(conversion, definition, index, targets)
    primitive.saved.properties["proxyBypassedToSubgraphInput"] = definition.inputs[index][0]
    own = foreign.items(primitive.saved.values)[:1]
    _assign(
        instance,
        index,
        next((value for value in [*(value for _, value in wanted), *own] if value is not UNSET), UNSET),
    )


def _new_input(conversion: Conversion, definition: Graph, name: str, kind: str) -> int:
    """The number of an input that is added to a definition and its instances, under a name that is free."""
    taken = {existing for existing, _ in definition.inputs}
    unique, number = name, 1
    while unique in taken:
        unique = f"{name}_{number}"
        number += 1
    definition.inputs.append((unique, kind))
    definition.input_links.append([])
    for instance in _instances_of(conversion, definition):
        while len(instance.inputs) < len(definition.inputs):
            instance.inputs.append(Input(*definition.inputs[len(instance.inputs)]))
    return len(definition.inputs) - 1


def _connect(conversion: Conversion, definition: Graph, index: int, targets: list[tuple[Node, int]]) -> None:
    for node, number in targets:
        link = Link(
            f"new:{index}:{node.id}:{number}", INPUT_NODE, index, node.id, number, definition.inputs[index][1]
        )
        definition.links[link.id] = link
        definition.input_links[index].append(link.id)
        node.inputs[number].link = link
    for instance in _instances_of(conversion, definition):
        _bind(definition, instance, index)


def _instances_of(conversion: Conversion, definition: Graph) -> list[Node]:
    return [
        node
        for graph in conversion.all_graphs()
        for node in graph.instances
        if conversion.graphs[node.type] is definition
    ]


def repair_combos(conversion: Conversion) -> None:
    """Give each promoted choice without a value its first option, as the editor does."""
    for graph in conversion.all_graphs():
        for instance in graph.instances:
            for promoted in instance.promoted.values():
                if (spec := promoted.widget.spec) is not None:
                    promoted.value = chosen(spec, promoted.value)


def write_through(node: Node, number: int, value: object) -> None:
    """Set the widget of an input, on a node or promoted on an instance."""
    if node.role == "instance":
        if number in node.promoted:
            node.promoted[number].value = value
        return
    name = node.inputs[number].widget
    widget = node.widget(name) if name else None
    if widget is not None:
        set_value(node.widgets, widget, value)
