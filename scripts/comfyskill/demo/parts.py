"""The parts of a demo server that its routes work with."""

from __future__ import annotations

from comfyskill.demo.definitions import Definitions
from comfyskill.demo.engine import Engine
from comfyskill.demo.folders import Folders
from comfyskill.demo.options import Options
from comfyskill.demo.sockets import Hub


class Parts:
    """One server's options and state, without its routes."""

    options: Options
    folders: Folders
    definitions: Definitions
    hub: Hub
    engine: Engine
