"""A run's progress: the cumulative `progress_state` that is sent with each change."""

from __future__ import annotations

from comfyskill.base.cli import Document


class Progress:
    """The started nodes of one run, in order."""

    def __init__(self, prompt_id: str) -> None:
        self.prompt_id = prompt_id
        self.nodes: dict[str, Document] = {}

    def begin(self, node_id: str, display: str, parent: str | None, real: str) -> None:
        self.nodes.setdefault(node_id, self._entry(node_id, 0.0, 1.0, "running", display, parent, real))

    def step(self, node_id: str, value: float, maximum: float) -> None:
        entry = self.nodes[node_id]
        entry["value"], entry["max"] = value, maximum

    def finish(self, node_id: str) -> None:
        entry = self.nodes[node_id]
        entry["state"] = "finished"
        entry["value"] = entry["max"]

    def finish_cached(self, node_id: str, display: str, parent: str | None, real: str) -> None:
        # The real server sends whole numbers here and fractions elsewhere.
        self.nodes[node_id] = self._entry(node_id, 1, 1, "finished", display, parent, real)

    def _entry(
        self,
        node_id: str,
        value: float,
        maximum: float,
        state: str,
        display: str,
        parent: str | None,
        real: str,
    ) -> Document:
        return {
            "value": value,
            "max": maximum,
            "state": state,
            "node_id": node_id,
            "prompt_id": self.prompt_id,
            "display_node_id": display,
            "parent_node_id": parent,
            "real_node_id": real,
        }

    def message(self) -> Document:
        """The data of a `progress_state` frame. Serialize at once: the entries change."""
        return {"prompt_id": self.prompt_id, "nodes": self.nodes}
