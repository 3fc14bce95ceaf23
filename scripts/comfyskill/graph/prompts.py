"""Where a graph's prompts come from: links are followed from samplers and guiders back to text. Pure.

Meaning is read from wiring: what reaches an input called `positive` is the prompt, what reaches `negative` is the
negative prompt, through whatever passes conditioning on. Every walk is iterative and visits a place once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from comfyskill.graph import catalog
from comfyskill.graph.nodes import (
    Graph,
    Link,
    Node,
    class_of,
    consumers_of,
    each,
    inputs_of,
    is_literal,
    link_of,
    literal,
    node_of,
)
from comfyskill.graph.specs import Book, InputSpec

POSITIVE, NEGATIVE = "prompt", "negative_prompt"
# A walk over string nodes longer than this is not a prompt that a person wrote.
_LONGEST_STRING_WALK = 400
_NAG = re.compile(r"(?<![A-Z])NAG(?![a-z])|NAGuidance")

# Links of these inputs lead away from text.
_NOT_TEXT_LINKS = frozenset(
    {
        "model", "clip", "vae", "image", "images", "mask", "latent", "latent_image", "samples", "pixels", "audio",
        "video", "control_net", "controlnet", "clip_vision", "clip_vision_output", "style_model", "noise", "sampler",
        "sigmas", "seed", "width", "height", "ipadapter", "lora_stack", "hooks",
    }
)  # fmt: skip


class TextPlace(NamedTuple):
    """A literal text that a prompt is made of."""

    node_id: str
    input: str


class Prompts:
    """The texts by role. `pieces`: the texts are put together into one, so setting all of them says it twice."""

    def __init__(self) -> None:
        self.roles: dict[TextPlace, set[str]] = {}
        self.pieces: set[TextPlace] = set()


def polarity(name: str) -> str | None:
    """The role that an input's or output's name announces, or None."""
    lowered = name.lower()
    if lowered.startswith("positive") or lowered in ("pos", "cond_positive"):
        return POSITIVE
    # DualCFGGuider: cond1 is the prompt, cond2 what stays without its words, as a rule the negative text.
    if lowered.startswith(("negative", "uncond")) or lowered in ("neg", "cond_negative", "cond2"):
        return NEGATIVE
    return None


def _text_role(name: str) -> str | None:
    """The role of an input that takes a prompt as text."""
    if name in catalog.NEGATIVE_INPUTS:
        return NEGATIVE
    return POSITIVE if name in catalog.PROMPT_INPUTS else None


def _is_conditioning_name(name: str) -> bool:
    lowered = name.lower()
    if lowered.endswith("_prompt"):
        return False
    return polarity(name) is not None or lowered.startswith("cond")


def prompts_of(graph: Graph, book: Book) -> Prompts:
    """Every text that samplers, guiders and other ends of conditioning use, with its role or roles."""
    return _Tracer(graph, book).run()


class _Tracer:
    def __init__(self, graph: Graph, book: Book) -> None:
        self.graph = graph
        self.book = book
        self.prompts = Prompts()
        self._sources: dict[Link, list[TextPlace]] = {}
        self._feeds_conditioning = self._find_feeders()

    def _find_feeders(self) -> set[str]:
        """Ids of nodes whose output some other node takes as conditioning."""
        return {
            node_id
            for node_id, consumers in consumers_of(self.graph).items()
            if any(_is_conditioning_name(consumer.input) for consumer in consumers)
        }

    def run(self) -> Prompts:
        """The roles, surest first: what samplers and guiders name, what ends conditioning without a name for it, what
        any other input names; later ones only count for texts that have no role yet."""
        ends = [node for _, node in self._ends()]
        named = [entry for node in ends for entry in self._entries(node, named=True)]
        unnamed = [entry for node in ends for entry in self._entries(node, named=False)]
        self._walk(named, past_pictures=False)
        self._walk([*named, *unnamed], keep_roles=True)
        for _, node in each(self.graph):
            self._note_plain_texts(node)
        others = (node for node in self.graph.values() if isinstance(node, Mapping))
        self._walk((entry for node in others for entry in self._entries(node, named=True)), keep_roles=True)
        return self.prompts

    def _walk(
        self, entries: Iterable[tuple[Link, str]], *, keep_roles: bool = False, past_pictures: bool = True
    ) -> None:
        """Follow links back to texts.

        keep_roles: texts that have a role already keep it. past_pictures: also through nodes that put a picture in the
        place of the words, whose text is often the negative one.
        """
        settled = {place: set(roles) for place, roles in self.prompts.roles.items()} if keep_roles else {}
        waiting = list(entries)
        seen: set[tuple[Link, str]] = set()
        while waiting:
            link, role = waiting.pop()
            if (link, role) in seen:
                continue
            seen.add((link, role))
            if not past_pictures and self._shows_a_picture(link):
                continue
            waiting.extend((further, role) for further in self._step(link, role))
        for place, roles in settled.items():
            self.prompts.roles[place] = roles

    def _note_plain_texts(self, node: Node) -> None:
        """Nodes that take their prompt as text (partner nodes, LLMs): linked texts are followed to their source."""
        if is_metadata(node, self.book):
            return
        specs = self.book.specs(node)
        known = self.book.knows(class_of(node))
        for name, value in inputs_of(node).items():
            role = _text_role(name)
            link = link_of(value)
            spec = specs.get(name)
            if role is None or link is None or (known and (spec is None or "STRING" not in spec.types)):
                continue
            if not known and name in ("positive", "negative"):
                continue
            for place in self._behind(link):
                self.prompts.roles.setdefault(place, set()).add(role)

    def _conditioning_inputs(self, node: Node) -> list[tuple[str, Link]]:
        """The node's linked inputs that carry conditioning."""
        specs = self.book.specs(node)
        known = self.book.knows(class_of(node))
        found = []
        for name, value in inputs_of(node).items():
            link = link_of(value)
            if link is None:
                continue
            spec = specs.get(name)
            if (spec is not None and "CONDITIONING" in spec.types) or (
                (not known or spec is None or spec.takes_any) and _is_conditioning_name(name)
            ):
                found.append((name, link))
        return found

    def _ends(self) -> Iterator[tuple[str, Node]]:
        """The nodes where conditioning ends: samplers, guiders, pipes."""
        for node_id, node in each(self.graph):
            class_type = class_of(node)
            if self.book.knows(class_type):
                if not self.book.gives(class_type, "CONDITIONING"):
                    yield node_id, node
            elif node_id not in self._feeds_conditioning:
                yield node_id, node

    def _entries(self, node: Node, *, named: bool) -> Iterator[tuple[Link, str]]:
        for name, link in self._conditioning_inputs(node):
            side = polarity(name)
            # PerpNegGuider.empty_conditioning is neither prompt
            if not name.startswith("empty") and (side is not None) == named:
                yield link, side or (NEGATIVE if _guides_away(node) else POSITIVE)

    def _shows_a_picture(self, link: Link) -> bool:
        node = node_of(self.graph, link.node_id)
        return node is not None and link_of(inputs_of(node).get("clip_vision_output")) is not None

    def _step(self, link: Link, role: str) -> list[Link]:
        """The links to follow behind one link; texts found here are recorded."""
        node = node_of(self.graph, link.node_id)
        if node is None or class_of(node) in catalog.FORGETS_TEXT:
            return []
        chosen = chosen_branch(node)
        if chosen is not None:
            return [chosen] if link_of(chosen) else []
        entries = self._conditioning_inputs(node)
        if entries:
            return self._through(node, link, entries, role)
        texts = self._texts(node, link.node_id)
        if texts:
            sides = {_text_role(place.input) for place in texts}
            for place in texts:
                # A loader with fields for both prompts shows the role by its fields, not by its outputs.
                own = _text_role(place.input) if {POSITIVE, NEGATIVE} <= sides else None
                self.prompts.roles.setdefault(place, set()).add(own or role)
            return []
        return [further for _, further in _open_links(node, self.book)]

    def _through(self, node: Node, link: Link, entries: list[tuple[str, Link]], role: str) -> list[Link]:
        """The inputs behind one output of a node that passes conditioning on."""
        sides = {polarity(name) for name, _ in entries}
        if not {POSITIVE, NEGATIVE} <= sides:
            return [further for _, further in entries]
        name = self.book.output_name(class_of(node), link.slot)
        side = polarity(name) if name else None
        if name is None and not _is_bundle(node):
            side = {0: POSITIVE, 1: NEGATIVE}.get(link.slot)
        side = side or role  # a bundle of many outputs passes each side on unchanged
        return [further for name, further in entries if polarity(name) in (side, None)]

    def _texts(self, node: Node, node_id: str) -> list[TextPlace]:
        """The literal texts behind an encoder's text inputs."""
        found: list[TextPlace] = []
        for name in encoder_texts(node, self.book):
            value = inputs_of(node)[name]
            link = link_of(value)
            if link is None:
                found.append(TextPlace(node_id, name))
            else:
                found += self._behind(link)
        return found

    def _behind(self, link: Link) -> list[TextPlace]:
        if link not in self._sources:
            places = string_sources(self.graph, self.book, link)
            if len(places) > 1:
                self.prompts.pieces.update(places)
            self._sources[link] = places
        return self._sources[link]


def _guides_away(node: Node) -> bool:
    """Whether a node takes what must not appear as plain conditioning: normalized attention guidance."""
    return bool(_NAG.search(class_of(node)))


def is_metadata(node: Node, book: Book) -> bool:
    """Whether a node only writes prompts into a picture's metadata: it saves pictures or gathers such data."""
    names = {*inputs_of(node), *book.specs(node)}
    described = len(
        names & {"modelname", "sampler_name", "scheduler_name", "seed_value", "clip_skip", "steps"}
    )
    return described > 2 and not names & {"model", "latent_image", "latent", "samples", "clip", "pipe_line"}


def _is_bundle(node: Node) -> bool:
    """Whether a node takes model and prompts together, as context and pipe nodes do: its slots do not show which is which."""
    return "model" in inputs_of(node) and "clip" in inputs_of(node)


def chosen_branch(node: Node) -> Link | None:
    """The link that a switch with a literal choice lets through; None for other nodes or an open choice."""
    switch = catalog.SWITCHES.get(class_of(node))
    if switch is None:
        return None
    selector, branches = switch
    inputs = inputs_of(node)
    choice = literal(inputs.get(selector))
    if not isinstance(choice, bool):
        return None
    return link_of(inputs.get(branches[choice]))


def _open_links(node: Node, book: Book) -> list[tuple[str, Link]]:
    """The links to follow through a node that says nothing itself (reroutes, switches, unknown classes)."""
    specs = book.specs(node)
    known = book.knows(class_of(node))
    found = []
    for name, value in inputs_of(node).items():
        link = link_of(value)
        if link is None or name in _NOT_TEXT_LINKS:
            continue
        spec = specs.get(name)
        if not known or spec is None or spec.takes_any or class_of(node) in catalog.PASS_THROUGH:
            found.append((name, link))
    return found


def _is_text(name: str, value: object, spec: InputSpec | None, known: bool) -> bool:
    if name in catalog.NOT_A_PROMPT:
        return False
    if spec is not None:
        return "STRING" in spec.types
    if known:
        return False
    return name in catalog.ENCODER_TEXTS and (link_of(value) is not None or isinstance(literal(value), str))


def encoder_texts(node: Node, book: Book) -> list[str]:
    """The names of an encoder's prompt fields: literal or linked, several for encoders such as SDXL's."""
    specs = book.specs(node)
    known = book.knows(class_of(node))
    inputs = inputs_of(node)
    texts = [name for name, value in inputs.items() if _is_text(name, value, specs.get(name), known)]
    named = [name for name in texts if name in catalog.ENCODER_TEXTS or _is_long(specs.get(name))]
    if named:
        return named
    if texts or known:
        return texts
    return [
        name
        for name, value in inputs.items()
        if name not in catalog.NOT_A_PROMPT
        and isinstance(literal(value), str)
        and any(word in name.lower() for word in ("prompt", "text", "caption"))
    ]


def _is_long(spec: InputSpec | None) -> bool:
    return spec is not None and bool(spec.options.get("multiline") or spec.options.get("dynamicPrompts"))


def string_sources(graph: Graph, book: Book, start: Link) -> list[TextPlace]:
    """The literal texts that a string link is made of.

    Texts in nodes that take no further string (primitives, "value" nodes) count before literals that are
    joined to them on the way; empty texts count only when there is nothing else.
    """
    at_ends: list[TextPlace] = []
    on_the_way: list[TextPlace] = []
    empty: list[TextPlace] = []
    templates: set[str] = set()
    waiting, seen = [start], {start.node_id}
    while waiting and len(seen) <= _LONGEST_STRING_WALK:
        link = waiting.pop(0)
        node = node_of(graph, link.node_id)
        if node is None:
            continue
        chosen = chosen_branch(node)
        texts, links = _string_inputs(node, book)
        if chosen is not None:
            texts, links = [], [chosen]
        templates.update(_template(node))
        for name in texts:
            place = TextPlace(link.node_id, name)
            if not literal(inputs_of(node)[name]):
                empty.append(place)
            else:
                (on_the_way if links else at_ends).append(place)
        fresh = [further for further in links if further.node_id not in seen]
        seen.update(further.node_id for further in fresh)
        waiting.extend(fresh)
    filled_in = [place for place in at_ends if place.node_id not in templates]
    return filled_in or at_ends or on_the_way or empty[:1]


def _template(node: Node) -> set[str]:
    """The id of the node whose text is a template, when another text is put into it through a link."""
    inputs = inputs_of(node)
    into, put = link_of(inputs.get("string")), link_of(inputs.get("replace"))
    return {into.node_id} if into is not None and put is not None else set()


def _string_inputs(node: Node, book: Book) -> tuple[list[str], list[Link]]:
    """A string node's literal texts and the links that bring further text."""
    specs = book.specs(node)
    known = book.knows(class_of(node))
    texts: list[str] = []
    links: list[Link] = []
    for name, value in inputs_of(node).items():
        spec = specs.get(name)
        link = link_of(value)
        if name in catalog.NOT_A_PROMPT and not (link is not None and name == "replace"):
            continue
        if link is not None:
            wanted = spec is None or spec.takes_any or "STRING" in spec.types
            if wanted and name not in _NOT_TEXT_LINKS:
                links.append(link)
        elif is_literal(value) and isinstance(literal(value), str):
            if (spec is not None and "STRING" in spec.types) or (spec is None and not known):
                texts.append(name)
    main = [
        name
        for name in texts
        if name in catalog.ENCODER_TEXTS or name == "value" or _is_long(specs.get(name))
    ]
    return main or texts, links
