"""Canary keys through every script and every kind of failure: they reach their own origin and nothing else."""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import graphs
from bundle import ROOT
from fault_bench import KEY, Bench
from flaky import Fault, Flaky
from v2_servers import free_port
from zygote import Finished, Forks, Zygote

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the quick runner forks")

NOBODY = "00000000-0000-4000-8000-000000000000"
CANARIES = {
    "key": KEY,
    "bearer": "canary-bearer-5f1c9e",
    "cookie": "canary-cookie-77ab21",
    "password": "canary-pass-0c44d8",
    "partner": "canary-partner-19be03",
    "cloud variable": "canary-cloud-e88d70",
    "hugging face": "hf_canary4b9f6d",
    "civitai": "canary-civitai-a12c5f",
}
ENVIRONMENT = {
    "COMFY_CLOUD_API_KEY": CANARIES["cloud variable"],
    "COMFY_PARTNER_KEY": CANARIES["partner"],
    "HF_TOKEN": CANARIES["hugging face"],
    "CIVITAI_API_TOKEN": CANARIES["civitai"],
    "COMFYUI_SKILL_DEBUG": "1",
}
SCRIPTS: dict[str, list[str]] = {
    "run": ["run_workflow.py", "W", "--output-dir", "out", "--receipt", "--save-workflow", "saved.json", "--timeout", "15", "--reconnect-time", "1"],
    "dry run": ["run_workflow.py", "W", "--dry-run"],
    "no wait": ["run_workflow.py", "W", "--no-wait", "--output-dir", "out"],
    "resume": ["run_workflow.py", "--resume", NOBODY, "--output-dir", "out"],
    "batch": ["run_batch.py", "W", "--count", "2", "--output-dir", "batch", "--reconnect-time", "1"],
    "queue": ["manage_queue.py", "list"],
    "wait": ["manage_queue.py", "wait", NOBODY],
    "cancel": ["manage_queue.py", "cancel", NOBODY],
    "history": ["manage_queue.py", "history"],
    "monitor": ["ws_monitor.py", "--all", "--json", "--timeout", "1"],
    "logs": ["fetch_logs.py", "--last"],
    "stats": ["server_info.py", "stats"],
    "features": ["server_info.py", "features"],
    "models": ["server_info.py", "models", "checkpoints"],
    "upload": ["server_info.py", "upload", "photo.png"],
    "validate": ["validate_workflow.py", "W"],
    "extract": ["extract_schema.py", "W"],
    "convert": ["convert_workflow.py", "W", "--output", "converted.json"],
    "inspect": ["inspect_workflow.py", "W"],
    "deps": ["check_deps.py", "W", "--save-inventory", "inventory.json"],
    "fix": ["auto_fix_deps.py", "W", "--dry-run"],
    "health": ["health_check.py", "--workflow", "W"],
}  # fmt: skip
# These ask no server that takes a key; `demo_server.py` plays one and is given its key to compare.
APART: dict[str, list[str]] = {
    "hardware_check.py": ["hardware_check.py"],
    "comfyui_setup.py": ["comfyui_setup.py", "--dry-run"],
}
FAULTS: dict[str, list[Fault]] = {
    "none": [],
    "refused": [Fault("status", code=401, body="json")],
    "broken": [Fault("status", code=500, body="html")],
    "moved": [Fault("redirect", code=302, to="ELSEWHERE")],
    "cut off": [Fault("close", skip=3)],
}


def pairs(scripts: Iterable[str]) -> list[Any]:
    """Every script with the two plainest faults, some with all; what takes long runs with -m slow."""
    found = []
    for script in scripts:
        for fault in FAULTS:
            long = fault in ("broken", "cut off") and script in ("run", "health", "batch")
            if fault in ("none", "refused") or script in ("run", "batch", "health", "stats", "upload"):
                found.append(pytest.param(script, fault, marks=[pytest.mark.slow] if long else []))
    return found


@pytest.fixture
def forks(tmp_path: Path, zygote: Zygote) -> Forks:
    from PIL import Image

    made = Forks(tmp_path, zygote)
    (tmp_path / "w.json").write_text(json.dumps(graphs.picture()))
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    return made


@pytest.fixture(scope="module")
def elsewhere(benches: dict[str, Bench]) -> Iterator[Flaky]:
    """Another origin, to which the server may point."""
    made = Flaky(f"http://127.0.0.1:{free_port()}")
    made.faults = [Fault("status", code=200, body="json")]
    yield made
    made.stop()


def spellings(secret: str) -> list[str]:
    """The secret as it is, and as it would stand in an address or in Basic."""
    return [secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")]


def leaks(text: str) -> list[str]:
    return [name for name, secret in CANARIES.items() for form in spellings(secret) if form in text]


def nothing_leaked(ran: Finished, folder: Path, given: set[Path]) -> None:
    assert not leaks(ran.out), ran.out
    assert not leaks(ran.err), ran.err
    for path in folder.rglob("*"):
        if path.is_file() and path not in given:
            assert not leaks(path.read_bytes().decode("latin-1")), path


def flags(folder: Path, url: str, api: str) -> list[object]:
    """A server with every credential at once: user info, header, cookie, key file."""
    host = url if api != "local" else url.replace("http://", f"http://someone:{CANARIES['password']}@")
    words: list[object] = ["--host", host, "--api", api, "--header", f"Cookie: session={CANARIES['cookie']}"]
    if api != "local":
        words += ["--api-key-file", "key"]
    if api != "cloud":
        words += ["--header", f"X-Auth: Bearer {CANARIES['bearer']}"]
    (folder / "key").write_text(KEY)
    return words


@pytest.mark.parametrize(("script", "fault"), pairs(SCRIPTS))
def test_local(forks: Forks, benches: dict[str, Bench], elsewhere: Flaky, script: str, fault: str) -> None:
    tried(forks, benches["local"], elsewhere, script, fault)


@pytest.mark.parametrize(("script", "fault"), pairs(["run", "batch", "stats", "health", "deps"]))
def test_cloud(forks: Forks, benches: dict[str, Bench], elsewhere: Flaky, script: str, fault: str) -> None:
    tried(forks, benches["cloud"], elsewhere, script, fault)


def test_no_script_is_forgotten() -> None:
    tried = {words[0] for words in SCRIPTS.values()} | APART.keys() | {"demo_server.py"}
    assert tried == {path.name for path in (ROOT / "scripts").glob("*.py") if not path.name.startswith("_")}


@pytest.mark.parametrize("script", APART)
def test_those_that_ask_no_server_tell_no_key_of_the_environment(forks: Forks, script: str) -> None:
    words = APART[script]
    ran = forks(*words, env={**ENVIRONMENT, "HOME": str(forks.folder)})
    assert ran.json["status"]
    nothing_leaked(ran, forks.folder, set())


QUICK = ("run", "batch", "wait")


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        pytest.param(
            *item.values, marks=[*item.marks, *([] if item.values[0] in QUICK else [pytest.mark.slow])]
        )
        for item in pairs(SCRIPTS)
    ],
)
def test_v2(forks: Forks, benches: dict[str, Bench], elsewhere: Flaky, script: str, fault: str) -> None:
    tried(forks, benches["v2"], elsewhere, script, fault)


@pytest.mark.parametrize("api", ["local", "cloud", "v2"])
@pytest.mark.parametrize("script", ["run", "batch"])
def test_no_key_is_kept_with_the_job(
    forks: Forks, benches: dict[str, Bench], elsewhere: Flaky, api: str, script: str
) -> None:
    """Neither in what the server records of a job, nor in journal, receipt, saved workflow or cache."""
    bench = benches[api]
    tried(forks, bench, elsewhere, script, "none")
    kept = json.dumps(
        [bench.demo.get(path) for path in ({"cloud": ["/demo/state"]}.get(api) or ["/history", "/queue"])]
    )
    if api == "cloud":
        for entry in bench.demo.log():
            assert not leaks(json.dumps(entry.get("json"))), entry["path"]
    ids = [item["prompt_id"] for item in bench.demo.get("/demo/executions")["executions"]]
    assert ids and (api == "cloud" or ids[0] in kept)
    assert not leaks(kept)
    words = flags(forks.folder, bench.relay.url, api)
    job = json.loads(forks("manage_queue.py", "jobs", *words).out)["jobs"]["items"][0]["prompt_id"]
    for command in (
        ["fetch_logs.py", job, "--full"],
        ["run_workflow.py", "--resume", job, "--output-dir", "again", "--receipt"],
    ):
        ran = forks(*command, *words, env=ENVIRONMENT)
        assert ran.code == 0, ran.out
        nothing_leaked(ran, forks.folder, {forks.folder / "key"})


def tried(forks: Forks, bench: Bench, elsewhere: Flaky, script: str, fault: str) -> None:
    """One script with one fault: the secrets go to their server alone."""
    bench.ready(*(Fault(**{**vars(item), "to": elsewhere.url + "/x"}) for item in FAULTS[fault]))
    elsewhere.seen.clear()
    words = ["w.json" if word == "W" else word for word in SCRIPTS[script][1:]]
    given = set(forks.folder.rglob("*")) | {forks.folder / "key"}
    ran = forks(SCRIPTS[script][0], *words, *flags(forks.folder, bench.relay.url, bench.api), env=ENVIRONMENT, timeout=60)  # fmt: skip
    json.loads(ran.out.splitlines()[-1] if "--json" in words else ran.out)
    nothing_leaked(ran, forks.folder, given)
    for _, path, headers, body in elsewhere.seen:
        assert not leaks(f"{path}{headers}{body!r}"), (path, headers)
    own = str([(path, headers) for _, path, headers, _ in bench.relay.seen])
    if script != "inspect" and bench.relay.seen:
        assert CANARIES["cookie"] in own
    for foreign in ("cloud variable", "hugging face", "civitai"):
        assert CANARIES[foreign] not in own
    if bench.api == "v2" and bench.relay.seen:
        # Where it looks whether there is anything at all, it shows no key.
        shown = {headers.get("authorization") for _, _, headers, _ in bench.relay.seen}
        assert f"Bearer {KEY}" in shown and shown <= {f"Bearer {KEY}", None}
        assert not any(KEY in path for _, path, _, _ in bench.relay.seen)
    # The partner key too: this workflow has no partner node that could need it.
    bodies = b"".join(body for _, _, _, body in bench.relay.seen)
    assert not leaks(bodies.decode("latin-1"))


def test_the_cloud_takes_its_key_in_the_header_alone(forks: Forks, benches: dict[str, Bench]) -> None:
    """Only the socket's address may hold it (there is no other way in), and that is never printed."""
    bench = benches["cloud"]
    bench.ready()
    ran = forks(
        "run_workflow.py", "w.json", *flags(forks.folder, bench.relay.url, "cloud"), "--output-dir", "out"
    )
    assert ran.code == 0, ran.out
    for _, path, headers, _ in bench.relay.seen:
        assert headers.get("x-api-key") == KEY or path.startswith("/ws?"), path
        assert KEY not in path or path.startswith("/ws?")


def test_a_server_that_sends_the_key_back_cannot_make_us_print_it(
    forks: Forks, benches: dict[str, Bench]
) -> None:
    """In a header of a redirect, in an error's words, in a file name."""
    bench = benches["local"]
    for to in (
        f"http://127.0.0.1:9/{CANARIES['bearer']}",
        f"file:///{CANARIES['password']}",
        f"/x?{CANARIES['cookie']}",
    ):
        bench.ready(Fault("redirect", path="/[!f]*", code=302, to=to))
        for script in (
            ["run_workflow.py", "w.json", "--reconnect-time", "1"],
            ["server_info.py", "stats"],
            ["manage_queue.py", "list"],
        ):
            ran = forks(*script, *flags(forks.folder, bench.relay.url, "local"), env=ENVIRONMENT)
            assert not leaks(ran.out + ran.err), ran.out + ran.err


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")
@pytest.mark.parametrize("script", ["run_workflow.py", "run_batch.py", "health_check.py"])
def test_no_key_of_the_environment_or_a_file_stands_in_the_process_list(
    forks: Forks, benches: dict[str, Bench], script: str
) -> None:
    """Children included: every command line of this user is read while the command runs."""
    bench = benches["local"]
    bench.ready(Fault("slow", pause=0.03, times=6))
    words: dict[str, list[object]] = {
        "run_workflow.py": ["w.json", "--output-dir", "out"],
        "run_batch.py": ["w.json", "--count", "2", "--output-dir", "out"],
        "health_check.py": [],
    }
    (forks.folder / "key").write_text(CANARIES["bearer"])
    seen: list[str] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    text = path.read_bytes().decode(errors="replace")
                except OSError:
                    continue
                # The tests' own double is given its key by a flag.
                if leaks(text) and "equipped_demo.py" not in text:
                    seen.append(text)
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    process = forks.start(
        script, *words[script], "--host", bench.relay.url, "--api-key-file", "key", env=ENVIRONMENT
    )
    out, err = process.communicate(timeout=60)
    ended.set()
    watcher.join()
    assert not seen
    assert not leaks(out + err)


def test_the_canaries_would_be_found(tmp_path: Path) -> None:
    """This file's own eyes."""
    for secret in CANARIES.values():
        for form in spellings(secret):
            assert leaks(f"… {form} …")
    (tmp_path / "x").write_text(f"a {CANARIES['cookie']}")
    fine: Any = Finished(0, "{}", "", 0, 0)
    with pytest.raises(AssertionError):
        nothing_leaked(fine, tmp_path, set())
