"""The names of all faults of the test server, their keys and what they do; `--help` prints this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A fault's keys with their defaults, how often it applies (None: always), and a sentence."""

    keys: Mapping[str, str]
    times: int | None
    about: str


HTTP: Mapping[str, Kind] = {
    "status": Kind(
        {
            "route": "*",
            "method": "*",
            "code": "500",
            "body": "json",
            "retry_after": "",
            "message": "demo fault",
        },
        None,
        "answer with a status; body is json, text, html, empty or broken",
    ),
    "429": Kind(
        {
            "route": "/prompt",
            "method": "*",
            "code": "429",
            "body": "json",
            "retry_after": "1",
            "message": "Too many requests",
        },
        1,
        "answer 429 with Retry-After (seconds; empty for none)",
    ),
    "502-before": Kind(
        {"route": "/prompt", "method": "POST", "code": "502", "body": "html"},
        1,
        "answer 502; the prompt is not accepted",
    ),
    "502-after": Kind(
        {"route": "/prompt", "method": "POST", "code": "502", "body": "html"},
        1,
        "accept the prompt, then answer 502",
    ),
    "answer-lost": Kind(
        {"route": "/prompt", "method": "POST"},
        1,
        "carry out the request, then close the connection without an answer",
    ),
    "close": Kind({"route": "*", "method": "*"}, 1, "close the connection; the request is not carried out"),
    "hang": Kind({"route": "/prompt", "method": "*"}, None, "never answer; the request is not carried out"),
    "hang-after": Kind({"route": "/prompt", "method": "POST"}, 1, "carry out the request, never answer"),
    "delay": Kind(
        {"route": "*", "method": "*", "ms": "1000"}, None, "wait before the request is carried out"
    ),
    "redirect": Kind(
        {"route": "/view", "method": "*", "to": "/", "code": "302"},
        None,
        "redirect to an address; {path} in it becomes the request's path",
    ),
    "slow-body": Kind(
        {"route": "/view", "method": "GET", "rate": "65536"},
        None,
        "send the body at this many bytes per second",
    ),
    "truncate": Kind(
        {"route": "/view", "method": "GET", "share": "0.5", "bytes": ""},
        1,
        "announce the full length, send part of the body, then close",
    ),
    "wrong-length": Kind(
        {"route": "/view", "method": "GET", "add": "10"},
        1,
        "a Content-Length that is wrong by this many bytes (may be negative)",
    ),
    "no-length": Kind({"route": "/view", "method": "GET"}, None, "send the body without a length (chunked)"),
    "garbage": Kind(
        {"route": "*", "method": "GET", "bytes": "1000"},
        1,
        "200 with random bytes and the right content type",
    ),
    "401-mid-run": Kind(
        {"route": "*", "starts": "1"}, None, "401 on everything from the given execution start on"
    ),
    "down": Kind({"ms": "1000"}, 1, "drop every connection for this time, from now on"),
}
SOCKET: Mapping[str, Kind] = {
    "drop-socket": Kind(
        {"frames": "3", "how": "abort"}, 1, "end the socket after N frames (how: abort or close)"
    ),
    "silent-socket": Kind({"frames": "0"}, None, "accept, then send nothing (frames: after N frames)"),
    "no-socket": Kind({"code": "404"}, None, "refuse the upgrade with a status"),
    "hang-socket": Kind({}, None, "never answer the upgrade"),
    "garbage-frames": Kind(
        {"at": "2", "every": "", "kind": "text"}, None, "extra frames that are not JSON (text, json, binary)"
    ),
    "unknown-frames": Kind({"at": "2", "every": ""}, None, "extra frames of unknown types, text and binary"),
    "foreign-frames": Kind({"at": "2", "every": ""}, None, "extra frames about other clients' prompts"),
    "duplicate-frames": Kind({"at": "", "every": "1"}, None, "send frames twice"),
    "reorder-frames": Kind({"at": "", "every": "2"}, None, "swap a frame with the next one"),
    "truncate-frames": Kind({"at": "2", "every": ""}, None, "send only half of a frame's text"),
    "big-frame": Kind({"at": "2", "every": "", "bytes": "10000000"}, 1, "an extra text frame of this size"),
    "lose-frames": Kind({"type": "execution_success"}, None, "omit frames of this type"),
}
ENGINE: Mapping[str, Kind] = {
    "restart": Kind(
        {"at": "start", "down": "0"},
        1,
        "lose all state at an execution's start, node or end; down: ms unreachable",
    ),
    "die": Kind(
        {"at": "node"},
        1,
        "end the process at: submit, accepted, start, node, end, history, view, upload, connect",
    ),
    "oom": Kind({"node": "KSampler"}, None, "out of memory in a node (class or id, * for any)"),
    "fail": Kind(
        {"node": "*", "kind": "RuntimeError", "message": "demo fault"}, None, "an exception in a node"
    ),
    "stuck": Kind({"node": "*"}, 1, "a node that never ends (it can be interrupted)"),
    "paused": Kind({}, None, "the queue does not move"),
    "history-late": Kind({"ms": "500"}, None, "delay between the end frame and the history entry"),
    "job-lost": Kind({"at": "accepted"}, 1, "a job vanishes: when accepted, or at its end (at: end)"),
    "all-cached": Kind({}, None, "the history has the outputs of all cached nodes, as 0.3.64 had"),
    "slow-start": Kind({"ms": "500"}, None, "wait before each execution"),
}
FAULTS: Mapping[str, Kind] = {**HTTP, **SOCKET, **ENGINE}


@dataclass(eq=False)
class Fault:
    """One switch that is on. `take` counts: the first `after` occasions pass, then it applies `times` times."""

    name: str
    values: dict[str, str] = field(default_factory=dict)
    times: int | None = None
    after: int = 0

    def take(self) -> bool:
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0

    def number(self, key: str, default: float = 0.0) -> float:
        text = self.values.get(key) or ""
        return float(text) if text else default

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, **self.values, "times": self.times, "after": self.after}


def read_fault(given: Any) -> Fault:
    """A fault from `name[:key=value,...]` or `{"name": ..., key: value}`. Raises ValueError with a sentence."""
    if isinstance(given, dict):
        name = str(given.get("name", ""))
        pairs = {
            str(key): "" if value is None else str(value) for key, value in given.items() if key != "name"
        }
    else:
        name, _, rest = str(given).partition(":")
        parts = [part for part in rest.split(",") if part]
        if any("=" not in part for part in parts):
            raise ValueError(f"fault {given!r}: write it as name:key=value,key=value")
        pairs = {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in parts)}
    kind = FAULTS.get(name)
    if kind is None:
        raise ValueError(f"unknown fault {name!r}; known: {', '.join(FAULTS)}")
    unknown = pairs.keys() - kind.keys.keys() - {"times", "after"}
    if unknown:
        allowed = ", ".join([*kind.keys, "times", "after"])
        raise ValueError(f"fault {name!r} has no key {sorted(unknown)[0]!r}; it has: {allowed}")
    times, after = pairs.pop("times", ""), pairs.pop("after", "")
    try:
        fault = Fault(
            name, {**kind.keys, **pairs}, int(times) if times else kind.times, int(after) if after else 0
        )
        for key in ("code", "ms", "frames", "rate", "share", "bytes", "add", "every", "at", "down", "starts"):
            if key != "at" or name in SOCKET:
                fault.number(key)
    except ValueError as error:
        raise ValueError(f"fault {name!r}: {error}") from error
    return fault


def table() -> str:
    """All faults as text for `--help`."""
    lines = [
        "Faults (--fault NAME[:key=value,...]; each also takes times=N and after=N; defaults are shown):"
    ]
    for name, kind in FAULTS.items():
        keys = ",".join(f"{key}={value}" for key, value in kind.keys.items())
        times = "" if kind.times is None else f" (times={kind.times})"
        lines.append(f"  {name}{':' if keys else ''}{keys}\n      {kind.about}{times}")
    return "\n".join(lines)
