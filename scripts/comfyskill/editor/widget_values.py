"""Which of a node's saved values belongs to which widget, and how sure that is.

Pure. The editor assigns values by position and never checks them: when a pack has gained, lost or moved an input
since the file was saved, every later value gets the wrong widget. Here a layout counts as proven when each value is
of the kind that its widget takes. Where it is not, names that the file holds are used, else the one layout that fits,
else the node is in doubt.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from comfyskill.base import foreign
from comfyskill.editor import pack_rules
from comfyskill.editor.read import SavedNode
from comfyskill.editor.widgets import (
    CONTROLS,
    EXTRA,
    UNSET,
    NodeClass,
    Widget,
    decided,
    default_widgets,
    is_undecided,
    restore,
    restore_named,
    saved_values,
    with_slots,
)
from comfyskill.graph.specs import DYNAMIC_COMBO, InputSpec

# Number of kinds of undecided inputs per node that are tried both ways.
MOST_UNDECIDED = 4
# Limits per node: pairs of widget and value compared, and ways to place the values.
MOST_PAIRS = 20_000
MOST_PLACEMENTS = 200
_SWITCH_WORDS = frozenset("true false yes no on off enable disable enabled disabled".split())
_FILE = re.compile(r"\.\w{2,12}$|[/\\]")
_NUMBER = re.compile(r"\s*[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?\s*")

# Whether some node gives values of a type.
IsLinked = Callable[[str], bool]


class Misfit(NamedTuple):
    """One saved value that its widget does not take.

    stale: it is of the right kind, for example a choice that the pack no longer has. rejected: the server rejects it
    too, so it cannot lead to a wrong result.
    """

    name: str
    value: object
    stale: bool
    rejected: bool


@dataclass
class Layout:
    """A node's widgets with their values, and how sure that is.

    reason: why the layout is in doubt; empty when it is proven. refused: no layout is better than the others.
    misfits: the inputs whose values do not fit.
    """

    node_class: NodeClass
    widgets: list[Widget]
    reason: str = ""
    refused: bool = False
    misfits: tuple[str, ...] = ()


def lay_out(saved: SavedNode, kind: str, node_class: NodeClass, is_linked: IsLinked) -> Layout:
    """The node's widgets with its saved values."""
    layout = _declared(saved, kind, node_class, is_linked)
    if node_class.flexible and not any(rule.added or rule.own_values for rule in pack_rules.of_class(kind)):
        _add_undeclared(saved, layout)
    return layout


def _add_undeclared(saved: SavedNode, layout: Layout) -> None:
    """Add the widgets of a script to a node whose server code takes any input; the file must have their names."""
    named = saved.values if isinstance(saved.values, Mapping) else saved.named_values
    known = {widget.name for widget in layout.widgets} | {spec.name for spec in layout.node_class.specs}
    if named is not None:
        layout.widgets += [
            Widget(name, "any", value, saved=False)
            for name, value in named.items()
            if name not in known and value not in (None, "")
        ]
        return
    places = sum(widget.saved for widget in layout.widgets)
    values = foreign.items(saved.values)
    if not layout.reason and any(value not in (None, "") for value in values[places:]):
        layout.reason = (
            "its script adds inputs that the definition does not name; the file has their values without names, so"
            " they are not sent"
        )


def _declared(saved: SavedNode, kind: str, node_class: NodeClass, is_linked: IsLinked) -> Layout:
    """The layout of the declared inputs and of those that a pack rule adds."""
    if any(rule.own_values for rule in pack_rules.of_class(kind)):
        return Layout(node_class, default_widgets(node_class))
    slots = {slot.name: slot.widget is not None for slot in saved.inputs}
    shown = with_slots(node_class, slots)
    named = _names(saved, kind, shown)
    if named is not None:
        return _by_name(kind, shown, named)
    widgets = default_widgets(shown)
    values = saved_values(shown, widgets, saved.values)
    usual = Layout(shown, restore(widgets, values))
    if any(widget.kind == EXTRA for widget in widgets) and len(values) < sum(w.saved for w in widgets):
        # Each value's widget is known only when all of them or none have a value.
        usual.reason, usual.refused = "another version of its pack saved it, with fewer values", True
        return usual
    found = misfits(usual.widgets, values)
    if (layout := _names_say_otherwise(saved, kind, usual)) is not None:
        return layout
    if _is_proven(usual, values, found):
        return usual
    return _better(saved, kind, usual, values, found, is_linked) or _in_doubt(usual, values, found, is_linked)


def _names(saved: SavedNode, kind: str, node_class: NodeClass) -> Mapping[str, object] | None:
    """The values by name where the pack saves them so, now or in an older list that its script can read."""
    if isinstance(saved.values, Mapping):
        return None if node_class.core else saved.values
    return pack_rules.named_list(kind, saved.values)


def _by_name(kind: str, node_class: NodeClass, named: Mapping[str, object]) -> Layout:
    renamed = pack_rules.renamed(kind)
    named = {renamed[name]: value for name, value in named.items() if name in renamed} | dict(named)
    node_class = decided(node_class, lambda spec: True if spec.name in named else None)
    widgets = default_widgets(node_class)
    return Layout(node_class, restore_named(widgets, named))


def _names_say_otherwise(saved: SavedNode, kind: str, usual: Layout) -> Layout | None:
    """The layout by name, where the file has each value with its name beside the list and the two disagree."""
    named = saved.named_values
    if named is None or not isinstance(saved.values, list) or list(named.values()) != saved.values:
        return None
    layout = _by_name(kind, usual.node_class, named)
    if any(widget.sent and widget.saved and widget.name not in named for widget in layout.widgets):
        return None
    if _sent(layout.widgets) == _sent(usual.widgets):
        return None
    layout.reason = (
        "its values are taken by name; by position, as the editor reads them, they would land on other inputs"
    )
    return layout


def _sent(widgets: Sequence[Widget]) -> list[tuple[str, object]]:
    return [(widget.name, widget.value) for widget in widgets if widget.sent and widget.name]


def _mark(widgets: Sequence[Widget]) -> tuple[tuple[str, object], ...]:
    """A key that is equal for equal layouts of the same saved values; lists and objects are the file's own."""
    return tuple(
        (name, id(value) if isinstance(value, (list, dict)) else repr(value))
        for name, value in _sent(widgets)
    )


def misfits(widgets: Sequence[Widget], values: Sequence[object]) -> list[Misfit]:
    """The values that their widgets do not take; `values` are those that `restore` was given."""
    places = (widget for widget in widgets if widget.saved)
    found = []
    for widget, value in zip(places, values, strict=False):
        verdict = None if value is UNSET else _verdict(widget, value)
        if verdict is not None:
            rejected = widget.kind == "COMBO" or (
                widget.kind in ("INT", "FLOAT") and isinstance(value, (str, list, dict))
            )
            found.append(Misfit(widget.name, value, verdict, rejected))
    return found


def _verdict(widget: Widget, value: object) -> bool | None:
    """None when the widget takes the value; else whether the value is at least of the right kind."""
    if widget.name == "control_after_generate":
        # Some packs put a button in its place, which saves nothing.
        fits = (
            value is None or isinstance(value, bool) or (isinstance(value, str) and value in CONTROLS | {""})
        )
        return None if fits else False
    spec = widget.spec
    if spec is None or value is None:
        return None
    if isinstance(value, (list, dict)):
        return False if widget.kind in ("INT", "FLOAT", "BOOLEAN") else None
    if widget.kind in ("INT", "FLOAT"):
        return _number_verdict(widget.kind, value)
    if widget.kind == "BOOLEAN":
        return _switch_verdict(spec, value)
    if widget.kind == "STRING":
        return None if isinstance(value, str) else True
    if widget.kind in ("COMBO", DYNAMIC_COMBO):
        return _choice_verdict(spec, value)
    return None


def _number_verdict(kind: str, value: object) -> bool | None:
    if isinstance(value, bool):
        return False
    if isinstance(value, str):
        return None if _NUMBER.fullmatch(value) else False
    return True if kind == "INT" and isinstance(value, float) and not value.is_integer() else None


def _switch_verdict(spec: InputSpec, value: object) -> bool | None:
    if isinstance(value, bool) or value in (0, 1):
        return None
    if not isinstance(value, str):
        return False
    words = {str(spec.options.get(key, "")).lower() for key in ("label_on", "label_off")}
    return None if value.lower() in _SWITCH_WORDS | words else False


def _choice_verdict(spec: InputSpec, value: object) -> bool | None:
    choices = spec.choices
    if not choices or value in choices or str(value) in {str(choice) for choice in choices}:
        return None
    texts = all(isinstance(choice, str) for choice in choices)
    if not isinstance(value, str):
        return not texts
    if not texts and all(not isinstance(choice, str) for choice in choices):
        return False
    # Servers have different files, so any file name fits.
    if _FILE.search(value) or any(isinstance(choice, str) and _FILE.search(choice) for choice in choices):
        return None
    return True


def _is_proven(usual: Layout, values: Sequence[object], found: Sequence[Misfit]) -> bool:
    count = sum(widget.saved for widget in usual.widgets)
    surplus = any(value not in (None, "") for value in values[count:])
    if any(not misfit.stale for misfit in found) or (found and len(values) != count):
        return False
    return not (surplus and any(is_undecided(spec) for spec in usual.node_class.specs))


def _better(
    saved: SavedNode,
    kind: str,
    usual: Layout,
    values: list[object],
    found: Sequence[Misfit],
    is_linked: IsLinked,
) -> Layout | None:
    """The one layout that fits all values; None where none does, or several do."""
    named = saved.named_values if saved.named_values is not None else saved.sent_before
    if named is not None:
        layout = _by_name(kind, usual.node_class, named)
        layout.reason = "its values do not fit by position; those that the file has by name are used"
        return layout
    shifted = any(not misfit.stale for misfit in found)
    for candidates in (
        _other_kinds(saved, usual, is_linked),
        _shifted(usual, values) if shifted else (),
    ):
        distinct: dict[Any, Layout] = {}
        for layout in candidates:
            distinct.setdefault(_mark(layout.widgets), layout)
            if len(distinct) > 1:
                break
        if len(distinct) == 1:
            (layout,) = distinct.values()
            layout.reason = (
                f"its saved values do not fit its inputs one by one ({_shown(found)}); the one layout that fits all"
                " of them is used"
            )
            return layout
        if distinct:
            break
    return None


def _in_doubt(
    usual: Layout,
    values: Sequence[object],
    found: Sequence[Misfit],
    is_linked: IsLinked,
) -> Layout:
    """The editor's own layout with the reason for doubt: refused unless it cannot lead to a wrong result."""
    usual.misfits = tuple(misfit.name for misfit in found)
    undecided = [
        spec.name for spec in usual.node_class.specs if is_undecided(spec) and not is_linked(spec.widget_type)
    ]
    if not found:
        if undecided:
            usual.refused = True
            usual.reason = (
                f"it has more saved values than inputs; the file does not show whether {undecided[0]} has one"
            )
        return usual
    usual.reason = f"its saved values do not fit its inputs: {_shown(found)}"
    if all(misfit.stale for misfit in found):
        return usual
    if len(values) == sum(widget.saved for widget in usual.widgets):
        usual.reason += "; the pack has replaced that input since; it is sent as the editor would send it"
        return usual
    usual.refused = bool(undecided) or not any(misfit.rejected for misfit in found)
    if not usual.refused:
        usual.reason += "; it is sent as the editor would send it, and the server will reject it"
    return usual


def _shown(found: Sequence[Misfit]) -> str:
    return (
        ", ".join(f"{misfit.name} would get {_short(misfit.value)}" for misfit in found[:3])
        or "one value too many"
    )


def _short(value: object) -> str:
    text = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _fits(layout: Layout, values: Sequence[object]) -> bool:
    return len(values) <= sum(widget.saved for widget in layout.widgets) and not misfits(
        layout.widgets, values
    )


def _other_kinds(saved: SavedNode, usual: Layout, is_linked: IsLinked) -> Iterator[Layout]:
    """Layouts in which inputs of a type that no node outputs, or forced inputs, have widgets."""
    open_types = list(
        dict.fromkeys(
            spec.type
            for spec in usual.node_class.specs
            if is_undecided(spec)
            # A node that outputs the type itself may be the only one that makes its values.
            and (not is_linked(spec.widget_type) or spec.widget_type in usual.node_class.outputs)
        )
    )[:MOST_UNDECIDED]
    for size in range(len(open_types) + 1):
        for chosen in itertools.combinations(open_types, size):
            node_class = _with_types(usual.node_class, chosen)
            widgets = default_widgets(node_class)
            forms = [saved_values(node_class, widgets, saved.values)]
            forms += [list(saved.values)] if isinstance(saved.values, list) else []
            for values in forms:
                layout = Layout(node_class, restore(widgets, values))
                exact = len(values) == sum(widget.saved for widget in layout.widgets)
                if (exact or not chosen) and _fits(layout, values):
                    yield layout


def _with_types(node_class: NodeClass, types: Sequence[str]) -> NodeClass:
    """The class with widgets for undecided inputs of these types."""
    return decided(node_class, lambda spec: True if spec.type in types else None)


def _shifted(usual: Layout, values: list[object]) -> Iterator[Layout]:
    """Layouts for a pack that has gained or lost inputs; none unless a change in one place explains the values."""
    widgets = default_widgets(usual.node_class)
    ways = list(_placements([widget for widget in widgets if widget.saved], values))
    if not any(_is_one_change(moved, values) for moved in ways):
        return
    for moved in ways:
        layout = Layout(usual.node_class, restore(widgets, moved))
        if _fits(layout, moved):
            yield layout


def _is_one_change(moved: Sequence[object], values: Sequence[object]) -> bool:
    """Whether the places without a value, or the values without a place, are adjacent."""
    few, many = sorted((moved, values), key=len)
    if len(moved) > len(values):
        gaps = [place for place, value in enumerate(moved) if value is UNSET]
        return gaps[-1] - gaps[0] + 1 == len(gaps)
    return any(
        [*many[:place], *many[place + len(many) - len(few) :]] == list(few) for place in range(len(few) + 1)
    )


def _placements(places: Sequence[Widget], values: Sequence[object]) -> Iterator[list[object]]:
    """Each way to assign the values to the widgets in order, leaving some widgets or some values out."""
    rows, columns = len(places), len(values)
    if rows == columns or rows * columns > MOST_PAIRS:
        return
    fits = [[_verdict(place, value) is None for value in values] for place in places]
    # What is left out: widgets when there are more of them, else values.
    step = (1, 0) if rows > columns else (0, 1)
    ends = {(rows, columns)}
    for row in range(rows, -1, -1):
        for column in range(columns, -1, -1):
            taken = row < rows and column < columns and fits[row][column] and (row + 1, column + 1) in ends
            if taken or (row + step[0], column + step[1]) in ends:
                ends.add((row, column))
    waiting: list[tuple[int, int, list[Any]]] = [(0, 0, [])] if (0, 0) in ends else []
    for _ in range(MOST_PLACEMENTS * (rows + columns)):
        if not waiting:
            return
        row, column, moved = waiting.pop()
        if (row, column) == (rows, columns):
            yield moved
            continue
        if (row + step[0], column + step[1]) in ends:
            waiting.append((row + step[0], column + step[1], [*moved, UNSET] if step[0] else moved))
        if row < rows and column < columns and fits[row][column] and (row + 1, column + 1) in ends:
            waiting.append((row + 1, column + 1, [*moved, values[column]]))
