"""Node classes that a server has replaced by others, renamed in a graph before it is sent. Pure.

A server of 0.33 renames such classes itself before it checks a graph, by the table that it answers at /node_replacements.
It fails with HTTP 500 when an input that the table maps is absent, and drops every input where the table maps none, so
the renaming is done here and keeps what the new class declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from comfyskill.base import foreign
from comfyskill.graph.nodes import Definitions, Graph, Inputs, class_of, each, inputs_of, link_of
from comfyskill.graph.specs import Book

# The answer of /node_replacements: the replacements of each old class, the one that the server uses first.
ReplacementTable = Mapping[str, object]


class Renamed(NamedTuple):
    """One node whose class was replaced. lost: the names of inputs that the new class has no place for."""

    node_id: str
    old: str
    new: str
    lost: tuple[str, ...] = ()


class Replaced(NamedTuple):
    """A graph in which replaced classes have their new names, and the nodes that were renamed."""

    graph: Graph
    renamed: list[Renamed]


def replaced(graph: Graph, table: ReplacementTable, definitions: Definitions | None) -> Replaced:
    """The graph as the server should run it: its classes that the server lacks renamed by the table, links adjusted.

    Without definitions nothing is renamed, because only they show which classes the server lacks. The argument stays as
    it was; an unchanged graph comes back as it is.
    """
    book = Book(definitions)
    made: dict[str, Any] = {}
    renamed: list[Renamed] = []
    slots: dict[str, Mapping[int, int]] = {}
    for node_id, node in each(graph):
        entry = _entry(class_of(node), table, book)
        if entry is None:
            continue
        new = foreign.text(entry.get("new_node_id"))
        inputs = _mapped(inputs_of(node), entry, new, book)
        moved = _moved_names(inputs_of(node), entry)
        lost = tuple(name for name in inputs_of(node) if name not in moved and name not in inputs)
        made[node_id] = {**node, "class_type": new, "inputs": inputs}
        renamed.append(Renamed(node_id, class_of(node), new, lost))
        slots[node_id] = _slots(entry)
    if not renamed:
        return Replaced(graph, [])
    changed = {**graph, **made}
    for node_id, node in each(changed):
        relinked = _relinked(inputs_of(node), slots)
        if relinked is not None:
            changed[node_id] = {**node, "inputs": relinked}
    return Replaced(changed, renamed)


def new_class(class_type: str, table: ReplacementTable) -> str | None:
    """The class that the table names for an old one, or None."""
    return next((foreign.text(entry["new_node_id"]) for entry in _entries(class_type, table)), None)


def _entries(class_type: str, table: ReplacementTable) -> list[Mapping[str, Any]]:
    found = table.get(class_type)
    entries = found if isinstance(found, list) else [found]
    return [entry for entry in foreign.mappings(entries) if foreign.text(entry.get("new_node_id"))]


def _entry(class_type: str, table: ReplacementTable, book: Book) -> Mapping[str, Any] | None:
    """The first replacement of a class that the server lacks, when the server has the new class."""
    if book.knows(class_type):
        return None
    entry = next(iter(_entries(class_type, table)), None)
    return entry if entry is not None and book.knows(entry["new_node_id"]) else None


def _mapped(inputs: Inputs, entry: Mapping[str, Any], new: str, book: Book) -> dict[str, object]:
    """The new node's inputs: what the table maps or sets, and every old input that the new class declares too."""
    mapped: dict[str, object] = {}
    for rule in foreign.mappings(entry.get("input_mapping")):
        name, old = foreign.text(rule.get("new_id")), foreign.text(rule.get("old_id"))
        if name and "set_value" in rule:
            mapped[name] = rule["set_value"]
        elif name and old in inputs:
            mapped[name] = inputs[old]
    rest = inputs.keys() - _moved_names(inputs, entry) - mapped.keys()
    unmapped = {name: value for name, value in inputs.items() if name in rest}
    declared = book.specs({"class_type": new, "inputs": {**unmapped, **mapped}})
    return {name: value for name, value in unmapped.items() if name in declared} | mapped


def _moved_names(inputs: Inputs, entry: Mapping[str, Any]) -> set[str]:
    """The old inputs that the table moves to another name."""
    old = {foreign.text(rule.get("old_id")) for rule in foreign.mappings(entry.get("input_mapping"))}
    return old & set(inputs)


def _slots(entry: Mapping[str, Any]) -> dict[int, int]:
    """The new number of each output slot that the table moves."""
    moved = {}
    for rule in foreign.mappings(entry.get("output_mapping")):
        old, new = foreign.whole(rule.get("old_idx")), foreign.whole(rule.get("new_idx"))
        if old is not None and new is not None and old != new:
            moved[old] = new
    return moved


def _relinked(inputs: Inputs, slots: Mapping[str, Mapping[int, int]]) -> dict[str, object] | None:
    """The inputs with the links to moved outputs adjusted, or None when there are none."""
    moved = {}
    for name, value in inputs.items():
        link = link_of(value)
        if link is not None and link.slot in slots.get(link.node_id, {}):
            moved[name] = [link.node_id, slots[link.node_id][link.slot]]
    return {**inputs, **moved} if moved else None
