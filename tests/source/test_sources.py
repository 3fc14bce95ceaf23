"""Where a workflow comes from: files with their accidents, standard input, media files, and a server."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from blueprint_files import IDENTITY, blueprint
from comfyskill.base import cli
from comfyskill.server.local import Local
from comfyskill.server.node_definitions import Definitions
from comfyskill.source import on_server, read
from editor_files import DEFINITIONS as CORE

HERE = Path(__file__).parent.parent
SCRIPTS = HERE.parent / "scripts"

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "ä"}},
}
EDITOR = {
    "id": "e1",
    "last_node_id": 2,
    "last_link_id": 1,
    "nodes": [
        {"id": 1, "type": "EmptyImage", "mode": 0, "inputs": [], "widgets_values": [64, 64, 1, 255],
         "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
         "properties": {"models": [{"name": "m.safetensors", "directory": "vae", "url": "https://example.org/m"}]}},
        {"id": 2, "type": "SaveImage", "mode": 0, "outputs": [], "widgets_values": ["saved"],
         "inputs": [{"name": "images", "type": "IMAGE", "link": 1}]},
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    "version": 0.4,
}  # fmt: skip
_NUMBERS = {"width": 512, "height": 512, "batch_size": 1, "color": 0}
DEFINITIONS = json.loads((HERE / "data" / "workflows" / "object_info.json").read_text(encoding="utf-8")) | {
    "EmptyImage": {
        "input": {"required": {name: ["INT", {"default": value}] for name, value in _NUMBERS.items()}},
        "input_order": {"required": list(_NUMBERS)},
        "output": ["IMAGE"],
        "output_node": False,
        "name": "EmptyImage",
    }
}


def refusal(spec, **options):
    """The SkillError for a spec that gives no workflow; always exit 2 and one sentence with a hint or cause."""
    with pytest.raises(cli.SkillError) as caught:
        read.read(str(spec), **options)
    assert caught.value.exit == cli.Exit.MISUSE
    assert "\n" not in caught.value.message and len(caught.value.message) < 300
    return caught.value


def written(tmp_path, data, name="workflow.json"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def picture(tmp_path, name="picture.png", **texts):
    info = PngInfo()
    for key, value in texts.items():
        info.add_text(key, value if isinstance(value, str) else json.dumps(value))
    path = tmp_path / name
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


# Files


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_any_unicode_encoding_is_read(tmp_path, encoding):
    path = written(tmp_path, json.dumps(GRAPH, ensure_ascii=False).encode(encoding))

    source = read.read(str(path))

    assert source.graph == GRAPH and not source.converted and source.warnings == []
    assert source.origin == f"file {path}"


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"", "empty", "empty"),
        (b"  \n ", "not_json", "empty"),
        (b"[1, 2", "not_json", "ends in the middle"),
        (json.dumps(GRAPH).encode()[:-3], "not_json", "ends in the middle"),
        (b'{"1": {"class_type": "A', "not_json", "ends in the middle"),
        (b"<!DOCTYPE html><html></html>", "not_json", "web page"),
        (str(GRAPH).encode(), "not_json", "property name"),
        (b"{}\n{}", "not_json", "something follows"),
        (b'{"1": ' + b"9" * 5000 + b"}", "not_json", "digits"),
        (b"[" * 100_000, "not_json", "nested deeper"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "not_json", "nested deeper"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "not_json", "nested deeper"),
        (bytes(range(256)) * 4, "not_json", "binary"),
        (b"\xff\xfe\x00", "not_json", "not utf-16-le text"),
        (b'{"1": "\xe4"}', "not_json", "not utf-8 text"),
        (b"null", "not_a_workflow", "not a ComfyUI workflow"),
        (b'{"a": 1}', "not_a_workflow", "keys 'a'"),
    ],
)
def test_a_bad_file_is_one_clear_refusal(tmp_path, data, code, words):
    error = refusal(written(tmp_path, data))

    assert error.code == code
    assert words in error.message


def test_a_trailing_comma_is_named_with_its_line(tmp_path):
    error = refusal(written(tmp_path, '{\n"1": {"class_type": "A",\n}\n}'))

    assert "line 3" in error.message or "line 2" in error.message


def test_nan_is_read_as_null_and_said(tmp_path):
    text = (
        json.dumps(GRAPH).replace("255", "NaN").replace('"class_type"', '"is_changed": [NaN], "class_type"')
    )

    source = read.read(str(written(tmp_path, text)))

    assert source.graph["1"]["inputs"]["color"] is None
    assert any("3 NaN" in warning for warning in source.warnings)


@pytest.mark.skipif(os.name == "nt", reason="no /dev/null")
def test_an_empty_file_that_is_no_plain_file_is_named():
    assert refusal("/dev/null").message == "file /dev/null is empty"


def test_a_number_beyond_a_double_is_read_as_null_and_said(tmp_path):
    source = read.read(str(written(tmp_path, json.dumps(GRAPH).replace("255", "1e400"))))

    assert source.graph["1"]["inputs"]["color"] is None
    assert any("1 NaN or infinite" in warning for warning in source.warnings)


def test_a_key_that_stands_twice_is_said(tmp_path):
    path = written(
        tmp_path, '{"1": {"class_type": "A", "inputs": {}}, "1": {"class_type": "B", "inputs": {}}}'
    )

    source = read.read(str(path))

    assert source.graph["1"]["class_type"] == "B"
    assert any("'1'" in warning and "twice" in warning for warning in source.warnings)


def test_a_huge_file_is_refused_without_being_read(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_JSON", 1000)
    path = written(tmp_path, json.dumps(GRAPH) + " " * 1000)

    assert refusal(path).code == "too_large"
    assert refusal("-", stdin=io.BytesIO(path.read_bytes())).code == "too_large"


def test_a_folder_is_named_as_such_with_its_files(tmp_path):
    written(tmp_path, "{}", "one.json")

    error = refusal(tmp_path)

    assert error.code == "is_folder" and "one.json" in error.hint


def test_a_missing_file_suggests_its_neighbours_and_the_bundle(tmp_path):
    written(tmp_path, "{}", "portrait.json")

    assert "portrait.json" in refusal(tmp_path / "potrait.json").hint
    assert str(read.BUNDLED / "sdxl_txt2img.json") in refusal(tmp_path / "sdxl_txt2img").hint
    assert "no folder" in refusal(tmp_path / "none" / "x.json").hint
    assert refusal("with\0null.json").code == "no_such_file"


def test_an_address_and_pasted_json_are_explained():
    assert "download" in refusal("https://example.org/w.json").hint
    assert "-" in refusal('{"1": {}}').hint


@pytest.mark.skipif(
    os.name == "nt" or os.geteuid() == 0, reason="needs file modes, and a user who obeys them"
)
def test_a_file_that_may_not_be_read_is_named_as_such(tmp_path):
    path = written(tmp_path, "{}")
    path.chmod(0)

    assert refusal(path).code == "not_readable"


# Standard input


def test_standard_input_takes_json_and_pictures(tmp_path):
    assert read.read("-", stdin=io.BytesIO(json.dumps({"prompt": GRAPH}).encode())).graph == GRAPH

    source = read.read("-", stdin=io.BytesIO(picture(tmp_path, prompt=GRAPH).read_bytes()))

    assert source.graph == GRAPH and source.origin == "PNG picture from standard input"


def test_empty_standard_input_is_refused():
    assert refusal("-", stdin=io.BytesIO(b"")).code == "empty"


@pytest.mark.skipif(os.name == "nt", reason="named pipes are a POSIX thing")
def test_a_pipe_is_read_once(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(json.dumps(GRAPH).encode()))
    writer.start()

    assert read.read(str(pipe)).graph == GRAPH
    writer.join()


def test_the_real_standard_input_is_the_default(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import json; from comfyskill.source import read; print(json.dumps(read.read('-').graph))"],
        input=json.dumps(GRAPH).encode(), capture_output=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
    )  # fmt: skip

    assert json.loads(done.stdout) == GRAPH, done.stderr


# Pictures


def test_a_picture_gives_its_graph_and_keeps_the_editor_file(tmp_path):
    source = read.read(str(picture(tmp_path, prompt=GRAPH, workflow=EDITOR)))

    assert source.graph == GRAPH
    assert source.editor == EDITOR
    assert not source.converted
    assert source.models == [{"name": "m.safetensors", "directory": "vae", "url": "https://example.org/m"}]
    assert source.kind == "PNG picture"


def test_a_picture_with_an_editor_file_alone_is_converted(tmp_path):
    source = read.read(
        str(picture(tmp_path, workflow=EDITOR)), definitions=lambda: Definitions("server", DEFINITIONS)
    )

    assert source.converted and source.editor == EDITOR
    assert source.graph["2"]["inputs"] == {"images": ["1", 0], "filename_prefix": "saved"}


def test_a_damaged_graph_falls_back_to_the_editor_file(tmp_path):
    path = picture(tmp_path, prompt="{broken", workflow=EDITOR)

    source = read.read(str(path), definitions=lambda: Definitions("server", DEFINITIONS))

    assert source.converted and source.graph["1"]["class_type"] == "EmptyImage"
    assert any("the prompt in PNG picture" in warning for warning in source.warnings)


def test_definitions_are_not_asked_for_when_nothing_is_converted(tmp_path):
    def forbidden():
        raise AssertionError("asked for definitions")

    assert (
        read.read(str(picture(tmp_path, prompt=GRAPH, workflow=EDITOR)), definitions=forbidden).graph == GRAPH
    )


@pytest.mark.parametrize(
    ("texts", "hint"),
    [
        ({}, "removed it"),
        ({"parameters": "a fox\nSteps: 20, Sampler: Euler"}, "another program"),
        ({"prompt": "not json"}, "not valid JSON"),
    ],
)
def test_a_picture_without_a_graph_says_why(tmp_path, texts, hint):
    error = refusal(picture(tmp_path, **texts))

    assert error.code == "no_workflow_inside" and hint in error.hint


@pytest.mark.parametrize(
    ("name", "head"), [("a.gif", b"GIF89a"), ("a.zip", b"PK\x03\x04"), ("a.avif", b"\0\0\0\x1cftypavif")]
)
def test_files_that_cannot_carry_a_workflow_are_named(tmp_path, name, head):
    error = refusal(written(tmp_path, head + bytes(50), name))

    assert error.code == "no_workflow_inside" and name in error.message


# Editor files


def test_an_editor_file_is_converted_with_definitions(tmp_path):
    source = read.read(
        str(written(tmp_path, json.dumps(EDITOR))), definitions=lambda: Definitions("server", DEFINITIONS)
    )

    assert source.converted
    assert source.graph["1"]["inputs"]["color"] == 255
    assert [model["name"] for model in source.models] == ["m.safetensors"]


def test_a_type_that_the_server_lacks_is_reported_not_hidden(tmp_path):
    editor = json.loads(json.dumps(EDITOR).replace("EmptyImage", "NobodyHasThis"))

    source = read.read(
        str(written(tmp_path, json.dumps(editor))), definitions=lambda: Definitions("server", DEFINITIONS)
    )

    assert "NobodyHasThis" in json.dumps(source.missing_types)


def test_load_stops_before_converting(tmp_path):
    loaded = read.load(str(written(tmp_path, json.dumps(EDITOR))))

    assert loaded.graph is None and loaded.editor == EDITOR


def test_models_are_found_in_subgraphs_and_named_once():
    node = EDITOR["nodes"][0]
    editor = EDITOR | {
        "definitions": {"subgraphs": [{"nodes": [node, {"properties": {"models": "bad"}}, None]}]}
    }

    assert len(list(read.declared_models(editor))) == 1


# Servers

PAGES = {
    "/templates/index.json": [{"templates": [{"name": "fox one"}, {"name": "flux_dev"}]}, "stray"],
    "/workflow_templates": {"pack": ["first"]},
    "/templates/fox%20one.json": EDITOR,
    "/workflow_templates/pack/first.json": GRAPH,
    "/api/workflow_templates/pack/first.json": GRAPH,
    "/userdata?dir=workflows&recurse=true": ["mine.json", "deep/er.json", "notes.txt"],
    "/userdata/workflows%2Fdeep%2Fer.json": GRAPH,
    "/global_subgraphs": {
        IDENTITY: {"source": "templates", "name": "Blend pictures", "info": {"node_pack": "comfyui"}},
        "a1": {"source": "custom_node", "name": "Twice", "info": {"node_pack": "custom_nodes.one"}},
        "b2": {"source": "custom_node", "name": "Twice", "info": {"node_pack": "custom_nodes.two"}},
    },
    f"/global_subgraphs/{IDENTITY}": {"name": "Blend pictures", "data": json.dumps(blueprint())},
    "/global_subgraphs/b2": {"name": "Twice", "data": json.dumps(blueprint())},
}


@contextmanager
def pages(content):
    """A server that answers these paths, and 404 for others; yields it and the paths it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = content.get(self.path, content.get(self.path.removeprefix("/api")))
            self.send_response(404 if body is None else 200)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield Local(f"http://127.0.0.1:{server.server_port}"), asked
    finally:
        server.shutdown()
        server.server_close()


def test_every_prefix_has_its_kind():
    assert set(read.ON_SERVER) == set(on_server.KINDS)


@pytest.mark.parametrize("spec", ["template:fox one", "template:fox one.json"])
def test_a_template_is_fetched_and_converted(spec):
    with pages(PAGES) as (server, asked):
        source = read.read(spec, server=server, definitions=lambda: Definitions("server", DEFINITIONS))

    assert source.converted and source.editor == EDITOR
    assert source.origin.startswith("template fox one") and server.url in source.origin
    assert asked == ["/templates/fox%20one.json"]


def test_a_template_of_a_node_pack_and_a_saved_workflow_are_fetched():
    with pages(PAGES) as (server, _):
        assert read.read("template:pack/first", server=server).graph == GRAPH
        assert read.read("server:deep/er", server=server).graph == GRAPH
        assert on_server.template_names(server) == ["fox one", "flux_dev", "pack/first"]
        assert on_server.saved_names(server) == ["mine", "deep/er"]


@pytest.mark.parametrize(
    "spec",
    ["subgraph:Blend pictures", "subgraph:blend Pictures", f"subgraph:{IDENTITY}", "subgraph:two/Twice"],
)
def test_a_blueprint_is_fetched_completed_and_converted(spec):
    with pages(PAGES) as (server, asked):
        source = read.read(spec, server=server, definitions=lambda: Definitions("server", CORE))

    assert source.converted and any("SaveImage" in warning for warning in source.warnings)
    assert {"LoadImage", "SaveImage"} <= {node["class_type"] for node in source.graph.values()}
    assert asked[0] == "/global_subgraphs" and len(asked) == 2


def test_a_name_that_two_packs_use_is_ambiguous():
    with pages(PAGES) as (server, asked):
        error = refusal("subgraph:Twice", server=server)

    assert error.code == "ambiguous" and "subgraph:two/Twice" in error.hint
    assert asked == ["/global_subgraphs"]


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("template:flux_dv", "template:flux_dev"),
        ("server:mime", "server:mine"),
        ("server:zzzz", "it offers 2"),
        ("subgraph:Blend picture", "subgraph:Blend pictures"),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(spec, hint):
    with pages(PAGES) as (server, _):
        error = refusal(spec, server=server)

    assert error.code == "no_such_workflow" and hint in error.hint


@pytest.mark.parametrize(
    "spec", ["template:../secret", "server:a/../../b", "template:", "server:..\\x", "server:/"]
)
def test_a_name_cannot_leave_its_folder(spec):
    with pages(PAGES) as (server, asked):
        refusal(spec, server=server)

    assert asked == []


def test_an_answer_that_is_no_json_is_refused():
    with pages({"/templates/a.json": b"<html>login</html>"}) as (server, _):
        assert "web page" in refusal("template:a", server=server).message


def test_an_answer_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(on_server, "MAX_ANSWER", 10_000)
    with pages({"/templates/a.json": b"[" + b" " * 3_000_000}) as (server, _):
        assert refusal("template:a", server=server).code == "too_large"


def test_an_unreachable_server_stays_an_unreachable_server():
    with pytest.raises(cli.SkillError) as caught:
        read.read("template:a", server=Local("http://127.0.0.1:9"))

    assert caught.value.exit == cli.Exit.UNREACHABLE


def test_a_template_without_a_server_is_misuse():
    assert "--host" in refusal("template:a").hint


def test_a_type_that_incomplete_definitions_lack_is_refused_with_the_origin(tmp_path):
    path = written(tmp_path, json.dumps(EDITOR).replace("EmptyImage", "NobodyHasThis"))

    with pytest.raises(cli.SkillError, match="NobodyHasThis") as caught:
        read.read(str(path), definitions=lambda: Definitions("bundled", DEFINITIONS, complete=False))

    assert caught.value.code == "cannot_convert" and caught.value.details["origin"] == f"file {path}"
