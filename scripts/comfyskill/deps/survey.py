"""One check of several workflows against one server or inventory.

If the server does not answer, everything is unknown; the report still lists what the workflows need and its sources.
"""

from __future__ import annotations

import functools
import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from comfyskill.base import file_names, safe_text
from comfyskill.base.cli import Document, Exit, Misuse, SkillError
from comfyskill.base.programs import command
from comfyskill.deps import check, origin, packs, report
from comfyskill.deps import manager as deps_manager
from comfyskill.deps.check import MISSING, UNKNOWN, Check
from comfyskill.deps.need import classes_of
from comfyskill.deps.stock import Stock, server_facts
from comfyskill.editor import outline
from comfyskill.server import facts
from comfyskill.server.facts import Facts
from comfyskill.source import read as source_read

# Codes for what this kind of server never offers.
_FOR_GOOD = ("not_offered", "not_available")


class Asked:
    """The server or inventory that is asked, the answers so far, and the Manager if one was found."""

    def __init__(self, server: Facts) -> None:
        self.server = server
        self.stock = Stock(server)

    @property
    def live(self) -> bool:
        """Whether a server answers: not an inventory, and not unreachable."""
        return self.server.live is not None

    @functools.cached_property
    def manager(self) -> deps_manager.Manager | None:
        """The server's Manager; None also when the look-up failed (`stock` has the problem)."""
        try:
            return deps_manager.find(self.server)
        except SkillError as error:
            self.stock.problems.append(error)
            return None


class Workflow(NamedTuple):
    """A workflow as far as it could be read."""

    spec: str
    graph: dict[str, Any]
    editor: dict[str, Any] | None
    models: list[dict[str, Any]]
    warnings: list[str]
    rough: bool = False


def read(spec: str, asked: Asked) -> Workflow:
    """The workflow that `spec` names; an editor file that cannot be converted here is read roughly. Raises SkillError."""
    server = asked.server.live
    stdin = io.BytesIO(_standard_input()) if spec == "-" else None
    loaded = source_read.load(spec, stdin=stdin, server=server)
    models = list(source_read.declared_models(loaded.editor)) if loaded.editor else []
    if loaded.graph is not None:
        return _with_nodes(Workflow(spec, loaded.graph, loaded.editor, models, list(loaded.warnings)))
    assert loaded.editor is not None
    from comfyskill.editor import convert

    definitions = asked.stock.all_definitions()
    try:
        made = convert.convert(loaded.editor, definitions, allow_unsure=True)
    except SkillError as error:
        graph = outline.rough_graph(loaded.editor)
        if not graph:
            raise
        note = f"the workflow could not be converted ({error.message}); classes and file names were read directly from the file"
        return Workflow(spec, graph, loaded.editor, models, [*loaded.warnings, note], rough=True)
    return _with_nodes(Workflow(spec, made.graph, loaded.editor, models, [*loaded.warnings, *made.warnings]))


def _with_nodes(workflow: Workflow) -> Workflow:
    """The same workflow. Raises SkillError (exit 2) when nothing in it would run: that is not "all present"."""
    if not classes_of(workflow.graph):
        name = "standard input" if workflow.spec == "-" else safe_text.clean(workflow.spec, 200)
        raise Misuse(
            f"{name} has no node to run", code="empty", hint="are all its nodes muted or notes?",
        )  # fmt: skip
    return workflow


@functools.lru_cache(maxsize=1)
def _standard_input() -> bytes:
    """Standard input, read once: a second look reads the workflow again."""
    return sys.stdin.buffer.read(source_read.MAX_JSON + 1)


def examine(workflow: Workflow, asked: Asked, *, sources: bool = True) -> Check:
    """The check of one workflow, with sources for what is missing."""
    checked = check.check(workflow.graph, asked.stock)
    if not sources or not (checked.of(check.MISSING) or checked.of(check.UNKNOWN)):
        return checked
    notes = [text for _, text in outline.notes_of(workflow.editor)]
    # A service has no Manager. Neither it nor saved facts serve templates.
    own = asked.server.api == "local"
    manager = asked.manager if own and checked.of(check.MISSING) else None
    finder = origin.Finder(workflow.models, notes, asked.server.live if own else None, manager)
    claims = packs.claims_of(workflow.graph, workflow.editor)
    return check.locate(checked, finder, packs.PackFinder(claims, manager), _installed(manager, checked))


def _installed(manager: deps_manager.Manager | None, checked: Check) -> list[str]:
    if manager is None or not any(item.kind == "node" for item in checked.of(check.MISSING)):
        return []
    try:
        entries = manager.installed()
    except SkillError:
        return []
    return [str(entry.get("cnr_id") or name) for name, entry in entries.items()]


def survey(
    asked: Asked, specs: Sequence[str], *, repair: str | None = None, sources: bool = True
) -> Document:
    """The report on several workflows. Raises SkillError (exit 3 or 4) when something is unknown and nothing missing."""
    reports: list[dict[str, Any]] = []
    done: list[tuple[Workflow, Check]] = []
    unreadable: list[SkillError] = []
    for spec in specs:
        try:
            workflow = read(spec, asked)
        except SkillError as error:
            if len(specs) == 1 or error.exit != Exit.MISUSE:
                raise
            unreadable.append(error)
            reports.append({"workflow": safe_text.clean(spec, 300), **error.document()})
            continue
        checked = examine(workflow, asked, sources=sources)
        done.append((workflow, checked))
        reports.append(_one(workflow, checked, fixed=asked.server.api != "local"))
        if repair:
            reports[-1] |= _repair(workflow, checked, Path(repair))
    checks = [checked for _, checked in done]
    document: Document = {
        "server": dict(server_facts(asked.server)),
        "counts": report.summary(checks),
        "workflows": reports,
    }
    # Only a check that found something missing looks for a Manager.
    if "manager" in vars(asked) and asked.manager is not None:
        document["server"]["manager"] = asked.manager.name
    if asked.server.demo:
        document["demo"] = True
    if steps := after_check(asked, done, repair):
        document["next"] = steps
    if unreadable:
        raise SkillError(
            f"{len(unreadable)} of {len(specs)} workflows could not be read; the others are reported",
            code=unreadable[0].code, exit=Exit.MISUSE, hint="see the entries with status error", **document,
        )  # fmt: skip
    return _concluded(document, report.verdict(checks), asked)


def _one(workflow: Workflow, checked: Check, *, fixed: bool) -> Document:
    verdict = report.verdict([checked])
    document: Document = {"workflow": safe_text.clean(workflow.spec, 300)}
    document["status"] = "ok" if verdict == check.PRESENT else verdict
    document |= report.report(checked, workflow.spec, fixed=fixed)
    if workflow.warnings:
        document["warnings"] = safe_text.clean_tree(workflow.warnings[:20], 400)
    return document


def _concluded(document: Document, verdict: str, asked: Asked) -> Document:
    counts = document["counts"]
    if verdict == check.PRESENT:
        return {
            "status": "ok",
            "message": f"everything needed is present ({counts['present']} checked)",
        } | document
    if verdict == check.MISSING:
        message = f"{counts['missing']} missing, {counts['unknown']} unknown, {counts['present']} present"
        hint = "auto_fix_deps.py plans what can be installed; use_instead lists names to replace"
        if asked.server.api != "local":
            hint = (
                "choose names that the service has (use_instead, similar); Comfy Cloud imports models from `get` on its "
                "web page, on the Creator plan and up"
            )
        return {"status": "missing", "code": "missing", "message": message, "hint": hint} | document
    raise unknown(document, asked.stock.problems)


def unknown(document: Document, problems: Sequence[SkillError]) -> SkillError:
    """The failure of a check that left something unknown and found nothing missing: exit 4 after a refusal, else 3."""
    refused = next((problem for problem in problems if problem.exit == Exit.REFUSED), None)
    cause = refused or next((problem for problem in problems if problem.code not in _FOR_GOOD), None)
    details = {key: value for key, value in document.items() if key not in ("message", "hint", "next")}
    hint = "unknown does not mean missing: each item has its reason"
    if cause is not None:
        return SkillError(
            cause.message,
            code=cause.code if cause.code in ("refused", "unreachable") else "not_known",
            exit=Exit.REFUSED if refused else Exit.UNREACHABLE,
            status="unknown",
            hint=cause.hint or hint,
            retryable=refused is None,
            next=document.get("next", ()),
            **details,
        )
    # This server can never answer (Comfy API v2 has no node definitions), so a retry does not help.
    message = f"{document['counts']['unknown']} things cannot be checked"
    if problems:
        message = problems[0].message
        hint = (
            "unknown does not mean missing. Check against the ComfyUI behind it (--host), or an --inventory of it; "
            "or run the workflow: node_errors then lists what is missing"
        )
    return SkillError(
        message,
        code="not_known",
        exit=Exit.REFUSED,
        status="unknown",
        hint=hint,
        next=document.get("next", ()),
        **details,
    )


def _repair(workflow: Workflow, checked: Check, target: Path) -> Document:
    if workflow.rough:
        raise Misuse(
            "the workflow could not be converted, so no repaired copy can be written",
            hint="use a server that answers, or the workflow in API format",
        )
    if target.exists() and Path(workflow.spec).exists() and target.samefile(workflow.spec):
        raise Misuse("--repair would replace the workflow itself", hint="give another file for the copy")
    graph, changes = check.repaired(workflow.graph, checked)
    text = json.dumps(graph, ensure_ascii=True, indent=2) + "\n"
    file_names.write_asked(target, text.encode("ascii"), "give another file")
    return {"repaired": {"file": str(target), "changes": changes}}


def save_inventory(server: Facts, target: Path) -> Document:
    """Take the server's inventory and write it; the part of the report about it."""
    document = facts.take(server)
    facts.save(document, target)
    row: Document = {
        "file": str(target),
        "bytes": target.stat().st_size,
        "definitions": len(document["definitions"]),
        "models": sum(len(names) for names in document.get("models", {}).values()),
        "embeddings": len(document.get("embeddings", [])),
    }
    if "not_had" in document:
        row["not_had"] = document["not_had"]
    return {"inventory": row}


def after_check(asked: Asked, done: Sequence[tuple[Workflow, Check]], copy: str | None = None) -> list[str]:
    """What to run after a check that found something missing. copy: the repaired copy, if one was written."""
    if not asked.server.flags or not any(checked.of(MISSING) for _, checked in done):
        return []
    if copy is None:
        found, specs = renaming(asked, done), [workflow.spec for workflow, _ in done]
    else:
        whole = asked.live and all(_names_alone(checked) for _, checked in done)
        found, specs = [command("run_workflow.py", copy, *asked.server.flags)] if whole else [], [copy]
    if asked.live and asked.server.api == "local" and "-" not in specs and _plannable(done):
        found.append(command("auto_fix_deps.py", *specs, *asked.server.flags, "--dry-run"))
    return found


def renaming(asked: Asked, done: Sequence[tuple[Workflow, Check]]) -> list[str]:
    """The commands that correct names with a sure match: one for each workflow that has such names."""
    return [line for workflow, checked in done if (line := _renaming(asked, workflow, checked))]


def _renaming(asked: Asked, workflow: Workflow, checked: Check) -> str | None:
    """The command that runs with the right names if only names are wrong; else the one that writes a repaired copy."""
    words = [word for item in checked.of(MISSING) if item.renamable for word in item.settings]
    if not words or workflow.spec == "-":
        return None
    if asked.live and _names_alone(checked):
        return command("run_workflow.py", workflow.spec, *words, *asked.server.flags)
    if workflow.rough:
        return None
    return command("check_deps.py", workflow.spec, *asked.server.flags, "--repair", _copy_of(workflow.spec))


def _names_alone(checked: Check) -> bool:
    """Whether only names are wrong."""
    return all(item.renamable for item in checked.of(MISSING)) and not checked.of(UNKNOWN)


def _copy_of(spec: str) -> str:
    """A name for the repaired copy, in the current folder."""
    stem = Path(re.sub(r"^\w+:", "", spec) if not Path(spec).exists() else spec).stem
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', stem).lstrip('-.') or 'workflow'}.repaired.json"


def _plannable(done: Sequence[tuple[Workflow, Check]]) -> bool:
    """Whether a plan would have a step: a pack with an id, or a model with an address."""
    missing = [item for _, checked in done for item in checked.of(MISSING)]
    return any(
        (item.kind == "node" and item.pack is not None and item.pack.installable)
        or (item.origin is not None and item.target is not None and not item.fixed_by_name)
        for item in missing
    )
