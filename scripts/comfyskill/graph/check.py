"""Checking a graph without running it: what the server would reject, and what would run but be wrong. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from comfyskill.base import safe_text
from comfyskill.base.safe_text import name as short_name
from comfyskill.base.safe_text import quoted, quoted_list
from comfyskill.graph import catalog
from comfyskill.graph.advice import wisdom
from comfyskill.graph.facts import outputs_of
from comfyskill.graph.finding import ERROR, INFO, WARNING, Finding, about, called
from comfyskill.graph.nearest import choices_to_show, is_model_file, meant, nearest, nearest_choices
from comfyskill.graph.nodes import (
    Definitions,
    Graph,
    Node,
    class_of,
    each,
    inputs_of,
    links_of,
    literal,
    natural_key,
    node_of,
    upstream_of,
    with_missing_types,
)
from comfyskill.graph.replacements import ReplacementTable, new_class
from comfyskill.graph.specs import DYNAMIC_COMBO, MATCH_TYPE, Book, InputSpec

_MOST_SUGGESTED = 3
_MOST_KNOTS = 20
# 0.8.0 accepted a chain of 600 nodes and failed on one of 990 (Python's recursion limit).
_DEEPEST_CHAIN = 900


def findings(
    graph: Graph,
    definitions: Definitions | None,
    *,
    complete: bool = True,
    replacements: ReplacementTable | None = None,
) -> list[Finding]:
    """All findings about a graph, errors first, then in node order.

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
                "remove it from the graph", str(node_id),
            )  # fmt: skip
        elif not isinstance(node.get("class_type"), str):
            yield about(
                ERROR, "no_class_type", str(node_id), node, "it has no class_type",
                "give it one, or export the workflow again: the editor omits it for nodes that it does not know",
            )  # fmt: skip


def _classes(graph: Graph, book: Book, complete: bool, replacements: ReplacementTable) -> Iterator[Finding]:
    unchecked: dict[str, str] = {}
    known = sorted(book.class_types()) if complete else []
    for node_id, node in each(graph):
        class_type = class_of(node)
        if book.knows(class_type):
            yield from _deprecated(book, node_id, node, replacements)
        elif complete:
            near = nearest(class_type, known, _MOST_SUGGESTED)
            fix = "install the node pack that brings it (check_deps.py names it)"
            new = new_class(class_type, replacements)
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
            INFO, "not_checked", f"classes not checked, because their definitions are missing: {names}",
            "pass --host, or --object-info with definitions saved from the server",
        )  # fmt: skip


def _deprecated(book: Book, node_id: str, node: Node, replacements: ReplacementTable) -> Iterator[Finding]:
    class_type = class_of(node)
    new = new_class(class_type, replacements)
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


def _no_output(graph: Graph, book: Book, complete: bool) -> Finding:
    unknown = not complete and any(not book.knows(class_of(node)) for _, node in each(graph))
    return Finding(
        WARNING if unknown else ERROR,
        "no_output",
        "no output node was found" if unknown else "the graph has no output node, so there is nothing to run",
        "add SaveImage, PreviewImage or another output node and link it to the result",
    )


def _loose_links(graph: Graph, node_id: str, node: Node) -> Iterator[Finding]:
    """Links to missing nodes, in a node whose class cannot be checked."""
    for name, link in links_of(node):
        if node_of(graph, link.node_id) is None:
            # The server checks declared inputs only, and this class's inputs are unknown.
            yield about(
                WARNING, "link_to_nowhere", node_id, node,
                f"{safe_text.quoted(name)} is linked to node {safe_text.quoted(link.node_id)}, which is not in the graph",
                "link it to a node in the graph", name,
            )  # fmt: skip


def _cycles(graph: Graph, live: set[str]) -> list[Finding]:
    """One finding for each group of nodes that depend on each other."""
    found = []
    for cycle in cycles(graph, live):
        ids = [safe_text.name(node_id) for node_id in cycle]
        shown = " → ".join(ids[:6]) + (" → …" if len(ids) > 6 else f" → {ids[0]}")
        node = node_of(graph, cycle[0])
        if node is not None:
            found.append(
                about(
                    ERROR, "cycle", cycle[0], node, f"its links form a cycle: {shown}",
                    "cut one of these links: a graph must run from loaders to outputs",
                )
            )  # fmt: skip
    return found


def _too_deep(graph: Graph, live: set[str]) -> list[Finding]:
    """A graph without cycles whose longest chain is longer than the server's own check can follow."""
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
            WARNING, "too_deep", f"{longest} nodes form one chain; the server's recursive check fails somewhat below 1000",
            "split it into several runs",
        )
    ]  # fmt: skip


def cycles(graph: Graph, within: set[str]) -> list[list[str]]:
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


def node_findings(graph: Graph, book: Book, node_id: str, node: Node) -> Iterator[Finding]:
    """What is wrong with the inputs of one node of a known class."""
    if not isinstance(node.get("inputs"), Mapping):
        yield about(ERROR, "no_inputs", node_id, node, "it has no inputs object", 'give it "inputs": {}')
        return
    inputs = inputs_of(node)
    class_type = class_of(node)
    specs = book.specs(node)
    for name, spec in specs.items():
        if name not in inputs:
            yield from _missing(node_id, node, name, spec)
        elif isinstance(inputs[name], list | tuple):
            yield from _link(graph, book, node_id, node, name, spec)
        elif (class_type, name) not in catalog.UNCHECKED_INPUTS:
            yield from _value(node_id, node, name, spec, literal(inputs[name]))


def _missing(node_id: str, node: Node, name: str, spec: InputSpec) -> Iterator[Finding]:
    if not spec.required:
        return
    if spec.type == DYNAMIC_COMBO:
        yield about(
            WARNING, "required_input_missing", node_id, node,
            f"the choice {quoted(name)} is missing; the server accepts the graph, but the run fails",
            f"set {_place(node_id, name)} to one of: {_listed(spec)}", name,
        )  # fmt: skip
        return
    if spec.is_widget:
        default = spec.options.get("default")
        fix = f"set {_place(node_id, name)}" + (
            f" (default: {_short(default)})" if default is not None else ""
        )
    else:
        fix = f"link {quoted(name)} to a node that gives {_type_name(spec.type)}"
    yield about(
        ERROR,
        "required_input_missing",
        node_id,
        node,
        f"the required input {quoted(name)} is missing",
        fix,
        name,
    )


def _listed(spec: InputSpec) -> str:
    return quoted_list(spec.choices or (), 12)


def _place(node_id: str, name: str) -> str:
    return short_name(f"{node_id}.{name}")


def _link(
    graph: Graph, book: Book, node_id: str, node: Node, name: str, spec: InputSpec
) -> Iterator[Finding]:
    value = inputs_of(node)[name]

    def wrong(code: str, message: str, fix: str) -> Finding:
        return about(ERROR, code, node_id, node, message, fix, name)

    if len(value) != 2:
        yield wrong(
            "bad_link",
            f"{quoted(name)} is a list of {len(value)}; a list must be a link [node id, slot]",
            'write a list value as {"__value__": [...]}',
        )
        return
    source_id, slot = value
    source = node_of(graph, source_id) if isinstance(source_id, str) else None
    if source is None:
        if isinstance(source_id, int) and not isinstance(source_id, bool) and str(source_id) in graph:
            yield wrong(
                "bad_link",
                f"{quoted(name)} names node {_short(source_id)} by a number",
                f'write "{source_id}" as text',
            )
            return
        if isinstance(source_id, str) and source_id in graph:
            return  # its missing class has its own finding
        near = nearest(str(source_id), [str(key) for key in graph], 3)
        fix = "link it to a node in the graph" + (f" ({quoted_list(near)}?)" if near else "")
        yield wrong(
            "link_to_nowhere",
            f"{quoted(name)} is linked to node {quoted(source_id)}, which is not in the graph",
            fix,
        )
        return
    if isinstance(slot, bool):
        slot = int(slot)
    if not isinstance(slot, int):
        yield wrong(
            "bad_link",
            f"{quoted(name)} names the slot {_short(slot)}",
            "the slot is a whole number, counted from 0",
        )
        return
    outputs = book.outputs(class_of(source))
    if not book.knows(class_of(source)):
        return
    if not -len(outputs) <= slot < len(outputs):
        yield wrong(
            "bad_slot",
            f"{quoted(name)} is linked to output {slot} of {called(source_id, source)}, which has {len(outputs)}",
            f"its outputs: {', '.join(f'{i} {_type_name(kind)}' for i, kind in enumerate(outputs[:20])) or 'none'}",
        )
        return
    received = outputs[slot]
    if not fits(received, spec) and (class_of(node), "input_types") not in catalog.UNCHECKED_INPUTS:
        slots = [f"{short_name(source_id)} slot {i}" for i, kind in enumerate(outputs) if fits(kind, spec)]
        fix = (
            f"link it to {slots[0]}"
            if slots
            else f"link {quoted(name)} to a node that gives {_type_name(spec.type)}"
        )
        yield wrong(
            "type_mismatch",
            f"{quoted(name)} requires {_type_name(spec.type)} and is linked to {_type_name(received)} of node "
            f"{short_name(source_id)}",
            fix,
        )


def _type_name(kind: object) -> str:
    return short_name(kind) if isinstance(kind, str) else "a choice from a list"


def fits(received: object, spec: InputSpec) -> bool:
    """Whether the server lets an output of this type into this input."""
    wanted = spec.type
    old_style = spec.type == "COMBO" and "options" not in spec.options and spec.choices is not None
    if isinstance(received, list | tuple):
        return (old_style and list(received) == list(spec.choices or ())) or (
            not old_style and (wanted == "COMBO" or spec.takes_any)
        )
    if not isinstance(received, str):
        return False
    if received == MATCH_TYPE or wanted == MATCH_TYPE or received == "*" or wanted == "*":
        return True
    if old_style:
        return False
    kinds = {part.strip() for part in received.split(",")}
    return "*" in kinds or "*" in spec.types or bool(kinds & spec.types)


def _value(node_id: str, node: Node, name: str, spec: InputSpec, value: object) -> Iterator[Finding]:
    def wrong(severity: str, code: str, message: str, fix: str) -> Finding:
        return about(severity, code, node_id, node, message, fix, name)

    try:
        converted = _as_server(value, spec)
    except (ValueError, TypeError, OverflowError):
        yield wrong(
            ERROR,
            "wrong_type",
            f"{quoted(name)} requires {_type_name(spec.type)}, not {_short(value)}",
            f"set {_place(node_id, name)}",
        )
        return
    surprise = _surprise(value, converted, spec)
    if surprise:
        yield wrong(
            WARNING,
            "value_changed",
            f"{quoted(name)}: {surprise}",
            f"set {_place(node_id, name)} to the value that you mean",
        )
    low, high = spec.number("min"), spec.number("max")
    if isinstance(converted, int | float) and spec.choices is None:
        if low is not None and converted < low:
            yield wrong(
                ERROR,
                "too_small",
                f"{quoted(name)} is {converted}; the minimum is {low}",
                f"set it to {low}",
            )
            return
        if high is not None and converted > high:
            yield wrong(
                ERROR,
                "too_big",
                f"{quoted(name)} is {converted}; the maximum is {high}",
                f"set it to {high}",
            )
            return
    if spec.choices is not None:
        yield from _listed_value(node_id, node, name, spec, converted)
    elif not spec.is_widget and not spec.takes_any and not spec.options.get("forceInput"):
        yield wrong(
            WARNING, "value_for_link",
            f"{quoted(name)} requires a link to {_type_name(spec.type)} and holds a plain value; the server accepts it, but "
            "the run fails",
            f"link {quoted(name)} to a node that gives {_type_name(spec.type)}",
        )  # fmt: skip


_CONVERT: Mapping[str, Callable[[Any], object]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


def _as_server(value: object, spec: InputSpec) -> object:
    """The value as the server converts it."""
    convert = _CONVERT.get(spec.type)
    return value if convert is None else convert(value)


def _surprise(value: object, converted: Any, spec: InputSpec) -> str | None:
    """What the server's conversion does unexpectedly, or None."""
    if spec.type == "INT" and isinstance(value, float) and value != converted:
        return f"the server truncates {value} to {converted}"
    if spec.type == "BOOLEAN" and isinstance(value, str):
        if value.strip().casefold() in ("false", "no", "off", "0", ""):
            return (
                f"the server converts the text {_short(value)} to {str(converted).lower()}"
                if converted
                else None
            )
        return None
    if spec.type == "STRING" and not isinstance(value, str | int | float):
        return f"the server converts it to the text {_short(converted)}"
    if spec.type == "FLOAT" and isinstance(converted, float) and not math.isfinite(converted):
        return f"{converted} is not a finite number"
    return None


def _listed_value(node_id: str, node: Node, name: str, spec: InputSpec, value: object) -> Iterator[Finding]:
    choices = spec.choices or ()
    if spec.options.get("multiselect") and isinstance(value, list) and all(one in choices for one in value):
        return
    if value in choices:
        return
    upload = spec.upload or catalog.UPLOADS.get((class_of(node), name))
    listed = [str(choice) for choice in choices]
    near = nearest_choices(str(value), listed, 6)
    hint = _choices_in_words(str(value), listed, near)
    if spec.type == DYNAMIC_COMBO:
        yield about(
            WARNING, "not_in_list", node_id, node,
            f"{quoted(name)} is {_short(value)}, which is not in its list; the server accepts it, but the run fails",
            hint, name,
        )  # fmt: skip
        return
    if upload:
        yield from _file(node_id, node, name, value, near)
        return
    missing = "not in the server's list" if choices else "and the server has no file for it"
    yield about(
        ERROR,
        "not_in_list",
        node_id,
        node,
        f"{quoted(name)} is {_short(value)}, {missing}",
        hint,
        name,
        near,
    )


def _choices_in_words(value: str, listed: list[str], near: list[str]) -> str:
    twin = meant(value, listed)
    if twin is not None:
        return f"did you mean {quoted(twin)}?"
    if not listed:
        return "the server's list is empty"
    get = "get the file (check_deps.py lists sources), or " if is_model_file(value) else ""
    if nearest(value, listed, 1):
        return f"{get}{'the ' if get else ''}nearest: {quoted_list(near)}"
    shown = choices_to_show(value, listed)
    more = f" … ({len(listed)} in all)" if len(shown) < len(listed) else ""
    return f"{get}set one of: {quoted_list(shown, len(shown))}{more}"


def _file(node_id: str, node: Node, name: str, value: object, near: list[str]) -> Iterator[Finding]:
    """A file that is not listed: certainly missing when it is in the top folder and is of a listed type."""
    text = value if isinstance(value, str) else None
    # An empty name is the input folder itself to the server's check, so it passes there and fails in the run.
    # A digest is looked up in the server's assets when the graph is sent.
    elsewhere = text is not None and (
        not text
        or text.startswith("blake3:")
        or "/" in text
        or "\\" in text
        or text.endswith(("[output]", "[input]", "[temp]"))
    )
    severity = WARNING if elsewhere else ERROR
    said = (
        "is not on the server"
        if not elsewhere
        else "cannot be checked here"
        if text
        else "is not a file: the run fails"
    )
    fix = f"upload it (--input-image {_place(node_id, name)}=FILE)" + (
        f", or use: {quoted_list(near)}" if near else ""
    )
    yield about(severity, "file_missing", node_id, node, f"the file {_short(value)} {said}", fix, name, near)


def _short(value: object) -> str:
    """A value in a message: numbers as they are, all else as a name."""
    if value is None or isinstance(value, bool | int | float):
        return str(value)[:40]
    return quoted(value if isinstance(value, str) else repr(value))
