"""Helpers that all routes share."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from comfyskill.base.cli import Document
from comfyskill.demo.validation import Unhandled

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Route = tuple[str, str, Handler]


async def read_json(request: web.Request) -> Any:
    """The body as JSON, with any content type. Raises Unhandled: the real server answers 500 then."""
    text = await request.text()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unhandled("the body is not JSON") from error


async def read_object(request: web.Request) -> Document:
    """The body as a JSON object. Raises Unhandled for anything else."""
    body = await read_json(request)
    if not isinstance(body, dict):
        raise Unhandled("the body is not an object")
    return body


def empty(status: int = 200) -> web.Response:
    """No body and no content type, as the real handlers answer."""
    return web.Response(status=status)


def with_api(routes: list[Route]) -> list[Route]:
    """Each route twice: as it is, and under /api."""
    return [*routes, *((method, f"/api{path}", handler) for method, path, handler in routes)]
