"""Which node pack provides a class: the workflow's claim, the Manager's mapping, the table, comfy-cli.

A pack is foreign code, so a claim is named with its source, claims that contradict each other are not acted on, and
only ids of the Comfy Registry can be installed; the address of a repository is shown to a person and no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from comfyskill.base import safe_text
from comfyskill.base.cli import SkillError
from comfyskill.deps.manager import Manager
from comfyskill.deps.pack import CORE, Pack, registry_id
from comfyskill.editor.outline import nodes_of
from comfyskill.graph import catalog

if TYPE_CHECKING:
    from comfyskill.deps.comfy_cli import Registry


def claims_of(graph: Mapping[str, Any], editor: Mapping[str, Any] | None) -> dict[str, Pack]:
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


def _add(claims: dict[str, Pack], class_type: Any, said: Mapping[str, Any]) -> None:
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

    def __init__(
        self, claims: Mapping[str, Pack], manager: Manager | None, registry: Registry | None = None
    ) -> None:
        self._claims = claims
        self._manager = manager
        self._registry = registry
        self._by_comfy: Mapping[str, Pack] = {}
        self.not_asked: list[str] = []

    def look_up(self, class_types: Iterable[str]) -> None:
        """Ask comfy-cli, all at once, for the classes whose pack no other source knows. It takes seconds."""
        unknown = [name for name in class_types if self._near(name) is None]
        if self._registry is not None and unknown:
            self._by_comfy = self._registry.look_up(unknown)
            self.not_asked += self._registry.not_asked

    def find(self, class_type: str) -> Pack | None:
        """The pack that brings a class: from the fast sources, else what comfy-cli said in `look_up`."""
        return self._near(class_type) or self._by_comfy.get(class_type)

    def _near(self, class_type: str) -> Pack | None:
        """The pack that brings a class, the workflow's claim first, checked against the Manager and the table."""
        mapped = self._mapped(class_type)
        claim = self._claims.get(class_type)
        if claim is not None:
            return self._weighed(claim, class_type, mapped)
        if mapped:
            with_ids = [pack for pack in mapped if pack.id]
            if len({pack.id for pack in with_ids}) == 1:
                return with_ids[0]
            table = catalog.NODE_PACKAGES.get(class_type)
            for pack in with_ids:
                if pack.id == table:
                    return pack
            if len(with_ids) > 1:
                names = safe_text.quoted_list(sorted({str(pack.id) for pack in with_ids}), 5)
                return Pack(None, mapped[0].source, doubt=f"several packs provide this class: {names}")
        table = catalog.NODE_PACKAGES.get(class_type)
        if table:
            # A Manager that could not reach the registry knows repositories alone.
            near = mapped[0] if mapped else None
            return Pack(
                table,
                "the bundle's table of common packs",
                None,
                near.repository if near else None,
                near.title if near else None,
            )
        return mapped[0] if mapped else None

    def _weighed(self, claim: Pack, class_type: str, mapped: list[Pack]) -> Pack:
        """The workflow's claim, in doubt when the sources that know the class name only other packs."""
        others = {pack.id for pack in mapped if pack.id}
        table = catalog.NODE_PACKAGES.get(class_type)
        if table:
            others.add(table)
        if claim.id is None or claim.id == CORE or not others or claim.id in others:
            return claim
        names = safe_text.quoted_list(sorted(others), 5)
        return Pack(
            claim.id, claim.source, claim.version, claim.repository, claim.title,
            f"the workflow names this pack, but the class is known from {names}",
        )  # fmt: skip

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
