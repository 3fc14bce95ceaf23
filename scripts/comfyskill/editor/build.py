"""Saved graphs → live ones: nodes with the slots and widgets that the editor gives them on loading.

Pure. One live graph per subgraph definition, shared by its instances, as in the editor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comfyskill.base import foreign, safe_text
from comfyskill.editor import fit, pack_rules, pack_values, packs
from comfyskill.editor import widgets as editor_widgets
from comfyskill.editor.live import Build, Graph, Input, Node
from comfyskill.editor.pack_rules import virtual_kind
from comfyskill.editor.read import (
    BYPASSED,
    INPUT_NODE,
    MUTED,
    OUTPUT_NODE,
    Link,
    Saved,
    SavedGraph,
    SavedNode,
    Slot,
    node_of,
)
from comfyskill.editor.widgets import UNSET, NodeClass, Socket, Spec, Widget, default_widgets, has_widget

# Types that old files name differently. The server's own definitions decide whether the new name is needed.
RENAMED = {
    "T2IAdapterLoader": "ControlNetLoader",
    "ConditioningAverage ": "ConditioningAverage",
    "SDV_img2vid_Conditioning": "SVD_img2vid_Conditioning",
    "Load3DAnimation": "Load3D",
    "Preview3DAnimation": "Preview3D",
}
_NOTES = frozenset({"Note", "MarkdownNote"})
_PLAIN = frozenset({"PrimitiveNode", "Reroute", "Note", "MarkdownNote"})
_PREFIXES = ("workflow>", "workflow/")
MAX_ROUNDS = 200

ClassOf = Callable[[str], "NodeClass | None"]


def build(saved: Saved, definitions: Mapping[str, Any], *, without_server: bool) -> Build:
    """All graphs of a file, live but not yet promoted: inner definitions first where the file allows it."""
    made = Build(saved, definitions, without_server)
    if saved.group_nodes:
        unfold_groups(saved, made.node_class, made.warn)
    for name in inner_first(saved):
        made.graphs[name] = _live_graph(made, saved.definitions[name])
    made.root = _live_graph(made, saved.root)
    return made


def inner_first(saved: Saved) -> list[str]:
    """Definition ids so that each comes after those it contains; file order within a cycle."""
    contained = {
        name: [node.type for node in graph.nodes.values() if node.type in saved.definitions]
        for name, graph in saved.definitions.items()
    }
    done: list[str] = []
    state: dict[str, int] = {}
    for start in contained:
        waiting: list[tuple[str, bool]] = [(start, False)]
        while waiting:
            name, leaving = waiting.pop()
            if leaving:
                done.append(name)
                state[name] = 2
            elif state.get(name, 0) == 0:
                state[name] = 1
                waiting.append((name, True))
                waiting.extend(
                    (inner, False) for inner in reversed(contained[name]) if state.get(inner, 0) == 0
                )
    return done


def _live_graph(made: Build, saved: SavedGraph) -> Graph:
    graph = Graph(saved, links=dict(saved.links))
    graph.inputs = [(boundary.name, boundary.type) for boundary in saved.inputs]
    for saved_node in saved.nodes.values():
        node = _live_node(made, saved_node)
        graph.nodes[node.id] = node
        if node.role == "instance":
            graph.instances.append(node)
    for node in graph.nodes.values():
        _attach_links(made, graph, node)
    packs.attach_broadcasts(graph)
    graph.input_links = [_boundary_links(graph, index) for index in range(len(saved.inputs))]
    return graph


def _boundary_links(graph: Graph, index: int) -> list[str]:
    """The links from one definition input, first those the definition lists."""
    listed = [
        number
        for number in graph.saved.inputs[index].links
        if number in graph.links
        and graph.links[number].origin == INPUT_NODE
        and graph.links[number].origin_slot == index
    ]
    rest = [
        link.id
        for link in graph.links.values()
        if link.origin == INPUT_NODE and link.origin_slot == index and link.id not in listed
    ]
    return [*listed, *rest]


def _live_node(made: Build, saved: SavedNode) -> Node:
    kind = saved.type
    if (
        kind not in made.saved.definitions
        and made.node_class(kind) is None
        and made.node_class(RENAMED.get(kind, ""))
    ):
        made.warn(f"node type {kind!r} is now called {RENAMED[kind]!r}; the new name is used")
        kind = RENAMED[kind]
    node = Node(saved.id, kind, saved.title, saved.mode, "node", saved)
    if kind in made.saved.definitions:
        _as_instance(made, node)
    elif kind == "Reroute":
        node.role = "reroute"
        _as_saved(node)
    elif kind == "PrimitiveNode":
        node.role = "primitive"
        node.outputs = list(saved.output_types)
    elif kind in _NOTES:
        node.role = "note"
    elif _is_virtual(made, kind):
        node.role = "virtual"
        _as_saved(node)
    elif made.node_class(kind) is not None:
        _as_class(made, node)
    else:
        _as_unknown(made, node)
    if not node.title and kind not in made.saved.definitions:
        definition = made.definitions.get(kind)
        display = definition.get("display_name") if isinstance(definition, Mapping) else None
        node.title = display if isinstance(display, str) and display else kind
    return node


def _is_virtual(made: Build, kind: str) -> bool:
    """Whether a node type exists in the browser only; a panel does so even when the server declares it."""
    does = pack_rules.virtual_kind(kind)
    if does == pack_rules.PANEL:
        return True
    return does not in ("", pack_rules.BROADCAST) and made.node_class(kind) is None


def _as_saved(node: Node) -> None:
    node.inputs = [Input(slot.name, slot.type, slot.widget) for slot in node.saved.inputs]
    node.outputs = list(node.saved.output_types)


def _as_instance(made: Build, node: Node) -> None:
    definition = made.saved.definitions[node.type]
    node.role = "instance"
    node.title = node.title or definition.name
    node.inputs = [Input(boundary.name, boundary.type) for boundary in definition.inputs]
    node.outputs = [boundary.type for boundary in definition.outputs]


def _as_unknown(made: Build, node: Node) -> None:
    node.role = "unknown"
    _as_saved(node)
    for slot in node.inputs:
        slot.widget = None
    named = packs.known_values(node.saved)
    if named is not None and made.without_server:
        node.role = "node"
        node.core = False
        node.widgets = [Widget(name, "any", value) for name, value in named.items()]
        return
    node.widgets = packs.widgets_of_unknown(node.saved)


def _as_class(made: Build, node: Node) -> None:
    node_class = made.node_class(node.type)
    assert node_class is not None
    node.core = node_class.core
    node.outputs = list(node_class.outputs) + node.saved.output_types[len(node_class.outputs) :]
    node.layout = fit.lay_out(node.saved, node.type, node_class, made.is_linked)
    node_class, node.widgets = node.layout.node_class, node.layout.widgets
    pack_values.on_load(node)
    for name, value in node.saved.overrides.items():
        inner = node.widget(name)
        if inner is not None:
            editor_widgets.set_value(node.widgets, inner, value)
    _repair_values(node)
    declared = editor_widgets.sockets_of(node_class, node.widgets)
    node.inputs = _slots(node, declared)


def _repair_values(node: Node) -> None:
    """What the editor repairs right after loading."""
    for widget in node.widgets:
        if node.type in ("KSampler", "KSamplerAdvanced") and widget.name == "sampler_name":
            name = widget.value
            widget.value = name.removeprefix("sample_") if isinstance(name, str) else name
        if widget.spec is None:
            continue
        if widget.kind == "COMBO" and widget.spec.choices and (widget.value is None or widget.value is UNSET):
            widget.value = widget.spec.choices[0]


def _slots(node: Node, declared: list[Socket]) -> list[Input]:
    """Declared slots in their order, then saved ones that no definition knows (dynamic or obsolete)."""
    names = {socket.name for socket in declared}
    renamed = pack_rules.renamed(node.type)
    for saved in node.saved.inputs:
        if saved.name not in names and renamed.get(saved.name) in names:
            saved.name = renamed[saved.name]
    slots = [Input(socket.name, socket.type, socket.widget) for socket in declared]
    for slot in node.saved.inputs:
        if slot.name not in names and not (slot.widget and node.widget(slot.widget) is None):
            names.add(slot.name)
            slots.append(Input(slot.name, slot.type, slot.widget))
    return slots


def _attach_links(made: Build, graph: Graph, node: Node) -> None:
    """Give each input the link that its saved slot names, if that link also leads to this node."""
    by_name = {slot.name: slot for slot in reversed(node.inputs)}
    _warn_of_rivals(made, graph, node)
    for saved in node.saved.inputs:
        slot = by_name.get(saved.name)
        if saved.link is None or slot is None or slot.link is not None:
            continue
        link = graph.links.get(saved.link)
        if link is None:
            made.warn(
                f"input {safe_text.quoted(saved.name)} of node {node.label} names link {saved.link}, "
                "which the file does not have"
            )
        elif link.target != node.id:
            made.warn(
                f"input {safe_text.quoted(saved.name)} of node {node.label} names link {saved.link}, which leads to another node"
            )
        else:
            slot.link = link


def _warn_of_rivals(made: Build, graph: Graph, node: Node) -> None:
    """Two inputs whose links both claim one slot: the editor keeps only one of the links."""
    claimed: dict[int, str] = {}
    for saved in node.saved.inputs:
        link = graph.links.get(saved.link) if saved.link is not None else None
        if link is None or link.target != node.id:
            continue
        if (first := claimed.setdefault(link.target_slot, saved.name)) != saved.name:
            made.warn(
                f"node {node.label}: the links of its inputs {safe_text.quoted(first)} and"
                f" {safe_text.quoted(saved.name)} lead to one slot; the editor drops one, here both are kept"
            )


def attach_unnamed(graph: Graph) -> None:
    """Attach links that no saved slot names: the row itself says which slot it feeds."""
    used = {slot.link.id for node in graph.nodes.values() for slot in node.inputs if slot.link is not None}
    for link in graph.links.values():
        if link.id in used or link.target == OUTPUT_NODE:
            continue
        node = graph.nodes.get(link.target)
        named = node is not None and any(slot.link == link.id for slot in node.saved.inputs)
        if node is None or named or not 0 <= link.target_slot < len(node.inputs):
            continue
        slot = node.inputs[link.target_slot]
        if slot.link is None:
            slot.link = link


@dataclass
class _Group:
    """What a group shows outside: socket names and widget values, each with the inner node and input behind it."""

    sockets: list[tuple[str, int, str]] = field(default_factory=list)
    outputs: list[tuple[int, int]] = field(default_factory=list)
    overrides: dict[int, dict[str, Any]] = field(default_factory=dict)
    primitive_values: dict[int, list[Any]] = field(default_factory=dict)


def unfold_groups(saved: Saved, class_of: ClassOf, warn: Callable[[str], None]) -> None:
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
                inside = ", ".join(dict.fromkeys(raw.type for raw in _inner_nodes(body)))
                warn(
                    f"node {node.type} (id {node.id}) is switched off, so the nodes in it are left out: {inside}"
                )
            _unfold(graph, node, body, class_of)


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


def _unfold(graph: SavedGraph, node: SavedNode, body: Mapping[str, Any], class_of: ClassOf) -> None:
    inner = _inner_nodes(body)
    rows = [
        row
        for row in _list(body.get("links"))
        if isinstance(row, list) and len(row) >= 4 and _are_places(row[:4], len(inner))
    ]
    group = _outside(node, inner, rows, body, class_of)
    del graph.nodes[node.id]
    ids = _new_ids(graph, node, len(inner))
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


def _new_ids(graph: SavedGraph, node: SavedNode, count: int) -> list[str]:
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
            group.primitive_values[number] = taken or (foreign.items(made.values))
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
            if has_widget(spec):
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
    for widget in default_widgets(node_class):
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
    return foreign.mapping(inputs)


def _inner_node(raw: Any, number: int) -> SavedNode | None:
    return node_of({**(foreign.mapping(raw)), "id": number})


def _are_places(parts: list[Any], count: int) -> bool:
    whole = all(isinstance(part, int) and not isinstance(part, bool) and part >= 0 for part in parts)
    return whole and parts[0] < count and parts[2] < count


def _is_hashable_place(entry: list[Any]) -> bool:
    return all(isinstance(part, (int, str)) for part in entry[:2])


def _list(value: Any) -> list[Any]:
    return foreign.items(value)
