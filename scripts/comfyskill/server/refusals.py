"""Rejected graphs and refused jobs in plain words.

Sources: recorded validation errors of ComfyUI 0.3.64, 0.8.0 and 0.33.0; the cloud's documentation for refusal types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.graph.nodes import Graph

SAID = 300
CLOSE_ENOUGH = 0.84

# Cloud `error.type` -> our sentence and what to do. Plan refusals come as 402 now and as 429 from older servers.
REFUSALS: dict[str, tuple[str, str]] = {
    "FREE_TIER_UNAVAILABLE": (
        "the free tier currently has no API runs",
        "a paid plan (Standard or higher) includes the API",
    ),
    "FREE_TIER_EXHAUSTED": ("the free tier's runs are used up", "wait for the renewal or choose a paid plan"),
    "FREE_TIER_NOT_ALLOWED": (
        "the free tier does not include API runs",
        "a paid plan (Standard or higher) includes the API",
    ),
    "PAYMENT_REQUIRED": ("the account has no credits for this run", "add credits, then run again"),
    "CLOUD_SUBSCRIPTION_REQUIRED": (
        "the account has no active subscription",
        "subscribe or renew, then run again",
    ),
    "PARTNER_NODE_PAYMENT_REQUIRED": (
        "a partner (paid API) node in this graph needs credits that the account lacks",
        "add credits, or use a workflow without partner nodes",
    ),
    "MODEL_PAYMENT_REQUIRED": (
        "a model in this graph is not part of the plan",
        "choose another model or plan",
    ),
    "PARTNER_NODE_DISABLED": (
        "the workspace's policy blocks a partner provider used by this graph",
        "ask the workspace's owner, or use a workflow without that node",
    ),
    "insufficient_credits": ("the account has no credits for this run", "add credits, then run again"),
}
# Over a limit; space returns when jobs finish.
FULL_QUEUE = frozenset({"QUEUE_LIMIT", "queue_full"})


def refusal(error_type: str, said: str, **details: Any) -> SkillError | None:
    """The sentence for a typed refusal (exit 4), or None when the type is not a refusal we know."""
    if error_type not in REFUSALS:
        return None
    message, hint = REFUSALS[error_type]
    return SkillError(
        message,
        code="refused",
        hint=hint,
        refusal=error_type,
        server_said=safe_text.clean(said, SAID),
        **details,
    )


def rejection(body: object, graph: Graph) -> SkillError:
    """A rejected graph (exit 6): what the server objects to, node by node, with the nearest allowed values first."""
    answer = foreign.mapping(body)
    error = answer.get("error")
    error = error if isinstance(error, Mapping) else {"message": str(error or body)}
    problems = node_problems(answer.get("node_errors"), graph)
    kind = str(error.get("type") or "rejected")
    message, hint = _of_nodes(problems) if problems else _of_graph(kind, error, graph)
    return SkillError(
        message,
        code="rejected",
        status="rejected",
        hint=hint,
        rejection=kind,
        node_errors=problems,
        server_said=_said(error, answer.get("node_errors")),
    )


def _said(error: Mapping[str, object], node_errors: object) -> str:
    """What the server says; when it gives details only for nodes, those of the first one."""
    parts = [error.get("message"), error.get("details")]
    if not parts[1]:
        for entry in foreign.mapping(node_errors).values():
            first = next(iter(foreign.mappings(foreign.mapping(entry).get("errors"))), {})
            parts += [first.get("message"), first.get("details")]
            break
    return safe_text.clean(": ".join(str(part) for part in parts if part), 600)


def _of_nodes(problems: Sequence[Document]) -> tuple[str, str]:
    first = problems[0]
    # A cycle is one problem, which the server repeats for each of its nodes.
    distinct = {problem["message"] for problem in problems}
    more = f" (and {len(distinct) - 1} more)" if len(distinct) > 1 else ""
    return f"the server rejected the graph: {first['message']}{more}", first["fix"]


def _of_graph(kind: str, error: Mapping[str, object], graph: Graph) -> tuple[str, str]:
    """Message and hint for a rejection that names no node error."""
    if kind == "prompt_no_outputs":
        return (
            "the graph has no output node that could run",
            "add a node that saves or previews, or check --only",
        )
    if kind in ("invalid_prompt", "missing_node_type"):
        return _missing_class(error, graph)
    if kind == "invalid_prompt_id":
        return (
            "the server rejected the prompt id, not the graph: it takes only lowercase UUIDs with hyphens",
            "omit --prompt-id, or give a UUID",
        )
    if kind == "no_prompt":
        return "the server found no graph in the request", "give an API-format or editor-format workflow"
    if kind == "prompt_outputs_failed_validation":
        return (
            "the server rejected the graph without naming a node: usually a cycle of links",
            "check the links",
        )
    return f"the server rejected the graph ({safe_text.name(kind)})", "see server_said"


def _missing_class(error: Mapping[str, object], graph: Graph) -> tuple[str, str]:
    """A node whose class the server lacks. Before 0.33 only the details named it, as in `Node ID '#3'`."""
    extra = foreign.mapping(error.get("extra_info"))
    found = re.search(r"#([^']+)'", str(error.get("details") or ""))
    node_id = str(extra.get("node_id") or (found[1] if found else ""))
    node = graph.get(node_id)
    class_type = extra.get("class_type") or foreign.mapping(node).get("class_type")
    if class_type:
        what = f"{safe_text.quoted(class_type)} (node {safe_text.name(node_id)})"
    elif isinstance(node, Mapping):
        return (
            f"node {safe_text.name(node_id)} has no class_type",
            "take the workflow from its source again: the node is damaged, or its class was not installed when it was saved",
        )
    else:
        what = safe_text.quoted(error.get("message") or error.get("details") or "unknown")
    return (
        f"the server lacks a node of this graph: {what}",
        "run scripts/check_deps.py to see which node packs are missing",
    )


def with_options(node_errors: object, definition_of: Callable[[str], object]) -> object:
    """Node errors with the input's definition where the server left it out, as it does for more than 20 values."""
    if not isinstance(node_errors, Mapping):
        return node_errors
    whole = dict(node_errors)
    for node_id, entry in node_errors.items():
        errors = foreign.items(foreign.mapping(entry).get("errors"))
        if any(_lacks_options(error) for error in errors):
            known = definition_of(str(entry.get("class_type")))
            whole[node_id] = {**entry, "errors": [_with_config(error, known) for error in errors]}
    return whole


def _lacks_options(error: object) -> bool:
    error = foreign.mapping(error)
    extra = error.get("extra_info")
    return (
        error.get("type") == "value_not_in_list"
        and isinstance(extra, Mapping)
        and extra.get("input_config") is None
    )


def _with_config(error: object, definition: object) -> object:
    if not _lacks_options(error):
        return error
    known = foreign.mapping(error)
    name = known["extra_info"].get("input_name")
    sections = foreign.mapping(foreign.mapping(definition).get("input")).values()
    config = next((part[name] for part in map(foreign.mapping, sections) if name in part), None)
    return {**known, "extra_info": {**known["extra_info"], "input_config": config}}


class _NodeError(NamedTuple):
    """One error of one node. `where`: the node in words. `target`: the input as --set takes it. `said`: the server's text."""

    kind: str
    where: str
    input: str
    target: str
    extra: Mapping[str, object]
    said: str

    @property
    def name(self) -> str:
        return safe_text.name(self.input)

    @property
    def received(self) -> object:
        return self.extra.get("received_value")

    @property
    def config(self) -> object:
        """The input's definition, where the server sent it."""
        return self.extra.get("input_config")

    @property
    def theirs(self) -> Document:
        return {"server_said": self.said}


# Message, fix, and further keys of the report.
Explanation = tuple[str, str, Document]


def node_problems(node_errors: object, graph: Graph) -> list[Document]:
    """Each node error of a rejection in plain words; survives both shapes (ComfyUI's and API v2's field/reason)."""
    problems: list[Document] = []
    for node_id, entry in foreign.mapping(node_errors).items():
        errors = entry.get("errors") if isinstance(entry, Mapping) else entry
        listed = errors if isinstance(errors, list) else [errors]
        problems += [
            _problem(str(node_id), error, foreign.mapping(entry), graph) for error in foreign.mappings(listed)
        ]
    return problems


def _problem(
    node_id: str, error: Mapping[str, object], entry: Mapping[str, object], graph: Graph
) -> Document:
    node = foreign.mapping(graph.get(node_id))
    # The server judges the class that replaces the graph's own one.
    class_type = str(entry.get("class_type") or node.get("class_type") or "?")
    title = str(foreign.mapping(node.get("_meta")).get("title") or "")
    extra = foreign.mapping(error.get("extra_info"))
    kind = safe_text.clean(error.get("type") or error.get("reason") or "invalid", 80)
    name = extra.get("input_name") or error.get("field")
    if not name and kind != "dependency_cycle":
        name = error.get("details")
    name = safe_text.clean(name or "", 120)
    where = f"node {safe_text.name(node_id)} ({safe_text.name(title or class_type)})"
    if node.get("class_type") not in (None, class_type):
        where += f", which the server runs as {safe_text.name(class_type)}"
    said = safe_text.clean(error.get("details") or error.get("message") or kind, SAID)
    found = _NodeError(kind, where, name, safe_text.name(f"{node_id}.{name}"), extra, said)
    message, fix, more = _EXPLAIN.get(kind, _anything_else)(found)
    return {
        "node_id": node_id,
        "class_type": safe_text.clean(class_type, 80),
        "input": name,
        "type": kind,
        "message": message,
        "fix": fix,
    } | more


def _not_in_list(error: _NodeError) -> Explanation:
    from comfyskill.graph.nearest import choices_to_show

    allowed = nearest_first(error.received, _options(error.config))
    fix = _replacement(error.target, error.received, allowed)
    most = len(choices_to_show(str(error.received), allowed))
    more = {"allowed": safe_text.clean_tree(safe_text.cap(allowed, most), 200)} if allowed else {}
    message = f"{error.where}: {error.name} = {_short(error.received)} is not one of the server's values"
    return message, safe_text.clean(fix, 200), more


def _out_of_range(error: _NodeError) -> Explanation:
    options = _config_options(error.config)
    bounds = {key: options[key] for key in ("min", "max") if key in options}
    side = "too small" if error.kind == "value_smaller_than_min" else "too big"
    limits = f"range {_short(bounds.get('min'))} to {_short(bounds.get('max'))}"
    return (
        f"{error.where}: {error.name} = {_short(error.received)} is {side} ({limits})",
        f"--set {error.target}=VALUE within the range",
        bounds,
    )


def _missing_input(error: _NodeError) -> Explanation:
    message = f"{error.where}: the required input {error.name} is missing"
    return message, f"link it, or --set {error.target}=VALUE", {}


def _wrong_link(error: _NodeError) -> Explanation:
    got = safe_text.name(error.extra.get("received_type"))
    return (
        f"{error.where}: {error.name} is linked to an output of the wrong type ({got})",
        "correct the link",
        {},
    )


def _wrong_type(error: _NodeError) -> Explanation:
    return (
        f"{error.where}: {error.name} = {_short(error.received)} cannot be read as this input's type",
        f"--set {error.target}=VALUE of that type",
        {},
    )


def _cycle(error: _NodeError) -> Explanation:
    ids = [safe_text.clean(item, 80) for item in foreign.items(error.extra.get("cycle_nodes"))]
    through = f" through nodes {safe_text.quoted_list(ids, 6)}" if ids else ""
    more = {"cycle": safe_text.cap(ids, 20)} if ids else {}
    return (
        f"the links of the graph form a cycle{through}",
        "remove one link of the cycle",
        more | error.theirs,
    )


def _exception(error: _NodeError) -> Explanation:
    if error.extra.get("exception_type") != "KeyError":
        return _anything_else(error)
    absent = safe_text.quoted(error.said.strip("'"))
    return (
        f"{error.where}: an input is linked to node {absent}, which is not in the graph",
        "correct the link",
        {},
    )


def _custom(error: _NodeError) -> Explanation:
    said = safe_text.quoted(error.said)
    if "file" in error.said.lower():
        return (
            f"{error.where}: the node refuses the file of {error.name} ({said})",
            f"upload it with --input-file {error.target}=PATH",
            error.theirs,
        )
    return (
        f"{error.where}: the node refuses {error.name} ({said})",
        f"--set {error.target}=VALUE that the node accepts",
        error.theirs,
    )


def _anything_else(error: _NodeError) -> Explanation:
    message = f"{error.where}: {error.name or 'its inputs'}: {safe_text.quoted(error.said)}"
    return message, "correct this node", error.theirs


_EXPLAIN: dict[str, Callable[[_NodeError], Explanation]] = {
    "value_not_in_list": _not_in_list,
    "value_smaller_than_min": _out_of_range,
    "value_bigger_than_max": _out_of_range,
    "required_input_missing": _missing_input,
    "return_type_mismatch": _wrong_link,
    "invalid_input_type": _wrong_type,
    "dependency_cycle": _cycle,
    "exception_during_validation": _exception,
    "custom_validation_failed": _custom,
}


def _replacement(target: str, value: object, allowed: list[str]) -> str:
    """A value to set instead only when it is nearly the same; a missing model is not replaced by just any other."""
    import difflib

    from comfyskill.graph.nearest import GET_THE_FILE, is_model_file, meant

    twin = meant(str(value), allowed)
    if twin is not None:
        return _set_to(target, twin)
    given = str(value).replace("\\", "/").rsplit("/", 1)[-1].casefold()
    first = allowed[0].replace("\\", "/").rsplit("/", 1)[-1].casefold() if allowed else ""
    if allowed and difflib.SequenceMatcher(None, given, first).ratio() >= CLOSE_ENOUGH:
        return _set_to(target, allowed[0])
    if is_model_file(given):
        return GET_THE_FILE
    return (
        f"choose one of `allowed` with --set {target}=VALUE"
        if allowed
        else f"--set {target}=VALUE that the server has"
    )


def _set_to(target: str, value: str) -> str:
    """The flag that sets a value, where its name can be shown whole."""
    if safe_text.name(value) == value:
        return f"--set {target}={value}"
    return f"choose the first of `allowed` ({safe_text.quoted(value)}) with --set {target}=VALUE"


def _short(value: object) -> str:
    return safe_text.name(value if isinstance(value, str) else json.dumps(value, default=str))


def _config_options(config: object) -> Mapping[str, object]:
    parts = foreign.items(config)
    return foreign.mapping(parts[1]) if len(parts) > 1 else {}


def _options(config: object) -> list[str]:
    if not isinstance(config, list) or not config:
        return []
    listed = config[0] if isinstance(config[0], list) else _config_options(config).get("options")
    return [str(option) for option in listed] if isinstance(listed, list) else []


def nearest_first(value: object, allowed: list[str]) -> list[str]:
    """The allowed values, those most like the given one first (case and folder aside)."""
    wanted = str(value).replace("\\", "/").rsplit("/", 1)[-1].lower()
    import difflib

    close = difflib.get_close_matches(wanted, [item.lower() for item in allowed[:5000]], n=3, cutoff=0.5)
    rank = {name: index for index, name in enumerate(close)}
    return sorted(allowed, key=lambda item: rank.get(item.lower(), len(rank)))
