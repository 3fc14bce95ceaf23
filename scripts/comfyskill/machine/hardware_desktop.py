"""GPUs as Windows (CIM, wmic) and macOS (sysctl, system_profiler) tell them. Pure: text in, values out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from comfyskill.machine.gpus import GIB, MIB, Gpu, amd_gpu, dictionaries, intel_gpu, json_in, size, text_in

_PCI_VENDORS = {"10DE": "nvidia", "1002": "amd", "8086": "intel"}
# AdapterRAM is a 32-bit number: cards of 4 GB and more all report about 4 GB.
_ADAPTER_RAM_CEILING = 4 * GIB - 2 * MIB


def vendor_of(name: str, pnp: str = "") -> str:
    """Vendor of a display adapter by its PCI id, else by its name; `other` for virtual and unknown ones."""
    match = re.search(r"VEN_([0-9A-Fa-f]{4})", pnp)
    if match and match[1].upper() in _PCI_VENDORS:
        return _PCI_VENDORS[match[1].upper()]
    for vendor, pattern in (
        ("nvidia", r"nvidia|geforce|quadro|\btesla\b"),
        ("amd", r"\bamd\b|radeon"),
        ("intel", r"\bintel\b|\barc\b"),
    ):
        if re.search(pattern, name, re.IGNORECASE):
            return vendor
    return "other"


def windows_cim(text: str) -> list[Gpu]:
    """GPUs of our PowerShell query: Win32_VideoController plus the registry's 64-bit memory sizes."""
    value = json_in(text)
    if not isinstance(value, dict):
        return []
    registry = {}
    for entry in dictionaries(value.get("registry")):
        memory = _registry_size(entry.get("HardwareInformation.qwMemorySize"))
        if memory:
            registry[text_in(entry.get("DriverDesc"))] = memory
    return _windows(dictionaries(value.get("gpus")), registry, "PowerShell CIM")


def wmic(text: str) -> list[Gpu]:
    """GPUs of `wmic path Win32_VideoController get ... /format:list`."""
    entries: list[dict[str, Any]] = [{}]
    for line in text.splitlines():
        key, equals, cell = line.strip().partition("=")
        if not equals:
            continue
        if key in entries[-1]:
            entries.append({})
        entries[-1][key] = cell.strip()
    return _windows(entries, {}, "wmic")


def _registry_size(value: object) -> int | None:
    if isinstance(value, list) and len(value) >= 8 and all(isinstance(byte, int) for byte in value):
        return int.from_bytes(bytes(byte & 255 for byte in value[:8]), "little") or None
    return size(value)


def _windows(entries: Iterable[Mapping[str, Any]], registry: Mapping[str, int], source: str) -> list[Gpu]:
    gpus: list[Gpu] = []
    for entry in entries:
        name = text_in(entry.get("Name"))
        if not name:
            continue
        vendor = vendor_of(name, text_in(entry.get("PNPDeviceID")))
        memory = registry.get(name) or size(entry.get("AdapterRAM"))
        notes: tuple[str, ...] = ()
        if name not in registry and memory and memory >= _ADAPTER_RAM_CEILING:
            memory, notes = None, ("Windows tells only 'about 4 GB or more'",)
        if vendor == "intel":
            found = intel_gpu(name, memory, len(gpus), source)
        elif vendor == "amd":
            found = amd_gpu(name, memory, None, "", len(gpus), source)
        else:
            found = Gpu(vendor, name, memory, source, index=len(gpus))
        gpus.append(
            replace(found, driver=text_in(entry.get("DriverVersion")) or None, notes=found.notes + notes)
        )
    return gpus


def apple(brand: str, profiler: str, memory: int | None) -> list[Gpu]:
    """The GPU of a Mac: Apple silicon by its chip's name (brand string or system_profiler), else its cards."""
    value = json_in(profiler)
    sections = value if isinstance(value, dict) else {}
    hardware = next(iter(dictionaries(sections.get("SPHardwareDataType"))), {})
    displays = dictionaries(sections.get("SPDisplaysDataType"))
    candidates = [brand.strip(), text_in(hardware.get("chip_type"))]
    candidates += [text_in(entry.get("sppci_model")) for entry in displays]
    chip = next((name for name in candidates if re.search(r"\bApple M\d", name)), "")
    if chip:
        cores = next(
            (text_in(entry.get("sppci_cores")) for entry in displays if entry.get("sppci_cores")), ""
        )
        notes = (f"{cores} GPU cores",) if cores else ()
        return [Gpu("apple", chip, memory, "sysctl", unified=True, integrated=True, notes=notes)]
    gpus: list[Gpu] = []
    for entry in displays:
        name = text_in(entry.get("sppci_model")) or text_in(entry.get("_name"))
        if name:
            vram = size(entry.get("spdisplays_vram") or entry.get("spdisplays_vram_shared"), "mb")
            gpus.append(Gpu(vendor_of(name), name, vram, "system_profiler", index=len(gpus)))
    return gpus


def apple_chip(name: str) -> dict[str, Any] | None:
    """Generation and variant of an Apple chip: `Apple M3 Max` gives 3 and `Max`; None for another name."""
    match = re.search(r"\bApple M(\d+)(?:\s+(Pro|Max|Ultra))?", name)
    return {"generation": int(match[1]), "variant": match[2] or "base"} if match else None
