#!/usr/bin/env python3
"""Write references/cli.md from what the commands print as --help.

Example:
    python3 tests/make_cli_reference.py

tests/test_docs_cli.py fails when the file and the commands disagree.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
PAGE = ROOT / "references" / "cli.md"
ORDER = """run_workflow run_batch extract_schema validate_workflow inspect_workflow convert_workflow check_deps auto_fix_deps
health_check server_info manage_queue ws_monitor fetch_logs hardware_check comfyui_setup demo_server""".split()
INTRO = """# All commands and flags

Read this to look up a flag. Made from `--help` by `tests/make_cli_reference.py`; do not edit it by hand.

Every command prints one JSON document and uses the exit codes of `SKILL.md`. Flags cannot be shortened. The page is long:
when you want one command, its own `--help` is shorter.
"""
SHARED = ("server", "node definitions")


def help_of(script: str, *sub: str) -> str:
    """The help text of a command, unwrapped by width."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / f"{script}.py"), *sub, "--help"], capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "1000", "NO_COLOR": "1"},
    )  # fmt: skip
    return done.stdout


def split(text: str) -> tuple[str, dict[str, list[tuple[str, str]]], str]:
    """(description, groups of (flag, meaning), what follows them) of a help text; usage lines are left out."""
    lines = text.split("\n\n", 1)[1].splitlines()
    groups: dict[str, list[tuple[str, str]]] = {}
    about: list[str] = []
    tail: list[str] = []
    group: str | None = None
    for line in lines:
        title = re.fullmatch(r"(positional arguments|options|\w[\w ]*):", line)
        row = re.match(r"^ {2,4}(\S.*?)(?: {2,}(\S.*))?$", line)
        if (
            title
            and title[1] != "Examples"
            and (group is not None or title[1] == "positional arguments" or title[1] == "options")
        ):
            group = title[1]
            groups[group] = []
            tail = []
        elif group is None:
            about.append(line)
        elif row and not tail and not line.startswith(" " * 8):
            groups[group].append((row[1], row[2] or ""))
        elif line.startswith(" " * 8) and groups[group] and not tail:
            flag, meaning = groups[group][-1]
            groups[group][-1] = (flag, f"{meaning} {line.strip()}".strip())
        elif line.strip() or tail:
            tail.append(line)
    return (
        "\n".join(about).strip(),
        {name: rows for name, rows in groups.items() if rows},
        "\n".join(tail).strip(),
    )


def table(rows: list[tuple[str, str]]) -> str:
    """Rows as a markdown table; --help itself is left out."""
    kept = [(flag, meaning) for flag, meaning in rows if flag != "-h, --help"]
    return "| Flag | Meaning |\n|---|---|\n" + "".join(
        f"| `{cell(flag)}` | {cell(meaning)} |\n" for flag, meaning in kept
    )


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def section(script: str) -> str:
    """One command: what it says of itself, and its own flags."""
    about, groups, tail = split(help_of(script))
    parts = [f"## {script}.py\n", f"```text\n{about}\n```\n"]
    for name, rows in groups.items():
        if name in SHARED:
            continue
        if any(flag != "-h, --help" for flag, _ in rows):
            parts.append(f"**{name}**\n\n{table(rows)}")
    shared = [name for name in SHARED if name in groups]
    if shared:
        parts.append(
            "Also the flags of " + " and ".join(f"[{name}](#{anchor(name)})" for name in shared) + ".\n"
        )
    if tail:
        parts.append(f"```text\n{tail}\n```\n")
    for sub in commands_of(groups):
        parts.append(subsection(script, sub))
    return "\n".join(parts)


def commands_of(groups: dict[str, list[tuple[str, str]]]) -> list[str]:
    """The sub-commands, where the first positional is a choice of them."""
    rows = groups.get("positional arguments", [])
    return [name for name, _ in rows[1:]] if rows and rows[0][0] in ("COMMAND", "QUESTION") else []


def subsection(script: str, sub: str) -> str:
    about, groups, _ = split(help_of(script, sub))
    own = [
        row
        for name in groups
        if name not in SHARED
        for row in groups[name]
        if row[0] not in ("-h, --help", "--quiet")
    ]
    text = f"### {script}.py {sub}\n\n{about.splitlines()[0].strip() if about else ''}\n"
    return text + (f"\n{table(own)}" if own else "")


def anchor(name: str) -> str:
    return f"flags-of-{name.replace(' ', '-')}"


def page() -> str:
    """The whole reference."""
    shared = dict(split(help_of("extract_schema"))[1])
    parts = [INTRO, *(section(script) for script in ORDER)]
    for name in SHARED:
        parts.append(f"## Flags of {name}\n\n{table(shared[name])}")
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
