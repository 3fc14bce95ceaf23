"""Run a receipt again and report whether the outputs are the same and, if not, what differs.

Above `jobs`. A receipt is read as data: the server comes from the flags, never from the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from comfyskill.base import foreign, safe_files, safe_text, text_files
from comfyskill.base.cli import Document, Exit, Misuse, SkillError
from comfyskill.base.picture_files import BadPicture, open_picture
from comfyskill.base.programs import command
from comfyskill.graph import facts, nodes
from comfyskill.run import prepare as run_prepare
from comfyskill.run import receipt as run_receipt
from comfyskill.server.protocol import Dialect
from comfyskill.source import read

MOST_RECEIPT = 256 * 1024 * 1024
FACTS = {
    "comfyui_version": "ComfyUI version",
    "pytorch_version": "PyTorch version",
    "python_version": "Python version",
    "os": "system",
    "devices": "device",
}


class Receipt(NamedTuple):
    """A receipt as read. `folder`: where its files were saved; relative names start there."""

    path: Path
    folder: Path
    graph: Document
    document: Mapping[str, object]

    @property
    def files(self) -> list[Mapping[str, object]]:
        """The files that the first run made."""
        return foreign.mappings(self.document.get("files"))

    @property
    def targets(self) -> list[str] | None:
        """The output nodes that the first run was limited to (--only); None when it was not."""
        only = self.document.get("only")
        return [str(item) for item in only] if isinstance(only, list) else None

    @property
    def include_previews(self) -> bool:
        """Whether the first run fetched temporary files too, so that they are among its files."""
        return self.document.get("include_previews") is True


def load(path: Path) -> Receipt:
    """The receipt in a file. Raises SkillError (exit 2) when it is not a receipt."""
    try:
        document = json.loads(text_files.read_bytes(path, MOST_RECEIPT))
    except (OSError, ValueError, RecursionError) as error:
        raise _not_a_receipt(path, getattr(error, "strerror", None) or "it is not JSON") from error
    if not isinstance(document, dict) or document.get("receipt") != 1:
        raise _not_a_receipt(path, "its format is not known")
    unwrapped = nodes.unwrap(document.get("graph"))
    if unwrapped.graph is None:
        raise _not_a_receipt(path, "it has no graph")
    return Receipt(path, path.absolute().parent, dict(unwrapped.graph), document)


def _not_a_receipt(path: Path, why: str) -> SkillError:
    return Misuse(
        f"{safe_text.clean(path, 200)} is not a receipt: {why}",
        code="no_receipt",
        hint="run_workflow.py --receipt writes one: PROMPT_ID.json in the output folder",
    )


def prepare(receipt: Receipt, server: Dialect, *, dry_run: bool = False) -> run_prepare.Prepared:
    """The receipt's graph with its input files on this server. Raises SkillError `rejected` for missing nodes."""
    missing = _missing_nodes(receipt, server)
    if missing:
        raise SkillError(
            f"{server.url} lacks node classes of this receipt: {safe_text.quoted_list(missing)}", code="rejected",
            exit=Exit.REJECTED, status="rejected", hint="run scripts/check_deps.py to see their node packs",
            missing_nodes=missing, differences=differences(receipt, server),
        )  # fmt: skip
    source = read.Source(receipt.graph, None, f"receipt {receipt.path.name}", False, [], [], [])
    files = [(row["name"], row["file"], row.get("kind") or "file") for row in _uploads(receipt)]
    return run_prepare.prepare(source, run_prepare.Wishes(files=files), server, dry_run=dry_run)


def _uploads(receipt: Receipt) -> list[dict[str, str]]:
    """The input files of the first run that are still on this machine; the others may still be on the server."""
    return [
        dict(row)
        for row in foreign.mappings(receipt.document.get("uploads"))
        if isinstance(row.get("name"), str)
        and isinstance(row.get("file"), str)
        and _may_leave(Path(row["file"]), row.get("sha256"))
    ]


def _may_leave(path: Path, digest: object) -> bool:
    """Whether a file is the recorded one, or at least a picture: a receipt can name any file of this machine.

    Its server is named by this command line; a journal, which names servers too, sends no other picture.
    """
    from comfyskill.source import media

    return path.is_file() and (safe_files.digest(path) == digest or media.image_facts(path).problem is None)


def _missing_nodes(receipt: Receipt, server: Dialect) -> list[str]:
    classes = sorted({nodes.class_of(node) for _, node in nodes.each(receipt.graph)})
    try:
        known = server.definitions(classes)
        return [name for name in classes if name not in known]
    except SkillError as error:
        if error.exit in (Exit.UNREACHABLE, Exit.REFUSED):
            raise
        return []


def again(receipt: Receipt, server: Dialect, run: Callable[[], Document]) -> Document:
    """Run and compare: the run's document with `reproduced`, `files_compared` and, when it differs, `differences`.

    `run` runs the prepared graph and makes digests of what it downloads (a receipt of its own).
    """
    try:
        document = run()
    except SkillError as error:
        if "differences" in error.details:
            raise
        raise error.but(differences=differences(receipt, server)) from error
    if document.get("status") != "success":
        return document | {"reproduced": False, "differences": differences(receipt, server)}
    compared = compare(receipt, document)
    same = all(row["same"] for row in compared) and _texts_of(receipt.document) == _texts_of(document)
    document |= {"receipt_used": str(receipt.path), "reproduced": same, "files_compared": compared}
    cached = document.get("cached_nodes")
    if isinstance(cached, int) and cached >= len(receipt.graph) - len(facts.outputs_of(receipt.graph)):
        document |= _nothing_computed(server)
    if same:
        return document
    found = differences(receipt, server)
    document |= {
        "status": "different",
        "code": "not_reproduced",
        "message": _sentence(compared, found),
        "retryable": False,
        "hint": "see differences" if found else
        "nothing known differs: attention kernels, drivers or custom nodes can cause small differences",
        "differences": found,
    }  # fmt: skip
    return document


def _nothing_computed(server: Dialect) -> Document:
    """The keys of a run whose results came from the server's cache."""
    note = "the server answered from its cache: nothing was computed again, so this is weak evidence"
    if server.api != "local":
        return {"computed": False, "note": note}
    return {
        "computed": False,
        "note": f"{note}; empty the cache (see next), then reproduce once more",
        "next": [command("manage_queue.py", "free", *server.flags)],
    }


def _sentence(compared: Sequence[Mapping[str, object]], found: Sequence[Mapping[str, object]]) -> str:
    different = [row for row in compared if not row["same"]]
    what = f"{len(different)} of {len(compared)} files are not the same" if different else "the texts differ"
    return what + (f"; {found[0]['what']} differs" if found else "")


def _texts_of(document: Mapping[str, object]) -> list[str]:
    return [str(item.get("text")) for item in foreign.mappings(document.get("texts"))]


def compare(receipt: Receipt, document: Mapping[str, object]) -> list[Document]:
    """The files of both runs side by side, by node and order: [{file, was, same, ...}]."""
    old, new = _by_place(receipt.files), _by_place(foreign.mappings(document.get("outputs")))
    rows = []
    for place in sorted(old.keys() | new.keys()):
        before, after = old.get(place), new.get(place)
        if before is None or after is None:
            which = after or before or {}
            missing = "only this run made it" if before is None else "this run did not make it"
            rows.append({"file": which.get("file"), "node_id": place[0], "same": False, "why": missing})
            continue
        rows.append(_compare_one(receipt, before, after) | {"node_id": place[0]})
    return rows


def _by_place(files: Sequence[Mapping[str, object]]) -> dict[tuple[str, int], Mapping[str, object]]:
    counted: dict[str, int] = {}
    placed = {}
    for item in files:
        node_id = str(item.get("node_id"))
        number = counted.get(node_id, 0)
        counted[node_id] = number + 1
        placed[node_id, number] = item
    return placed


def _compare_one(receipt: Receipt, before: Mapping[str, object], after: Mapping[str, object]) -> Document:
    row: Document = {"file": after.get("file"), "was": before.get("file")}
    digest = after.get("sha256") or safe_files.digest(Path(str(after["file"])))
    if digest == before.get("sha256"):
        return row | {"same": True}
    difference = _pixels(_first_file(receipt, before), Path(str(after["file"])))
    if difference is None:
        return row | {"same": False, "why": "other bytes"}
    if difference == 0:
        return row | {"same": True, "why": "the bytes differ, but every pixel is the same"}
    return row | {"same": False, "why": "other pixels", "largest_difference": difference}


def _first_file(receipt: Receipt, before: Mapping[str, object]) -> Path:
    """The first run's file, if it is still where it was saved and unchanged."""
    path = receipt.folder / str(before.get("file"))
    inside = path.resolve().is_relative_to(receipt.folder.resolve())
    return path if inside else receipt.folder / "outside"


def _pixels(one: Path, two: Path) -> int | None:
    """The largest difference of any channel of any pixel (0 to 255); None when they cannot be compared."""
    if not (one.is_file() and two.is_file()):
        return None
    from PIL import ImageChops

    try:
        with open_picture(one) as first, open_picture(two) as second:
            if first.size != second.size or getattr(first, "n_frames", 1) > 1:
                return None
            bands = ImageChops.difference(first.convert("RGBA"), second.convert("RGBA")).getextrema()
    except BadPicture:
        return None
    return max(int(band[1]) for band in bands if isinstance(band, tuple))


def differences(receipt: Receipt, server: Dialect) -> list[Document]:
    """What is known to be different now: [{what, was, now}]; versions, device, models, input files."""
    rows: list[Document] = []
    if receipt.document.get("api") not in (None, server.api):
        rows.append(
            {
                "what": "kind of server",
                "was": safe_text.clean(receipt.document["api"], 40),
                "now": server.api,
            }
        )
    was = foreign.mapping(receipt.document.get("server"))
    now = run_receipt.server_facts(server)
    for key, what in FACTS.items():
        before = was.get(key)
        if before and now.get(key) and before != now[key]:
            rows.append({"what": what, "was": safe_text.clean_tree(before, 120), "now": now[key]})
    return rows + _model_differences(receipt, server) + _input_differences(receipt)


def _model_differences(receipt: Receipt, server: Dialect) -> list[Document]:
    before = {
        (row.get("name"), row.get("folder")): row
        for row in foreign.mappings(receipt.document.get("model_files"))
    }
    rows: list[Document] = []
    for row in run_receipt.model_facts(server, receipt.graph):
        old = before.get((row["name"], row["folder"]), {})
        for key, what in (("hash", "hash of the model"), ("bytes", "size of the model")):
            if old.get(key) and row.get(key) and old[key] != row[key]:
                rows.append(
                    {"what": f"{what} {row['name']}", "was": safe_text.clean(old[key], 100), "now": row[key]}
                )
        if row.get("missing") and not old.get("missing"):
            rows.append({"what": f"model {row['name']}", "was": "there", "now": "not on the server"})
    return rows


def _input_differences(receipt: Receipt) -> list[Document]:
    rows = []
    for row in _uploads(receipt):
        path = Path(row["file"])
        if safe_files.digest(path) != row.get("sha256"):
            was = safe_text.clean(row.get("as"), 200)
            rows.append({"what": f"input file {path.name}", "was": was, "now": "different content"})
    return rows
