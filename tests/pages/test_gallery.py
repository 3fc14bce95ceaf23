"""The pages of a batch, looked at with a real browser where one is installed, and by their parts where none is."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfyskill.batch.results import Results, read, table
from comfyskill.pages import contact_sheet, gallery, thumbnails
from result_rows import results

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")


def write(folder: Path, made: Results) -> Path:
    path = folder / "index.html"
    path.write_bytes(gallery.page(made))
    return path


def browse(folder: Path, url: str, *words: str) -> str:
    """The page's DOM after its script has run."""
    assert BROWSER is not None
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", *words, url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert "Uncaught" not in done.stderr and "Refused to" not in done.stderr, done.stderr[-800:]
    return done.stdout


@needs_browser
def test_the_grid_has_a_row_and_a_column_for_each_value(tmp_path: Path) -> None:
    path = write(tmp_path, results(tmp_path, pages=2))
    dom = browse(tmp_path, path.as_uri(), "--dump-dom", "--enable-logging=stderr")
    assert len(re.findall(r'<th scope="row">', dom)) == 2
    assert re.findall(r'<th scope="col">([^<]*)<', dom) == ["0.5", "1.5", "2.5"]
    assert len(re.findall(r"<img ", dom)) == 6  # the first page of the third axis
    assert "sampler" in dom and "12 of 12 runs" in dom
    assert "not generated results" in dom


@needs_browser
def test_the_list_shows_every_run_its_values_and_its_failure(tmp_path: Path) -> None:
    path = write(tmp_path, results(tmp_path))
    dom = browse(tmp_path, f"{path.as_uri()}#list", "--dump-dom", "--enable-logging=stderr")
    assert len(re.findall(r"<article ", dom)) == 6
    assert len(re.findall(r"<img ", dom)) == 5
    assert "error: no memory" in dom
    links = {html.unescape(link) for link in re.findall(r'<a href="([^"]*)"', dom)}
    assert "run_0000/a%20b%230%3F%25.png" in links


@needs_browser
def test_pictures_really_load_from_disk(tmp_path: Path) -> None:
    path = write(tmp_path, results(tmp_path))
    shot = tmp_path / "shot.png"
    browse(
        tmp_path,
        f"{path.as_uri()}#list",
        f"--screenshot={shot}",
        "--window-size=1200,900",
        "--hide-scrollbars",
    )
    with Image.open(shot) as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 24) or []}
    assert (0, 90, 255) in colors and (80, 90, 195) in colors


@needs_browser
@pytest.mark.parametrize("view", ["#grid", "#list"])
def test_hostile_texts_stay_texts(tmp_path: Path, view: str) -> None:
    path = write(tmp_path, results(tmp_path, hostile=True))
    dom = browse(tmp_path, path.as_uri() + view, "--dump-dom", "--enable-logging=stderr")
    title = re.search(r"<title>(.*?)</title>", dom, re.S)
    assert title and title[1] != "owned"
    assert 'src="x"' not in dom
    assert "\u202e" not in dom and "\x1b" not in dom
    assert dom.count("<script") == 2


@needs_browser
def test_it_fits_a_phone_and_follows_dark_mode(tmp_path: Path) -> None:
    path = write(tmp_path, results(tmp_path, columns=6))
    backgrounds = {}
    for mode, words in (("light", []), ("dark", ["--blink-settings=preferredColorScheme=0"])):
        shot = tmp_path / f"{mode}.png"
        frame = tmp_path / "phone.html"
        frame.write_text(
            f'<body style="margin:0"><iframe src="{path.name}" style="width:380px;height:800px;border:0"></iframe>'
        )
        browse(
            tmp_path,
            frame.as_uri(),
            f"--screenshot={shot}",
            "--window-size=520,820",
            "--hide-scrollbars",
            *words,
        )
        with Image.open(shot) as picture:
            backgrounds[mode] = picture.convert("RGB").getpixel((4, 4))
    assert backgrounds["light"] == (255, 255, 255)
    assert max(backgrounds["dark"]) < 60
    probe = tmp_path / "probe.html"
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", path.read_text())
    measure = "document.title = document.documentElement.scrollWidth - window.innerWidth"
    page = page.replace("</body>", f"<script>{measure}</script></body>")
    probe.write_text(page)
    for view in ("#grid", "#list"):
        dom = browse(tmp_path, probe.as_uri() + view, "--dump-dom", "--window-size=500,800")
        wide = re.search(r"<title>(.*?)</title>", dom)
        assert wide and int(wide[1]) <= 0, "the page is wider than the window"


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = gallery.page(results(tmp_path, hostile=True)).decode()
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    data = re.search(r'<script type="application/json" id=data>(.*?)</script>', page, re.S)
    assert data and len(json.loads(data[1])["runs"]) == 6
    assert page.count("</script>") == 2


def test_the_contact_sheet_shows_every_run_on_few_pages(tmp_path: Path) -> None:
    made = results(tmp_path, rows=8, columns=5)
    (sheet,) = contact_sheet.write(made)
    with Image.open(sheet) as picture:
        assert max(picture.size) <= 1600
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 24) or []}
    for run in range(39):
        assert (40 * run % 256, 90, 255 - 30 * run % 256) in colors, run
    assert (0xA3, 0x20, 0x1D) in colors  # the failure's frame


def test_many_runs_make_several_sheets_and_old_ones_go(tmp_path: Path) -> None:
    made = results(tmp_path, rows=40, columns=9)
    sheets = contact_sheet.write(made)
    assert len(sheets) > 2 and [path.name for path in sheets][:2] == [
        "contact_sheet.png",
        "contact_sheet_2.png",
    ]
    small = Results(made.folder, made.plan, made.origin, made.made, False, made.rows[:3])
    assert contact_sheet.write(small) == [tmp_path / "contact_sheet.png"]
    assert sorted(path.name for path in tmp_path.glob("contact_sheet*")) == ["contact_sheet.png"]


def picture_of(sheet: Path) -> Image.Image:
    with Image.open(sheet) as picture:
        return picture.convert("RGB")


def place_of(picture: Image.Image, color: tuple[int, int, int]) -> tuple[int, int]:
    """The upper left pixel of a colour."""
    pixels = picture.load()
    assert pixels is not None
    return next((x, y) for y in range(picture.height) for x in range(picture.width) if pixels[x, y] == color)


def test_small_pictures_shrink_a_little_rather_than_leave_one_line_for_a_second_page(tmp_path: Path) -> None:
    made = results(tmp_path, pages=10, rows=3, columns=4)
    for row in made.rows:
        for item in row.files:
            Image.new("RGB", (128, 128)).save(tmp_path / item["file"])
    assert len(contact_sheet.write(made)) <= 4


def test_two_axes_are_a_grid_whose_lines_follow_the_first(tmp_path: Path) -> None:
    made = results(tmp_path, rows=2, columns=3)
    picture = picture_of(contact_sheet.write(made)[0])
    at = [place_of(picture, (40 * run % 256, 90, 255 - 30 * run % 256)) for run in range(5)]
    assert at[0][1] == at[2][1] < at[3][1]  # runs 0 to 2 share a line, run 3 begins the next
    assert at[3][1] == at[4][1]
    assert abs(at[3][0] - at[0][0]) < 30 and at[1][0] > at[0][0] + 60
    edge = picture.crop((0, 40, 140, picture.height))
    assert min(low for low, _ in edge.getextrema()) < 120, "the lines have no labels"


@pytest.mark.parametrize(("rows", "sheets"), [(2, 1), (4, 3)])
def test_a_third_axis_goes_beside_the_second_while_there_is_room(
    tmp_path: Path, rows: int, sheets: int
) -> None:
    made = results(tmp_path, pages=5, rows=rows, columns=3)
    assert len(contact_sheet.write(made)) == sheets


def test_small_pictures_fill_their_cells(tmp_path: Path) -> None:
    made = results(tmp_path, rows=4, columns=4)
    for row in made.rows:
        for item in row.files:
            Image.new("RGB", (16, 16), "green").save(tmp_path / str(item["file"]))
    picture = picture_of(contact_sheet.write(made)[0])
    colored = sum(count for count, color in picture.getcolors(1 << 24) or [] if color == (0, 128, 0))
    assert colored > 0.5 * picture.width * picture.height


@pytest.mark.parametrize("ending", ["webp", "gif", "png"])
def test_an_animation_shows_its_first_frame(tmp_path: Path, ending: str) -> None:
    made = results(tmp_path, rows=1, columns=2)
    frames = [Image.new("RGB", (90, 50), color) for color in ("red", "green", "blue")]
    name = f"a.{ending}"
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=90, lossless=True)
    made.rows[0].files[0]["file"] = name  # type: ignore[index]
    colors = {color for _, color in picture_of(contact_sheet.write(made)[0]).getcolors(1 << 24) or []}
    assert any(red > 245 and green < 10 and blue < 10 for red, green, blue in colors)
    assert (0, 128, 0) not in colors


def video(folder: Path, name: str) -> Results:
    made = results(folder, rows=1, columns=2)
    (folder / name).write_bytes(b"\0\0\0\x18ftypmp42" + bytes(50_000))
    made.rows[0].files[0].update(file=name, type="video", filename=name, bytes=2_400_000)  # type: ignore[attr-defined]
    return made


def fake_ffmpeg(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    """A program called ffmpeg on the PATH: it writes down its arguments and then does what `body` says."""
    programs = folder / "programs"
    programs.mkdir()
    path = programs / "ffmpeg"
    path.write_text(
        f"#!{sys.executable}\nimport json, sys, time, pathlib\n"
        f"pathlib.Path({str(folder / 'asked.json')!r}).write_text(json.dumps(sys.argv[1:]))\n{body}\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    return folder / "asked.json"


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script")
def test_a_video_shows_the_frame_that_ffmpeg_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = tmp_path / "frame.png"
    Image.new("RGB", (160, 90), (9, 200, 77)).save(frame)
    asked = fake_ffmpeg(
        tmp_path, monkeypatch, f"sys.stdout.buffer.write(pathlib.Path({str(frame)!r}).read_bytes())"
    )
    made = video(tmp_path, "-i concat:x|y.mp4")
    colors = {color for _, color in picture_of(contact_sheet.write(made)[0]).getcolors(1 << 24) or []}
    assert (9, 200, 77) in colors
    words = json.loads(asked.read_text())
    # One local file by its whole path: no name can be an option, a protocol or a playlist.
    assert words[words.index("-i") + 1] == f"file:{tmp_path.resolve()}/-i concat:x|y.mp4"
    assert words[words.index("-protocol_whitelist") + 1] == "file"
    assert "hls" not in words[words.index("-format_whitelist") + 1]
    assert words.index("-protocol_whitelist") < words.index("-i")


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a script")
@pytest.mark.parametrize("body", [None, "time.sleep(30)", "sys.exit(1)", "print('no picture')"])
def test_a_video_without_a_frame_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str | None
) -> None:
    monkeypatch.setattr(thumbnails, "FRAME_SECONDS", 0.5)
    if body is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        fake_ffmpeg(tmp_path, monkeypatch, body)
    made = video(tmp_path, "clip.mp4")
    assert contact_sheet.instead(made.rows[0])[0] == "VIDEO clip.mp4, 2.4 MB"
    began = time.monotonic()
    picture = picture_of(contact_sheet.write(made)[0])
    assert time.monotonic() - began < 25
    assert (0x5B, 0x61, 0x68) in {color for _, color in picture.getcolors(1 << 24) or []}  # the tile's frame


def test_an_ffmpeg_of_the_current_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ffmpeg"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".")
    assert thumbnails.find_ffmpeg() is None


@pytest.mark.parametrize("damage", ["gone", "empty", "text", "outside"])
def test_a_picture_that_cannot_be_read_is_no_obstacle(tmp_path: Path, damage: str) -> None:
    made = results(tmp_path, columns=2)
    path = tmp_path / str(made.rows[0].files[0]["file"])
    if damage == "gone":
        path.unlink()
    elif damage == "outside":
        made.rows[0].files[0]["file"] = "../../etc/passwd"  # type: ignore[index]
    else:
        path.write_bytes(b"" if damage == "empty" else b"<html>")
    assert len(contact_sheet.write(made)) == 1


def test_the_table_has_a_row_for_each_run_and_no_formulas(tmp_path: Path) -> None:
    made = results(tmp_path, rows=1)
    made.rows[0].values["prompt"] = "=HYPERLINK(1)"
    made.rows[1].values["prompt"] = "-5"
    lines = table(made).decode().splitlines()
    assert lines[0] == "run,sampler,prompt,cfg,seed,status,seconds,files,host,prompt_id,attempts,code,message"
    assert lines[1].startswith("0,s0,'=HYPERLINK(1),0.5,0,success,1.5,run_0000/")
    assert lines[2].startswith("1,s0,-5,1.5,1,success")
    assert lines[3].endswith(",out_of_memory,no memory")


def test_the_whole_way_from_a_journal(run: Any, demo: Any, graph_file: Any) -> None:
    import graphs

    graph = graphs.picture()
    graph["1"]["inputs"]["color"] = 5
    ran = run(
        "run_batch.py", graph_file(graph), "--host", demo.url, "--output-dir", "out", "--sweep", "width=16,24",
        "--sweep", "height=16,24",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    again = read(run.folder / "out")
    assert [row.steps for row in again.rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(row.status == "success" and row.files for row in again.rows)
    assert sys.getsizeof((run.folder / "out" / "index.html").read_bytes()) < 40_000


def test_input_files_are_told_apart_by_their_names_not_by_their_folder(
    run: Any, demo: Any, graph_file: Any
) -> None:
    import graphs

    photos = (
        run.folder
        / "a-folder-with-a-name-that-is-longer-than-any-label"
        / "of-a-customer-who-has-many-photos"
    )
    for name in ("one.png", "sub/two.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(photos / name)
    ran = run(
        "run_batch.py", graph_file(graphs.photo()), "--host", demo.url, "--output-dir", "out", "--input-dir", photos,
        "--recursive", "--name", "{index}-{image}",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    out = run.folder / "out"
    assert sorted(path.name for path in out.glob("[0-9]*.png")) == ["0-one.png", "1-two.png"]
    made = read(out)
    assert [row.values["image"] for row in made.rows] == ["one.png", "sub/two.png"]
    assert str(photos / "sub" / "two.png") in table(made).decode()
    assert str(photos) not in (out / "index.html").read_text()
