#!/usr/bin/env bash
# Losses, gradients and step times beside PyTorch; PyTorch is for this comparison only. Run by `make compare`.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
bash compare/setup.sh
"$target/compare/venv/bin/python" compare/images_peer.py "$target/release/partita"
"$target/compare/venv/bin/python" compare/curves.py "$target/release/partita"
exec "$target/compare/venv/bin/python" compare/compare.py "$target/release/partita"
