"""ComfyUI-Manager as it answers in front of a server: versions 3 and 4, and version 4 with its legacy interface.

The routes and their bodies as read in 3.31 and 4.3. What an install, a download and a restart do is the caller's: the
demo server lets node classes appear, a test may write files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

V3, V4, LEGACY = SHAPES = ("v3", "v4", "v4-legacy")
VERSIONS = {V3: "V3.31.9", V4: "V4.3", LEGACY: "V4.3"}
# What a browser's form can send without asking is refused by version 4's starting and restarting routes.
FORMS = frozenset({"text/plain", "multipart/form-data", "application/x-www-form-urlencoded"})
# What an install of a model must name in version 4.
ORDER_KEYS = {"client_id", "ui_id", "name", "type", "url", "filename"}


class Manager:
    """One Manager: what it knows, and its orders. `shape`: v3, v4, v4-legacy, or None without a Manager."""

    def __init__(
        self,
        shape: str | None,
        *,
        install: Callable[[str], bool] = lambda _pack: False,
        fetch: Callable[[Mapping[str, Any]], bool] = lambda _order: True,
        restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.shape = shape
        self.mappings: dict[str, Any] = {}
        self.models: list[dict[str, Any]] = []
        self.installed: set[str] = set()
        self.refuses = False
        self._install, self._fetch, self._restart = install, fetch, restart
        self._waiting: list[tuple[str, Mapping[str, Any], str]] = []
        self._history: dict[str, Any] = {}
        self._done = 0
        self._busy = 0

    def answer(
        self, method: str, path: str, query: Mapping[str, str], body: Any = None, form: str = ""
    ) -> Any:
        """The answer to a request (path without its first slash): JSON, text, or a number for a bare status.

        None when this Manager does not have the route. `form`: the request's content type.
        """
        prefix = "" if self.shape == V3 else "v2/"
        if self.shape is None or not path.startswith(
            (f"{prefix}manager/", f"{prefix}customnode/", f"{prefix}externalmodel/")
        ):
            return None
        route = path.removeprefix(prefix)
        if method == "GET":
            found = self._told(route, query)
            if found is not None:
                return found
        return self._ordered(method, route, body, form)

    def _told(self, route: str, query: Mapping[str, str]) -> Any:
        """The routes that only read."""
        shape = self.shape
        if route == "manager/version":
            return VERSIONS[str(shape)]
        if route == "manager/is_legacy_manager_ui" and shape != V3:
            return {"is_legacy_manager_ui": shape == LEGACY}
        if route == "customnode/getmappings":
            return self.mappings if "mode" in query else 500
        if route == "externalmodel/getlist" and shape != V4:
            return {"models": self.models} if "mode" in query else 500
        if route == "customnode/installed":
            return {name: {"ver": "1.0", "cnr_id": name, "enabled": True} for name in sorted(self.installed)}
        if route == "manager/queue/status":
            return self._status()
        if route == "manager/queue/history" and shape == V4:
            return {"history": self._history.get(query.get("ui_id", ""))}
        return None

    def _status(self) -> dict[str, Any]:
        busy = self._busy > 0
        self._busy = max(0, self._busy - 1)
        # The legacy queue forgets its counts with its last batch; version 4's worker waits a while for more.
        done = 0 if self.shape == LEGACY and not busy else self._done
        pending = {"pending_count": 0} if self.shape == V4 else {}
        return {
            "total_count": done, "done_count": done, "in_progress_count": int(busy), **pending,
            "is_processing": busy or self.shape == V4,
        }  # fmt: skip

    def _ordered(self, method: str, route: str, body: Any, form: str) -> Any:
        """The routes that change something: version 3 starts and restarts with a GET, version 4 with a POST."""
        if route in ("manager/queue/start", "manager/reboot"):
            if method != ("GET" if self.shape == V3 else "POST"):
                return 405
            if self.shape != V3 and form in FORMS:
                return 400
            if route == "manager/queue/start":
                return self._work()
            self._restart()
            return 200
        if method != "POST" or not isinstance(body, Mapping):
            return None
        if route == "manager/queue/batch" and self.shape == LEGACY:
            return self._batch(body)
        if route == "manager/queue/install" and self.shape == V3:
            return 403 if self.refuses else self._wait("install", body, body)
        if route == "manager/queue/task" and self.shape == V4:
            params = body.get("params")
            return self._wait(str(body.get("kind")), params, body) if isinstance(params, Mapping) else 400
        if route == "manager/queue/install_model" and self.shape != LEGACY:
            if self.shape == V4 and not body.keys() >= ORDER_KEYS:
                return 400
            return self._wait("install-model", body, body)
        return None

    def _wait(self, kind: str, order: Mapping[str, Any], about: Mapping[str, Any]) -> int:
        self._waiting.append((kind, order, str(about.get("ui_id"))))
        return 200

    def _batch(self, body: Mapping[str, Any]) -> dict[str, list[str]]:
        """The legacy interface takes several orders at once and starts by itself."""
        for key, kind in (("install", "install"), ("install_model", "install-model")):
            for order in body.get(key) or []:
                self._wait(kind, order, order)
        failed = [str(order.get("id")) for order in body.get("install") or []] if self.refuses else []
        self._work()
        return {"failed": failed}

    def _work(self) -> int:
        """Carry out the waiting orders; the next queue request still reports them as running."""
        for kind, order, ui_id in self._waiting:
            said = "success" if self._carry_out(kind, order) else "failed"
            self._done += 1
            status = {"status_str": said, "completed": True, "messages": []}
            self._history[ui_id] = {"ui_id": ui_id, "result": said, "status": status}
        self._waiting = []
        self._busy = 1
        return 200

    def _carry_out(self, kind: str, order: Mapping[str, Any]) -> bool:
        if kind != "install":
            return self._fetch(order)
        pack = str(order.get("id"))
        if self.refuses or not self._install(pack):
            return False
        self.installed.add(pack)
        return True
