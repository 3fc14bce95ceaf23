"""Putting values into a graph: a new graph comes back, changed only where asked. Pure.

Uploads are done by the caller: `upload_targets` says which settings name files for which inputs; the names that
the server gave then come in as settings, with `uploaded` naming them so that no stale list refuses them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from comfyskill.base import safe_text
from comfyskill.base.cli import Misuse, SkillError
from comfyskill.graph import catalog
from comfyskill.graph.nodes import Definitions, Graph, inputs_of, link_of, literal, node_of, title_of
from comfyskill.graph.parameters import SIZED, Parameter, ParameterSet, find
from comfyskill.graph.specs import DYNAMIC_COMBO
from comfyskill.graph.values import convert, two_numbers

_RANDOM_WORDS = frozenset({"random", "-1", "-1.0", "randomize"})

MOST_WRONG = 50


class Filled(NamedTuple):
    """A filled graph.

    changes: [{name, node_id, input, old, new}] in the order of the settings. seeds: every seed that the graph
    now holds, {"3.seed": 123}. notes: what a person should know. uploads: the addresses set to uploaded files.
    """

    graph: dict[str, Any]
    changes: list[dict[str, Any]]
    seeds: dict[str, int]
    notes: list[str]
    uploads: list[str]


def fill(
    graph: Graph,
    settings: Mapping[str, Any],
    definitions: Definitions | None = None,
    *,
    validate: bool = True,
    force_links: Collection[str] = frozenset(),
    randomize_seed: bool = False,
    uploaded: Collection[str] = frozenset(),
    rng: Callable[[], random.Random] = random.SystemRandom,
) -> Filled:
    """The graph with the settings put in.

    settings: {name or address: text from --set, or a typed value from --args}; `size` takes "WIDTHxHEIGHT".
    force_links: addresses whose link may be replaced by a value. uploaded: the settings whose values are names
    of files that were just uploaded. rng: makes what fresh seeds are drawn from (the system's by default).

    Raises:
        SkillError: (exit 2) "unknown_parameter", "ambiguous_parameter", "is_linked", "wrong_type",
            "out_of_range", "not_in_list", "set_twice".
    """
    return fill_found(
        find(graph, definitions), settings, validate=validate, force_links=force_links,
        randomize_seed=randomize_seed, uploaded=uploaded, rng=rng,
    )  # fmt: skip


def fill_found(
    parameters: ParameterSet,
    settings: Mapping[str, Any],
    *,
    validate: bool = True,
    force_links: Collection[str] = frozenset(),
    randomize_seed: bool = False,
    uploaded: Collection[str] = frozenset(),
    rng: Callable[[], random.Random] = random.SystemRandom,
) -> Filled:
    """`fill` for a graph whose parameters were found before: a batch fills one graph thousands of times."""
    work = _Filling(parameters, validate, frozenset(force_links), rng)
    apart = _sizes_apart(settings, parameters)
    # A mask painted into a picture comes last: its upload is the picture itself, with the mask as transparency.
    wrong: dict[str, SkillError] = {}
    for name in work.choices_first(sorted(apart, key=lambda name: name == "mask")):
        try:
            work.put(name, apart[name], fresh=name in uploaded)
        except SkillError as error:
            # An input of a refused choice (resize_type.width) would be refused for that reason alone.
            if not any(name.startswith(f"{other}.") for other in wrong):
                wrong[name] = error
        if len(wrong) >= MOST_WRONG:
            break  # people do not correct thousands one by one, and finding the nearest name of each is slow
    if wrong:
        raise _all_wrong(list(wrong.values()))
    if randomize_seed:
        work.randomize_rest()
    return work.result()


def _all_wrong(errors: Sequence[SkillError]) -> SkillError:
    """The first refusal, with the others beside it: one correction instead of one for each wrong value."""
    first, *others = errors
    if others:
        plural = "values are" if len(others) > 1 else "value is"
        first.message += f"; {len(others)} more {plural} wrong (see also_wrong)"
        first.details["also_wrong"] = [
            {"code": error.code, "message": error.message} | ({"hint": error.hint} if error.hint else {})
            for error in others
        ]
    return first


def _sizes_apart(settings: Mapping[str, Any], parameters: ParameterSet) -> dict[str, Any]:
    """The settings with `size` replaced by `width` and `height`, unless the graph has a parameter `size`."""
    if "size" not in settings or "size" in parameters.groups:
        return dict(settings)
    apart: dict[str, Any] = {}
    for name, value in settings.items():
        if name != "size":
            apart[name] = value
            continue
        width, height = two_numbers(value)
        apart["width"], apart["height"] = width, height
    return apart


class _Filling:
    """One graph being filled: nodes are copied when they are first changed."""

    def __init__(
        self,
        parameters: ParameterSet,
        validate: bool,
        force_links: frozenset[str],
        rng: Callable[[], random.Random],
    ) -> None:
        self.parameters = parameters
        self.validate = validate
        self.force_links = force_links
        self._rng = rng
        self.graph: dict[str, Any] = dict(parameters.graph)
        self.changes: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.uploads: list[str] = []
        self.set_by: dict[str, str] = {}
        self._own: set[str] = set()

    def put(self, name: str, value: object, *, fresh: bool) -> None:
        """Set what `name` means to `value`."""
        mask = painted_mask(self.parameters, name)
        if mask is not None:
            self.set_by.pop(mask.address, None)
        members = [mask] if mask else self.parameters.resolve(name)
        if len(members) > 1:
            differed = len({repr(member.value) for member in members}) > 1 and members[0].role != "seed"
            places = safe_text.quoted_list([member.address for member in members], 12)
            self.notes.append(
                f"{name} set {len(members)} inputs: {places}"
                + (", which held different values" if differed else "")
            )
        is_random = (
            isinstance(value, str | int)
            and not isinstance(value, bool)
            and str(value).strip().lower() in _RANDOM_WORDS
        )
        if is_random and all(member.role == "seed" for member in members):
            self._fresh_seeds(name, members)
            return
        for member in members:
            self._put_one(name, member, value, fresh=fresh)
        if name in SIZED and len(members) == 1:
            self._note_same_size(name, members[0])

    def choices_first(self, names: list[str]) -> list[str]:
        """The settings' names, those first that decide which inputs a node has."""
        return sorted(names, key=lambda name: not self._decides(name))

    def _decides(self, name: str) -> bool:
        try:
            members = self.parameters.resolve(name)
        except SkillError:
            return False
        return any(member.spec is not None and member.spec.type == DYNAMIC_COMBO for member in members)

    def _lay_out(self, name: str, member: Parameter) -> None:
        """Give a node the inputs of its new choice, at their defaults, and take those of the old one away."""
        node = self._own_node(member.node_id)
        book = self.parameters.book
        start = f"{member.input}."
        declared = {key: spec for key, spec in book.specs(node).items() if key.startswith(start)}
        for key in [key for key in node["inputs"] if key.startswith(start) and key not in declared]:
            self.changes.append(
                {
                    "name": name,
                    "node_id": member.node_id,
                    "input": key,
                    "old": node["inputs"].pop(key),
                    "new": None,
                }
            )
        for key, spec in declared.items():
            if key not in node["inputs"] and spec.is_widget and (default := spec.usual) is not None:
                node["inputs"][key] = default
                self.changes.append(
                    {"name": name, "node_id": member.node_id, "input": key, "old": None, "new": default}
                )
        self.parameters = find(self.graph, book)

    def _note_same_size(self, name: str, changed: Parameter) -> None:
        """Note which other inputs held the same size and keep it."""
        twins = [
            parameter.address
            for parameter in self.parameters
            if parameter.plain == name
            and parameter.address != changed.address
            and parameter.value == changed.value
            and parameter.address not in self.set_by
        ]
        if twins:
            self.notes.append(
                f"{safe_text.quoted_list(twins)} also held {safe_text.name(changed.value)} and kept it"
            )

    def _put_one(self, name: str, member: Parameter, value: object, *, fresh: bool) -> None:
        if member.linked:
            self._refuse_link(member)
        if fresh:
            converted = value
            self.uploads.append(member.address)
        else:
            converted = convert(value, member, validate=self.validate)
        self._write(name, member, converted)
        if member.spec is not None and member.spec.type == DYNAMIC_COMBO:
            self._lay_out(name, member)
            return
        if member.also:
            self.notes.append(f"{safe_text.name(member.address)} is also the {member.also[0]}; both changed")

    def _refuse_link(self, member: Parameter) -> None:
        if member.address in self.force_links:
            return
        link = link_of(member.value)
        source = node_of(self.parameters.graph, link.node_id) if link else None
        came = (
            f"node {safe_text.name(link.node_id)} ({safe_text.name(title_of(source))})"
            if link and source is not None
            else "another node"
        )
        better = [p.name for p in self.parameters if link is not None and p.node_id == link.node_id]
        hint = f"set {safe_text.quoted_list(better[:4])} instead, or " if better else ""
        if member.spec is not None and not member.spec.takes_value:
            hint += f"link another node that gives {safe_text.name(member.spec.type)}: a plain value is not possible there"
        else:
            hint += f"pass --force-link {safe_text.name(member.address)} to cut the link"
        raise Misuse(
            f"{safe_text.name(member.address)} gets its value through a link from {came}",
            code="is_linked",
            hint=hint,
            address=member.address,
        )

    def _write(self, name: str, member: Parameter, value: object) -> None:
        address = member.address
        if self.set_by.get(address, name) != name:
            raise Misuse(
                f"{safe_text.quoted(self.set_by[address])} and {safe_text.quoted(name)} both set {safe_text.name(address)}",
                code="set_twice",
                hint="drop one of them",
            )
        self.set_by[address] = name
        node = self._own_node(member.node_id)
        old = node["inputs"].get(member.input)
        node["inputs"][member.input] = value
        change = {"name": name, "node_id": member.node_id, "input": member.input, "old": old, "new": value}
        self.changes.append(change)

    def _own_node(self, node_id: str) -> dict[str, Any]:
        if node_id not in self._own:
            node = dict(self.graph[node_id])
            node["inputs"] = dict(inputs_of(node))
            self.graph[node_id] = node
            self._own.add(node_id)
        return self.graph[node_id]

    # Seeds that were equal stay equal: stages of one picture often share theirs on purpose.
    def _fresh_seeds(self, name: str, members: Sequence[Parameter]) -> None:
        by_value: dict[Any, list[Parameter]] = {}
        for member in members:
            if member.linked:
                self._refuse_link(member)
            by_value.setdefault(repr(member.value), []).append(member)
        for group in by_value.values():
            low = max(_seed_range(member)[0] for member in group)
            high = min(_seed_range(member)[1] for member in group)
            shared = self.rng.randint(low, high) if low <= high else None
            for member in group:
                seed = shared if shared is not None else self.rng.randint(*_seed_range(member))
                self._write(name, member, seed)

    @cached_property
    def rng(self) -> random.Random:
        return self._rng()

    def randomize_rest(self) -> None:
        """Fresh values for all seeds that no setting has set."""
        rest = [p for p in self.parameters if p.role == "seed" and p.address not in self.set_by]
        if rest:
            self._fresh_seeds("seed", rest)
        elif not any(p.role == "seed" for p in self.parameters):
            self.notes.append("this workflow has no seed, so a random one changes nothing")

    def result(self) -> Filled:
        seeds = {}
        for parameter in self.parameters:
            if parameter.role == "seed":
                value = literal(inputs_of(self.graph[parameter.node_id]).get(parameter.input))
                if isinstance(value, int) and not isinstance(value, bool):
                    seeds[parameter.address] = value
        return Filled(self.graph, self.changes, seeds, self.notes, self.uploads)


def _seed_range(parameter: Parameter) -> tuple[int, int]:
    """The seeds that an input allows, not below 0 and not above what an editor can read back."""
    low, high = 0, catalog.LARGEST_PORTABLE_SEED
    if parameter.spec is not None:
        least, most = parameter.spec.number("min"), parameter.spec.number("max")
        if least is not None:
            low = max(low, int(least))
        if most is not None:
            high = min(high, int(most))
    return (low, high) if low <= high else (low, low)


class UploadTarget(NamedTuple):
    """An input that takes a file, and the file's name as it was given.

    kind: image, mask, video, audio or file. original: for a mask that belongs to a LoadImage, the value that the
    input holds now: the picture whose transparency the mask becomes (`original_ref` of /upload/mask).
    """

    name: str
    node_id: str
    input: str
    kind: str
    value: object
    original: str | None = None

    @property
    def address(self) -> str:
        """Its name as NODE.INPUT."""
        return f"{self.node_id}.{self.input}"


def upload_targets(
    graph: Graph, settings: Mapping[str, Any], definitions: Definitions | None = None
) -> list[UploadTarget]:
    """The settings that name an input which takes files from the user, whatever their value.

    The caller decides by the value (an existing local file?) whether to upload. `mask` means the picture
    loader whose mask output is used when the graph has no loader for masks alone.

    Raises:
        SkillError: as `ParameterSet.resolve` does.
    """
    parameters = find(graph, definitions)
    targets = []
    for name, value in settings.items():
        mask = painted_mask(parameters, name)
        for parameter in [mask] if mask else _resolve(parameters, name):
            if parameter.upload is None:
                continue
            kind = "mask" if mask else parameter.upload
            original = str(parameter.value) if mask else None
            targets.append(UploadTarget(name, parameter.node_id, parameter.input, kind, value, original))
    return targets


def painted_mask(parameters: ParameterSet, name: str) -> Parameter | None:
    """For the name `mask`: the one LoadImage whose second output, its mask, is used."""
    if name != "mask" or name in parameters.groups:
        return None
    used = {
        link.node_id
        for node in parameters.graph.values()
        if isinstance(node, Mapping)
        for value in inputs_of(node).values()
        if (link := link_of(value)) is not None and link.slot == 1
    }
    loaders = [p for p in parameters if p.upload == "image" and p.node_id in used and p.input == "image"]
    return loaders[0] if len(loaders) == 1 else None


def _resolve(parameters: ParameterSet, name: str) -> list[Parameter]:
    if name == "size" and "size" not in parameters.groups:
        return []
    return parameters.resolve(name)
