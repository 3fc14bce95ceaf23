"""What can be read off an editor file without converting it: its nodes, its notes, a rough graph. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from comfyskill.base import file_names, foreign
from comfyskill.editor import pack_rules

MUTED, BYPASSED = 2, 4
# Core node types that exist only in the editor.
_VIRTUAL = frozenset({"Note", "MarkdownNote", "Reroute", "PrimitiveNode"})
NOTE_TYPES = re.compile(r"(?i)note|label|markdown|comment|readme")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def groups_of(editor: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The top graph and every subgraph definition."""
    if not isinstance(editor, Mapping):
        return
    yield editor
    definitions = editor.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, Mapping) else None
    for group in foreign.items(subgraphs):
        if isinstance(group, Mapping):
            yield group


def nodes_of(editor: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The saved nodes of the top graph and of every subgraph definition."""
    for group in groups_of(editor):
        yield from _nodes_in(group)


def _nodes_in(group: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    nodes = group.get("nodes")
    for node in foreign.items(nodes):
        if isinstance(node, Mapping):
            yield node


def texts_in(value: Any) -> Iterator[str]:
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


def notes_of(editor: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The free text of notes and group titles, as (where, text)."""
    found = []
    for node in nodes_of(editor):
        kind = node.get("type")
        if isinstance(kind, str) and NOTE_TYPES.search(kind):
            text = "\n".join(texts_in(node.get("widgets_values")))
            if text.strip():
                found.append((f"node {node.get('id')} ({kind})", text))
    for group in groups_of(editor):
        boxes = group.get("groups")
        for box in foreign.items(boxes):
            title = box.get("title") if isinstance(box, Mapping) else None
            if isinstance(title, str) and title.strip():
                found.append(("a group's title", title))
    return found


def rough_graph(editor: Mapping[str, Any], *, everything: bool = False) -> dict[str, dict[str, Any]]:
    """Classes and file names of an editor file that could not be converted: right about what is named, not about inputs.

    Muted and bypassed nodes, notes and subgraph instances are left out; inputs are called `widget N`. `everything`:
    with all texts and with nodes that are switched off, for security checks.
    """
    graph: dict[str, dict[str, Any]] = {}
    for number, node in enumerate(nodes_of(editor)):
        kind = node.get("type")
        if not isinstance(kind, str) or _is_virtual(kind) or _UUID.fullmatch(kind):
            continue
        if node.get("mode") in (MUTED, BYPASSED) and not everything:
            continue
        texts = texts_in(node.get("widgets_values"))
        names = [text for text in texts if everything or _names_model(text) or "embedding:" in text]
        inputs = {f"widget {index}": text for index, text in enumerate(names)}
        graph[f"{node.get('id', number)}" if str(node.get("id")) not in graph else f"n{number}"] = {
            "class_type": kind,
            "inputs": inputs,
        }
    return graph


def switched_off(editor: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The nodes that are muted, bypassed or in a subgraph that nothing uses, as a rough graph: one click brings them back."""
    graph: dict[str, dict[str, Any]] = {}
    used = _used_subgraphs(editor)
    for group in groups_of(editor):
        unused = group is not editor and group.get("id") not in used
        for number, node in enumerate(_nodes_in(group)):
            kind = node.get("type")
            off = unused or node.get("mode") in (MUTED, BYPASSED)
            if not off or not isinstance(kind, str) or _UUID.fullmatch(kind) or _is_virtual(kind):
                continue
            texts = list(texts_in(node.get("widgets_values")))
            inputs = {f"widget {index}": text for index, text in enumerate(texts)}
            name = f"{node.get('id', number)} (switched off)"
            name = name if name not in graph else f"{name} {len(graph)}"
            graph[name] = {"class_type": kind, "inputs": inputs}
    return graph


def _used_subgraphs(editor: Mapping[str, Any] | None) -> set[Any]:
    """The ids of the subgraph definitions that nodes which are switched on stand for, directly or through others."""
    groups = {group.get("id"): group for group in groups_of(editor) if isinstance(group.get("id"), str)}
    used: set[Any] = set()
    waiting = [editor] if isinstance(editor, Mapping) else []
    while waiting:
        for node in _nodes_in(waiting.pop()):
            kind = node.get("type")
            if not isinstance(kind, str) or kind not in groups or kind in used:
                continue
            if node.get("mode") not in (MUTED, BYPASSED):
                used.add(kind)
                waiting.append(groups[kind])
    return used


def _is_virtual(kind: str) -> bool:
    return kind in _VIRTUAL or bool(pack_rules.virtual_kind(kind))


def _names_model(text: str) -> bool:
    return len(text) < 300 and "\n" not in text and text.lower().endswith(tuple(file_names.MODEL_SUFFIXES))
