"""How the runs of a batch are laid out, for the result page and the contact sheet alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from comfyskill.batch.plan import Axis
from comfyskill.pages.layout import MOST_STEPS, layout
from result_rows import results


def test_edges_are_the_axes_that_vary(tmp_path: Path) -> None:
    made = results(tmp_path, rows=2, columns=3)
    shown = layout(made, made.rows)
    assert [(edge.axis, edge.name) for edge in shown.edges] == [(1, "prompt"), (2, "cfg")]
    assert [shown.edges[1].label(step) for step in shown.edges[1].steps] == ["0.5", "1.5", "2.5"]
    assert shown.edges[1].caption(0) == "cfg 0.5"
    assert shown.is_grid


def test_values_are_shared_or_tell_runs_apart(tmp_path: Path) -> None:
    made = results(tmp_path, rows=1, columns=3)
    shown = layout(made, made.rows)
    assert shown.names == ["sampler", "prompt", "cfg", "seed"]
    assert shown.shared == {"sampler": "s0", "prompt": "prompt 0"}
    assert shown.differing == ["cfg", "seed"]
    assert shown.caption(made.rows[1], with_edges=True) == ["#1", "seed 1", "cfg 1.5"]
    assert shown.caption(made.rows[1], with_edges=False) == ["#1", "seed 1"]


def test_names_set_together_are_one_edge(tmp_path: Path) -> None:
    made = results(tmp_path, rows=2, columns=2)
    pairs = Axis("zip", ("width", "height"), [[512, 768], [768, 512]])
    made = made._replace(plan=replace(made.plan, axes=(made.plan.axes[0], pairs, made.plan.axes[2])))
    edge = layout(made, made.rows).edges[0]
    assert (edge.name, edge.label(1), edge.caption(1)) == (
        "width, height",
        "768, 512",
        "width 768, height 512",
    )


def test_a_grid_needs_two_axes(tmp_path: Path) -> None:
    made = results(tmp_path, rows=1, columns=6)
    assert not layout(made, made.rows).is_grid


def test_a_grid_needs_runs_in_half_of_its_places(tmp_path: Path) -> None:
    made = results(tmp_path, rows=4, columns=4)
    half = [row for row in made.rows if sum(row.steps) % 2 == 0]
    assert layout(made, half).is_grid
    assert not layout(made, half[1:]).is_grid


def test_a_long_axis_is_listed(tmp_path: Path) -> None:
    made = results(tmp_path, rows=2, columns=MOST_STEPS + 1)
    assert not layout(made, made.rows).is_grid
    made = results(tmp_path, rows=2, columns=MOST_STEPS)
    assert layout(made, made.rows).is_grid
