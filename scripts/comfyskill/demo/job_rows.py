"""Jobs as the demo server's /api/jobs lists them."""

from __future__ import annotations

from typing import Any

from comfyskill.base.cli import Document
from comfyskill.demo.item import Item
from comfyskill.demo.validation import Unhandled

PREVIEWABLE = ("images", "video", "audio", "3d", "gifs", "videos")
MEDIA_SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".mp4",
    ".webm",
    ".wav",
    ".mp3",
    ".flac",
    ".opus",
    ".glb",
)


def _created(job: Document) -> int:
    return int(job.get("create_time") or 0)


def _duration(job: Document) -> int:
    return int(job.get("execution_end_time") or 0) - int(job.get("execution_start_time") or 0)


def workflow_id(extra_data: Document) -> Any:
    """The id of the workflow that a run carries. Raises Unhandled for `workflow: null`, as the real server crashes."""
    info = extra_data.get("extra_pnginfo")
    if not isinstance(info, dict) or "workflow" not in info:
        return None
    if not isinstance(info["workflow"], dict):
        raise Unhandled("workflow is null")
    return info["workflow"].get("id")


def waiting_job(item: Item, status: str) -> Document:
    job = {
        "id": item.prompt_id,
        "status": status,
        "priority": item.number,
        "create_time": item.extra_data.get("create_time"),
        "outputs_count": 0,
        "workflow_id": workflow_id(item.extra_data),
    }
    return {key: value for key, value in job.items() if value is not None}


def finished_job(prompt_id: str, entry: Document) -> Document:
    number, _, _, extra_data, _ = entry["prompt"]
    times = {name: data.get("timestamp") for name, data in entry["status"]["messages"]}
    ends = ("execution_success", "execution_error", "execution_interrupted")
    error = next((data for name, data in entry["status"]["messages"] if name == "execution_error"), None)
    count, preview = summary(entry["outputs"])
    job = {
        "id": prompt_id,
        "status": "completed" if entry["status"]["status_str"] == "success" else "failed",
        "priority": number,
        "create_time": extra_data.get("create_time"),
        "execution_start_time": times.get("execution_start"),
        "execution_end_time": next((times[name] for name in ends if name in times), None),
        "execution_error": error,
        "outputs_count": count,
        "preview_output": preview,
        "workflow_id": workflow_id(extra_data),
    }
    return {key: value for key, value in job.items() if value is not None}


def summary(outputs: Document) -> tuple[int, Document | None]:
    """(number of outputs, the one to show): a stored file before a temporary one."""
    count = 0
    best: Document | None = None
    for node_id, output in outputs.items():
        for media, items in output.items():
            if media == "animated" or not isinstance(items, list):
                continue
            for item in items:
                count += 1
                if not isinstance(item, dict) or not _previewable(media, item):
                    continue
                if best is None or (best.get("type") != "output" and item.get("type") == "output"):
                    best = {**item, "nodeId": node_id, "mediaType": media}
    return count, best


def _previewable(media: str, item: Document) -> bool:
    return media in PREVIEWABLE or str(item.get("filename", "")).lower().endswith(MEDIA_SUFFIXES)
