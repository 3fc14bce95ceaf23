"""Checking a graph without running it: what the server would reject, and what would run but be wrong. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from comfyskill.base import safe_text
from comfyskill.base.safe_text import name as short_name
from comfyskill.base.safe_text import quoted, quoted_list
from comfyskill.graph import catalog
from comfyskill.graph.advice import likely_mistakes
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
    is_literal,
    link_of,
    links_of,
    literal,
    natural_key,
    node_of,
    upstream_of,
    with_missing_types,
)
from comfyskill.graph.replacements import Renamed, ReplacementTable, new_class, replaced
from comfyskill.graph.specs import DYNAMIC_COMBO, Book, InputSpec, fits

_MOST_SUGGESTED = 3
_MOST_CYCLES = 20
# 0.8.0 accepted a chain of 600 nodes and failed on one of 990 (Python's recursion limit).
_DEEPEST_CHAIN = 900
# A digest is looked up in the server's assets when the graph is sent.
_DIGEST = "blake3:"
_ANNOTATED = ("[output]", "[input]", "[temp]")


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
    complete = complete and definitions is not None
    named = with_missing_types(graph)
    graph, renamed = replaced(named, replacements or {}, definitions if complete else None)
    found = list(_structure(graph))
    found += [_renamed(one, named) for one in renamed]
    found += _classes(graph, book, complete, replacements or {})
    outputs = [output.node_id for output in outputs_of(graph, definitions)]
    if not outputs and not any(finding.code == "unknown_class" for finding in found):
        found.append(_no_output(graph, book, complete))
    # A class that the server lacks has the graph rejected anyway; it may be an output, so what it depends on is checked.
    unknown = [node_id for node_id, node in each(graph) if complete and not book.knows(class_of(node))]
    live = upstream_of(graph, [*outputs, *unknown])
    sources = {node_id: _checked_sources(node, book) for node_id, node in each(graph)}
    checked = _reached([*outputs, *unknown], sources)
    for node_id, node in each(graph):
        if node_id in live and book.knows(class_of(node)):
            own = _node_findings(graph, book, node_id, node)
            # The server does not check what only an undeclared link leads to, and still runs it.
            found += own if node_id in checked else map(_as_warning, own)
        elif node_id in live:
            found += _loose_links(graph, node_id, node)
    found += _cycles(graph, checked, sources) or _too_deep(checked, sources)
    found += likely_mistakes(graph, book, live)
    return sorted(found, key=lambda f: (f.rank, natural_key(f.node_id or ""), f.code, f.input or ""))


def _checked_sources(node: Node, book: Book) -> list[str]:
    """The nodes that the server goes on to when it checks this one: those behind links of declared inputs."""
    if not book.knows(class_of(node)):
        return [link.node_id for _, link in links_of(node)]
    specs = book.specs(node)
    return [
        link.node_id for name, link in links_of(node) if name in specs and specs[name].type != DYNAMIC_COMBO
    ]


def _reached(starts: Iterable[str], sources: Mapping[str, list[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [node_id for node_id in starts if node_id in sources]
    while waiting:
        node_id = waiting.pop()
        if node_id not in seen:
            seen.add(node_id)
            waiting += [source for source in sources[node_id] if source in sources]
    return seen


def _as_warning(finding: Finding) -> Finding:
    return finding._replace(severity=WARNING) if finding.severity == ERROR else finding


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


def _renamed(one: Renamed, graph: Graph) -> Finding:
    """A class that the server has replaced: the graph runs, because this skill renames it before it submits."""
    message = f"the server has replaced the class {quoted(one.old)} with {quoted(one.new)}"
    fix = "run_workflow.py renames it; rename it in the file to use it elsewhere"
    if one.lost:
        message += f", which has no input {quoted_list(one.lost, 5)}"
        fix = "check the new class (server_info.py node): the inputs that it lacks are dropped"
    return about(WARNING, "replaced_class", one.node_id, graph[one.node_id], message, fix, nearest=[one.new])


def _classes(graph: Graph, book: Book, complete: bool, replacements: ReplacementTable) -> Iterator[Finding]:
    unchecked: dict[str, str] = {}
    known = sorted(book.class_types()) if complete else []
    for node_id, node in each(graph):
        class_type = class_of(node)
        if book.knows(class_type):
            yield from _deprecated(book, node_id, node, replacements)
        elif complete:
            near = nearest(class_type, known, _MOST_SUGGESTED)
            fix = "install the node pack that has it (check_deps.py names it)"
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


def _cycles(graph: Graph, within: set[str], sources: Mapping[str, list[str]]) -> list[Finding]:
    """One finding for each group of nodes that depend on each other."""
    found = []
    for cycle in cycles(within, sources):
        ids = [safe_text.name(node_id) for node_id in cycle]
        shown = " → ".join(ids[:6]) + (" → …" if len(ids) > 6 else f" → {ids[0]}")
        fix = "cut one of these links: a graph must run from loaders to outputs"
        found.append(
            about(ERROR, "cycle", cycle[0], graph[cycle[0]], f"its links form a cycle: {shown}", fix)
        )
    return found


def cycles(within: set[str], sources: Mapping[str, list[str]]) -> list[list[str]]:
    """Cycles among these nodes, each as the node ids along it; at most one through any node."""
    done: dict[str, bool] = {}  # False: on the path
    found: list[list[str]] = []
    for start in sorted(within, key=natural_key):
        if start in done:
            continue
        done[start] = False
        path = [start]
        trail = [iter(sources[start])]
        while trail:
            source = next(trail[-1], None)
            if source is None:
                trail.pop()
                done[path.pop()] = True
            elif source not in within:
                continue
            elif done.get(source) is False:
                if len(found) < _MOST_CYCLES and not any(source in cycle for cycle in found):
                    found.append(path[path.index(source) :])
            elif source not in done:
                done[source] = False
                path.append(source)
                trail.append(iter(sources[source]))
    return found


def _too_deep(within: set[str], sources: Mapping[str, list[str]]) -> list[Finding]:
    """A graph without cycles whose longest chain is longer than the server's own check can follow."""
    depth: dict[str, int] = {}
    entered: set[str] = set()
    for start in within:
        trail = [start]
        while trail:
            node_id = trail[-1]
            if node_id in depth:
                trail.pop()
            elif node_id in entered:
                depth[node_id] = 1 + max((depth.get(source, 0) for source in sources[node_id]), default=0)
                trail.pop()
            else:
                entered.add(node_id)
                trail += [source for source in sources[node_id] if source in within - entered]
    longest = max(depth.values(), default=0)
    if longest <= _DEEPEST_CHAIN:
        return []
    message = f"{longest} nodes form one chain; the server's recursive check fails somewhat below 1000"
    return [Finding(WARNING, "too_deep", message, "split it into several runs")]


def _node_findings(graph: Graph, book: Book, node_id: str, node: Node) -> Iterator[Finding]:
    """What is wrong with the inputs of one node of a known class."""
    if not isinstance(node.get("inputs"), Mapping):
        yield about(ERROR, "no_inputs", node_id, node, "it has no inputs object", 'give it "inputs": {}')
        return
    inputs = inputs_of(node)
    specs = book.specs(node)
    for spec in specs.values():
        place = _Place(node_id, node, spec)
        if spec.name not in inputs:
            yield from _missing(place)
        elif is_literal(inputs[spec.name]):
            yield from _value(place, literal(inputs[spec.name]), book)
        else:
            yield from _link(place, inputs[spec.name], graph, book)
    yield from _ignored(node_id, node, book)


class _Place(NamedTuple):
    """One declared input of a node, for the findings about it."""

    node_id: str
    node: Node
    spec: InputSpec

    @property
    def name(self) -> str:
        return quoted(self.spec.name)

    @property
    def address(self) -> str:
        return short_name(f"{self.node_id}.{self.spec.name}")

    @property
    def key(self) -> tuple[str, str]:
        """Class and input, as the catalog's tables have them."""
        return class_of(self.node), self.spec.name

    @property
    def takes_file(self) -> bool:
        return self.spec.upload is not None or self.key in catalog.UPLOADS or self.spec.type == "WEBCAM"

    @property
    def link_it(self) -> str:
        return f"link {self.name} to a node that gives {_type_name(self.spec.type)}"

    @property
    def choose_one(self) -> str:
        return f"set {self.address} to one of: {quoted_list(self.spec.choices or (), 12)}"

    def error(self, code: str, message: str, fix: str, nearest: Sequence[str] = ()) -> Finding:
        return about(ERROR, code, self.node_id, self.node, message, fix, self.spec.name, nearest)

    def warning(self, code: str, message: str, fix: str, nearest: Sequence[str] = ()) -> Finding:
        return about(WARNING, code, self.node_id, self.node, message, fix, self.spec.name, nearest)


def _missing(place: _Place) -> Iterator[Finding]:
    spec = place.spec
    if not spec.required:
        return
    if spec.type == DYNAMIC_COMBO:
        # A choice inside of another one is part of that one's value; nodes such as SaveVideo do without it.
        if "." not in spec.name:
            message = f"the choice {place.name} is missing; the server accepts the graph, but the run fails"
            yield place.warning("required_input_missing", message, place.choose_one)
        return
    fix = place.link_it
    if spec.takes_value and not spec.takes_any:
        usual = literal(spec.usual)
        fix = f"set {place.address}" + (f" (default: {_short(usual)})" if usual is not None else "")
    yield place.error("required_input_missing", f"the required input {place.name} is missing", fix)


def _link(place: _Place, value: Sequence[object], graph: Graph, book: Book) -> Iterator[Finding]:
    spec = place.spec
    if spec.type == DYNAMIC_COMBO:
        message = f"{place.name} is a choice and holds a list; the server accepts it, but the run fails"
        yield place.warning("bad_link", message, place.choose_one)
        return
    problem = _broken_link(place, value, graph)
    if problem is not None:
        yield problem
        return
    source_id, slot = str(value[0]), value[1]
    source = node_of(graph, source_id)
    if source is None or not book.knows(class_of(source)):
        return  # that node has its own finding
    if not isinstance(slot, int):
        fix = "the slot is a whole number, counted from 0"
        yield place.error("bad_link", f"{place.name} names the slot {_short(slot)}", fix)
        return
    outputs = book.outputs(class_of(source))
    if not -len(outputs) <= slot < len(outputs):
        listed = ", ".join(f"{index} {_type_name(kind)}" for index, kind in enumerate(outputs[:20]))
        where = f"output {int(slot)} of {called(source_id, source)}, which has {len(outputs)}"
        yield place.error(
            "bad_slot", f"{place.name} is linked to {where}", f"its outputs: {listed or 'none'}"
        )
        return
    if (
        fits(outputs[slot], spec.declared_type)
        or (class_of(place.node), "input_types") in catalog.UNCHECKED_INPUTS
    ):
        return
    slots = [index for index, kind in enumerate(outputs) if fits(kind, spec.declared_type)]
    yield place.error(
        "type_mismatch",
        f"{place.name} requires {_type_name(spec.type)} and is linked to {_type_name(outputs[slot])} of node "
        f"{short_name(source_id)}",
        f"link it to {short_name(source_id)} slot {slots[0]}" if slots else place.link_it,
    )


def _broken_link(place: _Place, value: Sequence[object], graph: Graph) -> Finding | None:
    """What is wrong with a link by itself: its length, or the node that it names."""
    if len(value) != 2:
        message = f"{place.name} is a list of {len(value)}; a list must be a link [node id, slot]"
        return place.error("bad_link", message, 'write a list value as {"__value__": [...]}')
    source_id = value[0]
    if isinstance(source_id, str) and source_id in graph:
        return None
    if isinstance(source_id, int) and not isinstance(source_id, bool) and str(source_id) in graph:
        message = f"{place.name} names node {_short(source_id)} by a number"
        return place.error("bad_link", message, f'write "{source_id}" as text')
    near = nearest(str(source_id), [str(key) for key in graph], 3)
    fix = "link it to a node in the graph" + (f" ({quoted_list(near)}?)" if near else "")
    message = f"{place.name} is linked to node {quoted(source_id)}, which is not in the graph"
    return place.error("link_to_nowhere", message, fix)


def _type_name(kind: object) -> str:
    return short_name(kind) if isinstance(kind, str) else "a choice from a list"


def _value(place: _Place, value: object, book: Book) -> Iterator[Finding]:
    spec = place.spec
    try:
        converted = _as_server(value, spec)
    except (ValueError, TypeError, OverflowError):
        message = f"{place.name} requires {_type_name(spec.type)}, not {_short(value)}"
        yield place.error("wrong_type", message, f"set {place.address}")
        return
    surprise = _surprise(value, converted, spec)
    if surprise:
        fix = f"set {place.address} to the value that you mean"
        yield place.warning("value_changed", f"{place.name}: {surprise}", fix)
    if place.takes_file:
        yield from _file_value(place, converted)
        return
    if place.key in catalog.UNCHECKED_INPUTS or class_of(place.node) in catalog.UNCHECKED_CLASSES:
        return
    outside = _outside(place, converted)
    if outside is not None:
        yield outside
    elif spec.choices is not None:
        yield from _listed_value(place, converted, book)
    elif not spec.takes_value:
        message = (
            f"{place.name} requires a link to {_type_name(spec.type)} and holds a plain value; "
            "the server accepts it, but the run fails"
        )
        yield place.warning("value_for_link", message, place.link_it)


_CONVERT: Mapping[str, Callable[[Any], object]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}


def _as_server(value: object, spec: InputSpec) -> object:
    """The value as the server converts it."""
    convert = _CONVERT.get(spec.type)
    return value if convert is None else convert(value)


def _surprise(value: object, converted: object, spec: InputSpec) -> str | None:
    """What the server's conversion does unexpectedly, or None."""
    if spec.type == "INT" and isinstance(value, float) and value != converted:
        return f"the server truncates {value} to {converted}"
    if spec.type == "BOOLEAN" and isinstance(value, str):
        if converted and value.strip().casefold() in ("false", "no", "off", "0", ""):
            return f"the server converts the text {_short(value)} to true"
        return None
    if spec.type == "STRING" and not isinstance(value, str | int | float):
        return f"the server converts it to the text {_short(converted)}"
    if spec.type == "FLOAT" and isinstance(converted, float) and not math.isfinite(converted):
        return f"{converted} is not a finite number"
    return None


def _outside(place: _Place, value: object) -> Finding | None:
    """The finding for a value below the input's minimum or above its maximum, which the server compares for every type."""
    low, high = place.spec.number("min"), place.spec.number("max")
    if low is None and high is None:
        return None
    if not isinstance(value, int | float):
        return place.error(
            "wrong_type", f"{place.name} requires a number, not {_short(value)}", f"set {place.address}"
        )
    if low is not None and value < low:
        return place.error(
            "too_small", f"{place.name} is {_short(value)}; the minimum is {low}", f"set it to {low}"
        )
    if high is not None and value > high:
        return place.error(
            "too_big", f"{place.name} is {_short(value)}; the maximum is {high}", f"set it to {high}"
        )
    return None


def _listed_value(place: _Place, value: object, book: Book) -> Iterator[Finding]:
    spec = place.spec
    choices = spec.choices or ()
    several = spec.options.get("multiselect") and book.is_recent(class_of(place.node))
    if value in choices or (several and isinstance(value, list) and all(one in choices for one in value)):
        return
    listed = [str(choice) for choice in choices]
    near = nearest_choices(str(value), listed, 6)
    hint = _choices_in_words(str(value), listed, near)
    if spec.type == DYNAMIC_COMBO:
        message = f"{place.name} is {_short(value)}, which is not in its list; the server accepts it, but the run fails"
        yield place.warning("not_in_list", message, hint)
    else:
        missing = "not in the server's list" if choices else "and the server has no file for it"
        yield place.error("not_in_list", f"{place.name} is {_short(value)}, {missing}", hint, near)


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


def _file_value(place: _Place, value: object) -> Iterator[Finding]:
    """The finding for a file that is not listed: it is missing when its name is that of a file in the top folder."""
    choices = place.spec.choices
    if isinstance(value, str) and (choices is None or value in choices):
        return  # without a list, only the server knows its files
    near = nearest_choices(str(value), [str(choice) for choice in choices or ()], 6)
    upload = f"upload it (--input-image {place.address}=FILE)"
    fix = f"{upload}, or use: {quoted_list(near)}" if near else upload
    named = f"the file {_short(value)}"
    if value == "":
        # An empty name is the input folder itself to the server's check, so it passes there and fails in the run.
        yield place.warning("file_missing", f"{named} is not a file: the run fails", fix, near)
    elif isinstance(value, str) and (
        set(value) & set("/\\") or value.endswith(_ANNOTATED) or value.startswith(_DIGEST)
    ):
        yield place.warning("file_missing", f"{named} cannot be checked here", fix, near)
    else:
        yield place.error("file_missing", f"{named} is not on the server", fix, near)


def _ignored(node_id: str, node: Node, book: Book) -> Iterator[Finding]:
    """Inputs that the class does not declare: the server reads none of them, or fails in the run over a link."""
    extra = book.undeclared(node)
    if not extra:
        return
    possible = book.possible_names(class_of(node))
    for name in extra:
        if link_of(inputs_of(node)[name]) is not None:
            message = f"the class has no input {quoted(name)}; the server calls the node with it, which mostly fails"
            yield about(WARNING, "undeclared_link", node_id, node, message, "remove the link", name)
            continue
        last = f".{name.rsplit('.', 1)[-1]}"
        instead = [
            other
            for other in possible
            if other.endswith(last) or other.startswith(f"{name}.")
            if other not in inputs_of(node)
        ]
        message = f"the class has no input {quoted(name)}, so the server ignores it"
        if name in possible:
            message = f"{quoted(name)} belongs to another choice, so the server ignores it"
            yield about(
                WARNING, "ignored_input", node_id, node, message, "remove it, or set that choice", name
            )
        elif instead:
            fix = f"set {quoted_list(instead, 3)} instead"
            yield about(WARNING, "ignored_input", node_id, node, message, fix, name, instead[:3])
        else:
            yield about(INFO, "ignored_input", node_id, node, message, "remove it", name)


def _short(value: object) -> str:
    """A value in a message: numbers as they are, all else as a name."""
    if value is None or isinstance(value, bool | int | float):
        return str(value)[:40]
    return quoted(value if isinstance(value, str) else repr(value))
