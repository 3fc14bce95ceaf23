"""From what was found to a verdict: `ok`, `marginal` or `cloud`, with reasons, and the flags to install with. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from comfyskill.machine import hardware_models
from comfyskill.machine import system as system_of
from comfyskill.machine.gpus import GIB, Gpu

# ComfyUI with PyTorch for CUDA takes 8 to 10 GB on disk, a first model 2 to 7 more.
DISK_NEEDED = 15 * GIB
DISK_COMFORTABLE = 40 * GIB
RANK = {"cloud": 0, "marginal": 1, "ok": 2}


class Verdict(NamedTuple):
    """What follows from the hardware. `blockers` are things to put right first, whatever the GPU."""

    verdict: str
    reasons: list[str]
    blockers: Sequence[str] = ()
    notes: Sequence[str] = ()


def usable_memory(gpu: Gpu, memory: int | None) -> int | None:
    """GPU memory in bytes that one process can count on: its own, or its share of the system's."""
    if gpu.vendor == "apple":
        return int(memory * hardware_models.APPLE_SHARE) if memory else None
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
        return Verdict("marginal", [f"{what}: no tool told its memory, so nothing can be promised"])
    gb = vram / GIB * hardware_models.NOMINAL
    told = f"{what} with {vram / GIB:.1f} GB"
    if gb >= 8:
        return Verdict("ok", [told])
    if gb >= 4:
        return Verdict("marginal", [f"{told}: small models, or large ones slowly"])
    return Verdict("cloud", [f"{told}: too little for today's models (4 GB is the least, 8 GB comfortable)"])


def _at_most(found: Verdict, ceiling: str, reason: str) -> Verdict:
    verdict = min(found.verdict, ceiling, key=RANK.__getitem__)
    return found._replace(verdict=verdict, reasons=[*found.reasons, reason])


def judge_gpu(here: system_of.Place, gpu: Gpu | None, memory: int | None, hidden: bool = False) -> Verdict:
    """The verdict that follows from the best GPU alone."""
    if gpu is None and hidden:
        return Verdict("cloud", ["CUDA_VISIBLE_DEVICES or HIP_VISIBLE_DEVICES hides every GPU (unset it)"])
    if gpu is None or gpu.vendor == "other":
        return Verdict(
            "cloud",
            ["no GPU that PyTorch can use was found; on the CPU one small picture takes minutes"],
            notes=["it runs all the same with --cpu, to try workflows out"],
        )
    found = _by_size(usable_memory(gpu, memory), gpu.name)
    if here.system == "Darwin":
        return _judge_mac(gpu, memory, found)
    if gpu.vendor == "nvidia" and gpu.compute_capability is not None and gpu.compute_capability < 5:
        return _at_most(found, "cloud", "its compute capability is below 5.0: PyTorch has dropped it")
    if gpu.vendor == "amd" and here.system == "Windows":
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
    told = [f"{gpu.name} with {gb:.0f} GB of unified memory"]
    if gb >= 16:
        return Verdict("ok", told, notes=["fp8 models do not run on Apple GPUs; take fp16 or GGUF files"])
    if gb >= 8:
        return Verdict("marginal", [f"{told[0]}: SD 1.5, and SDXL slowly"])
    return Verdict("cloud", [f"{told[0]}: too little"])


def judge(
    here: system_of.Place,
    best: Gpu | None,
    memory: Mapping[str, Any],
    disk: Mapping[str, Any],
    python: Mapping[str, Any],
    rosetta: bool,
    installed: bool,
    hidden: bool = False,
) -> Verdict:
    """The whole verdict: GPU, system memory, disk and Python."""
    usable = memory["usable"]
    found = judge_gpu(here, best, usable, hidden)
    blockers, notes = [], list(found.notes)
    if usable is not None and here.system != "Darwin":
        ram = usable / GIB * hardware_models.NOMINAL
        limited = " (a container's limit)" if memory["limit"] and usable == memory["limit"] else ""
        if ram < 8:
            found = _at_most(
                found, "cloud", f"{usable / GIB:.1f} GB of system memory{limited}: 8 GB is the least"
            )
        elif ram < 16:
            found = _at_most(
                found, "marginal", f"{usable / GIB:.1f} GB of system memory{limited}: 16 GB is comfortable"
            )
    free = disk["free"]
    if free is not None and free < DISK_NEEDED and not installed:
        gb = f"{free / GIB:.1f} GB free at {disk['workspace']}"
        blockers.append(
            f"{gb}: an installation with one model takes about 15 GB (choose another --workspace)"
        )
    elif free is not None and free < DISK_COMFORTABLE:
        notes.append(f"{free / GIB:.0f} GB of free disk hold a few models only")
    if python["bits"] != 64:
        blockers.append("this Python is 32-bit: PyTorch needs a 64-bit one")
    if rosetta:
        blockers.append(
            "this Python runs under Rosetta (x86_64): install an arm64 Python, or PyTorch sees no GPU"
        )
    if system_of.is_wsl(here):
        notes.append("WSL2: memory and disk are Windows' share for Linux (.wslconfig changes it)")
    return found._replace(blockers=blockers, notes=notes)


def install_flags(here: system_of.Place, best: Gpu | None, verdict: Verdict) -> list[str]:
    """The flags of `comfy install` for this machine."""
    if best is None or best.vendor == "other" or (here.system == "Darwin" and best.vendor != "apple"):
        return ["--cpu"]
    if best.vendor == "intel":
        return ["--cpu"] if verdict.verdict == "cloud" else ["--intel-arc"]
    flags = {"nvidia": ["--nvidia"], "amd": ["--amd"], "apple": ["--m-series"]}[best.vendor]
    if best.compute_capability is not None and best.compute_capability < 7.5 and best.vendor == "nvidia":
        # PyTorch's CUDA 13 builds start at Turing (7.5); comfy-cli picks by the driver alone.
        flags += ["--cuda-version", "12.6"]
    return flags
