"""The JSON contract of every command, as data: which keys, which `status` and `code`, which exit code.

`tests/data/golden.json` holds what each case of CASES answers. `python3 tests/support/golden.py --write` writes it anew after
an intended change; the difference in git then shows what changed for programs that read the answers.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent.parent
WORKFLOWS = HERE.parent / "workflows"
GOLDEN = HERE / "data" / "golden.json"

SDXL = str(WORKFLOWS / "sdxl_txt2img.json")
PHOTO = str(WORKFLOWS / "photo_touchup.json")
NOWHERE = ["--host", "http://127.0.0.1:9"]


class Case(NamedTuple):
    """One call whose answer is kept. `before`: calls that prepare it; words `{url}` and `{id}` are filled in."""

    words: list[str]
    before: tuple[list[str], ...] = ()
    files: tuple[str, ...] = ()


H = ["--host", "{url}"]
RUN = ["run_workflow.py", SDXL, *H, "--output-dir", "out"]
BATCH = ["run_batch.py", SDXL, *H, "--output-dir", "sweep"]

CASES: dict[str, Case] = {
    "run": Case([*RUN, "--set", "seed=1"]),
    "run-dry": Case([*RUN, "--dry-run"]),
    "run-no-wait": Case([*RUN, "--no-wait"]),
    "run-picture": Case(
        ["run_workflow.py", PHOTO, *H, "--input-image", "image=photo.png", "--output-dir", "out"],
        files=("photo.png",),
    ),
    "run-resume": Case(["run_workflow.py", "--resume", "{id}", *H, "--output-dir", "again"], before=(RUN,)),
    "run-reproduce": Case(
        ["run_workflow.py", "--reproduce", "out/{id}.json", *H, "--output-dir", "again"],
        before=([*RUN, "--receipt"],),
    ),
    "run-no-file": Case(["run_workflow.py", "missing.json", *H]),
    "run-not-a-workflow": Case(["run_workflow.py", "list.json", *H], files=("list.json",)),
    "run-unknown-name": Case([*RUN, "--set", "promt=x"]),
    "run-wrong-value": Case([*RUN, "--set", "steps=many"]),
    "run-missing-model": Case([*RUN, "--set", "checkpoint=other.safetensors"]),
    "run-missing-class": Case(["run_workflow.py", "unknown_class.json", *H], files=("unknown_class.json",)),
    "run-failing": Case(
        ["run_workflow.py", "failing.json", *H, "--output-dir", "out"], files=("failing.json",)
    ),
    "run-partner": Case(["run_workflow.py", "partner.json", *H], files=("partner.json",)),
    "run-no-server": Case(["run_workflow.py", SDXL, *NOWHERE]),
    "run-bad-flag": Case(["run_workflow.py", SDXL, "--frobnicate"]),
    "batch": Case([*BATCH, "--sweep", "seed=1,2"]),
    "batch-dry": Case([*BATCH, "--count", "3", "--dry-run"]),
    "batch-resume": Case(["run_batch.py", "--resume", "sweep"], before=([*BATCH, "--count", "2"],)),
    "batch-report": Case(["run_batch.py", "--report", "sweep"], before=([*BATCH, "--count", "2"],)),
    "batch-no-plan": Case(BATCH),
    "batch-unknown-name": Case([*BATCH, "--sweep", "promt=a,b"]),
    "batch-no-batch": Case(["run_batch.py", "--resume", "empty"]),
    "batch-no-server": Case(["run_batch.py", SDXL, "--count", "2", *NOWHERE]),
    "schema": Case(["extract_schema.py", SDXL, *H]),
    "schema-summary": Case(["extract_schema.py", SDXL, "--summary-only"]),
    "schema-offline": Case(["extract_schema.py", SDXL, "--offline"]),
    "schema-not-a-workflow": Case(["extract_schema.py", "list.json"], files=("list.json",)),
    "validate": Case(["validate_workflow.py", SDXL, *H]),
    "validate-offline": Case(["validate_workflow.py", SDXL, "--offline"]),
    "validate-wrong": Case(["validate_workflow.py", "wrong.json", *H], files=("wrong.json",)),
    "inspect": Case(["inspect_workflow.py", SDXL]),
    "inspect-suspicious": Case(["inspect_workflow.py", "suspicious.json"], files=("suspicious.json",)),
    "convert": Case(["convert_workflow.py", SDXL, "--to-editor", "--output", "editor.json", "--offline"]),
    "convert-back": Case(
        ["convert_workflow.py", "editor.json", "--output", "graph.json", "--offline"],
        before=(["convert_workflow.py", SDXL, "--to-editor", "--output", "editor.json", "--offline"],),
    ),
    "convert-diff": Case(["convert_workflow.py", "--diff", SDXL, PHOTO, "--offline"]),
    "deps": Case(["check_deps.py", SDXL, *H]),
    "deps-missing": Case(["check_deps.py", "wrong.json", *H], files=("wrong.json",)),
    "deps-no-server": Case(["check_deps.py", SDXL, *NOWHERE]),
    "fix-nothing": Case(["auto_fix_deps.py", SDXL, *H, "--dry-run"]),
    "fix-plan": Case(["auto_fix_deps.py", "wrong.json", *H, "--dry-run"], files=("wrong.json",)),
    "health": Case(["health_check.py", *H]),
    "health-no-server": Case(["health_check.py", *NOWHERE]),
    "server": Case(["server_info.py", *H, "stats"]),
    "server-features": Case(["server_info.py", *H, "features"]),
    "server-models": Case(["server_info.py", *H, "models"]),
    "server-folder": Case(["server_info.py", *H, "models", "checkpoints"]),
    "server-nodes": Case(["server_info.py", *H, "nodes", "--search", "sampler"]),
    "server-node": Case(["server_info.py", *H, "node", "KSampler"]),
    "server-no-node": Case(["server_info.py", *H, "node", "KSamplr"]),
    "server-templates": Case(["server_info.py", *H, "templates"]),
    "server-subgraphs": Case(["server_info.py", *H, "subgraphs"]),
    "server-subgraph": Case(["server_info.py", *H, "subgraph", "Invert and Blur"]),
    "server-no-subgraph": Case(["server_info.py", *H, "subgraph", "Invert"]),
    "server-workflows": Case(["server_info.py", *H, "workflows"]),
    "server-suggest": Case(["server_info.py", *H, "suggest"]),
    "queue-list": Case(["manage_queue.py", "list", *H]),
    "queue-history": Case(["manage_queue.py", "history", *H], before=(RUN,)),
    "queue-cancel": Case(["manage_queue.py", "cancel", "{id}", *H], before=(RUN,)),
    "queue-wait": Case(["manage_queue.py", "wait", "{id}", *H], before=(RUN,)),
    "queue-free": Case(["manage_queue.py", "free", *H]),
    "queue-clear": Case(["manage_queue.py", "clear", "--yes", *H]),
    "queue-unknown": Case(["manage_queue.py", "lisst", *H]),
    "logs": Case(["fetch_logs.py", "{id}", *H], before=(RUN,)),
    "logs-failed": Case(
        ["fetch_logs.py", "--last", *H],
        before=(["run_workflow.py", "failing.json", *H, "--output-dir", "out"],),
        files=("failing.json",),
    ),
    "logs-list": Case(["fetch_logs.py", "--list", *H], before=(RUN,)),
    "logs-server": Case(["fetch_logs.py", "--server", *H]),
    "logs-unknown": Case(["fetch_logs.py", "0b6f2a34-1111-4222-8333-123456789abc", *H]),
    "monitor": Case(["ws_monitor.py", "{id}", *H], before=(RUN,)),
    "setup-dry": Case(["comfyui_setup.py", "install", "--cpu", "--workspace", "comfy", "--dry-run"]),
    "setup-status": Case(["comfyui_setup.py", "status", "--workspace", "comfy", "--port", "9"]),
    "hardware-supposed": Case(["hardware_check.py", "--vram", "8", "--ram", "32"]),
}


def files() -> dict[str, bytes]:
    """The input files that cases name."""
    import io

    from PIL import Image

    import graphs

    picture = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 40, 40)).save(picture, "PNG")
    graph = json.loads(Path(SDXL).read_bytes())
    wrong = json.loads(json.dumps(graph))
    sampler = next(node for node in wrong.values() if node["class_type"] == "KSampler")
    sampler["inputs"]["steps"] = "many"
    loader = next(node for node in wrong.values() if node["class_type"] == "CheckpointLoaderSimple")
    loader["inputs"]["ckpt_name"] = "not_there.safetensors"
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
    unknown = {"1": {"class_type": "NodeThatIsNowhere", "inputs": {}}, "2": save}
    empty = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}
    partner = {"1": {"class_type": "OpenAIDalle3", "inputs": {"prompt": "a fox", "seed": 1}}, "2": save}
    suspicious = {"1": empty, "2": {**save, "inputs": {**save["inputs"], "filename_prefix": "/etc/cron.d/x"}}}
    documents = {
        "list.json": [1, 2, 3],
        "wrong.json": wrong,
        "unknown_class.json": unknown,
        "failing.json": graphs.failing(),
        "partner.json": partner,
        "suspicious.json": suspicious,
    }
    return {"photo.png": picture.getvalue()} | {
        name: json.dumps(document).encode() for name, document in documents.items()
    }


def keys_of(value: Any, path: str = "") -> Iterator[str]:
    """Each key of a document as a path with the kind of its value; what is named by the data itself is a star."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from keys_of(inner, f"{path}.{_general(key)}" if path else key)
    elif isinstance(value, list):
        yield f"{path}[]"
        for inner in value:
            yield from keys_of(inner, f"{path}[]")
    else:
        yield f"{path}: {_kind(value)}"


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {bool: "bool", int: "number", float: "number", str: "text"}[type(value)]


def _general(key: str) -> str:
    """Node ids, node addresses, file names and the like stand for many."""
    return "*" if re.search(r"[^a-z_]|^\d", key) else key


def answer(run: Any, url: str, case: Case) -> dict[str, Any]:
    """Carry out one case: {"exit", "status", "code", "keys"}."""
    for name in case.files:
        (run.folder / name).write_bytes(files()[name])
    prompt_id = ""
    for words in case.before:
        done = run(words[0], *(_filled(word, url, prompt_id) for word in words[1:]))
        prompt_id = done.json.get("prompt_id", "")
    done = run(case.words[0], *(_filled(word, url, prompt_id) for word in case.words[1:]))
    document = json.loads(done.out)
    found: dict[str, Any] = {"exit": done.code}
    found |= {key: document[key] for key in ("status", "code") if key in document}
    return found | {"keys": sorted(set(keys_of(document)))}


def _filled(word: str, url: str, prompt_id: str) -> str:
    return word.replace("{url}", url).replace("{id}", prompt_id)


def main() -> None:
    """Write the golden answers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--write", action="store_true", required=True, help="write tests/data/golden.json anew"
    )
    parser.parse_args()
    from bundle import Demo, Runner

    server = Demo("--step-time", "0.005")
    rows = {}
    try:
        for name, case in CASES.items():
            server.post("/demo/reset")
            with tempfile.TemporaryDirectory() as folder:
                rows[name] = answer(Runner(Path(folder)), server.url, case)
    finally:
        server.stop()
    GOLDEN.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
