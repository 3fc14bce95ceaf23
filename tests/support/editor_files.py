"""Small editor files for tests, built by hand: one plain text-to-image graph and what can be done to it."""

from __future__ import annotations

import json
from pathlib import Path

CORE = json.loads(
    (
        Path(__file__).resolve().parent.parent.parent / "scripts/comfyskill/graph/core_definitions.json"
    ).read_text("utf-8")
)
# As a server would give them: without the mark of the bundled ones.
DEFINITIONS = {name: {k: v for k, v in body.items() if k != "bundled"} for name, body in CORE.items()}


class File:
    """An editor file under construction. Node ids 1 to 7 are a plain text-to-image graph unless `empty`."""

    def __init__(self, *, empty: bool = False) -> None:
        self.nodes: list[dict] = []
        self.links: list[list] = []
        self.definitions: list[dict] = []
        self.extra: dict = {}
        if not empty:
            self._text_to_image()

    def _text_to_image(self) -> None:
        self.node(1, "CheckpointLoaderSimple", values=["sd15.safetensors"], outputs="MODEL CLIP VAE")
        self.node(2, "CLIPTextEncode", values=["a cat"], outputs="CONDITIONING", inputs="clip:CLIP")
        self.node(3, "CLIPTextEncode", values=["bad"], outputs="CONDITIONING", inputs="clip:CLIP")
        self.node(4, "EmptyLatentImage", values=[640, 384, 2], outputs="LATENT")
        self.node(
            5,
            "KSampler",
            values=[123, "randomize", 7, 3.5, "dpmpp_2m", "karras", 0.9],
            outputs="LATENT",
            inputs="model:MODEL positive:CONDITIONING negative:CONDITIONING latent_image:LATENT",
        )
        self.node(6, "VAEDecode", outputs="IMAGE", inputs="samples:LATENT vae:VAE")
        self.node(7, "SaveImage", values=["out"], inputs="images:IMAGE")
        for row in (
            (1, 0, 5, "model"), (1, 1, 2, "clip"), (1, 1, 3, "clip"), (2, 0, 5, "positive"), (3, 0, 5, "negative"),
            (4, 0, 5, "latent_image"), (5, 0, 6, "samples"), (1, 2, 6, "vae"), (6, 0, 7, "images"),
        ):  # fmt: skip
            self.link(*row)

    def node(
        self, number, kind, *, values=None, inputs="", outputs="", mode=0, title=None, **properties
    ) -> dict:
        """Add a node; `inputs` are "name:TYPE" words, with "!" after the type of a widget's slot."""
        node = {
            "id": number,
            "type": kind,
            "pos": [0, 0],
            "size": [200, 100],
            "flags": {},
            "order": len(self.nodes),
            "mode": mode,
            "inputs": [],
            "outputs": [{"name": name, "type": name, "links": []} for name in outputs.split()],
            "properties": {"Node name for S&R": kind, **properties},
            "widgets_values": values,
        }
        if title:
            node["title"] = title
        for word in inputs.split():
            name, _, type_name = word.partition(":")
            slot = {"name": name, "type": type_name.rstrip("!"), "link": None}
            if type_name.endswith("!"):
                slot["widget"] = {"name": name}
            node["inputs"].append(slot)
        self.nodes.append(node)
        return node

    def __getitem__(self, number) -> dict:
        return next(node for node in self.nodes if node["id"] == number)

    def link(self, origin, slot, target, name, type_name="*", *, widget=False) -> int:
        """Add a link to the named input, which is made a widget's slot when it is not there."""
        node = self[target]
        number = max([row[0] for row in self.links], default=0) + 1
        place = next((at for at, entry in enumerate(node["inputs"]) if entry["name"] == name), None)
        if place is None:
            place = len(node["inputs"])
            node["inputs"].append({"name": name, "type": type_name, "link": None})
            if widget:
                node["inputs"][place]["widget"] = {"name": name}
        before = node["inputs"][place]["link"]
        self.links = [row for row in self.links if row[0] != before]
        node["inputs"][place]["link"] = number
        source = next((entry for entry in self.nodes if entry["id"] == origin), None)
        if source and slot < len(source["outputs"]):
            source["outputs"][slot]["links"].append(number)
        self.links.append([number, origin, slot, target, place, type_name])
        return number

    def document(self) -> dict:
        """The file as JSON would have it."""
        made = {
            "last_node_id": max(
                [node["id"] for node in self.nodes if isinstance(node["id"], int)], default=0
            ),
            "last_link_id": max([row[0] for row in self.links], default=0),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": self.extra,
            "version": 0.4,
        }
        if self.definitions:
            made["definitions"] = {"subgraphs": self.definitions}
        return json.loads(json.dumps(made))


SUBGRAPH = "11111111-1111-4111-8111-111111111111"
OUTER = "22222222-2222-4222-8222-222222222222"


def definition(name, inner: File, inputs, outputs, links, ident=SUBGRAPH) -> dict:
    """A subgraph definition; `inputs`/`outputs` are "name:TYPE" words, `links` (id, origin, slot, target, slot)."""

    def boundary(words, node, at):
        return [
            {
                "id": f"{name}-{at}-{index}",
                "name": word.partition(":")[0],
                "type": word.partition(":")[2],
                "linkIds": [row[0] for row in links if row[at] == node and row[at + 1] == index],
            }
            for index, word in enumerate(words.split())
        ]

    for number, _origin, _slot, target, place in links:
        for node in inner.nodes:
            if node["id"] == target:
                node["inputs"][place]["link"] = number
    return {
        "id": ident,
        "version": 1,
        "name": name,
        "state": {},
        "inputNode": {"id": -10},
        "outputNode": {"id": -20},
        "inputs": boundary(inputs, -10, 1),
        "outputs": boundary(outputs, -20, 3),
        "nodes": inner.nodes,
        "links": [
            {"id": n, "origin_id": o, "origin_slot": s, "target_id": t, "target_slot": p, "type": "*"}
            for n, o, s, t, p in links
        ],
        "extra": {},
    }


def sampling_definition(ident=SUBGRAPH) -> dict:
    """A definition that shows text, seed and steps: clip, text, model, negative, latent_image, seed, steps → LATENT."""
    inner = File(empty=True)
    inner.node(
        2, "CLIPTextEncode", values=["inner text"], outputs="CONDITIONING", inputs="clip:CLIP text:STRING!"
    )
    inner.node(
        5,
        "KSampler",
        values=[1, "fixed", 11, 2.5, "euler", "simple", 1],
        outputs="LATENT",
        inputs="model:MODEL positive:CONDITIONING negative:CONDITIONING latent_image:LATENT seed:INT! steps:INT!",
    )
    links = [
        (1, -10, 0, 2, 0), (2, -10, 1, 2, 1), (3, -10, 2, 5, 0), (4, 2, 0, 5, 1), (5, -10, 3, 5, 2),
        (6, -10, 4, 5, 3), (7, -10, 5, 5, 4), (8, -10, 6, 5, 5), (9, 5, 0, -20, 0),
    ]  # fmt: skip
    inputs = "clip:CLIP text:STRING model:MODEL negative:CONDITIONING latent_image:LATENT seed:INT steps:INT"
    return definition("Sampling", inner, inputs, "LATENT:LATENT", links, ident)


def with_subgraph(values=None, proxies=None, *, mode=0, number=10) -> File:
    """Text-to-image with nodes 2 and 5 inside a subgraph instance (id 10)."""
    file = File()
    file.nodes = [node for node in file.nodes if node["id"] not in (2, 5)]
    file.links = [row for row in file.links if row[1] not in (2, 5) and row[3] not in (2, 5)]
    properties = {} if proxies is None else {"proxyWidgets": [list(entry) for entry in proxies]}
    inputs = (
        "clip:CLIP text:STRING! model:MODEL negative:CONDITIONING latent_image:LATENT seed:INT! steps:INT!"
    )
    file.node(number, SUBGRAPH, values=values, inputs=inputs, outputs="LATENT", mode=mode, **properties)
    for row in (
        (1, 1, number, "clip"), (1, 0, number, "model"), (3, 0, number, "negative"), (4, 0, number, "latent_image"),
        (number, 0, 6, "samples"),
    ):  # fmt: skip
        file.link(*row)
    file.definitions = [sampling_definition()]
    return file
