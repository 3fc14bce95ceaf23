"""Graphs that the server runs without complaint and whose result is wrong. Pure. Nothing here is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator

from comfyskill.base import safe_text
from comfyskill.graph import catalog
from comfyskill.graph.facts import outputs_of
from comfyskill.graph.finding import INFO, WARNING, Finding, about
from comfyskill.graph.nodes import (
    Graph,
    Inputs,
    Link,
    Node,
    class_of,
    consumers_of,
    each,
    inputs_of,
    is_literal,
    link_of,
    literal,
    natural_key,
    node_of,
    upstream_of,
)
from comfyskill.graph.specs import Book

_SIZES = ("width", "height", "length")


def likely_mistakes(graph: Graph, book: Book, live: set[str]) -> list[Finding]:
    """The findings of every rule below, in no particular order."""
    found: list[Finding] = []
    for node_id, node in each(graph):
        if node_id in live:
            for rule in (_size, _same_prompts, _idle_lora, _mask_turned):
                found += rule(graph, book, node_id, node)
    found += _dead(graph, book, live)
    found += _only_previews(graph)
    found += _family(graph, live)
    return found


def _number(inputs: Inputs, name: str) -> int | float | None:
    value = literal(inputs.get(name)) if is_literal(inputs.get(name)) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _size(graph: Graph, book: Book, node_id: str, node: Node) -> Iterator[Finding]:
    """Sizes of new latents that the model's grid cuts down."""
    del graph
    class_type = class_of(node)
    makes_latent = (
        book.gives(class_type, "LATENT") if book.knows(class_type) else "latent" in class_type.lower()
    )
    if not makes_latent:
        return
    specs = book.specs(node)
    for name in _SIZES:
        value = _number(inputs_of(node), name)
        spec = specs.get(name)
        step = spec.number("step") if spec is not None else (8 if name != "length" else None)
        if value is None or not isinstance(step, int) or step < 2:
            continue
        least = spec.number("min") if spec is not None else 0
        offset = int(least or 0) % step if name == "length" else 0
        if (value - offset) % step:
            below = int((value - offset) // step * step + offset)
            yield about(
                WARNING, "size_not_on_grid", node_id, node,
                f"{name} {value} is not a multiple of {step}{f' plus {offset}' if offset else ''}; "
                "the model's grid cuts it or the run fails",
                f"use {below} or {below + step}", name,
            )  # fmt: skip


def _same_prompts(graph: Graph, book: Book, node_id: str, node: Node) -> Iterator[Finding]:
    """A sampler whose positive and negative prompt come from the same output."""
    del graph
    inputs = inputs_of(node)
    positive, negative = link_of(inputs.get("positive")), link_of(inputs.get("negative"))
    cfg = _number(inputs, "cfg")
    if positive is None or positive != negative or cfg is None or cfg == 1:
        return
    if book.gives(class_of(node), "CONDITIONING"):
        return
    yield about(
        WARNING, "same_prompts", node_id, node,
        f"positive and negative come from the same output ({safe_text.name(positive.node_id)} slot {positive.slot}), so the "
        "negative prompt cancels the prompt",
        "link negative to an encoder of its own, or set cfg to 1", "negative",
    )  # fmt: skip


def _is_lora(node: Node) -> bool:
    return "lora" in class_of(node).lower() and isinstance(literal(inputs_of(node).get("lora_name")), str)


def _idle_lora(graph: Graph, book: Book, node_id: str, node: Node) -> Iterator[Finding]:
    """A LoRA whose strengths are all zero."""
    del graph, book
    if not _is_lora(node):
        return
    strengths = [_number(inputs_of(node), name) for name in inputs_of(node) if name.startswith("strength")]
    if strengths and all(strength == 0 for strength in strengths):
        yield about(
            WARNING, "lora_without_strength", node_id, node, "the LoRA's strength is 0, so it does nothing",
            f"set {safe_text.name(node_id)}.strength_model, or remove the node",
        )  # fmt: skip


_MASK_USERS = frozenset({"VAEEncodeForInpaint", "SetLatentNoiseMask", "InpaintModelConditioning"})


def _mask_turned(graph: Graph, book: Book, node_id: str, node: Node) -> Iterator[Finding]:
    """A picture's own mask, inverted before it is used to inpaint."""
    del book
    if class_of(node) not in _MASK_USERS:
        return
    source, turns = link_of(inputs_of(node).get("mask")), 0
    for _ in range(20):
        at = node_of(graph, source.node_id) if source else None
        if at is None or source is None:
            return
        if class_of(at) in ("LoadImage", "LoadImageMask"):
            break
        turns += class_of(at) == "InvertMask"
        source = link_of(inputs_of(at).get("mask"))
    else:
        return
    if turns % 2 == 0:
        return
    yield about(
        WARNING, "mask_inverted", node_id, node,
        "the picture's mask is inverted on its way here, so everything but the masked part is redrawn",
        "remove InvertMask if the masked (transparent) part should be redrawn", "mask",
    )  # fmt: skip


def _dead(graph: Graph, book: Book, live: set[str]) -> Iterator[Finding]:
    """Nodes that no output depends on: LoRAs one by one, the rest together."""
    if not live:
        return
    dead = [(node_id, node) for node_id, node in each(graph) if node_id not in live]
    rest = []
    for node_id, node in dead:
        if _is_lora(node):
            name = literal(inputs_of(node)["lora_name"])
            yield about(
                WARNING, "lora_unused", node_id, node, f"the LoRA {safe_text.quoted(name)} is loaded but not used",
                "use its model (and clip) output instead of the loader's",
            )  # fmt: skip
        else:
            rest.append(node_id)
    if rest:
        rest.sort(key=natural_key)
        shown = ", ".join(map(safe_text.name, rest[:10])) + (" …" if len(rest) > 10 else "")
        unsure = any(not book.knows(class_of(graph[node_id])) for node_id in rest)
        many = (
            "1 node leads to no output and does"
            if len(rest) == 1
            else f"{len(rest)} nodes lead to no output and do"
        )
        yield Finding(
            INFO, "dead_branch",
            f"{many} not run: {shown}"
            + (" (including unknown classes)" if unsure else ""),
            "link them to an output or remove them; they cost nothing",
        )  # fmt: skip


def _only_previews(graph: Graph) -> Iterator[Finding]:
    outputs = outputs_of(graph)
    if outputs and all(output.preview for output in outputs):
        yield Finding(
            INFO, "only_previews", "all outputs are previews: the server keeps them in its temporary folder only",
            "use SaveImage to keep the result on the server",
        )  # fmt: skip


# Part of a model file's name -> family. The first match counts.
_FAMILY_NAMES = (
    (re.compile(r"(?i)sd_?xl|sdxl|[_-]xl[_.-]|pony|illustrious|noobai"), "sdxl"),
    (re.compile(r"(?i)(sd|v)[_-]?1[._-]?[45]|sd15|dreamshaper_8|realistic_?vision"), "sd15"),
)
# family -> (smallest, largest) area in pixels that gives one sound picture in one pass
_AREAS = {"sd15": (256 * 256, 960 * 960), "sdxl": (640 * 640, 1600 * 1600)}


def family_of(name: str) -> str | None:
    """The family that a checkpoint's file name shows, or None."""
    return next((family for pattern, family in _FAMILY_NAMES if pattern.search(name)), None)


def _family(graph: Graph, live: set[str]) -> Iterator[Finding]:
    """Empty latents whose size the checkpoint's family was not made for."""
    consumers = consumers_of(graph)
    for node_id, node in each(graph):
        inputs = inputs_of(node)
        if node_id not in live or class_of(node) not in catalog.PICTURE_LATENTS:
            continue
        width, height = _number(inputs, "width"), _number(inputs, "height")
        if width is None or height is None:
            continue
        for consumer in consumers.get(node_id, ())[:10]:
            sampler = node_of(graph, consumer.node_id)
            model = link_of(inputs_of(sampler).get("model")) if sampler is not None else None
            family = _model_family(graph, model) if model is not None else None
            low, high = _AREAS.get(family or "", (0, 0))
            if family and not low <= width * height <= high:
                small = width * height < low
                yield about(
                    WARNING, "size_for_family", node_id, node,
                    f"{width}x{height} is {'small' if small else 'large'} for {family}: "
                    + ("pictures come out broken" if small else "things appear twice"),
                    "use about 512x512 for sd15, 1024x1024 for sdxl, and upscale afterwards", "width",
                )  # fmt: skip
                break


def _model_family(graph: Graph, model: Link) -> str | None:
    for node_id in upstream_of(graph, [model.node_id]):
        node = node_of(graph, node_id)
        name = literal(inputs_of(node).get("ckpt_name")) if node is not None else None
        if isinstance(name, str):
            family = family_of(name)
            if family:
                return family
    return None
