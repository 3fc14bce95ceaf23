"""Workflows as the ComfyUI editor saves them → graphs as the server runs them, as the editor itself does on "queue".

Pure: no network, no disk; time and randomness are values. Files of all versions are converted as frontend 1.58 does.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from comfyskill.base import foreign
from comfyskill.base.cli import Document, SkillError
from comfyskill.editor import browser_text, pack_rules, pack_values, promote
from comfyskill.editor.build import attach_unnamed, build
from comfyskill.editor.live import Conversion, Emission, Node, Place, Prompt, cannot_convert
from comfyskill.editor.read import INPUT_NODE, MUTED, read
from comfyskill.editor.resolve import Constant, LinkTo, source_of
from comfyskill.editor.values import apply_primitives, constant, widget_inputs
from comfyskill.editor.verdicts import Verdicts
from comfyskill.editor.widgets import UNSET
from comfyskill.graph.nodes import Definitions

# The version of the editor whose rules are followed.
FRONTEND = "1.58"
MAX_DEPTH = 64
MAX_PROMPT_NODES = 50_000
_ROLES = {
    "reroute": "a reroute: links pass through it",
    "primitive": "a primitive: its value was written into the widgets it feeds",
    "note": "a note: it does not run",
    "virtual": "exists only in the editor: links pass through it",
}


class Converted(NamedTuple):
    """The graph and how it was made.

    `missing_types` are node types without definition: their entries have no class_type, as the editor sends them.
    `models` are the model files that nodes name with their source; `choices` what dynamic prompts chose;
    `explanation` (when asked for) what became of each node and link, as {kind, node_id, text, ...}.
    `verdicts` report for each node that is sent how its values were found: {node_id, class_type, verdict} with the verdict
    "exact" (as the editor reads the file), "by rule of PACK" or "unsure" (then with a `reason`).
    """

    graph: Prompt
    warnings: list[str]
    missing_types: list[Document]
    models: list[Document]
    choices: list[Document]
    explanation: list[Document]
    verdicts: list[Document]


def convert(
    document: object,
    definitions: Definitions | None,
    *,
    wildcard_seed: int | None = None,
    now: datetime | None = None,
    without_server: bool = False,
    explain: bool = False,
    allow_unsure: bool = False,
) -> Converted:
    """The graph that the editor would queue for this file.

    Args:
        document: the parsed editor file.
        definitions: the server's /object_info; None when there is none (then nodes are converted only as far as the
            file itself shows their widgets).
        wildcard_seed: makes the choices of dynamic prompts reproducible.
        now: the time for %date:...% in file names; the clock's when None.
        without_server: the definitions are not those of a server (the bundled core ones), so a type that they lack
            is refused, not reported as missing.
        explain: also say what became of each node and link.
        allow_unsure: send nodes whose values cannot be assigned for certain as the editor would, with a warning;
            otherwise they are refused.

    Raises:
        SkillError: not an editor file, or something that cannot be converted correctly.
    """
    saved = read(document)
    partial = without_server or definitions is None or _are_bundled(definitions)
    conversion = build(saved, definitions or {}, without_server=partial)
    for graph in conversion.all_graphs():
        attach_unnamed(graph)
    promote.promote_all(conversion)
    promote.repair_combos(conversion)
    emission = Emission(
        conversion, now or datetime.now(), wildcard_seed, browser_text.seeded_chooser(wildcard_seed)
    )
    for place, node in _active(conversion):
        if len(emission.places) >= MAX_PROMPT_NODES:
            raise SkillError(
                f"more than {MAX_PROMPT_NODES} nodes once the subgraphs are unfolded", code="cannot_convert"
            )
        emission.places[place.id_of(node)] = (place, node)
    apply_primitives(emission)
    verdicts = Verdicts(conversion, allow=allow_unsure)
    prompt = _prompt(emission, verdicts)
    return Converted(
        prompt,
        list(conversion.warnings),
        _missing(emission),
        _models(emission),
        emission.choices,
        list(_explanation(emission, prompt)) if explain else [],
        verdicts.entries,
    )


def _are_bundled(definitions: Definitions) -> bool:
    """Whether these are the core definitions that come with the bundle (KSampler's is marked)."""
    return foreign.mapping(definitions.get("KSampler")).get("bundled") is True


def _active(conversion: Conversion) -> Iterator[tuple[Place, Node]]:
    """Every node of the unfolded graph, with its place; subgraph instances are entered."""
    waiting = [iter(_nodes_at(Place(conversion.root)))]
    trail: list[str] = []
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
            if trail:
                trail.pop()
            continue
        place, node = entry
        conversion.spend()
        if node.role != "instance":
            yield place, node
            continue
        if place.host is None and node.off:
            continue
        if node.type in trail or len(trail) >= MAX_DEPTH:
            raise SkillError(
                f"subgraph node {node.label} contains itself"
                if node.type in trail
                else f"subgraphs are nested deeper than {MAX_DEPTH}",
                code="cannot_convert",
                hint="open the workflow in the editor and remove the inner copy",
            )
        trail.append(node.type)
        waiting.append(iter(_nodes_at(place.inside(node, conversion.graphs[node.type]))))


def _nodes_at(place: Place) -> list[tuple[Place, Node]]:
    return [(place, node) for node in place.graph.nodes.values()]


def _prompt(emission: Emission, verdicts: Verdicts) -> Prompt:
    conversion = emission.conversion
    prompt: Prompt = {}
    for node_id, (place, node) in emission.places.items():
        if not node.off and node.role == "virtual" and _feeds_others(place, node):
            verdicts.judge_virtual(node_id, node)
        if node.off or node.role not in ("node", "unknown"):
            continue
        _refuse_unreadable(conversion, node)
        inputs = widget_inputs(emission, node_id, node)
        for number, slot in enumerate(node.inputs):
            source = source_of(conversion, place, node, number)
            if isinstance(source, LinkTo):
                inputs[slot.name] = [source.node_id, source.slot]
            elif isinstance(source, Constant):
                inputs.pop(slot.name, None)
                if source.value is not UNSET:
                    inputs[slot.name] = constant(emission, node, slot.name, source.value)
        pack_values.on_queue(emission, node_id, node, inputs)
        verdicts.judge(node_id, node, inputs)
        entry: dict[str, Any] = {"inputs": inputs}
        if node.role == "node":
            entry["class_type"] = _class_sent(conversion, node)
        entry["_meta"] = _meta(node)
        prompt[node_id] = entry
    for entry in prompt.values():
        for name, value in list(entry["inputs"].items()):
            if isinstance(value, list) and value[0] not in prompt:
                del entry["inputs"][name]
    return prompt


def _feeds_others(place: Place, node: Node) -> bool:
    return any(link.origin == node.id for link in place.graph.links.values())


def _class_sent(conversion: Conversion, node: Node) -> str:
    """The class that the graph names: the name inside the definition if the server has a class of that name."""
    node_class = conversion.node_class(node.type)
    return (
        node_class.name if node_class is not None and node_class.name in conversion.definitions else node.type
    )


def _refuse_unreadable(conversion: Conversion, node: Node) -> None:
    if node.role == "unknown" and conversion.without_server:
        raise cannot_convert(
            f"node {node.label}: its widgets cannot be read from the file without the server's node definitions",
            "pass --host (a running server that has this node) or --object-info FILE (its saved /object_info)",
            node,
        )


def _meta(node: Node) -> Document:
    meta: Document = {"title": node.title or node.type} | _pack_named_by(node)
    if node.role == "unknown":
        inside = node.saved.inner_missing
        meta["missing_type"] = inside[0] if inside else node.type
        if inside[1:]:
            meta["missing_types"] = list(inside)
    return meta


def _pack_named_by(node: Node) -> dict[str, str]:
    """The pack and version that the file names for a node."""
    found = {key: foreign.text(node.saved.properties.get(key)) for key in ("cnr_id", "aux_id", "ver")}
    return {key: value for key, value in found.items() if value}


def _missing(emission: Emission) -> list[Document]:
    """Node types without definition, with the pack that the file says they come from."""
    found: dict[str, Document] = {}
    for node_id, (_, node) in emission.places.items():
        if node.role != "unknown" or node.off:
            continue
        inside = node.saved.inner_missing
        for kind in inside or [node.type]:
            found.setdefault(kind, {"class_type": kind, "node_ids": []})["node_ids"].append(node_id)
        if not inside:
            for key, value in _pack_named_by(node).items():
                found[node.type].setdefault(key, value)
    return list(found.values())


def _models(emission: Emission) -> list[Document]:
    """Model files that active nodes name in `properties.models`, once each."""
    found: dict[tuple[str, str], Document] = {}
    for node_id, (_, node) in emission.places.items():
        if node.off:
            continue
        for model in foreign.mappings(node.saved.properties.get("models")):
            entry = {
                key: model[key]
                for key in ("name", "url", "directory", "hash", "hash_type")
                if isinstance(model.get(key), str)
            }
            if "name" in entry:
                mark = (entry["name"], entry.get("directory", ""))
                found.setdefault(mark, entry | {"node_id": node_id, "class_type": node.type})
    return list(found.values())


def _explanation(emission: Emission, prompt: Prompt) -> Iterator[Document]:
    """One entry per node, and one for each input that does not simply follow its link."""
    for node in emission.conversion.root.instances:
        inside = f"a subgraph: its nodes have ids {node.id}:…"
        text = "muted or bypassed, so nothing inside it runs" if node.off else inside
        yield _entry("subgraph", node.id, node, f"{node.label}: {text}")
    for node_id, (place, node) in emission.places.items():
        yield _entry("node", node_id, node, f"{node.label}: {_what_became_of(node_id, node, prompt)}")
        if node_id not in prompt:
            continue
        for number, slot in enumerate(node.inputs):
            if text := _input_source(emission.conversion, place, node, number, prompt):
                yield _entry("input", node_id, node, f"{node_id}.{slot.name} {text}", input=slot.name)


def _entry(kind: str, node_id: str, node: Node, text: str, **details: str) -> Document:
    return {"kind": kind, "node_id": node_id, "class_type": node.type, **details, "text": text}


def _what_became_of(node_id: str, node: Node, prompt: Prompt) -> str:
    if node.off:
        return "muted" if node.mode == MUTED else "bypassed: links pass through it by type"
    if node.role == "unknown":
        return f"sent as {node_id} without class_type: there is no definition of its type"
    if pack_rules.virtual_kind(node.type) == pack_rules.PANEL:
        return "a panel of the editor: it does not run"
    return f"sent as {node_id}" if node_id in prompt else _ROLES.get(node.role, "left out")


def _input_source(conversion: Conversion, place: Place, node: Node, number: int, prompt: Prompt) -> str:
    """What an input gets in place of what its link names; empty when it follows the link or has none."""
    slot = node.inputs[number]
    if slot.link is None:
        return ""
    source = source_of(conversion, place, node, number)
    direct = place.graph.nodes.get(slot.link.origin)
    if isinstance(source, LinkTo):
        if direct is not None and source.node_id == place.id_of(direct):
            return ""
        text = f"comes from output {source.slot} of node {source.node_id}"
        left_out = ", which is not in the graph, so the input is left out"
        return text if source.node_id in prompt else text + left_out
    if isinstance(source, Constant):
        return "takes the value that the subgraph node shows"
    via = direct.label if direct else "a node that was removed"
    if slot.link.origin == INPUT_NODE:
        via = "the subgraph's input"
    kept = slot.name in prompt[place.id_of(node)]["inputs"]
    effect = "its own value is used" if kept else "it is left out"
    return f"is linked to {via}, which leads to nothing; {effect}"
