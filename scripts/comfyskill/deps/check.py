"""Compares what a workflow needs with what a server has: each thing is present, missing or unknown.

A refusal, a time-out and an unknown folder are reported as unknown, never as missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from comfyskill.base import safe_text
from comfyskill.deps import catalog
from comfyskill.deps import names as deps_names
from comfyskill.deps import origin as deps_origin
from comfyskill.deps import packs as deps_packs
from comfyskill.deps.names import Match
from comfyskill.deps.need import (
    CORE_ONLY,
    SERVER_PATH,
    FileNeed,
    ModelNeed,
    Tag,
    Use,
    ValueNeed,
    classes_of,
    needs_of,
    tags_in,
)
from comfyskill.deps.origin import Origin
from comfyskill.deps.stock import ASSET, EMPTY, LISTED, NO_FOLDER, Listing, Stock
from comfyskill.graph.nodes import Definitions, Graph, inputs_of
from comfyskill.graph.replacements import Renamed, new_class

PRESENT, MISSING, UNKNOWN = "present", "missing", "unknown"
KINDS = ("node", "model", "embedding", "file", "value")
# Kinds of which `--set` can give another name.
RENAMED = ("model", "value", "file")


class Item(NamedTuple):
    """One thing that a workflow needs, and whether the server has it.

    match: the listed name that is meant, if it is written differently. origin, pack: where to get it. replaced_by: the
    class that the server has in the place of a missing one.
    """

    kind: str
    name: str
    status: str
    reason: str = ""
    uses: tuple[Use, ...] = ()
    node_ids: tuple[str, ...] = ()
    folder: str | None = None
    match: Match | None = None
    similar: tuple[str, ...] = ()
    origin: Origin | None = None
    pack: deps_packs.Pack | None = None
    installed_but_absent: bool = False
    replaced_by: str | None = None

    @property
    def fixed_by_name(self) -> bool:
        """Whether using the server's name is the only fix needed."""
        return self.match is not None and self.match.sure

    @property
    def renamable(self) -> bool:
        """Whether `--set` with the server's name is the only fix needed."""
        return self.kind in RENAMED and self.fixed_by_name

    @property
    def settings(self) -> list[str]:
        """The --set words that use the matching name of the server."""
        name = self.match.name if self.match is not None and self.kind in RENAMED else None
        places = [use.address for use in self.uses if use.plain and name is not None]
        return [word for address in places for word in ("--set", f"{address}={name}")]

    @property
    def target(self) -> tuple[str, str] | None:
        """(model folder with sub-folders, file name) under which a missing model or embedding is stored, when known."""
        if self.kind == "embedding" and self.origin is not None:
            return "embeddings", self.origin.name
        folder = self.folder or (self.origin.folder if self.origin else None)
        if self.kind != "model" or not folder:
            return None
        inside, _, filename = self.name.replace("\\", "/").rpartition("/")
        path = catalog.folder_path(folder)
        return (f"{path}/{inside}" if inside else path), filename


class Unread(NamedTuple):
    """A <lora:…> tag that no node is known to read. lora: the server's file that is meant, when it has one."""

    tag: Tag
    lora: str | None


class Check(NamedTuple):
    """The answer for one workflow. renamed: nodes whose class the server has replaced by another."""

    items: tuple[Item, ...]
    idle: tuple[str, ...] = ()
    loose: tuple[tuple[str, Use], ...] = ()
    not_asked: tuple[str, ...] = ()
    unread: tuple[Unread, ...] = ()
    renamed: tuple[Renamed, ...] = ()

    def of(self, status: str) -> list[Item]:
        """The items with this status."""
        return [item for item in self.items if item.status == status]


def check(graph: Graph, stock: Stock) -> Check:
    """Every need of the graph with its status on this server; `locate` adds where to get what is missing.

    What counts is the graph that the server will run: classes that it has replaced go by their new names.
    """
    run, renamed = stock.replaced(graph)
    definitions = stock.definitions(classes_of(run))
    needs = needs_of(run, definitions)
    items = [_node(name, ids, definitions, stock) for name, ids in needs.classes.items()]
    items += [_model(need, definitions, stock) for need in needs.models]
    items += [_embedding(name, uses, stock) for name, uses in needs.embeddings.items()]
    items += [_glued(name, written, use, stock) for name, written, use in needs.glued]
    items += [_file(need, stock) for need in needs.files]
    items += [_value(need) for need in needs.values]
    tags = [tag for tag in tags_in(run, definitions) if tag.use.node_id not in needs.idle]
    items += [_tagged(tag, stock) for tag in tags if tag.reader]
    unread = [_unread(tag, stock) for tag in tags if not tag.reader]
    if renamed:
        items = [
            item._replace(uses=tuple(_as_written(use, graph, run) for use in item.uses)) for item in items
        ]
    return Check(tuple(items), needs.idle, needs.loose, unread=tuple(unread), renamed=tuple(renamed))


def _as_written(use: Use, written: Graph, run: Graph) -> Use:
    """The place under the input name that the workflow has, which `--set` and --repair need."""
    old, new = inputs_of(written[use.node_id]), inputs_of(run[use.node_id])
    if use.input in old or use.input not in new:
        return use
    same = [name for name, value in old.items() if name not in new and value == new[use.input]]
    return use._replace(input=same[0]) if len(same) == 1 else use._replace(plain=False)


def _node(class_type: str, node_ids: tuple[str, ...], definitions: Definitions | None, stock: Stock) -> Item:
    item = Item("node", class_type, PRESENT, node_ids=node_ids)
    if definitions is None:
        problem = stock.definitions_problem
        reason = f"node definitions could not be fetched ({problem.message if problem else 'not asked'})"
        return item._replace(status=UNKNOWN, reason=reason)
    if class_type in definitions:
        return item
    # The server renames nodes of a graph, but a node that could not be converted is not in the graph.
    new = new_class(class_type, stock.replacements())
    return item._replace(status=MISSING, reason="the server has no such node class", replaced_by=new)


def _model(need: ModelNeed, definitions: Definitions | None, stock: Stock) -> Item:
    item = Item("model", need.name, UNKNOWN, uses=need.uses, folder=need.folder)
    if need.choices is not None:
        return _among_choices(item, need.choices, stock)
    if need.folder is None:
        return _anywhere(item, stock)
    listing = stock.folder(need.folder)
    if need.name in listing.names:
        return item._replace(status=PRESENT)
    if listing.state in (LISTED, EMPTY):
        return _absent(item, listing.names, listing.sentence)
    if listing.state == NO_FOLDER and _is_evidence(listing, need, definitions):
        return item._replace(status=MISSING, reason=listing.sentence)
    return item._replace(reason=_unsaid(listing, need, definitions))


def _is_evidence(listing: Listing, need: ModelNeed, definitions: Definitions | None) -> bool:
    """Whether an unknown folder proves that the file is missing; not if a missing pack may register the folder."""
    known_pack = definitions is not None and all(use.class_type in definitions for use in need.uses)
    return listing.folder in catalog.CORE_FOLDERS or known_pack


def _unsaid(listing: Listing, need: ModelNeed, definitions: Definitions | None) -> str:
    if listing.state == NO_FOLDER and definitions is not None:
        lacking = sorted({use.class_type for use in need.uses if use.class_type not in definitions})
        return f"{listing.sentence}; it comes with the missing pack of {safe_text.quoted_list(lacking)}"
    return listing.sentence


def _among_choices(item: Item, choices: tuple[str, ...], stock: Stock) -> Item:
    """By the server's own list for this input, which is what it validates against."""
    if item.name in choices:
        return item._replace(status=PRESENT)
    folder = item.folder or stock.folder_with(choices)
    use = item.uses[0]
    where = f"the server's list for {safe_text.name(f'{use.class_type}.{use.input}')}"
    reason = f"{where} is empty" if not choices else f"{where} has no such file"
    return _absent(item._replace(folder=folder), choices, reason)


def _absent(item: Item, names: Sequence[str], reason: str, *, sure: Sequence[str] | None = None) -> Item:
    """sure: the kinds of matches that may be sure, all of them without it."""
    match = deps_names.best(item.name, names)
    if match is not None:
        match = match._replace(sure=match.sure and (sure is None or match.how in sure))
        sure = "the same file" if match.sure else "possibly what is meant"
        reason = f"{reason} under that name; {safe_text.quoted(match.name)} is there ({match.how}: {sure})"
        return item._replace(status=MISSING, reason=reason, match=match)
    return item._replace(status=MISSING, reason=reason, similar=tuple(deps_names.similar(item.name, names)))


def _anywhere(item: Item, stock: Stock) -> Item:
    """A file name in an input whose folder is unknown: always unknown, with a folder that has such a file."""
    for folder in stock.folders() or []:
        if item.name in stock.folder(folder).names:
            reason = f"a file of that name is in {safe_text.quoted(folder)}, but it is unknown whether the node looks there"
            return item._replace(reason=reason, folder=folder)
    return item._replace(reason="the folder that this input reads from is unknown, so it cannot be checked")


def _tagged(tag: Tag, stock: Stock) -> Item:
    """A LoRA that a node reads out of a text: such nodes find a file by its name without folder and suffix."""
    item = Item("model", tag.name, UNKNOWN, uses=(tag.use,), folder="loras")
    listing = stock.folder("loras")
    if _of_tag(tag.name, listing.names):
        return item._replace(status=PRESENT)
    if listing.state not in (LISTED, EMPTY):
        return item._replace(reason=listing.sentence)
    reason = f"{tag.reader} reads it from a text; {listing.sentence}"
    return item._replace(
        status=MISSING, reason=reason, similar=tuple(deps_names.similar(tag.name, listing.names))
    )


def _unread(tag: Tag, stock: Stock) -> Unread:
    return Unread(tag, _of_tag(tag.name, stock.folder("loras").names) if tag.reader == CORE_ONLY else None)


def _of_tag(name: str, names: Sequence[str]) -> str | None:
    match = deps_names.best(name, names)
    return match.name if match is not None and match.sure else None


def _embedding(name: str, uses: tuple[Use, ...], stock: Stock) -> Item:
    item = Item("embedding", name, UNKNOWN, uses=uses, folder="embeddings")
    names = stock.embeddings()
    if names is None:
        return item._replace(reason="the embeddings could not be listed")
    bare = deps_names.without_suffix(name)
    if name in names or bare in names:
        return item._replace(status=PRESENT)
    # The list has no suffixes, so that of the prompt says nothing.
    absent = _absent(item._replace(name=bare), names, "the server lists no such embedding")
    return absent._replace(name=name, reason=f"{absent.reason}; a run would ignore the word")


def _glued(name: str, written: str, use: Use, stock: Stock) -> Item:
    """An embedding that ComfyUI ignores because of how it is written, although the server may have it."""
    item = _embedding(name, (use,), stock)
    if item.status != PRESENT:
        return item
    reason = (
        f"ComfyUI does not read {safe_text.quoted(written)} as that embedding and would ignore it: "
        "the word needs blanks around it"
    )
    return item._replace(
        name=written,
        status=MISSING,
        reason=reason,
        match=Match(f"embedding:{name}", "blanks around it", True),
    )


def _file(need: FileNeed, stock: Stock) -> Item:
    item = Item("file", need.name, UNKNOWN, uses=need.uses)
    if need.choices is not None and need.name in need.choices:
        return item._replace(status=PRESENT)
    if need.kind == SERVER_PATH:
        return item._replace(reason="it is a path on the server's machine, which cannot be checked")
    there, why = stock.has_input(need.name)
    if there:
        return item._replace(status=PRESENT)
    # The list of a service does not show what its users upload.
    listed = need.choices is not None and stock.server.api == "local" and _flat(need.name)
    if there is None and not listed:
        return item._replace(reason=f"the {need.kind} could not be checked ({why})")
    kind = next((kind for kind in ("output", "temp") if need.name.endswith(f" [{kind}]")), "input")
    reason = f"the server's {kind} folder has no such {need.kind}"
    # Pictures with the same name in two folders are different: only case and slashes may differ.
    return _absent(item, need.choices or (), reason, sure=("other slashes", "other case"))


def _flat(name: str) -> bool:
    """Whether the server's list of its top input folder would show the file."""
    return "/" not in name and "\\" not in name and not name.endswith("]") and not ASSET.fullmatch(name)


def _value(need: ValueNeed) -> Item:
    use = need.uses[0]
    shown = safe_text.clean(need.value, 120)
    choices = [str(choice) for choice in need.choices]
    place = safe_text.name(f"{use.class_type}.{use.input}")
    reason = f"{safe_text.quoted(shown)} is not among the {len(choices)} values that {place} accepts on this server"
    match = deps_names.best(str(need.value), choices)
    # A value that is no file is only surely meant when case or blanks differ.
    match = match._replace(sure=match.how == "other case") if match else None
    return Item(
        "value", shown, MISSING, reason, need.uses, match=match,
        similar=tuple(deps_names.similar(str(need.value), choices)),
    )  # fmt: skip


def locate(
    checked: Check, models: deps_origin.Finder, packs: deps_packs.PackFinder, installed: Sequence[str] = ()
) -> Check:
    """The check with sources for what is missing or unknown. `installed`: ids of packs that the Manager has installed."""
    have = {name.lower() for name in installed}
    items = []
    for item in checked.items:
        if item.status == PRESENT:
            items.append(item)
        elif item.kind == "node":
            pack = packs.find(item.name)
            absent = item.status == MISSING and pack is not None and pack.id in have
            items.append(item._replace(pack=pack, installed_but_absent=absent))
        elif item.kind in ("model", "embedding") and not item.fixed_by_name:
            items.append(item._replace(origin=models.find(item.name, item.folder)))
        else:
            items.append(item)
    return checked._replace(items=tuple(items), not_asked=(*models.not_asked, *packs.not_asked))


def repaired(graph: Graph, checked: Check) -> tuple[Graph, list[dict[str, str]]]:
    """A copy of the graph with the sure replacements made, and what was replaced."""
    copy: dict[str, Any] = {
        node_id: {**node, "inputs": dict(node["inputs"])} if isinstance(node.get("inputs"), Mapping) else node
        for node_id, node in graph.items()
        if isinstance(node, Mapping)
    }
    changes = []
    for item in checked.items:
        if item.status != MISSING or not item.renamable or item.match is None:
            continue
        for use in item.uses:
            if use.plain and isinstance(copy[use.node_id]["inputs"].get(use.input), str):
                copy[use.node_id]["inputs"][use.input] = item.match.name
                changes.append({"at": use.address, "old": item.name, "new": item.match.name})
    return copy, changes
