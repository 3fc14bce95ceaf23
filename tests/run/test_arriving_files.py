"""Files that a server sends: their names, their size, and where they may be written. Hostile servers on real sockets."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import threading
import time
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from bundle import Demo, Runner
from comfyskill.base import file_names
from comfyskill.base.cli import SkillError

PNG = b"\x89PNG\r\n\x1a\n" + bytes(99)


class Host:
    """A finished job `job` whose files have the given names; every file has the same body."""

    def __init__(self, names: list[str], body: bytes = PNG, **headers: str) -> None:
        self.names, self.body = names, body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.asked: list[str] = []
        host = self

        class Handler(_Handler):
            host_of = host

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def view(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Answer a request for a file."""
        length = {} if "Content-Length" in self.headers else {"Content-Length": str(len(self.body))}
        reply(handler, 200, self.body, {"Content-Type": "application/octet-stream", **length, **self.headers})


class Endless(Host):
    """A body without a length that does not end until the connection breaks, or 200 MB have been sent."""

    def view(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        reply(handler, 200, b"", {"Content-Type": "image/png", "Connection": "close"})
        handler.close_connection = True
        for _ in range(200):
            handler.wfile.write(bytes(1 << 20))


def reply(
    handler: http.server.BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str]
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


class _Handler(http.server.BaseHTTPRequestHandler):
    host_of: Host
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):
            self._get()

    def _get(self) -> None:
        host, path = self.host_of, urlsplit(self.path).path
        if path == "/view":
            host.asked.append(parse_qs(urlsplit(self.path).query)["filename"][0])
            host.view(self)
            return
        files = [{"filename": name, "subfolder": "", "type": "output"} for name in host.names]
        entry = {
            "prompt": [1, "job", {}, {}, ["1"]],
            "outputs": {"1": {"images": files}},
            "status": {"status_str": "success", "completed": True, "messages": []},
        }
        answers: dict[str, Any] = {
            "/history/job": {"job": entry},
            "/queue": {"queue_running": [], "queue_pending": []},
            "/system_stats": {"system": {}, "devices": []},
        }
        body = json.dumps(answers.get(path, {})).encode()
        reply(self, 200 if path in answers else 404, body, {"Content-Length": str(len(body))})


@contextlib.contextmanager
def hosting(host: Host) -> Iterator[Host]:
    try:
        yield host
    finally:
        host.server.shutdown()
        host.server.server_close()


def fetch(run: Runner, host: Host, *words: object, code: int | None = 0) -> dict[str, Any]:
    ran = run(
        "run_workflow.py",
        "--resume",
        "job",
        "--host",
        host.url,
        "--api",
        "local",
        "--output-dir",
        "out",
        *words,
    )
    if code is not None:
        assert ran.code == code, ran.out + ran.err
    return ran.json


LOADED = [
    "CLAUDE.md", "AGENTS.md", "GEMINI.md", "agents.MD", ".cursorrules", "cursorrules", ".mcp.json", "conftest.py",
    "sitecustomize.py", "usercustomize.py", "evil.pth", "x.desktop", "desktop.ini", "autorun.inf", "Makefile", "x.pyc",
    "x.sh", "x.BAT", "x.cmd", "x.ps1", "x.exe", "x.js", "x.vbs", "x.lnk", "x.url", "x.scr", "x.hta", "x.jar", "x.command",
    "page.html", "page.svg", "page.xhtml", "x.py.", "x.py ", "x.py. .", "CLAUDE.md...", "x.\uff50\uff59",
    "\uff23\uff2c\uff21\uff35\uff24\uff25.md", "package.json", "PACKAGE.JSON", "tsconfig.base.json", "requirements.txt",
    "requirements-dev.txt", "CMakeLists.txt", "p\uff41ckage.json", "pyproject.toml", "tox.ini", "compose.yaml", "batch.jsonl",
    "noending", "x.py\u200b", "package" + " " * 300 + "x.json", "x" * 300 + ".py", "x.png.exe", "x.\u202egnp.exe",
]  # fmt: skip


@pytest.mark.parametrize("name", LOADED)
def test_a_name_that_something_runs_or_reads_is_changed(name: str) -> None:
    safe = file_names.file_name(name)
    assert safe.endswith(".txt") or safe.startswith("_"), safe
    assert safe.rpartition(".")[2].lower() in file_names.KEPT_SUFFIXES
    assert file_names.file_name(safe) == safe
    assert len(safe.encode()) <= file_names.MOST_BYTES + 1


@pytest.mark.parametrize(
    "name", ["-rf.png", "--checkpoint-action=exec=sh x.txt", " -x.png", "a$(id).png", "`id`.png", "${HOME}.png"]
)  # fmt: skip
def test_a_name_is_no_option_and_starts_nothing_in_a_quoted_word_of_a_shell(
    tmp_path: Path, name: str
) -> None:
    for safe in (file_names.file_name(name), *file_names.safe_relative(name)):
        (tmp_path / safe).write_bytes(b"x")
        said = subprocess.run(
            ["sh", "-c", f'printf "%s" "{safe}"; ls *'],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.startswith(safe) and safe in said.stdout.removeprefix(safe).splitlines()


@pytest.mark.parametrize(
    "name", ["ComfyUI_00001_.png", "a.MP4", "mesh.glb", "caption.txt", "ComfyUI_00001_.json", "workflow.json", "my package.json.png",
             "x.latent", "sound.flac", "package 1.json", "Zürich.webp"]
)  # fmt: skip
def test_media_and_data_keep_their_name(name: str) -> None:
    assert file_names.file_name(name) == name


def test_a_name_that_is_cut_does_not_become_one_that_tools_read(tmp_path: Path) -> None:
    most = len(str(tmp_path)) + 1 + file_names.NUMBERED + file_names.LEAST_NAME
    name = file_names.fitted(tmp_path, "package" + " " * 60 + "x.json", most)
    assert name == "_package.json"


def test_files_of_a_server_arrive_under_harmless_names_and_the_report_says_both(run: Runner) -> None:
    names = [
        "CLAUDE.md",
        "conftest.py",
        "package.json",
        "page.html",
        "x.svg",
        "evil.pth",
        ".cursorrules",
        "ok.png",
    ]
    with hosting(Host(names)) as host:
        document = fetch(run, host)
    there = sorted(path.name for path in (run.folder / "out").iterdir())
    assert there == sorted(
        ["_CLAUDE.md.txt", "conftest.py.txt", "_package.json", "page.html.txt", "x.svg.txt", "evil.pth.txt",
         "_cursorrules.txt", "ok.png"]
    )  # fmt: skip
    said = {row["filename"]: row.get("server_said") for row in document["outputs"]}
    assert said["_CLAUDE.md.txt"] == "CLAUDE.md" and said["_cursorrules.txt"] == ".cursorrules"
    assert said["ok.png"] is None
    assert set(host.asked) == set(names)


def test_two_files_that_become_one_name_are_both_kept(run: Runner) -> None:
    with hosting(Host(["page.html", "page.html.txt", "PAGE.HTML"])) as host:
        document = fetch(run, host)
    files = {row["file"] for row in document["outputs"]}
    assert len(files) == len({file.casefold() for file in files}) == 3
    assert all(Path(file).read_bytes() == PNG for file in files)


def test_a_file_that_is_announced_too_large_is_not_fetched_unless_the_flag_allows_it(run: Runner) -> None:
    with hosting(Host(["a.png"], bytes(2_000_000))) as host:
        refused = fetch(run, host, "--max-file-size", "1MB", code=1)
        (row,) = refused["failed_downloads"]
        assert row["code"] == "too_large" and not list((run.folder / "out").iterdir())
        fetch(run, host, "--max-file-size", "2MB")
    assert (run.folder / "out/a.png").stat().st_size == 2_000_000


def test_a_body_without_end_stops_at_the_limit(run: Runner) -> None:
    with hosting(Endless(["a.png"])) as host:
        document = fetch(run, host, "--max-file-size", "5MB", code=1)
    assert document["failed_downloads"][0]["code"] == "too_large"
    assert not list((run.folder / "out").iterdir())


@pytest.mark.skipif(not hasattr(os, "statvfs"), reason="the length is that of a POSIX disk")
def test_a_file_for_which_the_disk_has_no_room_is_not_begun(run: Runner) -> None:
    size = 10**18
    with hosting(Host(["a.png"], b"", Content_Length=str(size))) as host:
        document = fetch(run, host, "--max-file-size", "9999999TB", code=1)
    assert document["failed_downloads"][0]["code"] == "disk_full"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip", "br", "x-unknown"])
def test_a_packed_body_that_was_not_asked_for_is_refused(run: Runner, encoding: str) -> None:
    packer = zlib.compressobj(9, wbits=31)
    body = packer.compress(bytes(50_000_000)) + packer.flush()
    with hosting(Host(["a.png"], body, Content_Encoding=encoding)) as host:
        document = fetch(run, host, code=1)
    assert document["failed_downloads"][0]["code"] == "bad_answer"
    assert not list((run.folder / "out").iterdir())


@pytest.mark.parametrize("text", ["0", "-1", "x", "5XB", "1e9", "", "99999999999999999999GB"])
def test_a_size_that_is_none_is_misuse(run: Runner, text: str) -> None:
    ran = run("run_workflow.py", "--resume", "job", f"--max-file-size={text}")
    assert ran.code == 2


def test_a_preview_is_not_written_through_a_link(run: Runner, demo: Demo, graph_file: Any) -> None:
    inputs = {"format": "PNG", "steps": 3, "max_size": 64, "seed": time.time_ns()}
    graph = {
        "1": {"class_type": "DemoPreview", "inputs": inputs},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "p"}},
    }
    prompt_id = str(uuid.uuid4())
    precious = run.folder / "precious"
    precious.write_text("precious data of the user")
    name = run.folder / "seen" / f"{prompt_id[:8]}_node1_0000.png"
    name.parent.mkdir()
    name.symlink_to(precious)
    words = ("--host", demo.url, "--save-previews", "seen", "--prompt-id", prompt_id)
    assert run("run_workflow.py", graph_file(graph), *words).code == 0
    assert precious.read_text() == "precious data of the user"
    assert name.read_bytes().startswith(b"\x89PNG") and not name.is_symlink()


def test_a_part_that_is_a_link_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of unfinished files cannot be guessed; should one be known all the same, nothing is written through it."""
    (tmp_path / "precious").write_text("precious")
    part = tmp_path / ".0123456789abcdef.part"
    part.symlink_to(tmp_path / "precious")
    monkeypatch.setattr(file_names, "part_beside", lambda _target: part)
    with contextlib.suppress(OSError, SkillError):
        file_names.write_whole(tmp_path / "new", b"data")
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("length", ["\u00b2", "9" * 5000, "-1", "ten"])
def test_a_length_that_is_no_number_is_no_fault_of_ours(run: Runner, length: str) -> None:
    with hosting(Host(["x.png"], Content_Length=length, Connection="close")) as host:
        document = fetch(run, host, "--timeout", "20", code=None)
    assert document["status"] in ("success", "partial") and document.get("code") != "internal_error", document
    if document["status"] == "success":
        assert (run.folder / "out" / "x.png").read_bytes() == PNG


@pytest.mark.parametrize("link", [False, True])
def test_a_receipt_replaces_no_file_but_an_earlier_receipt_of_its_job(run: Runner, link: bool) -> None:
    """The id is the server's, so it can be the name of a file of the user."""
    (run.folder / "out").mkdir()
    (run.folder / "mine.json").write_text('{"mine": true}')
    if link:
        (run.folder / "out" / "job.json").symlink_to("../mine.json")
    else:
        (run.folder / "out" / "job.json").write_text('{"mine": true}')
    with hosting(Host(["x.png"])) as host:
        receipts = [fetch(run, host, "--receipt")["receipt"] for _ in range(2)]
    assert (run.folder / "out" / "job.json").read_text() == '{"mine": true}'
    assert [Path(receipt).name for receipt in receipts] == ["job (1).json"] * 2
    assert sorted(path.name for path in (run.folder / "out").iterdir()) == [
        "job (1).json",
        "job.json",
        "x.png",
    ]
