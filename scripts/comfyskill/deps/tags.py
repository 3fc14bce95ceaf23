"""`<lora:NAME:0.8>` tags in prompt texts: who reads them, if anybody does. Pure, level 1.

ComfyUI itself does not know such tags; its text encoders take them for words (comfy/sd1_clip.py splits off weights and
embeddings, nothing else). Some packs have nodes that cut them out of a text and load the LoRAs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from comfyskill.deps import catalog
from comfyskill.deps.need import Use
from comfyskill.graph.nodes import class_of, consumers_of, each, inputs_of, literal, title_of

# A tag has a name without the characters that end one, then up to a few weights.
_TAG = re.compile(r"<lora:([^<>:\r\n]{1,200})(?::([^<>\r\n]{0,80}))?>", re.IGNORECASE)
_CORE = ("nodes", "comfy_extras.")
NOBODY = ""
FARTHEST = 8


class Tag(NamedTuple):
    """One tag. reader: the class that reads it; NOBODY when only core nodes see it; None when that is not known."""

    name: str
    weights: str
    use: Use
    reader: str | None


def tags_in(graph: Mapping[str, Any], definitions: Mapping[str, Any] | None) -> list[Tag]:
    """The tags of a graph's texts, each once for a place."""
    found: dict[tuple[str, str], Tag] = {}
    for node_id, node in each(graph):
        for name, raw in inputs_of(node).items():
            text = literal(raw)
            if not isinstance(text, str) or "<lora:" not in text.lower():
                continue
            use = Use(node_id, name, class_of(node), title_of(node), plain=False)
            reader = _reader(graph, node_id, definitions)
            for match in _TAG.finditer(text):
                tag = Tag(match[1].strip(), (match[2] or "").strip(), use, reader)
                found.setdefault((use.address, tag.name), tag)
    return [tag for tag in found.values() if tag.name]


def _reader(graph: Mapping[str, Any], start: str, definitions: Mapping[str, Any] | None) -> str | None:
    """Which class reads the tags of a node's text: the node itself, or one that its text is handed on to."""
    consumers = consumers_of(graph)
    waiting, seen, unclear = [start], {start}, False
    for _ in range(FARTHEST):
        following: list[str] = []
        for node_id in waiting:
            class_type = class_of(graph[node_id])
            if class_type in catalog.LORA_TAG_READERS:
                return class_type
            hands_on = _hands_text_on(class_type, definitions)
            unclear = unclear or hands_on is None
            if hands_on is not False:
                following += [use.node_id for use in consumers.get(node_id, []) if use.node_id not in seen]
        waiting = [node_id for node_id in dict.fromkeys(following) if node_id in graph]
        seen.update(waiting)
        if not waiting:
            break
    return None if unclear else NOBODY


def _hands_text_on(class_type: str, definitions: Mapping[str, Any] | None) -> bool | None:
    """Whether a core class gives its text to others as text; None for a class of which only its pack knows."""
    definition = (definitions or {}).get(class_type)
    if not isinstance(definition, Mapping):
        return False if class_type.startswith("CLIPTextEncode") else None
    if not str(definition.get("python_module") or "").startswith(_CORE):
        return None
    outputs = definition.get("output")
    return "STRING" in outputs if isinstance(outputs, list) else False
