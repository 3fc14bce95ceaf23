#!/bin/sh
# Finds a Python (3.10 or newer) and runs comfyui_setup.py with it. All flags are that script's: --help lists them.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
for python in python3 python python3.14 python3.13 python3.12 python3.11 python3.10; do
    if command -v "$python" >/dev/null 2>&1 &&
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; then
        exec "$python" "$here/comfyui_setup.py" "$@"
    fi
done

printf '%s\n' '{"status": "error", "code": "python_missing", "message": "no Python 3.10 or newer was found", "hint": "install Python 3.10 or newer (python.org, or your package manager), then run this again", "retryable": false}'
exit 1
