"""The queue, the worker that empties it, the history, and the cache of node results."""

from __future__ import annotations

import asyncio
import heapq
import random
import string
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from comfyskill.base.cli import Document
from comfyskill.demo.definitions import Definitions
from comfyskill.demo.execution import Execution
from comfyskill.demo.folders import Folders
from comfyskill.demo.graph import Graph
from comfyskill.demo.item import Cache, Item, Outcome, now_ms
from comfyskill.demo.node_table import implementation
from comfyskill.demo.options import Options
from comfyskill.demo.sockets import Hub
from comfyskill.demo.validation import Unhandled

LOG_LINES = 300


class Engine:
    """Runs prompts one after the other (on the cloud: several at once)."""

    execution_class = Execution

    def __init__(self, options: Options, folders: Folders, definitions: Definitions, hub: Hub) -> None:
        self.options = options
        self.folders = folders
        self.definitions = definitions
        self.hub = hub
        self.pending: list[Item] = []
        self.running: dict[int, Item] = {}
        self.executing: dict[int, Execution] = {}
        self.history: dict[str, Document] = {}
        self.caches: list[Cache] = []
        self.number = 0
        self.more = asyncio.Event()
        self.free_memory = False
        self.letters: dict[tuple[str, str], str] = {}
        self.log: deque[dict[str, str]] = deque(maxlen=LOG_LINES)
        self.on_change: Callable[[str, Item, str], None] = lambda _event, _item, _status: None
        self.dress: Callable[[Mapping[str, list[Any]] | None], Mapping[str, list[Any]] | None] = lambda ui: ui
        hub.queue_length = self.remaining
        hub.running_node = self.running_node

    # the queue

    def remaining(self) -> int:
        return len(self.pending) + len(self.running)

    def take_number(self) -> int:
        number, self.number = self.number, self.number + 1
        return number

    def put(self, item: Item) -> None:
        """Queue an item. Raises Unhandled (after queueing) when number and id equal those of a waiting one."""
        twin = any(
            other.prompt_id == item.prompt_id and other.number == item.number for other in self._near(item)
        )
        heapq.heappush(self.pending, item)
        if twin:
            self.more.set()
            raise Unhandled("two items with the same number and id")
        self.hub.send_status()
        self.more.set()

    def _near(self, item: Item) -> list[Item]:
        # Only numbers that clients choose can be equal.
        return self.pending if isinstance(item.number, float) else []

    def clear_pending(self) -> None:
        for item in self.pending:
            self.on_change("removed", item, "")
        self.pending.clear()
        self.hub.send_status()

    def delete_pending(self, prompt_id: Any) -> bool:
        """Remove one waiting item of this id."""
        for index, item in enumerate(self.pending):
            if item.prompt_id != prompt_id:
                continue
            if len(self.pending) == 1:
                self.clear_pending()
            else:
                del self.pending[index]
                heapq.heapify(self.pending)
                self.on_change("removed", item, "")
            self.hub.send_status()
            return True
        return False

    def cancel(self, prompt_id: str) -> bool:
        """Stop the run of this id, or remove it from the queue; False when it is neither."""
        return self.interrupt(prompt_id) or self.delete_pending(prompt_id)

    def interrupt(self, prompt_id: str | None = None) -> bool:
        """Stop all runs, or the run of this id, at the next step."""
        hit = [item for item in self.running.values() if prompt_id is None or item.prompt_id == prompt_id]
        for item in hit:
            item.stop = True
        return bool(hit)

    def running_node(self, sid: str) -> str | None:
        """The node that runs now for this client, sent when it reconnects."""
        for run in self.executing.values():
            if run.client_id == sid and run.current is not None:
                return run.current
        return None

    # helpers of a run

    def changed(self, graph: Graph) -> Callable[[str], Any]:
        """What changes a node's result besides its inputs (a changed file, a counter)."""

        def answer(node_id: str) -> Any:
            player = implementation(graph.nodes[node_id]["class_type"])
            if player is None or player.changes is None:
                return None
            return player.changes(graph.nodes[node_id].get("inputs", {}), self.folders)

        return answer

    def keep_letters(self, prompt: Mapping[str, Any]) -> None:
        """Node instances live as long as each prompt names them again; temp file names follow the instance."""
        wanted = {(node_id, node.get("class_type")) for node_id, node in prompt.items()}
        self.letters = {key: value for key, value in self.letters.items() if key in wanted}

    def temp_letters(self, node_id: str, class_name: str) -> str:
        key = (node_id, class_name)
        if key not in self.letters:
            self.letters[key] = "".join(random.choice(string.ascii_lowercase) for _ in range(5))
        return self.letters[key]

    def write_log(self, text: str) -> None:
        """Add a line to the log; 0.33 colours its level."""
        mark = "\x1b[32m[INFO]\x1b[0m " if self.options.newest else ""
        entry = {"t": datetime.now(timezone.utc).replace(tzinfo=None).isoformat(), "m": f"{mark}{text}\n"}
        self.log.append(entry)
        for sid in self.hub.log_clients:
            self.hub.send("logs", {"entries": [entry], "size": None}, sid)

    # the worker

    async def work(self) -> None:
        """Run queued items until this task is cancelled."""
        # Each worker has its own cache: runs that overlap must not empty each other's.
        cache = Cache()
        self.caches.append(cache)
        while True:
            await self.wait_for_work(cache)
            await self.run_item(heapq.heappop(self.pending), cache)
            self._free(cache)
            await asyncio.sleep(0)

    async def wait_for_work(self, cache: Cache) -> None:
        """Wait until an item is queued; POST /free works in the meantime."""
        while not self.pending:
            self.more.clear()
            await self.more.wait()
            self._free(cache)

    async def run_item(self, item: Item, cache: Cache) -> None:
        """Run one item to its end and keep its result in the history."""
        key = id(item)
        self.running[key] = item
        item.started = now_ms()
        self.hub.send_status()
        self.on_change("start", item, "")
        began = time.monotonic()
        execution = self.execution_class(self, item, cache)
        self.executing[key] = execution
        outcome = await execution.run()
        self.executing.pop(key, None)
        self.store(item, outcome)
        self.running.pop(key, None)
        self.on_change("end", item, "success" if outcome.success else "error")
        self.hub.send_status()
        if execution.client_id is not None:
            self.hub.send("executing", {"node": None, "prompt_id": item.prompt_id}, execution.client_id)
        self.write_log(f"Prompt executed in {time.monotonic() - began:.2f} seconds")

    def store(self, item: Item, outcome: Outcome) -> None:
        """Keep the result of a run; the oldest entry is dropped when the history is full."""
        if len(self.history) >= self.options.history_size:
            self.history.pop(next(iter(self.history)))
        self.history[item.prompt_id] = {
            "prompt": item.row(),
            "outputs": outcome.outputs,
            "status": {
                "status_str": "success" if outcome.success else "error",
                "completed": outcome.success,
                "messages": [list(message) for message in outcome.messages],
            },
            "meta": outcome.meta,
        }

    def request_free(self, memory: bool) -> None:
        self.free_memory = self.free_memory or memory
        self.more.set()

    def _free(self, cache: Cache) -> None:
        if self.free_memory:
            self.free_memory = False
            cache.kept.clear()
