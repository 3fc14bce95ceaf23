"""What inputs mean: from their own names, and from what their values are used for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from comfyskill.graph import catalog
from comfyskill.graph.names import slug
from comfyskill.graph.nodes import (
    Consumer,
    Graph,
    class_of,
    each,
    given_title,
    inputs_of,
    is_literal,
    link_of,
    literal,
    node_of,
    title_of,
)
from comfyskill.graph.parameter import Parameter, read_parameter
from comfyskill.graph.prompts import NEGATIVE, POSITIVE, chosen_branch, is_metadata
from comfyskill.graph.specs import Book, InputSpec

SIZED = frozenset({"width", "height", "length", "batch_size"})


def meaning(parameter: Parameter) -> tuple[str, str | None]:
    """The plain name and role of an input, from its own name, class and type."""
    name = parameter.input
    if parameter.upload:
        kind = parameter.upload
        plain = kind if kind != "file" else name
        return plain, catalog.ROLES.get(plain, "file")
    if parameter.type == "STRING" and isinstance(parameter.value, str):
        if name in catalog.NEGATIVE_INPUTS:
            return NEGATIVE, NEGATIVE
        if name in catalog.PROMPT_INPUTS:
            return POSITIVE, POSITIVE
    if name in catalog.SEED_INPUTS and parameter.type in ("INT", "NUMBER"):
        return "seed", "seed"
    folder = catalog.MODEL_FOLDERS_BY_CLASS.get((parameter.class_type, name)) or catalog.MODEL_FOLDERS.get(
        name
    )
    if folder and isinstance(parameter.value, str):
        return name, "model"
    # Dynamic inputs are called after their last part: resize_type.width is a width.
    last = name.rsplit(".", 1)[-1]
    plain = catalog.FRIENDLY_NAMES.get(last, last) or name
    if plain in ("prompt", "negative_prompt") and parameter.type != "STRING":
        plain = name
    if plain in catalog.SEED_NAMES and parameter.type not in ("INT", "NUMBER"):
        plain = name
    role = catalog.ROLES.get(plain)
    if role == "size" and isinstance(parameter.value, str):
        # A word such as "longest side" chooses how the size is meant; it is none.
        role = None
    if role in ("image", "mask", "video_file", "audio_file", "prompt", "negative_prompt", "seed"):
        role = None
    return plain, role


def sizes_latent(graph: Graph, node_id: str, book: Book) -> bool:
    """Whether a node makes the latent that is sampled, so that its width is the picture's."""
    node = node_of(graph, node_id)
    if node is None:
        return False
    inputs = inputs_of(node)
    takes_pictures = any(
        link_of(inputs.get(name)) for name in ("samples", "latent", "image", "images", "pixels")
    )
    takes_prompts = any(link_of(inputs.get(name)) for name in ("positive", "negative"))
    # WanImageToVideo and its kin take pictures and still make the latent; scalers do not.
    if takes_pictures and not takes_prompts:
        return False
    class_type = class_of(node)
    if "Audio" in class_type:
        return False
    if book.knows(class_type):
        return book.gives(class_type, "LATENT") or book.flag(class_type, "api_node") is True
    lowered = class_type.lower()
    return "latent" in lowered or takes_prompts


class Use(NamedTuple):
    """What a value node's value is used for."""

    plain: str
    role: str | None
    secondary: bool


def uses_of(graph: Graph, book: Book, consumers: Mapping[str, list[Consumer]]) -> dict[tuple[str, str], Use]:
    """For every value node (primitives, constants): the meaning of the inputs that it feeds."""
    uses: dict[tuple[str, str], Use] = {}
    for node_id, node in each(graph):
        place = _value_input(node, book)
        if place is None:
            continue
        meanings = [
            _meaning_at(graph, book, consumer_id, name)
            for consumer_id, name in _ends(graph, consumers, node_id)
        ]
        use = _agreed(meanings, node)
        if use is not None:
            uses[node_id, place] = use
    return uses


def _value_input(node: Mapping[str, Any], book: Book) -> str | None:
    """The one literal of a node that only holds a value, or None."""
    if class_of(node) in catalog.TWO_FORMS:
        switch, off, on = catalog.TWO_FORMS[class_of(node)]
        name = on if literal(inputs_of(node).get(switch)) else off
        return name if is_literal(inputs_of(node).get(name)) else None
    inputs = {name: value for name, value in inputs_of(node).items() if name not in catalog.FRONTEND_INPUTS}
    if len(inputs) != 1:
        return None
    name, value = next(iter(inputs.items()))
    if not is_literal(value) or name in catalog.SEED_INPUTS:
        return None
    class_type = class_of(node)
    if book.knows(class_type):
        outputs = book.outputs(class_type)
        plain = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "*", "NUMBER"}
        if not outputs or not all(isinstance(kind, list) or kind in plain for kind in outputs):
            return None
        return name
    if name in catalog.VALUE_INPUTS and (class_type, name) not in catalog.UPLOADS:
        return name
    return None


def _ends(graph: Graph, consumers: Mapping[str, list[Consumer]], start: str) -> list[tuple[str, str]]:
    """The inputs that a value reaches, reroutes and switches passed through."""
    found: list[tuple[str, str]] = []
    waiting, seen = [start], {start}
    while waiting and len(found) < 40:
        for consumer in consumers.get(waiting.pop(), ())[:40]:
            node = node_of(graph, consumer.node_id)
            if node is None:
                continue
            passes = class_of(node) in catalog.PASS_THROUGH or class_of(node) in catalog.SWITCHES
            if passes and consumer.node_id in consumers:
                chosen = chosen_branch(node)
                own = link_of(inputs_of(node).get(consumer.input))
                if consumer.node_id not in seen and (chosen is None or chosen == own):
                    seen.add(consumer.node_id)
                    waiting.append(consumer.node_id)
            else:
                found.append((consumer.node_id, consumer.input))
    return found


# Inputs that say nothing about what a file is for.
_ANY_FILE = frozenset(
    {"image", "images", "pixels", "samples", "input", "source", "video", "audio", "any", "value", "file", "destination",
     "model_file", "mask"}
)  # fmt: skip
_FARTHEST = 4


def feeds_of(
    graph: Graph, book: Book, consumers: Mapping[str, list[Consumer]], start: str
) -> tuple[str, ...]:
    """The telling names of the inputs that a loaded file reaches, straight or through nodes that only work on it."""
    found: set[str] = set()
    waiting, seen = [(start, 0)], {start}
    while waiting and len(seen) < 60:
        node_id, hops = waiting.pop(0)
        for consumer in consumers.get(node_id, ())[:40]:
            name = consumer.input.rsplit(".", 1)[-1]
            if name.rstrip("0123456789_") not in _ANY_FILE:
                found.add(name)
                continue
            node = node_of(graph, consumer.node_id)
            if node is None or consumer.node_id in seen or hops >= _FARTHEST:
                continue
            if name.rstrip("0123456789_") in _ANY_FILE and book.gives(class_of(node), "IMAGE"):
                seen.add(consumer.node_id)
                waiting.append((consumer.node_id, hops + 1))
    return tuple(sorted(found))


def _meaning_at(graph: Graph, book: Book, node_id: str, name: str) -> Use:
    node = graph[node_id]
    if is_metadata(node, book):
        return Use(name, None, secondary=True)
    spec = book.specs(node).get(name)
    stand_in = read_parameter(node_id, node, name, _example(spec), spec)
    plain, role = meaning(stand_in)
    secondary = plain in SIZED and not sizes_latent(graph, node_id, book)
    return Use(plain, role, secondary)


def _example(spec: InputSpec | None) -> Any:
    """A value of the input's type, for judging what the input means."""
    return {"STRING": "", "FLOAT": 0.0, "BOOLEAN": False, "COMBO": ""}.get(spec.type, 0) if spec else 0


def _agreed(meanings: list[Use], node: Mapping[str, Any]) -> Use | None:
    """One meaning for all uses: the only one that has a role, or the node's own title."""
    if not meanings:
        return None
    telling = [use for use in meanings if use.role] or meanings
    plains = {use.plain for use in telling}
    secondary = all(use.secondary for use in telling)
    if len(plains) == 1:
        plain = telling[0].plain
        if telling[0].role is None and given_title(node) and plain in catalog.MEANINGLESS:
            plain = slug(title_of(node)) or plain
        return Use(plain, telling[0].role, secondary)
    title = given_title(node)
    own = slug(title) if title and title != class_of(node) else ""
    roles = {use.role for use in telling}
    return Use(
        own or "_".join(sorted(plains)[:3]), telling[0].role if len(roles) == 1 else None, secondary=False
    )
