"""A subgraph blueprint built by hand, as GET /global_subgraphs/{id} gives it."""

from __future__ import annotations

from editor_files import SUBGRAPH, File, definition

IDENTITY = "0" * 63 + "1"


def blueprint() -> dict:
    """A picture and a mask are blended: `image` and `mask` are required, `other` is optional, `strength` has a widget."""
    inner = File(empty=True)
    inner.node(1, "ImageCompositeMasked", values=[0, 0, False], outputs="IMAGE",
               inputs="destination:IMAGE source:IMAGE mask:MASK")  # fmt: skip
    inner.node(2, "ImageBlur", values=[4, 1], outputs="IMAGE", inputs="image:IMAGE blur_radius:INT!")
    inner.node(3, "KSampler", values=[7, "fixed", 4, 1, "euler", "simple", 1], outputs="LATENT",
               inputs="model:MODEL seed:INT! steps:INT! cfg:FLOAT! sampler_name:COMBO! scheduler:COMBO! denoise:FLOAT!")  # fmt: skip
    inner[1]["inputs"][2]["shape"] = 7
    graph = definition(
        "Blend pictures", inner, "picture:IMAGE over:IMAGE other:MASK strength:INT points:POINTS", "IMAGE:IMAGE LATENT:LATENT",
        [(1, -10, 0, 2, 0), (2, -10, 1, 1, 1), (3, -10, 2, 1, 2), (4, -10, 3, 2, 1), (5, 2, 0, 1, 0), (6, 1, 0, -20, 0),
         (7, 3, 0, -20, 1), (8, -10, 4, 3, 0)],
    )  # fmt: skip
    graph["inputs"][0]["label"] = "image"
    file = File(empty=True)
    file.node(5, SUBGRAPH, inputs="picture:IMAGE strength:INT!", values=[9, None],
              proxyWidgets=[["-1", "strength"], ["3", "seed"]])  # fmt: skip
    file.definitions.append(graph)
    return file.document()
