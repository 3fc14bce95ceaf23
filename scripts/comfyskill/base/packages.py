"""The Python packages that the scripts need, and the commands that install them for this Python.

Imports only the standard library: it answers when nothing else can be imported.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

# What `import NAME` of a missing package means to pip; the last three come with requests.
PACKAGES = {
    "requests": "requests", "websocket": "websocket-client", "tqdm": "tqdm", "PIL": "pillow", "aiohttp": "aiohttp",
    "urllib3": "requests", "certifi": "requests", "idna": "requests",
}  # fmt: skip
ROOT = Path(__file__).resolve().parents[3]
PIP = ("-m", "pip", "install")


def install_commands(root: Path = ROOT) -> list[list[str]]:
    """The commands that install the packages for the skill at `root`, one after the other.

    Into this Python where that is allowed. The system's own Python (PEP 668) refuses, so there they make a virtual
    environment in the skill's folder: run the scripts with `interpreter(root)` from then on.
    """
    listed = str(root / "requirements.txt")
    if not needs_environment():
        return [[sys.executable or "python3", *PIP, "-r", listed]]
    venv, python = str(root / ".venv"), interpreter(root)
    if shutil.which("uv"):
        make, fill = ["uv", "venv", venv], ["uv", "pip", "install", "--python", python, "-r", listed]
    else:
        make, fill = [sys.executable or "python3", "-m", "venv", venv], [python, *PIP, "-r", listed]
    return [fill] if Path(python).exists() else [make, fill]


def interpreter(root: Path = ROOT) -> str:
    """The Python that has the packages once `install_commands` have run."""
    if not needs_environment():
        return sys.executable or "python3"
    return str(root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def needs_environment() -> bool:
    """Whether packages cannot be installed into this Python: the system manages it, and it is no virtual environment."""
    managed = Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").is_file()
    return managed and sys.prefix == sys.base_prefix
