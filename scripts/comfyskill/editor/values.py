"""Widget values → what is sent: texts decided, names filled in, primitives written into the widgets they feed.

Pure: time and randomness are part of the `Emission`.
"""

from __future__ import annotations

import math
from typing import Any

from comfyskill.base import safe_text
from comfyskill.editor import pack_rules, promote
from comfyskill.editor import text as editor_text
from comfyskill.editor.live import Build, Emission, Graph, Node
from comfyskill.editor.widgets import UNSET, Widget

# Nodes whose filename_prefix may hold %Node.widget% and %date:...%.
_SAVERS = frozenset(
    "SaveImage SaveVideo SaveAnimatedWEBP SaveWEBM SaveAudio SaveGLB SaveAnimatedPNG CLIPSave VAESave ModelSave"
    " LoraSave SaveLatent SaveImageAdvanced SaveSVGNode SaveAudioMP3 SaveAudioOpus SaveAudioAdvanced Save3DAdvanced"
    " SaveGaussianSplat SavePointCloud".split()
)


# Widgets whose value the browser makes when the graph is queued.
_CAPTURED = frozenset({"LOAD_3D", "WEBCAM"})


def widget_inputs(emission: Emission, node_id: str, node: Node) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for widget in node.widgets:
        value = widget.value
        if not widget.sent or value is UNSET or not widget.name:
            continue
        if widget.kind in _CAPTURED and not isinstance(value, dict):
            emission.made.warn(
                f"node {node.label} captures its {widget.name} in the browser at each run; the graph lacks it"
            )
        if widget.multiline:
            value = editor_text.text_field(value)
        if isinstance(value, str):
            value = _worded(emission, node_id, node, widget, value)
        _warn_of_lost_numbers(emission.made, node, widget.name, value)
        inputs[widget.name] = sendable(value, curve=widget.kind == "CURVE")
    return inputs


def _worded(emission: Emission, node_id: str, node: Node, widget: Widget, text: str) -> str:
    """A text with its dynamic prompt decided or its file name tokens filled in."""
    if widget.spec is not None and widget.spec.options.get("dynamicPrompts") is True:
        chosen: list[str] = []

        def choose(options: list[str]) -> str:
            pick = emission.choose(options)
            if len(options) > 1:
                chosen.append(pick)
            return pick

        text = editor_text.resolve_choices(text, choose)
        if chosen:
            emission.choices.append(
                {"node_id": node_id, "input": widget.name, "chosen": chosen, "text": text}
            )
        return text
    if (widget.name == "filename_prefix" and node.type in _SAVERS) or pack_rules.takes_tokens(
        node.type, widget.name
    ):
        return editor_text.replace_tokens(
            text, lambda name, item: _value_by_name(emission, name, item), emission.now
        )
    return text


def _value_by_name(emission: Emission, name: str, item: str) -> str | None:
    """A widget's value as text, of the first node with this "Node name for S&R", else with this title."""
    nodes = [
        node
        for graph in [emission.made.root, *emission.made.graphs.values()]
        for node in graph.nodes.values()
    ]
    found = [node for node in nodes if node.saved.properties.get("Node name for S&R", node.type) == name]
    found = found or [node for node in nodes if node.title == name]
    if not found:
        return None
    widget = found[0].widget(item)
    promoted = next((entry for entry in found[0].promoted.values() if entry.name == item), None)
    if widget is None and promoted is None:
        return None
    value = widget.value if widget is not None else promoted.value if promoted is not None else None
    return editor_text.js_string(None if value is UNSET else value)


def _warn_of_lost_numbers(made: Build, node: Node, name: str, value: Any) -> None:
    if not editor_text.keeps_its_numbers(value):
        made.warn(
            f"node {node.label}: {safe_text.name(name)} holds a number that JSON cannot carry; null is sent instead"
        )


def constant(emission: Emission, node: Node, name: str, value: Any) -> Any:
    """A primitive's or reroute's value as the input takes it."""
    _warn_of_lost_numbers(emission.made, node, name, value)
    return sendable(value)


def sendable(value: Any, *, curve: bool = False) -> Any:
    """A value as the editor writes it into the prompt: JSON, with lists wrapped."""
    value = editor_text.js_value(value)
    if curve and value is not None:
        return {"__type__": "CURVE", "__value__": value}
    return {"__value__": value} if isinstance(value, list) else value


def apply_primitives(emission: Emission) -> None:
    """Each PrimitiveNode writes its value into the widgets that its links lead to."""
    made = emission.made
    done: set[int] = set()
    for _, node in emission.places.values():
        if node.role == "primitive" and id(node) not in done:
            done.add(id(node))
    for graph in [made.root, *made.graphs.values()]:
        for node in graph.nodes.values():
            if id(node) in done:
                _write_primitive(emission, graph, node)


def _write_primitive(emission: Emission, graph: Graph, primitive: Node) -> None:
    values = primitive.saved.values
    if not isinstance(values, list) or not values:
        return
    value = values[0]
    if (
        isinstance(value, str)
        and value
        and primitive.saved.properties.get("Run widget replace on values") is True
    ):
        value = editor_text.replace_tokens(
            value, lambda name, item: _value_by_name(emission, name, item), emission.now
        )
    for node in graph.nodes.values():
        for number, slot in enumerate(node.inputs):
            if slot.link is None or slot.link.origin != primitive.id:
                continue
            promote.write_through(node, number, _rounded(node, number, value))


def _rounded(node: Node, number: int, value: Any) -> Any:
    """A primitive's number as the target widget rounds it."""
    name = node.inputs[number].widget
    widget = node.widget(name) if name else None
    if (
        widget is None
        or widget.spec is None
        or isinstance(value, bool)
        or not isinstance(value, (int, float))
    ):
        return value
    return rounded(widget, value)


def rounded(widget: Widget, value: float) -> Any:
    """A number as an INT or FLOAT widget takes it: the nearest step, or `round` with the decimals of the step."""
    options = widget.spec.options if widget.spec is not None else {}
    low, high = _number(options.get("min"), 0), _number(options.get("max"), 2048)
    if not math.isfinite(value):
        return None
    if widget.kind == "INT":
        value = min(max(value, low), high)
        step = _number(options.get("step"), 1) or 1
        if step == 1:
            return editor_text.js_round(value)
        offset = math.fmod(low, step)
        return editor_text.js_number(editor_text.js_round((value - offset) / step) * step + offset)
    if widget.kind != "FLOAT":
        return value
    value = min(max(value, low), high)
    step = _number(options.get("step"), 0.5) or 0.5
    precision = max(0, -math.floor(math.log10(abs(step))))
    unit = _number(options.get("round"), 0) or (
        10.0**-precision if precision and not options.get("round") else 0
    )
    if not unit:
        return editor_text.js_number(value)
    return editor_text.js_number(editor_text.to_fixed(editor_text.js_round(value / unit) * unit, precision))


def _number(value: Any, default: float) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else default
