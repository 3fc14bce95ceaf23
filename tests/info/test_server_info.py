"""server_info.py against the demo server, and against a real one when it is named."""

from __future__ import annotations

import json

import pytest
from PIL import Image


@pytest.fixture
def ask(run, any_server):
    def call(*words, exit_code=0):
        ran = run("server_info.py", *words, "--host", any_server)
        assert ran.code == exit_code, ran.out + ran.err
        return ran.json

    return call


@pytest.fixture
def ask_demo(run, demo):
    def call(*words, exit_code=0):
        ran = run("server_info.py", *words, "--host", demo.url)
        assert ran.code == exit_code, ran.out + ran.err
        return ran.json

    return call


def picture(path, color=(200, 30, 30), size=(20, 10), mode="RGB"):
    Image.new(mode, size, color).save(path)
    return path


def test_stats(ask):
    told = ask("stats")
    assert told["comfyui_version"]
    assert told["devices"][0]["type"]
    assert set(told["queue"]) == {"running", "pending"}
    assert "server_said" not in told
    assert "argv" in ask("stats", "--full")["server_said"]["system"]


def test_features_are_found_out_by_asking(ask):
    told = ask("features")
    assert told["own_prompt_ids"] is True
    assert told["websocket"] is True
    assert told["preview_metadata"] is True
    assert told["max_upload_mb"] == pytest.approx(100)
    assert told["paths"]["submit"].startswith("POST /prompt")


LACKS = ("status:route=/jobs*,code=404,body=empty", "status:route=/global_subgraphs,code=404,body=empty")


@pytest.mark.parametrize(
    ("version", "faults", "jobs", "cancel"),
    [("0.33", (), True, "native"), ("0.8", (), True, "delete from"), ("0.8", LACKS, False, "delete from")],
)
def test_an_older_server_has_no_jobs_api(run, new_demo, version, faults, jobs, cancel):
    demo = new_demo("--version", version)
    demo.fault(*faults)
    told = run("server_info.py", "features", "--host", demo.url).json
    assert told["jobs_api"] is jobs
    assert told["subgraphs"] is jobs
    assert told["cancel_by_id"].startswith(cancel)


def test_what_an_older_server_lacks_is_said_plainly(run, demo):
    demo.fault(*LACKS)
    ran = run("server_info.py", "subgraphs", "--host", demo.url)
    assert (ran.code, ran.json["code"]) == (1, "not_offered")
    assert "does not offer subgraph blueprints" in ran.json["message"]


def test_nodes_are_found_by_words_category_output_and_input(ask):
    everything = ask("nodes")
    assert everything["count"] == everything["classes"] > len(everything["items"])
    assert everything["more"] == everything["count"] - len(everything["items"])
    found = ask("nodes", "--search", "ksampler")
    assert found["items"][0]["class"] == "KSampler"
    assert all("LATENT" in row["outputs"] for row in ask("nodes", "--output", "latent", "--full")["items"])
    loaders = ask("nodes", "--category", "loaders", "--full")
    assert {"CheckpointLoaderSimple", "VAELoader"} <= {row["class"] for row in loaders["items"]}
    savers = [
        row["class"] for row in ask("nodes", "--input", "IMAGE", "--search", "save image", "--full")["items"]
    ]
    assert "SaveImage" in savers
    assert ask("nodes", "--search", "zzqx")["items"] == []


def test_a_node_in_detail(ask):
    inputs = ask("node", "KSampler")["node"]["inputs"]["required"]
    assert inputs["model"]["type"] == "MODEL"
    assert (inputs["steps"]["type"], inputs["steps"]["min"], inputs["steps"]["max"]) == ("INT", 1, 10000)
    assert inputs["seed"]["max"] == 18446744073709551615
    assert "euler" in inputs["sampler_name"]["choices"]
    assert len(inputs["sampler_name"]["choices"]) == inputs["sampler_name"]["choices_count"] == 44
    assert "uni_pc" in inputs["sampler_name"]["choices"] and "choices_hint" not in inputs["sampler_name"]


def test_a_list_of_hundreds_is_cut_and_names_the_flag_for_the_rest(run, new_demo, tmp_path):
    models = tmp_path / "models.json"
    models.write_text(json.dumps({"checkpoints": [f"model_{n}.safetensors" for n in range(120)]}))
    server = new_demo("--models", str(models))

    def choices(*words):
        ran = run("server_info.py", "node", "CheckpointLoaderSimple", "--host", server.url, *words)
        return ran.json["node"]["inputs"]["required"]["ckpt_name"]

    cut = choices()
    assert (len(cut["choices"]), cut["choices_count"], cut["choices_hint"]) == (
        20,
        120,
        "--full shows the rest",
    )
    assert len(choices("--full")["choices"]) == 120


def test_a_misspelt_node_gets_the_nearest_name(ask):
    told = ask("node", "ksampler", exit_code=1)
    assert told["code"] == "no_such_node"
    assert told["hint"] == "did you mean KSampler?"


def test_models_by_folder(ask):
    folders = ask("models")["folders"]
    assert folders["checkpoints"] >= 1
    assert not {"custom_nodes", "configs"} & folders.keys()
    listed = ask("models", "checkpoints", "--full")
    assert listed["count"] == len(listed["items"]) == folders["checkpoints"]
    told = ask("models", "nope", exit_code=1)
    assert told["code"] == "folder_not_found"
    assert "checkpoints" in told["hint"]


def test_a_model_is_looked_for_in_all_folders(run, new_demo):
    demo = new_demo("--models", "loras=style/red fox.safetensors", "--models", "vae=fox.vae.safetensors")
    told = run("server_info.py", "models", "--search", "fox", "--host", demo.url).json
    assert sorted(told["found"]["items"]) == ["loras/style/red fox.safetensors", "vae/fox.vae.safetensors"]


def test_long_lists_are_short_with_true_counts(run, new_demo):
    lists = run.folder / "lists.json"
    lists.write_text(json.dumps({"loras": [f"lora{n}.safetensors" for n in range(70)]}))
    demo = new_demo("--models", str(lists))
    told = run("server_info.py", "models", "loras", "--host", demo.url).json
    assert (told["count"], len(told["items"]), told["more"]) == (70, 50, 20)
    assert len(run("server_info.py", "models", "loras", "--full", "--host", demo.url).json["items"]) == 70


def test_saved_workflows_are_listed_or_a_user_is_asked_for(run, any_server):
    told = run("server_info.py", "workflows", "--host", any_server)
    assert told.code == 0 or (told.code, told.json["reason"]) == (4, "comfy_user")


@pytest.mark.parametrize("question", ["embeddings", "extensions", "templates", "subgraphs"])
def test_lists(ask, question):
    told = ask(question)
    assert told["status"] == "ok"
    assert told["count"] >= len(told["items"])


def test_a_template_is_found_and_saved(ask, run):
    offered = ask("templates", "--full")["items"]
    if not offered:
        pytest.skip("this server has no templates")
    name = offered[0]["name"]
    assert ask("template", name)["nodes"] > 0
    target = run.folder / "template.json"
    told = ask("template", name, "--save", target)
    assert told["bytes"] == target.stat().st_size
    assert json.loads(target.read_text())
    assert ask("template", name, "--save", target, exit_code=2)["code"] == "file_exists"
    assert ask("template", name, "--save", target, "--overwrite")["file"] == str(target)


def test_templates_are_described_once_they_are_narrowed_down(ask):
    rows = ask("templates")["items"]
    if not rows:
        pytest.skip("this server has no templates")
    assert not any("server_description" in row for row in rows)
    described = [row for row in ask("templates", "--full")["items"] if "server_description" in row]
    assert described
    word = described[0]["name"]
    assert "server_description" in ask("templates", "--search", word)["items"][0]


def test_a_missing_template_is_told_with_near_names(ask):
    told = ask("template", "no such thing", exit_code=1)
    assert told["code"] == "no_such_workflow"


def test_a_workflow_saved_on_the_server(ask_demo, demo, run):
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}
    }
    demo.post("/userdata/workflows%2Fmine%2Ffirst.json", graph)
    assert ask_demo("workflows")["items"] == ["mine/first"]
    target = run.folder / "first.json"
    assert ask_demo("workflow", "mine/first", "--save", target)["format"] == "api"
    assert json.loads(target.read_text()) == graph


def test_upload_and_download(ask, run):
    sent = picture(run.folder / "é sent.png")
    told = ask("upload", sent, "--subfolder", "pytest", "--overwrite")
    row = told["uploaded"][0]
    assert (row["name"], row["subfolder"], row["value"]) == ("é sent.png", "pytest", "pytest/é sent.png")
    out = run.folder / "out"
    got = ask("download", "é sent.png", "--type", "input", "--subfolder", "pytest", "--output-dir", out)
    assert (out / "é sent.png").read_bytes() == sent.read_bytes()
    assert got["bytes"] == sent.stat().st_size


def test_all_files_are_looked_at_before_the_first_is_sent(ask_demo, demo, run):
    sent = picture(run.folder / "a.png")
    told = ask_demo("upload", sent, run.folder / "missing.png", exit_code=2)
    assert "nothing was sent" in told["hint"]
    assert not [entry for entry in demo.log() if entry["path"].startswith("/upload")]


def test_a_mask_needs_its_picture_on_the_server(ask, run):
    mask = picture(run.folder / "mask.png", (0, 0, 0, 128), mode="RGBA")
    assert ask("upload", mask, "--mask", exit_code=2)
    told = ask("upload", mask, "--mask", "--original", "pytest_no_such.png [input]", exit_code=1)
    assert told["code"] == "no_such_file"
    photo = picture(run.folder / "pytest_photo.png")
    ask("upload", photo, "--overwrite")
    told = ask("upload", mask, "--mask", "--original", "pytest_photo.png [input]", "--overwrite")
    out = run.folder / "out"
    ask("download", told["uploaded"][0]["name"], "--type", "input", "--output-dir", out)
    with Image.open(out / told["uploaded"][0]["name"]) as image:
        assert image.mode == "RGBA"
        assert image.getextrema()[3] == (128, 128)


def test_a_missing_file_leaves_nothing_behind(ask, run):
    told = ask("download", "no_such_file.png", "--output-dir", run.folder / "out", exit_code=1)
    assert told["code"] == "no_such_file"
    assert not (run.folder / "out").exists()


def test_a_cut_download_leaves_nothing_behind(ask_demo, demo, run):
    ask_demo("upload", picture(run.folder / "cut.png", size=(400, 400)))
    demo.fault({"name": "truncate", "route": "/view", "share": "0.5", "times": 99})
    out = run.folder / "out"
    told = ask_demo("download", "cut.png", "--type", "input", "--output-dir", out, exit_code=1)
    assert told["code"] == "download_failed"
    assert not out.exists()


def test_hostile_names_stay_inside_the_folder(ask_demo, run):
    told = ask_demo("download", "../../etc/passwd", "--output-dir", run.folder / "out", exit_code=1)
    assert told["status"] == "error"
    assert not (run.folder.parent / "etc").exists()


def test_unreachable(run):
    ran = run("server_info.py", "stats", "--host", "http://127.0.0.1:9")
    assert (ran.code, ran.json["code"]) == (3, "unreachable")


def test_server_flags_may_stand_before_or_after_the_question(run, demo):
    for words in (["--host", demo.url, "stats"], ["stats", "--host", demo.url]):
        assert run("server_info.py", *words).json["host"] == demo.url
    before = run("server_info.py", "--host", demo.url, "--header", "X-Test: before", "stats")
    assert before.code == 0
    assert demo.log()[-1]["headers"].get("X-Test", demo.log()[-1]["headers"].get("x-test")) == "before"


@pytest.mark.parametrize("words", [[], ["nonsense"], ["node"], ["upload"], ["stats", "--nope"]])
def test_misuse(run, words):
    ran = run("server_info.py", *words)
    assert (ran.code, ran.json["code"]) == (2, "misuse")


@pytest.fixture
def cloud(new_demo):
    return new_demo("--cloud")


def test_the_cloud_answers_what_it_has(run, cloud):
    def ask(*words):
        ran = run("server_info.py", *words, "--host", cloud.url, "--api-key", "comfyui-demo-key")
        assert "comfyui-demo-key" not in ran.out + ran.err
        return ran

    features = ask("features").json
    assert (features["api"], features["own_prompt_ids"], features["cancel_by_id"]) == (
        "cloud",
        False,
        "native",
    )
    assert features["jobs_at_once"] == 1
    assert ask("stats").json["cloud_version"]
    assert ask("models", "checkpoints").json["count"] > 0
    assert ask("models").json["folders"]["diffusers"] == 0, "an empty folder is a 404 there, and still empty"
    assert ask("models", "diffusers").json["items"] == []
    assert ask("models", "nope").json["code"] == "folder_not_found"
    assert ask("node", "KSampler").json["node"]["inputs"]
    missing = ask("extensions")
    assert (missing.code, missing.json["code"]) == (1, "not_offered")
    assert missing.json["message"].startswith("Comfy Cloud does not offer")


def test_a_cloud_upload_gives_the_hashed_name_to_use(run, cloud):
    sent = picture(run.folder / "photo.png")
    words = ["--host", cloud.url, "--api-key", "comfyui-demo-key"]
    row = run("server_info.py", "upload", sent, *words).json["uploaded"][0]
    assert row["renamed"] is True
    assert row["value"] == row["name"] != "photo.png"
    out = run.folder / "out"
    got = run("server_info.py", "download", row["name"], "--type", "input", "--output-dir", out, *words)
    assert got.code == 0, got.out
    assert next(out.iterdir()).read_bytes() == sent.read_bytes()


def test_blueprints_are_listed_without_their_long_ids(ask_demo):
    answer = ask_demo("subgraphs", "--search", "blur")
    assert answer["items"] == [{"name": "Invert and Blur", "from": "comfyui"}]
    assert "subgraph:Invert and Blur" in answer["next"][0]
    assert all(len(row["id"]) == 64 for row in ask_demo("subgraphs", "--full")["items"])


def test_a_blueprint_is_shown_with_its_ends_and_saved_as_the_server_has_it(ask_demo, tmp_path):
    shown = ask_demo("subgraph", "Invert and Blur")
    assert [entry["type"] for entry in shown["inputs"]] == ["IMAGE", "FLOAT"]
    assert shown["outputs"] == [{"name": "IMAGE", "type": "IMAGE"}]
    assert shown["classes"] == ["ImageBlur", "ImageInvert"]
    saved = ask_demo("subgraph", "invert and blur", "--save", str(tmp_path / "blur.json"))
    document = json.loads((tmp_path / "blur.json").read_text("utf-8"))
    assert saved["bytes"] > 0 and len(document["nodes"]) == 1


def test_a_blueprint_that_is_not_there_gets_the_nearest(ask_demo):
    answer = ask_demo("subgraph", "Invert and Blurr", exit_code=1)
    assert (answer["code"], answer["nearest"][0]) == ("no_such_workflow", "Invert and Blur")


@pytest.mark.parametrize(
    ("name", "words", "kept"),
    [
        ("Plain Color", ["--set", "width=64"], "plain_color"),
        ("Invert and Blur", ["--input-image", "image={}"], "ComfyUI"),
    ],
)
def test_a_blueprint_runs_and_keeps_its_output_once(run, demo, tmp_path, name, words, kept):
    photo = picture(tmp_path / "photo.png")
    words = [word.format(photo) for word in words]
    ran = run(
        "run_workflow.py", f"subgraph:{name}", *words, "--host", demo.url, "--output-dir", tmp_path / "out"
    )
    assert ran.code == 0, ran.out
    assert [file["filename"].startswith(kept) for file in ran.json["outputs"]] == [True]


def test_every_blueprint_of_a_server_is_a_graph(run, any_server, ask):
    for row in ask("subgraphs", "--full")["items"][:5]:
        ran = run("convert_workflow.py", f"subgraph:{row['id']}", "--host", any_server)
        assert ran.code == 0 and all("class_type" in node for node in json.loads(ran.out).values())


def test_a_node_is_found_by_another_name(ask):
    for row in ask("nodes", "--search", "load checkpoint")["items"][:1]:
        assert row["class"] == "CheckpointLoaderSimple"
