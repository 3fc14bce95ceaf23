"""What happened to a job, for someone who must fix it.

Everything the server reports is cleaned and capped; inputs that may hold secrets are left out.
"""

from __future__ import annotations

from collections.abc import Collection

from comfyskill.base import cli, foreign, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.base.programs import command
from comfyskill.graph import nodes
from comfyskill.run import collect, memory, submit, times, verdict
from comfyskill.run.reports import head
from comfyskill.server.protocol import Dialect, JobState, JobSummary

MOST_NODES = 60
RECENT = 50
MOST_LOG = 4000
MOST_FILES = 40
MOST_INPUTS = 40
MOST_MESSAGE = 2_000


def explain(server: Dialect, prompt_id: str, *, full: bool = False) -> Document:
    """The whole report on one job. Raises SkillError (exit 1, `lost`) when the server has no trace of it."""
    state = server.state(prompt_id)
    if state.phase == "unknown":
        raise SkillError(
            "the server has no trace of this prompt id: it is wrong, or the server was restarted since",
            code="lost",
            status="lost",
            hint="list its jobs with --list",
            prompt_id=prompt_id,
        )
    if not state.done:
        return _unfinished(server, state)
    document: Document = {"status": state.outcome, **head(server, prompt_id), **_times(state)}
    if state.outcome == "error":
        document |= _failure(server, state, full)
    elif state.outcome == "cancelled":
        document |= {
            "code": "cancelled",
            "message": "the job was interrupted before its end",
            "hint": "run it again if wanted",
        }
    files = collect.files_of(state.outputs, previews=True)
    document["outputs"] = [
        {
            "filename": safe_text.clean(item.ref.display_name or item.ref.filename, 200),
            "node_id": item.node_id,
            "type": item.kind,
        }
        for item in files[:MOST_FILES]
    ]
    document["nodes"] = _node_times(server, state)
    document["messages"] = [safe_text.clean(item[0], 60) for item in state.messages if item]
    if state.logs:
        # Deployments keep a run's log with the job; its end is what explains a failure.
        text = safe_text.clean(state.logs)
        document["server_logs"] = text if full else safe_text.last_of(text, MOST_LOG)
    return document


def _unfinished(server: Dialect, state: JobState) -> Document:
    doing = "it is running"
    if state.phase != "running":
        doing = f"it is waiting in the queue{_place(server, state)}"
    return {
        "status": "running",
        "code": "still_running",
        "message": f"the job has not ended: {doing}",
        "hint": "wait for it by its id; do not submit it again",
        **head(server, state.prompt_id),
        "next": [command("manage_queue.py", "wait", state.prompt_id, *server.flags)],
    }


def _place(server: Dialect, state: JobState) -> str:
    """Its place in the queue; a job's record does not always show it."""
    place = state.position
    if place is None:
        try:
            queue = server.list_jobs(0, finished=False)
        except SkillError:
            return ""
        place = next((job.position for job in queue if job.prompt_id == state.prompt_id), None)
    return f", place {place}" if place else ""


def _times(state: JobState) -> Document:
    seconds = state.execution_seconds
    known: Document = {} if seconds is None else {"execution_seconds": round(seconds, 3)}
    return known if state.ended is None else {**known, "ended_at": int(state.ended)}


def _node_times(server: Dialect, state: JobState) -> Document:
    """Seconds per node where our own commands watched the run, the slowest first."""
    known = times.nodes_of(server.url, state.prompt_id)
    rows = [
        {
            "node_id": node_id,
            "class_type": safe_text.clean(
                verdict.node_of(state.graph or {}, node_id).get("class_type") or "", 80
            ),
            "seconds": seconds,
        }
        for node_id, seconds in sorted(known.items(), key=lambda item: -item[1])
    ]
    return safe_text.cap(rows, MOST_NODES)


def _failure(server: Dialect, state: JobState, full: bool) -> Document:
    graph = state.graph or {}
    failure = verdict.failure(state, graph, most_message=MOST_MESSAGE, full=full)
    error = dict(failure.error or {})
    node = {key: error.pop(key) for key in ("node_id", "class_type", "title")}
    node["inputs"] = _inputs(server, verdict.node_of(graph, node["node_id"]), state.error or {})
    document = {key: value for key, value in failure.document().items() if key != "status"}
    document |= {"error": {key: value for key, value in error.items() if key != "inputs"}, "node": node}
    if failure.code == "out_of_memory":
        document["proposals"] = memory.proposals(graph, server)
    return document


def _inputs(server: Dialect, node: nodes.Node, error: nodes.Node) -> Document:
    """The inputs the node had: from the graph, and locally from the error; on the cloud the latter may hold secrets."""
    shown = {name: verdict.shown_value(name, value) for name, value in nodes.inputs_of(node).items()}
    current = foreign.mapping(error.get("current_inputs")) if server.api == "local" else {}
    for name, value in current.items():
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        link = shown.get(str(name))
        if isinstance(link, dict):
            shown[str(name)] = link | {"value": verdict.shown_value(str(name), value)}
        elif str(name) not in shown:
            shown[str(name)] = verdict.shown_value(str(name), value)
    return {safe_text.clean(name, 80): value for name, value in list(shown.items())[:MOST_INPUTS]}


def listing(server: Dialect, count: int) -> Document:
    """The latest jobs with status and duration, newest first; running and waiting ones before them."""
    ours = submit.known(server.url)
    rows = [row(job, ours) for job in server.list_jobs(count)]
    return {"status": "ok", **head(server), "jobs": safe_text.cap(rows, max(count, 1))}


def row(job: JobSummary, ours: Collection[str] = ()) -> Document:
    """One job as lists show it."""
    shown: Document = {
        "prompt_id": safe_text.clean(job.prompt_id, 100),
        "state": job.outcome or job.phase,
    }
    if job.position:
        shown["position"] = job.position
    if job.started is not None and job.ended is not None and job.ended >= job.started:
        shown["seconds"] = round(job.ended - job.started, 3)
    if job.created is not None:
        shown["created"] = int(job.created)
    if job.outputs_count is not None:
        shown["outputs"] = job.outputs_count
    if job.title:
        shown["title"] = safe_text.clean(job.title, 80)
    if job.client_id in ours or job.prompt_id in ours:
        shown["ours"] = True
    return shown


def latest(server: Dialect) -> str:
    """The prompt id of our job that ended last; any user's if none of ours is recorded.

    Raises SkillError (exit 1) when there is none.
    """
    ours = submit.known(server.url)
    done = [job.prompt_id for job in server.list_jobs(RECENT) if job.phase == "done"]
    if mine := [prompt_id for prompt_id in done if prompt_id in ours]:
        return mine[0]
    if done:
        cli.warn("none of the finished jobs was submitted from here; showing the last job of any user")
        return done[0]
    raise SkillError(
        "the server has no finished jobs",
        code="no_jobs",
        hint="the server may have been restarted",
    )


def server_lines(server: Dialect, count: int) -> Document:
    """The server's own recent log lines, cleaned. Raises SkillError when it returns none."""
    if server.api != "local":
        raise SkillError("only your own ComfyUI server shows its log", code="not_available")
    entries = foreign.mapping(server.get_json("internal/logs/raw")).get("entries")
    if not isinstance(entries, list):
        raise SkillError(f"{server.url} did not answer with log lines", code="bad_answer")
    text = "".join(str(entry.get("m", "")) for entry in foreign.mappings(entries))
    lines = [safe_text.clean(line, 500) for line in text.splitlines() if line.strip()]
    return {"status": "ok", **head(server), "count": len(lines), "server_said": lines[-count:]}
