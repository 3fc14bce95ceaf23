"""From what was found to a verdict: `ok`, `marginal` or `cloud`, with reasons, and the flags to install with. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from comfyskill.base.cli import Document
from comfyskill.machine.gpus import GIB, Gpu
from comfyskill.machine.system import Memory

# ComfyUI with PyTorch for CUDA takes 8 to 10 GB on disk, a first model 2 to 7 more.
DISK_NEEDED = 15 * GIB
DISK_COMFORTABLE = 40 * GIB
RANK = {"cloud": 0, "marginal": 1, "ok": 2}
# A "24 GB" card reports 22.5 to 24 GiB, by model and error correction.
NOMINAL = 1.07
# What macOS lets one process use as GPU memory by default, of the unified memory.
APPLE_SHARE = 0.75


@dataclass(frozen=True)
class Facts:
    """What is known of a machine. The defaults are those of a machine about which only GPU and memory are known."""

    system: str
    gpu: Gpu | None  # the best one
    memory: Memory
    hidden: bool = False  # an environment variable hides a GPU
    workspace: Path | None = None
    free_disk: int | None = None
    installed: bool = False
    python_bits: int = 64
    rosetta: bool = False
    wsl: bool = False


class Verdict(NamedTuple):
    """What follows from the hardware. `blockers` must be fixed first, whatever the GPU."""

    verdict: str
    reasons: list[str]
    blockers: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def usable(self) -> bool:
        """Whether this machine can run ComfyUI as it is."""
        return self.verdict != "cloud" and not self.blockers


def usable_memory(gpu: Gpu, memory: int | None) -> int | None:
    """GPU memory in bytes that one process can use: the GPU's own, or its share of the system's."""
    if gpu.vendor == "apple":
        return int(memory * APPLE_SHARE) if memory else None
    if gpu.vendor == "nvidia" and gpu.unified:
        return int(memory * 0.9) if memory else None
    if gpu.vendor == "intel" and gpu.integrated:
        return memory // 2 if memory else None
    return gpu.memory


def is_hidden(gpu: Gpu) -> bool:
    """Whether an environment variable keeps this GPU from every program (only lists of plain numbers are read)."""
    chosen = os.environ.get(
        {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES"}.get(gpu.vendor, "")
    )
    if chosen is None or not re.fullmatch(r"-1|[\d, ]*", chosen):
        return False
    return str(gpu.index) not in [number.strip() for number in chosen.split(",")]


def worth(gpu: Gpu, memory: int | None) -> tuple[bool, bool, int, int]:
    """Sort key: known vendor, not integrated, memory, vendor preference; the greatest is the best GPU."""
    preference = {"nvidia": 3, "apple": 3, "amd": 2, "intel": 1}.get(gpu.vendor, 0)
    return (
        preference > 0,
        not gpu.integrated or gpu.vendor == "apple",
        usable_memory(gpu, memory) or 0,
        preference,
    )


def _by_size(vram: int | None, what: str) -> Verdict:
    if vram is None:
        return Verdict("marginal", [f"{what}: no tool reported its memory, so it may not be enough"])
    gb = vram / GIB * NOMINAL
    described = f"{what} with {vram / GIB:.1f} GB"
    if gb >= 8:
        return Verdict("ok", [described])
    if gb >= 4:
        return Verdict("marginal", [f"{described}: small models, or large ones slowly"])
    return Verdict("cloud", [f"{described}: too little for today's models (minimum 4 GB, comfortable 8 GB)"])


def _at_most(found: Verdict, ceiling: str, reason: str) -> Verdict:
    verdict = min(found.verdict, ceiling, key=RANK.__getitem__)
    return found._replace(verdict=verdict, reasons=[*found.reasons, reason])


def judge_gpu(facts: Facts) -> Verdict:
    """The verdict that follows from the best GPU alone."""
    gpu, memory = facts.gpu, facts.memory.usable
    if gpu is None and facts.hidden:
        return Verdict("cloud", ["CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES hides every GPU (unset it)"])
    if gpu is None or gpu.vendor == "other":
        return Verdict(
            "cloud",
            ["no GPU that PyTorch can use was found; on the CPU one small picture takes minutes"],
            notes=["it runs with --cpu, to try out workflows"],
        )
    found = _by_size(usable_memory(gpu, memory), gpu.name)
    if facts.system == "Darwin":
        return _judge_mac(gpu, memory, found)
    if gpu.vendor == "nvidia" and gpu.compute_capability is not None and gpu.compute_capability < 5:
        return _at_most(found, "cloud", "its compute capability is below 5.0: PyTorch no longer supports it")
    if gpu.vendor == "amd" and facts.system == "Windows":
        return _at_most(
            found, "marginal", "comfy-cli installs DirectML for AMD on Windows: slower, fewer models"
        )
    if gpu.vendor == "amd" and gpu.integrated:
        return _at_most(found, "marginal", "its GPU shares the system's memory")
    if gpu.vendor == "intel" and gpu.integrated:
        modern = re.search(r"\bArc\b|\b1[34]0[VT]\b", gpu.name)
        return _at_most(
            found, "marginal" if modern else "cloud", "an integrated Intel GPU shares the system's memory"
        )
    if gpu.source == "sysfs" and gpu.vendor != "amd":
        return _at_most(
            found, "cloud", "the card is there, but its driver does not answer: install the driver first"
        )
    return found


def _judge_mac(gpu: Gpu, memory: int | None, found: Verdict) -> Verdict:
    if gpu.vendor != "apple":
        return _at_most(found, "cloud", "PyTorch no longer supports GPUs of Intel Macs")
    if memory is None:
        return found
    gb = memory / GIB
    described = [f"{gpu.name} with {gb:.0f} GB of unified memory"]
    if gb >= 16:
        return Verdict("ok", described, notes=["fp8 models do not run on Apple GPUs; use fp16 or GGUF files"])
    if gb >= 8:
        return Verdict("marginal", [f"{described[0]}: SD 1.5, and SDXL slowly"])
    return Verdict("cloud", [f"{described[0]}: too little"])


def judge(facts: Facts) -> Verdict:
    """The whole verdict: GPU, system memory, disk and Python."""
    found = judge_gpu(facts)
    blockers, notes = [], list(found.notes)
    usable = facts.memory.usable
    if usable is not None and facts.system != "Darwin":
        ram = usable / GIB * NOMINAL
        limited = " (a container's limit)" if usable == facts.memory.limit else ""
        described = f"{usable / GIB:.1f} GB of system memory{limited}"
        if ram < 8:
            found = _at_most(found, "cloud", f"{described}: the minimum is 8 GB")
        elif ram < 16:
            found = _at_most(found, "marginal", f"{described}: 16 GB is comfortable")
    free = facts.free_disk
    if free is not None and free < DISK_NEEDED and not facts.installed:
        blockers.append(
            f"{free / GIB:.1f} GB free at {facts.workspace}: an installation with one model takes about 15 GB"
            " (choose another --workspace)"
        )
    elif free is not None and free < DISK_COMFORTABLE:
        notes.append(f"{free / GIB:.0f} GB of free disk is enough for a few models only")
    if facts.python_bits != 64:
        blockers.append("this Python is 32-bit: PyTorch needs a 64-bit Python")
    if facts.rosetta:
        blockers.append(
            "this Python runs under Rosetta (x86_64): install an arm64 Python, or PyTorch sees no GPU"
        )
    if facts.wsl:
        notes.append("WSL2: memory and disk are Windows' share for Linux (.wslconfig changes it)")
    return found._replace(blockers=blockers, notes=notes)


def install_flags(facts: Facts, verdict: Verdict) -> list[str]:
    """The flags of `comfy install` for this machine."""
    best = facts.gpu
    if best is None or best.vendor == "other" or (facts.system == "Darwin" and best.vendor != "apple"):
        return ["--cpu"]
    if best.vendor == "intel":
        return ["--cpu"] if verdict.verdict == "cloud" else ["--intel-arc"]
    flags = {"nvidia": ["--nvidia"], "amd": ["--amd"], "apple": ["--m-series"]}[best.vendor]
    if best.compute_capability is not None and best.compute_capability < 7.5 and best.vendor == "nvidia":
        # PyTorch's CUDA 13 builds start at Turing (7.5); comfy-cli picks by the driver alone.
        flags += ["--cuda-version", "12.6"]
    return flags


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
    """`yes`, `tight` (slower: weights move between GPU and system memory), `no`, or `unknown`."""
    if budget.vram is None:
        return "unknown"
    if family.precision == "fp8" and not budget.fp8:
        return "no"
    vram = budget.vram / GIB * NOMINAL
    if vram >= family.full:
        return "yes"
    if budget.unified:
        # Unified memory: there is no other memory to move weights to.
        return "tight" if vram >= family.full * 0.8 else "no"
    if vram < family.least:
        return "no"
    ram = (budget.ram or 0) / GIB * NOMINAL
    return "tight" if budget.ram is None or ram >= family.ram else "no"


def budget(facts: Facts) -> Budget:
    """What models may use on this machine."""
    gpu = facts.gpu
    amd_on_windows = facts.system == "Windows" and gpu is not None and gpu.vendor == "amd"
    return Budget(
        usable_memory(gpu, facts.memory.usable) if gpu else 0,
        facts.memory.usable,
        unified=gpu is not None and gpu.unified,
        fp8=facts.system != "Darwin" and not amd_on_windows,
    )


def table(budget: Budget) -> list[Document]:
    """One row per family: whether it fits, and what it needs (GB)."""
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


def about(rows: Sequence[Document], families: Sequence[str]) -> Document:
    """The table's rows of these families, and in words whether any of them fits."""
    rows = [row for row in rows if row["family"] in families]
    best = min((row["fits"] for row in rows), key=("yes", "tight", "unknown", "no").index)
    fitting = [f"{row['family']} {row['precision']}" for row in rows if row["fits"] == best]
    words = {
        "yes": f"fits: {', '.join(fitting)}",
        "tight": f"fits tightly, slower because weights move between GPU and system memory: {', '.join(fitting)}",
        "unknown": "the memory of this GPU is unknown, so it may not fit",
        "no": f"does not fit: the minimum is {min(row['least_vram_gb'] for row in rows):g} GB of GPU memory",
    }
    return {"fits": best, "message": words[best], "families": rows}
