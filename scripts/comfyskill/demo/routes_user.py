"""User data and settings of the single user."""

from __future__ import annotations

import os.path
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from comfyskill.base.cli import Document
from comfyskill.demo.folders import OutsideFolder
from comfyskill.demo.routes import Route, empty, read_json, read_object, with_api
from comfyskill.demo.routes_files import ACTIVE_SUFFIXES, BINARY
from comfyskill.demo.validation import Unhandled

if TYPE_CHECKING:
    from comfyskill.demo.parts import Parts


class UserRoutes:
    """Handlers over the user's folder; settings live in memory."""

    def __init__(self, demo: Parts) -> None:
        self.demo = demo
        self.settings: Document = {}

    @property
    def base(self) -> Path:
        return self.demo.folders.user

    def routes(self) -> list[Route]:
        return with_api(
            [
                ("GET", "/users", self.users),
                ("GET", "/settings", self.get_settings),
                ("POST", "/settings", self.post_settings),
                ("GET", "/settings/{id}", self.get_setting),
                ("POST", "/settings/{id}", self.post_setting),
                ("GET", "/userdata", self.listing),
                ("GET", "/v2/userdata", self.listing_v2),
                ("GET", "/userdata/{file}", self.get_file),
                ("POST", "/userdata/{file}", self.post_file),
                ("DELETE", "/userdata/{file}", self.delete_file),
                ("POST", "/userdata/{file}/move/{target}", self.move_file),
            ]
        )

    async def users(self, _request: web.Request) -> web.Response:
        return web.json_response({"storage": "server", "migrated": False})

    # settings

    async def get_settings(self, _request: web.Request) -> web.Response:
        return web.json_response(self.settings)

    async def get_setting(self, request: web.Request) -> web.Response:
        return web.json_response(self.settings.get(request.match_info["id"]))

    async def post_settings(self, request: web.Request) -> web.Response:
        self.settings.update(await read_object(request))
        return empty()

    async def post_setting(self, request: web.Request) -> web.Response:
        self.settings[request.match_info["id"]] = await read_json(request)
        return empty()

    # files

    def _path(self, name: str) -> Path | None:
        try:
            return self.demo.folders.inside(self.base, name)
        except OutsideFolder:
            return None

    async def listing(self, request: web.Request) -> web.Response:
        query = request.rel_url.query
        if not query.get("dir"):
            return web.Response(status=400, text="Directory not provided")
        folder = self._path(query["dir"])
        if folder is None:
            return web.Response(status=403, text="Invalid directory")
        if not folder.is_dir():
            return web.Response(status=404, text="Directory not found")
        recurse = query.get("recurse", "").lower() == "true"
        found = [
            path for path in sorted(folder.rglob("*") if recurse else folder.glob("*")) if path.is_file()
        ]
        names = [path.relative_to(folder).as_posix() for path in found]
        if query.get("full_info", "").lower() == "true":
            return web.json_response(
                [self._info(path, name) for path, name in zip(found, names, strict=True)]
            )
        if query.get("split", "").lower() == "true":
            return web.json_response([[name, *name.split("/")] for name in names])
        return web.json_response(names)

    async def listing_v2(self, request: web.Request) -> web.Response:
        name = request.rel_url.query.get("path", "")
        folder = self._path(name)
        if folder is None:
            return web.Response(status=400, text="Invalid path requested")
        if not folder.exists():
            return (
                web.json_response([])
                if not name
                else web.Response(status=404, text="Requested path not found")
            )
        if not folder.is_dir():
            return web.Response(status=400, text="Requested path is not a directory")
        entries = [_entry(path, self.base) for path in folder.rglob("*")]
        return web.json_response(
            sorted(entries, key=lambda entry: (entry["type"] != "directory", entry["name"].lower()))
        )

    async def get_file(self, request: web.Request) -> web.StreamResponse:
        path = self._path(request.match_info["file"])
        if path is None:
            return empty(403)
        if not path.exists():
            return empty(404)
        if not self.demo.options.newest:
            return web.FileResponse(path)
        headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
        if path.suffix.lower() in ACTIVE_SUFFIXES:
            headers["Content-Type"] = BINARY
        return web.FileResponse(path, headers=headers)

    async def post_file(self, request: web.Request) -> web.Response:
        path = self._path(request.match_info["file"])
        if path is None:
            return empty(403)
        query = request.rel_url.query
        if query.get("overwrite") == "false" and path.exists():
            return web.Response(status=409, text="File already exists")
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise Unhandled("the body is too large") from error
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        except OSError:
            return empty(400)
        return web.json_response(self._answer(path, query.get("full_info") == "true"))

    async def delete_file(self, request: web.Request) -> web.Response:
        path = self._path(request.match_info["file"])
        if path is None:
            return empty(403)
        if not path.exists():
            return empty(404)
        if path.is_dir():
            raise Unhandled("a folder")
        path.unlink()
        return web.Response(status=204)

    async def move_file(self, request: web.Request) -> web.Response:
        source, target = self._path(request.match_info["file"]), self._path(request.match_info["target"])
        if source is None or target is None:
            return empty(403)
        if not source.exists():
            return empty(404)
        query = request.rel_url.query
        if query.get("overwrite") == "false" and target.exists():
            return web.Response(status=409, text="File already exists")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
        return web.json_response(self._answer(target, query.get("full_info") == "true"))

    def _answer(self, path: Path, full: bool) -> Any:
        name = os.path.relpath(path, self.base).replace(os.sep, "/")
        return self._info(path, name) if full else name

    def _info(self, path: Path, name: str) -> Document:
        found = path.stat()
        times: Document = {"modified": found.st_mtime, "created": found.st_ctime}
        if self.demo.options.newest:
            times = {key: int(seconds * 1000) for key, seconds in times.items()}
        return {"path": name, "size": found.st_size, **times}


def _entry(path: Path, base: Path) -> Document:
    name = path.relative_to(base).as_posix()
    if path.is_dir():
        return {"name": path.name, "path": name, "type": "directory"}
    found = path.stat()
    return {
        "name": path.name,
        "path": name,
        "type": "file",
        "size": found.st_size,
        "modified": found.st_mtime,
    }
