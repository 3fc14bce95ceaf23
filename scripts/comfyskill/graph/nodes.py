"""The nodes and links of an API-format graph, read without trusting their shape. Pure.

An API-format graph is `{node_id: {"class_type": str, "inputs": {...}, "_meta": {"title": str}?}}`.
A link is a list of exactly two, `[node id, output slot]`; the server rejects every other list, so
a list that is meant as a value travels as `{"__value__": [...]}` (execution.py, validate_inputs).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Misuse, SkillError

# A graph by node id, and a server's definitions by class. Their values come from others, so they are read with care.
Graph = Mapping[str, Any]
Definitions = Mapping[str, Any]
Node = Mapping[str, object]
Inputs = Mapping[str, object]
# Where a document keeps its graph, the API form before the editor form.
_WRAPPERS = ("prompt", "output", "graph", "workflow", "workflow_api", "api", "data", "json", "content")
_DEEPEST = 8
_SECRETS = ("api_key_comfy_org", "auth_token_comfy_org")


class Link(NamedTuple):
    """Where a linked input gets its value."""

    node_id: str
    slot: int


def link_of(value: object) -> Link | None:
    """The link that an input value is, or None for a literal (or for a list that cannot be a link)."""
    # Called for every input of every node: the common case, a plain value, must be fast.
    if type(value) is not list and not isinstance(value, tuple):
        return None
    if len(value) != 2:
        return None
    node_id, slot = value
    if isinstance(node_id, bool) or not isinstance(node_id, str | int):
        return None
    if isinstance(slot, bool) or not isinstance(slot, int):
        return None
    return Link(str(node_id), slot)


def is_literal(value: object) -> bool:
    """Whether an input value is something other than a link or a broken link."""
    return not isinstance(value, list | tuple)


def literal(value: object) -> Any:
    """A literal without its `__value__` wrapping."""
    if isinstance(value, dict) and "__value__" in value:
        return value["__value__"]
    return value


def wrapped(value: Any) -> Any:
    """A list in the wrapping that keeps the server from taking it for a link; other values as they are."""
    return {"__value__": list(value)} if isinstance(value, list | tuple) else value


def with_missing_types(graph: Graph) -> Graph:
    """The graph with its class at each node that a conversion left without one (`_meta.missing_type`)."""
    named = {
        node_id: {**node, "class_type": meta["missing_type"]}
        for node_id, node in graph.items()
        if isinstance(node, Mapping)
        and not class_of(node)
        and isinstance(meta := node.get("_meta"), Mapping)
        and isinstance(meta.get("missing_type"), str)
    }
    return {**graph, **named} if named else graph


def each(graph: Graph) -> Iterator[tuple[str, Node]]:
    """The nodes that have a class, as (node id, node); other entries are left out."""
    for node_id, node in graph.items():
        if isinstance(node, Mapping) and isinstance(node.get("class_type"), str):
            yield str(node_id), node


def node_of(graph: Graph, node_id: str) -> Node | None:
    """The node with this id, or None when there is none with a class."""
    node = graph.get(node_id)
    if isinstance(node, Mapping) and isinstance(node.get("class_type"), str):
        return node
    return None


def inputs_of(node: Node) -> Mapping[str, Any]:
    """The node's inputs; empty when they are missing or not a mapping."""
    inputs = node.get("inputs")
    return foreign.mapping(inputs)


def class_of(node: Node) -> str:
    """The node's class type."""
    class_type = node.get("class_type")
    return foreign.text(class_type)


def given_title(node: Node) -> str | None:
    """The title saved with the node, or None."""
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return title.strip() if isinstance(title, str) and title.strip() else None


def title_of(node: Node) -> str:
    """The title a person sees: the saved one, else the class type."""
    return given_title(node) or class_of(node)


def links_of(node: Node) -> Iterator[tuple[str, Link]]:
    """The node's linked inputs, as (input name, link)."""
    for name, value in inputs_of(node).items():
        link = link_of(value)
        if link is not None:
            yield name, link


class Consumer(NamedTuple):
    """One use of a node's output."""

    node_id: str
    input: str
    slot: int


def consumers_of(graph: Graph) -> dict[str, list[Consumer]]:
    """Who uses each node's outputs: {node id: [Consumer]}; also for ids that are not in the graph."""
    consumers: dict[str, list[Consumer]] = {}
    for node_id, node in each(graph):
        for name, link in links_of(node):
            consumers.setdefault(link.node_id, []).append(Consumer(node_id, name, link.slot))
    return consumers


def upstream_of(graph: Graph, starts: Iterable[str]) -> set[str]:
    """The ids of these nodes and of all nodes that they depend on; cycles are allowed."""
    seen: set[str] = set()
    waiting = [node_id for node_id in starts if node_id in graph]
    while waiting:
        node_id = waiting.pop()
        if node_id in seen:
            continue
        seen.add(node_id)
        node = node_of(graph, node_id)
        if node is not None:
            waiting.extend(link.node_id for _, link in links_of(node) if link.node_id in graph)
    return seen


def natural_key(node_id: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that puts "9" before "12" and "12:3" after "12"."""
    parts = node_id.replace(".", ":").split(":")
    return tuple((0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p) for p in parts)


class Unwrapped(NamedTuple):
    """A workflow taken out of its document.

    kind: "api" or "editor". graph: the API-format graph (None for kind "editor"). editor: the editor-format
    workflow, when the document has one. extra_data: what was saved beside it, credentials left out.
    notes: what was repaired or left out, one sentence each.
    """

    kind: str
    graph: dict[str, Any] | None
    editor: dict[str, Any] | None
    extra_data: dict[str, Any]
    notes: list[str]


def is_editor(document: object) -> bool:
    """Whether a JSON value is an editor-format workflow (what the editor's Save writes)."""
    if not isinstance(document, Mapping) or not isinstance(document.get("nodes"), list):
        return False
    nodes = document["nodes"]
    if isinstance(document.get("links"), list | dict) or "last_node_id" in document:
        return True
    return bool(nodes) and all(isinstance(node, Mapping) and "type" in node for node in nodes)


def is_api(document: object) -> bool:
    """Whether a JSON value is an API-format graph: a mapping in which at least one value is a node."""
    if not isinstance(document, Mapping):
        return False
    return any(isinstance(node, Mapping) and "class_type" in node for node in document.values())


def unwrap(document: object) -> Unwrapped:
    """The workflow that a JSON document holds: a bare graph, `{"prompt": ...}`, `{"workflow": ...}`, a history
    or queue entry, the text chunks of a picture, an editor file.

    Raises:
        SkillError: (code "not_a_workflow", exit 2) when there is none in it.
    """
    found = _Search()
    found.look(document, 0)
    if found.graph is not None:
        graph, notes = _tidy(found.graph)
        return Unwrapped("api", graph, found.editor, found.extra_data, found.notes + notes)
    if found.editor is not None:
        return Unwrapped("editor", None, found.editor, found.extra_data, found.notes)
    raise _not_a_workflow(document)


class _Search:
    """What one walk through a document has found; the first graph and the first editor workflow count."""

    def __init__(self) -> None:
        self.graph: Mapping[str, Any] | None = None
        self.editor: dict[str, Any] | None = None
        self.extra_data: dict[str, Any] = {}
        self.notes: list[str] = []

    def look(self, value: object, depth: int) -> None:
        if depth > _DEEPEST:
            return
        if isinstance(value, str):
            value = _parsed(value)
        if isinstance(value, list):
            self._look_in_list(value, depth)
        elif isinstance(value, Mapping):
            self._look_in_mapping(value, depth)

    def _look_in_list(self, value: list[Any], depth: int) -> None:
        # A queue item is [number, prompt id, graph, extra data, output ids].
        if len(value) >= 3 and (is_api(value[2]) or is_editor(value[2])):
            self.look(value[2], depth + 1)
            if len(value) > 3:
                self._keep_extra(value[3])
        elif len(value) == 1:
            self.look(value[0], depth + 1)

    def _look_in_mapping(self, value: Mapping[str, Any], depth: int) -> None:
        if is_editor(value):
            if self.editor is None:
                self.editor = dict(value)
            return
        if is_api(value):
            if self.graph is None:
                self.graph = value
            return
        self._keep_extra(value.get("extra_data"))
        if isinstance(value.get("extra_pnginfo"), Mapping):
            self._keep_extra({"extra_pnginfo": value["extra_pnginfo"]})
        for key in _WRAPPERS:
            if key in value:
                self.look(value[key], depth + 1)
        if self.graph is None and self.editor is None and len(value) == 1:
            # The history answers {prompt id: entry}.
            self.look(next(iter(value.values())), depth + 1)

    def _keep_extra(self, extra: Any) -> None:
        if not isinstance(extra, Mapping):
            return
        for name, item in extra.items():
            if name in _SECRETS:
                self.notes.append("a credential saved with the workflow was left out")
            elif name not in ("client_id", "create_time"):
                self.extra_data.setdefault(str(name), item)
        pnginfo = extra.get("extra_pnginfo")
        if isinstance(pnginfo, Mapping) and self.editor is None and is_editor(pnginfo.get("workflow")):
            self.editor = dict(pnginfo["workflow"])


def _parsed(text: str) -> Any:
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _tidy(graph: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The graph with text ids and without stray keys, and what was done to it."""
    notes = []
    tidy: dict[str, Any] = {}
    stray = []
    for node_id, node in graph.items():
        if isinstance(node, Mapping) and ("class_type" in node or "inputs" in node):
            tidy[str(node_id)] = {k: node[k] for k in ("class_type", "inputs", "_meta") if k in node}
        else:
            stray.append(str(node_id))
    if stray:
        notes.append(f"left out because they are not nodes: {safe_text.quoted_list(sorted(stray), 5)}")
    bare, numbered = [], 0
    for node_id, node in tidy.items():
        inputs = node.get("inputs")
        if inputs is None:
            bare.append(node_id)
            node["inputs"] = {}
        elif isinstance(inputs, Mapping):
            node["inputs"] = dict(inputs)
            numbered += _text_ids(node["inputs"], tidy)
    if bare:
        notes.append(f"without inputs, given empty ones: {safe_text.quoted_list(bare, 5)}")
    if numbered:
        links = "1 link names its node" if numbered == 1 else f"{numbered} links name their nodes"
        notes.append(f"{links} by a number; the server needs text, so that was corrected")
    return tidy, notes


def _text_ids(inputs: dict[str, Any], graph: Mapping[str, Any]) -> int:
    changed = 0
    for name, value in inputs.items():
        link = link_of(value)
        if isinstance(link, Link) and not isinstance(value[0], str) and link.node_id in graph:
            inputs[name] = [link.node_id, link.slot]
            changed += 1
    return changed


def _not_a_workflow(document: object) -> SkillError:
    if isinstance(document, Mapping) and not document:
        what = "an empty object"
    elif isinstance(document, Mapping):
        what = f"an object with the keys {safe_text.quoted_list(document)}"
    elif isinstance(document, list):
        what = f"a list of {len(document)} item{'s' * (len(document) != 1)}"
    else:
        what = "a plain value"
    return Misuse(
        f"not a ComfyUI workflow: {what} with no class_type and no nodes list",
        code="not_a_workflow",
        hint="give an API-format graph (Export (API) in the editor), an editor file (Save), or a ComfyUI picture",
    )
