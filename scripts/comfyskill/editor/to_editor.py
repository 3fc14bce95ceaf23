"""API graphs → editor files: every node with its slots and widgets, in columns from the loaders to the outputs.

Pure. Converting the result back gives the same graph if the graph has a value for each widget.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comfyskill.base import foreign
from comfyskill.base.cli import Document
from comfyskill.editor import pack_rules
from comfyskill.editor.browser_text import resolve_choices
from comfyskill.editor.widgets import (
    UNSET,
    NodeClass,
    Widget,
    decided,
    default_widgets,
    read_class,
    set_value,
    sockets_of,
)
from comfyskill.graph.nodes import Definitions, Graph, class_of, inputs_of, link_of
from comfyskill.graph.specs import DYNAMIC_COMBO

_WIDTH = 315
_COLUMN_GAP = 90
_ROW_GAP = 60
_HEADER = 34
_SLOT = 20
_ROW = 24
_TEXT = 110
_MARGIN = 30
# A link to an output with a higher number is damaged.
MOST_OUTPUTS = 1000
_SETTLED_BUTTONS = {
    "control_after_generate": "fixed",
    "control_filter_list": "",
    "auto_refresh": False,
    "refresh": "refresh",
    "upload": "image",
}
_COLOURS = {"Load": "#3f789e", "Process": "#8A8", "Output": "#b06634"}


@dataclass
class _Box:
    """One node on its way into the file."""

    id: str
    class_type: str
    inputs: dict[str, Any]
    title: str
    node_class: NodeClass | None
    slots: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[dict[str, Any]] = field(default_factory=list)
    widgets: list[Widget] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    named: dict[str, Any] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    depth: int = 0
    place: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (_WIDTH, 60)


def to_editor(graph: Graph, definitions: Definitions | None) -> Document:
    """An editor file of an API-format graph, laid out in columns by depth, with a group around each stage."""
    boxes = {
        str(node_id): _box(str(node_id), node, definitions or {})
        for node_id, node in graph.items()
        if isinstance(node, Mapping)
    }
    links = _connect(boxes)
    _arrange(boxes)
    numbers = _file_ids(boxes)
    nodes = [
        _node(box, numbers, order)
        for order, box in enumerate(sorted(boxes.values(), key=lambda box: (box.depth, box.place)))
    ]
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(graph, sort_keys=True, default=str))),
        "revision": 0,
        "last_node_id": max([number for number in numbers.values() if isinstance(number, int)], default=0),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": [
            [number, numbers[origin], slot, numbers[target], place, kind]
            for number, origin, slot, target, place, kind in links
        ],
        "groups": _groups(boxes),
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _box(node_id: str, node: Mapping[str, Any], definitions: Definitions) -> _Box:
    class_type = class_of(node)
    definition = definitions.get(class_type)
    node_class = read_class(class_type, definition) if isinstance(definition, Mapping) else None
    title = foreign.text(foreign.mapping(node.get("_meta")).get("title"))
    box = _Box(node_id, class_type, dict(inputs_of(node)), title, node_class)
    if node_class is None or definition is None:
        _fill_unknown(box)
        return box
    _fill_known(box, _with_values(box, node_class))
    names = foreign.items(definition.get("output_name"))
    for index, output in enumerate(node_class.outputs):
        name = names[index] if index < len(names) and isinstance(names[index], str) else output
        box.outputs.append({"name": name, "type": output, "links": []})
    return box


def _with_values(box: _Box, node_class: NodeClass) -> NodeClass:
    """The class with a widget for each input of a pack's own type for which the graph has a value."""
    return decided(
        node_class,
        lambda spec: True if spec.name in box.inputs and not link_of(box.inputs[spec.name]) else None,
    )


def _fill_known(box: _Box, node_class: NodeClass) -> None:
    widgets = default_widgets(node_class)
    index = 0
    while index < len(widgets):
        widget = widgets[index]
        index += 1
        if not widget.saved:
            continue
        value = box.inputs.get(widget.name, UNSET)
        if widget.spec is not None and value is not UNSET and not link_of(value):
            value = _saved_form(widget, value)
            if widget.kind == DYNAMIC_COMBO:
                set_value(widgets, widget, value)
        elif widget.spec is not None:
            value = widget.value
        else:
            value = _SETTLED_BUTTONS.get(widget.name, widget.name)
        box.values.append(None if value is UNSET else value)
        if value is not UNSET:
            box.named[widget.name] = value
        if widget.spec is not None:
            box.widgets.append(widget)
    declared = sockets_of(node_class, widgets)
    known = {socket.name for socket in declared}
    for socket in declared:
        linked = link_of(box.inputs.get(socket.name))
        if socket.widget is None and (linked or "." not in socket.name or socket.name in box.inputs):
            box.slots.append({"name": socket.name, "type": socket.type, "link": None})
        elif socket.widget is not None and linked:
            box.slots.append(
                {"name": socket.name, "type": socket.type, "widget": {"name": socket.widget}, "link": None}
            )
    for name, value in box.inputs.items():
        if name not in known and link_of(value):
            box.slots.append({"name": name, "type": "*", "link": None})


def _saved_form(widget: Widget, value: object) -> object:
    """A value as the file has it: lists without their wrapper, text guarded against dynamic prompts."""
    if (
        isinstance(value, Mapping)
        and "__value__" in value
        and (isinstance(value["__value__"], list) or value.get("__type__") == "CURVE")
    ):
        return value["__value__"]
    if (
        isinstance(value, str)
        and widget.spec is not None
        and widget.spec.options.get("dynamicPrompts") is True
    ):
        return guarded(value)
    return value


def guarded(text: str) -> str:
    """A text that a dynamic prompt resolves to exactly this one: braces escaped, comment marks split."""
    if resolve_choices(text, lambda options: options[0]) == text and not set("{}|") & set(text):
        return text
    out: list[str] = []
    place = 0
    while place < len(text):
        char = text[place]
        place += 1
        if char == "\\" and place < len(text):
            following = text[place]
            place += 1
            # Two backslashes before a brace become one; the brace itself must then not open a choice.
            out.append(
                "\\\\" + {"{": "{\\{}"}.get(following, following) if following in "{}|" else "\\" + following
            )
        elif char in "{}|":
            out.append("\\" + char)
        elif char in "/*" and out and out[-1].endswith("/"):
            out.append("{" + char + "}")
        else:
            out.append(char)
    return "".join(out)


def _fill_unknown(box: _Box) -> None:
    """Give a node without a definition slots and widgets in the order of its inputs; its values are also saved by name."""
    for name, value in box.inputs.items():
        if link_of(value):
            box.slots.append({"name": name, "type": "*", "link": None})
            continue
        if isinstance(value, Mapping) and isinstance(value.get("__value__"), list):
            value = value["__value__"]
        box.slots.append({"name": name, "type": "*", "widget": {"name": name}, "link": None})
        box.values.append(value)
        box.named[name] = value
        box.widgets.append(Widget(name, "any", value))


def _connect(boxes: Mapping[str, _Box]) -> list[tuple[int, str, int, str, int, str]]:
    """The rows of the link table; each slot and output gets the numbers of its links."""
    links: list[tuple[int, str, int, str, int, str]] = []
    for box in boxes.values():
        for place, slot in enumerate(box.slots):
            link = link_of(box.inputs.get(slot["name"]))
            source = boxes.get(link.node_id) if link else None
            if link is None or source is None or not 0 <= link.slot < MOST_OUTPUTS:
                continue
            while len(source.outputs) <= link.slot:
                source.outputs.append({"name": f"output {len(source.outputs)}", "type": "*", "links": []})
            output = source.outputs[link.slot]
            number = len(links) + 1
            slot["link"] = number
            output["links"].append(number)
            box.sources.append(source.id)
            links.append((number, source.id, link.slot, box.id, place, output["type"]))
    return links


def _arrange(boxes: Mapping[str, _Box]) -> None:
    """Put nodes into columns by the longest way from a loader, within a column in the order of what feeds them."""
    _set_depths(boxes)
    columns: dict[int, list[_Box]] = {}
    for box in boxes.values():
        box.size = (_WIDTH, _height(box))
        columns.setdefault(box.depth, []).append(box)
    left = 0
    for depth in sorted(columns):
        column = columns[depth]
        column.sort(
            key=lambda box: sum(boxes[name].place[1] for name in box.sources) / len(box.sources)
            if box.sources
            else 0
        )
        top = 0
        for box in column:
            box.place = (left, top)
            top += box.size[1] + _ROW_GAP
        left += _WIDTH + _COLUMN_GAP


def _set_depths(boxes: Mapping[str, _Box]) -> None:
    """Give each node the length of the longest path to it; nodes in a cycle take the next column."""
    waiting = {name: {source for source in box.sources if source != name} for name, box in boxes.items()}
    consumers: dict[str, list[str]] = {}
    for name, sources in waiting.items():
        for source in sources:
            consumers.setdefault(source, []).append(name)
    ready = [name for name, sources in waiting.items() if not sources]
    done: set[str] = set()
    while len(done) < len(boxes):
        if not ready:
            ready = [next(name for name in boxes if name not in done)]
        name = ready.pop()
        if name in done:
            continue
        done.add(name)
        for consumer in consumers.get(name, ()):
            if consumer in done:
                continue
            boxes[consumer].depth = max(boxes[consumer].depth, boxes[name].depth + 1)
            waiting[consumer].discard(name)
            if not waiting[consumer]:
                ready.append(consumer)


def _height(box: _Box) -> int:
    rows = max(sum("widget" not in slot for slot in box.slots), len(box.outputs))
    return _HEADER + _SLOT * rows + sum(_TEXT if widget.multiline else _ROW for widget in box.widgets) + 10


def _file_ids(boxes: Mapping[str, _Box]) -> dict[str, int | str]:
    """Ids as the editor writes them: numbers where the graph's id is one, else the text itself."""
    return {
        name: int(name) if name.isascii() and name.isdigit() and str(int(name[:18])) == name else name
        for name in boxes
    }


def _node(box: _Box, numbers: Mapping[str, int | str], order: int) -> Document:
    node: Document = {
        "id": numbers[box.id],
        "type": box.class_type,
        "pos": list(box.place),
        "size": list(box.size),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": box.slots,
        "outputs": box.outputs,
        "properties": {"Node name for S&R": box.class_type},
    }
    if box.title and box.title != box.class_type:
        node["title"] = box.title
    by_name = any(rule.by_name for rule in pack_rules.of_class(box.class_type))
    if box.values:
        node["widgets_values"] = box.named if by_name else box.values
    if box.named and not by_name:
        node["widgets_values_named"] = box.named
    return node


def _groups(boxes: Mapping[str, _Box]) -> list[Document]:
    deepest = max((box.depth for box in boxes.values()), default=0)
    if deepest < 2:
        return []
    stages: dict[str, list[_Box]] = {}
    for box in boxes.values():
        stages.setdefault(
            "Load" if box.depth == 0 else "Output" if box.depth == deepest else "Process", []
        ).append(box)
    return [
        _group(number, title, stages[title]) for number, title in enumerate(("Load", "Process", "Output"), 1)
    ]


def _group(number: int, title: str, boxes: Sequence[_Box]) -> Document:
    left = min(box.place[0] for box in boxes) - _MARGIN
    top = min(box.place[1] for box in boxes) - _MARGIN - 50
    right = max(box.place[0] + box.size[0] for box in boxes) + _MARGIN
    bottom = max(box.place[1] + box.size[1] for box in boxes) + _MARGIN
    return {
        "id": number,
        "title": title,
        "bounding": [left, top, right - left, bottom - top],
        "color": _COLOURS[title],
        "font_size": 24,
        "flags": {},
    }
