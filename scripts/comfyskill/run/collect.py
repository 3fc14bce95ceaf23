"""From a finished job's outputs to files on disk.

Files are found by shape (any list of objects with `filename`, under whatever key), fetched under a
temporary name with flat memory, checked for length, and renamed when whole.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from comfyskill.base import file_names, foreign, safe_files, safe_text
from comfyskill.base.cli import Document, SkillError
from comfyskill.server import download
from comfyskill.server.protocol import Dialect, FileRef, is_uuid

if TYPE_CHECKING:
    import requests

# HTTP 416: the server has fewer bytes than the range begins at.
RANGE_REFUSED = 416
AT_ONCE = 4
MOST_TEXT = 20_000
LOOK_UP = 0.5

TYPES = {
    "image": "png jpg jpeg webp gif bmp tif tiff avif heic exr hdr apng",
    "video": "mp4 webm mov mkv avi m4v mpg mpeg ogv",
    "audio": "wav mp3 flac ogg opus m4a aac aiff",
    "3d": "glb gltf obj fbx stl ply usdz usd splat ksplat spz",
    "text": "txt json csv md srt vtt html xml yaml yml svg",  # an SVG is a document that can hold a script
}
TYPE_BY_SUFFIX = {suffix: kind for kind, suffixes in TYPES.items() for suffix in suffixes.split()}


class OutputFile(NamedTuple):
    """One output file of a job."""

    ref: FileRef
    node_id: str
    key: str

    @property
    def kind(self) -> str:
        """image, video, audio, 3d, text or file: by its ending, else by the content type that came with it."""
        return kind_of(self.ref.display_name or self.ref.filename, self.ref.content_type)


class Saved(NamedTuple):
    """A file on disk. `sha256` only when requested; `reused`: the same bytes were there already."""

    path: Path
    output: OutputFile
    bytes: int
    sha256: str | None = None
    reused: bool = False
    renamed: bool = False

    def json(self) -> Document:
        """As the JSON document reports a file."""
        row: Document = {
            "file": str(self.path),
            "node_id": self.output.node_id,
            "type": self.output.kind,
            "filename": self.path.name,
            "bytes": self.bytes,
        }
        if self.sha256:
            row["sha256"] = self.sha256
        if self.output.ref.asset_id and is_uuid(self.output.ref.asset_id):
            row["asset_id"] = self.output.ref.asset_id
        if self.reused:
            row["reused"] = True
        if self.renamed:
            row["server_said"] = safe_text.clean(_plain_name(self.output.ref), 200)
        if self.bytes == 0:
            row["note"] = "the file is empty on the server too"
        return row


class Failed(NamedTuple):
    """A file that could not be fetched, and why."""

    output: OutputFile
    url: str
    error: SkillError

    def json(self) -> Document:
        """As the JSON document reports it."""
        return {
            "filename": safe_text.clean(self.output.ref.filename, 200),
            "node_id": self.output.node_id,
            "url": self.url,
            "code": self.error.code,
            "message": self.error.message,
        }


def kind_of(name: str, content_type: str | None = None) -> str:
    """image, video, audio, 3d, text or file."""
    found = TYPE_BY_SUFFIX.get(name.rpartition(".")[2].lower())
    if found:
        return found
    head = (content_type or "").partition("/")[0]
    return head if head in ("image", "video", "audio", "text") else "3d" if head == "model" else "file"


def files_of(outputs: Mapping[str, object], *, previews: bool = False) -> list[OutputFile]:
    """Every file in a job's outputs, each once; temporary previews only when asked for."""
    found: dict[tuple[str, str, str, str], OutputFile] = {}
    for node_id, output in outputs.items():
        for key, item in _file_items(output):
            ref = _ref(item)
            if ref.type == "temp" and not previews:
                continue
            identity = (str(node_id), ref.filename, ref.subfolder, ref.type)
            found.setdefault(identity, OutputFile(ref, str(node_id), str(key)))
    return list(found.values())


def temporary_count(outputs: Mapping[str, object]) -> int:
    """How many files are only temporary previews."""
    return len(files_of(outputs, previews=True)) - len(files_of(outputs))


def _file_items(output: object) -> Iterator[tuple[str, Mapping[str, object]]]:
    for key, item in _items(output):
        if isinstance(item, Mapping) and foreign.text(item.get("filename")):
            yield key, item


def _items(output: object) -> Iterator[tuple[str, object]]:
    """Each key of a node's output with each item of its list; a value that is not a list counts as one item."""
    for key, listed in foreign.mapping(output).items():
        for item in listed if isinstance(listed, (list, tuple)) else [listed]:
            yield str(key), item


def _ref(item: Mapping[str, object]) -> FileRef:
    def word(key: str) -> str | None:
        return foreign.text(item.get(key)) or None

    return FileRef(
        foreign.text(item.get("filename")),
        word("subfolder") or "",
        word("type") or "output",
        word("display_name"),
        word("url"),
        word("content_type") or word("format"),
        word("asset_id") or word("id"),
    )


def texts_of(outputs: Mapping[str, object]) -> list[dict[str, str]]:
    """The text outputs of nodes (lists of strings): node id, key and the text, cleaned and capped."""
    return [
        {"node_id": str(node_id), "key": key, "text": safe_text.clean(item, MOST_TEXT)}
        for node_id, output in outputs.items()
        for key, item in _items(output)
        if isinstance(item, str)
    ]


class Collector:
    """Downloads into one folder: keeps subfolders (unless `flat`), never replaces a file (unless `overwrite`)."""

    def __init__(
        self,
        server: Dialect,
        root: Path,
        *,
        flat: bool = False,
        overwrite: bool = False,
        digests: bool = False,
        patience: float = 10.0,
    ) -> None:
        self.server = server
        self.root = root
        self.flat = flat
        self.overwrite = overwrite
        self.digests = digests
        self.patience = patience
        self._taken: set[str] = set()
        self._naming = threading.Lock()  # files are fetched by several threads
        self._stopped = False
        self._parts: set[Path] = set()  # being written

    def fetch_all(self, outputs: Sequence[OutputFile]) -> tuple[list[Saved], list[Failed]]:
        """Fetch a few at once; failures are reported next to what arrived. Order as given."""
        several = len(outputs) > 1
        results = self._fetch_several(outputs) if several else [self._try(output) for output in outputs]
        return [item for item in results if isinstance(item, Saved)], [
            item for item in results if isinstance(item, Failed)
        ]

    def _fetch_several(self, outputs: Sequence[OutputFile]) -> list[Saved | Failed]:
        """Daemon threads, not a pool: an interrupt must not wait for a silent server."""
        waiting = deque(enumerate(outputs))
        results: dict[int, Saved | Failed] = {}
        faults: list[Exception] = []

        def work() -> None:
            while waiting and not self._stopped:
                with contextlib.suppress(IndexError):  # another thread took the last one
                    number, output = waiting.popleft()
                    try:
                        results[number] = self._try(output)
                    except Exception as error:  # noqa: BLE001  (raised again below)
                        faults.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(AT_ONCE, len(outputs)))]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(LOOK_UP)  # Windows hears Ctrl-C only between waits
        except BaseException:
            self._stopped = True
            for part in self._parts.copy():
                with contextlib.suppress(OSError):
                    part.unlink()
            raise
        if faults:
            raise faults[0]
        return [results[number] for number in sorted(results)]

    def _try(self, output: OutputFile) -> Saved | Failed:
        try:
            return self.fetch(output)
        except SkillError as error:
            return Failed(output, self.address(output.ref), error)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            failure = SkillError(f"cannot write the file: {reason}", code="system_error")
            return Failed(output, self.address(output.ref), failure)

    def address(self, ref: FileRef) -> str:
        """The address for fetching the file by hand, without any key."""
        if ref.url:
            return safe_text.clean(ref.url.split("?")[0], 500)
        return f"{self.server.route('view')}?{urlencode(ref.json())}"

    def fetch(self, output: OutputFile) -> Saved:
        """Fetch one file. Raises SkillError (`download_failed`, `not_found`, `refused` …) or OSError of the disk."""
        target = self._target(output)
        part = file_names.part_beside(target)
        self._parts.add(part)
        try:
            with file_names.held(part):
                with safe_files.open_file(part, "wb") as file:
                    arriving = _Output(file, part.parent, lambda: self._stopped, hashed=self.digests)
                    _receive(self.server, output.ref, arriving, self.patience)
                path, reused = file_names.settle(part, target, overwrite=self.overwrite)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        finally:
            self._parts.discard(part)
        digest = arriving.digest.hexdigest() if arriving.digest is not None else None
        return Saved(path, output, arriving.size, digest, reused, path.name != _plain_name(output.ref))

    def save_bytes(self, name: str, data: bytes, node_id: str, key: str) -> Saved:
        """Save a picture that came through the socket instead of the disk."""
        output = OutputFile(FileRef(name), node_id, key)
        target = self._target(output)
        part = file_names.part_beside(target)
        try:
            with file_names.held(part):
                with safe_files.open_file(part, "wb") as file:
                    file.write(data)
                path, reused = file_names.settle(part, target, overwrite=self.overwrite)
        finally:
            part.unlink(missing_ok=True)
        digest = safe_files.digest(path) if self.digests else None
        return Saved(path, output, len(data), digest, reused, path.name != target.name)

    def _target(self, output: OutputFile) -> Path:
        """The path for an output; two outputs of one run never share one, not even one that differs only in case."""
        ref = output.ref
        name = file_names.file_name(re.split(r"[/\\]", _plain_name(ref))[-1])
        # Where a display name exists the subfolder is decoration (the cloud's).
        segments = [] if self.flat or ref.display_name else file_names.safe_relative(ref.subfolder)
        folder = file_names.folder_inside(self.root, segments)
        name = file_names.fitted(folder, name)
        stem, dot, suffix = name.rpartition(".")
        number = 0
        chosen = name
        with self._naming:
            while str(folder / chosen).casefold() in self._taken:
                number += 1
                chosen = f"{stem} ({number}){dot}{suffix}" if dot else f"{name} ({number})"
            self._taken.add(str(folder / chosen).casefold())
        return folder / chosen


def _plain_name(ref: FileRef) -> str:
    """The name that people know the file by."""
    return ref.display_name or ref.filename


class _Output(download.Arriving):
    """An output file on its way to the disk. `stopped`: whether the user has interrupted the downloads."""

    def __init__(self, file: IO[bytes], folder: Path, stopped: Callable[[], bool], *, hashed: bool) -> None:
        super().__init__(file, folder, hashed=hashed)
        self._stopped = stopped

    def check(self) -> None:
        """Raises SkillError when the downloads were stopped, or this one cannot go on."""
        if self._stopped():
            raise SkillError("the download was stopped", code="stopped")
        super().check()


def _receive(server: Dialect, ref: FileRef, arriving: _Output, patience: float) -> None:
    """Complete the file. Raises SkillError: the server's own, or `download_failed`."""

    def ask(offset: int, validator: str | None) -> requests.Response:
        try:
            response = server.open_file(ref, offset=offset, validator=validator)
        except SkillError as error:
            if error.details.get("http_status") == RANGE_REFUSED and offset:
                arriving.restart()
            elif not error.retryable:
                raise
            raise download.Broken(error.message, error) from error
        _refuse_page(response, ref)
        return response

    try:
        download.receive(arriving, ask, patience=patience)
    except download.Broken as broken:
        if broken.error is not None:
            raise broken.error from broken
        whole = "an unknown number" if arriving.total is None else arriving.total
        raise SkillError(
            f"every download of the file was cut short ({arriving.size} of {whole} bytes)",
            code="download_failed", retryable=True,
        ) from broken  # fmt: skip
    except SkillError as error:
        if error.code != "not_found":
            raise
        # A 404 of /view is about the file, not about the route.
        raise SkillError(
            "the server does not have this file (or no longer has it)", code="not_found"
        ) from error


def _refuse_page(response: requests.Response, ref: FileRef) -> None:
    """Raises SkillError for a proxy's login or error page, which may come with status 200."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    wanted = kind_of(ref.display_name or ref.filename, ref.content_type)
    if kind in ("text/html", "application/json") and wanted in ("image", "video", "audio", "3d"):
        response.close()
        raise SkillError(
            f"the server sent {'a web page' if kind == 'text/html' else 'JSON'} instead of the file",
            code="bad_answer",
        )
