"""What a run-time failure means and what to try next: a table of common errors.

Pure: from the exception's type and message to a stable code, a cause in plain words and next steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Diagnosis(NamedTuple):
    """`code` is stable; `cause` one sentence; `hint` the first thing to try."""

    code: str
    cause: str
    hint: str


FRAME = re.compile(r'\s*File "')
# (pattern over "exception type: message", case ignored) -> diagnosis. The first match wins.
KNOWN: list[tuple[str, Diagnosis]] = [
    (
        r"OutOfMemory|OOMError|out of memory|alloc\w* .*failed|not enough memory|DefaultCPUAllocator|^\S*: allocation on device",
        Diagnosis(
            "out_of_memory",
            "the device ran out of memory",
            "lower size or batch_size, or use tiled VAE decode; on your own ComfyUI also free the models "
            "(manage_queue.py free --models --memory)",
        ),
    ),
    (
        r"please login first|Unauthorized.*(login|api key)|Invalid Comfy API key",
        Diagnosis(
            "partner_login",
            "a partner (paid API) node got no account key",
            "give --partner-key or $COMFY_PARTNER_KEY: a key of the Comfy account, apart from the server's own key",
        ),
    ),
    (
        r"InsufficientFunds|insufficient (funds|credits)|Payment Required|add credits",
        Diagnosis(
            "no_credits", "the account has no credits for a paid node", "add credits; nothing was repeated"
        ),
    ),
    (
        r"InactiveSubscription",
        Diagnosis(
            "no_subscription", "the account has no active subscription", "subscribe or renew, then run again"
        ),
    ),
    (
        r"ModelDownloadError",
        Diagnosis(
            "model_download", "the cloud could not fetch a model", "try again later, or choose another model"
        ),
    ),
    (
        r"ImageDownloadError",
        Diagnosis(
            "input_download",
            "the cloud could not fetch an input file",
            "upload the input again and use that name",
        ),
    ),
    (
        r"(PanicError|ServiceError|DispatcherError|WebSocketError)\b",
        Diagnosis("cloud_fault", "the cloud itself failed, not the workflow", "run it once more"),
    ),
    (
        r"UnidentifiedImage|cannot identify image|image file is truncated|broken data stream|Invalid data found when processing",
        Diagnosis(
            "bad_image",
            "an input picture or video cannot be read",
            "open and save it again as PNG, then upload it",
        ),
    ),
    (
        r"HeaderTooLarge|HeaderTooSmall|MetadataIncompleteBuffer|InvalidHeaderDeserialization|incomplete metadata|UnpicklingError"
        r"|PytorchStreamReader|invalid load key|Error while deserializing header",
        Diagnosis(
            "broken_model", "a model file is damaged or was not downloaded whole", "download that model again"
        ),
    ),
    (
        r"Could not detect model type|state dict.*unknown|ERROR: clip input is invalid: None|clip is None|VAE is invalid: None",
        Diagnosis(
            "wrong_loader",
            "a file does not hold what its loader expects (a checkpoint without CLIP or VAE, or a wrong folder)",
            "load CLIP and VAE with their own loaders, or use the loader that fits the file",
        ),
    ),
    (
        r"mat1 and mat2|shapes? cannot be multiplied|size mismatch|Given groups=|expected input.* to have \d+ channels"
        r"|The size of tensor a|Sizes of tensors must match|Error\(s\) in loading state_dict|invalid for input of size",
        Diagnosis(
            "family_mismatch",
            "tensor shapes do not match: parts of different model families (SD1.5, SDXL, Flux …) are mixed, or sizes differ",
            "use checkpoint, LoRA, ControlNet, VAE and text encoder of one family, and equal picture and mask sizes",
        ),
    ),
    (
        r"FileNotFoundError|No such file or directory|does not exist|not found in|Cannot find",
        Diagnosis(
            "missing_file",
            "a file that a node needs is not on the server",
            "run check_deps.py on the workflow",
        ),
    ),
    (
        r"ModuleNotFoundError|ImportError|No module named",
        Diagnosis(
            "import_failure",
            "a node pack lacks a Python package on the server",
            "reinstall that node pack with its requirements, then restart the server",
        ),
    ),
    (
        r"CUDA error|no kernel image|device-side assert|cuDNN|HIP error|not compiled with CUDA",
        Diagnosis(
            "device_error",
            "the GPU or its driver failed",
            "restart the server; if it repeats, check driver and PyTorch",
        ),
    ),
    (
        r"not implemented for '?Half|expected scalar type|dtype|BFloat16|Float8",
        Diagnosis(
            "dtype",
            "the device cannot compute in this number format",
            "choose another weight_dtype or model precision",
        ),
    ),
    (
        r"Required input is missing|missing \d+ required positional|got an unexpected keyword|unexpected keyword argument",
        Diagnosis(
            "node_version",
            "a node was called with inputs that it does not have",
            "update the node pack, or rebuild the node",
        ),
    ),
    (
        r"timed? ?out|TimeoutError|ConnectionError|Connection refused|Max retries exceeded|ClientConnector|getaddrinfo",
        Diagnosis(
            "server_network",
            "a node on the server could not reach another service",
            "check the server's own network",
        ),
    ),
    (
        r"No space left|Errno 28",
        Diagnosis("server_disk_full", "the server's disk is full", "free space on the server"),
    ),
    (
        r"ExecutionBlocked",
        Diagnosis("blocked", "a node rejected its input", "see the message for what it requires"),
    ),
]
UNKNOWN = Diagnosis(
    "execution_error",
    "a node failed",
    "see the node's inputs and the traceback (fetch_logs.py PROMPT_ID --full)",
)


# ComfyUI's functions that call a node's own function: a wrong call of that one fails in them.
CALLERS = "process_inputs|async_wrapper|map_node_over_list|EXECUTE_NORMALIZED|EXECUTE_NORMALIZED_ASYNC"


def diagnose(exception_type: str, message: str, traceback: Sequence[str] = ()) -> Diagnosis:
    """The diagnosis for a failure; `execution_error` when it is none of the known ones.

    traceback: as the server reports it, the innermost frame last; empty where it reports none.
    """
    text = f"{exception_type}: {message}"[:20_000]
    for pattern, diagnosis in KNOWN:
        if re.search(pattern, text, re.I) and (
            diagnosis.code != "node_version" or _called_the_node(text, traceback)
        ):
            return diagnosis
    return UNKNOWN


def _called_the_node(text: str, traceback: Sequence[str]) -> bool:
    """Whether the wrong call was the one of the node's own function, not one deep inside it."""
    frames = [line for entry in traceback for line in entry.splitlines() if FRAME.match(line)]
    if not frames or "Required input is missing" in text:
        return True
    return re.search(rf", in (?:\w+\.)*(?:{CALLERS})$", frames[-1].strip()) is not None
