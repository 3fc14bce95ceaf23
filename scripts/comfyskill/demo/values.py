"""The values on the links of a graph: pictures, latents, sounds, and simulated ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from comfyskill.base.cli import Document

if TYPE_CHECKING:
    from PIL.Image import Image


def recipe(*parts: object) -> str:
    """A short text that is the same for the same parts, in any process on any machine."""
    text = json.dumps(parts, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Images:
    """A batch of pictures (IMAGE), or of masks (MASK, mode L)."""

    frames: tuple[Image, ...]

    @classmethod
    def of(cls, frames: Sequence[Image]) -> Images:
        return cls(tuple(frames))

    @property
    def width(self) -> int:
        return self.frames[0].width if self.frames else 0

    @property
    def height(self) -> int:
        return self.frames[0].height if self.frames else 0

    @property
    def pixels(self) -> int:
        return sum(frame.width * frame.height for frame in self.frames)

    def __str__(self) -> str:
        return f"tensor(shape=[{len(self.frames)}, {self.height}, {self.width}])"


@dataclass(frozen=True)
class Thing:
    """A simulated value: a model, an encoder, conditioning, a sampler, a guider …

    `recipe` names everything that went into it; `text` is the prompt that it carries, if any.
    """

    kind: str
    label: str
    recipe: str
    text: str = ""
    negative: str = ""
    details: Document = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"<demo {self.kind} {self.label}>"


@dataclass(frozen=True)
class Latent:
    """A picture, a clip, a sound or a shape before decoding. Sizes are those after decoding."""

    width: int = 512
    height: int = 512
    batch: int = 1
    frames: int = 1
    kind: str = "image"
    seconds: float = 0.0
    recipe: str = ""
    prompt: str = ""
    negative: str = ""
    seed: int | None = None
    source: Images | None = None
    mask: Images | None = None
    denoise: float = 1.0
    model: str = ""

    def __str__(self) -> str:
        return f"tensor(latent {self.kind} {self.batch}x{self.frames}x{self.height}x{self.width})"


@dataclass(frozen=True)
class Sound:
    """A sound; it is written as silence of this length."""

    seconds: float
    recipe: str
    rate: int = 44_100

    def __str__(self) -> str:
        return f"<demo sound {self.seconds} s>"


@dataclass(frozen=True)
class Clip:
    """Pictures with a frame rate and optional sound (VIDEO)."""

    images: Images
    rate: float
    sound: Sound | None = None
    path: str = ""

    def __str__(self) -> str:
        return f"<demo clip of {len(self.images.frames)} frames at {self.rate}/s>"


@dataclass(frozen=True)
class Mesh:
    """A shape (MESH): a box whose sides follow the recipe."""

    recipe: str

    def __str__(self) -> str:
        return "<demo mesh>"


class Blocked:
    """Replaces a missing value: nodes that need it do not run. With a message, the run reports it."""

    def __init__(self, message: str | None = None) -> None:
        self.message = message
