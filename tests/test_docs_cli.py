"""references/cli.md says what the commands say of themselves."""

from __future__ import annotations

import make_cli_reference
from bundle import SCRIPTS


def test_the_reference_is_what_help_prints() -> None:
    page = make_cli_reference.PAGE.read_text(encoding="utf-8")
    wanted = make_cli_reference.page()
    differing = [line for line in wanted.splitlines() if line not in set(page.splitlines())]
    assert page == wanted, f"run: python3 tests/make_cli_reference.py (new lines: {differing[:5]})"


def test_the_reference_knows_every_command() -> None:
    commands = {path.stem for path in SCRIPTS.glob("[a-z]*.py")}
    assert set(make_cli_reference.ORDER) == commands
