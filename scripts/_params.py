"""What a graph lets a person change: every settable input, named by what it means. Pure.

Naming has two steps. A parameter first wants a plain name (`prompt`, `seed`, `width`, ...): from tracing, from
what its value feeds, or from the input's own name. Where several want one name, each gets a suffix made of its
node's title, or of its node id where titles do not tell them apart, so that no parameter depends on the order
in which nodes are listed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import _catalog
from _cli import Exit, SkillError
from _nodes import (
    Definitions,
    Graph,
    Link,
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
from _specs import WIDGET_TYPES, Book, InputSpec
from _trace import NEGATIVE, POSITIVE, Prompts, TextPlace, chosen_branch, prompts_of

MOST_CHOICES = 40
_UNLISTED_INPUTS = frozenset({"control_after_generate", "control_before_generate", "upload"})


@dataclass(frozen=True)
class Parameter:
    """One input that can be set.

    name: unique in its set. plain: the name that it shares with others of the same meaning. type: INT, FLOAT,
    NUMBER (a number whose kind is not known), STRING, BOOLEAN, COMBO, LIST, OBJECT or the definition's word.
    named_by: "tracing", "use" (what its value feeds), "input" or "catalog". typed_by: "definition", "catalog"
    or "value". spec: the declared input, or None. pieces: one of several texts that are joined into one.
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

    @property
    def address(self) -> str:
        """NODE.INPUT, which always works."""
        return f"{self.node_id}.{self.input}"

    def to_json(self) -> dict[str, Any]:
        """The parameter as JSON; lists of choices are capped."""
        document: dict[str, Any] = {
            "name": self.name,
            "set": self.address,
            "node_id": self.node_id,
            "input": self.input,
            "title": self.title,
            "class_type": self.class_type,
            "type": self.type,
            "value": self.value,
            "named_by": self.named_by,
            "typed_by": self.typed_by,
        }
        if self.role:
            document["role"] = self.role
        if self.also:
            document["also"] = list(self.also)
        if self.upload:
            document["takes_upload"] = self.upload
        if self.spec is not None:
            document |= _limits(self.spec)
        return document


def _limits(spec: InputSpec) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for option in ("default", "min", "max", "step"):
        if option in spec.options and is_literal(spec.options[option]):
            document[option] = spec.options[option]
    if spec.options.get("multiline"):
        document["multiline"] = True
    if not spec.required:
        document["optional"] = True
    if spec.choices is not None:
        shown = list(spec.choices[:MOST_CHOICES])
        document["choices"] = {"count": len(spec.choices), "items": shown}
        if len(spec.choices) > MOST_CHOICES:
            document["choices"]["more"] = len(spec.choices) - MOST_CHOICES
    return document


@dataclass(frozen=True)
class Group:
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


@dataclass
class ParameterSet:
    """The parameters of one graph, in node order, and the names that find them."""

    graph: Graph
    book: Book
    parameters: list[Parameter]
    groups: dict[str, Group]
    source: str
    _by_name: dict[str, Parameter] = field(default_factory=dict)
    _by_address: dict[tuple[str, str], Parameter] = field(default_factory=dict)
    _by_input: dict[str, list[Parameter]] = field(default_factory=dict)
    _by_title: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
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
        for found in (self._named(key), self._addressed(key), self._titled(key), self._plain_input(key)):
            if found:
                return found
        alias = _catalog.ALIASES.get(key)
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

    def _in_node(self, node_id: str, node: Mapping[str, Any], name: str) -> Parameter | None:
        """The parameter for an input that the node has or declares."""
        known = self.at(node_id, name)
        if known is not None:
            return known
        inputs = inputs_of(node)
        spec = self.book.specs(node).get(name)
        if name not in inputs and spec is None:
            return None
        return _parameter(node_id, node, name, inputs.get(name), spec)

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
                raise _ambiguous(key, found, f"{len(found)} nodes are called {title!r}")
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
            raise _ambiguous(key, found, f"{len(found)} nodes have an input {key!r}")
        return list(found)

    def _unknown(self, key: str) -> SkillError:
        linked = self._linked_like(key)
        near = self.nearest(key)
        hint = f"the nearest: {', '.join(near)}" if near else "extract_schema.py lists what can be set"
        if linked:
            hint = linked
        return SkillError(
            f"this workflow has no parameter {key!r}",
            code="unknown_parameter",
            exit=Exit.MISUSE,
            hint=hint,
            parameter=key,
            nearest=near,
        )

    def _linked_like(self, key: str) -> str | None:
        """Where the value comes from when the wanted input exists, but only linked."""
        places = []
        for node_id, node in each(self.graph):
            for name, value in inputs_of(node).items():
                if (name == key or _catalog.FRIENDLY_NAMES.get(name) == key) and link_of(value):
                    places.append((node_id, name, link_of(value)))
        if not places:
            return None
        node_id, name, link = places[0]
        return (
            f"{node_id}.{name} gets its value through a link from node {link.node_id if link else '?'}: "
            "set it there, or replace the link with --force-link"
        )

    def nearest(self, key: str, count: int = 6) -> list[str]:
        """The names most like a wrong one, likeliest first."""
        return nearest(key, [*self.names(), *(parameter.address for parameter in self.parameters)], count)

    def to_json(self, *, all_inputs: bool = True) -> dict[str, Any]:
        """`parameters` (those with a known meaning first in node order), `groups`, and what the names rest on."""
        listed = self.parameters if all_inputs else self.named()
        return {
            "definitions": self.source,
            "parameters": [parameter.to_json() for parameter in listed],
            "groups": {
                plain: group.to_json() for plain, group in self.groups.items() if len(group.members) > 1
            },
        }


def nearest(word: str, among: Iterable[str], count: int = 6) -> list[str]:
    """The members of `among` that are most like `word`, likeliest first."""
    lowered = word.casefold()
    # Comparing with thousands of names costs seconds; those that share a beginning or a part come first.
    pool = list(dict.fromkeys(among))
    if len(pool) > 2000:
        pool = [name for name in pool if lowered[:3] in name.casefold()][:2000]
    scored = []
    for name in pool:
        other = name.casefold()
        ratio = difflib.SequenceMatcher(None, lowered, other).ratio()
        if lowered in other or other in lowered:
            ratio = max(ratio, 0.75)
        if ratio >= 0.5:
            scored.append((-ratio, name))
    return [name for _, name in sorted(scored)[:count]]


def _splits(key: str) -> Iterator[tuple[str, str]]:
    """Every way to part `A.B` at a dot, the longest first part first: titles and ids may hold dots."""
    dots = [index for index, letter in enumerate(key) if letter == "."]
    for index in reversed(dots[:50]):
        if 0 < index < len(key) - 1:
            yield key[:index].strip(), key[index + 1 :].strip()


def _ambiguous(key: str, members: Sequence[Parameter], why: str) -> SkillError:
    names = [member.name for member in members]
    shown = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    return SkillError(
        f"{key!r} could mean {len(names)} parameters ({why})",
        code="ambiguous_parameter",
        exit=Exit.MISUSE,
        hint=f"say which: {shown}",
        parameter=key,
        candidates=names[:40],
    )


# ---- finding -----------------------------------------------------------------------------------------


def find(graph: Graph, definitions: Definitions | None = None) -> ParameterSet:
    """All parameters of a graph.

    Works without definitions (names and types then come from the catalog and from the values) and with a part
    of them; `.source` says which was used: "server" (all classes known), "catalog" (none) or "mixed".
    """
    book = Book(definitions)
    prompts = prompts_of(graph, book)
    uses = _uses(graph, book)
    found = []
    for node_id, node in each(graph):
        specs = book.specs(node)
        for name, value in inputs_of(node).items():
            if name in _UNLISTED_INPUTS or not is_literal(value):
                continue
            bare = _parameter(node_id, node, name, value, specs.get(name))
            found.append(_with_meaning(bare, graph, book, prompts, uses))
    found.sort(key=lambda parameter: natural_key(parameter.node_id))
    found = _demote(found)
    named = _name(found)
    return ParameterSet(graph, book, named, _groups(named), _source(graph, book))


def _source(graph: Graph, book: Book) -> str:
    known = {book.knows(class_of(node)) for _, node in each(graph)}
    if known == {True}:
        return "server"
    return "mixed" if True in known else "catalog"


def _parameter(
    node_id: str, node: Mapping[str, Any], name: str, raw: Any, spec: InputSpec | None
) -> Parameter:
    value = literal(raw) if is_literal(raw) else raw
    kind, typed_by = _type(name, value, spec)
    class_type = class_of(node)
    upload = spec.upload if spec is not None else None
    upload = upload or _catalog.UPLOADS.get((class_type, name))
    if upload == "image" and _catalog.UPLOADS.get((class_type, name)) == "mask":
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
    )


def _type(name: str, value: Any, spec: InputSpec | None) -> tuple[str, str]:
    if spec is not None:
        kind = "COMBO" if spec.type.startswith("COMFY_DYNAMICCOMBO") else spec.type
        return kind, "definition"
    if name in _catalog.INPUT_TYPES and not isinstance(value, dict | list | bool):
        return _catalog.INPUT_TYPES[name], "catalog"
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


def _with_meaning(
    bare: Parameter, graph: Graph, book: Book, prompts: Prompts, uses: Mapping[tuple[str, str], _Use]
) -> Parameter:
    place = TextPlace(bare.node_id, bare.input)
    roles = prompts.roles.get(place)
    if roles:
        plain = POSITIVE if POSITIVE in roles else NEGATIVE
        also = (NEGATIVE,) if len(roles) > 1 else ()
        return replace(
            bare, plain=plain, role=plain, named_by="tracing", also=also, pieces=place in prompts.pieces
        )
    use = uses.get((bare.node_id, bare.input))
    if use is not None:
        return replace(bare, plain=use.plain, role=use.role, named_by="use", secondary=use.secondary)
    plain, role = _meaning(bare, book)
    secondary = plain in _SIZED and not _sizes_latent(graph, bare.node_id, book)
    named_by = "catalog" if plain != bare.input else "input"
    return replace(bare, plain=plain, role=role, named_by=named_by, secondary=secondary)


_SIZED = frozenset({"width", "height", "length", "batch_size"})


def _meaning(parameter: Parameter, book: Book) -> tuple[str, str | None]:
    """The plain name and role of an input, from its own name, class and type."""
    name = parameter.input
    if parameter.upload:
        kind = parameter.upload
        plain = kind if kind != "file" else name
        return plain, _catalog.ROLES.get(plain, "file")
    if parameter.type == "STRING" and isinstance(parameter.value, str):
        if name in _catalog.NEGATIVE_INPUTS:
            return NEGATIVE, NEGATIVE
        if name in _catalog.PROMPT_INPUTS:
            return POSITIVE, POSITIVE
    if name in _catalog.SEED_INPUTS and parameter.type in ("INT", "NUMBER"):
        return "seed", "seed"
    folder = _catalog.MODEL_FOLDERS_BY_CLASS.get((parameter.class_type, name)) or _catalog.MODEL_FOLDERS.get(
        name
    )
    if folder and isinstance(parameter.value, str):
        return name, "model"
    plain = _catalog.FRIENDLY_NAMES.get(name, name)
    if plain in ("prompt", "negative_prompt") and parameter.type != "STRING":
        plain = name
    if plain in _catalog.SEED_NAMES and parameter.type not in ("INT", "NUMBER"):
        plain = name
    del book
    role = _catalog.ROLES.get(plain)
    if role in ("image", "mask", "video_file", "audio_file", "prompt", "negative_prompt", "seed"):
        role = None
    return plain, role


def _sizes_latent(graph: Graph, node_id: str, book: Book) -> bool:
    """Whether a node makes the latent that is sampled, so that its width is the picture's."""
    node = node_of(graph, node_id)
    if node is None:
        return False
    inputs = inputs_of(node)
    takes_pictures = any(
        link_of(inputs.get(name)) for name in ("samples", "latent", "image", "images", "pixels")
    )
    takes_prompts = any(link_of(inputs.get(name)) for name in ("positive", "negative"))
    # WanImageToVideo and its kin take pictures and still make the latent; scalers do not.
    if takes_pictures and not takes_prompts:
        return False
    class_type = class_of(node)
    if book.knows(class_type):
        return book.gives(class_type, "LATENT") or book.flag(class_type, "api_node") is True
    lowered = class_type.lower()
    return "latent" in lowered or takes_prompts


# ---- values that come from elsewhere -----------------------------------------------------------------


@dataclass(frozen=True)
class _Use:
    """What a value node's value is used for."""

    plain: str
    role: str | None
    secondary: bool


def _uses(graph: Graph, book: Book) -> dict[tuple[str, str], _Use]:
    """For every value node (primitives, constants): the meaning of the inputs that it feeds."""
    consumers = consumers_of(graph)
    uses: dict[tuple[str, str], _Use] = {}
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


def _value_input(node: Mapping[str, Any], book: Book) -> str | None:
    """The one literal of a node that only holds a value, or None."""
    inputs = {name: value for name, value in inputs_of(node).items() if name not in _UNLISTED_INPUTS}
    if len(inputs) != 1:
        return None
    name, value = next(iter(inputs.items()))
    if not is_literal(value) or name in _catalog.SEED_INPUTS:
        return None
    class_type = class_of(node)
    if book.knows(class_type):
        outputs = book.outputs(class_type)
        plain = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "*", "NUMBER"}
        if not outputs or not all(isinstance(kind, list) or kind in plain for kind in outputs):
            return None
        return name
    if name in _catalog.VALUE_INPUTS and (class_type, name) not in _catalog.UPLOADS:
        return name
    return None


def _ends(graph: Graph, consumers: Mapping[str, list[Any]], start: str) -> list[tuple[str, str]]:
    """The inputs that a value reaches, reroutes and switches passed through."""
    found: list[tuple[str, str]] = []
    waiting, seen = [start], {start}
    while waiting and len(found) < 40:
        for consumer in consumers.get(waiting.pop(), ())[:40]:
            node = node_of(graph, consumer.node_id)
            if node is None:
                continue
            passes = class_of(node) in _catalog.PASS_THROUGH or class_of(node) in _catalog.SWITCHES
            if passes and consumer.node_id in consumers:
                chosen = chosen_branch(node)
                own = link_of(inputs_of(node).get(consumer.input))
                if consumer.node_id not in seen and (chosen is None or chosen == own):
                    seen.add(consumer.node_id)
                    waiting.append(consumer.node_id)
            else:
                found.append((consumer.node_id, consumer.input))
    return found


def _meaning_at(graph: Graph, book: Book, node_id: str, name: str) -> _Use:
    node = graph[node_id]
    spec = book.specs(node).get(name)
    stand_in = _parameter(node_id, node, name, _example(spec), spec)
    plain, role = _meaning(stand_in, book)
    secondary = plain in _SIZED and not _sizes_latent(graph, node_id, book)
    return _Use(plain, role, secondary)


def _example(spec: InputSpec | None) -> Any:
    """A value of the input's type, for judging what the input means."""
    return {"STRING": "", "FLOAT": 0.0, "BOOLEAN": False, "COMBO": ""}.get(spec.type, 0) if spec else 0


def _agreed(meanings: list[_Use], node: Mapping[str, Any]) -> _Use | None:
    """One meaning for all uses: the only one that has a role, or the node's own title."""
    if not meanings:
        return None
    telling = [use for use in meanings if use.role] or meanings
    plains = {use.plain for use in telling}
    secondary = all(use.secondary for use in telling)
    if len(plains) == 1:
        plain = telling[0].plain
        if telling[0].role is None and given_title(node) and plain in _catalog.MEANINGLESS:
            plain = slug(title_of(node)) or plain
        return _Use(plain, telling[0].role, secondary)
    title = given_title(node)
    own = slug(title) if title and title != class_of(node) else ""
    return _Use(own or "_".join(sorted(plains)[:3]), telling[0].role, secondary=False)


# ---- naming ------------------------------------------------------------------------------------------


def slug(text: str, longest: int = 40) -> str:
    """A title as a part of a name: lower case, letters and digits, joined by underscores."""
    words = re.sub(r"[^\w]+", "_", text.casefold(), flags=re.UNICODE).strip("_")
    return re.sub(r"__+", "_", words)[:longest].strip("_")


def _demote(found: list[Parameter]) -> list[Parameter]:
    """A size is secondary only beside a primary one: a lone `width` of a scaler is `width`."""
    primary = {parameter.plain for parameter in found if not parameter.secondary}
    return [
        replace(parameter, secondary=False)
        if parameter.secondary and parameter.plain not in primary
        else parameter
        for parameter in found
    ]


def _name(found: list[Parameter]) -> list[Parameter]:
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
        replace(
            parameter,
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
        told_apart = own and len(nodes_by_slug[own]) == 1
        suffix = own if told_apart else slug(member.node_id)
        if fields[member.node_id] > 1:
            suffix = slug(member.input) if len(fields) == 1 else f"{suffix}_{slug(member.input)}"
        names[member.node_id, member.input] = f"{plain}_{suffix}"
    return names


def _groups(named: list[Parameter]) -> dict[str, Group]:
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


__all__ = [
    "Group", "MOST_CHOICES", "Parameter", "ParameterSet", "WIDGET_TYPES", "find", "nearest", "slug", "Link",
]  # fmt: skip
