"""What a node class declares: its inputs, outputs and flags, read from node definitions. Pure.

`definitions` is the server's `/object_info` mapping or a part of it, or None. Both combo styles are read:
`[["a", "b"], {...}]` and `["COMBO", {"options": [...]}]`. Dynamic inputs (`images.image0`, `resize_type.width`)
are laid out for the inputs that the node has, as the server does it (comfy_api/latest/_io.py, get_finalized_class_inputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from comfyskill.base import foreign
from comfyskill.graph import catalog
from comfyskill.graph.nodes import Definitions, Node, class_of, inputs_of, is_literal

AUTOGROW = "COMFY_AUTOGROW_V3"
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
DYNAMIC_SLOT = "COMFY_DYNAMICSLOT_V3"
MATCH_TYPE = "COMFY_MATCHTYPE_V3"
WIDGET_TYPES = frozenset(
    {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC_COMBO, "MARKDOWN", "COLOR", "TEXTAREA", "CURVE"}
)

# Lists up to this size are shown whole: the samplers of core and of a large node pack are about a hundred short words.
MOST_CHOICES, MOST_LETTERS = 100, 2500


def choices_shown(choices: tuple[Any, ...], most: int) -> tuple[Any, ...]:
    """The choices that a report shows: all of a list of moderate size, else the first `most`."""
    letters = sum(len(str(choice)) for choice in choices[: MOST_CHOICES + 1])
    return choices if len(choices) <= MOST_CHOICES and letters <= MOST_LETTERS else choices[:most]


class InputSpec(NamedTuple):
    """One declared input. `type` is the definition's word; "COMBO" for both styles of a list of choices."""

    name: str
    type: str
    required: bool = True
    options: Mapping[str, Any] = {}
    choices: tuple[Any, ...] | None = None

    @property
    def is_widget(self) -> bool:
        """Whether a person sets it to a value (it may also hold a link)."""
        return self.type in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def takes_any(self) -> bool:
        return "*" in self.types or MATCH_TYPE in self.types

    @property
    def types(self) -> frozenset[str]:
        """The types of a comma list, taken apart."""
        return frozenset(part.strip() for part in self.type.split(","))

    @property
    def upload(self) -> str | None:
        """The kind of file that it takes from the user: image, video, audio, file; or None."""
        for option, kind in catalog.UPLOAD_OPTIONS.items():
            if self.options.get(option):
                return kind
        return None

    @property
    def usual(self) -> Any:
        """The value that the editor puts in: the default, the first choice, or what is empty; None for sockets."""
        if is_literal(self.options.get("default")) and self.options.get("default") is not None:
            return self.options["default"]
        if self.choices:
            return self.choices[0]
        return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}.get(self.type)

    def number(self, option: str) -> int | float | None:
        """A numeric option (min, max, step), or None."""
        value = self.options.get(option)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_spec(name: str, raw: object, required: bool) -> InputSpec | None:
    """One entry of a definition's `input`, or None when it cannot be read."""
    if isinstance(raw, str):
        raw = [raw]
    if not isinstance(raw, list | tuple) or not raw:
        return None
    options = raw[1] if len(raw) > 1 and isinstance(raw[1], Mapping) else {}
    if isinstance(raw[0], list | tuple):
        return InputSpec(name, "COMBO", required, options, tuple(raw[0]))
    if not isinstance(raw[0], str):
        return None
    choices = None
    if raw[0] == "COMBO" and isinstance(options.get("options"), list | tuple) and "remote" not in options:
        choices = tuple(options["options"])
    elif raw[0] == DYNAMIC_COMBO and isinstance(options.get("options"), list | tuple):
        choices = tuple(o.get("key") for o in options["options"] if isinstance(o, Mapping))
    return InputSpec(name, raw[0], required, options, choices)


def _sections(inputs: Any) -> list[tuple[str, str, Any]]:
    """The visible entries of a definition's `input`, as (section, name, raw spec)."""
    if not isinstance(inputs, Mapping):
        return []
    found = []
    for section in ("required", "optional"):
        entries = inputs.get(section)
        if isinstance(entries, Mapping):
            found += [(section, str(name), raw) for name, raw in entries.items()]
    return found


def lay_out(inputs: Any, live: Mapping[str, Any], prefix: str = "", depth: int = 0) -> dict[str, InputSpec]:
    """The declared inputs by full name, dynamic ones according to the node's inputs."""
    specs: dict[str, InputSpec] = {}
    for section, name, raw in _sections(inputs):
        full = f"{prefix}{name}"
        spec = read_spec(full, raw, section == "required")
        if spec is None:
            continue
        if spec.type == AUTOGROW:
            specs.update(_grown(spec, live, depth))
        elif spec.type == DYNAMIC_COMBO:
            specs[full] = spec
            specs.update(_chosen(spec, live, depth))
        elif spec.type == DYNAMIC_SLOT:
            specs[full] = spec
            if full in live and depth < 8:
                specs.update(lay_out(spec.options.get("inputs"), live, f"{full}.", depth + 1))
        else:
            specs[full] = spec
    return specs


def _grown(spec: InputSpec, live: Mapping[str, Any], depth: int) -> dict[str, InputSpec]:
    template = spec.options.get("template")
    if not isinstance(template, Mapping) or depth >= 8:
        return {}
    names = template.get("names")
    if not isinstance(names, list | tuple):
        most = template.get("max")
        count = min(most, 100) if isinstance(most, int) and not isinstance(most, bool) else 100
        names = [f"{template.get('prefix', '')}{index}" for index in range(count)]
    entries = _sections(template.get("input"))
    if not entries:
        return {}
    least = template.get("min")
    least = least if isinstance(least, int) else 0
    raw = entries[-1][2]
    grown: dict[str, InputSpec] = {}
    for index, name in enumerate(names):
        full = f"{spec.name}.{name}"
        if full in live:
            section = "required" if index < least else "optional"
            grown.update(lay_out({section: {name: raw}}, live, f"{spec.name}.", depth + 1))
    return grown


def _chosen(spec: InputSpec, live: Mapping[str, Any], depth: int) -> dict[str, InputSpec]:
    options = spec.options.get("options")
    if not isinstance(options, list | tuple) or depth >= 8:
        return {}
    key = live.get(spec.name)
    for option in options:
        if isinstance(option, Mapping) and option.get("key") == key:
            return lay_out(option.get("inputs"), live, f"{spec.name}.", depth + 1)
    return {}


class Book:
    """Node definitions, read once per class. Knows for each class whether it was there."""

    def __init__(self, definitions: Definitions | None) -> None:
        self._definitions: Definitions = foreign.mapping(definitions)
        self._static: dict[str, dict[str, InputSpec]] = {}
        self._dynamic: dict[str, bool] = {}
        self._outputs: dict[str, tuple[Any, ...]] = {}

    def definition(self, class_type: str) -> Mapping[str, Any] | None:
        """The raw definition of a class, or None when it is unknown."""
        raw = self._definitions.get(class_type)
        return raw if isinstance(raw, Mapping) else None

    def class_types(self) -> list[str]:
        """The classes whose definitions are known."""
        return [name for name, raw in self._definitions.items() if isinstance(raw, Mapping)]

    def knows(self, class_type: str) -> bool:
        return self.definition(class_type) is not None

    def specs(self, node: Node) -> dict[str, InputSpec]:
        """The inputs that the node's class declares, by full name; empty for a class that is not known."""
        class_type = class_of(node)
        if class_type not in self._static:
            self._read(class_type)
        if self._dynamic[class_type]:
            definition = self.definition(class_type) or {}
            return lay_out(definition.get("input"), inputs_of(node))
        return self._static[class_type]

    def _read(self, class_type: str) -> None:
        definition = self.definition(class_type) or {}
        raw = definition.get("input")
        kinds = {
            r[0] for _, _, r in _sections(raw) if isinstance(r, list | tuple) and r and isinstance(r[0], str)
        }
        self._dynamic[class_type] = bool(kinds & {AUTOGROW, DYNAMIC_COMBO, DYNAMIC_SLOT})
        self._static[class_type] = {} if self._dynamic[class_type] else lay_out(raw, {})

    def outputs(self, class_type: str) -> tuple[Any, ...]:
        """The output types of a class; empty when it has none or is not known."""
        if class_type not in self._outputs:
            raw = (self.definition(class_type) or {}).get("output")
            self._outputs[class_type] = tuple(raw) if isinstance(raw, list | tuple) else ()
        return self._outputs[class_type]

    def output_name(self, class_type: str, slot: int) -> str | None:
        """The name of one output, or None."""
        names = (self.definition(class_type) or {}).get("output_name")
        if isinstance(names, list | tuple) and 0 <= slot < len(names) and isinstance(names[slot], str):
            return names[slot]
        return None

    def gives(self, class_type: str, wanted: str) -> bool:
        """Whether a known class has an output of this type."""
        return any(isinstance(kind, str) and wanted in kind.split(",") for kind in self.outputs(class_type))

    def flag(self, class_type: str, name: str) -> bool | None:
        """A flag such as output_node, api_node, deprecated; None when the class is not known."""
        definition = self.definition(class_type)
        return None if definition is None else bool(definition.get(name))
