"""From flags to a server object of the right protocol.

Above the three dialects. The probe costs one short request on a local server and doubles as the check
that something answers there.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import _common
from comfyskill.base import cache, foreign, programs
from comfyskill.base import flags as base_flags
from comfyskill.base.cli import Misuse, SkillError
from comfyskill.server.protocol import Dialect

if TYPE_CHECKING:
    import argparse

# The key that the demo server accepts when it simulates the cloud.
DEMO_KEY = "comfyui-demo-key"
SCRIPT = Path(__file__).resolve().parents[2] / "demo_server.py"


class Found(NamedTuple):
    """A protocol (`local`, `cloud`, `v2`), how it was chosen, and whether it is a demo server that speaks it."""

    api: str
    why: str
    demo: bool = False


def connect_from(args: argparse.Namespace, *, probe: bool = True, need_key: bool = False) -> Dialect:
    """The server that the shared flags name; see `connect`."""
    return connect(
        args.host,
        api=args.api,
        api_key=args.api_key,
        api_key_file=args.api_key_file,
        headers=args.header,
        ca_bundle=args.ca_bundle,
        insecure=args.insecure,
        probe=probe,
        need_key=need_key,
    )


def connect(
    host: str | None = None,
    *,
    api: str = "auto",
    api_key: str | None = None,
    api_key_file: str | None = None,
    headers: list[str] | None = None,
    ca_bundle: str | None = None,
    insecure: bool = False,
    probe: bool = True,
    need_key: bool = False,
    named: bool = True,
) -> Dialect:
    """The server at an address (default: $COMFY_HOST, else this machine's; `demo` starts the demo server).

    `cloud` means Comfy Cloud, and so does `api="cloud"` without an address. With `probe`, an `auto` protocol is found
    out by asking; without, from the address alone. `need_key`: refuse at once when the cloud has been given no key.
    `named` False: only a file names the server, and no key of the environment goes there.
    Raises SkillError: misuse (2) for bad values, `unreachable` (3), `refused` (4).
    """
    if host is None:
        host = base_flags.configured_host()
    if host is None:
        host = _common.CLOUD_URL if api == "cloud" else base_flags.DEFAULT_HOST
    if host == "demo":
        return _demo(api)
    if host == "cloud":
        host = _common.CLOUD_URL
    bare, login = _common.split_user_info(host)
    url = _common.normal_base(bare)
    if named:
        _common.note_named(url)
    key = _common.read_key(api_key, api_key_file, url, named=named)
    access = _common.Access({**login, **_common.parse_headers(headers or [])}, key, ca_bundle, insecure)
    if access.secret:
        _common.refuse_plain_http(url, access)
    # Reading a device or a pipe might never end.
    if ca_bundle and not (os.path.isfile(ca_bundle) or os.path.isdir(ca_bundle)):  # noqa: PTH112, PTH113
        raise Misuse(f"no such file: {ca_bundle}", hint="--ca-bundle requires a PEM file")
    if need_key and _common.is_cloud_host(url) and not (key or access.headers):
        raise SkillError(
            f"{url} requires an API key; none was given",
            code="refused",
            hint="set COMFY_CLOUD_API_KEY or give --api-key-file FILE; keys are made at https://platform.comfy.org "
            "(references/cloud.md)",
        )
    found = Found(api, f"--api {api} was given")
    if api == "auto":
        found = _found_out(url, access, probe)
    server = dialect(url, access, found.api, demo=found.demo)
    server.why, server.named = found.why, named
    return server


def _demo(api: str) -> Dialect:
    """The built-in server for this one call; with `cloud` it simulates Comfy Cloud."""

    if api == "v2":
        raise Misuse(
            "the demo server does not support Comfy API v2",
            hint="omit --api, or use --api cloud for a simulated cloud",
        )
    cloud = api == "cloud"
    url = start(["--cloud", "--tier", "creator"] if cloud else None)
    server = dialect(
        url, _common.Access(key=DEMO_KEY if cloud else None), "cloud" if cloud else "local", demo=True
    )
    server.why = "the built-in demo server"
    server.fleeting = True
    return server


def dialect(url: str, access: _common.Access, api: str, *, demo: bool = False) -> Dialect:
    """The object for a protocol's name."""
    if api == "cloud":
        from comfyskill.server.cloud import Cloud

        return Cloud(url, access, demo=demo)
    if api == "v2":
        from comfyskill.server.v2 import V2

        return V2(url, access, demo=demo)
    from comfyskill.server.local import Local

    return Local(url, access, demo=demo)


def _found_out(url: str, access: _common.Access, ask: bool) -> Found:
    """The protocol and why: by the host's name, by what an earlier call found, or by asking."""
    if _common.is_cloud_host(url):
        if url.endswith("//" + _common.CLOUD_HOST):
            return Found(
                "cloud",
                "the host is Comfy Cloud (v1 has everything that the scripts need; --api v2 works too)",
            )
        return Found("v2", "the host is a deployment or workspace address, which supports only API v2")
    if not ask:
        return Found("local", "not asked: assumed to be a ComfyUI server")
    remembered = f"api/{cache.slug(url)}"
    near = _common.is_this_machine(urlsplit(url).hostname or "")
    kept = None if near else cache.recall(remembered)
    if kept in ("cloud", "v2"):
        return Found(str(kept), "detected by an earlier call (--api overrides it)")
    found = probe(url, access)
    if found.api != "local" and not near:
        cache.keep(remembered, found.api)
    return found


def probe(url: str, access: _common.Access) -> Found:
    """Which protocol a server speaks, by what it was recognised, and whether it is the demo server.

    Raises SkillError `unreachable`, `refused`, or `not_comfyui` when nothing known answers.
    """
    server = dialect(url, access, "local")
    try:
        flags = _asked(server, "features")
        if "supports_preview_metadata" in flags:
            return Found("local", "/features answers as a ComfyUI server does", _is_demo(flags))
        if found := speaks_v2(server):
            return Found("v2", found)
        system = foreign.mapping(_asked(server, "api/system_stats").get("system"))
        if "cloud_version" in system:
            demo = _is_demo(_asked(server, "api/features"))
            return Found("cloud", "/api/system_stats names a cloud version", demo)
        server.stats()
        return Found("local", "/system_stats answers as a ComfyUI server does")
    finally:
        server.close()


def _asked(server: Dialect, path: str) -> Mapping[str, object]:
    """The object that a route answers with; empty when it has none to give."""
    try:
        return foreign.mapping(server.get_json(path, timeout=10))
    except SkillError as error:
        if error.code in ("not_found", "bad_answer", "refused", "bad_request", "server_error"):
            return {}
        raise


def _is_demo(flags: Mapping[str, object]) -> bool:
    """Whether these are the feature flags of our own demo server, which marks itself at whatever address it has."""
    return foreign.mapping(flags.get("extension")).get("comfyui_skill_demo") is True


def speaks_v2(server: Dialect) -> str | None:
    """By what a server was recognised to speak API v2, or None.

    API v2 wraps its errors as {"error": {"code": …}}, also for a missing key and for a list it does not offer.
    """
    if "status" in _asked(server, "api/v2/health"):
        return "/api/v2/health answers"
    try:
        server.get("api/v2/jobs/none", attempts=1, timeout=10)
    except SkillError as error:
        if error.code == "unreachable":
            raise
        said = str(error.details.get("server_said") or "").partition(":")[0]
        if said in ("unauthorized", "forbidden", "not_found", "not_implemented"):
            return "/api/v2/jobs answers in API v2's error shape"
    return None


def start(options: list[str] | None = None) -> str:
    """The address of a fresh demo server on a free loopback port. Raises SkillError when it does not start."""
    _need_packages()
    command = [sys.executable, str(SCRIPT), "--port", "0", "--exit-with-parent", *(options or [])]
    # A full pipe without a reader would block the child; a file accepts everything.
    said = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the child)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=programs.environment(),
            **_apart(),
        )
    except OSError as error:
        raise SkillError("the demo server could not be started", code="demo_failed") from error
    atexit.register(_stop, child)
    assert child.stdout is not None
    line = child.stdout.readline()
    try:
        return str(json.loads(line)["url"])
    except (ValueError, KeyError, TypeError) as error:
        _stop(child)
        said.seek(0)
        words = said.read().decode("utf-8", "replace").strip().splitlines()
        raise SkillError(
            "the demo server did not start",
            code="demo_failed",
            hint="run scripts/demo_server.py --port 0 to see why",
            server_said=words[-1] if words else line.decode("utf-8", "replace").strip(),
        ) from error


def _need_packages() -> None:
    """Raises ModuleNotFoundError when the child would; `cli.main` turns it into a message."""
    for name in ("aiohttp", "PIL"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _apart() -> dict[str, Any]:
    """Keep Ctrl-C from the child: cancelling a job still needs the server that runs it."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
    return {"start_new_session": True}


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Stop it by closing its input; kill it if it does not end."""
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(timeout=2)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
