"""Nodes that compute with pictures as the real ones do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from comfyskill.base import picture_files
from comfyskill.base.cli import Document
from comfyskill.demo.call import Call
from comfyskill.demo.custom_checks import annotated
from comfyskill.demo.folders import Folders
from comfyskill.demo.node_table import NodeFailure, node
from comfyskill.demo.values import Images

if TYPE_CHECKING:
    from PIL.Image import Image


def each(images: Images, work: Callable[[Image], Image]) -> Images:
    return Images(tuple(work(frame) for frame in images.frames))


def need_images(value: object, _name: str) -> Images:
    """The value, if it is pictures. A literal passes validation and fails here, as on the real server."""
    if isinstance(value, Images):
        return value
    raise NodeFailure("AttributeError", f"'{type(value).__name__}' object has no attribute 'shape'")


def resampling(method: str) -> Any:
    from PIL import Image as pil

    return {
        "nearest-exact": pil.Resampling.NEAREST,
        "nearest": pil.Resampling.NEAREST,
        "bilinear": pil.Resampling.BILINEAR,
        "area": pil.Resampling.BOX,
        "bicubic": pil.Resampling.BICUBIC,
        "lanczos": pil.Resampling.LANCZOS,
    }.get(method, pil.Resampling.BICUBIC)


def resized(images: Images, width: int, height: int, method: str, crop: str = "disabled") -> Images:
    width, height = max(1, width), max(1, height)
    how = resampling(method)
    if crop != "center":
        return each(images, lambda frame: frame.resize((width, height), how))

    def fit(frame: Image) -> Image:
        scale = max(width / frame.width, height / frame.height)
        wide, high = width / scale, height / scale
        left, top = (frame.width - wide) / 2, (frame.height - high) / 2
        return frame.resize((width, height), how, box=(left, top, left + wide, top + high))

    return each(images, fit)


def file_changed(inputs: Mapping[str, Any], folders: Folders) -> Any:
    """A file's size and time, so that a replaced file is read again."""
    name = (
        inputs.get("image")
        or inputs.get("audio")
        or inputs.get("file")
        or inputs.get("video")
        or inputs.get("latent")
    )
    path = annotated(str(name), folders)
    if path is None or not path.is_file():
        return None
    found = path.stat()
    return (found.st_size, found.st_mtime_ns)


def open_picture(call: Call, name: str) -> Image:
    from PIL import ImageOps

    path = annotated(name, call.folders)
    if path is None:
        raise FileNotFoundError(f"Invalid image file: {name}")
    try:
        with picture_files.open_picture(path) as opened:
            opened.load()
            return ImageOps.exif_transpose(opened)
    except picture_files.BadPicture as error:
        raise NodeFailure("PIL.UnidentifiedImageError", f"cannot identify image file '{name}'") from error


@node("EmptyImage")
def empty_image(
    call: Call, width: int = 512, height: int = 512, batch_size: int = 1, color: int = 0
) -> Images:
    from PIL import Image as pil

    rgb = (color >> 16 & 255, color >> 8 & 255, color & 255)
    picture = pil.new("RGB", (width, height), rgb)
    return Images((picture,) * batch_size)


@node("LoadImage", "LoadImageOutput", changes=file_changed)
def load_image(call: Call, image: str) -> tuple[Images, Images]:
    from PIL import Image as pil

    picture = open_picture(call, image)
    if "A" in picture.getbands():
        alpha = picture.getchannel("A")
        mask = alpha.point(lambda value: 255 - value)
    else:
        # A picture without alpha gives a small empty mask.
        mask = pil.new("L", (64, 64), 0)
    return Images((picture.convert("RGB"),)), Images((mask,))


@node("ImageScale", heavy=True)
def scale(call: Call, image: Images, upscale_method: str, width: int, height: int, crop: str) -> Images:
    image = need_images(image, "image")
    if width == 0 and height == 0:
        return image
    width = width or max(1, round(image.width * height / image.height))
    height = height or max(1, round(image.height * width / image.width))
    return resized(image, width, height, upscale_method, crop)


@node("ImageScaleBy", heavy=True)
def scale_by(call: Call, image: Images, upscale_method: str, scale_by: float) -> Images:
    image = need_images(image, "image")
    return resized(image, round(image.width * scale_by), round(image.height * scale_by), upscale_method)


@node("ImageScaleToTotalPixels", heavy=True)
def scale_to_pixels(
    call: Call, image: Images, upscale_method: str, megapixels: float, resolution_steps: int = 1
) -> Images:
    image = need_images(image, "image")
    ratio = math.sqrt(megapixels * 1024 * 1024 / (image.width * image.height))
    return resized(image, round(image.width * ratio), round(image.height * ratio), upscale_method)


@node("ImageScaleToMaxDimension", heavy=True)
def scale_to_edge(call: Call, image: Images, upscale_method: str, largest_size: int) -> Images:
    image = need_images(image, "image")
    ratio = largest_size / max(image.width, image.height)
    return resized(image, round(image.width * ratio), round(image.height * ratio), upscale_method)


@node("FluxKontextImageScale", heavy=True)
def scale_for_kontext(call: Call, image: Images) -> Images:
    image = need_images(image, "image")
    ratio = math.sqrt(1024 * 1024 / (image.width * image.height))
    return resized(
        image,
        round(image.width * ratio / 16) * 16,
        round(image.height * ratio / 16) * 16,
        "lanczos",
        "center",
    )


@node("ImageInvert", heavy=True)
def invert(call: Call, image: Images) -> Images:
    from PIL import ImageChops

    return each(need_images(image, "image"), lambda frame: ImageChops.invert(frame.convert("RGB")))


@node("ImageBlend", heavy=True)
def blend(call: Call, image1: Images, image2: Images, blend_factor: float, blend_mode: str) -> Images:
    from PIL import Image as pil
    from PIL import ImageChops

    modes: dict[str, Callable[[Image, Image], Image]] = {
        "multiply": ImageChops.multiply,
        "screen": ImageChops.screen,
        "overlay": ImageChops.overlay,
        "soft_light": ImageChops.soft_light,
        "difference": ImageChops.subtract,  # below 0 is cut off
    }
    first, second = need_images(image1, "image1"), need_images(image2, "image2")
    frames = []
    for index, frame in enumerate(first.frames):
        other = second.frames[min(index, len(second.frames) - 1)].convert("RGB").resize(frame.size)
        mixed = modes[blend_mode](frame, other) if blend_mode in modes else other
        frames.append(pil.blend(frame, mixed, blend_factor))
    return Images(tuple(frames))


@node("ImageBlur", heavy=True)
def blur(call: Call, image: Images, blur_radius: int, sigma: float) -> Images:
    from PIL import ImageFilter

    return each(need_images(image, "image"), lambda frame: frame.filter(ImageFilter.GaussianBlur(sigma)))


@node("ImageSharpen", heavy=True)
def sharpen(call: Call, image: Images, sharpen_radius: int, sigma: float, alpha: float) -> Images:
    from PIL import ImageFilter

    how = ImageFilter.UnsharpMask(sharpen_radius, round(alpha * 100), 0)
    return each(need_images(image, "image"), lambda frame: frame.filter(how))


@node("ImageQuantize", heavy=True)
def quantize(call: Call, image: Images, colors: int, dither: str) -> Images:
    return each(need_images(image, "image"), lambda frame: frame.quantize(max(1, colors)).convert("RGB"))


@node("ImageCrop")
def crop(call: Call, image: Images, width: int, height: int, x: int, y: int) -> Images:
    image = need_images(image, "image")
    x, y = min(x, image.width - 1), min(y, image.height - 1)
    box = (x, y, min(x + width, image.width), min(y + height, image.height))
    return each(image, lambda frame: frame.crop(box))


@node("ImageFlip")
def flip(call: Call, image: Images, flip_method: str) -> Images:
    from PIL import ImageOps

    turn = ImageOps.flip if flip_method.startswith("x") else ImageOps.mirror
    return each(need_images(image, "image"), turn)


@node("ImageRotate")
def rotate(call: Call, image: Images, rotation: str) -> Images:
    degrees = next((number for number in (90, 180, 270) if str(number) in rotation), 0)
    return each(need_images(image, "image"), lambda frame: frame.rotate(-degrees, expand=True))


@node("ImageBatch")
def batch(call: Call, image1: Images, image2: Images) -> Images:
    first, second = need_images(image1, "image1"), need_images(image2, "image2")
    return Images(first.frames + resized(second, first.width, first.height, "bilinear", "center").frames)


@node("BatchImagesNode")
def batch_many(call: Call, **images: Images) -> Images:
    if not images:
        raise NodeFailure(
            "TypeError", "BatchImagesNode.execute() missing 1 required positional argument: 'images'"
        )
    first = next(iter(images.values()))
    frames: list[Image] = []
    for value in images.values():
        frames += resized(
            need_images(value, "images"), first.width, first.height, "bilinear", "center"
        ).frames
    return Images(tuple(frames))


@node("ImageFromBatch")
def from_batch(call: Call, image: Images, batch_index: int, length: int) -> Images:
    frames = need_images(image, "image").frames
    start = min(batch_index, len(frames) - 1)
    return Images(frames[start : start + max(1, length)])


@node("RepeatImageBatch")
def repeat(call: Call, image: Images, amount: int) -> Images:
    return Images(need_images(image, "image").frames * amount)


@node("RebatchImages", takes_lists=True)
def rebatch(call: Call, images: list[Images], batch_size: list[int]) -> tuple[list[Images]]:
    frames = [frame for value in images for frame in value.frames]
    size = max(1, batch_size[0])
    return ([Images(tuple(frames[start : start + size])) for start in range(0, len(frames), size)],)


@node("ImagePadForOutpaint")
def pad(
    call: Call, image: Images, left: int, top: int, right: int, bottom: int, feathering: int
) -> tuple[Images, Images]:
    from PIL import Image as pil

    image = need_images(image, "image")
    size = (image.width + left + right, image.height + top + bottom)

    def padded(frame: Image) -> Image:
        wide = pil.new("RGB", size, (128, 128, 128))
        wide.paste(frame, (left, top))
        return wide

    mask = pil.new("L", size, 255)
    mask.paste(0, (left, top, left + image.width, top + image.height))
    return each(image, padded), Images((mask,))


@node("GetImageSize")
def size_of(call: Call, image: Images) -> tuple[int, int, int]:
    image = need_images(image, "image")
    text = f"width: {image.width}, height: {image.height}\n batch size: {len(image.frames)}"
    call.engine.hub.send_text(call.node_id, text, call.run.client_id)
    return image.width, image.height, len(image.frames)


@node("ResizeImageMaskNode", heavy=True)
def resize_any(
    call: Call, input: Images, scale_method: str, resize_type: str | None = None, **sub: Any
) -> Images:
    if resize_type is None:
        raise NodeFailure(
            "TypeError", "ResizeImageMaskNode.execute() missing 1 required positional argument: 'resize_type'"
        )
    image = need_images(input, "input")
    width, height = image.width, image.height
    target = _target(
        resize_type, width, height, {key.removeprefix("resize_type_"): value for key, value in sub.items()}
    )
    return resized(image, *target, scale_method, str(sub.get("resize_type_crop", "disabled")))


def _target(kind: str, width: int, height: int, sub: Document) -> tuple[int, int]:
    ratio = 1.0
    if kind == "scale dimensions":
        return int(sub["width"]) or width, int(sub["height"]) or height
    if kind == "match size":
        return sub["match"].width, sub["match"].height
    if kind == "scale by multiplier":
        ratio = float(sub["multiplier"])
    elif kind == "scale longer dimension":
        ratio = sub["longer_size"] / max(width, height)
    elif kind == "scale shorter dimension":
        ratio = sub["shorter_size"] / min(width, height)
    elif kind == "scale width":
        ratio = sub["width"] / width
    elif kind == "scale height":
        ratio = sub["height"] / height
    elif kind == "scale total pixels":
        ratio = math.sqrt(float(sub["megapixels"]) * 1024 * 1024 / (width * height))
    return round(width * ratio), round(height * ratio)


@node("AdjustBrightness", "AdjustContrast", heavy=True)
def adjust(call: Call, images: Images, factor: float) -> Images:
    from PIL import ImageEnhance

    kind = ImageEnhance.Brightness if call.cls.name == "AdjustBrightness" else ImageEnhance.Contrast
    return each(need_images(images, "images"), lambda frame: kind(frame).enhance(factor))


@node("ImageUpscaleWithModel", heavy=True)
def upscale(call: Call, upscale_model: Any, image: Images) -> Images:
    """A plain enlargement by the factor in the model's name, marked as made without a model."""
    from comfyskill.demo import pictures

    image = need_images(image, "image")
    factor = next(
        (
            number
            for number in (8, 4, 3, 2)
            if f"{number}x" in upscale_model.label.lower().replace("x" + str(number), f"{number}x")
        ),
        4,
    )
    large = resized(image, image.width * factor, image.height * factor, "bicubic")
    facts = f"enlarged {factor}x, {upscale_model.label}"
    return each(large, lambda frame: pictures.caption(frame.convert("RGB"), "", facts))


@node("Canny", heavy=True)
def edges(call: Call, image: Images, low_threshold: float, high_threshold: float) -> Images:
    from PIL import ImageFilter

    return each(
        need_images(image, "image"),
        lambda frame: frame.convert("L").filter(ImageFilter.FIND_EDGES).convert("RGB"),
    )
