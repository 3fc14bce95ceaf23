"""Hostile input: whatever the file, the flag or the server's answer, one document, a clear word, bounded time and memory."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import graphs
from bundle import Demo
from hostile_files import BIDI, ESCAPES, FILES
from v2_servers import Double, Seen, running, send
from zygote import Finished, Forks, Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the quick runner forks")

# Of the processor; PATIENCE ends what waits for ever.
SECONDS = 15.0
PATIENCE = 60.0
MEGABYTES = 400.0
MEMORY = {"as": 3 << 30}
OFFLINE = {
    "inspect": ["inspect_workflow.py", "W"],
    "validate": ["validate_workflow.py", "W", "--offline"],
    "extract": ["extract_schema.py", "W", "--offline"],
    "convert": ["convert_workflow.py", "W", "--offline", "--output", "converted.json"],
    "to editor": ["convert_workflow.py", "--to-editor", "W", "--offline", "--output", "converted.json"],
    "diff": ["convert_workflow.py", "--diff", "W", "W", "--offline"],
}
ONLINE = {
    "run": ["run_workflow.py", "W", "--timeout", "15", "--output-dir", "out"],
    "dry run": ["run_workflow.py", "W", "--dry-run"],
    "batch": ["run_batch.py", "W", "--count", "2", "--dry-run"],
    "check_deps": ["check_deps.py", "W"],
    "auto_fix_deps": ["auto_fix_deps.py", "W", "--dry-run"],
    "health": ["health_check.py", "--workflow", "W"],
    "server_info upload": ["server_info.py", "upload", "W"],
}
# In every test run; the other readers with -m slow.
QUICK = ("inspect", "dry run")
# What these tools may leave beside the input.
OURS = {"converted.json", "out", "cache"}
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def forks(tmp_path: Path, zygote: Zygote) -> Forks:
    (tmp_path / "here").mkdir()
    return Forks(tmp_path / "here", zygote)


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder with size and time of change."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns)
    return found


def told_well(ran: Finished, name: str, *, reads_huge: bool = False) -> dict[str, Any]:
    """One document (or the graph) on stdout, nothing raw on stderr, in bounded time and memory."""
    assert ran.code in (0, 1, 2, 3, 5, 6, 7), (name, ran.code, ran.out[:500])
    assert ran.cpu_seconds < SECONDS, (name, ran.cpu_seconds)
    assert ran.peak_mb < (3 * MEGABYTES if reads_huge else MEGABYTES), (name, ran.peak_mb)
    assert ran.out.isascii()
    assert not UNSAFE.search(ran.err.replace("\r", "")), (name, ran.err)
    document = json.loads(ran.out)
    assert isinstance(document, dict), name
    if ran.code == 2:
        assert document["message"] and len(document["message"]) < 3000, name
    return document


def words_for(command: list[str], path: Path) -> list[object]:
    return [path if word == "W" else word for word in command]


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file(forks: Forks, demo: Demo, name: str) -> None:
    hostile_file(forks, demo, name, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("reader", sorted({*OFFLINE, *ONLINE} - set(QUICK)))
@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_and_every_reader(forks: Forks, demo: Demo, name: str, reader: str) -> None:
    hostile_file(forks, demo, name, (reader,))


def hostile_file(forks: Forks, demo: Demo, name: str, readers: tuple[str, ...]) -> None:
    path = FILES[name](forks.folder)
    outside = everything(forks.folder.parent)
    for reader in readers:
        command = OFFLINE.get(reader) or [*ONLINE[reader], "--host", demo.url]
        ran = forks(*words_for(command, path), timeout=PATIENCE, limits=MEMORY)  # type: ignore[arg-type]
        told_well(ran, f"{name}: {reader}")
    after = everything(forks.folder.parent)
    changed = {key for key in outside | after if outside.get(key) != after.get(key)}
    allowed = {key for key in changed if key == "here" or (key.split("/")[1:2] and key.split("/")[1] in OURS)}
    assert changed == allowed, changed - allowed


# What else is read from a file: F is the hostile one, G a good graph.
READ = {
    "values": ["run_workflow.py", "G", "--args", "@F", "--dry-run"],
    "sweep": ["run_batch.py", "G", "--sweep", "@F", "--dry-run"],
    "table": ["run_batch.py", "G", "--table", "F", "--dry-run"],
    "prompts": ["run_batch.py", "G", "--prompts", "F", "--dry-run"],
    "hosts": ["run_batch.py", "G", "--count", "2", "--host", "@F", "--dry-run"],
    "receipt": ["run_workflow.py", "--reproduce", "F", "--timeout", "5", "--output-dir", "out"],
    "key": ["server_info.py", "stats", "--api-key-file", "F"],
    "certificates": ["server_info.py", "stats", "--ca-bundle", "F"],
    "definitions": ["validate_workflow.py", "G", "--object-info", "F"],
    "inventory": ["check_deps.py", "G", "--inventory", "F"],
    "picture": [
        "run_workflow.py",
        "P",
        "--input-image",
        "1.image=F",
        "--timeout",
        "15",
        "--output-dir",
        "out",
    ],
    "journal": ["run_batch.py", "--resume", "journal"],
    "definitions of the demo server": [
        "demo_server.py",
        "--port",
        "0",
        "--exit-with-parent",
        "--definitions",
        "F",
    ],
}
# Nobody writes into the pipe: a moment is enough to see that.
HASTY = "from comfyskill.base import text_files; text_files.PIPE_PATIENCE = 0.3"
SHARP = ("nothing", "noise", "NULs", "UTF-16", "a list", "nested 100,000 deep", "terminal escapes", "names of 5,000 characters",
         "an integer of 6,000 digits", "a folder", "a FIFO that nobody writes to", "a link to itself", "/dev/zero", "not there",
         "a JSON file of 3 GB", "20,000 nodes", "nested 100,000 objects")  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SHARP else [pytest.mark.slow]) for name in FILES]
)
def test_a_hostile_file_wherever_one_is_read(forks: Forks, demo: Demo, name: str) -> None:
    """Values, tables, receipts, keys, journals: taken or refused in words, without a traceback, an end of memory or of time."""
    path = FILES[name](forks.folder)
    (forks.folder / "good.json").write_text(json.dumps(graphs.picture()))
    (forks.folder / "photo.json").write_text(json.dumps(graphs.photo()))
    (forks.folder / "journal").mkdir()
    # A journal that is a link is refused unread. What has no second name (a device, a folder) stays one.
    plain = path.is_file() and not path.is_symlink()
    if plain:
        (forks.folder / "journal" / "batch.jsonl").hardlink_to(path)
    else:
        (forks.folder / "journal" / "batch.jsonl").symlink_to(path.absolute())
    outside = everything(forks.folder.parent)
    named = {
        "F": str(path),
        "@F": f"@{path}",
        "1.image=F": f"1.image={path}",
        "G": "good.json",
        "P": "photo.json",
    }
    for what, (script, *words) in READ.items():
        host = (
            []
            if what in ("hosts", "definitions", "inventory") or script == "demo_server.py"
            else ["--host", demo.url]
        )
        words = [named.get(word, word) for word in words]
        ran = forks(script, *words, *host, timeout=PATIENCE, limits=MEMORY, before=HASTY)
        told_well(ran, f"{name}: {what}", reads_huge=what == "journal")
    after = everything(forks.folder.parent)
    changed = {key for key in outside | after if outside.get(key) != after.get(key)}
    ours = {*OURS, "journal"}
    assert all(key == "here" or key.split("/")[1] in ours for key in changed), changed


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["1", "2", "class_type", "inputs", "nodes", "links", "prompt", "KSampler", "SaveImage", ESCAPES, BIDI]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["1", "2", "class_type", "inputs", "_meta", "nodes", "links", "type", "id", "widgets_values", "definitions",
                         "subgraphs", "extra", "seed", "image", "x"]), inner, max_size=5),
    max_leaves=30,
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=ANYTHING)
def test_any_json_is_answered(zygote: Zygote, value: Any) -> None:
    any_json(zygote, value, ["inspect"])


@pytest.mark.slow
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=ANYTHING)
def test_any_json_is_answered_by_all(zygote: Zygote, value: Any) -> None:
    any_json(zygote, value, list(OFFLINE))


def any_json(zygote: Zygote, value: Any, readers: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        forks = Forks(Path(name), zygote)
        path = Path(name) / "w.json"
        path.write_text(json.dumps(value))
        for reader in readers:
            told_well(forks(*words_for(OFFLINE[reader], path), timeout=PATIENCE), reader)  # type: ignore[arg-type]


FLAGS = {
    "set without a value": ["--set", "seed"],
    "set of nothing": ["--set", "=1"],
    "set of a strange name": ["--set", f"{ESCAPES}=1"],
    "an endless value": ["--set", "1.width=" + "9" * 6000],
    "JSON that is none": ["--args", "{"],
    "JSON that is a list": ["--args", "[1]"],
    "deep JSON": ["--args", "[" * 50_000],
    "a file of JSON that is not there": ["--args", "@/nowhere"],
    "a file of JSON that is a folder": ["--args", "@/"],
    "a picture that is a folder": ["--input-image", "1.image=/"],
    "a picture that is a device": ["--input-image", "image=/dev/zero"],
    "a picture that is not there": ["--input-image", "image=/nowhere.png"],
    "no time": ["--timeout", "0"],
    "time is a word": ["--timeout", "soon"],
    "no number": ["--timeout", "nan"],
    "an infinite time": ["--timeout", "inf"],
    "a header of two lines": ["--header", "X: a\r\nY: b"],
    "a header without a colon": ["--header", "X"],
    "a key file that is a folder": ["--api-key-file", "/"],
    "a key file that is not there": ["--api-key-file", "/nowhere"],
    "a key with a line break": ["--api-key", "a\nb"],
    "a key of escapes": ["--api-key", ESCAPES],
    "a certificate that is not there": ["--ca-bundle", "/nowhere"],
    "an unknown flag": ["--overwrit"],
    "a node that is not there": ["--only", "99"],
    "a lora of nothing": ["--lora", ""],
    "a hostile prompt id": ["--prompt-id", "../../x\x1b[31m"],
    "an address of a file": ["--host", "file:///etc/passwd"],
    "an address with a port too large": ["--host", "127.0.0.1:99999"],
    "an address of escapes": ["--host", f"http://{ESCAPES}"],
    "an address in brackets": ["--host", "http://[::1"],
    "an address of 5,000 characters": ["--host", "http://" + "a" * 5000],
    "an address of half a name": ["--host", "http://\u00fc..x"],
    "an empty address": ["--host", ""],
}


# Were a flag misread as the default server, nothing would be sent to one that a user runs.
NO_DEFAULT = {"COMFY_HOST": "http://127.0.0.1:9"}


@pytest.mark.parametrize("name", FLAGS)
def test_a_hostile_flag_is_misuse_and_nothing_is_sent(forks: Forks, demo: Demo, name: str) -> None:
    path = forks.folder / "w.json"
    path.write_text(json.dumps(graphs.picture()))
    ran = forks("run_workflow.py", path, "--host", demo.url, *FLAGS[name], env=NO_DEFAULT, timeout=PATIENCE)
    document = told_well(ran, name)
    if name == "an empty address":
        assert ran.code == 2
        return
    if name == "a hostile prompt id":
        assert ran.code in (0, 2)  # an id is any text; it must only stay where it belongs
        return
    assert ran.code == 2, ran.out
    assert document.get("hint") or document.get("address"), document
    assert not [entry for entry in demo.log() if entry["path"] == "/prompt"]


IDS = ["../../etc/pass?d#e\u202e", ESCAPES + "x" * 5000]
TAKE_IDS = {
    "resume": ["run_workflow.py", "--resume=ID"],
    "wait": ["manage_queue.py", "wait", "ID"],
    "cancel": ["manage_queue.py", "cancel", "ID"],
    "logs": ["fetch_logs.py", "ID"],
    "monitor": ["ws_monitor.py", "--prompt-id=ID"],
}


@pytest.mark.parametrize("taker", TAKE_IDS)
def test_a_hostile_prompt_id_stays_one_path_segment(forks: Forks, demo: Demo, taker: str) -> None:
    """It is looked for under its whole name and not found, by every script that takes one."""
    for prompt_id in IDS:
        script, *words = (word.replace("ID", prompt_id) for word in TAKE_IDS[taker])
        ran = forks(script, *words, "--host", demo.url, timeout=PATIENCE)
        told_well(ran, f"{taker} {prompt_id!r}")
        assert ran.code in (1, 2), (prompt_id, ran.out)
    # The log shows paths decoded: a name that had left its place would stand without the route before it.
    known = r"(?s)/(ws|queue|features|system_stats|prompt|history|internal/logs.*|(history|view)/.+|api/.*)"
    for entry in demo.log():
        assert re.fullmatch(known, entry["path"]), entry["path"]
    assert not [entry for entry in demo.log() if entry["method"] == "POST" and entry["path"] == "/prompt"]


def test_hostile_definitions_are_survived(forks: Forks) -> None:
    """Saved node definitions are a file from anywhere."""
    workflow = forks.folder / "w.json"
    workflow.write_text(json.dumps(graphs.picture()))
    shapes: list[Any] = [
        {}, [], None, 5, "x", {"EmptyImage": None}, {"EmptyImage": []}, {"EmptyImage": {"input": None}},
        {"EmptyImage": {"input": {"required": {"width": None, "height": [], "color": ["INT"], "batch_size": ["INT", None]}}}},
        {"EmptyImage": {"input": {"required": {"width": ["INT", {"min": "x", "max": None, "default": []}]}}, "output": None}},
        {"EmptyImage": {"input": {"required": [["width"]]}, "output": "IMAGE", "output_node": "yes"}, "SaveImage": 1},
        {"EmptyImage": {"input": {"required": {"width": [[None, {}, [1]], {}]}}, "output": [None, 5], "name": ESCAPES}},
    ]  # fmt: skip
    for number, shape in enumerate(shapes):
        definitions = forks.folder / f"d{number}.json"
        definitions.write_text(json.dumps(shape))
        for script in ("validate_workflow.py", "extract_schema.py", "convert_workflow.py"):
            ran = forks(script, workflow, "--object-info", definitions, timeout=PATIENCE)
            told_well(ran, f"{script} {shape}")


@pytest.mark.parametrize("script", ["run_workflow.py", "run_batch.py"])
def test_a_file_that_a_server_names_lands_inside_whatever_its_name(
    forks: Forks, demo: Demo, script: str
) -> None:
    """The demo server's DemoHostileNames sends one kind of name after the other."""
    (kinds, *_) = demo.get("/object_info/DemoHostileNames")["DemoHostileNames"]["input"]["required"]["kind"]
    assert {"traversal", "absolute", "drive", "reserved", "long", "odd"} <= set(kinds)
    path = forks.folder / "w.json"
    before = everything(forks.folder.parent)
    files = 0
    for seed, kind in enumerate(kinds):
        inputs = {"kind": kind, "seed": seed}
        path.write_text(json.dumps({"1": {"class_type": "DemoHostileNames", "inputs": inputs}}))
        words = ["--count", "1", "--no-report"] if script == "run_batch.py" else []
        out = forks.folder / "out" / str(seed)
        ran = forks(script, path, "--host", demo.url, "--output-dir", out, *words, timeout=PATIENCE)
        told_well(ran, kind)
        saved = [Path(item["file"]) for item in ran.json.get("outputs", [])]
        files += sum(1 for file in out.rglob("*") if file.suffix == ".png")
        assert all(os.path.realpath(file).startswith(os.path.realpath(out) + os.sep) for file in saved), saved
        assert not [file for file in out.rglob("*") if UNSAFE.search(file.name)]
    after = everything(forks.folder.parent)
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert files >= len(kinds) // 2
    assert all(
        key in ("here", "here/w.json") or key.startswith(("here/out", "here/cache")) for key in changed
    ), changed


PLACES = [("../../evil.png", ""), ("ok.png", "../../.."), ("HERE/evil.png", ""), ("ok.png", "HERE/sub"), ("..", ".."), (".", ""),
          ("C:\\evil.png", "C:\\Windows"), ("..\\..\\evil.png", "..\\.."), ("a\x00b\n.png", "sub\r"), ("\x1b[31mred.png", ""),
          ("CON", ""), ("nul.txt", "com1"), ("n" * 5000 + ".png", "s" * 300), ("~/evil.png", "~"), ("$HOME/x.png", ""),
          (".bashrc", ".ssh"), ("%2e%2e%2fevil.png", "..%2f.."), ("file:///etc/passwd", "http://127.0.0.1:9"), ("batch.jsonl", "")]  # fmt: skip


class Willing(Double):
    """A server that gives a picture under every name, also under those that a ComfyUI refuses.

    HERE in a name stands for an absolute folder.
    """

    def __init__(self, here: Path) -> None:
        self.here = str(here)
        super().__init__()

    def answer(self, handler: BaseHTTPRequestHandler, request: Seen) -> None:
        if request.path.startswith("/history/"):
            files = [
                {
                    "filename": name.replace("HERE", self.here),
                    "subfolder": sub.replace("HERE", self.here),
                    "type": "output",
                }
                for name, sub in PLACES
            ]
            entry = {"prompt": [1, "job", {}, {}, ["1"]], "outputs": {"1": {"images": files}},
                     "status": {"status_str": "success", "completed": True, "messages": []}}  # fmt: skip
            return send(handler, 200, {"job": entry})
        if request.path == "/view":
            return send(handler, 200, b"\x89PNG\r\n\x1a\n" + bytes(99), {"Content-Type": "image/png"})
        found = {
            "/queue": {"queue_running": [], "queue_pending": []},
            "/system_stats": {"system": {}, "devices": []},
        }
        return send(handler, 200 if request.path in found else 404, found.get(request.path, b"404"))


@pytest.mark.parametrize(
    "words", [["run_workflow.py", "--resume", "job"], ["manage_queue.py", "wait", "job"]]
)
def test_a_server_that_gives_files_under_any_name_writes_nowhere_else(forks: Forks, words: list[str]) -> None:
    (forks.folder / "deep" / "er").mkdir(parents=True)
    before = everything(forks.folder.parent)
    with running(Willing(forks.folder.parent)) as server:
        ran = forks(
            *words, "--host", server.url, "--api", "local", "--output-dir", "deep/er/out", timeout=PATIENCE
        )
    told_well(ran, "names")
    after = everything(forks.folder.parent)
    made = {key for key in after if key not in before and key.endswith(".png")}
    assert len(made) >= 10, ran.out
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert all(
        key in ("here", "here/deep/er") or key.startswith(("here/deep/er/out", "here/cache"))
        for key in changed
    ), changed
    assert not [path for path in forks.folder.rglob("*") if UNSAFE.search(path.name)]
