"""Downloads of models: whole, checked and from allowed places, or not there at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfyskill.base import cli, file_limits, safe_text
from comfyskill.base.cli import SkillError
from comfyskill.deps import download, place
from comfyskill.deps.download import AllowedHosts, Wanted, fetch
from comfyskill.server import transport
from comfyskill.server.download import ATTEMPTS
from model_host import ModelHost, safetensors


@pytest.fixture
def host() -> Iterator[ModelHost]:
    server = ModelHost()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "pause_before", lambda *_: 0.0)
    for variable in ("HF_TOKEN", "HF_API_TOKEN", "CIVITAI_API_TOKEN"):
        monkeypatch.delenv(variable, raising=False)


def wanted(host: ModelHost, folder: Path, name: str = "m.safetensors", **more: object) -> Wanted:
    return Wanted(f"{host.url}/{name}", folder / name, **more)


def allow(host: ModelHost, *more: str) -> AllowedHosts:
    return AllowedHosts([host.url, *more])


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_whole_with_its_hash(host: ModelHost, tmp_path: Path) -> None:
    body = host.files["/m.safetensors"] = safetensors(3_000_000)
    digest = hashlib.sha256(body).hexdigest()
    fetched = fetch(wanted(host, tmp_path, sha256=digest), allow(host))
    assert (tmp_path / "m.safetensors").read_bytes() == body
    assert fetched.sha256 == digest
    assert set(fetched.checked) == {"size", "sha256", "form"}
    assert left_over(tmp_path) == ["m.safetensors"]


def test_a_cut_connection_is_resumed_with_if_range(host: ModelHost, tmp_path: Path) -> None:
    body = host.files["/m.safetensors"] = safetensors(3_000_000)
    host.cut["/m.safetensors"] = [2_000_000]
    fetch(wanted(host, tmp_path), allow(host))
    first, second = host.asked("/m.safetensors")
    assert "range" not in first
    start = int(second["range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 2_000_000
    assert second["if-range"].startswith('"')
    assert (tmp_path / "m.safetensors").read_bytes() == body


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(host: ModelHost, tmp_path: Path) -> None:
    body = host.files["/m.safetensors"] = safetensors(3_000_000)
    host.cut["/m.safetensors"] = [2_500_000, *[0] * ATTEMPTS]
    with pytest.raises(SkillError) as caught:
        fetch(wanted(host, tmp_path), allow(host))
    assert caught.value.exit == cli.Exit.UNREACHABLE
    assert left_over(tmp_path) == ["m.safetensors.part", "m.safetensors.part.json"]
    host.cut.clear()
    fetched = fetch(wanted(host, tmp_path), allow(host))
    assert 0 < fetched.resumed_at <= 2_500_000
    assert (tmp_path / "m.safetensors").read_bytes() == body


def test_a_file_that_changed_meanwhile_starts_anew(host: ModelHost, tmp_path: Path) -> None:
    host.files["/m.safetensors"] = safetensors(3_000_000, seed=1)
    host.cut["/m.safetensors"] = [2_500_000, *[0] * ATTEMPTS]
    with pytest.raises(SkillError):
        fetch(wanted(host, tmp_path), allow(host))
    host.cut.clear()
    body = host.files["/m.safetensors"] = safetensors(3_000_000, seed=2)
    fetch(wanted(host, tmp_path), allow(host))
    assert (tmp_path / "m.safetensors").read_bytes() == body


@pytest.mark.parametrize("size", [3_000_000, 3_500_000])
def test_halves_of_two_files_are_never_put_together(host: ModelHost, tmp_path: Path, size: int) -> None:
    host.heeds_if_range = False
    host.files["/m.safetensors"] = safetensors(3_000_000, seed=1)
    host.cut["/m.safetensors"] = [2_500_000, *[0] * ATTEMPTS]
    with pytest.raises(SkillError):
        fetch(wanted(host, tmp_path), allow(host))
    host.cut.clear()
    body = host.files["/m.safetensors"] = safetensors(size, seed=2)
    fetch(wanted(host, tmp_path), allow(host))
    assert (tmp_path / "m.safetensors").read_bytes() == body


def test_without_a_validator_a_cut_download_starts_anew_and_gives_up_in_the_end(
    host: ModelHost, tmp_path: Path
) -> None:
    host.files["/m.safetensors"] = safetensors(3_000_000)
    host.etags["/m.safetensors"] = None
    host.cut["/m.safetensors"] = [2_000_000] * 50
    with pytest.raises(SkillError) as caught:
        fetch(wanted(host, tmp_path), allow(host))
    assert caught.value.code == "unreachable"
    assert len(host.seen) <= ATTEMPTS + 1
    assert all("range" not in headers for _, _, headers in host.seen)


def test_a_wrong_hash_leaves_nothing_behind(host: ModelHost, tmp_path: Path) -> None:
    host.files["/m.safetensors"] = safetensors()
    with pytest.raises(SkillError) as caught:
        fetch(wanted(host, tmp_path, sha256="0" * 64), allow(host))
    assert caught.value.code == "corrupt"
    assert left_over(tmp_path) == []


def test_the_hash_that_the_host_states_is_checked_too(host: ModelHost, tmp_path: Path) -> None:
    host.files["/blob"] = safetensors()
    host.redirects["/m.safetensors"] = ("/blob", {"X-Linked-Etag": f'"{"a" * 64}"'})
    with pytest.raises(SkillError) as caught:
        fetch(wanted(host, tmp_path), allow(host))
    assert "SHA-256" in caught.value.message
    right = hashlib.sha256(host.files["/blob"]).hexdigest()
    host.redirects["/m.safetensors"] = ("/blob", {"X-Linked-Etag": f'"{right}"'})
    assert "sha256" in fetch(wanted(host, tmp_path), allow(host)).checked


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"<!DOCTYPE html><html>login</html>" * 50, "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:x\nsize 3\n", "LFS"),
        (safetensors()[:-10], "outside the file"),
        (safetensors() + b"more", "more bytes"),
        ((5000).to_bytes(8, "little") + b"{" + b" " * 4000, "ends inside its header"),
        (b"\xff" * 400, "does not begin"),
        (b"", "empty"),
    ],
)
def test_what_is_no_safetensors_file_is_not_kept(
    host: ModelHost, tmp_path: Path, body: bytes, word: str
) -> None:
    host.files["/m.safetensors"] = body
    with pytest.raises(SkillError) as caught:
        fetch(wanted(host, tmp_path), allow(host))
    assert caught.value.code == "corrupt"
    assert word in caught.value.message
    assert left_over(tmp_path) == []


def test_a_page_is_refused_by_its_type(host: ModelHost, tmp_path: Path) -> None:
    host.files["/m.safetensors"] = safetensors()
    host.kinds["/m.safetensors"] = "text/html; charset=utf-8"
    with pytest.raises(SkillError) as caught:
        fetch(wanted(host, tmp_path), allow(host))
    assert caught.value.code == "not_a_file"


@pytest.mark.parametrize("status", [401, 403])
def test_a_gate_is_explained_and_not_retried(host: ModelHost, tmp_path: Path, status: int) -> None:
    host.status["/m.safetensors"] = status
    with pytest.raises(SkillError) as caught:
        fetch(wanted(host, tmp_path), allow(host))
    assert caught.value.exit == cli.Exit.REFUSED
    assert len(host.seen) == 1
    assert left_over(tmp_path) == []


def test_the_gate_of_huggingface_names_page_and_variable() -> None:
    error = download._gate("https://huggingface.co/org/model/resolve/main/x.safetensors", 401)
    assert error.details["page"] == "https://huggingface.co/org/model"
    assert error.hint and "HF_TOKEN" in error.hint


def test_a_missing_file_is_not_retried(host: ModelHost, tmp_path: Path) -> None:
    with pytest.raises(SkillError) as caught:
        fetch(wanted(host, tmp_path), allow(host))
    assert caught.value.code == "not_found"
    assert len(host.seen) == 1


def test_a_file_that_is_there_is_never_replaced(host: ModelHost, tmp_path: Path) -> None:
    host.files["/m.safetensors"] = safetensors()
    (tmp_path / "m.safetensors").write_bytes(b"mine")
    with pytest.raises(SkillError) as caught:
        fetch(wanted(host, tmp_path), allow(host))
    assert caught.value.code == "already_there"
    assert (tmp_path / "m.safetensors").read_bytes() == b"mine"
    assert host.seen == []


@pytest.mark.parametrize("name", ["m.pt", "m.PTH", "m.py", "m.joblib", "m"])
def test_what_may_run_code_wants_consent(host: ModelHost, tmp_path: Path, name: str) -> None:
    host.files[f"/{name}"] = b"PK\x03\x04" + b"\0" * 100
    with pytest.raises(SkillError) as caught:
        fetch(wanted(host, tmp_path, name), allow(host))
    assert caught.value.exit == cli.Exit.UNSAFE
    assert "--allow-pickle" in (caught.value.hint or "")
    assert fetch(wanted(host, tmp_path, name, allow_pickle=True), allow(host)).bytes == 104


def test_a_full_disk_is_seen_before_the_download(
    host: ModelHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.files["/m.safetensors"] = safetensors(3_000_000)
    monkeypatch.setattr(file_limits.shutil, "disk_usage", lambda _: _Disk())
    with pytest.raises(SkillError) as caught:
        fetch(wanted(host, tmp_path), allow(host))
    assert caught.value.code == "disk_full"
    assert left_over(tmp_path) == []


class _Disk:
    free = 1_000_000


def test_a_redirect_to_another_host_is_refused(host: ModelHost, tmp_path: Path) -> None:
    other = ModelHost()
    try:
        other.files["/x"] = safetensors()
        host.redirects["/m.safetensors"] = (f"{other.url}/x", {})
        with pytest.raises(SkillError) as caught:
            fetch(wanted(host, tmp_path), allow(host))
        assert caught.value.code == "unsafe_redirect"
        assert other.seen == []
        assert fetch(wanted(host, tmp_path), allow(host, other.url)).bytes > 0
    finally:
        other.stop()


def test_a_second_process_does_not_write_into_the_same_part(host: ModelHost, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    host.files["/m.safetensors"] = safetensors()
    with (tmp_path / "m.safetensors.part").open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(SkillError) as caught:
            fetch(wanted(host, tmp_path), allow(host))
    assert caught.value.code == "busy"


def test_a_look_gives_size_hash_and_gate(host: ModelHost) -> None:
    host.files["/m"] = b"x" * 123
    host.redirects["/l"] = ("/m", {"X-Linked-Etag": f'"{"b" * 64}"', "X-Linked-Size": "999"})
    host.status["/g"] = 403
    assert download.look(f"{host.url}/m", allow(host)).bytes == 123
    assert download.look(f"{host.url}/l", allow(host)).sha256 == "b" * 64
    assert download.look(f"{host.url}/g", allow(host)).gate
    assert download.look(f"{host.url}/none", allow(host)).problem
    assert download.look("http://127.0.0.1:9/x", AllowedHosts()).problem


# --- which addresses


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/a/b/resolve/main/x.safetensors",
        "https://civitai.com/api/download/models/1",
        "https://github.com/a/b/releases/download/v1/x.pth",
    ],
)
def test_known_hosts_are_allowed(url: str) -> None:
    assert AllowedHosts().refusal(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://huggingface.co/a",
        "https://huggingface.co:8443/a",
        "https://huggingface.co.evil.example/a",
        "https://evil-huggingface.co/a",
        "https://user:pass@huggingface.co/a",
        "https://github.com/a/b/raw/main/x.pth",
        "https://raw.githubusercontent.com/a/b/x.pth",
        "file:///etc/passwd",
        "ftp://huggingface.co/a",
        "https://169.254.169.254/latest",
        "http://127.0.0.1:8188/view",
        "https://[::1]/x",
        "https://huggingface.co:99999/a",
        "https://evil.example\\@huggingface.co/a",
        "https://huggingface.co\n.evil.example/a",
        "https://[::1",
        "https://hugging\u2100.co/a",
        "not an address",
    ],
)
def test_other_addresses_are_not(url: str) -> None:
    assert AllowedHosts().refusal(url) is not None


def test_an_origin_written_out_is_consent_for_exactly_that_origin() -> None:
    allowed = AllowedHosts(["http://127.0.0.1:9000"])
    assert allowed.refusal("http://127.0.0.1:9000/x") is None
    assert allowed.refusal("http://127.0.0.1:9001/x") is not None
    assert allowed.refusal("https://127.0.0.1:9000/x") is not None


def test_a_name_alone_means_https_and_no_private_network() -> None:
    allowed = AllowedHosts(["localhost", "models.example"])
    assert allowed.refusal("http://models.example/x") is not None
    assert "private" in (allowed.refusal("https://localhost/x") or "")
    assert AllowedHosts(["models.example:8443"]).refusal("https://models.example/x") is not None


@pytest.mark.parametrize(
    "url",
    [
        "https://models.example/x.safetensors",
        "https://models.example:8443/x.safetensors",
        "http://huggingface.co/x.safetensors",
        "https://github.com/a/b/raw/main/x.safetensors",
        "https://127.0.0.1/x.safetensors",
        "https://[::1]:9000/x.safetensors",
        "https://user@models.example/x.safetensors",
    ],
)
def test_the_flag_that_is_named_really_consents(url: str) -> None:
    flag, value = download.flag_for(url).split(" ")
    assert flag == "--allow-host"
    assert AllowedHosts([value]).refusal(url) is None


@pytest.mark.parametrize("text", ["", "http://", "ftp://x", "a/b", "x?y", "http://u@h", "x:99999999"])
def test_a_bad_allow_host_is_misuse(text: str) -> None:
    with pytest.raises(SkillError) as caught:
        AllowedHosts([text])
    assert caught.value.exit == cli.Exit.MISUSE


@pytest.mark.parametrize(
    ("home", "target", "good"),
    [
        ("https://huggingface.co/a", "https://cas-bridge.xethub.hf.co/x?sig=1", True),
        ("https://huggingface.co/a", "https://us.aws.cdn.hf.co/x", True),
        ("https://huggingface.co/a", "https://cdn-lfs-us-1.huggingface.co/x", True),
        ("https://huggingface.co/a", "https://evilhf.co/x", False),
        ("https://huggingface.co/a", "http://cas-bridge.xethub.hf.co/x", False),
        ("https://huggingface.co/a", "https://cas-bridge.xethub.hf.co:8443/x", False),
        ("https://huggingface.co/a", "https://b2.civitai.com/x", False),
        ("https://civitai.com/a", "https://b2.civitai.com/x", True),
        (
            "https://civitai.com/a",
            "https://civitai-delivery-worker-prod.5ac0.r2.cloudflarestorage.com/x",
            True,
        ),
        ("https://civitai.com/a", "https://other.5ac0.r2.cloudflarestorage.com/x", False),
        (
            "https://github.com/a/b/releases/download/v/x",
            "https://release-assets.githubusercontent.com/x",
            True,
        ),
        ("https://github.com/a/b/releases/download/v/x", "https://raw.githubusercontent.com/x", False),
        ("https://huggingface.co/a", "https://127.0.0.1/x", False),
    ],
)
def test_redirects_stay_with_the_storage_of_their_host(home: str, target: str, good: bool) -> None:
    assert (AllowedHosts().redirect_refusal(home, target) is None) is good


def test_tokens_go_to_their_own_host_over_https_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")
    monkeypatch.setenv("CIVITAI_API_TOKEN", "civ_secret_value")
    assert download.token_for("https://huggingface.co/x") == "hf_secret_value"
    assert download.token_for("https://civitai.com/x") == "civ_secret_value"
    for url in (
        "http://huggingface.co/x",
        "https://huggingface.co:444/x",
        "https://cdn.hf.co/x",
        "https://evil.example/x",
    ):
        assert download.token_for(url) is None
    assert "hf_secret_value" not in safe_text.redact("a hf_secret_value b")


def test_a_token_is_not_on_requests_to_other_hosts(
    host: ModelHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")
    host.files["/m.safetensors"] = safetensors()
    fetch(wanted(host, tmp_path), allow(host))
    assert all("authorization" not in headers for _, _, headers in host.seen)


def test_the_token_is_put_on_its_own_host_and_taken_off_at_its_storage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import requests

    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")
    session = download.session_for("https://huggingface.co/a/b", AllowedHosts())
    first = session.prepare_request(requests.Request("GET", "https://huggingface.co/a/b"))
    assert first.headers["Authorization"] == "Bearer hf_secret_value"
    moved, _ = session._redirected(first, str(first.url), "https://cas-bridge.xethub.hf.co/x", {})
    assert "Authorization" not in moved.headers
    back, _ = session._redirected(moved, str(moved.url), "https://huggingface.co/c", {})
    assert back.headers["Authorization"] == "Bearer hf_secret_value"


def test_an_address_is_shown_without_its_signature() -> None:
    assert download.shown("https://u:p@h.example/a/b?X-Amz-Signature=abc") == "https://h.example/a/b"


# --- what a file is


def test_a_good_header_with_metadata_and_two_tensors(tmp_path: Path) -> None:
    import json

    tensors = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
        "b": {"dtype": "U8", "shape": [2], "data_offsets": [4, 6]},
    }
    header = json.dumps(tensors).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"123456")
    assert place.problem(path) is None


@pytest.mark.parametrize("name", ["a.gguf", "a.pth", "a.ckpt", "a.bin"])
def test_other_types_are_told_by_their_first_bytes(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"hello world, this is text")
    assert place.problem(path)
    path.write_bytes((b"GGUF" if name.endswith("gguf") else b"\x80\x02") + b"\0" * 40)
    assert place.problem(path) is None
