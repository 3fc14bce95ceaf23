"""references/codes.md knows every failure code of the scripts, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from bundle import ROOT, SCRIPTS

PAGE = (ROOT / "references" / "codes.md").read_text(encoding="utf-8")


def words_of(node: ast.AST | None) -> Iterator[str]:
    """The words that an expression can be: `"a" if x else "b"` is both."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from words_of(node.body)
        yield from words_of(node.orelse)


def codes_in(tree: ast.AST) -> Iterator[str]:
    """What is given as `code=`, stands under "code", or is the first word of a Diagnosis or second of _words."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            for keyword in node.keywords:
                if keyword.arg == "code":
                    yield from words_of(keyword.value)
            if name == "Diagnosis" and node.args:
                yield from words_of(node.args[0])
            if name == "_words" and len(node.args) > 2:
                yield from words_of(node.args[1])
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "code":
                    yield from words_of(value)


# Findings of validate_workflow and inspect_workflow have codes of their own kind (references/parameters.md).
FINDINGS = {
    "graph/check.py",
    "graph/advice.py",
    "graph/finding.py",
    "trust/trust.py",
}


def product_files() -> list[Path]:
    """All code but the demo server's, which answers in a real server's words."""
    return [path for path in SCRIPTS.rglob("*.py") if "demo" not in path.relative_to(SCRIPTS).parts]


def codes() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in product_files():
        if path.relative_to(SCRIPTS).as_posix().removeprefix("comfyskill/") not in FINDINGS:
            for code in codes_in(ast.parse(path.read_text(encoding="utf-8"))):
                found.setdefault(code, path.name)
    return found


def listed() -> set[str]:
    """The codes in the first column of the page's tables."""
    return {
        word
        for row in re.findall(r"(?m)^\| (`[a-z_`, ]+`) \|", PAGE)
        for word in re.findall(r"`([a-z_]+)`", row)
    }


def test_every_code_is_on_the_page() -> None:
    missing = {code: where for code, where in codes().items() if code not in listed()}
    assert not missing, "add them to references/codes.md"


def test_the_page_names_no_code_that_nothing_gives() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in product_files())
    assert not {code for code in listed() if f'"{code}"' not in source}
    assert len(listed()) > 100
