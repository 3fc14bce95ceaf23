"""Whether a cancel on Comfy API v2 took, and what can be done when the proxy only says so.

Level 2. Recorded: comfy-api-proxy 0.1.6 cancels by a route that ComfyUI 0.8.0 lacks, and says `canceling` all the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

import _common
from comfyskill.base.cli import Exit, SkillError
from comfyskill.server.protocol import JobState

# A cancelled job says `canceling` until the running node notices; behind the proxy it may say nothing at all.
PATIENCE = 3.0
PROXY_PATIENCE = 0.3


def confirm(look: Callable[[], JobState], url: str, upstream: str | None, prompt_id: str) -> bool:
    """True: stopped or on its way there; False: it had ended otherwise. `upstream`: the ComfyUI behind a proxy.

    Raises SkillError `cancel_not_confirmed` when the job goes on as if nothing had been said.
    """
    stopped = _stopped(look, PATIENCE if upstream is None else PROXY_PATIENCE)
    if stopped is not None:
        return stopped
    if upstream is not None and _cancel_behind(url, upstream, prompt_id):
        return True
    raise _not_confirmed(prompt_id, proxy=upstream is not None)


def _stopped(look: Callable[[], JobState], patience: float) -> bool | None:
    """As `confirm`; None while nothing shows that the cancel was heard."""
    give_up = time.monotonic() + patience
    pause = 0.05
    while True:
        state = look()
        if state.done:
            return state.outcome == "cancelled"
        if time.monotonic() > give_up:
            return True if state.phase == "unknown" or state.word.startswith("cancel") else None
        time.sleep(pause)
        pause = min(pause * 2, 0.5)


def _cancel_behind(url: str, upstream: str, prompt_id: str) -> bool:
    """The proxy's job id is ComfyUI's prompt id: when both run on this machine, ComfyUI itself is told to stop that one.

    No credential goes along.
    """
    if not all(_common.is_this_machine(urlsplit(address).hostname or "") for address in (url, upstream)):
        return False
    from comfyskill.server.local import Local

    behind = Local(upstream)
    try:
        return behind.cancel(prompt_id)
    except SkillError:
        return False
    finally:
        behind.close()


def _not_confirmed(prompt_id: str, *, proxy: bool) -> SkillError:
    hint = "look again in a moment"
    if proxy:
        hint += "; comfy-api-proxy cannot cancel on ComfyUI 0.8.0 and older: use that server's own address as --host"
    return SkillError(
        "the server took the cancel, but the job goes on",
        code="cancel_not_confirmed",
        exit=Exit.FAILED,
        retryable=True,
        hint=hint,
        prompt_id=prompt_id,
    )
