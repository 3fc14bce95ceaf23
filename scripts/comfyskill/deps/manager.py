"""ComfyUI-Manager of a server: its version, what it knows, and its install queue.

Three shapes of one program (read in 3.31 and 4.3): version 3 under /manager and /customnode, version 4 under /v2 with a
task queue, and version 4 with its legacy interface under /v2 with batches. None of them is part of ComfyUI itself.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from comfyskill.base import cli, foreign, safe_text
from comfyskill.base.cli import Document, Exit, SkillError
from comfyskill.server import transport
from comfyskill.server.facts import Facts
from comfyskill.server.protocol import Dialect

V3, V4, V4_LEGACY = "v3", "v4", "v4-legacy"
_VERSION = re.compile(r"^[Vv]?\d+(\.\d+){0,3}([-+.\w]{0,20})?$")
CORE_PACKS = ("comfy-core", "comfyanonymous/comfyui", "comfy-org/comfyui")
# Seconds: between questions about the queue, and how long it is idle before it counts as finished.
FIRST_POLL, POLL = 0.1, 1.0
IDLE = 2.0
# Seconds: between questions to a restarting server, and how long it may still answer before it stops.
AWAY_POLL = 0.2
STOPPING = 5.0


class PackClaim(NamedTuple):
    """A pack that the Manager lists for a class: a registry id, or only the address of a repository."""

    id: str | None
    repository: str | None = None
    title: str | None = None


def find(facts: Facts) -> Manager | None:
    """The Manager that answers on a server, or None when there is none.

    Raises SkillError `unreachable` or `refused` when the server does not answer.
    """
    server = facts.live
    if server is None or server.api != "local":
        return None
    version = _version(server, "v2/manager/version")
    if version:
        return Manager(server, V4_LEGACY if _has_legacy_face(server) else V4, version)
    version = _version(server, "manager/version")
    return Manager(server, V3, version) if version else None


def _version(server: Dialect, path: str) -> str | None:
    try:
        response = server.get(path, attempts=1, timeout=10)
    except SkillError as error:
        if error.code in ("unreachable", "refused"):
            raise
        return None
    text = transport.text_of(response, 200).strip()[:60]
    # A web page that answers every address with 200 is not a Manager.
    return text if _VERSION.match(text) else None


def _has_legacy_face(server: Dialect) -> bool:
    try:
        answer = server.get_json("v2/manager/is_legacy_manager_ui", attempts=1, timeout=10)
    except SkillError as error:
        if error.code in ("unreachable", "refused"):
            raise
        return False
    return isinstance(answer, Mapping) and answer.get("is_legacy_manager_ui") is True


class Manager:
    """The questions and orders that the three shapes have in common."""

    def __init__(self, server: Dialect, shape: str, version: str) -> None:
        self.server = server
        self.shape = shape
        self.version = version
        self.said: dict[str, str] = {}  # pack or file -> why it was not installed, in the Manager's words
        self._prefix = "" if shape == V3 else "v2/"
        self._mappings: dict[str, list[PackClaim]] | None = None
        self._endings: list[tuple[re.Pattern[str], PackClaim]] = []
        self._models: list[Mapping[str, object]] | None = None
        self._client = f"comfyui-skill-{secrets.token_hex(8)}"

    @property
    def name(self) -> str:
        """For a report: program and version."""
        return f"ComfyUI-Manager {safe_text.clean(self.version, 30)} ({self.shape})"

    def packs_with(self, class_type: str) -> list[PackClaim]:
        """The packs that its mapping lists for a class; exact names before patterns. Raises SkillError."""
        if self._mappings is None:
            self._mappings = self._read_mappings()
        exact = self._mappings.get(class_type, [])
        if exact:
            return exact
        return [claim for pattern, claim in self._endings if pattern.search(class_type)]

    def _read_mappings(self) -> dict[str, list[PackClaim]]:
        answer = self.server.get_json(
            f"{self._prefix}customnode/getmappings", params={"mode": "local"}, timeout=120
        )
        found: dict[str, list[PackClaim]] = {}
        for key, value in foreign.mapping(answer).items():
            classes, about = (*foreign.items(value), None, None)[:2]
            claim = _claim(str(key), foreign.mapping(about))
            for class_type in foreign.items(classes):
                if isinstance(class_type, str):
                    found.setdefault(class_type, []).append(claim)
            pattern = _ending(foreign.mapping(about).get("nodename_pattern"))
            if pattern is not None:
                self._endings.append((pattern, claim))
        return found

    def model_list(self) -> list[Mapping[str, object]]:
        """Its list of known models; empty for the shape that has none. Raises SkillError."""
        if self._models is None:
            self._models = []
            if self.shape != V4:
                answer = self.server.get_json(
                    f"{self._prefix}externalmodel/getlist", params={"mode": "local"}, timeout=60
                )
                self._models = foreign.mappings(foreign.mapping(answer).get("models"))
        return self._models

    def installed(self) -> dict[str, Mapping[str, object]]:
        """Installed packs by folder name: {ver, cnr_id, aux_id, enabled}. Raises SkillError."""
        answer = self.server.get_json(f"{self._prefix}customnode/installed", timeout=60)
        packs = foreign.mapping(answer).items()
        return {str(key): value for key, value in packs if isinstance(value, Mapping)}

    def install_packs(self, ids: Sequence[str], *, patience: float = 900.0) -> dict[str, str]:
        """Install registry packs; pack -> `installed`, or why not. Raises SkillError when it cannot be asked."""
        before = self._idle()
        fates: dict[str, str] = {}
        tasks = {pack: f"{self._client}-{index}" for index, pack in enumerate(ids)}
        accepted = self._order_packs(tasks, fates)
        if not accepted:
            return fates
        self._start()
        self._wait(before, len(accepted), patience)
        installed = {
            _key(foreign.text(entry.get("cnr_id")) or name) for name, entry in self.installed().items()
        }
        for pack in accepted:
            said = self._task_result(tasks[pack])
            if said in (None, "success", "skip") and _key(pack) in installed:
                fates[pack] = "installed"
            else:
                fates[pack] = self._refused(pack, said)
        return fates

    def _order_packs(self, tasks: Mapping[str, str], fates: dict[str, str]) -> list[str]:
        if self.shape == V4_LEGACY:
            items = [_pack_order(pack, ui_id) for pack, ui_id in tasks.items()]
            answer = self._post("queue/batch", {"install": items})
            failed = {name for name in foreign.items(answer.get("failed")) if isinstance(name, str)}
            for pack in failed & tasks.keys():
                fates[pack] = "the Manager refused it (its security level, or an unknown pack)"
            return [pack for pack in tasks if pack not in failed]
        accepted = []
        for pack, ui_id in tasks.items():
            order = _pack_order(pack, ui_id)
            try:
                if self.shape == V3:
                    self._post("queue/install", order)
                else:
                    self._post(
                        "queue/task",
                        {"ui_id": ui_id, "client_id": self._client, "kind": "install", "params": order},
                    )
            except SkillError as error:
                if error.code not in ("refused", "not_found", "bad_request"):
                    raise
                fates[pack] = f"the Manager refused it: {error.message}"
                continue
            accepted.append(pack)
        return accepted

    def install_model(self, entry: Mapping[str, object], *, patience: float = 3600.0) -> str:
        """Have the server download one model: `installed`, `unconfirmed` (no record is kept), or why not.

        `entry`: name, type, base, save_path, filename, url, as its model list has them.
        """
        before = self._idle()
        ui_id = f"{self._client}-model"
        order = {**entry, "ui_id": ui_id, "client_id": self._client}
        if self.shape == V4_LEGACY:
            answer = self._post("queue/batch", {"install_model": [{**order, "id": ui_id}]})
            if answer.get("failed"):
                return "the Manager refused it (its security level, or not in its list)"
        else:
            self._post("queue/install_model", order)
        self._start()
        self._wait(before, 1, patience)
        said = self._task_result(ui_id)
        if said is None:
            return "unconfirmed"
        return "installed" if said in ("success", "skip") else self._refused(str(order.get("filename")), said)

    def _refused(self, name: str, said: str | None) -> str:
        """Our message for a failed order; the Manager's own words are kept in `said`."""
        if said is None:
            return "the Manager did not install it and gave no reason; see its log"
        self.said[name] = safe_text.clean(said, 200)
        return "the Manager did not install it (see server_said)"

    def _idle(self) -> int:
        status = self.status()
        if _working(status):
            raise SkillError(
                "the Manager is working on other installs", code="busy", retryable=True,
                hint="wait until it has finished, then run this again",
            )  # fmt: skip
        return foreign.whole(status.get("done_count")) or 0

    def status(self) -> Mapping[str, object]:
        """Its queue: total_count, done_count, in_progress_count, is_processing."""
        answer = self.server.get_json(f"{self._prefix}manager/queue/status", timeout=30)
        return foreign.mapping(answer)

    def _start(self) -> None:
        if self.shape == V4_LEGACY:
            return  # a batch starts itself
        if self.shape == V4:
            self._post("queue/start", {})
            return
        try:
            self.server.get("manager/queue/start", attempts=1, timeout=60)
        except SkillError as error:
            if error.details.get("http_status") not in (404, 405):
                raise
            self._post("queue/start", {})

    def _wait(self, before: int, ordered: int, patience: float) -> None:
        give_up = time.monotonic() + patience
        idle_since, pause = None, FIRST_POLL
        while (now := time.monotonic()) < give_up:
            status = self.status()
            done = foreign.whole(status.get("done_count"))
            finished = done is not None and done - before >= ordered
            idle_since = None if _working(status) else idle_since or now
            # The worker may not have started yet, and the legacy queue resets its counts when it ends.
            if idle_since is not None and (finished or now - idle_since >= IDLE):
                return
            cli.note(f"Manager: {done or 0} of {foreign.whole(status.get('total_count')) or '?'} done")
            time.sleep(pause)
            pause = min(2 * pause, POLL)
        raise SkillError(
            "the Manager has not finished in time", code="still_running", exit=Exit.RUNNING, retryable=True,
            hint="it continues by itself; run check_deps.py later",
        )  # fmt: skip

    def _task_result(self, ui_id: str) -> str | None:
        """The task queue's result for one task; None for a shape without such records."""
        if self.shape != V4:
            return None
        try:
            answer = self.server.get_json("v2/manager/queue/history", params={"ui_id": ui_id}, attempts=2)
        except SkillError as error:
            if error.code == "unreachable":
                raise
            return None
        history = foreign.mapping(foreign.mapping(answer).get("history"))
        if not history:
            return "no record of the task"
        word = foreign.mapping(history.get("status")).get("status_str")
        return "success" if word in ("success", "skip") else str(history.get("result") or word or "failed")

    def restart(self) -> None:
        """Ask it to restart the server. The connection usually breaks before an answer; that is not a failure."""
        try:
            if self.shape == V3:
                self.server.get("manager/reboot", attempts=1, timeout=10)
            else:
                self._post("reboot", {})
        except SkillError as error:
            if error.code != "unreachable":
                raise

    def is_back(self, patience: float = 180.0) -> bool:
        """Whether the server answers again after `restart`; it is asked until then.

        An answer counts once it was seen to be away, or after the time in which it would have stopped.
        """
        begun, was_away = time.monotonic(), False
        while (waited := time.monotonic() - begun) < patience:
            try:
                self.server.get("system_stats", attempts=1, timeout=10)
            except SkillError:
                was_away = True
            else:
                if was_away or waited > STOPPING:
                    return True
            time.sleep(AWAY_POLL)
        return False

    def _post(self, path: str, body: Mapping[str, object]) -> Mapping[str, object]:
        try:
            response = self.server.post(f"{self._prefix}manager/{path}", body, timeout=120)
        except SkillError as error:
            if error.details.get("http_status") == 403:
                raise SkillError(
                    "ComfyUI-Manager's security level forbids this", code="refused",
                    hint="its config.ini decides (security_level, and whether the server listens beyond this machine); "
                    "install with comfy-cli on the server's own machine instead",
                    server_said=error.details.get("server_said"), http_status=403,
                ) from error  # fmt: skip
            raise
        # Most answers are empty, or a word.
        answer = self.server.json_of(response) if response.content.strip().startswith(b"{") else None
        return foreign.mapping(answer)


def _working(status: Mapping[str, object]) -> bool:
    """Whether tasks wait or run. Version 4's worker counts as processing for seconds after its last task."""
    if isinstance(status.get("pending_count"), int):
        return bool(status["pending_count"] or status.get("in_progress_count"))
    return bool(status.get("is_processing"))


def _pack_order(pack: str, ui_id: str) -> Document:
    return {
        "id": pack, "version": "latest", "selected_version": "latest", "channel": "default", "mode": "cache",
        "ui_id": ui_id, "skip_post_install": False,
    }  # fmt: skip


def _claim(key: str, about: Mapping[str, object]) -> PackClaim:
    title = safe_text.clean(foreign.text(about.get("title_aux") or about.get("title")), 80) or None
    if "/" not in key:
        return PackClaim(key, None, title)
    bare = re.sub(r"^https?://github\.com/|\.git$|/$", "", key).lower()
    if bare in CORE_PACKS:
        return PackClaim("comfy-core", None, "ComfyUI itself")
    return PackClaim(None, safe_text.clean(key, 200), title)


def _ending(pattern: object) -> re.Pattern[str] | None:
    """The Manager's name pattern when it is plain text at the start or end of a name; others may be slow, so not used."""
    if not isinstance(pattern, str) or len(pattern) > 60:
        return None
    start, end = pattern.startswith("^"), pattern.endswith("$")
    middle = re.sub(r"\\(.)", r"\1", pattern.removeprefix("^").removesuffix("$"))
    plain = re.sub(r"\\.", "", pattern.removeprefix("^").removesuffix("$"))
    if not (start or end) or len(middle) < 3 or re.search(r"[.*+?()\[\]{}|^$\\]", plain):
        return None
    return re.compile(("^" if start else "") + re.escape(middle) + ("$" if end else ""))


def _key(name: str) -> str:
    return name.lower().split("@")[0]
