"""The machine around the GPU: system, memory, disk, container, WSL, Python."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from comfyskill.base import foreign, paths
from comfyskill.base.cli import Document
from comfyskill.machine import gpus as machine_gpus

# For tests and for replaying another machine's tools: the system to assume, and the folder of its /proc and /sys.
# A report made with one of them says so under "simulated".
SYSTEM_VARIABLE = "COMFY_HARDWARE_SYSTEM"
MACHINE_VARIABLE = "COMFY_HARDWARE_MACHINE"
ROOT_VARIABLE = "COMFY_HARDWARE_ROOT"
# cgroup v1 writes "no limit" as a number close to 2^63.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True)
class Place:
    """The machine that is examined."""

    system: str
    machine: str
    root: Path
    simulated: bool

    def read(self, path: str) -> str:
        """A small file of this machine, "" when it is missing or cannot be read."""
        try:
            with (self.root / path.lstrip("/")).open(encoding="utf-8", errors="replace") as file:
                return file.read(65536)
        except OSError:
            return ""


def place() -> Place:
    """The machine to examine: this one, unless the test variables say otherwise."""
    system = os.environ.get(SYSTEM_VARIABLE) or platform.system()
    machine = os.environ.get(MACHINE_VARIABLE) or platform.machine()
    root = os.environ.get(ROOT_VARIABLE) or "/"
    names = (SYSTEM_VARIABLE, MACHINE_VARIABLE, ROOT_VARIABLE)
    return Place(system, machine, Path(root), any(os.environ.get(name) for name in names))


def is_wsl(here: Place) -> bool:
    """Whether this is Linux inside Windows (WSL)."""
    return here.system == "Linux" and "microsoft" in here.read("/proc/version").lower()


def in_container(here: Place) -> bool:
    """Whether this process runs in a container."""
    if here.system != "Linux":
        return False
    if any((here.root / marker).exists() for marker in (".dockerenv", "run/.containerenv")):
        return True
    marks = ("docker", "kubepods", "containerd", "/lxc/", "libpod")
    return any(mark in here.read("/proc/1/cgroup") for mark in marks)


def memory_limit(here: Place) -> int | None:
    """The cgroup's memory limit in bytes (the smallest of its parents), None without a limit."""
    limits = [here.read("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    for line in here.read("/proc/self/cgroup").splitlines():
        hierarchy, _, path = line.partition("::")
        if hierarchy != "0":
            continue
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            folder = "/".join(["/sys/fs/cgroup", *parts[:depth]])
            limits.append(here.read(f"{folder}/memory.max"))
    limits.append(here.read("/sys/fs/cgroup/memory.max"))
    numbers = [int(text) for text in (limit.strip() for limit in limits) if text.isdigit() and len(text) < 20]
    known = [number for number in numbers if 0 < number < _NO_LIMIT]
    return min(known) if known else None


class Memory(NamedTuple):
    """Memory in bytes: all of it, a container's limit, what programs can use. None: unknown, or no limit."""

    total: int | None = None
    limit: int | None = None
    usable: int | None = None


class Disk(NamedTuple):
    """Bytes on the disk where the workspace is or would be; None when they are unknown."""

    workspace: Path
    free: int | None = None
    total: int | None = None


def memory(here: Place, answers: Mapping[str, str]) -> Memory:
    """This machine's memory."""
    total: int | None = None
    if here.system == "Darwin":
        total = machine_gpus.size(answers.get("sysctl memsize", ""))
    elif here.system == "Windows":
        total = _windows_memory(answers)
    else:
        for line in here.read("/proc/meminfo").splitlines():
            if line.startswith("MemTotal:"):
                total = machine_gpus.size(line.split(":", 1)[1])
    limit = memory_limit(here) if here.system == "Linux" else None
    usable = min(total, limit) if total and limit else total or limit
    return Memory(total, limit, usable)


def _windows_memory(answers: Mapping[str, str]) -> int | None:
    described = foreign.mapping(machine_gpus.json_in(answers.get("powershell", "")))
    for entry in machine_gpus.dictionaries(described.get("os")):
        if found := machine_gpus.size(entry.get("TotalVisibleMemorySize"), "kb"):
            return found
    for line in answers.get("wmic memory", "").splitlines():
        key, _, value = line.strip().partition("=")
        if key == "TotalPhysicalMemory":
            return machine_gpus.size(value)
    return _windows_memory_call() if os.name == "nt" else None


def _windows_memory_call() -> int | None:
    """Physical memory from the Windows API (GlobalMemoryStatusEx); no tool needed."""
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "a", "b", "c", "d", "e")),
        ]

    status = Status()
    status.length = ctypes.sizeof(Status)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - the attribute exists on Windows only
    return int(status.total) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None


def default_workspace(here: Place) -> Path:
    """Where comfy-cli puts ComfyUI by default (as documented)."""
    home = paths.home()
    return home / "comfy" / "ComfyUI" if here.system == "Linux" else home / "Documents" / "comfy" / "ComfyUI"


def disk(workspace: Path) -> Disk:
    """The disk of the workspace's nearest folder that exists."""
    folder = paths.absolute(workspace)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return Disk(workspace)
    return Disk(workspace, usage.free, usage.total)


def python() -> Document:
    """The Python that runs this: version, bits, architecture, path."""
    return {
        "version": platform.python_version(),
        "bits": struct.calcsize("P") * 8,
        "machine": platform.machine(),
        "executable": sys.executable,
        "virtual_environment": sys.prefix != sys.base_prefix,
    }


def drm_gpus(here: Place) -> list[machine_gpus.Gpu]:
    """GPUs as the Linux kernel lists them under /sys/class/drm; AMD's driver reports the memory there."""
    gpus: list[machine_gpus.Gpu] = []
    try:
        cards = sorted((here.root / "sys/class/drm").glob("card[0-9]*"))
    except OSError:
        return gpus
    for card in cards:
        if "-" in card.name:
            continue
        device = f"/sys/class/drm/{card.name}/device"
        vendor_id = here.read(f"{device}/vendor").strip().upper().removeprefix("0X")
        vendor = {"10DE": "nvidia", "1002": "amd", "8086": "intel"}.get(vendor_id)
        if vendor is None:
            continue
        product = here.read(f"{device}/product_name").strip()
        vram = machine_gpus.size(here.read(f"{device}/mem_info_vram_total"))
        gpus.append(
            machine_gpus.Gpu(vendor, product or f"{vendor.upper()} GPU", vram, "sysfs", index=len(gpus))
        )
    return gpus
