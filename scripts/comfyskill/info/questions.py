"""What a server has and can do: each question returns one short JSON value with true counts."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document, Exit, SkillError
from comfyskill.base.programs import command
from comfyskill.graph.nearest import meant, nearest
from comfyskill.info import node_search
from comfyskill.server import connect
from comfyskill.server.facts import Facts
from comfyskill.server.protocol import Dialect
from comfyskill.source import on_server

T = TypeVar("T")
LIST_LIMIT = 50
GIB = 1024**3
# Folders that /models lists and that hold code and settings.
NO_MODELS = frozenset({"custom_nodes", "configs"})
# Where ComfyUI-Manager reports its version: 4.x and 3.x.
MANAGER_ROUTES = ("v2/manager/version", "manager/version")


def about(server: Facts) -> Document:
    """The keys at the start of every answer."""
    answer: Document = {"status": "ok", "host": server.url, "api": server.api}
    return answer | ({"demo": True} if server.demo else {})


def shortened(items: Sequence[object], full: bool, limit: int = LIST_LIMIT) -> Document:
    """The list with its true count: complete with --full, else its head and the number left out."""
    capped = safe_text.cap(items, len(items) if full else limit)
    if "more" in capped:
        capped["hint"] = "add --full for all, or narrow it down"
    return capped


def offered(server: Facts, what: str, ask: Callable[[], T]) -> T:
    """The answer from a route that not every server has.

    Raises:
        SkillError: `not_offered` when this server does not have it; other failures as they are.
    """
    try:
        return ask()
    except SkillError as error:
        if error.code != "not_found":
            raise
        kinds = {"local": "this ComfyUI version", "cloud": "Comfy Cloud", "v2": "an API v2 server"}
        raise SkillError(
            f"{kinds.get(server.api, 'this server')} does not offer {what}",
            code="not_offered",
            hint="run server_info.py features to see what it offers",
            server=server.url,
            api=server.api,
        ) from error


def stats(server: Facts, *, full: bool = False) -> Document:
    """Version, device, memory and queue length."""
    facts = offered(server, "system statistics", server.stats)
    system = foreign.mapping(facts.get("system"))
    answer = about(server) | {
        "comfyui_version": _text(system.get("comfyui_version")),
        "python_version": _text(system.get("python_version")),
        "pytorch_version": _text(system.get("pytorch_version")),
        "os": _text(system.get("os")),
        "memory": {"total_gb": _gb(system.get("ram_total")), "free_gb": _gb(system.get("ram_free"))},
        "devices": [_device(device) for device in foreign.mappings(facts.get("devices"))],
        "queue": queue(server),
    }
    for key in (
        "cloud_version",
        "deploy_environment",
        "comfyui_frontend_version",
        "required_frontend_version",
    ):
        if system.get(key):
            answer[key] = _text(system[key])
    if full:
        answer["server_said"] = facts
    return answer


def _text(value: object) -> str | None:
    return safe_text.clean(value, 120) if value is not None else None


def _gb(value: object) -> float | None:
    size = foreign.number(value)
    return None if size is None else round(size / GIB, 1)


def _device(device: Mapping[str, object]) -> Document:
    return {
        "name": _text(device.get("name")),
        "type": _text(device.get("type")),
        "vram_total_gb": _gb(device.get("vram_total")),
        "vram_free_gb": _gb(device.get("vram_free")),
    }


def queue(server: Facts) -> dict[str, int] | None:
    """How many jobs run and wait; None if the server does not say."""
    if server.live is None:
        return None
    try:
        jobs = server.live.list_jobs(0, finished=False)
    except SkillError as error:
        if error.code in ("not_found", "not_offered"):
            return None
        raise
    phases = [job.phase for job in jobs]
    return {"running": phases.count("running"), "pending": phases.count("pending")}


def features(server: Dialect) -> Document:
    """What this server can do, found by asking it, and which routes the scripts use."""
    flags = server.features()
    upload = foreign.number(flags.get("max_upload_size"))
    # Comfy Cloud's v1 has it; of v2's surfaces not all list jobs.
    listing = {"local": "api/jobs", "v2": "api/v2/jobs"}.get(server.api)
    jobs_api = listing is None or answers(server, listing, {"limit": 1})
    native_cancel = server.api != "local" or has_cancel_route(server)
    also_v2 = server.api == "local" and connect.speaks_v2(server) is not None
    return about(server) | {
        "chosen_because": f"{server.why}; it speaks API v2 too (--api v2)" if also_v2 else server.why,
        "api_v2": also_v2 or server.api == "v2",
        "jobs_api": jobs_api,
        "own_prompt_ids": server.own_ids,
        "websocket": server.has_socket,
        "cancel_by_id": "native" if native_cancel else "delete from the queue, else interrupt by id",
        "preview_metadata": bool(flags.get("supports_preview_metadata")),
        "assets": answers(server, "api/assets", {"limit": 1}),
        "subgraphs": answers(server, "global_subgraphs"),
        "node_replacements": answers(server, "node_replacements"),
        "templates": answers(server, "templates/index.json"),
        "saved_workflows": answers(server, "userdata", {"dir": "workflows/"}, absent_is_empty=True),
        "manager": manager(server, flags),
        "max_upload_mb": None if upload is None else round(upload / 2**20, 1),
        "jobs_at_once": server.most_at_once(),
        "paths": _paths(server),
        "server_said": flags,
    }


def _paths(server: Dialect) -> dict[str, str]:
    """Which routes the scripts use on this server."""
    if server.api == "v2":
        return {
            "submit": "POST /api/v2/jobs with an idempotency key",
            "watch": "server-sent events, else polling the job",
            "outputs": "the job's signed addresses",
        }
    if server.api == "cloud":
        return {
            "submit": "POST /api/prompt, the cloud chooses the prompt id; a mark identifies a lost job",
            "watch": "WebSocket, confirmed by GET /api/jobs/{id}",
            "outputs": "/api/view, its redirect fetched without the key",
        }
    return {
        "submit": "POST /prompt with a prompt id chosen here",
        "watch": "WebSocket opened before the submit, confirmed by /history/{id}",
        "outputs": "/view",
    }


def answers(
    server: Dialect, path: str, params: Mapping[str, object] | None = None, *, absent_is_empty: bool = False
) -> bool | str:
    """Whether a GET route exists: True, False, `refused` when the key does not allow it, `unknown` when it failed."""
    try:
        response = server.open_stream(path, params, timeout=20)
        response.close()
    except SkillError as error:
        if error.code == "refused":
            return "refused"
        if error.code == "not_found":
            # For a missing folder the server gives a reason, for a missing route none.
            return absent_is_empty and server.api != "v2" and bool(error.details.get("server_said"))
        if error.exit == Exit.UNREACHABLE:
            raise
        return "unknown" if error.code in ("server_error", "busy") else False
    return True


def has_cancel_route(server: Dialect) -> bool:
    """Whether POST /api/jobs/{id}/cancel exists, tested with an unknown id (0.33 answers 200, 0.8.0 405)."""
    try:
        server.post_json(f"api/jobs/{uuid.uuid4()}/cancel", {}, timeout=20)
    except SkillError as error:
        if error.exit == Exit.UNREACHABLE:
            raise
        # For an unknown job a server gives a reason, for a missing route none.
        return error.code == "not_found" and bool(error.details.get("server_said"))
    return True


def manager(server: Dialect, flags: Mapping[str, object]) -> Document:
    """Whether ComfyUI-Manager answers, and its version. The feature flag alone does not mean that it is installed."""
    if server.api != "local":
        return {"present": False}
    for route in MANAGER_ROUTES:
        try:
            said = server.get(route, attempts=1, timeout=20).text
        except SkillError as error:
            if error.exit == Exit.UNREACHABLE:
                raise
            continue
        if found := re.search(r"\d+\.\d+[\w.]*", said[:100]):
            return {"present": True, "version": found[0], "route": f"/{route}"}
    flag = foreign.mapping(foreign.mapping(flags.get("extension")).get("manager"))
    return {"present": False, "server_is_ready_for_v4": bool(flag.get("supports_v4"))}


def nodes(server: Facts, *, full: bool = False, **wanted: str | None) -> Document:
    """The node classes that match; see `node_search.search`."""
    definitions = server.definitions()
    found = node_search.search(definitions, **wanted)
    return about(server) | {"classes": len(definitions), **shortened(found, full, 30)}


def node(server: Facts, name: str, *, full: bool = False) -> Document:
    """One node class in detail.

    Raises:
        SkillError: the server has no such class; the hint names the nearest.
    """
    definitions = server.definitions([name])
    if name not in definitions:
        known = list(server.definitions())
        only = meant(name, known)
        near = [only] if only else nearest(name, known, 5)
        raise SkillError(
            f"the server has no node class {safe_text.quoted(name)}",
            code="no_such_node",
            hint="did you mean " + ", ".join(near) + "?" if near else "search with: nodes --search TEXT",
        )
    return about(server) | {"node": node_search.describe(definitions, name, full=full)}


def models(server: Facts, folder: str | None, *, text: str | None = None, full: bool = False) -> Document:
    """The names in one model folder, or the number in each folder (with a text: also the matches)."""
    if folder is not None:
        names = _matching(offered(server, "model lists", lambda: _folder(server, folder)), text)
        return about(server) | {"folder": folder, **shortened(names, full)}
    counts: Document = {}
    found: list[str] = []
    for name in offered(server, "model lists", server.model_folders):
        if name in NO_MODELS:
            continue
        try:
            listed = server.models(name)
        except SkillError as error:
            if error.exit in (Exit.UNREACHABLE, Exit.REFUSED):
                raise
            # The cloud answers "no such folder" for an empty one.
            counts[name] = 0 if error.code == "folder_not_found" else None
            continue
        counts[name] = len(listed)
        found += [f"{name}/{model}" for model in _matching(listed, text)] if text else []
    answer = about(server) | {"folders": counts}
    return answer | {"found": shortened(found, full)} if text else answer


def _folder(server: Facts, folder: str) -> list[str]:
    try:
        return server.models(folder)
    except SkillError as error:
        if error.code != "folder_not_found":
            raise
        known = server.model_folders()
        if folder in known:
            return []
        raise SkillError(
            f"the server does not have a model folder {safe_text.quoted(folder)}",
            code="folder_not_found",
            hint=f"it has: {safe_text.quoted_list(known, 40)}",
        ) from error


def _matching(names: Sequence[str], text: str | None) -> list[str]:
    words = (text or "").lower().split()
    return sorted(name for name in names if all(word in name.lower() for word in words))


def embeddings(server: Facts, *, text: str | None = None, full: bool = False) -> Document:
    """The embeddings' names; in a prompt: embedding:NAME."""
    names = offered(server, "embeddings", server.embeddings)
    return about(server) | shortened(_matching(names, text), full)


def extensions(server: Dialect, *, text: str | None = None, full: bool = False) -> Document:
    """The node packs with scripts for the editor, and the number of files of each."""
    listed = offered(server, "its list of extensions", lambda: server.get_json("extensions"))
    packs: dict[str, int] = {}
    for path in foreign.items(listed):
        parts = str(path).strip("/").split("/")
        name = parts[1] if len(parts) > 1 else parts[0]
        packs[name] = packs.get(name, 0) + 1
    rows = [{"pack": name, "files": count} for name, count in packs.items()]
    return about(server) | shortened(
        [row for row in rows if not text or text.lower() in str(row["pack"]).lower()], full
    )


def templates(server: Dialect, *, text: str | None = None, full: bool = False) -> Document:
    """The workflow templates: official ones with title, kind and models, then those of node packs as PACK/NAME."""
    index = offered(server, "workflow templates", server.template_index)
    rows = []
    for group in foreign.mappings(index):
        for entry in foreign.mappings(group.get("templates")):
            if isinstance(entry.get("name"), str):
                rows.append(_template(entry, group))
    for pack, names in foreign.mapping(server.get_json("workflow_templates")).items():
        rows += [
            {"name": f"{pack}/{name}", "title": str(name), "category": str(pack)}
            for name in foreign.items(names)
        ]
    words = (text or "").lower().split()
    found = [row for row in rows if all(word in str(list(row.values())).lower() for word in words)]
    if not (full or words):
        # Descriptions would double the length of an unfiltered list.
        found = [{key: value for key, value in row.items() if key != "server_description"} for row in found]
    return about(server) | shortened(found, full, 25)


def _template(entry: Mapping[str, object], group: Mapping[str, object]) -> Document:
    row: Document = {
        "name": entry["name"],
        "title": safe_text.clean(entry.get("title") or entry["name"], 120),
    }
    row["category"] = safe_text.clean(group.get("title") or "", 80)
    if models := foreign.items(entry.get("models")):
        row["models"] = safe_text.clean(", ".join(map(str, models)), 120)
    if entry.get("description"):
        row["server_description"] = safe_text.clean(entry["description"], 160)
    if entry.get("openSource") is False:
        # The index marks templates that call paid services this way.
        row["paid_nodes"] = True
    return row


def subgraphs(server: Dialect, *, text: str | None = None, full: bool = False) -> Document:
    """The subgraph blueprints of the server; their ids only where two have one name, or with `full`."""
    found = offered(server, "subgraph blueprints", lambda: on_server.blueprints(server))
    often = Counter(blueprint.name for blueprint in found)
    words = (text or "").lower().split()
    rows = [
        {"name": _text(blueprint.name), "from": _text(blueprint.pack) or None}
        | ({"id": blueprint.id} if full or often[blueprint.name] > 1 else {})
        for blueprint in found
        if all(word in blueprint.name.lower() for word in words)
    ]
    answer = about(server) | shortened(rows, full)
    if rows:
        spec = f"subgraph:{rows[0]['name']}"
        answer["next"] = [command("extract_schema.py", spec, *server.flags)]
    return answer


def saved_workflows(server: Dialect, *, text: str | None = None, full: bool = False) -> Document:
    """The workflows saved on the server."""
    if server.api == "v2":
        # On other servers a missing folder means that nothing was saved yet; here the route itself may be missing.
        offered(server, "saved workflows", lambda: server.get_json("userdata", {"dir": "workflows/"}))
    names = offered(server, "saved workflows", lambda: on_server.saved_names(server))
    return about(server) | shortened(_matching(names, text), full)
