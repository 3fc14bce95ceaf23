"""An editor file while it is converted: nodes, their inputs, the graph they are in.

Values only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from comfyskill.base import safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.editor.read import BYPASSED, MUTED, Link, Saved, SavedGraph, SavedNode
from comfyskill.editor.widget_values import Layout
from comfyskill.editor.widgets import NodeClass, Widget, output_types, read_class
from comfyskill.graph.nodes import Definitions

# Inputs and class of each node of the API-format graph that is made, by node id.
Prompt = dict[str, dict[str, Any]]
# The largest official template takes about 3,000.
MAX_STEPS = 3_000_000


@dataclass
class Input:
    """One live input slot; `link` is the row that feeds it."""

    name: str
    type: str
    widget: str | None = None
    link: Link | None = None


@dataclass
class Promoted:
    """A subgraph instance's own copy of an inner widget; `source` is that widget, or an inner instance's copy."""

    name: str
    value: Any
    source: Widget | Promoted
    inner_id: str
    inner_name: str

    @property
    def widget(self) -> Widget:
        """The real widget at the end of the chain."""
        source = self.source
        while isinstance(source, Promoted):
            source = source.source
        return source


@dataclass
class Node:
    """One live node. `role` is node, reroute, primitive, note, instance, unknown or virtual."""

    id: str
    type: str
    title: str
    mode: int
    role: str
    saved: SavedNode
    inputs: list[Input] = field(default_factory=list)
    widgets: list[Widget] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    promoted: dict[int, Promoted] = field(default_factory=dict)
    # How its widgets were laid out; None for nodes without a definition.
    layout: Layout | None = None

    @property
    def off(self) -> bool:
        """Muted or bypassed."""
        return self.mode in (MUTED, BYPASSED)

    @property
    def label(self) -> str:
        """How a message names the node."""
        return (
            f"{safe_text.quoted(self.title)} (id {self.id}, {safe_text.name(self.type)})"
            if self.title and self.title != self.type
            else f"{safe_text.name(self.type)} (id {self.id})"
        )

    def widget(self, name: str) -> Widget | None:
        """The widget of that name."""
        return next((widget for widget in self.widgets if widget.name == name), None)


@dataclass
class Graph:
    """One live graph."""

    saved: SavedGraph
    nodes: dict[str, Node] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    # The input names and types of a definition, which old promoted widgets may lengthen.
    inputs: list[tuple[str, str]] = field(default_factory=list)
    # Inner links of each definition input, in order; of each output, the first counts.
    input_links: list[list[str]] = field(default_factory=list)
    instances: list[Node] = field(default_factory=list)


@dataclass
class Conversion:
    """The state of one conversion: live graphs, node classes, warnings."""

    saved: Saved
    definitions: Definitions
    without_server: bool
    classes: dict[str, NodeClass | None] = field(default_factory=dict)
    graphs: dict[str, Graph] = field(default_factory=dict)
    root: Graph = field(default_factory=lambda: Graph(SavedGraph("", "")))
    warnings: list[str] = field(default_factory=list)
    steps: int = 0
    given: set[str] | None = None

    def spend(self) -> None:
        """Count one step of following links. Raises SkillError when there are more than MAX_STEPS."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise SkillError(
                f"following the links of this file takes more than {MAX_STEPS} steps",
                code="cannot_convert",
                hint="real workflows take a few thousand; this file is damaged or malicious",
            )

    def warn(self, text: str) -> None:
        """Keep a warning once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def node_class(self, kind: str) -> NodeClass | None:
        """The definition of a node type, read once; None when there is none."""
        if kind not in self.classes:
            definition = self.definitions.get(kind)
            self.classes[kind] = read_class(kind, definition) if isinstance(definition, Mapping) else None
        return self.classes[kind]

    def all_graphs(self) -> list[Graph]:
        """The graph of every subgraph definition, then the root graph."""
        return [*self.graphs.values(), self.root]

    def is_linked(self, kind: str) -> bool:
        """Whether some node of the definitions gives values of a type."""
        if self.given is None:
            self.given = output_types(self.definitions)
        return kind in self.given


@dataclass(frozen=True, eq=False)
class Place:
    """A graph as one instance of it: the instance node, the place that holds it, and the id prefix of its nodes."""

    graph: Graph
    host: Node | None = None
    parent: Place | None = None
    prefix: str = ""
    depth: int = 0

    def id_of(self, node: Node) -> str:
        """The prompt's id of a node here."""
        return f"{self.prefix}{node.id}"

    def inside(self, instance: Node, graph: Graph) -> Place:
        """The place inside an instance in this graph."""
        return Place(graph, instance, self, f"{self.prefix}{instance.id}:", self.depth + 1)


@dataclass
class Emission:
    """What is gathered while the prompt is written."""

    conversion: Conversion
    now: datetime
    seed: int | None
    choose: Callable[[list[str]], str]
    places: dict[str, tuple[Place, Node]] = field(default_factory=dict)
    choices: list[Document] = field(default_factory=list)

    def draw(self, node_id: str, least: int, most: int) -> int:
        """A whole number for this node; the same one each time when a seed is set."""
        import random

        source = random.Random(f"{self.seed}:{node_id}" if self.seed is not None else None)
        return source.randint(least, most)


def cannot_convert(message: str, hint: str, node: Node) -> SkillError:
    """The error that names the node for which no correct graph can be made."""
    return SkillError(
        message,
        code="cannot_convert",
        hint=hint,
        node={"id": node.id, "title": node.title, "type": node.type},
    )
