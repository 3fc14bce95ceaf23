"""What run_batch.py prints about the runs of a batch: the verdict, counts, failures, servers, commands to continue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comfyskill.base import cli, safe_text
from comfyskill.base.cli import Document
from comfyskill.base.programs import command
from comfyskill.batch.flights import ServerRuns
from comfyskill.batch.scheduler import Batch
from comfyskill.run.verdict import SUCCESS, Verdict
from comfyskill.server import protocol

MOST_SHOWN = 20


def report(batch: Batch, seconds: float) -> Document:
    """The JSON document: verdict, counts, failures, servers, where everything is."""
    tally = batch.tally
    document = _verdict(batch)
    document |= _counts(batch)
    document |= {"seconds": round(seconds, 3), "files": tally.files, "bytes": tally.size}
    if tally.settled and seconds > 0:
        document["runs_per_second"] = round(tally.settled / seconds, 3)
    document |= {key: tally.events[key] for key in ("moved", "ran_twice", "retried") if tally.events[key]}
    if tally.resubmitted:
        document["resubmitted"] = len(tally.resubmitted)
    if tally.failures:
        first = sorted(tally.failures, key=lambda row: int(row["run"]))[:MOST_SHOWN]
        document["failures"] = {"count": tally.failed, "items": first}
        if tally.failed > len(first):
            document["failures"]["more"] = tally.failed - len(first)
    document["hosts"] = [_host(here) for here in batch.servers]
    warnings = _report_not_cancelled(batch, document) if batch.stopping in ("interrupted", "failed") else []
    if left := batch.left:
        document["left_behind"] = {host: safe_text.cap(ids, MOST_SHOWN) for host, ids in left.items()}
        warnings += [
            f"{safe_text.counted(len(ids), 'moved run')} may still be on {host}; when it answers again, this command cancels "
            f"what is left there: {clearing_command(batch, host)}"
            for host, ids in left.items()
        ]
    if warnings:
        document["warnings"] = warnings
    if any(here.server.demo for here in batch.servers):
        document["demo"] = True
        document["demo_note"] = (
            "made by the demo server: not generated results; never present them as generated"
        )
    document["output_dir"] = str(batch.options.folder)
    if batch.lost is None:
        document["journal"] = str(batch.journal.path)
    return document


def terminated(batch: Batch) -> Document:
    """The document after SIGTERM: the runs that were submitted go on, and --resume finds them."""
    ids = [prompt_id for _, ids in _not_cancelled(batch) for prompt_id in ids]
    document: Document = {
        "status": "timeout",
        "code": "still_running",
        "message": f"stopped by a signal; {safe_text.counted(len(ids), 'submitted run')} may go on",
        "hint": "continue with --resume; finished runs are not repeated",
        "retryable": False,
    }
    if batch.folder_lost():
        document["hint"] = "the output folder was removed: this batch cannot be resumed"
    else:
        document["next"] = [_resume_command(batch)]
    return {
        **document,
        **_counts(batch),
        "prompt_ids": safe_text.cap(ids, MOST_SHOWN),
        "output_dir": str(batch.options.folder),
    }


def resume_command(folder: Path, hosts: Sequence[str], api: str | None, trust: Sequence[str]) -> str:
    """The command that continues the batch in a folder, without keys.

    hosts: as --host takes them. api: None for a plain ComfyUI. trust: the flags for TLS.
    """
    named = [word for host in hosts for word in ("--host", host)]
    return command("run_batch.py", "--resume", folder, *named, *protocol.api_flags(api), *trust)


def _resume_command(batch: Batch) -> str:
    api = batch.servers[0].server.api if batch.servers else None
    return resume_command(batch.options.folder, batch.options.hosts, api, batch.options.trust)


def clearing_command(batch: Batch, host: str) -> str:
    """The command that cancels what was left on a server; it names the server unless the journal does."""
    named = batch.options.hosts
    known = host in named or (not named and host in batch.listed)
    hosts = named if known else (*named, host)
    return resume_command(batch.options.folder, hosts, None, batch.options.trust)


def _counts(batch: Batch) -> Document:
    tally = batch.tally
    document = {
        "runs": batch.recipe.plan.count,
        "succeeded": tally.succeeded,
        "failed": tally.failed,
        "not_run": max(batch.to_do - tally.settled, 0),
    }
    if tally.earlier:
        document["done_before"] = tally.earlier
    if tally.earlier_failed:
        document["failed_before"] = tally.earlier_failed
    return document


def _host(here: ServerRuns) -> Document:
    row: Document = {"host": here.url, "api": here.server.api, "runs": here.count}
    if here.seconds_each is not None:
        row["seconds_each"] = round(here.seconds_each, 3)
    if here.failure is not None:
        row["problem"] = here.failure.message
    elif here.away:
        row["problem"] = "no longer answers"
    return row


def _not_cancelled(batch: Batch) -> list[tuple[ServerRuns, list[str]]]:
    """Servers with the prompt ids that may still wait or execute there."""
    found = []
    for here in batch.servers:
        ids = [*here.ids, *batch.unsettled(here.server)]
        if here.submitting is not None and here.server.own_ids:
            ids.append(here.submitting)
        if ids:
            found.append((here, list(dict.fromkeys(ids))))
    return found


def _report_not_cancelled(batch: Batch, document: Document) -> list[str]:
    """Add the runs that could not be cancelled to the document, as they may cost; the warnings about them."""
    warnings = []
    for here, ids in _not_cancelled(batch):
        document.setdefault("not_cancelled", {})[here.url] = safe_text.cap(ids, MOST_SHOWN)
        cancel = here.server.cancel_command(ids[:MOST_SHOWN])
        document.setdefault("next", []).append(cancel)
        warnings.append(
            f"{safe_text.counted(len(ids), 'submitted run')} could not be cancelled on {here.url} and may go on there; "
            f"when it answers, this command cancels what is left: {cancel}"
        )
    warnings += [
        f"{here.url} did not answer a submit: that run may go on there; --resume looks for it first"
        for here in batch.servers
        if here.submitting is not None and not here.server.own_ids
    ]
    for warning in warnings:
        cli.warn(warning)
    return warnings


def _verdict(batch: Batch) -> Document:
    """The keys that the report begins with."""
    tally = batch.tally
    failed = tally.failed
    if batch.lost is not None:
        return Verdict("partial", batch.lost.code, batch.lost.message, batch.lost.hint or "").document()
    if batch.complete and not failed:
        return SUCCESS.document()
    again = _resume_command(batch)
    hint = "--resume continues where it stopped"
    if failed:
        hint = "see failures; --resume continues, --retry-failed runs the failed ones again"
    if batch.stopping == "interrupted":
        done = tally.succeeded
        what = f"{safe_text.counted(done, 'run')} succeeded" if done else "no run had succeeded yet"
        message = f"interrupted by the user; {what}"
        return Verdict("cancelled", "interrupted", message, hint, True, [again]).document()
    if batch.failure is not None and not batch.complete:
        error = batch.failure
        code = error.code if error.code != "unreachable" else "server_gone"
        status = "refused" if batch.stopping == "refused" else "partial"
        fix = error.hint or "fix it, then continue with --resume"
        verdict = Verdict(status, code, f"stopped: {error.message}", fix, error.retryable, [again])
        return verdict.document() | error.details
    if batch.stopping == "failed":
        message = "stopped at the first failure (--stop-on-error)"
        return Verdict("partial", "stopped_on_error", message, hint, next=[again]).document()
    if tally.ends["rejected"] and tally.ends["rejected"] == tally.settled and not tally.earlier:
        # All rejected: after the first few the rest was not tried.
        first = tally.failures[0] if tally.failures else {}
        message = str(first.get("message") or "the server rejected every run")
        fix = first.get("hint") or "correct the workflow; scripts/validate_workflow.py shows what is wrong"
        return Verdict("rejected", "rejected", message, fix).document()
    if not batch.complete:
        return Verdict("partial", "unfinished", "not every run finished", hint, True, [again]).document()
    message = f"{failed} of {safe_text.counted(batch.recipe.plan.count, 'run')} did not succeed"
    return Verdict("partial", "runs_failed", message, hint, next=[f"{again} --retry-failed"]).document()
