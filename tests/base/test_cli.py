"""What every command shares: one document whatever happens, signals, missing packages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import graphs
from bundle import ROOT, SCRIPTS, Demo, Runner
from comfyskill.base import cli
from queues import in_queue, wait_for

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


def without_packages(tmp_path: Path, script: str, *words: str) -> dict[str, Any]:
    """The document of a script under an interpreter that sees no installed package (-S: no site-packages)."""
    environment = {"PATH": os.environ["PATH"], "COMFYUI_SKILL_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-S", str(SCRIPTS / script), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("script", "words", "package"),
    [
        ("server_info.py", ("features", "--host", "127.0.0.1:1"), "requests"),
        ("convert_workflow.py", ("template:any", "--host", "127.0.0.1:1"), "requests"),
        ("server_info.py", ("features", "--host", "demo"), "aiohttp"),
        ("demo_server.py", ("--port", "0"), "aiohttp"),
    ],
)
def test_a_missing_package_is_named(
    tmp_path: Path, script: str, words: tuple[str, ...], package: str
) -> None:
    document = without_packages(tmp_path, script, *words)
    assert (document["code"], document["package"]) == ("missing_package", package)
    assert "requirements.txt" in document["next"][-1]


def test_a_module_of_ours_that_is_missing_is_our_fault() -> None:
    def report() -> dict[str, Any]:
        import _no_such_room  # type: ignore[import-not-found]  # noqa: F401

        return {}

    document, code = cli.outcome(report)
    assert (document["code"], code) == ("internal_error", 1)


def test_what_is_nested_too_deeply_is_still_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    deep: Any = "end"
    for _ in range(5_000):
        deep = [deep]
    assert cli.main(list, lambda _: {"status": "ok", "deep": deep}, []) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "error"


@pytest.mark.parametrize("slip", [("--apikey", "sk-verysecret"), ("--key=sk-verysecret",)])
def test_a_misspelt_key_flag_does_not_print_the_key(run: Runner, slip: tuple[str, ...]) -> None:
    ran = run("server_info.py", "features", *slip)
    assert ran.code == 2
    assert slip[0].partition("=")[0] in ran.json["message"]
    assert "verysecret" not in ran.out + ran.err


@POSIX
def test_ctrl_c_in_a_terminal_reaches_us_before_the_demo_server(run: Runner) -> None:
    process = run.start(
        "run_workflow.py", ROOT / "workflows" / "sd15_txt2img.json", "--set", "steps=10000", "--host", "demo",
        "--output-dir", "out", "--receipt", start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "KSampler" in line:
            break
    # As a terminal does it: every process of the group gets the signal.
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    report = json.loads(out)
    assert (report["status"], report["message"]) == (
        "cancelled",
        "interrupted by the user; the job was stopped",
    )


@POSIX
def test_nohup_is_respected(run: Runner, demo: Demo, graph_file: Any) -> None:
    def ignore_hangup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    ours = graphs.job_id("nohup-job")
    process = run.start(
        "run_workflow.py", graph_file(graphs.sleeper(1)), "--host", demo.url, "--prompt-id", ours,
        "--output-dir", "out", preexec_fn=ignore_hangup,
    )  # fmt: skip
    in_queue(demo, ours)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["status"] == "success"
    assert wait_for(lambda: demo.get(f"/history/{ours}"))


@pytest.mark.parametrize("ws", ["--ws", "--no-ws"])
def test_the_time_limit_holds_when_the_server_never_answers(
    run: Runner, new_demo: Any, graph_file: Any, ws: str
) -> None:
    demo = new_demo()
    started = time.monotonic()
    process = run.start(
        "run_workflow.py", graph_file(graphs.sleeper(60)), "--host", demo.url, "--prompt-id", graphs.job_id("stuck"), ws,
        "--output-dir", "out", "--timeout", "3",
    )  # fmt: skip
    in_queue(demo, graphs.job_id("stuck"))
    demo.fault(
        *(f"hang:route={route},method=GET" for route in ("/history/*", "/queue", "/api/jobs/*", "/jobs/*"))
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    assert json.loads(out)["prompt_id"] == graphs.job_id("stuck")
    assert time.monotonic() - started < 25


def test_json_is_laid_out_without_losing_anything():
    import random

    chance = random.Random(5)

    def made(depth):
        kind = chance.randrange(7 if depth else 5)
        if kind < 5:
            return [None, True, -1.5, "x" * chance.randrange(150), 'é"\n{}[],'][kind]
        members = [made(depth - 1) for _ in range(chance.randrange(12))]
        return members if kind == 5 else {f"k{at}": item for at, item in enumerate(members)}

    for _ in range(200):
        value = made(4)
        text = cli.laid_out(value)
        assert json.loads(text) == value and text.isascii()
        assert not any(line != line.rstrip() for line in text.splitlines())


def test_json_that_fits_on_a_line_stays_on_one():
    text = cli.laid_out({"a": [1, {"b": []}], "c": {"d": "x" * 200, "e": list(range(60))}})
    lines = text.splitlines()
    assert lines[1] == '  "a": [1, {"b": []}],'
    assert max(len(line) for line in lines if "xxx" not in line) <= cli.LINE
    assert len(lines) < 14


@POSIX
def test_previews_that_cannot_be_saved_do_not_cost_the_job(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    demo = new_demo("--step-time", "0.03")
    seen = run.folder / "seen"
    graph = {
        "1": {
            "class_type": "DemoPreview",
            "inputs": {"format": "PNG", "steps": 100, "max_size": 64, "seed": 1},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "p"}},
    }
    process = run.start(
        "run_workflow.py", graph_file(graph), "--host", demo.url, "--output-dir", "out",
        "--save-previews", "seen",
    )  # fmt: skip
    wait_for(lambda: seen.is_dir() and any(seen.iterdir()))
    # The folder goes away: from then on writing fails, also for root.
    seen.rename(run.folder / "elsewhere")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["outputs"]
    assert err.count("previews are no longer saved") == 1


def test_two_files_of_one_name_never_share_a_path(tmp_path: Path) -> None:
    from comfyskill.run import collect
    from comfyskill.server import transport
    from comfyskill.server.protocol import FileRef

    class Slow(set[str]):
        """Between the look and the note there is time for another thread."""

        def __contains__(self, item: object) -> bool:
            found = super().__contains__(item)
            time.sleep(0.005)
            return found

    collector = collect.Collector(transport.Server("http://127.0.0.1:9"), tmp_path, flat=True)  # type: ignore[arg-type]
    collector._taken = Slow()
    outputs = [collect.OutputFile(FileRef("a.png", f"sub{at}"), "1", "images") for at in range(8)]
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(collector._target, outputs))
    assert len(set(paths)) == len(outputs)


def test_front_is_said_to_change_nothing_where_it_does_not(
    run: Runner, new_demo: Any, graph_file: Any
) -> None:
    cloud = new_demo("--cloud", "--tier", "creator", "--step-time", "0.005")
    ran = run(
        "run_workflow.py", graph_file(graphs.picture()), "--host", cloud.url, "--api-key", "comfyui-demo-key", "--front",
        "--no-wait",
    )  # fmt: skip
    assert ran.code == 0
    assert "--front changes nothing" in ran.err


LOADING = f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"


@POSIX
def test_ctrl_c_while_arguments_are_parsed_is_one_document() -> None:
    code = f"""{LOADING}
import signal
from comfyskill.base import cli
sys.exit(cli.main(lambda _: signal.raise_signal(signal.SIGINT), lambda _: {{"status": "ok"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, json.loads(done.stdout)["code"], done.stderr) == (130, "interrupted", "")


@POSIX
def test_ctrl_c_while_a_command_loads_ends_it_as_python_does() -> None:
    code = f"{LOADING}from comfyskill.base import cli; raise KeyboardInterrupt"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "")


def test_importing_a_command_changes_nothing_in_the_process() -> None:
    """Streams, hooks, signals and the arguments stay as they are until `main` is called."""
    names = sorted(path.stem for path in SCRIPTS.glob("*.py"))
    code = f"""{LOADING}
import importlib, signal
sys.stdin = sys.stdout = sys.stderr = None
def state():
    signals = [signal.getsignal(number) for number in signal.valid_signals()]
    return [sys.stdin, sys.stdout, sys.stderr, sys.excepthook, sys.unraisablehook, *signals]
before = state()
for name in {names!r}:
    importlib.import_module(name)
    if state() != before:
        sys.exit(3)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 1)])
def test_a_signal_within_a_finalizer_is_not_lost(name: str, code: int) -> None:
    program = f"""
import sys; sys.path.insert(0, {str(SCRIPTS)!r})
import select, signal, weakref
from comfyskill.base import cli

class Thing: pass

def report():
    cli.listen()
    thing = Thing()
    weakref.finalize(thing, lambda: (signal.raise_signal(signal.{name}), list(range(9))))
    del thing
    print("went on", file=sys.stderr)
    select.select([], [], [], 60)
    return {{"status": "ok"}}

sys.exit(cli.main(list, lambda _: report(), []))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.stderr == "went on\n", "the signal came at another moment than in the finalizer"
    assert (done.returncode, json.loads(done.stdout)["status"]) == (code, "cancelled")
