#!/usr/bin/env python3
# /// script
# requires-python = ">=3.10"
# dependencies = ["requests>=2.31,<3", "websocket-client>=1.7,<2", "pillow>=10.1,<13", "aiohttp>=3.9,<4"]
# ///
"""Check the whole installation: what works, what does not, and what to do next.

Checks comfy-cli, the server (really ComfyUI?), its WebSocket, node definitions, models, disk, queue, Manager,
account and clock; with --workflow also whether the server has everything a workflow needs. Without --host it tries
$COMFY_HOST, 127.0.0.1:8188 and the Desktop app's port 8000, and reports what it found. Changes nothing, unless
--smoke-test runs two tiny jobs.

Examples:
    python3 scripts/health_check.py
    python3 scripts/health_check.py --workflow workflows/sdxl_txt2img.json
    python3 scripts/health_check.py --smoke-test --host http://127.0.0.1:8000

Exit codes: 0 nothing failed (warnings possible), 1 a check failed, 2 misuse, 3 no server answers, 4 key or plan
refused, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from comfyskill import __version__
from comfyskill.base import cli, flags, foreign, safe_text
from comfyskill.base.cli import Document, SkillError

if TYPE_CHECKING:
    from comfyskill.machine.health import Check
    from comfyskill.server.protocol import Dialect

NEEDS_SERVER = "no server answers"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = flags.parser(__doc__)
    parser.add_argument(
        "--workflow", metavar="W", help="also check that the server has everything that this workflow needs"
    )
    parser.add_argument("--smoke-test", action="store_true", help="also run two tiny jobs (nothing is kept)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="only the JSON document, no summary on stderr (stdout is the same)",
    )
    flags.add_server_flags(parser)
    flags.add_quiet_flag(parser)
    return parser.parse_args(argv)


def report(args: argparse.Namespace) -> Document:
    """The report this script prints."""
    from comfyskill.machine import health

    if args.json:
        cli.be_quiet()
    packages = health.packages()
    host, around, checks = health.choose(args.host, args.api)
    if "requests" in foreign.items(packages.details.get("missing")):
        return document(
            host_url(host), None, [packages, *checks, *unasked("the package requests is missing")], around
        )
    server, problem = health.reach(
        host,
        api=args.api,
        api_key=args.api_key,
        api_key_file=args.api_key_file,
        headers=args.header,
        ca_bundle=args.ca_bundle,
        insecure=args.insecure,
    )
    checks = [packages, health.comfy_cli(server.url if server else host_url(host)), *checks]
    if server is None:
        assert problem is not None
        checks.append(_elsewhere(problem, around))
        checks += unasked(NEEDS_SERVER if problem.details.get("code") == "unreachable" else problem.message)
    else:
        checks += server_checks(server, args.workflow, smoke=args.smoke_test)
    for check in checks:
        cli.note(f"{check.result:8}{check.name:18}{check.message}")
    return document(server.url if server else host_url(host), server, checks, around)


def unasked(why: str) -> list[Check]:
    """The checks that need a server, skipped."""
    from comfyskill.machine import health

    names = ("version", "websocket", "definitions", "models", "disk", "queue", "manager", "account", "clock")
    return [health.skipped(name, why) for name in names]


def host_url(host: str) -> str:
    """The address as it is printed: without a login."""
    import _common

    return _common.normal_base(_common.split_user_info(host)[0]) if host != "demo" else host


def _elsewhere(problem: Check, around: list[Document]) -> Check:
    """The failure, with the servers that do answer on this machine."""

    running = [row["url"] for row in around if row["state"] == "comfyui"]
    if not running:
        return problem
    return problem._replace(
        fix=f"ComfyUI answers on {running[0]}: use --host {running[0]} (or change COMFY_HOST)"
    )


def server_checks(server: Dialect, workflow: str | None, *, smoke: bool) -> list[Check]:
    """All checks that ask the server, in order."""
    from comfyskill.machine import health, health_smoke

    asked: list[tuple[str, Callable[[], Check]]] = [
        ("server", lambda: health.server_answers(server)),
        ("version", lambda: health.version_tried(server)),
        ("account", lambda: health.account_allows(server)),
        ("websocket", lambda: health.socket_opens(server)),
        ("definitions", lambda: health.definitions_readable(server)),
        ("models", lambda: health.has_model(server)),
        ("disk", lambda: health.disk_space(server)),
        ("queue", lambda: health.queue_moves(server)),
        ("manager", lambda: health.manager_there(server)),
        ("clock", lambda: health.clocks_agree(server)),
    ]
    if workflow is not None:
        asked.append(("workflow", lambda: health.workflow_runs(server, workflow)))
    checks = [health.guarded(name, check) for name, check in asked]
    if smoke:
        stuck = next(
            (check for check in checks if check.name in ("queue", "account") and check.result == "fail"), None
        )
        for name, run in (
            ("smoke_test", health_smoke.without_model),
            ("smoke_test_model", health_smoke.with_checkpoint),
        ):
            if stuck is not None:
                checks.append(health.skipped(name, f"{stuck.name}: {stuck.message}"))
            else:
                checks.append(health.guarded(name, partial(run, server)))
    return checks


def document(url: str, server: Dialect | None, checks: list[Check], around: list[Document]) -> Document:
    """The JSON document of a health check."""
    results = [check.result for check in checks]
    failed = [check for check in checks if check.result == "fail"]
    found: Document = {"status": "ok" if not failed else "unhealthy"}
    if failed:
        codes = [check.details.get("code") for check in failed]
        code = next((known for known in ("unreachable", "refused") if known in codes), "unhealthy")
        found |= {"code": code, "message": failed[0].message, "retryable": code == "unreachable"}
        if failed[0].fix:
            found["hint"] = failed[0].fix
    found |= {"host": url, "api": server.api if server else None, "skill_version": __version__}
    if server is not None and server.demo:
        found["demo"] = True
    found["summary"] = {result: results.count(result) for result in ("ok", "warn", "fail", "skipped")}
    found["checks"] = [check.json() for check in checks]
    if around:
        found["found"] = around
    found["next"] = next_commands(server, checks)
    return found


def next_commands(server: Dialect | None, checks: list[Check]) -> list[str]:
    """What to run now: the repair of a failure, else a run that this server can do, else the command that lists possible runs."""
    failed = [check for check in checks if check.result == "fail"]
    runs = (safe_text.shell_words([sys.executable or "python3"]), "bash ", "python3 ")
    commands = [check.fix for check in failed if check.fix and check.fix.startswith(runs)]
    if any(check.name == "packages" for check in failed):
        from comfyskill.machine import health

        commands = health.install_packages()
    if commands or failed or server is None:
        return commands
    from comfyskill.base.programs import command
    from comfyskill.info import suggest

    words = server.flags
    if any(check.name == "queue" and check.result == "warn" for check in checks):
        return [command("manage_queue.py", "list", *words)]
    try:
        ready: list[str] = suggest.suggest(server).get("next", [])
    except SkillError:
        ready = []
    if any("run_workflow.py" in line for line in ready):
        return ready
    return [command("server_info.py", "suggest", *words)]


def main(argv: list[str] | None = None) -> int:
    return cli.main(parse_args, report, argv)


if __name__ == "__main__":
    sys.exit(main())
