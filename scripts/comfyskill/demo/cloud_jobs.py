"""The cloud's job records: made at the submit, kept after the end, with the cloud's status words."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from comfyskill.base.cli import Document
from comfyskill.demo.engine import Engine
from comfyskill.demo.item import Item
from comfyskill.demo.job_rows import summary

VIDEO = (".mp4", ".webm")
ENDED = ("completed", "failed", "cancelled")


@dataclass(eq=False)
class Job:
    """One record. `state` is one of pending, in_progress, completed, failed, cancelled."""

    item: Item
    state: str = "pending"
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None
    cancelled: bool = False
    capped: bool = False
    entry: Document = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.item.prompt_id


class Jobs:
    """All jobs of the account, oldest first; files by the names under which the cloud knows them."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.jobs: dict[str, Job] = {}
        self.files: dict[str, Path] = {}
        # A new job answers 404 for this many seconds.
        self.appears_after = 0.05
        engine.on_change = self.changed
        engine.dress = self.dress

    def add(self, item: Item) -> Job:
        self.jobs[item.prompt_id] = Job(item)
        return self.jobs[item.prompt_id]

    def changed(self, event: str, item: Item, status: str) -> None:
        job = self.jobs.get(item.prompt_id)
        if job is None:
            return
        if event == "start":
            job.state, job.started = "in_progress", time.time()
        elif event == "removed":
            job.state, job.ended, job.cancelled = "cancelled", time.time(), True
        elif event == "end":
            job.ended = time.time()
            job.entry = self.engine.history.get(item.prompt_id, {})
            job.state = "completed" if status == "success" else "failed"
            if job.cancelled or job.capped:
                job.state = "cancelled"

    def visible(self, job_id: str) -> Job | None:
        """The record, unless it is too new to be visible."""
        job = self.jobs.get(job_id)
        if job is None or time.time() - job.created < self.appears_after:
            return None
        return job

    def state(self, job: Job) -> str:
        """The job's state as answers show it."""
        return job.state

    def active(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.state not in ENDED]

    def cancel(self, job: Job) -> bool:
        """Stop a waiting or running job; False when it has ended."""
        if job.state in ENDED or job.cancelled:
            return False
        job.cancelled = True
        if job.state == "pending":
            self.engine.delete_pending(job.id)
        else:
            job.item.stop = True
        return True

    # answers

    def clock(self, seconds: float) -> int:
        """A time as `create_time` and `update_time` show it."""
        return int(seconds * 1000)

    def brief(self, job: Job) -> Document:
        """The entry of a list."""
        state = self.state(job)
        found: Document = {"id": job.id, "status": state, "create_time": self.clock(job.created)}
        if job.started is not None:
            found["execution_start_time"] = int(job.started * 1000)
        if state not in ENDED:
            return found
        if job.ended is not None:
            found["execution_end_time"] = int(job.ended * 1000)
        outputs = summary(job.entry.get("outputs", {}))
        found["outputs_count"] = outputs.count
        if outputs.best is not None:
            found["preview_output"] = outputs.best
        error = self.error(job)
        if error is not None and state == "failed":
            found["execution_error"] = error
        return found

    def full(self, job: Job) -> Document:
        """One job in full."""
        found = self.brief(job)
        found["update_time"] = self.clock(job.ended or job.started or job.created)
        extra = {key: value for key, value in job.item.extra_data.items() if key != "create_time"}
        if "api_key_comfy_org" in job.item.secrets:
            extra["api_key_comfy_org"] = "[REDACTED]"
        found["workflow"] = {"prompt": job.item.prompt, "extra_data": extra}
        if found["status"] in ENDED:
            found["outputs"] = job.entry.get("outputs", {})
            found["execution_status"] = job.entry.get("status", {})
            found["execution_meta"] = job.entry.get("meta", {})
        return found

    def error(self, job: Job) -> Document | None:
        """The job's error as the cloud shows it; None when the job did not fail."""
        if job.capped:
            text = "Workflow execution exceeded the time limit of the plan"
            return {"node_id": "", "node_type": "", "exception_message": text, "exception_type": "ServiceError",
                    "traceback": [], "current_inputs": {}, "current_outputs": {}}  # fmt: skip
        messages = job.entry.get("status", {}).get("messages", [])
        data = next((data for name, data in messages if name == "execution_error"), None)
        return None if data is None else {**data, "current_outputs": {}}

    def raw(self, job: Job) -> str:
        """The old status route's word for a job."""
        state = self.state(job)
        if state == "pending":
            return "submitted" if time.time() - job.created < 0.1 else "queued_waiting"
        return {"in_progress": "executing", "completed": "success", "failed": "error"}.get(state, state)

    # files

    def dress(self, ui: Mapping[str, list[Any]] | None) -> Mapping[str, list[Any]] | None:
        """Outputs as the cloud names them: hash names with display names, videos under their own key."""
        if ui is None:
            return None
        dressed: dict[str, list[Any]] = {}
        for key, items in ui.items():
            for item in items:
                found, name = (
                    self.file(item) if isinstance(item, dict) and "filename" in item else (item, key)
                )
                dressed.setdefault(self.key_of(key, name), []).append(found)
        return dressed

    def key_of(self, key: str, name: str) -> str:
        """The key under which the cloud lists a file."""
        return "video" if key == "images" and name.endswith(VIDEO) else key

    def file(self, item: Document) -> tuple[Document, str]:
        """(an output with the name under which the cloud keeps its file, the file's own name)."""
        base = self.engine.folders.of(str(item.get("type", "output")))
        name = str(item["filename"])
        if base is None:
            return item, name
        path = base / str(item.get("subfolder") or "") / name
        if not path.is_file():
            return item, name
        known = self.known_as(path)
        self.files[known] = path
        return {**item, "filename": known, "display_name": name}, name

    def known_as(self, path: Path) -> str:
        """The content's name: 64 hex digits and the suffix."""
        digest = hashlib.blake2b(digest_size=32)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest() + path.suffix


def rfc3339(seconds: float | None) -> str | None:
    return (
        None
        if seconds is None
        else datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")
    )
