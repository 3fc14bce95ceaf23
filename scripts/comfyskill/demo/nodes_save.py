"""Nodes that write pictures, latents and shapes, with the graph inside where the format can carry it."""

from __future__ import annotations

import io
import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from comfyskill.base.cli import Document
from comfyskill.demo import containers
from comfyskill.demo.call import Call
from comfyskill.demo.node_table import NodeFailure, Result, node
from comfyskill.demo.nodes_pictures import crop, need_images
from comfyskill.demo.values import Images, Latent, Mesh, recipe

if TYPE_CHECKING:
    from PIL.Image import Image

STOPPED = "Saving image outside the output folder is not allowed."


def place(call: Call, kind: str, prefix: str, width: int = 0, height: int = 0) -> tuple[Path, str, int, str]:
    """Folder, name, counter and subfolder for new files. Fails as the real nodes do when the prefix leaves the folder."""
    try:
        return call.folders.next_file(kind, prefix, width, height)
    except RuntimeError as error:
        raise NodeFailure("Exception", f"**** ERROR: {STOPPED}\n {error}") from error


def entry(name: str, subfolder: str, kind: str) -> dict[str, str]:
    return {"filename": name, "subfolder": subfolder, "type": kind}


def write_png(picture: Image, path: Path, metadata: Document, level: int) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in metadata.items():
        info.add_text(key, json.dumps(value))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info, compress_level=level)
    path.write_bytes(buffer.getvalue())


def save_pictures(call: Call, images: object, kind: str, prefix: str, level: int) -> list[dict[str, str]]:
    """The entries of pictures, saved one by one."""
    images = need_images(images, "images")
    folder, name, counter, subfolder = place(call, kind, prefix, images.width, images.height)
    saved = []
    for number, picture in enumerate(images.frames):
        file = f"{name.replace('%batch_num%', str(number))}_{counter:05}_.png"
        write_png(picture, folder / file, call.metadata, level)
        call.folders.took(folder, name, counter)
        saved.append(entry(file, subfolder, kind))
        counter += 1
    return saved


def save_temporary(call: Call, images: object, prefix: str = "ComfyUI") -> list[dict[str, str]]:
    """The entries of pictures that are only shown."""
    letters = call.engine.temp_letters(call.node_id, call.cls.name)
    return save_pictures(call, images, "temp", f"{prefix}_temp_{letters}", 1)


@node("SaveImage", heavy=True)
def save_image(call: Call, images: object, filename_prefix: str = "ComfyUI") -> Result:
    return Result(ui={"images": save_pictures(call, images, "output", filename_prefix, 4)})


@node("PreviewImage", "MaskPreview", heavy=True)
def preview_image(call: Call, images: object = None, mask: object = None) -> Result:
    return Result(ui={"images": save_temporary(call, images if images is not None else mask)})


@node("ImageCropV2")
def crop_and_show(call: Call, image: Images, crop_region: Mapping[str, int]) -> Result:
    """The part of a picture, which the editor shows although the node is not an output."""
    part = crop(call, image, *(crop_region[key] for key in ("width", "height", "x", "y")))
    return Result((part,), ui={"images": save_temporary(call, part), "animated": [False]})


@node("ImageCompare", heavy=True)
def compare(call: Call, image_a: object = None, image_b: object = None, **_rest: object) -> Result:
    sides = {"a": image_a, "b": image_b}
    shown = {
        f"{side}_images": save_temporary(call, images, f"comfy.compare.{side}") if images is not None else []
        for side, images in sides.items()
    }
    return Result(ui=shown)


# Never cached: the server keeps no copy that a second run could be answered with.
@node("SaveImageWebsocket", changes=lambda _inputs, _folders: time.time())
async def over_socket(call: Call, images: Images) -> Result:
    total = len(need_images(images, "images").frames)
    for number, picture in enumerate(images.frames):
        await call.progress(number, total, picture, form="PNG", size=0)
    return Result(ui={})


@node("SaveLatent")
def save_latent(call: Call, samples: Latent, filename_prefix: str) -> Result:
    """A valid safetensors file that holds one small tensor: enough to be downloaded and read."""
    folder, name, counter, subfolder = place(call, "output", filename_prefix)
    file = f"{name}_{counter:05}_.latent"
    shape = [samples.batch, 4, max(1, samples.height // 64), max(1, samples.width // 64)]
    count = shape[0] * shape[1] * shape[2] * shape[3]
    header = {
        "__metadata__": {key: json.dumps(value) for key, value in call.metadata.items()}
        | {"demo": "not generated"},
        "latent_tensor": {"dtype": "F32", "shape": shape, "data_offsets": [0, count * 4]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + bytes(count * 4))
    call.folders.took(folder, name, counter)
    return Result(ui={"latents": [entry(file, subfolder, "output")]})


@node("SaveGLB", "Preview3D")
def save_shape(
    call: Call, mesh: object = None, filename_prefix: str = "mesh/ComfyUI", **_rest: object
) -> Result:
    made = mesh if isinstance(mesh, Mesh) else Mesh(recipe(str(mesh)))
    folder, name, counter, subfolder = place(call, "output", filename_prefix)
    file = f"{name}_{counter:05}_.glb"
    (folder / file).write_bytes(containers.box_glb(made.recipe, call.metadata))
    call.folders.took(folder, name, counter)
    return Result(ui={"3d": [entry(file, subfolder, "output")]})
