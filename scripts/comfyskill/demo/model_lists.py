"""The model files that the demo server lists, by folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

# Folder kinds in the order in which the real server lists them.
FOLDERS = tuple(
    """
    checkpoints configs loras vae text_encoders diffusion_models clip_vision style_models embeddings
    diffusers vae_approx controlnet gligen upscale_models latent_upscale_models custom_nodes datasets
    hypernetworks photomaker classifiers model_patches audio_encoders background_removal
    frame_interpolation geometry_estimation optical_flow detection
    """.split()
)
SINCE_0_33 = frozenset({"datasets", *FOLDERS[-5:]})
LEGACY_NAMES = {"unet": "diffusion_models", "clip": "text_encoders"}

DATA = Path(__file__).parent / "data" / "models.json"


def default() -> dict[str, tuple[str, ...]]:
    """The usual names, those of the bundled workflows among them."""
    loaded: dict[str, list[str]] = json.loads(DATA.read_text(encoding="utf-8"))
    return {folder: tuple(names) for folder, names in loaded.items()}


def canonical(folder: str) -> str:
    """The folder's current name; `unet` and `clip` are old names of two of them."""
    return LEGACY_NAMES.get(folder, folder)


def read_models(values: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The model lists of `--models`: `FOLDER=name,name`, `FOLDER=` (empty), or a JSON file `{folder: [names]}`.

    Raises ValueError with a sentence for what is neither.
    """
    lists = default()
    for value in values:
        if "=" in value and not Path(value).is_file():
            folder, _, names = value.partition("=")
            lists[canonical(folder.strip())] = tuple(
                name.strip() for name in names.split(",") if name.strip()
            )
            continue
        try:
            loaded = json.loads(Path(value).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(
                f"--models {value}: not FOLDER=names and not a readable JSON file ({error})"
            ) from error
        if not isinstance(loaded, dict) or not all(isinstance(names, list) for names in loaded.values()):
            raise ValueError(f"--models {value}: the file must hold an object of lists, folder to names")
        lists.update(
            {canonical(folder): tuple(str(name) for name in names) for folder, names in loaded.items()}
        )
    return lists
