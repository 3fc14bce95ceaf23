"""Reads the bundle's markdown: fences, inline code, tables, and the answer shapes behind curl lines."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle import ROOT

FENCE = re.compile(r"^( *)(```+|~~~+)(.*)$")


@dataclass(frozen=True)
class Fence:
    """A fenced block: its language, its text, the line it starts at and the line of prose above it."""

    language: str
    text: str
    line: int
    above: str


def markdown_files() -> list[Path]:
    """All markdown of the bundle that git would ship, evals and tests included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*.md"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if listed.returncode == 0:
        return sorted(path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file())
    return sorted(path for path in ROOT.rglob("*.md") if ".venv" not in path.parts)


def fences(text: str) -> tuple[list[Fence], str]:
    """The fenced blocks, and the text without them. Raises ValueError for a fence that never closes."""
    found: list[Fence] = []
    prose: list[str] = []
    inside: list[str] | None = None
    mark = language = ""
    start = 0
    for number, line in enumerate(text.splitlines(), 1):
        match = FENCE.match(line)
        if inside is None:
            if match:
                inside, mark, language, start = [], match[2], match[3].strip(), number
            else:
                prose.append(line)
        elif match and match[2].startswith(mark) and not match[3].strip():
            above = next((text for text in reversed(prose) if text.strip()), "")
            found.append(Fence(language, "\n".join(inside) + "\n", start, above))
            inside = None
        else:
            inside.append(line)
    if inside is not None:
        raise ValueError(f"the fence of line {start} never closes")
    return found, "\n".join(prose)


def shell_lines(fence: Fence) -> list[str]:
    """The commands of a shell block: continued lines joined, comments and blank lines left out."""
    joined = re.sub(r"\\\n\s*", "", fence.text)
    return [
        line.strip() for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]


def inline_code(prose: str) -> list[str]:
    """What stands between single backticks."""
    return [re.sub(r"\s+", " ", code) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


# An answer, as the comment behind a curl line tells it: `200 {jobs: [{id, status: "completed"}], pagination}`.
TOKEN = re.compile(r'\s*(\.\.\.|"(?:[^"\\]|\\.)*"|[{}\[\],:]|[\w$./-]+)')


def parse_shape(text: str) -> Any:
    """A shape as values: dict of required keys, list with one shape for its entries, `...` for anything.

    `{}` and `[]` are exactly empty; `[...]` is any list and `{...}` any object.
    """
    tokens = TOKEN.findall(text)
    assert "".join(tokens) == re.sub(r'\s(?=(?:[^"]*"[^"]*")*[^"]*$)', "", text), text
    shape, rest = _shape(tokens)
    assert not rest, f"more than one shape: {text}"
    return shape


def _shape(tokens: list[str]) -> tuple[Any, list[str]]:
    head, rest = tokens[0], tokens[1:]
    if head == "{":
        return _object(rest)
    if head == "[":
        if rest[0] == "]":
            return [], rest[1:]
        entry, rest = _shape(rest)
        assert rest[0] == "]", rest
        return [entry], rest[1:]
    if head == "...":
        return ..., rest
    words = {"true": True, "false": False, "null": None}
    if head in words:
        return words[head], rest
    return (str if head == '"..."' else head[1:-1] if head[0] == '"' else int(head)), rest


def _object(rest: list[str]) -> tuple[Any, list[str]]:
    found: dict[str, Any] = {}
    while rest[0] != "}":
        key, rest = rest[0].strip('"'), rest[1:]
        if key == "...":
            found[...] = ...  # type: ignore[index]
        elif rest[0] == ":":
            found[key], rest = _shape(rest[1:])
        else:
            found[key] = ...
        if rest[0] == ",":
            rest = rest[1:]
    return found, rest[1:]


def misfit(shape: Any, value: Any, where: str = "answer") -> str | None:
    """What in a value does not fit a shape; None when all does."""
    if shape is ...:
        return None
    if shape is str:
        return None if isinstance(value, str) else f"{where} is no text"
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} is no object: {str(value)[:80]}"
        if not shape and value:
            return f"{where} is not empty: {sorted(value)[:5]}"
        for key, part in shape.items():
            if key is ...:
                continue
            if key not in value:
                return f"{where} lacks {key}; it has {sorted(value)[:12]}"
            problem = misfit(part, value[key], f"{where}.{key}")
            if problem:
                return problem
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is no list: {str(value)[:80]}"
        if not shape and value:
            return f"{where} is not empty"
        if shape and shape[0] is not ... and not value:
            return f"{where} is empty"
        problems = (
            misfit(shape[0], entry, f"{where}[{index}]") for index, entry in enumerate(value) if shape
        )
        return next((problem for problem in problems if problem), None)
    return None if shape == value and type(shape) is type(value) else f"{where} is {value!r}, not {shape!r}"
