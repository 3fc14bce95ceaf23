"""Tables of the names that common node packs use: the fallback when node definitions cannot be read.

Tables only. The server's own definitions (`/object_info`) come first where they are available.
Sources: the input names of ComfyUI's core nodes and of the packs' published node classes.
"""

from __future__ import annotations

# Input names that mean the same thing to a person: input name -> the plain parameter name.
FRIENDLY_NAMES = {
    "noise_seed": "seed",
    "rand_seed": "seed",
    "random_seed": "seed",
    "Seed": "seed",
    "cfg_scale": "cfg",
    "guidance_scale": "guidance",
    "distilled_cfg": "guidance",
    "denoise_strength": "denoise",
    "num_inference_steps": "steps",
    "num_steps": "steps",
    "frame_rate": "fps",
    "num_frames": "length",
    "video_frames": "length",
    "frames": "length",
    "frames_number": "length",
    "batch": "batch_size",
    "image_width": "width",
    "image_height": "height",
    "empty_latent_width": "width",
    "empty_latent_height": "height",
    "prompt_text": "prompt",
    "positive_prompt": "prompt",
    "user_prompt": "prompt",
    "text_positive": "prompt",
    "text_negative": "negative_prompt",
    "uc": "negative_prompt",
}

# Input names whose value is the number that noise comes from.
SEED_INPUTS = frozenset({"seed", "noise_seed", "rand_seed", "random_seed", "Seed"})
SEED_NAMES = frozenset({"seed"})
# The one literal of nodes that only hold a value.
VALUE_INPUTS = frozenset(
    {"value", "int", "float", "number", "Number", "string", "text", "boolean", "bool", "Value", "val", "String",
     "Text", "a", "int_value", "float_value"}
)  # fmt: skip
# Widgets of the editor that the server does not know.
FRONTEND_INPUTS = frozenset(
    {
        "control_after_generate",
        "control_before_generate",
        "upload",
        "PowerLoraLoaderHeaderWidget",
        "➕ Add Lora",
    }
)
# Input names that say nothing about their meaning.
MEANINGLESS = frozenset(
    {"value", "a", "b", "c", "x", "y", "any", "input", "anything", "string", "text", "number"}
)
# Types of inputs whose class is not known.
INPUT_TYPES = {
    "seed": "INT", "noise_seed": "INT", "steps": "INT", "width": "INT", "height": "INT", "length": "INT",
    "batch_size": "INT", "start_at_step": "INT", "end_at_step": "INT", "cfg": "FLOAT", "denoise": "FLOAT",
    "guidance": "FLOAT", "shift": "FLOAT", "strength": "FLOAT", "strength_model": "FLOAT", "strength_clip": "FLOAT",
    "start_percent": "FLOAT", "end_percent": "FLOAT", "max_shift": "FLOAT", "base_shift": "FLOAT", "weight": "FLOAT",
    "sampler_name": "COMBO", "scheduler": "COMBO",
}  # fmt: skip
# The largest seed that a JavaScript editor reads back without rounding.
LARGEST_PORTABLE_SEED = 2**53 - 1

# Text fields of encoders: all are one prompt unless addressed one by one.
ENCODER_TEXTS = frozenset(
    {
        "text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "llama", "bert", "mt5xl", "qwen25_7b", "prompt",
        "user_prompt", "tags", "positive", "negative", "positive_prompt", "negative_prompt", "prompt_text", "caption",
        "text_positive", "text_negative", "string", "wildcard_text", "populated_text",
    }
)  # fmt: skip
# Text that a text encoder or generator takes beside the prompt.
NOT_A_PROMPT = frozenset(
    {
        "lyrics", "system_prompt", "instructions", "delimiter", "separator", "find", "replace", "replacement",
        "regex_pattern", "pattern", "substring", "filename_prefix", "prefix", "suffix", "part_names", "track_coords",
        "tracks", "video_id", "aspect_ratio", "folder_name", "style_id", "layers", "double_layers", "single_layers",
        "sigmas", "model_file", "translate", "weight_interpretation", "token_normalization", "parser",
    }
)  # fmt: skip
# A text that these inputs hold is the prompt, or what the picture must not show, in any node.
PROMPT_INPUTS = frozenset(
    {"prompt", "prompt_text", "positive", "positive_prompt", "user_prompt", "text_positive", "wildcard_text"}
)
NEGATIVE_INPUTS = frozenset({"negative", "negative_prompt", "text_negative", "uc"})

# (plain name, values) that people know by another name.
ALIASES = {
    "negative": "negative_prompt",
    "positive": "prompt",
    "text": "prompt",
    "checkpoint": "ckpt_name",
    "ckpt": "ckpt_name",
    "model": "ckpt_name",
    "unet": "unet_name",
    "vae": "vae_name",
    "lora": "lora_name",
    "clip": "clip_name",
    "sampler": "sampler_name",
    "frames": "length",
    "num_frames": "length",
    "frame_rate": "fps",
    "batch": "batch_size",
    "cfg_scale": "cfg",
}


# Plain names that get a place in a summary, with what they are.
ROLES = {
    "prompt": "prompt", "negative_prompt": "negative_prompt", "seed": "seed",
    "width": "size", "height": "size", "length": "size", "batch_size": "size", "megapixels": "size", "duration": "size",
    "steps": "sampling", "cfg": "sampling", "denoise": "sampling", "sampler_name": "sampling",
    "scheduler": "sampling", "guidance": "sampling", "shift": "sampling", "strength": "sampling",
    "strength_model": "sampling", "strength_clip": "sampling", "start_at_step": "sampling", "end_at_step": "sampling",
    "max_shift": "sampling", "base_shift": "sampling", "fps": "video", "crf": "video", "format": "output",
    "loop_count": "video", "pingpong": "video", "frame_load_cap": "video", "skip_first_frames": "video",
    "select_every_nth": "video", "force_rate": "video", "context_length": "video", "context_overlap": "video",
    "motion_scale": "video", "clip_skip": "sampling", "stop_at_clip_layer": "sampling",
    "weight": "strength", "weight_type": "strength", "start_at": "strength", "end_at": "strength",
    "start_percent": "strength", "end_percent": "strength", "lora_model_strength": "strength",
    "lora_clip_strength": "strength", "guide_size": "size", "upscale_by": "size", "scale_by": "size",
    "save_prefix": "output", "filename_prefix": "output",
    "image": "image", "mask": "mask", "video": "video_file", "audio": "audio_file",
}  # fmt: skip

# Input names that choose a model file: input -> model folder.
MODEL_FOLDERS = {
    "ckpt_name": "checkpoints", "base_ckpt_name": "checkpoints", "refiner_ckpt_name": "checkpoints",
    "checkpoint": "checkpoints",
    "config_name": "configs",
    "unet_name": "diffusion_models", "diffusion_model": "diffusion_models",
    "vae_name": "vae", "audio_vae": "vae",
    "lora_name": "loras", "lora": "loras",
    "clip_name": "text_encoders", "clip_name1": "text_encoders", "clip_name2": "text_encoders",
    "clip_name3": "text_encoders", "clip_name4": "text_encoders", "text_encoder": "text_encoders",
    "control_net_name": "controlnet", "controlnet_name": "controlnet",
    "style_model_name": "style_models",
    "gligen_name": "gligen",
    "hypernetwork_name": "hypernetworks",
    "photomaker_model_name": "photomaker",
    "upscale_model": "upscale_models",
    "motion_model": "animatediff_models",
    "ipadapter_file": "ipadapter",
}  # fmt: skip
# The same for inputs whose name alone does not show it: (class, input) -> folder.
MODEL_FOLDERS_BY_CLASS = {
    ("CLIPVisionLoader", "clip_name"): "clip_vision",
    ("UpscaleModelLoader", "model_name"): "upscale_models",
    ("LatentUpscaleModelLoader", "model_name"): "latent_upscale_models",
    ("AudioEncoderLoader", "audio_encoder_name"): "audio_encoders",
    ("ModelPatchLoader", "name"): "model_patches",
    ("LTXAVTextEncoderLoader", "text_encoder"): "text_encoders",
    ("LTXAVTextEncoderLoader", "ckpt_name"): "checkpoints",
    ("LTXVAudioVAELoader", "ckpt_name"): "checkpoints",
    ("DiffusersLoader", "model_path"): "diffusers",
    ("LoraModelLoader", "lora_name"): "loras",
    ("INPAINT_LoadFooocusInpaint", "head"): "inpaint",
    ("INPAINT_LoadFooocusInpaint", "patch"): "inpaint",
    ("CreateHookModelAsLora", "ckpt_name"): "checkpoints",
    ("CreateHookModelAsLoraModelOnly", "ckpt_name"): "checkpoints",
    ("ADE_AnimateDiffLoaderGen1", "model_name"): "animatediff_models",
    ("ADE_AnimateDiffLoaderWithContext", "model_name"): "animatediff_models",
    ("ADE_LoadAnimateDiffModel", "model_name"): "animatediff_models",
    ("ADE_AnimateDiffLoRALoader", "lora_name"): "animatediff_motion_lora",
    ("AnimateDiffLoaderV1", "model_name"): "animatediff_models",
    ("IPAdapterModelLoader", "ipadapter_file"): "ipadapter",
    ("InstantIDModelLoader", "instantid_file"): "instantid",
    ("PulidModelLoader", "pulid_file"): "pulid",
    ("UnetLoaderGGUF", "unet_name"): "diffusion_models",
    ("UnetLoaderGGUFAdvanced", "unet_name"): "diffusion_models",
    ("CLIPLoaderGGUF", "clip_name"): "text_encoders",
    ("DualCLIPLoaderGGUF", "clip_name1"): "text_encoders",
    ("DualCLIPLoaderGGUF", "clip_name2"): "text_encoders",
    ("SAMLoader", "model_name"): "sams",
    ("UltralyticsDetectorProvider", "model_name"): "ultralytics",
    ("WanVideoModelLoader", "model"): "diffusion_models",
    ("WanVideoVAELoader", "model_name"): "vae",
    ("LoadWanVideoT5TextEncoder", "model_name"): "text_encoders",
    ("WanVideoLoraSelect", "lora"): "loras",
    ("HyVideoModelLoader", "model"): "diffusion_models",
    ("HyVideoVAELoader", "model_name"): "vae",
}  # fmt: skip
# Values of model inputs that are not files on the server's disk.
NOT_A_FILE = frozenset(
    {"None", "none", "NONE", "", "auto", "automatic", "default", "pixel_space", "Baked VAE", "baked VAE", "Default", "taesd",
     "taesdxl", "taesd3", "taef1", "taehv", "lighttaew2_2", "lighttaew2_1", "lighttaehy1_5", "taew2_1", "taew2_2",
     "taehv1_5"}
)  # fmt: skip
# Inputs that take a file from the user: (class, input) -> kind.
UPLOADS = {
    ("LoadImage", "image"): "image",
    ("LoadImageMask", "image"): "mask",
    ("LoadImageOutput", "image"): "image",
    ("LoadVideo", "file"): "video",
    ("LoadAudio", "audio"): "audio",
    ("Load3D", "model_file"): "file",
    ("Load3DAnimation", "model_file"): "file",
    ("LoadLatent", "latent"): "file",
    ("VHS_LoadVideo", "video"): "video",
    ("VHS_LoadVideoFFmpeg", "video"): "video",
    ("VHS_LoadAudioUpload", "audio"): "audio",
    ("LoadImage (rgthree)", "image"): "image",
    ("easy loadImageBase64", "base64_data"): "image",
    ("Image Load", "image_path"): "image",
    ("LoadImageWithSubfolder", "image"): "image",
    ("ImpactLoadImage", "image"): "image",
}
# Options of a definition that say the same: option -> kind.
UPLOAD_OPTIONS = {
    "image_upload": "image",
    "animated_image_upload": "image",
    "video_upload": "video",
    "audio_upload": "audio",
    "file_upload": "file",
}


OUTPUT_CLASSES = frozenset(
    {
        "SaveImage", "PreviewImage", "SaveLatent", "MaskPreview", "CheckpointSave", "CLIPSave", "VAESave", "ModelSave",
        "SaveAnimatedWEBP", "SaveAnimatedPNG", "SaveSVGNode", "ImageOnlyCheckpointSave", "SaveLoRA", "LoraSave",
        "LossGraphNode", "SaveImageDataSetToFolder", "SaveImageTextDataSetToFolder", "SaveTrainingDataset",
        "SaveAudio", "SaveAudioMP3", "SaveAudioOpus", "PreviewAudio", "Preview3D", "SaveWEBM", "SaveVideo", "SaveGLB",
        "PreviewAny", "SaveImageWebsocket", "Save3D", "VHS_VideoCombine", "VHS_SaveImageSequence", "Image Save",
        "Image Comparer (rgthree)", "Display Any (rgthree)", "easy showAnything", "easy imageSave",
        "easy imagePreview", "ShowText|pysssss", "ADE_AnimateDiffCombine", "Display Int (rgthree)",
        "easy kSampler", "easy fullkSampler", "easy kSamplerTiled", "easy kSamplerInpainting", "easy cascadeKSampler",
        "KSampler (Efficient)", "KSampler Adv. (Efficient)", "KSampler SDXL (Eff.)",
        "PreviewBridge", "ImageSender", "SaveText|pysssss", "easy saveText", "easy saveImageLazy",
    }
)  # fmt: skip
# Outputs of these are for the eye; the file goes to the temporary folder or nowhere.
PREVIEW_CLASSES = frozenset(
    {
        "PreviewImage",
        "MaskPreview",
        "PreviewAudio",
        "Preview3D",
        "PreviewAny",
        "easy imagePreview",
        "easy kSampler",
        "easy fullkSampler",
        "easy kSamplerTiled",
        "easy kSamplerInpainting",
        "easy cascadeKSampler",
        "KSampler (Efficient)",
        "KSampler Adv. (Efficient)",
        "KSampler SDXL (Eff.)",
        "PreviewBridge",
    }
)
VIDEO_OUTPUTS = frozenset(
    {"SaveVideo", "SaveWEBM", "SaveAnimatedWEBP", "SaveAnimatedPNG", "VHS_VideoCombine", "ADE_AnimateDiffCombine",
     "CreateVideo"}
)  # fmt: skip
# How the categories of nodes begin that run on paid partner services (the second is the older one).
PARTNER_CATEGORIES = ("partner/", "api node")
# Parts of class names of such nodes, for when there are no definitions.
PARTNER_CLASS_STARTS = (
    "Ideogram", "OpenAI", "Minimax", "Kling", "Luma", "Moonvalley", "Pixverse", "Recraft", "Rodin3D", "Runway",
    "Stability", "Tripo", "Veo3", "VeoVideo", "Vidu", "ByteDance", "Gemini", "FluxPro", "FluxKontextPro",
    "FluxKontextMax", "Flux2Pro", "Flux2Max", "LtxvApi", "TopazImage", "TopazVideo", "Meshy", "Hailuo",
    "Beeble", "Bria", "ClarityCrystal", "ClaudeNode", "ElevenLabs", "FishAudio", "Flux2Image", "Flux3Image", "Flux3Max",
    "Flux3TextToVideo", "FluxErase", "FluxVTO", "FluxVideoEdit", "FluxVideoUpscale", "Grok", "HappyHorse", "HeyGen",
    "Higgsfield", "HitPaw", "Krea2Image", "Krea2Style", "Krea3Image", "LtxApi", "Magnific", "MetaMuse", "Mirelo",
    "OpenRouter", "Pruna", "Quiver", "Sonilo", "SyncLipSync", "SyncTalking", "Tencent", "Veed", "Wavespeed",
)  # fmt: skip
# How the classes of other partner nodes end.
PARTNER_CLASS_ENDS = ("ToImageApi", "VideoApi", "EditApi")
PARTNER_CLASSES = frozenset(
    {
        "WanTextToImageApi",
        "WanImageToImageApi",
        "WanTextToVideoApi",
        "WanImageToVideoApi",
        "WanReferenceVideoApi",
    }
)
# Classes that start like a partner node and run on the machine itself.
NOT_PARTNER_CLASSES = frozenset(
    {"RecraftColorRGB", "RecraftControls", "StabilityMatrix", "TripoSplatConditioning", "TripoSplatPreprocessImage",
     "TripoSplatSamplingPreview", "Ideogram4Scheduler"}
)  # fmt: skip

# Inputs that the node's own check replaces the server's check of ranges and lists for (its definition does not say
# so); "input_types": the node checks its link types itself.
UNCHECKED_INPUTS = frozenset(
    {("FluxProUltraImageNode", "aspect_ratio"), ("TripoConversionNode", "input_types"), ("ModelAttentionBackend", "attention"),
     ("SelectModelDevice", "device"), ("SelectCLIPDevice", "device"), ("SelectVAEDevice", "device"),
     ("KlingCameraControls", "horizontal_movement"), ("KlingCameraControls", "vertical_movement"),
     ("KlingCameraControls", "pan"), ("KlingCameraControls", "tilt"), ("KlingCameraControls", "roll"),
     ("KlingCameraControls", "zoom"), ("ComfySoftSwitchNode", "switch")}
)  # fmt: skip
# The classes whose own check takes all inputs, so the server compares none with its range or list.
UNCHECKED_CLASSES = frozenset({"CustomCombo", "Load3D", "Load3DAdvanced"})
# Empty latents for one still picture.
PICTURE_LATENTS = frozenset({"EmptyLatentImage", "EmptySD3LatentImage"})

# A node that passes one of its inputs on: class -> the inputs to follow (none named: every linked input).
PASS_THROUGH = frozenset(
    {"Reroute", "Reroute (rgthree)", "ReroutePrimitive|pysssss", "Any Switch (rgthree)", "easy anythingIndexSwitch",
     "PreviewAny", "Display Any (rgthree)", "ShowText|pysssss", "easy showAnything", "ImpactSwitch", "GetNode",
     "SetNode"}
)  # fmt: skip
# class -> (input that chooses, {its value: the input that is passed on})
SWITCHES: dict[str, tuple[str, dict[bool, str]]] = {
    "ComfySwitchNode": ("switch", {False: "on_false", True: "on_true"}),
    "easy ifElse": ("boolean", {False: "on_false", True: "on_true"}),
}
# Nodes that hold one value in two forms: class -> (the switch, the input when it is off, the input when it is on).
TWO_FORMS = {"mxSlider": ("isfloatX", "Xi", "Xf")}
# What goes in here leaves no trace of its words.
FORGETS_TEXT = frozenset({"ConditioningZeroOut"})

# Node class -> the package (registry id) that brings it, for packs whose classes are common in the wild.
NODE_PACKAGES = {
    "IPAdapter": "comfyui_ipadapter_plus", "IPAdapterAdvanced": "comfyui_ipadapter_plus",
    "IPAdapterUnifiedLoader": "comfyui_ipadapter_plus", "IPAdapterModelLoader": "comfyui_ipadapter_plus",
    "IPAdapterFaceID": "comfyui_ipadapter_plus", "IPAdapterUnifiedLoaderFaceID": "comfyui_ipadapter_plus",
    "IPAdapterBatch": "comfyui_ipadapter_plus", "IPAdapterTiled": "comfyui_ipadapter_plus",
    "ADE_AnimateDiffLoaderGen1": "comfyui-animatediff-evolved",
    "ADE_AnimateDiffLoaderWithContext": "comfyui-animatediff-evolved",
    "ADE_UseEvolvedSampling": "comfyui-animatediff-evolved",
    "ADE_LoadAnimateDiffModel": "comfyui-animatediff-evolved",
    "ADE_ApplyAnimateDiffModelSimple": "comfyui-animatediff-evolved",
    "ADE_StandardUniformContextOptions": "comfyui-animatediff-evolved",
    "VHS_VideoCombine": "comfyui-videohelpersuite", "VHS_LoadVideo": "comfyui-videohelpersuite",
    "VHS_LoadVideoPath": "comfyui-videohelpersuite", "VHS_LoadImages": "comfyui-videohelpersuite",
    "VHS_LoadAudio": "comfyui-videohelpersuite", "VHS_SplitImages": "comfyui-videohelpersuite",
    "VHS_VideoInfo": "comfyui-videohelpersuite",
    "Power Lora Loader (rgthree)": "rgthree-comfy", "Seed (rgthree)": "rgthree-comfy",
    "Context (rgthree)": "rgthree-comfy", "Any Switch (rgthree)": "rgthree-comfy",
    "Image Comparer (rgthree)": "rgthree-comfy", "Power Primitive (rgthree)": "rgthree-comfy",
    "easy fullLoader": "comfyui-easy-use", "easy kSampler": "comfyui-easy-use",
    "easy positive": "comfyui-easy-use", "easy negative": "comfyui-easy-use", "easy seed": "comfyui-easy-use",
    "easy a1111Loader": "comfyui-easy-use", "easy preSampling": "comfyui-easy-use",
    "easy showAnything": "comfyui-easy-use", "easy comfyLoader": "comfyui-easy-use",
    "AIO_Preprocessor": "comfyui_controlnet_aux", "CannyEdgePreprocessor": "comfyui_controlnet_aux",
    "DWPreprocessor": "comfyui_controlnet_aux", "OpenposePreprocessor": "comfyui_controlnet_aux",
    "DepthAnythingPreprocessor": "comfyui_controlnet_aux", "DepthAnythingV2Preprocessor": "comfyui_controlnet_aux",
    "LineArtPreprocessor": "comfyui_controlnet_aux", "MiDaS-DepthMapPreprocessor": "comfyui_controlnet_aux",
    "HEDPreprocessor": "comfyui_controlnet_aux", "Zoe-DepthMapPreprocessor": "comfyui_controlnet_aux",
    "ACN_AdvancedControlNetApply": "comfyui-advanced-controlnet",
    "ControlNetLoaderAdvanced": "comfyui-advanced-controlnet",
    "FaceDetailer": "comfyui-impact-pack", "SAMLoader": "comfyui-impact-pack",
    "DetailerForEach": "comfyui-impact-pack", "ImpactWildcardProcessor": "comfyui-impact-pack",
    "UltralyticsDetectorProvider": "comfyui-impact-subpack",
    "UltimateSDUpscale": "comfyui_ultimatesdupscale",
    "UltimateSDUpscaleNoUpscale": "comfyui_ultimatesdupscale",
    "UnetLoaderGGUF": "comfyui-gguf", "CLIPLoaderGGUF": "comfyui-gguf", "DualCLIPLoaderGGUF": "comfyui-gguf",
    "WanVideoModelLoader": "comfyui-wanvideowrapper", "WanVideoSampler": "comfyui-wanvideowrapper",
    "WanVideoVAELoader": "comfyui-wanvideowrapper", "WanVideoTextEncode": "comfyui-wanvideowrapper",
    "HyVideoModelLoader": "comfyui-hunyuanvideowrapper", "HyVideoSampler": "comfyui-hunyuanvideowrapper",
    "ShowText|pysssss": "comfyui-custom-scripts", "StringFunction|pysssss": "comfyui-custom-scripts",
    "MathExpression|pysssss": "comfyui-custom-scripts",
    "GetImageSize+": "comfyui_essentials", "ImageResize+": "comfyui_essentials",
    "SimpleMath+": "comfyui_essentials", "MaskBlur+": "comfyui_essentials",
    "ImageResizeKJv2": "comfyui-kjnodes", "INTConstant": "comfyui-kjnodes", "FloatConstant": "comfyui-kjnodes",
    "StringConstant": "comfyui-kjnodes", "StringConstantMultiline": "comfyui-kjnodes",
    "ColorMatch": "comfyui-kjnodes", "GetImageSizeAndCount": "comfyui-kjnodes",
    "ReActorFaceSwap": "comfyui-reactor", "RIFE VFI": "comfyui-frame-interpolation",
    "FILM VFI": "comfyui-frame-interpolation", "CR Apply LoRA Stack": "comfyui_comfyroll_customnodes",
    "Efficient Loader": "efficiency-nodes-comfyui", "KSampler (Efficient)": "efficiency-nodes-comfyui",
    "KSampler SDXL (Eff.)": "efficiency-nodes-comfyui", "Text Multiline": "was-node-suite-comfyui",
    "Text Concatenate": "was-node-suite-comfyui", "Image Save": "was-node-suite-comfyui",
    "ApplyInstantID": "comfyui_instantid", "InstantIDModelLoader": "comfyui_instantid",
    "PulidModelLoader": "comfyui_pulid", "ApplyPulid": "comfyui_pulid",
    "LayerMask: SegmentAnythingUltra V2": "comfyui_layerstyle", "Florence2Run": "comfyui-florence2",
    "DownloadAndLoadFlorence2Model": "comfyui-florence2", "InpaintCropImproved": "comfyui-inpaint-cropandstitch",
    "InpaintStitchImproved": "comfyui-inpaint-cropandstitch", "ColorCorrect": "comfyui-post-processing-nodes",
    "TeaCache": "comfyui-teacache", "NunchakuFluxDiTLoader": "comfyui-nunchaku",
}  # fmt: skip
