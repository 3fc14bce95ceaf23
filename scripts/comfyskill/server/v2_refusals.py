"""Errors of Comfy API v2 in plain words. Branches on the envelope's `code`, as the contract asks.

Level 2. Source: the API v2 fact sheet ("Errors") and recorded refusals of comfy-api-proxy 0.1.6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comfyskill.base import cli, safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.server import cloud_refusals, refusals, transport

if TYPE_CHECKING:
    import requests

# Codes by which a graph is rejected (exit 6).
REJECTIONS = frozenset({"invalid_workflow", "workflow_format_ui", "missing_asset"})
# code -> (our code, sentence, hint, worth another try)
SENTENCES: dict[str, tuple[str, str, str, bool]] = {
    "queue_full": ("queue_full", "the server's queue is full", "wait until some jobs have finished", True),
    "rate_limited": ("busy", "the server asks for fewer requests", "wait a little", True),
    "too_many_streams": ("busy", "the server has too many event streams open", "polling goes on", True),
    "deployment_not_ready": ("busy", "the deployment is still starting", "wait a little", True),
    "deployment_stopped": ("refused", "the deployment is stopped", "start it on the platform's site", False),
    "not_implemented": ("not_offered", "the server does not offer this", "Comfy Cloud lists jobs on v1 (--api cloud)",
                        False),
    "upstream_unreachable": ("unreachable", "the proxy answers, but the ComfyUI behind it does not",
                             "start ComfyUI, or correct the proxy's --comfyui", True),
    "upstream_error": ("server_error", "the service behind this server failed", "try again in a moment", False),
    "payload_too_large": ("too_large", "the file is larger than the server takes",
                          "comfy-api-proxy has --max-upload-mb (default 100)", False),
    "output_unavailable": ("not_found", "ComfyUI no longer has this file", "run the workflow again", False),
    "asset_in_use": ("in_use", "the asset is still used by a job", "wait until that job has ended", True),
    "hash_mismatch": ("upload_failed", "the file changed on its way", "send it again", True),
    "idempotency_key_reuse": ("idempotency_key_reuse", "this submit has been sent before", "look the job up", False),
    "public_deployment_no_list": ("refused", "a public deployment does not list its jobs", "", False),
    "forbidden_origin": ("refused", "the proxy refuses requests under this host name",
                         "use the address that the proxy itself listens on", False),
}  # fmt: skip


def envelope(response: requests.Response) -> Mapping[str, Any]:
    """The `error` object of an answer; empty where a proxy in front answered instead."""
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    error = body.get("error") if isinstance(body, Mapping) else None
    return error if isinstance(error, Mapping) else {}


def failure(url: str, response: requests.Response) -> SkillError | None:
    """The SkillError for a typed error, with `http_status` and `retry_after` among its details; None when untyped."""
    elsewhere = cloud_refusals.storage_failure(url, response)
    if elsewhere is not None:
        return elsewhere
    error = envelope(response)
    kind = str(error.get("code") or "")
    details: dict[str, Any] = {"http_status": response.status_code}
    if response.status_code == 429:
        details["retry_after"] = retry_after(response)
    said = transport.error_text(response)
    known = refusals.refusal(kind, said, **details)
    if known is not None:
        return known
    if response.status_code == 401:
        return SkillError(
            f"{url} wants a key, or the key is wrong",
            code="refused",
            hint="API v2 takes it as a Bearer token: --api-key-file, or COMFY_CLOUD_API_KEY for Comfy Cloud",
            server_said=said,
            **details,
        )
    if kind in SENTENCES:
        code, message, hint, again = SENTENCES[kind]
        exit_code = cli.EXIT_BY_CODE.get(code, Exit.FAILED)
        return SkillError(
            f"{message} ({url})",
            code=code,
            exit=exit_code,
            hint=hint or None,
            retryable=again,
            server_said=said,
            **details,
        )
    if response.status_code == 429:
        return SkillError(
            f"{url} asks for a pause (HTTP 429)", code="busy", exit=Exit.FAILED, retryable=True,
            hint="wait a little", server_said=said, **details,
        )  # fmt: skip
    if response.status_code == 413:
        return SkillError(
            f"{url} does not take a request of this size", code="too_large", exit=Exit.FAILED,
            hint="deployments take up to 10,000,000 bytes a job; upload large inputs as files", server_said=said, **details,
        )  # fmt: skip
    return None


def retry_after(response: requests.Response) -> float | None:
    """The seconds in a Retry-After, at most a minute; None where it says nothing we can read."""
    wait = transport.retry_seconds(response.headers.get("Retry-After"))
    return None if wait is None else min(wait, 60.0)


def rejection(response: requests.Response, graph: Mapping[str, Any]) -> SkillError | None:
    """A rejected graph (exit 6), node by node where the server says which; None for every other failure."""
    error = envelope(response)
    kind = str(error.get("code") or "")
    details = error.get("details")
    details = details if isinstance(details, Mapping) else {}
    if kind not in REJECTIONS and not (
        response.status_code in (400, 422) and kind in ("invalid_request", "metadata_invalid")
    ):
        return None
    if kind == "missing_asset":
        return _missing_asset(error, details)
    message = str(error.get("message") or "")
    inner = {"type": _v1_type(kind, message), "message": message}
    return refusals.rejection({"error": inner, "node_errors": details.get("node_errors")}, graph)


def _v1_type(kind: str, message: str) -> str:
    """ComfyUI's own word for what v2 folds into `invalid_workflow`, read off the message it passes on."""
    if "no outputs" in message:
        return "prompt_no_outputs"
    if "does not exist" in message or "not found" in message:
        return "invalid_prompt"
    return "prompt_outputs_failed_validation" if "failed validation" in message else kind


def _missing_asset(error: Mapping[str, Any], details: Mapping[str, Any]) -> SkillError:
    missing = details.get("missing_ids")
    return SkillError(
        "the graph names an uploaded file that the server does not have (it may have expired)",
        code="rejected",
        exit=Exit.REJECTED,
        status="rejected",
        hint="upload it again: --input-file INPUT=PATH",
        rejection="missing_asset",
        missing=safe_text.clean_tree(safe_text.cap(missing, 12), 200) if isinstance(missing, list) else None,
        server_said=safe_text.clean(error.get("message"), 300),
    )


def is_about_labels(response: requests.Response) -> bool:
    """Whether a submit was refused for its label alone: surfaces differ in whether and how they take one."""
    error = envelope(response)
    return str(error.get("code") or "").startswith("metadata_") or "'metadata'" in str(
        error.get("message") or ""
    )
