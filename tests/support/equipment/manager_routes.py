"""The test server's Manager: node packs that it simulates are absent until installed, models are only names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from comfyskill.demo.definitions import Definitions
from comfyskill.demo.model_lists import canonical
from comfyskill.demo.routes import Route, empty, with_api
from equipment.manager import Manager

INDEX = Path(__file__).resolve().parents[3] / "workflows" / "index.json"
# Seconds for which the server is away when the Manager restarts it.
AWAY = 0.3
# Modules under custom_nodes that are not installable packs: ComfyUI's own and the demo's.
OUR_PACKS = frozenset({"websocket_image_save", "demo_nodes"})


class ManagedDefinitions(Definitions):
    """Definitions without the classes of packs that the Manager has not installed (`absent`)."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.absent: set[str] = set()

    def __contains__(self, name: object) -> bool:
        return name not in self.absent and super().__contains__(name)

    def names(self) -> Iterator[str]:
        yield from (name for name in super().names() if name not in self.absent)

    def entry(self, name: str) -> dict[str, Any] | None:
        return None if name in self.absent else super().entry(name)

    def packs(self) -> dict[str, set[str]]:
        """The node packs whose classes are known here: registry id -> class names."""
        found: dict[str, set[str]] = {}
        for name in super().names():
            house, _, pack = str((super().entry(name) or {}).get("python_module")).partition(".")
            if house == "custom_nodes" and pack not in OUR_PACKS:
                found.setdefault(pack.lower(), set()).add(name)
        return found

    def add_model(self, folder: str, name: str) -> None:
        """List one more model file."""
        self.models[folder] = (*self.models.get(folder, ()), name)
        self.classes.clear()


class ManagerRoutes:
    """The routes of `--manager`."""

    def __init__(self, definitions: ManagedDefinitions, shape: str, restart: Callable[[float], None]) -> None:
        self.definitions, self._restart = definitions, restart
        self.packs = definitions.packs()
        definitions.absent = {name for classes in self.packs.values() for name in classes}
        self.manager = Manager(shape, install=self.packs.__contains__, fetch=self.fetch, restart=self.restart)
        self.manager.mappings = {
            pack: [sorted(classes), {"title_aux": f"{pack} (demo)"}] for pack, classes in self.packs.items()
        }
        self.manager.models = known_models()

    def routes(self) -> list[Route]:
        prefix = "" if self.manager.shape == "v3" else "/v2"
        return with_api(
            [
                (method, f"{prefix}/{house}/{{rest:.+}}", self.answer)
                for house in ("manager", "customnode", "externalmodel")
                for method in ("GET", "POST")
            ]
        )

    async def answer(self, request: web.Request) -> web.Response:
        """The Manager's answer to this request."""
        text = await request.text()
        try:
            body = json.loads(text) if text else None
        except ValueError:
            return empty(400)
        path = request.path.removeprefix("/api").strip("/")
        found = self.manager.answer(request.method, path, request.query, body, request.content_type)
        if found is None:
            # As everywhere on the server: its static files take any path, with GET alone.
            return empty(404 if request.method == "GET" else 405)
        if isinstance(found, int):
            return empty(found)
        return web.Response(text=found) if isinstance(found, str) else web.json_response(found)

    def fetch(self, order: Mapping[str, Any]) -> bool:
        """Simulate a download: the name is listed from now on."""
        folder, _, inside = str(order.get("save_path")).partition("/")
        name = str(order.get("filename"))
        self.definitions.add_model(canonical(folder), f"{inside}/{name}" if inside else name)
        return True

    def restart(self) -> None:
        """Simulate a restart: the classes of installed packs exist afterwards."""
        for pack in self.manager.installed:
            self.definitions.absent -= self.packs.get(pack, set())
        self._restart(AWAY)


def known_models() -> list[dict[str, Any]]:
    """The models of the bundled workflows as the Manager's list has models; empty when the bundle has no list."""
    try:
        workflows = json.loads(INDEX.read_text(encoding="utf-8"))["workflows"]
    except (OSError, ValueError, KeyError):
        return []
    entries = [model for workflow in workflows for model in workflow["models"]]
    return [
        {"name": entry["name"], "filename": entry["name"], "type": entry["folder"], "base": "demo", "url": entry["url"],
         "save_path": entry["folder"]}
        for entry in {entry["name"]: entry for entry in entries}.values()
    ]  # fmt: skip
