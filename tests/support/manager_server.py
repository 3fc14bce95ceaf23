"""A small ComfyUI with ComfyUI-Manager for tests, on a real socket, whose models are files in a real folder.

The Manager is the one that the equipped demo server plays; here its downloads write files, and its mapping says what a test wants it to say.
Node packs that it installs are loaded at a restart.
"""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from equipment.manager import Manager

SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


def node(
    inputs: dict[str, Any], *, output: bool = False, module: str = "nodes", returns: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A definition as /object_info gives it."""
    return {
        "input": {"required": inputs}, "output": list(returns), "output_node": output, "python_module": module,
        "name": "x", "category": "x",
    }  # fmt: skip


class Comfy:
    """One server. shape: that of its Manager, v3, v4 or v4-legacy; None for none."""

    def __init__(self, models: Path, shape: str | None = None) -> None:
        self.models = models
        self.manager = Manager(
            shape, install=lambda pack: pack in self.packs, fetch=self._fetch, restart=self._restart
        )
        self.folders = [
            "checkpoints",
            "loras",
            "vae",
            "diffusion_models",
            "text_encoders",
            "upscale_models",
            "controlnet",
        ]
        self.inputs: list[str] = ["example.png"]
        self.embeddings: list[str] = []
        self.packs: dict[str, dict[str, Any]] = {}
        self.templates: dict[str, Any] = {}
        self.loaded: set[str] = set()
        self.queue_remaining = 0
        self.page_for_all = False
        self.dies_at: str | None = None
        self.faults: dict[str, int] = {}
        self.says: dict[str, tuple[bytes, str]] = {}
        self.seen: list[tuple[str, str, Any]] = []
        self.restarts = 0
        self.away = 0  # requests that find the server stopped after a restart
        self.fetch: Any = None
        comfy = self

        class Handler(_Handler):
            server_of = comfy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, folder: str) -> list[str]:
        root = self.models / folder
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.name.endswith(SUFFIXES))

    def definitions(self) -> dict[str, Any]:
        found = {
            "CheckpointLoaderSimple": node(
                {"ckpt_name": [self.files("checkpoints"), {}]}, returns=("MODEL", "CLIP", "VAE")
            ),
            "LoraLoader": node(
                {
                    "lora_name": ["COMBO", {"options": self.files("loras")}],
                    "model": ["MODEL"],
                    "clip": ["CLIP"],
                }
            ),
            "CLIPTextEncode": node({"text": ["STRING", {"multiline": True}], "clip": ["CLIP"]}),
            "LoadImage": node(
                {"image": [list(self.inputs), {"image_upload": True}]}, returns=("IMAGE", "MASK")
            ),
            "KSampler": node({"sampler_name": [["euler", "dpmpp_2m"], {}], "seed": ["INT", {"default": 0}]}),
            "SaveImage": node(
                {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "x"}]}, output=True
            ),
            "StrangeLoader": node(
                {"weights": [self.files("upscale_models"), {}]}, module="custom_nodes.strange"
            ),
        }
        for pack in self.loaded:
            found.update(self.packs[pack])
        return found

    def _fetch(self, order: Any) -> bool:
        if self.fetch is not None:
            self.fetch(self.models, order)
        return True

    def _restart(self) -> None:
        self.restarts += 1
        self.away = 1
        self.loaded |= self.manager.installed


class _Handler(BaseHTTPRequestHandler):
    server_of: Comfy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer("GET")

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        comfy = self.server_of
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = raw.decode("latin-1")
        path = unquote(parts.path).removeprefix("/api").strip("/")
        comfy.seen.append((method, path, body))
        if comfy.away or (comfy.dies_at and path.startswith(comfy.dies_at)):
            comfy.away = max(comfy.away - 1, 0)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        fault = comfy.faults.get(path) or comfy.faults.get("*")
        if fault:
            self._send(fault, b"no", "text/plain")
            return
        if path in comfy.says:
            self._send(200, *comfy.says[path])
            return
        form = self.headers.get("Content-Type", "").split(";")[0]
        found = comfy.manager.answer(method, path, query, body, form)
        if found is None and method == "GET":
            found = self._comfy(path, query)
        if found is None and comfy.page_for_all:
            self._send(200, b"<!doctype html><title>x</title>", "text/html")
        elif found is None:
            self._send(404 if method == "GET" else 405, b"", None)
        elif isinstance(found, int):
            self._send(found, b"", None)
        elif isinstance(found, str):
            self._send(200, found.encode(), "text/plain")
        else:
            self._send(200, json.dumps(found).encode(), "application/json")

    def _comfy(self, path: str, query: dict[str, str]) -> Any:
        comfy = self.server_of
        head, _, rest = path.partition("/")
        if path == "features":
            return {"supports_preview_metadata": True, "max_upload_size": 1000}
        if path == "system_stats":
            argv = ["main.py", "--base-directory", str(comfy.models.parent)]
            return {
                "system": {"os": "linux", "comfyui_version": "0.8.0", "python_version": "3.11", "argv": argv},
                "devices": [],
            }
        if path == "prompt":
            return {"exec_info": {"queue_remaining": comfy.queue_remaining}}
        if head == "object_info":
            known = comfy.definitions()
            return known if not rest else {rest: known[rest]} if rest in known else {}
        if head == "models":
            return comfy.folders if not rest else comfy.files(rest) if rest in comfy.folders else 404
        if path == "embeddings":
            return comfy.embeddings
        if path == "view":
            name = "/".join(part for part in (query.get("subfolder"), query.get("filename")) if part)
            return "bytes" if name in comfy.inputs else 404
        if path == "templates/index.json":
            return [{"templates": [{"name": name} for name in comfy.templates]}]
        if head == "templates":
            return comfy.templates.get(rest.removesuffix(".json"), 404)
        return None

    def _send(self, status: int, body: bytes, kind: str | None) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
