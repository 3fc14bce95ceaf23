"""What a plan comes to, in words: how many steps, what blocks the others, which flag or command goes on. Level 3."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from comfyskill.base import file_limits, safe_text
from comfyskill.deps import next
from comfyskill.deps.check import MISSING, Check
from comfyskill.deps.plan import Step

MOST_REASONS = 3
FLAG_MEANS = {"--models-dir DIR": ", the server's models folder as this machine sees it"}


# What no install brings, and how it is had.
OTHER_WAYS = {
    "file": "files are given with run_workflow.py --input-file",
    "value": "values are chosen anew with --set",
}


def told(
    steps: Sequence[Step],
    left: Mapping[str, int],
    renaming: Sequence[str],
    again: Sequence[str],
    *,
    live: bool = True,
) -> dict[str, Any]:
    """Message, hint and next for a plan that was not carried out.

    left: how many missing things of a kind the plan leaves alone ("name": they only need another name, and `renaming`
    are the commands for that). again: the words that make the same plan. live: a server answers, and no inventory.
    """
    doable = [step for step in steps if step.how]
    blocked = [step for step in steps if not step.how]
    parts = [f"a plan of {_counted(doable)}"] if doable else []
    if blocked:
        parts.append(f"{_counted(blocked)} {'is' if len(blocked) == 1 else 'are'} blocked")
    if not steps:
        parts.append("nothing has to be installed")
    parts += [_left_alone(left)] if left else []
    document: dict[str, Any] = {"message": f"{'; '.join(parts)}; nothing was changed"}
    lacking = _flags(step.lacks for step in blocked)
    consents = _flags(step.consent for step in blocked)
    hints = [f"give {flag}{FLAG_MEANS.get(flag, '')}" for flag in lacking] + [
        f"{flag} consents" for flag in consents
    ]
    hints += _other_reasons(blocked)
    hints += [OTHER_WAYS[kind] for kind in left if kind in OTHER_WAYS]
    if "name" in left:
        hints.append("write names as use_instead has them" + (": next does it" if renaming else ""))
    if doable:
        flags = (
            "--yes in the place of --dry-run"
            if live
            else "--host and --yes in the place of --inventory and --dry-run"
        )
        hints.insert(0, f"show the plan to the user; {flags} carries it out")
    hints = [*_instead(steps), *hints]
    if hints:
        document["hint"] = "; ".join(hints)
    following = [*renaming, *_next(doable, consents, again)]
    return document | ({"next": following} if following else {})


def again(args: argparse.Namespace, server_words: Sequence[str]) -> list[str]:
    """The words that make the same plan of the same workflows; nothing for a workflow from standard input."""
    if "-" in args.workflows:
        return []
    words = [*args.workflows, *server_words]
    for flag, value in (
        ("--only", args.only),
        ("--models-dir", args.models_dir),
        ("--workspace", args.workspace),
    ):
        words += [flag, value] if value else []
    words += ["--via", args.via] if args.via != "auto" else []
    words += [word for host in args.allow_host for word in ("--allow-host", host)]
    words += file_limits.flag_words()
    return [*words, *(["--allow-pickle"] if args.allow_pickle else [])]


def _next(doable: Sequence[Step], consents: Sequence[str], again: Sequence[str]) -> list[str]:
    """A plan with the flags that unblock more of it: only shown, since consent is the user's to give."""
    if not again or not consents or doable:
        return []
    words = [word for flag in consents for word in flag.split(" ", 1)]
    return [next.command("auto_fix_deps.py", *again, *words, "--dry-run")]


def left_alone(checks: Sequence[Check], only: str | None) -> dict[str, int]:
    """How many missing things of a kind no step of a plan is about."""
    planned = {None: ("node", "model", "embedding"), "nodes": ("node",), "models": ("model", "embedding")}[
        only
    ]
    kinds = [
        "name" if item.fixed_by_name else item.kind
        for item in {
            (item.kind, item.name): item for checked in checks for item in checked.of(MISSING)
        }.values()
    ]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds) if kind not in planned}


def _left_alone(left: Mapping[str, int]) -> str:
    counted = ", ".join(f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in left.items())
    return f"{counted} {'is' if sum(left.values()) == 1 else 'are'} wrong or missing that it does not touch"


def _other_reasons(blocked: Sequence[Step]) -> list[str]:
    """Why steps are blocked that no flag unblocks, a few of them."""
    others = [step for step in blocked if not step.lacks and not step.consent]
    more = [f"{len(others) - MOST_REASONS} more, see plan"] if len(others) > MOST_REASONS else []
    return [f"{safe_text.quoted(step.name)}: {step.blocked}" for step in others[:MOST_REASONS]] + more


def _instead(steps: Sequence[Step]) -> list[str]:
    """What the server has in the place of something to download, a few of them."""
    return [
        f"the server has {safe_text.quoted(step.instead['use_instead'])}, perhaps in the place of "
        f"{safe_text.quoted(step.name)}: `set` of that step runs with it and nothing is downloaded"
        for step in steps
        if step.instead
    ][:MOST_REASONS]


def _flags(found: Any) -> list[str]:
    return sorted({flag for flag in found if flag})


def _counted(steps: Sequence[Step]) -> str:
    return f"{len(steps)} step{'' if len(steps) == 1 else 's'}"
