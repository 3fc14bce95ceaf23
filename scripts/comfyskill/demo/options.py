"""The demo server's options: one frozen value that every module reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What `--version` takes, and the version that the server then reports.
VERSIONS = {"0.33": "0.33.0", "0.8": "0.8.0"}
PREVIEW_METHODS = ("none", "auto", "latent2rgb", "taesd")
TIERS = ("free", "standard", "creator", "pro")


@dataclass(frozen=True)
class Options:
    """The command line, checked. Times are seconds, sizes are bytes unless the name says otherwise."""

    host: str = "127.0.0.1"
    port: int = 8188
    version: str = "0.33"
    preview_method: str = "none"
    cloud: bool = False
    tier: str = "standard"
    api_key: str | None = None
    step_time: float = 0.02
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    definitions: Mapping[str, Any] = field(default_factory=dict)
    output_dir: Path | None = None
    input_dir: Path | None = None
    history_size: int = 10_001
    max_upload_mb: float = 100
    max_upload_given: bool = False
    exit_with_parent: bool = False

    @property
    def newest(self) -> bool:
        """Whether the server behaves as 0.33; else as 0.8."""
        return self.version == "0.33"

    @property
    def max_upload(self) -> int:
        return round(self.max_upload_mb * 1024 * 1024)
