"""Consent to spend: which partner nodes would be called, what they cost where that is known, and on which server."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document, Exit, SkillError
from comfyskill.graph import nodes as graph_nodes
from comfyskill.server.protocol import Dialect

if TYPE_CHECKING:
    from comfyskill.run.prepare import Prepared

MOST_NAMED = 6


def consent_needed(
    prepared: Prepared, servers: Sequence[Dialect], what: str = "this workflow calls", **details: object
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
    known: Document = ({"prices": prices} if prices else {}) | details
    return SkillError(
        f"{what} partner nodes that cost credits: {', '.join([*named, *more])}; on {', '.join(hosts)}",
        code="consent_needed",
        hint="ask the user, naming nodes, price and server, then add --yes-spend",
        flag="--yes-spend",
        partner_nodes=list(prepared.partner),
        hosts=hosts,
        **known,
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


def price_of(definition: object) -> str | None:
    """The price in a node's definition; None when there is none, or when it depends on the inputs.

    The badge is an expression of the editor; one without variables is JSON.
    """
    badge = foreign.mapping(foreign.mapping(definition).get("price_badge"))
    try:
        price = foreign.mapping(json.loads(foreign.text(badge.get("expr"))))
    except (ValueError, RecursionError):
        return None
    listed = price.get("usd")
    numbers = listed if isinstance(listed, list) else [listed]
    if price.get("type") == "range_usd":
        numbers = [price.get("min_usd"), price.get("max_usd")]
    if not numbers or any(foreign.number(number) is None for number in numbers):
        return None
    form = foreign.mapping(price.get("format"))
    about = "about " if form.get("approximate") is True else ""
    amount = " to ".join(f"${number:g}" for number in dict.fromkeys([numbers[0], numbers[-1]]))
    return f"{about}{amount}{_suffix(form.get('suffix'))}"


def _suffix(text: object) -> str:
    """What a price is for (`/Run`, ` per 1K tokens`), when the server says it in a few plain characters."""
    return text if isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9/ ]{1,20}", text) else ""
