"""Checks a prompt as the server does, and answers with the same error bodies.

The behaviour is recorded from real servers: values are converted in place, a two-element list is always a link, nodes that
feed no output are ignored, and outputs that fail are dropped while the others may run.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comfyskill.base.cli import Document
from comfyskill.demo.custom_checks import CHECKS, Check
from comfyskill.demo.definitions import Definitions, Input, NodeClass, read_input
from comfyskill.demo.folders import Folders
from comfyskill.graph.specs import fits

DYNAMIC_COMBO, AUTOGROW = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3"
CONVERT = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
LONGEST_LIST_SHOWN = 20
# The real server follows chains of about two thousand nodes; each level is two calls here.
DEPTH = 2000
sys.setrecursionlimit(max(sys.getrecursionlimit(), 3 * DEPTH))


class Unhandled(Exception):
    """The real server's handler would crash here: the client sees a plain 500."""


@dataclass
class Verdict:
    """What the check found. `error` is None when at least one output may run."""

    error: Document | None = None
    outputs: list[str] = field(default_factory=list)
    node_errors: Document = field(default_factory=dict)


def problem(kind: str, message: str, details: str = "", extra: Document | None = None) -> Document:
    """An error of a prompt or of a node, as answers show it."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra or {}}


def no_prompt() -> Document:
    text = "No prompt provided"
    return {"error": problem("no_prompt", text, text), "node_errors": {}}


def check(prompt: Any, definitions: Definitions, folders: Folders, targets: list[Any] | None) -> Verdict:
    """The result for a prompt in API format. Converts input values in place. Raises Unhandled."""
    if not isinstance(prompt, dict) and (definitions.newest or prompt != []):
        raise Unhandled("prompt is not an object")
    nodes: Document = dict(prompt) if isinstance(prompt, dict) else {}
    outputs: list[str] = []
    for node_id, node in nodes.items():
        if not isinstance(node, dict):
            raise Unhandled("a node is not an object")
        wrong = _class_problem(node_id, node, definitions)
        if wrong is not None:
            return Verdict(error=wrong)
        if definitions.node(node["class_type"]).output_node and _wanted(node_id, targets):
            outputs.append(node_id)
    if not outputs:
        return Verdict(error=problem("prompt_no_outputs", "Prompt has no outputs"))
    return _Pass(nodes, definitions, folders).outputs(outputs)


def _wanted(node_id: str, targets: Any) -> bool:
    if targets is None:
        return True
    if not isinstance(targets, (list, dict, str)):
        raise Unhandled("partial_execution_targets is not a list")
    return node_id in targets


def _class_problem(node_id: str, node: Mapping[str, Any], definitions: Definitions) -> Document | None:
    where = f"Node ID '#{node_id}'"
    name = node.get("class_type")
    if isinstance(name, str) and name in definitions:
        return None
    if not definitions.newest:
        message = (
            f"Cannot execute because node {name} does not exist."
            if "class_type" in node
            else "Cannot execute because a node is missing the class_type property."
        )
        return problem("invalid_prompt", message, where)
    meta = node.get("_meta", {})
    if not isinstance(meta, dict):
        raise Unhandled("_meta is not an object")
    title = meta.get("title", name)
    message = (
        f"Node '{title}' not found. The custom node may not be installed."
        if "class_type" in node
        else f"Node 'ID #{node_id}' has no class_type. The workflow may be corrupted or a custom node is missing."
    )
    extra = {"node_id": node_id, "class_type": name, "node_title": title}
    return problem("missing_node_type", message, where, extra)


class _Cycle(Exception):
    """The graph has a cycle, or is too deep."""


class _Inner(Exception):
    """Validation of a node ended in an exception of this Python type."""

    def __init__(self, kind: str, text: str, frames: int = 1) -> None:
        super().__init__(text)
        self.kind = kind
        self.frames = frames


class _Pass:
    """One walk over all outputs; `seen` keeps each node's result, as (valid, reasons)."""

    def __init__(self, nodes: Document, definitions: Definitions, folders: Folders) -> None:
        self.nodes = nodes
        self.definitions = definitions
        self.folders = folders
        self.seen: dict[Any, tuple[bool, list[Document]]] = {}
        # The nodes from the output to the one that is looked at, in this order.
        self.path: dict[Any, None] = {}

    def outputs(self, outputs: list[str]) -> Verdict:
        verdict = Verdict()
        failed: list[Document] = []
        for node_id in outputs:
            valid, reasons = self._output(node_id)
            if valid:
                verdict.outputs.append(node_id)
                continue
            failed += reasons
            self._note(verdict, node_id)
        if not verdict.outputs:
            details = "\n".join(f"{reason['message']}: {reason['details']}" for reason in failed)
            message = "Prompt outputs failed validation"
            verdict.error = problem("prompt_outputs_failed_validation", message, details)
        return verdict

    def _output(self, node_id: str) -> tuple[bool, list[Document]]:
        try:
            return self.node(node_id)
        except _Cycle:
            self.path.clear()
            return False, []
        except _Inner as error:
            self.path.clear()
            extra = {
                "exception_type": error.kind,
                "traceback": _traceback("validate_prompt", error.frames),
            }
            message = "Exception when validating node"
            reason = problem("exception_during_validation", message, str(error), extra)
            self.seen[node_id] = (False, [reason])
            return self.seen[node_id]

    def _note(self, verdict: Verdict, output: str) -> None:
        for node_id, (valid, reasons) in self.seen.items():
            if valid or not reasons:
                continue
            entry = verdict.node_errors.setdefault(
                node_id,
                {"errors": reasons, "dependent_outputs": [], "class_type": self.nodes[node_id]["class_type"]},
            )
            entry["dependent_outputs"].append(output)

    def node(self, node_id: Any) -> tuple[bool, list[Document]]:
        """(valid, reasons) of one node and all that feeds it. Raises _Inner, _Cycle."""
        if node_id in self.seen:
            return self.seen[node_id]
        if node_id in self.path and self.definitions.newest:
            return self._cycle(node_id)
        if node_id in self.path or len(self.path) > DEPTH:
            raise _Cycle
        self.path[node_id] = None
        node = self.nodes[node_id]
        if "inputs" not in node:
            raise _Inner("KeyError", "'inputs'")
        cls = self.definitions.node(node["class_type"])
        inputs = node["inputs"]
        custom = CHECKS.get(cls.name)
        errors: list[Document] = []
        received: Document = {}
        valid = True
        for spec in live_inputs(cls, inputs, self.definitions.newest):
            if spec.name not in inputs:
                if spec.required and spec.type != DYNAMIC_COMBO:
                    errors.append(_missing(cls, spec.name))
                continue
            if spec.type == DYNAMIC_COMBO:
                continue
            if isinstance(inputs[spec.name], list) and not spec.options.get("multiselect"):
                valid = self._link(spec, inputs[spec.name], errors) and valid
                continue
            wrong = _value(spec, inputs, custom)
            if wrong is not None:
                errors.append(wrong)
            else:
                received[spec.name] = inputs[spec.name]
        if custom is not None:
            errors += _custom(custom, received, self.folders)
        self.path.pop(node_id, None)
        # A node of a cycle has its error already.
        return self.seen.setdefault(node_id, (valid and not errors, errors))

    def _cycle(self, node_id: str) -> tuple[bool, list[Document]]:
        """Note the cycle that ends at this node at each of its nodes."""
        path = list(self.path)
        cycle = path[path.index(node_id) :]
        shown = " -> ".join(f"{name} ({self.nodes[name]['class_type']})" for name in [*cycle, node_id])
        for name in cycle:
            extra = {"node_id": name, "cycle_nodes": cycle}
            self.seen[name] = (
                False,
                [problem("dependency_cycle", "Dependency cycle detected", shown, extra)],
            )
        return self.seen[node_id]

    def _link(self, spec: Input, link: list[Any], errors: list[Document]) -> bool:
        """Follow a link; False when what it leads to is not valid. Own errors are appended."""
        about = {"input_name": spec.name, "input_config": spec.config}
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            errors.append(problem("bad_linked_input", message, spec.name, {**about, "received_value": link}))
            return True
        received = self._received(link)
        if not fits(received, shown_type(spec)):
            details = f"{spec.name}, received_type({received}) mismatch input_type({shown_type(spec)})"
            extra = {**about, "received_type": received, "linked_node": link}
            message = "Return type mismatch between linked nodes"
            errors.append(problem("return_type_mismatch", message, details, extra))
            return True
        before = dict(self.path)
        try:
            return self.node(link[0])[0]
        except _Inner as error:
            self.path = before
            extra = {
                **about,
                "exception_message": str(error),
                "exception_type": error.kind,
                "traceback": _traceback("validate_inputs", error.frames),
                "linked_node": link,
            }
            message = "Exception when validating inner node"
            reason = problem("exception_during_inner_validation", message, str(error), extra)
            self.seen[link[0]] = (False, [reason])
            return False

    def _received(self, link: list[Any]) -> str:
        source, slot = link
        try:
            node = self.nodes[source]
        except (KeyError, TypeError) as error:
            raise _Inner(type(error).__name__, str(error)) from error
        outputs = self.definitions.node(node["class_type"]).outputs
        try:
            return outputs[slot]
        except (IndexError, TypeError) as error:
            raise _Inner(type(error).__name__, str(error)) from error


def live_inputs(cls: NodeClass, inputs: Mapping[str, object], newest: bool) -> list[Input]:
    """The inputs that a node has now: dynamic ones (dotted names) follow from the values given."""
    if not cls.v3:
        return list(cls.inputs.values())
    return [live for spec in cls.inputs.values() for live in _live(spec, inputs, newest)]


def _live(spec: Input, inputs: Mapping[str, object], newest: bool) -> list[Input]:
    if spec.type == DYNAMIC_COMBO:
        chosen = _chosen(spec, inputs.get(spec.name))
        return [spec, *(live for inner in chosen for live in _live(inner, inputs, newest))]
    if spec.type == AUTOGROW:
        return _grown(spec, inputs, newest)
    return [spec]


def _chosen(spec: Input, choice: object) -> list[Input]:
    """The inputs of the option that a dynamic combo has now."""
    options = spec.options["options"]
    groups: Document = next((option["inputs"] for option in options if option["key"] == choice), {})
    return [
        read_input(f"{spec.name}.{key}", sub, group == "required")
        for group in ("required", "optional")
        for key, sub in (groups.get(group) or {}).items()
    ]


def _grown(spec: Input, inputs: Mapping[str, object], newest: bool) -> list[Input]:
    """The inputs that are given, and those that are required: up to a minimum (0.33), or none (0.8)."""
    template = spec.options["template"]
    group = next((name for name, subs in template["input"].items() if subs), "")
    if not group:
        return []
    sub = next(iter(template["input"][group].values()))
    names = template.get("names") or [
        f"{template.get('prefix', '')}{number}" for number in range(template.get("max", 100))
    ]
    least = template.get("min", 0) if newest and group == "required" else 0
    return [
        read_input(f"{spec.name}.{name}", sub, index < least)
        for index, name in enumerate(names)
        if index < least or f"{spec.name}.{name}" in inputs
    ]


def shown_type(spec: Input) -> Any:
    return spec.spec[0] if isinstance(spec.spec[0], list) else spec.type


def _missing(cls: NodeClass, name: str) -> Document:
    details = name.rsplit(".", 1)[-1] if cls.v3 else name
    return problem("required_input_missing", "Required input is missing", details, {"input_name": name})


def _value(spec: Input, inputs: Document, custom: Check | None) -> Document | None:
    """Convert a literal in place; the error, or None."""
    value = inputs[spec.name]
    extra: Document = {"input_name": spec.name, "input_config": spec.config, "received_value": value}
    try:
        if isinstance(value, dict) and "__value__" in value:
            value = inputs[spec.name] = value["__value__"]
        if spec.type in CONVERT:
            value = inputs[spec.name] = CONVERT[spec.type](value)
    except (ValueError, TypeError, OverflowError) as error:
        extra |= {"received_value": value, "exception_message": str(error)}
        message = f"Failed to convert an input value to a {spec.type} value"
        return problem("invalid_input_type", message, f"{spec.name}, {value}, {error}", extra)
    if custom is not None and (custom.takes_all or spec.name in custom.inputs):
        return None
    return _range(spec, value, extra) or _choice(spec, value, extra)


def _range(spec: Input, value: Any, extra: Document) -> Document | None:
    if spec.type not in ("INT", "FLOAT"):
        return None
    extra = {**extra, "received_value": value}
    for bound, kind, words in (
        ("min", "value_smaller_than_min", "smaller than min"),
        ("max", "value_bigger_than_max", "bigger than max"),
    ):
        limit = spec.options.get(bound)
        if limit is None or (value >= limit if bound == "min" else value <= limit):
            continue
        return problem(kind, f"Value {value} {words} of {limit}", spec.name, extra)
    return None


def _choice(spec: Input, value: object, extra: Document) -> Document | None:
    values = value if isinstance(value, list) else [value]
    if spec.choices is None or all(one in spec.choices for one in values):
        return None
    shown = str(list(spec.choices))
    if len(spec.choices) > LONGEST_LIST_SHOWN:
        shown = f"(list of length {len(spec.choices)})"
        extra = {**extra, "input_config": None}
    details = f"{spec.name}: '{value}' not in {shown}"
    return problem("value_not_in_list", "Value not in list", details, {**extra, "received_value": value})


def _custom(custom: Check, received: Mapping[str, Any], folders: Folders) -> list[Document]:
    errors = []
    for name in custom.inputs:
        if name not in received:
            continue
        try:
            answer = custom.function(received[name], folders)
        except RuntimeError as error:
            raise _Inner("RuntimeError", str(error), frames=4) from error
        if answer is True:
            continue
        details = name if answer is False else f"{name} - {answer}"
        message = "Custom validation failed for node"
        errors.append(problem("custom_validation_failed", message, details, {"input_name": name}))
    return errors


def _traceback(outer: str, frames: int) -> list[str]:
    """As many stack lines as the real server sends; clients only show them."""
    lines = [f'  File "/demo/execution.py", line 1, in {outer}\n    (demo)\n']
    return lines + ['  File "/demo/execution.py", line 1, in validate_inputs\n    (demo)\n'] * frames
