"""The check's verdict against a real server's, on tens of thousands of graphs over all its node classes."""

from __future__ import annotations

import json
import os
import urllib.request
from collections import Counter

import pytest

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


@pytest.mark.slow
@pytest.mark.real
def test_the_check_judges_as_the_server_does():
    url = os.environ.get("COMFYUI_PARITY_URL")
    if not url:
        pytest.skip("COMFYUI_PARITY_URL names no real server whose queue may be held for minutes")
    with urllib.request.urlopen(f"{url}/object_info", timeout=60) as answer:
        definitions = json.load(answer)
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
