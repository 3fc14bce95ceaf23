"""Draws pictures without a model, each with a notice that says so."""

from __future__ import annotations

import io
import random
import textwrap
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from comfyskill.demo.values import Latent

if TYPE_CHECKING:
    from PIL.Image import Image

NOTICE = "demo - not generated"
SMALLEST_WITH_TEXT = 96


def draw_latent(latent: Latent, index: int, frame: int = 0) -> Image:
    """The picture that a latent decodes to. The same latent and position always give the same pixels."""
    picture = background(f"{latent.recipe}/{index}", latent.width, latent.height, _phase(latent, frame))
    if latent.source is not None and latent.source.frames:
        source = latent.source.frames[min(index, len(latent.source.frames) - 1)].convert("RGB")
        source = source.resize(picture.size)
        picture = _blend(source, picture, latent, index)
    return caption(picture, latent.prompt, _facts(latent, index, frame))


def _phase(latent: Latent, frame: int) -> float:
    return frame / max(1, latent.frames - 1) if latent.frames > 1 else 0.0


def _blend(source: Image, painted: Image, latent: Latent, index: int) -> Image:
    from PIL import Image as pil

    mixed = pil.blend(source, painted, max(0.0, min(1.0, latent.denoise)))
    if latent.mask is None or not latent.mask.frames:
        return mixed
    mask = latent.mask.frames[min(index, len(latent.mask.frames) - 1)].convert("L").resize(source.size)
    return pil.composite(mixed, source, mask)


def _facts(latent: Latent, index: int, frame: int) -> str:
    facts = [] if latent.seed is None else [f"seed {latent.seed}"]
    if latent.batch > 1:
        facts.append(f"picture {index + 1} of {latent.batch}")
    if latent.frames > 1:
        facts.append(f"frame {frame + 1} of {latent.frames}")
    if latent.model:
        facts.append(latent.model)
    return ", ".join(facts)


def background(recipe: str, width: int, height: int, phase: float = 0.0) -> Image:
    """Soft colours and a few discs that follow the recipe; `phase` (0 to 1) moves the discs."""
    from PIL import Image as pil
    from PIL import ImageDraw

    chance = random.Random(recipe)
    small = pil.new("RGB", (4, 4))
    small.putdata(
        [(chance.randrange(40, 220), chance.randrange(40, 220), chance.randrange(40, 220)) for _ in range(16)]
    )
    picture = small.resize((max(1, width), max(1, height)), pil.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    reach = min(width, height)
    for _ in range(5):
        colour = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
        x, y, radius = (
            chance.random() * width,
            chance.random() * height,
            reach * (0.04 + chance.random() * 0.12),
        )
        x += (chance.random() - 0.5) * width * phase
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), outline=colour, width=max(1, reach // 128)
        )
    return picture


def caption(picture: Image, prompt: str, facts: str) -> Image:
    """The picture with the notice, the prompt and the facts in a band at its foot (changes the picture)."""
    from PIL import ImageDraw

    width, height = picture.size
    if min(width, height) < SMALLEST_WITH_TEXT:
        return picture
    size = max(9, min(width, height) // 28)
    letters = max(8, int(width / (size * 0.55)))
    lines = [
        NOTICE,
        *textwrap.wrap(_printable(prompt), letters)[:3],
        *textwrap.wrap(_printable(facts), letters)[:2],
    ]
    draw = ImageDraw.Draw(picture)
    top = height - int(size * 1.35 * len(lines)) - size // 2
    draw.rectangle((0, top, width, height), fill=(16, 16, 16))
    for index, line in enumerate(lines):
        colour = (255, 210, 80) if index == 0 else (235, 235, 235)
        draw.text(
            (size // 2, top + size // 3 + int(index * size * 1.35)), line, fill=colour, font=_font(size)
        )
    return picture


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:600])


@lru_cache(maxsize=16)
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def encode_preview(picture: Image, form: str, size: int) -> bytes:
    """A preview as JPEG or PNG, its longer edge at most `size` pixels (0: as it is)."""
    picture = picture.convert("RGB")
    if size > 0:
        picture.thumbnail((size, size))
    buffer = io.BytesIO()
    picture.save(buffer, form, **({"quality": 85} if form == "JPEG" else {"compress_level": 1}))
    return buffer.getvalue()


def preview_of(recipe: str, width: int, height: int, share: float) -> Image:
    """A sampler's preview: noise that turns into the picture."""
    from PIL import Image as pil

    scale = min(1.0, 128 / max(1, width, height))
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    clear = background(recipe, *size)
    noise = pil.effect_noise(size, 90).convert("RGB")
    return pil.blend(noise, clear, max(0.0, min(1.0, share)))
