"""Adding LoRAs to a graph, right after the loader of the model that is sampled. Pure.

A LoRA patches weights, so it belongs before anything that wraps the model (ModelSampling..., guidance patches), and
before the text encoder is used when it trains that too. Checkpoints that bring both model and CLIP get LoraLoader;
split diffusion models (Flux, SD3, Wan, Qwen, ...) get LoraLoaderModelOnly, as their official workflows do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from comfyskill.base import safe_text
from comfyskill.base.cli import Misuse, SkillError
from comfyskill.graph import nodes
from comfyskill.graph.finding import called
from comfyskill.graph.nearest import nearest_choices
from comfyskill.graph.nodes import (
    Definitions,
    Graph,
    Link,
    Node,
    class_of,
    each,
    inputs_of,
    link_of,
    literal,
    natural_key,
    node_of,
)
from comfyskill.graph.specs import Book

_MODEL_INPUT = re.compile(r"(model|unet)\d*(_positive|_negative)?|guider_model")


class LoraSpec(NamedTuple):
    """A LoRA as `--lora` names it. clip: None means as strong as on the model, where there is a CLIP to patch."""

    name: str
    strength: float = 1.0
    clip: float | None = None


def parse_lora(text: str) -> LoraSpec:
    """`NAME[:STRENGTH[:CLIP_STRENGTH]]`, read from the right.

    Raises:
        SkillError: (exit 2, "bad_lora") without a name, or with a strength that is not a finite number.
    """
    parts = text.strip().split(":")
    numbers: list[float] = []
    while len(parts) > 1 and len(numbers) < 2 and (number := _number(parts[-1])) is not None:
        numbers.insert(0, number)
        parts.pop()
    name = ":".join(parts).strip()
    if not name or name.endswith(":") or not all(math.isfinite(number) for number in numbers):
        raise Misuse(
            f"--lora takes NAME[:STRENGTH[:CLIP_STRENGTH]], not {text[:80]!r}",
            code="bad_lora",
            hint="for example --lora detail.safetensors:0.8",
        )
    return LoraSpec(name, *numbers)


def _number(text: str) -> float | None:
    try:
        return float(text) if text.strip() and "_" not in text else None
    except ValueError:
        return None


def add_loras(
    graph: Graph, specs: Sequence[LoraSpec | str], definitions: Definitions | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The graph with the LoRAs put in, in the order given, and one note for each about what was inserted.

    Raises:
        SkillError: (exit 2) "not_in_list" for a LoRA that the server does not list; "lora_unclear" when the graph has
            no model to patch, several without a clear choice, or one of a kind that core LoRA loaders do not support.
    """
    filled: dict[str, Any] = dict(graph)
    notes: list[str] = []
    book = Book(definitions)
    behind: dict[Link, tuple[Link, Link | None]] = {}
    for given in specs:
        spec = parse_lora(given) if isinstance(given, str) else given
        spec = _listed(spec, book)
        root = _root_for(spec, graph, book)
        model, clip = behind.get(root.model, (root.model, root.clip))
        if spec.clip is None and not root.together:
            clip = None
        node_id = _fresh_id(filled)
        filled[node_id] = _lora_node(spec, model, clip)
        _rewire(filled, node_id, {model: 0} | ({clip: 1} if clip is not None else {}))
        kept = behind.get(root.model, (root.model, root.clip))[1]
        behind[root.model] = (Link(node_id, 0), Link(node_id, 1) if clip is not None else kept)
        notes.append(_note(spec, node_id, filled, root))
    return filled, notes


def _note(spec: LoraSpec, node_id: str, graph: Graph, root: _Root) -> str:
    node = graph[node_id]
    parts = f"strength {spec.strength:g}"
    if class_of(node) == "LoraLoader":
        parts += f", clip {inputs_of(node)['strength_clip']:g}"
    loader = node_of(graph, root.model.node_id)
    made = called(node_id, {"class_type": class_of(node)})
    before = called(root.model.node_id, loader or {})
    return f"{made} loads {safe_text.quoted(spec.name)} at {parts}, after {before}"


def _listed(spec: LoraSpec, book: Book) -> LoraSpec:
    """The spec with the LoRA's name as the server lists it."""
    for class_type in ("LoraLoader", "LoraLoaderModelOnly"):
        entry = book.specs({"class_type": class_type, "inputs": {}}).get("lora_name")
        if entry is None or entry.choices is None:
            continue
        names = [choice for choice in entry.choices if isinstance(choice, str)]
        if spec.name in names:
            return spec
        wanted = spec.name.replace("\\", "/")
        alike = [name for name in names if _matches(name.replace("\\", "/"), wanted)]
        if len(alike) == 1:
            return LoraSpec(alike[0], spec.strength, spec.clip)
        near = alike or nearest_choices(spec.name, names)
        _refuse_typo(spec.name, names)
        raise Misuse(
            f"the server has no LoRA {safe_text.quoted(spec.name)}",
            code="not_in_list",
            hint=f"it has: {safe_text.quoted_list(near, 12)}" if near else "its list of LoRAs is empty",
            allowed={"count": len(names), "items": near[:12]},
        )
    return spec


def _refuse_typo(name: str, names: Sequence[str]) -> None:
    """Raises SkillError when the text after the last colon was meant to be a strength."""
    for place in (index for index, letter in enumerate(name) if letter == ":"):
        front = name[:place].strip().replace("\\", "/")
        if not any(_matches(known.replace("\\", "/"), front) for known in names):
            continue
        strength = next(part for part in name[place + 1 :].split(":") if _number(part) is None)
        raise Misuse(
            f"--lora {front}: the strength {strength[:40]!r} is not a number",
            code="bad_lora",
            hint=f"for example --lora {front}:0.8",
        )


def _matches(listed: str, wanted: str) -> bool:
    """Whether a listed name is the wanted one, up to its folder and suffix."""
    names = {listed, listed.rsplit("/", 1)[-1]}
    names |= {re.sub(r"\.(safetensors|sft|pt|ckpt|bin)$", "", name) for name in set(names)}
    return wanted in names


class _Root(NamedTuple):
    """A loader's model output, and the CLIP output that is used with it. together: one node gives both."""

    model: Link
    clip: Link | None
    together: bool


def _root_for(spec: LoraSpec, graph: Graph, book: Book) -> _Root:
    models = _roots(graph, _MODEL_INPUT)
    if not models:
        raise _unclear(spec, "no sampler here uses a model that a LoRA could patch")
    chosen = _one_model(spec, models, graph)
    loader = node_of(graph, chosen.node_id)
    class_type = class_of(loader) if loader is not None else ""
    outputs = book.outputs(class_type)
    if outputs and not (0 <= chosen.slot < len(outputs) and outputs[chosen.slot] in ("MODEL", "*")):
        kind = outputs[chosen.slot] if 0 <= chosen.slot < len(outputs) else "?"
        raise _unclear(
            spec,
            f"{called(chosen.node_id, loader or {})} gives {safe_text.name(kind)}, which core LoRA loaders do not support",
        )
    if class_type.startswith(("Nunchaku", "WanVideo", "HyVideo")):
        raise _unclear(spec, f"{safe_text.quoted(class_type)} takes LoRAs through its own pack's loader")
    clips = _roots(graph, re.compile(r"clip\d*"))
    own = [clip for clip in clips if clip.node_id == chosen.node_id]
    if own:
        return _Root(chosen, own[0], True)
    return _Root(chosen, clips[0] if len(clips) == 1 else None, False)


def _roots(graph: Graph, name: re.Pattern[str]) -> list[Link]:
    """The outputs where the chains behind inputs of this name begin."""
    found: set[Link] = set()
    seen: set[Link] = set()
    waiting = [link for _, node in each(graph) for link in _named_links(node, name)]
    while waiting:
        link = waiting.pop()
        if link in seen:
            continue
        seen.add(link)
        node = node_of(graph, link.node_id)
        if node is None:
            continue
        further = _named_links(node, name)
        if further:
            waiting.extend(further)
        elif class_of(node) not in ("Reroute", "Reroute (rgthree)"):
            found.add(link)
        else:
            waiting.extend(filter(None, (link_of(value) for value in inputs_of(node).values())))
    return sorted(found, key=lambda link: (natural_key(link.node_id), link.slot))


def _named_links(node: Node, name: re.Pattern[str]) -> list[Link]:
    return [
        link
        for key, value in inputs_of(node).items()
        if name.fullmatch(key) and (link := link_of(value)) is not None
    ]


def _one_model(spec: LoraSpec, models: list[Link], graph: Graph) -> Link:
    """The model that the LoRA is for: the only one, the one that is not a refiner, or the half that its name shows."""
    if len(models) == 1:
        return models[0]
    files = {model: _file(graph, model) for model in models}
    base = [model for model in models if "refiner" not in files[model]]
    if len(base) == 1:
        return base[0]
    for half in ("high", "low"):
        if half in spec.name.lower():
            fitting = [model for model in base if half in files[model]]
            if len(fitting) == 1:
                return fitting[0]
    shown = ", ".join(
        f"{safe_text.name(model.node_id)} ({safe_text.name(files[model]) or '?'})" for model in models[:6]
    )
    raise _unclear(
        spec,
        f"the workflow samples {len(models)} models ({shown}), and the LoRA's name does not show which one",
    )


def _file(graph: Graph, model: Link) -> str:
    node = node_of(graph, model.node_id)
    values = inputs_of(node).values() if node is not None else ()
    return next((str(literal(value)).lower() for value in values if isinstance(literal(value), str)), "")


def _unclear(spec: LoraSpec, why: str) -> SkillError:
    return Misuse(
        f"cannot add the LoRA {safe_text.quoted(spec.name)}: {why}",
        code="lora_unclear",
        hint="add a LoRA loader to the workflow in the editor and set its lora_name",
    )


def _lora_node(spec: LoraSpec, model: Link, clip: Link | None) -> dict[str, Any]:
    inputs: dict[str, Any] = {"model": list(model)}
    if clip is not None:
        inputs["clip"] = list(clip)
    inputs |= {"lora_name": spec.name, "strength_model": spec.strength}
    if clip is not None:
        inputs["strength_clip"] = spec.strength if spec.clip is None else spec.clip
    class_type = "LoraLoader" if clip is not None else "LoraLoaderModelOnly"
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": f"LoRA {spec.name}"}}


def _fresh_id(graph: Graph) -> str:
    numbers = [
        int(key)
        for key in graph
        if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 16
    ]
    return str(max(numbers, default=0) + 1)


def _rewire(graph: dict[str, Any], lora_id: str, moved: Mapping[Link, int]) -> None:
    """Link every input that used a moved output to the LoRA's output; changed nodes are copied."""
    for node_id, node in list(each(graph)):
        if node_id == lora_id:
            continue
        changed = {
            name: [lora_id, moved[link]]
            for name, value in inputs_of(node).items()
            if (link := link_of(value)) is not None and link in moved
        }
        if changed:
            graph[node_id] = {**node, "inputs": {**inputs_of(node), **changed}}


def with_tiled_decode(graph: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The graph with each VAEDecode made a VAEDecodeTiled, and the ids that were changed."""
    changed = [node_id for node_id, node in nodes.each(graph) if nodes.class_of(node) == "VAEDecode"]
    made = dict(graph)
    tiles = {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    for node_id in changed:
        node = dict(graph[node_id])
        made[node_id] = node | {"class_type": "VAEDecodeTiled", "inputs": {**tiles, **node.get("inputs", {})}}
    return made, changed
