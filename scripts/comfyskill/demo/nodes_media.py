"""Clips and sounds. There is no video encoder: see `containers` for what the files hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from comfyskill.base.cli import Document
from comfyskill.demo import containers, generic, pictures
from comfyskill.demo.call import Call
from comfyskill.demo.custom_checks import annotated
from comfyskill.demo.node_table import NodeFailure, Result, node
from comfyskill.demo.nodes_pictures import file_changed, need_images
from comfyskill.demo.nodes_save import entry, place, write_png
from comfyskill.demo.values import Clip, Images, Sound, recipe

WEBP_METHOD = {"default": 4, "fastest": 0, "slowest": 6}


def _new(
    call: Call, kind: str, prefix: str, suffix: str, width: int = 0, height: int = 0
) -> tuple[Path, dict[str, str]]:
    """A path for one new file of a family, and its entry for the UI."""
    folder, name, counter, subfolder = place(call, kind, prefix, width, height)
    file = f"{name}_{counter:05}_{suffix}"
    call.folders.took(folder, name, counter)
    return folder / file, entry(file, subfolder, kind)


@node("SaveAnimatedWEBP", heavy=True)
def animated_webp(
    call: Call, images: Images, filename_prefix: str, fps: float, lossless: bool, quality: int, method: str
) -> Result:
    images = need_images(images, "images")
    path, item = _new(call, "output", filename_prefix, ".webp", images.width, images.height)
    first, *rest = images.frames
    exif = first.getexif()
    # As the real node writes it: the prompt is the camera's model, the rest is in the tags below.
    for tag, (key, value) in zip((0x0110, 0x010F, 0x010E, 0x010D), call.metadata.items(), strict=False):
        exif[tag] = f"{key}:{json.dumps(value)}"
    how: Document = {"lossless": lossless, "quality": quality, "method": WEBP_METHOD.get(method, 4)}
    first.save(
        path,
        save_all=True,
        append_images=rest,
        duration=round(1000 / max(fps, 0.01)),
        loop=0,
        exif=exif,
        **how,
    )
    return Result(ui={"images": [item], "animated": [len(images.frames) != 1]})


@node("SaveAnimatedPNG", heavy=True)
def animated_png(call: Call, images: Images, filename_prefix: str, fps: float, compress_level: int) -> Result:
    from PIL.PngImagePlugin import PngInfo

    images = need_images(images, "images")
    path, item = _new(call, "output", filename_prefix, ".png", images.width, images.height)
    first, *rest = images.frames
    info = PngInfo()
    for key, value in call.metadata.items():
        # The real node writes its own chunk here, not a text chunk.
        info.add(
            b"comf",
            key.encode("latin-1", "replace") + b"\0" + json.dumps(value).encode("latin-1"),
            after_idat=True,
        )
    speed = round(1000 / max(fps, 0.01))
    first.save(
        path, save_all=True, append_images=rest, duration=speed, compress_level=compress_level, pnginfo=info
    )
    return Result(ui={"images": [item], "animated": [True]})


@node("SaveWEBM", heavy=True)
def save_webm(call: Call, images: Images, filename_prefix: str, codec: str, fps: float, crf: float) -> Result:
    images = need_images(images, "images")
    path, item = _new(call, "output", filename_prefix, ".webm", images.width, images.height)
    containers.write_webm(path, images.frames, fps, call.metadata)
    return Result(ui={"images": [item], "animated": [True]})


@node("CreateVideo")
def create_video(call: Call, images: Images, fps: float, audio: Sound | None = None) -> Clip:
    return Clip(need_images(images, "images"), fps, audio)


@node("GetVideoComponents")
def components(call: Call, video: Clip) -> tuple[Any, ...]:
    return video.images, video.sound or Sound(1.0, recipe("silence")), float(video.rate)


@node("LoadVideo", changes=file_changed)
def load_video(call: Call, file: str) -> Clip:
    path = annotated(file, call.folders)
    if path is None or not path.is_file():
        raise FileNotFoundError(f"Invalid video file: {file}")
    text = recipe(path.name, path.stat().st_size)
    frames = tuple(pictures.background(text, 256, 256, step / 7) for step in range(8))
    return Clip(Images(frames), 8.0, path=str(path))


@node("VHS_LoadVideo", changes=file_changed)
def vhs_load(call: Call, video: str, **_rest: object) -> tuple[Any, ...]:
    clip = load_video(call, video)
    return (
        clip.images,
        len(clip.images.frames),
        Sound(1.0, recipe(video)),
        generic.make("VHS_VIDEOINFO", call, {}),
    )


@node("SaveVideo", heavy=True)
def save_video(call: Call, video: Clip, filename_prefix: str, **_rest: object) -> Result:
    if not isinstance(video, Clip):
        raise NodeFailure(
            "AttributeError", f"'{type(video).__name__}' object has no attribute 'get_dimensions'"
        )
    path, item = _new(call, "output", filename_prefix, ".mp4", video.images.width, video.images.height)
    containers.write_mp4(path, video.images.frames, video.rate, call.metadata)
    return Result(ui={"images": [item], "animated": [True]})


@node("VHS_VideoCombine", heavy=True)
def combine(
    call: Call,
    images: Images,
    frame_rate: float,
    loop_count: int,
    filename_prefix: str,
    format: str,
    pingpong: bool,
    save_output: bool,
    **_rest: object,
) -> Result:
    images = need_images(images, "images")
    frames = list(images.frames)
    if pingpong:
        frames += frames[-2:0:-1]
    kind = "output" if save_output else "temp"
    folder, name, counter, subfolder = place(call, kind, filename_prefix, images.width, images.height)
    suffix = {"image/gif": ".gif", "image/webp": ".webp"}.get(format, ".mp4")
    still, file = f"{name}_{counter:05}.png", f"{name}_{counter:05}{suffix}"
    write_png(frames[0], folder / still, call.metadata, 4)
    if suffix == ".mp4":
        containers.write_mp4(folder / file, frames, frame_rate, call.metadata)
    else:
        frames[0].save(
            folder / file,
            save_all=True,
            append_images=frames[1:],
            duration=round(1000 / frame_rate),
            loop=loop_count,
        )
    call.folders.took(folder, name, counter)
    item = {**entry(file, subfolder, kind), "format": format, "frame_rate": frame_rate, "workflow": still}
    item["fullpath"] = str(folder / file)
    return Result((f"{folder / file}",), ui={"gifs": [item]})


SOUNDS = {".flac": containers.silent_flac, ".mp3": containers.silent_mp3, ".opus": containers.silent_opus}


@node("EmptyAudio")
def empty_audio(call: Call, duration: float, sample_rate: int = 44_100, channels: int = 2) -> Sound:
    return Sound(float(duration), recipe("empty audio", duration))


@node("LoadAudio", changes=file_changed)
def load_audio(call: Call, audio: str) -> Sound:
    path = annotated(audio, call.folders)
    if path is None or not path.is_file():
        raise FileNotFoundError(f"Invalid audio file: {audio}")
    return Sound(1.0, recipe(path.name, path.stat().st_size))


@node("SaveAudio", "SaveAudioMP3", "SaveAudioOpus", "PreviewAudio", heavy=True)
def save_audio(call: Call, audio: Sound, filename_prefix: str = "audio/ComfyUI", quality: str = "") -> Result:
    """The sound is as long as it says and silent: that needs no encoder."""
    if not isinstance(audio, Sound):
        raise NodeFailure("TypeError", f"'{type(audio).__name__}' object is not subscriptable")
    name = call.cls.name
    suffix = {"SaveAudioMP3": ".mp3", "SaveAudioOpus": ".opus"}.get(name, ".flac")
    kind = "temp" if name == "PreviewAudio" else "output"
    if kind == "temp":
        filename_prefix = f"ComfyUI_temp_{call.engine.temp_letters(call.node_id, name)}"
    path, item = _new(call, kind, filename_prefix, suffix)
    path.write_bytes(SOUNDS[suffix](audio.seconds, call.metadata))
    return Result(ui={"audio": [item]})


@node("SaveSVGNode", heavy=True)
def save_svg(call: Call, svg: object = None, filename_prefix: str = "svg/ComfyUI") -> Result:
    path, item = _new(call, "output", filename_prefix, ".svg")
    text = f'<svg xmlns="http://www.w3.org/2000/svg" width="320" height="80"><text x="8" y="44">{pictures.NOTICE}</text></svg>'
    path.write_text(text, encoding="utf-8")
    return Result(ui={"images": [item]})
