"""What a job that has ended left behind: its files, downloaded, and its texts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from comfyskill.base import file_names, safe_text
from comfyskill.base.cli import Document
from comfyskill.graph import nodes
from comfyskill.run import collect as run_collect
from comfyskill.run.collect import Collector, Failed, Saved
from comfyskill.run.job import Run
from comfyskill.server.protocol import Graph, JobState

LONG_TEXT = 2_000


class Result(NamedTuple):
    """A run that has ended, and what was fetched of it. Times are seconds.

    `missed`: nodes whose pictures went through a socket that was not ours, so that nothing keeps them.
    """

    run: Run
    state: JobState
    saved: list[Saved]
    failed: list[Failed]
    texts: list[Document]
    missed: list[str]
    seconds: float
    download_seconds: float


def collect(run: Run, state: JobState) -> Result:
    """Download what the job put out. A file that cannot be fetched is in `failed`."""
    options = run.options
    if options.targets is not None:
        state = _only_these(state, run.graph, options.targets)
    collector = Collector(
        run.server,
        options.output_dir,
        flat=options.flat,
        overwrite=options.overwrite,
        digests=options.receipt,
        patience=options.patience,
    )
    ended = time.monotonic()
    saved = _socket_pictures(run, collector)
    fetched, failed = collector.fetch_all(
        run_collect.files_of(state.outputs, previews=options.include_previews)
    )
    saved += fetched
    for folder in {options.output_dir, *(item.path.parent for item in saved)}:
        file_names.remove_stale_parts(folder)
    texts = _short_texts(run_collect.texts_of(state.outputs), collector, run.prompt_id)
    missed = _missed_pictures(run, state)
    return Result(run, state, saved, failed, texts, missed, ended - run.began, time.monotonic() - ended)


def _only_these(state: JobState, graph: Graph, targets: Sequence[str]) -> JobState:
    """The state with the outputs of these nodes and what they need: 0.3.64 adds every other one that it has cached."""
    wanted = nodes.upstream_of(graph, targets)
    # A node made by another node has that node's id before a dot.
    outputs = {key: value for key, value in state.outputs.items() if {key, key.split(".")[0]} & wanted}
    return state._replace(outputs=outputs)


def _socket_pictures(run: Run, collector: Collector) -> list[Saved]:
    """The pictures that came through the socket; the server keeps no copy of them."""
    return [
        collector.save_bytes(
            f"{run.prompt_id[:8]}_node{node}_{index:02d}{frame.suffix}", frame.image, node, "socket"
        )
        for index, (node, frame) in enumerate(run.socket_images, 1)
    ]


def _missed_pictures(run: Run, state: JobState) -> list[str]:
    if state.outcome != "success" or not run.missed_frames:
        return []
    seen = {node for node, _ in run.socket_images}
    return [node for node in socket_nodes(run.graph) if node not in seen]


def socket_nodes(graph: Graph) -> list[str]:
    """The ids of nodes that send their pictures through the socket alone (SaveImageWebsocket and its like)."""
    return [
        str(node_id)
        for node_id, node in graph.items()
        if isinstance(node, Mapping) and "websocket" in str(node.get("class_type")).lower()
    ]


def sends_through_socket(graph: Graph, node: str | None) -> bool:
    """Whether a picture of this node is a result, not a preview."""
    return (node or "").split(".")[0] in socket_nodes(graph)


def _short_texts(texts: list[dict[str, str]], collector: Collector, prompt_id: str) -> list[Document]:
    """Long texts go to a file; the document keeps their beginning."""
    short: list[Document] = []
    for index, item in enumerate(texts, 1):
        row: Document = dict(item)
        if len(item["text"]) > LONG_TEXT:
            name = f"{prompt_id[:8]}_node{item['node_id']}_{index:02d}.txt"
            saved = collector.save_bytes(
                name, item["text"].encode("utf-8", "replace"), item["node_id"], item["key"]
            )
            row |= {"text": safe_text.clean(item["text"], LONG_TEXT), "file": str(saved.path)}
        short.append(row)
    return short
