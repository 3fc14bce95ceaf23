"""The commands that a report prints: each can be run unchanged."""

from __future__ import annotations

from collections.abc import Sequence

import _common
from comfyskill.base.programs import command
from comfyskill.server.facts import Facts
from comfyskill.server.protocol import Dialect, api_flags


def explain_command(server: Dialect, prompt_id: str) -> str:
    """The command that shows what happened to a job."""
    last = ["--", prompt_id] if prompt_id.startswith("-") else []
    return command("fetch_logs.py", *([] if last else [prompt_id]), *server_words(server), *last)


def list_command(server: Dialect) -> str:
    """The command that shows which jobs the server has, ours marked; on Comfy Cloud by v1, since v2 lists none there."""
    return command("manage_queue.py", "jobs", *server_words(getattr(server, "beside", None) or server))


def cancel_command(server: Dialect, prompt_ids: Sequence[str]) -> str:
    """The command that cancels these jobs, and reports the result for each."""
    return command("manage_queue.py", "cancel", *prompt_ids, *server_words(server))


def server_words(server: Facts) -> list[str]:
    """The flags that name a server and how to trust it. Keys are not repeated in them."""
    return server.flags


def trust_words(api: str | None, ca_bundle: str | None, *, insecure: bool) -> list[str]:
    """The flags for a server's protocol (none for a plain ComfyUI) and for the certificates to trust."""
    return [*api_flags(api), *_common.Access(ca_bundle=ca_bundle, insecure=insecure).trust_flags]
