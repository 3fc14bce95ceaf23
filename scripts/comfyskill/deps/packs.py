"""Which node pack provides a class: the workflow's claim, the Manager's mapping, the bundle's tables.

A pack is foreign code, so a claim is named with its source, claims that contradict each other are not acted on, and
only ids of the Comfy Registry can be installed; the address of a repository is shown to a person and no more.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from comfyskill.base import safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.deps.manager import Manager
from comfyskill.editor.outline import nodes_of
from comfyskill.graph import catalog
from comfyskill.graph.nodes import Graph

CORE = "comfy-core"
# Classes by pack, read out of the packs' published node lists.
_CLASSES = Path(__file__).resolve().parent / "pack_classes.json"
# Registry ids that differ from the name of the pack's repository.
_SAME = {"was-ns": "was-node-suite-comfyui"}
TABLES = "the bundle's tables of common packs"
# The registry's ids in lower case; they start with a letter or digit, so that none is taken for an option.
_REGISTRY_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


class Pack(NamedTuple):
    """Where a missing class comes from. id: None when only a repository is known, or nothing."""

    id: str | None
    source: str | None
    version: str | None = None
    repository: str | None = None
    title: str | None = None
    doubt: str | None = None

    @property
    def core(self) -> bool:
        """Whether it is ComfyUI itself that is too old."""
        return self.id == CORE

    @property
    def installable(self) -> bool:
        """Whether it can be installed by its registry id without doubt about which pack it is."""
        return self.id is not None and not self.core and self.doubt is None

    def to_json(self) -> Document:
        """The known facts for a report."""
        facts: Document = {
            "pack": self.id, "source": self.source, "version": self.version, "repository": self.repository,
            "title": self.title, "doubt": self.doubt,
        }  # fmt: skip
        if self.id and not self.core:
            facts["page"] = f"Comfy Registry, node pack {self.id}"
        return {key: value for key, value in facts.items() if value}


def registry_id(text: object) -> str | None:
    """A registry id that may be installed, in lower case, or None for anything else (addresses, paths, options)."""
    if not isinstance(text, str):
        return None
    lowered = text.strip().lower()
    return lowered if _REGISTRY_ID.fullmatch(lowered) and ".." not in lowered else None


@functools.lru_cache(maxsize=1)
def packs_by_class() -> Mapping[str, frozenset[str]]:
    """Class type -> the packs that provide it, by their usual names (see `usual_name`)."""
    found: dict[str, set[str]] = {}
    for pack, classes in json.loads(_CLASSES.read_text(encoding="utf-8")).items():
        for class_type in classes:
            found.setdefault(class_type, set()).add(usual_name(pack))
    for class_type, pack in catalog.NODE_PACKAGES.items():
        found.setdefault(class_type, set()).add(usual_name(pack))
    return {class_type: frozenset(packs) for class_type, packs in found.items()}


def usual_name(pack: str) -> str:
    """A pack's registry id or repository as one name: lower case, the last part of an address, hyphens alone."""
    last = pack.rstrip("/").rpartition("/")[2].removesuffix(".git").lower()
    return _SAME.get(last, last).replace("_", "-")


def in_tables(class_type: str) -> Pack | None:
    """The pack of a class by the bundle's tables; with a doubt where they name several, or none by its registry id."""
    if known := catalog.NODE_PACKAGES.get(class_type):
        return Pack(known, TABLES)
    names = sorted(packs_by_class().get(class_type, ()))
    if len(names) > 1:
        return Pack(None, TABLES, doubt=_several(names))
    if not names:
        return None
    ids = {usual_name(pack): pack for pack in (CORE, *catalog.NODE_PACKAGES.values())}
    if names[0] in ids:
        return Pack(ids[names[0]], TABLES)
    return Pack(
        names[0], TABLES, doubt="this is its repository's name; its id in the Comfy Registry may differ"
    )


def _several(names: list[str]) -> str:
    return f"several packs provide this class: {safe_text.quoted_list(names, 5)}"


def claims_of(graph: Graph, editor: Mapping[str, object] | None) -> dict[str, Pack]:
    """What the workflow says of its classes' packs (`cnr_id`, `aux_id`, `ver`), by class type."""
    claims: dict[str, Pack] = {}
    for node in graph.values():
        meta = node.get("_meta") if isinstance(node, Mapping) else None
        if isinstance(meta, Mapping):
            _add(claims, node.get("class_type") or meta.get("missing_type"), meta)
    for node in nodes_of(editor):
        properties = node.get("properties")
        if isinstance(properties, Mapping):
            _add(claims, node.get("type"), properties)
    return claims


def _add(claims: dict[str, Pack], class_type: object, said: Mapping[str, object]) -> None:
    if not isinstance(class_type, str) or class_type in claims:
        return
    pack = registry_id(said.get("cnr_id"))
    aux = said.get("aux_id")
    repository = None
    if isinstance(aux, str) and re.fullmatch(r"[\w.-]{1,100}/[\w.-]{1,100}", aux):
        repository = f"https://github.com/{aux}"
    version = said.get("ver")
    version = safe_text.clean(version, 60) if isinstance(version, str) and version else None
    if pack or repository:
        claims[class_type] = Pack(pack, "the workflow's own node properties", version, repository)


class PackFinder:
    """Looks up the pack of a class."""

    def __init__(self, claims: Mapping[str, Pack], manager: Manager | None) -> None:
        self._claims = claims
        self._manager = manager
        self.not_asked: list[str] = []

    def find(self, class_type: str) -> Pack | None:
        """The pack that brings a class: the workflow's claim, checked against the Manager and the tables, or theirs."""
        mapped = self._mapped(class_type)
        claim = self._claims.get(class_type)
        if claim is not None:
            return self._weighed(claim, class_type, mapped)
        table = in_tables(class_type)
        ids = {pack.id: pack for pack in mapped if pack.id}
        if len(ids) > 1 and (table is None or table.id not in ids):
            return Pack(None, mapped[0].source, doubt=_several(sorted(map(str, ids))))
        if ids:
            return ids[table.id] if table is not None and table.id in ids else next(iter(ids.values()))
        if table is None:
            return mapped[0] if mapped else None
        # A Manager that could not reach the registry knows repositories alone.
        return table._replace(repository=mapped[0].repository, title=mapped[0].title) if mapped else table

    def _weighed(self, claim: Pack, class_type: str, mapped: list[Pack]) -> Pack:
        """The workflow's claim, in doubt when the sources that know the class name only other packs."""
        others = {pack.id for pack in mapped if pack.id}
        table = catalog.NODE_PACKAGES.get(class_type)
        if table:
            others.add(table)
        if claim.id is None or claim.id == CORE or not others or claim.id in others:
            return claim
        names = safe_text.quoted_list(sorted(others), 5)
        return claim._replace(doubt=f"the workflow names this pack, but the class is known from {names}")

    def _mapped(self, class_type: str) -> list[Pack]:
        if self._manager is None:
            return []
        try:
            found = self._manager.packs_with(class_type)
        except SkillError as error:
            self.not_asked.append(f"the Manager's node mapping: {safe_text.clean(error.message, 160)}")
            self._manager = None
            return []
        source = "ComfyUI-Manager's node mapping"
        return [
            Pack(registry_id(claim.id), source, None, claim.repository, claim.title)
            for claim in found
            if registry_id(claim.id) or claim.repository
        ]
