"""Which settings name files for inputs that take files from the user. Pure: no file is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from comfyskill.graph.nodes import Definitions, Graph, inputs_of, link_of
from comfyskill.graph.parameter import Parameter
from comfyskill.graph.parameters import ParameterSet, find


class UploadTarget(NamedTuple):
    """An input that takes a file, and the file's name as it was given.

    kind: image, mask, video, audio or file. original: for a mask that belongs to a LoadImage, the value that the
    input holds now: the picture whose transparency the mask becomes (`original_ref` of /upload/mask).
    """

    name: str
    node_id: str
    input: str
    kind: str
    value: Any
    original: str | None = None


def upload_targets(
    graph: Graph, settings: Mapping[str, Any], definitions: Definitions | None = None
) -> list[UploadTarget]:
    """The settings that name an input which takes files from the user, whatever their value.

    The caller decides by the value (an existing local file?) whether to upload. `mask` means the picture
    loader whose mask output is used when the graph has no loader for masks alone.

    Raises:
        SkillError: as `ParameterSet.resolve` does.
    """
    parameters = find(graph, definitions)
    targets = []
    for name, value in settings.items():
        mask = painted_mask(parameters, name)
        for parameter in [mask] if mask else _resolve(parameters, name):
            if parameter.upload is None:
                continue
            kind = "mask" if mask else parameter.upload
            original = str(parameter.value) if mask else None
            targets.append(UploadTarget(name, parameter.node_id, parameter.input, kind, value, original))
    return targets


def painted_mask(parameters: ParameterSet, name: str) -> Parameter | None:
    """For the name `mask`: the one LoadImage whose second output, its mask, is used."""
    if name != "mask" or name in parameters.groups:
        return None
    used = {
        link.node_id
        for node in parameters.graph.values()
        if isinstance(node, Mapping)
        for value in inputs_of(node).values()
        if (link := link_of(value)) is not None and link.slot == 1
    }
    loaders = [p for p in parameters if p.upload == "image" and p.node_id in used and p.input == "image"]
    return loaders[0] if len(loaders) == 1 else None


def _resolve(parameters: ParameterSet, name: str) -> list[Parameter]:
    if name == "size" and "size" not in parameters.groups:
        return []
    return parameters.resolve(name)
