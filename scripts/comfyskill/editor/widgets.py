"""Node definitions → widgets and sockets, and how a file's `widgets_values` are assigned to them.

Pure. A widget is what the editor builds for an input that a person can set; every other input is a socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from comfyskill.base import foreign
from comfyskill.editor import pack_rules as rules
from comfyskill.graph.nodes import Definitions
from comfyskill.graph.specs import (
    AUTOGROW,
    DYNAMIC_COMBO,
    MATCH_TYPE,
    InputSpec,
    autogrow_of,
    chosen_inputs,
    entries,
    read_spec,
)

# Combos that bring an upload button with a place in widgets_values.
_UPLOADS = ("image_upload", "video_upload", "animated_image_upload")
_SEEDS = ("seed", "noise_seed")
# What a seed's extra widget can say: how the editor changes the seed after a run.
CONTROLS = frozenset({"fixed", "increment", "decrement", "randomize", "increment-wrap"})
MAX_DYNAMIC_DEPTH = 8
# The kind of a widget that a pack's script puts before another; files of its older versions lack it.
EXTRA = "extra"
# Core types that never have a widget, whatever the file shows.
_CORE_SOCKETS = frozenset(
    "* MODEL CLIP VAE CONDITIONING LATENT IMAGE MASK NOISE SAMPLER SIGMAS GUIDER CONTROL_NET CLIP_VISION"
    " CLIP_VISION_OUTPUT STYLE_MODEL GLIGEN UPSCALE_MODEL AUDIO VIDEO HOOKS HOOK_KEYFRAMES TIMESTEPS_RANGE".split()
)


class _Unset:
    """JavaScript's undefined: a key with this value is not sent."""

    def __repr__(self) -> str:
        return "UNSET"

    def __bool__(self) -> bool:
        return False


UNSET = _Unset()


@dataclass
class Widget:
    """One widget with its value now; `saved` is whether it has a place in widgets_values."""

    name: str
    kind: str
    value: Any
    spec: InputSpec | None = None
    sent: bool = True
    saved: bool = True

    @property
    def multiline(self) -> bool:
        """Whether a text field holds the value (which makes any value a string)."""
        if self.spec is None:
            return False
        return self.kind in ("MARKDOWN", "TEXTAREA") or (
            self.kind == "STRING" and bool(self.spec.options.get("multiline"))
        )


class Socket(NamedTuple):
    """One input slot that a definition gives a node."""

    name: str
    type: str
    widget: str | None = None


@dataclass
class NodeClass:
    """One node definition, read once. `name` is the class that is sent, which may differ from the definition's key."""

    name: str
    specs: list[InputSpec]
    outputs: list[str]
    core: bool = True
    # Whether its server code takes inputs that the definition does not name.
    flexible: bool = False


def read_class(name: str, definition: Mapping[str, object]) -> NodeClass:
    """A definition's inputs in the editor's order and its output types."""
    declared = foreign.mapping(definition.get("input"))
    order = foreign.mapping(definition.get("input_order"))
    specs: list[InputSpec] = []
    for section in ("required", "optional"):
        inputs = foreign.mapping(declared.get(section))
        listed = [key for key in foreign.items(order.get(section)) if isinstance(key, str) and key in inputs]
        for key in dict.fromkeys([*listed, *inputs]):
            spec = read_spec(str(key), inputs[key], section == "required")
            if spec is not None:
                specs.append(_by_rule(name, spec))
    return NodeClass(
        foreign.text(definition.get("name")) or name,
        specs,
        [_output_type(kind) for kind in foreign.items(definition.get("output"))],
        core=not foreign.text(definition.get("python_module")).startswith("custom_nodes"),
        flexible=not specs and declared.get("optional") == {},
    )


def output_types(definitions: Definitions) -> set[str]:
    """The types that some node of the definitions outputs."""
    return {
        kind
        for definition in definitions.values()
        if isinstance(definition, Mapping)
        for kind in foreign.items(definition.get("output"))
        if isinstance(kind, str)
    }


def _by_rule(kind: str, spec: InputSpec) -> InputSpec:
    """The spec with the pack rules' decision on its widget."""
    if rules.removed(kind, spec.name):
        return spec._replace(as_widget=False)
    if rules.of_type(kind, spec.widget_type):
        return spec._replace(as_widget=True)
    return spec


def is_undecided(spec: InputSpec) -> bool:
    """Whether only the file can show that this input, of a pack's own type, has a widget."""
    return (
        spec.as_widget is None
        and not spec.is_forced_socket
        and not spec.is_widget
        and spec.widget_type not in _CORE_SOCKETS
        and not spec.widget_type.startswith("COMFY_")
        and "," not in spec.widget_type
    )


def decided(node_class: NodeClass, choose: Callable[[InputSpec], bool | None]) -> NodeClass:
    """The class with `choose`'s decision on each undecided input; None leaves it undecided."""
    specs = [
        spec._replace(as_widget=choose(spec)) if is_undecided(spec) else spec for spec in node_class.specs
    ]
    return replace(node_class, specs=specs)


def with_slots(node_class: NodeClass, slots: Mapping[str, bool]) -> NodeClass:
    """The class as a saved node shows it: `slots` says of each saved slot whether it has a widget.

    A plain slot overrides a pack's rule: another pack may use the same type for a link.
    """
    shown = decided(node_class, lambda spec: slots.get(spec.name))
    specs = [
        spec._replace(as_widget=False)
        if rules.of_type(shown.name, spec.widget_type) and slots.get(spec.name) is False
        else spec
        for spec in shown.specs
    ]
    return replace(shown, specs=specs)


def default_of(spec: InputSpec) -> object:
    """The value of an untouched widget."""
    default = spec.options.get("default")
    kind = spec.widget_type
    if kind == "COMBO":
        if default:
            return default
        if spec.choices:
            return spec.choices[0]
        return "Loading..." if spec.options.get("remote") else UNSET
    if kind == DYNAMIC_COMBO:
        return spec.choices[0] if spec.choices else UNSET
    if default is not None:
        return default
    return {"INT": 0, "FLOAT": 0, "BOOLEAN": False, "STRING": "", "MARKDOWN": "", "TEXTAREA": ""}.get(
        kind, UNSET
    )


def chosen(spec: InputSpec, value: object) -> object:
    """The value, or the first choice for a combo without one."""
    if spec.widget_type == "COMBO" and spec.choices and (value is None or value is UNSET):
        return spec.choices[0]
    return value


def default_widgets(node_class: NodeClass) -> list[Widget]:
    """A new node's widgets in order, with their defaults."""
    widgets: list[Widget] = []
    for spec in node_class.specs:
        if spec.is_widget:
            widgets.extend(_widgets_of(spec, class_name=node_class.name))
    widgets.extend(
        Widget(name, "any", UNSET) for rule in rules.of_class(node_class.name) for name in rule.added
    )
    if any(
        spec.required and spec.type == "COMBO" and any(spec.options.get(key) for key in _UPLOADS)
        for spec in node_class.specs
    ):
        widgets.append(_button("upload"))
    return widgets


def _button(name: str) -> Widget:
    return Widget(name, "button", UNSET, sent=False)


def _extra(name: str) -> Widget:
    return Widget(name, EXTRA, UNSET, sent=False)


def _widgets_of(spec: InputSpec, *, depth: int = 0, class_name: str = "") -> list[Widget]:
    """A widget and those that come with it: seed control, refresh buttons, a dynamic combo's own inputs."""
    kind = spec.widget_type
    widget = Widget(spec.name, kind, default_of(spec), spec)
    rule = rules.of_type(class_name, kind)
    widget.sent = spec.options.get("serialize") is not False and (
        rule is None or rule.types[kind] == rules.SENT
    )
    if kind == "IMAGECOMPARE":
        widget.saved, widget.value = False, ["", ""]
    widgets = [widget]
    if kind == "LOAD_3D" and class_name == "Load3D":
        # The 3D view's buttons are saved before the view itself; the other classes with a 3D view have none.
        widgets = [_button("upload3dmodel"), _button("uploadExtraResources"), _button("clear"), widget]
    if rule is not None:
        widgets = [*map(_extra, rule.before), widget]
    if kind == "COMBO" and isinstance(spec.options.get("remote"), Mapping):
        widgets.append(_button("auto_refresh"))
        if spec.options["remote"].get("refresh_button"):
            widgets.append(_button("refresh"))
    if _has_control(spec):
        widgets.append(_button("control_after_generate"))
        if kind == "COMBO":
            widgets.append(_button("control_filter_list"))
    if kind == DYNAMIC_COMBO:
        widgets.extend(option_widgets(widget, depth=depth))
    return widgets


def _has_control(spec: InputSpec) -> bool:
    declared = spec.options.get("control_after_generate")
    if spec.widget_type == "INT":
        return bool(spec.name in _SEEDS if declared is None else declared)
    return spec.widget_type in ("FLOAT", "COMBO") and bool(declared)


def option_widgets(widget: Widget, *, depth: int = 0) -> list[Widget]:
    """The widgets that a dynamic combo's chosen option brings, named `combo.input`."""
    if depth >= MAX_DYNAMIC_DEPTH:
        return []
    return [
        inner
        for spec in option_specs(widget)
        if spec.is_widget
        for inner in _widgets_of(spec, depth=depth + 1)
    ]


def option_specs(widget: Widget) -> list[InputSpec]:
    """The inputs of a dynamic combo's chosen option; none for an unknown option."""
    if widget.spec is None or widget.kind != DYNAMIC_COMBO:
        return []
    specs = [
        read_spec(f"{widget.name}.{key}", raw, required)
        for required, key, raw in entries(chosen_inputs(widget.spec, widget.value))
    ]
    return [spec for spec in specs if spec is not None]


def restore(widgets: list[Widget], values: Sequence[object]) -> list[Widget]:
    """The widgets with saved values put onto them by position; those beyond the values keep their defaults.

    A dynamic combo's own inputs follow it in the list and are built anew when its value is set.
    """
    restored = [replace(widget) for widget in widgets]
    index = position = 0
    while index < len(restored):
        widget = restored[index]
        index += 1
        if not widget.saved:
            continue
        if position < len(values) and values[position] is not UNSET:
            set_value(restored, widget, values[position])
        position += 1
    return restored


def restore_named(widgets: list[Widget], values: Mapping[str, object]) -> list[Widget]:
    """The widgets with values put onto them by name; the others keep their defaults."""
    restored = [replace(widget) for widget in widgets]
    index = 0
    while index < len(restored):
        widget = restored[index]
        index += 1
        if widget.name in values:
            set_value(restored, widget, values[widget.name])
    return restored


def set_value(widgets: list[Widget], widget: Widget, value: object) -> None:
    """Give one widget of the list a value; a dynamic combo's inputs are replaced."""
    widget.value = value
    if widget.kind != DYNAMIC_COMBO:
        return
    prefix = widget.name + "."
    widgets[:] = [other for other in widgets if not other.name.startswith(prefix)]
    place = next(index for index, other in enumerate(widgets) if other is widget)
    widgets[place + 1 : place + 1] = option_widgets(widget, depth=widget.name.count("."))


def saved_values(node_class: NodeClass, widgets: Sequence[Widget], values: object) -> list[Any]:
    """The values of a file as a list that fits the widgets.

    Old files also hold values of inputs that are sockets now; those are dropped when the count of values shows it.
    """
    places = sum(widget.saved for widget in widgets)
    extras = sum(widget.kind == EXTRA for widget in widgets)
    if extras and isinstance(values, list) and len(values) == places - extras:
        rest = iter(values)
        return [UNSET if widget.kind == EXTRA else next(rest) for widget in widgets if widget.saved]
    listed = list(values.values()) if isinstance(values, Mapping) else list(foreign.items(values))
    forced = _forced_places(node_class, widgets)
    if True not in forced and len(listed) == places and isinstance(values, list):
        return listed
    compact = [value for index, value in enumerate(listed) if index >= len(widgets) or widgets[index].saved]
    for form in (compact, listed):
        if len(form) == len(forced):
            return [value for value, is_socket in zip(form, forced, strict=True) if not is_socket]
    return listed if isinstance(values, list) else []


def _forced_places(node_class: NodeClass, widgets: Sequence[Widget]) -> list[bool]:
    """For each value that an old file holds, whether it belongs to an input that is a socket now."""
    names = {widget.name for widget in widgets}
    has_upload = any(widget.kind == "button" and widget.name == "upload" for widget in widgets)
    buttons = [InputSpec("upload", "button")] if has_upload else []
    places: list[bool] = []
    for spec in [*node_class.specs, *buttons]:
        if spec.name in names or spec.is_forced_socket:
            places.append(spec.is_forced_socket)
            if spec.options.get("control_after_generate"):
                places.append(False)
    return places


def sockets_of(node_class: NodeClass, widgets: Sequence[Widget]) -> list[Socket]:
    """A node's input slots in the editor's order: pure sockets first, then one for each declared widget."""
    sockets: list[Socket] = []
    for spec in node_class.specs:
        if not spec.is_widget:
            sockets.extend(_sockets_of_spec(spec))
    for widget in widgets:
        if widget.spec is None or widget.spec.options.get("socketless"):
            continue
        sockets.append(Socket(widget.name, widget.spec.type, widget.name))
        if widget.kind == DYNAMIC_COMBO:
            for spec in option_specs(widget):
                if not spec.is_widget:
                    sockets.extend(_sockets_of_spec(spec))
    return sockets


def _sockets_of_spec(spec: InputSpec) -> Iterator[Socket]:
    if spec.type == MATCH_TYPE:
        template = foreign.mapping(spec.options.get("template"))
        yield Socket(spec.name, foreign.text(template.get("allowed_types")) or "*")
    elif spec.type == AUTOGROW and (group := autogrow_of(spec)):
        # The editor shows one more than is required; of a list of names, all.
        shown = len(group.names) if group.prefix is None else group.least + 1
        for name in group.names[:shown]:
            yield Socket(name, group.element.type)
    else:
        yield Socket(spec.name, spec.type)


def _output_type(kind: object) -> str:
    if isinstance(kind, list):
        return "COMBO"
    return kind if isinstance(kind, str) and kind != MATCH_TYPE else "*"
