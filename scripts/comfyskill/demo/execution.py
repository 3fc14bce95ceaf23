"""Runs one prompt: node by node, with the frames that the real server sends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comfyskill.base.cli import Document
from comfyskill.demo import generic
from comfyskill.demo.call import Call, as_result, invoke, printed, stack_lines
from comfyskill.demo.definitions import NodeClass
from comfyskill.demo.graph import Graph, Order, Origin, is_link
from comfyskill.demo.item import Kept, Outcome, now_ms
from comfyskill.demo.node_table import Implementation, Interrupted, NodeFailure, Result, implementation
from comfyskill.demo.validation import DYNAMIC_COMBO, live_inputs
from comfyskill.demo.values import Blocked

if TYPE_CHECKING:
    from comfyskill.demo.item import Cache, Host, Item

# What a node may raise without being a fault of the server.
NODE_ERRORS = (
    NodeFailure,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
# How long nodes may run before other tasks (HTTP, sockets) get a turn.
LONGEST_TURN = 0.005


class Progress:
    """The started nodes of one run, in order: what each `progress_state` frame holds."""

    def __init__(self, prompt_id: str) -> None:
        self.prompt_id = prompt_id
        self.nodes: dict[str, Document] = {}

    def begin(self, node_id: str, origin: Origin) -> None:
        entry = {
            "value": 0.0,
            "max": 1.0,
            "state": "running",
            "node_id": node_id,
            "prompt_id": self.prompt_id,
        }
        self.nodes.setdefault(node_id, {**entry, **origin.fields()})

    def step(self, node_id: str, value: float, maximum: float) -> None:
        self.nodes[node_id] |= {"value": value, "max": maximum}

    def finish(self, node_id: str) -> None:
        self.nodes[node_id] |= {"state": "finished", "value": self.nodes[node_id]["max"]}

    def finish_cached(self, node_id: str, origin: Origin) -> None:
        self.begin(node_id, origin)
        # The real server sends whole numbers here and fractions elsewhere.
        self.nodes[node_id] |= {"state": "finished", "value": 1, "max": 1}

    def message(self) -> Document:
        """The data of a frame. Serialize at once: the entries change."""
        return {"prompt_id": self.prompt_id, "nodes": self.nodes}


class Execution:
    """One run of one item. `run` never raises for an error of the graph."""

    def __init__(self, engine: Host, item: Item, cache: Cache) -> None:
        self.engine = engine
        self.item = item
        self.cache = cache
        # On the cloud every socket of the account gets all frames.
        self.client_id: str | None = item.extra_data.get("client_id") or (
            "cloud" if engine.options.cloud else None
        )
        self.graph = Graph(item.prompt, engine.definitions)
        self.changed = engine.changed(self.graph)
        self.progress = Progress(item.prompt_id)
        self.outcome = Outcome()
        self.executed: list[str] = []
        self.waiting_parents: dict[str, tuple[str, list[Any]]] = {}
        self.expansions = 0
        self.current: str | None = None

    # frames

    def message(self, event: str, data: Document, *, broadcast: bool = False) -> None:
        data = {**data, "timestamp": now_ms()}
        self.outcome.messages.append((event, data))
        if self.client_id is not None or broadcast:
            self.engine.hub.send(event, data, self.client_id)

    def send(self, event: str, data: Document) -> None:
        if self.client_id is not None:
            self.engine.hub.send(event, data, self.client_id)

    def send_progress(self) -> None:
        if self.engine.options.cloud:
            for node_id, entry in self.progress.nodes.items():
                entry["class_type"] = self.graph.nodes[node_id]["class_type"]
        self.engine.hub.send("progress_state", self.progress.message(), self.client_id)

    async def report_step(
        self, node_id: str, value: float, maximum: float, preview: Any, form: str, size: int
    ) -> None:
        self.progress.step(node_id, value, maximum)
        self.send_progress()
        hub, sid = self.engine.hub, self.client_id
        picture = b""
        if preview is not None:
            from comfyskill.demo import pictures

            picture = pictures.encode_preview(preview, form, size)
        with_metadata = hub.wants_metadata(sid)
        if picture and with_metadata:
            about = {
                "node_id": node_id,
                "prompt_id": self.item.prompt_id,
                "image_type": f"image/{form.lower()}",
            }
            hub.send_preview_with_metadata({**about, **self.graph.origin(node_id).fields()}, picture, sid)
        data = {"value": value, "max": maximum, "prompt_id": self.item.prompt_id, "node": node_id}
        hub.send("progress", data, sid)
        if picture and not with_metadata:
            hub.send_preview(2 if form == "PNG" else 1, picture, sid)

    # the run

    def check_interrupt(self) -> None:
        if self.item.stop:
            raise Interrupted

    async def run(self) -> Outcome:
        self.message("execution_start", {"prompt_id": self.item.prompt_id})
        wanted = {node_id: self.graph.signature(node_id, self.changed) for node_id in self.item.prompt}
        self.cache.keep_only(wanted.values())
        self.engine.keep_letters(self.item.prompt)
        cached = [node_id for node_id, signature in wanted.items() if signature in self.cache.kept]
        self.message("execution_cached", {"nodes": cached, "prompt_id": self.item.prompt_id})
        order = Order(self.graph, lambda node_id: self._kept(node_id) is not None)
        order.add_all(self.item.outputs)
        turn = time.monotonic()
        while order.pending:
            node_id = order.pick()
            if node_id is None:
                self._fail("", NodeFailure("graph.DependencyCycleError", "Dependency cycle detected"), {})
                break
            if not await self._step(order, node_id):
                break
            if time.monotonic() - turn > LONGEST_TURN:
                await asyncio.sleep(0)
                turn = time.monotonic()
        else:
            self._show_intermediate(cached)
            self.message("execution_success", {"prompt_id": self.item.prompt_id})
        return self.outcome

    def _kept(self, node_id: str) -> Kept | None:
        return self.cache.kept.get(self.graph.signature(node_id, self.changed))

    async def _step(self, order: Order, node_id: str) -> bool:
        """Run one node, or show that it is cached. False when the run ends here."""
        kept = self._kept(node_id)
        if kept is not None:
            self._show_cached(node_id, kept)
            order.done(node_id)
            return True
        if node_id in self.waiting_parents:
            self._finish_parent(node_id, order)
            return True
        origin = self.graph.origin(node_id)
        cls = self.graph.node_class(node_id)
        player = implementation(cls.name)
        self.current = node_id
        self.progress.begin(node_id, origin)
        self.send_progress()
        data = {"node": node_id, "display_node": origin.display, "prompt_id": self.item.prompt_id}
        self.send("executing", data)
        lazy = self._lazy_needs(player, node_id)
        if lazy:
            # It starts again, with the same frames, when the inputs that it asked for exist.
            for source in lazy:
                order.link(source, node_id)
            return True
        values: dict[str, list[Any]] = {}
        try:
            values = self._inputs(node_id, cls)
            self.check_interrupt()
            results = await self.play(node_id, cls, player, values)
        except Interrupted:
            self._interrupted(node_id)
            return False
        except NODE_ERRORS as error:
            self._fail(node_id, error, values)
            return False
        self._store(order, node_id, cls, results)
        return True

    def _lazy_needs(self, player: Implementation | None, node_id: str) -> list[str]:
        if player is None or player.needs is None:
            return []
        inputs = self.graph.nodes[node_id].get("inputs", {})
        known = {}
        for name, value in inputs.items():
            if not is_link(value):
                known[name] = value
            elif (kept := self._kept(value[0])) is not None:
                known[name] = kept.values[value[1]][0] if kept.values[value[1]] else None
        names = player.needs(known)
        return [
            inputs[name][0]
            for name in names
            if is_link(inputs.get(name)) and self._kept(inputs[name][0]) is None
        ]

    def _inputs(self, node_id: str, cls: NodeClass) -> dict[str, list[Any]]:
        """Input lists by name, without inputs that the class does not know."""
        inputs = self.graph.nodes[node_id].get("inputs", {})
        known = {spec.name for spec in live_inputs(cls, inputs, self.engine.options.newest)}
        dynamic = {spec.name for spec in cls.inputs.values() if spec.type == DYNAMIC_COMBO}
        values: dict[str, list[Any]] = {}
        for name, value in inputs.items():
            if name not in known:
                continue
            if name in dynamic and not any(k.startswith(f"{name}.") for k in known):
                continue
            if not is_link(value):
                values[name] = [value]
                continue
            kept = self._kept(value[0])
            if kept is not None:
                values[name] = kept.values[int(value[1])]
        return values

    async def play(
        self, node_id: str, cls: NodeClass, player: Implementation | None, values: dict[str, list[Any]]
    ) -> list[Result | Blocked]:
        """One result for each element of the input lists (usually one)."""
        call = Call(self, node_id, cls)
        function = player.function if player is not None else generic.play
        if player is not None and player.takes_lists:
            return [as_result(await invoke(player, function, call, dict(values)), cls)]
        count = max((len(value) for value in values.values()), default=1)
        results: list[Result | Blocked] = []
        for index in range(count):
            arguments = {key: value[min(index, len(value) - 1)] for key, value in values.items() if value}
            blocked = next((v for v in arguments.values() if isinstance(v, Blocked)), None)
            if blocked is not None:
                results.append(blocked)
                continue
            results.append(as_result(await invoke(player, function, call, arguments), cls))
        return results

    def _store(self, order: Order, node_id: str, cls: NodeClass, results: list[Result | Blocked]) -> None:
        expansion = next((r for r in results if isinstance(r, Result) and r.expand), None)
        if expansion is not None and expansion.expand:
            self._expand(order, node_id, expansion)
            return
        slots: list[list[Any]] = [[] for _ in cls.outputs]
        ui: dict[str, list[Any]] = {}
        for result in results:
            if isinstance(result, Blocked):
                if result.message is not None:
                    self._report_blocked(node_id, cls, result)
                for slot in slots:
                    slot.append(Blocked())
                continue
            for key, entries in (result.ui or {}).items():
                ui.setdefault(key, []).extend(entries)
            for index, slot in enumerate(slots):
                value = result.values[index] if index < len(result.values) else None
                if cls.output_is_list[index] and isinstance(value, list):
                    slot.extend(value)
                else:
                    slot.append(value)
        self._complete(order, node_id, Kept(slots, self.engine.dress(ui or None)))

    def _complete(self, order: Order, node_id: str, kept: Kept) -> None:
        self.cache.kept[self.graph.signature(node_id, self.changed)] = kept
        self.executed.append(node_id)
        if kept.ui is not None:
            self._record_ui(node_id, kept.ui)
            self._send_executed(node_id, kept.ui)
        self.progress.finish(node_id)
        self.send_progress()
        order.done(node_id)

    def _record_ui(self, node_id: str, ui: Mapping[str, list[Any]]) -> None:
        origin = self.graph.origin(node_id)
        self.outcome.outputs[node_id] = ui
        self.outcome.meta[node_id] = {
            "node_id": node_id,
            "display_node": origin.display,
            "parent_node": origin.parent,
            "real_node_id": origin.real,
        }

    def _send_executed(self, node_id: str, ui: Mapping[str, list[Any]] | None) -> None:
        origin = self.graph.origin(node_id)
        data = {
            "node": node_id,
            "display_node": origin.display,
            "output": ui,
            "prompt_id": self.item.prompt_id,
        }
        self.send("executed", data)

    def _show_cached(self, node_id: str, kept: Kept) -> None:
        # 0.8 records a cached node's output only when a client may be listening.
        if self.client_id is not None or self.engine.options.newest:
            self._send_executed(node_id, kept.ui)
            if kept.ui is not None:
                self._record_ui(node_id, kept.ui)
        self.progress.finish_cached(node_id, self.graph.origin(node_id))
        self.send_progress()

    def _show_intermediate(self, cached: list[str]) -> None:
        """Send the outputs of cached nodes that show something on their way to an output (0.33), after all others."""
        for node_id in cached:
            kept = self._kept(node_id)
            if kept is None or kept.ui is None or node_id in self.outcome.outputs:
                continue
            if self.graph.node_class(node_id).intermediate:
                self._send_executed(node_id, kept.ui)
                self._record_ui(node_id, kept.ui)

    # expansion

    def _expand(self, order: Order, node_id: str, result: Result) -> None:
        nodes = result.expand or {}
        self.graph.add(nodes, node_id)
        self.waiting_parents[node_id] = (node_id, list(result.values))
        for value in result.values:
            if is_link(value):
                order.link(value[0], node_id)

    def _finish_parent(self, node_id: str, order: Order) -> None:
        _, values = self.waiting_parents.pop(node_id)
        slots: list[list[Any]] = []
        for value in values:
            kept = self._kept(value[0]) if is_link(value) else None
            slots.append(kept.values[int(value[1])] if kept is not None else [value])
        self._complete(order, node_id, Kept(slots, None))

    # ends

    def _interrupted(self, node_id: str) -> None:
        self.outcome.success = False
        data = {
            "prompt_id": self.item.prompt_id,
            "node_id": node_id,
            "node_type": self.graph.nodes[node_id]["class_type"],
            "executed": list(self.executed),
        }
        self.message("execution_interrupted", data, broadcast=True)

    def _fail(self, node_id: str, error: BaseException, values: Mapping[str, list[Any]]) -> None:
        self.outcome.success = False
        kind = error.kind if isinstance(error, NodeFailure) else type(error).__name__
        name = self.graph.nodes[node_id]["class_type"] if node_id in self.graph.nodes else ""
        data = {
            "prompt_id": self.item.prompt_id,
            "node_id": node_id,
            "node_type": name,
            "executed": list(self.executed),
            "exception_message": f"{error}\n",
            "exception_type": kind,
            "traceback": stack_lines(name),
            "current_inputs": {key: [printed(item) for item in value] for key, value in values.items()},
            "current_outputs": list(self.graph.nodes),
        }
        self.message("execution_error", data)

    def _report_blocked(self, node_id: str, cls: NodeClass, blocked: Blocked) -> None:
        # Sent, but neither stored nor fatal: the run continues and succeeds.
        data = {
            "prompt_id": self.item.prompt_id,
            "node_id": node_id,
            "node_type": cls.name,
            "executed": list(self.executed),
            "exception_message": f"Execution Blocked: {blocked.message}",
            "exception_type": "ExecutionBlocked",
            "traceback": [],
            "current_inputs": [],
            "current_outputs": [],
        }
        self.send("execution_error", data)
