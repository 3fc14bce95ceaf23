"""The protocol of Comfy Cloud, v1 (where its sources disagree, both variants are accepted).

The cloud chooses the prompt id, keeps files under their hash, redirects downloads to signed addresses on
another origin, sends every run of the account through the socket, and knows a job only a moment after its submit.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import _common
from comfyskill.base import cli, foreign, safe_text
from comfyskill.base.cli import Document, Misuse, SkillError
from comfyskill.base.picture_files import BadPicture, TooLarge, open_picture
from comfyskill.server import refusals, transport
from comfyskill.server.local import state_from_history
from comfyskill.server.protocol import (
    MARK,
    Accepted,
    Dialect,
    FileRef,
    JobState,
    JobSummary,
    Submission,
    accepted_id,
    seconds,
)

if TYPE_CHECKING:
    import requests

ACTIVE, FINISHED = "pending,in_progress", "completed,failed,cancelled"
MOST_LISTED = 1000
MOST_UPLOAD = 50 * 1024 * 1024
MOST_EDGE = 16384
MOST_PIXELS = 67_108_864
OUTPUTS_PATIENCE = 6.0
PRUNED_PATIENCE = 3.0
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
# The newest client takes the first that is not zero.
BALANCES = (
    "effective_balance_micros", "amount_micros", "prepaid_balance_micros", "cloud_credit_balance_micros",
)  # fmt: skip
CENTS_PER_DOLLAR = 100.0
CREDITS_PER_DOLLAR = 211.0
PLAN_KEYS = (
    "subscription_tier", "subscription_status", "subscription_duration", "billing_status", "is_active", "has_funds",
    "renewal_date",
)  # fmt: skip
# Every status the sources name -> (phase, outcome). An unknown one means that the job is still going.
STATUSES: dict[str, tuple[str, str | None]] = {
    **dict.fromkeys(
        ("pending", "waiting_to_dispatch", "submitted", "queued_limited", "queued_waiting", "allocated", "preparing",
         "pending_execution"), ("pending", None),
    ),
    **dict.fromkeys(("in_progress", "executing", "executed"), ("running", None)),
    **dict.fromkeys(("completed", "success"), ("done", "success")),
    **dict.fromkeys(
        ("failed", "error", "non_retryable_error", "retryable_error", "lost"), ("done", "error")
    ),
    **dict.fromkeys(("cancelled", "canceled"), ("done", "cancelled")),
    # Ending, but not ended yet.
    **dict.fromkeys(("erroring", "cancel_requested", "cancel_pending", "cancelling_preparing"), ("running", None)),
}  # fmt: skip
# Refusals of unknown type: each concerns the account, never the server's contents.
STATUS_SENTENCES = {
    401: (
        "refused", cli.Exit.REFUSED, "the cloud requires an API key, or the key is wrong",
        "set COMFY_CLOUD_API_KEY or --api-key-file with a key from the Comfy platform site (it starts with comfyui-)",
    ),
    402: (
        "refused", cli.Exit.REFUSED, "the account's plan or credits do not allow this",
        "add credits or choose a plan with API access (Standard and higher)",
    ),
    403: (
        "refused", cli.Exit.REFUSED, "this account's plan or workspace does not allow that",
        "the free tier has no API access; Standard and higher plans do",
    ),
    413: (
        "too_large", cli.Exit.REJECTED, "the request is larger than the cloud accepts",
        "pictures may have up to 50 MB; send large inputs as files, not inside the workflow",
    ),
}  # fmt: skip


class Cloud(Dialect):
    """Comfy Cloud v1."""

    api = "cloud"
    own_ids = False
    client_frames = False
    chooses_front = False
    grace = 30.0  # how long a job may be unknown after its submit; no source gives a time
    # No idempotency key, and every run costs money: never repeat a submit whose outcome is unknown.
    resends = False
    denials = 12
    keeps_records = True
    one_class_route = False
    removal_leaves_no_trace = False  # it is listed as cancelled
    first_poll = 0.25
    slowest_poll = 4.0
    # Messages sent while the socket is closed are lost, and the official client only polls.
    cross_check = 4.0

    def __init__(self, url: str, access: _common.Access | None = None, *, demo: bool = False) -> None:
        super().__init__(url, access, demo=demo)
        self._submitted: dict[str, float] = {}  # prompt id -> when it was accepted (monotonic)
        self._sent: set[str] = set()  # our marks that this process has sent
        self._marks: dict[str, str] = {}  # prompt id -> the mark in its record, empty where it has none
        self._bare_ends: dict[str, float] = {}  # prompt id -> when it first was `completed` without outputs

    def route(self, path: str) -> str:
        """With the `/api` prefix and the cloud's names."""
        return _common.resolve_url(self.url, path, is_cloud=True)

    def post(self, route: str, body: object, *, timeout: float = transport.READ_TIMEOUT) -> requests.Response:
        """As everywhere; but history is read under its new name and deleted under its old one."""
        if route == "history":
            return self._ask(
                transport.Request("POST", f"{self.url}/api/history", json=body, follow=False), timeout=timeout
            )
        return super().post(route, body, timeout=timeout)

    def credentials(self) -> dict[str, str]:
        """The key goes out as X-API-Key."""
        headers = dict(self.access.headers)
        if self.access.key:
            headers[transport.KEY_HEADER] = self.access.key
        return headers

    def socket_url(self, client_id: str) -> str:
        """`/ws` with the key (or a session's token from --header) as `token`: never printed."""
        query = {"clientId": client_id}
        headers = {name.lower(): value for name, value in self.access.headers.items()}
        kind, _, session = headers.get("authorization", "").partition(" ")
        token = self.access.key or (session.strip() if kind.lower() == "bearer" else "")
        if token:
            query["token"] = token
        return re.sub("^http", "ws", self.url) + "/ws?" + urlencode(query)

    def failure(self, response: requests.Response) -> SkillError:
        """Typed refusals get their own sentence (402 now, 429 from older servers, 403 for policies)."""
        return failure(self.url, response) or super().failure(response)

    # --- jobs
    def submit_once(self, submission: Submission) -> Accepted:
        """Post to /api/prompt; our own id rides along in `extra_data`, so that a lost job can be recognised."""
        extra = {**submission.extra_data, MARK: submission.prompt_id}
        body: Document = {
            "prompt": submission.graph,
            "client_id": submission.client_id,
            "extra_data": extra,
        }
        if submission.targets is not None:
            body["partial_execution_targets"] = list(submission.targets)
        self._sent.add(submission.prompt_id)
        response = self.post_once("prompt", body)
        answer = body_of(response)
        kind = type_of(answer)
        if (
            response.status_code == 429
            and refusals.refusal(kind, "") is None
            and kind not in refusals.FULL_QUEUE
        ):
            raise transport.AnswerLost(
                f"HTTP 429: {transport.error_text(response)}", 429, response.headers.get("Retry-After")
            )
        if response.status_code == 400:
            raise refusals.rejection(self.with_options(answer), submission.graph)
        if response.status_code >= 400:
            raise self.failure(response)
        if not isinstance(answer, Mapping) or answer.get("error"):
            known = refusals.refusal(kind, transport.error_text(response))
            raise known or refusals.rejection(self.with_options(answer), submission.graph)
        prompt_id = answer.get("prompt_id")
        prompt_id = accepted_id(prompt_id, submission.prompt_id, self.url)
        errors = answer.get("node_errors")
        if errors and not self._runs_anyway(prompt_id):
            raise refusals.rejection(self.with_options(answer), submission.graph)
        self._submitted[prompt_id] = time.monotonic()
        return Accepted(prompt_id, foreign.mapping(errors))

    def _runs_anyway(self, prompt_id: str) -> bool:
        """A 200 with node_errors: the official client calls it a rejection, but a valid rest of the graph may run (and cost)."""
        give_up = time.monotonic() + PRUNED_PATIENCE
        while time.monotonic() < give_up:
            if self.state(prompt_id).phase != "unknown":
                return True
            time.sleep(0.25)
        return self.cancel(prompt_id)

    def find_submitted(self, submission: Submission) -> str | None:
        """Recent jobs are asked for our mark; the list itself does not show it, and times of two clocks prove nothing."""
        # A killed batch asks for jobs that another process submitted, which may be further back.
        for job in self._listed(20 if submission.prompt_id in self._sent else 100):
            if job.prompt_id not in self._submitted and self._mark_of(job.prompt_id) == submission.prompt_id:
                self._submitted[job.prompt_id] = time.monotonic()
                return job.prompt_id
        return None

    def _mark_of(self, prompt_id: str) -> str:
        """The mark in a job's record, asked for once; empty for the jobs of others and while it has no record."""
        if prompt_id in self._marks:
            return self._marks[prompt_id]
        try:
            answer = self.get_json(f"jobs/{_common.quoted(prompt_id)}", timeout=self.question_timeout)
        except SkillError as error:
            if error.code != "not_found":
                raise
            return ""
        extra = foreign.mapping(foreign.mapping(answer).get("workflow")).get("extra_data")
        if not isinstance(extra, Mapping):
            return ""
        return self._marks.setdefault(prompt_id, str(extra.get(MARK) or ""))

    def state(self, prompt_id: str) -> JobState:
        """GET /api/jobs/{id}; a 404 in the grace after our own submit is `pending`."""
        try:
            answer = self.get_json(f"jobs/{_common.quoted(prompt_id)}", timeout=self.question_timeout)
        except SkillError as error:
            if error.details.get("http_status") == 400:
                raise _no_id(prompt_id) from error
            if error.code != "not_found":
                raise
            young = time.monotonic() - self._submitted.get(prompt_id, -1e9) < self.grace
            return JobState(prompt_id, "pending" if young else "unknown", assumed=young)
        if not isinstance(answer, Mapping):
            raise SkillError(f"{self.url} did not describe the job", code="bad_answer")
        return self._state_of(prompt_id, answer)

    def _state_of(self, prompt_id: str, answer: Mapping[str, object]) -> JobState:
        status = str(answer.get("status") or "").lower()
        phase, outcome = STATUSES.get(status, ("running", None))
        outputs = answer.get("outputs")
        if outcome == "success" and not outputs:
            outputs = self._outputs_from_history(prompt_id)
            if outputs is None and self._still_early(prompt_id, answer):
                phase, outcome = "running", None
        workflow = foreign.mapping(answer.get("workflow"))
        graph = workflow.get("prompt")
        return JobState(
            prompt_id,
            phase,
            outcome,
            outputs=foreign.mapping(outputs),
            error=error_of(answer) if outcome == "error" else None,
            started=seconds(answer.get("execution_start_time")),
            ended=seconds(answer.get("execution_end_time")),
            graph=graph if isinstance(graph, Mapping) else None,
            extra_data=foreign.mapping(workflow.get("extra_data")),
            messages=foreign.items(foreign.mapping(answer.get("execution_status")).get("messages")),
            server_status=status,
        )

    def _still_early(self, prompt_id: str, answer: Mapping[str, object]) -> bool:
        """Whether outputs may still appear: a `completed` without them is believed after a few seconds."""
        if answer.get("outputs_count") == 0:
            return False
        first = self._bare_ends.setdefault(prompt_id, time.monotonic())
        return time.monotonic() - first < OUTPUTS_PATIENCE

    def _outputs_from_history(self, prompt_id: str) -> Mapping[str, object] | None:
        """Outputs are sometimes missing right at `completed`; the history has them then. None when it has no record."""
        try:
            answer = self.get_json(f"history/{_common.quoted(prompt_id)}", timeout=self.question_timeout)
        except SkillError as error:
            if error.code == "not_found":
                return None
            raise
        entry = foreign.mapping(answer).get(prompt_id)
        return (state_from_history(prompt_id, entry).outputs or None) if isinstance(entry, Mapping) else None

    def cancel(self, prompt_id: str) -> bool:
        """The per-job cancel, which hits nothing else."""
        try:
            answer = self.post_json(
                f"jobs/{_common.quoted(prompt_id)}/cancel", None, timeout=self.question_timeout
            )
        except SkillError as error:
            if error.details.get("http_status") == 400:
                raise _no_id(prompt_id) from error
            if error.code == "not_found":
                return False
            raise
        return bool(foreign.mapping(answer).get("cancelled"))

    def list_jobs(self, limit: int = 100, *, finished: bool = True) -> list[JobSummary]:
        """GET /api/jobs: running, then pending in the order of creation, then up to `limit` finished ones, newest first."""
        active = self._listed(MOST_LISTED, ACTIVE)
        rows = [row for row in active if row.phase == "running"]
        rows += [row for row in reversed(active) if row.phase == "pending"]
        if finished and limit > 0:
            seen = {row.prompt_id for row in rows}
            rows += [
                row
                for row in self._listed(limit, FINISHED)
                if row.phase == "done" and row.prompt_id not in seen
            ]
        return rows

    def _listed(self, limit: int, statuses: str | None = None) -> list[JobSummary]:
        """One page of the account's jobs, newest first."""
        params: dict[str, Any] = {
            "limit": max(1, min(limit, MOST_LISTED)),
            "sort_by": "create_time",
            "sort_order": "desc",
        }
        if statuses:
            params["status"] = statuses
        answer = self.get_json("jobs", params, timeout=self.question_timeout)
        listed = foreign.mappings(foreign.mapping(answer).get("jobs"))
        return [row(job) for job in listed if isinstance(job.get("id"), str)]

    # --- files
    def upload(
        self,
        path: Path,
        *,
        name: str | None = None,
        kind: str = "image",
        subfolder: str = "",
        overwrite: bool = False,  # noqa: ARG002  (the cloud ignores it: names are content hashes)
        original: FileRef | None = None,
    ) -> FileRef:
        """To /api/upload/*; the answer's name is the content hash, and exactly that goes into the graph."""
        self._check_limits(path)
        sent = super().upload(path, name=name, kind=kind, subfolder=subfolder, original=original)
        return FileRef(sent.filename, type="input")

    def input_value(self, ref: FileRef) -> str:
        """The hash name of an upload. An output goes up as an input first: no source says that loaders find it."""
        return (ref if ref.type == "input" else self._upload_again(ref)).filename

    def _upload_again(self, ref: FileRef) -> FileRef:
        name = Path((ref.display_name or ref.filename).replace("\\", "/")).name or "output"
        with tempfile.TemporaryDirectory() as folder:
            # Named by us, since the name is the server's; the suffix decides which limits apply.
            path = Path(folder) / f"output{Path(name).suffix[:16]}"
            with self.open_file(ref) as answer, path.open("wb") as file:
                for piece in transport.stream(answer):
                    file.write(piece)
            return self.upload(path, name=name)

    def _check_limits(self, path: Path) -> None:
        """The cloud's published limits for pictures, before sending: 50 MB, 16384 px an edge, 67,108,864 pixels."""
        if path.suffix.lower() not in PICTURES:
            return
        size = path.stat().st_size
        if size > MOST_UPLOAD:
            raise Misuse(
                f"{path.name} has {size} bytes; the cloud accepts pictures of up to {MOST_UPLOAD} bytes"
            )
        try:
            with open_picture(path, MOST_PIXELS) as image:
                width, height = image.size
        except TooLarge as error:
            raise Misuse(
                f"{path.name} has too many pixels for the cloud: {error}", hint="scale it down first"
            ) from error
        except BadPicture:
            return
        if max(width, height) > MOST_EDGE:
            raise Misuse(
                f"{path.name} is {width} x {height}; the cloud accepts up to {MOST_EDGE} per edge and {MOST_PIXELS} pixels",
                hint="scale it down first",
            )

    def open_file(self, ref: FileRef, *, offset: int = 0, validator: str | None = None) -> requests.Response:
        """The redirect of /api/view is read and its signed address fetched bare: no key, no cookie."""
        address = f"{self.route('view')}?{urlencode(ref.json())}"
        return self.open_signed(address, offset=offset, validator=validator)

    # --- what the server has
    def models(self, folder: str) -> list[str]:
        """The names in one model folder; the cloud says `folder_not_found` of an empty one as well."""
        try:
            return super().models(folder)
        except SkillError as error:
            if error.code != "folder_not_found":
                raise
            raise SkillError(
                f"the cloud has no model folder {safe_text.quoted(folder)}, or the folder is empty",
                code="folder_not_found",
            ) from error

    def most_at_once(self) -> int | None:
        """The plan's live limit."""
        return plan_limit(self)

    def account(self) -> Document:
        """Plan, credits and limits that the cloud reports; what it refuses is absent."""
        return report(self)


def _no_id(prompt_id: str) -> SkillError:
    return Misuse(
        f"{safe_text.clean(prompt_id, 80)!r} is not a job id of the cloud",
        hint="cloud job ids are lower-case UUIDs",
    )


def plan_limit(server: Dialect) -> int | None:
    """How many jobs the account's plan runs at once: `max_concurrent_jobs` of /api/features."""
    limit = foreign.whole(server.features().get("max_concurrent_jobs"))
    return limit if limit is not None and limit > 0 else None


def report(server: Dialect) -> Document:
    """`plan`, `credits`, `free_tier` and `most_at_once`, each only if the cloud reports it."""
    found: Document = {}
    status = _ask(server, "billing/status")
    plan = {key: safe_text.clean_tree(status[key], 60) for key in PLAN_KEYS if status.get(key) is not None}
    if plan:
        found["plan"] = plan
    credit = credits_in(_ask(server, "billing/balance"))
    if credit is not None:
        found["credits"] = credit
    features = _ask(server, "features")
    free = features.get("free_tier_balance")
    if isinstance(free, Mapping):
        found["free_tier"] = {
            key: free[key]
            for key in ("allowance", "used", "remaining")
            if isinstance(free.get(key), (int, float))
        }
    limit = foreign.whole(features.get("max_concurrent_jobs"))
    if limit is not None:
        found["most_at_once"] = limit
    return found


def credits_in(balance: Mapping[str, object]) -> Document | None:
    """The balance as credits and dollars. The field names say millionths, the official client reads cents: cents here."""
    amounts = [foreign.number(balance.get(key)) for key in BALANCES]
    if all(amount is None for amount in amounts):
        return None
    cents = next((amount for amount in amounts if amount), 0.0)
    dollars = cents / CENTS_PER_DOLLAR
    return {
        "dollars": round(dollars, 2),
        "credits": round(dollars * CREDITS_PER_DOLLAR),
        "note": "the cloud's sources disagree on the unit; this reads the number as cents",
    }


def spent(before: Document, after: Document) -> Document | None:
    """What a run cost by the two reports around it; None where either lacks a balance. Other runs count in."""
    first, last = before.get("credits"), after.get("credits")
    if not isinstance(first, Mapping) or not isinstance(last, Mapping):
        return None
    return {
        "credits": first["credits"] - last["credits"],
        "dollars": round(first["dollars"] - last["dollars"], 2),
    }


def _ask(server: Dialect, path: str) -> Mapping[str, object]:
    try:
        answer = server.get_json(path, attempts=1, timeout=15)
    except SkillError as error:
        if error.code == "unreachable":
            raise
        return {}
    return foreign.mapping(answer)


def error_of(answer: Mapping[str, object]) -> dict[str, object]:
    """The failure, whether it comes as an object, as JSON in a string, or as plain words. No inputs: they may be secret."""
    error = answer.get("execution_error")
    if not isinstance(error, Mapping):
        said = answer.get("error_message")
        try:
            error = json.loads(said) if isinstance(said, str) else None
        except (ValueError, RecursionError):
            error = None
        if not isinstance(error, Mapping):
            error = {
                "exception_message": said if isinstance(said, str) and said else "the cloud gave no reason"
            }
    return {key: value for key, value in error.items() if key not in ("current_inputs", "current_outputs")}


def row(job: Mapping[str, object]) -> JobSummary:
    """One row of the account's job list."""
    phase, outcome = STATUSES.get(str(job.get("status")).lower(), ("running", None))
    return JobSummary(
        str(job["id"]),
        phase,
        outcome,
        created=seconds(job.get("create_time")),
        started=seconds(job.get("execution_start_time")),
        ended=seconds(job.get("execution_end_time")),
        outputs_count=foreign.whole(job.get("outputs_count")),
    )


def failure(url: str, response: requests.Response) -> SkillError | None:
    """The SkillError for a refusal with a meaning of its own on the cloud; None for the others."""
    elsewhere = storage_failure(url, response)
    if elsewhere is not None:
        return elsewhere
    body = body_of(response)
    kind = type_of(body)
    said = transport.error_text(response)
    status = response.status_code
    known = refusals.refusal(kind, said, http_status=status, **_policy_details(body))
    if known is not None:
        return known
    if kind in refusals.FULL_QUEUE:
        return SkillError(
            "the cloud's queue for this account is full (at most 100 jobs)", code="queue_full",
            retryable=True, hint="wait until some queued jobs finish",
            http_status=status, server_said=said,
        )  # fmt: skip
    if status in STATUS_SENTENCES:
        code, exit_code, message, hint = STATUS_SENTENCES[status]
        return SkillError(
            f"{message} (HTTP {status} on {urlsplit(response.url).path})",
            code=code,
            exit=exit_code,
            hint=hint,
            http_status=status,
            server_said=said,
        )
    return None


def storage_failure(url: str, response: requests.Response) -> SkillError | None:
    """A failure of the storage that downloads are redirected to; it says nothing about the account. None for our own server's."""
    if _common.origin_of(response.url) == _common.origin_of(url):
        return None
    status = response.status_code
    expired = status in (404, 410)
    return SkillError(
        "the file is no longer in the service's storage" if expired else
        f"the service's storage did not return the file (HTTP {status}); its signed address may have expired",
        code="not_found" if expired else "download_failed",
        exit=cli.Exit.FAILED,
        retryable=not expired,
        hint="fetch it again: each download gets a new address",
        http_status=status,
        server_said=transport.error_text(response),
    )  # fmt: skip


def _policy_details(body: object) -> Document:
    """Which node classes and providers a workspace's policy blocks, where the refusal names them."""
    error = foreign.mapping(foreign.mapping(body).get("error"))
    return {
        key: safe_text.clean_tree(error[key][:20], 120)
        for key in ("class_types", "providers")
        if isinstance(error.get(key), list)
    }


def body_of(response: requests.Response) -> object:
    """The JSON in an answer of any status, or None."""
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def type_of(body: object) -> str:
    """`error.type` of a refusal, or the `code` of the other error shape."""
    known = foreign.mapping(body)
    return str(foreign.mapping(known.get("error")).get("type") or known.get("code") or "")
