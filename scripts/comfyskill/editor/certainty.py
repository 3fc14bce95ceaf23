"""How sure each node's values are: exact, by a pack's rule, or unsure, which is refused unless it is allowed.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from comfyskill.base import safe_text
from comfyskill.base.cli import SkillError
from comfyskill.editor import pack_rules
from comfyskill.editor.live import Build, Node
from comfyskill.editor.widgets import is_undecided

EXACT, UNSURE = "exact", "unsure"
_HINT = (
    "open the workflow in the editor with the packs installed, correct the node and save it again;"
    " --allow-unsure converts it as the editor would, as in"
    " `convert_workflow.py FILE --allow-unsure --output GRAPH`"
)


@dataclass
class Doubts:
    """The verdicts on the nodes of one conversion, in the order in which they are sent."""

    made: Build
    allow: bool
    verdicts: list[dict[str, Any]] = field(default_factory=list)

    def judge(self, node_id: str, node: Node, inputs: Mapping[str, Any]) -> None:
        """Give a node its verdict. Raises SkillError for an unsure one unless a flag allows it."""
        verdict: dict[str, Any] = {"node_id": node_id, "class_type": node.type, "verdict": EXACT}
        self.verdicts.append(verdict)
        if pack := _pack_of(node):
            verdict["verdict"] = f"by rule of {pack}"
        self._apply_rules(verdict, node)
        if node.saved.inner_missing:
            inside = ", ".join(node.saved.inner_missing)
            self._doubt(
                verdict,
                node,
                f"it is a group node with nodes of missing types inside: {inside}",
                refused=True,
            )
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
        if not layout.reason:
            return
        # A value that a link replaces is not sent, so it does no harm.
        sent = not layout.misfits or any(not isinstance(inputs.get(name), list) for name in layout.misfits)
        if sent:
            self._doubt(verdict, node, layout.reason, refused=layout.refused)

    def _unset(self, node: Node, inputs: Mapping[str, Any]) -> str:
        """A required input of a pack's own type that nothing sets and no link can; empty when there is none."""
        assert node.layout is not None
        for spec in node.layout.node_class.specs:
            if (
                spec.required
                and spec.name not in inputs
                and is_undecided(spec)
                and not self.made.is_linked(spec.widget_type)
            ):
                return spec.name
        return ""

    def judge_virtual(self, node_id: str, node: Node) -> None:
        """Say what a browser-only node that feeds others cannot bring into the graph. Raises as `judge` does."""
        verdict: dict[str, Any] = {"node_id": node_id, "class_type": node.type, "verdict": UNSURE}
        if self._apply_rules(verdict, node):
            self.verdicts.append(verdict)

    def _apply_rules(self, verdict: dict[str, Any], node: Node) -> bool:
        """Warn of what the rows of a class say, or refuse it. Returns whether a row says something."""
        rows = [rule for rule in pack_rules.of_class(node.type) if _applies(rule, node)]
        for rule in rows:
            if rule.note:
                self.made.warn(f"node {node.label} {rule.note}")
                verdict.setdefault("reason", rule.note)
            if rule.refused:
                self._doubt(verdict, node, rule.refused, refused=True)
        return any(rule.note or rule.refused for rule in rows)

    def _doubt(self, verdict: dict[str, Any], node: Node, reason: str, *, refused: bool) -> None:
        verdict["verdict"] = UNSURE
        verdict["reason"] = reason
        if refused and not self.allow:
            raise SkillError(
                f"node {node.label}: {reason}",
                code="cannot_convert",
                hint=_HINT,
                node={"id": node.id, "title": node.title, "type": node.type},
            )
        self.made.warn(f"node {node.label}: {reason}")


def _applies(rule: pack_rules.Rule, node: Node) -> bool:
    """Whether a row is about this node; one with types only where the class declares one of them."""
    if not rule.types or node.layout is None:
        return True
    return any(spec.widget_type in rule.types for spec in node.layout.node_class.specs)


def _pack_of(node: Node) -> str:
    """The pack whose rule took part in this node's values; empty when none did."""
    rows = [rule for rule in pack_rules.of_class(node.type) if not rule.virtual and _applies(rule, node)]
    if node.layout is not None:
        rows += [
            rule
            for spec in node.layout.node_class.specs
            if spec.as_widget and (rule := pack_rules.of_type(node.type, spec.widget_type))
        ]
    return rows[0].pack if rows else ""
