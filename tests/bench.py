#!/usr/bin/env python3
"""Measure the scripts against the smallest possible clients on one server, interleaved, as ratios.

Example:
    python3 tests/bench.py --host demo
    python3 tests/bench.py --host demo --only '* '            (one usual command of every script)
    python3 tests/bench.py --host http://127.0.0.1:8188 --rounds 15 --only start,short
    python3 tests/bench.py --host demo --peer other='othertool run {workflow} --server {url} --out {folder}'

Prints a table of medians, spread and ratios, and one JSON document on the last line with --json.
Exit codes: 0 measured, 2 wrong flags.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ROOT / "tests" / "floors"
RUN = ROOT / "scripts" / "run_workflow.py"
BATCH = ROOT / "scripts" / "run_batch.py"
# Ratio to the floor of the same libraries that each case must stay within (issue text of the project).
TARGETS = {"short 10 ms": 1.4, "job 0.3 s": 1.15, "job 2 s": 1.05, "download": 1.3, "200 jobs": 1 / 0.9}
_numbers = itertools.count(random.randrange(1 << 22))


@dataclass
class Case:
    """One thing to measure: a name, the contenders (label -> command maker) and how often."""

    name: str
    contenders: dict[str, Callable[[str, Path], list[str]]]
    rounds: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)


def graph_for(seconds: float, folder: Path, demo: bool) -> Path:
    """A workflow file that takes about this long and writes into a sub-folder of its own on the server."""
    number = next(_numbers)
    prefix = f"bench/{os.getpid()}/{number}/x"
    image = {
        "class_type": "EmptyImage",
        "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": number % 0xFFFFFF},
    }
    graph: dict[str, Any] = {
        "1": image,
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }
    if seconds > 0.02:
        nap = {"seconds": seconds, "steps": 10, "seed": number, "image": ["1", 0]}
        graph["3"] = {"class_type": "DemoSleep" if demo else "RigSleep", "inputs": nap}
        graph["2"]["inputs"]["images"] = ["3", 0]
    path = folder / f"{number}.json"
    path.write_text(json.dumps(graph))
    return path


def big_file(megabytes: int, folder: Path) -> Path:
    """A workflow whose one output is a large sparse file (demo server)."""
    number = next(_numbers)
    inputs = {
        "size_mb": megabytes,
        "filename": f"big{number}.bin",
        "subfolder": "",
        "sparse": True,
        "seed": number,
    }
    path = folder / f"{number}.json"
    path.write_text(json.dumps({"1": {"class_type": "DemoBigFile", "inputs": inputs}}))
    return path


# What health, hardware and setup checks say with exit 1 is a finding, not a failure of the command.
FINDINGS = ("health_check.py", "hardware_check.py", "comfyui_setup.py", "check_deps.py")


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds and peak memory in MB of one command. Raises when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    code = os.waitstatus_to_exitcode(status)
    if code != 0 and not (code in (1, 7) and any(word.endswith(FINDINGS) for word in command)):
        said = process.stderr.read().decode(errors="replace")[-600:] if process.stderr else ""
        raise SystemExit(f"{shlex.join(command)} failed: {said}")
    return seconds, usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024 * 1024)


def measure(case: Case, url: str) -> None:
    """Run the contenders in turns, in another order each round, so that drift hits all alike."""
    with tempfile.TemporaryDirectory(prefix="bench-cache-") as cache:
        environment = {**os.environ, "COMFYUI_SKILL_CACHE": cache}
        for round_number in range(case.rounds + 1):
            for label in random.sample(list(case.contenders), len(case.contenders)):
                with tempfile.TemporaryDirectory() as name:
                    command = case.contenders[label](url, Path(name))
                    seconds, peak = timed(command, environment)
                if round_number:
                    case.seconds.setdefault(label, []).append(seconds)
                case.peak_mb[label] = max(case.peak_mb.get(label, 0.0), peak)


def ours(workflow: Path, url: str, folder: Path) -> list[str]:
    return [
        sys.executable,
        str(RUN),
        str(workflow),
        "--host",
        url,
        "--output-dir",
        str(folder / "out"),
        "--quiet",
    ]


def floor(script: str, workflow: Path, url: str, folder: Path, *more: str) -> list[str]:
    return [sys.executable, str(FLOORS / script), url, str(workflow), str(folder), *more]


def contenders(
    make: Callable[[Path], Path], peers: dict[str, str]
) -> dict[str, Callable[[str, Path], list[str]]]:
    """Ours, the two floors, and the peers that the user named."""
    table: dict[str, Callable[[str, Path], list[str]]] = {
        "ours": lambda url, folder: ours(make(folder), url, folder),
        "libraries": lambda url, folder: floor("library_client.py", make(folder), url, folder),
        "standard": lambda url, folder: floor("standard_client.py", make(folder), url, folder),
    }
    for name, template in peers.items():
        table[name] = lambda url, folder, template=template: peer(template, make(folder), url, folder)
    return table


def peer(template: str, workflow: Path, url: str, folder: Path) -> list[str]:
    """The command of another tool, its placeholders filled in."""
    address = urlsplit(url)
    facts = {
        "workflow": workflow,
        "url": url,
        "host": address.hostname,
        "port": address.port,
        "folder": folder,
    }
    return [word.format(**facts) for word in shlex.split(template)]


def named_command(text: str) -> tuple[str, str]:
    """NAME=COMMAND, as an argparse type."""
    name, equals, command = text.partition("=")
    if not (name and equals and command):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME='COMMAND ...'")
    return name, command


def cases(args: argparse.Namespace, demo: bool) -> list[Case]:
    """What there is to measure on this kind of server."""
    peers = dict(args.peer)
    bare = {
        "ours": lambda _url, _folder: [sys.executable, str(RUN), "--help"],
        "python": lambda _url, _folder: [sys.executable, "-c", "import argparse, json"],
    }
    table = [
        Case("start --help", bare, args.rounds),
        Case("short 10 ms", contenders(lambda folder: graph_for(0.0, folder, demo), peers), args.rounds),
        Case(
            "job 0.3 s",
            contenders(lambda folder: graph_for(0.3, folder, demo), peers),
            max(args.rounds // 2, 3),
        ),
        Case(
            "job 2 s",
            contenders(lambda folder: graph_for(2.0, folder, demo), peers),
            max(args.rounds // 4, 3),
        ),
    ]
    if demo:
        table.append(Case("download", contenders(lambda folder: big_file(args.megabytes, folder), peers), 3))
    table += everyday(demo, args.rounds)
    if BATCH.exists():
        table.append(Case("200 jobs", many(demo), max(args.rounds // 4, 3)))
    wanted = [word.strip() for word in args.only.split(",") if word.strip()]
    return [case for case in table if not wanted or any(word in case.name for word in wanted)]


def everyday(demo: bool, rounds: int) -> list[Case]:
    """One usual command of every other script, and the bare cost of a Python that loads an HTTP library."""
    commands: dict[str, list[str]] = {
        "validate": ["validate_workflow.py", "{w}", "--host", "{u}"],
        "extract": ["extract_schema.py", "{w}", "--host", "{u}"],
        "extract offl.": ["extract_schema.py", "{w}", "--offline"],
        "convert": ["convert_workflow.py", "{w}", "--host", "{u}"],
        "inspect": ["inspect_workflow.py", "{w}"],
        "check_deps": ["check_deps.py", "{w}", "--host", "{u}"],
        "fix --dry-run": ["auto_fix_deps.py", "{w}", "--dry-run", "--host", "{u}"],
        "server stats": ["server_info.py", "stats", "--host", "{u}"],
        "queue list": ["manage_queue.py", "list", "--host", "{u}"],
        "logs --list": ["fetch_logs.py", "--list", "--host", "{u}"],
        "monitor --all": ["ws_monitor.py", "--all", "--host", "{u}"],
        "health": ["health_check.py", "--host", "{u}"],
        "hardware": ["hardware_check.py"],
        "setup dry": ["comfyui_setup.py", "--dry-run"],
    }
    floor_of = {
        "inspect": "import argparse, json",
        "extract offl.": "import argparse, json",
        "hardware": "import argparse, json",
        "setup dry": "import argparse, json",
    }

    def command(words: list[str]) -> Callable[[str, Path], list[str]]:
        def make(url: str, folder: Path) -> list[str]:
            flow = graph_for(0.0, folder, demo)
            filled = [word.format(w=flow, u=url) for word in words]
            return [sys.executable, str(ROOT / "scripts" / filled[0]), *filled[1:]]

        return make

    def python(code: str) -> Callable[[str, Path], list[str]]:
        return lambda _url, _folder: [sys.executable, "-c", code]

    return [
        Case(
            f"* {name}",
            {"ours": command(words), "python": python(floor_of.get(name, "import argparse, json, requests"))},
            max(rounds // 2, 3),
        )
        for name, words in commands.items()
    ]


def many(demo: bool, count: int = 200) -> dict[str, Callable[[str, Path], list[str]]]:
    """200 trivial jobs: our batch against a client that posts all and then collects."""

    def batch(url: str, folder: Path) -> list[str]:
        workflow = graph_for(0.0, folder, demo)
        colors = f"1.color={next(_numbers) % 10_000_000}:{16_000_000}:1"
        return [
            sys.executable, str(BATCH), str(workflow), "--host", url, "--output-dir", str(folder / "out"), "--quiet",
            "--sweep", colors, "--limit", str(count), "--no-report",
        ]  # fmt: skip

    def base(url: str, folder: Path) -> list[str]:
        return floor("many_client.py", graph_for(0.0, folder, demo), url, folder, str(count))

    return {"ours": batch, "libraries": base}


def report(done: list[Case]) -> list[dict[str, Any]]:
    """A row per case and contender: median, spread (quartiles), ratio to the library floor, peak memory."""
    rows = []
    for case in done:
        base = statistics.median(
            case.seconds.get("libraries") or case.seconds.get("python") or [float("nan")]
        )
        for label, seconds in case.seconds.items():
            low, _, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
            middle = statistics.median(seconds)
            rows.append(
                {
                    "case": case.name,
                    "who": label,
                    "median_s": round(middle, 4),
                    "q1_s": round(low, 4),
                    "q3_s": round(high, 4),
                    "ratio": round(middle / base, 3),
                    "peak_mb": round(case.peak_mb[label], 1),
                    "target": TARGETS.get(case.name) if label == "ours" else None,
                    "runs": len(seconds),
                }
            )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'case':<14}{'who':<12}{'median':>9}{'q1':>9}{'q3':>9}{'ratio':>8}{'target':>8}{'peak MB':>9}")
    for row in rows:
        target = f"{row['target']:.2f}" if row["target"] else ""
        print(
            f"{row['case']:<14}{row['who']:<12}{row['median_s']:>8.3f}s{row['q1_s']:>8.3f}s{row['q3_s']:>8.3f}s"
            f"{row['ratio']:>8.2f}{target:>8}{row['peak_mb']:>9.1f}"
        )


def use_memory(megabytes: int) -> None:
    """Put all files into memory where that can be done, unless $TMPDIR says where.

    A disk would be measured instead of the programs: ext4 takes 1 ms to make a file (else 20 us) for a minute after
    many were deleted, as each round here does.
    """
    memory = Path("/dev/shm")
    if "TMPDIR" in os.environ or not memory.is_dir():
        return
    if shutil.disk_usage(memory).free > 4 * megabytes << 20:
        os.environ["TMPDIR"] = tempfile.tempdir = str(memory)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="demo", help="server address, or 'demo' (default)")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--megabytes", type=int, default=1024, help="size of the large download")
    parser.add_argument("--only", default="", help="comma-separated words of case names")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        type=named_command,
        metavar="NAME='COMMAND {workflow} {url} {folder}'",
        help="another tool to measure beside ours (also {host} and {port}; repeatable)",
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    use_memory(args.megabytes)
    server, url = None, args.host
    if args.host == "demo":
        command = [
            sys.executable,
            str(ROOT / "tests" / "support" / "equipped_demo.py"),
            "--port",
            "0",
            "--exit-with-parent",
        ]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
    try:
        table = cases(args, server is not None)
        for case in table:
            measure(case, url)
            show(report([case]))
        if args.json:
            print(json.dumps(report(table)))
    finally:
        if server is not None:
            server.kill()
    return 0


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
