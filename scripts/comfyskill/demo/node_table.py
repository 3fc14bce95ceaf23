"""The function that simulates each class, and what a function gets and returns."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from comfyskill.base.cli import Document

Function = Callable[..., Any]


class NodeFailure(Exception):
    """A node fails with an exception of this name, as clients will see it in `execution_error`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Interrupted(Exception):
    """The run must stop."""


@dataclass(frozen=True)
class Result:
    """What a node returns: values (one per output), entries for the UI, or a graph to run in its place."""

    values: tuple[Any, ...] = ()
    ui: Mapping[str, list[Any]] | None = None
    expand: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Implementation:
    """`heavy` functions leave the event loop when pictures are large."""

    function: Function
    heavy: bool = False
    takes_lists: bool = False
    needs: Callable[[Mapping[str, Any]], list[str]] | None = None
    changes: Callable[[Mapping[str, Any], Any], Any] | None = None


NODES: dict[str, Implementation] = {}
NODE_MODULES = (
    "nodes_pictures",
    "nodes_masks",
    "nodes_text",
    "nodes_models",
    "nodes_latents",
    "nodes_media",
    "nodes_save",
)
_loaded: list[bool] = []


def node(
    *names: str, heavy: bool = False, takes_lists: bool = False, **more: Any
) -> Callable[[Function], Function]:
    """Register a function for the classes that it simulates."""

    def register(function: Function) -> Function:
        for name in names:
            NODES[name] = Implementation(function, heavy, takes_lists, **more)
        return function

    return register


def implementation(name: str) -> Implementation | None:
    """The function for this class, or None (then `generic` simulates it)."""
    if not _loaded:
        _loaded.append(True)
        for module in NODE_MODULES:
            importlib.import_module(f"comfyskill.demo.{module}")
    return NODES.get(name)


def call_arguments(values: Mapping[str, Any]) -> Document:
    """Inputs as keyword arguments: `resize_type.width` becomes `resize_type_width`, names become identifiers."""
    return {key.replace(".", "_").replace(" ", "_").replace("-", "_"): value for key, value in values.items()}
