#!/usr/bin/env bash
# The whole line at once: a model file and a cluster file become a plan and programs, which train on this project's own
# source text. Shows the plan, the falling loss, and predicted beside measured. Run by `make demo`, after a build.
set -euo pipefail
cd "$(dirname "$0")/.."

partita=${CARGO_TARGET_DIR:-target}/release/partita
steps=${STEPS:-60}
out=target/demo
data=target/demo-source.txt

show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# sorted, so that the same tree gives the same bytes
find Cargo.toml README.md ARCHITECTURE.md docs models clusters src frontend ir planner codegen runtime tests \
    -type f \( -name '*.rs' -o -name '*.md' -o -name '*.toml' -o -name '*.partita' \) -print0 |
    LC_ALL=C sort -z | xargs -0 cat >"$data"
echo "$(wc -c <"$data") bytes of source text in $data"

# Without --pin the search decides alone; the pins make sure that there is something to see of both parallelisms.
show "$partita" compile models/gpt.partita --cluster clusters/local.toml \
    --set layers=4 --set hidden=128 --set heads=4 --set ffn=512 --set vocab=256 --set seq=128 --set batch=16 --set lr=1e-3 \
    --pin dp=2,tp=2 -o "$out"
show "$partita" inspect "$out"
show "$partita" run "$out" --steps "$steps" --data "$data" --seed 1 --log target/demo.jsonl
