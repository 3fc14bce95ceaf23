"""Checking a graph without running it: what the server would reject, and what would run but be wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from comfyskill.base import safe_text
from comfyskill.graph.advice import wisdom
from comfyskill.graph.check_server import node_findings
from comfyskill.graph.facts import outputs_of
from comfyskill.graph.finding import ERROR, INFO, WARNING, Finding, about
from comfyskill.graph.names import nearest
from comfyskill.graph.nodes import (
    Definitions,
    Graph,
    class_of,
    each,
    links_of,
    natural_key,
    node_of,
    upstream_of,
    with_missing_types,
)
from comfyskill.graph.specs import Book

_MOST_SUGGESTED = 3
_MOST_KNOTS = 20
# 0.8.0 took a chain of 600 nodes and gave up on one of 990 (Python's limit on calls inside calls).
_DEEPEST_CHAIN = 900


def findings(
    graph: Graph,
    definitions: Definitions | None,
    *,
    complete: bool = True,
    replacements: Mapping[str, Any] | None = None,
) -> list[Finding]:
    """Everything worth saying about a graph, errors first, then in node order.

    complete: `definitions` hold every class that the server has, so that a class which is not there is unknown to
    it. With a part of them, or with None, such classes are not checked, and a finding says so.
    replacements: the server's `/node_replacements` answer, when it has one.
    """
    book = Book(definitions)
    graph = with_missing_types(graph)
    complete = complete and definitions is not None
    found = list(_structure(graph))
    found += _classes(graph, book, complete, replacements or {})
    outputs = [output.node_id for output in outputs_of(graph, definitions)]
    if not outputs and not any(finding.code == "unknown_class" for finding in found):
        found.append(_no_output(graph, book, complete))
    # A class that the server lacks has the graph rejected anyway; it may be an output, so what it draws from counts.
    unknown = [node_id for node_id, node in each(graph) if complete and not book.knows(class_of(node))]
    live = upstream_of(graph, [*outputs, *unknown])
    for node_id, node in each(graph):
        if node_id in live and book.knows(class_of(node)):
            found += node_findings(graph, book, node_id, node)
        elif node_id in live:
            found += _loose_links(graph, node_id, node)
    tied = _cycles(graph, live)
    found += tied or _too_deep(graph, live)
    found += wisdom(graph, book, live)
    return sorted(found, key=lambda f: (f.rank, natural_key(f.node_id or ""), f.code, f.input or ""))


def rejected(found: list[Finding]) -> bool:
    """Whether a check found an error."""
    return any(finding.severity == ERROR for finding in found)


def _structure(graph: Graph) -> Iterator[Finding]:
    if not graph:
        yield Finding(ERROR, "empty", "the graph has no nodes", "give a workflow with nodes")
    for node_id, node in graph.items():
        if not isinstance(node, Mapping):
            yield Finding(
                ERROR, "not_a_node", f"{safe_text.quoted(node_id)} is not a node object",
                "take it out of the graph", str(node_id),
            )  # fmt: skip
        elif not isinstance(node.get("class_type"), str):
            yield about(
                ERROR, "no_class_type", str(node_id), node, "it has no class_type",
                "give it one, or export the workflow again: the editor leaves it out for nodes that it does not know",
            )  # fmt: skip


def _classes(graph: Graph, book: Book, complete: bool, replacements: Mapping[str, Any]) -> Iterator[Finding]:
    unchecked: dict[str, str] = {}
    known = sorted(book.class_types()) if complete else []
    for node_id, node in each(graph):
        class_type = class_of(node)
        if book.knows(class_type):
            yield from _deprecated(book, node_id, node, replacements)
        elif complete:
            near = nearest(class_type, known, _MOST_SUGGESTED)
            fix = "install the node pack that brings it (check_deps.py names it)"
            new = _replacement(class_type, replacements)
            if new:
                fix = f"replace it with {safe_text.quoted(new)}"
            elif near:
                fix += f", or use {safe_text.quoted_list(near)}"
            message = f"the server has no class {safe_text.quoted(class_type)}"
            yield about(ERROR, "unknown_class", node_id, node, message, fix, nearest=[new] if new else near)
        else:
            unchecked.setdefault(class_type, node_id)
    if unchecked:
        names = safe_text.quoted_list(sorted(unchecked), 8)
        yield Finding(
            INFO, "not_checked", f"without their definitions these classes were not checked: {names}",
            "give --host, or --object-info with definitions saved from the server",
        )  # fmt: skip


def _deprecated(
    book: Book, node_id: str, node: Mapping[str, Any], replacements: Mapping[str, Any]
) -> Iterator[Finding]:
    class_type = class_of(node)
    new = _replacement(class_type, replacements)
    if new or book.flag(class_type, "deprecated"):
        fix = (
            f"replace it with {safe_text.quoted(new)}"
            if new
            else "use the node that its description or the editor proposes"
        )
        yield about(
            WARNING,
            "deprecated",
            node_id,
            node,
            f"the class {safe_text.quoted(class_type)} is deprecated",
            fix,
        )


def _replacement(class_type: str, replacements: Mapping[str, Any]) -> str | None:
    """The new class that `/node_replacements` names for an old one; its value is a mapping or a list of them."""
    entry = replacements.get(class_type)
    for candidate in entry if isinstance(entry, list) else [entry]:
        if isinstance(candidate, str):
            return candidate
        if isinstance(candidate, Mapping):
            for key in ("new_node_id", "new_class", "replacement"):
                if isinstance(candidate.get(key), str):
                    return str(candidate[key])
    return None


def _no_output(graph: Graph, book: Book, complete: bool) -> Finding:
    unknown = not complete and any(not book.knows(class_of(node)) for _, node in each(graph))
    return Finding(
        WARNING if unknown else ERROR,
        "no_output",
        "no output node was found" if unknown else "the graph has no output node, so there is nothing to run",
        "add SaveImage, PreviewImage or another output node and link it to the result",
    )


def _loose_links(graph: Graph, node_id: str, node: Mapping[str, Any]) -> Iterator[Finding]:
    """Links to nodes that are not there, in a node whose class cannot be checked."""
    for name, link in links_of(node):
        if node_of(graph, link.node_id) is None:
            # The server looks at declared inputs only, and which these are is not known.
            yield about(
                WARNING, "link_to_nowhere", node_id, node,
                f"{safe_text.quoted(name)} is linked to node {safe_text.quoted(link.node_id)}, which is not in the graph",
                "link it to a node that is there", name,
            )  # fmt: skip


def _cycles(graph: Graph, live: set[str]) -> list[Finding]:
    """One finding for each knot of nodes that draw from each other."""
    found = []
    for knot in knots(graph, live):
        ids = [safe_text.name(node_id) for node_id in knot]
        shown = " → ".join(ids[:6]) + (" → …" if len(ids) > 6 else f" → {ids[0]}")
        node = node_of(graph, knot[0])
        if node is not None:
            found.append(
                about(
                    ERROR, "cycle", knot[0], node, f"it draws from itself: {shown}",
                    "cut one of these links: a graph must run from loaders to outputs",
                )
            )  # fmt: skip
    return found


def _too_deep(graph: Graph, live: set[str]) -> list[Finding]:
    """A graph without cycles whose longest chain is more than the server's own check can follow."""
    depth: dict[str, int] = {}
    entered: set[str] = set()
    for start in live:
        trail = [start]
        while trail:
            node_id = trail[-1]
            if node_id in depth:
                trail.pop()
            elif node_id in entered:
                below = [depth.get(source, 0) for source in _sources(graph, node_id, live)]
                depth[node_id] = 1 + max(below, default=0)
                trail.pop()
            else:
                entered.add(node_id)
                trail.extend(source for source in _sources(graph, node_id, live) if source not in entered)
    longest = max(depth.values(), default=0)
    if longest <= _DEEPEST_CHAIN:
        return []
    return [
        Finding(
            WARNING, "too_deep", f"{longest} nodes hang one behind the other; the server checks them one inside the other "
            "and gives up somewhat below 1000", "do it in several runs",
        )
    ]  # fmt: skip


def knots(graph: Graph, within: set[str]) -> list[list[str]]:
    """Cycles among these nodes, each as the node ids along it; at most one through any node."""
    state: dict[str, int] = {}  # 1: on the path, 2: done
    found: list[list[str]] = []
    for start in sorted(within, key=natural_key):
        if start in state:
            continue
        state[start] = 1
        path = [start]
        trail = [_sources(graph, start, within)]
        while trail:
            source = next(trail[-1], None)
            if source is None:
                trail.pop()
                state[path.pop()] = 2
            elif state.get(source) == 1:
                if len(found) < _MOST_KNOTS and not any(source in knot for knot in found):
                    found.append(path[path.index(source) :])
            elif source not in state:
                state[source] = 1
                path.append(source)
                trail.append(_sources(graph, source, within))
    return found


def _sources(graph: Graph, node_id: str, within: set[str]) -> Iterator[str]:
    node = node_of(graph, node_id)
    if node is not None:
        for _, link in links_of(node):
            if link.node_id in within:
                yield link.node_id
