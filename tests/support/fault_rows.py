"""Faults that strike a batch, and those that strike who waits for a job: the rows of two more tables of the manual.

`test_faults_batch.py` and `test_faults_wait.py` carry them out; `fault_table.py` writes them into the manual.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ONCE, ALWAYS = 1, 10_000
ALL = ("local", "cloud", "v2")
# What is asked about a job besides its record; a proxy is asked once for a job that nobody has.
SPARED = ("*/00000000-0000-*", "*/events", "*/workflow")
# The same code with less patience, so that what is waited for in vain costs a test a second and not half a minute.
BRISK = """
from comfyskill.server import cloud, protocol, transport, v2, watch
cloud.Cloud.denials = 2
"""
HASTY = """
cloud.Cloud.grace = v2.V2.grace = 1.0
watch.Watcher.__init__.__kwdefaults__["patience"] = 1.0
for one in (protocol.Dialect, v2.V2):
    one.submit.__kwdefaults__["search_time"] = 1.0
"""
UNANSWERED = """
for one in vars(transport.Server).values():
    if "timeout" in (getattr(one, "__kwdefaults__", None) or {}):
        one.__kwdefaults__["timeout"] = 2.0
"""


def answers(code: int, times: int = ALWAYS, **more: Any) -> dict[str, Any]:
    """An answer with this status instead of the real one."""
    return {"act": "status", "code": code, "times": times, **more}


def away(*, back: float | None = None, **more: Any) -> dict[str, Any]:
    """The server ends at this request; `back`: seconds until it is there again with all that it knew."""
    return {"act": "down", "times": ONCE if back else ALWAYS, "back": back, **more}


def passes(fault: dict[str, Any]) -> bool:
    """Whether the server is well again after a moment."""
    return fault.get("times", ALWAYS) == ONCE or bool(fault.get("back"))


def patience(fault: dict[str, Any]) -> str:
    """Python that a command runs first. What passes is given all its time: a second is soon over on a crowded machine."""
    hang = UNANSWERED if fault.get("act") == "hang" else ""
    return BRISK + ("" if passes(fault) else HASTY) + hang


def reconnect_time(fault: dict[str, Any]) -> str:
    """The value of --reconnect-time."""
    return "20" if passes(fault) else "1"


@dataclass(frozen=True)
class BatchRow:
    """One fault that strikes a batch of three runs.

    `outcome`: exit, status, code (`A or B` where it depends on which of two threads meets the fault first), how many
    succeeded, how many were executed (`SOME`: it depends on how many were submitted by then). `others`: the same where
    a protocol differs for a reason. `after`: what the command under `next` brings: exit code, executions in all.
    """

    what: str
    role: str
    fault: dict[str, Any]
    outcome: tuple[int, str, str | None, int, int]
    others: dict[str, tuple[int, str, str | None, int, int]] = field(default_factory=dict)
    after: tuple[int, int] = (0, 3)
    apis: tuple[str, ...] = ALL
    slow: bool = False

    def expected(self, api: str) -> tuple[int, str, str | None, int, int]:
        return self.others.get(api, self.outcome)


SOME = -1
FINE = (0, "success", None, 3, 3)
ONE_FAILED = (1, "partial", "runs_failed", 2, 2)
NOT_SUBMITTED = (1, "partial", "runs_failed", 0, 0)
GONE_AT_SUBMIT = (1, "partial", "server_gone", 0, 0)
REFUSED = (4, "refused", "refused", 0, 0)
UNFETCHED = (1, "partial", "runs_failed", 0, 3)
GONE = (1, "partial", "server_gone", 0, 3)

BATCH = [
    BatchRow("401 on the submit", "submit", answers(401), REFUSED),
    BatchRow("403 on the submit, a web page", "submit", answers(403, body="html"), REFUSED, slow=True),
    BatchRow("401 from the second submit on", "submit", answers(401, skip=1), (4, "refused", "refused", 0, 1)),
    BatchRow("429 once on the submit", "submit", answers(429, ONCE, headers={"Retry-After": "1"}), FINE, slow=True),
    BatchRow("500 once on the submit", "submit", answers(500, ONCE), ONE_FAILED, {"v2": FINE}),
    BatchRow("500 on the submit for good", "submit", answers(500), NOT_SUBMITTED, slow=True),
    BatchRow("503 once on the submit", "submit", answers(503, ONCE), FINE, {"cloud": ONE_FAILED}, slow=True),
    BatchRow("503 on the submit for good", "submit", answers(503), NOT_SUBMITTED, slow=True),
    BatchRow("a submit is carried out, its answer never arrives", "submit", {"act": "lost", "times": ONCE, "skip": 1}, FINE, slow=True),
    BatchRow("the server dies before a submit", "submit", away(), GONE_AT_SUBMIT, slow=True),
    BatchRow("the server dies before the second submit and comes back", "submit", away(skip=1, back=0.4), FINE, {"cloud": ONE_FAILED}),
    BatchRow("the server dies after a submit, before it answers", "submit", away(after=True), (1, "partial", "server_gone", 0, 1)),
    BatchRow("the server dies after a submit and comes back", "submit", away(after=True, back=0.4), FINE, slow=True),
    BatchRow("the server never answers a submit", "submit", {"act": "hang"}, NOT_SUBMITTED, slow=True),
    BatchRow("the server never answers a look at a job", "record", {"act": "hang"}, GONE, slow=True),
    BatchRow("401 on the look at a job", "record", answers(401), (4, "refused", "refused", 0, SOME)),
    BatchRow("403 on the look at a job", "record", answers(403), (4, "refused", "refused", 0, SOME), slow=True),
    BatchRow("429 once on the look at a job", "record", answers(429, ONCE), FINE, slow=True),
    BatchRow("500 once on the look at a job", "record", answers(500, ONCE), FINE, slow=True),
    BatchRow("500 on the look at a job for good", "record", answers(500), GONE),
    BatchRow("503 once on the look at a job", "record", answers(503, ONCE), FINE, slow=True),
    BatchRow("503 on the look at a job for good", "record", answers(503), GONE, slow=True),
    BatchRow("the server dies while jobs run", "record", away(), GONE, slow=True),
    BatchRow("the server dies while jobs run and comes back", "record", away(back=0.4), FINE),
    BatchRow("no job has a record, for good", "record", answers(404), (1, "partial", "runs_failed", 0, 3), apis=("cloud",)),
    BatchRow("401 on the download", "file", answers(401), UNFETCHED, slow=True),
    BatchRow("404 on the download", "file", answers(404), UNFETCHED, slow=True),
    BatchRow("503 once on the download", "file", answers(503, ONCE), FINE, slow=True),
    BatchRow("half of a file arrives, once", "file", {"act": "cut", "times": ONCE}, FINE, slow=True),
    BatchRow("the server dies after a job's end, before the download", "file", away(), (1, "partial", "server_gone or runs_failed", 0, 3)),
    BatchRow("the server dies before the download and comes back", "file", away(back=0.4), FINE, slow=True),
    BatchRow("the server restarts empty in mid-run", "server", {"spec": "restart:at=node"}, (0, "success", None, 3, 4), apis=("local", "v2")),
]  # fmt: skip


@dataclass(frozen=True)
class WaitRow:
    """One fault that strikes who waits for another's job. `outcome`: exit, status, code; `monitor` where that differs."""

    what: str
    role: str
    fault: dict[str, Any]
    outcome: tuple[int, str, str | None]
    apis: tuple[str, ...] = ALL
    hows: tuple[str, ...] = ("resume", "wait", "monitor")
    others: dict[str, tuple[int, str, str | None]] = field(default_factory=dict)
    slow: bool = False

    def expected(self, how: str) -> tuple[int, str, str | None]:
        return self.others.get(how, self.outcome)


DONE = (0, "success", None)
LOST_SIGHT = (1, "lost", "server_gone")
WAITING = [
    WaitRow("401 on the look", "record", answers(401, skip=1), (4, "error", "refused")),
    WaitRow("403 on the look", "record", answers(403, skip=1), (4, "error", "refused"), slow=True),
    WaitRow("404 once", "record", answers(404, ONCE, skip=1), DONE, slow=True),
    WaitRow("429 once", "record", answers(429, ONCE, skip=1), DONE, slow=True),
    WaitRow("500 once", "record", answers(500, ONCE, skip=1), DONE),
    WaitRow("503 once, a web page", "record", answers(503, ONCE, skip=1, body="html"), DONE, slow=True),
    WaitRow("500 for good", "record", answers(500, skip=1), LOST_SIGHT, slow=True),
    WaitRow("503 for good", "record", answers(503, skip=1), LOST_SIGHT, slow=True),
    WaitRow("the server dies while the job runs", "record", away(skip=1), LOST_SIGHT, slow=True),
    WaitRow("the server dies and comes back", "record", away(skip=1, back=0.5), DONE),
    WaitRow("the server never answers a look", "record", {"act": "hang", "skip": 1}, LOST_SIGHT, slow=True),
    WaitRow("the server restarts empty", "server", {"spec": "restart:at=node"}, (1, "lost", "lost"), apis=("local", "v2"), others={"wait": (1, "partial", "lost")}),
    WaitRow("401 on the download", "file", answers(401), (1, "partial", "download_failed"), hows=("resume", "wait"), slow=True),
    WaitRow("503 once on the download", "file", answers(503, ONCE), DONE, hows=("resume", "wait"), slow=True),
    WaitRow("the server dies before the download and comes back", "file", away(back=0.4), DONE, hows=("resume", "wait"), slow=True),
]  # fmt: skip
