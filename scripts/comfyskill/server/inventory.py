"""What a server had at one moment, in one file that can be kept, compared and asked instead of the server. Level 3.

The file holds definitions, model names, embeddings and versions; no times, no addresses of this machine, keys sorted,
so that two files of one installation differ only where the installation did. `load` answers the questions that a
server object answers; what was not had is refused, never empty.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyskill.base import file_names, safe_text, text_files
from comfyskill.base.cli import Exit, SkillError

if TYPE_CHECKING:
    from comfyskill.server.protocol import Dialect

FORMAT = "comfyui-inventory"
VERSION = 1
# Versions that say which installation it was; free memory and the like change by the minute.
_FACTS = (
    "comfyui_version", "cloud_version", "os", "python_version", "pytorch_version", "required_frontend_version",
    "installed_templates_version", "comfyui_frontend_version", "workflow_templates_version",
)  # fmt: skip


def take(server: Dialect) -> dict[str, Any]:
    """Ask a server for all that an inventory holds; what could not be had is named under `not_had`.

    Raises SkillError when not even the node definitions can be had.
    """
    not_had: dict[str, str] = {}
    document: dict[str, Any] = {"format": FORMAT, "version": VERSION, "api": server.api}
    document["definitions"] = server.definitions(None)
    document["system"] = _asked(not_had, "system", lambda: _facts(server.stats()))
    document["features"] = _asked(not_had, "features", server.features)
    document["embeddings"] = _asked(not_had, "embeddings", lambda: sorted(server.embeddings()))
    folders = _asked(not_had, "models", server.model_folders) or []
    document["models"] = {}
    for folder in sorted(set(folders) - {"custom_nodes"}):
        names = _asked(not_had, f"models/{folder}", partial(_sorted_models, server, folder))
        if names is not None:
            document["models"][folder] = names
    document["node_packs"] = _packs(document["definitions"])
    if not_had:
        document["not_had"] = not_had
    return {key: value for key, value in document.items() if value is not None}


def _asked(not_had: dict[str, str], what: str, ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except SkillError as error:
        if error.code == "unreachable":
            raise
        not_had[what] = error.code
        return None


def _sorted_models(server: Dialect, folder: str) -> list[str]:
    return sorted(server.models(folder))


def _facts(stats: Mapping[str, Any]) -> dict[str, Any]:
    system = stats["system"]
    facts = {key: system[key] for key in _FACTS if isinstance(system.get(key), str)}
    devices = [
        {key: device[key] for key in ("name", "type", "vram_total") if key in device}
        for device in stats.get("devices") or []
        if isinstance(device, Mapping)
    ]
    return {"system": facts, "devices": devices}


def _packs(definitions: Mapping[str, Any]) -> dict[str, int]:
    """How many classes each node pack brings, by the folder that its definitions name."""
    packs: dict[str, int] = {}
    for definition in definitions.values():
        module = definition.get("python_module") if isinstance(definition, Mapping) else None
        if isinstance(module, str) and module.startswith("custom_nodes."):
            name = module.removeprefix("custom_nodes.")
            packs[name] = packs.get(name, 0) + 1
    return packs


def save(document: Mapping[str, Any], path: Path) -> None:
    """Write an inventory whole or not at all. Raises SkillError (exit 2) when the place does not take it."""
    text = json.dumps(document, ensure_ascii=True, indent=1, sort_keys=True, allow_nan=False) + "\n"
    file_names.write_asked(path, text.encode("ascii"), "give --save-inventory another place")


class Inventory:
    """An inventory that stands in for a server where one is asked for definitions, models, embeddings and versions."""

    demo = False
    fleeting = False

    def __init__(self, document: Mapping[str, Any], origin: str, path: str | Path) -> None:
        self._document = document
        self.url = origin
        self.words = ["--inventory", str(path)]  # the flags that name it, for commands
        self.api = str(document.get("api") or "local")

    def definitions(self, classes: Sequence[str] | None = None) -> dict[str, Any]:
        """The definitions of these classes (all without); classes that the server lacked are absent."""
        known = self._part("definitions", dict)
        if classes is None:
            return dict(known)
        return {name: known[name] for name in dict.fromkeys(classes) if name in known}

    def all_definitions(self) -> dict[str, Any]:
        return self.definitions(None)

    def model_folders(self) -> list[str]:
        """The model folders that the server had, those that could not be listed too."""
        listed = set(self._part("models", dict))
        refused = self._document.get("not_had") or {}
        return sorted(listed | {key[7:] for key in refused if key.startswith("models/")})

    def models(self, folder: str) -> list[str]:
        """The names in one folder. Raises SkillError: `folder_not_found`, or why the server did not list it."""
        models = self._part("models", dict)
        if folder in models:
            return [name for name in models[folder] if isinstance(name, str)]
        self._refuse(f"models/{folder}")
        raise SkillError(
            f"the inventory knows no model folder {safe_text.quoted(folder)}",
            code="folder_not_found",
            exit=Exit.FAILED,
        )

    def embeddings(self) -> list[str]:
        """Names of the embeddings, without suffix."""
        return [name for name in self._part("embeddings", list) if isinstance(name, str)]

    def features(self) -> dict[str, Any]:
        """The server's feature flags, empty when it had none."""
        features = self._document.get("features")
        return dict(features) if isinstance(features, Mapping) else {}

    def stats(self) -> dict[str, Any]:
        """Versions and devices in the shape of /system_stats."""
        return dict(self._part("system", dict))

    def has_input(self, value: str) -> bool | None:  # noqa: ARG002
        """An inventory holds no list of input files beyond what the definitions show."""
        return None

    def get_json(self, path: str, params: Any = None, **options: Any) -> Any:  # noqa: ARG002
        """There is nobody to ask. Raises SkillError `not_found`, as a server without that route does."""
        raise SkillError(
            f"an inventory cannot be asked for {path}",
            code="not_found",
            exit=Exit.FAILED,
            hint="give --host instead of --inventory",
        )

    def list_jobs(self, *asked: Any, **options: Any) -> Any:  # noqa: ARG002
        """It has no jobs, and nobody to ask for them. Raises SkillError `not_found`."""
        return self.get_json("jobs")

    def close(self) -> None:
        """Nothing to close; a server has it."""

    def _part(self, name: str, kind: type) -> Any:
        part = self._document.get(name)
        if isinstance(part, kind):
            return part
        self._refuse(name)
        raise SkillError(f"the inventory has no {name}", code="not_had", exit=Exit.FAILED)

    def _refuse(self, what: str) -> None:
        why = (self._document.get("not_had") or {}).get(what)
        if why:
            raise SkillError(
                f"the server did not give {what} when the inventory was taken ({safe_text.clean(why, 40)})",
                code="refused" if why == "refused" else "not_had",
                exit=Exit.REFUSED if why == "refused" else Exit.FAILED,
            )


def load(path: str | Path) -> Inventory:
    """The inventory in a file. A bare /object_info answer is taken as one that has definitions alone.

    Raises:
        SkillError: (exit 2) no such file, not JSON, or no inventory.
    """
    from comfyskill.base.json_in import parse, text_of

    try:
        data = text_files.read_bytes(Path(path))
    except OSError as error:
        raise SkillError(
            f"cannot read the inventory {path}: {error.strerror or error}",
            hint="make one with scripts/check_deps.py --save-inventory FILE",
        ) from error
    document, _ = parse(text_of(data, str(path)), f"inventory {path}")
    if isinstance(document, Mapping) and document.get("format") == FORMAT:
        if document.get("version") != VERSION:
            raise SkillError(
                f"{path} is an inventory of a version that is not known here", hint="take a new one"
            )
        return Inventory(document, f"inventory {Path(path).name}", path)
    if isinstance(document, Mapping) and _looks_like_definitions(document):
        return Inventory({"definitions": document, "api": "local"}, f"definitions {Path(path).name}", path)
    raise SkillError(
        f"{path} is no inventory", hint="make one with scripts/check_deps.py --save-inventory FILE"
    )


def _looks_like_definitions(document: Mapping[str, Any]) -> bool:
    return bool(document) and all(
        isinstance(entry, Mapping) and isinstance(entry.get("input"), Mapping)
        for entry in list(document.values())[:20]
    )
