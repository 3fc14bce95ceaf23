"""What one job is: its ids, its server, and the options that its run was given.

Values only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from comfyskill.server import events
from comfyskill.server.protocol import Accepted, Dialect


class Options(NamedTuple):
    """How to run. `timeout`: seconds from the submit, None for as long as it takes."""

    output_dir: Path
    timeout: float | None = None
    use_socket: bool = True
    include_previews: bool = False
    save_previews: Path | None = None
    flat: bool = False
    overwrite: bool = False
    strict: bool = False
    receipt: bool = False
    detach_on_interrupt: bool = False
    quiet: bool = False
    client_id: str | None = None
    prompt_id: str | None = None
    front: bool = False
    targets: Sequence[str] | None = None
    partner_key: str | None = None
    patience: float = 60.0
    retry_oom: bool = False


# The value of `Job.accepted` until the server accepts the submit.
NOT_YET = Accepted("")


class Job:
    """A submitted job and what was seen of it while it ran."""

    def __init__(
        self,
        server: Dialect,
        prompt_id: str,
        graph: Mapping[str, Any],
        accepted: Accepted,
        submitted: float,
        ours: bool = True,
    ) -> None:
        self.server = server
        self.prompt_id = prompt_id
        self.graph = graph
        self.accepted = accepted
        self.submitted = submitted
        self.ours = ours
        self.socket_images: list[tuple[str, events.Preview]] = []
        self.blocked: list[events.Event] = []
        self.previews: list[Path] = []
        self.previews_wanted = True
        self.interrupted = False
