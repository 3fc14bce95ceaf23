"""What is trusted on this machine: the cache and the notes of this user alone, programs of PATH, children without keys."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

import graphs
from bundle import SCRIPTS, Demo, Runner
from comfyskill.base import programs

posix = pytest.mark.skipif(os.name == "nt", reason="rights and owners of POSIX")
as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away"
)
KEYS = {
    "COMFY_CLOUD_API_KEY": "comfyui-CLOUDSECRET-77",
    "COMFY_PARTNER_KEY": "comfyui-PARTNERSECRET",
    "HF_TOKEN": "hf_SECRETTOKEN",
    "CIVITAI_API_TOKEN": "civitaiSECRET",
    "MY_DB_PASSWORD": "dbSECRET",
    "AWS_SECRET_ACCESS_KEY": "awsSECRET",
    "npm_config__authToken": "npmSECRET",
    "MYSQL_PWD": "mysqlSECRET",
}


def rights(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")] if path.is_dir()}


def run_one(run: Runner, demo: Demo, graph_file: Any, **env: str) -> Any:
    ran = run(
        "run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out", env=env
    )
    assert ran.code == 0, ran.out + ran.err
    return ran


@posix
def test_the_cache_is_for_this_user_alone_whatever_the_umask(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    before = os.umask(0)
    try:
        run_one(run, demo, graph_file)
    finally:
        os.umask(before)
    cache = run.folder / "cache"
    assert {"ours", "runs", "times"} <= {path.name for path in cache.iterdir()}
    assert rights(cache) == {0o700}
    assert not [path for path in cache.rglob("*") if path.suffix == ".pyc"]


@posix
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_cache_folder_that_others_may_write_is_neither_read_nor_written(
    run: Runner, demo: Demo, graph_file: Any, mode: int
) -> None:
    cache = run.folder / "cache"
    cache.mkdir()
    cache.chmod(mode)
    ran = run_one(run, demo, graph_file)
    assert str(cache) in ran.err and list(cache.iterdir()) == []
    assert stat.S_IMODE(cache.stat().st_mode) == mode


@posix
@as_root
@pytest.mark.parametrize("place", ["cache", "cache/ours", "a link to it"])
def test_a_cache_folder_of_another_user_is_not_used(
    run: Runner, demo: Demo, graph_file: Any, place: str
) -> None:
    theirs = run.folder / ("cache/ours" if place == "cache/ours" else "theirs")
    theirs.mkdir(parents=True)
    if place == "cache":
        os.chown(theirs.rename(run.folder / "cache"), 65534, 65534)
    elif place == "cache/ours":
        os.chown(theirs, 65534, 65534)
    else:
        (run.folder / "cache").symlink_to(theirs)
        os.chown(theirs, 65534, 65534)
    run_one(run, demo, graph_file)
    written = [path for path in (run.folder / "cache").rglob("*") if path.is_file()]
    assert all(path.parent.name != "ours" for path in written)
    assert place == "cache/ours" or written == []


@posix
@as_root
def test_byte_code_in_a_cache_folder_is_never_run(run: Runner) -> None:
    """The byte code of a module, with the size and time of its source, as the import hook of earlier versions kept it."""
    import importlib.util
    import py_compile

    source = SCRIPTS / "comfyskill/base/cli.py"
    poison = run.folder / "poison.py"
    marker = run.folder / "PWNED"
    poison.write_text(source.read_text() + f"\nopen({str(marker)!r}, 'w').close()\n")
    name = Path(importlib.util.cache_from_source(str(source))).name
    kept = run.folder / "cache" / "bytecode" / str(SCRIPTS).lstrip("/") / name
    py_compile.compile(str(poison), str(kept), doraise=True)
    data, facts = bytearray(kept.read_bytes()), source.stat()
    data[8:16] = int(facts.st_mtime).to_bytes(4, "little") + facts.st_size.to_bytes(4, "little")
    kept.write_bytes(data)
    assert run("run_workflow.py", "--help", env={"PYTHONDONTWRITEBYTECODE": "1"}).code == 0
    assert not marker.exists()


WRONG: list[Any] = [None, [], 5, "x", {"runs": 5}, {"runs": [None, {"seconds": "x"}]}, [[]], {"a": {"b": []}}, [None] * 3, {"1": 1e400}]  # fmt: skip


def test_whatever_the_cache_holds_is_data_that_may_be_wrong(run: Runner, demo: Demo, graph_file: Any) -> None:
    run_one(run, demo, graph_file)
    run("validate_workflow.py", graph_file(graphs.picture()), "--host", demo.url)
    run("server_info.py", "nodes", "--host", demo.url)
    run("run_batch.py", graph_file(graphs.picture()), "--count", 2, "--host", demo.url, "--output-dir", "b")
    files = list((run.folder / "cache").rglob("*.json"))
    assert {"definitions", "runs", "times"} <= {file.parent.name for file in files}
    for wrong in [*(json.dumps(value).encode() for value in WRONG), b"{", b"\xff\xfe", b"[" * 100_000]:
        for file in files:
            file.write_bytes(wrong)
        for file in (run.folder / "cache/ours").iterdir():
            file.write_bytes(wrong)
        run_one(run, demo, graph_file)
        words = ("validate_workflow.py", graph_file(graphs.picture()))
        assert run(*words).code in (0, 1)
        assert run("manage_queue.py", "jobs", "--host", demo.url).code == 0
        words = ("run_batch.py", graph_file(graphs.picture()), "--count", 2, "--host", demo.url, "--dry-run")
        assert run(*words).code == 0


def program(folder: Path, name: str, log: Path) -> Path:
    """A program that writes down its name and environment, and says what comfy-cli or ffmpeg would."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"with open({str(log)!r}, 'a') as file:\n"
        "    file.write(json.dumps([sys.argv[0], dict(os.environ)]) + '\\n')\n"
        "print('comfy 1.23.0')\n"
    )
    path.chmod(0o755)
    return path


def called(log: Path) -> list[tuple[str, dict[str, str]]]:
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []


@posix
def test_no_child_sees_a_key(run: Runner, demo: Demo, graph_file: Any) -> None:
    log = run.folder / "log"
    for name in ("nvidia-smi", "comfy", "ffmpeg", "rocm-smi"):
        program(run.folder / "bin", name, log)
    env = {**KEYS, "PATH": f"{run.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    run("hardware_check.py", env=env)
    run("comfyui_setup.py", "status", "--port", 9, env=env)
    run("check_deps.py", graph_file(graphs.picture()), "--host", demo.url, env=env)
    run(
        "auto_fix_deps.py",
        graph_file({"1": {"class_type": "NoSuchNode", "inputs": {}}}),
        "--host",
        demo.url,
        env=env,
    )
    (run.folder / "out").mkdir()
    seen = called(log)
    assert {Path(name).name for name, _ in seen} >= {"nvidia-smi", "comfy"}
    for name, environment in seen:
        assert not set(KEYS) & set(environment), name
        assert not set(KEYS.values()) & set(environment.values()), name
        assert "HOME" in environment and "PATH" in environment


def test_the_environment_of_a_child_keeps_what_is_no_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = {
        "HTTPS_PROXY": "http://p",
        "LANG": "C",
        "KEYBOARD": "de",
        "PIP_INDEX_URL": "http://i",
        "PWD": "/x",
        "XDG_DATA_HOME": "/y",
    }
    for name, value in {**kept, **KEYS}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", "relative", str(tmp_path)]))
    environment = programs.environment()
    assert {name: environment[name] for name in kept} == kept
    assert not set(KEYS) & set(environment)
    assert environment["PATH"] == str(tmp_path)


@posix
@pytest.mark.parametrize("entry", ["", ".", "bin", "./bin", "~/bin"])
def test_a_program_of_the_current_folder_is_not_run(run: Runner, entry: str) -> None:
    log = run.folder / "log"
    for folder in (run.folder, run.folder / "bin"):
        for name in ("nvidia-smi", "comfy", "rocm-smi", "git", "uv", "pipx"):
            program(folder, name, log)
    env = {"PATH": os.pathsep.join([entry, os.environ["PATH"], entry])}
    assert run("hardware_check.py", env=env).json
    assert run("comfyui_setup.py", "status", "--port", 9, env=env).json
    assert run("comfyui_setup.py", "--dry-run", "--port", 9, env=env).json
    assert not log.exists()


@posix
def test_the_notes_of_setup_are_not_believed_in_a_folder_of_others(run: Runner) -> None:
    state = run.folder / "state" / "comfyui-setup"
    state.mkdir(parents=True)
    log = run.folder / "log"
    evil = program(state / "comfy-cli-venv", "x", log).parent
    program(evil / "bin", "comfy", log)
    if os.geteuid() == 0:
        os.chown(state, 65534, 65534)
    else:
        state.chmod(0o777)
    env = fakes(run, "git") | {"XDG_STATE_HOME": str(run.folder / "state")}
    run("comfyui_setup.py", "status", "--port", 9, env=env)
    refused = run("comfyui_setup.py", "--port", 9, "--force", "--workspace", "w", env=env)
    assert not [name for name, _ in called(log) if str(state) in name]
    if os.geteuid() == 0:
        assert (refused.code, refused.json["code"]) == (7, "unsafe_folder")


def fakes(run: Runner, *names: str) -> dict[str, str]:
    """An environment in which a setup finds no real installer."""
    for name in names:
        program(run.folder / "fakes", name, run.folder / "log")
    return {"PATH": str(run.folder / "fakes")}


@posix
@pytest.mark.parametrize("name", ["lock", "setup.log"])
def test_links_in_the_state_folder_are_not_followed(run: Runner, name: str) -> None:
    state = run.folder / "state" / "comfyui-setup"
    state.mkdir(parents=True)
    precious = run.folder / "precious"
    precious.write_text("precious")
    (state / name).symlink_to(precious)
    env = fakes(run, "git", "comfy") | {"XDG_STATE_HOME": str(run.folder / "state")}
    ran = run("comfyui_setup.py", "--port", 9, "--force", "--workspace", "w", env=env)
    assert ran.json["code"] == "unsafe_folder" and precious.read_text() == "precious"


@posix
def test_an_empty_variable_means_the_usual_cache_which_is_made_private(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    """A folder of an older version, made under umask 002."""
    folder = run.folder / "usual" / "comfyui-skill"
    folder.mkdir(parents=True)
    folder.chmod(0o775)
    name = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    run_one(run, demo, graph_file, COMFYUI_SKILL_CACHE="", **{name: str(run.folder / "usual")})
    assert rights(folder) == {0o700} and list(folder.iterdir())
