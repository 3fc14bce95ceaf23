"""Submitting a graph: what is sent with it, what is checked before, and which jobs on a server are ours."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import _common
from comfyskill.base import cache, cli, foreign, safe_text
from comfyskill.base.cli import Document, Misuse, SkillError
from comfyskill.base.programs import command
from comfyskill.graph import facts
from comfyskill.graph.nodes import Definitions, upstream_of
from comfyskill.server import node_definitions
from comfyskill.server.facts import Facts, version_of
from comfyskill.server.protocol import Accepted, Dialect, Graph, Submission, is_uuid

if TYPE_CHECKING:
    from comfyskill.graph.finding import Finding
    from comfyskill.run.job import Options
    from comfyskill.run.prepare import Prepared

# The first version of ComfyUI that is known to reject a prompt id of another form.
UUIDS_ONLY = (0, 33)
MOST_FINDINGS = 50
MISSING_PARTS = frozenset({"unknown_class", "not_in_list", "file_missing"})
# The ids of our jobs are kept in a file per server in the cache folder; the newest of them when it grows over this.
MOST_BYTES = 200_000
MOST_KEPT = 1000
_open: dict[str, int | None] = {}


def partner_key(server: Dialect, prepared: Prepared, given: str | None) -> str | None:
    """The key for partner nodes that goes with a graph: the one given, else the environment's where a node needs it.

    Raises SkillError `consent_needed` when it would travel unencrypted to another machine, and misuse when only a file
    names the server.
    """
    key = given or (os.environ.get("COMFY_PARTNER_KEY") if prepared.partner else None)
    safe_text.hide(key)
    if key:
        if not server.named:
            raise _common.not_named([server.url])
        _common.refuse_plain_http(server.url, server.access)
    return key


def new_submission(server: Dialect, prepared: Prepared, options: Options) -> Submission:
    """The graph with the ids and the extra data that go with it. Raises SkillError as `partner_key` does."""
    extra: Document = {}
    if prepared.source.editor is not None:
        # The editor's own file travels along, so that a result dragged into ComfyUI opens with its layout.
        extra["extra_pnginfo"] = {"workflow": prepared.source.editor}
    if key := partner_key(server, prepared, options.partner_key):
        extra["api_key_comfy_org"] = key
    if options.save_previews is not None and server.api == "local" and not _sends_previews(server):
        extra["preview_method"] = "auto"
    return Submission(
        prepared.graph,
        options.prompt_id or str(uuid.uuid4()),
        options.client_id or uuid.uuid4().hex,
        extra,
        front=options.front,
        targets=options.targets,
    )


def _sends_previews(server: Dialect) -> bool:
    """Whether the server was started with a preview method of its own, which ours would replace for this run."""
    try:
        arguments = foreign.items(foreign.mapping(server.stats().get("system")).get("argv"))
    except SkillError:
        return False
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, _, value = str(argument).partition("=")
        if flag == "--preview-method":
            return (value or following) != "none"
    return False


def checked_submission(server: Dialect, prepared: Prepared, options: Options) -> Submission:
    """As `new_submission`, with its id and its targets checked. Raises also misuse (exit 2)."""
    if options.prompt_id and server.own_ids:
        _check_id(server, options.prompt_id)
    submission = new_submission(server, prepared, options)
    if options.front and not server.chooses_front:
        cli.warn("this server orders its queue itself: --front changes nothing")
    if options.targets is not None:
        check_targets(server, prepared.graph, options.targets)
    return submission


def _check_id(server: Dialect, prompt_id: str) -> None:
    """Refuse a chosen id that the server would reject, or has already."""
    if server.api == "local" and not is_uuid(prompt_id) and version_of(server) >= UUIDS_ONLY:
        raise Misuse(
            f"this server takes only lowercase UUIDs with hyphens as prompt ids, not {safe_text.quoted(prompt_id)}",
            code="bad_prompt_id",
            hint="omit --prompt-id, or give a UUID (ComfyUI 0.33 and newer require one; 0.8 takes any text)",
        )
    if server.state(prompt_id).phase != "unknown":
        raise Misuse(
            f"the server already knows the prompt id {prompt_id}",
            code="prompt_id_taken",
            hint="give another --prompt-id, or fetch that job with --resume",
        )


def check_targets(server: Facts, graph: Graph, targets: Sequence[str]) -> None:
    """Refuse a target that is not an output node: the server would silently ignore it."""
    definitions = node_definitions.of_classes(server, node_definitions.classes_of(graph))
    outputs = [node.node_id for node in facts.outputs_of(graph, definitions)]
    for target in targets:
        if target not in outputs:
            what = "is not in the graph" if target not in graph else "is not an output node"
            raise Misuse(
                f"--only: node {safe_text.quoted(target)} {what}",
                code="no_such_output_node",
                hint=f"output nodes: {safe_text.quoted_list(outputs, 20) or 'none'}",
            )


def submit(server: Dialect, submission: Submission) -> Accepted:
    """Submit exactly once; where the server does not say which node is wrong, our own check of the graph does.

    That is a rejection without node errors, or HTTP 500, with which ComfyUI answers some graphs that it cannot read.
    """
    try:
        return server.submit(submission)
    except SkillError as error:
        if error.code == "submit_failed" and server.api == "local":
            what = "the server failed on the submit, and it cannot run this graph"
        elif error.code == "rejected" and not error.details.get("node_errors"):
            what = "the server rejected the graph"
        else:
            raise
        wrong = _wrong_nodes(server, submission.graph)
        if not wrong:
            raise
        raise _explained(error, what, wrong) from error


def _wrong_nodes(server: Dialect, graph: Graph) -> list[Finding]:
    """The errors of a graph as the server would run it; none when its definitions cannot be fetched."""
    try:
        sent, _ = server.replaced(graph)
        return _errors_in(sent, server.definitions(node_definitions.classes_of(sent)))
    except SkillError:
        return []


def _explained(error: SkillError, what: str, wrong: Sequence[Finding]) -> SkillError:
    return SkillError(
        f"{what}: {_first_of(wrong)}",
        code="rejected",
        status="rejected",
        hint=wrong[0].fix or error.hint,
        next=error.next,
        **error.details | {"node_errors": safe_text.clean_tree([item.to_json() for item in wrong], 400)},
    )


def _errors_in(
    graph: Graph, definitions: Definitions, replacements: Mapping[str, object] | None = None
) -> list[Finding]:
    from comfyskill.graph import check
    from comfyskill.graph.finding import ERROR

    found = check.findings(graph, definitions, replacements=replacements)
    return [item for item in found if item.severity == ERROR]


def _first_of(wrong: Sequence[Finding]) -> str:
    return wrong[0].message + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")


def rejection(
    server: Facts,
    graph: Graph,
    *,
    workflow: str | None = None,
    sent: Collection[str] = (),
    only: Collection[str] | None = None,
) -> Document:
    """The keys by which a dry run says that the server would refuse the graph; none when it would take it.

    workflow: as the user named it, for the commands. sent: addresses of files that a run sends or has found itself.
    only: the output nodes that a run is limited to. Empty when the server's own definitions cannot be fetched.
    """
    known = node_definitions.fetch(server)
    if known.origin not in ("server", "inventory") or known.classes is None:
        return {}
    needed = upstream_of(graph, only) if only else None
    wrong = [
        item
        for item in _errors_in(graph, known.classes, server.replacements())
        if not (item.code == "file_missing" and f"{item.node_id}.{item.input}" in sent)
        # For nodes that --only leaves out, the server checks only the class.
        and (needed is None or item.node_id in needed or item.code in ("unknown_class", "no_class_type"))
    ]
    if not wrong:
        return {}
    document: Document = {
        "code": "would_be_rejected",
        "message": f"nothing was sent; the server would reject this graph or drop part of it: {_first_of(wrong)}",
        "hint": wrong[0].fix,
        "retryable": False,
        "would_be_rejected": safe_text.cap([item.to_json() for item in wrong], MOST_FINDINGS),
    }
    if workflow and workflow != "-":
        missing = any(item.code in MISSING_PARTS for item in wrong)
        script = "check_deps.py" if missing else "validate_workflow.py"
        document["next"] = [command(script, workflow, *server.flags)]
    return document


def remember(url: str, prompt_id: str) -> None:
    """Record a submitted job as ours; never raises."""
    if "\n" in prompt_id or len(prompt_id) > 200:
        return
    try:
        if url not in _open:
            _open[url] = _opened(url)
        handle = _open[url]
        if handle is not None:
            # One short O_APPEND write is whole even when several commands run at once.
            os.write(handle, f"{prompt_id}\n".encode())
    except OSError:
        return


def _opened(url: str) -> int | None:
    """The file to append to, shortened when it has grown (a batch opens it once); None without a cache."""
    place = cache.group("ours", make=True)
    if place is None:
        return None
    path = place / f"{cache.slug(url)}.txt"
    if path.exists() and path.stat().st_size > MOST_BYTES:
        kept = path.read_text(encoding="utf-8").splitlines()[-MOST_KEPT:]
        path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def known(url: str) -> set[str]:
    """The prompt ids that were submitted from here."""
    place = cache.group("ours")
    if place is None:
        return set()
    try:
        return set((place / f"{cache.slug(url)}.txt").read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return set()
