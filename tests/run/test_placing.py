"""Files given for an input arrive in the graph that the server gets, whichever way the input is named."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import editor_files
import graphs
from bundle import Demo, Runner

SIZE = (40, 30)
# The ways to name the one picture loader (node 1, titled "My Photo") of every graph here.
NAMES = ["image", "1.image", "My Photo.image", "LoadImage.image"]
FLAGS = ["--input-image", "--input-file", "--set", "--args"]


def api_graph() -> dict[str, Any]:
    graph = graphs.photo()
    graph["1"]["_meta"] = {"title": "My Photo"}
    return graph


def painted_graph() -> dict[str, Any]:
    """A graph in which the picture loader's own mask is used."""
    graph = api_graph()
    graph["4"] = {"class_type": "MaskToImage", "inputs": {"mask": ["1", 1]}}
    graph["5"] = {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "mask"}}
    return graph


def loader_graph() -> dict[str, Any]:
    """A graph with a loader for masks alone."""
    graph = api_graph()
    graph["4"] = {"class_type": "LoadImageMask", "inputs": {"image": "example.png", "channel": "red"}}
    graph["5"] = {"class_type": "MaskToImage", "inputs": {"mask": ["4", 0]}}
    graph["6"] = {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "mask"}}
    return graph


def editor_file() -> dict[str, Any]:
    """The same as `api_graph` as the editor saves it."""
    file = editor_files.File(empty=True)
    file.node(1, "LoadImage", values=["example.png", "image"], outputs="IMAGE MASK", title="My Photo")
    file.node(2, "ImageInvert", outputs="IMAGE", inputs="image:IMAGE")
    file.node(3, "SaveImage", values=["photo"], inputs="images:IMAGE")
    file.link(1, 0, 2, "image")
    file.link(2, 0, 3, "images")
    return file.document()


def photo(path: Path, color: str, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def mask(path: Path, size: tuple[int, int] = SIZE) -> Path:
    """White in its left half."""
    made = Image.new("L", size, 0)
    made.paste(255, (0, 0, size[0] // 2, size[1]))
    made.save(path)
    return path


def sent_graphs(demo: Demo) -> list[dict[str, Any]]:
    """The graphs that the server has run, oldest first."""
    entries = demo.get("/history").values()
    return [entry["prompt"][2] for entry in sorted(entries, key=lambda entry: entry["prompt"][0])]


def stored(demo: Demo, name: str) -> bytes:
    """The bytes of an input file on the server."""
    with urllib.request.urlopen(
        f"{demo.url}/view?type=input&filename={urllib.parse.quote(name)}", timeout=60
    ) as answer:
        content: bytes = answer.read()
        return content


def words_for(flag: str, name: str, path: Path) -> list[str]:
    return [flag, json.dumps({name: str(path)}) if flag == "--args" else f"{name}={path}"]


@pytest.mark.parametrize("form", ["api", "editor"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flag", FLAGS)
def test_a_file_arrives_by_every_name(
    run: Runner, demo: Demo, graph_file: Any, flag: str, name: str, form: str
) -> None:
    given = photo(run.folder / "given.png", "red")
    flow = graph_file(api_graph() if form == "api" else editor_file())
    ran = run(
        "run_workflow.py", flow, "--host", demo.url, "--output-dir", "out", *words_for(flag, name, given)
    )
    assert ran.code == 0, ran.out
    (graph,) = sent_graphs(demo)
    assert stored(demo, graph["1"]["inputs"]["image"]) == given.read_bytes()


def batch_words(form: str, name: str, folder: Path) -> list[str]:
    """Flags for a batch over the two pictures of a folder, and nothing else."""
    one, two = sorted(folder.iterdir())
    if form == "--input-dir":
        return ["--input-dir", str(folder), "--into", name]
    if form == "--sweep":
        return ["--sweep", f"{name}={one},{two}"]
    if form == "--zip":
        return ["--zip", f"{name}={one},{two}", "--zip", "3.filename_prefix=a,b"]
    table = folder.parent / "table.csv"
    table.write_text(f"{name}\n{one}\n{two}\n", encoding="utf-8")
    return ["--table", str(table)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["--input-dir", "--sweep", "--zip", "--table"])
def test_each_run_of_a_batch_gets_its_own_file(
    run: Runner, demo: Demo, graph_file: Any, form: str, name: str
) -> None:
    pictures = [photo(run.folder / "in" / f"{color}.png", color) for color in ("blue", "red")]
    ran = run(
        "run_batch.py", graph_file(api_graph()), "--host", demo.url, "--output-dir", "out",
        *batch_words(form, name, run.folder / "in"),
    )  # fmt: skip
    assert ran.code == 0, ran.out
    got = {stored(demo, graph["1"]["inputs"]["image"]) for graph in sent_graphs(demo)}
    assert got == {path.read_bytes() for path in pictures}


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_file_of_a_batch_arrives(run: Runner, demo: Demo, graph_file: Any, name: str) -> None:
    given = photo(run.folder / "given.png", "red")
    ran = run(
        "run_batch.py", graph_file(api_graph()), "--host", demo.url, "--output-dir", "out", "--sweep",
        "3.filename_prefix=a,b", "--input-image", f"{name}={given}",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    made = sent_graphs(demo)
    assert [stored(demo, graph["1"]["inputs"]["image"]) for graph in made] == [given.read_bytes()] * 2


@pytest.mark.parametrize("name", NAMES)
def test_a_receipt_sends_its_file_to_a_new_server(
    run: Runner, demo: Demo, new_demo: Any, graph_file: Any, name: str
) -> None:
    given = photo(run.folder / "given.png", "red")
    first = run(
        "run_workflow.py", graph_file(api_graph()), "--host", demo.url, "--output-dir", "out", "--receipt",
        "--input-image", f"{name}={given}",
    )  # fmt: skip
    assert first.code == 0, first.out
    other = new_demo()
    again = run(
        "run_workflow.py", "--reproduce", first.json["receipt"], "--host", other.url, "--output-dir", "again"
    )
    assert again.code == 0, again.out
    (graph,) = sent_graphs(other)
    assert stored(other, graph["1"]["inputs"]["image"]) == given.read_bytes()


def halves(demo: Demo, name: str) -> tuple[Any, Any]:
    """Pixels of the left and of the right half of an input file, as RGBA."""
    target = Path(name).name
    import io

    with Image.open(io.BytesIO(stored(demo, target))) as picture:
        whole = picture.convert("RGBA")
        assert whole.size == SIZE
        return whole.getpixel((5, 15)), whole.getpixel((35, 15))


@pytest.mark.parametrize("mask_name", ["mask", "image", "1.image"])
@pytest.mark.parametrize("picture_words", ["--input-image image", "--input-image 1.image", "--set 1.image"])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_mask_is_painted_into_the_picture_of_the_same_call(
    run: Runner, demo: Demo, graph_file: Any, mask_name: str, picture_words: str, scale: int
) -> None:
    flag, name = picture_words.split()
    given = photo(run.folder / "given.png", "red")
    drawn = mask(run.folder / "drawn.png", (SIZE[0] * scale, SIZE[1] * scale))
    ran = run(
        "run_workflow.py", graph_file(painted_graph()), "--host", demo.url, "--output-dir", "out",
        "--input-mask", f"{mask_name}={drawn}", flag, f"{name}={given}",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    (graph,) = sent_graphs(demo)
    assert halves(demo, graph["1"]["inputs"]["image"]) == ((255, 0, 0, 0), (255, 0, 0, 255))


@pytest.mark.parametrize("order", [("mask", "image"), ("image", "mask")])
def test_set_paints_a_mask_in_either_order(
    run: Runner, demo: Demo, graph_file: Any, order: tuple[str, str]
) -> None:
    files = {"image": photo(run.folder / "given.png", "red"), "mask": mask(run.folder / "drawn.png")}
    words = [word for name in order for word in ("--set", f"{name}={files[name]}")]
    ran = run(
        "run_workflow.py", graph_file(painted_graph()), "--host", demo.url, "--output-dir", "out", *words
    )
    assert ran.code == 0, ran.out
    (graph,) = sent_graphs(demo)
    assert halves(demo, graph["1"]["inputs"]["image"]) == ((255, 0, 0, 0), (255, 0, 0, 255))


@pytest.mark.parametrize("name", ["mask", "4.image", "LoadImageMask.image"])
@pytest.mark.parametrize("flag", ["--input-mask", "--set"])
def test_a_mask_loader_gets_its_file(run: Runner, demo: Demo, graph_file: Any, flag: str, name: str) -> None:
    given, drawn = photo(run.folder / "given.png", "red"), mask(run.folder / "drawn.png")
    ran = run(
        "run_workflow.py", graph_file(loader_graph()), "--host", demo.url, "--output-dir", "out",
        "--set", f"1.image={given}", flag, f"{name}={drawn}",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    (graph,) = sent_graphs(demo)
    assert stored(demo, graph["1"]["inputs"]["image"]) == given.read_bytes()
    assert stored(demo, graph["4"]["inputs"]["image"]) == drawn.read_bytes()


@pytest.mark.parametrize("name", ["mask", "1.image"])
def test_masks_of_a_batch_are_painted_into_the_constant_picture(
    run: Runner, demo: Demo, graph_file: Any, name: str
) -> None:
    given = photo(run.folder / "given.png", "red")
    (run.folder / "in").mkdir()
    drawn = mask(run.folder / "in" / "drawn.png")
    words = ["--sweep", f"mask={drawn}"] if name == "mask" else ["--input-mask", f"{name}={drawn}"]
    ran = run(
        "run_batch.py", graph_file(painted_graph()), "--host", demo.url, "--output-dir", "out", *words,
        "--sweep", "3.filename_prefix=a,b", "--input-image", f"1.image={given}",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    for graph in sent_graphs(demo):
        assert halves(demo, graph["1"]["inputs"]["image"]) == ((255, 0, 0, 0), (255, 0, 0, 255))


def test_a_turned_photo_is_painted_upright(run: Runner, demo: Demo, graph_file: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (SIZE[1], SIZE[0]), "red").save(run.folder / "turned.png", exif=exif)
    ran = run(
        "run_workflow.py", graph_file(painted_graph()), "--host", demo.url, "--output-dir", "out",
        "--input-image", "image=turned.png", "--input-mask", f"mask={mask(run.folder / 'drawn.png')}",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    (graph,) = sent_graphs(demo)
    assert halves(demo, graph["1"]["inputs"]["image"]) == ((255, 0, 0, 0), (255, 0, 0, 255))


@pytest.mark.parametrize("dry", [True, False])
def test_a_mask_of_other_proportions_is_refused(run: Runner, demo: Demo, graph_file: Any, dry: bool) -> None:
    given = photo(run.folder / "given.png", "red")
    drawn = mask(run.folder / "drawn.png", (30, 30))
    ran = run(
        "run_workflow.py", graph_file(painted_graph()), "--host", demo.url, "--input-image", f"1.image={given}",
        "--input-mask", f"mask={drawn}", *(["--dry-run"] if dry else []),
    )  # fmt: skip
    assert (ran.code, ran.json["code"]) == (2, "mask_size")
    assert (ran.json["mask_size"], ran.json["picture_size"]) == ([30, 30], [40, 30])
    assert not sent_graphs(demo)


def test_server_info_refuses_a_mask_of_another_size(run: Runner, demo: Demo) -> None:
    given = photo(run.folder / "given.png", "red")
    assert run("server_info.py", "upload", given, "--host", demo.url).code == 0
    drawn = mask(run.folder / "drawn.png", (80, 60))
    ran = run(
        "server_info.py", "upload", drawn, "--mask", "--original", "given.png [input]", "--host", demo.url
    )
    assert (ran.code, ran.json["code"]) == (2, "mask_size")
    assert not demo.asked("/upload/mask")


@pytest.mark.parametrize(
    "words",
    [
        ["--input-image", "image=a.png", "--input-image", "1.image=b.png"],
        ["--input-image", "image=a.png", "--set", "1.image=b.png"],
        ["--input-image", "image=a.png", "--set", "1.image=example.png"],
        ["--input-image", "1.image=a.png", "--set", "image=example.png"],
        ["--set", "My Photo.image=a.png", "--set", "1.image=b.png"],
        ["--input-mask", "mask=a.png", "--input-mask", "1.image=b.png"],
        ["--input-mask", "mask=a.png", "--set", "mask=example.png"],
    ],
)
def test_one_input_given_twice_is_refused(run: Runner, demo: Demo, graph_file: Any, words: list[str]) -> None:
    photo(run.folder / "a.png", "red")
    photo(run.folder / "b.png", "blue")
    ran = run("run_workflow.py", graph_file(painted_graph()), "--host", demo.url, *words)
    assert (ran.code, ran.json["code"]) == (2, "set_twice"), ran.out
    assert not sent_graphs(demo)


@pytest.mark.parametrize("into", ["image", "1.image"])
@pytest.mark.parametrize("fixed", ["image", "1.image"])
def test_a_batch_over_an_input_that_is_also_constant_is_refused(
    run: Runner, demo: Demo, graph_file: Any, into: str, fixed: str
) -> None:
    photo(run.folder / "in" / "a.png", "red")
    ran = run(
        "run_batch.py", graph_file(api_graph()), "--host", demo.url, "--input-dir", "in", "--into", into,
        "--input-image", f"{fixed}={photo(run.folder / 'b.png', 'blue')}",
    )  # fmt: skip
    assert ran.code == 2 and ran.json["code"] in ("set_twice", "usage"), ran.out
    assert not sent_graphs(demo)


def test_a_picture_of_the_server_and_a_mask_of_ours(run: Runner, demo: Demo, graph_file: Any) -> None:
    photo(run.folder / "there.png", "red")
    assert run("server_info.py", "upload", "there.png", "--host", demo.url).code == 0
    for name in ("image", "1.image"):
        ran = run(
            "run_workflow.py", graph_file(painted_graph()), "--host", demo.url, "--output-dir", "out",
            "--set", f"{name}=there.png [input]", "--input-mask", f"mask={mask(run.folder / 'drawn.png')}",
        )  # fmt: skip
        assert ran.code == 0, ran.out
        graph = sent_graphs(demo)[-1]
        assert halves(demo, graph["1"]["inputs"]["image"]) == ((255, 0, 0, 0), (255, 0, 0, 255))
