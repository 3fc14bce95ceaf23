"""A batch from its flags to its report: plan, servers, consent, folder, runs.

All refusals happen here, before anything is sent.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from comfyskill.base import cli, file_names, paths, safe_text
from comfyskill.base.cli import Document, Exit, Misuse, SkillError
from comfyskill.batch import fetch, hosts
from comfyskill.batch import journal as batch_journal
from comfyskill.batch import plan as batch_plan
from comfyskill.batch.fill import Filler
from comfyskill.batch.flags import Request
from comfyskill.batch.flights import BatchOptions
from comfyskill.batch.recipe import Recipe
from comfyskill.graph import facts as graph_facts
from comfyskill.run import submit
from comfyskill.run.prepare import Wishes
from comfyskill.server import facts as server_facts
from comfyskill.server.facts import Facts
from comfyskill.server.protocol import Dialect, Graph
from comfyskill.source import read

# Paid runs allowed without consent.
FEW_PAID_RUNS = 5
# Runs that a server may have got within the second whose journal lines a power cut can take.
LOST_LINES = 200


class _Work(NamedTuple):
    """All that is decided before the first run."""

    recipe: Recipe
    ready: list[Filler]
    notes: list[str]
    options: BatchOptions


def report(request: Request) -> tuple[Document, Path | None]:
    """What run_batch.py prints, and the folder to make pages for (None: no pages).

    Raises SkillError for what must be corrected first; then nothing was sent."""
    document, work = _resume(request) if request.resume else _begin(request)
    if work is None:
        return document, None
    if work.notes:
        document |= {"warnings": [*work.notes, *document.get("warnings", ())]}
    shown = request.pages and document.get("code") not in ("still_running", "output_gone")
    return document, work.options.folder if shown else None


def naming_the_rest(document: Document) -> Document:
    """The document, with the file that lists the failures which it leaves out."""
    failures = document.get("failures")
    if not failures or not failures.get("more"):
        return document
    elsewhere = {"all_in": document.get("results_csv") or document["journal"]}
    return document | {"failures": failures | elsewhere}


def _begin(request: Request) -> tuple[Document, _Work | None]:
    """A new batch. Without work: a dry run."""
    if request.inventory:
        connected = hosts.Connected([server_facts.load(paths.expanded(request.inventory))], [])
    else:
        connected = hosts.connect(request.servers, partner_key=request.options.run.partner_key)
    workflow = str(request.workflow)
    source = read.read_for(workflow, connected.servers[0], allow_unsure=request.allow_unsure)
    counted, wishes = count_axis(request, source.graph)
    axes = (*request.axes, *counted)
    plan = batch_plan.Plan(axes, str(uuid.uuid4()), request.limit, request.shuffled)
    recipe = Recipe(source, wishes, plan)
    ready, notes = fillers(recipe, connected.servers, dry_run=request.dry_run)
    notes = [*source.warnings, *notes]
    _check_name(request.options.name, ready[0])
    if request.dry_run:
        from comfyskill.batch import preview

        return preview.preview(recipe, ready, notes, workflow), None
    need_consent(plan, ready, yes_spend=request.yes_spend, max_runs=request.max_runs)
    work = _Work(recipe, ready, notes, _options(request, ready, connected.hosts))
    folder = work.options.folder
    with _locked(folder):
        _refuse_used(request, folder)
        line = _plan_line(work, workflow)
        with contextlib.closing(batch_journal.Journal(folder / batch_journal.NAME, fresh=True)) as journal:
            journal.write("plan", **line)
            return _run(work, journal, batch_journal.Recorded(line, 0), lost_lines=0), work


def _resume(request: Request) -> tuple[Document, _Work]:
    """Continue the batch in a folder; the journal gives its plan, and its servers unless --host does."""
    folder = request.options.folder
    batch_journal.refuse_links(folder)
    recorded = batch_journal.read(folder)
    recipe = Recipe.from_line(recorded.plan)
    connected = hosts.connect(request.servers, recorded.plan, partner_key=request.options.run.partner_key)
    _refuse_changed(request, recorded, recipe, connected.servers[0])
    ready, notes = fillers(recipe, connected.servers)
    _check_name(request.options.name, ready[0])
    options = _options(request, ready, connected.hosts)
    options = options._replace(name=options.name or recorded.plan.get("name"))
    most = max(request.max_runs, recipe.plan.count)
    need_consent(recipe.plan, ready, yes_spend=request.yes_spend, max_runs=most)
    work = _Work(recipe, ready, notes, options)
    with _locked(folder):
        recorded = batch_journal.read(folder)  # again, now that no other process writes
        hosts.recognise(recorded, [filler.server for filler in ready])
        file_names.remove_parts(folder, "run_*")
        lost_lines = 0 if recorded.clean else LOST_LINES * len(ready)
        with contextlib.closing(
            batch_journal.Journal(folder / batch_journal.NAME, keep=recorded.whole)
        ) as journal:
            return _run(work, journal, recorded, lost_lines=lost_lines), work


def _run(
    work: _Work, journal: batch_journal.Journal, recorded: batch_journal.Recorded, *, lost_lines: int
) -> Document:
    from comfyskill.batch import run

    return run.run(work.recipe, work.ready, work.options, journal, recorded, lost_lines=lost_lines)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes out of it."""
    batch_journal.refuse_links(folder)
    file_names.make_folder(folder)
    lock = batch_journal.Lock(folder)
    try:
        yield
    finally:
        lock.release()


def _refuse_changed(
    request: Request, recorded: batch_journal.Recorded, recipe: Recipe, server: Facts
) -> None:
    """The workflow that was named, or the file that the batch was made from, must still be the same."""
    origin = str(recorded.plan["workflow"].get("spec") or "")
    if not request.workflow and not (origin and Path(origin).is_file()):
        return
    try:
        # The journal holds the graph that the batch began with; the file is only compared with it.
        now = read.read_for(request.workflow or origin, server, allow_unsure=True)
    except SkillError as error:
        raise Misuse(
            f"the workflow of this batch can no longer be read: {error.message}", code="workflow_changed",
            hint=f"restore it, or remove {origin}: the journal holds the graph",
        ) from error  # fmt: skip
    recipe.refuse_changed(now)


def count_axis(request: Request, graph: Graph) -> tuple[list[batch_plan.Axis], Wishes]:
    """--count: seeds that count up, unless they are random, set elsewhere, or the workflow has none.

    Also the wishes, without the seed at which the counting starts.
    """
    runs, wishes, start = request.runs, request.wishes, request.seed_start
    if not runs:
        return [], wishes
    if start is None and "seed" in wishes.settings:
        given = str(wishes.settings["seed"])
        if not given.isdigit():
            return [batch_plan.seeds(runs, None)], wishes
        others = {name: value for name, value in wishes.settings.items() if name != "seed"}
        return [batch_plan.seeds(runs, int(given))], wishes._replace(settings=others)
    if wishes.randomize_seed or any("seed" in name for axis in request.axes for name in axis.names):
        return [batch_plan.seeds(runs, None)], wishes
    if start is None:
        start = next(iter(graph_facts.seeds_of(graph).values()), None)
    return [batch_plan.seeds(runs, start)], wishes


def _check_name(template: str | None, filler: Filler) -> None:
    """--name must fit the values of all runs (of the first thousands of each axis), before anything is sent."""
    if template is None:
        return
    plan = filler.recipe.plan
    first = dict.fromkeys(plan.names) | plan.values(0)
    for number, axis in enumerate(plan.axes):
        for step in filler.steps_to_check(number):
            fetch.made_name(template, 0, first | axis.at(step), filler.prepared.seeds)


def fillers(
    recipe: Recipe, servers: Sequence[Facts], *, dry_run: bool = False
) -> tuple[list[Filler], list[str]]:
    """A filler for each server that can run this graph, and notes about those that cannot.

    A value that only some servers take (a model that one of them has) is left to those. Raises SkillError when no
    server takes a value, or when no server can run the graph (`rejected`, with what is missing).
    """
    able: list[Filler] = []
    notes: list[str] = []
    first_error: SkillError | None = None
    for server in servers:
        try:
            able.append(_able(Filler(recipe, server, dry_run=dry_run), alone=len(servers) == 1))
        except SkillError as error:
            if len(servers) == 1:
                raise
            first_error = first_error or error
            notes.append(f"{server.url} is not used: {error.message}")
            cli.warn(notes[-1])
    if not able:
        assert first_error is not None
        raise first_error
    bad = [filler.bad_values() for filler in able]
    nowhere = set(bad[0]).intersection(*bad[1:])
    if nowhere:
        raise bad[0][min(nowhere)]
    return able, notes + _first_notes(able)


def _able(filler: Filler, *, alone: bool) -> Filler:
    """The filler, if its server can run the graph. Raises SkillError `rejected`."""
    url = filler.server.url
    if missing := filler.missing_classes():
        raise SkillError(
            f"{url} lacks node classes of this workflow: {safe_text.quoted_list(missing)}", code="rejected",
            exit=Exit.REJECTED, status="rejected", hint="run scripts/check_deps.py to see which node packs they belong to",
            missing_nodes=missing[:50],
        )  # fmt: skip
    if not alone and (problem := filler.missing_choice()):
        raise SkillError(problem, code="rejected", exit=Exit.REJECTED, status="rejected")
    return filler


def _first_notes(able: Sequence[Filler]) -> list[str]:
    """Notes of the first run from a server that takes its values."""
    last: SkillError | None = None
    for filler in able:
        try:
            return filler.check()
        except SkillError as error:
            last = error
    assert last is not None
    raise last


def need_consent(plan: batch_plan.Plan, ready: Sequence[Filler], *, yes_spend: bool, max_runs: int) -> None:
    """Raises SkillError (exit 7) for paid nodes, for many runs on a paid service, and for more runs than allowed."""
    if plan.count > max_runs:
        raise SkillError(
            f"this plan has {plan.count} runs, more than --max-runs {max_runs}", code="consent_needed",
            hint=f"take a part with --limit, or agree with --max-runs {plan.count}", flag=f"--max-runs {plan.count}",
            runs=plan.count,
        )  # fmt: skip
    if yes_spend:
        return
    paying = [filler for filler in ready if filler.prepared.partner]
    if paying:
        from comfyskill.run import spending

        nodes = {node for filler in paying for node in filler.prepared.partner}
        prepared = paying[0].prepared._replace(partner=sorted(nodes))
        what = f"{plan.count} runs would each call"
        raise spending.consent_needed(prepared, live_servers(paying), what, runs=plan.count)
    paid = [server.url for server in live_servers(ready) if _is_paid(server)]
    if paid and plan.count > FEW_PAID_RUNS:
        raise SkillError(
            f"{plan.count} runs on {paid[0]} cost credits", code="consent_needed",
            hint="ask the user, then add --yes-spend", flag="--yes-spend", runs=plan.count,
        )  # fmt: skip


def live_servers(ready: Sequence[Filler]) -> list[Dialect]:
    """The servers that can be asked; an inventory cannot."""
    return [live for filler in ready if (live := filler.server.live) is not None]


def _is_paid(server: Dialect) -> bool:
    """Whether runs on this server cost credits by themselves: the cloud and deployments, not a proxy at home."""
    if server.api == "cloud":
        return True
    return server.api == "v2" and getattr(server, "surface", "") in ("cloud", "deployment")


def _plan_line(work: _Work, workflow: str) -> Document:
    """The first line of a new batch_journal."""
    first, servers = work.ready[0], live_servers(work.ready)
    line = first.rooted_recipe().plan_line(work.options.name, first.input_files())
    # The workflow's whole path, so that --resume can see whether it has changed; empty for other origins.
    is_file = workflow != "-" and Path(workflow).is_file()
    spec = str(Path(workflow).absolute()) if is_file else ""
    return line | {
        "workflow": line["workflow"] | {"spec": spec},
        "hosts": [hosts.host_value(server) for server in servers],
        "demo": any(server.demo for server in servers),
    }


def _refuse_used(request: Request, folder: Path) -> None:
    """Raises SkillError `folder_in_use`: a second batch would mix its files with the first one's."""
    if batch_journal.begun(folder):
        from comfyskill.batch.report import resume_command

        raise Misuse(
            f"{folder} already holds a batch",
            code="folder_in_use",
            hint="continue it with --resume, or give another --output-dir",
            next=[resume_command(folder, (), None, request.options.trust)],
        )


def _options(request: Request, ready: Sequence[Filler], named: Sequence[str]) -> BatchOptions:
    """The options of the runs. Raises SkillError for a partner key that must not go to one of the servers."""
    for filler in ready:
        if (server := filler.server.live) is not None:
            submit.partner_key(server, filler.prepared, request.options.run.partner_key)
    partner = any(filler.prepared.partner for filler in ready)
    return request.options._replace(hosts=tuple(named), partner=partner)
