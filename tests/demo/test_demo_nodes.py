"""Nodes that need no model: the demo server computes what ComfyUI computes, held against a real one where there is one."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from PIL import Image

from bundle import Runner

Node = tuple[str, dict[str, Any]]


def solid(value: float, size: int = 16) -> Node:
    return "SolidMask", {"value": value, "width": size, "height": size}


def plain(color: int, width: int = 16, height: int = 16, batch: int = 1) -> Node:
    return "EmptyImage", {"width": width, "height": height, "batch_size": batch, "color": color}


def graph_of(nodes: dict[str, Node], prefix: str) -> dict[str, Any]:
    """The nodes, and what saves the one called `out`; a mask is made a picture first."""
    graph = {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}
    link: list[Any] = ["out", 0]
    if "Mask" in nodes["out"][0] and nodes["out"][0] not in ("ImageCompositeMasked", "MaskToImage"):
        graph["seen"] = {"class_type": "MaskToImage", "inputs": {"mask": link}}
        link = ["seen", 0]
    graph["save"] = {"class_type": "SaveImage", "inputs": {"images": link, "filename_prefix": prefix}}
    return graph


def small(operation: str, below: float, above: float) -> dict[str, Node]:
    inputs = {"destination": ["a", 0], "source": ["b", 0], "x": 4, "y": 4, "operation": operation}
    return {"a": solid(below), "b": solid(above, 8), "out": ("MaskComposite", inputs)}


def of_picture(
    kind: str, of: int = 0x804020, size: tuple[int, int] = (16, 16), **inputs: Any
) -> dict[str, Node]:
    return {"a": plain(of, *size), "out": (kind, {"image": ["a", 0], **inputs})}


def blended(mode: str, factor: float = 1.0) -> dict[str, Node]:
    inputs = {"image1": ["a", 0], "image2": ["b", 0], "blend_factor": factor, "blend_mode": mode}
    return {"a": plain(0x404040), "b": plain(0x808080), "out": ("ImageBlend", inputs)}


def feathered() -> dict[str, Node]:
    inputs = {"mask": ["a", 0], "left": 4, "top": 0, "right": 2, "bottom": 0}
    return {"a": solid(1.0), "out": ("FeatherMask", inputs)}


def grown(expand: int, tapered: bool) -> dict[str, Node]:
    dot = {"destination": ["a", 0], "source": ["b", 0], "x": 8, "y": 8, "operation": "add"}
    inputs = {"mask": ["dot", 0], "expand": expand, "tapered_corners": tapered}
    return {
        "a": solid(0.0, 17),
        "b": solid(1.0, 1),
        "dot": ("MaskComposite", dot),
        "out": ("GrowMask", inputs),
    }


def covered(resize: bool) -> dict[str, Node]:
    inputs = {
        "destination": ["a", 0],
        "source": ["b", 0],
        "x": 4,
        "y": 4,
        "resize_source": resize,
        "mask": ["m", 0],
    }
    return {
        "a": plain(0),
        "b": plain(0xFFFFFF, 8, 8),
        "m": solid(0.5, 8),
        "out": ("ImageCompositeMasked", inputs),
    }


def joined(*kinds: Node) -> dict[str, Node]:
    """A chain: each node takes the one before it."""
    names = [f"n{number}" for number in range(len(kinds) - 1)] + ["out"]
    made: dict[str, Node] = {}
    for at, (kind, inputs) in enumerate(kinds):
        made[names[at]] = (
            kind,
            {key: [names[at - 1], 0] if value == "<" else value for key, value in inputs.items()},
        )
    return made


# name: nodes, {place: grey value or colour}, size of the picture
CASES: dict[str, tuple[dict[str, Node], dict[tuple[int, int], Any], tuple[int, int] | None]] = {
    "invert a mask": ({"a": solid(0.25), "out": ("InvertMask", {"mask": ["a", 0]})}, {(3, 3): 191}, (16, 16)),
    "masks add": (small("add", 0.5, 0.25), {(5, 5): 191, (0, 0): 128}, None),
    "masks multiply": (small("multiply", 0.5, 0.25), {(5, 5): 32, (0, 0): 128}, None),
    "masks subtract": (small("subtract", 0.5, 0.25), {(5, 5): 64}, None),
    "masks and": (small("and", 1.0, 0.0), {(5, 5): 0, (0, 0): 255}, None),
    "masks or": (small("or", 0.0, 1.0), {(5, 5): 255, (0, 0): 0}, None),
    "masks xor": (small("xor", 1.0, 1.0), {(5, 5): 0, (0, 0): 255}, None),
    "crop a mask": (
        joined(solid(0.5), ("CropMask", {"mask": "<", "x": 2, "y": 2, "width": 5, "height": 7})), {(1, 1): 128}, (5, 7)
    ),
    "threshold above": (joined(solid(0.6), ("ThresholdMask", {"mask": "<", "value": 0.5})), {(1, 1): 255}, None),
    "threshold below": (joined(solid(0.4), ("ThresholdMask", {"mask": "<", "value": 0.5})), {(1, 1): 0}, None),
    "feather": (feathered(), {(0, 8): 64, (1, 8): 128, (14, 8): 255, (15, 8): 128, (8, 8): 255}, None),
    "grow square": (grown(2, False), {(6, 6): 255, (10, 8): 255, (5, 8): 0}, None),
    "grow tapered": (grown(2, True), {(6, 6): 0, (7, 7): 255, (10, 8): 255, (5, 8): 0}, None),
    "shrink": (
        joined(*[solid(1.0, 16), ("GrowMask", {"mask": "<", "expand": -1, "tapered_corners": False})]), {(8, 8): 255}, None
    ),
    "red to mask": (of_picture("ImageToMask", channel="red"), {(1, 1): 128}, None),
    "blue to mask": (of_picture("ImageToMask", channel="blue"), {(1, 1): 32}, None),
    "colour to mask": (of_picture("ImageColorToMask", color=0x804020), {(1, 1): 255}, None),
    "other colour to mask": (of_picture("ImageColorToMask", color=0x804021), {(1, 1): 0}, None),
    "half covered": (covered(False), {(5, 5): 127, (0, 0): 0, (13, 13): 0}, None),
    "covered whole": (covered(True), {(5, 5): 127, (13, 13): 127, (0, 0): 0}, None),
    "alpha joined": (
        {"a": plain(0x804020), "m": solid(0.25), "out": ("JoinImageWithAlpha", {"image": ["a", 0], "alpha": ["m", 0]})},
        {(1, 1): (128, 64, 32, 191)}, None,
    ),
    "alpha split": (of_picture("SplitImageWithAlpha"), {(1, 1): (128, 64, 32)}, None),
    "invert": (of_picture("ImageInvert"), {(1, 1): (127, 191, 223)}, None),
    "blend normal": (blended("normal"), {(1, 1): 128}, None),
    "blend half": (blended("normal", 0.5), {(1, 1): 96}, None),
    "blend multiply": (blended("multiply"), {(1, 1): 32}, None),
    "blend screen": (blended("screen"), {(1, 1): 160}, None),
    "blend overlay": (blended("overlay"), {(1, 1): 64}, None),
    "blend difference": (blended("difference"), {(1, 1): 0}, None),
    "scale": (
        of_picture("ImageScale", upscale_method="nearest-exact", width=8, height=4, crop="disabled"), {(1, 1): (128, 64, 32)},
        (8, 4),
    ),
    "scale, one side given": (
        of_picture("ImageScale", size=(16, 8), upscale_method="bilinear", width=8, height=0, crop="disabled"), {}, (8, 4)
    ),
    "scale by": (of_picture("ImageScaleBy", upscale_method="area", scale_by=0.5), {}, (8, 8)),
    "longest side": (
        of_picture("ImageScaleToMaxDimension", size=(16, 8), upscale_method="area", largest_size=32), {}, (32, 16)
    ),
    "crop": (of_picture("ImageCrop", width=4, height=6, x=2, y=2), {}, (4, 6)),
    "rotate": (of_picture("ImageRotate", size=(16, 8), rotation="90 degrees"), {}, (8, 16)),
    "pad": (
        of_picture("ImagePadForOutpaint", left=8, top=0, right=0, bottom=8, feathering=0), {(1, 1): 127, (10, 1): (128, 64, 32)},
        (24, 24),
    ),
    "size as numbers": (
        {
            "a": plain(1, 24, 8), "size": ("GetImageSize", {"image": ["a", 0]}),
            "out": ("EmptyImage", {"width": ["size", 1], "height": ["size", 0], "batch_size": 1, "color": 0x804020}),
        },
        {(1, 1): (128, 64, 32)}, (8, 24),
    ),
}  # fmt: skip


# What 0.8 computed otherwise: its ramp of the right side began at the left edge.
ON_0_8 = {"feather": {(0, 8): 32, (1, 8): 128, (3, 8): 255, (15, 8): 255, (8, 8): 255}}


def behaves_as_0_8(url: str) -> bool:
    """Whether a server is older than 0.33."""
    with urllib.request.urlopen(f"{url}/system_stats", timeout=60) as answer:
        version = json.loads(answer.read())["system"]["comfyui_version"]
    return tuple(int(part) for part in version.split(".")[:2]) < (0, 33)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_comfyui_computes(run: Runner, any_server: str, graph_file: Any, name: str) -> None:
    nodes, places, size = CASES[name]
    if name in ON_0_8 and behaves_as_0_8(any_server):
        places = ON_0_8[name]
    ran = run(
        "run_workflow.py", graph_file(graph_of(nodes, "skilltest/nodes")), "--host", any_server, "--output-dir", "out",
    )  # fmt: skip
    assert ran.code == 0, ran.out
    with Image.open(ran.json["outputs"][0]["file"]) as picture:
        assert size in (None, picture.size)
        for place, wanted in places.items():
            seen = picture.getpixel(place)
            values = (wanted,) * 3 if isinstance(wanted, int) else wanted
            # Pictures of whole numbers round otherwise than those of fractions.
            assert isinstance(seen, tuple) and len(seen) == len(values), (place, seen)
            assert all(abs(a - b) <= 1 for a, b in zip(seen, values, strict=True)), (place, seen)


TEXTS: dict[str, tuple[dict[str, Node], str]] = {
    "concatenate": (
        {"out": ("StringConcatenate", {"string_a": "ab", "string_b": "cd", "delimiter": "-"})}, "ab-cd"
    ),
    "substring": ({"out": ("StringSubstring", {"string": "abcdef", "start": 1, "end": 4})}, "bcd"),
    "length": ({"out": ("StringLength", {"string": "abcdef"})}, "6"),
    "case": ({"out": ("CaseConverter", {"string": "red fox", "mode": "Title Case"})}, "Red Fox"),
    "trim": ({"out": ("StringTrim", {"string": "  x ", "mode": "Left"})}, "x "),
    "replace": ({"out": ("StringReplace", {"string": "a fox", "find": "fox", "replace": "cat"})}, "a cat"),
    "contains": (
        {"out": ("StringContains", {"string": "A Fox", "substring": "fox", "case_sensitive": False})}, "True"
    ),
    "compare": (
        {"out": ("StringCompare", {"string_a": "abc", "string_b": "bc", "mode": "Ends With", "case_sensitive": True})},
        "True",
    ),
    "number": ({"out": ("PrimitiveInt", {"value": 7})}, "7"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_texts_are_what_comfyui_makes_of_them(
    run: Runner, any_server: str, graph_file: Any, name: str
) -> None:
    nodes, wanted = TEXTS[name]
    graph = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}
    graph["show"] = {"class_type": "PreviewAny", "inputs": {"source": ["out", 0]}}
    ran = run("run_workflow.py", graph_file(graph), "--host", any_server, "--output-dir", "out")
    assert ran.code == 0, ran.out
    assert [item["text"] for item in ran.json["texts"]] == [wanted]
