"""The rules behind hardware_check, with plain values."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "scripts"))

from comfyskill.machine import gpus, system
from comfyskill.machine import verdict as machine_verdict

GIB = 1024**3
CARD = gpus.Gpu("nvidia", "RTX", 24 * GIB, "nvidia-smi")
GOOD = machine_verdict.Facts("Linux", CARD, system.Memory(64 * GIB, None, 64 * GIB), free_disk=500 * GIB)


def judged(**changes):
    return machine_verdict.judge(replace(GOOD, **changes))


@given(st.text(max_size=400))
def test_no_text_breaks_a_parser(text):
    gpus.nvidia(text, text, text)
    gpus.rocm_smi(text)
    gpus.amd_smi(text)
    gpus.xpu_smi([text])
    gpus.sycl_ls(text)
    gpus.windows_cim(text)
    gpus.wmic(text)
    gpus.apple(text, text, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            [
                "gpu_data",
                "card0",
                "asic",
                "vram",
                "size",
                "value",
                "unit",
                "device_list",
                "device_name",
                "gpus",
                "Name",
            ]
            + [
                "registry",
                "os",
                "SPDisplaysDataType",
                "sppci_model",
                "device_id",
                "AdapterRAM",
                "GFX Version",
            ]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_json_breaks_a_parser(value):
    import json

    test_no_text_breaks_a_parser.hypothesis.inner_test(json.dumps(value))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("24564 MiB", 24564 * 1024**2),
        ("17163091968", 17163091968),
        ({"value": 24560, "unit": "MB"}, 24560 * 1024**2),
        ("1,5 GB", int(1.5 * GIB)),
        ("[N/A]", None),
        ("-5 MiB", None),
        ("0", None),
        (True, None),
        (None, None),
    ],
)
def test_sizes_as_tools_write_them(value, expected):
    assert gpus.size(value) == expected


def test_little_disk_blocks_an_installation_but_not_an_installed_server():
    assert "9.0 GB free" in judged(free_disk=9 * GIB).blockers[0]
    assert judged(free_disk=9 * GIB, installed=True).blockers == []


def test_a_32_bit_python_blocks():
    assert "32-bit" in judged(python_bits=32).blockers[0]


def test_memory_lowers_the_verdict_step_by_step():
    def verdict(gb):
        return judged(memory=system.Memory(gb * GIB, None, gb * GIB)).verdict

    assert [verdict(gb) for gb in (6, 12, 16, 64)] == ["cloud", "marginal", "ok", "ok"]


def test_a_nominal_size_is_what_the_box_says():
    l4 = machine_verdict.Budget(vram=int(22.5 * GIB), ram=64 * GIB)
    flux = next(f for f in machine_verdict.FAMILIES if (f.name, f.precision) == ("Flux.1", "fp16"))
    assert machine_verdict.fits(flux, l4) == "yes"


def test_every_family_needs_less_at_least_than_in_full():
    for family in machine_verdict.FAMILIES:
        assert 0 < family.least <= family.full, family
