"""The cloud's two shapes of error bodies."""

from __future__ import annotations

import uuid

from aiohttp import web


def is_uuid(text: object) -> bool:
    try:
        uuid.UUID(str(text))
    except ValueError:
        return False
    return True


def refusal(status: int, code: str, message: str) -> web.Response:
    """The error body of most endpoints."""
    return web.json_response({"code": code, "message": message}, status=status)


def typed(status: int, kind: str, message: str) -> web.Response:
    """The error body of the submit."""
    return web.json_response({"error": {"type": kind, "message": message}, "node_errors": {}}, status=status)
