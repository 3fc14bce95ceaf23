"""comfy-cli as a child process: found on PATH, argument lists only, its output kept apart from ours.

The options are those of comfy-cli 1.23 (`comfy node install`, `comfy model download`, `comfy which`). Values are joined
to their option with `=`, so that none can be taken for another option. A pack's installer is foreign code, so it does
not see the keys in our environment. Usage reports are switched off for these calls.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from comfyskill.base import cli, programs, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.deps import catalog
from comfyskill.deps.pack import Pack, registry_id

PROGRAM = "comfy"
INSTALL_LIMIT = 1800.0
DOWNLOAD_LIMIT = 6 * 3600.0
ANSWER_LIMIT = 30.0
MOST_ANSWER = 4_000_000
SAID = 800
T = TypeVar("T")
LIST = "Comfy Org's list of supported packs, read through comfy-cli"
MAP = "ComfyUI-Manager's class map, read through comfy-cli"
# Each query starts a comfy-cli process: 0.6 s for the list, 1.7 s for the map (measured with 1.23; Manager 4.3).
MOST_CLASSES = 12
AT_ONCE = 4
# The Manager may fetch the registry's whole list before it looks into its own map.
MAP_LIMIT = 90.0
REGISTRY_LIMIT = 60.0
_REPOSITORY = re.compile(
    r"https://github\.com/([\w.-]{1,100})/([\w.-]{1,100}?)(?:\.git)?/?(?:@[0-9a-f]{7,40})?"
)


class Done(NamedTuple):
    """How a call ended: its exit code and the end of what it printed."""

    code: int
    said: str


def program() -> str | None:
    """The path of comfy-cli, or None when it is not installed."""
    return programs.find(PROGRAM)


def workspace() -> Path | None:
    """The ComfyUI folder that comfy-cli would use, when it exists; None when it names none."""
    data = ask(["which"])
    path = data.get("workspace_path") if data is not None else None
    return Path(path) if isinstance(path, str) and Path(path).is_dir() else None


def ask(
    words: Sequence[str], *, folder: Path | None = None, limit: float = ANSWER_LIMIT
) -> Mapping[str, Any] | None:
    """The `data` of comfy-cli's answer to a question; None for no answer, a failure or a time-out.

    Its --json puts one envelope on stdout; older versions and other commands print text, which is ignored here.
    """
    comfy = program()
    if comfy is None:
        return None
    asked = ["--json", "--skip-prompt", *_workspace_words(folder), *words]
    try:
        programs.refuse_batch_file(comfy, asked, "")
        raw = _output_of([comfy, *asked], limit)
        answer = json.loads(raw.strip().rpartition(b"\n")[2])
    except (OSError, subprocess.SubprocessError, ValueError, RecursionError, SkillError):
        return None
    data = answer.get("data") if isinstance(answer, Mapping) else None
    return data if isinstance(data, Mapping) else None


def _output_of(words: Sequence[str], limit: float) -> bytes:
    """What a child prints; an interrupt also stops the child and its children."""
    import tempfile

    from comfyskill.base.programs import kill_tree

    environment = programs.environment() | {"DO_NOT_TRACK": "1", "NO_COLOR": "1"}
    # A file, not a pipe: a grandchild that keeps a pipe open would block the reader for ever.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL, env=environment,
            start_new_session=os.name != "nt",
        )  # fmt: skip
        try:
            process.wait(limit)
        except BaseException:
            kill_tree(process)
            raise
        output.seek(0)
        return output.read(MOST_ANSWER)


def install_command(pack: str, folder: Path | None) -> list[str]:
    """The words that install one registry pack."""
    return [PROGRAM, "--skip-prompt", *_workspace_words(folder), "node", "install", "--exit-on-fail", pack]


def download_command(url: str, relative: str, filename: str, folder: Path | None) -> list[str]:
    """The words that download one model; `relative` starts at the workspace, as in models/loras."""
    return [
        PROGRAM, "--skip-prompt", *_workspace_words(folder), "model", "download", f"--url={url}",
        f"--relative-path={relative}", f"--filename={filename}",
    ]  # fmt: skip


def _workspace_words(folder: Path | None) -> list[str]:
    return [f"--workspace={folder}"] if folder is not None else []


def run(words: Sequence[str], *, token_host: str | None = None, limit: float = INSTALL_LIMIT) -> Done:
    """Run comfy-cli to its end. `token_host`: the host whose token it may see, and no other.

    Raises SkillError when it is not installed or does not finish in time.
    """
    comfy = program()
    if comfy is None:
        raise SkillError(
            "comfy-cli is not installed", code="no_comfy_cli", hint="python3 -m pip install comfy-cli, or --via manager",
        )  # fmt: skip
    programs.refuse_batch_file(comfy, words[1:], "install comfy-cli with pipx or uv, which bring comfy.exe")
    environment = programs.environment() | _token(token_host)
    try:
        done = subprocess.run(
            [comfy, *words[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=limit, env=environment, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SkillError(
            f"comfy-cli did not finish within {limit:.0f} s and was stopped",
            code="time_limit",
            server_said=_end_of(error.output or b""),
        ) from error
    except OSError as error:
        raise SkillError(
            f"comfy-cli could not be started ({error.strerror or error})",
            code="no_comfy_cli",
        ) from error
    return Done(done.returncode, _end_of(done.stdout))


def _end_of(output: bytes) -> str:
    return safe_text.last_of(safe_text.clean(output.decode("utf-8", "replace")).strip(), SAID)


def _token(host: str | None) -> dict[str, str]:
    """The host's token under the name by which comfy-cli reads it."""
    names = catalog.TOKENS.get(host or "")
    if not names:
        return {}
    for name in names:
        value = (os.environ.get(name) or "").strip()
        if value:
            safe_text.hide(value)
            return {names[1]: value}
    return {}


def facts() -> dict[str, Any]:
    """For a report: its path, or None."""
    path = program()
    return {"comfy_cli": path} if path else {"comfy_cli": None}


class Registered(NamedTuple):
    """What the registry says about an id. there: None when it could not be asked; `why` has the reason."""

    there: bool | None
    version: str | None = None
    requires: tuple[str, ...] = ()
    why: str | None = None


class Registry:
    """comfy-cli's answers, each asked for once."""

    def __init__(self, workspace: Path | None = None) -> None:
        self._workspace = workspace
        self._found: dict[str, Pack | None] = {}
        self._registered: dict[str, Registered] = {}
        self.not_asked: list[str] = []

    def look_up(self, class_types: Iterable[str]) -> dict[str, Pack]:
        """Class -> pack for the classes that comfy-cli knows; `not_asked` notes what it could not be asked."""
        asked = [name for name in dict.fromkeys(class_types) if name not in self._found and _plain(name)]
        if len(asked) > MOST_CLASSES:
            self._note(f"comfy-cli was asked for {MOST_CLASSES} of {len(asked)} classes")
            asked = asked[:MOST_CLASSES]
        if asked:
            cli.note(f"asking comfy-cli which packs provide {safe_text.quoted_list(asked)}")
            with tempfile.TemporaryDirectory() as folder:
                found = self._in_list(asked, Path(folder))
                left = [name for name in asked if name not in found or found[name].id is None]
                found |= self._named(self._in_map(left, Path(folder))) if left else {}
            self._found |= {name: found.get(name) for name in asked}
        return {name: pack for name, pack in self._found.items() if pack is not None}

    def _in_list(self, names: Sequence[str], folder: Path) -> dict[str, Pack]:
        """Packs by Comfy Org's list. It answers only for classes in a definitions file, so one is written."""
        definitions = folder / "object_info.json"
        blank = {
            "input": {"required": {}},
            "output": [],
            "output_name": [],
            "category": "",
            "output_node": False,
        }
        definitions.write_text(
            json.dumps({name: {**blank, "name": name} for name in names}), encoding="utf-8"
        )
        answers = _each(names, lambda name: ask(["nodes", "show", f"--input={definitions}", "--", name]))
        if all(data is None for data in answers):
            self._note("comfy-cli did not answer `comfy nodes show` (1.23 does)")
        packs = [_listed(data.get("pack")) if data is not None else None for data in answers]
        return {name: pack for name, pack in zip(names, packs, strict=True) if pack is not None}

    def _in_map(self, names: Sequence[str], folder: Path) -> dict[str, str]:
        """Class -> repository by the Manager's map. It names the packs of a whole workflow, so each class is asked alone."""
        root = self._workspace or workspace()
        if root is None:
            self._note("comfy-cli has no ComfyUI folder, so the Manager's class map in it was not read")
            return {}
        answer = _mapped(names, root, folder / "all")
        if answer is None:
            self._note(
                "the Manager's class map was not read: comfy-cli's workspace has no ComfyUI-Manager that answers"
            )
            return {}
        repositories, unknown = answer
        known = [name for name in names if name not in unknown]
        if len(repositories) < 2:
            return dict.fromkeys(known, repositories[0]) if repositories else {}
        alone = _each(known, lambda name: _mapped([name], root, folder / str(known.index(name))))
        return {
            name: said[0][0] for name, said in zip(known, alone, strict=True) if said and len(said[0]) == 1
        }

    def _named(self, repositories: Mapping[str, str]) -> dict[str, Pack]:
        """Packs by their repositories, with the id of the same name when the registry has one: that is a suggestion."""
        same_name = {url: registry_id(url.rpartition("/")[2]) for url in set(repositories.values())}
        said = self.registered([name for name in same_name.values() if name is not None])
        doubt = "the registry has a pack with the repository's name; comfy-cli cannot confirm that it is the same pack"
        found = {}
        for class_type, url in repositories.items():
            name = same_name[url]
            there = name is not None and said[name].there
            found[class_type] = Pack(
                name if there else None, MAP, repository=url, doubt=doubt if there else None
            )
        return found

    def registered(self, ids: Iterable[str]) -> dict[str, Registered]:
        """What the registry says about each id, in one query; nothing is installed."""
        wanted = [
            name for name in dict.fromkeys(ids) if name not in self._registered and registry_id(name) == name
        ]
        if wanted:
            with tempfile.TemporaryDirectory() as folder:
                # It compares with the packages of a workspace; that part is not used, so any folder will do.
                words = ["node", "deps", *(f"--registry={name}" for name in wanted)]
                data = ask(words, folder=Path(folder), limit=REGISTRY_LIMIT)
            self._registered |= {name: _read(name, data) for name in wanted}
        return {name: self._registered.get(name, Registered(None, why="not a registry id")) for name in ids}

    def _note(self, text: str) -> None:
        if text not in self.not_asked:
            self.not_asked.append(text)


def _each(names: Sequence[str], ask: Callable[[str], T]) -> list[T]:
    """The answer for each name, a few at a time: most of each call is comfy-cli's start."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            return list(pool.map(ask, names))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _plain(name: str) -> bool:
    """Whether a class name is safe as a program argument: one line, not too long, not an option."""
    return 0 < len(name) <= 200 and not name.startswith("-") and name.isprintable()


def _listed(said: Any) -> Pack | None:
    """A pack of Comfy Org's list: a registry id, or a repository with the commit that they use."""
    if not isinstance(said, str) or said == "core":
        return None
    known = registry_id(said)
    if known is not None:
        return Pack(known, LIST)
    repository = _repository(said)
    return Pack(None, LIST, repository=repository) if repository is not None else None


def _repository(said: Any) -> str | None:
    match = _REPOSITORY.fullmatch(said) if isinstance(said, str) else None
    return f"https://github.com/{match[1]}/{match[2]}" if match else None


def _mapped(names: Sequence[str], workspace: Path, folder: Path) -> tuple[list[str], set[str]] | None:
    """(repositories that bring the classes, classes that the map does not know); None without an answer."""
    folder.mkdir()
    flow, answer = folder / "classes.json", folder / "packs.json"
    flow.write_text(json.dumps({"nodes": [{"type": name} for name in names]}), encoding="utf-8")
    words = ["node", "deps-in-workflow", f"--workflow={flow}", f"--output={answer}", "--mode=local"]
    ask(words, folder=workspace, limit=MAP_LIMIT)
    try:
        document = json.loads(answer.read_bytes()[:MOST_ANSWER])
    except (OSError, ValueError, RecursionError):
        return None
    packs = document.get("custom_nodes") if isinstance(document, Mapping) else None
    unknown = document.get("unknown_nodes") if isinstance(document, Mapping) else None
    if not isinstance(packs, Mapping) or not isinstance(unknown, list):
        return None
    repositories = sorted({found for key in packs if (found := _repository(key)) is not None})
    return repositories, {name for name in unknown if isinstance(name, str)}


def _read(name: str, data: Mapping[str, Any] | None) -> Registered:
    rows, warnings = (data.get("packs"), data.get("warnings")) if data is not None else (None, None)
    row = next((row for row in _mappings(rows) if row.get("pack") == name), None)
    if row is None:
        return Registered(None, why="comfy-cli gave no answer (1.23 does, with a network)")
    about = [entry for entry in _mappings(warnings) if f"'{name}'" in str(entry.get("message"))]
    codes = {str(entry.get("code")) for entry in about}
    if "registry_node_not_found" in codes:
        return Registered(False)
    if codes & {"registry_unavailable", "registry_invalid_node_id"}:
        return Registered(None, why="the Comfy Registry could not be reached")
    version = row.get("version")
    if not isinstance(version, str):
        return Registered(None, why="the Comfy Registry has no version of it")
    declared = row.get("declared")
    requires = [word for word in declared if isinstance(word, str)] if isinstance(declared, list) else []
    return Registered(
        True, safe_text.clean(version, 60), tuple(safe_text.clean(word, 120) for word in requires[:40])
    )


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []
