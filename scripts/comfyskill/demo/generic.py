"""Simulates every class without its own function: values of the right types only."""

from __future__ import annotations

from typing import Any

from comfyskill.base.cli import Document
from comfyskill.demo.call import Call
from comfyskill.demo.node_table import NodeFailure, Result
from comfyskill.demo.values import Clip, Images, Latent, Mesh, Sound, Thing, recipe

UNAUTHORIZED = "Unauthorized: Please login first to use this node."
MODEL_WORDS = (
    "ckpt_name",
    "unet_name",
    "model_name",
    "lora_name",
    "vae_name",
    "clip_name",
    "clip_name1",
    "name",
)
PROMPT_WORDS = ("prompt", "text", "prompt_text", "positive_prompt", "clip_l", "t5xxl", "string")
STANDARD_FRAMES = 8


async def play(call: Call, **inputs: Any) -> Result:
    """One value per output. What comes in with the type of an output goes through, marked in its recipe."""
    if call.cls.api_node:
        await spend(call)
    values = tuple(_value(call, kind, inputs) for kind in call.cls.outputs)
    return Result(values)


async def spend(call: Call) -> None:
    """Simulate a partner node: require a key, then wait. Nothing is spent."""
    if not (call.secret("api_key_comfy_org") or call.secret("auth_token_comfy_org")):
        raise NodeFailure("Exception", UNAUTHORIZED)
    for step in range(1, 4):
        await call.wait(call.options.step_time)
        await call.progress(step, 3)


def prompt_of(inputs: Document) -> str:
    """The text that describes the result, from any input."""
    for word in PROMPT_WORDS:
        if isinstance(inputs.get(word), str) and inputs[word]:
            return str(inputs[word])
    for value in inputs.values():
        if isinstance(value, (Thing, Latent)):
            text = value.text if isinstance(value, Thing) else value.prompt
            if text:
                return text
    return ""


def seed_of(inputs: Document) -> int | None:
    for word in ("seed", "noise_seed"):
        if isinstance(inputs.get(word), int):
            return int(inputs[word])
    return None


def number(inputs: Document, name: str, default: int) -> int:
    value = inputs.get(name, default)
    return int(value) if isinstance(value, (int, float)) and value > 0 else default


def trace(call: Call, inputs: Document) -> str:
    """A recipe for what a class makes of its inputs."""
    return recipe(call.cls.name, {key: mark(value) for key, value in inputs.items()})


def mark(value: Any) -> Any:
    """A value's entry in a recipe."""
    if isinstance(value, (Thing, Latent, Sound, Mesh)):
        return value.recipe
    if isinstance(value, Images):
        return [(frame.size, recipe(frame.tobytes()[:4096].hex())) for frame in value.frames[:4]]
    if isinstance(value, Clip):
        return [mark(value.images), value.rate]
    return value


def _value(call: Call, kind: str, inputs: Document) -> Any:
    for value in inputs.values():
        if _is(kind, value):
            return _marked(value, trace(call, inputs))
    return make(kind, call, inputs)


def _is(kind: str, value: Any) -> bool:
    if isinstance(value, Thing):
        return value.kind == kind
    kinds: dict[str, type | tuple[type, ...]] = {
        "LATENT": Latent,
        "AUDIO": Sound,
        "VIDEO": Clip,
        "MESH": Mesh,
    }
    if kind in kinds:
        return isinstance(value, kinds[kind])
    if kind == "IMAGE":
        return isinstance(value, Images) and bool(value.frames) and value.frames[0].mode != "L"
    if kind == "MASK":
        return isinstance(value, Images) and bool(value.frames) and value.frames[0].mode == "L"
    return False


def _marked(value: Any, text: str) -> Any:
    from dataclasses import replace

    if isinstance(value, (Thing, Latent)):
        return replace(value, recipe=recipe(value.recipe, text))
    return value


def make(kind: str, call: Call, inputs: Document) -> Any:
    """A new value of a type, from nothing but the inputs' recipe."""
    text = trace(call, inputs)
    width, height = number(inputs, "width", 512), number(inputs, "height", 512)
    if kind == "LATENT":
        return Latent(
            width, height, number(inputs, "batch_size", 1), number(inputs, "length", 1), recipe=text
        )
    if kind in ("IMAGE", "MASK", "VIDEO"):
        return _picture(kind, call, inputs, text, width, height)
    if kind == "AUDIO":
        return Sound(float(number(inputs, "seconds", 2)), text)
    if kind == "MESH":
        return Mesh(text)
    if kind == "INT":
        return number(inputs, "value", 0) if "value" in inputs else width
    if kind == "FLOAT":
        return float(inputs.get("value", 1.0)) if isinstance(inputs.get("value", 1.0), (int, float)) else 1.0
    if kind == "BOOLEAN":
        return bool(inputs.get("value", False))
    if kind in ("STRING", "COMBO"):
        return prompt_of(inputs)
    label = next((str(inputs[word]) for word in MODEL_WORDS if inputs.get(word)), call.cls.name)
    return Thing(kind, label, text, text=prompt_of(inputs))


def _picture(kind: str, call: Call, inputs: Document, text: str, width: int, height: int) -> Any:
    from PIL import Image as pil

    from comfyskill.demo import pictures

    if kind == "MASK":
        return Images((pil.new("L", (width, height), 255),))
    frames = STANDARD_FRAMES if kind == "VIDEO" else 1
    latent = Latent(
        width,
        height,
        1,
        frames,
        recipe=text,
        prompt=prompt_of(inputs),
        seed=seed_of(inputs),
        model=call.cls.name,
    )
    images = Images(tuple(pictures.draw_latent(latent, 0, frame) for frame in range(frames)))
    return images if kind == "IMAGE" else Clip(images, 8.0)
