"""The bundle under test: where it is, its demo server as a process, its scripts run as commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent


SCRIPTS = ROOT / "scripts"

# The demo server with faults, control routes and a played Manager.
EQUIPPED_DEMO = ROOT / "tests" / "support" / "equipped_demo.py"


sys.path.insert(0, str(SCRIPTS))


class Demo:
    """One demo server process with the tests' equipment; `url` is its address."""

    def __init__(self, *options: str, zygote: Any = None) -> None:
        command = [
            sys.executable,
            str(EQUIPPED_DEMO),
            "--port",
            "0",
            "--exit-with-parent",
            *options,
        ]
        start = zygote.start if zygote else subprocess.Popen
        self.process: subprocess.Popen[Any] = start(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the demo server did not start"
        self.hello = json.loads(line)
        self.url: str = self.hello["url"]

    def get(self, path: str) -> Any:
        """The JSON of a GET."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def post(self, path: str, body: Any = None) -> Any:
        """The JSON of a POST; None for the empty answers."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")

    def log(self) -> list[dict[str, Any]]:
        """The requests it received."""
        answer = self.get("/demo/log")
        return answer if isinstance(answer, list) else answer["requests"]

    def asked(self, path: str) -> list[dict[str, Any]]:
        """The requests for a path that scripts have made, not the tests."""
        ours = "Python-urllib"
        return [
            entry
            for entry in self.log()
            if entry["path"] == path and not entry["headers"].get("User-Agent", "").startswith(ours)
        ]

    def fault(self, *faults: Any) -> None:
        """Replace its active faults."""
        self.post("/demo/faults", list(faults))

    def stop(self) -> None:
        """End it: it goes by itself, with its folders, when its standard input closes."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=60)
        self.process.stdout.close()


class Ran:
    """A finished command: exit code, its JSON document and both streams."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> dict[str, Any]:
        """The one document on stdout."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


class Runner:
    """Runs scripts as commands from a folder that is not the bundle's."""

    def __init__(self, folder: Path, zygote: Any = None) -> None:
        self.folder, self.zygote = folder, zygote
        self.started: list[subprocess.Popen[str]] = []
        self.before = ""  # Python that a forked command runs first
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("COMFY")},
            "COMFYUI_SKILL_CACHE": str(folder / "cache"),
        }

    def command(self, script: str, *words: object) -> list[str]:
        """The argument list of a script."""
        return [sys.executable, str(SCRIPTS / script), *(str(word) for word in words)]

    def start(
        self, script: str, *words: object, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """A running script, for tests that send signals."""
        options = {
            "cwd": self.folder, "env": {**self.environment, **(env or {})}, "text": True,
            "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options,
        }  # fmt: skip
        command = self.command(script, *words)
        process: subprocess.Popen[str]
        if self.zygote and self.zygote.can_start(options):
            process = self.zygote.start(command, before=self.before, **options)
        else:
            process = subprocess.Popen(command, **options)
        self.started.append(process)
        return process

    def stop(self) -> None:
        """End what a failed test has left running: it would speak to the next test's server."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()

    def __call__(
        self,
        script: str,
        *words: object,
        env: dict[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60,
    ) -> Ran:
        given = subprocess.DEVNULL if stdin is None else subprocess.PIPE
        return self.finish(self.start(script, *words, env=env, stdin=given), stdin, timeout)

    def finish(self, process: subprocess.Popen[str], stdin: str | None, timeout: float) -> Ran:
        """The command when it has ended; it is killed when that takes longer than `timeout` seconds."""
        with process:
            try:
                out, err = process.communicate(stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                raise AssertionError(f"not finished after {timeout} s\n{out}\n{err}") from None
            except BaseException:
                process.kill()
                raise
        assert "Traceback (most recent call last)" not in err, err
        assert '"internal_error"' not in out, out
        return Ran(process.returncode, out, err)
