"""Small graphs for tests. Those of core nodes alone also run on a real server."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

Graph = dict[str, Any]
_colors = itertools.count(int(uuid.uuid4().int % 10_000_000))


def job_id(name: str) -> str:
    """An id that every server takes, the same for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def picture(color: int | None = None, prefix: str = "skilltest", size: int = 32) -> Graph:
    """One picture without a model; a fresh color each time unless one is given, so that it is not cached."""
    color = next(_colors) % 0xFFFFFF if color is None else color
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": size, "height": size, "batch_size": 1, "color": color},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def two_pictures(prefix: str = "skilltest") -> Graph:
    """Two outputs of one picture."""
    graph = picture(prefix=f"{prefix}_a")
    graph["3"] = {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    graph["4"] = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": f"{prefix}_b"}}
    return graph


def sleeper(seconds: float, steps: int | None = None, seed: int | None = None) -> Graph:
    """Demo server only: waits with progress, then saves a picture. It can be stopped between two steps."""
    steps = steps or max(10, int(seconds * 4))
    seed = next(_colors) if seed is None else seed
    return {
        "1": {
            "class_type": "DemoSleep",
            "inputs": {"seconds": seconds, "steps": steps, "seed": seed},
            "_meta": {"title": "A long nap"},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "slept"}},
    }


def failing(kind: str = "ValueError", message: str = "boom") -> Graph:
    """Demo server only: one picture is saved, then a node with a title fails."""
    graph = picture(prefix="before")
    graph["7"] = {
        "class_type": "DemoFail",
        "inputs": {"message": message, "kind": kind, "image": ["1", 0], "after": 0.05},
        "_meta": {"title": "The weak one"},
    }
    graph["8"] = {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "never"}}
    return graph


def photo(name: str = "example.png") -> Graph:
    """Loads a picture of the user's, inverts it, saves it."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "photo"}},
    }


def text(words: str) -> Graph:
    """Demo server only: puts out text alone."""
    return {"1": {"class_type": "DemoText", "inputs": {"text": words, "live": False, "broadcast": False}}}
