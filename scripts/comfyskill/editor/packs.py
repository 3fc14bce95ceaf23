"""Nodes of widespread packs that exist only in the browser, or whose values only their own script understands.

Pure. What a pack's published browser code does with them; names as in the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comfyskill.base import foreign
from comfyskill.base.cli import SkillError
from comfyskill.editor import pack_rules as rules
from comfyskill.editor import pack_values
from comfyskill.editor.read import Link, SavedNode
from comfyskill.editor.text import js_json, text_field
from comfyskill.editor.widgets import Widget

if TYPE_CHECKING:
    from comfyskill.editor.live import Graph

# A Set node keeps its input under a name, Get nodes return it.
GETTERS = {rule.partner: name for name, rule in rules.of_kind(rules.SETTER)}
BROADCASTS = frozenset(name for name, _ in rules.of_kind(rules.BROADCAST))
POWER_LORA_LOADER = "Power Lora Loader (rgthree)"
_PREVIEW_KEYS = frozenset({"videopreview", "choose video to upload", "choose folder to upload"})
_CONTROLS = frozenset({"fixed", "increment", "decrement", "randomize", "increment-wrap"})
_NOT_INPUTS = frozenset({"control_after_generate", "control_filter_list", "upload", "audioUI", "refresh"})


def variable_name(saved: SavedNode) -> str:
    """The name of the value of a Set or Get node."""
    values = saved.values
    if isinstance(values, list) and values and isinstance(values[0], str):
        return values[0]
    if isinstance(values, Mapping):
        return next((value for value in values.values() if isinstance(value, str)), "")
    return ""


def known_values(saved: SavedNode) -> dict[str, Any] | None:
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
    named: dict[str, Any] = {}
    position = 0
    for slot in saved.inputs:
        if slot.widget is None:
            continue
        if position >= len(values):
            return None
        named[slot.widget] = values[position]
        position += 1
        if slot.widget in ("seed", "noise_seed") and position < len(values) and values[position] in _CONTROLS:
            position += 1
    return named if position == len(values) else None


def widgets_of_unknown(saved: SavedNode) -> list[Widget]:
    """The stand-in widgets the editor gives a node that it has no definition of."""
    values = foreign.items(saved.values)
    made = []
    for index, value in enumerate(values):
        name = f"UNKNOWN_{index}" if index else "UNKNOWN"
        if isinstance(value, str) and len(value) > 20:
            value = text_field(value)
        elif not isinstance(value, (str, int, float)):
            value = js_json(value)
        made.append(Widget(name, "any", value))
    return made


def attach_broadcasts(graph: Graph) -> None:
    """Use Everywhere: its links, which the file lists apart, become links like others.

    Raises:
        SkillError: a broadcasting node is fed, and the file does not list where its value goes.
    """
    senders = [node for node in graph.nodes.values() if node.type in BROADCASTS and not node.off]
    fed = [node for node in senders if any(slot.link is not None for slot in node.inputs)]
    if graph.saved.broadcast_links is None:
        if fed:
            raise SkillError(
                f"node {fed[0].label} sends its input to other nodes without links, and the file does not list them",
                code="cannot_convert",
                hint="open it in the editor with Use Everywhere installed and convert its links to real ones, or save it"
                " there again with a newer version of that pack",
                node={"id": fed[0].id, "title": fed[0].title, "type": fed[0].type},
            )
        return
    for number, row in enumerate(graph.saved.broadcast_links):
        if isinstance(row, Mapping):
            _attach_broadcast(graph, number, row)
    for node in senders:
        if node.role == "unknown":
            # With its links drawn it does nothing more in a run.
            node.role = "note"


def _attach_broadcast(graph: Graph, number: int, row: Mapping[str, Any]) -> None:
    target = graph.nodes.get(str(row.get("downstream")))
    origin = str(row.get("upstream"))
    slot, kind = row.get("upstream_slot"), str(row.get("type", "*"))
    place = row.get("downstream_slot")
    if target is None or origin not in graph.nodes or not isinstance(slot, int):
        return
    free = [at for at, entry in enumerate(target.inputs) if entry.link is None and entry.type in (kind, "*")]
    if place not in free:
        # The slot counts as the editor showed it; where it does not fit, the only input of the type is used.
        if len(free) != 1:
            return
        place = free[0]
    link = Link(f"broadcast {number}", origin, slot, target.id, place, kind)
    graph.links[link.id] = link
    target.inputs[place].link = link
