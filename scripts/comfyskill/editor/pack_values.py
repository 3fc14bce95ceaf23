"""What packs' browser code computes: the functions that rows of `pack_rules` name.

Pure. `loaded` functions take a node whose saved values are in place, `queued` functions one that is about to be
sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from comfyskill.base import foreign
from comfyskill.editor import pack_rules
from comfyskill.editor.browser_text import js_round, js_string
from comfyskill.editor.read import SavedNode
from comfyskill.editor.widgets import UNSET, Widget, default_of
from comfyskill.graph.specs import read_spec

if TYPE_CHECKING:
    from comfyskill.editor.live import Emission, Node


class Sending(NamedTuple):
    """A node about to be sent; `inputs` are its values and links, which a function may change."""

    emission: Emission
    node_id: str
    node: Node
    inputs: dict[str, Any]


# The largest seed that the packs draw.
_MOST_SEED = 1125899906842624
_MOST_NUMBER = 2**64


def on_load(node: Node) -> None:
    """Change a node's widgets as its pack's script does when a file is opened."""
    for rule in pack_rules.of_class(node.type):
        for name in rule.loaded:
            _LOADED[name](node)


def on_queue(emission: Emission, node_id: str, node: Node, inputs: dict[str, Any]) -> None:
    """Change what a node sends as its pack's script does when a graph is queued; links stay."""
    for rule in pack_rules.of_class(node.type):
        for name, value in rule.always.items():
            if name in inputs and not isinstance(inputs[name], list):
                inputs[name] = value
        for name in rule.queued:
            _QUEUED[name](Sending(emission, node_id, node, inputs))


def power_loras(saved: SavedNode, values: Sequence[object]) -> list[Widget]:
    """The LoRA rows of rgthree's Power Lora Loader: every saved object that names a LoRA, as lora_1, lora_2 …

    The second strength is sent only by nodes that show it.
    """
    rows = [dict(value) for value in values if isinstance(value, Mapping) and "lora" in value]
    for row in rows:
        second = row.pop("strengthTwo", None)
        if saved.properties.get("Show Strengths") == "Separate Model & Clip":
            row["strengthTwo"] = 1 if second is None else second
    return [Widget(f"lora_{number}", "lora", row) for number, row in enumerate(rows, 1)]


def _power_loras(node: Node) -> None:
    values = node.saved.values
    node.widgets = [*node.widgets, *power_loras(node.saved, foreign.items(values))]


def _vhs_sizes(node: Node) -> None:
    """Read the width and height of older files, which name one forced size; 0 leaves a side as it is."""
    values = node.saved.values
    size = values.get("force_size") if isinstance(values, Mapping) else None
    if not isinstance(size, str):
        listed = pack_rules.named_list(node.type, values)
        size = listed.get("force_size") if listed else None
    width, height = node.widget("custom_width"), node.widget("custom_height")
    if not isinstance(size, str) or width is None or height is None:
        return
    if "x" in size:
        first, second = (size.split("x") + ["?"])[:2]
        width.value, height.value = _whole(first), _whole(second)
        return
    if size in ("Disabled", "Custom Height"):
        width.value = 0
    if size in ("Disabled", "Custom Width"):
        height.value = 0


def _whole(text: str) -> int:
    digits = text.strip().split(".")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else 0


def _vhs_numbers(node: Node) -> None:
    """Hold whole numbers to their limits and to the steps of the chosen model family."""
    steps = _vhs_steps(node)
    for widget in node.widgets:
        value = widget.value
        if widget.spec is None or widget.spec.type != "INT" or not _is_number(value):
            continue
        options = widget.spec.options
        step, offset = steps.get(widget.name, (options.get("step"), 0))
        if not _is_number(step) or not step:
            continue
        for name, pick in (("max", min), ("min", max)):
            if _is_number(options.get(name)) and options[name]:
                value = pick(value, options[name])
        widget.value = js_round((value - offset) / step) * step + offset if value else 0


def _vhs_steps(node: Node) -> dict[str, tuple[int, int]]:
    """Step and offset of sizes and frame counts that the chosen format brings."""
    chosen = foreign.mapping(_chosen_format(node, _formats(node) or {}))
    steps: dict[str, tuple[int, int]] = {}
    for key, names in (("dim", ("custom_width", "custom_height")), ("frames", ("frame_load_cap",))):
        step, offset, *_ = [*foreign.items(chosen.get(key)), None, None]
        if isinstance(step, int) and isinstance(offset, int) and step:
            steps.update(dict.fromkeys(names, (step, offset)))
    return steps


def _vhs_format_options(node: Node) -> None:
    """Add the chosen video format's own options, saved by name or with their defaults; others are not sent."""
    formats = _formats(node)
    values = foreign.mapping(node.saved.values)
    rows: dict[str, list[object]]
    if formats is None:
        # Definitions of an older pack do not list the options: what was saved is sent.
        known = {widget.name for widget in node.widgets}
        rows = {name: [] for name, value in values.items() if _is_option(name, value) and name not in known}
    else:
        options = foreign.items(_chosen_format(node, formats))
        rows = {str(row[0]): row[1:] for row in options if isinstance(row, list) and len(row) > 1 and row[0]}
    for name, raw in rows.items():
        spec = read_spec(name, raw, required=False)
        value = values[name] if name in values else default_of(spec) if spec is not None else UNSET
        node.widgets.append(Widget(name, spec.type if spec else "any", value, spec))


def _formats(node: Node) -> Mapping[str, object] | None:
    """What the definition says of each video format; None where it lists none."""
    widget = node.widget("format")
    formats = widget.spec.options.get("formats") if widget is not None and widget.spec is not None else None
    return formats if isinstance(formats, Mapping) else None


def _chosen_format(node: Node, formats: Mapping[str, object]) -> object:
    widget = node.widget("format")
    return formats.get(widget.value) if widget is not None and isinstance(widget.value, str) else None


def _is_option(name: str, value: object) -> bool:
    return not isinstance(value, Mapping) and name not in (
        "videopreview",
        "choose video to upload",
        "choose folder to upload",
        "upload",
    )


def _impact_mode(node: Node) -> None:
    """Turn the mode into a switch (older versions) or a choice (newer ones), as the definition has it."""
    for name in ("mode", "wildcard_mode"):
        widget = node.widget(name)
        if widget is None:
            continue
        if widget.kind == "BOOLEAN":
            widget.value = widget.value is True or widget.value == "Populate"
        elif isinstance(widget.value, bool):
            widget.value = "populate" if widget.value else "fixed"


def _populated(sending: Sending) -> None:
    """Report the text that the server writes at each run; the seed beside it decides what the server picks."""
    mode = sending.inputs.get("mode", sending.inputs.get("wildcard_mode"))
    if mode is not True and mode != "populate":
        return
    seed = sending.inputs.get("seed")
    if sending.emission.seed is not None and isinstance(seed, int) and not isinstance(seed, bool):
        seed = sending.inputs["seed"] = sending.emission.draw(sending.node_id, 0, _MOST_SEED)
    for name in ("populated_text", "positive_populated_text", "negative_populated_text"):
        if isinstance(sending.inputs.get(name), str):
            choice = {
                "node_id": sending.node_id,
                "input": name,
                "chosen": "by the server at each run, from the wildcards",
            }
            sending.emission.choices.append(
                choice | ({} if isinstance(seed, list) or seed is None else {"seed": seed})
            )


def _preview_bridge(sending: Sending) -> None:
    """Send the key of the picture that the server keeps in memory for this node; a file cannot restore the picture."""
    value = sending.inputs.get("image")
    if isinstance(value, list):
        return
    if isinstance(value, str) and not value.startswith("$") and "." in value:
        sending.emission.conversion.warn(
            f"node {sending.node.label}: the picture or mask {value!r} that was painted on it is not sent; the browser"
            " would upload it first"
        )
    sending.inputs["image"] = f"${sending.node.id}-0"


def _image_data(sending: Sending) -> None:
    """Remove the placeholder that a file has for a picture that was not saved with it."""
    value = sending.inputs.get("image_data")
    if value == "[IMAGE DATA]" or (
        isinstance(value, str) and sending.inputs.get("save_to_workflow") is False
    ):
        sending.inputs["image_data"] = ""


def _random_seed(sending: Sending) -> None:
    """Draw seeds that mean "another one at each run" now."""
    # Only these two also accept -2 and -3: one more and one less than the last seed.
    specials = (-1, -2, -3) if sending.node.type in ("Seed (rgthree)", "SDParameterGenerator") else (-1,)
    for name in ("seed", "noise_seed"):
        value = sending.inputs.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value not in specials:
            continue
        widget = sending.node.widget(name)
        options = widget.spec.options if widget is not None and widget.spec is not None else {}
        most = options.get("max")
        seed = sending.emission.draw(
            sending.node_id, 1, min(_MOST_SEED, most if isinstance(most, int) else _MOST_SEED)
        )
        sending.inputs[name] = seed
        sending.emission.choices.append({"node_id": sending.node_id, "input": name, "chosen": seed})
        sending.emission.conversion.warn(
            f"node {sending.node.label} draws a new {name} at each run; this graph has {seed}"
        )


def _mx_slider(node: Node) -> None:
    """Read the sliders' values from the node's properties."""
    for axis in ("X", "Y"):
        suffix = axis if node.type == "mxSlider2D" else ""
        value, decimals = (node.saved.properties.get(f"{name}{suffix}") for name in ("value", "decimals"))
        whole, exact, kind = (node.widget(f"{axis}i"), node.widget(f"{axis}f"), node.widget(f"isfloat{axis}"))
        if whole is None or exact is None or kind is None or not _is_number(value):
            continue
        places = math.floor(min(max(decimals, 0), 4)) if _is_number(decimals) else 0
        value = js_round(value * 10**places) / 10**places
        exact.value = value
        whole.value = math.floor(value)
        kind.value = int(places > 0)


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number of a size that a double holds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _MOST_NUMBER


def _easy_table(sending: Sending) -> None:
    """Send the saved table as markdown, with its cells padded to one width."""
    import json

    try:
        state = json.loads(sending.inputs.get("table_data") or "")
    except (TypeError, ValueError):
        return
    if not isinstance(state, dict) or not isinstance(state.get("markdown"), str):
        return
    headers, rows = state.get("headers"), state.get("rows")
    if state.get("mode") == "markdown" or not isinstance(headers, list) or not isinstance(rows, list):
        sending.inputs["table_data"] = state["markdown"]
        return
    table = [[_cell(row[at]) if at < len(row) else "" for at in range(len(headers))]
             for row in [headers, *rows] if isinstance(row, list)]  # fmt: skip
    widths = [max(3, *(len(row[at]) for row in table)) for at in range(len(headers))]
    lines = [_table_line(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in table]
    lines.insert(1, _table_line("-" * width for width in widths))
    sending.inputs["table_data"] = "\n".join(lines)


def _trigger_words(sending: Sending) -> None:
    """Send words with a strength of their own as the prompt has them; none is highlighted by the mouse."""
    wrapped = sending.inputs.get("toggle_trigger_words")
    rows = wrapped.get("__value__") if isinstance(wrapped, Mapping) else None
    if isinstance(rows, list):
        sending.inputs["toggle_trigger_words"] = {"__value__": [_trigger_word(row) for row in rows]}


def _trigger_word(row: object) -> object:
    if not isinstance(row, Mapping):
        return row
    word = dict(row) | {"highlighted": False}
    if isinstance(row.get("items"), list):
        word["items"] = [
            dict(item) | {"highlighted": False} if isinstance(item, Mapping) else item
            for item in row["items"]
        ]
    strength = row.get("strength")
    if _is_number(strength):
        word["text"] = f"({js_string(row.get('text'))}:{strength:.2f})"
    return word


def _mixlab_color(sending: Sending) -> None:
    """Send a colour with its parts."""
    value = sending.inputs.get("color")
    if isinstance(value, (list, Mapping)):
        return
    text = value if isinstance(value, str) and value else "#000000"
    digits = text.removeprefix("#")
    parts = [digits[at : at + 2] for at in (0, 2, 4, 6)]
    if len(digits) not in (6, 8) or any(set(part.lower()) - set("0123456789abcdef") for part in parts):
        sending.emission.conversion.warn(
            f"node {sending.node.label}: its colour is not in hexadecimal digits"
        )
        return
    red, green, blue = (int(part, 16) for part in parts[:3])
    alpha = int(parts[3], 16) / 255 if parts[3] else None
    sending.inputs["color"] = {"hex": text, "r": red, "g": green, "b": blue, "a": alpha}


def _simple_counter(sending: Sending) -> None:
    """Set the counter to its start, as the script does whenever something is queued."""
    if "start" in sending.inputs and not isinstance(sending.inputs["start"], list):
        sending.inputs["count"] = sending.inputs["start"]


def _table_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: object) -> str:
    return js_string(value).replace("\n", "<br>")


_LOADED: dict[str, Callable[[Node], None]] = {
    "vhs_sizes": _vhs_sizes,
    "vhs_numbers": _vhs_numbers,
    "vhs_format_options": _vhs_format_options,
    "impact_mode": _impact_mode,
    "mx_slider": _mx_slider,
    "power_loras": _power_loras,
}
_QUEUED: dict[str, Callable[[Sending], None]] = {
    "populated": _populated,
    "preview_bridge": _preview_bridge,
    "random_seed": _random_seed,
    "image_data": _image_data,
    "easy_table": _easy_table,
    "trigger_words": _trigger_words,
    "mixlab_color": _mixlab_color,
    "simple_counter": _simple_counter,
}
