"""The checks that ask a server, one at a time."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import _common
from comfyskill.base import flags, foreign, paths, programs, safe_text
from comfyskill.base.cli import Document, Exit, SkillError
from comfyskill.base.packages import PACKAGES, install_commands
from comfyskill.info import questions
from comfyskill.machine import setup_plan, setup_run
from comfyskill.server import connect, node_definitions
from comfyskill.server.protocol import Dialect, JobSummary

GIB = 1024**3
SOCKET_LIMIT_S = 5.0
# A dead worker leaves HTTP alive and the queue unchanged; three looks exclude a job that is just starting.
STUCK_LOOKS, STUCK_PAUSE_S = 3, 0.7
LONG_RUN_S = 3600
# A job that does not exist: API v2 requires the key for it too, and not every server lists jobs.
NO_JOB = "00000000-0000-4000-8000-000000000000"
# A worker that dies within a job leaves it listed as running for ever. Most jobs on a local server end sooner.
QUIET_RUN_S = 600
CLOCK_SKEW_S = 60
LOCAL_PORTS = {8188: "ComfyUI's own port", 8000: "the Desktop app's port"}
# A server that computes may take seconds to answer.
ANSWER_LIMIT_S = 10.0
# The versions of ComfyUI that this skill was tried with. README.md names them too.
OLDEST_TRIED, NEWEST_TRIED = (0, 8, 0), (0, 33, 0)
# The modules that the scripts need without the demo server; tqdm only draws bars.
MODULES = ("requests", "websocket", "PIL")


def server_answers(server: Dialect) -> Check:
    """The server is ComfyUI: version, device and memory."""
    if server.api == "v2":
        server.state(NO_JOB)
        return ok("server", f"{server.url} is a Comfy API v2 server")
    stats = questions.stats(server)
    devices = stats["devices"]
    version = f"ComfyUI {safe_text.name(stats['comfyui_version'] or 'of unknown version')}"
    if server.api == "cloud":
        return ok("server", f"Comfy Cloud, {version}")
    kept = {key: stats[key] for key in ("comfyui_version", "pytorch_version", "devices")}
    if not devices or all(device["type"] == "cpu" for device in devices):
        message = f"{version} runs on the CPU: a picture takes minutes"
        return warn("server", message, programs.command("hardware_check.py", "--check-pytorch"), **kept)
    device = devices[0]
    vram = f"{device['vram_free_gb']} of {device['vram_total_gb']} GB free"
    return ok("server", f"{version} on {safe_text.quoted(device['name'])}, {vram}", **kept)


def version_tried(server: Dialect) -> Check:
    """Whether this skill was tried with the server's version, and its installed packages are the ones that it requires."""
    if server.api != "local":
        return skipped("version", "a service chooses its own version")
    system = foreign.mapping(server.stats().get("system"))
    version = safe_text.name(foreign.text(system.get("comfyui_version")) or "of unknown version")
    tried = " to ".join(".".join(map(str, number)) for number in (OLDEST_TRIED, NEWEST_TRIED))
    if outdated := _outdated(system):
        rows = [f"{row['name']} {row['installed']} (requires {row['required']})" for row in outdated[:4]]
        return warn(
            "version",
            f"ComfyUI {version} has older packages than it requires: {', '.join(rows)}",
            "in ComfyUI's folder, with its own Python: python -m pip install -r requirements.txt; then restart it",
            outdated=outdated,
            tried=tried,
        )
    number = _number(version)
    if number is None or OLDEST_TRIED <= number <= NEWEST_TRIED:
        return ok("version", f"ComfyUI {version}; this skill was tried with {tried}", tried=tried)
    age = "newer" if number > NEWEST_TRIED else "older"
    return ok(
        "version",
        f"ComfyUI {version} is {age} than the versions that this skill was tried with ({tried}); most things work",
        tried=tried,
        untried=age,
    )


def _outdated(system: Mapping[str, object]) -> list[Document]:
    """The packages of the server that are older than it requires; 0.8 reports only two of them."""
    rows = [dict(row) for row in foreign.mappings(system.get("comfy_package_versions"))]
    for name, key in (("comfyui-frontend-package", "frontend"), ("comfyui-workflow-templates", "templates")):
        installed = system.get(f"installed_{key}_version", system.get(f"comfyui_{key}_version"))
        rows.append({"name": name, "installed": installed, "required": system.get(f"required_{key}_version")})
    found: dict[str, Document] = {}
    for row in rows:
        installed, required = _number(row.get("installed")), _number(row.get("required"))
        if installed is not None and required is not None and installed < required:
            named = {key: safe_text.name(row[key]) for key in ("name", "installed", "required")}
            found[named["name"]] = named
    return list(found.values())


def _number(version: object) -> tuple[int, ...] | None:
    """A version as numbers that can be compared; None for another text, such as a branch."""
    match = re.match(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?(?![\d.])", foreign.text(version))
    return tuple(int(part or 0) for part in match.groups()) if match else None


def socket_opens(server: Dialect) -> Check:
    """The WebSocket connects and sends messages."""
    if not server.has_socket:
        return skipped("websocket", "API v2 reports progress by server-sent events instead")
    import uuid
    from importlib.util import find_spec

    from comfyskill.server.socket import Disconnected, Wire

    if find_spec("websocket") is None:
        return skipped("websocket", "the package websocket-client is missing")
    fix = "a proxy must forward WebSocket upgrades; until then progress is polled"
    try:
        wire = Wire(server, uuid.uuid4().hex)
        try:
            deadline = time.monotonic() + SOCKET_LIMIT_S
            while time.monotonic() < deadline:
                if wire.receive(0.5) is not None:
                    return ok("websocket", "connected")
        finally:
            wire.close()
    except Disconnected as error:
        if error.status in (401, 403):
            fix = "give the server's key or login (--api-key-file, --header)"
        return fail("websocket", f"the WebSocket does not open: {error}", fix)
    return warn("websocket", f"it connects, but sends nothing within {SOCKET_LIMIT_S:g} s", fix)


def definitions_readable(server: Dialect) -> Check:
    """The node definitions can be read."""
    start = time.monotonic()
    count = len(server.definitions())
    if not count:
        return fail("definitions", "the server lists no nodes", "restart it and read its log")
    return ok("definitions", f"{count} node classes, read in {time.monotonic() - start:.1f} s", count=count)


def has_model(server: Dialect) -> Check:
    """The server has at least one checkpoint or diffusion model."""
    counts: Document = {}
    for folder in ("checkpoints", "diffusion_models"):
        try:
            counts[folder] = len(server.models(folder))
        except SkillError as error:
            if error.exit == Exit.UNREACHABLE or error.code == "not_offered":
                raise
            # The cloud answers this for an empty folder too; after any other error the count is unknown.
            counts[folder] = 0 if error.code == "folder_not_found" else None
    known = [count for count in counts.values() if count is not None]
    listed = ", ".join(
        f"{'unknown' if count is None else count} in {folder}" for folder, count in counts.items()
    )
    if any(known):
        return ok("models", listed, **counts)
    if len(known) < len(counts):
        return warn(
            "models", f"the models could not be listed ({listed})", "check the key and its plan", **counts
        )
    return warn(
        "models",
        "the server has no checkpoint and no diffusion model",
        setup_command("--model", "sd15"),
        **counts,
    )


def disk_space(server: Dialect) -> Check:
    """Free disk where a server on this machine writes."""
    if not is_local(server.url) or server.demo or server.api != "local":
        return skipped("disk", "the server's disk is not visible from this machine")
    folder = _written_folder(server.stats()["system"].get("argv"))
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    message = f"{free / GIB:.1f} GB free at {folder}"
    if free < GIB:
        return fail("disk", message, "free up space: outputs will be cut off")
    return warn("disk", message, "free up space, or move models") if free < 10 * GIB else ok("disk", message)


def _written_folder(argv: object) -> Path:
    """Where the server writes outputs, from its command line, else comfy-cli's default."""
    words = [str(word) for word in argv] if isinstance(argv, list) else []
    for flag in ("--output-directory", "--base-directory"):
        if flag in words[:-1]:
            return Path(words[words.index(flag) + 1])
    main = Path(words[0]) if words else Path()
    return main.parent if main.is_absolute() else paths.home()


def queue_moves(server: Dialect) -> Check:
    """The queue moves: pending jobs with none running, three times in a row, mean a dead worker.

    A long job may have lost its worker too. Its progress goes to its own client, so this is only a warning.
    """
    jobs = server.list_jobs(0, finished=False)
    for _ in range(STUCK_LOOKS - 1):
        if server.api != "local" or not _waits_only(jobs):
            break
        time.sleep(STUCK_PAUSE_S)
        later = server.list_jobs(0, finished=False)
        if [job.prompt_id for job in later] != [job.prompt_id for job in jobs]:
            jobs = later
            break
    running = [job for job in jobs if job.phase == "running"]
    pending = len(jobs) - len(running)
    counts: Document = {"running": len(running), "pending": pending}
    if server.api != "local" and _waits_only(jobs):
        # A service may have no machine free for a while.
        return ok("queue", f"{pending} waiting, none running yet", **counts)
    if _waits_only(jobs):
        return fail(
            "queue",
            f"{safe_text.counted(pending, 'job')} pending and none running: the server's worker is dead",
            "restart the server",
            **counts,
        )
    limit = QUIET_RUN_S if server.api == "local" else LONG_RUN_S
    for job in running:
        seconds = server.now() - (_begun(server, job) or server.now())
        if seconds > limit:
            return _runs_long(server, job.prompt_id, seconds, counts)
    return ok("queue", "idle" if not jobs else f"{len(running)} running, {pending} waiting", **counts)


def _begun(server: Dialect, job: JobSummary) -> float | None:
    """The earliest time at which a running job began; None when the server reports no time."""
    started = server.state(job.prompt_id).started
    if started or server.api != "local" or not job.created:
        return started
    # ComfyUI reports only the submit time. It runs one job at a time, so this one began after the last one ended.
    return max([job.created, *(other.ended for other in server.list_jobs(1) if other.ended)])


def _runs_long(server: Dialect, prompt_id: str, seconds: float, counts: Mapping[str, object]) -> Check:
    span = f"{seconds / 3600:.1f} hours" if seconds >= LONG_RUN_S else f"{seconds / 60:.0f} minutes"
    message, fix = f"a job has been running for {span}", None
    if server.api == "local":
        shown = prompt_id if safe_text.is_job_id(prompt_id) else "PROMPT_ID"
        message += "; its progress is not visible from here"
        cancel = programs.command("manage_queue.py", "cancel", shown, *host_words(server))
        fix = (
            "unless it is a long video, check the server's log and load; if the job is still listed a minute after "
            f"{cancel}, its worker is dead: restart the server"
        )
    return warn("queue", message, fix, prompt_id=prompt_id, **counts)


def _waits_only(jobs: Sequence[JobSummary]) -> bool:
    return bool(jobs) and not any(job.phase == "running" for job in jobs)


def manager_there(server: Dialect) -> Check:
    """ComfyUI-Manager, which installs node packs."""
    if server.api != "local":
        return skipped("manager", "only a local ComfyUI has a Manager")
    found = questions.manager(server, server.features())
    if found["present"]:
        return ok("manager", f"ComfyUI-Manager {safe_text.name(found['version'])}")
    return ok("manager", "no ComfyUI-Manager; only installing node packs needs it")


def account_allows(server: Dialect) -> Check:
    """The cloud accepts the key, and its plan runs jobs."""
    if server.api == "local":
        if os.environ.get("COMFY_CLOUD_API_KEY"):
            return skipped("account", "a cloud key is set; check it with --host https://cloud.comfy.org")
        return skipped("account", "a local server needs no account")
    if server.api == "v2":
        server.state(NO_JOB)
        return ok("account", "the key is accepted" if server.access.key else "the server requires no key")
    if not server.access.key and not server.access.headers:
        return fail(
            "account", "no key was given", "set COMFY_CLOUD_API_KEY, or use --api-key-file", code="refused"
        )
    server.get_json("user")
    try:
        billing = server.get_json("billing/status")
    except SkillError as error:
        if error.code in ("not_found", "bad_answer"):
            return ok("account", "the key is valid; the plan could not be checked")
        raise
    billing = foreign.mapping(billing)
    tier = safe_text.clean(billing.get("subscription_tier") or "unknown", 40)
    if billing.get("is_active") is False or tier == "FREE":
        return fail(
            "account",
            f"the key is valid, but the plan ({safe_text.name(tier)}) runs no jobs by API",
            "change the plan",
            code="refused",
        )
    if billing.get("has_funds") is False:
        return fail("account", "the key is valid, but the credits are used up", "buy credits", code="refused")
    at_once = server.most_at_once()
    return ok(
        "account",
        f"plan {safe_text.name(tier)}" + (f", {at_once} jobs at once" if at_once else ""),
        jobs_at_once=at_once,
    )


def clocks_agree(server: Dialect) -> Check:
    """This machine's clock against the server's Date header: signed addresses expire by it."""
    from email.utils import parsedate_to_datetime

    path = "features" if server.api != "v2" else "api/v2/health"
    try:
        date = server.get(path, attempts=1, timeout=10).headers.get("Date")
    except SkillError as error:
        if error.exit == Exit.UNREACHABLE:
            raise
        date = None
    try:
        skew = time.time() - parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError, IndexError):
        return skipped("clock", "the server reports no time")
    if abs(skew) > CLOCK_SKEW_S:
        direction = "ahead of" if skew > 0 else "behind"
        return warn(
            "clock",
            f"this machine's clock is {abs(skew):.0f} s {direction} the server's",
            "set the time automatically",
        )
    return ok("clock", f"within {max(1, round(abs(skew)))} s of the server's", skew_s=round(skew, 1))


def workflow_runs(server: Dialect, spec: str) -> Check:
    """Whether the server would take a workflow: nodes, models and values against its own definitions."""
    from comfyskill.graph import check as graph_check
    from comfyskill.source import read

    known = node_definitions.Definitions("server", server.definitions())
    source = read.read(spec, server=server, definitions=lambda: known)
    found = graph_check.findings(source.graph, known.classes)
    errors = [finding for finding in found if finding.severity == "error"]
    fix = programs.command("check_deps.py", spec, *host_words(server))
    if errors:
        rows = [finding.to_json() for finding in errors[:10]]
        return fail(
            "workflow",
            f"{safe_text.counted(len(errors), 'problem')} in {spec}",
            fix,
            errors=rows,
            count=len(errors),
        )
    warnings = [finding.message for finding in found if finding.severity == "warning"]
    if warnings:
        return warn(
            "workflow",
            f"it would run, with {safe_text.counted(len(warnings), 'warning')}",
            fix,
            warnings=warnings[:10],
        )
    return ok("workflow", f"the server has everything that {spec} needs")


def setup_command(*words: object) -> str:
    """The comfyui_setup command with --dry-run: the real run needs the user's consent."""
    return programs.command("comfyui_setup.py", *words, "--dry-run")


class Check(NamedTuple):
    """One finding. `fix` is a command or an instruction; `details` are more keys of its JSON."""

    name: str
    result: str
    message: str
    fix: str | None = None
    details: Mapping[str, object] = {}

    def json(self) -> Document:
        """The row of the report."""
        row = {"name": self.name, "result": self.result, "message": self.message}
        if self.fix:
            row["fix"] = self.fix
        return row | dict(self.details)


def ok(name: str, message: str, **details: object) -> Check:
    """A check that passed."""
    return Check(name, "ok", message, details=details)


def warn(name: str, message: str, fix: str | None = None, **details: object) -> Check:
    """A check that passed in part."""
    return Check(name, "warn", message, fix, details)


def fail(name: str, message: str, fix: str | None = None, **details: object) -> Check:
    """A check that failed."""
    return Check(name, "fail", message, fix, details)


def skipped(name: str, why: str) -> Check:
    """A check that was not made, and why."""
    return Check(name, "skipped", why)


def failed_by(name: str, error: SkillError) -> Check:
    """The failed check for an error of the server or the network."""
    details = {key: error.details[key] for key in ("server_said", "http_status") if error.details.get(key)}
    return fail(name, error.message, error.hint, code=error.code, **details)


def guarded(name: str, check: Callable[[], Check]) -> Check:
    """The check's result; a server error becomes a failed check. Misuse is raised."""
    try:
        return check()
    except SkillError as error:
        if error.exit == Exit.MISUSE:
            raise
        if error.code == "not_offered":
            return skipped(name, error.message)
        return failed_by(name, error)


def is_local(url: str) -> bool:
    """Whether the server is on this machine."""
    return _common.is_this_machine(urlsplit(url).hostname or "")


def host_words(server: Dialect) -> list[str]:
    """The flags for this server in a command; none for the default server."""
    words = server.flags
    return [] if words == ["--host", flags.DEFAULT_HOST] else words


def install_packages() -> list[str]:
    """The commands that install the packages, as they can be run."""
    return [safe_text.shell_words(words) for words in install_commands()]


def packages() -> Check:
    """The Python packages that the scripts use."""
    from importlib.util import find_spec

    missing = [PACKAGES[module] for module in MODULES if find_spec(module) is None]
    if missing:
        # Without requests no check can be made; without the others some scripts do less.
        say = fail if "requests" in missing else warn
        message = f"this Python lacks {', '.join(missing)}"
        return say(
            "packages", message, "; then ".join(install_packages()), missing=missing, code="missing_package"
        )
    return ok("packages", "all installed")


def comfy_cli(url: str) -> Check:
    """comfy-cli is installed, and its version."""
    if not is_local(url):
        return skipped("comfy_cli", "the server is not on this machine")
    found = setup_plan.find()
    if found is None:
        return warn(
            "comfy_cli",
            "comfy-cli is not installed; only installing and starting ComfyUI need it",
            setup_command(),
        )
    return ok("comfy_cli", f"comfy-cli {found.version}", program=found.program)


def look_around() -> list[Document]:
    """What listens on ComfyUI's usual ports of this machine."""
    found = []
    for port, what in LOCAL_PORTS.items():
        seen = setup_run.look_at(port)
        row: Document = {"url": f"http://127.0.0.1:{port}", "what": what, "state": seen.state}
        if seen.version:
            row["comfyui_version"] = seen.version
        if seen.what:
            row["server_said"] = seen.what
        found.append(row)
    return found


def choose(host: str | None, api: str = "auto") -> tuple[str, list[Document], list[Check]]:
    """The server to check, what was found on the usual ports, and checks about the choice.

    A given host or $COMFY_HOST is kept in any case: the scripts will use it. Else the first of
    the usual ports on which ComfyUI answers.
    """
    configured = None if host else flags.configured_host()
    if (host or configured or api) == "cloud":
        host = _common.CLOUD_URL
    if host:
        return host, [], []
    around = look_around()
    running = [row["url"] for row in around if row["state"] == "comfyui"]
    if configured:
        return configured, around, []
    if not running or running[0] == flags.DEFAULT_HOST:
        return flags.DEFAULT_HOST, around, []
    advice = f"add --host {running[0]} to every command, or set COMFY_HOST={running[0]}"
    return (
        running[0],
        around,
        [warn("address", f"ComfyUI answers on {running[0]}, not on the usual port", advice)],
    )


def reach(host: str, **options: Any) -> tuple[Dialect | None, Check | None]:
    """The server, or the check that says why it could not be reached."""
    if (mute := _mute(host)) is not None:
        return None, mute
    try:
        server = connect.connect(host, need_key=True, **options)
        return server, None
    except SkillError as error:
        if error.exit == Exit.MISUSE or error.code == "consent_needed":
            raise
        return None, _unreached(host, error)


def _mute(host: str) -> Check | None:
    """The failed check for a local port that accepts connections and stays silent; retries would only cost time."""
    if host == "demo":
        return None
    parts = urlsplit(_common.normal_base(_common.split_user_info(host)[0]))
    if parts.scheme != "http" or parts.hostname != "127.0.0.1":
        return None
    seen = setup_run.look_at(parts.port or 80, ANSWER_LIMIT_S)
    if not seen.mute:
        return None
    message = f"something listens on port {parts.port or 80}, but {seen.what}"
    return fail(
        "server", message, "if it is ComfyUI, it hangs: read its log and restart it", code="unreachable"
    )


def _unreached(host: str, error: SkillError) -> Check:
    found = failed_by("server", error)
    if error.code != "unreachable":
        return found
    url = _common.normal_base(_common.split_user_info(host)[0])
    fix = setup_command()
    if not is_local(url):
        fix = "check the address and that the server is running"
    return fail("server", f"nothing answers at {url}", fix, code="unreachable")
