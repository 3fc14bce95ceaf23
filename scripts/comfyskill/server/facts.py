"""What is known of a server, whether it answers now, was saved in a file earlier, or cannot be reached.

`Facts` is the one type for all three. Code that only asks about nodes, models and files takes it; code that sends
something takes `Facts.live`, the server itself.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from comfyskill.base import file_names, foreign, safe_text, text_files
from comfyskill.base.cli import Document, Misuse, SkillError
from comfyskill.server.protocol import Dialect, NodeDefinitions

T = TypeVar("T")
FORMAT = "comfyui-inventory"
VERSION = 1
# Versions that identify an installation; free memory and the like change by the minute.
_VERSIONS = (
    "comfyui_version", "cloud_version", "os", "python_version", "pytorch_version", "required_frontend_version",
    "installed_templates_version", "comfyui_frontend_version", "workflow_templates_version",
)  # fmt: skip


class Facts(Protocol):
    """Answers about a server. Every method raises SkillError when that answer is not known.

    `origin`: where the node definitions come from: "server", "file", "inventory", "cache" (what was last seen of that
    server), "bundled" (core nodes only) or "none". `complete`: they hold every class that the server has, so that other
    classes are missing there and not just unknown here.
    """

    url: str
    api: str
    demo: bool
    fleeting: bool  # started for this command, stopped after it
    origin: str
    complete: bool

    @property
    def live(self) -> Dialect | None:
        """The server itself where it can be asked; None for saved facts and for an unreachable server."""

    @property
    def flags(self) -> list[str]:
        """The flags by which a printed command names the same facts, without keys."""

    def definitions(self, classes: Sequence[str] | None = None) -> NodeDefinitions:
        """Node definitions: of these classes, or all. Classes that the server lacks are absent."""

    def replacements(self) -> Mapping[str, object]:
        """The server's table of replaced node classes; empty where it has none."""

    def model_folders(self) -> list[str]:
        """The kinds of model folders the server has."""

    def models(self, folder: str) -> list[str]:
        """The names in one model folder. Raises SkillError `folder_not_found`, or why it was not listed."""

    def embeddings(self) -> list[str]:
        """Names of the embeddings, without suffix."""

    def has_input(self, value: str) -> bool | None:
        """Whether the file that an input value names is on the server; None when that is not known."""

    def features(self) -> Document:
        """The server's feature flags; empty when it has none."""

    def stats(self) -> Document:
        """Versions and devices, as /system_stats has them."""

    def close(self) -> None:
        """Close the connections."""


def version_of(server: Facts) -> tuple[int, ...]:
    """The version of ComfyUI as numbers, such as (0, 33, 0); empty where the server does not say it."""
    try:
        system = foreign.mapping(server.stats().get("system"))
    except SkillError:
        return ()
    found = re.match(r"v?(\d{1,9})\.(\d{1,9})(?:\.(\d{1,9}))?", foreign.text(system.get("comfyui_version")))
    return tuple(int(part or 0) for part in found.groups()) if found else ()


class Unreachable:
    """An unreachable server: every question raises the error that it was found with."""

    api = "local"
    demo = False
    fleeting = False
    origin = "none"
    complete = False
    live = None
    flags: list[str] = []

    def __init__(self, problem: SkillError, url: str) -> None:
        self.problem = problem
        self.url = url

    def _refuse(self, *_: object) -> NoReturn:
        problem = self.problem
        raise SkillError(
            problem.message, code=problem.code, exit=problem.exit, hint=problem.hint, **problem.details
        )

    definitions = replacements = model_folders = models = embeddings = has_input = features = stats = _refuse

    def close(self) -> None:
        """Nothing was opened."""


class Inventory:
    """What was saved of a server: an inventory file, or node definitions alone. Unknown parts raise SkillError `not_had`."""

    demo = False
    fleeting = False
    live = None

    def __init__(
        self,
        document: Mapping[str, object],
        url: str,
        *,
        origin: str = "inventory",
        complete: bool = True,
        flags: Sequence[str] = (),
    ) -> None:
        self._document = document
        self.url = url
        self.api = str(document.get("api") or "local")
        self.origin = origin
        self.complete = complete
        self.flags = list(flags)

    def definitions(self, classes: Sequence[str] | None = None) -> NodeDefinitions:
        """The definitions of these classes (all without); classes that the server lacked are absent."""
        known = self._mapping("definitions")
        if classes is None:
            return dict(known)
        return {name: known[name] for name in dict.fromkeys(classes) if name in known}

    def replacements(self) -> Mapping[str, object]:
        """The table of replaced classes; empty when the inventory has none."""
        return foreign.mapping(self._document.get("replacements"))

    def model_folders(self) -> list[str]:
        """The model folders, including those that the server could not list."""
        listed = set(self._mapping("models"))
        refused = foreign.mapping(self._document.get("not_had"))
        return sorted(listed | {key[7:] for key in refused if key.startswith("models/")})

    def models(self, folder: str) -> list[str]:
        """The names in one folder. Raises SkillError: `folder_not_found`, or why the server did not list it."""
        models = self._mapping("models")
        if folder in models:
            return [name for name in models[folder] if isinstance(name, str)]
        self._raise_noted(f"models/{folder}")
        raise SkillError(
            f"the inventory has no model folder {safe_text.quoted(folder)}", code="folder_not_found"
        )

    def embeddings(self) -> list[str]:
        """Names of the embeddings, without suffix."""
        listed = self._document.get("embeddings")
        if not isinstance(listed, list):
            self._not_had("embeddings")
        return [name for name in listed if isinstance(name, str)]

    def has_input(self, value: str) -> None:  # noqa: ARG002
        """None: an inventory lists no input files beyond what the definitions show."""
        return

    def features(self) -> Document:
        """The server's feature flags; empty when none were saved."""
        return dict(foreign.mapping(self._document.get("features")))

    def stats(self) -> Document:
        """Versions and devices in the shape of /system_stats."""
        return dict(self._mapping("system"))

    def close(self) -> None:
        """Nothing was opened."""

    def _mapping(self, name: str) -> Document:
        part = self._document.get(name)
        return part if isinstance(part, dict) else self._not_had(name)

    def _not_had(self, name: str) -> NoReturn:
        self._raise_noted(name)
        raise SkillError(f"the inventory has no {name}", code="not_had")

    def _raise_noted(self, what: str) -> None:
        """Raises the reason that was noted when the server did not give this part."""
        why = foreign.mapping(self._document.get("not_had")).get(what)
        if why:
            raise SkillError(
                f"the server did not return {what} when the inventory was made ({safe_text.clean(why, 40)})",
                code="refused" if why == "refused" else "not_had",
            )


def load(path: str | Path) -> Inventory:
    """The inventory in a file. A bare /object_info answer counts as one with only definitions.

    Raises:
        SkillError: (exit 2) no such file, not JSON, or not an inventory.
    """
    from comfyskill.base.json_in import parse, text_of

    hint = "make one with scripts/check_deps.py --save-inventory FILE"
    try:
        data = text_files.read_bytes(Path(path))
    except OSError as error:
        raise Misuse(f"cannot read the inventory {path}: {error.strerror or error}", hint=hint) from error
    document, _ = parse(text_of(data, str(path)), f"inventory {path}")
    flags = ["--inventory", str(path)]
    if isinstance(document, Mapping) and document.get("format") == FORMAT:
        if document.get("version") != VERSION:
            raise Misuse(f"{path} is an inventory of an unsupported version", hint="make a new one")
        return Inventory(document, f"inventory {Path(path).name}", flags=flags)
    if isinstance(document, Mapping) and _looks_like_definitions(document):
        return Inventory({"definitions": document}, f"definitions {Path(path).name}", flags=flags)
    raise Misuse(f"{path} is not an inventory", hint=hint)


def _looks_like_definitions(document: Mapping[str, object]) -> bool:
    return bool(document) and all(
        isinstance(foreign.mapping(entry).get("input"), Mapping) for entry in list(document.values())[:20]
    )


def take(server: Facts) -> Document:
    """Everything in an inventory, asked of a server; what could not be fetched is listed under `not_had`.

    Raises SkillError when even the node definitions cannot be fetched.
    """
    not_had: dict[str, str] = {}
    document: Document = {"format": FORMAT, "version": VERSION, "api": server.api}
    document["definitions"] = server.definitions()
    document["replacements"] = _asked(not_had, "replacements", server.replacements) or None
    document["system"] = _asked(not_had, "system", lambda: _versions(server.stats()))
    document["features"] = _asked(not_had, "features", server.features)
    document["embeddings"] = _asked(not_had, "embeddings", lambda: sorted(server.embeddings()))
    folders = _asked(not_had, "models", server.model_folders) or []
    models = {
        folder: _asked(not_had, f"models/{folder}", partial(_sorted_models, server, folder))
        for folder in sorted(set(folders) - {"custom_nodes"})
    }
    document["models"] = {folder: names for folder, names in models.items() if names is not None}
    document["node_packs"] = _packs(document["definitions"])
    document["not_had"] = not_had or None
    return {key: value for key, value in document.items() if value is not None}


def _asked(not_had: dict[str, str], what: str, ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except SkillError as error:
        if error.code == "unreachable":
            raise
        not_had[what] = error.code
        return None


def _sorted_models(server: Facts, folder: str) -> list[str]:
    return sorted(server.models(folder))


def _versions(stats: Document) -> Document:
    """What identifies the installation: versions, and the devices with their total memory."""
    system = foreign.mapping(stats.get("system"))
    versions = {key: system[key] for key in _VERSIONS if isinstance(system.get(key), str)}
    devices = [
        {key: device[key] for key in ("name", "type", "vram_total") if key in device}
        for device in foreign.mappings(stats.get("devices"))
    ]
    return {"system": versions, "devices": devices}


def _packs(definitions: Mapping[str, object]) -> dict[str, int]:
    """How many classes each node pack brings, by the folder that its definitions name."""
    packs: Counter[str] = Counter()
    for definition in definitions.values():
        module = foreign.text(foreign.mapping(definition).get("python_module"))
        if module.startswith("custom_nodes."):
            packs[module.removeprefix("custom_nodes.")] += 1
    return dict(packs)


def save(document: Mapping[str, object], path: Path) -> None:
    """Write an inventory whole or not at all. Raises SkillError (exit 2) when it cannot be written there."""
    text = json.dumps(document, ensure_ascii=True, indent=1, sort_keys=True, allow_nan=False) + "\n"
    file_names.write_asked(path, text.encode("ascii"), "give --save-inventory another place")
