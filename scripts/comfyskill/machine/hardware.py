"""What this machine can run: ask its tools, read the answers, judge."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from comfyskill.base import paths, programs, safe_text
from comfyskill.base.cli import Document
from comfyskill.machine import gpus as desktop
from comfyskill.machine import system as system_of
from comfyskill.machine import verdict as machine_verdict
from comfyskill.machine.gpus import GIB, Gpu
from comfyskill.machine.verdict import Facts, Verdict

# Importing PyTorch from a cold disk takes several seconds; the whole check stays under ten.
PYTORCH_LIMIT_S = 8.5
NVIDIA_FIELDS = "index,name,memory.total,driver_version"
# Driver folders that are often not on PATH.
PLACES = (
    "/usr/lib/wsl/lib",
    "/opt/rocm/bin",
    "/usr/local/nvidia/bin",
    r"C:\Program Files\NVIDIA Corporation\NVSMI",
)
_POWERSHELL = (
    "$ErrorActionPreference='SilentlyContinue';"
    "[Console]::OutputEncoding=[Text.Encoding]::UTF8;"
    "$g=@(Get-CimInstance Win32_VideoController|Select-Object Name,AdapterRAM,DriverVersion,PNPDeviceID);"
    "$o=Get-CimInstance Win32_OperatingSystem|Select-Object Caption,Version,TotalVisibleMemorySize;"
    "$r=@(Get-ItemProperty 'HKLM:\\SYSTEM\\CurrentControlSet\\Control\\Class\\"
    "{4d36e968-e325-11ce-bfc1-08002be10318}\\0*'|Select-Object DriverDesc,'HardwareInformation.qwMemorySize');"
    "ConvertTo-Json -Compress -Depth 3 @{gpus=$g;os=$o;registry=$r}"
)
# Computes on the device: a build that only claims a GPU fails here, not in the first run.
_PYTORCH = """
import json
answer = {"installed": False, "usable": None}
try:
    import torch
    answer.update(installed=True, version=torch.__version__, cuda=torch.version.cuda,
                  hip=getattr(torch.version, "hip", None))
    kinds = []
    if torch.cuda.is_available():
        kinds.append("cuda")
    if getattr(torch, "xpu", None) is not None and torch.xpu.is_available():
        kinds.append("xpu")
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        kinds.append("mps")
    for kind in kinds + ["cpu"]:
        try:
            ones = torch.ones(64, 64, device=kind)
            assert float((ones @ ones).sum()) == 64.0 ** 3
            answer["usable"] = kind
            if kind in ("cuda", "xpu"):
                answer["device"] = getattr(torch, kind).get_device_name(0)
            break
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            answer.setdefault("errors", {})[kind] = str(error)[:300]
except ImportError as error:
    answer["import_error"] = str(error)[:300]
print(json.dumps(answer))
"""


def commands(here: system_of.Place) -> dict[str, Sequence[str]]:
    """The tools to ask on this system, by a short name."""
    if here.system == "Darwin":
        keys = {
            "brand": "machdep.cpu.brand_string",
            "memsize": "hw.memsize",
            "translated": "sysctl.proc_translated",
        }
        asked: dict[str, Sequence[str]] = {
            f"sysctl {name}": ["sysctl", "-n", key] for name, key in keys.items()
        }
        asked["sysctl arm64"] = ["sysctl", "-n", "hw.optional.arm64"]
        asked["system_profiler"] = ["system_profiler", "SPDisplaysDataType", "SPHardwareDataType", "-json"]
        return asked
    nvidia_full = f"{NVIDIA_FIELDS},memory.free,compute_cap,mig.mode.current"
    asked = {
        "nvidia-smi": ["nvidia-smi", f"--query-gpu={nvidia_full}", "--format=csv"],
        "nvidia-smi plain": ["nvidia-smi", f"--query-gpu={NVIDIA_FIELDS}", "--format=csv"],
        "nvidia-smi -L": ["nvidia-smi", "-L"],
        "amd-smi": ["amd-smi", "static", "--asic", "--vram", "--json"],
        "rocm-smi": ["rocm-smi", "--showproductname", "--showmeminfo", "vram", "gtt", "--json"],
        "rocm-smi text": ["rocm-smi", "--showproductname", "--showmeminfo", "vram"],
        "xpu-smi": ["xpu-smi", "discovery", "-j"],
        **{f"xpu-smi {n}": ["xpu-smi", "discovery", "-d", str(n), "-j"] for n in range(4)},
        "sycl-ls": ["sycl-ls"],
    }
    if here.system == "Windows":
        options = ["-NoProfile", "-NonInteractive", "-Command", _POWERSHELL]
        asked["powershell"] = ["powershell", *options]
        asked["pwsh"] = ["pwsh", *options]
        fields = "Name,AdapterRAM,DriverVersion,PNPDeviceID"
        asked["wmic"] = ["wmic", "path", "Win32_VideoController", "get", fields, "/format:list"]
        asked["wmic memory"] = ["wmic", "ComputerSystem", "get", "TotalPhysicalMemory", "/format:list"]
    return asked


def find_gpus(here: system_of.Place, said: Mapping[str, str], memory: int | None) -> list[Gpu]:
    """All GPUs that the tools' texts name, each vendor from its best source."""
    if here.system == "Darwin":
        return desktop.apple(said["sysctl brand"], said["system_profiler"], memory)
    found = desktop.nvidia(said["nvidia-smi"], said["nvidia-smi plain"], said["nvidia-smi -L"])
    amd_json = desktop.rocm_smi(said["rocm-smi"])
    amd = desktop.amd_smi(said["amd-smi"])
    if not amd or any(gpu.unified or gpu.memory is None for gpu in amd):
        # rocm-smi also reports the shared memory of an APU.
        amd = amd_json or amd
    found += amd or desktop.rocm_smi_text(said["rocm-smi text"])
    listed = desktop.xpu_smi(said[name] for name in ("xpu-smi", *(f"xpu-smi {n}" for n in range(4))))
    found += listed or desktop.sycl_ls(said["sycl-ls"])
    if here.system == "Windows":
        others = desktop.windows_cim(said["powershell"]) or desktop.windows_cim(said["pwsh"])
        others = others or desktop.wmic(said["wmic"])
    else:
        others = [
            gpu
            if gpu.memory
            else replace(gpu, notes=(*gpu.notes, "the kernel lists it, but no driver tool responds"))
            for gpu in system_of.drm_gpus(here)
        ]
    vendors = {gpu.vendor for gpu in found}
    return found + [gpu for gpu in others if gpu.vendor not in vendors]


def pytorch_python(workspace: Path) -> str:
    """The Python whose PyTorch is checked: the workspace's own, else the one that runs this."""
    for name in (".venv", "venv"):
        for program in ("bin/python", "Scripts/python.exe"):
            if (workspace / name / program).is_file():
                return str(workspace / name / program)
    return sys.executable


def _pytorch(answer: programs.Answer, program: str) -> Document:
    report = desktop.json_in(answer.text)
    found = (
        report
        if isinstance(report, dict)
        else {"usable": None, "problem": answer.problem or "gave no answer"}
    )
    return {"python": program, **found}


def check(workspace: Path | None = None, *, pytorch: bool = False) -> Document:
    """The whole hardware report of this machine. Never raises for a tool's answer; takes under ten seconds."""
    start = time.monotonic()
    here = system_of.place()
    folder = paths.absolute(workspace or system_of.default_workspace(here))
    asked = commands(here)
    limits = {}
    if pytorch:
        asked["pytorch"] = [pytorch_python(folder), "-c", _PYTORCH]
        limits["pytorch"] = PYTORCH_LIMIT_S
    answers = programs.ask(
        asked, limits=limits, places=[str(here.root / place.lstrip("/")) for place in PLACES]
    )
    said = {name: answers[name].text for name in asked}
    memory, disk, python = system_of.memory(here, said), system_of.disk(folder), system_of.python()
    gpus = find_gpus(here, said, memory.usable)
    seen = [gpu for gpu in gpus if not machine_verdict.is_hidden(gpu)]
    best = max(seen, key=lambda gpu: machine_verdict.worth(gpu, memory.usable), default=None)
    facts = Facts(
        here.system,
        None if best is None or best.vendor == "other" else best,
        memory,
        hidden=len(seen) < len(gpus),
        workspace=folder,
        free_disk=disk.free,
        installed=(folder / "main.py").is_file(),
        python_bits=python["bits"],
        rosetta=here.system == "Darwin" and said["sysctl translated"].strip() == "1",
        wsl=system_of.is_wsl(here),
    )
    verdict = machine_verdict.judge(facts)
    flags = machine_verdict.install_flags(facts, verdict)
    found = report(facts, verdict) | {
        "install": {
            "flags": flags,
            "command": safe_text.shell_words(["comfy", "--skip-prompt", "install", *flags]),
        },
        "gpus": [_gpu(gpu, memory.usable) for gpu in gpus],
        "system": {
            "name": here.system,
            "machine": here.machine,
            "wsl": facts.wsl,
            "container": system_of.in_container(here),
            "rosetta": facts.rosetta,
        },
        "disk": {
            "workspace": str(disk.workspace),
            "free_gb": _gb(disk.free),
            "total_gb": _gb(disk.total),
        },
        "python": python,
        "installed": facts.installed,
        "tools": _tools(answers),
        "next": _next(verdict),
    }
    if pytorch:
        found["pytorch"] = _pytorch(answers["pytorch"], asked["pytorch"][0])
    if here.simulated:
        found["simulated"] = True
    return found | {"seconds": round(time.monotonic() - start, 2)}


def suppose(vram_gb: float, ram_gb: float | None) -> Document:
    """The verdict and the families for another machine with one graphics card of this memory (0: no card)."""
    gpu = Gpu("nvidia", "a graphics card", int(vram_gb * GIB), "asked for") if vram_gb else None
    ram = None if ram_gb is None else int(ram_gb * GIB)
    facts = Facts("Linux", gpu, system_of.Memory(total=ram, usable=ram))
    verdict = machine_verdict.judge(facts)
    notes = [*verdict.notes, "this machine was not examined; the card is assumed to compute in fp8"]
    if ram is None:
        notes.append("`tight` also needs the system memory in `ram_gb`: give it with --ram GB")
    asked = {"asked_for": {"vram_gb": vram_gb, "ram_gb": ram_gb}}
    return report(facts, verdict._replace(notes=notes)) | asked


def report(facts: Facts, verdict: Verdict) -> Document:
    """What follows from the facts: the verdict, why, and which model families fit."""
    found: Document = {"status": "ok" if verdict.usable else "unsuitable"}
    if not verdict.usable:
        found |= _unsuitable(verdict)
    memory = facts.memory
    return found | {
        "verdict": verdict.verdict,
        "usable_locally": verdict.usable,
        "reasons": verdict.reasons,
        "blockers": verdict.blockers,
        "notes": verdict.notes,
        "best_gpu": _gpu(facts.gpu, memory.usable) if facts.gpu else None,
        "memory": {
            "total_gb": _gb(memory.total),
            "limit_gb": _gb(memory.limit),
            "usable_gb": _gb(memory.usable),
        },
        "families": machine_verdict.table(machine_verdict.budget(facts)),
    }


def _unsuitable(verdict: Verdict) -> Document:
    if verdict.verdict == "cloud":
        return {
            "code": "use_cloud",
            "message": verdict.reasons[-1],
            "hint": "use Comfy Cloud or another machine's server (--host); comfyui_setup.py --force installs anyway",
            "retryable": False,
        }
    return {
        "code": "fix_first",
        "message": verdict.blockers[0],
        "hint": "fix what `blockers` lists, then check again",
        "retryable": True,
    }


def _next(verdict: Verdict) -> list[str]:
    if verdict.usable:
        return [programs.command("comfyui_setup.py", "--dry-run")]
    if verdict.verdict == "cloud":
        return [programs.command("health_check.py", "--host", "https://cloud.comfy.org")]
    return [programs.command("hardware_check.py")]


def _gpu(gpu: Gpu, memory: int | None) -> Document:
    described: Document = {
        "vendor": gpu.vendor,
        "name": gpu.name,
        "index": gpu.index,
        "memory_gb": _gb(gpu.memory),
        "usable_gb": _gb(machine_verdict.usable_memory(gpu, memory)),
        "source": gpu.source,
    }
    if chip := desktop.apple_chip(gpu.name):
        described["chip"] = chip
    optional = {
        "driver": gpu.driver,
        "compute_capability": gpu.compute_capability,
        "architecture": gpu.architecture,
        "unified": gpu.unified,
        "integrated": gpu.integrated,
        "mig": list(gpu.mig),
        "notes": list(gpu.notes),
    }
    return described | {key: value for key, value in optional.items() if value}


def _gb(value: int | None) -> float | None:
    return None if value is None else round(value / GIB, 1)


def _tools(answers: Mapping[str, programs.Answer]) -> Document:
    """How each installed tool answered, and the names of the absent ones."""
    answered: Document = {}
    for name, answer in answers.items():
        if not answer.found:
            continue
        answered[name] = {"seconds": answer.seconds} | ({"problem": answer.problem} if answer.problem else {})
        if answer.problem and answer.text.strip():
            answered[name]["said"] = safe_text.clean(answer.text.strip(), 200)
    absent = sorted({name.split()[0] for name, answer in answers.items() if not answer.found})
    return {"answered": answered, "absent": absent}
