"""Rejected graphs and refused jobs in plain words.

Sources: recorded validation errors of ComfyUI 0.3.64 and 0.8.0; the cloud's documentation for refusal types.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Exit, SkillError

SAID = 300
CLOSE_ENOUGH = 0.84

# Cloud `error.type` -> our sentence and whether waiting helps. Plan refusals come as 402 now and as 429 from older servers.
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


def rejection(body: Any, graph: Mapping[str, Any]) -> SkillError:
    """A rejected graph (exit 6): what the server objects to, node by node, with the nearest allowed values first."""
    error = body.get("error") if isinstance(body, Mapping) else None
    error = error if isinstance(error, Mapping) else {"message": str(error or body)}
    problems = node_problems(body.get("node_errors") if isinstance(body, Mapping) else None, graph)
    kind = str(error.get("type") or "rejected")
    message, hint = _sentence(kind, error, problems, graph)
    return SkillError(
        message,
        code="rejected",
        exit=Exit.REJECTED,
        status="rejected",
        hint=hint,
        rejection=kind,
        node_errors=problems,
        server_said=safe_text.clean(
            ": ".join(str(error[key]) for key in ("message", "details") if error.get(key)), 600
        ),
    )


def _sentence(
    kind: str, error: Mapping[str, Any], problems: list[dict[str, Any]], graph: Mapping[str, Any]
) -> tuple[str, str]:
    if problems:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return f"the server rejected the graph: {first['message']}{more}", first.get(
            "fix"
        ) or "correct it and run again"
    if kind == "prompt_no_outputs":
        return (
            "the graph has no output node that could run",
            "add a node that saves or previews, or check --only",
        )
    if kind == "invalid_prompt":
        return f"the server lacks a node of this graph: {_missing_class(error, graph)}", (
            "run scripts/check_deps.py to see which node packs are missing"
        )
    if kind == "no_prompt":
        return "the server found no graph in the request", "give an API-format or editor-format workflow"
    if kind == "prompt_outputs_failed_validation":
        return (
            "the server rejected the graph without naming a node: usually a cycle of links",
            "check the links",
        )
    return f"the server rejected the graph ({safe_text.name(kind)})", "see server_said"


def _missing_class(error: Mapping[str, Any], graph: Mapping[str, Any]) -> str:
    """The class (and node) that an `invalid_prompt` is about; its details only say `Node ID '#3'`."""
    found = re.search(r"#([^']+)'", str(error.get("details") or ""))
    node = graph.get(found[1]) if found else None
    if isinstance(node, Mapping) and node.get("class_type"):
        return f"{safe_text.quoted(node['class_type'])} (node {safe_text.name(found[1] if found else '')})"
    return safe_text.quoted(error.get("message") or error.get("details") or "unknown")


def with_options(node_errors: Any, definition_of: Callable[[str], Any]) -> Any:
    """Node errors with the input's definition where the server left it out, as it does for more than 20 values."""
    if not isinstance(node_errors, Mapping):
        return node_errors
    whole = dict(node_errors)
    for node_id, entry in node_errors.items():
        errors = entry.get("errors") if isinstance(entry, Mapping) else None
        if isinstance(errors, list) and any(_lacks_options(error) for error in errors):
            known = definition_of(str(entry.get("class_type")))
            whole[node_id] = {**entry, "errors": [_with_config(error, known) for error in errors]}
    return whole


def _lacks_options(error: Any) -> bool:
    extra = error.get("extra_info") if isinstance(error, Mapping) else None
    return (
        isinstance(extra, Mapping)
        and error.get("type") == "value_not_in_list"
        and extra.get("input_config") is None
    )


def _with_config(error: Any, definition: Any) -> Any:
    inputs = definition.get("input") if isinstance(definition, Mapping) else None
    if not _lacks_options(error) or not isinstance(inputs, Mapping):
        return error
    extra = error["extra_info"]
    parts = [part for part in inputs.values() if isinstance(part, Mapping)]
    config = next((part[name] for part in parts if (name := extra.get("input_name")) in part), None)
    return {**error, "extra_info": {**extra, "input_config": config}}


def node_problems(node_errors: Any, graph: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each node error of a rejection in plain words; survives both shapes (ComfyUI's and API v2's field/reason)."""
    if not isinstance(node_errors, Mapping):
        return []
    problems: list[dict[str, Any]] = []
    for node_id, entry in node_errors.items():
        errors = entry.get("errors") if isinstance(entry, Mapping) else entry
        for error in errors if isinstance(errors, list) else [errors]:
            if isinstance(error, Mapping):
                problems.append(_problem(str(node_id), error, entry, graph))
    return problems


def _problem(node_id: str, error: Mapping[str, Any], entry: Any, graph: Mapping[str, Any]) -> dict[str, Any]:
    node = graph.get(node_id)
    node = foreign.mapping(node)
    class_type = str(
        node.get("class_type") or (entry.get("class_type") if isinstance(entry, Mapping) else "") or "?"
    )
    meta = node.get("_meta")
    title = str(meta.get("title") or "") if isinstance(meta, Mapping) else ""
    extra = error.get("extra_info")
    extra = foreign.mapping(extra)
    name = str(extra.get("input_name") or error.get("field") or error.get("details") or "")
    where = f"node {safe_text.name(node_id)} ({safe_text.name(title or class_type)})"
    problem: dict[str, Any] = {
        "node_id": node_id,
        "class_type": safe_text.clean(class_type, 80),
        "input": safe_text.clean(name, 120),
        "type": safe_text.clean(error.get("type") or error.get("reason") or "invalid", 80),
    }
    message, fix, more = _explain(problem["type"], where, problem["input"], extra, error, node_id)
    return problem | {"message": message, "fix": fix} | more


def _explain(
    kind: str, where: str, name: str, extra: Mapping[str, Any], error: Mapping[str, Any], node_id: str
) -> tuple[str, str, dict[str, Any]]:
    from comfyskill.graph.nearest import choices_to_show

    got = _short(extra.get("received_value"))
    target = safe_text.name(f"{node_id}.{name}")
    name = safe_text.name(name)
    if kind == "value_not_in_list":
        allowed = nearest_first(extra.get("received_value"), _options(extra.get("input_config")))
        fix = _replacement(target, extra.get("received_value"), allowed)
        most = len(choices_to_show(str(extra.get("received_value")), allowed))
        more = {"allowed": safe_text.clean_tree(safe_text.cap(allowed, most), 200)} if allowed else {}
        return f"{where}: {name} = {got} is not one of the server's values", safe_text.clean(fix, 200), more
    if kind in ("value_smaller_than_min", "value_bigger_than_max"):
        options = _config_options(extra.get("input_config"))
        bounds = {key: options[key] for key in ("min", "max") if key in options}
        side = "too small" if kind == "value_smaller_than_min" else "too big"
        return f"{where}: {name} = {got} is {side} (range {_short(bounds.get('min'))} to {_short(bounds.get('max'))})", \
            f"--set {target}=VALUE within the range", bounds  # fmt: skip
    if kind == "required_input_missing":
        return f"{where}: the required input {name} is missing", f"link it, or --set {target}=VALUE", {}
    if kind == "return_type_mismatch":
        got = safe_text.name(extra.get("received_type"))
        return f"{where}: {name} is linked to an output of the wrong type ({got})", "correct the link", {}
    if kind == "invalid_input_type":
        return (
            f"{where}: {name} = {got} cannot be read as this input's type",
            f"--set {target}=VALUE of that type",
            {},
        )
    said = safe_text.clean(error.get("details") or error.get("message") or kind, SAID)
    theirs = {"server_said": said}
    if kind == "exception_during_validation" and extra.get("exception_type") == "KeyError":
        return (
            f"{where}: an input is linked to node {safe_text.quoted(said.strip(chr(39)))}, which is not in the graph",
            "correct the link",
            {},
        )
    if kind == "custom_validation_failed":
        if "file" in said.lower():
            return (
                f"{where}: the node refuses the file of {name} ({safe_text.quoted(said)})",
                f"upload it with --input-file {target}=PATH",
                theirs,
            )
        return (
            f"{where}: the node refuses {name} ({safe_text.quoted(said)})",
            f"--set {target}=VALUE that the node accepts",
            theirs,
        )
    return f"{where}: {name or 'its inputs'}: {safe_text.quoted(said)}", "correct this node", theirs


def _replacement(target: str, value: Any, allowed: list[str]) -> str:
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
        else f"--set {target}=VALUE that it has"
    )


def _set_to(target: str, value: str) -> str:
    """The flag that sets a value, where its name can be shown whole."""
    if safe_text.name(value) == value:
        return f"--set {target}={value}"
    return f"choose the first of `allowed` ({safe_text.quoted(value)}) with --set {target}=VALUE"


def _short(value: Any) -> str:
    return safe_text.name(value if isinstance(value, str) else json.dumps(value, default=str))


def _config_options(config: Any) -> Mapping[str, Any]:
    if isinstance(config, list) and len(config) > 1 and isinstance(config[1], Mapping):
        return config[1]
    return {}


def _options(config: Any) -> list[str]:
    if not isinstance(config, list) or not config:
        return []
    listed = config[0] if isinstance(config[0], list) else _config_options(config).get("options")
    return [str(option) for option in listed] if isinstance(listed, list) else []


def nearest_first(value: Any, allowed: list[str]) -> list[str]:
    """The allowed values, those most like the given one first (case and folder aside)."""
    wanted = str(value).replace("\\", "/").rsplit("/", 1)[-1].lower()
    import difflib

    close = difflib.get_close_matches(wanted, [item.lower() for item in allowed[:5000]], n=3, cutoff=0.5)
    rank = {name: index for index, name in enumerate(close)}
    return sorted(allowed, key=lambda item: rank.get(item.lower(), len(rank)))
