"""A subgraph blueprint made into a workflow that runs: loaders for its open inputs, savers for its open outputs.

Pure. A blueprint, as a server's /global_subgraphs has it, is an editor file with one subgraph node that is linked to
nothing, so the server would not run it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from comfyskill.base import foreign
from comfyskill.base.cli import Document
from comfyskill.editor.build import named_values
from comfyskill.editor.read import link_of, node_of

# The class that gives a type, and the suffix of the file that it loads (empty: it takes a text).
LOADERS = {
    "IMAGE": ("LoadImage", ".png"),
    "IMAGE,MASK": ("LoadImage", ".png"),
    "MASK": ("LoadImageMask", ".png"),
    "VIDEO": ("LoadVideo", ".mp4"),
    "AUDIO": ("LoadAudio", ".mp3"),
    "STRING": ("PrimitiveStringMultiline", ""),
}
# The class that keeps a type, and the name of its input; other types are shown as text.
SAVERS = {
    "IMAGE": ("SaveImage", "images"),
    "MASK": ("MaskPreview", "mask"),
    "VIDEO": ("SaveVideo", "video"),
    "AUDIO": ("SaveAudio", "audio"),
    "MESH": ("SaveGLB", "mesh"),
}
SHOWN = ("PreviewAny", "source")
# How the editor marks the slot of an optional input.
OPTIONAL_SHAPE = 7


class Completed(NamedTuple):
    """An editor file that runs; what was added, and the inputs that still need a link, as "name (type)"."""

    document: Document
    added: list[str]
    unlinked: list[str]


@dataclass
class _Additions:
    """Nodes and links to add to the root graph, with ids that it does not have."""

    last_id: int
    nodes: list[Document] = field(default_factory=list)
    links: list[list[object]] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    unlinked: list[str] = field(default_factory=list)

    def next_id(self) -> int:
        """An id for a node or a link."""
        self.last_id += 1
        return self.last_id

    def add(self, node: Document) -> None:
        """Add a node, under its title."""
        self.nodes.append(node)
        self.added.append(f"{node['title']} ({node['type']})")

    def link(self, origin: object, slot: int, target: object, target_slot: int, kind: str) -> int:
        """The id of a new link."""
        number = self.next_id()
        self.links.append([number, origin, slot, target, target_slot, kind])
        return number


def complete(document: Mapping[str, object]) -> Completed:
    """The blueprint with a loader for each required input without a value and a saver for each output without a link."""
    definitions = {
        foreign.text(graph.get("id")): graph
        for graph in foreign.mappings(foreign.mapping(document.get("definitions")).get("subgraphs"))
    }
    nodes = [dict(node) for node in foreign.mappings(document.get("nodes"))]
    new = _Additions(_highest_id(document, nodes))
    for node in nodes:
        graph = definitions.get(foreign.text(node.get("type")))
        if graph is not None:
            node["widgets_values"] = _without_null(node, graph)
            _add_loaders(new, node, graph)
            _add_savers(new, node, graph)
    links = [*foreign.items(document.get("links")), *new.links]
    added = {"nodes": [*nodes, *new.nodes], "links": links}
    last = {"last_node_id": new.last_id, "last_link_id": new.last_id}
    return Completed({**document, **added, **last}, new.added, new.unlinked)


def _without_null(node: Mapping[str, object], graph: Mapping[str, object]) -> object:
    """The values of a subgraph node; for each null, the value of the inner widget that `proxyWidgets` names there."""
    values = node.get("widgets_values")
    entries = foreign.items(foreign.mapping(node.get("properties")).get("proxyWidgets"))
    if not isinstance(values, list) or None not in values:
        return values
    inner = {str(raw.get("id")): raw for raw in foreign.mappings(graph.get("nodes"))}
    filled = list(values)
    for place, entry in enumerate(entries[: len(values)]):
        if values[place] is None and isinstance(entry, list) and len(entry) > 1:
            filled[place] = _inner_value(inner.get(str(entry[0])), str(entry[1]))
    return filled


def _inner_value(raw: Mapping[str, object] | None, name: str) -> object:
    """What a file shows of an inner node's widget; None when it does not."""
    saved = node_of(raw)
    if saved is None:
        return None
    if saved.type == "PrimitiveNode":
        return next(iter(foreign.items(saved.values)), None) if name == "value" else None
    return (named_values(saved) or {}).get(name)


def _highest_id(document: Mapping[str, object], nodes: list[Document]) -> int:
    links = [row[0] for row in foreign.items(document.get("links")) if isinstance(row, list) and row]
    used = [*links, *(node.get("id") for node in nodes)]
    return max((number for number in map(foreign.whole, used) if number is not None), default=0)


def _label(boundary: Mapping[str, object]) -> str:
    return foreign.text(boundary.get("label")) or foreign.text(boundary.get("name"))


def _open_inputs(graph: Mapping[str, object], slots: list[Document]) -> Iterator[Mapping[str, object]]:
    """The inputs of a subgraph that have no link outside and, inside, neither a widget nor only optional inputs."""
    linked = {slot.get("name") for slot in slots if slot.get("link") is not None}
    inner = [
        slot
        for node in foreign.mappings(graph.get("nodes"))
        for slot in foreign.mappings(node.get("inputs"))
        if slot.get("link") is not None
    ]
    for boundary in foreign.mappings(graph.get("inputs")):
        if boundary.get("name") in linked:
            continue
        links = foreign.items(boundary.get("linkIds"))
        targets = [slot for slot in inner if slot.get("link") in links]
        needed = any(slot.get("shape") != OPTIONAL_SHAPE for slot in targets)
        if needed and not any(slot.get("widget") for slot in targets):
            yield boundary


def _add_loaders(new: _Additions, node: Document, graph: Mapping[str, object]) -> None:
    node["inputs"] = slots = [dict(slot) for slot in foreign.mappings(node.get("inputs"))]
    for boundary in _open_inputs(graph, slots):
        label, kind = _label(boundary), foreign.text(boundary.get("type"))
        if kind not in LOADERS:
            new.unlinked.append(f"{label} ({kind})")
            continue
        class_type, suffix = LOADERS[kind]
        place = _place_of(slots, boundary)
        loader = new.next_id()
        slots[place]["link"] = link = new.link(loader, 0, node.get("id"), place, kind)
        # No server has a file of this name, so a run that sets no file is rejected and names the input.
        file = re.sub(r"[^\w-]", "_", label) + suffix if suffix else ""
        output = {"name": kind, "type": kind, "links": [link]}
        new.add(_node(loader, class_type, label, outputs=[output], values=[file]))


def _add_savers(new: _Additions, node: Document, graph: Mapping[str, object]) -> None:
    node["outputs"] = slots = [dict(slot) for slot in foreign.mappings(node.get("outputs"))]
    for number, boundary in enumerate(foreign.mappings(graph.get("outputs"))):
        kind = foreign.text(boundary.get("type"))
        place = _place_of(slots, boundary)
        if foreign.items(slots[place].get("links")) or _is_kept_inside(graph, boundary):
            continue
        class_type, input_name = SAVERS.get(kind, SHOWN)
        saver = new.next_id()
        link = new.link(node.get("id"), number, saver, 0, kind)
        slots[place]["links"] = [link]
        slot = {"name": input_name, "type": kind, "link": link}
        new.add(_node(saver, class_type, _label(boundary), inputs=[slot]))


def _is_kept_inside(graph: Mapping[str, object], boundary: Mapping[str, object]) -> bool:
    """Whether a node inside the subgraph already saves or shows what this output gives."""
    links = [link for row in foreign.items(graph.get("links")) if (link := link_of(row))]
    ends = {str(link) for link in foreign.items(boundary.get("linkIds"))}
    given = {(link.origin, link.origin_slot) for link in links if link.id in ends}
    targets = {link.target for link in links if (link.origin, link.origin_slot) in given}
    keepers = {class_type for class_type, _ in (*SAVERS.values(), SHOWN)} | {"PreviewImage"}
    nodes = foreign.mappings(graph.get("nodes"))
    return any(node.get("type") in keepers and str(node.get("id")) in targets for node in nodes)


def _place_of(slots: list[Document], boundary: Mapping[str, object]) -> int:
    """The number of a node's slot for an input or output of its subgraph; the slot is added if the file lacks it."""
    name = boundary.get("name")
    place = next((number for number, slot in enumerate(slots) if slot.get("name") == name), len(slots))
    if place == len(slots):
        slots.append({"name": name, "type": boundary.get("type")})
    return place


def _node(
    node_id: int,
    class_type: str,
    title: str,
    *,
    inputs: list[Document] | None = None,
    outputs: list[Document] | None = None,
    values: list[str] | None = None,
) -> Document:
    return {
        "id": node_id,
        "type": class_type,
        "title": title,
        "mode": 0,
        "inputs": inputs or [],
        "outputs": outputs or [],
        "properties": {"Node name for S&R": class_type},
        "widgets_values": values or [],
    }
