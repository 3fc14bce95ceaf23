"""The JSON documents of a run: how it ended, in words, with the files and the next command.

Below `jobs` (which hands its values in).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfyskill.base import file_limits, file_names, foreign, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.base.programs import command
from comfyskill.graph import diagnose, nodes
from comfyskill.run import collect
from comfyskill.server.protocol import Accepted, Dialect, JobState, Submission

if TYPE_CHECKING:
    from comfyskill.run.job import Job, Options
    from comfyskill.run.prepare import Prepared
    from comfyskill.run.progress import Progress
    from comfyskill.server import events
    from comfyskill.server.facts import Facts

LONG_TEXT = 2_000
# An agent reads the document, so it stays short; a receipt names every file.
MOST_FILES = 500
MOST_FAILED = 50
CLOCK_GRAIN = 2.0  # some servers report times in whole seconds
# Another request for such a file gets the same answer.
FINAL_DOWNLOAD_FAILURES = frozenset(
    {"not_found", "refused", "bad_request", "bad_answer", "unsafe_redirect", "redirect_loop"}
)
SECRET_NAME = re.compile(r"key|token|password|passwd|secret|auth|credential|cookie", re.I)
TRACE_LINES = 12
SAID = 600
MOST_VALUE = 300
MOST_INPUTS = 40
# A smaller picture is useless; the step is the unit of the model families' latents.
SMALLEST_EDGE = 256
EDGE_STEP = 64
FEWEST_FRAMES = 17


def resume_command(server: Dialect, prompt_id: str, options: Options) -> str:
    """The command that waits for a job and downloads it as it was asked for. Keys are not repeated in it."""
    wanted = {
        "--flat-output": options.flat,
        "--overwrite": options.overwrite,
        "--include-previews": options.include_previews,
        "--receipt": options.receipt,
    }
    flags = [*(flag for flag, given in wanted.items() if given), *file_limits.flag_words()]
    where = ["--output-dir", options.output_dir]
    resume = [f"--resume={prompt_id}"] if prompt_id.startswith("-") else ["--resume", prompt_id]
    return command("run_workflow.py", *resume, *where, *flags, *server.flags)


def look_command(server: Dialect, submission: Submission, options: Options) -> str:
    """The command that shows what happened to a submit without an answer."""
    if server.own_ids:
        return resume_command(server, submission.prompt_id, options)
    return server.list_command()


def head(server: Facts, prompt_id: str | None = None) -> dict[str, Any]:
    """The keys that every report of a job begins with, after `status`."""
    document: dict[str, Any] = {"prompt_id": prompt_id} if prompt_id is not None else {}
    document |= {"host": server.url, "api": server.api}
    if server.demo:
        document["demo"] = True
        document["demo_note"] = (
            "from the demo server, which only simulates models: never show it as a generated result"
        )
    return document


def about(prepared: Prepared | None) -> dict[str, Any]:
    """The report keys about the workflow and its values."""
    if prepared is None:
        return {}
    source = prepared.source
    document: dict[str, Any] = {"workflow": source.origin, "seeds": prepared.seeds}
    if source.converted:
        document["converted"] = True
    if prepared.changes:
        document["set"] = [
            {"name": item["name"], "node_id": item["node_id"], "input": item["input"], "value": item["new"]}
            for item in prepared.changes
        ]
    if prepared.uploads:
        document["uploads"] = list(prepared.uploads)
    if source.missing_types:
        document["missing_types"] = [safe_text.clean_tree(item, 200) for item in source.missing_types]
    if prepared.partner:
        document["partner_nodes"] = list(prepared.partner)
    if prepared.done:
        document["notes"] = list(prepared.done)
    if warnings := [*source.warnings, *prepared.notes]:
        document["warnings"] = warnings
    return document


def submitted(server: Dialect, accepted: Accepted, prepared: Prepared, options: Options) -> dict[str, Any]:
    """The report of --no-wait."""
    document = {"status": "submitted", **head(server, accepted.prompt_id), **about(prepared)}
    document |= _dropped(server, accepted.node_errors, prepared.graph)
    document["next"] = [resume_command(server, accepted.prompt_id, options)]
    return document


def _dropped(server: Dialect, node_errors: Mapping[str, Any], graph: Mapping[str, Any]) -> dict[str, Any]:
    if not node_errors:
        return {}
    from comfyskill.server import refusals

    whole = server.with_options({"node_errors": node_errors})["node_errors"]
    return {"dropped": refusals.node_problems(whole, graph)}


def strict_rejection(job: Job) -> SkillError:
    """--strict: a branch failed validation, so the whole run was stopped."""
    return SkillError(
        "the server dropped part of the graph, so the rest was stopped too (--strict)",
        code="rejected",
        status="rejected",
        hint="correct the nodes under `dropped`, or run without --strict",
        next=[job.server.explain_command(job.prompt_id)],
        **head(job.server, job.prompt_id),
        **_dropped(job.server, job.accepted.node_errors, job.graph),
    )


def finished(
    job: Job,
    state: JobState,
    prepared: Prepared | None,
    options: Options,
    progress: Progress,
    missed_frames: bool,
) -> dict[str, Any]:
    """The report of a job that has ended: downloads its outputs and says how it ended."""
    if options.targets is not None:
        state = _only_asked_for(state, job.graph, options.targets)
    collector = collect.Collector(
        job.server,
        options.output_dir,
        flat=options.flat,
        overwrite=options.overwrite,
        digests=options.receipt,
        patience=options.patience,
    )
    seconds = round(time.monotonic() - job.submitted, 3)
    saved = _socket_pictures(job, collector)
    fetched, failed = collector.fetch_all(collect.files_of(state.outputs, previews=options.include_previews))
    saved += fetched
    for folder in {options.output_dir, *(item.path.parent for item in saved)}:
        file_names.remove_stale_parts(folder)
    texts = _short_texts(collect.texts_of(state.outputs), collector, job.prompt_id)
    missed = missed_pictures(job, state, missed_frames)
    document = _verdict(job, state, saved, failed, missed, options)
    document |= head(job.server, job.prompt_id)
    document |= {"seconds": seconds, **_times(job, state, seconds)}
    if saved:
        document["download_seconds"] = round(time.monotonic() - job.submitted - seconds, 3)
    document |= _listed_files(saved, options.output_dir)
    if texts:
        document["texts"] = texts
    if failed:
        document["failed_downloads"] = [item.json() for item in failed[:MOST_FAILED]]
    document |= _dropped(job.server, job.accepted.node_errors, job.graph)
    if job.blocked:
        document["blocked"] = [_blocked(event, job.graph) for event in job.blocked[:MOST_FAILED]]
    if job.accepted.found_again:
        document["submit_note"] = (
            "the answer to the submit was lost; the job was found on the server, not sent again"
        )
    if progress.cached:
        document["cached_nodes"] = len(progress.cached)
    if job.previews:
        document["previews"] = safe_text.cap([str(path) for path in job.previews], 20)
    document |= about(prepared) | _account(job.server, prepared)
    if prepared is None:
        document |= _seeds_in(job.graph)
    if state.outcome == "success" and not saved and not failed and not missed:
        document["message"] = _why_no_files(state, texts, job)
    if options.receipt and state.done:
        from comfyskill.run import receipt

        document["receipt"] = str(receipt.write(job, state, prepared, saved, options, document))
    return document


def _seeds_in(graph: Mapping[str, Any]) -> dict[str, Any]:
    """The seeds of a job that is only waited for: random ones are recorded only in its graph."""
    from comfyskill.graph import facts

    seeds = facts.seeds_of(graph)
    return {"seeds": seeds} if seeds else {}


def _only_asked_for(state: JobState, graph: Mapping[str, Any], targets: Sequence[str]) -> JobState:
    """The state with the outputs of these nodes and what they need: 0.3.64 adds every other one that it has in its cache."""

    wanted = nodes.upstream_of(graph, targets)
    # A node made by another node has that node's id before a dot.
    asked_for = {key: value for key, value in state.outputs.items() if {key, key.split(".")[0]} & wanted}
    return state._replace(outputs=asked_for)


def _listed_files(saved: list[collect.Saved], folder: Path) -> dict[str, Any]:
    """The files, and when there are very many: how many are not listed and where they are."""
    listed: dict[str, Any] = {"outputs": [item.json() for item in saved[:MOST_FILES]]}
    if len(saved) > MOST_FILES:
        left = len(saved) - MOST_FILES
        listed["outputs_not_listed"] = {"count": left, "of": len(saved), "folder": str(folder)}
    return listed


def _blocked(event: events.Event, graph: Mapping[str, Any]) -> dict[str, Any]:
    """A node that did not run because an earlier node withheld its result, with that node's message. No record keeps it."""
    node = graph.get(str(event.node))
    kind = node.get("class_type") if isinstance(node, Mapping) else event.data.get("node_type")
    return {
        "node_id": safe_text.clean(event.node or "", 60),
        "class_type": safe_text.clean(kind or "", 80),
        "server_said": safe_text.clean(event.data.get("exception_message") or "", 300).strip(),
    }


def _account(server: Dialect, prepared: Prepared | None) -> dict[str, Any]:
    """After a run with partner nodes: the plan and the remaining credits, if the server reports them."""
    if prepared is None or not prepared.partner:
        return {}
    try:
        account = server.account()
    except SkillError:
        return {}
    return {"account": account} if account else {}


def _socket_pictures(job: Job, collector: collect.Collector) -> list[collect.Saved]:
    """The pictures that came through the socket; the server keeps no copy of them."""
    return [
        collector.save_bytes(
            f"{job.prompt_id[:8]}_node{node}_{index:02d}{frame.suffix}", frame.image, node, "socket"
        )
        for index, (node, frame) in enumerate(job.socket_images, 1)
    ]


def _times(job: Job, state: JobState, seconds: float) -> dict[str, Any]:
    """No job of ours executed for longer than we waited for it: the server's clock was set forward meanwhile."""
    executed = state.execution_seconds
    if executed is None or (job.ours and executed > seconds + CLOCK_GRAIN):
        return {}
    return {"execution_seconds": round(executed, 3)}


def missed_pictures(job: Job, state: JobState, missed_frames: bool) -> list[str]:
    """Nodes whose pictures went through a socket while ours was not open: the server keeps no copy."""
    if state.outcome != "success" or not (missed_frames or not job.ours):
        return []
    seen = {node for node, _ in job.socket_images}
    return [node for node in socket_nodes(job.graph) if node not in seen]


def sends_through_socket(graph: Mapping[str, Any], node: str | None) -> bool:
    """Whether a picture of this node is a result (SaveImageWebsocket and its like), not a preview."""
    return (node or "").split(".")[0] in socket_nodes(graph)


def socket_nodes(graph: Mapping[str, Any]) -> list[str]:
    """The ids of nodes that send their pictures through the socket alone (SaveImageWebsocket and its like)."""
    return [
        str(node_id)
        for node_id, node in graph.items()
        if isinstance(node, Mapping) and "websocket" in str(node.get("class_type")).lower()
    ]


def _short_texts(
    texts: list[dict[str, str]], collector: collect.Collector, prompt_id: str
) -> list[dict[str, Any]]:
    """Long texts go to a file; the document keeps their beginning."""
    short: list[dict[str, Any]] = []
    for index, item in enumerate(texts, 1):
        row: dict[str, Any] = dict(item)
        if len(item["text"]) > LONG_TEXT:
            name = f"{prompt_id[:8]}_node{item['node_id']}_{index:02d}.txt"
            saved = collector.save_bytes(
                name, item["text"].encode("utf-8", "replace"), item["node_id"], item["key"]
            )
            row |= {"text": safe_text.clean(item["text"], LONG_TEXT), "file": str(saved.path)}
        short.append(row)
    return short


def _verdict(
    job: Job,
    state: JobState,
    saved: list[collect.Saved],
    failed: list[collect.Failed],
    missed: list[str],
    options: Options,
) -> dict[str, Any]:
    """status, and for all but a clean success also code, message, hint, retryable, next."""
    words = _ending(job, state, saved, failed, missed, options)
    if len(words) > 1:
        words.setdefault("next", [job.server.explain_command(job.prompt_id)])
    return words


def _ending(
    job: Job,
    state: JobState,
    saved: list[collect.Saved],
    failed: list[collect.Failed],
    missed: list[str],
    options: Options,
) -> dict[str, Any]:
    if job.interrupted:
        return _interrupted(job, state, bool(saved), options)
    if state.phase == "unknown":
        return _lost(job, options)
    if state.outcome == "cancelled":
        return _words(
            "cancelled",
            "cancelled",
            "the job was cancelled, but not by this command",
            "run it again if wanted"
            if job.server.api == "local"
            else "the cloud also ends runs longer than the plan allows (references/cloud.md); else run it again if wanted",
        )
    if state.outcome == "error":
        return failure(state, job.graph)
    if failed:
        return _incomplete(job, failed, options)
    if missed:
        message = (
            f"the pictures of node {safe_text.name(missed[0])} went to another client's socket; "
            "the server keeps no copy"
        )
        return _words("partial", "missed_pictures", message, "run it again with --ws and wait for it")
    if job.accepted.node_errors:
        message = "part of the graph failed validation and was dropped by the server; the rest ran"
        return _words(
            "partial", "dropped_nodes", message, "correct the nodes under `dropped`, or use --strict"
        )
    return {"status": "success"}


def _incomplete(job: Job, failed: list[collect.Failed], options: Options) -> dict[str, Any]:
    """Some files could not be fetched; asking again only helps where the server may still have them."""
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    first = failed[0]
    lost = safe_text.quoted(first.json()["filename"])
    message = f"the run succeeded, but {lost}{more} could not be downloaded: {first.error.message}"
    if all(item.error.code in FINAL_DOWNLOAD_FAILURES for item in failed):
        return _words(
            "partial",
            "download_failed",
            message,
            "the server does not provide these files; see failed_downloads",
        )
    disk = all(item.error.code == "system_error" for item in failed)
    hint = (
        "check the output folder and the disk, then fetch them again"
        if disk
        else "fetch them again when the server answers"
    )
    words = _words("partial", "download_failed", message, hint, retryable=True)
    return words | {"next": [resume_command(job.server, job.prompt_id, options)]}


def _words(status: str, code: str, message: str, hint: str, *, retryable: bool = False) -> dict[str, Any]:
    return {"status": status, "code": code, "message": message, "hint": hint, "retryable": retryable}


def _interrupted(job: Job, state: JobState, anything: bool, options: Options) -> dict[str, Any]:
    if state.phase in ("pending", "running"):
        message = "interrupted; the job is being cancelled but has not ended yet"
        words = _words("cancelled", "interrupted", message, "its running node finishes first")
        return words | {"next": [resume_command(job.server, job.prompt_id, options)]}
    if state.outcome == "success":
        return _words(
            "success", "interrupted", "interrupted, but the job had already finished", "its files are here"
        )
    return _words(
        "cancelled",
        "interrupted",
        "interrupted by the user; the job was stopped",
        "its finished files are here" if anything else "nothing was finished; run it again if wanted",
    )


def _lost(job: Job, options: Options) -> dict[str, Any]:
    """A restarted ComfyUI forgets its jobs; a service that keeps records but shows none may still have run the job."""
    if job.server.keeps_records and job.ours:
        words = _words(
            "lost",
            "lost",
            "the server accepted this job but has no record of it; its outcome is not known",
            "ask again by its prompt id, and check the server's own job page, before running it again: it may have "
            "run, and be paid for",
        )
        return words | {"next": [resume_command(job.server, job.prompt_id, options)]}
    message = "the server has no trace of this job: it was restarted or its history was cleared"
    hint = "run the workflow again"
    if not job.ours:
        message = "the server has no trace of this prompt id: it is wrong, or the server was restarted since"
        hint = (
            "compare the id and --host with the server's job list; run it again only if the job is not there"
        )
    words = _words("lost", "lost", message, hint, retryable=job.ours)
    return words | {"next": [job.server.list_command()]}


def _why_no_files(state: JobState, texts: list[dict[str, Any]], job: Job) -> str:
    """Why a success brought no file."""
    if temporary := collect.temporary_count(state.outputs):
        return f"only {temporary} temporary preview(s) were made; --include-previews downloads them"
    if texts:
        return "the workflow produced only text; see `texts`"
    if job.server.api == "v2":
        return "the server lists no files; texts and some kinds of files are not part of API v2"
    if job.blocked:
        return "some nodes withheld their results, so the nodes after them did not run; see `blocked`"
    if not state.outputs:
        return "the server reports no outputs: no output node ran, or all results came from the cache of an unrecorded run"
    return "the output nodes reported neither files nor texts"


def failure(
    state: JobState, graph: Mapping[str, Any], *, said: int = SAID, full: bool = False
) -> dict[str, Any]:
    """The report keys for a job that failed: which node, class and title, its values, the cause, the exception.

    `error.traceback` begins with the innermost frame, where it broke; with `full` it is whole. `said` caps the
    server's message, in characters.
    """
    error = state.error or {}
    node_id = safe_text.clean(error.get("node_id") or "", 60)
    node = node_of(graph, node_id)
    class_type = safe_text.clean(
        error.get("node_type") or error.get("class_type") or node.get("class_type") or "", 80
    )
    meta = node.get("_meta")
    title = safe_text.clean(meta.get("title") or "", 80) if isinstance(meta, Mapping) else ""
    exception = safe_text.clean(error.get("exception_type") or "", 120)
    message = safe_text.clean(
        error.get("exception_message") or error.get("message") or "no reason given", said
    )
    found = diagnose.diagnose(exception, message)
    where = (
        f"node {safe_text.name(node_id)} ({safe_text.name(title or class_type)})" if node_id else "the server"
    )
    return {
        "status": "error",
        "code": found.code,
        "message": f"{where} failed{_why(found, exception)}",
        "hint": found.hint,
        "retryable": False,
        "error": {
            "node_id": node_id,
            "class_type": class_type,
            "title": title,
            "inputs": values_of(node),
            "exception_type": exception,
            "server_said": message.strip(),
            "traceback": _traceback(error.get("traceback"), full),
        },
    }


def _why(found: diagnose.Diagnosis, exception: str) -> str:
    """The cause in plain words if it is known, with the exception's own name."""
    if found is diagnose.UNKNOWN:
        return f": {safe_text.quoted(exception)}" if exception else ""
    return f": {found.cause}" + (f" ({safe_text.name(exception)})" if exception else "")


def node_of(graph: Mapping[str, Any], node_id: str) -> Mapping[str, Any]:
    """The node of an id; the nodes that a node has made ("5.0.1") are that node's."""
    node = graph.get(node_id.split(".")[0])
    return foreign.mapping(node)


def values_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """The values set on a node, without its links."""
    return {
        safe_text.clean(name, 80): shown_value(name, value)
        for name, value in list(nodes.inputs_of(node).items())[:MOST_INPUTS]
        if nodes.link_of(value) is None
    }


def shown_value(name: str, value: Any) -> Any:
    """A value as reports show it: cleaned and capped, hidden when its name suggests a secret; links stay links."""
    if SECRET_NAME.search(name):
        return safe_text.HIDDEN
    link = nodes.link_of(value)
    if link is not None:
        return {"from_node": safe_text.clean(link.node_id, 60), "output": link.slot}
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    return safe_text.clean(value if isinstance(value, str) else repr(value), MOST_VALUE)


def _traceback(trace: Any, full: bool) -> list[str]:
    lines = (
        [line for text in trace for line in str(text).rstrip().splitlines()]
        if isinstance(trace, list)
        else []
    )
    return [safe_text.clean(line, 400) for line in _innermost_first(lines if full else _last_frames(lines))]


def _last_frames(lines: list[str]) -> list[str]:
    """The innermost whole frames of a traceback, without the lines of carets; last frame last."""
    plain = [line for line in lines if line.strip(" ^~")]
    kept = plain[-TRACE_LINES:]
    starts = [index for index, line in enumerate(kept) if line.lstrip().startswith("File ")]
    return kept[starts[0] :] if starts and len(plain) > len(kept) else kept


def _innermost_first(lines: list[str]) -> list[str]:
    """Frames in reverse order, each frame's own lines kept in theirs."""
    frames: list[list[str]] = []
    for line in lines:
        if line.lstrip().startswith("File ") or not frames:
            frames.append([])
        frames[-1].append(line)
    return [line for frame in reversed(frames) for line in frame]


def proposals(graph: Mapping[str, Any], server: Dialect | None = None) -> list[dict[str, str]]:
    """Concrete changes for this graph, the least painful first: [{"use", "why"}]."""
    found: list[dict[str, str]] = []
    for node_id, node in nodes.each(graph):
        inputs = nodes.inputs_of(node)
        found += _smaller_batch(node_id, inputs)
        found += _fewer_frames(node_id, inputs)
        found += _lower_precision(node_id, nodes.class_of(node), inputs, server)
    if any(nodes.class_of(node) == "VAEDecode" for _, node in nodes.each(graph)):
        found.insert(0, {"use": "--tiled-vae", "why": "decode the picture in tiles: slower, far less memory"})
    for node_id, node in nodes.each(graph):
        found += _smaller_size(node_id, nodes.inputs_of(node))
    return found or _elsewhere(server)


def _elsewhere(server: Dialect | None) -> list[dict[str, str]]:
    """What helps when the graph itself has nothing to make smaller."""
    found = [
        {"use": "a smaller input picture", "why": "this graph sets no size, batch or decoder of its own"}
    ]
    if server is not None and server.api != "local":
        return found

    words = server.flags if server is not None else []
    return [
        {
            "use": command("manage_queue.py", "free", "--models", "--memory", *words),
            "why": "it frees what earlier runs left in memory; then run it again (--retry-oom does both)",
        },
        *found,
        {
            "use": "start the server with --lowvram",
            "why": "it keeps parts of the models in main memory: slower",
        },
    ]


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _smaller_batch(node_id: str, inputs: Mapping[str, Any]) -> list[dict[str, str]]:
    batch = _whole(inputs.get("batch_size"))
    if batch is None or batch < 2:
        return []
    return [
        {
            "use": f"--set {node_id}.batch_size=1",
            "why": f"one picture at a time instead of {batch}; repeat with run_batch.py",
        }
    ]


def _fewer_frames(node_id: str, inputs: Mapping[str, Any]) -> list[dict[str, str]]:
    name = next((name for name in ("length", "num_frames", "frames") if _whole(inputs.get(name))), None)
    frames = _whole(inputs.get(name)) if name else None
    if frames is None or frames <= FEWEST_FRAMES:
        return []
    # Video models count frames as 4 n + 1 or 8 n + 1; a number of the second kind suits both.
    fewer = max((frames * 6 // 10) // 8 * 8 + 1, FEWEST_FRAMES)
    return [{"use": f"--set {node_id}.{name}={fewer}", "why": f"{fewer} frames instead of {frames}"}]


def _smaller_size(node_id: str, inputs: Mapping[str, Any]) -> list[dict[str, str]]:
    width, height = _whole(inputs.get("width")), _whole(inputs.get("height"))
    if width is None or height is None or min(width, height) <= SMALLEST_EDGE:
        return []
    smaller = [max(edge * 3 // 4 // EDGE_STEP * EDGE_STEP, SMALLEST_EDGE) for edge in (width, height)]
    return [
        {
            "use": f"--set {node_id}.width={smaller[0]} --set {node_id}.height={smaller[1]}",
            "why": f"{smaller[0]} x {smaller[1]} instead of {width} x {height}",
        }
    ]


def _lower_precision(
    node_id: str, class_type: str, inputs: Mapping[str, Any], server: Dialect | None
) -> list[dict[str, str]]:
    """An fp8 file of the same model when it is installed, else the loader's own fp8 switch."""
    for name, folder in (
        ("unet_name", "diffusion_models"),
        ("ckpt_name", "checkpoints"),
        ("clip_name", "text_encoders"),
    ):
        current = inputs.get(name)
        if not isinstance(current, str) or "fp8" in current.lower():
            continue
        stem = (
            current.rsplit("/", 1)[-1]
            .lower()
            .split(".")[0]
            .replace("_fp16", "")
            .replace("-fp16", "")
            .replace("_bf16", "")
        )
        for other in _installed(server, folder):
            if "fp8" in other.lower() and other.rsplit("/", 1)[-1].lower().startswith(stem):
                return [
                    {
                        "use": f"--set {node_id}.{name}={other}",
                        "why": "the fp8 file of the same model is installed",
                    }
                ]
    if class_type == "UNETLoader" and inputs.get("weight_dtype") == "default":
        return [
            {
                "use": f"--set {node_id}.weight_dtype=fp8_e4m3fn",
                "why": "load the model in 8 bits: half the memory",
            }
        ]
    return []


def _installed(server: Dialect | None, folder: str) -> list[str]:
    if server is None:
        return []
    try:
        return server.models(folder)
    except SkillError:
        return []
