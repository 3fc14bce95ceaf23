"""Show and change the queue, the history and the server's memory.

What hits jobs of others asks for consent; every change is confirmed by looking again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from comfyskill.base import cli, foreign, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.jobs import report
from comfyskill.run import prepare, submit
from comfyskill.run.reports import head
from comfyskill.server.protocol import Dialect, JobSummary, Submission

MOST_ROWS = 50
# The number of finished jobs that a filter searches.
MOST_SEARCHED = 1000
UNFINISHED = frozenset({"pending", "running"})
STOPPED = frozenset({"cancelled", "removed", "already_ended"})
CONFIRM_PATIENCE = 6.0
LONGEST_PAUSE = 0.5
HINTS = {
    "still_running": "a node that reports no progress finishes first; check again with manage_queue.py list",
    "not_found": "it is neither in the queue nor in the history: it was removed before, or the id is wrong",
}


def queue_rows(server: Dialect) -> list[JobSummary]:
    """Running, then waiting jobs in the order in which they will run."""
    return [job for job in server.list_jobs(1000, finished=False) if job.phase != "done"]


def show(server: Dialect, most: int = MOST_ROWS) -> Document:
    """What runs and waits, in true order, ours marked, with waiting times if the server reports them."""
    ours = submit.known(server.url)
    rows = []
    for job in queue_rows(server):
        shown = report.row(job, ours)
        if job.created is not None:
            shown["waiting_seconds"] = round(max(server.now() - job.created, 0.0), 1)
        rows.append(shown)
    running = sum(row["state"] == "running" for row in rows)
    return {
        "status": "ok",
        **head(server),
        "running": running,
        "pending": len(rows) - running,
        "ours": sum(bool(row.get("ours")) for row in rows),
        "jobs": safe_text.cap(rows, most),
    }


def _need_consent(others: int, yes: bool, what: str) -> None:
    """Raises SkillError (exit 7) when jobs that were not submitted from here are affected without consent."""
    if others and not yes:
        raise SkillError(
            f"{what} would affect {others} job(s) that were not submitted from here",
            code="consent_needed",
            hint="ask the user, then add --yes",
            flag="--yes",
            foreign=others,
        )


def cancel(server: Dialect, ids: Sequence[str], *, yes: bool = False, all_ours: bool = False) -> Document:
    """Cancel these jobs and no others (`all_ours`: all of ours), and confirm that they are removed.

    The status is `error` when one could not be stopped.
    """
    ours = submit.known(server.url)
    phases = _phases(server, None if all_ours else ids)
    wanted = (
        [prompt_id for prompt_id in phases if prompt_id in ours] if all_ours else list(dict.fromkeys(ids))
    )
    others = [prompt_id for prompt_id in wanted if prompt_id in phases and prompt_id not in ours]
    _need_consent(len(others), yes, "cancel")
    found, unconfirmed = _cancelled(server, wanted, list(phases))
    rows = [
        {
            "prompt_id": safe_text.clean(prompt_id, 100),
            "was": phases.get(prompt_id),
            "result": found[prompt_id],
        }
        for prompt_id in wanted
    ]
    document: Document = {"status": "ok", **head(server), "jobs": rows}
    failed = next((row for row in rows if row["result"] not in STOPPED), None)
    if failed is not None:
        result = str(failed["result"])
        document |= {
            "status": "error",
            "code": "not_cancelled" if result == "still_running" else "not_found",
            "message": f"{safe_text.name(str(failed['prompt_id']))}: {result.replace('_', ' ')}",
            "hint": HINTS.get(result, "see manage_queue.py list"),
        }
    return document | (unconfirmed.document() if unconfirmed is not None else {})


def _cancelled(
    server: Dialect, ids: Sequence[str], queue: Sequence[str]
) -> tuple[dict[str, str], SkillError | None]:
    """What became of each job, and the first error of a cancellation that the server did not confirm."""
    places = {prompt_id: place for place, prompt_id in enumerate(queue)}
    # Waiting ones first, the last before all others, so that none starts while the running one ends.
    order = sorted(ids, key=lambda prompt_id: places.get(prompt_id, -1), reverse=True)
    found: dict[str, str] = {}
    try:
        unconfirmed = server.cancel_all(order)
        for prompt_id in order:
            going = prompt_id in unconfirmed
            found[prompt_id] = (
                "still_running" if going else _confirmed(server, prompt_id, prompt_id in places)
            )
    except SkillError as error:
        done = [{"prompt_id": key, "result": value} for key, value in found.items()]
        raise error.but(jobs=done) from error
    return found, next(iter(unconfirmed.values()), None)


def _phases(server: Dialect, ids: Sequence[str] | None) -> dict[str, str]:
    """`running` or `pending` of what is in the queue; of these ids alone where the server lists no jobs."""
    try:
        return {job.prompt_id: job.phase for job in queue_rows(server)}
    except SkillError as error:
        if error.code != "not_offered" or ids is None:
            raise
    phases = {prompt_id: server.state(prompt_id).phase for prompt_id in ids}
    return {prompt_id: phase for prompt_id, phase in phases.items() if phase in UNFINISHED}


def _confirmed(server: Dialect, prompt_id: str, hit: bool) -> str:
    """`cancelled`, `removed` (it waited), `already_ended`, `not_found` or `still_running`."""
    give_up, pause = time.monotonic() + CONFIRM_PATIENCE, 0.05
    while True:
        state = server.state(prompt_id)
        if state.done:
            return "cancelled" if state.outcome == "cancelled" else "already_ended"
        if state.phase == "unknown":
            return "removed" if hit else "not_found"
        if time.monotonic() > give_up:
            return "still_running"
        time.sleep(pause)
        if pause == LONGEST_PAUSE:
            # An interrupt that comes just before a run's first node is forgotten by the server; and where there was
            # nothing to stop, the job has begun since, or is being stopped already.
            hit = server.cancel(prompt_id) or hit
        pause = min(pause * 1.5, LONGEST_PAUSE)


def clear(server: Dialect, *, all_users: bool = False, yes: bool = False) -> Document:
    """Take waiting jobs out of the queue: ours, or all users' with `all_users` (and `yes`)."""
    ours = submit.known(server.url)
    waiting = [job.prompt_id for job in queue_rows(server) if job.phase == "pending"]
    removed = waiting if all_users else [prompt_id for prompt_id in waiting if prompt_id in ours]
    _need_consent(sum(prompt_id not in ours for prompt_id in removed), yes, "clear --all-users")
    server.cancel_all(removed[::-1])
    rows = queue_rows(server)
    left = {job.prompt_id for job in rows}
    kept = len(waiting) - len(removed)
    document: Document = {
        "status": "ok",
        **head(server),
        "removed": sum(prompt_id not in left for prompt_id in removed),
        "kept_foreign": kept,
    }
    if running := [job.prompt_id for job in rows if job.phase == "running" and job.prompt_id in ours]:
        document |= {
            "still_running": running,
            "message": "our running job continues; cancel --ours stops it too",
        }
    if kept:
        document["hint"] = f"{kept} waiting job(s) were not submitted from here; --all-users removes them too"
    return document


def move_front(server: Dialect, prompt_id: str) -> Document:
    """Let a waiting job of a ComfyUI server run first: remove it and add it again before the others."""
    if server.api != "local":
        raise SkillError("this server orders its queue itself", code="not_available")
    pending = [
        item
        for item in foreign.items(foreign.mapping(server.get_json("queue")).get("queue_pending"))
        if isinstance(item, list) and len(item) > 4
    ]
    item = next((item for item in pending if item[1] == prompt_id), None)
    if item is None:
        raise SkillError(f"{prompt_id} is not waiting in the queue", code="not_found")
    numbers = [number for number in (foreign.number(item[0]) for item in pending) if number is not None]
    extra = dict(foreign.mapping(item[3]))
    _refuse_hidden_key(server, item[2], extra)
    again = Submission(
        item[2],
        prompt_id,
        str(extra.get("client_id") or ""),
        extra,
        number=min(numbers, default=0) - 1,
        targets=item[4],
    )
    # Remove it first: the same id twice in the queue would run twice.
    server.post_json("queue", {"delete": [prompt_id]})
    if server.state(prompt_id).phase != "unknown":
        raise SkillError(f"{prompt_id} has just started", code="already_running")
    try:
        server.submit(again)
    except SkillError as error:
        raise error.but(
            message=f"{prompt_id} was removed from the queue and could not be added again: {error.message}",
            prompt_id=prompt_id,
            graph=cli.Verbatim(item[2]),
        ) from error
    places = [job.prompt_id for job in queue_rows(server) if job.phase == "pending"]
    position = places.index(prompt_id) + 1 if prompt_id in places else 0
    return {"status": "ok", **head(server, prompt_id), "position": position}


def _refuse_hidden_key(server: Dialect, graph: object, extra: Mapping[str, object]) -> None:
    """Newer servers do not show the key that a partner node was submitted with, so it could not be sent again."""
    if "api_key_comfy_org" in extra or "auth_token_comfy_org" in extra:
        return
    if prepare.partner_nodes(foreign.mapping(graph), None, server):
        raise SkillError(
            "it has partner nodes, whose key the server does not show: if submitted again, it would fail",
            code="not_available", hint="cancel it, then run it again with --front",
        )  # fmt: skip


def history(server: Dialect, most: int) -> Document:
    """Finished jobs, newest first."""
    ours = submit.known(server.url)
    rows = [report.row(job, ours) for job in server.list_jobs(most) if job.phase == "done"]
    return {"status": "ok", **head(server), "jobs": safe_text.cap(rows, most)}


def history_delete(server: Dialect, ids: Sequence[str], *, yes: bool = False) -> Document:
    """Forget finished jobs; their files stay."""
    ids, ours = list(dict.fromkeys(ids)), submit.known(server.url)
    foreign = [prompt_id for prompt_id in ids if prompt_id not in ours]
    _need_consent(len(foreign), yes, "history-delete")
    known = [prompt_id for prompt_id in ids if server.state(prompt_id).done]
    server.post_json("history", {"delete": list(known)})
    kept = [prompt_id for prompt_id in known if server.state(prompt_id).done]
    missing = [prompt_id for prompt_id in ids if prompt_id not in known]
    document: Document = {
        "status": "ok",
        **head(server),
        "deleted": [prompt_id for prompt_id in known if prompt_id not in kept],
    }
    if kept:
        document |= _not_deleted(len(kept)) | {"kept": kept}
    if missing:
        document |= {
            "status": "error",
            "code": "not_found",
            "message": "not in the history",
            "missing": missing,
            "retryable": False,
        }
    return document


def history_clear(server: Dialect, *, yes: bool = False) -> Document:
    """Forget all finished jobs; always needs consent, since it affects all users."""
    if not yes:
        raise SkillError(
            "this forgets the finished jobs of all users of this server (files stay)", code="consent_needed",
            hint="ask the user, then add --yes", flag="--yes",
        )  # fmt: skip
    before = {job.prompt_id for job in server.list_jobs(5) if job.phase == "done"}
    server.post_json("history", {"clear": True})
    left = [job.prompt_id for job in server.list_jobs(5) if job.phase == "done"]
    # Jobs that ended since do not show that the server kept anything.
    kept = len(before.intersection(left))
    return {"status": "ok", **head(server), "left": len(left)} | (_not_deleted(kept) if kept else {})


def _not_deleted(count: int) -> Document:
    return {
        "status": "error",
        "code": "not_deleted",
        "message": f"the server accepted the request but still shows {count} of the jobs",
        "hint": "check again with manage_queue.py history",
        "retryable": False,
    }


def free(server: Dialect, *, models: bool, memory: bool) -> Document:
    """Unload models and empty the node cache; the server does it between two runs."""
    if server.api != "local":
        raise SkillError("this server manages its memory itself", code="not_available")
    server.post_json("free", {"unload_models": models, "free_memory": memory})
    busy = len(queue_rows(server))
    document: Document = {
        "status": "ok",
        **head(server),
        "unload_models": models,
        "free_memory": memory,
    }
    if busy:
        document["message"] = f"it takes effect when the running job has ended ({busy} in the queue)"
    return document


def jobs(server: Dialect, *, states: Sequence[str], most: int, offset: int = 0) -> Document:
    """The job list with filters: `pending`, `running`, `success`, `error`, `cancelled`; newest finished ones last.

    `count`: how many match among the running and waiting jobs and the newest finished ones (1000 with a filter).
    """
    ours = submit.known(server.url)
    wanted = max(most + offset, MOST_SEARCHED) if states else most + offset
    listed = server.list_jobs(wanted, finished=not states or not UNFINISHED.issuperset(states))
    found = [job for job in listed if not states or (job.outcome or job.phase) in states]
    rows = [report.row(job, ours) for job in found[offset : offset + most]]
    return {"status": "ok", **head(server), "jobs": {"count": len(found), "items": rows}}
