"""What the server reports about itself: nodes, models, system, logs, templates."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from comfyskill.base.cli import Document
from comfyskill.demo import definitions as defs
from comfyskill.demo import replacements
from comfyskill.demo.definitions import DATA
from comfyskill.demo.options import VERSIONS
from comfyskill.demo.routes import Route, empty, read_object, with_api
from comfyskill.demo.validation import Unhandled

if TYPE_CHECKING:
    from comfyskill.demo.parts import Parts

# By server version: the packages that it requires, and reports as installed.
PACKAGES = {
    "0.33": {"comfyui-frontend-package": "1.49.6", "comfyui-workflow-templates": "0.11.44"},
    "0.8": {"comfyui-frontend-package": "1.35.9", "comfyui-workflow-templates": "0.7.67"},
}
MODEL_SUFFIXES = [".bin", ".ckpt", ".pkl", ".pt", ".pt2", ".pth", ".safetensors", ".sft"]
MEMORY = 16_000_000_000
FREE = 12_000_000_000
# Only this entry of /features distinguishes the demo server from a real one; every report then says so.
DEMO_MARK = {"comfyui_skill_demo": True}
PAGE = "<!DOCTYPE html><html><head><title>ComfyUI demo server</title></head><body>Demo server: no web interface.</body></html>"


class InfoRoutes:
    """Handlers that only read (and the log subscription)."""

    def __init__(self, demo: Parts) -> None:
        self.demo = demo
        self.newest = demo.options.newest
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
                ("GET", "/global_subgraphs", self.blueprints),
                ("GET", "/global_subgraphs/{id}", self.blueprint),
                ("GET", "/workflow_templates", self.nothing),
                ("GET", "/i18n", self.nothing),
            ]
        )
        if self.newest:
            found += with_api([("GET", "/node_replacements", self.node_replacements)])
            paths = ("/assets", "/assets/hash/{hash}", "/assets/from-hash", "/tags")
            found += [(method, f"/api{path}", self.no_assets) for path in paths for method in ("GET", "POST")]
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
        found["extension"] = {**DEMO_MARK, "manager": {"supports_v4": True}}
        if self.newest:
            found |= {"supports_model_type_tags": True, "node_replacements": True, "assets": False}
        return found

    def stats(self) -> Document:
        options = self.demo.options
        packages = PACKAGES[options.version]
        system = {
            "os": sys.platform,
            "ram_total": MEMORY,
            "ram_free": FREE,
            "comfyui_version": VERSIONS[options.version],
            "required_frontend_version": packages["comfyui-frontend-package"],
            "installed_templates_version": packages["comfyui-workflow-templates"],
            "required_templates_version": packages["comfyui-workflow-templates"],
            "python_version": f"{platform.python_version()} (demo server)",
            "pytorch_version": "none (demo server)",
            "embedded_python": False,
            "argv": ["demo_server.py"],
        }
        if self.newest:
            system["deploy_environment"] = "demo"
            system["comfy_package_versions"] = [
                {"name": name, "installed": version, "required": version}
                for name, version in packages.items()
            ]
        return {
            "system": system,
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
        return defs.model_folders(self.newest, self.demo.definitions.models)

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
        extensions = {"extensions": MODEL_SUFFIXES} if self.newest else {}
        found = [
            {"name": name, "folders": [f"/demo/models/{name}"]} | extensions
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

    async def node_replacements(self, _request: web.Request) -> web.Response:
        return web.json_response(replacements.TABLE)

    async def no_assets(self, _request: web.Request) -> web.Response:
        message = "Assets system is disabled. Start the server with --enable-assets to use this feature."
        error = {"code": "SERVICE_DISABLED", "message": message, "details": {}}
        return web.json_response({"error": error}, status=503)

    async def blueprints(self, _request: web.Request) -> web.Response:
        found = _blueprints() if self.newest else {}
        brief = {
            name: {key: entry[key] for key in ("source", "name", "info")} for name, entry in found.items()
        }
        return web.json_response(brief)

    async def blueprint(self, request: web.Request) -> web.Response:
        found = _blueprints() if self.newest else {}
        return web.json_response(found.get(request.match_info["id"]))

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
        mark = f" [{request.match_info['kind']}]" if self.newest else ""
        return web.json_response([f"{name}{mark}" for _, name in sorted(found, reverse=True)])

    async def template(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        try:
            path = self.demo.folders.inside(self.templates, name)
        except RuntimeError:
            return web.Response(status=404, text="404: Not Found")
        if not path.is_file():
            return web.Response(status=404, text="404: Not Found")
        headers = (
            {"Cache-Control": "no-store" if self.newest else "no-cache"} if path.suffix == ".json" else {}
        )
        return web.FileResponse(path, headers=headers)


def _blueprints() -> dict[str, Document]:
    """The subgraphs that a 0.33 server offers to every workflow, by the id under which it lists them."""
    found = {}
    for path in sorted((DATA / "blueprints").glob("*.json")):
        entry = {"source": "templates", "name": path.stem, "info": {"node_pack": "comfyui"}}
        name = hashlib.sha256(f"templates/{path.name}".encode()).hexdigest()
        found[name] = {**entry, "data": path.read_text(encoding="utf-8")}
    return found
