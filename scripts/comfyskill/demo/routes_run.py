"""Prompts, queue, interrupt, history: `/prompt`, `/queue`, `/interrupt`, `/free`, `/history`."""

from __future__ import annotations

import itertools
import re
import uuid
from typing import TYPE_CHECKING, Any

from aiohttp import web

from comfyskill.base.cli import Document
from comfyskill.base.foreign import mapping
from comfyskill.demo.item import Item, now_ms
from comfyskill.demo.replacements import replaced
from comfyskill.demo.routes import Route, empty, read_json, read_object, with_api
from comfyskill.demo.validation import Unhandled, check, no_prompt, top_error

if TYPE_CHECKING:
    from comfyskill.demo.parts import Parts

PROMPT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PROMPT_ID_RULE = "prompt_id must be a UUID string in canonical lowercase hyphenated form; omit it to let the server generate one"
SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")


def is_prompt_id(value: object) -> bool:
    """Whether 0.33 takes this as the id of a job."""
    return isinstance(value, str) and PROMPT_ID.fullmatch(value) is not None


class RunRoutes:
    """Handlers over the engine."""

    def __init__(self, demo: Parts) -> None:
        self.demo = demo
        self.engine = demo.engine

    def routes(self) -> list[Route]:
        return with_api(
            [
                ("GET", "/prompt", self.get_prompt),
                ("POST", "/prompt", self.post_prompt),
                ("GET", "/queue", self.get_queue),
                ("POST", "/queue", self.post_queue),
                ("POST", "/interrupt", self.interrupt),
                ("POST", "/free", self.free),
                ("GET", "/history", self.get_history),
                ("GET", "/history/{prompt_id}", self.get_history_of),
                ("POST", "/history", self.post_history),
            ]
        )

    async def get_prompt(self, _request: web.Request) -> web.Response:
        return web.json_response({"exec_info": {"queue_remaining": self.engine.remaining()}})

    async def post_prompt(self, request: web.Request) -> web.Response:
        body = await read_json(request)
        self.engine.write_log("got prompt")
        answer, status, item = self.accept(body)
        if item is not None:
            self.engine.put(item)
        return web.json_response(answer, status=status)

    def accept(self, body: Any) -> tuple[Document, int, Item | None]:
        """(answer, status, item to queue) for the body of a submit. Raises Unhandled."""
        if not isinstance(body, (dict, list, str)):
            raise Unhandled("the body is neither object nor list nor text")
        number = self._number(body)
        if "prompt" not in body or not isinstance(body, dict):
            if isinstance(body, dict) or "prompt" not in body:
                return no_prompt(), 400, None
            raise Unhandled("the body is not an object")
        prompt = body["prompt"]
        targets = body.get("partial_execution_targets")
        prompt_id = str(body["prompt_id"]) if "prompt_id" in body else str(uuid.uuid4())
        if self.demo.options.newest:
            if body.get("prompt_id") is None:
                prompt_id = str(uuid.uuid4())
            elif not is_prompt_id(body["prompt_id"]):
                error = top_error("invalid_prompt_id", "prompt_id must be a valid UUID", PROMPT_ID_RULE)
                return {"error": error, "node_errors": {}}, 400, None
            prompt = replaced(prompt, self.demo.definitions)
        verdict = check(prompt, self.demo.definitions, self.demo.folders, targets)
        if verdict.error is not None:
            return {"error": verdict.error, "node_errors": verdict.node_errors}, 400, None
        extra, secrets = self._extra_data(body)
        item = Item(number, prompt_id, dict(mapping(prompt)), extra, verdict.outputs, secrets)
        return {"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors}, 200, item

    def _number(self, body: Any) -> float:
        if isinstance(body, dict) and "number" in body:
            try:
                return float(body["number"])
            except (TypeError, ValueError) as error:
                raise Unhandled("number is not a number") from error
        number = self.engine.take_number()
        return -number if isinstance(body, dict) and body.get("front") else number

    def _extra_data(self, body: Document) -> tuple[Document, dict[str, str]]:
        extra = body.get("extra_data", {})
        if not isinstance(extra, dict):
            raise Unhandled("extra_data is not an object")
        extra = dict(extra)
        if "client_id" in body:
            extra["client_id"] = body["client_id"]
        if extra.get("client_id") is not None and not isinstance(extra["client_id"], (str, int)):
            # The real server accepts this, then crashes.
            raise Unhandled("client_id is not a name")
        secrets = {key: str(extra.pop(key)) for key in SECRETS if key in extra}
        return {**extra, "create_time": now_ms()}, secrets

    async def get_queue(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {
                "queue_running": [item.row() for item in self.engine.running.values()],
                "queue_pending": [item.row() for item in self.engine.pending],
            }
        )

    async def post_queue(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        if body.get("clear"):
            self.engine.clear_pending()
        if "delete" in body:
            for prompt_id in _walk(body["delete"]):
                self.engine.delete_pending(prompt_id)
        return empty()

    async def interrupt(self, request: web.Request) -> web.Response:
        try:
            body = await read_json(request)
        except Unhandled:
            body = {}
        if not isinstance(body, dict):
            raise Unhandled("the body is not an object")
        self.engine.interrupt(body.get("prompt_id") or None)
        return empty()

    async def free(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        self.engine.request_free(bool(body.get("free_memory")))
        return empty()

    async def get_history(self, request: web.Request) -> web.Response:
        history = self.engine.history
        query = request.rel_url.query
        try:
            most = int(query["max_items"]) if "max_items" in query else None
            offset = int(query["offset"]) if "offset" in query else -1
        except ValueError as error:
            raise Unhandled("max_items or offset is not a number") from error
        if most is None and offset < 0:
            return web.json_response(history)
        if offset >= 0:
            # With an offset the real server counts from the oldest; without one it gives the newest.
            end = len(history) if most is None else offset + max(0, most)
            found = list(itertools.islice(history.items(), offset, end))
        else:
            found = list(itertools.islice(reversed(history.items()), max(0, most or 0)))[::-1]
        return web.json_response(dict(found))

    async def get_history_of(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        entry = self.engine.history.get(prompt_id)
        return web.json_response({} if entry is None else {prompt_id: entry})

    async def post_history(self, request: web.Request) -> web.Response:
        body = await read_object(request)
        if body.get("clear"):
            self.engine.history.clear()
        if "delete" in body:
            for prompt_id in _walk(body["delete"]):
                self.engine.history.pop(prompt_id, None)
        return empty()


def _walk(value: Any) -> list[Any]:
    if not isinstance(value, (list, str, dict)):
        raise Unhandled("cannot walk this")
    return list(value)
