"""comfyui_setup, run as a command, with fake pip, git and comfy; the server it starts is a real process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from v2_servers import free_port

SCRIPTS = Path(__file__).parent.parent.parent / "scripts"
DATA = Path(__file__).parent.parent / "data" / "hardware"
# Outside of any virtual environment; what sys._base_executable says in Python 3.10 is still inside.
BASE_PYTHON = str(Path(sys.base_prefix, "bin", "python{}.{}".format(*sys.version_info)))

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the fake programs are POSIX scripts")

# A comfy-cli in small: it keeps the real one's words, exit codes and files, and starts a server that answers.
COMFY = r"""#!PYTHON
import json, os, pathlib, shutil, signal, socket, subprocess, sys, time
home = pathlib.Path(os.environ["HOME"])
mode = (home / "mode").read_text() if (home / "mode").exists() else ""
with open(home / "calls.jsonl", "a") as calls:
    calls.write(json.dumps({"argv": sys.argv[1:], "track": os.environ.get("DO_NOT_TRACK"),
                            "venv": os.environ.get("VIRTUAL_ENV"), "path": os.environ["PATH"]}) + "\n")
words = sys.argv[1:]
if "--version" in words:
    print("1.23.0"); sys.exit(0)
workspace = pathlib.Path(words[words.index("--workspace") + 1]) if "--workspace" in words else None
action = next(word for word in words if word in ("tracking", "install", "launch", "stop", "model"))
if action == "install":
    if (workspace / "main.py").exists() and "--restore" not in words:
        print("ComfyUI is already installed at the specified path"); sys.exit(1)
    if workspace.exists() and "--restore" not in words:
        print("already exists. But it is an invalid ComfyUI repository. Remove it and retry."); sys.exit(1)
    (workspace / ".git").mkdir(parents=True, exist_ok=True)
    if mode == "hang in clone":
        (home / "hanging").write_text(str(os.getpid()))
        try: time.sleep(60)
        finally: shutil.rmtree(workspace)  # as git does
    (workspace / "comfy").mkdir(exist_ok=True)
    (workspace / "main.py").write_text("")
    if mode == "hang in pip":
        (home / "hanging").write_text(str(os.getpid())); time.sleep(60)
    if mode == "install fails":
        print("ERROR: No matching distribution found for torch")
        print("\u2502 a framed traceback \u2502"); sys.exit(1)
    if mode == "no network":
        print("fatal: unable to access: Could not resolve host: github.com"); sys.exit(1)
elif action == "launch":
    port = int(words[words.index("--port") + 1])
    if mode == "launch dies":
        (workspace / "user").mkdir(exist_ok=True)
        (workspace / "user" / f"comfyui_{port}.log").write_text("Traceback\nImportError: libcudart.so.12: cannot open\n")
        print("Execution error: failed to launch ComfyUI"); sys.exit(1)
    if mode == "never answers":
        time.sleep(60)
    server = subprocess.Popen([sys.executable, str(home / "server.py"), str(port)], start_new_session=True)
    (home / "server.pid").write_text(str(server.pid))
    while True:  # as the real one: it ends when the server answers
        try: socket.create_connection(("127.0.0.1", port)).close(); break
        except OSError: time.sleep(0.02)
    print("To see the GUI go to: http://127.0.0.1:%d" % port)
elif action == "stop":
    if mode != "stop fails":
        os.kill(int((home / "server.pid").read_text()), signal.SIGTERM)
elif action == "model":
    target = workspace / words[words.index("--relative-path") + 1] / words[words.index("--filename") + 1]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"weights")
"""

SERVER = r"""
import http.server, json, os, sys
STATS = {"system": {"comfyui_version": "0.8.0"}, "devices": [{"name": "cpu", "type": "cpu"}]}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(STATS).encode() if self.path == "/system_stats" else b"<html>hello</html>"
        if len(sys.argv) > 2: body = sys.argv[2].encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Box:
    """A machine to set up: its own home, PATH and hardware."""

    def __init__(self, folder: Path) -> None:
        self.home, self.bin = folder / "home", folder / "bin"
        self.home.mkdir()
        self.bin.mkdir()
        for name in ("sh", "cat", "sleep", "dirname", "mkdir", "cp", "chmod"):
            (self.bin / name).symlink_to(shutil.which(name) or f"/bin/{name}")
        self.program("git", "#!/bin/sh\nexit 0\n")
        self.program("nvidia-smi", f"#!/bin/sh\n/bin/cat {DATA}/rtx4090.csv\n")
        (self.home / "server.py").write_text(SERVER)
        root = folder / "root"
        (root / "proc").mkdir(parents=True)
        (root / "proc" / "meminfo").write_text(f"MemTotal: {64 * 1024**2} kB\n")
        self.environment = {"COMFY_HARDWARE_ROOT": str(root), "COMFY_HARDWARE_SYSTEM": "Linux"}
        self.workspace = self.home / "comfy" / "ComfyUI"
        self.port = free_port()
        self.processes: list[subprocess.Popen] = []

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def comfy(self, place: Path | None = None) -> None:
        target = (place or self.bin) / "comfy"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(COMFY.replace("PYTHON", BASE_PYTHON))
        target.chmod(0o755)

    def mode(self, text: str) -> None:
        (self.home / "mode").write_text(text)

    def start(self, *flags: str, port: int | None = None, **changes) -> subprocess.Popen:
        environment = {"PATH": str(self.bin), "HOME": str(self.home), **self.environment, **changes}
        words = [BASE_PYTHON, str(SCRIPTS / "comfyui_setup.py"), *flags, "--port", str(port or self.port)]
        return subprocess.Popen(
            words,
            env=environment,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(self, *flags: str, exit_code: int = 0, port: int | None = None, **changes) -> dict:
        process = self.start(*flags, port=port, **changes)
        out, err = process.communicate(timeout=90)
        assert b"Traceback" not in err, err.decode()
        report = json.loads(out)
        assert process.returncode == exit_code, (report, err.decode())
        return report

    def calls(self) -> list[dict]:
        path = self.home / "calls.jsonl"
        told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in told if call["argv"] != ["--version"]]

    def called(self, word: str) -> list[list[str]]:
        return [call["argv"] for call in self.calls() if word in call["argv"]]

    def serve(self, *flags: str) -> None:
        """Occupy the port with a web server of our own."""
        words = [BASE_PYTHON, str(self.home / "server.py"), str(self.port), *flags]
        self.processes.append(subprocess.Popen(words))
        wait_for(lambda: answers(self.port))

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        pid = self.home / "server.pid"
        if pid.exists():
            try:
                os.kill(int(pid.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def wait_for(condition, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


# A pip that puts `comfy` into its environment.
FAKE_PIP = r"""
import os, pathlib, sys
place = pathlib.Path(sys.prefix, "bin")
(place / "comfy").write_text(pathlib.Path(os.environ["HOME"], "store", "comfy").read_text())
(place / "comfy").chmod(0o755)
"""


def pip(box: Box, text: str = FAKE_PIP) -> dict[str, str]:
    """The environment in which pip is this one."""
    # A quick venv: the real one unpacks pip, which takes seconds and is not what is tested.
    for name, main in (("pip", text), ("ensurepip", "")):
        folder = box.home / "modules" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
        (folder / "__main__.py").write_text(main)
    box.comfy(box.home / "store")
    return {"PYTHONPATH": str(box.home / "modules")}


@pytest.fixture
def box(tmp_path: Path):
    made = Box(tmp_path)
    yield made
    made.close()


def test_from_nothing_to_a_server_that_answers(box):
    report = box.run(**pip(box))
    assert report["status"] == "ok"
    assert report["comfyui_version"] == "0.8.0"
    assert (report["installed"], report["launched"], report["already_running"]) == (True, True, False)
    venv = box.home / ".local/state/comfyui-setup/comfy-cli-venv/bin"
    assert report["comfy_cli"] == {
        "version": "1.23.0",
        "how": "installed by setup",
        "program": str(venv / "comfy"),
    }
    assert [
        next(w for w in call["argv"] if w in ("tracking", "install", "launch")) for call in box.calls()
    ] == [
        "tracking",
        "install",
        "launch",
    ]
    assert box.called("tracking") == [["--skip-prompt", "tracking", "disable"]]
    workspace = ["--skip-prompt", "--workspace", str(box.workspace)]
    assert box.called("install") == [[*workspace, "install", "--nvidia", "--skip-manager"]]
    assert box.called("launch") == [[*workspace, "launch", "--background", "--", "--port", str(box.port)]]
    assert all(call["track"] == "1" and call["venv"] is None for call in box.calls())
    assert all(call["path"].startswith(str(venv)) for call in box.calls())
    assert Path(report["log"]).read_text().count("$ ") >= 4


def test_the_second_run_leaves_everything_alone(box):
    box.comfy()
    box.run()
    before = box.calls()
    report = box.run()
    assert report["already_running"]
    assert (report["installed"], report["launched"]) == (False, False)
    assert box.calls() == before


def test_an_installed_server_is_only_started(box):
    box.comfy()
    (box.workspace / "comfy").mkdir(parents=True)
    (box.workspace / "main.py").write_text("# mine")
    report = box.run()
    assert (report["installed"], report["launched"]) == (False, True)
    assert (box.workspace / "main.py").read_text() == "# mine"


def test_starting_what_is_installed_needs_no_force(box):
    box.comfy()
    (box.bin / "nvidia-smi").unlink()
    (box.workspace / "comfy").mkdir(parents=True)
    (box.workspace / "main.py").write_text("")
    assert box.run()["launched"] is True


def test_status_and_stop(box):
    box.comfy()
    assert box.run("status", exit_code=1)["code"] == "not_running"
    box.run()
    assert box.run("status")["comfyui_version"] == "0.8.0"
    assert box.run("stop")["stopped"] is True
    assert not answers(box.port)
    assert box.run("stop")["stopped"] is False
    assert box.run("status", exit_code=1)["installation"] == "whole"


def test_another_persons_server_is_not_stopped(box):
    box.comfy()
    box.serve()
    report = box.run("stop", exit_code=1)
    assert report["code"] == "not_ours"
    assert answers(box.port)
    assert box.called("stop") == []


def test_a_dry_run_prints_the_plan_and_touches_nothing(box):
    before = sorted(str(path) for path in box.home.rglob("*"))
    report = box.run("--dry-run", "--manager", "--model", "sd15")
    assert report["status"] == "dry_run"
    assert [step["step"] for step in report["plan"]] == [
        "comfy-cli",
        "analytics",
        "install",
        "model",
        "launch",
        "health",
    ]
    assert "--skip-manager" not in report["plan"][2]["commands"][0]
    assert report["message"].startswith("setup would stop before it changes anything: --model sd15")
    assert not report["plan"][0]["why"].rstrip().endswith(":")
    assert [reason["code"] for reason in report["stopped_by"]] == ["consent_needed"]
    assert sorted(str(path) for path in box.home.rglob("*")) == before


def test_a_dry_run_says_in_words_what_would_happen(box):
    box.comfy()
    said = box.run("--dry-run")["message"]
    assert said.startswith("setup would install ComfyUI into") and "start the server" in said
    box.serve()
    said = box.run("--dry-run")["message"]
    assert "already answers" in said and "nothing would be installed" in said


def test_a_machine_for_the_cloud_needs_force(box):
    box.comfy()
    (box.bin / "nvidia-smi").unlink()
    report = box.run(exit_code=7)
    assert (report["code"], report["flag"]) == ("consent_needed", "--force")
    assert box.calls() == []
    assert box.run("--force")["status"] == "ok"
    assert "--cpu" in box.called("install")[0]
    assert box.called("launch")[0][-1] == "--cpu"


@pytest.mark.parametrize(
    ("flag", "given"), [("--intel", "--intel-arc"), ("--amd", "--amd"), ("--cpu", "--cpu")]
)
def test_the_users_device_beats_the_check(box, flag, given):
    box.comfy()
    box.run(flag)
    assert given in box.called("install")[0]
    assert "--nvidia" not in box.called("install")[0]


def test_a_model_needs_consent_before_anything_is_done(box):
    box.comfy()
    report = box.run("--model", "sd15", exit_code=7)
    assert report["flag"] == "--yes"
    assert box.calls() == []
    report = box.run("--model", "sd15", "--yes")
    assert report["model"]["downloaded"] is True
    assert Path(report["model"]["file"]).read_bytes() == b"weights"
    assert "sd15_txt2img.json" in report["next"][0]
    assert box.run("--model", "sd15")["model"]["downloaded"] is False


def test_a_comfy_cli_of_pipx_or_uv_is_used_even_outside_path(box):
    box.comfy(box.home / ".local/bin")
    assert box.run()["comfy_cli"]["program"] == str(box.home / ".local/bin/comfy")


def test_without_an_installer_the_reason_and_the_way_out_are_reported(box):
    report = box.run(exit_code=1, **pip(box, "print('no index is in reach'); raise SystemExit(1)"))
    assert report["code"] == "no_installer"
    assert "pipx" in report["hint"]
    assert report["log_tail"][-1] == "no index is in reach"


@pytest.mark.parametrize("body", ["<html>hello</html>", '{"devices": []}', '{"system": {}}', "[]", "null"])
def test_a_port_taken_by_something_else(box, body):
    box.comfy()
    box.serve(body)
    report = box.run(exit_code=1)
    assert report["code"] == "port_taken"
    assert "not ComfyUI" in report["message"]
    assert "--port" in report["hint"]
    assert box.calls() == []


def test_a_listener_that_says_nothing_is_not_comfyui_either(box):
    box.comfy()
    with socket.create_server(("127.0.0.1", box.port)):
        assert box.run(exit_code=1)["code"] == "port_taken"


def test_a_launch_that_dies_shows_the_tail_of_the_log(box):
    box.comfy()
    box.mode("launch dies")
    report = box.run(exit_code=1)
    assert report["code"] == "launch_failed"
    assert "ImportError: libcudart.so.12: cannot open" in report["log_tail"]
    assert "Execution error: failed to launch ComfyUI" in report["log_tail"]


def test_a_server_that_does_not_answer_in_time_is_still_running(box):
    box.comfy()
    box.mode("never answers")
    start = time.monotonic()
    report = box.run("--wait", "2", exit_code=5)
    assert (report["status"], report["retryable"]) == ("timeout", True)
    assert time.monotonic() - start < 40


def test_a_failed_installation_is_taken_up_again(box):
    box.comfy()
    box.mode("install fails")
    report = box.run(exit_code=1)
    assert report["code"] == "install_failed"
    assert "No matching distribution" in report["log_tail"][-1]
    box.mode("")
    assert box.run()["installed"] is True
    assert "--restore" in box.called("install")[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["hang in clone", "hang in pip"])
def test_ctrl_c_leaves_nothing_that_the_next_run_trips_over(box, number, moment):
    box.comfy()
    box.mode(moment)
    process = box.start()
    hanging = box.home / "hanging"
    wait_for(lambda: hanging.exists() and hanging.read_text())
    child = int(hanging.read_text())
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert json.loads(out)["code"] == "interrupted"
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert box.workspace.exists() is (moment == "hang in pip")
    box.mode("")
    assert box.run()["status"] == "ok"
    assert ("--restore" in box.called("install")[1]) is (moment == "hang in pip")


def test_a_folder_of_something_else_is_not_touched(box):
    box.comfy()
    box.workspace.mkdir(parents=True)
    (box.workspace / "thesis.txt").write_text("years of work")
    assert box.run(exit_code=1)["code"] == "workspace_taken"
    assert [path.name for path in box.workspace.iterdir()] == ["thesis.txt"]


def test_a_known_cause_is_told_with_its_way_out(box):
    box.comfy()
    box.mode("no network")
    assert "no network" in box.run(exit_code=1)["hint"]


def test_two_setups_do_not_run_at_once(box):
    box.comfy()
    box.mode("hang in clone")
    process = box.start()
    wait_for(lambda: (box.home / "hanging").exists())
    assert box.run(exit_code=1)["code"] == "already_in_progress"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_the_next_commands_install_the_packages_where_they_are_missing(monkeypatch, tmp_path):
    from comfyskill.machine import setup, setup_plan

    wish = setup_plan.Wish(8188, tmp_path, None, False, None, False, False, 1.0, tmp_path / "log")
    assert "requirements.txt" not in " ".join(setup.next_commands(wish))
    monkeypatch.setattr(setup, "find_spec", lambda _: None)
    *install, check = setup.next_commands(wish)
    assert "requirements.txt" in install[-1] and "health_check.py" in check


def test_no_git(box):
    box.comfy()
    (box.bin / "git").unlink()
    assert box.run(exit_code=1)["code"] == "git_missing"


def test_the_agents_own_virtual_environment_stays_out_of_it(box):
    box.comfy()
    box.run(VIRTUAL_ENV="/somewhere/agent", CONDA_PREFIX="/somewhere/conda")
    assert all(call["venv"] is None for call in box.calls())


@pytest.mark.parametrize(
    "flags", [["--port", "0"], ["--port", "x"], ["--nvidia", "--cpu"], ["--model", "nope"], ["go"]]
)
def test_misuse(box, flags):
    words = [BASE_PYTHON, str(SCRIPTS / "comfyui_setup.py"), *flags]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["code"] == "misuse"


def test_the_shell_wrapper_hands_everything_over(box):
    box.comfy()
    box.program("python3", f'#!/bin/sh\nexec {BASE_PYTHON} "$@"\n')
    environment = {"PATH": str(box.bin), "HOME": str(box.home), **box.environment}
    words = ["/bin/sh", str(SCRIPTS / "comfyui_setup.sh"), "status", "--port", str(box.port)]
    done = subprocess.run(words, env=environment, cwd=box.home, capture_output=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "not_running")


def test_the_shell_wrapper_without_a_python_says_so_in_json(box):
    box.program("python3", "#!/bin/sh\nexit 1\n")
    words = ["/bin/sh", str(SCRIPTS / "comfyui_setup.sh"), "--dry-run"]
    done = subprocess.run(words, env={"PATH": str(box.bin)}, capture_output=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "python_missing")


def test_the_powershell_wrapper_hands_everything_over(box):
    pwsh = shutil.which("pwsh")
    if pwsh is None:
        pytest.skip("PowerShell is not installed")
    box.program("python3", f'#!/bin/sh\nexec {BASE_PYTHON} "$@"\n')
    environment = {"PATH": str(box.bin), "HOME": str(box.home), **box.environment}
    words = [
        pwsh,
        "-NoProfile",
        "-File",
        str(SCRIPTS / "comfyui_setup.ps1"),
        "status",
        "--port",
        str(box.port),
    ]
    done = subprocess.run(words, env=environment, cwd=box.home, capture_output=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "not_running")


def test_the_shell_wrapper_passes_shellcheck():
    shellcheck = shutil.which("shellcheck") or shutil.which(
        "shellcheck", path=str(Path(sys.executable).parent)
    )
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        [shellcheck, str(SCRIPTS / "comfyui_setup.sh")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
