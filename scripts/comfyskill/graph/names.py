"""Names for parameters: unique, the same whatever the order of nodes, near misses found. Pure.

Where several parameters want one plain name, each gets a suffix made of its node's title, or of its node id where
titles do not tell them apart.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from comfyskill.graph.parameter import Group, Parameter
from comfyskill.graph.prompts import NEGATIVE, POSITIVE

_NO_WORD = re.compile(r"[\W_]+")


def nearest(word: str, among: Iterable[str], count: int = 6) -> list[str]:
    """The members of `among` that are most like `word`, likeliest first."""
    import difflib

    lowered = word.casefold()
    # Comparing with thousands of names costs seconds; those that share a beginning or a part come first.
    pool = list(dict.fromkeys(among))
    if len(pool) > 2000:
        pool = [name for name in pool if lowered[:3] in name.casefold()][:2000]
    scored = []
    for name in pool:
        other = name.casefold()
        ratio = difflib.SequenceMatcher(None, lowered, other).ratio()
        if lowered in other or other in lowered:
            ratio = max(ratio, 0.75)
        if ratio >= 0.5:
            scored.append((-ratio, name))
    return [name for _, name in sorted(scored)[:count]]


@functools.lru_cache(maxsize=4096)
def slug(text: str, longest: int = 40) -> str:
    """A title as a part of a name: lower case, letters and digits, joined by underscores."""
    return _NO_WORD.sub("_", text.casefold()).strip("_")[:longest].strip("_")


def demote(found: list[Parameter]) -> list[Parameter]:
    """What has no role stands behind what has one; a size is secondary only beside a primary one."""
    telling = {parameter.plain for parameter in found if parameter.role}
    ranked = [
        parameter._replace(secondary=True) if not parameter.role and parameter.plain in telling else parameter
        for parameter in found
    ]
    primary = {parameter.plain for parameter in ranked if not parameter.secondary}
    return [
        parameter._replace(secondary=False)
        if parameter.secondary and parameter.plain not in primary
        else parameter
        for parameter in ranked
    ]


def name_all(found: list[Parameter]) -> list[Parameter]:
    """The parameters with unique names."""
    by_plain: dict[str, list[Parameter]] = {}
    for parameter in found:
        by_plain.setdefault(parameter.plain, []).append(parameter)
    wanted: dict[tuple[str, str], str] = {}
    for plain, members in by_plain.items():
        leaders = [member for member in members if not member.secondary]
        if len(leaders) == 1:
            wanted[leaders[0].node_id, leaders[0].input] = plain
            rest = [member for member in members if member.secondary]
        else:
            rest = members
        wanted.update(_suffixed(plain, rest))
    taken: dict[str, int] = {}
    for name in wanted.values():
        taken[name] = taken.get(name, 0) + 1
    return [
        parameter._replace(
            name=_unless_taken(wanted[parameter.node_id, parameter.input], parameter, taken, by_plain),
        )
        for parameter in found
    ]


def _unless_taken(
    name: str, parameter: Parameter, taken: Mapping[str, int], plains: Mapping[str, Any]
) -> str:
    clash = taken[name] > 1 or (name in plains and name != parameter.plain)
    return parameter.address if clash else name


def _suffixed(plain: str, members: list[Parameter]) -> dict[tuple[str, str], str]:
    nodes_by_slug: dict[str, set[str]] = {}
    fields: dict[str, int] = {}
    for member in members:
        nodes_by_slug.setdefault(slug(member.title), set()).add(member.node_id)
        fields[member.node_id] = fields.get(member.node_id, 0) + 1
    names = {}
    for member in members:
        own = slug(member.title)
        told_apart = own and len(nodes_by_slug[own]) == 1
        suffix = own if told_apart else slug(member.node_id)
        if fields[member.node_id] > 1:
            suffix = slug(member.input) if len(fields) == 1 else f"{suffix}_{slug(member.input)}"
        names[member.node_id, member.input] = f"{plain}_{suffix}"
    return names


def group_all(named: list[Parameter]) -> dict[str, Group]:
    by_plain: dict[str, list[Parameter]] = {}
    for parameter in named:
        by_plain.setdefault(parameter.plain, []).append(parameter)
    groups = {}
    for plain, members in by_plain.items():
        leaders = [member for member in members if not member.secondary] or members
        sets_all, why = _safe_together(leaders)
        groups[plain] = Group(plain, tuple(leaders), sets_all, why)
    return groups


def _safe_together(members: list[Parameter]) -> tuple[bool, str]:
    if len(members) == 1:
        return True, "the only one"
    roles = {member.role for member in members}
    if roles == {"seed"}:
        return True, "all seeds are set together"
    if roles in ({POSITIVE}, {NEGATIVE}):
        if any(member.pieces for member in members):
            return False, "the texts are joined into one, so setting all would repeat the words"
        return True, "all texts of this role are set together"
    return False, "they may be meant to differ"
