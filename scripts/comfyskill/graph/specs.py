"""What a node class declares: its inputs, outputs and flags, read from node definitions. Pure.

`definitions` is the server's `/object_info` mapping or a part of it, or None. Both combo styles are read:
`[["a", "b"], {...}]` and `["COMBO", {"options": [...]}]`. Dynamic inputs (`images.image0`, `resize_type.width`)
are laid out for the inputs that the node has, as the server does it (comfy_api/latest/_io.py, get_finalized_class_inputs).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from comfyskill.base import foreign
from comfyskill.graph import catalog
from comfyskill.graph.nodes import Definitions, Inputs, Node, class_of, inputs_of, wrapped

AUTOGROW = "COMFY_AUTOGROW_V3"
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
DYNAMIC_SLOT = "COMFY_DYNAMICSLOT_V3"
MATCH_TYPE = "COMFY_MATCHTYPE_V3"
# The types for which the editor builds a widget. Every other input is a socket there.
WIDGET_TYPES = frozenset(
    "INT FLOAT BOOLEAN STRING COMBO MARKDOWN COLOR TEXTAREA CHART GALLERIA IMAGECOMPARE IMAGEUPLOAD AUDIOUPLOAD"
    " AUDIO_UI AUDIO_RECORD WEBCAM LOAD_3D LOAD_3D_ANIMATION PREVIEW_3D PREVIEW_3D_ANIMATION"
    " BOUNDING_BOX PAINTER COMPOSITOR CURVE RANGE VIDEO_EDIT BOUNDING_BOXES COLORS".split()
) | {DYNAMIC_COMBO}
# Types without a widget whose values a graph can still hold, because they are plain JSON.
_JSON_TYPES = frozenset({"ARRAY", "DICT", "FLOATS", "LOAD3D_CAMERA", "LOAD3D_MODEL_INFO"})
# What the editor puts in where a definition has no default.
_EMPTY: Mapping[str, object] = {
    "INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, "IMAGECOMPARE": {"__value__": ["", ""]},
}  # fmt: skip
_DEEPEST = 8
_MOST_GROWN = 100

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
    # Set where the type alone does not decide: by the rule for a pack, or by what a saved file shows.
    as_widget: bool | None = None

    @property
    def widget_type(self) -> str:
        """The type of the widget that the editor builds: `widgetType` where the definition names one."""
        return foreign.text(self.options.get("widgetType")) or self.type

    @property
    def is_forced_socket(self) -> bool:
        """Whether it is declared as a socket although its type has a widget."""
        return bool(
            self.options.get("forceInput") or (not self.required and self.options.get("defaultInput"))
        )

    @property
    def is_widget(self) -> bool:
        """Whether a person sets it to a value in the editor (it may also hold a link)."""
        if self.is_forced_socket:
            return False
        return self.widget_type in WIDGET_TYPES if self.as_widget is None else self.as_widget

    @property
    def takes_value(self) -> bool:
        """Whether a graph may hold a plain value there: a widget's, a number or text of a multi-type input, plain JSON."""
        return (
            self.takes_any
            or self.widget_type in WIDGET_TYPES
            or bool(self.types & (WIDGET_TYPES | _JSON_TYPES))
        )

    @property
    def takes_any(self) -> bool:
        """Whether it takes every type."""
        return "*" in self.types or MATCH_TYPE in self.types

    @property
    def types(self) -> frozenset[str]:
        """The single types of a comma list."""
        return frozenset(part.strip() for part in self.type.split(","))

    @property
    def declared_type(self) -> str | list[object]:
        """The type as the definition has it: for an old combo its list of choices."""
        old_combo = self.type == "COMBO" and "options" not in self.options and self.choices is not None
        return list(self.choices or ()) if old_combo else self.type

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
        default = self.options.get("default")
        if default is not None:
            return wrapped(default)
        if self.choices:
            return self.choices[0]
        return _EMPTY.get(self.type)

    def number(self, option: str) -> int | float | None:
        """A numeric option (min, max, step), or None."""
        value = self.options.get(option)
        return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def fits(received: object, declared: object) -> bool:
    """Whether the server lets an output of one type into an input of another; old combos have their lists as types."""
    if received == declared or {"*", MATCH_TYPE} & {
        kind for kind in (received, declared) if isinstance(kind, str)
    }:
        return True
    if isinstance(received, list) and declared == "COMBO":
        return True
    if not isinstance(received, str) or not isinstance(declared, str):
        return False
    given, taken = ({part.strip() for part in kind.split(",")} for kind in (received, declared))
    return "*" in given | taken or bool(given & taken)


def read_spec(name: str, raw: object, required: bool) -> InputSpec | None:
    """One entry of a definition's `input`, or None when it cannot be read."""
    if isinstance(raw, str):
        raw = [raw]
    if not isinstance(raw, list | tuple) or not raw:
        return None
    options = foreign.mapping(raw[1]) if len(raw) > 1 else {}
    if isinstance(raw[0], list | tuple):
        return InputSpec(name, "COMBO", required, options, tuple(raw[0]))
    if not isinstance(raw[0], str):
        return None
    listed = options.get("options")
    choices = None
    if raw[0] == "COMBO" and isinstance(listed, list | tuple) and "remote" not in options:
        choices = tuple(listed)
    elif raw[0] == DYNAMIC_COMBO and isinstance(listed, list | tuple):
        choices = tuple(option.get("key") for option in listed if isinstance(option, Mapping))
    return InputSpec(name, raw[0], required, options, choices)


def entries(inputs: object) -> Iterator[tuple[bool, str, object]]:
    """The visible entries of a definition's `input`, as (whether it is required, name, raw spec)."""
    for section in ("required", "optional"):
        for name, raw in foreign.mapping(foreign.mapping(inputs).get(section)).items():
            yield section == "required", str(name), raw


def lay_out(inputs: object, live: Inputs, *, counts_missing: bool = True) -> dict[str, InputSpec]:
    """The declared inputs by full name, dynamic ones according to the node's own inputs, `live`.

    counts_missing: the server requires the first inputs of an autogrow group even where the node has none of them, as 0.33
    does; 0.8.0 looked at those only that are there.
    """
    return _Layout(live, counts_missing, []).of(inputs, "", 0)


class _Layout(NamedTuple):
    live: Inputs
    counts_missing: bool
    groups: list[InputSpec]

    def of(self, inputs: object, prefix: str, depth: int) -> dict[str, InputSpec]:
        """The specs of one level of a definition's inputs and of what is nested in it."""
        specs: dict[str, InputSpec] = {}
        for required, name, raw in entries(inputs) if depth <= _DEEPEST else ():
            spec = read_spec(f"{prefix}{name}", raw, required)
            if spec is None:
                continue
            if spec.type == AUTOGROW:
                self.groups.append(spec)
                specs |= self._grown(spec)
                continue
            specs[spec.name] = spec
            if spec.type == DYNAMIC_COMBO:
                specs |= self.of(chosen_inputs(spec, self.live.get(spec.name)), f"{spec.name}.", depth + 1)
            elif spec.type == DYNAMIC_SLOT and spec.name in self.live:
                specs |= self.of(spec.options.get("inputs"), f"{spec.name}.", depth + 1)
        return specs

    def _grown(self, spec: InputSpec) -> dict[str, InputSpec]:
        group = autogrow_of(spec)
        if group is None:
            return {}
        grown = {}
        for index, name in enumerate(group.names):
            required = group.element.required and index < group.least
            if name in self.live or (required and self.counts_missing):
                grown[name] = group.element._replace(name=name, required=required)
        return grown


def chosen_inputs(spec: InputSpec, choice: object) -> object:
    """The raw inputs that a choice of a dynamic combo adds; None for a choice that it does not have."""
    for option in foreign.mappings(spec.options.get("options")):
        if option.get("key") == choice:
            return option.get("inputs")
    return None


class Autogrow(NamedTuple):
    """A group of inputs that grows: the full names of its inputs, how many of them are required, and what each takes."""

    names: tuple[str, ...]
    least: int
    element: InputSpec
    prefix: str | None


def autogrow_of(spec: InputSpec) -> Autogrow | None:
    """The group that an input of the type AUTOGROW declares, or None when it cannot be read."""
    template = foreign.mapping(spec.options.get("template"))
    # The server takes the first input of the first section that is not empty.
    first = next(entries(template.get("input")), None)
    element = read_spec(first[1], first[2], first[0]) if first is not None else None
    if element is None:
        return None
    least = foreign.whole(template.get("min")) or 0
    names = template.get("names")
    prefix = None
    if not isinstance(names, list | tuple):
        prefix = str(template.get("prefix") or "")
        most = foreign.whole(template.get("max"))
        names = [f"{prefix}{index}" for index in range(_MOST_GROWN if most is None else most)]
    full = tuple(f"{spec.name}.{name}" for name in names[:_MOST_GROWN])
    return Autogrow(full, least, element, prefix)


def _specs_of(inputs: object, prefix: str = "") -> list[InputSpec]:
    found = (read_spec(f"{prefix}{name}", raw, required) for required, name, raw in entries(inputs))
    return [spec for spec in found if spec is not None]


def _added(spec: InputSpec, depth: int) -> Iterator[str]:
    """The names of the inputs that a dynamic input can add, once for each choice that has them."""
    if spec.type == AUTOGROW:
        group = autogrow_of(spec)
        yield from group.names if group is not None else ()
    elif depth < _DEEPEST:
        options = [spec.options, *foreign.mappings(spec.options.get("options"))]
        for inner in (one for option in options for one in _specs_of(option.get("inputs"), f"{spec.name}.")):
            yield inner.name
            yield from _added(inner, depth + 1)


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
            raw = (self.definition(class_type) or {}).get("input")
            return lay_out(raw, inputs_of(node), counts_missing=self.is_recent(class_type))
        return self._static[class_type]

    def groups(self, node: Node) -> list[InputSpec]:
        """The groups of inputs that grow which the node has now, those of its choices too."""
        layout = _Layout(inputs_of(node), False, [])
        layout.of((self.definition(class_of(node)) or {}).get("input"), "", 0)
        return layout.groups

    def spec(self, node: Node, name: str) -> InputSpec | None:
        """The declared input of this name; also one that the node could have, as the next one of a group that grows."""
        declared = self.specs(node).get(name)
        if declared is None and self._dynamic[class_of(node)] and name not in inputs_of(node):
            grown = {**node, "inputs": {**inputs_of(node), name: None}}
            declared = self.specs(grown).get(name)
        return declared

    def undeclared(self, node: Node) -> list[str]:
        """The inputs of a node of a known class that the class does not declare, apart from those of the editor's widgets.

        None for a class that takes whatever it is given: its definition shows an empty group of optional inputs.
        """
        declared = foreign.mapping((self.definition(class_of(node)) or {}).get("input"))
        if declared.get("optional") == {}:
            return []
        known = self.specs(node).keys() | foreign.mapping(declared.get("hidden")).keys()
        return [name for name in inputs_of(node) if name not in known and name not in catalog.FRONTEND_INPUTS]

    def possible_names(self, class_type: str) -> list[str]:
        """Every input name that the dynamic inputs of a class can add, for any choice."""
        raw = (self.definition(class_type) or {}).get("input")
        return [name for spec in _specs_of(raw) for name in _added(spec, 0)]

    def _read(self, class_type: str) -> None:
        raw = (self.definition(class_type) or {}).get("input")
        kinds = {
            spec.type for required, name, one in entries(raw) if (spec := read_spec(name, one, required))
        }
        self._dynamic[class_type] = bool(kinds & {AUTOGROW, DYNAMIC_COMBO, DYNAMIC_SLOT})
        self._static[class_type] = {} if self._dynamic[class_type] else lay_out(raw, {})

    def is_recent(self, class_type: str) -> bool:
        """Whether the definition comes from a server that judges as 0.33 does, by a key that 0.8.0 did not send."""
        return "is_input_list" in (self.definition(class_type) or {})

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
