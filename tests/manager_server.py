"""A small ComfyUI with ComfyUI-Manager for tests, on a real socket: the routes of versions 3 and 4 as read in 3.31 and 4.3.

Node packs are installed into `installed` and loaded at a restart; models are files in a real folder.
"""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

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
    """One server. shape: none, v3, v4 or v4-legacy."""

    def __init__(self, models: Path, shape: str = "none") -> None:
        self.models, self.shape = models, shape
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
        self.mappings: dict[str, Any] = {}
        self.model_list: list[dict[str, Any]] = []
        self.templates: dict[str, Any] = {}
        self.installed: set[str] = set()
        self.loaded: set[str] = set()
        self.tasks: list[dict[str, Any]] = []
        self.history: dict[str, Any] = {}
        self.done = 0
        self.waiting: list[tuple[str, dict[str, Any]]] = []
        self.polls_left = 0
        self.queue_remaining = 0
        self.refuse_packs = False
        self.page_for_all = False
        self.dies_at: str | None = None
        self.faults: dict[str, int] = {}
        self.seen: list[tuple[str, str, Any]] = []
        self.restarts = 0
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

    # --- the Manager's work
    def order(self, kind: str, what: dict[str, Any], ui_id: str) -> None:
        self.waiting.append((kind, {**what, "ui_id": ui_id}))

    def work(self) -> None:
        """Carry out what waits."""
        for kind, what in self.waiting:
            said = "success"
            if kind == "install":
                if what["id"] in self.packs and not self.refuse_packs:
                    self.installed.add(what["id"])
                else:
                    said = "failed"
            elif self.fetch is not None:
                self.fetch(self.models, what)
            self.done += 1
            self.history[what["ui_id"]] = {
                "ui_id": what["ui_id"],
                "result": said,
                "status": {"status_str": said, "completed": True, "messages": []},
            }
        self.waiting = []
        self.polls_left = 1

    def restart(self) -> None:
        self.restarts += 1
        self.loaded |= self.installed


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
        if comfy.dies_at and path.startswith(comfy.dies_at):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        fault = comfy.faults.get(path) or comfy.faults.get("*")
        if fault:
            self._send(fault, b"no", "text/plain")
            return
        found = self._manager(method, path, query, body) if comfy.shape != "none" else None
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

    def _manager(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        comfy = self.server_of
        prefix = "" if comfy.shape == "v3" else "v2/"
        if not path.startswith((f"{prefix}manager/", f"{prefix}customnode/", f"{prefix}externalmodel/")):
            return None
        route = path.removeprefix("v2/")
        if route == "manager/version":
            return "V3.31.9" if comfy.shape == "v3" else "V4.3"
        if route == "manager/is_legacy_manager_ui" and comfy.shape != "v3":
            return {"is_legacy_manager_ui": comfy.shape == "v4-legacy"}
        if route == "customnode/getmappings":
            return comfy.mappings if "mode" in query else 500
        if route == "externalmodel/getlist" and comfy.shape != "v4":
            return {"models": comfy.model_list} if "mode" in query else 500
        if route == "customnode/installed":
            return {name: {"ver": "1.0", "cnr_id": name, "enabled": True} for name in comfy.installed}
        if route == "manager/queue/status":
            busy = comfy.polls_left > 0
            comfy.polls_left = max(0, comfy.polls_left - 1)
            # The legacy queue forgets its counts with its last batch.
            done = 0 if comfy.shape == "v4-legacy" and not busy else comfy.done
            return {
                "total_count": done,
                "done_count": done,
                "in_progress_count": int(busy),
                **({"pending_count": 0} if comfy.shape == "v4" else {}),
                # Version 4's worker waits a while for more before it ends.
                "is_processing": busy or comfy.shape == "v4",
            }
        if route == "manager/queue/history" and comfy.shape == "v4":
            return {"history": comfy.history.get(query.get("ui_id", ""))}
        return self._order(method, route, body)

    def _order(self, method: str, route: str, body: Any) -> Any:
        comfy = self.server_of
        form = self.headers.get("Content-Type", "").split(";")[0]
        if route == "manager/queue/install" and comfy.shape == "v3" and method == "POST":
            if comfy.refuse_packs:
                return 403
            comfy.order("install", body, body["ui_id"])
            return 200
        if route == "manager/queue/task" and comfy.shape == "v4" and method == "POST":
            comfy.order(body["kind"], body["params"], body["ui_id"])
            return 200
        if route == "manager/queue/install_model" and method == "POST" and comfy.shape != "v4-legacy":
            if (
                comfy.shape == "v4"
                and not {"client_id", "ui_id", "name", "type", "url", "filename"} <= body.keys()
            ):
                return 400
            comfy.order("install-model", body, body["ui_id"])
            return 200
        if route == "manager/queue/batch" and comfy.shape == "v4-legacy" and method == "POST":
            for item in body.get("install", []):
                comfy.order("install", item, item["ui_id"])
            for item in body.get("install_model", []):
                comfy.order("install-model", item, item["ui_id"])
            failed = [item["id"] for item in body.get("install", [])] if comfy.refuse_packs else []
            comfy.work()
            return {"failed": failed}
        if route == "manager/queue/start" and comfy.shape != "v4-legacy":
            if method != ("GET" if comfy.shape == "v3" else "POST") or form.startswith(
                ("text/", "multipart/")
            ):
                return 405
            comfy.work()
            return 200
        if route == "manager/reboot" and method == ("GET" if comfy.shape == "v3" else "POST"):
            comfy.restart()
            return 200
        return None

    def _send(self, status: int, body: bytes, kind: str | None) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
