"""What a graph lets a person change: every settable input, named by what it means. Pure.

A parameter first wants a plain name (`prompt`, `seed`, `width`, ...): from tracing, from what its value feeds, or from
the input's own name. Parameters that want the same name are told apart in `_names`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from comfyskill.base import safe_text
from comfyskill.base.cli import Exit, SkillError
from comfyskill.graph import catalog
from comfyskill.graph.meaning import SIZED, Use, feeds_of, meaning, sizes_latent, uses_of
from comfyskill.graph.names import demote, group_all, name_all, nearest
from comfyskill.graph.nodes import (
    Definitions,
    Graph,
    class_of,
    consumers_of,
    each,
    inputs_of,
    is_literal,
    link_of,
    natural_key,
    node_of,
    title_of,
)
from comfyskill.graph.parameter import Group, Parameter, read_parameter
from comfyskill.graph.prompts import NEGATIVE, POSITIVE, Prompts, TextPlace, is_metadata, prompts_of
from comfyskill.graph.specs import Book, InputSpec

# A shorter list of choices is shown again rather than referred to.
FEW_CHOICES = 3


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

    def _in_node(self, node_id: str, node: Mapping[str, Any], name: str) -> Parameter | None:
        """The parameter for an input that the node has or declares."""
        known = self.at(node_id, name)
        if known is not None:
            return known
        inputs = inputs_of(node)
        spec = self.book.specs(node).get(name)
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
        return SkillError(
            f"this workflow has no parameter {safe_text.quoted(key)}",
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

    def to_json(self, limit: int | None = None, *, every: bool = False) -> dict[str, Any]:
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
    """Every way to part `A.B` at a dot, the longest first part first: titles and ids may hold dots."""
    dots = [index for index, letter in enumerate(key) if letter == "."]
    for index in reversed(dots[:50]):
        if 0 < index < len(key) - 1:
            yield key[:index].strip(), key[index + 1 :].strip()


def _ambiguous(key: str, members: Sequence[Parameter], why: str) -> SkillError:
    names = [member.name for member in members]
    shown = safe_text.quoted_list(names, 8)
    return SkillError(
        f"{safe_text.quoted(key)} could mean {len(names)} parameters ({why})",
        code="ambiguous_parameter",
        exit=Exit.MISUSE,
        hint=f"say which: {shown}",
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


__all__ = ["Group", "InputSpec", "Parameter", "ParameterSet", "find", "nearest"]
