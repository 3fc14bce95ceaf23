"""Every curl line of references/rest-api.md is run in order, as it stands, and its answer held to the comment behind it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundle import ROOT, Demo
from docs_reading import fences, misfit, parse_shape, shell_lines
from manager_server import Comfy
from v2_servers import Proxy

TEXT = (ROOT / "references" / "rest-api.md").read_text(encoding="utf-8")
# A line, its status and answer on 0.33, and what 0.8 answers if that differs.
CURL = re.compile(r"^(curl .*?)\s+# (\d{3})(?: (.*?))?(?: \| 0\.8: (\d{3})(?: (.*))?)?$")
SETTING = re.compile(r"^(export [A-Z_0-9]+=|printf )")
# What a server with --multi-user answers otherwise to a request without a user.
NOT_WITHOUT_A_USER = ("/users", "/settings", "/api/assets")
# A real server is other people's too: nothing is sent that hits their jobs, and nothing is expected of their files.
NOT_ON_A_REAL_SERVER = (
    '"clear"',
    "/free",
    "status=pending",
    "dir=workflows",
    "/templates/",
    "$MANAGER",
    "CLOUD",
    "JOB",
    "SIGNED",
    "$V2",
    "V2JOB",
    "userdata",
    "/history/$AGAIN",  # whether the second run was cached depends on what others ran in between
    "max_items",
    "photo (1)",
)

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Desk:
    """A folder with the files the page speaks of, and the variables it sets; runs lines in bash."""

    def __init__(self, folder: Path, **variables: str) -> None:
        from PIL import Image

        self.folder = folder
        Image.new("RGB", (64, 48), "teal").save(folder / "photo.png")
        Image.new("L", (64, 48), 255).save(folder / "mask.png")
        # curl tells status and content type on stderr, whatever the line does with its body.
        (folder / ".curlrc").write_text(
            'write-out = "%{stderr}%{http_code} %{content_type}\\n"\nmax-time = 20\n'
        )
        for fence in fences(TEXT)[0]:
            name = re.search(r"Save this as `([\w.]+\.json)`:", before(fence.line))
            if fence.language == "json" and name:
                (folder / name[1]).write_text(fence.text, encoding="utf-8")
        self.environment = {**os.environ, "CURL_HOME": str(folder), **variables}
        self.older = is_0_8(variables["COMFY"])

    def bash(self, line: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environment, capture_output=True, timeout=60
        )

    def set(self, line: str) -> None:
        """Carry out an `export` and keep its variable; the given ones (the servers) stay."""
        match = re.match(r"export ([A-Z_0-9]+)=", line)
        if match is None:
            assert self.bash(line).returncode == 0, line
        elif match[1] not in ("COMFY", "CLOUD"):
            # The curl inside must not add its status line to the value.
            done = self.bash(f'{line}; printf %s "${match[1]}"')
            self.environment[match[1]] = done.stdout.decode()

    def ask(self, line: str) -> tuple[str, str, bytes]:
        """Status, content type and body of one curl line."""
        done = self.bash(line)
        said = re.findall(r"^(\d{3}) ?(.*)$", done.stderr.decode(), re.M)
        assert said, f"{line}\n{done.stderr.decode()}"
        return said[-1][0], said[-1][1].split(";")[0], done.stdout


def is_0_8(url: str) -> bool:
    """Whether a server is older than 0.33."""
    with urllib.request.urlopen(f"{url}/system_stats", timeout=60) as answer:
        version = json.loads(answer.read())["system"]["comfyui_version"]
    return tuple(int(part) for part in version.split(".")[:2]) < (0, 33)


def before(line: int) -> str:
    """The lines of the page just above a fence, as one."""
    return " ".join(TEXT.splitlines()[max(0, line - 4) : line - 1])


def check(desk: Desk, line: str, problems: list[str]) -> None:
    match = CURL.match(line)
    assert match, f"no status behind: {line}"
    promised = match[4] if desk.older and match[4] else match[2]
    answer = match[5] if desk.older and match[4] else match[3]
    job = re.search(r"COMFY/(?:history|api/jobs)/\$(\w+)\s", line)
    if job:
        wait_for(desk, job[1])
    status, kind, body = desk.ask(match[1])
    wanted = (answer or "").strip()
    if status != promised:
        problems.append(f"{line}\n    answered {status} {body[:200]!r}")
    elif wanted == "empty":
        problems += [f"{line}\n    has a body: {body[:80]!r}"] if body else []
    elif re.fullmatch(r"[a-z]+/[\w.+-]+", wanted):
        problems += [f"{line}\n    is {kind}"] if kind != wanted else []
    elif wanted:
        for name in re.findall(r"\$(\w+)", wanted):
            wanted = wanted.replace(f"${name}", desk.environment[name])
        problem = misfit(parse_shape(wanted), json.loads(body))
        problems += [f"{line}\n    {problem}"] if problem else []


def wait_for(desk: Desk, variable: str = "ID") -> None:
    """Let the job in a variable end: the page does not wait, a reader does."""
    import time

    end = time.monotonic() + 60
    while not json.loads(desk.ask(f'curl -s "$COMFY/history/${variable}"')[2]):
        assert time.monotonic() < end, "the job did not end"
        time.sleep(0.02)


def run_page(desk: Desk, skip: tuple[str, ...] = ()) -> tuple[int, list[str]]:
    """Run all lines of the page; how many curl lines there were, and what was wrong."""
    problems: list[str] = []
    count = 0
    for fence in fences(TEXT)[0]:
        if fence.language != "bash":
            continue
        for line in shell_lines(fence):
            if any(part in line for part in skip):
                continue
            if SETTING.match(line):
                desk.set(line)
                continue
            count += 1
            check(desk, line, problems)
            if "$COMFY/prompt" in line and "@body.json" in line:
                wait_for(desk)
            elif "v2_body.json" in line:
                wait_on_the_proxy(desk)
            elif "-d @cloud_body.json" in line:
                wait_on_the_cloud(desk)
    return count, problems


def wait_on_the_proxy(desk: Desk) -> None:
    import time

    job = json.loads((desk.folder / "job.json").read_text(encoding="utf-8"))["id"]
    end = time.monotonic() + 60
    while json.loads(desk.ask(f"curl -s $V2/api/v2/jobs/{job}")[2])["status"] != "succeeded":
        assert time.monotonic() < end, "the job did not end"
        time.sleep(0.05)


def wait_on_the_cloud(desk: Desk) -> None:
    import time

    desk.set('export JOB=$(python3 -c \'import json; print(json.load(open("answer.json"))["prompt_id"])\')')
    end = time.monotonic() + 60
    while True:
        status, _, body = desk.ask("curl -s -H @key.txt $CLOUD/api/jobs/$JOB")
        if status == "200" and json.loads(body).get("outputs"):
            return
        assert time.monotonic() < end, "the job did not end"
        time.sleep(0.05)


@pytest.fixture
def managers(tmp_path: Path) -> Iterator[dict[str, str]]:
    (tmp_path / "models").mkdir()
    both = {"MANAGER3": Comfy(tmp_path / "models", "v3"), "MANAGER4": Comfy(tmp_path / "models", "v4")}
    yield {name: server.url for name, server in both.items()}
    for server in both.values():
        server.stop()


@pytest.fixture(params=["0.33", "0.8"])
def comfy(request: pytest.FixtureRequest, new_demo: Any) -> Demo:
    """A demo server of each version."""
    return new_demo("--version", request.param, "--step-time", "0.005")


@pytest.fixture
def proxy(comfy: Demo) -> Iterator[Proxy]:
    pytest.importorskip("comfy_api_proxy", reason="comfy-api-proxy is not installed")
    server = Proxy(comfy.url)
    yield server
    server.stop()


def test_every_curl_line_answers_what_the_page_says(
    comfy: Demo, new_demo: Any, proxy: Proxy, managers: dict[str, str], tmp_path: Path
) -> None:
    cloud = new_demo("--cloud", "--tier", "creator", "--step-time", "0.005")
    folder = tmp_path / "desk"
    folder.mkdir()
    desk = Desk(
        folder,
        COMFY=comfy.url,
        CLOUD=cloud.url,
        COMFY_CLOUD_API_KEY="comfyui-demo-key",
        V2=proxy.url,
        **managers,
    )
    count, problems = run_page(desk)
    assert not problems, "\n".join(problems)
    assert count > 70

    # What the page promises about the key: storage never saw it, nor did anything else but the cloud.
    storage = cloud.get("/demo/storage")
    assert storage["requests"] if isinstance(storage, dict) else storage
    assert "comfyui-demo-key" not in json.dumps(storage)


@pytest.mark.real
def test_a_real_server_answers_the_same(tmp_path: Path) -> None:
    url = os.environ.get("COMFYUI_TEST_URL")
    if not url:
        pytest.skip("COMFYUI_TEST_URL names no real server")
    desk = Desk(tmp_path, COMFY=url)
    many = "users" in json.loads(desk.ask("curl -s $COMFY/users")[2])
    _, problems = run_page(desk, NOT_ON_A_REAL_SERVER + (NOT_WITHOUT_A_USER if many else ()))
    assert not problems, "\n".join(problems)


def test_no_line_pipes_a_download_into_an_interpreter_or_follows_a_redirect_with_a_key() -> None:
    for path in (ROOT / "references").glob("*.md"):
        for fence in fences(path.read_text(encoding="utf-8"))[0]:
            for line in shell_lines(fence):
                assert not re.search(r"curl[^|]*\|\s*(ba|z|da)?sh\b", line), line
                assert not re.search(r"curl[^|]*\|\s*(sudo\s+)?python3?\s*(-\s|$)", line), line
                if line.startswith("curl"):
                    follows = re.search(r"\s(-\w*L\w*|--location\S*)\s", line)
                    assert not follows, line


def test_shapes_are_told_from_what_does_not_fit() -> None:
    assert (
        misfit(parse_shape('{a: [{b}], c: "x", d: 1}'), {"a": [{"b": 2}], "c": "x", "d": 1, "e": 0}) is None
    )
    assert misfit(parse_shape("{a: [{b}]}"), {"a": [{"c": 2}]}) == "answer.a[0] lacks b; it has ['c']"
    assert misfit(parse_shape("{}"), {"a": 1}) == "answer is not empty: ['a']"
    assert misfit(parse_shape("[{b}]"), []) == "answer is empty"
    assert misfit(parse_shape("{a: true}"), {"a": 1}) == "answer.a is 1, not True"
