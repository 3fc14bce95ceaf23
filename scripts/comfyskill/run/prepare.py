"""From a workflow and settings to a graph that can be submitted: values filled, files uploaded, LoRAs added.

Level 3. Nothing is submitted here; with `dry_run` nothing is sent at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from comfyskill.graph import facts
from comfyskill.graph.facts import seeds_of
from comfyskill.run import doubts as run_doubts
from comfyskill.run import placing
from comfyskill.server import node_definitions
from comfyskill.server.protocol import Dialect
from comfyskill.source import read

if TYPE_CHECKING:
    from comfyskill.run import inputs

# Classes of a plain ComfyUI that call no paid service. What is not listed here is looked up on the server.
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


class Wishes(NamedTuple):
    """What the user wants changed. `settings`: name -> text or typed value. `files`: (name, path, kind) to upload.

    `known_files`: None when the user's command names the files; else digests of those that a journal may name.
    """

    settings: Mapping[str, Any] = {}
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

    graph: dict[str, Any]
    source: read.Source
    seeds: dict[str, int]
    changes: Sequence[dict[str, Any]] = ()
    notes: Sequence[str] = ()
    uploads: Sequence[dict[str, Any]] = ()
    partner: Sequence[str] = ()
    video: bool = False
    done: Sequence[str] = ()


def prepare(
    source: read.Source, wishes: Wishes, server: Dialect | None, *, dry_run: bool = False
) -> Prepared:
    """The filled graph. `server` None: offline, by the built-in tables; then nothing can be uploaded.

    Raises SkillError (exit 2) for unknown names, bad values and unreadable files.
    """
    graph = dict(source.graph)
    notes: list[str] = []
    done: list[str] = []
    if wishes.tiled_vae:
        graph, changed = _decoding_in_tiles(graph)
        if changed:
            done.append(f"decodes in tiles: node {', '.join(changed)}")
        else:
            notes.append("--tiled-vae: there is no VAEDecode in this graph")
    definitions = _definitions(graph, wishes, server)
    if wishes.loras:
        graph, added = _add_loras(graph, wishes.loras, definitions, server)
        done += added
    settings: dict[str, Any] = dict(wishes.settings)
    uploads: list[dict[str, Any]] = []
    uploaded: set[str] = set()
    if placing.wants_upload(wishes.settings, wishes.files):
        from comfyskill.run import inputs

        uploader = inputs.Uploader(
            server, dry_run=dry_run, invert_mask=wishes.invert_mask, known=wishes.known_files
        )
        settings, uploads, uploaded = upload_inputs(graph, wishes, definitions, uploader)
    if not (settings or wishes.randomize_seed):
        doubts = [*run_doubts.sample_pictures(graph, ()), *run_doubts.saved_keys(graph, source.editor)]
        return Prepared(
            graph, source, seeds_of(graph), notes=[*notes, *doubts],
            partner=partner_nodes(graph, definitions, server), video=facts.is_video(graph, definitions),
            done=done,
        )  # fmt: skip
    from comfyskill.graph import fill

    filled = fill.fill(
        graph, settings, definitions, validate=wishes.validate, force_links=wishes.force_links,
        randomize_seed=wishes.randomize_seed, uploaded=uploaded,
    )  # fmt: skip
    chosen = {f"{item['node_id']}.{item['input']}" for item in filled.changes}
    doubts = run_doubts.sample_pictures(filled.graph, chosen)
    doubts += run_doubts.after_changes(filled.graph, definitions, chosen, uploaded)
    doubts += run_doubts.saved_keys(filled.graph, source.editor)
    return Prepared(
        filled.graph,
        source,
        filled.seeds,
        filled.changes,
        [*notes, *filled.notes, *doubts],
        uploads,
        partner_nodes(filled.graph, definitions, server),
        facts.is_video(filled.graph, definitions),
        done,
    )


def _definitions(
    graph: Mapping[str, Any], wishes: Wishes, server: Dialect | None
) -> Mapping[str, Any] | None:
    """Node definitions of the graph's classes, asked for only when a value is to be set."""
    if server is None or not (wishes.settings or wishes.files or wishes.loras or wishes.randomize_seed):
        return None
    return node_definitions.of_classes(server, node_definitions.classes_of(graph))


def partner_nodes(
    graph: Mapping[str, Any], definitions: Mapping[str, Any] | None, server: Dialect | None
) -> list[str]:
    """The ids of nodes that call a paid service; classes that are not well known are looked up on the server."""
    if definitions is None and server is not None:
        unknown = sorted(set(node_definitions.classes_of(graph)) - FREE_CLASSES)
        definitions = node_definitions.of_classes(server, unknown) if unknown else None
    return facts.partner_nodes(graph, definitions)


def _add_loras(
    graph: dict[str, Any], loras: Sequence[str], definitions: Mapping[str, Any] | None, server: Dialect | None
) -> tuple[dict[str, Any], list[str]]:
    known = dict(definitions or {})
    if server is not None:
        known |= node_definitions.of_classes(server, ["LoraLoader", "LoraLoaderModelOnly"]) or {}
    from comfyskill.graph import rewrite

    made, notes = rewrite.add_loras(graph, loras, known or None)
    return dict(made), list(notes)


def upload_inputs(
    graph: Mapping[str, Any],
    wishes: Wishes,
    definitions: Mapping[str, Any] | None,
    uploader: inputs.Uploader,
) -> tuple[dict[str, Any], list[dict[str, Any]], set[str]]:
    """Settings with local files replaced by the server's names, the rows that report them, the addresses they set."""
    placed = placing.place(graph, wishes.settings, wishes.files, definitions, uploader)
    return placed.settings, placed.rows, placed.fresh


def _decoding_in_tiles(graph: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The graph with each VAEDecode made a VAEDecodeTiled, and the ids of those nodes."""
    from comfyskill.graph import rewrite

    return rewrite.with_tiled_decode(graph)
