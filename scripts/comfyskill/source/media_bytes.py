"""Bounded reading of untrusted binary files: exact reads, limits, and texts found inside media.

Pure: works on any seekable binary stream, and never holds more than the limits below.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from typing import BinaryIO

# The largest workflow among the official templates has 1 MB; a text beyond this is an attack or an accident.
MAX_TEXT = 64 * 1024 * 1024
# Chunks, boxes, blocks or pages looked at in one file. A real 100 MB picture has some ten thousand.
MAX_PARTS = 300_000
# Keys whose text may hold a graph. Others are only named.
WANTED = ("prompt", "workflow", "comment", "description", "parameters", "usercomment", "user_comment")
_LABELLED = re.compile(r"\s*(prompt|workflow)\s*:\s*(?=[\[{\"])", re.IGNORECASE)


class Truncated(Exception):
    """The file ends before a part that it announces."""


class Texts:
    """What a reader found: texts by lower-case key, the names of other keys, and notes on damage."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.other_keys: list[str] = []
        self.notes: list[str] = []

    def add(self, key: str, text: str) -> None:
        """Keep a text under its key; `prompt:{...}` and `workflow:{...}` decide the key themselves."""
        text = text.strip("\x00 \r\n\t")
        if not text:
            return
        if labelled := _LABELLED.match(text):
            self.values[labelled[1].lower()] = text[labelled.end() :]
        elif (name := key.strip().lower()) in WANTED:
            self.values[name] = text
        elif len(self.other_keys) < 20 and name not in self.other_keys:
            self.other_keys.append(name[:80])

    def note(self, text: str) -> None:
        """Remember damage, once."""
        if text not in self.notes:
            self.notes.append(text)


def size_of(stream: BinaryIO) -> int:
    """The length of a seekable stream in bytes; the position stays."""
    here = stream.tell()
    end = stream.seek(0, os.SEEK_END)
    stream.seek(here)
    return end


def take(stream: BinaryIO, count: int) -> bytes:
    """Exactly `count` bytes.

    Raises:
        Truncated: the stream has fewer, or `count` is beyond any sensible text.
    """
    if count > MAX_TEXT:
        raise Truncated(f"a part of {count} bytes is announced")
    data = stream.read(count)
    if len(data) < count:
        raise Truncated("the file ends early")
    return data


def inflate(data: bytes, texts: Texts, key: str) -> bytes:
    """Decompressed zlib data, or nothing (with a note) when it is broken or grows beyond MAX_TEXT."""
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, MAX_TEXT + 1)
    except zlib.error:
        texts.note(f"the compressed text {key!r} is damaged")
        return b""
    if len(plain) > MAX_TEXT:
        texts.note(f"the compressed text {key!r} is larger than {MAX_TEXT >> 20} MB and was not read")
        return b""
    return plain


def decode(data: bytes) -> str:
    """Text from a metadata field: UTF-8 as most tools write it, else Latin-1, which cannot fail."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def counted(texts: Texts) -> Iterator[int]:
    """0, 1, 2 … up to MAX_PARTS, with a note when a file has more parts than that."""
    yield from range(MAX_PARTS)
    texts.note(f"only the first {MAX_PARTS} parts of the file were looked at")
