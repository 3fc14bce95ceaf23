#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "pillow>=10.1,<13", "aiohttp>=3.9,<4"]
# ///
"""Show what a ComfyUI workflow lets you change, by name, and what it needs.

WORKFLOW is a file (API or editor format, or a picture or video made by ComfyUI), '-' for standard input,
template:NAME, server:NAME or subgraph:NAME. Names, types, ranges and choices come from the server's node definitions,
from definitions saved with --object-info, or, offline, from cached or built-in tables; `definitions` says which.

Examples:
    python3 scripts/extract_schema.py workflows/sdxl_txt2img.json --offline
    python3 scripts/extract_schema.py my_workflow.json --host http://127.0.0.1:8188 --summary-only
    python3 scripts/extract_schema.py picture.png --object-info object_info.json

Each parameter has a `name` (for run_workflow.py --set NAME=VALUE) and an address (`set`: node id and input, NODE.INPUT,
always valid). Redundant keys are omitted: `title` (it is the class type), `named_by` (the input's own name),
`typed_by` (a node definition); `choices` shared with another parameter are shown only there (`same_as`).
`groups` describes names that several inputs share. A linked input is not a parameter; its source is.
`inputs_by_choice` lists the inputs that each choice of a dynamic input adds; `autogrow` the groups of inputs that grow
(`images.image0`, `images.image1`, ...): the address of the next one, how many are required and possible, what each takes.

Exit codes: 0 shown, 2 unreadable workflow or bad flags, 3 named server unreachable, 4 refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from comfyskill.base import cli, flags, safe_text
from comfyskill.base.cli import Document
from comfyskill.graph.nodes import Definitions, Graph

if TYPE_CHECKING:
    from comfyskill.graph.parameters import ParameterSet
    from comfyskill.graph.specs import Book

MOST_PARAMETERS = 400


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    from comfyskill.server import node_definitions

    parser = flags.parser(__doc__)
    parser.add_argument("workflow", metavar="WORKFLOW", help="the workflow to read")
    parser.add_argument(
        "--summary-only",
        action="store_true",
        help="names and values of the main parameters, without types and ranges",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help=f"list every input (else {MOST_PARAMETERS} at most) and every choice of long lists",
    )
    flags.add_unsure_flag(parser)
    node_definitions.add_flags(parser)
    return parser.parse_args(argv)


def report(args: argparse.Namespace) -> Document:
    """The document this script prints."""
    from comfyskill.graph import nodes
    from comfyskill.server import node_definitions
    from comfyskill.source import read

    facts = node_definitions.from_flags(args)
    source = read.read(
        args.workflow,
        server=facts.live,
        definitions=lambda: node_definitions.fetch(facts),
        allow_unsure=args.allow_unsure,
    )
    classes = sorted({nodes.class_of(node) for _, node in nodes.each(source.graph)})
    known = node_definitions.fetch(facts, classes) if classes else node_definitions.Definitions("none")
    document: Document = {
        "status": "ok",
        "workflow": source.origin,
        "format": "editor" if source.converted else "api",
        "definitions": known.origin if known.classes else "none",
    }
    document |= schema(source.graph, known.classes, summary=args.summary_only, every=args.all)
    if source.warnings:
        document["warnings"] = safe_text.cap(source.warnings, 20)
    return document


def schema(
    graph: Graph,
    definitions: Definitions | None,
    *,
    summary: bool = False,
    every: bool = False,
) -> Document:
    """What a graph lets a person change and what it needs; `summary` leaves types, ranges and the rest out."""
    from comfyskill.graph import parameters as graph_parameters
    from comfyskill.graph import specs

    parameters = graph_parameters.find(graph, definitions)
    facts = _facts(graph, definitions, parameters)
    if summary:
        named = {parameter.name: parameter.value for parameter in parameters.named()}
        return facts | {
            "values": named,
            "groups": {
                plain: group.sets_all for plain, group in parameters.groups.items() if len(group.members) > 1
            },
            "other_inputs": len(parameters.parameters) - len(named),
        }
    total = len(parameters.parameters)
    document = facts | parameters.to_json(total if every else MOST_PARAMETERS, every=every)
    if total > len(document["parameters"]):
        document["parameters_total"] = total
        document["hint"] = "--all lists the rest"
    book = specs.Book(definitions)
    unset = _unset(graph, book)
    if unset:
        document["also_settable"] = safe_text.cap(unset, len(unset) if every else 40)
    growing = list(_growing(graph, book, every=every))
    if growing:
        document["autogrow"] = safe_text.cap(growing, len(growing) if every else 20)
    return document


def _facts(graph: Graph, definitions: Definitions | None, parameters: ParameterSet) -> Document:
    from comfyskill.graph import facts as graph_facts
    from comfyskill.graph import nodes, specs

    book = specs.Book(definitions)
    unknown = sorted({nodes.class_of(node) for _, node in nodes.each(graph)} - set(book.class_types()))
    document: Document = {
        "nodes": sum(1 for _ in nodes.each(graph)),
        "names_from": parameters.source,
        "outputs": [output._asdict() for output in graph_facts.outputs_of(graph, definitions)],
        "input_files": [
            {"name": p.name, "set": p.address, "kind": p.upload, "value": p.value}
            | ({"feeds": p.feeds} if p.feeds else {})
            for p in parameters
            if p.upload
        ],
        "models": [
            {"name": use.name, "folder": use.folder, "set": f"{use.node_id}.{use.input}"}
            for use in graph_facts.models_in(graph)
        ],
        "embeddings": sorted({use.name for use in graph_facts.embeddings_in(graph)}),
        "is_video": graph_facts.is_video(graph, definitions),
        "partner_nodes": graph_facts.partner_nodes(graph, definitions),
        "sampling_steps": graph_facts.sampling_steps(graph, definitions),
    }
    if definitions and unknown:
        document["classes_without_definition"] = safe_text.cap(unknown, 20)
    return document


def _growing(graph: Graph, book: Book, *, every: bool) -> Iterator[Document]:
    """The groups of inputs that grow: the address of the next input, how many are required and possible, what each takes."""
    from comfyskill.graph import describe, nodes, specs

    for node_id, node in nodes.each(graph):
        for spec in book.groups(node):
            group = specs.autogrow_of(spec)
            if group is None:
                continue
            free = next((name for name in group.names if name not in nodes.inputs_of(node)), None)
            following = {} if free is None else {"set": f"{node_id}.{free}"}
            yield following | {"class_type": nodes.class_of(node)} | describe.autogrow(spec, full=every)


def _unset(graph: Graph, book: Book) -> list[str]:
    """Addresses of inputs that the definitions declare and the graph leaves out."""
    from comfyskill.graph import nodes

    return [
        f"{node_id}.{name}"
        for node_id, node in nodes.each(graph)
        for name, spec in book.specs(node).items()
        if spec.is_widget and name not in nodes.inputs_of(node)
    ]


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, report, argv)


if __name__ == "__main__":
    sys.exit(main())
