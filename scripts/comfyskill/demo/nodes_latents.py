"""Latents: empty ones, encoded pictures, and what decodes them. Only the shape and the recipe are real."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfyskill.demo import generic, pictures
from comfyskill.demo.call import Call
from comfyskill.demo.node_table import node
from comfyskill.demo.nodes_pictures import need_images, resized
from comfyskill.demo.values import Images, Latent, Mesh, Sound, recipe


@node(
    "EmptyLatentImage",
    "EmptySD3LatentImage",
    "EmptyFlux2LatentImage",
    "EmptyHunyuanImageLatent",
    "EmptyChromaRadianceLatentImage",
)
def empty(call: Call, width: int, height: int, batch_size: int = 1) -> Latent:
    return Latent(width, height, batch_size, recipe=recipe("empty", width, height))


@node(
    "EmptyHunyuanLatentVideo",
    "EmptyLTXVLatentVideo",
    "EmptyMochiLatentVideo",
    "EmptyCosmosLatentVideo",
    "EmptyHunyuanVideo15Latent",
)
def empty_video(call: Call, width: int, height: int, length: int, batch_size: int = 1) -> Latent:
    return Latent(width, height, batch_size, length, "video", recipe=recipe("empty", width, height, length))


@node("Wan22ImageToVideoLatent")
def empty_wan(
    call: Call,
    width: int,
    height: int,
    length: int,
    batch_size: int = 1,
    vae: object = None,
    start_image: Images | None = None,
) -> Latent:
    return Latent(
        width,
        height,
        batch_size,
        length,
        "video",
        recipe=recipe("wan22", width, height, length),
        source=start_image,
        denoise=0.7,
    )


@node("EmptyAceStepLatentAudio", "EmptyLatentAudio")
def empty_audio(call: Call, seconds: float, batch_size: int = 1) -> Latent:
    return Latent(1, 1, batch_size, 1, "audio", seconds=float(seconds), recipe=recipe("audio", seconds))


@node("EmptyLatentHunyuan3Dv2")
def empty_shape(call: Call, resolution: int, batch_size: int = 1) -> Latent:
    return Latent(1, 1, batch_size, 1, "3d", recipe=recipe("shape", resolution))


@node("VAEEncode", "VAEEncodeTiled")
def encode(call: Call, pixels: Images, vae: object, **_rest: object) -> Latent:
    pixels = need_images(pixels, "pixels")
    width, height = pixels.width // 8 * 8 or 8, pixels.height // 8 * 8 or 8
    return Latent(
        width, height, len(pixels.frames), recipe=recipe("encoded", generic.mark(pixels)), source=pixels
    )


@node("VAEEncodeForInpaint")
def encode_inpaint(call: Call, pixels: Images, vae: object, mask: Images, grow_mask_by: int = 6) -> Latent:
    latent: Latent = encode(call, pixels, vae)
    return replace(latent, mask=mask, recipe=recipe(latent.recipe, generic.mark(mask)))


@node("SetLatentNoiseMask")
def set_mask(call: Call, samples: Latent, mask: Images) -> Latent:
    return replace(samples, mask=mask, recipe=recipe(samples.recipe, generic.mark(mask)))


@node("LatentUpscale", "LatentUpscaleBy")
def upscale(
    call: Call,
    samples: Latent,
    upscale_method: str,
    width: int = 0,
    height: int = 0,
    crop: str = "",
    scale_by: float = 1.0,
) -> Latent:
    if call.cls.name == "LatentUpscaleBy":
        width, height = round(samples.width * scale_by), round(samples.height * scale_by)
    return replace(samples, width=width or samples.width, height=height or samples.height)


@node("LatentFromBatch")
def from_batch(call: Call, samples: Latent, batch_index: int, length: int) -> Latent:
    return replace(
        samples,
        batch=max(1, min(length, samples.batch - batch_index)),
        recipe=recipe(samples.recipe, batch_index),
    )


@node("RepeatLatentBatch")
def repeat(call: Call, samples: Latent, amount: int) -> Latent:
    return replace(samples, batch=samples.batch * amount)


@node("VAEDecode", "VAEDecodeTiled", heavy=True)
def decode(call: Call, samples: Latent, vae: object, **_rest: object) -> Images:
    if samples.seed is None and samples.source is not None:
        # Not sampled: decoding gives back the pictures that were encoded.
        return resized(samples.source, samples.width, samples.height, "bicubic")
    frames = [
        pictures.draw_latent(samples, index, frame)
        for index in range(samples.batch)
        for frame in range(samples.frames)
    ]
    return Images(tuple(frames))


@node("VAEDecodeAudio")
def decode_audio(call: Call, samples: Latent, vae: object, **_rest: object) -> Sound:
    return Sound(min(samples.seconds, 600.0) or 1.0, samples.recipe)


@node("VAEDecodeHunyuan3D")
def decode_shape(call: Call, samples: Latent, vae: object, **_rest: object) -> Any:
    return generic.make("VOXEL", call, {"samples": samples})


@node("VoxelToMesh", "VoxelToMeshBasic")
def to_mesh(call: Call, voxel: Any, **_rest: object) -> Mesh:
    return Mesh(voxel.recipe)
