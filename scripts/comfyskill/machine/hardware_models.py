"""Model families and the memory they want: a table, and which of them a machine can run.

The figures are guidance: size of the weights in that precision (as published for ComfyUI) plus working memory at
the family's usual picture or clip size. `full` runs without moving weights; between `least` and `full` ComfyUI
moves weights between the GPU and system memory, which costs time and wants `ram`.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

GIB = 1024**3
# A "24 GB" card reports 22.5 to 24 GiB, by model and error correction.
NOMINAL = 1.07
# What macOS lets one process use as GPU memory by default, of the unified memory.
APPLE_SHARE = 0.75


class Family(NamedTuple):
    """One family in one precision; all sizes in GB."""

    name: str
    precision: str
    kind: str
    full: float
    least: float
    ram: float
    disk: float


FAMILIES = (
    Family("SD 1.5", "fp16", "image", 4, 2, 8, 2.1),
    Family("SDXL", "fp16", "image", 8, 4, 12, 7),
    Family("SD 3.5 Medium", "fp16", "image", 10, 6, 16, 12),
    Family("SD 3.5 Large", "fp8", "image", 16, 10, 24, 15),
    Family("Flux.1", "fp16", "image", 24, 12, 40, 34),
    Family("Flux.1", "fp8", "image", 16, 8, 24, 17.3),
    Family("Flux.1", "GGUF Q4", "image", 8, 6, 16, 12),
    Family("Flux.2 dev", "fp8", "image", 40, 16, 64, 54),
    Family("Qwen-Image", "fp8", "image", 24, 12, 32, 30),
    Family("Z-Image Turbo", "bf16", "image", 16, 8, 16, 21),
    Family("Wan 2.1 1.3B", "fp16", "video", 8, 6, 16, 10),
    Family("Wan 2.2 5B", "fp16", "video", 16, 8, 32, 18),
    Family("Wan 2.2 14B", "fp8", "video", 24, 12, 48, 36),
    Family("HunyuanVideo", "bf16", "video", 40, 20, 64, 35),
    Family("HunyuanVideo", "fp8", "video", 24, 12, 32, 23),
    Family("HunyuanVideo 1.5", "fp16", "video", 24, 12, 32, 27),
    Family("LTX-Video 2B", "bf16", "video", 12, 6, 16, 16),
    Family("LTX-Video 13B", "fp8", "video", 24, 12, 32, 26),
    Family("LTX-2 19B", "fp8", "video", 32, 16, 64, 42),
    Family("ACE-Step", "fp16", "audio", 8, 4, 16, 7.7),
    Family("Hunyuan3D 2.1", "fp16", "3d", 10, 6, 16, 7.4),
)


class Budget(NamedTuple):
    """What models may use, in bytes; `vram` 0 means no usable GPU, None an unknown size."""

    vram: int | None
    ram: int | None
    unified: bool = False
    fp8: bool = True


def fits(family: Family, budget: Budget) -> str:
    """`yes`, `tight` (weights are moved to and fro, slower), `no`, or `unknown`."""
    if budget.vram is None:
        return "unknown"
    if family.precision == "fp8" and not budget.fp8:
        return "no"
    vram = budget.vram / GIB * NOMINAL
    if vram >= family.full:
        return "yes"
    if budget.unified:
        # Nothing to move weights to: memory is one.
        return "tight" if vram >= family.full * 0.8 else "no"
    if vram < family.least:
        return "no"
    ram = (budget.ram or 0) / GIB * NOMINAL
    return "tight" if budget.ram is None or ram >= family.ram else "no"


def table(budget: Budget) -> list[dict[str, Any]]:
    """One row a family: whether it fits, and what it wants (GB)."""
    return [
        {
            "family": family.name,
            "precision": family.precision,
            "kind": family.kind,
            "fits": fits(family, budget),
            "vram_gb": family.full,
            "least_vram_gb": family.least,
            "ram_gb": family.ram,
            "disk_gb": family.disk,
        }
        for family in FAMILIES
    ]


def named(text: str) -> list[str]:
    """The families that a name such as `flux`, `wan 14b` or `sdxl` means, without repeats; empty when none."""
    words = re.findall(r"[a-z]+|\d+(?:\.\d+)?", text.casefold())
    found = [family.name for family in FAMILIES if words and _has(family.name, words)]
    return list(dict.fromkeys(found))


def _has(name: str, words: list[str]) -> bool:
    parts = re.findall(r"[a-z]+|\d+(?:\.\d+)?", name.casefold())
    joined = "".join(parts)
    return all(word in parts if word[0].isdigit() else word in joined for word in words)


def about(rows: list[dict[str, Any]], families: list[str]) -> dict[str, Any]:
    """The table's rows of these families, and in words whether any of them fits."""
    rows = [row for row in rows if row["family"] in families]
    best = min((row["fits"] for row in rows), key=("yes", "tight", "unknown", "no").index)
    fitting = [f"{row['family']} {row['precision']}" for row in rows if row["fits"] == best]
    words = {
        "yes": f"fits: {', '.join(fitting)}",
        "tight": f"fits tightly, slower because weights are moved to and fro: {', '.join(fitting)}",
        "unknown": "the memory of this GPU is unknown, so nothing can be promised",
        "no": f"does not fit: the least is {min(row['least_vram_gb'] for row in rows):g} GB of GPU memory",
    }
    return {"fits": best, "message": words[best], "families": rows}
