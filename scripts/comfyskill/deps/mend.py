"""From a check to a plan, from consent to installs, and a second look at what is then still missing. Level 3."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from comfyskill.base import paths
from comfyskill.base.cli import Exit, SkillError
from comfyskill.deps import comfy_cli, install, manager, next, plan, plan_words, report, survey
from comfyskill.deps import place as deps_place
from comfyskill.deps.check import MISSING, PRESENT, Check
from comfyskill.deps.hosts import AllowedHosts
from comfyskill.deps.install import Outcome
from comfyskill.deps.plan import Step, Ways
from comfyskill.deps.survey import Asked, Workflow


def mend(args: argparse.Namespace) -> dict[str, Any]:
    """The report of auto_fix_deps. Raises SkillError: `consent_needed` (7) without --yes, `refused` (4), …"""
    allowed = AllowedHosts(args.allow_host)
    with survey.asked(args, inventory=args.inventory, needed=True) as asked:
        done = _examined(asked, args.workflows)
        checks = [checked for _, checked in done]
        document: dict[str, Any] = {"counts": report.summary(checks)}
        if asked.server.demo:
            document["demo"] = True
        verdict = report.verdict(checks)
        if verdict == PRESENT:
            return {"status": "ok", "message": "nothing is missing; nothing was done"} | document
        if verdict != MISSING:
            problems = asked.stock.problems
            raise survey.unknown(document, problems)
        ways = _ways(args, asked, allowed)
        steps = plan.plan(checks, ways, args.only)
        steps = plan.with_instead(steps, checks, args.workflows)
        steps = plan.registered(steps, asked.find_registry())
        document["plan"] = [step.to_json() for step in steps]
        document["totals"] = plan.totals(steps, ways)
        document["by"] = _by(ways)
        renamed = _renamed(checks, args.workflows)
        if renamed:
            document["use_instead"] = renamed
        again, left = (
            plan_words.again(args, asked.words),
            plan_words.left_alone(checks, args.only),
        )
        told = plan_words.told(steps, left, next.renaming(asked, done), again, live=asked.live)
        if document["totals"].get("fits") is False:
            told["message"] += "; the disk has not enough room for all of it"
        if args.dry_run:
            return {"status": "dry_run"} | told | document
        _require_consent(args.yes, steps, document, told)
        outcomes: list[Outcome] = []
        try:
            for outcome in install.carry_out(steps, ways):
                outcomes.append(outcome)  # (Ctrl-C keeps those before it)
        except KeyboardInterrupt:
            raise _interrupted(document, outcomes, again) from None
        document["outcomes"] = [outcome.to_json() for outcome in outcomes]
        document |= _restart(args, ways, outcomes)
    return _second_look(args, document, steps, outcomes)


def _examined(asked: Asked, specs: Sequence[str]) -> list[tuple[Workflow, Check]]:
    workflows = [survey.read(spec, asked) for spec in specs]
    return [(workflow, survey.examine(workflow, asked)) for workflow in workflows]


def _ways(args: argparse.Namespace, asked: Asked, allowed: AllowedHosts) -> Ways:
    workspace = paths.expanded(args.workspace) if args.workspace else None
    place = deps_place.models_folder(asked.server, args.models_dir, args.workspace)
    return Ways(
        args.via, asked.server, asked.find_manager(), place.folder if place else None, workspace, allowed,
        args.allow_pickle, deps_place.comfy_acts_here(asked.server, args.workspace), place.by if place else "flag",
    )  # fmt: skip


def _by(ways: Ways) -> dict[str, Any]:
    document: dict[str, Any] = {"host": ways.server.url} | comfy_cli.facts()
    document["manager"] = ways.manager.name if ways.manager is not None else None
    return document


def _renamed(checks: Sequence[Check], specs: Sequence[str]) -> list[dict[str, Any]]:
    """What needs another name and no install."""
    found = []
    for checked, spec in zip(checks, specs, strict=True):
        found += [report.entry(item, spec) for item in checked.of(MISSING) if item.fixed_by_name]
    return found


def _require_consent(
    yes: bool, steps: Sequence[Step], document: dict[str, Any], told: dict[str, Any]
) -> None:
    """Ends here, with the plan, unless there is something to do and the user has agreed to it."""
    doable = [step for step in steps if step.how]
    consents = any(step.consent for step in steps)
    if not doable:
        raise SkillError(
            told["message"], code="consent_needed" if consents else "blocked",
            exit=Exit.UNSAFE if consents else Exit.FAILED, hint=told.get("hint"), next=told.get("next", ()), **document,
        )  # fmt: skip
    if not yes:
        raise SkillError(
            told["message"], code="consent_needed", hint="show the plan to the user, then run again with --yes",
            **document,
        )  # fmt: skip


def _interrupted(document: dict[str, Any], outcomes: Sequence[Outcome], again: Sequence[str]) -> SkillError:
    """Ctrl-C in the middle: what is done stays done and is named, what has arrived of a download is kept."""
    document["outcomes"] = [outcome.to_json() for outcome in outcomes]
    return SkillError(
        f"interrupted by the user; {len(outcomes)} step(s) had ended", code="interrupted", status="cancelled",
        retryable=True, hint="run the same again: a download goes on where it stopped",
        next=[next.command("auto_fix_deps.py", *again, "--dry-run")] if again else (), **document,
    )  # fmt: skip


def _restart(args: argparse.Namespace, ways: Ways, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """New packs are loaded at the next start: ask for it when the user wants it and nothing runs."""
    if not any(outcome.done and outcome.step.kind == "pack" for outcome in outcomes):
        return {}
    needed = {"restart_needed": True, "restart": "restart ComfyUI so that it loads the new node packs"}
    if not args.restart:
        return needed
    if ways.manager is None:
        return needed | {"restart": "there is no Manager that could restart the server: restart it by hand"}
    if _busy(ways.server):
        return needed | {"restart": "the server has jobs, so it was not restarted: do it when they are done"}
    ways.manager.restart()
    if manager.wait_until_back(ways.server.stats):
        return {"restarted": True}
    return needed | {"restart": "the server was told to restart and has not come back yet"}


def _busy(server: Any) -> bool:
    try:
        answer = server.get_json("prompt")
        return bool(answer["exec_info"]["queue_remaining"])
    except (SkillError, KeyError, TypeError):
        return True


def _second_look(
    args: argparse.Namespace, document: dict[str, Any], steps: Sequence[Step], outcomes: Sequence[Outcome]
) -> dict[str, Any]:
    """What is missing now, asked anew of a server object that remembers nothing."""
    with survey.asked(args) as asked:
        checks = [_recheck(asked, spec) for spec in args.workflows]
        problems = asked.stock.problems
    document["counts"] = report.summary(checks)
    verdict = report.verdict(checks)
    if verdict == PRESENT:
        return {"status": "success", "message": "everything that is needed is there now"} | document
    document["still_missing"] = [
        {"kind": item.kind} | report.entry(item, spec)
        for checked, spec in zip(checks, args.workflows, strict=True)
        for item in checked.of(MISSING)
    ]
    if verdict != MISSING:
        raise survey.unknown(document, problems)
    raise _incomplete(document, steps, outcomes)


def _recheck(asked: Asked, spec: str) -> Check:
    return survey.examine(survey.read(spec, asked), asked, sources=False)


def _incomplete(document: dict[str, Any], steps: Sequence[Step], outcomes: Sequence[Outcome]) -> SkillError:
    failed = [outcome for outcome in outcomes if not outcome.done]
    left = len(document["still_missing"])
    message = f"{left} thing(s) are still missing"
    if not failed and document.get("restart_needed"):
        return SkillError(
            f"{message}; the server must be restarted first", code="restart_needed", exit=Exit.FAILED, status="partial",
            hint=document["restart"], **document,
        )  # fmt: skip
    refused = [
        outcome for outcome in failed if outcome.error is not None and outcome.error.exit == Exit.REFUSED
    ]
    if failed and len(refused) == len(failed):
        return SkillError(
            f"{message}: {refused[0].message}", code="refused", status="partial",
            hint=refused[0].error.hint if refused[0].error else None, **document,
        )  # fmt: skip
    consents = sorted({step.consent for step in steps if step.consent})
    if not failed and consents:
        return SkillError(
            f"{message}; some want a consent of their own", code="consent_needed", status="partial",
            hint=f"these flags consent: {', '.join(consents)}", **document,
        )  # fmt: skip
    hint = "see outcomes for what failed" if failed else "see the plan for what blocks them"
    return SkillError(message, code="incomplete", exit=Exit.FAILED, status="partial", hint=hint, **document)
