"""What an input takes, as JSON for a person: type, range, choices, and the inputs that a dynamic one adds. Pure."""

from __future__ import annotations

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document
from comfyskill.graph.specs import (
    AUTOGROW,
    DYNAMIC_COMBO,
    DYNAMIC_SLOT,
    MATCH_TYPE,
    InputSpec,
    autogrow_of,
    choices_shown,
    entries,
    read_spec,
)

CHOICES_SHOWN = 20
TEXT_LIMIT = 300
# What a person needs to know of an input besides its type; the rest is for the editor's drawing.
OPTIONS_SHOWN = ("default", "min", "max", "step", "multiline", "multiselect", "tooltip", "forceInput", "lazy", "advanced",
                 "socketless", "hidden", "widgetType")  # fmt: skip
_DEEPEST = 8


def described(spec: InputSpec, *, full: bool = False, tooltips: bool = True, depth: int = 0) -> Document:
    """One declared input: its type, its options, its choices (of long lists the first 20, unless `full`).

    A group of inputs that grows (`images.image0`, …) has `autogrow`: the names, how many are required and possible, and
    what each takes. A dynamic combo has `inputs_by_choice`: the inputs, by full name, that each choice adds.
    """
    document: Document = {"type": spec.type}
    if spec.choices is not None:
        shown = spec.choices if full else choices_shown(spec.choices, CHOICES_SHOWN)
        document |= {"choices": list(shown), "choices_count": len(spec.choices)}
        if len(shown) < len(spec.choices):
            document["choices_hint"] = "--full shows the rest"
    elif spec.options.get("remote"):
        document["choices"] = "fetched from the server by the editor"
    for option in OPTIONS_SHOWN:
        value = spec.options.get(option)
        if value is None or value is False or value == "" or (option == "tooltip" and not tooltips):
            continue
        document[option] = safe_text.clean(value, TEXT_LIMIT) if isinstance(value, str) else value
    if spec.upload:
        document["takes_upload"] = spec.upload
    if depth < _DEEPEST:
        document |= added_inputs(spec, full=full, tooltips=tooltips, depth=depth + 1)
    return document


def added_inputs(spec: InputSpec, *, full: bool = False, tooltips: bool = True, depth: int = 1) -> Document:
    """What a dynamic input adds to the node; empty for other inputs."""

    def each(inputs: object) -> Document:
        found = {}
        for required, name, raw in entries(inputs):
            inner = read_spec(f"{spec.name}.{name}", raw, required)
            if inner is not None:
                optional = {} if required else {"optional": True}
                found[inner.name] = described(inner, full=full, tooltips=tooltips, depth=depth) | optional
        return found

    if spec.type == AUTOGROW:
        return {"autogrow": autogrow(spec, full=full)}
    if spec.type == DYNAMIC_COMBO:
        by_choice = {
            safe_text.clean(option.get("key"), TEXT_LIMIT): each(option.get("inputs"))
            for option in foreign.mappings(spec.options.get("options"))
        }
        return {"inputs_by_choice": {choice: inputs for choice, inputs in by_choice.items() if inputs}}
    if spec.type == DYNAMIC_SLOT:
        return {"inputs_when_linked": each(spec.options.get("inputs"))}
    allowed = foreign.mapping(spec.options.get("template")).get("allowed_types")
    if spec.type == MATCH_TYPE and isinstance(allowed, str):
        return {"allowed_types": safe_text.clean(allowed, TEXT_LIMIT)}
    return {}


def autogrow(spec: InputSpec, *, full: bool = False) -> Document:
    """The names of a group of inputs that grows, how many of them are required and possible, and what each takes.

    `names` are those that a graph uses, all of a list of names, the first two of those with a common prefix.
    """
    group = autogrow_of(spec)
    if group is None:
        return {}
    least = group.least if group.element.required else 0
    document: Document = {"min": least, "max": len(group.names)}
    shown = len(group.names) if full else CHOICES_SHOWN
    if group.prefix is not None:
        document["prefix"] = safe_text.clean(f"{spec.name}.{group.prefix}", TEXT_LIMIT)
        shown = 2
    names = [safe_text.clean(name, TEXT_LIMIT) for name in group.names[:shown]]
    return document | {"names": names, "element": described(group.element, full=full, depth=1)}
