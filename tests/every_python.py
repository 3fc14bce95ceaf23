#!/usr/bin/env python3
"""Check the scripts with every Python from 3.10 to 3.14 that this machine has.

Examples:
    python3 tests/every_python.py
    python3 tests/every_python.py 3.10 3.14
    python3 tests/every_python.py --quick
    python3 tests/every_python.py --oldest 3.10
    python3 tests/every_python.py --suite 3.10

Each is looked for as pythonX.Y on PATH and below pyenv's folder. --quick, without any package: all files are compiled
and all modules that need none are imported. Otherwise a virtual environment is made for each in a temporary folder
(packages come through pip) and there all modules are imported, every command prints its help, and a workflow runs on the
demo server. --oldest takes the oldest packages that requirements.txt allows; --suite runs the fast tests there.

Exit codes: 0 all fine, 1 something failed, 2 misuse, or none of these Pythons is here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "scripts"
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
COMMANDS = [path.name for path in sorted(SCRIPTS.glob("*.py")) if not path.name.startswith("_")]
COMPILE_ALL = """
import pathlib, sys
for path in [*pathlib.Path(sys.argv[1]).rglob("*.py"), pathlib.Path(sys.argv[1]).parent / "install.py"]:
    compile(path.read_bytes(), str(path), "exec")
"""
IMPORT_ALL = """
import importlib, pathlib, sys, warnings
warnings.simplefilter("error", SyntaxWarning)
scripts, packages = pathlib.Path(sys.argv[1]), sys.argv[2] == "with packages"
sys.path.insert(0, str(scripts))
for path in [*scripts.glob("*.py"), *scripts.glob("comfyskill/**/*.py")]:
    try:
        importlib.import_module(".".join(path.relative_to(scripts).with_suffix("").parts).removesuffix(".__init__"))
    except ModuleNotFoundError as error:
        if packages or error.name not in ("requests", "urllib3", "websocket", "tqdm", "PIL", "aiohttp", "certifi"):
            raise
"""


def find(version: str) -> str | None:
    """The interpreter of a version that works, or None."""
    candidates = [shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates += [str(path) for path in sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)]
    for program in filter(None, candidates):
        # What pyenv puts on PATH stands for versions that are not chosen, too.
        done = subprocess.run(
            [program, "-c", "import sys; print(sys.version)"], capture_output=True, text=True
        )
        if done.returncode == 0 and done.stdout.startswith(version + "."):
            return program
    return None


def quick(python: str) -> str | None:
    """What is wrong without any package, or None."""
    return failure(python, "-c", COMPILE_ALL, SCRIPTS) or failure(
        python, "-B", "-c", IMPORT_ALL, SCRIPTS, "without packages"
    )


def failure(*words: object, **options: object) -> str | None:
    """The end of what a command said when it failed, else None."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    return None if done.returncode == 0 else f"{words[1:3]}: {(done.stderr or done.stdout)[-600:]}"


def thorough(python: str, folder: Path, requirements: list[str]) -> str | None:
    """What is wrong in an environment with the packages, or None."""
    inside = environment(python, folder, requirements)
    wrong = failure(inside, "-B", "-c", IMPORT_ALL, SCRIPTS, "with packages")
    for name in COMMANDS:
        wrong = wrong or failure(inside, SCRIPTS / name, "--help")
    return wrong or demo_run(inside, folder)


def environment(python: str, folder: Path, requirements: list[str]) -> str:
    """The interpreter of a fresh virtual environment with these packages."""
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [str(inside), "-m", "pip", "install", "-q", "--disable-pip-version-check", *requirements]
    subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
    return str(inside)


def demo_run(python: str, folder: Path) -> str | None:
    """One workflow on the demo server: through socket, history and download to a picture that can be opened."""
    words = [python, SCRIPTS / "run_workflow.py", ROOT / "workflows" / "sd15_txt2img.json", "--set", "steps=3",
             "--host", "demo", "--output-dir", folder / "out"]  # fmt: skip
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120)
    if done.returncode:
        return f"demo run: {done.stdout[-600:]}{done.stderr[-600:]}"
    files = json.loads(done.stdout)["outputs"]
    return (
        None if files and all(Path(file["file"]).stat().st_size for file in files) else "demo run: no files"
    )


def oldest() -> list[str]:
    """The packages of requirements.txt at their lower bounds."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [
        f"{found[1]}=={found[2]}.*"
        for found in (re.match(r"([\w-]+)>=([\d.]+)", line) for line in lines)
        if found
    ]


def suite(python: str, folder: Path) -> str | None:
    """The fast tests in an environment of their own; their output is shown."""
    inside = environment(python, folder, ["-r", str(ROOT / "requirements-dev.txt")])
    done = subprocess.run([inside, "-m", "pytest", "-q", "-n", "4", "-p", "no:cacheprovider"], cwd=ROOT)
    return None if done.returncode == 0 else "the tests failed"


def check(python: str, args: argparse.Namespace) -> str | None:
    """What is wrong with one interpreter, or None."""
    wrong = quick(python)
    if wrong or args.quick:
        return wrong
    with tempfile.TemporaryDirectory(prefix="python-") as name:
        if args.suite:
            return suite(python, Path(name))
        packages = oldest() if args.oldest else ["-r", str(ROOT / "requirements.txt")]
        return thorough(python, Path(name), packages)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("versions", nargs="*", metavar="X.Y", help="default: all that are at hand")
    parser.add_argument("--quick", action="store_true", help="without packages: compile and import")
    parser.add_argument("--oldest", action="store_true", help="with the oldest packages that are allowed")
    parser.add_argument("--suite", action="store_true", help="the fast tests, too")
    args = parser.parse_args(argv)
    found = {version: find(version) for version in args.versions or VERSIONS}
    code = 0 if any(found.values()) else 2
    for version, python in found.items():
        wrong = None if python is None else check(python, args)
        print(f"{version}  {'not here' if python is None else wrong or 'fine'}", flush=True)
        code = 1 if wrong else code
    return code


if __name__ == "__main__":
    sys.exit(main())
