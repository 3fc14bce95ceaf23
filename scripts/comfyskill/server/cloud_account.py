"""What Comfy Cloud says of an account: plan, credits, free runs, jobs at once. Reading calls only.

Level 2. Source: the cloud fact sheet ("Nodes, models, … billing" and "Tiers and limits"). The routes are young and some
plans may not ask them, so each is optional; what could not be had is absent, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from comfyskill.base import safe_text
from comfyskill.base.cli import SkillError

if TYPE_CHECKING:
    from comfyskill.server.protocol import Dialect

# The newest client takes the first that is not zero.
BALANCES = (
    "effective_balance_micros", "amount_micros", "prepaid_balance_micros", "cloud_credit_balance_micros",
)  # fmt: skip
CENTS_PER_DOLLAR = 100.0
CREDITS_PER_DOLLAR = 211.0
STATUS_WORDS = (
    "subscription_tier", "subscription_status", "subscription_duration", "billing_status", "is_active", "has_funds",
    "renewal_date",
)  # fmt: skip


def report(server: Dialect) -> dict[str, Any]:
    """`plan`, `credits`, `free_tier` and `most_at_once`, each only where the cloud tells it."""
    found: dict[str, Any] = {}
    status = _ask(server, "billing/status")
    plan = {key: safe_text.clean_tree(status[key], 60) for key in STATUS_WORDS if status.get(key) is not None}
    if plan:
        found["plan"] = plan
    credit = credits_in(_ask(server, "billing/balance"))
    if credit is not None:
        found["credits"] = credit
    features = _ask(server, "features")
    free = features.get("free_tier_balance")
    if isinstance(free, Mapping):
        found["free_tier"] = {
            key: free[key]
            for key in ("allowance", "used", "remaining")
            if isinstance(free.get(key), (int, float))
        }
    limit = features.get("max_concurrent_jobs")
    if isinstance(limit, int) and not isinstance(limit, bool):
        found["most_at_once"] = limit
    return found


def credits_in(balance: Mapping[str, Any]) -> dict[str, Any] | None:
    """The balance as credits and dollars. The field names say millionths, the official client reads cents: cents here."""
    amounts = [balance.get(key) for key in BALANCES]
    known = [
        float(amount)
        for amount in amounts
        if isinstance(amount, (int, float)) and not isinstance(amount, bool)
    ]
    if not known:
        return None
    cents = next((amount for amount in known if amount), 0.0)
    dollars = cents / CENTS_PER_DOLLAR
    return {
        "dollars": round(dollars, 2),
        "credits": round(dollars * CREDITS_PER_DOLLAR),
        "note": "the cloud's sources disagree on the unit; this reads the number as cents",
    }


def spent(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a run cost by the two reports around it; None where either lacks a balance. Other runs count in."""
    first, last = before.get("credits"), after.get("credits")
    if not isinstance(first, Mapping) or not isinstance(last, Mapping):
        return None
    return {
        "credits": first["credits"] - last["credits"],
        "dollars": round(first["dollars"] - last["dollars"], 2),
    }


def _ask(server: Dialect, path: str) -> Mapping[str, Any]:
    try:
        answer = server.get_json(path, attempts=1, timeout=15)
    except SkillError as error:
        if error.code == "unreachable":
            raise
        return {}
    return answer if isinstance(answer, Mapping) else {}
