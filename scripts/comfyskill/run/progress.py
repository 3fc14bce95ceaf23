"""Progress of one run on stderr: a bar on a terminal, one line per change elsewhere.

It only listens; nothing depends on what it shows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from comfyskill.base import cli, foreign, safe_text
from comfyskill.server import events
from comfyskill.server.protocol import Graph

LINE_PAUSE = 2.0
WAITING = "waiting to start"
BAR = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed}{postfix}"


class Progress:
    """Counts a run's nodes and steps. `share` is the part done, 0 to 1; `doing` says what runs now."""

    def __init__(self, graph: Graph, *, quiet: bool = False) -> None:
        self.started = time.monotonic()
        self.total = max(len(graph), 1)
        self.doing = WAITING
        self.cached: set[str] = set()
        self.node_seconds: dict[str, float] = {}
        self._names = {str(node_id): _name(node) for node_id, node in graph.items()}
        self._done: set[str] = set()
        self._finished = 0  # nodes done by the server's own count, if it reports one
        self._node: str | None = None
        self._own_frames = False  # `executing` frames come here
        self._node_since = self.started
        self._step = (0.0, 0.0)
        self._quiet = quiet
        self._bar: Any = None
        self._last_line = 0.0
        self._terminal = not quiet and sys.stderr.isatty()

    @property
    def share(self) -> float:
        """The part of the run that is done, by nodes and the running node's steps."""
        value, most = self._step
        within = min(value / most, 1.0) if most > 0 and self._node is not None else 0.0
        done = max(len((self._done | self.cached) & self._names.keys()), min(self._finished, self.total))
        # Nodes that expand into others are counted as they come; only the end itself is 100 %.
        return min((done + within) / self.total, 0.99)

    @property
    def step(self) -> tuple[float, float]:
        """The running node's step and its number of steps; (0, 0) when it reports none."""
        return self._step

    def learn(self, graph: Graph) -> None:
        """Set the graph when it becomes known only later."""
        self.total = max(len(graph), 1)
        self._names = {str(node_id): _name(node) for node_id, node in graph.items()}

    @property
    def elapsed(self) -> float:
        """Seconds since the run was submitted."""
        return time.monotonic() - self.started

    def on(self, frame: object) -> None:
        """Take one event of the run."""
        if not isinstance(frame, events.Event):
            return
        handle = {
            "execution_start": self._on_start,
            "execution_cached": self._on_cached,
            "executing": self._on_executing,
            "progress": self._on_progress,
            "progress_state": self._on_progress_state,
            "job_pending": self._on_pending,
            "job_progress": self._on_job_progress,
        }.get(frame.type)
        if handle is not None:
            handle(frame)

    def _on_start(self, _event: events.Event) -> None:
        self._node_since = time.monotonic()
        self._say("started", "running")

    def _on_cached(self, event: events.Event) -> None:
        self.cached |= set(events.cached_nodes(event))
        if self.cached:
            self._say(f"{len(self.cached)} of {self.total} nodes cached", self.doing)

    def _on_executing(self, event: events.Event) -> None:
        now = time.monotonic()
        if not self._own_frames:
            self._own_frames, self._node = True, None
        if self._node is not None:
            self._done.add(self._node)
            self.node_seconds[self._node] = self.node_seconds.get(self._node, 0.0) + now - self._node_since
        display = event.data.get("display_node")
        self._node, self._node_since, self._step = event.node, now, (0.0, 0.0)
        if event.node is not None:
            name = (
                self._names.get(str(display or event.node))
                or self._names.get(event.node)
                or f"node {safe_text.name(event.node)}"
            )
            count = min(len((self._done | self.cached) & self._names.keys()) + 1, self.total)
            self._say(f"[{count}/{self.total}] {name}", name)

    def _on_progress(self, event: events.Event) -> None:
        self._take_step(events.number(event.data.get("value")), events.number(event.data.get("max")))

    def _on_progress_state(self, event: events.Event) -> None:
        nodes = events.progress_nodes(event)
        self._done |= {
            node for node, state in nodes.items() if state.get("state") == "finished"
        } & self._names.keys()
        if not self._own_frames and not self._is_running(nodes, self._node):
            # For another client's run only these are broadcast, so only they show the running node.
            self._node = next((node for node in nodes if self._is_running(nodes, node)), self._node)
        running = nodes.get(self._node or "")
        if running is not None and events.number(running.get("max")) > 1:
            self._take_step(events.number(running.get("value")), events.number(running.get("max")))

    @staticmethod
    def _is_running(nodes: Mapping[str, Mapping[str, object]], node: str | None) -> bool:
        return node is not None and node in nodes and nodes[node].get("state") == "running"

    def _take_step(self, value: float, most: float) -> None:
        if (value, most) == self._step or most <= 0:
            return
        self._step = (value, most)
        name = self._names.get(self._node or "", "") or "working"
        self.doing = f"{name}, step {value:g} of {most:g}"
        now = time.monotonic()
        if self._terminal:
            self._draw()
        elif now - self._last_line >= LINE_PAUSE:
            self._line(self.doing)

    def _on_pending(self, event: events.Event) -> None:
        position, remaining = event.data.get("position"), event.data.get("queue_remaining")
        where = f", place {position}" if position else f" ({remaining} jobs in it)" if remaining else ""
        doing = f"waiting in the queue{where}"
        if doing != self.doing:
            self._say(doing, doing)

    def _on_job_progress(self, event: events.Event) -> None:
        """A snapshot from a server that reports whole-job progress."""
        node = event.data.get("current_node")
        # Take the number of nodes from our graph: comfy-api-proxy counts only those that it has seen.
        self._finished = max(self._finished, int(events.number(event.data.get("nodes_done"))))
        if node is not None and str(node) != self._node:
            if self._node is not None:
                self._done.add(self._node)
            self._node, self._step = str(node), (0.0, 0.0)
            name = self._names.get(self._node) or f"node {safe_text.name(node)}"
            self._say(name, name)
        self._take_step(events.number(event.data.get("step")), events.number(event.data.get("steps")))

    def _say(self, line: str, doing: str) -> None:
        self.doing = doing
        if self._terminal:
            self._draw()
        else:
            self._line(line)

    def _line(self, line: str) -> None:
        self._last_line = time.monotonic()
        if not self._quiet:
            cli.note(f"{self.share:4.0%} {self.elapsed:6.1f} s  {line}")

    def _draw(self) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=100, bar_format=BAR, leave=False, file=sys.stderr, dynamic_ncols=True)
        self._bar.n = round(self.share * 100)
        self._bar.set_description_str(safe_text.redact(safe_text.clean(self.doing, 60)), refresh=False)
        self._bar.update(0)
        self._bar.refresh()

    def close(self) -> None:
        """Leave the terminal clean."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _name(node: object) -> str:
    known = foreign.mapping(node)
    title = foreign.text(foreign.mapping(known.get("_meta")).get("title"))
    class_type = str(known.get("class_type") or "")
    if title and title != class_type:
        return f"{safe_text.quoted(title)} ({safe_text.name(class_type)})"
    return safe_text.name(class_type)
