"""run_batch.py as a user meets it: what it runs, what it makes, what it refuses."""

from __future__ import annotations

import json
import statistics
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

import graphs
from batches import journal, rows_of
from bundle import ROOT, Demo, Runner

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are tested on POSIX")


def posts(demo: Demo) -> list[dict[str, Any]]:
    """The graphs that were submitted."""
    found = [entry for entry in demo.log() if entry["method"] == "POST" and entry["path"] == "/prompt"]
    return [entry["json"] for entry in found]


def test_a_sweep_becomes_files_pages_and_one_document(run: Runner, any_server: str, graph_file: Any) -> None:
    color = graphs.picture()["1"]["inputs"]["color"]
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", any_server, "--output-dir", "out",
        "--sweep", "width=16,24,32", "--sweep", f"1.color={color}:{color + 1}:1",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    out = run.folder / "out"
    assert (ran.json["status"], ran.json["runs"], ran.json["succeeded"], ran.json["files"]) == (
        "success",
        6,
        6,
        6,
    )
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [
        f"run_{at:04d}" for at in range(6)
    ]
    last = ran.json["results"]["items"][5]
    assert (last["run"], last["values"]) == (5, {"width": "32", "1.color": color + 1})
    assert [Path(name).parent.name for name in last["files"]] == ["run_0005"] and Path(
        last["files"][0]
    ).is_file()
    from PIL import Image

    sizes = []
    for at in range(6):
        (path,) = (out / f"run_{at:04d}").iterdir()
        with Image.open(path) as picture:
            sizes.append(picture.size[0])
    assert sizes == [16, 16, 24, 24, 32, 32]
    for key in ("index_html", "contact_sheet", "results_csv", "journal"):
        assert Path(ran.json[key]).is_file()
    assert [row["width"] for row in rows_of(out)] == ["16", "16", "24", "24", "32", "32"]
    assert not list(out.rglob("*.part")) and not (out / ".batch.lock").exists()


def test_every_run_is_submitted_once_under_its_own_id(run: Runner, demo: Demo, graph_file: Any) -> None:
    workflow = graph_file(graphs.picture())
    ran = run(
        "run_batch.py",
        workflow,
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--sweep",
        "1.color=1:30:1",
        "--no-report",
    )
    assert ran.code == 0
    sent = posts(demo)
    assert [item["prompt"]["1"]["inputs"]["color"] for item in sent] == list(range(1, 31))
    assert len({item["prompt_id"] for item in sent}) == 30
    assert len({item["client_id"] for item in sent}) == 1


def test_the_intent_is_in_the_journal_before_the_end(run: Runner, demo: Demo, graph_file: Any) -> None:
    run("run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out", "--count", 2)
    lines = journal(run.folder / "out")
    assert lines[0]["event"] == "plan" and lines[-1]["event"] == "end"
    for number in (0, 1):
        events = [line["event"] for line in lines if line.get("run") == number]
        assert events == ["submit", "finished", "downloaded"]
    assert {line["prompt_id"] for line in lines if line["event"] == "submit"} == {
        item["prompt_id"] for item in posts(demo)
    }


def test_counted_runs_get_counted_seeds(run: Runner, demo: Demo, graph_file: Any) -> None:
    workflow = graph_file(graphs.sleeper(0.0, 1, seed=500))
    ran = run("run_batch.py", workflow, "--host", demo.url, "--output-dir", "out", "--count", 3)
    assert ran.code == 0
    assert [item["prompt"]["1"]["inputs"]["seed"] for item in posts(demo)] == [500, 501, 502]
    run("run_batch.py", workflow, "--host", demo.url, "--output-dir", "two", "--count", 2, "--seed-start", 7)
    assert [item["prompt"]["1"]["inputs"]["seed"] for item in posts(demo)][3:] == [7, 8]
    assert [row["seed"] for row in rows_of(run.folder / "two")] == ["7", "8"]


def test_random_seeds_differ_and_are_written_down(run: Runner, demo: Demo, graph_file: Any) -> None:
    workflow = graph_file(graphs.sleeper(0.0, 1, seed=500))
    ran = run(
        "run_batch.py", workflow, "--host", demo.url, "--output-dir", "out", "--count", 4, "--randomize-seed"
    )
    assert ran.code == 0
    sent = [str(item["prompt"]["1"]["inputs"]["seed"]) for item in posts(demo)]
    assert len(set(sent)) == 4
    assert [row["seed"] for row in rows_of(run.folder / "out")] == sent


def test_names_are_made_of_values_safely(run: Runner, demo: Demo, graph_file: Any) -> None:
    table = run.folder / "t.csv"
    table.write_text("filename_prefix,width\nx/y,16\n=evil,17\n")
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out", "--table", table,
        "--name", "{index:03d}_{width:.1f}_{filename_prefix}",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    names = sorted(path.name for path in (run.folder / "out").glob("0*.png"))
    assert names == ["000_16.0_x_y.png", "001_17.0_=evil.png"]
    assert [row["filename_prefix"] for row in rows_of(run.folder / "out")] == ["x/y", "'=evil"]


def test_a_table_names_its_files(run: Runner, demo: Demo, graph_file: Any) -> None:
    table = run.folder / "t.jsonl"
    table.write_text('{"width": 16, "output": "small.png"}\n{"width": 32, "output": "big"}\n')
    ran = run(
        "run_batch.py",
        graph_file(graphs.two_pictures()),
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--table",
        table,
    )
    assert ran.code == 0, ran.out
    names = {path.name for path in (run.folder / "out").glob("*.png")} - {"contact_sheet.png"}
    assert names == {"small_1.png", "small_2.png", "big_1.png", "big_2.png"}


def test_each_picture_of_a_folder_is_uploaded_and_run(run: Runner, demo: Demo, graph_file: Any) -> None:
    from PIL import Image

    (run.folder / "in").mkdir()
    for number, color in enumerate(("red", "green", "blue")):
        Image.new("RGB", (8, 8), color).save(run.folder / "in" / f"p{number}.png")
    ran = run(
        "run_batch.py", graph_file(graphs.photo()), "--host", demo.url, "--output-dir", "out", "--input-dir", "in",
        "--name", "{index}",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    inverted = []
    for number in range(3):
        with Image.open(run.folder / "out" / f"{number}.png") as picture:
            inverted.append(picture.convert("RGB").getpixel((0, 0)))
    assert inverted == [(0, 255, 255), (255, 127, 255), (255, 255, 0)]


def test_a_folder_needs_an_input_that_takes_files(run: Runner, demo: Demo, graph_file: Any) -> None:
    (run.folder / "in").mkdir()
    (run.folder / "in" / "p.png").write_bytes(b"x")
    ran = run(
        "run_batch.py",
        graph_file(graphs.picture()),
        "--host",
        demo.url,
        "--input-dir",
        "in",
        "--into",
        "width",
    )
    assert (ran.code, ran.json["code"]) == (2, "not_an_upload")


def test_failures_are_listed_and_the_rest_goes_on(run: Runner, demo: Demo, graph_file: Any) -> None:
    demo.fault("fail:node=2,kind=ValueError,message=<b>no</b>\x1b[31m,times=2")
    ran = run(
        "run_batch.py",
        graph_file(graphs.picture()),
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--sweep",
        "1.color=1:6:1",
    )
    assert (ran.code, ran.json["status"], ran.json["code"]) == (1, "partial", "runs_failed")
    assert (ran.json["succeeded"], ran.json["failed"], ran.json["failures"]["count"]) == (4, 2, 2)
    first = ran.json["failures"]["items"][0]
    assert first["status"] == "error" and "<b>no</b>" in first["server_said"] and "\x1b" not in ran.err
    assert "--retry-failed" in ran.json["next"][0]
    again = run("run_batch.py", "--resume", "out", "--retry-failed")
    assert again.code == 0, again.out
    assert len(posts(demo)) == 8
    assert {row["status"] for row in rows_of(run.folder / "out")} == {"success"}


@pytest.mark.parametrize("pages", [True, False])
def test_more_failures_than_fit_are_counted_and_say_where_they_all_are(
    run: Runner, demo: Demo, graph_file: Any, pages: bool
) -> None:
    demo.fault("fail:node=2,kind=ValueError,message=no,times=250")
    more = [] if pages else ["--no-report"]
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out", "--sweep",
        "1.color=1:260:1", *more,
    )  # fmt: skip
    assert ran.code == 1
    failures = ran.json["failures"]
    assert (failures["count"], len(failures["items"]), failures["more"]) == (250, 20, 230)
    out = run.folder / "out"
    assert failures["all_in"] == str(out / ("results.csv" if pages else "batch.jsonl"))
    assert len(ran.err.splitlines()) < 12
    if pages:
        assert sum(row["status"] == "error" for row in rows_of(out)) == 250
    else:
        assert sum(line.get("status") == "error" for line in journal(out)) == 250


def test_stop_on_error_stops(run: Runner, demo: Demo, graph_file: Any) -> None:
    demo.fault("fail:node=2,kind=ValueError,message=no,times=1")
    ran = run(
        "run_batch.py", graph_file(graphs.sleeper(1.0, 5, seed=1)), "--host", demo.url, "--output-dir", "out",
        "--count", 30, "--stop-on-error",
    )  # fmt: skip
    assert (ran.code, ran.json["code"]) == (1, "stopped_on_error")
    assert ran.json["failed"] == 1 and ran.json["not_run"] >= 25
    queue = demo.get("/queue")
    assert queue["queue_pending"] == [] and queue["queue_running"] == []


def test_out_of_memory_frees_the_server_once_and_tries_again(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    demo.fault({"name": "oom", "node": "EmptyImage", "times": 1})
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out", "--sweep",
        "1.color=1:3:1", "--retries", 2,
    )  # fmt: skip
    assert ran.code == 0, ran.out
    assert ran.json["retried"] == 1
    freed = [entry for entry in demo.log() if entry["path"] == "/free"]
    assert len(freed) == 1


def test_what_cannot_pass_is_not_tried_again(run: Runner, demo: Demo, graph_file: Any) -> None:
    demo.fault("fail:node=2,kind=ValueError,message=no,times=1")
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out", "--sweep",
        "1.color=1:3:1", "--retries", 3,
    )  # fmt: skip
    assert ran.code == 1 and len(posts(demo)) == 3


def test_a_run_that_takes_too_long_is_cancelled(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = run(
        "run_batch.py", graph_file(graphs.sleeper(0.05, 90, seed=1)), "--host", demo.url, "--output-dir", "out",
        "--sweep", "seconds=0.05,90,0.06", "--run-timeout", 3,
    )  # fmt: skip
    assert ran.code == 1
    assert [row["status"] for row in rows_of(run.folder / "out")] == ["success", "timed_out", "success"]


def test_the_dry_run_says_what_the_server_would_reject(
    run: Runner, demo: Demo, graph_file: Any, tmp_path: Path
) -> None:
    graph = graphs.photo()
    loader = next(node for node in graph.values() if node["class_type"] == "LoadImage")
    loader["inputs"]["image"] = "nobody-has.png"
    graph["9"] = {"class_type": "PreviewAny", "inputs": {"source": ["10", 0]}}
    graph["10"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "eulr"}}
    words = (graph_file(graph), "--host", demo.url, "--dry-run", "--count", "2")

    ran = run("run_batch.py", *words)

    assert (ran.code, ran.json["status"], ran.json["code"]) == (6, "dry_run", "would_be_rejected"), ran.out
    told = {(row["code"], row["node_id"]) for row in ran.json["would_be_rejected"]["items"]}
    assert ("not_in_list", "10") in told and "file_missing" in {code for code, _ in told}
    assert ran.json["runs"] == 2 and ran.json["next"]

    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    ran = run("run_batch.py", *words, "--input-image", "image=mine.png", "--set", "10.sampler_name=euler")
    assert (ran.code, "code" in ran.json) == (0, False), ran.out
    assert not [entry for entry in demo.log() if entry["method"] == "POST" and "upload" in entry["path"]]

    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name)
    sweep = ("--sweep", "10.sampler_name=euler,heun", "--input-dir", tmp_path / "photos", "--into", "image")
    ran = run("run_batch.py", *words[:-2], *sweep)
    assert (ran.code, "code" in ran.json) == (0, False), ran.out


def test_a_class_that_an_editor_file_has_and_the_server_lacks_is_named_before_the_first_run(
    run: Runner, demo: Demo, tmp_path: Path
) -> None:
    from editor_files import File

    file = File(empty=True)
    file.node(1, "EmptyImage", values=[8, 8, 1, 0], outputs="IMAGE")
    file.node(2, "SharpenQuux", values=[1], inputs="image:IMAGE", outputs="IMAGE")
    file.node(3, "SaveImage", values=["x"], inputs="images:IMAGE")
    file.link(1, 0, 2, "image")
    file.link(2, 0, 3, "images")
    (tmp_path / "quux.json").write_text(json.dumps(file.document()), "utf-8")
    ran = run("run_batch.py", tmp_path / "quux.json", "--host", demo.url, "--sweep", "1.width=8,16")
    assert (ran.code, ran.json["missing_nodes"]) == (6, ["SharpenQuux"]), ran.out


def test_the_dry_run_sends_nothing_and_estimates_from_history(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    workflow = graph_file(graphs.sleeper(0.3, 2, seed=1))
    plain = run("run_batch.py", workflow, "--host", demo.url, "--sweep", "seed=1:100:1", "--dry-run")
    assert plain.code == 0 and plain.json["status"] == "dry_run"
    assert (plain.json["runs"], plain.json["first_runs"][1]) == (100, {"run": 1, "seed": 2})
    assert "estimate" not in plain.json and posts(demo) == []
    demo.post("/prompt", {"prompt": graphs.sleeper(0.3, 2, seed=9)})
    wait_for_history(demo, 1)
    later = run("run_batch.py", workflow, "--host", demo.url, "--sweep", "seed=1:100:1", "--dry-run")
    (took,) = executed(demo)
    assert later.json["estimate"]["seconds"] == pytest.approx(100 * took, rel=0.01)
    assert later.json["estimate"]["basis"] == "earlier runs with the same values"
    assert not (run.folder / "batches").exists()


def executed(demo: Demo) -> list[float]:
    """How long each job of the history took, as the server tells it."""
    messages = [dict(map(tuple, entry["status"]["messages"])) for entry in demo.get("/history").values()]
    return [
        (item["execution_success"]["timestamp"] - item["execution_start"]["timestamp"]) / 1000
        for item in messages
    ]


def wait_for_history(demo: Demo, count: int) -> None:
    end = time.monotonic() + 60
    while len(demo.get("/history")) < count:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_times_of_shorter_runs_are_no_estimate_but_a_guide(run: Runner, demo: Demo, graph_file: Any) -> None:
    """A batch of quick runs, then a plan for slow ones: its time is not the quick ones'."""
    quick, slow = (
        graph_file(graphs.sleeper(0.1, 2, seed=1)),
        graph_file(graphs.sleeper(0.9, 2, seed=1), "slow.json"),
    )
    words = ["--host", demo.url, "--count", 4]
    assert run("run_batch.py", quick, *words, "--output-dir", "out", "--no-report").code == 0
    same = run("run_batch.py", quick, *words, "--seed-start", 77, "--dry-run").json["estimate"]
    # The server's own times: a crowded machine takes longer than the naps.
    fast = statistics.median(executed(demo))
    assert same["basis"].endswith("the same values")
    assert same["seconds"] == pytest.approx(4 * fast, rel=0.5, abs=0.1)
    other = run("run_batch.py", slow, *words, "--dry-run").json["estimate"]
    assert "seconds" not in other and "only a guide" in other["basis"]
    mixed = run("run_batch.py", quick, "--host", demo.url, "--sweep", "seconds=0.1,0.9", "--dry-run").json[
        "estimate"
    ]
    assert "seconds" not in mixed
    assert run("run_batch.py", slow, *words, "--output-dir", "slow", "--no-report").code == 0
    mixed = run("run_batch.py", quick, "--host", demo.url, "--sweep", "seconds=0.1,0.9", "--dry-run").json[
        "estimate"
    ]
    late = statistics.median(executed(demo)[4:])
    assert mixed["seconds"] == pytest.approx(fast + late, rel=0.3, abs=0.1)
    guide = run("run_batch.py", quick, "--host", demo.url, "--sweep", "seconds=0.5,0.6", "--dry-run").json[
        "estimate"
    ]
    assert guide["seconds_least"] == pytest.approx(2 * fast, rel=0.5, abs=0.1)
    assert guide["seconds_most"] == pytest.approx(2 * late, rel=0.5, abs=0.1)


def test_the_plan_shows_numbers_as_numbers(run: Runner, demo: Demo) -> None:
    table = run.folder / "t.csv"
    table.write_text("seed,cfg,sampler_name\n5,7.5,euler\n")
    workflow = ROOT / "workflows/sd15_txt2img.json"
    for words in (
        ["--table", table],
        ["--zip", "seed=5,6", "--zip", "cfg=7.5,8"],
        ["--sweep", "5.seed=5", "--sweep", "cfg=7.5"],
    ):
        ran = run("run_batch.py", workflow, "--host", demo.url, "--dry-run", *words)
        first = ran.json["first_runs"][0]
        seed = first.get("seed", first.get("5.seed"))
        assert (seed, first["cfg"]) == (5, 7.5) and type(seed) is int, words


@pytest.mark.parametrize(
    ("texts", "torn"),
    [("a lighthouse, at night,a fox", True), ("a fox,a cat", False), ('["a fox, asleep", "a cat"]', False)],
)
def test_a_prompt_torn_at_its_commas_is_told(run: Runner, demo: Demo, texts: str, torn: bool) -> None:
    workflow = ROOT / "workflows/sd15_txt2img.json"
    sweeps = ["--sweep", f"prompt={texts}", "--sweep", "seed=1, 2", "--sweep", "cfg=7,8.5"]
    ran = run("run_batch.py", workflow, "--host", demo.url, "--dry-run", *sweeps)
    told = [words for words in ran.json.get("warnings", []) if "--prompts" in words]
    assert len(told) == torn and all("'at night'" in words for words in told)
    first = ran.json["first_runs"][1]
    assert (first["seed"], first["cfg"]) == (1, 8.5) and type(first["seed"]) is int


def test_paths_in_answers_hold_no_way_up(run: Runner, demo: Demo, graph_file: Any) -> None:
    (run.folder / "work").mkdir()
    one = run(
        "run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "work/../out"
    )
    assert one.json["outputs"][0]["file"].startswith(str((run.folder / "out").resolve()))
    many = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "work/../batch",
        "--sweep", "width=16,24",
    )  # fmt: skip
    assert many.code == 0 and "/../" not in many.out


def test_a_turned_photo_of_a_batch_is_told_once(run: Runner, demo: Demo) -> None:
    from PIL import Image

    (run.folder / "photos").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 16), "red").save(run.folder / "photos/a.jpg", exif=exif)
    ran = run(
        "run_batch.py", ROOT / "workflows/photo_touchup.json", "--host", demo.url, "--output-dir", "out",
        "--input-dir", "photos", "--into", "image",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.err.count("stored turned") == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "nothing to vary"),
        (["--sweep", "nosuch=1,2"], 2, "nosuch"),
        (["--sweep", "width=16,wide"], 2, "width"),
        (["--sweep", "width=16,24", "--zip", "width=1,2"], 2, "width"),
        (["--sweep", "width=16,24", "--set", "1.width=5"], 2, "width"),
        (["--count", "0"], 2, "--count"),
        (["--count", "3", "--max-runs", "2"], 7, "--max-runs"),
        (["--count", "2", "--name", "{nosuch}"], 2, "nosuch"),
        (["--sweep", "width=16,24", "--seed-start", "5"], 2, "only with --count"),
        (["--count", "2", "--recursive"], 2, "only with --input-dir"),
        (["--count", "2", "--prompts-into", "x"], 2, "only with --prompts"),
        (["--count", "2", "--name", "{index.__class__}"], 2, "__class__"),
        (["--table", "nothere.csv"], 2, "nothere.csv"),
        (["--sweep", "width=16,24", "--host", "@nothere"], 2, "nothere"),
    ],
)
def test_misuse_is_one_sentence_and_nothing_is_sent(
    run: Runner, demo: Demo, graph_file: Any, words: list[str], code: int, said: str
) -> None:
    host = [] if "--host" in words else ["--host", demo.url]
    ran = run("run_batch.py", graph_file(graphs.picture()), "--output-dir", "out", *host, *words)
    assert ran.code == code, ran.out
    assert said in ran.out
    assert posts(demo) == [] and not (run.folder / "out" / "batch.jsonl").exists()


@pytest.mark.parametrize(
    "words",
    [["--count", "9"], ["--set", "width=24"], ["--sweep", "width=16,24"], ["--limit", "1"], ["--dry-run"]],
)
def test_a_resume_refuses_what_it_would_not_look_at(
    run: Runner, demo: Demo, graph_file: Any, words: list[str]
) -> None:
    flow = graph_file(graphs.picture())
    first = run("run_batch.py", flow, "--host", demo.url, "--output-dir", "out", "--count", 2, "--no-report")
    before = (run.folder / "out" / "batch.jsonl").read_bytes()
    ran = run("run_batch.py", flow, "--host", demo.url, "--resume", "out", *words)
    assert (first.code, ran.code) == (0, 2)
    assert words[0] in ran.json["message"]
    assert (run.folder / "out" / "batch.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("seeded", "words", "told"),
    [
        (False, ["--count", "3"], True),
        (False, ["--count", "3", "--randomize-seed"], True),
        (False, ["--count", "1"], False),
        (True, ["--count", "3"], False),
        (True, ["--count", "3", "--randomize-seed"], False),
        (True, ["--count", "2", "--sweep", "seed=1,2"], True),
    ],
)
def test_runs_that_are_all_the_same_are_told(
    run: Runner, demo: Demo, graph_file: Any, seeded: bool, words: list[str], told: bool
) -> None:
    graph = graphs.sleeper(0.01, 1) if seeded else graphs.picture()
    ran = run("run_batch.py", graph_file(graph), "--host", demo.url, "--dry-run", *words)
    assert ran.code == 0
    assert any("no seed varies" in text for text in ran.json.get("warnings", [])) == told


def test_a_used_folder_is_refused(run: Runner, demo: Demo, graph_file: Any) -> None:
    words = (
        "run_batch.py",
        graph_file(graphs.picture()),
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--count",
        1,
    )
    assert run(*words).code == 0
    second = run(*words)
    assert (second.code, second.json["code"]) == (2, "folder_in_use")
    assert "--resume" in second.json["next"][0]


def test_no_server_is_exit_3_and_leaves_nothing(run: Runner, graph_file: Any) -> None:
    ran = run("run_batch.py", graph_file(graphs.picture()), "--host", "http://127.0.0.1:9", "--count", 2)
    assert ran.code == 3 and not (run.folder / "batches").exists()


def test_paid_nodes_and_many_cloud_runs_need_consent(
    run: Runner, demo: Demo, new_demo: Any, graph_file: Any
) -> None:
    paid = graphs.picture()
    paid["1"] = {"class_type": "DemoPartner", "inputs": {"prompt": "a fox", "seed": 1}}
    ran = run("run_batch.py", graph_file(paid), "--host", demo.url, "--count", 2, "--output-dir", "paid")
    assert (ran.code, ran.json["flag"]) == (7, "--yes-spend")
    assert posts(demo) == []
    cloud = new_demo("--cloud", "--api-key", "comfyui-test-key")
    words = [
        "--host",
        cloud.url,
        "--api-key",
        "comfyui-test-key",
        "--sweep",
        "1.color=1:8:1",
        "--output-dir",
        "out",
    ]
    ran = run("run_batch.py", graph_file(graphs.picture()), *words)
    assert (ran.code, ran.json["code"], ran.json["flag"]) == (7, "consent_needed", "--yes-spend")
    ran = run("run_batch.py", graph_file(graphs.picture()), *words, "--yes-spend")
    assert ran.code == 0, ran.out
    assert ran.json["files"] == 8


def test_the_report_is_made_again_from_the_journal_alone(run: Runner, demo: Demo, graph_file: Any) -> None:
    run(
        "run_batch.py",
        graph_file(graphs.picture()),
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--count",
        2,
        "--no-report",
    )
    out = run.folder / "out"
    assert not (out / "index.html").exists()
    demo.log()
    before = len(demo.log())
    ran = run("run_batch.py", "--report", "out")
    assert ran.code == 0 and (out / "index.html").exists() and (out / "contact_sheet.png").exists()
    assert len(demo.log()) <= before + 1
    assert run("run_batch.py", "--report", "nothere").code == 2


def test_pictures_sent_through_the_socket_are_saved(run: Runner, demo: Demo, graph_file: Any) -> None:
    graph = graphs.picture()
    graph["2"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    ran = run(
        "run_batch.py",
        graph_file(graph),
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--sweep",
        "1.color=1:3:1",
    )
    assert ran.code == 0, ran.out
    assert ran.json["files"] == 3
    for number in range(3):
        (path,) = (run.folder / "out" / f"run_{number:04d}").iterdir()
        assert path.read_bytes().startswith(b"\x89PNG")


def test_polling_does_as_well(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out", "--sweep",
        "1.color=1:5:1", "--no-ws",
    )  # fmt: skip
    assert ran.code == 0 and ran.json["files"] == 5


def test_texts_are_kept(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = run(
        "run_batch.py",
        graph_file(graphs.text("x")),
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--sweep",
        "text=a,b",
    )
    assert ran.code == 0
    ends = [line for line in journal(run.folder / "out") if line["event"] == "downloaded"]
    assert sorted(line["texts"][0]["text"] for line in ends) == ["a", "b"]


@pytest.mark.parametrize("again", [False, True])
def test_a_name_that_does_not_fit_every_run_is_refused_before_anything_is_sent(
    run: Runner, demo: Demo, graph_file: Any, again: bool
) -> None:
    varied = ["--sweep", "filename_prefix=12,cat,13", "--output-dir", "out"]
    flow = graph_file(graphs.picture())
    if again:
        assert run("run_batch.py", flow, "--host", demo.url, *varied).code == 0
        varied = ["--resume", "out"]
    sent = len(posts(demo))
    ran = run("run_batch.py", flow, "--host", demo.url, *varied, "--name", "{filename_prefix:04d}")
    assert (ran.code, ran.json["code"]) == (2, "misuse")
    assert "does not fit 'cat'" in ran.json["message"]
    assert len(posts(demo)) == sent


def test_a_name_found_not_to_fit_when_a_run_is_done_costs_no_file() -> None:
    from comfyskill.batch import fetch
    from comfyskill.batch import plan as batch_plan

    plan = batch_plan.Plan((batch_plan.Axis("sweep", ("x",), ["12", "cat"]),), str(uuid.uuid4()))
    assert [fetch.flat_name(plan, "{x:04d}", run, {}) for run in range(2)] == ["0012", None]


def test_a_row_without_a_value_of_the_name_keeps_its_file(run: Runner, demo: Demo, graph_file: Any) -> None:
    (run.folder / "t.csv").write_text("width,height\n16,16\n24,\n")
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out",
        "--table", "t.csv", "--name", "{width}_{height:03d}",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    assert sorted(path.name for path in (run.folder / "out").glob("[0-9]*.png")) == ["16_016.png", "24_.png"]


def test_a_file_named_like_a_page_of_the_batch_is_not_lost_to_it(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    names = ["contact_sheet", "contact_sheet_2.png", "contact_sheet_mine", "index"]
    rows = "".join(f"{16 + 8 * at},{name}\n" for at, name in enumerate(names))
    (run.folder / "t.csv").write_text(f"width,output\n{rows}")
    ran = run(
        "run_batch.py",
        graph_file(graphs.picture()),
        "--host",
        demo.url,
        "--output-dir",
        "out",
        "--table",
        "t.csv",
    )
    assert ran.code == 0, ran.out
    from PIL import Image

    for at, row in enumerate(rows_of(run.folder / "out")):
        with Image.open(run.folder / "out" / row["files"]) as picture:
            assert picture.width == 16 + 8 * at


def test_a_batchs_jobs_are_ours(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out", "--count", 2
    )
    assert ran.code == 0
    ours = "".join(path.read_text() for path in (run.folder / "cache" / "ours").iterdir()).split()
    submitted = [row["prompt_id"] for row in journal(run.folder / "out") if row["event"] == "submit"]
    assert sorted(ours) == sorted(submitted) and len(ours) == 2


def test_the_plan_line_keeps_every_wish() -> None:
    from comfyskill.batch import plan as batch_plan
    from comfyskill.batch import recipe as batch_recipe
    from comfyskill.run import prepare
    from comfyskill.source import read

    wishes = prepare.Wishes(
        settings={"steps": 3}, files=[("image", "/a.png", "image")], loras=["a"], force_links=frozenset({"1.x"}),
        validate=False, randomize_seed=True, invert_mask=True, tiled_vae=True,
    )  # fmt: skip
    source = read.Source({"1": {"class_type": "X", "inputs": {}}}, None, "here", False, [], [], [])
    recipe = batch_recipe.Recipe(source, wishes, batch_plan.Plan((), str(uuid.uuid4())))
    line = json.loads(json.dumps(recipe.plan_line(None)))
    # What a journal names is sent only when its content is known.
    assert batch_recipe.Recipe.from_line(line).wishes == wishes._replace(known_files=frozenset())


def test_a_graph_that_is_always_rejected_is_not_sent_a_thousand_times(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    graph = graphs.picture()
    graph["2"]["inputs"]["images"] = ["1", 7]
    ran = run(
        "run_batch.py", graph_file(graph), "--host", demo.url, "--output-dir", "out", "--sweep", "1.color=1:1000:1",
        "--no-report",
    )  # fmt: skip
    assert (ran.code, ran.json["status"]) == (6, "rejected"), ran.out
    assert len(posts(demo)) < 20
    assert len(ran.err.splitlines()) <= 3


def test_the_pages_say_that_a_demo_server_made_them(run: Runner, demo: Demo, graph_file: Any) -> None:
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", demo.url, "--output-dir", "out", "--count", 1
    )
    assert ran.json["demo"] is True
    assert "Made by the demo server" in Path(ran.json["index_html"]).read_text(encoding="utf-8")
