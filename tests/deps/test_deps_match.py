"""Names that mean the same file, told apart from names that only look alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyskill.deps import names

LISTED = (
    "SDXL/sd_xl_base_1.0.safetensors", "v1-5-pruned-emaonly.safetensors", "t5xxl_fp16.safetensors", "4x-UltraSharp.pth",
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "wan2.1_t2v_1.3B_fp16.safetensors", "flux\\ae.safetensors", "model.v1.2.ckpt",
)  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "found", "sure"),
    [
        ("t5xxl_fp16.safetensors", "t5xxl_fp16.safetensors", True),
        ("sd_xl_base_1.0.safetensors", "SDXL/sd_xl_base_1.0.safetensors", True),
        ("sdxl\\SD_XL_BASE_1.0.safetensors", "SDXL/sd_xl_base_1.0.safetensors", True),
        ("flux/ae.safetensors", "flux\\ae.safetensors", True),
        ("4x-ultrasharp.pth", "4x-UltraSharp.pth", True),
        ("4x-UltraSharp", "4x-UltraSharp.pth", True),
        ("model.v1.2", "model.v1.2.ckpt", True),
        ("v1-5-pruned-emaonly-fp16.safetensors", "v1-5-pruned-emaonly.safetensors", False),
        ("t5xxl_fp8_e4m3fn.safetensors", "t5xxl_fp16.safetensors", False),
        ("umt5_xxl_fp16.safetensors", "umt5_xxl_fp8_e4m3fn_scaled.safetensors", False),
        ("t5xxl-Q4_K_M.gguf", "t5xxl_fp16.safetensors", False),
        ("4x-UltraSharp.safetensors", "4x-UltraSharp.pth", False),
    ],
)
def test_the_meant_name(wanted: str, found: str, sure: bool) -> None:
    match = names.best(wanted, LISTED)
    assert match is not None
    assert (match.name, match.sure) == (found, sure)


@pytest.mark.parametrize(
    "wanted",
    [
        "wan2.1_t2v_14B_fp16.safetensors",
        "sd_xl_refiner_1.0.safetensors",
        "model.v1.3.ckpt",
        "",
        "fp16.safetensors",
        "v1-4.safetensors",
        "../x",
    ],
)
def test_other_models_are_not_meant(wanted: str) -> None:
    assert names.best(wanted, LISTED) is None


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        ("SDXL/diffusion_pytorch_model.safetensors", "flux/diffusion_pytorch_model.safetensors"),
        ("diffusion_pytorch_model-00001-of-00003.safetensors", "a/diffusion_pytorch_model-00001-of-00003.safetensors"),
        ("model.safetensors", "SD1.5/model.safetensors"),
        ("pytorch_lora_weights", "x/pytorch_lora_weights.safetensors"),
        ("sd15/detail.safetensors", "sdxl/detail.safetensors"),
        ("wan/high/lightx2v.safetensors", "wan/low/lightx2v.safetensors"),
    ],
)  # fmt: skip
def test_a_name_that_other_models_bear_too_is_not_sure_in_another_folder(wanted: str, there: str) -> None:
    match = names.best(wanted, [there])
    assert match is not None
    assert (match.name, match.sure) == (there, False)


def test_one_s_own_folders_leave_a_name_sure() -> None:
    for wanted, there in (
        ("people/anna.safetensors", "anna/anna.safetensors"),
        ("XL/a1.safetensors", "sdxl/a1.safetensors"),
    ):
        match = names.best(wanted, [there])
        assert match is not None
        assert match.sure
    match = names.best("sdxl\\model.safetensors", ["SDXL/model.safetensors"])
    assert match is not None
    assert match.sure


def test_an_exact_name_beats_all_others() -> None:
    match = names.best("a.safetensors", ["A.safetensors", "x/a.safetensors", "a.safetensors"])
    assert match is not None
    assert (match.name, match.how) == ("a.safetensors", names.EXACT)


def test_two_candidates_are_not_sure() -> None:
    match = names.best("a.safetensors", ["x/a.safetensors", "y/a.safetensors"])
    assert match is not None
    assert match.sure is False


@given(st.lists(st.text(min_size=1, max_size=30), max_size=12), st.text(max_size=30))
def test_whatever_is_asked_the_answer_is_from_the_list(listed: list[str], wanted: str) -> None:
    match = names.best(wanted, listed)
    assert match is None or match.name in listed
    if wanted in listed:
        assert match is not None and match.how == names.EXACT
    assert set(names.similar(wanted, listed)) <= set(listed)
