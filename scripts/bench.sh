#!/usr/bin/env bash
# Step times of one model under several layouts, measured beside predicted, in one table. Each figure is the median of a
# run's steps without the first. Usage: scripts/bench.sh [MODEL] (gpt by default), STEPS=12 by default.
set -euo pipefail
cd "$(dirname "$0")/.."

partita=${CARGO_TARGET_DIR:-target}/release/partita
model=${1:-gpt}
steps=${STEPS:-12}
settings=(--set layers=4 --set hidden=256 --set heads=4 --set ffn=1024 --set vocab=8192 --set seq=256 --set batch=8 --set precision=f32)
mkdir -p target/bench

# median FILE KEY: of the numbers under that key, the first line left out
median() {
    tail -n +2 "$1" | grep -o "\"$2\":[^,}]*" | cut -d: -f2 | sort -g |
        awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

printf '%-28s %10s %10s %12s\n' "$model, $(nproc) cores" 'measured s' 'predict. s' 'tokens/s'
while read -r cluster threads pins; do
    name="$cluster-${pins//[=,]/}"
    log=target/bench/$model-$name.jsonl
    "$partita" compile "models/$model.partita" --cluster "clusters/$cluster.toml" "${settings[@]}" --pin "$pins" \
        -o "target/bench/$model-$name" >/dev/null
    "$partita" run "target/bench/$model-$name" --steps "$steps" --threads "$threads" --log "$log" >/dev/null
    printf '%-28s %10.4f %10.4f %12.0f\n' "$cluster $pins" "$(median "$log" seconds)" "$(median "$log" predicted_seconds)" \
        "$(median "$log" tokens_per_second)"
done <<'LAYOUTS'
local-1 2 dp=1
local-2 1 dp=2
local-2 1 tp=2
local 1 dp=4
local 1 tp=4
local-8 1 dp=8,zero=1
local-8 1 tp=8
local-8 1 dp=4,tp=2
LAYOUTS
