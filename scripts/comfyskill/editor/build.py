"""Saved graphs → live ones: nodes with the slots and widgets that the editor gives them on loading.

Pure. One live graph per subgraph definition, shared by its instances, as in the editor.
"""

from __future__ import annotations

from collections.abc import Mapping

from comfyskill.base import foreign, safe_text
from comfyskill.editor import group_nodes, pack_rules, pack_values, widget_values
from comfyskill.editor.browser_text import js_json
from comfyskill.editor.live import Conversion, Graph, Input, Node, cannot_convert
from comfyskill.editor.read import (
    INPUT_NODE,
    NOTES,
    OUTPUT_NODE,
    Link,
    Saved,
    SavedGraph,
    SavedNode,
)
from comfyskill.editor.widgets import CONTROLS, Socket, Widget, chosen, set_value, sockets_of
from comfyskill.graph.nodes import Definitions

# Types that old files name differently. The server's definitions decide whether the new name is needed.
RENAMED = {
    "T2IAdapterLoader": "ControlNetLoader",
    "ConditioningAverage ": "ConditioningAverage",
    "SDV_img2vid_Conditioning": "SVD_img2vid_Conditioning",
    "Load3DAnimation": "Load3D",
    "Preview3DAnimation": "Preview3D",
}
POWER_LORA_LOADER = "Power Lora Loader (rgthree)"
_BROADCASTS = frozenset(name for name, _ in pack_rules.of_kind(pack_rules.BROADCAST))
# Keys of saved values that name a preview or a button, not an input.
_PREVIEW_KEYS = frozenset({"videopreview", "choose video to upload", "choose folder to upload"})
_NOT_INPUTS = frozenset({"control_after_generate", "control_filter_list", "upload", "audioUI", "refresh"})


def build(saved: Saved, definitions: Definitions, *, without_server: bool) -> Conversion:
    """All graphs of a file, live but not yet promoted: inner definitions first where the file allows it."""
    conversion = Conversion(saved, definitions, without_server)
    if saved.group_nodes:
        group_nodes.unfold(saved, conversion.node_class, conversion.warn)
    for name in inner_first(saved):
        conversion.graphs[name] = _live_graph(conversion, saved.definitions[name])
    conversion.root = _live_graph(conversion, saved.root)
    return conversion


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


def _live_graph(conversion: Conversion, saved: SavedGraph) -> Graph:
    graph = Graph(saved, links=dict(saved.links))
    graph.inputs = [(boundary.name, boundary.type) for boundary in saved.inputs]
    for saved_node in saved.nodes.values():
        node = _live_node(conversion, saved_node)
        graph.nodes[node.id] = node
        if node.role == "instance":
            graph.instances.append(node)
    for node in graph.nodes.values():
        _attach_links(conversion, graph, node)
    _attach_broadcasts(graph)
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


def _live_node(conversion: Conversion, saved: SavedNode) -> Node:
    kind = saved.type
    if (
        kind not in conversion.saved.definitions
        and conversion.node_class(kind) is None
        and conversion.node_class(RENAMED.get(kind, ""))
    ):
        conversion.warn(f"node type {kind!r} is now called {RENAMED[kind]!r}; the new name is used")
        kind = RENAMED[kind]
    node = Node(saved.id, kind, saved.title, saved.mode, "node", saved)
    if kind in conversion.saved.definitions:
        _as_instance(conversion, node)
    elif kind == "Reroute":
        node.role = "reroute"
        _as_saved(node)
    elif kind == "PrimitiveNode":
        node.role = "primitive"
        node.outputs = list(saved.output_types)
    elif kind in NOTES:
        node.role = "note"
    elif _is_virtual(conversion, kind):
        node.role = "virtual"
        _as_saved(node)
    elif conversion.node_class(kind) is not None:
        _as_class(conversion, node)
    else:
        _as_unknown(conversion, node)
    if not node.title and kind not in conversion.saved.definitions:
        definition = foreign.mapping(conversion.definitions.get(kind))
        node.title = foreign.text(definition.get("display_name")) or kind
    return node


def _is_virtual(conversion: Conversion, kind: str) -> bool:
    """Whether a node type exists only in the browser; a panel does even when the server declares it."""
    does = pack_rules.virtual_kind(kind)
    if does == pack_rules.PANEL:
        return True
    return does not in ("", pack_rules.BROADCAST) and conversion.node_class(kind) is None


def _as_saved(node: Node) -> None:
    """Give a node the slots that the file has for it."""
    node.inputs = [Input(slot.name, slot.type, slot.widget) for slot in node.saved.inputs]
    node.outputs = list(node.saved.output_types)


def _as_instance(conversion: Conversion, node: Node) -> None:
    definition = conversion.saved.definitions[node.type]
    node.role = "instance"
    node.title = node.title or definition.name
    node.inputs = [Input(boundary.name, boundary.type) for boundary in definition.inputs]
    node.outputs = [boundary.type for boundary in definition.outputs]


def _as_unknown(conversion: Conversion, node: Node) -> None:
    node.role = "unknown"
    _as_saved(node)
    for slot in node.inputs:
        slot.widget = None
    named = named_values(node.saved)
    if named is not None and conversion.without_server:
        node.role = "node"
        node.widgets = [Widget(name, "any", value) for name, value in named.items()]
        return
    node.widgets = _widgets_of_unknown(node.saved)


def named_values(saved: SavedNode) -> Mapping[str, object] | None:
    """Widget values by name where the file alone shows them, else None."""
    if saved.named_values is not None:
        return {name: value for name, value in saved.named_values.items() if name not in _NOT_INPUTS}
    values = saved.values
    if isinstance(values, Mapping):
        return {str(name): value for name, value in values.items() if name not in _NOT_INPUTS | _PREVIEW_KEYS}
    if not values:
        return {}
    if not isinstance(values, list):
        return None
    if saved.type == POWER_LORA_LOADER:
        return {widget.name: widget.value for widget in pack_values.power_loras(saved, values)}
    named: dict[str, object] = {}
    position = 0
    for slot in saved.inputs:
        if slot.widget is None:
            continue
        if position >= len(values):
            return None
        named[slot.widget] = values[position]
        position += 1
        if slot.widget in ("seed", "noise_seed") and position < len(values) and values[position] in CONTROLS:
            position += 1
    return named if position == len(values) else None


def _widgets_of_unknown(saved: SavedNode) -> list[Widget]:
    """The stand-in widgets that the editor gives a node without a definition."""
    widgets = []
    for index, value in enumerate(foreign.items(saved.values)):
        name = f"UNKNOWN_{index}" if index else "UNKNOWN"
        shown = value if isinstance(value, (str, int, float)) else js_json(value)
        widgets.append(Widget(name, "any", shown))
    return widgets


def _as_class(conversion: Conversion, node: Node) -> None:
    node_class = conversion.node_class(node.type)
    assert node_class is not None
    node.outputs = list(node_class.outputs) + node.saved.output_types[len(node_class.outputs) :]
    node.layout = widget_values.lay_out(node.saved, node.type, node_class, conversion.is_linked)
    node_class, node.widgets = node.layout.node_class, node.layout.widgets
    pack_values.on_load(node)
    for name, value in node.saved.overrides.items():
        inner = node.widget(name)
        if inner is not None:
            set_value(node.widgets, inner, value)
    _repair_values(node)
    declared = sockets_of(node_class, node.widgets)
    node.inputs = _slots(node, declared)


def _repair_values(node: Node) -> None:
    """Repair values as the editor does right after loading."""
    for widget in node.widgets:
        if node.type in ("KSampler", "KSamplerAdvanced") and widget.name == "sampler_name":
            name = widget.value
            widget.value = name.removeprefix("sample_") if isinstance(name, str) else name
        if widget.spec is not None:
            widget.value = chosen(widget.spec, widget.value)


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


def _attach_links(conversion: Conversion, graph: Graph, node: Node) -> None:
    """Give each input the link that its saved slot names, if that link also leads to this node."""
    by_name = {slot.name: slot for slot in reversed(node.inputs)}
    _warn_of_rivals(conversion, graph, node)
    for saved in node.saved.inputs:
        slot = by_name.get(saved.name)
        if saved.link is None or slot is None or slot.link is not None:
            continue
        link = graph.links.get(saved.link)
        if link is None:
            conversion.warn(
                f"input {safe_text.quoted(saved.name)} of node {node.label} names link {saved.link}, "
                "which the file does not have"
            )
        elif link.target != node.id:
            conversion.warn(
                f"input {safe_text.quoted(saved.name)} of node {node.label} names link {saved.link}, which leads to another node"
            )
        else:
            slot.link = link


def _warn_of_rivals(conversion: Conversion, graph: Graph, node: Node) -> None:
    """Warn of two inputs whose links both claim one slot: the editor keeps only one of the links."""
    claimed: dict[int, str] = {}
    for saved in node.saved.inputs:
        link = graph.links.get(saved.link) if saved.link is not None else None
        if link is None or link.target != node.id:
            continue
        if (first := claimed.setdefault(link.target_slot, saved.name)) != saved.name:
            conversion.warn(
                f"node {node.label}: the links of its inputs {safe_text.quoted(first)} and"
                f" {safe_text.quoted(saved.name)} lead to one slot; the editor drops one, here both are kept"
            )


def attach_unnamed(graph: Graph) -> None:
    """Attach links that no saved slot names, by the slot that the row itself names."""
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


def _attach_broadcasts(graph: Graph) -> None:
    """Turn Use Everywhere's links, which the file lists apart, into links like others.

    Raises:
        SkillError: a broadcasting node is fed, and the file does not list where its value goes.
    """
    senders = [node for node in graph.nodes.values() if node.type in _BROADCASTS and not node.off]
    fed = [node for node in senders if any(slot.link is not None for slot in node.inputs)]
    if graph.saved.broadcast_links is None:
        if fed:
            raise cannot_convert(
                f"node {fed[0].label} sends its input to other nodes without links, and the file does not list them",
                "open it in the editor with Use Everywhere installed and convert its links to real ones, or save it"
                " there again with a newer version of that pack",
                fed[0],
            )
        return
    for number, row in enumerate(graph.saved.broadcast_links):
        if isinstance(row, Mapping):
            _attach_broadcast(graph, number, row)
    for node in senders:
        if node.role == "unknown":
            # Once its links are drawn, it does nothing more in a run.
            node.role = "note"


def _attach_broadcast(graph: Graph, number: int, row: Mapping[str, object]) -> None:
    target = graph.nodes.get(str(row.get("downstream")))
    origin = str(row.get("upstream"))
    slot, kind = row.get("upstream_slot"), str(row.get("type", "*"))
    place = foreign.whole(row.get("downstream_slot"))
    if target is None or origin not in graph.nodes or not isinstance(slot, int):
        return
    free = [at for at, entry in enumerate(target.inputs) if entry.link is None and entry.type in (kind, "*")]
    if place not in free and len(free) != 1:
        return
    # The slot counts as the editor showed it; where it does not fit, the only input of the type is used.
    place = place if place in free else free[0]
    link = Link(f"broadcast {number}", origin, slot, target.id, place, kind)
    graph.links[link.id] = link
    target.inputs[place].link = link
