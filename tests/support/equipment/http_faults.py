"""Faults of HTTP answers: statuses, lost answers, slow and short bodies."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

from aiohttp import web

from comfyskill.demo.routes import Handler
from equipment.fault_list import Fault
from equipment.faults import Faults

BLOCK = 65536
BODIES = {
    "html": (
        "text/html",
        "<html><head><title>{code}</title></head><body><h1>{code} demo fault</h1></body></html>",
    ),
    "text": ("text/plain", "{code}: {message}"),
    "broken": ("application/json", '{{"error": {{"type": "'),
    "empty": ("", ""),
}


def route_of(path: str) -> str:
    """The path without the `/api` prefix."""
    return path[4:] if path.startswith("/api/") else path


async def strike(faults: Faults, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Carry out a request, changed by a fault if one applies."""
    if faults.is_down():
        return cut(request)
    fault = faults.http(request.method, route_of(request.path))
    if fault is None:
        return await handler(request)
    name = fault.name
    if name in ("status", "429", "502-before", "401-mid-run"):
        return refusal(fault, 401 if name == "401-mid-run" else int(fault.number("code", 500)))
    if name == "502-after":
        await handler(request)
        return refusal(fault, int(fault.number("code", 502)))
    if name in ("close", "answer-lost"):
        if name == "answer-lost":
            await handler(request)
        return cut(request)
    if name in ("hang", "hang-after"):
        if name == "hang-after":
            await handler(request)
        await asyncio.sleep(3600)
    if name == "delay":
        await asyncio.sleep(fault.number("ms") / 1000)
        return await handler(request)
    if name == "redirect":
        to = fault.values["to"].replace("{path}", request.rel_url.raw_path_qs)
        return web.Response(status=int(fault.number("code", 302)), headers={"Location": to})
    return await _body_fault(fault, request, await handler(request))


def cut(request: web.Request) -> web.StreamResponse:
    """End the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    raise asyncio.CancelledError


def refusal(fault: Fault, code: int) -> web.Response:
    message = fault.values.get("message", "demo fault")
    headers = {}
    if fault.values.get("retry_after"):
        headers["Retry-After"] = fault.values["retry_after"]
    form = fault.values.get("body", "json")
    if form not in BODIES:
        body = {
            "error": {"type": "demo_fault", "message": message, "details": "", "extra_info": {}},
            "node_errors": {},
        }
        return web.json_response(body, status=code, headers=headers)
    kind, text = BODIES[form]
    if not kind:
        return web.Response(status=code, headers=headers)
    return web.Response(
        status=code, text=text.format(code=code, message=message), content_type=kind, headers=headers
    )


async def _body_fault(fault: Fault, request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    body, start = await _whole_body(request, answer)
    status = 206 if start else answer.status
    kind = answer.headers.get("Content-Type", "application/octet-stream")
    headers = {"Content-Type": kind}
    if "Content-Disposition" in answer.headers:
        headers["Content-Disposition"] = answer.headers["Content-Disposition"]
    if start:
        headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{start + len(body)}"
    response = web.StreamResponse(status=status, headers=headers)
    response.force_close()
    if fault.name == "garbage":
        body = os.urandom(int(fault.number("bytes", 1000)))
    sent = body
    length: int | None = len(body)
    if fault.name == "truncate":
        wanted = fault.values.get("bytes")
        sent = body[: int(wanted) if wanted else int(len(body) * fault.number("share", 0.5))]
    elif fault.name == "wrong-length":
        length = max(0, len(body) + int(fault.number("add", 10)))
        sent = body[:length]
    elif fault.name == "no-length":
        length = None
    response.content_length = length
    if length is None:
        response.enable_chunked_encoding()
    await response.prepare(request)
    await _send(response, sent, fault.number("rate") if fault.name == "slow-body" else 0)
    if length is not None and len(sent) < length:
        if request.transport is not None:
            # Send what was written before the end.
            request.transport.close()
        raise asyncio.CancelledError
    await response.write_eof()
    return response


async def _send(response: web.StreamResponse, data: bytes, rate: float) -> None:
    block = BLOCK if not rate else max(1, int(rate / 20))
    for start in range(0, len(data), block):
        await response.write(data[start : start + block])
        if rate:
            await asyncio.sleep(block / rate)


async def _whole_body(request: web.Request, answer: web.StreamResponse) -> tuple[bytes, int]:
    """(body from the wanted position on, that position)."""
    if isinstance(answer, web.FileResponse):
        data = await asyncio.to_thread(Path(answer._path).read_bytes)
    elif isinstance(answer, web.Response) and isinstance(answer.body, (bytes, bytearray)):
        data = bytes(answer.body)
    else:
        data = json.dumps(None).encode()
    wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    start = min(int(wanted[1]), len(data)) if wanted and isinstance(answer, web.FileResponse) else 0
    return data[start:], start
