"""Batch folders from someone else: what their links, journals and names cannot do; folders that vanish meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import graphs
import pytest
from conftest import Demo, Ran, Runner
from test_batch_survival import begin, done, submitted, wait_for

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links and signals are tested on POSIX")
PRECIOUS = b"precious data of the user"


@pytest.fixture
def victim(run: Runner) -> Path:
    """A folder of the user with a file in it, beside the folder that a stranger has prepared."""
    (run.folder / "out").mkdir()
    (run.folder / "victim").mkdir()
    (run.folder / "victim" / "file").write_bytes(PRECIOUS)
    return run.folder / "victim"


def unharmed(victim: Path) -> bool:
    return [path.name for path in victim.iterdir()] == ["file"] and (victim / "file").read_bytes() == PRECIOUS


def refused_in_words(ran: Ran, name: str) -> None:
    assert (ran.code, ran.json["code"]) == (7, "unsafe_folder"), ran.out
    assert name in ran.json["message"]


def new(run: Runner, demo: Demo, graph_file: Any, count: int = 2, *words: object) -> Ran:
    graph = graph_file(graphs.picture())
    return run(
        "run_batch.py", graph, "--host", demo.url, "--output-dir", "out", "--count", count, "--quiet", *words
    )


# (name in the folder, what it points at)
LINKS = [
    ("run_0000", "../victim"),
    ("run_0001", "../victim/absent"),
    ("run_0000", "inside"),
    (".batch.lock", "../victim/file"),
    (".batch.lock", "../victim/absent"),
    ("batch.jsonl", "../victim/file"),
    ("batch.jsonl", "../victim/absent"),
    (".0123456789abcdef.part", "../victim/file"),
    ("model.safetensors.part.json", "../victim/file"),
]


@pytest.mark.parametrize(("name", "target"), LINKS)
def test_a_new_batch_writes_through_no_link(
    run: Runner, demo: Demo, graph_file: Any, victim: Path, name: str, target: str
) -> None:
    (run.folder / "out" / "inside").mkdir()
    (run.folder / "out" / name).symlink_to(target)
    refused_in_words(new(run, demo, graph_file), name)
    assert unharmed(victim)
    assert not submitted(demo)
    assert sorted(path.name for path in (run.folder / "out").iterdir()) == sorted(["inside", name])


@pytest.mark.parametrize(("name", "target"), [link for link in LINKS if link[0] != "batch.jsonl"])
def test_a_resumed_batch_writes_through_no_link(
    run: Runner, demo: Demo, graph_file: Any, victim: Path, name: str, target: str
) -> None:
    assert new(run, demo, graph_file).code == 0
    folder = run.folder / "out"
    plan = (folder / "batch.jsonl").read_bytes().split(b"\n")[0] + b"\n"
    (folder / "batch.jsonl").write_bytes(plan)  # as a stranger would hand it on: all is still to run
    for path in (folder / "run_0000", folder / "run_0001"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    (folder / "inside").mkdir()
    (folder / name).symlink_to(target)
    demo.post("/demo/log/clear")
    refused_in_words(run("run_batch.py", "--resume", "out", "--quiet"), name)
    assert unharmed(victim)
    assert demo.log() == []
    assert (folder / "batch.jsonl").read_bytes() == plan


def test_a_journal_that_is_a_link_is_not_read(run: Runner, demo: Demo, graph_file: Any, victim: Path) -> None:
    assert new(run, demo, graph_file).code == 0
    (run.folder / "other").mkdir()
    (run.folder / "other" / "batch.jsonl").symlink_to("../out/batch.jsonl")
    kept = (run.folder / "out" / "batch.jsonl").read_bytes()
    refused_in_words(run("run_batch.py", "--resume", "other", "--host", demo.url), "batch.jsonl")
    refused_in_words(run("run_batch.py", "--report", "other"), "batch.jsonl")
    assert (run.folder / "out" / "batch.jsonl").read_bytes() == kept


@pytest.mark.parametrize("name", [".batch.lock", "batch.jsonl"])
def test_a_second_name_of_a_file_is_not_written(
    run: Runner, demo: Demo, graph_file: Any, victim: Path, name: str
) -> None:
    os.link(victim / "file", run.folder / "out" / name)
    refused_in_words(new(run, demo, graph_file), name)
    assert unharmed(victim)
    assert not submitted(demo)


def test_a_link_that_appears_in_mid_batch_costs_that_runs_files_alone(
    run: Runner, demo: Demo, graph_file: Any, victim: Path
) -> None:
    process = begin(run, demo, graph_file, 6, nap=0.3)
    wait_for(done(run, 1))
    (run.folder / "out" / "run_0005").symlink_to(victim)
    out, _ = process.communicate(timeout=120)
    document = json.loads(out)
    assert (process.returncode, document["succeeded"], document["failed"]) == (1, 5, 1)
    assert document["failures"]["items"][0]["code"] == "unsafe_folder"
    assert unharmed(victim)


def test_the_output_folder_itself_may_be_a_link_of_the_user(run: Runner, demo: Demo, graph_file: Any) -> None:
    (run.folder / "large_disk").mkdir()
    (run.folder / "out").symlink_to("large_disk")
    assert new(run, demo, graph_file).code == 0
    assert (run.folder / "large_disk" / "run_0001").is_dir()


def test_a_resume_removes_half_fetched_files_at_any_depth(
    run: Runner, demo: Demo, graph_file: Any, victim: Path
) -> None:
    assert new(run, demo, graph_file).code == 0
    folder = run.folder / "out"
    half = ".0123456789abcdef.part"
    (folder / "run_0000" / "video" / "deep").mkdir(parents=True)
    (folder / "other_batch" / "run_0000").mkdir(parents=True)
    places = [
        folder,
        folder / "run_0000",
        folder / "run_0000" / "video",
        folder / "run_0000" / "video" / "deep",
    ]
    for place in places:
        (place / half).write_bytes(b"half")
    (folder / "run_0000" / "video" / "notes.part").write_bytes(b"of the user")
    (folder / "other_batch" / "run_0000" / half).write_bytes(b"of another process")
    (victim / half).write_bytes(b"elsewhere")
    (folder / "run_0000" / "video" / "linked").symlink_to(victim)
    assert run("run_batch.py", "--resume", "out", "--host", demo.url, "--quiet").code == 0
    assert not [place for place in places if (place / half).exists()]
    assert (folder / "run_0000" / "video" / "notes.part").exists()
    assert (folder / "other_batch" / "run_0000" / half).exists()
    assert (victim / half).exists()
