"""What a workflow needs: node classes, model files, embeddings, input files, values from a server's lists.

The server's own definitions come first: an input with a list of files is a model input, whatever pack it comes from.
The catalog's tables are used where no definition is available.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from comfyskill.base import file_names, foreign
from comfyskill.deps import catalog as deps_catalog
from comfyskill.graph import catalog, facts
from comfyskill.graph.nodes import (
    Consumer,
    Definitions,
    Graph,
    Node,
    class_of,
    consumers_of,
    each,
    inputs_of,
    link_of,
    literal,
    natural_key,
    title_of,
    with_missing_types,
)
from comfyskill.graph.specs import Book

_SUFFIXES = tuple(file_names.MODEL_SUFFIXES)
_EXTENSION = re.compile(r"\.[A-Za-z]\w{1,9}$")
# The option by which VideoHelperSuite and others mark a text that is a path on the server's machine.
_PATHS = "vhs_path_extensions"
# The kind of a file that no folder of the server is asked for.
SERVER_PATH = "path"
# The largest number of nodes through which a text is followed.
_FARTHEST = 12
# A tag has a name without the characters that end one, then up to a few weights.
_TAG = re.compile(r"<lora:([^<>:\r\n]{1,200})(?::([^<>\r\n]{0,80}))?>", re.IGNORECASE)
_CORE = ("nodes", "comfy_extras.")
CORE_ONLY = ""
FARTHEST = 8


class Use(NamedTuple):
    """One place of a graph that names something. plain: the input holds the name itself, so that --set can change it."""

    node_id: str
    input: str
    class_type: str
    title: str
    plain: bool = True

    @property
    def address(self) -> str:
        """What `--set` calls it: NODE.INPUT."""
        return f"{self.node_id}.{self.input}"


class ModelNeed(NamedTuple):
    """A model file. folder: None when no table has it. choices: what the server's definition lists, None without one."""

    name: str
    folder: str | None
    choices: tuple[str, ...] | None
    uses: tuple[Use, ...]


class FileNeed(NamedTuple):
    """A file that the user brings: a picture, mask, video, sound. choices: what the server lists in its top folder."""

    name: str
    kind: str
    choices: tuple[str, ...] | None
    uses: tuple[Use, ...]


class ValueNeed(NamedTuple):
    """A value that is not in the server's list for its input."""

    value: object
    choices: tuple[object, ...]
    uses: tuple[Use, ...]


class Needs(NamedTuple):
    """All that a graph needs. classes: class type -> node ids. idle: nodes that feed no output and are not checked.

    loose: file names in free text inputs, of which no definition says that the node reads them. glued: embeddings as
    (name, the word as written) that ComfyUI does not read because of how they are written.
    """

    classes: Mapping[str, tuple[str, ...]]
    models: tuple[ModelNeed, ...] = ()
    embeddings: Mapping[str, tuple[Use, ...]] = {}
    glued: tuple[tuple[str, str, Use], ...] = ()
    files: tuple[FileNeed, ...] = ()
    values: tuple[ValueNeed, ...] = ()
    idle: tuple[str, ...] = ()
    loose: tuple[tuple[str, Use], ...] = ()


def classes_of(graph: Graph) -> dict[str, tuple[str, ...]]:
    """The node classes of a graph with the ids of their nodes, also of nodes that a conversion could not make."""
    found: dict[str, list[str]] = {}
    for node_id, node in each(with_missing_types(graph)):
        if class_of(node):
            found.setdefault(class_of(node), []).append(node_id)
        # A group node of an old file that could not be unfolded: the classes missing inside of it.
        for name in foreign.items(foreign.mapping(node.get("_meta")).get("missing_types")):
            if isinstance(name, str) and name != class_of(node):
                found.setdefault(name, []).append(node_id)
    return {name: tuple(sorted(ids, key=natural_key)) for name, ids in sorted(found.items())}


def needs_of(graph: Graph, definitions: Definitions | None) -> Needs:
    """What the graph needs, read with the available definitions (None: only the tables)."""
    book = Book(definitions)
    classes = classes_of(graph)
    live = _looked_at(graph, definitions, book, classes)
    reading = _Reading(book, {(use.node_id, use.input): use for use in facts.models_in(graph)})
    for node_id, node in each(graph):
        if node_id in live:
            reading.node(node_id, node)
    idle = sorted((node_id for node_id, _ in each(graph) if node_id not in live), key=natural_key)
    consumers = consumers_of(graph)
    embeddings: dict[str, list[Use]] = {}
    glued: list[tuple[str, str, Use]] = []
    for use in facts.embeddings_in(graph):
        if use.node_id in live and _is_encoded(graph, book, consumers, use.node_id):
            place = _use(use.node_id, graph[use.node_id], use.input)
            if use.written:
                glued.append((use.name, use.written, place))
            else:
                embeddings.setdefault(use.name, []).append(place)
    return Needs(
        classes,
        tuple(ModelNeed(name, *reading.kind[key], tuple(uses)) for key, uses in reading.models.items() for name in [key[0]]),
        {name: tuple(uses) for name, uses in embeddings.items()},
        tuple(glued),
        tuple(FileNeed(key[0], key[1], reading.listed[key], tuple(uses)) for key, uses in reading.files.items()),
        tuple(reading.values),
        tuple(idle),
        tuple(reading.loose),
    )  # fmt: skip


def _looked_at(graph: Graph, definitions: Definitions | None, book: Book, classes: Iterable[str]) -> set[str]:
    """The nodes that an output draws from; all of them when an unknown class might be the output."""
    everything = {node_id for node_id, _ in each(graph)}
    if any(not book.knows(name) for name in classes):
        return everything
    return facts.live_ids(graph, definitions) or everything


def _is_encoded(graph: Graph, book: Book, consumers: Mapping[str, list[Consumer]], start: str) -> bool:
    """Whether a node's text reaches a text encoder, which alone reads embeddings; unknown classes may be one."""
    waiting, seen = [start], {start}
    for _ in range(_FARTHEST):
        following: list[str] = []
        for node_id in waiting:
            node = graph[node_id]
            if _encodes(node, book):
                return True
            if book.gives(class_of(node), "STRING") or book.gives(class_of(node), "*"):
                following += [use.node_id for use in consumers.get(node_id, ())]
        waiting = [name for name in dict.fromkeys(following) if name in graph and name not in seen]
        seen.update(waiting)
    return False


def _encodes(node: Node, book: Book) -> bool:
    class_type = class_of(node)
    if not book.knows(class_type) or book.gives(class_type, "CONDITIONING") or "Encode" in class_type:
        return True
    return any("CLIP" in spec.types for spec in book.specs(node).values())


def _use(node_id: str, node: Node, name: str) -> Use:
    return Use(node_id, name, class_of(node), title_of(node))


def _each_of(value: object) -> Sequence[object]:
    """A value that holds several, as those; else itself."""
    return value if isinstance(value, list) else [value]


class _Reading:
    """Gathers the files that nodes name, one need for a file whatever the number of its uses."""

    def __init__(self, book: Book, by_table: Mapping[tuple[str, str], facts.ModelUse]) -> None:
        self.book = book
        self.by_table = by_table
        self.models: dict[tuple[str, str | None, tuple[str, ...] | None], list[Use]] = {}
        self.kind: dict[Any, tuple[str | None, tuple[str, ...] | None]] = {}
        self.files: dict[tuple[str, str], list[Use]] = {}
        self.listed: dict[tuple[str, str], tuple[str, ...] | None] = {}
        self.values: list[ValueNeed] = []
        self.loose: list[tuple[str, Use]] = []

    def node(self, node_id: str, node: Node) -> None:
        class_type = class_of(node)
        specs = self.book.specs(node)
        for name, raw in inputs_of(node).items():
            if link_of(raw) is not None:
                continue
            value, spec = literal(raw), specs.get(name)
            use = _use(node_id, node, name)._replace(plain=not isinstance(value, (list, dict)))
            upload = (spec.upload if spec else None) or catalog.UPLOADS.get((class_type, name))
            if upload and (files := [one for one in _each_of(value) if isinstance(one, str) and one]):
                for one in files:
                    self._file(one, upload, spec.choices if spec else None, use)
            elif spec is not None and _PATHS in spec.options and isinstance(value, str):
                self._path(value, use._replace(plain=False))
            elif spec is not None and spec.choices is not None:
                for choice in _each_of(value):
                    self._choice(choice, spec.choices, use)
            elif (node_id, name) in self.by_table and not upload:
                known = self.by_table[node_id, name]
                if known.folder is None and spec is not None:
                    if "embedding:" not in known.name:
                        self.loose.append((known.name, use))
                    continue
                self._model(known.name, known.folder, None, use._replace(plain=isinstance(value, str)))

    def _path(self, value: str, use: Use) -> None:
        """A path on the server's machine: in one of its own folders it is a file of that folder."""
        folder, _, name = value.replace("\\", "/").removeprefix("./").partition("/")
        if folder in ("input", "output", "temp") and name:
            self._file(name if folder == "input" else f"{name} [{folder}]", "file", None, use)
        elif value.strip() and "://" not in value and folder not in ("input", "output", "temp"):
            self._file(value, SERVER_PATH, None, use)

    def _choice(self, value: object, choices: Sequence[object], use: Use) -> None:
        """A value for an input that has a list: a model file, an asset, or another value, which must be in the list."""
        if isinstance(value, str):
            texts = tuple(choice for choice in choices if isinstance(choice, str))
            folder = facts.model_folder(use.class_type, use.input)
            # An empty list is that of a folder in which the server has no file yet.
            names_a_file = value.lower().endswith(_SUFFIXES) or (not choices and _EXTENSION.search(value))
            lists_files = folder or any(text.lower().endswith(_SUFFIXES) for text in texts)
            outside = value not in choices and not (choices and value in catalog.NOT_A_FILE)
            if names_a_file or (outside and lists_files):
                return self._model(value, folder, texts, use)
            if value.startswith("blake3:"):
                return self._file(value, "file", texts, use)
        if choices and value not in choices:
            self.values.append(ValueNeed(value, tuple(choices), (use,)))
        return None

    def _model(self, name: str, folder: str | None, choices: tuple[str, ...] | None, use: Use) -> None:
        key = (name, folder, choices)
        self.kind[key] = (folder, choices)
        self.models.setdefault(key, []).append(use)

    def _file(self, value: str, kind: str, choices: Sequence[object] | None, use: Use) -> None:
        self.files.setdefault((value, kind), []).append(use)
        listed = None if choices is None else tuple(item for item in choices if isinstance(item, str))
        self.listed[value, kind] = listed


class Tag(NamedTuple):
    """One tag. reader: the class that reads it; CORE_ONLY when only core nodes see it; None when that is not known."""

    name: str
    weights: str
    use: Use
    reader: str | None


def tags_in(graph: Graph, definitions: Definitions | None) -> list[Tag]:
    """The tags of a graph's texts, each once for a place."""
    found: dict[tuple[str, str], Tag] = {}
    for node_id, node in each(graph):
        for name, raw in inputs_of(node).items():
            text = literal(raw)
            if not isinstance(text, str) or "<lora:" not in text.lower():
                continue
            use = Use(node_id, name, class_of(node), title_of(node), plain=False)
            reader = _reader(graph, node_id, definitions)
            for match in _TAG.finditer(text):
                tag = Tag(match[1].strip(), (match[2] or "").strip(), use, reader)
                found.setdefault((use.address, tag.name), tag)
    return [tag for tag in found.values() if tag.name]


def _reader(graph: Graph, start: str, definitions: Definitions | None) -> str | None:
    """Which class reads the tags of a node's text: the node itself, or one that its text is handed on to."""
    consumers = consumers_of(graph)
    waiting, seen, unclear = [start], {start}, False
    for _ in range(FARTHEST):
        following: list[str] = []
        for node_id in waiting:
            class_type = class_of(graph[node_id])
            if class_type in deps_catalog.LORA_TAG_READERS:
                return class_type
            hands_on = _hands_text_on(class_type, definitions)
            unclear = unclear or hands_on is None
            if hands_on is not False:
                following += [use.node_id for use in consumers.get(node_id, []) if use.node_id not in seen]
        waiting = [node_id for node_id in dict.fromkeys(following) if node_id in graph]
        seen.update(waiting)
        if not waiting:
            break
    return None if unclear else CORE_ONLY


def _hands_text_on(class_type: str, definitions: Definitions | None) -> bool | None:
    """Whether a core class gives its text to others as text; None for a class of which only its pack knows."""
    definition = foreign.mapping((definitions or {}).get(class_type))
    if not definition:
        return False if class_type.startswith("CLIPTextEncode") else None
    if not foreign.text(definition.get("python_module")).startswith(_CORE):
        return None
    return "STRING" in foreign.items(definition.get("output"))
