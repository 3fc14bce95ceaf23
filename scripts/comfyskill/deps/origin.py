"""Where to get a model file: what the workflow says, then the bundle, templates, the Manager's list, notes.

Each place names its source, because the sources deserve different trust. Nothing is downloaded here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import _common
from comfyskill.base import cache, file_names, foreign, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.deps import catalog as deps_catalog
from comfyskill.deps import names as deps_names

if TYPE_CHECKING:
    from comfyskill.deps.manager import Manager
    from comfyskill.server.protocol import Dialect

INDEX = Path(__file__).resolve().parents[3] / "workflows" / "index.json"
MOST_TEMPLATES = 1500
_URL = re.compile(r"https?://[^\s\"'<>()\[\]{}|\\^`]+")


class Origin(NamedTuple):
    """One place to get a model. source: who says so. suggestion: it is from free text, so a person must check it.

    inside: the sub-folder of `folder` in which it belongs.
    """

    name: str
    url: str
    source: str
    folder: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    licence: str | None = None
    suggestion: bool = False
    inside: str | None = None

    def to_json(self) -> Document:
        """The known facts for a report."""
        return {key: value for key, value in self._asdict().items() if value not in (None, False, "")}


def direct_url(url: str) -> str:
    """The address of the file itself where a page's address was given (huggingface.co: blob -> resolve)."""
    parts = _common.plain_parts(url)
    if parts is not None and parts.hostname == "huggingface.co" and "/blob/" in parts.path:
        return url.replace("/blob/", "/resolve/", 1)
    return url


def read(entry: object, source: str) -> Origin | None:
    """An origin out of {name, url, directory, hash, hash_type} as editor files, templates and lists carry it."""
    said = foreign.mapping(entry)
    name, url = said.get("name"), foreign.text(said.get("url"))
    if not isinstance(name, str) or not url.startswith(("https://", "http://")):
        return None
    if _common.plain_parts(url) is None:
        return None
    hashed = foreign.text(said.get("hash_type")).lower() in ("sha256", "sha-256")
    digest = foreign.text(said.get("hash")).lower() if hashed else ""
    return Origin(
        name,
        direct_url(url),
        source,
        foreign.text(said.get("directory") or said.get("folder")) or None,
        max(foreign.whole(said.get("bytes")) or 0, 0) or None,
        digest if re.fullmatch(r"[0-9a-f]{64}", digest) else None,
        foreign.text(said.get("licence")) or None,
    )


def declared(models: Iterable[object]) -> list[Origin]:
    """What the workflow itself says of its models."""
    return [origin for entry in models if (origin := read(entry, "the workflow's own model metadata"))]


def bundled() -> list[Origin]:
    """What the bundle's own list of workflows says."""
    try:
        index = json.loads(INDEX.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    found = []
    for workflow in foreign.mappings(foreign.mapping(index).get("workflows")):
        entries = foreign.items(workflow.get("models"))
        found += [origin for entry in entries if (origin := read(entry, "the bundle's workflow index"))]
    return found


def in_notes(texts: Iterable[str]) -> list[Origin]:
    """Download links to model files in free text: suggestions, since anyone may have written them."""
    found = []
    for text in texts:
        for match in _URL.finditer(text[:200_000]):
            url = match.group(0).rstrip(".,;:!?*_")
            parts = _common.plain_parts(url)
            name = unquote(parts.path).rsplit("/", 1)[-1] if parts is not None else ""
            if name.lower().endswith(tuple(file_names.MODEL_SUFFIXES)):
                found.append(Origin(name, direct_url(url), "a note in the workflow", suggestion=True))
    return found


def in_templates(server: Dialect) -> list[Origin]:
    """All models that the server's template library names with their addresses; kept in the cache by its index.

    Raises SkillError when the library's index cannot be fetched.
    """
    index = server.template_index()
    names = list(_template_names(index))[:MOST_TEMPLATES]
    key = f"templates/{cache.slug(server.url + json.dumps(index, sort_keys=True))}"
    kept = cache.recall(key)
    if not isinstance(kept, list):
        kept = _gather(server, names)
        if kept:
            cache.keep(key, kept)
    return [origin for entry in kept if (origin := read(entry, f"template {entry.get('template', '?')}"))]


def _gather(server: Dialect, names: list[str]) -> list[Document]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    with ThreadPoolExecutor(8) as pool:
        for name, entries in zip(
            names, pool.map(lambda title: _of_template(server, title), names), strict=True
        ):
            for entry in entries:
                found.setdefault(
                    (str(entry.get("directory")), str(entry["name"])), {**entry, "template": name}
                )
    return list(found.values())


def _of_template(server: Dialect, name: str) -> list[Document]:
    from urllib.parse import quote

    from comfyskill.source.read import declared_models

    try:
        document = server.get_json(f"templates/{quote(name)}.json", attempts=1)
    except SkillError:
        # The other templates may be readable.
        return []
    wanted = ("name", "url", "directory", "hash", "hash_type")
    entries = declared_models(document) if isinstance(document, Mapping) else ()
    return [{key: entry[key] for key in wanted if isinstance(entry.get(key), str)} for entry in entries]


def _template_names(index: object) -> Iterator[str]:
    for group in foreign.mappings(index):
        for entry in foreign.mappings(group.get("templates")):
            name = foreign.text(entry.get("name"))
            if re.fullmatch(r"[\w .()+,-]+(/[\w .()+,-]+)*", name) and ".." not in name:
                yield name


def in_manager(manager: Manager) -> list[Origin]:
    """What ComfyUI-Manager's list of models says."""
    found = []
    for entry in manager.model_list():
        save_path = foreign.text(entry.get("save_path")).replace("\\", "/").strip("/")
        folder, _, inside = save_path.partition("/")
        origin = read(
            {"name": entry.get("filename"), "url": entry.get("url")}, "ComfyUI-Manager's model list"
        )
        if origin is not None and not origin.name.startswith("<"):
            known = folder if folder not in ("", "default") else None
            found.append(origin._replace(folder=known, inside=inside or None))
    return found


class Finder:
    """Looks a model up in one source after another; slow sources are asked only when the fast ones do not know it.

    server: the one whose templates are read. not_asked: sources that failed, with the reason.
    """

    def __init__(
        self,
        models: Iterable[object],
        notes: Iterable[str],
        server: Dialect | None = None,
        manager: Manager | None = None,
    ) -> None:
        self._server = server
        self._manager = manager
        self._notes = list(notes)
        self._shelves: dict[str, list[Origin]] = {"declared": declared(models)}
        self.not_asked: list[str] = []

    def find(self, name: str, folder: str | None) -> Origin | None:
        """The first place that has the file under this name, or None."""
        for shelf in ("declared", "bundled", "templates", "manager", "notes"):
            for origin in self._shelf(shelf):
                if not _same(origin, name, folder):
                    continue
                # The workflow itself knows which of the many files of such a name it means.
                if shelf == "declared" or not deps_names.is_generic(name):
                    return origin
                if origin.inside and origin.inside.lower() == deps_names.inside(name).lower():
                    return origin
        return None

    def _shelf(self, name: str) -> list[Origin]:
        if name not in self._shelves:
            self._shelves[name] = self._fill(name)
        return self._shelves[name]

    def _fill(self, name: str) -> list[Origin]:
        if name == "bundled":
            return bundled()
        if name == "notes":
            return in_notes(self._notes)
        try:
            if name == "templates" and self._server is not None:
                return in_templates(self._server)
            if name == "manager" and self._manager is not None:
                return in_manager(self._manager)
        except SkillError as error:
            if error.code not in ("not_found", "bad_answer"):
                self.not_asked.append(f"{name}: {safe_text.clean(error.message, 160)}")
        return []


def _same(origin: Origin, name: str, folder: str | None) -> bool:
    there, wanted = (deps_names.base_name(text).lower() for text in (origin.name, name))
    # Prompts call an embedding without its suffix.
    bare = deps_names.without_suffix(there) if folder == "embeddings" else there
    if wanted not in (there, bare):
        return False
    if folder is None or origin.folder is None:
        return True
    return origin.folder.split("/")[0] in deps_catalog.folder_names(folder)


def hugging_face_page(url: str) -> str | None:
    """The page of the repository that a huggingface.co file belongs to, where its licence is accepted."""
    parts = urlsplit(url)
    words = parts.path.strip("/").split("/")
    if parts.hostname != "huggingface.co" or len(words) < 2:
        return None
    return f"https://huggingface.co/{words[0]}/{words[1]}"
