"""Widget values → what is sent: dynamic prompts decided, file names filled in, primitives written into their widgets.

Pure: time and randomness are part of the `Emission`.
"""

from __future__ import annotations

import math
from typing import Any

from comfyskill.base import safe_text
from comfyskill.editor import browser_text, pack_rules, promote
from comfyskill.editor.live import Conversion, Emission, Graph, Node
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
    """The node's inputs that come from its widgets, as they are sent."""
    inputs: dict[str, Any] = {}
    for widget in node.widgets:
        value = widget.value
        if not widget.sent or value is UNSET or not widget.name:
            continue
        if widget.kind in _CAPTURED and not isinstance(value, dict):
            emission.conversion.warn(
                f"node {node.label} captures its {widget.name} in the browser at each run; the graph lacks it"
            )
        if widget.multiline:
            value = browser_text.text_field(value)
        if isinstance(value, str):
            value = _filled_in(emission, node_id, node, widget, value)
        _warn_of_lost_numbers(emission.conversion, node, widget.name, value)
        inputs[widget.name] = sendable(value, curve=widget.kind == "CURVE")
    return inputs


def _filled_in(emission: Emission, node_id: str, node: Node, widget: Widget, text: str) -> str:
    """A text with the choices of its dynamic prompt made or its file name tokens replaced."""
    if widget.spec is not None and widget.spec.options.get("dynamicPrompts") is True:
        chosen: list[str] = []

        def choose(options: list[str]) -> str:
            pick = emission.choose(options)
            if len(options) > 1:
                chosen.append(pick)
            return pick

        text = browser_text.resolve_choices(text, choose)
        if chosen:
            emission.choices.append(
                {"node_id": node_id, "input": widget.name, "chosen": chosen, "text": text}
            )
        return text
    saves = widget.name == "filename_prefix" and node.type in _SAVERS
    return (
        _tokens_replaced(emission, text) if saves or pack_rules.takes_tokens(node.type, widget.name) else text
    )


def _tokens_replaced(emission: Emission, text: str) -> str:
    """The text with its %Node.widget% and %date:...% tokens replaced."""
    return browser_text.replace_tokens(
        text, lambda name, item: _value_by_name(emission, name, item), emission.now
    )


def _value_by_name(emission: Emission, name: str, item: str) -> str | None:
    """A widget's value as text, of the first node with this "Node name for S&R", else with this title."""
    nodes = [
        node
        for graph in [emission.conversion.root, *emission.conversion.graphs.values()]
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
    return browser_text.js_string(None if value is UNSET else value)


def _warn_of_lost_numbers(conversion: Conversion, node: Node, name: str, value: object) -> None:
    if not browser_text.keeps_its_numbers(value):
        conversion.warn(
            f"node {node.label}: {safe_text.name(name)} holds a number that JSON cannot carry; null is sent instead"
        )


def constant(emission: Emission, node: Node, name: str, value: object) -> object:
    """A primitive's or reroute's value as the input takes it."""
    _warn_of_lost_numbers(emission.conversion, node, name, value)
    return sendable(value)


def sendable(value: object, *, curve: bool = False) -> object:
    """A value as the editor writes it into the prompt: JSON, with lists wrapped."""
    value = browser_text.js_value(value)
    if curve and value is not None:
        return {"__type__": "CURVE", "__value__": value}
    return {"__value__": value} if isinstance(value, list) else value


def apply_primitives(emission: Emission) -> None:
    """Write the value of each PrimitiveNode into the widgets to which its links lead."""
    active = {id(node) for _, node in emission.places.values()}
    for graph in [emission.conversion.root, *emission.conversion.graphs.values()]:
        for node in graph.nodes.values():
            if node.role == "primitive" and id(node) in active:
                _write_primitive(emission, graph, node)


def _write_primitive(emission: Emission, graph: Graph, primitive: Node) -> None:
    values = primitive.saved.values
    if not isinstance(values, list) or not values:
        return
    value = values[0]
    replaces = primitive.saved.properties.get("Run widget replace on values") is True
    if isinstance(value, str) and value and replaces:
        value = _tokens_replaced(emission, value)
    for node in graph.nodes.values():
        for number, slot in enumerate(node.inputs):
            if slot.link is None or slot.link.origin != primitive.id:
                continue
            promote.write_through(node, number, _rounded(node, number, value))


def _rounded(node: Node, number: int, value: object) -> object:
    """A primitive's number as the target widget rounds it; other values as they are."""
    name = node.inputs[number].widget
    widget = node.widget(name) if name else None
    if widget is None or widget.spec is None:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return rounded(widget, value)


def rounded(widget: Widget, value: float) -> float | None:
    """A number as an INT or FLOAT widget takes it: the nearest step, or `round` with the decimals of the step."""
    options = widget.spec.options if widget.spec is not None else {}
    low, high = _number(options.get("min"), 0), _number(options.get("max"), 2048)
    if not math.isfinite(value):
        return None
    if widget.kind == "INT":
        value = min(max(value, low), high)
        step = _number(options.get("step"), 1) or 1
        if step == 1:
            return browser_text.js_round(value)
        offset = math.fmod(low, step)
        return browser_text.js_number(browser_text.js_round((value - offset) / step) * step + offset)
    if widget.kind != "FLOAT":
        return value
    value = min(max(value, low), high)
    step = _number(options.get("step"), 0.5) or 0.5
    precision = max(0, -math.floor(math.log10(abs(step))))
    unit = _number(options.get("round"), 0) or (
        10.0**-precision if precision and not options.get("round") else 0
    )
    if unit:
        value = browser_text.to_fixed(browser_text.js_round(value / unit) * unit, precision)
    return browser_text.js_number(value)


def _number(value: object, default: float) -> float:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else default
