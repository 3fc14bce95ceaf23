"""What the server reports about itself: nodes, models, system, logs, templates."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from comfyskill.base.cli import Document
from comfyskill.demo import definitions as defs
from comfyskill.demo.definitions import DATA
from comfyskill.demo.routes import Route, empty, read_object, with_api
from comfyskill.demo.validation import Unhandled

if TYPE_CHECKING:
    from comfyskill.demo.parts import Parts

FRONTEND = {"0.8.0": "1.35.9", "0.3.64": "1.27.10"}
TEMPLATES = {"0.8.0": "0.7.67", "0.3.64": "0.1.95"}
MEMORY = 16_000_000_000
FREE = 12_000_000_000
# Only this header distinguishes the demo server from a real one; every report then says so.
DEMO_MARK = {"comfyui_skill_demo": True}
PAGE = "<!DOCTYPE html><html><head><title>ComfyUI demo server</title></head><body>Demo server: no web interface.</body></html>"


class InfoRoutes:
    """Handlers that only read (and the log subscription)."""

    def __init__(self, demo: Parts) -> None:
        self.demo = demo
        self.templates = DATA / "templates"

    def routes(self) -> list[Route]:
        found = with_api(
            [
                ("GET", "/system_stats", self.system_stats),
                ("GET", "/features", self.get_features),
                ("GET", "/object_info", self.object_info),
                ("GET", "/object_info/{node_class}", self.object_info_of),
                ("GET", "/models", self.models),
                ("GET", "/models/{folder}", self.models_of),
                ("GET", "/embeddings", self.embeddings),
                ("GET", "/extensions", self.extensions),
                ("GET", "/experiment/models", self.experiment_models),
                ("GET", "/experiment/models/{folder}", self.experiment_models_of),
                ("GET", "/view_metadata/{folder}", self.view_metadata),
                ("GET", "/workflow_templates", self.nothing),
                ("GET", "/i18n", self.nothing),
            ]
        )
        if self.demo.options.modern:
            found += with_api(
                [("GET", "/global_subgraphs", self.nothing), ("GET", "/global_subgraphs/{id}", self.null)]
            )
        return found + [
            ("GET", "/", self.page),
            ("GET", "/internal/logs", self.logs),
            ("GET", "/internal/logs/raw", self.raw_logs),
            ("PATCH", "/internal/logs/subscribe", self.subscribe),
            ("GET", "/internal/folder_paths", self.folder_paths),
            ("GET", "/internal/files/{kind}", self.files),
            ("GET", "/templates/{name:.+}", self.template),
        ]

    def features(self) -> Document:
        options = self.demo.options
        size: float = options.max_upload
        if options.max_upload_given:
            size = float(size)
        found: Document = {"supports_preview_metadata": True, "max_upload_size": size}
        found["extension"] = dict(DEMO_MARK)
        if options.modern:
            found["extension"]["manager"] = {"supports_v4": True}
        return found

    def stats(self) -> Document:
        version = self.demo.options.version
        names = {"linux": "linux", "win32": "win32", "darwin": "darwin"}
        system = names.get(sys.platform, sys.platform) if self.demo.options.modern else os.name
        return {
            "system": {
                "os": system,
                "ram_total": MEMORY,
                "ram_free": FREE,
                "comfyui_version": version,
                "required_frontend_version": FRONTEND[version],
                "installed_templates_version": TEMPLATES[version],
                "required_templates_version": TEMPLATES[version],
                "python_version": f"{platform.python_version()} (demo server)",
                "pytorch_version": "none (demo server)",
                "embedded_python": False,
                "argv": ["demo_server.py"],
            },
            "devices": [
                {
                    "name": "demo (no device: pictures are drawn, not generated)",
                    "type": "cpu",
                    "index": None,
                    "vram_total": MEMORY,
                    "vram_free": FREE,
                    "torch_vram_total": MEMORY,
                    "torch_vram_free": FREE,
                }
            ],
        }

    async def system_stats(self, _request: web.Request) -> web.Response:
        return web.json_response(self.stats())

    async def get_features(self, _request: web.Request) -> web.Response:
        return web.json_response(self.features())

    async def object_info(self, _request: web.Request) -> web.Response:
        definitions = self.demo.definitions
        return web.json_response({name: definitions.entry(name) for name in definitions.names()})

    async def object_info_of(self, request: web.Request) -> web.Response:
        name = request.match_info["node_class"]
        entry = self.demo.definitions.entry(name)
        return web.json_response({} if entry is None else {name: entry})

    # models

    def folders(self) -> list[str]:
        return defs.model_folders(self.demo.options.version, self.demo.definitions.models)

    def files_of(self, folder: str) -> list[str] | None:
        """Names in a model folder; None for an unknown folder. Old folder names are unknown here."""
        return list(self.demo.definitions.models.get(folder, ())) if folder in self.folders() else None

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response(self.folders())

    async def models_of(self, request: web.Request) -> web.Response:
        names = self.files_of(request.match_info["folder"])
        return empty(404) if names is None else web.json_response(names)

    async def embeddings(self, _request: web.Request) -> web.Response:
        names = self.demo.definitions.models.get("embeddings", ())
        return web.json_response([str(Path(name).with_suffix("")) for name in names])

    async def experiment_models(self, _request: web.Request) -> web.Response:
        skipped = ("configs", "custom_nodes")
        found = [
            {"name": name, "folders": [f"/demo/models/{name}"]}
            for name in self.folders()
            if name not in skipped
        ]
        return web.json_response(found)

    async def experiment_models_of(self, request: web.Request) -> web.Response:
        names = self.files_of(request.match_info["folder"])
        if names is None:
            return empty(404)
        return web.json_response([{"name": name, "pathIndex": 0} for name in names])

    async def view_metadata(self, _request: web.Request) -> web.Response:
        return empty(404)

    # the rest

    async def extensions(self, _request: web.Request) -> web.Response:
        return web.json_response(["/extensions/core/groupNode.js", "/extensions/core/clipspace.js"])

    async def nothing(self, _request: web.Request) -> web.Response:
        return web.json_response({})

    async def null(self, _request: web.Request) -> web.Response:
        return web.json_response(None)

    async def page(self, _request: web.Request) -> web.Response:
        headers = {"Cache-Control": "no-cache", "Pragma": "no-cache", "Expires": "0"}
        return web.Response(text=PAGE, content_type="text/html", headers=headers)

    async def logs(self, _request: web.Request) -> web.Response:
        return web.json_response("".join(f"{entry['t']} - {entry['m']}" for entry in self.demo.engine.log))

    async def raw_logs(self, _request: web.Request) -> web.Response:
        return web.json_response({"entries": list(self.demo.engine.log), "size": {"cols": 80, "rows": 24}})

    async def subscribe(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        clients = self.demo.hub.log_clients
        if body.get("enabled"):
            clients.add(str(body.get("clientId")))
        else:
            clients.discard(str(body.get("clientId")))
        return empty()

    async def folder_paths(self, _request: web.Request) -> web.Response:
        return web.json_response({name: [f"/demo/models/{name}"] for name in self.folders()})

    async def files(self, request: web.Request) -> web.Response:
        folder = self.demo.folders.of(request.match_info["kind"])
        if folder is None:
            return web.json_response({"error": "Invalid directory type"}, status=400)
        if not folder.is_dir():
            raise Unhandled("no such folder yet")
        found = [(entry.stat().st_mtime, entry.name) for entry in folder.iterdir() if entry.is_file()]
        return web.json_response([name for _, name in sorted(found, reverse=True)])

    async def template(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        try:
            path = self.demo.folders.inside(self.templates, name)
        except RuntimeError:
            return web.Response(status=404, text="404: Not Found")
        if not path.is_file():
            return web.Response(status=404, text="404: Not Found")
        headers = {"Cache-Control": "no-cache"} if path.suffix == ".json" else {}
        return web.FileResponse(path, headers=headers)


def template_names() -> list[str]:
    """Names of the templates that the demo server has."""
    index = json.loads((DATA / "templates" / "index.json").read_text(encoding="utf-8"))
    return [template["name"] for group in index for template in group["templates"]]
