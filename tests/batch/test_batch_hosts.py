"""The servers of a batch and their keys: each key goes to its own server, whatever else is named."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import graphs
from bundle import Demo, Runner
from comfyskill.base.cli import SkillError
from comfyskill.batch import hosts as batch_hosts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are tested on POSIX")

KEYS = ("comfyui-canary-one-11", "comfyui-canary-two-22")


@pytest.fixture
def clouds(new_demo: Any) -> list[Demo]:
    """Two servers that each want another key."""
    return [new_demo("--cloud", "--api-key", key, "--step-time", "0.005") for key in KEYS]


def hosts_file(folder: Path, servers: list[Demo], *, more: str = "") -> Path:
    (folder / "keys").mkdir()
    lines = ["# mine", ""]
    for number, (server, key) in enumerate(zip(servers, KEYS, strict=True)):
        (folder / "keys" / f"{number}.key").write_text(f"{key}\n")
        lines.append(f"{server.url} --api-key-file keys/{number}.key {more}")
    path = folder / "hosts.txt"
    path.write_text("\n".join(lines))
    return path


def heard(server: Demo) -> str:
    """All that a server was told, headers included."""
    return json.dumps(server.log())


def test_each_server_gets_its_own_key_and_no_other(
    run: Runner, clouds: list[Demo], graph_file: Any, tmp_path: Path
) -> None:
    (tmp_path / "lists").mkdir()
    listed = hosts_file(tmp_path / "lists", clouds, more='--header "X-Team: blue"')
    ran = run(
        "run_batch.py", graph_file(graphs.sleeper(0.1, 2, seed=100)), "--host", f"@{listed}", "--output-dir", "out",
        "--count", 10, "--yes-spend",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    with (run.folder / "out" / "results.csv").open(encoding="utf-8", newline="") as file:
        shares = Counter(row["host"] for row in csv.DictReader(file))
    assert set(shares) == {server.url for server in clouds}
    for server, mine, other in zip(clouds, KEYS, reversed(KEYS), strict=True):
        told = heard(server)
        assert mine in told and other not in told and "X-Team" in told
    written = b"".join(path.read_bytes() for path in (run.folder / "out").rglob("*") if path.is_file())
    assert not any(key in ran.out + ran.err or key.encode() in written for key in KEYS)


@pytest.mark.parametrize(
    "words", [["--api-key", KEYS[0]], ["--api-key-file", "k"], ["--header", f"X-K: {KEYS[0]}"]]
)
def test_one_key_for_several_servers_is_refused_before_anything_is_sent(
    run: Runner, clouds: list[Demo], graph_file: Any, words: list[str]
) -> None:
    (run.folder / "k").write_text(KEYS[0])
    hosts = [word for server in clouds for word in ("--host", server.url)]
    ran = run("run_batch.py", graph_file(graphs.picture()), *hosts, *words, "--count", 2)
    assert (ran.code, ran.json["code"]) == (2, "misuse"), ran.out
    assert words[0] in ran.json["message"] and "--host @FILE" in ran.json["hint"]
    assert KEYS[0] not in ran.out
    assert not any(KEYS[0] in heard(server) for server in clouds)


def test_a_key_may_go_to_two_paths_of_one_server(run: Runner, clouds: list[Demo], graph_file: Any) -> None:
    url = clouds[0].url
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), "--host", url, "--host", f"{url}/", "--api-key", KEYS[0],
        "--output-dir", "out", "--count", 2,
    )  # fmt: skip
    assert ran.code == 0, ran.out


def test_the_command_to_go_on_names_the_file_with_the_keys(
    run: Runner, clouds: list[Demo], graph_file: Any, tmp_path: Path
) -> None:
    listed = hosts_file(tmp_path, clouds)
    for server in clouds:
        server.fault("fail:node=2,kind=ValueError,message=no,times=1")
    ran = run(
        "run_batch.py", graph_file(graphs.sleeper(0.1, 2, seed=1)), "--host", f"@{listed.name}", "--output-dir", "out",
        "--count", 4,
    )  # fmt: skip
    assert ran.code == 1, ran.out
    (command,) = ran.json["next"]
    assert f"--host @{listed}" in command and "--retry-failed" in command
    again = run("run_batch.py", *command.split()[2:])
    assert again.code == 0, again.out


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("http://x:1 --api-key-file", True),
        ("http://x:1 --apikey sk-canary-123", True),
        ("http://x:1 http://y:2", True),
        ("--insecure", True),
        ('http://x:1 --header "open', True),
        ("http://x:1 --api nonsense", True),
        ("http://x:1  --header 'A: b c' --api local", False),
        (r"http://x:1 --ca-bundle C:\certs\a.pem", False),
    ],
)
def test_a_line_is_an_address_and_flags(tmp_path: Path, line: str, wrong: bool) -> None:
    path = tmp_path / "hosts"
    path.write_text(f"http://first:1\n{line}\n")
    if not wrong:
        first, second = batch_hosts.named([f"@{path}"])
        assert (first.address, second.address) == ("http://first:1", "http://x:1")
        assert list(second.headers) == (["A: b c"] if "A: b" in line else [])
        if "certs" in line:
            assert str(second.ca_bundle).endswith(r"C:\certs\a.pem")
        return
    with pytest.raises(SkillError) as caught:
        batch_hosts.named([f"@{path}"])
    assert caught.value.exit == 2 and caught.value.message.startswith("line 2 of")
    assert "canary" not in f"{caught.value.message}{caught.value.hint}"


def test_a_file_that_is_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(SkillError, match="cannot read"):
        batch_hosts.named([f"@{tmp_path / 'nothere'}"])
    (tmp_path / "empty").write_text("# nobody\n\n")
    with pytest.raises(SkillError, match="names no server"):
        batch_hosts.named([f"@{tmp_path / 'empty'}"])


def test_the_partner_key_of_the_environment_stays_where_no_node_needs_it(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    words = ("--host", demo.url, "--output-dir", "out", "--count", 1)
    ran = run(
        "run_batch.py", graph_file(graphs.picture()), *words, env={"COMFY_PARTNER_KEY": "canary-partner"}
    )
    assert ran.code == 0
    assert "canary-partner" not in json.dumps(demo.log())
    paid = graphs.picture()
    paid["1"] = {"class_type": "DemoPartner", "inputs": {"prompt": "a fox", "seed": 1}}
    run(
        "run_batch.py", graph_file(paid), "--host", demo.url, "--output-dir", "paid", "--count", 1, "--yes-spend",
        env={"COMFY_PARTNER_KEY": "canary-partner"},
    )  # fmt: skip
    assert "canary-partner" in json.dumps(demo.log())
