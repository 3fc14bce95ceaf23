"""Tables of the dependency rooms: folder names, download hosts, what node classes may do. Tables only.

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

# What a node class may do beyond making pictures. Key: the words that a person reads.
_EVAL = "runs code given in the workflow"
_SHELL = "runs programs on the server"
_FETCH = "fetches addresses from the network"
_WRITE = "writes files where the workflow says"
_READ = "reads files where the workflow says"
_SEND = "sends data to a service on the network"
_PICKLE = "loads a file type that can run code"
_DELETE = "moves or deletes files"
# What a class may do -> (stable code, severity).
RISK_KINDS: dict[str, tuple[str, str]] = {
    _EVAL: ("runs_code", "high"),
    _SHELL: ("runs_programs", "high"),
    _SEND: ("sends_data", "high"),
    _DELETE: ("deletes_files", "high"),
    _FETCH: ("fetches_addresses", "medium"),
    _WRITE: ("writes_files", "medium"),
    _READ: ("reads_files", "medium"),
    _PICKLE: ("loads_pickles", "medium"),
}
RISKS: dict[str, str] = {
    **dict.fromkeys(
        ("PythonExec", "Python Exec", "ExecutePython", "RunPython", "PythonScript", "easy pythonScript", "AnyPython",
         "AceExpression", "EvaluatePython", "Evaluate Python", "NotebookCell:Code", "Python Expression", "IDENode",
         "KY_Eval_Python", "KY_Eval_Python_Expr", "IO_ExecutePython", "LLMToolkitExecPython", "GR Python Code",
         "Script Runner", "PythonNode", "Custom Python", "JavascriptExecutor", "EvalNode", "SimpleEval",
         "AdvancedEval", "DynamicPython", "py_interpreter", "PromptScript", "SRL Eval", "SRL Format String"), _EVAL,
    ),
    **dict.fromkeys(
        ("ShellCommand", "Shell Command", "RunShell", "ExecShell", "BashNode", "Execute Command", "Command Executor",
         "SystemCommand", "RunCommand", "Terminal"), _SHELL,
    ),
    **dict.fromkeys(
        ("LoadImageFromUrl", "LoadImageFromURL", "Load Image From Url", "LoadImageUrl", "Image Load From URL",
         "LoadImageByUrl //Inspire", "LoadImagesFromURL", "LoadVideoFromUrl", "VHS_LoadVideoPath", "VHS_LoadImagesPath",
         "VHS_LoadAudio", "JWImageLoadRGBFromURL", "UtilLoadImageFromUrl", "HTTP Request", "HttpRequest", "Get Request Node",
         "Post Request Node", "RESTApiNode", "ImageFromURL", "DownloadAndLoadFlorence2Model"),
        _FETCH,
    ),
    **dict.fromkeys(
        ("Save Text File", "SaveText|pysssss", "SaveTextFile", "easy saveText", "Write to file", "Image Save",
         "SaveImageToPath", "Save Image To Path", "WriteTextFile", "SaveStringToFile", "CSVWriter", "SaveCheckpointTo",
         "SaveImageDataSetToFolder", "SaveImageTextDataSetToFolder"), _WRITE,
    ),
    **dict.fromkeys(
        ("Load Text File", "LoadText|pysssss", "LoadTextFile", "ReadTextFile", "easy loadText", "Image Batch Load",
         "Load Image Batch", "LoadImagesFromDirectory", "LoadImageFromPath", "LoadImageDataSetFromFolder",
         "LoadImageTextDataSetFromFolder"), _READ,
    ),
    **dict.fromkeys(
        ("WebhookSender", "Send Webhook", "DiscordWebhook", "SendToTelegram", "SendEmail", "S3Upload", "SaveImageS3",
         "UploadToS3", "FTPUpload"), _SEND,
    ),
}  # fmt: skip
# The same by words in a class name, for packs that no table knows: (pattern, what it may do).
RISK_WORDS: tuple[tuple[str, str], ...] = (
    (
        r"(?i)\b(python|javascript|lua)\b.*\b(exec|run|eval|script|code|node|expr)|\b(exec|eval|run)[ _]?(python|code|script|js)"
        r"|\b(python|code|script|js)[ _-]?(exec|run|eval|interpret)|\binterpreter\b|^(custom|my)?[ _]?code([ _]?node)?$",
        _EVAL,
    ),
    (r"(?i)(^|[^a-z])eval(uate)?([^a-z]|$)|(Exec|Eval)(ute|uate)?(Python|Code|Script|Node)?$", _EVAL),
    (
        r"(?i)\b(shell|bash|terminal|powershell|subprocess|cmd)\b|(?-i:Shell|Bash|Subprocess|PowerShell)"
        r"|\b(run|exec(ute)?|system|ffmpeg)[ _-]?command|\b(pip|git)[ _-]?(install|clone|pull)|install[ _-]?(package|module|pip)",
        _SHELL,
    ),
    (
        r"(?i)(from|by|load|get|fetch|download)[ _-]?(the[ _-])?ur[li]|\bhttp|(?-i:URL|Url)(?![a-z])|webhook|download"
        r"|\b(web|rest|api)[ _-]?(api[ _-]?)?(request|call)|\brequests?[ _-]?(get|post)\b"
        r"|\bcurl[ _-]?(node|get|request)|web[ _-]?image",
        _FETCH,
    ),
    (
        r"(?i)(delete|remove|unlink|erase)[ _-]?(file|folder|dir)|\brmtree\b|(move|copy|rename)[ _-]?file"
        r"|\b(file|folder)s?[ _-]?(delet|remov|mov|eras)|clear[ _-]?(folder|dir)",
        _DELETE,
    ),
    (
        r"(?i)(save|write|append)[ _-]?(text|string|file|csv|json)|to[ _-]?(path|file)\b|\bfile[ _-]?writ|\bSave ?Image ?KJ\b",
        _WRITE,
    ),
    (
        r"(?i)(load|read|open)[ _-]?(text|string|file|csv|json)([ _-]?file)?\b|from[ _-]?(path|dir|directory|folder)\b",
        _READ,
    ),
    (
        r"(?i)(upload|send|post)[ _-]?(to(?![ _-]?(cpu|gpu|cuda|device))|image|file|request)|\b(s?ftp|ssh)\b"
        r"|telegram|discord|\bsmtp\b|\bemail\b|\bs3\b",
        _SEND,
    ),
    (r"(?i)pickle|torch[ _-]?load", _PICKLE),
)
# Core classes that these words would suspect.
HARMLESS = frozenset(
    {"LoadImageOutput", "CLIPTextEncode", "SaveImageWebsocket", "PreviewAny", "LoadImage", "SaveLoRA"}
)

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
    r"(?i)<\s*/?\s*(system|assistant|user|tool|function_call|instructions?)\b[^>]*>",
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
    r"(?i)\b(curl|wget|iwr|invoke-webrequest)\b[^\n]{0,200}\|\s*(ba|z|da)?sh\b",
    r"(?i)\b(sudo|rm\s+-rf|chmod\s+\+x|powershell\s+-|pip\s+install\s+(git\+|http)|python3?\s+-c)\b",
    r"(?i)\b(with|using|add|pass)\b[^.\n]{0,20}(--yes|--allow-pickle|--insecure|--allow-host|--force)\b",
)  # fmt: skip

# Words that only say who the reader is: the way prompts for language models begin.
PERSONA_WORDS: tuple[str, ...] = (
    r"(?i)\b(you are|act as|as)\b[^.\n]{0,20}\b(an? )?(ai|llm|language model|assistant|agent|chatbot|claude|gpt|gemini"
    r"|copilot)\b",
    r"(?i)\b(system|developer)[ _-]?(prompt|message|instruction)s?\b\s*[:=]",
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
