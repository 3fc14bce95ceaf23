"""Servers behind a relay that fails, one for each protocol; the fixture `benches` holds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundle import Demo
from flaky import Fault, Flaky
from v2_servers import Proxy

KEY = "canary-cloudkey-31d7aa"


class Bench:
    """A demo server behind a relay that fails, and the runner; one for each protocol."""

    def __init__(self, api: str, demo: Demo, upstream: str) -> None:
        self.api, self.demo, self.relay = api, demo, Flaky(upstream)

    def ready(self, *faults: Fault, frames: str | None = None) -> None:
        """Forget the last run, put faults in place."""
        self.demo.post("/demo/reset")
        self.demo.fault(*([frames] if frames else []))
        self.relay.reset(*faults)

    def words(self, folder: Path) -> list[object]:
        """The flags that name this server."""
        if self.api != "cloud":
            return ["--host", self.relay.url, "--api", self.api]
        (folder / "key").write_text(KEY)
        return ["--host", self.relay.url, "--api", "cloud", "--api-key-file", "key"]

    def executions(self) -> list[str]:
        """The prompt ids that were started, in order."""
        return [item["prompt_id"] for item in self.demo.get("/demo/executions")["executions"] if item["event"] == "start"]  # fmt: skip


def all_benches() -> Iterator[dict[str, Bench]]:
    """One for each protocol, made when first asked for, ended with the session."""
    made: dict[str, Bench] = {}
    ends: list[Any] = []

    class Made(dict[str, Bench]):
        def __missing__(self, api: str) -> Bench:
            demo = Demo(
                *(("--cloud", "--tier", "creator", "--api-key", KEY) if api == "cloud" else ()),
                "--step-time",
                "0.005",
            )
            ends.append(demo.stop)
            upstream = demo.url
            if api == "v2":
                pytest.importorskip("comfy_api_proxy", reason="comfy-api-proxy is a development dependency")
                proxy = Proxy(demo.url)
                ends.append(proxy.stop)
                upstream = proxy.url
            self[api] = Bench(api, demo, upstream)
            ends.append(self[api].relay.stop)
            return self[api]

    made = Made()
    yield made
    for end in reversed(ends):
        end()
