"""What a graph lets a person change: every settable input, named by what it means. Pure.

A parameter first gets a plain name (`prompt`, `seed`, `width`, ...): from tracing, from what its value feeds, or from
the input's own name. `parameters` makes equal names unique.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from comfyskill.base import safe_text
from comfyskill.base.cli import Document, Misuse, SkillError
from comfyskill.graph import catalog, describe
from comfyskill.graph.nearest import nearest
from comfyskill.graph.nodes import (
    Consumer,
    Definitions,
    Graph,
    Node,
    class_of,
    consumers_of,
    each,
    given_title,
    inputs_of,
    is_literal,
    link_of,
    literal,
    natural_key,
    node_of,
    title_of,
)
from comfyskill.graph.prompts import (
    NEGATIVE,
    POSITIVE,
    Prompts,
    TextPlace,
    chosen_branch,
    is_metadata,
    prompts_of,
)
from comfyskill.graph.specs import Book, InputSpec, choices_shown

# A shorter list of choices is shown again rather than referred to.
FEW_CHOICES = 3
SIZED = frozenset({"width", "height", "length", "batch_size"})
_NO_WORD = re.compile(r"[\W_]+")
MOST_CHOICES = 40
# Users upload their own file more often than they choose one of the server's.
MOST_FILES = 8


def meaning(parameter: Parameter) -> tuple[str, str | None]:
    """The plain name and role of an input, from its own name, class and type."""
    name = parameter.input
    if parameter.upload:
        kind = parameter.upload
        plain = kind if kind != "file" else name
        return plain, catalog.ROLES.get(plain, "file")
    if parameter.type == "STRING" and isinstance(parameter.value, str):
        if name in catalog.NEGATIVE_INPUTS:
            return NEGATIVE, NEGATIVE
        if name in catalog.PROMPT_INPUTS:
            return POSITIVE, POSITIVE
    if name in catalog.SEED_INPUTS and parameter.type in ("INT", "NUMBER"):
        return "seed", "seed"
    folder = catalog.MODEL_FOLDERS_BY_CLASS.get((parameter.class_type, name)) or catalog.MODEL_FOLDERS.get(
        name
    )
    if folder and isinstance(parameter.value, str):
        return name, "model"
    # Dynamic inputs are called after their last part: resize_type.width is a width.
    last = name.rsplit(".", 1)[-1]
    plain = catalog.FRIENDLY_NAMES.get(last, last) or name
    if plain in ("prompt", "negative_prompt") and parameter.type != "STRING":
        plain = name
    if plain in catalog.SEED_NAMES and parameter.type not in ("INT", "NUMBER"):
        plain = name
    role = catalog.ROLES.get(plain)
    if role == "size" and isinstance(parameter.value, str):
        # A word such as "longest side" chooses what the size means; it is not a size.
        role = None
    if role in ("image", "mask", "video_file", "audio_file", "prompt", "negative_prompt", "seed"):
        role = None
    return plain, role


def sizes_latent(graph: Graph, node_id: str, book: Book) -> bool:
    """Whether a node makes the latent that is sampled, so that its width is the picture's."""
    node = node_of(graph, node_id)
    if node is None:
        return False
    inputs = inputs_of(node)
    takes_pictures = any(
        link_of(inputs.get(name)) for name in ("samples", "latent", "image", "images", "pixels")
    )
    takes_prompts = any(link_of(inputs.get(name)) for name in ("positive", "negative"))
    # WanImageToVideo and similar nodes take pictures and still make the latent; scalers do not.
    if takes_pictures and not takes_prompts:
        return False
    class_type = class_of(node)
    if "Audio" in class_type:
        return False
    if book.knows(class_type):
        return book.gives(class_type, "LATENT") or book.flag(class_type, "api_node") is True
    lowered = class_type.lower()
    return "latent" in lowered or takes_prompts


class Use(NamedTuple):
    """What a value node's value is used for."""

    plain: str
    role: str | None
    secondary: bool


def uses_of(graph: Graph, book: Book, consumers: Mapping[str, list[Consumer]]) -> dict[tuple[str, str], Use]:
    """For every value node (primitives, constants): the meaning of the inputs that it feeds."""
    uses: dict[tuple[str, str], Use] = {}
    for node_id, node in each(graph):
        place = _value_input(node, book)
        if place is None:
            continue
        meanings = [
            _meaning_at(graph, book, consumer_id, name)
            for consumer_id, name in _ends(graph, consumers, node_id)
        ]
        use = _agreed(meanings, node)
        if use is not None:
            uses[node_id, place] = use
    return uses


def _value_input(node: Node, book: Book) -> str | None:
    """The one literal of a node that only holds a value, or None."""
    if class_of(node) in catalog.TWO_FORMS:
        switch, off, on = catalog.TWO_FORMS[class_of(node)]
        name = on if literal(inputs_of(node).get(switch)) else off
        return name if is_literal(inputs_of(node).get(name)) else None
    inputs = {name: value for name, value in inputs_of(node).items() if name not in catalog.FRONTEND_INPUTS}
    if len(inputs) != 1:
        return None
    name, value = next(iter(inputs.items()))
    if not is_literal(value) or name in catalog.SEED_INPUTS:
        return None
    class_type = class_of(node)
    if book.knows(class_type):
        outputs = book.outputs(class_type)
        plain = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "*", "NUMBER"}
        if not outputs or not all(isinstance(kind, list) or kind in plain for kind in outputs):
            return None
        return name
    if name in catalog.VALUE_INPUTS and (class_type, name) not in catalog.UPLOADS:
        return name
    return None


def _ends(graph: Graph, consumers: Mapping[str, list[Consumer]], start: str) -> list[tuple[str, str]]:
    """The inputs that a value reaches, reroutes and switches passed through."""
    found: list[tuple[str, str]] = []
    waiting, seen = [start], {start}
    while waiting and len(found) < 40:
        for consumer in consumers.get(waiting.pop(), ())[:40]:
            node = node_of(graph, consumer.node_id)
            if node is None:
                continue
            passes = class_of(node) in catalog.PASS_THROUGH or class_of(node) in catalog.SWITCHES
            if passes and consumer.node_id in consumers:
                chosen = chosen_branch(node)
                own = link_of(inputs_of(node).get(consumer.input))
                if consumer.node_id not in seen and (chosen is None or chosen == own):
                    seen.add(consumer.node_id)
                    waiting.append(consumer.node_id)
            else:
                found.append((consumer.node_id, consumer.input))
    return found


# Inputs that say nothing about what a file is for.
_ANY_FILE = frozenset(
    {"image", "images", "pixels", "samples", "input", "source", "video", "audio", "any", "value", "file", "destination",
     "model_file", "mask"}
)  # fmt: skip
_FARTHEST = 4


def feeds_of(
    graph: Graph, book: Book, consumers: Mapping[str, list[Consumer]], start: str
) -> tuple[str, ...]:
    """The descriptive names of the inputs that a loaded file reaches, straight or through nodes that only work on it."""
    found: set[str] = set()
    waiting, seen = [(start, 0)], {start}
    while waiting and len(seen) < 60:
        node_id, hops = waiting.pop(0)
        for consumer in consumers.get(node_id, ())[:40]:
            name = consumer.input.rsplit(".", 1)[-1]
            if name.rstrip("0123456789_") not in _ANY_FILE:
                found.add(name)
                continue
            node = node_of(graph, consumer.node_id)
            if node is None or consumer.node_id in seen or hops >= _FARTHEST:
                continue
            if name.rstrip("0123456789_") in _ANY_FILE and book.gives(class_of(node), "IMAGE"):
                seen.add(consumer.node_id)
                waiting.append((consumer.node_id, hops + 1))
    return tuple(sorted(found))


def _meaning_at(graph: Graph, book: Book, node_id: str, name: str) -> Use:
    node = graph[node_id]
    if is_metadata(node, book):
        return Use(name, None, secondary=True)
    spec = book.specs(node).get(name)
    stand_in = read_parameter(node_id, node, name, _example(spec), spec)
    plain, role = meaning(stand_in)
    secondary = plain in SIZED and not sizes_latent(graph, node_id, book)
    return Use(plain, role, secondary)


def _example(spec: InputSpec | None) -> Any:
    """A value of the input's type, for judging what the input means."""
    return {"STRING": "", "FLOAT": 0.0, "BOOLEAN": False, "COMBO": ""}.get(spec.type, 0) if spec else 0


def _agreed(meanings: list[Use], node: Node) -> Use | None:
    """One meaning for all uses: the only one that has a role, or the node's own title."""
    if not meanings:
        return None
    clear = [use for use in meanings if use.role] or meanings
    plains = {use.plain for use in clear}
    secondary = all(use.secondary for use in clear)
    if len(plains) == 1:
        plain = clear[0].plain
        if clear[0].role is None and given_title(node) and plain in catalog.MEANINGLESS:
            plain = slug(title_of(node)) or plain
        return Use(plain, clear[0].role, secondary)
    title = given_title(node)
    own = slug(title) if title and title != class_of(node) else ""
    roles = {use.role for use in clear}
    return Use(
        own or "_".join(sorted(plains)[:3]), clear[0].role if len(roles) == 1 else None, secondary=False
    )


@functools.lru_cache(maxsize=4096)
def slug(text: str, longest: int = 40) -> str:
    """A title as a part of a name: lower case, letters and digits, joined by underscores."""
    return _NO_WORD.sub("_", text.casefold()).strip("_")[:longest].strip("_")


def demote(found: list[Parameter]) -> list[Parameter]:
    """Rank parameters without a role after those with one; a size is secondary only beside a primary one."""
    clear = {parameter.plain for parameter in found if parameter.role}
    ranked = [
        parameter._replace(secondary=True) if not parameter.role and parameter.plain in clear else parameter
        for parameter in found
    ]
    primary = {parameter.plain for parameter in ranked if not parameter.secondary}
    return [
        parameter._replace(secondary=False)
        if parameter.secondary and parameter.plain not in primary
        else parameter
        for parameter in ranked
    ]


def name_all(found: list[Parameter]) -> list[Parameter]:
    """The parameters with unique names."""
    by_plain: dict[str, list[Parameter]] = {}
    for parameter in found:
        by_plain.setdefault(parameter.plain, []).append(parameter)
    wanted: dict[tuple[str, str], str] = {}
    for plain, members in by_plain.items():
        leaders = [member for member in members if not member.secondary]
        if len(leaders) == 1:
            wanted[leaders[0].node_id, leaders[0].input] = plain
            rest = [member for member in members if member.secondary]
        else:
            rest = members
        wanted.update(_suffixed(plain, rest))
    taken: dict[str, int] = {}
    for name in wanted.values():
        taken[name] = taken.get(name, 0) + 1
    return [
        parameter._replace(
            name=_unless_taken(wanted[parameter.node_id, parameter.input], parameter, taken, by_plain),
        )
        for parameter in found
    ]


def _unless_taken(
    name: str, parameter: Parameter, taken: Mapping[str, int], plains: Mapping[str, Any]
) -> str:
    clash = taken[name] > 1 or (name in plains and name != parameter.plain)
    return parameter.address if clash else name


def _suffixed(plain: str, members: list[Parameter]) -> dict[tuple[str, str], str]:
    nodes_by_slug: dict[str, set[str]] = {}
    fields: dict[str, int] = {}
    for member in members:
        nodes_by_slug.setdefault(slug(member.title), set()).add(member.node_id)
        fields[member.node_id] = fields.get(member.node_id, 0) + 1
    names = {}
    for member in members:
        own = slug(member.title)
        is_unique = own and len(nodes_by_slug[own]) == 1
        suffix = own if is_unique else slug(member.node_id)
        if fields[member.node_id] > 1:
            suffix = slug(member.input) if len(fields) == 1 else f"{suffix}_{slug(member.input)}"
        names[member.node_id, member.input] = f"{plain}_{suffix}"
    return names


def group_all(named: list[Parameter]) -> dict[str, Group]:
    by_plain: dict[str, list[Parameter]] = {}
    for parameter in named:
        by_plain.setdefault(parameter.plain, []).append(parameter)
    groups = {}
    for plain, members in by_plain.items():
        leaders = [member for member in members if not member.secondary] or members
        sets_all, why = _safe_together(leaders)
        groups[plain] = Group(plain, tuple(leaders), sets_all, why)
    return groups


def _safe_together(members: list[Parameter]) -> tuple[bool, str]:
    if len(members) == 1:
        return True, "the only one"
    roles = {member.role for member in members}
    if roles == {"seed"}:
        return True, "all seeds are set together"
    if roles in ({POSITIVE}, {NEGATIVE}):
        if any(member.pieces for member in members):
            return False, "the texts are joined into one, so setting all would repeat the words"
        return True, "all texts of this role are set together"
    return False, "they may be meant to differ"


class Parameter(NamedTuple):
    """One input that can be set.

    name: unique in its set. plain: the name that it shares with others of the same meaning. type: INT, FLOAT,
    NUMBER (a number whose kind is not known), STRING, BOOLEAN, COMBO, LIST, OBJECT or the definition's word.
    named_by: "tracing", "use" (what its value feeds), "input" or "catalog". typed_by: "definition", "catalog"
    or "value". spec: the declared input, or None. pieces: one of several texts that are joined into one. also: a
    second role of the same text. feeds: for files, the descriptive inputs that they reach (start_image, mask, ...). linked:
    the value is a link (only of parameters that were asked for by address).
    """

    name: str
    plain: str
    node_id: str
    input: str
    title: str
    class_type: str
    type: str
    value: object
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
        """The parameter in a message: its name and its address."""
        return f"{safe_text.name(self.name)} ({safe_text.name(self.address)})"

    def to_json(self, choices_of: str | None = None, *, every: bool = False) -> Document:
        """The parameter as JSON; lists of choices are capped, and left out where `choices_of` has the same ones.

        every: no list is capped.

        What repeats is left out: node id and input are the address `set`, a title that equals the class type is
        omitted, and so are types that come from a definition and names that are the input's own.
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
            document |= describe.added_inputs(self.spec, full=every, tooltips=False)
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
    """All parameters of one plain name. sets_all: the plain name sets every member; otherwise it is ambiguous."""

    plain: str
    members: tuple[Parameter, ...]
    sets_all: bool
    why: str

    def to_json(self) -> Document:
        return {
            "members": [member.name for member in self.members],
            "sets_all": self.sets_all,
            "why": self.why,
        }


def read_parameter(node_id: str, node: Node, name: str, raw: object, spec: InputSpec | None) -> Parameter:
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


def _type(name: str, value: object, spec: InputSpec | None) -> tuple[str, str]:
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


class ParameterSet:
    """The parameters of one graph, in node order, and the names that find them."""

    def __init__(
        self, graph: Graph, book: Book, parameters: list[Parameter], groups: dict[str, Group], source: str
    ) -> None:
        self.graph = graph
        self.book = book
        self.parameters = parameters
        self.groups = groups
        self.source = source
        self._by_name: dict[str, Parameter] = {}
        self._by_address: dict[tuple[str, str], Parameter] = {}
        self._by_input: dict[str, list[Parameter]] = {}
        self._by_title: dict[str, list[str]] = {}
        for parameter in self.parameters:
            self._by_name[parameter.name] = parameter
            self._by_address[parameter.node_id, parameter.input] = parameter
            self._by_input.setdefault(parameter.input, []).append(parameter)
        for node_id, node in each(self.graph):
            for title in {title_of(node), class_of(node)}:
                self._by_title.setdefault(title.casefold(), []).append(node_id)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def at(self, node_id: str, name: str) -> Parameter | None:
        """The parameter in this place, or None."""
        return self._by_address.get((node_id, name))

    def names(self) -> list[str]:
        """Every name that `--set` takes besides addresses."""
        return sorted({*self._by_name, *(plain for plain, group in self.groups.items() if group.sets_all)})

    def named(self) -> list[Parameter]:
        """The parameters whose meaning is known (prompts, seeds, sizes, models, files, ...)."""
        return [parameter for parameter in self.parameters if parameter.role]

    def resolve(self, key: str) -> list[Parameter]:
        """The parameters that a name or an address means; one, or all of a group that is safe to set together.

        A linked input resolves too (its value is the link); the caller decides about replacing it.

        Raises:
            SkillError: exit 2; code "unknown_parameter" with the nearest names, or "ambiguous_parameter".
        """
        key = key.strip()
        for look in (self._named, self._addressed, self._titled, self._plain_input, self._unset_input):
            found = look(key)
            if found:
                return found
        fed = [parameter for parameter in self.parameters if key in parameter.feeds]
        if len(fed) == 1:
            return fed
        alias = catalog.ALIASES.get(key)
        if alias and alias != key and (alias in self._by_name or alias in self.groups):
            return self.resolve(alias)
        raise self._unknown(key)

    def _named(self, key: str) -> list[Parameter]:
        group = self.groups.get(key)
        if group is not None:
            if group.sets_all:
                return list(group.members)
            if key not in self._by_name:
                raise _ambiguous(key, group.members, group.why)
        return [self._by_name[key]] if key in self._by_name else []

    def _addressed(self, key: str) -> list[Parameter]:
        for node_id, name in _splits(key):
            node = node_of(self.graph, node_id)
            if node is not None:
                found = self._in_node(node_id, node, name)
                if found:
                    return [found]
        return []

    def _in_node(self, node_id: str, node: Node, name: str) -> Parameter | None:
        """The parameter for an input that the node has or declares."""
        known = self.at(node_id, name)
        if known is not None:
            return known
        inputs = inputs_of(node)
        spec = self.book.spec(node, name)
        if name not in inputs and spec is None:
            return None
        return read_parameter(node_id, node, name, inputs.get(name), spec)

    def _titled(self, key: str) -> list[Parameter]:
        for title, name in _splits(key):
            ids = self._by_title.get(title.casefold(), [])
            found = []
            for node_id in ids:
                node = node_of(self.graph, node_id)
                parameter = self._in_node(node_id, node, name) if node is not None else None
                if parameter is not None:
                    found.append(parameter)
            if len(found) > 1:
                raise _ambiguous(key, found, f"{len(found)} nodes are called {safe_text.quoted(title)}")
            if found:
                return found
        return []

    def _plain_input(self, key: str) -> list[Parameter]:
        found = self._by_input.get(key, [])
        if len(found) > 1:
            plains = {parameter.plain for parameter in found}
            group = self.groups.get(next(iter(plains))) if len(plains) == 1 else None
            if group is not None and group.sets_all and len(group.members) == len(found):
                return found
            raise _ambiguous(key, found, f"{len(found)} nodes have an input {safe_text.quoted(key)}")
        return list(found)

    def _unset_input(self, key: str) -> list[Parameter]:
        """The one input of this name that a definition declares and the graph leaves out."""
        found = []
        for node_id, node in each(self.graph):
            spec = self.book.specs(node).get(key)
            if spec is not None and spec.is_widget and key not in inputs_of(node):
                found.append(read_parameter(node_id, node, key, None, spec))
        return found if len(found) == 1 else []

    def _unknown(self, key: str) -> SkillError:
        linked = self._linked_like(key)
        near = self.nearest(key)
        hint = (
            f"the nearest: {safe_text.quoted_list(near)}"
            if near
            else "extract_schema.py lists what can be set"
        )
        if linked:
            hint = linked
        return Misuse(
            f"this workflow has no parameter {safe_text.quoted(key)}",
            code="unknown_parameter",
            hint=hint,
            parameter=key,
            nearest=near,
        )

    def _linked_like(self, key: str) -> str | None:
        """Where the value comes from when the input exists, but only as a link."""
        places = []
        for node_id, node in each(self.graph):
            for name, value in inputs_of(node).items():
                if (name == key or catalog.FRIENDLY_NAMES.get(name) == key) and link_of(value):
                    places.append((node_id, name, link_of(value)))
        if not places:
            return None
        node_id, name, link = places[0]
        return (
            f"{safe_text.name(f'{node_id}.{name}')} gets its value through a link from node "
            f"{safe_text.name(link.node_id if link else '?')}: "
            "set it there, or replace the link with --force-link"
        )

    def nearest(self, key: str, count: int = 6) -> list[str]:
        """The names most like a wrong one, likeliest first."""
        addresses = [parameter.address for parameter in self.parameters] if "." in key else []
        return nearest(key, [*self.names(), *addresses], count)

    def to_json(self, limit: int | None = None, *, every: bool = False) -> Document:
        """`parameters`, at most `limit`, those with a known meaning first in node order, and `groups`.

        every: lists of choices are not capped.
        """
        # What matters comes first, so that a cap cuts the rest.
        ordered = sorted(self.parameters, key=lambda parameter: parameter.role is None)
        seen: dict[tuple[str, ...], str] = {}
        rows = []
        for parameter in ordered[:limit]:
            choices = tuple(map(repr, parameter.spec.choices or ())) if parameter.spec is not None else ()
            twin = seen.setdefault(choices, parameter.name) if len(choices) > FEW_CHOICES else parameter.name
            rows.append(parameter.to_json(None if twin == parameter.name else twin, every=every))
        return {
            "parameters": rows,
            "groups": {
                plain: group.to_json() for plain, group in self.groups.items() if len(group.members) > 1
            },
        }


def _splits(key: str) -> Iterator[tuple[str, str]]:
    """Every way to split `A.B` at a dot, the longest first part first: titles and ids may hold dots."""
    dots = [index for index, letter in enumerate(key) if letter == "."]
    for index in reversed(dots[:50]):
        if 0 < index < len(key) - 1:
            yield key[:index].strip(), key[index + 1 :].strip()


def _ambiguous(key: str, members: Sequence[Parameter], why: str) -> SkillError:
    names = [member.name for member in members]
    shown = safe_text.quoted_list(names, 8)
    return Misuse(
        f"{safe_text.quoted(key)} could mean {len(names)} parameters ({why})",
        code="ambiguous_parameter",
        hint=f"use one of: {shown}",
        parameter=key,
        candidates=names[:40],
    )


def find(graph: Graph, definitions: Definitions | Book | None = None) -> ParameterSet:
    """All parameters of a graph.

    Works without definitions (names and types then come from the catalog and from the values) and with a part
    of them; `.source` says which was used: "definitions" (all classes known), "catalog" (none) or "mixed".
    """
    book = definitions if isinstance(definitions, Book) else Book(definitions)
    prompts = prompts_of(graph, book)
    consumers = consumers_of(graph)
    uses = uses_of(graph, book, consumers)
    found = []
    for node_id, node in each(graph):
        specs = book.specs(node)
        for name, value in inputs_of(node).items():
            if name in catalog.FRONTEND_INPUTS or not is_literal(value):
                continue
            bare = read_parameter(node_id, node, name, value, specs.get(name))
            if bare.upload:
                bare = bare._replace(feeds=feeds_of(graph, book, consumers, node_id))
            found.append(_with_meaning(bare, graph, book, prompts, uses))
    found.sort(key=lambda parameter: natural_key(parameter.node_id))
    found = demote(found)
    named = name_all(found)
    return ParameterSet(graph, book, named, group_all(named), _source(graph, book))


def _source(graph: Graph, book: Book) -> str:
    known = {book.knows(class_of(node)) for _, node in each(graph)}
    if known == {True}:
        return "definitions"
    return "mixed" if True in known else "catalog"


def _with_meaning(
    bare: Parameter, graph: Graph, book: Book, prompts: Prompts, uses: Mapping[tuple[str, str], Use]
) -> Parameter:
    place = TextPlace(bare.node_id, bare.input)
    roles = prompts.roles.get(place)
    if roles:
        plain = POSITIVE if POSITIVE in roles else NEGATIVE
        also = (NEGATIVE,) if len(roles) > 1 else ()
        return bare._replace(
            plain=plain, role=plain, named_by="tracing", also=also, pieces=place in prompts.pieces
        )
    use = uses.get((bare.node_id, bare.input))
    if use is not None:
        return bare._replace(plain=use.plain, role=use.role, named_by="use", secondary=use.secondary)
    plain, role = meaning(bare)
    if role not in (None, "output") and is_metadata(graph[bare.node_id], book):
        return bare._replace(secondary=True)
    secondary = plain in SIZED and not sizes_latent(graph, bare.node_id, book)
    named_by = "catalog" if plain != bare.input else "input"
    return bare._replace(plain=plain, role=role, named_by=named_by, secondary=secondary)
