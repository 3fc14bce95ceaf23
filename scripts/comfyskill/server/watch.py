"""Watching jobs to their end: the WebSocket first, polling when there is none, both cross-checked.

One watcher per server follows any number of jobs without a thread. The server's own records decide how a
job ended; events only say when to look. Run, batch, monitor and wait all use this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from comfyskill.base import cli, foreign, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.server import events, transport
from comfyskill.server.protocol import Dialect, JobState, seconds
from comfyskill.server.socket import Disconnected, Wire

if TYPE_CHECKING:
    from comfyskill.server.socket import EventStream

# One question about a job waits this long for an answer; it is repeated while the patience lasts.
QUESTION_TIME = 10.0
# Even a short patience lets the server answer one question.
LEAST_QUESTION_TIME = 5.0
# A handshake that is not answered within this time costs the live progress, not the job.
SOCKET_PATIENCE = 5.0
# A socket that has worked before and now swallows the handshake is tried again this late.
MUTE_PAUSE = 30.0
QUIET_BEFORE_PING = 5.0
PING_PATIENCE = 5.0
# `executing null` follows the end within a millisecond and says that the history is written.
HISTORY_LAG = 0.15
# After the end event the history must appear; when it never does (someone cleared it) the events must do.
HISTORY_PATIENCE = 10.0
RECONNECT_PAUSES = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
# A socket that opens but never sends the greeting is useless.
GREETING_PATIENCE = 3.0
TICK = 0.5
MOST_NEWS = 64  # at a time, so that a flood of frames does not keep its reader waiting
SLOWEST_REOPENING = 15.0
FIRST_CHECK = 1.0
# A job that was seen waiting, on a server that has not restarted: no trace means removed.
REMOVED_GRACE = 0.5
# What a server-sent event becomes (see `socket`).
STREAM_EVENTS = frozenset({"job_progress", "job_status", "job_output"})


class Ended(NamedTuple):
    """A job has ended (or has no trace): its last state, with outputs of the events merged in."""

    state: JobState


class Update(NamedTuple):
    """Something about one watched job: an event, a preview, a text."""

    prompt_id: str
    frame: events.Event | events.Preview | events.Text


class _Watched:
    """What the watcher knows of one job."""

    def __init__(self, prompt_id: str, ours: bool, seen: float, interval: float) -> None:
        self.prompt_id = prompt_id
        self.ours = ours
        self.seen = seen
        self.interval = interval
        self.check_at = 0.0
        self.phase = "submitted"
        self.end_event: events.Event | None = None
        self.end_seen = 0.0
        self.unknown_since: float | None = None
        self.outputs: dict[str, Mapping[str, object]] = {}
        # With results of these nodes over an unbroken socket no record is needed.
        self.suffices: frozenset[str] = frozenset()
        self.started: float | None = None

    def take(self, event: events.Event, now: float) -> None:
        """Note what an event of its run says."""
        self.seen, self.phase = now, "running"
        if event.type == "execution_start":
            self.started = seconds(event.data.get("timestamp"))
        output = events.output_of(event) if event.type == "executed" else None
        if output is not None and event.node is not None:
            self.outputs[event.node] = output
        if event.end is not None:
            self.end_event, self.end_seen = event, now

    @property
    def succeeded(self) -> bool:
        """Whether the events alone show that it succeeded, with the results of all nodes that matter."""
        return (
            bool(self.suffices)
            and self.outputs.keys() >= self.suffices
            and self.end_event is not None
            and self.end_event.end == "success"
        )

    def last_state(self) -> JobState:
        """The end as the events reported it, for a job whose record was deleted before it could be read."""
        assert self.end_event is not None
        outcome = self.end_event.end
        return JobState(
            self.prompt_id,
            "done",
            outcome,
            outputs=self.outputs,
            error=self.end_event.data if outcome != "success" else None,
            started=self.started,
            ended=seconds(self.end_event.data.get("timestamp")),
        )


class _Connection:
    """The WebSocket of one watcher, opened again after it broke. `usable`: it is worth trying."""

    def __init__(self, server: Dialect, client_id: str, *, wanted: bool) -> None:
        self.usable = wanted and server.has_socket
        self.wire: Wire | None = None
        self.retry_at = 0.0
        self._server = server
        self._client_id = client_id
        self._failures = 0
        self._greeted = False  # the socket has worked at least once

    def open(self) -> events.Event | None:
        """Connect; the first `status` frame, which shows that this socket is the one the server sends to.

        None where the server sends none and need not. Raises Disconnected.
        """
        try:
            with transport.no_later_than(time.monotonic() + SOCKET_PATIENCE):
                self.wire = Wire(self._server, self._client_id)
            greeting = self._await_greeting(self.wire)
        except Disconnected:
            self.close()
            raise
        self._greeted = self._greeted or greeting is not None
        self._failures = 0
        return greeting

    def _await_greeting(self, wire: Wire) -> events.Event | None:
        give_up = time.monotonic() + transport.time_left(GREETING_PATIENCE)
        while True:
            frame = wire.receive(max(give_up - time.monotonic(), 0.001))
            if isinstance(frame, events.Event):
                return frame
            if time.monotonic() >= give_up:
                if self._server.client_frames:
                    raise Disconnected("the socket opened but sends nothing", mute=True)
                return None

    def note_loss(self, error: Disconnected) -> None:
        """It worked and broke: try again soon."""
        self.close()
        self.usable = not error.mute
        self._failures = 0
        self.retry_at = time.monotonic() + RECONNECT_PAUSES[0]

    def note_failure(self, error: Disconnected) -> None:
        """It did not open again: try later, or never where the server has no socket."""
        pause = RECONNECT_PAUSES[min(self._failures, len(RECONNECT_PAUSES) - 1)]
        self._failures += 1
        self.retry_at = time.monotonic() + (MUTE_PAUSE if error.mute else pause)
        if (error.mute and not self._greeted) or error.status in (400, 404, 405, 501):
            self.usable = False

    @property
    def due(self) -> bool:
        """Whether it is closed and should be opened now."""
        return self.wire is None and self.usable and time.monotonic() >= self.retry_at

    def close(self) -> None:
        """Close the socket."""
        if self.wire is not None:
            self.wire.close()
            self.wire = None


class _Outage:
    """How long a server has been out of reach, and when to give up. `answered`: it has been heard before."""

    def __init__(self, patience: float, *, answered: bool) -> None:
        self.patience = patience
        self.answered = answered
        self._since: float | None = None

    def end(self) -> None:
        """The server has answered."""
        self._since = None
        self.answered = True

    def limit(self, now: float) -> float | None:
        """Until when a question may wait for an unreachable server; None while it answers."""
        return None if self._since is None else max(self._since + self.patience, now + LEAST_QUESTION_TIME)

    def note(self, error: SkillError, prompt_id: str, began: float) -> None:
        """A question about a job, asked at `began`, has failed. Raises SkillError when that ends the wait.

        A refusal or an invalid id ends it at once; anything else may be temporary.
        """
        if error.exit in (cli.Exit.REFUSED, cli.Exit.MISUSE):
            error.details.setdefault("prompt_id", prompt_id)
            raise error
        if error.exit == cli.Exit.UNREACHABLE and not self.answered:
            raise error
        if self._since is None:
            self._since = began
        away = time.monotonic() - self._since
        if away > self.patience:
            raise SkillError(
                f"the server has been unreachable for {away:.0f} s; the job's outcome is not known",
                code="server_gone",
                status="lost",
                hint="when the server is back, look up the job by its prompt id before running it again",
                prompt_id=prompt_id,
                away_seconds=round(away, 1),
                server_said=safe_text.clean(error, 300),
            ) from error


class _JobStream:
    """The event stream of one job, for servers without a socket, opened again at most as often as the server allows.

    Streams cost a thread here and a scarce place there (comfy-api-proxy allows eight), so the jobs of a batch are
    polled, and a job that ends before its record is first read needs no reading.
    """

    def __init__(self, server: Dialect, *, wanted: bool) -> None:
        self.stream: EventStream | None = None
        self._server = server
        self._open_at: float | None = 0.0 if wanted else None
        self._ends = 0

    def tend(self, watched: Mapping[str, _Watched]) -> None:
        """Open a stream when a single job is followed and its time has come; close one whose job is not followed."""
        if self.stream is not None:
            if self.stream.prompt_id not in watched:
                self.close()
            return
        if self._open_at is None or len(watched) != 1 or time.monotonic() < self._open_at:
            return
        job = next(iter(watched.values()))
        if job.phase in ("pending", "running"):
            from comfyskill.server.socket import EventStream

            self.stream = EventStream(job.prompt_id, lambda: self._server.open_events(job.prompt_id))

    def note_end(self, again: float | None) -> None:
        """The stream is over. A server that ends every stream at once is not asked ten times a second."""
        self.stream = None
        pause = None if again is None else min(again * 2**self._ends, SLOWEST_REOPENING)
        self._open_at = None if pause is None else time.monotonic() + pause
        self._ends = min(self._ends + 1, 10)

    def close(self) -> None:
        """Stop reading it."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None


class Watcher:
    """Follows jobs on one server.

    `client_id` is the socket's own; frames of a run go to the client that submitted it. `patience`: seconds that
    the server may be out of reach before SkillError `server_gone` is raised, counted from the start of the first
    request that got no answer.
    """

    def __init__(
        self,
        server: Dialect,
        client_id: str,
        *,
        use_socket: bool = True,
        patience: float = 60.0,
        answered: bool = True,
    ) -> None:
        """`answered`: the server has been heard before, so that one that is away now is waited for."""
        self.server = server
        self.client_id = client_id
        self.patience = patience
        server.question_timeout = min(QUESTION_TIME, max(patience, LEAST_QUESTION_TIME))
        self.restarts_possible = False  # the connection was lost at least once
        self.queue_remaining: int | None = None
        self.missed_frames = not (use_socket and server.has_socket)
        self.tap: Callable[[events.Frame], None] | None = None  # sees every frame, also those of other jobs
        self._connection = _Connection(server, client_id, wanted=use_socket)
        self._job_stream = _JobStream(server, wanted=use_socket)
        self._outage = _Outage(patience, answered=answered)
        self._watched: dict[str, _Watched] = {}
        self._current: str | None = None
        self._current_node: str | None = None

    @property
    def live(self) -> bool:
        """Whether a socket is open now."""
        return self._connection.wire is not None

    def open(self) -> None:
        """Connect and wait for the greeting, so that nothing can be missed. Falls back to polling with a warning."""
        if not self._connection.usable:
            return
        try:
            self._take_greeting(self._connection.open())
        except Disconnected as error:
            self.missed_frames = True
            if error.mute or error.status in (400, 401, 403, 404, 405, 501):
                self._connection.usable = False
                # A second watcher of this command need not detect it again.
                self.server.has_socket = False
            cli.warn(f"no live progress: {error}; polling instead")

    def _take_greeting(self, greeting: events.Event | None) -> None:
        if greeting is None:
            return
        self._outage.answered = True
        self._note_queue(greeting)
        if self.tap is not None:
            self.tap(greeting)

    def close(self) -> None:
        """Close the socket; the jobs keep running."""
        self._connection.close()
        self._job_stream.close()

    def watch(self, prompt_id: str, *, ours: bool = True, output_nodes: frozenset[str] = frozenset()) -> None:
        """Follow a job from now on. `ours`: submitted under this watcher's client id, so that its frames come here.

        `output_nodes`: when all of these report a result and the run ends well, over a socket that was never broken
        since before the submit, then that is trusted without reading the record. A batch of short jobs would
        otherwise spend a third of its requests on records that say the same.
        """
        now = time.monotonic()
        watched = _Watched(prompt_id, ours, seen=now, interval=self.server.first_poll)
        if self.live and ours and self.server.client_frames:
            watched.suffices = output_nodes
        # With a socket, the first check only reports that the job waits, if no event has come by then.
        watched.check_at = now + FIRST_CHECK if self.live and ours else now
        self._watched[prompt_id] = watched

    def has_seen(self, prompt_id: str) -> bool:
        """Whether the server has shown a followed job since: waiting or running."""
        return prompt_id in self._watched and self._watched[prompt_id].phase != "submitted"

    def forget(self, prompt_id: str) -> None:
        """Stop following a job."""
        self._watched.pop(prompt_id, None)

    @property
    def watching(self) -> list[str]:
        """The prompt ids still followed, in the order they were added."""
        return list(self._watched)

    def updates(self, timeout: float) -> list[Update | Ended]:
        """What has happened: returns as soon as there is something, or with an empty list after `timeout` seconds.

        An ended job is reported once and then forgotten. Raises SkillError: `server_gone` when the server stays
        away, `refused` as soon as it no longer accepts our key.
        """
        deadline = time.monotonic() + timeout
        news: list[Update | Ended] = []
        while True:
            if not self.live and not self._connection.usable:
                self._job_stream.tend(self._watched)
            frame = self._next_frame(min(deadline, self._next_due()) - time.monotonic())
            while frame is not None:
                news += self._take(frame)
                wire = self._connection.wire
                buffered = wire is not None and wire.has_more and len(news) < MOST_NEWS
                frame = self._next_frame(0.0) if buffered else None
            news += self._check_due()
            if news or time.monotonic() >= deadline:
                return news

    def _next_due(self) -> float:
        now = time.monotonic()
        due = min((watched.check_at for watched in self._watched.values()), default=now + TICK)
        if self._connection.usable and not self.live:
            due = min(due, self._connection.retry_at)
        return min(due, now + TICK)

    def _next_frame(self, wait: float) -> events.Frame | None:
        if self._connection.due:
            self._reconnect()
        wire = self._connection.wire
        if wire is None:
            return self._next_from_stream(wait)
        try:
            frame = wire.receive(max(wait, 0.0))
            wire.keep_alive(QUIET_BEFORE_PING, PING_PATIENCE)
            return frame
        except Disconnected as error:
            self._lost_connection(error)
            return None

    def _next_from_stream(self, wait: float) -> events.Frame | None:
        """An event of the one streamed job, or None after `wait` seconds; at the stream's end its record is due."""
        if self._job_stream.stream is None:
            if wait > 0:
                time.sleep(wait)
            return None
        from comfyskill.server.socket import StreamEnded

        try:
            return self._job_stream.stream.receive(wait)
        except StreamEnded as ended:
            self._job_stream.note_end(ended.again)
            self._check_all_now()
            return None

    def _lost_connection(self, error: Disconnected) -> None:
        self._connection.note_loss(error)
        self.server.renew_connections()
        self.restarts_possible = self.missed_frames = True
        for watched in self._watched.values():
            watched.suffices = frozenset()
        cli.note(f"connection lost ({error}); {'polling instead' if error.mute else 'reconnecting'}")
        self._check_all_now()

    def _reconnect(self) -> None:
        """Try once; the records are read right after, since missed frames are not repeated."""
        try:
            self._take_greeting(self._connection.open())
        except Disconnected as error:
            self._connection.note_failure(error)
            return
        cli.note("connected again")
        self._check_all_now()

    def _check_all_now(self) -> None:
        for watched in self._watched.values():
            watched.check_at, watched.interval = time.monotonic(), self.server.first_poll

    def _take(self, frame: events.Frame) -> list[Update | Ended]:
        """What a frame means for the watched jobs."""
        if self.tap is not None:
            self.tap(frame)
        if isinstance(frame, events.Malformed):
            return []
        if isinstance(frame, events.Event):
            return self._take_event(frame)
        owner = getattr(frame, "prompt_id", None) or self._current
        if owner not in self._watched:
            return []
        self._watched[owner].seen = time.monotonic()
        if isinstance(frame, events.Preview) and frame.node is None:
            frame = frame._replace(node=self._current_node)
        return [Update(owner, frame)]

    def _take_event(self, event: events.Event) -> list[Update | Ended]:
        general = self._GENERAL.get(event.type)
        if general is not None:
            general(self, event)
        watched = self._watched.get(event.prompt_id or "")
        if watched is None:
            return []
        if event.type in STREAM_EVENTS:
            return self._take_stream_event(watched, event)
        now = time.monotonic()
        watched.take(event, now)
        watched.check_at = now + self.server.cross_check
        last = event.type == "executing" and event.node is None
        if last and watched.succeeded:
            return [Update(watched.prompt_id, event), self._end(watched, watched.last_state())]
        if watched.end_event is not None:
            watched.interval = 0.02
            watched.check_at = now if last else now + HISTORY_LAG
        elif last:
            # The end's own frame was lost on the way; the record knows how it ended.
            watched.check_at = now
        return [Update(watched.prompt_id, event)]

    def _take_stream_event(self, watched: _Watched, event: events.Event) -> list[Update | Ended]:
        """An event of an event stream: it reports progress, and when to read the record."""
        watched.seen = time.monotonic()
        if event.type == "job_progress":
            watched.phase = "running"
        else:
            watched.check_at, watched.interval = watched.seen, self.server.first_poll
        return [Update(watched.prompt_id, event)]

    def _queue_changed(self, event: events.Event) -> None:
        self._note_queue(event)
        self._look_at_others()

    def _note_current(self, event: events.Event) -> None:
        """Which run and node the frames without an id belong to.

        After a reconnect `executing` comes without a prompt id: it is the run that was current. `progress` is all that
        is broadcast of a run without a client id; the preview that follows belongs to it.
        """
        self._current, self._current_node = event.prompt_id or self._current, event.node

    # What an event means whether or not its job is followed.
    _GENERAL = {
        "status": _queue_changed,
        "execution_start": _note_current,
        "executing": _note_current,
        "progress": _note_current,
    }

    def _note_queue(self, event: events.Event) -> None:
        info = foreign.mapping(foreign.mapping(event.data.get("status")).get("exec_info"))
        remaining = foreign.whole(info.get("queue_remaining"))
        if remaining is not None:
            self.queue_remaining = remaining

    def _look_at_others(self) -> None:
        """The queue has changed: a job whose frames do not come here may have ended or been removed."""
        now = time.monotonic()
        for watched in self._watched.values():
            if not watched.ours or watched.phase != "running":
                pause = 0.05 if not watched.ours else 1.0
                watched.check_at = min(watched.check_at, max(now + 0.02, watched.seen + pause))
                watched.interval = self.server.first_poll

    def _check_due(self) -> list[Update | Ended]:
        """Ask the server about the jobs whose time has come."""
        now = time.monotonic()
        due = [watched for watched in self._watched.values() if watched.check_at <= now]
        news: list[Update | Ended] = []
        for watched in due:
            state = self._ask(watched)
            if state is not None:
                news += self._weigh(watched, state)
        return news

    def _ask(self, watched: _Watched) -> JobState | None:
        began = time.monotonic()
        try:
            with transport.no_later_than(self._outage.limit(began)):
                state = self.server.state(watched.prompt_id)
        except SkillError as error:
            self._schedule(watched)
            self._outage.note(error, watched.prompt_id, began)
            self.restarts_possible = True
            return None
        self._outage.end()
        return state

    def _schedule(self, watched: _Watched) -> None:
        """When to check again: soon while an end is due or there is no socket, else rarely."""
        settled = self.live and watched.ours and watched.end_event is None and watched.unknown_since is None
        slowest = self.server.cross_check if settled else self.server.slowest_poll
        watched.interval = slowest if settled else min(watched.interval * 1.5, slowest)
        watched.check_at = time.monotonic() + watched.interval

    def _weigh(self, watched: _Watched, state: JobState) -> list[Update | Ended]:
        now = time.monotonic()
        watched.seen = now
        if state.done:
            return [self._end(watched, state)]
        if watched.end_event is not None and now - watched.end_seen > HISTORY_PATIENCE:
            return [self._end(watched, watched.last_state())]
        if state.assumed and watched.unknown_since is None:
            watched.unknown_since, watched.interval = now, self.server.first_poll
        if state.assumed:
            self._schedule(watched)
            return []
        if state.phase == "unknown" and watched.end_event is None:
            return self._weigh_unknown(watched, state)
        watched.unknown_since = None
        if state.phase != watched.phase and state.phase in ("pending", "running"):
            watched.phase, watched.interval = state.phase, self.server.first_poll
        self._schedule(watched)
        if state.progress and self._job_stream.stream is None:
            return [
                Update(
                    watched.prompt_id, events.Event("job_progress", watched.prompt_id, data=state.progress)
                )
            ]
        if state.phase == "pending":
            place = {"position": state.position, "queue_remaining": self.queue_remaining}
            return [Update(watched.prompt_id, events.Event("job_pending", watched.prompt_id, data=place))]
        return []

    def _weigh_unknown(self, watched: _Watched, state: JobState) -> list[Update | Ended]:
        """No trace of it: wait for the grace, then decide whether it was removed or the server forgot everything."""
        now = time.monotonic()
        if watched.unknown_since is None:
            watched.unknown_since, watched.interval = now, self.server.first_poll
        certain = self.server.removal_leaves_no_trace or bool(state.server_status)
        removed = watched.phase == "pending" and not self.restarts_possible and certain
        if now - watched.unknown_since < (
            min(REMOVED_GRACE, self.server.grace) if removed else self.server.grace
        ):
            self._schedule(watched)
            return []
        if removed:
            return [self._end(watched, state._replace(phase="done", outcome="cancelled"))]
        return [self._end(watched, state)]

    def _end(self, watched: _Watched, state: JobState) -> Ended:
        self.forget(watched.prompt_id)
        return Ended(state._replace(outputs={**watched.outputs, **state.outputs}))
