"""Which widely used pack brings a node class, read once from `pack_classes.json`. Level 1.

The file lists the classes of about a hundred packs and of ComfyUI itself, as a server with these packs and the packs'
public sources name them in 2026. A class that is not in it is unknown, whatever a file or a server says of it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from comfyskill.graph import catalog

CORE = "comfy-core"
_FILE = Path(__file__).resolve().parent / "pack_classes.json"
# Registry ids that differ from the name of the pack's repository.
_SAME = {"was-ns": "was-node-suite-comfyui"}


@functools.lru_cache(maxsize=1)
def packs_by_class() -> Mapping[str, frozenset[str]]:
    """Class type -> the packs that bring it, by their usual names (see `usual_name`)."""
    found: dict[str, set[str]] = {}
    for pack, classes in json.loads(_FILE.read_text(encoding="utf-8")).items():
        for class_type in classes:
            found.setdefault(class_type, set()).add(usual_name(pack))
    for class_type, pack in catalog.NODE_PACKAGES.items():
        found.setdefault(class_type, set()).add(usual_name(pack))
    return {class_type: frozenset(packs) for class_type, packs in found.items()}


def usual_name(pack: str) -> str:
    """A pack's registry id or repository as one name: lower case, the last part of an address, hyphens alone."""
    last = pack.rstrip("/").rpartition("/")[2].removesuffix(".git").lower()
    return _SAME.get(last, last).replace("_", "-")
