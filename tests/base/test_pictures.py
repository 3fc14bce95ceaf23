"""Pictures that may be hostile: which formats are opened, how many pixels, and what a bad one ends."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import graphs
from bundle import SCRIPTS, Demo, Runner
from comfyskill.base import picture_files
from comfyskill.pages import gallery
from result_rows import results

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header announces a size, with no picture data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def hostile_files() -> dict[str, bytes]:
    small = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(small, "PNG")
    psd = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(14)
    return {
        "eps": EPS,
        "pixels": png_of(13300, 13300),
        "huge": png_of(60_000, 60_000),
        "cut": small.getvalue()[:50],
        "psd": psd,
        "empty": b"",
        "tiff": b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 200,
        "gif": b"GIF89a" + b"\xff" * 60,
        "webp": b"RIFF\xff\xff\xff\x7fWEBPVP8 " + b"\xff" * 40,
    }


@pytest.fixture
def ghostscript(tmp_path: Path) -> Any:
    """A program `gs` first on the PATH that leaves a mark when it is started: the environment, and the mark."""
    folder = tmp_path / "programs"
    folder.mkdir()
    mark = tmp_path / "gs-was-started"
    program = folder / "gs"
    program.write_text(
        f"#!{sys.executable}\nopen({str(mark)!r}, 'w')\nraise SystemExit(1)\n", encoding="utf-8"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}, mark


@pytest.mark.parametrize("kind", hostile_files())
def test_a_hostile_file_raises_one_kind_of_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(hostile_files()[kind])
    with pytest.raises(picture_files.BadPicture), picture_files.open_picture(path) as picture:
        picture.load()


@pytest.mark.parametrize("name", picture_files.READERS)
def test_what_comfyui_makes_is_opened(tmp_path: Path, name: str) -> None:
    if name not in picture_files._formats():
        pytest.skip(f"this Pillow does not read {name}")
    path = tmp_path / "x"
    try:
        Image.new("RGB", (8, 6), "red").save(path, name)
    except (OSError, KeyError):
        pytest.skip(f"this Pillow does not write {name}")
    with picture_files.open_picture(path) as picture:
        assert picture.size == (8, 6)
        picture.load()


def test_the_limit_of_pixels_is_judged_by_the_header(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("L", (40, 40)).save(path)
    with picture_files.open_picture(path, 1600) as picture:
        assert picture.size == (40, 40)
    with pytest.raises(picture_files.TooLarge), picture_files.open_picture(path, 1599):
        pytest.fail("it was opened")


def test_pictures_are_opened_in_one_place() -> None:
    opening = re.compile(r"\b(Image|pil|PIL\.Image)\.open\(")
    found = {path.name for path in SCRIPTS.rglob("*.py") if opening.search(path.read_text(encoding="utf-8"))}
    assert found == {"picture_files.py"}


@pytest.mark.parametrize("kind", hostile_files())
def test_a_hostile_input_picture_is_refused(
    run: Runner, demo: Demo, graph_file: Any, ghostscript: Any, kind: str
) -> None:
    environment, mark = ghostscript
    (run.folder / "x.png").write_bytes(hostile_files()[kind])
    graph = graphs.photo()
    graph["4"] = {"class_type": "MaskToImage", "inputs": {"mask": ["1", 1]}}
    for words in (["--input-image", "image=x.png"], ["--input-mask", "mask=x.png"]):
        ran = run(
            "run_workflow.py",
            graph_file(graph),
            "--host",
            demo.url,
            "--output-dir",
            "out",
            *words,
            env=environment,
        )
        if kind == "pixels" and words[0] == "--input-image":
            # No more than its header is read: the server judges the rest.
            continue
        assert (ran.code, ran.json["code"]) == (2, "bad_picture"), ran.out
        assert "\n" not in ran.json["message"]
    assert not mark.exists()


@pytest.mark.parametrize("kind", hostile_files())
def test_a_hostile_result_ends_no_batch_and_no_report(
    run: Runner, demo: Demo, graph_file: Any, ghostscript: Any, kind: str
) -> None:
    environment, mark = ghostscript
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out", "--count", "2",
        "--sweep", "1.color=1,2",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    for path in (run.folder / "out").rglob("skilltest*.png"):
        path.write_bytes(hostile_files()[kind])
    told = run("run_batch.py", "--report", "out", env=environment)
    assert told.code == 0, told.out
    assert Path(told.json["contact_sheet"]).is_file()
    assert not mark.exists()


def test_reproducing_a_receipt_over_hostile_files_starts_no_program(
    run: Runner, demo: Demo, graph_file: Any, ghostscript: Any
) -> None:
    environment, mark = ghostscript
    first = run(
        "run_workflow.py",
        graph_file(graphs.picture()),
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--receipt",
    )
    Path(first.json["outputs"][0]["file"]).write_bytes(EPS)
    receipt = Path(first.json["receipt"])
    document = json.loads(receipt.read_text())
    document["files"][0]["sha256"] = "0" * 64
    receipt.write_text(json.dumps(document))
    again = run(
        "run_workflow.py",
        "--reproduce",
        receipt,
        "--host",
        demo.url,
        "--output-dir",
        "again",
        env=environment,
    )
    assert again.code == 1, again.out
    assert not mark.exists()


@pytest.mark.parametrize(
    ("name", "linked"),
    [
        ("a.png", 1), ("a.PNG", 1), ("a.mp4", 1), ("a.txt", 1), ("a.svg", 0), ("a.SVG", 0), ("a.svgz", 0), ("a.html", 0),
        ("a.xhtml", 0), ("a.xml", 0), ("a", 0), ("a.png.html", 0), ("a.mht", 0), ("a.pdf", 0), ("a.html.", 0),
    ],
)  # fmt: skip
def test_the_page_links_only_files_that_run_nothing(tmp_path: Path, name: str, linked: int) -> None:
    made = results(tmp_path, columns=2)
    made.rows[0].files[0]["file"] = name  # type: ignore[index]
    page = gallery.page(made).decode()
    data = re.search(r"<script type=\"application/json\" id=data>(.*?)</script>", page, re.S)
    assert data
    assert json.loads(data[1])["runs"][0]["f"][0][3] == linked
    # The page's script makes addresses only of linked files.
    for line in page.splitlines():
        if "href: url" in line:
            assert "!linked ?" in line or "const target" in line
