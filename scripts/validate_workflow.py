#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "pillow>=10.1,<13", "aiohttp>=3.9,<4"]
# ///
"""Check a ComfyUI workflow without running it.

Finds what the server would reject (unknown classes, missing or mistyped inputs, values not in its lists, cycles, no
output) and what would run but be wrong (a LoRA that nothing uses, sizes off the model's grid, one encoder for both
prompts, deprecated nodes). Each finding has a severity, the node and what to do.

WORKFLOW is a file (API or editor format, or a picture or video made by ComfyUI), '-' for standard input,
template:NAME, server:NAME or subgraph:NAME. Without a server the check uses --object-info, or cached or built-in
definitions, and says what it could not check.

Examples:
    python3 scripts/validate_workflow.py my_workflow.json --host http://127.0.0.1:8188
    python3 scripts/validate_workflow.py my_workflow.json --object-info object_info.json
    python3 scripts/validate_workflow.py workflows/sdxl_txt2img.json --offline

Exit codes: 0 no errors found, 2 unreadable workflow or bad flags, 3 named server unreachable,
4 refused, 6 the server would reject the workflow or drop an output.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from comfyskill.base import cli, flags, safe_text
from comfyskill.base.cli import Document

if TYPE_CHECKING:
    from comfyskill.graph.finding import Finding

MOST_FINDINGS = 100


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    from comfyskill.server import node_definitions

    parser = flags.parser(__doc__)
    parser.add_argument("workflow", metavar="WORKFLOW", help="the workflow to check")
    parser.add_argument("--all", action="store_true", help=f"every finding (else {MOST_FINDINGS} at most)")
    flags.add_unsure_flag(parser)
    node_definitions.add_flags(parser)
    return parser.parse_args(argv)


def report(args: argparse.Namespace) -> Document:
    """The document this script prints."""
    from comfyskill.graph import check
    from comfyskill.server import node_definitions
    from comfyskill.source import read

    facts = node_definitions.from_flags(args)
    source = read.read(
        args.workflow,
        server=facts.live,
        definitions=lambda: node_definitions.fetch(facts),
        allow_unsure=args.allow_unsure,
    )
    known = node_definitions.fetch(facts)
    found = check.findings(
        source.graph, known.classes, complete=known.complete, replacements=facts.replacements()
    )
    document = verdict(found, every=args.all)
    document |= {
        "workflow": source.origin,
        "format": "editor" if source.converted else "api",
        "definitions": known.origin if known.classes else "none",
    }
    if source.warnings:
        document["warnings"] = safe_text.cap(source.warnings, 20)
    return document


def verdict(found: list[Finding], *, every: bool = False) -> Document:
    """Findings as a document: `status` "ok" or "invalid", counts by severity, and the findings, errors first."""
    from comfyskill.graph import check

    counts = dict.fromkeys(("error", "warning", "info"), 0)
    for finding in found:
        counts[finding.severity] += 1
    document: Document = {"status": "ok", "counts": counts}
    if check.rejected(found):
        first = found[0]
        document = {
            "status": "invalid",
            "code": "rejected",
            "message": f"{counts['error']} error(s): {first.message}",
            "hint": first.fix,
            "retryable": False,
            "counts": counts,
        }
    document["findings"] = safe_text.cap(
        [finding.to_json() for finding in found], len(found) if every else MOST_FINDINGS
    )
    return document


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, report, argv)


if __name__ == "__main__":
    sys.exit(main())
