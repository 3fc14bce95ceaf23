"""The faults that are tried and the one outcome each must have; `references/failures.md` shows this table.

    python tests/support/fault_table.py > references/failures.md

writes that file anew; `test_faults.py` carries the rows out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import fault_rows

# What a role's requests are, by protocol: (method, path).
ROLES: dict[str, dict[str, tuple[str, str]]] = {
    "submit": {
        "local": ("POST", "/prompt"),
        "cloud": ("POST", "/api/prompt"),
        "v2": ("POST", "/api/v2/jobs"),
    },
    "record": {
        "local": ("GET", "/history/*"),
        "cloud": ("GET", "/api/jobs/*"),
        "v2": ("GET", "/api/v2/jobs/*"),
    },
    "file": {
        "local": ("GET", "/view"),
        "cloud": ("GET", "/api/view"),
        "v2": ("GET", "/api/v2/assets/*/content"),
    },
    "socket": {"local": ("GET", "/ws"), "cloud": ("GET", "/ws")},
}
NAMES = {
    "submit": "the submit",
    "record": "the look at the job's record",
    "file": "the download",
    "socket": "the WebSocket",
}
ONCE, ALWAYS = 1, 10_000


@dataclass(frozen=True)
class Row:
    """One fault: where it strikes, how, and what must come of it.

    `exit`, `status`, `code` of run_workflow.py; `runs`: how often the job is executed; `apis`: where it is tried.
    `others`: (exit, status, code, runs) where a protocol differs for a reason.
    """

    what: str
    role: str
    fault: dict[str, Any]
    exit: int
    status: str
    code: str | None
    runs: int
    apis: tuple[str, ...] = ("local",)
    others: dict[str, tuple[int, str, str | None, int]] = field(default_factory=dict)

    def expected(self, api: str) -> tuple[int, str, str | None, int]:
        """(exit code, status, code, executions) on this protocol."""
        return self.others.get(api, (self.exit, self.status, self.code, self.runs))


ALL = ("local", "cloud", "v2")
FINE = (0, "success", None, 1)
GONE = (1, "lost", "server_gone", 1)
UNFETCHED = (1, "partial", "download_failed", 1)
NOT_TAKEN = (1, "error", "submit_failed", 0)


def status(code: int, times: int = ALWAYS, body: str = "json") -> dict[str, Any]:
    """An answer with this status instead of the real one."""
    return {"act": "status", "code": code, "times": times, "body": body}


ROWS = [
    # --- the submit
    Row("401", "submit", status(401), 4, "error", "refused", 0, ALL),
    Row("403, a web page", "submit", status(403, body="html"), 4, "error", "refused", 0, ALL),
    Row("404, text", "submit", status(404, body="text"), 1, "error", "not_found", 0),
    Row("409", "submit", status(409), 1, "error", "bad_request", 0),
    Row("413, a web page", "submit", status(413, body="html"), 1, "error", "bad_request", 0),
    Row("429 once", "submit", status(429, ONCE, "text"), *FINE, ("local", "cloud")),
    Row("500", "submit", status(500), *NOT_TAKEN),
    Row("502 once, a web page", "submit", status(502, ONCE, "html"), *FINE),
    Row("503 for good", "submit", status(503), *NOT_TAKEN),
    Row("the connection breaks before it arrives, once", "submit", {"act": "close", "times": ONCE}, *FINE, ("local", "v2")),
    Row("the connection breaks every time", "submit", {"act": "close"}, *NOT_TAKEN),
    Row("it is carried out, the answer never arrives", "submit", {"act": "lost"}, *FINE, ALL),
    Row("it is carried out, half of the answer arrives", "submit", {"act": "cut", "share": 0.5}, *FINE, ALL),
    Row("it is carried out, the answer's length is too short", "submit", {"act": "length", "add": -5}, *FINE, ("local", "cloud")),
    Row("200 with a web page", "submit", status(200, body="html"), 1, "error", "bad_answer", 0),
    Row("200 with nothing", "submit", status(200, body="empty"), 1, "error", "bad_answer", 0),
    Row("the server dies before it arrives", "submit", fault_rows.away(), 5, "error", "submit_unknown", 0, ALL),
    Row("the server dies once it is carried out", "submit", fault_rows.away(after=True), 5, "error", "submit_unknown", 1, ALL),
    Row("the server dies once it is carried out and comes back", "submit", fault_rows.away(after=True, back=0.4), *FINE, ALL),
    Row("redirected", "submit", {"act": "redirect", "code": 302, "to": "/login"}, 1, "error", "moved", 0, ALL),
    Row("redirected to a file: address", "submit", {"act": "redirect", "code": 307, "to": "file:///etc/passwd"}, 1, "error", "unsafe_redirect", 0),
    Row("slow headers", "submit", {"act": "slow", "pause": 0.03, "times": ONCE}, *FINE),
    # --- the job's record
    Row("401 after the submit", "record", status(401), 4, "error", "refused", 1, ("local", "cloud")),
    Row("404 once", "record", status(404, ONCE), *FINE, ("local", "cloud")),
    Row("500 once", "record", status(500, ONCE), *FINE, ("local", "cloud")),
    Row("500 for good", "record", status(500), *GONE, ("local", "cloud")),
    Row("503 once, a web page", "record", status(503, ONCE, "html"), *FINE, ("local", "cloud")),
    Row("429 once", "record", status(429, ONCE), *FINE),
    Row("200 with a web page, once", "record", status(200, ONCE, "html"), *FINE, ("local", "cloud")),
    Row("200 with broken JSON for good", "record", status(200, ALWAYS, "broken"), *GONE),
    Row("the connection breaks once", "record", {"act": "close", "times": ONCE}, *FINE, ALL),
    Row("the connection breaks for good", "record", {"act": "close"}, *GONE, ("local", "cloud")),
    Row("the server dies while the job runs", "record", fault_rows.away(), *GONE, ALL),
    Row("the server dies while the job runs and comes back", "record", fault_rows.away(back=0.4), *FINE, ALL),
    Row("half of the answer arrives, once", "record", {"act": "cut", "times": ONCE}, *FINE, ("local", "cloud")),
    Row("redirected to a private address", "record", {"act": "redirect", "code": 302, "to": "http://169.254.169.254/x"}, *GONE),
    Row("redirected to no address at all", "record", {"act": "redirect", "code": 302, "to": "http://[::1"}, *GONE),
    # --- the download
    Row("401", "file", status(401), *UNFETCHED, ALL),
    Row("404", "file", status(404), *UNFETCHED, ALL),
    Row("500", "file", status(500), *UNFETCHED),
    Row("503 once", "file", status(503, ONCE), *FINE, ALL),
    Row("503 for good, a web page", "file", status(503, body="html"), *UNFETCHED),
    Row("200 with a web page", "file", status(200, body="html"), *UNFETCHED, ALL),
    Row("200 with JSON", "file", status(200, body="json"), *UNFETCHED),
    Row("the connection breaks once", "file", {"act": "close", "times": ONCE}, *FINE, ALL),
    Row("the connection breaks every time", "file", {"act": "close"}, *UNFETCHED, ALL),
    *[Row(f"{tenth}0 % of the body arrive, once", "file", {"act": "cut", "share": tenth / 10, "times": ONCE}, *FINE, ALL if tenth in (0, 5) else ("local",)) for tenth in range(10)],
    Row("the server dies after the job's end", "file", fault_rows.away(), *UNFETCHED, ALL),
    Row("the server dies after the job's end and comes back", "file", fault_rows.away(back=0.4), *FINE, ALL),
    Row("half of the body arrives, every time", "file", {"act": "cut"}, *UNFETCHED),
    Row("the length says more than comes, once", "file", {"act": "length", "add": 9, "times": ONCE}, *FINE),
    Row("slow headers", "file", {"act": "slow", "pause": 0.03, "times": ONCE}, *FINE),
    Row("redirected in circles", "file", {"act": "redirect", "code": 302, "to": "/view"}, *UNFETCHED),
    Row("redirected to a file: address", "file", {"act": "redirect", "code": 302, "to": "file:///etc/passwd"}, *UNFETCHED, ALL),
    Row("redirected to a private address", "file", {"act": "redirect", "code": 302, "to": "http://169.254.169.254/x"}, *UNFETCHED, ALL),
    Row("redirected to no address at all", "file", {"act": "redirect", "code": 302, "to": "http://[::1"}, *UNFETCHED, ALL),
    # --- the socket
    Row("refused with 400", "socket", status(400), *FINE),
    Row("refused with 401", "socket", status(401), *FINE, ("local", "cloud")),
    Row("refused with 503", "socket", status(503), *FINE, ("local", "cloud")),
    Row("the connection breaks at once", "socket", {"act": "close"}, *FINE, ("local", "cloud")),
    Row("redirected", "socket", {"act": "redirect", "code": 302, "to": "/elsewhere"}, *FINE),
]  # fmt: skip

# Faults of the demo server's own frames: (spec, in words). The run must be as good as without them.
FRAMES = {
    "duplicate-frames:every=1": "every frame comes twice",
    "reorder-frames:every=2": "frames change places",
    "truncate-frames:every=3": "every third frame is cut in half",
    "big-frame:at=2,bytes=10000000": "a frame of 10 MB",
    "garbage-frames:every=1": "frames that are not JSON",
    "garbage-frames:every=1,kind=json": "frames of JSON that means nothing",
    "garbage-frames:every=1,kind=binary": "binary frames cut short",
    "unknown-frames:every=1": "frames of unknown types",
    "foreign-frames:every=1": "the end of another's job, again and again",
    "silent-socket:frames=2": "the socket stays open and falls silent",
    "lose-frames:type=execution_success": "the end's frame is lost",
    "lose-frames:type=executed": "the results' frames are lost",
    "lose-frames:type=executing": "the nodes' frames are lost",
    "drop-socket:frames=3,how=close": "the server closes the socket",
}

# The server's process: (moment of its death, in words, exit, status, code). Never started again.
DEATHS = [
    ("submit", "while the submit arrives", 5, "error", "submit_unknown"),
    ("accepted", "right after the submit", 5, "error", "submit_unknown"),
    ("node", "while a node runs", 1, "lost", "server_gone"),
    ("view", "at the download", 1, "partial", "download_failed"),
]

# What is wrong around it: in words, exit, status, code. The tests of the same names build each case (clock: test_clock.py).
HERE: dict[str, tuple[str, int, str, str | None]] = {
    "no_server": ("no server at the address", 3, "error", "unreachable"),
    "not_comfyui": ("a web server that is not ComfyUI", 1, "error", "bad_answer"),
    "deaf": ("a server that takes the connection and never answers", 3, "error", "unreachable"),
    "forgot_everything": ("the server restarts empty in mid-run", 1, "lost", "lost"),
    "disk_full": ("the disk is full at the download", 1, "partial", "download_failed"),
    "folder_is_file": ("the output folder is a file", 2, "error", "misuse"),
    "below_a_file": ("a file stands in the way of the output folder", 2, "error", "misuse"),
    "path_too_long": ("the output path is too long", 2, "error", "misuse"),
    "read_only": ("the output folder cannot be written to", 2, "error", "misuse"),
    "folder_removed": ("the output folder is removed in mid-run", 1, "partial", "download_failed"),
    "file_exists": ("a file of that name exists", 0, "success", None),
    "clock": ("the clock jumps by hours, here or at the server", 0, "success", None),
}

HEAD = """# What goes wrong, and what then happens

Every line below is carried out by `tests/run/test_faults.py`, `test_faults_batch.py`, `test_faults_wait.py` and
`test_clock.py`; this file is written by `tests/support/fault_table.py`. First what becomes of a single run of
`run_workflow.py`, then of a batch, then of those who wait for a job. On top of each line: stdout holds one JSON
document, no half-written file is left, no job is executed twice, and once something was submitted the document names
its prompt id and, under `next`, a command that continues it or says what became of it. For batches and waits that command
is carried out too.

"Once" means that the next attempt succeeds. "Where" names the protocols on which a line is tried.
"""


def cell(exit: int, said: str, code: str | None) -> str:
    return f"| {exit} | `{said}` | {f'`{code}`' if code else ''} |"


def batch_lines() -> list[str]:
    """The table of the batches."""
    lines = [
        "## A batch of three runs", "",
        "Succeeded and executed are counted at the end of the first command; the last column says what the command under",
        "`next` then brings, once the fault has passed: `complete` means all three pictures, and each run executed once in",
        "all. Where a server has forgotten what ran, that is executed again.", "",
        "| fault | where | exit | status | code | succeeded | executed | then |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in fault_rows.BATCH:
        groups: dict[tuple[int, str, str | None, int, int], list[str]] = {}
        for api in row.apis:
            groups.setdefault(row.expected(api), []).append(api)
        for (exit, said, code, succeeded, runs), apis in groups.items():
            ran = "up to 3" if runs == fault_rows.SOME else str(runs)
            then = "" if exit == 0 else "complete"
            words = " or ".join(f"`{word}`" for word in code.split(" or ")) if code else ""
            lines.append(
                f"| {row.what} | {', '.join(apis)} | {exit} | `{said}` | {words} | {succeeded} | {ran} | {then} |"
            )
    return [*lines, ""]


COMMANDS = {
    "resume": "run_workflow.py --resume",
    "wait": "manage_queue.py wait",
    "monitor": "ws_monitor.py",
}


def waiting_lines() -> list[str]:
    """The table of those who wait for another's job."""
    lines = [
        "## Waiting for a job: `run_workflow.py --resume`, `manage_queue.py wait`, `ws_monitor.py`", "",
        "The job itself is executed once, whatever happens to the one who waits.", "",
        "| fault | where | exit | status | code |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in fault_rows.WAITING:
        hows = "" if len(row.hows) == 3 else " (not the monitor)"
        lines.append(f"| {row.what}{hows} | {', '.join(row.apis)} {cell(*row.outcome)}")
        for how, outcome in row.others.items():
            lines.append(f"| the same, seen by `{COMMANDS[how]}` | {', '.join(row.apis)} {cell(*outcome)}")
    return [*lines, ""]


def document() -> str:
    """The whole of references/failures.md."""
    lines = [HEAD]
    executed = {0: "not executed", 1: "executed once"}
    for role, words in NAMES.items():
        lines += [f"## Faults at {words}", "", "| fault | exit | status | code | the job is | where |", "|---|---|---|---|---|---|"]  # fmt: skip
        for row in ROWS:
            if row.role == role:
                groups: dict[tuple[int, str, str | None, int], list[str]] = {}
                for api in row.apis:
                    groups.setdefault(row.expected(api), []).append(api)
                for (exit, said, code, runs), apis in groups.items():
                    lines.append(
                        f"| {row.what} {cell(exit, said, code)} {executed[runs]} | {', '.join(apis)} |"
                    )
        lines.append("")
    lines += batch_lines() + waiting_lines()
    lines += ["## Frames of the WebSocket", ""]
    lines += [
        "`run_workflow.py`, `run_batch.py`, `manage_queue.py wait` and `ws_monitor.py` bring the job to its end, exit 0:",
        "",
    ]
    lines += [f"* {words}" for words in FRAMES.values()]
    lines += ["* the socket is cut at each frame of a run, one after the other", ""]
    lines += ["## The server's process ends", "", "| when | exit | status | code |", "|---|---|---|---|"]
    lines += [f"| {words} {cell(*outcome)}" for _, words, *outcome in DEATHS]
    lines += ["", "## Around it", "", "| what | exit | status | code |", "|---|---|---|---|"]
    lines += [f"| {words} {cell(*outcome)}" for words, *outcome in HERE.values()]
    lines += [
        "",
        "Two things cannot be distinguished from a good answer: a body whose length header was made to fit what is missing, and a",
        "picture whose bytes were exchanged on the way under the right type.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(document(), end="")
