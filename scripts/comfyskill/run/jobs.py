"""One job from submit to files: submit exactly once, follow it, cancel what is ours, collect, report.

Above `submit`, `result` and `reports`. Values in, a report document out; the commands print it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from comfyskill.base import cli, file_names, safe_text
from comfyskill.base.cli import Document, Exit, SkillError, Terminated
from comfyskill.run import memory, reports, times
from comfyskill.run import submit as run_submit
from comfyskill.run.job import FETCH_HINT, Options, Run
from comfyskill.run.prepare import Prepared
from comfyskill.run.progress import Progress
from comfyskill.run.result import sends_through_socket, socket_nodes
from comfyskill.server import events, transport
from comfyskill.server.protocol import Accepted, Dialect, JobState
from comfyskill.server.watch import Ended, Update, Watcher

# A first warning for a job that runs this long; videos take longer. It then doubles.
LONG_RUN = 600.0
LONG_VIDEO_RUN = 1800.0
# A shorter estimate is not worth a line.
LEAST_ESTIMATE = 3.0
# All that Ctrl-C does at a server takes this long at most. An interrupt takes effect at the next step; a silent long
# node finishes first.
CANCEL_PATIENCE = 8.0
SAY_AGAIN = 0.5
# Give a submit at least this long, even under a shorter --timeout: cutting it off leaves its outcome unknown.
SUBMIT_TIME = 5.0


def run(server: Dialect, prepared: Prepared, options: Options) -> Document:
    """Submit, follow to the end, download: the whole report. Raises SkillError when nothing ran.

    With `retry_oom`, a run that ended for memory is tried once more after the server's models and cache are freed,
    never one that costs credits.
    """
    report = _run_once(server, prepared, options)
    if report.get("code") != "out_of_memory":
        return report
    report["proposals"] = memory.proposals(prepared.graph, server)
    if not options.retry_oom or not _memory_freed(server, prepared):
        return report
    again = _run_once(server, prepared, options._replace(prompt_id=None))
    again["retried"] = {"after": "out_of_memory", "first_prompt_id": report["prompt_id"]}
    if again.get("code") == "out_of_memory":
        again["proposals"] = report["proposals"]
    return again


def _memory_freed(server: Dialect, prepared: Prepared) -> bool:
    """Free the server's memory for another try; False, after a warning, where that must not or cannot be done."""
    if prepared.partner:
        cli.warn("out of memory: not trying again, it would cost again")
        return False
    if server.api != "local":
        cli.warn("out of memory: not trying again, memory can be freed only on a ComfyUI server of your own")
        return False
    cli.warn("out of memory: freeing the server's models and cache, then trying once more")
    try:
        server.post_json("free", {"unload_models": True, "free_memory": True})
    except SkillError as error:
        # The run's failure matters more; a server that ran out of memory may have died.
        cli.warn(f"not trying again: the server's memory could not be freed: {error.message}")
        return False
    return True


def _run_once(server: Dialect, prepared: Prepared, options: Options) -> Document:
    job = _new_run(server, prepared, options)
    expected = times.estimate(server.url, prepared.graph)
    if expected is not None and expected.seconds >= LEAST_ESTIMATE:
        cli.note(f"{expected.as_text()}, from {expected.runs} earlier run(s)")
    report = _attend(job, partial(_submit_and_wait, job, _first_warning(expected, prepared.video)))
    if expected is not None:
        report["estimate"] = expected.to_json()
    cached = len(job.progress.cached)
    # A run that came wholly from the server's cache shows nothing about run times.
    computed = cached < len(prepared.graph)
    if job.state is not None and job.state.outcome == "success" and computed and not server.fleeting:
        seconds = float(report.get("execution_seconds") or report["seconds"])
        times.record(server.url, prepared.graph, seconds, partly=cached > 0)
        times.record_nodes(server.url, job.prompt_id, job.progress.node_seconds)
    return report


def _new_run(server: Dialect, prepared: Prepared, options: Options) -> Run:
    """A run that is ready to be submitted. Raises SkillError as `submit.checked_submission`."""
    submission = run_submit.checked_submission(server, prepared, options)
    return Run(
        server,
        submission.prompt_id,
        submission.graph,
        options,
        Watcher(server, submission.client_id, use_socket=options.use_socket, patience=options.patience),
        Progress(prepared.graph, quiet=options.quiet),
        submission=submission,
        prepared=prepared,
    )


def _first_warning(expected: times.Estimate | None, video: bool) -> float:
    """Seconds after which a running job gets a warning: more when it is expected to take long."""
    usual = LONG_VIDEO_RUN if video else LONG_RUN
    return usual if expected is None else max(usual, expected.high * 1.5)


def submit_only(server: Dialect, prepared: Prepared, options: Options) -> Document:
    """Submit and return at once: the report with the prompt id and the command that waits for it.

    If interrupted during the submit, report what happened to the job, as `run` does.
    """
    job = _new_run(server, prepared, options._replace(use_socket=False, quiet=True))
    if unheard := socket_nodes(prepared.graph):
        cli.warn(
            f"node {safe_text.name(unheard[0])} sends its pictures only through the socket, and --no-wait does not listen to it"
        )

    def steps() -> Document:
        accepted = _submit(job)
        return reports.submitted(server, accepted, prepared, options)

    return _attend(job, steps)


def resume(server: Dialect, prompt_id: str, options: Options) -> Document:
    """Wait for a job that any process submitted at any time, and download its results."""
    watcher = Watcher(server, uuid.uuid4().hex, use_socket=options.use_socket, patience=options.patience)
    job = Run(server, prompt_id, {}, options, watcher, Progress({}, quiet=options.quiet))
    return _attend(job, partial(_resumed, job))


def _resumed(job: Run) -> Document:
    timeout = job.options.timeout
    with transport.no_later_than(None if timeout is None else job.began + timeout):
        state = _first_state(job.server, job.prompt_id)
    job.began, job.accepted = time.monotonic(), Accepted(job.prompt_id)
    job.graph = state.graph or {}
    job.progress.learn(job.graph)
    if state.done:
        job.state = state
        return _report(job, state)
    job.watcher.open()
    job.watcher.watch(job.prompt_id, ours=False)
    state = _wait(job, LONG_RUN)
    job.graph = state.graph or job.graph
    return _report(job, state)


def _first_state(server: Dialect, prompt_id: str) -> JobState:
    """The job's state. One bad answer is not fatal: the watcher asks again."""
    try:
        return server.state(prompt_id)
    except SkillError as error:
        if error.exit != Exit.FAILED:
            raise
        return JobState(prompt_id, "pending")


def _attend(job: Run, steps: Callable[[], Document]) -> Document:
    """The report of these steps: the one place where Ctrl-C, SIGTERM and failures of a run are handled.

    Ctrl-C cancels the job (or leaves it, with `detach_on_interrupt`); a second Ctrl-C stops waiting for that.
    """
    try:
        try:
            return steps()
        except (KeyboardInterrupt, Terminated) as stop:
            return _stopped(job, stop)
    except SkillError as error:
        if job.ours and job.accepted is None and error.code != "submit_unknown":
            raise  # the server has no job of ours
        raise _in_context(job, error) from error
    finally:
        job.close()


def _in_context(job: Run, error: SkillError) -> SkillError:
    """The failure with what is known of the job: its id, the seeds of this run, and the command that returns to it."""
    known = reports.about(job.prepared)
    if error.code == "submit_unknown":
        # Repeating the submit could run the job twice; this shows whether the server has it.
        command = job.resume_command if job.server.own_ids else job.server.list_command()
        return error.but(next=error.next or [command], **known | error.details)
    returns = error.exit not in (Exit.REJECTED, Exit.MISUSE, Exit.UNREACHABLE)
    return error.but(
        next=error.next or ([job.resume_command] if returns else []),
        **known | error.details | {"prompt_id": error.details.get("prompt_id", job.prompt_id)},
    )


def _submit_and_wait(job: Run, warn_after: float) -> Document:
    job.watcher.open()
    _submit(job)
    return _report(job, _wait(job, warn_after))


def _submit(job: Run) -> Accepted:
    assert job.submission is not None
    job.submitting, job.began = True, time.monotonic()
    limit = None if job.options.timeout is None else job.began + max(job.options.timeout, SUBMIT_TIME)
    with transport.no_later_than(limit):
        accepted = run_submit.submit(job.server, job.submission)
    _accept(job, accepted)
    if accepted.node_errors and job.options.strict:
        job.server.cancel(job.prompt_id)
        raise reports.strict_rejection(job, accepted)
    return accepted


def _accept(job: Run, accepted: Accepted) -> None:
    """The job exists: report its id before anything else can happen, and wait for its events."""
    job.prompt_id, job.accepted = accepted.prompt_id, accepted
    # Also with --quiet: even kill -9 must not lose the id.
    cli.warn(f"prompt id {job.prompt_id}")
    if not job.server.fleeting:
        run_submit.remember(job.server.url, job.prompt_id)
    job.watcher.watch(job.prompt_id)


def _wait(job: Run, warn_after: float) -> JobState:
    """The job's last state. Raises SkillError `still_running` when the time is up."""
    timeout = job.options.timeout
    deadline = None if timeout is None else job.began + timeout
    with transport.no_later_than(deadline):
        while job.state is None:
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                raise job.left(_time_is_up(job), "still_running")
            if now - job.began > warn_after:
                progress = job.progress
                cli.warn(
                    f"still running after {warn_after / 60:.0f} min: {progress.doing} ({progress.share:.0%})"
                )
                warn_after *= 2
            _take_news(job, 1.0 if deadline is None else min(1.0, deadline - now))
    return job.state


def _time_is_up(job: Run) -> str:
    if job.ours or job.watcher.has_seen(job.prompt_id):
        return f"not finished after {job.options.timeout:g} s; the job is still running"
    return f"the server has reported nothing about this job for {job.options.timeout:g} s"


def _take_news(job: Run, wait: float) -> None:
    """Take what the watcher learns within `wait` seconds: events, pictures, and the job's end."""
    for item in job.watcher.updates(wait):
        if isinstance(item, Ended):
            if item.state.prompt_id == job.prompt_id:
                job.state = item.state
        elif item.prompt_id == job.prompt_id:
            _take_update(job, item)
            job.progress.on(item.frame)


def _take_update(job: Run, update: Update) -> None:
    frame = update.frame
    if isinstance(frame, events.Event) and frame.blocks:
        job.blocked.append(frame)
    if not isinstance(frame, events.Preview):
        return
    if sends_through_socket(job.graph, frame.node):
        job.socket_images.append((frame.node or "", frame))
    elif job.options.save_previews is not None and job.keeps_previews:
        try:
            job.previews.append(_save_preview(job, frame, job.options.save_previews))
        except SkillError as error:
            # A full disk: do not lose the job because of its previews.
            job.keeps_previews = False
            cli.warn(f"previews are no longer saved: {error.message}")


def _save_preview(job: Run, frame: events.Preview, folder: Path) -> Path:
    name = f"{job.prompt_id[:8]}_node{frame.node or 'x'}_{len(job.previews):04d}{frame.suffix}"
    path = folder / file_names.safe_name(name)
    # By rename, since a link of that name could be there.
    file_names.write_whole(path, frame.image)
    return path


def _report(job: Run, state: JobState) -> Document:
    job.close()
    return reports.finished(job, state)


def _stopped(job: Run, stop: BaseException) -> Document:
    """After Ctrl-C or SIGTERM: cancel the job and report what it made, or raise the error that says how to return to it."""
    signal, code = ("terminated", "still_running") if isinstance(stop, Terminated) else ("interrupted",) * 2
    if job.state is not None:
        raise job.left(
            f"{signal} while downloading its results; the job itself has finished", code, FETCH_HINT
        )
    with transport.no_later_than(time.monotonic() + CANCEL_PATIENCE):
        if not _exists(job):
            raise stop
        if isinstance(stop, Terminated):
            raise job.left("terminated by a signal; the job is still running", code)
        if job.options.detach_on_interrupt or not job.ours:
            raise job.left("interrupted; the job is still running", code)
        job.state = _cancel(job)
    try:
        return _report(job, job.state)
    except (KeyboardInterrupt, Terminated) as second:
        return _stopped(job, second)


def _exists(job: Run) -> bool:
    """Whether the server has the job. After a submit that was cut off, look for it: no other command knows about it."""
    if job.accepted is not None:
        return True
    if not job.submitting:
        return False
    found = _find_submitted(job)
    if found is not None:
        _accept(job, Accepted(found))
    return found is not None


def _find_submitted(job: Run) -> str | None:
    """The id of a job whose submit was cut off; where the server chooses the id, it is listed only a moment later."""
    assert job.submission is not None
    for pause in (0.0,) if job.server.own_ids else (0.0, 0.5, 1.0, 1.5):
        time.sleep(pause)
        try:
            found = job.server.find_submitted(job.submission)
        except SkillError as error:
            raise _perhaps_submitted(job, error) from error
        if found is not None:
            return found
    return None


def _perhaps_submitted(job: Run, error: SkillError) -> SkillError:
    """Stopped during the submit, and the server does not answer: the job may be running."""
    own_id = job.prompt_id if job.server.own_ids else None
    what = f"look for prompt id {own_id}" if own_id else "check its newest jobs"
    return SkillError(
        "stopped during the submit; the server does not answer, so it is not known whether it has the job",
        code="submit_unknown",
        exit=Exit.RUNNING,
        hint=f"when the server is back, {what} before running again",
        prompt_id=own_id,
        server_said=error.message,
    )


def _cancel(job: Run) -> JobState:
    """Stop this job and no other, then wait a little for its end, so that what is finished can be downloaded."""
    cli.warn("stopping the job (Ctrl-C again to stop waiting)")
    job.interrupted = True
    cancelled = False
    try:
        job.server.cancel(job.prompt_id)
        cancelled = True
        return _await_cancelled(job)
    except KeyboardInterrupt:
        if cancelled:
            return JobState(job.prompt_id, "running")
        message = "interrupted again before the job was cancelled: it may still be running"
        raise job.left(message, "interrupted") from None
    except Terminated:
        raise job.left("terminated while cancelling the job", "still_running") from None
    except SkillError as error:
        raise SkillError(
            "interrupted, but the job could not be stopped: it may still be running",
            code="interrupted",
            status="cancelled",
            prompt_id=job.prompt_id,
            hint=error.message,
            next=[job.resume_command, job.server.cancel_command([job.prompt_id])],
        ) from error


def _await_cancelled(job: Run) -> JobState:
    give_up = time.monotonic() + transport.time_left(CANCEL_PATIENCE)
    state = job.server.state(job.prompt_id)
    # A job that was still waiting leaves no trace when it is taken out of the queue.
    if state.phase == "unknown" or (state.done and not job.watcher.watching):
        return state
    say_again = time.monotonic() + SAY_AGAIN
    while time.monotonic() < give_up:
        _take_news(job, 0.2)
        if job.state is not None:
            return job.state
        if time.monotonic() >= say_again:
            # An interrupt that comes just before a run's first node is forgotten by the server.
            job.server.cancel(job.prompt_id)
            say_again += SAY_AGAIN
    return JobState(job.prompt_id, "running")
