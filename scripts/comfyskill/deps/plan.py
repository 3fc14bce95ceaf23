"""What could be installed for a set of checks, from where, by what, and what blocks it.

Only registry ids are installed and only allowed hosts are used for downloads. This module changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from comfyskill.base import file_limits, programs, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.deps import download, report
from comfyskill.deps import manager as deps_manager
from comfyskill.deps import place as deps_place
from comfyskill.deps.check import MISSING, Check, Item
from comfyskill.deps.download import AllowedHosts
from comfyskill.server.facts import Facts

COMFY, MANAGER, DOWNLOAD = "comfy-cli", "manager", "download"
MOST_REASONS = 3
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

    def repeated(self, server_flags: Sequence[str]) -> list[str]:
        """The words that make the same plan of the same workflows; none for a workflow from standard input."""
        if "-" in self.workflows:
            return []
        values = {"--only": self.only, "--models-dir": self.models_dir, "--workspace": self.workspace}
        values["--via"] = self.via if self.via != "auto" else None
        words = [*self.workflows, *server_flags]
        words += [word for flag, value in values.items() if value for word in (flag, value)]
        words += [word for host in self.allow_host for word in ("--allow-host", host)]
        return [*words, *file_limits.flag_words(), *(["--allow-pickle"] if self.allow_pickle else [])]


class Way(NamedTuple):
    """How a step is done, or what blocks it.

    consent: the flag that allows it; lacks: the flag that supplies missing information.
    """

    how: str | None = None
    blocked: str | None = None
    consent: str | None = None
    lacks: str | None = None


NO_COMFY = Way(
    blocked="comfy-cli is not on PATH, or its workspace is not this server's installation (then give --workspace)"
)
NO_MANAGER = Way(blocked="the server has no ComfyUI-Manager that answers")
NO_FOLDER = Way(blocked="the server's models folder is unknown: give --models-dir", lacks="--models-dir DIR")


class Step(NamedTuple):
    """One thing to do. facts: more for the report. instead: what the server has that may replace it."""

    kind: str
    name: str
    way: Way
    relative: str | None = None
    url: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    facts: Mapping[str, object] = {}
    instead: Mapping[str, object] = {}

    @property
    def how(self) -> str | None:
        """What carries the step out; None for a blocked one."""
        return self.way.how

    def to_json(self) -> Document:
        """The step for a report."""
        # `how` is the way of the installation in a step.
        instead = {"match" if key == "how" else key: value for key, value in self.instead.items()}
        shown: Document = {
            "kind": self.kind, "name": safe_text.clean(self.name, 200), **instead, **self.way._asdict(),
            "path": f"models/{self.relative}" if self.relative else None,
            "url": self.url, "sha256": self.sha256, "bytes": self.bytes,
        }  # fmt: skip
        return {key: value for key, value in shown.items() if value is not None} | dict(self.facts)


class Ways(NamedTuple):
    """How things can be installed in this call. comfy: comfy-cli is installed and acts on this installation."""

    via: str
    server: Facts
    manager: deps_manager.Manager | None
    models_folder: Path | None
    workspace: Path | None
    allowed: AllowedHosts
    allow_pickle: bool = False
    comfy: bool = False
    folder_by: str = "flag"

    def for_pack(self) -> Way:
        """What installs a pack. The Manager always installs into this server; comfy-cli into its workspace."""
        if self.server.api != "local":
            return Way(
                blocked="packs cannot be installed on the service from here: choose other nodes, or make a custom build"
            )
        if self.via in ("auto", MANAGER) and self.manager is not None:
            return Way(MANAGER)
        if self.via in ("auto", COMFY) and self.comfy:
            return Way(COMFY)
        if self.via == "auto":
            return Way(
                blocked="neither the server's Manager nor comfy-cli, with this server's installation as its workspace, "
                "is available"
            )
        return NO_COMFY if self.via == COMFY else NO_MANAGER

    def for_model(self, step: Step) -> Way:
        """What fetches a model."""
        if self.server.api != "local":
            return Way(
                blocked="models are imported on the service's own web page (Comfy Cloud: Creator plan and up), not from here"
            )
        if self.via == COMFY:
            return Way(COMFY) if self.comfy else NO_COMFY
        if self.via == "auto" and self.models_folder is not None:
            return self._by_download(self.models_folder, step)
        if self.manager is None:
            return NO_MANAGER if self.via == MANAGER else NO_FOLDER
        if manager_order(self, step) is not None:
            return Way(MANAGER)
        if self.via == MANAGER:
            return Way(
                blocked="the Manager's list does not have this file, and the Manager accepts only files in its list"
            )
        return NO_FOLDER

    def _by_download(self, models_folder: Path, step: Step) -> Way:
        if os.path.lexists(_place_of(models_folder, step)):
            return Way(
                blocked="a file of that name is in the models folder, but the server does not list it: restart it, or "
                "check its paths"
            )
        if self.folder_by == deps_place.SERVER:
            reason = "only the server names this models folder: a person must check it first"
            return Way(blocked=reason, consent=f"--models-dir {models_folder}")
        return Way(DOWNLOAD)


def plan(checks: Sequence[Check], specs: Sequence[str], ways: Ways, only: str | None = None) -> list[Step]:
    """The steps that install what is missing, each pack and file once; packs come first."""
    missing = [
        (item, spec) for checked, spec in zip(checks, specs, strict=True) for item in checked.of(MISSING)
    ]
    steps: dict[tuple[str, str], Step] = {}
    if only != "models":
        for item, _ in missing:
            if item.kind == "node":
                step = _pack_step(item, ways)
                steps.setdefault((step.kind, step.name), step)
    if only != "nodes":
        for item, spec in missing:
            if item.kind in ("model", "embedding") and not item.fixed_by_name:
                step = _model_step(item, ways)
                if item.kind == "model":
                    step = step._replace(instead=report.by_name(item, spec))
                steps.setdefault((step.kind, step.relative or step.name), step)
    return _looked_up(list(steps.values()), ways)


def _pack_step(item: Item, ways: Ways) -> Step:
    pack = item.pack
    name, way = item.name, Way(blocked="no source names the pack of this class")
    if item.replaced_by:
        new = safe_text.quoted(item.replaced_by)
        way = Way(blocked=f"the server has {new} in its place: use that node in the workflow")
    elif pack is not None and pack.core:
        name, way = (
            "ComfyUI",
            Way(blocked="the class belongs to ComfyUI itself: update it (comfy update comfy)"),
        )
    elif pack is not None:
        name = pack.id or item.name
        if item.installed_but_absent:
            way = Way(blocked="it is installed already: restart the server or see its log")
        elif pack.installable:
            way = ways.for_pack()
        else:
            unknown = "its registry id is unknown, and packs are not installed from a repository address"
            way = Way(blocked=pack.doubt or unknown)
    facts = {"for_class": safe_text.clean(item.name, 120)} | (pack.to_json() if pack else {})
    return Step("pack", name, way, facts=facts)


def _model_step(item: Item, ways: Ways) -> Step:
    origin = item.origin
    facts: Document = {"folder": item.folder} if item.folder else {}
    if origin is None:
        return Step("model", item.name, Way(blocked="no source has a URL for it"), facts=facts)
    facts |= {"source": origin.source} | ({"licence": origin.licence} if origin.licence else {})
    place = item.target
    way, relative = Way(blocked="its model folder is unknown"), None
    if origin.suggestion:
        way = Way(blocked="its URL comes from a note in the workflow: a person must check it first")
    elif place is not None:
        try:
            relative = deps_place.target(*place)
        except SkillError as error:
            way = Way(blocked=error.message)
    step = Step("model", item.name, way, relative, origin.url, origin.sha256, origin.bytes, facts)
    if place is None or relative is None:
        return step
    if reason := ways.allowed.refusal(origin.url):
        return step._replace(
            way=Way(blocked=f"its URL is not used: {reason}", consent=download.flag_for(origin.url))
        )
    if report.may_run_code(place[1]) and not ways.allow_pickle:
        reason = "files of this type can run code when they are loaded"
        return step._replace(way=Way(blocked=reason, consent="--allow-pickle"))
    step = step._replace(way=ways.for_model(step))
    if step.how == MANAGER and (order := manager_order(ways, step)) is not None:
        # The Manager downloads from the address in its own list, so that is the one to show.
        return step._replace(url=str(order["url"]), sha256=None)
    if ways.models_folder is not None and (step.how == DOWNLOAD or step.way.consent):
        step = step._replace(facts={**facts, "file": str(_place_of(ways.models_folder, step))})
    return step


def _place_of(models_folder: Path, step: Step) -> Path:
    """Where the file of a step is really written: links are followed, since many people keep models on another disk."""
    path = models_folder / (step.relative or "")
    return path.parent.resolve() / path.name


def manager_order(ways: Ways, step: Step) -> Mapping[str, object] | None:
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

    def look(step: Step) -> Step:
        if step.kind != "model" or step.how is None or not step.url:
            return step
        found = download.look(step.url, ways.allowed)
        more = {"gate": found.gate, "not_looked_at": found.problem}
        facts = {**step.facts, **{key: value for key, value in more.items() if value}}
        return step._replace(bytes=found.bytes or step.bytes, sha256=step.sha256 or found.sha256, facts=facts)

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(look, steps))


def totals(steps: Sequence[Step], ways: Ways) -> Document:
    """The sums of the known sizes (of what would be done, and of what is blocked) and the free space at the target."""
    models = [step for step in steps if step.kind == "model"]
    document: Document = {"bytes": sum(step.bytes or 0 for step in models if step.how)}
    if blocked := sum(step.bytes or 0 for step in models if not step.how):
        document["bytes_blocked"] = blocked
    if unknown := sum(1 for step in models if step.how and step.bytes is None):
        document["sizes_unknown"] = unknown
    if ways.models_folder is not None:
        document |= {"models_folder": str(ways.models_folder), "models_folder_by": ways.folder_by}
        free = document["free_bytes"] = deps_place.free_bytes(ways.models_folder)
        if free is not None and document["bytes"] > free:
            document["fits"] = False
    return document


def summary(
    steps: Sequence[Step],
    left: Mapping[str, int],
    renaming: Sequence[str],
    repeated: Sequence[str],
    *,
    live: bool = True,
) -> Document:
    """Message, hint and next for a plan that was not carried out.

    left: kind -> number of missing things without a step ("name": they only need another name, and `renaming` has the
    commands for that). repeated: the words that make the same plan. live: a server answers, not an inventory.
    """
    doable = [step for step in steps if step.how]
    blocked = [step for step in steps if not step.how]
    parts = [f"a plan of {safe_text.counted(len(doable), 'step')}"] if doable else []
    if blocked:
        parts.append(f"{safe_text.counted(len(blocked), 'step')} {_is(len(blocked))} blocked")
    if not steps:
        parts.append("nothing has to be installed")
    if left:
        kinds = ", ".join(safe_text.counted(number, kind) for kind, number in left.items())
        parts.append(f"{kinds} wrong or missing {_is(sum(left.values()))} not part of the plan")
    consents = _flags(step.way.consent for step in blocked)
    hints = _instead(steps)
    if doable:
        flags = (
            "--yes instead of --dry-run" if live else "--host and --yes instead of --inventory and --dry-run"
        )
        hints.append(f"show the plan to the user; run with {flags} to carry it out")
    lacking = _flags(step.way.lacks for step in blocked)
    hints += [f"give {flag}, the server's models folder as this machine sees it" for flag in lacking]
    hints += [f"{flag} consents" for flag in consents]
    hints += _other_reasons(blocked)
    hints += [OTHER_WAYS[kind] for kind in left if kind in OTHER_WAYS]
    if "name" in left:
        hints.append("use the names in use_instead" + (": next has the command" if renaming else ""))
    following = [*renaming]
    if repeated and consents and not doable:
        # A dry run, since only the user can consent.
        words = [word for flag in consents for word in flag.split(" ", 1)]
        following.append(programs.command("auto_fix_deps.py", *repeated, *words, "--dry-run"))
    document: Document = {"message": f"{'; '.join(parts)}; nothing was changed"}
    document |= {"hint": "; ".join(hints)} if hints else {}
    return document | ({"next": following} if following else {})


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def left_alone(checks: Sequence[Check], only: str | None) -> dict[str, int]:
    """Kind -> number of missing things that no step of a plan covers."""
    planned = {"nodes": ("node",), "models": ("model", "embedding")}.get(
        only or "", ("node", "model", "embedding")
    )
    missing = {(item.kind, item.name): item for checked in checks for item in checked.of(MISSING)}
    kinds = ["name" if item.fixed_by_name else item.kind for item in missing.values()]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds) if kind not in planned}


def _other_reasons(blocked: Sequence[Step]) -> list[str]:
    """Reasons of blocked steps that no flag unblocks, at most a few."""
    others = [step for step in blocked if not step.way.lacks and not step.way.consent]
    more = [f"{len(others) - MOST_REASONS} more, see plan"] if len(others) > MOST_REASONS else []
    return [f"{safe_text.quoted(step.name)}: {step.way.blocked}" for step in others[:MOST_REASONS]] + more


def _instead(steps: Sequence[Step]) -> list[str]:
    """What the server has instead of something to download, at most a few."""
    return [
        f"the server already has {safe_text.quoted(step.instead['use_instead'])}, a possible substitute for "
        f"{safe_text.quoted(step.name)}: `set` in that step runs with it, without a download"
        for step in steps
        if step.instead
    ][:MOST_REASONS]


def _flags(found: Iterable[str | None]) -> list[str]:
    return sorted({flag for flag in found if flag})
