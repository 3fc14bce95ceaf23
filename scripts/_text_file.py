"""Text files that a user names, in whatever encoding their system wrote them.

Level 0. Windows PowerShell's `>` and Out-File write UTF-16; Notepad puts a mark before UTF-8.
"""

from __future__ import annotations

from pathlib import Path

# The longer marks first: that of UTF-32 begins like that of UTF-16.
MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)


def read(path: Path) -> str:
    """The text of a file with a byte-order mark or in UTF-8, its lines ended by \\n. Raises OSError, UnicodeDecodeError."""
    data = path.read_bytes()
    encoding = "utf-8"
    for mark, name in MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], name
            break
    return data.decode(encoding).replace("\r\n", "\n")
