"""One server: its address, its credentials, secure requests with retries, its WebSocket address.

Level 1: knows nothing of workflows. `requests` is imported on first use, so that --help stays instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comfyskill.base import cli, safe_text
from comfyskill.base.cli import SkillError

if TYPE_CHECKING:
    pass

SAID_LIMIT = 600


def parse_model_list(payload: Any) -> list[str]:
    """Model names from any server's list: flat strings, or objects with `name` (the cloud's).

    Raises SkillError: code `folder_not_found` for the cloud's answer of that name, `refused` for a refusal's body,
    `bad_answer` for anything that is not a list. An empty list is an empty folder, which is none of these.
    """
    if isinstance(payload, Mapping):
        code = str(payload.get("code") or "")
        if code == "folder_not_found":
            raise SkillError(
                "the server knows no such model folder", code="folder_not_found", exit=cli.Exit.FAILED
            )
        said = safe_text.clean(payload.get("message") or payload.get("error") or payload, SAID_LIMIT)
        if any(
            word in f"{code} {said}".lower()
            for word in ("forbidden", "unauthorized", "denied", "not allowed")
        ):
            raise SkillError("the server does not let this key list models", code="refused", server_said=said)
        raise SkillError("the server did not answer with a model list", code="bad_answer", server_said=said)
    if not isinstance(payload, list):
        raise SkillError("the server did not answer with a model list", code="bad_answer")
    names = [item.get("name") if isinstance(item, Mapping) else item for item in payload]
    return [name for name in names if isinstance(name, str)]
