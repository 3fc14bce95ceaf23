"""What a node pack is: its name in the registry, its address, and how sure that is.

Values only.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from comfyskill.deps.manager import page_of

CORE = "comfy-core"
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

    def to_json(self) -> dict[str, Any]:
        """The known facts for a report."""
        facts = {
            "pack": self.id, "source": self.source, "version": self.version, "repository": self.repository,
            "title": self.title, "doubt": self.doubt,
        }  # fmt: skip
        if self.id and not self.core:
            facts["page"] = page_of(self.id)
        return {key: value for key, value in facts.items() if value}


def registry_id(text: Any) -> str | None:
    """A registry id that may be installed, in lower case, or None for anything else (addresses, paths, options)."""
    if not isinstance(text, str):
        return None
    lowered = text.strip().lower()
    return lowered if _REGISTRY_ID.fullmatch(lowered) and ".." not in lowered else None
