"""The commands after a check, ready to run: with the right names, into a repaired copy, and the plan of what can be had.

Level 3. None of them installs anything: an agent runs what stands under `next`, and an install wants the user's word.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from comfyskill.base import safe_text
from comfyskill.deps import report
from comfyskill.deps.check import MISSING, UNKNOWN, Check
from comfyskill.deps.survey import Asked, Workflow

RENAMED = ("model", "value", "file")


def after_check(asked: Asked, done: Sequence[tuple[Workflow, Check]], copy: str | None = None) -> list[str]:
    """What to run after a check that found something missing. copy: the repaired copy that was written already."""
    if not asked.words:
        return []
    if copy is None:
        found, specs = renaming(asked, done), [workflow.spec for workflow, _ in done]
    else:
        whole = asked.live and all(_names_alone(checked) for _, checked in done)
        found, specs = [command("run_workflow.py", copy, *asked.words)] if whole else [], [copy]
    if asked.live and asked.server.api == "local" and "-" not in specs and _plannable(done):
        found.append(command("auto_fix_deps.py", *specs, *asked.words, "--dry-run"))
    return found


def renaming(asked: Asked, done: Sequence[tuple[Workflow, Check]]) -> list[str]:
    """The commands for names that are surely only written otherwise: one for each workflow that has some."""
    return [line for workflow, checked in done if (line := _renaming(asked, workflow, checked))]


def command(script: str, *words: str) -> str:
    """A command of this bundle that can be run from anywhere."""
    return safe_text.shell_words(
        [sys.executable or "python3", str(Path(__file__).resolve().parents[2] / script), *words]
    )


def set_words(checked: Check) -> list[str]:
    """The --set words for the names that are surely only written otherwise."""
    return [
        word
        for item in checked.of(MISSING)
        if item.kind in RENAMED and item.fixed_by_name and item.match is not None
        for use in item.uses
        if use.plain
        for word in ("--set", f"{use.address}={item.match.name}")
    ]


def _renaming(asked: Asked, workflow: Workflow, checked: Check) -> str | None:
    """The run with the right names when names are all that is missing; else a copy that has them."""
    words = set_words(checked)
    if not words or workflow.spec == "-":
        return None
    if asked.live and _names_alone(checked):
        return command("run_workflow.py", workflow.spec, *words, *asked.words)
    if workflow.rough:
        return None
    return command("check_deps.py", workflow.spec, *asked.words, "--repair", _copy_of(workflow.spec))


def _names_alone(checked: Check) -> bool:
    """Whether right names are all that a run lacks."""
    left = [item for item in checked.of(MISSING) if not (item.kind in RENAMED and item.fixed_by_name)]
    return not left and not checked.of(UNKNOWN)


def _copy_of(spec: str) -> str:
    """A name for the repaired copy, beside where the user stands."""
    stem = Path(re.sub(r"^\w+:", "", spec) if not Path(spec).exists() else spec).stem
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', stem).lstrip('-.') or 'workflow'}.repaired.json"


def _plannable(done: Sequence[tuple[Workflow, Check]]) -> bool:
    """Whether a plan would have a step: a pack with an id, or a model with an address."""
    for _, checked in done:
        for item in checked.of(MISSING):
            if item.kind == "node" and item.pack is not None and item.pack.installable:
                return True
            if item.origin is not None and not item.fixed_by_name and report.target(item) is not None:
                return True
    return False
