#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "websocket-client>=1.7,<2", "tqdm>=4.66,<5", "pillow>=10.1,<13", "aiohttp>=3.9,<4"]
# ///
"""Run a ComfyUI workflow many times: sweeps, seeds, tables, folders. Can be stopped, killed and continued.

WORKFLOW is as for run_workflow.py. Varying inputs are set by name (see extract_schema.py) or by NODE.INPUT; several
of these flags combine: every value with every other.

Examples:
    python3 scripts/run_batch.py flow.json --count 8 --output-dir out                    (8 seeds, counted up)
    python3 scripts/run_batch.py flow.json --sweep seed=1,2,3 --sweep cfg=5:8:0.5        (a grid of 21)
    python3 scripts/run_batch.py flow.json --sweep '{"prompt": ["a fox", "a cat, asleep"]}' --count 4
    python3 scripts/run_batch.py flow.json --table runs.csv --retries 1
    python3 scripts/run_batch.py flow.json --input-dir photos --into image --name '{index:03d}'
    python3 scripts/run_batch.py --resume out                        (after Ctrl-C, kill -9 or a power cut)
    python3 scripts/run_batch.py --report out                        (index.html, contact sheet and CSV again)

Prints one JSON document; progress goes to stderr. Agents view contact_sheet.png; people open index.html.
Exit codes: 0 every run succeeded, 1 not all did, 2 misuse (nothing sent), 3 no server, 4 refused, 5 terminated while
runs go on, 6 the server rejected the graph, 7 needs consent, 130 interrupted.
"""

from __future__ import annotations

import argparse
import functools
import sys

from comfyskill.base import cli
from comfyskill.batch import flags


def run_batch(args: argparse.Namespace) -> cli.Document:
    """The report this script prints."""
    from comfyskill.base import file_limits, paths
    from comfyskill.batch import begin
    from comfyskill.pages import make

    cli.listen()
    file_limits.allow(args.max_file_size)
    if args.report:
        return make.alone(paths.absolute(args.report))
    document, folder = begin.report(flags.request(args))
    if folder is not None:
        document |= make.after_runs(folder)
    return begin.naming_the_rest(document)


def main(argv: list[str] | None = None) -> int:
    return cli.main(functools.partial(flags.parse, __doc__), run_batch, argv)


if __name__ == "__main__":
    sys.exit(main())
