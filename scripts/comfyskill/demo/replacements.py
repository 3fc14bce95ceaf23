"""Classes that a server of version 0.33 replaces before it checks a graph: the answer of GET /node_replacements."""

from __future__ import annotations

from comfyskill.base.cli import Document
from comfyskill.demo.definitions import Definitions
from comfyskill.demo.validation import Unhandled


def _entry(
    old: str, new: str, widgets: list[str] | None = None, **mappings: list[Document]
) -> list[Document]:
    names = {"new_node_id": new, "old_node_id": old, "old_widget_ids": widgets}
    return [{**names, "input_mapping": None, "output_mapping": None, **mappings}]


def _renamed(new: str, old: str) -> Document:
    return {"new_id": new, "old_id": old}


# Class -> what may replace it; only the first entry counts.
TABLE: dict[str, list[Document]] = {
    "ResizeImagesByLongerEdge": _entry(
        "ResizeImagesByLongerEdge",
        "ImageScaleToMaxDimension",
        ["longer_edge"],
        input_mapping=[
            _renamed("image", "images"),
            _renamed("largest_size", "longer_edge"),
            {"new_id": "upscale_method", "set_value": "lanczos"},
        ],
        output_mapping=[{"new_idx": 0, "old_idx": 0}],
    ),
    "ImageBatch": _entry(
        "ImageBatch",
        "BatchImagesNode",
        input_mapping=[_renamed("images.image0", "image1"), _renamed("images.image1", "image2")],
    ),
    "ImageScaleBy": _entry(
        "ImageScaleBy",
        "ResizeImageMaskNode",
        ["upscale_method", "scale_by"],
        input_mapping=[
            _renamed("input", "image"),
            {"new_id": "resize_type", "set_value": "scale by multiplier"},
            _renamed("resize_type.multiplier", "scale_by"),
            _renamed("scale_method", "upscale_method"),
        ],
    ),
    "T2IAdapterLoader": _entry(
        "T2IAdapterLoader",
        "ControlNetLoader",
        input_mapping=[_renamed("control_net_name", "t2i_adapter_name")],
    ),
    "Load3DAnimation": _entry("Load3DAnimation", "Load3D"),
    "Preview3DAnimation": _entry("Preview3DAnimation", "Preview3D"),
    "SDV_img2vid_Conditioning": _entry("SDV_img2vid_Conditioning", "SVD_img2vid_Conditioning"),
    "ConditioningAverage ": _entry("ConditioningAverage ", "ConditioningAverage"),
}


def replaced(prompt: object, definitions: Definitions) -> object:
    """The graph with the classes that the server lacks replaced. A mapping of None drops all inputs, as on the real
    server. Raises Unhandled where the real server crashes: without `_meta`, and without a mapped input.
    """
    if not isinstance(prompt, dict):
        return prompt
    return {node_id: _node(node, definitions) for node_id, node in prompt.items()}


def _node(node: object, definitions: Definitions) -> object:
    if not isinstance(node, dict):
        raise Unhandled("a node is not an object")
    name = node.get("class_type")
    if not isinstance(name, str) or name in definitions or name not in TABLE:
        return node
    entry = TABLE[name][0]
    if entry["new_node_id"] not in definitions:
        return node
    try:
        meta, inputs = dict(node["_meta"]), node["inputs"]
        mapped = {
            rule["new_id"]: rule["set_value"] if "set_value" in rule else inputs[rule["old_id"]]
            for rule in entry["input_mapping"] or []
        }
    except (KeyError, TypeError) as error:
        raise Unhandled(f"the node cannot be replaced: {error}") from error
    return {"class_type": entry["new_node_id"], "inputs": mapped, "_meta": meta}
