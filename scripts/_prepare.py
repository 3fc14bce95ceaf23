"""From a workflow and settings to a graph that can be submitted: values filled, files uploaded, LoRAs added.

Level 3. Nothing is submitted here; with `dry_run` nothing is sent at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _catalog
import _graph
import _sources
from _cli import Exit, SkillError
from _dialect import Dialect, FileRef

if TYPE_CHECKING:
    import _fill

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


@dataclass(frozen=True)
class Wishes:
    """What the user wants changed. `settings`: name -> text or typed value. `files`: (name, path, kind) to upload."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    files: Sequence[tuple[str, str, str]] = ()
    loras: Sequence[str] = ()
    force_links: frozenset[str] = frozenset()
    validate: bool = True
    randomize_seed: bool = False
    invert_mask: bool = False


@dataclass(frozen=True)
class Prepared:
    """A graph ready to submit, and what was done to get there."""

    graph: dict[str, Any]
    source: _sources.Source
    seeds: dict[str, int] = field(default_factory=dict)
    changes: Sequence[dict[str, Any]] = ()
    notes: Sequence[str] = ()
    uploads: Sequence[dict[str, Any]] = ()
    partner: Sequence[str] = ()
    video: bool = False


def prepare(
    source: _sources.Source, wishes: Wishes, server: Dialect | None, *, dry_run: bool = False
) -> Prepared:
    """The filled graph. `server` None: offline, by the built-in tables; then nothing can be uploaded.

    Raises SkillError (exit 2) for unknown names, bad values and unreadable files.
    """
    graph = dict(source.graph)
    notes: list[str] = []
    definitions = _definitions(graph, wishes, server)
    if wishes.loras:
        graph, added = _add_loras(graph, wishes.loras, definitions, server)
        notes += added
    uploader = _inputs.Uploader(server, dry_run=dry_run, invert_mask=wishes.invert_mask)
    settings, uploads, uploaded = upload_inputs(graph, wishes, definitions, uploader)
    if not (settings or wishes.randomize_seed):
        return Prepared(
            graph, source, seeds_of(graph), notes=notes,
            partner=partner_nodes(graph, definitions, server), video=_graph.is_video(graph, definitions),
        )  # fmt: skip
    import _fill

    filled = _fill.fill(
        graph, settings, definitions, validate=wishes.validate, force_links=wishes.force_links,
        randomize_seed=wishes.randomize_seed, uploaded=uploaded,
    )  # fmt: skip
    return Prepared(
        filled.graph,
        source,
        filled.seeds,
        filled.changes,
        [*notes, *filled.notes],
        uploads,
        partner_nodes(filled.graph, definitions, server),
        _graph.is_video(filled.graph, definitions),
    )


def seeds_of(graph: Mapping[str, Any]) -> dict[str, int]:
    """Every seed that the graph holds, by address."""
    return {
        f"{node_id}.{name}": value
        for node_id, node in _graph.each(graph)
        for name, value in _graph.inputs_of(node).items()
        if name in _catalog.SEED_INPUTS and isinstance(value, int) and not isinstance(value, bool)
    }


def _definitions(
    graph: Mapping[str, Any], wishes: Wishes, server: Dialect | None
) -> Mapping[str, Any] | None:
    """Node definitions of the graph's classes, asked for only when a value is to be set."""
    if server is None or not (wishes.settings or wishes.files or wishes.loras or wishes.randomize_seed):
        return None
    classes = sorted({_graph.class_of(node) for _, node in _graph.each(graph)})
    try:
        return server.definitions(classes)
    except SkillError as error:
        if error.exit in (Exit.UNREACHABLE, Exit.REFUSED):
            raise
        return None


def partner_nodes(
    graph: Mapping[str, Any], definitions: Mapping[str, Any] | None, server: Dialect | None
) -> list[str]:
    """The ids of nodes that call a paid service; classes that are not well known are looked up on the server."""
    if definitions is None and server is not None:
        unknown = sorted({_graph.class_of(node) for _, node in _graph.each(graph)} - FREE_CLASSES)
        try:
            definitions = server.definitions(unknown) if unknown else None
        except SkillError as error:
            if error.exit in (Exit.UNREACHABLE, Exit.REFUSED):
                raise
    return _graph.partner_nodes(graph, definitions)


def _add_loras(
    graph: dict[str, Any], loras: Sequence[str], definitions: Mapping[str, Any] | None, server: Dialect | None
) -> tuple[dict[str, Any], list[str]]:
    loader = ["LoraLoader", "LoraLoaderModelOnly"]
    known = dict(definitions or {})
    if server is not None:
        try:
            known |= server.definitions(loader)
        except SkillError as error:
            if error.exit in (Exit.UNREACHABLE, Exit.REFUSED):
                raise
    import _fill

    made, notes = _fill.add_loras(graph, loras, known or None)
    return dict(made), list(notes)


def upload_inputs(
    graph: Mapping[str, Any],
    wishes: Wishes,
    definitions: Mapping[str, Any] | None,
    uploader: _inputs.Uploader,
) -> tuple[dict[str, Any], list[dict[str, Any]], set[str]]:
    """Settings with local files replaced by the server's names; what was uploaded; which settings that were."""
    settings = dict(wishes.settings)
    asked = {name: (path, kind) for name, path, kind in wishes.files}
    if both := sorted(asked.keys() & settings.keys()):
        raise SkillError(f"{both[0]!r} is given both as a value and as a file", hint="leave one of them out")
    candidates = {name: path for name, (path, _) in asked.items()}
    candidates |= {
        name: value for name, value in settings.items() if isinstance(value, str) and _may_be_file(value)
    }
    if not candidates:
        return settings, [], set()
    import _fill
    import _inputs

    done: list[dict[str, Any]] = []
    targets = _fill.upload_targets(graph, candidates, definitions)
    fresh: set[str] = set()
    for target in sorted(targets, key=lambda item: item.kind == "mask"):
        forced = target.name in asked
        if not forced and not _is_local_file(str(target.value)) and not _is_job_output(str(target.value)):
            continue
        kind = asked[target.name][1] if forced and asked[target.name][1] == "mask" else target.kind
        value, row = uploader.value_for(
            str(target.value), kind, target, _picture_of(target, graph, settings, fresh)
        )
        settings[target.name] = value
        fresh.add(target.name)
        done.append(row)
    _refuse_lost_files(asked, fresh)
    return settings, done, fresh


def _picture_of(
    target: _fill.UploadTarget, graph: Mapping[str, Any], settings: Mapping[str, Any], fresh: set[str]
) -> FileRef | None:
    """The picture whose transparency an uploaded mask becomes: the one just uploaded, else what the node names."""
    if target.original is None:
        return None
    node = graph.get(target.node_id)
    current = node["inputs"].get(target.input) if isinstance(node, Mapping) else None
    for name in (f"{target.node_id}.{target.input}", "image", target.name):
        if name in fresh and isinstance(settings.get(name), str):
            current = settings[name]
            break
    return annotated(str(current)) if isinstance(current, str) else None


def annotated(value: str) -> FileRef:
    """The file that a loader's value names: `sub/name.png [output]` -> its folder and type."""
    match = re.fullmatch(r"(.*?)(?: \[(input|output|temp)\])?", value, re.S)
    assert match is not None
    folder, _, name = match[1].rpartition("/")
    return FileRef(name, folder, match[2] or "input")


def _refuse_lost_files(asked: Mapping[str, tuple[str, str]], fresh: set[str]) -> None:
    for name, (path, _) in asked.items():
        if name not in fresh:
            raise SkillError(
                f"{name!r} takes no uploaded file",
                code="not_an_upload",
                hint=f"see scripts/extract_schema.py for the inputs that take files; {path} was not sent",
            )


def _may_be_file(value: str) -> bool:
    return _is_job_output(value) or _is_local_file(value)


def _is_job_output(value: str) -> bool:
    return value.startswith("output:")


def _is_local_file(value: str) -> bool:
    try:
        return 0 < len(value) < 4096 and Path(value).is_file()
    except (OSError, ValueError):
        return False


def used_models(prepared: Prepared) -> list[str]:
    """The model files that the graph names."""
    return sorted({use.name for use in _graph.models_in(prepared.graph)})


def with_graph(prepared: Prepared, graph: Mapping[str, Any]) -> Prepared:
    """The same with another graph."""
    return replace(prepared, graph=dict(graph))


__all__ = ["Prepared", "Wishes", "annotated", "prepare", "partner_nodes", "upload_inputs", "used_models", "with_graph"]
