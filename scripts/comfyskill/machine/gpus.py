"""What the vendors' tools print, read into GPUs. Pure: text in, values out; unreadable text gives an empty list."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from comfyskill.base import foreign

MIB = 1024**2
GIB = 1024**3
_UNITS = {
    "b": 1,
    "bytes": 1,
    "kb": 1024,
    "kib": 1024,
    "mb": MIB,
    "mib": MIB,
    "gb": GIB,
    "gib": GIB,
    "tb": 1024 * GIB,
}
_PCI_VENDORS = {"10DE": "nvidia", "1002": "amd", "8086": "intel"}
# AdapterRAM is a 32-bit number: cards of 4 GB and more all report about 4 GB.
_ADAPTER_RAM_CEILING = 4 * GIB - 2 * MIB


@dataclass(frozen=True)
class Gpu:
    """One GPU. `memory` is what one process can use, in bytes, None when unknown."""

    vendor: str
    name: str
    memory: int | None
    source: str
    index: int = 0
    unified: bool = False
    integrated: bool = False
    driver: str | None = None
    compute_capability: float | None = None
    architecture: str | None = None
    mig: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def size(value: object, unit: str = "b") -> int | None:
    """Bytes in a size as tools write it (`24564 MiB`, `17163091968`, `{"value": 24560, "unit": "MB"}`), else None."""
    if isinstance(value, Mapping):
        return size(value.get("value"), str(value.get("unit") or unit))
    if isinstance(value, bool) or value is None:
        return None
    match = re.fullmatch(r"\s*([0-9]{1,18}(?:[.,][0-9]{1,9})?)\s*([A-Za-z]*)\s*", str(value))
    if not match:
        return None
    factor = _UNITS.get((match[2] or unit).lower())
    number = float(match[1].replace(",", "."))
    return int(number * factor) if factor and number > 0 else None


def json_in(text: str) -> object:
    """The JSON document in a tool's output, also after warnings that it printed first; None when there is none."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"^[ \t]*[\[{]", text, re.MULTILINE):
        try:
            value, _ = decoder.raw_decode(text[match.end() - 1 :])
        except (ValueError, RecursionError):
            continue
        return value
    return None


def dictionaries(value: object) -> list[dict[str, object]]:
    """The objects in a JSON value that is one object or a list of them (PowerShell drops the list of one)."""
    if isinstance(value, dict):
        return [value]
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _lower(fields: object) -> dict[str, object]:
    return {key.strip().lower(): value for key, value in foreign.mapping(fields).items()}


def text_in(value: object) -> str:
    """A tool's value as text, "" for the many ways in which tools write an unknown value."""
    text = str(value).strip() if value is not None else ""
    return (
        ""
        if text.lower() in ("n/a", "[n/a]", "none", "[not supported]", "not supported", "unknown")
        else text
    )


def _number(value: object) -> float | None:
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,9})?)\s*", str(value))
    return float(match[1]) if match else None


def nvidia_csv(text: str) -> list[Gpu]:
    """GPUs of `nvidia-smi --query-gpu=... --format=csv`, by the names in its header line."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if "name" in line and "memory.total" in line), None)
    if start is None:
        return []
    header = [cell.strip() for cell in lines[start].split(",")]
    gpus: list[Gpu] = []
    for row in csv.reader(lines[start + 1 :], skipinitialspace=True):
        if len(row) != len(header):
            continue
        cells = {key.split(" [")[0]: (cell, _unit_of(key)) for key, cell in zip(header, row, strict=True)}
        name = text_in(cells.get("name", ("", ""))[0])
        if not name:
            continue
        memory = size(*cells["memory.total"])
        index = _number(cells.get("index", ("", ""))[0])
        gpus.append(
            Gpu(
                vendor="nvidia",
                name=name,
                memory=memory,
                source="nvidia-smi",
                index=int(index) if index is not None else len(gpus),
                # GB10, Orin and Thor share the system's memory and answer [N/A].
                unified=memory is None,
                driver=text_in(cells.get("driver_version", ("", ""))[0]) or None,
                compute_capability=_number(cells.get("compute_cap", ("", ""))[0]),
                notes=("mig enabled",)
                if cells.get("mig.mode.current", ("", ""))[0].strip() == "Enabled"
                else (),
            )
        )
    return gpus


def _unit_of(header: str) -> str:
    match = re.search(r"\[(\w+)\]", header)
    return match[1] if match else "mib"


_GPU_LINE = re.compile(r"^GPU (\d+): (.+?) \(UUID: ")
_MIG_LINE = re.compile(r"^\s*MIG (\S*?(\d+)g\.(\d+)gb\S*)\s+Device\s+\d+:")


def nvidia_list(text: str) -> tuple[dict[int, str], dict[int, list[tuple[str, int]]]]:
    """GPU names and MIG instances (profile, bytes) by GPU index, of `nvidia-smi -L`."""
    names: dict[int, str] = {}
    instances: dict[int, list[tuple[str, int]]] = {}
    current = 0
    for line in text.splitlines():
        if gpu := _GPU_LINE.match(line):
            current = int(gpu[1])
            names[current] = gpu[2]
        elif mig := _MIG_LINE.match(line):
            instances.setdefault(current, []).append((mig[1], int(mig[3]) * GIB))
    return names, instances


def nvidia(csv_text: str, plain_csv_text: str, list_text: str) -> list[Gpu]:
    """GPUs of the three nvidia-smi calls: the full query, the one that old drivers know, and `-L`."""
    gpus = nvidia_csv(csv_text) or nvidia_csv(plain_csv_text)
    names, instances = nvidia_list(list_text)
    if not gpus:
        gpus = [
            Gpu(
                "nvidia",
                name,
                None,
                "nvidia-smi -L",
                index=index,
                notes=("nvidia-smi did not report the memory",),
            )
            for index, name in names.items()
        ]
    result = []
    for gpu in gpus:
        parts = instances.get(gpu.index, [])
        notes = tuple(note for note in gpu.notes if note != "mig enabled")
        if parts:
            largest = max(memory for _, memory in parts)
            notes += (
                f"MIG: one process gets one of {len(parts)} instances, the largest has {largest // GIB} GB",
            )
            gpu = replace(gpu, memory=largest, unified=False, mig=tuple(profile for profile, _ in parts))
        elif "mig enabled" in gpu.notes:
            notes += (
                "MIG is on but has no instance, so no job can run (nvidia-smi mig -cgi ... -C, or -mig 0)",
            )
            gpu = replace(gpu, memory=0, unified=False)
        result.append(replace(gpu, notes=notes))
    return result


# Chips that share the system's memory: their own "VRAM" is a carve-out set in the firmware.
_AMD_SHARED = re.compile(r"gfx(90c|103[356]|1103|115[0-3])|\b(8050S|8060S|[78]\d0M|Vega \d Graphics)\b")


def amd_gpu(name: str, vram: int | None, gtt: int | None, gfx: str, index: int, source: str) -> Gpu:
    """An AMD GPU; an APU's memory is its carve-out plus what the driver may map of the system's (GTT)."""
    shared = bool(_AMD_SHARED.search(gfx) or _AMD_SHARED.search(name))
    memory = vram
    if shared and gtt:
        memory = (vram or 0) + gtt
    return Gpu(
        "amd",
        name or "AMD GPU",
        memory,
        source,
        index=index,
        unified=shared,
        integrated=shared,
        architecture=gfx or None,
    )


def amd_smi(text: str) -> list[Gpu]:
    """GPUs of `amd-smi static --asic --vram --json` (a list, or `gpu_data` around it in newer releases)."""
    value = json_in(text)
    if isinstance(value, dict):
        value = value.get("gpu_data")
    gpus: list[Gpu] = []
    for position, entry in enumerate(dictionaries(value)):
        asic, vram = _lower(entry.get("asic")), _lower(entry.get("vram"))
        name = text_in(asic.get("market_name"))
        memory = size(vram.get("size"), "mb")
        if name or memory:
            index = _number(entry.get("gpu"))
            gfx = text_in(asic.get("target_graphics_version"))
            gpus.append(amd_gpu(name, memory, None, gfx, int(index or position), "amd-smi"))
    return gpus


def rocm_smi(text: str) -> list[Gpu]:
    """GPUs of `rocm-smi --showproductname --showmeminfo vram gtt --json`; the key names vary by release."""
    value = json_in(text)
    if not isinstance(value, dict):
        return rocm_smi_text(text)
    cards = {
        key: card for key, card in value.items() if isinstance(card, dict) and "card" in str(key).lower()
    }
    return [gpu for key, card in cards.items() if (gpu := _rocm_card(str(key), card, "rocm-smi"))]


def rocm_smi_text(text: str) -> list[Gpu]:
    """GPUs of rocm-smi's plain output: `GPU[0] : VRAM Total Memory (B): 17163091968`."""
    cards: dict[str, dict[str, str]] = {}
    for match in re.finditer(r"^\s*GPU\[(\d+)\]\s*:\s*(.+?):[ \t]+(.+?)\s*$", text, re.MULTILINE):
        cards.setdefault(match[1], {})[match[2]] = match[3]
    return [gpu for key, card in cards.items() if (gpu := _rocm_card(key, card, "rocm-smi (text)"))]


def _rocm_card(key: str, card: Mapping[str, object], source: str) -> Gpu | None:
    fields = _lower(card)
    vram = _rocm_memory(fields, "vram")
    names = (text_in(fields.get(name)) for name in ("card series", "device name", "card model", "card sku"))
    name = next((name for name in names if name and not name.startswith("0x")), "")
    if not name and not vram:
        return None
    digits = re.search(r"\d+", key)
    gfx = text_in(fields.get("gfx version"))
    return amd_gpu(name, vram, _rocm_memory(fields, "gtt"), gfx, int(digits[0]) if digits else 0, source)


def _rocm_memory(fields: Mapping[str, object], kind: str) -> int | None:
    for key, value in fields.items():
        words = re.split(r"[\s_]+", key)
        if words[0] == kind and "total" in words and "used" not in words:
            return size(value)
    return None


# sycl-ls names the card but not its memory (vendor's product pages).
INTEL_MEMORY_GB = {
    "A310": 4,
    "A380": 6,
    "A580": 8,
    "A750": 8,
    "A770": 16,
    "B570": 10,
    "B580": 12,
    "Pro A40": 6,
    "Pro A50": 6,
    "Pro A60": 12,
    "Pro B50": 16,
    "Pro B60": 24,
    "Max 1100": 48,
    "Max 1550": 128,
}


def intel_gpu(name: str, memory: int | None, index: int, source: str) -> Gpu:
    """An Intel GPU; its name decides whether it is a discrete card, and gives an unknown memory size."""
    discrete = bool(re.search(r"\b[AB]\d{2,3}M?\b|Data Center|Flex|Max 1\d{3}", name))
    notes: tuple[str, ...] = ()
    if memory is None and discrete:
        known = [gb for model, gb in INTEL_MEMORY_GB.items() if re.search(rf"\b{model}\b", name)]
        if known:
            memory, notes = known[-1] * GIB, ("memory taken from the model's name",)
    return Gpu(
        "intel", name, memory, source, index=index, integrated=not discrete, unified=not discrete, notes=notes
    )


def xpu_smi(texts: Iterable[str]) -> list[Gpu]:
    """GPUs of `xpu-smi discovery -j` and `xpu-smi discovery -d N -j` (only the latter reports memory in 1.x)."""
    devices: dict[int, dict[str, object]] = {}
    for text in texts:
        value = json_in(text)
        if isinstance(value, dict) and "device_list" in value:
            value = value["device_list"]
        for position, entry in enumerate(dictionaries(value)):
            if not text_in(entry.get("device_name")):
                continue
            index = _number(entry.get("device_id"))
            devices.setdefault(int(index) if index is not None else position, {}).update(entry)
    return [
        intel_gpu(
            text_in(entry["device_name"]), size(entry.get("memory_physical_size_byte")), index, "xpu-smi"
        )
        for index, entry in sorted(devices.items())
    ]


def sycl_ls(text: str) -> list[Gpu]:
    """Intel GPUs of `sycl-ls`, from its Level Zero lines, else from its OpenCL ones."""
    for backend in ("level_zero", "opencl"):
        names = []
        for line in text.splitlines():
            if not re.match(rf"\s*\[(ext_oneapi_)?{backend}:gpu", line) or "Intel" not in line:
                continue
            described = re.sub(r"^\s*(\[[^\]]*\]\s*)+", "", line).split(", ")[-1]
            described = re.sub(r"\s+(OpenCL \d|\d+\.\d+(\.\d+)*\s*(\[|$)).*$", "", described).strip()
            names.append(described or "Intel GPU")
        if names:
            return [intel_gpu(name, None, index, "sycl-ls") for index, name in enumerate(names)]
    return []


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
    entries: list[dict[str, str]] = [{}]
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


def _windows(entries: Iterable[Mapping[str, object]], registry: Mapping[str, int], source: str) -> list[Gpu]:
    gpus: list[Gpu] = []
    for entry in entries:
        name = text_in(entry.get("Name"))
        if not name:
            continue
        vendor = vendor_of(name, text_in(entry.get("PNPDeviceID")))
        memory = registry.get(name) or size(entry.get("AdapterRAM"))
        notes: tuple[str, ...] = ()
        if name not in registry and memory and memory >= _ADAPTER_RAM_CEILING:
            memory, notes = None, ("Windows reports only 'about 4 GB or more'",)
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


def apple_chip(name: str) -> dict[str, object] | None:
    """Generation and variant of an Apple chip: `Apple M3 Max` gives 3 and `Max`; None for another name."""
    match = re.search(r"\bApple M(\d+)(?:\s+(Pro|Max|Ultra))?", name)
    return {"generation": int(match[1]), "variant": match[2] or "base"} if match else None
