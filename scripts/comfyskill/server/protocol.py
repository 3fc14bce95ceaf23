"""The questions that every kind of server answers, as values: the interface between the three protocols and their users.

`local`, `cloud` and `v2` fill these operations in; `jobs` and the scripts use them and know no protocol.
"""

from __future__ import annotations

import abc
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin

import _common
from comfyskill.base import cache, cli, foreign, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.base.programs import command
from comfyskill.graph import nodes
from comfyskill.graph.nodes import Graph
from comfyskill.server import transport

if TYPE_CHECKING:
    import requests

    from comfyskill.graph.replacements import Renamed

# Node definitions as /object_info gives them: class -> its definition.
NodeDefinitions = dict[str, Any]
# `extra_data` key that marks a job as ours, for servers that choose the prompt id themselves.
MARK = "comfyui_skill_mark"
# Search for a lost submit at least this long, even past the deadline.
LEAST_SEARCH = 2.0
# Definitions of more classes than this are fetched all at once.
FEW_CLASSES = 12


class FileRef(NamedTuple):
    """A file on the server, as outputs, uploads and /view name it."""

    filename: str
    subfolder: str = ""
    type: str = "output"
    display_name: str | None = None
    url: str | None = None
    content_type: str | None = None
    asset_id: str | None = None

    def json(self) -> dict[str, str]:
        """The three keys that graphs and `original_ref` use."""
        return {"filename": self.filename, "subfolder": self.subfolder, "type": self.type}

    @classmethod
    def named_by(cls, value: str) -> FileRef:
        """The file that an input value names: `folder/name`, of `input` unless it ends in ` [output]` or ` [temp]`."""
        name, kind = value, "input"
        for marked in ("input", "output", "temp"):
            if value.endswith(f" [{marked}]"):
                name, kind = value[: -len(marked) - 3], marked
        folder, _, filename = name.replace("\\", "/").rpartition("/")
        return cls(filename, folder, kind)


class Submission(NamedTuple):
    """One graph to run. `prompt_id` is our choice where the server takes one, and our mark where it does not."""

    graph: Graph
    prompt_id: str
    client_id: str
    extra_data: Mapping[str, Any] = {}
    front: bool = False
    number: float | None = None
    targets: Sequence[str] | None = None


def accepted_id(prompt_id: object, ours: str, server: str) -> str:
    """The id that a server gave a job. Raises SkillError for what cannot be one: commands and reports name it."""
    if prompt_id == ours or safe_text.is_job_id(prompt_id):
        return str(prompt_id)
    raise SkillError(
        f"{server} accepted the job but returned an invalid id",
        code="bad_answer",
        hint="run scripts/manage_queue.py list to see its jobs",
        server_said=safe_text.clean(prompt_id, 200),
    )


class Accepted(NamedTuple):
    """The server's answer to a submit: the id it runs under, and which outputs it dropped (node id -> errors).

    `renamed`: the nodes whose class the server has replaced by another, under which they run.
    """

    prompt_id: str
    node_errors: Mapping[str, Any] = {}
    found_again: bool = False
    renamed: Sequence[Renamed] = ()


class JobState(NamedTuple):
    """What a server now reports about one job.

    `phase`: `pending`, `running`, `done` or `unknown` (the server has no trace of it). `outcome`, when done:
    `success`, `error` or `cancelled`. `outputs`: node id -> what it put out. `error`: the failure as the server
    reports it (node_id, node_type, exception_type, exception_message, traceback). Times in seconds since the epoch.
    """

    prompt_id: str
    phase: str
    outcome: str | None = None
    outputs: Mapping[str, Any] = {}
    error: Mapping[str, Any] | None = None
    position: int | None = None
    started: float | None = None
    ended: float | None = None
    graph: Graph | None = None
    extra_data: Mapping[str, Any] = {}
    messages: Sequence[Any] = ()
    progress: Mapping[str, Any] | None = None
    server_status: str = ""  # the server's own name for its state
    logs: str = ""  # the run's log where the server keeps one with the job
    assumed: bool = False  # the server has no trace of it yet; that is believed only after a while

    @property
    def done(self) -> bool:
        """Whether the job has ended."""
        return self.phase == "done"

    @property
    def execution_seconds(self) -> float | None:
        """How long it executed by the server's clock; None when that is unknown, or the clock was set back meanwhile."""
        if self.started is None or self.ended is None or self.ended < self.started:
            return None
        return self.ended - self.started


class JobSummary(NamedTuple):
    """One row of a job list. Times in seconds since the epoch where known."""

    prompt_id: str
    phase: str
    outcome: str | None = None
    created: float | None = None
    started: float | None = None
    ended: float | None = None
    position: int | None = None
    outputs_count: int | None = None
    mark: str | None = None
    client_id: str | None = None
    title: str | None = None
    graph: Graph | None = None


class Dialect(transport.Server, abc.ABC):
    """A server and its protocol. Failures are SkillErrors; answers are the values above."""

    api = "local"
    origin = "server"  # of the node definitions (see `facts.Facts`)
    complete = True
    why = ""  # how this protocol was chosen
    named = True  # by the user; else only by a file, and then no key goes there
    own_ids = True  # the client chooses the prompt id
    has_socket = True  # a WebSocket reports progress
    # Seconds that one small question about a job or the queue may take. A watcher asks again, so it sets a shorter time.
    question_timeout = transport.READ_TIMEOUT
    client_frames = True  # the socket carries only our own runs' frames
    chooses_front = True
    grace = 2.0  # how long a job may be unknown before it counts as lost
    first_poll = 0.05  # seconds before a job's record is looked at again; grows to `slowest_poll`
    slowest_poll = 2.0
    cross_check = 10.0  # with a live socket, read a record after this many quiet seconds
    resends = True  # a submit that the server surely lacks may be sent again
    denials = 4  # number of "no such job" answers that settle it
    one_class_route = True  # /object_info/CLASS gives the definition of one class
    keeps_records = (
        False  # a service: a job that it took and shows no record of may have run, and be paid for
    )
    removal_leaves_no_trace = True  # a waiting job that is removed from the queue leaves no record

    def __init__(self, url: str, access: _common.Access | None = None, *, demo: bool = False) -> None:
        super().__init__(url, access, demo=demo)
        self._definitions: NodeDefinitions = {}
        self._lacking: set[str] = set()  # classes that it was asked for and has not
        self._said_renamed: set[str] = set()
        self._whole: NodeDefinitions | None = None
        self._replacements: Mapping[str, object] | None = None

    @property
    def live(self) -> Dialect:
        """This server: it can be asked (see `facts.Facts`)."""
        return self

    @property
    def flags(self) -> list[str]:
        """The flags by which a printed command names this server and how to trust it, without keys."""
        if self.fleeting:
            return ["--host", "demo"]
        user = ["--header", f"{_common.USER_HEADER}: {self.access.user}"] if self.access.user else []
        return ["--host", self.url, *api_flags(self.api), *self.access.trust_flags, *user]

    def explain_command(self, prompt_id: str) -> str:
        """The command that shows what happened to a job."""
        # An id that begins with a dash comes last, where it cannot be read as a flag.
        last = ["--", prompt_id] if prompt_id.startswith("-") else []
        return command("fetch_logs.py", *([] if last else [prompt_id]), *self.flags, *last)

    def list_command(self) -> str:
        """The command that shows which jobs the server has, ours marked."""
        return command("manage_queue.py", "jobs", *self.flags)

    def cancel_command(self, prompt_ids: Sequence[str]) -> str:
        """The command that cancels these jobs, and reports the result for each."""
        return command("manage_queue.py", "cancel", *prompt_ids, *self.flags)

    # --- jobs
    @abc.abstractmethod
    def submit_once(self, submission: Submission) -> Accepted:
        """Post the graph one time. Raises AnswerLost when its outcome is unknown, SkillError `rejected` or `refused`."""

    @abc.abstractmethod
    def find_submitted(self, submission: Submission) -> str | None:
        """The prompt id of a submit whose answer was lost, or None when the server has no such job."""

    @abc.abstractmethod
    def state(self, prompt_id: str) -> JobState:
        """The state of a job; phase `unknown` when the server has no trace of it."""

    @abc.abstractmethod
    def cancel(self, prompt_id: str) -> bool:
        """Stop one job, running or waiting, and no other. False when there was nothing to stop."""

    def cancel_all(self, prompt_ids: Sequence[str]) -> dict[str, SkillError]:
        """Stop these jobs and no others, in this order; why, for each one of which that could not be confirmed."""
        failed = {}
        for prompt_id in prompt_ids:
            try:
                self.cancel(prompt_id)
            except SkillError as error:
                if error.code != "cancel_not_confirmed":
                    raise
                failed[prompt_id] = error
        return failed

    @abc.abstractmethod
    def list_jobs(self, limit: int = 100, *, finished: bool = True) -> list[JobSummary]:
        """Running and pending jobs in the order of execution, then finished ones, newest first."""

    # --- files
    def upload(
        self,
        path: Path,
        *,
        name: str | None = None,
        kind: str = "image",
        subfolder: str = "",
        overwrite: bool = False,
        original: FileRef | None = None,
    ) -> FileRef:
        """Send one file; the reference to put into the graph. `kind`: `image` (any file) or `mask` (needs `original`)."""
        fields = {
            "type": "input",
            "subfolder": subfolder,
            "overwrite": "true" if overwrite else "",
            "original_ref": json.dumps(original.json()) if original is not None else "",
        }
        answer = self._send_file(f"upload/{kind}", fields, ("image", path, name or path.name), "name")
        return FileRef(
            str(answer["name"]), str(answer.get("subfolder") or ""), str(answer.get("type") or "input")
        )

    def _send_file(
        self, route: str, fields: Mapping[str, str], file: tuple[str, Path, str], key: str
    ) -> Mapping[str, object]:
        """The server's answer to a form: `fields` that are not empty and the file (field, path, name), streamed.

        Raises SkillError `upload_failed` when the answer lacks `key`.
        """
        from comfyskill.server import multipart

        with multipart.form({name: text for name, text in fields.items() if text}, *file) as form:
            answer = foreign.mapping(self.post_form(route, form))
        if not isinstance(answer.get(key), str):
            raise SkillError(f"{self.url} did not accept {file[1].name}", code="upload_failed")
        return answer

    @abc.abstractmethod
    def open_file(self, ref: FileRef, *, offset: int = 0, validator: str | None = None) -> requests.Response:
        """An open streamed answer with the file's bytes from `offset` on; the caller closes it."""

    def open_signed(self, url: str, *, offset: int = 0, validator: str | None = None) -> requests.Response:
        """A file behind an address that may redirect to another origin, where no key and no cookie goes along.

        Raises SkillError `unsafe_redirect` for targets that a download must not go to.
        """
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers |= {"Range": f"bytes={offset}-"} | ({"If-Range": validator} if validator else {})
        self.check_redirect(self.url, url)
        answer = self.open_own(url, headers)
        location = answer.headers.get("Location")
        if answer.status_code not in (301, 302, 303, 307, 308) or not location:
            return answer
        answer.close()
        target = urljoin(url, location)
        self.check_redirect(url, target)
        return self.open_bare(target, headers)

    def has_file(self, ref: FileRef, size: int | None = None) -> bool:  # noqa: ARG002
        """Whether the server is known to have this file with this many bytes, so that it need not be sent."""
        return False

    def known_input(self, path: Path) -> FileRef | None:  # noqa: ARG002
        """An input file of the server that is known to have the bytes of this one, so that it need not be sent."""
        return None

    def input_value(self, ref: FileRef) -> object:
        """What a graph's input must hold to name this file."""
        name = f"{ref.subfolder}/{ref.filename}" if ref.subfolder else ref.filename
        return name if ref.type == "input" else f"{name} [{ref.type}]"

    # --- what the server has
    def definitions(self, classes: Sequence[str] | None = None) -> NodeDefinitions:
        """Node definitions (/object_info): of the named classes, or all. Classes the server lacks are absent."""
        if classes is None:
            return self._all_definitions()
        if not self.one_class_route or len(set(classes)) > FEW_CLASSES:
            whole = self._all_definitions()
            return {name: whole[name] for name in classes if name in whole}
        found: NodeDefinitions = {}
        for name in dict.fromkeys(classes):
            answer = self._one_definition(name)
            found.update({key: value for key, value in answer.items() if isinstance(value, dict)})
        return found

    def with_options(self, answer: object) -> Mapping[str, object]:
        """A submit's answer with the values that each wrong input takes, also where the server leaves them out."""
        from comfyskill.server import refusals

        def definition_of(name: str) -> object:
            try:
                return self.definitions([name]).get(name)
            except SkillError:
                return None

        if not isinstance(answer, Mapping):
            return {"error": answer}
        return {**answer, "node_errors": refusals.with_options(answer.get("node_errors"), definition_of)}

    def _one_definition(self, name: str) -> NodeDefinitions:
        if name in self._definitions:
            return {name: self._definitions[name]}
        answer = self.get_json(f"object_info/{_common.quoted(name)}")
        # An unknown class is answered with {}; anything else that lacks the class says nothing about it.
        if not isinstance(answer, dict) or (answer and name not in answer):
            raise SkillError(
                f"{self.url} returned no definition of {safe_text.quoted(name)}",
                code="bad_answer",
            )
        if not answer:
            self._lacking.add(name)
        self._definitions.update(answer)
        return answer

    def _all_definitions(self) -> NodeDefinitions:
        """Every node definition, kept for the life of this object and in the user's cache for offline use."""
        if self._whole is None:
            whole = self.get_json("object_info", timeout=180)
            if not isinstance(whole, dict):
                raise SkillError(f"{self.url} has no node definitions", code="bad_answer")
            self._whole = whole
            if not self.fleeting:
                cache.keep_table(f"definitions/{cache.slug(self.url)}", whole)
        return self._whole

    def replacements(self) -> Mapping[str, object]:
        """The server's table of replaced node classes (/node_replacements), asked once; empty where it has none."""
        if self._replacements is None:
            try:
                self._replacements = foreign.mapping(self.get_json("node_replacements"))
            except SkillError as error:
                if error.exit in (cli.Exit.UNREACHABLE, cli.Exit.REFUSED):
                    raise
                self._replacements = {}
        return self._replacements

    def replaced(self, graph: Graph) -> tuple[Graph, list[Renamed]]:
        """The graph with replaced classes under their new names, of those that this server is known to lack; and which.

        Classes are not looked up for this: what a run needs to know of them was asked before it is submitted.
        """
        classes = {nodes.class_of(node) for _, node in nodes.each(graph)}
        lacking = classes - self._whole.keys() if self._whole is not None else classes & self._lacking
        if not lacking:
            return graph, []
        from comfyskill.graph import replacements

        table = self.replacements()
        new = {replacements.new_class(name, table) for name in lacking} - {None}
        if not new:
            return graph, []
        known = self.definitions(sorted({*(classes & table.keys()), *(str(name) for name in new)}))
        return replacements.replaced(graph, table, known)

    def template_index(self) -> object:
        """The index of the server's workflow templates. Raises SkillError `templates_broken`, or `not_found`."""
        try:
            return self.get_json("templates/index.json")
        except SkillError as error:
            if error.code != "not_found":
                raise
            system = self.stats()["system"]
            installed = safe_text.clean(system.get("installed_templates_version") or "", 40)
            if not installed:
                raise
            required = safe_text.clean(system.get("required_templates_version") or installed, 40)
            raise SkillError(
                f"the server has its templates package ({installed}) but serves no templates: it is broken",
                code="templates_broken",
                hint="in the server's Python: pip install --force-reinstall "
                f"comfyui-workflow-templates=={required}; then restart ComfyUI",
                installed=installed,
                required=required,
            ) from error

    def model_folders(self) -> list[str]:
        """The kinds of model folders the server has."""
        return _common.parse_model_list(self.get_json("models"))

    def models(self, folder: str) -> list[str]:
        """The names in one model folder. Raises SkillError `folder_not_found`, `refused` or what the network did."""
        try:
            return _common.parse_model_list(self.get_json(f"models/{_common.quoted(folder)}"))
        except SkillError as error:
            if error.code == "not_found":
                raise SkillError(
                    f"the server has no model folder {safe_text.quoted(folder)}",
                    code="folder_not_found",
                ) from error
            raise

    def embeddings(self) -> list[str]:
        """Names of the textual-inversion embeddings, without suffix."""
        return _common.parse_model_list(self.get_json("embeddings"))

    def has_input(self, value: str) -> bool | None:
        """Whether the file that an input value names is on the server; None when a web page answered instead."""
        try:
            response = self.open_file(FileRef.named_by(value))
        except SkillError as error:
            # ComfyUI answers 403 for a path outside its folders.
            outside = self.api == "local" and error.details.get("http_status") == 403
            if outside or error.code in ("not_found", "bad_request"):
                return False
            raise
        response.close()
        # A login page answers every address with 200; ComfyUI itself never serves a file as one.
        kind = response.headers.get("Content-Type", "").lower()
        return None if kind.startswith("text/html") else True

    def features(self) -> Document:
        """The server's feature flags; empty where it has no such route."""
        try:
            answer = self.get_json("features")
        except SkillError as error:
            if error.code in ("not_found", "not_offered"):
                return {}
            raise
        return answer if isinstance(answer, dict) else {}

    def stats(self) -> Document:
        """The server's /system_stats. Raises SkillError when this is not ComfyUI."""
        answer = self.get_json("system_stats")
        if not isinstance(answer, dict) or not isinstance(answer.get("system"), dict):
            raise SkillError(
                f"{self.url} answers, but not like ComfyUI", code="not_comfyui", hint="check --host: scheme, port and base path",
            )  # fmt: skip
        return answer

    def most_at_once(self) -> int | None:
        """How many jobs the server runs at once for us, when it says so."""
        return None

    def account(self) -> Document:
        """Plan, credits and limits that the server reports; empty for servers without accounts."""
        return {}

    def open_events(self, prompt_id: str) -> requests.Response | None:  # noqa: ARG002
        """An open stream of server-sent events about one job, for servers without a WebSocket; the caller closes it."""
        return None

    def submit(self, submission: Submission, *, search_time: float = 8.0, patience: float = 90.0) -> Accepted:
        """Submit exactly once, with the classes that the server has replaced under their new names.

        Raises SkillError: `rejected` (exit 6), `refused` (4), `unreachable` (3), or `submit_unknown` (5) when the
        server does not say what became of it.
        """
        try:
            graph, renamed = self.replaced(submission.graph)
        except SkillError:
            graph, renamed = submission.graph, []  # the submit itself shows what is wrong
        self._say_renamed(renamed)
        accepted = self._submit(submission._replace(graph=graph), search_time, patience)
        return accepted._replace(renamed=renamed)

    def _say_renamed(self, renamed: Sequence[Renamed]) -> None:
        for node in renamed:
            if node.old in self._said_renamed:
                continue
            self._said_renamed.add(node.old)
            lost = f", without its inputs {safe_text.quoted_list(node.lost, 10)}" if node.lost else ""
            cli.warn(
                f"{safe_text.quoted(node.old)} runs as {safe_text.quoted(node.new)}, which has replaced it on this server{lost}"
            )

    def _submit(self, submission: Submission, search_time: float, patience: float) -> Accepted:
        """When the answer is lost, look for the job before sending it again.

        A throttled submit (429) is looked for as well and sent again for up to `patience` seconds.
        """
        give_up = time.monotonic() + patience
        attempt = 0
        while True:
            attempt += 1
            try:
                return self.submit_once(submission)
            except transport.AnswerLost as lost:
                if lost.status is None:
                    self.renew_connections()
                found = self._search(submission, search_time, lost)
                if found is not None:
                    return Accepted(found, found_again=True)
                late = transport.time_is_up()
                if late and lost.status is None:
                    # We did not wait for the answer: the server may still accept the submit.
                    raise self._fate_unknown(submission, lost, late=True) from lost
                throttled = lost.status == 429 and time.monotonic() < give_up and not late
                again = self.resends and (lost.status is None or lost.status in transport.RETRIED_STATUSES)
                if not throttled and (attempt > 1 or late or not again):
                    raise lost.failure or submit_failed(lost, sure=self.own_ids) from lost
                pause = transport.pause_before(attempt + (3 if throttled else 0), lost.retry_after)
                time.sleep(transport.time_left(pause))

    def _search(self, submission: Submission, patience: float, lost: transport.AnswerLost) -> str | None:
        """Ask the server until it answers whether it has the job; then a moment longer: it may still be reading the submit."""
        needed = 2 if lost.status == 429 else self.denials
        give_up = time.monotonic() + max(transport.time_left(patience), LEAST_SEARCH)
        pause, denials = 0.05, 0
        while True:
            try:
                found = self.find_submitted(submission)
                denials += 1
            except SkillError as error:
                if error.exit == cli.Exit.REFUSED or time.monotonic() > give_up:
                    raise self._fate_unknown(submission, lost) from error
                found = None
            if found is not None:
                return found
            if denials >= needed or time.monotonic() > give_up:
                return None
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _fate_unknown(self, submission: Submission, lost: Exception, *, late: bool = False) -> SkillError:
        search = (
            f"look for prompt id {submission.prompt_id}"
            if self.own_ids
            else "check the newest jobs in its list"
        )
        what = "the answer to the submit was lost, and the server does not say what happened to the job"
        if late:
            what = "the submit was not answered in time, and the server does not list the job yet"
        return SkillError(
            what,
            code="submit_unknown",
            exit=cli.Exit.RUNNING,
            hint=f"when the server {'answers again' if late else 'is back'}, {search} before running again",
            reason="time_is_up" if late else "out_of_reach",
            server_said=safe_text.clean(lost, 300),
            prompt_id=submission.prompt_id if self.own_ids else None,
            mark=submission.prompt_id,
        )


def submit_failed(lost: transport.AnswerLost, *, sure: bool) -> SkillError:
    """The server failed on a submit and shows no job of it.

    `sure`: the id is ours, so a lookup of it settles the matter; else the job may just not be listed yet.
    """
    if lost.status == 429:
        return SkillError(
            "the server keeps refusing the submit (too many requests)",
            code="busy",
            retryable=True,
            hint="wait and try again; nothing was submitted",
            server_said=safe_text.clean(lost, 600),
        )
    first_line = (safe_text.clean(lost, 200).splitlines() or [""])[0]
    return SkillError(
        f"the server failed on the submit ({first_line}) and {'has' if sure else 'lists'} no such job",
        code="submit_failed",
        retryable=True,
        hint="the job was not accepted; it is safe to run the command again"
        if sure
        else "check the job list once more before running again: if the job appears late, it would run twice",
        server_said=safe_text.clean(lost, 600),
    )


def is_uuid(text: str) -> bool:
    """Whether a text is a UUID as 0.33 takes it for a prompt id: lower case, with hyphens."""
    return re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) is not None


def api_flags(api: str | None) -> list[str]:
    """The flag that names a server's protocol; none for a plain ComfyUI."""
    return [] if api in (None, "auto", "local") else ["--api", str(api)]


def seconds(value: object) -> float | None:
    """A time in seconds since the epoch from seconds or milliseconds (the cloud's sources disagree; below 1e11 is s)."""
    time = foreign.number(value)
    if time is None or time <= 0:
        return None
    return float(time) if time < 1e11 else time / 1000.0
