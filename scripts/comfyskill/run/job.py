"""One run of one job: its server, ids, graph and options, and what was seen of it so far.

Values, and the errors that a run ends with when this command stops and the job does not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from comfyskill.base import file_limits
from comfyskill.base.cli import SkillError
from comfyskill.base.programs import command
from comfyskill.server.protocol import Accepted, Dialect, Graph, JobState, Submission

if TYPE_CHECKING:
    from comfyskill.run.prepare import Prepared
    from comfyskill.run.progress import Progress
    from comfyskill.server import events
    from comfyskill.server.watch import Watcher

WAIT_HINT = "wait for it by its prompt id; do not submit it again"
FETCH_HINT = "fetch the rest by its prompt id; do not run it again"


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


def resume_command(server: Dialect, prompt_id: str, options: Options) -> str:
    """The command that waits for a job and downloads it as these options say. Keys are not repeated in it."""
    given = {
        "--flat-output": options.flat,
        "--overwrite": options.overwrite,
        "--include-previews": options.include_previews,
        "--receipt": options.receipt,
    }
    flags = [*(flag for flag, wanted in given.items() if wanted), *file_limits.flag_words()]
    resume = [f"--resume={prompt_id}"] if prompt_id.startswith("-") else ["--resume", prompt_id]
    return command("run_workflow.py", *resume, "--output-dir", options.output_dir, *flags, *server.flags)


class Run:
    """One job: submitted by this command (`submission`, `prepared`), or by anyone earlier.

    `accepted` is None until it is known that the server has the job, `state` until the job has ended.
    """

    def __init__(
        self,
        server: Dialect,
        prompt_id: str,
        graph: Graph,
        options: Options,
        watcher: Watcher,
        progress: Progress,
        *,
        submission: Submission | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        self.server = server
        self.prompt_id = prompt_id
        self.graph = graph
        self.options = options
        self.watcher = watcher
        self.progress = progress
        self.submission = submission
        self.prepared = prepared
        self.began = time.monotonic()
        self.submitting = False  # the submit has begun
        self.accepted: Accepted | None = None
        self.state: JobState | None = None
        self.interrupted = False
        self.socket_images: list[tuple[str, events.Preview]] = []
        self.blocked: list[events.Event] = []
        self.previews: list[Path] = []
        self.keeps_previews = options.save_previews is not None

    @property
    def ours(self) -> bool:
        """Whether this command submits the job."""
        return self.submission is not None

    @property
    def missed_frames(self) -> bool:
        """Whether frames of the job may have passed while no socket of ours was open."""
        return not self.ours or self.watcher.missed_frames

    @property
    def resume_command(self) -> str:
        """The command that returns to this job."""
        return resume_command(self.server, self.prompt_id, self.options)

    def close(self) -> None:
        """Leave the terminal clean and close the connection."""
        self.progress.close()
        self.watcher.close()

    def left(self, message: str, code: str, hint: str = WAIT_HINT) -> SkillError:
        """The error when this command stops and the job does not: it names the command that returns to it."""
        return SkillError(
            message,
            code=code,
            status="timeout" if code == "still_running" else "running",
            retryable=False,
            hint=hint,
            next=[self.resume_command],
            prompt_id=self.prompt_id,
            host=self.server.url,
        )
