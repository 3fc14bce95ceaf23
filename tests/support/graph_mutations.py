"""Graphs for every node class of a server, right ones and broken ones, to compare two verdicts on them. Pure.

The graph of a class has that class as node "1", the nodes that it needs, and PreviewAny behind it where it is not an
output itself. Each broken graph differs from it in one place. The choice is random and the same at every call.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from comfyskill.graph.specs import AUTOGROW, DYNAMIC_COMBO, Book, InputSpec, autogrow_of, entries, read_spec

LITERALS = [
    None,
    "",
    "some text",
    "25",
    "a/b.png",
    0,
    -1,
    1.5,
    10**30,
    True,
    {},
    {"a": 1},
    {"__value__": [1, 2]},
    {"__value__": "x"},
]


class Sample(NamedTuple):
    """One graph and what was done to it."""

    what: str
    graph: dict[str, Any]


class Builder:
    """Builds valid nodes: the cheapest class that gives a type, its inputs at their defaults."""

    def __init__(self, definitions: dict[str, Any]) -> None:
        self.definitions = definitions
        self.book = Book(definitions)
        self._cost: dict[str, int] = {}
        self._giver: dict[str, tuple[str, int]] = {}
        self._find_givers()

    def _find_givers(self) -> None:
        """Settle which class gives each type: repeat until no class becomes buildable or cheaper."""
        changed = True
        while changed:
            changed = False
            for name in self.definitions:
                cost = self._price(name)
                if cost is None or cost >= self._cost.get(name, 10**6):
                    continue
                self._cost[name], changed = cost, True
                for slot, kind in enumerate(self.book.outputs(name)):
                    if (
                        isinstance(kind, str)
                        and cost < self._cost.get(self._giver.get(kind, ("", 0))[0], 10**6)
                    ) or (isinstance(kind, str) and kind not in self._giver):
                        self._giver[kind] = (name, slot)

    def _price(self, name: str) -> int | None:
        """How many nodes it takes to build one of this class; None when something is missing."""
        cost = 1
        for spec in self.specs(name, self.values(name)).values():
            if not spec.required or self.value(spec) is not None:
                continue
            giver = self.source_of(spec)
            if giver is None or giver[0] not in self._cost:
                return None
            cost += self._cost[giver[0]]
        return cost

    def source_of(self, spec: InputSpec) -> tuple[str, int] | None:
        """Class and output slot of the cheapest source for an input, or None."""
        if spec.takes_any:
            return self._giver.get("INT") or next(iter(self._giver.values()), None)
        return next((self._giver[kind] for kind in sorted(spec.types) if kind in self._giver), None)

    def specs(self, name: str, inputs: dict[str, Any]) -> dict[str, InputSpec]:
        """The inputs of a class with these values in it."""
        return self.book.specs({"class_type": name, "inputs": inputs})

    def value(self, spec: InputSpec) -> Any:
        """A valid plain value, or None for what needs a link or has nothing to choose from."""
        if not spec.takes_value or spec.takes_any or spec.choices == ():
            return None
        return spec.usual if spec.usual is not None else "x" if spec.choices is None else None

    def values(self, name: str, **given: Any) -> dict[str, Any]:
        """The plain inputs of a class, those of its dynamic choices too."""
        inputs = dict(given)
        for _ in range(6):
            fresh = {
                key: value
                for key, spec in self.specs(name, inputs).items()
                if key not in inputs and (value := self.value(spec)) is not None
            }
            if not fresh:
                break
            inputs |= fresh
        return inputs

    def add(self, graph: dict[str, Any], name: str, node_id: str, **given: Any) -> None:
        """Put a node of this class into the graph, and the nodes that it needs."""
        inputs = self.values(name, **given)
        graph[node_id] = {"class_type": name, "inputs": inputs}
        for key, spec in self.specs(name, inputs).items():
            if spec.required and key not in inputs and (source := self.source_of(spec)) is not None:
                inputs[key] = self.link(graph, source)

    def link(self, graph: dict[str, Any], source: tuple[str, int]) -> list[Any]:
        """A link to a node of this class, which is added where the graph has none."""
        name, slot = source
        node_id = next(
            (key for key, node in graph.items() if key != "1" and node["class_type"] == name), None
        )
        if node_id is None:
            node_id = f"s{len(graph)}"
            self.add(graph, name, node_id)
        return [node_id, slot]

    def graph(self, name: str, **given: Any) -> dict[str, Any]:
        """A graph whose node "1" is of this class."""
        made: dict[str, Any] = {}
        self.add(made, name, "1", **given)
        if not self.definitions[name].get("output_node"):
            made["out"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
        return made


def samples(definitions: dict[str, Any], per_input: int = 7) -> Iterator[Sample]:
    """The graphs: for each class one that should be valid, one for each choice of its dynamic inputs, and broken ones."""
    builder = Builder(definitions)
    for name in sorted(definitions):
        rng = random.Random(name)
        base = builder.graph(name)
        yield Sample(f"{name}: defaults", base)
        variants = [base]
        for given, what in _choices(builder, name):
            variants.append(builder.graph(name, **given))
            yield Sample(f"{name}: {what}", variants[-1])
        yield from _whole_node(name, base, rng)
        for number, variant in enumerate(variants):
            specs = builder.specs(name, variant["1"]["inputs"])
            fresh = specs if number == 0 else {key: spec for key, spec in specs.items() if "." in key}
            for key, spec in fresh.items():
                count = per_input if number == 0 else 2
                for what, change in rng.sample(list(_changes(builder, variant, key, spec)), count):
                    yield Sample(f"{name}.{key}: {what}", _changed(variant, key, change))
        yield from _grown(builder, name, base)


def _choices(builder: Builder, name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Values that choose each option of each dynamic combo, down to what is nested in it."""
    waiting: list[dict[str, Any]] = [{}]
    while waiting:
        given = waiting.pop()
        for key, spec in builder.specs(name, builder.values(name, **given)).items():
            if (
                spec.type != DYNAMIC_COMBO
                or key in given
                or any(key.count(".") < other.count(".") for other in given)
            ):
                continue
            for choice in spec.choices or ():
                further = {**given, key: choice}
                yield further, ", ".join(f"{at}={value}" for at, value in further.items())
                if key.count(".") < 2 and len(further) < 4:
                    waiting.append(further)


_GONE = object()


def _changes(builder: Builder, graph: dict[str, Any], key: str, spec: InputSpec) -> Iterator[tuple[str, Any]]:
    """What can be done to one input, as (words, new value)."""
    others = [node_id for node_id in graph if node_id not in ("1", "out")]
    yield "missing", _GONE
    for value in LITERALS:
        yield f"{value!r}", value
    yield "a link to itself", ["1", 0]
    yield "a link to nowhere", ["no such node", 0]
    yield "a link to a number", [1, 0]
    yield "a link in three parts", ["1", 0, 0]
    yield "an empty list", []
    yield "a list of one", ["x"]
    for node_id in others[:3]:
        for slot in (0, 1, 99, -1, "0", None, True, 1.0):
            yield f"a link to {graph[node_id]['class_type']} slot {slot!r}", [node_id, slot]
    for option, step in (("min", -1), ("max", 1)):
        limit = spec.number(option)
        if limit is not None:
            yield f"beyond {option}", limit + step
            yield f"at {option}", limit
            yield f"beyond {option} as text", str(limit + step)
    for choice in (spec.choices or ())[:3]:
        yield f"the choice {choice!r}", choice
        yield f"a list with {choice!r}", {"__value__": [choice]}
    yield "an unlisted choice", "no such choice"


def _changed(graph: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    made = copy.deepcopy(graph)
    if value is _GONE:
        made["1"]["inputs"].pop(key, None)
    else:
        made["1"]["inputs"][key] = value
    return made


def _whole_node(name: str, base: dict[str, Any], rng: random.Random) -> Iterator[Sample]:
    """Changes that concern no declared input."""
    for what, extra in (
        ("an undeclared value", 5),
        ("an undeclared link", ["no such node", 0]),
        ("an undeclared link to a broken node", ["broken", 0]),
    ):
        made = copy.deepcopy(base)
        made["1"]["inputs"]["no_such_input"] = extra
        made["broken"] = {"class_type": "ImageInvert", "inputs": {}}
        yield Sample(f"{name}: {what}", made)
    made = copy.deepcopy(base)
    made["1"]["inputs"] = {}
    yield Sample(f"{name}: no values at all", made)
    if rng.random() < 0.1:
        made = copy.deepcopy(base)
        made["1"] = rng.choice(
            [{"class_type": name}, {"class_type": "NoSuchClass", "inputs": {}}, {"inputs": {}}]
        )
        yield Sample(f"{name}: broken as a node", made)


def _grown(builder: Builder, name: str, base: dict[str, Any]) -> Iterator[Sample]:
    """Groups that grow: each with none, with the second one only, with one more than the least, with one too many."""
    raw = builder.definitions[name].get("input")
    for required, key, entry in entries(raw):
        spec = read_spec(key, entry, required)
        group = autogrow_of(spec) if spec is not None and spec.type == AUTOGROW else None
        if group is None:
            continue
        own = [at for at in base["1"]["inputs"] if at.startswith(f"{key}.")]
        source = builder.source_of(group.element)
        if source is None:
            continue
        for what, names in (
            ("none", []),
            ("the second only", group.names[1:2]),
            ("one more than the least", group.names[: group.least + 1]),
            ("all of the least but the first", group.names[1 : group.least]),
            ("one that it does not have", [*group.names[: group.least], f"{key}.{(group.prefix or '')}999"]),
        ):
            made = copy.deepcopy(base)
            for at in own:
                del made["1"]["inputs"][at]
            for at in names:
                made["1"]["inputs"][at] = builder.link(made, source)
            yield Sample(f"{name}.{key}: {what}", made)
