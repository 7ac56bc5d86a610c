#!/usr/bin/env bash
# PyTorch for the CPU in an environment of its own, target/compare/venv. Does nothing where that is there.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${CARGO_TARGET_DIR:-target}/compare/venv
if cmp -s compare/requirements.txt "$venv/installed.txt"; then
    exit 0
fi
missing=$(for tool in python3 cc readelf nm; do command -v $tool >/dev/null || echo $tool; done)
if [ -n "$missing" ] || ! python3 -c "import venv, ensurepip" 2>/dev/null; then
    echo "compare: needs python3 with venv, a C compiler and binutils; on Debian: apt-get install python3-venv gcc binutils" >&2
    exit 1
fi
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement compare/requirements.txt
"$venv/bin/python" compare/cuda_stubs.py
"$venv/bin/python" -c 'import torch; print("PyTorch", torch.__version__)'
cp compare/requirements.txt "$venv/installed.txt"
