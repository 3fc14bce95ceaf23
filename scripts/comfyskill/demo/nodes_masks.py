"""Nodes that compute with masks as the real ones do (pictures of mode L, white = full)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfyskill.demo.call import Call
from comfyskill.demo.node_table import node
from comfyskill.demo.nodes_pictures import each, file_changed, need_images, open_picture, resized
from comfyskill.demo.values import Images

if TYPE_CHECKING:
    from PIL.Image import Image


@node("LoadImageMask", changes=file_changed)
def load_mask(call: Call, image: str, channel: str) -> Images:
    from PIL import Image as pil

    picture = open_picture(call, image)
    if channel == "alpha":
        if "A" not in picture.getbands():
            return Images((pil.new("L", (64, 64), 0),))
        return Images((picture.getchannel("A").point(lambda value: 255 - value),))
    band = {"red": "R", "green": "G", "blue": "B"}[channel]
    return Images((picture.convert("RGB").getchannel(band),))


@node("SolidMask")
def solid(call: Call, value: float, width: int, height: int) -> Images:
    from PIL import Image as pil

    return Images((pil.new("L", (width, height), round(value * 255)),))


@node("InvertMask")
def inverted(call: Call, mask: Images) -> Images:
    from PIL import ImageChops

    return each(need_images(mask, "mask"), ImageChops.invert)


@node("MaskToImage")
def to_image(call: Call, mask: Images) -> Images:
    return each(need_images(mask, "mask"), lambda frame: frame.convert("RGB"))


@node("ImageToMask")
def to_mask(call: Call, image: Images, channel: str) -> Images:
    bands = {"red": "R", "green": "G", "blue": "B", "alpha": "A"}

    def band(frame: Image) -> Image:
        return frame.convert("RGBA" if channel == "alpha" else "RGB").getchannel(bands[channel])

    return each(need_images(image, "image"), band)


@node("ImageColorToMask")
def colour_to_mask(call: Call, image: Images, color: int) -> Images:
    from PIL import Image as pil
    from PIL import ImageChops

    wanted = (color >> 16 & 255, color >> 8 & 255, color & 255)

    def match(frame: Image) -> Image:
        bands = ImageChops.difference(frame.convert("RGB"), pil.new("RGB", frame.size, wanted)).split()
        worst = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
        return worst.point(lambda value: 255 if value == 0 else 0)

    return each(need_images(image, "image"), match)


@node("CropMask")
def crop_mask(call: Call, mask: Images, x: int, y: int, width: int, height: int) -> Images:
    return each(need_images(mask, "mask"), lambda frame: frame.crop((x, y, x + width, y + height)))


@node("GrowMask")
def grow(call: Call, mask: Images, expand: int, tapered_corners: bool) -> Images:
    from PIL import ImageFilter

    def grown(frame: Image) -> Image:
        steps = min(abs(expand), 100)
        if not tapered_corners:
            size = 2 * steps + 1
            return frame.filter(ImageFilter.MaxFilter(size) if expand > 0 else ImageFilter.MinFilter(size))
        for _ in range(steps):
            frame = _with_neighbours(frame, expand > 0)
        return frame

    return each(need_images(mask, "mask"), lambda frame: grown(frame) if expand else frame)


def _with_neighbours(frame: Image, lighter: bool) -> Image:
    """Each point and the four beside it, the lightest or the darkest of them."""
    from PIL import Image as pil
    from PIL import ImageChops

    choose = ImageChops.lighter if lighter else ImageChops.darker
    chosen = frame
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        moved = pil.new("L", frame.size, 0 if lighter else 255)
        moved.paste(frame, (dx, dy))
        chosen = choose(chosen, moved)
    return chosen


@node("ThresholdMask")
def threshold(call: Call, mask: Images, value: float) -> Images:
    limit = value * 255
    return each(
        need_images(mask, "mask"), lambda frame: frame.point(lambda level: 255 if level > limit else 0)
    )


@node("FeatherMask")
def feather(call: Call, mask: Images, left: int, top: int, right: int, bottom: int) -> Images:
    from PIL import Image as pil
    from PIL import ImageChops

    def soft(frame: Image) -> Image:
        ramp = pil.new("L", frame.size, 255)
        for size, horizontal, far in (
            (left, True, False),
            (right, True, True),
            (top, False, False),
            (bottom, False, True),
        ):
            for step in range(min(size, frame.width if horizontal else frame.height)):
                level = round(255 * (step + 1) / max(1, size))
                # 0.8 counts from the far side by -step, so its first step is the near edge.
                behind = step + 1 if call.options.newest else step
                spot = -behind % (frame.width if horizontal else frame.height) if far else step
                box = (spot, 0, spot + 1, frame.height) if horizontal else (0, spot, frame.width, spot + 1)
                ramp.paste(
                    ImageChops.multiply(
                        ramp.crop(box), pil.new("L", (box[2] - box[0], box[3] - box[1]), level)
                    ),
                    box,
                )
        return ImageChops.multiply(frame, ramp)

    return each(need_images(mask, "mask"), soft)


@node("MaskComposite")
def composite_masks(
    call: Call, destination: Images, source: Images, x: int, y: int, operation: str
) -> Images:
    from PIL import ImageChops

    works = {
        "multiply": ImageChops.multiply,
        "add": ImageChops.add,
        "subtract": ImageChops.subtract,
        "and": ImageChops.darker,
        "or": ImageChops.lighter,
        "xor": ImageChops.difference,
    }
    part = need_images(source, "source").frames[0]

    def put(frame: Image) -> Image:
        frame = frame.copy()
        box = (x, y, min(x + part.width, frame.width), min(y + part.height, frame.height))
        if box[2] > box[0] and box[3] > box[1]:
            piece = part.crop((0, 0, box[2] - box[0], box[3] - box[1]))
            frame.paste(works[operation](frame.crop(box), piece), box)
        return frame

    return each(need_images(destination, "destination"), put)


@node("ImageCompositeMasked", heavy=True)
def composite(
    call: Call,
    destination: Images,
    source: Images,
    x: int,
    y: int,
    resize_source: bool,
    mask: Images | None = None,
) -> Images:
    destination = need_images(destination, "destination")
    source = need_images(source, "source")
    if resize_source:
        source = resized(source, destination.width, destination.height, "bilinear")
    frames = []
    for index, frame in enumerate(destination.frames):
        part = source.frames[min(index, len(source.frames) - 1)]
        cover = None
        if mask is not None and mask.frames:
            cover = mask.frames[min(index, len(mask.frames) - 1)].convert("L").resize(part.size)
        result = frame.copy()
        result.paste(part.convert("RGB"), (x, y), cover)
        frames.append(result)
    return Images(tuple(frames))


@node("JoinImageWithAlpha")
def join_alpha(call: Call, image: Images, alpha: Images) -> Images:
    from PIL import ImageChops

    frames = []
    for index, frame in enumerate(need_images(image, "image").frames):
        cover = ImageChops.invert(
            need_images(alpha, "alpha").frames[min(index, len(alpha.frames) - 1)].resize(frame.size)
        )
        joined = frame.convert("RGBA")
        joined.putalpha(cover)
        frames.append(joined)
    return Images(tuple(frames))


@node("SplitImageWithAlpha")
def split_alpha(call: Call, image: Images) -> tuple[Images, Images]:
    from PIL import ImageChops

    image = need_images(image, "image")
    alphas = each(image, lambda frame: ImageChops.invert(frame.convert("RGBA").getchannel("A")))
    return each(image, lambda frame: frame.convert("RGB")), alphas
