"""What more than one test file needs of test_gallery.py."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from comfyskill.batch.plan import Axis, Plan
from comfyskill.batch.results import Results, Row

HOSTILE = '"><img src=x onerror="document.title=\'owned\'"></script><script>document.title="owned"</script>\u202e\x1b[31m'


def results(
    folder: Path, *, rows: int = 2, columns: int = 3, pages: int = 1, hostile: bool = False
) -> Results:
    """A finished sweep with a picture for each run but the last, which failed."""
    axes = (
        Axis("sweep", ("sampler",), [f"s{at}" for at in range(pages)]),
        Axis("sweep", ("prompt",), [HOSTILE if hostile else f"prompt {at}" for at in range(rows)]),
        Axis("sweep", ("cfg",), [at + 0.5 for at in range(columns)]),
    )
    plan = Plan(axes, "key")
    made = []
    for run in range(plan.count):
        name = f"run_{run:04d}/a b#{run}?%.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        color = (40 * run % 256, 90, 255 - 30 * run % 256)
        Image.new("RGB", (60 + 20 * (run % 2), 40), color).save(folder / name)
        item = {
            "file": name,
            "type": "image",
            "filename": HOSTILE if hostile else Path(name).name,
            "bytes": 10,
        }
        good = run < plan.count - 1
        made.append(
            Row(
                run, plan.steps(run), plan.values(run), "success" if good else "error", {"3.seed": run}, 1.5 + run, "http://x",
                f"id{run}", 1, [item] if good else [], [{"text": HOSTILE}] if hostile else [],
                None if good else "out_of_memory", None if good else (HOSTILE if hostile else "no memory"),
            )
        )  # fmt: skip
    return Results(folder, plan, HOSTILE if hostile else "file flow.json", 1.8e9, True, made)
