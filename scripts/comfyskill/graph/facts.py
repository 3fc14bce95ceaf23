"""API-format graphs: unwrapping them, and the facts that can be read off them. Pure: no network, no disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from comfyskill.base import file_names, foreign
from comfyskill.graph import catalog, nodes
from comfyskill.graph.nodes import (
    Definitions,
    Graph,
    class_of,
    each,
    inputs_of,
    link_of,
    links_of,
    literal,
    natural_key,
    node_of,
    title_of,
    upstream_of,
)
from comfyskill.graph.specs import Book


class OutputNode(NamedTuple):
    """A node whose result the server keeps. preview: the result goes to the temporary folder or is only shown."""

    node_id: str
    class_type: str
    title: str
    preview: bool


def outputs_of(graph: Graph, definitions: Definitions | None = None) -> list[OutputNode]:
    """The output nodes, in id order. A class without a definition is judged by the catalog and its name."""
    book = Book(definitions)
    found = []
    for node_id, node in each(graph):
        class_type = class_of(node)
        flag = book.flag(class_type, "output_node")
        if flag is None:
            flag = class_type in catalog.OUTPUT_CLASSES
            if not flag and re.match(r"(?i)(save|preview)", class_type):
                flag = any(True for _ in links_of(node))
        if flag:
            preview = class_type in catalog.PREVIEW_CLASSES
            found.append(OutputNode(node_id, class_type, title_of(node), preview))
    return sorted(found, key=lambda node: natural_key(node.node_id))


def live_ids(graph: Graph, definitions: Definitions | None = None) -> set[str]:
    """The ids of the nodes that an output node depends on: what a run can execute."""
    return upstream_of(graph, [node.node_id for node in outputs_of(graph, definitions)])


def partner_nodes(graph: Graph, definitions: Definitions | None = None) -> list[str]:
    """The ids of nodes that call a paid partner service: by the definition's flag `api_node`, by its category where it
    has no such flag, and by the class name where there is no definition.
    """
    book = Book(definitions)
    found = []
    for node_id, node in each(graph):
        class_type = class_of(node)
        definition = book.definition(class_type)
        if definition is not None:
            category = str(definition.get("category") or "")
            flag = bool(definition.get("api_node", category.startswith(catalog.PARTNER_CATEGORIES)))
        else:
            named = class_type.startswith(catalog.PARTNER_CLASS_STARTS) or class_type.endswith(
                catalog.PARTNER_CLASS_ENDS
            )
            flag = class_type in catalog.PARTNER_CLASSES or (
                named and class_type not in catalog.NOT_PARTNER_CLASSES
            )
        if flag:
            found.append(node_id)
    return sorted(found, key=natural_key)


def is_video(graph: Graph, definitions: Definitions | None = None) -> bool:
    """Whether the graph makes a video: it ends in a video file, or a node in it gives one."""
    book = Book(definitions)
    for _, node in each(graph):
        class_type = class_of(node)
        if class_type in catalog.VIDEO_OUTPUTS:
            return True
        if book.gives(class_type, "VIDEO") and class_type not in ("LoadVideo", "VHS_LoadVideo"):
            return True
    return False


class ModelUse(NamedTuple):
    """A model file that an input names. folder: the server's model folder, None when it is not known."""

    node_id: str
    input: str
    class_type: str
    name: str
    folder: str | None


def model_folder(class_type: str, name: str) -> str | None:
    """The model folder that an input chooses from, by the catalog; None when it is not a model input."""
    by_class = catalog.MODEL_FOLDERS_BY_CLASS.get((class_type, name))
    if by_class:
        return by_class
    if re.fullmatch(r"lora_\d+(_name)?|lora_name_\d+", name):
        return "loras"
    return catalog.MODEL_FOLDERS.get(name)


def _model_named(class_type: str, name: str, raw: object) -> tuple[str, str | None] | None:
    """The (file, folder) that an input names, or None when it names no model."""
    value = literal(raw)
    folder = model_folder(class_type, name)
    # rgthree's Power Lora Loader keeps {"on", "lora", "strength"} in inputs lora_1, lora_2, ...
    if isinstance(value, Mapping) and isinstance(value.get("lora"), str):
        value, folder = value["lora"] if value.get("on", True) else "", "loras"
    if not isinstance(value, str) or value in catalog.NOT_A_FILE:
        return None
    if folder:
        return value, folder
    if (class_type, name) in catalog.UPLOADS or "\n" in value or len(value) > 300:
        return None
    return (value, None) if value.lower().endswith(tuple(file_names.MODEL_SUFFIXES)) else None


def models_in(graph: Graph) -> list[ModelUse]:
    """The model files that the graph names, in node order, each use once."""
    found = []
    for node_id, node in each(graph):
        class_type = class_of(node)
        for name, raw in inputs_of(node).items():
            model = _model_named(class_type, name, raw)
            if model is not None:
                found.append(ModelUse(node_id, name, class_type, *model))
    return sorted(found, key=lambda use: (natural_key(use.node_id), use.input))


class EmbeddingUse(NamedTuple):
    """A textual-inversion embedding that a prompt names as `embedding:NAME`.

    written: the word as written, where ComfyUI does not read it as that name and leaves it out; else empty.
    """

    node_id: str
    input: str
    name: str
    written: str = ""


_ENDS = "()[]{}|<>\"'"
_EMBEDDING = re.compile(rf"embedding:([^\s{re.escape(_ENDS)}]+)")


def embeddings_in(graph: Graph) -> list[EmbeddingUse]:
    """The embeddings that texts in the graph name; a weight as in `(embedding:x:1.2)` is not part of the name."""
    found = []
    for node_id, node in each(graph):
        for name, raw in inputs_of(node).items():
            value = literal(raw)
            if not isinstance(value, str) or "embedding:" not in value:
                continue
            found += [EmbeddingUse(node_id, name, *words) for words in _embeddings(value)]
    return sorted(set(found), key=lambda use: (natural_key(use.node_id), use.input, use.name))


def _embeddings(text: str) -> Iterator[tuple[str, str]]:
    """Each embedding that a text means, and how it is written where ComfyUI does not read it so.

    The tokenizer needs a blank or a bracket before `embedding:`, takes all up to the next blank for the name, and drops
    commas at its ends; a weight is only one inside of brackets (comfy/sd1_clip.py).
    """
    for match in _EMBEDDING.finditer(text):
        word, before = match[1], text[max(0, match.start() - 2) : match.start()]
        if text.startswith(")", match.end()) and not word.endswith("\\"):
            word = re.sub(r":[\d.]*$", "", word)
        name = re.sub(r":[\d.]*$", "", re.split("[,;]", word.strip(",\\"))[0]).rstrip(".:")
        if not name:
            continue
        apart = not before or before[-1].isspace() or (before[-1] in _ENDS and before[0] != "\\")
        read = apart and word.strip(",") == name
        yield name, "" if read else f"{'' if apart else before[-1]}embedding:{word}"


def sampling_steps(graph: Graph, definitions: Definitions | None = None) -> int:
    """How many denoising steps a run will take in all: the `steps` of samplers and of schedulers that are used.

    A KSamplerAdvanced counts from start_at_step to end_at_step. Steps that come through a link from a plain
    value node are counted too; others are unknown and count as 0.
    """
    live = live_ids(graph, definitions) or {node_id for node_id, _ in each(graph)}
    total = 0
    for node_id, node in each(graph):
        if node_id not in live:
            continue
        inputs = inputs_of(node)
        steps = _number(graph, inputs.get("steps"))
        if steps is None:
            continue
        start = _number(graph, inputs.get("start_at_step")) or 0
        end = _number(graph, inputs.get("end_at_step"))
        last = steps if end is None else min(steps, end)
        total += max(0, int(last - start))
    return total


def _number(graph: Graph, value: object) -> int | float | None:
    for _ in range(20):
        link = link_of(value)
        if link is None:
            number = foreign.number(literal(value))
            return number if number is not None and abs(number) < 1e9 else None
        node = node_of(graph, link.node_id)
        if node is None:
            return None
        inputs = inputs_of(node)
        value = inputs.get("value") if "value" in inputs else next(iter(inputs.values()), None)
    return None


def seeds_of(graph: Mapping[str, Any]) -> dict[str, int]:
    """Every seed that the graph holds, by address."""
    return {
        f"{node_id}.{name}": value
        for node_id, node in nodes.each(graph)
        for name, value in nodes.inputs_of(node).items()
        if name in catalog.SEED_INPUTS and isinstance(value, int) and not isinstance(value, bool)
    }
