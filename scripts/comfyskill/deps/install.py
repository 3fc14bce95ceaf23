"""Carries out the steps of a plan: packs by comfy-cli or the Manager, models by a checked download. Level 3."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from comfyskill.base import cli, safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.deps import comfy_cli, download, fetch_part, hosts
from comfyskill.deps import manager as deps_manager
from comfyskill.deps.plan import COMFY, DOWNLOAD, MANAGER, Step, Ways, manager_order


class Outcome(NamedTuple):
    """What became of one step."""

    step: Step
    done: bool
    message: str
    error: SkillError | None = None
    facts: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The outcome for a report."""
        document: dict[str, Any] = {
            "kind": self.step.kind, "name": safe_text.clean(self.step.name, 200), "how": self.step.how, "done": self.done,
            "message": safe_text.clean(self.message, 500),
        }  # fmt: skip
        if self.error is not None:
            document["code"] = self.error.code
            if self.error.hint:
                document["hint"] = self.error.hint
            document |= {key: value for key, value in self.error.details.items() if key == "page"}
        return document | dict(self.facts or {})


def carry_out(steps: Sequence[Step], ways: Ways) -> Iterator[Outcome]:
    """Do the steps that nothing blocks, packs first; each outcome as it is there. One that fails stops no other."""
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
    said = [fates.get(step.name, "the Manager said nothing about it") for step in by_manager]
    return [
        Outcome(step, fate == "installed", fate, facts=_said(ways.manager, step.name))
        for step, fate in zip(by_manager, said, strict=True)
    ]


def _said(manager: deps_manager.Manager, name: str) -> dict[str, str]:
    """The Manager's own words about an order that came to nothing, when it has said any."""
    return {"server_said": manager.said[name]} if name in manager.said else {}


def _install_by_comfy(step: Step, ways: Ways) -> Outcome:
    words = comfy_cli.install_command(step.name, ways.workspace)
    cli.note(f"running {safe_text.shell_words(words)}")
    try:
        done = comfy_cli.run(words)
    except SkillError as error:
        return Outcome(step, False, error.message, error)
    facts = {"command": safe_text.shell_words(words), "exit_code": done.code}
    if done.code != 0:
        return Outcome(step, False, "comfy-cli failed", facts={**facts, "server_said": done.said})
    return Outcome(step, True, "comfy-cli installed it", facts=facts)


def _attempt(step: Step, ways: Ways) -> Outcome:
    cli.note(f"fetching {safe_text.quoted(step.name)} from {hosts.shown(str(step.url))}")
    try:
        if step.how == DOWNLOAD:
            return _download(step, ways)
        if step.how == COMFY:
            return _download_by_comfy(step, ways)
        return _download_by_manager(step, ways)
    except SkillError as error:
        return Outcome(step, False, error.message, error)
    except OSError as error:
        # A folder that cannot be made or written, or a disk that filled up: the other steps may still do.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        failure = SkillError(
            f"models/{step.relative} could not be written: {error.strerror or error}", exit=Exit.FAILED,
            code="disk_full" if full else "system_error",
            hint="what has arrived is kept: free some space, then run it again" if full else None,
        )  # fmt: skip
        return Outcome(step, False, failure.message, failure)


def _download(step: Step, ways: Ways) -> Outcome:
    assert ways.models_folder is not None and step.relative is not None
    target = ways.models_folder.joinpath(*step.relative.split("/"))
    wanted = fetch_part.Wanted(str(step.url), target, step.sha256, ways.allow_pickle)
    fetched = download.fetch(wanted, ways.allowed)
    facts: dict[str, Any] = {
        "file": str(fetched.path), "bytes": fetched.bytes, "sha256": fetched.sha256, "checked": list(fetched.checked),
    }  # fmt: skip
    if fetched.resumed_at:
        facts["resumed_at"] = fetched.resumed_at
    return Outcome(step, True, "downloaded", facts=facts)


def _download_by_comfy(step: Step, ways: Ways) -> Outcome:
    """comfy-cli downloads, we look at what it brought; it follows redirects by its own rules."""
    from comfyskill.deps import file_check

    assert step.relative is not None
    folder, _, filename = step.relative.rpartition("/")
    words = comfy_cli.download_command(str(step.url), f"models/{folder}", filename, ways.workspace)
    done = comfy_cli.run(words, token_host=urlsplit(str(step.url)).hostname, limit=comfy_cli.DOWNLOAD_LIMIT)
    facts: dict[str, Any] = {"command": safe_text.shell_words(words), "exit_code": done.code}
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
    wrong = file_check.problem(path)
    if step.sha256 and not wrong:
        digest = file_check.digest(path)
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
    order = manager_order(ways, step)
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
        facts={"checked": [], "note": note} if done else _said(ways.manager, str(order.get("filename"))),
    )


def _is_listed(step: Step, ways: Ways) -> bool:
    """Whether the server now lists the file. Raises SkillError when it cannot be asked."""
    folder, _, name = str(step.relative).partition("/")
    return any(
        listed.replace("\\", "/").endswith(name.rpartition("/")[2]) for listed in ways.server.models(folder)
    )
