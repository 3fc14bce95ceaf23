#!/usr/bin/env python3
"""Prepare an eval on the demo server, and judge what an agent made of it.

Examples:
    python3 evals/run_eval.py list
    python3 evals/run_eval.py prepare 4 runs/4
    python3 evals/run_eval.py finish runs/4

`prepare` makes RUN/work with the eval's files, starts a demo server for it and prints the request, the folder and the
environment to give to the agent. The `python3` and `curl` that it puts first on PATH note the commands. `finish` stops the
server and writes RUN/grading.json from the files, the server's request log and the commands. Assertions that only a
reader can judge have `passed: null`; give them to a person or a model together with the agent's last message.

Exit codes: 0 prepared, or every checkable assertion passed; 1 one failed; 2 misuse.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import judge

EVALS = Path(__file__).resolve().parent
SKILL = EVALS.parent
CLOUD_KEY = "comfyui-demo-key"
# Stands before the real program on PATH; one line of JSON for each command.
RECORDER = """#!{python}
import json, os, subprocess, sys
words = {real!r} + sys.argv[1:]
code = subprocess.run(words).returncode
if os.environ.get("COMFY_EVAL_COMMANDS"):
    with open(os.environ["COMFY_EVAL_COMMANDS"], "a") as file:
        file.write(json.dumps({{"command": " ".join([{name!r}, *sys.argv[1:]]), "exit": code}}) + "\\n")
sys.exit(code)
"""


def load(name: str) -> Any:
    return json.loads((EVALS / name).read_text(encoding="utf-8"))


def the_eval(number: int) -> dict[str, Any] | None:
    return next((entry for entry in load("evals.json")["evals"] if entry["id"] == number), None)


def start_server(options: list[str], folder: Path) -> dict[str, Any]:
    """A demo server that outlives this command; what it said when it listened. Raises RuntimeError."""
    log = (folder / "server.log").open("w", encoding="utf-8")
    command = [
        sys.executable,
        str(SKILL / "tests" / "support" / "equipped_demo.py"),
        "--port",
        "0",
        "--step-time",
        "0.005",
    ]
    subprocess.Popen(
        [*command, *options],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    for _ in range(200):
        text = (folder / "server.log").read_text(encoding="utf-8")
        if text.startswith("{") and "\n" in text:
            return dict(json.loads(text.splitlines()[0]))
        time.sleep(0.05)
    raise RuntimeError(f"the demo server did not start: {text[-300:]}")


def ask(url: str, path: str, method: str = "GET") -> Any:
    """The JSON of a control route; None when this server has no such route."""
    request = urllib.request.Request(url + path, data=b"" if method == "POST" else None, method=method)  # noqa: S310 (loopback)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError:
        return None


def recorders(folder: Path) -> None:
    """Programs that note how they are called."""
    folder.mkdir()
    for name in ("python3", "python", "curl"):
        real = [sys.executable] if name.startswith("python") else [shutil.which("curl") or "curl"]
        place = folder / name
        place.write_text(RECORDER.format(python=sys.executable, real=real, name=name), encoding="utf-8")
        place.chmod(place.stat().st_mode | stat.S_IXUSR)


def environment(run: Path, url: str) -> dict[str, str]:
    """What the agent's commands must see."""
    found = {
        "COMFY_HOST": url,
        "PATH": f"{run / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "COMFY_EVAL_COMMANDS": str(run / "commands.jsonl"),
        "COMFYUI_SKILL_CACHE": str(run / "cache"),
    }
    return found | {"COMFY_CLOUD_API_KEY": CLOUD_KEY}


def fill(command: str, run: Path, url: str) -> str:
    """A command of checks.json with its placeholders filled. {job} is the latest prompt id that the server knows."""
    words = {
        "{skill}": shlex.quote(str(SKILL)),
        "{url}": url,
        "{poll_client}": shlex.quote(str(run / "poll_client.py")),
    }
    if "{job}" in command:
        words["{job}"] = latest_job(url)
    if "{poll_client}" in command:
        write_client(run / "poll_client.py")
    for word, value in words.items():
        command = command.replace(word, value)
    return command


def latest_job(url: str) -> str:
    queue = ask(url, "/queue")
    waiting = [item[1] for item in queue["queue_running"] + queue["queue_pending"]]
    return str(waiting[-1] if waiting else list(ask(url, "/history"))[-1])


def write_client(path: Path) -> None:
    """The polling client of the reference, as a reader would save it."""
    page = (SKILL / "references" / "python-client.md").read_text(encoding="utf-8")
    path.write_text(
        page.split("`poll_client.py`")[1].split("```python\n")[1].split("```")[0], encoding="utf-8"
    )


def shell(command: str, run: Path, url: str) -> int:
    """Run one command line in the run's folder, with the agent's environment."""
    done = subprocess.run(
        ["bash", "-c", fill(command, run, url)], cwd=run / "work", capture_output=True, timeout=120, stdin=subprocess.DEVNULL,
        env={**os.environ, **environment(run, url)},
    )  # fmt: skip
    return done.returncode


def prepare(number: int, run: Path) -> tuple[int, dict[str, Any]]:
    entry = the_eval(number)
    if entry is None:
        return 2, {
            "status": "error",
            "code": "misuse",
            "message": f"no eval {number}",
            "hint": "run: run_eval.py list",
        }
    if run.exists() and any(run.iterdir()):
        return 2, {
            "status": "error",
            "code": "misuse",
            "message": f"{run} is not empty",
            "hint": "name a new folder",
        }
    run = run.resolve()
    (run / "work" / "outputs").mkdir(parents=True)
    recorders(run / "bin")
    for name in entry["files"]:
        shutil.copy2(SKILL / name, run / "work")
    check = load("checks.json")[str(number)]
    hello = start_server(check.get("server", []), run)
    url = hello["url"]
    for command in check.get("before", []):
        shell(command, run, url)
    (run / "commands.jsonl").write_text("", encoding="utf-8")
    given = sorted(
        str(path.relative_to(run / "work")) for path in (run / "work").rglob("*") if path.is_file()
    )
    since = len((ask(url, "/demo/log") or {}).get("requests", []))
    facts = {"id": number, "url": url, "pid": hello["pid"], "given": given, "since": since}
    (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    return 0, {
        "status": "ok", "id": number, "prompt": entry["prompt"], "skill": str(SKILL), "work": str(run / "work"),
        "environment": environment(run, url), "next": [shlex.join(["python3", "evals/run_eval.py", "finish", str(run)])],
    }  # fmt: skip


def finish(run: Path) -> tuple[int, dict[str, Any]]:
    run = run.resolve()
    if not (run / "run.json").is_file():
        return 2, {
            "status": "error",
            "code": "misuse",
            "message": f"{run} was not prepared",
            "hint": "prepare it first",
        }
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    lines = (run / "commands.jsonl").read_text(encoding="utf-8").splitlines()
    seen = judge.Run(
        work=run / "work",
        given=facts["given"],
        requests=(ask(facts["url"], "/demo/log") or {}).get("requests", [])[facts["since"] :],
        storage=ask(facts["url"], "/demo/storage"),
        commands=[json.loads(line) for line in lines],
    )
    os.kill(facts["pid"], signal.SIGTERM)
    checks = load("checks.json")[str(facts["id"])]["checks"]
    results: list[dict[str, Any]] = []
    for text in (the_eval(facts["id"]) or {})["assertions"]:
        if text in checks:
            passed, evidence = judge.judge(checks[text], seen)
            results.append({"text": text, "passed": passed, "evidence": evidence})
        else:
            results.append(
                {"text": text, "passed": None, "evidence": "for a reader of the agent's last message"}
            )
    judged = [row["passed"] for row in results if row["passed"] is not None]
    summary = {
        "passed": sum(judged), "failed": judged.count(False), "total": len(judged), "not_judged": len(results) - len(judged),
        "pass_rate": round(sum(judged) / max(len(judged), 1), 3),
    }  # fmt: skip
    report = {"assertion_results": results, "summary": summary}
    (run / "grading.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    failed = judged.count(False) > 0
    return int(failed), {
        "status": "failed" if failed else "ok",
        "grading": str(run / "grading.json"),
        **report,
    }


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="ids and requests")
    first = commands.add_parser("prepare", help="make a run's folder and start its server")
    first.add_argument("id", type=int)
    first.add_argument("run", type=Path)
    last = commands.add_parser("finish", help="stop the server and write grading.json")
    last.add_argument("run", type=Path)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.command == "list":
        code, report = (
            0,
            {
                "status": "ok",
                "evals": [[entry["id"], entry["prompt"]] for entry in load("evals.json")["evals"]],
            },
        )
    elif args.command == "prepare":
        code, report = prepare(args.id, args.run)
    else:
        code, report = finish(args.run)
    print(json.dumps(report, indent=2))
    return code


if __name__ == "__main__":
    sys.exit(main())
