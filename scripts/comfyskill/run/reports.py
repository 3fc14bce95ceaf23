"""The JSON documents of a run: how it ended, its files, the workflow and its values, and the next command."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.run import collect as run_collect
from comfyskill.run import verdict
from comfyskill.run.job import Options, Run, resume_command
from comfyskill.run.result import Result, collect
from comfyskill.server.protocol import Accepted, Dialect, Graph, JobState

if TYPE_CHECKING:
    from comfyskill.run.prepare import Prepared
    from comfyskill.server import events
    from comfyskill.server.facts import Facts

# An agent reads the document, so it stays short; a receipt names every file.
MOST_FILES = 500
MOST_FAILED = 50
MOST_PREVIEWS = 20
CLOCK_GRAIN = 2.0  # some servers report times in whole seconds


def head(server: Facts, prompt_id: str | None = None) -> Document:
    """The keys that every report of a job begins with, after `status`."""
    document: Document = {"prompt_id": prompt_id} if prompt_id is not None else {}
    document |= {"host": server.url, "api": server.api}
    if server.demo:
        document["demo"] = True
        document["demo_note"] = (
            "from the demo server, which only simulates models: never show it as a generated result"
        )
    return document


def about(prepared: Prepared | None) -> Document:
    """The report keys about the workflow and its values."""
    if prepared is None:
        return {}
    source = prepared.source
    document: Document = {"workflow": source.origin, "seeds": prepared.seeds}
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


def submitted(server: Dialect, accepted: Accepted, prepared: Prepared, options: Options) -> Document:
    """The report of --no-wait."""
    return {
        "status": "submitted",
        **head(server, accepted.prompt_id),
        **about(prepared),
        **_dropped(server, accepted.node_errors, prepared.graph),
        "next": [resume_command(server, accepted.prompt_id, options)],
    }


def _dropped(server: Dialect, node_errors: Mapping[str, object], graph: Graph) -> Document:
    if not node_errors:
        return {}
    from comfyskill.server import refusals

    whole = server.with_options({"node_errors": node_errors})["node_errors"]
    return {"dropped": refusals.node_problems(whole, graph)}


def strict_rejection(run: Run, accepted: Accepted) -> SkillError:
    """--strict: a branch failed validation, so the whole run was stopped."""
    return SkillError(
        "the server dropped part of the graph, so the rest was stopped too (--strict)",
        code="rejected",
        status="rejected",
        hint="correct the nodes under `dropped`, or run without --strict",
        next=[run.server.explain_command(run.prompt_id)],
        **head(run.server, run.prompt_id),
        **_dropped(run.server, accepted.node_errors, run.graph),
    )


def finished(run: Run, state: JobState) -> Document:
    """The report of a job that has ended, after its outputs are downloaded and its receipt is written."""
    result = collect(run, state)
    report = document(result)
    if run.options.receipt and state.done:
        from comfyskill.run import receipt

        report["receipt"] = str(receipt.write(result, report))
    return report


def document(result: Result) -> Document:
    """The report of a run."""
    run, seconds = result.run, round(result.seconds, 3)
    report = verdict.of_run(result).document() | head(run.server, run.prompt_id)
    report |= {"seconds": seconds, **_execution_seconds(run, result.state, seconds)}
    if result.saved:
        report["download_seconds"] = round(result.download_seconds, 3)
    report |= _listed_files(result.saved, run.options.output_dir)
    if result.texts:
        report["texts"] = result.texts
    if result.failed:
        report["failed_downloads"] = [item.json() for item in result.failed[:MOST_FAILED]]
    report |= _while_running(run)
    report |= about(run.prepared) | _account(run)
    if run.prepared is None:
        report |= _seeds_in(run.graph)
    if result.state.outcome == "success" and not (result.saved or result.failed or result.missed):
        report["message"] = _why_no_files(result)
    return report


def _while_running(run: Run) -> Document:
    """What was seen of the run before its end."""
    report: Document = {}
    if run.accepted is not None:
        report |= _dropped(run.server, run.accepted.node_errors, run.graph)
    if run.blocked:
        report["blocked"] = [_blocked(event, run.graph) for event in run.blocked[:MOST_FAILED]]
    if run.accepted is not None and run.accepted.found_again:
        report["submit_note"] = (
            "the answer to the submit was lost; the job was found on the server, not sent again"
        )
    if run.progress.cached:
        report["cached_nodes"] = len(run.progress.cached)
    if run.options.save_previews is not None:
        report["previews"] = safe_text.cap([str(path) for path in run.previews], MOST_PREVIEWS)
        if not run.previews:
            report["previews_note"] = _why_no_previews(run)
    if run.accepted is not None and run.accepted.renamed:
        report["replaced_classes"] = [
            {
                "node_id": safe_text.clean(node.node_id, 60),
                "class_type": safe_text.clean(node.old, 80),
                "ran_as": safe_text.clean(node.new, 80),
            }
            for node in run.accepted.renamed
        ]
    return report


def _why_no_previews(run: Run) -> str:
    """Why --save-previews saved no picture."""
    if not run.ours:
        return "the server sends previews only to the client that submitted the job"
    if run.missed_frames:
        return "previews come only through the WebSocket, which was not open all the time"
    if not run.keeps_previews:
        return "they could not be written to the folder"
    if run.progress.cached:
        return "the server sent none: it had at least a part of the results in its cache"
    return "the server sent none: no node of this graph samples, or the server cannot make previews"


def _seeds_in(graph: Graph) -> Document:
    """The seeds of a job that is only waited for: random ones are recorded only in its graph."""
    from comfyskill.graph import facts

    seeds = facts.seeds_of(graph)
    return {"seeds": seeds} if seeds else {}


def _listed_files(saved: list[run_collect.Saved], folder: Path) -> Document:
    """The files, and when there are very many: how many are not listed and where they are."""
    listed: Document = {"outputs": [item.json() for item in saved[:MOST_FILES]]}
    if len(saved) > MOST_FILES:
        left = len(saved) - MOST_FILES
        listed["outputs_not_listed"] = {"count": left, "of": len(saved), "folder": str(folder)}
    return listed


def _blocked(event: events.Event, graph: Graph) -> Document:
    """A node that did not run because an earlier node withheld its result, with that node's message. No record keeps it."""
    node = foreign.mapping(graph.get(str(event.node)))
    return {
        "node_id": safe_text.clean(event.node or "", 60),
        "class_type": safe_text.clean(node.get("class_type") or event.data.get("node_type") or "", 80),
        "server_said": safe_text.clean(event.data.get("exception_message") or "", 300).strip(),
    }


def _account(run: Run) -> Document:
    """After a run with partner nodes: the plan and the remaining credits, if the server reports them."""
    if run.prepared is None or not run.prepared.partner:
        return {}
    try:
        account = run.server.account()
    except SkillError:
        return {}
    return {"account": account} if account else {}


def _execution_seconds(run: Run, state: JobState, seconds: float) -> Document:
    """No job of ours executed for longer than we waited for it: the server's clock was set forward meanwhile."""
    executed = state.execution_seconds
    if executed is None or (run.ours and executed > seconds + CLOCK_GRAIN):
        return {}
    return {"execution_seconds": round(executed, 3)}


def _why_no_files(result: Result) -> str:
    """Why a success brought no file."""
    outputs = result.state.outputs
    if temporary := run_collect.temporary_count(outputs):
        return f"only {temporary} temporary preview(s) were made; --include-previews downloads them"
    if result.texts:
        return "the workflow produced only text; see `texts`"
    if result.run.server.api == "v2":
        return "the server lists no files; texts and some kinds of files are not part of API v2"
    if result.run.blocked:
        return "some nodes withheld their results, so the nodes after them did not run; see `blocked`"
    if not outputs:
        return "the server reports no outputs: no output node ran, or all results came from the cache of an unrecorded run"
    return "the output nodes reported neither files nor texts"
