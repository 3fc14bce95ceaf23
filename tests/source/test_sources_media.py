"""Workflows inside pictures, videos, sounds and 3D models: what ComfyUI writes, and what an attacker might.

`data/sources/` holds small files written by FFmpeg's muxers as ComfyUI's savers call them (`save_*`, quicktime) and
as older Video Helper Suite versions do (`comment.*`). The rest is made here, byte by byte or with Pillow.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfyskill.base import cli
from comfyskill.source import media, media_bytes, read

HERE = Path(__file__).parent.parent

SAMPLES = sorted(path for path in (HERE / "data" / "sources").iterdir())
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64}},
    "2": {"class_type": "SaveImage", "inputs": {}},
}
EDITOR = {"nodes": [{"id": 1, "type": "EmptyImage"}], "links": [], "version": 0.4}
PROMPT, WORKFLOW = json.dumps(GRAPH), json.dumps(EDITOR)


def found_in(data):
    stream = io.BytesIO(data)
    kind = media.kind_of(stream)
    assert kind is not None
    return media.embedded(stream, kind)


def graphs_in(data):
    values = found_in(data).values
    return {key: json.loads(values[key]) for key in ("prompt", "workflow") if key in values}


def image_bytes(kind, mode="RGB", **options):
    data = io.BytesIO()
    Image.new(mode, (8, 8)).save(data, kind, **options)
    return data.getvalue()


def exif_with(**tags):
    exif = Image.Exif()
    for tag, text in tags.items():
        exif[int(tag.removeprefix("t"), 16)] = text
    return exif


# What savers write


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_files_of_the_real_muxers_are_read(path):
    loaded = read.load(str(path))

    assert loaded.graph["2"]["inputs"]["filename_prefix"] == "a=b;c#d\\e ä\n"
    assert [node["type"] for node in loaded.editor["nodes"]] == ["EmptyImage", "SaveImage"]
    assert loaded.warnings == []


@pytest.mark.parametrize("how", ["tEXt", "zTXt", "iTXt", "packed iTXt", "comf"])
def test_png_text_chunks_of_every_kind(how):
    info = PngInfo()
    for key, text in (("prompt", PROMPT), ("workflow", WORKFLOW)):
        if how == "comf":
            info.add(b"comf", key.encode() + b"\0" + text.encode(), after_idat=True)
        elif "iTXt" in how:
            info.add_itxt(key, text, zip=how.startswith("packed"))
        else:
            info.add_text(key, text, zip=how == "zTXt")

    assert graphs_in(image_bytes("PNG", pnginfo=info)) == {"prompt": GRAPH, "workflow": EDITOR}


@pytest.mark.parametrize("kind", ["WEBP", "JPEG", "PNG"])
def test_exif_as_comfyui_writes_it(kind):
    exif = exif_with(t0110=f"prompt:{PROMPT}", t010f=f"workflow:{WORKFLOW}", t010e='other:{"a": 1}')

    assert graphs_in(image_bytes(kind, exif=exif)) == {"prompt": GRAPH, "workflow": EDITOR}


def test_a_chunk_of_odd_length_is_padded():
    exif = exif_with(t0110=f"prompt:{PROMPT}").tobytes()
    odd = struct.pack("<4sI", b"ICCP", 3) + b"abc\0"
    data = b"RIFF" + bytes(4) + b"WEBP" + odd + struct.pack("<4sI", b"EXIF", len(exif)) + exif

    assert graphs_in(data) == {"prompt": GRAPH}


def test_an_animated_webp_is_read():
    data = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(
        data, "WEBP", save_all=True, append_images=frames[1:], exif=exif_with(t0110=f"prompt:{PROMPT}")
    )

    assert graphs_in(data.getvalue()) == {"prompt": GRAPH}


@pytest.mark.parametrize(
    "comment",
    [
        b"ASCII\0\0\0" + PROMPT.encode(),
        b"UNICODE\0" + PROMPT.encode("utf-16-be"),
        b"UNICODE\0" + PROMPT.encode("utf-16-le"),
    ],
)
def test_an_exif_user_comment_is_read(comment):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = comment

    values = found_in(image_bytes("JPEG", exif=exif)).values

    assert json.loads(values["workflow"]) == GRAPH


def glb(document):
    body = json.dumps(document).encode()
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(body), len(body), 0x4E4F534A) + body


def test_a_glb_model_and_a_latent_are_read():
    model = glb({"asset": {"version": "2.0", "extras": {"prompt": PROMPT, "workflow": WORKFLOW}}})
    header = json.dumps({"__metadata__": {"prompt": PROMPT}, "latent_tensor": {}}).encode()

    assert graphs_in(model) == {"prompt": GRAPH, "workflow": EDITOR}
    assert graphs_in(struct.pack("<Q", len(header)) + header + bytes(100)) == {"prompt": GRAPH}


@pytest.mark.parametrize("head", ["", '<?xml version="1.0"?>\n', "\ufeff"])
def test_an_svg_is_read(head):
    metadata = f"<metadata>\n<![CDATA[\n{json.dumps({'prompt': GRAPH, 'workflow': EDITOR}, indent=2)}\n]]>\n</metadata>"

    assert graphs_in(f'{head}<svg width="1">\n{metadata}<path d=""/></svg>'.encode()) == {
        "prompt": GRAPH,
        "workflow": EDITOR,
    }
    assert graphs_in(b"<svg></svg>") == {}


def box(kind, body, *, wide=False):
    if wide:
        return struct.pack(">I4sQ", 1, kind, len(body) + 16) + body
    return struct.pack(">I4s", len(body) + 8, kind) + body


def mp4(*, wide=False, freeform=False, to_the_end=False):
    if freeform:
        value = box(b"----", box(b"mean", bytes(4) + b"org") + box(b"name", bytes(4) + b"prompt")
                    + box(b"data", struct.pack(">II", 1, 0) + PROMPT.encode()))  # fmt: skip
        meta = box(b"hdlr", bytes(24)) + box(b"ilst", value)
    else:
        keys = box(b"keys", struct.pack(">II", 0, 1) + struct.pack(">I4s", 14, b"mdta") + b"prompt")
        item = struct.pack(">I", 1)
        meta = (
            box(b"hdlr", bytes(24))
            + keys
            + box(b"ilst", box(item, box(b"data", struct.pack(">II", 1, 0) + PROMPT.encode())))
        )
    moov = box(b"moov", box(b"udta", box(b"meta", bytes(4) + meta)), wide=wide)
    if to_the_end:
        moov = struct.pack(">I", 0) + moov[4:]
    return box(b"ftyp", b"isom" + bytes(4)) + box(b"mdat", bytes(5000), wide=wide) + moov


@pytest.mark.parametrize("options", [{}, {"wide": True}, {"freeform": True}, {"to_the_end": True}], ids=str)
def test_mp4_boxes_of_every_form(options):
    assert graphs_in(mp4(**options)) == {"prompt": GRAPH}


def test_a_quicktime_meta_box_without_version_is_read():
    keys = box(b"keys", struct.pack(">II", 0, 1) + struct.pack(">I4s", 14, b"mdta") + b"prompt")
    values = box(b"ilst", box(b"\0\0\0\1", box(b"data", struct.pack(">II", 1, 0) + PROMPT.encode())))
    meta = box(b"meta", box(b"hdlr", bytes(24)) + keys + values)

    assert graphs_in(box(b"ftyp", b"qt  " + bytes(4)) + box(b"moov", meta)) == {"prompt": GRAPH}


def element(ident, body, size=None):
    length = (0x0100_0000_0000_0000 | len(body)).to_bytes(8, "big") if size is None else size
    return bytes.fromhex(ident) + length + body


def matroska(segment_size=None, cluster_size=None):
    tag = element("67C8", element("45A3", b"PROMPT") + element("4487", PROMPT.encode()))
    cluster = element("1F43B675", element("E7", b"\0") + element("A3", bytes(900)), cluster_size)
    tags = element("1254C367", element("7373", element("63C0", b"") + tag))
    return element("1A45DFA3", element("4282", b"webm")) + element("18538067", cluster + tags, segment_size)


@pytest.mark.parametrize("unknown", [None, b"\x01" + b"\xff" * 7, b"\xff"])
def test_matroska_with_known_and_unknown_sizes(unknown):
    assert graphs_in(matroska(unknown, unknown)) == {"prompt": GRAPH}


def ogg_page(body, serial=1):
    laces = bytes([255] * (len(body) // 255) + [len(body) % 255])
    assert len(laces) <= 255
    return struct.pack("<4sBBqIIIB", b"OggS", 0, 0, 0, serial, 0, 0, len(laces)) + laces + body


def comments(*pairs):
    fields = b"".join(struct.pack("<I", len(pair)) + pair for pair in pairs)
    return struct.pack("<I", 3) + b"abc" + struct.pack("<I", len(pairs)) + fields


def test_ogg_comments_over_several_pages_of_several_streams():
    packet = b"OpusTags" + comments(b"ENCODER=x", b"padding=" + b"p" * 60_000, b"PROMPT=" + PROMPT.encode())
    first, rest = packet[: 255 * 200], packet[255 * 200 :]
    page = ogg_page(first)
    # A full last lace means that the packet goes on, so the page must not end in a short one.
    page = page[:26] + bytes([200]) + page[27:227] + first

    assert graphs_in(ogg_page(b"OpusHead") + page + ogg_page(b"x" * 40, serial=2) + ogg_page(rest)) == {
        "prompt": GRAPH
    }


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-be", "utf-8"])
def test_id3_frames_in_every_encoding_and_both_versions(encoding):
    text = bytes([["latin-1", "utf-16", "utf-16-be", "utf-8"].index(encoding)])
    text += "prompt\0".encode(encoding) + PROMPT.encode(encoding)

    def synchsafe(value):
        return bytes(value >> shift & 0x7F for shift in (21, 14, 7, 0))

    for version, size in ((3, struct.pack(">I", len(text))), (4, synchsafe(len(text)))):
        frame = b"TXXX" + size + b"\0\0" + text
        tag = b"ID3" + bytes([version, 0, 0]) + synchsafe(len(frame) + 20) + frame + bytes(20)

        assert graphs_in(tag + bytes(100)) == {"prompt": GRAPH}


def test_an_mp3_without_a_tag_is_known_but_empty():
    assert found_in(b"\xff\xfb\x90\x00" + bytes(100)).values == {}


# What an attacker, or a broken disk, writes


def chunk(kind, body, length=None):
    size = len(body) if length is None else length
    return struct.pack(">I4s", size, kind) + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks):
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def test_a_compression_bomb_stays_small(monkeypatch):
    monkeypatch.setattr(media_bytes, "MAX_TEXT", 1 << 20)
    bomb = zlib.compress(b"{" * (200 << 20), 9)
    data = png(chunk(b"zTXt", b"prompt\0\0" + bomb), chunk(b"iTXt", b"workflow\0\1\0\0\0" + bomb))

    tracemalloc.start()
    found = found_in(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 8 << 20
    assert found.values == {}
    assert any("'prompt' is larger" in note for note in found.notes)
    assert any("'workflow' is larger" in note for note in found.notes)


@pytest.mark.parametrize(
    "data",
    [
        png(chunk(b"tEXt", b"prompt\0{}", length=0x7FFF_FFFF)),
        png(chunk(b"zTXt", b"prompt\0\0" + b"no zlib")),
        b"\xff\xd8\xff\xe1\x00\x01Exif",
        b"RIFF\xff\xff\xff\xffWEBPEXIF\xff\xff\xff\x7f",
        b"\0\0\0\x18ftypisom" + bytes(12) + b"\xff\xff\xff\xffmoov",
        b"\0\0\0\x18ftypisom" + bytes(12) + b"\0\0\0\x01moov" + b"\xff" * 8,
        b"\0\0\0\x18ftypisom" + bytes(12) + b"\0\0\0\x04moov" + bytes(40),
        b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xfe",
        b"fLaC\x84\xff\xff\xff",
        b"OggS" + bytes(22) + b"\xff",
        b"ID3\x04\0\0\x7f\x7f\x7f\x7f",
        b"glTF\x02\0\0\0\xff\xff\xff\xff\xff\xff\xff\xffJSON",
        struct.pack("<4sIIII", b"glTF", 2, 60, 10, 0x4E4F534A) + b"[[[[[[[[[[",
    ],
    ids=range(13),
)
def test_wrong_lengths_are_notes_not_crashes(data):
    found = found_in(data)

    assert "prompt" not in found.values
    assert "damaged" in found.notes[0]


def test_a_wrong_checksum_is_noted_but_the_text_used():
    body = b"prompt\0" + PROMPT.encode()
    bad = struct.pack(">I4s", len(body), b"tEXt") + body + bytes(4)

    found = found_in(png(bad))

    assert json.loads(found.values["prompt"]) == GRAPH
    assert "the checksum of a tEXt chunk is wrong" in found.notes


def test_a_file_of_endless_tiny_parts_is_given_up(monkeypatch):
    monkeypatch.setattr(media_bytes, "MAX_PARTS", 100)
    data = png(*[chunk(b"aaaa", b"")] * 200, chunk(b"tEXt", b"prompt\0" + PROMPT.encode()))

    found = found_in(data)

    assert found.values == {} and "only the first 100 parts" in found.notes[0]


def test_an_exif_directory_that_points_at_itself_ends():
    entry = struct.pack("<HHII", 0x8769, 4, 1, 8)
    exif = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + bytes(4)

    assert (
        found_in(b"RIFF" + bytes(4) + b"WEBP" + struct.pack("<4sI", b"EXIF", len(exif)) + exif).values == {}
    )


def test_a_truncated_picture_gives_what_came_before_the_cut(tmp_path):
    info = PngInfo()
    info.add_text("prompt", PROMPT)
    info.add_text("workflow", WORKFLOW)
    data = image_bytes("PNG", pnginfo=info)
    path = tmp_path / "cut.png"
    path.write_bytes(data[: data.index(b"workflow") + 20])

    loaded = read.load(str(path))

    assert loaded.graph == GRAPH and loaded.editor is None
    assert "truncated" in loaded.warnings[0]


def test_a_large_video_is_skipped_through_not_read(tmp_path):
    path = tmp_path / "large.mp4"
    with path.open("wb") as file:
        file.write(box(b"ftyp", b"isom" + bytes(4)) + struct.pack(">I4sQ", 1, b"mdat", 3 << 30))
        file.seek((3 << 30) + 16)  # a hole: no disk is used
        file.write(mp4()[5000:][mp4()[5000:].index(b"moov") - 4 :])

    tracemalloc.start()
    loaded = read.load(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert loaded.graph == GRAPH
    assert peak < 2 << 20


SEEDS = [path.read_bytes() for path in SAMPLES] + [
    mp4(), matroska(), png(chunk(b"tEXt", b"prompt\0" + PROMPT.encode())),
    image_bytes("WEBP", exif=exif_with(t0110=f"prompt:{PROMPT}")),
    image_bytes("JPEG", exif=exif_with(t0110=f"prompt:{PROMPT}")),
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_damage_anywhere_never_raises_anything_but_a_refusal(seed, data):
    damaged = bytearray(seed[: data.draw(st.integers(12, len(seed)))])
    for position in data.draw(st.lists(st.integers(12, max(12, len(damaged) - 1)), max_size=6)):
        if position < len(damaged):
            damaged[position] = data.draw(st.integers(0, 255))
    try:
        read.load("-", stdin=io.BytesIO(bytes(damaged)))
    except cli.SkillError as error:
        assert error.exit == cli.Exit.MISUSE


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_refusal(data):
    try:
        read.load("-", stdin=io.BytesIO(data))
    except cli.SkillError as error:
        assert error.exit == cli.Exit.MISUSE


# Facts before an upload


def test_facts_of_an_ordinary_picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (30, 20)).save(path)

    facts = media.image_facts(path)

    assert (facts.format, facts.width, facts.height, facts.has_alpha) == ("PNG", 30, 20, True)
    assert facts.orientation == 1 and facts.problem is None and facts.frames == 1


def test_facts_of_a_turned_photo(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(path, exif=exif)

    facts = media.image_facts(path)

    assert facts.orientation == 6 and (facts.width, facts.height) == (30, 20)
    assert facts.upright_size == (20, 30)
    assert not facts.has_alpha


def test_facts_of_files_that_are_no_use(tmp_path):
    whole = image_bytes("PNG")
    big = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(big, "PNG")
    (tmp_path / "cut.png").write_bytes(big.getvalue()[:-900])
    (tmp_path / "text.png").write_bytes(b"hello")
    (tmp_path / "empty.png").write_bytes(b"")
    # A header that promises 60000 x 60000 pixels.
    huge = whole[:16] + struct.pack(">II", 60_000, 60_000) + whole[24:29]
    (tmp_path / "huge.png").write_bytes(huge + struct.pack(">I", zlib.crc32(huge[12:29])) + whole[33:])

    def problem(name):
        return media.image_facts(tmp_path / name).problem

    assert "cut off" in problem("cut.png")
    assert "not a picture" in problem("text.png")
    assert "not a picture" in problem("empty.png")
    assert "more pixels" in problem("huge.png")
    assert "does not exist" in problem("none.png")
    assert "folder" in problem(".") or "cannot be read" in problem(".")


def test_an_animated_picture_tells_its_frames(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])

    assert media.image_facts(tmp_path / "a.webp").frames == 3


def test_pillow_is_loaded_only_for_image_facts():
    import subprocess

    code = "import sys; from comfyskill.source import media, read; sys.exit('PIL' in sys.modules or 'requests' in sys.modules)"
    scripts = str(HERE.parent / "scripts")

    assert subprocess.run([sys.executable, "-c", code], cwd=scripts).returncode == 0
