"""Questions about a server's node classes: find them, describe one. Pure: node definitions in, JSON values out."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.graph.specs import InputSpec, choices_shown, read_spec

CHOICES_SHOWN = 20
TEXT_LIMIT = 300
# What a person needs to know of an input besides its type; the rest is for the editor's drawing.
OPTIONS_SHOWN = ("default", "min", "max", "step", "multiline", "tooltip", "forceInput", "lazy", "advanced")


def search(
    definitions: Mapping[str, Any],
    *,
    text: str | None = None,
    category: str | None = None,
    output: str | None = None,
    takes: str | None = None,
) -> list[dict[str, Any]]:
    """The classes that match every criterion, best match first: class, title, category, outputs."""
    found = []
    for name, definition in definitions.items():
        if not isinstance(definition, Mapping):
            continue
        rank = _rank(name, definition, text)
        if rank is None or not _in_category(definition, category):
            continue
        if output and output.upper() not in _outputs(definition):
            continue
        if takes and not any(_accepts(spec, takes.upper()) for _, spec in _specs(definition)):
            continue
        found.append((rank, name, definition))
    return [_row(name, definition) for _, name, definition in sorted(found, key=lambda item: item[:2])]


def _rank(name: str, definition: Mapping[str, Any], text: str | None) -> int | None:
    """0 for the exact name, else 1 or 2 by where all words of the text occur; None when they do not."""
    if not text:
        return 0
    wanted = text.lower()
    title = str(definition.get("display_name") or "").lower()
    if wanted in (name.lower(), title):
        return 0
    words = wanted.split()
    rest = " ".join(
        str(definition.get(key) or "")
        for key in ("category", "description", "search_aliases", "python_module")
    )
    for rank, place in enumerate((f"{name} {title}", f"{name} {title} {rest}"), 1):
        if all(word in place.lower() for word in words):
            return rank
    return None


def _in_category(definition: Mapping[str, Any], category: str | None) -> bool:
    if not category:
        return True
    own, wanted = str(definition.get("category") or "").lower(), category.lower().strip("/")
    return own == wanted or own.startswith(wanted + "/") or wanted in own.split("/")


def _outputs(definition: Mapping[str, Any]) -> list[str]:
    kinds = definition.get("output")
    # A list of choices as output type means COMBO.
    return [kind if isinstance(kind, str) else "COMBO" for kind in kinds] if isinstance(kinds, list) else []


def _accepts(spec: InputSpec, kind: str) -> bool:
    return kind in spec.types


def _specs(definition: Mapping[str, Any]) -> list[tuple[str, InputSpec]]:
    sections = definition.get("input")
    if not isinstance(sections, Mapping):
        return []
    found = []
    for section in ("required", "optional"):
        entries = sections.get(section)
        for name, raw in entries.items() if isinstance(entries, Mapping) else ():
            spec = read_spec(str(name), raw, section == "required")
            if spec is not None:
                found.append((section, spec))
    return found


def _row(name: str, definition: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "class": name,
        "title": safe_text.clean(definition.get("display_name") or name, 120),
        "category": safe_text.clean(definition.get("category") or "", 120),
        # One line of JSON instead of one for each type: rows are read by the dozen.
        "outputs": safe_text.clean(", ".join(_outputs(definition)), 120),
    }
    for flag in ("output_node", "deprecated", "experimental", "api_node"):
        if definition.get(flag):
            row[flag] = True
    return row


def describe(definitions: Mapping[str, Any], name: str, *, full: bool = False) -> dict[str, Any]:
    """One class: every input with type, range and allowed values (of long lists the first 20, unless `full`), every output.

    Raises:
        SkillError: no such class, with the nearest names.
    """
    definition = definitions.get(name)
    if not isinstance(definition, Mapping):
        raise SkillError(f"the server has no node class {safe_text.quoted(name)}", code="no_such_node")
    sections: dict[str, dict[str, Any]] = {"required": {}, "optional": {}}
    for section, spec in _specs(definition):
        sections[section][spec.name] = _input(spec, full)
    names = definition.get("output_name")
    names = foreign.items(names)
    outputs = [
        {"slot": slot, "type": kind, "name": safe_text.clean(names[slot], 80) if slot < len(names) else kind}
        for slot, kind in enumerate(_outputs(definition))
    ]
    described = _row(name, definition)
    described["outputs"] = outputs
    described["inputs"] = {section: inputs for section, inputs in sections.items() if inputs}
    if definition.get("description"):
        described["server_description"] = safe_text.clean(
            definition["description"], 2000 if full else TEXT_LIMIT
        )
    if definition.get("python_module"):
        described["from"] = safe_text.clean(definition["python_module"], 120)
    return described


def _input(spec: InputSpec, full: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"type": spec.type}
    if spec.choices is not None:
        shown = spec.choices if full else choices_shown(spec.choices, CHOICES_SHOWN)
        told["choices"] = list(shown)
        told["choices_count"] = len(spec.choices)
        if len(shown) < len(spec.choices):
            told["choices_hint"] = "--full shows the rest"
    elif spec.options.get("remote"):
        told["choices"] = "fetched from the server by the editor"
    for option in OPTIONS_SHOWN:
        value = spec.options.get(option)
        if value is None or value is False or value == "":
            continue
        told[option] = safe_text.clean(value, TEXT_LIMIT) if isinstance(value, str) else value
    if spec.upload:
        told["takes_upload"] = spec.upload
    return told


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Class names close to a misspelt one."""
    by_case = {other.lower(): other for other in known}
    if name.lower() in by_case:
        return [by_case[name.lower()]]
    close = difflib.get_close_matches(name, known, 5, 0.6)
    return close or [other for other in known if name.lower() in other.lower()][:5]
