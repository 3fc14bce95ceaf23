"""The protocol of a ComfyUI server itself (recorded on 0.3.64 and 0.8.0).

A job is found in the history once it has ended, else in the queue; a job in neither is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import _common
from comfyskill.base import foreign
from comfyskill.base.cli import Document, SkillError
from comfyskill.server import transport
from comfyskill.server.protocol import (
    Accepted,
    Dialect,
    FileRef,
    Graph,
    JobState,
    JobSummary,
    Submission,
    accepted_id,
    seconds,
)

if TYPE_CHECKING:
    import requests

OUTCOMES = {
    "execution_success": "success",
    "execution_error": "error",
    "execution_interrupted": "cancelled",
}


class Local(Dialect):
    """A ComfyUI server, on this machine or behind a proxy."""

    api = "local"
    _no_jobs_route = False

    def submit_once(self, submission: Submission) -> Accepted:
        """Post to /prompt under the prompt id that we chose."""
        response = self.post_once("prompt", self._body(submission))
        if response.status_code == 400:
            from comfyskill.server import refusals

            raise refusals.rejection(self.with_options(_json(response)), submission.graph)
        if response.status_code == 429:
            # A proxy's answer, not ComfyUI's. Waiting helps as with any other.
            raise transport.AnswerLost(
                f"HTTP 429: {transport.error_text(response)}", 429, response.headers.get("Retry-After")
            )
        if response.status_code >= 400:
            raise self.failure(response)
        answer = self.json_of(response)
        if not isinstance(answer, Mapping) or "prompt_id" not in answer:
            raise SkillError(
                f"{self.url} accepted the submit but returned no prompt id",
                code="bad_answer",
            )
        errors = answer.get("node_errors")
        return Accepted(
            accepted_id(answer["prompt_id"], submission.prompt_id, self.url),
            foreign.mapping(errors),
        )

    def _body(self, submission: Submission) -> Document:
        body: Document = {
            "prompt": submission.graph,
            "prompt_id": submission.prompt_id,
        }
        if submission.client_id:
            body["client_id"] = submission.client_id
        if submission.extra_data:
            body["extra_data"] = dict(submission.extra_data)
        if submission.front:
            body["front"] = True
        if submission.number is not None:
            body["number"] = submission.number
        if submission.targets is not None:
            body["partial_execution_targets"] = list(submission.targets)
        return body

    def find_submitted(self, submission: Submission) -> str | None:
        """The id is ours, so the job is there under it or not at all."""
        return submission.prompt_id if self.state(submission.prompt_id).phase != "unknown" else None

    def state(self, prompt_id: str) -> JobState:
        """History, then queue, then history again: a job may end between the first two requests."""
        for look in (self._from_history, self._from_jobs, self._from_queue, self._from_history):
            state = look(prompt_id)
            if state is not None:
                return state
        return JobState(prompt_id, "unknown")

    def _from_history(self, prompt_id: str) -> JobState | None:
        answer = self.get_json(f"history/{_common.quoted(prompt_id)}", timeout=self.look_timeout)
        entry = foreign.mapping(answer).get(prompt_id)
        return state_from_history(prompt_id, entry) if isinstance(entry, Mapping) else None

    def _from_jobs(self, prompt_id: str) -> JobState | None:
        """/api/jobs (0.8) says `pending` or `in_progress` in a few bytes, where /queue repeats every waiting graph."""
        if self._no_jobs_route:
            return None
        try:
            answer = self.get_json(
                f"api/jobs/{_common.quoted(prompt_id)}", attempts=1, timeout=self.look_timeout
            )
        except SkillError as error:
            if error.code == "unreachable":
                raise
            # Absent before 0.8; 500 while one stored run has `workflow: null`; then /queue must do.
            self._no_jobs_route = not (error.code == "not_found" and error.details.get("server_said"))
            return None
        phases = {"pending": "pending", "in_progress": "running"}
        job = foreign.mapping(answer)
        phase = phases.get(str(job.get("status")))
        return JobState(prompt_id, phase, started=seconds(job.get("execution_start_time"))) if phase else None

    def _from_queue(self, prompt_id: str) -> JobState | None:
        for job in self._queued():
            if job.prompt_id == prompt_id:
                return JobState(prompt_id, job.phase, position=job.position)
        return None

    def _queued(self) -> list[JobSummary]:
        answer = self.get_json("queue", timeout=self.look_timeout)
        running = _items(answer, "queue_running")
        # The pending list is a raw heap: only its first element is in place.
        pending = sorted(
            _items(answer, "queue_pending"), key=lambda item: (foreign.number(item[0]) or 0, str(item[1]))
        )
        rows = [_summary(item, "running", 0) for item in running]
        return rows + [_summary(item, "pending", index) for index, item in enumerate(pending, 1)]

    def cancel(self, prompt_id: str) -> bool:
        """Delete it from the pending list, then interrupt it by id: one of the two applies, even if it starts in between."""
        here = {job.prompt_id for job in self._queued()}
        if prompt_id not in here:
            return False
        self.post_json("queue", {"delete": [prompt_id]}, timeout=self.look_timeout)
        if any(job.prompt_id == prompt_id and job.phase == "running" for job in self._queued()):
            # Servers older than targeted interrupts ignore the id, hence the check just before.
            self.post_json("interrupt", {"prompt_id": prompt_id}, timeout=self.look_timeout)
        return True

    def list_jobs(self, limit: int = 100, *, finished: bool = True) -> list[JobSummary]:
        """The queue in order of execution, then up to `limit` finished jobs, newest first."""
        rows = self._queued()
        if finished and limit > 0:
            history = self.get_json("history", {"max_items": limit})
            entries = reversed(list(foreign.mapping(history).items()))
            rows += [
                _history_summary(str(key), entry) for key, entry in entries if isinstance(entry, Mapping)
            ]
        return rows

    def has_file(self, ref: FileRef, size: int | None = None) -> bool:
        """Whether the server has this file with this many bytes."""
        try:
            answer = self.head("view", ref.json())
        except SkillError as error:
            if error.code == "unreachable":
                raise
            return False
        return size is None or answer.headers.get("Content-Length") == str(size)

    def open_file(self, ref: FileRef, *, offset: int = 0, validator: str | None = None) -> requests.Response:
        """GET /view as a stream, from `offset` on when the file is still the one with this validator."""
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator:
                headers["If-Range"] = validator
        return self.open_stream("view", ref.json(), headers=headers)


def _json(response: requests.Response) -> object:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return {"error": {"type": "rejected", "message": transport.error_text(response)}}


def _items(answer: object, key: str) -> list[list[object]]:
    listed = foreign.items(foreign.mapping(answer).get(key))
    return [item for item in listed if isinstance(item, list) and len(item) >= 2]


def _summary(item: list[object], phase: str, position: int) -> JobSummary:
    graph, extra = _prompt_parts(item)
    return JobSummary(
        str(item[1]),
        phase,
        position=position,
        created=seconds(extra.get("create_time")),
        client_id=_client_of(extra),
        title=f"{len(graph or {})} nodes",
        graph=graph or {},
    )


def _client_of(extra: Mapping[str, object]) -> str | None:
    return str(extra["client_id"]) if extra.get("client_id") is not None else None


def _history_summary(prompt_id: str, entry: Mapping[str, object]) -> JobSummary:
    state = state_from_history(prompt_id, entry)
    return JobSummary(
        prompt_id,
        "done",
        state.outcome,
        created=seconds(state.extra_data.get("create_time")),
        started=state.started,
        ended=state.ended,
        outputs_count=len(state.outputs),
        client_id=_client_of(state.extra_data),
        title=f"{len(state.graph or {})} nodes",
    )


def state_from_history(prompt_id: str, entry: Mapping[str, object]) -> JobState:
    """The state in a history entry. The last message decides: an interrupted run's status_str is `error` too."""
    status = foreign.mapping(entry.get("status"))
    messages = [
        item for item in foreign.items(status.get("messages")) if isinstance(item, list) and len(item) == 2
    ]
    outcome, error, times = None, None, {}
    for name, data in messages:
        data = foreign.mapping(data)
        times[name] = seconds(data.get("timestamp"))
        if name in OUTCOMES:
            outcome = OUTCOMES[name]
            error = data if outcome != "success" else None
    if outcome is None:
        outcome = "error" if status.get("status_str") == "error" else "success"
    graph, extra = _prompt_parts(entry.get("prompt"))
    return JobState(
        prompt_id,
        "done",
        outcome,
        outputs=foreign.mapping(entry.get("outputs")),
        error=error,
        started=times.get("execution_start"),
        ended=next((times[name] for name in OUTCOMES if name in times), None),
        graph=graph,
        extra_data=extra,
        messages=messages,
    )


def _prompt_parts(prompt: object) -> tuple[Graph | None, Mapping[str, object]]:
    """Graph and extra_data of a stored prompt: a list of 4 or 5 locally, an object on the cloud."""
    if isinstance(prompt, list):
        graph, extra = [*prompt, None, None, None, None][2:4]
    else:
        stored = foreign.mapping(prompt)
        graph, extra = stored.get("prompt"), stored.get("extra_data")
    return graph if isinstance(graph, Mapping) else None, foreign.mapping(extra)
