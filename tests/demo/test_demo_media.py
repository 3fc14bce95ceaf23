"""What the demo server saves is what the file's name says, and carries its graph where the format can."""

from __future__ import annotations

import io
import json
import struct
import time
from typing import Any

import pytest
import requests
from PIL import Image

STILL = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 5}}
FRAMES = {"class_type": "RepeatImageBatch", "inputs": {"image": ["1", 0], "amount": 3}}
TONE = {"class_type": "EmptyAudio", "inputs": {"duration": 0.5, "sample_rate": 44100, "channels": 2}}
WORKFLOW = {"nodes": [], "note": "é" * 200}


def saved(demo: Any, save: dict[str, Any], sound: bool = False) -> tuple[bytes, dict[str, Any]]:
    """(bytes of the one file that a saving node writes, its entry)."""
    graph = {"1": TONE, "9": save} if sound else {"1": STILL, "2": FRAMES, "9": save}
    body = {"prompt": graph, "extra_data": {"extra_pnginfo": {"workflow": WORKFLOW}}}
    prompt_id = demo.post("/prompt", body)["prompt_id"]
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = demo.get(f"/history/{prompt_id}")
        if found:
            break
        time.sleep(0.01)
    entry = found[prompt_id]
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    items = [item for output in entry["outputs"].values() for items in output.values() for item in items]
    item = next(item for item in items if isinstance(item, dict))
    return requests.get(f"{demo.url}/view", params=item, timeout=60).content, item


def boxes(data: bytes) -> dict[bytes, bytes]:
    """The top boxes of an MP4."""
    found, spot = {}, 0
    while spot < len(data):
        size, name = struct.unpack_from(">I4s", data, spot)
        assert size >= 8 and spot + size <= len(data)
        found[name] = data[spot + 8 : spot + size]
        spot += size
    return found


@pytest.mark.parametrize(
    ("save", "form"),
    [
        (
            {
                "class_type": "SaveAnimatedWEBP",
                "inputs": {"images": ["2", 0], "filename_prefix": "m", "fps": 6.0, "lossless": False, "quality": 80, "method": "default"},
            },
            "WEBP",
        ),
        (
            {"class_type": "SaveAnimatedPNG", "inputs": {"images": ["2", 0], "filename_prefix": "m", "fps": 6.0, "compress_level": 4}},
            "PNG",
        ),
        (
            {
                "class_type": "VHS_VideoCombine",
                "inputs": {"images": ["2", 0], "frame_rate": 8, "loop_count": 0, "filename_prefix": "m", "format": "image/gif", "pingpong": False, "save_output": True},
            },
            "GIF",
        ),
    ],
)  # fmt: skip
def test_animations_open_as_what_they_are(demo: Any, save: dict[str, Any], form: str) -> None:
    data, _ = saved(demo, save)
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == (form, (64, 48))


def test_mp4_is_a_whole_file_whose_samples_are_jpeg(demo: Any) -> None:
    graph = {"class_type": "VHS_VideoCombine", "inputs": {"images": ["2", 0], "frame_rate": 8, "loop_count": 0, "filename_prefix": "m", "format": "video/h264-mp4", "pingpong": True, "save_output": True}}  # fmt: skip
    data, item = saved(demo, graph)
    found = boxes(data)
    assert list(found) == [b"ftyp", b"mdat", b"moov"] and item["filename"] == "m_00001.mp4"
    assert found[b"mdat"].count(b"\xff\xd8\xff\xe0") == 4
    with Image.open(io.BytesIO(found[b"mdat"])) as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 48))
    assert json.dumps(WORKFLOW).encode() in found[b"moov"]


def test_webm_holds_vp8_key_frames(demo: Any) -> None:
    save = {"class_type": "SaveWEBM", "inputs": {"images": ["2", 0], "filename_prefix": "m", "codec": "vp9", "fps": 6.0, "crf": 32}}  # fmt: skip
    data, _ = saved(demo, save)
    assert data[:4] == b"\x1a\x45\xdf\xa3" and b"V_VP8" in data
    assert data.count(b"\x9d\x01\x2a" + struct.pack("<HH", 64, 48)) == 3


@pytest.mark.parametrize(
    ("name", "more", "magic", "suffix"),
    [
        ("SaveAudio", {}, b"fLaC", ".flac"),
        ("SaveAudioMP3", {"quality": "V0"}, b"ID3", ".mp3"),
        ("SaveAudioOpus", {"quality": "128k"}, b"OggS", ".opus"),
    ],
)
def test_sounds_begin_as_their_kind_and_carry_the_graph(
    demo: Any, name: str, more: dict[str, Any], magic: bytes, suffix: str
) -> None:
    data, item = saved(
        demo, {"class_type": name, "inputs": {"audio": ["1", 0], "filename_prefix": "s", **more}}, sound=True
    )
    assert data.startswith(magic) and item["filename"].endswith(suffix)
    assert b'"EmptyAudio"' in data and b"u00e9" in data


def test_flac_blocks_have_the_right_checksums() -> None:
    from comfyskill.demo import containers

    data = containers.silent_flac(0.25, {})
    spot, last = 4, False
    while not last:
        last, size = bool(data[spot] & 0x80), int.from_bytes(data[spot + 1 : spot + 4], "big")
        spot += 4 + size
    frames = data[spot:].split(b"\xff\xf8\x70\x08")[1:]
    assert len(frames) == 3
    for frame in frames:
        whole = b"\xff\xf8\x70\x08" + frame
        # A polynomial division that leaves nothing: data and checksum fit.
        crc = 0
        for byte in whole:
            crc ^= byte << 8
            for _ in range(8):
                crc = (crc << 1 ^ 0x8005) if crc & 0x8000 else crc << 1
            crc &= 0xFFFF
        assert crc == 0


def test_odd_outputs_of_the_test_nodes(demo: Any) -> None:
    big = {"class_type": "DemoBigFile", "inputs": {"size_mb": 3.0, "filename": "b.bin", "subfolder": "s", "sparse": True, "seed": 1}}  # fmt: skip
    data, item = saved(demo, big)
    assert len(data) == 3 * 1024 * 1024 and item["subfolder"] == "s"
    hostile = {"class_type": "DemoHostileNames", "inputs": {"kind": "traversal", "seed": 1}}
    answer, item = saved(demo, hostile)
    assert item["filename"] == "../../evil.png" and answer == b""
