"""Credentials stay with their origin: real sockets, two origins, every kind of redirect."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

import _common
import graphs
from bundle import Demo, Runner
from comfyskill.server import session as server_session
from web_server import Web

KEY = "comfyui-canary-0123456789abcdef"
BEARER = "canary-bearer-9876543210fedcba"


def server_with_key(url: str) -> Any:
    from comfyskill.server.cloud import Cloud

    return Cloud(url, _common.Access({"Authorization": f"Bearer {BEARER}", "Cookie": "a=canary-cookie"}, KEY))


def named(server: Web) -> Web:
    """A server that the user has named: another one of this machine may point there."""
    _common.note_named(server.url)
    return server


def secrets_in(headers: dict[str, str]) -> bool:
    return any(word in json.dumps(headers) for word in (KEY, BEARER, "canary-cookie"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_port_gets_no_key_and_no_cookie(web: Any, status: int) -> None:
    comfy, storage = web(), named(web())
    comfy.redirect("/api/thing", f"{storage.url}/file", status)
    storage.json("/file", {"fine": True})
    assert server_with_key(comfy.url).get_json("thing") == {"fine": True}
    assert comfy.headers("/api/thing")["x-api-key"] == KEY
    assert comfy.headers("/api/thing")["authorization"] == f"Bearer {BEARER}"
    assert not secrets_in(storage.headers("/file"))


def test_a_redirect_to_another_name_of_the_same_machine_gets_no_key(web: Any) -> None:
    comfy = web()
    port = comfy.url.rsplit(":", 1)[1]
    comfy.redirect("/api/thing", f"http://localhost:{port}/other")
    comfy.json("/other", 1)
    server_with_key(comfy.url).get_json("thing")
    assert not secrets_in(comfy.headers("/other"))


def test_a_chain_that_comes_home_gets_the_key_only_at_home(web: Any) -> None:
    comfy, storage = web(), named(web())
    comfy.redirect("/api/thing", f"{storage.url}/away")
    storage.redirect("/away", f"{comfy.url}/back")
    comfy.json("/back", 1)
    server_with_key(comfy.url).get_json("thing")
    assert not secrets_in(storage.headers("/away"))
    assert comfy.headers("/back")["x-api-key"] == KEY


def test_a_signed_address_is_fetched_bare(web: Any, tmp_path: Path) -> None:
    from comfyskill.run import collect
    from comfyskill.server.protocol import FileRef

    comfy, storage = web(), named(web())
    comfy.redirect("/api/view", f"{storage.url}/signed?X-Goog-Date=now")
    storage.answers["/signed"] = (200, {"Content-Type": "image/png"}, b"\x89PNG whole")
    collector = collect.Collector(server_with_key(comfy.url), tmp_path)
    saved = collector.fetch(collect.OutputFile(FileRef("x.png"), "1", "images"))
    assert saved.path.read_bytes() == b"\x89PNG whole"
    assert comfy.headers("/api/view")["x-api-key"] == KEY
    assert not secrets_in(storage.headers("/signed"))


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("file:///etc/passwd", "unsafe_redirect"),
        ("ftp://127.0.0.1/x", "unsafe_redirect"),
        ("http://169.254.169.254/latest/meta-data", "unsafe_redirect"),
        ("/api/thing", "redirect_loop"),
    ],
)
def test_bad_redirects_are_refused(web: Any, target: str, code: str) -> None:
    from comfyskill.base.cli import SkillError

    comfy = web()
    comfy.redirect("/api/thing", target)
    with pytest.raises(SkillError) as raised:
        server_with_key(comfy.url).get_json("thing", attempts=1)
    assert raised.value.code == code


def test_a_post_follows_no_redirect(web: Any) -> None:
    from comfyskill.base.cli import SkillError

    comfy, other = web(), web()
    comfy.redirect("/api/queue", f"{other.url}/queue", 307)
    with pytest.raises(SkillError) as raised:
        server_with_key(comfy.url).post_json("queue", {"clear": True})
    assert raised.value.code == "moved"
    assert other.seen == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    path = folder / "server.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    command += [
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:0.0.0.0",
        "-keyout",
        folder / "key.pem",
        "-out",
        path,
    ]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    path.write_bytes(path.read_bytes() + (folder / "key.pem").read_bytes())
    return path


def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_https_does_not_fall_back_to_http_and_trusts_only_who_it_should(web: Any, certificate: Path) -> None:
    from comfyskill.base.cli import SkillError
    from comfyskill.server.cloud import Cloud

    secure, plain = web(context=tls(certificate)), web()
    secure.redirect("/api/thing", f"{plain.url}/file")
    plain.json("/file", 1)
    with pytest.raises(SkillError) as raised:
        Cloud(secure.url, _common.Access(key=KEY)).get_json("thing", attempts=1)
    assert raised.value.code == "unreachable" and "--ca-bundle" in (raised.value.hint or "")
    trusted = Cloud(secure.url, _common.Access(key=KEY, ca_bundle=str(certificate)))
    with pytest.raises(SkillError) as raised:
        trusted.get_json("thing", attempts=1)
    assert raised.value.code == "unsafe_redirect"
    assert plain.seen == []


def test_a_key_does_not_travel_over_plain_http(run: Runner, graph_file: Any) -> None:
    ran = run(
        "run_workflow.py", graph_file(graphs.picture()), "--host", "http://192.0.2.7:8188", "--api-key", KEY
    )
    assert ran.code == 7
    assert "--insecure" in ran.json["hint"]
    assert KEY not in ran.out + ran.err


@pytest.mark.skipif(os.name == "nt", reason="0.0.0.0 reaches this machine on POSIX alone")
@pytest.mark.parametrize("command", ["run_workflow.py", "run_batch.py --count 1"])
def test_a_partner_key_does_not_travel_over_plain_http(
    run: Runner, demo: Demo, graph_file: Any, command: str
) -> None:
    # For us this is another machine's address; it leads to the demo server all the same.
    away = demo.url.replace("127.0.0.1", "0.0.0.0")
    words = [*command.split(), graph_file(graphs.picture()), "--host", away, "--partner-key", KEY]
    ran = run(*words)
    assert (ran.code, ran.json["code"]) == (7, "consent_needed")
    assert KEY not in ran.out + ran.err + json.dumps(demo.log())
    assert run(*words, "--insecure").code == 0
    assert KEY in json.dumps(demo.log())


def test_the_cloud_key_of_the_environment_goes_to_no_other_server(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    ran = run(
        "run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, env={"COMFY_CLOUD_API_KEY": KEY}
    )
    assert ran.code == 0
    assert KEY not in json.dumps(demo.log())


def test_headers_go_to_http_socket_and_downloads_of_the_origin(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    ran = run(
        "run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--header", f"Authorization: Bearer {BEARER}",
        "--header", "CF-Access-Client-Id: someone",
    )  # fmt: skip
    assert ran.code == 0
    seen = {entry["path"]: entry["headers"] for entry in demo.log()}
    for path in ("/ws", "/prompt", "/view"):
        headers = {key.lower(): value for key, value in seen[path].items()}
        assert headers["authorization"] == f"Bearer {BEARER}"
        assert headers["cf-access-client-id"] == "someone"
    assert BEARER not in ran.out + ran.err


def test_a_proxy_for_other_machines_is_not_asked_for_this_one(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    for host in (demo.url, demo.url.replace("127.0.0.1", "localhost")):
        ran = run(
            "run_workflow.py", graph_file(graphs.picture()), "--host", host,
            env=nowhere | {"no_proxy": "elsewhere.example"},
        )  # fmt: skip
        assert ran.code == 0
        assert "polling" not in ran.err


def test_a_header_that_cannot_be_sent_is_misuse(run: Runner, graph_file: Any) -> None:
    header = "Authorization: Bearer \u201c" + BEARER + "\u201d"
    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", "127.0.0.1:9", "--header", header)
    assert (ran.code, ran.json["code"]) == (2, "misuse")
    assert "--header Authorization" in ran.json["message"]
    assert BEARER not in ran.out + ran.err


def test_a_login_of_the_users_own_beats_the_key_however_it_is_spelt(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    ran = run(
        "run_workflow.py", graph_file(graphs.picture()), "--host", demo.url, "--api-key", KEY,
        "--header", f"authorization: Bearer {BEARER}",
    )  # fmt: skip
    assert ran.code == 0
    seen = {name.lower(): value for name, value in demo.log()[-1]["headers"].items()}
    assert seen["authorization"] == f"Bearer {BEARER}"
    assert KEY not in json.dumps(demo.log())


def test_user_info_in_the_address_becomes_a_header_and_is_never_shown(
    run: Runner, demo: Demo, graph_file: Any
) -> None:
    host = demo.url.replace("http://", "http://me:pa55-canary@")
    ran = run(
        "run_workflow.py", graph_file(graphs.picture()), "--host", host, "--receipt", "--output-dir", "out"
    )
    assert ran.code == 0, ran.out
    headers = {
        key.lower(): value
        for entry in demo.log()
        if entry["path"] == "/prompt"
        for key, value in entry["headers"].items()
    }
    assert headers["authorization"].startswith("Basic ")
    files = "".join(path.read_text(errors="replace") for path in run.folder.rglob("*.json"))
    assert "pa55-canary" not in ran.out + ran.err + files
    assert headers["authorization"].split()[1] not in ran.out + ran.err + files


@pytest.mark.parametrize(
    "host", ["http://me:pa55-canary@127.0.0.1:9", "ftp://me:pa55-canary@x", "http://me:pa55-canary@"]
)
def test_a_password_does_not_show_in_failures(run: Runner, graph_file: Any, host: str) -> None:
    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", host)
    assert ran.code in (2, 3)
    assert "pa55-canary" not in ran.out + ran.err


def test_a_server_that_echoes_the_key_cannot_make_us_print_it(run: Runner, web: Any, graph_file: Any) -> None:
    comfy = web()
    comfy.answers["/features"] = (401, {}, f"bad key {KEY}".encode())
    comfy.answers["/system_stats"] = (401, {}, f"bad key {KEY}".encode())
    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", comfy.url, "--api-key", KEY)
    assert ran.code == 4
    assert KEY not in ran.out + ran.err


def test_a_key_file_is_read_and_a_bad_one_is_misuse(run: Runner, demo: Demo, graph_file: Any) -> None:
    (run.folder / "key.txt").write_text(KEY + "\n")
    workflow = graph_file(graphs.picture())
    ran = run("run_workflow.py", workflow, "--host", demo.url, "--api-key-file", "key.txt")
    assert ran.code == 0
    assert KEY in json.dumps(demo.log())
    (run.folder / "empty.txt").write_text("")
    assert run("run_workflow.py", workflow, "--host", demo.url, "--api-key-file", "empty.txt").code == 2
    assert run("run_workflow.py", workflow, "--host", demo.url, "--api-key-file", "nowhere").code == 2


@pytest.mark.parametrize(
    ("address", "privacy"),
    [("8.8.8.8", 0), ("10.0.0.1", 1), ("100.64.0.1", 1), ("::ffff:10.0.0.1", 1), ("::ffff:127.0.0.1", 2),
     ("::ffff:169.254.169.254", 3), ("fd00::1", 1), ("2606:4700:4700::1111", 0)],
)  # fmt: skip
def test_how_private_an_address_is(address: str, privacy: int) -> None:
    assert server_session.privacy_of(address) == privacy


# --- what a redirect may reach, judged by the address that is connected to
def test_a_redirect_to_another_port_of_this_machine_is_not_followed(run: Runner, web: Any) -> None:
    comfy, private = web(), web()
    comfy.redirect("/system_stats", f"{private.url}/private")
    private.json("/private", {"system": {}, "devices": []})
    ran = run("server_info.py", "stats", "--host", comfy.url, "--api", "local")
    assert (ran.code, ran.json["code"]) == (1, "unsafe_redirect")
    assert private.seen == []


def test_a_name_is_judged_again_when_it_is_connected_to(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is public when it is looked up and this machine when it is used."""
    from comfyskill.base.cli import SkillError

    comfy, private = web(), web()
    port = private.url.rpartition(":")[2]
    comfy.redirect("/api/thing", f"http://rebind.test:{port}/admin")
    private.json("/admin", 1)
    answers = iter(["8.8.8.8"])
    known = socket.getaddrinfo

    def play(host: Any, *words: Any, **options: Any) -> Any:
        return known(next(answers, "127.0.0.1") if host == "rebind.test" else host, *words, **options)

    monkeypatch.setattr(socket, "getaddrinfo", play)
    with pytest.raises(SkillError) as raised:
        server_with_key(comfy.url).get_json("thing", attempts=1)
    assert raised.value.code == "unsafe_redirect"
    assert next(answers, None) is None and private.seen == []


def test_the_host_of_a_model_is_judged_again_when_it_is_connected_to(
    web: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfyskill.deps import download

    private = web()
    port = int(private.url.rpartition(":")[2])
    allowed = download.AllowedHosts([f"models.test:{port}"])
    known = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *words, **options: known("127.0.0.1", *words, **options)
    )
    address = f"https://models.test:{port}/m.safetensors"
    with download.session_for(address, allowed) as session, pytest.raises(server_session.RefusedRedirect):
        session.get(address, timeout=(5, 5))


def test_a_public_name_that_becomes_this_machine_is_left() -> None:
    session = server_session.SecureSession("http://comfy.test:8188")
    session.admit("http://comfy.test:8188/a", 0)
    session.admit("http://comfy.test:8188/a", 1)  # a name may lead outside and into the house
    with pytest.raises(server_session.NotAdmitted):
        server_session.SecureSession("http://x.test").bare().admit("http://127.0.0.1/a", 2)
    session = server_session.SecureSession("http://comfy.test:8188")
    session.admit("http://comfy.test:8188/a", 0)
    with pytest.raises(server_session.NotAdmitted):
        session.admit("http://comfy.test:8188/a", 2)


def test_a_name_that_turns_into_the_house_opens_it_to_no_redirect() -> None:
    session = server_session.SecureSession("http://comfy.test:8188")
    for privacy in (0, 1):
        session.admit("http://comfy.test:8188/a", privacy)
        with pytest.raises(server_session.NotAdmitted):
            session.admit("http://192.168.1.1/router", 1)
    house = server_session.SecureSession("http://comfy.test:8188")
    house.admit("http://comfy.test:8188/a", 1)
    house.admit("http://192.168.1.1/storage", 1)


# --- what the environment may decide, and what not
LOGIN = "default login someone password canary-netrc-4711\n"


@pytest.mark.skipif(os.name == "nt", reason="0.0.0.0 reaches this machine on POSIX alone")
def test_a_login_of_netrc_is_not_sent_first_nor_on_a_redirect(
    web: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text(LOGIN)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    comfy = web("0.0.0.0")
    comfy.redirect("/api/thing", "/other")
    comfy.json("/other", 1)
    assert server_with_key(comfy.url).session.trust_env
    assert server_with_key(comfy.url).get_json("thing") == 1
    assert comfy.headers("/other")["authorization"] == f"Bearer {BEARER}"
    from comfyskill.server.local import Local

    comfy.redirect("/thing", "/other")
    assert Local(comfy.url).get_json("thing") == 1
    assert "Basic" not in json.dumps(comfy.seen)


def test_a_proxy_of_the_environment_is_used_for_another_machine(
    web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On redirects too. The proxy looks the name up, so its own address is not judged."""
    from comfyskill.server.local import Local

    proxy = web()
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    proxy.answers["http://far.test/thing"] = (302, {"Location": "http://farther.test/other"}, b"")
    proxy.json("http://farther.test/other", 1)
    assert Local("http://far.test").get_json("thing") == 1
    assert [path for _, path, _ in proxy.seen] == ["http://far.test/thing", "http://farther.test/other"]


@pytest.mark.skipif(os.name == "nt", reason="0.0.0.0 reaches this machine on POSIX alone")
def test_the_authority_of_the_flag_wins_over_that_of_the_environment(
    web: Any, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfyskill.base.cli import SkillError
    from comfyskill.server.local import Local

    other = tmp_path / "other.pem"
    name = ["-subj", "/CN=other", "-keyout", tmp_path / "key.pem", "-out", other]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name]
    subprocess.run(made, check=True, capture_output=True)
    comfy = web("0.0.0.0", tls(certificate))
    comfy.json("/thing", 1)
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        with monkeypatch.context() as patch:
            patch.delenv("REQUESTS_CA_BUNDLE", raising=False)
            patch.delenv("CURL_CA_BUNDLE", raising=False)
            patch.setenv(variable, str(certificate))
            with pytest.raises(SkillError) as raised:
                Local(comfy.url, _common.Access(ca_bundle=str(other))).get_json("thing", attempts=1)
            assert raised.value.code == "unreachable" and comfy.seen == []
            assert Local(comfy.url).get_json("thing") == 1
            patch.setenv(variable, str(other))
            assert Local(comfy.url, _common.Access(ca_bundle=str(certificate))).get_json("thing") == 1
            assert Local(comfy.url, _common.Access(insecure=True)).get_json("thing") == 1
        comfy.seen.clear()


# --- which names are this machine
@pytest.mark.parametrize("host", ["127.evil.example", "127.0.0.1.evil.example", "127.0.0.1.nip.example"])
@pytest.mark.parametrize("words", [("--api-key", KEY), ("--partner-key", KEY)])
def test_a_name_that_begins_like_this_machine_gets_no_key(
    run: Runner, web: Any, graph_file: Any, host: str, words: tuple[str, str]
) -> None:
    proxy = web()
    proxy.json(f"http://{host}:8188/features", {"supports_preview_metadata": True})
    ran = run(
        "run_workflow.py", graph_file(graphs.picture()), "--host", f"http://{host}:8188", *words,
        env={"http_proxy": proxy.url, "no_proxy": ""},
    )  # fmt: skip
    assert (ran.code, ran.json["code"]) == (7, "consent_needed"), ran.out
    assert KEY not in json.dumps(proxy.seen)


@pytest.mark.parametrize(
    "host", ["127.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1.", "0", "127.0.0.01"]
)
def test_a_number_that_programs_read_differently_is_misuse(run: Runner, graph_file: Any, host: str) -> None:
    ran = run("run_workflow.py", graph_file(graphs.picture()), "--host", f"http://{host}:9", "--api-key", KEY)
    assert (ran.code, ran.json["code"]) == (2, "misuse")
    assert ran.json["hint"] and KEY not in ran.out + ran.err
