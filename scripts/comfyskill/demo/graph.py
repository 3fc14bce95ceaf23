"""The graph of one run: nodes (those that expansion adds too), signatures for the cache, order of execution."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from comfyskill.base.cli import Document
from comfyskill.demo.definitions import Definitions, NodeClass


def is_link(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], (int, float))
    )


@dataclass(frozen=True)
class Origin:
    """Where a node comes from: itself, or the node whose expansion made it."""

    display: str
    parent: str | None
    real: str

    def fields(self) -> Document:
        """What frames say about it."""
        return {
            "display_node_id": self.display,
            "parent_node_id": self.parent,
            "real_node_id": self.real,
        }


class Graph:
    """Nodes by id. Nodes that an expansion adds have ids such as `7.0.0.1`."""

    def __init__(self, prompt: Mapping[str, Any], definitions: Definitions) -> None:
        self.nodes: Document = dict(prompt)
        self.definitions = definitions
        self.origins: dict[str, Origin] = {}
        self.signatures: Document = {}

    def origin(self, node_id: str) -> Origin:
        return self.origins.get(node_id) or Origin(node_id, None, node_id)

    def add(self, nodes: Mapping[str, Any], parent: str) -> None:
        above = self.origin(parent)
        for node_id, node in nodes.items():
            self.nodes[node_id] = node
            self.origins[node_id] = Origin(above.display, parent, above.real)

    def node_class(self, node_id: str) -> NodeClass:
        return self.definitions.node(self.nodes[node_id]["class_type"])

    def signature(self, node_id: str, changed: Callable[[str], Any]) -> Any:
        """Equal for nodes that must give the same result: class, values and everything upstream.

        Deep chains are walked with an explicit stack, so that a long graph causes no recursion error.
        """
        stack = [node_id]
        while stack:
            current = stack[-1]
            if current in self.signatures:
                stack.pop()
                continue
            waiting = [link for link in self._upstream(current) if link not in self.signatures]
            if waiting:
                stack += waiting
                continue
            self.signatures[current] = self._sign(current, changed)
            stack.pop()
        return self.signatures[node_id]

    def _upstream(self, node_id: str) -> list[str]:
        inputs = self.nodes[node_id].get("inputs", {})
        return [value[0] for value in inputs.values() if is_link(value) and value[0] in self.nodes]

    def _sign(self, node_id: str, changed: Callable[[str], Any]) -> int:
        node = self.nodes[node_id]
        cls = self.node_class(node_id)
        parts: list[Any] = [cls.name, changed(node_id)]
        if "unique_id" in cls.hidden:
            parts.append(node_id)
        for key in sorted(node.get("inputs", {})):
            value = node["inputs"][key]
            if is_link(value) and value[0] in self.nodes:
                parts.append((key, "link", self.signatures.get(value[0]), value[1]))
            else:
                parts.append((key, json.dumps(value, sort_keys=True, default=str)))
        return hash(tuple(parts))


class Order:
    """Which node runs next: outputs as soon as they can, then what leads to an output, then the rest."""

    def __init__(self, graph: Graph, is_cached: Callable[[str], bool]) -> None:
        self.graph = graph
        self.is_cached = is_cached
        self.pending: dict[str, None] = {}
        self.waits_for: dict[str, set[str]] = {}
        self.blocks: dict[str, dict[str, None]] = {}

    def add(self, node_id: str) -> None:
        """Add a node and what it needs; lazy inputs come later, when they are asked for."""
        stack = [node_id]
        links: list[tuple[str, str]] = []
        while stack:
            current = stack.pop()
            if current in self.pending:
                continue
            self.pending[current] = None
            self.waits_for[current] = set()
            self.blocks.setdefault(current, {})
            cls = self.graph.node_class(current)
            for name, value in self.graph.nodes[current].get("inputs", {}).items():
                if not is_link(value):
                    continue
                spec = cls.inputs.get(name)
                if spec is not None and spec.options.get("lazy"):
                    continue
                if not self.is_cached(value[0]):
                    stack.append(value[0])
                    links.append((value[0], current))
        for source, target in links:
            self.link(source, target)

    def link(self, source: str, target: str) -> None:
        """`target` waits for `source`."""
        if self.is_cached(source):
            return
        self.add(source)
        self.waits_for[target].add(source)
        self.blocks[source][target] = None

    def pick(self) -> str | None:
        """The next node, or None when nothing can run."""
        ready = [node_id for node_id in self.pending if not self.waits_for[node_id]]
        if len(ready) <= 1:
            return ready[0] if ready else None
        outputs = [node_id for node_id in ready if self._output(node_id)]
        if outputs:
            return outputs[0]
        for node_id in ready:
            if any(self._output(blocked) for blocked in self.blocks[node_id]):
                return node_id
        for node_id in ready:
            if any(self._output(far) for near in self.blocks[node_id] for far in self.blocks.get(near, ())):
                return node_id
        return ready[0]

    def _output(self, node_id: str) -> bool:
        return self.graph.node_class(node_id).output_node

    def done(self, node_id: str) -> None:
        del self.pending[node_id]
        for blocked in self.blocks.pop(node_id, {}):
            self.waits_for[blocked].discard(node_id)

    def add_all(self, node_ids: Iterable[str]) -> None:
        for node_id in node_ids:
            self.add(node_id)
