"""Tables for the dependency check: folder names, download hosts, words that address an agent. Tables only.

Sources: ComfyUI's folder_paths.py (folder kinds and their older names), its extra_model_paths example, the published
node lists of the packs named here. Download hosts and where they redirect to: public reports of 2025 and 2026.
"""

from __future__ import annotations

# Names of one folder, old and new: the kind as /models lists it first, then the older ones.
_FOLDER_GROUPS = (
    ("diffusion_models", "unet"),
    ("text_encoders", "clip"),
    ("controlnet", "control_net", "t2i_adapter"),
    ("upscale_models", "upscalers", "ESRGAN"),
    ("loras", "lora"),
    ("checkpoints", "checkpoint", "Stable-diffusion"),
    ("vae", "VAE"),
    ("animatediff_models", "AnimateDiff_Models"),
    ("ultralytics_bbox", "ultralytics"),
)
# Folder kind -> its path below models/, where the two differ.
FOLDER_PATHS = {
    "unet": "diffusion_models",
    "clip": "text_encoders",
    "control_net": "controlnet",
    "t2i_adapter": "controlnet",
    "lora": "loras",
    "ultralytics_bbox": "ultralytics/bbox",
    "ultralytics_segm": "ultralytics/segm",
}
# Folders that come with ComfyUI itself; all others are registered by a node pack.
CORE_FOLDERS = frozenset(
    {
        "checkpoints", "configs", "loras", "vae", "text_encoders", "diffusion_models", "clip_vision", "style_models",
        "embeddings", "diffusers", "vae_approx", "controlnet", "gligen", "upscale_models", "latent_upscale_models",
        "hypernetworks", "photomaker", "classifiers", "model_patches", "audio_encoders",
    }
)  # fmt: skip

# Where models may be downloaded from -> the hosts that they hand the bytes over to (a leading dot: any name below).
DOWNLOAD_HOSTS: dict[str, tuple[str, ...]] = {
    "huggingface.co": (".huggingface.co", ".hf.co"),
    "civitai.com": ("civitai.com", ".civitai.com"),
    "github.com": ("github.com", "objects.githubusercontent.com", "release-assets.githubusercontent.com"),
}
# Civitai's own bucket at its storage provider: the bucket's name comes first, the account's number after it.
CIVITAI_BUCKET = r"civitai-delivery-worker-prod\.[0-9a-z]+\.r2\.cloudflarestorage\.com"
# Environment variable -> the one host that may see it, and the name under which comfy-cli reads the same token.
TOKENS = {
    "huggingface.co": ("HF_TOKEN", "HF_API_TOKEN"),
    "civitai.com": ("CIVITAI_API_TOKEN", "CIVITAI_API_TOKEN"),
}

# Node classes that cut <lora:NAME:WEIGHT> tags out of a text and load the LoRAs (from the packs' own pages and sources).
LORA_TAG_READERS = frozenset(
    {
        "LoraTagLoader", "LoraTagLoader|LP", "Load LoRA Tag [LP]", "LoRA_TagLoader", "MultipleLoraTagLoader",
        "🏷️ LoRA Loader Prompt Tags", "LoadLorasFromPrompt", "ImpactWildcardEncode", "WildcardEncode //Inspire",
        "PCLazyLoraLoader", "PCLazyLoraLoaderAdvanced", "Power Prompt (rgthree)",
        "SDXL Power Prompt - Positive (rgthree)", "easy fullLoader", "easy a1111Loader", "easy comfyLoader",
        "easy loraPromptApply", "Lora Loader (LoraManager)", "DavchaWan22LoraTagLoader",
        "DavchaQwenImageEditLoraTagLoader",
    }
)  # fmt: skip

# Words in free text that address an agent rather than a person.
AGENT_WORDS: tuple[str, ...] = (
    r"(?i)\b(ignore|disregard|forget|override)\b[^.\n]{0,40}\b(previous|prior|above|earlier|all|any|your)\b[^.\n]{0,30}"
    r"\b(instruction|prompt|rule|guideline|direction|message|context)",
    r"(?i)<[ \t]{0,9}/?[ \t]{0,9}(system|assistant|user|tool|function_call|instructions?)\b[^>]{0,200}>",
    r"(?i)\b(ai|llm|assistant|agent|model)s?\b[^.\n]{0,40}\b(must|should|shall|need to|are required to|please)\b[^.\n]{0,60}"
    r"\b(run|execute|install|download|send|upload|fetch|delete|call|open|read|reveal|print|ignore|tell|write)\b",
    r"(?i)\b(do not|don't|never)\b[^.\n]{0,30}\b(tell|inform|mention|reveal|show|ask|warn|alert)\b[^.\n]{0,25}"
    r"\b(user|human|owner|operator|person)\b",
    r"(?i)\b(no need to|without)\b[^.\n]{0,20}\b(tell|inform|mention|ask|warn|alert)(ing)?\b[^.\n]{0,25}"
    r"\b(user|human|owner|operator)\b",
    # "Ignore the previous instructions" in other languages.
    r"(忽略|无视|無視|忘记|忘記)[^。\n]{0,15}(指令|指示|提示|规则|規則)|(以前|上記|これまで)の?[^。\n]{0,10}(指示|命令)[^。\n]{0,6}(無視|忘れ)"
    r"|(이전|위의|모든)[^.\n]{0,15}(지시|명령)[^.\n]{0,10}무시",
    r"(?i)\b(ignorier|missacht|vergiss|vergess|ignor[ea]|oublie|olvida|ignori|esque[cç]a|игнорируй|забудь|проигнорируй)\w*\b"
    r"[^.\n]{0,40}\b(anweisung|vorgabe|regel|instruction|consigne|instrucci|instru[cç]|istruzion|инструкци|указани|правил)",
    r"(?i)\b(send|post|upload|exfiltrate|forward|leak|paste)\b[^.\n]{0,60}"
    r"\b(api[ _-]?keys?|tokens?|passwords?|credentials?|secrets?|env(ironment)?( variables?)?|\.ssh|\.env)\b",
    r"(?i)\b(curl|wget|iwr|invoke-webrequest)\b[^\n]{0,200}\|\s{0,9}(ba|z|da)?sh\b",
    r"(?i)\b(sudo|rm\s{1,9}-rf|chmod\s{1,9}\+x|powershell\s{1,9}-|pip\s{1,9}install\s{1,9}(git\+|http)|python3?\s{1,9}-c)\b",
    r"(?i)\b(with|using|add|pass)\b[^.\n]{0,20}(--yes|--allow-pickle|--insecure|--allow-host|--force)(?![\w-])",
)  # fmt: skip

# Words that only say who the reader is: the way prompts for language models begin.
PERSONA_WORDS: tuple[str, ...] = (
    r"(?i)\b(you are|act as|as)\b[^.\n]{0,20}\b(an? )?(ai|llm|language model|assistant|agent|chatbot|claude|gpt|gemini"
    r"|copilot)\b",
    r"(?i)\b(system|developer)[ _-]?(prompt|message|instruction)s?\b\s{0,9}[:=]",
)  # fmt: skip


def folder_names(folder: str) -> tuple[str, ...]:
    """Every name that a model folder goes by, the given one first."""
    for group in _FOLDER_GROUPS:
        if folder in group:
            return (folder, *(name for name in group if name != folder))
    return (folder,)


def folder_path(folder: str) -> str:
    """The folder's path below `models/`."""
    return FOLDER_PATHS.get(folder, folder)
