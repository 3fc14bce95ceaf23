"""What could be installed for a set of checks, by which way, and the doing of it. Level 3.

A plan names for each step what, from where, by whom and what stands against it; nothing is done before the user has
consented to the whole. Registry ids alone are installed, downloads come from allowed hosts alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import _cli
import _deps_comfy
import _deps_hosts
import _deps_manager
import _deps_place
import _deps_report
import _fetch_model
from _cli import Exit, SkillError
from _deps import MISSING, Check, Item
from _deps_hosts import AllowedHosts

COMFY, MANAGER, DOWNLOAD = "comfy-cli", "manager", "download"


@dataclass(frozen=True)
class Step:
    """One thing to do. blocked: why it is not done; consent: the flag that would unblock it. facts: for the report."""

    kind: str
    name: str
    how: str | None
    blocked: str | None = None
    consent: str | None = None
    relative: str | None = None
    url: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    facts: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The step for a report."""
        shown = {
            "kind": self.kind, "name": _cli.clean(self.name, 200), "how": self.how, "blocked": self.blocked,
            "consent": self.consent, "path": f"models/{self.relative}" if self.relative else None, "url": self.url,
            "sha256": self.sha256, "bytes": self.bytes,
        }  # fmt: skip
        return {key: value for key, value in shown.items() if value is not None} | dict(self.facts or {})


@dataclass(frozen=True)
class Ways:
    """By which ways something can be installed in this call."""

    via: str
    server: Any
    manager: _deps_manager.Manager | None
    models_folder: Path | None
    workspace: Path | None
    allowed: AllowedHosts
    allow_pickle: bool = False

    @property
    def comfy(self) -> bool:
        """Whether comfy-cli can act for this server: it is there, and the server is on this machine."""
        return _deps_comfy.program() is not None and (
            _deps_place.is_here(self.server) or self.workspace is not None
        )


@dataclass(frozen=True)
class Outcome:
    """What became of one step."""

    step: Step
    done: bool
    message: str
    error: SkillError | None = None
    facts: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The outcome for a report."""
        document: dict[str, Any] = {
            "kind": self.step.kind, "name": _cli.clean(self.step.name, 200), "how": self.step.how, "done": self.done,
            "message": _cli.clean(self.message, 500),
        }  # fmt: skip
        if self.error is not None:
            document["code"] = self.error.code
            if self.error.hint:
                document["hint"] = self.error.hint
            document |= {key: value for key, value in self.error.details.items() if key == "page"}
        return document | dict(self.facts or {})


def plan(checks: Sequence[Check], ways: Ways, only: str | None = None) -> list[Step]:
    """The steps that would bring what is missing, each pack and file once; packs come first."""
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


def _pack_step(item: Item, ways: Ways) -> Step:
    pack = item.pack
    facts = {"for_class": _cli.clean(item.name, 120)} | (pack.to_json() if pack else {})
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
            pack.doubt
            or "no registry id is known for it, and repositories are not installed from their address"
        )
        return Step("pack", pack.id or item.name, None, reason, facts=facts)
    how, blocked = _pack_way(ways)
    return Step("pack", pack.id, how, blocked, facts=facts)


def _pack_way(ways: Ways) -> tuple[str | None, str | None]:
    if ways.server.api != "local":
        return None, "the service's node packs are fixed: only a server of one's own can be extended"
    if ways.via in ("auto", COMFY) and ways.comfy:
        return COMFY, None
    if ways.via in ("auto", MANAGER) and ways.manager is not None:
        return MANAGER, None
    if ways.via == COMFY:
        return None, "comfy-cli is not on PATH, or the server is on another machine (then give --workspace)"
    if ways.via == MANAGER:
        return None, "the server has no ComfyUI-Manager that answers"
    return None, "neither comfy-cli (for a server on this machine) nor the server's Manager is at hand"


def _model_step(item: Item, ways: Ways) -> Step:
    origin = item.origin
    facts: dict[str, Any] = {"folder": item.folder} if item.folder else {}
    if origin is None:
        return Step("model", item.name, None, "no source names an address", facts=facts)
    facts |= {"source": origin.source} | ({"licence": origin.licence} if origin.licence else {})
    step = Step(
        "model", item.name, None, url=origin.url, sha256=origin.sha256, bytes=origin.bytes, facts=facts
    )
    if origin.suggestion:
        return replace(
            step, blocked="its address stands in a note of the workflow: a person must look at it first"
        )
    place = ("embeddings", origin.name) if item.kind == "embedding" else item.target
    if place is None:
        return replace(step, blocked="which model folder it belongs to is not known")
    try:
        step = replace(step, relative=_deps_place.target(*place))
    except SkillError as error:
        return replace(step, blocked=error.message)
    reason = ways.allowed.refusal(origin.url)
    if reason is not None:
        host = urlsplit(origin.url).hostname or "HOST"
        return replace(
            step,
            blocked=f"its address is not used: {reason}",
            consent=f"--allow-host {_cli.clean(host, 100)}",
        )
    if _deps_report.is_pickle(item.name) and not ways.allow_pickle:
        blocked = "files of this type can run code when they are loaded"
        return replace(step, blocked=blocked, consent="--allow-pickle")
    how, blocked_by = _model_way(ways, step)
    step = replace(step, how=how, blocked=blocked_by)
    order = _manager_order(ways, step) if how == MANAGER else None
    # The Manager downloads from the address in its own list, so that is the one to show.
    return replace(step, url=str(order["url"]), sha256=None) if order is not None else step


def _model_way(ways: Ways, step: Step) -> tuple[str | None, str | None]:
    if ways.server.api != "local":
        return None, "the service's models are fixed: only a server of one's own can be extended"
    if ways.via == "auto" and ways.models_folder is not None:
        if (ways.models_folder / (step.relative or "")).exists():
            return (
                None,
                "a file of that name is in the models folder, but the server does not list it: restart it, or see its paths",
            )
        return DOWNLOAD, None
    if ways.via == COMFY:
        if not ways.comfy:
            return (
                None,
                "comfy-cli is not on PATH, or the server is on another machine (then give --workspace)",
            )
        return COMFY, None
    if ways.manager is not None and _manager_order(ways, step) is not None:
        return MANAGER, None
    if ways.manager is not None and ways.via == MANAGER:
        return None, "the Manager's list does not hold this file, and it takes no other"
    if ways.via == MANAGER:
        return None, "the server has no ComfyUI-Manager that answers"
    return None, "where the server keeps its models is not known: give --models-dir"


def _manager_order(ways: Ways, step: Step) -> Mapping[str, Any] | None:
    """What the Manager is told to download: an entry of its own list; version 4 without a list takes any."""
    assert ways.manager is not None and step.relative is not None
    folder, _, filename = step.relative.rpartition("/")
    if ways.manager.shape == _deps_manager.V4:
        base = {"name": filename, "type": folder.split("/")[0], "base": "", "save_path": folder}
        return {**base, "filename": filename, "url": step.url}
    try:
        entry = _deps_place.manager_entry(ways.manager.model_list(), folder, filename)
    except SkillError:
        return None
    # Its list may give another address for the name: then that one must be allowed too.
    if entry is None or ways.allowed.refusal(str(entry.get("url"))) is not None:
        return None
    return entry


def _looked_up(steps: list[Step], ways: Ways) -> list[Step]:
    """Size, hash and gate of every download, as the hosts say; asked at once."""
    wanted = [step for step in steps if step.kind == "model" and step.how is not None and step.url]
    if not wanted:
        return steps
    with ThreadPoolExecutor(4) as pool:
        found = dict(
            zip(
                map(id, wanted),
                pool.map(lambda step: _fetch_model.look(str(step.url), ways.allowed), wanted),
                strict=True,
            )
        )
    return [_with_facts(step, found[id(step)]) if id(step) in found else step for step in steps]


def _with_facts(step: Step, facts: _fetch_model.Facts) -> Step:
    more: dict[str, Any] = dict(step.facts or {})
    if facts.gate:
        more["gate"] = facts.gate
    if facts.problem:
        more["not_looked_at"] = facts.problem
    return replace(step, bytes=facts.bytes or step.bytes, sha256=step.sha256 or facts.sha256, facts=more)


def totals(steps: Iterable[Step], ways: Ways) -> dict[str, Any]:
    """The sum of the known sizes and the free space at the target."""
    downloads = [step for step in steps if step.kind == "model" and step.how is not None]
    document: dict[str, Any] = {"bytes": sum(step.bytes or 0 for step in downloads)}
    unknown = sum(1 for step in downloads if step.bytes is None)
    if unknown:
        document["sizes_unknown"] = unknown
    if ways.models_folder is not None:
        document["models_folder"] = str(ways.models_folder)
        document["free_bytes"] = _deps_place.free_bytes(ways.models_folder)
    return document


def carry_out(steps: Sequence[Step], ways: Ways) -> list[Outcome]:
    """Do the steps that nothing blocks, packs first; one that fails does not stop the others."""
    outcomes = _install_packs([step for step in steps if step.kind == "pack" and step.how], ways)
    for step in steps:
        if step.kind == "model" and step.how:
            outcomes.append(_attempt(step, ways))
    return outcomes


def _install_packs(steps: Sequence[Step], ways: Ways) -> list[Outcome]:
    by_manager = [step for step in steps if step.how == MANAGER]
    outcomes = [_install_by_comfy(step, ways) for step in steps if step.how == COMFY]
    if not by_manager:
        return outcomes
    assert ways.manager is not None
    _cli.note(f"installing {', '.join(step.name for step in by_manager)} with the server's Manager")
    try:
        fates = ways.manager.install_packs([step.name for step in by_manager])
    except SkillError as error:
        return outcomes + [Outcome(step, False, error.message, error) for step in by_manager]
    for step in by_manager:
        fate = fates.get(step.name, "the Manager said nothing about it")
        outcomes.append(Outcome(step, fate == "installed", fate))
    return outcomes


def _install_by_comfy(step: Step, ways: Ways) -> Outcome:
    words = _deps_comfy.install_command(step.name, ways.workspace)
    _cli.note(f"running {_cli.shell_words(words)}")
    try:
        done = _deps_comfy.run(words)
    except SkillError as error:
        return Outcome(step, False, error.message, error)
    facts = {"command": _cli.shell_words(words), "exit_code": done.code}
    if done.code != 0:
        return Outcome(step, False, "comfy-cli failed", facts={**facts, "server_said": done.said})
    return Outcome(step, True, "comfy-cli installed it", facts=facts)


def _attempt(step: Step, ways: Ways) -> Outcome:
    _cli.note(f"fetching {step.name} from {_deps_hosts.shown(str(step.url))}")
    try:
        if step.how == DOWNLOAD:
            return _download(step, ways)
        if step.how == COMFY:
            return _download_by_comfy(step, ways)
        return _download_by_manager(step, ways)
    except SkillError as error:
        return Outcome(step, False, error.message, error)


def _download(step: Step, ways: Ways) -> Outcome:
    assert ways.models_folder is not None and step.relative is not None
    target = ways.models_folder.joinpath(*step.relative.split("/"))
    wanted = _fetch_model.Wanted(str(step.url), target, step.sha256, ways.allow_pickle)
    fetched = _fetch_model.fetch(wanted, ways.allowed)
    facts: dict[str, Any] = {
        "file": str(fetched.path), "bytes": fetched.bytes, "sha256": fetched.sha256, "checked": list(fetched.checked),
    }  # fmt: skip
    if fetched.resumed_at:
        facts["resumed_at"] = fetched.resumed_at
    return Outcome(step, True, "downloaded", facts=facts)


def _download_by_comfy(step: Step, ways: Ways) -> Outcome:
    """comfy-cli downloads, we look at what it brought; it follows redirects by its own rules."""
    import _deps_file_check

    assert step.relative is not None
    folder, _, filename = step.relative.rpartition("/")
    words = _deps_comfy.download_command(str(step.url), f"models/{folder}", filename, ways.workspace)
    done = _deps_comfy.run(
        words, token_host=urlsplit(str(step.url)).hostname, limit=_deps_comfy.DOWNLOAD_LIMIT
    )
    facts: dict[str, Any] = {"command": _cli.shell_words(words), "exit_code": done.code}
    if done.code != 0:
        return Outcome(step, False, "comfy-cli failed", facts={**facts, "server_said": done.said})
    if ways.models_folder is None:
        return Outcome(
            step, True, "comfy-cli downloaded it; the file could not be checked from here", facts=facts
        )
    path = ways.models_folder.joinpath(*step.relative.split("/"))
    if not path.is_file():
        return Outcome(
            step, False, "comfy-cli reports success, but the file is not where it belongs", facts=facts
        )
    wrong = _deps_file_check.problem(path)
    if step.sha256 and not wrong:
        digest = _deps_file_check.digest(path)
        wrong = None if digest == step.sha256 else f"its SHA-256 is {digest} and should be {step.sha256}"
    if wrong:
        bad = path.with_name(path.name + ".rejected")
        path.replace(bad)
        return Outcome(
            step,
            False,
            f"what comfy-cli brought is not usable: {wrong}; it was renamed to {bad.name}",
            facts=facts,
        )
    return Outcome(
        step,
        True,
        "comfy-cli downloaded it",
        facts={**facts, "file": str(path), "bytes": path.stat().st_size},
    )


def _download_by_manager(step: Step, ways: Ways) -> Outcome:
    assert ways.manager is not None
    order = _manager_order(ways, step)
    if order is None:
        raise SkillError("the Manager no longer knows the file", code="not_found", exit=Exit.FAILED)
    said = ways.manager.install_model(order)
    listed = said in ("installed", "unconfirmed") and _is_listed(step, ways)
    if said == "unconfirmed" and not listed:
        return Outcome(
            step, False, "the Manager has finished, and the server lists no such file: see its log"
        )
    done = said in ("installed", "unconfirmed")
    note = "the server downloaded it; hash and form were not checked from here"
    return Outcome(
        step,
        done,
        "the Manager downloaded it" if done else said,
        facts={"checked": [], "note": note} if done else {},
    )


def _is_listed(step: Step, ways: Ways) -> bool:
    """Whether the server now lists the file. Raises SkillError when it cannot be asked."""
    folder, _, name = str(step.relative).partition("/")
    return any(
        listed.replace("\\", "/").endswith(name.rpartition("/")[2]) for listed in ways.server.models(folder)
    )
