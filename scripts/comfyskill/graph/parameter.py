"""One settable input of a graph: what it is, what it holds, what it allows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from comfyskill.base import safe_text
from comfyskill.graph import catalog
from comfyskill.graph.nodes import class_of, is_literal, literal, title_of
from comfyskill.graph.specs import InputSpec, choices_shown

MOST_CHOICES = 40
# A file of one's own is uploaded more often than one of the server's is chosen.
MOST_FILES = 8


class Parameter(NamedTuple):
    """One input that can be set.

    name: unique in its set. plain: the name that it shares with others of the same meaning. type: INT, FLOAT,
    NUMBER (a number whose kind is not known), STRING, BOOLEAN, COMBO, LIST, OBJECT or the definition's word.
    named_by: "tracing", "use" (what its value feeds), "input" or "catalog". typed_by: "definition", "catalog"
    or "value". spec: the declared input, or None. pieces: one of several texts that are joined into one. also: a
    second role of the same text. feeds: for files, the telling inputs that they reach (start_image, mask, ...). linked:
    the value is a link (only of parameters that were asked for by address).
    """

    name: str
    plain: str
    node_id: str
    input: str
    title: str
    class_type: str
    type: str
    value: Any
    role: str | None = None
    named_by: str = "input"
    typed_by: str = "value"
    spec: InputSpec | None = None
    upload: str | None = None
    secondary: bool = False
    pieces: bool = False
    also: tuple[str, ...] = ()
    feeds: tuple[str, ...] = ()
    linked: bool = False

    @property
    def address(self) -> str:
        """NODE.INPUT, which always works."""
        return f"{self.node_id}.{self.input}"

    @property
    def called(self) -> str:
        """The parameter in our sentences: its name and its address."""
        return f"{safe_text.name(self.name)} ({safe_text.name(self.address)})"

    def to_json(self, choices_of: str | None = None, *, every: bool = False) -> dict[str, Any]:
        """The parameter as JSON; lists of choices are capped, and left out where `choices_of` has the same ones.

        every: no list is capped.

        What repeats is left out: node id and input are the address `set`, a title that is the class type's name goes
        without saying, and so do types that come from a definition and names that are the input's own.
        """
        document: dict[str, Any] = {"name": self.name, "set": self.address, "class_type": self.class_type}
        if self.title != self.class_type:
            document["title"] = self.title
        document |= {"type": self.type, "value": self.value}
        if self.named_by != "input":
            document["named_by"] = self.named_by
        if self.typed_by != "definition":
            document["typed_by"] = self.typed_by
        if self.role:
            document["role"] = self.role
        if self.also:
            document["also"] = list(self.also)
        if self.upload:
            document["takes_upload"] = self.upload
        if self.feeds:
            document["feeds"] = list(self.feeds)
        if self.spec is not None:
            choices = self.spec.choices or ()
            if not every:
                choices = choices[:MOST_FILES] if self.upload else choices_shown(choices, MOST_CHOICES)
            document |= _limits(self.spec, choices_of, choices)
        return document


def _limits(spec: InputSpec, choices_of: str | None, shown: tuple[Any, ...]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for option in ("default", "min", "max", "step"):
        if option in spec.options and is_literal(spec.options[option]):
            document[option] = spec.options[option]
    if spec.options.get("multiline"):
        document["multiline"] = True
    if not spec.required:
        document["optional"] = True
    if spec.choices is not None and choices_of is not None:
        document["choices"] = {"count": len(spec.choices), "same_as": choices_of}
    elif spec.choices is not None:
        document["choices"] = {"count": len(spec.choices), "items": list(shown)}
        if len(spec.choices) > len(shown):
            document["choices"] |= {"more": len(spec.choices) - len(shown), "hint": "--all shows the rest"}
    return document


class Group(NamedTuple):
    """All parameters of one plain name. sets_all: the plain name sets every member; else it names no one."""

    plain: str
    members: tuple[Parameter, ...]
    sets_all: bool
    why: str

    def to_json(self) -> dict[str, Any]:
        return {
            "members": [member.name for member in self.members],
            "sets_all": self.sets_all,
            "why": self.why,
        }


def read_parameter(
    node_id: str, node: Mapping[str, Any], name: str, raw: Any, spec: InputSpec | None
) -> Parameter:
    value = literal(raw) if is_literal(raw) else raw
    kind, typed_by = _type(name, value, spec)
    class_type = class_of(node)
    upload = spec.upload if spec is not None else None
    upload = upload or catalog.UPLOADS.get((class_type, name))
    if upload == "image" and catalog.UPLOADS.get((class_type, name)) == "mask":
        upload = "mask"
    return Parameter(
        name="",
        plain=name,
        node_id=node_id,
        input=name,
        title=title_of(node),
        class_type=class_type,
        type=kind,
        value=value,
        typed_by=typed_by,
        spec=spec,
        upload=upload,
        linked=not is_literal(raw),
    )


def _type(name: str, value: Any, spec: InputSpec | None) -> tuple[str, str]:
    if spec is not None:
        kind = "COMBO" if spec.type.startswith("COMFY_DYNAMICCOMBO") else spec.type
        return kind, "definition"
    if name in catalog.INPUT_TYPES and not isinstance(value, dict | list | bool):
        return catalog.INPUT_TYPES[name], "catalog"
    if isinstance(value, bool):
        return "BOOLEAN", "value"
    if isinstance(value, int):
        return "NUMBER", "value"
    if isinstance(value, float):
        return "FLOAT", "value"
    if isinstance(value, str):
        return "STRING", "value"
    if isinstance(value, list | tuple):
        return "LIST", "value"
    return ("OBJECT" if isinstance(value, dict) else "ANY"), "value"
