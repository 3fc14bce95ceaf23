"""The workflow inside a JSON document: wrappers taken off, stray keys left out, node ids made text. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from comfyskill.base import safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.graph.nodes import Link, link_of

# Where a document keeps its graph, the API form before the editor form.
_WRAPPERS = ("prompt", "output", "graph", "workflow", "workflow_api", "api", "data", "json", "content")
_DEEPEST = 8
_SECRETS = ("api_key_comfy_org", "auth_token_comfy_org")


class Unwrapped(NamedTuple):
    """A workflow taken out of its document.

    kind: "api" or "editor". graph: the API-format graph (None for kind "editor"). editor: the editor-format
    workflow, when the document has one. extra_data: what was saved beside it, credentials left out.
    notes: what was mended or left out, one sentence each.
    """

    kind: str
    graph: dict[str, Any] | None
    editor: dict[str, Any] | None
    extra_data: dict[str, Any]
    notes: list[str]


def is_editor(document: Any) -> bool:
    """Whether a JSON value is an editor-format workflow (what the editor's Save writes)."""
    if not isinstance(document, Mapping) or not isinstance(document.get("nodes"), list):
        return False
    nodes = document["nodes"]
    if isinstance(document.get("links"), list | dict) or "last_node_id" in document:
        return True
    return bool(nodes) and all(isinstance(node, Mapping) and "type" in node for node in nodes)


def is_api(document: Any) -> bool:
    """Whether a JSON value is an API-format graph: a mapping in which at least one value is a node."""
    if not isinstance(document, Mapping):
        return False
    return any(isinstance(node, Mapping) and "class_type" in node for node in document.values())


def unwrap(document: Any) -> Unwrapped:
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

    def look(self, value: Any, depth: int) -> None:
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
        notes.append(f"left out, as they are no nodes: {safe_text.quoted_list(sorted(stray), 5)}")
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
        notes.append(
            f"{numbered} link(s) named their node by a number; the server wants text, so they were mended"
        )
    return tidy, notes


def _text_ids(inputs: dict[str, Any], graph: Mapping[str, Any]) -> int:
    mended = 0
    for name, value in inputs.items():
        link = link_of(value)
        if isinstance(link, Link) and not isinstance(value[0], str) and link.node_id in graph:
            inputs[name] = [link.node_id, link.slot]
            mended += 1
    return mended


def _not_a_workflow(document: Any) -> SkillError:
    if isinstance(document, Mapping) and not document:
        what = "an empty object"
    elif isinstance(document, Mapping):
        what = f"an object with the keys {safe_text.quoted_list(document)}"
    elif isinstance(document, list):
        what = f"a list of {len(document)}"
    else:
        what = "no object"
    return SkillError(
        f"this is no ComfyUI workflow: it is {what}, and nothing in it has a class_type or a list of nodes",
        code="not_a_workflow",
        exit=Exit.MISUSE,
        hint="give an API-format graph (Export (API) in the editor), an editor file (Save), or a ComfyUI picture",
    )
