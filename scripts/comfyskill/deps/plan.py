"""What could be installed for a set of checks, from where, by what, and what blocks it.

Only registry ids are installed and only allowed hosts are used for downloads. This module changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from comfyskill.base import file_limits, programs, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.deps import download, report
from comfyskill.deps import manager as deps_manager
from comfyskill.deps import place as deps_place
from comfyskill.deps.check import MISSING, Check, Item
from comfyskill.deps.download import AllowedHosts

COMFY, MANAGER, DOWNLOAD = "comfy-cli", "manager", "download"
SERVERS_WORD = "only the server names this models folder: a person must check it first"
NO_FOLDER = "the server's models folder is unknown: give --models-dir"
MOST_REASONS = 3
FLAG_MEANS = {"--models-dir DIR": ", the server's models folder as this machine sees it"}


# What cannot be installed, and how to provide it.
OTHER_WAYS = {
    "file": "give files with run_workflow.py --input-file",
    "value": "choose other values with --set",
}


class Options(NamedTuple):
    """What the user asked for, as the flags of auto_fix_deps name it. only: `nodes` or `models`."""

    workflows: Sequence[str]
    only: str | None = None
    via: str = "auto"
    models_dir: str | None = None
    workspace: str | None = None
    allow_host: Sequence[str] = ()
    allow_pickle: bool = False
    restart: bool = False
    dry_run: bool = False
    yes: bool = False


class Step(NamedTuple):
    """One thing to do. blocked: why it is not done. facts: for the report.

    consent: the flag that allows it; lacks: the flag that supplies missing information.
    instead: what the server has that may replace it, so that no download is needed.
    """

    kind: str
    name: str
    how: str | None
    blocked: str | None = None
    consent: str | None = None
    lacks: str | None = None
    relative: str | None = None
    url: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    facts: Mapping[str, Any] | None = None
    instead: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The step for a report."""
        shown = {
            "kind": self.kind, "name": safe_text.clean(self.name, 200), **self._instead(),
            "how": self.how, "blocked": self.blocked,
            "consent": self.consent, "lacks": self.lacks, "path": f"models/{self.relative}" if self.relative else None,
            "url": self.url,
            "sha256": self.sha256, "bytes": self.bytes,
        }  # fmt: skip
        return {key: value for key, value in shown.items() if value is not None} | dict(self.facts or {})

    def _instead(self) -> dict[str, Any]:
        # `how` is the way of the installation in a step.
        return {"match" if key == "how" else key: value for key, value in (self.instead or {}).items()}


class Ways(NamedTuple):
    """How things can be installed in this call. comfy: comfy-cli is installed and acts on this installation."""

    via: str
    server: Any
    manager: deps_manager.Manager | None
    models_folder: Path | None
    workspace: Path | None
    allowed: AllowedHosts
    allow_pickle: bool = False
    comfy: bool = False
    folder_by: str = "flag"


def plan(checks: Sequence[Check], ways: Ways, only: str | None = None) -> list[Step]:
    """The steps that install what is missing, each pack and file once; packs come first."""
    missing = [item for checked in checks for item in checked.of(MISSING)]
    steps: dict[tuple[str, str], Step] = {}
    if only != "models":
        for item in missing:
            if item.kind == "node":
                step = _pack_step(item, ways)
                steps.setdefault((step.kind, step.name), step)
    if only != "nodes":
        for item in missing:
            if item.kind in ("model", "embedding") and not item.fixed_by_name:
                step = _model_step(item, ways)
                steps.setdefault((step.kind, step.relative or step.name), step)
    return _looked_up(list(steps.values()), ways)


def with_instead(steps: Sequence[Step], checks: Sequence[Check], specs: Sequence[str]) -> list[Step]:
    """The steps, each with the server's file that may replace the download."""
    found: dict[str, Mapping[str, Any]] = {}
    for checked, spec in zip(checks, specs, strict=True):
        for item in checked.of(MISSING):
            if item.kind == "model" and item.match is not None:
                found.setdefault(item.name, report.by_name(item, spec))
    return [step._replace(instead=found.get(step.name) if step.kind == "model" else None) for step in steps]


def _pack_step(item: Item, ways: Ways) -> Step:
    pack = item.pack
    facts = {"for_class": safe_text.clean(item.name, 120)} | (pack.to_json() if pack else {})
    if item.replaced_by:
        reason = (
            f"the server has {safe_text.quoted(item.replaced_by)} in its place: use that node in the workflow"
        )
        return Step("pack", item.name, None, reason, facts=facts)
    if pack is None:
        return Step("pack", item.name, None, "no source names the pack of this class", facts=facts)
    if pack.core:
        return Step(
            "pack",
            "ComfyUI",
            None,
            "the class belongs to ComfyUI itself: update it (comfy update comfy)",
            facts=facts,
        )
    if item.installed_but_absent:
        return Step(
            "pack",
            pack.id or item.name,
            None,
            "it is installed already: restart the server or see its log",
            facts=facts,
        )
    if not pack.installable or pack.id is None:
        reason = (
            pack.doubt or "its registry id is unknown, and packs are not installed from a repository address"
        )
        return Step("pack", pack.id or item.name, None, reason, facts=facts)
    how, blocked = _pack_way(ways)
    return Step("pack", pack.id, how, blocked, facts=facts)


def _pack_way(ways: Ways) -> tuple[str | None, str | None]:
    if ways.server.api != "local":
        return (
            None,
            "packs cannot be installed on the service from here: choose other nodes, or make a custom build of it",
        )
    # The Manager always installs into this server; comfy-cli into its workspace.
    if ways.via in ("auto", MANAGER) and ways.manager is not None:
        return MANAGER, None
    if ways.via in ("auto", COMFY) and ways.comfy:
        return COMFY, None
    if ways.via == COMFY:
        return (
            None,
            "comfy-cli is not on PATH, or its workspace is not this server's installation (then give --workspace)",
        )
    if ways.via == MANAGER:
        return None, "the server has no ComfyUI-Manager that answers"
    return (
        None,
        "neither the server's Manager nor comfy-cli (with this server's installation as its workspace) is available",
    )


def _model_step(item: Item, ways: Ways) -> Step:
    origin = item.origin
    facts: dict[str, Any] = {"folder": item.folder} if item.folder else {}
    if origin is None:
        return Step("model", item.name, None, "no source has a URL for it", facts=facts)
    facts |= {"source": origin.source} | ({"licence": origin.licence} if origin.licence else {})
    step = Step(
        "model", item.name, None, url=origin.url, sha256=origin.sha256, bytes=origin.bytes, facts=facts
    )
    if origin.suggestion:
        return step._replace(
            blocked="its URL comes from a note in the workflow: a person must check it first"
        )
    place = ("embeddings", origin.name) if item.kind == "embedding" else item.target
    if place is None:
        return step._replace(blocked="its model folder is unknown")
    try:
        step = step._replace(relative=deps_place.target(*place))
    except SkillError as error:
        return step._replace(blocked=error.message)
    reason = ways.allowed.refusal(origin.url)
    if reason is not None:
        return step._replace(blocked=f"its URL is not used: {reason}", consent=download.flag_for(origin.url))
    if report.may_run_code(place[1]) and not ways.allow_pickle:
        blocked = "files of this type can run code when they are loaded"
        return step._replace(blocked=blocked, consent="--allow-pickle")
    how, blocked_by = _model_way(ways, step)
    step = step._replace(
        how=how,
        blocked=blocked_by,
        lacks="--models-dir DIR" if blocked_by == NO_FOLDER else None,
        consent=f"--models-dir {ways.models_folder}" if blocked_by == SERVERS_WORD else None,
    )
    if ways.models_folder is not None and (how == DOWNLOAD or blocked_by == SERVERS_WORD):
        step = step._replace(facts={**facts, "file": str(_place_of(ways.models_folder, step))})
    order = manager_order(ways, step) if how == MANAGER else None
    # The Manager downloads from the address in its own list, so that is the one to show.
    return step._replace(url=str(order["url"]), sha256=None) if order is not None else step


def _model_way(ways: Ways, step: Step) -> tuple[str | None, str | None]:
    if ways.server.api != "local":
        return (
            None,
            "models are imported on the service's own web page (Comfy Cloud: Creator plan and up), not from here",
        )
    if ways.via == "auto" and ways.models_folder is not None:
        if os.path.lexists(_place_of(ways.models_folder, step)):
            return (
                None,
                "a file of that name is in the models folder, but the server does not list it: restart it, or check its paths",
            )
        return (None, SERVERS_WORD) if ways.folder_by == deps_place.SERVER else (DOWNLOAD, None)
    if ways.via == COMFY:
        if not ways.comfy:
            return (
                None,
                "comfy-cli is not on PATH, or its workspace is not this server's installation (then give --workspace)",
            )
        return COMFY, None
    if ways.manager is not None and manager_order(ways, step) is not None:
        return MANAGER, None
    if ways.manager is not None and ways.via == MANAGER:
        return (
            None,
            "the Manager's list does not have this file, and the Manager accepts only files in its list",
        )
    if ways.via == MANAGER:
        return None, "the server has no ComfyUI-Manager that answers"
    return None, NO_FOLDER


def _place_of(models_folder: Path, step: Step) -> Path:
    """Where the file of a step is really written: links are followed, since many people keep models on another disk."""
    path = models_folder / (step.relative or "")
    return path.parent.resolve() / path.name


def manager_order(ways: Ways, step: Step) -> Mapping[str, Any] | None:
    """The download order for the Manager: an entry of its own list; version 4 without a list accepts any."""
    assert ways.manager is not None and step.relative is not None
    folder, _, filename = step.relative.rpartition("/")
    if ways.manager.shape == deps_manager.V4:
        base = {"name": filename, "type": folder.split("/")[0], "base": "", "save_path": folder}
        return {**base, "filename": filename, "url": step.url}
    try:
        entry = deps_place.manager_entry(ways.manager.model_list(), folder, filename)
    except SkillError:
        return None
    # Its list may give another address for the name: then that one must be allowed too.
    if entry is None or ways.allowed.refusal(str(entry.get("url"))) is not None:
        return None
    return entry


def _looked_up(steps: list[Step], ways: Ways) -> list[Step]:
    """The steps with size, hash and gate of every download, as the hosts report; all are asked at once."""
    wanted = [step for step in steps if step.kind == "model" and step.how is not None and step.url]
    if not wanted:
        return steps
    with ThreadPoolExecutor(4) as pool:
        found = dict(
            zip(
                map(id, wanted),
                pool.map(lambda step: download.look(str(step.url), ways.allowed), wanted),
                strict=True,
            )
        )
    return [_with_facts(step, found[id(step)]) if id(step) in found else step for step in steps]


def _with_facts(step: Step, facts: download.Facts) -> Step:
    more: dict[str, Any] = dict(step.facts or {})
    if facts.gate:
        more["gate"] = facts.gate
    if facts.problem:
        more["not_looked_at"] = facts.problem
    return step._replace(bytes=facts.bytes or step.bytes, sha256=step.sha256 or facts.sha256, facts=more)


def totals(steps: Sequence[Step], ways: Ways) -> dict[str, Any]:
    """The sums of the known sizes (of what would be done, and of what is blocked) and the free space at the target."""
    downloads = [step for step in steps if step.kind == "model" and step.how is not None]
    document: dict[str, Any] = {"bytes": sum(step.bytes or 0 for step in downloads)}
    blocked = sum(step.bytes or 0 for step in steps if step.kind == "model" and step.how is None)
    if blocked:
        document["bytes_blocked"] = blocked
    unknown = sum(1 for step in downloads if step.bytes is None)
    if unknown:
        document["sizes_unknown"] = unknown
    if ways.models_folder is not None:
        document |= {"models_folder": str(ways.models_folder), "models_folder_by": ways.folder_by}
        free = document["free_bytes"] = deps_place.free_bytes(ways.models_folder)
        if free is not None and document["bytes"] > free:
            document["fits"] = False
    return document


def told(
    steps: Sequence[Step],
    left: Mapping[str, int],
    renaming: Sequence[str],
    again: Sequence[str],
    *,
    live: bool = True,
) -> dict[str, Any]:
    """Message, hint and next for a plan that was not carried out.

    left: kind -> number of missing things without a step ("name": they only need another name, and `renaming` has the
    commands for that). again: the words that make the same plan. live: a server answers, not an inventory.
    """
    doable = [step for step in steps if step.how]
    blocked = [step for step in steps if not step.how]
    parts = [f"a plan of {safe_text.counted(len(doable), 'step')}"] if doable else []
    if blocked:
        parts.append(
            f"{safe_text.counted(len(blocked), 'step')} {'is' if len(blocked) == 1 else 'are'} blocked"
        )
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
        hints.append("use the names in use_instead" + (": next has the command" if renaming else ""))
    if doable:
        flags = (
            "--yes instead of --dry-run" if live else "--host and --yes instead of --inventory and --dry-run"
        )
        hints.insert(0, f"show the plan to the user; run with {flags} to carry it out")
    hints = [*_instead(steps), *hints]
    if hints:
        document["hint"] = "; ".join(hints)
    following = [*renaming, *_next(doable, consents, again)]
    return document | ({"next": following} if following else {})


def again(options: Options, server_flags: Sequence[str]) -> list[str]:
    """The words that make the same plan of the same workflows; nothing for a workflow from standard input."""
    if "-" in options.workflows:
        return []
    words = [*options.workflows, *server_flags]
    for flag, value in (
        ("--only", options.only),
        ("--models-dir", options.models_dir),
        ("--workspace", options.workspace),
    ):
        words += [flag, value] if value else []
    words += ["--via", options.via] if options.via != "auto" else []
    words += [word for host in options.allow_host for word in ("--allow-host", host)]
    words += file_limits.flag_words()
    return [*words, *(["--allow-pickle"] if options.allow_pickle else [])]


def _next(doable: Sequence[Step], consents: Sequence[str], again: Sequence[str]) -> list[str]:
    """The command that plans with the consent flags added: a dry run, since only the user can consent."""
    if not again or not consents or doable:
        return []
    words = [word for flag in consents for word in flag.split(" ", 1)]
    return [programs.command("auto_fix_deps.py", *again, *words, "--dry-run")]


def left_alone(checks: Sequence[Check], only: str | None) -> dict[str, int]:
    """Kind -> number of missing things that no step of a plan covers."""
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
    return f"{counted} wrong or missing {'is' if sum(left.values()) == 1 else 'are'} not part of the plan"


def _other_reasons(blocked: Sequence[Step]) -> list[str]:
    """Reasons of blocked steps that no flag unblocks, at most a few."""
    others = [step for step in blocked if not step.lacks and not step.consent]
    more = [f"{len(others) - MOST_REASONS} more, see plan"] if len(others) > MOST_REASONS else []
    return [f"{safe_text.quoted(step.name)}: {step.blocked}" for step in others[:MOST_REASONS]] + more


def _instead(steps: Sequence[Step]) -> list[str]:
    """What the server has instead of something to download, at most a few."""
    return [
        f"the server already has {safe_text.quoted(step.instead['use_instead'])}, a possible substitute for "
        f"{safe_text.quoted(step.name)}: `set` in that step runs with it, without a download"
        for step in steps
        if step.instead
    ][:MOST_REASONS]


def _flags(found: Any) -> list[str]:
    return sorted({flag for flag in found if flag})
