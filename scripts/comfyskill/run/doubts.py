"""What runs, but is probably not what was meant: told as warnings of a run, never a reason to refuse it.

Level 3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from comfyskill.base import key_patterns, safe_text
from comfyskill.editor import outline
from comfyskill.graph import nodes as graph_nodes

# The picture that ComfyUI ships and that workflows name until somebody chooses their own.
SAMPLE_PICTURE = "example.png"
MOST = 5


def sample_pictures(graph: Mapping[str, Any], chosen: Collection[str]) -> list[str]:
    """Picture inputs that are left at ComfyUI's sample. `chosen`: addresses that were set."""
    found = []
    for node_id, node in graph_nodes.each(graph):
        for name, value in graph_nodes.inputs_of(node).items():
            if value == SAMPLE_PICTURE and f"{node_id}.{name}" not in chosen:
                title = safe_text.clean(graph_nodes.title_of(node), 60)
                found.append(
                    f"node {safe_text.name(node_id)} ({safe_text.name(title)}) is left at the sample picture {SAMPLE_PICTURE}; "
                    f"--input-image {safe_text.name(f'{node_id}.{name}')}=FILE gives it yours"
                )
    return found


def after_changes(
    graph: Mapping[str, Any],
    definitions: Mapping[str, Any] | None,
    chosen: Collection[str],
    uploaded: Collection[str] = (),
) -> list[str]:
    """Warnings of the graph check about nodes that were changed: odd sizes, LoRAs that nothing uses, and the like.

    uploaded: addresses that hold a file which was just sent or found on the server; no list of it knows that yet.
    """
    if definitions is None or not chosen:
        return []
    from comfyskill.graph import check

    nodes = {address.partition(".")[0] for address in chosen}
    found = check.findings(graph, definitions, complete=False)
    told = [
        item
        for item in found
        if item.severity == "warning"
        and item.node_id in nodes
        and not (item.code == "file_missing" and f"{item.node_id}.{item.input}" in uploaded)
    ]
    return [safe_text.clean(f"{item.message}; {item.fix}", 300) for item in told[:MOST]]


def saved_keys(graph: Mapping[str, Any], editor: Mapping[str, Any] | None) -> list[str]:
    """Warnings about keys and tokens in what is submitted: ComfyUI saves the workflow in every picture it makes."""
    found: dict[str, None] = {}
    for node_id, node in graph_nodes.each(graph):
        for name, value in graph_nodes.inputs_of(node).items():
            for text in outline.texts_in(graph_nodes.literal(value)):
                kinds = [key.kind for key in key_patterns.keys_in(text)]
                if not kinds and (named := key_patterns.named_key(str(name), text)):
                    kinds = [named.kind]
                found |= dict.fromkeys(
                    f"node {node_id}, input {safe_text.clean(name, 60)}: {kind}" for kind in kinds
                )
        for key in key_patterns.keys_in(graph_nodes.title_of(node)):
            found[f"the title of node {node_id}: {key.kind}"] = None
    for where, text in outline.notes_of(editor):
        found |= dict.fromkeys(
            f"{safe_text.clean(where, 80)}: {key.kind}" for key in key_patterns.keys_in(text)
        )
    return [
        f"what looks like a secret would be saved in the outputs and receipts: {item}; remove it before you share them"
        for item in list(found)[:MOST]
    ]
