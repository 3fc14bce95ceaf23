"""Input files: checked, named by their content, uploaded once, masks made the way ComfyUI reads them.

Pillow is imported only when a picture must be looked into.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from comfyskill.base import cli, file_names, paths, safe_files, safe_text
from comfyskill.base.cli import Document, Exit, Misuse, SkillError
from comfyskill.base.picture_files import BadPicture, Size, open_picture, refuse_other_size
from comfyskill.run import collect
from comfyskill.server.facts import Facts
from comfyskill.server.protocol import FileRef
from comfyskill.source import media

if TYPE_CHECKING:
    from PIL.Image import Image

    from comfyskill.graph.fill import UploadTarget

PICTURE_KINDS = frozenset({"image", "mask"})
ORIENTATION = 0x0112  # the EXIF tag that says how a stored picture is turned
# Rotated pictures that were already reported: a batch tries its values before it sends them.
_REPORTED: set[Path] = set()


class Uploader:
    """Turns local files and outputs of earlier jobs into the values that a graph's inputs must hold."""

    def __init__(
        self,
        server: Facts | None,
        *,
        dry_run: bool = False,
        invert_mask: bool = False,
        known: frozenset[str] | None = None,
    ) -> None:
        """`known`: see `Wishes.known_files`."""
        # An inventory, which replaces a server in a dry run, accepts no files.
        self.server = server.live if server is not None else None
        self.dry_run = dry_run
        self.invert_mask = invert_mask
        self.known = known
        self._sent: dict[str, FileRef] = {}
        self._local: dict[FileRef, Path] = {}

    def value_for(
        self, given: str, kind: str, target: UploadTarget, original: FileRef | None
    ) -> tuple[object, Document]:
        """The value for the input, and the row for the report. Raises SkillError (exit 2) for unusable files."""
        if given.startswith("output:"):
            ref = self._job_output(given, kind)
            return self._value(ref), {"name": target.name, "from": given, "as": ref.filename}
        path = paths.expanded(given)
        self._check(path, kind)
        digest = safe_files.digest(path)
        if self.known is not None and digest not in self.known:
            raise SkillError(
                f"{path} is not sent: only the journal names it, and its content is not one that the batch began with",
                code="unsafe_upload", exit=Exit.UNSAFE,
                hint="to use the file, start a new batch whose command names it",
            )  # fmt: skip
        if kind == "mask":
            ref = self._send_mask(path, digest, original)
        else:
            ref = self._send(path, digest)
        # The whole path: a receipt may be run again from another folder.
        row = {
            "name": target.name,
            "file": str(paths.absolute(path)),
            "as": ref.filename,
            "kind": kind,
            "sha256": digest,
        }
        return self._value(ref), row

    def _value(self, ref: FileRef) -> object:
        return self.server.input_value(ref) if self.server is not None else ref.filename

    def _check(self, path: Path, kind: str) -> None:
        if not path.is_file():
            what = "a folder" if path.is_dir() else "not there"
            raise Misuse(
                f"the input file {path} is {what}",
                code="no_such_file",
                hint="check the path",
            )
        if kind not in PICTURE_KINDS:
            return
        facts = media.image_facts(path)
        if facts.problem:
            raise bad_picture(path, facts.problem)
        if facts.orientation != 1 and path not in _REPORTED:
            _REPORTED.add(path)
            cli.note(
                f"{path.name} is stored turned (EXIF orientation {facts.orientation}); ComfyUI sets it upright"
            )

    def _send(self, path: Path, digest: str) -> FileRef:
        """Upload under a name made of the content, unless the server has exactly that already."""
        if digest in self._sent:
            return self._sent[digest]
        name = hashed_name(path.name, digest)
        ref = FileRef(name, "", "input")
        if self.dry_run or self.server is None:
            self._local[ref] = path
            return ref
        if not (self.server.own_ids and self.server.has_file(ref, path.stat().st_size)):
            ref = self.server.known_input(path) or self.server.upload(path, name=name)
        self._sent[digest] = ref
        self._local[ref] = path
        return ref

    def _send_mask(self, path: Path, digest: str, original: FileRef | None) -> FileRef:
        """A mask for its own loader goes as it is; one for a picture becomes that picture's transparency."""
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / f"{path.stem}.png"
            if original is None:
                if not self.invert_mask:
                    return self._send(path, digest)
                _inverted(path).save(made)
                return self._send(made, safe_files.digest(made))
            original, size = self._to_paint(original, Path(folder))
            _alpha_mask(path, size, self.invert_mask).save(made)
            # What the server stores is picture and mask together, so the name is made of both.
            both = f"{safe_files.digest(made)} {original.type}/{original.subfolder}/{original.filename}"
            name = hashed_name(made.name, hashlib.sha256(both.encode()).hexdigest())
            ref = FileRef(name, "", "input")
            if self.dry_run or self.server is None or (self.server.own_ids and self.server.has_file(ref)):
                return ref
            return self.server.upload(made, name=name, kind="mask", original=original)

    def _to_paint(self, original: FileRef, folder: Path) -> tuple[FileRef, Size | None]:
        """The picture that a mask is painted into, and its size in pixels if it can be fetched.

        The server paints into the pixels as they are stored and loses the note that they are turned, so a turned
        picture is sent upright.
        """
        path = self._local.get(original)
        if path is None:
            if self.server is None or self.dry_run:
                return original, None
            folder.joinpath("original").mkdir()
            collector = collect.Collector(self.server, folder / "original")
            path = collector.fetch(collect.OutputFile(original, "", "")).path
        with usable(path) as image:
            if image.getexif().get(ORIENTATION, 1) == 1:
                return original, image.size
            from PIL import ImageOps

            upright = folder / f"{path.stem}.png"
            turned = ImageOps.exif_transpose(image)
            turned.save(upright)
        sent = self._send(upright, safe_files.digest(upright))
        self._local.pop(sent, None)
        return sent, turned.size

    def _job_output(self, given: str, kind: str) -> FileRef:
        """`output:PROMPT_ID[/NODE]`: a file that an earlier job put out."""
        prompt_id, _, node = given.removeprefix("output:").partition("/")
        if self.server is None:
            raise SkillError(f"{given} needs a server", code="unreachable")
        state = self.server.state(prompt_id)
        files = [
            item for item in collect.files_of(state.outputs, previews=True) if node in ("", item.node_id)
        ]
        wanted = [
            item for item in files if item.kind == ("image" if kind in PICTURE_KINDS else kind)
        ] or files
        if not wanted:
            what = "has not ended" if state.phase in ("pending", "running") else "has no such output"
            raise Misuse(f"job {safe_text.clean(prompt_id, 60)} {what}", code="no_such_output")
        return wanted[0].ref


def hashed_name(name: str, digest: str) -> str:
    """A name that differs for different contents: `photo.png` -> `photo-1a2b3c4d5e6f.png`."""
    stem, dot, suffix = file_names.safe_name(name).rpartition(".")
    stem, suffix = (stem, f".{suffix}") if dot else (suffix, "")
    return f"{stem[:80]}-{digest[:12]}{suffix.lower()}"


@contextlib.contextmanager
def usable(path: Path) -> Iterator[Image]:
    """The open picture of a file. Raises SkillError (exit 2) when it cannot be used as one."""
    try:
        with open_picture(path, media.MAX_CHECKED_PIXELS) as image:
            yield image
    except BadPicture as error:
        raise bad_picture(path, str(error)) from error


def bad_picture(path: Path, problem: str) -> SkillError:
    """The refusal of a file that is not a usable picture."""
    return Misuse(
        f"{safe_text.quoted(path.name)} cannot be used as a picture: {problem}",
        code="bad_picture",
        hint="open it in an editor and save it again as PNG or JPEG",
    )


def _gray(path: Path) -> Image:
    from PIL import ImageOps

    with usable(path) as image:
        upright = ImageOps.exif_transpose(image)
        if "A" in upright.getbands() and upright.getchannel("A").getextrema() != (255, 255):
            # A mask drawn as transparency: what was erased is the area to change.
            return ImageOps.invert(upright.getchannel("A"))
        return upright.convert("L")


def _inverted(path: Path) -> Image:
    from PIL import ImageOps

    return ImageOps.invert(_gray(path))


def _alpha_mask(path: Path, size: Size | None, invert: bool) -> Image:
    """White (the area to change) becomes transparent: LoadImage's mask is one minus the alpha."""
    from PIL import Image, ImageOps

    gray = _inverted(path) if invert else _gray(path)
    if size is not None and gray.size != size:
        refuse_other_size(path.name, gray.size, size, scaled=True)
        gray = gray.resize(size, Image.Resampling.LANCZOS)
    made = Image.new("RGBA", gray.size, "black")
    made.putalpha(ImageOps.invert(gray))
    return made
