"""Jobs as the demo server's /api/jobs lists them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfyskill.base.cli import Document
from comfyskill.base.foreign import mappings
from comfyskill.demo.item import Item
from comfyskill.demo.validation import Unhandled

PREVIEWABLE = ("images", "video", "audio", "3d")
MESH_SUFFIXES = (".obj", ".fbx", ".gltf", ".glb", ".usdz")
ENDS = ("execution_success", "execution_error", "execution_interrupted")


def workflow_id(extra_data: Document) -> Any:
    """The id of the workflow that a run carries. Raises Unhandled for `workflow: null`, as the real server crashes."""
    info = extra_data.get("extra_pnginfo")
    if not isinstance(info, dict) or "workflow" not in info:
        return None
    if not isinstance(info["workflow"], dict):
        raise Unhandled("workflow is null")
    return info["workflow"].get("id")


def waiting_job(item: Item, status: str, newest: bool) -> Document:
    """A job that waits or runs."""
    job = {
        "id": item.prompt_id,
        "status": status,
        "priority": item.number,
        "create_time": item.extra_data.get("create_time"),
        "outputs_count": 0,
        "previewable_outputs_count": 0 if newest else None,
        "workflow_id": workflow_id(item.extra_data),
    }
    return {key: value for key, value in job.items() if value is not None}


def finished_job(prompt_id: str, entry: Document, newest: bool) -> Document:
    """A job of the history. 0.8 calls an interrupted one `failed`."""
    number, _, _, extra_data, _ = entry["prompt"]
    messages = dict(entry["status"]["messages"])
    status = "completed" if entry["status"]["status_str"] == "success" else "failed"
    if newest and "execution_interrupted" in messages:
        status = "cancelled"
    found = summary(entry["outputs"])
    job = {
        "id": prompt_id,
        "status": status,
        "priority": number,
        "create_time": extra_data.get("create_time"),
        "execution_start_time": messages.get("execution_start", {}).get("timestamp"),
        "execution_end_time": next((messages[name]["timestamp"] for name in ENDS if name in messages), None),
        "execution_error": messages.get("execution_error"),
        "outputs_count": found.count,
        "previewable_outputs_count": found.previewable if newest else None,
        "preview_output": found.best or (found.text if newest else None),
        "workflow_id": workflow_id(extra_data),
    }
    return {key: value for key, value in job.items() if value is not None}


@dataclass
class Summary:
    """How many files a job has, how many can be shown, the one to show: a stored file before a temporary one, else a text."""

    count: int = 0
    previewable: int = 0
    best: Document | None = None
    text: Document | None = None


def summary(outputs: Mapping[str, Document]) -> Summary:
    """What the list of jobs says about a job's outputs. Texts do not count."""
    found = Summary()
    for node_id, output in outputs.items():
        for media, items in output.items():
            if media == "text" and found.text is None and items:
                found.text = {"content": items[0], "nodeId": node_id, "mediaType": media}
            for item in mappings(items):
                found.count += 1
                if not _previewable(media, item):
                    continue
                found.previewable += 1
                if found.best is None or (
                    found.best.get("type") != "output" and item.get("type") == "output"
                ):
                    found.best = {**item, "nodeId": node_id, "mediaType": media}
    return found


def _previewable(media: str, item: Mapping[str, object]) -> bool:
    form, name = str(item.get("format", "")), str(item.get("filename", "")).lower()
    return media in PREVIEWABLE or form.startswith(("video/", "audio/")) or name.endswith(MESH_SUFFIXES)
