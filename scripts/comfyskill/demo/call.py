"""One call of a node's function: what it may use, and how its answer is handled."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comfyskill.base.cli import Document
from comfyskill.demo.definitions import NodeClass
from comfyskill.demo.node_table import Implementation, Result, call_arguments
from comfyskill.demo.options import PREVIEW_METHODS
from comfyskill.demo.values import Blocked, Images, Latent

if TYPE_CHECKING:
    from comfyskill.demo.item import Running

HEAVY_PIXELS = 250_000


class Call:
    """What a node's function may use."""

    def __init__(self, run: Running, node_id: str, cls: NodeClass) -> None:
        self.run = run
        self.node_id = node_id
        self.cls = cls
        self.engine = run.engine
        self.folders = run.engine.folders
        self.options = run.engine.options
        self.prompt = run.graph.nodes
        self.extra_data = run.item.extra_data

    @property
    def metadata(self) -> Document:
        """The metadata of saved pictures: the prompt, and the entries of `extra_pnginfo`."""
        extra = self.extra_data.get("extra_pnginfo")
        return {"prompt": self.run.item.prompt, **(extra if isinstance(extra, dict) else {})}

    def secret(self, name: str) -> str | None:
        return self.run.item.secrets.get(name)

    async def wait(self, seconds: float) -> None:
        """Wait. Zero seconds still lets other tasks run."""
        await asyncio.sleep(max(0.0, seconds))

    async def progress(
        self, value: float, maximum: float, preview: Any = None, form: str = "JPEG", size: int = 256
    ) -> None:
        """Report a step, perhaps with a picture. Raises Interrupted when the run must stop."""
        self.check_interrupt()
        await self.run.report_step(self.node_id, value, maximum, preview, form, size)

    def wants_previews(self) -> bool:
        """Whether the job (or else the server) asks for previews of samplers, and a client would see them."""
        asked = self.extra_data.get("preview_method")
        method = asked if asked in PREVIEW_METHODS else self.options.preview_method
        sockets = self.engine.hub.sockets
        watched = self.run.client_id in sockets if self.run.client_id is not None else bool(sockets)
        return watched and (method != "none" or self.options.cloud)

    def check_interrupt(self) -> None:
        """Raises Interrupted when the run must stop."""
        self.run.check_interrupt()


async def invoke(player: Implementation | None, function: Any, call: Call, arguments: Document) -> Any:
    words = call_arguments(arguments)
    if inspect.iscoroutinefunction(function):
        return await function(call, **words)
    if player is None or not player.heavy or _pixels(arguments) < HEAVY_PIXELS:
        return function(call, **words)
    return await asyncio.to_thread(function, call, **words)


def _pixels(arguments: Mapping[str, Any]) -> int:
    """About how many pixels a call works on."""
    total = 0
    for value in arguments.values():
        if isinstance(value, Images):
            total += value.pixels
        elif isinstance(value, Latent):
            total += value.width * value.height * value.batch * value.frames
    width, height = arguments.get("width"), arguments.get("height")
    if isinstance(width, int) and isinstance(height, int):
        total += width * height
    return total


def as_result(answer: object, cls: NodeClass) -> Result | Blocked:
    if isinstance(answer, (Result, Blocked)):
        return answer
    if answer is None:
        return Result()
    if isinstance(answer, tuple):
        return Result(answer)
    return Result((answer,))


def printed(value: object) -> object:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, dict)):
        return json.loads(json.dumps(value, default=str))
    return str(value)


def stack_lines(name: str) -> list[str]:
    places = ("execute", "get_output_data", "_async_map_node_over_list", "process_inputs")
    lines = [f'  File "/demo/execution.py", line 1, in {place}\n    (demo)\n' for place in places]
    return [*lines, f'  File "/demo/nodes.py", line 1, in {name}\n    (demo)\n']
