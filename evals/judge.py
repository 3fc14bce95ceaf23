"""Judges a finished run: what lies in its folder, what the demo server was asked, which commands were run.

Pure apart from reading the run's folder. One check is one object of checks.json; `judge` says passed or not, and why.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Verdict = tuple[bool, str]


@dataclass(frozen=True)
class Run:
    """A finished run. work: the agent's folder; given: names of the files that were there before it began;
    requests: the demo server's log; storage: requests to the cloud's storage; commands: [{"command", "exit"}]."""

    work: Path
    given: Sequence[str]
    requests: Sequence[Mapping[str, Any]]
    storage: Any
    commands: Sequence[Mapping[str, Any]]

    def files(self, pattern: str) -> list[Path]:
        """Files that match, below the folder; `{a,b}` stands for either ending."""
        either = re.search(r"\{([^}]*)\}", pattern)
        patterns = (
            [pattern.replace(either[0], part) for part in either[1].split(",")] if either else [pattern]
        )
        return sorted({path for one in patterns for path in self.work.glob(one) if path.is_file()})

    def new_files(self, pattern: str) -> list[Path]:
        """Those that were not given, unless the pattern names one of them."""
        named = pattern in self.given
        return [
            path
            for path in self.files(pattern)
            if named or str(path.relative_to(self.work)) not in self.given
        ]

    def graphs(self) -> list[Mapping[str, Any]]:
        """The graphs that were accepted, in order."""
        return [
            entry["json"]["prompt"]
            for entry in self.requests
            if is_submit(entry) and entry.get("status") == 200 and isinstance(entry.get("json"), dict)
            and isinstance(entry["json"].get("prompt"), dict)
        ]  # fmt: skip


def path_of(entry: Mapping[str, Any]) -> str:
    """The path without the prefix that every route also has."""
    path = str(entry["path"])
    return path.removeprefix("/api") if not path.startswith("/api/jobs") else path


def is_submit(entry: Mapping[str, Any]) -> bool:
    return entry["method"] == "POST" and path_of(entry) == "/prompt"


def judge(check: Mapping[str, Any], run: Run) -> Verdict:
    """Whether a check passed, and the evidence. Raises KeyError for a kind of check that is not known."""
    kind = next((kind for kind in KINDS if kind in check), None)
    if kind is None:
        raise KeyError(f"no kind of check in {dict(check)}")
    return KINDS[kind](check, run)


def counted(number: int, check: Mapping[str, Any], what: str) -> Verdict:
    """Hold a number to `min` and `max`; without either one is enough."""
    low, high = check.get("min", 0 if "max" in check else 1), check.get("max")
    return number >= low and (high is None or number <= high), f"{number} {what}"


def files(check: Mapping[str, Any], run: Run) -> Verdict:
    found = run.new_files(check["files"])
    names = ", ".join(str(path.relative_to(run.work)) for path in found[:4])
    return counted(len(found), check, f"new files match {check['files']}: {names}")


def accepted(check: Mapping[str, Any], run: Run) -> Verdict:
    number = sum(1 for entry in run.requests if is_submit(entry) and entry.get("status") == 200)
    return number == check["accepted"], f"{number} jobs were accepted"


def request(check: Mapping[str, Any], run: Run) -> Verdict:
    pattern = re.compile(check["request"])
    hits = [entry for entry in run.requests if pattern.match(f"{entry['method']} {path_of(entry)}")]
    if "body_lacks" in check:
        hits = [
            entry
            for entry in hits
            if check["body_lacks"] not in json.dumps(entry.get("json", entry.get("text")))
        ]
    return counted(len(hits), check, f"requests match {check['request']}")


def body(check: Mapping[str, Any], run: Run) -> Verdict:
    pattern = re.compile(check["body"])
    hits = [
        entry
        for entry in run.requests
        if pattern.search(json.dumps(entry.get("json", entry.get("text", ""))))
    ]
    return counted(len(hits), check, f"request bodies match {check['body']}")


def command(check: Mapping[str, Any], run: Run) -> Verdict:
    pattern = re.compile(check["command"])
    hits = [entry for entry in run.commands if pattern.search(entry["command"])]
    if "exit" in check:
        hits = [entry for entry in hits if entry["exit"] in check["exit"]]
    return counted(len(hits), check, f"commands match {check['command']} {check.get('exit', '')}".rstrip())


def values(wanted: Mapping[str, Any], run: Run) -> Iterator[Any]:
    """The values of an input (or the class types) in all accepted graphs."""
    for graph in run.graphs():
        for node in graph.values():
            if "class" in wanted and node.get("class_type") != wanted["class"]:
                continue
            if "input" not in wanted:
                yield node.get("class_type")
            elif wanted["input"] in node.get("inputs", {}):
                yield node["inputs"][wanted["input"]]


def graph(check: Mapping[str, Any], run: Run) -> Verdict:
    wanted = check["graph"]
    found = [value for value in values(wanted, run) if not isinstance(value, list)]
    seen = f"sent: {sorted({str(value) for value in found})[:8]}"
    if "max" in wanted:
        return len(found) <= wanted["max"], seen
    if "distinct" in wanted:
        return len({str(value) for value in found}) >= wanted["distinct"], seen
    if "not_in" in wanted:
        return bool(found) and not set(found) & set(wanted["not_in"]), seen
    tests: dict[str, Callable[[Any], bool]] = {
        "has": lambda value: str(wanted["has"]).lower() in str(value).lower(),
        "equals": lambda value: value == wanted["equals"],
        "below": lambda value: value < wanted["below"],
        "above": lambda value: value > wanted["above"],
    }
    test = next(test for name, test in tests.items() if name in wanted)
    return any(test(value) for value in found), seen


def picture(check: Mapping[str, Any], run: Run) -> Verdict:
    from PIL import Image

    sizes = []
    for path in run.new_files(check["picture"]):
        with Image.open(path) as image:
            sizes.append(image.size)
    return any(width == check["width"] for width, _ in sizes), f"sizes: {sizes[:6]}"


def json_file(check: Mapping[str, Any], run: Run) -> Verdict:
    path = run.work / check["json"]
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return False, f"{path.name}: {error}"
    missing = [key for key in check["keys"] if not isinstance(document, dict) or key not in document]
    return not missing, f"{path.name} lacks {missing}" if missing else f"{path.name} has {check['keys']}"


def storage_lacks(check: Mapping[str, Any], run: Run) -> Verdict:
    return bool(run.storage) and check["storage_lacks"] not in json.dumps(
        run.storage
    ), "requests to the storage"


def no_file_has(check: Mapping[str, Any], run: Run) -> Verdict:
    secret = check["no_file_has"].encode()
    hits = [path.name for path in run.files("**/*") if secret in path.read_bytes()]
    return not hits, f"found in {hits}" if hits else f"looked into {len(run.files('**/*'))} files"


KINDS: dict[str, Callable[[Mapping[str, Any], Run], Verdict]] = {
    "files": files,
    "accepted": accepted,
    "request": request,
    "body": body,
    "command": command,
    "graph": graph,
    "picture": picture,
    "json": json_file,
    "storage_lacks": storage_lacks,
    "no_file_has": no_file_has,
}
