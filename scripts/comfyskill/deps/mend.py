"""From a check to a plan, from consent to installs, then a second check of what is still missing."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from comfyskill.base import cli, foreign, paths, programs, safe_files, safe_text
from comfyskill.base.cli import Document, Exit, SkillError
from comfyskill.deps import comfy_cli, download, plan, report, survey
from comfyskill.deps import manager as deps_manager
from comfyskill.deps import place as deps_place
from comfyskill.deps.check import MISSING, PRESENT, Check
from comfyskill.deps.download import AllowedHosts
from comfyskill.deps.plan import COMFY, DOWNLOAD, MANAGER, Options, Step, Ways, manager_order
from comfyskill.deps.survey import Asked, Workflow
from comfyskill.server.facts import Facts
from comfyskill.server.protocol import Dialect


def mend(connect: Callable[[], Facts], options: Options) -> Document:
    """The report of auto_fix_deps. Raises SkillError: `consent_needed` (7) without --yes, `refused` (4), …

    connect: gives the server; it is called again for the check after the installs, since a server keeps its answers.
    """
    allowed = AllowedHosts(options.allow_host)
    with contextlib.closing(connect()) as server:
        asked = Asked(server)
        done = _examined(asked, options.workflows)
        checks = [checked for _, checked in done]
        document: Document = {"counts": report.summary(checks)}
        if server.demo:
            document["demo"] = True
        verdict = report.verdict(checks)
        if verdict == PRESENT:
            return {"status": "ok", "message": "nothing is missing; nothing was changed"} | document
        if verdict != MISSING:
            raise survey.unknown(document, asked.stock.problems)
        ways = _ways(options, asked, allowed)
        steps = plan.plan(checks, options.workflows, ways, options.only)
        document["plan"] = [step.to_json() for step in steps]
        document["totals"] = plan.totals(steps, ways)
        document["by"] = {
            "host": server.url,
            "comfy_cli": comfy_cli.program(),
            "manager": ways.manager.name if ways.manager is not None else None,
        }
        renamed = _renamed(checks, options.workflows)
        if renamed:
            document["use_instead"] = renamed
        repeated = options.repeated(server.flags)
        left = plan.left_alone(checks, options.only)
        summary = plan.summary(steps, left, survey.renaming(asked, done), repeated, live=asked.live)
        if document["totals"].get("fits") is False:
            summary["message"] += "; the disk does not have enough space for all of it"
        if options.dry_run:
            return {"status": "dry_run"} | summary | document
        _require_consent(options.yes, steps, document, summary)
        outcomes: list[Outcome] = []
        try:
            for outcome in carry_out(steps, ways):
                outcomes.append(outcome)  # (Ctrl-C keeps those before it)
        except KeyboardInterrupt:
            raise _interrupted(document, outcomes, repeated) from None
        document["outcomes"] = [outcome.to_json() for outcome in outcomes]
        document |= _restart(options.restart, ways, outcomes)
    with contextlib.closing(connect()) as server:
        return _second_look(Asked(server), options.workflows, document, steps, outcomes)


def _examined(asked: Asked, specs: Sequence[str]) -> list[tuple[Workflow, Check]]:
    workflows = [survey.read(spec, asked) for spec in specs]
    return [(workflow, survey.examine(workflow, asked)) for workflow in workflows]


def _ways(options: Options, asked: Asked, allowed: AllowedHosts) -> Ways:
    workspace = paths.expanded(options.workspace) if options.workspace else None
    place = deps_place.models_folder(asked.server, options.models_dir, options.workspace)
    return Ways(
        options.via, asked.server, asked.manager, place.folder if place else None, workspace, allowed,
        options.allow_pickle, deps_place.comfy_acts_here(asked.server, options.workspace),
        place.by if place else "flag",
    )  # fmt: skip


def _renamed(checks: Sequence[Check], specs: Sequence[str]) -> list[Document]:
    """What needs another name, not an install."""
    found = []
    for checked, spec in zip(checks, specs, strict=True):
        found += [report.entry(item, spec) for item in checked.of(MISSING) if item.fixed_by_name]
    return found


def _require_consent(yes: bool, steps: Sequence[Step], document: Document, summary: Document) -> None:
    """Raises SkillError with the plan unless there is something to do and the user has consented."""
    doable = any(step.how for step in steps)
    if doable and yes:
        return
    code = "consent_needed"
    hint: str | None = "show the plan to the user, then run again with --yes"
    if not doable:
        code = "consent_needed" if any(step.way.consent for step in steps) else "blocked"
        hint = summary.get("hint")
    raise SkillError(
        summary["message"], code=code, exit=Exit.FAILED if code == "blocked" else Exit.UNSAFE, hint=hint,
        next=() if doable else summary.get("next", ()), **document,
    )  # fmt: skip


def _interrupted(document: Document, outcomes: Sequence[Outcome], repeated: Sequence[str]) -> SkillError:
    """The failure after Ctrl-C: finished steps are listed, partial downloads are kept."""
    document["outcomes"] = [outcome.to_json() for outcome in outcomes]
    return SkillError(
        f"interrupted by the user; {safe_text.counted(len(outcomes), 'step')} had finished",
        code="interrupted", status="cancelled",
        retryable=True, hint="run the same command again: downloads resume where they stopped",
        next=[programs.command("auto_fix_deps.py", *repeated, "--dry-run")] if repeated else (), **document,
    )  # fmt: skip


def _restart(wanted: bool, ways: Ways, outcomes: Sequence[Outcome]) -> Document:
    """Restart the server, which loads new packs, if the user asked for it and no job runs; the facts for the report."""
    if not any(outcome.done and outcome.step.kind == "pack" for outcome in outcomes):
        return {}
    needed = {"restart_needed": True, "restart": "restart ComfyUI so that it loads the new node packs"}
    if not wanted:
        return needed
    if ways.manager is None:
        return needed | {"restart": "no Manager answers that could restart the server: restart it by hand"}
    if _busy(ways.manager.server):
        return needed | {
            "restart": "the server has jobs, so it was not restarted: restart it when they are finished"
        }
    ways.manager.restart()
    if ways.manager.is_back():
        return {"restarted": True}
    return needed | {"restart": "the server was asked to restart and does not answer yet"}


def _busy(server: Dialect) -> bool:
    """Whether the server has jobs, or does not say that it has none."""
    try:
        info = foreign.mapping(foreign.mapping(server.get_json("prompt")).get("exec_info"))
    except SkillError:
        return True
    return foreign.whole(info.get("queue_remaining")) != 0


def _second_look(
    asked: Asked,
    specs: Sequence[str],
    document: Document,
    steps: Sequence[Step],
    outcomes: Sequence[Outcome],
) -> Document:
    """What is still missing after the installs."""
    checks = [survey.examine(survey.read(spec, asked), asked, sources=False) for spec in specs]
    document["counts"] = report.summary(checks)
    verdict = report.verdict(checks)
    if verdict == PRESENT:
        return {"status": "success", "message": "everything needed is present now"} | document
    document["still_missing"] = [
        {"kind": item.kind} | report.entry(item, spec)
        for checked, spec in zip(checks, specs, strict=True)
        for item in checked.of(MISSING)
    ]
    if verdict != MISSING:
        raise survey.unknown(document, asked.stock.problems)
    raise _incomplete(document, steps, outcomes)


def _incomplete(document: Document, steps: Sequence[Step], outcomes: Sequence[Outcome]) -> SkillError:
    """The failure when something is still missing, with the reason that explains most of it."""
    failed = [outcome for outcome in outcomes if not outcome.done]
    refused = [outcome.error for outcome in failed if outcome.error and outcome.error.exit == Exit.REFUSED]
    consents = sorted({step.way.consent for step in steps if step.way.consent})
    left = len(document["still_missing"])
    message = f"{safe_text.counted(left, 'thing')} {'is' if left == 1 else 'are'} still missing"
    code, hint = "incomplete", "see the plan for what blocks them"
    if failed and len(refused) == len(failed):
        code, message, hint = "refused", f"{message}: {refused[0].message}", refused[0].hint or hint
    elif failed:
        hint = "see outcomes for what failed"
    elif document.get("restart_needed"):
        code, message = "restart_needed", f"{message}; the server must be restarted first"
        hint = document["restart"]
    elif consents:
        code, message = "consent_needed", f"{message}; some require a consent of their own"
        hint = f"these flags consent: {', '.join(consents)}"
    return SkillError(message, code=code, status="partial", hint=hint, **document)


class Outcome(NamedTuple):
    """The result of one step."""

    step: Step
    done: bool
    message: str
    error: SkillError | None = None
    facts: Mapping[str, object] = {}

    def to_json(self) -> Document:
        """The outcome for a report."""
        document: Document = {
            "kind": self.step.kind, "name": safe_text.clean(self.step.name, 200), "how": self.step.how, "done": self.done,
            "message": safe_text.clean(self.message, 500),
        }  # fmt: skip
        if self.error is not None:
            document["code"] = self.error.code
            if self.error.hint:
                document["hint"] = self.error.hint
            document |= {key: value for key, value in self.error.details.items() if key == "page"}
        return document | dict(self.facts)


def carry_out(steps: Sequence[Step], ways: Ways) -> Iterator[Outcome]:
    """Carry out the unblocked steps, packs first, and yield each outcome. A failed step does not stop the others."""
    packs = [step for step in steps if step.kind == "pack"]
    for step in packs:
        if step.how == COMFY:
            yield _install_by_comfy(step, ways)
    yield from _install_by_manager([step for step in packs if step.how == MANAGER], ways)
    for step in steps:
        if step.kind == "model" and step.how:
            yield _attempt(step, ways)


def _install_by_manager(by_manager: Sequence[Step], ways: Ways) -> list[Outcome]:
    """All at once, as its queue takes them."""
    if not by_manager:
        return []
    assert ways.manager is not None
    cli.note(
        f"installing {safe_text.quoted_list([step.name for step in by_manager])} with the server's Manager"
    )
    try:
        fates = ways.manager.install_packs([step.name for step in by_manager])
    except SkillError as error:
        return [Outcome(step, False, error.message, error) for step in by_manager]
    said = [fates.get(step.name, "the Manager did not report on it") for step in by_manager]
    return [
        Outcome(step, fate == "installed", fate, facts=_said(ways.manager, step.name))
        for step, fate in zip(by_manager, said, strict=True)
    ]


def _said(manager: deps_manager.Manager, name: str) -> dict[str, str]:
    """The Manager's own message about a failed order, if there is one."""
    return {"server_said": manager.said[name]} if name in manager.said else {}


def _install_by_comfy(step: Step, ways: Ways) -> Outcome:
    words = comfy_cli.install_command(step.name, ways.workspace)
    cli.note(f"running {safe_text.shell_words(words)}")
    try:
        return _by_comfy(step, words)
    except SkillError as error:
        return Outcome(step, False, error.message, error)


def _by_comfy(
    step: Step, words: Sequence[str], *, token_host: str | None = None, limit: float = comfy_cli.INSTALL_LIMIT
) -> Outcome:
    done = comfy_cli.run(words, token_host=token_host, limit=limit)
    facts: Document = {"command": safe_text.shell_words(words), "exit_code": done.code}
    if done.code != 0:
        return Outcome(step, False, "comfy-cli failed", facts=facts | {"server_said": done.said})
    return Outcome(
        step, True, f"comfy-cli {'installed' if step.kind == 'pack' else 'downloaded'} it", facts=facts
    )


def _attempt(step: Step, ways: Ways) -> Outcome:
    cli.note(f"fetching {safe_text.quoted(step.name)} from {download.shown(str(step.url))}")
    try:
        if step.how == DOWNLOAD:
            return _download(step, ways)
        if step.how == COMFY:
            return _download_by_comfy(step, ways)
        return _download_by_manager(step, ways)
    except SkillError as error:
        return Outcome(step, False, error.message, error)
    except OSError as error:
        # A folder that cannot be made or written, or a full disk: the other steps may still work.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        failure = SkillError(
            f"models/{step.relative} could not be written: {error.strerror or error}", exit=Exit.FAILED,
            code="disk_full" if full else "system_error",
            hint="the partial download is kept: free some space, then run it again" if full else None,
        )  # fmt: skip
        return Outcome(step, False, failure.message, failure)


def _download(step: Step, ways: Ways) -> Outcome:
    assert ways.models_folder is not None and step.relative is not None
    target = ways.models_folder.joinpath(*step.relative.split("/"))
    wanted = download.Wanted(str(step.url), target, step.sha256, ways.allow_pickle)
    fetched = download.fetch(wanted, ways.allowed)
    facts: Document = {
        "file": str(fetched.path), "bytes": fetched.bytes, "sha256": fetched.sha256, "checked": list(fetched.checked),
    }  # fmt: skip
    if fetched.resumed_at:
        facts["resumed_at"] = fetched.resumed_at
    return Outcome(step, True, "downloaded", facts=facts)


def _download_by_comfy(step: Step, ways: Ways) -> Outcome:
    """comfy-cli downloads, and the file is checked here; it follows redirects by its own rules."""
    assert step.relative is not None
    folder, _, filename = step.relative.rpartition("/")
    words = comfy_cli.download_command(str(step.url), f"models/{folder}", filename, ways.workspace)
    token_host = urlsplit(str(step.url)).hostname
    outcome = _by_comfy(step, words, token_host=token_host, limit=comfy_cli.DOWNLOAD_LIMIT)
    if not outcome.done:
        return outcome
    if ways.models_folder is None:
        return outcome._replace(message="comfy-cli downloaded it; the file could not be checked from here")
    path = ways.models_folder.joinpath(*step.relative.split("/"))
    if not path.is_file():
        message = "comfy-cli reports success, but the file is not in its folder"
        return outcome._replace(done=False, message=message)
    wrong = deps_place.problem(path)
    if step.sha256 and not wrong and (digest := safe_files.digest(path)) != step.sha256:
        wrong = f"its SHA-256 is {digest} and should be {step.sha256}"
    if wrong:
        bad = path.with_name(path.name + ".rejected")
        path.replace(bad)
        message = f"the file from comfy-cli is not usable: {wrong}; it was renamed to {bad.name}"
        return outcome._replace(done=False, message=message)
    return outcome._replace(facts={**outcome.facts, "file": str(path), "bytes": path.stat().st_size})


def _download_by_manager(step: Step, ways: Ways) -> Outcome:
    assert ways.manager is not None
    order = manager_order(ways, step)
    if order is None:
        raise SkillError("the Manager no longer knows the file", code="not_found")
    said = ways.manager.install_model(order)
    if said not in ("installed", "unconfirmed"):
        return Outcome(step, False, said, facts=_said(ways.manager, str(order.get("filename"))))
    listed = _is_listed(step, ways)
    if said == "unconfirmed" and not listed:
        message = "the Manager has finished, but the server does not list the file: see its log"
        return Outcome(step, False, message)
    note = "the server downloaded it; its hash and format were not checked"
    return Outcome(step, True, "the Manager downloaded it", facts={"checked": [], "note": note})


def _is_listed(step: Step, ways: Ways) -> bool:
    """Whether the server now lists the file. Raises SkillError when it cannot be asked."""
    folder, _, name = str(step.relative).partition("/")
    filename = name.rpartition("/")[2]
    return any(listed.replace("\\", "/").endswith(filename) for listed in ways.server.models(folder))
