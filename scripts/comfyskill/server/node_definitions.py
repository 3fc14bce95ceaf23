"""Node definitions from the best available source: the server, this user's cache of that server, the bundled core."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import _common
from comfyskill.base import cache, cli, file_names, flags, paths, safe_text, text_files
from comfyskill.base.cli import Exit, Misuse, SkillError
from comfyskill.graph import facts as graph_facts
from comfyskill.graph import nodes
from comfyskill.server.protocol import Dialect

BUNDLED = Path(__file__).resolve().parent.parent / "graph" / "core_definitions.json"
FORMAT = "comfyui-inventory"
VERSION = 1
# Versions that say which installation it was; free memory and the like change by the minute.
_FACTS = (
    "comfyui_version", "cloud_version", "os", "python_version", "pytorch_version", "required_frontend_version",
    "installed_templates_version", "comfyui_frontend_version", "workflow_templates_version",
)  # fmt: skip


class Definitions:
    """Node definitions and where they come from.

    origin: "server", "file", "inventory", "cache" (what was last seen of that server), "bundled" (core nodes only) or
    "none". complete: they hold every class that the server has, so that others are missing there and not just unknown
    here. A server is only asked when they are wanted; one that gives none changes both to those of the next best place.
    """

    def __init__(
        self,
        origin: str,
        value: Mapping[str, Any] | None = None,
        *,
        complete: bool = True,
        server: Dialect | None = None,
    ) -> None:
        self.origin = origin
        self.complete = complete
        self.server = server
        self._value = value

    def all(self) -> Mapping[str, Any] | None:
        """All of them, or None. Raises SkillError `refused` or `unreachable`."""
        return self._asked(lambda server: server.all_definitions())

    def of(self, classes: Sequence[str]) -> Mapping[str, Any] | None:
        """At least those of some classes, or None. Raises SkillError `refused` or `unreachable`."""
        return self._asked(lambda server: server.definitions(classes))

    def _asked(self, question: Callable[[Dialect], Mapping[str, Any]]) -> Mapping[str, Any] | None:
        if self.server is None or self.origin != "server":
            return self._value
        try:
            return question(self.server)
        except SkillError as error:
            if error.code in ("refused", "unreachable"):
                raise
            instead = without_server(self.server.url)
            self.origin, self.complete, self._value = instead.origin, instead.complete, instead._value
            return self._value


def classes_of(graph: Mapping[str, Any]) -> list[str]:
    """The class types of a graph, each once."""
    return sorted({nodes.class_of(node) for _, node in nodes.each(graph)})


def of_classes(server: Dialect, classes: Sequence[str]) -> dict[str, Any] | None:
    """A server's definitions of at least these classes; None where it gives none, and the built-in tables must do.

    Raises SkillError for a server that is unreachable or refuses.
    """
    try:
        return server.definitions(classes)
    except SkillError as error:
        if error.exit in (Exit.UNREACHABLE, Exit.REFUSED):
            raise
        if error.code != "not_offered":
            cli.warn(f"node definitions could not be read; using the built-in tables: {error.message}")
        return None


def of_server(server: Dialect) -> Definitions:
    """The definitions of a server, fetched on first use."""
    return Definitions("server", server=server)


def without_server(host: str | None = None) -> Definitions:
    """What was last seen of the server at this address (default: as for --host), else the bundled core nodes."""
    address = host or os.environ.get("COMFY_HOST") or flags.DEFAULT_HOST
    kept = cached(_common.normal_base(address)) if address != "demo" else None
    if kept:
        return Definitions("cache", kept)
    core = bundled()
    return Definitions("bundled" if core else "none", core, complete=False)


def cached(url: str) -> Mapping[str, Any] | None:
    """What was last seen of a server's definitions."""
    return cache.recall_table(f"definitions/{cache.slug(url)}")


def bundled() -> Mapping[str, Any] | None:
    """The core nodes' definitions that come with this bundle, or None when it has none."""
    if not BUNDLED.is_file():
        return None
    definitions = from_file(str(BUNDLED))
    for class_type, definition in definitions.items():
        for section in definition["input"].values():
            for name, spec in section.items():
                # Only a server knows which model files exist.
                if graph_facts.model_folder(class_type, name) and len(spec) > 1:
                    section[name] = [
                        spec[0],
                        {key: value for key, value in spec[1].items() if key != "options"},
                    ]
    return definitions


def from_file(path: str) -> dict[str, Any]:
    """Node definitions saved with --object-info. Raises SkillError (exit 2) when the file holds none."""
    try:
        value = json.loads(text_files.read_bytes(paths.expanded(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise Misuse(
            f"cannot read node definitions from {path}", hint="save the server's /object_info there"
        ) from error
    if not isinstance(value, dict) or not any(
        isinstance(item, dict) and "input" in item for item in value.values()
    ):
        raise Misuse(f"{path} contains no node definitions", hint="save the server's /object_info there")
    return value


def take(server: Dialect) -> dict[str, Any]:
    """Ask a server for everything in an inventory; what could not be fetched is listed under `not_had`.

    Raises SkillError when even the node definitions cannot be fetched.
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
    """Write an inventory whole or not at all. Raises SkillError (exit 2) when it cannot be written there."""
    text = json.dumps(document, ensure_ascii=True, indent=1, sort_keys=True, allow_nan=False) + "\n"
    file_names.write_asked(path, text.encode("ascii"), "give --save-inventory another place")


class Inventory:
    """An inventory that replaces a server in questions about definitions, models, embeddings and versions."""

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
            f"the inventory has no model folder {safe_text.quoted(folder)}",
            code="folder_not_found",
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
        """An inventory has no routes. Raises SkillError `not_found`, as a server without that route does."""
        raise SkillError(
            f"an inventory cannot be asked for {path}",
            code="not_found",
            hint="give --host instead of --inventory",
        )

    def list_jobs(self, *asked: Any, **options: Any) -> Any:  # noqa: ARG002
        """An inventory has no jobs. Raises SkillError `not_found`."""
        return self.get_json("jobs")

    def close(self) -> None:
        """Does nothing; servers have this method too."""

    def _part(self, name: str, kind: type) -> Any:
        part = self._document.get(name)
        if isinstance(part, kind):
            return part
        self._refuse(name)
        raise SkillError(f"the inventory has no {name}", code="not_had")

    def _refuse(self, what: str) -> None:
        why = (self._document.get("not_had") or {}).get(what)
        if why:
            raise SkillError(
                f"the server did not return {what} when the inventory was made ({safe_text.clean(why, 40)})",
                code="refused" if why == "refused" else "not_had",
                exit=Exit.REFUSED if why == "refused" else Exit.FAILED,
            )


def load(path: str | Path) -> Inventory:
    """The inventory in a file. A bare /object_info answer counts as one with only definitions.

    Raises:
        SkillError: (exit 2) no such file, not JSON, or no inventory.
    """
    from comfyskill.base.json_in import parse, text_of

    try:
        data = text_files.read_bytes(Path(path))
    except OSError as error:
        raise Misuse(
            f"cannot read the inventory {path}: {error.strerror or error}",
            hint="make one with scripts/check_deps.py --save-inventory FILE",
        ) from error
    document, _ = parse(text_of(data, str(path)), f"inventory {path}")
    if isinstance(document, Mapping) and document.get("format") == FORMAT:
        if document.get("version") != VERSION:
            raise Misuse(f"{path} is an inventory of an unsupported version", hint="make a new one")
        return Inventory(document, f"inventory {Path(path).name}", path)
    if isinstance(document, Mapping) and _looks_like_definitions(document):
        return Inventory({"definitions": document, "api": "local"}, f"definitions {Path(path).name}", path)
    raise Misuse(
        f"{path} is not an inventory", hint="make one with scripts/check_deps.py --save-inventory FILE"
    )


def _looks_like_definitions(document: Mapping[str, Any]) -> bool:
    return bool(document) and all(
        isinstance(entry, Mapping) and isinstance(entry.get("input"), Mapping)
        for entry in list(document.values())[:20]
    )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """--object-info and --offline, beside the shared server flags."""
    group = parser.add_argument_group("node definitions")
    group.add_argument(
        "--object-info",
        metavar="FILE",
        help="node definitions saved from a server's /object_info; no server is asked",
    )
    group.add_argument(
        "--offline",
        action="store_true",
        help="ask no server: use cached definitions, else those of the core nodes",
    )
    group.add_argument(
        "--inventory",
        metavar="FILE",
        help="a file of check_deps.py --save-inventory; no server is asked",
    )
    flags.add_server_flags(parser)
    flags.add_quiet_flag(parser)


def from_flags(args: argparse.Namespace) -> Definitions:
    """The definitions that the flags of `add_flags` name.

    A server that was not named (neither --host nor $COMFY_HOST) and does not answer is not a failure: then it is as
    with --offline. Raises SkillError (exit 2) for contradicting flags, (3) for a named server out of reach.
    """
    cli.be_quiet(args.quiet)
    _refuse_contradictions(args)
    if args.object_info:
        return Definitions("file", from_file(args.object_info))
    if args.inventory:
        return Definitions("inventory", load(args.inventory).all_definitions())
    if args.offline:
        return without_server(args.host)
    from comfyskill.server import connect

    try:
        server = connect.connect_from(args)
    except SkillError as error:
        if error.code != "unreachable" or args.host or os.environ.get("COMFY_HOST"):
            raise
        cli.note("no server answers; using cached or built-in definitions")
        return without_server(args.host)
    return of_server(server)


def _refuse_contradictions(args: argparse.Namespace) -> None:
    given = [
        flag
        for flag, value in (("--object-info", args.object_info), ("--inventory", args.inventory))
        if value
    ]
    given += ["--offline"] if args.offline else []
    if len(given) > 1:
        raise Misuse(f"{given[0]} and {given[1]} contradict each other", hint="give one of them")
    # With --offline an address still says whose cached definitions are meant.
    if given and args.host and (given != ["--offline"] or args.host == "demo"):
        raise Misuse(f"{given[0]} asks no server", hint="omit --host")
