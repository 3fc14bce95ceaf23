"""Loaders, encoders and samplers: they load and sample nothing, but take the time and send steps and previews."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from comfyskill.demo import generic, pictures
from comfyskill.demo.call import Call
from comfyskill.demo.node_table import NodeFailure, node
from comfyskill.demo.values import Images, Latent, Thing, recipe


def thing(kind: str, label: str, *parts: object, text: str = "") -> Thing:
    return Thing(kind, label, recipe(kind, label, *parts), text)


@node("CheckpointLoaderSimple", "CheckpointLoader", "unCLIPCheckpointLoader", "ImageOnlyCheckpointLoader")
def checkpoint(call: Call, ckpt_name: str, **_rest: object) -> tuple[Thing, ...]:
    return tuple(thing(kind, ckpt_name) for kind in call.cls.outputs)


@node("UNETLoader")
def unet(call: Call, unet_name: str, weight_dtype: str) -> Thing:
    return thing("MODEL", unet_name)


@node("VAELoader")
def vae(call: Call, vae_name: str) -> Thing:
    return thing("VAE", vae_name)


@node("CLIPLoader", "DualCLIPLoader", "TripleCLIPLoader", "QuadrupleCLIPLoader")
def clip(call: Call, **names: object) -> Thing:
    files = [str(value) for key, value in names.items() if key.startswith("clip_name")]
    return thing("CLIP", ", ".join(files))


@node("LoraLoader", "LoraLoaderModelOnly")
def lora(
    call: Call,
    model: Thing,
    lora_name: str,
    strength_model: float,
    clip: Thing | None = None,
    strength_clip: float = 0.0,
) -> tuple[Thing, ...]:
    changed = replace(model, recipe=recipe(model.recipe, lora_name, strength_model))
    if clip is None:
        return (changed,)
    return changed, replace(clip, recipe=recipe(clip.recipe, lora_name, strength_clip))


@node("CLIPTextEncode", "TextEncodeQwenImageEdit", "TextEncodeQwenImageEditPlus", "CLIPTextEncodePixArtAlpha")
def encode(call: Call, clip: Thing | None = None, text: str = "", prompt: str = "", **rest: object) -> Thing:
    if clip is None:
        raise NodeFailure("RuntimeError", "ERROR: clip input is invalid: None")
    words = text or prompt
    marks = {key: generic.mark(value) for key, value in rest.items()}
    return thing("CONDITIONING", "text", clip.recipe, words, marks, text=words)


@node(
    "CLIPTextEncodeFlux",
    "CLIPTextEncodeSDXL",
    "CLIPTextEncodeSD3",
    "CLIPTextEncodeHiDream",
    "CLIPTextEncodeSDXLRefiner",
)
def encode_parts(call: Call, clip: Thing, **texts: object) -> Thing:
    parts = [
        value
        for value in texts.values()
        if isinstance(value, str) and value and value not in ("none", "empty_prompt")
    ]
    words = max(parts, key=len, default="")
    return thing("CONDITIONING", "text", clip.recipe, texts, text=words)


@node("ConditioningZeroOut")
def zeroed(call: Call, conditioning: Thing) -> Thing:
    return replace(conditioning, recipe=recipe(conditioning.recipe, "zero"), text="")


def _sampled(latent: Latent, seed: int, inputs: Mapping[str, object]) -> Latent:
    """The latent after sampling; its recipe names all that the sampler got."""
    model, positive, negative = (inputs.get(name) for name in ("model", "positive", "negative"))
    if not isinstance(latent, Latent):
        raise NodeFailure("TypeError", f"'{type(latent).__name__}' object is not subscriptable")
    return replace(
        latent,
        recipe=recipe(latent.recipe, seed, {key: generic.mark(value) for key, value in inputs.items()}),
        prompt=positive.text if isinstance(positive, Thing) else latent.prompt,
        negative=negative.text if isinstance(negative, Thing) else latent.negative,
        seed=seed,
        model=model.label if isinstance(model, Thing) else latent.model,
    )


async def sample(call: Call, latent: Latent, steps: int) -> None:
    """Take a sampler's time: one wait, one report and one preview per step."""
    for step in range(1, steps + 1):
        await call.wait(call.options.step_time)
        preview = None
        if latent.kind in ("image", "video") and call.wants_previews():
            preview = pictures.preview_of(f"{latent.recipe}/0", latent.width, latent.height, step / steps)
        await call.progress(step, steps, preview)


@node("KSampler")
async def ksampler(
    call: Call, latent_image: Latent, seed: int, steps: int, denoise: float = 1.0, **inputs: object
) -> Latent:
    made = _sampled(latent_image, seed, {**inputs, "steps": steps, "denoise": denoise})
    made = replace(made, denoise=denoise if latent_image.source is not None else 1.0)
    await sample(call, made, max(1, steps))
    return made


@node("KSamplerAdvanced")
async def ksampler_advanced(
    call: Call,
    latent_image: Latent,
    noise_seed: int,
    steps: int,
    start_at_step: int,
    end_at_step: int,
    **inputs: object,
) -> Latent:
    first, last = min(start_at_step, steps), min(end_at_step, steps)
    made = _sampled(latent_image, noise_seed, {**inputs, "first": first, "last": last})
    await sample(call, made, max(1, last - first))
    return made


@node("BasicGuider")
def guider(call: Call, model: Thing, conditioning: Thing) -> Thing:
    return thing("GUIDER", model.label, model.recipe, conditioning.recipe, text=conditioning.text)


@node("CFGGuider")
def cfg_guider(call: Call, model: Thing, positive: Thing, negative: Thing, cfg: float) -> Thing:
    made = thing(
        "GUIDER", model.label, model.recipe, positive.recipe, negative.recipe, cfg, text=positive.text
    )
    return replace(made, negative=negative.text)


@node("RandomNoise")
def noise(call: Call, noise_seed: int) -> Thing:
    return replace(thing("NOISE", str(noise_seed), noise_seed), details={"seed": noise_seed})


@node("DisableNoise")
def no_noise(call: Call) -> Thing:
    return replace(thing("NOISE", "none"), details={"seed": 0})


@node(
    "BasicScheduler",
    "KarrasScheduler",
    "ExponentialScheduler",
    "LTXVScheduler",
    "Flux2Scheduler",
    "SDTurboScheduler",
)
def sigmas(call: Call, steps: int, denoise: float = 1.0, **rest: object) -> Thing:
    marks = {key: generic.mark(value) for key, value in rest.items()}
    return replace(
        thing("SIGMAS", f"{steps} steps", steps, denoise, marks), details={"steps": steps, "denoise": denoise}
    )


@node("SamplerCustomAdvanced")
async def sample_advanced(
    call: Call, noise: Thing, guider: Thing, sigmas: Thing, latent_image: Latent, **inputs: object
) -> tuple[Latent, Latent]:
    given = {**inputs, "model": guider, "positive": guider, "sigmas": sigmas}
    made = _sampled(latent_image, int(noise.details.get("seed", 0)), given)
    denoise = float(sigmas.details.get("denoise", 1.0)) if latent_image.source is not None else 1.0
    made = replace(made, denoise=denoise, negative=guider.negative)
    await sample(call, made, int(sigmas.details.get("steps", 20)))
    return made, made


@node("SamplerCustom")
async def sample_custom(
    call: Call, noise_seed: int, sigmas: Thing, latent_image: Latent, **inputs: object
) -> tuple[Latent, Latent]:
    made = _sampled(latent_image, noise_seed, {**inputs, "sigmas": sigmas})
    await sample(call, made, int(sigmas.details.get("steps", 20)))
    return made, made


@node("ControlNetApply", "ControlNetApplyAdvanced", "ControlNetApplySD3")
def control(
    call: Call, control_net: Thing, image: Images, strength: float, **rest: object
) -> tuple[Thing, ...]:
    given = [rest.get(name) for name in ("conditioning", "positive", "negative")]
    mark = (control_net.recipe, generic.mark(image), strength)
    return tuple(
        replace(value, recipe=recipe(value.recipe, *mark)) for value in given if isinstance(value, Thing)
    )


@node("InpaintModelConditioning")
def inpaint(
    call: Call,
    positive: Thing,
    negative: Thing,
    vae: Thing,
    pixels: Images,
    mask: Images,
    noise_mask: bool = True,
) -> tuple[Thing, Thing, Latent]:
    width, height = pixels.width // 8 * 8 or 8, pixels.height // 8 * 8 or 8
    made = recipe("inpaint", generic.mark(pixels), generic.mark(mask))
    return positive, negative, Latent(width, height, recipe=made, source=pixels, mask=mask)


@node("WanImageToVideo", "WanFirstLastFrameToVideo", "LTXVImgToVideo", "HunyuanImageToVideo")
def to_video(
    call: Call,
    positive: Thing,
    width: int,
    height: int,
    length: int,
    batch_size: int,
    negative: Thing | None = None,
    **inputs: object,
) -> tuple[Thing | Latent, ...]:
    images = [inputs.get(name) for name in ("start_image", "image")]
    source = next((image for image in images if isinstance(image, Images)), None)
    made = recipe("to video", width, height, length, generic.mark(source))
    latent = Latent(width, height, batch_size, length, "video", recipe=made, source=source, denoise=0.7)
    return (positive, negative, latent) if negative is not None else (positive, latent)
