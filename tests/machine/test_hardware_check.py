"""hardware_check.py, run as a command, with fake tools first on PATH that print what real ones print."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "hardware_check.py"
DATA = Path(__file__).parent.parent / "data" / "hardware"
GIB = 1024**3

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the fake tools are shell scripts")


class Machine:
    """A machine to check: fake tools in a folder of their own (the whole PATH) and a small /proc and /sys."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.root, self.home = folder / "bin", folder / "root", folder / "home"
        for place in (self.bin, self.root, self.home):
            place.mkdir()
        self.environment: dict[str, str] = {
            "COMFY_HARDWARE_ROOT": str(self.root),
            "COMFY_HARDWARE_SYSTEM": "Linux",
        }
        self.file("proc/meminfo", f"MemTotal:       {64 * 1024**2} kB\nMemFree:  1 kB\n")

    def file(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def tool(self, name: str, answers: dict[str, str], exits: int = 0) -> None:
        """A program that prints the data file whose key stands in its arguments."""
        cases = "".join(
            f"*{shlex.quote(words)}*) /bin/cat {shlex.quote(str(DATA / file))}; exit {exits};;\n"
            for words, file in answers.items()
        )
        self.program(name, f'case " $* " in\n{cases}esac\necho "unknown option" >&2\nexit 64\n')

    def program(self, name: str, body: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{body}")
        path.chmod(0o755)

    def check(self, *flags: str, exit_code: int = 0) -> dict:
        measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
        environment = {"PATH": str(self.bin), "HOME": str(self.home), **self.environment, **measured}
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *flags],
            env=environment,
            cwd=self.home,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        report = json.loads(done.stdout)
        assert done.returncode == exit_code, report
        return report


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def fits(report: dict, family: str, precision: str) -> str:
    return next(r["fits"] for r in report["families"] if (r["family"], r["precision"]) == (family, precision))


def nvidia(machine: Machine, full: str, listed: str | None = None) -> None:
    machine.tool("nvidia-smi", {"mig.mode": full, "query-gpu": full} | ({"-L": listed} if listed else {}))


def test_a_4090_is_fine_and_gets_the_nvidia_flag(machine):
    nvidia(machine, "rtx4090.csv")
    report = machine.check("--json")
    assert (report["verdict"], report["status"], report["usable_locally"]) == ("ok", "ok", True)
    assert report["best_gpu"]["memory_gb"] == 24.0
    assert report["best_gpu"]["compute_capability"] == 8.9
    assert report["install"]["flags"] == ["--nvidia"]
    assert fits(report, "Flux.1", "fp16") == "yes"
    assert fits(report, "HunyuanVideo", "bf16") == "tight"
    assert fits(report, "Flux.2 dev", "fp8") == "tight"


@pytest.mark.parametrize(
    ("asked", "families", "fits", "exit_code"),
    [
        ("flux", {"Flux.1", "Flux.2 dev"}, "yes", 0),
        ("Flux.2", {"Flux.2 dev"}, "tight", 0),
        ("wan 14b", {"Wan 2.2 14B"}, "yes", 0),
        ("sdxl", {"SDXL"}, "yes", 0),
    ],
)
def test_one_family_is_answered_alone(machine, asked, families, fits, exit_code):
    nvidia(machine, "rtx4090.csv")
    report = machine.check("--model", asked, exit_code=exit_code)
    assert {row["family"] for row in report["families"]} == families
    assert (report["fits"], "fits" in report["message"]) == (fits, True)
    assert len(json.dumps(report)) < 2500


def test_a_family_that_does_not_fit_is_exit_1(machine):
    report = machine.check("--model", "flux", exit_code=1)
    assert (report["fits"], report["code"]) == ("no", "does_not_fit")
    assert "6 GB" in report["message"]


def test_an_unknown_family_is_misuse_and_names_the_known_ones(machine):
    assert "Flux.1" in machine.check("--model", "nosuch", exit_code=2)["hint"]


def test_the_next_command_runs_from_anywhere(machine):
    nvidia(machine, "rtx4090.csv")
    program, script, *flags = shlex.split(machine.check("--json")["next"][0])
    assert Path(program).is_absolute() and Path(script).is_file() and flags == ["--dry-run"]


def test_the_same_card_with_little_system_memory_cannot_move_weights(machine):
    nvidia(machine, "rtx4090.csv")
    machine.file("proc/meminfo", f"MemTotal: {31 * 1024**2} kB\n")
    assert fits(machine.check(), "Flux.2 dev", "fp8") == "no"


def test_the_best_of_two_cards_is_picked_whatever_the_column_order(machine):
    nvidia(machine, "two_cards_other_order.csv")
    report = machine.check()
    assert [gpu["name"] for gpu in report["gpus"]] == ["NVIDIA GeForce RTX 3060", "NVIDIA GeForce RTX 3090"]
    assert report["best_gpu"]["name"] == "NVIDIA GeForce RTX 3090"
    assert report["best_gpu"]["index"] == 1


def test_a_driver_that_knows_fewer_fields_is_asked_the_plain_question(machine):
    machine.program(
        "nvidia-smi",
        f'case "$*" in *compute_cap*) /bin/cat {DATA}/old_driver_error.txt; exit 2;; '
        f"*query*) /bin/cat {DATA}/old_driver_plain.csv;; esac\n",
    )
    report = machine.check()
    assert report["best_gpu"]["name"] == "GeForce GTX 1070"
    assert report["verdict"] == "ok"


def test_a_pascal_card_needs_the_cuda_12_build(machine):
    nvidia(machine, "pascal.csv")
    assert machine.check()["install"]["flags"] == ["--nvidia", "--cuda-version", "12.6"]


def test_mig_counts_the_largest_instance_not_the_card(machine):
    nvidia(machine, "a100_mig.csv", "a100_mig_list.txt")
    report = machine.check()
    assert report["best_gpu"]["memory_gb"] == 20
    assert report["best_gpu"]["mig"] == ["3g.20gb", "1g.5gb", "1g.5gb"]
    assert report["verdict"] == "ok"


def test_mig_without_an_instance_can_run_nothing(machine):
    nvidia(machine, "a100_mig.csv", "a100_list.txt")
    report = machine.check(exit_code=1)
    assert report["verdict"] == "cloud"
    assert "MIG is on" in report["best_gpu"]["notes"][0]


def test_only_the_list_works_so_the_memory_is_unknown(machine):
    machine.program("nvidia-smi", f'case "$*" in -L) /bin/cat {DATA}/a100_list.txt;; *) exit 6;; esac\n')
    report = machine.check()
    assert report["verdict"] == "marginal"
    assert report["best_gpu"]["memory_gb"] is None
    assert fits(report, "SDXL", "fp16") == "unknown"


def test_unified_nvidia_memory_is_the_systems(machine):
    nvidia(machine, "gb10.csv")
    machine.file("proc/meminfo", f"MemTotal: {120 * 1024**2} kB\n")
    report = machine.check()
    assert report["best_gpu"]["unified"]
    assert report["best_gpu"]["usable_gb"] == 108.0
    assert report["verdict"] == "ok"


def test_a_card_whose_driver_is_broken_is_named_with_the_reason(machine):
    machine.tool("nvidia-smi", {" -": "nvidia_no_driver.txt"}, exits=9)
    machine.file("sys/class/drm/card0/device/vendor", "0x10de\n")
    report = machine.check(exit_code=1)
    assert report["code"] == "use_cloud"
    assert "driver" in report["message"]
    assert "couldn't communicate" in report["tools"]["answered"]["nvidia-smi"]["said"]


def test_hidden_gpus_are_no_gpus(machine):
    nvidia(machine, "rtx4090.csv")
    machine.environment["CUDA_VISIBLE_DEVICES"] = "-1"
    assert "CUDA_VISIBLE_DEVICES" in machine.check(exit_code=1)["message"]


def test_only_visible_gpus_count(machine):
    nvidia(machine, "two_cards_other_order.csv")
    machine.environment["CUDA_VISIBLE_DEVICES"] = "0"
    report = machine.check()
    assert report["best_gpu"]["name"] == "NVIDIA GeForce RTX 3060"
    assert len(report["gpus"]) == 2


@pytest.mark.parametrize(
    ("tool", "answers", "name", "gb"),
    [
        ("rocm-smi", {"--json": "rocm_7900xt.json"}, "Radeon RX 7900 XT", 20.0),
        ("rocm-smi", {"--json": "rocm_old_keys.json"}, "Radeon RX 6800 XT", 16.0),
        (
            "rocm-smi",
            {"--json": "localised_error.txt", "showmeminfo": "rocm_text.txt"},
            "Radeon RX 6700 XT",
            12.0,
        ),
        ("amd-smi", {"static": "amd_smi_list.json"}, "AMD Instinct MI300X", 192.0),
        ("amd-smi", {"static": "amd_smi_gpu_data.json"}, "Radeon RX 7900 XTX", 24.0),
    ],
)
def test_amd_tools_of_every_age(machine, tool, answers, name, gb):
    machine.tool(tool, answers)
    report = machine.check()
    assert report["verdict"] == "ok"
    assert report["best_gpu"]["name"] == name
    assert report["best_gpu"]["memory_gb"] == pytest.approx(gb, abs=0.1)
    assert report["install"]["flags"] == ["--amd"]


def test_amd_smi_lists_both_cards(machine):
    machine.tool("amd-smi", {"static": "amd_smi_gpu_data.json"})
    assert [gpu["memory_gb"] for gpu in machine.check()["gpus"]] == [24.0, 8.0]


def test_an_apu_counts_the_memory_that_it_may_map(machine):
    machine.tool("rocm-smi", {"--json": "rocm_strix_halo.json"})
    report = machine.check()
    assert report["verdict"] == "marginal"
    assert report["best_gpu"]["memory_gb"] == 63.0
    assert report["best_gpu"]["unified"]


def test_amd_without_any_tool_is_read_from_the_kernel(machine):
    machine.file("sys/class/drm/card1/device/vendor", "0x1002\n")
    machine.file("sys/class/drm/card1/device/mem_info_vram_total", f"{16 * GIB}\n")
    machine.file("sys/class/drm/card1-DP-1/status", "connected\n")
    report = machine.check()
    assert report["best_gpu"]["source"] == "sysfs"
    assert (report["verdict"], report["install"]["flags"]) == ("ok", ["--amd"])


def test_intel_arc_memory_comes_from_the_per_device_call(machine):
    machine.tool("xpu-smi", {"-d 0": "xpu_smi_device0.json", " discovery -j": "xpu_smi_list.json"})
    report = machine.check()
    assert len(report["gpus"]) == 1
    assert report["best_gpu"]["memory_gb"] == 15.1
    assert (report["verdict"], report["install"]["flags"]) == ("ok", ["--intel-arc"])


def test_sycl_ls_names_the_card_and_the_model_tells_its_memory(machine):
    machine.program("sycl-ls", f"/bin/cat {DATA}/sycl_arc_and_uhd.txt\n")
    report = machine.check()
    assert [gpu["name"] for gpu in report["gpus"]] == [
        "Intel(R) Arc(TM) B580 Graphics",
        "Intel(R) UHD Graphics 770",
    ]
    assert report["best_gpu"]["memory_gb"] == 12
    assert report["verdict"] == "ok"


def test_an_integrated_intel_gpu_is_not_enough(machine):
    machine.program("sycl-ls", f"/bin/cat {DATA}/sycl_uhd_only.txt\n")
    report = machine.check(exit_code=1)
    assert report["best_gpu"]["name"] == "Intel(R) UHD Graphics 770"
    assert (report["verdict"], report["install"]["flags"]) == ("cloud", ["--cpu"])


def mac(machine: Machine, brand: str, gb: int, profiler: str | None, translated: str = "0") -> None:
    machine.environment |= {"COMFY_HARDWARE_SYSTEM": "Darwin", "COMFY_HARDWARE_MACHINE": "arm64"}
    machine.program(
        "sysctl",
        f'case "$2" in machdep.*) echo {shlex.quote(brand)};; hw.memsize) echo {gb * GIB};; '
        f"sysctl.proc_translated) echo {translated};; *) echo 'unknown oid' >&2; exit 1;; esac\n",
    )
    if profiler:
        machine.tool("system_profiler", {"-json": profiler})


@pytest.mark.parametrize(
    ("brand", "gb", "verdict", "generation", "variant"),
    [
        ("Apple M1", 8, "marginal", 1, "base"),
        ("Apple M2 Pro", 16, "ok", 2, "Pro"),
        ("Apple M3 Ultra", 192, "ok", 3, "Ultra"),
        ("Apple M4 Max", 64, "ok", 4, "Max"),
        ("Apple M5", 24, "ok", 5, "base"),
    ],
)
def test_apple_silicon(machine, brand, gb, verdict, generation, variant):
    mac(machine, brand, gb, None)
    report = machine.check()
    assert report["verdict"] == verdict
    assert report["best_gpu"]["chip"] == {"generation": generation, "variant": variant}
    assert report["install"]["flags"] == ["--m-series"]
    assert report["memory"]["total_gb"] == gb
    assert fits(report, "Flux.1", "fp8") == "no", "fp8 does not run on Metal"


def test_a_mac_whose_sysctl_is_refused_is_known_by_system_profiler(machine):
    mac(machine, "Apple M3 Max", 64, "mac_m3_max.json")
    machine.program(
        "sysctl", 'case "$2" in hw.memsize) echo 68719476736;; *) echo denied >&2; exit 1;; esac\n'
    )
    report = machine.check()
    assert report["best_gpu"]["name"] == "Apple M3 Max"
    assert "40 GPU cores" in report["best_gpu"]["notes"]


def test_rosetta_comes_first_and_is_not_usable_yet(machine):
    mac(machine, "Apple M2", 16, "mac_m3_max.json", translated="1")
    report = machine.check(exit_code=1)
    assert (report["verdict"], report["code"]) == ("ok", "fix_first")
    assert "Rosetta" in report["blockers"][0]


def test_an_intel_mac_goes_to_the_cloud(machine):
    mac(machine, "Intel(R) Core(TM) i9-9880H CPU @ 2.30GHz", 32, "mac_intel.json")
    report = machine.check(exit_code=1)
    assert report["verdict"] == "cloud"
    assert report["best_gpu"]["name"] == "AMD Radeon Pro 5500M"
    assert report["install"]["flags"] == ["--cpu"]


def test_windows_reads_the_memory_beyond_4_gb_from_the_registry(machine):
    machine.environment["COMFY_HARDWARE_SYSTEM"] = "Windows"
    machine.tool("powershell", {"Get-CimInstance": "windows_cim_7900xtx.json"})
    report = machine.check()
    assert report["best_gpu"]["name"] == "AMD Radeon RX 7900 XTX"
    assert report["best_gpu"]["memory_gb"] == 24.0
    assert (report["verdict"], report["install"]["flags"]) == ("marginal", ["--amd"])
    assert report["memory"]["total_gb"] == 31.9
    assert len(report["gpus"]) == 3


def test_windows_with_one_card_where_powershell_drops_the_lists(machine):
    machine.environment["COMFY_HARDWARE_SYSTEM"] = "Windows"
    machine.tool("pwsh", {"Get-CimInstance": "windows_cim_one_arc.json"})
    report = machine.check()
    assert report["best_gpu"]["memory_gb"] == 12
    assert report["verdict"] == "ok"


def test_wmic_is_the_last_resort_and_its_4_gb_ceiling_is_not_believed(machine):
    machine.environment["COMFY_HARDWARE_SYSTEM"] = "Windows"
    machine.tool("powershell", {"Get-CimInstance": "localised_error.txt"}, exits=1)
    gpus = machine.bin / "gpus.utf16"
    gpus.write_bytes((DATA / "wmic_3070.txt").read_text().replace("\n", "\r\r\n").encode("utf-16"))
    machine.program(
        "wmic", f'case "$*" in *Video*) /bin/cat {gpus};; *) /bin/cat {DATA}/wmic_memory.txt;; esac\n'
    )
    report = machine.check()
    assert report["best_gpu"]["name"] == "NVIDIA GeForce RTX 3070"
    assert report["best_gpu"]["memory_gb"] is None
    assert "about 4 GB or more" in report["best_gpu"]["notes"][0]
    assert (report["verdict"], report["memory"]["total_gb"]) == ("marginal", 31.9)


def test_wsl2_is_told(machine):
    nvidia(machine, "rtx4090.csv")
    machine.file("proc/version", "Linux version 5.15.167.4-microsoft-standard-WSL2 (root@f9c826d3017f)\n")
    report = machine.check()
    assert report["system"]["wsl"]
    assert any("WSL2" in note for note in report["notes"])


def test_wsl2_finds_the_driver_that_is_not_on_path(machine):
    folder = machine.root / "usr/lib/wsl/lib"
    folder.mkdir(parents=True)
    nvidia(machine, "rtx4090.csv")
    (machine.bin / "nvidia-smi").rename(folder / "nvidia-smi")
    assert machine.check()["verdict"] == "ok"


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": str(4 * GIB)}, 4.0),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/memory.max": str(6 * GIB),
                "sys/fs/cgroup/a/b/memory.max": "max\n",
            },
            6.0,
        ),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{5 * GIB}\n"}, 5.0),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({"sys/fs/cgroup/memory.max": "max\n"}, None),
    ],
)
def test_a_containers_memory_limit_counts(machine, files, limit):
    nvidia(machine, "rtx4090.csv")
    machine.file(".dockerenv", "")
    for path, text in files.items():
        machine.file(path, text)
    report = machine.check(exit_code=1 if limit else 0)
    assert report["system"]["container"]
    assert report["memory"]["limit_gb"] == limit
    assert report["verdict"] == ("cloud" if limit else "ok")


def test_no_tool_at_all(machine):
    report = machine.check(exit_code=1)
    assert (report["verdict"], report["best_gpu"], report["gpus"]) == ("cloud", None, [])
    assert report["install"]["flags"] == ["--cpu"]
    assert "nvidia-smi" in report["tools"]["absent"]


ALL_TOOLS = (
    "nvidia-smi",
    "rocm-smi",
    "amd-smi",
    "xpu-smi",
    "sycl-ls",
    "sysctl",
    "system_profiler",
    "powershell",
    "wmic",
)


@pytest.mark.parametrize("system", ["Linux", "Darwin", "Windows"])
@pytest.mark.parametrize(
    "body",
    [
        "exit 0",
        "echo '[]'",
        "echo '{}'",
        "echo null",
        """echo '{"gpu_data": [null, 3, {"asic": "N/A", "vram": []}], "device_list": {}, "card0": 7, "gpus": "x", "os": [1]}'""",
        f"/bin/cat {shlex.quote(str(DATA / 'noise.bin'))}",
        f"/bin/cat {shlex.quote(str(DATA / 'localised_error.txt'))}; exit 3",
        "printf 'index, name, memory.total [MiB]\\n,,\\n0\\n0, , x\\n'",
    ],
)
def test_nonsense_from_every_tool_is_survived(machine, system, body):
    machine.environment["COMFY_HARDWARE_SYSTEM"] = system
    for name in ALL_TOOLS:
        machine.program(name, body + "\n")
    report = machine.check(exit_code=1)
    assert report["verdict"] == "cloud"


def test_a_tool_that_hangs_is_ended_with_its_children_in_time(machine):
    pid_file = machine.home / "child.pid"
    machine.program("nvidia-smi", f"/bin/sleep 120 & echo $! > {pid_file}; wait\n")
    machine.tool("rocm-smi", {"--json": "rocm_7900xt.json"})
    start = time.monotonic()
    report = machine.check()
    assert time.monotonic() - start < 60
    assert report["best_gpu"]["vendor"] == "amd"
    assert "was stopped" in report["tools"]["answered"]["nvidia-smi"]["problem"]
    child = int(pid_file.read_text())
    deadline = time.monotonic() + 30
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_pytorch_must_compute_not_merely_claim(machine):
    fake = machine.home / "torch"
    fake.mkdir()
    (fake / "__init__.py").write_text(
        "__version__ = '2.9.0+cu130'\n"
        "class version: cuda = '13.0'; hip = None\n"
        "class cuda:\n  is_available = staticmethod(lambda: True)\n"
        "class backends: mps = None\n"
        "class Ones:\n  def __matmul__(self, other): return self\n  def sum(self): return 64.0 ** 3\n"
        "def ones(*shape, device):\n"
        "  if device == 'cuda': raise RuntimeError('no kernel image is available for execution on the device')\n"
        "  return Ones()\n"
    )
    machine.environment["PYTHONPATH"] = str(machine.home)
    nvidia(machine, "rtx4090.csv")
    probe = machine.check("--check-pytorch")["pytorch"]
    assert (probe["version"], probe["usable"]) == ("2.9.0+cu130", "cpu")
    assert "no kernel image" in probe["errors"]["cuda"]


def test_the_summary_goes_to_stderr_and_json_silences_it(machine):
    nvidia(machine, "rtx4090.csv")
    environment = {"PATH": str(machine.bin), "HOME": str(machine.home), **machine.environment}

    def stderr(*flags: str) -> str:
        command = [sys.executable, str(SCRIPT), *flags]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stderr

    assert "verdict: ok" in stderr()
    assert stderr("--json") == ""


def test_the_simulation_is_admitted(machine):
    assert machine.check(exit_code=1)["simulated"] is True


def test_an_unknown_flag_is_misuse(machine):
    assert machine.check("--jsn", exit_code=2)["code"] == "misuse"


def test_another_machine_is_judged_by_the_memory_that_is_named(machine: Machine) -> None:
    small = machine.check("--vram", "6", "--ram", "16")
    fits = {(row["family"], row["precision"]): row["fits"] for row in small["families"]}
    assert (small["verdict"], small["asked_for"]) == ("marginal", {"vram_gb": 6.0, "ram_gb": 16.0})
    assert (fits["SD 1.5", "fp16"], fits["SDXL", "fp16"], fits["Qwen-Image", "fp8"]) == ("yes", "tight", "no")
    assert not {"gpus", "disk", "python", "install", "next"} & set(small)
    assert machine.check("--vram", "8")["verdict"] == "ok"
    assert machine.check("--vram", "12", "--ram", "4", exit_code=1)["verdict"] == "cloud"
    assert machine.check("--vram", "0", exit_code=1)["best_gpu"] is None
    one = machine.check("--vram", "6", "--model", "flux")
    assert (one["fits"], one["asked_for"]["vram_gb"]) == ("tight", 6.0)


@pytest.mark.parametrize(
    "flags", [["--ram", "16"], ["--vram", "6", "--check-pytorch"], ["--vram", "big"], ["--vram", "-1"]]
)
def test_another_machine_wants_its_memory_and_nothing_of_this_one(machine: Machine, flags: list[str]) -> None:
    assert machine.check(*flags, exit_code=2)["code"] == "misuse"
