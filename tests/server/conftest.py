"""Servers that answer what a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from web_server import Web


@pytest.fixture
def web() -> Iterator[Callable[..., Web]]:
    """Starts small servers."""
    started: list[Web] = []

    def start(*args: Any, **options: Any) -> Web:
        started.append(Web(*args, **options))
        return started[-1]

    yield start
    for server in started:
        server.server.shutdown()
        server.server.server_close()
