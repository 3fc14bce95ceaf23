"""Which classes' widgets neither the declared types nor the pack rules settle. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyskill.editor import pack_rules
from comfyskill.editor.widgets import is_undecided, read_class

_FLEXIBLE = "its script adds inputs that the definition does not declare"
_UNKNOWN = "no node gives values of this type, so it may be a widget of the pack's own"
_BOTH = "this type is a colour, curve or similar: it may be a widget or a link"
# Words in the names of types that packs give a widget of their own although other nodes give values of them.
_WIDGET_WORDS = (
    "COLOR",
    "COLOUR",
    "CURVE",
    "COMBO",
    "SLIDER",
    "EDITOR",
    "PICKER",
    "TIMESTAMP",
    "BUTTON",
    "TOGGLE",
)


def unsettled(definitions: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry per input (or class) that needs a check: {class_type, pack, reason}, and the input with its type."""
    given = {
        output
        for definition in definitions.values()
        if isinstance(definition, Mapping) and isinstance(definition.get("output"), list)
        for output in definition["output"]
        if isinstance(output, str)
    }
    found: list[dict[str, Any]] = []
    for kind, definition in definitions.items():
        if not isinstance(definition, Mapping) or pack_rules.virtual_kind(kind):
            continue
        node_class = read_class(kind, definition)
        if node_class.core:
            continue
        module = definition.get("python_module")
        place = {"class_type": kind, "pack": str(module).removeprefix("custom_nodes.")}
        found += [
            place | {"input": spec.name, "type": spec.widget_type, "reason": reason}
            for spec in node_class.specs
            if is_undecided(spec) and (reason := _reason(spec.widget_type, given))
        ]
        if not node_class.specs and _is_flexible(definition) and not _has_row(kind):
            found.append(place | {"reason": _FLEXIBLE})
    return found


def _reason(kind: str, given: set[str]) -> str:
    if kind not in given:
        return _UNKNOWN
    return _BOTH if any(word in kind.upper() for word in _WIDGET_WORDS) else ""


def _is_flexible(definition: Mapping[str, Any]) -> bool:
    """Whether a class declares no input, not even an empty section: rgthree's flexible ones look so."""
    declared = definition.get("input")
    return isinstance(declared, Mapping) and declared.get("optional") == {} and bool(definition.get("output"))


def _has_row(kind: str) -> bool:
    return bool(pack_rules.of_class(kind))
