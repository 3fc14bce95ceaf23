"""The pages of a batch: index.html, contact_sheet.png and results.csv, made from the journal alone."""

from __future__ import annotations

from pathlib import Path

from comfyskill.base import cli, file_names, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.base.programs import command
from comfyskill.batch import results as batch_results

MOST_ROWS = 20
MOST_FILES = 4
MOST_TEXT = 200


def write(folder: Path) -> Document:
    """Write all three into the folder; their paths for the JSON document. Raises SkillError or OSError."""
    from comfyskill.pages import contact_sheet, gallery

    results = batch_results.read(folder)
    counts = {status: results.count(status) for status in sorted({row.status for row in results.rows})}
    document: Document = {"run_states": counts}
    if results.outside:
        cli.warn(
            f"left out {safe_text.counted(results.outside, 'file')} that the journal names outside {folder}"
        )
        document["files_left_out"] = results.outside
    for name, key, make in (
        ("results.csv", "results_csv", batch_results.table),
        ("index.html", "index_html", gallery.page),
    ):
        file_names.write_whole(folder / name, make(results))
        document[key] = str(folder / name)
    document["results"] = _first_rows(results) | {"all_in": document["results_csv"]}
    sheets = contact_sheet.write(results)
    if sheets:
        document["contact_sheet"] = str(sheets[0])
    if len(sheets) > 1:
        document["contact_sheets"] = [str(path) for path in sheets]
    return document


def _first_rows(results: batch_results.Results) -> Document:
    """Values and files of the first runs: enough to find the best one of a small sweep."""
    rows = [
        {
            "run": row.run,
            "status": row.status,
            "values": {
                name: safe_text.clean(value, MOST_TEXT) if isinstance(value, str) else value
                for name, value in row.values.items()
            },
            **({"seeds": dict(row.seeds)} if row.seeds else {}),
            "files": [str(results.folder / str(item.get("file"))) for item in row.files[:MOST_FILES]],
        }
        for row in results.rows[:MOST_ROWS]
    ]
    return {"count": len(results.rows), "items": rows}


def after_runs(folder: Path) -> Document:
    """Make the pages; a failure or an interruption here does not change the report of the runs."""

    try:
        return write(folder)
    except (OSError, SkillError) as error:
        cli.warn(f"the runs are done, but their pages could not be written: {error}")
        return {"report_problem": str(error)}
    except (KeyboardInterrupt, cli.Terminated):
        # The report of the runs matters more than its pages.
        warning = f"interrupted; this command makes the pages: {command('run_batch.py', '--report', folder)}"
        cli.warn(warning)
        return {"report_problem": warning}


def alone(folder: Path) -> Document:
    """The report of --report: only the pages, made again."""
    return {"status": "ok", "output_dir": str(folder), **write(folder)}
