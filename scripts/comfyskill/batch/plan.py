"""What a batch runs: axes whose product is walked lazily, so that a sweep of millions costs nothing until it runs.

Level 1. Pure. A plan goes into the journal as JSON and comes back as the same plan, run for run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, overload

# A table's column with this name names the run's files and is no parameter.
OUTPUT_COLUMN = "output"


class Steps(Sequence[Any]):
    """The numbers from `start` to `stop` (included when a step meets it), computed one by one, without drift."""

    def __init__(self, start: str, stop: str, step: str) -> None:
        self.written = (start, stop, step)
        self._start, self._step = Decimal(start), Decimal(step)
        self._whole = all(value == value.to_integral_value() for value in (self._start, self._step))
        self._length = max(int((Decimal(stop) - self._start) // self._step) + 1, 0)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._length))]
        if not 0 <= index < self._length:
            raise IndexError(index)
        value = self._start + self._step * index
        return int(value) if self._whole else float(value)


class Axis:
    """One thing that varies. `names` are set together; `rows` holds one value (or one per name) a step.

    kind: sweep, zip, table, prompts, files, seeds or count (which sets nothing). None in a row leaves that
    parameter as it is.
    """

    def __init__(self, kind: str, names: tuple[str, ...], rows: Sequence[Any]) -> None:
        self.kind = kind
        self.names = names
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def at(self, position: int) -> dict[str, Any]:
        """What this axis sets at one step."""
        if not self.names:
            return {}
        row = self.rows[position]
        if len(self.names) == 1 and not isinstance(row, list):
            row = [row]
        return {name: value for name, value in zip(self.names, row, strict=True) if value is not None}

    def to_json(self) -> dict[str, Any]:
        """As the journal keeps it; ranges stay ranges."""
        head: dict[str, Any] = {"kind": self.kind, "names": list(self.names)}
        if isinstance(self.rows, Steps):
            return head | {"range": list(self.rows.written)}
        if isinstance(self.rows, range):
            return head | {"times": len(self.rows)}
        return head | {"rows": list(self.rows)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Axis:
        """The axis that `to_json` wrote. Raises as `Plan.from_json`."""
        names = tuple(str(name) for name in value["names"])
        if "range" in value:
            start, stop, step = (str(part) for part in value["range"])
            return Axis(value["kind"], names, Steps(start, stop, step))
        if "times" in value:
            return Axis(value["kind"], names, range(int(value["times"])))
        axis = Axis(value["kind"], names, list(value["rows"]))
        for position in range(len(axis)):
            axis.at(position)  # a row that does not fit the names
        return axis


class Plan:
    """The runs of a batch, by index. The first axis changes slowest. `key` decides shuffling and fresh seeds."""

    def __init__(
        self, axes: tuple[Axis, ...], key: str, limit: int | None = None, shuffled: bool = False
    ) -> None:
        self.axes = axes
        self.key = key
        self.limit = limit
        self.shuffled = shuffled

    @property
    def total(self) -> int:
        """How many combinations there are."""
        return math.prod(len(axis) for axis in self.axes)

    @property
    def count(self) -> int:
        """How many of them are run."""
        return self.total if self.limit is None else min(self.limit, self.total)

    @property
    def names(self) -> list[str]:
        """What the axes set, in order."""
        return [name for axis in self.axes for name in axis.names]

    def steps(self, run: int) -> tuple[int, ...]:
        """Where run number `run` stands on each axis."""
        if not 0 <= run < self.count:
            raise IndexError(run)
        rest = self._mixed(run) if self.shuffled else run
        steps: list[int] = []
        for axis in reversed(self.axes):
            rest, step = divmod(rest, len(axis))
            steps.append(step)
        return tuple(reversed(steps))

    def values(self, run: int) -> dict[str, Any]:
        """What run number `run` sets, output names included."""
        values: dict[str, Any] = {}
        for axis, step in zip(self.axes, self.steps(run), strict=True):
            values |= axis.at(step)
        return values

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.values(run) for run in range(self.count))

    def number(self, *words: object) -> int:
        """A 64-bit number that belongs to this plan and these words: the same on every resume."""
        text = "\0".join([self.key, *map(str, words)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    def _mixed(self, run: int) -> int:
        """A random order without a list of it: a small Feistel cipher, walked until it lands inside."""
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

    def to_json(self) -> dict[str, Any]:
        """As the journal keeps it."""
        return {
            "axes": [axis.to_json() for axis in self.axes],
            "key": self.key,
            "limit": self.limit,
            "shuffled": self.shuffled,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        axes = tuple(Axis.from_json(axis) for axis in value["axes"])
        limit = value["limit"]
        return Plan(axes, str(value["key"]), None if limit is None else int(limit), bool(value["shuffled"]))
