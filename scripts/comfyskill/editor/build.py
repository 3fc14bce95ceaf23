"""Saved graphs → live ones: nodes with the slots and widgets that the editor gives them on loading.

Level 1, pure. One live graph a subgraph definition, shared by its instances, as in the editor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyskill.base import safe_text
from comfyskill.editor import fit, groups, pack_rules, pack_values, packs
from comfyskill.editor import widgets as editor_widgets
from comfyskill.editor.live import Build, Graph, Input, Node
from comfyskill.editor.read import INPUT_NODE, OUTPUT_NODE, Saved, SavedGraph, SavedNode
from comfyskill.editor.widgets import UNSET, Socket, Widget

# Types that old files name differently. The server's own definitions decide whether the new name is needed.
RENAMED = {
    "T2IAdapterLoader": "ControlNetLoader",
    "ConditioningAverage ": "ConditioningAverage",
    "SDV_img2vid_Conditioning": "SVD_img2vid_Conditioning",
    "Load3DAnimation": "Load3D",
    "Preview3DAnimation": "Preview3D",
}
_NOTES = frozenset({"Note", "MarkdownNote"})


def build(saved: Saved, definitions: Mapping[str, Any], *, newest: bool, without_server: bool) -> Build:
    """All graphs of a file, live but not yet promoted: inner definitions first where the file allows it."""
    made = Build(saved, definitions, newest, without_server)
    if saved.group_nodes:
        groups.unfold_groups(saved, made.node_class, made.warn, newest=newest)
    for name in inner_first(saved):
        made.graphs[name] = _live_graph(made, saved.definitions[name])
    made.root = _live_graph(made, saved.root)
    return made


def inner_first(saved: Saved) -> list[str]:
    """Definition ids so that each comes after those it contains; file order where they go in circles."""
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
    """Whether a node type lives in the browser only; a panel does also when the server declares it."""
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
    node.widgets = packs.widgets_of_unknown(node.saved, newest=made.newest)


def _as_class(made: Build, node: Node) -> None:
    node_class = made.node_class(node.type)
    assert node_class is not None
    node.core = node_class.core
    node.outputs = list(node_class.outputs) + node.saved.output_types[len(node_class.outputs) :]
    node.layout = fit.lay_out(node.saved, node.type, node_class, made.is_linked, newest=made.newest)
    node_class, node.widgets = node.layout.node_class, node.layout.widgets
    pack_values.on_load(node)
    for name, value in node.saved.overrides.items():
        inner = node.widget(name)
        if inner is not None:
            editor_widgets.set_value(node.widgets, inner, value, newest=made.newest)
    _repair_values(made, node)
    declared = editor_widgets.sockets_of(node_class, node.widgets, newest=made.newest)
    node.inputs = _slots(node, declared)


def _repair_values(made: Build, node: Node) -> None:
    """What the editor mends right after loading."""
    for widget in node.widgets:
        if node.type in ("KSampler", "KSamplerAdvanced") and widget.name == "sampler_name":
            name = widget.value
            widget.value = name.removeprefix("sample_") if isinstance(name, str) else name
        if widget.spec is None:
            continue
        if (
            made.newest
            and widget.kind == "COMBO"
            and widget.spec.choices
            and (widget.value is None or widget.value is UNSET)
        ):
            widget.value = widget.spec.choices[0]
        if (
            not made.newest
            and widget.kind == "COMBO"
            and any(
                widget.spec.options.get(key)
                for key in ("image_upload", "animated_image_upload", "video_upload")
            )
        ):
            widget.value = _upload_value(widget)


def _upload_value(widget: Widget) -> Any:
    """1.35 fills an empty file name, and marks names in another folder than the input folder."""
    assert widget.spec is not None
    value = widget.value
    if not value:
        value = widget.spec.choices[0] if widget.spec.choices else "undefined"
    folder = widget.spec.options.get("image_folder", "input")
    if isinstance(value, str) and folder != "input" and not value.endswith("]"):
        value = f"{value} [{folder}]"
    return value


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
    """Give each input its link: a saved slot names it; the newest frontend also trusts the table's own target."""
    by_name = {slot.name: slot for slot in reversed(node.inputs)}
    if made.newest:
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
        elif made.newest and link.target != node.id:
            made.warn(
                f"input {safe_text.quoted(saved.name)} of node {node.label} names link {saved.link}, which leads to another node"
            )
        else:
            slot.link = link


def _warn_of_rivals(made: Build, graph: Graph, node: Node) -> None:
    """Two inputs whose links both claim one slot: the newest editor keeps one of the links only."""
    claimed: dict[int, str] = {}
    for saved in node.saved.inputs:
        link = graph.links.get(saved.link) if saved.link is not None else None
        if link is None or link.target != node.id:
            continue
        if (first := claimed.setdefault(link.target_slot, saved.name)) != saved.name:
            made.warn(
                f"node {node.label}: the links of its inputs {safe_text.quoted(first)} and"
                f" {safe_text.quoted(saved.name)} lead to one slot, of which the editor drops one; both are kept"
            )


def attach_unnamed(graph: Graph) -> None:
    """Links whose target slot names none: 1.58 takes the row's own word for it."""
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
