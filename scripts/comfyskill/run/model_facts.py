"""What tells one model file from another of the same name, as far as a server says: its size, and a hash it carries.

Level 3. Sizes come from /experiment/models (0.8 and later), hashes from the file's own metadata; neither is a reason
to fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import _common
from comfyskill.base import safe_text
from comfyskill.base.cli import SkillError
from comfyskill.graph import facts
from comfyskill.server.protocol import Dialect

HASH_KEYS = ("modelspec.hash_sha256", "sshs_model_hash", "sha256")
MOST_MODELS = 40


def model_facts(server: Dialect, graph: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The model files that a graph names: [{name, folder, bytes, hash}], the last two where the server tells them.

    `missing`: True for a file that is not in the server's list of that folder.
    """
    uses = {(use.name, use.folder): None for use in facts.models_in(graph)}
    listed: dict[str, dict[str, Any]] = {}
    rows = []
    for name, folder in list(uses)[:MOST_MODELS]:
        row: dict[str, Any] = {"name": safe_text.clean(name, 300), "folder": folder}
        if folder and server.api == "local":
            if folder not in listed:
                listed[folder] = _sizes(server, folder)
            known = listed[folder]
            row |= known.get(name.replace("\\", "/"), {"missing": True} if known else {})
            row |= _hash(server, folder, name)
        rows.append(row)
    return rows


def _sizes(server: Dialect, folder: str) -> dict[str, Any]:
    try:
        answer = server.get_json(f"experiment/models/{_common.quoted(folder)}", attempts=1)
    except SkillError:
        return {}
    found = {}
    for item in answer if isinstance(answer, list) else []:
        if isinstance(item, Mapping) and isinstance(item.get("name"), str):
            size = item.get("size")
            found[item["name"].replace("\\", "/")] = {"bytes": size} if isinstance(size, int) else {}
    return found


def _hash(server: Dialect, folder: str, name: str) -> dict[str, str]:
    if not name.endswith(".safetensors"):
        return {}
    try:
        answer = server.get_json(
            f"view_metadata/{_common.quoted(folder)}", {"filename": name}, attempts=1, timeout=15
        )
    except SkillError:
        return {}
    for key in HASH_KEYS:
        value = answer.get(key) if isinstance(answer, Mapping) else None
        if isinstance(value, str) and value:
            return {"hash": safe_text.clean(value, 100)}
    return {}
