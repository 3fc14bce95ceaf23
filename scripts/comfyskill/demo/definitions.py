"""Node definitions: what `/object_info` answers, and the same facts for validation and execution."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfyskill.base.cli import Document
from comfyskill.demo import model_lists
from comfyskill.demo.folders import Folders

DATA = Path(__file__).parent / "data"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
AUDIO_SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".mp4", ".webm")
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".gif", ".webp")

# Inputs whose choices are model files, by input name; then the classes that use the name differently.
FOLDER_OF_INPUT: Mapping[str, str] = {
    "ckpt_name": "checkpoints",
    "lora_name": "loras",
    "unet_name": "diffusion_models",
    "vae_name": "vae",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
    "clip_name3": "text_encoders",
    "clip_name4": "text_encoders",
    "text_encoder": "text_encoders",
    "control_net_name": "controlnet",
    "style_model_name": "style_models",
    "gligen_name": "gligen",
    "hypernetwork_name": "hypernetworks",
    "photomaker_model_name": "photomaker",
    "audio_encoder_name": "audio_encoders",
}
FOLDER_OF_CLASS_INPUT: Mapping[tuple[str, str], str] = {
    ("CLIPVisionLoader", "clip_name"): "clip_vision",
    ("UpscaleModelLoader", "model_name"): "upscale_models",
    ("LatentUpscaleModelLoader", "model_name"): "latent_upscale_models",
    ("ModelPatchLoader", "name"): "model_patches",
    ("DiffusersLoader", "model_path"): "diffusers",
    ("ADE_AnimateDiffLoaderWithContext", "model_name"): "animatediff_models",
    ("ADE_AnimateDiffLoaderGen1", "model_name"): "animatediff_models",
    ("ADE_LoadAnimateDiffModel", "model_name"): "animatediff_models",
}
# Inputs whose choices are files of the input (or output) folder.
FILES_OF_CLASS_INPUT: Mapping[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("LoadImage", "image"): ("input", IMAGE_SUFFIXES),
    ("LoadImageMask", "image"): ("input", IMAGE_SUFFIXES),
    ("LoadAudio", "audio"): ("input", AUDIO_SUFFIXES),
    ("LoadVideo", "file"): ("input", VIDEO_SUFFIXES),
    ("VHS_LoadVideo", "video"): ("input", VIDEO_SUFFIXES),
    ("LoadLatent", "latent"): ("input", (".latent",)),
    ("OpenAIInputFiles", "file"): ("input", (".pdf", ".txt")),
    ("GeminiInputFiles", "file"): ("input", (".pdf", ".txt")),
}


@dataclass(frozen=True)
class Input:
    """One input of a class. `choices` is None unless the input is a combo box."""

    name: str
    required: bool
    type: str
    choices: tuple[Any, ...] | None
    options: Mapping[str, Any]
    spec: list[Any]

    @property
    def config(self) -> list[Any]:
        """The input as error bodies show it: always `[type, options]`."""
        return [self.spec[0], dict(self.options)]


@dataclass(frozen=True)
class NodeClass:
    """A class, ready for validation and execution."""

    name: str
    inputs: Mapping[str, Input]
    outputs: tuple[str, ...]
    output_is_list: tuple[bool, ...]
    output_node: bool
    intermediate: bool
    api_node: bool
    v3: bool
    hidden: tuple[str, ...]
    module: str


class Definitions:
    """All classes that this server has. Choices of files and models are read again at each request."""

    def __init__(
        self, newest: bool, models: Mapping[str, tuple[str, ...]], folders: Folders, extra: Mapping[str, Any]
    ) -> None:
        """`newest`: the classes of 0.33; else those of 0.8."""
        self.newest = newest
        self.models = dict(models)
        self.folders = folders
        self.compact: dict[str, Document] = _read("definitions.json")
        if not newest:
            older = _read("definitions_0.8.json")
            self.compact.update(older["changed"])
            for name in older["absent"]:
                self.compact.pop(name, None)
        self.compact.update(_read("definitions_extra.json"))
        # Definitions given by the user: whole entries, as /object_info shows them.
        self.given = dict(extra)
        self.classes: dict[str, NodeClass] = {}

    def __contains__(self, name: object) -> bool:
        return name in self.compact or name in self.given

    def names(self) -> Iterator[str]:
        yield from self.compact
        yield from (name for name in self.given if name not in self.compact)

    def entry(self, name: str) -> Document | None:
        """The class's entry in `/object_info`, or None."""
        if name in self.given:
            return dict(self.given[name])
        compact = self.compact.get(name)
        if compact is None:
            return None
        inputs = {group: self._group(name, specs) for group, specs in compact["input"].items()}
        return _expanded(name, compact, inputs, self.newest)

    def choices(self, class_name: str, input_name: str) -> list[Any] | None:
        """The current choices of an input that lists files or models, or None for all others."""
        found = FILES_OF_CLASS_INPUT.get((class_name, input_name))
        if found is not None:
            return list(self.folders.listing(*found))
        folder = FOLDER_OF_CLASS_INPUT.get((class_name, input_name))
        if folder is None and (class_name, input_name) not in _LITERAL:
            folder = FOLDER_OF_INPUT.get(input_name)
        if folder is None:
            return None
        names = [str(name) for name in self.models.get(folder, ())]
        return [*names, "pixel_space"] if input_name == "vae_name" else names

    def node(self, name: str) -> NodeClass:
        """The class with its choices as they are now. Raises KeyError."""
        kept = self.classes.get(name)
        if kept is None:
            kept = self._node(name)
            self.classes[name] = kept
        changing = [key for key in kept.inputs if (name, key) in FILES_OF_CLASS_INPUT]
        if changing:
            # The choices are files, which change: built again each time.
            return self._node(name)
        return kept

    def _node(self, name: str) -> NodeClass:
        entry = self.entry(name)
        if entry is None:
            raise KeyError(name)
        inputs: dict[str, Input] = {}
        for group in ("required", "optional"):
            for key, spec in (entry["input"].get(group) or {}).items():
                inputs[key] = read_input(key, spec, group == "required")
        return NodeClass(
            name=name,
            inputs=inputs,
            outputs=tuple("COMBO" if isinstance(kind, list) else str(kind) for kind in entry["output"]),
            output_is_list=tuple(
                bool(flag) for flag in entry.get("output_is_list") or [False] * len(entry["output"])
            ),
            output_node=bool(entry.get("output_node")),
            intermediate=bool(entry.get("has_intermediate_output")),
            api_node=bool(entry.get("api_node")),
            v3=bool(self.compact.get(name, {}).get("v3")),
            hidden=tuple((entry["input"].get("hidden") or {}).keys()),
            module=str(entry.get("python_module", "")),
        )

    def _group(self, class_name: str, specs: Mapping[str, Any]) -> Document:
        return {key: self._spec(class_name, key, spec) for key, spec in specs.items()}

    def _spec(self, class_name: str, key: str, spec: Any) -> Any:
        choices = self.choices(class_name, key) if isinstance(spec, list) and spec else None
        if choices is None:
            return spec
        if isinstance(spec[0], list):
            return [choices, *spec[1:]]
        if spec[0] == "COMBO":
            return ["COMBO", {**(spec[1] if len(spec) > 1 else {}), "options": choices}]
        return spec


# Inputs with a loader's input name that hold something else.
_LITERAL = frozenset({("SaveLoRA", "lora_name"), ("LoraSave", "lora_name")})


def read_input(key: str, spec: Any, required: bool) -> Input:
    """One input from its specification in a definition (old combo style, new combo style, plain type)."""
    parts = list(spec) if isinstance(spec, (list, tuple)) else [spec]
    kind = parts[0]
    options = parts[1] if len(parts) > 1 and isinstance(parts[1], dict) else {}
    choices: tuple[Any, ...] | None = None
    if isinstance(kind, list):
        choices, kind_name = tuple(kind), "COMBO"
    else:
        kind_name = str(kind)
        if kind_name == "COMBO":
            choices = tuple(options.get("options") or ())
    return Input(key, required, kind_name, choices, options, parts)


def _read(name: str) -> Document:
    loaded: Document = json.loads((DATA / name).read_text(encoding="utf-8"))
    return loaded


def _expanded(name: str, compact: Mapping[str, Any], inputs: Document, newest: bool) -> Document:
    """A class's entry as /object_info shows it."""
    output = compact["output"]
    entry: Document = {
        "input": inputs,
        "input_order": {group: list(specs) for group, specs in inputs.items()},
        "output": output,
        "output_is_list": compact.get("output_is_list") or [False] * len(output),
        "output_name": compact.get("output_name") or output,
    }
    if compact.get("v3"):
        entry["output_tooltips"] = [None] * len(output)
        entry["output_matchtypes"] = compact.get("output_matchtypes")
    entry |= {
        "name": name,
        "display_name": compact.get("display_name", name),
        "description": compact.get("description", ""),
        "python_module": compact["module"],
        "category": compact["category"],
        "output_node": bool(compact.get("output_node")),
    }
    for flag in ("deprecated", "experimental", "api_node"):
        if compact.get(flag) or compact.get("v3"):
            entry[flag] = bool(compact.get(flag))
    if newest:
        entry["is_input_list"] = bool(compact.get("is_input_list"))
        entry["has_intermediate_output"] = bool(compact.get("has_intermediate_output"))
        entry["search_aliases"] = compact.get("search_aliases") or (None if compact.get("v3") else [])
    if newest and compact.get("v3"):
        entry |= {"dev_only": bool(compact.get("dev_only")), "price_badge": None, "essentials_category": None}
    return entry


def model_folders(newest: bool, models: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Folder kinds as `/models` lists them, those added by `--models` at the end."""
    known = [name for name in model_lists.FOLDERS if newest or name not in model_lists.SINCE_0_33]
    return known + [name for name in models if name not in model_lists.FOLDERS]
