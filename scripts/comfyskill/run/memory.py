"""A run that ended for lack of memory: what this very graph could do with less.

Level 2. Proposals are `--set` texts that can be copied; nothing is changed by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyskill.base.cli import SkillError
from comfyskill.graph import nodes
from comfyskill.server.protocol import Dialect

# Below these a picture is of no use; steps are what the model families' latents are divided into.
SMALLEST_EDGE = 256
EDGE_STEP = 64
FEWEST_FRAMES = 17


def proposals(graph: Mapping[str, Any], server: Dialect | None = None) -> list[dict[str, str]]:
    """Concrete changes for this graph, the least painful first: [{"use", "why"}]."""
    found: list[dict[str, str]] = []
    for node_id, node in nodes.each(graph):
        inputs = nodes.inputs_of(node)
        found += _smaller_batch(node_id, inputs)
        found += _fewer_frames(node_id, inputs)
        found += _lower_precision(node_id, nodes.class_of(node), inputs, server)
    if any(nodes.class_of(node) == "VAEDecode" for _, node in nodes.each(graph)):
        found.insert(0, {"use": "--tiled-vae", "why": "decode the picture in tiles: slower, far less memory"})
    for node_id, node in nodes.each(graph):
        found += _smaller_size(node_id, nodes.inputs_of(node))
    return found or _elsewhere(server)


def _elsewhere(server: Dialect | None) -> list[dict[str, str]]:
    """What helps when the graph itself has nothing to make smaller."""
    found = [
        {"use": "a smaller input picture", "why": "this graph sets no size, batch or decoder of its own"}
    ]
    if server is not None and server.api != "local":
        return found
    from comfyskill.server.commands import command, server_words

    words = server_words(server) if server is not None else []
    return [
        {
            "use": command("manage_queue.py", "free", "--models", "--memory", *words),
            "why": "what earlier runs left in memory goes; then run it again (--retry-oom does both)",
        },
        *found,
        {
            "use": "start the server with --lowvram",
            "why": "models are kept in parts in the main memory: slower",
        },
    ]


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _smaller_batch(node_id: str, inputs: Mapping[str, Any]) -> list[dict[str, str]]:
    batch = _whole(inputs.get("batch_size"))
    if batch is None or batch < 2:
        return []
    return [
        {
            "use": f"--set {node_id}.batch_size=1",
            "why": f"one picture at a time instead of {batch}; repeat with run_batch.py",
        }
    ]


def _fewer_frames(node_id: str, inputs: Mapping[str, Any]) -> list[dict[str, str]]:
    name = next((name for name in ("length", "num_frames", "frames") if _whole(inputs.get(name))), None)
    frames = _whole(inputs.get(name)) if name else None
    if frames is None or frames <= FEWEST_FRAMES:
        return []
    # Video models count frames as 4 n + 1 or 8 n + 1; a number of the second kind suits both.
    fewer = max((frames * 6 // 10) // 8 * 8 + 1, FEWEST_FRAMES)
    return [{"use": f"--set {node_id}.{name}={fewer}", "why": f"{fewer} frames instead of {frames}"}]


def _smaller_size(node_id: str, inputs: Mapping[str, Any]) -> list[dict[str, str]]:
    width, height = _whole(inputs.get("width")), _whole(inputs.get("height"))
    if width is None or height is None or min(width, height) <= SMALLEST_EDGE:
        return []
    smaller = [max(edge * 3 // 4 // EDGE_STEP * EDGE_STEP, SMALLEST_EDGE) for edge in (width, height)]
    return [
        {
            "use": f"--set {node_id}.width={smaller[0]} --set {node_id}.height={smaller[1]}",
            "why": f"{smaller[0]} x {smaller[1]} instead of {width} x {height}",
        }
    ]


def _lower_precision(
    node_id: str, class_type: str, inputs: Mapping[str, Any], server: Dialect | None
) -> list[dict[str, str]]:
    """An fp8 file of the same model when it is installed, else the loader's own fp8 switch."""
    for name, folder in (
        ("unet_name", "diffusion_models"),
        ("ckpt_name", "checkpoints"),
        ("clip_name", "text_encoders"),
    ):
        current = inputs.get(name)
        if not isinstance(current, str) or "fp8" in current.lower():
            continue
        stem = (
            current.rsplit("/", 1)[-1]
            .lower()
            .split(".")[0]
            .replace("_fp16", "")
            .replace("-fp16", "")
            .replace("_bf16", "")
        )
        for other in _installed(server, folder):
            if "fp8" in other.lower() and other.rsplit("/", 1)[-1].lower().startswith(stem):
                return [
                    {
                        "use": f"--set {node_id}.{name}={other}",
                        "why": "the fp8 file of the same model is installed",
                    }
                ]
    if class_type == "UNETLoader" and inputs.get("weight_dtype") == "default":
        return [
            {
                "use": f"--set {node_id}.weight_dtype=fp8_e4m3fn",
                "why": "load the model in 8 bits: half the memory",
            }
        ]
    return []


def _installed(server: Dialect | None, folder: str) -> list[str]:
    if server is None:
        return []
    try:
        return server.models(folder)
    except SkillError:
        return []
