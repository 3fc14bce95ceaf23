"""Writes scripts/comfyskill/graph/core_definitions.json: core's own node definitions, for work without a server.

    python tests/make_core_definitions.py object_info.json

The argument is the /object_info answer of a server. Classes that only the present file has stay, so that graphs of older
servers can be read. What differs from server to server is left out: file lists, and ranges and choices of partner nodes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from comfyskill.base import file_names  # noqa: E402
from comfyskill.graph import catalog, facts  # noqa: E402
from comfyskill.graph.specs import AUTOGROW, DYNAMIC_COMBO  # noqa: E402

FILE = ROOT / "scripts/comfyskill/graph/core_definitions.json"
OPTIONS = frozenset(
    "default min max step round options multiselect multiline control_after_generate dynamicPrompts forceInput defaultInput"
    " template lazy remote image_upload image_folder video_upload audio_upload file_upload widgetType socketless hidden".split()
)
OF_ONE_SERVER = {"min", "max", "step", "round"}


def compact(name: str, definition: dict[str, Any]) -> dict[str, Any]:
    """One definition without what only the editor's drawing needs."""
    partner = bool(definition.get("api_node"))
    made = {"input": _inputs(name, definition["input"], partner), "output": definition["output"]}
    if definition.get("display_name") not in (None, "", name):
        made["display_name"] = definition["display_name"]
    if any(definition.get("output_is_list") or ()):
        made["output_is_list"] = definition["output_is_list"]
    kept = ("api_node", "output_node", "deprecated", "output_matchtypes")
    return made | {key: definition[key] for key in kept if definition.get(key)}


def _inputs(name: str, sections: dict[str, Any], partner: bool) -> dict[str, Any]:
    return {
        section: {key: _input(name, key, raw, partner) for key, raw in sections[section].items()}
        for section in ("required", "optional")
        if section in sections
    }


def _input(name: str, key: str, raw: list[Any], partner: bool) -> list[Any]:
    kind, options = raw[0], dict(raw[1]) if len(raw) > 1 else {}
    if isinstance(kind, list):
        kind, options = "COMBO", {"options": kind, **options}
    options = {
        option: value
        for option, value in options.items()
        if option in OPTIONS and value is not None and value is not False and value != ""
    }
    if partner:
        options = {option: value for option, value in options.items() if option not in OF_ONE_SERVER}
    if kind == "COMBO" and (partner or _lists_files(name, key, options)):
        options.pop("options", None)
    elif kind == DYNAMIC_COMBO:
        options["options"] = [
            {"key": one["key"], "inputs": _inputs(name, one["inputs"], partner)} for one in options["options"]
        ]
    elif kind == AUTOGROW:
        template = options["template"]
        options["template"] = {**template, "input": _inputs(name, template["input"], partner)}
    return [kind, _plain(options)] if options else [kind]


def _lists_files(name: str, key: str, options: dict[str, Any]) -> bool:
    """Whether the choices are files of one server."""
    choices = options.get("options") or []
    suffixes = tuple(file_names.MODEL_SUFFIXES)
    return (
        not choices
        or facts.model_folder(name, key) is not None
        or (name, key) in catalog.UPLOADS
        or any(option in options for option in catalog.UPLOAD_OPTIONS)
        or any(isinstance(choice, str) and choice.lower().endswith(suffixes) for choice in choices)
    )


def _plain(value: Any) -> Any:
    """The value with whole numbers written as such."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def _is_core(name: str, definition: dict[str, Any]) -> bool:
    """Whether a class is core's own and no list of a model's hundreds of blocks."""
    return not definition["python_module"].startswith("custom_nodes") and not (
        name.startswith("ModelMerge") and len(definition["input"]["required"]) > 10
    )


def main() -> None:
    """Write the file from the server's answer in the first argument."""
    answer = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    made = json.loads(FILE.read_text(encoding="utf-8"))
    made |= {name: compact(name, one) for name, one in answer.items() if _is_core(name, one)}
    # This mark says that the definitions are not those of a server.
    made["KSampler"]["bundled"] = True
    rows = (f"{json.dumps(name)}:{json.dumps(made[name], separators=(',', ':'))}" for name in sorted(made))
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
