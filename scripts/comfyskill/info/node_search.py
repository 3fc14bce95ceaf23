"""Questions about a server's node classes: find them, describe one. Pure: node definitions in, JSON values out."""

from __future__ import annotations

import json
from collections.abc import Mapping

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.graph.describe import TEXT_LIMIT, described
from comfyskill.graph.nodes import Definitions
from comfyskill.graph.specs import InputSpec, entries, read_spec

Definition = Mapping[str, object]
FLAGS = ("output_node", "deprecated", "experimental", "api_node", "has_intermediate_output")
PRICE_RULE_LIMIT = 600


def search(
    definitions: Definitions,
    *,
    text: str | None = None,
    category: str | None = None,
    output: str | None = None,
    takes: str | None = None,
) -> list[Document]:
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
        if takes and not any(takes.upper() in spec.types for spec in _specs(definition)):
            continue
        found.append((rank, name, definition))
    return [_row(name, definition) for _, name, definition in sorted(found, key=lambda item: item[:2])]


def _rank(name: str, definition: Definition, text: str | None) -> int | None:
    """How well a class fits a text, 0 the best; None when some word of it occurs nowhere.

    0: the class or its title is that text; 1: another name of it is; 2: its names have all the words; 3: its names,
    category, description and pack do.
    """
    if not text:
        return 0
    wanted = text.lower()
    title = str(definition.get("display_name") or "").lower()
    aliases = [str(alias).lower() for alias in foreign.items(definition.get("search_aliases"))]
    if wanted in (name.lower(), title):
        return 0
    if wanted in aliases:
        return 1
    names = " ".join([name.lower(), title, *aliases])
    rest = [str(definition.get(key) or "").lower() for key in ("category", "description", "python_module")]
    for rank, place in enumerate((names, " ".join([names, *rest])), 2):
        if all(word in place for word in wanted.split()):
            return rank
    return None


def _in_category(definition: Definition, category: str | None) -> bool:
    if not category:
        return True
    own, wanted = str(definition.get("category") or "").lower(), category.lower().strip("/")
    return own == wanted or own.startswith(wanted + "/") or wanted in own.split("/")


def _outputs(definition: Definition) -> list[str]:
    # A list of choices as output type means COMBO.
    return [kind if isinstance(kind, str) else "COMBO" for kind in foreign.items(definition.get("output"))]


def _specs(definition: Definition) -> list[InputSpec]:
    specs = [read_spec(name, raw, required) for required, name, raw in entries(definition.get("input"))]
    return [spec for spec in specs if spec is not None]


def _row(name: str, definition: Definition) -> Document:
    row: Document = {
        "class": name,
        "title": safe_text.clean(definition.get("display_name") or name, 120),
        "category": safe_text.clean(definition.get("category") or "", 120),
        # One line of JSON instead of one for each type: rows are read by the dozen.
        "outputs": safe_text.clean(", ".join(_outputs(definition)), 120),
    }
    return row | {flag: True for flag in FLAGS if definition.get(flag)}


def describe(definitions: Definitions, name: str, *, full: bool = False) -> Document:
    """One class: every input with type, range and allowed values (of long lists the first 20, unless `full`), every output.

    Raises:
        SkillError: no such class, with the nearest names.
    """
    definition = definitions.get(name)
    if not isinstance(definition, Mapping):
        raise SkillError(f"the server has no node class {safe_text.quoted(name)}", code="no_such_node")
    sections: dict[str, Document] = {"required": {}, "optional": {}}
    for spec in _specs(definition):
        sections["required" if spec.required else "optional"][spec.name] = described(spec, full=full)
    names = foreign.items(definition.get("output_name"))
    document = _row(name, definition)
    document["outputs"] = [
        {"slot": slot, "type": kind, "name": safe_text.clean(names[slot], 80) if slot < len(names) else kind}
        for slot, kind in enumerate(_outputs(definition))
    ]
    document["inputs"] = {section: inputs for section, inputs in sections.items() if inputs}
    if price := _price(definition.get("price_badge"), full=full):
        document["price_badge"] = price
    if aliases := foreign.items(definition.get("search_aliases")):
        document["also_called"] = safe_text.clean(", ".join(map(str, aliases)), TEXT_LIMIT)
    if definition.get("description"):
        document["server_description"] = safe_text.clean(
            definition["description"], 2000 if full else TEXT_LIMIT
        )
    if definition.get("python_module"):
        document["from"] = safe_text.clean(definition["python_module"], 120)
    return document


def _price(badge: object, *, full: bool) -> Document:
    """What the node costs, as its badge in the editor: a fixed price, else the inputs that decide and the rule."""
    rule = " ".join(foreign.text(foreign.mapping(badge).get("expr")).split())
    if not rule:
        return {}
    depends = foreign.mapping(foreign.mapping(badge).get("depends_on"))
    inputs = [
        safe_text.clean(entry.get("name") if isinstance(entry, Mapping) else entry, 80)
        for key in ("widgets", "inputs", "input_groups")
        for entry in foreign.items(depends.get(key))
    ]
    try:
        fixed = json.loads(rule)
    except ValueError:
        fixed = None
    if isinstance(fixed, dict) and not inputs:
        return {key: value for key, value in fixed.items() if key != "type"}
    return {
        "depends_on": inputs,
        "rule": safe_text.clean(rule, None if full else PRICE_RULE_LIMIT),
    }
