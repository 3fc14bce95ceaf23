"""A form with one file, as multipart/form-data that is read from disk while it is sent."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


class Form(io.RawIOBase):
    """Head, file and tail as one readable whole of known length."""

    def __init__(self, head: bytes, file: BinaryIO, size: int, tail: bytes, content_type: str) -> None:
        super().__init__()
        self.content_type = content_type
        self._parts: list[BinaryIO] = [io.BytesIO(head), file, io.BytesIO(tail)]
        self._length = len(head) + size + len(tail)
        self._position = 0

    def __len__(self) -> int:
        return self._length

    def tell(self) -> int:
        """How much has been read. Without an answer here requests would send the body in chunks, of unknown length."""
        return self._position

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; empty at the end."""
        if size is None or size < 0:
            piece = b"".join(part.read() for part in self._parts)
            self._position += len(piece)
            return piece
        while self._parts:
            piece = self._parts[0].read(size)
            if piece:
                self._position += len(piece)
                return piece
            self._parts.pop(0)
        return b""


@contextmanager
def form(fields: Mapping[str, str], name: str, path: Path, filename: str) -> Iterator[Form]:
    """The open form for some text fields and one file; closed at the end."""
    boundary = secrets.token_hex(16)
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    )
    shown = "".join(char for char in filename if char not in '\r\n"\\')
    head += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{shown}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        yield Form(
            head.encode("utf-8", "replace"),
            file,
            size,
            f"\r\n--{boundary}--\r\n".encode(),
            f"multipart/form-data; boundary={boundary}",
        )
