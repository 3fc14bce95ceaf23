"""Addresses, routes and model lists as values."""

from __future__ import annotations

from pathlib import Path

import pytest

import _common
from comfyskill.base.cli import SkillError


@pytest.mark.parametrize(
    ("host", "path", "url"),
    [
        ("http://127.0.0.1:8188", "/prompt", "http://127.0.0.1:8188/prompt"),
        ("127.0.0.1:8188", "prompt", "http://127.0.0.1:8188/prompt"),
        ("localhost", "/queue", "http://localhost/queue"),
        ("gpu-box:8188", "/history/a", "http://gpu-box:8188/history/a"),
        ("[::1]:8188", "/queue", "http://[::1]:8188/queue"),
        ("comfy.example.org", "/queue", "https://comfy.example.org/queue"),
        ("https://example.org/comfy/", "/view", "https://example.org/comfy/view"),
        ("cloud.comfy.org", "/prompt", "https://cloud.comfy.org/api/prompt"),
        ("https://cloud.comfy.org", "/history/abc", "https://cloud.comfy.org/api/history_v2/abc"),
        ("https://cloud.comfy.org", "/history", "https://cloud.comfy.org/api/history_v2"),
        ("https://cloud.comfy.org", "/models", "https://cloud.comfy.org/api/experiment/models"),
        ("https://cloud.comfy.org", "/models/loras", "https://cloud.comfy.org/api/experiment/models/loras"),
        ("https://cloud.comfy.org", "/api/jobs/1", "https://cloud.comfy.org/api/jobs/1"),
        ("https://cloud.comfy.org", "/ws", "https://cloud.comfy.org/ws"),
    ],
)
def test_routes_have_one_address(host: str, path: str, url: str) -> None:
    assert _common.resolve_url(host, path) == url


@pytest.mark.parametrize(
    "host", ["", "ftp://x", "http://", "http://x:99999", "http://a b", "http://x?y", "http://x#y"]
)
def test_what_is_no_address_is_misuse(host: str) -> None:
    with pytest.raises(SkillError) as raised:
        _common.resolve_url(host, "/prompt")
    assert raised.value.exit == 2


@pytest.mark.parametrize(
    ("host", "cloud"),
    [
        ("https://cloud.comfy.org", True),
        ("cloud.comfy.org:443", True),
        ("CLOUD.COMFY.ORG", True),
        ("https://dep-1.run.comfy.app", True),
        ("https://cloud.comfy.org.evil.example", False),
        ("https://evil.example/cloud.comfy.org", False),
        ("https://cloud.comfy.org@evil.example", False),
        ("http://notcloud.comfy.org.example", False),
        ("http://127.0.0.1:8188", False),
        ("", False),
    ],
)
def test_only_the_clouds_own_names_are_the_cloud(host: str, cloud: bool) -> None:
    assert _common.is_cloud_host(host) is cloud


def test_model_lists_of_both_kinds() -> None:
    assert _common.parse_model_list(["a.safetensors", "sub/b.ckpt"]) == ["a.safetensors", "sub/b.ckpt"]
    assert _common.parse_model_list([{"name": "a.safetensors", "pathIndex": 0}]) == ["a.safetensors"]
    assert _common.parse_model_list([]) == []


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"code": "folder_not_found", "message": "no"}, "folder_not_found"),
        ({"code": "forbidden", "message": "Forbidden"}, "refused"),
        ({"error": "unauthorized"}, "refused"),
        ({"what": 1}, "bad_answer"),
        ("text", "bad_answer"),
        (None, "bad_answer"),
    ],
)
def test_what_is_no_list_says_which_kind_of_no(payload: object, code: str) -> None:
    with pytest.raises(SkillError) as raised:
        _common.parse_model_list(payload)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.png", "a.png"),
        ("../../x.png", "_._.._x.png"),
        ("CON", "_CON"),
        ("aux.png", "_aux.png"),
        ("com1.txt", "_com1.txt"),
        ("a/b\\c", "a_b_c"),
        ("x" * 300 + ".png", "x" * 196 + ".png"),
        ("trail. ", "trail"),
        ("a\x1b[31mb\u202e.png", "ab.png"),
        ("", "file"),
        ("...", "file"),
        ('q"u<o>t|e?*:.png', "q_u_o_t_e___.png"),
        (".bashrc", "_bashrc"),
    ],
)
def test_names_are_safe_on_every_disk(name: str, safe: str) -> None:
    from comfyskill.base import file_names

    assert file_names.safe_name(name) == safe


def test_subfolders_cannot_climb() -> None:
    from comfyskill.base import file_names

    assert file_names.safe_relative("../../../etc/passwd") == ["etc", "passwd"]
    assert file_names.safe_relative("C:\\Windows\\..\\x") == ["Windows", "x"]
    assert file_names.safe_relative("/abs/./a//b") == ["abs", "a", "b"]


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("LocalHost", True), ("localhost.", True), ("127.0.0.1", True), ("127.200.3.4", True), ("::1", True),
     ("[::1]", True), ("::ffff:127.0.0.1", True), ("0:0:0:0:0:0:0:1", True), ("127.evil.example", False), ("127.1", False),
     ("127.0.0.1.", False), ("0x7f.1", False), ("2130706433", False), ("x.localhost", False), ("localhost.evil.example", False),
     ("0.0.0.0", False), ("::2", False), ("::ffff:10.0.0.1", False), ("10.0.0.1", False), ("", False)],
)  # fmt: skip
def test_only_loopback_is_this_machine(host: str, here: bool) -> None:
    assert _common.is_this_machine(host) is here


def test_a_number_in_full_width_is_the_number_it_shows() -> None:
    assert _common.normal_base("http://[::ffff:127.0.0.1]:80") == "http://[::ffff:127.0.0.1]:80"
    assert _common.normal_base("http://\uff11\uff12\uff17.0.0.1:80") == "http://127.0.0.1:80"


def test_the_value_of_a_header_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("Bearer a-b-c\nnot this\n")
    (tmp_path / "empty").write_text("\n")
    assert _common.parse_headers([f"X-Auth: @{tmp_path / 'token'}"]) == {"X-Auth": "Bearer a-b-c"}
    for missing in ("empty", "nowhere"):
        with pytest.raises(SkillError) as raised:
            _common.parse_headers([f"X-Auth: @{tmp_path / missing}"])
        assert raised.value.exit == 2
