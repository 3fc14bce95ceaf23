#!/usr/bin/env python3
"""Check many ComfyUI workflows in a pre-commit hook or a CI job. Needs no package.

    python3 .ci/validate_workflows.py workflows/*.json
    python3 .ci/validate_workflows.py --object-info object_info.json workflows/*.json

Without --object-info or --host the definitions of ComfyUI's core nodes are used; classes of node packs are then not
checked. Prints a line for each error. Exit codes: 0 no errors, 1 a workflow has one or cannot be read.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "validate_workflow.py"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="workflows in API or editor format")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--object-info", metavar="FILE", help="node definitions saved from a server's /object_info"
    )
    source.add_argument("--host", metavar="URL", help="ask this server for its definitions")
    return parser.parse_args(argv)


def errors_in(file: str, flags: list[str]) -> list[str]:
    """The lines to print for one workflow; empty when it has no errors."""
    words = [sys.executable, str(SCRIPT), file, *flags]
    done = subprocess.run(words, stdout=subprocess.PIPE, encoding="utf-8", check=False)
    if done.returncode == 0:
        return []
    document = json.loads(done.stdout)
    found = [item for item in document.get("findings", {}).get("items", []) if item["severity"] == "error"]
    return [f"{file}: {item['message']}" for item in found] or [f"{file}: {document['message']}"]


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    flags = ["--offline"]
    if args.object_info:
        flags = ["--object-info", args.object_info]
    elif args.host:
        flags = ["--host", args.host]
    lines = [line for file in args.files for line in errors_in(file, flags)]
    print("\n".join(lines) or f"{len(args.files)} workflow(s) checked, no errors")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
