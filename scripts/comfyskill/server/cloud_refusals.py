"""Refusals of Comfy Cloud v1 in plain words: by their type where they have one, else by their status.

Level 2. Source: the cloud fact sheet. Plan refusals come as 402 now and as 429 from older servers; only the type tells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from comfyskill.base import cli, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.server import refusals, transport

if TYPE_CHECKING:
    import requests

# Refusals without a type that we know: every one is an answer about the account, never about the server's contents.
STATUS_SENTENCES = {
    401: (
        "refused", cli.Exit.REFUSED, "the cloud wants a key, or the key is wrong",
        "set COMFY_CLOUD_API_KEY or --api-key-file with a key from the Comfy platform site (it starts with comfyui-)",
    ),
    402: (
        "refused", cli.Exit.REFUSED, "the account's plan or credits do not allow this",
        "add credits or take a plan with API access (Standard and higher)",
    ),
    403: (
        "refused", cli.Exit.REFUSED, "this account's plan or workspace does not allow that",
        "the free tier has no API access; Standard and higher plans do",
    ),
    413: (
        "too_large", cli.Exit.REJECTED, "the request is larger than the cloud takes",
        "pictures may have 50 MB; send large inputs as files, not inside the workflow",
    ),
}  # fmt: skip


def failure(url: str, response: requests.Response) -> SkillError | None:
    """The SkillError for a refusal that means something on the cloud; None for what means the same everywhere."""
    elsewhere = storage_failure(url, response)
    if elsewhere is not None:
        return elsewhere
    body = body_of(response)
    kind = type_of(body)
    said = transport.error_text(response)
    status = response.status_code
    known = refusals.refusal(kind, said, http_status=status, **_policy_details(body))
    if known is not None:
        return known
    if kind in refusals.FULL_QUEUE:
        return SkillError(
            "the cloud's queue for this account is full (at most 100 jobs)", code="queue_full",
            exit=cli.Exit.FAILED, retryable=True, hint="wait until some of the queued jobs have finished",
            http_status=status, server_said=said,
        )  # fmt: skip
    if status in STATUS_SENTENCES:
        code, exit_code, message, hint = STATUS_SENTENCES[status]
        return SkillError(
            f"{message} (HTTP {status} on {urlsplit(response.url).path})",
            code=code,
            exit=exit_code,
            hint=hint,
            http_status=status,
            server_said=said,
        )
    return None


def _origin(url: str) -> tuple[str, str, int]:
    from _common import origin_of

    return origin_of(url)


def storage_failure(url: str, response: requests.Response) -> SkillError | None:
    """A failure of the storage that downloads are redirected to; it says nothing about the account. None for our own server's."""
    if _origin(response.url) == _origin(url):
        return None
    status = response.status_code
    gone = status in (404, 410)
    return SkillError(
        "the file is no longer in the service's storage" if gone else
        f"the service's storage did not give the file (HTTP {status}); its signed address may have expired",
        code="not_found" if gone else "download_failed",
        exit=cli.Exit.FAILED,
        retryable=not gone,
        hint="fetch it again: a fresh address is made each time",
        http_status=status,
        server_said=transport.error_text(response),
    )  # fmt: skip


def _policy_details(body: Any) -> dict[str, Any]:
    """Which node classes and providers a workspace's policy blocks, where the refusal names them."""
    error = body.get("error") if isinstance(body, Mapping) else None
    error = error if isinstance(error, Mapping) else {}
    return {
        key: safe_text.clean_tree(error[key][:20], 120)
        for key in ("class_types", "providers")
        if isinstance(error.get(key), list)
    }


def body_of(response: requests.Response) -> Any:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def type_of(body: Any) -> str:
    """`error.type` of a refusal, or the `code` of the other error shape."""
    if not isinstance(body, Mapping):
        return ""
    error = body.get("error")
    return str((error.get("type") if isinstance(error, Mapping) else None) or body.get("code") or "")
