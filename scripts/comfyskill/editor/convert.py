"""Workflows as the ComfyUI editor saves them → graphs as the server runs them, as the editor itself does on "queue".

Pure: no network, no disk. `convert` follows frontend 1.58, also for files of older versions; time and randomness
are values. `to_editor` goes the other way, `diff` says in words how two graphs differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from comfyskill.base.cli import SkillError
from comfyskill.editor import certainty, pack_values, promote, text
from comfyskill.editor.build import attach_unnamed, build
from comfyskill.editor.live import Build, Emission, Node, Place
from comfyskill.editor.read import is_editor, read
from comfyskill.editor.resolve import Constant, LinkTo, source_of
from comfyskill.editor.values import apply_primitives, constant, widget_inputs
from comfyskill.editor.widgets import UNSET

__all__ = ["FRONTEND", "Converted", "convert", "diff", "is_editor", "to_editor"]

# The version of the editor whose rules are followed.
FRONTEND = "1.58"
MAX_DEPTH = 64
MAX_PROMPT_NODES = 50_000


class Converted(NamedTuple):
    """The graph and how it was made.

    `missing_types` are node types without definition: their entries have no class_type, as the editor sends them.
    `models` are the model files that nodes name with their source; `choices` what dynamic prompts chose;
    `explanation` (when asked for) what became of each node and link, as {kind, node_id, text, ...}.
    `verdicts` say of each node that is sent how its values were found: {node_id, class_type, verdict} with the verdict
    "exact" (as the editor reads the file), "by rule of PACK" or "unsure" (then with a `reason`).
    """

    graph: dict[str, dict[str, Any]]
    warnings: list[str]
    missing_types: list[dict[str, Any]]
    models: list[dict[str, Any]]
    choices: list[dict[str, Any]]
    explanation: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]


def convert(
    document: Any,
    definitions: Mapping[str, Any] | None,
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
        without_server: the definitions are not those of a server (the bundled core ones), so that a type they lack
            is refused rather than reported as missing.
        explain: also say what became of each node and link.
        allow_unsure: send nodes whose values cannot be laid out for certain as the editor would, with a warning; else
            they are refused.

    Raises:
        SkillError: not an editor file, or something that cannot be converted correctly.
    """
    saved = read(document)
    partial = without_server or definitions is None or _are_bundled(definitions)
    made = build(saved, definitions or {}, without_server=partial)
    for graph in [*made.graphs.values(), made.root]:
        attach_unnamed(graph)
    promote.promote_all(made)
    promote.repair_combos(made)
    emission = Emission(made, now or datetime.now(), wildcard_seed, text.seeded_chooser(wildcard_seed))
    for place, node in _active(made):
        if len(emission.places) >= MAX_PROMPT_NODES:
            raise SkillError(
                f"more than {MAX_PROMPT_NODES} nodes once the subgraphs are unfolded", code="cannot_convert"
            )
        emission.places[place.id_of(node)] = (place, node)
    apply_primitives(emission)
    doubts = certainty.Doubts(made, allow=allow_unsure)
    graph_out = _prompt(emission, doubts)
    explanation = []
    if explain:
        from comfyskill.editor import words as editor_explain

        explanation = editor_explain.explain(made, emission.places, graph_out)
    return Converted(
        graph_out,
        list(made.warnings),
        _missing(emission),
        _models(emission),
        emission.choices,
        explanation,
        doubts.verdicts,
    )


def to_editor(graph: Mapping[str, Any], definitions: Mapping[str, Any] | None) -> dict[str, Any]:
    """An editor file of an API-format graph; see `layout`."""
    from comfyskill.editor import layout

    return layout.to_editor(graph, definitions)


def diff(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How two API-format graphs differ, in words; see `words`."""
    from comfyskill.editor import words as editor_explain

    return editor_explain.diff(first, second)


def _are_bundled(definitions: Mapping[str, Any]) -> bool:
    """Whether these are the core definitions that come with the bundle (KSampler's is marked)."""
    sampler = definitions.get("KSampler")
    return isinstance(sampler, Mapping) and sampler.get("bundled") is True


def _active(made: Build) -> Iterator[tuple[Place, Node]]:
    """Every node of the unfolded graph, with its place; subgraph instances are entered."""
    waiting = [iter(_nodes_at(Place(made.root)))]
    trail: list[str] = []
    while waiting:
        entry = next(waiting[-1], None)
        if entry is None:
            waiting.pop()
            if trail:
                trail.pop()
            continue
        place, node = entry
        made.spend()
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
        waiting.append(iter(_nodes_at(place.inside(node, made.graphs[node.type]))))


def _nodes_at(place: Place) -> list[tuple[Place, Node]]:
    return [(place, node) for node in place.graph.nodes.values()]


def _prompt(emission: Emission, doubts: certainty.Doubts) -> dict[str, dict[str, Any]]:
    made = emission.made
    prompt: dict[str, dict[str, Any]] = {}
    for node_id, (place, node) in emission.places.items():
        if not node.off and node.role == "virtual" and _feeds_others(place, node):
            doubts.judge_virtual(node_id, node)
        if node.off or node.role not in ("node", "unknown"):
            continue
        _refuse_unreadable(made, node)
        inputs = widget_inputs(emission, node_id, node)
        for number, slot in enumerate(node.inputs):
            found = source_of(made, place, node, number)
            if isinstance(found, LinkTo):
                inputs[slot.name] = [found.node_id, found.slot]
            elif isinstance(found, Constant):
                inputs.pop(slot.name, None)
                if found.value is not UNSET:
                    inputs[slot.name] = constant(emission, node, slot.name, found.value)
        pack_values.on_queue(emission, node_id, node, inputs)
        doubts.judge(node_id, node, inputs)
        entry: dict[str, Any] = {"inputs": inputs}
        if node.role == "node":
            entry["class_type"] = _class_sent(made, node)
        entry["_meta"] = _meta(node)
        prompt[node_id] = entry
    for entry in prompt.values():
        for name, value in list(entry["inputs"].items()):
            if isinstance(value, list) and value[0] not in prompt:
                del entry["inputs"][name]
    return prompt


def _feeds_others(place: Place, node: Node) -> bool:
    return any(link.origin == node.id for link in place.graph.links.values())


def _class_sent(made: Build, node: Node) -> str:
    """The class that the graph names: the definition's own name, where that is another class of the server."""
    node_class = made.node_class(node.type)
    return node_class.name if node_class is not None and node_class.name in made.definitions else node.type


def _refuse_unreadable(made: Build, node: Node) -> None:
    if node.role == "unknown" and made.without_server:
        raise SkillError(
            f"node {node.label}: its widgets cannot be read from the file without the server's node definitions",
            code="cannot_convert",
            hint="pass --host (a running server that has this node) or --object-info FILE (its saved /object_info)",
            node={"id": node.id, "title": node.title, "type": node.type},
        )


def _meta(node: Node) -> dict[str, Any]:
    meta: dict[str, Any] = {"title": node.title or node.type}
    for key in ("cnr_id", "aux_id", "ver"):
        value = node.saved.properties.get(key)
        if isinstance(value, str) and value:
            meta[key] = value
    if node.role == "unknown":
        inside = node.saved.inner_missing
        meta["missing_type"] = inside[0] if inside else node.type
        if inside[1:]:
            meta["missing_types"] = list(inside)
    return meta


def _missing(emission: Emission) -> list[dict[str, Any]]:
    """Node types without definition, with the pack that the file says they come from."""
    found: dict[str, dict[str, Any]] = {}
    for node_id, (_, node) in emission.places.items():
        if node.role != "unknown" or node.off:
            continue
        inside = node.saved.inner_missing
        for kind in inside or [node.type]:
            found.setdefault(kind, {"class_type": kind, "node_ids": []})["node_ids"].append(node_id)
        if inside:
            continue
        entry = found[node.type]
        for key in ("cnr_id", "aux_id", "ver"):
            value = node.saved.properties.get(key)
            if isinstance(value, str) and value:
                entry.setdefault(key, value)
    return list(found.values())


def _models(emission: Emission) -> list[dict[str, Any]]:
    """Model files that active nodes name in `properties.models`, once each."""
    found: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for node_id, (_, node) in emission.places.items():
        models = node.saved.properties.get("models")
        if node.off or not isinstance(models, list):
            continue
        for model in models:
            if not isinstance(model, Mapping) or not isinstance(model.get("name"), str):
                continue
            entry = {
                key: model[key]
                for key in ("name", "url", "directory", "hash", "hash_type")
                if isinstance(model.get(key), str)
            }
            mark = (entry["name"], entry.get("directory", ""))
            if mark not in seen:
                seen.add(mark)
                found.append(entry | {"node_id": node_id, "class_type": node.type})
    return found
