"""Which model files the demo server pretends to have, by folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

# Folder kinds in the order in which the real server lists them; the last four were not in 0.3.64 or are not for models.
FOLDERS = (
    "checkpoints",
    "configs",
    "loras",
    "vae",
    "text_encoders",
    "diffusion_models",
    "clip_vision",
    "style_models",
    "embeddings",
    "diffusers",
    "vae_approx",
    "controlnet",
    "gligen",
    "upscale_models",
    "latent_upscale_models",
    "custom_nodes",
    "hypernetworks",
    "photomaker",
    "classifiers",
    "model_patches",
    "audio_encoders",
)
ONLY_MODERN = frozenset({"latent_upscale_models"})
LEGACY_NAMES = {"unet": "diffusion_models", "clip": "text_encoders"}

DEFAULT: Mapping[str, tuple[str, ...]] = {
    "checkpoints": (
        "v1-5-pruned-emaonly.safetensors",
        "v1-5-pruned-emaonly-fp16.safetensors",
        "dreamshaper_8.safetensors",
        "sd_xl_base_1.0.safetensors",
        "sd_xl_refiner_1.0.safetensors",
        "sd_xl_turbo_1.0_fp16.safetensors",
        "sd3.5_large_fp8_scaled.safetensors",
        "512-inpainting-ema.safetensors",
        "flux1-dev-fp8.safetensors",
        "flux1-schnell-fp8.safetensors",
        "ltx-video-2b-v0.9.5.safetensors",
        "hunyuan_3d_v2.1.safetensors",
        "hunyuan3d-dit-v2.safetensors",
        "ace_step_v1_3.5b.safetensors",
        "svd_xt.safetensors",
    ),
    "configs": ("v1-inference.yaml", "v1-inference_fp16.yaml", "v1-inpainting-inference.yaml"),
    "loras": (
        "add_detail.safetensors",
        "lcm-lora-sdv1-5.safetensors",
        "pixel-art-xl.safetensors",
        "Qwen-Image-Lightning-4steps-V1.0.safetensors",
        "Qwen-Image-Edit-Lightning-4steps-V1.0-bf16.safetensors",
        "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors",
        "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors",
        "wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors",
        "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors",
    ),
    "vae": (
        "ae.safetensors",
        "qwen_image_vae.safetensors",
        "sdxl_vae.safetensors",
        "vae-ft-mse-840000-ema-pruned.safetensors",
        "wan_2.1_vae.safetensors",
        "wan2.2_vae.safetensors",
        "hunyuan_video_vae_bf16.safetensors",
    ),
    "text_encoders": (
        "clip_g.safetensors",
        "clip_l.safetensors",
        "t5xxl_fp16.safetensors",
        "t5xxl_fp8_e4m3fn.safetensors",
        "t5xxl_fp8_e4m3fn_scaled.safetensors",
        "umt5_xxl_fp16.safetensors",
        "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        "qwen_2.5_vl_7b_fp8_scaled.safetensors",
        "llava_llama3_fp8_scaled.safetensors",
        "qwen_3_4b.safetensors",
    ),
    "diffusion_models": (
        "flux1-dev.safetensors",
        "flux1-schnell.safetensors",
        "flux1-dev-kontext_fp8_scaled.safetensors",
        "flux1-fill-dev.safetensors",
        "qwen_image_fp8_e4m3fn.safetensors",
        "qwen_image_edit_fp8_e4m3fn.safetensors",
        "qwen_image_edit_2509_fp8_e4m3fn.safetensors",
        "wan2.1_t2v_1.3B_fp16.safetensors",
        "wan2.1_t2v_14B_fp8_scaled.safetensors",
        "wan2.1_i2v_480p_14B_fp16.safetensors",
        "wan2.2_ti2v_5B_fp16.safetensors",
        "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors",
        "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors",
        "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors",
        "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors",
        "hunyuan_video_t2v_720p_bf16.safetensors",
        "z_image_turbo_bf16.safetensors",
    ),
    "clip_vision": ("clip_vision_h.safetensors", "sigclip_vision_patch14_384.safetensors"),
    "style_models": ("flux1-redux-dev.safetensors",),
    "embeddings": ("easynegative.safetensors", "badhandv4.pt"),
    "controlnet": (
        "control_v11p_sd15_canny.pth",
        "control_v11p_sd15_openpose_fp16.safetensors",
        "control_v11f1p_sd15_depth_fp16.safetensors",
        "diffusion_pytorch_model_promax.safetensors",
    ),
    "gligen": ("gligen_sd14_textbox_pruned.safetensors",),
    "upscale_models": ("4x-UltraSharp.pth", "4x_NMKD-Siax_200k.pth", "RealESRGAN_x4plus.pth", "2x-AnimeSharp.pth"),
    "photomaker": ("photomaker-v1.bin",),
    "audio_encoders": ("wav2vec2_large_english_fp16.safetensors",),
    # Not folders of the core server: those of two well-known node packs.
    "animatediff_models": ("mm_sd_v15_v2.ckpt", "mm_sdxl_v10_beta.ckpt", "v3_sd15_mm.ckpt"),
}


def canonical(folder: str) -> str:
    """The folder's present name; `unet` and `clip` are old names of two of them."""
    return LEGACY_NAMES.get(folder, folder)


def read_models(values: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The model lists of `--models`: `FOLDER=name,name`, `FOLDER=` (empty), or a JSON file `{folder: [names]}`.

    Raises ValueError with a sentence for what is neither.
    """
    lists = dict(DEFAULT)
    for value in values:
        if "=" in value and not Path(value).is_file():
            folder, _, names = value.partition("=")
            lists[canonical(folder.strip())] = tuple(name.strip() for name in names.split(",") if name.strip())
            continue
        try:
            loaded = json.loads(Path(value).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"--models {value}: not FOLDER=names and not a readable JSON file ({error})") from error
        if not isinstance(loaded, dict) or not all(isinstance(names, list) for names in loaded.values()):
            raise ValueError(f"--models {value}: the file must hold an object of lists, folder to names")
        lists.update({canonical(folder): tuple(str(name) for name in names) for folder, names in loaded.items()})
    return lists
