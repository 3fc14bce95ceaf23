"""The check's verdict against a real server's, on tens of thousands of graphs over all its node classes."""

from __future__ import annotations

import json
import os
import urllib.parse
import urllib.request
from collections import Counter

import pytest

from comfyskill.editor import convert
from comfyskill.graph import catalog, check
from graph_mutations import samples
from server_verdicts import verdicts

AGREEMENT = 0.999
# The classes whose own code judges a value: a file that is there, a format.
OWN_CHECKS = {
    *catalog.UNCHECKED_CLASSES,
    *(class_type for class_type, _ in {*catalog.UNCHECKED_INPUTS, *catalog.UPLOADS}),
    "WebcamCapture",
    "RigValidate",
}


# The findings that say of an accepted graph that its run fails.
RUN_FAILS = {"value_for_link", "required_input_missing", "bad_link", "undeclared_link"}

pytestmark = [pytest.mark.slow, pytest.mark.real]


@pytest.fixture(scope="module")
def url():
    """A real server whose queue may be held for minutes."""
    named = os.environ.get("COMFYUI_PARITY_URL")
    if not named:
        pytest.skip("COMFYUI_PARITY_URL names no real server")
    return named


def fetched(url, path):
    with urllib.request.urlopen(f"{url}/{urllib.parse.quote(path)}", timeout=60) as answer:
        return json.load(answer)


def test_the_check_judges_as_the_server_does(url):
    definitions = fetched(url, "object_info")
    graphs = list(samples(definitions))
    apart: Counter[str] = Counter()
    examples: list[str] = []
    for sample, verdict in zip(graphs, verdicts(url, (graph for _, graph in graphs)), strict=True):
        found = check.findings(sample.graph, definitions)
        ours = not check.rejected(found)
        if ours == verdict.accepted:
            continue
        only_there = ours and all(class_type in OWN_CHECKS for class_type, _ in verdict.errors)
        kind = "only the server can know" if only_there else "taken here" if ours else "rejected here"
        apart[kind] += 1
        if not only_there:
            said = verdict.errors if ours else [one.message for one in found if one.severity == check.ERROR]
            examples.append(f"{kind}: {sample.what}: {said[:2]}")
    agreed = len(graphs) - sum(apart.values())
    print(f"{agreed} of {len(graphs)} graphs ({agreed / len(graphs):.3%}) agree; apart: {dict(apart)}")
    assert apart["taken here"] == 0, examples[:20]
    assert apart["rejected here"] <= (1 - AGREEMENT) * len(graphs), examples[:20]
    assert apart["only the server can know"] <= 2 * (1 - AGREEMENT) * len(graphs)


def test_no_official_template_is_judged_wrongly(url):
    definitions = fetched(url, "object_info")
    names = [one["name"] for group in fetched(url, "templates/index.json") for one in group["templates"]]
    files = {name: fetched(url, f"templates/{name}.json") for name in dict.fromkeys(names)}
    graphs = {
        name: json.loads(json.dumps(convert.convert(file, definitions, wildcard_seed=1).graph))
        for name, file in files.items()
    }
    found = {name: check.findings(graph, definitions) for name, graph in graphs.items()}
    wrong = [
        name
        for name, verdict in zip(graphs, verdicts(url, graphs.values()), strict=True)
        if check.rejected(found[name]) == verdict.accepted
    ]
    assert len(graphs) > 100
    assert wrong == []
    warned = [(name, one.message) for name in found for one in found[name] if one.code in RUN_FAILS]
    assert warned == []
