"""What a server (or an inventory of one) has, each answer with its own reasons for being unknown.

`present`, `missing` and `unknown` are three things; so are an empty folder, a folder that the server does not know,
and a refusal. Every question is asked once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from comfyskill.base import safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.deps import catalog
from comfyskill.deps.need import classes_of
from comfyskill.graph import catalog as graph_catalog
from comfyskill.graph import replacements
from comfyskill.graph.nodes import Graph
from comfyskill.graph.replacements import Replaced, ReplacementTable, new_class
from comfyskill.server.facts import Facts

T = TypeVar("T")
# What newer editors write as an input's value where the server has assets: the hash of a file's content.
ASSET = re.compile(r"blake3:[0-9a-f]{64}")
# The names that Comfy Cloud gives to uploaded files.
UPLOADED = re.compile(r"[0-9a-f]{64}(\.\w{1,10})?")
LISTED, EMPTY, NO_FOLDER, REFUSED, FAILED = "listed", "empty", "folder_not_found", "refused", "unreachable"


class Listing(NamedTuple):
    """The answer to "what is in this folder". state: listed, empty, folder_not_found, refused or unreachable."""

    folder: str
    state: str
    names: tuple[str, ...] = ()
    sentence: str = ""


class Stock:
    """The answers of one server, kept."""

    def __init__(self, server: Facts) -> None:
        self.server = server
        self.problems: list[SkillError] = []
        self._listings: dict[str, Listing] = {}
        self._folders: tuple[list[str] | None, SkillError | None] | None = None
        self._embeddings: tuple[list[str] | None, SkillError | None] | None = None
        self._definitions: dict[str, Any] = {}
        self._replacements: ReplacementTable | None = None
        self._asked: set[str] = set()
        self.definitions_problem: SkillError | None = None
        self._silent: SkillError | None = None

    def definitions(self, classes: Iterable[str]) -> Document | None:
        """The definitions of these classes that the server has; None when it could not be asked."""
        wanted = [name for name in dict.fromkeys(classes) if name not in self._asked]
        if self.definitions_problem is not None:
            return None
        if wanted:
            try:
                self._definitions.update(self._ask(lambda: self.server.definitions(wanted)))
            except SkillError as error:
                self._note(error)
                self.definitions_problem = error
                return None
            self._asked.update(wanted)
        return self._definitions

    def all_definitions(self) -> Document | None:
        """Every definition, for converting editor files; None when it could not be asked."""
        if self.definitions_problem is not None:
            return None
        try:
            self._definitions = self._ask(lambda: self.server.definitions())
        except SkillError as error:
            self._note(error)
            self.definitions_problem = error
            return None
        self._asked.update(self._definitions)
        return self._definitions

    def replaced(self, graph: Graph) -> Replaced:
        """The graph as the server will run it: with its own names for classes that it has replaced."""
        known = self.definitions(classes_of(graph))
        table = self.replacements() if known is not None and classes_of(graph).keys() - known.keys() else {}
        new = {new_class(name, table) for name in classes_of(graph)} - {None}
        if not new:
            return Replaced(graph, [])
        return replacements.replaced(graph, table, self.definitions(str(name) for name in new))

    def replacements(self) -> ReplacementTable:
        """The server's table of replaced classes; empty where it has none, or could not be asked."""
        if self._replacements is None:
            try:
                self._replacements = self._ask(self.server.replacements)
            except SkillError as error:
                self._note(error)
                self._replacements = {}
        return self._replacements

    def folder(self, name: str) -> Listing:
        """What is in a model folder, under the name that this server has for it."""
        first = self._listing(name)
        if first.state != NO_FOLDER:
            return first
        for other in catalog.folder_names(name):
            if other != name:
                listing = self._listing(other)
                if listing.state != NO_FOLDER:
                    return listing
        return first

    def _listing(self, name: str) -> Listing:
        if name not in self._listings:
            self._listings[name] = self._ask_folder(name)
        return self._listings[name]

    def _ask_folder(self, name: str) -> Listing:
        try:
            names = self._ask(lambda: self.server.models(name))
        except SkillError as error:
            if error.code == "folder_not_found":
                return Listing(
                    name, NO_FOLDER, (), f"the server knows no model folder {safe_text.quoted(name)}"
                )
            self._note(error)
            if error.code == "refused":
                return Listing(name, REFUSED, (), f"the server refuses to list {safe_text.quoted(name)}")
            return Listing(
                name,
                FAILED,
                (),
                f"the folder {safe_text.quoted(name)} could not be listed ({error.message})",
            )
        if not names:
            return Listing(name, EMPTY, (), f"the server's folder {safe_text.quoted(name)} is empty")
        return Listing(
            name, LISTED, tuple(names), f"the server's folder {safe_text.quoted(name)} has no such file"
        )

    def folders(self) -> list[str] | None:
        """The names of the model folders, or None when they could not be fetched."""
        if self._folders is None:
            try:
                self._folders = (
                    [name for name in self.server.model_folders() if name != "custom_nodes"],
                    None,
                )
            except SkillError as error:
                self._note(error)
                self._folders = (None, error)
        return self._folders[0]

    def folder_with(self, choices: Iterable[str]) -> str | None:
        """The model folder whose files are these choices: the one that an input of any pack reads from."""
        wanted = {choice for choice in choices if choice not in graph_catalog.NOT_A_FILE}
        if not wanted:
            return None
        best, best_share = None, 0.0
        for name in self.folders() or []:
            names = set(self._listing(name).names)
            share = len(wanted & names) / len(wanted | names) if names else 0.0
            if share > best_share:
                best, best_share = name, share
        return best if best_share >= 0.5 else None

    def embeddings(self) -> list[str] | None:
        """The embeddings' names without suffix, or None when they could not be fetched."""
        if self._embeddings is None:
            try:
                self._embeddings = (self._ask(self.server.embeddings), None)
            except SkillError as error:
                self._note(error)
                self._embeddings = (None, error)
        return self._embeddings[0]

    def has_input(self, value: str) -> tuple[bool | None, str]:
        """Whether a file is among the server's inputs (or outputs, as annotated), and why when that is not True."""
        if self.server.api == "v2":
            return None, "Comfy API v2 does not look up files by name"
        try:
            there = self._ask(lambda: self.server.has_input(value))
            by_hash = there is False and ASSET.fullmatch(value) is not None
            has_assets = not by_hash or self._ask(self.server.features).get("assets") is True
        except SkillError as error:
            self._note(error)
            return None, error.message
        if there is None:
            live = self.server.live is not None
            return (
                None,
                "the server answered with a web page" if live else "an inventory does not list input files",
            )
        if there:
            return True, ""
        if not has_assets:
            return None, "it names an asset by its content, and the server runs without assets"
        if self.server.api != "local" and UPLOADED.fullmatch(value):
            return None, "a file that was just uploaded may not be listed yet"
        return False, "the server has no such file"

    def _ask(self, question: Callable[[], T]) -> T:
        """The answer; once the server has stopped answering, the same failure at once instead of another time-out."""
        if self._silent is not None:
            raise self._silent
        try:
            return question()
        except SkillError as error:
            if error.code == "unreachable":
                self._silent = error
            raise

    def _note(self, error: SkillError) -> None:
        if error not in self.problems:
            self.problems.append(error)


def server_facts(server: Facts) -> Mapping[str, Any]:
    """Address and versions of a server for a report; versions are left out when it does not say."""
    facts: Document = {"host": server.url, "api": server.api}
    try:
        system = server.stats().get("system")
    except SkillError:
        return facts
    for key in ("comfyui_version", "cloud_version", "os"):
        if isinstance(system, Mapping) and isinstance(system.get(key), str):
            facts[key] = system[key]
    return facts
