"""The protocol of Comfy API v2: Comfy Cloud, deployments, and comfy-api-proxy in front of a ComfyUI.

Source: the API v2 documentation and recordings of comfy-api-proxy 0.1.6 in front of ComfyUI 0.8.0. The record of
a job is the authority; its event stream only reports progress. Node definitions, model lists and the queue are not part
of v2: on Comfy Cloud itself they come from v1, elsewhere they are not available.
"""

from __future__ import annotations

import mimetypes
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import _common
from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document, Exit, Misuse, SkillError
from comfyskill.base.picture_files import BadPicture, open_picture, refuse_other_size
from comfyskill.graph import nodes
from comfyskill.server import cloud, local, transport, v2_records
from comfyskill.server.protocol import (
    MARK,
    Accepted,
    Dialect,
    FileRef,
    Graph,
    JobState,
    JobSummary,
    Submission,
    accepted_id,
    submit_failed,
)

if TYPE_CHECKING:
    import requests
    from PIL.Image import Image

JOBS = "api/v2/jobs"
NO_JOB = "00000000-0000-4000-8000-000000000000"
# The proxy says `expired` of a job between its end and its record, for a fraction of a second.
EXPIRED_AGAIN = 0.15
EVENT_PATIENCE = 45.0  # three keepalives
MOST_LISTED = 100
MOST_SUBMITS = 3
AWAY_PAUSE = 0.3
ASSETS = "api/v2/assets"
# First parts of routes that only v1 has, and what they answer with.
V1_ROUTES = {
    "object_info": "node definitions",
    "node_replacements": "replaced node classes",
    "models": "a list of models",
    "embeddings": "a list of embeddings",
    "system_stats": "system statistics",
    "features": "feature flags",
    "billing": "billing",
}
# A cancelled job says `canceling` until the running node notices; behind the proxy it may say nothing at all.
PATIENCE = 3.0
PROXY_PATIENCE = 0.3


class V2(Dialect):
    """A server that speaks Comfy API v2."""

    api = "v2"
    own_ids = False
    one_class_route = False
    has_socket = False
    client_frames = False
    chooses_front = False
    removal_leaves_no_trace = False  # it is `canceled`, or `expired` before its time
    grace = 5.0

    def __init__(self, url: str, access: _common.Access | None = None, *, demo: bool = False) -> None:
        super().__init__(url, access, demo=demo)
        self._kind: str | None = None
        self._labels = True
        self.upstream: str | None = None  # the address of the ComfyUI behind a proxy, as the proxy reports it
        self._graphs: dict[str, Graph | None] = {}  # of jobs that this object did not submit
        self._own_jobs: set[str] = set()
        # Comfy Cloud's v1 at the same origin with the same key, for what v2 lacks.
        on_cloud = (urlsplit(self.url).hostname or "") == _common.CLOUD_HOST
        self.v1 = cloud.Cloud(self.url, access, demo=demo) if on_cloud else None
        # Official clients ask a remote service every 0.5 s, slowing down to 5 s; this machine can be asked sooner.
        near = _common.is_this_machine(urlsplit(self.url).hostname or "")
        self.first_poll, self.slowest_poll = (0.05, 2.0) if near else (0.5, 5.0)

    @property
    def keeps_records(self) -> bool:  # type: ignore[override]
        """True except in front of a local ComfyUI, which forgets its jobs when it restarts."""
        return self.surface != "proxy"

    @property
    def surface(self) -> str:
        """`cloud`, `deployment`, `proxy` or `other`: they differ in labels, lists and health. Asked once."""
        if self._kind is None:
            self._kind = self._find_surface()
        return self._kind

    def _find_surface(self) -> str:
        host = urlsplit(self.url).hostname or ""
        if host in _common.CLOUD_HOSTS:
            return "cloud"
        if host.endswith(_common.DEPLOYMENT_SUFFIX):
            return "deployment"
        try:
            health = self.get_json("api/v2/health", attempts=2, timeout=10)
        except SkillError as error:
            if error.code == "unreachable":
                raise
            return "other"
        self.upstream = foreign.text(foreign.mapping(health).get("upstream")) or None
        return "proxy" if self.upstream is not None else "other"

    def failure(self, response: requests.Response) -> SkillError:
        """Typed errors in plain words; without the envelope the status decides."""
        known = v2_records.failure(self.url, response)
        if known is not None:
            return known
        path = urlsplit(response.url).path
        if response.status_code == 404 and "/api/v2/" not in path:
            return _not_offered(self.url, path, code="not_found")
        return super().failure(response)

    # --- submit
    def _submit(self, submission: Submission, search_time: float, patience: float) -> Accepted:
        """The id of the submission is the Idempotency-Key, so a repeat cannot run twice.

        Raises SkillError also `queue_full` or `busy` after `patience` seconds of refusals.
        """
        self._check_upstream()
        give_up = time.monotonic() + patience
        lost: transport.AnswerLost | None = None
        give_up_away = 0.0  # until when to wait for a server that failed at the submit
        attempt = 0
        while True:
            try:
                return self.submit_once(submission)
            except transport.AnswerLost as failed:
                lost, give_up_away = failed, time.monotonic() + search_time
                attempt += 1
                asked, found = self._seen(submission)
                if found is not None:
                    return Accepted(found, found_again=True)
                late = transport.time_is_up()
                if attempt >= MOST_SUBMITS or late:
                    raise self._given_up(submission, lost, asked and not late) from lost
                time.sleep(transport.time_left(transport.pause_before(attempt, lost.retry_after)))
            except SkillError as error:
                if error.code == "idempotency_key_reuse":
                    return self._claimed(submission, search_time, lost or error)
                if error.code == "unreachable" and lost is not None:
                    if time.monotonic() > give_up_away:
                        raise self._fate_unknown(submission, lost) from error
                    time.sleep(AWAY_PAUSE)
                    continue
                over = time.monotonic() > give_up or transport.time_is_up()
                if error.details.get("http_status") != 429 or over:
                    raise
                wait = error.details.get("retry_after")
                pause = max(1.0, wait) if isinstance(wait, (int, float)) else 2.0
                time.sleep(transport.time_left(pause))

    def _check_upstream(self) -> None:
        """The proxy keeps a key while ComfyUI is unreachable, so a repeat would not settle whether it got the job: look first."""
        if self._kind is not None or self.surface != "proxy":
            return
        try:
            self.get_json(f"{JOBS}/{NO_JOB}", attempts=2, timeout=15)
        except SkillError as error:
            if error.code != "not_found":
                raise

    def submit_once(self, submission: Submission) -> Accepted:
        """Post the graph one time under its own Idempotency-Key."""
        response = self.post_once(
            JOBS, self._body(submission), headers={"Idempotency-Key": submission.prompt_id}
        )
        if response.status_code == 422 and self._labels and v2_records.is_about_labels(response):
            # A surface that takes no labels says so before it claims the key.
            self._labels = False
            return self.submit_once(submission)
        if response.status_code >= 400:
            raise v2_records.rejection(response, submission.graph) or self.failure(response)
        job_id = foreign.mapping(self.json_of(response)).get("id")
        if not isinstance(job_id, str):
            raise SkillError(f"{self.url} accepted the submit but returned no job", code="bad_answer")
        self._own_jobs.add(job_id)
        return Accepted(accepted_id(job_id, submission.prompt_id, self.url))

    def _body(self, submission: Submission) -> Document:
        """Closed at the top: `extra_data` may hold the partner key and nothing else."""
        body: Document = {"workflow": _only(submission.graph, submission.targets)}
        key = submission.extra_data.get("api_key_comfy_org")
        if isinstance(key, str):
            body["extra_data"] = {"api_key_comfy_org": key}
        label = self._label(submission)
        if label is not None:
            body["metadata"] = label
        return body

    def _label(self, submission: Submission) -> str | dict[str, str] | None:
        """Our mark as this surface takes it: the proxy a text, deployments a map, Comfy Cloud nothing."""
        if not self._labels or self.surface not in ("proxy", "deployment"):
            return None
        if self.surface == "proxy":
            return f"{MARK}:{submission.prompt_id}"
        return {MARK: submission.prompt_id}

    def find_submitted(self, submission: Submission) -> str | None:
        """The job with our label. Raises SkillError `submit_unknown` where jobs are not listed or not labelled."""
        if self._label(submission) is None:
            raise self._unknown(submission, f"{self.url} offers no job list")
        params: dict[str, object] = {"limit": MOST_LISTED}
        if self.surface == "deployment":
            params[f"metadata[{MARK}]"] = submission.prompt_id
        for job in self._listed(params):
            if v2_records.mark_of(job) == submission.prompt_id:
                return str(job["id"])
        return None

    def _seen(self, submission: Submission) -> tuple[bool, str | None]:
        """Look for a lost submit: whether the server could say, and the job. Else the same key settles it."""
        try:
            return True, self.find_submitted(submission)
        except SkillError as error:
            if error.exit == Exit.REFUSED:
                raise self._unknown(submission, "", error) from error
            return False, None

    def _given_up(self, submission: Submission, lost: transport.AnswerLost, asked: bool) -> SkillError:
        """No answer after all attempts: failed if the server says that it has no such job, else unknown."""
        if not asked:
            return self._unknown(submission, "", lost)
        return lost.failure or submit_failed(lost, sure=self.own_ids)

    def _claimed(self, submission: Submission, patience: float, why: Exception) -> Accepted:
        """The key has been used: look the job up, for a while. Raises SkillError `submit_unknown`."""
        give_up = time.monotonic() + patience
        pause = 0.1
        while True:
            try:
                found = self.find_submitted(submission)
            except SkillError as error:
                if error.code == "submit_unknown":
                    raise
                found = None
            if found is not None:
                return Accepted(found, found_again=True)
            if time.monotonic() > give_up:
                raise self._unknown(submission, "", why)
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _unknown(self, submission: Submission, reason: str, said: object = "") -> SkillError:
        """The outcome of a submit cannot be settled: a repeat under its key is refused, and no list shows the job."""
        because = reason or "the server cannot say what happened to it"
        return SkillError(
            f"the submit got no answer, and {because}; the job may be running",
            code="submit_unknown",
            exit=Exit.RUNNING,
            hint="check the server's own job page before running again: a new run gets a new key and may run twice",
            idempotency_key=submission.prompt_id,
            server_said=safe_text.clean(said, 300) or None,
        )

    # --- jobs
    def state(self, prompt_id: str) -> JobState:
        """GET /jobs/{id}. `expired` before its time is asked once more and counts as unknown then.

        The graph is included for jobs that this object did not submit.
        """
        state = self._state_once(prompt_id)
        if state.phase == "unknown" and state.server_status == v2_records.EXPIRED:
            time.sleep(EXPIRED_AGAIN)
            state = self._state_once(prompt_id)
        if state.phase == "unknown" or prompt_id in self._own_jobs:
            return state
        if prompt_id not in self._graphs:
            self._graphs[prompt_id] = self.workflow(prompt_id)
        return state._replace(graph=self._graphs[prompt_id])

    def _state_once(self, prompt_id: str) -> JobState:
        try:
            answer = self.get_json(f"{JOBS}/{_common.quoted(prompt_id)}", timeout=self.question_timeout)
        except SkillError as error:
            if error.code == "not_found":
                return JobState(prompt_id, "unknown")
            raise
        if not isinstance(answer, Mapping):
            raise SkillError(f"{self.url} did not describe the job", code="bad_answer")
        return v2_records.state_of(
            prompt_id, answer, lambda asset_id: content_url(self, asset_id), self.now()
        )

    def workflow(self, prompt_id: str) -> Graph | None:
        """The graph that a job ran with, its asset references resolved; None when it is no longer kept."""
        try:
            answer = self.get_json(f"{JOBS}/{_common.quoted(prompt_id)}/workflow")
        except SkillError as error:
            if error.code == "not_found":
                return None
            raise
        kept = foreign.mapping(answer)
        graph = kept.get("workflow")
        return graph if isinstance(graph, Mapping) and kept.get("format") != "save" else None

    def cancel(self, prompt_id: str) -> bool:
        """POST /jobs/{id}/cancel, then check that it took effect. Raises SkillError `cancel_not_confirmed` when it did not."""
        try:
            self.post_json(f"{JOBS}/{_common.quoted(prompt_id)}/cancel", None, timeout=self.question_timeout)
        except SkillError as error:
            if error.code == "not_found":
                return False
            raise
        behind = self.upstream if self.surface == "proxy" else None
        return confirm(lambda: self._state_once(prompt_id), self.url, behind, prompt_id)

    def list_jobs(self, limit: int = MOST_LISTED, *, finished: bool = True) -> list[JobSummary]:
        """Running, then waiting jobs in order, then finished ones. Raises SkillError `not_offered` on Comfy Cloud."""
        params: dict[str, object] = {"limit": max(1, min(limit, MOST_LISTED)) if finished else MOST_LISTED}
        if not finished and self.surface == "proxy":
            params["status"] = "queued,running,canceling"
        rows = [v2_records.row(job) for job in self._listed(params)]
        running = [row for row in rows if row.phase == "running"]
        waiting = [row for row in reversed(rows) if row.phase == "pending"]
        waiting.sort(key=lambda row: row.position if row.position is not None else 1 << 30)
        return running + waiting + ([row for row in rows if row.phase == "done"] if finished else [])

    def _listed(self, params: Mapping[str, object]) -> list[Mapping[str, object]]:
        answer = self.get_json(JOBS, params, timeout=self.question_timeout)
        jobs = foreign.mapping(answer).get("jobs")
        if not isinstance(jobs, list):
            raise SkillError(f"{self.url} did not answer with a job list", code="bad_answer")
        return [job for job in foreign.mappings(jobs) if isinstance(job.get("id"), str)]

    def open_events(self, prompt_id: str) -> requests.Response | None:
        """The event stream of one job, opened; SkillError where there is none (poll then)."""
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity", "Cache-Control": "no-cache"}
        route = f"{JOBS}/{_common.quoted(prompt_id)}/events"
        return self.open_stream(route, headers=headers, timeout=EVENT_PATIENCE, endless=True)

    # --- files
    def upload(
        self,
        path: Path,
        *,
        name: str | None = None,
        kind: str = "image",
        subfolder: str = "",
        overwrite: bool = False,  # noqa: ARG002  (assets are distinguished by content)
        original: FileRef | None = None,
    ) -> FileRef:
        """To /assets, unless the server has the bytes already; a mask is joined with its picture first."""
        if kind == "mask" and original is not None:
            return upload_masked(self, path, name or path.name, original)
        return upload(self, path, name or path.name, subfolder)

    def input_value(self, ref: FileRef) -> object:
        """An asset reference. The proxy resolves an output's to a bare name, which loaders then seek in `input`."""
        if ref.type != "input" and self.surface not in ("cloud", "deployment"):
            ref = upload_again(self, ref)
        return reference(ref)

    def open_file(self, ref: FileRef, *, offset: int = 0, validator: str | None = None) -> requests.Response:
        """The asset's bytes: from this server itself, or from the signed address it points to, fetched bare."""
        if not ref.url and not ref.asset_id:
            raise SkillError(f"the server named no address for {ref.filename}", code="not_found")
        url = ref.url or content_url(self, str(ref.asset_id))
        return self.open_signed(url, offset=offset, validator=validator)

    # --- what the server has: v1's on Comfy Cloud, nothing elsewhere
    def get(
        self,
        route: str,
        params: transport.Params = None,
        *,
        attempts: int = transport.ATTEMPTS,
        timeout: float = transport.READ_TIMEOUT,
    ) -> requests.Response:
        """As everywhere; what v2 lacks comes from v1. Raises SkillError `not_offered` except on Comfy Cloud."""
        what = V1_ROUTES.get(route.partition("/")[0])
        if what is None:
            return super().get(route, params, attempts=attempts, timeout=timeout)
        if self.v1 is None:
            raise _not_offered(self.url, what)
        return self.v1.get(route, params, attempts=attempts, timeout=timeout)

    def most_at_once(self) -> int | None:
        """The plan's limit; None except on Comfy Cloud."""
        return cloud.plan_limit(self)

    def list_command(self) -> str:
        """The command that lists the server's jobs; on Comfy Cloud by v1, since v2 lists none there."""
        return self.v1.list_command() if self.v1 is not None else super().list_command()

    def account(self) -> Document:
        """Plan and credits; empty except on Comfy Cloud."""
        return cloud.report(self)

    def close(self) -> None:
        """Close the connections, v1's too."""
        if self.v1 is not None:
            self.v1.close()
        super().close()


def _only(graph: Graph, targets: Sequence[str] | None) -> Graph:
    """v2 has no partial execution: the targets and what they draw from, and nothing else, is sent."""
    if targets is None:
        return graph
    kept = nodes.upstream_of(graph, targets)
    return {node_id: node for node_id, node in graph.items() if node_id in kept}


def _not_offered(url: str, what: str, code: str = "not_offered") -> SkillError:
    return SkillError(
        f"{url} uses Comfy API v2, which does not offer {what}",
        code=code,
        exit=Exit.FAILED,
        hint="for a proxy, ask the ComfyUI behind it (its own address as --host)",
    )


def reference(ref: FileRef) -> object:
    """What a graph's input holds to name an asset; the id wins over the name."""
    if ref.asset_id is None:
        return f"{ref.subfolder}/{ref.filename}" if ref.subfolder else ref.filename
    return {"__type": "core/ASSET", "info": {"id": ref.asset_id, "file_path": ref.filename}}


def upload(server: V2, path: Path, name: str, subfolder: str = "") -> FileRef:
    """Send a file unless the server has its bytes already; the reference to put into the graph."""
    # Without the digest the server hashes what it gets.
    digest = local.content_digest(path) if local.blake3_installed() else None
    known = _by_digest(server, digest, name) if digest else None
    return _ref(
        server, known or _send(server, path, f"{subfolder}/{name}" if subfolder else name, digest), name
    )


def _by_digest(server: V2, digest: str, name: str) -> Mapping[str, object] | None:
    """The asset with these bytes; None when the server has no such asset of ours, or offers no lookup."""
    try:
        server.head(f"{ASSETS}/by-hash/{digest}")
        answer = server.post_json(f"{ASSETS}/from-hash", {"hash": digest, "file_path": name})
    except SkillError as error:
        if error.code in ("unreachable", "refused"):
            raise
        return None
    asset = foreign.mapping(answer)
    return asset if asset.get("id") else None


def _send(server: V2, path: Path, file_path: str, digest: str | None) -> Mapping[str, object]:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    fields = {"content_type": kind, "file_path": file_path, "tags": "input"}
    if digest is not None:
        fields["expected_hash"] = digest
    return server._send_file(ASSETS, fields, ("file", path, path.name), "id")


def _ref(server: V2, asset: Mapping[str, object], name: str) -> FileRef:
    asset_id = str(asset["id"])
    return FileRef(
        foreign.text(asset.get("file_path")) or name,
        type="input",
        url=content_url(server, asset_id),
        content_type=foreign.text(asset.get("content_type")) or None,
        asset_id=asset_id,
    )


def content_url(server: V2, asset_id: str) -> str:
    """Where an asset's bytes are, on the address that the user gave (a proxy in front may know itself by another)."""
    return server.route(f"{ASSETS}/{_common.quoted(asset_id)}/content")


def upload_masked(server: V2, mask: Path, name: str, original: FileRef) -> FileRef:
    """API v2 has no mask upload: the picture gets the mask's transparency here and goes up as a new asset."""
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch(server, original, Path(folder) / "original")
        joined = Path(folder) / f"{Path(name).stem}.png"
        try:
            with open_picture(fetched) as picture, open_picture(mask) as alpha:
                whole = _joined(picture, alpha)
        except BadPicture as error:
            raise Misuse(f"the mask cannot be joined with its picture: {error}") from error
        whole.save(joined, compress_level=4)
        return upload(server, joined, joined.name)


def _joined(picture: Image, alpha: Image) -> Image:
    """The picture with the mask's transparency."""
    refuse_other_size("mask", alpha.size, picture.size, scaled=False)
    whole = picture.convert("RGBA")
    whole.putalpha(alpha.getchannel("A") if "A" in alpha.getbands() else alpha.convert("L"))
    return whole


def upload_again(server: V2, ref: FileRef) -> FileRef:
    """An output as an input, for servers whose references name only input files."""
    with tempfile.TemporaryDirectory() as folder:
        # The name decides how loaders read the file; the folder is ours alone.
        suffix = Path(ref.filename).suffix
        return upload(server, fetch(server, ref, Path(folder) / f"output{suffix}"), Path(ref.filename).name)


def fetch(server: V2, ref: FileRef, target: Path) -> Path:
    """The file's bytes on disk."""
    with server.open_file(ref) as response, target.open("wb") as file:
        for piece in transport.stream(response, local.PIECE):
            file.write(piece)
    return target


def confirm(state_now: Callable[[], JobState], url: str, upstream: str | None, prompt_id: str) -> bool:
    """True: stopped or on its way there; False: it had ended otherwise. `upstream`: the ComfyUI behind a proxy.

    Raises SkillError `cancel_not_confirmed` when the job keeps running.
    """
    stopped = _stopped(state_now, PATIENCE if upstream is None else PROXY_PATIENCE)
    if stopped is not None:
        return stopped
    if upstream is not None and _cancel_behind(url, upstream, prompt_id):
        return True
    raise _not_confirmed(prompt_id, proxy=upstream is not None)


def _stopped(state_now: Callable[[], JobState], patience: float) -> bool | None:
    """As `confirm`; None while nothing shows that the cancel arrived."""
    give_up = time.monotonic() + patience
    pause = 0.05
    while True:
        state = state_now()
        if state.done:
            return state.outcome == "cancelled"
        if time.monotonic() > give_up:
            return True if state.phase == "unknown" or state.server_status.startswith("cancel") else None
        time.sleep(pause)
        pause = min(pause * 2, 0.5)


def _cancel_behind(url: str, upstream: str, prompt_id: str) -> bool:
    """The proxy's job id is ComfyUI's prompt id: when both run on this machine, ask ComfyUI itself to stop that one.

    No credential goes along.
    """
    if not all(_common.is_this_machine(urlsplit(address).hostname or "") for address in (url, upstream)):
        return False
    behind = local.Local(upstream)
    try:
        return behind.cancel(prompt_id)
    except SkillError:
        return False
    finally:
        behind.close()


def _not_confirmed(prompt_id: str, *, proxy: bool) -> SkillError:
    hint = "check again in a moment"
    if proxy:
        hint += "; comfy-api-proxy cannot cancel on ComfyUI 0.8.0 and older: use that server's own address as --host"
    return SkillError(
        "the server accepted the cancel, but the job is still running",
        code="cancel_not_confirmed",
        retryable=True,
        hint=hint,
        prompt_id=prompt_id,
    )
