"""Windows and macOS, as far as Linux can play them: names, words for shells, consoles, clocks, locks, held files.

`like_windows/sitecustomize.py` takes from a real process what Windows does not have. What is decided by the name of the
system is tested as pure functions with that system's values.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import unicodedata
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest

import every_python
import graphs
from bundle import ROOT, SCRIPTS, Demo, Runner
from comfyskill.base import file_names, paths, programs, safe_files, safe_text, text_files
from comfyskill.base.cli import SkillError

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="plays Windows on Linux")
LIKE_WINDOWS = str(Path(__file__).parent.parent / "like_windows")
COMMANDS = sorted(path.name for path in SCRIPTS.glob("*.py") if not path.name.startswith("_"))


@pytest.fixture
def windows(run: Runner) -> Runner:
    """Commands whose Python has what Windows has: see like_windows."""
    run.environment |= {"PYTHONPATH": LIKE_WINDOWS, "PYTHONIOENCODING": "cp1252:strict"}
    return run


# ---- like Windows: whole commands


@LINUX
def test_the_play_is_played(windows: Runner) -> None:
    code = "import sys, time; assert time.monotonic() * 64 % 1 == 0; print(sys.stdout.encoding); import fcntl"
    done = subprocess.run(
        [sys.executable, "-c", code], env=windows.environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (1, "cp1252")
    assert "fcntl" in done.stderr


@LINUX
def test_a_run_with_what_windows_has(windows: Runner, demo: Demo, graph_file: Any) -> None:
    ran = windows(
        "run_workflow.py", graph_file(graphs.two_pictures()), "--host", demo.url, "--output-dir", "out"
    )
    assert (ran.code, ran.json["status"]) == (0, "success"), ran.out + ran.err
    folder = windows.folder / "out"
    assert len(ran.json["outputs"]) == 2
    assert all(Path(item["file"]).stat().st_size for item in ran.json["outputs"])
    assert not list(folder.rglob("*.part"))


@LINUX
def test_the_demo_server_itself_with_what_windows_has(windows: Runner, graph_file: Any) -> None:
    ran = windows("run_workflow.py", graph_file(graphs.picture()), "--host", "demo", "--output-dir", "out")
    assert (ran.code, ran.json["status"], ran.json["demo"]) == (0, "success", True), ran.out + ran.err


@LINUX
def test_a_batch_with_what_windows_has(windows: Runner, demo: Demo, graph_file: Any) -> None:
    workflow = graph_file(graphs.sleeper(0.02, 2, seed=1))
    words = [workflow, "--host", demo.url, "--output-dir", "out", "--count", 6]
    ran = windows("run_batch.py", *words)
    assert (ran.code, ran.json["status"]) == (0, "success"), ran.out + ran.err
    folder = windows.folder / "out"
    assert len(list(folder.rglob("*.png"))) >= 6
    # Nobody's lock and no half file stays behind.
    assert not list(folder.rglob("*.part")) and not (folder / ".batch.lock").exists()
    again = windows("run_batch.py", "--resume", "out", "--host", demo.url)
    assert again.code == 0, again.out + again.err


@LINUX
def test_two_batches_in_one_folder_with_the_locks_of_windows(
    windows: Runner, demo: Demo, graph_file: Any
) -> None:
    workflow = graph_file(graphs.sleeper(0.3, 2, seed=1))
    first = windows.start(
        "run_batch.py", workflow, "--host", demo.url, "--output-dir", "out", "--count", "20"
    )
    journal = windows.folder / "out" / "batch.jsonl"
    end = time.monotonic() + 60
    while not (journal.exists() and b'"submit"' in journal.read_bytes()):
        assert time.monotonic() < end and first.poll() is None, first.communicate()
        time.sleep(0.02)
    second = windows("run_batch.py", "--resume", "out", "--host", demo.url)
    first.terminate()
    first.communicate(timeout=60)
    assert (second.code, second.json["code"]) == (2, "locked")
    assert str(first.pid) in second.json["message"]


@LINUX
def test_two_processes_and_one_locked_byte(tmp_path: Path) -> None:
    hold = (
        "import sys; from comfyskill.base import safe_files\nfile = open(sys.argv[1], 'a+')\nfile.write('owner'); file.flush()\n"
        "print(safe_files.take(file), flush=True)\nsys.stdin.read()"
    )
    ask = "import sys; from comfyskill.base import safe_files\nfile = open(sys.argv[1], 'a+')\nfile.seek(0)\nprint(safe_files.take(file), file.read())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([LIKE_WINDOWS, str(SCRIPTS)])}
    words = [sys.executable, "-c"]
    owner = subprocess.Popen(
        [*words, hold, tmp_path / "lock"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdin is not None and owner.stdout is not None
    assert owner.stdout.readline() == "True\n"

    def other() -> str:
        return subprocess.run(
            [*words, ask, tmp_path / "lock"], env=environment, capture_output=True, text=True, timeout=60
        ).stdout.strip()

    assert other() == "False owner"
    owner.kill()
    owner.wait(timeout=60)
    owner.stdin.close()
    owner.stdout.close()
    assert other() == "True owner"


@LINUX
def test_a_lock_on_a_disk_without_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import errno
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (tmp_path / "lock").open("a+") as file:
        assert safe_files.take(file) is None


# ---- files that another program holds, disks without hard links


def test_a_file_that_a_scanner_holds_for_a_moment_is_renamed_all_the_same(tmp_path: Path) -> None:
    refusals = [32, 5, 33]
    (tmp_path / "new").write_text("x")

    def step() -> None:
        if refusals:
            error = PermissionError(13, "held")
            error.winerror = refusals.pop()  # type: ignore[misc]
            raise error
        (tmp_path / "new").rename(tmp_path / "name")

    file_names.insist(step)
    assert (tmp_path / "name").exists() and not refusals


def test_a_refusal_that_stays_is_told_at_once() -> None:
    calls = []

    def step() -> None:
        calls.append(1)
        raise PermissionError(13, "not yours")

    with pytest.raises(PermissionError):
        file_names.insist(step)
    assert len(calls) == 1


def test_no_hard_links_and_still_nothing_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a.png").write_bytes(b"old")
    part = tmp_path / ".x.part"
    part.write_bytes(b"new")
    path, reused = file_names.settle(part, tmp_path / "a.png", overwrite=False)
    assert (path.name, reused) == ("a (1).png", False)
    assert (tmp_path / "a.png").read_bytes() == b"old" and path.read_bytes() == b"new" and not part.exists()


def test_a_disk_that_does_not_tell_case_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = os.link

    def link(source: Path, name: Path) -> None:
        if name.name.casefold() in {entry.name.casefold() for entry in tmp_path.iterdir()}:
            raise FileExistsError(17, "exists")
        real(source, name)

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "Photo.PNG").write_bytes(b"old")
    part = tmp_path / ".x.part"
    part.write_bytes(b"new")
    path, _ = file_names.settle(part, tmp_path / "photo.png", overwrite=False)
    assert path.name == "photo (1).png"


# ---- names


@pytest.mark.parametrize(
    "name",
    ["CON", "con.png", "aux .png", "NUL  .tar.gz", "COM1.txt", "lpt¹.png", "conin$", "a:b.png", "stream.png:x",
     "ends. ", "ends...", " starts", "a\\b", "a<b>|?*.png", '"q".png', "tab\tname", "x" * 400 + ".png", "..", "."],
)  # fmt: skip
def test_every_safe_name_is_a_name_on_windows(name: str) -> None:
    safe = file_names.safe_name(name)
    pure = PureWindowsPath("C:/out") / safe
    assert pure.name == safe and pure.parent == PureWindowsPath("C:/out")
    reserved = {
        "con",
        "prn",
        "aux",
        "nul",
        "conin$",
        "conout$",
        *(f"{p}{n}" for p in ("com", "lpt") for n in "123456789¹²³"),
    }
    assert safe.split(".")[0].rstrip(" ").casefold() not in reserved
    assert not set(safe) & set('<>:"|?*\\/') and safe == safe.rstrip(". ").lstrip()
    assert len(safe) <= 255


@pytest.mark.parametrize(
    "sub", ["C:\\Windows", "\\\\server\\share", "..\\..\\up", "C:..\\x", "/abs", "a/../../b", "D:"]
)
def test_a_servers_subfolder_stays_inside_on_windows(sub: str) -> None:
    base = PureWindowsPath("C:/out")
    inside = base.joinpath(*file_names.safe_relative(sub))
    assert inside.is_relative_to(base) and ".." not in inside.parts


def test_a_name_in_the_form_of_a_mac_becomes_the_usual_one() -> None:
    assert file_names.safe_name(unicodedata.normalize("NFD", "Zürich é.png")) == "Zürich é.png"


def test_a_path_of_windows_stays_below_260_characters() -> None:
    folder = Path("C:/Users/somebody/Documents/" + "deep/" * 30)
    name = file_names.fitted(folder, "n" * 190 + ".png", 259)
    assert len(str(folder)) + 1 + len(name) + len(" (9999)") <= 259 and name.endswith(".png")
    assert file_names.fitted(folder, "short.png", 259) == "short.png"
    assert file_names.fitted(folder, "n" * 190 + ".png", None) == "n" * 190 + ".png"
    # Too deep for any name: the disk says so, not a name of three letters.
    assert file_names.fitted(Path("C:/" + "d" * 250), "picture.png", 259) == "picture.png"


# ---- words for shells

HARMLESS = ["a&calc.json", "a;calc", "$(calc)", "`calc`", "x|y", "a b", "it's", '{"a": 1}', "%PATH%", "^x", "a\nb", "“;calc;”",
            "@file", "(a)", "#x", "~", "*.png", "", "$(calc)&x'", "C:\\a\\", "\\\\server\\a b\\", "-x", "é"]  # fmt: skip


@pytest.mark.parametrize("word", HARMLESS)
def test_a_word_for_windows_is_one_harmless_word_in_git_bash_too(word: str) -> None:
    line = safe_text.windows_words(["echo", word])
    told = shlex.split(line, posix=True)
    assert len(told) == 2 and "\n" not in line
    # Nothing that Bash or PowerShell fill in stands outside of single quotes.
    inner = line.removeprefix("echo ")
    if not inner.startswith("'"):
        assert not set(inner) & set("$`“”„")
    # What cmd acts upon stands within double quotes.
    if not inner.startswith('"'):
        assert not set(inner) & set("&|<>^%\n")
    # cmd knows no other quotes, so a word for it has none inside.
    assert inner.count('"') in (0, 2) or inner.startswith("'")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize("word", HARMLESS)
def test_git_bash_takes_it_as_one_word(word: str) -> None:
    line = safe_text.windows_words(["printf", "<%s>", word]).replace("printf", "printf", 1)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60, cwd="/")
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("<") >= 1
    if not set(word) & set('$`"%\n“”\\'):
        assert done.stdout == f"<{word}>"


def test_the_program_of_a_command_for_windows() -> None:
    words = safe_text.windows_words
    assert words([r"C:\Py\python.exe", r"C:\my skill\run.py"]) == r'C:/Py/python.exe "C:\my skill\run.py"'
    assert words([r"C:\Program Files\Py\python.exe", "x"]) == '"C:/Program Files/Py/python.exe" x'
    assert words(["python3", "scripts/run_workflow.py"]) == "python scripts/run_workflow.py"
    assert words(["x", "C:\\a b\\"]) == 'x "C:\\a b\\\\"'


# ---- programs


def put(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("")


def test_a_program_in_the_current_folder_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "here", "comfy.exe")
    put(tmp_path / "bin", "comfy.exe")
    monkeypatch.chdir(tmp_path / "here")
    folders = ["", ".", "sub", f'"{tmp_path / "bin"}"']
    assert programs.find_by_ending("comfy", folders, [".COM", ".EXE"]) == str(tmp_path / "bin" / "comfy.exe")
    assert programs.find_by_ending("comfy", ["", "."], [".EXE"]) is None


def test_endings_are_tried_in_their_order_and_a_full_name_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, "uv.cmd", "uv.exe", "uv")
    assert programs.find_by_ending("uv", [str(tmp_path)], [".EXE", ".CMD"]) == str(tmp_path / "uv.exe")
    assert programs.find_by_ending("uv.cmd", [str(tmp_path)], [".EXE", ".CMD"]) == str(tmp_path / "uv.cmd")
    assert programs.find_by_ending("uv", [str(tmp_path)], [".PS1"]) is None


@pytest.mark.parametrize(
    "word", ["--url=https://x.example/a?b=1&calc", 'a"b', "%PATH%", "a^b", "a\nb", "x|y"]
)
def test_a_batch_file_is_not_given_what_cmd_would_act_upon(word: str) -> None:
    with pytest.raises(SkillError) as caught:
        programs.refuse_batch_file(r"C:\shims\comfy.BAT", ["--skip-prompt", word], "install it with pipx")
    assert (caught.value.code, caught.value.hint) == ("cannot_start", "install it with pipx")
    programs.refuse_batch_file(r"C:\Scripts\comfy.exe", [word], "")
    programs.refuse_batch_file(r"C:\shims\comfy.bat", ["model", "--relative-path=models/loras"], "")


# ---- text files, consoles, streams


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_prompts_as_any_windows_program_writes_them(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("a fox\r\nein Bär\r\n".encode(encoding))
    assert text_files.read(path) == "a fox\nein Bär\n"


def test_files_that_powershell_wrote_are_read_by_the_commands(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    """`>` of Windows PowerShell writes UTF-16 with a mark."""
    files = {"args.json": '{"7.seed": 5}', "flow.json": json.dumps(graphs.sleeper(0.01, 2, seed=1)),
             "info.json": json.dumps(demo.get("/object_info"))}  # fmt: skip
    node = next(key for key, value in graphs.sleeper(0.01, 2, seed=1).items() if "seed" in value["inputs"])
    files["args.json"] = json.dumps({f"{node}.seed": 5})
    for name, text in files.items():
        (run.folder / name).write_bytes(text.encode("utf-16"))
    ran = run("run_workflow.py", "flow.json", "--args", "@args.json", "--host", demo.url, "--dry-run")
    assert ran.code == 0 and "5" in json.dumps(ran.json), ran.out
    assert run("validate_workflow.py", "flow.json", "--object-info", "info.json").code == 0


CONSOLES = [(script, "ascii") for script in [*COMMANDS, "../install.py"]]
# Those whose help has more than ASCII.
CONSOLES += [
    (script, encoding) for script in ("run_batch.py", "auto_fix_deps.py") for encoding in ("cp437", "cp1252")
]


@pytest.mark.parametrize(("script", "encoding"), CONSOLES)
def test_help_on_a_console_that_lacks_characters(script: str, encoding: str, run: Runner) -> None:
    done = subprocess.run(
        run.command(script, "--help"), env={**run.environment, "PYTHONIOENCODING": f"{encoding}:strict"},
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0 and "usage" in done.stdout.decode(encoding) and done.stderr == b""


def test_names_that_a_console_lacks_do_no_harm(run: Runner, demo: Demo) -> None:
    flow = run.folder / "Bär 狐 😀.json"
    flow.write_text(json.dumps(graphs.picture()), encoding="utf-8")
    ran = run(
        "run_workflow.py",
        flow,
        "--host",
        demo.url,
        "--output-dir",
        "Füße 狐",
        env={"PYTHONIOENCODING": "cp437:strict"},
    )
    assert ran.code == 0 and ran.out.isascii()
    assert Path(ran.json["outputs"][0]["file"]).exists()


@LINUX
def test_no_streams_at_all_as_under_pythonw(run: Runner, demo: Demo, graph_file: Any) -> None:
    words = shlex.join(
        run.command(
            "run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out"
        )
    )
    done = subprocess.run(
        ["sh", "-c", f"{words} <&- >&- 2>&-"], cwd=run.folder, env=run.environment, timeout=60
    )
    assert done.returncode == 0
    assert list((run.folder / "out").rglob("*.png"))


# ---- users without a home, words with ~


@LINUX
@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs the right to be another user"
)
def test_a_user_without_a_home(tmp_path: Path) -> None:
    """Containers run as a number that no list of users knows."""
    code = (
        "import os, runpy, sys\nos.setgid(54321); os.setuid(54321)\nos.environ.pop('HOME', None)\n"
        "sys.argv = ['x', '--version-of-nothing']\nfrom comfyskill.base import paths\nassert paths.cache_folder() is None\n"
        "print(paths.home(), paths.expanded('~/x'), paths.absolute('~nobody-here/x'))"
    )
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("HOME", "XDG_CACHE_HOME", paths.VARIABLE)
    }
    program = shutil.which("python3", path="/usr/bin") or sys.executable
    copy = tmp_path / "rooms"
    shutil.copytree(SCRIPTS / "comfyskill" / "base", copy / "comfyskill" / "base")
    for folder in (copy / "comfyskill" / "base", copy / "comfyskill", copy, *copy.parents):
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode | 0o755)
    done = subprocess.run(
        [program, "-c", code],
        env={**environment, "PYTHONPATH": str(copy)},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "~/x"


def test_a_tilde_that_names_nobody_is_a_plain_name(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = run(
        "run_workflow.py",
        graph_file(graphs.picture()),
        "--host",
        demo.url,
        "--output-dir",
        "~no-such-user/out",
    )
    assert ran.code == 0
    assert (run.folder / "~no-such-user" / "out").is_dir()


def test_the_cache_of_each_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(paths.VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "AppData"))
    monkeypatch.setattr(sys, "platform", "darwin")
    assert paths.cache_folder() == tmp_path / "Library" / "Caches" / "comfyui-skill"
    monkeypatch.setattr(sys, "platform", "win32")
    assert paths.cache_folder() == tmp_path / "AppData" / "comfyui-skill"
    monkeypatch.delenv("LOCALAPPDATA")
    assert paths.cache_folder() is None


# ---- what no test can run here, held to its rules


def test_the_script_for_powershell_is_plain_ascii_and_quotes_nothing_twice() -> None:
    data = (SCRIPTS / "comfyui_setup.ps1").read_bytes()
    assert data.isascii()  # Windows PowerShell takes a file without a mark for the system's own encoding
    text = data.decode()
    told = (
        next(line for line in text.splitlines() if "Write-Output" in line).split("'", 1)[1].rsplit("'", 1)[0]
    )
    assert json.loads(told)["code"] == "python_missing"
    assert '"' not in text.replace(told, "")  # 5.1 loses double quotes on the way to a program


def test_no_room_asks_for_a_process_or_a_posix_call_without_looking_first() -> None:
    """os.kill(pid, 0) ends the process on Windows; these names do not exist there."""
    missing = ("os.fork(", "os.killpg", "os.getuid", "os.geteuid", "os.mkfifo", "os.statvfs", "os.uname", "signal.SIGKILL",
               "signal.SIGHUP", "os.O_NONBLOCK", "os.O_NOFOLLOW", "os.kill(")  # fmt: skip
    looked_at = {
        "journal.py": {"os.kill("},  # behind hasattr
        "programs.py": {"os.killpg", "signal.SIGKILL"},  # behind os.name
        "setup_run.py": {"os.killpg", "signal.SIGKILL"},  # behind os.name
        "text_files.py": {"os.O_NONBLOCK"},  # behind hasattr
        "file_names.py": {"os.O_NOFOLLOW"},  # behind fcntl
        "paths.py": {"os.geteuid"},  # behind hasattr
        "folders.py": {"os.kill("},  # behind hasattr
    }
    for path in [*SCRIPTS.rglob("*.py"), ROOT / "install.py"]:
        text = path.read_text(encoding="utf-8")
        found = {name for name in missing if name in text}
        assert found <= looked_at.get(path.name, set()), path.name


# ---- every Python at hand


@pytest.mark.parametrize("version", every_python.VERSIONS)
def test_every_file_compiles_and_every_room_loads(version: str) -> None:
    """The whole of it, with packages, help and a run: python3 tests/every_python.py."""
    python = every_python.find(version)
    if python is None:
        pytest.skip(f"no Python {version} is at hand")
    assert every_python.quick(python) is None


@pytest.mark.slow
@pytest.mark.parametrize("version", every_python.VERSIONS)
def test_every_python_runs_a_workflow(version: str) -> None:
    if every_python.find(version) is None:
        pytest.skip(f"no Python {version} is at hand")
    assert every_python.main([version]) == 0


@pytest.mark.slow
def test_the_oldest_packages_that_are_allowed_run_a_workflow() -> None:
    if every_python.find("3.10") is None:
        pytest.skip("no Python 3.10, for which the oldest packages were made, is at hand")
    assert every_python.main(["3.10", "--oldest"]) == 0


def test_a_file_that_does_not_compile_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "install.py").write_text("")
    monkeypatch.setattr(every_python, "SCRIPTS", tmp_path / "scripts")
    assert every_python.quick(sys.executable) is None
    (tmp_path / "scripts" / "file_limits.py").write_text("def broken(:\n")
    assert "SyntaxError" in (every_python.quick(sys.executable) or "")
