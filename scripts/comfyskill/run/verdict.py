"""How something ended, as one value: status, code, message, hint, whether to retry, and the next commands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document
from comfyskill.graph import diagnose, nodes
from comfyskill.server.protocol import Graph, JobState

if TYPE_CHECKING:
    from comfyskill.run.result import Result

# Another request for such a file gets the same answer.
FINAL_DOWNLOAD_FAILURES = frozenset(
    {"not_found", "refused", "bad_request", "bad_answer", "unsafe_redirect", "redirect_loop"}
)
SECRET_NAME = re.compile(r"key|token|password|passwd|secret|auth|credential|cookie", re.I)
TRACE_LINES = 12
MOST_MESSAGE = 600
MOST_VALUE = 300
MOST_INPUTS = 40


class Verdict(NamedTuple):
    """How a job, several jobs or a batch ended. `code` is empty for a clean success, which needs no more keys.

    `error`: the failing node and the exception, for a job that failed.
    """

    status: str
    code: str = ""
    message: str = ""
    hint: str = ""
    retryable: bool = False
    next: Sequence[str] = ()
    error: Document | None = None

    def document(self) -> Document:
        """The keys that a report begins with."""
        if not self.code:
            return {"status": self.status}
        document: Document = {"status": self.status, "code": self.code, "message": self.message}
        if self.hint:
            document["hint"] = self.hint
        document["retryable"] = self.retryable
        if self.error is not None:
            document["error"] = self.error
        return document | ({"next": list(self.next)} if self.next else {})


SUCCESS = Verdict("success")


def of_run(result: Result) -> Verdict:
    """How a run ended, with a command for all but a clean success."""
    verdict = _of_run(result)
    if not verdict.code or verdict.next:
        return verdict
    return verdict._replace(next=[result.run.server.explain_command(result.run.prompt_id)])


def _of_run(result: Result) -> Verdict:
    run, state = result.run, result.state
    if run.interrupted:
        return _interrupted(result)
    if state.phase == "unknown":
        return _lost(result)
    if state.outcome == "cancelled":
        hint = "run it again if wanted"
        if run.server.api != "local":
            hint = f"the cloud also ends runs longer than the plan allows (references/cloud.md); else {hint}"
        return Verdict("cancelled", "cancelled", "the job was cancelled, but not by this command", hint)
    if state.outcome == "error":
        return failure(state, run.graph)
    if result.failed:
        return _incomplete(result)
    if result.missed:
        return Verdict(
            "partial",
            "missed_pictures",
            f"the pictures of node {safe_text.name(result.missed[0])} went to another client's socket; "
            "the server keeps no copy",
            "run it again with --ws and wait for it",
        )
    if run.accepted is not None and run.accepted.node_errors:
        return Verdict(
            "partial",
            "dropped_nodes",
            "part of the graph failed validation and was dropped by the server; the rest ran",
            "correct the nodes under `dropped`, or use --strict",
        )
    return SUCCESS


def _interrupted(result: Result) -> Verdict:
    if result.state.phase in ("pending", "running"):
        return Verdict(
            "cancelled",
            "interrupted",
            "interrupted; the job is being cancelled but has not ended yet",
            "its running node finishes first",
            next=[result.run.resume_command],
        )
    if result.state.outcome == "success":
        return Verdict(
            "success", "interrupted", "interrupted, but the job had already finished", "its files are here"
        )
    hint = "its finished files are here" if result.saved else "nothing was finished; run it again if wanted"
    return Verdict("cancelled", "interrupted", "interrupted by the user; the job was stopped", hint)


def _lost(result: Result) -> Verdict:
    """A restarted ComfyUI forgets its jobs; a service that keeps records but shows none may still have run the job."""
    run = result.run
    if run.ours and run.server.keeps_records:
        return Verdict(
            "lost",
            "lost",
            "the server accepted this job but has no record of it; its outcome is not known",
            "ask again by its prompt id, and check the server's own job page, before running it again: it may have "
            "run, and be paid for",
            next=[run.resume_command],
        )
    list_command = run.server.list_command()
    if run.ours:
        message = "the server has no trace of this job: it was restarted or its history was cleared"
        return Verdict("lost", "lost", message, "run the workflow again", retryable=True, next=[list_command])
    return Verdict(
        "lost",
        "lost",
        "the server has no trace of this prompt id: it is wrong, or the server was restarted since",
        "compare the id and --host with the server's job list; run it again only if the job is not there",
        next=[list_command],
    )


def _incomplete(result: Result) -> Verdict:
    """Some files could not be fetched; another try only helps where the server may still have them."""
    failed = result.failed
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    name = safe_text.quoted(failed[0].json()["filename"])
    message = f"the run succeeded, but {name}{more} could not be downloaded: {failed[0].error.message}"
    codes = {item.error.code for item in failed}
    if codes <= FINAL_DOWNLOAD_FAILURES:
        hint = "the server does not provide these files; see failed_downloads"
        return Verdict("partial", "download_failed", message, hint)
    hint = "fetch them again when the server answers"
    if codes == {"system_error"}:
        hint = "check the output folder and the disk, then fetch them again"
    return Verdict(
        "partial", "download_failed", message, hint, retryable=True, next=[result.run.resume_command]
    )


def failure(
    state: JobState, graph: Graph, *, most_message: int = MOST_MESSAGE, full: bool = False
) -> Verdict:
    """Why a job failed: which node, class and title, its values, the cause, the exception.

    `error["traceback"]` begins with the innermost frame, where it broke; with `full` it is whole. `most_message` caps
    the server's message, in characters.
    """
    error = state.error or {}
    node_id = safe_text.clean(error.get("node_id") or "", 60)
    node = node_of(graph, node_id)
    class_type = safe_text.clean(
        error.get("node_type") or error.get("class_type") or node.get("class_type") or "", 80
    )
    title = safe_text.clean(foreign.mapping(node.get("_meta")).get("title") or "", 80)
    exception = safe_text.clean(error.get("exception_type") or "", 120)
    message = safe_text.clean(
        error.get("exception_message") or error.get("message") or "no reason given", most_message
    )
    trace = [str(entry) for entry in foreign.items(error.get("traceback"))]
    found = diagnose.diagnose(exception, message, trace)
    where = (
        f"node {safe_text.name(node_id)} ({safe_text.name(title or class_type)})" if node_id else "the server"
    )
    return Verdict(
        "error",
        found.code,
        f"{where} failed{_why(found, exception)}",
        found.hint,
        error={
            "node_id": node_id,
            "class_type": class_type,
            "title": title,
            "inputs": values_of(node),
            "exception_type": exception,
            "server_said": message.strip(),
            "traceback": _traceback(trace, full),
        },
    )


def _why(found: diagnose.Diagnosis, exception: str) -> str:
    """The cause in plain words if it is known, with the exception's own name."""
    if found is diagnose.UNKNOWN:
        return f": {safe_text.quoted(exception)}" if exception else ""
    return f": {found.cause}" + (f" ({safe_text.name(exception)})" if exception else "")


def node_of(graph: Graph, node_id: str) -> nodes.Node:
    """The node of an id; the nodes that a node has made ("5.0.1") are that node's."""
    return foreign.mapping(graph.get(node_id.split(".")[0]))


def values_of(node: nodes.Node) -> Document:
    """The values set on a node, without its links."""
    return {
        safe_text.clean(name, 80): shown_value(name, value)
        for name, value in list(nodes.inputs_of(node).items())[:MOST_INPUTS]
        if nodes.link_of(value) is None
    }


def shown_value(name: str, value: object) -> object:
    """A value as reports show it: cleaned and capped, hidden when its name suggests a secret; links stay links."""
    if SECRET_NAME.search(name):
        return safe_text.HIDDEN
    link = nodes.link_of(value)
    if link is not None:
        return {"from_node": safe_text.clean(link.node_id, 60), "output": link.slot}
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    return safe_text.clean(value if isinstance(value, str) else repr(value), MOST_VALUE)


def _traceback(trace: Sequence[str], full: bool) -> list[str]:
    lines = [line for text in trace for line in text.rstrip().splitlines()]
    return [safe_text.clean(line, 400) for line in _innermost_first(lines if full else _last_frames(lines))]


def _last_frames(lines: list[str]) -> list[str]:
    """The innermost whole frames of a traceback, without the lines of carets; last frame last."""
    plain = [line for line in lines if line.strip(" ^~")]
    kept = plain[-TRACE_LINES:]
    starts = [index for index, line in enumerate(kept) if line.lstrip().startswith("File ")]
    return kept[starts[0] :] if starts and len(plain) > len(kept) else kept


def _innermost_first(lines: list[str]) -> list[str]:
    """Frames in reverse order, each frame's own lines kept in theirs."""
    frames: list[list[str]] = []
    for line in lines:
        if line.lstrip().startswith("File ") or not frames:
            frames.append([])
        frames[-1].append(line)
    return [line for frame in reversed(frames) for line in frame]
