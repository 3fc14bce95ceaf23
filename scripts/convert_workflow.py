#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "pillow>=10.1,<13", "aiohttp>=3.9,<4"]
# ///
"""Convert a workflow that the ComfyUI editor saved into the API-format graph that the server runs, and back.

FILE is an editor file, a picture or video made by ComfyUI, '-' for standard input, template:NAME, server:NAME or
subgraph:NAME (a blueprint, with loaders and savers at its open ends). The graph itself is printed, exactly as the
editor would queue it, so that it can be piped; warnings go to stderr.
With --output the graph goes to a file and a report is printed: warnings, missing node types with their pack, model
files with their source, the choices of dynamic prompts, how certain the values of each node are.

Values that do not fit a node's inputs are not shifted: names in the file are used, else the one layout that fits, else
the node is refused by name; --allow-unsure converts it as the editor would, with a warning.

Node definitions come from the server (--host), from a saved /object_info (--object-info), else from what was last
seen of the server, else from the built-in definitions of the core nodes; nodes that these lack are refused by name.

Examples:
    python3 scripts/convert_workflow.py my_workflow.json --host http://127.0.0.1:8188 > my_workflow_api.json
    python3 scripts/convert_workflow.py my_workflow.json --offline --output my_workflow_api.json
    python3 scripts/convert_workflow.py template:image_flux2 | python3 scripts/run_workflow.py -
    python3 scripts/convert_workflow.py --to-editor my_workflow_api.json --output for_the_editor.json
    python3 scripts/convert_workflow.py --diff old.json new.json
    python3 scripts/convert_workflow.py --check-pack object_info.json

Exit codes: 0 converted, 1 cannot be converted correctly (the node is named), 2 unreadable file or bad flags,
3 named server unreachable, 4 refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from comfyskill.base import cli, flags, foreign, paths, safe_text
from comfyskill.base.cli import Document, Misuse

if TYPE_CHECKING:
    from comfyskill.graph.nodes import Graph
    from comfyskill.server.facts import Facts

MOST = 50


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    from comfyskill.server import node_definitions

    parser = flags.parser(__doc__)
    parser.add_argument("file", metavar="FILE", nargs="?", help="the workflow to convert")
    parser.add_argument("--output", metavar="OUT", help="write the result to this file and print a report")
    parser.add_argument(
        "--explain", action="store_true", help="explain what became of every node and link of the file"
    )
    parser.add_argument(
        "--seed-wildcards", type=int, metavar="N", help="make the choices of {a|b} prompts reproducible"
    )
    flags.add_unsure_flag(parser)
    parser.add_argument(
        "--to-editor", action="store_true", help="the reverse: lay out an API graph for the editor"
    )
    parser.add_argument(
        "--diff", nargs=2, metavar=("A", "B"), help="say how two workflows of any format differ"
    )
    parser.add_argument(
        "--check-pack",
        metavar="OBJECT_INFO",
        help="list the classes of a saved /object_info whose widgets neither types nor pack rules settle",
    )
    node_definitions.add_flags(parser)
    args = parser.parse_args(argv)
    _refuse_contradictions(parser, args)
    return args


def _refuse_contradictions(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if not (args.file or args.diff or args.check_pack):
        parser.error("give one FILE, --diff A B or --check-pack OBJECT_INFO")
    if args.diff and (args.file or args.check_pack):
        parser.error("--diff takes two files and no FILE")
    if args.check_pack and args.file:
        parser.error("--check-pack takes node definitions, not a workflow")
    if not args.file and (args.output or args.to_editor):
        name = "--diff" if args.diff else "--check-pack"
        parser.error(f"{name} prints its report; it excludes --output and --to-editor")


def convert(
    file: str, facts: Facts, *, seed: int | None, explain: bool, allow_unsure: bool
) -> tuple[Graph, Document]:
    """The API-format graph of the file, and the report on it.

    A file that already holds an API graph (also a picture, which holds the very graph that made it) gives that.
    """
    from comfyskill.editor import convert as editor_convert
    from comfyskill.server import node_definitions
    from comfyskill.source import read

    loaded = read.load(file, server=facts.live)
    if loaded.graph is not None:
        warnings = [*loaded.warnings, "this is an API-format graph already; it is passed on unchanged"]
        return loaded.graph, _report(loaded.origin, len(loaded.graph), warnings, converted=False)
    known = node_definitions.fetch(facts)
    made = editor_convert.convert(
        loaded.editor,
        known.classes,
        wildcard_seed=seed,
        without_server=not known.complete,
        explain=explain,
        allow_unsure=allow_unsure,
    )
    report = _report(loaded.origin, len(made.graph), [*loaded.warnings, *made.warnings])
    report["frontend"] = editor_convert.FRONTEND
    report["definitions"] = known.origin
    if made.missing_types:
        report["missing_types"] = safe_text.cap(made.missing_types, MOST)
        report["hint"] = "the server rejects nodes of missing types: install their packs, then convert again"
    if made.models:
        report["models"] = safe_text.cap(made.models, MOST)
    if made.choices:
        report["choices"] = safe_text.cap(made.choices, MOST)
    report["verdicts"] = _verdicts(made.verdicts, all_nodes=explain)
    if explain:
        report["explanation"] = made.explanation
    return made.graph, report


def _verdicts(verdicts: list[Document], *, all_nodes: bool) -> Document:
    """How sure the values are: counts, and the nodes (with --explain all, else those that are not exact)."""
    counts = Counter(entry["verdict"] for entry in verdicts)
    shown = [entry for entry in verdicts if all_nodes or entry["verdict"] != "exact"]
    return {"counts": dict(sorted(counts.items()))} | safe_text.cap(shown, MOST)


def to_editor(file: str, facts: Facts) -> tuple[Document, Document]:
    """The editor file of an API graph, and the report on it."""
    from comfyskill.editor import to_editor as editor_layout
    from comfyskill.server import node_definitions
    from comfyskill.source import read

    loaded = read.load(file, server=facts.live)
    if loaded.graph is None:
        raise Misuse("this is an editor file already", hint="omit --to-editor to convert it to API format")
    definitions = node_definitions.fetch(facts).classes or {}
    editor = editor_layout.to_editor(loaded.graph, definitions)
    classes = {str(node.get("class_type")) for node in loaded.graph.values()}
    warnings = list(loaded.warnings)
    if unknown := sorted(classes - definitions.keys()):
        warnings.append(
            f"no definitions of {safe_text.quoted_list(unknown, 10)}: their slots are laid out as the graph names them"
        )
    return editor, _report(loaded.origin, len(editor["nodes"]), warnings, form="editor")


def _report(
    origin: str, nodes: int, warnings: list[str], *, converted: bool = True, form: str = "api"
) -> Document:
    """The keys that the reports on a conversion share."""
    report = {"status": "success", "workflow": origin, "converted": converted, "format": form, "nodes": nodes}
    return report | ({"warnings": safe_text.cap(warnings, MOST)} if warnings else {})


def difference(specs: list[str], facts: Facts, *, seed: int, allow_unsure: bool) -> Document:
    """The report of --diff."""
    from comfyskill.editor import diff
    from comfyskill.server import node_definitions
    from comfyskill.source import read

    first, second = (
        read.read(
            spec,
            server=facts.live,
            definitions=lambda: node_definitions.fetch(facts),
            wildcard_seed=seed,
            allow_unsure=allow_unsure,
        )
        for spec in specs
    )
    found = diff.diff(first.graph, second.graph)
    report = {
        "status": "success",
        "same": not found,
        "first": first.origin,
        "second": second.origin,
        "differences": safe_text.cap(found, 200),
    }
    warnings = [f"{source.origin}: {warning}" for source in (first, second) for warning in source.warnings]
    return report | ({"warnings": safe_text.cap(warnings, MOST)} if warnings else {})


def check_pack(path: str) -> Document:
    """The report of --check-pack: the classes that need a rule in `editor/pack_rules.py`."""
    from comfyskill.editor import verdicts
    from comfyskill.server import node_definitions

    definitions = node_definitions.from_file(path)
    found = verdicts.without_rule(definitions)
    report = {
        "status": "success",
        "classes": len(definitions),
        "settled": len(definitions) - len({entry["class_type"] for entry in found}),
        "unsettled": safe_text.cap(found, 200),
    }
    if found:
        report["hint"] = (
            "look the type up in the pack's browser code: if getCustomWidgets names it, add a row with it to"
            " scripts/comfyskill/editor/pack_rules.py; otherwise it is a link and needs no row"
        )
    return report


def write(text: str, output: Path, original: Path) -> Document:
    """Write the result to a file, and give its place for the report. Refuses to replace the original."""
    from comfyskill.base import file_names

    if original.exists() and output.exists() and original.samefile(output):
        raise Misuse(
            "--output names the file that is converted; the original would be lost", hint="give another name"
        )
    hint = "check that the folder exists, is writable and has free space"
    file_names.write_asked(output, text.encode("ascii"), hint)
    return {"file": str(paths.absolute(output))}


def produce(args: argparse.Namespace) -> tuple[str | None, Document]:
    """The text to print instead of the report (None where the report itself is printed), and the report."""
    from comfyskill.server import node_definitions

    if args.check_pack:
        return None, check_pack(args.check_pack)
    facts = node_definitions.from_flags(args)
    seed, allow_unsure = args.seed_wildcards, args.allow_unsure
    if args.diff:
        return None, difference(args.diff, facts, seed=seed or 0, allow_unsure=allow_unsure)
    result: Graph
    if args.to_editor:
        result, report = to_editor(args.file, facts)
    else:
        result, report = convert(args.file, facts, seed=seed, explain=args.explain, allow_unsure=allow_unsure)
    text = safe_text.redact(json.dumps(result, ensure_ascii=True, indent=2, allow_nan=False)) + "\n"
    if args.output is None:
        return text, report
    return None, report | write(text, Path(args.output), Path(args.file))


def main(argv: list[str] | None = None) -> int:
    # Success prints the graph instead of a document; every failure is still a document.
    graphs: list[str] = []

    def report(args: argparse.Namespace) -> Document:
        text, document = produce(args)
        if text is not None:
            graphs.append(text)
        return document

    def show(_args: argparse.Namespace, document: Mapping[str, object]) -> bool:
        if not graphs:
            return cli.emit(document)
        _say(document)
        return cli.write_out(graphs[0])

    return cli.main(parse_args, report, argv, show=show)


def _say(report: Mapping[str, object]) -> None:
    """The report's warnings on stderr, one a line, for a run that prints the graph itself."""
    for warning in foreign.items(foreign.mapping(report.get("warnings")).get("items")):
        cli.warn(f"warning: {warning}")
    for entry in _entries(report, "missing_types"):
        pack = entry.get("cnr_id") or entry.get("aux_id")
        version = safe_text.name(entry.get("ver", ""))
        of_pack = f" (pack {safe_text.quoted(pack)} {version})" if pack else ""
        cli.warn(f"missing node type: {safe_text.quoted(entry['class_type'])}{of_pack}")
    for entry in _entries(report, "choices"):
        place = safe_text.name(f"{entry['node_id']}.{entry['input']}")
        cli.warn(f"chosen for node {place}: {safe_text.quoted(entry['chosen'])}")
    if "explanation" in report:
        for line in foreign.mappings(report["explanation"]):
            cli.warn(line["text"])
        for entry in _entries(report, "verdicts"):
            cli.warn(f"{entry['node_id']} ({entry['class_type']}): {entry['verdict']}")


def _entries(report: Mapping[str, object], key: str) -> list[Document]:
    """The objects in a capped list of the report."""
    return [dict(entry) for entry in foreign.mappings(foreign.mapping(report.get(key)).get("items"))]


if __name__ == "__main__":
    sys.exit(main())
