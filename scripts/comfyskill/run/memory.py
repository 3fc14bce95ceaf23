"""What to change in a graph, or on its server, when a run needs more memory than there is."""

from __future__ import annotations

from comfyskill.base import foreign
from comfyskill.base.cli import SkillError
from comfyskill.base.programs import command
from comfyskill.graph import nodes
from comfyskill.server.facts import Facts, version_of
from comfyskill.server.protocol import Graph

Proposal = dict[str, str]  # {"use": a flag or an action, "why"}

# A smaller picture is useless; the step is the unit of the model families' latents.
SMALLEST_EDGE = 256
EDGE_STEP = 64
FEWEST_FRAMES = 17
FRAME_INPUTS = ("length", "num_frames", "frames")
# The first version that is known to have dynamic VRAM, which loads of a model what fits.
DYNAMIC_VRAM = (0, 33)
MODEL_INPUTS = (
    ("unet_name", "diffusion_models"),
    ("ckpt_name", "checkpoints"),
    ("clip_name", "text_encoders"),
)


def proposals(graph: Graph, server: Facts | None = None) -> list[Proposal]:
    """Concrete changes for this graph, the least painful first."""
    found: list[Proposal] = []
    if any(nodes.class_of(node) == "VAEDecode" for _, node in nodes.each(graph)):
        found.append(_proposal("--tiled-vae", "decode the picture in tiles: slower, far less memory"))
    for node_id, node in nodes.each(graph):
        inputs = nodes.inputs_of(node)
        found += _smaller_batch(node_id, inputs)
        found += _fewer_frames(node_id, inputs)
        found += _lower_precision(node_id, nodes.class_of(node), inputs, server)
    for node_id, node in nodes.each(graph):
        found += _smaller_size(node_id, nodes.inputs_of(node))
    return found or _elsewhere(server)


def _proposal(use: str, why: str) -> Proposal:
    return {"use": use, "why": why}


def _elsewhere(server: Facts | None) -> list[Proposal]:
    """What helps when the graph itself has nothing to make smaller."""
    smaller = _proposal("a smaller input picture", "this graph sets no size, batch or decoder of its own")
    if server is not None and server.api != "local":
        return [smaller]
    flags = server.flags if server is not None else []
    return [
        _proposal(
            command("manage_queue.py", "free", "--models", "--memory", *flags),
            "it frees what earlier runs left in memory; then run it again (--retry-oom does both)",
        ),
        smaller,
        _less_on_the_gpu(server),
    ]


def _less_on_the_gpu(server: Facts | None) -> Proposal:
    """The server's own flag: since dynamic VRAM, --lowvram does nothing."""
    version = version_of(server) if server is not None else ()
    if not version:
        use = "start the server with --vram-headroom 2 (before ComfyUI 0.33: --lowvram)"
    elif version >= DYNAMIC_VRAM:
        use = "start the server with --vram-headroom 2"
    else:
        use = "start the server with --lowvram"
    return _proposal(use, "it keeps more of the models in main memory: slower")


def _smaller_batch(node_id: str, inputs: nodes.Inputs) -> list[Proposal]:
    batch = foreign.whole(inputs.get("batch_size"))
    if batch is None or batch < 2:
        return []
    why = f"one picture at a time instead of {batch}; repeat with run_batch.py"
    return [_proposal(f"--set {node_id}.batch_size=1", why)]


def _fewer_frames(node_id: str, inputs: nodes.Inputs) -> list[Proposal]:
    for name in FRAME_INPUTS:
        frames = foreign.whole(inputs.get(name))
        if not frames:
            continue
        if frames <= FEWEST_FRAMES:
            return []
        # Video models count frames as 4 n + 1 or 8 n + 1; a number of the second kind suits both.
        fewer = max((frames * 6 // 10) // 8 * 8 + 1, FEWEST_FRAMES)
        return [_proposal(f"--set {node_id}.{name}={fewer}", f"{fewer} frames instead of {frames}")]
    return []


def _smaller_size(node_id: str, inputs: nodes.Inputs) -> list[Proposal]:
    width, height = foreign.whole(inputs.get("width")), foreign.whole(inputs.get("height"))
    if width is None or height is None or min(width, height) <= SMALLEST_EDGE:
        return []
    smaller = [max(edge * 3 // 4 // EDGE_STEP * EDGE_STEP, SMALLEST_EDGE) for edge in (width, height)]
    return [
        _proposal(
            f"--set {node_id}.width={smaller[0]} --set {node_id}.height={smaller[1]}",
            f"{smaller[0]} x {smaller[1]} instead of {width} x {height}",
        )
    ]


def _lower_precision(
    node_id: str, class_type: str, inputs: nodes.Inputs, server: Facts | None
) -> list[Proposal]:
    """An fp8 file of the same model when it is installed, else the loader's own fp8 switch."""
    for name, folder in MODEL_INPUTS:
        current = inputs.get(name)
        if not isinstance(current, str) or "fp8" in current.lower():
            continue
        family = _family(current)
        for other in _installed(server, folder):
            if "fp8" in other.lower() and _file_name(other).startswith(family):
                return [
                    _proposal(
                        f"--set {node_id}.{name}={other}", "the fp8 file of the same model is installed"
                    )
                ]
    if class_type == "UNETLoader" and inputs.get("weight_dtype") == "default":
        why = "load the model in 8 bits: half the memory"
        return [_proposal(f"--set {node_id}.weight_dtype=fp8_e4m3fn", why)]
    return []


def _file_name(path: str) -> str:
    return path.rsplit("/", 1)[-1].lower()


def _family(path: str) -> str:
    """A model's name without suffix and precision: `flux1-dev_fp16.safetensors` -> `flux1-dev`."""
    stem = _file_name(path).split(".")[0]
    for precision in ("_fp16", "-fp16", "_bf16"):
        stem = stem.replace(precision, "")
    return stem


def _installed(server: Facts | None, folder: str) -> list[str]:
    if server is None:
        return []
    try:
        return server.models(folder)
    except SkillError:
        return []
