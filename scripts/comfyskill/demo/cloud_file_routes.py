"""The cloud's files: `/api/view` with its redirect to signed addresses, uploads under hash names."""

from __future__ import annotations

import asyncio
import io
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from comfyskill.base.cli import Document
from comfyskill.base.picture_files import BadPicture, TooLarge, open_picture
from comfyskill.demo.cloud_answers import refusal
from comfyskill.demo.cloud_jobs import Jobs
from comfyskill.demo.cloud_storage import Storage
from comfyskill.demo.routes import Route
from comfyskill.demo.routes_files import channel_png

if TYPE_CHECKING:
    from comfyskill.demo.parts import Parts
    from comfyskill.demo.routes_files import FileRoutes

MAX_BYTES, MAX_EDGE, MAX_PIXELS = 50 * 1024 * 1024, 16_384, 67_108_864


class CloudFileRoutes:
    """Handlers over the folders and the storage behind the cloud."""

    def __init__(self, demo: Parts, files: FileRoutes, jobs: Jobs, storage: Storage) -> None:
        self.demo = demo
        self.local = files
        self.jobs = jobs
        self.storage = storage

    def routes(self) -> list[Route]:
        return [
            ("GET", "/view", self.view),
            ("POST", "/upload/image", self.upload),
            ("POST", "/upload/mask", self.upload),
        ]

    async def view(self, request: web.Request) -> web.StreamResponse:
        query = request.rel_url.query
        name = query.get("filename", "")
        if not name:
            return refusal(400, "INVALID_REQUEST", "filename is required")
        path = self._find(name, query)
        if path is None:
            return refusal(404, "NOT_FOUND", "File not found")
        if query.get("channel") in ("rgb", "a", "alpha"):
            channel = "rgb" if query["channel"] == "rgb" else "a"
            return web.Response(
                body=await asyncio.to_thread(channel_png, path, channel), content_type="image/png"
            )
        if "res" in query:
            return web.Response(
                body=await asyncio.to_thread(_thumbnail, path, query["res"]), content_type="image/jpeg"
            )
        return self.send(path, name if name in self.jobs.files else self.jobs.known_as(path))

    def send(self, path: Path, known: str) -> web.StreamResponse:
        """A redirect to the storage, where the file has this name."""
        return web.Response(status=302, headers={"Location": self.storage.sign(path, known)})

    def _find(self, name: str, query: Any) -> Path | None:
        if name in self.jobs.files:
            return self.jobs.files[name]
        path, _ = self.local.find(query)
        return path

    async def upload(self, request: web.Request) -> web.Response:
        fields = await request.post()
        picture = fields.get("image")
        if picture is None or isinstance(picture, (str, bytes, bytearray)):
            return refusal(400, "INVALID_REQUEST", "no file")
        data = await asyncio.to_thread(picture.file.read)
        problem = await asyncio.to_thread(_too_large, data)
        if problem:
            return refusal(400, "INVALID_FILE", problem)
        kind = str(fields.get("type", "output"))
        base = self.demo.folders.of(kind) or self.demo.folders.input
        temporary = base / f".{uuid.uuid4().hex}{Path(picture.filename).suffix}"
        temporary.write_bytes(data)
        known = self.jobs.known_as(temporary)
        temporary.replace(base / known)
        self.jobs.files[known] = base / known
        answer: Document = {"name": known, "subfolder": str(fields.get("subfolder", "")), "type": kind}
        if request.path.endswith("mask"):
            related = {"mask": known, "paint": None, "painted": None}
            answer["metadata"] = {
                "is_mask": True,
                "original_hash": "",
                "mask_type": "painted_masked",
                "related_files": related,
            }
        return web.json_response(answer)


def _too_large(data: bytes) -> str:
    """Why a picture is refused, or None."""
    try:
        with open_picture(io.BytesIO(data), MAX_PIXELS) as picture:
            edge = max(picture.size)
    except TooLarge as error:
        return f"The picture has too many pixels: {error}"
    except BadPicture:
        return ""
    if len(data) > MAX_BYTES:
        return "The file is larger than 50 MB"
    if edge > MAX_EDGE:
        return f"The picture has too many pixels: {edge} an edge"
    return ""


def _thumbnail(path: Path, edge: str) -> bytes:
    with open_picture(path) as opened:
        picture = opened.convert("RGB")
    size = int(edge) if edge.isdigit() and int(edge) > 0 else 512
    picture.thumbnail((size, size))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()
