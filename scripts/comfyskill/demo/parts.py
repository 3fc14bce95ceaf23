"""The parts of a demo server that its routes work with."""

from __future__ import annotations

import time
from collections.abc import Callable

from comfyskill.demo.definitions import Definitions
from comfyskill.demo.engine import Engine
from comfyskill.demo.faults import Faults
from comfyskill.demo.folders import Folders
from comfyskill.demo.options import Options
from comfyskill.demo.sockets import Hub


class Parts:
    """One server's options and state, without its routes."""

    options: Options
    folders: Folders
    definitions: Definitions
    faults: Faults
    hub: Hub
    engine: Engine
    storage_url: str
    on_reset: list[Callable[[], None]]  # other parts that clear their state at a reset

    def restart(self, down: float = 0.0) -> None:
        """Lose queue, history and sockets; with `down` (seconds), drop all connections for that long."""
        self.engine.forget()
        self.folders.empty_temp()
        self.hub.drop_all()
        if down:
            self.faults.down_until = time.monotonic() + down
