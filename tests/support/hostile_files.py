"""Files that nobody in his right mind would give to a workflow tool: name -> how to make one in a folder."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Make = Callable[[Path], Path]
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
IMAGE = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 1}}


def raw(content: bytes | str, name: str = "w.json") -> Make:
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data)
        return path

    return make


def graph(value: Any) -> Make:
    return raw(json.dumps(value))


def node(**changes: Any) -> Make:
    """One picture, saved, with a node changed."""
    return graph({"1": IMAGE | changes, "2": SAVE})


def value_of(width: Any) -> Make:
    return node(inputs={**IMAGE["inputs"], "width": width})  # type: ignore[dict-item]


def named(text: str) -> Make:
    """A text in every place that holds text."""
    image = {"class_type": text, "inputs": {text: text, "width": text}, "_meta": {"title": text}}
    save = {"class_type": "SaveImage", "inputs": {"images": [text, 0], "filename_prefix": text}}
    return graph({text: image, "2": save, "3": {"class_type": "LoadImage", "inputs": {"image": text}},
                  "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": text}}})  # fmt: skip


def cycle(length: int) -> Make:
    ring = {str(i): {"class_type": "ImageInvert", "inputs": {"image": [str((i + 1) % length), 0]}} for i in range(length)}  # fmt: skip
    return graph(
        ring | {"s": {"class_type": "SaveImage", "inputs": {"images": ["0", 0], "filename_prefix": "x"}}}
    )


def chain(length: int) -> Make:
    made: dict[str, Any] = {"1": IMAGE}
    for number in range(2, length):
        made[str(number)] = {"class_type": "ImageInvert", "inputs": {"image": [str(number - 1), 0]}}
    made[str(length)] = {"class_type": "SaveImage", "inputs": {"images": [str(length - 1), 0], "filename_prefix": "x"}}  # fmt: skip
    return graph(made)


def wide(count: int) -> Make:
    made: dict[str, Any] = {"1": IMAGE, "2": SAVE}
    for number in range(3, count):
        made[str(number)] = {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    return graph(made)


def nested_value(depth: int) -> Make:
    inner = "[" * depth + "]" * depth
    return raw('{"1": {"class_type": "EmptyImage", "inputs": {"width": ' + inner + '}}, "2": ' + json.dumps(SAVE) + "}")  # fmt: skip


def editor(nodes: Any, links: Any = (), **more: Any) -> Make:
    return graph(
        {"version": 0.4, "last_node_id": 9, "last_link_id": 9, "nodes": nodes, "links": links, **more}
    )


def nested_groups(levels: int, each: int = 2) -> Make:
    """Sub-graphs of which each holds the next `each` times: each ** levels nodes when they are unfolded."""
    names = [f"00000000-0000-4000-8000-{number:012d}" for number in range(levels + 1)]
    groups = []
    for number in range(levels):
        inner = [
            {"id": i, "type": names[number + 1] if number < levels - 1 else "EmptyImage", "mode": 0, "inputs": [],
             "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": []}], "widgets_values": []}
            for i in range(1, each + 1)
        ]  # fmt: skip
        groups.append(
            {"id": names[number], "name": "g", "nodes": inner, "links": [], "inputs": [], "outputs": [], "version": 1,
             "state": {}, "inputNode": {"id": -10}, "outputNode": {"id": -20}}
        )  # fmt: skip
    top = [{"id": 1, "type": names[0], "mode": 0, "inputs": [], "outputs": [], "widgets_values": []}]
    return editor(top, [], definitions={"subgraphs": groups})


def self_group() -> Make:
    name = "00000000-0000-4000-8000-000000000001"
    inner = [{"id": 1, "type": name, "mode": 0, "inputs": [], "outputs": [], "widgets_values": []}]
    group = {"id": name, "name": "me", "nodes": inner, "links": [], "inputs": [], "outputs": [], "version": 1}
    return editor([{"id": 1, "type": name, "mode": 0}], [], definitions={"subgraphs": [group]})


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, width: int = 1, height: int = 1) -> Make:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\x00\x00")) + chunk(b"IEND", b"")
    return raw(b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + body, "w.png")


def bomb(kind: bytes, head: bytes, megabytes: int = 600) -> Make:
    """A picture with a chunk of spaces, packed by a thousand; packed when it is asked for, as that takes seconds."""

    def make(folder: Path) -> Path:
        packer = zlib.compressobj(9)
        packed = [packer.compress(b" " * (1 << 20)) for _ in range(megabytes)] + [packer.flush()]
        return png(chunk(kind, head + b"".join(packed)))(folder)

    return make


def directory(folder: Path) -> Path:
    (folder / "w.json").mkdir()
    return folder / "w.json"


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "w.json")
    return folder / "w.json"


def loop(folder: Path) -> Path:
    (folder / "w.json").symlink_to(folder / "w.json")
    return folder / "w.json"


def sparse(size: int, name: str = "w.json") -> Make:
    def make(folder: Path) -> Path:
        path = folder / name
        with path.open("wb") as file:
            file.write(b'{"1": "')
            file.truncate(size)
        return path

    return make


def device(name: str) -> Make:
    return lambda _folder: Path(name)


ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b5m"
BIDI = "abc\u202egnp.exe\u2066\u200f"

FILES: dict[str, Make] = {
    "nothing": raw(""),
    "only a byte order mark": raw(b"\xef\xbb\xbf"),
    "UTF-16": raw(json.dumps({"1": IMAGE, "2": SAVE}).encode("utf-16")),
    "a web page": raw("<!doctype html><title>Login</title><script>alert(1)</script>"),
    "XML with entities": raw('<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><l>&b;</l>'),
    "noise": raw(bytes(range(256)) * 40),
    "NULs": raw(b"\x00" * 4096),
    "null": raw("null"), "a number": raw("5"), "a text": raw('"x"'), "a list": raw("[]"), "no nodes": raw("{}"),
    "NaN": raw('{"1": {"class_type": "EmptyImage", "inputs": {"width": NaN, "height": Infinity}}}'),
    "cut off": raw('{"1": {"class_type": "EmptyImage", "inp'),
    "two documents": raw("{}{}"),
    "a node is null": graph({"1": None}), "a node is a list": graph({"1": [1, 2]}),
    "class is a number": node(class_type=5), "class is empty": node(class_type=""), "inputs are a list": node(inputs=[1]),
    "inputs are null": node(inputs=None), "meta is a text": node(_meta="x"), "title is an object": node(_meta={"title": {"a": 1}}),
    "links of every wrong form": node(inputs={"a": ["1"], "b": ["99", 0], "c": ["1", "x"], "d": ["1", -1], "e": [[], {}],
                                              "f": ["2", 1 << 70], "g": [None, 0], "h": ["1", 0, 0], "i": [1, 0], "j": ["2", 1.5]}),
    "linked to itself": graph({"1": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}, "2": SAVE}),
    "a ring of 3": cycle(3), "a ring of 5,000": cycle(5000), "a chain of 5,000": chain(5000),
    "20,000 nodes": wide(20_000),
    "an integer beyond 64 bits": value_of(1 << 80), "an integer of 6,000 digits": raw('{"1": {"class_type": "EmptyImage", "inputs": {"width": ' + "9" * 6000 + '}}}'),
    "1e400": raw('{"1": {"class_type": "EmptyImage", "inputs": {"width": 1e400}}, "2": ' + json.dumps(SAVE) + "}"),
    "minus zero and tiny": value_of([-0.0, 5e-324, True, None]),
    "a lone surrogate": raw('{"\\ud800": {"class_type": "\\udfff", "inputs": {"text": "\\ud800x", "image": "\\udc80.png"}}}'),
    "terminal escapes": named(ESCAPES), "right to left": named(BIDI), "NUL in names": named("a\x00b"),
    "names of 5,000 characters": named("n" * 5000), "paths": named("../../../../etc/passwd"), "CON": named("CON"),
    "aux.png": named("aux.png"), "a name of spaces": named("   "), "line breaks": named("a\nb\r\nc\u2028d"),
    "format strings": named("{0.__class__} %s %n ${HOME} $(id) `id`"), "a drive": named("C:\\Windows\\x"),
    "brackets": named("[output] [input] ["), "dots": named("a.b.c"), "equals": named("a=b=c"), "dashes": named("--host"),
    "nested 50 deep": nested_value(50), "nested 100,000 deep": nested_value(100_000),
    "nested 100,000 objects": raw('{"a":' * 100_000 + "1" + "}" * 100_000),
    "the same key twice": raw('{"1": {"class_type": "A", "inputs": {}}, "1": {"class_type": "B", "inputs": {}}}'),
    "prototype keys": graph({"__proto__": IMAGE, "constructor": SAVE, "nodes": {}, "prompt": {}}),
    "wrapped in itself": graph({"prompt": {"prompt": {"prompt": {"1": IMAGE}}}}),
    "editor, nodes null": editor(None), "editor, nodes are texts": editor(["a", 5, None, []]),
    "editor, nodes without anything": editor([{}, {"id": 1}, {"type": "KSampler"}, {"id": "x", "type": 5}]),
    "editor, links of every wrong form": editor([{"id": 1, "type": "SaveImage", "inputs": [{"name": "images", "link": 1}, None, {"link": "x"}]}],
                                                [None, [], [1], [1, 9, 0, 1, 0, "IMAGE"], [1, 1, 0, 1, 0, "IMAGE"], "x", {"id": 1}]),
    "editor, widget values are wrong": editor([{"id": 1, "type": "KSampler", "widgets_values": {"seed": [1]}},
                                               {"id": 2, "type": "SaveImage", "widgets_values": [[[]], {}, None]},
                                               {"id": 3, "type": "EmptyImage", "widgets_values": "text"}]),
    "editor, ids twice": editor([{"id": 1, "type": "EmptyImage"}, {"id": 1, "type": "SaveImage"}]),
    "editor, a group in itself": self_group(),
    "editor, 2 to the 40 nodes": nested_groups(40), "editor, 500 levels": nested_groups(500, 1),
    "editor, reroutes in a ring": editor([{"id": 1, "type": "Reroute", "inputs": [{"name": "", "link": 1}], "outputs": [{"links": [1]}]}],
                                         [[1, 1, 0, 1, 0, "*"]]),
    "editor, groups are texts": editor([], [], definitions={"subgraphs": ["x", None, {"id": 5}]}, groups=[None]),
    "a picture without a workflow": png(),
    "a picture of 4 billion pixels": png(chunk(b"tEXt", b"prompt\x00{}"), width=1 << 16, height=1 << 16),
    "a picture with a broken workflow": png(chunk(b"tEXt", b"prompt\x00{\"1\": ")),
    "a picture with deep JSON": png(chunk(b"tEXt", b"prompt\x00" + b"[" * 100_000)),
    "a picture with a bomb (zTXt)": bomb(b"zTXt", b"prompt\x00\x00"),
    "a picture with a bomb (iTXt)": bomb(b"iTXt", b"workflow\x00\x01\x00\x00\x00"),
    "a picture cut off": raw(b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR\x00", "w.png"),
    "a picture with a chunk of 4 GB": raw(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 0xFFFFFFFF) + b"tEXtprompt\x00{}", "w.png"),
    "a web picture with a wrong size": raw(b"RIFF\xff\xff\xff\xffWEBPVP8X\xff\xff\xff\xff" + b"\x00" * 64, "w.webp"),
    "a JPEG with a wrong size": raw(b"\xff\xd8\xff\xe1\xff\xffExif\x00\x00MM\x00*\xff\xff\xff\xff" + b"\x00" * 64, "w.jpg"),
    "a video of nested boxes": raw(b"\x00\x00\x00\x10ftypisom\x00\x00\x02\x00" + b"".join(struct.pack(">I", 8 * (4000 - i)) + b"moov" for i in range(4000)), "w.mp4"),
    "a video box of 2 to the 64": raw(b"\x00\x00\x00\x10ftypisom\x00\x00\x02\x00\x00\x00\x00\x01moov" + b"\xff" * 8, "w.mp4"),
    "a matroska file of noise": raw(b"\x1a\x45\xdf\xa3" + b"\x01\xff\xff\xff\xff\xff\xff\xff" * 50, "w.webm"),
    "a folder": directory, "a FIFO that nobody writes to": fifo, "a link to itself": loop,
    "/dev/zero": device("/dev/zero"), "/dev/null": device("/dev/null"), "not there": device("/nowhere/w.json"),
    "a JSON file of 3 GB": sparse(3 << 30), "a picture of 3 GB": sparse(3 << 30, "w.png"),
}  # fmt: skip
