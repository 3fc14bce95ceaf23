"""Nodes for tests: they wait, fail, talk, expand, and write odd files. Each has Demo in its name."""

from __future__ import annotations

import itertools
import json
import wave
from pathlib import Path
from typing import Any

from comfyskill.demo import generic, pictures
from comfyskill.demo.call import Call
from comfyskill.demo.custom_checks import CHECKS, Check
from comfyskill.demo.folders import Folders
from comfyskill.demo.node_table import Interrupted, NodeFailure, Result, node
from comfyskill.demo.nodes_save import entry, place
from comfyskill.demo.values import Blocked, Images, recipe

DEFINITIONS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
OOM_TEXT = "Allocation on device 0 would exceed allowed memory. (out of memory)"
COUNTER = itertools.count(1)
SUFFIX = {
    "gifs": ".gif",
    "audio": ".wav",
    "3d": ".glb",
    "latents": ".latent",
    "video": ".mp4",
    "videos": ".mp4",
}


def picture(text: str, size: int = 64) -> Images:
    return Images((pictures.background(text, size, size),))


@node("DemoSleep")
async def sleep(
    call: Call, seconds: float, steps: int, seed: int, image: Images | None = None, quiet: bool = False
) -> tuple[Images, int]:
    if quiet:
        await call.wait(seconds)
        return image or picture(recipe(seed)), steps
    for step in range(1, steps + 1):
        await call.wait(seconds / steps)
        await call.progress(step, steps)
    return image or picture(recipe(seed)), steps


@node("DemoPreview")
async def preview(call: Call, format: str, steps: int, max_size: int, seed: int, size: int = 64) -> Images:
    from PIL import Image as pil

    shown = pictures.background(recipe(seed), size, max(1, size // 2))
    if size > 512:
        # Noise does not compress: large frames on purpose.
        shown = pil.effect_noise((size, size), 200).convert("RGB")
    for step in range(1, steps + 1):
        await call.wait(0.02)
        await call.progress(step, steps, shown, form=format, size=max_size)
    return Images((shown,))


@node("DemoFail")
async def fail(call: Call, message: str, kind: str, image: Images | None = None, after: float = 0.0) -> None:
    await call.wait(after)
    if kind == "Interrupt":
        raise Interrupted
    if kind == "OOM":
        raise NodeFailure("torch.OutOfMemoryError", f"{message}\n{OOM_TEXT}")
    raise NodeFailure(kind, repr(message) if kind == "KeyError" else message)


@node("DemoText")
def text(
    call: Call, text: str, live: bool, broadcast: bool, trigger: object = None, repeat: int = 1
) -> Result:
    said = text * repeat
    if live:
        call.engine.hub.send_text(call.node_id, f"live: {said}", None if broadcast else call.run.client_id)
    return Result((said,), ui={"text": [said], "extra": [1, 2.5, True, None, {"k": "v"}]})


@node("DemoSink", "DemoDeprecated", "DemoValidate")
def sink(call: Call, value: object) -> Result:
    return Result()


@node("DemoExpand")
def expand(call: Call, seed: int, seconds: float) -> Result:
    first, second = f"{call.node_id}.0.0.1", f"{call.node_id}.0.0.2"
    nodes = {
        first: {"class_type": "DemoSleep", "inputs": {"seconds": seconds, "steps": 2, "seed": seed}},
        second: {"class_type": "ImageInvert", "inputs": {"image": [first, 0]}},
    }
    return Result(values=([second, 0],), expand=nodes)


@node("DemoBlock")
def block(call: Call, image: Images, message: str) -> tuple[Blocked]:
    return (Blocked(message or None),)


@node("DemoList")
def listed(call: Call, count: int) -> tuple[list[int]]:
    return (list(range(count)),)


@node("DemoCounter", changes=lambda _inputs, _folders: next(COUNTER))
def counter(call: Call, start: int) -> tuple[int]:
    return (start + next(COUNTER),)


@node("DemoLog")
def log(call: Call, text: str, seed: int) -> Result:
    call.engine.write_log(text)
    return Result()


@node("DemoPartner")
async def partner(call: Call, prompt: str, seed: int) -> Images:
    await generic.spend(call)
    from comfyskill.demo.values import Latent

    latent = Latent(
        512,
        512,
        recipe=recipe(prompt, seed),
        prompt=prompt,
        seed=seed,
        model="demo partner node, nothing spent",
    )
    return Images((pictures.draw_latent(latent, 0),))


@node("DemoBigFile")
def big_file(
    call: Call, size_mb: float, filename: str, subfolder: str, sparse: bool, seed: int, key: str = "files"
) -> Result:
    """A file of any size; a sparse one takes no disk space."""
    folder = call.folders.inside(call.folders.output, subfolder)
    folder.mkdir(parents=True, exist_ok=True)
    size = int(size_mb * 1024 * 1024)
    path = call.folders.inside(folder, filename)
    with path.open("wb") as file:
        if sparse:
            file.truncate(size)
        else:
            block = bytes(range(256)) * 4096
            for start in range(0, size, len(block)):
                file.write(block[: size - start])
    return Result(ui={key: [entry(path.name, subfolder, "output")]})


@node("DemoMedia")
def media(call: Call, kind: str, prefix: str, subfolder: str, type: str, count: int, seed: int) -> Result:
    """Files under each of the keys that real nodes use."""
    keys = {"mixed": ["images", "gifs", "audio", "3d"], "animated": ["images"], "two_keys": ["images"]}.get(
        kind, [kind]
    )
    ui: dict[str, list[Any]] = {}
    for key in keys:
        ui[key] = [
            _medium(call, key, prefix, subfolder, type, recipe(seed, key, number)) for number in range(count)
        ]
    if kind == "animated":
        ui["animated"] = [True]
    if kind == "two_keys":
        ui["files"] = list(ui["images"])
    if kind == "mixed":
        ui["text"] = ["four files and a text"]
    return Result(ui=ui)


def _medium(call: Call, key: str, prefix: str, subfolder: str, kind: str, text: str) -> dict[str, str]:
    folder, name, counter, under = place(call, kind, f"{subfolder}/{prefix}" if subfolder else prefix)
    file = f"{name}_{counter:05}_{SUFFIX.get(key, '.png')}"
    _write(folder / file, key, text)
    call.folders.took(folder, name, counter)
    return entry(file, under, kind)


def write_wav(path: Path) -> None:
    """A fifth of a second of silence."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(3200))


def _write(path: Path, key: str, text: str) -> None:
    from comfyskill.demo import containers

    if key == "audio":
        write_wav(path)
    elif key == "3d":
        path.write_bytes(containers.box_glb(text, {}))
    elif key in ("video", "videos"):
        containers.write_mp4(path, [picture(text).frames[0]] * 2, 8.0, {})
    elif key == "latents":
        path.write_bytes(text.encode())
    else:
        picture(text).frames[0].save(path)


HOSTILE = {
    "traversal": [("../../evil.png", ""), ("ok.png", "../../..")],
    "absolute": [("/tmp/evil.png", ""), ("ok.png", "/etc")],
    "drive": [("C:\\evil.png", ""), ("ok.png", "C:\\Windows")],
    "backslash": [("..\\..\\evil.png", ""), ("ok.png", "..\\..")],
    "control": [("a\x00b\x1fc\n.png", "sub\r")],
    "escape": [("\x1b[31mred\x1b[0m.png", "")],
    "bidi": [("gpj.\u202egnp.exe", "")],
    "reserved": [("CON", ""), ("aux.png", ""), ("nul.txt", "com1"), ("dot.png.", "space ")],
    "long": [("n" * 5000 + ".png", "s" * 300)],
    "case": [("Same.png", ""), ("same.png", "")],
    "missing": [("not_there.png", "")],
    "url": [("http://127.0.0.1:9/x.png", ""), ("file:///etc/passwd", "")],
}


@node("DemoHostileNames")
def hostile(call: Call, kind: str, seed: int) -> Result:
    """Names that a client must not trust. The harmless part of each names a real file."""
    folder = call.folders.output
    data = picture(recipe(seed)).frames[0]
    for name in ("evil.png", "ok.png", "Same.png", "same.png", "aux.png", "twice.png"):
        data.save(folder / name)
    if kind == "odd":
        odd = [
            None,
            5,
            "text",
            {},
            {"filename": 5},
            {"filename": ""},
            {"filename": "ok.png", "type": "zzz"},
            ["ok.png"],
        ]
        return Result(
            ui={"images": odd, "odd": [{"filename": "ok.png", "subfolder": None, "type": "output"}]}
        )
    if kind == "duplicate":
        return Result(
            ui={"images": [entry("twice.png", "", "output")] * 2, "files": [entry("twice.png", "", "output")]}
        )
    if kind == "two_subfolders":
        places = []
        for number, sub in enumerate(("one", "two")):
            (folder / sub).mkdir(exist_ok=True)
            picture(recipe(seed, number)).frames[0].save(folder / sub / "same.png")
            places.append(entry("same.png", sub, "output"))
        return Result(ui={"images": places})
    if kind == "zero_bytes":
        (folder / "empty.png").write_bytes(b"")
        return Result(ui={"images": [entry("empty.png", "", "output")]})
    return Result(ui={"images": [entry(name, sub, "output") for name, sub in HOSTILE[kind]]})


def _validate(value: object, _folders: Folders) -> bool | str:
    if value == 3:
        return "three is not allowed"
    if value == 5:
        raise RuntimeError("validator crashed")
    return value != 4


CHECKS["DemoValidate"] = Check(("value",), _validate)
