"""The switches of the cloud double (`--cloud-option name=value`), with their defaults and meanings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

SWITCHES: Mapping[str, tuple[str, str]] = {
    "appear_ms": ("50", "how long a new job answers 404"),
    "outputs_late": ("0", "the first N `completed` answers of a job lack their outputs"),
    "record_late_ms": ("0", "delay between the end frame and the end of the job record"),
    "times": ("ms", "create_time in ms or s"),
    "names": ("hash", "output file names: hash (with display_name) or plain"),
    "video_key": ("video", "key of videos in the outputs: video or images"),
    "status_words": ("raw", "/api/job/{id}/status uses raw or schema words"),
    "raw_status": ("", "raw status of every ended job (lost, retryable_error, an unknown one ...)"),
    "refusals": ("new", "plan refusals: new (402) or old (429)"),
    "refuse": ("", "refuse submits with this error.type (bare: a 429 without type)"),
    "refuse_times": ("", "number of refused submits (empty: all)"),
    "refuse_status": ("", "the status of such refusals (default: by type)"),
    "retry_after": ("", "Retry-After of such refusals, in seconds"),
    "free_403": ("on", "the free tier gets 403 on nodes, queue, files: on or off"),
    "partner": ("on", "off: workspace policy refuses partner nodes (403)"),
    "queue_limit": ("100", "largest number of waiting jobs"),
    "concurrency": ("", "concurrent jobs (default: by tier)"),
    "cap_s": ("", "longest run in seconds (default: by tier)"),
    "cap_status": ("cancelled", "how a run over the cap ends: cancelled or failed"),
    "interrupt": ("first", "/api/interrupt stops the first active job, or all"),
    "view": ("redirect", "/api/view: redirect to the other origin, or direct"),
    "view_expires": ("3600", "signed addresses are valid for N seconds"),
    "node_errors": (
        "prune",
        "a partly invalid graph: prune (run the rest), or reject (200 with node_errors, no run)",
    ),
    "max_workflow_kb": ("10240", "larger submits get 413"),
}
CONCURRENCY = {"free": 1, "standard": 1, "creator": 3, "pro": 5}
CAP_SECONDS = {"free": 1800, "standard": 1800, "creator": 1800, "pro": 3600}


def read_switches(given: Iterable[str]) -> dict[str, str]:
    """All switches with their values. Raises ValueError with a sentence."""
    switches = {name: default for name, (default, _) in SWITCHES.items()}
    for item in given:
        name, equals, value = item.partition("=")
        if name not in SWITCHES or not equals:
            raise ValueError(f"--cloud-option {item!r}: write NAME=VALUE; there are: {', '.join(SWITCHES)}")
        switches[name] = value
    for name, value in switches.items():
        number = (
            name.endswith(("_ms", "_s", "_kb", "_late", "_times", "_limit", "_expires"))
            or name == "concurrency"
        )
        if number and value and not value.replace(".", "", 1).isdigit():
            raise ValueError(f"--cloud-option {name}: {value!r} is not a number")
    return switches


def table() -> str:
    """All switches as text for `--help`."""
    lines = ["Switches of the cloud double (--cloud-option NAME=VALUE; defaults are shown):"]
    lines += [f"  {name}={default}\n      {about}" for name, (default, about) in SWITCHES.items()]
    return "\n".join(lines)
