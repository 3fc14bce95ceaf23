"""Files of Comfy API v2: sent by content, named in graphs by reference, joined with masks before they leave.

Level 2. Source: the API v2 fact sheet and recordings of comfy-api-proxy 0.1.6.
"""

from __future__ import annotations

import importlib.util
import mimetypes
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _common
from comfyskill.base import cli
from comfyskill.base.cli import SkillError
from comfyskill.base.picture_files import BadPicture, open_picture, refuse_other_size
from comfyskill.server import multipart, transport
from comfyskill.server.protocol import FileRef

if TYPE_CHECKING:
    from PIL.Image import Image

    from comfyskill.server.v2 import V2

ASSETS = "api/v2/assets"
PIECE = 1 << 20


def reference(ref: FileRef) -> Any:
    """What a graph's input holds to name an asset; the id wins over the name."""
    if ref.asset_id is None:
        return f"{ref.subfolder}/{ref.filename}" if ref.subfolder else ref.filename
    return {"__type": "core/ASSET", "info": {"id": ref.asset_id, "file_path": ref.filename}}


def content_digest(path: Path) -> str | None:
    """`blake3:<hex>` of a file, or None where Python has no blake3: the server hashes what it gets anyway."""
    if importlib.util.find_spec("blake3") is None:
        return None
    blake3: Any = importlib.import_module("blake3")
    digest = blake3.blake3()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(PIECE), b""):
            digest.update(piece)
    return f"blake3:{digest.hexdigest()}"


def upload(server: V2, path: Path, name: str, subfolder: str = "") -> FileRef:
    """Send a file unless the server has its bytes already; the reference to put into the graph."""
    digest = content_digest(path)
    known = _by_digest(server, digest, name) if digest else None
    return _ref(
        server, known or _send(server, path, f"{subfolder}/{name}" if subfolder else name, digest), name
    )


def _by_digest(server: V2, digest: str, name: str) -> Mapping[str, Any] | None:
    """The asset with these bytes; None when the server has none of ours, or does not offer to look."""
    try:
        server.request("HEAD", f"{ASSETS}/by-hash/{digest}", attempts=1)
        answer = server.post_json(f"{ASSETS}/from-hash", {"hash": digest, "file_path": name})
    except SkillError as error:
        if error.code in ("unreachable", "refused"):
            raise
        return None
    return answer if isinstance(answer, Mapping) and answer.get("id") else None


def _send(server: V2, path: Path, file_path: str, digest: str | None) -> Mapping[str, Any]:
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    fields = {"content_type": kind, "file_path": file_path, "tags": "input"}
    if digest is not None:
        fields["expected_hash"] = digest
    with multipart.body(fields, "file", path, path.name) as body:
        response = server.request(
            "POST", ASSETS, data=body, headers={"Content-Type": body.content_type}, timeout=600
        )
    answer = server.json_of(response)
    if not isinstance(answer, Mapping) or not isinstance(answer.get("id"), str):
        raise SkillError(
            f"{server.url} did not accept {path.name}", code="upload_failed", exit=cli.Exit.FAILED
        )
    return answer


def _ref(server: V2, asset: Mapping[str, Any], name: str) -> FileRef:
    asset_id = str(asset["id"])
    stored = asset.get("file_path")
    return FileRef(
        stored if isinstance(stored, str) and stored else name,
        type="input",
        url=content_url(server, asset_id),
        content_type=asset.get("content_type") if isinstance(asset.get("content_type"), str) else None,
        asset_id=asset_id,
    )


def content_url(server: V2, asset_id: str) -> str:
    """Where an asset's bytes are, on the address that the user gave (a proxy in front may know itself by another)."""
    return server.route(f"{ASSETS}/{_common.quoted(asset_id)}/content")


def upload_masked(server: V2, mask: Path, name: str, original: FileRef) -> FileRef:
    """API v2 has no mask upload: the picture gets the mask's transparency here and goes up as a new asset."""
    with tempfile.TemporaryDirectory() as folder:
        fetched = fetch(server, original, Path(folder) / "original")
        joined = Path(folder) / f"{Path(name).stem}.png"
        try:
            with open_picture(fetched) as picture, open_picture(mask) as alpha:
                whole = _joined(picture, alpha)
        except BadPicture as error:
            raise SkillError(f"the mask cannot be joined with its picture: {error}") from error
        whole.save(joined, compress_level=4)
        return upload(server, joined, joined.name)


def _joined(picture: Image, alpha: Image) -> Image:
    """The picture with the mask's transparency."""
    refuse_other_size("mask", alpha.size, picture.size, scaled=False)
    whole = picture.convert("RGBA")
    whole.putalpha(alpha.getchannel("A") if "A" in alpha.getbands() else alpha.convert("L"))
    return whole


def upload_again(server: V2, ref: FileRef) -> FileRef:
    """An output as an input, for servers whose references name input files alone."""
    with tempfile.TemporaryDirectory() as folder:
        # The name decides how loaders read the file; the folder is ours alone.
        suffix = Path(ref.filename).suffix
        return upload(server, fetch(server, ref, Path(folder) / f"output{suffix}"), Path(ref.filename).name)


def fetch(server: V2, ref: FileRef, target: Path) -> Path:
    """The file's bytes on disk."""
    with server.open_file(ref) as response, target.open("wb") as file:
        for piece in transport.stream(response, PIECE):
            file.write(piece)
    return target
