"""The protocol of a ComfyUI server itself (recorded on 0.3.64, 0.8.0 and 0.33.0).

A job is found in the history once it has ended, else in the queue; a job in neither is unknown.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import _common
from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.graph import nodes
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
    is_uuid,
    seconds,
)

if TYPE_CHECKING:
    import requests

OUTCOMES = {
    "execution_success": "success",
    "execution_error": "error",
    "execution_interrupted": "cancelled",
}
# The statuses of /api/jobs for a job that has not ended.
PHASES = {"pending": "pending", "in_progress": "running"}
# Says to partner nodes where a run comes from.
USAGE = {"Comfy-Usage-Source": "comfyui-agent-skill"}
# Routes that belong to a user on a server with --multi-user.
USER_ROUTES = ("/userdata", "/settings", "/api/assets", "/api/tags")
MOST_ASSETS = 500
DIGEST = re.compile(r"blake3:[0-9a-f]{64}")
PIECE = 1 << 20


class Local(Dialect):
    """A ComfyUI server, on this machine or behind a proxy."""

    api = "local"

    def __init__(self, url: str, access: _common.Access | None = None, *, demo: bool = False) -> None:
        super().__init__(url, access, demo=demo)
        self._jobs_route = self._cancel_route = True  # until the server says otherwise
        self._assets: bool | None = None

    def submit_once(self, submission: Submission) -> Accepted:
        """Post to /prompt under the prompt id that we chose."""
        response = self.post_once("prompt", self._body(submission), headers=USAGE)
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
            "prompt": _with_meta(self._with_asset_files(submission.graph)),
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

    def _with_asset_files(self, graph: Graph) -> Graph:
        """The graph with file names instead of `blake3:` values, which editors write and loaders of 0.33 refuse."""
        changed = dict(graph)
        for node_id, node in nodes.each(graph):
            named = {}
            for name, value in nodes.inputs_of(node).items():
                file = self._asset_file(value) if isinstance(value, str) and DIGEST.fullmatch(value) else None
                if file is not None:
                    named[name] = self.input_value(file)
            if named:
                changed[node_id] = {**node, "inputs": {**nodes.inputs_of(node), **named}}
        return changed

    def find_submitted(self, submission: Submission) -> str | None:
        """The id is ours, so the job is there under it or not at all."""
        return submission.prompt_id if self.state(submission.prompt_id).phase != "unknown" else None

    def state(self, prompt_id: str) -> JobState:
        """History, then what has not ended, then history again: a job may end between the first two requests."""
        for ask in (self._from_history, self._unfinished, self._from_history):
            state = ask(prompt_id)
            if state is not None:
                return state
        return JobState(prompt_id, "unknown")

    def _from_history(self, prompt_id: str) -> JobState | None:
        answer = self.get_json(f"history/{_common.quoted(prompt_id)}", timeout=self.question_timeout)
        entry = foreign.mapping(answer).get(prompt_id)
        return state_from_history(prompt_id, entry) if isinstance(entry, Mapping) else None

    def _unfinished(self, prompt_id: str) -> JobState | None:
        """The state of a job that waits or runs; phase `unknown` when the server surely has no such job.

        /api/jobs (0.8) says it in a few bytes and reads the queue before the history, so it misses no job; /queue repeats
        every waiting graph.
        """
        if self._jobs_route:
            try:
                answer = self.get_json(
                    f"api/jobs/{_common.quoted(prompt_id)}", attempts=1, timeout=self.question_timeout
                )
            except SkillError as error:
                if error.code == "unreachable":
                    raise
                if error.code == "not_found" and error.details.get("server_said"):
                    return JobState(prompt_id, "unknown")
                # Absent before 0.8; 500 while one stored run has `workflow: null`; then /queue must do.
                self._jobs_route = False
            else:
                job = foreign.mapping(answer)
                phase = PHASES.get(str(job.get("status")))
                started = seconds(job.get("execution_start_time"))
                return JobState(prompt_id, phase, started=started) if phase else None
        queued = next((job for job in self._queued() if job.prompt_id == prompt_id), None)
        return JobState(prompt_id, queued.phase, position=queued.position) if queued is not None else None

    def _queued(self) -> list[JobSummary]:
        answer = self.get_json("queue", timeout=self.question_timeout)
        running = _items(answer, "queue_running")
        # The pending list is a raw heap: only its first element is in place.
        pending = sorted(
            _items(answer, "queue_pending"), key=lambda item: (foreign.number(item[0]) or 0, str(item[1]))
        )
        rows = [_summary(item, "running", 0) for item in running]
        return rows + [_summary(item, "pending", index) for index, item in enumerate(pending, 1)]

    def cancel(self, prompt_id: str) -> bool:
        """By the jobs API (0.33), which stops a job in either state at once; by queue and interrupt where it lacks that."""
        stopped = self._cancel_by_jobs_api(f"{_common.quoted(prompt_id)}/cancel", None)
        return self._cancel_in_steps(prompt_id) if stopped is None else stopped

    def cancel_all(self, prompt_ids: Sequence[str]) -> dict[str, SkillError]:
        """As everywhere; one request where the server takes them together."""
        # The route refuses the whole list for one id that is not a UUID.
        together = [prompt_id for prompt_id in prompt_ids if is_uuid(prompt_id)]
        if len(together) > 1 and self._cancel_by_jobs_api("cancel", {"job_ids": together}) is not None:
            prompt_ids = [prompt_id for prompt_id in prompt_ids if prompt_id not in together]
        return super().cancel_all(prompt_ids)

    def _cancel_by_jobs_api(self, route: str, body: object) -> bool | None:
        """Whether there was anything to stop; None where the server has no such route (0.8 answers 405)."""
        if not self._cancel_route:
            return None
        try:
            answer = self.post_json(f"api/jobs/{route}", body, timeout=self.question_timeout)
        except SkillError as error:
            if error.details.get("http_status") not in (404, 405, 501):
                raise
            self._cancel_route = False
            return None
        return foreign.mapping(answer).get("cancelled") is True

    def _cancel_in_steps(self, prompt_id: str) -> bool:
        """Delete it from the pending list, then interrupt it by id: one of the two applies, even if it starts in between."""
        here = {job.prompt_id for job in self._queued()}
        if prompt_id not in here:
            return False
        self.post_json("queue", {"delete": [prompt_id]}, timeout=self.question_timeout)
        if any(job.prompt_id == prompt_id and job.phase == "running" for job in self._queued()):
            # Servers older than targeted interrupts ignore the id, hence the check just before.
            self.post_json("interrupt", {"prompt_id": prompt_id}, timeout=self.question_timeout)
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

    def known_input(self, path: Path) -> FileRef | None:
        """As everywhere, by the server's assets; None where they are off or the package blake3 is not installed."""
        return self._asset_file(content_digest(path)) if blake3_installed() and self._has_assets() else None

    def _asset_file(self, digest: str) -> FileRef | None:
        """The input file with the bytes of a `blake3:` digest; None when the server has none, or its assets are off."""
        try:
            self.head(f"api/assets/hash/{digest}")
            answer = self.get_json("api/assets", {"tags_all": "input", "limit": MOST_ASSETS}, attempts=1)
        except SkillError as error:
            if error.code == "unreachable":
                raise
            return None
        for asset in foreign.mappings(foreign.mapping(answer).get("assets")):
            # Only a file has a loader path; an asset may also be a mere name for the bytes.
            loader_path = foreign.text(asset.get("loader_path"))
            if asset.get("hash") == digest and loader_path:
                return FileRef.named_by(loader_path)
        return None

    def _has_assets(self) -> bool:
        if self._assets is None:
            self._assets = self.features().get("assets") is True
        return self._assets

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

    def failure(self, response: requests.Response) -> SkillError:
        """As everywhere; with its own sentences for a missing user and for assets that are off."""
        status, said = response.status_code, transport.error_text(response)
        if status == 503 and said.startswith("SERVICE_DISABLED"):
            return SkillError(
                f"assets are off on {self.url}",
                code="not_offered",
                hint="start ComfyUI with --enable-assets",
                http_status=status,
                server_said=said,
            )
        parts = urlsplit(response.url)
        for_users = any(name in parts.path for name in USER_ROUTES) or "blake3%3A" in parts.query
        users = self._users() if status in (401, 403, 500) and for_users else None
        return super().failure(response) if users is None else _user_needed(self, users, status, said)

    def _users(self) -> Mapping[str, object] | None:
        """The users of a multi-user server, id -> name; None where all users are one, or this one is known."""
        try:
            users = foreign.mapping(self.get_json("users", attempts=1, timeout=10)).get("users")
        except SkillError:
            return None
        return users if isinstance(users, Mapping) and self.access.user not in users else None


def _user_needed(server: Dialect, users: Mapping[str, object], status: int, said: str) -> SkillError:
    named = "an unknown user" if server.access.user else "no user"
    hint = "add --header 'comfy-user: ID' with an id of `users`"
    if not users:
        hint = "create a user on the server's web page, then add --header 'comfy-user: ID'"
    shown = [
        {"id": safe_text.clean(key, 100), "name": safe_text.clean(name, 100)} for key, name in users.items()
    ]
    return SkillError(
        f"{server.url} keeps settings and files per user, and the request names {named}",
        code="refused",
        hint=hint,
        reason="comfy_user",
        users=safe_text.cap(shown, 20),
        http_status=status,
        server_said=said,
    )


def _with_meta(graph: Graph) -> Graph:
    """The graph with `_meta` at each node: 0.33.0 fails with HTTP 500 when it replaces the class of one without."""
    return {
        node_id: node if not isinstance(node, Mapping) or "_meta" in node else {**node, "_meta": {}}
        for node_id, node in graph.items()
    }


def blake3_installed() -> bool:
    """Whether Python has the package blake3, which is optional."""
    return importlib.util.find_spec("blake3") is not None


def content_digest(path: Path) -> str:
    """`blake3:<hex>` of a file."""
    blake3: Any = importlib.import_module("blake3")
    digest = blake3.blake3()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(PIECE), b""):
            digest.update(piece)
    return f"blake3:{digest.hexdigest()}"


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
