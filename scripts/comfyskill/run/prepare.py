"""From a workflow and settings to a graph that can be submitted: values filled, files uploaded, LoRAs added.

Nothing is submitted here; with `dry_run` nothing is sent at all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from comfyskill.base import foreign, safe_text, service_keys
from comfyskill.base.cli import Document, Misuse, SkillError
from comfyskill.editor import outline
from comfyskill.graph import facts
from comfyskill.graph import nodes as graph_nodes
from comfyskill.graph.nodes import Definitions, Graph
from comfyskill.server import node_definitions
from comfyskill.server.facts import Facts
from comfyskill.server.protocol import FileRef
from comfyskill.source import read

if TYPE_CHECKING:
    from comfyskill.graph.fill import UploadTarget
    from comfyskill.run.inputs import Uploader

# Classes of a plain ComfyUI that call no paid service. Other classes are looked up on the server.
FREE_CLASSES = frozenset(
    "BasicGuider BasicScheduler CFGGuider CLIPLoader CLIPSetLastLayer CLIPTextEncode CLIPTextEncodeFlux"
    " CLIPTextEncodeSDXL CLIPVisionLoader CheckpointLoaderSimple ConditioningCombine ControlNetApplyAdvanced"
    " ControlNetLoader DualCLIPLoader EmptyImage EmptyLatentImage EmptySD3LatentImage FluxGuidance ImageBatch"
    " ImageBlend ImageCrop ImageInvert ImageScale ImageScaleBy ImageUpscaleWithModel KSampler KSamplerAdvanced"
    " KSamplerSelect LatentUpscale LatentUpscaleBy LoadImage LoadImageMask LoraLoader LoraLoaderModelOnly MaskToImage"
    " ModelSamplingFlux ModelSamplingSD3 PreviewAny PreviewImage RandomNoise SamplerCustom SamplerCustomAdvanced"
    " SaveAnimatedPNG SaveAnimatedWEBP SaveImage SaveImageWebsocket UNETLoader UpscaleModelLoader VAEDecode"
    " VAEDecodeTiled VAEEncode VAEEncodeForInpaint VAELoader".split()
)
# The picture that ComfyUI ships and that workflows name until a user chooses another.
SAMPLE_PICTURE = "example.png"
MOST = 5


class Wishes(NamedTuple):
    """What the user wants changed. `settings`: name -> text or typed value. `files`: (name, path, kind) to upload.

    `known_files`: None when the user's command names the files; else digests of those that a journal may name.
    """

    settings: Mapping[str, object] = {}
    files: Sequence[tuple[str, str, str]] = ()
    loras: Sequence[str] = ()
    force_links: frozenset[str] = frozenset()
    validate: bool = True
    randomize_seed: bool = False
    invert_mask: bool = False
    tiled_vae: bool = False
    known_files: frozenset[str] | None = None


class Prepared(NamedTuple):
    """A graph ready to submit, and what was done to get there.

    notes: what may be wrong. done: what was put in or changed as asked.
    """

    graph: Graph
    source: read.Source
    seeds: Mapping[str, int]
    changes: Sequence[Document] = ()
    notes: Sequence[str] = ()
    uploads: Sequence[Document] = ()
    partner: Sequence[str] = ()
    video: bool = False
    done: Sequence[str] = ()


def prepare(source: read.Source, wishes: Wishes, server: Facts | None, *, dry_run: bool = False) -> Prepared:
    """The filled graph. `server` None: offline, by the built-in tables; then nothing can be uploaded.

    Raises SkillError (exit 2) for unknown names, bad values and unreadable files.
    """
    graph: Graph = source.graph
    notes: list[str] = []
    done: list[str] = []
    if wishes.tiled_vae:
        from comfyskill.graph import rewrite

        graph, changed = rewrite.with_tiled_decode(graph)
        if changed:
            done.append(f"decodes in tiles: node {', '.join(changed)}")
        else:
            notes.append("--tiled-vae: there is no VAEDecode in this graph")
    definitions = _definitions(graph, wishes, server)
    if wishes.loras:
        graph, added = _add_loras(graph, wishes.loras, definitions, server)
        done += added
    placed = Placed(dict(wishes.settings), [], set())
    if may_send_files(wishes):
        from comfyskill.run import inputs

        uploader = inputs.Uploader(
            server, dry_run=dry_run, invert_mask=wishes.invert_mask, known=wishes.known_files
        )
        placed = upload_inputs(graph, wishes, definitions, uploader)
    changes: Sequence[Document] = ()
    seeds: Mapping[str, int] | None = None
    if placed.settings or wishes.randomize_seed:
        from comfyskill.graph import fill

        filled = fill.fill(
            graph, placed.settings, definitions, validate=wishes.validate, force_links=wishes.force_links,
            randomize_seed=wishes.randomize_seed, uploaded=placed.fresh,
        )  # fmt: skip
        graph, seeds, changes = filled.graph, filled.seeds, filled.changes
        notes += filled.notes
    chosen = {f"{item['node_id']}.{item['input']}" for item in changes}
    notes += sample_pictures(graph, chosen)
    notes += after_changes(graph, definitions, chosen, placed.fresh)
    notes += saved_keys(graph, source.editor)
    return Prepared(
        graph,
        source,
        facts.seeds_of(graph) if seeds is None else seeds,
        changes,
        notes,
        placed.rows,
        partner_nodes(graph, definitions, server),
        facts.is_video(graph, definitions),
        done,
    )


def _definitions(graph: Graph, wishes: Wishes, server: Facts | None) -> Definitions | None:
    """Node definitions of the graph's classes, asked for only when a value is to be set."""
    if server is None or not (wishes.settings or wishes.files or wishes.loras or wishes.randomize_seed):
        return None
    return node_definitions.of_classes(server, node_definitions.classes_of(graph))


def partner_nodes(graph: Graph, definitions: Definitions | None, server: Facts | None) -> list[str]:
    """The ids of nodes that call a paid service; classes that are not well known are looked up on the server."""
    if definitions is None and server is not None:
        unknown = sorted(set(node_definitions.classes_of(graph)) - FREE_CLASSES)
        definitions = node_definitions.of_classes(server, unknown) if unknown else None
    return facts.partner_nodes(graph, definitions)


def _add_loras(
    graph: Graph, loras: Sequence[str], definitions: Definitions | None, server: Facts | None
) -> tuple[Graph, list[str]]:
    """The graph with the LoRAs, and what was done."""
    from comfyskill.graph import rewrite

    known = dict(definitions or {})
    if server is not None:
        known |= node_definitions.of_classes(server, ["LoraLoader", "LoraLoaderModelOnly"]) or {}
    return rewrite.add_loras(graph, loras, known or None)


def sample_pictures(graph: Graph, chosen: Collection[str]) -> list[str]:
    """Picture inputs that are left at ComfyUI's sample. `chosen`: addresses that were set."""
    found = []
    for node_id, node in graph_nodes.each(graph):
        for name, value in graph_nodes.inputs_of(node).items():
            address = f"{node_id}.{name}"
            if value == SAMPLE_PICTURE and address not in chosen:
                title = safe_text.name(safe_text.clean(graph_nodes.title_of(node), 60))
                found.append(
                    f"node {safe_text.name(node_id)} ({title}) still has the sample picture {SAMPLE_PICTURE}; "
                    f"--input-image {safe_text.name(address)}=FILE sets your own"
                )
    return found


def after_changes(
    graph: Graph,
    definitions: Definitions | None,
    chosen: Collection[str],
    uploaded: Collection[str] = (),
) -> list[str]:
    """Warnings of the graph check about nodes that were changed: odd sizes, LoRAs that nothing uses, and the like.

    uploaded: addresses that hold a file which was just sent or found on the server; the server's lists do not have it yet.
    """
    if definitions is None or not chosen:
        return []
    from comfyskill.graph import check

    changed = {address.partition(".")[0] for address in chosen}
    found = [
        item
        for item in check.findings(graph, definitions, complete=False)
        if item.severity == "warning"
        and item.node_id in changed
        and not (item.code == "file_missing" and f"{item.node_id}.{item.input}" in uploaded)
    ]
    return [safe_text.clean(f"{item.message}; {item.fix}", 300) for item in found[:MOST]]


def saved_keys(graph: Graph, editor: Mapping[str, object] | None) -> list[str]:
    """Warnings about keys and tokens in what is submitted: ComfyUI saves the workflow in every picture it makes."""
    found: dict[str, None] = {}
    for node_id, node in graph_nodes.each(graph):
        for name, value in graph_nodes.inputs_of(node).items():
            for text in outline.texts_in(graph_nodes.literal(value)):
                kinds = [key.kind for key in service_keys.keys_in(text)]
                if not kinds and (named := service_keys.named_key(str(name), text)):
                    kinds = [named.kind]
                found |= dict.fromkeys(
                    f"node {node_id}, input {safe_text.clean(name, 60)}: {kind}" for kind in kinds
                )
        for key in service_keys.keys_in(graph_nodes.title_of(node)):
            found[f"the title of node {node_id}: {key.kind}"] = None
    for where, text in outline.notes_of(editor):
        found |= dict.fromkeys(
            f"{safe_text.clean(where, 80)}: {key.kind}" for key in service_keys.keys_in(text)
        )
    return [
        f"what looks like a secret would be saved in the outputs and receipts: {item}; remove it before you share them"
        for item in list(found)[:MOST]
    ]


class Placed(NamedTuple):
    """Settings that hold uploaded files under their address; `rows` report them, `fresh` names their settings."""

    settings: Document
    rows: list[Document]
    fresh: set[str]


def may_send_files(wishes: Wishes) -> bool:
    """Whether anything given is, or may be, a file to send."""
    return bool(wishes.files) or bool(_file_settings(wishes.settings))


def _file_settings(settings: Mapping[str, object]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if isinstance(value, str) and may_be_file(value)}


def upload_inputs(
    graph: Graph, wishes: Wishes, definitions: Definitions | None, uploader: Uploader
) -> Placed:
    """Upload what is to be uploaded: the settings, with local files replaced by the server's names.

    Raises SkillError (exit 2) for names that take no file, unreadable files, and inputs given twice.
    """
    settings = wishes.settings
    pictures = [(name, path) for name, path, kind in wishes.files if kind != "mask"]
    masks = [(name, path) for name, path, kind in wishes.files if kind == "mask"]
    _refuse_twice(settings, pictures, masks)
    given = dict(pictures)
    found = _targets(graph, _file_settings(settings) | given, definitions, given)
    sent = {target.name for target in found}
    painted = [target for target in found if target.original is not None]
    loaded = [target for target in found if target.original is None]
    for name, path in masks:
        for target in _targets(graph, {name: path}, definitions, {name: path}):
            paints = target.original is not None or target.kind == "image"
            (painted if paints else loaded).append(target._replace(kind="mask"))
    _refuse_same_input(loaded, painted)
    rest = {name: value for name, value in settings.items() if name not in sent}
    placed = Placed(_by_address(graph, rest, [*loaded, *painted], definitions), [], set())
    for target in loaded:
        if target.address in placed.settings:
            raise _set_twice(target.name, target.address, "a file and a value")
    for target in loaded:
        _upload(target, None, uploader, placed)
    # A mask is painted into the picture that the same call gives, so pictures come first.
    for target in painted:
        _upload(target, _picture_at(target, graph, placed), uploader, placed)
    return placed


def _targets(
    graph: Graph,
    files: Mapping[str, str],
    definitions: Definitions | None,
    given: Mapping[str, str],
) -> list[UploadTarget]:
    """The inputs that these files go into. `given`: the files that a flag names, which must find an input."""
    from comfyskill.graph import fill

    try:
        targets = fill.upload_targets(graph, files, definitions)
    except SkillError as error:
        if error.code != "unknown_parameter" or error.details.get("parameter") not in given:
            raise
        raise _with_file_inputs(error, graph, definitions) from error
    found = {target.name for target in targets}
    for name, path in given.items():
        if name not in found:
            raise Misuse(
                f"{name!r} takes no uploaded file",
                code="not_an_upload",
                hint=f"see scripts/extract_schema.py for the inputs that take files; {path} was not sent",
            )
    return targets


def _with_file_inputs(error: SkillError, graph: Graph, definitions: Definitions | None) -> SkillError:
    """The error of an unknown name that was given a file, with the inputs that take files."""
    from comfyskill.graph import parameters

    names = [parameter.name for parameter in parameters.find(graph, definitions) if parameter.upload]
    if not names:
        return error.but()
    return error.but(hint=f"inputs that take files here: {', '.join(names)}", nearest=names)


def _refuse_twice(
    settings: Mapping[str, object], pictures: list[tuple[str, str]], masks: list[tuple[str, str]]
) -> None:
    for group in (pictures, masks):
        names = [name for name, _ in group]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Misuse(f"{twice[0]!r} is given two files", hint="omit one of them")
    if both := sorted({name for name, _ in pictures} & settings.keys()):
        raise Misuse(f"{both[0]!r} is given both as a value and as a file", hint="omit one of them")


def _refuse_same_input(loaded: Sequence[UploadTarget], painted: Sequence[UploadTarget]) -> None:
    """Two names of one input (`image` and `1.image`): one file would replace the other."""
    for group in (loaded, painted):
        named: dict[str, str] = {}
        for target in group:
            other = named.setdefault(target.address, target.name)
            if other != target.name:
                raise _set_twice(f"{other}, {target.name}", target.address, "two files")


def _by_address(
    graph: Graph,
    settings: Mapping[str, object],
    targets: Sequence[UploadTarget],
    definitions: Definitions | None,
) -> Document:
    """The settings, with those of inputs that get a file, whatever their name, under the address of their input."""
    from comfyskill.graph import fill

    wanted = {target.address for target in targets}
    found: Document = {}
    for name, value in settings.items():
        try:
            places = fill.upload_targets(graph, {name: value}, definitions) if wanted else []
        except SkillError:
            places = []  # filling refuses the name, and lists all wrong ones together
        if not any(place.address in wanted for place in places):
            found[name] = value
            continue
        for place in places:
            if place.kind == "mask" and place.address in wanted:
                raise _set_twice(name, place.address, "a file and a value")
            found[place.address] = value
    return found


def _set_twice(names: str, address: str, what: str) -> SkillError:
    return Misuse(
        f"{address} is given {what} (by {names})",
        code="set_twice",
        hint="omit one of them",
    )


def _upload(target: UploadTarget, picture: FileRef | None, uploader: Uploader, placed: Placed) -> None:
    value, row = uploader.value_for(str(target.value), target.kind, target, picture)
    placed.settings[target.address] = value
    placed.fresh.add(target.address)
    placed.rows.append(row | {"input": target.address})


def _picture_at(target: UploadTarget, graph: Graph, placed: Placed) -> FileRef | None:
    """The picture that a mask belongs to: the one just uploaded for this input, else what the graph names."""
    current = placed.settings.get(target.address)
    if current is None:
        current = graph_nodes.inputs_of(foreign.mapping(graph.get(target.node_id))).get(target.input)
    return annotated(current) if isinstance(current, (str, Mapping)) else None


def annotated(value: str | Mapping[str, object]) -> FileRef:
    """The file that a loader's value names: `sub/name.png [output]` -> its folder and type; API v2 refers to an asset."""
    if not isinstance(value, str):
        info = foreign.mapping(value.get("info"))
        asset = str(info.get("id") or "") or None
        return FileRef(str(info.get("file_path") or asset or ""), type="input", asset_id=asset)
    match = re.fullmatch(r"(.*?)(?: \[(input|output|temp)\])?", value, re.S)
    assert match is not None
    folder, _, name = match[1].rpartition("/")
    return FileRef(name, folder, match[2] or "input")


def may_be_file(value: str) -> bool:
    """Whether a value names a file of this machine, or another job's output."""
    if value.startswith("output:"):
        return True
    try:
        return 0 < len(value) < 4096 and Path(value).is_file()
    except (OSError, ValueError):
        return False
