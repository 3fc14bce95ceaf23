#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = []
# ///
"""Copy this skill into the skill folders of the agents on this computer, update those copies, or list them.

Examples:
    python3 install.py --dry-run
    python3 install.py --agent claude --agent codex
    python3 install.py --agent claude --project ~/my-project
    python3 install.py --to ~/somewhere/skills
    python3 install.py --status
    python3 install.py --update

Copies SKILL.md, LICENSE, requirements.txt, scripts, references and workflows to FOLDER/comfyui. An older copy of this
skill is replaced as a whole, and nothing else is touched. A copy in which files were changed or added since is kept
beside it (`kept`), and the files are named (`changed`). --update does the same to every copy that it finds, and
installs none that is new; links to copies are left alone (`skipped`). Packages are not installed: `next` has the commands.

Exit codes: 0 done, 1 could not be written, 2 misuse, or the folder is missing, holds something else or leaves the project.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent
# The scripts' own folder is first on their path; this file is beside it.
sys.path.insert(0, str(ROOT / "scripts"))

from comfyskill import __version__  # noqa: E402
from comfyskill.base import cli, flags, foreign, packages, safe_text  # noqa: E402

NAME = "comfyui"
# What a copy consists of, so that a later one knows which files are the user's.
MANIFEST = ".installed.json"
PARTS = ("SKILL.md", "LICENSE", "requirements.txt", "scripts", "references", "workflows")
# Where agents look for skills below the home folder; a variable of the agent may move the first part.
FOLDERS = {
    "agents": ".agents/skills",
    "amp": ".config/agents/skills",
    "antigravity": ".gemini/antigravity/skills",
    "augment": ".augment/skills",
    "claude": ".claude/skills",
    "codex": ".codex/skills",
    "continue": ".continue/skills",
    "copilot": ".copilot/skills",
    "crush": ".config/crush/skills",
    "cursor": ".cursor/skills",
    "droid": ".factory/skills",
    "gemini": ".gemini/skills",
    "goose": ".config/goose/skills",
    "hermes": ".hermes/skills",
    "junie": ".junie/skills",
    "kilo": ".kilo/skills",
    "kiro": ".kiro/skills",
    "openclaw": ".openclaw/skills",
    "opencode": ".config/opencode/skills",
    "openhands": ".openhands/skills",
    "pi": ".pi/agent/skills",
    "qwen": ".qwen/skills",
    "roo": ".roo/skills",
    "trae": ".trae/skills",
    "vibe": ".vibe/skills",
    "windsurf": ".codeium/windsurf/skills",
}
MOVED_BY = {
    "claude": "CLAUDE_CONFIG_DIR",
    "codex": "CODEX_HOME",
    "hermes": "HERMES_HOME",
    "vibe": "VIBE_HOME",
}
# In a project these agents look elsewhere. The others that are not here look in the same place.
IN_A_PROJECT = {
    "amp": ".agents/skills",
    "antigravity": ".agents/skills",
    "copilot": ".github/skills",
    "crush": ".crush/skills",
    "droid": ".agents/skills",
    "goose": ".goose/skills",
    "kilo": ".agents/skills",
    "openclaw": "skills",
    "opencode": ".opencode/skills",
    "pi": ".pi/skills",
    "windsurf": ".windsurf/skills",
}
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
# Names that a copy in progress has; one that was killed leaves them behind.
UNFINISHED = re.compile(r"\.comfyui-new-\w{8}(-old)?")
MOST = 50


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "--agent",
        action="append",
        choices=sorted(FOLDERS),
        metavar="NAME",
        help=f"whose folder (repeatable; default: agents, with --status and --update all): {', '.join(FOLDERS)}",
    )
    parser.add_argument(
        "--project", type=Path, metavar="DIR", help="for one project instead of the whole account"
    )
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="this folder of skills instead")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--status", action="store_true", help="list the copies, their versions and changed files"
    )
    what.add_argument("--update", action="store_true", help="replace every copy by this version")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and change nothing")
    args = parser.parse_args(argv)
    if args.to and (args.agent or args.project):
        parser.error("--to names the folder itself: it goes without --agent and --project")
    return args


def report(args: argparse.Namespace) -> cli.Document:
    """The report this script prints."""
    project = args.project.expanduser().resolve() if args.project else None
    if project is not None and not project.is_dir():
        raise cli.Misuse(
            f"{project} is not a folder",
            code="project_missing",
            hint="give the folder of an existing project",
        )
    everyone = args.status or args.update
    places = targets(args.agent or (list(FOLDERS) if everyone else ["agents"]), project, args.to)
    if everyone:
        places = {place: agents for place, agents in places.items() if place.is_dir() and is_ours(place)}
    if args.status:
        return {"status": "ok", "version": __version__, "copies": [row(*item) for item in places.items()]}
    skipped = [place for place in places if args.update and is_elsewhere(place)]
    chosen = [place for place in places if place not in skipped]
    for place in chosen:
        refuse(place, project)
    found = install(chosen, dry_run=args.dry_run)
    return found | ({"skipped": [str(place) for place in skipped]} if skipped else {})


def targets(agents: list[str], project: Path | None, folder: Path | None) -> dict[Path, list[str]]:
    """The folders that shall hold the skill, and the agents that look there."""
    if folder is not None:
        return {folder.expanduser().resolve() / NAME: []}
    places: dict[Path, list[str]] = {}
    for agent in agents:
        if project is None:
            place = home_of(agent)
        else:
            place = project / IN_A_PROJECT.get(agent, FOLDERS[agent])
        places.setdefault(place / NAME, []).append(agent)
    return places


def home_of(agent: str) -> Path:
    """The folder of skills that an agent reads for the whole account."""
    moved = os.environ.get(MOVED_BY.get(agent, ""), "").strip()
    return Path(moved).expanduser() / "skills" if moved else Path.home() / FOLDERS[agent]


def is_ours(place: Path) -> bool:
    """Whether a folder is a copy of this skill, or empty."""
    if not any(place.iterdir()):
        return True
    page = place / "SKILL.md"
    return page.is_file() and f"\nname: {NAME}\n" in page.read_text(encoding="utf-8", errors="replace")


def row(place: Path, agents: list[str]) -> cli.Document:
    """What --status says about one copy."""
    found: cli.Document = {"folder": str(place), "version": version_of(place), "agents": agents}
    if place.resolve() != ROOT and (changed := changes(place)):
        found["changed"] = safe_text.cap(changed, MOST)
    return found


def version_of(place: Path) -> str | None:
    """The version of a copy; None for one from before versions had numbers."""
    try:
        text = (place / "scripts" / "comfyskill" / "__init__.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(r'^__version__ = "([\w.+-]{1,40})"$', text, re.MULTILINE)
    return found[1] if found else None


def files_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder, by its path; links are named, not followed.

    Byte code and the virtual environment in it do not count.
    """
    found = {}
    for at, folders, names in os.walk(folder):
        if Path(at) == folder and ".venv" in folders:
            folders.remove(".venv")
        for name in [*names, *(name for name in folders if Path(at, name).is_symlink())]:
            path = Path(at, name)
            if path.suffix == ".pyc" or path == folder / MANIFEST:
                continue
            regular = path.is_file() and not path.is_symlink()
            digest = hashlib.sha256(path.read_bytes()).hexdigest() if regular else "no file"
            found[path.relative_to(folder).as_posix()] = digest
    return found


def changes(place: Path) -> list[str]:
    """The files of a copy that this script did not put there as they are; all of them when it left no list."""
    try:
        put = foreign.mapping(json.loads((place / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        put = {}
    return sorted(name for name, digest in files_of(place).items() if put.get(name) != digest)


def is_elsewhere(place: Path) -> bool:
    """Whether a place is a link to a copy elsewhere, or the folder that this script is in."""
    return place.is_symlink() or place.resolve() == ROOT


def refuse(place: Path, project: Path | None) -> None:
    """Raises Misuse for a folder that must not be replaced. `project`: what it must not leave, also not by a link."""
    if project is not None and not place.resolve().is_relative_to(project):
        raise cli.Misuse(
            f"{place} leads out of the project, to {place.resolve()}",
            code="outside_project",
            hint="remove the link, or name that folder yourself with --to FOLDER",
        )
    if is_elsewhere(place):
        raise cli.Misuse(
            f"{place} is a link or this very folder", code="taken", hint="choose another folder with --to"
        )
    if place.exists() and not (place.is_dir() and is_ours(place)):
        raise cli.Misuse(
            f"{place} holds something that is not this skill",
            code="taken",
            hint="move it away, or choose --to FOLDER",
        )


def install(places: list[Path], *, dry_run: bool) -> cli.Document:
    """Copy this skill to all places; the report. Raises SkillError when one cannot be written."""
    changed = {str(place): names for place in places if place.is_dir() and (names := changes(place))}
    found: cli.Document = {"status": "dry_run" if dry_run else "ok", "version": __version__}
    if changed:
        found["changed"] = {place: safe_text.cap(names, MOST) for place, names in changed.items()}
    if dry_run:
        return found | {"would_install": [str(place) for place in places], **after(places)}
    kept = []
    try:
        for place in places:
            remove_unfinished(place)
            if (old := copy(place, keep=str(place) in changed)) is not None:
                kept.append(str(old))
    except OSError as error:
        raise cli.SkillError(
            f"{error.filename}: {error.strerror}",
            code="not_written",
            hint="check the folder's rights, or choose --to FOLDER",
        ) from error
    found |= {"installed": [str(place) for place in places], **after(places)}
    return found | ({"kept": kept} if kept else {})


def after(places: list[Path]) -> cli.Document:
    """What to do next: the Python to run the scripts with, and the commands that give it the packages."""
    if not places:
        return {"hint": "no copy was found; without --update the skill is installed", "next": []}
    lines = [safe_text.shell_words(words) for words in packages.install_commands(places[0])]
    hint = f"run the scripts with {packages.interpreter(places[0])} once `next` has given it the packages"
    return {"python": packages.interpreter(places[0]), "hint": hint, "next": lines}


def remove_unfinished(place: Path) -> None:
    """Remove what an earlier, killed run left beside the place; the only copy is put back instead."""
    for leftover in list(_unfinished(place.parent)):
        if leftover.name.endswith("-old") and not place.exists():
            leftover.rename(place)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _unfinished(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if UNFINISHED.fullmatch(path.name))


def copy(place: Path, *, keep: bool) -> Path | None:
    """Put a whole copy beside the place, then exchange the two; where the old one is now if it was kept. Raises OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=".comfyui-new-", dir=place.parent))
    old = new.with_name(new.name + "-old")
    try:
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, new / part, ignore=LEFT_OUT)
            else:
                shutil.copy2(ROOT / part, new / part)
        (new / MANIFEST).write_text(json.dumps(files_of(new), indent=0), encoding="utf-8")
        new.chmod(0o755)
        if place.exists():
            place.rename(old)
        try:
            new.rename(place)
        except OSError:
            if old.exists():
                old.rename(place)
            raise
        if (old / ".venv").is_dir():
            (old / ".venv").rename(place / ".venv")
        return put_aside(old, place) if keep else None
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def put_aside(old: Path, place: Path) -> Path:
    """Give a replaced copy a name under which no agent takes it for a skill."""
    kept = place.with_name(f".{NAME}-kept-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    old.rename(kept)
    if (kept / "SKILL.md").exists():
        (kept / "SKILL.md").rename(kept / "SKILL.md.kept")
    return kept


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, report, argv)


if __name__ == "__main__":
    sys.exit(main())
