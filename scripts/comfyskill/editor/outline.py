"""What an editor file shows without a conversion: its nodes, its notes, a rough graph. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from comfyskill.base import file_names, foreign
from comfyskill.editor.read import BYPASSED, EDITOR_ONLY, MUTED, subgraphs_of

NOTE_TYPES = re.compile(r"(?i)note|label|markdown|comment|readme")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

RoughGraph = dict[str, dict[str, Any]]


def graphs_of(editor: Mapping[str, object] | None) -> Iterator[Mapping[str, Any]]:
    """The top graph and every subgraph definition."""
    if isinstance(editor, Mapping):
        yield editor
        yield from subgraphs_of(editor)


def nodes_of(editor: Mapping[str, object] | None) -> Iterator[Mapping[str, Any]]:
    """The saved nodes of the top graph and of every subgraph definition."""
    for graph in graphs_of(editor):
        yield from foreign.mappings(graph.get("nodes"))


def texts_in(value: object) -> Iterator[str]:
    """Every text in a saved value, however deep."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            waiting += reversed(list(one.values()))
        elif isinstance(one, list):
            waiting += reversed(one)


def notes_of(editor: Mapping[str, object] | None) -> list[tuple[str, str]]:
    """The free text of notes and group titles, as (where, text)."""
    found = []
    for node in nodes_of(editor):
        kind = foreign.text(node.get("type"))
        if NOTE_TYPES.search(kind):
            text = "\n".join(texts_in(node.get("widgets_values")))
            if text.strip():
                found.append((f"node {node.get('id')} ({kind})", text))
    for graph in graphs_of(editor):
        titles = [foreign.text(group.get("title")) for group in foreign.mappings(graph.get("groups"))]
        found += [("a group's title", title) for title in titles if title.strip()]
    return found


def rough_graph(editor: Mapping[str, object], *, everything: bool = False) -> RoughGraph:
    """Classes and file names of a file that cannot be converted; inputs are called `widget N`.

    Muted and bypassed nodes, notes and subgraph instances are left out. `everything`: with all texts, and with nodes
    that are switched off, for security checks.
    """
    graph: RoughGraph = {}
    for number, node in enumerate(nodes_of(editor)):
        if not _runs_on_server(node) or (_is_off(node) and not everything):
            continue
        texts = texts_in(node.get("widgets_values"))
        names = [text for text in texts if everything or _names_model(text) or "embedding:" in text]
        name = str(node.get("id", number)) if str(node.get("id")) not in graph else f"n{number}"
        graph[name] = _rough_node(node, names)
    return graph


def switched_off(editor: Mapping[str, object] | None) -> RoughGraph:
    """Nodes that are muted, bypassed or in an unused subgraph, as a rough graph: one click switches them on."""
    graph: RoughGraph = {}
    used = _used_subgraphs(editor)
    for group in graphs_of(editor):
        unused = group is not editor and group.get("id") not in used
        for number, node in enumerate(foreign.mappings(group.get("nodes"))):
            if not _runs_on_server(node) or not (unused or _is_off(node)):
                continue
            name = f"{node.get('id', number)} (switched off)"
            name = name if name not in graph else f"{name} {len(graph)}"
            graph[name] = _rough_node(node, list(texts_in(node.get("widgets_values"))))
    return graph


def _rough_node(node: Mapping[str, object], texts: list[str]) -> dict[str, Any]:
    inputs = {f"widget {index}": text for index, text in enumerate(texts)}
    return {"class_type": node["type"], "inputs": inputs}


def _used_subgraphs(editor: Mapping[str, object] | None) -> set[str]:
    """The ids of the subgraph definitions that switched-on nodes use, directly or through others."""
    groups = {str(graph.get("id")): graph for graph in graphs_of(editor) if isinstance(graph.get("id"), str)}
    used: set[str] = set()
    waiting = [editor] if isinstance(editor, Mapping) else []
    while waiting:
        for node in foreign.mappings(waiting.pop().get("nodes")):
            kind = foreign.text(node.get("type"))
            if kind in groups and kind not in used and not _is_off(node):
                used.add(kind)
                waiting.append(groups[kind])
    return used


def _is_off(node: Mapping[str, object]) -> bool:
    return node.get("mode") in (MUTED, BYPASSED)


def _runs_on_server(node: Mapping[str, object]) -> bool:
    """Whether a saved node has a class of the server; subgraph instances have the definition's UUID as type."""
    from comfyskill.editor import pack_rules

    kind = node.get("type")
    return (
        isinstance(kind, str)
        and kind not in EDITOR_ONLY
        and not pack_rules.virtual_kind(kind)
        and not _UUID.fullmatch(kind)
    )


def _names_model(text: str) -> bool:
    return len(text) < 300 and "\n" not in text and text.lower().endswith(tuple(file_names.MODEL_SUFFIXES))
