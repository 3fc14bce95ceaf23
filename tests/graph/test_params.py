"""Parameters: found by meaning, named apart, found again by any of their names."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from comfyskill.base.cli import SkillError
from comfyskill.graph import parameters as graph_parameters

DEFINITIONS = json.loads(
    (Path(__file__).parent.parent / "data/graph/definitions.json").read_text(encoding="utf-8")
)
BOTH = pytest.mark.parametrize("definitions", [DEFINITIONS, None], ids=["definitions", "catalog"])


def node(class_type: str, title: str | None = None, **inputs):
    made = {"class_type": class_type, "inputs": inputs}
    return made | {"_meta": {"title": title}} if title else made


def encode(text, clip="1"):
    return node("CLIPTextEncode", text=text, clip=[clip, 1])


def sampler(positive, negative=("7", 0), model=("1", 0), latent=("5", 0), title=None, **inputs):
    values = {
        "seed": 5,
        "steps": 20,
        "cfg": 7.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    } | inputs
    return node("KSampler", title, model=list(model), positive=list(positive), negative=list(negative),
                latent_image=list(latent), **values)  # fmt: skip


def txt2img(**changes):
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors"),
        "5": node("EmptyLatentImage", width=1024, height=768, batch_size=1),
        "6": encode("a fox"),
        "7": encode("blurry"),
        "3": sampler(("6", 0)),
        "8": node("VAEDecode", samples=["3", 0], vae=["1", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="out"),
    }
    return graph | changes


def named(graph, definitions=DEFINITIONS):
    return {p.name: p.address for p in graph_parameters.find(graph, definitions).named()}


@BOTH
def test_a_plain_graph_has_the_names_that_a_person_expects(definitions):
    names = named(txt2img(), definitions)

    assert names == {
        "ckpt_name": "1.ckpt_name", "seed": "3.seed", "steps": "3.steps", "cfg": "3.cfg", "sampler_name": "3.sampler_name",
        "scheduler": "3.scheduler", "denoise": "3.denoise", "width": "5.width", "height": "5.height",
        "batch_size": "5.batch_size", "prompt": "6.text", "negative_prompt": "7.text", "filename_prefix": "9.filename_prefix",
    }  # fmt: skip


PASS_THROUGHS = {
    "combine": {"20": node("ConditioningCombine", conditioning_1=["6", 0], conditioning_2=["6", 0])},
    "set area": {
        "20": node("ConditioningSetArea", conditioning=["6", 0], width=64, height=64, x=0, y=0, strength=1.0)
    },
    "guidance": {"20": node("FluxGuidance", conditioning=["6", 0], guidance=3.5)},
    "controlnet": {
        "20": node(
            "ControlNetApply", conditioning=["6", 0], control_net=["40", 0], image=["41", 0], strength=1.0
        )
    },
    "a chain": {
        "20": node("FluxGuidance", conditioning=["21", 0], guidance=3.5),
        "21": node("ReferenceLatent", conditioning=["22", 0]),
        "22": node(
            "ConditioningSetMask",
            conditioning=["6", 0],
            mask=["41", 1],
            strength=1.0,
            set_cond_area="default",
        ),
    },
    "a reroute": {"20": node("Reroute", **{"": ["6", 0]})},
    "an unknown pack": {"20": node("PackConditioningThing", conditioning=["6", 0], amount=2)},
    "a switch": {"20": node("ComfySwitchNode", switch=True, on_true=["6", 0], on_false=["7", 0])},
}


@BOTH
@pytest.mark.parametrize("between", PASS_THROUGHS.values(), ids=PASS_THROUGHS)
def test_prompts_are_traced_through_what_passes_conditioning_on(between, definitions):
    graph = txt2img(**{**between, "3": sampler(("20", 0))})

    names = named(graph, definitions)
    assert names["prompt"] == "6.text"
    assert names["negative_prompt"] == "7.text"


@BOTH
def test_an_apply_node_with_two_sides_keeps_them_apart(definitions):
    apply = node("ControlNetApplyAdvanced", positive=["7", 0], negative=["6", 0], control_net=["40", 0], image=["41", 0],
                 strength=1.0, start_percent=0.0, end_percent=1.0)  # fmt: skip
    graph = txt2img(**{"20": apply, "3": sampler(("20", 0), ("20", 1))})

    names = named(graph, definitions)
    assert names["prompt"] == "7.text"
    assert names["negative_prompt"] == "6.text"


@BOTH
def test_crossed_outputs_count_by_where_they_arrive(definitions):
    apply = node("ControlNetApplyAdvanced", positive=["6", 0], negative=["7", 0], control_net=["40", 0], image=["41", 0],
                 strength=1.0, start_percent=0.0, end_percent=1.0)  # fmt: skip
    graph = txt2img(**{"20": apply, "3": sampler(("20", 1), ("20", 0))})

    assert named(graph, definitions)["prompt"] == "7.text"


@BOTH
def test_the_guider_chain_of_flux_is_followed(definitions):
    graph = {
        "1": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
        "2": node("DualCLIPLoader", clip_name1="t5xxl_fp16.safetensors", clip_name2="clip_l.safetensors", type="flux"),
        "6": node("CLIPTextEncodeFlux", clip=["2", 0], clip_l="a fox", t5xxl="a fox in snow", guidance=3.5),
        "22": node("BasicGuider", model=["1", 0], conditioning=["6", 0]),
        "25": node("RandomNoise", noise_seed=4),
        "16": node("KSamplerSelect", sampler_name="euler"),
        "17": node("BasicScheduler", model=["1", 0], scheduler="simple", steps=20, denoise=1.0),
        "5": node("EmptySD3LatentImage", width=1024, height=1024, batch_size=1),
        "13": node("SamplerCustomAdvanced", noise=["25", 0], guider=["22", 0], sampler=["16", 0], sigmas=["17", 0],
                   latent_image=["5", 0]),
    }  # fmt: skip
    parameters = graph_parameters.find(graph, definitions)

    assert [p.address for p in parameters.resolve("prompt")] == ["6.clip_l", "6.t5xxl"]
    assert [p.address for p in parameters.resolve("prompt_t5xxl")] == ["6.t5xxl"]
    assert [p.address for p in parameters.resolve("t5xxl")] == ["6.t5xxl"]
    assert [p.address for p in parameters.resolve("seed")] == ["25.noise_seed"]
    assert parameters.groups["prompt"].sets_all
    assert "negative_prompt" not in parameters.groups


@BOTH
def test_one_encoder_for_both_sides_is_the_prompt_and_says_so(definitions):
    graph = txt2img(**{"3": sampler(("6", 0), ("6", 0))})
    del graph["7"]
    found = {p.name: p for p in graph_parameters.find(graph, definitions)}

    assert found["prompt"].also == ("negative_prompt",)
    assert "negative_prompt" not in found


@BOTH
def test_a_zeroed_prompt_is_no_negative_prompt(definitions):
    graph = txt2img(
        **{"20": node("ConditioningZeroOut", conditioning=["6", 0]), "3": sampler(("6", 0), ("20", 0))}
    )
    del graph["7"]
    found = {p.name: p for p in graph_parameters.find(graph, definitions)}

    assert found["prompt"].also == ()
    assert "negative_prompt" not in found


@BOTH
def test_texts_are_offered_where_a_person_writes_them(definitions):
    graph = txt2img(
        **{
            "6": encode(["30", 0]),
            "30": node("StringConcatenate", string_a=["31", 0], string_b=", masterpiece", delimiter=""),
            "31": node("PrimitiveStringMultiline", "Prompt", value="a fox"),
        }
    )

    assert named(graph, definitions)["prompt"] == "31.value"


@BOTH
def test_two_texts_joined_into_one_are_not_set_together(definitions):
    graph = txt2img(
        **{
            "6": encode(["30", 0]),
            "30": node("StringConcatenate", string_a="a fox", string_b="at night", delimiter=", "),
        }
    )
    parameters = graph_parameters.find(graph, definitions)

    assert not parameters.groups["prompt"].sets_all
    with pytest.raises(SkillError) as caught:
        parameters.resolve("prompt")
    assert caught.value.code == "ambiguous_parameter"
    assert "prompt_string_a" in caught.value.details["candidates"]
    assert [p.address for p in parameters.resolve("prompt_string_a")] == ["30.string_a"]


def test_a_text_put_into_a_template_is_the_prompt():
    graph = txt2img(
        **{
            "6": encode(["30", 0]),
            "30": node("StringReplace", string=["31", 0], find="{what}", replace=["32", 0]),
            "31": node("PrimitiveStringMultiline", value="a photo of {what}"),
            "32": node("PrimitiveStringMultiline", value="a fox"),
        }
    )
    assert named(graph)["prompt"] == "32.value"


@BOTH
def test_numbers_from_value_nodes_bear_the_name_of_their_use(definitions):
    graph = txt2img(
        **{
            "5": node("EmptyLatentImage", width=["40", 0], height=["41", 0], batch_size=1),
            "40": node("PrimitiveInt", value=640),
            "41": node("Reroute", **{"": ["42", 0]}),
            "42": node("PrimitiveInt", value=480),
            "3": sampler(("6", 0), steps=["43", 0]),
            "43": node("PrimitiveInt", value=12),
        }
    )
    names = named(graph, definitions)

    assert (names["width"], names["height"], names["steps"]) == ("40.value", "42.value", "43.value")


def test_dual_guidance_knows_the_prompt_from_its_middle():
    graph = txt2img(
        **{
            "3": node("DualCFGGuider", model=["1", 0], cond1=["6", 0], cond2=["7", 0], negative=["7", 0], cfg_conds=3.0,
                      cfg_cond2_negative=1.5, style="regular"),
        }
    )  # fmt: skip
    names = named(graph)

    assert (names["prompt"], names["negative_prompt"]) == ("6.text", "7.text")


def test_cycles_among_conditioning_are_survived():
    graph = txt2img(
        **{
            "20": node("ConditioningCombine", conditioning_1=["21", 0], conditioning_2=["6", 0]),
            "21": node("ConditioningConcat", conditioning_to=["20", 0], conditioning_from=["20", 0]),
            "3": sampler(("20", 0)),
        }
    )
    assert named(graph)["prompt"] == "6.text"


def two_stage(titles=(None, None)):
    return txt2img(
        **{
            "3": sampler(("6", 0), title=titles[0], steps=20, seed=1),
            "12": sampler(("16", 0), ("7", 0), latent=("13", 0), title=titles[1], steps=8, seed=2),
            "13": node(
                "LatentUpscale",
                samples=["3", 0],
                upscale_method="bilinear",
                width=2048,
                height=1536,
                crop="disabled",
            ),
            "16": encode("a fox, sharp"),
        }
    )


@BOTH
def test_two_of_a_kind_are_told_apart_by_title_else_by_id(definitions):
    by_title = named(two_stage(("Base", "Hires fix")), definitions)
    by_id = named(two_stage(), definitions)

    assert by_title["steps_base"] == "3.steps" and by_title["steps_hires_fix"] == "12.steps"
    assert by_id["steps_3"] == "3.steps" and by_id["steps_12"] == "12.steps"
    assert "steps" not in by_title and "steps" not in by_id


def test_names_do_not_depend_on_the_order_of_nodes():
    graph = two_stage(("Base", None))
    names = named(graph)
    for seed in range(5):
        ids = list(graph)
        random.Random(seed).shuffle(ids)
        assert named({key: graph[key] for key in ids}) == names


@BOTH
def test_only_what_is_safe_together_is_set_by_the_plain_name(definitions):
    parameters = graph_parameters.find(two_stage(), definitions)

    assert [p.address for p in parameters.resolve("seed")] == ["3.seed", "12.seed"]
    assert [p.address for p in parameters.resolve("prompt")] == ["6.text", "16.text"]
    with pytest.raises(SkillError) as caught:
        parameters.resolve("steps")
    assert caught.value.details["candidates"] == ["steps_3", "steps_12"]


@BOTH
def test_the_size_of_the_picture_comes_before_other_sizes(definitions):
    names = {p.name: p.address for p in graph_parameters.find(two_stage(), definitions)}

    assert names["width"] == "5.width"
    assert names["width_latentupscale"] == "13.width"


ADDRESSES = [
    ("3.seed", "3.seed"),
    ("KSampler (hires).denoise", "4.denoise"),
    ("ksampler (HIRES).denoise", "4.denoise"),
    ("v1.5 model.ckpt_name", "1.ckpt_name"),
    ("7.0.value", "7.0.value"),
    ("12:3.text", "12:3.text"),
    ("5.resize_type.width", "5.resize_type.width"),
    ("PrimitiveInt.value", "7.0.value"),
    ("color", "6.color"),
]


@pytest.mark.parametrize(("key", "address"), ADDRESSES)
def test_addresses_take_ids_and_titles_with_dots_and_spaces(key, address):
    graph = {
        "1": node("CheckpointLoaderSimple", "v1.5 model", ckpt_name="x"),
        "3": sampler(("12:3", 0)),
        "4": sampler(("12:3", 0), title="KSampler (hires)"),
        "5": node("ResizeImageMaskNode", input=["6", 0], resize_type="scale dimensions",
                  **{"resize_type.width": 8, "resize_type.height": 9, "resize_type.crop": "center"}, scale_method="area"),
        "6": node("EmptyImage", width=8, height=8, batch_size=1, color=0),
        "7.0": node("PrimitiveInt", value=3),
        "12:3": encode("x"),
    }  # fmt: skip
    assert [p.address for p in graph_parameters.find(graph, DEFINITIONS).resolve(key)] == [address]


def test_an_optional_input_that_is_left_out_can_be_addressed():
    graph = {"1": node("CLIPLoader", clip_name="clip_l.safetensors", type="sd3")}
    found = graph_parameters.find(graph, DEFINITIONS).resolve("1.device")

    assert found[0].spec.choices == ("default", "cpu")
    assert [p.address for p in graph_parameters.find(graph, DEFINITIONS).resolve("device")] == ["1.device"]


@BOTH
def test_a_wrong_name_is_answered_with_the_nearest(definitions):
    with pytest.raises(SkillError) as caught:
        graph_parameters.find(txt2img(), definitions).resolve("widht")

    assert caught.value.code == "unknown_parameter"
    assert caught.value.exit == 2
    assert caught.value.details["nearest"][0] == "width"


def test_two_nodes_of_one_title_are_not_guessed_between():
    graph = txt2img(
        **{"6": encode("a") | {"_meta": {"title": "Text"}}, "7": encode("b") | {"_meta": {"title": "Text"}}}
    )

    with pytest.raises(SkillError) as caught:
        graph_parameters.find(graph, DEFINITIONS).resolve("Text.text")
    assert caught.value.code == "ambiguous_parameter"


def test_files_are_found_by_what_they_feed():
    graph = {
        "1": node("LoadImage", image="a.png"),
        "2": node("LoadImage", image="b.png"),
        "3": node("ImageScale", image=["2", 0], upscale_method="area", width=8, height=8, crop="disabled"),
        "4": node("WanFirstLastFrameToVideo", start_image=["1", 0], end_image=["3", 0], width=640, height=640, length=81,
                  batch_size=1),
    }  # fmt: skip
    parameters = graph_parameters.find(graph, DEFINITIONS)

    assert [p.address for p in parameters.resolve("start_image")] == ["1.image"]
    assert [p.address for p in parameters.resolve("end_image")] == ["2.image"]
    with pytest.raises(SkillError):
        parameters.resolve("image")


@pytest.mark.parametrize(
    ("graph", "names"),
    [
        (
            {
                "1": node("easy positive", positive="a fox"),
                "2": node("easy negative", negative="bad"),
                "3": node("easy seed", seed=4),
            },
            {"prompt": "1.positive", "negative_prompt": "2.negative", "seed": "3.seed"},
        ),
        ({"1": node("Seed (rgthree)", seed=4)}, {"seed": "1.seed"}),
        (
            {"1": node("VHS_LoadVideo", video="clip.mp4", force_rate=0)},
            {"video": "1.video", "force_rate": "1.force_rate"},
        ),
        (
            {"1": node("WanVideoTextEncode", positive_prompt="a fox", negative_prompt="bad", t5=["2", 0])},
            {"prompt": "1.positive_prompt", "negative_prompt": "1.negative_prompt"},
        ),
        (
            {
                "1": node("Efficient Loader", ckpt_name="a.safetensors", positive="a fox", negative="bad"),
                "2": node("KSampler (Efficient)", seed=4, positive=["1", 1], negative=["1", 2]),
            },
            {
                "ckpt_name": "1.ckpt_name",
                "prompt": "1.positive",
                "negative_prompt": "1.negative",
                "seed": "2.seed",
            },
        ),
        (
            {
                "6": encode("a fox"),
                "7": encode("bad"),
                "10": node(
                    "Context Big (rgthree)",
                    model=["1", 0],
                    clip=["1", 1],
                    positive=["6", 0],
                    negative=["7", 0],
                    steps=["12", 0],
                ),
                "12": node("PrimitiveInt", value=25),
                "3": node(
                    "KSampler", positive=["10", 4], negative=["10", 5], seed=["10", 8], steps=["10", 9]
                ),
            },
            {"prompt": "6.text", "negative_prompt": "7.text", "steps": "12.value"},
        ),
    ],
    ids=["easy-use", "rgthree", "video helper", "wan wrapper", "efficiency", "context"],
)
def test_packs_that_nobody_described_are_named_by_the_catalog(graph, names):
    assert named(graph, None) == names


def test_what_was_used_is_said():
    graph = txt2img(**{"50": node("NobodyKnows", x=1)})

    assert graph_parameters.find(txt2img(), DEFINITIONS).source == "definitions"
    assert graph_parameters.find(graph, DEFINITIONS).source == "mixed"
    assert graph_parameters.find(graph, None).source == "catalog"
    typed = {p.address: p.typed_by for p in graph_parameters.find(graph, DEFINITIONS)}
    assert (typed["3.steps"], typed["50.x"]) == ("definition", "value")


def test_five_thousand_nodes_take_less_than_a_second():
    graph = {}
    for index in range(715):
        for key, made in txt2img().items():
            inputs = {
                k: [f"{index}:{v[0]}", v[1]] if isinstance(v, list) else v for k, v in made["inputs"].items()
            }
            graph[f"{index}:{key}"] = {"class_type": made["class_type"], "inputs": inputs}
    assert len(graph) > 5000
    started = time.process_time()
    parameters = graph_parameters.find(graph, DEFINITIONS)

    assert time.process_time() - started < 1
    assert len({p.name for p in parameters}) == len(parameters.parameters)
