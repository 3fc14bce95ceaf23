"""What the user gave for one server: its key, headers and certificate authorities.

Level 1. Everything secret that passes here is hidden from all output.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from _addresses import is_cloud_host, is_this_machine
from comfyskill.base import paths, safe_text
from comfyskill.base.cli import SkillError

SECRET_HEADERS = ("authorization", "cookie", "key", "token", "secret")


class Access:
    """What the user gave for one server: headers that may go to its origin, and how to trust its certificate."""

    def __init__(
        self,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        ca_bundle: str | None = None,
        insecure: bool = False,
    ) -> None:
        self.headers = headers or {}
        self.key = key
        self.ca_bundle = ca_bundle
        self.insecure = insecure

    @property
    def secret(self) -> bool:
        """Whether something here must not be read on the way."""
        return bool(self.key) or any(is_secret_header(name) for name in self.headers)

    def __repr__(self) -> str:
        return "Access(...)"


def is_secret_header(name: str) -> bool:
    """Whether a header of this name usually carries a secret."""
    return any(word in name.lower() for word in SECRET_HEADERS)


def refuse_plain_http(url: str, access: Access) -> None:
    """Raises SkillError `consent_needed`: a key does not travel unencrypted to another machine without --insecure."""
    parts = urlsplit(url)
    if parts.scheme == "https" or access.insecure or is_this_machine(parts.hostname or ""):
        return
    raise SkillError(
        f"will not send a key over plain http to {url}",
        code="consent_needed",
        hint="use https, or --insecure if everyone on that network may read the key",
    )


def not_named(hosts: Sequence[str]) -> SkillError:
    """The refusal to send a key to servers that no flag of this command names."""
    flags = " ".join(f"--host {safe_text.clean(host, 200)}" for host in hosts[:3])
    return SkillError(
        "a key is sent only to a server that the same command names",
        hint=f"if the key may go there, add {flags or '--host'}",
    )


def parse_headers(lines: list[str]) -> dict[str, str]:
    """`Name: value` lines from the command line. Raises SkillError on a bad one; values are hidden from all output."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if (
            not colon
            or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name.strip())
            or re.search(r"[\r\n\0]", value)
        ):
            raise SkillError(
                "a --header must read 'Name: value'",
                hint="for example --header 'Authorization: Bearer TOKEN'",
            )
        value = value.strip()
        if any(ord(char) > 255 for char in value):
            raise SkillError(
                f"the value of --header {name.strip()} holds characters that no header can carry",
                hint="copy it again without quotation marks, dashes or dots that a text program has put in",
            )
        secret = is_secret_header(name)
        safe_text.hide(value, pieces=secret)
        # A server may give back the token without its scheme, the cookie without its name.
        for word in {*value.split(), *re.split(r"[\s;,=\"]+", value)}:
            if len(word) >= 8:
                safe_text.hide(word, pieces=secret)
        headers[name.strip()] = value
    return headers


def read_key(api_key: str | None, api_key_file: str | None, url: str, *, named: bool = True) -> str | None:
    """The key for this server: the flag, the file, or, for the cloud's own host over https alone, the environment.

    `named`: whether the user has named this server. One that only a file names gets no key of the environment.
    """
    key = api_key
    if key is None and api_key_file:
        from comfyskill.base import text_files

        try:
            key = (text_files.read(paths.expanded(api_key_file)).splitlines() or [""])[0]
        except (OSError, UnicodeDecodeError) as error:
            raise SkillError(
                f"cannot read the key file {api_key_file}: {text_files.reason(error)}",
                hint="one line of text: the key",
            ) from error
    environment = os.environ.get("COMFY_CLOUD_API_KEY")
    safe_text.hide(environment)
    if key is None and environment and named and is_cloud_host(url) and url.startswith("https://"):
        key = environment
    if key is None:
        return None
    key = key.strip()
    safe_text.hide(key)
    if not key or not key.isascii() or not key.isprintable():
        raise SkillError("the key is empty or holds characters no key has", hint="copy it again")
    return key
