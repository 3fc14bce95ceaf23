"""The servers that the command line and its hosts files name, and the key of each.

A key belongs to one origin: with several servers each has its own, on its line of a hosts file.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import _common
from comfyskill.base import cli, foreign, paths, safe_text, text_files
from comfyskill.base.cli import Misuse, SkillError
from comfyskill.batch.flags import ServerFlags
from comfyskill.batch.journal import Recorded
from comfyskill.server import connect as server_connect
from comfyskill.server.facts import Facts
from comfyskill.server.protocol import Dialect

LOOPBACK = re.compile(r"^(https?://)(?:localhost|127\.0\.0\.1|\[::1\])(?=[:/]|$)", re.I)
LINE_FLAGS = "--api-key-file FILE, --header 'NAME: VALUE', --api, --ca-bundle FILE and --insecure"


class Host(NamedTuple):
    """One server as it was named. file: the absolute path of the hosts file that names it. named: by the user, not
    by a journal alone."""

    address: str | None
    file: Path | None = None
    api: str | None = None
    key_file: str | None = None
    headers: Sequence[str] = ()
    ca_bundle: str | None = None
    insecure: bool = False
    named: bool = True


class Connected(NamedTuple):
    """The servers that answer, and the --host values of those that the user named (without keys)."""

    servers: Sequence[Facts]
    hosts: Sequence[str]


def named(given: Sequence[str]) -> list[Host]:
    """What --host names, each address once; `@FILE` holds one per line. One Host without address: the default server.

    Raises SkillError (exit 2) with the line of a hosts file that cannot be read.
    """
    hosts: dict[str | None, Host] = {}
    for text in given:
        for host in _of_file(text[1:]) if text.startswith("@") else [Host(text)]:
            hosts.setdefault(host.address, host)
    return list(hosts.values()) or [Host(None)]


class _Line(argparse.ArgumentParser):
    """Reads one line of a hosts file. Its own error text could hold a key, so it raises a bare ValueError."""

    def error(self, message: str) -> NoReturn:  # noqa: ARG002
        raise ValueError


def _line_parser() -> argparse.ArgumentParser:
    parser = _Line(add_help=False, allow_abbrev=False)
    parser.add_argument("address")
    parser.add_argument("--api", choices=["auto", "local", "cloud", "v2"])
    parser.add_argument("--api-key-file")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--ca-bundle")
    parser.add_argument("--insecure", action="store_true")
    return parser


def _of_file(name: str) -> list[Host]:
    path = paths.absolute(name)
    try:
        lines = text_files.read(path).splitlines()
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise Misuse(
            f"cannot read {safe_text.clean(name, 200)}: {text_files.reason(error)}",
            hint="--host @FILE requires one address per line",
        ) from error
    parser = _line_parser()
    numbered = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    hosts = [
        _of_line(parser, path, number, line) for number, line in numbered if line and not line.startswith("#")
    ]
    if not hosts:
        # A user who named a file did not mean the default server.
        raise Misuse(f"{safe_text.clean(name, 200)} names no server", hint="write one address per line")
    return hosts


def _of_line(parser: argparse.ArgumentParser, path: Path, number: int, line: str) -> Host:
    parts = shlex.shlex(line, posix=True)
    parts.whitespace_split, parts.commenters, parts.escape = True, "", ""  # C:\keys stays as it is
    try:
        read = parser.parse_args(list(parts))
    except ValueError as error:
        raise Misuse(
            f"line {number} of {safe_text.clean(path, 200)} cannot be read",
            hint=f"write an address, optionally followed by {LINE_FLAGS}",
        ) from error
    # Relative names on a line are relative to the hosts file.
    key_file, bundle = (
        str(path.parent / paths.expanded(name)) if name else None
        for name in (read.api_key_file, read.ca_bundle)
    )
    return Host(read.address, path, read.api, key_file, read.header, bundle, read.insecure)


def connect(
    flags: ServerFlags, plan: Mapping[str, object] | None = None, *, partner_key: str | None = None
) -> Connected:
    """The servers that answer: those of --host, else those of a journal's plan line.

    Raises the last error when no server answers or the only one refuses. Raises misuse at once: a key that would
    go to several origins, or to one that only the journal names.
    """
    if plan is not None and not flags.hosts:
        hosts = _recorded(flags, plan, partner_key)
    else:
        hosts = named(flags.hosts)
    _refuse_shared_key(flags, hosts)
    found: dict[str, tuple[Host, Dialect]] = {}  # by place
    error: SkillError | None = None
    for host in hosts:
        try:
            server = _reached(flags, host, alone=len(hosts) == 1)
        except SkillError as failure:
            if len(hosts) == 1 or failure.exit == cli.Exit.MISUSE:
                raise
            error = failure
            cli.warn(f"{host.address}: {failure.message}")
            continue
        found.setdefault(place_of(server.url), (host, server))
    if not found:
        assert error is not None
        raise error
    # A printed command names no server that only the journal knows: keys may go to the servers it names.
    values = [
        f"@{host.file}" if host.file else host_value(server) for host, server in found.values() if host.named
    ]
    return Connected([server for _, server in found.values()], list(dict.fromkeys(values)))


def place_of(url: str) -> str:
    """A server's address in one spelling: all names of this machine become one."""
    return LOOPBACK.sub(r"\1localhost", url)


def recognise(recorded: Recorded, servers: Sequence[Facts]) -> None:
    """Write the journal's servers as this session names them, so that no run is taken for another server's."""
    urls = {place_of(server.url): server.url for server in servers}
    for record in recorded.runs.values():
        record.host = record.host and urls.get(place_of(record.host), record.host)
        record.left_on = record.left_on and urls.get(place_of(record.left_on), record.left_on)
    left: dict[str, set[str]] = {}
    for host, ids in recorded.left.items():
        left.setdefault(urls.get(place_of(host), host), set()).update(ids)
    recorded.left = left


def host_value(server: Facts) -> str:
    """The --host value for this server, without a login."""
    return "demo" if server.fleeting else server.url


def _reached(flags: ServerFlags, host: Host, *, alone: bool) -> Dialect:
    own_key = host.key_file is not None
    server = server_connect.connect(
        host.address,
        api=host.api or flags.api,
        api_key=None if own_key else flags.api_key,
        api_key_file=host.key_file or flags.api_key_file,
        headers=[*flags.headers, *host.headers],
        ca_bundle=host.ca_bundle or flags.ca_bundle,
        insecure=host.insecure or flags.insecure,
        need_key=True,
        named=host.named,
    )
    if not alone:
        server.features()
    return server


def _refuse_shared_key(flags: ServerFlags, hosts: Sequence[Host]) -> None:
    keys = (("--api-key", flags.api_key), ("--api-key-file", flags.api_key_file), ("--header", flags.headers))
    given = [flag for flag, value in keys if value]
    if not given or len(hosts) < 2 or len({_origin(host.address) for host in hosts}) < 2:
        return
    raise Misuse(
        f"{given[0]} belongs to one server, but {len(hosts)} are named: it would go to all of them",
        hint="list the servers in a file, each with its own key on its line "
        "(https://gpu1:8188 --api-key-file gpu1.key), and give --host @FILE",
    )


def _origin(address: str | None) -> tuple[str, str, int]:
    if address in (None, "demo"):
        return "demo", "", 0
    bare, _ = _common.split_user_info(_common.CLOUD_URL if address == "cloud" else str(address))
    return _common.origin_of(_common.normal_base(bare))


def _recorded(flags: ServerFlags, plan: Mapping[str, object], partner_key: str | None) -> list[Host]:
    """The journal's servers. A folder can come from anyone, so keys go only to servers that the command names."""
    hosts = [host for host in foreign.items(plan.get("hosts")) if isinstance(host, str)]
    keys = flags.api_key or flags.api_key_file or flags.headers or partner_key
    if keys or any(_is_cloud(host) for host in hosts):
        raise _common.not_named(hosts)
    return [Host(host, named=False) for host in dict.fromkeys(hosts)] or [Host(None)]


def _is_cloud(host: str) -> bool:
    """Whether a server takes runs only with a key."""
    return host == "cloud" or _common.is_cloud_host(_common.normal_base(_common.split_user_info(host)[0]))
