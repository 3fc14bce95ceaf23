"""`/view` and `/upload`: the server's files, with the real server's rules about names."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import mimetypes
import os.path
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from comfyskill.base.picture_files import BadPicture, open_picture
from comfyskill.demo.custom_checks import annotated
from comfyskill.demo.folders import OutsideFolder
from comfyskill.demo.routes import Route, empty, with_api
from comfyskill.demo.validation import Unhandled

if TYPE_CHECKING:
    from PIL.Image import Image

    from comfyskill.demo.parts import Parts

# Endings of files that a browser would run or render: 0.33 offers them as downloads only.
ACTIVE_SUFFIXES = (".html", ".htm", ".xhtml", ".svg", ".xml", ".js", ".css")
BINARY = "application/octet-stream"
KNOWN_TYPES = {
    ".js": "application/javascript; charset=utf-8",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".wav": "audio/x-wav",
    ".opus": "audio/ogg",
    ".glb": "model/gltf-binary",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".txt": "text/plain",
    ".html": BINARY,
    ".htm": BINARY,
    ".xhtml": BINARY,
    ".css": BINARY,
}


class FileRoutes:
    """Handlers over the folders."""

    def __init__(self, demo: Parts) -> None:
        self.demo = demo
        self.folders = demo.folders

    def routes(self) -> list[Route]:
        return with_api(
            [
                ("GET", "/view", self.view),
                ("POST", "/upload/image", self.upload_image),
                ("POST", "/upload/mask", self.upload_mask),
            ]
        )

    # view

    async def view(self, request: web.Request) -> web.StreamResponse:
        path, status = self.find(request.rel_url.query)
        if path is None:
            return empty(status)
        query = request.rel_url.query
        if "preview" in query:
            return await self._preview(path, query["preview"], query.get("channel", ""))
        if query.get("channel") in ("rgb", "a"):
            return await self._channel(path, query["channel"])
        kind = KNOWN_TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0] or BINARY
        headers = {"Content-Disposition": f'filename="{path.name}"', "Content-Type": kind}
        if self.demo.options.newest:
            headers |= _safe_headers(path, request.headers.get("Sec-Fetch-Dest") == "image")
        return web.FileResponse(path, headers=headers)

    def find(self, query: Any) -> tuple[Path | None, int]:
        """(path, 200), or (None, status of the refusal)."""
        if "filename" not in query:
            return None, 404
        name, kind = query["filename"], query.get("type", "output")
        for known in ("input", "output", "temp"):
            if name.endswith(f"[{known}]"):
                kind, name = known, name[: -len(known) - 2].rstrip()
        base = self.folders.of(kind)
        if not name or name.startswith("/") or ".." in name or base is None:
            return None, 400
        try:
            folder = self.folders.inside(base, query.get("subfolder", ""))
            path = folder / os.path.basename(name)  # noqa: PTH119 - the rule is about text, not about this machine
            found = path.is_file()
        except OutsideFolder:
            return None, 403
        except ValueError:
            return None, 404
        return (path, 200) if found else (None, 404)

    async def _preview(self, path: Path, wanted: str, channel: str) -> web.Response:
        form, _, quality = wanted.partition(";")
        if form not in ("webp", "jpeg") or "a" in channel:
            form = "webp"
        level = int(quality) if quality.isdigit() else 90
        body = await asyncio.to_thread(_encode, path, form, level, channel)
        headers = {"Content-Disposition": f'filename="{path.name}"'}
        return web.Response(body=body, content_type=f"image/{form}", headers=headers)

    async def _channel(self, path: Path, channel: str) -> web.Response:
        body = await asyncio.to_thread(channel_png, path, channel)
        headers = {"Content-Disposition": f'filename="{path.name}"'}
        return web.Response(body=body, content_type="image/png", headers=headers)

    # uploads

    async def upload_image(self, request: web.Request) -> web.Response:
        return await self._store(await request.post(), self._plain)

    async def upload_mask(self, request: web.Request) -> web.Response:
        return await self._store(await request.post(), self._masked)

    async def _store(self, fields: Any, write: Any) -> web.Response:
        """Check names as the real handler does, find a free one, write."""
        picture = fields.get("image")
        kind = fields.get("type", "input")
        subfolder = fields.get("subfolder", "")
        if picture is None or picture == "":
            return empty(400)
        base = self.folders.of(str(kind))
        if isinstance(picture, (str, bytes, bytearray)) or base is None:
            raise Unhandled("the picture is a text field, or the type is unknown")
        name = picture.filename
        if not name:
            return empty(400)
        try:
            folder = self.folders.inside(base, str(subfolder))
            folder.mkdir(parents=True, exist_ok=True)
            target = _joined(folder, name)
            self.folders.inside(base, os.path.relpath(target, base))
        except OutsideFolder:
            return empty(400)
        data = await asyncio.to_thread(picture.file.read)
        write_over = fields.get("overwrite") in ("true", "1")
        answer_name = await asyncio.to_thread(self._write, folder, name, data, write_over, write, fields)
        return web.json_response({"name": answer_name, "subfolder": subfolder, "type": kind})

    def _write(self, folder: Path, name: str, data: bytes, over: bool, write: Any, fields: Any) -> str:
        stem, suffix = os.path.splitext(name)  # noqa: PTH122 - the rule is about text
        target, number = _joined(folder, name), 1
        digest = hashlib.sha256(data).digest()
        while not over and target.exists():
            if target.is_dir():
                raise Unhandled("the name is a folder")
            if hashlib.sha256(target.read_bytes()).digest() == digest and write == self._plain:
                return name
            name = f"{stem} ({number}){suffix}"
            target, number = _joined(folder, name), number + 1
        try:
            write(target, data, fields)
        except OSError as error:
            raise Unhandled(str(error)) from error
        return name

    def _plain(self, target: Path, data: bytes, _fields: Any) -> None:
        target.write_bytes(data)

    def _masked(self, target: Path, data: bytes, fields: Any) -> None:
        """Write the original with the mask's alpha. A refused original writes nothing and is not an error."""
        try:
            reference = json.loads(fields.get("original_ref", ""))
            name = str(reference["filename"])
        except (ValueError, KeyError, TypeError) as error:
            raise Unhandled("no usable original_ref") from error
        path = self._original(name, str(reference.get("subfolder", "")), str(reference.get("type", "output")))
        if path is not None:
            _write_masked(path, data, target)

    def _original(self, name: str, subfolder: str, kind: str) -> Path | None:
        if name.startswith("/") or ".." in name or self.folders.of(kind) is None:
            return None
        path = annotated(os.path.join(subfolder, name), self.folders, kind)  # noqa: PTH118
        return path if path is not None and path.is_file() else None


def _safe_headers(path: Path, for_img: bool) -> dict[str, str]:
    """Headers with which 0.33 keeps a browser from running a file; an SVG may be shown by an <img>."""
    headers = {"X-Content-Type-Options": "nosniff"}
    suffix = path.suffix.lower()
    if suffix not in ACTIVE_SUFFIXES:
        return headers
    headers |= {"Vary": "Sec-Fetch-Dest", "Cache-Control": "no-store"}
    if suffix == ".svg" and for_img:
        return headers
    return {**headers, "Content-Disposition": f'attachment; filename="{path.name}"', "Content-Type": BINARY}


def _joined(folder: Path, name: str) -> Path:
    try:
        return Path(os.path.normpath(os.path.join(folder, name)))  # noqa: PTH118 - an absolute name must win here
    except ValueError as error:
        raise Unhandled(str(error)) from error


def _open(path: Path) -> Image:
    try:
        with open_picture(path) as picture:
            picture.load()
            return picture
    except BadPicture as error:
        raise Unhandled("not a picture") from error


def _encode(path: Path, form: str, level: int, channel: str) -> bytes:
    picture = _open(path)
    if form == "jpeg" or channel == "rgb":
        picture = picture.convert("RGB")
    buffer = io.BytesIO()
    try:
        picture.save(buffer, form, quality=level)
    except (ValueError, OSError) as error:
        raise Unhandled(str(error)) from error
    return buffer.getvalue()


def channel_png(path: Path, channel: str) -> bytes:
    from PIL import Image as pil

    picture = _open(path)
    buffer = io.BytesIO()
    if channel == "rgb":
        picture.convert("RGB").save(buffer, "PNG")
    else:
        alpha = picture.getchannel("A") if "A" in picture.getbands() else pil.new("L", picture.size, 255)
        shown = pil.new("RGBA", picture.size)
        shown.putalpha(alpha)
        shown.save(buffer, "PNG")
    return buffer.getvalue()


def _write_masked(original: Path, data: bytes, target: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    picture = _open(original)
    info = PngInfo()
    for key, value in getattr(picture, "text", {}).items():
        info.add_text(key, value)
    try:
        with open_picture(io.BytesIO(data)) as given:
            mask = given.convert("RGBA").getchannel("A")
        if mask.size != picture.size:
            raise Unhandled("the mask has another size")
        painted = picture.convert("RGBA")
        painted.putalpha(mask)
        painted.save(target, "PNG", compress_level=4, pnginfo=info)
    except (OSError, ValueError) as error:
        raise Unhandled("the mask does not fit") from error
