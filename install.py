#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = []
# ///
"""Copy this skill into the skill folders of the agents on this computer.

Examples:
    python3 install.py --dry-run
    python3 install.py --agent claude
    python3 install.py --agent codex --project ~/my-project
    python3 install.py --to ~/somewhere/skills

Copies SKILL.md, scripts, references and workflows to FOLDER/comfyui; an older copy of this skill is replaced whole, and
nothing else is touched. An older copy with files that were added or changed since is kept beside it (`kept` in the JSON).
Packages are not installed: the JSON says the command.

Exit codes: 0 installed, 1 could not be written, 2 misuse, or the folder holds something else, or leaves the project.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
NAME = "comfyui"
# What a copy consists of, so that a later one knows which files are the user's.
MANIFEST = ".installed.json"
PARTS = ("SKILL.md", "LICENSE", "requirements.txt", "scripts", "references", "workflows")
# Where agents look for skills below the home folder; most look in the same place of a project.
FOLDERS = {
    "agents": ".agents/skills",
    "claude": ".claude/skills",
    "codex": ".codex/skills",
    "copilot": ".copilot/skills",
    "cursor": ".cursor/skills",
    "gemini": ".gemini/skills",
    "opencode": ".config/opencode/skills",
}
IN_A_PROJECT = {"copilot": ".github/skills", "opencode": ".opencode/skills"}
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--agent", action="append", choices=sorted(FOLDERS), help="whose folder (repeatable; default: agents)"
    )
    parser.add_argument(
        "--project", type=Path, metavar="DIR", help="for one project instead of the whole account"
    )
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="this folder of skills instead")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and change nothing")
    return parser.parse_args(argv)


def targets(agents: list[str], project: Path | None, folder: Path | None) -> list[Path]:
    """The folders that shall hold the skill."""
    if folder is not None:
        return [folder.expanduser().resolve() / NAME]
    if project is None:
        return list(dict.fromkeys(Path.home() / FOLDERS[agent] / NAME for agent in agents))
    base = project.expanduser().resolve()
    return list(dict.fromkeys(base / IN_A_PROJECT.get(agent, FOLDERS[agent]) / NAME for agent in agents))


def is_ours(place: Path) -> bool:
    """Whether a folder is a copy of this skill, or empty."""
    if not any(place.iterdir()):
        return True
    page = place / "SKILL.md"
    return page.is_file() and f"\nname: {NAME}\n" in page.read_text(encoding="utf-8", errors="replace")


def files_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder, by its path; links are named, not followed. Byte code does not count."""
    found = {}
    for at, folders, names in os.walk(folder):
        for name in [*names, *(name for name in folders if Path(at, name).is_symlink())]:
            path = Path(at, name)
            if path.suffix == ".pyc" or path == folder / MANIFEST:
                continue
            regular = path.is_file() and not path.is_symlink()
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if regular else "no file"
            found[path.relative_to(folder).as_posix()] = digest
    return found


def is_changed(place: Path) -> bool:
    """Whether a copy holds files that this script did not put there, as far as its list of files says."""
    try:
        put = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        put = None
    there = files_of(place)
    return bool(there) and (not isinstance(put, dict) or any(put.get(name) != there[name] for name in there))


def put_aside(old: Path, place: Path) -> Path:
    """Give a replaced copy a name under which no agent takes it for a skill."""
    kept = place.with_name(f".{NAME}-kept-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    old.rename(kept)
    if (kept / "SKILL.md").exists():
        (kept / "SKILL.md").rename(kept / "SKILL.md.kept")
    return kept


def copy(place: Path) -> Path | None:
    """Put a whole copy beside the place, then exchange the two; where the old one went if it was kept. Raises OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".comfyui-", dir=place.parent))
    old = new.with_name(new.name + "-old")
    try:
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, new / part, ignore=LEFT_OUT)
            else:
                shutil.copy2(ROOT / part, new / part)
        (new / MANIFEST).write_text(json.dumps(files_of(new), indent=0), encoding="utf-8")
        new.chmod(0o755)
        changed = place.exists() and is_changed(place)
        if place.exists():
            place.rename(old)
        try:
            new.rename(place)
        except OSError:
            if old.exists():
                old.rename(place)
            raise
        return put_aside(old, place) if changed else None
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def install(places: list[Path], project: Path | None, dry_run: bool) -> tuple[int, dict[str, Any]]:
    """Exit code and report. `project`: the folder that the places must not leave, also not by a link."""
    for place in places:
        if project is not None and not place.resolve().is_relative_to(project.expanduser().resolve()):
            return 2, failed(
                "outside_project",
                f"{place} leads out of the project, to {place.resolve()}",
                "remove the link, or name that folder yourself with --to FOLDER",
            )
        if place.is_symlink() or place.resolve() == ROOT:
            return 2, failed(
                "taken", f"{place} is a link or this very folder", "choose another folder with --to"
            )
        if place.exists() and not (place.is_dir() and is_ours(place)):
            return 2, failed(
                "taken",
                f"{place} holds something that is not this skill",
                "move it away, or choose --to FOLDER",
            )
    after = [
        f"{Path(sys.executable).name.removesuffix('.exe')} -m pip install -r {quoted(str(place / 'requirements.txt'))}"
        for place in places[:1]
    ]
    if dry_run:
        return 0, {"status": "dry_run", "would_install": [str(place) for place in places], "next": after}
    try:
        kept = [str(old) for place in places if (old := copy(place)) is not None]
    except OSError as error:
        return 1, failed(
            "not_written",
            f"{error.filename}: {error.strerror}",
            "check the folder's rights, or choose --to FOLDER",
        )
    report = {"status": "ok", "installed": [str(place) for place in places], "next": after}
    return 0, report | ({"kept": kept} if kept else {})


def quoted(path: str) -> str:
    """A path as a word of a command; Windows shells know no other quotes, and no path has these."""
    return f'"{path}"' if os.name == "nt" else shlex.quote(path)


def failed(code: str, message: str, hint: str) -> dict[str, Any]:
    return {"status": "error", "code": code, "message": message, "hint": hint, "retryable": False}


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    places = targets(args.agent or ["agents"], args.project, args.to)
    code, report = install(places, None if args.to else args.project, args.dry_run)
    print(json.dumps(report, indent=2))
    return code


if __name__ == "__main__":
    sys.exit(main())
