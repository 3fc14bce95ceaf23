"""What a batch would run: axes, tables, ranges, orders. Plain values, no server."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from comfyskill.base.cli import SkillError
from comfyskill.batch.plan import Axis, Plan, Steps, check_names, files, prompts, seeds, sweeps, table, zipped


def plan(*axes: Axis, limit: int | None = None, shuffled: bool = False) -> Plan:
    return Plan(tuple(axes), "key", limit, shuffled)


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("steps=10:50:10", [10, 20, 30, 40, 50]),
        ("steps=10:49:10", [10, 20, 30, 40]),
        ("x=0.1:0.5:0.1", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("x=1:0:-0.5", [1.0, 0.5, 0.0]),
        ("seed=3:5", [3, 4, 5]),
        ("ratio=16:9", ["16:9"]),
        ("cfg=5,7.5", ["5", "7.5"]),
        ('prompt=["a, b", "c"]', ["a, b", "c"]),
        ('{"seed": [1, 2]}', [1, 2]),
        ('{"steps": "10:30:10"}', [10, 20, 30]),
    ],
)
def test_a_sweep_is_read_in_all_its_forms(words: str, values: list[object]) -> None:
    (axis,) = sweeps([words])
    assert [next(iter(axis.at(step).values())) for step in range(len(axis))] == values


@pytest.mark.parametrize(
    "words",
    [
        "steps",
        "=1,2",
        "steps=",
        "a=1,,2",
        "steps=1:9:0",
        "steps=9:1:1",
        '{"a": []}',
        '{"a": 3}',
        "{bad",
        "@nothere",
    ],
)
def test_a_bad_sweep_is_misuse(words: str) -> None:
    with pytest.raises(SkillError) as caught:
        sweeps([words])
    assert caught.value.exit == 2


def test_axes_multiply_and_the_first_changes_slowest() -> None:
    made = plan(*sweeps(['{"a": [1, 2], "b": ["x", "y"]}']))
    assert list(made) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


def test_zipped_lists_go_together() -> None:
    (axis,) = zipped(["a=1,2", "b=x,y"])
    assert list(plan(axis)) == [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]
    with pytest.raises(SkillError, match="differ in length"):
        zipped(["a=1,2", "b=x"])


def test_a_huge_sweep_costs_nothing_until_it_runs() -> None:
    tracemalloc.start()
    made = plan(*sweeps(["a=1:100000000:1", "b=1:100000000:1"]), limit=3)
    assert made.total == 10**16 and made.count == 3
    assert made.values(2) == {"a": 1, "b": 3}
    assert tracemalloc.get_traced_memory()[1] < 500_000
    tracemalloc.stop()


def test_shuffling_runs_everything_once_in_another_order() -> None:
    axis = Axis("sweep", ("a",), list(range(1000)))
    mixed = [values["a"] for values in plan(axis, shuffled=True)]
    assert sorted(mixed) == list(range(1000))
    assert mixed != sorted(mixed)
    assert [values["a"] for values in plan(axis, shuffled=True)] == mixed


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17])
def test_small_plans_can_be_shuffled_too(size: int) -> None:
    axis = Axis("sweep", ("a",), list(range(size)))
    assert sorted(values["a"] for values in plan(axis, shuffled=True)) == list(range(size))


def test_a_plan_comes_back_from_json_as_it_was(tmp_path: Path) -> None:
    made = plan(
        *sweeps(["a=1:9:2", "b=x,y"]),
        *zipped(["c=1,2", "d=3,4"]),
        seeds(3, 40),
        seeds(2, None),
        limit=17,
        shuffled=True,
    )
    again = Plan.from_json(json.loads(json.dumps(made.to_json())))
    assert list(again) == list(made)
    assert again.number("seeds", 3) == made.number("seeds", 3)


def test_a_csv_row_is_a_run_and_an_empty_cell_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        '\ufeffprompt,seed,output\n"a ""fox"", red\nand brown",1,fox\ncat,,\n\n', encoding="utf-8"
    )
    assert list(plan(table(str(path)))) == [
        {"prompt": 'a "fox", red\nand brown', "seed": "1", "output": "fox"},
        {"prompt": "cat"},
    ]


def test_jsonl_keeps_types(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"seed": 1, "flag": true}\n\n{"seed": 2}\n', encoding="utf-8")
    assert list(plan(table(str(path)))) == [{"seed": 1, "flag": True}, {"seed": 2}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", ""), ("t.csv", "a,b\n"), ("t.csv", "a,a\n1,2\n"), ("t.csv", "a\n1,2\n"), ("t.csv", 'a\n"x\n'),
        ("t.jsonl", "[1]\n"), ("t.jsonl", "{\n"), ("t.csv", "output\nx\n"),
    ],
)  # fmt: skip
def test_a_bad_table_is_misuse(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SkillError) as caught:
        table(str(path))
    assert caught.value.exit == 2


def test_prompts_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a fox\r\n\n  a cat  \n# not a comment\n", encoding="utf-8")
    assert list(prompts(str(path), "prompt").rows) == ["a fox", "a cat", "# not a comment"]


@pytest.mark.parametrize("mark", ["\u2028", "\x0b", "\x85"])
def test_a_break_inside_a_text_makes_no_second_run(tmp_path: Path, mark: str) -> None:
    text = f"a fox{mark}asleep"
    lines, rows, objects = tmp_path / "p.txt", tmp_path / "t.csv", tmp_path / "t.jsonl"
    lines.write_text(f"{text}\na cat\n", encoding="utf-8")
    rows.write_text(f"prompt,cfg\n{text},5\n", encoding="utf-8")
    objects.write_text(json.dumps({"prompt": text}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(prompts(str(lines), "prompt").rows) == [text, "a cat"]
    assert list(table(str(rows)).rows) == [[text, "5"]]
    assert [row[0] for row in table(str(objects)).rows] == [text]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_spreadsheet_may_separate_with_semicolons(tmp_path: Path, end: str) -> None:
    path = tmp_path / "excel.csv"
    path.write_text(
        end.join(["", "prompt;cfg", '"a; b, c";5', "d, e;7", ""]), encoding="utf-8-sig", newline=""
    )
    axis = table(str(path))
    assert axis.names == ("prompt", "cfg")
    assert list(axis.rows) == [["a; b, c", "5"], ["d, e", "7"]]


def test_a_folder_gives_its_media_in_natural_order(tmp_path: Path) -> None:
    for name in ("p10.png", "p9.png", ".hidden.png", "notes.txt", "sub/p1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [Path(row).name for row in files(str(tmp_path), "image", recursive=False).rows] == [
        "p9.png",
        "p10.png",
    ]
    assert [Path(row).name for row in files(str(tmp_path), "image", recursive=True).rows] == [
        "p9.png",
        "p10.png",
        "p1.jpg",
    ]
    with pytest.raises(SkillError):
        files(str(tmp_path / "nothere"), "image", recursive=False)


def test_a_name_set_twice_is_refused() -> None:
    with pytest.raises(SkillError, match="'a' is set by"):
        check_names([*sweeps(["a=1,2"]), *zipped(["a=1,2"])], {})
    with pytest.raises(SkillError):
        check_names(sweeps(["a=1,2"]), {"a": "5"})


def test_steps_do_not_drift() -> None:
    assert list(Steps("0", "1", "0.1"))[-1] == 1.0
    assert Steps("0", "1", "0.1")[3] == 0.3
    with pytest.raises(IndexError):
        Steps("0", "1", "1")[2]
