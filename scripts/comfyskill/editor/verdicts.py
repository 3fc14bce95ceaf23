"""How sure each node's values are: exact, by a pack's rule, or unsure, which is refused unless it is allowed.

Pure. Also finds the classes for which a pack rule is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from comfyskill.base import foreign, safe_text
from comfyskill.base.cli import Document
from comfyskill.editor import pack_rules
from comfyskill.editor.live import Conversion, Node, cannot_convert
from comfyskill.editor.widgets import is_undecided, output_types, read_class
from comfyskill.graph.nodes import Definitions

EXACT, UNSURE = "exact", "unsure"
_HINT = (
    "open the workflow in the editor with the packs installed, correct the node and save it again;"
    " --allow-unsure converts it as the editor would, as in"
    " `convert_workflow.py FILE --allow-unsure --output GRAPH`"
)
_FLEXIBLE = "its script adds inputs that the definition does not declare"
_UNKNOWN = "no node gives values of this type, so it may be a widget of the pack's own"
_BOTH = "this type is a colour, curve or similar: it may be a widget or a link"
# Words in the names of types that packs give a widget of their own although other nodes output them.
_WIDGET_WORDS = "COLOR COLOUR CURVE COMBO SLIDER EDITOR PICKER TIMESTAMP BUTTON TOGGLE".split()


@dataclass
class Verdicts:
    """The verdicts on the nodes of one conversion, in the order in which they are sent."""

    conversion: Conversion
    allow: bool
    entries: list[Document] = field(default_factory=list)

    def judge(self, node_id: str, node: Node, inputs: Mapping[str, object]) -> None:
        """Add a node's verdict. Raises SkillError for an unsure one unless that is allowed."""
        verdict = {"node_id": node_id, "class_type": node.type, "verdict": EXACT}
        self.entries.append(verdict)
        if pack := _pack_of(node):
            verdict["verdict"] = f"by rule of {pack}"
        self._apply_rules(verdict, node)
        if node.saved.inner_missing:
            inside = ", ".join(node.saved.inner_missing)
            reason = f"it is a group node with nodes of missing types inside: {inside}"
            self._doubt(verdict, node, reason, refused=True)
        layout = node.layout
        if layout is None:
            return
        if name := self._unset(node, inputs):
            self._doubt(
                verdict,
                node,
                f"input {safe_text.name(name)} has no link and no value that this file shows, and no node gives values"
                " of its type; a custom widget of the pack may set it",
                refused=False,
            )
        # A value that a link replaces is not sent, so it does no harm.
        sent = not layout.misfits or any(not isinstance(inputs.get(name), list) for name in layout.misfits)
        if layout.reason and sent:
            self._doubt(verdict, node, layout.reason, refused=layout.refused)

    def _unset(self, node: Node, inputs: Mapping[str, object]) -> str:
        """The name of a required input of a pack's own type without a value or a possible link; else an empty text."""
        assert node.layout is not None
        for spec in node.layout.node_class.specs:
            if (
                spec.required
                and spec.name not in inputs
                and is_undecided(spec)
                and not self.conversion.is_linked(spec.widget_type)
            ):
                return spec.name
        return ""

    def judge_virtual(self, node_id: str, node: Node) -> None:
        """Add what a browser-only node that feeds others cannot bring into the graph. Raises as `judge` does."""
        verdict = {"node_id": node_id, "class_type": node.type, "verdict": UNSURE}
        if self._apply_rules(verdict, node):
            self.entries.append(verdict)

    def _apply_rules(self, verdict: Document, node: Node) -> bool:
        """Warn of what the rules say of a class, or refuse it. Returns whether a rule says something."""
        rules = [rule for rule in pack_rules.of_class(node.type) if _applies(rule, node)]
        for rule in rules:
            if rule.note:
                self.conversion.warn(f"node {node.label} {rule.note}")
                verdict.setdefault("reason", rule.note)
            if rule.refused:
                self._doubt(verdict, node, rule.refused, refused=True)
        return any(rule.note or rule.refused for rule in rules)

    def _doubt(self, verdict: Document, node: Node, reason: str, *, refused: bool) -> None:
        verdict["verdict"] = UNSURE
        verdict["reason"] = reason
        if refused and not self.allow:
            raise cannot_convert(f"node {node.label}: {reason}", _HINT, node)
        self.conversion.warn(f"node {node.label}: {reason}")


def _applies(rule: pack_rules.Rule, node: Node) -> bool:
    """Whether a rule is about this node; one with types only where the class declares one of them."""
    if not rule.types or node.layout is None:
        return True
    return any(spec.widget_type in rule.types for spec in node.layout.node_class.specs)


def _pack_of(node: Node) -> str:
    """The pack whose rule decided on this node's values; empty when none did."""
    rules = [rule for rule in pack_rules.of_class(node.type) if not rule.virtual and _applies(rule, node)]
    if node.layout is not None:
        rules += [
            rule
            for spec in node.layout.node_class.specs
            if spec.as_widget and (rule := pack_rules.of_type(node.type, spec.widget_type))
        ]
    return rules[0].pack if rules else ""


def without_rule(definitions: Definitions) -> list[Document]:
    """The inputs (or classes) whose widgets neither types nor rules settle: {class_type, pack, input, type, reason}."""
    given = output_types(definitions)
    found: list[Document] = []
    for kind, definition in definitions.items():
        if not isinstance(definition, Mapping) or pack_rules.virtual_kind(kind):
            continue
        node_class = read_class(kind, definition)
        if node_class.core:
            continue
        place = {
            "class_type": kind,
            "pack": str(definition.get("python_module")).removeprefix("custom_nodes."),
        }
        found += [
            place | {"input": spec.name, "type": spec.widget_type, "reason": reason}
            for spec in node_class.specs
            if is_undecided(spec) and (reason := _reason(spec.widget_type, given))
        ]
        if node_class.flexible and foreign.items(definition.get("output")) and not pack_rules.of_class(kind):
            found.append(place | {"reason": _FLEXIBLE})
    return found


def _reason(kind: str, given: set[str]) -> str:
    """Why an input of this type may have a widget; empty for one that is a link."""
    if kind not in given:
        return _UNKNOWN
    return _BOTH if any(word in kind.upper() for word in _WIDGET_WORDS) else ""
