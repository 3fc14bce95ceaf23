"""Two tiny test jobs: one without any model, one that is cancelled as soon as it executes."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Mapping, Sequence

from comfyskill.base import cli, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.machine.health import Check, fail, ok, skipped, warn
from comfyskill.server.protocol import Dialect, JobState, Submission

# Loading a large checkpoint from a slow disk takes a minute; other jobs may be ahead in the queue.
LIMIT_S = 120.0
POLL_S = 0.05
# Small and common first: the smoke test loads the one it chooses.
PREFERRED = ("v1-5", "sd15", "sd1.5", "dreamshaper", "turbo", "sd_xl", "sdxl")


def without_model(server: Dialect) -> Check:
    """Make and preview a 16-pixel picture, which goes into the temporary folder."""
    name = "smoke_test"
    needed = ("EmptyImage", "PreviewImage")
    if missing := _missing(server, needed):
        return skipped(name, f"the server has no {safe_text.quoted(missing[0])}")
    color = random.randrange(1 << 24)  # another color each time, or the answer would come from the cache
    graph = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": color},
        },
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    start = time.monotonic()
    state, prompt_id = _run(server, graph, stop_when_begun=False)
    if state.phase != "done":
        return _not_done(name, state, prompt_id)
    if state.outcome != "success":
        return fail(
            name,
            f"a job without any model ended with {state.outcome}: {_reason(state)}",
            "read the server's log",
        )
    if not state.outputs:
        return fail(name, "a job without any model succeeded, but has no output", prompt_id=prompt_id)
    return ok(name, f"a job without any model ran in {time.monotonic() - start:.1f} s", prompt_id=prompt_id)


def _missing(server: Dialect, kinds: Sequence[str]) -> list[str]:
    """The node classes that the server lacks; empty when it cannot list them, so that the job is tried."""
    try:
        known = server.definitions(kinds)
    except SkillError as error:
        if error.code != "not_offered":
            raise
        return []
    return [kind for kind in kinds if kind not in known]


def with_checkpoint(server: Dialect) -> Check:
    """One step at 64 pixels with a checkpoint, cancelled as soon as it executes."""
    name = "smoke_test_model"
    if server.api != "local":
        return skipped(name, "it may cost credits on a server that is not a local ComfyUI")
    try:
        checkpoint = choose(server.models("checkpoints"))
    except SkillError as error:
        return skipped(name, f"the checkpoints could not be listed: {error.message}")
    if checkpoint is None:
        return skipped(name, "the server has no checkpoint")
    graph = sampling_graph(checkpoint)
    kinds = sorted({node["class_type"] for node in graph.values()})
    if missing := _missing(server, kinds):
        return skipped(name, f"the server has no {safe_text.quoted(missing[0])}")
    state, prompt_id = _run(server, graph, stop_when_begun=True)
    facts = {"checkpoint": checkpoint, "prompt_id": prompt_id}
    if state.phase != "done":
        return _not_done(name, state, prompt_id)
    if state.outcome == "error":
        return fail(
            name,
            f"{safe_text.quoted(checkpoint)} does not run: {_reason(state)}",
            "try another checkpoint",
            **facts,
        )
    how = (
        "was stopped as soon as it started"
        if state.outcome == "cancelled"
        else "ended before it could be stopped"
    )
    return ok(name, f"a job with {safe_text.quoted(checkpoint)} was accepted and {how}", **facts)


def choose(checkpoints: Sequence[str]) -> str | None:
    """A checkpoint that is probably small and complete."""
    for word in PREFERRED:
        for name in checkpoints:
            if word in name.lower() and "inpaint" not in name.lower():
                return name
    return checkpoints[0] if checkpoints else None


def sampling_graph(checkpoint: str) -> dict[str, Document]:
    """Text to picture in one step at 64 x 64, shown in the temporary folder."""
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "smoke test"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0],
                "seed": random.randrange(1 << 32), "steps": 1, "cfg": 1.0, "sampler_name": "euler",
                "scheduler": "normal", "denoise": 1.0,
            },
        },
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
    }  # fmt: skip


def _run(server: Dialect, graph: Mapping[str, object], *, stop_when_begun: bool) -> tuple[JobState, str]:
    """Submit and poll; the job is cancelled whatever happens, Ctrl-C included."""
    submission = Submission(graph, str(uuid.uuid4()), uuid.uuid4().hex)
    prompt_id = server.submit(submission).prompt_id
    deadline = time.monotonic() + LIMIT_S
    ended = False
    pause = max(POLL_S, server.first_poll)
    try:
        while True:
            state = server.state(prompt_id)
            ended = state.done
            if ended:
                _forget(server, prompt_id)
            if ended or time.monotonic() > deadline:
                return state, prompt_id
            if stop_when_begun and state.phase == "running":
                server.cancel(prompt_id)
            time.sleep(pause)
    finally:
        if not ended:
            try:
                server.cancel(prompt_id)
            except SkillError as error:
                cli.warn(f"the smoke test's job {prompt_id} could not be cancelled: {error.message}")


def _forget(server: Dialect, prompt_id: str) -> None:
    """Remove the job from a local server's history: it is not a result."""
    if server.api != "local":
        return
    try:
        server.post_json("history", {"delete": [prompt_id]})
    except SkillError as error:
        cli.warn(f"the smoke test stays in the history: {error.message}")


def _not_done(name: str, state: JobState, prompt_id: str) -> Check:
    if state.phase == "pending":
        return warn(name, f"it waited {LIMIT_S:g} s in the queue and was removed", prompt_id=prompt_id)
    return fail(
        name,
        f"it did not end within {LIMIT_S:g} s and was cancelled",
        "read the server's log",
        prompt_id=prompt_id,
    )


def _reason(state: JobState) -> str:
    error = state.error or {}
    kind = error.get("exception_type")
    said = safe_text.clean(error.get("exception_message") or "no reason given", 300).strip()
    return f"{safe_text.name(kind)}: {safe_text.quoted(said)}" if kind else safe_text.quoted(said)
