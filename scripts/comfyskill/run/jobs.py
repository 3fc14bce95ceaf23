"""One job from submit to files: submit exactly once, follow it, cancel what is ours, collect, report.

Above `watch`, `collect` and `prepare`. Values in, a report dict out; the scripts print it.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import _common
from comfyskill.base import cli, file_limits, file_names, safe_text
from comfyskill.base.cli import Exit, Misuse, SkillError, Terminated
from comfyskill.base.programs import command
from comfyskill.graph import facts
from comfyskill.run import job as run_job
from comfyskill.run import reports, times
from comfyskill.run import submitted as run_submitted
from comfyskill.run.job import NOT_YET, Job, Options
from comfyskill.run.prepare import Prepared
from comfyskill.run.progress import Progress
from comfyskill.server import events, node_definitions, transport
from comfyskill.server.protocol import Accepted, Dialect, Graph, JobState, Submission
from comfyskill.server.watch import Ended, Update, Watcher

# A first warning for a job that runs this long; videos take longer. It then doubles.
LONG_RUN = 600.0
LONG_VIDEO_RUN = 1800.0
# An estimate below this is over before it is read.
WORTH_SAYING = 3.0
# All that Ctrl-C does at a server takes this long at most. An interrupt takes effect at the next step; a silent long
# node finishes first.
CANCEL_PATIENCE = 8.0
SAY_AGAIN = 0.5
# Give a submit at least this long, even under a shorter --timeout: cutting it off leaves its outcome unknown.
SUBMIT_TIME = 5.0
WAIT_HINT = "wait for it by its prompt id; do not submit it again"
FETCH_HINT = "fetch the rest by its prompt id; do not run it again"
MOST_NEXT = 5
GO_ON = "wait for them by id; do not submit them again"


def partner_key(server: Dialect, prepared: Prepared, given: str | None) -> str | None:
    """The key for partner nodes that goes with a graph: the one given, else the environment's where a node needs it.

    Raises SkillError `consent_needed` when it would travel unencrypted to another machine, and misuse when only a file
    names the server.
    """
    key = given or (os.environ.get("COMFY_PARTNER_KEY") if prepared.partner else None)
    safe_text.hide(key)
    if key:
        if not server.named:
            raise _common.not_named([server.url])
        _common.refuse_plain_http(server.url, server.access)
    return key


def new_submission(server: Dialect, prepared: Prepared, options: Options) -> Submission:
    """The graph with the ids and the extra data that go with it. Raises SkillError as `partner_key` does."""
    extra: dict[str, Any] = {}
    if prepared.source.editor is not None:
        # The editor's own file travels along, so that a result dragged into ComfyUI opens with its layout.
        extra["extra_pnginfo"] = {"workflow": prepared.source.editor}
    if key := partner_key(server, prepared, options.partner_key):
        extra["api_key_comfy_org"] = key
    return Submission(
        prepared.graph,
        options.prompt_id or str(uuid.uuid4()),
        options.client_id or uuid.uuid4().hex,
        extra,
        front=options.front,
        targets=options.targets,
    )


def checked_submission(server: Dialect, prepared: Prepared, options: Options) -> Submission:
    """What would be submitted, after all that can be known to be wrong with it. Raises as `new_submission`, and misuse."""
    submission = new_submission(server, prepared, options)
    check_before(server, submission, chosen_id=options.prompt_id is not None)
    return submission


def submit_only(server: Dialect, prepared: Prepared, options: Options) -> dict[str, Any]:
    """Submit and return at once: the report with the prompt id and the command that waits for it.

    If interrupted during the submit, report what happened to the job, as `run` does.
    """
    submission = checked_submission(server, prepared, options)
    if unheard := reports.socket_nodes(prepared.graph):
        cli.warn(
            f"node {safe_text.name(unheard[0])} sends its pictures only through the socket, and --no-wait does not listen to it"
        )
    job = Job(server, submission.prompt_id, submission.graph, NOT_YET, time.monotonic())
    watcher = Watcher(server, submission.client_id, use_socket=False)
    progress = Progress(prepared.graph, quiet=True)
    try:
        state = _follow(watcher, job, progress, options, LONG_RUN, submission, wait=False)
    except SkillError as error:
        _complete(error, job, prepared, submission, options)
        raise
    finally:
        watcher.close()
    if job.interrupted:
        return _collected(job, state, prepared, options, progress, missed_frames=True)
    return reports.submitted(server, job.accepted, prepared, options)


def run(server: Dialect, prepared: Prepared, options: Options) -> dict[str, Any]:
    """Submit, follow to the end, download: the whole report. Raises SkillError when nothing ran.

    With `retry_oom`, a run that ended for memory is tried once more after the server's models and cache are freed,
    never one that costs credits.
    """
    report = _run_once(server, prepared, options)
    if report.get("code") != "out_of_memory":
        return report

    report["proposals"] = reports.proposals(prepared.graph, server)
    if not options.retry_oom:
        return report
    if prepared.partner or server.api != "local":
        why = (
            "it would cost again"
            if prepared.partner
            else "memory can be freed only on a ComfyUI server of your own"
        )
        cli.warn(f"out of memory: not trying again, {why}")
        return report
    cli.warn("out of memory: freeing the server's models and cache, then trying once more")
    try:
        server.post_json("free", {"unload_models": True, "free_memory": True})
    except SkillError as error:
        # The run's failure matters more; a server that ran out of memory may have died.
        cli.warn(f"not trying again: the server's memory could not be freed: {error.message}")
        return report
    again = _run_once(server, prepared, options._replace(prompt_id=None))
    again["retried"] = {"after": "out_of_memory", "first_prompt_id": report["prompt_id"]}
    if again.get("code") == "out_of_memory":
        again["proposals"] = report["proposals"]
    return again


def _run_once(server: Dialect, prepared: Prepared, options: Options) -> dict[str, Any]:
    submission = checked_submission(server, prepared, options)
    watcher = Watcher(server, submission.client_id, use_socket=options.use_socket, patience=options.patience)
    progress = Progress(prepared.graph, quiet=options.quiet)
    expected = times.estimate(server.url, prepared.graph)
    if expected is not None and expected.seconds >= WORTH_SAYING:
        cli.note(f"{expected.words()}, from {expected.runs} earlier run(s)")
    job = Job(server, submission.prompt_id, submission.graph, NOT_YET, time.monotonic())
    warn_after = _first_warning(expected, prepared.video)
    try:
        watcher.open()
        state = _follow(watcher, job, progress, options, warn_after, submission)
        watcher.close()
        report = _collected(job, state, prepared, options, progress, watcher.missed_frames)
    except SkillError as error:
        _complete(error, job, prepared, submission, options)
        raise
    except (KeyboardInterrupt, Terminated) as stop:
        # Interrupted between two of the steps above; each step has its own, better answer.
        if job.accepted is NOT_YET:
            raise
        code = "still_running" if isinstance(stop, Terminated) else "interrupted"
        raise _left_running(job, options, "stopped; the job is still running, or has ended", code) from None
    finally:
        progress.close()
        watcher.close()
    if expected is not None:
        report["estimate"] = expected.to_json()
    # A run that came wholly from the server's cache shows nothing about run times.
    computed = len(progress.cached) < len(prepared.graph)
    if state.outcome == "success" and computed and not server.fleeting:
        seconds = report.get("execution_seconds", report["seconds"])
        times.record(
            server.url, job.prompt_id, prepared.graph, seconds, progress.node_seconds, len(progress.cached)
        )
    return report


def _complete(
    error: SkillError, job: Job, prepared: Prepared, submission: Submission, options: Options
) -> None:
    """A submit whose outcome is unknown must not be repeated; say what to do instead."""
    if job.accepted is not NOT_YET or error.code == "submit_unknown":
        # Report the seed that was drawn for this run, however the wait ends.
        error.details = reports.about(prepared) | error.details
    if error.code == "submit_unknown" and not error.next:
        error.next = [reports.look_command(job.server, submission, options)]


def _first_warning(expected: times.Estimate | None, video: bool) -> float:
    """Seconds after which a running job gets a warning: more when it is expected to take long."""
    usual = LONG_VIDEO_RUN if video else LONG_RUN
    return usual if expected is None else max(usual, expected.high * 1.5)


def resume(server: Dialect, prompt_id: str, options: Options) -> dict[str, Any]:
    """Wait for a job that any process submitted at any time, and download its results."""
    try:
        return _resumed(server, prompt_id, options)
    except SkillError as error:
        error.details.setdefault("prompt_id", prompt_id)
        if not error.next and error.exit not in (Exit.MISUSE, Exit.UNREACHABLE):
            error.next = [reports.resume_command(server, prompt_id, options)]
        raise


def _resumed(server: Dialect, prompt_id: str, options: Options) -> dict[str, Any]:
    watcher = Watcher(server, uuid.uuid4().hex, use_socket=options.use_socket, patience=options.patience)
    with transport.no_later_than(None if options.timeout is None else time.monotonic() + options.timeout):
        state = _first_look(server, prompt_id)
    job = Job(server, prompt_id, state.graph or {}, Accepted(prompt_id), time.monotonic(), ours=False)
    progress = Progress(job.graph, quiet=options.quiet)
    try:
        if not state.done:
            watcher.open()
            watcher.watch(prompt_id, ours=False)
            state = _follow(watcher, job, progress, options, LONG_RUN)
    finally:
        progress.close()
        watcher.close()
    job.graph = state.graph or job.graph
    return _collected(job, state, None, options, progress, missed_frames=False)


def _first_look(server: Dialect, prompt_id: str) -> JobState:
    """The job's state. One bad answer is not fatal: the watcher asks again."""
    try:
        return server.state(prompt_id)
    except SkillError as error:
        if error.exit != Exit.FAILED:
            raise
        return JobState(prompt_id, "pending")


def _collected(
    job: Job,
    state: JobState,
    prepared: Prepared | None,
    options: Options,
    progress: Progress,
    missed_frames: bool,
) -> dict[str, Any]:
    """Download and report. If interrupted here, say that the job itself has finished."""
    words = "while downloading its results; the job itself has finished"
    try:
        return reports.finished(job, state, prepared, options, progress, missed_frames)
    except KeyboardInterrupt:
        raise _left_running(job, options, f"interrupted {words}", "interrupted", FETCH_HINT) from None
    except Terminated:
        raise _left_running(job, options, f"terminated {words}", "still_running", FETCH_HINT) from None


def _submit_job(watcher: Watcher, job: Job, submission: Submission, options: Options) -> None:
    job.submitted = time.monotonic()
    limit = None if options.timeout is None else job.submitted + max(options.timeout, SUBMIT_TIME)
    with transport.no_later_than(limit):
        accepted = submit(job.server, submission)
    _accept(watcher, job, accepted)
    if job.accepted.node_errors and options.strict:
        job.server.cancel(job.prompt_id)
        raise reports.strict_rejection(job)


def _accept(watcher: Watcher, job: Job, accepted: Accepted) -> None:
    """The job exists: report its id before anything else can happen, and wait for its events."""
    job.prompt_id, job.accepted = accepted.prompt_id, accepted
    _announce(job.server, job.prompt_id)
    watcher.watch(job.prompt_id)


def _soon() -> contextlib.AbstractContextManager[None]:
    """In this block, wait at most CANCEL_PATIENCE for a server that does not answer."""
    return transport.no_later_than(time.monotonic() + CANCEL_PATIENCE)


def _stands(watcher: Watcher, job: Job, submission: Submission | None) -> bool:
    """Whether a job exists. After a submit that was cut off, look for its job: no other command knows about it."""
    if job.accepted is not NOT_YET or submission is None:
        return True
    found = _found_after_stop(job.server, submission)
    if found is not None:
        _accept(watcher, job, Accepted(found))
    return found is not None


def _found_after_stop(server: Dialect, submission: Submission) -> str | None:
    """The job of a submit that was cut off; where the server chooses the id, it is listed only a moment later."""
    for pause in (0.0,) if server.own_ids else (0.0, 0.5, 1.0, 1.5):
        time.sleep(pause)
        try:
            found = server.find_submitted(submission)
        except SkillError as error:
            raise _perhaps_submitted(server, submission, error) from error
        if found is not None:
            return found
    return None


def _perhaps_submitted(server: Dialect, submission: Submission, error: SkillError) -> SkillError:
    """Stopped during the submit, and the server does not answer: the job may be running."""
    look = f"look for prompt id {submission.prompt_id}" if server.own_ids else "check its newest jobs"
    return SkillError(
        "stopped during the submit; the server does not answer, so it is not known whether it has the job",
        code="submit_unknown",
        exit=Exit.RUNNING,
        hint=f"when the server is back, {look} before running again",
        prompt_id=submission.prompt_id if server.own_ids else None,
        server_said=error.message,
    )


def _announce(server: Dialect, prompt_id: str) -> None:
    """On stderr at once and also with --quiet: even kill -9 must not lose the id."""
    cli.warn(f"prompt id {prompt_id}")
    if not server.fleeting:
        run_submitted.remember(server.url, prompt_id)


def _follow(
    watcher: Watcher,
    job: Job,
    progress: Progress,
    options: Options,
    warn_after: float,
    submission: Submission | None = None,
    *,
    wait: bool = True,
) -> JobState:
    """Submit (when there is something to submit) and wait (unless not wanted): the job's last state.

    Ctrl-C cancels the job (or leaves it, when asked to); a second Ctrl-C stops waiting for that.
    """
    try:
        if submission is not None:
            _submit_job(watcher, job, submission, options)
        if not wait:
            return JobState(job.prompt_id, "pending")
        return _wait(watcher, job, progress, options, warn_after)
    except KeyboardInterrupt:
        with _soon():
            if not _stands(watcher, job, submission):
                raise
            if options.detach_on_interrupt or not job.ours:
                raise _left_running(
                    job, options, "interrupted; the job is still running", "interrupted"
                ) from None
            return _cancel(watcher, job, progress, options)
    except Terminated:
        with _soon():
            known = _stands(watcher, job, submission)
        if not known:
            raise
        raise _left_running(
            job, options, "terminated by a signal; the job is still running", "still_running"
        ) from None
    except SkillError as error:
        if job.accepted is not NOT_YET:
            error.details.setdefault("prompt_id", job.prompt_id)
            if not error.next and error.exit != Exit.REJECTED:
                error.next = [reports.resume_command(job.server, job.prompt_id, options)]
        raise


def _wait(watcher: Watcher, job: Job, progress: Progress, options: Options, warn_after: float) -> JobState:
    deadline = None if options.timeout is None else job.submitted + options.timeout
    with transport.no_later_than(deadline):
        return _wait_until(deadline, watcher, job, progress, options, warn_after)


def _wait_until(
    deadline: float | None,
    watcher: Watcher,
    job: Job,
    progress: Progress,
    options: Options,
    warn_after: float,
) -> JobState:
    while True:
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            words = f"not finished after {options.timeout:g} s; the job is still running"
            if not (job.ours or watcher.has_seen(job.prompt_id)):
                words = f"the server has reported nothing about this job for {options.timeout:g} s"
            raise _left_running(job, options, words, "still_running")
        if now - job.submitted > warn_after:
            cli.warn(
                f"still running after {warn_after / 60:.0f} min: {progress.doing} ({progress.share:.0%})"
            )
            warn_after *= 2
        state = _take_news(
            watcher, job, progress, options, 1.0 if deadline is None else min(1.0, deadline - now)
        )
        if state is not None:
            return state


def _take_news(
    watcher: Watcher, job: Job, progress: Progress, options: Options, wait: float
) -> JobState | None:
    for item in watcher.updates(wait):
        if isinstance(item, Ended):
            if item.state.prompt_id == job.prompt_id:
                return item.state
        elif item.prompt_id == job.prompt_id:
            _take_update(job, item, options)
            progress.on(item.frame)
    return None


def _take_update(job: Job, update: Update, options: Options) -> None:
    frame = update.frame
    if isinstance(frame, events.Event) and frame.blocks:
        job.blocked.append(frame)
    if not isinstance(frame, events.Preview):
        return
    if reports.sends_through_socket(job.graph, frame.node):
        job.socket_images.append((frame.node or "", frame))
    elif options.save_previews is not None and job.previews_wanted:
        try:
            job.previews.append(_save_preview(job, frame, options.save_previews))
        except SkillError as error:
            # A full disk: do not lose the job because of its previews.
            job.previews_wanted = False
            cli.warn(f"previews are no longer saved: {error.message}")


def _save_preview(job: Job, frame: events.Preview, folder: Path) -> Path:
    name = f"{job.prompt_id[:8]}_node{frame.node or 'x'}_{len(job.previews):04d}{frame.suffix}"
    path = folder / file_names.safe_name(name)
    # By rename, since a link of that name could be there.
    file_names.write_whole(path, frame.image)
    return path


def _cancel(watcher: Watcher, job: Job, progress: Progress, options: Options) -> JobState:
    """Stop this job and no other, then wait a little for its end, so that what is finished can be downloaded."""
    cli.warn("stopping the job (Ctrl-C again to stop waiting)")
    job.interrupted, told = True, False
    try:
        job.server.cancel(job.prompt_id)
        told = True
        return _await_cancelled(watcher, job, progress, options)
    except KeyboardInterrupt:
        if told:
            return JobState(job.prompt_id, "running")
        words = "interrupted again before the job was cancelled: it may still be running"
        raise _left_running(job, options, words, "interrupted") from None
    except Terminated:
        raise _left_running(job, options, "terminated while cancelling the job", "still_running") from None
    except SkillError as error:
        raise SkillError(
            "interrupted, but the job could not be stopped: it may still be running",
            code="interrupted",
            status="cancelled",
            prompt_id=job.prompt_id,
            hint=error.message,
            next=[
                reports.resume_command(job.server, job.prompt_id, options),
                job.server.cancel_command([job.prompt_id]),
            ],
        ) from error


def _await_cancelled(watcher: Watcher, job: Job, progress: Progress, options: Options) -> JobState:
    give_up = time.monotonic() + transport.time_left(CANCEL_PATIENCE)
    state: JobState | None = job.server.state(job.prompt_id)
    if state is not None and state.phase == "unknown":
        # It was still waiting: a job taken out of the queue leaves no trace.
        return state
    say_again = time.monotonic() + SAY_AGAIN
    while time.monotonic() < give_up:
        state = _take_news(watcher, job, progress, options, 0.2)
        if state is not None:
            return state
        if time.monotonic() >= say_again:
            # An interrupt that comes just before a run's first node is forgotten by the server.
            job.server.cancel(job.prompt_id)
            say_again += SAY_AGAIN
    return JobState(job.prompt_id, "running")


def _left_running(job: Job, options: Options, message: str, code: str, hint: str = WAIT_HINT) -> SkillError:
    """The error when this command stops but the job continues: says how to get back to it."""
    return SkillError(
        message,
        code=code,
        status="timeout" if code == "still_running" else "running",
        retryable=False,
        hint=hint,
        next=[reports.resume_command(job.server, job.prompt_id, options)],
        prompt_id=job.prompt_id,
        host=job.server.url,
    )


def check_before(server: Dialect, submission: Submission, *, chosen_id: bool) -> None:
    """Refuse an id that is taken and outputs that do not exist. Raises SkillError (exit 2)."""
    if chosen_id and server.own_ids and server.state(submission.prompt_id).phase != "unknown":
        raise Misuse(
            f"the server already knows the prompt id {submission.prompt_id}",
            code="prompt_id_taken",
            hint="give another --prompt-id, or fetch that job with --resume",
        )
    if submission.front and not server.chooses_front:
        cli.warn("this server orders its queue itself: --front changes nothing")
    if submission.targets is not None:
        check_targets(server, submission.graph, submission.targets)


def check_targets(server: Dialect, graph: Graph, targets: Sequence[str]) -> None:
    """Refuse a target that is not an output node: the server would silently ignore it."""
    outputs = [
        node.node_id
        for node in facts.outputs_of(
            graph, node_definitions.of_classes(server, node_definitions.classes_of(graph))
        )
    ]
    for target in targets:
        if target not in outputs:
            what = "is not in the graph" if target not in graph else "is not an output node"
            raise Misuse(
                f"--only: node {safe_text.quoted(target)} {what}",
                code="no_such_output_node",
                hint=f"output nodes: {safe_text.quoted_list(outputs, 20) or 'none'}",
            )


def submit(server: Dialect, submission: Submission) -> Accepted:
    """Submit exactly once; when the server rejects the graph without saying where, our own check of it does."""
    try:
        return server.submit(submission)
    except SkillError as error:
        if error.code != "rejected" or error.details.get("node_errors"):
            raise
        raise _explained(server, submission.graph, error) from None


def _explained(server: Dialect, graph: Graph, error: SkillError) -> SkillError:
    from comfyskill.graph import check

    try:
        known = server.definitions(node_definitions.classes_of(graph))
    except SkillError:
        return error
    found: list[dict[str, Any]] = [
        item.to_json() for item in check.findings(graph, known) if item.severity == "error"
    ]
    if not found:
        return error
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    error.message = f"the server rejected the graph: {found[0]['message']}{more}"
    error.args = (error.message,)
    error.hint = found[0].get("fix") or error.hint
    error.details["node_errors"] = safe_text.clean_tree(found, 400)
    return error


def wait(
    server: Dialect, ids: Sequence[str], output_dir: Path, *, timeout: float | None, quiet: bool
) -> dict[str, Any]:
    """Wait for the jobs and download each as it ends; the report states each outcome.

    Raises SkillError for what stops the wait before any job has ended.
    """
    wanted = list(dict.fromkeys(ids))
    results: dict[str, dict[str, Any]] = {}
    options = run_job.Options(output_dir, timeout=timeout, quiet=quiet)
    try:
        _follow_known(server, wanted, options, results)
    except SkillError as error:
        left = _left(server, wanted, results, output_dir)
        if not results:
            error.details |= {key: value for key, value in left.items() if key != "next"}
            if error.exit != cli.Exit.MISUSE:
                error.next = error.next or left.get("next", [])
            raise
        return _head(server, wanted, results) | error.document() | left
    except KeyboardInterrupt:
        said = {
            "status": "cancelled",
            "code": "interrupted",
            "message": "interrupted; the jobs are still running",
        }
        return _stopped(server, wanted, results, output_dir, said)
    except Terminated:
        said = {
            "status": "timeout",
            "code": "still_running",
            "message": "terminated by a signal; the jobs are still running",
        }
        return _stopped(server, wanted, results, output_dir, said)
    return _verdict(server, wanted, results, output_dir)


def _follow_known(
    server: Dialect, wanted: Sequence[str], options: run_job.Options, results: dict[str, dict[str, Any]]
) -> None:
    give_up = None if options.timeout is None else time.monotonic() + options.timeout
    watcher = Watcher(server, uuid.uuid4().hex, answered=False)
    try:
        watcher.open()
        for prompt_id in wanted:
            watcher.watch(prompt_id, ours=False)
        while watcher.watching and (give_up is None or time.monotonic() < give_up):
            with transport.no_later_than(give_up):
                news = watcher.updates(
                    1.0 if give_up is None else min(1.0, max(give_up - time.monotonic(), 0.0))
                )
            for item in news:
                if isinstance(item, Ended):
                    results[item.state.prompt_id] = _fetched(server, item.state, options)
                    cli.note(
                        f"{safe_text.name(item.state.prompt_id)}: {results[item.state.prompt_id]['status']}"
                    )
    finally:
        watcher.close()


def _fetched(server: Dialect, state: JobState, options: run_job.Options) -> dict[str, Any]:
    graph = state.graph or {}
    job = run_job.Job(server, state.prompt_id, graph, Accepted(state.prompt_id), time.monotonic(), ours=False)
    return reports.finished(job, state, None, options, Progress(graph, quiet=True), missed_frames=False)


def _head(server: Dialect, wanted: Sequence[str], results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    jobs = [results[key] for key in wanted if key in results]
    return {"status": "success", **reports.head(server), "jobs": jobs}


def _left(
    server: Dialect, wanted: Sequence[str], results: Mapping[str, Any], output_dir: Path
) -> dict[str, Any]:
    """The jobs that were not fetched, and the command that continues with them."""
    left = [prompt_id for prompt_id in wanted if prompt_id not in results]
    if not left:
        return {}
    words = [
        "wait",
        *left,
        "--output-dir",
        output_dir,
        *file_limits.flag_words(),
        *server.flags,
    ]
    return {"waiting": left, "next": [command("manage_queue.py", *words)]}


def _stopped(
    server: Dialect,
    wanted: Sequence[str],
    results: Mapping[str, dict[str, Any]],
    output_dir: Path,
    said: Mapping[str, Any],
) -> dict[str, Any]:
    left = _left(server, wanted, results, output_dir)
    return {**_head(server, wanted, results), **said, "retryable": False, "hint": GO_ON, **left}


def _verdict(
    server: Dialect, wanted: Sequence[str], results: Mapping[str, dict[str, Any]], output_dir: Path
) -> dict[str, Any]:
    left = len(wanted) - len(results)
    if left:
        said = {"status": "timeout", "code": "still_running", "message": f"{left} job(s) have not ended yet"}
        return _stopped(server, wanted, results, output_dir, said)
    document = _head(server, wanted, results)
    bad = [item for item in document["jobs"] if item["status"] != "success"]
    if not bad:
        return document
    return document | {
        "status": "partial",
        "code": str(bad[0].get("code") or bad[0]["status"]),
        "retryable": False,
        "message": f"{len(bad)} of {len(wanted)} job(s) did not succeed",
        "hint": "see each job's status",
        "next": list(dict.fromkeys(words for item in bad for words in item.get("next", ())))[:MOST_NEXT],
    }
