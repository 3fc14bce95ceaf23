"""What a batch runs: axes whose combinations are computed one by one, so that a sweep of millions is cheap.

Pure. A plan goes into the journal as JSON and comes back as the same plan, run for run.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path, PurePath
from typing import overload

from comfyskill.base import foreign, safe_text, text_files
from comfyskill.base import paths as base_paths
from comfyskill.base.cli import Document, Misuse

# The table column with this name gives the names of the run's files; it is not a parameter.
OUTPUT_COLUMN = "output"
MEDIA = frozenset(
    "png jpg jpeg webp gif bmp tif tiff avif heic mp4 webm mov mkv avi m4v mpg mpeg ogv wav mp3 flac ogg opus m4a aac"
    " aiff glb gltf obj fbx stl ply".split()
)
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*:\s*({_NUMBER})\s*(?::\s*({_NUMBER})\s*)?")
MOST_STEPS = 10**15


class Steps(Sequence[float]):
    """The numbers from `start` to `stop` (included when a step reaches it), computed one by one, without drift."""

    def __init__(self, start: str, stop: str, step: str) -> None:
        self.written = (start, stop, step)
        self._start, self._step = Decimal(start), Decimal(step)
        self._whole = all(value == value.to_integral_value() for value in (self._start, self._step))
        self._length = max(int((Decimal(stop) - self._start) // self._step) + 1, 0)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[float]: ...
    def __getitem__(self, index: int | slice) -> float | Sequence[float]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._length))]
        if not 0 <= index < self._length:
            raise IndexError(index)
        value = self._start + self._step * index
        return int(value) if self._whole else float(value)


@dataclass(frozen=True)
class Axis:
    """One thing that varies. `names` are set together; `rows` holds one value (or one per name) per step.

    kind: sweep, zip, table, prompts, files, seeds or count (which sets nothing). None in a row leaves that
    parameter as it is.
    """

    kind: str
    names: tuple[str, ...]
    rows: Sequence[object]

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, position: int) -> Document:
        """What this axis sets at one step."""
        if not self.names:
            return {}
        row = self.rows[position]
        values = row if isinstance(row, list) else [row]
        return {name: value for name, value in zip(self.names, values, strict=True) if value is not None}

    def with_steps(self, steps: Sequence[Mapping[str, object]]) -> Axis:
        """The same axis with other values, one mapping per step as `at` returns them."""
        return replace(self, rows=[[step.get(name) for name in self.names] for step in steps])

    def to_json(self) -> Document:
        """The JSON for the journal; ranges stay ranges."""
        head: Document = {"kind": self.kind, "names": list(self.names)}
        if isinstance(self.rows, Steps):
            return head | {"range": list(self.rows.written)}
        if isinstance(self.rows, range):
            return head | {"times": len(self.rows)}
        return head | {"rows": list(self.rows)}

    @staticmethod
    def from_json(value: Document) -> Axis:
        """The axis that `to_json` wrote. Raises as `Plan.from_json`."""
        names = tuple(str(name) for name in value["names"])
        if "range" in value:
            start, stop, step = (str(part) for part in value["range"])
            return Axis(value["kind"], names, Steps(start, stop, step))
        if "times" in value:
            return Axis(value["kind"], names, range(int(value["times"])))
        axis = Axis(value["kind"], names, list(value["rows"]))
        for position in range(len(axis)):
            axis.at(position)  # raises for a row that does not fit the names
        return axis


@dataclass(frozen=True)
class Plan:
    """The runs of a batch, by index. The first axis changes slowest. `key` decides shuffling and fresh seeds."""

    axes: tuple[Axis, ...]
    key: str
    limit: int | None = None
    shuffled: bool = False

    @property
    def total(self) -> int:
        """How many combinations there are."""
        return math.prod(len(axis) for axis in self.axes)

    @property
    def count(self) -> int:
        """How many of them will run."""
        return self.total if self.limit is None else min(self.limit, self.total)

    @property
    def names(self) -> list[str]:
        """What the axes set, in order."""
        return [name for axis in self.axes for name in axis.names]

    def steps(self, run: int) -> tuple[int, ...]:
        """The step of run number `run` on each axis."""
        if not 0 <= run < self.count:
            raise IndexError(run)
        rest = self._mixed(run) if self.shuffled else run
        steps: list[int] = []
        for axis in reversed(self.axes):
            rest, step = divmod(rest, len(axis))
            steps.append(step)
        return tuple(reversed(steps))

    def values(self, run: int) -> Document:
        """What run number `run` sets, output names included."""
        values: Document = {}
        for axis, step in zip(self.axes, self.steps(run), strict=True):
            values |= axis.at(step)
        return values

    def __iter__(self) -> Iterator[Document]:
        return (self.values(run) for run in range(self.count))

    def number(self, *labels: object) -> int:
        """A 64-bit number made from this plan and these labels: the same on every resume."""
        text = "\0".join([self.key, *map(str, labels)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    def _mixed(self, run: int) -> int:
        """A run's place in random order, without a list: a small Feistel cipher, repeated until it is in range."""
        half = max((self.total - 1).bit_length() + 1, 2) // 2
        mask = (1 << half) - 1
        value = run
        while True:
            left, right = value >> half, value & mask
            for turn in range(4):
                left, right = right, left ^ (self.number("shuffle", turn, right) & mask)
            value = left << half | right
            if value < self.total:
                return value

    def to_json(self) -> Document:
        """The JSON for the journal."""
        return {
            "axes": [axis.to_json() for axis in self.axes],
            "key": self.key,
            "limit": self.limit,
            "shuffled": self.shuffled,
        }

    @staticmethod
    def from_json(value: Document) -> Plan:
        """The plan that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        axes = tuple(Axis.from_json(axis) for axis in value["axes"])
        limit = value["limit"]
        return Plan(axes, str(value["key"]), None if limit is None else int(limit), bool(value["shuffled"]))


class CommaList(list[str]):
    """The values of NAME=a,b,c. torn: a blank follows a comma, so this was perhaps one sentence."""

    def __init__(self, text: str) -> None:
        parts = text.split(",")
        super().__init__(part.strip() for part in parts)
        self.torn = any(part.startswith(" ") for part in parts[1:])


def sweeps(texts: Sequence[str]) -> list[Axis]:
    """One axis for each swept name: `NAME=a,b,c`, `NAME=10:50:10`, `NAME=[...]`, a JSON object, or @FILE with one."""
    return [Axis("sweep", (name,), rows) for text in texts for name, rows in _named_lists(text, "--sweep")]


def zipped(texts: Sequence[str]) -> list[Axis]:
    """All --zip lists as one axis: the first values together, then the second ones."""
    lists = [pair for text in texts for pair in _named_lists(text, "--zip")]
    if not lists:
        return []
    lengths = {len(rows) for _, rows in lists}
    if len(lengths) > 1:
        sizes = ", ".join(f"{name} has {len(rows)}" for name, rows in lists)
        raise Misuse(
            f"the lists of --zip differ in length: {sizes}",
            hint="make them equally long, or combine all values with --sweep",
        )
    length = lengths.pop()
    if length > 1_000_000:
        raise Misuse("the lists of --zip are too long", hint="at most 1,000,000 values; use --table")
    names = tuple(name for name, _ in lists)
    return [Axis("zip", names, [[rows[at] for _, rows in lists] for at in range(length)])]


def _named_lists(text: str, flag: str) -> list[tuple[str, Sequence[object]]]:
    stripped = text.strip()
    if stripped.startswith("@"):
        stripped = _text_of(Path(stripped[1:]), flag).strip()
    if stripped.startswith("{"):
        value = _json(stripped, flag)
        return [(str(name), _listed(str(name), item, flag)) for name, item in foreign.mapping(value).items()]
    name, equals, values = text.partition("=")
    if not equals or not name.strip():
        raise Misuse(
            f"{flag} requires NAME=a,b,c or a JSON object, not {safe_text.clean(text, 60)!r}",
            hint=f"for example {flag} cfg=5,7.5 or {flag} steps=10:50:10 or {flag} '{{\"seed\": [1, 2]}}'",
        )
    return [(name.strip(), _values_of(name.strip(), values, flag))]


def _values_of(name: str, text: str, flag: str) -> Sequence[object]:
    if text.lstrip().startswith("["):
        return _listed(name, _json(text, flag), flag)
    steps = _steps(name, text, flag)
    if steps is not None:
        return steps
    values = CommaList(text)
    if not text.strip() or not all(values):
        raise Misuse(f"{flag} {name}= has an empty value", hint='write it as JSON: \'{"NAME": ["", "x"]}\'')
    return values


def _listed(name: str, value: object, flag: str) -> Sequence[object]:
    if isinstance(value, str) and (steps := _steps(name, value, flag)) is not None:
        return steps
    if not isinstance(value, list) or not value:
        raise Misuse(
            f"{flag}: {safe_text.clean(name, 60)} needs a list of values",
            hint=f'{{"{safe_text.clean(name, 40)}": [1, 2, 3]}}',
        )
    # A list in a list is one value (a size, a list input).
    return [[item] if isinstance(item, list) else item for item in value] if flag == "--sweep" else value


def _steps(name: str, text: str, flag: str) -> Steps | None:
    """The range that START:STOP:STEP means. START:STOP is one only when it counts up, so that `16:9` stays a text."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return None
    try:
        start, stop, step = Decimal(match[1]), Decimal(match[2]), Decimal(match[3] or "1")
        if match[3] is None and stop <= start:
            return None
        if step == 0 or (stop - start) * step < 0:
            raise Misuse(
                f"{flag} {name}={text.strip()} never reaches STOP",
                hint="START:STOP:STEP, for example 10:50:10",
            )
        if (stop - start) / step >= MOST_STEPS:
            raise Misuse(f"{flag} {name}={text.strip()} has too many steps", hint="use a larger step")
    except InvalidOperation as error:
        raise Misuse(f"{flag} {name}={text.strip()} is not a range of numbers") from error
    return Steps(match[1], match[2], match[3] or "1")


def table(path: str) -> Axis:
    """One run per row. CSV with a header, JSON Lines or a JSON list of objects; an empty cell leaves the value as it is."""
    text = _text_of(Path(path), "--table")
    ending = Path(path).suffix.lower()
    if ending in (".jsonl", ".ndjson", ".json"):
        rows = _json_rows(text, path, lines=ending != ".json")
    else:
        rows = _csv_rows(text, path, "\t" if ending == ".tsv" else _separator(text))
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not rows or not [name for name in names if name != OUTPUT_COLUMN]:
        raise Misuse(
            f"{path} has no rows to run",
            hint="write a header line with parameter names, then one row per run",
        )
    return Axis("table", tuple(names), [[row.get(name) for name in names] for row in rows])


def _separator(text: str) -> str:
    """A comma, or the semicolon of spreadsheets that use decimal commas."""
    header = next((line for line in _lines(text) if line.strip()), "")
    return ";" if ";" in header and "," not in header else ","


def _lines(text: str) -> list[str]:
    """The lines of a text. Other breaks (U+2028, a vertical tab) may be inside a cell or a prompt and end no line."""
    return re.split(r"\r\n|\n|\r", text)


def _csv_rows(text: str, path: str, separator: str) -> list[Document]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise Misuse(
            f"{path} line {reader.line_num} is not valid CSV: {error}", hint="check the quotes"
        ) from error
    if not lines:
        return []
    header = [cell.strip() for cell in lines[0][1]]
    if not all(header) or len(set(header)) < len(header):
        raise Misuse(f"the header of {path} has empty or repeated names: {', '.join(header)[:200]}")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) > len(header):
            raise Misuse(f"{path} line {number} has {len(cells)} cells, but the header has {len(header)}")
        rows.append({name: cell for name, cell in zip(header, cells, strict=False) if cell != ""})
    return rows


def _json_rows(text: str, path: str, *, lines: bool) -> list[Document]:
    if lines:
        pieces = [(number, line) for number, line in enumerate(_lines(text), 1) if line.strip()]
        found = [_json(line, f"{path} line {number}") for number, line in pieces]
    else:
        whole = _json(text, path)
        found = whole if isinstance(whole, list) else [whole]
    rows = []
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise Misuse(f"{path}: row {number} is not an object", hint='write one {"name": value} per run')
        rows.append(row)
    return rows


def prompts(path: str, into: str) -> Axis:
    """One prompt per line; blank lines are skipped."""
    lines = [line.strip() for line in _lines(_text_of(Path(path), "--prompts")) if line.strip()]
    if not lines:
        raise Misuse(f"{path} holds no prompts", hint="write one prompt per line")
    return Axis("prompts", (into,), lines)


def files(folder: str, into: str, *, recursive: bool) -> Axis:
    """One run per picture, video, sound or model file of a folder, in natural order of the names."""
    root = base_paths.expanded(folder)
    if not root.is_dir():
        raise Misuse(f"{folder} is not a folder", hint="--input-dir requires the folder with the input files")
    found = root.rglob("*") if recursive else root.iterdir()
    paths = [path for path in found if is_media(path) and _visible(path, root)]
    if not paths:
        deeper = "" if recursive else "; --recursive looks into sub-folders"
        raise Misuse(f"{folder} holds no pictures, videos or sounds", hint=f"check the folder{deeper}")
    paths.sort(key=lambda path: _natural(path.relative_to(root).as_posix()))
    return Axis("files", (into,), [str(path.absolute()) for path in paths])


def is_media(path: PurePath) -> bool:
    """Whether this is the name of a picture, video, sound or 3D model."""
    return path.suffix.lower().lstrip(".") in MEDIA


def _visible(path: Path, root: Path) -> bool:
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)


def _natural(text: str) -> list[tuple[bool, int | str]]:
    return [
        (not part.isdigit(), int(part) if part.isdigit() else part)
        for part in re.split(r"(\d+)", text.casefold())
        if part
    ]


def seeds(count: int, start: int | None) -> Axis:
    """`count` runs whose seeds count up from `start`; with None the seed stays."""
    if start is None:
        return Axis("count", (), range(count))
    return Axis("seeds", ("seed",), Steps(str(start), str(start + count - 1), "1"))


def check_names(axes: Iterable[Axis], constants: Iterable[str]) -> None:
    """Raises SkillError when two flags would set one name."""
    seen = dict.fromkeys(constants, "--set or --args")
    for axis in axes:
        for name in axis.names:
            if name in seen:
                raise Misuse(
                    f"{name!r} is set by {seen[name]} and by --{axis.kind}", code="set_twice", hint="omit one of them",
                )  # fmt: skip
            seen[name] = f"--{axis.kind}"


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Misuse(
            f"{where}: not valid JSON ({safe_text.clean(error, 120)})", hint="check quotes and commas"
        ) from error


def _text_of(path: Path, flag: str) -> str:
    try:
        return text_files.read(base_paths.expanded(path))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise Misuse(
            f"cannot read {safe_text.clean(path, 200)}: {text_files.reason(error)}",
            hint=f"{flag} requires a text file",
        ) from error
