#!/usr/bin/env python3
"""Run the fast tests and tell which lines of the scripts nothing has run: in tests, commands, threads and forked children.

Examples:
    python3 tests/coverage_report.py
    python3 tests/coverage_report.py -n 4 tests/run/test_run.py tests/base/test_cli.py
    python3 tests/coverage_report.py --missing
    python3 tests/coverage_report.py --html /tmp/coverage

Prints coverage's table; tests/UNCOVERED.md says why the rest is not covered. What is not a flag of this command is handed to
pytest (the ordinary fast tests when it is empty). Takes about twice the time of the tests alone, so CI does not run it.

Exit codes: that of pytest; 2 misuse, or the package coverage is missing (requirements-dev.txt).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# patch: children of subprocess and of fork count, and those that end in os._exit write down what they did.
SETTINGS = """[run]
source = {root}/scripts
data_file = {folder}/data
parallel = true
patch = subprocess, fork, _exit
disable_warnings = no-data-collected, module-not-imported, module-not-measured, couldnt-parse

[report]
precision = 1
skip_empty = true
skip_covered = {skip}
show_missing = true
exclude_also =
    if TYPE_CHECKING:
    raise NotImplementedError
    \\.\\.\\.$
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--missing", action="store_true", help="leave out the files that are covered whole")
    parser.add_argument("--html", type=Path, metavar="FOLDER", help="write pages with the lines marked, too")
    args, for_pytest = parser.parse_known_args(argv)
    if importlib.util.find_spec("coverage") is None:
        print(
            "the package coverage is missing: python3 -m pip install -r requirements-dev.txt", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder:
        settings = Path(folder, "settings")
        settings.write_text(SETTINGS.format(root=ROOT, folder=folder, skip=str(args.missing).lower()))
        return measured(settings, for_pytest or ["-q", "-n", "4"], args.html)


def measured(settings: Path, for_pytest: list[str], html: Path | None) -> int:
    """pytest's exit code, after the table is printed."""
    coverage = [sys.executable, "-m", "coverage"]
    chosen = f"--rcfile={settings}"
    # A clean table needs modules compiled here, not read from a cache of another place.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [*coverage, "run", chosen, "-m", "pytest", *for_pytest], cwd=ROOT, env=environment, check=False
    )
    subprocess.run([*coverage, "combine", chosen, "--quiet"], cwd=ROOT, check=True)
    subprocess.run([*coverage, "report", chosen], cwd=ROOT, check=False)
    if html is not None:
        subprocess.run([*coverage, "html", chosen, "-d", str(html)], cwd=ROOT, check=True)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
