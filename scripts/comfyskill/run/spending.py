"""Consent to spend: which partner nodes would be called, what they cost where that is known, and on which server."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from comfyskill.base import safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.graph import nodes as graph_nodes
from comfyskill.server.protocol import Dialect

if TYPE_CHECKING:
    from comfyskill.run.prepare import Prepared

MOST_NAMED = 6


def consent_needed(
    prepared: Prepared, servers: Sequence[Dialect], what: str = "this workflow calls", **details: Any
) -> SkillError:
    """The refusal (exit 7) of a graph with partner nodes. `what` is the subject of its message: who calls them."""
    nodes = [prepared.graph[node] for node in prepared.partner if node in prepared.graph]
    classes = sorted({graph_nodes.class_of(node) for node in nodes})
    prices = _prices(classes, servers)
    named = [
        safe_text.quoted(name) + (f" ({prices[name]})" if name in prices else "")
        for name in classes[:MOST_NAMED]
    ]
    more = [f"{len(classes) - MOST_NAMED} more"] if len(classes) > MOST_NAMED else []
    hosts = [server.url for server in servers]
    known: dict[str, Any] = {"prices": prices} if prices else {}
    return SkillError(
        f"{what} partner nodes that cost credits: {', '.join([*named, *more])}; on {', '.join(hosts)}",
        code="consent_needed",
        hint="ask the user, naming nodes, price and server, then add --yes-spend",
        flag="--yes-spend",
        partner_nodes=list(prepared.partner),
        hosts=hosts,
        **known,
        **details,
    )


def _prices(classes: Sequence[str], servers: Sequence[Dialect]) -> dict[str, str]:
    """Class -> price, by the first server whose definition states one."""
    found: dict[str, str] = {}
    for server in servers:
        try:
            definitions = server.definitions(list(classes))
        except SkillError as error:
            if error.exit in (Exit.UNREACHABLE, Exit.REFUSED):
                raise
            continue
        for name in classes:
            if (price := price_of(definitions.get(name))) is not None:
                found.setdefault(name, price)
    return found


def price_of(definition: Any) -> str | None:
    """The price in a node's definition; None when there is none, or when it depends on the inputs.

    The badge is an expression of the editor; one without variables is JSON.
    """
    badge = definition.get("price_badge") if isinstance(definition, Mapping) else None
    try:
        said = json.loads(badge["expr"]) if isinstance(badge, Mapping) else None
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    if not isinstance(said, Mapping):
        return None
    listed = said.get("usd")
    numbers = listed if isinstance(listed, list) else [listed]
    if said.get("type") == "range_usd":
        numbers = [said.get("min_usd"), said.get("max_usd")]
    if not numbers or not all(type(number) in (int, float) for number in numbers):
        return None
    form = said.get("format")
    suffix = form.get("suffix") if isinstance(form, Mapping) else None
    about = "about " if isinstance(form, Mapping) and form.get("approximate") is True else ""
    amount = " to ".join(f"${number:g}" for number in dict.fromkeys([numbers[0], numbers[-1]]))
    return f"{about}{amount}{_suffix(suffix)}"


def _suffix(text: Any) -> str:
    """What a price is for (`/Run`, ` per 1K tokens`), if a server says it in a few plain words."""
    return text if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9/ ]{1,20}", text) else ""


__all__ = ["consent_needed", "price_of"]
