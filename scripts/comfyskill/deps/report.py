"""A check as JSON: what is missing, why, what to type."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import _common
from comfyskill.base import file_names, programs, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.deps import catalog
from comfyskill.deps import place as deps_place
from comfyskill.deps.check import KINDS, MISSING, PRESENT, UNKNOWN, Check, Item, Unread
from comfyskill.deps.need import Use
from comfyskill.graph.replacements import Renamed

MOST_USES = 6
MOST_NAMED = 200
_PLURAL = {"node": "nodes", "model": "models", "embedding": "embeddings", "file": "files", "value": "values"}


def report(checked: Check, workflow: str, *, fixed: bool = False) -> Document:
    """The report on one workflow; lists of one kind each. fixed: nothing can be added to this server."""
    document: Document = {
        "counts": {status: len(checked.of(status)) for status in (PRESENT, MISSING, UNKNOWN)}
    }
    for kind in KINDS:
        items = [item for item in checked.items if item.kind == kind]
        if not items:
            continue
        document[_PLURAL[kind]] = {
            PRESENT: sorted(
                {safe_text.clean(item.name, MOST_NAMED) for item in items if item.status == PRESENT}
            ),
            MISSING: [entry(item, workflow, fixed=fixed) for item in items if item.status == MISSING],
            UNKNOWN: [entry(item, workflow, fixed=fixed) for item in items if item.status == UNKNOWN],
        }
    if checked.renamed:
        document["replaced"] = [_renamed(node) for node in checked.renamed[:20]]
    if checked.idle:
        document["not_looked_at"] = {
            "reason": "these nodes feed no output, so the server does not check their inputs",
            "nodes": safe_text.cap(checked.idle, 20),
        }
    if checked.loose:
        document["not_checked"] = {
            "reason": "file names in free text inputs: the definitions do not say whether the node reads, writes or fetches them",
            "names": [
                {"name": safe_text.clean(name, MOST_NAMED), "at": use.address}
                for name, use in checked.loose[:20]
            ],
        }
    if checked.unread:
        document["lora_tags"] = [_unread(found) for found in checked.unread[:20]]
    if checked.not_asked:
        document["sources_not_asked"] = list(checked.not_asked)
    return document


def _renamed(node: Renamed) -> Document:
    """A node that the server runs as another class, with the inputs that are lost by that."""
    facts: Document = {
        "node_id": safe_text.clean(node.node_id, 80),
        "class_type": safe_text.clean(node.old, MOST_NAMED),
        "runs_as": safe_text.clean(node.new, MOST_NAMED),
    }
    if node.lost:
        facts["lost_inputs"] = [safe_text.clean(name, 80) for name in node.lost]
    return facts


def _unread(found: Unread) -> Document:
    """A tag that no known node reads, and the flag that loads the LoRA instead."""
    tag = found.tag
    facts: Document = {"name": safe_text.clean(tag.name, MOST_NAMED), "at": tag.use.address}
    if tag.reader is None:
        return facts | {
            "read": "not known",
            "reason": "ComfyUI itself does not read <lora:…> tags; a node of a pack may",
        }
    facts |= {
        "read": False,
        "reason": "ComfyUI does not read <lora:…> tags: they stay words of the prompt and load no LoRA",
    }
    if found.lora is not None:
        weight = tag.weights.split(":")[0]
        weight = f":{weight}" if re.fullmatch(r"-?\d{1,3}(\.\d{1,4})?", weight) else ""
        facts["fix"] = f"add it with run_workflow.py {safe_text.shell_words(['--lora', found.lora + weight])}"
    else:
        facts["fix"] = (
            "remove the tag from the text; the server has no LoRA of that name, or could not be asked"
        )
    return facts


def entry(item: Item, workflow: str, *, fixed: bool = False) -> Document:
    """One missing or unknown thing with all known facts about it."""
    facts: Document = {
        "name": safe_text.clean(item.name, MOST_NAMED),
        "reason": safe_text.clean(item.reason, 400),
    }
    if item.kind == "node":
        facts["node_ids"] = list(item.node_ids[:MOST_USES])
    else:
        facts["used_by"] = [_use(use) for use in item.uses[:MOST_USES]]
    if item.folder:
        facts["folder"] = item.folder
    if item.kind in ("model", "embedding") and is_pickle(_file_name(item)):
        facts["pickle"] = True
    facts |= by_name(item, workflow)
    if item.similar:
        facts["similar"] = [safe_text.clean(name, MOST_NAMED) for name in item.similar]
    if item.origin is not None:
        facts["get"] = item.origin.to_json() | ({} if may_fetch(item.origin.url) else {"host_allowed": False})
    if item.pack is not None:
        facts |= item.pack.to_json()
    if item.replaced_by:
        facts["replaced_by"] = safe_text.clean(item.replaced_by, MOST_NAMED)
    return facts if fixed and item.kind != "file" else facts | _fix(item)


def _file_name(item: Item) -> str:
    """The file name; for an embedding, whose prompt name has no suffix, the name at its source."""
    return item.origin.name if item.kind == "embedding" and item.origin is not None else item.name


def _use(use: Use) -> dict[str, str]:
    return {
        "at": use.address,
        "class_type": safe_text.clean(use.class_type, 80),
        "title": safe_text.clean(use.title, 80),
    }


def by_name(item: Item, workflow: str) -> Document:
    """The listed name that is (or may be) meant, and the command that runs with it; empty when there is none."""
    if item.match is None:
        return {}
    facts: Document = {"use_instead": item.match.name, "how": item.match.how, "sure": item.match.sure}
    if item.settings:
        facts["set"] = programs.command("run_workflow.py", workflow, *item.settings)
    return facts


def _fix(item: Item) -> Document:
    """The command or advice that fixes it; empty when it is unclear what to install."""
    if item.kind == "file" and item.status == MISSING:
        return {
            "fix": f"give it with run_workflow.py --input-file {safe_text.name(item.uses[0].address)}=PATH"
        }
    if item.kind == "node":
        return _fix_node(item)
    command = download_command(item)
    if command and not item.fixed_by_name:
        return {"fix_command": safe_text.shell_words(command)}
    if item.kind in ("model", "embedding") and item.status == MISSING and not item.match:
        return {"fix": _model_advice(item)}
    return {}


def _model_advice(item: Item) -> str:
    """What to do about a missing model that no command fetches."""
    if item.origin is None:
        return "no source has a URL for it; search for the file name on huggingface.co or civitai.com"
    if item.origin.suggestion:
        return "the URL comes from a note in the workflow: check it before using it"
    if not may_fetch(item.origin.url):
        return "this host is not on the download allowlist: check the URL, then pass --allow-host HOST"
    if item.target is None:
        return "its model folder is unknown: download it by hand"
    return "its name is not a safe path inside the models folder: rename it in the workflow"


def _fix_node(item: Item) -> Document:
    pack = item.pack
    if pack is not None and pack.installable and not item.installed_but_absent and not item.replaced_by:
        return {"fix_command": safe_text.shell_words(["comfy", "node", "install", pack.id])}
    if item.replaced_by:
        advice = "the server has another class in its place (replaced_by): use that node in the workflow"
    elif pack is None:
        advice = (
            "no source names its pack: open the workflow in ComfyUI, where the Manager lists missing packs, search the "
            "Comfy Registry for the class, or ask the workflow's author"
        )
    elif pack.core:
        return {"fix": "it belongs to ComfyUI itself: update the server", "fix_command": "comfy update comfy"}
    elif item.installed_but_absent:
        advice = "its pack is installed but does not provide the class: restart the server, or see fetch_logs.py --server"
    elif pack.doubt:
        advice = "it is unclear which pack is meant (see doubt): compare their pages, then install it by hand"
    else:
        advice = "its registry id is unknown: read the repository, then install it by hand if you trust it"
    return {"fix": advice} if item.status == MISSING or pack is not None else {}


def download_command(item: Item) -> list[str] | None:
    """The comfy-cli command that downloads a missing model, or None when there is no trusted address or folder."""
    place, origin = item.target, item.origin
    if place is None or origin is None or origin.suggestion or not may_fetch(origin.url):
        return None
    try:
        folder, _, filename = deps_place.target(*place).rpartition("/")
    except SkillError:
        # The name leads out of the models folder.
        return None
    return [
        "comfy", "model", "download", f"--url={origin.url}", f"--relative-path=models/{folder}", f"--filename={filename}",
    ]  # fmt: skip


def may_fetch(url: str) -> bool:
    """Whether an address is on the download allowlist."""
    parts = _common.plain_parts(url)
    if parts is None or "@" in parts.netloc or parts.scheme != "https" or parts.port not in (None, 443):
        return False
    if parts.hostname not in catalog.DOWNLOAD_HOSTS:
        return False
    return parts.hostname != "github.com" or "/releases/download/" in parts.path


def is_pickle(name: str) -> bool:
    """Whether a file of this type can run code when it is opened."""
    return name.lower().endswith(tuple(file_names.PICKLE_SUFFIXES))


def may_run_code(name: str) -> bool:
    """Whether downloading a file requires its own consent: ComfyUI unpickles every type it does not know."""
    return not name.lower().endswith(tuple(file_names.DATA_SUFFIXES))


def verdict(checks: Sequence[Check]) -> str:
    """The worst of the three words over all workflows."""
    statuses = {item.status for checked in checks for item in checked.items}
    return MISSING if MISSING in statuses else UNKNOWN if UNKNOWN in statuses else PRESENT


def summary(checks: Sequence[Check]) -> dict[str, int]:
    """How many things there are of each status in all workflows, the same thing in two workflows counted once."""
    seen: dict[tuple[str, str, str | None], str] = {}
    rank: Mapping[str, int] = {PRESENT: 0, UNKNOWN: 1, MISSING: 2}
    for checked in checks:
        for item in checked.items:
            key = (item.kind, item.name, item.folder)
            seen[key] = max(item.status, seen.get(key, PRESENT), key=rank.__getitem__)
    found = list(seen.values())
    return {status: found.count(status) for status in (PRESENT, MISSING, UNKNOWN)}
